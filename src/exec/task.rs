//! Describes a command, what it finds around it, and how it ended.

use std::{
    ffi::OsString,
    io,
    os::fd::OwnedFd,
    path::PathBuf,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use crate::repo::ExpectedHead;

/// The name of the program that this library is a part of.
pub(crate) const PROGRAM: &str = "repoguard";

/// A command, what it finds around it, and how long it may run.
///
/// # Example
/// ```
/// use std::time::Duration;
/// use repoguard::run::{Stream, Task};
///
/// let task = Task::new(["make", "release"])
///     .directory("/srv/build")
///     .environment("MAKEFLAGS", "-j4")
///     .stdin(Stream::Null)
///     .max_hold(Duration::from_secs(600));
/// # assert_eq!(task.command, ["make", "release"]);
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Task {
    /// Program and arguments; never empty.
    pub command: Vec<OsString>,
    /// Its directory. `None`: this process's directory.
    pub directory: Option<PathBuf>,
    /// Variables that are set, or removed (`None`), beside what it inherits. The last counts.
    pub environment: Vec<(OsString, Option<OsString>)>,
    /// Its standard input.
    pub stdin: Stream,
    /// Its standard output.
    pub stdout: Stream,
    /// Its standard error.
    pub stderr: Stream,
    /// After this long, SIGTERM goes to it and to all its descendants.
    pub max_hold: Option<Duration>,
    /// How long after that, or after a cancel, it is killed.
    pub kill_after: Duration,
    /// The HEAD that it needs: else the command does not run.
    pub expect: ExpectedHead,
    /// Whether SIGTERM to the process that runs it ends it with all its descendants, as `max_hold` does. Else it is passed on.
    pub term_ends_all: bool,
    /// The `repoguard` program that runs it for [`Repo::exec`](crate::Repo::exec): a path, or a name to look up in `PATH`.
    pub program: PathBuf,
}

impl Task {
    /// A command that runs here and as long as it likes, with this process's input and output.
    pub fn new<S: Into<OsString>>(command: impl IntoIterator<Item = S>) -> Self {
        Self {
            command: command.into_iter().map(Into::into).collect(),
            directory: None,
            environment: Vec::new(),
            stdin: Stream::Inherit,
            stdout: Stream::Inherit,
            stderr: Stream::Inherit,
            max_hold: None,
            kill_after: Duration::from_secs(10),
            expect: ExpectedHead::default(),
            term_ends_all: false,
            program: PathBuf::from(PROGRAM),
        }
    }

    /// Sets [`Task::directory`].
    #[must_use]
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// Adds a variable to [`Task::environment`].
    #[must_use]
    pub fn environment(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), Some(value.into())));
        self
    }

    /// Removes a variable from what the command inherits.
    #[must_use]
    pub fn without_environment(mut self, name: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), None));
        self
    }

    /// Sets [`Task::stdin`].
    #[must_use]
    pub fn stdin(mut self, stream: Stream) -> Self {
        self.stdin = stream;
        self
    }

    /// Sets [`Task::stdout`].
    #[must_use]
    pub fn stdout(mut self, stream: Stream) -> Self {
        self.stdout = stream;
        self
    }

    /// Sets [`Task::stderr`].
    #[must_use]
    pub fn stderr(mut self, stream: Stream) -> Self {
        self.stderr = stream;
        self
    }

    /// Sets [`Task::max_hold`].
    #[must_use]
    pub fn max_hold(mut self, max_hold: Duration) -> Self {
        self.max_hold = Some(max_hold);
        self
    }

    /// Sets [`Task::kill_after`].
    #[must_use]
    pub fn kill_after(mut self, kill_after: Duration) -> Self {
        self.kill_after = kill_after;
        self
    }

    /// Sets [`Task::expect`].
    #[must_use]
    pub fn expect(mut self, expect: ExpectedHead) -> Self {
        self.expect = expect;
        self
    }

    /// Sets [`Task::program`].
    #[must_use]
    pub fn program(mut self, program: impl Into<PathBuf>) -> Self {
        self.program = program.into();
        self
    }

    /// Prepares a process that is to become the command: its directory, its variables, its input and output.
    ///
    /// # Errors
    /// If an open file cannot be shared.
    pub(super) fn prepare(&self, command: &mut Command) -> io::Result<()> {
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        for (name, value) in &self.environment {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        self.connect(command)
    }

    /// Gives a process the command's input and output.
    ///
    /// # Errors
    /// If an open file cannot be shared.
    pub(crate) fn connect(&self, command: &mut Command) -> io::Result<()> {
        for (stream, set) in [
            (&self.stdin, Command::stdin::<Stdio> as fn(&mut Command, Stdio) -> &mut Command),
            (&self.stdout, Command::stdout::<Stdio>),
            (&self.stderr, Command::stderr::<Stdio>),
        ] {
            if let Some(stdio) = stream.to_stdio()? {
                set(command, stdio);
            }
        }
        Ok(())
    }
}

/// The source of a command's input, or the destination of its output.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub enum Stream {
    /// This process's own.
    #[default]
    Inherit,
    /// `/dev/null`.
    Null,
    /// An open file, or an end of a pipe ([`std::io::pipe`]).
    File(Arc<OwnedFd>),
}

impl Stream {
    /// To or from an open file, or an end of a pipe. The command gets a copy.
    ///
    /// # Example
    /// ```
    /// use std::io::Read as _;
    /// use repoguard::run::{Stream, Task};
    ///
    /// let (mut reader, writer) = std::io::pipe()?;
    /// let task = Task::new(["git", "status"]).stdout(Stream::file(writer));
    /// // Run it, then drop it: the reader sees the end once every copy of the writer is closed.
    /// drop(task);
    /// assert_eq!(reader.read(&mut [0])?, 0);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn file(file: impl Into<OwnedFd>) -> Self {
        Self::File(Arc::new(file.into()))
    }

    /// `None` if it is inherited.
    pub(crate) fn to_stdio(&self) -> io::Result<Option<Stdio>> {
        Ok(match self {
            Self::Inherit => None,
            Self::Null => Some(Stdio::null()),
            Self::File(file) => Some(Stdio::from(file.try_clone()?)),
        })
    }
}

/// How a command ended, or why it never ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It ended with this status.
    Exited(i32),
    /// It died of this signal.
    Signaled(i32),
    /// It held the lock for too long, and was ended.
    Overtime,
    /// The program does not exist.
    NotFound,
    /// There is one, but it cannot be run.
    NotExecutable,
    /// It could not be started for another reason.
    Failed,
    /// It ended, but the lock was not held exclusively to the end.
    Lost,
}

impl Ending {
    /// The exit status that stands for it.
    #[must_use]
    pub fn status(self) -> i32 {
        match self {
            Self::Exited(status) => status,
            Self::Signaled(signal) => 128 + signal,
            Self::Lost => 76,
            Self::Overtime => 124,
            Self::Failed => 125,
            Self::NotExecutable => 126,
            Self::NotFound => 127,
        }
    }
}
