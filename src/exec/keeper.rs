//! Replaces a wrapper that was killed: the keeper holds the lock until the command has ended, and then does what the
//! wrapper would have done.
//!
//! It is made when the command has run for a moment, and waits for the wrapper's end of their channel to close: a
//! wrapper that ends otherwise than by being killed has killed its keeper before.

use std::time::{Duration, Instant};

use super::{
    Ending, RunLifecycle, Task,
    channel::{Message, is_for_the_command, receive, send},
    tree::Limit,
};
use crate::sys::{self, Channel, Event, Process, Signals};

/// How often the keeper looks whether a stopped command goes on, and whether those inside have ended.
const LOOK_AT_STOPPED: Duration = Duration::from_millis(50);

/// How often it looks whether the wrapper is stopped and has something to do.
const LOOK_AT_WRAPPER: Duration = Duration::from_millis(250);

/// The keeper's side.
pub(super) struct Keeper<'a> {
    pub(super) task: &'a Task,
    pub(super) command: Process,
    /// When it began to run.
    pub(super) begun: Instant,
    pub(super) signals: Signals,
    pub(super) channel: Channel,
    pub(super) wrapper: u32,
    pub(super) lifecycle: &'a mut dyn RunLifecycle,
}

impl Keeper<'_> {
    pub(super) fn run(mut self) {
        let limit = Limit::new(self.task, self.begun);
        let mut stopped = false;
        let mut looked = Instant::now();
        let mut ending = None;
        loop {
            let events = [Event::Readable(self.signals.fd()), Event::Readable(sys::fd(&self.channel))];
            let pause = if stopped { LOOK_AT_STOPPED } else { LOOK_AT_WRAPPER };
            let Ok(happened) = sys::poll(&events, Some(pause)) else { continue };
            if stopped && !self.command.is_stopped() {
                // The keeper was continued or killed without the wrapper. The wrapper must go on, too, or the lock would never be
                // released.
                stopped = false;
                if sys::parent() == self.wrapper {
                    sys::send(self.wrapper, sys::CONTINUE);
                }
            }
            if looked.elapsed() >= LOOK_AT_WRAPPER {
                looked = Instant::now();
                // A stopped keeper could neither see the command's end nor end it.
                if limit.is_due(looked) || self.command.has_ended() {
                    self.wake_wrapper();
                }
            }
            self.report_signals();
            if happened[1] {
                match receive(&mut self.channel) {
                    Some(Message::Ask) => {
                        self.report_signals();
                        send(&mut self.channel, Message::Answer);
                    }
                    Some(Message::Stopped) => stopped = true,
                    Some(Message::Exited(status)) => ending = Some(Ending::Exited(status)),
                    Some(Message::Died(signal)) => ending = Some(Ending::Signaled(signal)),
                    Some(Message::Overtime) => ending = Some(Ending::Overtime),
                    Some(Message::Signal(_) | Message::Answer) => {}
                    None => return self.replace_wrapper(limit, ending),
                }
            }
        }
    }

    /// Makes the wrapper go on, if it is stopped.
    fn wake_wrapper(&self) {
        if sys::parent() == self.wrapper && sys::process_state(self.wrapper).is_some_and(|state| state.stopped) {
            sys::send(self.wrapper, sys::CONTINUE);
        }
    }

    fn report_signals(&mut self) {
        for received in self.signals.take().into_iter().filter(is_for_the_command) {
            send(&mut self.channel, Message::Signal(received.signal));
        }
    }

    /// The wrapper was killed, or has left the hold to this process with how the command ended.
    fn replace_wrapper(self, mut limit: Limit, ending: Option<Ending>) {
        self.lifecycle.replace(ending.is_some());
        if ending.is_some() {
            // A reader of the command's output does not wait for this process.
            drop(sys::leave_streams());
        }
        loop {
            let now = Instant::now();
            let ended = self.command.has_ended();
            // The parents of the command's descendants have ended, so descent shows nothing any more.
            let inside = if ended && limit.is_due(now) { self.lifecycle.those_inside() } else { Vec::new() };
            let tree = || if ended { inside.clone() } else { self.command.tree() };
            let all_gone = limit.enforce(now, &tree);
            if ended && all_gone && self.lifecycle.close() {
                break;
            }
            let timeout = limit.next().map(|next| next.saturating_duration_since(now));
            // Alone we cannot know what was sent to the whole group, which the command got itself: nothing is passed on.
            if ended {
                let pause = timeout.map_or(LOOK_AT_STOPPED, |timeout| timeout.min(LOOK_AT_STOPPED));
                drop(sys::poll(&[Event::Readable(self.signals.fd())], Some(pause)));
            } else {
                self.command.wait(&self.signals, timeout);
            }
            drop(self.signals.take());
        }
        self.lifecycle.record_end(ending);
        self.lifecycle.release();
    }
}
