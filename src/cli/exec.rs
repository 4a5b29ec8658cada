//! `repoguard exec`: run a command while holding the lock.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{ArgMatches, Args, FromArgMatches, ValueEnum};
use repoguard::{
    Caller, Config, Error, Notice, Request, Scope, holder,
    run::{Ending, Outcome, Task},
    worktree::{IsolatedWorktree, Options},
};
use serde_json::json;

use super::{
    Context,
    exit::{self, Exit, Usage},
    options::{self, Expect, ForLibrary, Lock},
    result_file::ResultFile,
    worktrees,
};

/// Run a command while holding the lock of this checkout
///
/// CMD runs as if repoguard were not there: its input, output, terminal, signals, environment and exit status are its
/// own. It never runs without the lock, also when repoguard is killed, and the lock is free the moment it has ended.
/// Inside of it, repoguard knows that the lock is held and goes on.
///
/// Exit status: CMD's own; 65 HEAD is not where it was expected, 75 busy (see -E), 69 locks do not work on this file system, 76 the
/// lock was lost while CMD ran, 124 stopped by --max-hold, 125 repoguard failed, 126 CMD cannot be run, 127 no such command, 128+n
/// died of signal n or interrupted by it while waiting, 2 usage error.
///
/// With `--on-busy worktree`, CMD runs elsewhere if this checkout is busy: in a linked worktree of its own, made from HEAD's commit
/// on a new branch, in the same directory as seen from the top, under that worktree's lock. Both are named on stderr. When CMD has
/// ended, they are removed again if they hold nothing of worth: no commit, no change, no untracked file (ignored ones do not
/// count), no stash, nothing in progress. Else they stay: `repoguard worktrees` lists them, with the commands that land their
/// contents. Ignored and untracked files of this checkout are missing there: build directories, `.env`.
///
/// CMD finds `REPOGUARD_FENCE` (a number larger than that of every hold before), `REPOGUARD_TOKEN` (who is given it is
/// inside this hold), `REPOGUARD_LOCK_PATH` and `REPOGUARD_LOCK_SCOPE` in its environment, and in a worktree of its own
/// `REPOGUARD_WORKTREE`, its path.
#[derive(Debug, PartialEq, Args)]
#[command(override_usage = "repoguard exec [OPTIONS] -- CMD [ARG]...\n       repoguard exec [OPTIONS] -c STRING")]
pub(super) struct Arguments {
    #[command(flatten)]
    lock: Lock,
    /// What to do if it is busy: wait, fail (exit 75), skip (exit 0 without running CMD), or worktree (run CMD in a worktree of its
    /// own) [default: wait]
    #[arg(long, value_name = "WHAT", hide_possible_values = true)]
    on_busy: Option<OnBusy>,
    /// The directory to make it in [default: repoguard.worktreeDir, else `<main worktree>.worktrees` beside the main worktree]
    #[arg(long, value_name = "DIR")]
    worktree_dir: Option<PathBuf>,
    /// The name of its branch; a number is added if it exists [default: `repoguard/` and the time]
    #[arg(long, value_name = "NAME")]
    branch: Option<String>,
    #[command(flatten)]
    expect: Expect,
    /// Hold it at most this long: then SIGTERM to CMD and its descendants
    #[arg(long, value_name = "DUR", value_parser = options::lifetime)]
    max_hold: Option<Duration>,
    /// How long after that SIGTERM to send SIGKILL
    #[arg(long, value_name = "DUR", value_parser = options::duration, default_value = "10s")]
    kill_after: Duration,
    /// Write how it went to a file, as JSON, so that it is never mistaken for CMD's own status
    #[arg(long, value_name = "PATH")]
    result_file: Option<PathBuf>,
    #[command(flatten)]
    library: ForLibrary,
    /// A command line for the shell (`$SHELL -c STRING`), instead of CMD
    #[arg(short, long = "command", value_name = "STRING", conflicts_with = "cmd")]
    command_line: Option<OsString>,
    /// The command, and its arguments
    #[arg(value_name = "CMD", trailing_var_arg = true, required_unless_present = "command_line")]
    cmd: Vec<OsString>,
}

/// The default of `--kill-after`.
const KILL_AFTER: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OnBusy {
    Wait,
    Fail,
    Skip,
    Worktree,
}

/// Reads the plainest and most frequent command lines, for which building the parser would cost more than the lock.
/// `None` for all others, and for all that is wrong with them: the parser decides.
pub(super) fn quick(arguments: &[OsString]) -> Option<Arguments> {
    let mut read = Arguments {
        lock: Lock { busy_exit_code: exit::BUSY, ..Lock::default() },
        on_busy: None,
        worktree_dir: None,
        branch: None,
        expect: Expect::default(),
        max_hold: None,
        kill_after: KILL_AFTER,
        result_file: None,
        library: ForLibrary::default(),
        command_line: None,
        cmd: Vec::new(),
    };
    let lock = &mut read.lock;
    let mut rest = arguments.get(1..).filter(|rest| rest.first().is_some_and(|verb| verb == "exec"))?;
    loop {
        rest = &rest[1..];
        match rest.first()?.to_str()? {
            "-n" | "--no-wait" if !lock.no_wait => lock.no_wait = true,
            "-s" | "--shared" if !lock.shared => lock.shared = true,
            "-x" | "--exclusive" if !lock.exclusive => lock.exclusive = true,
            "-w" | "--timeout" if lock.timeout.is_none() => {
                rest = &rest[1..];
                lock.timeout = Some(options::duration(rest.first()?.to_str()?).ok()?);
            }
            "--" => {
                rest = &rest[1..];
                break;
            }
            option if option.starts_with('-') => return None,
            _ => break,
        }
    }
    let contradiction = (lock.no_wait && lock.timeout.is_some()) || (lock.shared && lock.exclusive);
    read.cmd = rest.to_vec();
    (!read.cmd.is_empty() && !contradiction).then_some(read)
}

pub(super) fn parsed(context: &Context, matches: &ArgMatches) -> anyhow::Result<Exit> {
    let arguments = Arguments::from_arg_matches(matches).map_err(|error| Usage(error.to_string()))?;
    run(context, &arguments)
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> anyhow::Result<Exit> {
    let context = &arguments.library.heeded(context);
    let result_file = ResultFile::create(arguments.result_file.as_deref())?;
    let result = execute(context, arguments);
    context.ui.waiting_over();
    result_file.write(&context.ui, || report(arguments, &result));
    match result {
        Ok((outcome, _)) => {
            Ok(outcome.die_of.map_or(Exit::Status(exit::status(outcome.ending.status())), Exit::Signal))
        }
        Err(error) => busy(context, arguments, error),
    }
}

fn execute(context: &Context, arguments: &Arguments) -> anyhow::Result<(Outcome, Option<IsolatedWorktree>)> {
    let repo = arguments.library.repo()?;
    if repo.git_dir().is_none() {
        context.ui.say(&format!("not inside a Git repository: locking `{}`", repo.lock_path().display()));
    }
    context.ui.may_have_token(&repo);
    let config = Config::load(&repo)?;
    let task = arguments.task()?;
    let request = arguments.request(&config, &task)?;
    let options = arguments.options(&request)?;
    options.as_ref().map_or(Ok(()), |options| options.check(&repo))?;
    let mut observer = |notice: Notice<'_>| context.ui.notice(&notice);
    let (outcome, isolated) = match (
        repoguard::program::exec(
            Caller { repo: &repo, config: &config, request: &request, observer: &mut observer },
            &task,
        ),
        options,
    ) {
        (Err(busy @ (Error::Busy { .. } | Error::Deadlock { .. })), Some(options)) => {
            let waited = if let Error::Busy { waited, .. } = busy { waited } else { Duration::ZERO };
            context.ui.waiting_over();
            let (mut outcome, isolated) = repoguard::program::exec_in_worktree(
                Caller { repo: &repo, config: &config, request: &request, observer: &mut observer },
                &options,
                &task,
            )?;
            outcome.waited += waited;
            (outcome, Some(isolated))
        }
        (outcome, _) => (outcome?, None),
    };
    if let Ending::NotFound | Ending::NotExecutable | Ending::Failed | Ending::Overtime = outcome.ending {
        context.ui.not_run(outcome.ending, &task);
    }
    Ok((outcome, isolated))
}

impl Arguments {
    fn task(&self) -> anyhow::Result<Task> {
        let command = match &self.command_line {
            Some(line) => vec![repoguard::program::shell(), "-c".into(), line.clone()],
            None => self.cmd.clone(),
        };
        let mut task = Task::new(command).kill_after(self.kill_after).expect(self.expect.head());
        task.max_hold = self.max_hold;
        self.library.prepare(task)
    }

    fn request(&self, config: &Config, task: &Task) -> anyhow::Result<Request> {
        let mut request = self.lock.request(config)?;
        match self.on_busy {
            Some(OnBusy::Wait) => request.timeout = self.lock.own_timeout(),
            Some(OnBusy::Fail | OnBusy::Skip | OnBusy::Worktree) => {
                request.timeout = Some(self.lock.own_timeout().unwrap_or(Duration::ZERO));
            }
            None => {}
        }
        Ok(self.library.complete(request).command(holder::readable_command(&task.command)))
    }
}

impl Arguments {
    /// The worktree to go to if the lock is busy.
    fn options(&self, request: &Request) -> anyhow::Result<Option<Options>> {
        let usage = |text: &str| Err(Usage(text.to_owned()).into());
        if self.on_busy != Some(OnBusy::Worktree) {
            return match (&self.worktree_dir, &self.branch) {
                (Some(_), _) => usage("--worktree-dir is for --on-busy worktree"),
                (_, Some(_)) => usage("--branch is for --on-busy worktree"),
                _ => Ok(None),
            };
        }
        if request.scope == Some(Scope::Repo) || !request.names.is_empty() {
            return usage(
                "--on-busy worktree is for the lock of this checkout: no other worktree stands in for everything, or for a name",
            );
        }
        let mut options = Options::default();
        options.directory.clone_from(&self.worktree_dir);
        options.branch.clone_from(&self.branch);
        Ok(Some(options))
    }
}

/// Ends with what is to be done when the lock is busy; other errors go on.
fn busy(context: &Context, arguments: &Arguments, error: anyhow::Error) -> anyhow::Result<Exit> {
    match error.downcast_ref::<Error>() {
        Some(Error::Busy { .. }) if arguments.on_busy == Some(OnBusy::Skip) => {
            context.ui.skipped(&error);
            Ok(Exit::OK)
        }
        Some(Error::Busy { .. } | Error::Deadlock { .. }) => Ok(context.failed(&error, arguments.lock.busy_exit_code)),
        _ if arguments.library.silent => Ok(context.failed(&error, exit::of(&error))),
        _ => Err(error),
    }
}

/// The holders and waiters before a request, in the result files.
pub(super) fn in_the_way(error: Option<&Error>) -> serde_json::Value {
    match error {
        Some(Error::Busy { what, holders, ahead, .. }) => json!({"what": what, "holders": holders, "ahead": ahead}),
        Some(Error::Deadlock { what, cycle }) => json!({"what": what, "holders": cycle, "ahead": []}),
        _ => serde_json::Value::Null,
    }
}

/// The result file: one JSON object, `schema` 1.
fn report(arguments: &Arguments, result: &anyhow::Result<(Outcome, Option<IsolatedWorktree>)>) -> serde_json::Value {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    match result {
        Ok((outcome, isolated)) => {
            let (name, status, signal) = match outcome.ending {
                Ending::Exited(status) => ("exited", Some(status), None),
                Ending::Signaled(signal) => ("signaled", None, Some(signal)),
                Ending::Overtime => ("overtime", None, None),
                Ending::NotFound => ("not-found", None, None),
                Ending::NotExecutable => ("not-executable", None, None),
                Ending::Lost => ("lost", None, None),
                Ending::Failed => ("failed", None, None),
            };
            json!({
                "schema": 1, "outcome": name, "acquired": true, "inside": outcome.fence.is_none(),
                "fence": outcome.fence, "waited_ms": ms(outcome.waited), "held_ms": ms(outcome.held),
                "status": status, "signal": signal, "exit_status": outcome.ending.status(), "error": null,
                "worktree": isolated.as_ref().map(worktrees::report), "in_the_way": null,
            })
        }
        Err(error) => {
            let waited = match error.downcast_ref() {
                Some(Error::Busy { waited, .. }) => *waited,
                _ => Duration::ZERO,
            };
            let (name, status) = match error.downcast_ref() {
                Some(Error::Busy { .. }) if arguments.on_busy == Some(OnBusy::Skip) => ("skipped", 0),
                Some(Error::Busy { .. }) => ("busy", arguments.lock.busy_exit_code),
                Some(Error::Deadlock { .. }) => ("deadlock", arguments.lock.busy_exit_code),
                Some(Error::Interrupted { .. }) => ("interrupted", exit::of(error)),
                _ if exit::of(error) == exit::INVALID => ("invalid", exit::INVALID),
                _ => ("failed", exit::of(error)),
            };
            json!({
                "schema": 1, "outcome": name, "acquired": false, "inside": false, "fence": null,
                "waited_ms": ms(waited), "held_ms": 0, "status": null, "signal": null, "exit_status": status,
                "error": format!("{error:#}"), "worktree": null, "in_the_way": in_the_way(error.downcast_ref()),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn both_ways_to_read_a_command_line_agree() {
        let plain = [
            "-- true",
            "true",
            "-n -- true",
            "--no-wait true -n",
            "-s -- git status",
            "-x -- -n",
            "-w 5 -- true",
            "--timeout 1.5 -s -- sh -c x",
            "-w 0 true",
            "-- -- x",
            "--shared -- true",
        ];
        let others = [
            "-sx -- true",
            "-n -w 1 -- true",
            "-s -x -- true",
            "-w -- true",
            "-w soon -- true",
            "-n -n -- true",
            "--bogus -- true",
            "--",
            "-q -- true",
            "-w -1 -- true",
            "--timeout=3 -- true",
            "-E 3 -- true",
            "-c x",
        ];
        let lines = plain.map(|line| (line, true)).into_iter().chain(others.map(|line| (line, false)));
        for (line, is_plain) in lines {
            let arguments = words(&format!("repoguard exec {line}"));
            let parser = super::super::command(super::super::VERBS);
            let parsed = parser.try_get_matches_from(&arguments).ok().map(|matches| {
                Arguments::from_arg_matches(matches.subcommand().expect("a verb").1).expect("the same arguments")
            });
            // `None` leaves the line to the parser, errors as well.
            let read = quick(&arguments);
            assert_eq!(read.is_some(), is_plain, "{line}");
            if is_plain {
                assert_eq!(read, parsed, "{line}");
            }
        }
    }
}
