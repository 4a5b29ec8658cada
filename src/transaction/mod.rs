//! Lets a change of a repository land whole, or leave no trace. Everything is recorded before the first change, so that
//! it can be put back, also by a later process.
//!
//! | file | what |
//! | --- | --- |
//! | `baseline` | how everything was: taken before the first change, in files that the next process can read |
//! | `scan` | which files git could give back, and which are kept |
//! | `changes` | what differs from that now |
//! | `walk` | the files of an index, looked at by several threads |
//! | `trace` | which git commands the command ran, to tell its changes of references from others' |
//! | `stage`, `differences` | the change as an index of its own, and how that becomes the user's; where two indexes differ |
//! | `logs` | the logs of references |
//! | `locks` | git's own `index.lock` and `HEAD.lock` |
//! | `journal` | the steps, each told before it is taken |
//! | `attribution` | who has moved HEAD or a reference: the command, or somebody else |
//! | `undo` | puts everything back: rollback and recovery are this one code |
//! | `recover` | what to do with a mutation that was never finished |
//!
//! Which step follows which stands in `guard/mutate/session.rs`.
//!
//! # On disk
//! `<common dir>/repoguard/mutation-<worktree>/`, there only while a mutation runs or was not finished: `journal.jsonl`
//! (its presence means "not finished"), `before.jsonl`, `index` (the user's own), `excludes`, `stash`, `files/` (bytes that git
//! could not give back: `packed`, `<n>`, `<n>.link`, `leased`), `log-<n>` or `table-<name>` (logs of references), `staged` (the
//! change as an index), `trace` and `trace-references`.
//! `mutation-<worktree>.lock` beside it is locked as long as one runs, also where an outer hold lets several in.
//!
//! # Limitations
//! - Ignored files, configuration, hooks, other worktrees' files and the inside of submodules are not put back.
//! - References that the command deleted, and whose objects it had git prune, cannot be put back; HEAD can. Commits that only a log
//!   led to are pruned as well.
//! - Symbolic references that lead nowhere are not put back.
//! - Files that others write meanwhile without the lock look like the command's, except commits.

mod attribution;
mod baseline;
mod changes;
mod differences;
mod earlier;
mod journal;
mod locks;
mod logs;
mod others;
mod recover;
mod scan;
mod spelling;
mod stage;
mod standby;
mod trace;
mod undo;
mod walk;

pub(crate) use attribution::MovedBy;
pub(crate) use baseline::{Baseline, Keep, Unfit};
pub(crate) use changes::Changes;
pub(crate) use journal::{Journal, Line, Locked, Plan, Step};
pub(crate) use locks::{Fence, GitLock};
pub use recover::{Choice, Doubt, Found, Unfinished};
pub(crate) use recover::{Recovery, inspect, recover};
pub use stage::{LeftOut, LeftOutReason};
pub(crate) use stage::{StageError, StageRequest, Staged, publish, stage};
pub(crate) use trace::gits;
pub(crate) use undo::{PROTECTING, Undo, Undone, locks_of_killed, undo};

use std::path::PathBuf;

/// Paths for a message or a caller.
pub(crate) fn readable(paths: &[Vec<u8>]) -> Vec<PathBuf> {
    paths.iter().map(|path| crate::repo::path_of(path)).collect()
}
