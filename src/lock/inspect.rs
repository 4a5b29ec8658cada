//! Inspects holders and waiters without taking a lock that could be in anybody's way.

use std::path::{Path, PathBuf};

use super::{
    Holder, Mode, cycle,
    ended::ended_with_its_container,
    file::LockFile,
    live::{pids_of, same_namespaces},
    plan::{PartPlan, Plan},
    queue::Queue,
    record::Table,
};
use crate::{
    fs,
    holder::{self, PATH_KEY, REPO_KEY, ROOT_KEY},
    sys::{self, FileId, KernelLocks, LockId},
};

/// Whether something is held. "Cannot tell" is never taken for "free".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nobody holds it.
    Free,
    /// Somebody holds it, so that an exclusive request would have to wait.
    Held,
    /// The system does not show enough: holders may live in another pid namespace.
    CannotTell,
}

/// How a lock stands, at one instant.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Inspection {
    /// The resources, in words.
    pub scope: String,
    /// The lock file, or the first of several. It need not exist.
    pub lock: PathBuf,
    /// Whether an exclusive request for it would have to wait for a holder.
    pub state: State,
    /// Everybody who holds anything in this repository, users of flock(1) included.
    pub holders: Vec<Holder>,
    /// Everybody who waits for anything in this repository, in order.
    pub waiters: Vec<Holder>,
    /// Holders that died without releasing; the next acquire cleans up after them.
    pub died: Vec<Holder>,
    /// Holders whose process runs, but who do not hold what their record says: its place was replaced, or it is reached in two ways
    /// between which locks do not count.
    pub astray: Vec<Holder>,
    /// Holders that ended with the container that they ran in, as they should; the next acquire logs them.
    pub ended: Vec<Holder>,
}

impl Plan {
    /// Looks who holds and who waits, in the whole domain. Takes no lock, never blocks, writes nothing.
    pub(crate) fn inspect(self) -> Inspection {
        let (table, queue) = (self.domain.table(), self.domain.queue());
        let (mut state, holders) = look(&self, table.as_ref());
        let astray = table.as_ref().map(Table::astray).unwrap_or_default();
        if state == State::Free && astray.iter().any(|hold| cycle::resources_conflict(&hold.resources, &self.resources))
        {
            state = State::CannotTell;
        }
        if state == State::Free && self.domain.records.as_deref().is_some_and(|records| !locks_work(records)) {
            state = State::CannotTell;
        }
        let unreleased = table.as_ref().map(Table::died).unwrap_or_default();
        let (ended, died) = unreleased.into_iter().partition(ended_with_its_container);
        let mut waiters = queue.as_ref().map(Queue::requests).unwrap_or_default();
        waiters.retain(|waiter| waiter.awaits.is_none());
        let own = self.parts.iter().find(|part| part.resource != REPO_KEY || part.mode == Mode::Exclusive);
        // A request for nothing has at least the part that keeps others from everything.
        let lock = own.or(self.parts.first()).map(|part| part.path.clone()).unwrap_or_default();
        Inspection { lock, scope: self.scope, state, holders, waiters, died, astray, ended }
    }

    /// Whether the requested resources are held, and by whom, as far as the system shows it.
    pub(crate) fn state(&self) -> (State, Vec<Holder>) {
        let (state, mut holders) = look(self, self.domain.table().as_ref());
        // A holder of unknown mode was found because it has one of the files.
        holders.retain(|hold| hold.mode.is_none() || cycle::resources_conflict(&hold.resources, &self.resources));
        (state, holders)
    }

    /// The holders of the requested resources, and their waiters.
    pub(crate) fn look(&self) -> (Vec<Holder>, Vec<Holder>) {
        let (table, queue) = (self.domain.table(), self.domain.queue());
        in_the_way(self.parts.iter(), &self.resources, table.as_ref(), queue.as_ref(), None)
    }
}

/// Tells whether the file system has locks, tried with a lock that nobody else takes. `false` if a directory cannot be locked
/// there.
fn locks_work(records: &Path) -> bool {
    let Ok(directory) = LockFile::open_anchor(records) else { return true };
    let locked = directory.try_lock(Mode::Shared);
    directory.unlock();
    locked.err().is_none_or(|error| sys::cannot_lock_descriptor(&error))
}

/// All holders here, and whether one of them holds the requested resources.
fn look(plan: &Plan, table: Option<&Table>) -> (State, Vec<Holder>) {
    let slots = table.map(Table::live_slots).unwrap_or_default();
    let known = Known::of(&slots);
    let mut holders: Vec<Holder> = slots.into_iter().map(|(slot, hold)| with_heirs(hold, slot.file)).collect();
    let mut held = holders.iter().any(|hold| cycle::resources_conflict(&hold.resources, &plan.resources));
    let files: Vec<Lockable> = plan.parts.iter().filter_map(Lockable::new).collect();
    let kernel = kernel_locks(&files);
    let unrecorded = unrecorded(&files, &kernel, &known);
    held |= unrecorded.iter().any(|hold| cycle::resources_conflict(&hold.resources, &plan.resources));
    holders.extend(unrecorded);
    if !held && !kernel.complete {
        // The descriptors of the processes that took or inherited the lock complete the kernel's table.
        for file in files.iter().filter(|file| file.mode == Mode::Exclusive) {
            for pid in sys::descriptor_holders(file.id.file) {
                held = true;
                if holders.iter().all(|hold| hold.pid != pid) {
                    holders.push(file.holder(pid, None));
                }
            }
        }
    }
    let hidden = || !sys::sees_all_locks() && files.iter().any(|file| sys::outsiders_may_use(&file.path));
    let state = match held {
        true => State::Held,
        false if !kernel.named || hidden() || plan.parts.iter().any(is_no_lock) => State::CannotTell,
        false => State::Free,
    };
    (state, holders)
}

/// Tells whether its path holds something that cannot be locked, or that this user may not look at.
fn is_no_lock(part: &PartPlan) -> bool {
    let found = std::fs::symlink_metadata(&part.path);
    let is_odd = found.map_or_else(|error| !fs::is_missing(&error), |metadata| !metadata.is_file());
    is_odd && !part.anchor && !part.optional
}

/// Tells whether a file is locked, without trying its lock; `None` if the system does not show that.
pub(crate) fn is_locked(path: &Path) -> Option<bool> {
    let file = sys::lock_id_at(path)?;
    let kernel = sys::kernel_locks(&[file]);
    let seen = !kernel.locks.is_empty() || (!kernel.complete && !sys::descriptor_holders(file.file).is_empty());
    (seen || kernel.complete).then_some(seen)
}

/// The holders of the requested resources, and the waiters before the number `before`, or all of them.
pub(super) fn in_the_way<'a>(
    parts: impl Iterator<Item = &'a PartPlan>,
    resources: &[(String, Mode)],
    table: Option<&Table>,
    queue: Option<&Queue>,
    before: Option<u64>,
) -> (Vec<Holder>, Vec<Holder>) {
    let mut slots = table.map(Table::live_slots).unwrap_or_default();
    slots.retain(|(_, hold)| cycle::resources_conflict(&hold.resources, resources));
    let known = Known::of(&slots);
    let mut holders: Vec<Holder> = slots.into_iter().map(|(slot, hold)| with_heirs(hold, slot.file)).collect();
    let files: Vec<Lockable> = parts.filter_map(Lockable::new).collect();
    let mut unrecorded = unrecorded(&files, &kernel_locks(&files), &known);
    unrecorded.retain(|hold| cycle::resources_conflict(&hold.resources, resources));
    holders.extend(unrecorded);
    let mut ahead = queue.map(Queue::requests).unwrap_or_default();
    ahead.retain(|request| {
        before.is_none_or(|number| request.id < number) && cycle::resources_conflict(&request.resources, resources)
    });
    (holders, ahead)
}

/// A file that requests lock.
pub(super) struct Lockable {
    key: String,
    path: PathBuf,
    id: LockId,
    pub(super) mode: Mode,
    /// Locked by repoguard only: an anchor, or a file without records.
    ours_alone: bool,
}

impl Lockable {
    /// `None` when the file does not exist: then nobody holds it.
    pub(super) fn new(part: &PartPlan) -> Option<Self> {
        Some(Self {
            key: part.resource.clone(),
            path: part.path.clone(),
            id: sys::lock_id_at(&part.path)?,
            mode: part.mode,
            ours_alone: part.anchor || part.resource == ROOT_KEY,
        })
    }

    /// A process that holds this file without a record, as the system shows it.
    fn holder(&self, pid: u32, mode: Option<Mode>) -> Holder {
        let uid = sys::process_owner(pid);
        let now = holder::unix_ms(std::time::SystemTime::now());
        let age = sys::process_state(pid).map(|state| sys::boot_ms().saturating_sub(state.started_ms));
        let directory = sys::working_directory(pid).unwrap_or_default();
        Holder {
            foreign: !self.ours_alone,
            pid,
            pid_namespace: sys::pid_namespace(),
            boot_ms: sys::boot_ms(),
            host: sys::host(),
            user: uid.map_or_else(String::new, |uid| sys::user_name(uid).unwrap_or_else(|| uid.to_string())),
            command: sys::command_line(pid).map_or_else(String::new, |words| holder::readable_command(&words)),
            directory: holder::readable(&directory.to_string_lossy()),
            scope: match self.key.as_str() {
                PATH_KEY | REPO_KEY => self.key.clone(),
                _ => "worktree".to_owned(),
            },
            mode,
            requested_ms: age.map_or(0, |age| now.saturating_sub(age)),
            resources: mode.map(|mode| (self.key.clone(), mode)).into_iter().collect(),
            ..Holder::default()
        }
    }
}

/// The processes that hold any of these files without a record, as the kernel shows them: each once, with all that it holds.
fn unrecorded(files: &[Lockable], kernel: &KernelLocks, known: &Known) -> Vec<Holder> {
    let mut found: Vec<(FileId, Holder)> = Vec::new();
    for file in files {
        for lock in kernel.locks.iter().filter(|lock| lock.file == file.id.file && !known.has(lock, file)) {
            let mode = if lock.exclusive { Mode::Exclusive } else { Mode::Shared };
            let next = file.holder(lock.pid, Some(mode));
            match found.iter_mut().find(|(_, hold)| hold.pid == lock.pid) {
                Some((_, hold)) => join(hold, next),
                None => found.push((file.id.file, next)),
            }
        }
    }
    found.into_iter().map(|(file, hold)| with_heirs(hold, file)).collect()
}

/// The holders that have records, as the kernel's table names them.
struct Known {
    pids: Vec<u32>,
    /// Exclusive holds of processes whose pids have no meaning here.
    elsewhere: Vec<String>,
}

impl Known {
    fn of(slots: &[(LockId, Holder)]) -> Self {
        let mut pids = slots.iter().flat_map(|(_, hold)| pids_of(hold)).collect::<Vec<_>>();
        let (slots, holds): (Vec<_>, Vec<_>) =
            slots.iter().filter(|(_, hold)| !same_namespaces(hold)).map(|(slot, hold)| (*slot, hold)).unzip();
        if !slots.is_empty() {
            // The process that has locked a hold's slot is its holder.
            pids.extend(sys::kernel_locks(&slots).locks.iter().map(|lock| lock.pid));
        }
        let alone = |(_, mode): &&(String, Mode)| *mode == Mode::Exclusive;
        let elsewhere = holds.iter().flat_map(|hold| hold.resources.iter().filter(alone)).map(|(key, _)| key.clone());
        Self { pids, elsewhere: elsewhere.collect() }
    }

    /// Tells whether a lock on a file is that of one of them.
    fn has(&self, lock: &sys::KernelLock, file: &Lockable) -> bool {
        self.pids.contains(&lock.pid) || (lock.exclusive && self.elsewhere.contains(&file.key))
    }
}

/// Adds what a process holds of another file. Everybody holds the repository: the scope names the rest, if there is any.
fn join(hold: &mut Holder, next: Holder) {
    if hold.scope == REPO_KEY && hold.mode == Some(Mode::Shared) {
        (hold.scope, hold.mode) = (next.scope, next.mode);
    }
    hold.foreign &= next.foreign;
    for resource in next.resources {
        if !hold.resources.contains(&resource) {
            hold.resources.push(resource);
        }
    }
}

/// The kernel's view of all these files.
pub(super) fn kernel_locks(files: &[Lockable]) -> KernelLocks {
    sys::kernel_locks(&files.iter().map(|file| file.id).collect::<Vec<_>>())
}

pub(super) fn runs_this_program(pid: u32) -> bool {
    let own = sys::executable(std::process::id());
    own.is_some() && sys::executable(pid) == own
}

/// Adds the processes that keep the lock of a file if those that took it have ended.
fn with_heirs(mut hold: Holder, file: FileId) -> Holder {
    let dead = |pid| sys::still_runs(pid, hold.boot_ms) == Some(false);
    if hold.pid_namespace == sys::pid_namespace() && [Some(hold.pid), hold.keeper].into_iter().flatten().all(dead) {
        let heirs = sys::descriptor_holders(file);
        if let Some(keeper) = heirs.iter().copied().find(|pid| runs_this_program(*pid)) {
            // It has not written yet that it holds, or its record was removed and is written again.
            (hold.foreign, hold.keeper) = (false, Some(keeper));
            return hold;
        }
        hold.inherited_by = Some(heirs);
    }
    hold
}
