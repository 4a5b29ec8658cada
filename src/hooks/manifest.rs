//! What was installed here? So that a hook that was deleted is told from one that never was there.
//!
//! # Format
//! `<common dir>/repoguard/hooks.json`: one JSON object: `schema` 1, `hooks` (names, in git's configuration or as scripts),
//! `directories` (each with `path`, relative to the common directory where it is in it or beside it, and `created`,
//! whether it was missing).

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Event, place};
use crate::fs;

const SCHEMA: u32 = 1;
/// More than any list of hooks takes.
const MOST_BYTES: usize = 1 << 20;

/// The list of what was installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    schema: u32,
    hooks: Vec<String>,
    directories: Vec<Directory>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Directory {
    path: String,
    created: bool,
}

impl Default for Manifest {
    fn default() -> Self {
        Self { schema: SCHEMA, hooks: Vec::new(), directories: Vec::new() }
    }
}

impl Manifest {
    /// Reads it; `None` when there is none, or none that can be read.
    pub(super) fn read(path: &Path) -> Option<Self> {
        let text = fs::read_small(path, MOST_BYTES)?;
        serde_json::from_slice::<Self>(&text).ok().filter(|manifest| manifest.schema == SCHEMA)
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec_pretty(self).unwrap_or_default();
        text.push(b'\n');
        text
    }

    pub(super) fn events(&self) -> Vec<Event> {
        Event::ALL.into_iter().filter(|event| self.has(*event)).collect()
    }

    pub(super) fn has(&self, event: Event) -> bool {
        self.hooks.iter().any(|name| name == event.name())
    }

    pub(super) fn add(&mut self, event: Event) {
        if !self.has(event) {
            self.hooks.push(event.name().to_owned());
        }
    }

    /// The directories that scripts were written to.
    pub(super) fn directories(&self, common: &Path) -> Vec<PathBuf> {
        // Where the repository was moved, what is beside it was not seen there.
        let there = self.directories.iter().map(|directory| common.join(&directory.path));
        there.map(|path| path.canonicalize().unwrap_or(path)).collect()
    }

    /// Whether a directory was made for our scripts.
    pub(super) fn created(&self, common: &Path, directory: &Path) -> bool {
        let paths = self.directories(common);
        paths.iter().zip(&self.directories).any(|(path, entry)| path == directory && entry.created)
    }

    pub(super) fn add_directory(&mut self, common: &Path, directory: &Path, created: bool) {
        // A path that is no text and not beside the common directory is found again only as long as git names it.
        let path = place::relative(directory, common);
        let (Some(path), false) = (path.to_str(), self.directories(common).iter().any(|known| known == directory))
        else {
            return;
        };
        self.directories.push(Directory { path: path.to_owned(), created });
    }
}
