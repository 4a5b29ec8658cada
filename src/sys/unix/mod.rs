//! The contract of [`crate::sys`] on Linux and macOS.

mod file;
mod locks;
mod process;
mod signal;
mod wait;

pub(crate) use file::*;
pub(crate) use locks::*;
pub(crate) use process::*;
pub(crate) use signal::*;
pub(crate) use wait::*;

/// A borrowed descriptor.
pub(crate) type FdRef<'a> = std::os::fd::BorrowedFd<'a>;
/// An owned descriptor.
pub(crate) type Fd = std::os::fd::OwnedFd;
/// One end of a connection between two processes of ours.
pub(crate) type Channel = std::os::unix::net::UnixStream;

/// Makes a connection; neither end is inherited by commands.
pub(crate) fn channel() -> std::io::Result<(Channel, Channel)> {
    Channel::pair()
}
