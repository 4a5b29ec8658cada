//! Logs what happened: one line a hold, appended after it, never in the way of the lock.
//!
//! # Format
//! JSON lines in `log.jsonl`, times as RFC 3339 in UTC, durations in milliseconds. `schema` is [`SCHEMA`], `event` one of
//! `hold` (acquired and released), `died` (acquired, never released, found by the next), `lost` (the lock's file was
//! removed while it was held), `violated` (HEAD was changed outside the guard, or, with `under`, the worktree under a hold) and
//! `recovered` (a killed mutation was undone, finished or forgotten: `reason`).
//! Each line is one write; a line that a crash left torn is skipped. At [`ROTATE_BYTES`] the file becomes `log.1.jsonl`.

use std::{
    collections::VecDeque,
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
};

use serde::{Deserialize, Serialize};

use crate::{
    error::Result,
    fs::{self, Sharing},
    holder::{self, Holder, Mode},
    lock::LockFile,
    repo::{Head, Repo},
};

/// Version of the line's format.
pub(crate) const SCHEMA: u32 = 1;
/// Size at which a new file is begun.
const ROTATE_BYTES: u64 = 4 << 20;
/// Longest line that is read; a longer one is garbage.
const LONGEST_LINE: u64 = 64 << 10;

/// The kind of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Event {
    /// A hold, from request to release.
    Hold,
    /// A hold whose processes were killed before they could release; found by the next.
    Died,
    /// A hold that was not exclusive to the end.
    Lost,
    /// HEAD or its branch was changed outside the guard; found at the next acquire.
    Violated,
    /// An interrupted mutation was recovered: `reason` tells how.
    Recovered,
}

/// A step of a mutation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepTime {
    /// `read`, `check`, `command`, `look` (what it changed), `verify`, `commit`, `rollback`.
    pub step: String,
    /// How long it took, in milliseconds.
    pub ms: u64,
    /// The exit status that stands for its end.
    pub status: i32,
}

/// One line of the log.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Entry {
    /// Version of the line's format.
    pub schema: u32,
    /// Its kind.
    pub event: Event,
    /// Fencing number of the hold.
    pub fence: u64,
    /// Process that asked for the lock.
    pub pid: u32,
    /// User that it ran as.
    pub user: String,
    /// Machine that it ran on.
    pub host: String,
    /// Agent or CI system, if one was recognised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// The command.
    pub command: String,
    /// Its directory.
    pub directory: String,
    /// The resources.
    pub scope: String,
    /// Shared or exclusive.
    pub mode: Option<Mode>,
    /// Why, as told with `--reason`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When the lock was asked for.
    pub requested: String,
    /// When it was acquired.
    pub acquired: Option<String>,
    /// When it was released, or found.
    pub released: Option<String>,
    /// From request to acquire, in milliseconds.
    pub waited_ms: u64,
    /// From acquire to release, in milliseconds.
    pub held_ms: u64,
    /// The command's exit status; 128 + n when it died of signal n.
    pub status: Option<i32>,
    /// HEAD before.
    pub head_before: Option<Head>,
    /// HEAD after.
    pub head_after: Option<Head>,
    /// The steps of a mutation, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<StepTime>,
    /// Since the last release the index was rewritten outside the guard, as any `git status` may do.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub index_rewritten: bool,
    /// Fencing numbers of the holds around it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inside: Vec<u64>,
    /// Fencing number of the hold under which somebody who did not ask changed the worktree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub under: Option<u64>,
}

impl Entry {
    /// Begins a line from the record of a hold.
    pub(crate) fn new(event: Event, record: &Holder) -> Self {
        let acquired = record.acquired_ms.unwrap_or(record.requested_ms);
        let released = record.released_ms.unwrap_or(acquired);
        Self {
            schema: SCHEMA,
            event,
            fence: record.id,
            pid: record.pid,
            user: record.user.clone(),
            host: record.host.clone(),
            agent: record.agent.clone(),
            command: record.command.clone(),
            directory: record.directory.clone(),
            scope: record.scope.clone(),
            mode: record.mode,
            reason: record.reason.as_deref().map(holder::readable),
            requested: rfc3339(record.requested_ms),
            acquired: record.acquired_ms.map(rfc3339),
            released: record.released_ms.map(rfc3339),
            waited_ms: acquired.saturating_sub(record.requested_ms),
            held_ms: released.saturating_sub(acquired),
            status: None,
            head_before: None,
            head_after: None,
            steps: Vec::new(),
            index_rewritten: false,
            inside: record.inside.clone(),
            under: None,
        }
    }

    /// Begins a line about a git command that changed a worktree under somebody's hold.
    pub(crate) fn under(intruder: &Holder, hold: &Holder) -> Self {
        Self { under: Some(hold.id), ..Self::new(Event::Violated, intruder) }
    }

    /// When it was released, found or asked for: what the log is ordered and searched by.
    #[must_use]
    pub fn time(&self) -> &str {
        self.released.as_deref().or(self.acquired.as_deref()).unwrap_or(&self.requested)
    }
}

/// Appends a line, and begins a new file if the old one is large.
///
/// # Errors
/// [`crate::Error::Io`] or [`crate::Error::NotAFile`]: a reason to warn, never to stop.
pub(crate) fn append(repo: &Repo, entry: &Entry, sharing: Sharing) -> Result<()> {
    let Some(path) = repo.log_file() else { return Ok(()) };
    let mut file = fs::open_for_append(&path, sharing)?;
    if file.metadata().is_ok_and(|metadata| metadata.len() >= ROTATE_BYTES) {
        // The short lock of the log: who gets it rotates, who does not appends to the old file meanwhile.
        let full = LockFile::new(file, &path)?;
        if matches!(full.try_lock(Mode::Exclusive), Ok(true)) && full.is_at(&path) {
            fs::rename(&path, &path.with_extension("1.jsonl"))?;
        }
        full.unlock();
        file = fs::open_for_append(&path, sharing)?;
    }
    fs::append_line(&file, &path, serde_json::to_vec(entry).unwrap_or_default())
}

/// Reads the newest `count` lines (all with `None`), oldest first. Torn and unknown lines are skipped. Does not block.
pub(crate) fn read(repo: &Repo, count: Option<usize>) -> Vec<Entry> {
    let Some(path) = repo.log_file() else { return Vec::new() };
    let mut entries = VecDeque::new();
    for path in [path.with_extension("1.jsonl"), path] {
        read_file(&path, |entry| {
            entries.push_back(entry);
            if count.is_some_and(|count| entries.len() > count) {
                entries.pop_front();
            }
        });
    }
    entries.into()
}

fn read_file(path: &Path, mut each: impl FnMut(Entry)) {
    let Ok(file) = fs::open_record(path) else { return };
    // One that was not rotated in time is longer, but not without end.
    let mut lines = BufReader::new(file.take(16 * ROTATE_BYTES));
    loop {
        let mut line = Vec::new();
        match (&mut lines).take(LONGEST_LINE).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {
                if let Ok(entry) = serde_json::from_slice::<Entry>(&line)
                    && entry.schema == SCHEMA
                {
                    each(entry);
                }
            }
        }
    }
}

fn rfc3339(ms: u64) -> String {
    let ms = i64::try_from(ms).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(ms).map_or_else(|_| ms.to_string(), |time| format!("{time:.3}"))
}
