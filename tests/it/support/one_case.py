"""Mounts SOURCE at TARGET as a file system to which names that differ only in case, or in how accents are composed, are one name."""

import errno
import os
import sys
import unicodedata

import fuse


def folded(name):
    return unicodedata.normalize("NFC", name).casefold()


class OneCase(fuse.Operations):
    def __init__(self, source):
        self.source = source

    def __call__(self, operation, *arguments):
        try:
            return getattr(self, operation)(*arguments)
        except OSError as error:
            raise fuse.FuseOSError(error.errno) from error
        except AttributeError:
            raise fuse.FuseOSError(errno.ENOSYS) from None

    def place(self, path, spelled=False):
        """The path in SOURCE; with `spelled`, the last name as it is given."""
        names = [name for name in path.split("/") if name]
        place = self.source
        for at, name in enumerate(names):
            if not (spelled and at + 1 == len(names)) and os.path.isdir(place):
                same = [other for other in os.listdir(place) if folded(other) == folded(name)]
                name = same[0] if same else name
            place = os.path.join(place, name)
        return place

    def getattr(self, path, handle=None):
        found = os.lstat(self.place(path))
        names = "atime ctime mtime mode nlink size uid gid ino blocks"
        return {f"st_{name}": getattr(found, f"st_{name}") for name in names.split()}

    def readdir(self, path, handle):
        return [".", "..", *os.listdir(self.place(path))]

    def rename(self, old, new):
        old, target = self.place(old), self.place(new)
        os.rename(old, self.place(new, spelled=True) if target == old else target)

    def link(self, new, old):
        os.link(self.place(old), self.place(new))

    def symlink(self, new, target):
        os.symlink(target, self.place(new))

    def readlink(self, path):
        return os.readlink(self.place(path))

    def mkdir(self, path, mode):
        os.mkdir(self.place(path), mode)

    def rmdir(self, path):
        os.rmdir(self.place(path))

    def unlink(self, path):
        os.unlink(self.place(path))

    def chmod(self, path, mode):
        os.chmod(self.place(path), mode)

    def chown(self, path, user, group):
        os.lchown(self.place(path), user, group)

    def utimens(self, path, times=None):
        os.utime(self.place(path), times, follow_symlinks=False)

    def truncate(self, path, length, handle=None):
        os.truncate(self.place(path), length)

    def open(self, path, flags):
        return os.open(self.place(path), flags)

    def create(self, path, mode, info=None):
        return os.open(self.place(path), os.O_RDWR | os.O_CREAT, mode)

    def read(self, path, size, offset, handle):
        return os.pread(handle, size, offset)

    def write(self, path, data, offset, handle):
        return os.pwrite(handle, data, offset)

    def flush(self, path, handle):
        pass

    def fsync(self, path, data_only, handle):
        os.fsync(handle)

    def release(self, path, handle):
        os.close(handle)


os.umask(0)
options = {"entry_timeout": 0, "attr_timeout": 0, "negative_timeout": 0, "use_ino": True, "default_permissions": True}
fuse.FUSE(OneCase(sys.argv[1]), sys.argv[2], foreground=False, nothreads=True, **options)
