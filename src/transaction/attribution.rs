//! Decides whether the command's gits or somebody else moved HEAD or a reference. In doubt it was somebody else.

use std::path::PathBuf;

use super::{
    baseline::Baseline,
    journal::{Journal, Step},
    trace::{self, Git, Moves},
};
use crate::repo::Head;

/// Whose HEAD it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MovedBy {
    /// Nobody has moved it.
    Nobodys,
    /// The command has.
    Commands,
    /// Somebody else has, or may have.
    Others,
}

impl Baseline {
    /// The trace of the command's gits.
    pub(crate) fn trace(&self) -> PathBuf {
        self.directory().join("trace")
    }

    /// The file in which our own gits note their runs.
    pub(super) fn notes(&self) -> PathBuf {
        self.directory().join(super::baseline::NOTES)
    }

    /// The trace of what they wrote to references.
    pub(crate) fn reference_trace(&self) -> PathBuf {
        self.directory().join("trace-references")
    }

    /// The references that the command's gits have written until now.
    pub(crate) fn moves(&self) -> Moves {
        let before = self.references.iter().map(|one| one.id.clone()).chain(self.head().commit.clone());
        Moves::read(&self.reference_trace(), before.collect())
    }

    /// Tells whether a git of the command's wrote a reference and was killed before its trace: it was called to, and had references
    /// locked. Time is not evidence. `by_head`: it is the branch of HEAD.
    pub(crate) fn was_killed_moving(&self, name: &str, by_head: bool) -> bool {
        // Git renames without a transaction.
        self.any_killed(|git| git.is_to_rename(name, by_head))
            || (self.any_killed(|git| git.is_to_move(name, by_head)) && self.moves().is_cut_off())
    }

    /// Tells whether a git of the command's was killed.
    pub(crate) fn was_any_killed(&self) -> bool {
        self.any_killed(|_| true)
    }

    fn any_killed(&self, is_it: impl Fn(&Git) -> bool) -> bool {
        trace::gits(&self.trace()).iter().any(|git| is_it(git) && git.was_killed())
    }

    /// Tells whether HEAD is the commit that was to be made: what is staged, on top of what HEAD was.
    pub(crate) fn is_landed(&self, now: &Head) -> bool {
        let Some(commit) = now.commit.as_deref().filter(|_| now != self.head() && now.branch == self.head().branch)
        else {
            return false;
        };
        // Before that step anybody who commits all that is there commits the same.
        let lines = Journal::read(self.directory()).map(|(_, lines)| lines).unwrap_or_default();
        if !lines.iter().any(|line| line.step == Step::Landing) {
            return false;
        }
        let staged = self.directory().join("staged");
        let on_top = |parents: Vec<String>| parents.iter().eq(self.head().commit.iter());
        let made = self.checkout.parents_and_tree(commit).is_ok_and(|(parents, _)| on_top(parents));
        // Git may not have written all of it, and compares without reading what it need not.
        let is_whole = || self.checkout.between(&self.tree(), commit).is_ok();
        // A hook may have added to the index that it was made from.
        let differs = || self.checkout.staged(&staged, commit);
        made && staged.exists() && differs().is_ok_and(|differs| differs.is_empty()) && is_whole()
    }

    /// Tells who moved HEAD, if it moved.
    pub(crate) fn moved_by(&self, now: &Head) -> MovedBy {
        match self.head() {
            head if head == now => MovedBy::Nobodys,
            head if self.moves().explain_head(head, now) => MovedBy::Commands,
            head if self.was_killed_at(head, now) => MovedBy::Commands,
            // Git was killed before it could tell that it had committed.
            _ if self.is_landed(now) => MovedBy::Commands,
            _ => MovedBy::Others,
        }
    }

    /// Tells whether HEAD is what a git of the command's, which was killed before it could tell so, made of it.
    fn was_killed_at(&self, was: &Head, now: &Head) -> bool {
        match &now.branch {
            Some(branch) if now.branch != was.branch => {
                // Git before 2.46 has no transaction for what points somewhere.
                self.any_killed(|git| git.is_to_point_to(branch) || git.is_to_rename(branch, false))
            }
            branch => self.was_killed_moving(branch.as_deref().unwrap_or("HEAD"), true),
        }
    }
}
