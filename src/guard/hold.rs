//! What is done when a hold begins and when it ends? compare → … → write down → release.

use std::time::Duration;

use crate::{
    error::{Error, Result},
    exec::{Duty, Ending},
    fs::Sharing,
    holder::{Holder, Mode},
    lock::{Held, ended_with_its_container},
    repo::{ExpectedHead, Head, Repo, Worktree},
    store::{
        audit::{self, Entry, Event, StepTime},
        last::{Last, Switched},
        violations,
    },
    sys,
};

use super::Notice;

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

    /// How the last hold switched HEAD, if it is still there.
    fn switched(&self) -> Option<(&Switched, &Last)> {
        let (last, now) = (self.last.as_ref()?, self.now.as_ref()?);
        last.switched.as_ref().filter(|_| last.head == now.head).map(|switched| (switched, now))
    }

    fn index_rewritten(&self) -> bool {
        matches!((&self.last, &self.now), (Some(last), Some(now)) if last.index != now.index)
    }
}

/// Finds out what happened since the last release, tells it and logs it. Where HEAD was moved by the very process that the
/// lock is for (a checkout, told of by its hook), that is no news.
fn compare(
    repo: &Repo,
    held: &Held,
    sharing: Sharing,
    moved_head: bool,
    tell: &mut dyn FnMut(Notice<'_>),
) -> Vec<Before> {
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
        let mut entry = if ended_with_its_container(died) {
            Entry::new(Event::Hold, died)
        } else {
            tell(Notice::Died(died, moved.as_ref()));
            Entry::new(Event::Died, died)
        };
        (entry.head_before, entry.head_after) = moved.unzip();
        note(repo, held, &entry, sharing, tell);
    }
    for holder in &held.displaced {
        tell(Notice::Displaced(holder));
    }
    for before in &before {
        if let Some((switched, now)) = before.switched().filter(|(switched, _)| !switched.is_by(held.record())) {
            tell(Notice::Switched(&switched.from, &now.head, &switched.to_string()));
        }
        let others = held.others.iter().chain(&held.died).any(|hold| covers(hold, &before.worktree));
        if let Some((last, now)) = before.head_moved().filter(|_| !others && !moved_head) {
            tell(Notice::Violated(&last, &now));
            let mut entry = Entry::new(Event::Violated, held.record());
            (entry.head_before, entry.head_after) = (Some(last), Some(now));
            note(repo, held, &entry, sharing, tell);
        }
    }
    for before in before.iter().filter(|before| held.is_recorded() && before.head_moved().is_some()) {
        // Known from now on: should this holder be killed as well, the move is not taken for its own.
        let recorded = before.now.as_ref().map_or(Ok(()), |now| now.write(repo, &before.worktree, sharing));
        if let Err(trouble) = recorded {
            tell(Notice::Trouble(&trouble));
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

/// A hold of our own, and what is done when it begins and ends.
pub(crate) struct Hold<'a> {
    pub(crate) repo: &'a Repo,
    sharing: Sharing,
    pub(crate) held: Box<Held>,
    before: Vec<Before>,
    /// The session of the process that acquired it; whoever releases it may have left that.
    session: u32,
    /// For the log: what a mutation did.
    pub(super) steps: Vec<StepTime>,
    pub(super) tell: &'a mut dyn FnMut(Notice<'_>),
}

impl<'a> Hold<'a> {
    /// The lock was acquired: looks what happened since it was last released. `moved_head`: the process that it is for has
    /// moved HEAD already.
    pub(crate) fn new(
        repo: &'a Repo,
        sharing: Sharing,
        held: Box<Held>,
        moved_head: bool,
        tell: &'a mut dyn FnMut(Notice<'_>),
    ) -> Self {
        for trouble in &held.troubles {
            tell(Notice::Trouble(trouble));
        }
        let before = compare(repo, &held, sharing, moved_head, tell);
        Self { repo, sharing, held, before, session: sys::session(), steps: Vec::new(), tell }
    }

    /// Sets it aside until its end.
    pub(super) fn rest(self) -> Resting {
        Resting { sharing: self.sharing, held: self.held, before: self.before, session: self.session }
    }

    /// Whether this hold switched HEAD to another branch.
    fn switched(&self, before: &Before, after: &Last) -> Option<Switched> {
        let now = before.now.as_ref().filter(|now| now.head.branch != after.head.branch)?;
        Some(Switched::new(now.head.clone(), self.held.record(), self.session))
    }

    fn try_to(&mut self, result: Result<()>) {
        if let Err(trouble) = result {
            (self.tell)(Notice::Trouble(&trouble));
        }
    }
}

/// A hold between its beginning and its end, which belongs to whoever asked for it.
pub(super) struct Resting {
    sharing: Sharing,
    pub(super) held: Box<Held>,
    before: Vec<Before>,
    session: u32,
}

impl Resting {
    /// Takes it up again, to end it.
    pub(super) fn resume<'a>(self, repo: &'a Repo, tell: &'a mut dyn FnMut(Notice<'_>)) -> Hold<'a> {
        let Self { sharing, held, before, session } = self;
        Hold { repo, sharing, held, before, session, steps: Vec::new(), tell }
    }
}

impl Hold<'_> {
    /// Blocks until nobody works inside of this hold any more.
    pub(crate) fn wait_for_those_inside(&mut self) {
        /// How often to look.
        const LOOK: Duration = Duration::from_millis(20);
        while !self.close() {
            std::thread::sleep(LOOK);
        }
    }
}

impl Duty for Hold<'_> {
    fn files(&self) -> Vec<&std::fs::File> {
        self.held.files()
    }

    fn begin(&mut self) {
        let announced = self.held.announce();
        self.try_to(announced);
    }

    fn started(&mut self, pid: u32, early: bool) {
        if early == self.held.admits_by_command_alone() {
            let admitted = self.held.admit_command(pid);
            self.try_to(admitted);
        }
    }

    fn replace(&mut self, left: bool) {
        let record = self.held.record_mut();
        record.keeper = Some(std::process::id());
        // It was told.
        record.lingers = left;
        let announced = self.held.announce();
        self.try_to(announced);
    }

    fn close(&mut self) -> bool {
        let told = self.held.record().lingers;
        let is_closed = self.held.close();
        if !is_closed && !told {
            (self.tell)(Notice::Lingers(&self.held.those_inside()));
        }
        is_closed
    }

    fn those_inside(&self) -> Vec<u32> {
        self.held.those_inside()
    }

    fn write_down(&mut self, ending: Option<Ending>) -> Ending {
        let lost = self.held.lost();
        for path in &lost {
            (self.tell)(Notice::Lost(path));
        }
        if let Some(intruder) = violations::take(self.repo, self.held.record().id) {
            (self.tell)(Notice::Intruder(&intruder));
        }
        self.held.record_mut().lost = !lost.is_empty();
        let mut entry = Entry::new(if lost.is_empty() { Event::Hold } else { Event::Lost }, &self.held.ended());
        entry.status = ending.map(Ending::status);
        entry.steps = std::mem::take(&mut self.steps);
        for index in 0..self.before.len() {
            let before = &self.before[index];
            let after = Last::look(self.repo, &before.worktree, self.held.record().id);
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
                let written = after.write(self.repo, &before.worktree, self.sharing);
                self.try_to(written);
            }
        }
        note(self.repo, &self.held, &entry, self.sharing, self.tell);
        if self.repo.git_dir().is_none() {
            let hidden = self.repo.hide_lock_file();
            self.try_to(hidden);
        }
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
    last.is_some_and(|last| last.head == now.head && last.index == now.index && last.switched == now.switched)
}

/// Checks that HEAD is where the caller expects it. A commit alone does not say which branch is meant, so it counts only on a branch
/// that HEAD was on before the last hold.
///
/// # Errors
/// [`Error::UnexpectedHead`], [`Error::SwitchedHead`].
pub(super) fn check_expected(expected: &ExpectedHead, repo: &Repo, hold: Option<&Hold<'_>>, head: &Head) -> Result<()> {
    expected.check(repo, head)?;
    let own = repo.worktree();
    let before = hold.and_then(|hold| hold.before.iter().find(|before| Some(&before.worktree) == own.as_ref()));
    match before.and_then(Before::switched) {
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
