//! The line within this process: its threads and tasks queue here, so that one of them at a time is in the queue that
//! all processes share.
//!
//! # Invariants
//! - Exclusion does not rest on this: it decides who goes on to the kernel's locks, not who gets them.
//! - No owner waits for itself: a request for a lock that its owner holds or waits for, and one that would close a cycle of owners,
//!   fails at once.
//! - A holder of another lock does not wait here, but in the queue on disk: there other processes see its holds, and find the
//!   cycles that go through them.
//! - Nothing is woken or dropped while the table is locked: that could drop a task, and with it a place in this very line.
//!
//! # Limitations
//! A guard counts for the owner that acquired it, wherever it was moved, unless it was adopted there.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    ffi::OsString,
    path::Path,
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
    task::Waker,
    thread::{self, ThreadId},
};

use super::{Mode, owner::Owner, task};
use crate::{
    error::{Error, Result},
    holder::HoldId,
    sys::{self, FileId},
};

/// Something that is locked, under the one name that all paths to it have.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Resource {
    directory: FileId,
    name: OsString,
    /// Everybody has it, shared, who holds anything in a repository: who asks for it again holds something else.
    common: bool,
}

impl Resource {
    pub(super) fn new(directory: &Path, name: OsString, common: bool) -> Result<Self> {
        let metadata = std::fs::metadata(directory).map_err(Error::io("read", directory))?;
        Ok(Self { directory: sys::identity(&metadata), name, common })
    }
}

/// What a request does if others are before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Nothing: it was only tried.
    Try,
    /// Wait.
    Wait,
}

/// A place in the line, given up when dropped.
#[derive(Debug)]
pub(crate) struct LocalTicket {
    number: u64,
    pid: u32,
}

#[derive(Debug)]
struct Entry {
    owner: Owner,
    /// The thread of the request.
    thread: ThreadId,
    what: String,
    resources: Vec<(Resource, Mode)>,
    /// It may go on to the locks that all processes see.
    admitted: bool,
    /// Its hold, once there is one.
    hold: Option<HoldId>,
    /// The environment of commands inside of that hold.
    environment: Vec<(&'static str, OsString)>,
    waker: Option<Waker>,
}

/// The requests for one resource.
#[derive(Debug, Default)]
struct Line {
    all: BTreeMap<u64, Mode>,
    exclusive: BTreeSet<u64>,
}

#[derive(Debug, Default)]
struct Table {
    /// The process that this table is about: the child of a fork finds its parent's.
    pid: u32,
    last: u64,
    entries: BTreeMap<u64, Entry>,
    lines: HashMap<Resource, Line>,
    owners: HashMap<Owner, BTreeSet<u64>>,
}

static TABLE: LazyLock<Mutex<Table>> = LazyLock::new(Mutex::default);

fn table() -> MutexGuard<'static, Table> {
    let mut table = TABLE.lock().unwrap_or_else(PoisonError::into_inner);
    let pid = std::process::id();
    if table.pid != pid {
        // Its wakers belong to the parent, and must not be touched here.
        std::mem::forget(std::mem::take(&mut *table));
        table.pid = pid;
    }
    table
}

impl LocalTicket {
    /// Takes a place at the end; `None` if it only tries and another request is before it.
    ///
    /// # Errors
    /// [`Error::AlreadyHeld`] if it would wait for itself, [`Error::Cycle`] if it would do so through others.
    pub(crate) fn ask(
        what: &str,
        resources: Vec<(Resource, Mode)>,
        manner: Manner,
        owner: Owner,
    ) -> Result<Option<Self>> {
        let mut table = table();
        table.refuse_again(owner, what, &resources)?;
        let others = table.owners.get(&owner);
        let holds = others.is_some_and(|others| others.iter().any(|other| table.entries[other].hold.is_some()));
        if others.is_some() && manner != Manner::Try {
            table.refuse_cycle(owner, what, &resources)?;
        }
        let blockers = table.blockers(u64::MAX, &resources);
        if manner == Manner::Try && !blockers.is_empty() {
            return Ok(None);
        }
        let number = table.last + 1;
        let entry = Entry {
            owner,
            thread: thread::current().id(),
            what: what.to_owned(),
            admitted: holds || blockers.is_empty(),
            resources,
            hold: None,
            environment: Vec::new(),
            waker: None,
        };
        table.add(number, entry);
        Ok(Some(Self { number, pid: table.pid }))
    }

    /// Checks that this thread may be blocked until our turn comes: not where those before us need it.
    ///
    /// # Errors
    /// [`Error::AlreadyHeld`] if they need this thread.
    pub(crate) fn may_block(&self) -> Result<()> {
        if !task::shares_one_thread() {
            return Ok(());
        }
        let (table, here) = (table(), thread::current().id());
        let Some(own) = table.entries.get(&self.number) else { return Ok(()) };
        let blockers = table.blockers(self.number, &own.resources);
        match blockers.iter().map(|number| &table.entries[number]).find(|entry| entry.thread == here) {
            None => Ok(()),
            Some(entry) => Err(Error::AlreadyHeld {
                what: own.what.clone(),
                held: entry.what.clone(),
                by: format!("{}, which cannot go on while this thread is blocked", entry.owner),
            }),
        }
    }

    /// Tells whether it is our turn; if not, `waker` is woken when it is.
    pub(crate) fn has_come(&self, waker: &Waker) -> bool {
        let mut table = table();
        let Some(entry) = table.entries.get_mut(&self.number) else { return true };
        if entry.admitted {
            return true;
        }
        let old = entry.waker.replace(waker.clone());
        drop(table);
        drop(old);
        false
    }

    /// The other holds of our owner.
    pub(crate) fn around(&self) -> Vec<HoldId> {
        let table = table();
        let Some(entry) = table.entries.get(&self.number) else { return Vec::new() };
        let own = table.owners.get(&entry.owner).into_iter().flatten();
        own.filter(|number| **number != self.number).filter_map(|number| table.entries[number].hold.clone()).collect()
    }

    /// The request has its lock now; commands inside of the hold find `environment`.
    pub(crate) fn holds(&self, hold: HoldId, environment: Vec<(&'static str, OsString)>) {
        if let Some(entry) = table().entries.get_mut(&self.number) {
            entry.hold = Some(hold);
            entry.environment = environment;
        }
    }

    /// From now on it belongs to the caller.
    pub(crate) fn adopt(&self) {
        let owner = Owner::current();
        let mut table = table();
        let Some(entry) = table.entries.get_mut(&self.number) else { return };
        entry.thread = thread::current().id();
        let old = std::mem::replace(&mut entry.owner, owner);
        table.disown(old, self.number);
        table.owners.entry(owner).or_default().insert(self.number);
    }
}

/// The variables of the newest hold of the calling task or thread; none if it holds nothing.
pub(crate) fn environment_around() -> Vec<(&'static str, OsString)> {
    let table = table();
    let own = table.owners.get(&Owner::current()).into_iter().flatten();
    let mut held = own.map(|number| &table.entries[number]).filter(|entry| entry.hold.is_some());
    held.next_back().map(|entry| entry.environment.clone()).unwrap_or_default()
}

impl Drop for LocalTicket {
    fn drop(&mut self) {
        if self.pid != std::process::id() {
            return;
        }
        let mut table = table();
        let (left, woken) = table.remove(self.number);
        drop(table);
        drop(left);
        woken.into_iter().for_each(Waker::wake);
    }
}

impl Table {
    fn add(&mut self, number: u64, entry: Entry) {
        self.last = number;
        for (resource, mode) in &entry.resources {
            let line = self.lines.entry(resource.clone()).or_default();
            line.all.insert(number, *mode);
            if *mode == Mode::Exclusive {
                line.exclusive.insert(number);
            }
        }
        self.owners.entry(entry.owner).or_default().insert(number);
        self.entries.insert(number, entry);
    }

    /// Takes somebody out of the line; those whose turn it is then are to be woken.
    fn remove(&mut self, number: u64) -> (Option<Entry>, Vec<Waker>) {
        let Some(entry) = self.entries.remove(&number) else { return (None, Vec::new()) };
        self.disown(entry.owner, number);
        let mut woken = Vec::new();
        for (resource, mode) in &entry.resources {
            let Some(line) = self.lines.get_mut(resource) else { continue };
            line.all.remove(&number);
            line.exclusive.remove(&number);
            if line.all.is_empty() {
                self.lines.remove(resource);
                continue;
            }
            // A shared request was only in the way of an exclusive one, which is the first now.
            let shared = line.all.iter().take_while(|(_, other)| **other == Mode::Shared).map(|(number, _)| *number);
            let shared: Vec<u64> = if *mode == Mode::Exclusive { shared.collect() } else { Vec::new() };
            let first = line.all.keys().next().copied();
            for candidate in shared.into_iter().chain(first) {
                woken.extend(self.admit(candidate));
            }
        }
        (Some(entry), woken)
    }

    /// Lets somebody go on whose turn it is.
    fn admit(&mut self, number: u64) -> Option<Waker> {
        let entry = self.entries.get(&number).filter(|entry| !entry.admitted)?;
        let before = |(resource, mode): &(Resource, Mode)| {
            let line = &self.lines[resource];
            let first = match mode {
                Mode::Exclusive => line.all.keys().next(),
                Mode::Shared => line.exclusive.first(),
            };
            first.is_some_and(|first| *first < number)
        };
        if entry.resources.iter().any(before) {
            return None;
        }
        let entry = self.entries.get_mut(&number)?;
        entry.admitted = true;
        entry.waker.take()
    }

    fn disown(&mut self, owner: Owner, number: u64) {
        if let Some(own) = self.owners.get_mut(&owner) {
            own.remove(&number);
            if own.is_empty() {
                self.owners.remove(&owner);
            }
        }
    }

    /// Those that somebody with this number waits for: who came earlier, or has got it already.
    fn blockers(&self, number: u64, resources: &[(Resource, Mode)]) -> Vec<u64> {
        let mut blockers = BTreeSet::new();
        for (resource, mode) in resources {
            let Some(line) = self.lines.get(resource) else { continue };
            let earlier = |other: &u64| *other < number || self.entries[other].hold.is_some();
            match mode {
                Mode::Exclusive => blockers.extend(line.all.keys().filter(|other| earlier(other))),
                Mode::Shared => blockers.extend(line.exclusive.iter().filter(|other| earlier(other))),
            }
        }
        blockers.remove(&number);
        blockers.into_iter().collect()
    }

    /// Refuses what its owner holds or waits for already.
    fn refuse_again(&self, owner: Owner, what: &str, resources: &[(Resource, Mode)]) -> Result<()> {
        for number in self.owners.get(&owner).into_iter().flatten() {
            let own = &self.entries[number];
            let again = |(resource, mode): &(Resource, Mode)| {
                let same = own.resources.iter().find(|(other, _)| other == resource);
                same.is_some_and(|(other, theirs)| mode.conflicts_with(*theirs) || !other.common)
            };
            if resources.iter().any(again) {
                return Err(Error::AlreadyHeld {
                    what: what.to_owned(),
                    held: own.what.clone(),
                    by: owner.to_string(),
                });
            }
        }
        Ok(())
    }

    /// Refuses to wait for somebody who waits, directly or through others, for what `owner` holds.
    fn refuse_cycle(&self, owner: Owner, what: &str, resources: &[(Resource, Mode)]) -> Result<()> {
        let mut seen = HashSet::new();
        let circle = self.blockers(u64::MAX, resources).into_iter().find_map(|next| self.path(next, owner, &mut seen));
        match circle {
            Some(mut others) => {
                others.insert(0, format!("{owner} waits for {what}"));
                Err(Error::Cycle { what: what.to_owned(), others })
            }
            None => Ok(()),
        }
    }

    /// The way from somebody in the line to `owner`, along those that each waits for.
    fn path(&self, number: u64, owner: Owner, seen: &mut HashSet<u64>) -> Option<Vec<String>> {
        let entry = &self.entries[&number];
        let holds = if entry.hold.is_some() { "holds" } else { "waits for" };
        let told = format!("{} {holds} {}", entry.owner, entry.what);
        if entry.owner == owner {
            return Some(vec![told]);
        }
        if !seen.insert(number) {
            return None;
        }
        // It goes on only when its owner does, who waits for all else that was asked for.
        let waits = self.owners.get(&entry.owner).into_iter().flatten();
        let waits = waits.filter(|other| self.entries[other].hold.is_none());
        let next: Vec<u64> = waits.flat_map(|other| self.blockers(*other, &self.entries[other].resources)).collect();
        let mut path = next.into_iter().find_map(|next| self.path(next, owner, seen))?;
        path.insert(0, told);
        Some(path)
    }
}
