//! Records who changed a worktree under somebody else's hold, for the holder, who learns of it when the hold ends.
//!
//! # Format
//! `violations/<fence>`: a [`Holder`] record of the process that did not wait, named after the hold that it ran under.
//! The last one only; the log has all.

use std::path::PathBuf;

use crate::{
    error::Result,
    fs::{self, Sharing},
    holder::{Holder, RECORD_BYTES},
    repo::Repo,
};

/// Leaves word for the holder.
///
/// # Errors
/// [`crate::Error::Io`] when it cannot be written.
pub(crate) fn leave(repo: &Repo, fence: u64, intruder: &Holder, sharing: Sharing) -> Result<()> {
    let Some(path) = path(repo, fence) else { return Ok(()) };
    fs::overwrite(&fs::open_or_create(&path, sharing)?, &path, &intruder.to_record())
}

/// The word that was left under a hold, if there is one.
pub(crate) fn left(repo: &Repo, fence: u64) -> Option<Holder> {
    Holder::from_record(&fs::read_small(&path(repo, fence)?, RECORD_BYTES)?)
}

/// Takes the word that was left under a hold, if there is one.
pub(crate) fn take(repo: &Repo, fence: u64) -> Option<Holder> {
    let left = left(repo, fence)?;
    fs::remove(&path(repo, fence)?);
    Some(left)
}

fn path(repo: &Repo, fence: u64) -> Option<PathBuf> {
    Some(repo.violations_dir()?.join(fence.to_string()))
}
