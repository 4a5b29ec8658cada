//! Takes over what the command's own git has staged.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
};

use super::{
    super::{
        baseline::{Baseline, KIND, Kind, LINK, REGULAR, SUBMODULE, is_same},
        changes::{Changes, below, look},
        differences::{differences, next},
    },
    StageError,
    sort::{Added, Sorted},
};
use crate::{
    error::Result,
    escape::hex,
    repo::{Index, RawEntry},
    sys::Found,
};

/// Finds the entries that a copy of the command's index has and the index before had not, if there is a file.
pub(super) fn new_entries(before: &Baseline, changes: &Changes, index: &Path) -> Result<Added> {
    let mut added = Added::default();
    let mut new: Vec<(Vec<u8>, bool)> = Vec::new();
    differences(before, &before.index(), index, |path, was, now| {
        let Some(now) = now.filter(|now| was.is_none() && now.stage == 0 && !now.intent_to_add) else { return };
        if now.mode & KIND != SUBMODULE {
            // It came from the file if it has stat data.
            new.push((path.to_vec(), now.stat.modified != (0, 0) && !now.skip_worktree));
        } else if before.item(path).is_some() {
            added.was_there.insert(path.to_vec());
        }
    })?;
    let mut below = below(before)?;
    let touched: HashSet<&[u8]> = changes.touched.iter().map(|touched| touched.path.as_slice()).collect();
    for (path, was_file) in new.into_iter().filter(|(path, _)| !changes.is_not_commands(path)) {
        let found = look(&mut below, before, &path)?;
        // Content of the caller's own that was touched is judged as such.
        let is_own = before.item(&path).is_some();
        if found.is_none() && was_file {
            added.gone.insert(path);
            continue;
        }
        let Some(found) = found.filter(|found| matches!(found.mode & KIND, REGULAR | LINK)) else { continue };
        if !is_own && !before.was_there_unseen(&found)? {
            added.paths.insert(path);
        } else if !(is_own && touched.contains(path.as_slice())) {
            added.was_there.insert(path);
        }
    }
    Ok(added)
}

/// Takes out of a copy of the command's index what does not belong to the change. The caller's `own` paths become what they were before.
pub(super) fn take_over(
    (before, changes): (&Baseline, &Changes),
    index: &Path,
    own: &HashSet<Vec<u8>>,
    by_command: &Added,
    sorted: &mut Sorted,
) -> Result<(), StageError> {
    let touched: HashSet<&[u8]> = changes.touched.iter().map(|touched| touched.path.as_slice()).collect();
    let mut entries: Vec<RawEntry> = Vec::new();
    let (mut conflicts, mut submodules, mut taken_out) = (Vec::new(), Vec::new(), Vec::new());
    let none = || ("0".to_owned(), String::new());
    differences(before, &before.index(), index, |path, was, now| {
        let is_new = was.is_none();
        match now {
            Some(now) if now.stage > 0 => conflicts.push(path.to_vec()),
            // The worktree is newer, and what was untracked before stays out, as does what is not the command's.
            _ if own.contains(path) || changes.is_not_commands(path) => {
                let was = was.filter(|was| was.stage == 0 && !was.intent_to_add);
                let (mode, id) = was.map_or_else(none, |was| (format!("{:o}", was.mode), hex(was.id)));
                entries.push((mode, id, path.to_vec()));
            }
            Some(now) if now.mode & KIND == SUBMODULE => submodules.push(path.to_vec()),
            Some(now) if now.intent_to_add || is_new && by_command.must_go(path) => {
                entries.push((none().0, none().1, path.to_vec()));
            }
            None if touched.contains(path) => taken_out.push(path.to_vec()),
            _ => {}
        }
    })?;
    conflicts.dedup();
    if !conflicts.is_empty() {
        return Err(StageError::Conflicts(conflicts));
    }
    if !submodules.is_empty() {
        return Err(StageError::Repositories(submodules));
    }
    before.checkout.set_entries(index, &entries)?;
    keep_flags(before, index)?;
    // Taken out of the index, and ignored from now on: no longer git's.
    taken_out.retain(|path| sorted.add.contains(path));
    let ignored = before.checkout.ignored(&before.checkout.root, &taken_out)?;
    sorted.add.retain(|path| !ignored.contains(path));
    sorted.remove.extend(ignored);
    Ok(())
}

/// Gives the flags of before back to the entries of an index that are what they were then: many a git drops them all. A file that is
/// in the sparse checkout by now needs none.
pub(super) fn keep_flags(before: &Baseline, index: &Path) -> Result<()> {
    let mut flagged: HashMap<Vec<u8>, (u32, Vec<u8>, bool, bool)> = HashMap::new();
    if let Some(mut entries) = before.entries()? {
        while let Some(entry) = entries.next()? {
            let (skip, assume) = (entry.skip_worktree, entry.assume_unchanged);
            if skip || assume {
                flagged.insert(entry.path.to_vec(), (entry.mode, entry.id.to_vec(), skip, assume));
            }
        }
    }
    let mut entries = if flagged.is_empty() { None } else { Index::open(index, before.checkout.id_bytes)? };
    let (mut skipped, mut assumed) = (Vec::new(), Vec::new());
    let mut below = below(before)?;
    while let Some(entry) = next(&mut entries)? {
        let was = flagged
            .get(entry.path)
            .filter(|was| entry.stage == 0 && (was.0, was.1.as_slice()) == (entry.mode, entry.id));
        let Some((_, _, skip, assume)) = was else { continue };
        if *skip && !entry.skip_worktree {
            let was_there = before.item(entry.path).is_some_and(|item| item.kind != Kind::Absent);
            if was_there || look(&mut below, before, entry.path)?.is_none() {
                skipped.push(entry.path.to_vec());
            }
        }
        assumed.extend((*assume && !entry.assume_unchanged).then(|| entry.path.to_vec()));
    }
    before.checkout.flag(index, "--skip-worktree", &skipped)?;
    before.checkout.flag(index, "--assume-unchanged", &assumed)
}

/// Takes off what git was told not to look at, and what is staged as the file is: the command's git knows better what to make of it. The
/// index was `written` then.
pub(super) fn leave_what_is_staged(
    before: &Baseline,
    index: &Path,
    written: (u32, u32),
    sorted: &mut Sorted,
) -> Result<(), StageError> {
    let Some(mut entries) = Index::open(index, before.checkout.id_bytes)? else { return Ok(()) };
    let mut add: HashSet<Vec<u8>> = sorted.add.drain(..).collect();
    let mut remove: HashSet<Vec<u8>> = sorted.remove.drain(..).collect();
    let (mut skipped, mut assumed) = (Vec::new(), Vec::new());
    let mut below = below(before)?;
    while let Some(entry) = entries.next()? {
        if entry.skip_worktree || entry.assume_unchanged {
            remove.remove(entry.path);
            // Sparse, it is not there. Else the flag does not hide what the command has changed.
            if add.contains(entry.path) && look(&mut below, before, entry.path)?.is_none() {
                add.remove(entry.path);
            } else if add.contains(entry.path) {
                skipped.extend(entry.skip_worktree.then(|| entry.path.to_vec()));
                assumed.extend(entry.assume_unchanged.then(|| entry.path.to_vec()));
            }
        } else if add.contains(entry.path) && entry.stat.modified < written {
            let found = look(&mut below, before, entry.path)?;
            let is_staged = |found: Found| found.mode & KIND == entry.mode & KIND && is_same(&found, &entry.stat);
            if found.is_some_and(is_staged) {
                add.remove(entry.path);
            }
        }
    }
    before.checkout.flag(index, "--no-skip-worktree", &skipped)?;
    before.checkout.flag(index, "--no-assume-unchanged", &assumed)?;
    (sorted.add, sorted.remove) = (add.into_iter().collect(), remove.into_iter().collect());
    sorted.add.sort();
    sorted.remove.sort();
    Ok(())
}
