//! Locks that belong to no repository: at a path that their users agree upon.
//!
//! | lock of | file | records |
//! | --- | --- | --- |
//! | a directory `D` | `D/.repoguard.lock`, as `repoguard exec` outside of git has it | `D/.repoguard/` |
//! | a file `F` | `F` | `F.repoguard/` |
//!
//! The records are those of a repository: `queue/` (waiters) and `holders/`. The directory itself is locked beside its file, so
//! deleting the file lets none of our processes in. If a directory has records, `repoguard exec` keeps its own there, too, so that
//! processes below a holder find the hold.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use crate::{
    error::{Error, Result},
    holder::{PATH_KEY, ROOT_KEY},
};

/// The records of a directory's lock.
const DIRECTORY_RECORDS: &str = ".repoguard";

/// A place that is locked.
#[derive(Debug, Clone)]
pub(crate) struct PathPlace {
    /// Without links, so that all names of a place are one lock.
    directory: PathBuf,
    lock: PathBuf,
    records: OsString,
    is_directory: bool,
}

impl PathPlace {
    /// The lock of a directory that exists.
    pub(crate) fn of_directory(path: &Path) -> Result<Self> {
        let directory = real_directory(path)?;
        let lock = directory.join(".repoguard.lock");
        Ok(Self { directory, lock, records: DIRECTORY_RECORDS.into(), is_directory: true })
    }

    /// The lock that is a file, in a directory that exists.
    pub(crate) fn of_file(path: &Path) -> Result<Self> {
        let name = path.file_name().ok_or_else(|| Error::NotAFile {
            path: path.to_owned(),
            kind: "a directory",
            expected: "a file to lock",
        })?;
        let above = path.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let directory = real_directory(above)?;
        let lock = directory.join(name);
        let records = records_of_file(&lock).file_name().unwrap_or_default().to_owned();
        Ok(Self { lock, directory, records, is_directory: false })
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn lock(&self) -> &Path {
        &self.lock
    }

    pub(crate) fn records(&self) -> PathBuf {
        self.directory.join(&self.records)
    }

    /// Whether it is the directory itself: then that is locked beside the file. It may have many files that are locks in it.
    pub(crate) fn is_directory(&self) -> bool {
        self.is_directory
    }

    /// Its key, in the records of this place.
    pub(super) fn key(&self) -> &'static str {
        if self.is_directory { ROOT_KEY } else { PATH_KEY }
    }

    /// The locked directory or file, as a user would call it.
    pub(crate) fn shown(&self) -> &Path {
        if self.is_directory { &self.directory } else { &self.lock }
    }
}

/// The directory with the records of this directory's lock.
pub(crate) fn records_of_directory(directory: &Path) -> PathBuf {
    directory.join(DIRECTORY_RECORDS)
}

/// The directory with the records of this lock file.
pub(super) fn records_of_file(lock: &Path) -> PathBuf {
    let mut records = lock.as_os_str().to_owned();
    records.push(".repoguard");
    records.into()
}

fn real_directory(path: &Path) -> Result<PathBuf> {
    let directory = path.canonicalize().map_err(Error::io("find", path))?;
    let metadata = directory.metadata().map_err(Error::io("read", path))?;
    if metadata.is_dir() {
        return Ok(directory);
    }
    Err(Error::NotAFile { path: path.to_owned(), kind: crate::sys::kind(&metadata), expected: "a directory" })
}
