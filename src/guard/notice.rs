//! Describes what the library reports to its caller while it works.

use std::{path::Path, time::Duration};

use super::{IsolatedWorktree, Recovered, worktree};
use crate::{error::Error, holder::Holder, lock::Waiting, repo::Head};

/// Called with each notice, in the middle of the work: it should be short, and must not acquire anything.
pub type Observer<'a> = dyn FnMut(Notice<'_>) + 'a;

/// Something worth telling the user, beside the command's own output.
#[derive(Debug)]
#[non_exhaustive]
pub enum Notice<'a> {
    /// The lock is busy; told after 300 ms and then every second.
    Waiting(&'a Waiting<'a>),
    /// The lock is held, after this wait; not reported if the command runs inside a hold.
    Acquired(Duration),
    /// This lock of git's own is there and is waited for. Then which gits are seen to work here, in words.
    WaitingForGit(&'a Path, &'a str),
    /// Files are copied before a mutation begins: how many and how many bytes until now, and in all; told every second.
    Keeping((usize, u64), (usize, u64)),
    /// An earlier holder was killed with all its processes. HEAD as it was before and is now, if it moved.
    Died(&'a Holder, Option<&'a (Head, Head)>),
    /// The lock was acquired, but this earlier holder still runs: its lock's place was replaced.
    Displaced(&'a Holder),
    /// HEAD was changed outside the guard since the last release, from the first to the second.
    Violated(&'a Head, &'a Head),
    /// The last holder switched HEAD to another branch: from the first to the second, by this command.
    Switched(&'a Head, &'a Head, &'a str),
    /// A locked path was removed or replaced while the command ran, so it was not exclusive to the end.
    Lost(&'a Path),
    /// The command ran inside of the hold with this fencing number, which ended before it: it was not exclusive to the end.
    LostAround(u64),
    /// The command has ended, but these processes work inside of its hold, as the system shows: it ends with them.
    Lingers(&'a [u32]),
    /// This git command changed the worktree while somebody held the lock.
    RanUnder(&'a Holder),
    /// An interrupted mutation was recovered.
    Recovered(&'a crate::transaction::Unfinished, &'a Recovered),
    /// A checkout goes on without the lock.
    Unguarded(&'a Error),
    /// Somebody who does not ask, an ordinary git command, changed this worktree while the lock was held.
    Intruder(&'a Holder),
    /// The lock is busy, and the command is about to run in this worktree instead.
    Isolated(&'a IsolatedWorktree),
    /// That worktree was removed: nothing of worth was in it.
    Removed(&'a IsolatedWorktree),
    /// It is kept, with this in it.
    Kept(&'a IsolatedWorktree, &'a worktree::Contents),
    /// Something beside the lock failed, and did not stop it.
    Trouble(&'a Error),
}
