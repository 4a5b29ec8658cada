//! Makes several changes as one. Each is noted with what undoes it: all are made, or none is left.
//!
//! Every step leaves git a hook that it had before or has afterwards, also when we are killed between two of them:
//! what is replaced has a second name first, and the new file gets the old name in one step.
//!
//! # Limitations
//! On a file system without hard links, a hook is missing for the moment between two renames.

use std::{
    ffi::{OsStr, OsString},
    io,
    path::{Path, PathBuf},
};

use super::{CHAINED, Event, LEGACY};
use crate::{
    error::{Error, Result},
    fs::{self, Beside, Sharing},
    repo::Repo,
    sys::{self, FileId},
};

/// Changes that are undone on drop, unless they are finished.
///
/// Each step gets what was seen in its place: a later file of somebody else's is not touched, and is an error.
#[must_use = "dropped, it undoes what was done"]
pub(super) struct Change<'a> {
    repo: &'a Repo,
    sharing: Sharing,
    undo: Vec<Undo>,
    /// The second names of what was replaced or removed, and what has them.
    asides: Vec<(PathBuf, Option<FileId>)>,
}

enum Undo {
    /// A file goes back to its place, and replaces only this file of ours.
    Rename {
        from: PathBuf,
        to: PathBuf,
        over: Option<FileId>,
    },
    /// A file goes, if it is this one.
    Remove {
        path: PathBuf,
        id: Option<FileId>,
    },
    RemoveDirectory(PathBuf),
    /// The value that a key of git's configuration had; `None` where its section was not there.
    Configure {
        key: String,
        value: Option<OsString>,
    },
}

impl<'a> Change<'a> {
    pub(super) fn new(repo: &'a Repo, sharing: Sharing) -> Self {
        Self { repo, sharing, undo: Vec::new(), asides: Vec::new() }
    }

    pub(super) fn make_directory(&mut self, path: &Path) -> Result<()> {
        fs::make_directory(path, self.sharing)?;
        self.undo.push(Undo::RemoveDirectory(path.to_owned()));
        Ok(())
    }

    /// Writes a file, in the place of what was seen there.
    pub(super) fn put(&mut self, path: &Path, text: &[u8], mode: u32, seen: Option<FileId>) -> Result<()> {
        let new = Beside::write(path, text, mode, self.sharing)?;
        if seen.is_some() {
            let linked = self.set_aside(path, seen, new.id())?;
            return self.place(new, path, linked);
        }
        self.place(new, path, false)
    }

    /// Writes a file, and keeps what was seen there under another name, which is free.
    pub(super) fn keep(
        &mut self,
        (path, seen): (&Path, Option<FileId>),
        to: &Path,
        (text, mode): (&[u8], u32),
    ) -> Result<()> {
        let new = Beside::write(path, text, mode, self.sharing)?;
        let linked = self.give_name(path, to, seen, new.id())?;
        self.place(new, path, linked)
    }

    /// Gives a file another name, in the place of what was seen there.
    pub(super) fn shift(&mut self, from: (&Path, Option<FileId>), to: (&Path, Option<FileId>)) -> Result<()> {
        let ((from, moved), (to, seen)) = (from, to);
        if seen.is_some() {
            self.set_aside(to, seen, None)?;
            expect(from, moved, from)?;
            fs::rename(from, to)?;
            self.undo.push(Undo::Rename { from: to.to_owned(), to: from.to_owned(), over: None });
        } else if self.give_name(from, to, moved, None)? {
            fs::remove(from);
        }
        Ok(())
    }

    /// Removes what was seen there.
    pub(super) fn remove(&mut self, path: &Path, seen: Option<FileId>) -> Result<()> {
        let aside = aside(path);
        fs::rename(path, &aside)?;
        self.undo.push(Undo::Rename { from: aside.clone(), to: path.to_owned(), over: None });
        expect(&aside, seen, path)?;
        self.asides.push((aside, seen));
        Ok(())
    }

    /// Sets a value in the repository's configuration.
    pub(super) fn configure(&mut self, key: &str, value: &OsStr, before: Option<&OsStr>) -> Result<()> {
        self.repo.configure(key, Some(value))?;
        self.undo.push(Undo::Configure { key: key.to_owned(), value: before.map(OsStr::to_owned) });
        Ok(())
    }

    /// Removes a section of the repository's configuration, which holds these values.
    pub(super) fn remove_section(&mut self, values: Vec<(String, OsString)>) -> Result<()> {
        if let Some((key, _)) = values.first() {
            self.repo.configure(key, None)?;
        }
        self.undo.extend(values.into_iter().map(|(key, value)| Undo::Configure { key, value: Some(value) }));
        Ok(())
    }

    /// Lets all of it stand.
    pub(super) fn finish(mut self) {
        self.undo.clear();
        for (aside, id) in &self.asides {
            remove_only(aside, *id);
        }
    }

    /// Gives a file a second name to come back from, which replaces only this file of ours; tells whether the first name still leads
    /// to it.
    fn set_aside(&mut self, path: &Path, seen: Option<FileId>, over: Option<FileId>) -> Result<bool> {
        if path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir()) {
            return Err(Error::NotAFile { path: path.to_owned(), kind: "a directory", expected: "a file" });
        }
        let aside = aside(path);
        fs::remove(&aside);
        let linked = self.give_name(path, &aside, seen, over)?;
        let id = fs::identity(&aside);
        self.asides.push((aside, id));
        Ok(linked)
    }

    /// The same for any name that is free.
    fn give_name(&mut self, path: &Path, to: &Path, seen: Option<FileId>, over: Option<FileId>) -> Result<bool> {
        let linked = fs::take_name(path, to)?;
        self.undo.push(Undo::Rename { from: to.to_owned(), to: path.to_owned(), over });
        // Not every file system tells that two names lead to one file.
        expect(if linked { path } else { to }, seen, path)?;
        Ok(linked)
    }

    /// Gives a new file its name, over the file that was just seen, or in a free place.
    fn place(&mut self, new: Beside, path: &Path, over: bool) -> Result<()> {
        if over {
            return new.replace();
        }
        let id = new.id();
        new.create()?;
        self.undo.push(Undo::Remove { path: path.to_owned(), id });
        Ok(())
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        // A step that cannot be undone stays: the caller already has the error.
        while let Some(undo) = self.undo.pop() {
            match undo {
                Undo::Rename { from, to, over } => put_back(&from, &to, over),
                Undo::Remove { path, id } => remove_only(&path, id),
                Undo::RemoveDirectory(path) => drop(fs::remove_directory(&path)),
                Undo::Configure { key, value } => drop(self.repo.configure(&key, value.as_deref())),
            }
        }
    }
}

/// Renames a file, over nothing but a certain other one. Never takes away the last name of a file of somebody else's.
fn put_back(from: &Path, to: &Path, over: Option<FileId>) {
    let (file, there) = (fs::identity(from), fs::identity(to));
    if there.is_some() && there == file {
        // Two names of one file, between which a rename does nothing.
        remove_only(from, file);
    } else if there.is_none() || there == over {
        drop(fs::rename(from, to));
    }
}

/// Removes a file, if it is this one.
fn remove_only(path: &Path, id: Option<FileId>) {
    if fs::identity(path) == id {
        fs::remove(path);
    }
}

/// Checks that what is at a path is what was seen there under its first name.
fn expect(path: &Path, seen: Option<FileId>, first: &Path) -> Result<()> {
    let changed = || io::Error::other("somebody else changed it just now; do it again");
    if fs::identity(path) == seen { Ok(()) } else { Err(Error::io("replace", first)(changed())) }
}

/// The second name of a file while it is replaced.
fn aside(path: &Path) -> PathBuf {
    let mut name = OsString::from(ASIDE);
    name.push(path.file_name().unwrap_or_default());
    path.with_file_name(name)
}

/// The prefix of the second names.
const ASIDE: &str = ".repoguard-old-";

/// Removes what somebody who was killed left in a directory of hooks.
pub(super) fn tidy(directory: &Path) {
    for name in sys::names(directory).iter().filter(|name| is_passing(name)) {
        let path = directory.join(name);
        if path.symlink_metadata().is_ok_and(|metadata| metadata.is_file() || metadata.is_symlink()) {
            fs::remove(&path);
        }
    }
}

/// Whether a name is one that only we give, and not to stay.
fn is_passing(name: &str) -> bool {
    if let Some(rest) = name.strip_prefix(fs::PASSING) {
        return rest.len() == 6 && rest.bytes().all(|byte| byte.is_ascii_alphanumeric());
    }
    let Some(first) = name.strip_prefix(ASIDE) else { return false };
    let suffixes = ["", CHAINED, LEGACY, ".old"];
    Event::ALL.iter().filter_map(|event| first.strip_prefix(event.name())).any(|suffix| suffixes.contains(&suffix))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test plays the others who write here")]
mod tests {
    use std::fs as others;

    use super::*;

    /// A hook of the user's, and what happens to it.
    fn with_hook(test: impl Fn(&mut Change<'_>, &Path, &Path)) {
        let directory = tempfile::tempdir().unwrap();
        let (hook, kept) = (directory.path().join("pre-commit"), directory.path().join("pre-commit.repoguard-chained"));
        others::write(&hook, "the user's").unwrap();
        let repo = Repo::discover(directory.path()).unwrap();
        test(&mut Change::new(&repo, Sharing::default()), &hook, &kept);
        let left = |name: &String| name.starts_with(fs::PASSING);
        assert!(!sys::names(directory.path()).iter().any(left), "no file is left half-written");
    }

    fn undo(change: &mut Change<'_>) {
        let (repo, sharing) = (change.repo, change.sharing);
        drop(std::mem::replace(change, Change::new(repo, sharing)));
    }

    fn text(path: &Path) -> String {
        others::read_to_string(path).unwrap_or_default()
    }

    #[test]
    fn what_is_undone_is_as_before() {
        with_hook(|change, hook, kept| {
            change.keep((hook, fs::identity(hook)), kept, (b"ours", 0o777)).unwrap();
            assert_eq!((text(hook), text(kept)), ("ours".to_owned(), "the user's".to_owned()));
            undo(change);
            assert_eq!((text(hook), text(kept)), ("the user's".to_owned(), String::new()));
            change.put(hook, b"ours", 0o777, fs::identity(hook)).unwrap();
            undo(change);
            assert_eq!(text(hook), "the user's");
            assert_eq!(sys::names(hook.parent().unwrap()), ["pre-commit"]);
        });
    }

    #[test]
    fn undo_never_takes_the_last_copy() {
        with_hook(|change, hook, kept| {
            change.keep((hook, fs::identity(hook)), kept, (b"ours", 0o777)).unwrap();
            // A file that cannot go back to its place stays.
            others::remove_file(hook).unwrap();
            others::create_dir(hook).unwrap();
            undo(change);
            assert_eq!(text(kept), "the user's");
        });
        with_hook(|change, hook, kept| {
            change.keep((hook, fs::identity(hook)), kept, (b"ours", 0o777)).unwrap();
            others::write(hook.with_extension("new"), "saved since").unwrap();
            others::rename(hook.with_extension("new"), hook).unwrap();
            undo(change);
            assert_eq!((text(hook), text(kept)), ("saved since".to_owned(), "the user's".to_owned()));
        });
    }

    #[test]
    fn name_that_is_taken_is_not_taken_over() {
        with_hook(|change, hook, kept| {
            others::write(kept, "another one").unwrap();
            change.keep((hook, fs::identity(hook)), kept, (b"ours", 0o777)).unwrap_err();
            undo(change);
            assert_eq!((text(hook), text(kept)), ("the user's".to_owned(), "another one".to_owned()));
        });
    }

    #[test]
    fn what_somebody_saved_since_is_not_replaced() {
        with_hook(|change, hook, kept| {
            let seen = fs::identity(hook);
            change.put(hook, b"ours", 0o777, None).unwrap_err();
            others::write(hook.with_extension("new"), "saved since").unwrap();
            others::rename(hook.with_extension("new"), hook).unwrap();
            for attempt in 0..4 {
                let done = match attempt {
                    0 => change.put(hook, b"ours", 0o777, seen),
                    1 => change.keep((hook, seen), kept, (b"ours", 0o777)),
                    2 => change.remove(hook, seen),
                    _ => change.shift((hook, seen), (kept, None)),
                };
                let error = done.unwrap_err();
                assert!(
                    matches!(&error, Error::Io { source, .. } if source.to_string().contains("just now")),
                    "{error}"
                );
                undo(change);
                assert_eq!((text(hook), text(kept)), ("saved since".to_owned(), String::new()));
            }
        });
    }

    #[test]
    fn only_our_own_names_are_tidied_away() {
        for name in
            [".repoguard-new-aB3xY9", ".repoguard-old-pre-commit", ".repoguard-old-pre-rebase.repoguard-chained"]
        {
            assert!(is_passing(name), "{name}");
        }
        for name in [
            ".repoguard-new",
            ".repoguard-config",
            ".repoguard-notes.txt",
            ".repoguard-old-me",
            ".repoguard-old-pre-commit.bak",
            "",
        ] {
            assert!(!is_passing(name), "{name}");
        }
    }
}
