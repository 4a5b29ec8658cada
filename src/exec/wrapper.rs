//! Looks after the command as its parent.

use std::time::{Duration, Instant};

use super::{
    Ending, Run, RunLifecycle, Surroundings, Task,
    channel::{Message, is_for_the_command, receive, send},
    keeper::Keeper,
    signals::{Pending, Witness},
    spawn,
    tree::Limit,
};
use crate::sys::{self, Channel, ChildEvent, Event, Forked, Process, Retry, Signals};

/// How long a command that goes on with us may take to be seen going on.
const GO_ON_WITHIN: Duration = Duration::from_millis(50);

/// How much later than the command we may get a signal that was sent to us all.
const LATE: Duration = Duration::from_millis(5);

/// How long after the wrapper began to start the command it makes a keeper: many commands have ended by then, and hardly one
/// has begun to catch signals. If the wrapper is killed before, the command's own descriptors hold the lock, and then those of
/// a daemon that it leaves behind. On a loaded machine the wrapper may go on only when this time is over.
const KEEPER_AFTER: Duration = Duration::from_micros(1500);

/// How often a command is looked at that may get stuck.
const STUCK: Duration = Duration::from_millis(500);

/// How long to go on without a keeper if it was killed, or cannot be made.
const KEEPER_AGAIN: Duration = Duration::from_millis(100);

/// Runs the task, blocking until its command has ended.
pub(crate) fn run(
    task: &Task,
    surroundings: Surroundings<'_>,
    signals: &Signals,
    lifecycle: &mut dyn RunLifecycle,
) -> Run {
    sys::adopt_orphans();
    signals.catch(sys::forwarded());
    // It may have been blocked.
    signals.insist(&[sys::CHILD_CHANGED]);
    lifecycle.begin();
    let (keeper_at, since_ms) = (Instant::now() + KEEPER_AFTER, sys::boot_ms());
    let command = match spawn(task, surroundings, &lifecycle.files(), signals) {
        Ok(command) => command.id(),
        Err(ending) => {
            let ending = lifecycle.record_end(Some(ending));
            lifecycle.release();
            return Run { ending, die_of: None, interrupted: None, was_stuck: false };
        }
    };
    let begun = Instant::now();
    lifecycle.started(command, true);
    let mut watch = Watch {
        task,
        command,
        end: sys::end_of_child(command),
        since_ms,
        begun,
        keeper: None,
        keeper_at,
        signals,
        limit: Limit::new(task, begun),
        ends_whole: surroundings.ends_whole,
        is_stuck: surroundings.is_stuck,
        ask_at: begun + STUCK,
        was_stuck: false,
        pending: Pending::default(),
        go_on_at: None,
        got: Vec::new(),
        lifecycle,
    };
    let ending = watch.until_end();
    let ending = if watch.is_left_to_keeper(ending) { ending } else { watch.finish(ending) };
    let die_of = match ending {
        Ending::Signaled(signal) if sys::DIE_OF.contains(&signal) && watch.got.contains(&signal) => Some(signal),
        _ => None,
    };
    let interrupted = watch.got.iter().copied().find(|signal| sys::INTERRUPTS.contains(signal));
    Run { ending, die_of, interrupted, was_stuck: watch.was_stuck }
}

/// The keeper, until it was reaped.
struct Second {
    pid: u32,
    channel: Channel,
}

/// The wrapper's side: looking after its child.
struct Watch<'a> {
    task: &'a Task,
    command: u32,
    /// Reports its end even if its signal could not be reported.
    end: Option<sys::Fd>,
    /// Milliseconds from the machine's boot to a moment before the command started.
    since_ms: u64,
    begun: Instant,
    keeper: Option<Second>,
    /// When to make a keeper if there is none.
    keeper_at: Instant,
    signals: &'a Signals,
    limit: Limit,
    ends_whole: bool,
    is_stuck: Option<fn(u32) -> bool>,
    /// When to ask whether it will never end.
    ask_at: Instant,
    was_stuck: bool,
    pending: Pending,
    /// When to look whether the command goes on as we do.
    go_on_at: Option<Instant>,
    /// All signals that this process got itself.
    got: Vec<i32>,
    lifecycle: &'a mut dyn RunLifecycle,
}

impl Watch<'_> {
    fn until_end(&mut self) -> Ending {
        let mut ended: Option<Ending> = None;
        let mut overtime = false;
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
                    ChildEvent::Exited(_) | ChildEvent::Signaled(_) if self.is_keeper(pid) => {
                        self.keeper = None;
                        self.keeper_at = now + KEEPER_AGAIN;
                    }
                    // An orphan of the command's that became ours.
                    _ => {}
                }
            }
            if let Some(ending) = ended {
                self.read_late_signals(ending);
                if self.ends_whole && self.was_told_to_end(ending) && !self.limit.is_over() {
                    let others = self.others();
                    self.limit.end_now(now, &others);
                }
                if !self.limit.is_over() || self.limit_enforced(now) {
                    return if overtime { Ending::Overtime } else { ending };
                }
            } else {
                if self.task.term_ends_all && self.got.contains(&sys::TERMINATE) && !self.limit.is_over() {
                    self.pending.forget(&[sys::TERMINATE]);
                    let others = self.others();
                    self.limit.end_now(now, &others);
                }
                self.end_if_stuck(now);
                self.limit_enforced(now);
                overtime = self.limit.is_over();
                if now >= self.keeper_at {
                    self.make_keeper();
                }
                self.pass_on(now);
            }
            self.sleep(ended.is_some());
        }
    }

    /// Leaves the hold to the keeper if a command works inside of it, because our caller waits only for the command that has ended.
    /// Blocks only if no keeper can be made.
    fn is_left_to_keeper(&mut self, ending: Ending) -> bool {
        for _ in Retry::every(KEEPER_AGAIN) {
            if self.lifecycle.close() {
                break;
            }
            self.make_keeper();
            let ending = match ending {
                Ending::Exited(status) => Message::Exited(status),
                Ending::Signaled(signal) => Message::Died(signal),
                _ => Message::Overtime,
            };
            match self.keeper.as_mut().map(|keeper| send(&mut keeper.channel, ending)) {
                Some(true) => return true,
                // It was killed just now.
                Some(false) => self.keeper = None,
                None => {}
            }
        }
        false
    }

    /// Records how the command ended, and releases the lock.
    fn finish(&mut self, ending: Ending) -> Ending {
        let ending = self.lifecycle.record_end(Some(ending));
        // The keeper has nothing left to do. It is killed before the unlock and before our end of the channel closes, which
        // it would take for our death, and reaped after the unlock, so that nobody waits for that.
        if let Some(keeper) = &self.keeper {
            sys::send(keeper.pid, sys::KILL);
        }
        self.lifecycle.release();
        if let Some(keeper) = self.keeper.take() {
            sys::reap(keeper.pid);
        }
        ending
    }

    fn end_if_stuck(&mut self, now: Instant) {
        if let Some(is_stuck) = self.is_stuck
            && now >= self.ask_at
        {
            self.ask_at = now + STUCK;
            if is_stuck(self.command) {
                self.was_stuck = true;
                sys::send(self.command, sys::KILL);
            }
        }
    }

    /// Sleeps until something may have happened.
    fn sleep(&self, has_ended: bool) {
        let keeper_at = self.keeper.is_none().then_some(self.keeper_at);
        let ask_at = self.is_stuck.map(|_| self.ask_at);
        let wake = [self.limit.next(), self.pending.next(), self.go_on_at, keeper_at, ask_at];
        let wake = wake.into_iter().flatten().min();
        let timeout = wake.map(|wake| wake.saturating_duration_since(Instant::now()));
        let channel = self.keeper.as_ref().map(|keeper| Event::Readable(sys::fd(&keeper.channel)));
        let end = self.end.as_ref().filter(|_| !has_ended).map(|end| Event::Readable(sys::fd(end)));
        let events: Vec<Event<'_>> =
            [Event::Readable(self.signals.fd())].into_iter().chain(channel).chain(end).collect();
        // Whatever it says, everything is looked at again.
        drop(sys::poll(&events, timeout));
    }

    /// Makes a keeper if there is none.
    fn make_keeper(&mut self) {
        if self.keeper.is_some() {
            return;
        }
        self.keeper_at = Instant::now() + KEEPER_AGAIN;
        let Ok((ours, theirs)) = sys::channel() else { return };
        self.lifecycle.started(self.command, false);
        let wrapper = std::process::id();
        // No signal may reach the keeper before it has a pipe of its own.
        let forked = sys::with_signals_blocked(|| match sys::fork() {
            Ok(Forked::Child) => Ok(Some(self.signals.for_child())),
            Ok(Forked::Parent(pid)) => Err(Some(pid)),
            Err(_) => Err(None),
        });
        match forked {
            Err(Some(pid)) => {
                self.keeper = Some(Second { pid, channel: ours });
                self.pending.ask_anew();
            }
            // Without a keeper the command's own descriptors must do, should we be killed.
            Err(None) => {}
            Ok(signals) => {
                drop(ours);
                if let Some(Ok(signals)) = signals {
                    let command = Process::open(self.command);
                    let (task, begun, lifecycle) = (self.task, self.begun, &mut *self.lifecycle);
                    Keeper { task, command, begun, signals, channel: theirs, wrapper, lifecycle }.run();
                }
                sys::exit_now(0)
            }
        }
    }

    fn is_keeper(&self, pid: u32) -> bool {
        self.keeper.as_ref().is_some_and(|keeper| keeper.pid == pid)
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
            } else if signal == sys::CONTINUE && !self.is_keeper(received.sender) {
                self.pending.forget(sys::STOPS);
                self.go_on_at = Some(now + GO_ON_WITHIN);
                go_on = true;
            }
            self.got.push(signal);
        }
        go_on
    }

    fn read_keeper(&mut self, now: Instant) {
        while let Some(keeper) = &mut self.keeper {
            let readable = sys::poll(&[Event::Readable(sys::fd(&keeper.channel))], Some(Duration::ZERO));
            if !readable.is_ok_and(|readable| readable[0]) {
                return;
            }
            match receive(&mut keeper.channel) {
                Some(Message::Signal(signal)) => self.pending.note(signal, Witness::Keeper, now),
                Some(Message::Answer) => {
                    // By now, signals that both got have reached us.
                    self.read_signals(Instant::now());
                    let answered = self.pending.answered(Instant::now());
                    self.send(&answered);
                }
                Some(_) => {}
                // It was killed, and is about to be reaped.
                None => return,
            }
        }
    }

    fn pass_on(&mut self, now: Instant) {
        if self.go_on_at.is_some_and(|time| time <= now) {
            self.go_on_at = None;
            if self.command_is_stopped() {
                // The SIGCONT reached only us.
                self.send(&[sys::CONTINUE]);
            }
        }
        let Some(keeper) = &mut self.keeper else {
            let all = self.pending.alone(now);
            return self.send(&all);
        };
        if self.pending.must_ask(now) {
            send(&mut keeper.channel, Message::Ask);
        }
        if self.pending.is_asked() {
            // Should somebody have stopped it, it could not answer.
            sys::send(keeper.pid, sys::CONTINUE);
        }
    }

    fn send(&self, signals: &[i32]) {
        for &signal in signals {
            sys::send(self.command, signal);
        }
    }

    /// Tells whether somebody wanted an end of it, by a signal to it or to us.
    fn was_told_to_end(&self, ending: Ending) -> bool {
        matches!(ending, Ending::Signaled(_)) || self.got.iter().any(|signal| sys::INTERRUPTS.contains(signal))
    }

    /// Enforces the limit; tells whether no process that it concerns is left.
    fn limit_enforced(&mut self, now: Instant) -> bool {
        let others = self.others();
        self.limit.enforce(now, &others)
    }

    /// Lists the command's processes: all below this one but the keeper and those that were there before.
    fn others(&self) -> impl Fn() -> Vec<u32> + use<> {
        let (keeper, since) = (self.keeper.as_ref().map(|keeper| keeper.pid), self.since_ms);
        move || {
            let below = sys::descendants(std::process::id()).into_iter();
            below.filter(|pid| Some(*pid) != keeper && !sys::started_before(*pid, since)).collect()
        }
    }

    /// Stops as the command did, so that our parent sees the job as if it were the command. The keeper continues us when the
    /// command goes on.
    fn stop(&mut self) {
        self.make_keeper();
        while let Some(keeper) = &mut self.keeper {
            send(&mut keeper.channel, Message::Stopped);
            sys::send(std::process::id(), sys::STOP);
            let go_on = self.read_signals(Instant::now());
            // Woken late by the keeper, after the command was stopped once more?
            if go_on || !self.command_is_stopped() || self.limit.is_due(Instant::now()) {
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
            && sys::INTERRUPTS.contains(&signal)
            && !self.got.contains(&signal)
        {
            drop(sys::poll(&[Event::Readable(self.signals.fd())], Some(LATE)));
            self.read_signals(now);
        }
    }
}
