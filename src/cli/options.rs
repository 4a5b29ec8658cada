//! What do several verbs ask for? Durations, and the resources that a lock is about.

use std::time::Duration;

use clap::{Args, ValueEnum};
use repoguard::{Config, MOST_NAMES, Request, Scope};

use super::exit::Usage;

/// How long a duration on the command line may be written.
pub(super) const DURATION: &str = "a duration like `30s`, `5m` or `1.5` (seconds)";

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
    /// The request for these resources; the configured scope is the default where no name is given.
    pub(super) fn request(&self, config: &Config) -> anyhow::Result<Request> {
        if self.names.len() > MOST_NAMES {
            return Err(Usage(format!("at most {MOST_NAMES} names can be taken together")).into());
        }
        let mut scope = self.scope.map(Scope::from);
        if scope.is_none()
            && self.names.is_empty()
            && let Some(setting) = config.setting("scope")
        {
            let name = ScopeName::from_str(&setting.value, true);
            scope = Some(name.map_err(|_| setting.bad("`worktree` or `repo`"))?.into());
        }
        Ok(Request { scope, names: self.names.clone(), ..Request::default() })
    }
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
    let seconds = text.parse::<f64>().ok().map(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.unwrap_or_else(|| humantime::parse_duration(text).ok()).ok_or_else(|| format!("expected {DURATION}"))
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
}
