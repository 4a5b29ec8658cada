//! Reads where HEAD is, from the files, as plain data. The cost does not grow with the number of references.

use std::{
    io::ErrorKind::{FileTooLarge, InvalidData, IsADirectory, NotADirectory, NotFound},
    path::Path,
};

use serde::{Deserialize, Serialize};

use super::{MOST_LINK, Repo, git, layout::Worktree};
use crate::{fs, sys};

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
        match read_head(&worktree.git_dir, common) {
            Found::Head(head) => Some(head),
            Found::Unknown => git::head(&worktree.git_dir, self.trusted().ok()?),
            Found::Blocked => None,
        }
    }
}

/// References that each worktree has of its own, in its git directory, never packed; see git-worktree(1), "REFS".
pub(super) const OWN_REFERENCES: [&str; 3] = ["refs/worktree/", "refs/bisect/", "refs/rewritten/"];

/// Tells whether the index was rewritten since an earlier stamp was taken: modification time, size, inode.
pub(crate) fn index_stamp(worktree: &Worktree) -> Option<String> {
    let metadata = std::fs::metadata(worktree.git_dir.join("index")).ok()?;
    let (modified, size, inode) = sys::stamp(&metadata);
    Some(format!("{modified}-{size}-{inode}"))
}

/// The state as the files show it.
enum Found {
    Head(Head),
    /// Git itself must be asked: another ref storage than files, or nothing readable.
    Unknown,
    /// Git would wait for ever: a FIFO stands in the place of a file.
    Blocked,
}

fn read_head(git_dir: &Path, common: &Path) -> Found {
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
            Reference::Commit(id) => return Found::Head(Head { branch, commit: Some(id) }),
            Reference::Missing if branch.is_some() => return Found::Head(Head { branch, commit: None }),
            Reference::Missing | Reference::Unreadable => return Found::Unknown,
            Reference::Blocked => return Found::Blocked,
            Reference::Symbolic(name) => {
                if name == "refs/heads/.invalid" || !name.starts_with("refs/") || name.contains("..") {
                    return Found::Unknown;
                }
                let is_own = OWN_REFERENCES.iter().any(|start| name.starts_with(start));
                reference = match read_reference(&if is_own { git_dir } else { common }.join(&name)) {
                    Reference::Missing if !is_own => read_packed(common, &name),
                    found => found,
                };
                branch = Some(name);
            }
        }
    }
    Found::Unknown
}

/// Tells whether there may be a reference of this name. References in tables are not looked at.
pub(super) fn is_reference(common: &Path, name: &str) -> bool {
    let is_missing = |found| matches!(found, Reference::Missing);
    !is_missing(read_reference(&common.join(name))) || !is_missing(read_packed(common, name))
}

/// A reference's state.
enum Reference {
    Symbolic(String),
    Commit(String),
    Missing,
    Unreadable,
    /// No file, or one without end.
    Blocked,
}

/// Reads one loose reference.
///
/// By hand, because gix asks the processor what it can do before it decodes an id, which costs more than the rest.
fn read_reference(path: &Path) -> Reference {
    let text = match fs::read_whole(path, MOST_LINK as u64) {
        Ok(text) => text,
        Err(error) if matches!(error.kind(), NotFound | NotADirectory | IsADirectory) => return Reference::Missing,
        Err(error) if matches!(error.kind(), InvalidData | FileTooLarge) => return Reference::Blocked,
        Err(_) => return Reference::Unreadable,
    };
    let Ok(text) = String::from_utf8(text) else { return Reference::Unreadable };
    let text = text.trim_end();
    if let Some(name) = text.strip_prefix("ref:") {
        return Reference::Symbolic(name.trim_start().to_owned());
    }
    let is_id = matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_id { Reference::Commit(text.to_owned()) } else { Reference::Unreadable }
}

/// Looks a reference up among the packed ones: by bisection, however many there are.
fn read_packed(common: &Path, name: &str) -> Reference {
    /// More than ten million references take.
    const MOST_BYTES: u64 = 1 << 30;
    match std::fs::metadata(common.join("packed-refs")) {
        Ok(metadata) if metadata.is_file() && metadata.len() <= MOST_BYTES => {}
        Ok(_) => return Reference::Blocked,
        Err(_) => return Reference::Missing,
    }
    let store = gix_ref::file::Store::at(common.to_owned(), gix_hash::Kind::default());
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::garbage::{cases, near, put};

    #[test]
    fn damaged_head_and_references_are_survived() {
        const ID: &str = "670150d3ad5a8e1efa635016d353f60b92280bb8";
        let head = vec![b"ref: refs/heads/main\n".to_vec(), format!("{ID}\n").into_bytes()];
        let packed =
            format!("# pack-refs with: peeled fully-peeled sorted \n{ID} refs/heads/main\n{ID} refs/tags/v1\n^{ID}\n");
        let directory = tempfile::tempdir().expect("a directory");
        proptest::proptest!(cases(500), |(head in near(head), packed in near(vec![packed.into_bytes()]))| {
            put(&directory.path().join("HEAD"), &head);
            put(&directory.path().join("packed-refs"), &packed);
            if let Found::Head(Head { branch, commit }) = read_head(directory.path(), directory.path()) {
                proptest::prop_assert!(branch.is_none_or(|name| name.starts_with("refs/") && !name.contains("..")));
                proptest::prop_assert!(commit.is_none_or(|id| matches!(id.len(), 40 | 64)));
            }
        });
    }
}
