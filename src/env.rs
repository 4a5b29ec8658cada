//! Names every environment variable that matters. No other module reads the environment.

#![expect(clippy::disallowed_methods, reason = "this is the module that reads the environment")]

use std::{ffi::OsString, path::PathBuf};

/// Secret of the hold that a command runs inside of; set for the command.
pub(crate) const TOKEN: &str = "REPOGUARD_TOKEN";
/// Fencing number of the hold; set for the command.
pub(crate) const FENCE: &str = "REPOGUARD_FENCE";
/// Path of the lock file; set for the command.
pub(crate) const LOCK_PATH: &str = "REPOGUARD_LOCK_PATH";
/// The resources that are held: `worktree`, `repo`, or `name NAME`, separated by commas; set for the command.
pub(crate) const LOCK_SCOPE: &str = "REPOGUARD_LOCK_SCOPE";
/// Path of the worktree that was made for the command; set for it.
pub(crate) const WORKTREE: &str = "REPOGUARD_WORKTREE";
/// The directory that a process believes to run in; set for a command that runs elsewhere.
pub(crate) const WORKING_DIRECTORY: &str = "PWD";
/// Whether our hooks do anything; set to `0` for git while it makes a worktree.
pub(crate) const SWITCH: &str = "REPOGUARD";
/// Variables of git and its hooks that hold for one worktree only.
pub(crate) const OF_ONE_WORKTREE: &[&str] =
    &["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_PREFIX", "GIT_IMPLICIT_WORK_TREE"];
/// Git's own: how it reads pathspecs; git fails if one of these is set beside `--literal-pathspecs`.
pub(crate) const PATHSPECS: [&str; 4] =
    ["GIT_LITERAL_PATHSPECS", "GIT_GLOB_PATHSPECS", "GIT_NOGLOB_PATHSPECS", "GIT_ICASE_PATHSPECS"];
/// Git's own: where every git below appends what it does; set for the commands of a mutation.
pub(crate) const GIT_TRACE: &str = "GIT_TRACE2_EVENT";
/// Git's own: where every git below appends which references it writes; set for the commands of a mutation.
pub(crate) const GIT_TRACE_REFS: &str = "GIT_TRACE_REFS";
/// Set for an installed hook that is only tried: it answers, and does nothing.
pub(crate) const TRIAL: &str = "REPOGUARD_TRIAL";
/// The prefix of each setting's variable, as in `REPOGUARD_TIMEOUT`. The variable wins over git's configuration.
pub(crate) const SETTING_PREFIX: &str = "REPOGUARD_";

/// Reads a variable; empty counts as not set.
pub(crate) fn get(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// Reads a variable as text; empty or not UTF-8 counts as not set.
pub(crate) fn text(name: &str) -> Option<String> {
    get(name).and_then(|value| value.into_string().ok())
}

/// The user's home directory.
pub(crate) fn home() -> Option<PathBuf> {
    get("HOME").map(PathBuf::from)
}

/// A file of git's among those of the user's configuration; see git-config(1), "FILES".
pub(crate) fn git_config_file(name: &str) -> Option<PathBuf> {
    let directory = get("XDG_CONFIG_HOME").map(PathBuf::from).or_else(|| Some(home()?.join(".config")));
    directory.map(|directory| directory.join("git").join(name))
}

/// Variables in which `git -c` and its like pass settings to every git below: all keys in one text, or one by one.
pub(crate) fn git_parameters() -> Vec<OsString> {
    let count: usize = text("GIT_CONFIG_COUNT").and_then(|count| count.trim_start().parse().ok()).unwrap_or(0);
    // Git fails if one is missing.
    let keys = (0..count).map_while(|number| get(&format!("GIT_CONFIG_KEY_{number}")));
    get("GIT_CONFIG_PARAMETERS").into_iter().chain(keys).collect()
}

/// Name of the user who runs this process, as the environment tells it.
pub(crate) fn user() -> Option<String> {
    text("USER").or_else(|| text("LOGNAME"))
}

/// The coding agent or CI system that this process was started by, recognised by the variables they document.
pub(crate) fn agent() -> Option<&'static str> {
    const KNOWN: &[(&str, &str)] = &[
        ("CLAUDECODE", "claude-code"),
        ("CODEX_SANDBOX", "codex"),
        ("CURSOR_AGENT", "cursor"),
        ("GEMINI_CLI", "gemini-cli"),
        ("OPENCODE", "opencode"),
        ("GITHUB_ACTIONS", "github-actions"),
        ("GITLAB_CI", "gitlab-ci"),
        ("BUILDKITE", "buildkite"),
        ("JENKINS_URL", "jenkins"),
        ("CI", "ci"),
    ];
    KNOWN.iter().find(|(variable, _)| get(variable).is_some()).map(|(_, name)| *name)
}

/// The running CI job's address, the default reason of a hold taken by one.
#[must_use]
pub fn ci_job() -> Option<String> {
    if get("GITHUB_ACTIONS").is_some() {
        let (server, repository, run) =
            (text("GITHUB_SERVER_URL")?, text("GITHUB_REPOSITORY")?, text("GITHUB_RUN_ID")?);
        return Some(format!("{server}/{repository}/actions/runs/{run}"));
    }
    if let Some(build) = text("BUILDKITE_BUILD_URL") {
        return Some(text("BUILDKITE_JOB_ID").map_or(build.clone(), |job| format!("{build}#{job}")));
    }
    ["CI_JOB_URL", "BUILD_URL", "CI_BUILD_URL", "CIRCLE_BUILD_URL", "DRONE_BUILD_LINK", "CI_PIPELINE_URL"]
        .into_iter()
        .find_map(text)
        .or_else(|| text("CI").filter(|ci| ci != "false" && ci != "0").map(|_| "CI job".to_owned()))
}

/// The user's shell, for a command given as one line.
#[must_use]
pub fn shell() -> OsString {
    get("SHELL").unwrap_or_else(|| "/bin/sh".into())
}

/// Tells whether this hook is only tried.
#[must_use]
pub fn is_trial() -> bool {
    get(TRIAL).is_some()
}

/// Tells whether the hooks are to be skipped this time: `REPOGUARD=0`.
#[must_use]
pub fn skipped_once() -> bool {
    get(SWITCH).is_some_and(|value| value == "0")
}

/// Tells whether the user wants no colours anywhere. See <https://no-color.org>.
#[must_use]
pub fn no_color() -> bool {
    get("NO_COLOR").is_some()
}
