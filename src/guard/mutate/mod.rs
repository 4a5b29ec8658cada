//! Makes a change that lands whole or not at all: read → validate → write → validate → commit, under the lock. If a step fails, everything
//! is put back.
//!
//! | file | what |
//! | --- | --- |
//! | this one | what is asked for, and the lock around it |
//! | `session` | the steps, in their order |
//! | `read`, `commit` | the first step and the last |
//! | `step` | what runs in a step: a command with the lock in its hands |
//! | `outcome` | how it ended |

mod commit;
mod outcome;
mod read;
mod session;
mod step;

pub use outcome::{Failure, FailureReason, Invalid, Landed, Mutated, Rollback};

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use self::session::Session;
use super::{Admission, Caller, Context, Terms, admit, environment, recovery};
use crate::{
    env,
    error::{Error, Result},
    exec::{self, RunLifecycle as _},
    fs,
    lock::{LockFile, Request},
    repo::{Checkout, ExpectedHead, Manner, Worktree},
    sys::{self, Retry, Signals},
    transaction::{Changes, Choice, Journal},
};

/// A mutation, without the change itself.
#[derive(Debug, Clone)]
#[non_exhaustive]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub struct Mutation {
    /// The commit's message, a paragraph each.
    pub message: Vec<OsString>,
    /// Command lines for `sh -c` that find out whether the repository is fit to be changed.
    pub checks: Vec<OsString>,
    /// Command lines for `sh -c` that find out whether the result is right.
    pub verifies: Vec<OsString>,
    /// The HEAD that the caller expects.
    pub expect: ExpectedHead,
    /// Git pathspecs, as seen from the current directory: nothing else may change. Empty: anything may.
    pub paths: Vec<OsString>,
    /// Whether the caller may have changes of its own, which stay as they are.
    pub allow_dirty: bool,
    /// Whether untracked files are kept before the command runs, so that they can be put back. If not, it must not change any.
    pub untracked: bool,
    /// Whether a commit is made that changes nothing.
    pub allow_empty: bool,
    /// Whether git's own `index.lock` and `HEAD.lock` are held meanwhile, so that no other git can touch either.
    pub fence: bool,
    /// The destination of the validated change.
    pub landing: Landing,
    /// How long all of it may take; then the running step is ended.
    pub max_hold: Option<Duration>,
    /// How long after that it is killed.
    pub kill_after: Duration,
    /// Whether SIGTERM to the process that runs the steps ends a step with all its descendants at once. Else it is passed on first.
    pub term_ends_all: bool,
    /// The directory of the steps for [`crate::Repo::mutate`], in the worktree. `None`: this process's directory if that is in the
    /// worktree, else the top.
    pub directory: Option<PathBuf>,
    /// The `repoguard` program that runs the steps for [`crate::Repo::mutate`]: a path, or a name to look up in `PATH`.
    pub program: PathBuf,
}

impl Mutation {
    /// A mutation with this commit message, without checks and limits.
    pub fn new(message: impl Into<OsString>) -> Self {
        Self { message: vec![message.into()], ..Self::default() }
    }

    /// Adds a paragraph to [`Mutation::message`].
    #[must_use]
    pub fn message(mut self, paragraph: impl Into<OsString>) -> Self {
        self.message.push(paragraph.into());
        self
    }

    /// Adds a command to [`Mutation::checks`].
    #[must_use]
    pub fn check(mut self, command: impl Into<OsString>) -> Self {
        self.checks.push(command.into());
        self
    }

    /// Adds a command to [`Mutation::verifies`].
    #[must_use]
    pub fn verify(mut self, command: impl Into<OsString>) -> Self {
        self.verifies.push(command.into());
        self
    }

    /// Adds a pathspec to [`Mutation::paths`].
    #[must_use]
    pub fn path(mut self, pathspec: impl Into<OsString>) -> Self {
        self.paths.push(pathspec.into());
        self
    }

    /// Sets [`Mutation::expect`].
    #[must_use]
    pub fn expect(mut self, expect: ExpectedHead) -> Self {
        self.expect = expect;
        self
    }

    /// Sets [`Mutation::allow_dirty`].
    #[must_use]
    pub fn allow_dirty(mut self, allow: bool) -> Self {
        self.allow_dirty = allow;
        self
    }

    /// Sets [`Mutation::untracked`].
    #[must_use]
    pub fn untracked(mut self, keep: bool) -> Self {
        self.untracked = keep;
        self
    }

    /// Sets [`Mutation::allow_empty`].
    #[must_use]
    pub fn allow_empty(mut self, allow: bool) -> Self {
        self.allow_empty = allow;
        self
    }

    /// Sets [`Mutation::fence`].
    #[must_use]
    pub fn fence(mut self, fence: bool) -> Self {
        self.fence = fence;
        self
    }

    /// Sets [`Mutation::landing`].
    #[must_use]
    pub fn landing(mut self, landing: Landing) -> Self {
        self.landing = landing;
        self
    }

    /// Sets [`Mutation::max_hold`].
    #[must_use]
    pub fn max_hold(mut self, max_hold: Duration) -> Self {
        self.max_hold = Some(max_hold);
        self
    }

    /// Sets [`Mutation::kill_after`].
    #[must_use]
    pub fn kill_after(mut self, kill_after: Duration) -> Self {
        self.kill_after = kill_after;
        self
    }

    /// Sets [`Mutation::directory`].
    #[must_use]
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// Sets [`Mutation::program`].
    #[must_use]
    pub fn program(mut self, program: impl Into<PathBuf>) -> Self {
        self.program = program.into();
        self
    }
}

impl Default for Mutation {
    fn default() -> Self {
        Self {
            message: Vec::new(),
            checks: Vec::new(),
            verifies: Vec::new(),
            expect: ExpectedHead::default(),
            paths: Vec::new(),
            allow_dirty: false,
            untracked: true,
            allow_empty: false,
            fence: false,
            landing: Landing::Commit,
            max_hold: None,
            kill_after: Duration::from_secs(10),
            term_ends_all: false,
            directory: None,
            program: PathBuf::from(exec::PROGRAM),
        }
    }
}

/// The destination of a validated change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Landing {
    /// It is committed.
    Commit,
    /// It is left staged.
    Stage,
    /// It is shown, and everything is put back.
    Show,
}

/// The change itself.
pub enum Write<'a> {
    /// A command that makes it.
    Command(Vec<OsString>),
    /// A function that makes it, in this process; what it returns as an error fails the step.
    Closure(&'a mut dyn FnMut() -> std::io::Result<()>),
}

impl std::fmt::Debug for Write<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Command(command) => f.debug_tuple("Command").field(command).finish(),
            Self::Closure(_) => f.write_str("Closure"),
        }
    }
}

/// Makes a change that lands whole or leaves no trace, while holding a worktree alone.
///
/// Blocks until it has ended. As [`super::exec()`], it is for programs that do nothing else; [`crate::Repo::mutate`] is for others. Killed at any
/// instant, the next caller of this, of [`super::exec()`] or of [`super::recover()`] undoes or finishes it.
///
/// # Errors
/// Those of [`super::exec()`] if the lock was not acquired, [`Error::NoRepository`], [`Error::NoWorktree`], [`Error::Unfinished`]:
/// then nothing was done. [`Mutated`] has what happens later.
pub fn mutate(caller: Caller<'_>, mutation: &Mutation, write: Write<'_>) -> Result<Mutated> {
    const NEEDED_BY: &str = "`repoguard mutate`";
    let request = &caller.request()?;
    let Caller { repo, config, observer, .. } = caller;
    let no_repository = || Error::NoRepository { path: repo.root().to_owned(), needed_by: NEEDED_BY };
    let worktree = repo.worktree().ok_or_else(no_repository)?;
    let checkout = Checkout::find(repo, Manner::Writing, NEEDED_BY)?;
    if let Some(other) = env::get("GIT_INDEX_FILE").filter(|other| !is_same(Path::new(other), &checkout.index())) {
        return Err(Error::Config {
            key: "GIT_INDEX_FILE".to_owned(),
            value: other.to_string_lossy().into_owned(),
            origin: "the environment".to_owned(),
            expected: "the worktree's own index, or nothing",
        });
    }
    // As in git, the git directory is not a worktree.
    let here = std::env::current_dir().unwrap_or_default();
    if here.starts_with(&checkout.git_dir) && !checkout.root.starts_with(&checkout.git_dir) {
        return Err(Error::NoWorktree { path: checkout.git_dir, needed_by: NEEDED_BY });
    }
    let place = (&worktree, &checkout);
    let repo = &repo.at(&checkout.root);
    Context::forking(repo, config, observer, |context| run(context, place, request, mutation, write))
}

fn run(
    context: Context<'_>,
    (worktree, checkout): (&Worktree, &Checkout),
    request: &Request,
    mutation: &Mutation,
    write: Write<'_>,
) -> Result<Mutated> {
    let Context { repo, config, .. } = context;
    let (limit, baseline_limit) = (config.snapshot_limit()?, config.baseline_limit()?);
    let signals = Signals::open().map_err(Error::io("catch signals for", repo.root()))?;
    let terms = Terms { reports_acquisition: true, ..Terms::default() };
    let (mut hold, inside) = match admit(context, request, &signals, terms)? {
        Admission::Held(hold) => (Some(hold), None),
        Admission::Inside(inside) => (None, Some(inside)),
    };
    let acquired = hold.as_ref().map_or_else(Instant::now, |hold| hold.acquired);
    // From now on a signal ends a step, not this process: what was begun must be put back.
    signals.catch(sys::forwarded());
    let lock = match enter(context, worktree, request, &signals) {
        Ok(lock) => lock,
        Err(error) => {
            if let Some(hold) = &mut hold {
                hold.release();
            }
            return Err(error);
        }
    };
    if let Some(hold) = &mut hold {
        hold.held.admit_commands();
        hold.publish();
    }
    let fence = hold.as_ref().map(|hold| hold.held.record().id);
    let variables = hold.as_ref().map(|hold| environment(&repo.lock_path(), &hold.held).to_vec()).unwrap_or_default();
    let mut session = Session {
        context,
        worktree,
        checkout,
        command: &request.command,
        mutation,
        limit,
        baseline_limit,
        signals: &signals,
        hold,
        lock,
        acquired,
        timeout: request.timeout,
        fence,
        variables,
        steps: Vec::new(),
        changed: Vec::new(),
        left_out: Vec::new(),
        made_by_checks: Changes::default(),
        die_of: None,
    };
    let result = session.run(write);
    Ok(session.finish(result, inside))
}

/// Takes the mutations' lock, and recovers an interrupted mutation. An outer hold may have let in several.
fn enter(context: Context<'_>, worktree: &Worktree, request: &Request, signals: &Signals) -> Result<LockFile> {
    const LOOK: Duration = Duration::from_millis(20);
    let repo = context.repo;
    let what = || format!("a mutation of `{}`", repo.root().display());
    let mut tries = Retry::every(LOOK).within(request.timeout.unwrap_or(Duration::MAX)).into_iter();
    loop {
        if let Some(signal) = signals.interrupt() {
            return Err(Error::Interrupted { what: what(), signal });
        }
        if let Some(lock) = recovery::try_lock(repo, worktree, context.sharing)? {
            if recovery::is_in_the_way(repo, worktree) {
                lock.unlock();
                recovery::recover(context, worktree, Choice::AsPredicted)?;
                continue;
            }
            return Ok(lock);
        }
        let outer = repo.mutation_dir(worktree).and_then(|directory| Journal::read(&directory));
        if outer.is_some_and(|(plan, _)| sys::ancestors().any(|pid| pid == plan.pid)) {
            return Err(Error::Nested);
        }
        if tries.next().is_none() {
            let waited = request.timeout.unwrap_or_default();
            return Err(Error::Busy { what: what(), holders: Vec::new(), ahead: Vec::new(), waited });
        }
    }
}

fn is_same(one: &Path, other: &Path) -> bool {
    fs::identity(one).is_some() && fs::identity(one) == fs::identity(other)
}
