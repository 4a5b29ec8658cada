//! `repoguard recover`: what is to be done with a mutation that was killed.

use anyhow::Context as _;
use clap::{ArgMatches, Args, FromArgMatches};
use repoguard::{
    Caller, Config, Notice, Repo,
    mutation::{Choice, Found, Recovered, Unfinished},
};
use serde_json::json;

use super::{
    Context,
    exit::{self, Exit, Usage},
    options,
    render::{self, Lines},
};

/// Put a mutation in order that was killed before its end
///
/// Every `exec`, `mutate` and `acquire` does this before it admits anybody, as long as the repository is as the mutation left it.
/// If somebody has worked here since, they stop, and you choose: --status shows what was found and what the others would do; --undo
/// puts everything back as it was before the mutation, and keeps what that takes away (`repoguard snapshots`); --finish leaves
/// everything as it is now. Without an option it does what the next command would do.
///
/// Exit status: 0 there is nothing (left) to recover; 1 with --status: there is; 65 somebody has worked here since, and one
/// of --undo and --finish must be chosen; 75 busy, 69 locks do not work on this file system, 125 repoguard failed.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Show what was found, and what --undo and --finish would do
    #[arg(long, conflicts_with_all = ["undo", "finish"])]
    status: bool,
    /// Put everything back as it was before
    #[arg(long, conflicts_with = "finish")]
    undo: bool,
    /// Leave everything as it is now; if the commit exists already, give it the matching index
    #[arg(long)]
    finish: bool,
    /// Wait at most this long for the lock: `30s`, `5m`, `1.5`; `0` tries once [default: repoguard.timeout, else without limit]
    #[arg(short = 'w', long, value_name = "DUR", value_parser = options::duration, allow_negative_numbers = true)]
    timeout: Option<std::time::Duration>,
}

pub(super) fn run(context: &Context, matches: &ArgMatches) -> anyhow::Result<Exit> {
    let arguments = Arguments::from_arg_matches(matches).map_err(|error| Usage(error.to_string()))?;
    let directory = std::env::current_dir().context("cannot find the current directory")?;
    if arguments.status {
        return status(context, &Repo::discover_of_any_owner(&directory)?);
    }
    let repo = Repo::discover(&directory)?;
    let config = Config::load(&repo)?;
    let lock = options::Lock { timeout: arguments.timeout, ..options::Lock::default() };
    let request = lock.request(&config)?.command("repoguard recover").scope(repoguard::Scope::Worktree);
    let choice = match (arguments.undo, arguments.finish) {
        (true, _) => Choice::Undo,
        (_, true) => Choice::Finish,
        _ => Choice::AsPredicted,
    };
    // That the last holder was killed is why we are here.
    let mut observer = |notice: Notice<'_>| {
        if !matches!(notice, Notice::Died(..)) {
            context.ui.notice(&notice);
        }
    };
    let recovered = repoguard::mutation::recover(
        Caller { repo: &repo, config: &config, request: &request, observer: &mut observer },
        choice,
    )?;
    context.ui.waiting_over();
    if context.json {
        return render::json(&document(recovered.as_ref())).map(|()| Exit::OK);
    }
    match &recovered {
        None => context.ui.report(&Lines::from_iter(["nothing to recover"]))?,
        Some(recovered) => context.ui.recovered(recovered)?,
    }
    Ok(Exit::OK)
}

fn document(recovered: Option<&Recovered>) -> serde_json::Value {
    let (outcome, commit, snapshot) = match recovered {
        None => ("nothing", None, None),
        Some(Recovered::Forgotten) => ("forgotten", None, None),
        Some(Recovered::Undone(rollback)) => ("undone", None, rollback.kept.clone()),
        Some(Recovered::Finished(commit)) => ("finished", commit.clone(), None),
    };
    json!({ "schema": 1, "outcome": outcome, "commit": commit, "snapshot": snapshot })
}

fn status(context: &Context, repo: &Repo) -> anyhow::Result<Exit> {
    // A running mutation ends by itself.
    if let Some(pending) = repoguard::mutation::pending(repo).into_iter().find(|pending| pending.here && pending.runs) {
        let info = pending.info.as_ref();
        if context.json {
            let running = info.map(|info| json!({ "command": info.command, "pid": info.pid, "step": info.step }));
            render::json(&json!({ "schema": 1, "unfinished": null, "running": running }))?;
        } else {
            let who =
                info.map_or_else(String::new, |info| format!(": {} (pid {}, {})", info.command, info.pid, info.step));
            render::print(&Lines::from_iter([format!("nothing to recover: a mutation is running{who}")]))?;
        }
        return Ok(Exit::OK);
    }
    let unfinished = repoguard::mutation::unfinished(repo)?;
    if context.json {
        render::json(&status_document(unfinished.as_ref()))?;
    } else {
        render::print(&match &unfinished {
            None => Lines::from_iter(["nothing to recover"]),
            Some(unfinished) => lines(unfinished),
        })?;
    }
    Ok(if unfinished.is_some() { Exit::Status(exit::NO) } else { Exit::OK })
}

fn name(found: Found) -> &'static str {
    match found {
        Found::Untouched => "untouched",
        Found::Running => "running",
        Found::Ran => "ran",
        Found::Landed => "landed",
        Found::Undoing => "undoing",
        _ => "unknown",
    }
}

fn status_document(unfinished: Option<&Unfinished>) -> serde_json::Value {
    let Some(found) = unfinished else { return json!({ "schema": 1, "unfinished": null }) };
    let plan = plan(found);
    json!({
        "schema": 1,
        "unfinished": {
            "command": found.command, "directory": found.directory, "message": found.message, "user": found.user,
            "host": found.host, "pid": found.pid, "fence": found.fence, "state": name(found.found),
            "doubts": found.doubts.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "undo": plan.undo, "finish": plan.finish, "next": plan.next,
        },
    })
}

/// The effect of each option.
struct Ways {
    undo: &'static str,
    finish: &'static str,
    next: &'static str,
}

fn plan(unfinished: &Unfinished) -> Ways {
    const UNDO: &str = "puts HEAD, references, index and files back as they were before it, and keeps what that takes away as \
                        a snapshot";
    const LEAVE: &str = "leaves HEAD, index and files as they are now, uncommitted, and forgets it";
    let stop = "stops and asks you, because somebody has worked here since";
    let (undo, finish, next) = match unfinished.found {
        Found::Untouched => ("forgets it", "forgets it", "forgets it: nothing had changed"),
        Found::Landed => (
            "takes the commit back, puts everything back as it was before it, and keeps what that takes away",
            "keeps the commit, and gives it the index that goes with it",
            "finishes it",
        ),
        _ if unfinished.doubts.is_empty() => (UNDO, LEAVE, "undoes it"),
        _ => (UNDO, LEAVE, stop),
    };
    Ways { undo, finish, next }
}

fn lines(unfinished: &Unfinished) -> Lines {
    let state = match unfinished.found {
        Found::Untouched => "it had changed nothing yet",
        Found::Running => "its command was running",
        Found::Ran => "its command had ended, and nothing was committed",
        Found::Landed => "its commit is there, and only the index is missing",
        _ => "it was being put back",
    };
    let Unfinished { command, pid, user, host, fence, .. } = unfinished;
    let Ways { undo, finish, next } = plan(unfinished);
    let mut lines = Lines::default();
    lines.add(format_args!("unfinished: {command} (pid {pid} of {user} on {host}, fence {fence})"));
    lines.add(format_args!("  found: {state}"));
    unfinished.doubts.iter().for_each(|doubt| lines.add(format_args!("  since: {doubt}")));
    for (way, what) in [("--undo", undo), ("--finish", finish), ("the next command", next)] {
        lines.add(format_args!("  {way}: {what}"));
    }
    lines
}
