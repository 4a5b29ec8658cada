//! Finds git's own lock files that a dead git left behind. They are removed only with proof: never by age, never
//! because nobody has them open.
//!
//! There are three proofs: git's own note beside the lock (`core.lockfilePid`) names a process that has ended; on a local file
//! system, the lock is older than the machine's boot; or the journal of a mutation that has ended names this very file. A process
//! in another container may be invisible here, so the first proof counts only if this process sees all others.

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use super::{Finding, Verdict};
use crate::{
    error::Result,
    escape::quoted_path,
    fs,
    guard::{self, OwnLock},
    holder,
    lock::{self, Acquired, Request, Scope, Wait},
    repo::{Config, GIT_LOCKS, Repo},
    store::audit::{self, Entry, Event},
    sys::{self, Retry},
};

/// How much later than a boot a file must not be to be from before it, for clocks that are set at boot.
const BOOT_MARGIN: Duration = Duration::from_secs(60);

/// Looks for them; with `fix`, removes those that are proved to be left over, under the lock of everything.
pub(super) fn look(repo: &Repo, config: &Config, fix: Option<&Request>) -> Result<Vec<Finding>> {
    let own = guard::own_locks(repo);
    let found = lasting(repo, &own);
    if found.is_empty() {
        return Ok(vec![Finding::new("leftovers", Verdict::Good, "no lock file of git's is left over")]);
    }
    let Some(fix) = fix.filter(|_| found.iter().any(|lock| proof(lock, &own).is_some())) else {
        return Ok(found.iter().map(|lock| describe(lock, &own)).collect());
    };
    let sharing = config.sharing(repo);
    let request = Request { scope: Some(Scope::Repo), command: "repoguard doctor --fix".to_owned(), ..fix.clone() };
    let wait = &mut Wait { signals: None, report: &mut |_| {} };
    let held = match lock::acquire(guard::plan(repo, &request, sharing)?, &request, wait)? {
        Acquired::Held(held) => Some(held),
        Acquired::Inside(_) => None,
    };
    let remove = |own: &[OwnLock]| found.iter().map(|lock| remove(lock, own)).collect();
    let findings = guard::with_own_locks(repo, sharing, remove);
    if let Some(held) = held {
        // The process that finds dead holders reports them: nobody finds them again.
        for died in &held.died {
            drop(audit::append(repo, &Entry::new(Event::Died, died), sharing));
        }
        held.release();
    }
    Ok(findings)
}

/// Lock files of other programs, which do not see this guard.
pub(super) fn other_schemes(repo: &Repo) -> Vec<Finding> {
    /// The names of such files.
    const ENDS: [&str; 3] = ["lock", "lck", "pid"];
    let places = [repo.git_dir(), Some(repo.root())];
    let files = places.into_iter().flatten().flat_map(|place| {
        let names = sys::names(place).into_iter();
        let locks = names.filter(|name| {
            let is_lock = name.rsplit_once('.').is_some_and(|(_, end)| ENDS.contains(&end));
            // In the worktree only hidden ones: `Cargo.lock` and its like have another purpose.
            let may_be_one = place != repo.root() || name.starts_with('.');
            let known = GIT_LOCKS.contains(&name.as_str()) || name.contains("repoguard") || name.contains("~pid");
            is_lock && may_be_one && !known
        });
        locks.map(|name| place.join(name)).collect::<Vec<_>>()
    });
    let describe = |path: PathBuf| {
        let found = format!("`{}` is a lock of neither git nor repoguard", path.display());
        Finding::new("schemes", Verdict::Note, found).hint("who relies on it should run under `repoguard exec`, too")
    };
    files.map(describe).collect()
}

/// Those that are there for longer than git needs for one step; and those of mutations, of other worktrees, too.
fn lasting(repo: &Repo, own: &[OwnLock]) -> Vec<PathBuf> {
    /// How long git may take for a step.
    const STEP: Retry = Retry::every(Duration::from_millis(20)).within(Duration::from_millis(200));
    let mut seen: Vec<_> = repo.git_lock_files().into_iter().map(|path| (fs::identity(&path), path)).collect();
    let elsewhere = own.iter().filter(|lock| !lock.runs && !seen.iter().any(|(id, _)| *id == Some(lock.id)));
    let elsewhere: Vec<_> = elsewhere.map(|lock| (Some(lock.id), lock.path.clone())).collect();
    seen.extend(elsewhere);
    STEP.until(|| {
        seen.retain(|(before, path)| before.is_some() && fs::identity(path) == *before);
        seen.is_empty()
    });
    seen.into_iter().map(|(_, path)| path).collect()
}

fn describe(lock: &Path, own: &[OwnLock]) -> Finding {
    let path = lock.display();
    if let Some(why) = proof(lock, own) {
        return Finding::new("leftovers", Verdict::Bad, format!("`{path}` is left over: {why}"))
            .hint("`repoguard doctor --fix` removes it, under the lock");
    }
    if let Some(own) = own.iter().find(|own| fs::identity(lock) == Some(own.id)) {
        let found = format!("`{path}` is held by a mutation that runs: `{}`", command(own));
        return Finding::new("leftovers", Verdict::Good, found);
    }
    let found = format!("`{path}` is there for a while: a git works, or one that died left it; nothing proves which");
    // Only proof is a reason to remove it: a git that works may be in another container, or stopped.
    let hint = format!("`ls -l {}; pgrep -a git` shows since when it is there, and which gits run", quoted_path(lock));
    Finding::new("leftovers", Verdict::Bad, found).hint(hint)
}

/// Removes one that is proved to be left over; looked at again, since somebody may have done so meanwhile.
fn remove(lock: &Path, own: &[OwnLock]) -> Finding {
    let Some(why) = proof(lock, own) else { return describe(lock, own) };
    fs::remove(lock);
    if let Some(note) = note(lock) {
        fs::remove(&note);
    }
    let path = lock.display();
    if std::fs::symlink_metadata(lock).is_err() {
        return Finding::new("leftovers", Verdict::Good, format!("removed `{path}`: {why}"));
    }
    Finding::new("leftovers", Verdict::Bad, format!("`{path}` cannot be removed, but is left over: {why}"))
        .hint(format!("`ls -ld {}` shows who may", quoted_path(lock)))
}

/// Why it is sure that nobody uses a lock file any more.
fn proof(lock: &Path, own: &[OwnLock]) -> Option<String> {
    let metadata = std::fs::symlink_metadata(lock).ok().filter(std::fs::Metadata::is_file)?;
    if let Some(own) = own.iter().find(|own| own.id == sys::identity(&metadata)) {
        return (!own.runs).then(|| format!("a mutation that was killed made it: `{}`", command(own)));
    }
    let note = note(lock).filter(|note| is_note_of(note, &metadata));
    let noted = note.and_then(|note| fs::read_small(&note, 64));
    let pid = noted.and_then(|text| String::from_utf8_lossy(&text).trim().strip_prefix("pid ")?.trim().parse().ok());
    // Its maker may count pids in a namespace of its own, or run on another machine.
    if let Some(pid) = pid.filter(|_| sys::sees_all_locks() && sys::is_local(lock))
        && sys::still_runs(pid, sys::boot_ms()) == Some(false)
        && !sys::is_pid_in_any_namespace(pid)
    {
        return Some(format!("git noted that process {pid} made it, and that has ended"));
    }
    let started = SystemTime::now().checked_sub(Duration::from_millis(sys::boot_ms()))?;
    let before = metadata.modified().ok()?.checked_add(BOOT_MARGIN)? < started;
    (before && sys::is_local(lock)).then(|| "it was made before this machine started".to_owned())
}

fn command(lock: &OwnLock) -> String {
    holder::readable_command(&[&lock.command])
}

/// Tells whether a note was written with this lock: an earlier git may have left it.
fn is_note_of(note: &Path, lock: &std::fs::Metadata) -> bool {
    /// Git writes one right after the other.
    const MARGIN: Duration = Duration::from_secs(1);
    let noted = std::fs::symlink_metadata(note).and_then(|note| note.modified()).ok();
    let made = lock.created().ok();
    noted.zip(made).is_some_and(|(noted, made)| noted + MARGIN >= made)
}

/// Git's note of a lock's maker: `index~pid.lock` for `index.lock`.
fn note(lock: &Path) -> Option<PathBuf> {
    let name = lock.file_stem()?.to_str()?;
    Some(lock.with_file_name(format!("{name}~pid.lock")))
}
