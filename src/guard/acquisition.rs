//! Waits for a lock within a program: first in the line of this process, then in the queue of all; blocking, or as a future.
//!
//! [`Acquisition::step`] does all that needs no waiting, which is short: some files, and some locks that are only tried. It also
//! tells what to wait for. Dropped at any point, it leaves nothing behind: it ends the helper process, releases a lock that came in
//! that instant, and leaves the queue and the line of this process, in this order.

use std::{
    sync::Arc,
    task::{Wake, Waker},
    thread::{self, Thread},
    time::{Duration, Instant},
};

use super::{Guard, Interrupted, Notice, Terms, admission, lock::Lock};
use crate::{
    error::{Error, Result},
    lock::{Asker, Clock, Entered, Held, LocalTicket, Manner, Request, Waiter, Waiting},
    sys,
};

/// How a program is admitted.
const TERMS: Terms<'_> =
    Terms { interrupted: Interrupted::Recover, expect: None, has_moved_head: false, reports_acquisition: true };

/// A request for a lock under way.
pub(super) struct Acquisition {
    // In this order they are given up.
    waiter: Option<Box<Waiter>>,
    ticket: Option<LocalTicket>,
    lock: Lock,
    what: String,
    clock: Clock,
    begun: Instant,
}

impl Acquisition {
    /// Takes a place in line; nobody has looked yet whether it is the first.
    pub(super) fn new(lock: &Lock, manner: Manner) -> Result<Self> {
        let plan = lock.plan()?;
        let begun = Instant::now();
        let clock = Clock::new(begun, lock.request.timeout);
        let ticket = LocalTicket::ask(plan.what(), plan.resources()?, manner, lock.owner())?;
        if ticket.is_none() {
            let (holders, ahead) = plan.look();
            return Err(Error::Busy { what: plan.what().to_owned(), holders, ahead, waited: Duration::ZERO });
        }
        let what = plan.what().to_owned();
        Ok(Self { waiter: None, ticket, lock: lock.clone(), what, clock, begun })
    }

    /// Tries without waiting; if it `may_block`, for a second if only a waiter is in the way that cannot be seen to run.
    pub(super) fn try_once(lock: &Lock, may_block: bool) -> Result<Guard> {
        let mut acquisition = Self::new(lock, Manner::Try)?;
        let once = Request { timeout: Some(Duration::ZERO), ..lock.request.clone() };
        match acquisition.enter(&once, may_block)? {
            Some(guard) => Ok(guard),
            // `try_acquire` never queues.
            None => Err(Error::Busy {
                what: acquisition.what,
                holders: Vec::new(),
                ahead: Vec::new(),
                waited: Duration::ZERO,
            }),
        }
    }

    /// Does all that needs no waiting; `None` if it must wait. In the line of this process, `waker` is woken when its turn comes.
    pub(super) fn step(&mut self, waker: &Waker) -> Result<Option<Guard>> {
        if self.waiter.is_none() {
            if !self.turn_has_come(waker) {
                return Ok(None);
            }
            // Time is kept here: what was waited in line counts.
            let request = Request { timeout: None, ..self.lock.request.clone() };
            if let Some(guard) = self.enter(&request, false)? {
                return Ok(Some(guard));
            }
        }
        let Some(waiter) = &mut self.waiter else { return Ok(None) };
        if !waiter.step()? {
            return Ok(None);
        }
        let Some(waiter) = self.waiter.take() else { return Ok(None) };
        // The place in the queue is kept until the hold is announced.
        let (held, _place) = waiter.hold()?;
        self.begin(held).map(Some)
    }

    /// Tells whether it is our turn in this process; if not, `waker` is woken when it is.
    pub(super) fn turn_has_come(&self, waker: &Waker) -> bool {
        self.ticket.as_ref().is_none_or(|ticket| ticket.has_come(waker))
    }

    /// Our place in the queue of all processes, once it is our turn in this one.
    pub(super) fn waiter(&self) -> Option<&Waiter> {
        self.waiter.as_deref()
    }

    /// How long to wait at most; tells how it stands when that is due.
    ///
    /// # Errors
    /// [`Error::Busy`] when the time is over.
    pub(super) fn pause(&mut self) -> Result<Duration> {
        let report = &mut |waiting: &Waiting<'_>| (self.lock.observer)(Notice::Waiting(waiting));
        if let Some(waiter) = &self.waiter {
            return waiter.pause(&mut self.clock, report);
        }
        let asked = &self.lock;
        let look = || asked.plan().map(|plan| plan.look()).unwrap_or_default();
        self.clock.pause(&Waiting::new(&self.what, &look, &[]), report)
    }

    /// Waits in this thread.
    pub(super) fn wait_blocking(mut self) -> Result<Guard> {
        if let Some(ticket) = &self.ticket {
            ticket.may_block()?;
        }
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        loop {
            if let Some(guard) = self.step(&waker)? {
                return Ok(guard);
            }
            let pause = self.pause()?;
            match self.waiter().map(Waiter::event) {
                // Woken by what came before us in line.
                None => thread::park_timeout(pause),
                Some(event) => {
                    let events: Vec<_> = event.into_iter().collect();
                    sys::poll(&events, Some(pause)).map_err(Error::io("wait for", self.lock.path()))?;
                }
            }
        }
    }

    /// It is our turn in this process: asks where all processes do.
    fn enter(&mut self, request: &Request, may_block: bool) -> Result<Option<Guard>> {
        let holds = self.ticket.as_ref().map(LocalTicket::around).unwrap_or_default();
        let context = self.lock.context();
        context.map_or(Ok(()), |context| admission::before(context, request, TERMS))?;
        match self.lock.plan()?.enter(request, &Asker::Part { holds: &holds, may_block })? {
            Entered::Held(held) => self.begin(held).map(Some),
            Entered::Inside(inside) => {
                context.map_or(Ok(()), |context| admission::enter_inside(context, request, TERMS))?;
                Ok(self.ticket.take().map(|ticket| Guard::inside(self.lock.clone(), ticket, inside)))
            }
            Entered::Waiting(waiter) => {
                self.waiter = Some(waiter);
                Ok(None)
            }
        }
    }

    /// The lock is ours: what is done when a hold begins.
    fn begin(&mut self, mut held: Box<Held>) -> Result<Guard> {
        let lock = &self.lock;
        let id = lock.plan()?.id_of(&held);
        let ticket = self.ticket.take();
        let variables = super::environment(&lock.path(), &held).to_vec();
        let ticket = ticket.inspect(|ticket| ticket.holds(id, variables));
        let waited = self.begun.elapsed();
        let Some(context) = lock.context() else {
            (lock.observer)(Notice::Acquired(waited));
            held.troubles.iter().for_each(|trouble| (lock.observer)(Notice::Trouble(trouble)));
            for trouble in [held.publish(), lock.hide()].into_iter().filter_map(Result::err) {
                (lock.observer)(Notice::Trouble(&trouble));
            }
            return Ok(Guard::of_path(lock.clone(), ticket, held));
        };
        let mut admitted = admission::enter(context, held, waited, TERMS)?;
        admitted.publish();
        Ok(Guard::of_repo(lock.clone(), ticket, admitted.rest()))
    }
}

/// Wakes a thread that waits in line.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
