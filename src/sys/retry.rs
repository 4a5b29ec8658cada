//! Repeats a look or a try at intervals: the only place that sleeps.

use std::time::{Duration, Instant};

/// A schedule of tries: how long they go on, and the pauses between them.
///
/// The iterator blocks between two items. Each is the time since the first. There is always a first one, at once, and a last one when the
/// time is over.
#[derive(Debug, Clone, Copy)]
#[must_use = "it does nothing until it is iterated over"]
pub(crate) struct Retry {
    most: Duration,
    pause: Duration,
    longest: Duration,
}

impl Retry {
    /// Tries without end, with this pause between two.
    pub(crate) const fn every(pause: Duration) -> Self {
        Self { most: Duration::MAX, pause, longest: pause }
    }

    /// Ends when so much time has passed.
    pub(crate) const fn within(self, most: Duration) -> Self {
        Self { most, ..self }
    }

    /// Doubles the pause each time, up to this one.
    pub(crate) const fn slowing_to(self, longest: Duration) -> Self {
        Self { longest, ..self }
    }

    /// Blocks until `is_done`, which is asked at least once; `false` if the time was over before.
    pub(crate) fn until(self, mut is_done: impl FnMut() -> bool) -> bool {
        self.into_iter().any(|_| is_done())
    }
}

impl IntoIterator for Retry {
    type Item = Duration;
    type IntoIter = Tries;

    fn into_iter(self) -> Tries {
        Tries { schedule: self, begun: None }
    }
}

/// The tries of a [`Retry`] that has begun.
#[derive(Debug)]
pub(crate) struct Tries {
    schedule: Retry,
    begun: Option<Instant>,
}

impl Iterator for Tries {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let Some(begun) = self.begun else {
            self.begun = Some(Instant::now());
            return Some(Duration::ZERO);
        };
        let Retry { most, pause, longest } = self.schedule;
        let left = most.saturating_sub(begun.elapsed());
        if left.is_zero() {
            return None;
        }
        std::thread::sleep(pause.min(left));
        self.schedule.pause = (pause * 2).min(longest);
        Some(begun.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedule_tries_at_once_and_once_more_when_time_is_over() {
        let tries: Vec<Duration> =
            Retry::every(Duration::from_secs(60)).within(Duration::from_millis(5)).into_iter().collect();
        assert_eq!(tries.len(), 2, "{tries:?}");
        assert_eq!(tries[0], Duration::ZERO);
        assert!(tries[1] >= Duration::from_millis(5), "{tries:?}");
        assert_eq!(Retry::every(Duration::ZERO).within(Duration::ZERO).into_iter().count(), 1);
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        let schedule = Retry::every(Duration::from_micros(1)).slowing_to(Duration::from_micros(5));
        let mut tries = schedule.into_iter();
        let pauses: Vec<u128> = (0..5).map(|_| (tries.next(), tries.schedule.pause.as_micros()).1).collect();
        assert_eq!(pauses, [1, 2, 4, 5, 5]);
    }

    #[test]
    fn until_ends_with_the_answer_or_with_the_time() {
        let mut asked = 0;
        assert!(Retry::every(Duration::from_micros(10)).until(|| {
            asked += 1;
            asked == 3
        }));
        assert!(!Retry::every(Duration::from_micros(10)).within(Duration::from_micros(50)).until(|| false));
    }
}
