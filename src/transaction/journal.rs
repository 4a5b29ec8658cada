//! Records the steps of a mutation. Each is on disk before it is taken.
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

use super::{
    baseline::{check_head, check_path},
    changes::Touched,
};
use crate::{
    error::{Error, Result},
    escape::hex,
    fs::{self, Root, Sharing},
    holder,
    repo::Head,
};

/// The journal's name.
const NAME: &str = "journal.jsonl";
const SCHEMA: u32 = 1;
/// The bytes of a mark, which are written as twice as many digits.
const MARK: usize = 16;
/// More than the longest list of what a command changed takes.
const MOST_BYTES: u64 = 64 << 20;
/// More steps than any mutation takes: a journal with more of them was not written by us.
const MOST_STEPS: usize = 64;

/// Describes a mutation for those who find it interrupted.
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
    /// Stands in those of git's lock files that are ours; random. A copy of the repository has a copy of it.
    pub(crate) mark: String,
}

impl Plan {
    /// The content of our lock files of git's.
    pub(super) fn lock_text(&self) -> Vec<u8> {
        format!("repoguard {}\n", self.mark).into_bytes()
    }

    /// Git's lock files that are ours, in the git directory that the journal belongs to.
    pub(crate) fn own_locks(&self, git_dir: &Path) -> Vec<PathBuf> {
        let text = self.lock_text();
        let is_ours = |path: &PathBuf| fs::read_small(path, text.len() + 1).is_some_and(|found| found == text);
        [Locked::Index, Locked::Head].map(|which| which.path(git_dir)).into_iter().filter(is_ours).collect()
    }
}

/// A step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub(crate) enum Step {
    /// Nothing has changed yet, but for our own locks.
    Begun(Plan),
    /// Everything is kept; from now on anything may change.
    Kept,
    /// The command has ended: this is what it left.
    Ran { head: Head, touched: Vec<Touched> },
    /// Everything is validated, and `staged` is about to be committed on top of HEAD as it was, with what a hook may add.
    Landing,
    /// The commit is there and was read back, or the staging is decided upon: only the user's index is missing.
    Landed { commit: Option<String> },
    /// Everything is about to be put back; `kept` is the snapshot of what is undone.
    Undoing { why: String, kept: String },
}

impl Step {
    /// Refuses what would lead recovery elsewhere.
    fn check(&self, tree: &Root) -> Result<(), String> {
        match self {
            // Another text might be that of a lock of somebody else's.
            Self::Begun(plan)
                if plan.mark.len() != MARK * 2 || !plan.mark.bytes().all(|byte| byte.is_ascii_hexdigit()) =>
            {
                Err(format!("`{}` is no mark of a lock", plan.mark))
            }
            Self::Ran { head, touched } => {
                check_head(head)?;
                touched
                    .iter()
                    .try_for_each(|touched| check_path(tree, touched.path.strip_suffix(b"/").unwrap_or(&touched.path)))
            }
            _ => Ok(()),
        }
    }

    /// The next step's name in the log.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Begun(_) => "read",
            // The checks come first, and change nothing.
            Self::Kept => "command",
            Self::Ran { .. } => "verify",
            Self::Landing { .. } | Self::Landed { .. } => "commit",
            Self::Undoing { .. } => "rollback",
        }
    }
}

/// Which of git's lock files: of no other can a journal say that it is ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Locked {
    Index,
    Head,
}

impl Locked {
    /// The file that it locks, in a git directory.
    pub(crate) fn file(self, git_dir: &Path) -> PathBuf {
        git_dir.join(match self {
            Self::Index => "index",
            Self::Head => "HEAD",
        })
    }

    /// The lock's directory.
    pub(crate) fn path(self, git_dir: &Path) -> PathBuf {
        git_dir.join(match self {
            Self::Index => "index.lock",
            Self::Head => "HEAD.lock",
        })
    }
}

/// A step, and when it was recorded.
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
    /// The content of our lock files of git's.
    lock_text: Vec<u8>,
}

impl Journal {
    /// The path of a mutation's journal.
    pub(crate) fn path(directory: &Path) -> PathBuf {
        directory.join(NAME)
    }

    /// Begins it. Its bytes are on disk when this returns, its name with the directory.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the system has no random numbers, [`Error::Io`].
    pub(crate) fn begin(directory: &Path, plan: Plan, sharing: Sharing) -> Result<Self> {
        let path = Self::path(directory);
        let mut random = [0; MARK];
        getrandom::fill(&mut random).map_err(|_| Error::Unsupported { what: "a source of random numbers" })?;
        let plan = Plan { schema: SCHEMA, mark: hex(&random), ..plan };
        let mut line = line(Step::Begun(plan.clone()));
        line.push(b'\n');
        // Whole from the first moment, after a power failure, too: who finds the journal must find out what it is about.
        fs::Beside::write(&path, &line, 0o644, sharing)?.replace()?;
        Self::go_on(directory, &plan)
    }

    /// Goes on with one that another process began.
    pub(crate) fn go_on(directory: &Path, plan: &Plan) -> Result<Self> {
        let path = Self::path(directory);
        Ok(Self { file: fs::open_for_append(&path, Sharing::default())?, path, lock_text: plan.lock_text() })
    }

    /// The content of our lock files of git's.
    pub(super) fn lock_text(&self) -> &[u8] {
        &self.lock_text
    }

    /// Tells the step that is about to be taken; on disk when this returns.
    pub(crate) fn record(&self, step: Step) -> Result<()> {
        self.note(step)?;
        self.file.sync_data().map_err(Error::io("sync", &self.path))
    }

    /// Notes a result, so that it need not be found out again; on disk with the next recorded step.
    pub(crate) fn note(&self, step: Step) -> Result<()> {
        fs::append_line(&self.file, &self.path, line(step))
    }

    /// Reads a journal to act upon it; its paths lead to files of `tree`. `None` if its first line is missing.
    ///
    /// # Errors
    /// [`Error::BadRecord`] for a forged line, [`Error::NotAFile`], [`Error::Foreign`], [`Error::Io`].
    pub(crate) fn load(directory: &Path, tree: &Root) -> Result<Option<(Plan, Vec<Line>)>> {
        let path = Self::path(directory);
        let text = fs::read_record(&path, MOST_BYTES)?;
        let mut lines = Vec::new();
        for (number, text) in text.split(|byte| *byte == b'\n').enumerate() {
            let bad = |reason: String| Error::BadRecord { path: path.clone(), line: number + 1, reason };
            match serde_json::from_slice::<Line>(text) {
                Ok(line) => {
                    line.step.check(tree).map_err(&bad)?;
                    if lines.len() >= MOST_STEPS {
                        return Err(bad("a mutation has fewer steps".to_owned()));
                    }
                    lines.push(line);
                }
                Err(error) if error.is_data() => return Err(bad(error.to_string())),
                // A crash left it torn, and it was never acted upon.
                Err(_) => {}
            }
        }
        Ok(plan(&lines).map(|plan| (plan, lines)))
    }

    /// Reads a journal to show it; `None` if it, or its first line, is missing.
    pub(crate) fn read(directory: &Path) -> Option<(Plan, Vec<Line>)> {
        Self::read_start(directory, MOST_BYTES)
    }

    /// The same of at most so many bytes: a mere reader must not depend on the size of a foreign file.
    pub(crate) fn read_start(directory: &Path, bytes: u64) -> Option<(Plan, Vec<Line>)> {
        let mut text = Vec::new();
        fs::open_record(&Self::path(directory)).ok()?.take(bytes).read_to_end(&mut text).ok()?;
        let lines = text.split(|byte| *byte == b'\n');
        let lines = lines.filter_map(|line| serde_json::from_slice(line).ok()).take(MOST_STEPS);
        let lines: Vec<Line> = lines.collect();
        plan(&lines).map(|plan| (plan, lines))
    }

    /// The mutation is finished: there is nothing to recover from now on.
    pub(crate) fn end(self, directory: &Path) -> Result<()> {
        drop(self.file);
        fs::remove_entry(&self.path)?;
        // If somebody removed all of it, nothing is left to end.
        if directory.exists() { fs::sync(directory).and_then(|()| fs::discard(directory)) } else { Ok(()) }
    }
}

/// The plan in a journal's first line.
fn plan(lines: &[Line]) -> Option<Plan> {
    match &lines.first()?.step {
        Step::Begun(plan) if plan.schema == SCHEMA => Some(plan.clone()),
        _ => None,
    }
}

fn line(step: Step) -> Vec<u8> {
    let line = Line { step, at_ms: holder::unix_ms(SystemTime::now()) };
    serde_json::to_vec(&line).unwrap_or_default()
}
