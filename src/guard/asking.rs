//! Waits for a lock within a program: first in the line of this process, then in the queue of all; blocking, or as a future.
//!
//! [`Asking::step`] does what can be done without waiting; what it does is short (some files, some locks that are only tried).
//! What to wait for it says itself. Dropped at any point, it leaves nothing behind: the helper process is ended, the lock let
//! go should it have come in that instant, the place in the queue and the one in line are given up, in this order.

use std::{
    sync::Arc,
    task::{Wake, Waker},
    thread::{self, Thread},
    time::{Duration, Instant},
};

use super::{Guard, Interrupted, Notice, Terms, admission, lock::Lock};
use crate::{
    error::{Error, Result},
    lock::{Asker, Clock, Entered, Held, Manner, Queued, Request, Turn, Waiting},
    sys,
};

/// How a program is admitted.
const TERMS: Terms<'_> =
    Terms { interrupted: Interrupted::Recover, expect: None, has_moved_head: false, reports_acquisition: true };

/// A request for a lock under way.
pub(super) struct Asking {
    // In this order they are given up.
    queued: Option<Box<Queued>>,
    turn: Option<Turn>,
    lock: Lock,
    what: String,
    clock: Clock,
    begun: Instant,
}

impl Asking {
    /// Takes a place in line; nobody has looked yet whether it is the first.
    pub(super) fn new(lock: &Lock, manner: Manner) -> Result<Self> {
        let site = lock.own_site()?;
        let begun = Instant::now();
        let clock = Clock::new(begun, lock.request.timeout);
        let turn = Turn::ask(site.what(), site.resources()?, manner, lock.owner())?;
        if turn.is_none() {
            let (holders, ahead) = site.look();
            return Err(Error::Busy { what: site.what().to_owned(), holders, ahead, waited: Duration::ZERO });
        }
        let what = site.what().to_owned();
        Ok(Self { queued: None, turn, lock: lock.clone(), what, clock, begun })
    }

    /// Tries without waiting; if it `may_block`, for a second if only a waiter is in the way that cannot be seen to run.
    pub(super) fn try_once(lock: &Lock, may_block: bool) -> Result<Guard> {
        let mut asking = Self::new(lock, Manner::Try)?;
        let once = Request { timeout: Some(Duration::ZERO), ..lock.request.clone() };
        match asking.enter(&once, may_block)? {
            Some(guard) => Ok(guard),
            // Who only tries is never queued.
            None => {
                Err(Error::Busy { what: asking.what, holders: Vec::new(), ahead: Vec::new(), waited: Duration::ZERO })
            }
        }
    }

    /// Does what can be done without waiting; `None` where it has to wait. In line, `waker` is woken when there is more to do.
    pub(super) fn step(&mut self, waker: &Waker) -> Result<Option<Guard>> {
        if self.queued.is_none() {
            if !self.turn_has_come(waker) {
                return Ok(None);
            }
            // Time is kept here: what was waited in line counts.
            let request = Request { timeout: None, ..self.lock.request.clone() };
            if let Some(guard) = self.enter(&request, false)? {
                return Ok(Some(guard));
            }
        }
        let Some(queued) = &mut self.queued else { return Ok(None) };
        if !queued.step()? {
            return Ok(None);
        }
        let Some(queued) = self.queued.take() else { return Ok(None) };
        // The place in the queue is kept until the hold is announced.
        let (held, _place) = queued.hold()?;
        self.begin(held).map(Some)
    }

    /// Tells whether it is our turn in this process; if not, `waker` is woken when it is.
    pub(super) fn turn_has_come(&self, waker: &Waker) -> bool {
        self.turn.as_ref().is_none_or(|turn| turn.has_come(waker))
    }

    /// Our place in the queue of all processes, once it is our turn in this one.
    pub(super) fn queued(&self) -> Option<&Queued> {
        self.queued.as_deref()
    }

    /// How long to wait at most; tells how it stands when that is due.
    ///
    /// # Errors
    /// [`Error::Busy`] when the time is over.
    pub(super) fn pause(&mut self) -> Result<Duration> {
        let tell = &mut |waiting: &Waiting<'_>| (self.lock.tell)(Notice::Waiting(waiting));
        if let Some(queued) = &self.queued {
            return queued.pause(&mut self.clock, tell);
        }
        let asked = &self.lock;
        let look = || asked.own_site().map(|site| site.look()).unwrap_or_default();
        self.clock.pause(&Waiting::new(&self.what, &look, &[]), tell)
    }

    /// Waits in this thread.
    pub(super) fn wait_blocking(mut self) -> Result<Guard> {
        if let Some(turn) = &self.turn {
            turn.may_block()?;
        }
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        loop {
            if let Some(guard) = self.step(&waker)? {
                return Ok(guard);
            }
            let pause = self.pause()?;
            match self.queued().map(Queued::event) {
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
        let holds = self.turn.as_ref().map(Turn::around).unwrap_or_default();
        let context = self.lock.context();
        context.map_or(Ok(()), |context| admission::before(context, request, TERMS))?;
        match self.lock.own_site()?.enter(request, &Asker::Part { holds: &holds, may_block })? {
            Entered::Held(held) => self.begin(held).map(Some),
            Entered::Inside(inside) => {
                context.map_or(Ok(()), |context| admission::enter_inside(context, request, TERMS))?;
                Ok(self.turn.take().map(|turn| Guard::inside(self.lock.clone(), turn, inside)))
            }
            Entered::Queued(queued) => {
                self.queued = Some(queued);
                Ok(None)
            }
        }
    }

    /// The lock is ours: what is done when a hold begins.
    fn begin(&mut self, mut held: Box<Held>) -> Result<Guard> {
        let lock = &self.lock;
        let id = lock.own_site()?.id_of(&held);
        let turn = self.turn.take();
        let variables = super::environment(&lock.path(), &held).to_vec();
        let turn = turn.inspect(|turn| turn.holds(id, variables));
        let waited = self.begun.elapsed();
        let Some(context) = lock.context() else {
            (lock.tell)(Notice::Acquired(waited));
            held.troubles.iter().for_each(|trouble| (lock.tell)(Notice::Trouble(trouble)));
            for trouble in [held.announce(), lock.hide()].into_iter().filter_map(Result::err) {
                (lock.tell)(Notice::Trouble(&trouble));
            }
            return Ok(Guard::of_path(lock.clone(), turn, held));
        };
        let mut admitted = admission::enter(context, held, waited, TERMS)?;
        admitted.announce();
        Ok(Guard::of_repo(lock.clone(), turn, admitted.rest()))
    }
}

/// Wakes a thread that waits in line.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
