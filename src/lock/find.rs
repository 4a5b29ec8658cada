//! Finds what a token stands for: the hold or the request that was made under it.

use std::time::{Duration, Instant};

use super::{Holder, inspect::runs_this_program, queue::Queue, record::Table, token::Token};
use crate::{
    env,
    fs::{self, Sharing},
    repo::Repo,
    sys,
};

/// The hold or request of a token.
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

/// Tells whether the hold of a token has ended, and was not exclusive to the end.
pub(crate) fn was_lost(repo: &Repo, token: &Token) -> bool {
    repo.holders_dir().is_some_and(|directory| Table::new(directory, Sharing::default()).was_lost(token))
}

/// Tells whether a process does nothing but keep a token's hold or request: it has the slot or the ticket open, and is not a
/// command's wrapper. A record may name any process.
pub(crate) fn is_keeper(repo: &Repo, token: &Token, pid: u32) -> bool {
    let slot = || {
        let live = Table::new(repo.holders_dir()?, Sharing::default()).live_slots();
        live.into_iter().find(|(_, hold)| token.is_of(hold)).map(|(slot, _)| slot.file)
    };
    let ticket = || {
        let queue = Queue::new(repo.queue_dir()?, Sharing::default());
        let request = queue.requests().into_iter().find(|request| token.is_of(request))?;
        queue.ticket_file(request.id)
    };
    let Some(file) = slot().or_else(ticket) else { return false };
    let is_ours = runs_this_program(pid);
    let acquires = || sys::command_line(pid).is_some_and(|words| words.iter().any(|word| word == "acquire"));
    // If the system does not show open files, the process's program decides, or that nobody else can have written the record.
    let is_private = || repo.git_dir().or(Some(repo.root())).is_some_and(|place| !fs::is_shared(place));
    let has_it = sys::has_open(pid, file).unwrap_or_else(|| is_private() || (is_ours && !sys::SHOWS_OPEN_FILES));
    has_it && (!is_ours || acquires())
}

/// As [`find`], but waits a moment for a hold or a request that cannot be seen: if somebody removed our files, its process
/// writes them again. Not for the hold of a token that `is_over`, by its fencing number.
pub(crate) fn find_again(repo: &Repo, token: &Token, is_over: impl FnOnce(u64) -> bool) -> Option<Found> {
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
    let found = find(repo, token);
    if found.is_some() || token.fence().is_none_or(is_over) {
        return found;
    }
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
