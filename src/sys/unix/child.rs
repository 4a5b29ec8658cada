//! Reads what a child prints, and looks at the child while it prints nothing.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::OwnedFd,
    process::{Child, ChildStdout, ExitStatus, Output},
    time::Duration,
};

use super::{Process, fd, poll};
use crate::sys::{Event, Retry};

/// How long a child may print nothing before it is looked at, again and again.
const QUIET: Duration = Duration::from_secs(1);
/// How often to look for the end of a child if the system gives no handle for that.
const PAUSE: Duration = Duration::from_millis(20);

/// Looks at a quiet child, by its pid. Its error ends the wait.
pub(crate) type Look = fn(u32) -> io::Result<()>;

/// The output of a running child.
#[derive(Debug)]
pub(crate) struct Printed {
    pipe: ChildStdout,
    pid: u32,
    look: Look,
}

/// Takes the output of a child to read; `None` if it goes elsewhere. An error of `look` is one of reading.
pub(crate) fn printed_by(child: &mut Child, look: Look) -> Option<Printed> {
    let pid = child.id();
    child.stdout.take().map(|pipe| Printed { pipe, pid, look })
}

impl Read for Printed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !poll(&[Event::Readable(fd(&self.pipe))], Some(QUIET))?[0] {
            (self.look)(self.pid)?;
        }
        self.pipe.read(buffer)
    }
}

/// Waits for a child and collects what it prints.
///
/// # Errors
/// That of `look`, which has to end the child.
pub(crate) fn output_of(mut child: Child, look: Look) -> io::Result<Output> {
    let out = child.stdout.take().map(OwnedFd::from);
    let err = child.stderr.take().map(OwnedFd::from);
    let printed = read_all([out, err].map(|pipe| pipe.map(File::from)), || look(child.id()));
    let status = end_of(&mut child, look)?;
    let [stdout, stderr] = printed?;
    Ok(Output { status, stdout, stderr })
}

fn read_all(mut pipes: [Option<File>; 2], look: impl Fn() -> io::Result<()>) -> io::Result<[Vec<u8>; 2]> {
    let mut texts = [Vec::new(), Vec::new()];
    let mut buffer = vec![0; 1 << 16];
    loop {
        let open = || pipes.iter().zip(0..).filter_map(|(pipe, number)| Some((pipe.as_ref()?, number)));
        let events: Vec<_> = open().map(|(pipe, _)| Event::Readable(fd(pipe))).collect();
        let numbers: Vec<usize> = open().map(|(_, number)| number).collect();
        if events.is_empty() {
            return Ok(texts);
        }
        let ready = poll(&events, Some(QUIET))?;
        if !ready.contains(&true) {
            look()?;
        }
        for number in numbers.into_iter().zip(ready).filter_map(|(number, ready)| ready.then_some(number)) {
            match pipes[number].as_mut().map_or(Ok(0), |pipe| pipe.read(&mut buffer)) {
                Ok(0) => pipes[number] = None,
                Ok(read) => texts[number].extend_from_slice(&buffer[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Waits for the end of a child.
///
/// # Errors
/// As [`output_of`].
pub(crate) fn end_of(child: &mut Child, look: Look) -> io::Result<ExitStatus> {
    if let Some(status) = child.try_wait()? {
        return Ok(status);
    }
    let process = Process::open(child.id());
    let mut looks = Retry::every(PAUSE).into_iter();
    loop {
        let Some(end) = process.end() else {
            looks.next();
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            look(child.id())?;
            continue;
        };
        if poll(&[end], Some(QUIET))?[0] {
            return child.wait();
        }
        look(child.id())?;
    }
}
