//! Locks a worktree for git while its command runs (`git worktree lock`), so that nobody's clean-up prunes, moves or removes it.

use std::io::Write as _;

use crate::{error::Result, fs, repo::Worktree};

/// The reason that `git worktree list` shows.
const IN_USE: &str = "repoguard: its command runs";
/// Git's file for it; see git-worktree(1), "DETAILS".
const FILE: &str = "locked";

/// Locks it.
///
/// # Errors
/// [`crate::Error::Io`].
pub(super) fn lock(worktree: &Worktree) -> Result<()> {
    let text = |file: &mut std::fs::File| file.write_all(format!("{IN_USE}\n").as_bytes());
    fs::put_file(&worktree.git_dir.join(FILE), 0o644, None, text)
}

/// Takes that lock away, also if its process was killed. One of the user's stays.
pub(super) fn unlock(worktree: &Worktree) {
    if is_ours(worktree) {
        fs::remove(&worktree.git_dir.join(FILE));
    }
}

/// Tells whether the user has locked it.
pub(super) fn is_users(worktree: &Worktree) -> bool {
    fs::identity(&worktree.git_dir.join(FILE)).is_some() && !is_ours(worktree)
}

fn is_ours(worktree: &Worktree) -> bool {
    let reason = fs::read_small(&worktree.git_dir.join(FILE), IN_USE.len());
    reason.is_some_and(|reason| reason == IN_USE.as_bytes())
}
