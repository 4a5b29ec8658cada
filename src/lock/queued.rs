//! How is a place in the queue waited out? Our turn comes when nobody is before us; then the kernel's lock is waited for.
//!
//! [`Queued::step`] does what can be done without waiting, [`Queued::event`] says what to wait for, [`Queued::pause`] how
//! long: whoever blocks and whoever is a future do the same.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use super::{
    Clock, Wait, Waiting,
    attempt::Acquire,
    family::Token,
    held::Held,
    queue::{self, Predecessor, Ticket},
};
use crate::{
    error::{Error, Result},
    holder::{Holder, Mode},
    sys::{self, Event, FdNumber, FlockHelper, Signals},
};

/// A place in the queue: somebody is before us. Dropped, nothing of it is left that could take the lock.
pub(crate) struct Queued {
    // In this order they are given up: the helper, which could take the lock, then the lock, then our place.
    stage: Stage,
    pub(super) acquire: Acquire,
    /// `None` where there is no queue: then the kernel's must do.
    ticket: Option<Ticket>,
    record: Holder,
    /// The process that took the last file for us.
    taker: Option<u32>,
    begun: Instant,
    timeout: Option<Duration>,
    /// Those before us that are stopped and were passed.
    passed: HashSet<u64>,
}

/// How far a wait has come.
enum Stage {
    /// It is to be seen who is before us.
    Look,
    /// This one is.
    Behind(Predecessor, Box<Holder>),
    /// Nobody in the queue, but somebody holds the lock; without a helper, because no process could be made, it is tried
    /// again and again.
    Front(Option<FlockHelper>),
}

impl Queued {
    pub(super) fn new(acquire: Acquire, record: Holder, ticket: Option<Ticket>, timeout: Option<Duration>) -> Self {
        Self {
            stage: Stage::Look,
            acquire,
            ticket,
            record,
            taker: None,
            begun: Instant::now(),
            timeout,
            passed: HashSet::new(),
        }
    }

    /// Does what can be done without waiting; `true` when all files are ours.
    ///
    /// # Errors
    /// As [`super::acquire()`], without those of a wait that took too long.
    pub(crate) fn step(&mut self) -> Result<bool> {
        let happened = self.happened()?;
        loop {
            match std::mem::replace(&mut self.stage, Stage::Look) {
                Stage::Look => self.stage = self.look(),
                Stage::Behind(before, request) if !happened && before.writer.is_some() => {
                    // Who is stopped when its turn comes is passed; nothing else is looked at.
                    if !queue::is_stopped(&request) {
                        self.stage = Stage::Behind(before, request);
                        return Ok(false);
                    }
                    self.passed.insert(before.number);
                }
                Stage::Behind(..) => {}
                Stage::Front(Some(helper)) if !happened => {
                    self.stage = Stage::Front(Some(helper));
                    return Ok(false);
                }
                Stage::Front(helper) => return self.take(helper),
            }
            if matches!(self.stage, Stage::Behind(..)) {
                return Ok(false);
            }
        }
    }

    /// Whom we wait for; at the front, if there is nobody.
    fn look(&self) -> Stage {
        let before = self.ticket.as_ref().and_then(|own| self.acquire.predecessor(Some(own.number), &self.passed));
        let Some(before) = before else { return Stage::Front(None) };
        let request = self.acquire.queue.as_ref().map(|queue| queue.request(before.number)).unwrap_or_default();
        Stage::Behind(before, Box::new(request))
    }

    /// The lock itself: in the kernel's queue, where users of flock(1) stand as well. Tries, or begins to wait again.
    fn take(&mut self, helper: Option<FlockHelper>) -> Result<bool> {
        // Only the last one: what another took was let go.
        self.taker = helper.as_ref().map(FlockHelper::pid);
        if let Some(helper) = helper {
            helper.stop();
        }
        let Some(busy) = self.acquire.try_all()? else { return Ok(true) };
        let part = &self.acquire.parts[busy];
        // No process can be made: then look again and again.
        let helper = FlockHelper::start(part.file.file(), part.plan.mode == Mode::Exclusive).ok();
        self.stage = Stage::Front(helper);
        Ok(false)
    }

    /// What to wait for, unless time must wake us.
    pub(crate) fn event(&self) -> Option<Event<'_>> {
        match &self.stage {
            Stage::Behind(before, _) => before.writer.as_ref().map(|writer| Event::ReaderGone(sys::fd(writer))),
            Stage::Front(helper) => helper.as_ref().map(|helper| Event::Readable(helper.fd())),
            Stage::Look => None,
        }
    }

    fn happened(&self) -> Result<bool> {
        let Some(event) = self.event() else { return Ok(false) };
        let happened = sys::poll(&[event], Some(Duration::ZERO)).map_err(self.cannot_wait())?;
        Ok(happened == [true])
    }

    /// How long to wait at most; tells how it stands when that is due.
    ///
    /// # Errors
    /// [`Error::Busy`] when the time is over.
    pub(crate) fn pause(&self, clock: &mut Clock, tell: &mut dyn FnMut(&Waiting<'_>)) -> Result<Duration> {
        /// How often to look where no event can wake us.
        const BLIND: Duration = Duration::from_millis(20);
        let (acquire, ticket) = (&self.acquire, self.ticket.as_ref());
        let look = || acquire.look(ticket);
        let pause = clock.pause(&acquire.what, &look, tell)?;
        Ok(if self.event().is_none() { pause.min(BLIND) } else { pause })
    }

    /// All files are ours: takes a number and a slot. The place in the queue is given up when the second value is dropped.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where the system has no random numbers: then the lock was let go.
    pub(crate) fn hold(mut self) -> Result<(Box<Held>, Option<Ticket>)> {
        self.record.takers.extend(self.taker);
        Ok((self.acquire.hold(self.record)?, self.ticket))
    }

    /// Waits until the lock is ours.
    ///
    /// # Errors
    /// As [`super::acquire()`].
    pub(crate) fn wait(self, wait: &mut Wait<'_>) -> Result<Box<Held>> {
        self.wait_keeping_place(wait).map(|(held, _place)| held)
    }

    /// As [`Queued::wait`]; the place in the queue is given up when the second value is dropped. Who looks for the token of the
    /// hold finds one or the other, if that is after the hold was announced.
    ///
    /// # Errors
    /// As [`super::acquire()`].
    pub(crate) fn wait_keeping_place(mut self, wait: &mut Wait<'_>) -> Result<(Box<Held>, Option<Ticket>)> {
        if let Some(signals) = wait.signals {
            signals.catch(sys::INTERRUPTS);
        }
        let mut clock = Clock::new(self.begun, self.timeout);
        while !self.step()? {
            let pause = self.pause(&mut clock, wait.tell)?;
            let signal = wait.signals.map(|signals| Event::Readable(signals.fd()));
            let events: Vec<Event<'_>> = self.event().into_iter().chain(signal).collect();
            let happened = sys::poll(&events, Some(pause)).map_err(self.cannot_wait())?;
            if let Some(signal) = wait.signals.filter(|_| happened.last() == Some(&true)).and_then(Signals::interrupt) {
                return Err(Error::Interrupted { what: self.acquire.what.clone(), signal });
            }
        }
        self.hold()
    }

    fn cannot_wait(&self) -> impl FnOnce(std::io::Error) -> Error + use<> {
        let path = self.acquire.parts.first().map(|part| part.plan.path.clone()).unwrap_or_default();
        Error::io("wait for", path)
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

    /// In the parent of such a child: neither the place in the queue nor the lock, which it may have by now, is ours to give up.
    pub(crate) fn leave_to_child(mut self) {
        self.acquire.parts.clear();
        std::mem::forget(self.ticket.take());
    }
}

impl Acquire {
    /// Takes a place in the queue, if there is one for us.
    pub(super) fn queue_up(&self, record: &Holder) -> Result<Option<Ticket>> {
        let Some(queue) = self.queue.as_ref().filter(|_| self.queue_counts) else { return Ok(None) };
        match queue.enter(record, || self.refuse_cycle(record)) {
            Ok(ticket) => Ok(Some(ticket)),
            Err(deadlock @ Error::Deadlock { .. }) => Err(deadlock),
            // Without a queue the kernel's must do: order is not kept, exclusion is.
            Err(_) => Ok(None),
        }
    }
}
