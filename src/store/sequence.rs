//! Records which numbers of a sequence were given: one record a sequence, on disk before a number is given out.
//!
//! # Invariants
//! - A number is given once, through kills and power loss: it is printed only after both copies of the record on disk hold it, or a
//!   greater one. A written number that was never printed is a gap.
//! - A record that cannot be read is an error, never a new beginning. It comes into being whole, under its name in one
//!   step; the directories above it are on disk before its first number is.
//! - The record is the lock as well: its removal ends the sequence, but nobody can hold another lock for the same record. It is
//!   never replaced, renamed or truncated, and is looked up again after the write.
//! - The lock is held for one write. Patterns are looked for before, so that a large repository makes nobody wait: what
//!   others were given meanwhile stands in the record.
//!
//! # Format
//! `sequences/<hash of the name>`: two copies, 4096 bytes each, padded with spaces. Each is a JSON object: `schema` 1, `sequence`
//! (the name), `last` (0: none was given yet) and `check`, the first 32 hex digits of the SHA-256 of schema, name and number. One
//! write writes both; a write that a power loss cuts short spoils at most one of them, whose number was not printed yet. The
//! greater whole copy counts.
//!
//! # Limitations
//! If the record was deleted, its sequence begins again, after the numbers that patterns find. A copy of the git directory is
//! another repository. A disk that reports unwritten data as written can lose the last numbers.

use std::{fs::File, num::NonZeroU64, ops::RangeInclusive, path::PathBuf, time::Duration};

use hmac_sha256::Hash as Sha256;
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result, listed},
    escape::hex,
    fs::{self, Beside, Sharing},
    lock::{LockFile, Patience, Short},
    repo::{Config, Repo, ScanPattern, Seen},
    sys::Retry,
};

const SCHEMA: u32 = 1;
/// Bytes of a copy: a block of a disk, so that a write that fails in one leaves the other alone.
const COPY: usize = 4096;
/// Longest name, in bytes.
const LONGEST_NAME: usize = 1000;
/// How long to wait for others, each of whom takes milliseconds unless it was stopped there.
const PATIENCE: Duration = Duration::from_secs(30);
/// The record may be deleted while it is used; who does that again and again gets an error.
const TRIES: usize = 10;
/// How long a record may be half written.
const HALF_WRITTEN: Retry = Retry::every(Duration::from_millis(1)).within(Duration::from_millis(10));

/// Numbers that are given once each, to all processes and worktrees of a repository.
///
/// # Example
/// ```
/// use repoguard::{Config, Repo, sequence::{Sequence, SequenceOptions}};
///
/// # let directory = tempfile::tempdir()?;
/// # std::process::Command::new("git").args(["init", "-q"]).current_dir(directory.path()).status()?;
/// # let here = directory.path();
/// let repo = Repo::discover(here)?;
/// let sequence = Sequence::open(&repo, &Config::load(&repo)?, "adr")?;
/// let options = SequenceOptions::default().scan("docs/adr/{}-*.md".parse()?);
/// assert_eq!(sequence.next(&options)?.numbers, 1..=1);
/// assert_eq!(sequence.next(&options)?.numbers, 2..=2, "whether or not the first one was used");
/// assert_eq!(sequence.last()?, Some(2));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Sequence {
    repo: Repo,
    name: String,
    path: PathBuf,
    sharing: Sharing,
}

/// Which numbers are wanted.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SequenceOptions {
    /// How many; they follow each other. Usually one.
    pub count: NonZeroU64,
    /// None below this one. Usually 1.
    pub at_least: u64,
    /// Patterns for numbers that were taken without asking: each new number is greater than those found.
    pub scan: Vec<ScanPattern>,
}

impl Default for SequenceOptions {
    fn default() -> Self {
        Self { count: NonZeroU64::MIN, at_least: 1, scan: Vec::new() }
    }
}

impl SequenceOptions {
    /// Sets [`SequenceOptions::count`].
    #[must_use]
    pub fn count(mut self, count: NonZeroU64) -> Self {
        self.count = count;
        self
    }

    /// Sets [`SequenceOptions::at_least`].
    #[must_use]
    pub fn at_least(mut self, at_least: u64) -> Self {
        self.at_least = at_least;
        self
    }

    /// Adds a pattern to [`SequenceOptions::scan`].
    #[must_use]
    pub fn scan(mut self, pattern: ScanPattern) -> Self {
        self.scan.push(pattern);
        self
    }
}

/// The numbers that were given.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Numbers {
    /// The numbers: nobody was given one of them before, nobody will be.
    pub numbers: RangeInclusive<u64>,
    /// Whether the record shows no earlier number.
    pub are_first: bool,
    /// The greatest number that the patterns found.
    pub seen: Option<Seen>,
}

impl Sequence {
    /// A sequence by its name: any text of 1 to 1000 bytes without control characters. Writes nothing.
    ///
    /// # Errors
    /// [`Error::Malformed`] for another name, [`Error::NoRepository`] without a git directory.
    pub fn open(repo: &Repo, config: &Config, name: &str) -> Result<Self> {
        let why = match name.len() {
            0 => Some("it is empty".to_owned()),
            1..=LONGEST_NAME if !name.chars().any(char::is_control) => None,
            1..=LONGEST_NAME => Some("control characters cannot be in it".to_owned()),
            _ => Some(format!("it has at most {LONGEST_NAME} bytes")),
        };
        if let Some(why) = why {
            return Err(Error::Malformed { what: "the name of a sequence", text: name.to_owned(), why });
        }
        let none = || Error::NoRepository { path: repo.root().to_owned(), needed_by: "a sequence" };
        let path = repo.sequence_file(name).ok_or_else(none)?;
        let sharing = config.sharing(repo);
        Ok(Self { repo: repo.clone(), name: name.to_owned(), path, sharing })
    }

    /// Gives the next numbers. When this returns, that they are given is on disk.
    ///
    /// Blocks for as long as others write the record, at most half a minute; never for a lock that a command is run under.
    ///
    /// # Errors
    /// [`Error::DamagedSequence`] and [`Error::NotAFile`] for a damaged record, [`Error::UsedUp`], [`Error::RecordBusy`] and
    /// [`Error::NoLocks`]; [`Error::Io`], also for a full disk; with patterns those of a look at the whole repository:
    /// [`Error::Git`], [`Error::MissingTree`]. Numbers may then be skipped, and are never given twice.
    pub fn next(&self, options: &SequenceOptions) -> Result<Numbers> {
        // A damaged record is reported before a long look.
        drop(self.record()?);
        let seen = self.repo.greatest_number(&options.scan)?;
        let report = &mut |_, _| {};
        let mut patience = Patience::new(Some(PATIENCE), report);
        for _ in 0..TRIES {
            let Some(held) = Short::take(&self.path, &self.path, |_| self.record(), &mut patience)? else { continue };
            let last = self.last_in(held.file())?;
            let numbers = self.after(last, seen.as_ref(), options)?;
            if last == 0 {
                self.recover()?;
            }
            let record = Record::new(&self.name, *numbers.end()).to_bytes();
            fs::overwrite_durably(held.file(), &self.path, &record)?;
            if held.is_at(&self.path) {
                return Ok(Numbers { numbers, are_first: last == 0, seen });
            }
        }
        Err(Error::io("keep", &self.path)(std::io::ErrorKind::NotFound.into()))
    }

    /// The last number that was given; `None` where none was. Takes no lock, does not block.
    ///
    /// # Errors
    /// [`Error::DamagedSequence`], [`Error::NotAFile`], [`Error::Io`].
    pub fn last(&self) -> Result<Option<u64>> {
        let file = match fs::open(&self.path, false) {
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let mut last = self.last_in(&file);
        // Both copies can be seen half written, one after the other.
        HALF_WRITTEN.until(|| {
            let is_whole = !matches!(last, Err(Error::DamagedSequence { .. }));
            if !is_whole {
                last = self.last_in(&file);
            }
            is_whole
        });
        last.map(|last| (last > 0).then_some(last))
    }

    /// The record, made if it is missing; `None` where somebody has removed it again.
    fn record(&self) -> Result<Option<LockFile>> {
        let is_missing = |opened: &Result<File>| matches!(opened, Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound);
        let mut opened = fs::open(&self.path, true);
        if is_missing(&opened) {
            let new = Beside::write(&self.path, &Record::new(&self.name, 0).to_bytes(), 0o666, self.sharing)?;
            match new.create() {
                Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::AlreadyExists => {}
                created => created?,
            }
            opened = fs::open(&self.path, true);
        }
        if is_missing(&opened) { Ok(None) } else { LockFile::new(opened?, &self.path).map(Some) }
    }

    /// The greater number of the two copies, of those that are whole.
    fn last_in(&self, file: &File) -> Result<u64> {
        let bytes = fs::read_start(file, 2 * COPY).map_err(Error::io("read", &self.path))?;
        let damaged = |reason| Error::DamagedSequence { name: self.name.clone(), path: self.path.clone(), reason };
        let whole = bytes.chunks(COPY).filter_map(|copy| serde_json::from_slice::<Record>(copy).ok());
        let whole: Vec<Record> = whole.filter(Record::is_whole).collect();
        if let Some(greatest) = whole.iter().map(|record| record.last).max() {
            let is_ours = whole.iter().all(|record| record.sequence == self.name);
            return if is_ours { Ok(greatest) } else { Err(damaged("it is of another sequence")) };
        }
        match bytes.chunks(COPY).find_map(|copy| serde_json::from_slice::<Version>(copy).ok()) {
            Some(version) if version.schema > SCHEMA => Err(damaged("a newer repoguard wrote it")),
            _ => Err(damaged("neither of its copies is whole")),
        }
    }

    fn after(&self, last: u64, seen: Option<&Seen>, options: &SequenceOptions) -> Result<RangeInclusive<u64>> {
        let taken = last.max(seen.map_or(0, |seen| seen.number));
        let first = taken.checked_add(1).map(|first| first.max(options.at_least));
        let end = first.and_then(|first| first.checked_add(options.count.get() - 1));
        let used_up = || {
            let seen = seen.filter(|seen| seen.number > last);
            let place = seen.map(|seen| format!("{} in {}", listed(std::slice::from_ref(&seen.path)), seen.place));
            Error::UsedUp { name: self.name.clone(), last: taken, seen: place }
        };
        first.zip(end).map(|(first, end)| first..=end).ok_or_else(used_up)
    }

    /// Writes to disk that the record is there, up to the git directory.
    fn recover(&self) -> Result<()> {
        let common = self.repo.common_dir();
        let above = self.path.ancestors().skip(1);
        for directory in above {
            fs::sync(directory)?;
            if Some(directory) == common {
                break;
            }
        }
        Ok(())
    }
}

/// One copy.
#[derive(Serialize, Deserialize)]
struct Record {
    schema: u32,
    sequence: String,
    last: u64,
    check: String,
}

/// The fields of a copy of any version.
#[derive(Deserialize)]
struct Version {
    schema: u32,
}

impl Record {
    fn new(sequence: &str, last: u64) -> Self {
        Self { schema: SCHEMA, sequence: sequence.to_owned(), last, check: check(sequence, last) }
    }

    fn is_whole(&self) -> bool {
        self.schema == SCHEMA && self.check == check(&self.sequence, self.last)
    }

    /// Both copies.
    fn to_bytes(&self) -> Vec<u8> {
        let mut copy = serde_json::to_vec(self).unwrap_or_default();
        copy.resize(COPY - 1, b' ');
        copy.push(b'\n');
        copy.repeat(2)
    }
}

fn check(sequence: &str, last: u64) -> String {
    hex(&Sha256::hash(format!("{SCHEMA}\n{sequence}\n{last}").as_bytes()))[..32].to_owned()
}
