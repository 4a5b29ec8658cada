//! How is a lock acquired, and what does holding it mean?
//!
//! # Invariants
//! - Exclusion rests only on flock(2) of files that are never removed, renamed or truncated, and of the git directory
//!   itself as an anchor. Queue and records can be lost without letting two holders in.
//! - All files of a request are tried together; if one is busy, all are let go before waiting for it. Nobody waits for
//!   one kernel lock while holding another of the same request.
//! - A ticket lives from its number until its owner has the lock: no newcomer passes a queued one.
//! - Readers ([`inspect`]) take no lock that could make anybody's attempt fail.
//!
//! # Limitations
//! Users of plain flock(1) stand in the kernel's queue, not in ours: only the first of our queue competes with them.
//! Where `.git` is read-only or missing there is neither queue nor record; the kernel's queue must do.

mod cycle;
mod family;
mod file;
mod inspect;
mod queue;
mod record;
mod request;

use std::{
    collections::HashSet,
    fs::File,
    io,
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

pub(crate) use file::LockFile;
pub use inspect::{Inspection, State};
pub(crate) use request::Wait;
pub use request::{Request, Scope, Waiting};

use crate::holder::{Holder, Mode};

use self::{
    cycle::Graph,
    family::{Cover, Family, Token},
    queue::{Predecessor, Queue, Ticket},
    record::{Slot, Table},
    request::{PartPlan, Plan},
};
use crate::{
    env,
    error::{Error, Result},
    fs::Sharing,
    holder,
    repo::{Repo, Worktree},
    sys::{self, Event, FlockHelper},
};

/// How long one try gives a holder whose process has just ended to let go.
const LET_GO: Duration = Duration::from_millis(100);

/// What an acquire came to.
pub(crate) enum Acquired {
    /// The lock is ours now.
    Held(Box<Held>),
    /// It was ours already: this process runs inside a hold that covers the request.
    Inside,
}

/// A lock that is held, until [`Held::unlock`] or the end of all processes that share it.
#[must_use = "the lock is let go when this is dropped"]
pub(crate) struct Held {
    parts: Vec<Part>,
    slot: Option<Slot>,
    record: Holder,
    pub(crate) token: Token,
    /// The worktrees whose HEAD this hold answers for.
    pub(crate) worktrees: Vec<Worktree>,
    /// Other live holds, and holders that died without a word.
    pub(crate) others: Vec<Holder>,
    pub(crate) died: Vec<Holder>,
    /// Things that went wrong beside the lock, and did not stop it.
    pub(crate) troubles: Vec<Error>,
}

struct Part {
    plan: PartPlan,
    file: LockFile,
}

/// Acquires what `request` asks for, waiting as long as it says.
///
/// # Errors
/// [`Error::Busy`], [`Error::Deadlock`], [`Error::Interrupted`], [`Error::NeverGranted`], [`Error::NoLocks`],
/// [`Error::NotAFile`], [`Error::Io`]. After an error nothing is left that could still take the lock.
pub(crate) fn acquire(repo: &Repo, request: &Request, sharing: Sharing, wait: &mut Wait<'_>) -> Result<Acquired> {
    let started = SystemTime::now();
    let mut plan = Plan::new(repo, request, sharing)?;
    let table = repo.holders_dir().map(|directory| Table::new(directory, sharing));
    let queue = repo.queue_dir().map(|directory| Queue::new(directory, sharing));

    let mut family = Family::by_token(table.as_ref());
    if let Cover::Whole = family.reduce(&mut plan)? {
        return Ok(Acquired::Inside);
    }
    let mut acquire = Acquire {
        what: plan.what.clone(),
        parts: open_parts(&plan)?,
        plan,
        table,
        queue,
        family: Vec::new(),
        queue_counts: true,
    };
    acquire.family = family.ids();

    if acquire.nobody_before(None) && acquire.try_all()?.is_none() {
        let record = describe(repo, request, &acquire.plan, &acquire.family, started);
        return acquire.hold(record);
    }
    family = merge(family, Family::by_kinship(acquire.table.as_ref()));
    if let Cover::Whole = family.reduce(&mut acquire.plan)? {
        return Ok(Acquired::Inside);
    }
    acquire.family = family.ids();
    if acquire.drop_covered_parts()? {
        return Ok(Acquired::Inside);
    }
    let record = describe(repo, request, &acquire.plan, &acquire.family, started);
    acquire.wait(&record, request.timeout, wait)?;
    acquire.hold(record)
}

fn merge(one: Family, other: Family) -> Family {
    if one.ids().is_empty() { other } else { one }
}

/// An acquire under way.
struct Acquire {
    what: String,
    plan: Plan,
    parts: Vec<Part>,
    table: Option<Table>,
    queue: Option<Queue>,
    /// Fencing numbers of the holds around us.
    family: Vec<u64>,
    /// Whether we stand in line: not inside a hold of flock(1) that those in the queue wait for.
    queue_counts: bool,
}

impl Acquire {
    /// Tells whether nobody who came before `number` (or at all) has a place before us.
    fn nobody_before(&self, number: Option<u64>) -> bool {
        self.predecessor(number, &HashSet::new()).is_none()
    }

    fn predecessor(&self, number: Option<u64>, passed: &HashSet<u64>) -> Option<Predecessor> {
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
    fn try_all(&mut self) -> Result<Option<usize>> {
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
            match LockFile::open(&plan.path, self.plan.sharing)? {
                Some(file) => self.parts[replaced].file = file,
                None => drop(self.parts.remove(replaced)),
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
    fn drop_covered_parts(&mut self) -> Result<bool> {
        let resources: HashSet<String> = self.plan.resources.iter().map(|(key, _)| key.clone()).collect();
        let mut remaining = Vec::new();
        for part in std::mem::take(&mut self.parts) {
            if !resources.contains(&part.plan.resource) {
                continue;
            }
            if family::locked_around_us(&part.plan, &part.file, &self.what)? {
                // Who queues waits for the lock around us: to wait for them would be a deadlock.
                self.queue_counts = false;
            } else {
                remaining.push(part);
            }
        }
        self.parts = remaining;
        Ok(self.parts.is_empty())
    }

    fn wait(&mut self, record: &Holder, timeout: Option<Duration>, wait: &mut Wait<'_>) -> Result<()> {
        if self.nobody_before(None) && self.try_all()?.is_none() {
            return Ok(());
        }
        self.refuse_cycle(record)?;
        if timeout == Some(Duration::ZERO) {
            return self.try_once();
        }
        if let Some(signals) = wait.signals {
            signals.catch(sys::INTERRUPTS);
        }
        let begun = Instant::now();
        // A time beyond what the clock can tell is none.
        let deadline = timeout.and_then(|timeout| begun.checked_add(timeout));
        let ticket = match self.queue.as_ref().filter(|_| self.queue_counts) {
            Some(queue) => match queue.enter(record, || self.refuse_cycle(record)) {
                Ok(ticket) => Some(ticket),
                Err(deadlock @ Error::Deadlock { .. }) => return Err(deadlock),
                // Without a queue the kernel's must do: order is not kept, exclusion is.
                Err(_) => None,
            },
            None => None,
        };
        let mut clock = Clock { begun, deadline, next_word: begun + Wait::GRACE };
        let mut passed = HashSet::new();
        // Our turn in the queue.
        while let Some(ticket) = &ticket {
            let Some(before) = self.predecessor(Some(ticket.number), &passed) else { break };
            let event = before.writer.as_ref().map(|writer| Event::ReaderGone(sys::fd(writer)));
            let before_us = self.queue.as_ref().map(|queue| queue.request(before.number)).unwrap_or_default();
            // Ticks are for those who are stopped when their turn comes; nothing else is looked at.
            while !self.sleep(event, &mut clock, Some(ticket), wait)? {
                if event.is_none() || queue::is_stopped(&before_us) {
                    passed.extend(event.is_some().then_some(before.number));
                    break;
                }
            }
        }
        // The lock itself: in the kernel's queue, where users of flock(1) stand as well.
        while let Some(busy) = self.try_all()? {
            let part = &self.parts[busy];
            let exclusive = part.plan.mode == Mode::Exclusive;
            match FlockHelper::start(part.file.file(), exclusive, ticket.as_ref().map(Ticket::fd)) {
                Ok(helper) => {
                    while !self.sleep(Some(Event::Readable(helper.fd())), &mut clock, ticket.as_ref(), wait)? {}
                    helper.stop();
                }
                // No process can be made: then look again and again.
                Err(_) => drop(self.sleep(None, &mut clock, ticket.as_ref(), wait)?),
            }
        }
        Ok(())
    }

    /// Sleeps until the event or the next tick; tells whether it was the event.
    fn sleep(
        &self,
        event: Option<Event<'_>>,
        clock: &mut Clock,
        ticket: Option<&Ticket>,
        wait: &mut Wait<'_>,
    ) -> Result<bool> {
        /// How often to look where no event can wake us.
        const BLIND: Duration = Duration::from_millis(20);
        let now = Instant::now();
        let waited = now - clock.begun;
        if clock.deadline.is_some_and(|deadline| now >= deadline) {
            return Err(self.busy(ticket, waited));
        }
        if now >= clock.next_word {
            let look = || self.look(ticket);
            (wait.tell)(&Waiting { waited, what: &self.what, look: &look });
            clock.next_word = now + Wait::TICK;
        }
        let wake = clock.deadline.map_or(clock.next_word, |deadline| deadline.min(clock.next_word));
        let mut timeout = wake.saturating_duration_since(now);
        if event.is_none() {
            timeout = timeout.min(BLIND);
        }
        let signal = wait.signals.map(|signals| Event::Readable(signals.fd()));
        let events: Vec<Event<'_>> = event.into_iter().chain(signal).collect();
        let happened = sys::poll(&events, Some(timeout)).map_err(Error::io("wait for", &self.parts[0].plan.path))?;
        if let Some(signals) = wait.signals.filter(|_| happened.last() == Some(&true)) {
            let interrupt = signals.take().into_iter().find(|received| sys::INTERRUPTS.contains(&received.signal));
            if let Some(received) = interrupt {
                return Err(Error::Interrupted { what: self.what.clone(), signal: received.signal });
            }
        }
        Ok(event.is_some() && happened[0])
    }

    /// One more try, and another for [`LET_GO`] if no process can be seen that would hold the lock.
    fn try_once(&mut self) -> Result<()> {
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
        let recorded = self.holders().into_iter().any(|hold| {
            let pids = [Some(hold.pid), hold.keeper];
            pids.into_iter().flatten().any(|pid| sys::still_runs(pid, hold.boot_ms) != Some(false))
        });
        let in_the_way = |part: &Part, exclusive| exclusive || part.plan.mode == Mode::Exclusive;
        recorded
            || self.parts.iter().any(|part| {
                let locks = sys::kernel_locks(part.file.id()).unwrap_or_default();
                locks.iter().any(|lock| {
                    in_the_way(part, lock.exclusive) && sys::still_runs(lock.pid, sys::boot_ms()) != Some(false)
                })
            })
    }

    fn refuse_cycle(&self, record: &Holder) -> Result<()> {
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
    fn look(&self, ticket: Option<&Ticket>) -> (Vec<Holder>, Vec<Holder>) {
        let mut holders = self.holders();
        let known = inspect::pids(&holders);
        for part in self.parts.iter().filter(|part| !part.plan.anchor) {
            for foreign in inspect::foreign_holders(part.file.id(), &part.plan.resource, &known) {
                // Everybody holds `repo` shared: only who excludes us is in the way.
                if foreign.mode.is_none_or(|mode| mode.conflicts_with(part.plan.mode)) {
                    holders.push(foreign);
                }
            }
        }
        let requests = self.queue.as_ref().map(Queue::requests).unwrap_or_default();
        let ahead = requests
            .into_iter()
            .filter(|request| ticket.is_none_or(|ticket| request.id < ticket.number))
            .filter(|request| cycle::resources_conflict(&request.resources, &self.plan.resources))
            .collect();
        (holders, ahead)
    }

    fn busy(&self, ticket: Option<&Ticket>, waited: Duration) -> Error {
        let (holders, ahead) = self.look(ticket);
        Error::Busy { what: self.what.clone(), holders, ahead, waited }
    }

    /// The locks are ours: take a number and a slot.
    fn hold(self, mut record: Holder) -> Result<Acquired> {
        let mut troubles = Vec::new();
        // Written later than those processes started that it names, so that none is taken for a later one.
        record.boot_ms = sys::boot_ms();
        record.id = self.queue.as_ref().map_or_else(|| holder::unix_ms(SystemTime::now()) * 1000, Queue::next_number);
        record.acquired_ms = Some(holder::unix_ms(SystemTime::now()));
        let token = Token::new(record.id)?;
        record.token_sha256 = Some(token.digest());
        let (mut slot, mut seen) = (None, record::Seen::default());
        match self.table.as_ref().map(Table::claim) {
            Some(Ok((claimed, found))) => (slot, seen) = (Some(claimed), found),
            // In a sandbox that may only read there are no records; that is no trouble.
            Some(Err(Error::Io { source, .. })) if sys::is_read_only_error(&source) => {}
            Some(Err(error)) => troubles.push(error),
            None => {}
        }
        Ok(Acquired::Held(Box::new(Held {
            parts: self.parts,
            slot,
            record,
            token,
            worktrees: self.plan.worktrees,
            others: seen.live,
            died: seen.died,
            troubles,
        })))
    }
}

/// When a wait began, ends, and has something to say.
struct Clock {
    begun: Instant,
    deadline: Option<Instant>,
    next_word: Instant,
}

fn open_parts(plan: &Plan) -> Result<Vec<Part>> {
    let mut parts = Vec::new();
    for part in &plan.parts {
        let file = if part.anchor {
            Some(LockFile::open_anchor(&part.path)?)
        } else {
            LockFile::open(&part.path, plan.sharing)?
        };
        parts.extend(file.map(|file| Part { plan: part.clone(), file }));
    }
    // Everything is read-only: the anchors can carry a worktree, but nothing carries a name or the whole repository.
    for (key, mode) in &plan.resources {
        let alone = *mode == Mode::Exclusive || key != crate::repo::REPO_KEY;
        if alone && parts.iter().all(|part| part.plan.resource != *key) {
            let path = plan
                .parts
                .iter()
                .find(|part| part.resource == *key)
                .map_or_else(PathBuf::new, |part| part.path.clone());
            return Err(Error::io("create", path)(io::ErrorKind::PermissionDenied.into()));
        }
    }
    Ok(parts)
}

fn describe(repo: &Repo, request: &Request, plan: &Plan, inside: &[u64], started: SystemTime) -> Holder {
    let directory = std::env::current_dir().unwrap_or_else(|_| repo.root().to_owned());
    Holder {
        schema: holder::SCHEMA,
        pid: std::process::id(),
        pid_namespace: sys::pid_namespace(),
        boot_ms: sys::boot_ms(),
        host: sys::host(),
        user: env::user().unwrap_or_else(sys::effective_user_name),
        agent: env::agent().map(str::to_owned),
        command: request.command.clone(),
        directory: holder::readable(&directory.to_string_lossy()),
        scope: plan.scope.clone(),
        mode: Some(request.mode),
        reason: request.reason.as_deref().map(holder::readable),
        requested_ms: holder::unix_ms(started),
        inside: inside.to_vec(),
        resources: plan.resources.clone(),
        ..Holder::default()
    }
}

impl Held {
    /// The record of this hold.
    pub(crate) fn record(&self) -> &Holder {
        &self.record
    }

    /// The files that a command must inherit so that the lock lives as long as it does.
    pub(crate) fn files(&self) -> Vec<&File> {
        let slot = self.slot.as_ref().map(|slot| slot.lock.file());
        self.parts.iter().map(|part| part.file.file()).chain(slot).collect()
    }

    /// Writes who holds; `keeper` is the process that keeps the lock where the one that asked for it was killed.
    ///
    /// # Errors
    /// [`Error::Io`]: the lock is held all the same.
    pub(crate) fn announce(&mut self, keeper: Option<u32>) -> Result<()> {
        self.record.keeper = keeper;
        self.slot.as_ref().map_or(Ok(()), |slot| slot.write(&self.record))
    }

    /// Paths of locks whose file was removed or replaced while they were held and that have no anchor: somebody else
    /// may have got in.
    pub(crate) fn lost(&self) -> Vec<PathBuf> {
        let anchored: HashSet<&str> =
            self.parts.iter().filter(|part| part.plan.anchor).map(|part| part.plan.resource.as_str()).collect();
        let lost = self.parts.iter().filter(|part| {
            let shared_repo = part.plan.resource == crate::repo::REPO_KEY && part.plan.mode == Mode::Shared;
            !shared_repo && !anchored.contains(part.plan.resource.as_str()) && !part.file.is_at(&part.plan.path)
        });
        lost.map(|part| part.plan.path.clone()).collect()
    }

    /// The record as it will stand after a release now.
    pub(crate) fn ended(&self) -> Holder {
        Holder { released_ms: Some(holder::unix_ms(SystemTime::now())), ..self.record.clone() }
    }

    /// Records the release that is about to come.
    ///
    /// # Errors
    /// [`Error::Io`]: the lock can be let go all the same.
    pub(crate) fn record_release(&self) -> Result<()> {
        self.slot.as_ref().map_or(Ok(()), |slot| slot.write(&self.ended()))
    }

    /// Lets the lock go, for all processes that share it.
    pub(crate) fn unlock(&self) {
        if let Some(slot) = &self.slot {
            slot.release();
        }
        for part in self.parts.iter().rev() {
            part.file.unlock();
        }
    }
}
