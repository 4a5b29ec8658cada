//! Lists the worktrees that repoguard made, with what is in them and who is at it, and removes those with nothing in them.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    contents::{Contents, Site, aside_of, look, look_at_branch},
    register,
    remove::remove,
};
use crate::{
    error::{Error, Result},
    fs::{self, Sharing},
    guard::{
        Context,
        plan::{plan, plan_for_new_worktree},
    },
    lock::{self, Acquired, Request, Wait},
    repo::{Config, Manner, Repo},
    store::worktrees::{Entry, Made, Register, Stage},
};

/// How a worktree that repoguard made stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// In use: by the command that it was made for, or by a later holder of its lock.
    Running,
    /// The command has ended.
    Ended,
    /// It was not made to the end, and the command did not run.
    HalfMade,
    /// It was not removed to the end.
    HalfRemoved,
    /// The worktree is gone; its branch may be there.
    Gone,
    /// Whether somebody is in it the system does not show.
    CannotTell,
}

/// A worktree that repoguard made because another was busy.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Listed {
    /// Its directory.
    pub path: PathBuf,
    /// Its branch, without `refs/heads/`.
    pub branch: String,
    /// The commit that it was made from.
    pub base: String,
    /// Milliseconds since 1970 when it was made.
    pub made_ms: u64,
    /// The process that made it.
    pub pid: u32,
    /// On which machine.
    pub host: String,
    /// Whose it was.
    pub user: String,
    /// The agent or CI system that asked.
    pub agent: Option<String>,
    /// The command that it was made for.
    pub command: String,
    /// Why, as told with `--reason`.
    pub reason: Option<String>,
    /// How it stands.
    pub state: State,
    /// Its contents, as far as git shows them.
    pub contents: Contents,
}

/// The result of trying to remove a worktree.
#[derive(Debug)]
#[non_exhaustive]
pub struct Pruned {
    /// Its present or former directory.
    pub path: PathBuf,
    /// Its branch, without `refs/heads/`.
    pub branch: String,
    /// `None`: it was removed. Else why not.
    pub kept: Option<Result<Contents>>,
}

/// Lists the worktrees that repoguard made in a repository, oldest first. Takes no lock and never blocks.
///
/// # Errors
/// [`Error::NoRepository`], [`Error::Io`].
///
/// # Example
/// ```no_run
/// let repo = repoguard::Repo::discover(std::path::Path::new("."))?;
/// for worktree in repoguard::worktree::list(&repo)? {
///     println!("{}: {}", worktree.branch, worktree.contents);
/// }
/// # Ok::<(), repoguard::Error>(())
/// ```
pub fn list(repo: &Repo) -> Result<Vec<Listed>> {
    let register = register(repo, Sharing::default())?;
    let all = register.all()?.into_iter().filter_map(|made| linked(repo, &register, made));
    Ok(all.collect())
}

/// `None` if it was removed, or only its empty record was left.
fn linked(repo: &Repo, register: &Register, made: Made) -> Option<Listed> {
    let site = Site::find(repo, &made);
    let place = site.as_ref().map_or_else(|| made.path(), |site| site.place.clone());
    let aside = Some(aside_of(&place, &made.name)).filter(|aside| fs::identity(aside).is_some());
    let root = aside.or_else(|| fs::identity(&place).map(|_| place.clone()));
    let locked = site.as_ref().map(|site| site.worktree.lock_path()).filter(|lock| fs::identity(lock).is_some());
    let owned = register.is_owned(&made.name);
    let runs = match (owned, locked.map_or(Some(false), |lock| lock::is_locked(&lock))) {
        (Some(false), Some(false)) => Some(false),
        (Some(true), _) | (_, Some(true)) => Some(true),
        _ => None,
    };
    let state = match (runs, made.stage) {
        (Some(true), _) => State::Running,
        (Some(false), Stage::Reserved | Stage::Making) => State::HalfMade,
        (Some(false), Stage::Removing) => State::HalfRemoved,
        (Some(false), Stage::Used | Stage::Kept) if root.is_none() || site.is_none() => State::Gone,
        (Some(false), Stage::Used | Stage::Kept) => State::Ended,
        (None, _) => State::CannotTell,
    };
    let seen = match &site {
        // A worktree that is just being made is skipped.
        _ if matches!(made.stage, Stage::Reserved | Stage::Making) => Ok(Contents::default()),
        Some(site) => look(repo, Manner::Reading, (register, &made), site, root.as_deref()).map(|seen| seen.contents),
        None => look_at_branch(repo, Manner::Reading, &made).and_then(|seen| match (&seen.tip, root.is_some()) {
            (None, false) => Err(gone(&made)),
            _ => Ok(seen.contents),
        }),
    };
    let contents = match seen {
        Ok(mut contents) => {
            contents.also.extend(forgotten(site.is_some(), root.as_deref(), made.stage));
            contents
        }
        Err(_) if state == State::Gone => return None,
        Err(error) => Contents::doubt(format!("git cannot tell: {error}")),
    };
    Some(Listed {
        path: place,
        branch: made.short_branch().to_owned(),
        base: made.base,
        made_ms: made.created_ms,
        pid: made.pid,
        host: made.host,
        user: made.user,
        agent: made.agent,
        command: made.command,
        reason: made.reason,
        state,
        contents,
    })
}

/// A worktree that only git, or only the disk has.
fn forgotten(is_on_list: bool, root: Option<&Path>, stage: Stage) -> Option<String> {
    match (is_on_list, root, stage) {
        (_, _, Stage::Reserved | Stage::Making) => None,
        (false, Some(root), _) => Some(format!("git has forgotten it, and its files are at `{}`", root.display())),
        (true, None, Stage::Used | Stage::Kept) => Some("its directory is not there".to_owned()),
        _ => None,
    }
}

fn gone(made: &Made) -> Error {
    Error::io("find", made.path())(std::io::ErrorKind::NotFound.into())
}

/// Removes the worktrees that repoguard made and that hold nothing of worth; with `landed`, also those whose commits another branch
/// has by now. Worktrees in use, and all others, stay. Does not wait for any lock.
///
/// # Errors
/// [`Error::NoRepository`], [`Error::Io`] when they cannot be listed; [`Error::Busy`] while somebody holds everything.
pub fn prune(repo: &Repo, config: &Config) -> Result<Vec<Pruned>> {
    let sharing = config.sharing(repo);
    let register = register(repo, sharing)?;
    let all = register.all()?.into_iter().filter_map(|made| {
        let site = Site::find(repo, &made);
        let is_listed = linked(repo, &register, made.clone()).is_some();
        let kept = match register.open(&made.name) {
            Ok(Some(mut entry)) => {
                let removed = try_remove(repo, &mut entry, sharing, true);
                entry.release();
                removed
            }
            Ok(None) => Ok(Some(Contents::doubt("somebody is at it"))),
            Err(error) => Err(error),
        };
        let path = site.map_or_else(|| made.path(), |site| site.place);
        let pruned = Pruned { path, branch: made.short_branch().to_owned(), kept: kept.transpose() };
        // Of what was removed by hand only the record was left.
        (is_listed || pruned.kept.is_some()).then_some(pruned)
    });
    Ok(all.collect())
}

/// Removes empty leftovers of killed runs. An error does not matter to a caller that is about to make another.
pub(super) fn tidy(context: Context<'_>, register: &Register) {
    let left = register.all().unwrap_or_default().into_iter().filter(|made| made.stage != Stage::Kept);
    for made in left {
        let Ok(Some(mut entry)) = register.open(&made.name) else { continue };
        if let Err(error) = try_remove(context.repo, &mut entry, context.sharing, false)
            && !matches!(error, Error::Busy { .. })
        {
            context.trouble(&error);
        }
        entry.release();
    }
}

/// Removes a worktree whose record is locked, if nobody has locked the worktree itself.
fn try_remove(repo: &Repo, entry: &mut Entry, sharing: Sharing, landed: bool) -> Result<Option<Contents>> {
    let request = Request {
        timeout: Some(Duration::ZERO),
        command: "repoguard worktrees prune".to_owned(),
        ..Request::default()
    };
    let wait = &mut Wait { signals: None, report: &mut |_| {} };
    let plan = match Site::find(repo, &entry.made) {
        Some(site) => plan(&repo.seen_from(&site.worktree.git_dir), &request, sharing),
        None => plan_for_new_worktree(repo, &request, sharing),
    };
    let held = match plan.and_then(|plan| lock::acquire(plan, &request, wait)) {
        Ok(Acquired::Held(held)) => Some(held),
        Ok(Acquired::Inside(_)) => None,
        Err(Error::Busy { holders, .. }) if !holders.is_empty() => {
            return Ok(Some(Contents::doubt(format!("pid {} holds its lock", holders[0].pid))));
        }
        Err(error) => return Err(error),
    };
    let removed = remove(repo, entry, landed);
    if let Some(held) = held {
        held.release();
    }
    removed
}
