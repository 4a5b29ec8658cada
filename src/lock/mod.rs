//! Acquires and holds locks.
//!
//! # Invariants
//! - Exclusion rests only on flock(2) of files that are never removed, renamed or truncated, and of directories of
//!   git's as anchors. Queue and records can be lost without letting two holders in.
//! - All files of a request are tried together; if one is busy, all are released before the request waits. Nobody waits for one
//!   kernel lock while holding another of the same request.
//! - A ticket lives from its number until its owner has the lock: no newcomer passes a queued one.
//! - Readers ([`inspect`]) take no lock that could make anybody's attempt fail.
//!
//! # Limitations
//! Users of plain flock(1) stand in the kernel's queue, not in ours: only the first of our queue competes with them. If `.git` is
//! read-only or missing, queue and records are missing as well, and the kernel's queue must do.

mod acquire;
mod attempt;
mod awaited;
mod clock;
mod cycle;
mod domain;
mod enclosing;
mod ended;
mod file;
mod held;
mod inspect;
mod live;
mod local_ticket;
mod owner;
mod path;
mod plan;
mod queue;
mod record;
mod records;
mod request;
mod short;
#[cfg(not(feature = "tokio"))]
#[path = "no_task.rs"]
mod task;
#[cfg(feature = "tokio")]
mod task;
mod token;
mod visit;
mod waiter;

pub(crate) use acquire::{Asker, Entered, acquire};
pub(crate) use awaited::{Awaiting, refuse_cycle_through, report_waiting, still_waits, waiter_ancestors};
pub(crate) use clock::Clock;
pub(crate) use domain::{Domain, Found};
pub(crate) use ended::ended_with_its_container;
pub(crate) use file::LockFile;
pub(crate) use held::Held;
pub(crate) use inspect::is_locked;
pub use inspect::{Inspection, State};
pub(crate) use local_ticket::{LocalTicket, Manner, Resource, environment_around};
pub(crate) use owner::Owner;
pub(crate) use path::{PathPlace, records_of_directory};
pub(crate) use plan::{Anchored, Plan};
pub(crate) use request::Wait;
pub use request::{MOST_NAMES, Request, Scope, Waiting};
pub(crate) use short::{Patience, Short};
pub(crate) use token::Token;
pub(crate) use visit::Inside;
pub(crate) use waiter::Waiter;

use crate::holder::{Holder, Mode};

/// The result of an acquire.
pub(crate) enum Acquired {
    /// The lock is ours now.
    Held(Box<Held>),
    /// It was ours already: this process runs inside a hold that covers the request.
    Inside(Box<Inside>),
}
