//! Knows the repository: its place, worktrees, configuration and references. The only module that knows gix and starts git.
//!
//! Nothing is opened here beyond what discovery needs: the cost does not grow with the repository.

mod checkout;
mod command;
mod config;
mod config_files;
mod discovery;
mod expected;
mod git;
pub(crate) mod git_process;
mod index;
mod layout;
mod numbers;
mod outside;
mod run;
mod state;
mod trust;

use std::path::{Path, PathBuf};

pub(crate) use checkout::{
    Blobs, Changes, Checkout, Conversion, Deletion, EXCLUDE, HEAD, RawChange, RawEntry, Reference, STASH, STASH_LOG,
    Untracked, is_branch_name, is_reference_name,
};
pub use config::{Config, DURATION, Setting, read_duration};
pub use expected::ExpectedHead;
pub(crate) use git::{HookFacts, Manner, durable, path_of};
pub(crate) use index::{Entry, Index, SPARSE_DIRECTORY, SUBMODULE, Stat};
use layout::lock_files;
pub(crate) use layout::{GIT_LOCKS, Worktree, is_git_directory, is_git_name};
pub use numbers::{ScanPattern, Seen};
pub(crate) use run::is_git_stuck;
pub use state::Head;
pub(crate) use state::index_stamp;
use trust::Trust;

use crate::{env, error::Result, fs};

/// The place whose changes are guarded: a checkout of a repository, a bare one, or a directory without any.
#[derive(Debug, Clone)]
pub struct Repo {
    root: PathBuf,
    git: Option<GitDirs>,
    trust: Trust,
}

#[derive(Debug, Clone)]
struct GitDirs {
    /// This worktree's own directory: `.git`, or `.git/worktrees/<id>`.
    own: PathBuf,
    /// The directory that all worktrees share.
    common: PathBuf,
}

impl Repo {
    /// Finds the repository that `directory` belongs to, from `GIT_DIR` or upwards, as git does.
    ///
    /// Outside of git, the place is `directory` itself. Does not block.
    ///
    /// # Errors
    /// [`crate::Error::Untrusted`] when somebody else owns it and git's `safe.directory` does not list it, [`crate::Error::ImplicitBare`],
    /// [`crate::Error::BrokenRepository`] when there is a `.git` that leads nowhere, [`crate::Error::Io`] when `directory` cannot
    /// be read.
    ///
    /// # Example
    /// ```
    /// let directory = tempfile::tempdir()?;
    /// let repo = repoguard::Repo::discover(directory.path())?;
    /// assert!(repo.lock_path().ends_with(".repoguard.lock"), "not a git repository: the lock is beside the files");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn discover(directory: &Path) -> Result<Self> {
        let repo = Self::find(directory)?;
        repo.check_trust()?;
        Ok(repo)
    }

    /// As [`Repo::discover`], but for any owner: only for reading. Work that needs git then fails as `discover` would.
    ///
    /// # Errors
    /// As [`Repo::discover`], without [`crate::Error::Untrusted`].
    pub fn discover_of_any_owner(directory: &Path) -> Result<Self> {
        Self::find(directory)
    }

    /// The repository whose git runs the hook that this process is. Git starts hooks at the top of the worktree, or names the
    /// repository by `GIT_DIR`, and has checked that its owner can be trusted.
    ///
    /// # Errors
    /// As [`Repo::discover_of_any_owner`].
    pub fn of_hook(directory: &Path) -> Result<Self> {
        let own = directory.join(".git");
        let is_plain = env::get("GIT_DIR").is_none() && directory.is_absolute() && own.join("HEAD").is_file();
        if is_plain {
            return Self::from_dirs(own, Some(directory.to_owned()), directory, Trust::Given);
        }
        Self::discover_of_any_owner(directory)
    }

    /// The same repository with its files elsewhere: where git has them.
    pub(crate) fn at(&self, root: &Path) -> Self {
        Self { root: root.to_owned(), ..self.clone() }
    }

    /// The same repository, as seen from another of its worktrees.
    pub(crate) fn seen_from(&self, git_dir: &Path) -> Self {
        let link = fs::read_whole(&git_dir.join("gitdir"), MOST_LINK as u64).ok();
        // Git may write it as seen from there.
        let inside = link.map_or_else(|| git_dir.to_owned(), |text| git_dir.join(path_of(text.trim_ascii_end())));
        let root = inside.parent().unwrap_or(git_dir);
        let root = root.canonicalize().unwrap_or_else(|_| root.to_owned());
        let common = self.common_dir().unwrap_or(git_dir).to_owned();
        Self { root, git: Some(GitDirs { own: git_dir.to_owned(), common }), trust: self.trust.clone() }
    }

    /// Whether a worktree of this repository and its git directory lead to each other: a copy of either leads to the original.
    pub(crate) fn is_at_home(&self, worktree: &Worktree) -> bool {
        worktree.is_main() || leads_to(self.seen_from(&worktree.git_dir).root(), &worktree.git_dir)
    }

    /// The worktree of which this one is a copy; git would confuse the two.
    pub(crate) fn original(&self) -> Option<PathBuf> {
        let worktree = self.worktree().filter(|worktree| !worktree.is_main() && self.is_at_home(worktree))?;
        let original = self.seen_from(&worktree.git_dir).root;
        (self.root.canonicalize().ok()? != original).then_some(original)
    }

    /// The top of the worktree; of a bare repository its directory; else the directory that was asked about.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }
}

/// More than a file takes that holds one path.
pub(crate) const MOST_LINK: usize = 64 << 10;

/// The git directory that the text of a `.git` file in a worktree names; see gitrepository-layout(5).
pub(crate) fn named_git_dir(root: &Path, text: &[u8]) -> Option<PathBuf> {
    text.strip_prefix(b"gitdir:").map(|path| root.join(path_of(path.trim_ascii())))
}

/// Tells whether the `.git` in a worktree names its git directory.
pub(crate) fn leads_to(root: &Path, git_dir: &Path) -> bool {
    let named = fs::read_small(&root.join(".git"), MOST_LINK).and_then(|text| named_git_dir(root, &text));
    let real = |path: &Path| path.canonicalize().ok();
    named.is_some_and(|named| real(&named).is_some_and(|named| Some(named) == real(git_dir)))
}

/// Reads a boolean as git does; see git-config(1), "Values". Anything else is false.
fn is_true(text: &str) -> bool {
    gix_config::Boolean::try_from(text).is_ok_and(gix_config::Boolean::is_true)
}
