//! Describes who holds a lock or waits for it: plain data, for messages and for the look whether it is held around us.
//!
//! # Format
//! One JSON object, padded with spaces to [`RECORD_BYTES`] and ended by a newline, so that it can be overwritten in
//! place by one write. `schema` is [`SCHEMA`]; a record of another schema is shown raw, never interpreted.
//!
//! A long reason and the caller's metadata follow as a second object of `more` bytes, with the `id` of their record. The kernel's
//! lock is the truth; a record only describes the holder.

use std::{
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

/// Version of the record's format.
pub const SCHEMA: u32 = 1;

/// Size of a record on disk, in bytes.
pub const RECORD_BYTES: usize = 4096;

/// Longest text kept of a command line, in bytes; what is cut off is marked by `…`.
const COMMAND_BYTES: usize = 1000;

/// Longest reason, and longest metadata as JSON, in bytes.
pub const MOST_TEXT_BYTES: usize = 64 << 10;

/// Longest text shown of a reason, and kept of a directory or list of names, in bytes.
const TEXT_BYTES: usize = 400;

/// Key of the resource "everything in this repository".
pub(crate) const REPO_KEY: &str = "repo";
/// Key of the resource "this directory", outside of git.
pub(crate) const ROOT_KEY: &str = "root";
/// Key of the one resource that is a file.
pub(crate) const PATH_KEY: &str = "path";

/// How a resource is held: together with others, or alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Together with other shared holders.
    Shared,
    /// Alone.
    Exclusive,
}

impl Mode {
    /// Tells whether two requests for the same resource exclude each other.
    #[must_use]
    pub fn conflicts_with(self, other: Self) -> bool {
        self == Self::Exclusive || other == Self::Exclusive
    }

    /// Tells whether holding in this mode is enough for somebody who asks for `wanted`.
    #[must_use]
    pub fn covers(self, wanted: Self) -> bool {
        self >= wanted
    }
}

/// A hold of any repository.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HoldId {
    /// Directory of the records that the hold stands in: an absolute path without links.
    pub records: PathBuf,
    /// Fencing number.
    pub id: u64,
}

/// The processes that are inside a hold without showing its token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Descent {
    /// The descendants of this process: its pid, and its start as the system counts it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<(u32, u64)>,
    /// Of the children of `command`, only this one and those that started later. Earlier children are unrelated to the hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<(u32, u64)>,
    /// The descendants of the holder and of its keeper. Only if the holder had no other child when it acquired the lock.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub holder: bool,
}

/// A process that holds the lock or stands in the queue for it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a field of the record of its own")]
pub struct Holder {
    /// Version of the record's format.
    pub schema: u32,
    /// Fencing number of a hold, ticket number of a waiter.
    pub id: u64,
    /// Process that asked for the lock.
    pub pid: u32,
    /// Process that waits for the lock, if that is another one than `pid`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiter: Option<u32>,
    /// Process that keeps the lock for the command, once there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keeper: Option<u32>,
    /// Processes that took the lock's files for it and have ended; the kernel still names them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub takers: Vec<u32>,
    /// The lock is kept until this process ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_pid: Option<u32>,
    /// Milliseconds since 1970 when it is released at the latest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<u64>,
    /// The lock is kept until the git command `pid` ends.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub for_git: bool,
    /// Its command has ended. The lock is kept until the commands inside of the hold have ended, too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lingers: bool,
    /// Somebody may be typing: git opens an editor under this hold.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub editor: bool,
    /// Set if all processes have ended that took the lock and would release it: the processes that keep it by a descriptor
    /// that they inherited. Empty if the system does not show them to this user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inherited_by: Option<Vec<u32>>,
    /// Held by flock(1) or another program's flock(2): without a record, only what the system shows.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub foreign: bool,
    /// Pid namespace that `pid` and `keeper` belong to; 0 if the system has none.
    #[serde(default)]
    pub pid_namespace: u64,
    /// Time namespace that `boot_ms` was read in; 0 if the system has none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub time_namespace: u64,
    /// Milliseconds since the machine's boot when the record was written: a process that started later is another.
    #[serde(default)]
    pub boot_ms: u64,
    /// Name of the machine.
    pub host: String,
    /// Name of the user, or the number if it has no name.
    pub user: String,
    /// The agent or CI system that asked, recognised by its environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// The command, for reading: arguments joined by spaces, cut if it is long.
    pub command: String,
    /// The directory that the command runs in.
    pub directory: String,
    /// The resources, for reading: `worktree`, `repo`, `name deploy`.
    pub scope: String,
    /// Shared or exclusive.
    pub mode: Option<Mode>,
    /// Why, as told with `--reason`; at most [`MOST_TEXT_BYTES`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// JSON that the caller attached to the request; at most [`MOST_TEXT_BYTES`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<serde_json::Value>,
    /// How many bytes follow the record.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) more: u64,
    /// Milliseconds since 1970 when the lock was asked for.
    pub requested_ms: u64,
    /// Milliseconds since 1970 when it was acquired; `None` for a waiter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acquired_ms: Option<u64>,
    /// Milliseconds since 1970 when it was released; `None` while held. A record without it under a lock that the
    /// kernel says is free is that of a holder that died.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub released_ms: Option<u64>,
    /// A path that it had locked was removed or replaced: it was not exclusive to the end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lost: bool,
    /// Fencing numbers of the holds that the asking process was inside of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inside: Vec<u64>,
    /// Holds of other repositories that the asking process was inside of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub elsewhere: Vec<HoldId>,
    /// For a waiter that requests no lock (`repoguard wait`): the number of the request in this queue that it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub awaits: Option<u64>,
    /// The processes that are inside without the token; `None` if there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub descent: Option<Descent>,
    /// Keys of the resources with their modes, as the queue compares them.
    #[serde(default)]
    pub resources: Vec<(String, Mode)>,
    /// SHA-256 of the hold's token, in hex; the token itself is only in the command's environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_sha256: Option<String>,
}

/// Text that does not fit into a record.
#[derive(Serialize, Deserialize)]
struct More {
    id: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    metadata: Option<serde_json::Value>,
}

impl Holder {
    /// Serialises the record to [`RECORD_BYTES`] bytes, and what does not fit behind them.
    #[must_use]
    pub fn to_record(&self) -> Vec<u8> {
        let reason = self.reason.as_deref().map(readable);
        let more = if self.metadata.is_none() && reason == self.reason {
            Vec::new()
        } else {
            let more = More { id: self.id, reason: self.reason.clone(), metadata: self.metadata.clone() };
            serde_json::to_vec(&more).unwrap_or_default()
        };
        let mut record = Self { reason, metadata: None, more: more.len() as u64, ..self.clone() }.to_short_record();
        record.extend(more);
        record
    }

    fn to_short_record(&self) -> Vec<u8> {
        let mut record = serde_json::to_vec(self).unwrap_or_default();
        if record.len() >= RECORD_BYTES {
            // Only a very long list of names gets here: who it is matters more than what it is called.
            let brief = Self {
                command: String::new(),
                directory: String::new(),
                scope: String::new(),
                elsewhere: Vec::new(),
                ..self.clone()
            };
            record = serde_json::to_vec(&brief).unwrap_or_default();
        }
        record.resize(RECORD_BYTES - 1, b' ');
        record.push(b'\n');
        record
    }

    /// Reads a record; `None` if it is empty, damaged or of an unknown schema. The second object counts if it is whole.
    #[must_use]
    pub fn from_record(bytes: &[u8]) -> Option<Self> {
        let (record, more) = bytes.split_at(bytes.len().min(RECORD_BYTES));
        let holder = serde_json::from_slice::<Self>(record).ok().filter(|holder| holder.schema == SCHEMA)?;
        let more = more.get(..holder.bytes_missing()).and_then(|more| serde_json::from_slice::<More>(more).ok());
        Some(match more.filter(|more| more.id == holder.id) {
            Some(More { reason, metadata, .. }) => Self { reason, metadata, more: 0, ..holder },
            None => holder,
        })
    }

    /// How many bytes more than [`RECORD_BYTES`] must be read for all that a record says; 0 if they were, or are too many to be ours.
    pub(crate) fn bytes_missing(&self) -> usize {
        /// As JSON, a reason takes twice as much if it consists of quotes.
        const MOST: usize = 4 * MOST_TEXT_BYTES;
        usize::try_from(self.more).ok().filter(|more| *more <= MOST).unwrap_or(0)
    }

    /// How to free a lock that is kept only by processes that inherited it.
    #[must_use]
    pub fn advice(&self) -> Option<String> {
        let pids: Vec<String> = self.inherited_by.as_ref()?.iter().map(u32::to_string).collect();
        Some(match pids.as_slice() {
            [] => "`sudo repoguard status` names the process that keeps the lock".to_owned(),
            [pid] => format!("if pid {pid} is not needed any more, `kill {pid}` frees the lock"),
            _ => format!("if they are not needed any more, `kill {}` frees the lock", pids.join(" ")),
        })
    }

    /// Tells whether a watcher in the background holds it, as after `repoguard acquire`.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.for_pid.is_some() || self.until_ms.is_some()
    }

    /// How long ago the lock was acquired, or asked for by a waiter.
    #[must_use]
    pub fn age(&self) -> Duration {
        let since = UNIX_EPOCH + Duration::from_millis(self.acquired_ms.unwrap_or(self.requested_ms));
        SystemTime::now().duration_since(since).unwrap_or_default()
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Milliseconds since 1970, the unit of every time on disk.
#[must_use]
pub fn unix_ms(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Makes one readable line of a command: arguments joined by spaces, control characters replaced, cut where long.
#[must_use]
pub fn readable_command<S: AsRef<std::ffi::OsStr>>(command: &[S]) -> String {
    let mut line = String::new();
    for argument in command {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(&argument.as_ref().to_string_lossy());
        if line.len() > COMMAND_BYTES {
            break;
        }
    }
    cut(&line, COMMAND_BYTES)
}

/// Makes one readable line of any text of the user's: control characters replaced, cut where long.
#[must_use]
pub fn readable(text: &str) -> String {
    cut(text, TEXT_BYTES)
}

fn cut(text: &str, bytes: usize) -> String {
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if clean.len() <= bytes {
        return clean;
    }
    let end = (0..=bytes).rev().find(|&end| clean.is_char_boundary(end)).unwrap_or(0);
    format!("{}…", &clean[..end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::garbage::{cases, near};

    #[test]
    fn record_survives_the_round_trip_and_has_its_size() {
        let holder = Holder {
            schema: SCHEMA,
            id: 7,
            command: readable_command(&["sh".to_owned(), "x\n".repeat(5000)]),
            mode: Some(Mode::Shared),
            ..Holder::default()
        };
        let record = holder.to_record();
        assert_eq!(record.len(), RECORD_BYTES);
        assert_eq!(Holder::from_record(&record), Some(holder));
    }

    #[test]
    fn long_reason_and_metadata_follow_the_record_and_those_of_another_hold_are_ignored() {
        let reason = "\"\n".repeat(MOST_TEXT_BYTES / 2);
        let metadata = serde_json::json!({"task": [1, "\u{1b}", null]});
        let holder = Holder {
            schema: SCHEMA,
            id: 7,
            reason: Some(reason.clone()),
            metadata: Some(metadata),
            ..Holder::default()
        };
        let record = holder.to_record();
        assert_eq!(Holder::from_record(&record).as_ref(), Some(&holder));
        let short = Holder::from_record(&record[..RECORD_BYTES]).expect("a record");
        assert_eq!(short.reason, Some(readable(&reason)));
        assert_eq!(short.bytes_missing(), record.len() - RECORD_BYTES);
        let next = Holder { id: 8, ..holder };
        let mixed = [&next.to_record()[..RECORD_BYTES], &record[RECORD_BYTES..]].concat();
        assert_eq!(Holder::from_record(&mixed).and_then(|mixed| mixed.metadata), None);
    }

    #[test]
    fn record_of_another_schema_or_garbage_is_not_read() {
        let newer = Holder { schema: SCHEMA + 1, ..Holder::default() };
        assert_eq!(Holder::from_record(&newer.to_record()), None);
        assert_eq!(Holder::from_record(b"{"), None);
    }

    #[test]
    fn readable_text_has_no_control_characters() {
        assert_eq!(readable("a\x1b[31m\nb"), "a [31m b");
    }

    #[test]
    fn damaged_record_is_read_the_same_again_or_not_at_all() {
        let sample = Holder {
            schema: SCHEMA,
            id: 7,
            command: "cargo test".to_owned(),
            mode: Some(Mode::Exclusive),
            reason: Some("why ".repeat(2000)),
            ..Holder::default()
        };
        let brief = Holder { reason: None, ..sample.clone() };
        let samples = [&sample, &brief].map(Holder::to_record).to_vec();
        proptest::proptest!(cases(500), |(bytes in near(samples))| {
            if let Some(holder) = Holder::from_record(&bytes) {
                let again = Holder::from_record(&holder.to_record());
                proptest::prop_assert_eq!(again.map(|again| again.id), Some(holder.id));
                drop((holder.advice(), holder.age(), holder.bytes_missing()));
            }
        });
    }
}
