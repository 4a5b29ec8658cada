//! Where is HEAD? Read from the files, as plain data; the cost does not grow with the number of refs.

use std::{
    io::ErrorKind::{IsADirectory, NotADirectory, NotFound},
    path::Path,
};

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
        read_head(&worktree.git_dir, common).or_else(|| git::head(&worktree.git_dir, self.trusted().ok()?))
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
    let mut branch: Option<String> = None;
    let head = git_dir.join("HEAD");
    let mut reference = read_reference(&head);
    // A symbolic link is how git wrote HEAD once; only what it points to tells the branch.
    if !matches!(reference, Reference::Symbolic(_))
        && let Ok(link) = std::fs::read_link(&head)
        && let Some(name) = link.to_str()
    {
        reference = Reference::Symbolic(name.to_owned());
    }
    // Git follows at most five levels of symbolic references.
    for _ in 0..5 {
        match reference {
            Reference::Commit(id) => return Some(Head { branch, commit: Some(id) }),
            Reference::Missing if branch.is_some() => return Some(Head { branch, commit: None }),
            Reference::Missing | Reference::Unreadable => return None,
            Reference::Symbolic(name) => {
                if name == "refs/heads/.invalid" || !name.starts_with("refs/") || name.contains("..") {
                    return None;
                }
                reference = match read_reference(&common.join(&name)) {
                    Reference::Missing => read_packed(common, &name),
                    found => found,
                };
                branch = Some(name);
            }
        }
    }
    None
}

/// What is known of a reference.
enum Reference {
    Symbolic(String),
    Commit(String),
    Missing,
    Unreadable,
}

/// Reads one loose reference.
///
/// By hand, because gix asks the processor what it can do before it decodes an id, which costs more than the rest.
fn read_reference(path: &Path) -> Reference {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if matches!(error.kind(), NotFound | NotADirectory | IsADirectory) => return Reference::Missing,
        Err(_) => return Reference::Unreadable,
    };
    let text = text.trim_end();
    if let Some(name) = text.strip_prefix("ref:") {
        return Reference::Symbolic(name.trim_start().to_owned());
    }
    let is_id = matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_id { Reference::Commit(text.to_owned()) } else { Reference::Unreadable }
}

/// Looks a reference up among the packed ones: by bisection, however many there are.
fn read_packed(common: &Path, name: &str) -> Reference {
    let store = gix::refs::file::Store::at(common.to_owned(), gix::hash::Kind::default());
    let found = match store.open_packed_buffer() {
        Ok(Some(packed)) => store.try_find_packed(name, Some(&packed)),
        Ok(None) => return Reference::Missing,
        Err(_) => return Reference::Unreadable,
    };
    match found {
        Ok(Some(reference)) => {
            reference.target.try_id().map_or(Reference::Unreadable, |id| Reference::Commit(id.to_owned().to_string()))
        }
        Ok(None) => Reference::Missing,
        Err(_) => Reference::Unreadable,
    }
}
