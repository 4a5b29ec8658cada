//! Lists what can go wrong. One enum; a variant is an outcome that a caller can act on.
//!
//! Texts are lower case: what happened, then where. I/O errors name the action and the path. [`Error::hint`] gives a command to
//! paste; no text ever advises to delete a lock file. Names in a text are as they were found: [`crate::escape`] makes them safe to
//! show. A hint is safe to paste.

mod hint;

use std::{io, path::PathBuf, time::Duration};

use crate::holder::Holder;

/// Result of the library's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can keep a caller from getting, holding or reading a lock.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Somebody else holds the lock, or stands before us in the queue, and the time to wait is over.
    #[error("busy: {what} is held{}", waited_text(*.waited))]
    Busy {
        /// The resources of the request.
        what: String,
        /// The holders, as far as the system shows them.
        holders: Vec<Holder>,
        /// The waiters before us.
        ahead: Vec<Holder>,
        /// How long it was waited.
        waited: Duration,
    },
    /// The `repoguard` program, which runs commands for programs that use the library, could not be started.
    #[error("cannot start `{}`, which runs commands for this program", .path.display())]
    NoProgram {
        /// The program, as it was named.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// This function forks, and this process has several threads: a lock that one of them holds would stay locked in the child.
    #[error("a process with several threads cannot do this itself")]
    Threads,
    /// The `repoguard` program failed.
    #[error("{message}")]
    Program {
        /// Its exit status.
        status: i32,
        /// Its message, causes included.
        message: String,
    },
    /// Another git holds one of git's own locks, or has left it behind.
    #[error(
        "busy: git's own lock `{}` is there{}{}",
        .path.display(),
        waited_text(*.waited),
        .git.as_ref().map_or_else(String::new, |git| format!("; {git}")),
    )]
    GitBusy {
        /// The lock file.
        path: PathBuf,
        /// How long it was waited.
        waited: Duration,
        /// Which gits are seen to work here, in words.
        git: Option<String>,
    },
    /// Waiting would have closed a cycle of processes that wait for each other.
    #[error("busy: waiting for {what} would be a deadlock")]
    Deadlock {
        /// The resources of the request.
        what: String,
        /// Those who wait, directly or through others, for a lock that this process is inside of.
        cycle: Vec<Holder>,
    },
    /// The same thread, or the same task, holds or waits for what is asked for already: it would wait for itself.
    #[error("{what} cannot be acquired again: {held} is held or waited for by {by}")]
    AlreadyHeld {
        /// The resources of the request.
        what: String,
        /// The resources that are held or waited for.
        held: String,
        /// Which thread or task that is.
        by: String,
    },
    /// Waiting would have closed a cycle of threads or tasks of this process that wait for each other.
    #[error("waiting for {what} would be a deadlock: {}", .others.join(", "))]
    Cycle {
        /// The resources of the request.
        what: String,
        /// Each holder and waiter of the cycle with its lock, in words.
        others: Vec<String>,
    },
    /// The token of an acquire that can be cancelled was cancelled.
    #[error("cancelled while waiting for {what}")]
    Cancelled {
        /// The resources of the request.
        what: String,
    },
    /// A lock's file was removed or replaced while it was held: it was not exclusive to the end.
    #[error("the lock was lost: `{}` was removed or replaced while it was held", .path.display())]
    Lost {
        /// The lock file.
        path: PathBuf,
    },
    /// The system does not show enough to tell whether somebody holds a lock.
    #[error("cannot tell whether {what} is held: its holders may live in another pid namespace")]
    CannotTell {
        /// The resources of the question.
        what: String,
    },
    /// The request can never be granted while the hold around it lives: an upgrade, or a wider scope.
    #[error("{what} cannot be acquired inside a hold of {held}: {why}")]
    NeverGranted {
        /// The resources of the request.
        what: String,
        /// The hold around this process.
        held: String,
        /// Why the two can never go together.
        why: &'static str,
    },
    /// A mutation that was to run inside of another one.
    #[error("a mutation cannot run inside of another one: neither could tell what it changed itself")]
    Nested,
    /// A signal arrived while waiting.
    #[error("interrupted by signal {signal} while waiting for {what}")]
    Interrupted {
        /// The resources of the request.
        what: String,
        /// The signal's number.
        signal: i32,
    },
    /// The file system has no locks that work.
    #[error("locks do not work on the file system of `{}`", .path.display())]
    NoLocks {
        /// The lock file.
        path: PathBuf,
        /// The system's error; `None` if it claimed success but excluded nobody.
        source: Option<io::Error>,
    },
    /// A process that runs has recorded that it holds this lock, but holds it at another path: the repository is reached in two ways,
    /// for example directly and through FUSE, and the kernel keeps their locks apart.
    #[error("the lock `{}` is free here, but pid {} (`{}`) has recorded that it holds it", .path.display(), .holder.pid, .holder.command)]
    HeldElsewhere {
        /// The lock file.
        path: PathBuf,
        /// The record.
        holder: Box<Holder>,
        /// The git directory by whose path the process has it.
        held: PathBuf,
    },
    /// The lock's path is taken by something that is not a regular file.
    #[error("`{}` is {kind}, not {expected}", .path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// Its kind.
        kind: &'static str,
        /// The kind that it should have.
        expected: &'static str,
    },
    /// There is something like a repository, but git could not use it either.
    #[error("broken repository at `{}`: {reason}", .path.display())]
    BrokenRepository {
        /// The `.git` file or directory.
        path: PathBuf,
        /// The reason, in words.
        reason: String,
    },
    /// Git rejects the repository, because somebody else owns it.
    #[error("`{}` belongs to another user", .path.display())]
    Untrusted {
        /// The repository's directory.
        path: PathBuf,
    },
    /// Git rejects a bare repository that nobody named, because `safe.bareRepository` is `explicit`.
    #[error("`{}` is a bare repository, and `safe.bareRepository` allows only those that are named", .path.display())]
    ImplicitBare {
        /// The repository's directory.
        path: PathBuf,
    },
    /// The request needs a repository, and there is none.
    #[error("no git repository at `{}` or above it, but {needed_by} needs one", .path.display())]
    NoRepository {
        /// The directory in which the search began.
        path: PathBuf,
        /// The command that needs it.
        needed_by: &'static str,
    },
    /// The request needs a worktree, and the repository has none, or is not in it.
    #[error("no worktree at `{}`, but {needed_by} needs one", .path.display())]
    NoWorktree {
        /// The git directory.
        path: PathBuf,
        /// The command that needs it.
        needed_by: &'static str,
    },
    /// The request needs a commit to begin from, and HEAD has none yet.
    #[error("HEAD of `{}` has no commit yet, but {needed_by} needs one", .path.display())]
    NoCommit {
        /// The top of the worktree.
        path: PathBuf,
        /// The command that needs it.
        needed_by: &'static str,
    },
    /// Git has no branches of such a name.
    #[error("`{name}` is no name for a branch")]
    BranchName {
        /// The name.
        name: String,
    },
    /// Not everything could be put back as it was.
    #[error("not everything could be put back{}", named(.paths))]
    NotPutBack {
        /// The difference.
        paths: Vec<PathBuf>,
    },
    /// A mutation was interrupted, and the repository has changed since. Only its user can decide what to do.
    #[error("an unfinished mutation is in the way: {what}")]
    Unfinished {
        /// Which, and what has changed since.
        what: String,
    },
    /// A line of a file of ours names what no file of ours may name: somebody else wrote it. Nothing was done.
    #[error("`{}` cannot be followed: line {line}: {reason}", .path.display())]
    BadRecord {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// The reason, in words.
        reason: String,
    },
    /// A file in our directory belongs to another user, so it is not acted upon.
    #[error("`{}` belongs to {user}, so it is not acted upon here", .path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Its owner.
        user: String,
    },
    /// A configuration value cannot be used.
    #[error("bad value `{value}` for `{key}` in {origin}: expected {expected}")]
    Config {
        /// The configuration key or environment variable.
        key: String,
        /// The value found.
        value: String,
        /// The file or place it stands in.
        origin: String,
        /// The value that would be right.
        expected: &'static str,
    },
    /// Somebody has changed a hook of repoguard's: what was added would be lost.
    #[error("`{}` is repoguard's, but somebody has edited it", .path.display())]
    HookEdited {
        /// The hook.
        path: PathBuf,
    },
    /// HEAD differs from what the caller expects.
    #[error("HEAD is {head}, not `{expected}`")]
    UnexpectedHead {
        /// The branch or commit that was expected.
        expected: String,
        /// HEAD.
        head: String,
    },
    /// The caller expects a commit, and HEAD was switched to another branch at that commit just before.
    #[error(
        "HEAD was switched from {from} to {to} by {by}, at the same commit; `{expected}` may mean the other branch"
    )]
    SwitchedHead {
        /// The commit that was expected.
        expected: String,
        /// The branch before.
        from: String,
        /// The branch that HEAD points to.
        to: String,
        /// The holder that switched it.
        by: String,
    },
    /// The process to hold a lock for does not run, or ended while the lock was waited for.
    #[error("process {pid}, for which the lock was to be held, does not run (any more)")]
    NoProcess {
        /// The process asked for.
        pid: u32,
    },
    /// The process that keeps a lock by its record cannot be asked to release it.
    #[error("cannot release: pid {} of {} cannot be reached, or keeps nothing under this token", keeper.pid, keeper.user)]
    NotReached {
        /// The program that keeps it.
        keeper: Box<Holder>,
    },
    /// While a git command waited for the lock, the one before it changed what it was about to use.
    #[error("refused: this git command would take what it never saw: {what}")]
    ChangedMeanwhile {
        /// The change, and its time.
        what: String,
    },
    /// Git, asked for something that only it can do, failed.
    #[error("`git {arguments}` failed: {reason}")]
    Git {
        /// Git's arguments.
        arguments: String,
        /// Git's message.
        reason: String,
    },
    /// A git of ours would never have ended, and was ended: it waited for a FIFO in place of one of the files that it reads.
    #[error("git waits for a FIFO in place of a file that it reads in `{}`", .directory.display())]
    GitBlocked {
        /// The directory in which git ran.
        directory: PathBuf,
    },
    /// Git looks for hooks in a directory that is not this repository's own.
    #[error("`core.hooksPath` is `{}`, set in {origin}: hooks there are not only this repository's", .path.display())]
    HooksElsewhere {
        /// The directory.
        path: PathBuf,
        /// The place where it is set.
        origin: String,
    },
    /// There are two hooks of others, and only one of them can be kept beside ours.
    #[error("`{}` and `{}` are two different hooks, and only one can run after the guard", .hook.display(), .kept.display())]
    TwoHooks {
        /// The one that git runs.
        hook: PathBuf,
        /// The one that was kept by an earlier install.
        kept: PathBuf,
    },
    /// A hook there only works under its own name, so it cannot be kept under another one.
    #[error("the hook `{}` belongs to {manager}, and only works under this name", .path.display())]
    HookNotMovable {
        /// The hook.
        path: PathBuf,
        /// The program that it belongs to.
        manager: &'static str,
    },
    /// Nothing that was undone is kept under this name.
    #[error("there is no snapshot `{id}`")]
    NoSnapshot {
        /// The id, or its beginning, that was asked for.
        id: String,
    },
    /// Several snapshots have ids that begin so.
    #[error("`{id}` is the beginning of {} snapshots: {}", .candidates.len(), .candidates.join(", "))]
    AmbiguousSnapshot {
        /// The resources of the request.
        id: String,
        /// All of their ids.
        candidates: Vec<String>,
    },
    /// A snapshot cannot be read.
    #[error("the snapshot `{}` is damaged: {reason}", .path.display())]
    DamagedSnapshot {
        /// Its directory.
        path: PathBuf,
        /// The reason, in words.
        reason: String,
    },
    /// A snapshot does not have what was asked for.
    #[error("the snapshot {id} keeps nothing at `{}`", .path.display())]
    NotKept {
        /// The snapshot.
        id: String,
        /// The path that was asked for.
        path: PathBuf,
    },
    /// A kept file cannot be brought back.
    #[error("`{}` is not brought back: {why}", .path.display())]
    UnsafePath {
        /// The file's path in the worktree.
        path: PathBuf,
        /// Why not.
        why: &'static str,
    },
    /// A name or a pattern is none.
    #[error("`{}` is not {what}: {why}", .text.escape_debug())]
    Malformed {
        /// The value that it should have.
        what: &'static str,
        /// The value that it has.
        text: String,
        /// Why not.
        why: String,
    },
    /// The record of a sequence is lost: the numbers that were given are unknown.
    #[error("the record of the sequence `{name}`, `{}`, is damaged: {reason}", .path.display())]
    DamagedSequence {
        /// The sequence.
        name: String,
        /// Its record.
        path: PathBuf,
        /// The reason, in words.
        reason: &'static str,
    },
    /// A sequence has not as many numbers any more.
    #[error("the sequence `{name}` has not so many numbers left: {last} is taken{}", .seen.as_ref().map_or_else(String::new, |place| format!(", by {place}")))]
    UsedUp {
        /// The sequence.
        name: String,
        /// The greatest number that was given or seen.
        last: u64,
        /// The place where it was seen, if it was not given.
        seen: Option<String>,
    },
    /// This clone lacks something that had to be looked into.
    #[error("`{reference}` cannot be looked into: this clone lacks its tree {id}")]
    MissingTree {
        /// The tree.
        id: String,
        /// The reference that leads to it.
        reference: String,
    },
    /// A document is not what it should be: not JSON, not an object, or with a section that is there twice. It is left alone.
    #[error("`{}` is damaged at line {line}, column {column}: {reason}", .path.display())]
    DamagedDocument {
        /// The document.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// The column in bytes, counted from 1.
        column: usize,
        /// The flaw.
        reason: String,
    },
    /// A document is larger than what is read and written.
    #[error("`{}` is too large for a shared document: more than {} MiB", .path.display(), limit >> 20)]
    DocumentTooLarge {
        /// The document.
        path: PathBuf,
        /// The most that it may have, in bytes.
        limit: u64,
    },
    /// Somebody else writes to a document, or takes numbers of a sequence, all the time that there was to wait.
    #[error("busy: `{}` is being written{}{}", .path.display(), by_text(*.pid), waited_text(*.waited))]
    RecordBusy {
        /// The document, or the sequence's record.
        path: PathBuf,
        /// The writer, if the system shows it.
        pid: Option<u32>,
        /// How long it was waited.
        waited: Duration,
    },
    /// A section is not what the caller had read: nothing was written.
    #[error("section `{section}` of `{}` is not as expected: {}", .path.display(), found_text(.found.as_deref()))]
    NotAsExpected {
        /// The document.
        path: PathBuf,
        /// The section.
        section: String,
        /// The present value, as it is written; `None` if the section is missing.
        found: Option<String>,
    },
    /// A value, or a pointer into one, that cannot be used.
    #[error("{what} cannot be used: {reason}")]
    BadValue {
        /// The value's name.
        what: String,
        /// The reason, in words.
        reason: String,
    },
    /// A command whose output was to be digested failed.
    #[error("the command `{command}`, whose output is an input, failed: {reason}")]
    InputCommand {
        /// The command.
        command: String,
        /// How it ended.
        reason: String,
    },
    /// A system call failed.
    #[error("cannot {action} `{}`", .path.display())]
    Io {
        /// The action, as an infinitive.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// This system lacks something that repoguard is built on, or a limit of repoguard's own is passed.
    #[error("{what} is not supported")]
    Unsupported {
        /// The missing feature.
        what: &'static str,
    },
}

impl Error {
    /// Wraps an I/O error with the action, an infinitive like `open`, and the path.
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}

/// Paths for a message; not too many.
#[must_use]
pub fn listed(paths: &[PathBuf]) -> String {
    const MOST: usize = 10;
    let shown: Vec<String> = paths.iter().take(MOST).map(|path| format!("`{}`", path.display())).collect();
    let more = paths.len().saturating_sub(MOST);
    if more == 0 { shown.join(", ") } else { format!("{}, and {more} more", shown.join(", ")) }
}

/// The same after a colon; nothing if there are none.
fn named(paths: &[PathBuf]) -> String {
    if paths.is_empty() { String::new() } else { format!(": {}", listed(paths)) }
}

fn by_text(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" by pid {pid}"))
}

fn found_text(found: Option<&str>) -> String {
    const MOST: usize = 200;
    let Some(found) = found else { return "it is missing".to_owned() };
    let shown: String = found.chars().take(MOST).collect();
    if found.chars().nth(MOST).is_some() { format!("it is {shown}…") } else { format!("it is {shown}") }
}

fn waited_text(waited: Duration) -> String {
    if waited.is_zero() { String::new() } else { format!(", waited {:.1} s", waited.as_secs_f64()) }
}
