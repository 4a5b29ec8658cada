//! How are all files of a request tried together, and what is in the way? All or none are ours, at every return.

use std::{
    collections::HashSet,
    io,
    time::{Duration, Instant},
};

use super::{
    cycle::{self, Graph},
    family::{self, Token},
    file::LockFile,
    held::{Held, Part},
    inspect,
    queue::{Predecessor, Queue, Ticket},
    record::Table,
    request::{PartPlan, Plan},
};
use crate::{
    error::{Error, Result},
    holder::{Holder, Mode},
    repo::REPO_KEY,
    sys,
};

/// How long one try gives a holder whose process has just ended to let go.
const LET_GO: Duration = Duration::from_millis(100);

/// An acquire under way.
pub(super) struct Acquire {
    pub(super) what: String,
    pub(super) plan: Plan,
    pub(super) parts: Vec<Part>,
    pub(super) table: Option<Table>,
    pub(super) queue: Option<Queue>,
    /// Fencing numbers of the holds around us.
    pub(super) family: Vec<u64>,
    /// Whether we stand in line: not inside a hold of flock(1) that those in the queue wait for.
    pub(super) queue_counts: bool,
    /// The secret of the hold to come, where somebody knows it already.
    pub(super) token: Option<Token>,
}

impl Acquire {
    /// Tells whether nobody who came before `number` (or at all) has a place before us.
    pub(super) fn nobody_before(&self, number: Option<u64>) -> bool {
        self.predecessor(number, &HashSet::new()).is_none()
    }

    /// The nearest before `number` (or of all) that must go first; those in `passed` are stopped, and need not.
    pub(super) fn predecessor(&self, number: Option<u64>, passed: &HashSet<u64>) -> Option<Predecessor> {
        let queue = self.queue.as_ref().filter(|_| self.queue_counts)?;
        let mut graph = None;
        queue.before(number, &self.plan.resources, &mut |number| {
            let may_pass =
                !self.family.is_empty() && graph.get_or_insert_with(|| self.graph()).waits_for(number, &self.family);
            passed.contains(&number) || may_pass
        })
    }

    fn graph(&self) -> Graph {
        Graph {
            holds: self.table.as_ref().map(Table::live).unwrap_or_default(),
            requests: self.queue.as_ref().map(Queue::requests).unwrap_or_default(),
        }
    }

    /// Tries all files; `None` when all are ours, else the index of one that is busy, and then none is.
    pub(super) fn try_all(&mut self) -> Result<Option<usize>> {
        loop {
            let mut busy = None;
            for (index, part) in self.parts.iter().enumerate() {
                match part.file.try_lock(part.plan.mode) {
                    Ok(true) => {}
                    Ok(false) => {
                        busy = Some(index);
                        break;
                    }
                    // Where a read-only descriptor cannot be locked, the file alone counts.
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
            let Some(replaced) =
                self.parts.iter().position(|part| !part.plan.anchor && !part.file.is_at(&part.plan.path))
            else {
                return self.check_exclusion().map(|()| None);
            };
            // Somebody removed the file while we opened or waited for it: the lock is on the file that is there now.
            self.unlock_all();
            let plan = self.parts[replaced].plan.clone();
            if let Some(file) = LockFile::open(&plan.path, self.plan.sharing)? {
                self.parts[replaced].file = file;
            } else {
                drop(self.parts.remove(replaced));
                require_part(&self.parts, &plan)?;
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
            if family::locked_around_us(&part.plan, &part.file, &self.plan)? {
                // Who queues waits for the lock around us: to wait for them would be a deadlock.
                self.queue_counts = false;
            } else {
                remaining.push(part);
            }
        }
        self.parts = remaining;
        Ok(self.parts.is_empty())
    }

    /// One more try, and another for [`LET_GO`] if no process can be seen that would hold the lock.
    pub(super) fn try_once(&mut self) -> Result<()> {
        let patience = Instant::now() + LET_GO;
        while self.nobody_before(None) && !self.holder_runs() && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(1));
            if self.try_all()?.is_none() {
                return Ok(());
            }
        }
        Err(self.busy(None, Duration::ZERO))
    }

    /// Tells whether any process that holds one of our files can be seen to run.
    fn holder_runs(&self) -> bool {
        // A keeper alone is about to let go, or keeps it for a command that goes on: then we try in vain.
        let recorded = self.holders().into_iter().any(|hold| sys::still_runs(hold.pid, hold.boot_ms) != Some(false));
        if recorded {
            return true;
        }
        let kernel = sys::kernel_locks(&self.parts.iter().map(|part| part.file.id()).collect::<Vec<_>>());
        let in_the_way = |part: &Part, exclusive| exclusive || part.plan.mode == Mode::Exclusive;
        self.parts.iter().any(|part| {
            kernel.locks.iter().filter(|lock| lock.file == part.file.id()).any(|lock| {
                in_the_way(part, lock.exclusive) && sys::still_runs(lock.pid, sys::boot_ms()) != Some(false)
            })
        })
    }

    /// Refuses to wait where that would be a deadlock; only who is inside a hold can close a cycle.
    pub(super) fn refuse_cycle(&self, record: &Holder) -> Result<()> {
        if self.family.is_empty() {
            return Ok(());
        }
        match self.graph().cycle(record, &self.family) {
            Some(cycle) => Err(Error::Deadlock { what: self.what.clone(), cycle }),
            None => Ok(()),
        }
    }

    fn holders(&self) -> Vec<Holder> {
        let live = self.table.as_ref().map(Table::live).unwrap_or_default();
        live.into_iter().filter(|hold| cycle::resources_conflict(&hold.resources, &self.plan.resources)).collect()
    }

    /// Who holds what we want, and who waits before us.
    pub(super) fn look(&self, ticket: Option<&Ticket>) -> (Vec<Holder>, Vec<Holder>) {
        let parts = self.parts.iter().map(|part| &part.plan);
        let before = ticket.map(|ticket| ticket.number);
        inspect::in_the_way(parts, &self.plan.resources, self.table.as_ref(), self.queue.as_ref(), before)
    }

    /// The error for who waits no longer.
    pub(super) fn busy(&self, ticket: Option<&Ticket>, waited: Duration) -> Error {
        let (holders, ahead) = self.look(ticket);
        Error::Busy { what: self.what.clone(), holders, ahead, waited }
    }

    /// All files are ours: takes a number and a slot.
    pub(super) fn hold(mut self, record: Holder) -> Result<Box<Held>> {
        let (parts, worktrees) = (std::mem::take(&mut self.parts), std::mem::take(&mut self.plan.worktrees));
        let token = self.token.take();
        Ok(Box::new(Held::new(parts, worktrees, record, token, self.queue.as_ref(), self.table.as_ref())?))
    }
}

impl Drop for Acquire {
    /// An acquire that is given up may have got a file an instant before. Closing alone would leave the lock with a copy of the
    /// descriptor, in a process that another thread has just made.
    fn drop(&mut self) {
        self.unlock_all();
    }
}

/// Opens the files of a plan, as far as they can be made.
pub(super) fn open_parts(plan: &Plan) -> Result<Vec<Part>> {
    let mut parts = Vec::new();
    for part in &plan.parts {
        let file = if part.anchor {
            Some(LockFile::open_anchor(&part.path)?)
        } else {
            LockFile::open(&part.path, plan.sharing)?
        };
        parts.extend(file.map(|file| Part { plan: part.clone(), file }));
    }
    plan.parts.iter().try_for_each(|part| require_part(&parts, part))?;
    Ok(parts)
}

/// Checks that something carries the lock of a resource. Where everything is read-only the anchors can carry that of a
/// worktree, and nobody needs that of the repository to share it, but nothing carries a name, or the whole repository.
fn require_part(parts: &[Part], wanted: &PartPlan) -> Result<()> {
    let shared_repo = wanted.resource == REPO_KEY && wanted.mode == Mode::Shared;
    if shared_repo || parts.iter().any(|part| part.plan.resource == wanted.resource) {
        return Ok(());
    }
    Err(Error::io("create", wanted.path.clone())(io::ErrorKind::PermissionDenied.into()))
}
