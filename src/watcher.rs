//! What holds a lock when the process that took it must end? A watcher in the background, until another process has ended
//! or a time is over.
//!
//! A git hook must end before git goes on, and git must end before the lock is let go; `repoguard acquire` prints a token
//! and returns. Both leave a watcher behind: a child in a session of its own that shares the lock's open files, and has
//! nothing else of whoever started it: nobody who waits for the end of a pipe waits for it, and no Ctrl-C reaches it.

use std::{
    io::{self, Read as _, Write as _},
    time::{Duration, Instant},
};

use crate::sys::{self, Event, FdNumber, Forked, Process, Signals};

/// When a watcher lets go.
pub(crate) struct Until {
    /// When this process has ended; taken hold of before the watcher was made.
    pub(crate) process: Option<Process>,
    /// At this time.
    pub(crate) deadline: Option<Instant>,
    /// When it is told to, by [`ask`].
    pub(crate) on_request: bool,
}

impl Until {
    fn is_over(&self) -> bool {
        self.process.as_ref().is_some_and(Process::has_ended)
            || self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }
}

/// Makes a watcher that keeps the open files `keep`, runs `action` and ends; returns its pid.
///
/// It is a child of this process, or with `orphan`, at the price of another fork, of none that waits for its children: a
/// program that replaces this one may wait for all.
///
/// Must be called while this process has only one thread.
///
/// # Errors
/// When no process can be made.
pub(crate) fn leave(keep: &[FdNumber], orphan: bool, action: impl FnOnce(&Signals)) -> io::Result<u32> {
    if !orphan {
        return leave_child(keep, action);
    }
    let (mut ours, mut theirs) = sys::channel()?;
    match sys::fork()? {
        Forked::Parent(between) => {
            drop(theirs);
            let mut pid = [0; 4];
            let told = ours.read_exact(&mut pid);
            sys::reap(between);
            told.map(|()| u32::from_le_bytes(pid))
        }
        Forked::Child => {
            if let Ok(pid) = leave_child(keep, action) {
                drop(theirs.write_all(&pid.to_le_bytes()));
            }
            sys::exit_now(0)
        }
    }
}

fn leave_child(keep: &[FdNumber], action: impl FnOnce(&Signals)) -> io::Result<u32> {
    let forked: io::Result<Result<Signals, u32>> = sys::with_signals_blocked(|| match sys::fork()? {
        Forked::Parent(pid) => Ok(Err(pid)),
        Forked::Child => {
            sys::leave_session(keep);
            Ok(Ok(signals()))
        }
    });
    match forked? {
        Err(pid) => Ok(pid),
        Ok(signals) => {
            action(&signals);
            sys::exit_now(0)
        }
    }
}

/// Signals for the watcher, which must not die of them. It has hardly an open file: one more can only be refused for a
/// moment, while the machine has none.
fn signals() -> Signals {
    loop {
        if let Ok(signals) = Signals::open() {
            signals.insist(sys::INTERRUPTS);
            return signals;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Blocks until the time to let go has come.
pub(crate) fn watch(until: &Until, signals: &Signals) {
    // Of its own: the parent's handle was closed. Should the number belong to another process by now, `until` sees it.
    let process = until.process.as_ref().map(|process| Process::open(process.pid()));
    while !until.is_over() {
        let timeout = until.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        match &process {
            Some(process) => process.wait(signals, timeout),
            // Whatever it says, everything is looked at again.
            None => drop(sys::poll(&[Event::Readable(signals.fd())], timeout)),
        }
        let asked = signals.take().iter().any(|received| received.signal == sys::TERMINATE);
        if asked && until.on_request {
            return;
        }
    }
}

/// Tells a watcher to let go, or to give up its place in the queue; tells whether it could be told.
pub(crate) fn ask(pid: u32) -> bool {
    sys::send(pid, sys::TERMINATE)
}
