//! Finds what git does not show of a worktree: directories that cannot be read, and other repositories.

use std::path::{Path, PathBuf};

use super::{is_missing, place::Root};
use crate::{error::Result, sys};

/// Parts of a worktree that git does not show.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Hidden {
    /// Directories that cannot be read.
    pub(crate) unreadable: Vec<PathBuf>,
    /// Directories below its top that have a `.git`: other repositories and worktrees.
    pub(crate) repositories: Vec<PathBuf>,
}

/// Looks for what git does not show below the top of a worktree, in ignored directories as well. Does not follow links, nor
/// change permissions.
///
/// # Errors
/// [`crate::Error::Io`] if the top cannot be opened.
pub(crate) fn hidden(top: &Path) -> Result<Hidden> {
    let root = Root::open(top, |_| false)?;
    let (mut hidden, mut open) = (Hidden::default(), vec![PathBuf::new()]);
    while let Some(path) = open.pop() {
        let is_top = path.as_os_str().is_empty();
        let place = if is_top { root.top() } else { root.at(&sys::bytes(path.as_os_str()))? };
        let listed = place.directory().and_then(|directory| Ok((directory.directory_names()?, directory)));
        let (names, directory) = match listed {
            // It was no directory, or is none any more.
            Err(error) if is_missing(&error) || sys::is_link_error(&error) => continue,
            Err(_) => {
                hidden.unreadable.push(path);
                continue;
            }
            Ok(listed) => listed,
        };
        if !is_top && directory.look(".git".as_ref()).is_ok() {
            hidden.repositories.push(path);
            continue;
        }
        open.extend(names.into_iter().filter(|name| name != ".git").map(|name| path.join(name)));
    }
    Ok(hidden)
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::unwrap_used,
        clippy::disallowed_methods,
        reason = "a test makes files, and fails where it cannot"
    )]

    use super::{super::set_mode, *};

    #[test]
    fn what_git_does_not_show_is_found_and_nothing_is_followed() {
        let top = tempfile::tempdir().unwrap();
        for directory in [".git", "a/b/.git", "a/c/deep/er", "other/inner/.git"] {
            std::fs::create_dir_all(top.path().join(directory)).unwrap();
        }
        std::fs::write(top.path().join("a/c/.git"), "gitdir: elsewhere").unwrap();
        std::fs::create_dir_all(top.path().join("outside/.git")).unwrap();
        let root = top.path().join("a");
        std::os::unix::fs::symlink("../outside", root.join("link")).unwrap();
        let found = hidden(&root).unwrap();
        let mut repositories = found.repositories;
        repositories.sort();
        assert_eq!((repositories, found.unreadable), (vec!["b".into(), "c".into()], vec![]));
        assert_eq!(hidden(&top.path().join("other")).unwrap().repositories, [Path::new("inner")]);
        set_mode(&root.join("b"), 0o300).unwrap();
        let found = hidden(&root).unwrap();
        // Root reads everything.
        assert!(sys::effective_user() == 0 || found.unreadable == [Path::new("b")]);
        set_mode(&root.join("b"), 0o700).unwrap();
    }
}
