//! Keeps the lock file of a directory out of the commits of a repository around it.

use std::path::Path;

use super::Repo;
use crate::{
    env,
    error::Result,
    fs::{self, Sharing},
};

/// Name of the lock file of a directory that is in no repository.
pub(super) const LOCK_NAME: &str = ".repoguard.lock";

impl Repo {
    /// If this directory is in a repository by now, by `git init` for example, its lock file becomes one of the files that the
    /// repository ignores. The file itself must stay: somebody may be waiting for it.
    ///
    /// # Errors
    /// [`crate::Error::Io`] when the repository's `info/exclude` cannot be written.
    pub(crate) fn hide_lock_file(&self) -> Result<()> {
        Self::hide_lock_file_of(self.root())
    }

    /// The same of any directory.
    ///
    /// # Errors
    /// As [`Repo::hide_lock_file`].
    pub(crate) fn hide_lock_file_of(directory: &Path) -> Result<()> {
        let mut around = vec![Self::find(directory)];
        around.extend(env::get("GIT_DIR").map(|_| Self::find_upwards(directory)));
        for repo in around.into_iter().flatten() {
            if let Some(common) = repo.common_dir().filter(|common| !directory.starts_with(common)) {
                exclude(common)?;
            }
        }
        Ok(())
    }
}

fn exclude(common: &Path) -> Result<()> {
    /// Only the beginning of a longer file is read.
    const MOST: usize = 1 << 20;
    let (info, sharing) = (common.join("info"), Sharing::of(Some(common)));
    let path = info.join("exclude");
    let known = fs::read_small(&path, MOST).unwrap_or_default();
    if known.split(|byte| *byte == b'\n').any(|line| line.trim_ascii() == LOCK_NAME.as_bytes()) {
        return Ok(());
    }
    if fs::identity(&info).is_none() {
        fs::make_directory(&info, sharing)?;
    }
    let file = fs::open_for_append(&path, sharing)?;
    fs::append_line(&file, &path, LOCK_NAME.into())
}
