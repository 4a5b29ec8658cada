//! Takes over what the command's own git has staged.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
};

use super::{
    super::{
        baseline::{Baseline, KIND, LINK, REGULAR, SUBMODULE},
        changes::Changes,
        differences::differences,
    },
    StageError, StageRequest,
    sort::{Added, Sorted},
};
use crate::{
    error::{Error, Result},
    escape::hex,
    repo::path_of,
    sys::Below,
};

pub(super) fn new_entries(before: &Baseline, changes: &Changes, worked_on: &Path) -> Result<Added> {
    let mut new: Vec<Vec<u8>> = Vec::new();
    differences(before, &before.index(), worked_on, |path, was, now| {
        if let (None, Some(now)) = (was, now)
            && now.stage == 0
            && now.mode & KIND != SUBMODULE
            && !now.intent_to_add
        {
            new.push(path.to_vec());
        }
    })?;
    let mut added = Added::default();
    let mut below = Below::open(&before.checkout.root).map_err(Error::io("read", &before.checkout.root))?;
    let touched: HashSet<&[u8]> = changes.touched.iter().map(|touched| touched.path.as_slice()).collect();
    let others: HashSet<&[u8]> = changes.others.iter().map(Vec::as_slice).collect();
    let mut moved = None;
    for path in new.into_iter().filter(|path| !others.contains(path.as_slice())) {
        let found = below.look(&path).map_err(Error::io("read", before.checkout.root.join(path_of(&path))))?;
        // Content of the caller's own that was touched is judged as such.
        let is_own = before.item(&path).is_some();
        let Some(found) = found.filter(|found| matches!(found.mode & KIND, REGULAR | LINK)) else { continue };
        // Files in a directory that was moved are as they were.
        let mut is_moved = || -> Result<bool> {
            if moved.is_none() {
                moved = Some(before.inodes()?);
            }
            Ok(moved.as_ref().is_some_and(|known| known.contains(&found.inode)))
        };
        if !is_own && (before.is_from_after(&found) || is_moved()?) {
            added.paths.insert(path);
        } else if !(is_own && touched.contains(path.as_slice())) {
            added.was_there.insert(path);
        }
    }
    Ok(added)
}

/// Takes over into the index to commit what the command itself has staged, and the worktree does not tell: returns the modes
/// that it staged on purpose.
pub(super) fn take_over(
    request: &StageRequest<'_>,
    index: &Path,
    own: &HashSet<Vec<u8>>,
    sorted: &mut Sorted,
) -> Result<HashMap<Vec<u8>, String>, StageError> {
    let StageRequest { before, changes, worked_on, .. } = *request;
    let touched: HashSet<&[u8]> = changes.touched.iter().map(|touched| touched.path.as_slice()).collect();
    let mut modes: HashMap<Vec<u8>, String> = HashMap::new();
    let mut entries: Vec<(String, String, Vec<u8>)> = Vec::new();
    let mut conflicts = Vec::new();
    let mut submodules = Vec::new();
    let mut taken_out = Vec::new();
    differences(before, &before.index(), worked_on, |path, was, now| {
        match now {
            Some(now) if now.stage > 0 => conflicts.push(path.to_vec()),
            Some(now) if now.mode & KIND == SUBMODULE => submodules.push(path.to_vec()),
            // The worktree is newer, and untracked files of before stay out.
            _ if own.contains(path) => {}
            None if touched.contains(path) => taken_out.push(path.to_vec()),
            // A mode that was staged on purpose: the file system may not have it.
            Some(now) if touched.contains(path) && was.is_none_or(|was| was.mode != now.mode) => {
                modes.insert(path.to_vec(), format!("{:o}", now.mode));
            }
            _ if touched.contains(path) || was.is_none() => {}
            Some(now) if now.intent_to_add => {}
            Some(now) => entries.push((format!("{:o}", now.mode), hex(now.id), path.to_vec())),
            None => entries.push(("0".to_owned(), String::new(), path.to_vec())),
        }
    })?;
    conflicts.dedup();
    if !conflicts.is_empty() {
        return Err(StageError::Conflicts(conflicts));
    }
    if !submodules.is_empty() {
        return Err(StageError::Repositories(submodules));
    }
    // Taken out of the index, and ignored from now on: no longer git's.
    let ignored = before.checkout.ignored(&before.checkout.root, &taken_out)?;
    sorted.add.retain(|path| !ignored.contains(path));
    sorted.remove.extend(ignored);
    before.checkout.set_entries(index, &entries)?;
    Ok(modes)
}
