//! Restores undone files into the caller's worktree, file by file, each in one step. A snapshot keeps what is replaced.
//!
//! # Invariants
//! Nothing is written outside of the worktree or into a `.git`, whatever a snapshot says. Nothing is lost: what differs
//! and is replaced goes into a new snapshot before.
//!
//! # Limitations
//! Sockets and devices are not brought back, hard links come back as files of their own.

mod place;
mod plan;

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use self::{place::Place, plan::Plan};
use super::{Admission, Caller, Context, Terms, admit};
use crate::{
    error::{Error, Result},
    exec::Ending,
    fs::{self, Root},
    holder::Mode,
    lock::{Request, Scope},
    repo::{Repo, is_git_name},
    store::{
        kept::{Header, Keeping},
        snapshots::{self, Kept},
    },
    sys::{self, Signals},
};

/// So many files are written to disk one by one; more of them all at once.
const MOST_SYNCS: usize = 32;

/// The result of a [`restore`], or its prediction. All paths are relative to the top of the worktree.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Restored {
    /// Id of the snapshot.
    pub id: String,
    /// Restored files.
    pub restored: Vec<PathBuf>,
    /// Files that are already there as they were kept.
    pub unchanged: Vec<PathBuf>,
    /// Of what was brought back, or stood in its way: what was there before, and is kept now.
    pub replaced: Vec<PathBuf>,
    /// Files that failed, and why.
    pub failed: Vec<(PathBuf, Error)>,
    /// Files whose deletion was undone; that is not done again.
    pub deleted: Vec<PathBuf>,
    /// Id of the snapshot that keeps what was replaced.
    pub kept: Option<String>,
}

/// Brings files of a snapshot back into this worktree, under its exclusive lock; blocks as the request says.
///
/// `id` may be the beginning of one. `paths` are seen from the current directory; a directory means all that is below it,
/// none at all means everything.
///
/// # Errors
/// [`Error::NoSnapshot`], [`Error::AmbiguousSnapshot`], [`Error::DamagedSnapshot`], [`Error::NotKept`], [`Error::NoWorktree`];
/// those of [`super::exec()`] for the lock. Then nothing was changed. [`Restored::failed`] has the errors of single files.
pub fn restore(caller: Caller<'_>, id: &str, paths: &[PathBuf]) -> Result<Restored> {
    let request = &Request { scope: Some(Scope::Worktree), mode: Mode::Exclusive, ..caller.request()? };
    let Caller { repo, config, observer, .. } = caller;
    let limit = config.snapshot_limit()?;
    // A request for a missing snapshot fails without waiting.
    let id = &Plan::new(repo, id, paths)?.snapshot.id;
    Context::with(repo, config, observer, |context| {
        let signals = Signals::open().map_err(Error::io("catch signals for", repo.root()))?;
        match admit(context, request, &signals, Terms::default())? {
            Admission::Inside(_) => Work::new(context, request, None).run(&Plan::new(repo, id, paths)?, limit),
            Admission::Held(mut hold) => {
                let work = Work::new(context, request, Some(hold.held.record().id));
                hold.publish();
                let restored = Plan::new(repo, id, paths).and_then(|plan| work.run(&plan, limit));
                let is_whole = restored.as_ref().is_ok_and(|restored| restored.failed.is_empty());
                hold.finish(Some(Ending::Exited(i32::from(!is_whole))));
                restored
            }
        }
    })
}

/// Tells what [`restore`] would do now. Takes no lock, changes nothing.
///
/// # Errors
/// As [`restore`], but those for the lock.
pub fn would_restore(repo: &Repo, id: &str, paths: &[PathBuf]) -> Result<Restored> {
    let plan = Plan::new(repo, id, paths)?;
    let mut done = plan.begin();
    let tree = tree(repo)?;
    for kept in &plan.files {
        match place_of(&tree, kept) {
            Ok(Place::Same) => done.unchanged.push(kept.path.clone()),
            Ok(place) => {
                done.replaced.extend(place.in_it());
                done.restored.push(kept.path.clone());
            }
            Err(error) => done.failed.push((kept.path.clone(), error)),
        }
    }
    done.replaced.dedup();
    Ok(done)
}

/// The worktree: no path leads out of it. Which of them may lead into a repository of its own, [`Plan`] decides.
fn tree(repo: &Repo) -> Result<Root> {
    Root::open(repo.root(), |_| false)
}

/// What is in a file's place, unless the file cannot be brought back.
///
/// # Errors
/// [`Error::UnsafePath`], [`Error::Io`].
fn place_of(tree: &Root, kept: &Kept) -> Result<Place> {
    let wanted = fs::metadata(&kept.place()?)?;
    if !(wanted.is_file() || wanted.is_link() || wanted.is_dir() || wanted.is_fifo()) {
        return Err(Error::UnsafePath { path: kept.path.clone(), why: "it is a socket or a device" });
    }
    let place = Place::look(tree, kept)?;
    if let Place::Other(path) = &place
        && let Some(why) = place::why_it_stays(&tree.at(&sys::bytes(path.as_os_str()))?)?
    {
        return Err(Error::UnsafePath { path: kept.path.clone(), why });
    }
    Ok(place)
}

/// What changes with the content at the path of a file; `None` also if there are no directories above it. A copy may change permission
/// bits for a moment.
fn at(tree: &Root, kept: &Kept) -> Option<Content> {
    let found = fs::find(&tree.at(&sys::bytes(kept.path.as_os_str())).ok()?).ok().flatten()?;
    Some((found.inode, found.size, found.mtime))
}

/// Inode, size and time of a file.
type Content = (u32, u64, (u32, u32));

/// A restore that is going on.
struct Work<'a> {
    context: Context<'a>,
    header: Header,
    /// The snapshot of replaced files; begun with the first.
    keeping: Option<Keeping>,
    done: Restored,
}

impl<'a> Work<'a> {
    fn new(context: Context<'a>, request: &Request, fence: Option<u64>) -> Self {
        let repo = context.repo;
        let now = repo.worktree().and_then(|worktree| repo.head(&worktree));
        let (why, command) = (format!("replaced by {}", request.command), request.command.clone());
        let header = Header { why, command, head_before: now.clone(), head_after: now, fence };
        Self { context, header, keeping: None, done: Restored::default() }
    }

    fn run(mut self, plan: &Plan, limit: u64) -> Result<Restored> {
        self.done = plan.begin();
        let gone = || Error::NoSnapshot { id: plan.snapshot.id.clone() };
        let tree = tree(self.context.repo)?;
        let _held = snapshots::hold(&plan.snapshot).ok_or_else(gone)?;
        let mut free = Vec::new();
        for kept in &plan.files {
            match self.make_room(&tree, kept) {
                Ok(Room::Same) => self.done.unchanged.push(kept.path.clone()),
                Ok(Room::Made(seen)) => free.push((kept, seen)),
                Err(error) => self.done.failed.push((kept.path.clone(), error)),
            }
        }
        // The replaced file must be on disk before its replacement.
        self.keeping.as_mut().map_or(Ok(()), Keeping::sync)?;
        let many = free.len() > MOST_SYNCS;
        for (kept, seen) in free {
            match self.keep_later(&tree, kept, seen).and_then(|()| put(&tree, kept, many)) {
                Ok(()) => self.done.restored.push(kept.path.clone()),
                Err(error) => self.done.failed.push((kept.path.clone(), error)),
            }
        }
        if many {
            fs::sync_all(self.context.repo.root())?;
        }
        self.done.kept = self.keeping.map_or(Ok(None), |keeping| keeping.finish(limit))?;
        Ok(self.done)
    }

    /// Keeps what is in a file's place, and moves it away if the file cannot replace it in one step.
    fn make_room(&mut self, tree: &Root, kept: &Kept) -> Result<Room> {
        // Looked at before it is copied: a later change shows.
        let seen = at(tree, kept);
        let place = place_of(tree, kept)?;
        match &place {
            Place::Same => return Ok(Room::Same),
            Place::Free => return Ok(Room::Made(None)),
            Place::File(path) => self.keeping()?.copy(&sys::bytes(path.as_os_str()))?,
            Place::Other(path) => self.keeping()?.take(&sys::bytes(path.as_os_str()))?,
        }
        let is_copied = matches!(place, Place::File(_));
        self.done.replaced.extend(place.in_it());
        Ok(Room::Made(seen.filter(|_| is_copied)))
    }

    /// Keeps what somebody has put into a file's place since room was made.
    fn keep_later(&mut self, tree: &Root, kept: &Kept, seen: Option<Content>) -> Result<()> {
        /// Somebody who writes it all the time has to be stopped first.
        const TRIES: usize = 5;
        let mut seen = seen;
        for _ in 0..TRIES {
            if at(tree, kept) == seen {
                return Ok(());
            }
            match self.make_room(tree, kept)? {
                Room::Same => return Ok(()),
                Room::Made(now) => seen = now,
            }
            self.keeping.as_mut().map_or(Ok(()), Keeping::sync)?;
        }
        Err(Error::ChangedMeanwhile { what: format!("`{}` is written all the time", kept.path.display()) })
    }

    fn keeping(&mut self) -> Result<&mut Keeping> {
        let keeping = match self.keeping.take() {
            Some(keeping) => keeping,
            None => Keeping::begin(self.context.repo, self.header.clone(), self.context.sharing)?,
        };
        Ok(self.keeping.insert(keeping))
    }
}

/// A file's place, before the file comes.
enum Room {
    /// The very file is there.
    Same,
    /// It is free, or holds a file that was copied.
    Made(Option<Content>),
}

/// Makes the directories above a file that are missing, as they were.
fn make_directories(tree: &Root, kept: &Kept) -> Result<()> {
    let mut above: Vec<&Path> = kept.path.ancestors().skip(1).filter(|path| !path.as_os_str().is_empty()).collect();
    above.reverse();
    above
        .into_iter()
        .zip(kept.above.iter().copied())
        .try_for_each(|(path, bits)| fs::make_directories(&tree.at(&sys::bytes(path.as_os_str()))?, bits))
}

/// Puts a copy in a free place, or over a file or link that it replaces in one step. Bits that give rights of the owner or of the
/// group are left out.
const SET_ID: u32 = 0o6000;

fn put(tree: &Root, kept: &Kept, many: bool) -> Result<()> {
    make_directories(tree, kept)?;
    let (target, source) = (&tree.at(&sys::bytes(kept.path.as_os_str()))?, &kept.place()?);
    let wanted = fs::metadata(source)?;
    let us = sys::effective_user();
    // In a shared repository somebody else may have put another file there.
    let is_foreign = us != 0 && wanted.owner.0 != us;
    if is_foreign && kept.path.iter().any(is_git_name) {
        return Err(Error::UnsafePath {
            path: kept.path.clone(),
            why: "it is in a repository that another user has put there",
        });
    }
    let mode = if is_foreign { wanted.permissions() & !SET_ID } else { wanted.permissions() };
    // Root gives back what was somebody's.
    let owner = (sys::effective_user() == 0).then_some(wanted.owner);
    match () {
        () if wanted.is_link() => fs::put_link(target, &fs::read_link(source)?, owner),
        () if wanted.is_dir() => fs::make_directories(target, Some(mode)),
        () if wanted.is_fifo() => fs::put_fifo(target, mode, owner),
        () => {
            let mut source = fs::read_file(source)?;
            let read = source.metadata().map_err(Error::io("read", &kept.at))?;
            if sys::owner(&read) != wanted.owner {
                let what = format!("`{}` was replaced while it was read", kept.at.display());
                return Err(Error::ChangedMeanwhile { what });
            }
            let copy = |file: &mut File| io::copy(&mut source, file).map(drop);
            if many { fs::put_file_of_many(target, mode, owner, copy) } else { fs::put_file(target, mode, owner, copy) }
        }
    }
}
