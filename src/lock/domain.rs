//! Names the directory that a lock belongs to, and finds holds and requests in its records.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use super::{Holder, PathPlace, inspect::runs_this_program, queue::Queue, record::Table, token::Token};
use crate::{
    env,
    fs::{self, Sharing},
    sys::{self, Retry},
};

/// The directory that a lock belongs to: a repository, or what is locked at a path.
#[derive(Debug, Clone)]
pub(crate) struct Domain {
    /// As a user calls it.
    pub(crate) root: PathBuf,
    /// The directory that all its worktrees share.
    pub(crate) common: PathBuf,
    /// The records of holders and waiters. Without a directory for them none are kept.
    pub(crate) records: Option<PathBuf>,
    pub(crate) records_around: RecordsAround,
}

/// Finds the records that a process in some directory would use.
pub(super) type RecordsAround = fn(&Path) -> Option<PathBuf>;

/// The hold or request of a token.
pub(crate) enum Found {
    /// A live hold.
    Hold(Box<Holder>),
    /// A request that waits, and a descriptor that tells when it waits no longer.
    Request(Box<Holder>, Option<sys::Fd>),
}

impl Domain {
    pub(super) fn of_path(place: &PathPlace) -> Self {
        Self {
            root: place.directory().to_owned(),
            common: place.directory().to_owned(),
            records: Some(place.records()),
            records_around: |_| None,
        }
    }

    /// The records of holders, to be read.
    pub(super) fn table(&self) -> Option<Table> {
        self.table_for(Sharing::default())
    }

    /// The records of holders, to be written with these permissions.
    pub(super) fn table_for(&self, sharing: Sharing) -> Option<Table> {
        self.records.as_ref().map(|records| Table::new(records.join("holders"), sharing))
    }

    /// The queue, to be read.
    pub(super) fn queue(&self) -> Option<Queue> {
        self.queue_for(Sharing::default())
    }

    /// The queue, to be entered with these permissions.
    pub(super) fn queue_for(&self, sharing: Sharing) -> Option<Queue> {
        self.records.as_ref().map(|records| Queue::new(records.join("queue"), sharing))
    }

    /// The real path of the records, as records of other domains name it.
    pub(super) fn real_records(&self) -> Option<PathBuf> {
        let records = self.records.clone()?;
        Some(records.canonicalize().unwrap_or(records))
    }

    /// Tells whether the hold with this fencing number lives. That of flock(1), 0, is not known, and taken to.
    pub(crate) fn lives(&self, fence: u64) -> bool {
        fence == 0 || self.any_lives(|hold| hold.id == fence)
    }

    /// Tells whether a hold lives that is such a one.
    pub(crate) fn any_lives(&self, is_one: impl Fn(&Holder) -> bool) -> bool {
        self.table().is_some_and(|table| table.live().iter().any(is_one))
    }

    /// Finds what a token stands for; `None` when it is wrong, or its hold is over. Takes no lock and never blocks.
    pub(crate) fn find(&self, token: &Token) -> Option<Found> {
        let ours = |record: &Holder| token.is_of(record);
        let held = || self.table()?.live().into_iter().find(ours);
        if let Some(hold) = held() {
            return Some(Found::Hold(Box::new(hold)));
        }
        let queue = self.queue()?;
        let waiting = queue.requests().into_iter().find(ours).map(|request| {
            let end = queue.end_of(request.id);
            Found::Request(Box::new(request), end)
        });
        // It may have got the lock since we looked for its hold.
        waiting.or_else(|| held().map(|hold| Found::Hold(Box::new(hold))))
    }

    /// Tells whether the hold of a token has ended, and was not exclusive to the end.
    pub(crate) fn was_lost(&self, token: &Token) -> bool {
        self.table().is_some_and(|table| table.was_lost(token))
    }

    /// Tells whether a process only keeps a token's hold or request: it has the slot or the ticket open, and is not a command's
    /// wrapper. A record may name any process.
    pub(crate) fn is_keeper(&self, token: &Token, pid: u32) -> bool {
        let slot = || {
            let live = self.table()?.live_slots();
            live.into_iter().find(|(_, hold)| token.is_of(hold)).map(|(slot, _)| slot.file)
        };
        let ticket = || {
            let queue = self.queue()?;
            let request = queue.requests().into_iter().find(|request| token.is_of(request))?;
            queue.ticket_file(request.id)
        };
        let Some(file) = slot().or_else(ticket) else { return false };
        let is_ours = runs_this_program(pid);
        let acquires = || sys::command_line(pid).is_some_and(|words| words.iter().any(|word| word == "acquire"));
        // If the system does not show open files, the process's program decides, or that nobody else can have written the record.
        let is_private = || !fs::is_shared(&self.common);
        let has_it = sys::has_open(pid, file).unwrap_or_else(|| is_private() || (is_ours && !sys::SHOWS_OPEN_FILES));
        has_it && (!is_ours || acquires())
    }

    /// As [`Domain::find`], but waits a moment for a hold or a request that cannot be seen: if somebody removed our files, its
    /// process writes them again. Not for the hold of a token that `is_over`, by its fencing number.
    pub(crate) fn find_again(&self, token: &Token, is_over: impl FnOnce(u64) -> bool) -> Option<Found> {
        /// How long that may take.
        const SOON: Retry = Retry::every(Duration::from_millis(20)).within(Duration::from_secs(3));
        let has_ended = || self.table().is_some_and(|table| table.has_ended(token));
        let is_of_here = || token.place().is_some_and(|place| self.table().is_some_and(|table| table.place() == place));
        let mut found = self.find(token);
        if found.is_none() && !token.fence().is_none_or(is_over) {
            SOON.until(|| {
                found = self.find(token);
                found.is_some() || !is_of_here() || has_ended()
            });
        }
        found
    }

    /// Tells whether `REPOGUARD_TOKEN` is set to a token of this domain, or to none at all, and nothing is held or waited for under
    /// it any more. One of another domain is in order: a command that works there may run commands here. Takes no lock.
    pub(crate) fn has_stray_token(&self) -> bool {
        let (Some(text), Some(table)) = (env::text(env::TOKEN), self.table()) else { return false };
        let token = Token::shown(&text);
        if token.as_str().is_empty() || self.find(&token).is_some() {
            return false;
        }
        token.place().is_none_or(|place| place == table.place())
    }
}
