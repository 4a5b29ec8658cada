//! Inspects, undoes or finishes an interrupted mutation on demand.

use std::time::Duration;

use super::{Caller, Interrupted, Terms, admission, mutate::Rollback, recovery};
use crate::{
    error::{Error, Result},
    lock::Acquired,
    repo::{Manner, Repo},
    sys::Signals,
    transaction::{self, Recovery, Unfinished},
};

pub use crate::transaction::Choice;

/// The result of recovering an interrupted mutation.
#[derive(Debug)]
pub enum Recovered {
    /// Nothing had changed.
    Forgotten,
    /// It was undone.
    Undone(Rollback),
    /// It was finished; its commit, if one was made.
    Finished(Option<String>),
}

impl Recovered {
    pub(super) fn new(recovered: Recovery) -> Self {
        match recovered {
            Recovery::Forgotten => Self::Forgotten,
            Recovery::Undone(undone) => Self::Undone(Rollback::new(undone)),
            Recovery::Finished(commit) => Self::Finished(commit),
        }
    }
}

/// Looks for a mutation of this worktree that was not finished. Takes no lock, changes nothing; one that still runs is
/// found as well.
///
/// # Errors
/// [`Error::BrokenRepository`] when what is left of it cannot be read.
pub fn unfinished(repo: &Repo) -> Result<Option<Unfinished>> {
    let Some(worktree) = repo.worktree().filter(|worktree| recovery::is_in_the_way(repo, worktree)) else {
        return Ok(None);
    };
    recovery::is_its_own(repo, &worktree, Choice::AsPredicted)?;
    transaction::inspect(&recovery::of_worktree(repo, &worktree)?, &worktree, Manner::Reading)
}

/// Undoes or finishes an interrupted mutation of this worktree; blocks for the lock as the request says. `None` if there is none.
///
/// # Errors
/// Those of [`super::exec()`] when the lock was not acquired; [`Error::Unfinished`] where somebody has worked here since, and
/// `choice` leaves it to what the journal predicts; what keeps it from being put back.
pub fn recover(caller: Caller<'_>, choice: Choice) -> Result<Option<Recovered>> {
    let repo = caller.repo;
    let no_repository = || Error::NoRepository { path: repo.root().to_owned(), needed_by: "`repoguard recover`" };
    let worktree = repo.worktree().ok_or_else(no_repository)?;
    caller.serve(|context, request| {
        let signals = Signals::open().map_err(Error::io("catch signals for", repo.root()))?;
        let acquired = admission::acquire(context, request, &signals)?;
        let recovered = recovery::recover(context.silent(), &worktree, choice);
        if let Acquired::Held(held) = acquired {
            // As after any hold: what was moved here was moved under the guard.
            let terms =
                Terms { interrupted: Interrupted::Leave, has_moved_head: recovered.is_ok(), ..Terms::default() };
            let mut hold = admission::enter(context, held, Duration::ZERO, terms)?;
            hold.publish();
            hold.finish(None);
        }
        recovered
    })
}
