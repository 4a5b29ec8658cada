//! Who holds a flock(2), as the kernel shows it in `/proc`, without trying the lock.
//!
//! # Format
//! `/proc/locks` has lines like `1: FLOCK  ADVISORY  WRITE 1234 fe:00:5678 0 EOF` (mode, pid of the taker, device in hex
//! and inode); waiting requests have `->` after the number. The same line stands behind `lock:` in
//! `/proc/PID/fdinfo/FD` of each descriptor of the open file that holds. See proc(5).
//!
//! # Limitations
//! The kernel shows `/proc/locks` page by page, by position: while other locks are let go, a long table can be read without
//! a lock that is held all the time. In another pid namespace than the first, `/proc/locks` leaves out locks whose taker has ended or lives outside;
//! `fdinfo` can be read only of processes of the same user (of all by root).

use std::{
    fs::{self, File},
    io::Read as _,
    path::{Path, PathBuf},
};

use super::{process::sees_all_locks, table::all_processes};
use crate::sys::{FileId, KernelLock, KernelLocks};

/// The holders of a file's flock(2) that the kernel's table shows. No lock that is held may be missing where
/// [`KernelLocks::complete`] says so.
pub(crate) fn kernel_locks(file: FileId) -> KernelLocks {
    /// More than the kernel ever gives at once, which is a page.
    const PAGE: usize = 64 << 10;
    /// How often a long table is read: what one reading missed, the next one shows.
    const READINGS: usize = 3;
    let mut found = KernelLocks { locks: Vec::new(), complete: false };
    for _ in 0..READINGS {
        let Ok(mut source) = File::open("/proc/locks") else { return found };
        let mut table = vec![0; PAGE];
        let Ok(first) = source.read(&mut table) else { return found };
        table.truncate(first);
        let Ok(more) = source.read_to_end(&mut table) else { return found };
        let table = String::from_utf8_lossy(&table);
        for lock in table.lines().filter_map(|line| parse(line, file)) {
            if !found.locks.contains(&lock) {
                found.locks.push(lock);
            }
        }
        if more == 0 {
            found.complete = sees_all_locks();
            break;
        }
    }
    found
}

/// The flocks held on a file by the open files that this process inherited or opened: their modes, `true` = exclusive.
pub(crate) fn own_descriptor_locks(file: FileId) -> Vec<bool> {
    let descriptors = fs::read_dir("/proc/self/fdinfo").into_iter().flatten().flatten();
    descriptors.flat_map(|entry| held_by(&entry.path(), file)).collect()
}

/// All processes that have an open file which holds a flock(2) on `file`. Looks at every descriptor of every process
/// that may be looked at: some microseconds each.
pub(crate) fn descriptor_holders(file: FileId) -> Vec<u32> {
    let holds = |pid: &u32| {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let mut same =
            descriptors.filter(|entry| fs::metadata(entry.path()).is_ok_and(|m| super::identity(&m) == file));
        same.any(|entry| {
            !held_by(&PathBuf::from(format!("/proc/{pid}/fdinfo")).join(entry.file_name()), file).is_empty()
        })
    };
    all_processes().into_iter().filter(holds).collect()
}

fn held_by(info: &Path, file: FileId) -> Vec<bool> {
    // A descriptor may be closed meanwhile; what it held is gone then, too.
    let info = fs::read_to_string(info).unwrap_or_default();
    let locks = info.lines().filter_map(|line| line.strip_prefix("lock:"));
    locks.filter_map(|line| parse(line, file)).map(|lock| lock.exclusive).collect()
}

fn parse(line: &str, file: FileId) -> Option<KernelLock> {
    let mut fields = line.split_whitespace().skip(1);
    if fields.next()? != "FLOCK" {
        return None;
    }
    let exclusive = fields.nth(1)? == "WRITE";
    let pid = fields.next()?.parse().ok()?;
    let mut place = fields.next()?.split(':');
    let major = u32::from_str_radix(place.next()?, 16).ok()?;
    let minor = u32::from_str_radix(place.next()?, 16).ok()?;
    let inode: u64 = place.next()?.parse().ok()?;
    (inode == file.inode && super::device(major, minor) == file.device).then_some(KernelLock { pid, exclusive })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_of_the_kernel_is_understood_and_a_waiting_one_is_not_a_holder() {
        let file = FileId { device: super::super::device(0xfe, 0), inode: 5678 };
        let held = parse("1: FLOCK  ADVISORY  WRITE 1234 fe:00:5678 0 EOF", file);
        assert_eq!(held, Some(KernelLock { pid: 1234, exclusive: true }));
        assert_eq!(parse("1: -> FLOCK  ADVISORY  WRITE 1234 fe:00:5678 0 EOF", file), None);
        assert_eq!(parse("2: POSIX  ADVISORY  WRITE 1234 fe:00:5678 0 EOF", file), None);
        assert_eq!(parse("1: FLOCK  ADVISORY  READ 1234 fe:01:5678 0 EOF", file), None);
    }
}
