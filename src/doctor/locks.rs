//! Finds out whether locks on this file system exclude, with a file of our own, in a child that is killed if it hangs.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use super::{Finding, Verdict, failed};
use crate::{
    error::{Error, Result},
    fs,
    holder::Mode,
    lock::LockFile,
    repo::{Config, Repo},
    sys,
};

/// How long the trial may take; a lock server that is gone never answers.
const PATIENCE: Duration = Duration::from_secs(5);

/// The child's exit statuses.
const EXCLUDES: i32 = 0;
const EXCLUDES_NOBODY: i32 = 1;
const FAILS: i32 = 2;
const NO_ANCHOR: i32 = 3;

/// Tries them beside the lock file of this repository.
pub(super) fn try_them(repo: &Repo, config: &Config) -> Finding {
    let sharing = config.sharing(repo);
    let directory = repo.records().unwrap_or_else(|| repo.root().to_owned());
    let name = format!(".doctor-{}", std::process::id());
    let path = directory.join(name);
    let lock = repo.lock_path();
    let there = std::fs::symlink_metadata(&lock).is_ok().then(|| fs::open(&lock, false)).transpose();
    let finding = match there.and_then(|_| fs::open_or_create(&path, sharing)) {
        Ok(_) => trial(&path, repo),
        Err(Error::Io { source, .. }) if sys::is_read_only_error(&source) && repo.git_dir().is_some() => {
            read_only(repo)
        }
        Err(error) => failed("locks", &error),
    };
    fs::remove(&path);
    finding
}

fn read_only(repo: &Repo) -> Finding {
    let found = format!(
        "not tried: `{}` cannot be written; `exec` locks directories of git's instead, without queue, log and records",
        repo.lock_path().display()
    );
    let hint = "`exec --name`, `acquire`, `mutate`, `state`, `next` and hooks need a git directory that can be written";
    Finding::new("locks", Verdict::Note, found).hint(hint)
}

fn trial(path: &Path, repo: &Repo) -> Finding {
    let shown = repo.lock_path().display().to_string();
    // A directory of ours, beside the one that is the anchor: trying that could be in somebody's way.
    let anchor = repo.records();
    let status = sys::status_of_child(PATIENCE, || child(path, anchor.as_ref()));
    match status {
        Ok(Some(EXCLUDES)) => {
            let found = format!("tried on the file system of `{shown}`: they exclude, shared and exclusive");
            Finding::new("locks", Verdict::Good, found)
        }
        Ok(Some(NO_ANCHOR)) => {
            let found = format!("they exclude on the file system of `{shown}`, but a directory cannot be locked");
            Finding::new("locks", Verdict::Note, found).hint("who deletes repoguard's files lets others in here")
        }
        Ok(Some(EXCLUDES_NOBODY)) => {
            let found = format!("the file system of `{shown}` grants the same lock twice");
            Finding::new("locks", Verdict::Bad, found).hint("use a local file system")
        }
        Ok(None) => {
            let found = format!("a lock on the file system of `{shown}` was not answered within {PATIENCE:?}");
            Finding::new("locks", Verdict::Bad, found).hint("is its lock server reachable? use a local file system")
        }
        Ok(Some(_)) => failed("locks", &Error::NoLocks { path: path.to_owned(), source: None }),
        Err(error) => failed("locks", &Error::io("make a process for", path)(error)),
    }
}

fn child(path: &Path, anchor: Option<&PathBuf>) -> i32 {
    match excludes(path) {
        Ok(false) => EXCLUDES_NOBODY,
        Err(_) => FAILS,
        Ok(true) => match anchor.map(|anchor| can_be_locked(anchor)) {
            Some(false) => NO_ANCHOR,
            _ => EXCLUDES,
        },
    }
}

/// Two open files of one name: what one holds the other must not get, and shared ones must not exclude each other.
fn excludes(path: &Path) -> Result<bool> {
    let open = || fs::open(path, true).and_then(|file| LockFile::new(file, path));
    let (one, other) = (open()?, open()?);
    let lock = |file: &LockFile, mode| file.try_lock(mode).map_err(Error::io("lock", path));
    let alone = lock(&one, Mode::Exclusive)? && !lock(&other, Mode::Exclusive)? && !lock(&other, Mode::Shared)?;
    one.unlock();
    let together = lock(&one, Mode::Shared)? && lock(&other, Mode::Shared)?;
    other.unlock();
    let kept_out = !lock(&other, Mode::Exclusive)?;
    Ok(alone && together && kept_out)
}

/// Whether a directory can be locked, as the anchor is.
fn can_be_locked(directory: &Path) -> bool {
    LockFile::open_anchor(directory).is_ok_and(|directory| directory.try_lock(Mode::Shared).is_ok())
}
