//! Records the worktrees that repoguard made because another was busy, and for whom. The record proves that a worktree is ours to
//! remove.
//!
//! # Format
//! `worktrees/<name>.json`, replaced whole: one JSON object, `schema` 1, and the fields of [`Made`]. Its path is
//! written as [`in_json`] does. The record is written before anything else is made, and removed last: whatever is killed in between, what
//! there is stands in a record.
//!
//! A process that makes, uses or removes the worktree has `worktrees/<name>.lock` locked, as long as it or its keeper lives. It is
//! removed with the record, so a process that has locked it checks whether it is still there. `worktrees/making` is locked while
//! git adds a worktree to its list: git reads the list meanwhile, and would stumble over a half-made one.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    env,
    error::{Error, Result},
    escape::in_json,
    fs::{self, Beside, Ownership, Sharing},
    holder::Mode,
    lock::LockFile,
    repo::{is_branch_name, path_of},
    sys,
};

const SCHEMA: u32 = 1;
/// More than a record has.
const MOST_BYTES: usize = 1 << 20;
const RECORD: &str = ".json";
const LOCK: &str = ".lock";

/// How far a worktree has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Stage {
    /// Nothing is there but, at most, an empty directory and a branch.
    Reserved,
    /// Directory and branch are ours; git checks out.
    Making,
    /// The command runs in it, or everybody was killed with it.
    Used,
    /// The command has run, and something of worth is in it.
    Kept,
    /// There was nothing of worth in it, and it is being removed.
    Removing,
}

/// A worktree that repoguard made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Made {
    pub(crate) schema: u32,
    pub(crate) name: String,
    pub(crate) stage: Stage,
    #[serde(with = "in_json")]
    path: Vec<u8>,
    /// Full name of its branch.
    pub(crate) branch: String,
    /// Whether the branch has a name of our own choice.
    pub(crate) own_name: bool,
    /// The commit that it was made from.
    pub(crate) base: String,
    pub(crate) created_ms: u64,
    /// The newest entry of the stash then.
    pub(crate) stash: Option<String>,
    /// Git's name for it, once it has one.
    pub(crate) id: Option<String>,
    /// What tells it from a later worktree of that name.
    pub(crate) mark: Option<String>,
    pub(crate) pid: u32,
    pub(crate) host: String,
    pub(crate) user: String,
    pub(crate) agent: Option<String>,
    pub(crate) command: String,
    pub(crate) reason: Option<String>,
}

impl Made {
    /// One that this process is about to make; what it is made from is not told yet.
    pub(crate) fn by_us(name: String, path: &Path) -> Self {
        Self {
            schema: SCHEMA,
            name,
            stage: Stage::Reserved,
            path: sys::bytes(path.as_os_str()).into_owned(),
            branch: String::new(),
            own_name: false,
            base: String::new(),
            created_ms: 0,
            stash: None,
            id: None,
            mark: None,
            pid: std::process::id(),
            host: sys::host(),
            user: sys::acting_user(),
            agent: env::agent().map(str::to_owned),
            command: String::new(),
            reason: None,
        }
    }

    /// Tells whether git can be asked about what it names: our directory may hold anything.
    fn is_sound(&self) -> bool {
        let is_commit = matches!(self.base.len(), 40 | 64) && self.base.bytes().all(|byte| byte.is_ascii_hexdigit());
        let is_id = |id: &String| Path::new(id).file_name().is_some_and(|name| name == id.as_str());
        let is_branch = self.branch.strip_prefix("refs/heads/").is_some_and(is_branch_name);
        let is_place =
            self.path().is_absolute() && self.path().file_name().is_some_and(|name| name == self.name.as_str());
        is_commit && is_branch && is_id(&self.name) && self.id.as_ref().is_none_or(is_id) && is_place
    }

    /// Its directory.
    pub(crate) fn path(&self) -> PathBuf {
        path_of(&self.path)
    }

    /// The branch as people say it.
    pub(crate) fn short_branch(&self) -> &str {
        self.branch.strip_prefix("refs/heads/").unwrap_or(&self.branch)
    }
}

/// The records of a repository.
#[derive(Debug, Clone)]
pub(crate) struct Register {
    directory: PathBuf,
    sharing: Sharing,
}

/// A record, locked: nobody else uses or removes the worktree that it is of.
#[derive(Debug)]
pub(crate) struct Entry {
    register: Register,
    pub(crate) made: Made,
    lock: LockFile,
}

impl Register {
    pub(crate) fn new(directory: PathBuf, sharing: Sharing) -> Self {
        Self { directory, sharing }
    }

    /// Takes a name for a worktree to come; `None` where somebody has it.
    pub(crate) fn reserve(&self, made: Made) -> Result<Option<Entry>> {
        let Some(lock) = self.try_lock(&made.name)? else { return Ok(None) };
        let path = self.record(&made.name);
        let entry = Entry { register: self.clone(), made, lock };
        if fs::identity(&path).is_some() {
            entry.lock.unlock();
            return Ok(None);
        }
        match entry.bytes().and_then(|bytes| Beside::write(&path, &bytes, 0o666, self.sharing)?.create()) {
            Ok(()) => Ok(Some(entry)),
            Err(error) => {
                entry.forget();
                Err(error)
            }
        }
    }

    /// All records that can be read, by name. Takes no lock.
    pub(crate) fn all(&self) -> Result<Vec<Made>> {
        let names = match fs::list(&self.directory) {
            Err(Error::Io { source, .. }) if fs::is_missing(&source) => return Ok(Vec::new()),
            names => names?,
        };
        let read = |name: OsString| self.read(name.to_str()?.strip_suffix(RECORD)?);
        let mut all: Vec<Made> = names.into_iter().filter_map(read).collect();
        all.sort_by(|one, other| (one.created_ms, &one.name).cmp(&(other.created_ms, &other.name)));
        Ok(all)
    }

    /// Locks a record; `None` while its owner lives, or if it has gone.
    pub(crate) fn open(&self, name: &str) -> Result<Option<Entry>> {
        let Some(lock) = self.try_lock(name)? else { return Ok(None) };
        let file = fs::open_record(&self.record(name)).ok();
        let ownership = file.and_then(|file| Ownership::of(&file, &self.record(name)).ok());
        // Records of another user of a shared repository are shown, but never acted upon.
        if let Some(made) = self.read(name).filter(|_| ownership.is_some_and(Ownership::is_trusted)) {
            return Ok(Some(Entry { register: self.clone(), made, lock }));
        }
        if fs::identity(&self.record(name)).is_none() {
            fs::remove(&self.lock(name));
        }
        lock.unlock();
        Ok(None)
    }

    /// Tells whether its maker or user lives; `None` if the system does not show that.
    pub(crate) fn is_owned(&self, name: &str) -> Option<bool> {
        let path = self.lock(name);
        if fs::identity(&path).is_none() { Some(false) } else { crate::lock::is_locked(&path) }
    }

    /// Locks the list of git's worktrees against other changes of repoguard's; `None` while somebody else has it.
    pub(crate) fn try_making(&self) -> Result<Option<LockFile>> {
        self.try_file(&self.directory.join("making"))
    }

    /// A path for what is only there for a moment.
    pub(crate) fn passing(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.index"))
    }

    /// The file in which our gits that make or remove a worktree note that they run.
    pub(crate) fn notes(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.trace"))
    }

    /// Removes what was there for a moment, and what git has made beside it.
    pub(crate) fn forget_passing(&self, name: &str) {
        let index = self.passing(name);
        fs::remove(&index.with_extension("index.lock"));
        fs::remove(&self.notes(name));
        fs::remove(&index);
    }

    fn read(&self, name: &str) -> Option<Made> {
        let bytes = fs::read_small(&self.record(name), MOST_BYTES)?;
        let made = serde_json::from_slice::<Made>(&bytes).ok()?;
        (made.schema == SCHEMA && made.name == name && made.is_sound()).then_some(made)
    }

    fn try_lock(&self, name: &str) -> Result<Option<LockFile>> {
        self.try_file(&self.lock(name))
    }

    fn try_file(&self, path: &Path) -> Result<Option<LockFile>> {
        loop {
            let read_only = || Error::io("create", path)(std::io::ErrorKind::ReadOnlyFilesystem.into());
            let lock = LockFile::open(path, self.sharing)?.ok_or_else(read_only)?;
            let no_locks = |source| Error::NoLocks { path: path.to_owned(), source: Some(source) };
            if !lock.try_lock(Mode::Exclusive).map_err(no_locks)? {
                return Ok(None);
            }
            if lock.is_at(path) {
                return Ok(Some(lock));
            }
            lock.unlock();
        }
    }

    fn record(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}{RECORD}"))
    }

    fn lock(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}{LOCK}"))
    }
}

impl Entry {
    /// Says how far it has come, before it goes there.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn advance(&mut self, stage: Stage) -> Result<()> {
        self.made.stage = stage;
        let path = self.register.record(&self.made.name);
        Beside::write(&path, &self.bytes()?, 0o666, self.register.sharing)?.replace()
    }

    /// Reads the record again: a keeper does not know how far the killed wrapper came. `false` if it has gone.
    pub(crate) fn refresh(&mut self) -> bool {
        let read = self.register.read(&self.made.name);
        let is_there = read.is_some();
        if let Some(made) = read {
            self.made = made;
        }
        is_there
    }

    /// The worktree has gone, or was never made.
    pub(crate) fn forget(&self) {
        self.register.forget_passing(&self.made.name);
        fs::remove(&self.register.record(&self.made.name));
        fs::remove(&self.register.lock(&self.made.name));
        self.lock.unlock();
    }

    /// Nobody is at it any more.
    pub(crate) fn release(&self) {
        self.lock.unlock();
    }

    /// The file that says that somebody is at it.
    pub(crate) fn lock(&self) -> &std::fs::File {
        self.lock.file()
    }

    pub(crate) fn register(&self) -> &Register {
        &self.register
    }

    fn bytes(&self) -> Result<Vec<u8>> {
        let path = self.register.record(&self.made.name);
        let mut bytes = serde_json::to_vec(&self.made).map_err(|error| Error::io("write", path)(error.into()))?;
        bytes.push(b'\n');
        Ok(bytes)
    }
}
