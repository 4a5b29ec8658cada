//! Runs a command as if repoguard were not there, and never without the lock.
//!
//! Three processes in one process group: the *wrapper* (who was called), the command (its child), and the *keeper* (its
//! other child, made a moment later). Wrapper and keeper share the lock's open files, and the command inherits them:
//!
//! - the command ends: the wrapper records it, releases the lock, and ends with the command's status;
//! - the wrapper is killed: the keeper waits until the command has ended, records it and releases the lock;
//! - the keeper is killed: the wrapper makes another one;
//! - both are killed: the lock lives in the command's descriptors.
//!
//! A daemon that the command leaves behind has the descriptors, too, but an unlock counts for all of them.

#![expect(clippy::disallowed_methods, reason = "this is the module that starts the wrapped command")]

mod channel;
mod keeper;
mod signals;
mod task;
mod tree;
mod wrapper;

pub(crate) use task::PROGRAM;
pub use task::{Ending, Stream, Task};
pub(crate) use wrapper::run;

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read as _},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use crate::{
    env,
    sys::{self, Signals},
};

/// Ends this process by a signal, as the command did; returns only if the signal is blocked.
pub fn die_of(signal: i32) {
    sys::die_of(signal);
}

/// Makes a write of this process beyond its limit of file sizes (`ulimit -f`) fail, instead of ending it by SIGXFSZ, and children
/// be waited for, also if SIGCHLD is ignored. A program whose locks must be released and logged under such a limit calls it at its
/// start. It hands both signals down to its commands as they were.
pub fn prepare_signals() {
    sys::prepare_signals();
}

/// Replaces this process by another program, as a shell's `exec` does. `input` is its standard input, if that was read already.
/// Returns only if it fails.
#[must_use]
pub fn replace_by(program: &Path, arguments: &[OsString], input: Option<&[u8]>) -> io::Error {
    let stdin = match input.map(crate::fs::nameless).transpose() {
        Ok(stdin) => stdin,
        Err(error) => return error,
    };
    let start = |program: &Path, before: &[&Path]| {
        let mut command = Command::new(program);
        command.args(before).args(arguments);
        if let Some(Ok(stdin)) = stdin.as_ref().map(File::try_clone) {
            command.stdin(stdin);
        }
        sys::replace_by(command)
    };
    match start(program, &[]) {
        // As git does: a script without `#!` is one for the shell.
        error if sys::is_format_error(&error) => start(Path::new("/bin/sh"), &[program]),
        error => error,
    }
}

/// Runs a program with a short `PATH` and without a terminal, as a graphical client would, and tells whether it ends with
/// `status` in time. It finds [`env::TRIAL`] in its environment.
///
/// # Errors
/// When no process can be made.
pub(crate) fn answers(program: &Path, directory: &Path, status: i32, within: Duration) -> io::Result<bool> {
    let answer = sys::status_of_child(within, || {
        let mut command = Command::new(program);
        command.current_dir(directory).env("PATH", "/usr/bin:/bin").env(env::TRIAL, "1");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        drop(sys::replace_by(command));
        -1
    })?;
    Ok(answer == Some(status))
}

/// Runs a line by `sh -c` in a directory, and gives what it prints to `take`, piece by piece; blocks until it has ended. It has
/// no input.
///
/// # Errors
/// When it cannot be started, or its output not be read.
pub(crate) fn read_output(line: &str, directory: &Path, mut take: impl FnMut(&[u8])) -> io::Result<ExitStatus> {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", line]).current_dir(directory).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn()?;
    if let Some(output) = &mut child.stdout {
        let mut piece = vec![0; 64 << 10];
        loop {
            match output.read(&mut piece) {
                Ok(0) => break,
                Ok(read) => take(&piece[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
    child.wait()
}

/// The work around a command: in the wrapper, or in the keeper if the wrapper was killed.
pub(crate) trait RunLifecycle {
    /// The files that the command inherits, so that the lock lives as long as it does.
    fn files(&self) -> Vec<&File>;
    /// The command is about to run.
    fn begin(&mut self);
    /// The command runs as this process: called `early`, right after its start, and again before there is a keeper.
    fn started(&mut self, pid: u32, early: bool);
    /// The wrapper was killed, or has `left` the hold to this process, because somebody works inside of it.
    fn replace(&mut self, left: bool);
    /// Closes the hold to newcomers; `false` if a command still works inside: then the lock must not be released yet.
    fn close(&mut self) -> bool;
    /// The processes inside of the hold that the system shows.
    fn those_inside(&self) -> Vec<u32>;
    /// The command has ended, or never ran: write it down, and say how it ended in the end. `None`: it ended, but only
    /// its parent could know how.
    fn record_end(&mut self, ending: Option<Ending>) -> Ending;
    /// Unlock, for all processes that share the lock.
    fn release(&mut self);
}

/// A command's surroundings, beside what it inherits.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Surroundings<'a> {
    /// Variables to set.
    pub(crate) environment: &'a [(&'static str, OsString)],
    /// Variables to take away.
    pub(crate) without: &'a [&'static str],
    /// Its directory, if not this process's.
    pub(crate) directory: Option<&'a Path>,
    /// Whether what it prints goes where messages go: standard output is somebody else's.
    pub(crate) prints_messages: bool,
    /// Whether all descendants are ended with a command that was told to end: their work is about to be undone.
    pub(crate) ends_whole: bool,
    /// Tells of a command that will never end, by its pid: it is killed. Asked from time to time.
    pub(crate) is_stuck: Option<fn(u32) -> bool>,
}

/// How a run ended, and which signal this process got itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    pub(crate) ending: Ending,
    /// The command died of a signal that was sent to this process, too: it should die of it as well.
    pub(crate) die_of: Option<i32>,
    /// The first signal sent to this process, whatever the command made of it, that asks for an end.
    pub(crate) interrupted: Option<i32>,
    /// It was killed because it would never have ended.
    pub(crate) was_stuck: bool,
}

/// Starts the command itself; it inherits the lock's open files.
fn spawn(task: &Task, surroundings: Surroundings<'_>, inherited: &[&File], signals: &Signals) -> Result<Child, Ending> {
    let (program, arguments) = task.command.split_first().ok_or(Ending::NotFound)?;
    // Kept open until the command is running; after that its own copies count.
    let handed: io::Result<Vec<_>> = inherited.iter().map(|file| sys::inheritable_copy(file)).collect();
    let _handed = handed.map_err(|_| Ending::Failed)?;
    let start = |program: &OsStr, arguments: &[OsString]| {
        let mut command = Command::new(program);
        command.args(arguments);
        task.prepare(&mut command)?;
        command.envs(surroundings.environment.iter().map(|(name, value)| (name, value)));
        for name in surroundings.without {
            command.env_remove(name);
        }
        if let Some(directory) = surroundings.directory {
            command.current_dir(directory);
        }
        if surroundings.prints_messages {
            command.stdout(io::stderr());
        }
        if !signals.inheritance.is_usual() {
            signals.inheritance.hand_down(&mut command);
        }
        command.spawn()
    };
    start(program, arguments)
        .or_else(|error| {
            if !sys::is_format_error(&error) {
                return Err(error);
            }
            // As execvp(3) does: a script without `#!` is one for the shell.
            let script = which(program).ok_or(error)?;
            start(OsStr::new("/bin/sh"), &[&[script], arguments].concat())
        })
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Ending::NotFound,
            _ => Ending::NotExecutable,
        })
}

/// The file that a program's name stands for.
fn which(program: &OsStr) -> Option<OsString> {
    if sys::bytes(program).contains(&b'/') {
        return Some(program.to_owned());
    }
    let path = crate::env::get("PATH")?;
    let mut files = std::env::split_paths(&path).map(|directory| directory.join(program));
    files.find(|file| file.is_file()).map(std::path::PathBuf::into_os_string)
}
