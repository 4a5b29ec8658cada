//! Names an entry below a directory. No record and no link can lead out of that directory.
//!
//! A path that stands in a file, or that git prints, reaches the file system as a [`Place`] only, and [`Root::at`] makes one
//! of a path that stays below the root. Every operation on a place opens the directories on the way anew, without following
//! a link, and then names one entry of an open directory.

use std::{
    ffi::{OsStr, OsString},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::is_ours_name;
use crate::{
    error::{Error, Result},
    sys::{self, Directory},
};

/// A directory that paths are used below.
#[derive(Debug, Clone)]
pub(crate) struct Root {
    path: PathBuf,
    directory: Arc<Directory>,
    /// Names that no path may go through.
    forbidden: fn(&OsStr) -> bool,
}

/// An entry below a root; it need not exist.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    base: Base,
    /// Relative to the base; `.` is the base itself.
    inner: PathBuf,
    /// For messages.
    path: PathBuf,
}

/// The directory at which an operation begins. Links above it are followed.
#[derive(Debug, Clone)]
enum Base {
    Open(Arc<Directory>),
    Path(PathBuf),
}

impl Root {
    /// Opens the directory, through links if the caller's path has any. No path below it may go through a `forbidden` name.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn open(path: &Path, forbidden: fn(&OsStr) -> bool) -> Result<Self> {
        let directory = Arc::new(Directory::open(path).map_err(Error::io("open", path))?);
        Ok(Self { path: path.to_owned(), directory, forbidden })
    }

    /// Opens a directory in ours; below ours no link is followed.
    ///
    /// # Errors
    /// [`Error::NotAFile`] for another kind of entry, [`Error::Io`].
    pub(crate) fn ours(path: &Path) -> Result<Self> {
        let directory = Place::from(path).directory().map_err(|error| {
            if sys::is_link_error(&error) {
                return Error::NotAFile { path: path.to_owned(), kind: "a symbolic link", expected: "a directory" };
            }
            Error::io("open", path)(error)
        })?;
        Ok(Self { path: path.to_owned(), directory, forbidden: |_| false })
    }

    /// Its path, for messages.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Why a path cannot be used below this directory.
    ///
    /// # Errors
    /// The reason, in words.
    pub(crate) fn check(&self, path: &[u8]) -> Result<(), &'static str> {
        if let Some(why) = sys::why_outside(path) {
            return Err(why);
        }
        let is_forbidden = path.split(|byte| *byte == b'/').any(|name| (self.forbidden)(&sys::name_of(name)));
        if is_forbidden { Err("it leads into a git directory") } else { Ok(()) }
    }

    /// The entry at a path below this directory.
    ///
    /// # Errors
    /// [`Error::UnsafePath`].
    pub(crate) fn at(&self, path: &[u8]) -> Result<Place> {
        let inner = PathBuf::from(sys::name_of(path));
        self.check(path).map_err(|why| Error::UnsafePath { path: inner.clone(), why })?;
        let path = self.path.join(&inner);
        Ok(Place { base: Base::Open(self.directory.clone()), inner, path })
    }

    /// The directory itself.
    pub(crate) fn top(&self) -> Place {
        Place { base: Base::Open(self.directory.clone()), inner: PathBuf::from("."), path: self.path.clone() }
    }
}

/// A path that this process has made up itself. At and below a directory of ours no link is followed.
impl From<&Path> for Place {
    fn from(path: &Path) -> Self {
        let parts: Vec<&OsStr> = path.iter().collect();
        // A git directory below it would make it a checkout of that name.
        let checkout = parts.iter().rposition(|part| *part == ".git").unwrap_or(0);
        let ours = parts.iter().rposition(|part| is_ours_name(part)).filter(|ours| *ours >= checkout);
        // At least the last component is looked up in an open directory.
        let split = ours.unwrap_or(parts.len()).min(parts.len().saturating_sub(1));
        let (base, inner): (PathBuf, PathBuf) = (parts[..split].iter().collect(), parts[split..].iter().collect());
        let base = if base.as_os_str().is_empty() { PathBuf::from(".") } else { base };
        Self { base: Base::Path(base), inner, path: path.to_owned() }
    }
}

impl From<&PathBuf> for Place {
    fn from(path: &PathBuf) -> Self {
        path.as_path().into()
    }
}

impl From<&Place> for Place {
    fn from(place: &Place) -> Self {
        place.clone()
    }
}

impl Place {
    /// Its path, for messages.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The directory above what is ours.
    pub(super) fn base_path(&self) -> PathBuf {
        match &self.base {
            Base::Open(_) => self.path.parent().unwrap_or(&self.path).to_owned(),
            Base::Path(path) => path.clone(),
        }
    }

    /// An entry of this directory, by a name that this process has made up or has listed.
    pub(crate) fn child(&self, name: impl AsRef<OsStr>) -> Self {
        let (name, is_top) = (name.as_ref(), self.inner == Path::new("."));
        let inner = if is_top { PathBuf::from(name) } else { self.inner.join(name) };
        Self { base: self.base.clone(), inner, path: self.path.join(name) }
    }

    /// The directory that it is in; `None` if that is the root.
    pub(super) fn above(&self) -> Option<Self> {
        match (self.inner.parent().filter(|above| !above.as_os_str().is_empty()), &self.base) {
            (Some(above), _) => {
                let path = self.path.parent().unwrap_or(&self.path).to_owned();
                Some(Self { base: self.base.clone(), inner: above.to_owned(), path })
            }
            (None, Base::Path(base)) if base.parent().is_some() => Some(base.into()),
            (None, _) => None,
        }
    }

    /// The base, open, and the names of the directories below it that lead to this entry.
    pub(super) fn way(&self) -> io::Result<(Arc<Directory>, Vec<OsString>)> {
        let names: Vec<OsString> = self.inner.iter().map(OsStr::to_owned).collect();
        Ok((self.open_base()?, names[..names.len().saturating_sub(1)].to_vec()))
    }

    /// The directory that it is in, open, and its name there.
    pub(super) fn parent(&self) -> io::Result<(Arc<Directory>, &OsStr)> {
        let name = self.inner.file_name().unwrap_or(self.inner.as_os_str());
        let above = self.inner.parent().filter(|above| !above.as_os_str().is_empty());
        Ok((above.map_or_else(|| self.open_base(), |above| self.open_below(above))?, name))
    }

    /// The directory that it is, open.
    pub(super) fn directory(&self) -> io::Result<Arc<Directory>> {
        if self.inner == Path::new(".") { self.open_base() } else { self.open_below(&self.inner) }
    }

    fn open_base(&self) -> io::Result<Arc<Directory>> {
        match &self.base {
            Base::Open(directory) => Ok(directory.clone()),
            Base::Path(path) => Directory::open(path).map(Arc::new),
        }
    }

    fn open_below(&self, inner: &Path) -> io::Result<Arc<Directory>> {
        match &self.base {
            Base::Open(directory) => directory.below(inner).map(Arc::new),
            Base::Path(path) => Directory::open(path)?.below(inner).map(Arc::new),
        }
    }
}

/// The first link at or below what is ours on the way to a path.
pub(super) fn link_on_the_way(path: &Path) -> Option<PathBuf> {
    let mut all: Vec<&Path> = path.ancestors().collect();
    let ours = all.iter().position(|part| part.file_name().is_some_and(is_ours_name))?;
    all.truncate(ours + 1);
    all.reverse();
    let is_link = |part: &&Path| std::fs::symlink_metadata(part).is_ok_and(|metadata| metadata.is_symlink());
    all.into_iter().find(is_link).map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::unwrap_used,
        clippy::disallowed_methods,
        reason = "a test makes files, and fails where it cannot"
    )]

    use super::{super::*, *};

    #[test]
    fn path_that_leads_out_or_through_a_forbidden_name_is_no_place() {
        let top = tempfile::tempdir().unwrap();
        let root = Root::open(top.path(), |name| name == ".git").unwrap();
        for bad in ["", "/etc/passwd", "..", "a/../b", "./a", "a//b", "a/", ".git/config", "sub/.git", "a\0b"] {
            assert!(matches!(root.at(bad.as_bytes()), Err(Error::UnsafePath { .. })), "{bad:?}");
        }
        for good in ["a", "a/b", "..a/b..", ".gitignore", "-"] {
            root.at(good.as_bytes()).unwrap();
        }
    }

    #[test]
    fn directory_that_became_a_link_leads_nowhere() {
        let top = tempfile::tempdir().unwrap();
        for directory in ["root/a", "outside"] {
            std::fs::create_dir_all(top.path().join(directory)).unwrap();
        }
        std::fs::write(top.path().join("outside/file"), "kept").unwrap();
        let root = Root::open(&top.path().join("root"), |_| false).unwrap();
        let place = root.at(b"a/file").unwrap();
        std::fs::remove_dir(top.path().join("root/a")).unwrap();
        std::os::unix::fs::symlink(Path::new("../outside"), top.path().join("root/a")).unwrap();
        put_file(&place, 0o644, None, |_| Ok(())).unwrap_err();
        put_link(&place, Path::new("x"), None).unwrap_err();
        make_directories(root.at(b"a/new").unwrap(), None).unwrap_err();
        set_mode(&place, 0o777).unwrap_err();
        read_file(&place).unwrap_err();
        list(root.at(b"a").unwrap()).unwrap_err();
        remove_entry(&place).unwrap();
        assert!(remove_if_empty(root.at(b"a/file").unwrap()).unwrap());
        assert!(move_entry(&place, root.at(b"moved").unwrap()).is_err());
        assert_eq!(std::fs::read(top.path().join("outside/file")).unwrap(), b"kept");
        assert_eq!(list(&top.path().join("outside")).unwrap(), ["file"]);
    }

    #[test]
    fn our_directory_is_entered_through_no_link() {
        let top = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(top.path().join("git")).unwrap();
        std::fs::create_dir_all(top.path().join("outside/snapshots")).unwrap();
        std::os::unix::fs::symlink(Path::new("git"), top.path().join("link")).unwrap();
        std::os::unix::fs::symlink(Path::new("../outside"), top.path().join("git/repoguard")).unwrap();
        Root::ours(&top.path().join("link/repoguard/snapshots")).unwrap_err();
        assert!(matches!(Root::ours(&top.path().join("link/repoguard")), Err(Error::NotAFile { .. })));
        std::fs::remove_file(top.path().join("git/repoguard")).unwrap();
        std::fs::create_dir_all(top.path().join("git/repoguard/snapshots")).unwrap();
        Root::ours(&top.path().join("link/repoguard/snapshots")).unwrap();
    }
}
