//! Finds files that the command made, changed or staged and that are not part of the change.

use std::{collections::HashSet, path::PathBuf};

use super::super::{
    baseline::{Baseline, below, parents},
    changes::Changes,
};
use crate::{error::Result, repo::path_of, sys};

/// A file that the command made, changed or staged, and that is not part of the change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// The path from the top of the worktree.
    pub path: PathBuf,
    /// Why.
    pub why: LeftOutReason,
}

/// The reason why a file is not part of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LeftOutReason {
    /// The ignore rules name it, as they were before the command or as they are now.
    Ignored,
    /// It is older than the command, and git did not know it: the command only staged it, or moved it here with a directory.
    WasThere,
    /// Another process has it open for writing.
    Written,
    /// It is a repository of its own, or something called `.git` makes git take it for one, and no git of the command's made it.
    Repository,
}

/// Files that the command has made, and that the ignore rules keep out of the change. Only directories with new entries are
/// searched; an ignored directory stands for all that is in it.
pub(super) fn ignored_by_now(before: &Baseline, changes: &Changes) -> Result<Vec<LeftOut>> {
    /// More new entries than these are named by the first.
    const MOST: usize = 5000;
    let root = &before.checkout.root;
    let known: HashSet<&[u8]> = changes
        .touched
        .iter()
        .map(|touched| touched.path.as_slice())
        .chain(changes.others.iter().map(Vec::as_slice))
        .collect();
    let is_old = |directory: &Vec<u8>| {
        let metadata = std::fs::symlink_metadata(root.join(path_of(directory)));
        metadata.is_ok_and(|metadata| !before.was_added_to(&metadata))
    };
    let mut next: Vec<Vec<u8>> = before.directories()?.into_iter().filter(|directory| !is_old(directory)).collect();
    let mut new: Vec<Vec<u8>> = Vec::new();
    while let Some(directory) = next.pop().filter(|_| new.len() < MOST) {
        for entry in std::fs::read_dir(root.join(path_of(&directory))).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            let path = below(&directory, &sys::bytes(&entry.file_name()));
            if entry.file_name() != ".git" && before.was_made_after(&metadata) && !known.contains(path.as_slice()) {
                next.extend(metadata.is_dir().then(|| path.clone()));
                new.push(path);
            }
        }
    }
    let as_configured = before.checkout.excluding_as_configured();
    let ignored: HashSet<Vec<u8>> = as_configured.ignored(root, &new)?.into_iter().collect();
    let is_top = |path: &&Vec<u8>| !parents(path).iter().any(|above| ignored.contains(above));
    let left_out = |path: &Vec<u8>| LeftOut { path: path_of(path), why: LeftOutReason::Ignored };
    Ok(ignored.iter().filter(is_top).map(left_out).collect())
}
