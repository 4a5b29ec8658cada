//! Reads the report that the `repoguard` program leaves: its `--result-file`, `schema` 1.

use std::{io::Read as _, os::unix::process::ExitStatusExt as _, path::PathBuf, process::ExitStatus, time::Duration};

use serde::Deserialize;

use super::PROGRAM;
use crate::{
    error::{Error, Result},
    exec::Ending,
    guard::{Failure, FailureReason, IsolatedWorktree, Landed, Mutated, Outcome, Rollback, worktree},
    holder::Holder,
    store::audit::StepTime,
    sys,
    transaction::{LeftOut, LeftOutReason},
};

/// Version of the format.
const SCHEMA: u32 = 1;

/// The report of `exec`, or of `mutate`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Report {
    schema: u32,
    outcome: String,
    acquired: bool,
    fence: Option<u64>,
    waited_ms: u64,
    held_ms: u64,
    status: Option<i32>,
    signal: Option<i32>,
    exit_status: i32,
    error: Option<String>,
    in_the_way: Option<InTheWay>,
    worktree: Option<Made>,
    commit: Option<String>,
    changed: Vec<PathBuf>,
    left_out: Vec<Left>,
    step: Option<String>,
    steps: Vec<StepTime>,
    rolled_back: Option<bool>,
    left: Option<Vec<PathBuf>>,
    gone: Option<Vec<PathBuf>>,
    snapshot: Option<String>,
}

/// The holders and waiters before the request.
#[derive(Debug, Clone, Deserialize)]
struct InTheWay {
    what: String,
    holders: Vec<Holder>,
    ahead: Vec<Holder>,
}

/// A worktree that was made for the command.
#[derive(Debug, Deserialize)]
struct Made {
    path: PathBuf,
    branch: String,
    base: String,
    holds: Option<worktree::Contents>,
}

/// A file outside of the change.
#[derive(Debug, Deserialize)]
struct Left {
    path: PathBuf,
    why: String,
}

impl Report {
    /// Reads what the program wrote, which ended so.
    ///
    /// # Errors
    /// [`Error::Program`] if it wrote nothing that can be read: it could not begin, or is another version.
    pub(super) fn read(file: &tempfile::NamedTempFile, ended: ExitStatus) -> Result<Self> {
        let mut text = String::new();
        let read = file.as_file().read_to_string(&mut text);
        let report: Self = read.ok().and_then(|_| serde_json::from_str(&text).ok()).unwrap_or_default();
        if report.schema == SCHEMA {
            return Ok(report);
        }
        Err(match ended.signal() {
            Some(signal) if sys::INTERRUPTS.contains(&signal) => {
                Error::Interrupted { what: "the lock".to_owned(), signal }
            }
            Some(signal) => Error::Program {
                status: 128 + signal,
                message: format!("`{PROGRAM}` died of signal {signal}; the command may still run, under the lock"),
            },
            None => Error::Program {
                status: ended.code().unwrap_or_default(),
                message: format!("`{PROGRAM}` left no report that this version can read"),
            },
        })
    }

    /// How a command ended.
    ///
    /// # Errors
    /// Why it never ran.
    pub(super) fn outcome(self) -> Result<Outcome> {
        let ending = match self.outcome.as_str() {
            "exited" => Ending::Exited(self.status.unwrap_or(self.exit_status)),
            "signaled" => Ending::Signaled(self.signal.unwrap_or_default()),
            "overtime" => Ending::Overtime,
            "not-found" => Ending::NotFound,
            "not-executable" => Ending::NotExecutable,
            "lost" => Ending::Lost,
            _ if self.acquired => Ending::Failed,
            _ => return Err(self.error()),
        };
        Ok(Outcome { ending, die_of: None, fence: self.fence, waited: self.waited(), held: self.held() })
    }

    /// The worktree that was made for the command.
    pub(super) fn isolated(&self) -> Option<IsolatedWorktree> {
        let Made { path, branch, base, holds } = self.worktree.as_ref()?;
        Some(IsolatedWorktree { path: path.clone(), branch: branch.clone(), base: base.clone(), kept: holds.clone() })
    }

    /// How a mutation ended.
    ///
    /// # Errors
    /// Why none was begun.
    pub(super) fn mutated(mut self) -> Result<Mutated> {
        if !self.acquired {
            return Err(self.error());
        }
        let result = match self.outcome.as_str() {
            "committed" => Landed::Committed(self.commit.take().unwrap_or_default()),
            "staged" => Landed::Staged,
            "dry-run" => Landed::Shown,
            "unchanged" => Landed::Unchanged,
            _ => Landed::Failed(Box::new(self.failure())),
        };
        let (fence, waited, held) = (self.fence, self.waited(), self.held());
        let left_out = self.left_out.into_iter().map(|left| LeftOut { path: left.path, why: reason(&left.why) });
        Ok(Mutated {
            result,
            changed: self.changed,
            left_out: left_out.collect(),
            steps: self.steps,
            die_of: None,
            fence,
            waited,
            held,
        })
    }

    fn failure(&mut self) -> Failure {
        /// The names of the steps.
        const STEPS: [&str; 5] = ["read", "check", "command", "verify", "commit"];
        let named = self.step.take().unwrap_or_default();
        let why = match (self.outcome.as_str(), self.status) {
            ("interrupted", _) => FailureReason::Interrupted(self.exit_status - 128),
            (_, Some(status)) if status > 128 => FailureReason::Ended(Ending::Signaled(status - 128)),
            (_, Some(status)) => FailureReason::Ended(Ending::Exited(status)),
            (_, None) => FailureReason::Trouble(self.error()),
        };
        let undone = Rollback {
            kept: self.snapshot.take(),
            left: self.left.take().unwrap_or_default(),
            gone: self.gone.take().unwrap_or_default(),
            references_left: Vec::new(),
            foreign_head: None,
        };
        Failure {
            step: STEPS.into_iter().find(|step| *step == named).unwrap_or("read"),
            command: None,
            why,
            rollback: self.rolled_back.map(|is_done| if is_done { Ok(undone) } else { Err(self.error()) }),
        }
    }

    /// The error.
    fn error(&self) -> Error {
        let (message, status) = (self.error.clone().unwrap_or_default(), self.exit_status);
        match (self.outcome.as_str(), self.in_the_way.clone()) {
            ("busy", Some(InTheWay { what, holders, ahead })) => {
                Error::Busy { what, holders, ahead, waited: self.waited() }
            }
            ("deadlock", Some(InTheWay { what, holders: cycle, .. })) => Error::Deadlock { what, cycle },
            ("interrupted", _) => Error::Interrupted { what: "the lock".to_owned(), signal: status - 128 },
            _ => Error::Program { status, message },
        }
    }

    fn waited(&self) -> Duration {
        Duration::from_millis(self.waited_ms)
    }

    fn held(&self) -> Duration {
        Duration::from_millis(self.held_ms)
    }
}

fn reason(word: &str) -> LeftOutReason {
    match word {
        "ignored" => LeftOutReason::Ignored,
        "was-there" => LeftOutReason::WasThere,
        "repository" => LeftOutReason::Repository,
        _ => LeftOutReason::Written,
    }
}
