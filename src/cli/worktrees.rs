//! `repoguard worktrees`: lists the worktrees that were made because another was busy, with what is in them and how it
//! lands.

use std::{
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use clap::{ArgMatches, Args, FromArgMatches, Subcommand};
use repoguard::{
    Config, Repo,
    escape::{quoted, quoted_path},
    worktree::{Contents, IsolatedWorktree, Pruned, State, Worktree},
};
use serde_json::{Value, json};

use super::{
    Context,
    exit::{Exit, Usage},
    render::{self, Lines},
    snapshots::path as path_to_json,
};

/// List the worktrees that `repoguard exec --on-busy worktree` made, and what they hold
///
/// Those are listed that are still there: somebody is in them, or something of worth is: commits on their branch, changes,
/// untracked files (ignored ones do not count), a stash, a merge in progress. Each with the commands that land it and that
/// remove it, to be pasted into a shell. Takes no lock.
///
/// `prune` removes those that hold nothing of worth, with their branch: also those whose commits another branch or tag has by now,
/// so after `git merge`, `repoguard worktrees prune` tidies up; a cherry-pick or a squashed merge makes other commits, and does not
/// count. It also tidies up what a kill left while one was made or removed. Worktrees that somebody uses or waits for stay; in
/// doubt everything stays.
///
/// Exit status: 0.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Debug, Clone, Copy, Subcommand)]
enum What {
    /// Remove those in which nothing of worth is
    Prune,
}

pub(super) fn run(context: &Context, matches: &ArgMatches) -> anyhow::Result<Exit> {
    let arguments = Arguments::from_arg_matches(matches).map_err(|error| Usage(error.to_string()))?;
    let directory = std::env::current_dir().context("cannot find the current directory")?;
    match arguments.what {
        Some(What::Prune) => prune(context, &Repo::discover(&directory)?),
        None => list(context, &Repo::discover_of_any_owner(&directory)?),
    }
}

fn list(context: &Context, repo: &Repo) -> anyhow::Result<Exit> {
    let all = repoguard::worktree::list(repo)?;
    if context.json {
        let all: Vec<Value> = all.iter().map(to_json).collect();
        render::json(&json!({"schema": 1, "worktrees": all}))?;
    } else if all.is_empty() {
        context.ui.say("no worktree that was made here is left");
    } else {
        let mut lines = Lines::default();
        for worktree in &all {
            add(&mut lines, worktree);
        }
        render::print(&lines)?;
        if let Err(error) = repo.check_trust() {
            context.ui.untrusted(&error);
        }
    }
    Ok(Exit::OK)
}

fn prune(context: &Context, repo: &Repo) -> anyhow::Result<Exit> {
    let all = repoguard::worktree::prune(repo, &Config::load(repo)?)?;
    if context.json {
        let all: Vec<Value> = all.iter().map(pruned_to_json).collect();
        render::json(&json!({"schema": 1, "worktrees": all}))?;
        return Ok(Exit::OK);
    }
    let lines = all.iter().map(|pruned| {
        let (path, branch) = (quoted_path(&pruned.path), &pruned.branch);
        match &pruned.kept {
            None => format!("removed {path} and branch {branch}"),
            Some(Ok(contents)) => format!("kept {path}: {contents}"),
            Some(Err(error)) => format!("kept {path}: {error}"),
        }
    });
    context.ui.report(&lines.collect())?;
    Ok(Exit::OK)
}

fn add(lines: &mut Lines, worktree: &Worktree) {
    lines.add(quoted_path(&worktree.path));
    let mut fact = |label: &str, fact: &str| lines.add(format_args!("  {label}: {fact}"));
    let made = UNIX_EPOCH + Duration::from_millis(worktree.made_ms);
    let ago = render::duration(SystemTime::now().duration_since(made).unwrap_or_default());
    fact("branch", &format!("{} from {}", worktree.branch, short(&worktree.base)));
    let agent = worktree.agent.as_ref().map_or_else(String::new, |agent| format!(", {agent}"));
    let reason = worktree.reason.as_ref().map_or_else(String::new, |reason| format!(" for: {reason}"));
    let (pid, user, host, command) = (worktree.pid, &worktree.user, &worktree.host, &worktree.command);
    let made = format!(
        "{} ({ago} ago) by pid {pid} ({user}@{host}{agent}) `{command}`{reason}",
        render::clock(worktree.made_ms)
    );
    fact("made", &made);
    fact("stands", stands(worktree.state));
    fact("holds", &worktree.contents.to_string());
    if worktree.state != State::Running {
        for command in landing(&worktree.path, &worktree.branch, &worktree.base, &worktree.contents) {
            fact("land", &command);
        }
        if !worktree.contents.also.is_empty() {
            fact(
                "look",
                &format!("git -C {0} status; git -C {0} log --oneline --walk-reflogs", quoted_path(&worktree.path)),
            );
        }
        fact("remove", &removal(worktree));
    }
}

fn stands(state: State) -> &'static str {
    match state {
        State::Running => "somebody is in it",
        State::Ended => "its command has ended",
        State::HalfMade => "it was not made to the end; nothing has run in it",
        State::HalfRemoved => "it was not removed to the end; nothing of worth was in it",
        State::Gone => "it was removed; its branch is left",
        State::CannotTell => "cannot tell whether somebody is in it",
    }
}

fn word(state: State) -> &'static str {
    match state {
        State::Running => "running",
        State::Ended => "ended",
        State::HalfMade => "half-made",
        State::HalfRemoved => "half-removed",
        State::Gone => "gone",
        State::CannotTell => "cannot-tell",
    }
}

/// The commands that land what a worktree holds.
pub(super) fn landing(path: &Path, branch: &str, base: &str, contents: &Contents) -> Vec<String> {
    let mut commands = Vec::new();
    let (path, branch, base) = (quoted_path(path), quoted(branch.as_ref()), quoted(short(base).as_ref()));
    if contents.changed > 0 || contents.untracked > 0 {
        commands.push(format!("git -C {path} add -A && git -C {path} commit && repoguard exec -- git merge {branch}"));
    } else if contents.commits > 0 && !contents.landed {
        commands.push(format!("repoguard exec -- git merge {branch}"));
        commands.push(format!("repoguard exec -- git cherry-pick {base}..{branch}"));
    }
    commands
}

/// As much of a commit's id as people read.
fn short(commit: &str) -> &str {
    commit.get(..10).unwrap_or(commit)
}

/// The command that removes a worktree: `prune` if that loses nothing.
fn removal(worktree: &Worktree) -> String {
    let (path, branch) = (quoted_path(&worktree.path), quoted(worktree.branch.as_ref()));
    let Contents { commits, landed, changed, untracked, also, .. } = &worktree.contents;
    let is_nothing = (*commits == 0 || *landed) && *changed == 0 && *untracked == 0 && also.is_empty();
    match worktree.state {
        _ if is_nothing => "repoguard worktrees prune".to_owned(),
        State::Gone => format!("git branch -D {branch}  # what it holds is lost then"),
        _ => format!("git worktree remove --force {path} && git branch -D {branch}  # what it holds is lost then"),
    }
}

fn to_json(worktree: &Worktree) -> Value {
    let mut document = path_to_json(&worktree.path);
    let made = jiff::Timestamp::try_from(UNIX_EPOCH + Duration::from_millis(worktree.made_ms)).unwrap_or_default();
    document["branch"] = json!(worktree.branch);
    document["base"] = json!(worktree.base);
    document["made"] = json!(format!("{made:.3}"));
    document["pid"] = json!(worktree.pid);
    document["host"] = json!(worktree.host);
    document["user"] = json!(worktree.user);
    document["agent"] = json!(worktree.agent);
    document["command"] = json!(worktree.command);
    document["reason"] = json!(worktree.reason);
    document["stands"] = json!(word(worktree.state));
    document["holds"] = json!(worktree.contents);
    document["land"] = json!(landing(&worktree.path, &worktree.branch, &worktree.base, &worktree.contents));
    document["remove"] = json!(removal(worktree));
    document
}

fn pruned_to_json(pruned: &Pruned) -> Value {
    let mut document = path_to_json(&pruned.path);
    document["branch"] = json!(pruned.branch);
    document["removed"] = json!(pruned.kept.is_none());
    document["holds"] = json!(pruned.kept.as_ref().and_then(|kept| kept.as_ref().ok()));
    let error = pruned.kept.as_ref().and_then(|kept| kept.as_ref().err());
    document["error"] = json!(error.map(ToString::to_string));
    document
}

/// The fate of a worktree, in the result file of `exec`.
pub(super) fn report(isolated: &IsolatedWorktree) -> Value {
    let mut document = path_to_json(&isolated.path);
    document["branch"] = json!(isolated.branch);
    document["base"] = json!(isolated.base);
    document["removed"] = json!(isolated.kept.is_none());
    document["holds"] = json!(isolated.kept.as_ref());
    document
}
