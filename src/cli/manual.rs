//! `repoguard completions` and `repoguard man`: made from the same definitions as the parser.

use clap::{ArgMatches, Args, FromArgMatches};
use clap_complete::Shell;

use super::{
    Context, VERBS, command,
    exit::{Exit, Usage},
    render,
};

/// Print a completion script for a shell
///
/// For bash: `repoguard completions bash > ~/.local/share/bash-completion/completions/repoguard`
#[derive(Debug, Args)]
pub(super) struct Completions {
    /// The shell
    shell: Shell,
}

/// Print the manual page, or that of a verb
///
/// To read it: `repoguard man exec | man -l -`
#[derive(Debug, Args)]
pub(super) struct Man {
    /// The verb
    verb: Option<String>,
}

pub(super) fn completions(_context: &Context, matches: &ArgMatches) -> anyhow::Result<Exit> {
    let arguments = Completions::from_arg_matches(matches).map_err(|error| Usage(error.to_string()))?;
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut command(VERBS), "repoguard", &mut script);
    render::raw(&String::from_utf8_lossy(&script))?;
    Ok(Exit::OK)
}

pub(super) fn man(_context: &Context, matches: &ArgMatches) -> anyhow::Result<Exit> {
    let arguments = Man::from_arg_matches(matches).map_err(|error| Usage(error.to_string()))?;
    let mut root = command(VERBS);
    root.build();
    let title = arguments.verb.as_ref().map_or_else(|| "repoguard".to_owned(), |verb| format!("repoguard-{verb}"));
    let page = match &arguments.verb {
        None => root,
        Some(verb) => {
            let found = root.find_subcommand(verb).ok_or_else(|| Usage(format!("there is no verb `{verb}`")))?;
            found.clone().display_name(&title)
        }
    };
    let mut text = Vec::new();
    clap_mangen::Man::new(page).title(title).render(&mut text)?;
    render::raw(&String::from_utf8_lossy(&text))?;
    Ok(Exit::OK)
}
