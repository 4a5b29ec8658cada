//! Describes a request: the resources, shared or exclusive, and how long to wait.

use std::{path::PathBuf, time::Duration};

use super::{Holder, Mode};
use crate::{
    error::{Error, Result},
    holder,
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
