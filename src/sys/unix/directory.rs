//! Works on the entries of an open directory, and opens directories and files below it without following a link.
//!
//! A path is resolved once, by the kernel (`openat2`), or component by component. If another user replaces a directory afterwards,
//! that changes nothing: every call names an open directory and one name in it.

#[cfg(test)]
mod tests;

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
        unix::ffi::{OsStrExt as _, OsStringExt as _},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags},
    io::Errno,
};

use super::{file::unleased, lookup::found};
#[cfg(target_os = "linux")]
use rustix::fs::ResolveFlags;

use crate::sys::{Access, FileId, Found, why_outside};

/// An open directory. On Linux its owner needs no permission to read it.
#[derive(Debug)]
pub(crate) struct Directory(OwnedFd);

impl Directory {
    /// Opens a directory by its path; links in it are followed.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(rustix::fs::open(path, HANDLE | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?))
    }

    /// Opens a directory below this one. A link on the way is an error, as is a path that leads out.
    pub(crate) fn below(&self, path: &Path) -> io::Result<Self> {
        open_below(self.0.as_fd(), path, HANDLE | OFlags::DIRECTORY).map(Self)
    }

    /// Opens a file or directory of any kind in this one for changing its mode and owner. A link is not followed.
    pub(crate) fn pin(&self, name: &OsStr) -> io::Result<File> {
        Ok(rustix::fs::openat(&self.0, name, HANDLE | NO_LINK, Mode::empty())?.into())
    }

    /// Another descriptor of this directory, for changing its mode.
    pub(crate) fn pin_itself(&self) -> io::Result<File> {
        Ok(self.0.try_clone()?.into())
    }

    /// The metadata of an entry. Links are not followed.
    pub(crate) fn look(&self, name: &OsStr) -> io::Result<Found> {
        Ok(found(&rustix::fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW)?))
    }

    /// The metadata of this directory.
    pub(crate) fn found(&self) -> io::Result<Found> {
        Ok(found(&rustix::fs::fstat(&self.0)?))
    }

    /// Opens an entry for reading.
    pub(crate) fn read(&self, name: &OsStr) -> io::Result<File> {
        self.open_file(name, Access::Read)
    }

    /// Opens an entry. Does not follow links and does not block on a FIFO.
    pub(crate) fn open_file(&self, name: &OsStr, access: Access) -> io::Result<File> {
        unleased(|| Ok(rustix::fs::openat(&self.0, name, access.flags() | NO_LINK, Mode::empty())?.into()))
    }

    /// Creates a file for reading and writing in a free place, with at most these permission bits.
    pub(crate) fn create(&self, name: &OsStr, mode: u32) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | NO_LINK;
        Ok(rustix::fs::openat(&self.0, name, flags, bits(mode))?.into())
    }

    /// The target of a link.
    pub(crate) fn read_link(&self, name: &OsStr) -> io::Result<PathBuf> {
        let target = rustix::fs::readlinkat(&self.0, name, Vec::new())?;
        Ok(OsString::from_vec(target.into_bytes()).into())
    }

    /// Names of all entries, in no order.
    pub(crate) fn names(&self) -> io::Result<Vec<OsString>> {
        self.names_if(|_| true)
    }

    /// Tells whether this process may remove entries.
    pub(crate) fn may_be_changed(&self) -> bool {
        let access = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
        rustix::fs::accessat(&self.0, ".", access, AtFlags::EACCESS).is_ok()
    }

    /// Names of the entries of other kinds than file, directory and link, or of unknown kind.
    pub(crate) fn special_names(&self) -> io::Result<Vec<OsString>> {
        self.names_if(|kind| !matches!(kind, FileType::RegularFile | FileType::Directory | FileType::Symlink))
    }

    /// Reports the name of each entry, in no order, and whether it is a directory; `false` if the file system does not tell.
    pub(crate) fn each_entry(&self, mut report: impl FnMut(&OsStr, bool)) -> io::Result<()> {
        self.each(|name, kind| report(OsStr::from_bytes(name), kind == FileType::Directory))
    }

    fn names_if(&self, is_wanted: impl Fn(FileType) -> bool) -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        self.each(|name, kind| names.extend(is_wanted(kind).then(|| OsString::from_vec(name.to_vec()))))?;
        Ok(names)
    }

    fn each(&self, mut report: impl FnMut(&[u8], FileType)) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        for entry in rustix::fs::Dir::new(rustix::fs::openat(&self.0, c".", flags, Mode::empty())?)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                report(name, entry.file_type());
            }
        }
        Ok(())
    }

    /// Renames an entry, over a file or an empty directory that has the name.
    pub(crate) fn rename(&self, name: &OsStr, to: &Self, to_name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.0, name, &to.0, to_name)?)
    }

    /// Renames an entry in this directory, and fails if something has the name: in one step. Other errors than `AlreadyExists` may mean
    /// that the file system cannot do that.
    pub(crate) fn rename_new(&self, name: &OsStr, to: &OsStr) -> io::Result<()> {
        #[cfg(any(target_os = "linux", target_os = "macos"))]
        return Ok(rustix::fs::renameat_with(&self.0, name, &self.0, to, rustix::fs::RenameFlags::NOREPLACE)?);
        #[cfg(not(any(target_os = "linux", target_os = "macos")))]
        {
            let _ = (name, to);
            Err(io::ErrorKind::Unsupported.into())
        }
    }

    /// Gives an entry a second name. A link is not followed.
    pub(crate) fn link(&self, name: &OsStr, to: &Self, to_name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::linkat(&self.0, name, &to.0, to_name, AtFlags::empty())?)
    }

    /// Which file an entry is.
    pub(crate) fn identity(&self, name: &OsStr) -> io::Result<FileId> {
        Ok(super::identity(&self.pin(name)?.metadata()?))
    }

    /// Removes an entry of another kind than directory.
    pub(crate) fn remove(&self, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.0, name, AtFlags::empty())?)
    }

    /// Removes an empty directory.
    pub(crate) fn remove_directory(&self, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.0, name, AtFlags::REMOVEDIR)?)
    }

    /// Creates a directory with at most these permission bits.
    pub(crate) fn make_directory(&self, name: &OsStr, mode: u32) -> io::Result<()> {
        Ok(rustix::fs::mkdirat(&self.0, name, bits(mode))?)
    }

    /// Creates a symbolic link.
    pub(crate) fn make_link(&self, target: &Path, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::symlinkat(target, &self.0, name)?)
    }

    /// Creates a FIFO with at most these permission bits.
    pub(crate) fn make_fifo(&self, name: &OsStr, mode: u32) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        rustix::fs::mknodat(&self.0, name, FileType::Fifo, bits(mode), 0)?;
        #[cfg(not(target_os = "linux"))]
        mkfifoat(&self.0, name, mode)?;
        Ok(())
    }

    /// Creates a socket that nobody listens at. Only on Linux can that be done in an open directory.
    pub(crate) fn make_socket(&self, name: &OsStr) -> io::Result<()> {
        let path = Path::new("/proc/self/fd").join(self.0.as_raw_fd().to_string()).join(name);
        std::os::unix::net::UnixListener::bind(path).map(drop)
    }

    /// Gives an entry of this user's to another user; a link itself, not what it points to.
    ///
    /// The entry must be of the expected kind and have one name only: a user who may write to this directory may have put another
    /// one in its place.
    pub(crate) fn give(&self, name: &OsStr, kind: u32, owner: (u32, u32)) -> io::Result<()> {
        let pinned = match self.pin(name) {
            // A link can be opened on Linux only.
            Err(error) if is_link_error(&error) => {
                let (user, group) = self::owner(owner);
                return Ok(rustix::fs::chownat(&self.0, name, user, group, AtFlags::SYMLINK_NOFOLLOW)?);
            }
            pinned => pinned?,
        };
        let is = found(&rustix::fs::fstat(&pinned)?);
        let is_ours = is.kind() == kind && is.owner.0 == super::effective_user() && (is.is_dir() || is.links == 1);
        if !is_ours {
            return Err(io::Error::other("somebody else put another file in its place"));
        }
        give_to(&pinned, owner)
    }

    /// Sets the permission bits of an entry, which must not be a link.
    pub(crate) fn set_mode(&self, name: &OsStr, mode: u32) -> io::Result<()> {
        set_mode(&self.pin(name)?, mode)
    }

    /// Writes the names in this directory to disk.
    pub(crate) fn sync(&self) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(rustix::fs::fsync(rustix::fs::openat(&self.0, c".", flags, Mode::empty())?)?)
    }
}

/// Does not follow a link in the last component, or block on a FIFO.
const NO_LINK: OFlags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);
/// To name a file, not to read it.
#[cfg(target_os = "linux")]
const HANDLE: OFlags = OFlags::PATH;
#[cfg(not(target_os = "linux"))]
const HANDLE: OFlags = OFlags::RDONLY;

impl Access {
    fn flags(self) -> OFlags {
        match self {
            Self::Read => OFlags::RDONLY,
            Self::Write => OFlags::RDWR,
            Self::Append => OFlags::RDWR | OFlags::APPEND,
        }
    }
}

/// Opens a file by a path without links, in one call; `None` if the kernel cannot do that.
pub(crate) fn open_unlinked(path: &Path, access: Access) -> Option<io::Result<File>> {
    #[cfg(target_os = "linux")]
    {
        let no_links = ResolveFlags::NO_SYMLINKS;
        let opened = resolve(rustix::fs::CWD, path, access.flags() | NO_LINK, no_links)?;
        Some(opened.map(File::from))
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (path, access);
        None
    }
}

/// Opens what is below a directory without following any link.
fn open_below(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    if let Some(why) = why_outside(path.as_os_str().as_bytes()) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    #[cfg(target_os = "linux")]
    if let Some(opened) = resolve(root, path, flags, ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS) {
        return opened;
    }
    walk(root, path, flags)
}

/// Lets the kernel resolve the path; `None` if it cannot, or a sandbox forbids it.
#[cfg(target_os = "linux")]
fn resolve(root: BorrowedFd<'_>, path: &Path, flags: OFlags, how: ResolveFlags) -> Option<io::Result<OwnedFd>> {
    use std::sync::atomic::{AtomicBool, Ordering};

    /// A rename anywhere may make the kernel fail; it does not do so many times in a row.
    const TRIES: usize = 16;
    static IS_MISSING: AtomicBool = AtomicBool::new(false);
    for _ in 0..TRIES {
        if IS_MISSING.load(Ordering::Relaxed) {
            return None;
        }
        match rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), how) {
            Err(Errno::AGAIN) => {}
            Err(Errno::NOSYS) => IS_MISSING.store(true, Ordering::Relaxed),
            Err(Errno::PERM) => return None,
            opened => return Some(opened.map_err(io::Error::from)),
        }
    }
    None
}

/// Opens one directory after the other.
fn walk(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let mut above: Option<OwnedFd> = None;
    let mut names = path.as_os_str().as_bytes().split(|byte| *byte == b'/').peekable();
    loop {
        let name = names.next().ok_or(Errno::INVAL)?;
        let is_last = names.peek().is_none();
        let flags = if is_last { flags } else { HANDLE | OFlags::DIRECTORY };
        let from = above.as_ref().map_or(root, AsFd::as_fd);
        let opened = rustix::fs::openat(from, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
        // A link is not a directory, and not missing, either.
        let is_link = || {
            let found = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW);
            found.is_ok_and(|found| FileType::from_raw_mode(found.st_mode) == FileType::Symlink)
        };
        let opened = match opened {
            Err(Errno::NOTDIR) if is_link() => return Err(Errno::LOOP.into()),
            opened => opened?,
        };
        if is_last {
            return Ok(opened);
        }
        above = Some(opened);
    }
}

/// Sets the permission bits of what is open, also of what cannot be read.
pub(crate) fn set_mode(file: &impl AsFd, mode: u32) -> io::Result<()> {
    match rustix::fs::fchmod(file, bits(mode)) {
        // It is only named, not opened.
        Err(Errno::BADF) => {
            let path = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
            Ok(rustix::fs::chmod(path, bits(mode))?)
        }
        done => Ok(done?),
    }
}

/// Gives what is open to another user.
pub(crate) fn give_to(file: &impl AsFd, owner: (u32, u32)) -> io::Result<()> {
    let (user, group) = self::owner(owner);
    match rustix::fs::fchown(file, user, group) {
        #[cfg(target_os = "linux")]
        Err(Errno::BADF) => Ok(rustix::fs::chownat(file, c"", user, group, AtFlags::EMPTY_PATH)?),
        done => Ok(done?),
    }
}

/// Tells whether an error says that something is a link.
pub(crate) fn is_link_error(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::LOOP.raw_os_error())
}

fn bits(mode: u32) -> Mode {
    Mode::from_raw_mode((mode & 0o7777) as rustix::fs::RawMode)
}

/// User and group, as rustix takes them.
fn owner((user, group): (u32, u32)) -> (Option<rustix::fs::Uid>, Option<rustix::fs::Gid>) {
    (Some(rustix::fs::Uid::from_raw(user)), Some(rustix::fs::Gid::from_raw(group)))
}

#[cfg(not(target_os = "linux"))]
#[expect(unsafe_code, reason = "rustix has no mkfifo for every Unix")]
fn mkfifoat(directory: &OwnedFd, name: &OsStr, mode: u32) -> io::Result<()> {
    let name = std::ffi::CString::new(name.as_bytes())?;
    // SAFETY: `name` is a valid C string and `directory` an open descriptor for the whole call.
    let result = unsafe { libc::mkfifoat(directory.as_raw_fd(), name.as_ptr(), (mode & 0o777) as libc::mode_t) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
