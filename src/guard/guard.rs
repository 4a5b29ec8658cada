//! The hold of a program: a value that ends the hold when it is dropped.

use std::{ffi::OsString, fmt, thread};

use super::{
    Notice, environment,
    hold::{LINGERING, Resting},
    lock::Lock,
};
use crate::{
    error::{Error, Result},
    holder::Holder,
    lock::{Held, Inside, LocalTicket},
};

/// A lock that is held, until [`Guard::release`] or until this is dropped: at the end of its scope, by a panic, or with the task
/// that has it when a runtime is shut down. Letting go takes some short writes, and never waits: if another process still works
/// inside, a thread keeps the lock until that has ended.
///
/// It can be sent to other threads and tasks. When one of them asks for the lock again, it still counts for the thread or task that
/// acquired it; [`Guard::adopt`] changes that. A process that is started with [`Guard::environment`] is inside the hold; processes
/// that were started earlier stay outside. The child of a fork is inside as long as it has this guard, and changes nothing when it
/// drops it.
///
/// # Example
/// ```
/// let directory = tempfile::tempdir()?;
/// let lock = repoguard::Lock::of_directory(directory.path())?;
/// let guard = lock.acquire()?;
/// let thread = std::thread::spawn(move || guard.fence());
/// assert!(thread.join().expect("no panic") > Some(0));
/// assert!(lock.try_acquire().is_ok(), "it was let go with the thread");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "the lock is let go when this is dropped"]
pub struct Guard {
    kind: Kind,
    lock: Lock,
    /// The process that acquired it.
    pid: u32,
    // Given up last: who comes next in this process finds the lock free.
    ticket: Option<LocalTicket>,
}

enum Kind {
    Repo(Box<Resting>),
    Path(Box<Held>),
    /// Held around this process.
    Inside(Box<Inside>),
    Over,
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("lock", &self.lock.path()).field("fence", &self.fence()).finish_non_exhaustive()
    }
}

impl Guard {
    pub(super) fn of_repo(lock: Lock, ticket: Option<LocalTicket>, resting: Resting) -> Self {
        Self { kind: Kind::Repo(Box::new(resting)), lock, pid: std::process::id(), ticket }
    }

    pub(super) fn of_path(lock: Lock, ticket: Option<LocalTicket>, held: Box<Held>) -> Self {
        Self { kind: Kind::Path(held), lock, pid: std::process::id(), ticket }
    }

    pub(super) fn inside(lock: Lock, ticket: LocalTicket, inside: Box<Inside>) -> Self {
        Self { kind: Kind::Inside(inside), lock, pid: std::process::id(), ticket: Some(ticket) }
    }

    /// Number of this hold, greater than that of all before. Written beside each change, it shows a late change of an earlier
    /// holder that was thought dead. `None` inside a hold of `flock(1)`, which has no number.
    #[must_use]
    pub fn fence(&self) -> Option<u64> {
        match &self.kind {
            Kind::Inside(inside) => Some(inside.outer).filter(|outer| *outer != 0),
            _ => self.held().map(|held| held.record().id),
        }
    }

    /// Tells whether the lock is held around this process, by `repoguard exec` or `flock(1)` say. Then this guard excludes only
    /// other threads and tasks of this process, and the lock stays held when it is dropped.
    #[must_use]
    pub fn is_inside(&self) -> bool {
        matches!(self.kind, Kind::Inside(_))
    }

    /// The record of this hold that others see; `None` inside another hold.
    #[must_use]
    pub fn holder(&self) -> Option<&Holder> {
        self.held().map(Held::record)
    }

    /// Variables (`REPOGUARD_TOKEN`, …) for commands that work inside this hold. Empty inside another hold: commands inherit the
    /// variables of that one.
    ///
    /// # Example
    /// ```no_run
    /// # let guard = repoguard::Lock::of_directory(".")?.acquire()?;
    /// std::process::Command::new("make").envs(guard.environment()).status()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn environment(&self) -> Vec<(&'static str, OsString)> {
        self.held().map(|held| environment(&self.lock.path(), held).to_vec()).unwrap_or_default()
    }

    /// Makes it count for the thread or task that calls this: who got it from another one, and keeps it.
    pub fn adopt(&mut self) {
        if let Some(ticket) = &self.ticket {
            ticket.adopt();
        }
    }

    /// Lets the lock go, and tells whether it was exclusive to the end. Never waits.
    ///
    /// # Errors
    /// [`Error::Lost`] if a path that was locked was removed or replaced meanwhile: somebody else may have got in. The lock is
    /// released all the same.
    pub fn release(mut self) -> Result<()> {
        self.end()
    }

    fn held(&self) -> Option<&Held> {
        match &self.kind {
            Kind::Repo(resting) => Some(&resting.held),
            Kind::Path(held) => Some(held),
            Kind::Inside(_) | Kind::Over => None,
        }
    }

    /// Checks that every path that this guard has locked still leads to what it locked. Does not block.
    ///
    /// # Errors
    /// [`Error::Lost`] if a path was removed or replaced: somebody else may have got in.
    pub fn check(&self) -> Result<()> {
        let lost = match &self.kind {
            Kind::Inside(inside) if inside.visits.is_over() => vec![self.lock.path()],
            Kind::Inside(_) | Kind::Over => Vec::new(),
            Kind::Path(held) => held.lost(),
            Kind::Repo(resting) => resting.held.lost(),
        };
        lost.into_iter().next().map_or(Ok(()), |path| Err(Error::Lost { path }))
    }

    fn end(&mut self) -> Result<()> {
        let mut kind = std::mem::replace(&mut self.kind, Kind::Over);
        // The child of a fork has copies of everything, and owns nothing.
        if self.pid != std::process::id() {
            return Ok(());
        }
        let lost = match &mut kind {
            Kind::Over => return Ok(()),
            Kind::Inside(inside) => {
                let is_over = inside.visits.is_over();
                inside.visits.leave();
                return if is_over { Err(Error::Lost { path: self.lock.path() }) } else { Ok(()) };
            }
            Kind::Path(held) => held.lost(),
            Kind::Repo(resting) => resting.held.lost(),
        };
        if close(&mut kind) {
            finish(&self.lock, kind);
        } else {
            linger(self.lock.clone(), kind);
        }
        lost.into_iter().next().map_or(Ok(()), |path| Err(Error::Lost { path }))
    }
}

/// Lets nobody in any more; `false` if somebody works inside.
fn close(kind: &mut Kind) -> bool {
    match kind {
        Kind::Path(held) => held.close(),
        Kind::Repo(resting) => resting.held.close(),
        Kind::Inside(_) | Kind::Over => true,
    }
}

/// Ends a hold when nobody works inside of it any more.
fn linger(lock: Lock, mut kind: Kind) {
    let wait = move || {
        LINGERING.until(|| close(&mut kind));
        finish(&lock, kind);
    };
    // If there can be no thread, the hold ends now, and those inside see that they lost the lock.
    drop(thread::Builder::new().name("repoguard".to_owned()).spawn(wait));
}

/// Records that a hold is over, and releases the lock.
fn finish(lock: &Lock, kind: Kind) {
    match (kind, lock.context()) {
        (Kind::Path(held), _) => {
            for path in &held.lost() {
                (lock.observer)(Notice::Lost(path));
            }
            if let Err(trouble) = held.record_release() {
                (lock.observer)(Notice::Trouble(&trouble));
            }
            held.release();
        }
        (Kind::Repo(resting), Some(context)) => resting.resume(context).finish(None),
        _ => {}
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // A caller that needs the result calls `release`.
        drop(self.end());
    }
}
