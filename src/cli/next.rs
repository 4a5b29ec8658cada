//! `repoguard next`: gives out numbers, each once.

use std::{fmt::Write as _, num::NonZeroU64};

use anyhow::Context as _;
use clap::{ArgMatches, Args, FromArgMatches};
use repoguard::{
    Config, Repo,
    sequence::{ScanPattern, Sequence, SequenceOptions},
};
use serde_json::json;

use super::{
    Context,
    exit::{self, Exit, Usage},
    number::NumberFormat,
    render,
};

/// So many at once are a mistake beyond this.
const MOST: u64 = 1_000_000;

/// Give numbers that nobody else is given
///
/// Prints the next number of the sequence SEQ, or the next N with --count, one a line. All worktrees of the repository share a
/// sequence, which begins with 1. No number is given twice: neither to concurrent callers, nor after a kill, nor after an undo
/// (`repoguard mutate`). The number is on disk before it is printed. So there can be gaps: a number that was not used, or could not
/// be printed, is not given again.
///
/// It has a short lock of its own, and does not wait for anybody who holds the lock of the worktree, nor needs it.
///
/// With --scan, the number is also greater than all that stand in the names of files or directories that match, which were
/// made by hand, or in another clone: in the files of this worktree and all others of the repository, ignored ones included,
/// in their indexes, and in all that a reference leads to: local and remote-tracking branches, tags, the newest stash.
/// Nothing is checked out or fetched for that. In PATTERN, `{}` stands for the number (digits, leading zeros or not), `*` for
/// any text within a name, `?` for one character, `**` for any directories, `\` takes what follows for itself.
///
///     repoguard next adr --scan 'docs/adr/{}-*.md' --format 'ADR-{:04}'
///
/// The sequences are kept in the git directory that all worktrees share, below `repoguard/sequences`. Other clones have their own:
/// only --scan sees numbers that were pushed and fetched. Deleting that directory begins all sequences again, after the numbers
/// that --scan finds.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Name of the sequence: any text without control characters, `adr` say
    #[arg(value_name = "SEQ")]
    sequence: String,
    /// Give so many numbers, one after the other
    #[arg(long, value_name = "N", default_value = "1", value_parser = count)]
    count: NonZeroU64,
    /// How to write a number: `{}` stands for it, `{:04}` for at least four digits, `{{` and `}}` for braces
    #[arg(long, value_name = "FORMAT")]
    format: Option<NumberFormat>,
    /// Give numbers that are greater than those in the names that match, relative to the top of the worktree; can be given
    /// several times
    #[arg(long, value_name = "PATTERN")]
    scan: Vec<ScanPattern>,
    /// Give no number below N
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    at_least: u64,
    /// Give none: print the last one that was given, or exit with 1 where none was
    #[arg(long, conflicts_with_all = ["count", "scan", "at_least"])]
    last: bool,
}

pub(super) fn run(context: &Context, matches: &ArgMatches) -> anyhow::Result<Exit> {
    let arguments = Arguments::from_arg_matches(matches).map_err(|error| Usage(error.to_string()))?;
    let directory = std::env::current_dir().context("cannot find the current directory")?;
    let repo = Repo::discover(&directory)?;
    let sequence = Sequence::open(&repo, &Config::load(&repo)?, &arguments.sequence)?;
    if arguments.last {
        let last: Vec<u64> = sequence.last()?.into_iter().collect();
        print(context, &arguments, &last)?;
        return Ok(Exit::Status(if last.is_empty() { exit::NO } else { 0 }));
    }
    let Arguments { count, at_least, scan, .. } = &arguments;
    let mut options = SequenceOptions::default().count(*count).at_least(*at_least);
    options.scan.clone_from(scan);
    render::check_output("a number")?;
    let given = sequence.next(&options)?;
    if given.are_first && given.seen.is_none() && !scan.is_empty() {
        let patterns: Vec<String> = scan.iter().map(|pattern| format!("`{pattern}`")).collect();
        let (first, patterns) = (given.numbers.start(), patterns.join(", "));
        context.ui.say(&format!("the sequence begins with {first}: nothing matches {patterns} yet"));
    }
    let numbers: Vec<u64> = given.numbers.clone().collect();
    let printed = print(context, &arguments, &numbers);
    // An error even for a closed reader: the caller has not got a number.
    printed.map_err(|error| {
        let (first, last) = (given.numbers.start(), given.numbers.end());
        let which = if first == last { format!("number {first}") } else { format!("numbers {first} to {last}") };
        anyhow::anyhow!("{which} cannot be printed, and will not be given again: {error:#}")
    })?;
    Ok(Exit::OK)
}

fn print(context: &Context, arguments: &Arguments, numbers: &[u64]) -> anyhow::Result<()> {
    let format = arguments.format.clone().unwrap_or_default();
    if context.json {
        let ids: Vec<String> = numbers.iter().map(|number| format.write(*number)).collect();
        return render::json(&json!({"schema": 1, "sequence": arguments.sequence, "numbers": numbers, "ids": ids}));
    }
    render::raw(&numbers.iter().fold(String::new(), |mut text, number| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}", format.write(*number));
        text
    }))
}

fn count(text: &str) -> Result<NonZeroU64, String> {
    let count = text.parse::<NonZeroU64>().ok().filter(|count| count.get() <= MOST);
    count.ok_or_else(|| format!("expected a number from 1 to {MOST}"))
}
