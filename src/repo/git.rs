//! What can only git itself decide? Asked with the fewest calls; what a mutation asks stands in `checkout`.

#![expect(clippy::disallowed_methods, reason = "this is the file that starts git")]

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use super::{GitDirs, Head, Repo, is_true};
use crate::{
    env,
    error::{Error, Result},
};

/// Runs git in `directory` without optional locks; `None` when it cannot be started.
fn run(directory: &Path, arguments: &[&str]) -> Option<Output> {
    Command::new("git").arg("--no-optional-locks").current_dir(directory).args(arguments).output().ok()
}

/// Asks git whether it would work in a repository that somebody else owns.
pub(super) fn check_trust(directory: &Path, root: &Path) -> Result<()> {
    let untrusted = || Error::Untrusted { path: root.to_owned() };
    let output = run(directory, &["rev-parse", "--git-dir"]).ok_or_else(untrusted)?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if message.contains("safe.directory") {
        return Err(untrusted());
    }
    Err(Error::BrokenRepository { path: root.to_owned(), reason: message })
}

/// Asks git for HEAD, for ref storages that are not files.
pub(super) fn head(git_dir: &Path) -> Option<Head> {
    let text = |arguments: &[&str]| {
        let output = run(git_dir, &[&["--git-dir", "."], arguments].concat())?;
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
        let mut command = Command::new("git");
        command.args(["--no-optional-locks", "ls-files", "--stage", "-z"]).current_dir(self.root());
        let output = command.env("GIT_INDEX_FILE", index).output().map_err(Error::io("run git in", self.root()))?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(Error::BrokenRepository { path: self.root().to_owned(), reason })
    }
}

/// Asks git for all configuration of ours: (key, value, origin), later ones win.
pub(super) fn configuration(directory: &Path) -> Result<Vec<(String, String, String)>> {
    let failed = |reason| Error::BrokenRepository { path: directory.to_owned(), reason };
    let arguments = ["config", "--null", "--show-origin", "--get-regexp", r"^(repoguard\.|core\.sharedrepository$)"];
    let output = run(directory, &arguments)
        .ok_or_else(|| failed("git is needed to read its configuration, but cannot be started".to_owned()))?;
    // Status 1 is git's way to say that nothing matched.
    if !output.status.success() && output.status.code() != Some(1) {
        return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    // `origin NUL key LF value NUL`, and no LF where a key has no value, which means true.
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
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

/// What git says about hooks in a worktree.
#[derive(Debug, Clone)]
pub(crate) struct HookFacts {
    /// The version that git gives itself.
    pub(crate) version: String,
    /// Where it looks for hooks.
    pub(crate) directory: PathBuf,
    /// Whether there is no worktree here.
    pub(crate) bare: bool,
    /// What is configured about hooks and about receiving; later ones win.
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
    /// [`Error::NoRepository`] where there is none, [`Error::Git`].
    pub(crate) fn hook_facts(&self) -> Result<HookFacts> {
        const KEYS: &str = r"^(core\.(hookspath|bare)|receive\.denycurrentbranch|hook\.repoguard-.*)$";
        let version = String::from_utf8_lossy(&ask(self, &["version"])?).into_owned();
        let version =
            version.trim().trim_start_matches("git version ").split(' ').next().unwrap_or_default().to_owned();
        let arguments = ["rev-parse", "--is-bare-repository", "--path-format=absolute", "--git-path", "hooks"];
        let answer = ask(self, &arguments)?;
        let mut lines = answer.splitn(2, |byte| *byte == b'\n');
        let bare = lines.next() == Some(b"true");
        let directory = lines.next().unwrap_or_default();
        let directory = path_of(directory.strip_suffix(b"\n").unwrap_or(directory));
        let listed = start(self, &["config", "--null", "--show-scope", "--show-origin", "--get-regexp", KEYS])?;
        // Status 1 is git's way to say that nothing matched.
        if !listed.status.success() && listed.status.code() != Some(1) {
            return Err(failed(&["config", "--get-regexp"], &listed));
        }
        Ok(HookFacts { version, directory, bare, config: entries(&listed.stdout) })
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
        ask(self, &arguments).map(drop)
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
        let list = ask(self, &["submodule", "--quiet", "foreach", "--recursive", SHOW])?;
        let mut paths = list.split(|byte| *byte == 0).map(path_of);
        let mut found = Vec::new();
        while let (Some(root), Some(own)) = (paths.next(), paths.next()) {
            found.push(Self { root, git: Some(GitDirs { common: own.clone(), own }) });
        }
        Ok(found)
    }
}

/// What `git config --null --show-scope --show-origin` lists: `scope NUL origin NUL key LF value NUL`.
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
fn start<A: AsRef<OsStr>>(repo: &Repo, arguments: &[A]) -> Result<Output> {
    let needs = || Error::NoRepository { path: repo.root.clone(), needed_by: "a hook" };
    let dirs = repo.git.as_ref().ok_or_else(needs)?;
    let mut git = Command::new("git");
    git.arg("--no-optional-locks").current_dir(&repo.root).args(arguments).env("GIT_DIR", &dirs.own);
    for (name, directory) in [("GIT_COMMON_DIR", &dirs.common), ("GIT_WORK_TREE", &repo.root)] {
        if env::get(name).is_some() {
            git.env(name, directory);
        }
    }
    git.output().map_err(Error::io("start", "git"))
}

/// As [`start`]; what it printed, if it succeeded.
fn ask<A: AsRef<OsStr>>(repo: &Repo, arguments: &[A]) -> Result<Vec<u8>> {
    let output = start(repo, arguments)?;
    if output.status.success() { Ok(output.stdout) } else { Err(failed(arguments, &output)) }
}

pub(super) fn failed<A: AsRef<OsStr>>(arguments: &[A], output: &Output) -> Error {
    let arguments: Vec<_> = arguments.iter().map(|argument| argument.as_ref().to_string_lossy()).collect();
    let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Error::Git { arguments: arguments.join(" "), reason }
}

/// A path from its bytes, as git prints it.
pub(crate) fn path_of(bytes: &[u8]) -> PathBuf {
    gix::path::from_byte_slice(bytes).map(Path::to_owned).unwrap_or_default()
}
