//! How do several changes become one? Each is noted with what undoes it: all are made, or none is left.
//!
//! Every step leaves git a hook that it had before or has afterwards, also when we are killed between two of them:
//! what is replaced has a second name first, and the new file gets the old name in one step.
//!
//! # Limitations
//! Where the file system has no hard links, a hook is missing for the moment between two renames.

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
};

use crate::{
    error::{Error, Result},
    fs::{self, Sharing},
    repo::Repo,
    sys,
};

/// Changes that are undone on drop, unless they are finished.
#[must_use = "dropped, it undoes what was done"]
pub(super) struct Change<'a> {
    repo: &'a Repo,
    sharing: Sharing,
    undo: Vec<Undo>,
}

enum Undo {
    /// What was set aside goes back.
    PutBack {
        aside: PathBuf,
        path: PathBuf,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    Remove(PathBuf),
    RemoveDirectory(PathBuf),
    /// The value that a key of git's configuration had; `None` where its section was not there.
    Configure {
        key: String,
        value: Option<OsString>,
    },
}

impl<'a> Change<'a> {
    pub(super) fn new(repo: &'a Repo, sharing: Sharing) -> Self {
        Self { repo, sharing, undo: Vec::new() }
    }

    pub(super) fn make_directory(&mut self, path: &Path) -> Result<()> {
        fs::make_directory(path, self.sharing)?;
        self.undo.push(Undo::RemoveDirectory(path.to_owned()));
        Ok(())
    }

    /// Writes a file, in the place of what is there.
    pub(super) fn put(&mut self, path: &Path, text: &[u8], mode: u32) -> Result<()> {
        let new = !self.set_aside(path)?;
        fs::replace(path, text, mode, self.sharing)?;
        if new {
            self.undo.push(Undo::Remove(path.to_owned()));
        }
        Ok(())
    }

    /// Gives a file a second name that is free: `put` can take the first then.
    pub(super) fn keep(&mut self, from: &Path, to: &Path) -> Result<()> {
        if fs::second_name(from, to).is_ok() {
            self.undo.push(Undo::Remove(to.to_owned()));
            return Ok(());
        }
        fs::rename(from, to)?;
        self.undo.push(Undo::Rename { from: to.to_owned(), to: from.to_owned() });
        Ok(())
    }

    /// Gives a file another name, in the place of what has it.
    pub(super) fn shift(&mut self, from: &Path, to: &Path) -> Result<()> {
        self.set_aside(to)?;
        fs::rename(from, to)?;
        self.undo.push(Undo::Rename { from: to.to_owned(), to: from.to_owned() });
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &Path) -> Result<()> {
        let aside = aside(path);
        fs::remove(&aside);
        fs::rename(path, &aside)?;
        self.undo.push(Undo::PutBack { aside, path: path.to_owned() });
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
        for undo in std::mem::take(&mut self.undo) {
            if let Undo::PutBack { aside, .. } = undo {
                fs::remove(&aside);
            }
        }
    }

    /// Gives what is there a second name to come back from; `false` when nothing is there.
    fn set_aside(&mut self, path: &Path) -> Result<bool> {
        match std::fs::symlink_metadata(path) {
            Err(_) => return Ok(false),
            Ok(metadata) if metadata.is_dir() => {
                return Err(Error::NotAFile { path: path.to_owned(), kind: "a directory", expected: "a file" });
            }
            Ok(_) => {}
        }
        let aside = aside(path);
        fs::remove(&aside);
        if fs::second_name(path, &aside).is_err() {
            fs::rename(path, &aside)?;
        }
        self.undo.push(Undo::PutBack { aside, path: path.to_owned() });
        Ok(true)
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        // What cannot be undone stays: its caller is told already why it failed.
        while let Some(undo) = self.undo.pop() {
            match undo {
                Undo::PutBack { aside, path } => {
                    drop(fs::rename(&aside, &path));
                    // A rename between two names of one file does nothing.
                    fs::remove(&aside);
                }
                Undo::Rename { from, to } => drop(fs::rename(&from, &to)),
                Undo::Remove(path) => fs::remove(&path),
                Undo::RemoveDirectory(path) => drop(fs::remove_directory(&path)),
                Undo::Configure { key, value } => drop(self.repo.configure(&key, value.as_deref())),
            }
        }
    }
}

/// The second name of a file while it is replaced.
fn aside(path: &Path) -> PathBuf {
    let mut name = OsString::from(format!("{}old-", fs::PASSING));
    name.push(path.file_name().unwrap_or_default());
    path.with_file_name(name)
}

/// Removes what somebody who was killed left in a directory.
pub(super) fn tidy(directory: &Path) {
    for name in sys::names(directory).iter().filter(|name| name.starts_with(fs::PASSING)) {
        fs::remove(&directory.join(name));
    }
}
