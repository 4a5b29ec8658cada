//! Keeps the time of a wait: how long it was, when it ends, and when a word is due.

use std::time::{Duration, Instant};

use super::{Wait, Waiting};
use crate::error::{Error, Result};

/// When a wait began, ends, and has something to say.
#[derive(Debug, Clone)]
pub(crate) struct Clock {
    begun: Instant,
    deadline: Option<Instant>,
    next_word: Instant,
}

impl Clock {
    /// The wait began then; it has no limit with `None`.
    pub(crate) fn new(begun: Instant, timeout: Option<Duration>) -> Self {
        // A time beyond what the clock can tell is none.
        let deadline = timeout.and_then(|timeout| begun.checked_add(timeout));
        Self { begun, deadline, next_word: begun + Wait::GRACE }
    }

    /// How long to wait at most, until the next word is due or the time is over; says the word that is due now.
    ///
    /// # Errors
    /// [`Error::Busy`] when the time is over.
    pub(crate) fn pause(&mut self, waiting: &Waiting<'_>, report: &mut dyn FnMut(&Waiting<'_>)) -> Result<Duration> {
        let now = Instant::now();
        let waited = now - self.begun;
        if self.deadline.is_some_and(|deadline| now >= deadline) {
            let (holders, ahead) = waiting.holders_and_ahead();
            return Err(Error::Busy { what: waiting.what.to_owned(), holders, ahead, waited });
        }
        if now >= self.next_word {
            report(&Waiting { waited, ..*waiting });
            self.next_word = now + Wait::TICK;
        }
        let wake = self.deadline.map_or(self.next_word, |deadline| deadline.min(self.next_word));
        Ok(wake.saturating_duration_since(now))
    }
}
