//! Waiting: for descriptors, and for a flock(2) in a way that can be given up.

use std::{
    fs::File,
    io::{self, PipeReader, pipe},
    os::fd::AsFd,
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
const TAKE_WITHIN: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

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
    reader: PipeReader,
}

impl FlockHelper {
    /// Starts waiting for the lock of `file`. `ticket` is our place in the queue, which must die with us, not with
    /// the helper.
    pub(crate) fn start(file: &File, exclusive: bool, ticket: Option<FdRef<'_>>) -> io::Result<Self> {
        let (reader, writer) = pipe()?;
        let parent = rustix::process::getpid();
        match fork()? {
            Forked::Parent(pid) => {
                let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
                Ok(Self { pid, reader })
            }
            // Only async-signal-safe calls from here on: another thread may have held any lock at the fork.
            Forked::Child => {
                die_with_parent(parent);
                if let Some(ticket) = ticket {
                    close_in_child(ticket);
                }
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
        let _ = rustix::process::kill_process(self.pid, Signal::KILL);
        while let Err(rustix::io::Errno::INTR) = rustix::process::waitpid(Some(self.pid), WaitOptions::empty()) {}
    }
}

#[cfg(target_os = "linux")]
fn die_with_parent(parent: Pid) {
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    // The parent may have died before the call.
    if rustix::process::getppid() != Some(parent) {
        exit_now(0)
    }
}

#[cfg(not(target_os = "linux"))]
fn die_with_parent(_parent: Pid) {}

#[expect(unsafe_code, reason = "the child of a fork drops its copy of a descriptor that only its parent may close")]
fn close_in_child(descriptor: FdRef<'_>) {
    // SAFETY: this process exits without running destructors, so nobody closes or uses the number again.
    unsafe { rustix::io::close(std::os::fd::AsRawFd::as_raw_fd(&descriptor)) };
}
