//! Makes the index to commit: HEAD as it was and the changes, nothing else. Then it becomes the user's index.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ffi::OsString,
    path::{Path, PathBuf},
};

use super::{
    baseline::{Baseline, DIRECTORY, KIND, Kind, LINK, MOST_BYTES, REGULAR, SUBMODULE, Stamp, below, parents, stamp},
    changes::{Changes, Touched},
    differences::differences,
    locks::GitLock,
};
use crate::{
    error::{Error, Result},
    fs::{self, Root, Sharing},
    repo::{Checkout, Entry, Index, RawChange, hex, path_of},
    sys::{self, Below},
};

/// A change, ready to be committed.
#[derive(Debug)]
pub(crate) struct Staged {
    /// The index to commit.
    pub(crate) index: PathBuf,
    /// What it holds that HEAD does not, and the reverse.
    pub(crate) changes: Vec<RawChange>,
    /// The user's index (or the one that the command worked on) as it was when this was made.
    seen: Option<Stamp>,
    /// Others have changed the user's index meanwhile, so theirs is added to, not replaced.
    foreign: bool,
    /// What the command made or staged, and is no part of the change.
    pub(crate) left_out: Vec<LeftOut>,
}

/// A file that the command made, changed or staged, and that is no part of the change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// The path from the top of the worktree.
    pub path: PathBuf,
    /// Why.
    pub why: LeftOutReason,
}

/// Why a file is no part of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LeftOutReason {
    /// The ignore rules name it, as they were before the command or as they are now.
    Ignored,
    /// It was there before, unknown to git, and is unchanged; the command only staged it.
    WasThere,
    /// Another process has it open for writing.
    Written,
}

impl Staged {
    /// A change that an earlier process has staged.
    pub(crate) fn left(before: &Baseline, user_index: &Path) -> Result<Self> {
        let index = before.directory().join("staged");
        let changes = before.checkout.staged(&index, &before.tree())?;
        // Whatever is in the user's index by now stays there.
        let foreign = before.index_is_touched();
        Ok(Self { index, changes, seen: stamp(user_index), foreign, left_out: Vec::new() })
    }

    /// Tells whether a commit is known to be this change, and nothing else: hooks may have staged something, and git may not have
    /// written all of it.
    pub(crate) fn is_whole_in(&self, before: &Baseline, commit: &str) -> Result<bool> {
        let is_it = !Index::is_large(&self.index) && before.checkout.holds(commit, &self.index, &self.changes)?;
        Ok(is_it && staged_in(before, &self.index)? == self.changes)
    }

    /// Makes its index one that the user can have: with a checksum, and on disk.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Git`].
    pub(crate) fn finish(&self, checkout: &Checkout) -> Result<()> {
        if !self.index.exists() {
            return Ok(());
        }
        checkout.seal(&self.index)?;
        fs::sync(&self.index)
    }

    /// The paths that change.
    pub(crate) fn paths(&self) -> Vec<Vec<u8>> {
        self.changes.iter().map(|change| change.path.clone()).collect()
    }
}

/// Why a change must not be committed.
#[derive(Debug)]
pub(crate) enum StageError {
    /// These held content of the caller's own that no commit had, and the command changed them.
    Own(Vec<Vec<u8>>),
    /// These are other repositories: nothing can be guaranteed in them.
    Repositories(Vec<Vec<u8>>),
    /// These are neither files nor links.
    Special(Vec<Vec<u8>>),
    /// These lie outside of the sparse checkout.
    Sparse(Vec<Vec<u8>>),
    /// These are in conflict.
    Conflicts(Vec<Vec<u8>>),
    /// These match none of the pathspecs.
    Outside(Vec<Vec<u8>>),
    /// It could not be made.
    Trouble(Error),
}

impl From<Error> for StageError {
    fn from(error: Error) -> Self {
        Self::Trouble(error)
    }
}

/// Makes the index to commit from what was touched, and, where `worked_on` is an index that the command itself may have
/// changed, from that. Looks whether all of it may be committed.
pub(crate) fn stage(
    before: &Baseline,
    changes: &Changes,
    worked_on: &Path,
    staged_by_command: bool,
    fenced: bool,
    directory: &Path,
    pathspecs: &[OsString],
) -> Result<Staged, StageError> {
    let checkout = &before.checkout;
    let index = before.directory().join("staged");
    if before.header.index {
        before.clear(&index)?;
        fs::copy_index(&before.index(), &index, false)?;
    }
    let own_paths = take_out_own(before, &index)?;

    let touched: HashSet<&[u8]> = changes.touched.iter().map(|touched| touched.path.as_slice()).collect();
    let seen = stamp(worked_on);
    // One that the command has removed says nothing.
    let was_worked_on = seen.is_some() && (fenced || before.index_is_touched());
    let foreign = was_worked_on && !staged_by_command;
    let mut left_out: Vec<LeftOut> = Vec::new();
    let mut leave_out =
        |paths: Vec<Vec<u8>>, why| left_out.extend(paths.iter().map(|path| LeftOut { path: path_of(path), why }));
    let by_command =
        if was_worked_on && staged_by_command { new_entries(before, changes, worked_on)? } else { Added::default() };
    let mut sorted = sort(before, changes, &by_command)?;
    leave_out(changes.others.clone(), LeftOutReason::Written);
    leave_out(by_command.was_there.into_iter().collect(), LeftOutReason::WasThere);
    leave_out(std::mem::take(&mut sorted.ignored), LeftOutReason::Ignored);
    let mut modes = HashMap::new();
    if was_worked_on && staged_by_command {
        modes = take_over(before, worked_on, &index, &own_paths, &touched, &mut sorted)?;
    }
    let Sorted { add, remove, ignored: _ } = sorted;
    checkout.stage(&index, &remove, &add)?;
    add_below_former_files(before, changes, &index)?;
    let mut staged = staged_in(before, &index)?;
    let other_modes: Vec<_> = staged
        .iter()
        .filter_map(|change| Some((modes.get(&change.path).filter(|mode| **mode != change.mode)?, change)))
        .filter(|(_, change)| change.status != b'D')
        .map(|(mode, change)| (mode.clone(), change.id.clone(), change.path.clone()))
        .collect();
    if !other_modes.is_empty() {
        checkout.set_entries(&index, &other_modes)?;
        staged = checkout.staged(&index, &before.tree())?;
    }
    let repositories: Vec<_> =
        staged.iter().filter(|change| change.mode == "160000" || change.old_mode == "160000").collect();
    if !repositories.is_empty() {
        return Err(StageError::Repositories(repositories.into_iter().map(|change| change.path.clone()).collect()));
    }
    all_written(before, &staged)?;
    if !pathspecs.is_empty() {
        let inside = checkout.staged_below(&index, &before.tree(), directory, pathspecs)?;
        let inside: HashSet<&[u8]> = inside.iter().map(|change| change.path.as_slice()).collect();
        let outside = staged.iter().map(|change| &change.path).filter(|path| !inside.contains(path.as_slice()));
        let outside: Vec<_> = outside.cloned().collect();
        if !outside.is_empty() {
            return Err(StageError::Outside(outside));
        }
    }
    let in_it: HashSet<PathBuf> = staged.iter().map(|change| path_of(&change.path)).collect();
    let holds_any = |left: &LeftOut| in_it.iter().any(|path| path.starts_with(&left.path));
    left_out.extend(ignored_by_now(before, changes)?.into_iter().filter(|left| !holds_any(left)));
    left_out.sort_by(|one, other| (&one.path, one.why).cmp(&(&other.path, other.why)));
    left_out.dedup_by(|one, other| one.path == other.path);
    Ok(Staged { index, changes: staged, seen, foreign, left_out })
}

/// What the command's own git has added to the index.
#[derive(Default)]
struct Added {
    /// Files that the command made or changed: part of the change, also if they are ignored.
    paths: HashSet<Vec<u8>>,
    /// Files that were there before, and are as they were.
    was_there: HashSet<Vec<u8>>,
}

fn new_entries(before: &Baseline, changes: &Changes, worked_on: &Path) -> Result<Added> {
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
        // What is in a directory that was moved is as it was.
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

/// What the command has made, and the ignore rules keep out of the change. Looked for where something was added since, and in what was
/// added; a directory that is ignored stands for all that is in it.
fn ignored_by_now(before: &Baseline, changes: &Changes) -> Result<Vec<LeftOut>> {
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

/// Takes over into the index to commit what the command itself has staged, and the worktree does not tell: returns the modes
/// that it staged on purpose.
fn take_over(
    before: &Baseline,
    worked_on: &Path,
    index: &Path,
    own: &HashSet<Vec<u8>>,
    touched: &HashSet<&[u8]>,
    sorted: &mut Sorted,
) -> Result<HashMap<Vec<u8>, String>, StageError> {
    let mut modes: HashMap<Vec<u8>, String> = HashMap::new();
    let mut entries: Vec<(String, String, Vec<u8>)> = Vec::new();
    let mut conflicts = Vec::new();
    let mut submodules = Vec::new();
    let mut taken_out = Vec::new();
    differences(before, &before.index(), worked_on, |path, was, now| {
        match now {
            Some(now) if now.stage > 0 => conflicts.push(path.to_vec()),
            Some(now) if now.mode & KIND == SUBMODULE => submodules.push(path.to_vec()),
            // What the worktree tells is newer, and untracked files of before stay out.
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

/// What an index holds that HEAD does not, and the reverse. Where HEAD was all that the user's index held, that one tells.
fn staged_in(before: &Baseline, index: &Path) -> Result<Vec<RawChange>> {
    if Index::is_large(index) || before.header.own_index || !before.header.index {
        return before.checkout.staged(index, &before.tree());
    }
    let mut staged: Vec<RawChange> = Vec::new();
    let mut is_plain = true;
    let side = |entry: Option<&Entry<'_>>| {
        let none = || ("000000".to_owned(), "0".repeat(before.checkout.id_bytes * 2));
        entry.map_or_else(none, |entry| (format!("{:06o}", entry.mode), hex(entry.id)))
    };
    differences(before, &before.index(), index, |path, was, now| {
        is_plain &= [was, now].into_iter().flatten().all(|entry| entry.stage == 0 && !entry.intent_to_add);
        let status = match (was, now) {
            (None, _) => b'A',
            (_, None) => b'D',
            (Some(was), Some(now)) if was.mode & KIND == now.mode & KIND => b'M',
            _ => b'T',
        };
        let ((old_mode, old_id), (mode, id)) = (side(was), side(now));
        staged.push(RawChange { old_mode, mode, old_id, id, status, path: path.to_vec() });
    })?;
    if is_plain { Ok(staged) } else { before.checkout.staged(index, &before.tree()) }
}

/// Makes sure that git has written what is to be committed: when it writes many objects together, an error may be lost.
fn all_written(before: &Baseline, staged: &[RawChange]) -> Result<()> {
    let written = staged.iter().filter(|change| change.status != b'D');
    let written: Vec<&RawChange> = written.filter(|change| !before.checkout.is_loose(&change.id)).collect();
    if written.is_empty() {
        return Ok(());
    }
    let ids: Vec<u8> = written.iter().flat_map(|change| change.id.bytes().chain([b'\n'])).collect();
    let sizes = before.checkout.sizes(&ids)?;
    let missing: Vec<Vec<u8>> =
        written.iter().zip(sizes).filter(|(_, size)| size.is_none()).map(|(change, _)| change.path.clone()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let reason = format!("it did not write the objects of {}", crate::error::listed(&super::readable(&missing)));
    Err(Error::Git { arguments: "update-index".to_owned(), reason })
}

/// Adds what is in directories that were files: git lists nothing below what is in the index.
fn add_below_former_files(before: &Baseline, changes: &Changes, index: &Path) -> Result<(), StageError> {
    let is_directory = |touched: &&Touched| touched.now.is_some_and(|now| now.mode() & KIND == DIRECTORY);
    let former = changes.touched.iter().filter(|touched| !touched.new).filter(is_directory);
    let former: Vec<Vec<u8>> = former
        .filter(|touched| {
            !before
                .item(&touched.path)
                .is_some_and(|item| matches!(item.kind, Kind::Directory | Kind::Submodule | Kind::Repository))
        })
        .map(|touched| [&touched.path, &b"/"[..]].concat())
        .collect();
    if former.is_empty() {
        return Ok(());
    }
    let listed = before.checkout.untracked(index)?;
    let is_below = |path: &Vec<u8>| former.iter().any(|directory| path.starts_with(directory));
    let is_own = |path: &Vec<u8>| is_below(path) && before.is_made_by_command(path);
    let repositories: Vec<_> = listed.repositories.into_iter().filter(is_own).collect();
    if !repositories.is_empty() {
        return Err(StageError::Repositories(repositories));
    }
    let new = before.rules_allow(listed.files.into_iter().filter(&is_below).collect(), changes)?;
    Ok(before.checkout.stage(index, &[], &new)?)
}

/// Puts what the caller had staged back to HEAD's in the index to commit; returns all paths that are the caller's own.
fn take_out_own(before: &Baseline, index: &Path) -> Result<HashSet<Vec<u8>>> {
    let mut entries: BTreeMap<Vec<u8>, (String, String)> = BTreeMap::new();
    let staged = if before.header.own_index { before.checkout.staged(index, &before.tree())? } else { Vec::new() };
    for change in staged {
        let (mode, id) = match change.status {
            b'U' => before.checkout.entry_of(&before.tree(), &change.path)?.unwrap_or_default(),
            _ => (change.old_mode, change.old_id),
        };
        entries.insert(change.path, (mode, id));
    }
    let mut own: HashSet<Vec<u8>> = entries.keys().cloned().collect();
    if let Some(mut kept) = before.entries()?.filter(|_| before.header.own_index) {
        while let Some(entry) = kept.next()? {
            if entry.intent_to_add {
                entries.insert(entry.path.to_vec(), ("0".to_owned(), String::new()));
            }
        }
    }
    // All stages of a conflict go before the one entry comes.
    let removals: Vec<_> = entries.keys().map(|path| ("0".to_owned(), String::new(), path.clone())).collect();
    before.checkout.set_entries(index, &removals)?;
    let entries = entries.into_iter().filter(|(_, (mode, _))| !mode.trim_start_matches('0').is_empty());
    let entries: Vec<_> = entries.map(|(path, (mode, id))| (mode, id, path)).collect();
    before.checkout.set_entries(index, &entries)?;
    own.extend(before.items.iter().filter(|item| item.own).map(|item| item.path.clone()));
    Ok(own)
}

/// Paths for an index.
#[derive(Default)]
struct Sorted {
    add: Vec<Vec<u8>>,
    remove: Vec<Vec<u8>>,
    /// New ones that the ignore rules keep out.
    ignored: Vec<Vec<u8>>,
}

/// What was touched, as what is to be added and what is to be removed.
fn sort(before: &Baseline, changes: &Changes, by_command: &Added) -> Result<Sorted, StageError> {
    let Sorted { mut add, mut remove, .. } = Sorted::default();
    let (mut own, mut repositories, mut special, mut sparse) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut suspects: Vec<&Touched> = Vec::new();
    let mut new = Vec::new();
    for touched in &changes.touched {
        let path = &touched.path;
        let kind = touched.now.map(|now| now.mode() & KIND);
        if touched.new {
            if path.ends_with(b"/") {
                // A directory without files is nothing to git, but another repository is.
                let directory = before.checkout.root.join(path_of(path));
                if directory.join(".git").exists() && before.is_made_by_command(&path[..path.len() - 1]) {
                    repositories.push(path.clone());
                }
            } else if !by_command.paths.contains(path) && !by_command.was_there.contains(path) {
                new.push(path.clone());
            }
            continue;
        }
        let item = before.item(path);
        match item.map(|item| item.kind) {
            Some(Kind::Submodule | Kind::Repository) => repositories.push(path.clone()),
            // In place of a directory that held no tracked file, or had a mode of its own.
            Some(Kind::Directory) => new.extend(matches!(kind, Some(REGULAR | LINK)).then(|| path.clone())),
            // Nothing of git's.
            Some(Kind::Odd) if kind.is_none() => {}
            Some(Kind::Odd) => special.push(path.clone()),
            Some(Kind::Absent) if item.is_some_and(|item| !item.own) => sparse.push(path.clone()),
            _ if item.is_some_and(|item| item.own) => suspects.push(touched),
            _ => match kind {
                Some(REGULAR | LINK) => add.push(path.clone()),
                None | Some(DIRECTORY) => remove.push(path.clone()),
                Some(_) => special.push(path.clone()),
            },
        }
    }
    if !suspects.is_empty() {
        let mut blobs = before.checkout.blobs()?;
        let paths: Vec<&[u8]> = suspects.iter().map(|touched| touched.path.as_slice()).collect();
        let were = before.were(&paths)?;
        for (touched, was) in suspects.iter().zip(were) {
            let same = was.map_or(Ok(false), |was| before.is_as_it_was(touched, &was, &mut blobs))?;
            if !same {
                own.push(touched.path.clone());
            }
        }
    }
    let allowed = before.rules_allow(new.clone(), changes)?;
    let is_allowed: HashSet<&[u8]> = allowed.iter().map(Vec::as_slice).collect();
    let ignored = new.into_iter().filter(|path| !is_allowed.contains(path.as_slice())).collect();
    add.extend(allowed);
    add.extend(by_command.paths.iter().cloned());
    for (paths, wrong) in [
        (own, StageError::Own as fn(Vec<Vec<u8>>) -> StageError),
        (repositories, StageError::Repositories),
        (special, StageError::Special),
        (sparse, StageError::Sparse),
    ] {
        if !paths.is_empty() {
            return Err(wrong(paths));
        }
    }
    Ok(Sorted { add, remove, ignored })
}

impl Baseline {
    /// Those new files that the ignore rules as they were before do not name either, nor those of the user as they are now.
    fn rules_allow(&self, new: Vec<Vec<u8>>, changes: &Changes) -> Result<Vec<Vec<u8>>> {
        let now: HashSet<Vec<u8>> =
            self.checkout.excluding_as_configured().ignored(&self.checkout.root, &new)?.into_iter().collect();
        let new: Vec<Vec<u8>> = new.into_iter().filter(|path| !now.contains(path)).collect();
        let is_rule = |path: &[u8]| path == b".gitignore" || path.ends_with(b"/.gitignore");
        let exclude = fs::read_whole(&self.checkout.exclude_file(), MOST_BYTES).unwrap_or_default();
        let kept = self.kept_exclude().ok().flatten().unwrap_or_default();
        let rules_changed = exclude != kept || changes.touched.iter().any(|touched| is_rule(&touched.path));
        if new.is_empty() || !rules_changed {
            return Ok(new);
        }
        // A worktree with nothing but the rules, for git to look at.
        let rules = self.directory().join("rules");
        fs::remove_entry(&rules)?;
        fs::make_directories(&rules, None)?;
        let mut paths: Vec<Vec<u8>> = self.hidden_rules().into_iter().collect();
        paths.extend(self.items.iter().map(|item| item.path.clone()).filter(|path| is_rule(path)));
        if let Some(mut entries) = self.entries()? {
            while let Some(entry) = entries.next()? {
                if is_rule(entry.path) {
                    paths.push(entry.path.to_vec());
                }
            }
        }
        paths.sort();
        paths.dedup();
        let views: Vec<&[u8]> = paths.iter().map(Vec::as_slice).collect();
        let mut blobs = self.checkout.blobs()?;
        let (tree, copies) = (self.checkout.tree()?, Root::ours(&rules)?);
        for (path, was) in paths.iter().zip(self.were(&views)?) {
            let to = copies.at(path)?;
            if let Some(above) = parents(path).first() {
                fs::make_directories(&copies.at(above)?, None)?;
            }
            match was {
                Some(was) if was.kind == Kind::File => {
                    fs::put_file(&to, 0o644, None, |file| self.bytes(&was, &mut blobs, file))?;
                }
                Some(_) => {}
                None => fs::copy_entry(&tree.at(path)?, &to, false)?,
            }
        }
        let ignored = self.were_ignored(&rules, &new)?;
        fs::remove_entry(&rules)?;
        let ignored: HashSet<Vec<u8>> = ignored.into_iter().collect();
        Ok(new.into_iter().filter(|path| !ignored.contains(path)).collect())
    }
}

/// Makes the change part of the user's index: all of it if nobody else has changed that, else entry by entry. The caller
/// holds the index' lock, and has called [`Staged::finish`].
pub(crate) fn publish(before: &Baseline, staged: &Staged, lock: &GitLock, worked_on: &Path) -> Result<()> {
    let checkout = &before.checkout;
    let made = before.directory().join("published");
    before.clear(&made)?;
    let others = staged.foreign || stamp(worked_on) != staged.seen;
    if !others && !before.header.own_index {
        if !staged.index.exists() {
            // No index before, and nothing to put into one.
            return Ok(());
        }
        fs::link(&staged.index, &made, Sharing::default())?;
    } else {
        // The caller's own staged changes, and others', stay as they are.
        let base = if others { worked_on.to_owned() } else { before.index() };
        if base.exists() {
            fs::copy_index(&base, &made, true)?;
        }
        let now = checkout.staged(&staged.index, &before.tree())?;
        let entries: Vec<_> = now.into_iter().map(|change| (change.mode, change.id, change.path)).collect();
        checkout.set_entries(&made, &entries)?;
        if made.exists() {
            fs::sync(&made)?;
        }
    }
    if made.exists() { lock.replace(&made) } else { Ok(()) }
}
