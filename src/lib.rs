//! One lock for everybody who changes a Git checkout.
//!
//! `repoguard` makes a whole mutation of a repository (read, validate, write, commit) one step. No other user of the guard
//! interleaves with it; waiters are served in order and see who holds the lock. The program of the same name is built on this
//! crate: its `cli` module uses only what is public here. `default-features = false` leaves the program's crates out; the feature
//! `tokio` adds asynchronous code.
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
//! let lock = repo.lock(Request::new().reason("nightly import"))?;
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
//! A command instead of a guard. It never runs without the lock, even if this process is killed. The `repoguard` program runs it:
//! ```no_run
//! use repoguard::{Repo, Request, run::Task};
//!
//! let repo = Repo::discover(std::path::Path::new("."))?;
//! let outcome = repo.exec(&Request::default(), &Task::new(["git", "commit", "-am", "a change"]))?;
//! println!("ended with {}", outcome.ending.status());
//! # Ok::<(), repoguard::Error>(())
//! ```
//!
//! # When to use what
//! | you want to | use |
//! | --- | --- |
//! | hold a lock for a part of a program | [`Lock`], [`Guard`] |
//! | hold a lock in a server, whose requests share threads | [`Lock::acquire_owned`] |
//! | run a command that never runs on without the lock | [`Repo::exec`], [`run`] |
//! | land a change whole or not at all | [`Repo::mutate`], [`mutation`], [`snapshot`] |
//! | run a command in a worktree of its own if the checkout is busy | [`Repo::exec_in_worktree`], [`worktree`] |
//! | hold a lock beyond the end of the process that acquired it | [`background`] |
//! | write to a JSON document that others write to | [`state`] |
//! | give numbers that nobody else gets | [`sequence`] |
//! | read who held the lock | [`log`](mod@log) |
//! | guard plain git, and find out whether it is guarded | [`hooks`], [`doctor`] |
//!
//! The programs in `examples/` are a package manager's lock for each pack, a daemon that runs once, many tasks on one checkout, a
//! lock file with sections, an allocator of ids, and an agent's loop that moves to a worktree.
//!
//! # What to know
//! - **Owners.** A task owns what it acquires; outside of a task, the thread does. Asking again for what the owner holds fails
//!   ([`Error::AlreadyHeld`]). Futures that are joined in one task have one owner: spawn them. A guard that was sent elsewhere keeps its
//!   owner until [`Guard::adopt`] is called there. [`Lock::acquire_owned`] has no owner.
//! - **Cycles.** Waiting fails if threads or tasks would wait for each other ([`Error::Cycle`]), or if they would do so through other
//!   processes ([`Error::Deadlock`]), in any number of repositories.
//! - **Children.** A child process is inside the hold if it has the hold's token: give it [`Guard::environment`]. Other processes are
//!   outside. Children do not keep the lock if this process is killed. [`Repo::exec`] does.
//! - **Waiting costs a process.** The first waiter in the queue has a helper process that waits in the kernel's queue, because
//!   a thread's wait cannot be cancelled. On Linux it shares the program's memory and costs the same whatever the
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
//! | `exec`, `transaction` | Run a command under a lock; let a change land whole or leave no trace, whoever is killed. |
//! | `watcher` | Holds a lock when the process that took it must end. |
//! | `store` | Keeps records, snapshots, numbers and the shared document on disk. |
//! | `lock`, `repo` | Acquire what a plan names: queue, deadlocks, records; find the repository, read HEAD and the configuration, start git. |
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
#[cfg(test)]
mod garbage;
mod guard;
pub mod holder;
pub mod hooks;
mod lock;
mod repo;
mod store;
mod sys;
mod transaction;
mod watcher;

pub use error::{Error, Result};
pub use guard::{Caller, Guard, Lock, Notice, Observer};
pub use holder::{Holder, Mode};
pub use lock::{Inspection, Request, Scope, State, Waiting};
pub use repo::{Config, ExpectedHead, Head, Repo};

/// Runs a command under the lock.
pub mod run {
    pub use crate::{
        exec::{Ending, Stream, Task},
        guard::Outcome,
    };
}

/// Lets a change land whole or not at all, and recovers one that was interrupted.
pub mod mutation {
    pub use crate::{
        guard::{
            Choice, Failure, FailureReason, Invalid, Landed, Landing, Mutated, Mutation, MutationInfo, Pending,
            Recovered, Rollback, Write, pending, recover, unfinished,
        },
        transaction::{Doubt, Found, LeftOut, LeftOutReason, Unfinished},
    };
}

/// Runs a command in a worktree of its own if the checkout is busy.
pub mod worktree {
    pub use crate::guard::{
        IsolatedWorktree,
        worktree::{Contents, Listed as Worktree, Options, Pruned, State, list, prune},
    };
}

/// Holds the lock beyond the end of the process that acquired it.
pub mod background {
    pub use crate::guard::{AcquireState, Grant, Released, Until, acquire, release, wait};
}

/// A JSON document that many processes write to, section by section.
pub mod state {
    pub use crate::{
        guard::{Checked, Difference, Digests, INPUTS_DIGEST, Inputs},
        store::{document::Document, state::StateFile},
    };
}

/// Numbers that are given once.
pub mod sequence {
    pub use crate::{
        repo::{ScanPattern, Seen},
        store::sequence::{Numbers, Sequence, SequenceOptions},
    };
}

/// Snapshots of undone mutations, and how to restore them.
pub mod snapshot {
    pub use crate::{
        guard::{Restored, restore, would_restore},
        store::snapshots::{Bundle, Kept, KeptElsewhere, MovedReference, Snapshot, snapshot, snapshots},
    };
}

/// The log of holds.
pub mod log {
    pub use crate::{
        guard::log,
        store::audit::{Entry, Event, StepTime},
    };
}

/// Items for the program of the same name. They may change with any version.
#[doc(hidden)]
pub mod program {
    pub use crate::{
        env::{ci_job, is_trial, no_color, shell, skipped_once},
        exec::{die_of, prepare_signals, replace_by},
        fs::check_output,
        guard::{
            changed_outside, command_of, exec, exec_in_worktree, has_stray_token, is_pid_of_elsewhere, mutate, user_of,
        },
        lock::MOST_NAMES,
        repo::{DURATION, Setting, read_duration},
    };
}
