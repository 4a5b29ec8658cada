//! `repoguard status`: who holds, who waits, which mutation was killed, what happened behind the guard's back.

use std::{path::Path, time::Duration};

use anyhow::Context as _;
use clap::{ArgMatches, Args, FromArgMatches};
use repoguard::{Config, Head, Holder, Inspection, Repo, Request, State, escape::quoted_path, mutation::Pending};
use serde_json::{Value, json};

use super::{
    Context,
    exit::{self, Exit, Usage},
    options::Resources,
    render::{self, Lines},
};

/// How often `--watch` looks.
const EVERY: Duration = Duration::from_secs(1);

/// Show who holds the lock, and who waits
///
/// Takes no lock, never blocks, never makes anybody's attempt fail, and writes nothing. Works in any repository that can be read,
/// whoever owns it. Users of flock(1) are shown if the system shows them. An interrupted mutation is shown until `repoguard
/// recover`, or the next command, has recovered it.
///
/// Exit status: 0; with --exit-code 1 if it is held and 3 if that is unknown.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Show it again every second, until interrupted
    #[arg(long)]
    watch: bool,
    /// Exit with 1 if it is held, and with 3 if that is unknown
    #[arg(long)]
    exit_code: bool,
    #[command(flatten)]
    resources: Resources,
}

pub(super) fn run(context: &Context, matches: &ArgMatches) -> anyhow::Result<Exit> {
    let arguments = Arguments::from_arg_matches(matches).map_err(|error| Usage(error.to_string()))?;
    let directory = std::env::current_dir().context("cannot find the current directory")?;
    let repo = Repo::discover_of_any_owner(&directory)?;
    let mut before = None;
    loop {
        let status = Status::look(&repo, &arguments)?;
        if context.json {
            // A watcher's line says something new, or nothing.
            let document = status.to_json(&repo);
            if before.as_ref() != Some(&document) {
                render::json(&document)?;
                before = Some(document);
            }
        } else if arguments.watch {
            render::redraw(&status.to_text(&repo))?;
        } else {
            render::print(&status.to_text(&repo))?;
        }
        if !arguments.watch {
            return Ok(if arguments.exit_code { status.exit() } else { Exit::OK });
        }
        std::thread::sleep(EVERY);
    }
}

struct Status {
    lock: Inspection,
    /// Mutations that are not at their end.
    pending: Vec<Pending>,
    changed: Option<(Head, Head)>,
}

impl Status {
    fn look(repo: &Repo, arguments: &Arguments) -> anyhow::Result<Self> {
        // Whose repository cannot be trusted, whose configuration is not asked.
        let config = Config::load(repo).unwrap_or_default();
        // It waits for nothing, so the configured timeout does not matter, be it wrong.
        let request = arguments.resources.request()?.timeout(Duration::ZERO);
        let lock = repo.inspect(&request.or_configured(&config)?)?;
        let pending = repoguard::mutation::pending(repo);
        // Under a live hold of the worktree, HEAD moves by right; under one of a name only, it does not.
        let free = || repo.inspect(&Request::default()).is_ok_and(|own| own.state == State::Free);
        let quiet = lock.died.is_empty() && lock.ended.is_empty() && (lock.holders.is_empty() || free());
        // After a killed mutation, it is not known who moved HEAD.
        let quiet = quiet && !pending.iter().any(|mutation| mutation.here);
        let changed = quiet.then(|| repoguard::program::changed_outside(repo)).flatten();
        // Somebody may have taken and released the lock while we looked: what is so must still be so.
        let changed = changed.filter(|seen| free() && repoguard::program::changed_outside(repo).as_ref() == Some(seen));
        Ok(Self { lock, pending, changed })
    }

    fn exit(&self) -> Exit {
        Exit::Status(match self.lock.state {
            State::Free => 0,
            State::Held => exit::NO,
            State::CannotTell => exit::CANNOT_TELL,
        })
    }

    fn to_json(&self, repo: &Repo) -> Value {
        json!({
            "schema": 1,
            "root": repo.root().to_string_lossy(),
            "git_dir": repo.git_dir().map(Path::to_string_lossy),
            "lock": self.lock.lock.to_string_lossy(),
            "scope": self.lock.scope,
            "state": self.state(),
            "holders": self.lock.holders.iter().map(|holder| self.holder(holder)).collect::<Vec<_>>(),
            "waiters": self.lock.waiters.iter().map(party).collect::<Vec<_>>(),
            "astray": self.lock.astray.iter().map(party).collect::<Vec<_>>(),
            "died": self.lock.died.iter().map(party).collect::<Vec<_>>(),
            "unfinished": self.unfinished().next().map(|_| self.unfinished().map(unfinished).collect::<Vec<_>>()),
            "changed_outside": self.changed.as_ref().map(|(from, to)| json!({"from": from, "to": to})),
        })
    }

    /// Mutations that were killed.
    fn unfinished(&self) -> impl Iterator<Item = &Pending> {
        self.pending.iter().filter(|mutation| !mutation.runs)
    }

    /// The step of a holder's mutation, if it has one.
    fn step(&self, holder: &Holder) -> Option<&'static str> {
        let running =
            self.pending.iter().filter(|mutation| mutation.runs).filter_map(|mutation| mutation.info.as_ref());
        running.filter(|info| info.fence == holder.id && info.fence != 0).map(|info| info.step).next()
    }

    fn holder(&self, holder: &Holder) -> Value {
        let mut value = party(holder);
        if let (Some(fields), Some(step)) = (value.as_object_mut(), self.step(holder)) {
            fields.insert("step".to_owned(), step.into());
        }
        value
    }

    fn state(&self) -> &'static str {
        match self.lock.state {
            State::Free => "free",
            State::Held => "held",
            State::CannotTell => "cannot-tell",
        }
    }

    fn to_text(&self, repo: &Repo) -> Lines {
        let mut lines = Lines::default();
        match self.lock.state {
            State::CannotTell => {
                let why = if self.lock.astray.is_empty() {
                    "the system does not show all holders here (another pid namespace?), has no locks that work, or what \
                     should be a lock file cannot be one: `repoguard doctor`"
                } else {
                    "a process that runs has recorded that it is, but does not hold it here"
                };
                lines.add(format_args!("{}: cannot tell whether it is held: {why}", self.lock.scope));
            }
            _ => lines.add(format_args!("{}: {} (`{}`)", self.lock.scope, self.state(), self.lock.lock.display())),
        }
        if repo.git_dir().is_none() {
            lines.add("  not inside a Git repository: there are no hooks, no queue and no log");
        }
        for holder in &self.lock.holders {
            let mode = holder.mode.map_or("", |mode| if mode == repoguard::Mode::Shared { ", shared" } else { "" });
            let foreign = if holder.foreign { ", not by repoguard" } else { "" };
            let step = self.step(holder).map_or_else(String::new, |step| format!(", in its {step} step"));
            let who = render::who(holder);
            lines.add(format_args!("  held: {}{mode}{foreign}: {who}{step}", holder.scope));
            if let Some(advice) = holder.advice() {
                lines.add(format_args!("    hint: {advice}"));
            }
        }
        for holder in &self.lock.astray {
            let why = "the place of its lock was replaced, or the repository is reached in two ways";
            lines.add(format_args!("  may be at work: {}: {}: {why}", holder.scope, render::who(holder)));
        }
        for (place, waiter) in self.lock.waiters.iter().enumerate() {
            lines.add(format_args!("  waits #{}: {}: {}", place + 1, waiter.scope, render::who(waiter)));
        }
        for holder in &self.lock.died {
            let who = render::who(holder);
            lines.add(format_args!("  was killed before it could release: {}: {who}", holder.scope));
        }
        for mutation in self.unfinished() {
            lines.add(format_args!("  {}", unfinished_text(mutation)));
        }
        if let Some((from, to)) = &self.changed {
            lines.add(format_args!("  changed outside the guard since the last release: HEAD was {from}, is {to}"));
        }
        lines
    }
}

/// A holder or waiter as documented: its record without what only repoguard itself needs.
pub(super) fn party(holder: &Holder) -> Value {
    let mut value = serde_json::to_value(holder).unwrap_or_default();
    if let Some(fields) = value.as_object_mut() {
        for internal in ["schema", "token_sha256", "boot_ms", "time_namespace", "resources", "takers", "descent"] {
            fields.remove(internal);
        }
        fields.insert("user".to_owned(), render::user(holder).into());
    }
    value
}

fn unfinished(mutation: &Pending) -> Value {
    let info = mutation.info.as_ref();
    json!({
        "worktree": mutation.root.to_string_lossy(),
        "command": info.map(|info| &info.command), "directory": info.map(|info| &info.directory),
        "message": info.map(|info| &info.message), "user": info.map(|info| &info.user),
        "host": info.map(|info| &info.host), "pid": info.map(|info| info.pid), "fence": info.map(|info| info.fence),
        "begun_ms": info.map(|info| info.begun_ms), "step": info.map(|info| info.step),
    })
}

fn unfinished_text(mutation: &Pending) -> String {
    let (place, directory) = if mutation.here {
        (String::new(), String::new())
    } else {
        let root = quoted_path(&mutation.root);
        (format!(" of {root}"), format!("-C {root} "))
    };
    let found = match &mutation.info {
        Some(info) => format!(
            "pid {} ({}@{}) `{}`, begun at {}, ended in its {} step",
            info.pid,
            info.user,
            info.host,
            info.command,
            render::clock(info.begun_ms),
            info.step
        ),
        None => "its journal cannot be read".to_owned(),
    };
    format!("unfinished mutation{place}: {found}: `repoguard {directory}recover --status`")
}
