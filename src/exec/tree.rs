//! Ends a command with everything below it: first by a request, then by force; never the caller's group.

use std::time::{Duration, Instant};

use super::Task;
use crate::sys;

/// How often to look whether the last descendant has gone.
const LOOK: Duration = Duration::from_millis(20);

/// A limit on how long a command may hold the lock.
#[derive(Debug)]
pub(super) struct Limit {
    state: State,
    kill_after: Duration,
}

#[derive(Debug)]
enum State {
    Unlimited,
    Until(Instant),
    /// Asked to end; killed at this time.
    Ending(Instant),
    /// Asked to end, never killed.
    Asked,
    Killing,
}

impl Limit {
    pub(super) fn new(task: &Task, begun: Instant) -> Self {
        // A time beyond what the clock can tell is none.
        let until = task.max_hold.and_then(|max| begun.checked_add(max));
        let state = until.map_or(State::Unlimited, State::Until);
        Self { state, kill_after: task.kill_after }
    }

    /// Tells whether the command was asked to end.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.state, State::Ending(_) | State::Asked | State::Killing)
    }

    /// Tells whether the command's time is over, even if nobody has asked it to end.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.is_over() || matches!(self.state, State::Until(time) if now >= time)
    }

    /// When to look again.
    pub(super) fn next(&self) -> Option<Instant> {
        match self.state {
            State::Unlimited => None,
            State::Until(time) => Some(time),
            State::Ending(_) | State::Asked | State::Killing => Some(Instant::now() + LOOK),
        }
    }

    /// Asks all processes that `tree` lists to end, now; they are killed later.
    pub(super) fn end_now(&mut self, now: Instant, tree: &dyn Fn() -> Vec<u32>) {
        for pid in send_all(sys::TERMINATE, tree) {
            // A stopped process sees the signal only when it goes on.
            sys::send(pid, sys::CONTINUE);
        }
        self.state = now.checked_add(self.kill_after).map_or(State::Asked, State::Ending);
    }

    /// Does what is due: asks, then kills, all processes that `tree` lists. Tells whether none is left of those.
    pub(super) fn enforce(&mut self, now: Instant, tree: &dyn Fn() -> Vec<u32>) -> bool {
        match self.state {
            State::Until(time) if now >= time => {
                self.end_now(now, tree);
                false
            }
            State::Ending(time) if now >= time => {
                self.state = State::Killing;
                send_all(sys::KILL, tree).is_empty()
            }
            State::Ending(_) | State::Asked => tree().is_empty(),
            State::Killing => send_all(sys::KILL, tree).is_empty(),
            State::Unlimited | State::Until(_) => true,
        }
    }
}

/// Sends a signal to all processes that `tree` lists, and returns them. One that has ended meanwhile needs none.
fn send_all(signal: i32, tree: &dyn Fn() -> Vec<u32>) -> Vec<u32> {
    tree()
        .into_iter()
        .inspect(|pid| {
            sys::send(*pid, signal);
        })
        .collect()
}
