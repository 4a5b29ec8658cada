//! Processes as `/proc` and signals know them.

use std::fs;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// Sends a signal to one process; one that is gone is no error.
pub(crate) fn kill(pid: u32, signal: Signal) {
    kill_process(handle(pid), signal).ok();
}

/// Sends a signal to a whole process group.
pub(crate) fn kill_group(pid: u32, signal: Signal) {
    kill_process_group(handle(pid), signal).ok();
}

fn handle(pid: u32) -> Pid {
    let raw = i32::try_from(pid).expect("a pid");
    Pid::from_raw(raw).expect("a pid that is not 0")
}

/// The parent of a process.
pub(crate) fn parent_of(pid: u32) -> u32 {
    stat(pid).expect("a live process").parent
}

/// Whether a process runs: a zombie does not.
pub(crate) fn alive(pid: u32) -> bool {
    !matches!(state_of(pid), None | Some('Z' | 'X'))
}

/// The state of a process: `T` is stopped.
pub(crate) fn state_of(pid: u32) -> Option<char> {
    stat(pid).map(|stat| stat.state)
}

/// The live processes of a group.
pub(crate) fn process_group(group: u32) -> Vec<u32> {
    all().filter(|pid| stat(*pid).is_some_and(|stat| stat.group == group && stat.state != 'Z')).collect()
}

/// Whether a process runs the program under test.
pub(crate) fn runs_our_program(pid: u32) -> bool {
    let ours = super::binary().canonicalize().expect("the program");
    fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|program| program == ours)
}

/// The children of a process that have ended and that it has not reaped.
pub(crate) fn zombies_below(parent: u32) -> Vec<u32> {
    all().filter(|pid| stat(*pid).is_some_and(|stat| stat.parent == parent && stat.state == 'Z')).collect()
}

/// What we need of `/proc/PID/stat`.
struct Stat {
    state: char,
    parent: u32,
    group: u32,
}

fn stat(pid: u32) -> Option<Stat> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name stands in parentheses and may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some(Stat { state, parent: fields.next()?.parse().ok()?, group: fields.next()?.parse().ok()? })
}

fn all() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// The processes that a sandbox started: they carry its mark, or stand in its directory.
pub(crate) fn all_in(dir: &Path) -> Vec<u32> {
    let mark = format!("SANDBOX={}\0", dir.display()).into_bytes();
    let ours = |pid: &u32| {
        let stands = fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(dir));
        let marked = fs::read(format!("/proc/{pid}/environ"))
            .is_ok_and(|environ| environ.windows(mark.len()).any(|part| part == mark));
        stands || marked
    };
    all().filter(|pid| *pid != std::process::id()).filter(ours).collect()
}

/// Ends what is left of a sandbox's processes.
pub(crate) fn kill_all_in(dir: &Path) {
    for pid in all_in(dir) {
        kill(pid, Signal::KILL);
    }
}
