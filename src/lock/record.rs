//! Records the holders of each lock in a small table: one slot a hold, alive as long as its file is locked.
//!
//! # Format
//! `<n>`: a [`Holder`] record, overwritten in place. Keeper and command inherit the slot's lock like the hold's own locks. So a
//! locked slot is a live hold, whichever of them still lives, and an unlocked slot without a `released_ms` belongs to a dead
//! holder. Readers test with a shared lock: at worst a new holder takes the next slot instead.
//!
//! A token counts if its digest stands in an unreleased record whose slot is locked. So a newcomer marks the record of a dead
//! hold as released under a *shared* lock of its slot, which readers still take for free, before it locks the slot for itself:
//! else an orphan of the dead hold would be inside beside it.
//!
//! An unreleased record in a free slot whose process still runs is a contradiction. If that process has locked the same slot by
//! another path, this repository is reached in two ways between which locks do not count, for example directly and through FUSE:
//! then nobody may get the lock here. If it has locked a slot of another repository, this one is a copy. Else the lock's place was
//! replaced, and the process does not know yet that it lost the lock.

use std::path::{Path, PathBuf};

use super::{
    Holder, Mode,
    file::LockFile,
    live::{is_hold, read, read_record, same_namespaces},
    token::Token,
    visit::{Door, Visit, those_inside},
};
use crate::{
    error::Result,
    fs::{self, PASSING, Sharing},
    holder,
    sys::{self, LockId},
};

/// Slots from here on are removed when they are released, so that the table stays short.
const KEEP_SLOTS: usize = 8;
/// Most slots looked at: more can only be garbage.
const MOST_SLOTS: usize = 100_000;

/// The table of a repository.
#[derive(Debug)]
pub(crate) struct Table {
    directory: PathBuf,
    sharing: Sharing,
}

/// A slot that is ours.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) lock: LockFile,
    path: PathBuf,
    number: usize,
    sharing: Sharing,
    /// Once nobody may come in any more.
    door: Option<Door>,
}

/// The findings of a claim.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Other live holds.
    pub(crate) live: Vec<Holder>,
    /// Holders that died without releasing, not reported yet.
    pub(crate) died: Vec<Holder>,
    /// Holders that still run, and whose lock's place was replaced.
    pub(crate) displaced: Vec<Holder>,
    /// Holders that still run, and hold the lock at another path, which does not exclude us.
    pub(crate) elsewhere: Vec<(Holder, PathBuf)>,
}

impl Table {
    pub(crate) fn new(directory: PathBuf, sharing: Sharing) -> Self {
        Self { directory, sharing }
    }

    /// Tells this place from others, so that a token shows its place: not unique, and 0 if it cannot be read.
    pub(super) fn place(&self) -> u32 {
        let place = self.directory.ancestors().nth(2).and_then(|place| std::fs::metadata(place).ok());
        let id = place.map(|metadata| sys::identity(&metadata));
        #[expect(clippy::cast_possible_truncation, reason = "as much as fits tells them apart")]
        id.map_or(0, |id| id.inode as u32 ^ (id.device as u32).rotate_left(16))
    }

    /// Takes the first free slot, and looks at all others.
    pub(crate) fn claim(&self) -> Result<(Slot, Seen)> {
        let mut seen = Seen::default();
        let mut ours = None;
        for number in self.numbers() {
            let path = self.path(number);
            let Ok(lock) = fs::open(&path, true).and_then(|file| LockFile::new(file, &path)) else { continue };
            if bury(&lock, &path, &mut seen)? && ours.is_none() && own(&lock, &path) {
                ours = Some(Slot { lock, path, number, sharing: self.sharing, door: None });
            } else {
                lock.unlock();
            }
        }
        match ours {
            Some(slot) => Ok((slot, seen)),
            None => self.add(&mut seen).map(|slot| (slot, seen)),
        }
    }

    /// All live holds.
    pub(crate) fn live(&self) -> Vec<Holder> {
        self.live_slots().into_iter().map(|(_, record)| record).collect()
    }

    /// All live holds, with the identity of their slots' files.
    pub(crate) fn live_slots(&self) -> Vec<(LockId, Holder)> {
        self.records()
            .into_iter()
            .filter(|(_, record, locked)| *locked && record.released_ms.is_none())
            .map(|(id, record, _)| (id, record))
            .collect()
    }

    /// Enters the hold with this number; `None` if it is over.
    pub(super) fn visit(&self, id: u64) -> Option<Visit> {
        let slot = |number| {
            let path = self.path(number);
            let slot = LockFile::new(fs::open(&path, false).ok()?, &path).ok()?;
            is_hold(&slot, id).then_some((slot, path))
        };
        let (slot, path) = self.numbers().into_iter().find_map(slot)?;
        Visit::enter(slot, &path, id, self.sharing)
    }

    /// Tells whether a hold with this token has ended, if its record is still there.
    pub(super) fn has_ended(&self, token: &Token) -> bool {
        self.records()
            .iter()
            .any(|(_, record, locked)| token.is_of(record) && (record.released_ms.is_some() || !locked))
    }

    /// Tells whether a hold with this token has ended, and was not exclusive to the end.
    pub(super) fn was_lost(&self, token: &Token) -> bool {
        self.records().iter().any(|(_, record, _)| token.is_of(record) && record.lost)
    }

    /// Holders that died without releasing and were not found by anybody yet.
    pub(crate) fn died(&self) -> Vec<Holder> {
        self.records()
            .into_iter()
            .filter(|(_, record, locked)| !*locked && record.released_ms.is_none() && !still_runs(record))
            .map(|(_, record, _)| record)
            .collect()
    }

    /// Holders whose process runs, but who do not hold what their record says: not here, at least.
    pub(crate) fn astray(&self) -> Vec<Holder> {
        self.records()
            .into_iter()
            .filter(|(_, record, locked)| !*locked && record.released_ms.is_none() && still_runs(record))
            .filter(|(id, record, _)| {
                let other = locked_slot(record).and_then(|other| fs::identity(&other));
                // Another file on the same device: this repository is a copy of the one that is held.
                other.is_none_or(|other| other.device != id.file.device)
            })
            .map(|(_, record, _)| record)
            .collect()
    }

    /// All readable records, and whether their slot is locked.
    fn records(&self) -> Vec<(LockId, Holder, bool)> {
        let slot = |number| {
            let path = self.path(number);
            let slot = LockFile::new(fs::open(&path, false).ok()?, &path).ok()?;
            // Before the test, because the holder of the slot writes the record.
            let locked = !slot.try_lock(Mode::Shared).unwrap_or(false);
            let record = read(&slot);
            slot.unlock();
            Some((slot.lock_id(), record?, locked))
        };
        self.numbers().into_iter().filter_map(slot).collect()
    }

    /// The first number that nobody has taken.
    ///
    /// # Errors
    /// [`crate::Error::Io`] if no file can be made here that is ours alone.
    fn add(&self, seen: &mut Seen) -> Result<Slot> {
        /// More holders at once are none: the file system does not work as it should.
        const MORE: usize = 1000;
        let mut number = 0;
        let most = self.numbers().len() + MORE;
        loop {
            if number > most {
                return Err(crate::Error::io("claim a record in", &self.directory)(std::io::ErrorKind::Other.into()));
            }
            let path = self.path(number);
            let file = fs::open_or_create(&path, self.sharing);
            if let Ok(file) = file {
                let lock = LockFile::new(file, &path)?;
                let mut again = Seen::default();
                if bury(&lock, &path, &mut again)? && own(&lock, &path) {
                    seen.died.append(&mut again.died);
                    seen.displaced.append(&mut again.displaced);
                    return Ok(Slot { lock, path, number, sharing: self.sharing, door: None });
                }
                lock.unlock();
            } else if number >= KEEP_SLOTS {
                file?;
            }
            number += 1;
        }
    }

    fn numbers(&self) -> Vec<usize> {
        let numbers = sys::names(&self.directory).into_iter().filter_map(|name| name.parse().ok());
        let mut numbers: Vec<usize> = numbers.filter(|&number| number < MOST_SLOTS).collect();
        numbers.sort_unstable();
        numbers
    }

    fn path(&self, number: usize) -> PathBuf {
        self.directory.join(number.to_string())
    }
}

impl Slot {
    /// Another slot, if the path does not name this one any more: somebody removed our files.
    pub(crate) fn replacement(&self) -> Option<Self> {
        if self.lock.is_at(&self.path) {
            return None;
        }
        Table::new(self.path.parent()?.to_owned(), self.sharing).add(&mut Seen::default()).ok()
    }

    /// Overwrites the slot's record.
    pub(crate) fn write(&self, record: &Holder) -> Result<()> {
        fs::overwrite(self.lock.file(), &self.path, &record.to_record())
    }

    /// Lets nobody in any more who would work inside of this hold; `false` if somebody does.
    pub(super) fn close(&mut self) -> bool {
        if self.door.is_none() {
            self.door = Door::close(&self.path, self.sharing);
        }
        self.door.is_some()
    }

    /// The processes inside of this hold that the system shows.
    pub(super) fn those_inside(&self) -> Vec<u32> {
        those_inside(&self.path)
    }

    /// Releases the slot; its record stays if the process that released it is to `learn` from it.
    pub(crate) fn release(&self, learn: bool) {
        let remove = !learn && self.number >= KEEP_SLOTS && self.lock.is_at(&self.path);
        if remove {
            fs::remove(&self.path);
        }
        self.lock.unlock();
        if let Some(door) = &self.door {
            door.give(remove);
        }
    }
}

/// Tells whether no live hold has a slot, which is locked shared then; the record of one that died is marked as released.
fn bury(slot: &LockFile, path: &Path, seen: &mut Seen) -> Result<bool> {
    let is_free = slot.try_lock(Mode::Shared).map_err(crate::Error::io("lock", path))?;
    let record = read(slot).filter(|record| record.released_ms.is_none());
    if !is_free {
        seen.live.extend(record);
        return Ok(false);
    }
    if !slot.is_at(path) || !fs::has_one_name(slot.file()) {
        // Removed, or a link to a file of somebody's.
        return Ok(false);
    }
    if let Some(record) = record {
        match locked_slot(&record) {
            None if still_runs(&record) => seen.displaced.push(record.clone()),
            None => seen.died.push(record.clone()),
            Some(other) if is_same_directory(path, &other) => {
                seen.elsewhere.push((record, other));
                return Ok(false);
            }
            // A copy of the repository of that hold.
            Some(_) => {}
        }
        // Reported once: from now on the slot says that it was released when it was found.
        let found = Holder { released_ms: Some(holder::unix_ms(std::time::SystemTime::now())), ..record };
        fs::overwrite(slot.file(), path, &found.to_record())?;
    }
    Ok(true)
}

/// Locks a slot that is locked shared for a new hold; fails if somebody looks at it just now, and then it is unlocked.
fn own(slot: &LockFile, path: &Path) -> bool {
    slot.try_lock(Mode::Exclusive).unwrap_or(false) && slot.is_at(path)
}

/// Tells whether a process that holds the lock of a record can be seen to run.
fn still_runs(record: &Holder) -> bool {
    // A git has no lock: its watcher has.
    let holder = Some(record.pid).filter(|_| !record.for_git);
    same_namespaces(record)
        && [holder, record.keeper].into_iter().flatten().any(|pid| sys::still_runs(pid, record.boot_ms) == Some(true))
}

/// The slot that the processes of a hold have locked, if it is in its place. They may have locked slots for other holds as well.
fn locked_slot(record: &Holder) -> Option<PathBuf> {
    let pids = [Some(record.pid), record.keeper].into_iter().flatten().filter(|_| still_runs(record));
    let is_slot = |path: &PathBuf| path.parent().is_some_and(|parent| parent.ends_with("repoguard/holders"));
    let is_same_hold = |path: &PathBuf| {
        let other = fs::open(path, false).ok().and_then(|file| read_record(&file));
        // A slot that cannot be read may be of this hold.
        other.is_none_or(|other| (other.id, &other.token_sha256) == (record.id, &record.token_sha256))
    };
    pids.flat_map(sys::locked_files).find(|path| is_slot(path) && is_same_hold(path))
}

/// Tells whether two slots are in one directory, by whatever ways it is reached: a new file in one is in the other as well.
fn is_same_directory(one: &Path, other: &Path) -> bool {
    let (Some(here), Some(there)) = (one.parent(), other.parent()) else { return false };
    if let (Some(here), Some(there)) = (fs::identity(here), fs::identity(there))
        && here.device == there.device
    {
        return here == there;
    }
    let Ok(probe) = tempfile::Builder::new().prefix(PASSING).tempfile_in(here) else { return true };
    probe.path().file_name().is_none_or(|name| fs::identity(&there.join(name)).is_some())
}
