//! Runs one step as under `exec`, with the lock in its hands. The hold goes on after it.

use std::{ffi::OsString, path::Path, time::Instant};

use super::{
    super::hold::Hold,
    outcome::FailureReason,
    session::{Attempt, Failed, Kept, Session},
};
use crate::{
    env,
    error::Error,
    exec::{self, Ending, Run, RunLifecycle, Surroundings, Task},
    holder,
    lock::LockFile,
    repo::is_git_stuck,
};

impl Session<'_> {
    pub(super) fn shell(&mut self, step: &'static str, line: &OsString, kept: &Kept) -> Attempt<()> {
        self.step(step, vec!["sh".into(), "-c".into(), line.clone()], kept, None)
    }

    /// Runs a command that inherits the lock as well; with `index`, it works on that one instead of the user's.
    pub(super) fn step(
        &mut self,
        step: &'static str,
        command: Vec<OsString>,
        kept: &Kept,
        index: Option<&Path>,
    ) -> Attempt<()> {
        self.not_interrupted(step)?;
        let begun = Instant::now();
        let text = holder::readable_command(&command);
        if self.left().is_some_and(|left| left.is_zero()) {
            // Not even begun.
            return Err(Box::new(Failed { step, command: Some(text), why: FailureReason::Ended(Ending::Overtime) }));
        }
        let mut variables = self.variables.clone();
        variables.push((env::GIT_TRACE, kept.before.trace().into()));
        variables.push((env::GIT_TRACE_REFS, kept.before.reference_trace().into()));
        let fenced = kept.fence.is_some().then(|| self.worked_on(kept));
        if let Some(index) = index.map(Path::to_owned).or(fenced) {
            variables.push(("GIT_INDEX_FILE", index.into()));
        }
        if index.is_some() && env::get("GIT_DIR").is_some() {
            variables.push(("GIT_DIR", self.checkout.git_dir.clone().into()));
            variables.push(("GIT_WORK_TREE", self.checkout.root.clone().into()));
        }
        let super::Mutation { kill_after, term_ends_all, .. } = *self.mutation;
        let task = Task { max_hold: self.left(), kill_after, term_ends_all, ..Task::new(command) };
        let surroundings = Surroundings {
            environment: &variables,
            prints_messages: index.is_some(),
            ends_whole: true,
            // The commit reads files of the worktree, which the command may have replaced by a FIFO.
            is_stuck: index.is_some().then_some(is_git_stuck as fn(u32) -> bool),
            ..Surroundings::default()
        };
        let mut lifecycle = Stepping { hold: self.hold.as_mut(), lock: &self.lock, alone: false };
        let Run { ending, die_of, interrupted, was_stuck } =
            exec::run(&task, surroundings, self.signals, &mut lifecycle);
        self.note(step, begun, ending.status());
        let why = match (ending, interrupted) {
            // The commit exists, even if a signal came.
            (Ending::Exited(0), _) if step == "commit" => return Ok(()),
            (Ending::Exited(0), Some(signal)) => FailureReason::Interrupted(signal),
            (Ending::Exited(0), None) => return Ok(()),
            _ if was_stuck => FailureReason::Trouble(Error::GitBlocked { directory: self.checkout.root.clone() }),
            _ => {
                self.die_of = die_of;
                FailureReason::Ended(ending)
            }
        };
        Err(Box::new(Failed { step, command: Some(text), why }))
    }

    pub(super) fn call(&mut self, closure: &mut dyn FnMut() -> std::io::Result<()>) -> Attempt<()> {
        const STEP: &str = "command";
        self.not_interrupted(STEP)?;
        let begun = Instant::now();
        let result = closure();
        self.note(STEP, begun, i32::from(result.is_err()));
        let failed = |source| Error::Io { action: "write to", path: self.checkout.root.clone(), source };
        result.map_err(|error| Failed::new(STEP, FailureReason::Trouble(failed(error))))?;
        self.not_interrupted(STEP)
    }

    pub(super) fn not_interrupted(&self, step: &'static str) -> Attempt<()> {
        match self.signals.interrupt() {
            Some(signal) => Err(Failed::new(step, FailureReason::Interrupted(signal))),
            None => Ok(()),
        }
    }
}

/// The lifecycle of one of several commands: the hold goes on after it, unless this process was killed.
struct Stepping<'s, 'h> {
    hold: Option<&'s mut Hold<'h>>,
    lock: &'s LockFile,
    /// This is the keeper, and the wrapper has gone.
    alone: bool,
}

impl RunLifecycle for Stepping<'_, '_> {
    fn files(&self) -> Vec<&std::fs::File> {
        let held = self.hold.as_ref().map_or_else(Vec::new, |hold| hold.files());
        held.into_iter().chain([self.lock.file()]).collect()
    }

    fn begin(&mut self) {}

    fn started(&mut self, pid: u32, early: bool) {
        if let Some(hold) = &mut self.hold {
            hold.started(pid, early);
        }
    }

    fn replace(&mut self, left: bool) {
        self.alone = true;
        if let Some(hold) = &mut self.hold {
            hold.replace(left);
        }
    }

    fn close(&mut self) -> bool {
        !self.alone || self.hold.as_mut().is_none_or(|hold| hold.close())
    }

    fn those_inside(&self) -> Vec<u32> {
        self.hold.as_ref().map(|hold| hold.those_inside()).unwrap_or_default()
    }

    fn record_end(&mut self, ending: Option<Ending>) -> Ending {
        if self.alone
            && let Some(hold) = &mut self.hold
        {
            hold.record_end(None);
        }
        ending.unwrap_or(Ending::Failed)
    }

    fn release(&mut self) {
        if !self.alone {
            return;
        }
        self.lock.unlock();
        if let Some(hold) = &mut self.hold {
            hold.release();
        }
    }
}
