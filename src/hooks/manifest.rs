//! Records the installed hooks, so that a deleted hook is told from one that never existed.
//!
//! # Format
//! `<common dir>/repoguard/hooks.json`: one JSON object: `schema` 1, `hooks` (names, in git's configuration or as scripts),
//! `directories` (each with `path`, relative to the common directory if it is in it or beside it, and `created`, whether it was
//! missing).

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Event, place};
use crate::{
    fs::{self, Ownership, Root},
    repo::is_git_directory,
};

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
    /// Reads it to act upon it: that of another user of a shared repository is as good as none.
    pub(super) fn read_own(path: &Path) -> Option<Self> {
        let file = fs::open_record(path).ok()?;
        if fs::Ownership::of(&file, path).is_ok_and(Ownership::is_trusted) { Self::read(path) } else { None }
    }

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

    /// The directories that scripts were written to, and whether each was made for them. Only directories of this repository count:
    /// in the git directory, in the worktree beside it, or where git looks for hooks now. The list alone does not allow a write.
    pub(super) fn directories(&self, common: &Path, git_says: &Path) -> Vec<(PathBuf, bool)> {
        let git_says = git_says.canonicalize().unwrap_or_else(|_| git_says.to_owned());
        let known = self.directories.iter().filter_map(|Directory { path, created }| {
            let found =
                inside(common, path).or_else(|| common.join(path).canonicalize().ok().filter(|path| *path == git_says));
            Some((found?, *created))
        });
        known.collect()
    }

    pub(super) fn add_directory(&mut self, common: &Path, directory: &Path, created: bool) {
        // A path that is not text and not beside the common directory is found again only as long as git names it.
        let path = place::relative(directory, common);
        let Some(path) = path.to_str() else { return };
        if self.directories.iter().any(|known| known.path == path) {
            return;
        }
        self.directories.push(Directory { path: path.to_owned(), created });
    }
}

/// A directory in the git directory or in the worktree beside it, that is of no other repository, and that no link leads to.
fn inside(common: &Path, path: &str) -> Option<PathBuf> {
    let (root, inner) = match path.strip_prefix("../") {
        Some(beside) => (common.parent().filter(|_| common.file_name().is_some_and(is_git_directory))?, beside),
        None => (common, path),
    };
    let root = Root::open(root, is_git_directory).ok()?;
    let slashes = inner.match_indices('/').map(|(at, _)| &inner[..at]).chain([inner]);
    for above in slashes {
        let place = root.at(above.as_bytes()).ok()?;
        let is_plain = fs::metadata(&place).is_ok_and(|found| found.is_dir());
        if !is_plain || fs::metadata(place.child(".git")).is_ok() {
            return None;
        }
    }
    Some(root.path().join(inner))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;

    #[test]
    fn list_alone_leads_nowhere_but_into_its_own_repository() {
        let top = tempfile::tempdir().unwrap();
        let top = top.path().canonicalize().unwrap();
        for directory in [".git/hooks", "mine", "other/.git/hooks", "other/hooks", "global"] {
            std::fs::create_dir_all(top.join("repo").join(directory)).unwrap();
        }
        std::fs::create_dir_all(top.join("outside")).unwrap();
        let (common, global) = (top.join("repo/.git"), top.join("repo/global"));
        let outside = top.join("outside");
        let paths = ["hooks", "../mine", "../other/.git/hooks", "../other/hooks", "../../outside", "/etc"];
        let mut paths: Vec<&str> = paths.into();
        paths.extend([outside.to_str().unwrap(), global.to_str().unwrap()]);
        let directories = paths.iter().map(|path| Directory { path: (*path).to_owned(), created: true }).collect();
        let manifest = Manifest { directories, ..Manifest::default() };
        let expected = [common.join("hooks"), top.join("repo/mine"), global.clone()].map(|path| (path, true));
        assert_eq!(manifest.directories(&common, &global), expected);
    }
}
