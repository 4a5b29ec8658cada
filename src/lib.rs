//! One lock for everybody who changes a Git checkout.
//!
//! `repoguard` makes a whole mutation of a repository (read, validate, write, commit) one step that nobody else
//! interleaves with, tells who is in the way, and queues fairly. This crate is what the program of the same name is made
//! of: the program's `cli` room uses only what is public here.
//!
//! # The rooms
//! | room | the question it answers |
//! | --- | --- |
//! | [`doctor`] | Is the guard effective here? |
//! | [`hooks`] | What do git's hooks guard, and how do they get and stay where git looks for them? |
//! | `guard` | What does repoguard promise? acquire → recover → compare → record → run → log → release |
//! | `watcher` | What holds a lock when the process that took it must end? |
//! | `exec` | How does the wrapped command run, and what if any of its processes is killed? |
//! | `mutation` | How does a change land whole or leave no trace, also when everybody is killed? |
//! | `store` | What is kept on disk beside the lock? |
//! | `lock` | How is a lock acquired, and what does holding it mean? |
//! | `repo` | Which repository is this, where is everything, where is HEAD, what did the user configure? |
//! | `fs` | How are files written? |
//! | `sys` | What must the operating system give? |
//! | [`mod@error`], [`holder`], `env` | What can go wrong, who holds, which environment variables matter? |
//!
//! # Who may import whom
//! `cli` > `doctor` > `hooks` > `guard` > `watcher` > `exec`, `mutation` > `store` > `lock` > `repo` > `fs` > `sys` >
//! `error` > `holder`, `env`: imports go down only, and a test holds this table against the sources.
//!
//! # Invariants
//! - Exclusion rests on flock(2) alone; queue and records can be lost without letting two holders in (`lock`).
//! - Only `repo` knows gix and starts git; only `lock/file.rs` knows fd-lock; only `fs` writes; only `sys` has code for
//!   one system or `unsafe` code; only `cli/render.rs` prints; only `env` reads the environment.
//! - Readers never take a lock that could make anybody's attempt fail.
//! - "Busy", "free" and "cannot tell" are three answers.
//!
//! # Files on disk
//! The table stands at the head of `repo/layout.rs`; each format at the head of the file that owns it:
//! `holder.rs` (a record), `lock/queue.rs` (tickets), `lock/record.rs` (holders), `store/last.rs` (HEAD at the last release),
//! `store/audit.rs` (the log), `store/violations.rs`, `store/manifest.rs` (what was undone), `store/sequence.rs` (numbers that
//! were given), `store/worktrees.rs` (worktrees that were made), `mutation/journal.rs` (the steps of a mutation),
//! `mutation/before.rs` (how everything was before it), `hooks/world.rs` (kept indexes), `hooks/manifest.rs` (installed
//! hooks).
//!
//! # Example
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

pub mod doctor;
mod env;
pub mod error;
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
pub use exec::{Ending, Task, die_of, replace_by};
pub use guard::{
    Apart, Choice, Failure, Grant, Invalid, Landed, Landing, Linked, Mutated, Mutation, Notice, Outcome, Pending,
    Place, Pruned, Recovered, Released, Restored, Rollback, Stands, Told, Turn, Until, Why, Work, Write, acquire,
    changed_outside, command_of, exec, exec_apart, log, mutate, pending, prune_worktrees, recover, release, restore,
    unfinished, wait, worktrees, would_restore,
};
pub use holder::{Holder, Mode};
pub use lock::{Inspection, MOST_NAMES, Request, Scope, State, Waiting};
pub use mutation::{Doubt, Found, Unfinished};
pub use repo::{Config, Head, Repo, ScanPattern, Seen, Setting};
pub use store::{
    audit::{Entry, Event, StepTime},
    sequence::{Numbers, Sequence, SequenceOptions},
    snapshots::{Bundle, Kept, KeptElsewhere, MovedReference, Snapshot, snapshot, snapshots},
};
