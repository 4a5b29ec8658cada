//! Decides whether git would work in a repository, by git's own rules: its owner, `safe.directory`, `safe.bareRepository`.
//!
//! Git checks the owner of a repository that it finds itself, but not of one that `GIT_DIR` names. So setting `GIT_DIR` needs a
//! [`Trusted`], and only this file makes one.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use gix_discover::repository;

use super::{Repo, command, config_files, run};
use crate::{
    error::{Error, Result},
    sys,
};

/// Proof that git would work in a repository.
#[derive(Debug, Clone, Copy)]
pub(super) struct Trusted(());

/// Whether git trusts a repository. Clones share the answer.
#[derive(Debug, Clone)]
pub(super) enum Trust {
    /// The user named it, git runs us in it, or its owner is the user.
    Given,
    /// Git has to judge, as seen from this directory.
    Asked(PathBuf, Arc<OnceLock<Verdict>>),
}

/// Git's answer.
#[derive(Debug)]
pub(super) enum Verdict {
    Trusted,
    OfAnother,
    /// A bare repository that was not named explicitly.
    Bare,
    Broken(String),
}

impl Trust {
    /// Git is asked when the answer is needed.
    pub(super) fn to_ask(directory: &Path) -> Self {
        Self::Asked(directory.to_owned(), Arc::default())
    }

    /// Judges a repository that was found from `directory`. Asks no git if the user owns all that git looks at.
    pub(super) fn of_found(directory: &Path, found: &repository::Path, owner: gix_sec::Trust) -> Self {
        let is_given = owner == gix_sec::Trust::Full
            && match found {
                repository::Path::Repository(git_dir) => is_own(git_dir) && !config_files::may_forbid_bare(),
                repository::Path::WorkTree(root) => is_own(root) && is_own(&root.join(".git")),
                repository::Path::LinkedWorkTree { work_dir, git_dir } => {
                    is_own(work_dir) && is_own(&work_dir.join(".git")) && is_own(git_dir)
                }
            };
        if is_given { Self::Given } else { Self::to_ask(directory) }
    }
}

/// As in git: the entry itself (links are not followed) belongs to this user.
fn is_own(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|metadata| sys::owner(&metadata).0 == sys::effective_user())
}

impl Repo {
    /// Fails if git would reject this repository. Starts git only if another user owns a part of it.
    ///
    /// # Errors
    /// [`Error::Untrusted`], [`Error::ImplicitBare`], [`Error::BrokenRepository`].
    pub fn check_trust(&self) -> Result<()> {
        self.judge().map(drop)
    }

    /// The proof that a git may run here, which would not block on a file of its own either.
    pub(super) fn trusted(&self) -> Result<Trusted> {
        let trusted = self.judge()?;
        self.refuse_blocking_files().map(|()| trusted)
    }

    fn judge(&self) -> Result<Trusted> {
        let Trust::Asked(directory, verdict) = &self.trust else { return Ok(Trusted(())) };
        let path = self.root.clone();
        match verdict.get_or_init(|| ask(directory)) {
            Verdict::Trusted => Ok(Trusted(())),
            Verdict::OfAnother => Err(Error::Untrusted { path }),
            Verdict::Bare => Err(Error::ImplicitBare { path }),
            Verdict::Broken(reason) => Err(Error::BrokenRepository { path, reason: reason.clone() }),
        }
    }
}

fn ask(directory: &Path) -> Verdict {
    let output =
        run::output(command::command(command::Manner::Asking).args(["rev-parse", "--git-dir"]).current_dir(directory));
    // Without git, nothing proves it.
    let Ok(output) = output else { return Verdict::OfAnother };
    let said = command::said(&output);
    match () {
        () if output.status.success() => Verdict::Trusted,
        () if said.contains("safe.bareRepository") => Verdict::Bare,
        () if said.contains("safe.directory") => Verdict::OfAnother,
        () => Verdict::Broken(said),
    }
}
