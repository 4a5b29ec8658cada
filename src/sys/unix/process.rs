//! Processes: fork, reaping, who is above and below whom, who is stopped or dead.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::OnceLock,
    time::Duration,
};

use rustix::{
    process::{Pid, WaitOptions},
    time::ClockId,
};

use crate::sys::{ChildEvent, Event, Forked};

/// Milliseconds of a clock tick in `/proc/PID/stat`: Linux shows 100 a second on every platform.
const TICK_MS: u64 = 10;

/// Splits this process in two.
///
/// In a process with several threads the child may only make async-signal-safe calls.
#[expect(unsafe_code, reason = "fork has no safe form; callers keep the rule above")]
pub(crate) fn fork() -> io::Result<Forked> {
    // SAFETY: the child either belongs to a single-threaded program or keeps to async-signal-safe calls.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Forked::Child),
        pid => Ok(Forked::Parent(pid.unsigned_abs())),
    }
}

/// Ends this process at once, without destructors: the end of a forked child.
#[expect(unsafe_code, reason = "the child of a fork must not run its parent's exit handlers")]
pub(crate) fn exit_now(status: i32) -> ! {
    // SAFETY: _exit never returns and touches no memory.
    unsafe { libc::_exit(status) }
}

/// Makes this process the parent of all orphans below it, so that it can tell who they are and reap them.
#[cfg(target_os = "linux")]
pub(crate) fn adopt_orphans() {
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn adopt_orphans() {}

/// Takes one change of any child, if there is one; never blocks.
pub(crate) fn next_child_event() -> Option<(u32, ChildEvent)> {
    let options = WaitOptions::UNTRACED | WaitOptions::CONTINUED | WaitOptions::NOHANG;
    loop {
        match rustix::process::wait(options) {
            Ok(Some((pid, status))) => return Some((pid.as_raw_nonzero().get().unsigned_abs(), event(status)?)),
            Err(rustix::io::Errno::INTR) => {}
            Ok(None) | Err(_) => return None,
        }
    }
}

/// Waits until one child has ended, and reaps it.
pub(crate) fn reap(pid: u32) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    while let Err(rustix::io::Errno::INTR) = rustix::process::waitpid(pid, WaitOptions::empty()) {}
}

fn event(status: rustix::process::WaitStatus) -> Option<ChildEvent> {
    status
        .exit_status()
        .map(ChildEvent::Exited)
        .or_else(|| status.terminating_signal().map(ChildEvent::Signaled))
        .or_else(|| status.stopped().then_some(ChildEvent::Stopped))
        .or_else(|| status.continued().then_some(ChildEvent::Continued))
}

/// The process that started us, or that inherited us.
pub(crate) fn parent() -> u32 {
    std::os::unix::process::parent_id()
}

/// Name of this machine.
pub(crate) fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Number of the pid namespace that this process lives in; 0 where the system has none.
pub(crate) fn pid_namespace() -> u64 {
    static NUMBER: OnceLock<u64> = OnceLock::new();
    *NUMBER.get_or_init(|| fs::metadata("/proc/self/ns/pid").map_or(0, |link| super::identity(&link).inode))
}

/// Tells whether the kernel shows this process all locks: not where there is no `/proc`, and in a pid namespace of its
/// own it leaves out those whose taker has ended or lives outside.
pub(crate) fn sees_all_locks() -> bool {
    /// The inode of the first pid namespace, fixed in the kernel (`PROC_PID_INIT_INO`).
    const FIRST: u64 = 0xEFFF_FFFC;
    pid_namespace() == FIRST
}

/// Tells whether processes outside of this pid namespace may use a file: it is not on the private root of a container.
pub(crate) fn outsiders_may_use(file: &Path) -> bool {
    let device = |path: &Path| fs::metadata(path).ok().map(|metadata| super::identity(&metadata).device);
    let same_device = device(file).is_some() && device(file) == device(Path::new("/"));
    !(same_device && is_overlay(Path::new("/")))
}

#[cfg(target_os = "linux")]
fn is_overlay(path: &Path) -> bool {
    /// `OVERLAYFS_SUPER_MAGIC` of statfs(2).
    const OVERLAY: i64 = 0x794c_7630;
    rustix::fs::statfs(path).is_ok_and(|fs| fs.f_type == OVERLAY)
}

#[cfg(not(target_os = "linux"))]
fn is_overlay(_path: &Path) -> bool {
    false
}

/// Milliseconds since the machine's boot, suspended time included.
pub(crate) fn boot_ms() -> u64 {
    #[cfg(target_os = "linux")]
    let clock = ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    let clock = ClockId::Monotonic;
    let now = rustix::time::clock_gettime(clock);
    now.tv_sec.unsigned_abs() * 1000 + now.tv_nsec.unsigned_abs() / 1_000_000
}

/// What `/proc/PID/stat` tells of a process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ProcessState {
    pub(crate) parent: u32,
    pub(crate) started_ms: u64,
    /// Stopped by a signal (Ctrl-Z) or a debugger.
    pub(crate) stopped: bool,
    /// Ended, but not yet reaped.
    pub(crate) zombie: bool,
}

/// Reads the state of a process; `None` when there is none (or no `/proc`).
pub(crate) fn process_state(pid: u32) -> Option<ProcessState> {
    // The command's name stands in parentheses and may hold anything, parentheses included.
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let end = stat.iter().rposition(|&byte| byte == b')')?;
    let rest = std::str::from_utf8(stat.get(end + 2..)?).ok()?;
    let mut fields = rest.split(' ');
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    let started: u64 = fields.nth(17)?.parse().ok()?;
    Some(ProcessState {
        parent,
        started_ms: started * TICK_MS,
        stopped: matches!(state, "T" | "t"),
        zombie: matches!(state, "Z" | "X"),
    })
}

/// Tells whether a process of which a record was written at `boot_ms` still runs. `None`: cannot tell.
pub(crate) fn still_runs(pid: u32, boot_ms: u64) -> Option<bool> {
    match process_state(pid) {
        Some(state) => Some(!state.zombie && state.started_ms <= boot_ms + TICK_MS),
        None if Path::new("/proc/self/stat").exists() => Some(false),
        None => {
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw)?;
            Some(rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
        }
    }
}

/// The processes above this one, nearest first.
pub(crate) fn ancestors() -> Vec<u32> {
    let mut chain = Vec::new();
    let mut pid = parent();
    while pid > 0 && !chain.contains(&pid) {
        chain.push(pid);
        pid = process_state(pid).map_or(0, |state| state.parent);
    }
    chain
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

/// All processes that this one can see.
pub(crate) fn all_processes() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The command line of another process, if it may be read.
pub(crate) fn command_line(pid: u32) -> Option<Vec<String>> {
    let raw = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words = raw.strip_suffix(&[0]).unwrap_or(&raw);
    (!words.is_empty()).then(|| words.split(|&b| b == 0).map(|w| String::from_utf8_lossy(w).into_owned()).collect())
}

/// The user that another process runs as.
pub(crate) fn process_owner(pid: u32) -> Option<u32> {
    fs::metadata(format!("/proc/{pid}")).ok().map(|metadata| super::owner(&metadata).0)
}

/// The directory of another process, if it may be read.
pub(crate) fn working_directory(pid: u32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/cwd")).ok()
}

/// A process that may not be our child, and that cannot be taken for a later one with the same number.
pub(crate) struct Process {
    pid: u32,
    started_ms: Option<u64>,
    #[cfg(target_os = "linux")]
    handle: Option<std::os::fd::OwnedFd>,
}

impl Process {
    /// Takes hold of a process that exists now.
    pub(crate) fn open(pid: u32) -> Self {
        Self {
            pid,
            started_ms: process_state(pid).map(|state| state.started_ms),
            #[cfg(target_os = "linux")]
            handle: i32::try_from(pid)
                .ok()
                .and_then(Pid::from_raw)
                .and_then(|pid| rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()),
        }
    }

    /// Tells whether it has ended; a process that nobody has reaped yet has.
    pub(crate) fn has_ended(&self) -> bool {
        match (process_state(self.pid), self.started_ms) {
            (Some(state), started) => state.zombie || started.is_none_or(|started| state.started_ms != started),
            (None, _) => still_runs(self.pid, boot_ms()) != Some(true),
        }
    }

    /// Tells whether it is stopped.
    pub(crate) fn is_stopped(&self) -> bool {
        !self.has_ended() && process_state(self.pid).is_some_and(|state| state.stopped)
    }

    /// Waits until it has ended, a signal has come, or the time is over.
    pub(crate) fn wait(&self, signals: &super::Signals, timeout: Option<Duration>) {
        /// How often to look where the system has no handles for processes.
        const LOOK: Duration = Duration::from_millis(20);
        #[cfg(target_os = "linux")]
        let handle = self.handle.as_ref().map(|handle| Event::Readable(super::fd(handle)));
        #[cfg(not(target_os = "linux"))]
        let handle: Option<Event<'_>> = None;
        let timeout = if handle.is_some() { timeout } else { Some(timeout.map_or(LOOK, |timeout| timeout.min(LOOK))) };
        let events: Vec<Event<'_>> = [Event::Readable(signals.fd())].into_iter().chain(handle).collect();
        // Whatever it says, the caller looks again.
        drop(super::poll(&events, timeout));
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
