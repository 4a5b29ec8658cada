//! Waits for a lock in the queue, behind earlier waiters; the first of the queue waits for the kernel's lock.
//!
//! [`Waiter::step`] does what can be done without waiting, [`Waiter::event`] says what to wait for, [`Waiter::pause`] how
//! long: blocking and asynchronous waits do the same.
//!
//! A waiter that cannot go on blocks no other. A dead, stopped or frozen one is skipped. One that cannot be seen to run is
//! passed when it leaves the free lock alone for a second; one that was seen to run, after a longer time.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use super::{
    Clock, Wait, Waiting,
    attempt::{Acquire, PROBE, SEEN_PATIENCE, UNSEEN_PATIENCE},
    held::Held,
    queue::{Predecessor, Ticket},
    record::Table,
    token::Token,
    visit::Visits,
};
use crate::{
    error::{Error, Result},
    holder::Mode,
    sys::{self, Event, FdNumber, FlockHelper, Process, Signals},
};

/// The number of waiters behind running ones that probe whether these leave a free lock alone.
const PROBERS: usize = 8;

/// A place in the queue: somebody is before us. Dropped, nothing of it is left that could take the lock.
pub(crate) struct Waiter {
    // In this order they are given up: the helper, which could take the lock, then the lock, then our place.
    stage: Stage,
    pub(super) acquire: Acquire,
    /// `None` without a queue: then the kernel's must do.
    ticket: Option<Ticket>,
    /// The process that took the last file for us.
    taker: Option<u32>,
    begun: Instant,
    timeout: Option<Duration>,
    /// When everything was looked at last, without any event.
    looked: Instant,
    /// Since when the lock was free each time that it was probed, while a waiter before us left it alone.
    free_since: Option<Instant>,
    /// Records that could not be read when we looked for a deadlock.
    unchecked: Vec<PathBuf>,
    /// The process for which the lock will be held. When it has ended, the wait is over.
    beneficiary: Option<Process>,
}

/// How far a wait has come.
enum Stage {
    /// Find the waiter before us.
    Look,
    /// This waiter is.
    Behind(Predecessor),
    /// We are the first in the queue, but the lock is held. Without a helper, for example because the system forbids new
    /// processes, the lock is polled.
    Front(Option<FlockHelper>),
    /// All files are ours.
    Ours,
}

impl Waiter {
    pub(super) fn new(
        acquire: Acquire,
        ticket: Option<Ticket>,
        timeout: Option<Duration>,
        unchecked: Vec<PathBuf>,
    ) -> Self {
        let begun = Instant::now();
        Self {
            stage: Stage::Look,
            acquire,
            ticket,
            taker: None,
            begun,
            timeout,
            // Another request may have closed a cycle with ours when the two could not see each other.
            looked: begun.checked_sub(Wait::TICK).unwrap_or(begun),
            free_since: None,
            unchecked,
            beneficiary: None,
        }
    }

    /// Waits only as long as this process runs; to be called by the process that waits.
    pub(crate) fn wait_only_for(&mut self, process: &Process) {
        self.beneficiary = Some(process.reopened());
    }

    /// Fails if the process for which the lock was requested has ended.
    fn still_wanted(&self) -> Result<()> {
        match self.beneficiary.as_ref().filter(|process| process.has_ended()) {
            Some(process) => Err(Error::NoProcess { pid: process.pid() }),
            None => Ok(()),
        }
    }

    /// Does what can be done without waiting; `true` when all files are ours.
    ///
    /// # Errors
    /// As [`super::acquire()`], without those of a wait that took too long.
    pub(crate) fn step(&mut self) -> Result<bool> {
        let happened = self.happened()?;
        let is_due = self.looked.elapsed() >= Wait::TICK;
        if is_due {
            self.looked = Instant::now();
            self.look_again()?;
        }
        match std::mem::replace(&mut self.stage, Stage::Look) {
            Stage::Front(helper) if happened || helper.is_none() => self.take(helper),
            Stage::Front(helper) if is_due => self.stand_by(helper),
            Stage::Behind(before) if !happened => self.wait_behind(before, is_due),
            Stage::Look | Stage::Behind(_) => self.go_on(),
            stage => {
                self.stage = stage;
                Ok(matches!(self.stage, Stage::Ours))
            }
        }
    }

    /// From time to time: a cycle that could not be seen before is an error, and a ticket that is gone is replaced.
    fn look_again(&mut self) -> Result<()> {
        self.acquire.wake_keepers();
        let is_first_look = self.begun.elapsed() < Wait::TICK;
        let number = self.ticket.as_ref().map(|ticket| ticket.number);
        self.unchecked = self.acquire.refuse_cycle(number, !is_first_look)?;
        if self.ticket.as_ref().is_some_and(|ticket| !ticket.is_in_place()) {
            // We were passed while we could not run, or somebody removed the queue.
            let new = self.acquire.queue_up()?;
            self.ticket = new;
            self.stage = Stage::Look;
        }
        Ok(())
    }

    /// Waits behind the next one before us, or tries the lock if there is nobody.
    fn go_on(&mut self) -> Result<bool> {
        let own = self.ticket.as_ref().map(|ticket| ticket.number);
        match own.and_then(|own| self.acquire.predecessor(Some(own))) {
            Some(before) => {
                self.stage = Stage::Behind(before);
                Ok(false)
            }
            None => self.take(None),
        }
    }

    /// The waiter before us has not gone. Takes the lock all the same if that one leaves it alone.
    fn wait_behind(&mut self, before: Predecessor, is_due: bool) -> Result<bool> {
        if is_due || before.writer.is_none() {
            let number = before.number;
            self.go_on()?;
            let Stage::Behind(still) = &self.stage else { return Ok(matches!(self.stage, Stage::Ours)) };
            if still.number != number {
                self.free_since = None;
                return Ok(false);
            }
        } else {
            self.stage = Stage::Behind(before);
        }
        let Stage::Behind(before) = &self.stage else { return Ok(false) };
        let own = self.ticket.as_ref().map(|ticket| ticket.number);
        // A few probers are enough.
        let is_near = || {
            let resources = &self.acquire.plan.resources;
            self.acquire.queue().is_some_and(|queue| queue.count_before(before.number, resources) < PROBERS)
        };
        let runs = before.runs;
        if runs && !(is_due && is_near()) {
            return Ok(false);
        }
        let patience = if runs { SEEN_PATIENCE } else { UNSEEN_PATIENCE };
        if !self.acquire.take_if_left(&mut self.free_since, patience)? {
            return Ok(false);
        }
        self.acquire.pass_before(own, runs);
        self.stage = Stage::Ours;
        Ok(true)
    }

    /// The lock itself: in the kernel's queue, in which users of flock(1) stand as well. Tries, or begins to wait again.
    fn take(&mut self, helper: Option<FlockHelper>) -> Result<bool> {
        // Only the last one: a lock that another helper took was released.
        self.taker = helper.as_ref().map(FlockHelper::pid);
        let works = helper.is_none_or(FlockHelper::stop);
        let Some(busy) = self.acquire.try_all()? else {
            self.stage = Stage::Ours;
            return Ok(true);
        };
        let part = &self.acquire.parts[busy];
        // One that was killed is replaced the next time, so that those that are always killed do not keep us busy.
        let start = || FlockHelper::start(part.file.file(), part.plan.mode == Mode::Exclusive).ok();
        self.stage = Stage::Front(works.then(start).flatten());
        Ok(false)
    }

    /// The helper has not told that it got the lock, but it may have: it was stopped before it could.
    fn stand_by(&mut self, helper: Option<FlockHelper>) -> Result<bool> {
        let is_ours = self.acquire.try_all()?.is_none();
        if is_ours {
            return self.take(helper);
        }
        self.stage = Stage::Front(helper);
        Ok(false)
    }

    /// The event to wait for, unless time must wake us.
    pub(crate) fn event(&self) -> Option<Event<'_>> {
        match &self.stage {
            Stage::Behind(before) => before.writer.as_ref().map(|writer| Event::ReaderGone(sys::fd(writer))),
            Stage::Front(helper) => helper.as_ref().map(|helper| Event::Readable(helper.fd())),
            Stage::Look | Stage::Ours => None,
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
    pub(crate) fn pause(&self, clock: &mut Clock, report: &mut dyn FnMut(&Waiting<'_>)) -> Result<Duration> {
        /// How often to look if no event can wake us.
        const BLIND: Duration = Duration::from_millis(20);
        let (acquire, ticket) = (&self.acquire, self.ticket.as_ref());
        let look = || acquire.look(ticket);
        let pause = clock.pause(&Waiting::new(&acquire.what, &look, &self.unchecked), report)?;
        let pause = pause.min(Wait::TICK.saturating_sub(self.looked.elapsed()));
        Ok(match &self.stage {
            Stage::Behind(before) if !before.runs => pause.min(PROBE),
            _ if self.event().is_none() => pause.min(BLIND),
            _ => pause,
        })
    }

    /// All files are ours: takes a number and a slot. The place in the queue is given up when the second value is dropped.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the system has no random numbers: then the lock was released.
    pub(crate) fn hold(mut self) -> Result<(Box<Held>, Option<Ticket>)> {
        self.acquire.record.takers.extend(self.taker);
        Ok((self.acquire.hold()?, self.ticket))
    }

    /// Waits until the lock is ours.
    ///
    /// # Errors
    /// As [`super::acquire()`].
    pub(crate) fn wait(self, wait: &mut Wait<'_>) -> Result<Box<Held>> {
        self.wait_keeping_place(wait).map(|(held, _place)| held)
    }

    /// As [`Waiter::wait`]; the ticket is removed when the second value is dropped. A search for the hold's token finds one or the
    /// other, if it comes after the hold's record was published.
    ///
    /// # Errors
    /// As [`super::acquire()`].
    pub(crate) fn wait_keeping_place(mut self, wait: &mut Wait<'_>) -> Result<(Box<Held>, Option<Ticket>)> {
        if let Some(signals) = wait.signals {
            signals.catch(sys::INTERRUPTS.iter().copied());
        }
        let mut clock = Clock::new(self.begun, self.timeout);
        while !self.step()? {
            self.still_wanted()?;
            let pause = self.pause(&mut clock, wait.report)?;
            let signal = wait.signals.map(|signals| Event::Readable(signals.fd()));
            let end = self.beneficiary.as_ref().and_then(Process::end);
            let events: Vec<Event<'_>> = self.event().into_iter().chain(end).chain(signal).collect();
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
        let token = Token::new(
            self.ticket.as_ref().map_or(0, |ticket| ticket.number),
            self.acquire.table.as_ref().map_or(0, Table::place),
        )?;
        self.acquire.record.token_sha256 = Some(token.digest(&self.acquire.record.resources));
        self.acquire.token = Some(token.clone());
        if let Some(ticket) = &self.ticket {
            ticket.rewrite(&self.acquire.record);
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
        let record = &mut self.acquire.record;
        (record.pid, record.waiter, record.boot_ms) = (std::process::id(), None, sys::boot_ms());
        // The holds around its parent do not wait for it.
        (record.inside, record.elsewhere) = (Vec::new(), Vec::new());
        self.acquire.visits = Visits::default();
        if let Some(ticket) = &self.ticket {
            ticket.rewrite(&self.acquire.record);
        }
    }

    /// In the parent of such a child: ticket and lock, which the child may have by now, are the child's to release.
    pub(crate) fn leave_to_child(mut self) {
        self.acquire.parts.clear();
        std::mem::forget(self.ticket.take());
    }
}

impl Acquire {
    /// Takes a place in the queue, if there is one for us.
    pub(super) fn queue_up(&self) -> Result<Option<Ticket>> {
        let Some(queue) = self.queue() else { return Ok(None) };
        match queue.enter(&self.record, || self.refuse_cycle(None, true).map(drop)) {
            Ok(ticket) => Ok(Some(ticket)),
            Err(deadlock @ Error::Deadlock { .. }) => Err(deadlock),
            // Without a queue the kernel's must do: order is not kept, exclusion is.
            Err(_) => Ok(None),
        }
    }
}
