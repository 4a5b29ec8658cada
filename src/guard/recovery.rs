//! Recovers interrupted mutations before anybody else is admitted.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use super::{Context, Notice, Recovered, plan};
use crate::{
    error::{Error, Result},
    fs::Sharing,
    holder::{self, Holder, Mode},
    lock::{self, Acquired, Held, LockFile, Request, Scope, Wait},
    repo::{Checkout, Manner, Repo, Worktree},
    store::audit::{self, Entry, Event},
    sys::{self, Retry},
    transaction::{self, Choice, Journal, Unfinished},
};

/// How long a killed mutation may take to release its lock.
const ENDING: Retry = Retry::every(Duration::from_millis(1)).within(Duration::from_millis(100));

/// Tells whether there is a mutation that has not come to its end: one that runs, or one that was killed.
pub(super) fn is_in_the_way(repo: &Repo, worktree: &Worktree) -> bool {
    repo.mutation_dir(worktree).is_some_and(|directory| Journal::path(&directory).exists())
}

/// The lock of those who run or recover a mutation of a worktree; `None` if somebody else has it.
pub(super) fn try_lock(repo: &Repo, worktree: &Worktree, sharing: Sharing) -> Result<Option<LockFile>> {
    let Some(path) = repo.mutation_lock(worktree) else { return Ok(None) };
    let read_only = || Error::io("write", &path)(std::io::ErrorKind::ReadOnlyFilesystem.into());
    let lock = LockFile::open(&path, sharing)?.ok_or_else(read_only)?;
    let locked = lock.try_lock(Mode::Exclusive).map_err(|source| Error::NoLocks { path, source: Some(source) })?;
    Ok(locked.then_some(lock))
}

/// Recovers what is in the way of a request that does not cover a worktree alone: takes the worktree for that first. A present
/// holder of the worktree has recovered it already.
pub(super) fn before_acquire(context: Context<'_>, request: &Request) -> Result<()> {
    let repo = context.repo;
    if !repo.worktree().is_some_and(|worktree| is_in_the_way(repo, &worktree)) {
        return Ok(());
    }
    let alone = request.mode == Mode::Exclusive && (request.scope.is_some() || request.names.is_empty());
    if alone {
        return Ok(());
    }
    let whole = Request {
        scope: Some(Scope::Worktree),
        names: Vec::new(),
        mode: Mode::Exclusive,
        timeout: Some(Duration::ZERO),
        command: request.command.clone(),
        ..Request::default()
    };
    let plan = plan::plan(repo, &whole, context.sharing)?;
    match lock::acquire(plan, &whole, &mut Wait { signals: None, report: &mut |_| {} }) {
        Ok(Acquired::Held(held)) => {
            let recovered = in_hold(context, &held);
            held.release();
            recovered
        }
        Ok(Acquired::Inside(_)) | Err(Error::Busy { .. } | Error::Deadlock { .. } | Error::NeverGranted { .. }) => {
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// Recovers what is in the way inside of a hold around us, in which the earlier mutation ran as well: if it still runs, it has the
/// mutations' lock.
pub(super) fn inside(context: Context<'_>, request: &Request) -> Result<()> {
    let repo = context.repo;
    let worktree = repo.worktree().filter(|worktree| is_in_the_way(repo, worktree));
    let Some(worktree) = worktree.filter(|_| request.mode == Mode::Exclusive) else { return Ok(()) };
    let mut ending = ENDING.into_iter();
    let lock = loop {
        if let Some(lock) = try_lock(repo, &worktree, context.sharing)? {
            break lock;
        }
        if runs(repo, &worktree) || ending.next().is_none() {
            return Ok(());
        }
    };
    lock.unlock();
    match recover(context, &worktree, Choice::AsPredicted) {
        Err(Error::Busy { .. }) => Ok(()),
        recovered => recovered.map(drop),
    }
}

/// Tells whether the process that began a mutation lives. A killed one may take a moment to release its lock.
fn runs(repo: &Repo, worktree: &Worktree) -> bool {
    let plan = repo.mutation_dir(worktree).and_then(|directory| Journal::read(&directory)).map(|(plan, _)| plan);
    plan.is_none_or(|plan| sys::process_state(plan.pid).is_some_and(|state| !state.zombie))
}

/// Recovers what is in the way in all worktrees that a hold covers alone.
pub(super) fn in_hold(context: Context<'_>, held: &Held) -> Result<()> {
    let repo = context.repo;
    if held.record().mode != Some(Mode::Exclusive) {
        return Ok(());
    }
    // Those of a copy lead to the worktrees of the original: there it is recovered.
    let own = repo.worktree();
    let is_ours = |worktree: &&Worktree| own.as_ref() == Some(worktree) || repo.is_at_home(worktree);
    let worktrees = plan::worktrees(held);
    let interrupted = worktrees.iter().filter(|worktree| is_in_the_way(repo, worktree)).filter(is_ours);
    let mut recover = interrupted.map(|worktree| recover(context, worktree, Choice::AsPredicted));
    recover.try_for_each(|recovered| recovered.map(drop))
}

/// Settles a mutation, if one is in the way; the caller holds the worktree alone.
pub(super) fn recover(context: Context<'_>, worktree: &Worktree, choice: Choice) -> Result<Option<Recovered>> {
    let Context { repo, config, sharing, .. } = context;
    if is_in_the_way(repo, worktree) {
        is_its_own(repo, worktree, choice)?;
    }
    let repo = &of_worktree(repo, worktree)?;
    let Some(lock) = try_lock(repo, worktree, sharing)? else {
        let what = format!("a mutation of `{}`", repo.root().display());
        return Err(Error::Busy { what, holders: Vec::new(), ahead: Vec::new(), waited: Duration::ZERO });
    };
    let recovered = (|| {
        // One that cannot be read can still be forgotten.
        let unfinished = transaction::inspect(repo, worktree, Manner::Writing);
        let recovered = transaction::recover(repo, worktree, choice, sharing, config.snapshot_limit()?)?;
        let recovered = recovered.map(Recovered::new);
        if let (Some(recovered), Ok(Some(unfinished))) = (&recovered, &unfinished) {
            context.notify(Notice::Recovered(unfinished, recovered));
            context.report(audit::append(repo, &entry(unfinished, recovered), sharing));
        }
        Ok(recovered)
    })();
    lock.unlock();
    recovered
}

/// Its entry in the log.
fn entry(unfinished: &Unfinished, recovered: &Recovered) -> Entry {
    let now = holder::unix_ms(SystemTime::now());
    let how = match recovered {
        Recovered::Forgotten => "forgotten",
        Recovered::Undone(_) => "undone",
        Recovered::Finished(_) => "finished",
    };
    let mutation = Holder {
        id: unfinished.fence,
        pid: unfinished.pid,
        user: unfinished.user.clone(),
        host: unfinished.host.clone(),
        command: unfinished.command.clone(),
        directory: unfinished.directory.clone(),
        scope: "worktree".to_owned(),
        mode: Some(Mode::Exclusive),
        reason: Some(how.to_owned()),
        requested_ms: now,
        released_ms: Some(now),
        ..Holder::default()
    };
    Entry::new(Event::Recovered, &mutation)
}

/// Fails if recovery would reach files away from the caller: those of the original, if this is a copy of a worktree, or of a
/// directory that only the repository's own configuration names (`core.worktree`).
pub(super) fn is_its_own(repo: &Repo, worktree: &Worktree, choice: Choice) -> Result<()> {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let is_here = repo.worktree().is_some_and(|own| own == *worktree);
    let elsewhere = match repo.original().filter(|_| is_here) {
        Some(original) => original,
        None if choice == Choice::Finish || !is_here => return Ok(()),
        None => {
            let checkout = Checkout::find(repo, Manner::Reading, "recovery")?;
            if Checkout::is_named_by_user() || real(&checkout.root) == real(repo.root()) {
                return Ok(());
            }
            checkout.root
        }
    };
    let what = format!("its files are at `{}`; recover it there", elsewhere.display());
    Err(Error::Unfinished { what })
}

/// The repository as seen from one of its worktrees.
pub(super) fn of_worktree(repo: &Repo, worktree: &Worktree) -> Result<Repo> {
    let own = repo.worktree().is_some_and(|own| own == *worktree);
    let seen = if own { repo.clone() } else { repo.seen_from(&worktree.git_dir) };
    let root = match Checkout::find(&seen, Manner::Reading, "recovery") {
        Ok(checkout) => checkout.root,
        Err(error) if own => return Err(error),
        Err(_) => return Ok(seen),
    };
    Ok(seen.at(&root))
}
