//! Finds those of the touched files that somebody else has open for writing.
//!
//! A file that a process outside of the command has open for writing, a server's log or where the output of this very command goes,
//! is not the command's change: it is not committed, no failure, and never moved. Once it was seen so, it stays so until the end of
//! the mutation.
//!
//! # Limitations
//! Who opened a file, wrote to it and closed it again is not seen.

use std::collections::{HashMap, HashSet};

use super::{
    before::{Before, KIND, REGULAR},
    changes::Touched,
};
use crate::{
    error::Result,
    fs,
    sys::{self, FileId},
};

impl Before {
    /// Those of these paths that others have open for writing.
    pub(super) fn written_by_others(&self, touched: &[Touched]) -> Result<HashSet<Vec<u8>>> {
        let tree = self.checkout.tree()?;
        // Certain only if the kernel says that somebody writes to it, whoever that is.
        let mut open: HashMap<FileId, (Vec<&[u8]>, bool)> = HashMap::new();
        for touched in touched.iter().filter(|touched| touched.now.is_some_and(|now| now.mode() & KIND == REGULAR)) {
            let Ok(file) = tree.at(&touched.path).and_then(fs::read_file) else { continue };
            let written = sys::is_written(&file);
            if let (Some(true) | None, Ok(metadata)) = (written, file.metadata()) {
                let (paths, certain) = open.entry(sys::identity(&metadata)).or_default();
                paths.push(&touched.path);
                *certain |= written.is_some();
            }
        }
        let mut others = self.others.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !open.is_empty() {
            let ours = std::process::id();
            let below: HashSet<u32> = sys::descendants(ours).into_iter().collect();
            let writers = sys::writers(&open.keys().copied().collect());
            for (file, (paths, certain)) in open {
                let mut of_it = writers.iter().filter(|writer| writer.file == file).peekable();
                let nobody_seen = of_it.peek().is_none();
                // What this process inherited, it was started to write to.
                let is_others =
                    of_it.any(
                        |writer| {
                            if writer.pid == ours { writer.is_inheritable } else { !below.contains(&writer.pid) }
                        },
                    );
                if is_others || (certain && nobody_seen) {
                    others.extend(paths.into_iter().map(<[u8]>::to_vec));
                }
            }
        }
        Ok(touched
            .iter()
            .filter(|touched| others.contains(&touched.path))
            .map(|touched| touched.path.clone())
            .collect())
    }
}
