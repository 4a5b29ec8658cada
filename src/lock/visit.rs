//! Keeps a hold from ending while somebody works inside of it.
//!
//! Beside the slot of a hold lies its *door*, `<n>.inside`. A process inside the hold has locked it shared. The process that ends
//! the hold locks it exclusively before it records anything, and until all is over. So a newcomer either finds the hold alive, and
//! keeps it alive, or is outside.
//!
//! # Limitations
//! Without a door, because everything is read-only, or after all processes of the holder were killed, the hold may end before the
//! processes inside of it. They see that at their end ([`Visits::is_over`]).

use std::{
    fs::File,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{Holder, Mode, file::LockFile, live};
use crate::{
    fs::{self, Sharing},
    sys::{self, Retry},
};

/// The holds that one process works inside of.
#[derive(Debug, Default)]
pub(crate) struct Visits(Vec<Visit>);

/// This process works inside of a hold.
#[derive(Debug)]
pub(super) struct Visit {
    /// Fencing number of the hold.
    id: u64,
    slot: LockFile,
    door: Option<LockFile>,
}

/// A request that is covered by what is held around this process.
#[derive(Debug, Default)]
pub(crate) struct Inside {
    /// Fencing number of the hold around us; 0 for one of flock(1).
    pub(crate) outer: u64,
    pub(crate) visits: Visits,
    /// The doors of the enclosing holds.
    pub(crate) record: Holder,
}

impl Visits {
    pub(super) fn add(&mut self, visit: Visit) {
        self.0.push(visit);
    }

    pub(super) fn join(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    pub(super) fn includes(&self, id: u64) -> bool {
        self.0.iter().any(|visit| visit.id == id)
    }

    /// The files that a command must inherit so that the holds around it live as long as it does.
    pub(crate) fn files(&self) -> impl Iterator<Item = &File> {
        self.0.iter().filter_map(|visit| visit.door.as_ref()).map(LockFile::file)
    }

    /// Tells whether one of the holds has ended: what was done inside may not have been exclusive to the end.
    pub(crate) fn is_over(&self) -> bool {
        self.0.iter().any(|visit| !live::is_hold(&visit.slot, visit.id))
    }

    /// Lets the holds end, for all processes that share these visits.
    pub(crate) fn leave(&self) {
        self.0.iter().filter_map(|visit| visit.door.as_ref()).for_each(LockFile::unlock);
    }
}

impl Visit {
    /// Enters the hold with this number, whose slot this is; `None` if it is over, or ends just now.
    pub(super) fn enter(slot: LockFile, path: &Path, id: u64, sharing: Sharing) -> Option<Self> {
        /// How long who ends a hold may take.
        const ENDING: Retry = Retry::every(Duration::from_millis(1)).within(Duration::from_secs(1));
        let path = door_path(path);
        for _ in ENDING {
            if !live::is_hold(&slot, id) {
                break;
            }
            let Some(door) = open_door(&path, sharing) else { return Some(Self { id, slot, door: None }) };
            match door.try_lock(Mode::Shared) {
                Err(_) => return Some(Self { id, slot, door: None }),
                Ok(true) if door.is_at(&path) && live::is_hold(&slot, id) => {
                    return Some(Self { id, slot, door: Some(door) });
                }
                Ok(true) => door.unlock(),
                Ok(false) => {}
            }
        }
        None
    }
}

/// The door of a hold, for its holder.
#[derive(Debug)]
pub(super) struct Door {
    file: Option<LockFile>,
    path: PathBuf,
}

impl Door {
    /// Closes the door of a slot; `None` if somebody is inside.
    pub(super) fn close(slot: &Path, sharing: Sharing) -> Option<Self> {
        let path = door_path(slot);
        let file = open_door(&path, sharing);
        let is_closed = file.as_ref().is_none_or(|door| door.try_lock(Mode::Exclusive).unwrap_or(true));
        is_closed.then_some(Self { file, path })
    }

    /// Opens it for the next hold of this slot, or removes it with the slot.
    pub(super) fn give(&self, remove: bool) {
        let Some(file) = &self.file else { return };
        if remove && file.is_at(&self.path) {
            fs::remove(&self.path);
        }
        file.unlock();
    }
}

/// The processes inside of the hold with this slot that the system shows.
pub(super) fn those_inside(slot: &Path) -> Vec<u32> {
    fs::identity(&door_path(slot)).map(sys::descriptor_holders).unwrap_or_default()
}

fn door_path(slot: &Path) -> PathBuf {
    slot.with_extension("inside")
}

fn open_door(path: &Path, sharing: Sharing) -> Option<LockFile> {
    let file = fs::open_or_create(path, sharing).or_else(|_| fs::open(path, false)).ok()?;
    LockFile::new(file, path).ok()
}
