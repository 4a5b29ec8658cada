//! Tries all files of a request together, and finds what is in the way. All or none are ours, at every return.

use std::{
    collections::HashSet,
    io,
    path::PathBuf,
    time::{Duration, Instant},
};

use super::{
    cycle::{self, Graph, Place},
    enclosing,
    ended::{is_done, wake_keepers},
    file::inherited_locks,
    held::{Held, Part},
    inspect, live,
    plan::{PartPlan, Plan},
    queue::{Predecessor, Queue, Ticket},
    record::Table,
    token::Token,
    visit::Visits,
};
use crate::{
    error::{Error, Result},
    holder::{Holder, Mode, REPO_KEY},
    sys::{self, Retry},
};

/// How long one try waits for a holder whose process has just ended.
const LET_GO: Retry = Retry::every(Duration::from_millis(1)).within(Duration::from_millis(100));

/// How long the lock must be free before a waiter is passed that cannot be seen to run: within a second, with the last probe.
pub(super) const UNSEEN_PATIENCE: Duration = Duration::from_millis(600);

/// How long one try waits for waiters in the kernel's queue, and how long it finds the lock free before it passes a waiter.
const PROBES: Retry = Retry::every(PROBE).within(Duration::from_secs(1));
const UNSEEN: Retry = Retry::every(PROBE).within(UNSEEN_PATIENCE);

/// The same for a waiter that was seen to run: longer than a loaded machine takes to let it.
pub(super) const SEEN_PATIENCE: Duration = Duration::from_secs(5);

/// How often to probe whether the lock is free.
pub(super) const PROBE: Duration = Duration::from_millis(20);

/// An acquire under way.
pub(super) struct Acquire {
    pub(super) what: String,
    pub(super) plan: Plan,
    pub(super) parts: Vec<Part>,
    pub(super) table: Option<Table>,
    pub(super) queue: Option<Queue>,
    /// The real path of the records' directory, as records of other repositories name it.
    pub(super) records: PathBuf,
    /// The record of this request, with the holds around it.
    pub(super) record: Holder,
    /// Records that may be those of a hold around us, and could not be read.
    pub(super) unread: Vec<PathBuf>,
    /// Whether we stand in line: not inside a hold of flock(1) that those in the queue wait for.
    pub(super) queue_counts: bool,
    /// The secret of the coming hold, if somebody already has it.
    pub(super) token: Option<Token>,
    /// The holds around us.
    pub(super) visits: Visits,
}

impl Acquire {
    /// Tells whether the queue has no earlier waiter that conflicts with us.
    pub(super) fn nobody_before(&self) -> bool {
        self.predecessor(None).is_none()
    }

    /// The nearest waiter before `number` (or of all) that must go first.
    pub(super) fn predecessor(&self, number: Option<u64>) -> Option<Predecessor> {
        let queue = self.queue()?;
        let mut behind_us = None;
        queue.before(number, &self.plan.resources, &mut |number| {
            self.is_inside()
                && behind_us.get_or_insert_with(|| self.graph().that_wait_for(&self.record)).contains(&number)
        })
    }

    /// The queue, if we stand in it.
    pub(super) fn queue(&self) -> Option<&Queue> {
        self.queue.as_ref().filter(|_| self.queue_counts)
    }

    /// Tells whether we are inside a hold: only then can waiting close a cycle.
    pub(super) fn is_inside(&self) -> bool {
        !self.record.inside.is_empty() || !self.record.elsewhere.is_empty()
    }

    fn graph(&self) -> Graph {
        let holds = self.table.as_ref().map(Table::live).unwrap_or_default();
        let requests = self.queue.as_ref().map(Queue::requests).unwrap_or_default();
        Graph::new(self.records.clone(), Place { holds, requests })
    }

    /// Tries all files; `None` when all are ours, else the index of one that is busy, and then none is.
    pub(super) fn try_all(&mut self) -> Result<Option<usize>> {
        let mut tries = 0;
        loop {
            let mut busy = None;
            for (index, part) in self.parts.iter().enumerate() {
                match part.file.try_lock(part.plan.mode) {
                    Ok(true) => {}
                    Ok(false) => {
                        busy = Some(index);
                        break;
                    }
                    // If a read-only descriptor cannot be locked, the file alone counts.
                    Err(error) if part.plan.anchor && sys::cannot_lock_descriptor(&error) => {}
                    Err(error) => {
                        self.unlock_all();
                        // A lock error on a regular file means that locks do not work here at all.
                        return Err(Error::NoLocks { path: part.plan.path.clone(), source: Some(error) });
                    }
                }
            }
            if busy.is_some() {
                self.unlock_all();
                return Ok(busy);
            }
            let Some(replaced) = self.parts.iter().position(|part| !part.is_in_place()) else {
                return self.check_exclusion().map(|()| None);
            };
            // Somebody removed the file while we opened or waited for it: the lock is on the file that is there now.
            self.unlock_all();
            if self.plan.forget_removed() {
                let resources = &self.plan.resources;
                self.parts.retain(|part| resources.iter().any(|(key, _)| *key == part.plan.resource));
                continue;
            }
            let plan = self.parts[replaced].plan.clone();
            match Part::open(&plan, self.plan.sharing) {
                Ok(Some(part)) => self.parts[replaced] = part,
                Ok(None) => {
                    drop(self.parts.remove(replaced));
                    require_part(&self.parts, &plan)?;
                }
                Err(error) if may_come_again(&error, &mut tries) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn unlock_all(&self) {
        for part in self.parts.iter().rev() {
            part.file.unlock();
        }
    }

    fn check_exclusion(&self) -> Result<()> {
        let Some(part) = self.parts.iter().find(|part| !part.plan.anchor && part.plan.mode == Mode::Exclusive) else {
            return Ok(());
        };
        if part.file.excludes_others(&part.plan.path) {
            return Ok(());
        }
        self.unlock_all();
        Err(Error::NoLocks { path: part.plan.path.clone(), source: None })
    }

    /// Drops the files that are locked around us without a record; tells whether nothing remains to be locked.
    pub(super) fn drop_covered_parts(&mut self) -> Result<bool> {
        let resources: HashSet<String> = self.plan.resources.iter().map(|(key, _)| key.clone()).collect();
        let mut remaining = Vec::new();
        for part in std::mem::take(&mut self.parts) {
            if !resources.contains(&part.plan.resource) {
                continue;
            }
            if enclosing::locked_around_us(&part.plan, &part.file, &self.plan, self.table.as_ref())? {
                // The waiters in the queue wait for the hold around us: to wait for them would be a deadlock.
                self.queue_counts = false;
            } else {
                remaining.push(part);
            }
        }
        self.parts = remaining;
        Ok(self.parts.is_empty())
    }

    /// Tries without a place in the queue. If it `may_sleep`, it tries again for [`LET_GO`] if no process can be seen that would
    /// hold the lock; if it `may_pass`, for [`UNSEEN_PATIENCE`] if the lock is free but for a waiter that cannot be seen to run.
    pub(super) fn try_once(&mut self, may_pass: bool, may_sleep: bool) -> Result<()> {
        let (mut ending, mut probes) = (LET_GO.into_iter(), PROBES.into_iter());
        let (mut unseen, mut is_passed) = (UNSEEN.into_iter(), false);
        self.wake_keepers();
        loop {
            let before = self.predecessor(None);
            if before.as_ref().is_some_and(|before| before.runs || !may_pass) {
                break;
            }
            if self.try_all()?.is_some() {
                let is_ending = may_sleep && before.is_none() && !self.holder_runs();
                if is_ending && ending.next().is_some() {
                    continue;
                }
                if may_pass && self.is_left_to_waiters() && probes.next().is_some() {
                    continue;
                }
                break;
            }
            if before.is_none() || is_passed {
                self.pass_before(None, false);
                return Ok(());
            }
            self.unlock_all();
            is_passed = unseen.next().is_none();
        }
        Err(self.busy(None, Duration::ZERO))
    }

    /// All files are ours because the waiters before `number` left them free: marks those waiters as passed.
    pub(super) fn pass_before(&self, number: Option<u64>, idle: bool) {
        if let Some(queue) = self.queue() {
            queue.pass_before(number, &self.plan.resources, idle);
        }
    }

    /// Tries all files for a waiter behind another one that could have taken them `patience` ago; `true` if all are ours.
    /// `free_since` is when they were first seen free.
    pub(super) fn take_if_left(&mut self, free_since: &mut Option<Instant>, patience: Duration) -> Result<bool> {
        if self.try_all()?.is_some() {
            *free_since = None;
            return Ok(false);
        }
        let is_left = free_since.get_or_insert_with(Instant::now).elapsed() >= patience;
        if !is_left {
            self.unlock_all();
        }
        Ok(is_left)
    }

    /// Tells whether a waiter's helper may have the lock, which it releases soon: there are waiters, no holder has a record, and
    /// the kernel names a waiter's child or no process.
    fn is_left_to_waiters(&self) -> bool {
        let Some(queue) = self.queue().filter(|queue| queue.has_waiters(&self.plan.resources)) else { return false };
        if !self.holders().is_empty() {
            return false;
        }
        let (takers, waiters) = (self.takers(), queue.requests());
        let is_of_waiter = |pid: u32| {
            let parent = sys::process_state(pid).map(|state| state.parent);
            waiters.iter().any(|waiter| {
                let process = waiter.waiter.unwrap_or(waiter.pid);
                // In other numbers, nobody can tell.
                !live::same_namespaces(waiter) || process == pid || Some(process) == parent
            })
        };
        takers.is_empty() || takers.into_iter().any(|pid| inspect::runs_this_program(pid) || is_of_waiter(pid))
    }

    /// Makes processes go on that are stopped and keep the lock for something that has ended.
    pub(super) fn wake_keepers(&self) {
        let mut slots = self.table.as_ref().map(Table::live_slots).unwrap_or_default();
        slots.retain(|(_, hold)| cycle::resources_conflict(&hold.resources, &self.plan.resources));
        wake_keepers(&slots);
    }

    /// The processes that the kernel names as takers of locks in our way.
    fn takers(&self) -> Vec<u32> {
        let kernel = sys::kernel_locks(&self.parts.iter().map(|part| part.file.lock_id()).collect::<Vec<_>>());
        let in_the_way = |lock: &sys::KernelLock| {
            let conflicts = |part: &Part| lock.exclusive || part.plan.mode == Mode::Exclusive;
            self.parts.iter().any(|part| lock.file == part.file.id() && conflicts(part))
        };
        kernel.locks.iter().filter(|lock| in_the_way(lock)).map(|lock| lock.pid).collect()
    }

    /// Tells whether a repoguard process may hold the lock without a record: somebody removed the record, and it will be rewritten.
    /// Then the kernel names such a process, or one that has ended, or nobody.
    pub(super) fn is_held_without_record(&self) -> bool {
        let is_ours = |pid: u32| inspect::runs_this_program(pid) || sys::still_runs(pid, sys::boot_ms()) != Some(true);
        if !self.holders().is_empty() {
            return false;
        }
        let takers = self.takers();
        takers.is_empty() || takers.into_iter().any(is_ours)
    }

    /// Tells whether this process may be inside a hold that it does not know: a process above it runs this program, or it has inherited
    /// an open file of the lock's.
    pub(super) fn may_be_inside(&self) -> bool {
        let inherited = |part: &Part| !inherited_locks(part.file.id(), || true).is_empty();
        sys::ancestors().any(inspect::runs_this_program) || self.parts.iter().any(inherited)
    }

    /// Tells whether any process that holds one of our files can be seen to run.
    fn holder_runs(&self) -> bool {
        // A keeper alone is about to release the lock, or keeps it for a command that goes on: then we try in vain.
        let (done, at_work): (Vec<Holder>, Vec<Holder>) = self.holders().into_iter().partition(is_done);
        if at_work.into_iter().any(|hold| sys::still_runs(hold.pid, hold.boot_ms) != Some(false)) {
            return true;
        }
        let done = live::pids(&done);
        let runs = |pid: u32| !done.contains(&pid) && sys::still_runs(pid, sys::boot_ms()) != Some(false);
        self.takers().into_iter().any(runs)
    }

    /// Fails if waiting would be a deadlock. `number` is our place in the queue; of several requests on a cycle the last one
    /// fails, unless `any`. Returns the records that could not be read: a cycle through these is not seen.
    pub(super) fn refuse_cycle(&self, number: Option<u64>, any: bool) -> Result<Vec<PathBuf>> {
        if !self.is_inside() {
            return Ok(self.unread.clone());
        }
        let is_ours =
            |cycle: &Vec<Holder>| any || number.is_none_or(|number| cycle.iter().all(|other| other.id < number));
        let mut graph = self.graph();
        if graph.cycle(&self.record).is_some_and(|cycle| is_ours(&cycle)) {
            // The records were read one after the other, and may never have been so together.
            graph = self.graph();
            if let Some(cycle) = graph.cycle(&self.record).filter(is_ours) {
                return Err(Error::Deadlock { what: self.what.clone(), cycle });
            }
        }
        Ok([self.unread.as_slice(), &graph.unread].concat())
    }

    fn holders(&self) -> Vec<Holder> {
        let live = self.table.as_ref().map(Table::live).unwrap_or_default();
        live.into_iter().filter(|hold| cycle::resources_conflict(&hold.resources, &self.plan.resources)).collect()
    }

    /// The holders of the requested resources, and the waiters before us.
    pub(super) fn look(&self, ticket: Option<&Ticket>) -> (Vec<Holder>, Vec<Holder>) {
        let parts = self.parts.iter().map(|part| &part.plan);
        let before = ticket.map(|ticket| ticket.number);
        inspect::in_the_way(parts, &self.plan.resources, self.table.as_ref(), self.queue.as_ref(), before)
    }

    /// The error of a request whose time is over.
    pub(super) fn busy(&self, ticket: Option<&Ticket>, waited: Duration) -> Error {
        let (holders, ahead) = self.look(ticket);
        Error::Busy { what: self.what.clone(), holders, ahead, waited }
    }

    /// All files are ours: takes a number and a slot.
    pub(super) fn hold(mut self) -> Result<Box<Held>> {
        let record = std::mem::take(&mut self.record);
        let (parts, anchored) = (std::mem::take(&mut self.parts), std::mem::take(&mut self.plan.anchored));
        let (token, visits) = (self.token.take(), std::mem::take(&mut self.visits));
        let held = Held::new(parts, anchored, record, token, (self.queue.as_ref(), self.table.as_ref()))?;
        Ok(Box::new(held.inside(visits)))
    }
}

impl Drop for Acquire {
    /// An acquire that is given up may have got a file an instant before. Closing alone would leave the lock with a copy of the
    /// descriptor, in a process that another thread has just made.
    fn drop(&mut self) {
        self.unlock_all();
    }
}

/// Opens those files of a plan that exist or can be made.
pub(super) fn open_parts(plan: &mut Plan) -> Result<Vec<Part>> {
    let mut tries = 0;
    loop {
        match open_all(plan) {
            // Somebody removes a worktree just now, and may make it again.
            Err(error) if plan.forget_removed() || may_come_again(&error, &mut tries) => {}
            parts => return parts,
        }
    }
}

/// Tells whether a missing file is worth another try.
fn may_come_again(error: &Error, tries: &mut usize) -> bool {
    const MOST: usize = 20;
    *tries += 1;
    matches!(error, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound) && *tries < MOST
}

fn open_all(plan: &Plan) -> Result<Vec<Part>> {
    let mut parts = Vec::new();
    for part in &plan.parts {
        parts.extend(Part::open(part, plan.sharing)?);
    }
    plan.parts.iter().try_for_each(|part| require_part(&parts, part))?;
    Ok(parts)
}

/// Checks that a file or anchor carries the lock of each resource. On a read-only file system the anchors carry that of a worktree
/// or of everything, and sharing the repository needs no lock, but nothing carries a name.
fn require_part(parts: &[Part], wanted: &PartPlan) -> Result<()> {
    let shared_repo = wanted.resource == REPO_KEY && wanted.mode == Mode::Shared;
    if shared_repo || wanted.optional || parts.iter().any(|part| part.plan.resource == wanted.resource) {
        return Ok(());
    }
    Err(Error::io("create", wanted.path.clone())(io::ErrorKind::ReadOnlyFilesystem.into()))
}
