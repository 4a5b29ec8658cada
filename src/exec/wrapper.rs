//! Who looks after the command? The wrapper, who was called, its parent.

use std::{
    ffi::OsString,
    io,
    time::{Duration, Instant},
};

use super::{
    Duty, Ending, Run, Task,
    channel::{Message, hear, is_for_the_command, tell},
    keeper::Keeper,
    signals::{Pending, Witness},
    spawn,
    tree::Limit,
};
use crate::sys::{self, Channel, ChildEvent, Event, Forked, Signals};

/// How long a command that goes on with us may take to be seen going on.
const GO_ON_WITHIN: Duration = Duration::from_millis(50);

/// How much later than the command we may get a signal that was sent to us all.
const LATE: Duration = Duration::from_millis(5);

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
