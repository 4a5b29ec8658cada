//! `repoguard restore`: brings back what was undone.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{ArgMatches, Args, FromArgMatches};
use repoguard::{Caller, Config, Error, Repo, escape::quoted_path, snapshot::Restored};
use serde_json::{Value, json};

use super::{
    Context,
    exit::{self, Exit, Usage},
    options::Patience,
    render::{self, Lines},
    snapshots,
};

/// So many failures are listed one by one.
const MOST_TOLD: usize = 20;

/// Bring back what was undone
///
/// Puts files of a snapshot (see `repoguard snapshots`) back into this checkout, with their bytes, permission bits and targets of
/// links, each in one step, under the exclusive lock of the worktree. A new snapshot first keeps differing files in their places,
/// and its id is printed; so a restore can be undone by another. A file that is there as it is kept is left alone. The index and
/// HEAD are not touched, and files that the snapshot has as deleted are not deleted again.
///
/// Nothing is ever written outside of the worktree or into its git directory, whatever a snapshot says.
///
/// Exit status: 0; 1 if there is no such snapshot or it keeps nothing at a PATH (then nothing was changed), or if some file must
/// not be brought back; 75 if the lock is busy; 125 if a file could not be written.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The snapshot's id, or as much of it as no other begins with
    id: String,
    /// Only these files, and all below these directories, as seen from the current directory [default: all]
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Tell what would be done, and change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    patience: Patience,
}

pub(super) fn run(context: &Context, matches: &ArgMatches) -> anyhow::Result<Exit> {
    let arguments = Arguments::from_arg_matches(matches).map_err(|error| Usage(error.to_string()))?;
    let directory = std::env::current_dir().context("cannot find the current directory")?;
    let repo = Repo::discover(&directory)?;
    let restored = if arguments.dry_run {
        repoguard::snapshot::would_restore(&repo, &arguments.id, &arguments.paths)
    } else {
        let config = Config::load(&repo)?;
        let request = arguments.patience.request();
        let request = request.command(format!("repoguard restore {}", arguments.id));
        let observer = &mut |notice: repoguard::Notice<'_>| context.ui.notice(&notice);
        let restored = repoguard::snapshot::restore(
            Caller { repo: &repo, config: &config, request: &request, observer },
            &arguments.id,
            &arguments.paths,
        );
        context.ui.waiting_over();
        restored
    };
    let restored = match restored {
        Err(error @ (Error::Busy { .. } | Error::Deadlock { .. })) => {
            return Ok(context.failed(&error.into(), arguments.patience.busy_exit_code));
        }
        restored => restored?,
    };
    if context.json {
        render::json(&to_json(&restored, arguments.dry_run))?;
    } else {
        context.ui.report(&to_text(&restored, arguments.dry_run))?;
    }
    // All that a failure means for the exit status.
    let status = restored.failed.iter().map(|(_, error)| exit::of_error(error)).max();
    let more = restored.failed.len().saturating_sub(MOST_TOLD);
    for (_, error) in restored.failed.into_iter().take(MOST_TOLD) {
        context.ui.error(&error.into());
    }
    if more > 0 {
        context.ui.say(&format!("{more} more were not brought back"));
    }
    Ok(Exit::Status(status.unwrap_or(0)))
}

fn to_text(restored: &Restored, dry_run: bool) -> Lines {
    let (restored_now, replaced_now) =
        if dry_run { ("would restore", "would replace") } else { ("restored", "replaced") };
    let mut lines = Lines::default();
    let mut list = |what: &str, paths: &[PathBuf]| {
        for path in paths {
            lines.add(format_args!("{what} {}", quoted_path(path)));
        }
    };
    list(restored_now, &restored.restored);
    list("unchanged", &restored.unchanged);
    list("not deleted again:", &restored.deleted);
    list(replaced_now, &restored.replaced);
    if let Some(kept) = &restored.kept {
        lines.add(format_args!("what was replaced is kept: `repoguard restore {kept}` brings it back"));
    }
    lines
}

fn to_json(restored: &Restored, dry_run: bool) -> Value {
    let list = |paths: &[PathBuf]| -> Vec<Value> { paths.iter().map(|path| snapshots::path(path)).collect() };
    let failed = restored.failed.iter().map(|(path, error)| {
        let mut failed = snapshots::path(path);
        failed["why"] = json!(reason(error));
        failed
    });
    json!({
        "schema": 1,
        "id": restored.id,
        "dry_run": dry_run,
        "restored": list(&restored.restored),
        "unchanged": list(&restored.unchanged),
        "replaced": list(&restored.replaced),
        "failed": failed.collect::<Vec<_>>(),
        "deleted": list(&restored.deleted),
        "kept": restored.kept,
    })
}

/// An error with its causes in one line.
fn reason(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
