//! Which steps were taken? Each is told before it is taken, and is on disk when it is.
//!
//! # Format
//! `journal.jsonl`, one [`Line`] a line: `step`, what the step must remember, `at_ms` (milliseconds since 1970). The file is
//! there as long as the mutation is not finished; a torn last line was never acted upon.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde::{Deserialize, Serialize};

use super::changes::Touched;
use crate::{
    error::{Error, Result},
    fs::{self, Sharing},
    holder,
    repo::Head,
    sys::FileId,
};

/// The journal's name.
const NAME: &str = "journal.jsonl";
const SCHEMA: u32 = 1;

/// What a mutation is about, for who finds it unfinished.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) schema: u32,
    pub(crate) fence: u64,
    pub(crate) pid: u32,
    pub(crate) user: String,
    pub(crate) host: String,
    pub(crate) command: String,
    pub(crate) directory: String,
    pub(crate) message: String,
    /// Whether the change is to be committed in the end.
    pub(crate) commits: bool,
}

/// A step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub(crate) enum Step {
    /// Nothing has changed yet, but for our own locks.
    Begun(Plan),
    /// Everything is kept; from now on anything may change.
    Kept,
    /// These are our own lock files of git's.
    Locking { files: Vec<Owned> },
    /// The command has ended: this is what it left.
    Ran { head: Head, touched: Vec<Touched> },
    /// Everything is validated, and about to be committed on top of HEAD as it was: what `staged` holds, also where a hook
    /// adds to it.
    Landing,
    /// The commit is there and was read back, or the staging is decided upon: only the user's index is missing.
    Landed { commit: Option<String> },
    /// Everything is about to be put back; `kept` is the snapshot of what is undone.
    Undoing { why: String, kept: String },
}

impl Step {
    /// What was done from then on, as the log calls it.
    pub(crate) fn name(&self) -> Option<&'static str> {
        match self {
            Self::Begun(_) => Some("read"),
            // The checks come first, and change nothing.
            Self::Kept => Some("command"),
            Self::Ran { .. } => Some("verify"),
            Self::Landing { .. } | Self::Landed { .. } => Some("commit"),
            Self::Undoing { .. } => Some("rollback"),
            Self::Locking { .. } => None,
        }
    }
}

/// A file of ours, known by what it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Owned {
    pub(crate) path: PathBuf,
    device: u64,
    inode: u64,
}

impl Owned {
    pub(crate) fn new(path: PathBuf, id: FileId) -> Self {
        Self { path, device: id.device, inode: id.inode }
    }

    /// Tells whether it is there still.
    pub(crate) fn is_there(&self) -> bool {
        fs::identity(&self.path) == Some(self.id())
    }

    /// What it is, whatever its name.
    pub(crate) fn id(&self) -> FileId {
        FileId { device: self.device, inode: self.inode }
    }
}

/// A step, and when it was told.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Line {
    #[serde(flatten)]
    pub(crate) step: Step,
    pub(crate) at_ms: u64,
}

/// A journal that is being written.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
}

impl Journal {
    /// Where the journal of a mutation is.
    pub(crate) fn path(directory: &Path) -> PathBuf {
        directory.join(NAME)
    }

    /// Begins it: the first line is on disk when this returns.
    pub(crate) fn begin(directory: &Path, plan: Plan, sharing: Sharing) -> Result<Self> {
        let path = Self::path(directory);
        let mut line = line(Step::Begun(Plan { schema: SCHEMA, ..plan }));
        line.push(b'\n');
        // Whole from the first moment: who finds the journal must find out what it is about.
        fs::Beside::write(&path, &line, 0o644, sharing)?.replace(&path)?;
        fs::sync(directory)?;
        Self::go_on(directory)
    }

    /// Goes on with one that another process began.
    pub(crate) fn go_on(directory: &Path) -> Result<Self> {
        let path = Self::path(directory);
        Ok(Self { file: fs::open_for_append(&path, Sharing::default())?, path })
    }

    /// Tells the step that is about to be taken; on disk when this returns.
    pub(crate) fn tell(&self, step: Step) -> Result<()> {
        fs::append_line(&self.file, &self.path, line(step))?;
        self.file.sync_data().map_err(Error::io("sync", &self.path))
    }

    /// Reads one; `None` where there is none, or where it does not tell what it is about.
    pub(crate) fn read(directory: &Path) -> Option<(Plan, Vec<Line>)> {
        Self::read_start(directory, u64::MAX)
    }

    /// The same of so many bytes at most: who only looks must not depend on what somebody put there.
    pub(crate) fn read_start(directory: &Path, bytes: u64) -> Option<(Plan, Vec<Line>)> {
        let mut text = Vec::new();
        fs::open(&Self::path(directory), false).ok()?.take(bytes).read_to_end(&mut text).ok()?;
        let lines = text.split(|byte| *byte == b'\n');
        let lines: Vec<Line> = lines.filter_map(|line| serde_json::from_slice(line).ok()).collect();
        let plan = match &lines.first()?.step {
            Step::Begun(plan) if plan.schema == SCHEMA => plan.clone(),
            _ => return None,
        };
        Some((plan, lines))
    }

    /// The mutation is finished: there is nothing to recover from now on.
    pub(crate) fn end(self, directory: &Path) -> Result<()> {
        drop(self.file);
        fs::remove_entry(&self.path)?;
        // Where somebody removed all of it, there is nothing left to end.
        if directory.exists() { fs::sync(directory).and_then(|()| fs::remove_entry(directory)) } else { Ok(()) }
    }
}

fn line(step: Step) -> Vec<u8> {
    let line = Line { step, at_ms: holder::unix_ms(SystemTime::now()) };
    serde_json::to_vec(&line).unwrap_or_default()
}
