//! Puts a whole file, link or directory in its place, in one step, and on disk when that is done.

use std::{
    fs::File,
    io::{self, ErrorKind},
    path::Path,
};

use super::{
    opened::Opened,
    passing::{PASSING, Passing},
    place::Place,
    tree,
};
use crate::{
    error::{Error, Result},
    sys::{self, Directory},
};

/// Puts a whole file in its place in one step, with exactly these permission bits, on disk when this returns.
///
/// `owner` can be given by root only. Its directory must exist.
pub(crate) fn put_file(
    place: impl Into<Place>,
    mode: u32,
    owner: Option<(u32, u32)>,
    fill: impl FnOnce(&mut File) -> io::Result<()>,
) -> Result<()> {
    put(&place.into(), mode, owner, fill, File::sync_all)
}

/// As [`put_file`], for one of many: on disk after [`super::sync_all`].
pub(crate) fn put_file_of_many(
    place: impl Into<Place>,
    mode: u32,
    owner: Option<(u32, u32)>,
    fill: impl FnOnce(&mut File) -> io::Result<()>,
) -> Result<()> {
    put(&place.into(), mode, owner, fill, |_| Ok(()))
}

fn put(
    place: &Place,
    mode: u32,
    owner: Option<(u32, u32)>,
    fill: impl FnOnce(&mut File) -> io::Result<()>,
    sync: impl FnOnce(&File) -> io::Result<()>,
) -> Result<()> {
    let mut opened = Opened::default();
    let put = || {
        let (new, mut written) = opened
            .insist(&[place], || Passing::make(place, PASSING, |directory, name| directory.create(name, 0o600)))?;
        fill(&mut written)?;
        // In this order, because writing and another owner take the bits away that give somebody's rights.
        owner.map_or(Ok(()), |owner| sys::give_to(&written, owner))?;
        sys::set_mode(&written, mode)?;
        sync(&written)?;
        // Closed before it has its name: a program that is open for writing cannot be run.
        drop(written);
        new.replace()
    };
    put().map_err(Error::io("write", place.path()))
}

/// Puts a symbolic link in its place in one step.
pub(crate) fn put_link(place: impl Into<Place>, target: &Path, owner: Option<(u32, u32)>) -> Result<()> {
    put_other(&place.into(), sys::LINK, None, owner, |directory, name| directory.make_link(target, name))
}

/// Puts a FIFO in its place in one step.
pub(crate) fn put_fifo(place: impl Into<Place>, mode: u32, owner: Option<(u32, u32)>) -> Result<()> {
    put_other(&place.into(), sys::FIFO, Some(mode), owner, |directory, name| directory.make_fifo(name, 0o600))
}

fn put_other(
    place: &Place,
    kind: u32,
    mode: Option<u32>,
    owner: Option<(u32, u32)>,
    make: impl Fn(&Directory, &std::ffi::OsStr) -> io::Result<()>,
) -> Result<()> {
    let mut opened = Opened::default();
    let mut put = || {
        let (new, ()) = opened.insist(&[place], || Passing::make(place, PASSING, &make))?;
        let (directory, name) = new.here();
        owner.map_or(Ok(()), |owner| directory.give(name, kind, owner))?;
        mode.map_or(Ok(()), |mode| directory.set_mode(name, mode))?;
        new.replace()
    };
    put().map_err(Error::io("write", place.path()))
}

/// Makes a directory and those above it that are missing, with these permission bits or the usual ones.
///
/// # Errors
/// [`Error::NotAFile`] where something else has the name, else [`Error::Io`].
pub(crate) fn make_directories(place: impl Into<Place>, mode: Option<u32>) -> Result<()> {
    let place = &place.into();
    let mut opened = Opened::default();
    let look = || place.parent().and_then(|(directory, name)| directory.look(name));
    match opened.insist(&[place], look) {
        Ok(found) if found.is_dir() => return Ok(()),
        Ok(_) => return Err(tree::not_a_directory(place)),
        Err(error) if tree::is_missing(&error) => {}
        Err(error) => return Err(Error::io("create", place.path())(error)),
    }
    if let Some(above) = place.above() {
        make_directories(&above, mode)?;
    }
    let mut make = || {
        opened
            .insist(&[place], || place.parent().and_then(|(directory, name)| directory.make_directory(name, 0o777)))?;
        let (directory, name) = place.parent()?;
        tree::like(&directory, name, sys::DIRECTORY, &directory.found()?)?;
        mode.map_or(Ok(()), |mode| directory.set_mode(name, mode))
    };
    match make() {
        // Somebody else was faster, and may have removed it again.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => make_directories(place, mode),
        done => done.map_err(Error::io("create", place.path())),
    }
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::unwrap_used,
        clippy::disallowed_methods,
        reason = "a test makes files, and fails where it cannot"
    )]

    use std::io::Write as _;

    use super::{
        super::{list, set_mode},
        *,
    };

    #[test]
    fn file_is_put_whole_with_every_bit_or_not_at_all() {
        let top = tempfile::tempdir().unwrap();
        let file = top.path().join("file");
        let text = |text: &'static str| move |file: &mut File| file.write_all(text.as_bytes());
        put_file(&file, 0o4755, None, text("first")).unwrap();
        set_mode(top.path(), 0o500).unwrap();
        let full = |file: &mut File| text("half")(file).and(Err(ErrorKind::StorageFull.into()));
        let error = put_file(&file, 0o600, None, full).unwrap_err();
        assert!(matches!(error, Error::Io { path, .. } if path == file));
        assert_eq!(std::fs::read(&file).unwrap(), b"first");
        put_file(&file, 0o000, None, text("second")).unwrap();
        assert_eq!(sys::mode(&std::fs::metadata(&file).unwrap()), 0o000);
        put_link(&file, Path::new("any/where"), None).unwrap();
        assert_eq!(std::fs::read_link(&file).unwrap(), Path::new("any/where"));
        put_fifo(&file, 0o622, None).unwrap();
        assert_eq!(sys::mode(&std::fs::symlink_metadata(&file).unwrap()), 0o622);
        assert_eq!(list(top.path()).unwrap(), ["file"], "nothing passing is left");
        assert_eq!(sys::mode(&std::fs::metadata(top.path()).unwrap()), 0o500);
        set_mode(top.path(), 0o700).unwrap();
    }

    #[test]
    fn directories_are_made_but_not_changed() {
        let top = tempfile::tempdir().unwrap();
        make_directories(&top.path().join("a/b"), Some(0o750)).unwrap();
        make_directories(&top.path().join("a/b/c"), Some(0o705)).unwrap();
        let mode = |path: &str| sys::mode(&std::fs::metadata(top.path().join(path)).unwrap());
        assert_eq!((mode("a"), mode("a/b"), mode("a/b/c")), (0o750, 0o750, 0o705));
        std::fs::write(top.path().join("file"), "").unwrap();
        assert!(matches!(make_directories(&top.path().join("file/d"), None), Err(Error::NotAFile { .. })));
    }
}
