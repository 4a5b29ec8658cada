//! Holds a lock for a part of a program's own work. [`Lock`] asks for it, blocking or not, and a [`Guard`] is the hold.
//!
//! The promise is that of [`super::exec()`], kept around a guard instead of a command: an interrupted mutation is recovered, HEAD
//! is compared, the hold is recorded and logged.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Once},
    time::Duration,
};

use super::{Acquisition, Context, Guard, Notice, plan};
use crate::{
    error::{Error, Result},
    fs::{self, Sharing},
    holder::{self, Holder, Mode},
    lock::{Manner, Owner, PathPlace, Plan, Request, State},
    repo::{Config, Repo},
};

/// Called with what is worth telling.
pub(super) type SharedObserver = Arc<dyn Fn(Notice<'_>) + Send + Sync>;

/// A lock that can be acquired again and again, by any thread or task: of a repository ([`Repo::lock`]), or at any path that
/// its users agree upon ([`Lock::of_directory`], [`Lock::of_file`]).
///
/// Between processes it is the kernel's, the same that `repoguard exec` and `flock(1)` take. Within a process, threads and tasks
/// are served in the order of their requests. The owner of a hold is the task that acquired it, or the thread outside of tasks;
/// futures that are joined in one task have one owner. An owner that asks again gets [`Error::AlreadyHeld`].
///
/// # Example
/// ```
/// use repoguard::Lock;
///
/// let directory = tempfile::tempdir()?;
/// let lock = Lock::of_directory(directory.path())?.reason("unpacking");
/// let guard = lock.acquire()?;
/// assert!(lock.is_locked()?);
/// guard.release()?;
/// assert!(!lock.is_locked()?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
#[must_use = "it does nothing until it is acquired"]
pub struct Lock {
    pub(super) place: Place,
    pub(super) request: Request,
    pub(super) observer: SharedObserver,
    /// Its holds belong to no thread or task.
    pub(super) owned: bool,
    /// Done once, with the first hold: what it leaves in a checkout is hidden from git.
    hidden: Arc<Once>,
}

/// The locked place.
#[derive(Debug, Clone)]
pub(super) enum Place {
    Repo(Box<(Repo, Config)>),
    Path(PathPlace),
}

impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lock").field("place", &self.place).field("request", &self.request).finish_non_exhaustive()
    }
}

impl Repo {
    /// The lock that `request` describes; nothing is acquired yet. Reads the configuration, whose timeout and scope apply if the request
    /// has none, and does not block. Without a git directory, it is that of [`Lock::of_directory`].
    ///
    /// # Errors
    /// [`Error::BrokenRepository`] if git's configuration is damaged, [`Error::Config`] if a value in it is wrong,
    /// [`Error::NoRepository`] if the request needs a repository and there is none.
    ///
    /// # Example
    /// ```
    /// use repoguard::{Repo, Request, Scope};
    ///
    /// let directory = tempfile::tempdir()?;
    /// let repo = Repo::discover(directory.path())?;
    /// let request = Request::new().reason("nightly import");
    /// let guard = repo.lock(request)?.acquire()?;
    /// // Read, change, commit: nobody who asks for the lock interleaves.
    /// guard.release()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn lock(&self, request: Request) -> Result<Lock> {
        let config = Config::load(self)?;
        let request = request.or_configured(&config)?;
        let place = if self.git_dir().is_some() {
            Place::Repo(Box::new((self.clone(), config)))
        } else if request.names.is_empty() {
            Place::Path(PathPlace::of_directory(self.root())?)
        } else {
            return Err(Error::NoRepository { path: self.root().to_owned(), needed_by: "a named lock" });
        };
        if request.mode == Mode::Shared && request.scope == Some(crate::lock::Scope::Repo) {
            return Err(Error::Unsupported { what: "a shared hold of the whole repository" });
        }
        Ok(Lock::new(place, request))
    }
}

impl Lock {
    fn new(place: Place, mut request: Request) -> Self {
        if request.command.is_empty() {
            request.command = holder::readable_command(&std::env::args_os().collect::<Vec<_>>());
        }
        Self { place, request, observer: Arc::new(|_| {}), owned: false, hidden: Arc::new(Once::new()) }
    }

    /// The lock of an existing directory, inside or outside of git. Its file is `.repoguard.lock` in the directory, which
    /// `repoguard exec` outside of git and `flock(1)` lock as well. Records of holders and waiters are kept beside it in
    /// `.repoguard/`. All paths to a directory are the same lock. Does not block.
    ///
    /// # Errors
    /// [`Error::Io`] if the directory is missing, [`Error::NotAFile`] for another kind of file.
    pub fn of_directory(directory: impl AsRef<Path>) -> Result<Self> {
        Ok(Self::new(Place::Path(PathPlace::of_directory(directory.as_ref())?), Request::default()))
    }

    /// The lock that is a file, in a directory that exists; the file is made when it is missing, and never removed. Others can
    /// join in with `flock FILE …`. Records are kept beside it in `FILE.repoguard/`. Does not block.
    ///
    /// # Errors
    /// [`Error::Io`] when its directory does not exist, [`Error::NotAFile`] for a path without a file's name.
    ///
    /// # Example
    /// ```
    /// use repoguard::{Error, Lock};
    ///
    /// let directory = tempfile::tempdir()?;
    /// let lock = Lock::of_file(directory.path().join("daemon.lock"))?;
    /// let _running = lock.try_acquire()?;
    /// let second = std::thread::scope(|scope| scope.spawn(|| lock.try_acquire().map(drop)).join());
    /// let Ok(Err(Error::Busy { holders, .. })) = second else { panic!("two daemons") };
    /// assert_eq!(holders[0].pid, std::process::id());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn of_file(file: impl AsRef<Path>) -> Result<Self> {
        Ok(Self::new(Place::Path(PathPlace::of_file(file.as_ref())?), Request::default()))
    }

    /// Together with others who share it, instead of alone.
    pub fn shared(mut self) -> Self {
        self.request.mode = Mode::Shared;
        self
    }

    /// Waits at most this long. Zero tries once; [`Duration::MAX`] waits without limit, also if a limit is configured.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.request.timeout = Some(timeout);
        self
    }

    /// Tells those who wait what it is held for.
    pub fn reason(mut self, reason: impl Into<String>) -> Self {
        self.request.reason = Some(reason.into());
        self
    }

    /// Attaches JSON of at most 64 KiB that anybody finds in [`Holder::metadata`] while the lock is held, or waited for.
    ///
    /// # Example
    /// ```
    /// let directory = tempfile::tempdir()?;
    /// let lock = repoguard::Lock::of_directory(directory.path())?.metadata(serde_json::json!({"task": 17}));
    /// let _guard = lock.acquire()?;
    /// let holder = lock.holder()?.expect("somebody");
    /// assert_eq!(holder.metadata.expect("metadata")["task"], 17);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn metadata(mut self, metadata: serde_json::Value) -> Self {
        self.request.metadata = Some(metadata);
        self
    }

    /// Calls `tell` with what is worth telling, while it waits, when the hold begins and when it ends. It is called in the middle
    /// of things: it should be short, and must not acquire anything.
    pub fn on_notice(mut self, observer: impl Fn(Notice<'_>) + Send + Sync + 'static) -> Self {
        self.observer = Arc::new(observer);
        self
    }

    /// The lock's file, which `flock(1)` can lock as well. It need not exist yet. For names and for a whole repository there are
    /// more files; this is that of the worktree.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        match &self.place {
            Place::Repo(place) => place.0.lock_path(),
            Place::Path(place) => place.lock().to_owned(),
        }
    }

    /// Acquires the lock if nobody holds it and nobody waits for it. Never queues, and needs no runtime. It returns at once, but
    /// for one case: if the lock is free and the first waiter cannot be seen to run (it lives in a container, for example), it
    /// blocks until that waiter takes the lock, for a second at most, and then passes it. In asynchronous code use
    /// `acquire_async` with a timeout of zero, which fails at once in that case.
    ///
    /// # Errors
    /// [`Error::Busy`], which names the known holders; else as [`Lock::acquire`].
    pub fn try_acquire(&self) -> Result<Guard> {
        Acquisition::try_once(self, true)
    }

    /// Acquires the lock; blocks this thread until it is there, in order of arrival, or the timeout is over. Not for
    /// asynchronous code: see `acquire_async` there.
    ///
    /// # Errors
    /// [`Error::Busy`] if the time is over, [`Error::AlreadyHeld`] if this thread or task already has it or asks for it;
    /// [`Error::Cycle`] and [`Error::Deadlock`] if waiting would last for ever, because others, of this process or not, wait for a
    /// lock that is held here; [`Error::Unfinished`] if an interrupted mutation must be recovered by hand first;
    /// [`Error::NoLocks`], [`Error::NotAFile`] or [`Error::Io`] if it cannot be locked. After an error, nothing is left that could
    /// still take the lock.
    pub fn acquire(&self) -> Result<Guard> {
        if self.request.timeout == Some(Duration::ZERO) {
            return self.try_acquire();
        }
        Acquisition::new(self, Manner::Wait)?.wait_blocking()
    }

    /// Acquires the lock for a guard that no thread or task owns. A request from the thread that already has such a guard waits for it
    /// like any other. For servers, whose requests share threads. Blocks as [`Lock::acquire`] does.
    ///
    /// A program that waits for a lock while it holds one this way can deadlock with itself: only cycles of owners are found.
    ///
    /// # Errors
    /// As [`Lock::acquire`], without [`Error::AlreadyHeld`] and [`Error::Cycle`]. In a runtime of one thread, waiting for a guard that
    /// was acquired on that thread is [`Error::AlreadyHeld`] all the same: it would block what must release it.
    ///
    /// # Example
    /// ```
    /// let directory = tempfile::tempdir()?;
    /// let lock = repoguard::Lock::of_directory(directory.path())?;
    /// let guard = lock.acquire_owned()?;
    /// let waiter = std::thread::spawn({
    ///     let lock = lock.clone();
    ///     move || lock.acquire_owned().map(drop)
    /// });
    /// assert!(matches!(lock.try_acquire_owned(), Err(repoguard::Error::Busy { .. })));
    /// guard.release()?;
    /// waiter.join().expect("no panic")?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn acquire_owned(&self) -> Result<Guard> {
        self.as_owned().acquire()
    }

    /// As [`Lock::try_acquire`], for a guard that no thread or task owns; see [`Lock::acquire_owned`].
    ///
    /// # Errors
    /// [`Error::Busy`], also if the guard that is in the way was acquired by this thread; else as [`Lock::acquire`].
    pub fn try_acquire_owned(&self) -> Result<Guard> {
        self.as_owned().try_acquire()
    }

    /// The owner of a request for this lock.
    pub(super) fn owner(&self) -> Owner {
        if self.owned { Owner::itself() } else { Owner::current() }
    }

    pub(super) fn as_owned(&self) -> Self {
        Self { owned: true, ..self.clone() }
    }

    /// Tells whether somebody holds the lock, so that a request for it alone would have to wait. Takes no lock, never blocks,
    /// and makes nobody else's attempt fail. The answer may be outdated when it arrives.
    ///
    /// # Errors
    /// [`Error::CannotTell`] when the system does not show enough, [`Error::NoRepository`].
    pub fn is_locked(&self) -> Result<bool> {
        match self.plan_for(Mode::Exclusive)?.state() {
            (State::Free, _) => Ok(false),
            (State::Held, _) => Ok(true),
            (State::CannotTell, _) => {
                Err(Error::CannotTell { what: self.plan_for(Mode::Exclusive)?.what().to_owned() })
            }
        }
    }

    /// The holder of the lock, or one of those who share it; `None` if no holder is known. Takes no lock and never blocks.
    /// [`Repo::inspect`] tells more.
    ///
    /// # Errors
    /// [`Error::NoRepository`].
    ///
    /// # Example
    /// ```
    /// let directory = tempfile::tempdir()?;
    /// let lock = repoguard::Lock::of_directory(directory.path())?.reason("unpacking");
    /// assert!(lock.holder()?.is_none());
    /// let _guard = lock.acquire()?;
    /// let holder = lock.holder()?.expect("somebody");
    /// assert_eq!((holder.pid, holder.reason.as_deref()), (std::process::id(), Some("unpacking")));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn holder(&self) -> Result<Option<Holder>> {
        Ok(self.plan_for(Mode::Exclusive)?.state().1.into_iter().next())
    }

    /// The plan of a request in this mode.
    fn plan_for(&self, mode: Mode) -> Result<Plan> {
        let request = Request { mode, ..self.request.clone() };
        match &self.place {
            Place::Repo(place) => plan::plan(&place.0, &request, self.sharing()),
            Place::Path(place) => Ok(Plan::at_path(place, &request)),
        }
    }

    /// The plan of its own request.
    pub(super) fn plan(&self) -> Result<Plan> {
        self.plan_for(self.request.mode)
    }

    /// The context of an admission; `None` without a repository.
    pub(super) fn context(&self) -> Option<Context<'_>> {
        match &self.place {
            Place::Repo(place) => Some(Context::new(&place.0, &place.1, &*self.observer)),
            Place::Path(_) => None,
        }
    }

    /// Keeps the records of a lock at a path, and the lock file of a directory, out of commits.
    pub(super) fn hide(&self) -> Result<()> {
        let Place::Path(place) = &self.place else { return Ok(()) };
        let hide = || {
            let rules = place.records().join(".gitignore");
            if fs::identity(&rules).is_none() {
                fs::write_new(&rules, b"*\n", Sharing::default())?;
            }
            if place.is_directory() { Repo::hide_lock_file_of(place.directory()) } else { Ok(()) }
        };
        let mut hidden = Ok(());
        self.hidden.call_once(|| hidden = hide());
        hidden
    }

    fn sharing(&self) -> Sharing {
        match &self.place {
            Place::Repo(place) => place.1.sharing(&place.0),
            Place::Path(_) => Sharing::default(),
        }
    }
}
