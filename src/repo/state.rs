//! Where is HEAD? Read from the files, as plain data; the cost does not grow with the number of refs.

use std::path::Path;

use gix::refs::{Target, file::Store};
use serde::{Deserialize, Serialize};

use super::{Repo, git, layout::Worktree};
use crate::sys;

/// HEAD of a worktree: the branch it points to, and the commit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The full name of the branch; `None` when detached.
    pub branch: Option<String>,
    /// The commit's id in hex; `None` on a branch without commits.
    pub commit: Option<String>,
}

impl std::fmt::Display for Head {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let commit = self.commit.as_deref().map_or("no commit", |id| id.get(..10).unwrap_or(id));
        match &self.branch {
            Some(branch) => write!(f, "{} at {commit}", branch.strip_prefix("refs/heads/").unwrap_or(branch)),
            None => write!(f, "detached at {commit}"),
        }
    }
}

impl Repo {
    /// Reads HEAD of a worktree; `None` when it cannot be read.
    pub(crate) fn head(&self, worktree: &Worktree) -> Option<Head> {
        let common = self.common_dir()?;
        read_head(&worktree.git_dir, common).or_else(|| git::head(&worktree.git_dir))
    }
}

/// Tells whether the index was rewritten since an earlier stamp was taken: modification time, size, inode.
pub(crate) fn index_stamp(worktree: &Worktree) -> Option<String> {
    let metadata = std::fs::metadata(worktree.git_dir.join("index")).ok()?;
    let (modified, size, inode) = sys::stamp(&metadata);
    Some(format!("{modified}-{size}-{inode}"))
}

/// `None` where git itself must be asked: another ref storage than files, or nothing readable.
fn read_head(git_dir: &Path, common: &Path) -> Option<Head> {
    let store = if git_dir == common {
        Store::at(git_dir.to_owned(), gix::hash::Kind::default())
    } else {
        Store::for_linked_worktree(git_dir.to_owned(), common.to_owned(), gix::hash::Kind::default())
    };
    let mut target = store.try_find_loose("HEAD").ok()??.target;
    let mut branch = None;
    // Git follows at most five levels of symbolic references.
    for _ in 0..5 {
        match target {
            Target::Object(id) => return Some(Head { branch, commit: Some(id.to_string()) }),
            Target::Symbolic(name) => {
                if name.as_bstr() == "refs/heads/.invalid" {
                    return None;
                }
                branch = Some(name.to_string());
                let found = match store.try_find_loose(name.as_ref()).ok()? {
                    Some(found) => Some(gix::refs::Reference::from(found)),
                    None => match store.open_packed_buffer().ok()? {
                        Some(packed) => store.try_find_packed(name.as_ref(), Some(&packed)).ok()?,
                        None => None,
                    },
                };
                let Some(found) = found else { return Some(Head { branch, commit: None }) };
                target = found.target;
            }
        }
    }
    None
}
