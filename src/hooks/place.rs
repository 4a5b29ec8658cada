//! Finds git's directory of hooks, and decides whether they may be written there.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use super::{Event, managers, script};
use crate::{
    error::{Error, Result},
    fs::Sharing,
    repo::{Config, HookFacts, Repo, path_of},
};

/// The place and value of `core.hooksPath`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HooksPath {
    /// The value, as it stands there.
    pub value: String,
    /// Git's name of the level: `system`, `global`, `local`, `worktree` or `command`.
    pub scope: String,
    /// The file that it stands in, in backticks, or `command line:`.
    pub origin: String,
}

/// The hooks of a worktree, as git sees them.
#[derive(Debug)]
pub(super) struct Place {
    /// Git's directory of hooks.
    pub(super) directory: PathBuf,
    /// Its default.
    pub(super) default: PathBuf,
    pub(super) hooks_path: Option<HooksPath>,
    /// The user's own hooks, if husky generates `directory`.
    pub(super) husky: Option<PathBuf>,
    pub(super) facts: HookFacts,
    pub(super) sharing: Sharing,
    /// The directory that all worktrees share.
    pub(super) common: PathBuf,
    /// The scripts that git's configuration names.
    scripts: PathBuf,
}

impl Place {
    pub(super) fn of(repo: &Repo) -> Result<Self> {
        let needs = || Error::NoRepository { path: repo.root().to_owned(), needed_by: "a hook" };
        let (common, scripts) = repo.common_dir().zip(repo.hook_scripts()).ok_or_else(needs)?;
        // The same from every worktree.
        let scripts = scripts.strip_prefix(common).map(Path::to_owned).unwrap_or_default();
        let common = common.canonicalize().map_err(Error::io("find", common))?;
        let facts = repo.hook_facts()?;
        let hooks_path = facts.setting("core.hookspath").map(|entry| HooksPath {
            value: entry.value.clone(),
            scope: entry.scope.clone(),
            origin: entry.origin.clone(),
        });
        Ok(Self {
            husky: managers::husky(&facts.directory),
            directory: facts.directory.clone(),
            default: common.join("hooks"),
            hooks_path,
            facts,
            sharing: Config::load(repo)?.sharing(repo),
            scripts: common.join(scripts),
            common,
        })
    }

    /// Whether the directory is this repository's own: not set, or set in its own configuration.
    pub(super) fn is_own(&self) -> bool {
        self.hooks_path.as_ref().is_none_or(|path| ["local", "worktree"].contains(&path.scope.as_str()))
    }

    /// The hooks that are of use in this repository.
    pub(super) fn default_events(&self, repo: &Repo) -> Vec<Event> {
        let receives = |value: &str| value.eq_ignore_ascii_case("updateInstead");
        let bare = self.facts.bare || self.facts.is_set("core.bare");
        let worktrees = !self.facts.bare || repo.worktrees().is_ok_and(|all| all.len() > 1);
        let pushed = self.facts.setting("receive.denycurrentbranch").is_some_and(|entry| receives(&entry.value));
        let of_use = |event: &Event| match event {
            Event::PreReceive => bare || pushed,
            Event::ReferenceTransaction => false,
            _ => worktrees,
        };
        Event::ALL.into_iter().filter(of_use).collect()
    }

    /// The script that git's configuration names.
    pub(super) fn configured_script(&self, event: Event) -> PathBuf {
        self.scripts.join(event.name())
    }

    /// The command in git's configuration: the script, also after the repository was moved.
    pub(super) fn configured_command(&self, event: Event) -> OsString {
        let path = self.configured_script(event);
        let inside = path.strip_prefix(&self.common).unwrap_or(&path);
        let found = format!(
            "; [ -x \"$hook\" ] || hook=$(git rev-parse --path-format=absolute --git-common-dir)/{}; \"$hook\"",
            inside.display()
        );
        path_of(&[b"hook=", &script::quoted(path.as_os_str())[..], found.as_bytes()].concat()).into_os_string()
    }

    /// The values in the repository's own configuration that name the script of a hook.
    pub(super) fn configured(&self, event: Event) -> Vec<(String, OsString)> {
        let keys = keys(event);
        let ours = self.facts.config.iter().filter(|entry| entry.scope == "local" && keys.contains(&entry.key));
        ours.map(|entry| (entry.key.clone(), entry.value.clone().into())).collect()
    }
}

/// The keys in git's configuration that name the script of a hook: which hook, and what to run.
pub(super) fn keys(event: Event) -> [String; 2] {
    ["event", "command"].map(|key| format!("hook.repoguard-{}.{key}", event.name()))
}

/// A path as seen from a directory that may be moved together with its contents and neighbours.
pub(super) fn relative(path: &Path, base: &Path) -> PathBuf {
    if let Ok(inside) = path.strip_prefix(base) {
        return inside.to_owned();
    }
    match base.parent().map(|parent| path.strip_prefix(parent)) {
        Some(Ok(beside)) => Path::new("..").join(beside),
        _ => path.to_owned(),
    }
}
