//! `repoguard acquire`, `release` and `wait`: for scripts and CI jobs with several steps.

use std::time::Duration;

use anyhow::Context as _;
use clap::{ArgGroup, ArgMatches, Args, FromArgMatches};
use repoguard::{
    Caller, Config, Error, Repo,
    background::{AcquireState, Grant, Released, Until},
};
use serde_json::json;

use super::{
    Context,
    exit::{self, Exit, Usage},
    options::{self, Lock},
    render,
};

/// Acquire the lock for several steps, and print a token
///
/// Returns with the lock held by a small process in the background, until `repoguard release TOKEN`, the end of the process
/// given by --for-pid, or the time given by --ttl: one of the two is required, so that nothing is locked for ever.
///
/// `token=$(repoguard acquire --for-pid $$) || exit; export REPOGUARD_TOKEN=$token` puts the rest of a script inside the
/// hold: git hooks and `repoguard exec` go on at once. Without the variable it waits like everybody. (An `export` around
/// it would hide its exit status.)
///
/// Inside a hold that covers it already nothing is acquired, and releasing the token changes nothing.
///
/// Exit status: 0; 75 busy (see -E), 69 locks do not work on this file system, 125 repoguard failed, 128+n interrupted by
/// signal n while waiting, 2 usage error.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("until").required(true).multiple(true))]
pub(super) struct Acquire {
    /// Hold it until this process ends: `$$` is the shell that runs the script
    #[arg(long, value_name = "PID", group = "until", value_parser = clap::value_parser!(u32).range(1..))]
    for_pid: Option<u32>,
    /// Hold it at most this long, from the moment it is acquired: `30s`, `5m`, `1.5`
    #[arg(long, value_name = "DUR", group = "until", value_parser = options::lifetime, allow_negative_numbers = true)]
    ttl: Option<Duration>,
    /// Do not wait, but leave a process in the queue that does: `repoguard wait TOKEN` waits for it
    #[arg(long)]
    background: bool,
    #[command(flatten)]
    lock: Lock,
}

/// Release what `repoguard acquire` holds, or leave its queue
///
/// Commands that work inside of the hold keep it: it ends with the last of them.
///
/// Exit status: 0; 1 when nothing is held under this token (any more): it was released already, its process has ended, its
/// time is over, or it is wrong, and nothing is harmed then; 75 when commands still work inside, 76 when the lock was lost: a
/// path that was locked was removed or replaced while it was held.
#[derive(Debug, Args)]
pub(super) struct Release {
    /// The output of `repoguard acquire`
    token: String,
}

/// Wait until what `repoguard acquire --background` asked for is held
///
/// Exit status: 0 held; 1 the token has no hold and no request (any more), 75 not held before --timeout was over, or waiting would
/// be a deadlock (the request goes on, and this can be repeated), 128+n interrupted by signal n.
#[derive(Debug, Args)]
pub(super) struct Wait {
    /// The output of `repoguard acquire --background`
    token: String,
    /// Wait at most this long: `30s`, `5m`, `1.5`; `0` asks once [default: without limit]
    #[arg(short = 'w', long, value_name = "DUR", value_parser = options::duration)]
    timeout: Option<Duration>,
}

pub(super) fn acquire(context: &Context, matches: &ArgMatches) -> anyhow::Result<Exit> {
    let arguments = Acquire::from_arg_matches(matches).map_err(|error| Usage(error.to_string()))?;
    let repo = repo()?;
    render::check_output("the token")?;
    context.ui.may_have_token(&repo);
    let config = Config::load(&repo)?;
    let command =
        arguments.for_pid.and_then(repoguard::program::command_of).unwrap_or_else(|| "repoguard acquire".to_owned());
    let request = arguments.lock.request(&config)?.command(command);
    let mut until = Until::default();
    (until.process, until.ttl) = (arguments.for_pid, arguments.ttl);
    let observer = &mut |notice: repoguard::Notice<'_>| context.ui.notice(&notice);
    let caller = Caller { repo: &repo, config: &config, request: &request, observer };
    let grant = repoguard::background::acquire(caller, until, arguments.background);
    context.ui.waiting_over();
    match grant {
        Ok(grant) => {
            let printed =
                if context.json { render::json(&to_json(&grant)) } else { render::raw(&format!("{}\n", grant.token)) };
            if let Err(error) = printed {
                // A hold whose token was not printed could not be released.
                drop(repoguard::background::release(&repo, &grant.token));
                return Err(anyhow::anyhow!("cannot print the token, so the lock was released: {error:#}"));
            }
            Ok(Exit::OK)
        }
        Err(error @ (Error::Busy { .. } | Error::Deadlock { .. })) => {
            Ok(context.failed(&error.into(), arguments.lock.busy_exit_code))
        }
        Err(error) => Err(error.into()),
    }
}

pub(super) fn release(context: &Context, matches: &ArgMatches) -> anyhow::Result<Exit> {
    let arguments = Release::from_arg_matches(matches).map_err(|error| Usage(error.to_string()))?;
    let released = repoguard::background::release(&repo()?, &arguments.token)?;
    let (name, said) = match released {
        Released::Done => ("released", None),
        Released::Inside => ("inside", Some("nothing to release: it was acquired inside a hold, which goes on")),
        Released::Unknown => ("unknown", Some("nothing is held under this token (any more)")),
        Released::Later => {
            ("later", Some("not released yet: commands still work inside of the hold, which ends with them"))
        }
        Released::Lost => (
            "lost",
            Some("released, but the lock was lost: a path that was locked was removed or replaced while it was held"),
        ),
        Released::Command => ("command", Some("this is the token of a hold that ends with its command: not released")),
    };
    if context.json {
        render::json(&json!({"schema": 1, "outcome": name}))?;
    } else if let Some(said) = said {
        context.ui.say(said);
    }
    Ok(match released {
        Released::Done | Released::Inside => Exit::OK,
        Released::Unknown | Released::Command => Exit::Status(exit::NO),
        Released::Later => Exit::Status(exit::BUSY),
        Released::Lost => Exit::Status(exit::LOST),
    })
}

pub(super) fn wait(context: &Context, matches: &ArgMatches) -> anyhow::Result<Exit> {
    let arguments = Wait::from_arg_matches(matches).map_err(|error| Usage(error.to_string()))?;
    let observer = &mut |notice: repoguard::Notice<'_>| context.ui.notice(&notice);
    let turn = repoguard::background::wait(&repo()?, &arguments.token, arguments.timeout, observer);
    context.ui.waiting_over();
    let turn = turn?;
    if context.json {
        render::json(&json!({"schema": 1, "state": state(turn)}))?;
    } else if turn == AcquireState::Over {
        context.ui.say("nothing is held or waited for under this token (any more)");
    }
    Ok(if turn == AcquireState::Over { Exit::Status(exit::NO) } else { Exit::OK })
}

fn repo() -> anyhow::Result<Repo> {
    let directory = std::env::current_dir().context("cannot find the current directory")?;
    Ok(Repo::discover(&directory)?)
}

fn to_json(grant: &Grant) -> serde_json::Value {
    let waited = u64::try_from(grant.waited.as_millis()).unwrap_or(u64::MAX);
    json!({"schema": 1, "token": grant.token, "state": state(grant.state), "fence": grant.fence, "waited_ms": waited})
}

fn state(turn: AcquireState) -> &'static str {
    match turn {
        AcquireState::Held => "held",
        AcquireState::Inside => "inside",
        AcquireState::Queued => "queued",
        AcquireState::Over => "over",
    }
}
