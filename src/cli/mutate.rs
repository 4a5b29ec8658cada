//! `repoguard mutate`: a change that lands whole or leaves no trace.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{ArgMatches, Args, FromArgMatches};
use repoguard::{
    Caller, Config, Error, Mode, Request, Scope, holder,
    mutation::{Failure, FailureReason, Landed, Landing, LeftOutReason, Mutated, Mutation, Write},
};
use serde_json::json;

use super::{
    Context,
    exec::in_the_way,
    exit::{self, Exit, Usage},
    options::{self, Expect, ForLibrary, Lock},
    result_file::ResultFile,
};

/// Change the repository all or nothing: check, run CMD, verify, commit
///
/// Under the lock, alone: everything is read and kept; --check must find the repository fit to be changed; CMD changes
/// files; --verify must find the result right; git commits what CMD changed, with your hooks, signing and identity.
/// Whatever step fails, is interrupted or takes too long: HEAD, branch, index and every tracked and untracked file are put
/// back exactly as they were, and what is undone is kept (`repoguard snapshots`). Killed at any instant, the power
/// included, the next repoguard command puts it in order (`repoguard recover`).
///
/// The commit has what CMD changed, staged or not, new files included. It has ignored files only if CMD's own git staged them, no
/// files that were there before, and no files that another process has open for writing. Files that stay out are named. CMD must
/// not commit or move HEAD itself. Ignored files, git's configuration and the inside of submodules are not put back.
///
/// Exit status: 0 committed, or nothing to commit; the failing step's own, 128+n if it died of signal n; 65 not clean, HEAD moved,
/// a path outside of --paths, or a change that must not be committed; 75 busy (see -E), 69 locks do not work on this file system,
/// 124 stopped by --max-hold, 125 repoguard failed, 126 CMD cannot be run, 127 no such command, 2 usage error.
///
/// CMD, --check and --verify find `REPOGUARD_FENCE`, `REPOGUARD_TOKEN`, `REPOGUARD_LOCK_PATH` and `REPOGUARD_LOCK_SCOPE` in their
/// environment, as under `exec`, and `GIT_TRACE2_EVENT`, which tells their git commands from others'.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
#[command(override_usage = "repoguard mutate -m MSG [OPTIONS] -- CMD [ARG]...")]
pub(super) struct Arguments {
    /// The commit's message; several are paragraphs of it
    #[arg(short, long, value_name = "MSG", allow_hyphen_values = true, required_unless_present_any = ["no_commit", "dry_run"])]
    message: Vec<OsString>,
    /// First run this with `sh -c`: unless it succeeds, nothing is changed; can be given several times
    #[arg(long = "check", value_name = "CMD", allow_hyphen_values = true)]
    checks: Vec<OsString>,
    /// After CMD run this with `sh -c`: unless it succeeds, everything is put back; can be given several times
    #[arg(long = "verify", value_name = "CMD", allow_hyphen_values = true)]
    verifies: Vec<OsString>,
    #[command(flatten)]
    expect: Expect,
    /// Only these may change: git pathspecs, as seen from the current directory
    #[arg(long, value_name = "PATHSPEC", num_args = 1..)]
    paths: Vec<OsString>,
    /// Begin also with present changes; they stay as they are, and out of the commit
    #[arg(long)]
    allow_dirty: bool,
    /// Which untracked files are kept, so that they can be put back: all, or no, which leaves them unprotected: CMD must not change one
    #[arg(long, value_name = "WHICH", default_value = "all", value_parser = ["all", "no"], hide_possible_values = true)]
    untracked: String,
    /// Commit also without a change
    #[arg(long)]
    allow_empty: bool,
    /// Leave the validated change staged
    #[arg(long, conflicts_with = "dry_run")]
    no_commit: bool,
    /// Do all but the commit, show the change, and put everything back
    #[arg(long)]
    dry_run: bool,
    /// Hold git's own `index.lock` and `HEAD.lock` meanwhile, so that no other git, IDE or library can change either; CMD's own
    /// git works on another index (`GIT_INDEX_FILE`, also for its calls in other repositories), and cannot move HEAD
    #[arg(long)]
    fence: bool,
    #[command(flatten)]
    lock: Lock,
    /// Take at most this long for all steps: then SIGTERM to the one that runs and its descendants, and everything is put back
    #[arg(long, value_name = "DUR", value_parser = options::lifetime)]
    max_hold: Option<Duration>,
    /// How long after that SIGTERM to send SIGKILL
    #[arg(long, value_name = "DUR", value_parser = options::duration, default_value = "10s")]
    kill_after: Duration,
    /// Write how it went to a file, as JSON
    #[arg(long, value_name = "PATH")]
    result_file: Option<PathBuf>,
    #[command(flatten)]
    library: ForLibrary,
    /// The command that makes the change, and its arguments
    #[arg(value_name = "CMD", trailing_var_arg = true, required = true)]
    cmd: Vec<OsString>,
}

pub(super) fn run(context: &Context, matches: &ArgMatches) -> anyhow::Result<Exit> {
    let arguments = Arguments::from_arg_matches(matches).map_err(|error| Usage(error.to_string()))?;
    let context = &arguments.library.heeded(context);
    arguments.refuse_nonsense()?;
    let result_file = ResultFile::create(arguments.result_file.as_deref())?;
    let result = execute(context, &arguments);
    context.ui.waiting_over();
    result_file.write(&context.ui, || report(&arguments, &result));
    match result {
        Ok(mutated) => {
            context.ui.mutated(&mutated, arguments.landing());
            let status = exit::status(mutated.status());
            let busy = status == exit::BUSY && matches!(&mutated.result, Landed::Failed(failure) if is_busy(failure));
            Ok(match mutated.die_of {
                Some(signal) => Exit::Signal(signal),
                None if busy => Exit::Status(arguments.lock.busy_exit_code),
                None => Exit::Status(status),
            })
        }
        Err(error) => match error.downcast_ref::<Error>() {
            Some(Error::Busy { .. } | Error::Deadlock { .. }) => {
                Ok(context.failed(&error, arguments.lock.busy_exit_code))
            }
            _ if arguments.library.silent => Ok(context.failed(&error, exit::of(&error))),
            _ => Err(error),
        },
    }
}

fn is_busy(failure: &Failure) -> bool {
    matches!(failure.why, FailureReason::Trouble(Error::Busy { .. } | Error::GitBusy { .. } | Error::Deadlock { .. }))
}

fn execute(context: &Context, arguments: &Arguments) -> anyhow::Result<Mutated> {
    let repo = arguments.library.repo()?;
    context.ui.may_have_token(&repo);
    let config = Config::load(&repo)?;
    let request = arguments.request(&config)?;
    let write = Write::Command(arguments.cmd.clone());
    let mut observer = |notice: repoguard::Notice<'_>| context.ui.notice(&notice);
    let caller = Caller { repo: &repo, config: &config, request: &request, observer: &mut observer };
    Ok(repoguard::program::mutate(caller, &arguments.mutation(), write)?)
}

impl Arguments {
    fn refuse_nonsense(&self) -> Result<(), Usage> {
        let usage = |text: &str| Err(Usage(text.to_owned()));
        if self.lock.shared {
            return usage("a mutation needs the worktree for itself: no --shared");
        }
        let blank = self.message.iter().all(|text| text.to_string_lossy().trim().is_empty());
        if blank && !self.message.is_empty() || (self.message.is_empty() && self.landing() == Landing::Commit) {
            return usage("the commit needs a message: --message MSG");
        }
        Ok(())
    }

    fn landing(&self) -> Landing {
        match (self.no_commit, self.dry_run) {
            (true, _) => Landing::Stage,
            (_, true) => Landing::Show,
            _ => Landing::Commit,
        }
    }

    fn mutation(&self) -> Mutation {
        let mut mutation = Mutation::default()
            .expect(self.expect.head())
            .allow_dirty(self.allow_dirty)
            .untracked(self.untracked == "all")
            .allow_empty(self.allow_empty)
            .fence(self.fence)
            .landing(self.landing())
            .kill_after(self.kill_after);
        mutation.message.clone_from(&self.message);
        mutation.checks.clone_from(&self.checks);
        mutation.verifies.clone_from(&self.verifies);
        mutation.paths.clone_from(&self.paths);
        mutation.max_hold = self.max_hold;
        mutation.term_ends_all = self.library.silent;
        mutation
    }

    fn request(&self, config: &Config) -> anyhow::Result<Request> {
        let mut request = self.library.complete(self.lock.request(config)?);
        let mut command = vec!["repoguard".into(), "mutate".into(), "--".into()];
        command.extend(self.cmd.iter().cloned());
        // Names and a wider scope add to the worktree.
        request.scope.get_or_insert(Scope::Worktree);
        request.mode = Mode::Exclusive;
        Ok(request.command(holder::readable_command(&command)))
    }
}

fn paths(paths: &[PathBuf]) -> Vec<std::borrow::Cow<'_, str>> {
    paths.iter().map(|path| path.to_string_lossy()).collect()
}

fn why(why: LeftOutReason) -> &'static str {
    match why {
        LeftOutReason::Ignored => "ignored",
        LeftOutReason::WasThere => "was-there",
        LeftOutReason::Written => "open-for-writing",
        LeftOutReason::Repository => "repository",
    }
}

/// The result file: one JSON object, `schema` 1.
fn report(arguments: &Arguments, result: &anyhow::Result<Mutated>) -> serde_json::Value {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let mutated = match result {
        Ok(mutated) => mutated,
        Err(error) => {
            let (name, status, waited) = match error.downcast_ref() {
                Some(Error::Busy { waited, .. }) => ("busy", arguments.lock.busy_exit_code, *waited),
                Some(Error::Deadlock { .. }) => ("deadlock", arguments.lock.busy_exit_code, Duration::ZERO),
                Some(Error::Interrupted { .. }) => ("interrupted", exit::of(error), Duration::ZERO),
                _ => ("failed", exit::of(error), Duration::ZERO),
            };
            return json!({
                "schema": 1, "outcome": name, "acquired": false, "inside": false, "fence": null,
                "waited_ms": ms(waited), "held_ms": 0, "commit": null, "changed": [], "left_out": [], "step": null, "steps": [],
                "status": null, "exit_status": status, "rolled_back": null, "left": null, "gone": null, "snapshot": null,
                "error": format!("{error:#}"), "in_the_way": in_the_way(error.downcast_ref()),
            });
        }
    };
    let failure = match &mutated.result {
        Landed::Failed(failure) => Some(&**failure),
        _ => None,
    };
    let (name, commit) = match &mutated.result {
        Landed::Committed(commit) => ("committed", Some(commit)),
        Landed::Staged => ("staged", None),
        Landed::Shown => ("dry-run", None),
        Landed::Unchanged => ("unchanged", None),
        Landed::Failed(failure) => match &failure.why {
            FailureReason::Invalid(_) => ("invalid", None),
            FailureReason::Interrupted(_) => ("interrupted", None),
            _ => ("failed", None),
        },
    };
    let rollback = failure.and_then(|failure| failure.rollback.as_ref());
    json!({
        "schema": 1, "outcome": name, "acquired": true, "inside": mutated.fence.is_none(), "fence": mutated.fence,
        "waited_ms": ms(mutated.waited), "held_ms": ms(mutated.held), "commit": commit,
        "changed": paths(&mutated.changed),
        "left_out": mutated.left_out.iter().map(|left| json!({"path": left.path.to_string_lossy(), "why": why(left.why)})).collect::<Vec<_>>(),
        "step": failure.map(|failure| failure.step), "steps": mutated.steps,
        "status": failure.and_then(|failure| match failure.why {
            FailureReason::Ended(ending) => Some(ending.status()),
            _ => None,
        }),
        "exit_status": if failure.is_some_and(is_busy) { i32::from(arguments.lock.busy_exit_code) } else { mutated.status() },
        "rolled_back": rollback.map(Result::is_ok),
        "left": rollback.and_then(|rollback| Some(paths(&rollback.as_ref().ok()?.left))),
        "gone": rollback.and_then(|rollback| Some(paths(&rollback.as_ref().ok()?.gone))),
        "snapshot": rollback.and_then(|rollback| rollback.as_ref().ok()?.kept.clone()),
        "error": failure.map(super::render::failure), "in_the_way": null,
    })
}
