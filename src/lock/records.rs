//! Opens the records of one repository, or of a lock at a path: holders and waiters.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{queue::Queue, record::Table};
use crate::{
    error::{Error, Result},
    fs::Sharing,
};

/// The records in one directory.
pub(super) struct Records {
    pub(super) table: Table,
    pub(super) queue: Queue,
}

impl Records {
    pub(super) fn new(directory: &Path, sharing: Sharing) -> Self {
        let (holders, queue) = (directory.join("holders"), directory.join("queue"));
        Self { table: Table::new(holders, sharing), queue: Queue::new(queue, sharing) }
    }

    /// Those in a directory that a record or the environment names, for reading only; `None` if there are none.
    ///
    /// # Errors
    /// [`Error::Io`] if the directory cannot be read, or cannot be one of ours: it is reached by links, or is called otherwise.
    pub(super) fn elsewhere(directory: &Path) -> Result<Option<Self>> {
        if !(directory.is_absolute() && directory.to_string_lossy().ends_with("repoguard")) {
            return Err(Error::io("follow", directory)(io::ErrorKind::InvalidInput.into()));
        }
        for part in ["", "holders", "queue"] {
            let path: PathBuf = if part.is_empty() { directory.to_owned() } else { directory.join(part) };
            match path.canonicalize() {
                Ok(real) if real == path => {}
                Ok(_) => return Err(Error::io("follow", path)(io::ErrorKind::InvalidInput.into())),
                Err(error) if error.kind() == io::ErrorKind::NotFound && part.is_empty() => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(Error::io("read", path)(error)),
            }
            std::fs::read_dir(&path).map_err(Error::io("list", &path))?;
        }
        Ok(Some(Self::new(directory, Sharing::default())))
    }
}
