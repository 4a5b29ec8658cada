//! How is a lock acquired? Ours already → free → a place in the queue, or busy.

use std::time::{Duration, Instant, SystemTime};

use super::{
    Acquired, Request, Wait,
    attempt::{Acquire, open_parts},
    family::{Cover, Family},
    held::Held,
    queue::Queue,
    queued::Queued,
    record::Table,
    request::Plan,
};
use crate::{
    env,
    error::Result,
    fs::Sharing,
    holder::{self, Holder},
    repo::Repo,
    sys,
};

/// How an acquire began.
pub(crate) enum Entered {
    /// The lock is ours now.
    Held(Box<Held>),
    /// It was ours already: this process runs inside the hold with this fencing number (0: one of flock(1)), which covers the
    /// request.
    Inside(u64),
    /// Somebody is before us.
    Queued(Box<Queued>),
}

/// Acquires what `request` asks for, waiting as long as it says.
///
/// # Errors
/// Those of [`crate::Error`] for a lock that is busy, that can never be granted, or that does not work, and
/// [`crate::Error::Interrupted`]. After an error nothing is left that could still take the lock.
pub(crate) fn acquire(repo: &Repo, request: &Request, sharing: Sharing, wait: &mut Wait<'_>) -> Result<Acquired> {
    match enter(repo, request, sharing)? {
        Entered::Held(held) => Ok(Acquired::Held(held)),
        Entered::Inside(_) => Ok(Acquired::Inside),
        Entered::Queued(queued) => queued.wait(wait).map(Acquired::Held),
    }
}

/// Acquires what `request` asks for without waiting, or else takes a place in the queue.
///
/// # Errors
/// As [`acquire`].
pub(crate) fn enter(repo: &Repo, request: &Request, sharing: Sharing) -> Result<Entered> {
    begin(repo, request, Plan::new(repo, request, sharing)?)
}

/// As [`acquire`], but only what a new worktree needs before it is there: that nobody locks everything. It is locked by
/// [`Held::take_in`] then.
///
/// # Errors
/// As [`acquire`].
pub(crate) fn acquire_for_new_worktree(
    repo: &Repo,
    request: &Request,
    sharing: Sharing,
    wait: &mut Wait<'_>,
) -> Result<Acquired> {
    match begin(repo, request, Plan::for_new_worktree(repo, sharing)?)? {
        Entered::Held(held) => Ok(Acquired::Held(held)),
        Entered::Inside(_) => Ok(Acquired::Inside),
        Entered::Queued(queued) => queued.wait(wait).map(Acquired::Held),
    }
}

fn begin(repo: &Repo, request: &Request, mut plan: Plan) -> Result<Entered> {
    let (started, sharing) = (SystemTime::now(), plan.sharing);
    let table = repo.holders_dir().map(|directory| Table::new(directory, sharing));
    let queue = repo.queue_dir().map(|directory| Queue::new(directory, sharing));

    let mut family = Family::by_token(table.as_ref());
    if let Cover::Whole = family.reduce(&mut plan)? {
        return Ok(Entered::Inside(family.outer()));
    }
    let mut acquire = Acquire {
        what: plan.what.clone(),
        parts: open_parts(&plan)?,
        plan,
        table,
        queue,
        family: Vec::new(),
        queue_counts: true,
        token: None,
    };
    acquire.family = family.ids();

    if acquire.nobody_before(None) && acquire.try_all()?.is_none() {
        let record = describe(repo, request, &acquire.plan, &acquire.family, started);
        return acquire.hold(record).map(Entered::Held);
    }
    family.join(Family::by_kinship(acquire.table.as_ref()));
    if let Cover::Whole = family.reduce(&mut acquire.plan)? {
        return Ok(Entered::Inside(family.outer()));
    }
    acquire.family = family.ids();
    if acquire.drop_covered_parts()? {
        return Ok(Entered::Inside(family.outer()));
    }
    let record = describe(repo, request, &acquire.plan, &acquire.family, started);
    if acquire.nobody_before(None) && acquire.try_all()?.is_none() {
        return acquire.hold(record).map(Entered::Held);
    }
    acquire.refuse_cycle(&record)?;
    if request.timeout == Some(Duration::ZERO) {
        acquire.try_once()?;
        return acquire.hold(record).map(Entered::Held);
    }
    let begun = Instant::now();
    let ticket = acquire.queue_up(&record)?;
    Ok(Entered::Queued(Box::new(Queued { acquire, record, ticket, begun, timeout: request.timeout })))
}

fn describe(repo: &Repo, request: &Request, plan: &Plan, inside: &[u64], started: SystemTime) -> Holder {
    let directory = std::env::current_dir().unwrap_or_else(|_| repo.root().to_owned());
    let us = std::process::id();
    Holder {
        schema: holder::SCHEMA,
        pid: request.for_process.unwrap_or(us),
        takers: request.for_process.map(|_| us).into_iter().collect(),
        pid_namespace: sys::pid_namespace(),
        boot_ms: sys::boot_ms(),
        host: sys::host(),
        user: env::user().unwrap_or_else(sys::effective_user_name),
        agent: env::agent().map(str::to_owned),
        command: request.command.clone(),
        directory: holder::readable(&directory.to_string_lossy()),
        scope: plan.scope.clone(),
        mode: Some(request.mode),
        reason: request.reason.as_deref().map(holder::readable),
        requested_ms: holder::unix_ms(started),
        inside: inside.to_vec(),
        resources: plan.resources.clone(),
        ..Holder::default()
    }
}
