//! What if the wrapper is killed? The keeper holds the lock until the command has ended, and then does what the wrapper
//! would have done.
//!
//! It is made before the command starts, and waits for the wrapper's end of their channel to close. When that happens
//! before the wrapper said that it lets go, the wrapper was killed.

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
    pub(super) signals: Signals,
    pub(super) channel: Channel,
    pub(super) wrapper: u32,
    pub(super) duty: &'a mut dyn Duty,
}

impl Keeper<'_> {
    pub(super) fn run(mut self) {
        let mut command: Option<(Process, Instant)> = None;
        let mut stopped = false;
        loop {
            let events = [Event::Readable(self.signals.fd()), Event::Readable(sys::fd(&self.channel))];
            let Ok(happened) = sys::poll(&events, stopped.then_some(LOOK)) else { continue };
            if stopped && command.as_ref().is_some_and(|(command, _)| !command.is_stopped()) {
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
                    // The wrapper has not reaped it yet, so the number cannot mean another process.
                    Some(Message::Started(pid)) => command = Some((Process::open(pid), Instant::now())),
                    Some(Message::Stopped) => stopped = true,
                    Some(Message::LetGo) => return self.duty.let_go(),
                    Some(Message::Signal(_) | Message::Answer) => {}
                    None => return self.replace_wrapper(command),
                }
            }
        }
    }

    /// The process that inherited the lock first.
    fn heir(&self) -> Option<Process> {
        let id = sys::identity(&self.duty.files().first()?.metadata().ok()?);
        let heirs = sys::descriptor_holders(id).into_iter().filter(|pid| *pid != std::process::id());
        let age = |pid: &u32| sys::process_state(*pid).map_or(u64::MAX, |state| state.started_ms);
        heirs.min_by_key(age).map(Process::open)
    }

    fn report_signals(&mut self) {
        for received in self.signals.take().into_iter().filter(is_for_the_command) {
            tell(&mut self.channel, Message::Signal(received.signal));
        }
    }

    /// The wrapper was killed.
    fn replace_wrapper(self, command: Option<(Process, Instant)>) {
        // Killed before it could tell: a command that it had just started is who has the lock's files from it.
        let Some((command, begun)) = command.or_else(|| Some((self.heir()?, Instant::now()))) else {
            return self.duty.let_go();
        };
        self.duty.replace();
        let mut limit = Limit::new(self.task, begun);
        loop {
            let now = Instant::now();
            let ended = command.has_ended();
            let all_gone = (ended && !limit.is_over()) || limit.enforce(now, &|| command.tree());
            if ended && all_gone {
                break;
            }
            let timeout = limit.next().map(|next| next.saturating_duration_since(now));
            // Alone we cannot know what was sent to the whole group, which the command got itself: nothing is passed on.
            command.wait(&self.signals, timeout);
            drop(self.signals.take());
        }
        self.duty.write_down(None);
        self.duty.let_go();
    }
}
