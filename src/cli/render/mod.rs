//! Prints messages to stderr and data to stdout. Nothing else in the program prints.
//!
//! Lower case, what then where, `caused by:` lines, `hint:` with a command to paste. The meaning survives without colour.
//!
//! # Foreign text
//! Each function here makes what it prints safe, so a caller cannot forget to. A message is one line, and [`Lines`] is made
//! line by line: line ends and colours of our own are added afterwards. JSON is escaped by JSON's own means. Only [`raw`]
//! prints data byte for byte, and to a terminal not even that.

mod mutation;
mod notice;
mod output;
mod text;

use std::{
    cell::{Cell, RefCell},
    io::{self, IsTerminal as _, Write as _},
    rc::Rc,
    time::Duration,
};

use clap::builder::styling::{AnsiColor, Style};
use repoguard::{
    Error, Repo,
    escape::escaped,
    hooks::Refusal,
    run::{Ending, Task},
};

use super::Color;
pub(super) use mutation::failure;
pub(super) use output::{Lines, check_output, is_closed_pipe, json, json_lines, parsed, print, raw, redraw};
pub(super) use text::{clock, duration, size, user, who};

/// How often a waiter that is not on a terminal says that it still waits.
const REPEAT: Duration = Duration::from_secs(30);

/// How to print to the user.
#[derive(Clone)]
pub(super) struct Ui {
    color: bool,
    volume: Volume,
    waiting: Rc<RefCell<Line>>,
    repeat: Rc<Cell<Duration>>,
    /// An interrupted mutation has been recovered: nothing of it is left to look at.
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

    /// Prints why a hook fails, and how to go on.
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

    /// Reports that git does not work here, so the answer is incomplete.
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
            self.waiting_over();
            // A closed stderr is not an error.
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

/// The prefix of each message, which tells it from the command's own output.
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
