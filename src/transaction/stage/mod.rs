//! Makes the index to commit: HEAD as it was and the changes, nothing else. Then it becomes the user's index.

mod by_command;
mod left_out;
mod sort;

pub use left_out::{LeftOut, LeftOutReason};

use std::{
    collections::{BTreeMap, HashSet},
    ffi::OsString,
    path::{Path, PathBuf},
};

use self::{
    by_command::{leave_what_is_staged, new_entries, take_over},
    left_out::ignored_by_now,
    sort::{Added, sort},
};
use super::{
    baseline::{Baseline, DIRECTORY, KIND, Kind, Stamp, stamp},
    changes::{Changes, Touched, below, look},
    differences::differences,
    locks::GitLock,
};
use crate::{
    error::{Error, Result},
    escape::hex,
    fs::{self, Sharing},
    repo::{Checkout, Entry, Index, RawChange, RawEntry, path_of},
};

/// A change, ready to be committed.
#[derive(Debug)]
pub(crate) struct Staged {
    /// The index to commit.
    pub(crate) index: PathBuf,
    /// Its differences from HEAD.
    pub(crate) changes: Vec<RawChange>,
    /// The user's index (or the one that the command worked on) as it was when this was made.
    seen: Option<Stamp>,
    /// Somebody else has changed the user's index while the command ran.
    foreign: bool,
    /// Files that the command made or staged, and that are not part of the change.
    pub(crate) left_out: Vec<LeftOut>,
}

impl Staged {
    /// A change that an earlier process has staged.
    pub(crate) fn left(before: &Baseline, user_index: &Path) -> Result<Self> {
        let index = before.directory().join("staged");
        let changes = before.checkout.staged(&index, &before.tree())?;
        // What others have made of the user's index by now stays.
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
    /// These have other kinds than file and link.
    Special(Vec<Vec<u8>>),
    /// These lie outside of the sparse checkout.
    Sparse(Vec<Vec<u8>>),
    /// These are in conflict.
    Conflicts(Vec<Vec<u8>>),
    /// These match no pathspec.
    Outside(Vec<Vec<u8>>),
    /// It could not be made.
    Trouble(Error),
}

impl From<Error> for StageError {
    fn from(error: Error) -> Self {
        Self::Trouble(error)
    }
}

/// A change that is to become an index.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StageRequest<'a> {
    pub(crate) before: &'a Baseline,
    pub(crate) changes: &'a Changes,
    /// The index that the command worked on.
    pub(crate) worked_on: &'a Path,
    /// Its state before it was kept; `None` if it is gone.
    pub(crate) seen: Option<Stamp>,
    /// Whether a git of the command's has changed that one.
    pub(crate) staged_by_command: bool,
    /// Whether it is the command's alone, beside git's own lock.
    pub(crate) fenced: bool,
    /// The directory that `pathspecs` start from.
    pub(crate) directory: &'a Path,
    /// All changes must match one of these, if there are any.
    pub(crate) pathspecs: &'a [OsString],
}

/// Makes the index to commit from what was touched, and from what the command's own git staged.
///
/// # Errors
/// [`StageError`].
pub(crate) fn stage(request: &StageRequest<'_>) -> Result<Staged, StageError> {
    let StageRequest { before, changes, worked_on, seen, staged_by_command, fenced, .. } = *request;
    let checkout = &before.checkout;
    let (index, judged) = (before.directory().join("staged"), before.judged_index());
    // One that the command has removed says nothing.
    let was_worked_on = if fenced { seen.is_some() } else { before.ran_index().exists() };
    let (foreign, is_commands) = (was_worked_on && !staged_by_command, was_worked_on && staged_by_command);
    before.clear(&judged)?;
    if is_commands {
        // Whatever becomes of the index from now on is somebody else's doing.
        if fenced {
            fs::copy_index(worked_on, &judged, true)?;
        } else {
            fs::link(&before.ran_index(), &judged, Sharing::default())?;
        }
    }
    // Ours will be younger.
    let written = Index::open(&judged, checkout.id_bytes)?.map(|index| index.modified()).unwrap_or_default();
    if is_commands || before.header.index {
        before.clear(&index)?;
        let base = if is_commands { judged } else { before.index() };
        fs::copy_index(&base, &index, false)?;
    }
    if is_commands && Index::open(&index, checkout.id_bytes)?.map_or(Ok(false), |mut index| index.is_partial())? {
        checkout.unfold(&index)?;
    }
    let staged_before = staged_before(before)?;
    let mut own: HashSet<Vec<u8>> = staged_before.keys().cloned().collect();
    own.extend(before.items.iter().filter(|item| item.own).map(|item| item.path.clone()));
    let mut left_out: Vec<LeftOut> = Vec::new();
    let mut leave_out =
        |paths: Vec<Vec<u8>>, why| left_out.extend(paths.iter().map(|path| LeftOut { path: path_of(path), why }));
    let by_command = if is_commands { new_entries(before, changes, &index)? } else { Added::default() };
    let mut sorted = sort(before, changes, &by_command)?;
    leave_out(changes.others.clone(), LeftOutReason::Written);
    leave_out(changes.hidden.clone(), LeftOutReason::WasThere);
    leave_out(std::mem::take(&mut sorted.repositories), LeftOutReason::Repository);
    if is_commands {
        take_over((before, changes), &index, &own, &by_command, &mut sorted)?;
        leave_what_is_staged(before, &index, written, &mut sorted)?;
    }
    take_out(checkout, &index, staged_before)?;
    leave_out(by_command.was_there.into_iter().collect(), LeftOutReason::WasThere);
    leave_out(std::mem::take(&mut sorted.ignored), LeftOutReason::Ignored);
    checkout.stage(&index, &sorted.remove, &sorted.add)?;
    leave_out(add_below_former_files(before, changes, &index)?, LeftOutReason::WasThere);
    let staged = staged_in(before, &index)?;
    must_be_files(&staged)?;
    all_written(before, &staged)?;
    must_match(request, &index, &staged)?;
    let in_it: HashSet<PathBuf> = staged.iter().map(|change| path_of(&change.path)).collect();
    let holds_any = |left: &LeftOut| in_it.iter().any(|path| path.starts_with(&left.path));
    left_out.extend(ignored_by_now(before, changes)?.into_iter().filter(|left| !holds_any(left)));
    left_out.sort_by(|one, other| (&one.path, one.why).cmp(&(&other.path, other.why)));
    left_out.dedup_by(|one, other| one.path == other.path);
    Ok(Staged { index, changes: staged, seen, foreign, left_out })
}

/// Makes sure that no other repository is part of a change.
fn must_be_files(staged: &[RawChange]) -> Result<(), StageError> {
    let repositories = staged.iter().filter(|change| change.mode == "160000" || change.old_mode == "160000");
    let repositories: Vec<_> = repositories.map(|change| change.path.clone()).collect();
    if repositories.is_empty() { Ok(()) } else { Err(StageError::Repositories(repositories)) }
}

/// Makes sure that each change matches one of the pathspecs.
fn must_match(request: &StageRequest<'_>, index: &Path, staged: &[RawChange]) -> Result<(), StageError> {
    let StageRequest { before, directory, pathspecs, .. } = *request;
    if pathspecs.is_empty() {
        return Ok(());
    }
    let inside = before.checkout.staged_below(index, &before.tree(), directory, pathspecs)?;
    let inside: HashSet<&[u8]> = inside.iter().map(|change| change.path.as_slice()).collect();
    let outside = staged.iter().map(|change| &change.path).filter(|path| !inside.contains(path.as_slice()));
    let outside: Vec<_> = outside.cloned().collect();
    if outside.is_empty() { Ok(()) } else { Err(StageError::Outside(outside)) }
}

/// The differences of an index from HEAD. If the user's index held only HEAD, that one is compared.
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

/// Adds what is in directories that were files: git lists nothing below what is in the index. Returns those files that were there
/// before, elsewhere, and stay out.
fn add_below_former_files(before: &Baseline, changes: &Changes, index: &Path) -> Result<Vec<Vec<u8>>, StageError> {
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
        return Ok(Vec::new());
    }
    let listed = before.checkout.untracked(index)?;
    let is_below = |path: &Vec<u8>| former.iter().any(|directory| path.starts_with(directory));
    let is_own = |path: &Vec<u8>| is_below(path) && before.is_made_by_command(path);
    let repositories: Vec<_> = listed.repositories.into_iter().filter(is_own).collect();
    if !repositories.is_empty() {
        return Err(StageError::Repositories(repositories));
    }
    let mut below = below(before)?;
    let (mut new, mut was_there) = (Vec::new(), Vec::new());
    for path in listed.files.into_iter().filter(&is_below) {
        let is_unseen = look(&mut below, before, &path)?.map_or(Ok(false), |found| before.was_there_unseen(&found))?;
        if is_unseen { was_there.push(path) } else { new.push(path) }
    }
    before.checkout.stage(index, &[], &before.rules_allow(new, changes)?)?;
    Ok(was_there)
}

/// What the caller had staged: for each path, mode and id of what HEAD has there.
fn staged_before(before: &Baseline) -> Result<BTreeMap<Vec<u8>, (String, String)>> {
    let mut entries = BTreeMap::new();
    if !before.header.own_index {
        return Ok(entries);
    }
    for change in before.checkout.staged(&before.index(), &before.tree())? {
        let (mode, id) = match change.status {
            b'U' => before.checkout.entry_of(&before.tree(), &change.path)?.unwrap_or_default(),
            _ => (change.old_mode, change.old_id),
        };
        entries.insert(change.path, (mode, id));
    }
    if let Some(mut kept) = before.entries()? {
        while let Some(entry) = kept.next()? {
            if entry.intent_to_add {
                entries.insert(entry.path.to_vec(), ("0".to_owned(), String::new()));
            }
        }
    }
    Ok(entries)
}

/// Puts what the caller had staged back to HEAD's in the index to commit.
fn take_out(checkout: &Checkout, index: &Path, staged: BTreeMap<Vec<u8>, (String, String)>) -> Result<()> {
    // All stages of a conflict go before the one entry comes.
    let removals: Vec<_> = staged.keys().map(|path| ("0".to_owned(), String::new(), path.clone())).collect();
    checkout.set_entries(index, &removals)?;
    let entries = staged.into_iter().filter(|(_, (mode, _))| !mode.trim_start_matches('0').is_empty());
    let entries: Vec<_> = entries.map(|(path, (mode, id))| (mode, id, path)).collect();
    checkout.set_entries(index, &entries)
}

/// What the caller had staged, as entries for an index without it; `None` if an entry cannot say it all: a conflict, an intent to add.
fn callers_entries(before: &Baseline) -> Result<Option<Vec<RawEntry>>> {
    let mut entries: BTreeMap<Vec<u8>, (String, String)> =
        staged_before(before)?.into_keys().map(|path| (path, ("0".to_owned(), String::new()))).collect();
    let Some(mut kept) = before.entries()? else { return Ok(None) };
    while let Some(entry) = kept.next()? {
        if let Some(callers) = entries.get_mut(entry.path) {
            if entry.stage > 0 || entry.intent_to_add {
                return Ok(None);
            }
            *callers = (format!("{:o}", entry.mode), hex(entry.id));
        }
    }
    Ok(Some(entries.into_iter().map(|(path, (mode, id))| (mode, id, path)).collect()))
}

/// The entries that others have changed in the user's index: since the command's git left it, or, if none wrote it, since before.
fn others_entries(before: &Baseline, worked_on: &Path) -> Result<Vec<RawEntry>> {
    let judged = before.judged_index();
    let left = if judged.exists() { judged } else { before.index() };
    // All stages of a path go before those come that it has now.
    let (mut gone, mut come) = (Vec::new(), Vec::new());
    differences(before, &left, worked_on, |path, was, now| {
        if now.is_none_or(|now| now.intent_to_add) || was.is_some_and(|was| was.stage > 0) {
            gone.push(("0".to_owned(), String::new(), path.to_vec()));
        }
        if let Some(now) = now.filter(|now| !now.intent_to_add) {
            come.push((format!("{:o}", now.mode), format!("{} {}", hex(now.id), now.stage), path.to_vec()));
        }
    })?;
    gone.append(&mut come);
    Ok(gone)
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
        // The caller's own staged changes, and others', stay as they are; so do flags that the command's gits have set.
        let callers = match before.header.own_index {
            true if before.judged_index().exists() => callers_entries(before)?,
            own => (!own).then(Vec::new),
        };
        let base = if callers.is_some() { &staged.index } else { &before.index() };
        if base.exists() {
            fs::copy_index(base, &made, true)?;
        }
        let mut entries = callers.unwrap_or_default();
        if others && worked_on.exists() {
            entries.extend(others_entries(before, worked_on)?);
        }
        let now = checkout.staged(&staged.index, &before.tree())?;
        entries.extend(now.into_iter().map(|change| (change.mode, change.id, change.path)));
        checkout.set_entries(&made, &entries)?;
        by_command::keep_flags(before, &made)?;
        if made.exists() {
            fs::sync(&made)?;
        }
    }
    if made.exists() { lock.replace(&made) } else { Ok(()) }
}
