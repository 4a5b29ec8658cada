//! Takes locks that are held for milliseconds: in the kernel's queue, or, if the wait is limited, by trying again and
//! again, since a wait in that queue cannot be cancelled.
//!
//! Short locks are never skipped, also inside a hold, and they are the last in the order of locks: a holder of one waits only for
//! another short lock.

use std::{
    io,
    path::Path,
    sync::mpsc::{self, RecvTimeoutError},
    time::{Duration, Instant},
};

use super::{LockFile, Mode};
use crate::{
    error::{Error, Result},
    sys::{self, Retry, Tries},
};

/// How often it is tried before anything else.
const TRIES: usize = 3;
/// When it is tried again.
const AGAIN: Retry = Retry::every(Duration::from_micros(200)).slowing_to(Duration::from_millis(10));
/// When a wait is first reported, and how often after that.
const FIRST_WORD: Duration = Duration::from_secs(1);
const NEXT_WORD: Duration = Duration::from_secs(30);

/// How long to wait for short locks, and the observer of the wait.
pub(crate) struct Patience<'a> {
    timeout: Option<Duration>,
    begun: Instant,
    reported: Option<Duration>,
    tries: Tries,
    report: &'a mut dyn FnMut(Duration, Option<u32>),
}

impl<'a> Patience<'a> {
    /// Begins to wait; `tell` gets the time waited and the process that holds the lock, if the system shows it.
    pub(crate) fn new(timeout: Option<Duration>, report: &'a mut dyn FnMut(Duration, Option<u32>)) -> Self {
        let mut tries = AGAIN.within(timeout.unwrap_or(Duration::MAX)).into_iter();
        tries.next();
        Self { timeout, begun: Instant::now(), reported: None, tries, report }
    }

    /// Waits until a file is locked.
    fn wait(&mut self, file: &LockFile, path: &Path, about: &Path) -> Result<()> {
        let mut tries = 0;
        loop {
            match file.try_lock(Mode::Exclusive) {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(source) => return Err(no_locks(path, Some(source))),
            }
            tries += 1;
            if self.timeout.is_none() && tries >= TRIES {
                return self.queue(file).map_err(|source| no_locks(path, Some(source)));
            }
            let waited = self.begun.elapsed();
            self.speak(waited, file);
            if self.tries.next().is_none() {
                return Err(Error::RecordBusy { path: about.to_owned(), pid: holder(file), waited });
            }
        }
    }

    /// Waits in the kernel's queue. The lock belongs to the open file, whichever thread of ours waits.
    fn queue(&mut self, file: &LockFile) -> io::Result<()> {
        std::thread::scope(|scope| {
            let (done, is_done) = mpsc::channel();
            std::thread::Builder::new().spawn_scoped(scope, move || done.send(file.lock()))?;
            loop {
                let next_word = self.reported.map_or(FIRST_WORD, |reported| reported + NEXT_WORD);
                match is_done.recv_timeout(next_word.saturating_sub(self.begun.elapsed())) {
                    Ok(locked) => return locked,
                    Err(RecvTimeoutError::Timeout) => self.speak(self.begun.elapsed(), file),
                    // A thread that cannot tell its result has panicked, and the scope says so.
                    Err(RecvTimeoutError::Disconnected) => return Err(io::ErrorKind::Other.into()),
                }
            }
        })
    }

    fn speak(&mut self, waited: Duration, file: &LockFile) {
        if waited >= self.reported.map_or(FIRST_WORD, |reported| reported + NEXT_WORD) {
            self.reported = Some(waited);
            (self.report)(waited, holder(file));
        }
    }
}

/// A short lock, held until it is dropped.
#[derive(Debug)]
pub(crate) struct Short(LockFile);

impl Short {
    /// Takes the lock of the file that `open` opens at a path, and again if another file came to be there meanwhile; `None` if
    /// there is none. `about` names the lock in messages.
    ///
    /// # Errors
    /// Those of `open`, [`Error::RecordBusy`] when the time is over, [`Error::NoLocks`].
    pub(crate) fn take(
        path: &Path,
        about: &Path,
        open: impl Fn(&Path) -> Result<Option<LockFile>>,
        patience: &mut Patience<'_>,
    ) -> Result<Option<Self>> {
        loop {
            let Some(file) = open(path)? else { return Ok(None) };
            patience.wait(&file, path, about)?;
            // Dropped, it is unlocked.
            let lock = Self(file);
            if lock.0.is_at(path) {
                return if lock.0.excludes_others(path) { Ok(Some(lock)) } else { Err(no_locks(path, None)) };
            }
        }
    }

    /// A file that cannot be locked, and need not be, because another lock is held for it.
    pub(crate) fn without_lock(file: LockFile) -> Self {
        Self(file)
    }

    /// Tells whether the locked file is still the one at a path.
    pub(crate) fn is_at(&self, path: &Path) -> bool {
        self.0.is_at(path)
    }

    /// The locked file.
    pub(crate) fn file(&self) -> &std::fs::File {
        self.0.file()
    }
}

impl Drop for Short {
    fn drop(&mut self) {
        self.0.unlock();
    }
}

fn no_locks(path: &Path, source: Option<io::Error>) -> Error {
    Error::NoLocks { path: path.to_owned(), source }
}

/// The process that holds a file's lock, if the system shows it.
fn holder(file: &LockFile) -> Option<u32> {
    let locks = sys::kernel_locks(&[file.lock_id()]).locks;
    locks.into_iter().find(|lock| lock.file == file.id() && lock.pid != 0).map(|lock| lock.pid)
}
