//! Decides which owners' files are trusted, and reads files that others may have put in our directory.
//!
//! A record is a regular file, reached without following a link, and not larger than the caller allows. Its owner is this user,
//! root or the owner of the git directory. If others may write to the git directory (a shared repository), their files are shown as
//! well, but never acted upon.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use super::place::Place;
use crate::{
    error::{Error, Result},
    sys,
};

/// The owner of one of our files, and whether the owner is trusted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ownership {
    /// User and group.
    pub(crate) owner: (u32, u32),
    /// The user that owns the git directory.
    repository: u32,
    /// Whether others than that user may write to the git directory.
    is_shared: bool,
}

impl Ownership {
    /// Looks at a file that is open.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn of(file: &File, path: &Path) -> Result<Self> {
        let owner = sys::owner(&file.metadata().map_err(Error::io("read", path))?);
        let repository = std::fs::metadata(repository(path)).map_err(Error::io("read", path))?;
        Ok(Self { owner, repository: sys::owner(&repository).0, is_shared: sys::mode(&repository) & 0o022 != 0 })
    }

    /// Whether what it says may be shown.
    fn is_believed(self) -> bool {
        self.is_trusted() || self.is_shared
    }

    /// Whether what it says may be done: it is this user's, root's, or the repository's owner's.
    pub(crate) fn is_trusted(self) -> bool {
        [sys::effective_user(), 0, self.repository].contains(&self.owner.0)
    }

    /// The same for a file of another owner in the same git directory.
    fn of_user(self, user: u32) -> Self {
        Self { owner: (user, self.owner.1), ..self }
    }

    /// Whether this user may recover what its owner left behind.
    pub(crate) fn may_recover(self) -> bool {
        let us = sys::effective_user();
        (us == 0 || us == self.owner.0 || us == self.repository) && self.is_believed()
    }
}

/// Tells whether others than its owner may write to a directory, or whether that is unknown.
pub(crate) fn is_shared(directory: &Path) -> bool {
    std::fs::metadata(directory).map_or(true, |metadata| sys::mode(&metadata) & 0o022 != 0)
}

/// The git directory that a path of ours is in.
fn repository(path: &Path) -> PathBuf {
    let base = Place::from(path).base_path();
    if base.as_os_str().is_empty() { PathBuf::from(".") } else { base }
}

/// Opens a record for reading.
///
/// # Errors
/// [`Error::NotAFile`], [`Error::Foreign`] if its owner is not believed, [`Error::Io`].
pub(crate) fn open_record(path: &Path) -> Result<File> {
    let (file, metadata) = super::open_and_look(path, false)?;
    // A look at the git directory only if it matters.
    let owner = sys::owner(&metadata).0;
    if owner == sys::effective_user() || owner == 0 || Ownership::of(&file, path)?.is_believed() {
        return Ok(file);
    }
    Err(foreign(path, owner))
}

fn foreign(path: &Path, owner: u32) -> Error {
    Error::Foreign { path: path.to_owned(), user: sys::user_name(owner).unwrap_or_else(|| owner.to_string()) }
}

/// Opens a record to act upon it, for something that belongs to `whose`: that user owns it. If that user is this one, root or the git
/// directory's owner, it may belong to any of these three. Else somebody could have moved a file of theirs to its place.
///
/// # Errors
/// As [`open_record`].
pub(crate) fn open_trusted(path: &Path, user: u32) -> Result<File> {
    let (file, metadata) = super::open_and_look(path, false)?;
    let owner = sys::owner(&metadata).0;
    let ownership = Ownership::of(&file, path)?;
    if owner == user || (ownership.is_trusted() && ownership.of_user(user).is_trusted()) {
        return Ok(file);
    }
    Err(foreign(path, owner))
}

/// Reads a record to its end, to act upon it.
///
/// # Errors
/// As [`open_trusted`]; [`Error::Io`] as well if it has more bytes than `limit`.
pub(crate) fn read_trusted(path: &Path, limit: u64, user: u32) -> Result<Vec<u8>> {
    read_all(&open_trusted(path, user)?, limit).map_err(Error::io("read", path))
}

/// Reads a record to its end.
///
/// # Errors
/// As [`open_record`]; [`Error::Io`] as well if it has more bytes than `limit`.
pub(crate) fn read_record(path: &Path, limit: u64) -> Result<Vec<u8>> {
    read_all(&open_record(path)?, limit).map_err(Error::io("read", path))
}

/// Reads a file of git's or of the user's, whose links are followed, as git does; never blocks.
///
/// # Errors
/// Fails if it is not a regular file or has more than `limit` bytes.
pub(crate) fn read_whole(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    read_all(&sys::open_without_blocking(path)?, limit)
}

fn read_all(file: &File, limit: u64) -> io::Result<Vec<u8>> {
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if !metadata.is_file() {
        let reason = format!("it is {}, not a regular file", sys::kind(&metadata));
        return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len().min(limit)).unwrap_or_default().min(1 << 20));
    let is_larger = metadata.len() > limit || {
        file.take(limit + 1).read_to_end(&mut bytes)?;
        bytes.len() as u64 > limit
    };
    if is_larger {
        return Err(too_large(limit));
    }
    Ok(bytes)
}

/// A file that is too large to be what it should be.
pub(crate) fn too_large(limit: u64) -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {limit} bytes"))
}
