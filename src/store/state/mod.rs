//! Lets many processes write to one document without losing a change. Each reads the newest under a short lock of the
//! document's own, changes its own sections in it, and replaces it whole.
//!
//! # Invariants
//! - Readers take no lock, and see one whole document or another.
//! - The lock is taken for every write, inside a hold of the repository as well; it never waits for such a hold.
//! - A document that is damaged, read-only or no regular file is an error, and is left as it is.
//!
//! # The lock
//! Two files, always in this order: one in repoguard's directory (`state.lock`, or `documents/<hash>.lock` by the document's real
//! path), and the document itself. Everybody replaces the document, so it is checked again once it is locked. The first makes
//! writers of one repository wait for each other even if the document is missing; the second also those of other repositories, of
//! none, and `flock(1)`. If locks do not work on the document's file system, the first counts alone; if the git directory cannot be
//! written, the second.

mod newest;
mod staged;

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Serialize, de::DeserializeOwned};

use self::{
    newest::Busy,
    staged::{Change, Made, Staged, bad, checked, json, typed},
};
use super::document::{self, Document};
use crate::{
    error::{Error, Result},
    fs::{self, Sharing},
    repo::{Config, Repo},
};

/// One JSON document that many processes and threads write to, section by section (the members of its object).
///
/// Changes are staged, and [`StateFile::flush`] writes all of them into the newest document in one step: a reader sees all or none
/// of them. Other sections stay byte for byte as others have written them.
///
/// `flush` and `update` block while others write to the same document, never for a hold of the repository. All threads may
/// use one value, or each its own; staging waits while another thread flushes the same value.
///
/// # Example
/// ```
/// use repoguard::{Config, Repo, state::StateFile};
///
/// let directory = tempfile::tempdir()?;
/// let repo = Repo::discover(directory.path())?;
/// let state = StateFile::at(&repo, &Config::load(&repo)?, &directory.path().join("lock.json"))?;
/// state.stage("built", &["x86_64", "aarch64"])?;
/// state.stage_json("version", "1.10")?;
/// assert!(state.flush()?, "it was written");
/// assert_eq!(state.get::<Vec<String>>("built")?.unwrap()[0], "x86_64");
/// assert_eq!(state.get_json("version")?.unwrap(), "1.10", "as it was written, not 1.1");
///
/// state.update("count", |count: Option<u64>| count.unwrap_or(0) + 1)?;
/// assert_eq!(state.get::<u64>("count")?, Some(1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct StateFile {
    /// As it was given; a link there is followed each time.
    path: PathBuf,
    repo: Repo,
    /// Whether it is repoguard's own, and not one of the user's.
    own: bool,
    sharing: Sharing,
    timeout: Option<Duration>,
    staged: Mutex<Staged>,
}

impl StateFile {
    /// The document of a repository, which all its worktrees share: `repoguard/state.json` in the git directory. It need not
    /// exist.
    ///
    /// # Errors
    /// [`Error::NoRepository`].
    pub fn open(repo: &Repo, config: &Config) -> Result<Self> {
        let missing = || Error::NoRepository { path: repo.root().to_owned(), needed_by: "the shared document" };
        let path = repo.state_document().ok_or_else(missing)?;
        let sharing = config.sharing(repo);
        Ok(Self { path, repo: repo.clone(), own: true, sharing, timeout: None, staged: Mutex::default() })
    }

    /// A document at any path, for example a tracked file; relative to the current directory. Its directory must exist. If it is a
    /// symbolic link, its target is the document, and the link stays.
    ///
    /// # Errors
    /// [`Error::Io`] without a current directory.
    pub fn at(repo: &Repo, config: &Config, path: &Path) -> Result<Self> {
        let path = std::path::absolute(path).map_err(Error::io("find", path))?;
        let sharing = config.sharing(repo);
        Ok(Self { path, repo: repo.clone(), own: false, sharing, timeout: None, staged: Mutex::default() })
    }

    /// The same, but waits at most this long for other writers; zero tries once. Without it, there is no limit.
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout: Some(timeout), ..self }
    }

    /// The document's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the document as it is now; `None` when it is missing. Does not block.
    ///
    /// # Errors
    /// [`Error::DamagedDocument`], [`Error::DocumentTooLarge`], [`Error::NotAFile`] and [`Error::Io`] if it cannot be read.
    pub fn read(&self) -> Result<Option<Document>> {
        let is_missing = |error: &Error| matches!(error, Error::Io { source, .. } if fs::is_missing(source));
        let file = self.target().and_then(|target| fs::open(&target, false));
        match file {
            Err(error) if is_missing(&error) => Ok(None),
            file => self.parse(&file?).map(Some),
        }
    }

    /// Reads one section; `None` when it is missing. Does not block.
    ///
    /// # Errors
    /// As [`StateFile::read`]; [`Error::BadValue`] if the section cannot become a `T`.
    pub fn get<T: DeserializeOwned>(&self, section: &str) -> Result<Option<T>> {
        self.get_json(section)?.map(|value| typed(section, &value)).transpose()
    }

    /// Reads one section as it is written; `None` when it is missing. Does not block.
    ///
    /// # Errors
    /// As [`StateFile::read`].
    pub fn get_json(&self, section: &str) -> Result<Option<String>> {
        Ok(self.read()?.and_then(|document| document.get(section).map(str::to_owned)))
    }

    /// Stages a section's new value.
    ///
    /// # Errors
    /// [`Error::BadValue`] if it is not JSON, or nested more than 127 levels deep.
    pub fn stage(&self, section: &str, value: &impl Serialize) -> Result<()> {
        self.stage_json(section, &json(section, value)?)
    }

    /// Stages a section's new value, given as JSON text: its numbers stay as they are written.
    ///
    /// # Errors
    /// As [`StateFile::stage`].
    pub fn stage_json(&self, section: &str, value: &str) -> Result<()> {
        let value = checked(section, value)?;
        self.stage_change(section, Change::Set(value));
        Ok(())
    }

    /// Stages one member of a section that several share, each with members of its own: the others stay. A section of another type
    /// becomes an object.
    ///
    /// # Errors
    /// As [`StateFile::stage`].
    pub fn stage_member(&self, section: &str, name: &str, value: &impl Serialize) -> Result<()> {
        let value = checked(section, &json(section, value)?)?;
        self.stage_change(section, Change::Member(name.to_owned(), value));
        Ok(())
    }

    /// Stages a merge patch (RFC 7396) of a section, given as JSON text: members of the patch replace those of the section,
    /// `null` removes, all else stays. A section that is missing or no object becomes one.
    ///
    /// # Errors
    /// As [`StateFile::stage`], also if a name is twice in one object of the patch.
    pub fn stage_merge(&self, section: &str, patch: &str) -> Result<()> {
        let patch = checked(section, patch)?;
        let mut trial = document::Object::empty();
        let layout = trial.layout();
        trial.merge("patch", &patch, &layout, 0).map_err(|flaw| bad(section, flaw.to_string()))?;
        self.stage_change(section, Change::Merge(patch));
        Ok(())
    }

    /// Stages that a section is removed; one that is missing is as good as removed.
    pub fn stage_removed(&self, section: &str) {
        self.stage_change(section, Change::Remove);
    }

    /// Lets the next flush write only if a section means this then, given as JSON text; `None`: only if it is missing. Numbers
    /// are compared by their exact value, texts by their characters, and the order of members does not count.
    ///
    /// # Errors
    /// As [`StateFile::stage`].
    pub fn expect(&self, section: &str, value: Option<&str>) -> Result<()> {
        let value = value.map(|value| checked(section, value)).transpose()?;
        self.staged().expected.push((section.to_owned(), value));
        Ok(())
    }

    /// Forgets all that is staged and expected.
    pub fn discard(&self) {
        *self.staged() = Staged::default();
    }

    /// Writes all staged changes into the newest document, in one step, on disk when this returns; `true` if that changed anything.
    /// Blocks while others write. Without staged changes it does nothing. After an error all stays staged, and the document is as
    /// it was (or as it was to be, if only the last step failed, which makes it durable).
    ///
    /// # Errors
    /// [`Error::NotAsExpected`]; [`Error::RecordBusy`] after the given time; [`Error::DamagedDocument`],
    /// [`Error::DocumentTooLarge`], [`Error::NotAFile`], [`Error::NoLocks`] and [`Error::Io`] if the document cannot be read,
    /// locked or written; [`Error::NeverGranted`] within [`StateFile::update`] of the same document.
    pub fn flush(&self) -> Result<bool> {
        self.flush_reporting(&mut |_, _| {})
    }

    /// As [`StateFile::flush`]; `tell` is called after a second of waiting, and then every 30 seconds, with the time so far and the
    /// process that writes, if the system shows it.
    ///
    /// # Errors
    /// As [`StateFile::flush`].
    pub fn flush_reporting(&self, report: &mut dyn FnMut(Duration, Option<u32>)) -> Result<bool> {
        // Before the staged changes are locked: in this thread, they may be locked already.
        let _busy = Busy::with(self)?;
        let mut staged = self.staged();
        if staged.changes.is_empty() && staged.expected.is_empty() {
            return Ok(false);
        }
        let changed = self.write(report, |document| staged.apply(document, &self.path))?;
        *staged = Staged::default();
        Ok(changed)
    }

    /// Reads a section, lets `change` make a new value of it, and writes that, while nobody else writes; what is staged stays
    /// staged. Blocks as [`StateFile::flush`]. `change` should take no time, must not write to the
    /// same document, and is called again where somebody else makes the document first that was missing.
    ///
    /// # Errors
    /// As [`StateFile::flush`]; [`Error::BadValue`] if the section cannot become a `T`, or the new value is not JSON.
    pub fn update<T: DeserializeOwned, U: Serialize>(
        &self,
        section: &str,
        mut change: impl FnMut(Option<T>) -> U,
    ) -> Result<bool> {
        let _busy = Busy::with(self)?;
        self.write(&mut |_, _| {}, |document| {
            let old = document.get(section).map(|value| typed(section, value)).transpose()?;
            let new = checked(section, &json(section, &change(old))?)?;
            let layout = document.object.layout();
            document.object.set(section, &new, &layout, 0);
            Ok(Made::Anyway)
        })
    }

    fn stage_change(&self, section: &str, change: Change) {
        self.staged().changes.push((section.to_owned(), change));
    }

    fn staged(&self) -> MutexGuard<'_, Staged> {
        self.staged.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
