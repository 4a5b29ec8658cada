//! Describes a request: the resources, shared or exclusive, and how long to wait.

use std::{path::PathBuf, time::Duration};

use super::{Holder, Mode, PathPlace, Resource, path::PATH_KEY};
use crate::{
    error::{Error, Result},
    fs::Sharing,
    holder,
    repo::{REPO_KEY, ROOT_KEY, Repo, Worktree},
    sys::Signals,
};

/// How much is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// One checkout: HEAD, index and files.
    Worktree,
    /// Everything: all worktrees, and the refs, configuration and stash that they share.
    Repo,
}

/// A request for a lock.
///
/// # Example
/// ```
/// use std::time::Duration;
/// use repoguard::Request;
///
/// let request = Request::new().name("deploy").timeout(Duration::from_secs(30)).reason("a release");
/// # assert_eq!(request.names, ["deploy"]);
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Request {
    /// How much; `None`: with `names` only these, else as configured, else the worktree.
    pub scope: Option<Scope>,
    /// Names of further resources of this repository, taken together or not at all; [`MOST_NAMES`] at most.
    pub names: Vec<String>,
    /// Shared or exclusive. A shared request for the whole repository fails.
    pub mode: Mode,
    /// How long to wait: zero tries once, [`Duration::MAX`] waits without limit. `None`: as configured, else without limit.
    pub timeout: Option<Duration>,
    /// Why, told to those who wait; at most [`holder::MOST_TEXT_BYTES`].
    pub reason: Option<String>,
    /// Anything that callers want to tell each other in [`Holder::metadata`]; at most [`holder::MOST_TEXT_BYTES`] of JSON.
    pub metadata: Option<serde_json::Value>,
    /// The command, told to those who wait.
    pub command: String,
    /// The process that the lock is for, if it is another one: its descendants are inside the hold.
    pub for_process: Option<u32>,
    /// Whether one of git's own locks is held around this: then a try fails at once, whatever is in the way.
    pub(crate) holds_git_lock: bool,
    /// Whether a hold around this process is enough in any mode: git's hooks never ask for more than is held.
    pub(crate) content: bool,
}

impl Default for Request {
    fn default() -> Self {
        Self {
            scope: None,
            names: Vec::new(),
            mode: Mode::Exclusive,
            timeout: None,
            reason: None,
            metadata: None,
            command: String::new(),
            for_process: None,
            holds_git_lock: false,
            content: false,
        }
    }
}

impl Request {
    /// An exclusive request for the worktree, or for the configured scope; waits as configured, else without limit.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets [`Request::scope`].
    #[must_use]
    pub fn scope(mut self, scope: Scope) -> Self {
        self.scope = Some(scope);
        self
    }

    /// Adds one to [`Request::names`].
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.names.push(name.into());
        self
    }

    /// Holds together with others who share it, instead of alone.
    #[must_use]
    pub fn shared(mut self) -> Self {
        self.mode = Mode::Shared;
        self
    }

    /// Sets [`Request::timeout`].
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sets [`Request::reason`].
    #[must_use]
    pub fn reason(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(reason.into());
        self
    }

    /// Sets [`Request::metadata`].
    #[must_use]
    pub fn metadata(mut self, metadata: serde_json::Value) -> Self {
        self.metadata = Some(metadata);
        self
    }

    /// Sets [`Request::command`].
    #[must_use]
    pub fn command(mut self, command: impl Into<String>) -> Self {
        self.command = command.into();
        self
    }

    /// Checks what is handed on to others.
    ///
    /// # Errors
    /// [`Error::BadValue`] if reason or metadata are longer than [`holder::MOST_TEXT_BYTES`].
    pub(super) fn check(&self) -> Result<()> {
        let too_long = |what: &str| Error::BadValue {
            what: what.to_owned(),
            reason: format!("it has more than {} KiB", holder::MOST_TEXT_BYTES >> 10),
        };
        if self.reason.as_ref().is_some_and(|reason| reason.len() > holder::MOST_TEXT_BYTES) {
            return Err(too_long("the reason"));
        }
        if self.metadata.as_ref().is_some_and(|metadata| metadata.to_string().len() > holder::MOST_TEXT_BYTES) {
            return Err(too_long("the metadata"));
        }
        Ok(())
    }
}

/// A waiter's view; holders and queue are looked up only on demand.
pub struct Waiting<'a> {
    /// How long it has waited.
    pub waited: Duration,
    /// The requested resources, in words.
    pub what: &'a str,
    pub(super) look: &'a dyn Fn() -> (Vec<Holder>, Vec<Holder>),
    pub(super) unchecked: &'a [PathBuf],
}

impl<'a> Waiting<'a> {
    /// A wait for `what`; `look` finds its holders and the waiters before us.
    pub(crate) fn new(
        what: &'a str,
        look: &'a dyn Fn() -> (Vec<Holder>, Vec<Holder>),
        unchecked: &'a [PathBuf],
    ) -> Self {
        Self { waited: Duration::ZERO, what, look, unchecked }
    }

    /// Directories of records of other repositories that could not be read: a deadlock that goes through them is not seen.
    #[must_use]
    pub fn unchecked(&self) -> &[PathBuf] {
        self.unchecked
    }

    /// Looks up who holds the lock, and who waits before us, nearest to the lock first.
    #[must_use]
    pub fn holders_and_ahead(&self) -> (Vec<Holder>, Vec<Holder>) {
        (self.look)()
    }
}

impl std::fmt::Debug for Waiting<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waiting").field("waited", &self.waited).field("what", &self.what).finish_non_exhaustive()
    }
}

/// How a wait can be ended and watched.
pub(crate) struct Wait<'a> {
    /// Signals that end it; nobody's in a library.
    pub(crate) signals: Option<&'a Signals>,
    /// Called after [`Wait::GRACE`] and then every [`Wait::TICK`].
    pub(crate) report: &'a mut dyn FnMut(&Waiting<'_>),
}

impl Wait<'_> {
    /// A wait shorter than this is not worth a word.
    pub(crate) const GRACE: Duration = Duration::from_millis(300);
    /// How often a waiter looks whether the one before it is stopped, and tells how it stands.
    pub(crate) const TICK: Duration = Duration::from_secs(1);
}

/// Most names in one request: their keys must fit into a record.
pub const MOST_NAMES: usize = 64;

/// A request's plan in a repository.
#[derive(Debug)]
pub(super) struct Plan {
    /// Keys of all resources with modes: two plans conflict if they share a key and one of the modes is exclusive.
    pub(super) resources: Vec<(String, Mode)>,
    /// The files to lock, in the one order that is the same for everybody.
    pub(super) parts: Vec<PartPlan>,
    /// The scope in words, as records show it.
    pub(super) scope: String,
    /// The requested resources, in words.
    pub(super) what: String,
    /// The worktrees that are covered.
    pub(super) worktrees: Vec<Worktree>,
    /// Whether a hold around us is enough in any mode.
    pub(super) content: bool,
    pub(super) sharing: Sharing,
}

/// One file to lock.
#[derive(Debug, Clone)]
pub(super) struct PartPlan {
    pub(super) resource: String,
    pub(super) path: PathBuf,
    pub(super) mode: Mode,
    /// A directory, locked beside the file so that deleting the file lets nobody in.
    pub(super) anchor: bool,
    /// Locked only if it is there, and anybody may remove it: the lock file of a hold from before `git init`.
    pub(super) optional: bool,
}

impl Plan {
    pub(super) fn new(repo: &Repo, request: &Request, sharing: Sharing) -> Result<Self> {
        let scope = request.scope.or(request.names.is_empty().then_some(Scope::Worktree));
        let needs = |needed_by| Error::NoRepository { path: repo.root().to_owned(), needed_by };
        let mut plan = Self {
            resources: Vec::new(),
            parts: Vec::new(),
            scope: scope_text(scope, &request.names),
            what: String::new(),
            worktrees: Vec::new(),
            content: request.content,
            sharing,
        };
        plan.what = plan.scope_in(repo);
        let Some(repo_lock) = repo.repo_lock() else {
            if !request.names.is_empty() {
                return Err(needs("a named lock"));
            }
            plan.add(ROOT_KEY, repo.lock_path(), request.mode, false);
            return Ok(plan);
        };
        let repo_mode = if scope == Some(Scope::Repo) { Mode::Exclusive } else { Mode::Shared };
        plan.add_repo(repo, repo_lock, repo_mode);
        plan.worktrees = match scope {
            Some(Scope::Repo) => repo.worktrees()?,
            Some(Scope::Worktree) => repo.worktree().into_iter().collect(),
            None => Vec::new(),
        };
        for worktree in plan.worktrees.clone() {
            plan.add(&worktree.key, worktree.lock_path(), request.mode, false);
            plan.add(&worktree.key, worktree.git_dir, request.mode, true);
        }
        if let Some(path) = repo.lock_from_before().filter(|_| scope.is_some()) {
            plan.add(ROOT_KEY, path, request.mode, false);
            plan.parts.iter_mut().filter(|part| part.resource == ROOT_KEY).for_each(|part| part.optional = true);
        }
        let mut names: Vec<_> = request.names.iter().filter_map(|name| repo.name_lock(name)).collect();
        names.sort();
        names.dedup();
        if names.len() > MOST_NAMES {
            return Err(Error::Unsupported { what: "a request for more than 64 names" });
        }
        for (key, path) in names {
            plan.add(&key, path, request.mode, false);
        }
        Ok(plan)
    }

    /// The plan for adding a worktree to the repository, and locking it once it is there: nobody may hold everything.
    pub(super) fn for_new_worktree(repo: &Repo, sharing: Sharing) -> Result<Self> {
        let needs = || Error::NoRepository { path: repo.root().to_owned(), needed_by: "a new worktree" };
        let repo_lock = repo.repo_lock().ok_or_else(needs)?;
        let mut plan = Self {
            resources: Vec::new(),
            parts: Vec::new(),
            scope: "new worktree".to_owned(),
            what: String::new(),
            worktrees: Vec::new(),
            content: false,
            sharing,
        };
        plan.what = plan.scope_in(repo);
        plan.add_repo(repo, repo_lock, Mode::Shared);
        Ok(plan)
    }

    /// The lock at a path of the caller's.
    pub(super) fn at_path(place: &PathPlace, request: &Request, sharing: Sharing) -> Self {
        let mut plan = Self {
            resources: Vec::new(),
            parts: Vec::new(),
            scope: PATH_KEY.to_owned(),
            what: format!("the lock of `{}`", place.shown().display()),
            worktrees: Vec::new(),
            content: false,
            sharing,
        };
        plan.add(place.key(), place.lock().to_owned(), request.mode, false);
        if place.is_directory() {
            plan.add(place.key(), place.directory().to_owned(), request.mode, true);
        }
        plan
    }

    /// The resources as all of this process know them, whatever repository or path they are of.
    ///
    /// # Errors
    /// [`Error::Io`] when a directory cannot be read that they are in.
    pub(super) fn resources_here(&self, common: &std::path::Path) -> Result<Vec<(Resource, Mode)>> {
        let resource = |(key, mode): &(String, Mode)| {
            let part = self.parts.iter().find(|part| part.resource == *key && !part.anchor);
            let worktree = self.worktrees.iter().find(|worktree| worktree.key == *key);
            let file = part
                .filter(|_| worktree.is_some() || [ROOT_KEY, PATH_KEY].contains(&key.as_str()))
                .map(|part| part.path.as_path());
            // Those of a whole repository are in a directory that may have to be made first.
            let (directory, name) = match file.and_then(|file| Some((file.parent()?, file.file_name()?))) {
                Some((directory, name)) => (directory, name.to_owned()),
                None => (common, key.into()),
            };
            Ok((Resource::new(directory, name, key == REPO_KEY)?, *mode))
        };
        self.resources.iter().map(resource).collect()
    }

    /// Takes the linked worktrees out of a request for everything that are not there any more; tells whether there were any.
    pub(super) fn forget_removed_worktrees(&mut self) -> bool {
        let everything = self.resources.iter().any(|(key, mode)| key == REPO_KEY && *mode == Mode::Exclusive);
        let is_gone = |worktree: &&Worktree| everything && !worktree.is_main() && !worktree.git_dir.is_dir();
        let gone: Vec<String> = self.worktrees.iter().filter(is_gone).map(|worktree| worktree.key.clone()).collect();
        self.worktrees.retain(|worktree| !gone.contains(&worktree.key));
        self.resources.retain(|(key, _)| !gone.contains(key));
        self.parts.retain(|part| !gone.contains(&part.resource));
        !gone.is_empty()
    }

    fn add_repo(&mut self, repo: &Repo, lock: PathBuf, mode: Mode) {
        self.add(REPO_KEY, lock, mode, false);
        if let Some(anchor) = repo.repo_anchor() {
            self.add(REPO_KEY, anchor, mode, true);
        }
    }

    fn add(&mut self, resource: &str, path: PathBuf, mode: Mode, anchor: bool) {
        if !anchor {
            self.resources.push((resource.to_owned(), mode));
        }
        self.parts.push(PartPlan { resource: resource.to_owned(), path, mode, anchor, optional: false });
    }

    fn scope_in(&self, repo: &Repo) -> String {
        format!("the lock of `{}` ({})", repo.root().display(), self.scope)
    }
}

fn scope_text(scope: Option<Scope>, names: &[String]) -> String {
    let scope = scope.map(|scope| match scope {
        Scope::Worktree => "worktree".to_owned(),
        Scope::Repo => "repo".to_owned(),
    });
    let names = names.iter().map(|name| format!("name {}", holder::readable(name)));
    holder::readable(&scope.into_iter().chain(names).collect::<Vec<_>>().join(", "))
}
