//! Runs a command in a worktree of its own if the caller's is busy: made from HEAD's commit on a new branch, locked as long as the command
//! runs, and removed again if nothing is in it that would be lost.
//!
//! | file | what |
//! | --- | --- |
//! | this one | around a command: [`exec_in_worktree()`] |
//! | `options` | where it is made, and what it is called |
//! | `make` | how it is made |
//! | `contents` | what is in it that would be lost with it |
//! | `git_lock` | how others' gits are kept from it while its command runs |
//! | `remove` | how it is removed without ever removing somebody's work |
//! | `list` | those that were made: what is in them, and who is at it |

mod contents;
mod git_lock;
mod list;
mod make;
mod options;
mod remove;

pub use contents::Contents;
pub use list::{Listed, Pruned, State, list, prune};
pub use options::Options;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{
    Caller, Context, Interrupted, Notice, Outcome, Terms, admission, environment,
    hold::Hold,
    plan::{anchored, plan, plan_for_new_worktree},
};
use crate::{
    env,
    error::{Error, Result},
    exec::{self, Ending, RunLifecycle, Surroundings, Task},
    fs::{self, Sharing},
    holder,
    lock::{self, Acquired, Held, Request, Scope, Wait},
    repo::{Repo, Worktree},
    store::worktrees::{Entry, Register, Stage},
    sys::{self, Retry, Signals},
};
use make::From;

/// A worktree that a command got for itself.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct IsolatedWorktree {
    /// Its directory.
    pub path: PathBuf,
    /// Its branch, without `refs/heads/`.
    pub branch: String,
    /// The commit that it was made from.
    pub base: String,
    /// What the command left in it, so that it was kept; `None` if it was removed.
    pub kept: Option<Contents>,
}

/// Runs a command in a worktree of its own, made from HEAD's commit on a new branch; blocks until the command has ended.
///
/// For callers that found this worktree busy. `request` is tried once. While somebody holds everything ([`Scope::Repo`]) or waits
/// for it, no worktree can be made: [`Error::Busy`]. The command runs in the same directory as seen from the top, finds the
/// worktree's path in `REPOGUARD_WORKTREE`, and holds the worktree's lock exclusively. When it has ended, the worktree and its
/// branch are removed if they hold nothing of worth; else [`Notice::Kept`] reports the contents. As [`super::exec()`], this is for
/// programs that do nothing else; [`Repo::exec_in_worktree`] is for others.
///
/// # Errors
/// Those of [`Options::check`]; [`Error::Git`] when git cannot make it; else as [`super::exec()`]. Then the command did not
/// run, and nothing is left but what [`list()`] shows.
pub fn exec_in_worktree(caller: Caller<'_>, options: &Options, task: &Task) -> Result<(Outcome, IsolatedWorktree)> {
    let Caller { repo, config, request, observer } = caller;
    options.check(repo)?;
    Context::forking(repo, config, observer, |context| {
        admission::expect(context, &task.expect, None)?;
        let register = register(repo, context.sharing)?;
        let signals = Signals::open().map_err(Error::io("catch signals for", repo.root()))?;
        // A caller that ignores this signal could not wait for git.
        signals.insist(&[sys::CHILD_CHANGED]);
        list::tidy(context, &register);
        // In it nobody can be in the way, and only its holder can remove it.
        let request = Request {
            scope: Some(Scope::Worktree),
            names: Vec::new(),
            mode: holder::Mode::Exclusive,
            timeout: Some(Duration::ZERO),
            ..request.clone()
        };
        Isolation { context, request: &request, options, register: &register, signals: &signals }.run(task)
    })
}

/// The parts of an isolation.
struct Isolation<'a> {
    context: Context<'a>,
    request: &'a Request,
    options: &'a Options,
    register: &'a Register,
    signals: &'a Signals,
}

impl Isolation<'_> {
    /// Makes the worktree, runs the command in it, and removes it if nothing of worth is left.
    fn run(&self, task: &Task) -> Result<(Outcome, IsolatedWorktree)> {
        let Self { context, signals, .. } = *self;
        let Context { repo, config, sharing, .. } = context;
        let begun = Instant::now();
        let wait = &mut Wait { signals: Some(signals), report: &mut |_| {} };
        let held = match lock::acquire(plan_for_new_worktree(repo, self.request, sharing)?, self.request, wait)? {
            Acquired::Held(held) => Some(held),
            // The hold around this process keeps everything from being locked.
            Acquired::Inside(_) => None,
        };
        signals.catch(sys::INTERRUPTS.iter().copied());
        let waited = begun.elapsed();
        let from = From::now(repo, &task.expect)?;
        let mut entry = make::reserve(&from, self.options, config, self.register, self.request)?;
        let worktree = make::add(&from, &mut entry, signals).inspect_err(|_| undo(repo, &mut entry))?;
        let own = repo.seen_from(&worktree.git_dir).at(&entry.made.path());
        let mut held = self.lock(&own, &worktree, held).inspect_err(|_| undo(repo, &mut entry))?;
        held.admit_commands();
        if let Some(record) = repo.head_record(&worktree) {
            // Of another that git called the same.
            fs::remove(&record);
        }
        context.report(git_lock::lock(&worktree));
        let mut variables = environment(&own.lock_path(), &held).to_vec();
        let terms = Terms { interrupted: Interrupted::Leave, ..Terms::default() };
        let mut admitted = admission::enter(context.at(&own), held, waited, terms)?;
        admitted.publish();
        let ready = make::check_out(&entry, &mut admitted, &variables, signals).and_then(|()| {
            let directory = make::start(&from, &entry)?;
            entry.advance(Stage::Used)?;
            Ok(directory)
        });
        let directory = match ready {
            Ok(directory) => directory,
            Err(error) => {
                if admitted.held.check_before_removal() {
                    undo(repo, &mut entry);
                }
                admitted.finish(Some(Ending::Failed));
                return Err(error);
            }
        };
        variables.push((env::WORKTREE, entry.made.path().into()));
        variables.push((env::WORKING_DIRECTORY, OsString::from(&directory)));
        Ok(self.run_in(task, &directory, &variables, (admitted, entry)))
    }

    /// Runs the command in a directory of the worktree, which is ready.
    fn run_in(
        &self,
        task: &Task,
        directory: &Path,
        variables: &[(&'static str, OsString)],
        (hold, entry): (Hold<'_>, Entry),
    ) -> (Outcome, IsolatedWorktree) {
        let mut isolated = IsolatedWorktree {
            path: entry.made.path(),
            branch: entry.made.short_branch().to_owned(),
            base: entry.made.base.clone(),
            kept: None,
        };
        self.context.notify(Notice::Isolated(&isolated));
        let surroundings = Surroundings {
            environment: variables,
            without: env::OF_ONE_WORKTREE,
            directory: Some(directory),
            ..Surroundings::default()
        };
        let mut stay = Stay { hold, repo: self.context.repo, entry, isolated: &mut isolated };
        let run = exec::run(task, surroundings, self.signals, &mut stay);
        let outcome = stay.hold.outcome(run);
        (outcome, isolated)
    }

    /// Locks the worktree that was made just now.
    fn lock(&self, own: &Repo, worktree: &Worktree, held: Option<Box<Held>>) -> Result<Box<Held>> {
        /// A process that locks all worktrees, or looks into this one, releases it soon.
        const PATIENCE: Duration = Duration::from_secs(5);
        let (sharing, signals) = (self.context.sharing, self.signals);
        let busy = || Error::Busy {
            what: format!("the lock of `{}` (worktree)", own.root().display()),
            holders: Vec::new(),
            ahead: Vec::new(),
            waited: PATIENCE,
        };
        let Some(mut held) = held else {
            let request = Request { timeout: Some(PATIENCE), ..self.request.clone() };
            let wait = &mut Wait { signals: Some(signals), report: &mut |_| {} };
            return match lock::acquire(plan(own, &request, sharing)?, &request, wait)? {
                Acquired::Held(held) => Ok(held),
                Acquired::Inside(_) => Err(busy()),
            };
        };
        let mut tries = Retry::every(Duration::from_millis(2)).within(PATIENCE).into_iter();
        while !held.take_in(anchored(worktree), sharing)? {
            make::not_interrupted(signals)?;
            tries.next().ok_or_else(busy)?;
        }
        let record = held.record_mut();
        "worktree".clone_into(&mut record.scope);
        record.directory = holder::readable(&own.root().to_string_lossy());
        Ok(held)
    }
}

/// The records of a repository.
fn register(repo: &Repo, sharing: Sharing) -> Result<Register> {
    let needs = || Error::NoRepository { path: repo.root().to_owned(), needed_by: options::NEEDED_BY };
    Ok(Register::new(repo.made_worktrees_dir().ok_or_else(needs)?, sharing))
}

/// Removes a worktree whose command could not run. A rest stays on the list.
fn undo(repo: &Repo, entry: &mut Entry) {
    drop(remove::remove(repo, entry, false));
    entry.release();
}

/// The lifecycle of the command: when it has ended, the worktree is removed or reported before its lock is released.
struct Stay<'a, 'h> {
    hold: Hold<'h>,
    repo: &'a Repo,
    entry: Entry,
    isolated: &'a mut IsolatedWorktree,
}

impl RunLifecycle for Stay<'_, '_> {
    fn files(&self) -> Vec<&std::fs::File> {
        self.hold.files()
    }

    fn begin(&mut self) {
        self.hold.begin();
    }

    fn started(&mut self, pid: u32, early: bool) {
        self.hold.started(pid, early);
    }

    fn replace(&mut self, left: bool) {
        self.hold.replace(left);
    }

    fn close(&mut self) -> bool {
        self.hold.close()
    }

    fn those_inside(&self) -> Vec<u32> {
        self.hold.those_inside()
    }

    fn record_end(&mut self, ending: Option<Ending>) -> Ending {
        self.isolated.kept = if self.hold.held.check_before_removal() {
            remove::remove(self.repo, &mut self.entry, false).unwrap_or_else(|error| {
                self.hold.context.trouble(&error);
                Some(Contents::doubt("it could not be removed"))
            })
        } else {
            Some(Contents::doubt("its lock was lost"))
        };
        self.hold.context.notify(match &self.isolated.kept {
            Some(contents) => Notice::Kept(self.isolated, contents),
            None => Notice::Removed(self.isolated),
        });
        self.hold.record_end(ending)
    }

    fn release(&mut self) {
        self.entry.release();
        self.hold.release();
    }
}
