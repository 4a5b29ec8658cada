//! `repoguard state digest`: are the inputs still what something was made from?

use std::{fmt::Write as _, path::PathBuf};

use clap::Args;
use repoguard::{Difference, INPUTS_DIGEST, Inputs, Repo, StateFile};
use serde_json::json;

use super::{
    Context,
    exit::{self, Exit, Usage},
    render, state, words,
};

/// Record a digest of inputs, or tell whether they have changed since
///
/// Inputs are files, directories with all that is in them, and outputs of commands. What counts of a file: its bytes, and
/// whether it can be run; of a directory: names and what they stand for, also what git ignores, but not `.git`; of a link in
/// it, where it points to. Digests are kept in the section `inputs_digest` of the document, under a name; the same inputs are
/// always written the same.
///
/// `digest --check` compares the files that are given, or else those that were recorded, and prints what is not the same.
/// Commands have to be given again: what stands in a document is never run.
///
/// Exit status: 0; 1 with --check when something has changed, or nothing was recorded; 125 when an input that is given is
/// missing or cannot be read, or a command fails: then nothing is recorded.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The inputs; recorded as seen from the top of the worktree
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Tell whether the inputs have changed since they were recorded
    #[arg(long)]
    pub(super) check: bool,
    /// Under this name
    #[arg(long = "as", value_name = "NAME", default_value = "default")]
    name: String,
    /// What this command prints is an input, too; run by `sh -c` at the top of the worktree. Can be given several times
    #[arg(long = "command", value_name = "CMD")]
    commands: Vec<String>,
}

pub(super) fn run(context: &Context, repo: &Repo, state: &StateFile, arguments: &Arguments) -> anyhow::Result<Exit> {
    let mut inputs = Inputs::new(repo);
    for file in &arguments.files {
        inputs.add_path(file)?;
    }
    for command in &arguments.commands {
        inputs.add_command(command);
    }
    if !arguments.check {
        return record(context, state, &inputs, &arguments.name);
    }
    if arguments.files.is_empty() && !inputs.add_recorded(state, &arguments.name)? && inputs.is_empty() {
        return report(context, "", &arguments.name, &[Difference::Unrecorded(arguments.name.clone())]);
    }
    let digests = inputs.digest(state)?;
    report(context, digests.digest(), &arguments.name, &digests.differences(state, &arguments.name)?)
}

fn record(context: &Context, state: &StateFile, inputs: &Inputs, name: &str) -> anyhow::Result<Exit> {
    if inputs.is_empty() {
        return Err(Usage("give the files, or commands, that are the inputs".to_owned()).into());
    }
    let digests = inputs.digest(state)?;
    digests.stage(state, name)?;
    let changed = state::flush(context, state)?;
    let digest = digests.digest();
    let text = if context.json {
        json!({"schema": 1, "section": INPUTS_DIGEST, "name": name, "digest": digest, "changed": changed}).to_string()
    } else {
        digest.to_owned()
    };
    render::data(&format!("{text}\n"))?;
    Ok(Exit::OK)
}

fn report(context: &Context, digest: &str, name: &str, differences: &[Difference]) -> anyhow::Result<Exit> {
    if context.json {
        let told: Vec<_> = differences.iter().map(to_json).collect();
        let digest = (!digest.is_empty()).then_some(digest);
        let same = differences.is_empty();
        let document = json!({"schema": 1, "name": name, "digest": digest, "same": same, "differences": told});
        render::data(&format!("{document}\n"))?;
    } else {
        let text = differences.iter().fold(String::new(), |mut text, difference| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{}", words::line(&difference.to_string()));
            text
        });
        context.ui.report(&text)?;
    }
    Ok(if differences.is_empty() { Exit::OK } else { Exit::Status(exit::NO) })
}

fn to_json(difference: &Difference) -> serde_json::Value {
    let (how, input) = match difference {
        Difference::Unrecorded(name) => ("unrecorded", name),
        Difference::Added(input) => ("added", input),
        Difference::Removed(input) => ("removed", input),
        Difference::Changed(input) => ("changed", input),
        _ => return json!({"how": "unknown", "input": difference.to_string()}),
    };
    json!({"how": how, "input": input})
}
