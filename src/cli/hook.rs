//! `repoguard hook`: what the installed hooks run.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use anyhow::Context as _;
use clap::{ArgMatches, Args, FromArgMatches};
use repoguard::{
    Config, Error, Repo,
    hooks::{self, Call, Event, Refusal},
};

use super::{
    Context,
    exit::{self, Exit, Usage},
};

/// How long a hook waits unless `repoguard.hookTimeout` says otherwise.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The same where somebody waits for a push, over a connection that may time out.
const PUSH_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a long wait is reported.
const PUSH_REPEAT: Duration = Duration::from_secs(5);

/// Take the lock for the git command that runs this hook, until that command has ended
///
/// Called by the scripts that `repoguard hooks install` puts in place, or by a line in the file of another hook manager:
/// `repoguard hook pre-commit "$@"`.
///
/// Waits at most `repoguard.hookTimeout` (60s; 30s in pre-receive), and not at all while git holds a lock of its own. With
/// `REPOGUARD=0` in the environment it does nothing.
///
/// Exit status: 0 go on; 65 HEAD or the index changed while it waited, 75 busy, others as of `exec`: git stops, with a
/// status of its own.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The hook: pre-commit, prepare-commit-msg, pre-rebase, applypatch-msg, post-checkout, pre-receive or
    /// reference-transaction
    event: String,
    /// The script that git runs; the hook that was there before it runs after the guard
    #[arg(long, value_name = "PATH")]
    script: Option<PathBuf>,
    /// The hook's arguments from git
    #[arg(value_name = "ARG", trailing_var_arg = true, allow_hyphen_values = true)]
    given: Vec<OsString>,
}

/// Reads the command line of an installed hook, for which building the parser would cost more than the lock.
pub(super) fn quick(arguments: &[OsString]) -> Option<Arguments> {
    let rest = arguments.get(1..).filter(|rest| rest.first().is_some_and(|verb| verb == "hook"))?;
    let event = rest.get(1)?.to_str().filter(|event| !event.starts_with('-'))?.to_owned();
    let mut rest = &rest[2..];
    let mut script = None;
    if rest.first().is_some_and(|option| option == "--script") {
        script = Some(rest.get(1)?.into());
        rest = &rest[2..];
    }
    if rest.first().is_some_and(|option| option == "--") {
        rest = &rest[1..];
    }
    Some(Arguments { event, script, given: rest.to_vec() })
}

pub(super) fn parsed(context: &Context, matches: &ArgMatches) -> anyhow::Result<Exit> {
    let arguments = Arguments::from_arg_matches(matches).map_err(|error| Usage(error.to_string()))?;
    run(context, arguments)
}

pub(super) fn run(context: &Context, arguments: Arguments) -> anyhow::Result<Exit> {
    let Some(event) = Event::from_name(&arguments.event) else {
        return Err(Usage(format!("`{}` is no hook that takes the lock", arguments.event)).into());
    };
    if repoguard::program::is_trial() {
        return Ok(Exit::Status(exit::status(hooks::ANSWER)));
    }
    let mut call = Call { event, script: arguments.script, arguments: arguments.given, timeout: TIMEOUT };
    let mut input = None;
    if !repoguard::program::skipped_once() {
        let guarded = guard(context, &mut call, &mut input);
        // Git died of the same Ctrl-C, and the shell's prompt may stand where we would write.
        if let Ok(Err(Refusal { error: error @ Error::Interrupted { .. }, .. })) = &guarded {
            return Ok(Exit::Status(exit::of_error(error)));
        }
        context.ui.waiting_over();
        match guarded {
            Ok(Ok(())) if event == Event::PreCommit => context.ui.look_at_token(),
            Ok(Ok(())) => {}
            Ok(Err(refusal)) => {
                context.ui.refused(&refusal);
                return Ok(Exit::Status(exit::of_error(&refusal.error)));
            }
            // Too late to fail the checkout.
            Err(error) if event == Event::PostCheckout => context.ui.error(&error),
            Err(error) => return Err(error),
        }
    }
    let Some(chained) = call.chained() else { return Ok(Exit::OK) };
    let error = repoguard::program::replace_by(&chained, &call.arguments, input.as_deref());
    Err(error).with_context(|| format!("cannot run the hook `{}`", chained.display()))
}

fn guard(context: &Context, call: &mut Call, input: &mut Option<Vec<u8>>) -> anyhow::Result<Result<(), Refusal>> {
    let directory = std::env::current_dir().context("cannot find the current directory")?;
    let repo = Repo::of_hook(&directory)?;
    context.ui.may_have_token(&repo);
    let config = Config::load_in_hook(&repo)?;
    if call.event == Event::PreReceive {
        call.timeout = PUSH_TIMEOUT;
        context.ui.repeat_every(PUSH_REPEAT);
    }
    if let Some(setting) = config.setting("hookTimeout") {
        call.timeout = setting.duration()?;
    }
    let mut read = || hooks::read_input().map(|bytes| input.insert(bytes).clone());
    Ok(hooks::run(&repo, &config, call, &mut read, &mut |notice| context.ui.notice(&notice)))
}
