//! Waits for a request that somebody else made, and finds out whether that would be a deadlock.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    Domain, Holder, Mode, Waiting,
    acquire::{describe_elsewhere, this_process},
    cycle::{self, Graph, Place},
    enclosing::EnclosingHolds,
    live::same_namespaces,
    queue::{Queue, Ticket},
    record::Table,
    records::Records,
};
use crate::{
    error::{Error, Result},
    fs::Sharing,
    holder::HoldId,
    sys,
};

/// Tells how a request of somebody else stands; `unchecked` are the records that [`Awaiting::look`] could not read.
pub(crate) fn report_waiting(
    domain: &Domain,
    request: &Holder,
    unchecked: &[PathBuf],
    waited: Duration,
    report: &mut dyn FnMut(&Waiting<'_>),
) {
    let look = || in_the_way(domain, request);
    report(&Waiting { waited, ..Waiting::new(&what(domain, request), &look, unchecked) });
}

/// Fails if one of the requests that `is_awaited`, by the directory of its records, waits for a hold that this process is inside
/// of, or for `hold`, directly or through others: then waiting for it would be a deadlock. Instead of a hold, it may be the key of a
/// resource that is held around us, perhaps without a record.
///
/// # Errors
/// [`Error::Deadlock`].
pub(crate) fn refuse_cycle_through(
    domain: &Domain,
    what: &str,
    hold: std::result::Result<&Holder, Option<String>>,
    is_awaited: impl Fn(&Path, &Holder) -> bool,
) -> Result<()> {
    let Some(mut around) = Around::look(domain) else { return Ok(()) };
    match hold {
        Ok(hold) => around.holds.push(HoldId { records: around.records.clone(), id: hold.id }),
        Err(key) => around.unrecorded = key.map(|key| (key, Mode::Exclusive)),
    }
    match around.cycle(&is_awaited) {
        Some(cycle) => Err(Error::Deadlock { what: what.to_owned(), cycle }),
        None => Ok(()),
    }
}

/// The holds around this process, in this repository and in others.
struct Around {
    records: PathBuf,
    holds: Vec<HoldId>,
    /// A resource that may be held around it without a record.
    unrecorded: Option<(String, Mode)>,
    /// Directories of records that could not be read: a cycle through these is not seen.
    unread: Vec<PathBuf>,
}

impl Around {
    /// `None` in a domain without records.
    fn look(domain: &Domain) -> Option<Self> {
        let records = domain.real_records()?;
        let table = Records::new(&records, Sharing::default()).table;
        let mut around = EnclosingHolds::by_token(Some(&table));
        around.join(EnclosingHolds::by_kinship(Some(&table)));
        let (mut holds, unread) = around.elsewhere(&records, domain.records_around, true);
        holds.extend(around.ids().into_iter().map(|id| HoldId { records: records.clone(), id }));
        Some(Self { records, holds, unrecorded: None, unread })
    }

    /// The requests on a cycle that this process closes by waiting for one that `is_awaited`, that one first.
    fn cycle(&mut self, is_awaited: &dyn Fn(&Path, &Holder) -> bool) -> Option<Vec<Holder>> {
        let records = Records::new(&self.records, Sharing::default());
        let unrecorded =
            self.unrecorded.iter().map(|held| Holder { resources: vec![held.clone()], ..Holder::default() });
        let unrecorded: Vec<Holder> = unrecorded.collect();
        let ids = unrecorded.iter().map(|hold| HoldId { records: self.records.clone(), id: hold.id });
        let holds: Vec<HoldId> = self.holds.iter().cloned().chain(ids).collect();
        let mut look = || {
            let mut place = Place::read(&records);
            place.holds.extend(unrecorded.iter().cloned());
            let mut graph = Graph::new(self.records.clone(), place);
            let cycle = graph.cycle_through(&holds, is_awaited);
            self.unread.append(&mut graph.unread);
            cycle
        };
        // The records were read one after the other, and may never have been so together.
        look().and_then(|_| look())
    }
}

/// A wait for a request of somebody else, as long as it lasts.
pub(crate) struct Awaiting<'a> {
    domain: &'a Domain,
    sharing: Sharing,
    /// A ticket that asks for nothing, so that others see what we wait for. `None` without a hold around us, or without a queue:
    /// then only we see a cycle.
    ticket: Option<Ticket>,
    /// The number of the request that the ticket names.
    number: u64,
}

impl<'a> Awaiting<'a> {
    pub(crate) fn new(domain: &'a Domain) -> Self {
        Self { domain, sharing: Sharing::of(Some(&domain.common)), ticket: None, number: 0 }
    }

    /// Tells others that we wait for this request, and fails if that would be a deadlock. Returns the records that could not be
    /// read: a cycle through these is not seen.
    ///
    /// # Errors
    /// [`Error::Deadlock`].
    pub(crate) fn look(&mut self, request: &Holder) -> Result<Vec<PathBuf>> {
        let Some(mut around) = Around::look(self.domain) else { return Ok(Vec::new()) };
        let records = around.records.clone();
        let is_awaited = |place: &Path, other: &Holder| other.id == request.id && place == records;
        let is_new = self.number != request.id || !self.ticket.as_ref().is_none_or(Ticket::is_in_place);
        let refuse = |cycle| Err(Error::Deadlock { what: what(self.domain, request), cycle });
        if let Some(cycle) = around.cycle(&is_awaited) {
            return refuse(cycle);
        }
        if is_new && !around.holds.is_empty() {
            let queue = Records::new(&records, self.sharing).queue;
            self.ticket = None;
            self.ticket = queue.enter(&self.record(request, &mut around), || Ok(())).ok();
            self.number = request.id;
            // Two may have told it at once: then the younger one fails.
            let number = self.ticket.as_ref().map_or(0, |ticket| ticket.number);
            let is_ours = |cycle: &Vec<Holder>| cycle.iter().all(|other| other.id < number);
            if let Some(cycle) = around.cycle(&is_awaited).filter(is_ours) {
                return refuse(cycle);
            }
        }
        Ok(around.unread)
    }

    fn record(&self, request: &Holder, around: &mut Around) -> Holder {
        let (here, elsewhere): (Vec<_>, Vec<_>) =
            around.holds.iter().cloned().partition(|hold| hold.records == around.records);
        let mut record = Holder {
            command: "repoguard wait".to_owned(),
            scope: request.scope.clone(),
            awaits: Some(request.id),
            inside: here.into_iter().map(|hold| hold.id).collect(),
            elsewhere,
            ..this_process(&self.domain.root)
        };
        describe_elsewhere(&mut record, &mut around.unread);
        record
    }
}

/// The error for a request that waits elsewhere, and longer than its asker wants to.
pub(crate) fn still_waits(domain: &Domain, request: &Holder, waited: Duration) -> Error {
    let (holders, ahead) = in_the_way(domain, request);
    Error::Busy { what: what(domain, request), holders, ahead, waited }
}

fn what(domain: &Domain, request: &Holder) -> String {
    format!("the lock of `{}` ({})", domain.root.display(), request.scope)
}

/// The holders that a request waits for, and the waiters before it.
fn in_the_way(domain: &Domain, request: &Holder) -> (Vec<Holder>, Vec<Holder>) {
    let (table, queue) = (domain.table(), domain.queue());
    let mut holders = table.as_ref().map(Table::live).unwrap_or_default();
    let mut ahead = queue.as_ref().map(Queue::requests).unwrap_or_default();
    holders.retain(|hold| cycle::conflict(hold, request));
    ahead.retain(|other| other.id < request.id && cycle::conflict(other, request));
    (holders, ahead)
}

/// The processes above the one that waits with a request; none if they cannot be seen from here.
pub(crate) fn waiter_ancestors(request: &Holder) -> Vec<u32> {
    if !same_namespaces(request) {
        return Vec::new();
    }
    sys::ancestors_of(request.waiter.unwrap_or(request.pid)).collect()
}
