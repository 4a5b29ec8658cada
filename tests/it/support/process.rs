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
    let (_, parent) = state_and_parent(pid).expect("a live process");
    parent
}

/// Whether a process runs: a zombie does not.
pub(crate) fn alive(pid: u32) -> bool {
    state_and_parent(pid).is_some_and(|(state, _)| state != 'Z' && state != 'X')
}

fn state_and_parent(pid: u32) -> Option<(char, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name stands in parentheses and may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

/// The processes that a sandbox started: they carry its mark, or stand in its directory.
pub(crate) fn all_in(dir: &Path) -> Vec<u32> {
    let mark = format!("SANDBOX={}\0", dir.display()).into_bytes();
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let ours = |pid: &u32| {
        let stands = fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(dir));
        let marked = fs::read(format!("/proc/{pid}/environ"))
            .is_ok_and(|environ| environ.windows(mark.len()).any(|part| part == mark));
        stands || marked
    };
    pids.filter(|pid| *pid != std::process::id()).filter(ours).collect()
}

/// Ends what is left of a sandbox's processes.
pub(crate) fn kill_all_in(dir: &Path) {
    for pid in all_in(dir) {
        kill(pid, Signal::KILL);
    }
}
