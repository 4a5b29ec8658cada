//! Where was HEAD when the lock was last let go? What differs at the next acquire was changed outside the guard.
//!
//! # Format
//! `heads/<worktree>`: one JSON object, padded with spaces and overwritten in place: `schema` 1, `fence` of the hold that
//! wrote it, `branch`, `commit`, `index` (modification time in ns, size, inode) and `at_ms`, milliseconds since 1970.

use serde::{Deserialize, Serialize};

use crate::{
    error::Result,
    fs::{self, Sharing},
    holder::{self, RECORD_BYTES},
    repo::{Head, Repo, Worktree, index_stamp},
};

const SCHEMA: u32 = 1;

/// A worktree as the last holder left it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Last {
    schema: u32,
    pub(crate) fence: u64,
    #[serde(flatten)]
    pub(crate) head: Head,
    pub(crate) index: Option<String>,
    pub(crate) at_ms: u64,
}

impl Last {
    /// Looks at a worktree as it is now.
    pub(crate) fn look(repo: &Repo, worktree: &Worktree, fence: u64) -> Option<Self> {
        let at_ms = holder::unix_ms(std::time::SystemTime::now());
        Some(Self { schema: SCHEMA, fence, head: repo.head(worktree)?, index: index_stamp(worktree), at_ms })
    }

    /// Reads what was recorded; `None` when nothing was, or nothing readable.
    pub(crate) fn read(repo: &Repo, worktree: &Worktree) -> Option<Self> {
        let record = fs::read_small(&repo.head_record(worktree)?, RECORD_BYTES)?;
        serde_json::from_slice::<Self>(&record).ok().filter(|last| last.schema == SCHEMA)
    }

    /// Records it.
    ///
    /// # Errors
    /// [`crate::Error::Io`] when it cannot be written.
    pub(crate) fn write(&self, repo: &Repo, worktree: &Worktree, sharing: Sharing) -> Result<()> {
        let Some(path) = repo.head_record(worktree) else { return Ok(()) };
        let mut record = serde_json::to_vec(self).unwrap_or_default();
        record.resize(RECORD_BYTES - 1, b' ');
        record.push(b'\n');
        fs::overwrite(&fs::open_or_create(&path, sharing)?, &path, &record)
    }
}
