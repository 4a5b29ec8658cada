//! Examines whether the guard is effective here, by trying it if possible.
//!
//! | file | what |
//! | --- | --- |
//! | `locks` | whether locks on this file system exclude, tried in a child that can be killed |
//! | `place` | for whom they count there, by the type of the file system |
//! | `leftovers` | lock files that a git or a mutation which died left behind, and what proves it |

mod leftovers;
mod locks;
mod place;

use std::time::Duration;

use crate::{
    error::{Error, Result},
    escape::quoted_path,
    exec, guard, holder,
    hooks::{self, Seen, State},
    lock::Request,
    repo::{Config, Repo},
};

/// The result of a check.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Finding {
    /// The check: `locks`, `place`, `git`, `hooks`, `mutations`, `leftovers`, `schemes`.
    pub check: &'static str,
    /// How it is.
    pub verdict: Verdict,
    /// The finding, in words.
    pub found: String,
    /// The way out.
    pub hint: Option<String>,
}

/// How it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// As it should be.
    Good,
    /// Worth knowing.
    Note,
    /// The guard is not effective, or something is in everybody's way.
    Bad,
}

impl Finding {
    fn new(check: &'static str, verdict: Verdict, found: impl Into<String>) -> Self {
        Self { check, verdict, found: found.into(), hint: None }
    }

    fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

/// How long an installed hook may take to answer: it does nothing else.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Looks whether the guard is effective in this repository. With `fix`, removes lock files of a git that is proved to have
/// died; waits at most as long as `request` says for the lock that this needs.
///
/// Blocks for some seconds where locks or hooks hang. Must be called while this process has only one thread, because it
/// forks.
///
/// # Errors
/// [`Error::Busy`] when the lock for a fix is not acquired; what cannot be looked at is a finding.
pub fn examine(repo: &Repo, config: &Config, fix: Option<&Request>) -> Result<Vec<Finding>> {
    let mut findings = vec![locks::try_them(repo, config)];
    findings.extend(place::look(repo));
    if repo.git_dir().is_some() {
        hooks(repo, &mut findings);
        findings.extend(mutations(repo));
        findings.extend(leftovers::look(repo, config, fix)?);
        findings.extend(leftovers::other_schemes(repo));
    } else {
        let (root, lock) = (repo.root().display(), repo.lock_path());
        let found = format!(
            "`{root}` is not inside a Git repository: there are no hooks, no queue and no log; the lock is `{}`",
            lock.display()
        );
        findings.push(Finding::new("git", Verdict::Note, found));
    }
    Ok(findings)
}

fn hooks(repo: &Repo, findings: &mut Vec<Finding>) {
    let survey = match hooks::survey(repo) {
        Ok(survey) => survey,
        Err(error) => return findings.push(failed("hooks", &error)),
    };
    findings.push(Finding::new("git", Verdict::Good, format!("git {}", survey.git)));
    if survey.hooks.iter().all(|seen| seen.state == State::NotInstalled) {
        let found = "none is installed: who does not call repoguard is not stopped";
        return findings.push(Finding::new("hooks", Verdict::Note, found).hint("`repoguard hooks install`"));
    }
    findings.extend(survey.hooks.iter().map(|seen| hook(repo, seen)));
}

/// One hook: as surveyed, and, if it is our own script, run.
fn hook(repo: &Repo, seen: &Seen) -> Finding {
    let name = seen.event.name();
    if seen.state != State::Active {
        let note = seen.note.as_ref().map_or_else(String::new, |note| format!(" ({note})"));
        let by = seen.by.map_or_else(String::new, |by| format!(" by {by}"));
        let finding = Finding::new("hooks", Verdict::Bad, format!("{name}: {}{by}{note}", seen.state.name()));
        return Finding { hint: seen.hint.clone(), ..finding };
    }
    let via = seen.via.unwrap_or("script");
    if via != "script" && via != "config" {
        return Finding::new("hooks", Verdict::Good, format!("{name}: reached through {via}, not tried"));
    }
    if !seen.may_be_tried() {
        let found = format!("{name}: not tried: `{}` is not what this repoguard installs", seen.path.display());
        return Finding::new("hooks", Verdict::Note, found).hint("`repoguard hooks install` puts its own there");
    }
    match exec::answers(&seen.path, repo.root(), hooks::ANSWER, ANSWER_WITHIN) {
        Ok(true) => Finding::new("hooks", Verdict::Good, format!("{name}: tried, and it answers")),
        Ok(false) => Finding::new("hooks", Verdict::Bad, format!("{name}: `{}` does not answer", seen.path.display()))
            .hint("`repoguard hooks install` puts it in order"),
        Err(error) => failed("hooks", &Error::io("run", &seen.path)(error)),
    }
}

/// Mutations that are not at their end: who comes next may have to stop because of one that was killed.
fn mutations(repo: &Repo) -> Vec<Finding> {
    let finding = |mutation: &guard::Pending| {
        let what = mutation.info.as_ref().map_or_else(
            || "whose journal cannot be read".to_owned(),
            |info| holder::readable_command(&[format!("of pid {}, `{}`", info.pid, info.command)]),
        );
        if mutation.runs {
            return Finding::new("mutations", Verdict::Good, format!("one runs: {what}"));
        }
        let (place, directory) = if mutation.here {
            (String::new(), String::new())
        } else {
            let root = quoted_path(&mutation.root);
            (format!(" in {root}"), format!("-C {root} "))
        };
        Finding::new("mutations", Verdict::Bad, format!("one{place} was killed before its end: {what}"))
            .hint(format!("`repoguard {directory}recover` puts it in order; with --status it only shows how it stands"))
    };
    let findings: Vec<Finding> = guard::pending(repo).iter().map(finding).collect();
    if findings.is_empty() { vec![Finding::new("mutations", Verdict::Good, "none is unfinished")] } else { findings }
}

fn failed(check: &'static str, error: &Error) -> Finding {
    let mut found = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        found = format!("{found}: {error}");
        cause = error.source();
    }
    Finding { hint: error.hint(), ..Finding::new(check, Verdict::Bad, found) }
}
