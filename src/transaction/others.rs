//! Finds those of the touched files that somebody else has open for writing.
//!
//! A process outside of the command may have a file open for writing: a server's log, or the output of this very command. Such a
//! file is not the command's change: it is not committed, does not fail the mutation, and is never moved. Once seen, this holds
//! until the end of the mutation.
//!
//! # Limitations
//! A process that opened a file, wrote to it and closed it again is not seen.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use super::{
    baseline::{Baseline, KIND, REGULAR},
    changes::Touched,
};
use crate::{
    error::Result,
    fs,
    sys::{self, FileId, Retry},
};

/// A process whose parent has just ended may not be seen below us: a writer is another's only if it is each time.
const LOOKS: usize = 3;
/// The time between them.
const PAUSE: Retry = Retry::every(Duration::from_millis(5));

impl Baseline {
    /// Those of these paths that others have open for writing.
    pub(super) fn written_by_others(&self, touched: &[Touched]) -> Result<HashSet<Vec<u8>>> {
        let is_file = |touched: &&Touched| touched.now.is_some_and(|now| now.mode() & KIND == REGULAR);
        let mut written: Vec<&[u8]> = touched.iter().filter(is_file).map(|touched| &touched.path[..]).collect();
        for _ in PAUSE.into_iter().take(LOOKS) {
            written = self.seen_written_by_others(&written)?;
            if written.is_empty() {
                break;
            }
        }
        let mut others = self.others.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        others.extend(written.into_iter().map(<[u8]>::to_vec));
        let is_one = |touched: &&Touched| others.contains(&touched.path);
        Ok(touched.iter().filter(is_one).map(|touched| touched.path.clone()).collect())
    }

    /// The same as one look shows it.
    fn seen_written_by_others<'a>(&self, paths: &[&'a [u8]]) -> Result<Vec<&'a [u8]>> {
        let tree = self.checkout.tree()?;
        // Certain only if the kernel reports a writer, whatever process that is.
        let mut open: HashMap<FileId, (Vec<&[u8]>, bool)> = HashMap::new();
        for path in paths {
            let Ok(file) = tree.at(path).and_then(fs::read_file) else { continue };
            let written = sys::is_written(&file);
            if let (Some(true) | None, Ok(metadata)) = (written, file.metadata()) {
                let (paths, certain) = open.entry(sys::identity(&metadata)).or_default();
                paths.push(path);
                *certain |= written.is_some();
            }
        }
        if open.is_empty() {
            return Ok(Vec::new());
        }
        let ours = std::process::id();
        let writers = sys::writers(&open.keys().copied().collect());
        let seen = sys::boot_ms();
        let below: HashSet<u32> = sys::descendants(ours).into_iter().collect();
        // A child of the command's may have ended before it was seen below us.
        let runs = |pid: u32| sys::still_runs(pid, seen) != Some(false);
        let is_other = |writer: &sys::Writer| {
            // This process was started to write to inherited files.
            if writer.pid == ours { writer.is_inheritable } else { !below.contains(&writer.pid) && runs(writer.pid) }
        };
        open.retain(|file, (_, certain)| {
            let mut of_it = writers.iter().filter(|writer| writer.file == *file).peekable();
            let nobody_seen = of_it.peek().is_none();
            of_it.any(is_other) || (*certain && nobody_seen)
        });
        Ok(open.into_values().flat_map(|(paths, _)| paths).collect())
    }
}
