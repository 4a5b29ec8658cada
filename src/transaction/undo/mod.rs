//! Puts everything back: HEAD and references, then the index, then the files. Each look begins anew, so that a process
//! that goes on with what another began does the same.
//!
//! Nothing is destroyed: what is undone is first moved into a snapshot (`store/kept.rs`), commits into a bundle.
//!
//! References that no git of the command's can have moved are left. If somebody else moved HEAD, the files that their commits
//! changed are left, too.

mod files;
mod references;

pub(crate) use references::PROTECTING;

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use super::{
    attribution::MovedBy,
    baseline::{Baseline, Content, Kind},
    differences::differences,
    journal::{Journal, Line, Locked, Plan, Step},
    locks::{Fence, GitLock},
    trace::{self, Git},
};
use files::PutBack;

use crate::{
    error::{Error, Result},
    escape::hex,
    fs::{self, Sharing},
    repo::{Checkout, Head, Repo, Worktree, path_of},
    store::kept::{self, Keeping},
    sys::{self, Retry},
};

/// How long another git may have one of its locks.
const PATIENCE: Duration = Duration::from_secs(2);

/// The result of an undo.
#[derive(Debug, Default)]
pub(crate) struct Undone {
    /// The snapshot of what was undone.
    pub(crate) kept: Option<String>,
    /// HEAD before, and as somebody else has moved it: left there.
    pub(crate) foreign_head: Option<(Head, Head)>,
    /// Files that were not put back: they are somebody else's now, or no bytes of theirs were kept.
    pub(crate) left: Vec<Vec<u8>>,
    /// Removed entries without a copy: repositories, FIFOs, sockets, devices, unreadable entries, and untracked files of a mutation
    /// that keeps none.
    pub(crate) gone: Vec<Vec<u8>>,
    /// References that somebody else has moved, or that could not be put back.
    pub(crate) references_left: Vec<String>,
}

/// The inputs of an undo.
pub(crate) struct Undo<'a> {
    pub(crate) repo: &'a Repo,
    pub(crate) worktree: &'a Worktree,
    pub(crate) before: &'a Baseline,
    pub(crate) journal: &'a Journal,
    pub(crate) header: kept::Header,
    /// The snapshot that an earlier process began.
    pub(crate) begun: Option<String>,
    pub(crate) sharing: Sharing,
    /// Most bytes of all snapshots.
    pub(crate) limit: u64,
}

/// Puts everything back. The journal still stands afterwards: who called ends it.
///
/// # Errors
/// The error that stopped the undo: then nothing is lost, and it can be tried again.
pub(crate) fn undo(undo: &Undo<'_>, mut fence: Option<&mut Fence>) -> Result<Undone> {
    let before = undo.before;
    if let Some(fence) = &mut fence {
        fence.open_head();
    }
    let mut keeping = match &undo.begun {
        // One that has expired, or was removed, is begun anew.
        Some(id) => Keeping::resume(undo.repo, id, undo.sharing)
            .or_else(|_| Keeping::begin(undo.repo, undo.header.clone(), undo.sharing))?,
        None => Keeping::begin(undo.repo, undo.header.clone(), undo.sharing)?,
    };
    if undo.begun.is_none() {
        undo.journal.record(Step::Undoing { why: undo.header.why.clone(), kept: keeping.id().to_owned() })?;
    }
    if fence.is_none() {
        let (plan, lines) = Journal::read(before.directory()).unwrap_or_default();
        for lock in left_locks(before, &plan, &lines) {
            let name = lock.file_name().unwrap_or_default().to_string_lossy().into_owned();
            keeping.take_other(&name, &lock)?;
        }
    }
    before.checkout.put_missing_head(before.head())?;
    before.restore_objects()?;
    let now = head(undo)?;
    let moved_by = before.moved_by(&now);
    let mut undone = Undone::default();
    references::put_back(undo, moved_by, &now, &mut keeping, &mut undone)?;
    let mut theirs = HashSet::new();
    if moved_by == MovedBy::Others {
        let tree = before.checkout.tree_of(&now);
        theirs.extend(before.checkout.between(&before.tree(), &tree)?.into_iter().map(|change| change.path));
        undone.foreign_head = Some((before.head().clone(), now));
    } else {
        for name in before.checkout.operation_files() {
            if !before.header.operations.contains(&name) {
                keeping.take_other(&name, &before.checkout.git_dir.join(&name))?;
            }
        }
    }
    put_index_back(undo, &theirs, moved_by, fence.as_deref())?;
    undone.left = PutBack::new(before, &mut keeping, &theirs)?.run()?;
    refresh_index(undo, fence.as_deref())?;
    undone.left.extend(theirs.into_iter().filter(|_| moved_by == MovedBy::Others));
    undone.left.sort();
    undone.left.dedup();
    let is_gone = |path: &mut Vec<u8>| {
        let item = before.item(path);
        let kind = item.map(|item| item.kind);
        let is_unkept = item.is_some_and(|item| matches!(item.content, Content::Leased(_)));
        let is_there = std::fs::symlink_metadata(before.checkout.root.join(path_of(path))).is_ok();
        (is_unkept || matches!(kind, Some(Kind::Repository | Kind::Odd | Kind::Special))) && !is_there
    };
    undone.gone = undone.left.extract_if(.., is_gone).collect();
    undone.kept = keeping.finish(undo.limit)?;
    Ok(undone)
}

fn head(undo: &Undo<'_>) -> Result<Head> {
    undo.repo.head(undo.worktree).ok_or_else(|| Error::BrokenRepository {
        path: undo.before.checkout.git_dir.clone(),
        reason: "HEAD cannot be read".to_owned(),
    })
}

fn put_index_back(undo: &Undo<'_>, theirs: &HashSet<Vec<u8>>, moved_by: MovedBy, fence: Option<&Fence>) -> Result<()> {
    let before = undo.before;
    let index = before.checkout.index();
    if !before.index_is_touched() {
        return Ok(());
    }
    if moved_by == MovedBy::Others {
        let mut entries = Vec::new();
        differences(before, &before.index(), &index, |path, was, _| {
            if !theirs.contains(path) {
                let (mode, id) =
                    was.map_or_else(|| ("0".to_owned(), String::new()), |was| (format!("{:o}", was.mode), hex(was.id)));
                entries.push((mode, id, path.to_vec()));
            }
        })?;
        return before.checkout.set_entries(&index, &entries);
    }
    under_lock(undo, fence, |lock| {
        if !before.header.index {
            return fs::remove_entry(&index);
        }
        // The kept copy stays for the comparison of files.
        let made = before.directory().join("published");
        before.clear(&made)?;
        fs::copy_index(&before.index(), &made, true)?;
        lock.replace(&made)
    })
}

/// Files that were put back have other stat data: to git's plumbing that looks like a change, until the index knows.
fn refresh_index(undo: &Undo<'_>, fence: Option<&Fence>) -> Result<()> {
    let before = undo.before;
    let index = before.checkout.index();
    under_lock(undo, fence, |lock| {
        if !index.exists() {
            return Ok(());
        }
        let made = before.directory().join("published");
        before.clear(&made)?;
        fs::copy_index(&index, &made, false)?;
        before.checkout.refresh(&made)?;
        fs::sync(&made)?;
        lock.replace(&made)
    })
}

/// Works under git's lock of the index: the fence's, or one that is taken for it.
fn under_lock(undo: &Undo<'_>, fence: Option<&Fence>, work: impl FnOnce(&GitLock) -> Result<()>) -> Result<()> {
    let Some(fence) = fence else {
        let git_dir = &undo.before.checkout.git_dir;
        return work(&GitLock::take(Locked::Index, git_dir, undo.before.directory(), undo.journal, PATIENCE)?);
    };
    work(fence.index())
}

/// Removes git's lock files that are ours, and finds those that a git of the mutation's left when it was killed.
pub(super) fn left_locks(before: &Baseline, plan: &Plan, lines: &[Line]) -> Vec<PathBuf> {
    release_own(&before.checkout.git_dir, plan);
    let begun = lines.first().map_or(0, |line| line.at_ms);
    let checkout = &before.checkout;
    locks_of_killed(checkout, &checkout.root, &[before.trace(), before.notes()], begun)
}

/// Finds git's lock files that gits left which were killed: those of these traces, begun at that time. Not if one that works in the
/// checkout or in `root` may have made them.
pub(crate) fn locks_of_killed(checkout: &Checkout, root: &Path, traces: &[PathBuf], begun_ms: u64) -> Vec<PathBuf> {
    /// How long a git has its locks, as a rule.
    const SOON: Duration = Duration::from_millis(300);
    /// A git that works for longer may be the one.
    const LATEST: Duration = Duration::from_secs(5);
    let killed: Vec<Git> = traces.iter().flat_map(|trace| trace::gits(trace)).filter(Git::was_killed).collect();
    if killed.is_empty() {
        return Vec::new();
    }
    let mut left = checkout.lock_files();
    left.extend(killed.iter().flat_map(|git| checkout.passing_indexes(git.pid)));
    left.retain(|lock| {
        // A process that began later has not made it.
        let seen = sys::boot_ms();
        let id = fs::identity(lock);
        if id.is_none() || !is_from_after(lock, begun_ms) {
            return false;
        }
        // Another git may be at work just now. Those that were there come to an end; who comes later has not made the lock.
        let since = Instant::now();
        let may_be_of_another = || match since.elapsed() {
            waited if waited < SOON => true,
            waited => waited < LATEST && trace::git_works_in(root, &checkout.git_dir, seen),
        };
        Retry::every(Duration::from_millis(5)).until(|| fs::identity(lock) != id || !may_be_of_another());
        fs::identity(lock) == id && !trace::git_works_in(root, &checkout.git_dir, seen)
    });
    left
}

fn is_from_after(path: &Path, begun_ms: u64) -> bool {
    let begun = SystemTime::UNIX_EPOCH + Duration::from_millis(begun_ms.saturating_sub(1000));
    std::fs::symlink_metadata(path).and_then(|metadata| metadata.modified()).is_ok_and(|time| time >= begun)
}

/// Removes those of git's lock files that this mutation made.
pub(super) fn release_own(git_dir: &Path, plan: &Plan) {
    plan.own_locks(git_dir).iter().for_each(|lock| fs::remove(lock));
}
