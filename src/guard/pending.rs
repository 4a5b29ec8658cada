//! Lists mutations that have not come to their end, by a glance at the journals: nothing is locked, git is not asked,
//! and a worktree without one costs a look for one file.

use std::path::PathBuf;

use super::{plan, recovery};
use crate::{
    fs::{self, Sharing},
    lock::{self, LockFile},
    repo::{Repo, Worktree},
    sys::{self, FileId},
    transaction::{Journal, Line, Plan},
};

/// A mutation that has not come to its end.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Pending {
    /// The top of its worktree.
    pub root: PathBuf,
    /// Whether that is the worktree that was asked for.
    pub here: bool,
    /// Whether somebody is at it: it runs, or is being put in order. Else it was killed.
    pub runs: bool,
    /// The contents of its journal; `None` if that cannot be read.
    pub info: Option<MutationInfo>,
}

/// A mutation's description, and its progress.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct MutationInfo {
    /// Its command.
    pub command: String,
    /// Its directory.
    pub directory: String,
    /// The message that its commit was to have.
    pub message: String,
    /// Its user.
    pub user: String,
    /// The machine's name.
    pub host: String,
    /// Its process.
    pub pid: u32,
    /// Fencing number of its hold; 0 inside another one.
    pub fence: u64,
    /// Milliseconds since 1970 when it began.
    pub begun_ms: u64,
    /// The step that it was in: `read`, `command` (with its checks), `verify`, `commit`, `rollback`.
    pub step: &'static str,
}

impl MutationInfo {
    fn new(plan: Plan, lines: &[Line]) -> Self {
        let Plan { command, directory, message, user, host, pid, fence, .. } = plan;
        let step = lines.last().map_or("read", |line| line.step.name());
        let begun_ms = lines.first().map_or(0, |line| line.at_ms);
        Self { command, directory, message, user, host, pid, fence, begun_ms, step }
    }
}

/// Looks for mutations of all worktrees that have not ended. Takes no lock, never blocks, changes nothing; reports those that
/// cannot be read.
#[must_use]
pub fn pending(repo: &Repo) -> Vec<Pending> {
    worktrees(repo).iter().filter_map(|worktree| look(repo, worktree)).collect()
}

/// A lock file of git's that a mutation made and that is there still.
pub(crate) struct OwnLock {
    pub(crate) path: PathBuf,
    pub(crate) id: FileId,
    /// The mutation's command.
    pub(crate) command: String,
    /// Whether somebody is at it; else it was killed.
    pub(crate) runs: bool,
}

/// Looks for those of all worktrees.
pub(crate) fn own_locks(repo: &Repo) -> Vec<OwnLock> {
    let of = |worktree: &Worktree| Some(locks_of(repo, worktree, look(repo, worktree)?.runs));
    worktrees(repo).iter().filter_map(of).flatten().collect()
}

/// The same before those that were left are removed: meanwhile nobody can begin or recover a mutation there.
pub(crate) fn with_own_locks<T>(repo: &Repo, sharing: Sharing, act: impl FnOnce(&[OwnLock]) -> T) -> T {
    let (mut held, mut locks) = (Vec::<LockFile>::new(), Vec::new());
    for worktree in worktrees(repo).iter().filter(|worktree| recovery::is_in_the_way(repo, worktree)) {
        let lock = recovery::try_lock(repo, worktree, sharing).ok().flatten();
        locks.extend(locks_of(repo, worktree, lock.is_none()));
        held.extend(lock);
    }
    let result = act(&locks);
    held.iter().for_each(LockFile::unlock);
    result
}

fn worktrees(repo: &Repo) -> Vec<Worktree> {
    repo.worktrees().unwrap_or_else(|_| repo.worktree().into_iter().collect())
}

fn look(repo: &Repo, worktree: &Worktree) -> Option<Pending> {
    if !recovery::is_in_the_way(repo, worktree) {
        return None;
    }
    let found = read(repo, worktree);
    let plan = found.as_ref().map(|(plan, _)| plan);
    let runs = runs(repo, worktree, plan);
    // It may have ended, and another begun, since it was read.
    let still = || {
        let now = read(repo, worktree);
        recovery::is_in_the_way(repo, worktree) && now.as_ref().map(|(plan, _)| plan) == plan
    };
    if !runs && !still() {
        return None;
    }
    let here = repo.worktree().is_some_and(|own| own.key == worktree.key);
    let root = if here { repo.root().to_owned() } else { repo.seen_from(&worktree.git_dir).root().to_owned() };
    Some(Pending { root, here, runs, info: found.map(|(plan, lines)| MutationInfo::new(plan, &lines)) })
}

fn read(repo: &Repo, worktree: &Worktree) -> Option<(Plan, Vec<Line>)> {
    /// Far more than a journal has before the list of what its command changed.
    const ENOUGH: u64 = 16 << 20;
    Journal::read_start(&repo.mutation_dir(worktree)?, ENOUGH)
}

/// Tells whether somebody has the mutations' lock. If the system does not show that, the hold that it ran in decides; for a
/// mutation inside another hold, any hold does.
fn runs(repo: &Repo, worktree: &Worktree, plan: Option<&Plan>) -> bool {
    let here = plan.is_none_or(|plan| plan.host == sys::host());
    let fence = plan.map_or(0, |plan| plan.fence);
    match repo.mutation_lock(worktree).and_then(|lock| lock::is_locked(&lock)) {
        Some(true) => true,
        Some(false) if here => false,
        _ => plan::domain(repo).any_lives(|hold| fence == 0 || hold.id == fence),
    }
}

/// Git's lock files that the mutation made.
fn locks_of(repo: &Repo, worktree: &Worktree, runs: bool) -> Vec<OwnLock> {
    let Some((plan, _)) = read(repo, worktree) else { return Vec::new() };
    let lock = |path: PathBuf| Some(OwnLock { id: fs::identity(&path)?, path, command: plan.command.clone(), runs });
    plan.own_locks(&worktree.git_dir).into_iter().filter_map(lock).collect()
}
