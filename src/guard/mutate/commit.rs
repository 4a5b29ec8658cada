//! The commit step: commits the validated change by git, and reads it back.

use std::ffi::OsString;

use super::{
    super::Notice,
    outcome::{FailureReason, Invalid},
    session::{Attempt, Failed, Kept, MORE_PATIENCE, Session},
};
use crate::{
    error::{Result, listed},
    exec::Ending,
    repo::{Head, durable},
    sys,
    transaction::{self, GitLock, Locked, Staged, Step, readable},
};

impl Session<'_> {
    /// Commits by git itself, so that hooks, signing and identity are the user's own, and reads the commit back.
    pub(super) fn commit(&mut self, kept: &mut Kept, staged: &Staged) -> Attempt<String> {
        const STEP: &str = "commit";
        let trouble = |error| Failed::new(STEP, FailureReason::Trouble(error));
        if let Some(hold) = &self.hold
            && !hold.held.lost().is_empty()
        {
            return Err(Failed::new(STEP, FailureReason::Ended(Ending::Lost)));
        }
        kept.journal.record(Step::Landing).map_err(trouble)?;
        if let Some(fence) = &mut kept.fence {
            fence.open_head();
        }
        self.wait_for_head(kept.before.head(), true).map_err(|unfit| Failed::new(STEP, unfit.into()))?;
        self.head_is_ours(&kept.before, STEP)?;
        let mut command: Vec<OsString> = vec!["git".into(), "-C".into(), self.checkout.root.clone().into()];
        command.extend(durable(staged.changes.len()).into_iter().map(OsString::from));
        if self.checkout.is_tidy() {
            // Git would start another program to find that out.
            command.extend(["-c", "maintenance.auto=false"].map(OsString::from));
        }
        command.extend(["commit", "--quiet"].map(OsString::from));
        command.extend(self.mutation.allow_empty.then(|| "--allow-empty".into()));
        command.extend(self.mutation.message.iter().flat_map(|text| ["-m".into(), text.clone()]));
        self.step(STEP, command, kept, Some(&staged.index))?;
        // The index is brought to disk while the commit is read.
        let checkout = self.checkout;
        let (commit, finished) = std::thread::scope(|scope| {
            let finished = sys::beside(scope, || staged.finish(checkout));
            let commit = self.read_back(kept, staged);
            (commit, finished.join())
        });
        let commit = commit?;
        // From here on it is there, and is not undone: what is missing, the next one does.
        let landed = kept.journal.note(Step::Landed { commit: Some(commit.clone()) });
        if let Err(error) = landed.and(finished).and_then(|()| self.give_index(kept, staged)) {
            self.context.notify(Notice::Trouble(&error));
            kept.index_is_missing = true;
        }
        Ok(commit)
    }

    /// Makes sure that the validated change, all of it, is a commit on top of what HEAD was, and on its branch.
    fn read_back(&mut self, kept: &Kept, staged: &Staged) -> Attempt<String> {
        const STEP: &str = "commit";
        let trouble = |error| Failed::new(STEP, FailureReason::Trouble(error));
        let unlike = |what: String| Failed::new(STEP, FailureReason::from(Invalid::Unlike(what)));
        let (was, now) = (kept.before.head(), self.head().map_err(trouble)?);
        let moved = |now: Head| Failed::new(STEP, FailureReason::from(Invalid::HeadMoved(was.clone(), now)));
        let tip = match &now.commit {
            Some(commit) if now != *was && now.branch == was.branch => commit.clone(),
            Some(_) if now != *was => return Err(moved(now)),
            _ => return Err(unlike("git said that it committed, but HEAD is where it was".to_owned())),
        };
        let checkout = self.checkout;
        let is_ours = |commit: &str| {
            checkout.parents_and_tree(commit).is_ok_and(|(parents, _)| parents.iter().eq(was.commit.iter()))
        };
        let written = kept.before.moves();
        let names: Vec<&str> = ["HEAD"].into_iter().chain(was.branch.as_deref()).collect();
        let commit = if is_ours(&tip) {
            tip
        } else if let Some(ours) = written.values(&names).find(|commit| is_ours(commit)) {
            // A hook, or somebody else, has gone on from it.
            if !checkout.is_ancestor(ours, &tip).map_err(trouble)? {
                return Err(moved(now));
            }
            ours.to_owned()
        } else {
            let (parents, _) = checkout.parents_and_tree(&tip).map_err(trouble)?;
            if let [parent] = &parents[..]
                && written.values(&names).any(|value| value == tip)
            {
                // Somebody else's commit came first, and ours, which knows nothing of it, on top: only ours goes.
                let name = was.branch.clone().unwrap_or_else(|| "HEAD".to_owned());
                checkout.move_references(&[(name, Some(tip), Some(parent.clone()))]).map_err(trouble)?;
            }
            return Err(moved(self.head().map_err(trouble)?));
        };
        if staged.is_whole_in(&kept.before, &commit).map_err(trouble)? {
            self.changed = staged.paths();
            return Ok(commit);
        }
        let landed = checkout.between(&kept.before.tree(), &commit).map_err(trouble)?;
        let exactly = landed == staged.changes;
        let landed: Vec<Vec<u8>> = landed.into_iter().map(|change| change.path).collect();
        if !exactly {
            // A hook may have added to it.
            let differs = checkout.staged(&staged.index, &commit).map_err(trouble)?;
            if !differs.is_empty() {
                let paths = listed(&readable(&differs.into_iter().map(|change| change.path).collect::<Vec<_>>()));
                return Err(unlike(format!("the commit holds something else than was validated: {paths}")));
            }
            let missing: Vec<Vec<u8>> = staged.paths().into_iter().filter(|path| !landed.contains(path)).collect();
            if !missing.is_empty() {
                let paths = listed(&readable(&missing));
                return Err(unlike(format!("a hook took what was validated out of the commit: {paths}")));
            }
        }
        self.changed = landed;
        Ok(commit)
    }

    /// Gives the user the index that goes with the change.
    pub(super) fn publish(&self, kept: &Kept, staged: &Staged) -> Result<()> {
        staged.finish(self.checkout)?;
        self.give_index(kept, staged)
    }

    /// The same when [`Staged::finish`] was called.
    fn give_index(&self, kept: &Kept, staged: &Staged) -> Result<()> {
        let worked_on = self.worked_on(kept);
        if let Some(fence) = &kept.fence {
            return transaction::publish(&kept.before, staged, fence.index(), &worked_on);
        }
        let (git_dir, directory) = (&self.checkout.git_dir, kept.before.directory());
        let lock = GitLock::take(Locked::Index, git_dir, directory, &kept.journal, MORE_PATIENCE)?;
        transaction::publish(&kept.before, staged, &lock, &worked_on)
    }
}
