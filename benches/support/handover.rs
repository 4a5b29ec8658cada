//! Measures how fast and how fair the lock changes hands, beside `flock(1)`.

use std::{collections::HashMap, env, fs, path::Path};

use super::{
    rounds::quantile,
    setup::Setup,
    stamp::{self, Stamp},
    storm::{Crew, Holder, Lock},
    table::{Table, Target},
};

/// How many wait, and how many storms of that size make up 300 rounds.
const STORMS: [(usize, usize); 5] = [(2, 100), (8, 25), (32, 10), (64, 5), (1000, 1)];

/// How many loop without a pause, and how often each asks.
const LOOPS: [(usize, usize); 2] = [(8, 20), (32, 20)];

/// Gap between two holds that the median may be above that of `flock(1)`, in milliseconds.
const MEDIAN_OVER: f64 = 0.3;

/// Gap that 99 of 100 must not exceed, in milliseconds.
const P99: f64 = 5.0;

/// The size from which on the scan of the queue's directory may add its own 0.3 ms.
const MANY: usize = 1000;

/// What the holds of one storm or several add up to.
#[derive(Default)]
struct Tally {
    /// Milliseconds from the end of one hold to the start of the next.
    gaps: Vec<f64>,
    /// Pairs of which the later one was served first.
    inversions: usize,
    /// Holds that began before the one before had ended.
    overlaps: usize,
}

impl Tally {
    fn add(&mut self, stamps: &[Stamp]) {
        for pair in stamps.windows(2) {
            let gap = pair[1].start - pair[0].end;
            #[expect(clippy::cast_precision_loss, reason = "a few milliseconds in nanoseconds")]
            self.gaps.push(gap as f64 / 1e6);
            self.overlaps += usize::from(gap < 0);
        }
        for (index, stamp) in stamps.iter().enumerate() {
            self.inversions += stamps[index + 1..].iter().filter(|later| later.label < stamp.label).count();
        }
    }

    fn at(&self, share: f64) -> f64 {
        quantile(self.gaps.clone(), share)
    }
}

/// Measures storms and closed loops.
pub fn tables(setup: &Setup) -> Vec<Table> {
    let repo = setup.repository("handover");
    let build = &setup.builds[0];
    let locks = [Lock::flock(&setup.flock, &repo), Lock::repoguard("repoguard", &build.program, &repo)];
    let file = repo.root.join("stamps");
    vec![storms(setup, &locks, &file), loops(setup, &locks, &file)]
}

fn storms(setup: &Setup, locks: &[Lock; 2], file: &Path) -> Table {
    let mut table = Table::new(
        "hand-over: N waiters behind a holder, each holds for 1 ms",
        &["N", "lock", "p50, ms", "p99, ms", "p50 over flock(1), ms", "inversions", "overlaps"],
    );
    for (waiters, at_300) in STORMS {
        let mut tallies = [Tally::default(), Tally::default()];
        for _ in 0..setup.scaled(at_300) {
            let order = setup.dice.borrow_mut().order(locks.len());
            for index in order {
                tallies[index].add(&storm(&locks[index], waiters, file));
            }
        }
        let flock_median = tallies[0].at(0.5);
        for (index, tally) in tallies.iter().enumerate() {
            let over = tally.at(0.5) - flock_median;
            let allowed = if waiters < MANY { MEDIAN_OVER } else { 2.0 * MEDIAN_OVER };
            let target = if index == 0 {
                Target::none()
            } else {
                Target::that(
                    format!("p50 ≤ {allowed} over, p99 ≤ {P99}, no inversion, no overlap"),
                    over <= allowed && tally.at(0.99) <= P99 && tally.inversions + tally.overlaps == 0,
                )
            };
            let numbers = [tally.at(0.5), tally.at(0.99), over].map(|value| format!("{value:.2}"));
            let counts = [tally.inversions, tally.overlaps].map(|count| count.to_string());
            let cells = [waiters.to_string(), locks[index].name.clone()].into_iter().chain(numbers).chain(counts);
            table.row(cells, target);
        }
    }
    table
}

fn loops(setup: &Setup, locks: &[Lock; 2], file: &Path) -> Table {
    let mut table = Table::new(
        "closed loop: N processes that ask again at once, each hold 1 ms",
        &["N", "lock", "hand-overs", "immediate re-acquires by the releaser", "overlaps"],
    );
    for (processes, entries) in LOOPS {
        let order = setup.dice.borrow_mut().order(locks.len());
        let mut rows = [None, None];
        for index in order {
            rows[index] = Some(closed_loop(&locks[index], processes, entries, file));
        }
        for (index, stamps) in rows.into_iter().flatten().enumerate() {
            let contended = until_first_is_done(&stamps, entries);
            let again = contended.windows(2).filter(|pair| pair[0].label == pair[1].label).count();
            let overlaps = stamps.windows(2).filter(|pair| pair[1].start < pair[0].end).count();
            let target = if index == 0 { Target::none() } else { Target::that("none of both", again + overlaps == 0) };
            let counts = [contended.len().saturating_sub(1), again, overlaps].map(|count| count.to_string());
            table.row([processes.to_string(), locks[index].name.clone()].into_iter().chain(counts), target);
        }
    }
    table
}

/// Queues `waiters` behind a holder and returns their holds. The label is the place in the queue.
fn storm(lock: &Lock, waiters: usize, file: &Path) -> Vec<Stamp> {
    let this = env::current_exe().expect("Linux knows the path of a running program");
    let holder = Holder::take(lock);
    let mut crew = Crew::default();
    for place in 0..waiters {
        crew.start(lock.command().args(stamp::words(&this, file, place)));
        lock.wait_for(place + 1);
    }
    holder.release();
    crew.finish();
    collect(file, waiters)
}

/// Lets `processes` loop, all queued before the first is served. The label is the process.
fn closed_loop(lock: &Lock, processes: usize, entries: usize, file: &Path) -> Vec<Stamp> {
    let this = env::current_exe().expect("Linux knows the path of a running program");
    let holder = Holder::take(lock);
    let mut crew = Crew::default();
    for process in 0..processes {
        let words = stamp::loop_words(entries, file, process, &lock.words);
        crew.start(lock.looping(&this).args(words));
        lock.wait_for(process + 1);
    }
    holder.release();
    crew.finish();
    collect(file, processes * entries)
}

/// The holds up to the end of the first process: after it there may be nobody left to hand over to.
fn until_first_is_done(stamps: &[Stamp], entries: usize) -> &[Stamp] {
    let mut seen = HashMap::<usize, usize>::new();
    let end = stamps.iter().position(|stamp| {
        let count = seen.entry(stamp.label).or_default();
        *count += 1;
        *count == entries
    });
    &stamps[..end.map_or(stamps.len(), |index| index + 1)]
}

fn collect(file: &Path, expected: usize) -> Vec<Stamp> {
    let stamps = stamp::read(file);
    assert_eq!(stamps.len(), expected, "everybody who waited was served once");
    fs::remove_file(file).expect("the scratch directory is writable");
    stamps
}
