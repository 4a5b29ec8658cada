//! Runs a hook that git calls: ours already → try → wait, if git holds no lock of its own → see whether the world has changed → hold
//! until git has ended.
//!
//! The rules were measured, git by git. Two matter most. If git holds one of its own locks while a hook runs, the hook must not
//! wait, or the holder's git fails. After a wait, HEAD or the index may have changed under the waiting git command, which would
//! then commit what it never saw.

use std::{
    ffi::OsString,
    io::Read as _,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use super::{
    Event,
    git::Git,
    hint,
    transaction::{self, Judgement, references},
    world::{self, Kept, World},
};
use crate::{
    env,
    error::{Error, Result},
    guard::{
        self, Context, Notice, Observer,
        admission::{self, Interrupted, Terms},
    },
    holder::{self, Holder},
    lock::{Acquired, Held, Request, Scope},
    repo::{Config, Repo},
    store::{
        audit::{self, Entry},
        violations,
    },
    sys::Signals,
};

/// Reads what git gave a hook on its standard input.
pub type Input<'a> = dyn FnMut() -> Result<Vec<u8>> + 'a;

/// A hook as git called it.
#[derive(Debug)]
pub struct Call {
    /// Which hook.
    pub event: Event,
    /// The script that git runs, if the call came through one.
    pub script: Option<PathBuf>,
    /// The hook's arguments.
    pub arguments: Vec<OsString>,
    /// How long to wait at most where waiting is safe.
    pub timeout: Duration,
}

/// Why a hook fails, and how its user goes on.
#[derive(Debug)]
pub struct Refusal {
    /// The error.
    pub error: Error,
    /// The way out, with a command to paste.
    pub hint: Option<String>,
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self { hint: error.hint(), error }
    }
}

impl Call {
    /// The hook that stood here before ours: it runs after the guard, in place of this process.
    ///
    /// None if another program moved our script away: it calls the hooks itself.
    #[must_use]
    pub fn chained(&self) -> Option<PathBuf> {
        let script = self.script.as_deref()?;
        super::chained(script, self.event).filter(|chained| crate::fs::is_executable(chained))
    }
}

/// Takes the lock for the git command that calls this hook, until that command has ended. `input` reads the hook's standard input;
/// it is called only if that matters.
///
/// Blocks for [`Call::timeout`] at most, and not at all while git holds a lock of its own. This process forks.
///
/// # Errors
/// A [`Refusal`]: the git command must not go on. Never for [`Event::PostCheckout`], which is too late for that.
pub fn run(
    repo: &Repo,
    config: &Config,
    call: &Call,
    input: &mut Input<'_>,
    observer: &mut Observer<'_>,
) -> Result<(), Refusal> {
    let git = Git::find(call.event == Event::PreReceive);
    let scope = scope(repo, call.event, input)?;
    Context::forking(repo, config, observer, |context| {
        let hook = Hook { context, call, git, scope };
        match call.event {
            Event::PostCheckout => {
                hook.after_checkout();
                Ok(())
            }
            Event::ReferenceTransaction => hook.before_references_change(input),
            _ => hook.before_change(),
        }
    })
}

/// Reads what git gives a hook on its standard input.
///
/// # Errors
/// [`Error::Io`] when it cannot be read.
pub fn read_input() -> Result<Vec<u8>> {
    let mut input = Vec::new();
    std::io::stdin().read_to_end(&mut input).map_err(Error::io("read", "standard input"))?;
    Ok(input)
}

/// The lock's scope: a push to a branch that is checked out in a linked worktree may change the files there
/// (`receive.denyCurrentBranch=updateInstead`), and only everything covers more than one worktree.
fn scope(repo: &Repo, event: Event, input: &mut Input<'_>) -> Result<Scope> {
    if event != Event::PreReceive {
        return Ok(Scope::Worktree);
    }
    let worktrees = repo.worktrees()?;
    let linked: Vec<_> = worktrees.iter().skip(1).filter_map(|worktree| repo.head(worktree)?.branch).collect();
    if linked.is_empty() {
        return Ok(Scope::Worktree);
    }
    let input = input()?;
    let input = String::from_utf8_lossy(&input);
    let pushed = references(&input).any(|change| linked.iter().any(|branch| branch == change.name));
    Ok(if pushed { Scope::Repo } else { Scope::Worktree })
}

struct Hook<'a> {
    context: Context<'a>,
    call: &'a Call,
    git: Option<Git>,
    scope: Scope,
}

impl Hook<'_> {
    /// A hook that can fail before anything has changed.
    fn before_change(self) -> Result<(), Refusal> {
        match self.take(Duration::ZERO) {
            Ok(Some(held)) => self.hold(held),
            Ok(None) => self.nothing_swept_in(),
            Err(error @ Error::Busy { .. }) if world::git_holds_its_index() => Err(self.refusal_at_once(error)),
            Err(Error::Busy { .. }) if !self.call.timeout.is_zero() => self.wait(),
            Err(error) => Err(self.refusal(error)),
        }
    }

    /// Waits for the lock; then what git has read must still be so.
    fn wait(self) -> Result<(), Refusal> {
        let world = World::look(self.context.repo, self.context.sharing)?;
        let held = self.take(self.call.timeout);
        let changed = match &held {
            Ok(_) => world.changed(self.context.repo, self.call.event == Event::PreCommit),
            Err(_) => Ok(None),
        };
        world.forget();
        let held = held.map_err(|error| self.refusal(error))?;
        let refused = match changed {
            Ok(None) => None,
            Ok(Some(what)) => Some(Error::ChangedMeanwhile { what: format!("{what} while it waited for the lock") }),
            Err(error) => Some(error),
        };
        match (refused, held) {
            (None, Some(held)) => self.hold(held),
            (None, None) => Ok(()),
            (Some(error), held) => {
                if let Some(held) = held {
                    held.release();
                }
                Err(self.refusal(error))
            }
        }
    }

    /// Git reads the index again after its pre-commit hook, and then makes the commit's tree: what somebody staged in
    /// between would be swept in.
    fn nothing_swept_in(&self) -> Result<(), Refusal> {
        if self.call.event != Event::PrepareCommitMsg || world::git_holds_its_index() {
            return Ok(());
        }
        let Some(git) = &self.git else { return Ok(()) };
        let index = world::index_path(self.context.repo);
        let Some(kept) = Kept::find(self.context.repo, index, &world::name_of(git.process.pid())) else {
            return Ok(());
        };
        match kept.has_changed(self.context.repo) {
            Ok(false) => Ok(()),
            Ok(true) => {
                let what = "other files were staged while it ran".to_owned();
                Err(self.refusal(Error::ChangedMeanwhile { what }))
            }
            Err(error) => Err(self.refusal(error)),
        }
    }

    /// The files have already changed: the checkout cannot fail any more, but others can be informed and kept out from now on.
    fn after_checkout(self) {
        let context = self.context;
        let held = match self.take(Duration::ZERO) {
            Err(Error::Busy { holders, .. }) => {
                self.ran_under(&holders);
                self.take(self.call.timeout)
            }
            held => held,
        };
        let held = held.map_err(Refusal::from).and_then(|held| held.map_or(Ok(()), |held| self.hold(held)));
        if let Err(refusal) = held {
            context.notify(Notice::Unguarded(&refusal.error));
        }
    }

    /// References are about to change, and git has locked them: the hook only tries, and fails only if that leaves nothing half
    /// done.
    fn before_references_change(self, input: &mut Input<'_>) -> Result<(), Refusal> {
        let state = self.call.arguments.first();
        if state.is_none_or(|state| state != "prepared" && state != "preparing") {
            return Ok(());
        }
        match self.take(Duration::ZERO) {
            Ok(Some(held)) => self.hold(held),
            // With an interrupted mutation it is too late to fail: git has begun.
            Ok(None) | Err(Error::Unfinished { .. }) => Ok(()),
            Err(Error::Busy { holders, what, ahead, waited }) => {
                let head = self.context.repo.worktree().and_then(|worktree| self.context.repo.head(&worktree));
                let branch = head.and_then(|head| head.branch);
                let verb = self.git.as_ref().and_then(Git::verb).unwrap_or_default();
                match transaction::judge(&String::from_utf8_lossy(&input()?), &verb, branch.as_deref()) {
                    Judgement::Refuse => Err(self.refusal_at_once(Error::Busy { holders, what, ahead, waited })),
                    Judgement::Tell => {
                        self.ran_under(&holders);
                        Ok(())
                    }
                    Judgement::Pass => Ok(()),
                }
            }
            Err(error) => Err(self.refusal(error)),
        }
    }

    /// Tells and logs that this git command changes the worktree while others hold it.
    fn ran_under(&self, holders: &[Holder]) {
        let Context { repo, sharing, .. } = self.context;
        let intruder = self.describe();
        for holder in holders {
            // Once: a git command changes references in several steps.
            if violations::left(repo, holder.id).is_some_and(|left| left.pid == intruder.pid) {
                continue;
            }
            self.context.notify(Notice::RanUnder(holder));
            let entry = Entry::under(&intruder, holder);
            let left = violations::leave(repo, holder.id, &intruder, sharing);
            self.context.report(left.and_then(|()| audit::append(repo, &entry, sharing)));
        }
    }

    fn describe(&self) -> Holder {
        let request = self.request(Duration::ZERO);
        let now = holder::unix_ms(SystemTime::now());
        Holder {
            pid: request.for_process.unwrap_or_else(std::process::id),
            user: crate::sys::acting_user(),
            host: crate::sys::host(),
            agent: env::agent().map(str::to_owned),
            command: request.command,
            directory: holder::readable(&self.context.repo.root().to_string_lossy()),
            scope: "worktree".to_owned(),
            schema: holder::SCHEMA,
            requested_ms: now,
            ..Holder::default()
        }
    }

    fn request(&self, timeout: Duration) -> Request {
        let command = self.git.as_ref().map(|git| holder::readable_command(&git.command()));
        Request {
            timeout: Some(timeout),
            reason: env::ci_job(),
            command: command.unwrap_or_else(|| format!("{} hook", self.call.event.name())),
            for_process: self.git.as_ref().map(|git| git.process.pid()),
            content: true,
            holds_git_lock: world::git_holds_its_index() || self.call.event == Event::ReferenceTransaction,
            scope: Some(self.scope),
            ..Request::default()
        }
    }

    /// Acquires the lock; `None` if it is held around us.
    fn take(&self, timeout: Duration) -> Result<Option<Box<Held>>> {
        let repo = self.context.repo;
        let signals = Signals::open().map_err(Error::io("catch signals for", repo.root()))?;
        let Acquired::Held(mut held) = admission::acquire(self.context, &self.request(timeout), &signals)? else {
            return Ok(None);
        };
        admission::refuse_interrupted(repo).inspect_err(|_| held.release())?;
        held.record_mut().editor = self.opens_editor();
        Ok(Some(held))
    }

    /// Holds it until git has ended; only for this moment if no git is above us.
    fn hold(self, held: Box<Held>) -> Result<(), Refusal> {
        // Git tells by a flag whether it was a checkout of a branch or of files.
        let of_branch = self.call.arguments.get(2).is_some_and(|flag| flag == "1");
        let terms = Terms {
            interrupted: Interrupted::Leave,
            has_moved_head: self.call.event == Event::PostCheckout && of_branch,
            ..Terms::default()
        };
        let lifecycle = admission::enter(self.context, held, Duration::ZERO, terms)?;
        let last = self.is_the_last_hook();
        let Some(git) = self.git else {
            lifecycle.held.release();
            return Ok(());
        };
        let plain = self.call.event == Event::PreCommit && !world::git_holds_its_index();
        let kept = (plain && last).then(|| {
            let name = world::name_of(git.process.pid());
            Kept::keep(self.context.repo, world::index_path(self.context.repo), &name, self.context.sharing)
        });
        let kept = match kept.transpose() {
            Ok(kept) => kept,
            Err(error) => {
                lifecycle.held.release();
                return Err(error.into());
            }
        };
        // A hook that runs in place of this process may wait for all its children.
        let orphan = self.call.chained().is_some();
        guard::hold_for(lifecycle, git.process, orphan, || {
            if let Some(kept) = kept {
                kept.forget();
            }
            world::tidy(self.context.repo);
        })
        .map_err(Refusal::from)
    }

    /// Whether git runs no other hook of this kind after ours, which may stage files by right: ours is the script in git's own
    /// directory, not one that git's configuration names or that another program calls, and none is chained.
    fn is_the_last_hook(&self) -> bool {
        let Some(script) = &self.call.script else { return false };
        let by_git = script.file_name().is_some_and(|name| name == self.call.event.name());
        by_git && !super::is_configured_script(self.context.repo, script) && self.call.chained().is_none()
    }

    /// Whether somebody may be typing a message while the lock is held: git tells hooks when nobody will.
    fn opens_editor(&self) -> bool {
        let commit = matches!(self.call.event, Event::PreCommit | Event::PrepareCommitMsg);
        commit && env::get("GIT_EDITOR").is_none_or(|editor| editor != ":")
    }

    fn refusal(&self, error: Error) -> Refusal {
        let hint = hint::after(self.context.repo, self.call.event, self.git.as_ref(), &error);
        Refusal { hint: hint.or_else(|| error.hint()), error }
    }

    /// Git holds a lock of its own.
    fn refusal_at_once(&self, error: Error) -> Refusal {
        let command = self.git.as_ref().map(Git::command).unwrap_or_default();
        Refusal { error, hint: Some(hint::way_out(&command)) }
    }
}
