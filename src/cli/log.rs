//! `repoguard log`: who held it, when, for how long, and how it ended.

use std::time::Duration;

use anyhow::Context as _;
use clap::{ArgMatches, Args, FromArgMatches};
use jiff::{Timestamp, civil, tz::TimeZone};
use repoguard::{
    Repo,
    log::{Entry, Event},
};

use super::{
    Context,
    exit::{self, Exit, Usage},
    options,
    render::{self, Lines},
};

/// Show who held the lock, when, for how long, and how it ended
///
/// One line a hold, oldest first, from the log in the git directory (some megabytes are kept); with -v the steps of a
/// mutation below it. Also what was found: holders that were killed before they could release, locks that were lost, changes
/// made outside the guard.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The newest N lines only
    #[arg(short = 'n', long = "max-count", value_name = "N")]
    count: Option<usize>,
    /// Only what ended after T: `2026-01-31`, `2026-01-31T12:00:00Z`, or how long ago, `2h`
    #[arg(long, value_name = "T", value_parser = since)]
    since: Option<Timestamp>,
}

pub(super) fn run(context: &Context, matches: &ArgMatches) -> anyhow::Result<Exit> {
    let arguments = Arguments::from_arg_matches(matches).map_err(|error| Usage(error.to_string()))?;
    let directory = std::env::current_dir().context("cannot find the current directory")?;
    let repo = Repo::discover_of_any_owner(&directory)?;
    let mut entries = repoguard::log::log(&repo, arguments.count.filter(|_| arguments.since.is_none()));
    if let Some(since) = arguments.since {
        entries.retain(|entry| entry.time().parse::<Timestamp>().is_ok_and(|time| time >= since));
        let surplus = arguments.count.map_or(0, |count| entries.len().saturating_sub(count));
        entries.drain(..surplus);
    }
    if context.json {
        render::json_lines(&entries)?;
        return Ok(Exit::OK);
    }
    let mut lines = Lines::default();
    for entry in &entries {
        lines.add(line(entry));
        if context.ui.is_verbose() && !entry.steps.is_empty() {
            lines.add(format_args!("{STEPS}{}", steps(entry)));
        }
    }
    render::print(&lines)?;
    Ok(Exit::OK)
}

/// The indent of a mutation's steps: they are below the hold, not beside its time.
const STEPS: &str = "                     ";

/// The steps of a mutation, how long they took, and which failed.
fn steps(entry: &Entry) -> String {
    let step = |step: &repoguard::log::StepTime| {
        let time = match step.ms {
            ms @ ..1000 => format!("{ms} ms"),
            ms => render::duration(Duration::from_millis(ms)),
        };
        let exit =
            if step.status == 0 || step.step == ROLLBACK { String::new() } else { format!(", exit {}", step.status) };
        format!("{} {time}{exit}", step.step)
    };
    entry.steps.iter().map(step).collect::<Vec<_>>().join("; ")
}

/// The step that puts everything back.
const ROLLBACK: &str = "rollback";

/// The end of a mutation that did not land.
fn undone(entry: &Entry) -> &'static str {
    match entry.steps.last().filter(|last| last.step == ROLLBACK) {
        Some(last) if last.status == i32::from(exit::FAILED) => ", not put back",
        Some(_) => ", put back",
        None => "",
    }
}

/// One hold in one line.
fn line(entry: &Entry) -> String {
    let time = entry.time().parse::<Timestamp>().unwrap_or_default().to_zoned(TimeZone::system());
    let time = time.strftime("%F %T");
    let moved = match (&entry.head_before, &entry.head_after) {
        (Some(before), Some(after)) if before != after => format!("  HEAD {before} → {after}"),
        _ => String::new(),
    };
    if let Some(fence) = entry.under {
        let who = format!("{}@{} pid {} `{}`", entry.user, entry.host, entry.pid, entry.command);
        return format!("{time}  did not wait while hold {fence} lasted  {}  {who}", entry.scope);
    }
    if entry.event == Event::Violated {
        return format!("{time}  changed outside the guard, found by pid {}{moved}", entry.pid);
    }
    if entry.event == Event::Recovered {
        let how = entry.reason.as_deref().unwrap_or("settled");
        return format!("{time}  a killed mutation was {how}: pid {} `{}`", entry.pid, entry.command);
    }
    let ended = match (entry.event, entry.status) {
        (Event::Died, _) => "killed before it could release".to_owned(),
        (Event::Lost, status) => format!("lock lost, exit {}", status.unwrap_or_default()),
        (_, Some(status)) => format!("exit {status}{}", undone(entry)),
        (_, None) => "ended".to_owned(),
    };
    let ms = |ms| render::duration(Duration::from_millis(ms));
    let shared = if entry.mode == Some(repoguard::Mode::Shared) { ", shared" } else { "" };
    let reason = entry.reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
    format!(
        "{time}  {ended}  held {} waited {}  {}{shared}  {}@{} pid {} `{}`{reason}{moved}",
        ms(entry.held_ms),
        ms(entry.waited_ms),
        entry.scope,
        entry.user,
        entry.host,
        entry.pid,
        entry.command,
    )
}

fn since(text: &str) -> Result<Timestamp, String> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    if let Ok(time) = text.parse::<civil::DateTime>() {
        return time.to_zoned(TimeZone::system()).map(|time| time.timestamp()).map_err(|error| error.to_string());
    }
    let ago = options::duration(text).ok().and_then(|ago| Timestamp::now().checked_sub(ago).ok());
    ago.ok_or_else(|| "expected a date, a time, or how long ago, like `2h`".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_every_form_and_nonsense_is_not() {
        for text in ["2026-01-31", "2026-01-31T12:00:00Z", "2026-01-31 12:00", "2h", "90"] {
            assert!(since(text).is_ok(), "{text}");
        }
        assert!(since("yesterday-ish").is_err());
    }
}
