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
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use super::{FdNumber, process::sees_all_locks, table::all_processes};
use crate::sys::{FileId, KernelLock, KernelLocks};

/// The flocks on some files that the kernel's table shows. None that is held may be missing where
/// [`KernelLocks::complete`] says so.
pub(crate) fn kernel_locks(files: &[FileId]) -> KernelLocks {
    /// How often a long table is read before it is given up: it changes all the time.
    const READINGS: usize = 4;
    let mut found = KernelLocks { locks: Vec::new(), complete: false };
    let mut last = Vec::new();
    for _ in 0..READINGS {
        let Some((table, at_once)) = read_table() else { return found };
        for lock in String::from_utf8_lossy(&table).lines().filter_map(parse) {
            if files.contains(&lock.file) && !found.locks.contains(&lock) {
                found.locks.push(lock);
            }
        }
        if at_once || table == last {
            found.complete = sees_all_locks();
            break;
        }
        last = table;
    }
    found
}

/// Reads the kernel's table of locks; tells whether the kernel gave it at once, as it was at one instant. A longer one is
/// as it was when a second reading shows the same.
fn read_table() -> Option<(Vec<u8>, bool)> {
    /// The kernel gives a page at once, of 4 KiB at least, ended where the next line does not fit.
    const PAGE: usize = 64 << 10;
    /// What leaves room for another line is the whole table.
    const ROOM: usize = (4 << 10) - 256;
    /// Pages overlap: what moves forward by the lines that go meanwhile is not skipped.
    const STEP: u64 = 2 << 10;
    let source = File::open("/proc/locks").ok()?;
    let mut page = vec![0; PAGE];
    let first = source.read_at(&mut page, 0).ok()?;
    let mut table = page[..first].to_vec();
    if first <= ROOM {
        return Some((table, true));
    }
    let mut offset = STEP;
    loop {
        let read = source.read_at(&mut page, offset).ok()?;
        if read == 0 {
            return Some((table, false));
        }
        // The page before has the line that this one begins in.
        let line = page[..read].iter().position(|&byte| byte == b'\n').map_or(read, |end| end + 1);
        table.extend_from_slice(&page[line..read]);
        offset += STEP;
    }
}

/// The flocks held on a file by the open files of this process, but for those of descriptors that are excepted: their
/// modes, `true` = exclusive.
pub(crate) fn own_descriptor_locks(file: FileId, except: &dyn Fn(FdNumber) -> bool) -> Vec<bool> {
    let descriptors = fs::read_dir("/proc/self/fdinfo").into_iter().flatten().flatten();
    let number = |entry: &fs::DirEntry| entry.file_name().to_str().and_then(|name| name.parse().ok());
    // Looked up while it is open: a number of ours may be another file's when it is closed.
    let others = descriptors.filter(|entry| !number(entry).is_some_and(except));
    others.flat_map(|entry| held_by(&entry.path(), file)).collect()
}

/// All processes that have an open file which holds a flock(2) on `file`. Looks at every descriptor of every process
/// that may be looked at: some microseconds each.
pub(crate) fn descriptor_holders(file: FileId) -> Vec<u32> {
    all_processes().into_iter().filter(|pid| !locks_of_process(*pid, file).is_empty()).collect()
}

/// The flocks held on a file by the open files of another process, if these may be looked at: their modes, `true` = exclusive.
pub(crate) fn locks_of_process(pid: u32, file: FileId) -> Vec<bool> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let same = descriptors.filter(|entry| fs::metadata(entry.path()).is_ok_and(|m| super::identity(&m) == file));
    let infos = PathBuf::from(format!("/proc/{pid}/fdinfo"));
    same.flat_map(|entry| held_by(&infos.join(entry.file_name()), file)).collect()
}

/// The files that a process holds a flock(2) on, if these may be looked at and still have the name by which they were opened.
pub(crate) fn locked_files(pid: u32) -> Vec<PathBuf> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let infos = PathBuf::from(format!("/proc/{pid}/fdinfo"));
    let file = |entry: fs::DirEntry| {
        let locked = fs::read_to_string(infos.join(entry.file_name())).ok()?;
        locked.lines().filter_map(|line| line.strip_prefix("lock:")).find_map(parse)?;
        let path = fs::read_link(entry.path()).ok()?;
        let (open, named) = (fs::metadata(entry.path()).ok()?, fs::symlink_metadata(&path).ok()?);
        (super::identity(&open) == super::identity(&named)).then_some(path)
    };
    descriptors.filter_map(file).collect()
}

fn held_by(info: &Path, file: FileId) -> Vec<bool> {
    // A descriptor may be closed meanwhile; what it held is gone then, too.
    let info = fs::read_to_string(info).unwrap_or_default();
    let locks = info.lines().filter_map(|line| parse(line.strip_prefix("lock:")?));
    locks.filter(|lock| lock.file == file).map(|lock| lock.exclusive).collect()
}

fn parse(line: &str) -> Option<KernelLock> {
    let mut fields = line.split_whitespace().skip(1);
    if fields.next()? != "FLOCK" {
        return None;
    }
    let exclusive = fields.nth(1)? == "WRITE";
    let pid = fields.next()?.parse().ok()?;
    let mut place = fields.next()?.split(':');
    let major = u32::from_str_radix(place.next()?, 16).ok()?;
    let minor = u32::from_str_radix(place.next()?, 16).ok()?;
    let inode = place.next()?.parse().ok()?;
    Some(KernelLock { file: FileId { device: super::device(major, minor), inode }, pid, exclusive })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_of_the_kernel_is_understood_and_a_waiting_one_is_not_a_holder() {
        let file = FileId { device: super::super::device(0xfe, 0), inode: 5678 };
        let held = parse("1: FLOCK  ADVISORY  WRITE 1234 fe:00:5678 0 EOF");
        assert_eq!(held, Some(KernelLock { file, pid: 1234, exclusive: true }));
        assert_eq!(parse("1: -> FLOCK  ADVISORY  WRITE 1234 fe:00:5678 0 EOF"), None);
        assert_eq!(parse("2: POSIX  ADVISORY  WRITE 1234 fe:00:5678 0 EOF"), None);
        assert_eq!(parse(" FLOCK  ADVISORY"), None);
    }
}
