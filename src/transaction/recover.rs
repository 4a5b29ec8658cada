//! Recovers an interrupted mutation: undoes or finishes what its journal predicts, leaves what somebody else has changed since, and
//! explains that.
//!
//! | last step told | what is done |
//! | --- | --- |
//! | `begun` | nothing had changed: only our own locks go |
//! | `kept`: the command ran when it was killed | undone; what it left can be anything, so all of it is kept first |
//! | `ran`, `landing`: its result is known | undone where that is what is there, else left |
//! | `landing`, and the commit is there; `landed` | finished: only the user's index was missing |
//! | `undoing` | undone to the end |

use std::{path::PathBuf, time::Duration};

use super::{
    attribution::MovedBy,
    baseline::{self, Baseline},
    changes::{Changes, Touched},
    differences::differences,
    journal::{Journal, Line, Locked, Plan, Step},
    locks::GitLock,
    stage::{Staged, publish},
    undo::{PROTECTING, Undo, Undone, left_locks, release_own, undo},
};
use crate::{
    error::{Error, Result},
    fs::{self, Ownership, Sharing},
    repo::{Checkout, Head, Manner, Repo, Worktree},
    store::kept,
    sys::{self, Retry},
};

/// A mutation that was not finished.
#[derive(Debug, Clone)]
pub struct Unfinished {
    /// Its command.
    pub command: String,
    /// Its directory.
    pub directory: String,
    /// The message that its commit would have had.
    pub message: String,
    /// Its user and machine.
    pub user: String,
    /// The machine's name.
    pub host: String,
    /// Its process.
    pub pid: u32,
    /// Fencing number of its hold.
    pub fence: u64,
    /// How far it had come.
    pub found: Found,
    /// Differences from the journal's prediction.
    pub doubts: Vec<Doubt>,
}

/// How far a mutation had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Found {
    /// Nothing had changed yet.
    Untouched,
    /// The command was running.
    Running,
    /// The command had ended, and nothing was committed.
    Ran,
    /// The commit is there, or the staging was decided upon.
    Landed,
    /// It was being put back.
    Undoing,
}

/// Something that is not as predicted: somebody has worked here since.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Doubt {
    /// HEAD was one thing, and is another.
    Head(Box<Head>, Box<Head>),
    /// The index was rewritten.
    Index,
    /// These files differ from what the command left.
    Files(Vec<PathBuf>),
}

impl std::fmt::Display for Doubt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Head(was, is) => write!(f, "HEAD was {was}, is {is}"),
            Self::Index => f.write_str("the index was rewritten"),
            Self::Files(paths) => write!(f, "changed since: {}", crate::error::listed(paths)),
        }
    }
}

/// How to recover it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// As its journal predicts; fails if anything differs from that.
    AsPredicted,
    /// Put everything back; what is undone is kept.
    Undo,
    /// If its commit exists, give it the matching index; else leave everything as it is, and forget the mutation.
    Finish,
}

/// The result.
#[derive(Debug)]
pub(crate) enum Recovery {
    /// There was nothing to do but to forget it.
    Forgotten,
    Undone(Undone),
    /// The commit stands, or the staging.
    Finished(Option<String>),
}

/// An interrupted mutation, with all that recovery needs.
struct Case {
    plan: Plan,
    lines: Vec<Line>,
    directory: PathBuf,
    checkout: Checkout,
    found: Found,
    before: Option<Baseline>,
    doubts: Vec<Doubt>,
    commit: Option<String>,
}

/// Inspects an interrupted mutation; `None` if there is none. Takes no lock, changes nothing.
pub(crate) fn inspect(repo: &Repo, worktree: &Worktree, manner: Manner) -> Result<Option<Unfinished>> {
    let Some(case) = Case::find(repo, worktree, manner)? else { return Ok(None) };
    let Plan { command, directory, message, user, host, pid, fence, .. } = case.plan;
    let (found, doubts) = (case.found, case.doubts);
    Ok(Some(Unfinished { command, directory, message, user, host, pid, fence, found, doubts }))
}

/// Recovers an interrupted mutation; `None` if there is none. The caller holds the worktree alone, and the mutations' lock.
///
/// # Errors
/// [`Error::Unfinished`] where something differs from what the journal predicts, and no choice was made; whatever keeps it
/// from being put back.
pub(crate) fn recover(
    repo: &Repo,
    worktree: &Worktree,
    choice: Choice,
    sharing: Sharing,
    limit: u64,
) -> Result<Option<Recovery>> {
    may_recover(repo, worktree)?;
    outlive_gits(repo, worktree)?;
    let case = match Case::find(repo, worktree, Manner::Writing) {
        Err(_) if choice == Choice::Finish => {
            // Its description is lost, and the user wants it gone.
            let directory = repo.mutation_dir(worktree).unwrap_or_default();
            Checkout::find(repo, Manner::Writing, "recovery")?.forget(PROTECTING)?;
            fs::remove_entry(&Journal::path(&directory)).and_then(|()| fs::discard(&directory))?;
            return Ok(Some(Recovery::Forgotten));
        }
        case => case?,
    };
    let Some(case) = case else { return Ok(None) };
    if choice == Choice::AsPredicted && !case.doubts.is_empty() {
        let doubts: Vec<String> = case.doubts.iter().map(Doubt::to_string).collect();
        return Err(Error::Unfinished { what: format!("`{}`; {}", case.plan.command, doubts.join("; ")) });
    }
    let finish = choice == Choice::Finish || (choice == Choice::AsPredicted && case.found == Found::Landed);
    let journal = Journal::go_on(&case.directory, &case.plan)?;
    // Leftover locks of our gits would be in everybody's way, and hold nobody's work.
    let clear_locks =
        |before: &Baseline| left_locks(before, &case.plan, &case.lines).iter().try_for_each(fs::remove_entry);
    let recovered = match (&case.before, case.found) {
        (None, _) | (_, Found::Untouched) => {
            release_own(&case.checkout.git_dir, &case.plan);
            Recovery::Forgotten
        }
        (Some(before), Found::Landed) if finish => {
            clear_locks(before)?;
            case.finish(before, &journal)?;
            Recovery::Finished(case.commit.clone())
        }
        (Some(before), _) if finish => {
            clear_locks(before)?;
            Recovery::Finished(None)
        }
        (Some(before), _) => Recovery::Undone(case.undo(before, &journal, (repo, worktree), (sharing, limit))?),
    };
    case.checkout.forget(PROTECTING)?;
    journal.end(&case.directory)?;
    Ok(Some(recovered))
}

/// Leaves what another user left behind to that user, the repository's owner, and root.
fn may_recover(repo: &Repo, worktree: &Worktree) -> Result<()> {
    let Some(path) = repo.mutation_dir(worktree).map(|directory| Journal::path(&directory)) else { return Ok(()) };
    // Another kind of entry, or a file that cannot be opened, is reported later.
    let Ok(file) = fs::open(&path, false) else { return Ok(()) };
    let ownership = Ownership::of(&file, &path)?;
    if ownership.may_recover() {
        return Ok(());
    }
    let user = sys::user_name(ownership.owner.0).unwrap_or_else(|| ownership.owner.0.to_string());
    let what = format!("it belongs to {user}; only {user}, the owner of the git directory, or root can recover it");
    Err(Error::Unfinished { what })
}

/// Waits for the end of gits that the killed process had started: they go on with what it did.
fn outlive_gits(repo: &Repo, worktree: &Worktree) -> Result<()> {
    /// They take much less.
    const ENDING: Retry = Retry::every(Duration::from_millis(10)).within(Duration::from_secs(10));
    let Some(directory) = repo.mutation_dir(worktree) else { return Ok(()) };
    let Some((plan, _)) = Journal::read(&directory) else { return Ok(()) };
    // Anybody may call a program `git`: only those of the mutation's user can be its own.
    let owner = baseline::owner(&Journal::path(&directory)).map(|(user, _)| user);
    let is_its_users = |user: u32| {
        owner.as_ref().is_ok_and(|owner| *owner == user) || sys::user_name(user).is_some_and(|name| name == plan.user)
    };
    let Ok(checkout) = Checkout::find(repo, Manner::Writing, "recovery") else { return Ok(()) };
    let mut last = None;
    for _ in ENDING {
        last = checkout.git_at_work(is_its_users);
        if last.is_none() {
            break;
        }
    }
    last.map_or(Ok(()), |pid| {
        Err(Error::Unfinished { what: format!("`{}`; a git of its own still works: pid {pid}", plan.command) })
    })
}

impl Case {
    fn find(repo: &Repo, worktree: &Worktree, manner: Manner) -> Result<Option<Self>> {
        let Some(directory) = repo.mutation_dir(worktree) else { return Ok(None) };
        if !Journal::path(&directory).exists() {
            return Ok(None);
        }
        let checkout = Checkout::find(repo, manner, "recovery")?;
        let tree = checkout.tree()?;
        let unreadable = |why: String| {
            let reason = format!(
                "the journal of an unfinished mutation cannot be read{why}; `repoguard recover --finish` forgets it, and \
                 leaves everything as it is"
            );
            Error::BrokenRepository { path: Journal::path(&directory), reason }
        };
        let (plan, lines) = match Journal::load(&directory, &tree) {
            Err(error @ Error::BadRecord { .. }) => return Err(error),
            Err(error) => return Err(unreadable(format!(": {error}"))),
            Ok(None) => return Err(unreadable(String::new())),
            Ok(Some(journal)) => journal,
        };
        let is_kept = lines.iter().any(|line| line.step == Step::Kept);
        let before = if is_kept { Some(Baseline::open(directory.clone(), checkout.clone(), &tree)?) } else { None };
        let found = Found::Untouched;
        let mut case = Self { plan, lines, directory, checkout, found, before, doubts: Vec::new(), commit: None };
        case.look(repo, worktree)?;
        Ok(Some(case))
    }

    fn look(&mut self, repo: &Repo, worktree: &Worktree) -> Result<()> {
        let Some(before) = &self.before else { return Ok(()) };
        let now = repo.head(worktree).unwrap_or_default();
        let last = self.lines.last().map(|line| &line.step);
        let ran = self.lines.iter().rev().find_map(|line| match &line.step {
            Step::Ran { head, touched } => Some((head, touched)),
            _ => None,
        });
        (self.found, self.commit) = match last {
            Some(Step::Landed { commit }) => (Found::Landed, commit.clone()),
            Some(Step::Landing) if before.is_landed(&now) => (Found::Landed, now.commit.clone()),
            Some(Step::Landing | Step::Ran { .. }) => (Found::Ran, None),
            Some(Step::Undoing { .. }) => (Found::Undoing, None),
            Some(Step::Kept) => (Found::Running, None),
            _ => (Found::Untouched, None),
        };
        if let (Found::Ran, Some((head, touched))) = (self.found, ran) {
            self.doubts = doubts(before, (head, &now), touched)?;
        }
        Ok(())
    }

    /// Gives the user the index that goes with the commit.
    fn finish(&self, before: &Baseline, journal: &Journal) -> Result<()> {
        const PATIENCE: std::time::Duration = std::time::Duration::from_secs(2);
        let index = self.checkout.index();
        let staged = Staged::left(before, &index)?;
        staged.finish(&self.checkout)?;
        let lock = GitLock::take(Locked::Index, &self.checkout.git_dir, &self.directory, journal, PATIENCE)?;
        publish(before, &staged, &lock, &index)
    }

    fn undo(
        &self,
        before: &Baseline,
        journal: &Journal,
        (repo, worktree): (&Repo, &Worktree),
        (sharing, limit): (Sharing, u64),
    ) -> Result<Undone> {
        let begun = self.lines.iter().rev().find_map(|line| match &line.step {
            Step::Undoing { kept, .. } => Some(kept.clone()),
            _ => None,
        });
        let header = kept::Header {
            why: "recovery of a mutation that was killed".to_owned(),
            command: self.plan.command.clone(),
            head_before: Some(before.head().clone()),
            head_after: repo.head(worktree),
            fence: Some(self.plan.fence),
        };
        undo(&Undo { repo, worktree, before, journal, header, begun, sharing, limit }, None)
    }
}

/// Differences from what the command left.
fn doubts(before: &Baseline, (was, now): (&Head, &Head), left: &[Touched]) -> Result<Vec<Doubt>> {
    let mut doubts = Vec::new();
    if was != now && before.moved_by(now) == MovedBy::Others {
        doubts.push(Doubt::Head(Box::new(was.clone()), Box::new(now.clone())));
    }
    // Any `git status` writes it anew: only entries count.
    let ran = before.ran_index();
    let left_index = if ran.exists() { ran } else { before.index() };
    let mut differs = false;
    differences(before, &left_index, &before.checkout.index(), |_, _, _| differs = true)?;
    if differs {
        doubts.push(Doubt::Index);
    }
    let changes = Changes::scan(before)?;
    let is_in = |one: &Touched, all: &[Touched]| all.iter().any(|other| other == one);
    let (known, other): (Vec<Touched>, Vec<Touched>) =
        changes.touched.into_iter().partition(|one| left.iter().any(|then| then.path == one.path));
    let altered = known.iter().filter(|one| !is_in(one, left)).map(|one| one.path.clone());
    let gone = left.iter().filter(|one| !known.iter().any(|other| other.path == one.path)).map(|one| one.path.clone());
    let new = other.iter().filter(|one| one.new).map(|one| one.path.clone());
    let mut files: Vec<Vec<u8>> = altered.chain(gone).chain(new).collect();
    // Only touched, it is what it was.
    files.extend(Changes { touched: other, ..Changes::default() }.really(before)?);
    let mut files = super::readable(&files);
    files.sort();
    files.dedup();
    if !files.is_empty() {
        doubts.push(Doubt::Files(files));
    }
    Ok(doubts)
}
