//! Picks the verb first and builds only its parser: a parser of all verbs costs more than the lock.
//!
//! One verb is one file: its arguments (whose doc comments are its help) and `run`.

mod acquire;
mod digest;
mod doctor;
mod exec;
mod exit;
mod failure;
mod flush;
mod hook;
mod hooks;
mod log;
mod manual;
mod mutate;
mod next;
mod number;
mod options;
mod recover;
mod render;
mod restore;
mod result_file;
mod snapshots;
mod state;
mod status;
mod worktrees;

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::{ArgMatches, Args, Command, FromArgMatches, ValueEnum};

use self::{
    exit::{Exit, Usage},
    render::Ui,
};

/// One lock for everybody who changes a Git checkout
///
/// When several agents, CI jobs, cron jobs, editors and people work on one checkout, repoguard keeps them from destroying each
/// other's work. A command under `repoguard exec` waits for its turn, sees who is in the way, and has the repository for itself
/// until it has ended.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
struct Globals {
    /// Run as if started in DIR; can be given several times, each relative to the one before
    #[arg(short = 'C', value_name = "DIR", global = true)]
    directory: Vec<PathBuf>,
    /// Print one JSON document (JSON lines for `log` and `status --watch`)
    #[arg(long, global = true)]
    json: bool,
    /// Print only errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Say more
    #[arg(short, long, global = true)]
    verbose: bool,
    /// When to use colours
    #[arg(long, value_name = "WHEN", default_value = "auto", global = true)]
    color: Color,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Color {
    Auto,
    Always,
    Never,
}

/// The context of every verb.
#[derive(Clone)]
struct Context {
    ui: Ui,
    json: bool,
}

impl Context {
    /// For a verb whose standard output belongs to somebody else.
    fn plain() -> Self {
        Self { ui: Ui::new(Color::Auto, false, false), json: false }
    }

    /// The end of a command that failed: reports the error, with `--json` as an object as well.
    fn failed(&self, error: &anyhow::Error, status: u8) -> Exit {
        self.ui.error(error);
        if self.json {
            // If standard output is what failed, the message must do.
            drop(render::json(&failure::to_json(error, status)));
        }
        Exit::Status(status)
    }
}

/// A verb: its parser, and what it does.
struct Verb {
    name: &'static str,
    /// Whether `--json` is for it: not if its standard output is a command's.
    takes_json: bool,
    parser: fn(Command) -> Command,
    run: fn(&Context, &ArgMatches) -> anyhow::Result<Exit>,
}

const VERBS: &[Verb] = &[
    Verb { name: "exec", takes_json: false, parser: exec::Arguments::augment_args, run: exec::parsed },
    Verb { name: "mutate", takes_json: false, parser: mutate::Arguments::augment_args, run: mutate::run },
    Verb { name: "recover", takes_json: true, parser: recover::Arguments::augment_args, run: recover::run },
    Verb { name: "acquire", takes_json: true, parser: acquire::Acquire::augment_args, run: acquire::acquire },
    Verb { name: "release", takes_json: true, parser: acquire::Release::augment_args, run: acquire::release },
    Verb { name: "wait", takes_json: true, parser: acquire::Wait::augment_args, run: acquire::wait },
    Verb { name: "hooks", takes_json: true, parser: hooks::Arguments::augment_args, run: hooks::run },
    Verb { name: "status", takes_json: true, parser: status::Arguments::augment_args, run: status::run },
    Verb { name: "log", takes_json: true, parser: log::Arguments::augment_args, run: log::run },
    Verb { name: "snapshots", takes_json: true, parser: snapshots::Arguments::augment_args, run: snapshots::run },
    Verb { name: "restore", takes_json: true, parser: restore::Arguments::augment_args, run: restore::run },
    Verb { name: "next", takes_json: true, parser: next::Arguments::augment_args, run: next::run },
    Verb { name: "worktrees", takes_json: true, parser: worktrees::Arguments::augment_args, run: worktrees::run },
    Verb { name: "state", takes_json: true, parser: state::Arguments::augment_args, run: state::run },
    Verb { name: "doctor", takes_json: true, parser: doctor::Arguments::augment_args, run: doctor::run },
    Verb { name: "hook", takes_json: false, parser: hook::Arguments::augment_args, run: hook::parsed },
    Verb { name: "completions", takes_json: true, parser: manual::Completions::augment_args, run: manual::completions },
    Verb { name: "man", takes_json: true, parser: manual::Man::augment_args, run: manual::man },
];

/// Runs the program.
pub(crate) fn main() -> ExitCode {
    repoguard::program::prepare_signals();
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if let Some(arguments) = exec::quick(&arguments) {
        let context = Context::plain();
        return finish(&context, exec::run(&context, &arguments));
    }
    if let Some(arguments) = hook::quick(&arguments) {
        let context = Context::plain();
        return finish(&context, hook::run(&context, arguments));
    }
    let parser = || match picked(&arguments) {
        Some(verb) => command([verb]),
        None => command(VERBS),
    };
    let matches = match parser().try_get_matches_from(&arguments) {
        Ok(matches) => matches,
        Err(error) => return not_parsed(parser, &arguments, &error),
    };
    let globals = Globals::from_arg_matches(&matches).expect("the parser has these arguments");
    let context = Context { ui: Ui::new(globals.color, globals.quiet, globals.verbose), json: globals.json };
    let result = run(&context, &globals.directory, &matches);
    finish(&context, result)
}

fn run(context: &Context, directories: &[PathBuf], matches: &ArgMatches) -> anyhow::Result<Exit> {
    let (name, matches) = matches.subcommand().expect("the parser requires a verb");
    let verb = VERBS.iter().find(|verb| verb.name == name).expect("the parser knows no other verbs");
    if context.json && !verb.takes_json {
        let context = Context { json: false, ..context.clone() };
        let usage = Usage(format!("`{name}` has no --json: its output is the command's; see --result-file"));
        return Ok(context.failed(&usage.into(), exit::USAGE));
    }
    for directory in directories {
        std::env::set_current_dir(directory).with_context(|| format!("cannot change to `{}`", directory.display()))?;
    }
    (verb.run)(context, matches)
}

/// Ends with the outcome of a verb; an error is reported.
fn finish(context: &Context, result: anyhow::Result<Exit>) -> ExitCode {
    let exit = result.unwrap_or_else(|error| {
        // The reader closed our output, as `head` does: no error.
        if render::is_closed_pipe(&error) { Exit::OK } else { context.failed(&error, exit::of(&error)) }
    });
    exit.end()
}

/// Ends with what the parser says: help, the version, or a usage error.
fn not_parsed(parser: impl FnOnce() -> clap::Command, arguments: &[OsString], error: &clap::Error) -> ExitCode {
    let printed = render::parsed(error, parser, arguments);
    if error.exit_code() == 0 {
        return finish(&Context::plain(), printed.map(|()| Exit::OK));
    }
    let mut options = arguments.iter().skip(1).take_while(|argument| *argument != "--");
    let takes_json = picked(arguments).is_none_or(|verb| verb.takes_json);
    if takes_json && options.any(|argument| argument == "--json") {
        let text = error.to_string();
        let message: Vec<&str> = text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
        let usage = Usage(message.join(" ").trim_start_matches("error: ").to_owned()).into();
        drop(render::json(&failure::to_json(&usage, exit::USAGE)));
    }
    Exit::Status(exit::USAGE).end()
}

/// The parser for some verbs.
fn command<'a>(verbs: impl IntoIterator<Item = &'a Verb>) -> Command {
    let root = Command::new("repoguard").version(env!("CARGO_PKG_VERSION")).subcommand_required(true);
    let root = Globals::augment_args(root.arg_required_else_help(true).after_help(AFTER_HELP));
    verbs.into_iter().fold(root, |root, verb| root.subcommand((verb.parser)(Command::new(verb.name))))
}

const AFTER_HELP: &str = "`repoguard VERB --help` tells all about a verb; `repoguard man` prints the manual page.";

/// The verb among the arguments, if all before it is understood.
fn picked(arguments: &[OsString]) -> Option<&'static Verb> {
    let mut arguments = arguments.iter().skip(1);
    loop {
        match arguments.next()?.to_str()? {
            "-C" | "--color" => drop(arguments.next()?),
            "-q" | "--quiet" | "-v" | "--verbose" | "--json" => {}
            option if option.starts_with("--color=") || (option.starts_with("-C") && option.len() > 2) => {}
            name => return VERBS.iter().find(|verb| verb.name == name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parsers_are_consistent() {
        command(VERBS).debug_assert();
    }

    #[test]
    fn verb_is_found_behind_the_global_options() {
        let picked = |line: &str| {
            let arguments: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            picked(&arguments).map(|verb| verb.name)
        };
        assert_eq!(picked("repoguard -C status exec -- log"), Some("exec"));
        assert_eq!(picked("repoguard -Cstatus --color=never -q status"), Some("status"));
        assert_eq!(picked("repoguard --help exec"), None);
        assert_eq!(picked("repoguard"), None);
    }
}
