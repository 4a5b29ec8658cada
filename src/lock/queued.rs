//! How is a place in the queue waited out? Our turn comes when nobody is before us; then the kernel's lock is waited for.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use super::{
    Wait, Waiting,
    attempt::Acquire,
    family::Token,
    held::Held,
    queue::{self, Ticket},
};
use crate::{
    error::{Error, Result},
    holder::{Holder, Mode},
    sys::{self, Event, FdNumber, FlockHelper, Signals},
};

/// A place in the queue: somebody is before us.
pub(crate) struct Queued {
    pub(super) acquire: Acquire,
    pub(super) record: Holder,
    /// `None` where there is no queue: then the kernel's must do.
    pub(super) ticket: Option<Ticket>,
    pub(super) begun: Instant,
    pub(super) timeout: Option<Duration>,
}

impl Queued {
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
        // A time beyond what the clock can tell is none.
        let deadline = self.timeout.and_then(|timeout| self.begun.checked_add(timeout));
        let mut clock = Clock { begun: self.begun, deadline, next_word: self.begun + Wait::GRACE };
        let ticket = self.ticket.take();
        self.record.takers.extend(self.acquire.wait(ticket.as_ref(), &mut clock, wait)?);
        Ok((self.acquire.hold(self.record)?, ticket))
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

/// When a wait began, ends, and has something to say.
struct Clock {
    begun: Instant,
    deadline: Option<Instant>,
    next_word: Instant,
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
}
