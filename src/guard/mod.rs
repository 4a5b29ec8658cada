//! Keeps what repoguard promises around a lock: recover → acquire → compare → record → run → log → release.
//!
//! | file | what |
//! | --- | --- |
//! | this one | around a command: [`exec()`] |
//! | `context` | what every verb works with |
//! | `admission` | the way to a hold, for all callers |
//! | `hold` | what is done when any hold begins and ends |
//! | `lock`, `acquisition`, `guard` | around a part of a program's own work: asking for a lock, waiting for it, having it |
//! | `future` | the same in asynchronous code |
//! | `restore` | what was undone is brought back |
//! | `mutate` | around a change that lands whole or not at all |
//! | `recovery`, `recover` | after a mutation that was killed: for whoever comes next, and on demand |
//! | `inputs` | what was made from what: digests of inputs, kept in the shared document |
//! | `pending` | which mutations are not at their end, for who only looks |
//! | `worktree` | a worktree of its own for a command that found this one busy |
//! | `program` | commands and mutations for programs with threads, run by the `repoguard` program |
//! | `background` | holds that outlive the process that took them, kept by a watcher in the background |

mod acquisition;
pub(crate) mod admission;
mod background;
mod context;
#[cfg(feature = "tokio")]
mod future;
#[expect(clippy::module_inception, reason = "the guard itself, in the module around it")]
mod guard;
mod hold;
mod inputs;
mod lock;
mod mutate;
mod notice;
mod pending;
mod plan;
mod program;
mod recover;
mod recovery;
mod restore;
pub(crate) mod worktree;

use acquisition::Acquisition;
use admission::{Admission, Interrupted, Terms, admit};
pub(crate) use background::hold_for;
pub use background::{
    AcquireState, Grant, Released, Until, acquire, command_of, is_pid_of_elsewhere, release, user_of, wait,
};
pub use context::Caller;
pub(crate) use context::Context;
pub use guard::Guard;
pub(crate) use hold::Hold;
pub use inputs::{Checked, Difference, Digests, INPUTS_DIGEST, Inputs};
pub use lock::Lock;
pub use mutate::{Failure, FailureReason, Invalid, Landed, Landing, Mutated, Mutation, Rollback, Write, mutate};
pub use notice::{Notice, Observer};
pub use pending::{MutationInfo, Pending, pending};
pub(crate) use pending::{OwnLock, own_locks, with_own_locks};
pub use plan::has_stray_token;
pub(crate) use plan::plan;
pub use recover::{Choice, Recovered, recover, unfinished};
pub use restore::{Restored, restore, would_restore};
pub use worktree::IsolatedWorktree;
pub use worktree::exec_in_worktree;

use std::{ffi::OsString, path::Path, time::Duration};

use crate::{
    env,
    error::{Error, Result},
    exec::{self, Ending, RunLifecycle, Surroundings, Task},
    lock::{Held, Inside},
    repo::{Head, Repo},
    store::{
        audit::{self, Entry, Event},
        last::Last,
    },
    sys::Signals,
};

/// How an [`exec()`] ended.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Outcome {
    /// How the command ended, or why it never ran.
    pub ending: Ending,
    /// A signal that both the command and this process got and that the command died of: this process's parent should see it die of
    /// the same.
    pub die_of: Option<i32>,
    /// Fencing number of the hold; `None` if the command ran inside another one.
    pub fence: Option<u64>,
    /// How long it waited for the lock.
    pub waited: Duration,
    /// How long it was held.
    pub held: Duration,
}

/// Runs a command while holding a lock; blocks until the command has ended.
///
/// The command never runs without the lock, whatever of this process, its keeper and the lock's files is killed or
/// removed. This process forks, catches signals, and reaps all of its children: [`Repo::exec`] is for other programs.
///
/// # Errors
/// [`Error::Threads`] if this process has several threads. [`Error::Busy`], [`Error::Deadlock`] or [`Error::Interrupted`] if the
/// lock was not acquired, [`Error::NeverGranted`], [`Error::NoLocks`], [`Error::NotAFile`] or [`Error::Io`] if it could not be,
/// [`Error::Unfinished`] if an interrupted mutation must be recovered first. Then the command did not run.
pub fn exec(caller: Caller<'_>, task: &Task) -> Result<Outcome> {
    caller.serve_forking(|context, request| {
        let signals = Signals::open().map_err(Error::io("catch signals for", context.repo.root()))?;
        let terms = Terms { expect: Some(&task.expect), reports_acquisition: true, ..Terms::default() };
        match admit(context, request, &signals, terms)? {
            Admission::Held(hold) => run(hold, task, &signals),
            Admission::Inside(inside) => Ok(run_inside(context, inside, task, &signals)),
        }
    })
}

fn run(mut hold: Hold<'_>, task: &Task, signals: &Signals) -> Result<Outcome> {
    hold.held.admit_commands();
    // A signal that arrived since: the command does not exist yet, and would never see it.
    admission::not_interrupted(&hold.held, signals)?;
    let environment = environment(&hold.context.repo.lock_path(), &hold.held);
    let surroundings = Surroundings { environment: &environment, ..Surroundings::default() };
    let run = exec::run(task, surroundings, signals, &mut hold);
    Ok(hold.outcome(run))
}

fn run_inside(context: Context<'_>, inside: Box<Inside>, task: &Task, signals: &Signals) -> Outcome {
    let run = exec::run(task, Surroundings::default(), signals, &mut Guest { context, inside });
    Outcome { ending: run.ending, die_of: run.die_of, fence: None, waited: Duration::ZERO, held: Duration::ZERO }
}

/// The variables that describe a hold to its commands.
fn environment(lock: &Path, held: &Held) -> [(&'static str, OsString); 4] {
    [
        (env::TOKEN, held.token.as_str().into()),
        (env::FENCE, held.record().id.to_string().into()),
        (env::LOCK_PATH, lock.into()),
        (env::LOCK_SCOPE, held.record().scope.clone().into()),
    ]
}

/// The lifecycle of a command inside another hold, which does not end before the command.
struct Guest<'a> {
    context: Context<'a>,
    inside: Box<Inside>,
}

impl RunLifecycle for Guest<'_> {
    fn files(&self) -> Vec<&std::fs::File> {
        self.inside.visits.files().collect()
    }

    fn begin(&mut self) {}

    fn started(&mut self, _pid: u32, _early: bool) {}

    fn replace(&mut self, _left: bool) {}

    fn close(&mut self) -> bool {
        true
    }

    fn those_inside(&self) -> Vec<u32> {
        Vec::new()
    }

    fn record_end(&mut self, ending: Option<Ending>) -> Ending {
        let Self { context, inside } = self;
        if !inside.visits.is_over() {
            return ending.unwrap_or(Ending::Failed);
        }
        context.notify(Notice::LostAround(inside.outer));
        let mut entry = Entry::new(Event::Lost, &inside.record);
        entry.status = ending.map(Ending::status);
        context.report(audit::append(context.repo, &entry, context.sharing));
        Ending::Lost
    }

    fn release(&mut self) {
        self.inside.visits.leave();
    }
}

/// HEAD as the last holder left it, and as it is now, if they differ. Only while nobody holds the worktree, the difference was made
/// outside the guard.
#[must_use]
pub fn changed_outside(repo: &Repo) -> Option<(Head, Head)> {
    let worktree = repo.worktree()?;
    let (last, now) = (Last::read(repo, &worktree)?, Last::look(repo, &worktree, 0)?);
    (last.head != now.head).then_some((last.head, now.head))
}

/// The newest `count` lines of the log (all with `None`), oldest first. Does not block.
#[must_use]
pub fn log(repo: &Repo, count: Option<usize>) -> Vec<Entry> {
    audit::read(repo, count)
}
