//! Admits a caller to a repository: recover → wait → recover → compare → expect. Nothing else makes a [`Hold`].
//!
//! 1. [`before`]: an interrupted mutation is recovered that the hold would not cover alone.
//! 2. [`acquire`], which blocks; callers that wait in the background or as a future have other ways.
//! 3. [`enter`]: an interrupted mutation in a worktree that the hold covers alone is recovered, HEAD is compared with how the last
//!    holder left it, and with what the caller expects. Inside of another hold, [`enter_inside`] does what is needed of that.
//!
//! Then the caller announces the hold and ends it by [`Hold::finish`]. [`admit`] is all of it for those who only wait; how callers differ
//! stands in [`Terms`].

use std::time::{Duration, Instant};

use super::{Context, Notice, hold, hold::Hold, plan, recovery};
use crate::{
    error::{Error, Result},
    lock::{self, Acquired, Held, Inside, Request, Wait},
    repo::{ExpectedHead, Repo},
    sys::Signals,
};

/// How callers differ.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Terms<'t> {
    /// The treatment of an interrupted mutation.
    pub(crate) interrupted: Interrupted,
    /// The HEAD that the caller expects.
    pub(crate) expect: Option<&'t ExpectedHead>,
    /// The process that the lock is for has moved HEAD already: that is not reported.
    pub(crate) has_moved_head: bool,
    /// The caller gets a notice when the lock was acquired.
    pub(crate) reports_acquisition: bool,
}

/// The treatment of an interrupted mutation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Interrupted {
    /// It is undone or finished.
    #[default]
    Recover,
    /// Nothing: the caller sees to it, or there can be none.
    Leave,
}

/// How a caller was admitted.
pub(crate) enum Admission<'a> {
    Held(Hold<'a>),
    /// The lock is held around this process.
    Inside(Box<Inside>),
}

/// Admits a caller; blocks for the lock as the request says.
///
/// # Errors
/// [`Error::Busy`], [`Error::Deadlock`] or [`Error::Interrupted`] if the lock was not acquired, [`Error::NeverGranted`],
/// [`Error::NoLocks`], [`Error::NotAFile`] or [`Error::Io`] if it could not be; [`Error::Unfinished`] for an interrupted mutation;
/// [`Error::UnexpectedHead`], [`Error::SwitchedHead`]. Then nothing is held.
pub(crate) fn admit<'a>(
    context: Context<'a>,
    request: &Request,
    signals: &Signals,
    terms: Terms<'_>,
) -> Result<Admission<'a>> {
    before(context, request, terms)?;
    let begun = Instant::now();
    match acquire(context, request, signals)? {
        Acquired::Inside(inside) => {
            enter_inside(context, request, terms)?;
            Ok(Admission::Inside(inside))
        }
        Acquired::Held(held) => enter(context, held, begun.elapsed(), terms).map(Admission::Held),
    }
}

/// Acquires the lock; blocks as the request says. The caller must [`enter`] then.
///
/// # Errors
/// [`Error::Interrupted`] also if a signal came in the instant that the wait ended; else as [`admit`].
pub(crate) fn acquire(context: Context<'_>, request: &Request, signals: &Signals) -> Result<Acquired> {
    let wait = &mut Wait { signals: Some(signals), report: &mut |waiting| context.notify(Notice::Waiting(waiting)) };
    let acquired = lock::acquire(plan::plan(context.repo, request, context.sharing)?, request, wait)?;
    if let Acquired::Held(held) = &acquired {
        not_interrupted(held, signals)?;
    }
    Ok(acquired)
}

/// Prepares a request, before the lock is asked for.
///
/// # Errors
/// Those of recovering a mutation.
pub(crate) fn before(context: Context<'_>, request: &Request, terms: Terms<'_>) -> Result<()> {
    match terms.interrupted {
        Interrupted::Recover => recovery::before_acquire(context, request),
        Interrupted::Leave => Ok(()),
    }
}

/// The lock was acquired, after so long.
///
/// # Errors
/// Those of recovering a mutation, and those of an expected HEAD. Then the lock was released.
pub(crate) fn enter<'a>(context: Context<'a>, held: Box<Held>, waited: Duration, terms: Terms<'_>) -> Result<Hold<'a>> {
    let acquired = Instant::now();
    if terms.reports_acquisition {
        context.notify(Notice::Acquired(waited));
    }
    let recovered = match terms.interrupted {
        Interrupted::Recover => recovery::in_hold(context, &held),
        Interrupted::Leave => Ok(()),
    };
    if let Err(error) = recovered {
        held.release();
        return Err(error);
    }
    let admitted = Hold::enter(context, held, (waited, acquired), terms.has_moved_head);
    match terms.expect.map_or(Ok(()), |expected| expect(context, expected, Some(&admitted))) {
        Ok(()) => Ok(admitted),
        Err(error) => {
            admitted.finish(None);
            Err(error)
        }
    }
}

/// The lock is held around this process.
///
/// # Errors
/// As [`enter`].
pub(crate) fn enter_inside(context: Context<'_>, request: &Request, terms: Terms<'_>) -> Result<()> {
    if terms.interrupted == Interrupted::Recover {
        recovery::inside(context, request)?;
    }
    terms.expect.map_or(Ok(()), |expected| expect(context, expected, None))
}

/// Fails if an interrupted mutation is pending, for callers in the middle of git's work, under which nothing can be put back. Only who
/// holds the worktree alone can tell that it does not run any more.
///
/// # Errors
/// [`Error::Unfinished`].
pub(crate) fn refuse_interrupted(repo: &Repo) -> Result<()> {
    match repo.worktree().filter(|worktree| recovery::is_in_the_way(repo, worktree)) {
        Some(_) => Err(Error::Unfinished { what: "`repoguard recover` puts it in order first".to_owned() }),
        None => Ok(()),
    }
}

/// Checks HEAD against the caller's expectation.
///
/// # Errors
/// [`Error::UnexpectedHead`], [`Error::SwitchedHead`], [`Error::NoRepository`].
pub(crate) fn expect(context: Context<'_>, expected: &ExpectedHead, hold: Option<&Hold<'_>>) -> Result<()> {
    if expected.is_any() {
        return Ok(());
    }
    let repo = context.repo;
    let no_repository = || Error::NoRepository { path: repo.root().to_owned(), needed_by: "an expected HEAD" };
    let worktree = repo.worktree().ok_or_else(no_repository)?;
    let head = repo.head(&worktree).ok_or_else(|| Error::BrokenRepository {
        path: worktree.git_dir.clone(),
        reason: "HEAD cannot be read".to_owned(),
    })?;
    hold::check_expected(expected, repo, hold, &head)
}

/// Releases a lock that came at the moment of a signal.
///
/// # Errors
/// [`Error::Interrupted`].
pub(crate) fn not_interrupted(held: &Held, signals: &Signals) -> Result<()> {
    match signals.interrupt() {
        Some(signal) => {
            held.release();
            Err(Error::Interrupted { what: held.record().scope.clone(), signal })
        }
        None => Ok(()),
    }
}
