//! The manifest of a snapshot.
//!
//! # Format
//! `snapshots/<id>/`, the id being the time in UTC and six random digits:
//!
//! - `manifest.jsonl`: JSON lines. The first is `schema` 1, `id`, `made_at_ms` since 1970, `root` of the worktree, and the
//!   [`Header`]. Each other is a [`Line`], the last `finished`. Paths are written as
//!   [`in_json`] does.
//! - `files/<n>`: what was moved or copied, of whatever kind, also whole directories, with all permission bits.
//! - `commits.bundle`: commits that were undone, as `git bundle` writes them.
//!
//! The line of a file is written before the file is moved. After a kill between the two, the file is in its place: a line without a
//! file means that. After a power loss a file may have no line; it is still there, without its name.

use std::io::{BufRead, Read as _};

use serde::{Deserialize, Serialize};

use crate::{escape::in_json, repo::Head};

pub(super) const SCHEMA: u32 = 1;
pub(super) const MANIFEST: &str = "manifest.jsonl";
pub(super) const FILES: &str = "files";
pub(super) const BUNDLE: &str = "commits.bundle";

/// Longest line that is read; a longer one is garbage.
const LONGEST_LINE: u64 = 64 << 10;

/// The origin of a snapshot.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Header {
    /// For people: `rollback of repoguard mutate: the verify step failed`.
    pub(crate) why: String,
    /// The command that made what is undone.
    pub(crate) command: String,
    /// HEAD before it, and before it is undone.
    pub(crate) head_before: Option<Head>,
    pub(crate) head_after: Option<Head>,
    /// Fencing number of the hold that it is undone in.
    pub(crate) fence: Option<u64>,
}

/// The first line of a manifest.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct First {
    pub(super) schema: u32,
    pub(super) id: String,
    pub(super) made_at_ms: u64,
    #[serde(with = "in_json")]
    pub(super) root: Vec<u8>,
    #[serde(flatten)]
    pub(super) header: Header,
}

/// Any other line of a manifest. A `file` is the name of an entry in `files`, `above` the permission bits of the directories
/// that lead to it, from the top.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "lowercase")]
pub(super) enum Line {
    /// Moved away from the worktree.
    Moved {
        file: u64,
        #[serde(with = "in_json")]
        path: Vec<u8>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        above: Vec<u32>,
    },
    /// Copied; the original stays.
    Copied {
        file: u64,
        #[serde(with = "in_json")]
        path: Vec<u8>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        above: Vec<u32>,
    },
    /// Deleted by what is undone.
    Deleted {
        #[serde(with = "in_json")]
        path: Vec<u8>,
    },
    /// Moved from elsewhere: no file of the worktree.
    Other {
        file: u64,
        label: String,
        #[serde(with = "in_json")]
        path: Vec<u8>,
    },
    /// A reference that was moved.
    Reference { name: String, old: Option<String>, new: Option<String> },
    /// Nothing will follow.
    Finished { at_ms: u64, bytes: u64 },
}

/// The next line, the line end included; `None` at the end, or after an error.
pub(super) fn next_line(lines: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut line = Vec::new();
    match lines.take(LONGEST_LINE).read_until(b'\n', &mut line) {
        Ok(0) | Err(_) => None,
        Ok(_) => Some(line),
    }
}
