//! Expires snapshots: those that are too old, and the oldest if all together are too large. Unfinished ones, whose undo has not
//! ended, expire by age only.

use std::{
    cmp::Reverse,
    io::{BufReader, Read as _, Seek as _, SeekFrom},
    path::Path,
    time::{Duration, SystemTime},
};

use super::{
    manifest::{First, Line, MANIFEST, next_line},
    place::time_of,
};
use crate::{
    fs,
    holder::{self, Mode},
    lock::LockFile,
    sys,
};

/// How long what was undone is kept.
const MOST_AGE: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Removes what is too old, and the oldest where all together have more bytes than `limit`; never `ours`.
pub(super) fn expire(place: &Path, ours: &str, limit: u64) {
    let now = holder::unix_ms(SystemTime::now());
    let mut finished = Vec::new();
    for id in sys::names(place) {
        let directory = place.join(&id);
        if id.starts_with(fs::PASSING) {
            // The process that removed it was killed.
            drop(fs::remove_entry(&directory));
        } else if let Some(made) = time_of(&id) {
            let (made_ms, bytes) = brief(&directory, &id);
            let made_ms = made_ms.unwrap_or_else(|| holder::unix_ms(made));
            if Duration::from_millis(now.saturating_sub(made_ms)) > MOST_AGE {
                remove(&directory, &id);
            } else if let Some(bytes) = bytes {
                finished.push((id != ours, Reverse((made_ms, id)), bytes));
            }
        }
    }
    // Ours first, then from the newest to the oldest.
    finished.sort();
    let mut total: u64 = 0;
    for (is_other, Reverse((_, id)), bytes) in finished {
        total = total.saturating_add(bytes);
        if is_other && total > limit {
            remove(&place.join(&id), &id);
        }
    }
}

/// The time and the size of a finished snapshot, from its first and last line.
fn brief(directory: &Path, id: &str) -> (Option<u64>, Option<u64>) {
    /// More than the last line has.
    const TAIL: u64 = 256;
    let Ok(mut manifest) = fs::open(&directory.join(MANIFEST), false) else { return (None, None) };
    let first = next_line(&mut BufReader::new(&manifest)).and_then(|line| serde_json::from_slice::<First>(&line).ok());
    let made_ms = first.filter(|first| first.id == id).map(|first| first.made_at_ms);
    let mut tail = Vec::new();
    let start = manifest.metadata().map_or(0, |metadata| metadata.len()).saturating_sub(TAIL);
    drop(manifest.seek(SeekFrom::Start(start)).and_then(|_| (&manifest).take(TAIL).read_to_end(&mut tail)));
    let last = tail.split(|byte| *byte == b'\n').rfind(|line| !line.is_empty());
    let bytes = match last.and_then(|line| serde_json::from_slice::<Line>(line).ok()) {
        Some(Line::Finished { bytes, .. }) => Some(bytes),
        _ => None,
    };
    (made_ms, bytes)
}

/// Removes a snapshot that nobody reads just now; under another name, so that no half of it is ever read.
fn remove(directory: &Path, id: &str) {
    let path = directory.join(MANIFEST);
    let manifest = fs::open(&path, false).ok().and_then(|file| LockFile::new(file, &path).ok());
    if manifest.is_some_and(|manifest| matches!(manifest.try_lock(Mode::Exclusive), Ok(false))) {
        return;
    }
    let passing = directory.with_file_name(format!("{}{id}", fs::PASSING));
    if fs::rename(directory, &passing).is_ok() {
        drop(fs::remove_entry(&passing));
    }
}
