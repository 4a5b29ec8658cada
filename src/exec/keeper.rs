//! Who looks after the command? The keeper, its parent; and the wrapper, should the keeper be killed.
//!
//! Both do it by the same code, [`Watch::until_end`].

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read as _, Write as _},
    time::Instant,
};

use super::{
    Duty, Ending, Run, Task, spawn,
    signals::{Pending, Witness},
    tree::Limit,
};
use crate::sys::{self, Channel, ChildEvent, Event, Forked, Received, Signals};

/// What wrapper and keeper tell each other, six bytes each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Message {
    /// Keeper: the command runs, as this process.
    Started(u32),
    /// Keeper: the command has ended, and the lock is free.
    Ended(Ending),
    /// Wrapper: this signal arrived.
    Signal(i32),
}

impl Message {
    const BYTES: usize = 6;

    fn encode(self) -> [u8; Self::BYTES] {
        let (kind, detail, value) = match self {
            Self::Started(pid) => (0, 0, pid.cast_signed()),
            Self::Signal(signal) => (1, 0, signal),
            Self::Ended(Ending::Exited(status)) => (2, 0, status),
            Self::Ended(Ending::Signaled(signal)) => (2, 1, signal),
            Self::Ended(Ending::Overtime) => (2, 2, 0),
            Self::Ended(Ending::NotFound) => (2, 3, 0),
            Self::Ended(Ending::NotExecutable) => (2, 4, 0),
            Self::Ended(Ending::Lost) => (2, 5, 0),
            Self::Ended(Ending::Failed) => (2, 6, 0),
        };
        let value = value.to_le_bytes();
        [kind, detail, value[0], value[1], value[2], value[3]]
    }

    fn decode(bytes: [u8; Self::BYTES]) -> Self {
        let value = i32::from_le_bytes([bytes[2], bytes[3], bytes[4], bytes[5]]);
        match (bytes[0], bytes[1]) {
            (0, _) => Self::Started(value.cast_unsigned()),
            (1, _) => Self::Signal(value),
            (_, 0) => Self::Ended(Ending::Exited(value)),
            (_, 1) => Self::Ended(Ending::Signaled(value)),
            (_, 2) => Self::Ended(Ending::Overtime),
            (_, 3) => Self::Ended(Ending::NotFound),
            (_, 4) => Self::Ended(Ending::NotExecutable),
            (_, 5) => Self::Ended(Ending::Lost),
            _ => Self::Ended(Ending::Failed),
        }
    }
}

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
    inherited: &[&File],
    mut signals: Signals,
    duty: &mut dyn Duty,
) -> io::Result<Run> {
    let (mut ours, theirs) = sys::channel()?;
    sys::adopt_orphans();
    let wrapper = std::process::id();
    // No signal may arrive in the keeper before it has a pipe of its own.
    let keeper = sys::with_signals_blocked(|| {
        signals.catch(sys::FORWARDED);
        signals.catch(&[sys::CHILD_CHANGED]);
        match sys::fork()? {
            Forked::Parent(keeper) => io::Result::Ok(Some(keeper)),
            Forked::Child => signals.renew().map(|()| None).or(Ok(None)),
        }
    })?;
    if let Some(keeper) = keeper {
        drop(theirs);
        return Ok(Wrapper { task, keeper, signals }.until_end(&mut ours, duty));
    }
    drop(ours);
    keep(task, environment, inherited, signals, duty, theirs, wrapper);
    sys::exit_now(0)
}

/// The keeper's life.
fn keep(
    task: &Task,
    environment: &[(&str, OsString)],
    inherited: &[&File],
    signals: Signals,
    duty: &mut dyn Duty,
    mut channel: Channel,
    wrapper: u32,
) {
    sys::adopt_orphans();
    duty.begin(std::process::id());
    let ending = match spawn(task, environment, inherited) {
        Ok(command) => {
            tell(&mut channel, Message::Started(command.id()));
            let limit = Limit::new(task, Instant::now());
            let watch = Watch { command: command.id(), signals: &signals, limit, pending: Pending::default() };
            watch.until_end(Some(Partner { channel: &mut channel, wrapper }))
        }
        Err(ending) => ending,
    };
    let ending = duty.end(ending);
    tell(&mut channel, Message::Ended(ending));
}

/// The wrapper's side while there is a keeper.
struct Wrapper<'a> {
    task: &'a Task,
    keeper: u32,
    signals: Signals,
}

impl Wrapper<'_> {
    fn until_end(self, channel: &mut Channel, duty: &mut dyn Duty) -> Run {
        let begun = Instant::now();
        let mut got = Vec::new();
        let mut command = None;
        let ending = loop {
            let Ok(happened) = sys::poll(&[Event::Readable(self.signals.fd()), Event::Readable(sys::fd(channel))], None)
            else {
                continue;
            };
            if happened[0] {
                for Received { signal, from_terminal } in self.signals.take() {
                    if signal == sys::CHILD_CHANGED {
                        continue;
                    }
                    got.push(signal);
                    if !from_terminal {
                        tell(channel, Message::Signal(signal));
                    }
                }
            }
            if happened[1] {
                match hear(channel) {
                    Some(Message::Started(pid)) => command = Some(pid),
                    Some(Message::Ended(ending)) => {
                        sys::reap(self.keeper);
                        break ending;
                    }
                    Some(Message::Signal(_)) => {}
                    None => break self.replace_keeper(command, begun, duty),
                }
            }
        };
        got.extend(self.signals.take().iter().map(|received| received.signal));
        let die_of = match ending {
            Ending::Signaled(signal) if sys::DIE_OF.contains(&signal) && got.contains(&signal) => Some(signal),
            _ => None,
        };
        Run { ending, die_of }
    }

    /// The keeper was killed: the command is our child now.
    fn replace_keeper(&self, command: Option<u32>, begun: Instant, duty: &mut dyn Duty) -> Ending {
        // Its children come to us while it dies; once it is reaped they are all here.
        sys::reap(self.keeper);
        // Killed before it could tell: a command that it had just started is then our only child.
        let command = command.or_else(|| sys::children(std::process::id()).first().copied());
        duty.begin(std::process::id());
        let ending = match command {
            Some(command) => {
                let limit = Limit::new(self.task, begun);
                let watch = Watch { command, signals: &self.signals, limit, pending: Pending::default() };
                watch.until_end(None)
            }
            None => Ending::Failed,
        };
        duty.end(ending)
    }
}

/// The wrapper, as the keeper sees it.
struct Partner<'a> {
    channel: &'a mut Channel,
    wrapper: u32,
}

impl Partner<'_> {
    /// Lets the wrapper stop or go on as the command does, so that a shell sees the job as if it were the command.
    fn follow(&self, signal: i32) {
        if sys::parent() == self.wrapper {
            let _ = sys::send(self.wrapper, signal);
        }
    }
}

/// Looking after a command that is our child.
struct Watch<'a> {
    command: u32,
    signals: &'a Signals,
    limit: Limit,
    pending: Pending,
}

impl Watch<'_> {
    fn until_end(mut self, mut partner: Option<Partner<'_>>) -> Ending {
        let mut ended = None;
        loop {
            while let Some((pid, event)) = sys::next_child_event() {
                let ours = pid == self.command;
                match event {
                    ChildEvent::Exited(status) if ours => ended = Some(Ending::Exited(status)),
                    ChildEvent::Signaled(signal) if ours => ended = Some(Ending::Signaled(signal)),
                    ChildEvent::Stopped | ChildEvent::Continued if ours => {
                        let signal = if event == ChildEvent::Stopped { sys::STOP } else { sys::CONTINUE };
                        partner.iter().for_each(|partner| partner.follow(signal));
                    }
                    // An orphan of the command's that became ours.
                    _ => {}
                }
            }
            let now = Instant::now();
            let in_time = ended.is_some() && !self.limit.is_over();
            let all_gone = in_time || self.limit.enforce(now);
            if let Some(ending) = ended.filter(|_| all_gone) {
                // Should the wrapper be stopped, it could not tell its caller that we are done.
                partner.iter().for_each(|partner| partner.follow(sys::CONTINUE));
                return if self.limit.is_over() { Ending::Overtime } else { ending };
            }
            if ended.is_none() {
                for signal in self.pending.due(now, partner.is_none()) {
                    let _ = sys::send(self.command, signal);
                }
            }
            self.sleep(&mut partner, now);
        }
    }

    fn sleep(&mut self, partner: &mut Option<Partner<'_>>, now: Instant) {
        let wake = [self.limit.next(), self.pending.next()].into_iter().flatten().min();
        let timeout = wake.map(|wake| wake.saturating_duration_since(now));
        let channel = partner.as_ref().map(|partner| Event::Readable(sys::fd(partner.channel)));
        let events: Vec<Event<'_>> = [Event::Readable(self.signals.fd())].into_iter().chain(channel).collect();
        let Ok(happened) = sys::poll(&events, timeout) else { return };
        let now = Instant::now();
        if happened[0] {
            for Received { signal, from_terminal } in self.signals.take() {
                if signal != sys::CHILD_CHANGED && !from_terminal {
                    self.pending.note(signal, Witness::Keeper, now);
                }
            }
        }
        if happened.get(1) == Some(&true) {
            match partner.as_mut().and_then(|partner| hear(partner.channel)) {
                Some(Message::Signal(signal)) => self.pending.note(signal, Witness::Wrapper, now),
                Some(_) => {}
                None => *partner = None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_channel() {
        let endings = [Ending::Exited(255), Ending::Signaled(9), Ending::Overtime, Ending::NotFound, Ending::NotExecutable, Ending::Lost, Ending::Failed];
        let messages = endings.map(Message::Ended).into_iter().chain([Message::Started(4_000_000_000), Message::Signal(15)]);
        for message in messages {
            assert_eq!(Message::decode(message.encode()), message);
        }
    }
}
