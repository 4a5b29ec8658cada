//! Runs the steps of a mutation in their order, one method a step. Nothing of the user's changes before everything is kept.

use std::{
    ffi::OsString,
    path::PathBuf,
    time::{Duration, Instant},
};

use super::{
    super::{Context, Notice, hold::Hold},
    Landing, Mutation, Write,
    outcome::{Failure, FailureReason, Invalid, Landed, Mutated, Rollback},
};
use crate::{
    error::{Error, Result},
    exec::{Ending, RunLifecycle as _},
    lock::{Inside, LockFile},
    repo::{Checkout, Head, Worktree},
    store::{audit::StepTime, kept},
    sys::Signals,
    transaction::{
        self, Baseline, Changes, Fence, Journal, LeftOut, MovedBy, PROTECTING, Staged, Step, Undo, readable,
    },
};

/// How long another git may have the index' lock if there is no way back.
pub(super) const MORE_PATIENCE: Duration = Duration::from_secs(5);

/// A step that failed.
pub(super) struct Failed {
    pub(super) step: &'static str,
    pub(super) command: Option<String>,
    pub(super) why: FailureReason,
}

/// The result of a step that succeeds.
pub(super) type Attempt<T> = std::result::Result<T, Box<Failed>>;

impl Failed {
    pub(super) fn new(step: &'static str, why: FailureReason) -> Box<Self> {
        Box::new(Self { step, command: None, why })
    }
}

/// State of a running mutation.
pub(super) struct Kept {
    pub(super) before: Baseline,
    pub(super) journal: Journal,
    pub(super) fence: Option<Fence>,
    /// The commit is there, but the user's index could not be written: the next one does it.
    pub(super) index_is_missing: bool,
}

/// A mutation that runs.
pub(super) struct Session<'a> {
    pub(super) context: Context<'a>,
    pub(super) worktree: &'a Worktree,
    pub(super) checkout: &'a Checkout,
    pub(super) command: &'a str,
    pub(super) mutation: &'a Mutation,
    pub(super) limit: u64,
    /// Most bytes that are kept before the command runs.
    pub(super) baseline_limit: u64,
    pub(super) signals: &'a Signals,
    pub(super) hold: Option<Hold<'a>>,
    /// The mutations' own lock.
    pub(super) lock: LockFile,
    pub(super) acquired: Instant,
    /// How long to wait for other gits; for ever with `None`.
    pub(super) timeout: Option<Duration>,
    pub(super) fence: Option<u64>,
    pub(super) variables: Vec<(&'static str, OsString)>,
    pub(super) steps: Vec<StepTime>,
    pub(super) changed: Vec<Vec<u8>>,
    pub(super) left_out: Vec<LeftOut>,
    pub(super) made_by_checks: Changes,
    pub(super) die_of: Option<i32>,
}

impl Session<'_> {
    pub(super) fn run(&mut self, write: Write<'_>) -> Landed {
        let begun = Instant::now();
        let kept = self.read();
        let status = if kept.is_ok() { 0 } else { 65 };
        self.note("read", begun, status);
        let mut kept = match kept {
            Ok(kept) => kept,
            Err(why) => {
                return Landed::failed(Failure { step: "read", command: None, why, rollback: None });
            }
        };
        match self.change(&mut kept, write) {
            Ok(Landed::Shown) => match self.roll_back(kept, "dry run", 0) {
                Ok(_) => Landed::Shown,
                Err(error) => {
                    let why = FailureReason::Trouble(Error::NotPutBack { paths: Vec::new() });
                    Landed::failed(Failure { step: "rollback", command: None, why, rollback: Some(Err(error)) })
                }
            },
            Ok(landed) if kept.index_is_missing => landed,
            Ok(landed) => {
                if let Err(error) = self.end(kept) {
                    self.context.notify(Notice::Trouble(&error));
                }
                landed
            }
            Err(failed) => {
                let Failed { step, command, why } = *failed;
                let text = format!("the {step} step failed");
                let rollback = self.roll_back(kept, &text, 1);
                Landed::failed(Failure { step, command, why, rollback: Some(rollback) })
            }
        }
    }

    /// Ends the hold, and tells how the mutation ended.
    pub(super) fn finish(self, result: Landed, inside: Option<Box<Inside>>) -> Mutated {
        let Self { mut hold, lock, .. } = self;
        let mut mutated = Mutated {
            result,
            changed: readable(&self.changed),
            left_out: self.left_out,
            steps: self.steps,
            die_of: self.die_of,
            fence: self.fence,
            waited: hold.as_ref().map_or(Duration::ZERO, |hold| hold.waited),
            held: Duration::ZERO,
        };
        if let Some(hold) = &mut hold {
            hold.steps.clone_from(&mutated.steps);
            hold.wait_for_those_inside();
            hold.record_end(Some(Ending::Exited(mutated.status())));
        }
        lock.unlock();
        if let Some(hold) = &mut hold {
            hold.release();
        }
        if let Some(inside) = inside {
            inside.visits.leave();
        }
        mutated.held = self.acquired.elapsed();
        mutated
    }

    /// Check, write, verify, commit.
    fn change(&mut self, kept: &mut Kept, write: Write<'_>) -> Attempt<Landed> {
        let mutation = self.mutation;
        for check in &mutation.checks {
            self.shell("check", check, kept)?;
        }
        if !mutation.checks.is_empty() {
            let trouble = |error| Failed::new("check", FailureReason::Trouble(error));
            self.made_by_checks = Changes::scan(&kept.before).map_err(trouble)?;
            let changed = self.made_by_checks.really(&kept.before).map_err(trouble)?;
            if !changed.is_empty() {
                return Err(Failed::new("check", FailureReason::from(Invalid::CheckChanged(readable(&changed)))));
            }
        }
        match write {
            Write::Command(command) => self.step("command", command, kept, None)?,
            Write::Closure(closure) => self.call(closure)?,
        }
        let trouble = |step| move |error| Failed::new(step, FailureReason::Trouble(error));
        let (changes, staged) = self.look(kept)?;
        for verify in &mutation.verifies {
            self.shell("verify", verify, kept)?;
        }
        if !mutation.verifies.is_empty() {
            let after = Changes::scan(&kept.before).map_err(trouble("verify"))?;
            let altered = after.beyond(&changes, &kept.before).map_err(trouble("verify"))?;
            if !altered.is_empty() {
                return Err(Failed::new("verify", FailureReason::from(Invalid::VerifyChanged(readable(&altered)))));
            }
        }
        self.head_is_ours(&kept.before, "verify")?;
        match mutation.landing {
            _ if staged.changes.is_empty() && !(mutation.allow_empty && mutation.landing == Landing::Commit) => {
                // The command's changes of the index are undone if nothing changed.
                self.publish(kept, &staged).map_err(trouble("commit"))?;
                Ok(if mutation.landing == Landing::Show { Landed::Shown } else { Landed::Unchanged })
            }
            Landing::Show => {
                self.checkout.show(&staged.index, &kept.before.tree()).map_err(trouble("commit"))?;
                Ok(Landed::Shown)
            }
            Landing::Stage => {
                kept.journal.note(Step::Landed { commit: None }).map_err(trouble("commit"))?;
                self.publish(kept, &staged).map_err(trouble("commit"))?;
                Ok(Landed::Staged)
            }
            Landing::Commit => self.commit(kept, &staged).map(Landed::Committed),
        }
    }

    /// Finds out what the command changed, and whether all of it may be committed.
    fn look(&mut self, kept: &Kept) -> Attempt<(Changes, Staged)> {
        const STEP: &str = "command";
        let before = &kept.before;
        let begun = Instant::now();
        let trouble = |error| Failed::new(STEP, FailureReason::Trouble(error));
        self.head_is_ours(before, STEP)?;
        if let Some(name) = self.checkout.operation() {
            return Err(Failed::new(STEP, FailureReason::from(Invalid::Operation(name))));
        }
        let changes = Changes::scan(before).map_err(trouble)?;
        changes.check_depth().map_err(trouble)?;
        // Files that a check has made do not belong to the command: they stay where they are.
        let changes = changes.without_new(&self.made_by_checks);
        let worked_on = self.worked_on(kept);
        let seen = before.keep_index(&worked_on).map_err(trouble)?;
        let ran = Step::Ran { head: before.head().clone(), touched: changes.touched.clone() };
        kept.journal.note(ran).map_err(trouble)?;
        let gits = transaction::gits(&before.trace());
        let staged_by_command = kept.fence.is_some() || gits.iter().any(|git| git.may_stage_in(&self.checkout.root));
        let directory = std::env::current_dir().unwrap_or_else(|_| self.checkout.root.clone());
        let staged = transaction::stage(&transaction::StageRequest {
            before,
            changes: &changes,
            worked_on: &worked_on,
            seen,
            staged_by_command,
            fenced: kept.fence.is_some(),
            directory: &directory,
            pathspecs: &self.mutation.paths,
        });
        let staged = staged.map_err(|unlike| Failed::new(STEP, FailureReason::from(unlike)))?;
        self.changed = staged.paths();
        self.left_out.clone_from(&staged.left_out);
        self.note("look", begun, 0);
        Ok((changes, staged))
    }

    /// The index that the command works on.
    pub(super) fn worked_on(&self, kept: &Kept) -> PathBuf {
        if kept.fence.is_some() { kept.before.directory().join("fenced") } else { self.checkout.index() }
    }

    pub(super) fn head(&self) -> Result<Head> {
        self.context.repo.head(self.worktree).ok_or_else(|| Error::BrokenRepository {
            path: self.checkout.git_dir.clone(),
            reason: "HEAD cannot be read".to_owned(),
        })
    }

    pub(super) fn head_is_ours(&self, before: &Baseline, step: &'static str) -> Attempt<()> {
        let now = self.head().map_err(|error| Failed::new(step, FailureReason::Trouble(error)))?;
        let was = before.head().clone();
        let invalid = match before.moved_by(&now) {
            MovedBy::Nobodys => return Ok(()),
            MovedBy::Commands => Invalid::CommandMovedHead(was, now),
            MovedBy::Others => Invalid::HeadMoved(was, now),
        };
        Err(Failed::new(step, FailureReason::from(invalid)))
    }

    /// How much of the time that all may take is left.
    pub(super) fn left(&self) -> Option<Duration> {
        self.mutation.max_hold.map(|max| max.saturating_sub(self.acquired.elapsed()))
    }

    pub(super) fn note(&mut self, step: &str, begun: Instant, status: i32) {
        let ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.steps.push(StepTime { step: step.to_owned(), ms, status });
    }

    /// Puts everything back.
    fn roll_back(&mut self, mut kept: Kept, why: &str, status: i32) -> Result<Rollback> {
        let begun = Instant::now();
        let header = kept::Header {
            why: format!("rollback: {why}"),
            command: self.command.to_owned(),
            head_before: Some(kept.before.head().clone()),
            head_after: self.head().ok(),
            fence: self.fence,
        };
        let undone = transaction::undo(
            &Undo {
                repo: self.context.repo,
                worktree: self.worktree,
                before: &kept.before,
                journal: &kept.journal,
                header,
                begun: None,
                sharing: self.context.sharing,
                limit: self.limit,
            },
            kept.fence.as_mut(),
        );
        let rollback = undone.and_then(|undone| self.end(kept).map(|()| Rollback::new(undone)));
        self.note("rollback", begun, if rollback.is_ok() { status } else { 125 });
        rollback
    }

    /// There is nothing left to recover.
    fn end(&self, kept: Kept) -> Result<()> {
        let Kept { before, journal, fence, .. } = kept;
        drop(fence);
        // If that fails, the journal stays, and the next mutation does it.
        self.checkout.forget(PROTECTING)?;
        journal.end(before.directory())
    }
}
