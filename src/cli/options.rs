//! Parses what several verbs have in common: durations, and the resources that a lock is about.

use std::{ffi::OsString, os::unix::ffi::OsStringExt as _, path::PathBuf, time::Duration};

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use repoguard::{
    Config, ExpectedHead, Mode, Repo, Request, Scope,
    program::{DURATION, MOST_NAMES, read_duration},
    run::Task,
};

use super::{Context, exit::Usage};

/// Which lock is meant.
#[derive(Debug, Default, PartialEq, Args)]
pub(super) struct Resources {
    /// How much: this checkout (the default), or everything, all worktrees and what they share
    #[arg(long, value_name = "SCOPE")]
    scope: Option<ScopeName>,
    /// A resource of this repository by name, instead of the checkout (or beside it, with --scope); several are taken
    /// all or nothing
    #[arg(long = "name", value_name = "TEXT", value_parser = name)]
    names: Vec<String>,
}

/// Which lock is meant, how it is to be held, and how long to wait for it.
#[derive(Debug, Default, PartialEq, Args)]
pub(super) struct Lock {
    /// Wait at most this long: `30s`, `5m`, `1.5`; `0` tries once [default: repoguard.timeout, else without limit]
    #[arg(short = 'w', long, value_name = "DUR", value_parser = duration, allow_negative_numbers = true)]
    pub(super) timeout: Option<Duration>,
    /// Do not wait
    #[arg(short, long, conflicts_with = "timeout")]
    pub(super) no_wait: bool,
    /// Hold it together with other shared holders
    #[arg(short, long, conflicts_with = "exclusive")]
    pub(super) shared: bool,
    /// Hold it alone (the default)
    #[arg(short = 'x', long)]
    pub(super) exclusive: bool,
    #[command(flatten)]
    pub(super) resources: Resources,
    /// Why, told to those who wait [default: the CI job's address]
    #[arg(long, value_name = "TEXT")]
    pub(super) reason: Option<String>,
    /// Exit with this status when busy
    #[arg(short = 'E', long, value_name = "N", default_value_t = super::exit::BUSY)]
    pub(super) busy_exit_code: u8,
}

/// How a program that uses the library calls this one.
#[derive(Debug, Default, PartialEq, Args)]
pub(super) struct ForLibrary {
    /// Find the repository from here, not from the current directory
    #[arg(long, value_name = "DIR", hide = true)]
    repository: Option<PathBuf>,
    /// Its git directory: another repository is an error
    #[arg(long, value_name = "DIR", hide = true)]
    git_dir: Option<PathBuf>,
    /// JSON that others find in the record of the hold
    #[arg(long, value_name = "JSON", value_parser = json, hide = true)]
    metadata: Option<serde_json::Value>,
    /// The directory of CMD
    #[arg(long = "command-directory", value_name = "DIR", hide = true)]
    command_directory: Option<PathBuf>,
    /// Variables for CMD, each ended by a NUL: `NAME=VALUE`, or `NAME` to remove one
    #[arg(long, value_name = "FILE", hide = true)]
    environment: Option<PathBuf>,
    /// Print nothing, since the result file tells everything, and end CMD with all its descendants at SIGTERM
    #[arg(long, hide = true)]
    pub(super) silent: bool,
}

impl ForLibrary {
    /// The repository that is meant.
    pub(super) fn repo(&self) -> anyhow::Result<Repo> {
        let here = || std::env::current_dir().context("cannot find the current directory");
        let repo = Repo::discover(&self.repository.clone().map_or_else(here, Ok)?)?;
        match &self.git_dir {
            Some(expected) if repo.git_dir() != Some(expected) => {
                bail!("the git directory of `{}` is not `{}`", repo.root().display(), expected.display())
            }
            _ => Ok(repo),
        }
    }

    /// A request with the caller's metadata.
    pub(super) fn complete(&self, mut request: Request) -> Request {
        request.metadata.clone_from(&self.metadata);
        request
    }

    /// Completes a task as the caller wants it.
    pub(super) fn prepare(&self, mut task: Task) -> anyhow::Result<Task> {
        task.directory.clone_from(&self.command_directory);
        task.term_ends_all = self.silent;
        if let Some(file) = &self.environment {
            let bytes = std::fs::read(file).with_context(|| format!("cannot read `{}`", file.display()))?;
            let entries = bytes.split(|&byte| byte == 0).filter(|entry| !entry.is_empty());
            task.environment = entries.map(variable).collect();
        }
        Ok(task)
    }

    /// The context for messages.
    pub(super) fn heeded(&self, context: &Context) -> Context {
        if self.silent { Context { ui: context.ui.silent(), json: context.json } } else { context.clone() }
    }
}

/// The HEAD that the caller expects.
#[derive(Debug, Default, PartialEq, Args)]
pub(super) struct Expect {
    /// Fail (65) unless HEAD is this commit; `refs/heads/NAME` expects the branch as well. A commit alone fails just after the last
    /// holder switched to another branch at that commit
    #[arg(long, value_name = "REV")]
    expect_head: Option<OsString>,
    /// Refuse (65) unless HEAD points to this branch; `HEAD` expects it to be detached
    #[arg(long, value_name = "NAME")]
    expect_branch: Option<OsString>,
}

impl Expect {
    pub(super) fn head(&self) -> ExpectedHead {
        let mut head = ExpectedHead::default();
        head.revision.clone_from(&self.expect_head);
        head.branch.clone_from(&self.expect_branch);
        head
    }
}

/// How long to wait for the exclusive lock of the worktree, for verbs that need that one.
#[derive(Debug, Args)]
pub(super) struct Patience {
    /// Wait at most this long for the lock: `30s`, `5m`, `1.5`; `0` tries once [default: repoguard.timeout, else without
    /// limit]
    #[arg(short = 'w', long, value_name = "DUR", value_parser = duration, allow_negative_numbers = true)]
    timeout: Option<Duration>,
    /// Do not wait
    #[arg(short, long, conflicts_with = "timeout")]
    no_wait: bool,
    /// Why, told to those who wait [default: the CI job's address]
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Exit with this status when busy
    #[arg(short = 'E', long, value_name = "N", default_value_t = super::exit::BUSY)]
    pub(super) busy_exit_code: u8,
}

impl Patience {
    /// The request that these options make.
    pub(super) fn request(&self) -> Request {
        let timeout = self.timeout.or(self.no_wait.then_some(Duration::ZERO));
        let reason = self.reason.clone().or_else(repoguard::program::ci_job);
        let mut request = Request::new();
        (request.timeout, request.reason) = (timeout, reason);
        request
    }
}

impl Lock {
    /// The request that these options make; what they leave open is as configured.
    pub(super) fn request(&self, config: &Config) -> anyhow::Result<Request> {
        let mut request = self.resources.request()?;
        request.mode = if self.shared { Mode::Shared } else { Mode::Exclusive };
        request.timeout = self.own_timeout();
        request.reason = self.reason.clone().or_else(repoguard::program::ci_job);
        let request = request.or_configured(config)?;
        if self.shared && request.scope == Some(Scope::Repo) {
            return Err(
                Usage("the whole repository cannot be held shared: --shared with --scope repo".to_owned()).into()
            );
        }
        Ok(request)
    }

    /// How long to wait, if the command line says so.
    pub(super) fn own_timeout(&self) -> Option<Duration> {
        self.timeout.or(self.no_wait.then_some(Duration::ZERO))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
enum ScopeName {
    Worktree,
    Repo,
}

impl From<ScopeName> for Scope {
    fn from(name: ScopeName) -> Self {
        match name {
            ScopeName::Worktree => Self::Worktree,
            ScopeName::Repo => Self::Repo,
        }
    }
}

impl Resources {
    /// The request for these resources.
    pub(super) fn request(&self) -> anyhow::Result<Request> {
        if self.names.len() > MOST_NAMES {
            return Err(Usage(format!("at most {MOST_NAMES} names can be taken together")).into());
        }
        let mut request = Request::new();
        request.scope = self.scope.map(Scope::from);
        request.names.clone_from(&self.names);
        Ok(request)
    }
}

/// `NAME=VALUE`, or `NAME` to remove one.
fn variable(entry: &[u8]) -> (OsString, Option<OsString>) {
    let text = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
    match entry.iter().position(|&byte| byte == b'=') {
        Some(end) => (text(&entry[..end]), Some(text(&entry[end + 1..]))),
        None => (text(entry), None),
    }
}

fn json(text: &str) -> Result<serde_json::Value, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

fn name(text: &str) -> Result<String, String> {
    match text.len() {
        0 => Err("a name cannot be empty".to_owned()),
        1..=1000 => Ok(text.to_owned()),
        _ => Err("a name has at most 1000 bytes".to_owned()),
    }
}

/// Reads a duration: `30s`, `5m`, `1h 30m`, `250ms`, or seconds with a fraction.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    read_duration(text).ok_or_else(|| format!("expected {DURATION}"))
}

/// Reads a duration in which something can happen: a hold that ends at once would be none.
pub(super) fn lifetime(text: &str) -> Result<Duration, String> {
    const SHORTEST: Duration = Duration::from_millis(1);
    let read = duration(text)?;
    if read < SHORTEST { Err(format!("expected {DURATION}, at least 1 ms")) } else { Ok(read) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_nonsense_is_not() {
        assert_eq!(duration("1.5"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        for nonsense in ["", "-1", "nan", "inf", "1e400", "soon", "5 parsecs"] {
            assert!(duration(nonsense).is_err(), "{nonsense}");
        }
    }

    #[test]
    fn lifetime_below_a_millisecond_is_an_error() {
        assert_eq!(lifetime("0.001"), Ok(Duration::from_millis(1)));
        for nothing in ["0", "-0", "0.0", "0s", "1e-9", "999us", "-1", "nan"] {
            assert!(lifetime(nothing).is_err(), "{nothing}");
        }
    }
}
