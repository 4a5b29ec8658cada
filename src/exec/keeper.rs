//! What if the wrapper is killed? The keeper holds the lock until the command has ended, and then does what the wrapper
//! would have done.
//!
//! It is made when the command has run for a moment, and waits for the wrapper's end of their channel to close: a
//! wrapper that ends otherwise than by being killed has killed its keeper before.

use std::time::{Duration, Instant};

use super::{
    Duty, Task,
    channel::{Message, hear, is_for_the_command, tell},
    tree::Limit,
};
use crate::sys::{self, Channel, Event, Process, Signals};

/// How often the keeper looks whether a stopped command goes on.
const LOOK: Duration = Duration::from_millis(50);

/// The keeper's side.
pub(super) struct Keeper<'a> {
    pub(super) task: &'a Task,
    pub(super) command: Process,
    /// When it began to run.
    pub(super) begun: Instant,
    pub(super) signals: Signals,
    pub(super) channel: Channel,
    pub(super) wrapper: u32,
    pub(super) duty: &'a mut dyn Duty,
}

impl Keeper<'_> {
    pub(super) fn run(mut self) {
        let mut stopped = false;
        loop {
            let events = [Event::Readable(self.signals.fd()), Event::Readable(sys::fd(&self.channel))];
            let Ok(happened) = sys::poll(&events, stopped.then_some(LOOK)) else { continue };
            if stopped && !self.command.is_stopped() {
                // Continued or killed without the wrapper: it must go on, too, or the lock would never be let go.
                stopped = false;
                if sys::parent() == self.wrapper {
                    sys::send(self.wrapper, sys::CONTINUE);
                }
            }
            self.report_signals();
            if happened[1] {
                match hear(&mut self.channel) {
                    Some(Message::Ask) => {
                        self.report_signals();
                        tell(&mut self.channel, Message::Answer);
                    }
                    Some(Message::Stopped) => stopped = true,
                    Some(Message::Signal(_) | Message::Answer) => {}
                    None => return self.replace_wrapper(),
                }
            }
        }
    }

    fn report_signals(&mut self) {
        for received in self.signals.take().into_iter().filter(is_for_the_command) {
            tell(&mut self.channel, Message::Signal(received.signal));
        }
    }

    /// The wrapper was killed.
    fn replace_wrapper(self) {
        self.duty.replace();
        let mut limit = Limit::new(self.task, self.begun);
        loop {
            let now = Instant::now();
            let ended = self.command.has_ended();
            let all_gone = (ended && !limit.is_over()) || limit.enforce(now, &|| self.command.tree());
            if ended && all_gone {
                break;
            }
            let timeout = limit.next().map(|next| next.saturating_duration_since(now));
            // Alone we cannot know what was sent to the whole group, which the command got itself: nothing is passed on.
            self.command.wait(&self.signals, timeout);
            drop(self.signals.take());
        }
        self.duty.write_down(None);
        self.duty.let_go();
    }
}
