//! How is a lock acquired? Ours already → free → queue → the kernel's lock → held.

use std::{
    collections::HashSet,
    io,
    time::{Duration, Instant, SystemTime},
};

use super::{
    Acquired, Request, Wait, Waiting,
    cycle::{self, Graph},
    family::{self, Cover, Family, Token},
    file::LockFile,
    held::{Held, Part},
    inspect::{self, Lockable},
    queue::{self, Predecessor, Queue, Ticket},
    record::Table,
    request::{PartPlan, Plan},
};
use crate::{
    env,
    error::{Error, Result},
    fs::Sharing,
    holder::{self, Holder, Mode},
    repo::{REPO_KEY, Repo},
    sys::{self, Event, FdNumber, FlockHelper, Signals},
};

/// How long one try gives a holder whose process has just ended to let go.
const LET_GO: Duration = Duration::from_millis(100);

/// How an acquire began.
pub(crate) enum Entered {
    /// The lock is ours now.
    Held(Box<Held>),
    /// It was ours already: this process runs inside the hold with this fencing number (0: one of flock(1)), which covers the
    /// request.
    Inside(u64),
    /// Somebody is before us.
    Queued(Box<Queued>),
}

/// Acquires what `request` asks for, waiting as long as it says.
///
/// # Errors
/// [`Error::Busy`], [`Error::Deadlock`], [`Error::Interrupted`], [`Error::NeverGranted`], [`Error::NoLocks`],
/// [`Error::NotAFile`], [`Error::Io`]. After an error nothing is left that could still take the lock.
pub(crate) fn acquire(repo: &Repo, request: &Request, sharing: Sharing, wait: &mut Wait<'_>) -> Result<Acquired> {
    match enter(repo, request, sharing)? {
        Entered::Held(held) => Ok(Acquired::Held(held)),
        Entered::Inside(_) => Ok(Acquired::Inside),
        Entered::Queued(queued) => queued.wait(wait).map(Acquired::Held),
    }
}

/// Acquires what `request` asks for without waiting, or else takes a place in the queue.
///
/// # Errors
/// As [`acquire`].
pub(crate) fn enter(repo: &Repo, request: &Request, sharing: Sharing) -> Result<Entered> {
    let started = SystemTime::now();
    let mut plan = Plan::new(repo, request, sharing)?;
    let table = repo.holders_dir().map(|directory| Table::new(directory, sharing));
    let queue = repo.queue_dir().map(|directory| Queue::new(directory, sharing));

    let mut family = Family::by_token(table.as_ref());
    if let Cover::Whole = family.reduce(&mut plan)? {
        return Ok(Entered::Inside(family.outer()));
    }
    let mut acquire = Acquire {
        what: plan.what.clone(),
        parts: open_parts(&plan)?,
        plan,
        table,
        queue,
        family: Vec::new(),
        queue_counts: true,
        token: None,
    };
    acquire.family = family.ids();

    if acquire.nobody_before(None) && acquire.try_all()?.is_none() {
        let record = describe(repo, request, &acquire.plan, &acquire.family, started);
        return acquire.hold(record).map(Entered::Held);
    }
    family.join(Family::by_kinship(acquire.table.as_ref()));
    if let Cover::Whole = family.reduce(&mut acquire.plan)? {
        return Ok(Entered::Inside(family.outer()));
    }
    acquire.family = family.ids();
    if acquire.drop_covered_parts()? {
        return Ok(Entered::Inside(family.outer()));
    }
    let record = describe(repo, request, &acquire.plan, &acquire.family, started);
    if acquire.nobody_before(None) && acquire.try_all()?.is_none() {
        return acquire.hold(record).map(Entered::Held);
    }
    acquire.refuse_cycle(&record)?;
    if request.timeout == Some(Duration::ZERO) {
        acquire.try_once()?;
        return acquire.hold(record).map(Entered::Held);
    }
    let begun = Instant::now();
    let ticket = acquire.queue_up(&record)?;
    Ok(Entered::Queued(Box::new(Queued { acquire, record, ticket, begun, timeout: request.timeout })))
}

/// A place in the queue: somebody is before us.
pub(crate) struct Queued {
    acquire: Acquire,
    record: Holder,
    /// `None` where there is no queue: then the kernel's must do.
    ticket: Option<Ticket>,
    begun: Instant,
    timeout: Option<Duration>,
}

impl Queued {
    /// Waits until the lock is ours.
    ///
    /// # Errors
    /// As [`acquire`].
    pub(crate) fn wait(mut self, wait: &mut Wait<'_>) -> Result<Box<Held>> {
        if let Some(signals) = wait.signals {
            signals.catch(sys::INTERRUPTS);
        }
        // A time beyond what the clock can tell is none.
        let deadline = self.timeout.and_then(|timeout| self.begun.checked_add(timeout));
        let mut clock = Clock { begun: self.begun, deadline, next_word: self.begun + Wait::GRACE };
        let ticket = self.ticket.take();
        self.record.takers.extend(self.acquire.wait(ticket.as_ref(), &mut clock, wait)?);
        drop(ticket);
        self.acquire.hold(self.record)
    }

    /// Makes the secret of the hold to come, by which the waiter can be found as well.
    pub(crate) fn make_token(&mut self) -> Result<Token> {
        let token = Token::new(self.ticket.as_ref().map_or(0, |ticket| ticket.number))?;
        self.record.token_sha256 = Some(token.digest());
        self.acquire.token = Some(token.clone());
        if let Some(ticket) = &self.ticket {
            ticket.rewrite(&self.record);
        }
        Ok(token)
    }

    /// The descriptors that a child must keep which waits in place of this process.
    pub(crate) fn files(&self) -> Vec<FdNumber> {
        let parts = self.acquire.parts.iter().map(|part| sys::number(part.file.file()));
        parts.chain(self.ticket.as_ref().map(|ticket| sys::number(&ticket.fd()))).collect()
    }

    /// In a child that waits in place of its parent: tells those who look that it is us.
    pub(crate) fn change_hands(&mut self) {
        self.record.pid = std::process::id();
        self.record.boot_ms = sys::boot_ms();
        if let Some(ticket) = &self.ticket {
            ticket.rewrite(&self.record);
        }
    }

    /// In the parent of such a child: the place in the queue is no longer ours to give up.
    pub(crate) fn leave_to_child(mut self) {
        std::mem::forget(self.ticket.take());
    }
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
    /// The secret of the hold to come, where somebody knows it already.
    token: Option<Token>,
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
    fn drop_covered_parts(&mut self) -> Result<bool> {
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

    /// Takes a place in the queue, if there is one for us.
    fn queue_up(&self, record: &Holder) -> Result<Option<Ticket>> {
        let Some(queue) = self.queue.as_ref().filter(|_| self.queue_counts) else { return Ok(None) };
        match queue.enter(record, || self.refuse_cycle(record)) {
            Ok(ticket) => Ok(Some(ticket)),
            Err(deadlock @ Error::Deadlock { .. }) => Err(deadlock),
            // Without a queue the kernel's must do: order is not kept, exclusion is.
            Err(_) => Ok(None),
        }
    }

    /// Waits until all files are ours; returns the processes that took some of them for us.
    fn wait(&mut self, ticket: Option<&Ticket>, clock: &mut Clock, wait: &mut Wait<'_>) -> Result<Vec<u32>> {
        let mut passed = HashSet::new();
        // Our turn in the queue.
        while let Some(ticket) = ticket {
            let Some(before) = self.predecessor(Some(ticket.number), &passed) else { break };
            let event = before.writer.as_ref().map(|writer| Event::ReaderGone(sys::fd(writer)));
            let before_us = self.queue.as_ref().map(|queue| queue.request(before.number)).unwrap_or_default();
            // Ticks are for those who are stopped when their turn comes; nothing else is looked at.
            while !self.sleep(event, clock, Some(ticket), wait)? {
                if event.is_none() || queue::is_stopped(&before_us) {
                    passed.extend(event.is_some().then_some(before.number));
                    break;
                }
            }
        }
        // The lock itself: in the kernel's queue, where users of flock(1) stand as well.
        let mut takers = Vec::new();
        while let Some(busy) = self.try_all()? {
            takers.clear();
            let part = &self.parts[busy];
            let exclusive = part.plan.mode == Mode::Exclusive;
            match FlockHelper::start(part.file.file(), exclusive, ticket.map(Ticket::fd)) {
                Ok(helper) => {
                    while !self.sleep(Some(Event::Readable(helper.fd())), clock, ticket, wait)? {}
                    takers.push(helper.pid());
                    helper.stop();
                }
                // No process can be made: then look again and again.
                Err(_) => drop(self.sleep(None, clock, ticket, wait)?),
            }
        }
        Ok(takers)
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
        if let Some(signal) = wait.signals.filter(|_| happened.last() == Some(&true)).and_then(Signals::interrupt) {
            return Err(Error::Interrupted { what: self.what.clone(), signal });
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
        let files: Vec<Lockable> = self.parts.iter().filter_map(|part| Lockable::new(&part.plan)).collect();
        let kernel = inspect::kernel_locks(&files);
        for file in &files {
            for unrecorded in file.unrecorded_holders(&kernel, &inspect::pids(&holders)) {
                // Everybody holds `repo` shared: only who excludes us is in the way.
                if unrecorded.mode.is_none_or(|mode| mode.conflicts_with(file.mode)) {
                    holders.push(unrecorded);
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

    fn hold(self, record: Holder) -> Result<Box<Held>> {
        let held =
            Held::new(self.parts, self.plan.worktrees, record, self.token, self.queue.as_ref(), self.table.as_ref())?;
        Ok(Box::new(held))
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

fn describe(repo: &Repo, request: &Request, plan: &Plan, inside: &[u64], started: SystemTime) -> Holder {
    let directory = std::env::current_dir().unwrap_or_else(|_| repo.root().to_owned());
    let us = std::process::id();
    Holder {
        schema: holder::SCHEMA,
        pid: request.for_process.unwrap_or(us),
        takers: request.for_process.map(|_| us).into_iter().collect(),
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
