//! Which signals does the command get from us? Those sent to repoguard alone, once; those of the terminal or of a whole
//! process group it got itself.
//!
//! Wrapper and keeper are in the command's process group. What reaches both was sent to the group, and so to the
//! command; what reaches only one of them was meant for repoguard, and is passed on. The wrapper decides, because it is
//! the command's parent and so knows for sure which process its number means. It never concludes from a silence: it asks
//! the keeper, whose answer comes after all it has seen.

use std::time::{Duration, Instant};

/// How long the second of two processes may take to get a signal that was sent to the group: the kernel queues it for
/// all members in one go, so this only has to cover that.
const SECOND_WITHIN: Duration = Duration::from_millis(20);

/// Who reported a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Witness {
    Wrapper,
    Keeper,
}

/// A signal that one of the two got, until it is clear whether the other got it, too.
#[derive(Debug)]
struct Single {
    signal: i32,
    witness: Witness,
    judged_at: Instant,
    asked: bool,
}

/// All signals of which that is not clear yet.
#[derive(Debug, Default)]
pub(super) struct Pending {
    signals: Vec<Single>,
    /// Signals that both got, and until when more of the same are taken for parts of the same burst: of two that come
    /// together the kernel may deliver one.
    settled: Vec<(i32, Instant)>,
}

impl Pending {
    /// Notes a signal; what both got is done with.
    pub(super) fn note(&mut self, signal: i32, witness: Witness, now: Instant) {
        self.settled.retain(|(_, until)| *until > now);
        if self.settled.iter().any(|(settled, _)| *settled == signal) {
            return;
        }
        if self.signals.iter().any(|single| single.signal == signal && single.witness != witness) {
            self.forget(&[signal]);
            self.settled.push((signal, now + SECOND_WITHIN));
        } else {
            self.signals.push(Single { signal, witness, judged_at: now + SECOND_WITHIN, asked: false });
        }
    }

    /// Forgets signals that a later one has undone.
    pub(super) fn forget(&mut self, signals: &[i32]) {
        self.signals.retain(|single| !signals.contains(&single.signal));
    }

    /// Tells whether the keeper must be asked now what else it got.
    pub(super) fn must_ask(&mut self, now: Instant) -> bool {
        let open = self
            .signals
            .iter_mut()
            .filter(|single| single.witness == Witness::Wrapper && !single.asked && single.judged_at <= now);
        open.fold(false, |_, single| {
            single.asked = true;
            true
        })
    }

    /// The keeper has answered: it got nothing that it had not told before.
    pub(super) fn answered(&mut self) -> Vec<i32> {
        self.take(|single| single.witness == Witness::Wrapper && single.asked)
    }

    /// What is to be passed on without an answer: what the keeper alone got, and everything when there is no `keeper`.
    pub(super) fn due(&mut self, now: Instant, keeper: bool) -> Vec<i32> {
        self.take(|single| !keeper || (single.witness == Witness::Keeper && single.judged_at <= now))
    }

    /// When to look again.
    pub(super) fn next(&self) -> Option<Instant> {
        self.signals.iter().filter(|single| !single.asked).map(|single| single.judged_at).min()
    }

    fn take(&mut self, wanted: impl Fn(&Single) -> bool) -> Vec<i32> {
        self.signals.extract_if(.., |single| wanted(single)).map(|single| single.signal).collect()
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
        assert!(pending.due(now + Duration::from_secs(1), true).is_empty());
        assert!(!pending.must_ask(now + Duration::from_secs(1)));
    }

    #[test]
    fn two_signals_of_which_the_keeper_got_one_are_not_passed_on() {
        let (mut pending, now) = (Pending::default(), Instant::now());
        pending.note(15, Witness::Wrapper, now);
        pending.note(15, Witness::Wrapper, now);
        pending.note(15, Witness::Keeper, now);
        pending.note(15, Witness::Wrapper, now);
        assert!(!pending.must_ask(now + SECOND_WITHIN));
    }

    #[test]
    fn signal_that_the_wrapper_got_is_passed_on_when_the_keeper_says_that_it_did_not() {
        let (mut pending, now) = (Pending::default(), Instant::now());
        pending.note(15, Witness::Wrapper, now);
        assert!(!pending.must_ask(now), "the keeper may get it in a moment");
        assert!(pending.must_ask(now + SECOND_WITHIN));
        assert!(pending.due(now + Duration::from_secs(1), true).is_empty(), "no answer is no answer");
        assert_eq!(pending.answered(), [15]);
    }

    #[test]
    fn signal_that_the_keeper_got_is_passed_on_after_a_moment() {
        let (mut pending, now) = (Pending::default(), Instant::now());
        pending.note(15, Witness::Keeper, now);
        assert!(pending.due(now, true).is_empty());
        assert_eq!(pending.due(now + SECOND_WITHIN, true), [15]);
    }

    #[test]
    fn two_signals_without_a_keeper_are_two() {
        let (mut pending, now) = (Pending::default(), Instant::now());
        pending.note(10, Witness::Wrapper, now);
        pending.note(10, Witness::Wrapper, now);
        assert_eq!(pending.due(now, false), [10, 10]);
    }
}
