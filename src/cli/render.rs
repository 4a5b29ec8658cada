//! Prints messages to stderr and data to stdout. Nothing else in the program prints.
//!
//! Lower case, what then where, `caused by:` lines, `hint:` with a command to paste. The meaning survives without colour.
//!
//! # Foreign text
//! Each function here makes what it prints safe, so a caller cannot forget to. A message is one line, and [`Lines`] is made
//! line by line: line ends and colours of our own are added afterwards. JSON is escaped by JSON's own means. Only [`raw`]
//! prints data byte for byte, and to a terminal not even that.

use std::{
    cell::{Cell, RefCell},
    ffi::OsString,
    fmt::Display,
    io::{self, IsTerminal as _, Write as _},
    rc::Rc,
    time::{Duration, UNIX_EPOCH},
};

use anyhow::Context as _;
use clap::builder::styling::{AnsiColor, Style};
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use repoguard::{
    Error, Holder, Notice, Repo, Waiting,
    escape::{escaped, escaped_data, escaped_json, is_showable, quoted_path},
    hooks::Refusal,
    mutation::{Failure, FailureReason, Landed, Landing, LeftOutReason, Mutated, Recovered, Rollback},
    run::{Ending, Task},
};
use serde::Serialize;

use super::{Color, worktrees};

/// How often a waiter that is not on a terminal says that it still waits.
const REPEAT: Duration = Duration::from_secs(30);

/// Where and how to talk to the user.
#[derive(Clone)]
pub(super) struct Ui {
    color: bool,
    volume: Volume,
    waiting: Rc<RefCell<Line>>,
    repeat: Rc<Cell<Duration>>,
    /// A mutation that was killed has been settled: nothing of it is left to look at.
    is_recovered: Rc<Cell<bool>>,
    /// The repository whose token may be in the environment, until that was checked.
    token: Rc<RefCell<Option<Repo>>>,
}

/// How much is printed to stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Volume {
    /// Nothing, errors included.
    Silent,
    /// Errors.
    Quiet,
    Usual,
    Verbose,
}

/// The line that says that we wait.
#[derive(Default)]
struct Line {
    /// On a terminal: it stands there, and is redrawn in place.
    live: bool,
    /// Elsewhere: how long we had waited when it was last said.
    said: Option<Duration>,
}

impl Ui {
    pub(super) fn new(color: Color, quiet: bool, verbose: bool) -> Self {
        let color = match color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => !repoguard::program::no_color() && io::stderr().is_terminal(),
        };
        let volume = match (quiet, verbose) {
            (true, _) => Volume::Quiet,
            (_, true) => Volume::Verbose,
            _ => Volume::Usual,
        };
        let (waiting, is_recovered, token) = (Rc::default(), Rc::default(), Rc::default());
        Self { color, volume, waiting, repeat: Rc::new(Cell::new(REPEAT)), is_recovered, token }
    }

    /// The same for a caller that reads the result file: nothing is printed.
    pub(super) fn silent(&self) -> Self {
        Self { volume: Volume::Silent, ..self.clone() }
    }

    /// Whether only errors are printed, or nothing.
    fn is_quiet(&self) -> bool {
        self.volume <= Volume::Quiet
    }

    /// Whether more is to be said.
    pub(super) fn is_verbose(&self) -> bool {
        self.volume == Volume::Verbose
    }

    /// Prints what a command learns while it runs.
    pub(super) fn notice(&self, notice: &Notice<'_>) {
        // Inside a hold that is proven without a token, nothing is reported.
        if let Notice::Waiting(_) | Notice::Acquired(_) = notice {
            self.look_at_token();
        }
        match notice {
            Notice::Waiting(waiting) => self.waiting(waiting),
            Notice::Acquired(waited) => {
                self.waiting_over();
                if self.is_verbose() {
                    self.say(&format!("acquired after {}", duration(*waited)));
                }
            }
            Notice::Died(holder, moved) => {
                let moved = moved.map_or_else(String::new, |(from, to)| format!("; HEAD moved from {from} to {to}"));
                self.warn(&format!("the last holder was killed before it could release: {}{moved}", who(holder)));
                if !self.is_recovered.get() {
                    self.hint("`git status` shows what it left behind");
                }
            }
            Notice::Displaced(holder) => {
                self.warn(&format!(
                    "the place of the lock was replaced; an earlier holder may still be at work here: {}",
                    who(holder)
                ));
            }
            Notice::Violated(from, to) => {
                self.warn(&format!("changed outside the guard since the last release: HEAD was {from}, is {to}"));
            }
            Notice::Switched(from, to, by) => {
                self.warn(&format!("HEAD was switched by the last holder, {by}: it was {from}, is {to}"));
            }
            Notice::Lost(path) => {
                let path = path.display();
                self.warn(&format!("the lock was lost: `{path}` was removed or replaced while the command ran"));
            }
            Notice::LostAround(fence) => {
                self.warn(&format!(
                    "the lock was lost: hold {fence}, inside of which the command ran, ended before it"
                ));
            }
            Notice::Lingers(pids) => self.say(&format!("the lock is kept: {}", still_inside(pids))),
            Notice::RanUnder(holder) => {
                self.warn(&format!("this git command did not wait for its turn; the lock is held by {}", who(holder)));
                self.hint("`repoguard exec -- git …` waits; `git status` shows how it stands now");
            }
            Notice::Unguarded(error) => {
                self.waiting_over();
                self.warn("git goes on without the lock");
                self.more("caused by:", &error.to_string());
            }
            Notice::Intruder(intruder) => {
                self.warn(&format!("this checkout was changed while you held it, by {}", who(intruder)));
                self.hint("`git status` shows how it stands; `repoguard log` keeps it");
            }
            Notice::Recovered(unfinished, recovered) => {
                self.is_recovered.set(true);
                self.warn(&format!("a mutation was killed before its end: {}", unfinished.command));
                self.details_of(recovered);
            }
            Notice::WaitingForGit(lock, gits) => {
                self.say(&format!("waiting for git's own lock `{}`; {gits}", lock.display()));
            }
            Notice::Keeping((files, bytes), (all_files, all_bytes)) => {
                let mib = |bytes: u64| bytes >> 20;
                let (bytes, all) = (mib(*bytes), mib(*all_bytes));
                if files == all_files {
                    self.waiting_over();
                } else {
                    self.live(&format!("keeping untracked files: {files} of {all_files}, {bytes} of {all} MiB"));
                }
            }
            Notice::Isolated(isolated) => {
                let path = quoted_path(&isolated.path);
                self.say(&format!("busy: runs in the worktree {path} instead, on branch {}", isolated.branch));
            }
            Notice::Removed(isolated) => {
                self.say(&format!("removed: nothing of worth is in the worktree {}", quoted_path(&isolated.path)));
            }
            Notice::Kept(isolated, work) => {
                let path = quoted_path(&isolated.path);
                self.say(&format!("kept: the worktree {path}, with {work}"));
                let landing = worktrees::landing(&isolated.path, &isolated.branch, &isolated.base, work);
                let lands = landing.first().map_or_else(String::new, |command| format!("`{command}` lands it; "));
                self.hint(&format!("{lands}`repoguard worktrees` tells more"));
            }
            Notice::Trouble(error) => self.trouble(error),
            _ => {}
        }
    }

    /// Says how a mutation ended.
    pub(super) fn mutated(&self, mutated: &Mutated, landing: Landing) {
        let count = match mutated.changed.len() {
            1 => "1 file".to_owned(),
            count => format!("{count} files"),
        };
        match &mutated.result {
            Landed::Committed(commit) => {
                self.say(&format!("committed {} ({count})", commit.get(..10).unwrap_or(commit)));
            }
            Landed::Staged => self.say(&format!("staged, not committed ({count})")),
            Landed::Shown => self.say("dry run: everything was put back"),
            Landed::Unchanged if landing == Landing::Commit && mutated.left_out.is_empty() => {
                self.say("nothing changed, nothing committed");
            }
            Landed::Unchanged if mutated.left_out.is_empty() => self.say("nothing changed"),
            Landed::Unchanged => self.say("nothing that belongs to the change: nothing committed"),
            Landed::Failed(failure) => self.failed(failure),
        }
        if !matches!(mutated.result, Landed::Failed(_)) {
            for (why, said) in [
                (LeftOutReason::Ignored, "left out, ignored:"),
                (LeftOutReason::WasThere, "left out, was there before and is unchanged:"),
                (LeftOutReason::Written, "left out, another process has it open for writing:"),
            ] {
                let paths: Vec<_> =
                    mutated.left_out.iter().filter(|left| left.why == why).map(|left| left.path.clone()).collect();
                if !paths.is_empty() {
                    self.more(said, &repoguard::error::listed(&paths));
                }
            }
        }
    }

    fn failed(&self, failed: &Failure) {
        self.line(RED, &failure(failed));
        let mut hint = None;
        match &failed.why {
            FailureReason::Trouble(error) => {
                self.causes(error);
                self.details(error);
                hint = error.hint();
            }
            FailureReason::Invalid(invalid) => hint = invalid.hint().map(str::to_owned),
            _ => {}
        }
        match &failed.rollback {
            None => self.more("state:", "nothing was changed"),
            Some(Ok(rollback)) => self.rolled_back(rollback),
            Some(Err(error)) => {
                self.line(RED, "not everything could be put back; what was there is kept, and nothing is lost");
                self.more("caused by:", &error.to_string());
                self.causes(error);
                hint = Some(
                    "`repoguard recover --status` shows how it stands; `repoguard recover` tries again".to_owned(),
                );
            }
        }
        self.hint_if_any(hint);
    }

    fn rolled_back(&self, rollback: &Rollback) {
        match &rollback.foreign_head {
            None if rollback.left.is_empty() && rollback.gone.is_empty() && rollback.references_left.is_empty() => {
                self.more("state:", "everything was put back as it was");
            }
            None => self.more("state:", "put back, but for what is left here"),
            Some((was, is)) => {
                self.more("state:", &format!("put back, but for HEAD, which somebody else moved from {was} to {is}"));
            }
        }
        if !rollback.left.is_empty() {
            self.more("left as they are:", &repoguard::error::listed(&rollback.left));
        }
        if !rollback.gone.is_empty() {
            self.more("removed, and nothing of theirs was kept:", &repoguard::error::listed(&rollback.gone));
        }
        if !rollback.references_left.is_empty() {
            self.more("moved by others, and left:", &rollback.references_left.join(", "));
        }
        if let Some(id) = &rollback.kept {
            self.more(
                "kept:",
                &format!("what was undone is in snapshot {id}; `repoguard restore {id}` brings it back"),
            );
        }
    }

    fn details_of(&self, recovered: &Recovered) {
        match recovered {
            Recovered::Forgotten => self.more("state:", "it had changed nothing"),
            Recovered::Undone(rollback) => self.rolled_back(rollback),
            Recovered::Finished(Some(commit)) => {
                self.more("state:", &format!("its commit {} stands", commit.get(..10).unwrap_or(commit)));
            }
            Recovered::Finished(None) => self.more("state:", "everything is left as it is"),
        }
    }

    /// Prints what came of a recovery.
    #[expect(clippy::unnecessary_wraps, reason = "as the other reports")]
    pub(super) fn recovered(&self, recovered: &Recovered) -> anyhow::Result<()> {
        self.say(match recovered {
            Recovered::Forgotten => "recovered: there was nothing to undo",
            Recovered::Undone(_) => "recovered: undone",
            Recovered::Finished(_) => "recovered: finished",
        });
        if !self.is_quiet() {
            self.details_of(recovered);
        }
        Ok(())
    }

    fn waiting(&self, waiting: &Waiting<'_>) {
        if self.is_quiet() {
            return;
        }
        let mut line = self.waiting.borrow_mut();
        if io::stderr().is_terminal() {
            line.live = true;
            let width = terminal_size::terminal_size_of(io::stderr()).map_or(80, |(width, _)| usize::from(width.0));
            let text = format!("waiting {}", waiting_text(waiting));
            let text = fitting(&escaped(&text), width.saturating_sub(PREFIX.len() + 2));
            print_now(&format!("{REDRAW}{} {text}", self.styled(YELLOW, PREFIX)));
        } else if line.said.is_none_or(|said| waiting.waited >= said + self.repeat.get()) {
            line.said = Some(waiting.waited);
            self.say(&format!("waiting {}", waiting_text(waiting)));
            self.hint_if_any(waiting.holders_and_ahead().0.iter().find_map(Holder::advice));
        }
    }

    /// Shows how far something is, on a terminal; the next message takes it off.
    fn live(&self, text: &str) {
        if !self.is_quiet() && io::stderr().is_terminal() {
            self.waiting.borrow_mut().live = true;
            print_now(&format!("{REDRAW}{} {text}", self.styled(YELLOW, PREFIX)));
        }
    }

    /// How often to repeat that we wait, where it is not on a terminal.
    pub(super) fn repeat_every(&self, time: Duration) {
        self.repeat.set(time);
    }

    /// Takes the live line off the screen.
    pub(super) fn waiting_over(&self) {
        if std::mem::take(&mut self.waiting.borrow_mut().live) {
            print_now(REDRAW);
        }
    }

    /// Prints an error with its causes, and a hint.
    pub(super) fn error(&self, error: &anyhow::Error) {
        self.look_at_token();
        self.line(RED, &error.to_string());
        for cause in error.chain().skip(1) {
            self.more("caused by:", &cause.to_string());
        }
        if let Some(error) = error.downcast_ref::<Error>() {
            self.details(error);
            self.hint_if_any(error.hint());
        }
    }

    /// Prints why a hook refuses, and how to get on.
    pub(super) fn refused(&self, refusal: &Refusal) {
        self.line(RED, &refusal.error.to_string());
        self.causes(&refusal.error);
        self.details(&refusal.error);
        self.hint_if_any(refusal.hint.clone());
    }

    fn details(&self, error: &Error) {
        match error {
            Error::Busy { holders, ahead, .. } => {
                for holder in holders {
                    self.more("held by", &who(holder));
                }
                for waiter in ahead {
                    self.more("waits before us:", &who(waiter));
                }
            }
            Error::Deadlock { cycle, .. } => {
                for other in cycle {
                    self.more("which waits for us:", &who(other));
                }
            }
            _ => {}
        }
    }

    fn hint_if_any(&self, hint: Option<String>) {
        if let Some(hint) = hint {
            self.hint(&hint);
        }
    }

    /// Says that git would not work here, so not all could be told.
    pub(super) fn untrusted(&self, error: &Error) {
        self.trouble(error);
        self.hint_if_any(error.hint());
    }

    fn trouble(&self, error: &Error) {
        self.warn(&error.to_string());
        self.causes(error);
    }

    fn causes(&self, error: &Error) {
        let mut cause = std::error::Error::source(error);
        while let Some(error) = cause {
            self.more("caused by:", &error.to_string());
            cause = error.source();
        }
    }

    /// Says that the command was not run because the lock is busy.
    pub(super) fn skipped(&self, error: &anyhow::Error) {
        self.say(&format!("skipped: {error}"));
    }

    /// Says why a command did not run, or not to its end.
    pub(super) fn not_run(&self, ending: Ending, task: &Task) {
        let program = task.command.first().map_or_else(String::new, |program| program.to_string_lossy().into_owned());
        self.line(
            RED,
            &match ending {
                Ending::NotFound => format!("`{program}`: no such command"),
                Ending::NotExecutable => format!("`{program}`: cannot be run"),
                Ending::Overtime => {
                    let max = task.max_hold.unwrap_or_default();
                    format!("`{program}` was stopped: it held the lock for more than {}", duration(max))
                }
                _ => format!("`{program}` could not be started"),
            },
        );
    }

    /// Prints to stdout what a command did.
    pub(super) fn report(&self, lines: &Lines) -> anyhow::Result<()> {
        if self.is_quiet() { Ok(()) } else { print(lines) }
    }

    /// Says something that -q keeps quiet.
    pub(super) fn say(&self, text: &str) {
        if !self.is_quiet() {
            self.line(Style::new().bold(), text);
        }
    }

    /// A lock of this repository is asked for: if that is not granted by the token in the environment, the user learns why.
    pub(super) fn may_have_token(&self, repo: &Repo) {
        *self.token.borrow_mut() = Some(repo.clone());
    }

    /// Says once that the token in the environment is of no use, if it is not.
    pub(super) fn look_at_token(&self) {
        let repo = self.token.borrow_mut().take();
        if repo.is_some_and(|repo| repoguard::program::has_stray_token(&repo)) {
            self.warn("REPOGUARD_TOKEN names no live hold here and is ignored");
            self.hint(
                "`unset REPOGUARD_TOKEN`, or acquire again; a hold ends with its command, its process or its --ttl",
            );
        }
    }

    fn warn(&self, text: &str) {
        if !self.is_quiet() {
            self.line(YELLOW, text);
        }
    }

    fn hint(&self, text: &str) {
        if !self.is_quiet() {
            self.more("hint:", text);
        }
    }

    fn line(&self, style: Style, text: &str) {
        if self.volume > Volume::Silent {
            // Nobody can be told when stderr is closed.
            drop(writeln!(io::stderr(), "{} {}", self.styled(style, PREFIX), escaped(text)));
        }
    }

    fn more(&self, label: &'static str, text: &str) {
        if self.volume > Volume::Silent {
            drop(writeln!(io::stderr(), "  {} {}", self.styled(CYAN, label), escaped(text)));
        }
    }

    fn styled(&self, style: Style, text: &str) -> String {
        if self.color { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }
}

/// Why a mutation failed, in one line: which step, and how.
pub(super) fn failure(failure: &Failure) -> String {
    let command = failure.command.as_ref().map_or_else(String::new, |command| format!(" `{command}`"));
    let what = match &failure.why {
        FailureReason::Ended(Ending::Exited(status)) => format!("exited with status {status}"),
        FailureReason::Ended(Ending::Signaled(signal)) => format!("died of signal {signal}"),
        FailureReason::Ended(Ending::Overtime) => "was stopped: it took longer than --max-hold".to_owned(),
        FailureReason::Ended(Ending::NotFound) => "could not run: no such command".to_owned(),
        FailureReason::Ended(Ending::NotExecutable) => "could not run: not executable".to_owned(),
        FailureReason::Ended(Ending::Lost) => "was not begun: the lock was lost".to_owned(),
        FailureReason::Ended(_) => "could not be started".to_owned(),
        FailureReason::Interrupted(signal) => format!("was interrupted by signal {signal}"),
        FailureReason::Invalid(invalid) => return format!("{} step: {invalid}", failure.step),
        FailureReason::Trouble(error) => return format!("{} step: {error}", failure.step),
    };
    format!("{} step:{command} {what}", failure.step)
}

/// What stands before each message, because the command's own stand between them.
const PREFIX: &str = "repoguard:";
/// Goes to the start of the terminal's line and clears it.
const REDRAW: &str = "\r\x1b[2K";
const RED: Style = AnsiColor::Red.on_default().bold();
const YELLOW: Style = AnsiColor::Yellow.on_default().bold();
const CYAN: Style = AnsiColor::Cyan.on_default();

/// Prints on the terminal what is safe already, without a line end.
fn print_now(text: &str) {
    let mut stderr = io::stderr();
    drop(stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush()));
}

/// Prints what the parser says about these arguments: help and version to stdout, a usage error to stderr.
///
/// The parser repeats arguments within text and colours of its own. So it parses again, with arguments that are safe to show.
pub(super) fn parsed(
    error: &clap::Error,
    parser: impl FnOnce() -> clap::Command,
    arguments: &[OsString],
) -> anyhow::Result<()> {
    if !error.use_stderr() {
        repoguard::program::check_output().context(NOT_WRITTEN)?;
    }
    let is_safe = |argument: &OsString| argument.to_str().is_some_and(|text| text.chars().all(is_showable));
    let printed = if arguments.iter().all(is_safe) {
        error.print()
    } else {
        let shown = arguments.iter().map(|argument| escaped(&argument.to_string_lossy()).into_owned());
        match parser().try_get_matches_from(shown) {
            Err(error) => error.print(),
            // Only the original arguments are wrong: for example, one is no text.
            Ok(_) => io::stderr().write_all(escaped_data(error.render().to_string().as_bytes()).as_bytes()),
        }
    };
    printed.and_then(|()| io::stdout().flush()).context(NOT_WRITTEN)
}

/// The message for a failed write.
const NOT_WRITTEN: &str = "cannot write to standard output";

/// Text for stdout, made line by line: what is in a line cannot start another one.
#[derive(Debug, Default)]
pub(super) struct Lines(String);

impl Lines {
    pub(super) fn add(&mut self, line: impl Display) {
        self.0.push_str(&escaped(&line.to_string()));
        self.0.push('\n');
    }
}

impl<L: Display> FromIterator<L> for Lines {
    fn from_iter<I: IntoIterator<Item = L>>(all: I) -> Self {
        let mut lines = Self::default();
        all.into_iter().for_each(|line| lines.add(line));
        lines
    }
}

/// Prints text for people.
pub(super) fn print(lines: &Lines) -> anyhow::Result<()> {
    write(&lines.0)
}

/// Clears the terminal before it is printed again.
pub(super) fn redraw(lines: &Lines) -> anyhow::Result<()> {
    if io::stdout().is_terminal() { write(&format!("\x1b[H\x1b[2J{}", lines.0)) } else { print(lines) }
}

/// Prints one JSON document.
pub(super) fn json(document: &impl Serialize) -> anyhow::Result<()> {
    json_lines([document])
}

/// Prints JSON documents, one a line.
pub(super) fn json_lines<D: Serialize>(documents: impl IntoIterator<Item = D>) -> anyhow::Result<()> {
    let mut text = String::new();
    for document in documents {
        text.push_str(&escaped_json(serde_json::to_string(&document)?));
        text.push('\n');
    }
    write(&text)
}

/// Prints data for a program: as it is, but not to a terminal.
pub(super) fn raw(data: &str) -> anyhow::Result<()> {
    if io::stdout().is_terminal() { write(&escaped_data(data.as_bytes())) } else { write(data) }
}

fn write(text: &str) -> anyhow::Result<()> {
    // The standard library replaces a closed descriptor by /dev/null, which accepts everything.
    repoguard::program::check_output().context(NOT_WRITTEN)?;
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).context(NOT_WRITTEN)
}

/// Fails if standard output cannot take `what`, which is printed only once and would be lost.
pub(super) fn check_output(what: &str) -> anyhow::Result<()> {
    repoguard::program::check_output()
        .map_err(|error| anyhow::anyhow!("{NOT_WRITTEN}, so {what} is not given: {error}"))
}

/// Tells whether an error means that the reader closed our output.
pub(super) fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// As much of a text as fits into so many columns.
fn fitting(text: &str, columns: usize) -> String {
    if text.width() <= columns {
        return text.to_owned();
    }
    let mut used = 1;
    let fits = |c: &char| {
        used += c.width().unwrap_or(0);
        used <= columns
    };
    text.chars().take_while(fits).chain(['…']).collect()
}

fn waiting_text(waiting: &Waiting<'_>) -> String {
    let (holders, ahead) = waiting.holders_and_ahead();
    // What matters most comes first: a narrow terminal shows only that.
    let holder = match holders.split_first() {
        Some((first, [])) => who(first),
        Some((first, rest)) => format!("{} and {} more", who(first), rest.len()),
        None => "whoever lets go just now".to_owned(),
    };
    let place = match ahead.len() {
        0 => "we are next".to_owned(),
        count => format!("{count} before us"),
    };
    let unchecked = waiting.unchecked().first().map_or_else(String::new, |records| {
        format!("; not checked for a deadlock with others, because `{}` cannot be read", records.display())
    });
    format!("{} for {holder}; {place}; for {}{unchecked}", duration(waiting.waited), waiting.what)
}

/// A holder or waiter in one line.
pub(super) fn who(holder: &Holder) -> String {
    let mut parts = vec![match holder.pid {
        0 => "an unknown process".to_owned(),
        pid if repoguard::program::is_pid_of_elsewhere(holder) => format!("pid {pid} of another pid namespace"),
        pid => format!("pid {pid}"),
    }];
    let user = user(holder);
    if !user.is_empty() {
        let agent = holder.agent.as_ref().map_or_else(String::new, |agent| format!(", {agent}"));
        parts.push(format!("({user}@{}{agent})", holder.host));
    }
    if !holder.command.is_empty() {
        parts.push(format!("`{}`", holder.command));
    }
    if holder.requested_ms > 0 {
        let since = holder.acquired_ms.unwrap_or(holder.requested_ms);
        parts.push(format!("since {} ({})", clock(since), duration(holder.age())));
    }
    if let Some(reason) = &holder.reason {
        parts.push(format!("for: {}", repoguard::holder::readable(reason)));
    }
    if holder.lingers {
        parts.push("(has ended; kept for those who work inside of it)".to_owned());
    }
    if holder.editor {
        parts.push("(an editor is open)".to_owned());
    }
    if let Some(pid) = holder.for_pid {
        parts.push(format!("(until pid {pid} ends)"));
    }
    if let Some(until) = holder.until_ms {
        parts.push(format!("(at the latest until {})", clock(until)));
    }
    if let Some(heirs) = &holder.inherited_by {
        parts.push(format!("({})", kept_by(holder, heirs)));
    }
    parts.join(" ")
}

/// Who works inside of a hold whose command has ended: the first process, which has started the others.
fn still_inside(pids: &[u32]) -> String {
    match pids.first().and_then(|pid| repoguard::program::command_of(*pid).map(|command| (pid, command))) {
        Some((pid, command)) => format!("pid {pid} `{command}` still runs inside of this hold"),
        None => "somebody still works inside of this hold".to_owned(),
    }
}

/// Which processes keep the lock of a holder that has ended.
fn kept_by(holder: &Holder, heirs: &[u32]) -> String {
    let heir = |pid: &u32| match repoguard::program::command_of(*pid) {
        Some(command) => format!("pid {pid} `{command}`"),
        None => format!("pid {pid}"),
    };
    let ended = if holder.foreign { "ended" } else { "its repoguard was killed" };
    let heirs = match heirs {
        [] => "a process that this user cannot see".to_owned(),
        heirs => heirs.iter().map(heir).collect::<Vec<_>>().join(", "),
    };
    format!("{ended}, and the lock is kept by {heirs}")
}

/// The user of a holder or waiter: as the system shows its process, since anybody who may write a record can lie in it.
pub(super) fn user(holder: &Holder) -> String {
    let recorded = &holder.user;
    match repoguard::program::user_of(holder) {
        Some(user) if recorded.split(" (USER=").next() != Some(&user) && !recorded.is_empty() => {
            format!("{user}, recorded as {recorded}")
        }
        Some(user) if recorded.is_empty() => user,
        _ => recorded.clone(),
    }
}

/// A time of day, with the date where it is not today's.
pub(super) fn clock(ms: u64) -> String {
    let time = jiff::Timestamp::try_from(UNIX_EPOCH + Duration::from_millis(ms)).unwrap_or_default();
    let zone = jiff::tz::TimeZone::system();
    let (time, now) = (time.to_zoned(zone.clone()), jiff::Timestamp::now().to_zoned(zone));
    if time.date() == now.date() { time.strftime("%H:%M:%S").to_string() } else { time.strftime("%F %T").to_string() }
}

/// A size in bytes as people say it.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    #[expect(clippy::cast_precision_loss, reason = "one digit after the point is shown")]
    let mut size = bytes as f64;
    let mut unit = "B";
    for larger in UNITS {
        if size < 1024.0 {
            break;
        }
        (size, unit) = (size / 1024.0, larger);
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{size:.1} {unit}") }
}

/// A duration as people say it.
pub(super) fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_at_the_columns_it_takes() {
        assert_eq!(fitting("abc", 3), "abc");
        assert_eq!(fitting("abcd", 3), "ab…");
        assert_eq!(fitting("漢字漢字", 5), "漢字…");
        assert_eq!(fitting("abc", 0), "…");
    }

    #[test]
    fn line_cannot_start_another() {
        let lines = Lines::from_iter(["a\nb", "\u{1b}[2J"]);
        assert_eq!(lines.0, "a\\nb\n\\x1b[2J\n");
    }

    #[test]
    fn sizes_read_well() {
        for (bytes, text) in [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 30, "5.0 GiB")] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn durations_read_well() {
        for (ms, text) in [(300, "0.3 s"), (42_000, "42 s"), (125_000, "2 min 5 s"), (7_260_000, "2 h 1 min")] {
            assert_eq!(duration(Duration::from_millis(ms)), text);
        }
    }
}
