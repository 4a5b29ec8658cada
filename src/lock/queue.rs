//! Keeps the queue of waiters: a strict order of tickets before the kernel's locks.
//!
//! Only the order is decided here, never who holds: the directory can be deleted or filled with garbage by anybody
//! without letting two holders in.
//!
//! # Format
//! - `alloc`: the greatest number given so far, decimal, padded to 20 bytes; locked for the microseconds it takes to
//!   give one. Numbers are microseconds since 1970 or one more than the last, whichever is greater, so that they grow
//!   also after the file was deleted. Fencing numbers come from here, too.
//! - `<number>.<what>`: a ticket, a FIFO whose reading end is open in its owner. `what` is what it asks for: keys with
//!   `s` or `x` behind each, joined by `_`, `*` for too much to fit, or `-` for nothing
//!   (`repoguard wait`). It gets its name only when it is open, so a ticket without a reader is dead. A ticket is also dead if its
//!   recorded process has ended, even if other processes have inherited the descriptor.
//!   Any process that sees a dead ticket removes it.
//! - `<number>.<what>~`: a ticket that was passed, because its owner did not take the lock when its turn had come. The owner
//!   queues anew when it runs again.
//! - `<number>.json`: the request, a [`Holder`] record.
//!
//! A waiter waits for the reader of one smaller conflicting ticket to go, in poll(2): one wake-up an event, no timer,
//! no thread, and nothing left when it is killed.

#[cfg(test)]
mod tests;

use std::{
    io,
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{
    Holder, Mode,
    file::LockFile,
    live::{read_record, same_namespaces},
};
use crate::{
    error::Result,
    fs::{self, Sharing},
    sys::{self, Retry},
};

/// Numbers beyond this are garbage: a clock of the year 38000.
const GREATEST_NUMBER: u64 = 1 << 60;
/// Longest `what` that goes into a file name.
const LONGEST_WHAT: usize = 200;
/// How long to try for `alloc`. It is held for microseconds, but its holder may have been stopped there.
const ALLOCATION: Retry =
    Retry::every(Duration::from_micros(20)).slowing_to(Duration::from_millis(1)).within(Duration::from_secs(1));
/// Most tickets looked at: more can only be garbage.
const MOST_TICKETS: usize = 100_000;
/// Stands for more than [`LONGEST_WHAT`]: it conflicts with everything.
const TOO_MUCH: &str = "*";
/// Stands for nothing at all: it conflicts with nothing.
const NOTHING: &str = "-";
/// Marks a ticket that was passed.
const PASSED: char = '~';

/// The queue of a repository.
#[derive(Debug)]
pub(crate) struct Queue {
    directory: PathBuf,
    sharing: Sharing,
}

/// A place in the queue, given up when dropped.
#[derive(Debug)]
pub(crate) struct Ticket {
    pub(crate) number: u64,
    path: PathBuf,
    record: PathBuf,
    reader: sys::Fd,
}

/// A waiter before us.
pub(crate) struct Predecessor {
    pub(crate) number: u64,
    /// Whether its owner was seen to run. If not, the owner may be unable to take the lock: it lives in another namespace, or
    /// belongs to a user whose processes are hidden.
    pub(crate) runs: bool,
    /// Wakes us when the waiter goes; `None` if we may not open the ticket: then time must wake us.
    pub(crate) writer: Option<sys::Fd>,
}

/// Whether a waiter can take the lock.
enum Condition {
    /// Its process has ended.
    Gone,
    /// Its process is stopped or frozen.
    Halted,
    /// It waits, and its process was seen to run if `runs`.
    Waits { runs: bool, writer: Option<sys::Fd> },
}

/// A ticket as its file name tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    number: u64,
    what: String,
    passed: bool,
}

impl Queue {
    pub(crate) fn new(directory: PathBuf, sharing: Sharing) -> Self {
        Self { directory, sharing }
    }

    /// Takes the exclusive right to give the next number.
    ///
    /// # Errors
    /// [`crate::Error::Io`] if there can be no queue, or if a process was stopped while it had that right.
    pub(crate) fn allocate(&self) -> Result<Allocation> {
        let path = self.directory.join("alloc");
        let file = fs::open_or_create(&path, self.sharing)?;
        let lock = LockFile::new(file, &path)?;
        for _ in ALLOCATION {
            if lock.try_lock(Mode::Exclusive).map_err(crate::Error::io("lock", &path))? {
                return Ok(Allocation { number: clock().max(last_number(&lock) + 1), lock, path });
            }
        }
        Err(crate::Error::io("lock", &path)(io::ErrorKind::TimedOut.into()))
    }

    /// Takes a place at the end. `check` runs when no other request can come between.
    ///
    /// # Errors
    /// The error of `check`, or [`crate::Error::Io`] if the queue cannot be used: then the kernel's queue must do.
    pub(crate) fn enter(&self, request: &Holder, check: impl FnOnce() -> Result<()>) -> Result<Ticket> {
        let what = encode(&request.resources);
        let allocation = self.allocate()?;
        check()?;
        let number = allocation.number;
        let request = Holder { id: number, ..request.clone() };
        let new = self.directory.join(format!(".ticket-{number}"));
        let path = self.directory.join(format!("{number}.{what}"));
        let record = self.directory.join(format!("{number}.json"));
        fs::remove(&new);
        fs::create_fifo(&new, self.sharing)?;
        let reader = sys::open_fifo_reader(&new).map_err(crate::Error::io("open", &new))?;
        let ticket = Ticket { number, path: path.clone(), record: record.clone(), reader };
        fs::write_new(&record, &request.to_record(), self.sharing)?;
        fs::rename(&new, &path)?;
        allocation.give()?;
        Ok(ticket)
    }

    /// The nearest waiter before `number` (before everybody who comes now, with `None`) that conflicts with `resources`, could
    /// take the lock, and is not skipped.
    pub(crate) fn before(
        &self,
        number: Option<u64>,
        resources: &[(String, Mode)],
        skip: &mut dyn FnMut(u64) -> bool,
    ) -> Option<Predecessor> {
        let mut entries = self.conflicting(number, resources);
        entries.reverse();
        entries.into_iter().find_map(|entry| match self.condition(&entry) {
            Condition::Gone => {
                self.remove(&entry);
                None
            }
            Condition::Halted => None,
            Condition::Waits { .. } if skip(entry.number) => None,
            Condition::Waits { runs, writer } => Some(Predecessor { number: entry.number, runs, writer }),
        })
    }

    /// How many tickets before `number` conflict with `resources`, whatever their owner.
    pub(crate) fn count_before(&self, number: u64, resources: &[(String, Mode)]) -> usize {
        self.conflicting(Some(number), resources).len()
    }

    /// Tells whether any waiter conflicts with `resources`, passed ones included.
    pub(crate) fn has_waiters(&self, resources: &[(String, Mode)]) -> bool {
        let what = encode(resources);
        self.scan().0.iter().any(|entry| conflict(&entry.what, &what))
    }

    /// Marks the conflicting tickets before `number` as passed, because their owners did not take a free lock: others stop waiting
    /// for them. With `idle`, also tickets of processes that were seen to run.
    pub(crate) fn pass_before(&self, number: Option<u64>, resources: &[(String, Mode)], idle: bool) {
        for entry in self.conflicting(number, resources) {
            let runs = || matches!(self.condition(&entry), Condition::Waits { runs: true, .. });
            if idle || !runs() {
                // If that is forbidden, the next waiter passes it as well.
                drop(fs::rename(&self.path(&entry), &self.path(&Entry { passed: true, ..entry })));
            }
        }
    }

    /// The tickets before `number` (all, with `None`) that conflict with `resources` and were not passed, in order.
    fn conflicting(&self, number: Option<u64>, resources: &[(String, Mode)]) -> Vec<Entry> {
        let what = encode(resources);
        let (mut entries, litter) = self.scan();
        if litter {
            self.tidy();
        }
        let earlier = |entry: &Entry| number.is_none_or(|number| entry.number < number);
        entries.retain(|entry| !entry.passed && earlier(entry) && conflict(&entry.what, &what));
        entries.sort_by_key(|entry| entry.number);
        entries
    }

    /// All live requests, in order.
    pub(crate) fn requests(&self) -> Vec<Holder> {
        let mut entries = self.scan().0;
        entries.sort_by_key(|entry| entry.number);
        let live = entries.iter().filter(|entry| !matches!(self.condition(entry), Condition::Gone));
        live.map(|entry| self.request(entry.number)).collect()
    }

    /// A descriptor that wakes when the ticket is removed; `None` if it cannot be opened.
    pub(crate) fn end_of(&self, number: u64) -> Option<sys::Fd> {
        let entry = self.scan().0.into_iter().find(|entry| entry.number == number)?;
        sys::open_fifo_writer(&self.path(&entry)).ok().flatten()
    }

    /// Which file a ticket is.
    pub(crate) fn ticket_file(&self, number: u64) -> Option<sys::FileId> {
        let entry = self.scan().0.into_iter().find(|entry| entry.number == number)?;
        fs::identity(&self.path(&entry))
    }

    /// The request of a ticket; only its number is known if the record cannot be read.
    pub(crate) fn request(&self, number: u64) -> Holder {
        let path = self.directory.join(format!("{number}.json"));
        let record = fs::open_record(&path).ok().and_then(|file| read_record(&file));
        record.filter(|record| record.id == number).unwrap_or_else(|| Holder { id: number, ..Holder::default() })
    }

    /// Reads the tickets' names, and whether there is anything that a kill may have left behind.
    fn scan(&self) -> (Vec<Entry>, bool) {
        let (mut entries, mut requests, mut litter) = (Vec::new(), 0, false);
        for name in sys::names(&self.directory).into_iter().take(MOST_TICKETS) {
            match parse(&name) {
                Some(entry) => entries.push(entry),
                None if request_number(&name).is_some() => requests += 1,
                None => litter |= name.starts_with('.'),
            }
        }
        let litter = litter || requests > entries.len();
        (entries, litter)
    }

    /// Removes leftovers of processes that were killed while they made or removed a ticket. Nobody makes a ticket meanwhile.
    fn tidy(&self) {
        // A later caller tidies the rest.
        let Ok(_alone) = self.allocate() else { return };
        let (entries, _) = self.scan();
        for name in sys::names(&self.directory) {
            let orphan =
                request_number(&name).is_some_and(|request| entries.iter().all(|entry| entry.number != request));
            if orphan || name.starts_with(".ticket-") || name.starts_with(".new-") {
                fs::remove(&self.directory.join(name));
            }
        }
    }

    /// The condition of a ticket's owner, as the system shows it.
    fn condition(&self, entry: &Entry) -> Condition {
        let writer = match sys::open_fifo_writer(&self.path(entry)) {
            Ok(Some(writer)) => Some(writer),
            Ok(None) => return Condition::Gone,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Condition::Gone,
            Err(_) => None,
        };
        let request = self.request(entry.number);
        let pid = request.waiter.unwrap_or(request.pid);
        if pid == 0 || !same_namespaces(&request) {
            return Condition::Waits { runs: false, writer };
        }
        match (sys::still_runs(pid, request.boot_ms), sys::is_halted(pid)) {
            (Some(false), _) => Condition::Gone,
            (Some(true), Some(true)) => Condition::Halted,
            // Anybody can name a process that runs: the ticket must be of its user.
            (seen, halted) => {
                let owner = writer.as_ref().and_then(sys::owner_of);
                let is_its_own = owner.is_some() && owner == sys::process_owner(pid);
                Condition::Waits { runs: seen == Some(true) && halted == Some(false) && is_its_own, writer }
            }
        }
    }

    fn remove(&self, entry: &Entry) {
        fs::remove(&self.path(entry));
        fs::remove(&self.directory.join(format!("{}.json", entry.number)));
    }

    fn path(&self, entry: &Entry) -> PathBuf {
        let mark = if entry.passed { String::from(PASSED) } else { String::new() };
        self.directory.join(format!("{}.{}{mark}", entry.number, entry.what))
    }
}

/// The right to give one number, until it is dropped.
pub(crate) struct Allocation {
    pub(crate) number: u64,
    lock: LockFile,
    path: PathBuf,
}

impl Allocation {
    /// Uses the number up.
    pub(crate) fn give(&self) -> Result<()> {
        fs::overwrite(self.lock.file(), &self.path, format!("{:<20}", self.number).as_bytes())
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        self.lock.unlock();
    }
}

impl Ticket {
    /// Tells whether it stands in the queue still: not if it was passed, or removed with the queue's directory.
    pub(crate) fn is_in_place(&self) -> bool {
        fs::identity(&self.path).is_some() && fs::identity(&self.record).is_some()
    }

    /// Overwrites the request: it is made for another process now.
    pub(crate) fn rewrite(&self, request: &Holder) {
        let request = Holder { id: self.number, ..request.clone() };
        // Only for readers of the queue; others see the old process if this fails.
        let file = fs::open(&self.record, true);
        drop(file.and_then(|file| fs::overwrite(&file, &self.record, &request.to_record())));
    }

    /// The descriptor that must die with us.
    pub(crate) fn fd(&self) -> sys::FdRef<'_> {
        sys::fd(&self.reader)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // The name goes first: a waiter that the closing descriptor wakes must not see us any more.
        fs::remove(&self.path);
        let mut passed = self.path.clone().into_os_string();
        passed.push(String::from(PASSED));
        fs::remove(passed.as_ref());
        fs::remove(&self.record);
    }
}

/// The last number in `alloc`; 0 when it is not readable.
fn last_number(alloc: &LockFile) -> u64 {
    let text = fs::read_start(alloc.file(), 20).unwrap_or_default();
    let last = std::str::from_utf8(&text).ok().and_then(|text| text.trim().parse().ok());
    last.filter(|last| *last < GREATEST_NUMBER).unwrap_or(0)
}

/// A number for a hold where none can be allocated.
pub(super) fn clock() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(0)
}

fn encode(resources: &[(String, Mode)]) -> String {
    let words = resources.iter().map(|(key, mode)| {
        let key: String = key.chars().filter(|&c| c != '-').take(9).collect();
        format!("{key}{}", if *mode == Mode::Exclusive { 'x' } else { 's' })
    });
    let what = words.collect::<Vec<_>>().join("_");
    let mark = if what.is_empty() { Some(NOTHING) } else { Some(TOO_MUCH).filter(|_| what.len() > LONGEST_WHAT) };
    mark.map_or(what, str::to_owned)
}

fn conflict(one: &str, other: &str) -> bool {
    if [one, other].contains(&NOTHING) {
        return false;
    }
    if [one, other].contains(&TOO_MUCH) {
        return true;
    }
    one.split('_').any(|a| {
        other.split('_').any(|b| {
            let ((a, mode_a), (b, mode_b)) = (a.split_at(a.len() - 1), b.split_at(b.len() - 1));
            a == b && (mode_a == "x" || mode_b == "x")
        })
    })
}

/// The number of a request's file.
fn request_number(name: &str) -> Option<u64> {
    name.strip_suffix(".json")?.parse().ok()
}

fn parse(name: &str) -> Option<Entry> {
    let (number, what) = name.split_once('.')?;
    let number = number.parse().ok().filter(|number| *number < GREATEST_NUMBER)?;
    let word = |word: &str| word.len() >= 2 && (word.ends_with('s') || word.ends_with('x'));
    let (what, passed) = what.strip_suffix(PASSED).map_or((what, false), |what| (what, true));
    let valid = [NOTHING, TOO_MUCH].contains(&what) || (what != "json" && what.is_ascii() && what.split('_').all(word));
    valid.then(|| Entry { number, what: what.to_owned(), passed })
}
