//! Whose turn is it? A strict queue of tickets before the kernel's locks.
//!
//! Only the order is decided here, never who holds: the directory can be deleted or filled with garbage by anybody
//! without letting two holders in.
//!
//! # Format
//! - `alloc`: the greatest number given so far, decimal, padded to 20 bytes; locked for the microseconds it takes to
//!   give one. Numbers are microseconds since 1970 or one more than the last, whichever is greater, so that they grow
//!   also after the file was deleted. Fencing numbers come from here, too.
//! - `<number>.<what>`: a ticket, a FIFO whose reading end is open in its owner. `what` is what it asks for: keys with
//!   `s` or `x` behind each, joined by `_`, or `*` for too much to fit. It is renamed to its name only when it is open,
//!   so a ticket without a reader is a dead one, and whoever sees it removes it.
//! - `<number>.json`: the request, a [`Holder`] record.
//!
//! A waiter waits for the reader of one smaller conflicting ticket to go, in poll(2): one wake-up an event, no timer,
//! no thread, and nothing left when it is killed.

use std::{
    io,
    path::PathBuf,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use super::{Holder, Mode, file::LockFile};
use crate::{
    error::Result,
    fs::{self, Sharing},
    holder::RECORD_BYTES,
    sys,
};

/// Numbers beyond this are garbage: a clock of the year 38000.
const GREATEST_NUMBER: u64 = 1 << 60;
/// Longest `what` that goes into a file name.
const LONGEST_WHAT: usize = 200;
/// How long to try for `alloc`. It is held for microseconds, but its holder may have been stopped there.
const ALLOC_PATIENCE: Duration = Duration::from_secs(2);

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

/// Somebody before us: wakes us when they go.
pub(crate) struct Predecessor {
    pub(crate) number: u64,
    /// `None` where we may not open the ticket: then time must wake us.
    pub(crate) writer: Option<sys::Fd>,
}

/// A ticket as its file name tells it.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    number: u64,
    what: String,
}

impl Queue {
    pub(crate) fn new(directory: PathBuf, sharing: Sharing) -> Self {
        Self { directory, sharing }
    }

    /// A number greater than all before.
    pub(crate) fn next_number(&self) -> u64 {
        self.with_alloc(|last| Ok((last, ()))).map_or_else(|_| clock(), |(number, ())| number)
    }

    /// Takes a place at the end. `check` runs when no other request can come between.
    ///
    /// # Errors
    /// What `check` returns, or [`crate::Error::Io`] where the queue cannot be used: then the kernel's queue must do.
    pub(crate) fn enter(&self, request: &Holder, check: impl FnOnce() -> Result<()>) -> Result<Ticket> {
        let what = encode(&request.resources);
        let (_, ticket) = self.with_alloc(|number| {
            check()?;
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
            Ok((number, ticket))
        })?;
        Ok(ticket)
    }

    /// The nearest live ticket before `number` (before everybody who comes now, with `None`) that conflicts with
    /// `resources` and is not skipped.
    pub(crate) fn before(
        &self,
        number: Option<u64>,
        resources: &[(String, Mode)],
        skip: &mut dyn FnMut(u64) -> bool,
    ) -> Option<Predecessor> {
        let what = encode(resources);
        let (entries, litter) = self.scan();
        if litter {
            self.tidy();
        }
        let mut entries: Vec<Entry> = entries
            .into_iter()
            .filter(|entry| number.is_none_or(|number| entry.number < number) && conflict(&entry.what, &what))
            .collect();
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.number));
        entries.into_iter().find_map(|entry| {
            let alive = self.alive(&entry)?;
            (!skip(entry.number)).then_some(alive)
        })
    }

    /// All live requests, in order.
    pub(crate) fn requests(&self) -> Vec<Holder> {
        let mut entries = self.scan().0;
        entries.sort_by_key(|entry| entry.number);
        entries.iter().filter(|entry| self.is_alive(entry)).map(|entry| self.request(entry.number)).collect()
    }

    /// The request of a ticket; only its number is known where the record cannot be read.
    pub(crate) fn request(&self, number: u64) -> Holder {
        let path = self.directory.join(format!("{number}.json"));
        let record = fs::read_small(&path, RECORD_BYTES).and_then(|record| Holder::from_record(&record));
        record.filter(|record| record.id == number).unwrap_or_else(|| Holder { id: number, ..Holder::default() })
    }

    /// Reads the tickets' names, and whether there is anything that a kill may have left behind.
    fn scan(&self) -> (Vec<Entry>, bool) {
        let (mut entries, mut requests, mut litter) = (Vec::new(), 0, false);
        for name in sys::names(&self.directory) {
            match parse(&name) {
                Some(entry) => entries.push(entry),
                None if request_number(&name).is_some() => requests += 1,
                None => litter |= name.starts_with('.'),
            }
        }
        let litter = litter || requests > entries.len();
        (entries, litter)
    }

    /// Removes what was left by processes killed while they made or gave up a ticket. Nobody makes one meanwhile.
    fn tidy(&self) {
        // What cannot be tidied now is tidied by the next one.
        let _tidied = self.with_alloc(|number| {
            let (entries, _) = self.scan();
            for name in sys::names(&self.directory) {
                let orphan =
                    request_number(&name).is_some_and(|request| entries.iter().all(|entry| entry.number != request));
                if orphan || name.starts_with(".ticket-") || name.starts_with(".new-") {
                    fs::remove(&self.directory.join(name));
                }
            }
            Ok((number, ()))
        });
    }

    fn is_alive(&self, entry: &Entry) -> bool {
        !matches!(sys::open_fifo_writer(&self.path(entry)), Ok(None)) && self.path(entry).exists()
    }

    /// `None` when the ticket is dead, and then it is removed.
    fn alive(&self, entry: &Entry) -> Option<Predecessor> {
        let path = self.path(entry);
        let alive = |writer| Some(Predecessor { number: entry.number, writer });
        match sys::open_fifo_writer(&path) {
            Ok(Some(writer)) => alive(Some(writer)),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => alive(None),
            Ok(None) => {
                fs::remove(&path);
                fs::remove(&self.directory.join(format!("{}.json", entry.number)));
                None
            }
            Err(_) => None,
        }
    }

    fn path(&self, entry: &Entry) -> PathBuf {
        self.directory.join(format!("{}.{}", entry.number, entry.what))
    }

    /// Runs `action` with the next number while nobody else can get one; then records the number it returns.
    fn with_alloc<T>(&self, action: impl FnOnce(u64) -> Result<(u64, T)>) -> Result<(u64, T)> {
        let path = self.directory.join("alloc");
        let file = fs::open_or_create(&path, self.sharing)?;
        let lock = LockFile::new(file, &path)?;
        let patience = Instant::now() + ALLOC_PATIENCE;
        let mut pause = Duration::from_micros(20);
        while !lock.try_lock(Mode::Exclusive).map_err(crate::Error::io("lock", &path))? {
            if Instant::now() > patience {
                return Err(crate::Error::io("lock", &path)(io::ErrorKind::TimedOut.into()));
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(1));
        }
        let result = action(clock().max(last_number(&lock) + 1)).and_then(|(number, value)| {
            fs::overwrite(lock.file(), &path, format!("{number:<20}").as_bytes())?;
            Ok((number, value))
        });
        lock.unlock();
        result
    }
}

impl Ticket {
    /// Overwrites the request: it is made for another process now.
    pub(crate) fn rewrite(&self, request: &Holder) {
        let request = Holder { id: self.number, ..request.clone() };
        // Only for those who look; who cannot be told sees the old process.
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
        // Out of sight first: who is woken by the closing descriptor must not see us any more.
        fs::remove(&self.path);
        fs::remove(&self.record);
    }
}

/// Tells whether who made a request is stopped (Ctrl-Z), so that others need not wait for it.
pub(crate) fn is_stopped(request: &Holder) -> bool {
    request.pid_namespace == sys::pid_namespace() && sys::process_state(request.pid).is_some_and(|state| state.stopped)
}

/// The last number in `alloc`; 0 when it is not readable.
fn last_number(alloc: &LockFile) -> u64 {
    let text = fs::read_start(alloc.file(), 20).unwrap_or_default();
    let last = std::str::from_utf8(&text).ok().and_then(|text| text.trim().parse().ok());
    last.filter(|last| *last < GREATEST_NUMBER).unwrap_or(0)
}

fn clock() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(0)
}

fn encode(resources: &[(String, Mode)]) -> String {
    let words = resources.iter().map(|(key, mode)| {
        let key: String = key.chars().filter(|&c| c != '-').take(9).collect();
        format!("{key}{}", if *mode == Mode::Exclusive { 'x' } else { 's' })
    });
    let what = words.collect::<Vec<_>>().join("_");
    if what.len() > LONGEST_WHAT { "*".to_owned() } else { what }
}

fn conflict(one: &str, other: &str) -> bool {
    if one == "*" || other == "*" {
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
    let valid = what == "*" || (what != "json" && what.is_ascii() && what.split('_').all(word));
    valid.then(|| Entry { number, what: what.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources(list: &[(&str, Mode)]) -> Vec<(String, Mode)> {
        list.iter().map(|(key, mode)| ((*key).to_owned(), *mode)).collect()
    }

    #[test]
    fn what_survives_the_file_name() {
        let what = encode(&resources(&[("repo", Mode::Shared), ("w-0123456789abcdef", Mode::Exclusive)]));
        assert_eq!(what, "repos_w01234567x");
        assert_eq!(parse(&format!("17.{what}")), Some(Entry { number: 17, what }));
    }

    #[test]
    fn garbage_is_no_ticket() {
        for name in
            ["17.json", "alloc", ".ticket-17", "x.repos", "17.", "17._", "99999999999999999999.repos", "17.reposé"]
        {
            assert_eq!(parse(name), None, "{name}");
        }
    }

    #[test]
    fn only_same_resources_conflict_and_only_when_one_is_exclusive() {
        assert!(conflict("repos_wx", "repos_wx"));
        assert!(conflict("repox", "repos_wx"));
        assert!(!conflict("repos_wx", "repos_w01234567x"));
        assert!(!conflict("repos_ws", "repos_ws"));
        assert!(conflict("*", "repos_ws"));
    }

    #[test]
    fn numbers_grow_also_when_the_file_is_gone() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let queue = Queue::new(directory.path().to_owned(), Sharing::default());
        let first = queue.next_number();
        let second = queue.next_number();
        fs::remove(&directory.path().join("alloc"));
        let third = queue.next_number();
        assert!(first < second && second < third, "{first} {second} {third}");
    }
}
