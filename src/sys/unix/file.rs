//! Files: identity, owner and mode, opening what may be hostile, FIFOs.

use std::{
    borrow::Cow,
    ffi::{OsStr, OsString},
    fs::{File, Metadata, OpenOptions},
    io,
    os::{
        fd::{AsFd, AsRawFd as _, OwnedFd},
        unix::{
            ffi::OsStrExt,
            fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt},
        },
    },
    path::Path,
    time::Duration,
};

use rustix::fs::{Mode, OFlags};

use crate::sys::{FdRef, FileId, Retry};

/// Descriptors handed to a command start here, out of the way of the numbers that shell scripts use.
const HIGH_DESCRIPTOR: i32 = 100;

/// Makes an open fail for a link in the last component, and not block on a FIFO.
pub(crate) fn open_warily(options: &mut OpenOptions) -> &mut OpenOptions {
    options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY)
}

/// Opens a file for reading that may be anything; links are followed.
pub(crate) fn open_without_blocking(path: &Path) -> io::Result<File> {
    unleased(|| OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path))
}

/// Opens a file without blocking on a FIFO. If another process has a lease on the file (an NFS server, Samba), waits up to 5 s
/// until the kernel has taken it back.
pub(super) fn unleased(mut open: impl FnMut() -> io::Result<File>) -> io::Result<File> {
    const PATIENCE: Retry = Retry::every(Duration::from_millis(1)).within(Duration::from_secs(5));
    let mut opened = Err(io::ErrorKind::WouldBlock.into());
    PATIENCE.until(|| {
        opened = open();
        !matches!(&opened, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    });
    opened
}

/// Opens a directory for locking it; reading permission is enough.
pub(crate) fn open_directory(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(path)
}

/// Says that the descriptor is of a kind that this file system cannot lock (a read-only one on NFS).
pub(crate) fn cannot_lock_descriptor(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EBADF)
}

/// Says that the file may be read but not written here.
pub(crate) fn is_read_only_error(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

/// Says that a file cannot belong to the user that it was given to.
pub(crate) fn is_owner_error(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EPERM | libc::EOPNOTSUPP | libc::ENOSYS))
}

/// Tells whether the kernel failed to run a file because it is not a binary and does not start with `#!`.
pub(crate) fn is_format_error(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOEXEC)
}

/// Identity of a file from its metadata.
pub(crate) fn identity(metadata: &Metadata) -> FileId {
    FileId { device: metadata.dev(), inode: metadata.ino() }
}

/// Tells whether a path is on a file system that is mounted `noexec`.
#[cfg(target_os = "linux")]
pub(crate) fn is_noexec(path: &Path) -> bool {
    rustix::fs::statvfs(path).is_ok_and(|stat| stat.f_flag.contains(rustix::fs::StatVfsMountFlags::NOEXEC))
}

/// Tells whether a path is on a file system that is mounted `noexec`: not asked for.
#[cfg(not(target_os = "linux"))]
pub(crate) fn is_noexec(_path: &Path) -> bool {
    false
}

/// Tells whether a path is on a file system in user space.
#[cfg(target_os = "linux")]
pub(crate) fn is_fuse(path: &Path) -> bool {
    const FUSE_SUPER_MAGIC: i64 = 0x6573_5546;
    #[expect(clippy::allow_attributes, reason = "the type differs between systems")]
    #[allow(clippy::unnecessary_cast, clippy::cast_possible_wrap, reason = "the number fits into all of them")]
    let kind = rustix::fs::statfs(path).map(|stat| stat.f_type as i64);
    kind == Ok(FUSE_SUPER_MAGIC)
}

/// Tells whether a path is on a file system in user space: not asked for.
#[cfg(not(target_os = "linux"))]
pub(crate) fn is_fuse(_path: &Path) -> bool {
    false
}

/// Identity of an open file.
pub(crate) fn identity_of(file: &impl AsFd) -> io::Result<FileId> {
    let stat = rustix::fs::fstat(file)?;
    #[expect(clippy::allow_attributes, reason = "the type differs between systems")]
    #[allow(clippy::unnecessary_cast, clippy::cast_sign_loss, reason = "as std casts it for `MetadataExt::dev`")]
    let device = stat.st_dev as u64;
    Ok(FileId { device, inode: stat.st_ino })
}

/// Tells whether a device is one of the machine's, which has one superblock, and not one that the kernel made up.
#[cfg(target_os = "linux")]
pub(crate) fn is_real_device(device: u64) -> bool {
    rustix::fs::major(device) != 0
}

/// The same: only on Linux does a file have two devices.
#[cfg(not(target_os = "linux"))]
pub(crate) fn is_real_device(_device: u64) -> bool {
    true
}

/// Number of a device, as [`identity`] has it.
pub(crate) fn device(major: u32, minor: u32) -> u64 {
    #[expect(clippy::allow_attributes, reason = "the type differs between systems")]
    #[allow(clippy::useless_conversion, clippy::cast_sign_loss, reason = "as std casts it for `MetadataExt::dev`")]
    let device = rustix::fs::makedev(major, minor) as u64;
    device
}

/// The kind of a file, in words.
pub(crate) fn kind(metadata: &Metadata) -> &'static str {
    let kind = metadata.file_type();
    match () {
        () if kind.is_file() => "a regular file",
        () if kind.is_dir() => "a directory",
        () if kind.is_symlink() => "a symbolic link",
        () if kind.is_fifo() => "a FIFO",
        () if kind.is_socket() => "a socket",
        () if kind.is_block_device() || kind.is_char_device() => "a device",
        () => "something unknown",
    }
}

/// Modification time in nanoseconds since 1970, size and inode: what changes when a file is rewritten.
pub(crate) fn stamp(metadata: &Metadata) -> (i128, u64, u64) {
    (i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec()), metadata.len(), metadata.ino())
}

/// When the inode and when the content was changed last: seconds since 1970, and nanoseconds.
pub(crate) fn times(metadata: &Metadata) -> [(i64, i64); 2] {
    [(metadata.ctime(), metadata.ctime_nsec()), (metadata.mtime(), metadata.mtime_nsec())]
}

/// How many names a file has.
pub(crate) fn links(metadata: &Metadata) -> u64 {
    metadata.nlink()
}

/// Permission bits.
pub(crate) fn mode(metadata: &Metadata) -> u32 {
    metadata.mode() & 0o7777
}

/// Owner and group.
pub(crate) fn owner(metadata: &Metadata) -> (u32, u32) {
    (metadata.uid(), metadata.gid())
}

/// The user that files are created as.
pub(crate) fn effective_user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Name of the user that new files belong to, or the number if it has no name.
pub(crate) fn effective_user_name() -> String {
    let user = effective_user();
    user_name(user).unwrap_or_else(|| user.to_string())
}

/// Name of a user from the system's own list; `None` for users that only a directory service knows.
pub(crate) fn user_name(uid: u32) -> Option<String> {
    let list = std::fs::read_to_string("/etc/passwd").ok()?;
    list.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

/// Tells whether this user may run a file in its place: git asks the same.
pub(crate) fn may_execute(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}

/// Reads at the start of a file, without moving its position.
pub(crate) fn read_start(file: &File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], filled as u64)? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}

/// Reads the byte at an offset, if the file reaches so far.
pub(crate) fn byte_at(file: &File, offset: u64) -> io::Result<Option<u8>> {
    let mut byte = [0];
    Ok((file.read_at(&mut byte, offset)? == 1).then_some(byte[0]))
}

/// Overwrites the start of a file with one write.
pub(crate) fn write_start(file: &File, bytes: &[u8]) -> io::Result<()> {
    file.write_all_at(bytes, 0)
}

/// Opens the reading end of a FIFO: as long as it is open, writers can open the other end.
pub(crate) fn open_fifo_reader(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())?)
}

/// Opens the writing end of a FIFO; `None` without a reader, or for another kind of file.
pub(crate) fn open_fifo_writer(path: &Path) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(writer) => {
            let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&writer)?.st_mode);
            Ok((kind == rustix::fs::FileType::Fifo).then_some(writer))
        }
        Err(rustix::io::Errno::NXIO | rustix::io::Errno::LOOP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The user who owns an open file.
pub(crate) fn owner_of(file: &OwnedFd) -> Option<u32> {
    rustix::fs::fstat(file).ok().map(|stat| stat.st_uid)
}

/// Makes a copy of a descriptor that commands inherit, at a high number, which shell scripts do not use.
pub(crate) fn inheritable_copy(file: &File) -> io::Result<OwnedFd> {
    let copy = rustix::io::fcntl_dupfd_cloexec(file, HIGH_DESCRIPTOR).or_else(|_| rustix::io::dup(file))?;
    rustix::io::fcntl_setfd(&copy, rustix::io::FdFlags::empty())?;
    Ok(copy)
}

/// Names of all entries of a directory that are UTF-8; none if it cannot be read.
///
/// Not by std, which takes memory for it from the system each time where libc is musl.
pub(crate) fn names(directory: &Path) -> Vec<String> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(directory) = rustix::fs::open(directory, flags, Mode::empty()).and_then(rustix::fs::Dir::new) else {
        return Vec::new();
    };
    let names = directory.flatten().filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned));
    names.filter(|name| name != "." && name != "..").collect()
}

/// Borrows a file's descriptor.
pub(crate) fn fd(file: &impl AsFd) -> FdRef<'_> {
    file.as_fd()
}

/// The number of a descriptor.
pub(crate) fn number(file: &impl AsFd) -> super::FdNumber {
    file.as_fd().as_raw_fd()
}

/// A path's bytes, as the system knows them.
pub(crate) fn bytes(text: &OsStr) -> Cow<'_, [u8]> {
    Cow::Borrowed(text.as_bytes())
}

/// Whether names that differ in case only may lead to one file.
pub(crate) const FOLDS_NAMES: bool = cfg!(target_vendor = "apple");

/// A path from its bytes.
pub(crate) fn name_of(bytes: &[u8]) -> OsString {
    OsStr::from_bytes(bytes).to_owned()
}
