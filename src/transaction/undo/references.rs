//! Puts references back: those that the command's gits have moved, each compared once more with its expected value. References that
//! somebody else has moved are left, and named.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    path::Path,
};

use super::{
    super::{
        attribution::MovedBy,
        baseline::{Baseline, MOST_BYTES},
        logs,
        trace::Moves,
    },
    Undo, Undone,
};
use crate::{
    error::Result,
    fs,
    repo::{Head, Reference, STASH, STASH_LOG},
    store::kept::Keeping,
};

/// The reference that keeps HEAD's commit from being pruned meanwhile; this worktree's own, so that no other shows it.
pub(crate) const PROTECTING: &str = "refs/worktree/repoguard";

/// A reference that is not what it was.
struct Moved<'a> {
    name: &'a str,
    was: Option<&'a Reference>,
    is: Option<&'a Reference>,
}

impl Moved<'_> {
    fn is_symbolic(&self) -> bool {
        self.was.or(self.is).is_some_and(|one| one.target.is_some())
    }
}

/// Puts HEAD, if the command has moved it, all references and the stash back.
pub(super) fn put_back(
    undo: &Undo<'_>,
    moved_by: MovedBy,
    now: &Head,
    keeping: &mut Keeping,
    undone: &mut Undone,
) -> Result<()> {
    let before = undo.before;
    let traced = before.moves();
    let references = before.checkout.references()?;
    let moved = moved(undo, (moved_by, now), &references, &traced, undone)?;
    let head = (moved_by == MovedBy::Commands).then_some(now);
    let mut is_kept = true;
    if !moved.is_empty() || head.is_some() {
        is_kept = keep(before, head, &moved, keeping)?;
        if let Some(head) = head {
            put_head_back(before, head)?;
        }
        put_moved_back(before, &moved)?;
    }
    logs::put_back(before, if moved_by == MovedBy::Commands { before.head() } else { now }, &traced)?;
    if !is_kept {
        forget_what_is_broken(before, head, &moved);
    }
    put_stash_back(before, &traced)
}

/// The references that the command has moved; other differences are noted as left. Dangling symbolic references of the command's
/// are removed on the way.
fn moved<'a>(
    undo: &'a Undo<'_>,
    (moved_by, now): (MovedBy, &Head),
    references: &'a [Reference],
    traced: &Moves,
    undone: &mut Undone,
) -> Result<Vec<Moved<'a>>> {
    let before = undo.before;
    let checkout = &before.checkout;
    let was: BTreeMap<&str, &Reference> = before.references.iter().map(|one| (one.name.as_str(), one)).collect();
    let is: BTreeMap<&str, &Reference> = references.iter().map(|one| (one.name.as_str(), one)).collect();
    let names: BTreeSet<&str> = was.keys().chain(is.keys()).copied().collect();
    let others = undo.repo.worktrees()?;
    let others = others.iter().filter(|worktree| worktree.key != undo.worktree.key);
    let elsewhere: HashSet<String> = others.filter_map(|worktree| undo.repo.head(worktree)?.branch).collect();
    let head_names = [before.head().branch.as_deref(), now.branch.as_deref()];
    let mut moved: Vec<Moved<'_>> = Vec::new();
    for name in names {
        let (was, is) = (was.get(name).copied(), is.get(name).copied());
        let is_odd = was.or(is).is_some_and(|one| one.is_odd);
        if was == is || name == PROTECTING {
            continue;
        }
        let of_head = head_names.contains(&Some(name));
        let theirs = moved_by == MovedBy::Others && of_head;
        // A branch that was made with a worktree is the worktree's by now.
        let elsewhere = was.is_none() && elsewhere.contains(name);
        let stays = now.branch == before.head().branch && Some(name) == now.branch.as_deref();
        let explained = (stays && moved_by == MovedBy::Commands)
            || ([was, is].into_iter().flatten().any(|one| one.target.is_some()) && traced.point(name))
            || traced.explain(name, is.map(|one| one.id.as_str()), of_head)
            || (traced.touch(name) && is_half_rewritten(before, name, is))
            || before.was_killed_moving(name, of_head);
        if explained && !theirs && !elsewhere && !is_odd {
            moved.push(Moved { name, was, is });
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
    let ids: Vec<u8> = moved.iter().filter_map(|one| one.was).flat_map(|was| was.id.bytes().chain([b'\n'])).collect();
    let mut sizes = if ids.is_empty() { Vec::new() } else { checkout.sizes(&ids)? }.into_iter();
    moved.retain(|one| {
        let is_lost = one.was.is_some() && sizes.next().flatten().is_none();
        if is_lost {
            // The command had git remove its objects, too.
            undone.references_left.push(one.name.to_owned());
        }
        !is_lost
    });
    Ok(moved)
}

/// Tells whether a reference is as an undo that was stopped leaves it while it writes the log: missing, or at an entry of the log.
fn is_half_rewritten(before: &Baseline, name: &str, is: Option<&Reference>) -> bool {
    let kept = || before.kept_log_text(name).unwrap_or_default();
    before.checkout.has_reftable()
        && is.is_none_or(|is| kept().split(|byte| *byte == 0).any(|entry| entry.starts_with(is.id.as_bytes())))
}

/// Keeps the present values and their commits; `false` if there is nothing to keep, or something is missing.
fn keep(before: &Baseline, head: Option<&Head>, moved: &[Moved<'_>], keeping: &mut Keeping) -> Result<bool> {
    let mut bundled: Vec<String> = moved.iter().filter(|one| one.is.is_some()).map(|one| one.name.to_owned()).collect();
    if let Some(head) = head {
        keeping.reference("HEAD", before.head().commit.as_deref(), head.commit.as_deref())?;
        bundled.push("HEAD".to_owned());
    }
    for Moved { name, was, is } in moved {
        keeping.reference(name, was.map(|one| one.id.as_str()), is.map(|one| one.id.as_str()))?;
    }
    Ok(bundled.is_empty()
        || keeping.bundle().exists()
        || before.checkout.bundle(&keeping.bundle(), &bundled, &known(before))?)
}

/// The targets of all references.
fn known(before: &Baseline) -> Vec<String> {
    before.references.iter().map(|one| one.id.clone()).chain(before.head().commit.clone()).collect()
}

fn put_head_back(before: &Baseline, now: &Head) -> Result<()> {
    match (&before.head().branch, &before.head().commit) {
        (Some(branch), _) if now.branch.as_ref() != Some(branch) => before.checkout.point("HEAD", branch),
        (None, Some(commit)) => before.checkout.detach(commit),
        _ => Ok(()),
    }
}

fn put_moved_back(before: &Baseline, moved: &[Moved<'_>]) -> Result<()> {
    let checkout = &before.checkout;
    // First what must go: its name may be in the way of what comes.
    let (gone, others): (Vec<_>, Vec<_>) = moved.iter().partition(|one| one.was.is_none());
    for batch in [gone, others] {
        let (symbolic, plain): (Vec<&Moved<'_>>, Vec<_>) = batch.into_iter().partition(|one| one.is_symbolic());
        let id = |reference: Option<&Reference>| reference.map(|one| one.id.clone());
        let plain: Vec<_> = plain.iter().map(|one| (one.name.to_owned(), id(one.is), id(one.was))).collect();
        checkout.move_references(&plain)?;
        for one in symbolic {
            match one.was.and_then(|was| was.target.as_deref()) {
                Some(target) => checkout.point(one.name, target)?,
                None => checkout.remove_symbolic(one.name)?,
            }
        }
    }
    Ok(())
}

/// A log must not name incomplete commits, over which git's housekeeping would stumble. Git makes such commits if it cannot write,
/// and does not notice.
fn forget_what_is_broken(before: &Baseline, head: Option<&Head>, moved: &[Moved<'_>]) {
    let (checkout, known) = (&before.checkout, known(before));
    // The log of one that was made has gone with it.
    let left = moved.iter().filter(|one| one.was.is_some());
    let left = left.filter_map(|one| Some((one.name, one.is?.id.as_str())));
    let head = head.and_then(|head| Some(("HEAD", head.commit.as_deref()?)));
    for (name, commit) in left.chain(head) {
        // A failure with a log does not stop the rest.
        if checkout.misses_objects(commit, &known).unwrap_or(false) {
            drop(checkout.forget_logged(name, commit));
        }
    }
}

/// The stash is the log of its reference: the log may differ although the reference is the same.
fn put_stash_back(before: &Baseline, traced: &Moves) -> Result<()> {
    let log = before.checkout.common_place(STASH_LOG)?;
    let value = |references: &[Reference]| references.iter().find(|one| one.name == STASH).map(|one| one.id.clone());
    // One that was killed may not have told it.
    let touched = traced.touch(STASH) || before.was_any_killed();
    if !touched || value(&before.checkout.references()?) != value(&before.references) {
        return Ok(());
    }
    let Some((was, mode)) = before.kept_stash()? else {
        // Git writes the log first: there was no stash, and there is none.
        return if before.checkout.has_reftable() { Ok(()) } else { fs::remove_entry(&log) };
    };
    if before.checkout.has_reftable() {
        let is = before.checkout.log_text(STASH)?;
        return if is == was { Ok(()) } else { before.checkout.rewrite_log(STASH, &was) };
    }
    if fs::read_whole(log.path(), MOST_BYTES).unwrap_or_default() == was {
        return Ok(());
    }
    if let Some(directory) = Path::new(STASH_LOG).parent() {
        fs::make_directories(&before.checkout.common_place(&directory.to_string_lossy())?, None)?;
    }
    fs::put_file(&log, mode, None, |file| std::io::Write::write_all(file, &was))
}
