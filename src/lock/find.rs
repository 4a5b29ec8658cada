//! Finds what a token stands for, the hold or the request that was made under it, and whether waiting for a request of somebody
//! else would be a deadlock.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{
    Holder, Waiting,
    cycle::{self, Graph, Place},
    enclosing::{EnclosingHolds, same_namespaces},
    queue::Queue,
    record::Table,
    records::Records,
    token::Token,
};
use crate::{
    env,
    error::{Error, Result},
    fs::Sharing,
    holder::HoldId,
    repo::Repo,
    sys,
};

/// What a token stands for.
pub(crate) enum Found {
    /// A live hold.
    Hold(Box<Holder>),
    /// A request that waits, and a descriptor that tells when it waits no longer.
    Request(Box<Holder>, Option<sys::Fd>),
}

/// Tells whether the hold with this fencing number lives. That of flock(1), 0, is not known, and taken to.
pub(crate) fn lives(repo: &Repo, fence: u64) -> bool {
    fence == 0 || any_lives(repo, |hold| hold.id == fence)
}

/// Tells whether a hold lives that is such a one.
pub(crate) fn any_lives(repo: &Repo, is_one: impl Fn(&Holder) -> bool) -> bool {
    let table = repo.holders_dir().map(|directory| Table::new(directory, Sharing::default()));
    table.is_some_and(|table| table.live().iter().any(is_one))
}

/// Finds what a token stands for; `None` when it is wrong, or its hold is over. Takes no lock and never blocks.
pub(crate) fn find(repo: &Repo, token: &Token) -> Option<Found> {
    let ours = |record: &Holder| token.is_of(record);
    let held = || Table::new(repo.holders_dir()?, Sharing::default()).live().into_iter().find(ours);
    if let Some(hold) = held() {
        return Some(Found::Hold(Box::new(hold)));
    }
    let queue = Queue::new(repo.queue_dir()?, Sharing::default());
    let waiting = queue.requests().into_iter().find(ours).map(|request| {
        let end = queue.end_of(request.id);
        Found::Request(Box::new(request), end)
    });
    // It may have got the lock since we looked for its hold.
    waiting.or_else(|| held().map(|hold| Found::Hold(Box::new(hold))))
}

/// As [`find`], but waits a moment for a hold or a request that cannot be seen: if somebody removed our files, its process
/// writes them again.
pub(crate) fn find_again(repo: &Repo, token: &Token) -> Option<Found> {
    /// How long that may take.
    const PATIENCE: Duration = Duration::from_secs(3);
    const PAUSE: Duration = Duration::from_millis(20);
    let begun = Instant::now();
    let has_ended = || {
        let table = repo.holders_dir().map(|directory| Table::new(directory, Sharing::default()));
        table.is_some_and(|table| table.has_ended(token))
    };
    let is_of_here = || {
        let table = repo.holders_dir().map(|directory| Table::new(directory, Sharing::default()));
        token.place().is_some_and(|place| table.is_some_and(|table| table.place() == place))
    };
    loop {
        let found = find(repo, token);
        if found.is_some() || !is_of_here() || has_ended() || begun.elapsed() > PATIENCE {
            return found;
        }
        std::thread::sleep(PAUSE);
    }
}

/// Tells whether `REPOGUARD_TOKEN` is set to a token of this repository, or to none at all, and nothing is held or waited for
/// under it any more. One of another repository is in order: a command that works there may run commands here. Takes no lock.
#[must_use]
pub fn has_stray_token(repo: &Repo) -> bool {
    let (Some(text), Some(directory)) = (env::text(env::TOKEN), repo.holders_dir()) else { return false };
    let token = Token::shown(&text);
    if token.as_str().is_empty() || find(repo, &token).is_some() {
        return false;
    }
    token.place().is_none_or(|place| place == Table::new(directory, Sharing::default()).place())
}

/// Tells how a request stands that waits elsewhere; `unchecked` are the records that [`refuse_cycle`] could not read.
pub(crate) fn tell_waiting(
    repo: &Repo,
    request: &Holder,
    unchecked: &[PathBuf],
    waited: Duration,
    tell: &mut dyn FnMut(&Waiting<'_>),
) {
    let look = || in_the_way(repo, request);
    tell(&Waiting { waited, ..Waiting::new(&what(repo, request), &look, unchecked) });
}

/// Fails if a request that waits elsewhere waits, directly or through others, for a hold that this process is inside of: then
/// waiting for it would be a deadlock. Returns the records that could not be read: a cycle through these is not seen.
///
/// # Errors
/// [`Error::Deadlock`].
pub(crate) fn refuse_cycle(repo: &Repo, request: &Holder) -> Result<Vec<PathBuf>> {
    let own = real_records(repo);
    let is_awaited = |place: &Path, other: &Holder| other.id == request.id && own.as_deref() == Some(place);
    refuse_cycle_through(repo, &what(repo, request), None, is_awaited)
}

/// As [`refuse_cycle`], for whatever waits, with this `hold` of its own, until some requests are served: `is_awaited` gets the
/// directory of the records that each is in.
///
/// # Errors
/// [`Error::Deadlock`].
pub(crate) fn refuse_cycle_through(
    repo: &Repo,
    what: &str,
    hold: Option<&Holder>,
    is_awaited: impl Fn(&Path, &Holder) -> bool,
) -> Result<Vec<PathBuf>> {
    let Some(own) = real_records(repo) else { return Ok(Vec::new()) };
    let records = Records::new(&own, Sharing::default());
    let mut around = EnclosingHolds::by_token(Some(&records.table));
    around.join(EnclosingHolds::by_kinship(Some(&records.table)));
    let (mut holds, mut unread) = around.elsewhere(&own, true);
    let here = around.ids().into_iter().chain(hold.map(|hold| hold.id));
    holds.extend(here.map(|id| HoldId { records: own.clone(), id }));
    let mut look = || {
        let mut graph = Graph::new(own.clone(), Place::read(&records));
        let cycle = graph.cycle_through(&holds, &is_awaited);
        unread.append(&mut graph.unread);
        cycle
    };
    // The records were read one after the other, and may never have been so together.
    match look().and_then(|_| look()) {
        Some(cycle) => Err(Error::Deadlock { what: what.to_owned(), cycle }),
        None => Ok(unread),
    }
}

/// Where the records are, by their real path, as other repositories know them.
fn real_records(repo: &Repo) -> Option<PathBuf> {
    let records = repo.records()?;
    Some(records.canonicalize().unwrap_or(records))
}

/// The error for a request that waits elsewhere, and longer than its asker wants to.
pub(crate) fn still_waits(repo: &Repo, request: &Holder, waited: Duration) -> Error {
    let (holders, ahead) = in_the_way(repo, request);
    Error::Busy { what: what(repo, request), holders, ahead, waited }
}

fn what(repo: &Repo, request: &Holder) -> String {
    format!("the lock of `{}` ({})", repo.root().display(), request.scope)
}

/// Who holds what a request waits for, and who waits before it.
fn in_the_way(repo: &Repo, request: &Holder) -> (Vec<Holder>, Vec<Holder>) {
    let table = repo.holders_dir().map(|directory| Table::new(directory, Sharing::default()));
    let queue = repo.queue_dir().map(|directory| Queue::new(directory, Sharing::default()));
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
