//! How a mutation ended: what landed, or which step failed, why, and what came of putting everything back.

use std::{path::PathBuf, time::Duration};

use crate::{
    error::{Error, Result, listed},
    exec::Ending,
    repo::Head,
    store::audit::StepTime,
    transaction::{self, LeftOut, StageError, Unfit, readable},
};

/// How a mutation ended.
#[derive(Debug)]
#[non_exhaustive]
pub struct Mutated {
    /// Its result.
    pub result: Landed,
    /// The changed paths, from the top of the worktree; of a failed mutation the paths that were to change, if known.
    pub changed: Vec<PathBuf>,
    /// Files that the command made or staged, and that are not part of the change.
    pub left_out: Vec<LeftOut>,
    /// The steps, with their times.
    pub steps: Vec<StepTime>,
    /// A signal that both the step and this process got and that the step died of: this process's parent should see it die of the
    /// same.
    pub die_of: Option<i32>,
    /// Fencing number of the hold; `None` inside another one.
    pub fence: Option<u64>,
    /// How long it waited for the lock.
    pub waited: Duration,
    /// How long it was held.
    pub held: Duration,
}

/// The result of a mutation.
#[derive(Debug)]
pub enum Landed {
    /// It is committed: the commit's id, read back.
    Committed(String),
    /// It is staged.
    Staged,
    /// It was shown, and everything was put back.
    Shown,
    /// There was nothing to commit.
    Unchanged,
    /// It failed, and what it did is undone.
    Failed(Box<Failure>),
}

/// Why a mutation failed.
#[derive(Debug)]
#[non_exhaustive]
pub struct Failure {
    /// The step: `read`, `check`, `command`, `verify`, `commit`.
    pub step: &'static str,
    /// The command that ran, if any.
    pub command: Option<String>,
    /// Why.
    pub why: FailureReason,
    /// The result of undoing; `None` if nothing had changed yet.
    pub rollback: Option<Result<Rollback>>,
}

/// Why a step failed.
#[derive(Debug)]
pub enum FailureReason {
    /// The command ended so.
    Ended(Ending),
    /// This signal asked for an end.
    Interrupted(i32),
    /// The state is not what it was, or not what it should be.
    Invalid(Box<Invalid>),
    /// Something else went wrong.
    Trouble(Error),
}

/// The reason why a state or a change is invalid.
#[derive(Debug)]
#[non_exhaustive]
pub enum Invalid {
    /// These have changes that are not committed.
    Dirty(Vec<PathBuf>),
    /// Git is in the middle of this.
    Operation(&'static str),
    /// More untracked and changed files would have to be kept before the command runs than may be.
    TooMuch {
        /// How many files.
        files: usize,
        /// How many bytes.
        bytes: u64,
        /// Most bytes.
        limit: u64,
    },
    /// The command changed what held the caller's own content that no commit has.
    Own(Vec<PathBuf>),
    /// The command changed submodules, or other repositories in the worktree.
    Repositories(Vec<PathBuf>),
    /// The command made something other than files and links.
    Special(Vec<PathBuf>),
    /// The command wrote files that are not in the sparse checkout.
    Sparse(Vec<PathBuf>),
    /// The command left conflicts.
    Conflicts(Vec<PathBuf>),
    /// The command changed more than it may.
    Outside(Vec<PathBuf>),
    /// The command has moved HEAD.
    CommandMovedHead(Head, Head),
    /// Somebody else has moved HEAD meanwhile.
    HeadMoved(Head, Head),
    /// A check changed files: it is to look only.
    CheckChanged(Vec<PathBuf>),
    /// Files were changed while the result was verified.
    VerifyChanged(Vec<PathBuf>),
    /// The commit holds something else than was validated.
    Unlike(String),
}

impl std::fmt::Display for Invalid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Dirty(paths) => write!(f, "not clean: {}", listed(paths)),
            Self::Operation(name) => write!(f, "not finished: {name}"),
            Self::TooMuch { files, bytes, limit } => {
                let mib = |bytes: u64| bytes.div_ceil(1 << 20);
                let (bytes, limit) = (mib(*bytes), mib(*limit));
                write!(
                    f,
                    "too much that git does not know: {files} files, {bytes} MiB, would have to be kept first; the limit is {limit} MiB"
                )
            }
            Self::Own(paths) => {
                write!(f, "the command changed what held your own changes, which no commit has: {}", listed(paths))
            }
            Self::Repositories(paths) => write!(f, "other repositories were changed: {}", listed(paths)),
            Self::Special(paths) => write!(f, "neither files nor links: {}", listed(paths)),
            Self::Sparse(paths) => write!(f, "outside of the sparse checkout: {}", listed(paths)),
            Self::Conflicts(paths) => write!(f, "in conflict: {}", listed(paths)),
            Self::Outside(paths) => write!(f, "changed, but not among the paths that may: {}", listed(paths)),
            Self::CommandMovedHead(from, to) => write!(f, "the command moved HEAD from {from} to {to}"),
            Self::HeadMoved(from, to) => write!(f, "somebody else moved HEAD from {from} to {to}"),
            Self::CheckChanged(paths) => write!(f, "a check is to look only, but these changed: {}", listed(paths)),
            Self::VerifyChanged(paths) => write!(f, "changed while it was verified: {}", listed(paths)),
            Self::Unlike(what) => f.write_str(what),
        }
    }
}

impl Invalid {
    /// A command to paste, or a way out in a few words.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Dirty(_) => {
                "commit or stash them, or keep them out of it with `--allow-dirty`; `git status` shows them"
            }
            Self::Operation(_) => "`git status` tells how to finish or abort it",
            Self::TooMuch { .. } => {
                "let git ignore them, raise `repoguard.baselineLimit`, or leave them unprotected with `--untracked=no`"
            }
            Self::HeadMoved(..) => "read the repository again, then do it again",
            Self::Own(_) => "commit or stash them first",
            Self::CommandMovedHead(..) => "let the command change files only: repoguard commits them",
            Self::Repositories(_) => "commit in there first, then change the reference to it without repoguard",
            _ => return None,
        })
    }
}

impl Landed {
    pub(super) fn failed(failure: Failure) -> Self {
        Self::Failed(Box::new(failure))
    }
}

impl From<Unfit> for FailureReason {
    fn from(unfit: Unfit) -> Self {
        match unfit {
            Unfit::Dirty(paths) => Self::from(Invalid::Dirty(readable(&paths))),
            Unfit::TooMuch(files, bytes, limit) => Self::from(Invalid::TooMuch { files, bytes, limit }),
            Unfit::Trouble(error) => Self::Trouble(error),
        }
    }
}

impl From<Invalid> for FailureReason {
    fn from(invalid: Invalid) -> Self {
        Self::Invalid(Box::new(invalid))
    }
}

impl From<StageError> for FailureReason {
    fn from(unlike: StageError) -> Self {
        Self::from(match unlike {
            StageError::Own(paths) => Invalid::Own(readable(&paths)),
            StageError::Repositories(paths) => Invalid::Repositories(readable(&paths)),
            StageError::Special(paths) => Invalid::Special(readable(&paths)),
            StageError::Sparse(paths) => Invalid::Sparse(readable(&paths)),
            StageError::Conflicts(paths) => Invalid::Conflicts(readable(&paths)),
            StageError::Outside(paths) => Invalid::Outside(readable(&paths)),
            StageError::Trouble(error) => return Self::Trouble(error),
        })
    }
}

/// The result of undoing.
#[derive(Debug)]
#[non_exhaustive]
pub struct Rollback {
    /// The snapshot that keeps what was undone, for [`crate::snapshot::restore`].
    pub kept: Option<String>,
    /// Files that were left as they are: somebody else's by now, or without bytes to put back.
    pub left: Vec<PathBuf>,
    /// Repositories, FIFOs, sockets and devices that were removed: nothing was kept that could be put back.
    pub gone: Vec<PathBuf>,
    /// References that somebody else has moved meanwhile.
    pub references_left: Vec<String>,
    /// HEAD before, and as somebody else has moved it: left there.
    pub foreign_head: Option<(Head, Head)>,
}

impl Mutated {
    /// The exit status that stands for it.
    #[must_use]
    pub fn status(&self) -> i32 {
        let Landed::Failed(failure) = &self.result else { return 0 };
        if matches!(failure.rollback, Some(Err(_))) {
            return 125;
        }
        match &failure.why {
            FailureReason::Ended(Ending::Exited(0))
            | FailureReason::Invalid(_)
            | FailureReason::Trouble(
                Error::ChangedMeanwhile { .. } | Error::UnexpectedHead { .. } | Error::SwitchedHead { .. },
            ) => 65,
            FailureReason::Ended(ending) => ending.status(),
            FailureReason::Interrupted(signal) | FailureReason::Trouble(Error::Interrupted { signal, .. }) => {
                128 + signal
            }
            FailureReason::Trouble(Error::Busy { .. } | Error::GitBusy { .. } | Error::Deadlock { .. }) => 75,
            FailureReason::Trouble(_) => 125,
        }
    }
}

impl Rollback {
    pub(in crate::guard) fn new(undone: transaction::Undone) -> Self {
        Self {
            kept: undone.kept,
            left: readable(&undone.left),
            gone: readable(&undone.gone),
            references_left: undone.references_left,
            foreign_head: undone.foreign_head,
        }
    }
}
