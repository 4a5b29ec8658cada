//! Asks about this process: fork, reaping, its namespaces, and the machine's boot.

use std::{fs, io, ops::Not as _, path::Path, sync::OnceLock, time::Duration};

use rustix::{
    process::{Pid, WaitOptions},
    time::ClockId,
};

use crate::sys::{ChildEvent, Forked, Retry};

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

/// Tells whether this process has one thread, so that the child of a fork can go on like it. Assumed if the system does not tell.
pub(crate) fn has_one_thread() -> bool {
    // Beside `.`, `..` and this entry's own link, each thread is a directory there.
    let threads = fs::metadata("/proc/self/task").map(|tasks| std::os::unix::fs::MetadataExt::nlink(&tasks));
    threads.is_ok_and(|links| links > 3).not()
}

/// Ends this process at once, without destructors: the end of a forked child.
#[expect(unsafe_code, reason = "the child of a fork must not run its parent's exit handlers")]
pub(crate) fn exit_now(status: i32) -> ! {
    // SAFETY: _exit never returns and touches no memory.
    unsafe { libc::_exit(status) }
}

/// Makes this process the parent of all orphans below it, so that it can identify and reap them.
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

/// Runs `action` in a child, and returns the status that it returns; `None` when that takes too long, and then the child is
/// killed. Must be called while this process has only one thread.
pub(crate) fn status_of_child(patience: Duration, action: impl FnOnce() -> i32) -> io::Result<Option<i32>> {
    let child = match fork()? {
        Forked::Child => exit_now(action()),
        Forked::Parent(pid) => i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?,
    };
    for _ in Retry::every(Duration::from_micros(200)).slowing_to(Duration::from_millis(20)).within(patience) {
        if let Some((_, status)) = rustix::process::waitpid(Some(child), WaitOptions::NOHANG)? {
            return Ok(Some(status.exit_status().unwrap_or(-1)));
        }
    }
    // One that hangs in the kernel cannot even be killed: it is not waited for.
    let _ = rustix::process::kill_process(child, rustix::process::Signal::KILL);
    Ok(None)
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

/// Replaces this process by a command; returns only when it cannot.
pub(crate) fn replace_by(mut command: std::process::Command) -> io::Error {
    std::os::unix::process::CommandExt::exec(&mut command)
}

/// Puts a command that is about to be started into a process group of its own, out of reach of Ctrl-C.
pub(crate) fn own_group(command: &mut std::process::Command) {
    std::os::unix::process::CommandExt::process_group(command, 0);
}

/// Tells whether a command died because nobody read what it printed.
pub(crate) fn is_broken_pipe(status: std::process::ExitStatus) -> bool {
    use std::os::unix::process::ExitStatusExt as _;
    status.signal() == Some(libc::SIGPIPE) || status.code() == Some(128 + libc::SIGPIPE)
}

/// The process that started us, or that inherited us.
pub(crate) fn parent() -> u32 {
    std::os::unix::process::parent_id()
}

/// Name of this machine.
pub(crate) fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Number of the pid namespace that this process lives in; 0 if the system has none.
pub(crate) fn pid_namespace() -> u64 {
    static NUMBER: OnceLock<u64> = OnceLock::new();
    *NUMBER.get_or_init(|| fs::metadata("/proc/self/ns/pid").map_or(0, |link| super::identity(&link).inode))
}

/// Number of the time namespace whose clocks this process reads; 0 if the system has none.
pub(crate) fn time_namespace() -> u64 {
    static NUMBER: OnceLock<u64> = OnceLock::new();
    *NUMBER.get_or_init(|| fs::metadata("/proc/self/ns/time").map_or(0, |link| super::identity(&link).inode))
}

/// Tells whether another process's pid means the same here, if both are in the same namespaces: on Linux only if `/proc` shows the
/// namespaces.
pub(crate) fn can_compare_pids() -> bool {
    !cfg!(target_os = "linux") || pid_namespace() != 0
}

/// Tells whether this process has any child, one that has ended included.
pub(crate) fn has_children() -> bool {
    use rustix::process::{WaitId, WaitIdOptions};
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    rustix::process::waitid(WaitId::All, options).err() != Some(rustix::io::Errno::CHILD)
}

/// Tells whether the kernel shows this process all locks. Without `/proc` it shows none; in a pid namespace of its own it leaves
/// out those whose taker has ended or lives outside.
pub(crate) fn sees_all_locks() -> bool {
    pid_namespace() == FIRST_PID_NAMESPACE
}

/// The inode of the first pid namespace, fixed in the kernel (`PROC_PID_INIT_INO`).
const FIRST_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// Tells whether all processes of a pid namespace have ended, of which a record was written at `boot_ms`. One of which no
/// process can be seen is taken for ended.
pub(crate) fn pid_namespace_has_ended(namespace: u64, boot_ms: u64) -> bool {
    if namespace == 0 || namespace == FIRST_PID_NAMESPACE {
        return false;
    }
    if namespace == pid_namespace() {
        // The numbers of namespaces are used again: the first process of an older one is not ours.
        return super::still_runs(1, boot_ms) == Some(false);
    }
    let is_in_it = |pid: &u32| super::pid_namespace_of(*pid) == Some(namespace);
    let mut living = super::all_processes().into_iter().filter(is_in_it);
    !living.any(|pid| super::still_runs(pid, boot_ms) == Some(true))
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

/// Tells whether a file is on a file system of this machine alone; `false` also if that is unknown.
#[cfg(target_os = "linux")]
pub(crate) fn is_local(path: &Path) -> bool {
    /// The magic numbers of statfs(2): ext, xfs, btrfs, f2fs, bcachefs, zfs, tmpfs, overlay.
    const LOCAL: [i64; 8] =
        [0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010, 0xca45_1a4e, 0x2fc1_2fc1, 0x0102_1994, 0x794c_7630];
    rustix::fs::statfs(path).is_ok_and(|fs| LOCAL.contains(&fs.f_type))
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn is_local(_path: &Path) -> bool {
    false
}

/// Tells whether another file system, or a directory from elsewhere, is mounted in a directory or below it.
#[cfg(target_os = "linux")]
pub(crate) fn has_mounts(directory: &Path) -> bool {
    let table = fs::read("/proc/self/mountinfo").unwrap_or_default();
    let mut points = table.split(|&byte| byte == b'\n').filter_map(|line| line.split(|&byte| byte == b' ').nth(4));
    points.any(|point| {
        let point = unescaped(point);
        let point: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(&point);
        Path::new(point).starts_with(directory)
    })
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn has_mounts(_directory: &Path) -> bool {
    false
}

/// A path of the kernel's table, in which `\040` means a space.
#[cfg(target_os = "linux")]
fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|_| first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(escaped.unwrap_or(first));
        rest = if escaped.is_some() { &after[3..] } else { after };
    }
    bytes
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
