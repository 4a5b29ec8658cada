//! The table of processes as macOS tells it: sysctl(3), libproc and kqueue(2).
//!
//! The state comes from the sysctl `kern.proc.pid` and not from `proc_pidinfo`, which says nothing of processes of other
//! users: login(1), which runs as root, stands above every shell in a terminal.
//!
//! # Limitations
//! All this is compiled, and has never been run.
//!
//! - The system keeps the time of the start by the wall clock. A change of that clock seems to move the start of all running
//!   processes; [`START_PRECISION_MS`] allows for small corrections.
//! - The command line can be read only of processes of the same user (of all by root).
//! - The directory of another process is not asked for: the kernel shows it only for holders of a lock.

use std::{ffi::OsString, mem::size_of_val, os::fd::OwnedFd, os::unix::ffi::OsStringExt as _, path::PathBuf, ptr};

use libc::c_int;
use rustix::event::kqueue;

use super::ProcessState;

/// How far [`ProcessState::started_ms`] may be from the truth: the clock's correction since then. A process that starts
/// within this time after another has ended does not get its number: 99,998 others would have to come first.
pub(super) const START_PRECISION_MS: u64 = 10_000;

/// The offsets of the fields in the `struct kinfo_proc` of 64-bit systems (`sys/sysctl.h`, `sys/proc.h`).
mod kinfo {
    pub(super) const BYTES: usize = 648;
    /// `kp_proc.p_un.__p_starttime`
    pub(super) const START: usize = 0;
    /// `kp_proc.p_stat`
    pub(super) const STATUS: usize = 36;
    /// `kp_proc.p_pid`
    pub(super) const PID: usize = 40;
    /// `kp_eproc.e_ucred.cr_uid`
    pub(super) const USER: usize = 420;
    /// `kp_eproc.e_ppid`
    pub(super) const PARENT: usize = 560;
}

/// Tells whether the control group of a process is frozen: the system has none.
pub(super) fn is_frozen(_pid: u32) -> Option<bool> {
    Some(false)
}

/// Reads the state of a process; `None` when there is none.
pub(crate) fn process_state(pid: u32) -> Option<ProcessState> {
    /// Bytes of a `struct timeval`.
    const TIME_BYTES: usize = 16;
    let process = entry(pid)?;
    let start = microseconds(&process, kinfo::START)?;
    let boot = microseconds(&sysctl(&mut [libc::CTL_KERN, libc::KERN_BOOTTIME], TIME_BYTES)?, 0)?;
    let status = u32::from(*process.get(kinfo::STATUS)?);
    Some(ProcessState {
        parent: unsigned(&process, kinfo::PARENT)?,
        start,
        started_ms: start.saturating_sub(boot) / 1000,
        stopped: status == libc::SSTOP,
        zombie: status == libc::SZOMB,
    })
}

/// All processes.
#[expect(unsafe_code, reason = "there is no safe form of proc_listallpids")]
pub(crate) fn all_processes() -> Vec<u32> {
    /// Room for those that start between counting and listing.
    const MORE: usize = 64;
    // SAFETY: without a buffer it only counts.
    let count = unsafe { libc::proc_listallpids(ptr::null_mut(), 0) };
    let mut pids: Vec<c_int> = vec![0; usize::try_from(count).unwrap_or(0) + MORE];
    let Ok(bytes) = c_int::try_from(size_of_val(pids.as_slice())) else { return Vec::new() };
    // SAFETY: the buffer has room for this many bytes during the whole call, and any bytes are numbers.
    let count = unsafe { libc::proc_listallpids(pids.as_mut_ptr().cast(), bytes) };
    pids.truncate(usize::try_from(count).unwrap_or(0));
    pids.into_iter().filter_map(|pid| u32::try_from(pid).ok()).collect()
}

/// The command line of another process, if it may be read.
pub(crate) fn command_line(pid: u32) -> Option<Vec<String>> {
    /// `ARG_MAX` of `sys/syslimits.h`: there is never more, and more may not be asked for.
    const MOST: usize = 1 << 20;
    words(&sysctl(&mut [libc::CTL_KERN, libc::KERN_PROCARGS2, c_int::try_from(pid).ok()?], MOST)?)
}

/// The words in what `KERN_PROCARGS2` tells: their number, the program's path, NULs up to an even address, and then the
/// words (and the environment), with a NUL after each.
fn words(output: &[u8]) -> Option<Vec<String>> {
    let count = usize::try_from(unsigned(output, 0)?).ok()?;
    let after_count = output.get(4..)?;
    let padding = after_count.get(after_count.iter().position(|&byte| byte == 0)?..)?;
    let words = padding.get(padding.iter().position(|&byte| byte != 0)?..)?;
    let words = words.split(|&byte| byte == 0).take(count);
    let words: Vec<String> = words.map(|word| String::from_utf8_lossy(word).into_owned()).collect();
    (!words.is_empty()).then_some(words)
}

/// The user that another process runs as.
pub(crate) fn process_owner(pid: u32) -> Option<u32> {
    unsigned(&entry(pid)?, kinfo::USER)
}

/// The pid namespace of another process: there are none.
pub(crate) fn pid_namespace_of(_pid: u32) -> Option<u64> {
    None
}

/// The directory of another process: not asked for.
pub(crate) fn working_directory(_pid: u32) -> Option<PathBuf> {
    None
}

/// There are no namespaces of pids.
pub(crate) fn is_pid_in_any_namespace(_pid: u32) -> bool {
    false
}

pub(crate) fn working_directory_id(_pid: u32) -> Option<crate::sys::FileId> {
    None
}

/// Tells whether a process waits for a FIFO: not known here.
pub(crate) fn waits_for_fifo(_pid: u32) -> bool {
    false
}

/// Tells whether a process opens a FIFO: not known here.
pub(crate) fn opens_fifo(_pid: u32) -> bool {
    false
}

/// The program that a process runs; `None` if it has been removed.
#[expect(unsafe_code, reason = "there is no safe form of proc_pidpath")]
pub(crate) fn executable(pid: u32) -> Option<PathBuf> {
    const MOST: u32 = libc::PROC_PIDPATHINFO_MAXSIZE.unsigned_abs();
    let pid = c_int::try_from(pid).ok()?;
    let mut path = vec![0_u8; MOST as usize];
    // SAFETY: the buffer has room for this many bytes during the whole call.
    let length = unsafe { libc::proc_pidpath(pid, path.as_mut_ptr().cast(), MOST) };
    path.truncate(usize::try_from(length).ok()?);
    (!path.is_empty()).then(|| OsString::from_vec(path).into())
}

/// A descriptor that becomes readable when the process has ended: a moment before the table shows it as ended, but after
/// its files were closed. Nobody takes the event out, so it stays readable. A child of a fork does not inherit it.
#[expect(unsafe_code, reason = "an event could name a descriptor that is closed too early")]
pub(super) fn watch(pid: u32) -> Option<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw)?;
    let end = kqueue::EventFilter::Proc { pid, flags: kqueue::ProcessEvents::EXIT };
    let end = kqueue::Event::new(end, kqueue::EventFlags::ADD, ptr::null_mut());
    let queue = kqueue::kqueue().ok()?;
    let nothing: &mut [kqueue::Event] = &mut [];
    // SAFETY: the event names a process, no descriptor.
    unsafe { kqueue::kevent_timespec(&queue, &[end], nothing, None) }.ok()?;
    Some(queue)
}

/// The `struct kinfo_proc` of a process.
fn entry(pid: u32) -> Option<Vec<u8>> {
    let number = c_int::try_from(pid).ok()?;
    let name = &mut [libc::CTL_KERN, libc::KERN_PROC, libc::KERN_PROC_PID, number];
    // Of a process that does not exist it tells nothing, without an error.
    sysctl(name, kinfo::BYTES).filter(|process| unsigned(process, kinfo::PID) == Some(pid))
}

/// Asks the kernel for what has this name and no more than this many bytes.
#[expect(unsafe_code, reason = "there is no safe form of sysctl")]
fn sysctl(name: &mut [c_int], most: usize) -> Option<Vec<u8>> {
    let mut output = vec![0; most];
    let mut length = most;
    let levels = libc::c_uint::try_from(name.len()).ok()?;
    // SAFETY: the name and the buffer have the lengths given and live for the whole call; without a new value it only
    // asks.
    let result = unsafe {
        libc::sysctl(name.as_mut_ptr(), levels, output.as_mut_ptr().cast(), &raw mut length, ptr::null_mut(), 0)
    };
    output.truncate(length);
    (result == 0).then_some(output)
}

fn unsigned(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes)
}

/// A `struct timeval`: seconds in 64 bits, microseconds in 32.
fn microseconds(bytes: &[u8], at: usize) -> Option<u64> {
    let seconds = bytes.get(at..)?.first_chunk().copied().map(u64::from_ne_bytes)?;
    Some(seconds.checked_mul(1_000_000)? + u64::from(unsigned(bytes, at + 8)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found_behind_the_path_and_before_the_environment() {
        let output = [&2_u32.to_ne_bytes()[..], b"/bin/sh\0\0\0\0sh\0-c\0HOME=/\0"].concat();
        assert_eq!(words(&output), Some(vec!["sh".to_owned(), "-c".to_owned()]));
        assert_eq!(words(&output[..4]), None);
    }
}
