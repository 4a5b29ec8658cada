//! Makes a worktree for one command: record, directory, branch, git's list, lock, files. Each step is recorded before
//! it is taken, so a kill leaves nothing unknown behind.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use super::{
    super::hold::Hold,
    contents::Site,
    options::{NEEDED_BY, Options},
    remove,
};
use crate::{
    env,
    error::{Error, Result},
    exec::{self, Ending, RunLifecycle, Surroundings, Task},
    fs::{self, Root, Sharing},
    holder,
    lock::Request,
    repo::{Checkout, Config, ExpectedHead, MOST_LINK, Manner, Repo, Worktree, is_git_directory, named_git_dir},
    store::worktrees::{Entry, Made, Register, Stage},
    sys::{self, Retry, Signals},
};

/// More than anybody needs of one name.
const TRIES: usize = 1000;
/// How long to wait for another repoguard that adds a worktree to git's list, which takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// The source of a worktree.
pub(super) struct From<'a> {
    pub(super) repo: &'a Repo,
    /// The one that is busy, as git knows it.
    pub(super) checkout: Checkout,
    /// The caller's directory, as seen from the top of that.
    pub(super) below: PathBuf,
    /// The commit.
    pub(super) base: String,
}

impl<'a> From<'a> {
    /// Looks where HEAD and the caller are now.
    pub(super) fn now(repo: &'a Repo, expected: &ExpectedHead) -> Result<Self> {
        let checkout = Checkout::find(repo, Manner::Writing, NEEDED_BY)?;
        let head = repo.worktree().and_then(|worktree| repo.head(&worktree)).unwrap_or_default();
        // This very HEAD: the holder of the worktree may move it at any time.
        expected.check(repo, &head)?;
        let no_commit = || Error::NoCommit { path: checkout.root.clone(), needed_by: NEEDED_BY };
        let base = head.commit.ok_or_else(no_commit)?;
        let real = |path: &Path| path.canonicalize().map_err(Error::io("find", path));
        let here = std::env::current_dir().map_err(Error::io("find", "."))?;
        let below = real(&here)?.strip_prefix(real(&checkout.root)?).map(Path::to_owned).unwrap_or_default();
        Ok(Self { repo, checkout, below, base })
    }
}

/// Takes a free name: makes the record, the directory and the branch.
pub(super) fn reserve(
    from: &From<'_>,
    place: &Options,
    config: &Config,
    register: &Register,
    request: &Request,
) -> Result<Entry> {
    let parent = place.parent(from.repo, &from.checkout.root, config)?;
    let parent = real(&parent);
    make_parent(&parent)?;
    let tried = try_names(from, place, &parent, register, request);
    tried.inspect_err(|_| remove::remove_parent(&parent.join("any")))
}

/// Takes the first name that nobody has.
fn try_names(from: &From<'_>, place: &Options, parent: &Path, register: &Register, request: &Request) -> Result<Entry> {
    let common = Checkout::common(from.repo, Manner::Writing, from.base.len() / 2)?;
    let (now, stash) = (SystemTime::now(), common.newest_stash()?);
    for number in 1..=TRIES {
        let (branch, name) = place.names(now, number);
        let path = parent.join(&name);
        if is_taken(from.repo, &path, &name) {
            continue;
        }
        let mut made = Made::by_us(name, &path);
        made.branch = format!("refs/heads/{branch}");
        made.own_name = place.branch.is_none();
        made.base.clone_from(&from.base);
        made.stash.clone_from(&stash);
        made.created_ms = holder::unix_ms(now);
        made.command.clone_from(&request.command);
        made.reason = request.reason.as_deref().map(holder::readable);
        let Some(mut entry) = register.reserve(made)? else { continue };
        match fill(&common, &mut entry, &path) {
            Ok(true) => return Ok(entry),
            Ok(false) => entry.forget(),
            Err(error) => {
                // Git alone may have been killed, with a lock of its own.
                drop(remove::unlock(from.repo, &entry));
                entry.forget();
                return Err(error);
            }
        }
    }
    Err(Error::Unsupported { what: "a name for a worktree that a thousand others have" })
}

/// Makes the directory that holds worktrees. The process that removes the last worktree removes this directory, too, at any
/// instant.
fn make_parent(parent: &Path) -> Result<()> {
    for _ in 0..TRIES {
        match fs::make_directories(parent, None) {
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
            made => return made,
        }
    }
    fs::make_directories(parent, None)
}

/// A path without links, as far as it exists.
fn real(path: &Path) -> PathBuf {
    let known = path.ancestors().find_map(|above| Some((above.canonicalize().ok()?, path.strip_prefix(above).ok()?)));
    known.map_or_else(
        || path.to_owned(),
        |(above, below)| if below == Path::new("") { above } else { above.join(below) },
    )
}

/// Tells whether a directory or a worktree of that name is or was there: what is recorded of one is not for another.
fn is_taken(repo: &Repo, path: &Path, name: &str) -> bool {
    let of_git = |worktree: &Worktree| {
        let mutation = repo.mutation_dir(worktree);
        fs::identity(&worktree.git_dir).is_some() || mutation.is_some_and(|place| fs::identity(&place).is_some())
    };
    fs::identity(path).is_some() || repo.linked(name.as_ref()).is_some_and(|worktree| of_git(&worktree))
}

/// Makes directory and branch; `false` if somebody else was faster: then both are removed again.
fn fill(common: &Checkout, entry: &mut Entry, path: &Path) -> Result<bool> {
    loop {
        match fs::make_directory(path, Sharing::default()) {
            Ok(()) => break,
            Err(_) if fs::identity(path).is_some() => return Ok(false),
            // The process that removed the last worktree removed the directory above as well.
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                make_parent(path.parent().unwrap_or(path))?;
            }
            Err(error) => return Err(error),
        }
    }
    let common = &common.clone().noting(entry.register().notes(&entry.made.name));
    let made = common.create_branch(&entry.made.branch, &entry.made.base);
    if !matches!(made, Ok(true)) {
        fs::remove_directory(path);
        return made;
    }
    entry.advance(Stage::Making).inspect_err(|_| {
        drop(common.delete_branch(&entry.made.branch, &entry.made.base, None));
        fs::remove_directory(path);
    })?;
    Ok(true)
}

/// Has git put it on its list, without files, and finds out what git calls it.
pub(super) fn add(from: &From<'_>, entry: &mut Entry, signals: &Signals) -> Result<Worktree> {
    let path = entry.made.path();
    let mut lock = None;
    for _ in Retry::every(Duration::from_millis(2)).within(PATIENCE) {
        lock = entry.register().try_making()?;
        if lock.is_some() {
            break;
        }
        not_interrupted(signals)?;
    }
    let lock = lock.ok_or_else(|| {
        let what = "git's list of worktrees".to_owned();
        Error::Busy { what, holders: Vec::new(), ahead: Vec::new(), waited: PATIENCE }
    })?;
    let common = Checkout::common(from.repo, Manner::Writing, from.base.len() / 2)?;
    let common = common.noting(entry.register().notes(&entry.made.name));
    let added = common.add_worktree(&path, entry.made.short_branch());
    lock.unlock();
    added?;
    let link = fs::read_small(&path.join(".git"), MOST_LINK).unwrap_or_default();
    let git_dir = named_git_dir(&path, &link);
    let id = git_dir.as_deref().and_then(Path::file_name).map(|id| id.to_string_lossy().into_owned());
    let worktree = id.as_ref().and_then(|id| from.repo.linked(id.as_ref()));
    let worktree = worktree.filter(|worktree| worktree.git_dir.is_dir()).ok_or_else(|| Error::BrokenRepository {
        path: path.join(".git"),
        reason: "git made it just now, and it leads nowhere".to_owned(),
    })?;
    (entry.made.id, entry.made.mark) = (id, Site::mark(&worktree));
    entry.advance(Stage::Making)?;
    Ok(worktree)
}

/// Has git write the files, and run the hook that it runs in a new worktree; as `git worktree add` does, but under our lock.
pub(super) fn check_out(
    entry: &Entry,
    hold: &mut Hold<'_>,
    variables: &[(&'static str, OsString)],
    signals: &Signals,
) -> Result<()> {
    let path = entry.made.path();
    // A killed git of these leaves locks of references as well.
    let notes = entry.register().notes(&entry.made.name);
    let variables = [variables, &[(env::GIT_TRACE, notes.into_os_string())]].concat();
    let none = "0".repeat(entry.made.base.len());
    let reset = ["git", "reset", "--quiet", "--hard", "--no-recurse-submodules"];
    let hook = ["git", "hook", "run", "--ignore-missing", "post-checkout", "--", &none, &entry.made.base, "1"];
    for (command, must) in [(&reset[..], true), (&hook[..], false)] {
        not_interrupted(signals)?;
        let surroundings = Surroundings {
            environment: &variables,
            without: env::OF_ONE_WORKTREE,
            directory: Some(&path),
            prints_messages: true,
            ends_whole: true,
            is_stuck: None,
        };
        let mut step = Step { hold, entry, alone: false };
        let run = exec::run(&Task::new(command.iter().copied()), surroundings, signals, &mut step);
        if let Some(signal) = run.interrupted {
            return Err(interrupted(signal));
        }
        // As with git, a hook that fails does not undo the checkout.
        if must && run.ending != Ending::Exited(0) {
            let arguments = command[1..].join(" ");
            let reason = format!("status {} in the new worktree; it says why above", run.ending.status());
            return Err(Error::Git { arguments, reason });
        }
    }
    not_interrupted(signals)
}

/// The directory to run in: the caller's, in the new worktree. It is made if the commit lacks it.
pub(super) fn start(from: &From<'_>, entry: &Entry) -> Result<PathBuf> {
    let path = entry.made.path();
    if from.below.as_os_str().is_empty() {
        return Ok(path);
    }
    let root = Root::open(&path, is_git_directory)?;
    if let Some(other) = fs::in_the_way(&root, &from.below.join("any"))? {
        return Err(fs::not_a_directory(&path.join(other)));
    }
    fs::make_directories(&root.at(&sys::bytes(from.below.as_os_str()))?, None)?;
    Ok(path.join(&from.below))
}

pub(super) fn not_interrupted(signals: &Signals) -> Result<()> {
    signals.interrupt().map_or(Ok(()), |signal| Err(interrupted(signal)))
}

fn interrupted(signal: i32) -> Error {
    Error::Interrupted { what: "a new worktree".to_owned(), signal }
}

/// The lifecycle of a git that makes the worktree: the hold goes on after it, unless this process was killed.
struct Step<'s, 'h> {
    hold: &'s mut Hold<'h>,
    entry: &'s Entry,
    /// This is the keeper, and the wrapper has gone.
    alone: bool,
}

impl RunLifecycle for Step<'_, '_> {
    fn files(&self) -> Vec<&std::fs::File> {
        let mut files = self.hold.files();
        files.push(self.entry.lock());
        files
    }

    fn begin(&mut self) {}

    fn started(&mut self, pid: u32, early: bool) {
        self.hold.started(pid, early);
    }

    fn replace(&mut self, left: bool) {
        self.alone = true;
        self.hold.replace(left);
    }

    fn close(&mut self) -> bool {
        !self.alone || self.hold.close()
    }

    fn those_inside(&self) -> Vec<u32> {
        self.hold.those_inside()
    }

    fn record_end(&mut self, ending: Option<Ending>) -> Ending {
        if self.alone {
            self.hold.record_end(None);
        }
        ending.unwrap_or(Ending::Failed)
    }

    fn release(&mut self) {
        if self.alone {
            self.entry.release();
            self.hold.release();
        }
    }
}
