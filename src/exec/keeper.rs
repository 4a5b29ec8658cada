//! Who looks after the command? The *wrapper*, who was called and is its parent; and the *keeper*, a child of the wrapper,
//! should the wrapper be killed.
//!
//! The keeper is made before the command starts and needs to know nothing but its process. It waits for the wrapper's
//! end of their channel to close. When that happens before the wrapper said that it lets go, the wrapper was killed: the
//! keeper holds the lock until the command has ended, and then does what the wrapper would have done.

use std::{
    ffi::OsString,
    io::{self, Read as _, Write as _},
    time::{Duration, Instant},
};

use super::{
    Duty, Ending, Run, Task, spawn,
    signals::{Pending, Witness},
    tree::Limit,
};
use crate::sys::{self, Channel, ChildEvent, Event, Forked, Process, Received, Signals};

/// What wrapper and keeper tell each other, five bytes each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Message {
    /// Wrapper: the command runs, as this process.
    Started(u32),
    /// Wrapper: all is written down, the lock is being let go.
    LetGo,
    /// Wrapper: the command was stopped, and so am I.
    Stopped,
    /// Keeper: this signal arrived.
    Signal(i32),
}

impl Message {
    const BYTES: usize = 5;

    fn encode(self) -> [u8; Self::BYTES] {
        let (kind, value) = match self {
            Self::Started(pid) => (0, pid),
            Self::LetGo => (1, 0),
            Self::Stopped => (2, 0),
            Self::Signal(signal) => (3, signal.cast_unsigned()),
        };
        let value = value.to_le_bytes();
        [kind, value[0], value[1], value[2], value[3]]
    }

    fn decode(bytes: [u8; Self::BYTES]) -> Self {
        let value = u32::from_le_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]);
        match bytes[0] {
            0 => Self::Started(value),
            1 => Self::LetGo,
            2 => Self::Stopped,
            _ => Self::Signal(value.cast_signed()),
        }
    }
}

/// How often the keeper looks whether a stopped command goes on.
const LOOK: Duration = Duration::from_millis(50);

/// Sends a message; a partner that is gone does not need it.
fn tell(channel: &mut Channel, message: Message) {
    let _ = channel.write_all(&message.encode());
}

/// Receives a message; `None` when the partner is gone.
fn hear(channel: &mut Channel) -> Option<Message> {
    let mut bytes = [0; Message::BYTES];
    channel.read_exact(&mut bytes).ok().map(|()| Message::decode(bytes))
}

pub(super) fn run(
    task: &Task,
    environment: &[(&str, OsString)],
    mut signals: Signals,
    duty: &mut dyn Duty,
) -> io::Result<Run> {
    let (mut ours, theirs) = sys::channel()?;
    let wrapper = std::process::id();
    sys::adopt_orphans();
    // No signal may reach the keeper before it has a pipe of its own.
    let keeper = sys::with_signals_blocked(|| {
        signals.catch(sys::FORWARDED);
        signals.catch(&[sys::CHILD_CHANGED]);
        match sys::fork()? {
            Forked::Parent(keeper) => io::Result::Ok(Some(keeper)),
            Forked::Child => signals.renew().map(|()| None).or(Ok(None)),
        }
    })?;
    let Some(keeper) = keeper else {
        drop(ours);
        Keeper { task, signals, channel: theirs, wrapper, duty }.run();
        sys::exit_now(0)
    };
    drop(theirs);
    duty.begin();
    let mut keeper = Some(keeper);
    let (ending, got) = match spawn(task, environment, &duty.files()) {
        Ok(command) => {
            tell(&mut ours, Message::Started(command.id()));
            let mut watch = Watch {
                command: command.id(),
                keeper: &mut keeper,
                channel: Some(&mut ours),
                signals: &signals,
                limit: Limit::new(task, Instant::now()),
                pending: Pending::default(),
                got: Vec::new(),
            };
            (watch.until_end(), watch.got)
        }
        Err(ending) => (ending, Vec::new()),
    };
    let ending = duty.write_down(Some(ending));
    tell(&mut ours, Message::LetGo);
    duty.let_go();
    if let Some(keeper) = keeper {
        // It has nothing left to do, and must not be left for somebody else to reap.
        let _ = sys::send(keeper, sys::KILL);
        sys::reap(keeper);
    }
    let die_of = match ending {
        Ending::Signaled(signal) if sys::DIE_OF.contains(&signal) && got.contains(&signal) => Some(signal),
        _ => None,
    };
    Ok(Run { ending, die_of })
}

/// The keeper's side.
struct Keeper<'a> {
    task: &'a Task,
    signals: Signals,
    channel: Channel,
    wrapper: u32,
    duty: &'a mut dyn Duty,
}

impl Keeper<'_> {
    fn run(mut self) {
        let mut command: Option<(Process, Instant)> = None;
        let mut stopped = false;
        loop {
            let events = [Event::Readable(self.signals.fd()), Event::Readable(sys::fd(&self.channel))];
            let Ok(happened) = sys::poll(&events, stopped.then_some(LOOK)) else { continue };
            if stopped && command.as_ref().is_some_and(|(command, _)| !command.is_stopped()) {
                // Continued or killed without the wrapper: it must go on, too, or the lock would never be let go.
                stopped = false;
                if sys::parent() == self.wrapper {
                    let _ = sys::send(self.wrapper, sys::CONTINUE);
                }
            }
            if happened[0] {
                for Received { signal, from_terminal } in self.signals.take() {
                    if !from_terminal && signal != sys::CHILD_CHANGED {
                        tell(&mut self.channel, Message::Signal(signal));
                    }
                }
            }
            if happened[1] {
                match hear(&mut self.channel) {
                    // The wrapper has not reaped it yet, so the number cannot mean another process.
                    Some(Message::Started(pid)) => command = Some((Process::open(pid), Instant::now())),
                    Some(Message::Stopped) => stopped = true,
                    Some(Message::LetGo) => return self.duty.let_go(),
                    Some(Message::Signal(_)) => {}
                    None => return self.replace_wrapper(command),
                }
            }
        }
    }

    /// The wrapper was killed.
    fn replace_wrapper(self, command: Option<(Process, Instant)>) {
        let Some((command, begun)) = command else {
            // Killed before it could tell whether the command runs: if it does, its own descriptors hold the lock.
            return;
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
            // What the terminal or the group sends, the command gets itself; what is sent to us alone is for it.
            if command.wait(&self.signals, timeout) {
                for Received { signal, from_terminal } in self.signals.take() {
                    if !from_terminal && signal != sys::CHILD_CHANGED {
                        command.send(signal);
                    }
                }
            }
        }
        self.duty.write_down(None);
        self.duty.let_go();
    }
}

/// The wrapper's side: looking after its child.
struct Watch<'a> {
    command: u32,
    /// Until it was reaped.
    keeper: &'a mut Option<u32>,
    /// To the keeper, as long as it lives.
    channel: Option<&'a mut Channel>,
    signals: &'a Signals,
    limit: Limit,
    pending: Pending,
    /// All signals that this process got itself.
    got: Vec<i32>,
}

impl Watch<'_> {
    fn until_end(&mut self) -> Ending {
        let mut ended = None;
        loop {
            while let Some((pid, event)) = sys::next_child_event() {
                let ours = pid == self.command;
                match event {
                    ChildEvent::Exited(status) if ours => ended = Some(Ending::Exited(status)),
                    ChildEvent::Signaled(signal) if ours => ended = Some(Ending::Signaled(signal)),
                    // Whoever started us sees the job as if it were the command.
                    ChildEvent::Stopped if ours => {
                        if let Some(channel) = self.channel.as_deref_mut() {
                            tell(channel, Message::Stopped);
                            let _ = sys::send(std::process::id(), sys::STOP);
                        }
                    }
                    ChildEvent::Exited(_) | ChildEvent::Signaled(_) if *self.keeper == Some(pid) => *self.keeper = None,
                    // An orphan of the command's that became ours.
                    _ => {}
                }
            }
            let now = Instant::now();
            let in_time = ended.is_some() && !self.limit.is_over();
            let all_gone = in_time || {
                let keeper = *self.keeper;
                self.limit.enforce(now, &|| {
                    sys::descendants(std::process::id()).into_iter().filter(|pid| Some(*pid) != keeper).collect()
                })
            };
            match ended.filter(|_| all_gone) {
                Some(_) if self.limit.is_over() => return Ending::Overtime,
                Some(ending) => return ending,
                None => {}
            }
            if ended.is_none() {
                for signal in self.pending.due(now, self.channel.is_none()) {
                    let _ = sys::send(self.command, signal);
                }
            }
            self.sleep(now);
        }
    }

    fn sleep(&mut self, now: Instant) {
        let wake = [self.limit.next(), self.pending.next()].into_iter().flatten().min();
        let timeout = wake.map(|wake| wake.saturating_duration_since(now));
        let channel = self.channel.as_deref().map(|channel| Event::Readable(sys::fd(channel)));
        let events: Vec<Event<'_>> = [Event::Readable(self.signals.fd())].into_iter().chain(channel).collect();
        let Ok(happened) = sys::poll(&events, timeout) else { return };
        let now = Instant::now();
        if happened[0] {
            for Received { signal, from_terminal } in self.signals.take() {
                if signal == sys::CHILD_CHANGED {
                    continue;
                }
                self.got.push(signal);
                if !from_terminal {
                    self.pending.note(signal, Witness::Wrapper, now);
                }
            }
        }
        if happened.get(1) == Some(&true) {
            match self.channel.as_deref_mut().and_then(hear) {
                Some(Message::Signal(signal)) => self.pending.note(signal, Witness::Keeper, now),
                Some(_) => {}
                None => self.channel = None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_channel() {
        for message in [Message::Started(4_000_000_000), Message::LetGo, Message::Stopped, Message::Signal(15)] {
            assert_eq!(Message::decode(message.encode()), message);
        }
    }
}
