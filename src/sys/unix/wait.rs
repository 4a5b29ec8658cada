//! Waiting: for descriptors, and for a flock(2) in a way that can be given up.

use std::{
    fs::File,
    io::{self, PipeReader, pipe},
    os::fd::{AsFd, AsRawFd as _, OwnedFd, RawFd},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec},
    fs::{FlockOperation, flock},
    process::{Pid, Signal, WaitOptions},
};

use super::process::{exit_now, fork};
use crate::sys::{Event, FdRef, Forked};

/// How long a granted lock waits to be taken: after that its owner is not running (Ctrl-Z), and others go first.
const TAKE_WITHIN: Timespec = Timespec { tv_sec: 0, tv_nsec: 250_000_000 };

/// Waits until one of the events happens or the time is over; tells for each whether it happened.
///
/// A signal that was caught ends the wait early, with nothing happened.
pub(crate) fn poll(events: &[Event<'_>], timeout: Option<Duration>) -> io::Result<Vec<bool>> {
    let mut fds: Vec<PollFd<'_>> = events
        .iter()
        .map(|event| match event {
            Event::Readable(fd) => PollFd::from_borrowed_fd(*fd, PollFlags::IN),
            Event::ReaderGone(fd) => PollFd::from_borrowed_fd(*fd, PollFlags::empty()),
        })
        .collect();
    let timeout = timeout.map(|time| Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: time.subsec_nanos().into(),
    });
    match rustix::event::poll(&mut fds, timeout.as_ref()) {
        Ok(_) => Ok(fds.iter().map(|fd| !fd.revents().is_empty()).collect()),
        Err(rustix::io::Errno::INTR) => Ok(vec![false; events.len()]),
        Err(error) => Err(error.into()),
    }
}

/// A process that waits in the kernel's queue for a flock(2) on an open file that it shares with us.
///
/// The lock belongs to the shared open file, so it is ours as soon as the helper got it, and it cannot be got any
/// more once [`FlockHelper::stop`] has returned. A blocked thread could not be given up: closing its descriptor does
/// not end the call, and it would take the lock later.
pub(crate) struct FlockHelper {
    pid: Pid,
    /// Where the system has them: a number may belong to another process once ours has ended and was reaped by who reaps
    /// all children of this program.
    handle: Option<OwnedFd>,
    reader: PipeReader,
}

impl FlockHelper {
    /// Starts waiting for the lock of `file`. The helper has no other file: our place in the queue must die with us, and so
    /// must all that other threads hold and wait for.
    pub(crate) fn start(file: &File, exclusive: bool) -> io::Result<Self> {
        let (reader, writer) = pipe()?;
        let parent = rustix::process::getpid();
        match fork()? {
            Forked::Parent(pid) => {
                let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
                Ok(Self { pid, handle: open_handle(pid), reader })
            }
            // Only async-signal-safe calls from here on: another thread may have held any lock at the fork.
            Forked::Child => {
                live_with_parent(parent);
                close_all_but(file.as_raw_fd(), writer.as_raw_fd());
                let operation = if exclusive { FlockOperation::LockExclusive } else { FlockOperation::LockShared };
                while flock(file, operation) == Err(rustix::io::Errno::INTR) {}
                let _ = rustix::io::write(&writer, &[1]);
                // The parent kills us as soon as it sees the byte. If it does not, it is stopped and must not hold.
                let _ = rustix::event::poll(&mut [], Some(&TAKE_WITHIN));
                let _ = flock(file, FlockOperation::Unlock);
                exit_now(0)
            }
        }
    }

    /// The process that the kernel names as the taker of the lock, also when it has ended.
    pub(crate) fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Readable once the lock was got, or the helper has ended for another reason.
    pub(crate) fn fd(&self) -> FdRef<'_> {
        self.reader.as_fd()
    }

    /// Ends the helper and waits until it is gone. Whether the lock is ours is told by trying it afterwards.
    pub(crate) fn stop(self) {
        drop(self);
    }
}

impl Drop for FlockHelper {
    fn drop(&mut self) {
        if let Some(handle) = &self.handle {
            end_by_handle(handle);
        } else {
            let _ = rustix::process::kill_process(self.pid, Signal::KILL);
            while let Err(rustix::io::Errno::INTR) = rustix::process::waitpid(Some(self.pid), WaitOptions::empty()) {}
        }
    }
}

#[cfg(target_os = "linux")]
fn open_handle(pid: Pid) -> Option<OwnedFd> {
    rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()
}

#[cfg(not(target_os = "linux"))]
fn open_handle(_pid: Pid) -> Option<OwnedFd> {
    None
}

#[cfg(target_os = "linux")]
fn end_by_handle(handle: &OwnedFd) {
    use rustix::process::{WaitId, WaitIdOptions, pidfd_send_signal, waitid};
    let _ = pidfd_send_signal(handle, Signal::KILL);
    while let Err(rustix::io::Errno::INTR) = waitid(WaitId::PidFd(handle.as_fd()), WaitIdOptions::EXITED) {}
}

#[cfg(not(target_os = "linux"))]
fn end_by_handle(_handle: &OwnedFd) {}

/// Dies when the parent does, however that happens, but is not stopped with it: a helper that was stopped right after it got
/// the lock would keep it.
#[cfg(target_os = "linux")]
fn live_with_parent(parent: Pid) {
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    // The parent may have died before the call.
    if rustix::process::getppid() != Some(parent) {
        exit_now(0)
    }
    // What is sent to all at once, by Ctrl-Z say, is not for us.
    let _ = rustix::process::setpgid(None, None);
}

/// Where nothing tells of the parent's death, it must be killed with all that the parent is killed with.
#[cfg(not(target_os = "linux"))]
fn live_with_parent(_parent: Pid) {}

/// Closes all descriptors but two; async-signal-safe.
#[expect(unsafe_code, reason = "the child of a fork closes its copies of descriptors that only its parent may own")]
fn close_all_but(one: RawFd, other: RawFd) {
    /// Where the system cannot close a range: no program of ours has more.
    const MOST: RawFd = 65_536;
    let (low, high) = (one.min(other), one.max(other));
    for (first, last) in [(0, low - 1), (low + 1, high - 1), (high + 1, RawFd::MAX)] {
        if first > last || close_range(first, last) {
            continue;
        }
        for number in first..=last.min(MOST) {
            // SAFETY: this process exits without running destructors, so nobody closes or uses the number again.
            unsafe { libc::close(number) };
        }
    }
}

#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "rustix has no close_range")]
fn close_range(first: RawFd, last: RawFd) -> bool {
    // SAFETY: as in `close_all_but`.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn close_range(_first: RawFd, _last: RawFd) -> bool {
    false
}
