//! The table of processes in `/proc`, as Linux keeps it; a system without `/proc` answers "unknown". See proc(5).

use std::{
    ffi::OsString,
    fs,
    io::Read as _,
    os::{
        fd::OwnedFd,
        unix::ffi::{OsStrExt as _, OsStringExt as _},
    },
    path::PathBuf,
};

use super::ProcessState;

/// Milliseconds of a clock tick in `/proc/PID/stat`: Linux shows 100 a second on every platform.
const TICK_MS: u64 = 10;

/// How far [`ProcessState::started_ms`] may be from the truth.
pub(super) const START_PRECISION_MS: u64 = TICK_MS;

/// The first KiB of a file in `/proc`, by one read: these files have no size, and are asked for on everybody's path.
fn start_of(path: &str) -> Option<Vec<u8>> {
    let mut start = vec![0; 1024];
    let read = fs::File::open(path).ok()?.read(&mut start).ok()?;
    start.truncate(read);
    Some(start)
}

/// Reads the state of a process; `None` when there is none (or no `/proc`).
pub(crate) fn process_state(pid: u32) -> Option<ProcessState> {
    // The command's name stands in parentheses and may hold anything, parentheses included.
    let stat = start_of(&format!("/proc/{pid}/stat"))?;
    let end = stat.iter().rposition(|&byte| byte == b')')?;
    let rest = std::str::from_utf8(stat.get(end + 2..)?).ok()?;
    let mut fields = rest.split(' ');
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    let ticks: u64 = fields.nth(17)?.parse().ok()?;
    Some(ProcessState {
        parent,
        start: ticks,
        started_ms: ticks * TICK_MS,
        stopped: matches!(state, "T" | "t"),
        zombie: matches!(state, "Z" | "X"),
    })
}

/// Tells whether the control group of a process is frozen (`docker pause`); `None`: cannot tell. See cgroups(7).
pub(super) fn is_frozen(pid: u32) -> Option<bool> {
    const UNIFIED: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
    let groups = String::from_utf8_lossy(&start_of(&format!("/proc/{pid}/cgroup"))?).into_owned();
    let read = |file: String| Some(String::from_utf8_lossy(&start_of(&file)?).into_owned());
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (hierarchy, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        // The root cannot be frozen.
        let state = match path {
            "/" => continue,
            _ if hierarchy == "0" => {
                UNIFIED.into_iter().find_map(|root| read(format!("{root}{path}/cgroup.events")))?
            }
            _ if controllers == "freezer" => read(format!("/sys/fs/cgroup/freezer{path}/freezer.state"))?,
            _ => continue,
        };
        if state.lines().any(|line| line == "frozen 1" || line == "FROZEN") {
            return Some(true);
        }
    }
    Some(false)
}

/// All processes that this one can see.
pub(crate) fn all_processes() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The command line of another process, if it may be read.
pub(crate) fn command_line(pid: u32) -> Option<Vec<String>> {
    let path = format!("/proc/{pid}/cmdline");
    let raw = match start_of(&path)? {
        start if start.len() < 1024 => start,
        _ => fs::read(path).ok()?,
    };
    let words = raw.strip_suffix(&[0]).unwrap_or(&raw);
    (!words.is_empty()).then(|| words.split(|&b| b == 0).map(|w| String::from_utf8_lossy(w).into_owned()).collect())
}

/// The user that another process acts as. The owner of its directory would be root for one that changed its user.
pub(crate) fn process_owner(pid: u32) -> Option<u32> {
    let status = fs::read(format!("/proc/{pid}/status")).ok()?;
    let status = String::from_utf8_lossy(&status).into_owned();
    let users = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    users.split_whitespace().nth(1)?.parse().ok()
}

/// The pid namespace of another process, if it may be read.
pub(crate) fn pid_namespace_of(pid: u32) -> Option<u64> {
    fs::metadata(format!("/proc/{pid}/ns/pid")).ok().map(|link| crate::sys::identity(&link).inode)
}

/// The directory of another process, if it may be read.
pub(crate) fn working_directory(pid: u32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/cwd")).ok()
}

/// Tells whether a process has this pid in the namespace that it was made in, or in any around that.
pub(crate) fn is_pid_in_any_namespace(pid: u32) -> bool {
    let names = |other: u32| -> Option<bool> {
        let status = fs::read_to_string(format!("/proc/{other}/status")).ok()?;
        let pids = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
        Some(pids.split_whitespace().any(|name| name.parse() == Ok(pid)))
    };
    super::all_processes().into_iter().any(|other| names(other) == Some(true))
}

/// The identity of that directory, whatever path leads to it here.
pub(crate) fn working_directory_id(pid: u32) -> Option<crate::sys::FileId> {
    fs::metadata(format!("/proc/{pid}/cwd")).ok().map(|metadata| crate::sys::identity(&metadata))
}

/// The kernel's functions that wait for somebody to open the other end of a FIFO.
const OPENS_FIFO: [&[u8]; 2] = [b"wait_for_partner", b"fifo_open"];

/// Tells whether a process waits for the other end of a FIFO that has a name: opens it, or reads from it. See proc(5), `wchan`;
/// a kernel that hides where its processes wait answers "no".
pub(crate) fn waits_for_fifo(pid: u32) -> bool {
    match start_of(&format!("/proc/{pid}/wchan")).as_deref() {
        Some(place) if OPENS_FIFO.contains(&place) => true,
        Some(place) if place.ends_with(b"pipe_read") => {
            let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
            let mut targets = files.filter_map(|file| fs::read_link(file.path()).ok());
            targets.any(|path| path.is_absolute() && fs::metadata(&path).is_ok_and(|file| crate::sys::is_fifo(&file)))
        }
        _ => false,
    }
}

/// Tells whether a process opens a FIFO that nobody has open at the other end.
pub(crate) fn opens_fifo(pid: u32) -> bool {
    start_of(&format!("/proc/{pid}/wchan")).is_some_and(|place| OPENS_FIFO.contains(&place.as_slice()))
}

/// The program that a process runs, if it may be read; if it has been removed, its former path.
pub(crate) fn executable(pid: u32) -> Option<PathBuf> {
    let link = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let path = link.as_os_str().as_bytes();
    let path = path.strip_suffix(b" (deleted)").unwrap_or(path);
    Some(OsString::from_vec(path.to_vec()).into())
}

/// A descriptor that becomes readable when the process has ended.
#[cfg(target_os = "linux")]
pub(super) fn watch(pid: u32) -> Option<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw)?;
    rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()
}

#[cfg(not(target_os = "linux"))]
pub(super) fn watch(_pid: u32) -> Option<OwnedFd> {
    None
}
