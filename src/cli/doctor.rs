//! `repoguard doctor`: tells whether the guard is effective here.

use std::time::Duration;

use anyhow::Context as _;
use clap::{ArgMatches, Args, FromArgMatches};
use repoguard::{
    Config, Repo, Request,
    doctor::{Finding, Verdict, examine},
};
use serde_json::json;

use super::{
    Context,
    exit::{self, Exit, Usage},
    render::{self, Lines},
};

/// How long `--fix` waits for the lock of everything.
const WAIT: Duration = Duration::from_secs(10);

/// Check that the guard is effective here
///
/// Tries whether locks on this file system exclude, whether git reaches each hook and the hook finds repoguard, also with the
/// short PATH of a graphical client, and looks for lock files that a git which died left behind.
///
/// A good result does not mean that every program is stopped: `repoguard hooks --help` lists what hooks cannot guard.
///
/// Exit status: 0; 1 when something is wrong.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Remove lock files of git's that are proved to be left over, under the lock of everything
    #[arg(long)]
    fix: bool,
}

pub(super) fn run(context: &Context, matches: &ArgMatches) -> anyhow::Result<Exit> {
    let arguments = Arguments::from_arg_matches(matches).map_err(|error| Usage(error.to_string()))?;
    let directory = std::env::current_dir().context("cannot find the current directory")?;
    let repo = Repo::discover(&directory)?;
    let config = Config::load(&repo)?;
    let fix = Request::new().timeout(WAIT);
    let findings = examine(&repo, &config, arguments.fix.then_some(&fix))?;
    let bad = findings.iter().any(|finding| finding.verdict == Verdict::Bad);
    if context.json {
        let findings: Vec<_> = findings.iter().map(to_json).collect();
        let root = repo.root().to_string_lossy();
        render::json(&json!({"schema": 1, "root": root, "effective": !bad, "findings": findings}))?;
    } else {
        render::print(&to_text(&findings))?;
    }
    Ok(if bad { Exit::Status(exit::NO) } else { Exit::OK })
}

fn to_text(findings: &[Finding]) -> Lines {
    let mut lines = Lines::default();
    for finding in findings {
        lines.add(format_args!("{:4}  {}: {}", name(finding.verdict), finding.check, finding.found));
        if let Some(hint) = &finding.hint {
            lines.add(format_args!("      hint: {hint}"));
        }
    }
    lines
}

fn to_json(finding: &Finding) -> serde_json::Value {
    json!({"check": finding.check, "verdict": name(finding.verdict), "found": finding.found, "hint": finding.hint})
}

fn name(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Good => "ok",
        Verdict::Note => "note",
        Verdict::Bad => "bad",
    }
}
