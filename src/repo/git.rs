//! Asks git. Questions that only git can answer take as few calls as possible; those of a mutation are in `checkout`.

use std::{
    collections::BTreeSet,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::{Command, Output},
};

pub(crate) use super::command::{Manner, durable};
pub(super) use super::command::{WRITES, command, program, said};
use super::{
    GitDirs, Head, Repo, is_true, run,
    trust::{Trust, Trusted},
};
use crate::{
    env,
    error::{Error, Result},
};

/// A git with `GIT_DIR` set. Git does not check the owner then, so the caller must have proof of trust.
pub(super) fn command_at(manner: Manner, git_dir: &Path, _judged: Trusted) -> Command {
    let mut git = command(manner);
    git.env("GIT_DIR", git_dir);
    git
}

/// The filters that are configured where `ask` asks, each by its name.
///
/// # Errors
/// [`Error::Git`]: the programs that git would run are unknown then.
pub(super) fn filters(mut ask: Command) -> Result<BTreeSet<OsString>> {
    let arguments = ["config", "--null", "--name-only", "--get-regexp", r"^filter\."];
    let listed = matched(&arguments, run::output(ask.args(arguments))?)?;
    let keys = listed.split(|byte| *byte == 0).filter_map(|key| key.strip_prefix(b"filter."));
    let name = |key: &[u8]| key.iter().rposition(|byte| *byte == b'.').map(|end| path_of(&key[..end]).into_os_string());
    Ok(keys.filter_map(name).collect())
}

/// Takes all of these filters away from a git: it compares and shows files as they are.
pub(super) fn without_filters(git: &mut Command, filters: &BTreeSet<OsString>) {
    const OFF: [(&str, &str); 4] = [("clean", ""), ("smudge", ""), ("process", ""), ("required", "false")];
    // Not `-c`, which takes what follows the first `=` in a name for the value.
    let already = env::text("GIT_CONFIG_COUNT").and_then(|count| count.parse::<usize>().ok()).unwrap_or(0);
    let all = filters.iter().flat_map(|name| OFF.map(|(key, value)| (name, key, value)));
    let mut count = already;
    for (name, key, value) in all {
        let mut full = OsString::from("filter.");
        full.push(name);
        full.push(".");
        full.push(key);
        git.env(format!("GIT_CONFIG_KEY_{count}"), full).env(format!("GIT_CONFIG_VALUE_{count}"), value);
        count += 1;
    }
    if count > already {
        git.env("GIT_CONFIG_COUNT", count.to_string());
    }
}

/// Asks git for HEAD, for ref storages that are not files.
pub(super) fn head(git_dir: &Path, judged: Trusted) -> Option<Head> {
    let text = |arguments: &[&str]| {
        let output =
            run::output(command_at(Manner::Reading, git_dir, judged).current_dir(git_dir).args(arguments)).ok()?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        (output.status.success() && !text.is_empty()).then_some(text)
    };
    let branch = text(&["symbolic-ref", "--quiet", "HEAD"]);
    let commit = text(&["rev-parse", "--quiet", "--verify", "HEAD"]);
    (branch.is_some() || commit.is_some()).then_some(Head { branch, commit })
}

impl Repo {
    /// Asks git for the entries of an index: mode, id, stage and path of each.
    ///
    /// # Errors
    /// [`Error::BrokenRepository`] when git cannot read it.
    pub(crate) fn index_entries(&self, index: &Path) -> Result<Vec<u8>> {
        let mut git = command(Manner::Reading);
        git.args(["ls-files", "--stage", "-z"]).current_dir(self.root()).env("GIT_INDEX_FILE", index);
        let output = run::output(&mut git)?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        Err(Error::BrokenRepository { path: self.root().to_owned(), reason: said(&output) })
    }
}

/// Asks git for all configuration of ours: (key, value, origin), later ones win.
pub(super) fn configuration(directory: &Path) -> Result<Vec<(String, String, String)>> {
    let failed = |reason| Error::BrokenRepository { path: directory.to_owned(), reason };
    let arguments = ["config", "--null", "--show-origin", "--get-regexp", r"^(repoguard\.|core\.sharedrepository$)"];
    let output = match run::output(command(Manner::Asking).current_dir(directory).args(arguments)) {
        Err(Error::Io { .. }) => {
            return Err(failed("git is needed to read its configuration, but cannot be started".to_owned()));
        }
        output => output?,
    };
    let listed = matched(&["config", "--get-regexp"], output).map_err(|error| failed(error.to_string()))?;
    // `origin NUL key LF value NUL`; a key without a value has no LF, which means true.
    let text = String::from_utf8_lossy(&listed).into_owned();
    let mut fields = text.split('\0');
    let mut found = Vec::new();
    while let (Some(origin), Some(entry)) = (fields.next(), fields.next()) {
        let (key, value) = entry.split_once('\n').unwrap_or((entry, "true"));
        found.push((key.to_owned(), value.to_owned(), origin.to_owned()));
    }
    Ok(found)
}

/// A value of git's configuration, with the level and the place it stands at.
#[derive(Debug, Clone)]
pub(crate) struct ConfigEntry {
    /// `system`, `global`, `local`, `worktree` or `command`.
    pub(crate) scope: String,
    pub(crate) origin: String,
    /// In lower case but for the name of a subsection.
    pub(crate) key: String,
    pub(crate) value: String,
}

/// Git's answers about hooks in a worktree.
#[derive(Debug, Clone)]
pub(crate) struct HookFacts {
    /// The version that git gives itself.
    pub(crate) version: String,
    /// Its directory of hooks.
    pub(crate) directory: PathBuf,
    /// Whether the repository has no worktree here.
    pub(crate) bare: bool,
    /// Settings of hooks and of receiving; later ones win.
    pub(crate) config: Vec<ConfigEntry>,
}

impl HookFacts {
    /// The value that counts, of a key in lower case.
    pub(crate) fn setting(&self, key: &str) -> Option<&ConfigEntry> {
        self.config.iter().rev().find(|entry| entry.key == key)
    }

    /// A boolean; false when it is not set.
    pub(crate) fn is_set(&self, key: &str) -> bool {
        self.setting(key).is_some_and(|entry| is_true(&entry.value))
    }

    /// Whether this git runs hooks that are configured: since 2.54.
    pub(crate) fn runs_configured_hooks(&self) -> bool {
        let mut numbers = self.version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
        (numbers.next(), numbers.next()) >= (Some(2), Some(54))
    }
}

impl Repo {
    /// Asks git where its hooks are. Does not block.
    ///
    /// # Errors
    /// [`Error::NoRepository`] without a repository, [`Error::Git`].
    pub(crate) fn hook_facts(&self) -> Result<HookFacts> {
        const KEYS: &str = r"^(core\.(hookspath|bare)|receive\.denycurrentbranch|hook\.repoguard-.*)$";
        let version = String::from_utf8_lossy(&ask(self, Manner::Asking, &["version"])?).into_owned();
        let version =
            version.trim().trim_start_matches("git version ").split(' ').next().unwrap_or_default().to_owned();
        let arguments = ["rev-parse", "--is-bare-repository", "--path-format=absolute", "--git-path", "hooks"];
        let answer = ask(self, Manner::Asking, &arguments)?;
        let mut lines = answer.splitn(2, |byte| *byte == b'\n');
        let bare = lines.next() == Some(b"true");
        let directory = lines.next().unwrap_or_default();
        let directory = path_of(directory.strip_suffix(b"\n").unwrap_or(directory));
        let listed =
            start(self, Manner::Asking, &["config", "--null", "--show-scope", "--show-origin", "--get-regexp", KEYS])?;
        let config = entries(&matched(&["config", "--get-regexp"], listed)?);
        Ok(HookFacts { version, directory, bare, config })
    }

    /// Sets a value in the repository's own configuration, or with `None` removes the whole section of the key.
    ///
    /// # Errors
    /// [`Error::Git`].
    pub(crate) fn configure(&self, key: &str, value: Option<&OsStr>) -> Result<()> {
        let section = key.rsplit_once('.').map_or(key, |(section, _)| section);
        let arguments = match value {
            Some(value) => ["config".as_ref(), "--local".as_ref(), OsStr::new(key), value],
            None => ["config", "--local", "--remove-section", section].map(OsStr::new),
        };
        ask(self, Manner::Writing, &arguments).map(drop)
    }

    /// The submodules that are checked out, and theirs. Does not block.
    ///
    /// # Errors
    /// [`Error::Git`], [`Error::NoRepository`].
    pub fn submodules(&self) -> Result<Vec<Self>> {
        const SHOW: &str = r#"printf '%s\0' "$PWD" "$(git rev-parse --absolute-git-dir)""#;
        if self.git_dir() == Some(self.root()) {
            // A bare repository has none.
            return Ok(Vec::new());
        }
        let list = ask(self, Manner::Reading, &["submodule", "--quiet", "foreach", "--recursive", SHOW])?;
        let mut paths = list.split(|byte| *byte == 0).map(path_of);
        let mut found = Vec::new();
        while let (Some(root), Some(own)) = (paths.next(), paths.next()) {
            let trust = Trust::to_ask(&root);
            found.push(Self { root, git: Some(GitDirs { common: own.clone(), own }), trust });
        }
        Ok(found)
    }
}

/// The output of `git config --null --show-scope --show-origin`: `scope NUL origin NUL key LF value NUL`.
fn entries(list: &[u8]) -> Vec<ConfigEntry> {
    let text = String::from_utf8_lossy(list);
    let mut fields = text.split('\0').map(str::to_owned);
    let mut found = Vec::new();
    while let (Some(scope), Some(origin), Some(entry)) = (fields.next(), fields.next(), fields.next()) {
        // A key without a value means true.
        let (key, value) = entry.split_once('\n').unwrap_or((&entry, "true"));
        let origin = origin.strip_prefix("file:").map_or(origin.clone(), |file| format!("`{file}`"));
        found.push(ConfigEntry { scope, origin, key: key.to_owned(), value: value.to_owned() });
    }
    found
}

/// Runs git in a repository that is known already, whatever the environment says about another directory.
pub(super) fn start<A: AsRef<OsStr>>(repo: &Repo, manner: Manner, arguments: &[A]) -> Result<Output> {
    let needs = || Error::NoRepository { path: repo.root.clone(), needed_by: "what is asked of git" };
    let dirs = repo.git.as_ref().ok_or_else(needs)?;
    let mut git = command_at(manner, &dirs.own, repo.trusted()?);
    git.current_dir(&repo.root).args(arguments);
    for (name, directory) in [("GIT_COMMON_DIR", &dirs.common), ("GIT_WORK_TREE", &repo.root)] {
        if env::get(name).is_some() {
            git.env(name, directory);
        }
    }
    run::output(&mut git)
}

/// As [`start`]; what it printed, if it succeeded.
fn ask<A: AsRef<OsStr>>(repo: &Repo, manner: Manner, arguments: &[A]) -> Result<Vec<u8>> {
    let output = start(repo, manner, arguments)?;
    if output.status.success() { Ok(output.stdout) } else { Err(failed(arguments, &output)) }
}

pub(super) fn failed<A: AsRef<OsStr>>(arguments: &[A], output: &Output) -> Error {
    let arguments: Vec<_> = arguments.iter().map(|argument| argument.as_ref().to_string_lossy()).collect();
    Error::Git { arguments: arguments.join(" "), reason: said(output) }
}

/// The output of a search. Git's status 1 means that nothing matched.
pub(super) fn matched<A: AsRef<OsStr>>(arguments: &[A], output: Output) -> Result<Vec<u8>> {
    match output.status.code() {
        Some(0 | 1) => Ok(output.stdout),
        _ => Err(failed(arguments, &output)),
    }
}

/// A path from its bytes, as git prints it.
pub(crate) fn path_of(bytes: &[u8]) -> PathBuf {
    gix_path::from_byte_slice(bytes).map(Path::to_owned).unwrap_or_default()
}
