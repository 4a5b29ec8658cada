//! Removes a worktree without ever removing somebody's work. The record is locked meanwhile, so that nobody else
//! removes it, and the worktree itself, so that nobody is in it.
//!
//! 1. Look: is there nothing of worth, does nobody wait for it, does no process stand in it?
//! 2. Move it aside, in one step: who knows it by its name finds nothing there from now on.
//! 3. Look again. Whatever was written between the two looks is seen now: it goes back to its place, and stays.
//! 4. Delete it, and let git take it off its list: git fails if somebody made the directory anew.
//! 5. Delete the branch, if it still has the commit that was seen.
//!
//! Killed at any step, the next one to tidy up goes on from the record.
//!
//! # Limitations
//! A process that the system does not show us (another user's, or without `/proc`) may work in the worktree. If it writes after the
//! second look, it writes into what is being deleted.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    contents::{Contents, Seen, Site, aside_of, look, look_at_branch},
    git_lock,
};
use crate::{
    error::Result,
    fs::{self, Hidden},
    lock::Request,
    repo::{Checkout, Deletion, MOST_LINK, Manner, Repo, Worktree, leads_to, named_git_dir},
    store::worktrees::{Entry, Made, Stage},
    sys::{self, FileId, Retry},
    transaction::{gits, locks_of_killed},
};

/// How long a process that is about to end may take.
const ENDING: Retry = Retry::every(Duration::from_millis(5)).within(Duration::from_millis(200));

/// Removes a worktree in which there is nothing of worth; `None` when it is gone, else what is in it. With `landed`,
/// commits that another branch leads to are none. The caller has locked it.
///
/// # Errors
/// [`crate::Error::Io`], [`crate::Error::Git`]: then it is not, or not wholly, removed.
pub(super) fn remove(repo: &Repo, entry: &mut Entry, landed: bool) -> Result<Option<Contents>> {
    if !entry.refresh() {
        // Removed by the wrapper before it was killed, or somebody has deleted our records.
        let is_there = fs::identity(&entry.made.path()).is_some();
        return Ok(is_there.then(|| Contents::doubt("its record is gone")));
    }
    unlock(repo, entry)?;
    let Some(site) = Site::find(repo, &entry.made) else { return remove_rest(repo, entry, landed) };
    // No command runs in it any more: the caller has its lock.
    git_lock::unlock(&site.worktree);
    let aside = site.aside(&entry.made);
    let stage = entry.made.stage;
    let is_aside = stage == Stage::Removing && fs::identity(&aside).is_some();
    let is_there = fs::identity(&site.place).is_some();
    // A half-deleted worktree may have no `.git` any more. A `.git` that leads elsewhere is another's.
    let is_anothers =
        |root: &Path| fs::identity(&root.join(".git")).is_some() && !leads_to(root, &site.worktree.git_dir);
    if is_aside && is_anothers(&aside) {
        return Ok(Some(Contents::doubt(format!("`{}` is of another repository", aside.display()))));
    }
    if is_aside && is_there {
        return Ok(Some(Contents::doubt(format!(
            "its files are at `{}`, and something else in their place",
            aside.display()
        ))));
    }
    if !is_there && !is_aside && stage != Stage::Removing {
        // Moved without git's knowledge, perhaps, or on a disk that is not there now.
        return keep(entry, stage, Contents::doubt("its directory is gone; `git worktree prune` forgets it"));
    }
    let mut seen = if is_aside || !is_there {
        let root = is_aside.then_some(aside.as_path());
        let mut seen = look(repo, Manner::Writing, (entry.register(), &entry.made), &site, root)?;
        seen.contents.also.extend(root.map_or(Ok(None), |root| fs::hidden(root).map(|hidden| unseen(&hidden)))?);
        seen
    } else {
        match move_aside(repo, entry, &site, &aside, landed)? {
            Ok(seen) => seen,
            Err(contents) => return keep(entry, stage, contents),
        }
    };
    if !seen.contents.is_nothing(landed) {
        if fs::identity(&aside).is_some() {
            put_back(&aside, &site.place);
        }
        return keep(entry, if stage == Stage::Removing { Stage::Kept } else { stage }, seen.contents);
    }
    fs::remove_entry(&aside)?;
    let common = noting(repo, entry)?;
    common.remove_worktree(&site.place)?;
    if let Some(record) = repo.head_record(&site.worktree) {
        fs::remove(&record);
    }
    let tip = seen.tip.take();
    finish(repo, &common, entry, tip.as_deref(), &site.place)
}

/// Moves a worktree aside, and looks once more what is in it. `Err`: that is in it, and it was not moved.
fn move_aside(
    repo: &Repo,
    entry: &mut Entry,
    site: &Site,
    aside: &Path,
    landed: bool,
) -> Result<Result<Seen, Contents>> {
    let stage = entry.made.stage;
    let seen = look_at(repo, entry, site, &site.place, landed)?;
    if !seen.contents.is_nothing(landed) {
        return Ok(Err(seen.contents));
    }
    entry.advance(Stage::Removing)?;
    if let Err(error) = fs::rename(&site.place, aside) {
        entry.advance(stage)?;
        return Err(error);
    }
    // What is missing is no work if it was removed before, but until now nothing was.
    entry.made.stage = stage;
    let seen = look_at(repo, entry, site, aside, landed);
    entry.made.stage = Stage::Removing;
    seen.map(Ok).inspect_err(|_| put_back(aside, &site.place))
}

/// The repository itself, whose gits note for this worktree that they run.
fn noting(repo: &Repo, entry: &Entry) -> Result<Checkout> {
    Ok(Checkout::common(repo, Manner::Writing, entry.made.base.len() / 2)?
        .noting(entry.register().notes(&entry.made.name)))
}

/// Removes git's lock files that a git of ours left which was killed while it made or removed this worktree.
pub(super) fn unlock(repo: &Repo, entry: &Entry) -> Result<()> {
    let notes = entry.register().notes(&entry.made.name);
    if fs::identity(&notes).is_none() {
        return Ok(());
    }
    let left = locks_of_killed(&noting(repo, entry)?, repo.root(), std::slice::from_ref(&notes), entry.made.created_ms);
    left.iter().try_for_each(fs::remove_entry)?;
    if gits(&notes).iter().all(|git| git.ended) {
        // They would grow with each try to remove what another's lock keeps.
        fs::remove(&notes);
    }
    Ok(())
}

/// Looks, and finds out who is in it.
fn look_at(repo: &Repo, entry: &Entry, site: &Site, root: &Path, landed: bool) -> Result<Seen> {
    let mut seen = look(repo, Manner::Writing, (entry.register(), &entry.made), site, Some(root))?;
    if !leads_to(root, &site.worktree.git_dir) {
        seen.contents.also.push("its `.git` does not lead where git says".to_owned());
    }
    if sys::has_mounts(root) {
        // The entries there do not belong to this worktree.
        seen.contents.also.push("something is mounted in it".to_owned());
    }
    if seen.contents.is_nothing(landed) {
        let hidden = fs::hidden(root)?;
        seen.contents.also.extend(unseen(&hidden));
        if seen.contents.is_nothing(landed) {
            seen.contents.also.extend(in_use(repo, &site.worktree, (root, &hidden.identities)));
        }
    }
    Ok(seen)
}

/// Possible work that git does not show, and what cannot be removed.
fn unseen(hidden: &Hidden) -> Option<String> {
    let first = |paths: &[PathBuf], why: &str| paths.first().map(|path| format!("`{}` {why}", path.display()));
    first(&hidden.unreadable, "cannot be read")
        .or_else(|| first(&hidden.repositories, "is a repository of its own"))
        .or_else(|| first(&hidden.unremovable, "holds files that you may not remove"))
}

/// The processes that wait for a worktree, or run in it.
fn in_use(repo: &Repo, worktree: &Worktree, inside: (&Path, &HashSet<FileId>)) -> Option<String> {
    let waits = |waiter: &crate::holder::Holder| waiter.resources.iter().any(|(key, _)| *key == worktree.key);
    match repo.inspect(&Request::default()) {
        Ok(seen) => {
            if let Some(waiter) = seen.waiters.iter().find(|waiter| waits(waiter)) {
                return Some(format!("pid {} waits for it", waiter.pid));
            }
        }
        Err(error) => return Some(format!("who waits for it cannot be told: {error}")),
    }
    let mut last = None;
    for _ in ENDING {
        last = Some(inhabitant(worktree, inside)?);
    }
    last.map(|pid| format!("pid {pid} is still in it"))
}

/// A process that has the worktree's lock still open, whose current directory is in it, or that has a file in it open for writing.
/// Directories are compared by identity as well: a container reaches them by another path.
fn inhabitant(worktree: &Worktree, (root, identities): (&Path, &HashSet<FileId>)) -> Option<u32> {
    let us = std::process::id();
    // Wrapper and keeper, whichever we are.
    let program = sys::executable(us);
    let mut ours = sys::descendants(us);
    ours.retain(|pid| sys::executable(*pid) == program);
    ours.push(us);
    let lock = fs::identity(&worktree.lock_path());
    let mut pids = lock.map_or_else(Vec::new, sys::descriptor_holders);
    let state = |pid: &u32| {
        sys::working_directory(*pid).is_some_and(|directory| directory.starts_with(root))
            || sys::working_directory_id(*pid).is_some_and(|id| identities.contains(&id))
    };
    pids.extend(sys::all_processes().into_iter().filter(state));
    pids.extend(sys::writers(identities).into_iter().map(|writer| writer.pid));
    pids.into_iter().find(|pid| !ours.contains(pid))
}

/// Moves a worktree back to its place. If somebody has taken the place, the worktree stays aside and is reported.
fn put_back(aside: &Path, place: &Path) {
    if fs::identity(place).is_none() {
        drop(fs::rename(aside, place));
    }
}

fn keep(entry: &mut Entry, stage: Stage, contents: Contents) -> Result<Option<Contents>> {
    let stage = if stage == Stage::Used { Stage::Kept } else { stage };
    if entry.made.stage != stage {
        entry.advance(stage)?;
    }
    Ok(Some(contents))
}

/// The worktree itself is gone, or never was there: what is left of it?
fn remove_rest(repo: &Repo, entry: &mut Entry, landed: bool) -> Result<Option<Contents>> {
    let (made, path) = (&entry.made, entry.made.path());
    // Git has forgotten it while it was being removed, or while it was not there.
    let aside = aside_of(&path, &made.name);
    let files = [&aside, &path].into_iter().find(|path| fs::list(path.as_path()).is_ok_and(|names| !names.is_empty()));
    if let Some(files) = files.filter(|_| !matches!(made.stage, Stage::Reserved | Stage::Making)) {
        return Ok(Some(Contents::doubt(format!("git has forgotten it, and its files are at `{}`", files.display()))));
    }
    let common = noting(repo, entry)?;
    let never_made = matches!(made.stage, Stage::Reserved | Stage::Making);
    if never_made {
        let half = repo.linked(made.name.as_ref()).filter(|half| is_half_made(&half.git_dir, &path));
        let was_on_list = half.is_some();
        if let Some(half) = half {
            fs::remove_entry(&half.git_dir)?;
        }
        // The files that git writes first, and all that it has written.
        let is_ours =
            |path: &Path| repo.linked(made.name.as_ref()).is_some_and(|half| names_directory(path, &half.git_dir));
        if made.stage == Stage::Making && fs::list(&path).is_ok_and(|names| names == [".git"]) && is_ours(&path) {
            fs::remove(&path.join(".git"));
        }
        // The record may name any directory: only one for such worktrees, or one that is on git's list, is ours to remove.
        let is_there = fs::identity(&path).is_some();
        if is_there && !(is_for_worktrees(&path) || was_on_list) {
            return Ok(Some(Contents::doubt("its record names a directory that nothing shows to be its own")));
        }
        if is_there && !fs::remove_directory(&path) {
            return Ok(Some(Contents::doubt("git was killed while it made it")));
        }
    }
    let Seen { contents, tip } = look_at_branch(repo, Manner::Writing, made)?;
    // A branch that somebody else made, after we were killed and before we could make it.
    let not_ours = made.stage == Stage::Reserved && !made.own_name;
    if not_ours {
        entry.forget();
        return Ok(None);
    }
    if !contents.is_nothing(landed) {
        return keep(entry, Stage::Kept, contents);
    }
    finish(repo, &common, entry, tip.as_deref(), &path)
}

/// Tells whether a directory on git's list is one that git was killed in while it made it for `path`.
fn is_half_made(git_dir: &Path, path: &Path) -> bool {
    match fs::read_small(&git_dir.join("gitdir"), MOST_LINK) {
        Some(text) => crate::repo::path_of(text.trim_ascii_end()) == path.join(".git"),
        // Git's own word for that.
        None => fs::read_small(&git_dir.join("locked"), 64).is_some_and(|text| text.starts_with(b"initializing")),
    }
}

/// Tells whether the `.git` in a worktree names a git directory, which need not be there any more, or names nothing yet.
fn names_directory(root: &Path, git_dir: &Path) -> bool {
    let text = fs::read_small(&root.join(".git"), MOST_LINK).unwrap_or_default();
    let real = |path: &Path| Some(path.parent()?.canonicalize().ok()?.join(path.file_name()?));
    match named_git_dir(root, &text) {
        Some(named) => real(&named) == real(git_dir),
        None => text.is_empty(),
    }
}

/// Deletes the branch if it has the commit that was seen, and then the record.
fn finish(
    repo: &Repo,
    common: &Checkout,
    entry: &mut Entry,
    tip: Option<&str>,
    place: &Path,
) -> Result<Option<Contents>> {
    if let Some(tip) = tip
        && let Some(contents) = delete_branch(repo, common, &entry.made, tip)?
    {
        return keep(entry, Stage::Kept, contents);
    }
    entry.forget();
    remove_parent(place);
    Ok(None)
}

/// Deletes the branch while another reference leads to its commit: in one step with a look at that reference, since another process
/// may delete it for the same reason.
fn delete_branch(repo: &Repo, common: &Checkout, made: &Made, tip: &str) -> Result<Option<Contents>> {
    /// Each time somebody else has moved a reference.
    const TRIES: usize = 20;
    for _ in 0..TRIES {
        let witness = common.witness(tip, &made.branch)?;
        // A worktree of a detached HEAD has nothing that HEAD has not.
        let is_needless = || {
            let heads = repo.worktrees()?.iter().filter_map(|worktree| repo.head(worktree)?.commit).collect::<Vec<_>>();
            Ok(tip == made.base && common.is_below(tip, &heads)?)
        };
        if witness.is_none() && !is_needless()? {
            return Ok(Some(Contents::doubt("nothing else leads to its commits any more")));
        }
        match common.delete_branch(&made.branch, tip, witness.as_ref())? {
            Deletion::Done => return Ok(None),
            // A record that is already missing is as good as removed.
            Deletion::Moved if common.tip(&made.branch)?.is_none() => return Ok(None),
            Deletion::Moved => return Ok(Some(Contents::doubt("its branch has moved meanwhile"))),
            Deletion::WitnessMoved => {}
        }
    }
    Ok(Some(Contents::doubt("other references move all the time")))
}

/// Removes the directory that a worktree stood in, if that is for such worktrees only, and this was the last.
pub(super) fn remove_parent(place: &Path) {
    if let Some(parent) = place.parent().filter(|_| is_for_worktrees(place)) {
        fs::remove_directory(parent);
    }
}

/// Tells whether a worktree is in a directory that is for such worktrees only.
fn is_for_worktrees(place: &Path) -> bool {
    place.parent().and_then(Path::extension).is_some_and(|end| end == super::options::ENDING)
}
