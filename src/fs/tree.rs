//! How are files of a worktree moved, copied, listed and removed? Whatever they are, byte for byte.
//!
//! No link is followed in the last component, and nothing blocks on a FIFO.
//!
//! # Limitations
//! Times, hard links and extended attributes survive a move within one file system only; a device cannot be moved to
//! another.

use std::{
    ffi::OsString,
    fs::{File, Metadata, OpenOptions},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use super::{
    PASSING,
    opened::{Opened, USE},
};
use crate::{
    error::{Error, Result},
    sys,
};

/// Moves an entry of any kind, replacing a file that has the name; to another file system by a whole and synced copy.
pub(crate) fn move_entry(from: &Path, to: &Path) -> Result<()> {
    let mut opened = Opened::default();
    let moved = match opened.insist(&[from, to], || std::fs::rename(from, to)) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => rename_closed(from, to).map_err(|_| error),
        moved => moved,
    };
    match moved {
        Err(error) if error.kind() == ErrorKind::CrossesDevices => move_across(from, to),
        moved => moved.map_err(Error::io("move", from)),
    }
}

/// Renames a directory that its owner may not write to: who gives it another parent changes its `..`.
fn rename_closed(from: &Path, to: &Path) -> io::Result<()> {
    let metadata = std::fs::symlink_metadata(from)?;
    if !metadata.is_dir() {
        return Err(ErrorKind::PermissionDenied.into());
    }
    let mode = sys::mode(&metadata);
    sys::set_mode(from, mode | USE)?;
    let renamed = std::fs::rename(from, to);
    sys::set_mode(if renamed.is_ok() { to } else { from }, mode)?;
    renamed
}

fn move_across(from: &Path, to: &Path) -> Result<()> {
    let name = to.file_name().unwrap_or_default().to_string_lossy();
    let passing = to.with_file_name(format!("{PASSING}{name}"));
    remove_entry(&passing)?;
    let copied = copy_tree(from, &passing).and_then(|()| std::fs::rename(&passing, to));
    if let Err(error) = copied {
        remove_entry(&passing)?;
        return Err(Error::io("move", from)(error));
    }
    if let Some(directory) = to.parent() {
        sync(directory)?;
    }
    remove_entry(from)
}

fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    let mut opened = Opened::default();
    let metadata = opened.insist(&[from], || std::fs::symlink_metadata(from))?;
    let mode = sys::mode(&metadata);
    match () {
        () if metadata.is_dir() => {
            opened.open(from, USE)?;
            sys::make_directory(to, USE)?;
            for entry in std::fs::read_dir(from)? {
                let name = entry?.file_name();
                copy_tree(&from.join(&name), &to.join(&name))?;
            }
            like(to, &metadata)?;
            sys::set_mode(to, mode)?;
            // Who may not open it has what is in it on disk all the same.
            drop(File::open(to).and_then(|directory| directory.sync_all()));
            Ok(())
        }
        () if metadata.is_file() || metadata.is_symlink() => copy_leaf(from, to, true),
        () if sys::is_fifo(&metadata) => sys::make_fifo(to, mode).and_then(|()| like(to, &metadata)),
        () if sys::is_socket(&metadata) => sys::make_socket(to).and_then(|()| like(to, &metadata)),
        () => Err(io::Error::new(ErrorKind::Unsupported, "a device cannot be moved to another file system")),
    }
}

/// Copies a regular file or a symbolic link to a place where nothing is, permission bits included; synced if `durable`.
pub(crate) fn copy_entry(from: &Path, to: &Path, durable: bool) -> Result<()> {
    copy_leaf(from, to, durable).map_err(Error::io("copy", from))
}

/// Copies an index of git's with the time that it was written: a file that is as young may have changed since, and git
/// compares only the files that are.
pub(crate) fn copy_index(from: &Path, to: &Path, durable: bool) -> Result<()> {
    copy_entry(from, to, durable)?;
    let keep_time = || {
        let written = std::fs::metadata(from)?.modified()?;
        File::options().write(true).open(to)?.set_modified(written)
    };
    keep_time().map_err(Error::io("copy", from))
}

fn copy_leaf(from: &Path, to: &Path, durable: bool) -> io::Result<()> {
    let mut opened = Opened::default();
    let metadata = opened.insist(&[from], || std::fs::symlink_metadata(from))?;
    if metadata.is_symlink() {
        sys::make_link(&std::fs::read_link(from)?, to)?;
        return like(to, &metadata);
    }
    let (mut source, metadata, mode) = opened.read(from)?;
    let mut copy = sys::create_file(to)?;
    let copied = io::copy(&mut source, &mut copy)
        .and_then(|_| like(to, &metadata))
        // Last, because writing and another owner take the bits away that give somebody's rights.
        .and_then(|()| sys::set_mode(to, mode))
        .and_then(|()| if durable { copy.sync_all() } else { Ok(()) });
    if copied.is_err() {
        drop(std::fs::remove_file(to));
    }
    copied
}

/// Opens a regular file for reading, also one that its owner may not read.
pub(crate) fn read_file(path: &Path) -> Result<File> {
    Opened::default().read(path).map(|(file, ..)| file).map_err(Error::io("read", path))
}

/// What is at a path, a link not followed, also where the owner may not look.
pub(crate) fn metadata(path: &Path) -> Result<Metadata> {
    let mut opened = Opened::default();
    opened.insist(&[path], || std::fs::symlink_metadata(path)).map_err(Error::io("look at", path))
}

/// Where a symbolic link points to, as it is written there.
pub(crate) fn read_link(path: &Path) -> Result<PathBuf> {
    let mut opened = Opened::default();
    opened.insist(&[path], || std::fs::read_link(path)).map_err(Error::io("read", path))
}

/// Gives what root makes the owner of what it is made from.
pub(super) fn like(path: &Path, metadata: &Metadata) -> io::Result<()> {
    if sys::effective_user() == 0 { sys::give_to(path, sys::owner(metadata)) } else { Ok(()) }
}

/// Removes an entry of any kind, and all that is below it; a missing one is as good as removed.
pub(crate) fn remove_entry(path: &Path) -> Result<()> {
    let mut opened = Opened::default();
    opened.insist(&[path], || remove_any(path)).map_err(Error::io("remove", path))
}

fn remove_any(path: &Path) -> io::Result<()> {
    let removed = match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => std::fs::remove_dir_all(path).or_else(|error| match error.kind() {
            ErrorKind::PermissionDenied => {
                open_tree(path)?;
                std::fs::remove_dir_all(path)
            }
            _ => Err(error),
        }),
        Ok(_) => std::fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if is_missing(&error) => Ok(()),
        removed => removed,
    }
}

/// Tells whether an error means that nothing is there; below a file nothing is, either.
pub(crate) fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// Gives the owner all permission for a directory, and for those below it: they are about to go.
fn open_tree(path: &Path) -> io::Result<()> {
    sys::set_mode(path, USE)?;
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_tree(&entry.path())?;
        }
    }
    Ok(())
}

/// What stands, on the way from `root` to `path` below it, where a directory should be: a link, or anything else.
pub(crate) fn in_the_way(root: &Path, path: &Path) -> Option<PathBuf> {
    let mut above: Vec<&Path> = path.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty()).collect();
    above.reverse();
    let is_other = |path: &PathBuf| metadata(path).is_ok_and(|metadata| !metadata.is_dir());
    above.into_iter().map(|above| root.join(above)).find(is_other)
}

/// The error to return where something else than a directory is.
pub(crate) fn not_a_directory(path: &Path) -> Error {
    let kind = metadata(path).map_or("not there", |metadata| sys::kind(&metadata));
    Error::NotAFile { path: path.to_owned(), kind, expected: "a directory" }
}

/// Names of all that is in a directory, sorted, also where its owner may not read it.
pub(crate) fn list(directory: &Path) -> Result<Vec<OsString>> {
    let mut opened = Opened::default();
    let mut list = || {
        let entries = opened.insist(&[&directory.join("any")], || std::fs::read_dir(directory))?;
        let names: io::Result<Vec<OsString>> = entries.map(|entry| Ok(entry?.file_name())).collect();
        names
    };
    let mut names = list().map_err(Error::io("list", directory))?;
    names.sort();
    Ok(names)
}

/// Size of the regular files among an entry and all below it, in bytes.
pub(crate) fn size(path: &Path) -> u64 {
    match metadata(path) {
        Ok(metadata) if metadata.is_file() => metadata.len(),
        Ok(metadata) if metadata.is_dir() => {
            list(path).unwrap_or_default().iter().map(|name| size(&path.join(name))).sum()
        }
        _ => 0,
    }
}

/// Writes a file or directory to disk.
pub(crate) fn sync(path: &Path) -> Result<()> {
    let file = sys::open_warily(OpenOptions::new().read(true)).open(path);
    file.and_then(|file| file.sync_all()).map_err(Error::io("sync", path))
}

/// Writes to disk all that was written to the file system of a directory.
pub(crate) fn sync_all(directory: &Path) -> Result<()> {
    let open = File::open(directory);
    open.and_then(|directory| sys::sync_file_system(&directory)).map_err(Error::io("sync", directory))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
    }

    /// A directory with an entry of every kind, among them closed ones.
    fn of_all_kinds(top: &Path) -> PathBuf {
        let all = top.join("all");
        std::fs::create_dir_all(all.join("closed/empty")).unwrap();
        std::fs::write(all.join("closed/file"), "bytes\r\n\0").unwrap();
        std::fs::write(all.join("file"), "unreadable").unwrap();
        std::os::unix::fs::symlink("no/where", all.join("link")).unwrap();
        sys::make_fifo(&all.join("fifo"), 0o640).unwrap();
        sys::make_socket(&all.join("socket")).unwrap();
        sys::set_mode(&all.join("closed/file"), 0o4751).unwrap();
        sys::set_mode(&all.join("file"), 0o000).unwrap();
        sys::set_mode(&all.join("closed"), 0o000).unwrap();
        sys::set_mode(&all, 0o500).unwrap();
        all
    }

    #[track_caller]
    fn assert_all_kinds(all: &Path) {
        assert_eq!((mode(all), mode(&all.join("closed")), mode(&all.join("file"))), (0o500, 0o000, 0o000));
        assert_eq!(read_link(&all.join("link")).unwrap(), Path::new("no/where"));
        assert!(sys::is_fifo(&metadata(&all.join("fifo")).unwrap()) && mode(&all.join("fifo")) == 0o640);
        assert!(sys::is_socket(&metadata(&all.join("socket")).unwrap()));
        let file = all.join("closed/file");
        assert_eq!(io::read_to_string(read_file(&file).unwrap()).unwrap(), "bytes\r\n\0");
        assert_eq!(sys::mode(&metadata(&file).unwrap()), 0o4751);
        assert_eq!(io::read_to_string(read_file(&all.join("file")).unwrap()).unwrap(), "unreadable");
        assert_eq!(list(&all.join("closed")).unwrap(), ["empty", "file"]);
        assert_eq!((mode(&all.join("closed")), mode(&all.join("file"))), (0o000, 0o000), "closed again");
        assert_eq!(size(all), 18);
    }

    #[test]
    fn entries_of_every_kind_are_moved_and_removed_also_closed_ones() {
        let top = tempfile::tempdir().unwrap();
        let all = of_all_kinds(top.path());
        assert_all_kinds(&all);
        let inode = metadata(&all).unwrap().ino();
        sys::set_mode(top.path(), 0o500).unwrap();
        let moved = top.path().join("moved");
        move_entry(&all, &moved).unwrap();
        assert_eq!((mode(top.path()), metadata(&moved).unwrap().ino()), (0o500, inode));
        assert_all_kinds(&moved);
        remove_entry(&moved).unwrap();
        remove_entry(&moved).unwrap();
        remove_entry(&moved.join("below what is not there")).unwrap();
        assert_eq!((list(top.path()).unwrap().len(), mode(top.path())), (0, 0o500));
    }

    #[test]
    fn whole_copy_is_as_good_where_a_rename_cannot_be() {
        let top = tempfile::tempdir().unwrap();
        let all = of_all_kinds(top.path());
        move_across(&all, &top.path().join("moved")).unwrap();
        assert_all_kinds(&top.path().join("moved"));
        assert_eq!(list(top.path()).unwrap(), ["moved"]);
        remove_entry(&top.path().join("moved")).unwrap();
    }

    #[test]
    fn copy_follows_no_link_and_blocks_on_no_fifo() {
        let top = tempfile::tempdir().unwrap();
        let (from, to) = (top.path().join("from"), top.path().join("to"));
        sys::make_fifo(&from, 0o600).unwrap();
        assert!(copy_entry(&from, &to, false).is_err() && metadata(&to).is_err());
        remove_entry(&from).unwrap();
        sys::make_link(Path::new("/etc/passwd"), &from).unwrap();
        copy_entry(&from, &to, true).unwrap();
        assert_eq!(read_link(&to).unwrap(), Path::new("/etc/passwd"));
        assert!(read_file(&from).is_err(), "a link is not read through");
        remove_entry(&from).unwrap();
        std::fs::write(&from, "text").unwrap();
        assert!(copy_entry(&from, &to, false).is_err(), "nothing is written over");
        assert_eq!(read_link(&to).unwrap(), Path::new("/etc/passwd"));
    }

    #[test]
    fn what_is_no_directory_is_in_the_way() {
        let top = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(top.path().join("a/b")).unwrap();
        sys::make_link(Path::new("b"), &top.path().join("a/link")).unwrap();
        let way = |path: &str| in_the_way(top.path(), Path::new(path));
        assert_eq!(way("a/b/c/d"), None);
        assert_eq!(way("a/link"), None);
        assert_eq!(way("a/link/c"), Some(top.path().join("a/link")));
    }
}
