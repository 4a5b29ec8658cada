//! Runs commands and mutations for programs with threads, by the `repoguard` program.
//!
//! A process with threads cannot fork safely, and signals and children belong to all of it. So the program works in its place: it
//! holds the lock, runs the command, and leaves a report (`report`). This process starts one child, waits for that child alone, and
//! changes no signal handler.
//!
//! The holds of the calling thread or task are around the command: the program gets the token of the newest.

#![expect(clippy::disallowed_methods, reason = "this module starts the program that starts the command")]

#[cfg(feature = "tokio")]
mod future;
mod report;

use std::{
    ffi::OsString,
    io::{self, BufRead as _, BufReader, PipeReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command},
    time::Duration,
};

use super::{IsolatedWorktree, Mutated, Mutation, Outcome, Write, worktree};
use crate::{
    error::{Error, Result},
    exec::{PROGRAM, Stream, Task},
    fs,
    holder::Mode,
    lock::{self, Request, Scope},
    repo::Repo,
    sys::{self, Event},
};
use report::Report;

/// How often to look whether the program has ended, if the system gives no handle for that.
const LOOK: Duration = Duration::from_millis(20);

/// The longest timeout that the program takes, about a hundred years.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

impl Repo {
    /// Runs a command while the lock that `request` describes is held; blocks until the command has ended.
    ///
    /// For any program, with threads or without: the `repoguard` program ([`Task::program`]) runs the command. The command never runs
    /// without the lock, even if this process or that one is killed. If this thread or task holds a lock, the command runs inside of it.
    /// Nothing is printed.
    ///
    /// # Errors
    /// [`Error::NoProgram`] if the program cannot be started. [`Error::Busy`], [`Error::Deadlock`], [`Error::Interrupted`] if the lock
    /// was not acquired. [`Error::Program`] with the program's own message for everything else. The command did not run then.
    ///
    /// # Example
    /// ```no_run
    /// use repoguard::{Repo, Request, run::Task};
    ///
    /// let repo = Repo::discover(std::path::Path::new("."))?;
    /// let outcome = repo.exec(&Request::default(), &Task::new(["git", "commit", "-am", "a change"]))?;
    /// println!("ended with {} after {:?}", outcome.ending.status(), outcome.held);
    /// # Ok::<(), repoguard::Error>(())
    /// ```
    pub fn exec(&self, request: &Request, task: &Task) -> Result<Outcome> {
        self.exec_by_program(request, task, None)?.wait()?.outcome()
    }

    /// Runs a command as [`Repo::exec`] does. If the lock is busy, the command runs in a linked worktree of its own instead, which is
    /// returned; blocks until the command has ended.
    ///
    /// # Errors
    /// As [`Repo::exec`]. [`Error::Busy`] if somebody holds everything, so that no worktree can be made.
    pub fn exec_in_worktree(
        &self,
        request: &Request,
        options: &worktree::Options,
        task: &Task,
    ) -> Result<(Outcome, Option<IsolatedWorktree>)> {
        options.check(self)?;
        let report = self.exec_by_program(request, task, Some(options))?.wait()?;
        let isolated = report.isolated();
        Ok((report.outcome()?, isolated))
    }

    /// Makes a change that lands whole or leaves no trace, while a worktree is held alone; blocks until it has ended. Killed at any
    /// instant, the next caller who acquires the lock undoes or finishes it. A closure runs in this thread.
    ///
    /// # Errors
    /// [`Error::NoProgram`], [`Error::Busy`], [`Error::Deadlock`], [`Error::Interrupted`], [`Error::Program`] if nothing was begun,
    /// [`Error::Unsupported`] for a closure with [`Landing::Show`](super::Landing::Show). [`Mutated`] has what happens later; a
    /// reason that only the program knows is a message in it.
    ///
    /// # Example
    /// ```no_run
    /// use repoguard::{Repo, Request, mutation::{Mutation, Write}};
    ///
    /// let repo = Repo::discover(std::path::Path::new("."))?;
    /// let mutation = Mutation::new("the next version");
    /// let mut bump = || std::fs::write("VERSION", "1.1\n");
    /// let mutated = repo.mutate(&Request::default(), &mutation, Write::Closure(&mut bump))?;
    /// println!("{:?}: {:?}", mutated.result, mutated.changed);
    /// # Ok::<(), repoguard::Error>(())
    /// ```
    pub fn mutate(&self, request: &Request, mutation: &Mutation, write: Write<'_>) -> Result<Mutated> {
        match write {
            Write::Command(command) => self.mutate_by_program(request, mutation, Task::new(command))?.wait()?.mutated(),
            Write::Closure(closure) => self.mutate_by_closure(request, mutation, closure),
        }
    }

    fn mutate_by_closure(
        &self,
        request: &Request,
        mutation: &Mutation,
        closure: &mut dyn FnMut() -> io::Result<()>,
    ) -> Result<Mutated> {
        /// The command announces its turn, and ends with the status that it reads. If this process ends first, it fails.
        const TURN: &str = "echo && read -r status && exit \"$status\"";
        if mutation.landing == super::Landing::Show {
            return Err(Error::Unsupported { what: "to show the change of a closure" });
        }
        let pipe = || io::pipe().map_err(Error::io("make a pipe for", self.root()));
        let ((answer, mut answers), (turns, ticket)) = (pipe()?, pipe()?);
        let task = Task::new(["/bin/sh", "-c", TURN]).stdin(Stream::file(answer)).stdout(Stream::file(ticket));
        let running = self.mutate_by_program(request, mutation, task)?;
        let mut line = String::new();
        let mut failed = None;
        // Without a line it has ended before the closure's turn.
        if BufReader::new(&turns).read_line(&mut line).is_ok_and(|read| read > 0) {
            failed = closure().err();
            // If nobody reads it, the program reports why.
            drop(answers.write_all(if failed.is_some() { b"1\n" } else { b"0\n" }));
        }
        drop(turns);
        let mut mutated = running.wait()?.mutated()?;
        if let (Some(error), super::Landed::Failed(failure)) = (failed, &mut mutated.result) {
            failure.why = super::FailureReason::Trouble(Error::io("change", self.root())(error));
        }
        Ok(mutated)
    }

    fn exec_by_program(&self, request: &Request, task: &Task, worktree: Option<&worktree::Options>) -> Result<Running> {
        let mut arguments = Arguments::new("exec", self, request);
        arguments.limits(task.max_hold, task.kill_after);
        arguments.expect(&task.expect);
        if request.mode == Mode::Shared {
            arguments.flag("--shared");
        }
        match worktree {
            Some(options) => {
                arguments.option("--on-busy", "worktree");
                arguments.maybe("--worktree-dir", options.directory.as_ref());
                arguments.maybe("--branch", options.branch.as_ref());
            }
            None if request.timeout == Some(Duration::MAX) => arguments.option("--on-busy", "wait"),
            None => {}
        }
        arguments.maybe("--command-directory", task.directory.as_ref());
        Running::start(task, arguments, None)
    }

    /// Its input, output and command are those of `task`.
    fn mutate_by_program(&self, request: &Request, mutation: &Mutation, task: Task) -> Result<Running> {
        let mut arguments = Arguments::new("mutate", self, request);
        arguments.limits(mutation.max_hold, mutation.kill_after);
        arguments.expect(&mutation.expect);
        for (option, values) in [
            ("--message", &mutation.message),
            ("--check", &mutation.checks),
            ("--verify", &mutation.verifies),
            ("--paths", &mutation.paths),
        ] {
            for value in values {
                arguments.option(option, value);
            }
        }
        for (option, is_set) in [
            ("--allow-dirty", mutation.allow_dirty),
            ("--untracked=no", !mutation.untracked),
            ("--allow-empty", mutation.allow_empty),
            ("--fence", mutation.fence),
            ("--no-commit", mutation.landing == super::Landing::Stage),
            ("--dry-run", mutation.landing == super::Landing::Show),
        ] {
            if is_set {
                arguments.flag(option);
            }
        }
        let directory = mutation.directory.clone().unwrap_or_else(|| self.directory_of_steps());
        Running::start(&task.program(&mutation.program), arguments, Some(&directory))
    }

    /// The directory of a mutation's steps: this process's if it is in the worktree, else the top.
    fn directory_of_steps(&self) -> PathBuf {
        let here = std::env::current_dir().ok().filter(|here| here.starts_with(self.root()));
        here.unwrap_or_else(|| self.root().to_owned())
    }
}

/// The program's command line.
struct Arguments(Vec<OsString>);

impl Arguments {
    fn new(verb: &str, repo: &Repo, request: &Request) -> Self {
        let mut arguments = Self(vec![verb.into()]);
        arguments.flag("--silent");
        arguments.option("--repository", repo.root());
        arguments.maybe("--git-dir", repo.git_dir());
        if let Some(timeout) = request.timeout {
            arguments.duration("--timeout", timeout);
        }
        match request.scope {
            Some(Scope::Repo) => arguments.option("--scope", "repo"),
            Some(Scope::Worktree) => arguments.option("--scope", "worktree"),
            None => {}
        }
        for name in &request.names {
            arguments.option("--name", name);
        }
        arguments.maybe("--reason", request.reason.as_ref());
        arguments.maybe("--metadata", request.metadata.as_ref().map(ToString::to_string));
        arguments
    }

    fn flag(&mut self, name: &str) {
        self.0.push(name.into());
    }

    /// In one argument, so that a value may begin with a hyphen.
    fn option(&mut self, name: &str, value: impl Into<OsString>) {
        let mut argument = OsString::from(format!("{name}="));
        argument.push(value.into());
        self.0.push(argument);
    }

    fn maybe(&mut self, name: &str, value: Option<impl Into<OsString>>) {
        if let Some(value) = value {
            self.option(name, value);
        }
    }

    fn duration(&mut self, name: &str, duration: Duration) {
        let duration = duration.min(LONGEST);
        self.option(name, format!("{}.{:09}", duration.as_secs(), duration.subsec_nanos()));
    }

    fn limits(&mut self, max_hold: Option<Duration>, kill_after: Duration) {
        if let Some(max_hold) = max_hold {
            self.duration("--max-hold", max_hold);
        }
        self.duration("--kill-after", kill_after);
    }

    fn expect(&mut self, expected: &crate::repo::ExpectedHead) {
        self.maybe("--expect-head", expected.revision.as_ref());
        self.maybe("--expect-branch", expected.branch.as_ref());
    }
}

/// A variable of the environment as the program reads it.
fn entry((name, value): &(OsString, Option<OsString>)) -> Vec<u8> {
    let mut entry = sys::bytes(name).into_owned();
    if let Some(value) = value {
        entry.push(b'=');
        entry.extend_from_slice(&sys::bytes(value));
    }
    entry.push(0);
    entry
}

/// The program at work.
struct Running {
    child: Child,
    /// The file of its report.
    report: tempfile::NamedTempFile,
    /// The command's variables, there until the program has ended.
    _environment: Option<tempfile::NamedTempFile>,
}

impl Running {
    /// Starts the program for a task's command, in another directory if one is given.
    fn start(task: &Task, mut arguments: Arguments, here: Option<&Path>) -> Result<Self> {
        let report = fs::named_temporary()?;
        let mut program = Command::new(&task.program);
        // In a file: others see the arguments of a process.
        let mut environment = None;
        if !task.environment.is_empty() {
            let file = environment.insert(fs::named_temporary()?);
            let entries: Vec<u8> = task.environment.iter().flat_map(entry).collect();
            file.write_all(&entries).map_err(Error::io("write", file.path()))?;
            arguments.option("--environment", file.path());
        }
        program.envs(lock::environment_around());
        program.args(arguments.0).arg("--result-file").arg(report.path()).arg("--").args(&task.command);
        let child = task.connect(&mut program).and_then(|()| {
            if let Some(directory) = here {
                program.current_dir(directory);
            }
            program.spawn()
        });
        let child = child.map_err(|source| Error::NoProgram { path: task.program.clone(), source })?;
        Ok(Self { child, report, _environment: environment })
    }

    /// Blocks until it has ended.
    fn wait(self) -> Result<Report> {
        self.wait_until(None)
    }

    /// Blocks until it has ended. Once the writer of `stop` is closed, SIGTERM makes the program end the command with all its
    /// descendants.
    fn wait_until(mut self, stop: Option<&PipeReader>) -> Result<Report> {
        let failed = |source| Error::Io { action: "wait for", path: PROGRAM.into(), source };
        let process = sys::Process::open(self.child.id());
        let mut stop = stop;
        loop {
            if let Some(status) = self.child.try_wait().map_err(failed)? {
                return Report::read(&self.report, status);
            }
            let end = process.end();
            // Without a handle it is looked at again and again.
            let pause = end.is_none().then_some(LOOK);
            let events = stop.map(|stop| Event::Readable(sys::fd(stop))).into_iter().chain(end);
            let happened = sys::poll(&events.collect::<Vec<_>>(), pause).map_err(failed)?;
            if stop.is_some() && happened[0] {
                sys::send(self.child.id(), sys::TERMINATE);
                stop = None;
            }
        }
    }
}
