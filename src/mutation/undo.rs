//! How is everything put back? HEAD and references, then the index, then the files; each look begins anew, so that a process
//! that goes on with what another began does the same.
//!
//! Nothing is destroyed: what is undone is first moved into a snapshot (`store/kept.rs`), commits into a bundle.
//!
//! What somebody else has moved is left: references that no git of the command's can have moved, and where that is HEAD,
//! the files that their commits changed.

use std::{
    collections::{BTreeMap, HashSet},
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use super::{
    before::Before,
    journal::{Journal, Line, Owned, Step},
    locks::{Fence, GitLock},
    put_back::PutBack,
    stage::differences,
    trace::{self, Git, Moves},
};
use crate::{
    error::{Error, Result},
    fs::{self, Sharing},
    repo::{Head, Reference, Repo, Worktree, hex},
    store::kept::{self, Keeping},
    sys,
};

/// How long another git may have one of its locks.
const PATIENCE: Duration = Duration::from_secs(2);

/// What came of an undo.
#[derive(Debug, Default)]
pub(crate) struct Undone {
    /// The snapshot of what was undone.
    pub(crate) kept: Option<String>,
    /// HEAD before, and as somebody else has moved it: left there.
    pub(crate) foreign_head: Option<(Head, Head)>,
    /// Files that were not put back: they are somebody else's now, or no bytes of theirs were kept.
    pub(crate) left: Vec<Vec<u8>>,
    /// References that somebody else has moved, or that could not be put back.
    pub(crate) references_left: Vec<String>,
}

/// What to undo, and in whose name.
pub(crate) struct Undo<'a> {
    pub(crate) repo: &'a Repo,
    pub(crate) worktree: &'a Worktree,
    pub(crate) before: &'a Before,
    pub(crate) journal: &'a Journal,
    pub(crate) header: kept::Header,
    /// The snapshot that an earlier process began.
    pub(crate) begun: Option<String>,
    pub(crate) sharing: Sharing,
    /// Most bytes of all snapshots.
    pub(crate) limit: u64,
}

/// Whose HEAD it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose {
    /// Nobody has moved it.
    Nobodys,
    /// The command has.
    Commands,
    /// Somebody else has, or may have.
    Others,
}

impl Before {
    /// The trace of the command's gits.
    pub(crate) fn trace(&self) -> PathBuf {
        self.directory().join("trace")
    }

    /// The trace of what they wrote to references.
    pub(crate) fn reference_trace(&self) -> PathBuf {
        self.directory().join("trace-references")
    }

    /// What the command's gits wrote to references until now.
    pub(crate) fn moves(&self) -> Moves {
        let before = self.references.iter().map(|one| one.id.clone()).chain(self.head().commit.clone());
        Moves::read(&self.reference_trace(), before.collect())
    }

    /// Tells whether a reference was written by a git of the command's that was killed before it could tell so: right after
    /// the last that it told.
    pub(crate) fn was_last_write(&self, name: &str) -> bool {
        /// It takes a git much less from one to the other.
        const MOST: Duration = Duration::from_millis(250);
        let written = |path: &Path| std::fs::symlink_metadata(path).and_then(|metadata| metadata.modified()).ok();
        let Some(told) = written(&self.reference_trace()) else { return false };
        let is_killed = || trace::gits(&self.trace()).iter().any(Git::was_killed);
        let moment = written(&self.checkout.loose_reference(name));
        moment.is_some_and(|moment| moment >= told && moment.duration_since(told).is_ok_and(|late| late <= MOST))
            && is_killed()
    }

    /// Tells whether HEAD is the commit that was to be made: what is staged, on top of what HEAD was.
    pub(crate) fn is_landed(&self, now: &Head) -> bool {
        let Some(commit) = now.commit.as_deref().filter(|_| now != self.head() && now.branch == self.head().branch)
        else {
            return false;
        };
        // Before that step anybody who commits all that is there commits the same.
        let lines = Journal::read(self.directory()).map(|(_, lines)| lines).unwrap_or_default();
        if !lines.iter().any(|line| line.step == Step::Landing) {
            return false;
        }
        let staged = self.directory().join("staged");
        let on_top = |parents: Vec<String>| parents.iter().eq(self.head().commit.iter());
        let made = self.checkout.parents_and_tree(commit).is_ok_and(|(parents, _)| on_top(parents));
        // Git may not have written all of it, and compares without reading what it need not.
        let is_whole = || self.checkout.between(&self.tree(), commit).is_ok();
        // A hook may have added to the index that it was made from.
        let differs = || self.checkout.staged(&staged, commit);
        made && staged.exists() && differs().is_ok_and(|differs| differs.is_empty()) && is_whole()
    }

    /// Who has moved HEAD, if it is not where it was.
    pub(crate) fn whose(&self, now: &Head) -> Whose {
        match self.head() {
            head if head == now => Whose::Nobodys,
            head if self.moves().explain_head(head, now) => Whose::Commands,
            _ if self.was_last_write(now.branch.as_deref().unwrap_or("HEAD")) => Whose::Commands,
            // Git was killed before it could tell that it had committed.
            _ if self.is_landed(now) => Whose::Commands,
            _ => Whose::Others,
        }
    }
}

/// Puts everything back. The journal still stands afterwards: who called ends it.
///
/// # Errors
/// What kept it from being put back: then nothing is lost, and it can be tried again.
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
        undo.journal.tell(Step::Undoing { why: undo.header.why.clone(), kept: keeping.id().to_owned() })?;
    }
    if fence.is_none() {
        let lines = Journal::read(before.directory()).map(|(_, lines)| lines).unwrap_or_default();
        for lock in left_locks(before, &lines) {
            let name = lock.file_name().unwrap_or_default().to_string_lossy().into_owned();
            keeping.take_other(&name, &lock)?;
        }
    }
    before.restore_objects()?;
    let now = head(undo)?;
    let whose = before.whose(&now);
    let mut undone = Undone::default();
    put_references_back(undo, whose, &now, &mut keeping, &mut undone)?;
    let mut theirs = HashSet::new();
    if whose == Whose::Others {
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
    put_index_back(undo, &theirs, whose, fence.as_deref())?;
    undone.left = PutBack::new(before, &mut keeping, &theirs)?.run()?;
    refresh_index(undo, fence.as_deref())?;
    undone.left.extend(theirs.into_iter().filter(|_| whose == Whose::Others));
    undone.left.sort();
    undone.left.dedup();
    undone.kept = keeping.finish(undo.limit)?;
    Ok(undone)
}

fn head(undo: &Undo<'_>) -> Result<Head> {
    undo.repo.head(undo.worktree).ok_or_else(|| Error::BrokenRepository {
        path: undo.before.checkout.git_dir.clone(),
        reason: "HEAD cannot be read".to_owned(),
    })
}

fn put_references_back(
    undo: &Undo<'_>,
    whose: Whose,
    now: &Head,
    keeping: &mut Keeping,
    undone: &mut Undone,
) -> Result<()> {
    let before = undo.before;
    let checkout = &before.checkout;
    let was: BTreeMap<&str, &Reference> = before.references.iter().map(|one| (one.name.as_str(), one)).collect();
    let references = checkout.references()?;
    let is: BTreeMap<&str, &Reference> = references.iter().map(|one| (one.name.as_str(), one)).collect();
    let names: std::collections::BTreeSet<&str> = was.keys().chain(is.keys()).copied().collect();
    let traced = before.moves();
    let others: Vec<String> = undo
        .repo
        .worktrees()?
        .iter()
        .filter(|worktree| worktree.key != undo.worktree.key)
        .filter_map(|worktree| undo.repo.head(worktree)?.branch)
        .collect();
    let elsewhere: HashSet<&str> = others.iter().map(String::as_str).collect();
    let head_names = [before.head().branch.as_deref(), now.branch.as_deref()];
    let mut moves: Vec<(&str, Option<&Reference>, Option<&Reference>)> = Vec::new();
    for name in names {
        let (old, new) = (was.get(name).copied(), is.get(name).copied());
        let is_odd = old.or(new).is_some_and(|one| one.is_odd);
        if old == new || name == PROTECTING {
            continue;
        }
        let of_head = head_names.contains(&Some(name));
        let theirs = whose == Whose::Others && of_head;
        // A branch that was made with a worktree is the worktree's by now.
        let elsewhere = old.is_none() && elsewhere.contains(&name);
        let stays = now.branch == before.head().branch && Some(name) == now.branch.as_deref();
        let explained = (stays && whose == Whose::Commands)
            || ([old, new].into_iter().flatten().any(|one| one.target.is_some()) && traced.point(name))
            || traced.explain(name, new.map(|one| one.id.as_str()), of_head)
            || before.was_last_write(name);
        if explained && !theirs && !elsewhere && !is_odd {
            moves.push((name, old, new));
        } else {
            undone.references_left.push(name.to_owned());
        }
    }
    // Git lists none that lead nowhere, but they do as soon as what they lead to is back.
    for name in
        traced.names().filter(|name| name.starts_with("refs/") && !was.contains_key(name) && !is.contains_key(name))
    {
        if checkout.is_symbolic(name)? {
            checkout.remove_symbolic(name)?;
        }
    }
    let ids: Vec<u8> =
        moves.iter().filter_map(|(_, old, _)| *old).flat_map(|old| old.id.bytes().chain([b'\n'])).collect();
    let mut sizes = if ids.is_empty() { Vec::new() } else { checkout.sizes(&ids)? }.into_iter();
    moves.retain(|(name, old, _)| {
        let is_lost = old.is_some() && sizes.next().flatten().is_none();
        if is_lost {
            // The command had git remove its objects, too.
            undone.references_left.push((*name).to_owned());
        }
        !is_lost
    });
    let head_moved = whose == Whose::Commands;
    if moves.is_empty() && !head_moved {
        return put_stash_back(before, &traced);
    }
    let known: Vec<String> =
        before.references.iter().map(|one| one.id.clone()).chain(before.head().commit.clone()).collect();
    let mut bundled: Vec<String> =
        moves.iter().filter(|(.., new)| new.is_some()).map(|(name, ..)| (*name).to_owned()).collect();
    if head_moved {
        keeping.reference("HEAD", before.head().commit.as_deref(), now.commit.as_deref())?;
        bundled.push("HEAD".to_owned());
    }
    for (name, old, new) in &moves {
        keeping.reference(name, old.map(|one| one.id.as_str()), new.map(|one| one.id.as_str()))?;
    }
    let is_kept =
        bundled.is_empty() || keeping.bundle().exists() || checkout.bundle(&keeping.bundle(), &bundled, &known)?;
    if head_moved {
        match (&before.head().branch, &before.head().commit) {
            (Some(branch), _) if now.branch.as_ref() != Some(branch) => checkout.point("HEAD", branch)?,
            (None, Some(commit)) => checkout.detach(commit)?,
            _ => {}
        }
    }
    // First what must go: its name may be in the way of what comes.
    let (gone, others): (Vec<_>, Vec<_>) = moves.into_iter().partition(|(_, old, _)| old.is_none());
    for batch in [&gone, &others] {
        let plain = batch.iter().filter(|(_, old, new)| old.or(*new).is_some_and(|one| one.target.is_none()));
        let plain = plain
            .map(|(name, old, new)| ((*name).to_owned(), new.map(|one| one.id.clone()), old.map(|one| one.id.clone())));
        checkout.move_references(&plain.collect::<Vec<_>>())?;
        for (name, old, _) in batch.iter().filter(|(_, old, new)| old.or(*new).is_some_and(|one| one.target.is_some()))
        {
            match old.and_then(|one| one.target.as_deref()) {
                Some(target) => checkout.point(name, target)?,
                None => checkout.remove_symbolic(name)?,
            }
        }
    }
    if !is_kept {
        let left = others.iter().filter_map(|(name, _, new)| Some((*name, new.as_ref()?.id.as_str())));
        let of_head = head_moved.then(|| Some(("HEAD", now.commit.as_deref()?))).flatten();
        for (name, commit) in left.chain(of_head) {
            if !checkout.is_whole(commit, &known)? {
                checkout.forget_logged(name, commit)?;
            }
        }
    }
    put_stash_back(before, &traced)
}

/// The stash is the log of its reference: it may differ also where the reference does not, or not any more.
fn put_stash_back(before: &Before, traced: &Moves) -> Result<()> {
    const STASH: &str = "refs/stash";
    let log = before.checkout.stash_log();
    let value = |references: &[Reference]| references.iter().find(|one| one.name == STASH).map(|one| one.id.clone());
    // One that was killed may not have told it.
    let touched = traced.touch(STASH) || trace::gits(&before.trace()).iter().any(Git::was_killed);
    if !touched || value(&before.checkout.references()?) != value(&before.references) {
        return Ok(());
    }
    let Some(kept) = before.kept_stash() else { return Ok(()) };
    let (was, is) = (std::fs::read(&kept).map_err(Error::io("read", &kept))?, std::fs::read(&log).unwrap_or_default());
    if was == is {
        return Ok(());
    }
    let mode = std::fs::metadata(&kept).map_or(0o644, |metadata| sys::mode(&metadata));
    if let Some(directory) = log.parent() {
        fs::make_directories(directory, None)?;
    }
    fs::put_file(&log, mode, None, |file| std::io::Write::write_all(file, &was))
}

fn put_index_back(undo: &Undo<'_>, theirs: &HashSet<Vec<u8>>, whose: Whose, fence: Option<&Fence>) -> Result<()> {
    let before = undo.before;
    let index = before.checkout.index();
    if !before.index_is_touched() {
        return Ok(());
    }
    if whose == Whose::Others {
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
    let taken;
    let lock = if let Some(fence) = fence {
        fence.index()
    } else {
        taken = GitLock::take(&index, before.directory(), undo.journal, PATIENCE)?;
        &taken
    };
    if !before.header.index {
        return fs::remove_entry(&index);
    }
    // The kept one stays where it is, for the look at the files.
    let made = before.directory().join("published");
    before.clear(&made)?;
    fs::copy_index(&before.index(), &made, true)?;
    lock.replace(&made)
}

/// Files that were put back have other stat data: to git's plumbing that looks like a change, until the index knows.
fn refresh_index(undo: &Undo<'_>, fence: Option<&Fence>) -> Result<()> {
    let before = undo.before;
    let index = before.checkout.index();
    let taken;
    let lock = if let Some(fence) = fence {
        fence.index()
    } else {
        taken = GitLock::take(&index, before.directory(), undo.journal, PATIENCE)?;
        &taken
    };
    if !index.exists() {
        return Ok(());
    }
    let made = before.directory().join("published");
    before.clear(&made)?;
    fs::copy_index(&index, &made, false)?;
    before.checkout.refresh(&made)?;
    fs::sync(&made)?;
    lock.replace(&made)
}

/// Removes git's lock files that are ours, and finds those that a git of the mutation's left when it was killed.
pub(super) fn left_locks(before: &Before, lines: &[Line]) -> Vec<PathBuf> {
    release_own(lines);
    if !trace::gits(&before.trace()).iter().any(Git::was_killed) {
        return Vec::new();
    }
    let begun = lines.first().map_or(0, |line| line.at_ms);
    let mut left = before.checkout.lock_files();
    left.retain(|lock| {
        let id = fs::identity(lock);
        if id.is_none() || !is_from_after(lock, begun) {
            return false;
        }
        // Another git may be at work just now.
        let since = Instant::now();
        while fs::identity(lock) == id && since.elapsed() < Duration::from_millis(300) {
            std::thread::sleep(Duration::from_millis(5));
        }
        fs::identity(lock) == id && !trace::git_works_in(&before.checkout.root, &before.checkout.git_dir)
    });
    left
}

fn is_from_after(path: &Path, begun_ms: u64) -> bool {
    let begun = SystemTime::UNIX_EPOCH + Duration::from_millis(begun_ms.saturating_sub(1000));
    std::fs::symlink_metadata(path).and_then(|metadata| metadata.modified()).is_ok_and(|time| time >= begun)
}

/// Removes those of git's lock files that this mutation made.
pub(super) fn release_own(lines: &[Line]) {
    let owned = lines.iter().filter_map(|line| match &line.step {
        Step::Locking { files } => Some(files),
        _ => None,
    });
    for owned in owned.flatten().filter(|owned: &&Owned| owned.is_there()) {
        fs::remove(&owned.path);
    }
}

/// The reference that keeps HEAD's commit from being pruned meanwhile; this worktree's own, so that no other shows it.
pub(crate) const PROTECTING: &str = "refs/worktree/repoguard";
