//! `repoguard hooks`: installs and removes hooks by which plain git takes the lock, and tells whether git reaches them.

use std::path::Path;

use anyhow::Context as _;
use clap::{ArgMatches, Args, FromArgMatches, Subcommand, ValueEnum};
use repoguard::{
    Repo,
    hooks::{self, Event, Options, Report, State, Survey, Uninstalled},
};
use serde_json::{Map, Value, json};

use super::{
    Context,
    exit::{self, Exit, Usage},
    render::{self, Lines},
};

/// Let plain git take the lock: `git commit` by somebody who never heard of repoguard waits, too
///
/// The hooks that are installed take the lock of the checkout when git calls them, and hold it until git has ended, also
/// when git is killed. Inside `repoguard exec` they know that the lock is held and go on.
///
/// Before anything has changed they guard `git commit` in every form, `rebase`, `am` and pushes that are received. The commits of
/// `merge`, `cherry-pick` and `revert` wait, but their files are written before. `switch`, `checkout` and `restore` cannot be
/// stopped: both sides are informed, and the log has it. Hooks do not see `add`, `rm`, `mv`, `reset`, `stash`, `apply`, `clean`, a
/// merge that makes no commit, `git -c core.hooksPath=…`, programs that do not run hooks, and plain writes to files.
///
/// `REPOGUARD=0 git …` skips the guard once; other hooks still run.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Install(Install),
    Uninstall(Uninstall),
    Status(Status),
}

/// Put the hooks in place, all or none; what was there runs after them
///
/// A hook that is there is kept beside ours as `NAME.repoguard-chained`, and runs after the guard with the same arguments,
/// input and environment. To install again changes nothing, or what is out of date; hooks that were installed before
/// stay.
///
/// Hooks go where git looks for them. A core.hooksPath of the repository's own is used and never changed (in the checkout, git sees
/// the new files there). One that is set outside of the repository needs --force, because hooks there are run for other
/// repositories, too. If husky makes the directory, nothing is written: the lines to add to its own files are printed, exit 1. On a
/// file system that is mounted noexec git runs no hook: exit 1 as well. Linked worktrees share the hooks of the main one.
///
/// With git 2.54 and later, the hooks are named in the repository's configuration (`hook.repoguard-NAME.command`), and no
/// hook file is touched.
///
/// By default: pre-commit, prepare-commit-msg, pre-rebase, applypatch-msg and post-checkout in a repository with a checkout;
/// pre-receive in a bare one, or if receive.denyCurrentBranch is updateInstead.
#[derive(Debug, Args)]
struct Install {
    /// Install this hook and not the usual ones; can be given several times
    #[arg(long = "hook", value_name = "NAME", value_parser = event)]
    hooks: Vec<Event>,
    /// Also reference-transaction: fails changes of tags and other branches, `fetch`, `stash push` and merges while somebody holds
    /// the lock, and reports `reset`; makes git several times slower
    #[arg(long)]
    strict: bool,
    /// What a hook does if repoguard is not found any more; post-checkout and reference-transaction always only warn
    #[arg(long, value_name = "WHAT", default_value = "refuse")]
    if_missing: IfMissing,
    /// With git 2.54 and later: also install hook files, for older gits that work in the same repository
    #[arg(long)]
    both: bool,
    /// Also where core.hooksPath is set outside of the repository: for every repository that uses it
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    submodules: Submodules,
}

/// Take the hooks away, all or none; what was there before is put back byte for byte
///
/// Also removes what other programs made of ours (`NAME.legacy`, `NAME.old`). Says so when there is nothing to remove.
#[derive(Debug, Args)]
struct Uninstall {
    #[command(flatten)]
    submodules: Submodules,
}

/// Tell of each hook whether git reaches it, and if not, why
///
/// Takes no lock and writes nothing. States: active, displaced (git runs somebody else's hook instead), bypassed (git looks
/// elsewhere), deleted, not-executable, binary-missing (the hook would find no repoguard), edited (somebody changed our script),
/// not-installed.
///
/// Exit status: 0 when git reaches every hook, else 1.
#[derive(Debug, Args)]
struct Status {}

#[derive(Debug, Args)]
struct Submodules {
    /// Also in every submodule that is checked out, each for itself
    #[arg(long)]
    recurse_submodules: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum IfMissing {
    /// Refuse, and tell the ways out
    Refuse,
    /// Warn, and go on without the guard
    Warn,
}

pub(super) fn run(context: &Context, matches: &ArgMatches) -> anyhow::Result<Exit> {
    let arguments = Arguments::from_arg_matches(matches).map_err(|error| Usage(error.to_string()))?;
    let directory = std::env::current_dir().context("cannot find the current directory")?;
    let repo = Repo::discover(&directory)?;
    match arguments.action {
        Action::Install(arguments) => install(context, &repo, &arguments),
        Action::Uninstall(arguments) => uninstall(context, &repo, &arguments),
        Action::Status(Status {}) => status(context, &repo),
    }
}

fn install(context: &Context, repo: &Repo, arguments: &Install) -> anyhow::Result<Exit> {
    let program = std::env::current_exe().context("cannot find the path of repoguard itself")?;
    let mut options = Options::new(program);
    options.hooks.clone_from(&arguments.hooks);
    options.strict = arguments.strict;
    options.if_missing = match arguments.if_missing {
        IfMissing::Refuse => hooks::IfMissing::Refuse,
        IfMissing::Warn => hooks::IfMissing::Warn,
    };
    options.both = arguments.both;
    options.force = arguments.force;
    let mut all_done = true;
    for_each(context, repo, &arguments.submodules, |repo| {
        let report = hooks::install(repo, &options)?;
        all_done &= !report.noexec && report.by_hand.iter().all(|line| line.done);
        Ok((installed_text(&report), installed_json(&report)))
    })?;
    Ok(if all_done { Exit::OK } else { Exit::Status(exit::NO) })
}

fn uninstall(context: &Context, repo: &Repo, arguments: &Uninstall) -> anyhow::Result<Exit> {
    for_each(context, repo, &arguments.submodules, |repo| {
        let report = hooks::uninstall(repo)?;
        Ok((uninstalled_text(repo, &report), uninstalled_json(&report)))
    })?;
    Ok(Exit::OK)
}

/// Does something in a repository, and in its submodules if wanted; reports the results.
fn for_each(
    context: &Context,
    repo: &Repo,
    submodules: &Submodules,
    mut action: impl FnMut(&Repo) -> anyhow::Result<(Lines, Map<String, Value>)>,
) -> anyhow::Result<()> {
    let mut document = |repo: &Repo| -> anyhow::Result<Map<String, Value>> {
        let (lines, mut document) = action(repo)?;
        document.insert("root".to_owned(), lossy(repo.root()));
        if !context.json {
            context.ui.report(&lines)?;
        }
        Ok(document)
    };
    let mut all = document(repo)?;
    all.insert("schema".to_owned(), json!(1));
    if submodules.recurse_submodules {
        let submodules = repo.submodules()?;
        let inner: anyhow::Result<Vec<_>> = submodules.iter().map(&mut document).collect();
        all.insert("submodules".to_owned(), json!(inner?));
    }
    if context.json {
        render::json(&all)?;
    }
    Ok(())
}

fn installed_text(report: &Report) -> Lines {
    let mut lines = Lines::default();
    for hook in &report.hooks {
        let rest = match (hook.via, &hook.chained) {
            ("script", Some(chained)) if hook.kept => {
                format!("; the hook that was there is kept as `{}` and runs after the guard", chained.display())
            }
            ("script", Some(chained)) => format!("; `{}` runs after the guard", chained.display()),
            ("script", None) => String::new(),
            ("config", _) => ", named in the repository's configuration".to_owned(),
            ("hook", _) => format!(": it runs `repoguard hook {}` itself", hook.event.name()),
            (manager, _) => format!(", which {manager} runs"),
        };
        lines.add(format_args!("{} `{}`{rest}", hook.change, hook.path.display()));
    }
    if report.noexec {
        lines.add("not guarded: their file system is mounted noexec, so git runs no hook there");
    }
    if report.by_hand.iter().any(|line| !line.done) {
        let directory = report.directory.display();
        lines.add(format_args!("not installed: husky makes `{directory}`; add these lines to its own files:"));
    }
    for by_hand in &report.by_hand {
        let file = by_hand.file.display();
        lines.add(match &by_hand.line {
            _ if by_hand.done => format!("unchanged `{file}`: it runs the guard"),
            Some(line) => format!("  `{file}`: {line}"),
            None => format!("  `{file}`: cannot be guarded: husky runs no such hook"),
        });
    }
    lines
}

fn installed_json(report: &Report) -> Map<String, Value> {
    let hooks = report.hooks.iter().map(|hook| {
        json!({
            "hook": hook.event.name(),
            "change": hook.change,
            "via": hook.via,
            "path": lossy(&hook.path),
            "chained": hook.chained.as_deref().map(lossy),
        })
    });
    let by_hand = report.by_hand.iter().map(|by_hand| {
        json!({
            "hook": by_hand.event.name(),
            "file": lossy(&by_hand.file),
            "line": by_hand.line,
            "done": by_hand.done,
        })
    });
    let mut document = Map::new();
    document.insert("directory".to_owned(), lossy(&report.directory));
    document.insert("hooks".to_owned(), hooks.collect());
    document.insert("by_hand".to_owned(), by_hand.collect());
    document.insert("noexec".to_owned(), json!(report.noexec));
    document
}

fn uninstalled_text(repo: &Repo, report: &Uninstalled) -> Lines {
    let mut lines = Lines::default();
    if report.hooks.is_empty() {
        lines.add(format_args!("nothing to remove: no hooks of repoguard's in `{}`", repo.root().display()));
    }
    for hook in &report.hooks {
        let path = hook.path.display();
        lines.add(match hook.change {
            "restored" => format!("restored `{path}`: the hook that was there before"),
            "left" => format!("left `{path}`: git runs another hook now"),
            change => format!("{change} `{path}`"),
        });
    }
    lines
}

fn uninstalled_json(report: &Uninstalled) -> Map<String, Value> {
    let hooks = report.hooks.iter();
    let hooks = hooks.map(|hook| json!({"hook": hook.event.name(), "change": hook.change, "path": lossy(&hook.path)}));
    let mut document = Map::new();
    document.insert("hooks".to_owned(), hooks.collect());
    document
}

fn status(context: &Context, repo: &Repo) -> anyhow::Result<Exit> {
    let survey = hooks::survey(repo)?;
    if context.json {
        render::json(&survey_json(repo, &survey))?;
    } else {
        render::print(&survey_text(&survey))?;
    }
    Ok(if survey.reached() { Exit::OK } else { Exit::Status(exit::NO) })
}

fn survey_json(repo: &Repo, survey: &Survey) -> Value {
    let hooks = survey.hooks.iter().map(|seen| {
        json!({
            "hook": seen.event.name(),
            "state": seen.state.name(),
            "via": seen.via,
            "by": seen.by,
            "path": lossy(&seen.path),
            "chained": seen.chained.as_deref().map(lossy),
            "note": seen.note,
            "hint": seen.hint,
        })
    });
    let hooks_path = survey.hooks_path.as_ref();
    json!({
        "schema": 1,
        "root": lossy(repo.root()),
        "git": survey.git,
        "directory": lossy(&survey.directory),
        "hooks_path": hooks_path.map(|path| json!({"value": path.value, "scope": path.scope, "origin": path.origin})),
        "reached": survey.reached(),
        "hooks": hooks.collect::<Vec<_>>(),
    })
}

fn survey_text(survey: &Survey) -> Lines {
    let mut lines = Lines::default();
    let mut hooks = survey.hooks.iter().peekable();
    while let Some(seen) = hooks.next() {
        let how = match (seen.state, seen.via, seen.by) {
            (State::Active, Some("script") | None, _) => String::new(),
            (State::Active, Some("config"), _) => ", named in the repository's configuration".to_owned(),
            (State::Active, Some("hook"), _) => ", run by a hook of your own".to_owned(),
            (State::Active, Some(manager), _) => format!(", run by {manager}"),
            (State::Displaced, _, by) => format!(" by {}", by.unwrap_or("another hook")),
            (_, _, Some(by)) => format!(", {by} is there"),
            _ => String::new(),
        };
        let chained = seen.chained.as_ref().map_or_else(String::new, |path| format!(", then `{}`", path.display()));
        let (name, state) = (seen.event.name(), seen.state.name());
        lines.add(format_args!("{name}: {state}{how} (`{}`{chained})", seen.path.display()));
        // What several hooks have in common is printed once.
        if let Some(note) = seen.note.as_ref().filter(|_| hooks.peek().is_none_or(|next| next.note != seen.note)) {
            lines.add(format_args!("  {note}"));
        }
        if let Some(hint) = seen.hint.as_ref().filter(|_| hooks.peek().is_none_or(|next| next.hint != seen.hint)) {
            lines.add(format_args!("  hint: {hint}"));
        }
    }
    lines
}

fn event(name: &str) -> Result<Event, String> {
    let names = || Event::ALL.map(Event::name).join(", ");
    Event::from_name(name).ok_or_else(|| format!("expected one of: {}", names()))
}

fn lossy(path: &Path) -> Value {
    path.to_string_lossy().into()
}
