//! Writes files. The only writer: creates with the right owner and mode, overwrites in place, appends, removes.
//!
//! Our directory may contain anything. So no function here follows a link in the last component, blocks on a FIFO, or reads
//! more than its limit. `place` keeps paths below their roots; `record` decides which owners are trusted.

mod contents;
mod hidden;
mod opened;
mod passing;
mod place;
mod put;
mod record;
mod replace;
mod sharing;
mod tree;

pub(crate) use contents::{
    append_line, has_one_name, open_for_append, overwrite, overwrite_durably, read_small, read_start, write_new,
};
pub(crate) use hidden::{Hidden, hidden};
pub(crate) use passing::PASSING;
use passing::Passing;
pub(crate) use place::{Place, Root};
pub(crate) use put::{make_directories, put_fifo, put_file, put_file_of_many, put_link};
pub(crate) use record::{
    Ownership, is_shared, open_record, open_trusted, read_record, read_trusted, read_whole, too_large,
};
pub(crate) use replace::{create_document, open_document, replace_document, sync_name};
pub(crate) use sharing::{SharedMode, Sharing};
pub(crate) use tree::{
    DEEPEST, copy_entry, copy_index, discard, each_entry, find, in_the_way, is_forbidden, is_missing, is_too_long,
    list, list_special, metadata, move_entry, not_a_directory, read_file, read_link, remove_entry, remove_if_empty,
    set_mode, set_mode_of, size, sync, sync_all, sync_each,
};

use std::{
    ffi::OsStr,
    fs::{File, Metadata},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use crate::{
    error::{Error, Result},
    sys::{self, Access, Directory, FileId},
};

/// Fails if nothing can be written to standard output: for a command that gives something away only once, and
/// so must know before. Does not block.
///
/// # Errors
/// If it was closed when the process started, or is open for reading only.
pub fn check_output() -> io::Result<()> {
    sys::check_output()
}

/// Opens a regular file for reading and writing, creating it (and our directories above it) when it is missing.
///
/// # Errors
/// [`Error::NotAFile`] for anything but a regular file, else [`Error::Io`].
pub(crate) fn open_or_create(path: &Path, sharing: Sharing) -> Result<File> {
    /// Our directory may be deleted while we make a file in it; who does that again and again gets an error.
    const TRIES: usize = 10;
    let mut result = open(path, true);
    for _ in 0..TRIES {
        match &result {
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                result = create(path, sharing).and_then(|()| open(path, true));
            }
            _ => break,
        }
    }
    result
}

/// Creates an empty file, with its owner and mode from the first moment; somebody else's is as good.
fn create(path: &Path, sharing: Sharing) -> Result<()> {
    if let Some(directory) = path.parent().filter(|directory| is_ours(directory)) {
        create_directory(directory, sharing)?;
    }
    let create = |directory: &Directory, name: &OsStr| {
        let file = directory.create(name, 0o666)?;
        sharing.apply(&file)
    };
    let created = Passing::make(&Place::from(path), PASSING, create).and_then(|(new, ())| match new.settle() {
        // A file system without conditional renames: others may see the file before it has its owner and mode.
        Err((error, new)) if error.kind() != io::ErrorKind::AlreadyExists => create(new.here().0, new.name()),
        settled => settled.map_err(|(error, _)| error),
    });
    match created {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(cannot("create", path, error)),
        _ => Ok(()),
    }
}

/// Opens an existing regular file for reading, and for writing if `write`.
///
/// # Errors
/// As [`open_or_create`].
pub(crate) fn open(path: &Path, write: bool) -> Result<File> {
    open_and_look(path, write).map(|(file, _)| file)
}

fn open_and_look(path: &Path, write: bool) -> Result<(File, Metadata)> {
    let opened = open_unlinked(path, if write { Access::Write } else { Access::Read });
    let found = match &opened {
        Ok(file) => file.metadata(),
        Err(_) => std::fs::symlink_metadata(path),
    };
    match found {
        Ok(metadata) if !metadata.is_file() => {
            Err(Error::NotAFile { path: path.to_owned(), kind: sys::kind(&metadata), expected: "a regular file" })
        }
        found => opened.and_then(|file| Ok((file, found?))).map_err(|error| cannot("open", path, error)),
    }
}

/// The error for what could not be done at a path of ours: a link on the way is named itself.
pub(super) fn cannot(action: &'static str, path: &Path, error: io::Error) -> Error {
    if sys::is_link_error(&error)
        && let Some(link) = place::link_on_the_way(path)
    {
        return Error::NotAFile { path: link, kind: "a symbolic link", expected: "a directory" };
    }
    Error::io(action, path)(error)
}

/// Does not block on a FIFO or follow a link, at the end of the path or anywhere below what is ours.
fn open_unlinked(path: &Path, access: Access) -> io::Result<File> {
    match sys::open_unlinked(path, access) {
        Some(Err(error)) if sys::is_link_error(&error) => {}
        Some(opened) => return opened,
        None => {}
    }
    // Above what is ours links are followed.
    let place = Place::from(path);
    let (directory, name) = place.parent()?;
    directory.open_file(name, access)
}

/// Tells whether a directory is one of records (`repoguard`, `.repoguard`, `NAME.repoguard`) or in one. Only those are made: never a
/// directory of git's or the user's that has gone, which may be called `repoguard` as well.
fn is_ours(directory: &Path) -> bool {
    holds_records(directory) || directory.parent().is_some_and(holds_records)
}

/// The same of a directory itself: it stands beside what it belongs to.
fn holds_records(directory: &Path) -> bool {
    let Some(name) = directory.file_name().filter(|name| is_ours_name(name)) else { return false };
    let owner = match name.to_str() {
        // A git directory's.
        Some("repoguard") => OsStr::new("HEAD"),
        Some(".repoguard") => OsStr::new(".repoguard.lock"),
        _ => Path::new(name).file_stem().unwrap_or_default(),
    };
    std::fs::symlink_metadata(directory.with_file_name(owner)).is_ok_and(|found| !found.is_dir())
}

/// Tells whether a directory with this name may hold records.
fn is_ours_name(name: &OsStr) -> bool {
    let name = Path::new(name);
    let end = name.extension().or(name.file_name());
    end.is_some_and(|end| end == "repoguard" || end == ".repoguard")
}

/// Creates one directory of ours, and the one above it if that is ours, too.
///
/// # Errors
/// [`Error::NotAFile`] when something else is there, else [`Error::Io`].
pub(crate) fn create_directory(path: &Path, sharing: Sharing) -> Result<()> {
    match make_directory_at(path, 0o777, sharing) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match std::fs::symlink_metadata(path) {
            Ok(metadata) if !metadata.is_dir() => {
                Err(Error::NotAFile { path: path.to_owned(), kind: sys::kind(&metadata), expected: "a directory" })
            }
            _ => Ok(()),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => match path.parent().filter(|parent| is_ours(parent)) {
            Some(parent) => {
                create_directory(parent, sharing)?;
                create_directory(path, sharing)
            }
            None => Err(Error::io("create", path)(error)),
        },
        made => made.map_err(|error| cannot("create", path, error)),
    }
}

fn make_directory_at(path: &Path, mode: u32, sharing: Sharing) -> io::Result<()> {
    let place = Place::from(path);
    let (directory, name) = place.parent()?;
    directory.make_directory(name, mode)?;
    sharing.apply_in(&directory, name, Metadata::is_dir)
}

/// Creates a directory that is not ours, in one that exists.
pub(crate) fn make_directory(path: &Path, sharing: Sharing) -> Result<()> {
    make_directory_at(path, 0o777, sharing).map_err(|error| cannot("create", path, error))
}

/// Creates a directory outside of ours, for its owner and those it is shared with, in one that exists.
pub(crate) fn make_private_directory(path: &Path, sharing: Sharing) -> Result<()> {
    make_directory_at(path, 0o700, sharing).map_err(|error| cannot("create", path, error))
}

/// Removes a directory; `false` when it is not empty, or cannot be removed.
pub(crate) fn remove_directory(path: &Path) -> bool {
    Place::from(path).parent().and_then(|(directory, name)| directory.remove_directory(name)).is_ok()
}

/// A whole file beside the place that it is for, under a passing name; dropped, it is gone.
#[derive(Debug)]
pub(crate) struct Beside {
    new: Passing,
    path: PathBuf,
}

impl Beside {
    /// Writes it. Its directory is created if it is ours.
    pub(crate) fn write(path: &Path, bytes: &[u8], mode: u32, sharing: Sharing) -> Result<Self> {
        if let Some(directory) = path.parent().filter(|directory| is_ours(directory)) {
            create_directory(directory, sharing)?;
        }
        let write = || {
            // Closed before it has its name: a script that is open for writing cannot be run.
            let (new, mut file) =
                Passing::make(&Place::from(path), PASSING, |directory, name| directory.create(name, mode))?;
            file.write_all(bytes)?;
            // After a power loss it must not be an empty file: to git that is a hook that agrees to everything.
            file.sync_all()?;
            sharing.apply(&file)?;
            Ok(Self { new, path: path.to_owned() })
        };
        write().map_err(|error| cannot("write", path, error))
    }

    pub(crate) fn id(&self) -> Option<FileId> {
        self.new.id().ok()
    }

    /// Gives it its name in one step: who looks sees the old file or the new one.
    pub(crate) fn replace(self) -> Result<()> {
        self.new.replace().map_err(Error::io("write", self.path))
    }

    /// Gives it its name, if that is free.
    pub(crate) fn create(self) -> Result<()> {
        match self.new.settle() {
            // Some file systems cannot rename with this condition.
            Err((error, new)) if error.kind() != io::ErrorKind::AlreadyExists && identity(&self.path).is_none() => {
                new.replace().map_err(Error::io("write", self.path))
            }
            result => result.map_err(|(error, _)| Error::io("create", self.path)(error)),
        }
    }
}

/// The identity of an entry; a link is not followed.
pub(crate) fn identity(path: &Path) -> Option<FileId> {
    std::fs::symlink_metadata(path).ok().map(|metadata| sys::identity(&metadata))
}

/// Gives a file a free name: a second one (`true`), or, if it cannot have two, instead of the first. A link is not followed.
pub(crate) fn take_name(from: &Path, to: &Path) -> Result<bool> {
    match hard_link(from, to) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists && identity(to).is_none() => {
            rename(from, to).map(|()| false)
        }
        Err(_) => Err(Error::io("create", to)(io::ErrorKind::AlreadyExists.into())),
    }
}

/// Gives a file of the caller's a second name in a directory of ours.
pub(crate) fn second_name(from: &Place, to: &Path) -> io::Result<()> {
    let to = Place::from(to);
    let ((directory, name), (to, to_name)) = (from.parent()?, to.parent()?);
    directory.link(name, &to, to_name)
}

fn hard_link(from: &Path, to: &Path) -> io::Result<()> {
    let (from, to) = (Place::from(from), Place::from(to));
    let ((directory, name), (to, to_name)) = (from.parent()?, to.parent()?);
    directory.link(name, &to, to_name)
}

/// Creates a FIFO in a directory of ours, with the right owner and mode.
pub(crate) fn create_fifo(path: &Path, sharing: Sharing) -> Result<()> {
    let place = Place::from(path);
    let make = || {
        let (directory, name) = place.parent()?;
        // An access control list of the directory's says who may use it, else the umask.
        directory.make_fifo(name, 0o666)?;
        sharing.apply_in(&directory, name, sys::is_fifo)
    };
    make().map_err(|error| cannot("create", path, error))
}

/// Gives a file that nobody sees yet its name, replacing what has it.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<()> {
    let (place, target) = (Place::from(from), Place::from(to));
    let rename = || {
        let ((directory, name), (to, to_name)) = (place.parent()?, target.parent()?);
        directory.rename(name, &to, to_name)
    };
    rename().map_err(Error::io("rename to", to))
}

/// A file without a name, with these bytes, to be read from the start.
pub(crate) fn nameless(bytes: &[u8]) -> io::Result<File> {
    let mut file = tempfile::tempfile()?;
    file.write_all(bytes)?;
    io::Seek::rewind(&mut file)?;
    Ok(file)
}

/// An empty file in the system's directory for temporary files, for its owner alone; dropped, it is removed.
pub(crate) fn named_temporary() -> Result<tempfile::NamedTempFile> {
    tempfile::NamedTempFile::new().map_err(Error::io("create a file in", &std::env::temp_dir()))
}

/// Keeps a file under a second name, replacing what has it: by a link if that is possible, else by a copy. Always by a copy on FUSE:
/// gocryptfs, for example, reads a file with two links by the wrong key.
pub(crate) fn link(from: &Path, to: &Path, sharing: Sharing) -> Result<()> {
    if let Some(directory) = to.parent().filter(|directory| is_ours(directory)) {
        create_directory(directory, sharing)?;
    }
    remove(to);
    let linked = if sys::is_fuse(from) { Err(io::ErrorKind::Unsupported.into()) } else { hard_link(from, to) };
    match linked {
        Err(error) if error.kind() != io::ErrorKind::NotFound => copy_index(from, to, false),
        linked => linked.map_err(Error::io("create", to)),
    }
}

/// Tells whether a file is there that can be run.
pub(crate) fn is_executable(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file()) && sys::may_execute(path)
}

/// Removes a file; a missing one is as good as removed.
pub(crate) fn remove(path: &Path) {
    drop(Place::from(path).parent().and_then(|(directory, name)| directory.remove(name)));
}
