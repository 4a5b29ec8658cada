//! Finds out whether somebody has changed what a git command was about to use: HEAD and index, before and after a wait.
//!
//! # Format
//! `<common dir>/repoguard/index/<pid namespace>-<pid>`: a hard link to an index as it was, of the git process that runs or of the hook that
//! waits; on FUSE a copy. Git never writes into an index but puts a new file in its place, so a link keeps what was there, however
//! large, at the price of one system call. As long as both are the same file nothing has changed; else git tells the entries of both.

use std::path::{Path, PathBuf};

use crate::{
    env,
    error::Result,
    fs::{self, Sharing},
    repo::{Head, Repo},
    sys,
};

/// HEAD and index of a worktree at one moment.
pub(super) struct World {
    head: Option<Head>,
    index: Kept,
}

/// An index as it was.
pub(super) struct Kept {
    index: PathBuf,
    /// `None` without an index.
    link: Option<PathBuf>,
}

impl World {
    /// Looks at it now.
    ///
    /// # Errors
    /// [`crate::Error::Io`] when the index cannot be kept.
    pub(super) fn look(repo: &Repo, sharing: Sharing) -> Result<Self> {
        let head = repo.worktree().and_then(|worktree| repo.head(&worktree));
        let name = name_of(std::process::id());
        Ok(Self { head, index: Kept::keep(repo, index_path(repo), &name, sharing)? })
    }

    /// The changes since, in words.
    ///
    /// # Errors
    /// When git cannot tell: then it must be taken for changed.
    pub(super) fn changed(&self, repo: &Repo, with_index: bool) -> Result<Option<String>> {
        let now = repo.worktree().and_then(|worktree| repo.head(&worktree));
        if let (Some(before), Some(now)) = (&self.head, &now)
            && before != now
        {
            return Ok(Some(format!("HEAD moved from {before} to {now}")));
        }
        if with_index && self.index.has_changed(repo)? {
            return Ok(Some("other files were staged".to_owned()));
        }
        Ok(None)
    }

    /// It is needed no longer.
    pub(super) fn forget(self) {
        self.index.forget();
    }
}

impl Kept {
    /// Keeps the index that is there now under a name of ours.
    ///
    /// # Errors
    /// [`crate::Error::Io`] if it cannot be linked or copied.
    pub(super) fn keep(repo: &Repo, index: PathBuf, name: &str, sharing: Sharing) -> Result<Self> {
        let link = repo.index_dir().map(|directory| directory.join(name));
        let link = link.filter(|_| std::fs::symlink_metadata(&index).is_ok());
        if let Some(link) = &link {
            fs::link(&index, link, sharing)?;
        }
        Ok(Self { index, link })
    }

    /// The one that was kept under this name, if it was.
    pub(super) fn find(repo: &Repo, index: PathBuf, name: &str) -> Option<Self> {
        let link = repo.index_dir()?.join(name);
        std::fs::symlink_metadata(&link).is_ok().then_some(Self { index, link: Some(link) })
    }

    /// Tells whether the entries differ from those that are there now.
    ///
    /// # Errors
    /// When git cannot tell.
    pub(super) fn has_changed(&self, repo: &Repo) -> Result<bool> {
        let identity = |path: &Path| std::fs::metadata(path).ok().map(|metadata| sys::identity(&metadata));
        let Some(link) = &self.link else { return Ok(identity(&self.index).is_some()) };
        if identity(link) == identity(&self.index) {
            return Ok(false);
        }
        Ok(repo.index_entries(link)? != repo.index_entries(&self.index)?)
    }

    /// It is needed no longer.
    pub(super) fn forget(self) {
        if let Some(link) = &self.link {
            fs::remove(link);
        }
    }
}

/// The name under which the index of a process is kept: another process may have its number in another pid namespace.
pub(super) fn name_of(pid: u32) -> String {
    format!("{}-{pid}", sys::pid_namespace())
}

/// Removes what processes kept that were killed before they could remove it.
pub(super) fn tidy(repo: &Repo) {
    let Some(directory) = repo.index_dir() else { return };
    for name in sys::names(&directory) {
        let pid = name.rsplit('-').next().and_then(|pid| pid.parse().ok()).filter(|&pid| name == name_of(pid));
        if pid.is_some_and(|pid| sys::still_runs(pid, sys::boot_ms()) == Some(false)) {
            fs::remove(&directory.join(name));
        }
    }
}

/// The index that the git command of this hook uses.
pub(super) fn index_path(repo: &Repo) -> PathBuf {
    let own = repo.git_dir().unwrap_or(repo.root()).join("index");
    match env::get("GIT_INDEX_FILE").map(std::path::absolute) {
        Some(Ok(path)) => path,
        _ => own,
    }
}

/// Whether git holds its own `index.lock` while this hook runs, as in `commit -a` and `commit PATH`: then the index that it
/// uses is that file, or one that ends like it.
pub(super) fn git_holds_its_index() -> bool {
    env::get("GIT_INDEX_FILE").is_some_and(|path| sys::bytes(&path).ends_with(b".lock"))
}
