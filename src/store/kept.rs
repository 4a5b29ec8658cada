//! Keeps what was undone, so that it can be brought back. Before something is undone, it is moved into a directory of
//! its own.
//!
//! The format stands at the head of `manifest.rs`. Killed at any instant, each file is either in its place or in the snapshot, and
//! another process can [`Keeping::resume`] it. `expiry.rs` decides how long it is kept.

use std::{
    fs::File,
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde::Serialize;

pub(crate) use super::manifest::Header;
use super::{
    expiry,
    manifest::{BUNDLE, FILES, First, Line, MANIFEST, SCHEMA},
    place::{new_id, place},
    snapshots,
};
use crate::{
    error::{Error, Result},
    fs::{self, Place, Root, Sharing},
    holder,
    repo::{Repo, is_git_directory, path_of},
    sys,
};

/// So many entries are written to disk one by one; more of them all at once.
const MOST_SYNCS: usize = 32;

/// A snapshot that is being made.
#[derive(Debug)]
pub(crate) struct Keeping {
    id: String,
    directory: PathBuf,
    /// The snapshot's own files.
    files: Root,
    /// The worktree.
    root: Root,
    manifest: File,
    /// How many lines there are beside the first.
    lines: usize,
    next: u64,
    /// Files to sync at the end.
    taken: Vec<Place>,
}

impl Keeping {
    /// Makes sure that there is a directory for snapshots: before anything is done that must be kept to be undone.
    ///
    /// # Errors
    /// [`Error::NoRepository`] without a git directory, [`Error::NotAFile`], [`Error::Io`].
    pub(crate) fn prepare(repo: &Repo, sharing: Sharing) -> Result<()> {
        let snapshots = place(repo)?;
        fs::create_directory(&snapshots, sharing)?;
        Root::ours(&snapshots).map(drop)
    }

    /// Makes an empty one.
    ///
    /// # Errors
    /// As [`Keeping::prepare`].
    pub(crate) fn begin(repo: &Repo, header: Header, sharing: Sharing) -> Result<Self> {
        Self::prepare(repo, sharing)?;
        let snapshots = place(repo)?;
        let now = SystemTime::now();
        let id = new_id(now)?;
        let directory = snapshots.join(&id);
        fs::make_private_directory(&directory, sharing)?;
        let first = First {
            schema: SCHEMA,
            id: id.clone(),
            made_at_ms: holder::unix_ms(now),
            root: sys::bytes(repo.root().as_os_str()).into_owned(),
            header,
        };
        let begin = || {
            fs::make_directory(&directory.join(FILES), sharing)?;
            let keeping = Self::open(repo, id, directory.clone(), sharing)?;
            keeping.append(&first)?;
            Ok(keeping)
        };
        begin().inspect_err(|_| drop(fs::remove_entry(&directory)))
    }

    /// Goes on with one that a killed process had begun.
    ///
    /// # Errors
    /// [`Error::NoSnapshot`] when there is none, [`Error::NotAFile`], [`Error::Io`].
    pub(crate) fn resume(repo: &Repo, id: &str, sharing: Sharing) -> Result<Self> {
        let snapshot = snapshots::snapshot(repo, id)?;
        let mut keeping = Self::open(repo, snapshot.id, snapshot.directory, sharing)?;
        keeping.lines = snapshot.lines;
        // Nobody has written to disk what the killed process had taken.
        keeping.taken.push(keeping.files.top());
        let names = sys::names(&keeping.directory.join(FILES));
        let last = names.iter().filter_map(|name| name.parse::<u64>().ok()).max();
        keeping.next = last.unwrap_or(0).max(snapshot.lines as u64) + 1;
        Ok(keeping)
    }

    fn open(repo: &Repo, id: String, directory: PathBuf, sharing: Sharing) -> Result<Self> {
        let manifest = fs::open_for_append(&directory.join(MANIFEST), sharing)?;
        let (files, root) = (Root::ours(&directory.join(FILES))?, Root::open(repo.root(), is_git_directory)?);
        Ok(Self { id, directory, files, root, manifest, lines: 0, next: 1, taken: Vec::new() })
    }

    /// Its id.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Moves what is at a path of the worktree, of any kind, whole directories too. Nothing there is nothing to keep.
    ///
    /// # Errors
    /// [`Error::NotAFile`] if a link is on the way, [`Error::Io`]: then the file is in its place.
    pub(crate) fn take(&mut self, path: &[u8]) -> Result<()> {
        let from = self.below_root(path)?;
        let above = self.above(path);
        let line = |file| Line::Moved { file, path: path.to_vec(), above };
        self.keep(&from, line, |from, to| fs::move_entry(from, to))
    }

    /// Copies the file or link at a path of the worktree.
    ///
    /// # Errors
    /// As [`Keeping::take`].
    pub(crate) fn copy(&mut self, path: &[u8]) -> Result<()> {
        let from = self.below_root(path)?;
        let above = self.above(path);
        let line = |file| Line::Copied { file, path: path.to_vec(), above };
        self.keep(&from, line, |from, to| fs::copy_entry(from, to, false))
    }

    /// Notes that what is undone deleted this path of the worktree.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn deleted(&mut self, path: &[u8]) -> Result<()> {
        self.note(&Line::Deleted { path: path.to_vec() })
    }

    /// Moves an entry from outside of the worktree, under a label that describes it.
    ///
    /// # Errors
    /// [`Error::Io`]: then the entry is in its place.
    pub(crate) fn take_other(&mut self, label: &str, from: &Path) -> Result<()> {
        let path = sys::bytes(from.as_os_str());
        let line = |file| Line::Other { file, label: label.to_owned(), path: path.to_vec() };
        self.keep(&from.into(), line, |from, to| fs::move_entry(from, to))
    }

    /// Notes that a reference was moved.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn reference(&mut self, name: &str, old: Option<&str>, new: Option<&str>) -> Result<()> {
        let [old, new] = [old, new].map(|id| id.map(str::to_owned));
        self.note(&Line::Reference { name: name.to_owned(), old, new })
    }

    /// The path for git's bundle of the undone commits.
    pub(crate) fn bundle(&self) -> PathBuf {
        self.directory.join(BUNDLE)
    }

    /// Writes to disk what was taken so far: after that what it is replaced by may be on disk, too.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn sync(&mut self) -> Result<()> {
        let taken = std::mem::take(&mut self.taken);
        if taken.len() > MOST_SYNCS || taken.iter().any(|place| fs::metadata(place).is_ok_and(|found| found.is_dir())) {
            return fs::sync_all(&self.directory);
        }
        for place in &taken {
            // Unreadable entries, and other kinds than files, have no bytes to lose.
            drop(fs::sync(place));
        }
        self.manifest.sync_all().map_err(Error::io("sync", self.directory.join(MANIFEST)))?;
        let snapshots = self.directory.parent().unwrap_or(&self.directory);
        [&*self.directory.join(FILES), &self.directory, snapshots].into_iter().try_for_each(fs::sync)
    }

    /// Writes all to disk, and gives the id; an empty one is removed and has none. Then removes old ones, and the oldest
    /// where all together have more bytes than `limit`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn finish(mut self, limit: u64) -> Result<Option<String>> {
        let bundle = self.bundle();
        if fs::identity(&bundle).is_some() {
            self.taken.push(Place::from(&bundle));
        } else if self.lines == 0 {
            // Closed before it is removed.
            drop(self.manifest);
            fs::discard(&self.directory)?;
            return Ok(None);
        }
        let bytes = fs::size(&self.directory.join(FILES)) + fs::size(&bundle);
        self.append(&Line::Finished { at_ms: holder::unix_ms(SystemTime::now()), bytes })?;
        self.sync()?;
        if let Some(snapshots) = self.directory.parent() {
            expiry::expire(snapshots, &self.id, limit);
        }
        Ok(Some(self.id))
    }

    fn below_root(&self, path: &[u8]) -> Result<Place> {
        let place = self.root.at(path)?;
        let way = fs::in_the_way(&self.root, &path_of(path))?;
        let above = way.map(|above| self.root.at(&sys::bytes(above.as_os_str()))).transpose()?;
        match above {
            Some(link) if fs::metadata(&link).is_ok_and(|above| above.is_link()) => Err(fs::not_a_directory(&link)),
            _ => Ok(place),
        }
    }

    /// Permission bits of the directories above a path of the worktree.
    fn above(&self, path: &[u8]) -> Vec<u32> {
        let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        let bits = |(at, _)| Some(fs::metadata(&self.root.at(&path[..at]).ok()?).ok()?.permissions());
        slashes.map(bits).collect::<Option<_>>().unwrap_or_default()
    }

    fn keep(
        &mut self,
        from: &Place,
        line: impl FnOnce(u64) -> Line,
        bring: impl FnOnce(&Place, &Place) -> Result<()>,
    ) -> Result<()> {
        let is_missing = |error: &Error| matches!(error, Error::Io { source, .. } if fs::is_missing(source));
        if fs::find(from)?.is_none() {
            return Ok(());
        }
        let to = self.files.at(self.next.to_string().as_bytes())?;
        self.note(&line(self.next))?;
        self.next += 1;
        match bring(from, &to) {
            Err(error) if is_missing(&error) => Ok(()),
            brought => brought.map(|()| self.taken.push(to)),
        }
    }

    fn note(&mut self, line: &Line) -> Result<()> {
        self.append(line)?;
        self.lines += 1;
        Ok(())
    }

    fn append(&self, line: &impl Serialize) -> Result<()> {
        let line = serde_json::to_vec(line).unwrap_or_default();
        fs::append_line(&self.manifest, &self.directory.join(MANIFEST), line)
    }
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::unwrap_used,
        clippy::disallowed_methods,
        reason = "a test makes files, and fails where it cannot"
    )]

    use std::fs::{create_dir_all, read_dir, write};

    use super::*;

    /// A repository that git would take for one.
    fn repository() -> (tempfile::TempDir, Repo) {
        let top = tempfile::tempdir().unwrap();
        for directory in ["objects", "refs"] {
            create_dir_all(top.path().join(".git").join(directory)).unwrap();
        }
        write(top.path().join(".git/HEAD"), "ref: refs/heads/main\n").unwrap();
        let repo = Repo::discover_of_any_owner(top.path()).unwrap();
        (top, repo)
    }

    fn begin(repo: &Repo) -> Keeping {
        Keeping::begin(repo, Header { why: "a test".to_owned(), ..Header::default() }, Sharing::default()).unwrap()
    }

    #[test]
    fn killed_at_any_step_nothing_is_nowhere() {
        let (top, repo) = repository();
        let odd = path_of(b"n\xff\n");
        write(top.path().join(&odd), "odd").unwrap();
        create_dir_all(top.path().join("dir/sub")).unwrap();
        write(top.path().join("dir/sub/file"), "in it").unwrap();
        write(top.path().join("copied"), "stays").unwrap();
        let mut keeping = begin(&repo);
        let id = keeping.id().to_owned();
        keeping.take(b"n\xff\n").unwrap();
        keeping.take(b"not there").unwrap();
        keeping.copy(b"copied").unwrap();
        // The line is written, and the process is killed before it moves the directory.
        keeping.note(&Line::Moved { file: keeping.next, path: b"dir".to_vec(), above: Vec::new() }).unwrap();
        drop(keeping);
        let seen = snapshots::snapshot(&repo, &id).unwrap();
        let paths: Vec<_> = seen.files.iter().map(|kept| kept.path.clone()).collect();
        assert_eq!((paths, seen.finished), (vec![odd, "copied".into()], false));

        let mut keeping = Keeping::resume(&repo, &id, Sharing::default()).unwrap();
        keeping.take(b"dir").unwrap();
        keeping.deleted(b"gone").unwrap();
        keeping.take_other("lock", &top.path().join(".git/HEAD")).unwrap();
        keeping.reference("refs/heads/x", None, Some("1234")).unwrap();
        assert_eq!(keeping.finish(0).unwrap(), Some(id.clone()), "the one just made stays, however small the limit");
        let seen = snapshots::snapshot(&repo, &id).unwrap();
        assert!(seen.finished && seen.files.len() == 3 && seen.deleted.len() == 1 && seen.references.len() == 1);
        assert_eq!((seen.files[2].path.to_str(), seen.files[2].inside), (Some("dir/sub/file"), 2));
        assert_eq!((seen.others[0].label.as_str(), seen.others.len(), seen.bytes), ("lock", 1, 34));
        assert_eq!(fs::list(top.path()).unwrap(), [".git", "copied"]);
        assert!(matches!(Keeping::resume(&repo, "2", Sharing::default()), Ok(again) if again.next > seen.lines as u64));
    }

    #[test]
    fn empty_one_is_none() {
        let (_top, repo) = repository();
        let mut keeping = begin(&repo);
        keeping.take(b"not there").unwrap();
        assert_eq!(keeping.finish(0).unwrap(), None);
        assert_eq!(snapshots::snapshots(&repo).unwrap().len(), 0);
        assert_eq!(read_dir(repo.snapshots_dir().unwrap()).unwrap().count(), 0);
    }

    #[test]
    fn nothing_is_taken_over_a_link() {
        let (top, repo) = repository();
        create_dir_all(top.path().join("real")).unwrap();
        write(top.path().join("real/file"), "stays").unwrap();
        std::os::unix::fs::symlink(Path::new("real"), top.path().join("link")).unwrap();
        let mut keeping = begin(&repo);
        assert!(matches!(keeping.take(b"link/file"), Err(Error::NotAFile { .. })));
        assert!(matches!(keeping.copy(b"link/file"), Err(Error::NotAFile { .. })));
        keeping.take(b"real/file/below").unwrap();
        keeping.take(b"link").unwrap();
        assert_eq!(fs::list(top.path()).unwrap(), [".git", "real"]);
        assert_eq!(std::fs::read(top.path().join("real/file")).unwrap(), b"stays");
    }
}
