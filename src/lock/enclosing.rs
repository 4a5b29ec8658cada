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
};

use super::{
    Holder, Mode,
    file::{LockFile, inherited_locks},
    inspect,
    path::{self, DIRECTORY_RECORDS},
    record::Table,
    records::Records,
    request::{PartPlan, Plan},
    token::Token,
};
use crate::{
    env,
    error::{Error, Result},
    holder::{Descent, HoldId},
    repo::{REPO_KEY, Repo},
    sys,
};

/// The holds that this process is inside of.
#[derive(Debug, Default)]
pub(crate) struct EnclosingHolds {
    holds: Vec<Holder>,
}

/// What remains to be asked for.
pub(super) enum Cover {
    /// Everything is held around us.
    Whole,
    /// The plan was reduced to what is not.
    Partly,
}

impl EnclosingHolds {
    /// Finds the hold of the token in the environment, and those around it. Cheap without a token.
    pub(crate) fn by_token(table: Option<&Table>) -> Self {
        let (Some(token), Some(table)) = (env::text(env::TOKEN), table) else { return Self::default() };
        let digest = Token::shown(&token).digest();
        let live = table.live_slots();
        let ours = live.iter().filter(|(_, hold)| hold.token_sha256.as_deref() == Some(&digest));
        let ids = ours.map(|(_, hold)| hold.id).collect();
        Self { holds: with_outer(ids, &live) }
    }

    /// Finds the holds by inherited descriptors and by ancestors; costs a walk through `/proc`.
    pub(crate) fn by_kinship(table: Option<&Table>) -> Self {
        let live = table.map(Table::live_slots).unwrap_or_default();
        if live.is_empty() {
            return Self::default();
        }
        let lineage = Lineage::of_this_process();
        let ours = live.iter().filter(|(slot, hold)| lineage.descends(hold) || !inherited_locks(*slot).is_empty());
        let ids = ours.map(|(_, hold)| hold.id).collect();
        Self { holds: with_outer(ids, &live) }
    }

    /// Adds the holds of another way to know.
    pub(crate) fn join(&mut self, other: Self) {
        let known = self.ids();
        self.holds.extend(other.holds.into_iter().filter(|hold| !known.contains(&hold.id)));
    }

    /// The fencing number of a hold around us; 0 where it has none.
    pub(super) fn outer(&self) -> u64 {
        self.holds.first().map_or(0, |hold| hold.id)
    }

    /// Fencing numbers of all holds around us.
    pub(crate) fn ids(&self) -> Vec<u64> {
        self.holds.iter().map(|hold| hold.id).collect()
    }

    /// The holds of other repositories around us, as far as they can be found: those around the holds of this one, and those of
    /// the repositories that the environment and, if `by_ancestors`, the directories of our ancestors lead to. Then the records
    /// that are there and could not be read. Cheap without a token if not by ancestors.
    pub(super) fn elsewhere(&self, own: &Path, by_ancestors: bool) -> (Vec<HoldId>, Vec<PathBuf>) {
        if !by_ancestors && env::get(env::TOKEN).is_none() {
            return Default::default();
        }
        let outer = |holds: &[Holder]| -> Vec<HoldId> {
            holds.iter().flat_map(|hold| &hold.elsewhere).filter(|hold| hold.records != own).cloned().collect()
        };
        let mut found: HashSet<HoldId> = outer(&self.holds).into_iter().collect();
        let mut unread = Vec::new();
        for records in places_around(by_ancestors).into_iter().filter(|records| records != own) {
            let place = match Records::elsewhere(&records) {
                Ok(Some(place)) => place,
                Ok(None) => continue,
                Err(_) => {
                    unread.push(records);
                    continue;
                }
            };
            let mut around = Self::by_token(Some(&place.table));
            if by_ancestors {
                around.join(Self::by_kinship(Some(&place.table)));
            }
            found.extend(outer(&around.holds));
            found.extend(around.ids().into_iter().map(|id| HoldId { records: records.clone(), id }));
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

/// Tells whether one file of a plan is locked around us without a record: by flock(1), or where no records are kept.
///
/// # Errors
/// [`Error::NeverGranted`] when it is locked shared around us, and asked for exclusively.
pub(super) fn locked_around_us(part: &PartPlan, file: &LockFile, plan: &Plan, table: Option<&Table>) -> Result<bool> {
    let mut modes = inherited_locks(file.id());
    // If the descriptor was closed for us (`flock -o`), the process that took the lock may still be above us. Whom a recorded
    // hold admits, its record says.
    let recorded = inspect::pids(&table.map(Table::live).unwrap_or_default());
    let ancestors: Vec<u32> = sys::ancestors().filter(|pid| !recorded.contains(pid) && wraps_a_command(*pid)).collect();
    let kernel = sys::kernel_locks(&[file.id()]);
    modes.extend(kernel.locks.iter().filter(|lock| ancestors.contains(&lock.pid)).map(|lock| lock.exclusive));
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

/// Tells whether a process locks files for the one command that it then starts: flock(1), or repoguard itself. Any other program
/// may have started what is below it before it took the lock.
fn wraps_a_command(pid: u32) -> bool {
    let called = sys::command_line(pid).and_then(|words| words.into_iter().next());
    let is_flock = called.is_some_and(|called| called.rsplit('/').next() == Some("flock"));
    is_flock || sys::executable(pid).is_some_and(|program| sys::executable(std::process::id()) == Some(program))
}

/// The directories of records of the repositories and paths that this process seems to work in.
fn places_around(by_ancestors: bool) -> BTreeSet<PathBuf> {
    let lock = env::get(env::LOCK_PATH).map(PathBuf::from);
    let of_file = lock.iter().map(|lock| path::records_of_file(lock));
    let locked = lock.as_deref().and_then(Path::parent).map(Path::to_owned);
    let mut directories: BTreeSet<PathBuf> = locked.into_iter().collect();
    if by_ancestors {
        directories.extend(sys::ancestors().filter_map(sys::working_directory));
    }
    let of_directories = directories
        .iter()
        .flat_map(|directory| Repo::records_around(directory).into_iter().chain([directory.join(DIRECTORY_RECORDS)]));
    of_file.chain(of_directories).filter_map(|records| records.canonicalize().ok()).collect()
}

/// This process and its ancestors, nearest first: pid and start of each.
struct Lineage(Vec<(u32, u64)>);

impl Lineage {
    fn of_this_process() -> Self {
        let pids = std::iter::once(std::process::id()).chain(sys::ancestors());
        Self(pids.map_while(|pid| Some((pid, sys::process_state(pid)?.start))).collect())
    }

    /// Tells whether this process descends from one that the record names.
    fn descends(&self, hold: &Holder) -> bool {
        let Some(Descent { command, holder }) = hold.descent.filter(|_| same_namespaces(hold)) else { return false };
        if command.is_some_and(|command| self.0.contains(&command)) {
            return true;
        }
        let above = self.0.iter().skip(1);
        let mut holders = above.filter(|(pid, _)| *pid == hold.pid || Some(*pid) == hold.keeper);
        holder && holders.any(|(pid, _)| sys::still_runs(*pid, hold.boot_ms) == Some(true))
    }
}

/// Tells whether the pids and times of a record mean here what they meant where it was written.
pub(super) fn same_namespaces(hold: &Holder) -> bool {
    sys::can_compare_pids()
        && hold.pid_namespace == sys::pid_namespace()
        && hold.time_namespace == sys::time_namespace()
}

fn with_outer(mut ids: Vec<u64>, live: &[(sys::FileId, Holder)]) -> Vec<Holder> {
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
