//! Compares commands: every variant once a round, in random order; medians of ratios.
//!
//! A ratio is taken within a round, where both ran under the same load, and the median over all rounds: a noisy
//! machine then moves the microseconds, hardly the ratios.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Stdio,
    time::Instant,
};

use super::process;

/// Rounds before the measured ones, in which lock files are created and caches filled.
const WARM_UP: usize = 5;

/// A command to be timed.
pub struct Variant {
    /// How the table calls it.
    pub name: String,
    /// Where it runs.
    pub directory: PathBuf,
    /// The program by its path, then its arguments.
    pub words: Vec<OsString>,
}

impl Variant {
    /// A variant that runs `program` with `arguments` in `directory`.
    pub fn new(name: impl Into<String>, directory: &Path, program: &Path, arguments: &[&str]) -> Self {
        let words = std::iter::once(program.into()).chain(arguments.iter().map(Into::into)).collect();
        Self { name: name.into(), directory: directory.to_owned(), words }
    }

    /// From before it is started until it was waited for, in microseconds.
    fn run(&self) -> f64 {
        let mut command = process::command(self.words[0].as_ref());
        command.args(&self.words[1..]).current_dir(&self.directory).stderr(Stdio::inherit());
        let start = Instant::now();
        let status = command.status();
        let elapsed = start.elapsed();
        let status = status.unwrap_or_else(|error| panic!("{} does not start: {error}", self.name));
        assert!(status.success(), "{} failed: {status}", self.name);
        elapsed.as_secs_f64() * 1e6
    }
}

/// Microseconds of each variant in each round.
pub struct Timings(Vec<Vec<f64>>);

impl Timings {
    /// Starts every variant once per round, in an order of its own each time.
    ///
    /// # Panics
    /// When a variant does not end with status 0.
    pub fn measure(variants: &[Variant], rounds: usize, dice: &mut Dice) -> Self {
        let mut timings = vec![Vec::with_capacity(rounds); variants.len()];
        for round in 0..WARM_UP + rounds {
            for index in dice.order(variants.len()) {
                let elapsed = variants[index].run();
                if round >= WARM_UP {
                    timings[index].push(elapsed);
                }
            }
        }
        Self(timings)
    }

    /// Median of a variant, in microseconds.
    pub fn median(&self, variant: usize) -> f64 {
        quantile(self.0[variant].clone(), 0.5)
    }

    /// First quartile, median and third quartile of the ratios of one variant to another in the same round.
    pub fn ratio(&self, variant: usize, base: usize) -> [f64; 3] {
        let ratios: Vec<f64> = self.0[variant].iter().zip(&self.0[base]).map(|(one, other)| one / other).collect();
        [0.25, 0.5, 0.75].map(|share| quantile(ratios.clone(), share))
    }
}

/// A ratio with its quartiles, for a table.
pub fn ratio_text([low, median, high]: [f64; 3]) -> String {
    format!("{median:.2} ({low:.2} to {high:.2})")
}

/// The value that `share` of all values do not exceed; 0 where there are none.
pub fn quantile(mut values: Vec<f64>, share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a small index"
    )]
    let rank = (share * values.len() as f64).ceil() as usize;
    values.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}

/// Random orders; xorshift is random enough for them and needs no crate.
pub struct Dice(u64);

impl Dice {
    /// Dice that fall the same way for the same seed.
    pub fn new(seed: u64) -> Self {
        Self(seed ^ 0x9E37_79B9_7F4A_7C15)
    }

    /// The numbers below `count` in random order.
    pub fn order(&mut self, count: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..count).collect();
        for last in (1..count).rev() {
            order.swap(last, self.below(last + 1));
        }
        order
    }

    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).expect("31 bits fit") % limit
    }
}
