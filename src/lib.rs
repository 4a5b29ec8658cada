//! One lock for everybody who changes a Git checkout.
//!
//! `repoguard` makes a whole mutation of a repository (read, validate, write, commit) one step that nobody else
//! interleaves with, tells who is in the way, and queues fairly. This crate is what the program of the same name is made
//! of: the program's `cli` module uses only what is public here. `default-features = false` leaves the program's crates out,
//! the feature `tokio` adds what asynchronous code needs.
//!
//! # In two minutes
//! A [`Lock`] is asked, a [`Guard`] is the hold. Between processes the lock is the kernel's, the same that `repoguard exec`, the
//! hooks and `flock(1)` take: nothing stays behind when a holder is killed.
//! ```
//! use repoguard::{Repo, Request};
//!
//! # let directory = tempfile::tempdir()?;
//! # let directory = directory.path();
//! let repo = Repo::discover(directory)?;
//! let lock = repo.lock(Request { reason: Some("nightly import".to_owned()), ..Request::default() })?;
//! let guard = lock.acquire()?; // Blocks, in order of arrival.
//! // Read, change, commit. `guard.fence()` is a number greater than that of all holds before.
//! guard.release()?; // Or drop it.
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//! Trying, waiting for so long, and being told who is in the way:
//! ```
//! use std::time::Duration;
//! use repoguard::{Error, Lock};
//!
//! # let directory = tempfile::tempdir()?;
//! # let directory = directory.path();
//! let lock = Lock::of_file(directory.join("daemon.lock"))?.timeout(Duration::from_secs(5));
//! match lock.try_acquire() {
//!     Ok(guard) => println!("it is ours, as hold {:?}", guard.fence()),
//!     Err(Error::Busy { holders, .. }) => println!("held by {:?}", holders.first().map(|holder| holder.pid)),
//!     Err(error) => return Err(error.into()),
//! }
//! assert!(!lock.is_locked()?); // Takes no lock, and never blocks; `lock.holder()` tells who it is.
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//! Any directory can be locked, a repository or not; several at once in one process:
//! ```
//! use repoguard::Lock;
//!
//! # let root = tempfile::tempdir()?;
//! # let root = root.path();
//! # std::fs::create_dir_all(root.join("fonts"))?;
//! # std::fs::create_dir_all(root.join("icons"))?;
//! let _fonts = Lock::of_directory(root.join("fonts"))?.acquire()?;
//! let _icons = Lock::of_directory(root.join("icons"))?.shared().acquire()?;
//! // Asking again for what this thread holds is an error, never a deadlock.
//! assert!(Lock::of_directory(root.join("fonts"))?.acquire().is_err());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//! In asynchronous code (feature `tokio`) no thread waits, and a future that is dropped leaves nothing behind that could still
//! take the lock:
//! ```
//! # #[cfg(feature = "tokio")] {
//! # use repoguard::Lock;
//! # let directory = tempfile::tempdir()?;
//! # let lock = Lock::of_directory(directory.path())?;
//! # let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
//! # runtime.block_on(async {
//! use tokio_util::sync::CancellationToken;
//!
//! let stop = CancellationToken::new();
//! let guard = lock.acquire_cancellable(stop.cancelled()).await?; // Or `acquire_async`, or `tokio::time::timeout` around it.
//! guard.release()?;
//! # Ok::<(), repoguard::Error>(())
//! # })?; }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//! And a command instead of a guard, which never runs without the lock, whatever is killed:
//! ```no_run
//! use repoguard::{Config, Repo, Request, Task};
//!
//! let repo = Repo::discover(std::path::Path::new("."))?;
//! let config = Config::load(&repo)?;
//! let task = Task::new(["git", "commit", "-am", "a change"]);
//! let outcome = repoguard::exec(&repo, &config, &Request::default(), &task, &mut |notice| eprintln!("{notice:?}"))?;
//! std::process::exit(outcome.ending.status());
//! # Ok::<(), repoguard::Error>(())
//! ```
//! [`mutate()`] lands a change whole or not at all. [`StateFile`] is a JSON document that many write to, section by section,
//! [`Sequence`] gives numbers that nobody else gets, and [`exec_apart`] runs a command in a worktree of its own. The programs
//! in `examples/` are a package manager's lock for each pack, a daemon that runs once, many tasks on one checkout, a lock file
//! with sections, an allocator of ids, and an agent's loop that moves to a worktree.
//!
//! # What one should know
//! - **Who counts as one.** A task where one runs, else a thread. What it holds it cannot ask for again ([`Error::AlreadyHeld`]);
//!   futures that are joined in one task count as one as well: spawn them. A guard that was sent elsewhere counts for whoever
//!   acquired it, until [`Guard::adopt`] is called there.
//! - **Circles.** Threads and tasks that would wait for each other are refused ([`Error::Circle`]), and so are those that wait
//!   for each other through other processes ([`Error::Deadlock`]), whatever repositories their locks belong to.
//! - **Children.** A process that this one starts is inside the hold if it shows the hold's token: give it
//!   [`Guard::environment`]. No other process is, so what was started before the hold stays outside. Children do not
//!   keep it: where a command must never run on without the lock, also when this process is killed, [`exec()`] runs it.
//! - **Waiting costs a process.** The first waiter in the queue has a helper process that waits in the kernel's queue, because
//!   that wait can be given up and a thread's cannot. On Linux it shares the program's memory and costs the same whatever the
//!   program's size. No signal reaches a handler in it, and `waitpid(-1)` does not see it. If it cannot be made (a limit of
//!   processes, a filter of system calls, another system), the waiter tries the lock every 20 ms.
//! - **Windows** is not supported yet.
//!
//! # The modules
//! | module | what it does |
//! | --- | --- |
//! | [`doctor`] | Examines whether the guard is effective here. |
//! | [`hooks`] | Guards plain git by its hooks, and keeps these where git looks for them. |
//! | `guard` | Keeps the promise around a command, a mutation or a part of a program: recover → acquire → compare → record → run → log → release. |
//! | `exec`, `mutation` | Run a command under a lock; let a change land whole or leave no trace, whoever is killed. |
//! | `watcher` | Holds a lock when the process that took it must end. |
//! | `store` | Keeps records, snapshots, numbers and the shared document on disk. |
//! | `lock` | Acquires locks: queue, deadlocks, records. |
//! | `repo` | Finds the repository, reads HEAD and the configuration, and starts git. |
//! | `fs`, `sys` | Write files; ask the operating system. |
//! | [`mod@error`], [`holder`], `env`, [`escape`] | Errors, holders, environment variables, and foreign text made safe. |
//!
//! Imports go down only. Invariants, formats and walks through the source stand in `docs/design.md`.

pub mod doctor;
mod env;
pub mod error;
pub mod escape;
mod exec;
mod fs;
mod guard;
pub mod holder;
pub mod hooks;
mod lock;
mod mutation;
mod repo;
mod store;
mod sys;
mod watcher;

pub use env::{ci_job, is_trial, no_color, shell, skipped_once};
pub use error::{Error, Result};
pub use exec::{Ending, Task, die_of, prepare_signals, replace_by};
pub use fs::check_output;
pub use guard::{
    Apart, Checked, Choice, Difference, Digests, Failure, Grant, Guard, INPUTS_DIGEST, Inputs, Invalid, Landed,
    Landing, Linked, Lock, Mutated, Mutation, Notice, Outcome, Pending, Place, Pruned, Recovered, Released, Restored,
    Rollback, Stands, Told, Turn, Until, Why, Work, Write, acquire, changed_outside, command_of, exec, exec_apart,
    is_pid_of_elsewhere, log, mutate, pending, prune_worktrees, recover, release, restore, unfinished, user_of, wait,
    worktrees, would_restore,
};
pub use holder::{Holder, Mode};
pub use lock::{Inspection, MOST_NAMES, Request, Scope, State, Waiting, has_stray_token};
pub use mutation::{Doubt, Found, LeftOut, Unfinished, WhyLeftOut};
pub use repo::{Config, DURATION, ExpectedHead, Head, Repo, ScanPattern, Seen, Setting, read_duration};
pub use store::{
    audit::{Entry, Event, StepTime},
    document::Document,
    sequence::{Numbers, Sequence, SequenceOptions},
    snapshots::{Bundle, Kept, KeptElsewhere, MovedReference, Snapshot, snapshot, snapshots},
    state::StateFile,
};
