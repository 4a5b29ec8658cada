//! The contract of [`crate::sys`] on Linux and macOS.

mod child;
mod directory;
mod entry;
mod file;
mod lease;
mod locks;
mod lookup;
mod output;
mod process;
#[cfg(feature = "tokio")]
mod ready;
mod session;
mod signal;
mod table;
mod wait;
mod writers;

pub(crate) use child::*;
pub(crate) use directory::*;
pub(crate) use entry::*;
pub(crate) use file::*;
pub(crate) use lease::*;
pub(crate) use locks::*;
pub(crate) use lookup::*;
pub(crate) use output::*;
pub(crate) use process::*;
#[cfg(feature = "tokio")]
pub(crate) use ready::*;
pub(crate) use session::*;
pub(crate) use signal::*;
pub(crate) use table::*;
pub(crate) use wait::*;
pub(crate) use writers::*;

/// A borrowed descriptor.
pub(crate) type FdRef<'a> = std::os::fd::BorrowedFd<'a>;
/// A descriptor as a number, for a list of those to keep.
pub(crate) type FdNumber = std::os::fd::RawFd;
/// An owned descriptor.
pub(crate) type Fd = std::os::fd::OwnedFd;
/// One end of a connection between two processes of ours.
pub(crate) type Channel = std::os::unix::net::UnixStream;

/// Makes a connection; commands inherit no end of it.
pub(crate) fn channel() -> std::io::Result<(Channel, Channel)> {
    Channel::pair()
}
