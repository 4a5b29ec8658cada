//! `repoguard state`: one JSON document that many share, section by section.

use std::{
    fs::File,
    io::{self, Read},
    path::PathBuf,
    time::Duration,
};

use anyhow::Context as _;
use clap::{ArgMatches, Args, FromArgMatches, Subcommand};
use repoguard::{
    Config, Repo,
    escape::{escaped_json, is_showable},
    state::StateFile,
};
use serde::Serialize;
use serde_json::{json, value::RawValue};

use super::{
    Context, digest,
    exit::{self, Exit, Usage},
    failure, flush, options, render,
};

/// Keep one JSON document that many processes write to, section by section
///
/// The document is one JSON object, its members are the sections. Each writer changes its own: every write reads the newest
/// document under a short lock of its own, changes only the sections that are named, and replaces the file in one step, on
/// disk when the command has ended. So no change is ever lost, and who reads the file, by whatever program, sees one whole
/// document or another. All else in it stays byte for byte as it is written: order, numbers, spaces, line ends.
///
/// The document is `repoguard/state.json` in the git directory, shared by all worktrees, or any file, given by --file. It is
/// made when something is written to it, with the section `lock_version`.
///
/// Writing never waits for a `repoguard exec` or `mutate`, and works inside of one, also many times at once.
///
/// A document that is damaged (not JSON, not an object, a section that is there twice), read-only or no regular file is an
/// error that tells the place; it is never written over.
///
/// Exit status: 0; 1 `get`: there is nothing, `digest --check`: something changed; 65 not as expected (--expect); 75 busy for
/// longer than --timeout; 69 locks do not work on this file system; 125 the document is damaged or cannot be written; 2 usage
/// error, also for a value that is not JSON.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Args)]
struct Place {
    /// The document, instead of the repository's own: for example a tracked file. A symbolic link stays one, and the mode is kept
    #[arg(long, value_name = "PATH", global = true)]
    file: Option<PathBuf>,
    /// Wait at most this long for others who write to it: `30s`, `1.5`; `0` tries once [default: without limit]
    #[arg(short = 'w', long, value_name = "DUR", value_parser = options::duration, global = true, allow_negative_numbers = true)]
    timeout: Option<Duration>,
    /// Do not wait for others who write to it
    #[arg(short, long, global = true, conflicts_with = "timeout")]
    no_wait: bool,
}

#[derive(Debug, Subcommand)]
enum Action {
    Get(Get),
    Set(Set),
    Rm(Rm),
    List(List),
    Merge(Merge),
    Digest(digest::Arguments),
}

/// Print a section, or a part of it, as it is written
///
/// `get SECTION` prints the section, `get SECTION /a/0` what the JSON pointer (RFC 6901) leads to in it, `get` alone the whole
/// document. Takes no lock.
///
/// Exit status: 0; 1 when there is nothing: then nothing is printed, and with --json an object with `outcome` `no`.
#[derive(Debug, Args)]
struct Get {
    /// The section
    section: Option<String>,
    /// The place in it: `/name/0`; `~1` means `/` in a name, `~0` means `~`
    pointer: Option<String>,
    /// Print a text as it is, not as JSON
    #[arg(short, long)]
    raw: bool,
}

/// Set sections to new values
///
/// `set a 1 b '{"x": 2}'` sets both in one step. `-` reads the value from standard input. Before names and values that
/// begin with `-`, but for numbers like `-1.5`, write `--`. A value that is there already, but
/// for the space in it, is left as it is written, and a document in which nothing changes is not written.
#[derive(Debug, Args)]
#[command(override_usage = "repoguard state set [OPTIONS] <SECTION> <JSON|-> [<SECTION> <JSON|->]...\n       \
                            repoguard state set [OPTIONS] <SECTION> --string <TEXT>\n       \
                            repoguard state set [OPTIONS] <SECTION> --from-file <PATH>")]
struct Set {
    /// Sections, each followed by its new value
    #[arg(required = true, value_name = "SECTION JSON", allow_negative_numbers = true)]
    sections: Vec<String>,
    /// The new value is this text
    #[arg(long, value_name = "TEXT", conflicts_with = "from_file", allow_hyphen_values = true)]
    string: Option<String>,
    /// The new value is the JSON in this file
    #[arg(long, value_name = "PATH")]
    from_file: Option<PathBuf>,
    #[command(flatten)]
    expected: Expected,
}

/// Remove sections
///
/// A section that is not there is as good as removed.
#[derive(Debug, Args)]
struct Rm {
    /// The sections
    #[arg(required = true, value_name = "SECTION")]
    sections: Vec<String>,
    #[command(flatten)]
    expected: Expected,
}

/// Print the names of the sections, one a line, in their order
///
/// A name with control or invisible characters in it is printed as JSON. Takes no lock.
#[derive(Debug, Args)]
struct List {}

/// Change parts of sections by merge patches
///
/// As RFC 7396 says: members of the patch replace those of the section, objects in it are merged likewise, `null` removes, all
/// else stays. `-` reads the patch from standard input. A section that is missing, or no object, becomes one.
#[derive(Debug, Args)]
#[command(override_usage = "repoguard state merge [OPTIONS] <SECTION> <PATCH|-> [<SECTION> <PATCH|->]...")]
struct Merge {
    /// Sections, each followed by its patch
    #[arg(required = true, num_args = 2.., value_name = "SECTION PATCH", allow_negative_numbers = true)]
    sections: Vec<String>,
    #[command(flatten)]
    expected: Expected,
}

/// Compare, and write only if it is so.
#[derive(Debug, Args)]
struct Expected {
    /// Only if the section means this now: numbers are compared by their exact value (1.0 is 1), the order of members does not
    /// count. Else nothing is written: exit 65
    #[arg(long, value_name = "JSON", conflicts_with = "expect_missing", allow_hyphen_values = true)]
    expect: Option<String>,
    /// Only if the section is not there now
    #[arg(long)]
    expect_missing: bool,
}

pub(super) fn run(context: &Context, matches: &ArgMatches) -> anyhow::Result<Exit> {
    let Arguments { place, action } = Arguments::from_arg_matches(matches).map_err(|error| Usage(error.to_string()))?;
    match action {
        Action::Get(arguments) => get(context, &open(&place, Access::Read)?.1, &arguments),
        Action::List(List {}) => list(context, &open(&place, Access::Read)?.1),
        Action::Set(arguments) => set(context, &open(&place, Access::Write)?.1, &arguments),
        Action::Rm(arguments) => rm(context, &open(&place, Access::Write)?.1, &arguments),
        Action::Merge(arguments) => merge(context, &open(&place, Access::Write)?.1, &arguments),
        Action::Digest(arguments) => {
            let (repo, state) = open(&place, if arguments.check { Access::Read } else { Access::Write })?;
            digest::run(context, &repo, &state, &arguments)
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    Write,
}

fn open(place: &Place, access: Access) -> anyhow::Result<(Repo, StateFile)> {
    let directory = std::env::current_dir().context("cannot find the current directory")?;
    let repo = match access {
        Access::Read => Repo::discover_of_any_owner(&directory)?,
        Access::Write => Repo::discover(&directory)?,
    };
    let config = if access == Access::Read { Config::default() } else { Config::load(&repo)? };
    let state = match &place.file {
        Some(path) => StateFile::at(&repo, &config, path)?,
        None => StateFile::open(&repo, &config)?,
    };
    let timeout = place.timeout.or(place.no_wait.then_some(Duration::ZERO));
    Ok((
        repo,
        match timeout {
            Some(timeout) => state.with_timeout(timeout),
            None => state,
        },
    ))
}

/// Writes what is staged, and reports it.
fn write(context: &Context, state: &StateFile, sections: &[&str]) -> anyhow::Result<Exit> {
    let changed = flush::flush(context, state)?;
    if context.json {
        let path = state.path().to_string_lossy();
        render::json(&json!({"schema": 1, "path": path, "sections": sections, "changed": changed}))?;
    } else if context.ui.is_verbose() {
        let done = if changed { "written" } else { "nothing changed" };
        context.ui.say(&format!("{done}: `{}`", state.path().display()));
    }
    Ok(Exit::OK)
}

/// The output of `get --json`.
#[derive(Serialize)]
struct Got<'a> {
    schema: u32,
    section: Option<&'a str>,
    pointer: &'a str,
    value: &'a RawValue,
}

fn get(context: &Context, state: &StateFile, arguments: &Get) -> anyhow::Result<Exit> {
    let pointer = arguments.pointer.as_deref().unwrap_or_default();
    let document = state.read()?;
    let value = match (&document, &arguments.section) {
        (None, _) => None,
        (Some(document), None) => Some(document.text().trim()),
        (Some(document), Some(section)) => document.find(section, pointer)?,
    };
    let Some(value) = value else {
        if context.json {
            render::json(&failure::no("nothing is there"))?;
        }
        return Ok(Exit::Status(exit::NO));
    };
    if context.json {
        let section = arguments.section.as_deref();
        render::json(&Got { schema: 1, section, pointer, value: serde_json::from_str(value)? })?;
        return Ok(Exit::OK);
    }
    let text = if arguments.raw && value.starts_with('"') {
        serde_json::from_str(value).context("this text has escapes that stand for no character")?
    } else {
        value.to_owned()
    };
    render::raw(&format!("{text}\n"))?;
    Ok(Exit::OK)
}

fn list(context: &Context, state: &StateFile) -> anyhow::Result<Exit> {
    let document = state.read()?;
    let names: Vec<&str> = document.as_ref().map(|document| document.sections().collect()).unwrap_or_default();
    if context.json {
        let path = state.path().to_string_lossy();
        render::json(&json!({"schema": 1, "path": path, "exists": document.is_some(), "sections": names}))?;
        return Ok(Exit::OK);
    }
    let line = |name: &str| {
        if name.chars().all(is_showable) { name.to_owned() } else { escaped_json(json!(name).to_string()) }
    };
    render::print(&names.into_iter().map(line).collect())?;
    Ok(Exit::OK)
}

fn set(context: &Context, state: &StateFile, arguments: &Set) -> anyhow::Result<Exit> {
    if arguments.string.is_some() || arguments.from_file.is_some() {
        let [section] = arguments.sections.as_slice() else {
            return Err(Usage("--string and --from-file set one section, and take no other value".to_owned()).into());
        };
        match (&arguments.string, &arguments.from_file) {
            (Some(text), _) => state.stage(section, text)?,
            (None, Some(path)) => {
                let file = File::open(path).with_context(|| format!("cannot open `{}`", path.display()))?;
                let text = read(file).with_context(|| format!("cannot read `{}`", path.display()))?;
                state.stage_json(section, &text)?;
            }
            (None, None) => {}
        }
        expect(state, &arguments.expected, &[section])?;
        return write(context, state, &[section]);
    }
    each(context, state, &arguments.sections, &arguments.expected, StateFile::stage_json)
}

fn merge(context: &Context, state: &StateFile, arguments: &Merge) -> anyhow::Result<Exit> {
    each(context, state, &arguments.sections, &arguments.expected, StateFile::stage_merge)
}

/// Stages each section's value, and writes them.
fn each(
    context: &Context,
    state: &StateFile,
    pairs: &[String],
    expected: &Expected,
    put: impl Fn(&StateFile, &str, &str) -> repoguard::Result<()>,
) -> anyhow::Result<Exit> {
    let mut sections = Vec::new();
    if pairs.chunks(2).filter(|pair| pair.get(1).is_some_and(|value| value == "-")).count() > 1 {
        return Err(Usage("only one value can be read from standard input".to_owned()).into());
    }
    for pair in pairs.chunks(2) {
        let [section, value] = pair else {
            return Err(Usage(format!("section `{}` has no value", pair.concat())).into());
        };
        if value == "-" {
            put(state, section, &read(io::stdin().lock()).context("cannot read standard input")?)?;
        } else {
            put(state, section, value)?;
        }
        sections.push(section.as_str());
    }
    expect(state, expected, &sections)?;
    write(context, state, &sections)
}

fn rm(context: &Context, state: &StateFile, arguments: &Rm) -> anyhow::Result<Exit> {
    let sections: Vec<&str> = arguments.sections.iter().map(String::as_str).collect();
    for section in &sections {
        state.stage_removed(section);
    }
    expect(state, &arguments.expected, &sections)?;
    write(context, state, &sections)
}

fn expect(state: &StateFile, expected: &Expected, sections: &[&str]) -> anyhow::Result<()> {
    if expected.expect.is_none() && !expected.expect_missing {
        return Ok(());
    }
    let [section] = sections else {
        return Err(Usage("--expect and --expect-missing go with one section".to_owned()).into());
    };
    Ok(state.expect(section, expected.expect.as_deref())?)
}

/// Reads a value, but not without end.
fn read(input: impl Read) -> anyhow::Result<String> {
    const MOST: u64 = 64 << 20;
    let mut bytes = Vec::new();
    input.take(MOST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST {
        return Err(Usage("a value of more than 64 MiB cannot be kept".to_owned()).into());
    }
    String::from_utf8(bytes).map_err(|_| Usage("the value is not UTF-8, so it is no JSON".to_owned()).into())
}
