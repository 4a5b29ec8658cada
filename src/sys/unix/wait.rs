//! Waits for descriptors.

use std::{io, time::Duration};

use rustix::event::{PollFd, PollFlags, Timespec};

use crate::sys::Event;

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
