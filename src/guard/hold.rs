//! A hold of a repository: compares HEAD when it begins, records and logs it when it ends. [`super::admission`] begins it.

use std::time::{Duration, Instant};

use crate::{
    error::{Error, Result},
    exec::{Ending, Run, RunLifecycle},
    holder::{Holder, Mode},
    lock::{Held, ended_with_its_container},
    repo::{ExpectedHead, Head, Repo, Worktree},
    store::{
        audit::{self, Entry, Event, StepTime},
        last::{Last, Switched},
        violations,
    },
    sys::{self, Retry},
};

use super::{Context, Notice, Outcome, plan};

/// When to look again whether somebody still works inside of a hold that is over otherwise.
pub(super) const LINGERING: Retry = Retry::every(Duration::from_millis(20));

/// A worktree as it is when the lock is acquired, and as it was when the lock was last released.
struct Baseline {
    worktree: Worktree,
    last: Option<Last>,
    now: Option<Last>,
}

impl Baseline {
    fn head_moved(&self) -> Option<(Head, Head)> {
        let (last, now) = (self.last.as_ref()?, self.now.as_ref()?);
        (last.head != now.head).then(|| (last.head.clone(), now.head.clone()))
    }

    /// How the last hold switched HEAD, if it is still there.
    fn switched(&self) -> Option<(&Switched, &Last)> {
        let (last, now) = (self.last.as_ref()?, self.now.as_ref()?);
        last.switched.as_ref().filter(|_| last.head == now.head).map(|switched| (switched, now))
    }

    fn index_rewritten(&self) -> bool {
        matches!((&self.last, &self.now), (Some(last), Some(now)) if last.index != now.index)
    }
}

/// Finds out what happened since the last release, reports it and logs it. A move of HEAD by the process that the lock is for (a
/// checkout, reported by its hook) is not reported.
fn compare(context: Context<'_>, held: &Held, has_moved_head: bool) -> Vec<Baseline> {
    let repo = context.repo;
    let look = |worktree: &Worktree| Baseline {
        last: Last::read(repo, worktree),
        now: Last::look(repo, worktree, held.record().id),
        worktree: worktree.clone(),
    };
    let before: Vec<Baseline> = plan::worktrees(held).iter().map(look).collect();
    let covers = |hold: &Holder, worktree: &Worktree| {
        hold.resources.iter().any(|(key, mode)| *key == worktree.key || (key == "repo" && *mode == Mode::Exclusive))
    };
    for died in &held.died {
        let moved = before.iter().filter(|before| covers(died, &before.worktree)).find_map(Baseline::head_moved);
        let mut entry = if ended_with_its_container(died) {
            Entry::new(Event::Hold, died)
        } else {
            context.notify(Notice::Died(died, moved.as_ref()));
            Entry::new(Event::Died, died)
        };
        (entry.head_before, entry.head_after) = moved.unzip();
        note(context, held, &entry);
    }
    for holder in &held.displaced {
        context.notify(Notice::Displaced(holder));
    }
    for before in &before {
        if let Some((switched, now)) = before.switched().filter(|(switched, _)| !switched.is_by(held.record())) {
            context.notify(Notice::Switched(&switched.from, &now.head, &switched.to_string()));
        }
        let others = held.others.iter().chain(&held.died).any(|hold| covers(hold, &before.worktree));
        if let Some((last, now)) = before.head_moved().filter(|_| !others && !has_moved_head) {
            context.notify(Notice::Violated(&last, &now));
            let mut entry = Entry::new(Event::Violated, held.record());
            (entry.head_before, entry.head_after) = (Some(last), Some(now));
            note(context, held, &entry);
        }
    }
    for before in before.iter().filter(|before| held.is_recorded() && before.head_moved().is_some()) {
        // Known from now on: should this holder be killed as well, the move is not taken for its own.
        context.report(before.now.as_ref().map_or(Ok(()), |now| now.write(repo, &before.worktree, context.sharing)));
    }
    before
}

fn note(context: Context<'_>, held: &Held, entry: &Entry) {
    if held.is_recorded() {
        context.report(audit::append(context.repo, entry, context.sharing));
    }
}

/// A hold of our own.
pub(crate) struct Hold<'a> {
    pub(crate) context: Context<'a>,
    pub(crate) held: Box<Held>,
    before: Vec<Baseline>,
    /// The session of the process that acquired it; the process that releases it may have left that session.
    session: u32,
    /// For the log: what a mutation did.
    pub(super) steps: Vec<StepTime>,
    /// How long it was waited for.
    pub(super) waited: Duration,
    pub(super) acquired: Instant,
}

impl<'a> Hold<'a> {
    /// The lock was acquired: finds out what happened since it was last released. Only [`super::admission`] calls this.
    pub(super) fn enter(
        context: Context<'a>,
        held: Box<Held>,
        (waited, acquired): (Duration, Instant),
        has_moved_head: bool,
    ) -> Self {
        held.troubles.iter().for_each(|trouble| context.trouble(trouble));
        let before = compare(context, &held, has_moved_head);
        Self { context, held, before, session: sys::session(), steps: Vec::new(), waited, acquired }
    }

    /// Lets others see the hold.
    pub(super) fn publish(&mut self) {
        self.context.report(self.held.publish());
    }

    /// Records and logs how it ended, and releases the lock.
    pub(super) fn finish(mut self, ending: Option<Ending>) {
        self.record_end(ending);
        self.release();
    }

    /// How a command ended that ran in it.
    pub(super) fn outcome(&self, run: Run) -> Outcome {
        let Run { ending, die_of, .. } = run;
        Outcome {
            ending,
            die_of,
            fence: Some(self.held.record().id),
            waited: self.waited,
            held: self.acquired.elapsed(),
        }
    }

    /// Sets it aside until its end.
    pub(super) fn rest(self) -> Resting {
        let Self { held, before, session, waited, acquired, .. } = self;
        Resting { held, before, session, waited, acquired }
    }

    /// Whether this hold switched HEAD to another branch.
    fn switched(&self, before: &Baseline, after: &Last) -> Option<Switched> {
        let now = before.now.as_ref().filter(|now| now.head.branch != after.head.branch)?;
        Some(Switched::new(now.head.clone(), self.held.record(), self.session))
    }
}

/// A hold between its beginning and its end.
pub(super) struct Resting {
    pub(super) held: Box<Held>,
    before: Vec<Baseline>,
    session: u32,
    waited: Duration,
    acquired: Instant,
}

impl Resting {
    /// Takes it up again, to end it.
    pub(super) fn resume(self, context: Context<'_>) -> Hold<'_> {
        let Self { held, before, session, waited, acquired } = self;
        Hold { context, held, before, session, steps: Vec::new(), waited, acquired }
    }
}

impl Hold<'_> {
    /// Blocks until nobody works inside of this hold any more.
    pub(crate) fn wait_for_those_inside(&mut self) {
        LINGERING.until(|| self.close());
    }
}

impl RunLifecycle for Hold<'_> {
    fn files(&self) -> Vec<&std::fs::File> {
        self.held.files()
    }

    fn begin(&mut self) {
        self.publish();
    }

    fn started(&mut self, pid: u32, early: bool) {
        if early == self.held.admits_by_command_alone() {
            self.context.report(self.held.admit_command(pid));
        }
    }

    fn replace(&mut self, left: bool) {
        let record = self.held.record_mut();
        record.keeper = Some(std::process::id());
        // It was reported.
        record.lingers = left;
        self.publish();
    }

    fn close(&mut self) -> bool {
        let told = self.held.record().lingers;
        if !told {
            self.held.let_leave();
        }
        let is_closed = self.held.close();
        if !is_closed && !told {
            self.context.notify(Notice::Lingers(&self.held.those_inside()));
        }
        is_closed
    }

    fn those_inside(&self) -> Vec<u32> {
        self.held.those_inside()
    }

    fn record_end(&mut self, ending: Option<Ending>) -> Ending {
        let lost = self.held.lost();
        for path in &lost {
            self.context.notify(Notice::Lost(path));
        }
        let Context { repo, sharing, .. } = self.context;
        if let Some(intruder) = violations::take(repo, self.held.record().id) {
            self.context.notify(Notice::Intruder(&intruder));
        }
        self.held.record_mut().lost = !lost.is_empty();
        let mut entry = Entry::new(if lost.is_empty() { Event::Hold } else { Event::Lost }, &self.held.ended());
        entry.status = ending.map(Ending::status);
        entry.steps = std::mem::take(&mut self.steps);
        for index in 0..self.before.len() {
            let before = &self.before[index];
            let after = Last::look(repo, &before.worktree, self.held.record().id);
            if index == 0 {
                entry.index_rewritten = before.index_rewritten();
                entry.head_before = before.now.as_ref().map(|now| now.head.clone());
                entry.head_after = after.as_ref().map(|after| after.head.clone());
            }
            let is_new = |after: &Last| self.held.is_recorded() && !same(before.last.as_ref(), after);
            let after = after.map(|after| {
                let switched = self.switched(before, &after);
                after.switched_by(switched)
            });
            if let Some(after) = after.filter(is_new) {
                self.context.report(after.write(repo, &before.worktree, sharing));
            }
        }
        note(self.context, &self.held, &entry);
        if repo.git_dir().is_none() {
            self.context.report(repo.hide_lock_file());
        }
        self.context.report(self.held.record_release());
        if lost.is_empty() { ending.unwrap_or(Ending::Failed) } else { Ending::Lost }
    }

    fn release(&mut self) {
        self.held.release();
    }
}

/// Tells whether there is nothing new to record.
fn same(last: Option<&Last>, now: &Last) -> bool {
    last.is_some_and(|last| last.head == now.head && last.index == now.index && last.switched == now.switched)
}

/// Checks HEAD against the caller's expectation. A commit alone does not name a branch, so it counts only on a branch that HEAD was
/// on before the last hold.
///
/// # Errors
/// [`Error::UnexpectedHead`], [`Error::SwitchedHead`].
pub(super) fn check_expected(expected: &ExpectedHead, repo: &Repo, hold: Option<&Hold<'_>>, head: &Head) -> Result<()> {
    expected.check(repo, head)?;
    let own = repo.worktree();
    let before = hold.and_then(|hold| hold.before.iter().find(|before| Some(&before.worktree) == own.as_ref()));
    match before.and_then(Baseline::switched) {
        Some((switched, now)) if expected.is_commit_only() && switched.from.commit == now.head.commit => {
            let name = |head: &Head| match &head.branch {
                Some(branch) => branch.strip_prefix("refs/heads/").unwrap_or(branch).to_owned(),
                None => "HEAD".to_owned(),
            };
            Err(Error::SwitchedHead {
                expected: expected.revision.as_deref().unwrap_or_default().to_string_lossy().into_owned(),
                from: name(&switched.from),
                to: name(&now.head),
                by: switched.to_string(),
            })
        }
        _ => Ok(()),
    }
}
