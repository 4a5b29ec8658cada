//! Reads what the system tells about other processes: which is above and below which, which is stopped or has ended.
//!
//! `procfs` or `macos`, which have the same functions, read the system's table; the rest follows from it.

#[cfg(target_os = "macos")]
mod macos;
#[cfg(not(target_os = "macos"))]
mod procfs;

use std::{collections::HashMap, os::fd::OwnedFd, time::Duration};

use rustix::process::Pid;

#[cfg(target_os = "macos")]
use self::macos as system;
#[cfg(not(target_os = "macos"))]
use self::procfs as system;
pub(crate) use self::system::*;
use super::process::{boot_ms, parent};
use crate::sys::Event;

/// The system's data of a process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ProcessState {
    pub(crate) parent: u32,
    /// When it started, as the system keeps it: the same for as long as it lives, and different for the next of its
    /// number.
    pub(crate) start: u64,
    /// When it started, in milliseconds since the machine's boot, as [`boot_ms`] counts; not quite precise.
    pub(crate) started_ms: u64,
    /// Stopped by a signal (Ctrl-Z) or a debugger.
    pub(crate) stopped: bool,
    /// Ended, but not yet reaped.
    pub(crate) zombie: bool,
}

/// Tells whether a process of which a record was written at `boot_ms` still runs. `None`: cannot tell, for example because
/// `/proc` is mounted with `hidepid`.
pub(crate) fn still_runs(pid: u32, boot_ms: u64) -> Option<bool> {
    if let Some(state) = process_state(pid) {
        return Some(!state.zombie && state.started_ms <= boot_ms.saturating_add(system::START_PRECISION_MS));
    }
    let number = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let is_gone = |number| rustix::process::test_kill_process(number) == Err(rustix::io::Errno::SRCH);
    number.is_none_or(is_gone).then_some(false)
}

/// Tells whether a process certainly started before a moment, in milliseconds since the machine's boot.
pub(crate) fn started_before(pid: u32, boot_ms: u64) -> bool {
    process_state(pid).is_some_and(|state| state.started_ms + system::START_PRECISION_MS <= boot_ms)
}

/// Tells whether a process runs no instruction until somebody else continues it: it is stopped, or its control group is
/// frozen. `None`: cannot tell.
pub(crate) fn is_halted(pid: u32) -> Option<bool> {
    if process_state(pid)?.stopped { Some(true) } else { system::is_frozen(pid) }
}

/// The processes above this one, nearest first; each is looked up when it is asked for.
pub(crate) fn ancestors() -> impl Iterator<Item = u32> {
    above(parent())
}

/// The processes above another one.
pub(crate) fn ancestors_of(pid: u32) -> impl Iterator<Item = u32> {
    above(pid).skip(1)
}

fn above(first: u32) -> impl Iterator<Item = u32> {
    /// More are none: the table changes while it is read.
    const MOST: usize = 10_000;
    let above = |&pid: &u32| process_state(pid).map(|state| state.parent);
    std::iter::successors(Some(first), above).take_while(|&pid| pid > 0).take(MOST)
}

/// The children of a process that have not ended.
pub(crate) fn children(parent: u32) -> Vec<u32> {
    let is_child = |pid: &u32| process_state(*pid).is_some_and(|state| state.parent == parent && !state.zombie);
    all_processes().into_iter().filter(is_child).collect()
}

/// All processes below `root`, children before grandchildren.
pub(crate) fn descendants(root: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for pid in all_processes() {
        if let Some(state) = process_state(pid).filter(|state| !state.zombie) {
            children.entry(state.parent).or_default().push(pid);
        }
    }
    let mut found = vec![root];
    let mut next = 0;
    while let Some(&pid) = found.get(next) {
        found.extend(children.remove(&pid).unwrap_or_default());
        next += 1;
    }
    found.split_off(1)
}

/// A descriptor that becomes readable when a process of ours has ended; `None` if the system gives none.
pub(crate) fn end_of_child(child: u32) -> Option<OwnedFd> {
    system::watch(child)
}

/// A process that may not be our child, and that cannot be taken for a later one with the same number. To be opened by
/// the process that waits for it: a fork does not hand it down.
pub(crate) struct Process {
    pid: u32,
    start: Option<u64>,
    /// Becomes readable when it has ended.
    handle: Option<OwnedFd>,
}

impl Process {
    /// Takes hold of a process that exists now.
    pub(crate) fn open(pid: u32) -> Self {
        Self { pid, start: process_state(pid).map(|state| state.start), handle: system::watch(pid) }
    }

    /// The same process, for a child of a fork: a later one of its number is not taken for it.
    pub(crate) fn reopened(&self) -> Self {
        Self { pid: self.pid, start: self.start, handle: system::watch(self.pid) }
    }

    /// Happens when it has ended; `None` if the system gives no handle for that.
    pub(crate) fn end(&self) -> Option<Event<'_>> {
        self.handle.as_ref().map(|handle| Event::Readable(crate::sys::fd(handle)))
    }

    /// Its number.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Tells whether it has ended; a process that nobody has reaped yet has.
    pub(crate) fn has_ended(&self) -> bool {
        match (process_state(self.pid), self.start) {
            (Some(state), start) => state.zombie || start.is_none_or(|start| state.start != start),
            (None, _) => still_runs(self.pid, boot_ms()) == Some(false),
        }
    }

    /// Tells whether it is stopped.
    pub(crate) fn is_stopped(&self) -> bool {
        !self.has_ended() && process_state(self.pid).is_some_and(|state| state.stopped)
    }

    /// Waits until it has ended, a signal has come, or the time is over.
    pub(crate) fn wait(&self, signals: &crate::sys::Signals, timeout: Option<Duration>) {
        /// How often to look if the system gives no handle for it.
        const LOOK: Duration = Duration::from_millis(20);
        let handle = self.end();
        let timeout = if handle.is_some() { timeout } else { Some(timeout.map_or(LOOK, |timeout| timeout.min(LOOK))) };
        let events: Vec<Event<'_>> = [Event::Readable(signals.fd())].into_iter().chain(handle).collect();
        // Whatever it says, the caller looks again.
        drop(crate::sys::poll(&events, timeout));
    }

    /// It and all processes below it.
    pub(crate) fn tree(&self) -> Vec<u32> {
        if self.has_ended() {
            return Vec::new();
        }
        let mut tree = descendants(self.pid);
        tree.insert(0, self.pid);
        tree
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_in_the_table_with_its_program() {
        let pid = std::process::id();
        let state = process_state(pid).expect("a state");
        assert_eq!(state.parent, parent());
        assert!(!state.zombie && state.started_ms <= boot_ms() + system::START_PRECISION_MS);
        assert!(all_processes().contains(&pid));
        assert_eq!(process_owner(pid), Some(crate::sys::effective_user()));
        assert_eq!(command_line(pid), Some(std::env::args().collect()));
        let program = std::env::current_exe().and_then(std::fs::canonicalize).expect("a program");
        assert_eq!(executable(pid), Some(program));
    }

    #[test]
    fn handle_is_readable_when_the_process_has_ended_and_not_before() {
        let Ok(crate::sys::Forked::Parent(pid)) = fork_sleeper() else { panic!("a child") };
        let process = Process::open(pid);
        let ready = |timeout| {
            let handle = process.handle.as_ref().expect("a handle");
            crate::sys::poll(&[Event::Readable(crate::sys::fd(handle))], Some(timeout)).expect("poll")[0]
        };
        assert!(!process.has_ended() && !ready(Duration::ZERO));
        assert!(crate::sys::send(pid, crate::sys::KILL));
        assert!(ready(Duration::from_secs(10)));
        crate::sys::reap(pid);
        assert!(process.has_ended() && ready(Duration::ZERO));
    }

    fn fork_sleeper() -> std::io::Result<crate::sys::Forked> {
        let forked = crate::sys::fork()?;
        if matches!(forked, crate::sys::Forked::Child) {
            let _ = rustix::event::poll(&mut [], Some(&rustix::event::Timespec { tv_sec: 60, tv_nsec: 0 }));
            crate::sys::exit_now(0)
        }
        Ok(forked)
    }
}
