//! `repoguard state digest`: tells whether the inputs have changed since something was made from them.

use std::path::PathBuf;

use clap::Args;
use repoguard::{
    Repo,
    state::{Checked, Difference, Digests, INPUTS_DIGEST, Inputs, StateFile},
};
use serde_json::json;

use super::{
    Context,
    exit::{self, Exit, Usage},
    flush, render,
};

/// Record a digest of inputs, or tell whether they have changed since
///
/// Inputs are files, directories with all that is in them, and outputs of commands. Of a file count its bytes, and whether it can
/// be run; of a directory the names and their contents, ignored ones as well, without `.git`; of a link in it, its target. Digests
/// are kept in the section `inputs_digest` of the document, under a name; the same inputs are always written the same.
///
/// `digest --check` compares the files that are given, or else those that were recorded, and prints what is not the same.
/// Commands have to be given again: what stands in a document is never run.
///
/// Exit status: 0; 1 with --check when something has changed, or nothing was recorded: a recorded input that is gone, cannot
/// be read or is a FIFO now has changed, too. 125 when an input that was not recorded is missing or cannot be read, or a
/// command fails: then nothing is recorded.
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
    /// The output of this command is an input, too; run by `sh -c` at the top of the worktree. Can be given several times
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
        return report(context, None, &arguments.name, &[Difference::Unrecorded(arguments.name.clone())]);
    }
    let Checked { digests, differences } = inputs.check(state, &arguments.name)?;
    report(context, digests.as_ref().map(Digests::digest), &arguments.name, &differences)
}

fn record(context: &Context, state: &StateFile, inputs: &Inputs, name: &str) -> anyhow::Result<Exit> {
    if inputs.is_empty() {
        return Err(Usage("give the files, or commands, that are the inputs".to_owned()).into());
    }
    let digests = inputs.digest(state)?;
    digests.stage(state, name)?;
    let changed = flush::flush(context, state)?;
    let digest = digests.digest();
    if context.json {
        let section = INPUTS_DIGEST;
        render::json(&json!({"schema": 1, "section": section, "name": name, "digest": digest, "changed": changed}))?;
    } else {
        render::raw(&format!("{digest}\n"))?;
    }
    Ok(Exit::OK)
}

fn report(context: &Context, digest: Option<&str>, name: &str, differences: &[Difference]) -> anyhow::Result<Exit> {
    if context.json {
        let shown: Vec<_> = differences.iter().map(to_json).collect();
        let same = differences.is_empty();
        render::json(&json!({"schema": 1, "name": name, "digest": digest, "same": same, "differences": shown}))?;
    } else {
        context.ui.report(&differences.iter().collect())?;
    }
    Ok(if differences.is_empty() { Exit::OK } else { Exit::Status(exit::NO) })
}

fn to_json(difference: &Difference) -> serde_json::Value {
    let (how, input, why) = match difference {
        Difference::Unrecorded(name) => ("unrecorded", name, None),
        Difference::Added(input) => ("added", input, None),
        Difference::Removed(input) => ("removed", input, None),
        Difference::Changed(input) => ("changed", input, None),
        Difference::Gone(input) => ("gone", input, None),
        Difference::Replaced(input, kind) => ("replaced", input, Some(*kind)),
        Difference::Unreadable(input, reason) => ("unreadable", input, Some(reason.as_str())),
        _ => return json!({"how": "unknown", "input": difference.to_string()}),
    };
    let mut shown = json!({"how": how, "input": input});
    if let Some(why) = why {
        shown["why"] = why.into();
    }
    shown
}
