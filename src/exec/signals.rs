//! Which signals does the command get from us? Those sent to repoguard alone, once; those of the terminal or of a whole
//! process group it got itself.
//!
//! Wrapper and keeper are in the command's process group. What reaches both was sent to the group, and so to the
//! command; what reaches only one of them was meant for repoguard, and is passed on. The wrapper decides, because it is
//! the command's parent and so knows for sure which process its number means.

use std::time::{Duration, Instant};

/// How long the second of two processes may take to get a signal that was sent to the group: the kernel queues it for
/// all members in one go, so this only has to cover a busy machine.
const SECOND_WITHIN: Duration = Duration::from_millis(20);

/// Who reported a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Witness {
    Wrapper,
    Keeper,
}

/// Signals that one of the two got, until it is clear whether the other got them, too.
#[derive(Debug, Default)]
pub(super) struct Pending {
    signals: Vec<(i32, Witness, Instant)>,
}

impl Pending {
    /// Notes a signal; what both got is done with.
    pub(super) fn note(&mut self, signal: i32, witness: Witness, now: Instant) {
        let other = self.signals.iter().position(|(pending, by, _)| *pending == signal && *by != witness);
        match other {
            Some(index) => drop(self.signals.remove(index)),
            None => self.signals.push((signal, witness, now)),
        }
    }

    /// Takes the signals that only one process got, all of them when there is `no_other` witness.
    pub(super) fn due(&mut self, now: Instant, no_other: bool) -> Vec<i32> {
        let (due, pending) =
            self.signals.drain(..).partition(|(_, _, since)| no_other || now.duration_since(*since) >= SECOND_WITHIN);
        self.signals = pending;
        let due: Vec<(i32, Witness, Instant)> = due;
        due.into_iter().map(|(signal, ..)| signal).collect()
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.signals.iter().map(|(_, _, since)| *since + SECOND_WITHIN).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signal_that_both_got_is_not_passed_on() {
        let (mut pending, now) = (Pending::default(), Instant::now());
        pending.note(15, Witness::Keeper, now);
        pending.note(15, Witness::Wrapper, now);
        assert!(pending.due(now + Duration::from_secs(1), false).is_empty());
    }

    #[test]
    fn signal_that_one_got_is_passed_on_after_a_moment() {
        let (mut pending, now) = (Pending::default(), Instant::now());
        pending.note(15, Witness::Wrapper, now);
        assert!(pending.due(now, false).is_empty());
        assert_eq!(pending.next(), Some(now + SECOND_WITHIN));
        assert_eq!(pending.due(now + SECOND_WITHIN, false), [15]);
    }

    #[test]
    fn two_signals_to_one_are_two() {
        let (mut pending, now) = (Pending::default(), Instant::now());
        pending.note(10, Witness::Wrapper, now);
        pending.note(10, Witness::Wrapper, now);
        assert_eq!(pending.due(now, true), [10, 10]);
    }
}
