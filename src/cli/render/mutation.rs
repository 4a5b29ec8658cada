//! Prints how a mutation or its recovery ended.

use repoguard::{
    mutation::{Failure, FailureReason, Landed, Landing, LeftOutReason, Mutated, Recovered, Rollback},
    run::Ending,
};

use super::{RED, Ui};

impl Ui {
    /// Says how a mutation ended.
    pub(in crate::cli) fn mutated(&self, mutated: &Mutated, landing: Landing) {
        let count = match mutated.changed.len() {
            1 => "1 file".to_owned(),
            count => format!("{count} files"),
        };
        match &mutated.result {
            Landed::Committed(commit) => {
                self.say(&format!("committed {} ({count})", commit.get(..10).unwrap_or(commit)));
            }
            Landed::Staged => self.say(&format!("staged, not committed ({count})")),
            Landed::Shown => self.say("dry run: everything was put back"),
            Landed::Unchanged if landing == Landing::Commit && mutated.left_out.is_empty() => {
                self.say("nothing changed, nothing committed");
            }
            Landed::Unchanged if mutated.left_out.is_empty() => self.say("nothing changed"),
            Landed::Unchanged => self.say("nothing that belongs to the change: nothing committed"),
            Landed::Failed(failure) => self.failed(failure),
        }
        if !matches!(mutated.result, Landed::Failed(_)) {
            for (why, said) in [
                (LeftOutReason::Ignored, "left out, ignored:"),
                (LeftOutReason::WasThere, "left out, is older than the command and was not in git:"),
                (LeftOutReason::Written, "left out, another process has it open for writing:"),
                (LeftOutReason::Repository, "left out, there is a `.git` in it:"),
            ] {
                let paths: Vec<_> =
                    mutated.left_out.iter().filter(|left| left.why == why).map(|left| left.path.clone()).collect();
                if !paths.is_empty() {
                    self.more(said, &repoguard::error::listed(&paths));
                }
            }
        }
    }

    fn failed(&self, failed: &Failure) {
        self.line(RED, &failure(failed));
        let mut hint = None;
        match &failed.why {
            FailureReason::Trouble(error) => {
                self.causes(error);
                self.details(error);
                hint = error.hint();
            }
            FailureReason::Invalid(invalid) => hint = invalid.hint().map(str::to_owned),
            _ => {}
        }
        match &failed.rollback {
            None => self.more("state:", "nothing was changed"),
            Some(Ok(rollback)) => self.rolled_back(rollback),
            Some(Err(error)) => {
                self.line(RED, "not everything could be put back; what was there is kept, and nothing is lost");
                self.more("caused by:", &error.to_string());
                self.causes(error);
                hint = Some(
                    "`repoguard recover --status` shows how it stands; `repoguard recover` tries again".to_owned(),
                );
            }
        }
        self.hint_if_any(hint);
    }

    fn rolled_back(&self, rollback: &Rollback) {
        match &rollback.foreign_head {
            None if rollback.left.is_empty() && rollback.gone.is_empty() && rollback.references_left.is_empty() => {
                self.more("state:", "everything was put back as it was");
            }
            None => self.more("state:", "put back, but for what is left here"),
            Some((was, is)) => {
                self.more("state:", &format!("put back, but for HEAD, which somebody else moved from {was} to {is}"));
            }
        }
        if !rollback.left.is_empty() {
            self.more("left as they are:", &repoguard::error::listed(&rollback.left));
        }
        if !rollback.gone.is_empty() {
            self.more("removed, and nothing of theirs was kept:", &repoguard::error::listed(&rollback.gone));
        }
        if !rollback.references_left.is_empty() {
            self.more("moved by others, and left:", &rollback.references_left.join(", "));
        }
        if let Some(id) = &rollback.kept {
            self.more(
                "kept:",
                &format!("what was undone is in snapshot {id}; `repoguard restore {id}` brings it back"),
            );
        }
    }

    pub(super) fn details_of(&self, recovered: &Recovered) {
        match recovered {
            Recovered::Forgotten => self.more("state:", "it had changed nothing"),
            Recovered::Undone(rollback) => self.rolled_back(rollback),
            Recovered::Finished(Some(commit)) => {
                self.more("state:", &format!("its commit {} stands", commit.get(..10).unwrap_or(commit)));
            }
            Recovered::Finished(None) => self.more("state:", "everything is left as it is"),
        }
    }

    /// Prints what came of a recovery.
    #[expect(clippy::unnecessary_wraps, reason = "as the other reports")]
    pub(in crate::cli) fn recovered(&self, recovered: &Recovered) -> anyhow::Result<()> {
        self.say(match recovered {
            Recovered::Forgotten => "recovered: there was nothing to undo",
            Recovered::Undone(_) => "recovered: undone",
            Recovered::Finished(_) => "recovered: finished",
        });
        if !self.is_quiet() {
            self.details_of(recovered);
        }
        Ok(())
    }
}

/// Why a mutation failed, in one line: which step, and how.
pub(in crate::cli) fn failure(failure: &Failure) -> String {
    let command = failure.command.as_ref().map_or_else(String::new, |command| format!(" `{command}`"));
    let what = match &failure.why {
        FailureReason::Ended(Ending::Exited(status)) => format!("exited with status {status}"),
        FailureReason::Ended(Ending::Signaled(signal)) => format!("died of signal {signal}"),
        FailureReason::Ended(Ending::Overtime) => "was stopped: it took longer than --max-hold".to_owned(),
        FailureReason::Ended(Ending::NotFound) => "could not run: no such command".to_owned(),
        FailureReason::Ended(Ending::NotExecutable) => "could not run: not executable".to_owned(),
        FailureReason::Ended(Ending::Lost) => "was not begun: the lock was lost".to_owned(),
        FailureReason::Ended(_) => "could not be started".to_owned(),
        FailureReason::Interrupted(signal) => format!("was interrupted by signal {signal}"),
        FailureReason::Invalid(invalid) => return format!("{} step: {invalid}", failure.step),
        FailureReason::Trouble(error) => return format!("{} step: {error}", failure.step),
    };
    format!("{} step:{command} {what}", failure.step)
}
