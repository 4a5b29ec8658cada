//! Passes signals on to the command: those sent to repoguard alone, once. Those of the terminal or of a whole process
//! group it got itself.
//!
//! Wrapper and keeper are in the command's process group. A signal that reaches both was sent to the group, and so to the command.
//! A signal that reaches only one of them was meant for repoguard, and is passed on. The wrapper decides, because as the command's
//! parent it knows which process its number means. It never concludes from a silence: it asks the keeper, whose answer comes after
//! all signals that it got.
//!
//! Of several equal signals that come close together the kernel may deliver one. So they are not counted: what both got
//! between two answers is one burst, and what one of them alone got in that time is a part of it.
//!
//! # Limitations
//! In the command's first millisecond there is no keeper, and a signal to the group looks like one to repoguard. It is passed on,
//! so a command that already catches it gets it twice. The kernel marks a terminal's signals, so these need no keeper.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use crate::sys;

/// How long the second of two processes may take to get a signal that was sent to the group: the kernel queues it for
/// all members in one go, so this only has to cover that.
const SECOND_WITHIN: Duration = Duration::from_millis(20);

/// The process that reported a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Witness {
    Wrapper,
    Keeper,
}

/// A signal that one of the two got.
#[derive(Debug)]
struct Got {
    signal: i32,
    witness: Witness,
    at: Instant,
}

impl Got {
    fn ripe_at(&self) -> Instant {
        self.at + SECOND_WITHIN
    }
}

/// All signals of which it is not clear yet who got them.
#[derive(Debug, Default)]
pub(super) struct Pending {
    got: Vec<Got>,
    /// When the keeper was asked what else it got, and has not answered.
    asked: Option<Instant>,
    /// Signals that both got, the wrapper once more after its question: the keeper may report that in its next answer.
    covered: BTreeSet<i32>,
}

impl Pending {
    /// Notes a signal.
    pub(super) fn note(&mut self, signal: i32, witness: Witness, now: Instant) {
        self.got.push(Got { signal, witness, at: now });
    }

    /// Forgets signals that a later one has undone.
    pub(super) fn forget(&mut self, signals: &[i32]) {
        self.got.retain(|got| !signals.contains(&got.signal));
    }

    /// Tells whether the keeper must be asked now what else it got.
    pub(super) fn must_ask(&mut self, now: Instant) -> bool {
        let open = !self.covered.is_empty() || self.got.iter().any(|got| got.ripe_at() <= now);
        let must = open && !self.is_asked();
        if must {
            self.asked = Some(now);
        }
        must
    }

    /// Tells whether the keeper still owes an answer.
    pub(super) fn is_asked(&self) -> bool {
        self.asked.is_some()
    }

    /// There is a new keeper: the previous one will not answer.
    pub(super) fn ask_anew(&mut self) {
        self.asked = None;
    }

    /// The keeper has answered, and all that we got until then was noted: what is to be passed on.
    pub(super) fn answered(&mut self, now: Instant) -> Vec<i32> {
        let Some(asked) = self.asked.take() else { return Vec::new() };
        self.judge(asked, now)
    }

    /// Without a keeper, nobody else can have got a signal: returns those to pass on.
    pub(super) fn alone(&mut self, now: Instant) -> Vec<i32> {
        let ever = now + SECOND_WITHIN;
        self.ask_anew();
        self.judge(ever, ever)
    }

    /// When to look again.
    pub(super) fn next(&self) -> Option<Instant> {
        if self.is_asked() { None } else { self.got.iter().map(Got::ripe_at).min() }
    }

    fn judge(&mut self, asked: Instant, now: Instant) -> Vec<i32> {
        let mut passed_on = Vec::new();
        let mut covered = BTreeSet::new();
        let signals: BTreeSet<i32> = self.got.iter().map(|got| got.signal).collect();
        for signal in signals {
            let of = |witness| self.got.iter().filter(move |got| got.signal == signal && got.witness == witness);
            let late = of(Witness::Wrapper).any(|got| got.at > asked);
            let (ours, keepers) = (of(Witness::Wrapper).next().is_some(), of(Witness::Keeper).next().is_some());
            if ours && keepers {
                self.forget(&[signal]);
                covered.extend(late.then_some(signal));
            } else if keepers && self.covered.contains(&signal) {
                self.forget(&[signal]);
            } else {
                let until = if ours { asked } else { now };
                let ripe = self.got.extract_if(.., |got| got.signal == signal && got.ripe_at() <= until).count();
                // A stop that only the keeper reports may be older than the SIGCONT that undid it here.
                let counts = ours || !sys::STOPS.contains(&signal);
                passed_on.extend(std::iter::repeat_n(signal, if counts { ripe } else { 0 }));
            }
        }
        self.covered = covered;
        passed_on
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATER: Duration = SECOND_WITHIN;

    #[test]
    fn signal_that_both_got_is_not_passed_on() {
        let (mut pending, now) = (Pending::default(), Instant::now());
        pending.note(15, Witness::Keeper, now);
        pending.note(15, Witness::Wrapper, now);
        assert!(pending.must_ask(now + LATER));
        assert!(pending.answered(now + LATER).is_empty());
        assert!(!pending.must_ask(now + 9 * LATER), "that is settled");
    }

    #[test]
    fn two_signals_of_which_the_keeper_got_one_are_not_passed_on() {
        let (mut pending, now) = (Pending::default(), Instant::now());
        pending.note(15, Witness::Wrapper, now);
        pending.note(15, Witness::Wrapper, now);
        pending.note(15, Witness::Keeper, now);
        pending.note(15, Witness::Wrapper, now);
        assert!(pending.must_ask(now + LATER));
        assert!(pending.answered(now + LATER).is_empty());
    }

    #[test]
    fn signal_that_the_wrapper_got_is_passed_on_when_the_keeper_says_that_it_did_not() {
        let (mut pending, now) = (Pending::default(), Instant::now());
        pending.note(15, Witness::Wrapper, now);
        assert!(!pending.must_ask(now), "the keeper may get it in a moment");
        assert!(pending.must_ask(now + LATER));
        assert!(!pending.must_ask(now + LATER), "once is enough");
        assert_eq!(pending.answered(now + LATER), [15]);
    }

    #[test]
    fn signal_that_the_keeper_got_is_passed_on_after_a_moment() {
        let (mut pending, now) = (Pending::default(), Instant::now());
        pending.note(15, Witness::Keeper, now);
        pending.note(sys::STOPS[0], Witness::Keeper, now);
        assert!(!pending.must_ask(now));
        assert!(pending.must_ask(now + LATER));
        assert_eq!(pending.answered(now + LATER), [15], "and no stop");
    }

    #[test]
    fn signal_that_came_after_the_question_is_for_the_next_answer() {
        let (mut pending, now) = (Pending::default(), Instant::now());
        pending.note(15, Witness::Wrapper, now);
        assert!(pending.must_ask(now + LATER));
        pending.note(10, Witness::Wrapper, now + LATER);
        assert_eq!(pending.answered(now + 2 * LATER), [15]);
        assert_eq!(pending.next(), Some(now + 2 * LATER));
        assert!(pending.must_ask(now + 2 * LATER));
        assert_eq!(pending.answered(now + 3 * LATER), [10]);
    }

    #[test]
    fn burst_that_the_keeper_tells_of_in_two_answers_is_not_passed_on() {
        let (mut pending, now) = (Pending::default(), Instant::now());
        pending.note(15, Witness::Wrapper, now);
        pending.note(15, Witness::Keeper, now);
        assert!(pending.must_ask(now + LATER));
        // Sent to all again: the keeper has just answered.
        pending.note(15, Witness::Wrapper, now + LATER + LATER / 2);
        assert!(pending.answered(now + 2 * LATER).is_empty());
        assert!(pending.must_ask(now + 2 * LATER), "it may have more to tell");
        pending.note(15, Witness::Keeper, now + 2 * LATER);
        assert!(pending.answered(now + 4 * LATER).is_empty());
        // One of its own, later, is not taken for a part of that.
        pending.note(15, Witness::Keeper, now + 5 * LATER);
        assert!(pending.must_ask(now + 6 * LATER));
        assert_eq!(pending.answered(now + 6 * LATER), [15]);
    }

    #[test]
    fn question_that_the_keeper_took_with_it_is_asked_again() {
        let (mut pending, now) = (Pending::default(), Instant::now());
        pending.note(15, Witness::Wrapper, now);
        assert!(pending.must_ask(now + LATER) && pending.is_asked());
        pending.ask_anew();
        assert_eq!(pending.next(), Some(now + LATER));
        assert!(pending.must_ask(now + 2 * LATER));
        assert_eq!(pending.answered(now + 2 * LATER), [15]);
    }

    #[test]
    fn two_signals_without_a_keeper_are_two() {
        let (mut pending, now) = (Pending::default(), Instant::now());
        pending.note(10, Witness::Wrapper, now);
        pending.note(10, Witness::Wrapper, now);
        assert_eq!(pending.alone(now), [10, 10]);
    }
}
