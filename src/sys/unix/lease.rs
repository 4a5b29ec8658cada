//! Being told before somebody writes to a file: leases, fcntl(2).

use std::{fs::File, io};

/// The signal for a lease that another process wants broken.
pub(crate) const LEASE_BREAKS: i32 = libc::SIGIO;

/// Takes a read lease: who opens the file for writing, or truncates it, waits until this process has given the lease back. Its owner
/// and root can have one, while nobody has the file open for writing. It ends with this process.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "rustix has no leases")]
pub(crate) fn lease(file: &File) -> io::Result<()> {
    use std::os::fd::AsRawFd as _;
    // SAFETY: fcntl takes a descriptor and a number here.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn lease(_file: &File) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Tells whether somebody waits for this lease to be given back.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "rustix has no leases")]
pub(crate) fn lease_breaks(file: &File) -> bool {
    use std::os::fd::AsRawFd as _;
    // SAFETY: fcntl takes a descriptor here.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLEASE) != libc::F_RDLCK }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn lease_breaks(_file: &File) -> bool {
    true
}
