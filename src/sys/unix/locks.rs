//! Shows the holders of a flock(2), from the kernel's `/proc`, without trying the lock.
//!
//! # Format
//! `/proc/locks` has lines like `1: FLOCK  ADVISORY  WRITE 1234 fe:00:5678 0 EOF` (mode, pid of the taker, device in hex
//! and inode); waiting requests have `->` after the number. The same line stands behind `lock:` in
//! `/proc/PID/fdinfo/FD` of each descriptor of the open file that holds. See proc(5).
//!
//! The table names the device of the superblock. stat(2) names another one on btrfs (one a subvolume) and overlayfs; all these
//! are anonymous devices, with the major number 0. The superblock's stands in `/proc/self/mountinfo`, in the line of the mount that
//! `mnt_id` in an open file's `fdinfo` names.
//!
//! # Limitations
//! The kernel shows `/proc/locks` page by page, by position: while other locks are released, a read of a long table can miss a lock
//! that is held all the time. In another pid namespace than the first, `/proc/locks` leaves out locks whose taker has ended or
//! lives outside; `fdinfo` can be read only of processes of the same user (of all by root).

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    os::{
        fd::BorrowedFd,
        unix::fs::{FileExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use rustix::fs::FlockOperation;

use super::{FdNumber, process::sees_all_locks, table::all_processes};
use crate::sys::{FileId, KernelLock, KernelLocks, LockId, MountedFs};

/// Opens a file only to name it.
#[cfg(target_os = "linux")]
const O_PATH: i32 = libc::O_PATH;
#[cfg(not(target_os = "linux"))]
const O_PATH: i32 = 0;

/// How the kernel's table names an open file.
pub(crate) fn lock_id(file: &File, id: FileId) -> LockId {
    LockId { file: id, kernel: superblock(file, id.device).map(|device| FileId { device, ..id }) }
}

/// The same for a file that is not open; `None` if it is missing. A link is not followed.
pub(crate) fn lock_id_at(path: &Path) -> Option<LockId> {
    let id = super::identity(&fs::symlink_metadata(path).ok()?);
    if super::is_real_device(id.device) {
        return Some(LockId { file: id, kernel: Some(id) });
    }
    let file = OpenOptions::new().read(true).custom_flags(O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC).open(path);
    Some(file.map_or(LockId { file: id, kernel: None }, |file| lock_id(&file, id)))
}

/// The device of the superblock of an open file, by the device that stat(2) names.
fn superblock(file: &File, device: u64) -> Option<u64> {
    /// Those found so far: they do not change while anything of them is mounted.
    static KNOWN: Mutex<BTreeMap<u64, u64>> = Mutex::new(BTreeMap::new());
    if super::is_real_device(device) {
        return Some(device);
    }
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(found) = known.get(&device) {
        return Some(*found);
    }
    let found = mounted(file)?.device;
    known.insert(device, found);
    Some(found)
}

/// The mounted file system that a path is on, if the system shows it. A link is not followed.
pub(crate) fn mounted_at(path: &Path) -> Option<MountedFs> {
    mounted(&OpenOptions::new().read(true).custom_flags(O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC).open(path).ok()?)
}

fn mounted(file: &File) -> Option<MountedFs> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", super::number(file))).ok()?;
    let mount = info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim();
    mount_in(&String::from_utf8_lossy(&fs::read("/proc/self/mountinfo").ok()?), mount)
}

/// The mount of a number: `ID PARENT MAJOR:MINOR ROOT PLACE OPTIONS [TAG…] - TYPE SOURCE OPTIONS`.
fn mount_in(mounts: &str, number: &str) -> Option<MountedFs> {
    let line = mounts.lines().find(|line| line.split(' ').next() == Some(number))?;
    let (mount, system) = line.split_once(" - ")?;
    let (mount, system): (Vec<&str>, Vec<&str>) = (mount.split(' ').collect(), system.split(' ').collect());
    let (major, minor) = mount.get(2)?.split_once(':')?;
    let options = [mount.get(5)?, system.get(2).unwrap_or(&"")];
    Some(MountedFs {
        kind: (*system.first()?).to_owned(),
        options: options.iter().flat_map(|options| options.split(',')).map(str::to_owned).collect(),
        device: super::device(major.parse().ok()?, minor.parse().ok()?),
    })
}

/// The flocks on some files that the kernel's table shows. None that is held may be missing where
/// [`KernelLocks::complete`] says so.
pub(crate) fn kernel_locks(files: &[LockId]) -> KernelLocks {
    /// How often a long table is read before it is given up: it changes all the time.
    const READINGS: usize = 4;
    let named = files.iter().all(|file| file.kernel.is_some());
    let mut found = KernelLocks { locks: Vec::new(), complete: false, named };
    let mut last = Vec::new();
    for _ in 0..READINGS {
        let Some((table, at_once)) = read_table() else { return found };
        for lock in String::from_utf8_lossy(&table).lines().filter_map(parse) {
            let Some(file) = files.iter().find(|file| file.kernel == Some(lock.file)) else { continue };
            let lock = KernelLock { file: file.file, ..lock };
            if !found.locks.contains(&lock) {
                found.locks.push(lock);
            }
        }
        if at_once || table == last {
            found.complete = named && sees_all_locks();
            break;
        }
        last = table;
    }
    found
}

/// Reads the kernel's table of locks; tells whether the kernel gave it at once, as it was at one instant. A longer one is
/// as it was when a second reading shows the same.
fn read_table() -> Option<(Vec<u8>, bool)> {
    /// The kernel gives a page at once, of 4 KiB at least, which ends before the first line that does not fit.
    const PAGE: usize = 64 << 10;
    /// A page with room for another line is the whole table.
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
/// modes, `true` = exclusive. `is_exclusive` tells whether anybody holds the file exclusively, and is asked without `/proc`.
pub(crate) fn own_descriptor_locks(
    file: FileId,
    except: &dyn Fn(FdNumber) -> bool,
    is_exclusive: impl FnOnce() -> bool,
) -> Vec<bool> {
    let Ok(descriptors) = fs::read_dir("/proc/self/fdinfo") else {
        return own_locks_by_stat(file, except, is_exclusive);
    };
    let descriptors = descriptors.flatten();
    let number = |entry: &fs::DirEntry| entry.file_name().to_str().and_then(|name| name.parse().ok());
    // Looked up while it is open: a number of ours may be another file's when it is closed.
    let others = descriptors.filter(|entry| !number(entry).is_some_and(except));
    let same = others.filter(|entry| {
        let link = Path::new("/proc/self/fd").join(entry.file_name());
        fs::metadata(link).is_ok_and(|metadata| super::identity(&metadata) == file)
    });
    same.flat_map(|entry| held_by(&entry.path())).collect()
}

/// The same without `/proc`. To lock an exclusively locked file again changes nothing if this very open file has the lock, and fails
/// if another one has it. A file that is locked shared is taken for one of ours if we have it open: trying could lose the lock.
#[expect(unsafe_code, reason = "descriptors that this process inherited have no owner in it")]
fn own_locks_by_stat(
    file: FileId,
    except: &dyn Fn(FdNumber) -> bool,
    is_exclusive: impl FnOnce() -> bool,
) -> Vec<bool> {
    /// Commands inherit locks at numbers of about a hundred.
    const MOST: u64 = 1024;
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(MOST).min(MOST);
    let descriptors = (0..FdNumber::try_from(limit).unwrap_or(0)).filter(|number| !except(*number)).map(|number| {
        // SAFETY: it is used for two calls only; a number that is not open, or is closed meanwhile, makes them fail.
        unsafe { BorrowedFd::borrow_raw(number) }
    });
    let is_same = |descriptor: &BorrowedFd<'_>| super::identity_of(descriptor).is_ok_and(|id| id == file);
    let same: Vec<BorrowedFd<'_>> = descriptors.filter(is_same).collect();
    if same.is_empty() || !is_exclusive() {
        return vec![false; same.len()];
    }
    let again = FlockOperation::NonBlockingLockExclusive;
    same.into_iter().filter(|descriptor| rustix::fs::flock(descriptor, again).is_ok()).map(|_| true).collect()
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
    same.flat_map(|entry| held_by(&infos.join(entry.file_name()))).collect()
}

/// Whether the system shows what processes have open, to those who may look.
pub(crate) const SHOWS_OPEN_FILES: bool = cfg!(target_os = "linux");

/// Tells whether a process has a file open. `None`: the system does not show it.
pub(crate) fn has_open(pid: u32, file: FileId) -> Option<bool> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    Some(descriptors.flatten().any(|entry| fs::metadata(entry.path()).is_ok_and(|open| super::identity(&open) == file)))
}

/// The files that a process holds a flock(2) on, if these may be looked at and still have the name by which they were opened.
pub(crate) fn locked_files(pid: u32) -> Vec<PathBuf> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let infos = PathBuf::from(format!("/proc/{pid}/fdinfo"));
    let file = |entry: fs::DirEntry| {
        held_by(&infos.join(entry.file_name())).first()?;
        let path = fs::read_link(entry.path()).ok()?;
        let (open, named) = (fs::metadata(entry.path()).ok()?, fs::symlink_metadata(&path).ok()?);
        (super::identity(&open) == super::identity(&named)).then_some(path)
    };
    descriptors.filter_map(file).collect()
}

/// The modes of the flocks of one open file, `true` = exclusive.
fn held_by(info: &Path) -> Vec<bool> {
    // A descriptor may be closed meanwhile; what it held is gone then, too.
    let info = fs::read_to_string(info).unwrap_or_default();
    let locks = info.lines().filter_map(|line| parse(line.strip_prefix("lock:")?));
    locks.map(|lock| lock.exclusive).collect()
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
    use crate::garbage::{cases, near};

    #[test]
    fn mount_is_found_by_its_number() {
        let mounts = "22 1 254:0 / / rw - ext4 /dev/root rw\n\
                      122 22 0:44 /sub /a\\040b rw,noexec shared:1 master:2 - btrfs /dev/loop0 rw,ssd\n";
        let options = |list: &[&str]| list.iter().map(|option| (*option).to_owned()).collect();
        let device = super::super::device(0, 44);
        let found = MountedFs { kind: "btrfs".to_owned(), options: options(&["rw", "noexec", "rw", "ssd"]), device };
        assert_eq!(mount_in(mounts, "122"), Some(found));
        assert_eq!(mount_in(mounts, "22").map(|found| found.kind), Some("ext4".to_owned()));
        assert_eq!(mount_in(mounts, "2"), None);
    }

    #[test]
    fn line_of_the_kernel_is_understood_and_a_waiting_one_is_not_a_holder() {
        let file = FileId { device: super::super::device(0xfe, 0), inode: 5678 };
        let held = parse("1: FLOCK  ADVISORY  WRITE 1234 fe:00:5678 0 EOF");
        assert_eq!(held, Some(KernelLock { file, pid: 1234, exclusive: true }));
        assert_eq!(parse("1: -> FLOCK  ADVISORY  WRITE 1234 fe:00:5678 0 EOF"), None);
        assert_eq!(parse("2: POSIX  ADVISORY  WRITE 1234 fe:00:5678 0 EOF"), None);
        assert_eq!(parse(" FLOCK  ADVISORY"), None);
    }

    #[test]
    fn damaged_tables_are_survived() {
        let mounts = "122 22 0:44 /sub /a\\040b rw,noexec shared:1 master:2 - btrfs /dev/loop0 rw,ssd\n";
        let samples = ["1: FLOCK  ADVISORY  WRITE 1234 fe:00:5678 0 EOF", mounts].map(|text| text.as_bytes().to_vec());
        proptest::proptest!(cases(2000), |(bytes in near(samples.to_vec()))| {
            let text = String::from_utf8_lossy(&bytes);
            drop((parse(&text), mount_in(&text, "122")));
        });
    }
}
