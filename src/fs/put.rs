//! How does a whole file, link or directory get into its place? In one step, and on disk when that is done.

use std::{
    fs::File,
    io::{self, ErrorKind},
    path::Path,
};

use super::{PASSING, opened::Opened, tree};
use crate::{
    error::{Error, Result},
    sys,
};

/// Puts a whole file in its place in one step, with exactly these permission bits, on disk when this returns.
///
/// `owner` can be given by root only. Its directory must exist.
pub(crate) fn put_file(
    path: &Path,
    mode: u32,
    owner: Option<(u32, u32)>,
    fill: impl FnOnce(&mut File) -> io::Result<()>,
) -> Result<()> {
    put(path, mode, owner, fill, File::sync_all)
}

/// As [`put_file`], for one of many: on disk after [`super::sync_all`].
pub(crate) fn put_file_of_many(
    path: &Path,
    mode: u32,
    owner: Option<(u32, u32)>,
    fill: impl FnOnce(&mut File) -> io::Result<()>,
) -> Result<()> {
    put(path, mode, owner, fill, |_| Ok(()))
}

fn put(
    path: &Path,
    mode: u32,
    owner: Option<(u32, u32)>,
    fill: impl FnOnce(&mut File) -> io::Result<()>,
    sync: impl FnOnce(&File) -> io::Result<()>,
) -> Result<()> {
    let mut opened = Opened::default();
    let put = || {
        let directory = path.parent().unwrap_or(path);
        let mut new =
            opened.insist(&[path], || passing().permissions(sys::permissions(0o600)).tempfile_in(directory))?;
        fill(new.as_file_mut())?;
        // In this order, because writing and another owner take the bits away that give somebody's rights.
        owner.map_or(Ok(()), |owner| sys::give_to(new.path(), owner))?;
        sys::set_mode(new.path(), mode)?;
        sync(new.as_file())?;
        // Closed before it has its name: a program that is open for writing cannot be run.
        new.into_temp_path().persist(path).map_err(|error| error.error)
    };
    put().map_err(Error::io("write", path))
}

/// Puts a symbolic link in its place in one step.
pub(crate) fn put_link(path: &Path, target: &Path, owner: Option<(u32, u32)>) -> Result<()> {
    put_other(path, owner, |new| sys::make_link(target, new))
}

/// Puts a FIFO in its place in one step.
pub(crate) fn put_fifo(path: &Path, mode: u32, owner: Option<(u32, u32)>) -> Result<()> {
    put_other(path, owner, |new| sys::make_fifo(new, mode).and_then(|()| sys::set_mode(new, mode)))
}

fn put_other(path: &Path, owner: Option<(u32, u32)>, make: impl Fn(&Path) -> io::Result<()>) -> Result<()> {
    let mut opened = Opened::default();
    let mut put = || {
        let directory = path.parent().unwrap_or(path);
        let new = opened.insist(&[path], || passing().make_in(directory, |new| make(new)))?.into_temp_path();
        owner.map_or(Ok(()), |owner| sys::give_to(&new, owner))?;
        new.persist(path).map_err(|error| error.error)
    };
    put().map_err(Error::io("write", path))
}

fn passing() -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(PASSING);
    builder
}

/// Makes a directory and those above it that are missing, with these permission bits or the usual ones.
///
/// # Errors
/// [`Error::NotAFile`] where something else has the name, else [`Error::Io`].
pub(crate) fn make_directories(path: &Path, mode: Option<u32>) -> Result<()> {
    let mut opened = Opened::default();
    match opened.insist(&[path], || std::fs::symlink_metadata(path)) {
        Ok(metadata) if metadata.is_dir() => return Ok(()),
        Ok(_) => return Err(tree::not_a_directory(path)),
        Err(error) if tree::is_missing(&error) => {}
        Err(error) => return Err(Error::io("create", path)(error)),
    }
    let above = path.parent().unwrap_or(path);
    make_directories(above, mode)?;
    let mut make = || {
        opened.insist(&[path], || sys::make_directory(path, 0o777))?;
        tree::like(path, &std::fs::symlink_metadata(above)?)?;
        mode.map_or(Ok(()), |mode| sys::set_mode(path, mode))
    };
    match make() {
        // Somebody else was faster, and may have removed it again.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => make_directories(path, mode),
        done => done.map_err(Error::io("create", path)),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use std::io::Write as _;

    use super::{super::list, *};

    #[test]
    fn file_is_put_whole_with_every_bit_or_not_at_all() {
        let top = tempfile::tempdir().unwrap();
        let file = top.path().join("file");
        let text = |text: &'static str| move |file: &mut File| file.write_all(text.as_bytes());
        put_file(&file, 0o4755, None, text("first")).unwrap();
        sys::set_mode(top.path(), 0o500).unwrap();
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
        sys::set_mode(top.path(), 0o700).unwrap();
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
