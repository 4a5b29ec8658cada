//! Records when a holder had the lock: this program itself, started again as the command under the lock.
//!
//! `--stamp FILE LABEL` appends a line `START END LABEL`, in nanoseconds of the monotonic clock, which is one for all
//! processes. `--loop COUNT FILE LABEL PROGRAM ARGUMENTS…` runs `PROGRAM ARGUMENTS… SELF --stamp FILE LABEL` that often.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs::{self, OpenOptions},
    io::Write,
    path::Path,
    process::Command,
    thread,
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};

/// How long a holder works.
const HOLD: Duration = Duration::from_millis(1);

/// One hold as its command saw it.
#[derive(Debug, Clone, Copy)]
pub struct Stamp {
    /// When the command began, in nanoseconds of the monotonic clock.
    pub start: i64,
    /// When it was about to end.
    pub end: i64,
    /// Which command it was.
    pub label: usize,
}

/// Does what a hidden mode asks for; false when none was asked for.
pub fn run(arguments: &[OsString]) -> bool {
    match arguments {
        [mode, file, label] if mode == "--stamp" => stamp(file, label),
        [mode, count, file, label, words @ ..] if mode == "--loop" => repeat(count, file, label, words),
        _ => return false,
    }
    true
}

/// The words that make `program` append a stamp.
pub fn words(program: &Path, file: &Path, label: usize) -> [OsString; 4] {
    [program.into(), "--stamp".into(), file.into(), label.to_string().into()]
}

/// The arguments that make this program run `words` again and again, each time to append a stamp.
pub fn loop_words(count: usize, file: &Path, label: usize, words: &[OsString]) -> Vec<OsString> {
    let mut all = vec!["--loop".into(), count.to_string().into(), file.into(), label.to_string().into()];
    all.extend_from_slice(words);
    all
}

/// Reads what was appended, in the order of the holds.
pub fn read(file: &Path) -> Vec<Stamp> {
    let text = fs::read_to_string(file).expect("somebody had the lock and has written");
    let mut stamps: Vec<Stamp> = text.lines().map(|line| parse(line).expect("a stamp is written at once")).collect();
    stamps.sort_by_key(|stamp| stamp.start);
    stamps
}

fn parse(line: &str) -> Option<Stamp> {
    let mut words = line.split(' ');
    let mut number = || words.next()?.parse::<i64>().ok();
    Some(Stamp { start: number()?, end: number()?, label: usize::try_from(number()?).ok()? })
}

fn stamp(file: &OsStr, label: &OsStr) {
    let start = now();
    thread::sleep(HOLD);
    let end = now();
    let line = format!("{start} {end} {}\n", label.display());
    let mut file = OpenOptions::new().append(true).create(true).open(file).expect("the scratch directory is writable");
    file.write_all(line.as_bytes()).expect("the scratch directory is writable");
}

fn repeat(count: &OsStr, file: &OsStr, label: &OsStr, words: &[OsString]) {
    let count: usize = count.to_str().and_then(|text| text.parse().ok()).expect("the bench gives a number");
    let this = env::current_exe().expect("Linux knows the path of a running program");
    for _ in 0..count {
        let mut command = Command::new(&words[0]);
        let status = command.args(&words[1..]).arg(&this).arg("--stamp").arg(file).arg(label).status();
        assert!(status.expect("the program runs elsewhere in this bench too").success(), "{command:?} failed");
    }
}

fn now() -> i64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}
