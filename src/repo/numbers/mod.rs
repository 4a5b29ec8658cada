//! Finds the numbers in names of files, here and wherever else in the repository. Nothing is checked out for it.
//!
//! | where | how |
//! | --- | --- |
//! | files on disk of all worktrees, ignored ones included | only directories that a pattern can match are listed |
//! | indexes of all worktrees | one `git ls-files` each, of the names that a pattern begins with |
//! | what references and HEADs lead to | one `git for-each-ref`, one `git cat-file`, each tree once (`trees`) |
//!
//! # Limitations
//! Other clones, commits that were never fetched, and commits without a reference are not seen. Changes during the search may be
//! seen or not.

mod pattern;
mod trees;

use std::{
    io,
    path::{Path, PathBuf},
    process::Command,
};

use self::pattern::Reached;
use super::{
    Head, Repo,
    git::{self, Manner},
    is_git_name,
    layout::Worktree,
    path_of, run,
    trust::Trusted,
};
use crate::{
    env,
    error::{Error, Result, listed},
    sys,
};

pub use pattern::ScanPattern;

/// The greatest number that stands in the name of a file or directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Seen {
    /// The number.
    pub number: u64,
    /// The file or directory, seen from the top of the worktree.
    pub path: PathBuf,
    /// The place where it was found: a worktree, an index, or a reference, in words.
    pub place: String,
}

/// Keeps the greater of two.
fn note(greatest: &mut Option<Seen>, number: u64, see: impl FnOnce() -> (PathBuf, String)) {
    if greatest.as_ref().is_none_or(|seen| seen.number < number) {
        let (path, place) = see();
        *greatest = Some(Seen { number, path, place });
    }
}

impl Repo {
    /// The greatest number that matches any of the patterns, anywhere in this repository.
    ///
    /// # Errors
    /// [`Error::Io`] if a directory cannot be listed, [`Error::Git`] if git cannot read something, [`Error::MissingTree`] in a
    /// clone that lacks a tree.
    pub(crate) fn greatest_number(&self, patterns: &[ScanPattern]) -> Result<Option<Seen>> {
        let mut greatest = None;
        if patterns.is_empty() {
            return Ok(greatest);
        }
        let worktrees = self.worktrees()?;
        for worktree in &worktrees {
            let root = self.files_of(worktree)?;
            for pattern in patterns {
                if let Some(root) = &root {
                    on_disk(pattern, root, Path::new(""), &pattern.start(), &mut |number, path| {
                        note(&mut greatest, number, || {
                            (path.to_owned(), format!("the files of {}", listed(std::slice::from_ref(root))))
                        });
                    })?;
                }
                self.in_index(worktree, pattern, &mut greatest)?;
            }
        }
        let heads: Vec<Head> = worktrees.iter().filter_map(|worktree| self.head(worktree)).collect();
        trees::look(self, patterns, &heads, &mut greatest)?;
        Ok(greatest)
    }

    /// The files of a worktree, if it has any.
    fn files_of(&self, worktree: &Worktree) -> Result<Option<PathBuf>> {
        let own = (self.is_own(worktree) && self.git_dir() != Some(self.root())).then(|| self.root().to_owned());
        if !worktree.is_main() {
            return Ok(Some(own.unwrap_or_else(|| self.seen_from(&worktree.git_dir).root().to_owned())));
        }
        if own.is_some() && env::get("GIT_WORK_TREE").is_some() {
            return Ok(own);
        }
        // Only git knows whether the main worktree has files, and where.
        let keys = ["config", "--null", "--get-regexp", r"^core\.(bare|worktree)$"];
        let output = run::output(git_in(worktree, &worktree.git_dir, self.trusted()?).args(keys))?;
        let git_dir = worktree.git_dir.canonicalize().map_err(Error::io("find", &worktree.git_dir))?;
        let mut files = own.or_else(|| git_dir.parent().filter(|_| git_dir.ends_with(".git")).map(Path::to_owned));
        for entry in output.stdout.split(|byte| *byte == 0) {
            let mut words = entry.splitn(2, |byte| *byte == b'\n');
            match (words.next(), words.next().unwrap_or(b"true")) {
                (Some(b"core.worktree"), path) => return Ok(Some(git_dir.join(path_of(path)))),
                (Some(b"core.bare"), value) if super::is_true(&String::from_utf8_lossy(value)) => files = None,
                _ => {}
            }
        }
        Ok(files)
    }

    fn is_own(&self, worktree: &Worktree) -> bool {
        self.worktree().is_some_and(|own| own.key == worktree.key)
    }

    fn in_index(&self, worktree: &Worktree, pattern: &ScanPattern, greatest: &mut Option<Seen>) -> Result<()> {
        let is_own = self.is_own(worktree);
        // A caller may have an index of its own, with a path seen from the top.
        let mut git = git_in(worktree, if is_own { self.root() } else { &worktree.git_dir }, self.trusted()?);
        if !is_own {
            git.env_remove("GIT_INDEX_FILE");
        }
        let prefix = pattern.prefix();
        let mut arguments = vec!["ls-files".into(), "--cached".into(), "-z".into(), "--".into()];
        if !prefix.is_empty() {
            arguments.push(path_of(&prefix).into_os_string());
        }
        let output = run::output(git.args(&arguments))?;
        if !output.status.success() {
            return Err(git::failed(&arguments, &output));
        }
        for path in output.stdout.split(|byte| *byte == 0) {
            if let Some(number) = pattern.number_in(path) {
                let place =
                    || (path_of(path), format!("the index of {}", listed(std::slice::from_ref(&worktree.git_dir))));
                note(greatest, number, place);
            }
        }
        Ok(())
    }
}

/// Git, to look into a worktree whatever the environment says about another one.
fn git_in(worktree: &Worktree, directory: &Path, judged: Trusted) -> Command {
    // Objects that a partial clone lacks are reported, not fetched.
    let mut git = git::command_at(Manner::Reading, &worktree.git_dir, judged);
    // Paths are relative to this directory, whatever is configured. Git reads no file of the worktree.
    git.current_dir(directory).env("GIT_WORK_TREE", directory).env("LC_ALL", "C");
    git
}

/// Searches a directory and, as the pattern says, those below it.
fn on_disk(
    pattern: &ScanPattern,
    root: &Path,
    below: &Path,
    reached: &Reached,
    found: &mut dyn FnMut(u64, &Path),
) -> Result<()> {
    let directory = root.join(below);
    let mut visit = |name: &std::ffi::OsStr, is_directory: &dyn Fn() -> bool| {
        let reached = pattern.step(reached, &sys::bytes(name));
        let path = below.join(name);
        if let Some(number) = pattern.number(&reached) {
            found(number, &path);
        }
        let goes_on = pattern.goes_on(&reached) && !is_git_name(name) && is_directory();
        if goes_on { on_disk(pattern, root, &path, &reached, found) } else { Ok(()) }
    };
    if let Some(names) = pattern.only_names(reached) {
        for name in names {
            let name = path_of(name).into_os_string();
            let path = directory.join(&name);
            match std::fs::symlink_metadata(&path) {
                Ok(_) => visit(&name, &|| path.is_dir())?,
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(Error::io("look at", path)(error)),
            }
        }
        return Ok(());
    }
    let entries = match std::fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if is_gone(&error) => return Ok(()),
        Err(error) => return Err(Error::io("list", directory)(error)),
    };
    // A link to a directory is one, but not where any depth is asked for: it may lead back.
    let follow = !pattern.is_deep(reached);
    for entry in entries {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) if is_gone(&error) => return Ok(()),
            Err(error) => return Err(Error::io("list", directory)(error)),
        };
        visit(&entry.file_name(), &|| match entry.file_type() {
            Ok(kind) if kind.is_symlink() => follow && entry.path().is_dir(),
            kind => kind.is_ok_and(|kind| kind.is_dir()),
        })?;
    }
    Ok(())
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
