//! Finds the holds that this process is inside of, in this repository and in others.
//!
//! There are three proofs, because each can be missing: the token in the environment, an inherited open file that is locked
//! (plain flock(1)'s, too), and an ancestor that the hold's record names. A token counts if its digest stands in the record of a
//! live hold; whether processes can be seen or clocks agree does not matter. A stale or forged token is ignored.
//!
//! Ancestors prove nothing across namespaces, nor for holds that name no process: a program's own holds and those of
//! `repoguard acquire` may have begun after their neighbours.

use std::{
    collections::{BTreeSet, HashSet},
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    Holder, Mode,
    domain::RecordsAround,
    file::{LockFile, inherited_locks},
    live,
    path::{records_of_directory, records_of_file},
    plan::{PartPlan, Plan},
    record::Table,
    records::Records,
    token::Token,
    visit::Visits,
};
use crate::{
    env,
    error::{Error, Result},
    fs::Sharing,
    holder::{Descent, HoldId, REPO_KEY},
    sys::{self, LockId, Retry},
};

/// The holds that this process is inside of.
#[derive(Debug, Default)]
pub(crate) struct EnclosingHolds {
    holds: Vec<Holder>,
    visits: Visits,
}

/// Looks for holds with records that may be rewritten soon, for twice as long as a keeper takes to notice.
fn wait_for(look: impl Fn() -> EnclosingHolds, may_come: impl Fn() -> bool) -> EnclosingHolds {
    const SOON: Retry = Retry::every(Duration::from_millis(20)).within(Duration::from_secs(1));
    let mut found = EnclosingHolds::default();
    SOON.until(|| {
        let goes_on = may_come();
        found = look();
        !found.holds.is_empty() || !goes_on
    });
    found
}

/// How much of a plan the enclosing holds cover.
pub(super) enum Cover {
    /// Everything is held around us.
    Whole,
    /// The plan was reduced to what is not.
    Partly,
}

impl EnclosingHolds {
    fn of(holds: Vec<Holder>) -> Self {
        Self { holds, visits: Visits::default() }
    }

    /// Finds the hold of the token in the environment, and those around it. Cheap without a token.
    pub(crate) fn by_token(table: Option<&Table>) -> Self {
        let (Some(token), Some(table)) = (env::text(env::TOKEN), table) else { return Self::default() };
        let token = Token::shown(&token);
        let live = table.live_slots();
        let ours = live.iter().filter(|(_, hold)| token.is_of(hold));
        let ids = ours.map(|(_, hold)| hold.id).collect();
        Self::of(with_outer(ids, &live))
    }

    /// As [`EnclosingHolds::by_token`], but waits a moment for the hold of a token that was made here and has not ended: if
    /// somebody removed its record, its keeper writes it again. Else we would wait for it.
    pub(super) fn by_token_again(table: Option<&Table>) -> Self {
        let (Some(text), Some(table)) = (env::text(env::TOKEN), table) else { return Self::default() };
        let token = Token::shown(&text);
        let may_come = || token.place() == Some(table.place()) && !table.has_ended(&token);
        wait_for(|| Self::by_token(Some(table)), may_come)
    }

    /// The same of [`EnclosingHolds::by_kinship`], for a hold that has no record.
    pub(super) fn by_kinship_again(table: Option<&Table>) -> Self {
        wait_for(|| Self::by_kinship(table), || table.is_some_and(|table| table.live().is_empty()))
    }

    /// Finds the holds by inherited descriptors and by ancestors; costs a walk through `/proc`.
    pub(crate) fn by_kinship(table: Option<&Table>) -> Self {
        let live = table.map(Table::live_slots).unwrap_or_default();
        if live.is_empty() {
            return Self::default();
        }
        let lineage = Lineage::of_this_process();
        let ours = live
            .iter()
            .filter(|(slot, hold)| lineage.descends(*slot, hold) || !inherited_locks(slot.file, || true).is_empty());
        let ids = ours.map(|(_, hold)| hold.id).collect();
        Self::of(with_outer(ids, &live))
    }

    /// Adds the holds of another way to know.
    pub(crate) fn join(&mut self, other: Self) {
        let known = self.ids();
        self.holds.extend(other.holds.into_iter().filter(|hold| !known.contains(&hold.id)));
        self.visits.join(other.visits);
    }

    /// Enters these holds, so that none ends before this process leaves it. Holds that are over are dropped.
    pub(super) fn enter(&mut self, table: Option<&Table>) {
        let Some(table) = table else { return };
        let visits = &mut self.visits;
        self.holds.retain(|hold| {
            visits.includes(hold.id)
                || table.visit(hold.id).is_some_and(|visit| {
                    visits.add(visit);
                    true
                })
        });
    }

    /// The doors that were entered.
    pub(super) fn into_visits(self) -> Visits {
        self.visits
    }

    /// The fencing number of a hold around us; 0 if it has none.
    pub(super) fn outer(&self) -> u64 {
        self.holds.first().map_or(0, |hold| hold.id)
    }

    /// Fencing numbers of all holds around us.
    pub(crate) fn ids(&self) -> Vec<u64> {
        self.holds.iter().map(|hold| hold.id).collect()
    }

    /// The holds of other repositories around us that can be found: those around the holds of this one, and those of the
    /// repositories that the environment and, with `by_ancestors`, the directories of our ancestors lead to. Then the records that
    /// could not be read. Cheap without a token and without `by_ancestors`.
    pub(super) fn elsewhere(
        &self,
        own: &Path,
        records_around: RecordsAround,
        by_ancestors: bool,
    ) -> (Vec<HoldId>, Vec<PathBuf>) {
        if !by_ancestors && env::get(env::TOKEN).is_none() {
            return Default::default();
        }
        let outer = |holds: &[Holder]| -> Vec<HoldId> {
            holds.iter().flat_map(|hold| &hold.elsewhere).filter(|hold| hold.records != own).cloned().collect()
        };
        let mut found: HashSet<HoldId> = outer(&self.holds).into_iter().collect();
        let mut unread = Vec::new();
        let mut places: HashSet<u32> = HashSet::from([Records::new(own, Sharing::default()).table.place()]);
        for records in places_around(records_around, by_ancestors).into_iter().filter(|records| records != own) {
            let place = match Records::elsewhere(&records) {
                Ok(Some(place)) => place,
                Ok(None) => continue,
                Err(_) => {
                    unread.push(records);
                    continue;
                }
            };
            places.insert(place.table.place());
            let mut around = Self::by_token(Some(&place.table));
            if by_ancestors {
                around.join(Self::by_kinship(Some(&place.table)));
            }
            found.extend(outer(&around.holds));
            found.extend(around.ids().into_iter().map(|id| HoldId { records: records.clone(), id }));
        }
        // The token belongs to a hold of another repository.
        let token = env::text(env::TOKEN).and_then(|token| Token::shown(&token).place());
        if token.is_some_and(|place| by_ancestors && !places.contains(&place)) {
            unread.push(PathBuf::from("the repository of REPOGUARD_TOKEN"));
        }
        (found.into_iter().collect(), unread)
    }

    /// Takes out of the plan what is held around us.
    ///
    /// # Errors
    /// [`Error::NeverGranted`] when what is held around us excludes what is asked for.
    pub(super) fn reduce(&self, plan: &mut Plan) -> Result<Cover> {
        let mut covered = Vec::new();
        for (key, wanted) in &plan.resources {
            for hold in &self.holds {
                let everything = hold.resources.iter().any(|(key, mode)| key == REPO_KEY && *mode == Mode::Exclusive);
                let held = hold.resources.iter().find(|(other, _)| other == key).map(|(_, mode)| *mode);
                match held.or(everything.then_some(Mode::Exclusive)) {
                    Some(mode) if plan.content || mode.covers(*wanted) => covered.push(key.clone()),
                    Some(_) => {
                        let why = if key == REPO_KEY {
                            "everything cannot be locked from inside a part of it"
                        } else {
                            "a shared hold cannot become exclusive"
                        };
                        return Err(Error::NeverGranted { what: plan.what.clone(), held: hold.scope.clone(), why });
                    }
                    None => {}
                }
            }
        }
        plan.resources.retain(|(key, _)| !covered.contains(key));
        plan.parts.retain(|part| !covered.contains(&part.resource));
        Ok(if plan.resources.is_empty() { Cover::Whole } else { Cover::Partly })
    }
}

/// Tells whether one file of a plan is locked around us without a record: by flock(1), or because no records are kept.
///
/// # Errors
/// [`Error::NeverGranted`] when it is locked shared around us, and asked for exclusively.
pub(super) fn locked_around_us(part: &PartPlan, file: &LockFile, plan: &Plan, table: Option<&Table>) -> Result<bool> {
    let is_exclusive = || {
        let is_shared = file.try_lock(Mode::Shared).unwrap_or(true);
        file.unlock();
        !is_shared
    };
    let mut modes = inherited_locks(file.id(), is_exclusive);
    // If the descriptor was closed for us, the process that took the lock may still be above us, and have given it to its child.
    // A recorded hold admits processes by its record.
    let recorded = live::pids(&table.map(Table::live).unwrap_or_default());
    let kernel = sys::kernel_locks(&[file.lock_id()]);
    let mut child = std::process::id();
    for pid in sys::ancestors() {
        let of_it = kernel.locks.iter().filter(|lock| lock.pid == pid && !recorded.contains(&pid));
        let taken: Vec<bool> = of_it.map(|lock| lock.exclusive).collect();
        if !taken.is_empty() && (!sys::locks_of_process(child, file.id()).is_empty() || closes_for(pid, child)) {
            modes.extend(taken);
        }
        child = pid;
    }
    if modes.is_empty() {
        return Ok(false);
    }
    let exclusive = modes.contains(&true);
    if part.mode == Mode::Exclusive && !exclusive && !plan.content {
        let held = format!("`{}`", part.path.display());
        let why = "a shared hold cannot become exclusive";
        return Err(Error::NeverGranted { what: plan.what.clone(), held, why });
    }
    Ok(true)
}

/// Tells whether a process is a flock(1) that keeps the lock from the command that it runs (`-o`), and this child is that command.
/// Another child may have been started before it took the lock.
fn closes_for(pid: u32, child: u32) -> bool {
    let words = sys::command_line(pid).unwrap_or_default();
    let is_flock = words.first().is_some_and(|called| called.rsplit('/').next() == Some("flock"));
    let closes =
        |word: &String| word == "--close" || (word.starts_with('-') && !word.starts_with("--") && word.contains('o'));
    is_flock && words.iter().skip(1).any(closes) && sys::children(pid).into_iter().all(|other| other == child)
}

/// The directories of records of the repositories and paths that this process seems to work in.
fn places_around(records_around: RecordsAround, by_ancestors: bool) -> BTreeSet<PathBuf> {
    let lock = env::get(env::LOCK_PATH).map(PathBuf::from);
    let of_file = lock.iter().map(|lock| records_of_file(lock));
    let locked = lock.as_deref().and_then(Path::parent).map(Path::to_owned);
    let mut directories: BTreeSet<PathBuf> = locked.into_iter().collect();
    if by_ancestors {
        directories.extend(sys::ancestors().filter_map(sys::working_directory));
    }
    let of_directories = directories
        .iter()
        .flat_map(|directory| records_around(directory).into_iter().chain([records_of_directory(directory)]));
    of_file.chain(of_directories).filter_map(|records| records.canonicalize().ok()).collect()
}

/// This process and its ancestors, nearest first: pid and start of each.
struct Lineage(Vec<(u32, u64)>);

impl Lineage {
    fn of_this_process() -> Self {
        let pids = std::iter::once(std::process::id()).chain(sys::ancestors());
        Self(pids.map_while(|pid| Some((pid, sys::process_state(pid)?.start))).collect())
    }

    /// Tells whether this process descends from one that the record of a slot names.
    fn descends(&self, slot: LockId, hold: &Holder) -> bool {
        let Some(descent) = hold.descent.filter(|_| live::same_namespaces(hold)) else { return false };
        self.named_ancestor(hold, descent).is_some_and(|ancestor| is_vouched_for(ancestor, slot, hold))
    }

    fn named_ancestor(&self, hold: &Holder, descent: Descent) -> Option<u32> {
        let command = self.0.iter().position(|process| Some(*process) == descent.command);
        let counts = |at: &usize| {
            let child = at.checked_sub(1).map(|below| self.0[below]);
            // Within a tick of the clock of starts, numbers tell the order.
            let order = |(pid, start): (u32, u64)| (start, pid);
            descent.since.is_none_or(|since| child.is_some_and(|child| order(child) >= order(since)))
        };
        if let Some(at) = command.filter(counts) {
            return Some(self.0[at].0);
        }
        let above = self.0.iter().skip(1).map(|(pid, _)| *pid).filter(|_| descent.holder);
        let mut holders = above.filter(|pid| *pid == hold.pid || Some(*pid) == hold.keeper);
        holders.find(|pid| sys::still_runs(*pid, hold.boot_ms) == Some(true))
    }

    /// The process below another one on the way to this process.
    fn child_of(&self, pid: u32) -> Option<(u32, u64)> {
        self.0.windows(2).find(|pair| pair[1].0 == pid).map(|pair| pair[0])
    }
}

/// The descendants of a process that are inside a hold for it: those that it started no earlier than the child that asks for
/// the lock.
pub(super) fn descent_from(pid: u32) -> Option<Descent> {
    let lineage = Lineage::of_this_process();
    let start = sys::process_state(pid)?.start;
    Some(Descent { command: Some((pid, start)), since: lineage.child_of(pid), holder: false })
}

/// Tells whether a process that a record names has the same owner as a process that holds the record's slot. A forged record
/// can name any process.
fn is_vouched_for(pid: u32, slot: LockId, hold: &Holder) -> bool {
    let owner = sys::process_owner(pid);
    let kernel = sys::kernel_locks(&[slot]);
    let has_slot =
        |pid: u32| kernel.locks.iter().any(|lock| lock.pid == pid) || !sys::locks_of_process(pid, slot.file).is_empty();
    let is_its = |holder: u32| sys::process_owner(holder) == owner;
    let named = [Some(hold.pid), hold.keeper, Some(pid)];
    named.into_iter().flatten().any(|holder| is_its(holder) && has_slot(holder))
        // A watcher that has just been made has not written yet that it is the keeper.
        || sys::descriptor_holders(slot.file).into_iter().any(is_its)
}

fn with_outer(mut ids: Vec<u64>, live: &[(LockId, Holder)]) -> Vec<Holder> {
    let mut holds: Vec<Holder> = Vec::new();
    while let Some(id) = ids.pop() {
        let known = holds.iter().any(|hold| hold.id == id);
        if let Some((_, hold)) = live.iter().find(|(_, hold)| !known && hold.id == id) {
            ids.extend(&hold.inside);
            holds.push(hold.clone());
        }
    }
    holds
}
