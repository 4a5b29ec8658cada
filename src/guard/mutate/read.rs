//! The read step: finds out whether everything is fit to be changed, and captures how it is. Nothing of the user's
//! changes.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use super::{
    super::{Notice, hold::check_expected, plan},
    Landing,
    outcome::{FailureReason, Invalid},
    session::{Kept, MORE_PATIENCE, Session},
};
use crate::{
    error::{Error, Result},
    fs,
    holder::{self, Holder},
    lock::{self, Wait},
    repo::{Head, git_process::GitProcess},
    store::kept::Keeping,
    sys,
    transaction::{Baseline, Fence, GitLock, Journal, Keep, Locked, PROTECTING, Plan, Step, Unfit},
};

/// How long another git may have one of its own locks, before it is asked whether to go on waiting.
const PATIENCE: Duration = Duration::from_millis(100);

/// How long a fence is waited for if the caller sets no limit. The lock may have been left by a git that died.
const FENCE_PATIENCE: Duration = Duration::from_secs(10);

impl Session<'_> {
    /// Read: finds out how everything is, and keeps it.
    pub(super) fn read(&mut self) -> Result<Kept, FailureReason> {
        if let Some(name) = self.checkout.operation() {
            return Err(FailureReason::from(Invalid::Operation(name)));
        }
        // Finds a bad pathspec before anything runs.
        let here = std::env::current_dir().unwrap_or_else(|_| self.checkout.root.clone());
        self.checkout.check_pathspecs(&here, &self.mutation.paths).map_err(FailureReason::Trouble)?;
        let head = self.head().map_err(FailureReason::Trouble)?;
        check_expected(&self.mutation.expect, self.context.repo, self.hold.as_ref(), &head)
            .map_err(FailureReason::Trouble)?;
        let directory = self.context.repo.mutation_dir(self.worktree).unwrap_or_default();
        let directory =
            std::path::absolute(&directory).map_err(|e| FailureReason::Trouble(Error::io("find", directory)(e)))?;
        let begun = self.begin(&directory, head);
        begun.map_err(|unfit| {
            // Nothing has changed, so what was made for it is useless. The next mutation removes the rest.
            let forgotten = self.checkout.forget(PROTECTING);
            let gone = forgotten.and_then(|()| fs::remove_entry(&Journal::path(&directory)));
            drop(gone.and_then(|()| fs::discard(&directory)));
            FailureReason::from(unfit)
        })
    }

    fn begin(&self, directory: &Path, head: Head) -> Result<Kept, Unfit> {
        fs::discard(directory)?;
        fs::create_directory(directory, self.context.sharing)?;
        Keeping::prepare(self.context.repo, self.context.sharing)?;
        let plan = Plan {
            fence: self.fence.unwrap_or(0),
            pid: std::process::id(),
            user: sys::acting_user(),
            host: sys::host(),
            command: self.command.to_owned(),
            directory: holder::readable(&self.context.repo.root().to_string_lossy()),
            message: holder::readable(
                &self.mutation.message.first().map_or_else(Default::default, |text| text.to_string_lossy()),
            ),
            commits: self.mutation.landing == Landing::Commit,
            ..Plan::default()
        };
        head.branch.as_ref().map_or(Ok(()), |branch| self.checkout.check_log(branch))?;
        let sharing = self.context.sharing;
        let journal = || Journal::begin(directory, plan.clone(), sharing);
        let (journal, fence, before) = if self.mutation.fence {
            // Git's own locks are taken before anything else is on disk.
            let journal = journal()?;
            fs::sync(directory)?;
            let fence = self.wait_for_git(|| Fence::take(self.checkout, directory, &journal, PATIENCE))?;
            self.wait_for_head(&head, false)?;
            (journal, Some(fence), self.take(directory, head)?)
        } else {
            // It is enough that no git is at work just now, or has left a lock behind.
            self.wait_for_git(|| GitLock::is_free(&self.checkout.index(), PATIENCE))?;
            self.wait_for_head(&head, true)?;
            // The disk needs as long for the one as this process for the other.
            let (journal, before) = std::thread::scope(|scope| {
                let journal = sys::beside(scope, journal);
                let before = self.take(directory, head);
                (journal.join(), before)
            });
            (journal?, None, before?)
        };
        before.sync()?;
        before.protect()?;
        if fence.is_some() && before.index().exists() {
            fs::copy_index(&before.index(), &before.directory().join("fenced"), false)?;
        }
        journal.record(Step::Kept)?;
        Ok(Kept { before, journal, fence, index_is_missing: false })
    }

    fn take(&self, directory: &Path, head: Head) -> Result<Baseline, Unfit> {
        let keep = Keep {
            allow_dirty: self.mutation.allow_dirty,
            untracked: self.mutation.untracked,
            limit: self.baseline_limit,
            report: &|kept, all| self.context.notify(Notice::Keeping(kept, all)),
        };
        Baseline::take(directory.to_owned(), self.checkout.clone(), head, &keep)
    }

    /// Waits until no git moves HEAD, if `itself`, or its branch.
    pub(super) fn wait_for_head(&self, head: &Head, itself: bool) -> Result<(), Unfit> {
        let own = itself.then(|| Locked::Head.file(&self.checkout.git_dir));
        let branch = head.branch.as_ref().map(|branch| self.checkout.file_of_reference(branch));
        let files: Vec<_> = own.into_iter().chain(branch).collect();
        self.wait_for_git(|| files.iter().try_for_each(|file| GitLock::is_free(file, PATIENCE)))
    }

    /// Waits for other gits' own locks: with a fence as long as the caller said, or a while, else only as long as a git takes for a
    /// step. Everybody waits for us meanwhile, and that git may be one of them.
    fn wait_for_git<T>(&self, mut take: impl FnMut() -> Result<T>) -> Result<T, Unfit> {
        let most = if self.mutation.fence { self.timeout.unwrap_or(FENCE_PATIENCE) } else { MORE_PATIENCE };
        let limit = self.timeout.map_or(most, |timeout| timeout.min(most));
        let (begun, mut reported) = (Instant::now(), false);
        loop {
            match take() {
                Err(Error::GitBusy { path, waited, .. }) => {
                    if let Some(signal) = self.signals.interrupt() {
                        let what = path.display().to_string();
                        return Err(Unfit::Trouble(Error::Interrupted { what, signal }));
                    }
                    let waited = begun.elapsed().max(waited);
                    let gits = self.context.repo.gits_at_work();
                    self.refuse_cycle_through(&gits, &path).map_err(Unfit::Trouble)?;
                    if waited >= limit {
                        return Err(Unfit::Trouble(Error::GitBusy { path, waited, git: Some(described(&gits)) }));
                    }
                    if !reported && waited >= Wait::GRACE {
                        reported = true;
                        self.context.notify(Notice::WaitingForGit(&path, &described(&gits)));
                    }
                }
                taken => return taken.map_err(Unfit::Trouble),
            }
        }
    }

    /// Fails if one of these gits waits for us: a command that it runs, a hook for example, asks for a lock that we are inside of, or
    /// for one that we keep from coming free.
    fn refuse_cycle_through(&self, gits: &[GitProcess], lock: &Path) -> Result<()> {
        let waits_in_git = |_: &Path, request: &Holder| {
            lock::waiter_ancestors(request).iter().any(|pid| gits.iter().any(|git| git.pid == *pid))
        };
        let what = format!("git's own lock `{}`", lock.display());
        let own = || Some(self.worktree.key.clone());
        let hold = self.hold.as_ref().map(|hold| hold.held.record()).ok_or_else(own);
        lock::refuse_cycle_through(&plan::domain(self.context.repo), &what, hold, waits_in_git)
    }
}

/// The gits that work here, in words.
fn described(gits: &[GitProcess]) -> String {
    match gits {
        [] => "no git is seen to work here, so one that died may have left it".to_owned(),
        [git, others @ ..] => {
            let more = if others.is_empty() { String::new() } else { format!(" and {} more", others.len()) };
            format!("pid {} `{}`{more} works here", git.pid, holder::readable_command(&git.command))
        }
    }
}
