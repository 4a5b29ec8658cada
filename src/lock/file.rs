//! Locks files: the only door to fd-lock, and so to flock(2).
//!
//! A lock belongs to the open file: all processes that inherited the descriptor hold it, and it is free when one of
//! them unlocks it or all have closed it. Release is therefore always an unlock, never just a close: a copy of the
//! descriptor may live on for a while in a process that another thread has just forked.

use std::{
    collections::BTreeSet,
    fs::File,
    io,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::Mode;
use crate::{
    error::{Error, Result},
    fs::{self, Sharing},
    sys::{self, FdNumber, FileId, LockId},
};

/// The descriptors of all lock files that a process has opened itself: what is locked through others, it inherited.
struct Opened {
    /// The child of a fork finds its parent's list, and inherited all that is in it.
    pid: u32,
    numbers: BTreeSet<FdNumber>,
}

static OPENED: Mutex<Opened> = Mutex::new(Opened { pid: 0, numbers: BTreeSet::new() });

fn opened() -> MutexGuard<'static, Opened> {
    let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    let pid = std::process::id();
    if opened.pid != pid {
        *opened = Opened { pid, numbers: BTreeSet::new() };
    }
    opened
}

/// A file, or a directory as an anchor, that is or will be locked.
#[derive(Debug)]
pub(crate) struct LockFile {
    file: File,
    id: FileId,
}

impl LockFile {
    /// Opens a lock file, creating it if it is missing. If it cannot be written, reading it is enough to lock it; `None` if it is
    /// missing and cannot be created, because everything is read-only.
    pub(crate) fn open(path: &Path, sharing: Sharing) -> Result<Option<Self>> {
        let file = match fs::open_or_create(path, sharing) {
            Err(Error::Io { source, .. }) if sys::is_read_only_error(&source) => match fs::open(path, false) {
                Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
                result => result?,
            },
            result => result?,
        };
        Self::new(file, path).map(Some)
    }

    /// Opens a directory to lock it as an anchor.
    pub(crate) fn open_anchor(path: &Path) -> Result<Self> {
        Self::new(sys::open_directory(path).map_err(Error::io("open", path))?, path)
    }

    /// Takes over a file that is open already.
    pub(crate) fn new(file: File, path: &Path) -> Result<Self> {
        let id = sys::identity(&file.metadata().map_err(Error::io("read", path))?);
        opened().numbers.insert(sys::number(&file));
        Ok(Self { file, id })
    }

    /// Tries to lock; never waits. Trying again for a held lock succeeds and changes nothing.
    pub(crate) fn try_lock(&self, mode: Mode) -> io::Result<bool> {
        loop {
            let mut lock = fd_lock::RwLock::new(&self.file);
            // The guards would unlock on drop; the lock stays until `unlock`.
            let result = match mode {
                Mode::Exclusive => lock.try_write().map(std::mem::forget),
                Mode::Shared => lock.try_read().map(std::mem::forget),
            };
            match result {
                Ok(()) => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits in the kernel's queue for the exclusive lock, without limit. Only the end of the process ends the wait.
    pub(crate) fn lock(&self) -> io::Result<()> {
        loop {
            // The guard would unlock on drop; the lock stays until `unlock`.
            match fd_lock::RwLock::new(&self.file).write().map(std::mem::forget) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                locked => return locked,
            }
        }
    }

    /// Unlocks, for every process that shares this open file.
    pub(crate) fn unlock(&self) {
        drop(self.file.unlock());
    }

    /// Tells whether locks exclude anybody here: a second open file must not get what we hold.
    pub(crate) fn excludes_others(&self, path: &Path) -> bool {
        let Ok(Some(other)) = fs::open(path, false).map(|file| Self::new(file, path).ok()) else { return true };
        if other.id != self.id {
            return true;
        }
        !matches!(other.try_lock(Mode::Exclusive), Ok(true))
    }

    /// Tells whether `path` still names this file.
    pub(crate) fn is_at(&self, path: &Path) -> bool {
        std::fs::symlink_metadata(path).is_ok_and(|metadata| sys::identity(&metadata) == self.id)
    }

    /// The file's identity, whatever its name.
    pub(crate) fn id(&self) -> FileId {
        self.id
    }

    /// How the kernel's table of locks names it.
    pub(crate) fn lock_id(&self) -> LockId {
        sys::lock_id(&self.file, self.id)
    }

    /// The open file, to wait for its lock or to hand it down.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }
}

impl Drop for LockFile {
    fn drop(&mut self) {
        opened().numbers.remove(&sys::number(&self.file));
    }
}

/// The flocks on a file through open files that this process inherited: their modes, `true` = exclusive. Those that other
/// threads of it took for themselves are none. `is_exclusive` tells whether anybody holds the file exclusively.
pub(crate) fn inherited_locks(file: FileId, is_exclusive: impl FnOnce() -> bool) -> Vec<bool> {
    // Held while it is looked: no other thread can lock a file meanwhile that is not in the list.
    let ours = opened();
    sys::own_descriptor_locks(file, &|number| ours.numbers.contains(&number), is_exclusive)
}
