//! What does repoguard promise? This room keeps it, readable from top to bottom: acquire → compare → record → run →
//! log → release.

use std::{
    ffi::OsString,
    time::{Duration, Instant},
};

use crate::{
    env,
    error::{Error, Result},
    exec::{self, Duty, Ending, Task},
    fs::Sharing,
    holder::{Holder, Mode},
    lock::{self, Acquired, Held, Request, Wait, Waiting},
    repo::{Config, Head, Repo, Worktree},
    store::{
        audit::{self, Entry, Event},
        last::Last,
    },
    sys::Signals,
};

/// Something worth telling the user, beside the command's own output.
#[derive(Debug)]
#[non_exhaustive]
pub enum Notice<'a> {
    /// The lock is busy; told after 300 ms and then every second.
    Waiting(&'a Waiting<'a>),
    /// The lock is held, after this wait; not told where the command runs inside a hold.
    Acquired(Duration),
    /// An earlier holder was killed with all its processes. HEAD as it was before and is now, if it moved.
    Died(&'a Holder, Option<&'a (Head, Head)>),
    /// HEAD was changed outside the guard since the last release, from the first to the second.
    Violated(&'a Head, &'a Head),
    /// The lock's file was removed while the command ran, so it was not exclusive to the end.
    Lost(&'a std::path::Path),
    /// Something beside the lock failed, and did not stop it.
    Trouble(&'a Error),
}

/// How an [`exec()`] ended.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// How the command ended, or why it never ran.
    pub ending: Ending,
    /// A signal that both the command and this process got and that the command died of: whoever called this process
    /// should see it die of the same.
    pub die_of: Option<i32>,
    /// Fencing number of the hold; `None` where the command ran inside another one.
    pub fence: Option<u64>,
    /// How long it waited for the lock.
    pub waited: Duration,
    /// How long it was held.
    pub held: Duration,
}

/// Runs a command while holding a lock; blocks until the command has ended.
///
/// The command never runs without the lock, whatever of this process, its keeper and the lock's files is killed or
/// removed. Must be called while this process has only one thread, because it forks.
///
/// # Errors
/// [`Error::Busy`], [`Error::Deadlock`] or [`Error::Interrupted`] when the lock was not acquired,
/// [`Error::NeverGranted`], [`Error::NoLocks`], [`Error::NotAFile`] or [`Error::Io`] when it could not be. Then the
/// command did not run.
pub fn exec(
    repo: &Repo,
    config: &Config,
    request: &Request,
    task: &Task,
    tell: &mut dyn FnMut(Notice<'_>),
) -> Result<Outcome> {
    let sharing = Sharing::new(config.shared_repository(), repo.common_dir());
    let signals = Signals::open().map_err(Error::io("catch signals for", repo.root()))?;
    let begun = Instant::now();
    let wait = &mut Wait { signals: Some(&signals), tell: &mut |waiting| tell(Notice::Waiting(waiting)) };
    let held = match lock::acquire(repo, request, sharing, wait)? {
        Acquired::Held(held) => held,
        Acquired::Inside => {
            let run = exec::run(task, &[], &signals, &mut Guest);
            return Ok(Outcome {
                ending: run.ending,
                die_of: run.die_of,
                fence: None,
                waited: Duration::ZERO,
                held: Duration::ZERO,
            });
        }
    };
    let acquired = Instant::now();
    tell(Notice::Acquired(acquired - begun));
    for trouble in &held.troubles {
        tell(Notice::Trouble(trouble));
    }
    let (fence, before) = (held.record().id, compare(repo, &held, sharing, tell));
    // Caught while waiting, come as the wait was over: the command does not exist yet, and would never see it.
    if let Some(signal) = signals.interrupt() {
        held.unlock();
        return Err(Error::Interrupted { what: held.record().scope.clone(), signal });
    }
    let environment = environment(repo, &held);
    let mut duty = Release { repo, sharing, held, before, tell };
    let run = exec::run(task, &environment, &signals, &mut duty);
    Ok(Outcome {
        ending: run.ending,
        die_of: run.die_of,
        fence: Some(fence),
        waited: acquired - begun,
        held: acquired.elapsed(),
    })
}

/// What a command can know about the hold that it runs in.
fn environment(repo: &Repo, held: &Held) -> [(&'static str, OsString); 4] {
    [
        (env::TOKEN, held.token.as_str().into()),
        (env::FENCE, held.record().id.to_string().into()),
        (env::LOCK_PATH, repo.lock_path().into()),
        (env::LOCK_SCOPE, held.record().scope.clone().into()),
    ]
}

/// A worktree as it is when the lock is acquired, and as it was when the lock was last released.
struct Before {
    worktree: Worktree,
    last: Option<Last>,
    now: Option<Last>,
}

impl Before {
    fn head_moved(&self) -> Option<(Head, Head)> {
        let (last, now) = (self.last.as_ref()?, self.now.as_ref()?);
        (last.head != now.head).then(|| (last.head.clone(), now.head.clone()))
    }

    fn index_rewritten(&self) -> bool {
        matches!((&self.last, &self.now), (Some(last), Some(now)) if last.index != now.index)
    }
}

/// Finds out what happened since the last release, tells it and logs it.
fn compare(repo: &Repo, held: &Held, sharing: Sharing, tell: &mut dyn FnMut(Notice<'_>)) -> Vec<Before> {
    let look = |worktree: &Worktree| Before {
        last: Last::read(repo, worktree),
        now: Last::look(repo, worktree, held.record().id),
        worktree: worktree.clone(),
    };
    let before: Vec<Before> = held.worktrees.iter().map(look).collect();
    let covers = |hold: &Holder, worktree: &Worktree| {
        hold.resources.iter().any(|(key, mode)| *key == worktree.key || (key == "repo" && *mode == Mode::Exclusive))
    };
    for died in &held.died {
        let moved = before.iter().filter(|before| covers(died, &before.worktree)).find_map(Before::head_moved);
        tell(Notice::Died(died, moved.as_ref()));
        let mut entry = Entry::new(Event::Died, died);
        (entry.head_before, entry.head_after) = moved.unzip();
        note(repo, held, &entry, sharing, tell);
    }
    for before in &before {
        let others = held.others.iter().chain(&held.died).any(|hold| covers(hold, &before.worktree));
        if let Some((last, now)) = before.head_moved().filter(|_| !others) {
            tell(Notice::Violated(&last, &now));
            let mut entry = Entry::new(Event::Violated, held.record());
            (entry.head_before, entry.head_after) = (Some(last), Some(now));
            note(repo, held, &entry, sharing, tell);
        }
    }
    before
}

fn note(repo: &Repo, held: &Held, entry: &Entry, sharing: Sharing, tell: &mut dyn FnMut(Notice<'_>)) {
    if !held.is_recorded() {
        return;
    }
    if let Err(trouble) = audit::append(repo, entry, sharing) {
        tell(Notice::Trouble(&trouble));
    }
}

/// What is done around a command that runs inside somebody else's hold: nothing.
struct Guest;

impl Duty for Guest {
    fn files(&self) -> Vec<&std::fs::File> {
        Vec::new()
    }

    fn begin(&mut self) {}

    fn replace(&mut self) {}

    fn write_down(&mut self, ending: Option<Ending>) -> Ending {
        ending.unwrap_or(Ending::Failed)
    }

    fn let_go(&mut self) {}
}

/// What is done around a command that runs in a hold of its own.
struct Release<'a> {
    repo: &'a Repo,
    sharing: Sharing,
    held: Box<Held>,
    before: Vec<Before>,
    tell: &'a mut dyn FnMut(Notice<'_>),
}

impl Release<'_> {
    fn try_to(&mut self, result: Result<()>) {
        if let Err(trouble) = result {
            (self.tell)(Notice::Trouble(&trouble));
        }
    }
}

impl Duty for Release<'_> {
    fn files(&self) -> Vec<&std::fs::File> {
        self.held.files()
    }

    fn begin(&mut self) {
        let announced = self.held.announce(None);
        self.try_to(announced);
    }

    fn replace(&mut self) {
        let announced = self.held.announce(Some(std::process::id()));
        self.try_to(announced);
    }

    fn write_down(&mut self, ending: Option<Ending>) -> Ending {
        let lost = self.held.lost();
        for path in &lost {
            (self.tell)(Notice::Lost(path));
        }
        let mut entry = Entry::new(if lost.is_empty() { Event::Hold } else { Event::Lost }, &self.held.ended());
        entry.status = ending.map(Ending::status);
        for index in 0..self.before.len() {
            let before = &self.before[index];
            let after = Last::look(self.repo, &before.worktree, self.held.record().id);
            if index == 0 {
                entry.index_rewritten = before.index_rewritten();
                entry.head_before = before.now.as_ref().map(|now| now.head.clone());
                entry.head_after = after.as_ref().map(|after| after.head.clone());
            }
            let is_new = |after: &Last| self.held.is_recorded() && !same(before.last.as_ref(), after);
            if let Some(after) = after.filter(is_new) {
                let written = after.write(self.repo, &before.worktree, self.sharing);
                self.try_to(written);
            }
        }
        note(self.repo, &self.held, &entry, self.sharing, self.tell);
        let recorded = self.held.record_release();
        self.try_to(recorded);
        if lost.is_empty() { ending.unwrap_or(Ending::Failed) } else { Ending::Lost }
    }

    fn let_go(&mut self) {
        self.held.unlock();
    }
}

/// Tells whether there is nothing new to record.
fn same(last: Option<&Last>, now: &Last) -> bool {
    last.is_some_and(|last| last.head == now.head && last.index == now.index)
}

/// HEAD as it was left by the last holder, and as it is, where they differ. Only while nobody holds the worktree is that a
/// change made outside the guard.
#[must_use]
pub fn changed_outside(repo: &Repo) -> Option<(Head, Head)> {
    let worktree = repo.worktree()?;
    let before = Before { last: Last::read(repo, &worktree), now: Last::look(repo, &worktree, 0), worktree };
    before.head_moved()
}

/// The newest `count` lines of the log (all with `None`), oldest first. Does not block.
#[must_use]
pub fn log(repo: &Repo, count: Option<usize>) -> Vec<Entry> {
    audit::read(repo, count)
}
