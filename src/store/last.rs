//! Records HEAD at the last release of the lock. A difference at the next acquire was made outside the guard.
//!
//! # Format
//! `heads/<worktree>`: one JSON object, padded with spaces and overwritten in place: `schema` 1, `fence` of the hold that
//! wrote it, `branch`, `commit`, `index` (modification time in ns, size, inode), `at_ms`, milliseconds since 1970, and `switched` if
//! that hold switched HEAD to another branch.

use serde::{Deserialize, Serialize};

use crate::{
    error::Result,
    fs::{self, Sharing},
    holder::{self, Holder, RECORD_BYTES},
    repo::{Head, Repo, Worktree, index_stamp},
    sys,
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) switched: Option<Switched>,
}

/// How a hold switched HEAD to another branch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Switched {
    /// HEAD before.
    pub(crate) from: Head,
    /// The hold's process, and its session.
    pid: u32,
    session: u32,
    user: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    agent: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    command: String,
}

impl Switched {
    /// By a hold that a process of this session has acquired.
    pub(crate) fn new(from: Head, holder: &Holder, session: u32) -> Self {
        Self {
            from,
            pid: holder.pid,
            session,
            user: holder.user.clone(),
            agent: holder.agent.clone(),
            reason: holder.reason.as_deref().map(holder::readable),
            command: holder.command.clone(),
        }
    }

    /// Tells whether it was done in the name of the same agent or session, for the same reason.
    pub(crate) fn is_by(&self, holder: &Holder) -> bool {
        (&self.user, &self.agent, &self.reason)
            == (&holder.user, &holder.agent, &holder.reason.as_deref().map(holder::readable))
            && (self.agent.is_some() || self.session == sys::session())
    }
}

impl std::fmt::Display for Switched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = self.agent.as_ref().map_or_else(|| self.user.clone(), |agent| format!("{agent}, {}", self.user));
        let reason = self.reason.as_ref().map_or_else(String::new, |reason| format!(", {reason}"));
        write!(f, "`{}` (pid {} of {name}{reason})", self.command, self.pid)
    }
}

impl Last {
    /// Looks at a worktree as it is now.
    pub(crate) fn look(repo: &Repo, worktree: &Worktree, fence: u64) -> Option<Self> {
        let at_ms = holder::unix_ms(std::time::SystemTime::now());
        Some(Self {
            schema: SCHEMA,
            fence,
            head: repo.head(worktree)?,
            index: index_stamp(worktree),
            at_ms,
            switched: None,
        })
    }

    /// The same, with how the hold that leaves it so has switched HEAD.
    pub(crate) fn switched_by(self, switched: Option<Switched>) -> Self {
        Self { switched, ..self }
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
