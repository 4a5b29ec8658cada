//! Finds the git that runs this hook, and what it was called for.

use crate::{
    repo::git_process::{is_git, verb},
    sys::{self, Process},
};

/// The git process that a hook runs in.
pub(super) struct Git {
    /// The one that holds until the end: the outermost of those that are each other's parents.
    pub(super) process: Process,
    /// The one that called the hook.
    caller: u32,
}

impl Git {
    /// Finds it among the ancestors of this process; `None` if the hook was called otherwise: by hand, or by a client with its own
    /// kind of git.
    ///
    /// Shells and other programs may stand between it and us (hook managers), but none between it and the gits above it: who
    /// runs git from a script, an alias or a `rebase --exec` may live for hours. With `nearest` not even those.
    pub(super) fn find(nearest: bool) -> Option<Self> {
        let mut above = sys::ancestors().skip_while(|&pid| !is_git(pid));
        let caller = above.next()?;
        let outermost = above.take_while(|&pid| !nearest && is_git(pid)).last().unwrap_or(caller);
        // Taken hold of before looking whether it is still above us: then it is the one that we mean.
        let process = Process::open(outermost);
        let still_ours = sys::ancestors().any(|pid| pid == outermost);
        still_ours.then_some(Self { process, caller })
    }

    /// The command line of the process that holds.
    pub(super) fn command(&self) -> Vec<String> {
        sys::command_line(self.process.pid()).unwrap_or_else(|| vec!["git".to_owned()])
    }

    /// The subcommand of the one that called the hook: `commit`, `merge`.
    pub(super) fn verb(&self) -> Option<String> {
        verb(&sys::command_line(self.caller).unwrap_or_default())
    }
}
