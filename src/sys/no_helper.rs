//! Stands in for the helper process on systems that have none: the lock is tried again and again.

use std::{convert::Infallible, fs::File, io};

use super::FdRef;

/// A process that waits for a lock; there is none.
pub(crate) struct FlockHelper(Infallible);

impl FlockHelper {
    pub(crate) fn start(_file: &File, _exclusive: bool) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn pid(&self) -> u32 {
        match self.0 {}
    }

    pub(crate) fn fd(&self) -> FdRef<'_> {
        match self.0 {}
    }

    pub(crate) fn stop(self) -> bool {
        match self.0 {}
    }
}
