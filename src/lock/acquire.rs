//! Acquires a lock: ours already → free → a place in the queue, or busy.

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use super::{
    Acquired, Plan, Request, Wait,
    attempt::{Acquire, open_parts},
    enclosing::{Cover, EnclosingHolds, descent_from},
    held::Held,
    visit::{Inside, Visits},
    waiter::Waiter,
};
use crate::{
    env,
    error::Result,
    holder::{self, HoldId, Holder},
    sys,
};

/// How an acquire began.
pub(crate) enum Entered {
    /// The lock is ours now.
    Held(Box<Held>),
    /// It was ours already: this process runs inside a hold that covers the request.
    Inside(Box<Inside>),
    /// Somebody is before us.
    Waiting(Box<Waiter>),
}

/// Acquires what a plan locks, waiting as long as the request says.
///
/// # Errors
/// Those of [`crate::Error`] for a lock that is busy, that can never be granted, or that does not work, and
/// [`crate::Error::Interrupted`]. After an error nothing is left that could still take the lock.
pub(crate) fn acquire(plan: Plan, request: &Request, wait: &mut Wait<'_>) -> Result<Acquired> {
    match plan.enter(request, &Asker::Program)? {
        Entered::Held(held) => Ok(Acquired::Held(held)),
        Entered::Inside(inside) => Ok(Acquired::Inside(inside)),
        Entered::Waiting(waiter) => waiter.wait(wait).map(Acquired::Held),
    }
}

/// The kind of requester.
pub(crate) enum Asker<'a> {
    /// A program that asks for nothing else meanwhile.
    Program,
    /// One of many within a program, inside of these holds of its own. It may sleep for an instant only if it `may_block`.
    Part { holds: &'a [HoldId], may_block: bool },
}

impl Plan {
    /// How other domains' requests name a hold of this lock.
    pub(crate) fn id_of(&self, held: &Held) -> HoldId {
        HoldId { records: self.domain.real_records().unwrap_or_default(), id: held.record().id }
    }

    /// Acquires without waiting, or else takes a place in the queue.
    ///
    /// # Errors
    /// As [`acquire`].
    pub(crate) fn enter(mut self, request: &Request, asker: &Asker<'_>) -> Result<Entered> {
        request.check()?;
        let (record, around_us) = (describe(request, &self), self.domain.records_around);
        let (table, queue) = (self.domain.table_for(self.sharing), self.domain.queue_for(self.sharing));
        let mut around = EnclosingHolds::by_token(table.as_ref());
        around.enter(table.as_ref());
        if let Cover::Whole = around.reduce(&mut self)? {
            return Ok(inside(around, record));
        }
        let mut acquire = Acquire {
            what: self.what.clone(),
            parts: open_parts(&mut self)?,
            records: self.domain.records.clone().unwrap_or_default(),
            plan: self,
            table,
            queue,
            record,
            unread: Vec::new(),
            queue_counts: true,
            token: None,
            visits: Visits::default(),
        };
        (acquire.record.elsewhere, acquire.unread) = around.elsewhere(&acquire.records, around_us, false);
        acquire.describe_surroundings(&around, asker);
        if acquire.nobody_before() && acquire.try_all()?.is_none() {
            acquire.visits = around.into_visits();
            return acquire.hold().map(Entered::Held);
        }
        around.join(EnclosingHolds::by_kinship(acquire.table.as_ref()));
        around.enter(acquire.table.as_ref());
        if let Cover::Whole = around.reduce(&mut acquire.plan)? {
            return Ok(inside(around, std::mem::take(&mut acquire.record)));
        }
        if acquire.drop_covered_parts()? {
            return Ok(inside(around, std::mem::take(&mut acquire.record)));
        }
        let may_block = !matches!(asker, Asker::Part { may_block: false, .. });
        if may_block && acquire.is_covered_by_late_records(&mut around)? {
            return Ok(inside(around, std::mem::take(&mut acquire.record)));
        }
        // Holds in other repositories matter only to a request that may have to wait.
        acquire.records = acquire.records.canonicalize().unwrap_or(std::mem::take(&mut acquire.records));
        (acquire.record.elsewhere, acquire.unread) = around.elsewhere(&acquire.records, around_us, true);
        acquire.describe_surroundings(&around, asker);
        acquire.visits = around.into_visits();
        if acquire.nobody_before() && acquire.try_all()?.is_none() {
            return acquire.hold().map(Entered::Held);
        }
        let unchecked = acquire.refuse_cycle(None, true)?;
        if request.timeout == Some(Duration::ZERO) {
            let (may_pass, may_sleep) = match asker {
                Asker::Program => (!request.holds_git_lock, true),
                Asker::Part { may_block, .. } => (*may_block, *may_block),
            };
            acquire.try_once(may_pass, may_sleep)?;
            return acquire.hold().map(Entered::Held);
        }
        let ticket = acquire.queue_up()?;
        Ok(Entered::Waiting(Box::new(Waiter::new(acquire, ticket, request.timeout, unchecked))))
    }
}

impl Acquire {
    /// Waits a moment for the records of holds that may be around us and have none; tells whether these cover everything.
    fn is_covered_by_late_records(&mut self, around: &mut EnclosingHolds) -> Result<bool> {
        if env::get(env::TOKEN).is_some() && self.is_held_without_record() {
            around.join(EnclosingHolds::by_token_again(self.table.as_ref()));
        }
        if self.may_be_inside() && self.is_held_without_record() {
            around.join(EnclosingHolds::by_kinship_again(self.table.as_ref()));
        }
        around.enter(self.table.as_ref());
        if let Cover::Whole = around.reduce(&mut self.plan)? {
            return Ok(true);
        }
        let resources = &self.plan.resources;
        self.parts.retain(|part| resources.iter().any(|(key, _)| *key == part.plan.resource));
        Ok(false)
    }

    /// Tells in the record which holds are around us, and what remains to be asked for.
    fn describe_surroundings(&mut self, around: &EnclosingHolds, asker: &Asker<'_>) {
        let Self { record, records, plan, unread, .. } = self;
        record.inside = around.ids();
        record.resources.clone_from(&plan.resources);
        if let Asker::Part { holds, .. } = asker {
            let own = if holds.is_empty() { None } else { records.canonicalize().ok() };
            for hold in *holds {
                if Some(&hold.records) == own.as_ref() {
                    record.inside.push(hold.id);
                } else if !record.elsewhere.contains(hold) {
                    record.elsewhere.push(hold.clone());
                }
            }
        }
        describe_elsewhere(record, unread);
    }
}

/// A hold around this process covers the request.
fn inside(around: EnclosingHolds, record: Holder) -> Entered {
    let record = Holder { inside: around.ids(), ..record };
    Entered::Inside(Box::new(Inside { outer: around.outer(), visits: around.into_visits(), record }))
}

fn describe(request: &Request, plan: &Plan) -> Holder {
    let us = std::process::id();
    let process = request.for_process.filter(|process| *process != us);
    Holder {
        pid: process.unwrap_or(us),
        waiter: process.map(|_| us),
        takers: process.map(|_| us).into_iter().collect(),
        command: request.command.clone(),
        scope: plan.scope.clone(),
        mode: Some(request.mode),
        reason: request.reason.clone(),
        metadata: request.metadata.clone(),
        descent: process.and_then(descent_from),
        ..this_process(&plan.domain.root)
    }
}

/// A record of this process, which asks for nothing yet.
pub(super) fn this_process(root: &Path) -> Holder {
    let directory = std::env::current_dir().unwrap_or_else(|_| root.to_owned());
    Holder {
        schema: holder::SCHEMA,
        pid: std::process::id(),
        pid_namespace: sys::pid_namespace(),
        time_namespace: sys::time_namespace(),
        boot_ms: sys::boot_ms(),
        host: sys::host(),
        user: sys::acting_user(),
        agent: env::agent().map(str::to_owned),
        directory: holder::readable(&directory.to_string_lossy()),
        requested_ms: holder::unix_ms(SystemTime::now()),
        ..Holder::default()
    }
}

/// Adds as many holds of other repositories as fit into the record. The records of the others are `unread`.
pub(super) fn describe_elsewhere(record: &mut Holder, unread: &mut Vec<PathBuf>) {
    /// Longest list, in bytes of their paths.
    const MOST: usize = 2000;
    let mut bytes = 0;
    record.elsewhere.retain(|hold| {
        bytes += hold.records.as_os_str().len() + 40;
        let fits = bytes <= MOST && hold.records.to_str().is_some();
        if !fits {
            unread.push(hold.records.clone());
        }
        fits
    });
}
