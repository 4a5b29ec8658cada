//! Gives a document a new content that readers see whole or not at all: by another file under its name, on disk when
//! that is done.
//!
//! Mode and group stay, and the owner where root writes; else the new file is the writer's, as with every editor that does
//! the same.
//!
//! # Limitations
//! Access control lists, extended attributes and further hard links stay with the old content. A killed writer leaves a file beside
//! the document, which the next writer removes. On a file system that cannot rename on condition that the name is free, a process
//! that creates a document may replace one that a process without a common lock has just made.

use std::{
    ffi::OsStr,
    fs::{File, Metadata},
    io::{self, ErrorKind, Write as _},
    path::{Path, PathBuf},
};

use hmac_sha256::Hash as Sha256;

use super::{PASSING, Passing, Place, Sharing, create_directory, is_ours, tree};
use crate::{
    error::{Error, Result},
    sys::{self, Directory},
};

/// Opens a document to write to it later, under whatever name it has then; `None` when it is missing.
///
/// # Errors
/// [`Error::NotAFile`] for anything but a regular file, [`Error::Io`] if it may not be written. Root does not replace such a file,
/// either.
pub(crate) fn open_document(path: &Path) -> Result<Option<std::fs::File>> {
    let file = match super::open(path, true) {
        Err(Error::Io { source, .. }) if tree::is_missing(&source) => return Ok(None),
        file => file?,
    };
    let metadata = file.metadata().map_err(Error::io("read", path))?;
    if metadata.permissions().readonly() {
        let read_only = io::Error::new(ErrorKind::PermissionDenied, "it is read-only");
        return Err(Error::io("write", path)(read_only));
    }
    Ok(Some(file))
}

/// Gives a document that is locked by us a new content.
pub(crate) fn replace_document(path: &Path, bytes: &[u8], old: &Metadata) -> Result<()> {
    remove_left(path);
    let replace = || {
        let (new, file) = write_beside(path, bytes, 0o600)?;
        let mode = sys::mode(old);
        let kept = keep_owner(&file, old)?;
        // If the group changes, the new group gets the rights of everybody instead of the old group's.
        let mode = if kept { mode } else { mode & !0o070 | (mode << 3 & mode & 0o070) };
        sys::set_mode(&file, mode)?;
        file.sync_all()?;
        new.replace()
    };
    replace().map_err(Error::io("write", path))?;
    sync_name(path)
}

/// Makes a document that was missing; `false` where somebody else has made one meanwhile.
pub(crate) fn create_document(path: &Path, bytes: &[u8], sharing: Sharing) -> Result<bool> {
    if let Some(directory) = path.parent().filter(|directory| is_ours(directory)) {
        create_directory(directory, sharing)?;
    }
    let create = || {
        let (new, file) = write_beside(path, bytes, 0o666)?;
        sharing.apply(&file)?;
        file.sync_all()?;
        match new.settle() {
            Err((error, _)) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
            // Some file systems cannot rename with this condition.
            Err((error, new)) if error.kind() != ErrorKind::NotFound && super::identity(path).is_none() => {
                new.replace().map(|()| true)
            }
            created => created.map_err(|(error, _)| error).map(|()| true),
        }
    };
    let created = match create() {
        // Another process made it meanwhile, holds its lock, and took ours for a leftover.
        Err(error) if error.kind() == ErrorKind::NotFound && super::identity(path).is_some() => false,
        created => created.map_err(Error::io("create", path))?,
    };
    if created {
        sync_name(path)?;
    }
    Ok(created)
}

/// Brings to disk under which name a document stands.
pub(crate) fn sync_name(path: &Path) -> Result<()> {
    path.parent().map_or(Ok(()), tree::sync)
}

fn write_beside(path: &Path, bytes: &[u8], mode: u32) -> io::Result<(Passing, File)> {
    let create = |directory: &Directory, name: &OsStr| directory.create(name, mode);
    let (new, mut file) = Passing::make(&Place::from(path), &prefix(path), create)?;
    file.write_all(bytes)?;
    Ok((new, file))
}

/// Gives a new file the owner and group of the old one; tells whether that succeeded, if it matters.
fn keep_owner(new: &File, old: &Metadata) -> io::Result<bool> {
    let (was, is) = (sys::owner(old), sys::owner(&new.metadata()?));
    if was == is {
        return Ok(true);
    }
    if sys::effective_user() == 0 {
        return sys::give_to(new, was).map(|()| true);
    }
    Ok(was.1 == is.1 || sys::give_to(new, (is.0, was.1)).is_ok())
}

/// Removes what writers of a document left that were killed; its lock is ours.
fn remove_left(path: &Path) {
    let (directory, prefix) = (directory(path), prefix(path));
    for name in sys::names(&directory).into_iter().filter(|name| name.starts_with(&prefix)) {
        super::remove(&directory.join(name));
    }
}

fn directory(path: &Path) -> PathBuf {
    path.parent().unwrap_or(path).to_owned()
}

/// The prefix of a document's new contents, which no document's own name has.
fn prefix(path: &Path) -> String {
    let name = sys::bytes(path.file_name().unwrap_or_default());
    let digest = Sha256::hash(&name);
    let short = digest.iter().take(4).fold(0_u32, |number, byte| number << 8 | u32::from(*byte));
    format!("{PASSING}{short:08x}-")
}
