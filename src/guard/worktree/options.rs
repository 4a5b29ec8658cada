//! Chooses a worktree's directory and branch: beside the main worktree, never in a checkout. There it would be untracked content,
//! and build tools would take the files above it for their own.

use std::{
    ffi::OsString,
    path::{Component, Path, PathBuf},
    time::SystemTime,
};

use crate::{
    env,
    error::{Error, Result},
    repo::{Config, Repo, is_branch_name},
};

/// The ending of the directory that holds all worktrees.
pub(super) const ENDING: &str = "worktrees";
/// Longest name of a directory that is made of a branch's name, in characters.
const LONGEST: usize = 100;
/// The prefix of branches whose name is our choice.
const OURS: &str = "repoguard/";

/// The directory and the branch of an isolated worktree.
///
/// # Example
/// ```
/// let options = repoguard::worktree::Options::default().branch("agent/fix");
/// assert!(options.directory.is_none(), "beside the main worktree");
/// ```
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Options {
    /// The directory that it is made in; `None` means what is configured, else `<main worktree>.worktrees`.
    pub directory: Option<PathBuf>,
    /// The name of its branch; a number is added if the branch exists. `None` means the time.
    pub branch: Option<String>,
}

impl Options {
    /// Sets [`Options::directory`].
    #[must_use]
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// Sets [`Options::branch`].
    #[must_use]
    pub fn branch(mut self, branch: impl Into<String>) -> Self {
        self.branch = Some(branch.into());
        self
    }

    /// Tells whether a worktree could be made here. Does not block.
    ///
    /// # Errors
    /// [`Error::NoRepository`], [`Error::NoWorktree`] for a bare repository, [`Error::NoCommit`] if HEAD has no commit yet,
    /// [`Error::BranchName`].
    pub fn check(&self, repo: &Repo) -> Result<()> {
        let (path, needed_by) = (repo.root().to_owned(), NEEDED_BY);
        let worktree = repo.worktree().ok_or_else(|| Error::NoRepository { path: path.clone(), needed_by })?;
        if repo.git_dir() == Some(repo.root()) {
            return Err(Error::NoWorktree { path, needed_by });
        }
        if repo.head(&worktree).and_then(|head| head.commit).is_none() {
            return Err(Error::NoCommit { path, needed_by });
        }
        match &self.branch {
            Some(name) if !is_branch_name(name) => Err(Error::BranchName { name: name.clone() }),
            _ => Ok(()),
        }
    }

    /// The directory that worktrees are made in. `root` is the top of the worktree that is busy.
    pub(super) fn parent(&self, repo: &Repo, root: &Path, config: &Config) -> Result<PathBuf> {
        let main = main_worktree(repo, root);
        if let Some(directory) = &self.directory {
            return std::path::absolute(directory).map_err(Error::io("find", directory));
        }
        if let Some(setting) = config.setting("worktreeDir") {
            let home =
                setting.value.strip_prefix("~/").and_then(|rest| Some(PathBuf::from(env::get("HOME")?).join(rest)));
            return Ok(main.join(home.unwrap_or_else(|| setting.value.into())));
        }
        let mut name = main.file_name().map(OsString::from).unwrap_or_default();
        name.push(".");
        name.push(ENDING);
        Ok(if main.file_name().is_some() { main.with_file_name(name) } else { main.join(name) })
    }

    /// The name of the branch, and that of the directory, at the `number`th try.
    pub(super) fn names(&self, now: SystemTime, number: usize) -> (String, String) {
        let time = || jiff::Timestamp::try_from(now).unwrap_or_default().strftime("%Y%m%dT%H%M%SZ").to_string();
        let mut branch = self.branch.clone().unwrap_or_else(|| format!("{OURS}{}", time()));
        if number > 1 {
            branch = format!("{branch}-{number}");
        }
        let directory = branch.strip_prefix(OURS).unwrap_or(&branch);
        let plain = |c: char| if c.is_alphanumeric() || "._-".contains(c) { c } else { '-' };
        let all: Vec<char> = directory.chars().map(plain).collect();
        // The number is at the end, and tells it from others.
        let directory: String = all[all.len().saturating_sub(LONGEST)..].iter().collect();
        let directory = directory.trim_start_matches(['.', '-']).to_owned();
        let directory = if directory.is_empty() { format!("worktree-{number}") } else { directory };
        (branch, directory)
    }
}

pub(super) const NEEDED_BY: &str = "`--on-busy worktree`";

/// The top of the main worktree; of a bare repository, the repository; of a submodule, that of the outermost project.
fn main_worktree(repo: &Repo, root: &Path) -> PathBuf {
    let own = repo.git_dir().unwrap_or(root);
    let common = repo.common_dir().unwrap_or(own);
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let common = real(common);
    if let Some(project) = project_of_submodule(&common) {
        return project;
    }
    if real(own) == common {
        return real(root);
    }
    if common.file_name().is_some_and(|name| name == ".git") {
        common.parent().unwrap_or(&common).to_owned()
    } else {
        common
    }
}

/// The project around a submodule, whose git directory is in `.git/modules` or `.git/worktrees/<id>/modules` there.
fn project_of_submodule(common: &Path) -> Option<PathBuf> {
    let parts: Vec<Component<'_>> = common.components().collect();
    let git = parts.iter().position(|part| part.as_os_str() == ".git")?;
    let below = &parts[git + 1..];
    let is = |at: usize, name: &str| below.get(at).is_some_and(|part| part.as_os_str() == name);
    (is(0, "modules") || (is(0, "worktrees") && is(2, "modules"))).then(|| parts[..git].iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_can_be_told_apart_and_used_as_a_file_name() {
        let names = |branch: &str, number| {
            let place = Options { branch: Some(branch.to_owned()), directory: None };
            place.names(SystemTime::UNIX_EPOCH, number)
        };
        assert_eq!(names("fix/a b", 1).1, "fix-a-b");
        assert_eq!(names("fix", 3), ("fix-3".to_owned(), "fix-3".to_owned()));
        assert_eq!(names("-.", 1).1, "worktree-1");
        assert_eq!(names(&"ü".repeat(300), 12).1.chars().count(), LONGEST);
        assert!(names(&"x".repeat(300), 12).1.ends_with("-12"));
        let (branch, directory) = Options::default().names(SystemTime::UNIX_EPOCH, 1);
        assert_eq!((branch.as_str(), directory.as_str()), ("repoguard/19700101T000000Z", "19700101T000000Z"));
    }

    #[test]
    fn submodules_are_known_by_where_their_git_directory_is() {
        let project = |path: &str| project_of_submodule(Path::new(path));
        assert_eq!(project("/a/b/.git/modules/c/modules/d"), Some(PathBuf::from("/a/b")));
        assert_eq!(project("/a/b/.git/worktrees/x/modules/c"), Some(PathBuf::from("/a/b")));
        assert_eq!(project("/a/modules/.git"), None);
        assert_eq!(project("/a/.git/worktrees/modules"), None);
    }
}
