//! Finds what git does not show of a worktree: directories that cannot be read or emptied, other repositories, and the identities of
//! all files.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use super::{identity, is_missing, place::Root};
use crate::{
    error::Result,
    sys::{self, FileId},
};

/// Parts of a worktree that git does not show.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Hidden {
    /// Directories that cannot be read.
    pub(crate) unreadable: Vec<PathBuf>,
    /// Directories with entries that this process may not remove.
    pub(crate) unremovable: Vec<PathBuf>,
    /// Directories below its top that have a `.git`, and bare repositories.
    pub(crate) repositories: Vec<PathBuf>,
    /// All that is in it, and the top, but nothing of other repositories.
    pub(crate) identities: HashSet<FileId>,
}

/// The entries of a bare repository.
const BARE: [&str; 3] = ["HEAD", "objects", "refs"];

/// Looks for what git does not show below the top of a worktree, in ignored directories as well. Does not follow links, nor
/// change permissions.
///
/// # Errors
/// [`crate::Error::Io`] if the top cannot be opened.
pub(crate) fn hidden(top: &Path) -> Result<Hidden> {
    let root = Root::open(top, |_| false)?;
    let (mut hidden, mut open) = (Hidden::default(), vec![PathBuf::new()]);
    hidden.identities.extend(identity(top));
    while let Some(path) = open.pop() {
        let is_top = path.as_os_str().is_empty();
        let place = if is_top { root.top() } else { root.at(&sys::bytes(path.as_os_str()))? };
        let listed = place.directory().and_then(|directory| Ok((directory.names()?, directory)));
        let (names, directory) = match listed {
            // It was no directory, or is none any more.
            Err(error) if is_missing(&error) || sys::is_link_error(&error) => continue,
            Err(_) => {
                hidden.unreadable.push(path);
                continue;
            }
            Ok(listed) => listed,
        };
        // As git knows a bare one.
        let is_bare = || BARE.iter().all(|name| names.iter().any(|is| is == name));
        if !is_top && (directory.look(".git".as_ref()).is_ok() || is_bare()) {
            hidden.repositories.push(path);
            continue;
        }
        if !names.is_empty() && !directory.may_be_changed() {
            hidden.unremovable.push(path.clone());
        }
        for name in names.iter().filter(|name| *name != ".git") {
            let Ok(found) = directory.look(name) else { continue };
            let inner = path.join(name);
            hidden.identities.extend(identity(&top.join(&inner)));
            if found.is_dir() {
                open.push(inner);
            }
        }
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
