//! Reads single records, and decides whether they are those of live holds.

use std::fs::File;

use super::{Holder, Mode, file::LockFile};
use crate::{fs, holder::RECORD_BYTES, sys};

/// Tells whether a slot is that of a live hold with this number.
pub(super) fn is_hold(slot: &LockFile, id: u64) -> bool {
    let is_locked = !slot.try_lock(Mode::Shared).unwrap_or(false);
    let is_its = read(slot).is_some_and(|record| record.id == id && record.released_ms.is_none());
    if !is_locked {
        slot.unlock();
    }
    is_locked && is_its
}

pub(super) fn read(slot: &LockFile) -> Option<Holder> {
    read_record(slot.file())
}

/// Reads a record, and what follows it.
pub(super) fn read_record(file: &File) -> Option<Holder> {
    let read = |bytes| Holder::from_record(&fs::read_start(file, bytes).ok()?);
    let record = read(RECORD_BYTES)?;
    match record.bytes_missing() {
        0 => Some(record),
        more => read(RECORD_BYTES + more),
    }
}

/// Tells whether the pids and times of a record have the same meaning here as for its writer.
pub(super) fn same_namespaces(hold: &Holder) -> bool {
    sys::can_compare_pids()
        && hold.pid_namespace == sys::pid_namespace()
        && hold.time_namespace == sys::time_namespace()
}

/// The processes that are already in the list.
pub(super) fn pids(holders: &[Holder]) -> Vec<u32> {
    holders.iter().flat_map(pids_of).collect()
}

pub(super) fn pids_of(hold: &Holder) -> impl Iterator<Item = u32> {
    [Some(hold.pid), hold.keeper].into_iter().flatten().chain(hold.takers.iter().copied())
}
