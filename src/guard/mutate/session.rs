//! Which step follows which? One method a step; nothing of the user's changes before everything is kept.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{
    super::{Notice, hold::Hold},
    Landing, Mutation, Write,
    outcome::{Failure, Invalid, Landed, Rollback, Why},
};
use crate::{
    env,
    error::{Error, Result, listed},
    exec::Ending,
    fs::{self, Sharing},
    holder,
    lock::{LockFile, Wait},
    mutation::{
        self, Before, Changes, Fence, GitLock, Journal, PROTECTING, Plan, Staged, Step, Undo, Unfit, Whose, readable,
    },
    repo::{Checkout, DURABLE, Head, Repo, Worktree},
    store::{audit::StepTime, kept},
    sys::{self, Signals},
};

/// How long another git may have one of its own locks, before it is asked whether to go on waiting.
const PATIENCE: Duration = Duration::from_millis(100);
/// How long another git may have the index' lock when there is no way back.
const MORE_PATIENCE: Duration = Duration::from_secs(5);

/// A step that failed.
pub(super) struct Failed {
    pub(super) step: &'static str,
    pub(super) command: Option<String>,
    pub(super) why: Why,
}

/// What a step gives, if it succeeds.
pub(super) type Attempt<T> = std::result::Result<T, Box<Failed>>;

impl Failed {
    pub(super) fn new(step: &'static str, why: Why) -> Box<Self> {
        Box::new(Self { step, command: None, why })
    }
}

/// What is there while a mutation runs.
pub(super) struct Kept {
    pub(super) before: Before,
    pub(super) journal: Journal,
    pub(super) fence: Option<Fence>,
    /// The commit is there, but the user's index could not be written: the next one does it.
    index_is_missing: bool,
}

/// A mutation that runs.
pub(super) struct Session<'a> {
    pub(super) repo: &'a Repo,
    pub(super) worktree: &'a Worktree,
    pub(super) checkout: &'a Checkout,
    pub(super) command: &'a str,
    pub(super) mutation: &'a Mutation,
    pub(super) sharing: Sharing,
    pub(super) limit: u64,
    pub(super) signals: &'a Signals,
    pub(super) hold: Option<Hold<'a>>,
    /// The mutations' own lock.
    pub(super) lock: LockFile,
    pub(super) acquired: Instant,
    /// How long to wait for other gits; for ever with `None`.
    pub(super) timeout: Option<Duration>,
    pub(super) fence: Option<u64>,
    pub(super) variables: Vec<(&'static str, OsString)>,
    pub(super) steps: Vec<StepTime>,
    pub(super) changed: Vec<Vec<u8>>,
    pub(super) made_by_checks: Changes,
    pub(super) die_of: Option<i32>,
    pub(super) say: &'a dyn Fn(Notice<'_>),
}

impl Session<'_> {
    pub(super) fn run(&mut self, write: Write<'_>) -> Landed {
        let begun = Instant::now();
        let kept = self.read();
        let status = if kept.is_ok() { 0 } else { 65 };
        self.note("read", begun, status);
        let mut kept = match kept {
            Ok(kept) => kept,
            Err(why) => {
                return Landed::failed(Failure { step: "read", command: None, why, rollback: None });
            }
        };
        match self.change(&mut kept, write) {
            Ok(Landed::Shown) => match self.roll_back(kept, "dry run", 0) {
                Ok(_) => Landed::Shown,
                Err(error) => {
                    let why = Why::Trouble(Error::NotPutBack { paths: Vec::new() });
                    Landed::failed(Failure { step: "rollback", command: None, why, rollback: Some(Err(error)) })
                }
            },
            Ok(landed) if kept.index_is_missing => landed,
            Ok(landed) => {
                if let Err(error) = self.end(kept) {
                    (self.say)(Notice::Trouble(&error));
                }
                landed
            }
            Err(failed) => {
                let Failed { step, command, why } = *failed;
                let text = format!("the {step} step failed");
                let rollback = self.roll_back(kept, &text, 1);
                Landed::failed(Failure { step, command, why, rollback: Some(rollback) })
            }
        }
    }

    /// Read: finds out how everything is, and keeps it.
    fn read(&mut self) -> Result<Kept, Why> {
        if let Some(name) = self.checkout.operation() {
            return Err(Why::from(Invalid::Operation(name)));
        }
        // What is no pathspec is found out before anything runs.
        let here = std::env::current_dir().unwrap_or_else(|_| self.checkout.root.clone());
        self.checkout.check_pathspecs(&here, &self.mutation.paths).map_err(Why::Trouble)?;
        let head = self.head().map_err(Why::Trouble)?;
        if let Some(expected) = &self.mutation.expect_head {
            let commit = self.checkout.commit(expected).map_err(Why::Trouble)?;
            if commit.is_none() || commit != head.commit {
                let expected = expected.to_string_lossy().into_owned();
                return Err(Why::from(Invalid::UnexpectedHead(expected, head)));
            }
        }
        let directory = self.repo.mutation_dir(self.worktree).unwrap_or_default();
        let directory = std::path::absolute(&directory).map_err(|e| Why::Trouble(Error::io("find", directory)(e)))?;
        let begun = self.begin(&directory, head);
        begun.map_err(|unfit| {
            // Nothing has changed: what was made for it is of no use to anybody. What cannot be removed now, the next one does.
            let forgotten = self.checkout.forget(PROTECTING);
            let gone = forgotten.and_then(|()| fs::remove_entry(&Journal::path(&directory)));
            drop(gone.and_then(|()| fs::remove_entry(&directory)));
            match unfit {
                Unfit::Dirty(paths) => Why::from(Invalid::Dirty(readable(&paths))),
                Unfit::Trouble(error) => Why::Trouble(error),
            }
        })
    }

    fn begin(&self, directory: &Path, head: Head) -> Result<Kept, Unfit> {
        fs::remove_entry(directory)?;
        fs::create_directory(directory, self.sharing)?;
        let plan = Plan {
            fence: self.fence.unwrap_or(0),
            pid: std::process::id(),
            user: env::user().unwrap_or_else(sys::effective_user_name),
            host: sys::host(),
            command: self.command.to_owned(),
            directory: holder::readable(&self.repo.root().to_string_lossy()),
            message: holder::readable(
                &self.mutation.message.first().map_or_else(Default::default, |text| text.to_string_lossy()),
            ),
            commits: self.mutation.landing == Landing::Commit,
            ..Plan::default()
        };
        let journal = Journal::begin(directory, plan, self.sharing)?;
        let fence = self.wait_for_git(|| {
            // Without a fence it is enough that no git is at work just now, or has left a lock behind.
            if self.mutation.fence {
                Fence::take(self.checkout, directory, &journal, PATIENCE).map(Some)
            } else {
                GitLock::is_free(&self.checkout.index(), PATIENCE).map(|()| None)
            }
        })?;
        let allow_dirty = self.mutation.allow_dirty;
        let before = Before::take(directory.to_owned(), self.checkout.clone(), head, allow_dirty)?;
        before.protect()?;
        if fence.is_some() && before.index().exists() {
            fs::copy_index(&before.index(), &before.directory().join("fenced"), false)?;
        }
        journal.tell(Step::Kept)?;
        Ok(Kept { before, journal, fence, index_is_missing: false })
    }

    /// Waits for other gits' own locks: with a fence as long as for ours, else only as long as a git takes for a step.
    fn wait_for_git<T>(&self, mut take: impl FnMut() -> Result<T>) -> Result<T, Unfit> {
        let step = (!self.mutation.fence).then_some(MORE_PATIENCE);
        let limit = [self.timeout, step].into_iter().flatten().min();
        let mut told = false;
        loop {
            match take() {
                Err(Error::GitBusy { path, waited }) => {
                    if let Some(signal) = self.signals.interrupt() {
                        let what = path.display().to_string();
                        return Err(Unfit::Trouble(Error::Interrupted { what, signal }));
                    }
                    let waited = self.acquired.elapsed().max(waited);
                    if limit.is_some_and(|limit| waited >= limit) {
                        return Err(Unfit::Trouble(Error::GitBusy { path, waited }));
                    }
                    if !told && waited >= Wait::GRACE {
                        told = true;
                        (self.say)(Notice::WaitingForGit(&path));
                    }
                }
                taken => return taken.map_err(Unfit::Trouble),
            }
        }
    }

    /// Check, write, verify, commit.
    fn change(&mut self, kept: &mut Kept, write: Write<'_>) -> Attempt<Landed> {
        let mutation = self.mutation;
        for check in &mutation.checks {
            self.shell("check", check, kept)?;
        }
        if !mutation.checks.is_empty() {
            let trouble = |error| Failed::new("check", Why::Trouble(error));
            self.made_by_checks = Changes::look(&kept.before).map_err(trouble)?;
            let changed = self.made_by_checks.really(&kept.before).map_err(trouble)?;
            if !changed.is_empty() {
                return Err(Failed::new("check", Why::from(Invalid::CheckChanged(readable(&changed)))));
            }
        }
        match write {
            Write::Command(command) => self.step("command", command, kept, None)?,
            Write::Closure(closure) => self.call(closure)?,
        }
        let trouble = |step| move |error| Failed::new(step, Why::Trouble(error));
        let (changes, staged) = self.look(kept)?;
        for verify in &mutation.verifies {
            self.shell("verify", verify, kept)?;
        }
        if !mutation.verifies.is_empty() {
            let after = Changes::look(&kept.before).map_err(trouble("verify"))?;
            let altered = after.beyond(&changes, &kept.before).map_err(trouble("verify"))?;
            if !altered.is_empty() {
                return Err(Failed::new("verify", Why::from(Invalid::VerifyChanged(readable(&altered)))));
            }
        }
        self.head_is_ours(&kept.before, "verify")?;
        match mutation.landing {
            _ if staged.changes.is_empty() && !(mutation.allow_empty && mutation.landing == Landing::Commit) => {
                // What the command may have done to the index is no change, and does not stay.
                self.publish(kept, &staged).map_err(trouble("commit"))?;
                Ok(if mutation.landing == Landing::Show { Landed::Shown } else { Landed::Unchanged })
            }
            Landing::Show => {
                self.checkout.show(&staged.index, &kept.before.tree()).map_err(trouble("commit"))?;
                Ok(Landed::Shown)
            }
            Landing::Stage => {
                kept.journal.tell(Step::Landed { commit: None }).map_err(trouble("commit"))?;
                self.publish(kept, &staged).map_err(trouble("commit"))?;
                Ok(Landed::Staged)
            }
            Landing::Commit => self.commit(kept, &staged).map(Landed::Committed),
        }
    }

    /// Finds out what the command changed, and whether all of it may be committed.
    fn look(&mut self, kept: &Kept) -> Attempt<(Changes, Staged)> {
        const STEP: &str = "command";
        let before = &kept.before;
        let begun = Instant::now();
        let trouble = |error| Failed::new(STEP, Why::Trouble(error));
        self.head_is_ours(before, STEP)?;
        if let Some(name) = self.checkout.operation() {
            return Err(Failed::new(STEP, Why::from(Invalid::Operation(name))));
        }
        let changes = Changes::look(before).map_err(trouble)?;
        // Files that a check has made are not the command's: they stay where they are.
        let changes = changes.without_new(&self.made_by_checks);
        before.keep_index(&self.checkout.index()).map_err(trouble)?;
        let ran = Step::Ran { head: before.head().clone(), touched: changes.touched.clone() };
        kept.journal.tell(ran).map_err(trouble)?;
        let gits = mutation::gits(&before.trace());
        let staged_by_command = kept.fence.is_some() || gits.iter().any(|git| !git.reads_only());
        let directory = std::env::current_dir().unwrap_or_else(|_| self.checkout.root.clone());
        let staged = mutation::stage(
            before,
            &changes,
            &self.worked_on(kept),
            staged_by_command,
            kept.fence.is_some(),
            &directory,
            &self.mutation.paths,
        );
        let staged = staged.map_err(|unlike| Failed::new(STEP, Why::from(unlike)))?;
        self.changed = staged.paths();
        self.note("look", begun, 0);
        Ok((changes, staged))
    }

    /// Commits by git itself, so that hooks, signing and identity are the user's own, and reads the commit back.
    fn commit(&mut self, kept: &mut Kept, staged: &Staged) -> Attempt<String> {
        const STEP: &str = "commit";
        let trouble = |error| Failed::new(STEP, Why::Trouble(error));
        if let Some(hold) = &self.hold
            && !hold.held.lost().is_empty()
        {
            return Err(Failed::new(STEP, Why::Ended(Ending::Lost)));
        }
        kept.journal.tell(Step::Landing).map_err(trouble)?;
        if let Some(fence) = &mut kept.fence {
            fence.open_head();
        }
        self.head_is_ours(&kept.before, STEP)?;
        let mut command: Vec<OsString> = vec!["git".into(), "-C".into(), self.checkout.root.clone().into()];
        command.extend(DURABLE.map(OsString::from));
        command.extend(["commit", "--quiet"].map(OsString::from));
        command.extend(self.mutation.allow_empty.then(|| "--allow-empty".into()));
        command.extend(self.mutation.message.iter().flat_map(|text| ["-m".into(), text.clone()]));
        self.step(STEP, command, kept, Some(&staged.index))?;
        let commit = self.read_back(kept, staged)?;
        // From here on it is there, and is not undone: what is missing, the next one does.
        let landed = kept.journal.tell(Step::Landed { commit: Some(commit.clone()) });
        if let Err(error) = landed.and_then(|()| self.publish(kept, staged)) {
            (self.say)(Notice::Trouble(&error));
            kept.index_is_missing = true;
        }
        Ok(commit)
    }

    /// Makes sure that the validated change, all of it, is a commit on top of what HEAD was, and on its branch.
    fn read_back(&mut self, kept: &Kept, staged: &Staged) -> Attempt<String> {
        const STEP: &str = "commit";
        let trouble = |error| Failed::new(STEP, Why::Trouble(error));
        let unlike = |what: String| Failed::new(STEP, Why::from(Invalid::Unlike(what)));
        let (was, now) = (kept.before.head(), self.head().map_err(trouble)?);
        let moved = |now: Head| Failed::new(STEP, Why::from(Invalid::HeadMoved(was.clone(), now)));
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
    fn publish(&self, kept: &Kept, staged: &Staged) -> Result<()> {
        let index = self.checkout.index();
        let worked_on = self.worked_on(kept);
        if let Some(fence) = &kept.fence {
            return mutation::publish(&kept.before, staged, fence.index(), &worked_on);
        }
        let lock = GitLock::take(&index, kept.before.directory(), &kept.journal, MORE_PATIENCE)?;
        mutation::publish(&kept.before, staged, &lock, &worked_on)
    }

    /// The index that the command works on.
    pub(super) fn worked_on(&self, kept: &Kept) -> PathBuf {
        if kept.fence.is_some() { kept.before.directory().join("fenced") } else { self.checkout.index() }
    }

    fn head(&self) -> Result<Head> {
        self.repo.head(self.worktree).ok_or_else(|| Error::BrokenRepository {
            path: self.checkout.git_dir.clone(),
            reason: "HEAD cannot be read".to_owned(),
        })
    }

    fn head_is_ours(&self, before: &Before, step: &'static str) -> Attempt<()> {
        let now = self.head().map_err(|error| Failed::new(step, Why::Trouble(error)))?;
        let was = before.head().clone();
        let invalid = match before.whose(&now) {
            Whose::Nobodys => return Ok(()),
            Whose::Commands => Invalid::CommandMovedHead(was, now),
            Whose::Others => Invalid::HeadMoved(was, now),
        };
        Err(Failed::new(step, Why::from(invalid)))
    }

    /// How much of the time that all may take is left.
    pub(super) fn left(&self) -> Option<Duration> {
        self.mutation.max_hold.map(|max| max.saturating_sub(self.acquired.elapsed()))
    }

    pub(super) fn note(&mut self, step: &str, begun: Instant, status: i32) {
        let ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.steps.push(StepTime { step: step.to_owned(), ms, status });
    }

    /// Puts everything back.
    fn roll_back(&mut self, mut kept: Kept, why: &str, status: i32) -> Result<Rollback> {
        let begun = Instant::now();
        let header = kept::Header {
            why: format!("rollback: {why}"),
            command: self.command.to_owned(),
            head_before: Some(kept.before.head().clone()),
            head_after: self.head().ok(),
            fence: self.fence,
        };
        let undone = mutation::undo(
            &Undo {
                repo: self.repo,
                worktree: self.worktree,
                before: &kept.before,
                journal: &kept.journal,
                header,
                begun: None,
                sharing: self.sharing,
                limit: self.limit,
            },
            kept.fence.as_mut(),
        );
        let rollback = undone.and_then(|undone| self.end(kept).map(|()| Rollback::new(undone)));
        self.note("rollback", begun, if rollback.is_ok() { status } else { 125 });
        rollback
    }

    /// There is nothing left to recover.
    fn end(&self, kept: Kept) -> Result<()> {
        let Kept { before, journal, fence, .. } = kept;
        drop(fence);
        // Where that fails, the journal stays, and the next one does it.
        self.checkout.forget(PROTECTING)?;
        journal.end(before.directory())
    }
}
