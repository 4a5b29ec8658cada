//! Takes git's own locks, `index.lock` and `HEAD.lock`, as git does. They hold the mark of the mutation's journal, so that a later
//! process can tell ours from another git's.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::journal::{Journal, Locked};
use crate::{
    error::{Error, Result},
    fs::{self, Sharing},
    repo::Checkout,
    sys::Retry,
};

/// The place of a lock before it has its name.
const MAKING: &str = "making";

/// A lock file of git's that is ours.
#[derive(Debug)]
pub(crate) struct GitLock {
    file: PathBuf,
    lock: PathBuf,
    held: bool,
}

impl GitLock {
    /// Takes a lock of git's in a git directory; waits for another git so long.
    ///
    /// # Errors
    /// [`Error::GitBusy`] when somebody else has it all that time, [`Error::Io`].
    pub(crate) fn take(
        which: Locked,
        git_dir: &Path,
        directory: &Path,
        journal: &Journal,
        patience: Duration,
    ) -> Result<Self> {
        let (file, lock) = (which.file(git_dir), which.path(git_dir));
        let made = directory.join(format!("{MAKING}-{}", file.file_name().unwrap_or_default().to_string_lossy()));
        fs::write_new(&made, journal.lock_text(), Sharing::default())?;
        let tries = Retry::every(Duration::from_millis(1)).slowing_to(Duration::from_millis(50)).within(patience);
        for _ in tries {
            match fs::take_name(&made, &lock) {
                Ok(_) => {
                    fs::remove(&made);
                    return Ok(Self { file, lock, held: true });
                }
                Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        fs::remove(&made);
        Err(Error::GitBusy { path: lock, waited: patience, git: None })
    }

    /// Waits until nobody has the lock of `file`, so long; takes nothing.
    ///
    /// # Errors
    /// [`Error::GitBusy`].
    pub(crate) fn is_free(file: &Path, patience: Duration) -> Result<()> {
        let path = lock_of(file);
        let is_free = || fs::identity(&path).is_none();
        if Retry::every(Duration::from_millis(2)).within(patience).until(is_free) {
            return Ok(());
        }
        Err(Error::GitBusy { path, waited: patience, git: None })
    }

    /// Gives the file that it locks new content, a file beside it, in one step.
    pub(crate) fn replace(&self, by: &Path) -> Result<()> {
        fs::rename(by, &self.file)
    }

    /// Lets it go.
    pub(crate) fn release(&mut self) {
        /// A file system may fail once.
        const TRIES: usize = 3;
        if std::mem::take(&mut self.held) {
            for _ in 0..TRIES {
                fs::remove(&self.lock);
                if fs::identity(&self.lock).is_none() {
                    break;
                }
            }
        }
    }
}

fn lock_of(file: &Path) -> PathBuf {
    file.with_file_name(format!("{}.lock", file.file_name().unwrap_or_default().to_string_lossy()))
}

impl Drop for GitLock {
    fn drop(&mut self) {
        self.release();
    }
}

/// Both locks, so that no other git can touch index or HEAD while the command works on an index of its own.
#[derive(Debug)]
pub(crate) struct Fence {
    index: GitLock,
    head: GitLock,
}

impl Fence {
    /// Takes both; waits for other gits so long.
    ///
    /// # Errors
    /// As [`GitLock::take`].
    pub(crate) fn take(checkout: &Checkout, directory: &Path, journal: &Journal, patience: Duration) -> Result<Self> {
        let begun = Instant::now();
        let index = GitLock::take(Locked::Index, &checkout.git_dir, directory, journal, patience)?;
        let left = patience.saturating_sub(begun.elapsed());
        let head = GitLock::take(Locked::Head, &checkout.git_dir, directory, journal, left)?;
        Ok(Self { index, head })
    }

    /// Lets git move HEAD.
    pub(crate) fn open_head(&mut self) {
        self.head.release();
    }

    /// The index' lock.
    pub(crate) fn index(&self) -> &GitLock {
        &self.index
    }
}
