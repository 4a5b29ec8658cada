//! Holds a lock in the background when the process that took it must end, until another process has ended or a time is
//! over.
//!
//! A git hook must end before git goes on, and git must end before the lock is released; `repoguard acquire` prints a token and
//! returns. Both leave a watcher behind: a child in a session of its own that shares the lock's open files and inherits nothing
//! else. So it keeps no pipe open, and no Ctrl-C reaches it.

use std::{
    io::{self, Read as _, Write as _},
    time::{Duration, Instant},
};

use crate::sys::{self, Event, FdNumber, Forked, Process, Retry, Signals};

/// When a watcher releases the lock.
pub(crate) struct Until {
    /// When this process has ended; taken hold of before the watcher was made.
    pub(crate) process: Option<Process>,
    /// At this time.
    pub(crate) deadline: Option<Instant>,
    /// After a request by [`ask`].
    pub(crate) on_request: bool,
}

impl Until {
    fn is_over(&self) -> bool {
        self.process.as_ref().is_some_and(Process::has_ended)
            || self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }
}

/// When the process that starts a watcher goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// At once.
    Not,
    /// When it has said that it is ready.
    UntilReady,
    /// The same, but the watcher is no child of this process: a program that is about to replace this one may wait for all of its
    /// children.
    UntilReadyAsOrphan,
}

/// Makes a watcher that keeps the open files `keep`, runs `action` and ends. `action` gets its signals, and what it calls when
/// it is ready.
///
/// Must be called while this process has only one thread.
///
/// # Errors
/// When no process can be made, or it was killed before it was ready.
pub(crate) fn leave(keep: &[FdNumber], wait: Wait, action: impl FnOnce(&Signals, &mut dyn FnMut())) -> io::Result<()> {
    let (mut ours, mut theirs) = sys::channel()?;
    let keep: Vec<_> = keep.iter().copied().chain([sys::number(&theirs)]).collect();
    let forked: io::Result<Result<Signals, u32>> = sys::with_signals_blocked(|| {
        if let Forked::Parent(pid) = sys::fork()? {
            return Ok(Err(pid));
        }
        if wait == Wait::UntilReadyAsOrphan && !matches!(sys::fork(), Ok(Forked::Child)) {
            sys::exit_now(0);
        }
        sys::leave_session(&keep);
        Ok(Ok(signals()))
    });
    match forked? {
        Err(pid) => {
            drop(theirs);
            if wait == Wait::UntilReadyAsOrphan {
                sys::reap(pid);
            }
            if wait == Wait::Not { Ok(()) } else { ours.read_exact(&mut [0]) }
        }
        Ok(signals) => {
            // It must not die of them.
            signals.insist(sys::INTERRUPTS);
            // The reader of this byte may have ended.
            action(&signals, &mut || drop(theirs.write_all(&[1])));
            sys::exit_now(0)
        }
    }
}

/// Signals for the watcher. It has hardly an open file: one more can only be refused for a moment, while the machine has
/// none.
fn signals() -> Signals {
    let mut opened = Retry::every(Duration::from_millis(10)).into_iter().filter_map(|_| Signals::open().ok());
    opened.next().expect("it is tried without end")
}

/// Blocks until the time to release has come; calls `look_after` now and then.
pub(crate) fn watch(until: &Until, signals: &Signals, look_after: &mut dyn FnMut()) {
    /// How often.
    const OFTEN: Duration = Duration::from_millis(500);
    // Of its own: the parent's handle was closed. Should the number belong to another process by now, `until` sees it.
    let process = until.process.as_ref().map(|process| Process::open(process.pid()));
    while !until.is_over() {
        let left = until.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let timeout = Some(left.map_or(OFTEN, |left| left.min(OFTEN)));
        match &process {
            Some(process) => process.wait(signals, timeout),
            // Whatever it says, everything is looked at again.
            None => drop(sys::poll(&[Event::Readable(signals.fd())], timeout)),
        }
        look_after();
        let asked = signals.take().iter().any(|received| received.signal == sys::TERMINATE);
        if asked && until.on_request {
            return;
        }
    }
}

/// Asks a watcher to release the lock, or to leave the queue; tells whether it could be asked. A stopped watcher is continued.
pub(crate) fn ask(pid: u32) -> bool {
    let asked = sys::send(pid, sys::TERMINATE);
    sys::send(pid, sys::CONTINUE);
    asked
}
