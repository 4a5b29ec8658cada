//! Waits for the program in asynchronous code.

use std::{future::poll_fn, io, pin::pin};

use tokio::{runtime::Handle, task::spawn_blocking};

use super::{Report, Running};
use crate::{
    error::{Error, Result},
    exec::Task,
    guard::{Mutated, Mutation, Outcome},
    lock::Request,
    repo::Repo,
};

impl Repo {
    /// Runs a command as [`Repo::exec`] does, without blocking a thread of the runtime's workers.
    ///
    /// If the future is dropped, SIGTERM goes to the command and all its descendants, and SIGKILL after [`Task::kill_after`]. The
    /// runtime waits for that when it shuts down.
    ///
    /// # Errors
    /// As [`Repo::exec`]; [`Error::Unsupported`] outside of a Tokio runtime.
    ///
    /// # Example
    /// ```no_run
    /// # async fn example() -> repoguard::Result<()> {
    /// use repoguard::{Repo, Request, run::Task};
    ///
    /// let repo = Repo::discover(std::path::Path::new("."))?;
    /// let outcome = repo.exec_async(&Request::default(), &Task::new(["make", "release"])).await?;
    /// println!("ended with {}", outcome.ending.status());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn exec_async(&self, request: &Request, task: &Task) -> Result<Outcome> {
        self.exec_cancellable(request, task, std::future::pending()).await
    }

    /// Runs a command as [`Repo::exec_async`] does, until `cancelled` is ready. Then SIGTERM goes to the command and all its
    /// descendants, and SIGKILL after [`Task::kill_after`]; this returns when all of them have ended.
    ///
    /// # Errors
    /// [`Error::Cancelled`]; else as [`Repo::exec_async`].
    pub async fn exec_cancellable(
        &self,
        request: &Request,
        task: &Task,
        cancelled: impl Future<Output = ()>,
    ) -> Result<Outcome> {
        let (report, is_cancelled) = run(|| self.exec_by_program(request, task, None), cancelled).await?;
        if is_cancelled { Err(cancel()) } else { report?.outcome() }
    }

    /// Makes a change by a command as [`Repo::mutate`] does, without blocking a thread of the runtime's workers. If the future is
    /// dropped, the mutation is ended and undone. The runtime waits for that when it shuts down.
    ///
    /// # Errors
    /// As [`Repo::mutate`]; [`Error::Unsupported`] outside of a Tokio runtime.
    pub async fn mutate_async(
        &self,
        request: &Request,
        mutation: &Mutation,
        command: impl IntoIterator<Item = impl Into<std::ffi::OsString>>,
    ) -> Result<Mutated> {
        self.mutate_cancellable(request, mutation, command, std::future::pending()).await
    }

    /// Makes a change as [`Repo::mutate_async`] does, until `cancelled` is ready. Then the mutation is ended and undone; this returns
    /// when that is done. If it has landed by then, it stays so.
    ///
    /// # Errors
    /// [`Error::Cancelled`] if it was undone; else as [`Repo::mutate_async`].
    pub async fn mutate_cancellable(
        &self,
        request: &Request,
        mutation: &Mutation,
        command: impl IntoIterator<Item = impl Into<std::ffi::OsString>>,
        cancelled: impl Future<Output = ()>,
    ) -> Result<Mutated> {
        let start = || self.mutate_by_program(request, mutation, Task::new(command));
        let (report, is_cancelled) = run(start, cancelled).await?;
        match report.and_then(Report::mutated) {
            Ok(mutated) if !is_cancelled || mutated.status() == 0 => Ok(mutated),
            Ok(_) | Err(Error::Interrupted { .. }) if is_cancelled => Err(cancel()),
            result => result,
        }
    }
}

fn cancel() -> Error {
    Error::Cancelled { what: "the command".to_owned() }
}

/// Starts the program, and waits for its end on a thread for blocking work. If this is dropped or cancelled, that thread ends it. Tells
/// whether it was cancelled.
///
/// # Errors
/// Those of starting it.
async fn run(
    start: impl FnOnce() -> Result<Running>,
    cancelled: impl Future<Output = ()>,
) -> Result<(Result<Report>, bool)> {
    if Handle::try_current().is_err() {
        return Err(Error::Unsupported { what: "asynchronous work outside of a Tokio runtime" });
    }
    let (stop, stopper) = io::pipe().map_err(Error::io("make a pipe in", &std::env::temp_dir()))?;
    // Started here: the calling task's holds are around it.
    let running = start()?;
    let mut ended = pin!(spawn_blocking(move || running.wait_until(Some(&stop))));
    let mut cancelled = pin!(cancelled);
    let mut stopper = Some(stopper);
    poll_fn(|context| {
        if stopper.is_some() && cancelled.as_mut().poll(context).is_ready() {
            stopper = None;
        }
        ended.as_mut().poll(context).map(|report| match report {
            Ok(report) => Ok((report, stopper.is_none())),
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        })
    })
    .await
}
