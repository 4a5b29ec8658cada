//! Overwrites, appends to and reads small files of repoguard's own.

use std::{
    fs::File,
    io::{self, Write as _},
    path::Path,
};

use super::{Place, Sharing, cannot, open_or_create, open_record, open_unlinked, remove};
use crate::{
    error::{Error, Result},
    sys::{self, Access},
};

/// Overwrites the start of an open file with one write, in place: never truncated, never synced.
pub(crate) fn overwrite(file: &File, path: &Path, bytes: &[u8]) -> Result<()> {
    refuse_other_names(file, path)?;
    sys::write_start(file, bytes).map_err(Error::io("write", path))
}

/// Tells whether a file has no other name.
pub(crate) fn has_one_name(file: &File) -> bool {
    file.metadata().is_ok_and(|metadata| sys::links(&metadata) == 1)
}

/// Refuses to write to a file that has another name: somebody may have linked a file of the caller's to where ours should be.
fn refuse_other_names(file: &File, path: &Path) -> Result<()> {
    if sys::links(&file.metadata().map_err(Error::io("read", path))?) <= 1 {
        return Ok(());
    }
    Err(Error::NotAFile { path: path.to_owned(), kind: "a file with several names", expected: "a file with one name" })
}

/// As [`overwrite`], and on disk when this returns: the file must not grow by it.
pub(crate) fn overwrite_durably(file: &File, path: &Path, bytes: &[u8]) -> Result<()> {
    overwrite(file, path, bytes)?;
    file.sync_data().map_err(Error::io("sync", path))
}

/// Writes a small new file that nobody else writes or reads yet.
pub(crate) fn write_new(path: &Path, bytes: &[u8], sharing: Sharing) -> Result<()> {
    remove(path);
    let place = Place::from(path);
    let create = || {
        let (directory, name) = place.parent()?;
        let file = directory.create(name, 0o666)?;
        sharing.apply(&file)?;
        Ok(file)
    };
    overwrite(&create().map_err(|error| cannot("create", path, error))?, path, bytes)
}

/// Appends one line with one write; a line that a crash left torn is ended first.
pub(crate) fn append_line(file: &File, path: &Path, mut line: Vec<u8>) -> Result<()> {
    refuse_other_names(file, path)?;
    let size = file.metadata().map_err(Error::io("read", path))?.len();
    line.push(b'\n');
    if size > 0 && sys::byte_at(file, size - 1).map_err(Error::io("read", path))? != Some(b'\n') {
        line.insert(0, b'\n');
    }
    (&*file).write_all(&line).map_err(Error::io("write", path))
}

/// Opens a regular file for appending, creating it when it is missing.
pub(crate) fn open_for_append(path: &Path, sharing: Sharing) -> Result<File> {
    let open = || open_unlinked(path, Access::Append);
    let file = match open() {
        Ok(file) if file.metadata().is_ok_and(|metadata| metadata.is_file()) => return Ok(file),
        // Creates what is missing, and names what is in the way.
        _ => open_or_create(path, sharing).and_then(|_| open().map_err(Error::io("open", path)))?,
    };
    Ok(file)
}

/// Reads at most `limit` bytes of a regular file.
pub(crate) fn read_start(file: &File, limit: usize) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; limit];
    let read = sys::read_start(file, &mut buffer)?;
    buffer.truncate(read);
    Ok(buffer)
}

/// Reads at most `limit` bytes of a record; `None` if it is not a record or its owner is not trusted.
pub(crate) fn read_small(path: &Path, limit: usize) -> Option<Vec<u8>> {
    read_start(&open_record(path).ok()?, limit).ok()
}
