//! Makes the plan of a lock from a repository and a request: the only place where a repository becomes resources.

use std::path::PathBuf;

use crate::{
    error::{Error, Result},
    fs::Sharing,
    holder::{self, Mode, ROOT_KEY},
    lock::{self, Anchored, Domain, Held, Inspection, MOST_NAMES, Plan, Request, Scope},
    repo::{Repo, Worktree},
};

/// The records of a repository's locks. Outside of git they are those that a library's user has made for this directory's lock.
pub(crate) fn domain(repo: &Repo) -> Domain {
    let of_path = || Some(lock::records_of_directory(repo.root())).filter(|records| records.is_dir());
    Domain {
        root: repo.root().to_owned(),
        common: repo.common_dir().unwrap_or(repo.root()).to_owned(),
        records: repo.records().or_else(of_path),
        records_around: Repo::records_around,
    }
}

/// The plan of a request.
///
/// # Errors
/// [`Error::NoRepository`] if the request names something that needs a repository, [`Error::Unsupported`] for too many names,
/// [`Error::Io`] when the list of worktrees cannot be read.
pub(crate) fn plan(repo: &Repo, request: &Request, sharing: Sharing) -> Result<Plan> {
    let scope = request.scope.or(request.names.is_empty().then_some(Scope::Worktree));
    let mut plan = Plan::new(domain(repo), scope_text(scope, &request.names), request, sharing);
    if repo.common_dir().is_none() {
        if !request.names.is_empty() {
            return Err(Error::NoRepository { path: repo.root().to_owned(), needed_by: "a named lock" });
        }
        plan.lock(ROOT_KEY, &repo.lock_path());
        return Ok(plan);
    }
    let (repo_mode, worktrees) = match scope {
        Some(Scope::Repo) => (Mode::Exclusive, repo.worktrees()?),
        Some(Scope::Worktree) => (Mode::Shared, repo.worktree().into_iter().collect()),
        None => (Mode::Shared, Vec::new()),
    };
    lock_repo(&mut plan, repo, repo_mode, "a lock")?;
    for worktree in &worktrees {
        plan.lock_anchored(anchored(worktree));
    }
    if let Some(path) = repo.lock_from_before().filter(|_| scope.is_some()) {
        plan.lock_if_there(&path);
    }
    let mut names: Vec<(String, PathBuf)> = request.names.iter().filter_map(|name| repo.name_lock(name)).collect();
    names.sort();
    names.dedup();
    if names.len() > MOST_NAMES {
        return Err(Error::Unsupported { what: "a request for more than 64 names" });
    }
    for (key, path) in names {
        plan.lock(&key, &path);
    }
    Ok(plan)
}

/// The plan for adding a worktree to the repository: nobody may lock everything meanwhile. The worktree itself is locked by
/// [`Held::take_in`] once it is there.
///
/// # Errors
/// [`Error::NoRepository`].
pub(crate) fn plan_for_new_worktree(repo: &Repo, request: &Request, sharing: Sharing) -> Result<Plan> {
    let mut plan = Plan::new(domain(repo), "new worktree".to_owned(), request, sharing);
    lock_repo(&mut plan, repo, Mode::Shared, "a new worktree")?;
    Ok(plan)
}

fn lock_repo(plan: &mut Plan, repo: &Repo, mode: Mode, needed_by: &'static str) -> Result<()> {
    let needs = || Error::NoRepository { path: repo.root().to_owned(), needed_by };
    plan.lock_repo(&repo.repo_lock().ok_or_else(needs)?, repo.repo_anchor().as_deref(), mode);
    Ok(())
}

/// A worktree as a resource.
pub(crate) fn anchored(worktree: &Worktree) -> Anchored {
    Anchored {
        key: worktree.key.clone(),
        lock: worktree.lock_path(),
        directory: worktree.git_dir.clone(),
        may_go: !worktree.is_main(),
    }
}

/// The worktrees that a hold covers.
pub(super) fn worktrees(held: &Held) -> Vec<Worktree> {
    let worktree = |one: &Anchored| Worktree { git_dir: one.directory.clone(), key: one.key.clone() };
    held.anchored.iter().map(worktree).collect()
}

fn scope_text(scope: Option<Scope>, names: &[String]) -> String {
    let scope = scope.map(|scope| match scope {
        Scope::Worktree => "worktree".to_owned(),
        Scope::Repo => "repo".to_owned(),
    });
    let names = names.iter().map(|name| format!("name {}", holder::readable(name)));
    holder::readable(&scope.into_iter().chain(names).collect::<Vec<_>>().join(", "))
}

impl Repo {
    /// Looks who holds and who waits. Takes no lock, never blocks, writes nothing.
    ///
    /// # Errors
    /// [`Error::NoRepository`] when `request` names something that needs a repository.
    pub fn inspect(&self, request: &Request) -> Result<Inspection> {
        let request = Request { mode: Mode::Exclusive, ..request.clone() };
        Ok(plan(self, &request, Sharing::default())?.inspect())
    }
}

/// Tells whether `REPOGUARD_TOKEN` is set to a token of this repository, or to none at all, and nothing is held or waited for
/// under it any more. One of another repository is in order: a command that works there may run commands here. Takes no lock.
#[must_use]
pub fn has_stray_token(repo: &Repo) -> bool {
    domain(repo).has_stray_token()
}
