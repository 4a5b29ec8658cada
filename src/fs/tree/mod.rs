//! Moves, copies, lists and removes files of a worktree, whatever they are, byte for byte.
//!
//! No link is followed in the last component, and nothing blocks on a FIFO.
//!
//! # Limitations
//! Times, hard links and extended attributes survive a move within one file system only; a device cannot be moved to
//! another, and a socket only on Linux.

#[cfg(test)]
mod tests;

use std::{
    ffi::{OsStr, OsString},
    fs::{File, OpenOptions},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use super::{
    PASSING,
    opened::{Opened, USE},
    place::{Place, Root},
};
use crate::{
    error::{Error, Result},
    sys::{self, Directory, Found},
};

/// Moves an entry of any kind, replacing a file that has the name; to another file system by a whole and synced copy.
pub(crate) fn move_entry(from: impl Into<Place>, to: impl Into<Place>) -> Result<()> {
    let (from, to) = (&from.into(), &to.into());
    let mut opened = Opened::default();
    let moved = match opened.insist(&[from, to], || rename(from, to)) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => rename_closed(from, to).map_err(|_| error),
        moved => moved,
    };
    match moved {
        Err(error) if error.kind() == ErrorKind::CrossesDevices => move_across(from, to),
        moved => moved.map_err(Error::io("move", from.path())),
    }
}

fn rename(from: &Place, to: &Place) -> io::Result<()> {
    let ((directory, name), (to, to_name)) = (from.parent()?, to.parent()?);
    directory.rename(name, &to, to_name)
}

/// Renames a directory that its owner may not write to: a new parent changes its `..`.
fn rename_closed(from: &Place, to: &Place) -> io::Result<()> {
    let (directory, name) = from.parent()?;
    let found = directory.look(name)?;
    if !found.is_dir() {
        return Err(ErrorKind::PermissionDenied.into());
    }
    let mut opened = Opened::default();
    opened.open(directory.pin(name)?, USE)?;
    rename(from, to)
}

fn move_across(from: &Place, to: &Place) -> Result<()> {
    let copy = || {
        let (directory, name) = to.parent()?;
        let passing: OsString = [OsStr::new(PASSING), name].into_iter().collect();
        remove_in(&directory, &passing)?;
        let (above, name_there) = (to.above(), passing.clone());
        let there = above
            .map_or_else(|| to.path().with_file_name(&name_there).as_path().into(), |above| above.child(&name_there));
        let copied = copy_tree(from, &there, DEEPEST).and_then(|()| directory.rename(&passing, &directory, name));
        if copied.is_err() {
            remove_in(&directory, &passing)?;
        }
        copied.and_then(|()| directory.sync())
    };
    copy().map_err(Error::io("move", from.path()))?;
    remove_entry(from)
}

/// As many directories, one in the other, are copied and listed: the stack would not hold many more.
pub(crate) const DEEPEST: usize = 1000;

/// One level less, if there is one.
fn deeper(levels: usize) -> io::Result<usize> {
    levels.checked_sub(1).ok_or_else(|| io::Error::other("more than 1000 directories lie one in the other"))
}

fn copy_tree(from: &Place, to: &Place, levels: usize) -> io::Result<()> {
    let mut opened = Opened::default();
    let found = opened.insist(&[from], || look(from))?;
    if found.is_file() || found.is_link() {
        return copy_leaf(from, to, true);
    }
    let (directory, name) = to.parent()?;
    match () {
        () if found.is_dir() => {
            let (above, own) = from.parent()?;
            opened.open(above.pin(own)?, USE)?;
            directory.make_directory(name, USE)?;
            for name in from.directory()?.names()? {
                copy_tree(&from.child(&name), &to.child(&name), deeper(levels)?)?;
            }
            // A directory that cannot be opened cannot be synced; its entries were.
            drop(directory.below(name.as_ref()).and_then(|directory| directory.sync()));
        }
        () if found.is_fifo() => directory.make_fifo(name, 0o600)?,
        () if found.is_socket() => directory.make_socket(name)?,
        () => return Err(io::Error::new(ErrorKind::Unsupported, "a device cannot be moved to another file system")),
    }
    like(&directory, name, found.kind(), &found)?;
    if found.is_socket() { Ok(()) } else { directory.set_mode(name, found.permissions()) }
}

/// Copies a regular file or a symbolic link to a free place, permission bits included; synced if `durable`.
pub(crate) fn copy_entry(from: impl Into<Place>, to: impl Into<Place>, durable: bool) -> Result<()> {
    let from = &from.into();
    copy_leaf(from, &to.into(), durable).map_err(Error::io("copy", from.path()))
}

/// Copies an index of git's with the time that it was written: a file that is as young may have changed since, and git
/// compares only the files that are.
pub(crate) fn copy_index(from: &Path, to: &Path, durable: bool) -> Result<()> {
    let copy = || {
        let mut source = sys::open_warily(OpenOptions::new().read(true)).open(from)?;
        let metadata = source.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(ErrorKind::InvalidInput, format!("it is {}", sys::kind(&metadata))));
        }
        let place = Place::from(to);
        let (directory, name) = place.parent()?;
        let mut copy = directory.create(name, 0o600)?;
        io::copy(&mut source, &mut copy)?;
        if sys::effective_user() == 0 {
            sys::give_to(&copy, sys::owner(&metadata))?;
        }
        sys::set_mode(&copy, sys::mode(&metadata))?;
        copy.set_modified(metadata.modified()?)?;
        if durable { copy.sync_all() } else { Ok(()) }
    };
    copy().map_err(Error::io("copy", from))
}

fn copy_leaf(from: &Place, to: &Place, durable: bool) -> io::Result<()> {
    let mut opened = Opened::default();
    let found = opened.insist(&[from], || look(from))?;
    let (directory, name) = to.parent()?;
    if found.is_link() {
        let (above, own) = from.parent()?;
        directory.make_link(&above.read_link(own)?, name)?;
        return like(&directory, name, sys::LINK, &found);
    }
    let (mut source, found) = opened.read(from)?;
    let mut copy = directory.create(name, 0o600)?;
    let copied = io::copy(&mut source, &mut copy)
        .and_then(|_| if sys::effective_user() == 0 { sys::give_to(&copy, found.owner) } else { Ok(()) })
        // Last, because writing and another owner take the bits away that give somebody's rights.
        .and_then(|()| sys::set_mode(&copy, found.permissions()))
        .and_then(|()| if durable { copy.sync_all() } else { Ok(()) });
    if copied.is_err() {
        drop(directory.remove(name));
    }
    copied
}

/// Opens a regular file for reading, also one that its owner may not read.
pub(crate) fn read_file(place: impl Into<Place>) -> Result<File> {
    let place = &place.into();
    Opened::default().read(place).map(|(file, _)| file).map_err(Error::io("read", place.path()))
}

/// The metadata of an entry. Links are not followed. Works also if the owner has no permission to read.
pub(crate) fn metadata(place: impl Into<Place>) -> Result<Found> {
    let place = &place.into();
    Opened::default().insist(&[place], || look(place)).map_err(Error::io("look at", place.path()))
}

/// The same; `None` if nothing is there.
pub(crate) fn find(place: impl Into<Place>) -> Result<Option<Found>> {
    match metadata(place) {
        Err(Error::Io { source, .. }) if is_missing(&source) => Ok(None),
        found => found.map(Some),
    }
}

fn look(place: &Place) -> io::Result<Found> {
    let (directory, name) = place.parent()?;
    directory.look(name)
}

/// The target of a symbolic link, as it is written there.
pub(crate) fn read_link(place: impl Into<Place>) -> Result<PathBuf> {
    let place = &place.into();
    let read = || place.parent().and_then(|(directory, name)| directory.read_link(name));
    Opened::default().insist(&[place], read).map_err(Error::io("read", place.path()))
}

/// Sets the permission bits of an entry, which must not be a link.
pub(crate) fn set_mode(place: impl Into<Place>, mode: u32) -> Result<()> {
    let place = &place.into();
    let set = place.parent().and_then(|(directory, name)| directory.set_mode(name, mode));
    set.map_err(Error::io("change the mode of", place.path()))
}

/// The same, only if this user owns it; `false` if another one does.
pub(crate) fn set_mode_of(place: &Place, mode: u32, owner: u32) -> Result<bool> {
    let set = || {
        let (directory, name) = place.parent()?;
        let file = directory.pin(name)?;
        let is_owner = sys::owner(&file.metadata()?).0 == owner;
        if is_owner {
            sys::set_mode(&file, mode)?;
        }
        Ok(is_owner)
    };
    set().map_err(Error::io("change the mode of", place.path()))
}

/// Gives what root makes the owner of what it is made from.
pub(super) fn like(directory: &Directory, name: &OsStr, kind: u32, model: &Found) -> io::Result<()> {
    if sys::effective_user() == 0 && model.owner != (0, 0) { directory.give(name, kind, model.owner) } else { Ok(()) }
}

/// Removes an entry of any kind, and all that is below it; a missing one is as good as removed.
pub(crate) fn remove_entry(place: impl Into<Place>) -> Result<()> {
    let place = &place.into();
    let remove = || match place.parent() {
        Err(error) if is_missing(&error) || sys::is_link_error(&error) => Ok(()),
        parent => parent.and_then(|(directory, name)| remove_in(&directory, name)),
    };
    Opened::default().insist(&[place], remove).map_err(Error::io("remove", place.path()))
}

/// As [`remove_entry`], but a directory may stay with files in it that some process has open: FUSE and NFS only rename these
/// (`.fuse_hidden…`, `.nfs…`), and remove them when they are closed.
pub(crate) fn discard(place: impl Into<Place>) -> Result<()> {
    match remove_entry(place) {
        Err(Error::Io { source, .. }) if source.kind() == ErrorKind::DirectoryNotEmpty => Ok(()),
        removed => removed,
    }
}

fn remove_in(directory: &Directory, name: &OsStr) -> io::Result<()> {
    let gone = |removed: io::Result<()>| match removed {
        Err(error) if is_missing(&error) => Ok(()),
        removed => removed,
    };
    // The directories down to where we are, each with its name, and with what is left in it.
    let mut way: Vec<(Directory, OsString, Vec<OsString>)> = Vec::new();
    let mut next = Some(name.to_owned());
    loop {
        let here = way.last().map_or(directory, |(inner, ..)| inner);
        if let Some(name) = next.take() {
            match here.look(&name) {
                Ok(found) if found.is_dir() => {
                    if found.permissions() & USE != USE {
                        // It is about to go, and in the end all that counts is whether it has gone.
                        drop(here.set_mode(&name, USE));
                    }
                    let inner = here.below(name.as_ref());
                    match inner.and_then(|inner| Ok((inner.names()?, inner))) {
                        Ok((names, inner)) => way.push((inner, name, names)),
                        Err(error) => gone(Err(error))?,
                    }
                }
                found => gone(found.and_then(|_| here.remove(&name)))?,
            }
        } else if let Some((_, name, _)) = way.pop() {
            let here = way.last().map_or(directory, |(inner, ..)| inner);
            gone(here.remove_directory(&name))?;
        }
        next = way.last_mut().and_then(|(_, _, names)| names.pop());
        if next.is_none() && way.is_empty() {
            return Ok(());
        }
    }
}

/// Removes an empty directory; `false` if it stays because something is mounted there.
pub(crate) fn remove_if_empty(place: impl Into<Place>) -> Result<bool> {
    use ErrorKind::{DirectoryNotEmpty, ResourceBusy};
    let place = &place.into();
    match place.parent().and_then(|(directory, name)| directory.remove_directory(name)) {
        Err(error) if error.kind() == ResourceBusy => Ok(false),
        Err(error) if error.kind() == DirectoryNotEmpty || is_missing(&error) || sys::is_link_error(&error) => Ok(true),
        removed => removed.map(|()| true).map_err(Error::io("remove", place.path())),
    }
}

/// Tells whether an error means that this user may not do that, or that the file system is used by somebody else: nothing that a
/// second try would change.
pub(crate) fn is_forbidden(error: &Error) -> bool {
    let Error::Io { source, .. } = error else { return false };
    matches!(source.kind(), ErrorKind::PermissionDenied | ErrorKind::ResourceBusy | ErrorKind::ReadOnlyFilesystem)
}

/// Tells whether an error means that a path is longer than the system takes.
pub(crate) fn is_too_long(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if source.kind() == ErrorKind::InvalidFilename)
}

/// Tells whether an error means that nothing is there; below a file nothing is, either.
pub(crate) fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// The first entry on the way from `root` to `path` that is in the place of a directory: a link, or anything else.
pub(crate) fn in_the_way(root: &Root, path: &Path) -> Result<Option<PathBuf>> {
    let mut above: Vec<&Path> = path.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty()).collect();
    above.reverse();
    for above in above {
        // Through a link, nothing below it can be looked at.
        if find(&root.at(&sys::bytes(above.as_os_str()))?)?.is_some_and(|found| !found.is_dir()) {
            return Ok(Some(above.to_owned()));
        }
    }
    Ok(None)
}

/// The error to return where something else than a directory is.
pub(crate) fn not_a_directory(place: impl Into<Place>) -> Error {
    let place = &place.into();
    let kind = metadata(place).map_or("not there", |found| found.name());
    Error::NotAFile { path: place.path().to_owned(), kind, expected: "a directory" }
}

/// Names of all that is in a directory, sorted, also where its owner may not read it.
pub(crate) fn list(place: impl Into<Place>) -> Result<Vec<OsString>> {
    let place = &place.into();
    let list = || place.directory()?.names();
    let listed = Opened::default().insist(&[&place.child("any")], list);
    let mut names = listed.map_err(|error| super::cannot("list", place.path(), error))?;
    names.sort();
    Ok(names)
}

/// Reports the name of each entry of a directory, in no order, and whether it is a directory; `false` if the file system does not
/// tell. A directory that its owner may not read is an error.
pub(crate) fn each_entry(place: impl Into<Place>, report: impl FnMut(&OsStr, bool)) -> Result<()> {
    let place = &place.into();
    place.directory().and_then(|directory| directory.each_entry(report)).map_err(Error::io("list", place.path()))
}

/// Names of the entries of other kinds than file, directory and link, or of unknown kind; empty if it cannot be read.
pub(crate) fn list_special(place: impl Into<Place>) -> Vec<OsString> {
    place.into().directory().and_then(|directory| directory.special_names()).unwrap_or_default()
}

/// Size of the regular files among an entry and all below it, in bytes.
pub(crate) fn size(place: impl Into<Place>) -> u64 {
    let (mut size, mut next) = (0, vec![place.into()]);
    while let Some(place) = next.pop() {
        match metadata(&place) {
            Ok(found) if found.is_file() => size += found.size,
            Ok(found) if found.is_dir() => {
                next.extend(list(&place).unwrap_or_default().iter().map(|name| place.child(name)));
            }
            _ => {}
        }
    }
    size
}

/// Writes a file or directory to disk.
pub(crate) fn sync(place: impl Into<Place>) -> Result<()> {
    let place = &place.into();
    let file = place.parent().and_then(|(directory, name)| directory.read(name));
    file.and_then(|file| file.sync_all()).map_err(Error::io("sync", place.path()))
}

/// Writes files and directories to disk, all at once: a file system has less to do then than for one after the other.
pub(crate) fn sync_each(paths: &[PathBuf]) -> Result<()> {
    if let [path] = paths {
        return sync(path.as_path());
    }
    std::thread::scope(|scope| {
        let syncs: Vec<_> = paths.iter().map(|path| sys::beside(scope, || sync(path.as_path()))).collect();
        syncs.into_iter().try_for_each(sys::Beside::join)
    })
}

/// Writes to disk all that was written to the file system of a directory.
pub(crate) fn sync_all(directory: &Path) -> Result<()> {
    let open = File::open(directory);
    open.and_then(|directory| sys::sync_file_system(&directory)).map_err(Error::io("sync", directory))
}
