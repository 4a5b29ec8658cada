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
    Duty, Ending, Run, Task,
    signals::{Pending, Witness},
    spawn,
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
    /// Wrapper: which signals have arrived at yours?
    Ask,
    /// Keeper: all that I have told until now.
    Answer,
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
            Self::Ask => (3, 0),
            Self::Answer => (4, 0),
            Self::Signal(signal) => (5, signal.cast_unsigned()),
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
            3 => Self::Ask,
            4 => Self::Answer,
            _ => Self::Signal(value.cast_signed()),
        }
    }
}

/// Tells whether a signal may have been sent to us alone; what comes from the terminal goes to the whole group. Whether
/// a stopped command is to go on is decided by the wrapper alone, by the state of the command.
fn is_for_the_command(received: &Received) -> bool {
    !received.from_terminal && ![sys::CHILD_CHANGED, sys::CONTINUE].contains(&received.signal)
}

/// How often the keeper looks whether a stopped command goes on.
const LOOK: Duration = Duration::from_millis(50);

/// How long a command that goes on with us may take to be seen going on.
const GO_ON_WITHIN: Duration = Duration::from_millis(50);

/// How much later than the command we may get a signal that was sent to us all.
const LATE: Duration = Duration::from_millis(5);

/// Sends a message; a partner that is gone does not need it.
fn tell(channel: &mut Channel, message: Message) {
    drop(channel.write_all(&message.encode()));
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
    let (ending, got) = match spawn(task, environment, &duty.files(), &signals) {
        Ok(command) => {
            tell(&mut ours, Message::Started(command.id()));
            let mut watch = Watch {
                command: command.id(),
                keeper: &mut keeper,
                channel: Some(&mut ours),
                signals: &signals,
                limit: Limit::new(task, Instant::now()),
                pending: Pending::default(),
                go_on_at: None,
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
        sys::send(keeper, sys::KILL);
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

    fn report_signals(&mut self) {
        for received in self.signals.take().into_iter().filter(is_for_the_command) {
            tell(&mut self.channel, Message::Signal(received.signal));
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
                for received in self.signals.take().iter().filter(|received| is_for_the_command(received)) {
                    command.send(received.signal);
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
    /// When to look whether the command goes on as we do.
    go_on_at: Option<Instant>,
    /// All signals that this process got itself.
    got: Vec<i32>,
}

impl Watch<'_> {
    fn until_end(&mut self) -> Ending {
        let mut ended = None;
        loop {
            let now = Instant::now();
            // All that has arrived is read before anything is concluded from it.
            self.read_signals(now);
            self.read_keeper(now);
            while let Some((pid, event)) = sys::next_child_event() {
                match event {
                    ChildEvent::Exited(status) if pid == self.command => ended = Some(Ending::Exited(status)),
                    ChildEvent::Signaled(signal) if pid == self.command => ended = Some(Ending::Signaled(signal)),
                    ChildEvent::Stopped if pid == self.command => self.stop(),
                    ChildEvent::Exited(_) | ChildEvent::Signaled(_) if *self.keeper == Some(pid) => *self.keeper = None,
                    // An orphan of the command's that became ours.
                    _ => {}
                }
            }
            let in_time = ended.is_some() && !self.limit.is_over();
            if let Some(ending) = ended.filter(|_| in_time || self.limit_enforced(now)) {
                self.read_late_signals(ending);
                return if self.limit.is_over() { Ending::Overtime } else { ending };
            }
            if ended.is_none() {
                self.limit_enforced(now);
                self.pass_on(now);
            }
            let wake = [self.limit.next(), self.pending.next(), self.go_on_at].into_iter().flatten().min();
            let timeout = wake.map(|wake| wake.saturating_duration_since(Instant::now()));
            let channel = self.channel.as_deref().map(|channel| Event::Readable(sys::fd(channel)));
            let events: Vec<Event<'_>> = [Event::Readable(self.signals.fd())].into_iter().chain(channel).collect();
            // Whatever it says, everything is looked at again.
            drop(sys::poll(&events, timeout));
        }
    }

    /// Takes what has arrived; tells whether somebody else than the keeper wants us to go on.
    fn read_signals(&mut self, now: Instant) -> bool {
        let mut go_on = false;
        for received in self.signals.take() {
            let signal = received.signal;
            if is_for_the_command(&received) {
                self.pending.note(signal, Witness::Wrapper, now);
            }
            if sys::STOPS.contains(&signal) {
                self.go_on_at = None;
            } else if signal == sys::CONTINUE && *self.keeper != Some(received.sender) {
                self.pending.forget(sys::STOPS);
                self.go_on_at = Some(now + GO_ON_WITHIN);
                go_on = true;
            }
            self.got.push(signal);
        }
        go_on
    }

    fn read_keeper(&mut self, now: Instant) {
        while let Some(channel) = self.channel.as_deref_mut() {
            let readable = sys::poll(&[Event::Readable(sys::fd(channel))], Some(Duration::ZERO));
            if !readable.is_ok_and(|readable| readable[0]) {
                return;
            }
            match hear(channel) {
                Some(Message::Signal(signal)) => self.pending.note(signal, Witness::Keeper, now),
                Some(Message::Answer) => {
                    let answered = self.pending.answered();
                    self.send(&answered);
                }
                Some(_) => {}
                None => self.channel = None,
            }
        }
    }

    fn pass_on(&mut self, now: Instant) {
        if self.go_on_at.is_some_and(|time| time <= now) {
            self.go_on_at = None;
            if self.command_is_stopped() {
                // Only we were told to go on.
                self.send(&[sys::CONTINUE]);
            }
        }
        if self.pending.must_ask(now)
            && let Some(channel) = self.channel.as_deref_mut()
        {
            tell(channel, Message::Ask);
            // Should somebody have stopped it, it could not answer.
            if let Some(keeper) = *self.keeper {
                sys::send(keeper, sys::CONTINUE);
            }
        }
        let mut due = self.pending.due(now, self.channel.is_some());
        if self.channel.is_some() {
            // What the keeper tells of a stop may be older than the SIGCONT that undid it here.
            due.retain(|signal| !sys::STOPS.contains(signal));
        }
        self.send(&due);
    }

    fn send(&self, signals: &[i32]) {
        for &signal in signals {
            sys::send(self.command, signal);
        }
    }

    /// Enforces the limit; tells whether no process that it concerns is left.
    fn limit_enforced(&mut self, now: Instant) -> bool {
        let keeper = *self.keeper;
        let below = || sys::descendants(std::process::id()).into_iter().filter(|pid| Some(*pid) != keeper).collect();
        self.limit.enforce(now, &below)
    }

    /// Stops as the command did, so that whoever started us sees the job as if it were the command. The keeper sees to
    /// it that we go on when the command does.
    fn stop(&mut self) {
        while let Some(channel) = self.channel.as_deref_mut() {
            tell(channel, Message::Stopped);
            sys::send(std::process::id(), sys::STOP);
            let go_on = self.read_signals(Instant::now());
            // Woken late by the keeper, after the command was stopped once more?
            if go_on || !self.command_is_stopped() {
                return;
            }
        }
    }

    fn command_is_stopped(&self) -> bool {
        sys::process_state(self.command).is_some_and(|state| state.stopped)
    }

    /// A signal to the group may kill the command before it reaches us.
    fn read_late_signals(&mut self, ending: Ending) {
        let now = Instant::now();
        self.read_signals(now);
        if let Ending::Signaled(signal) = ending
            && sys::DIE_OF.contains(&signal)
            && !self.got.contains(&signal)
        {
            drop(sys::poll(&[Event::Readable(self.signals.fd())], Some(LATE)));
            self.read_signals(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_channel() {
        for message in [
            Message::Started(4_000_000_000),
            Message::LetGo,
            Message::Stopped,
            Message::Ask,
            Message::Answer,
            Message::Signal(15),
        ] {
            assert_eq!(Message::decode(message.encode()), message);
        }
    }
}
