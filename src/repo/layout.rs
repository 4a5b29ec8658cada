//! Names every path that repoguard owns, and lists worktrees. Only that list is read from the disk.
//!
//! | path | what |
//! | --- | --- |
//! | `<git dir>/repoguard.lock` | lock of a worktree |
//! | `<common dir>/repoguard/repo.lock` | lock of everything |
//! | `<common dir>/repoguard/names/<hash>.lock` | lock of a name |
//! | `<common dir>/repoguard/queue/` | the last number, and who waits |
//! | `<common dir>/repoguard/holders/` | who holds |
//! | `<common dir>/repoguard/heads/` | HEAD of each worktree at the last release |
//! | `<common dir>/repoguard/index/` | the index as it was when a commit began (to wait) |
//! | `<common dir>/repoguard/violations/` | who changed a worktree under a hold, until its holder was told |
//! | `<common dir>/repoguard/sequences/<hash>` | the last number of a sequence that was given; locked for that |
//! | `<common dir>/repoguard/snapshots/` | what was undone, for 30 days |
//! | `<common dir>/repoguard/log.jsonl`, `log.1.jsonl` | one line a hold, and the lines before the last rotation |
//! | `<common dir>/repoguard/hooks.json`, `hooks.lock` | which hooks were installed, and who installs just now |
//! | `<common dir>/repoguard/hooks/` | the scripts, where git takes hooks from its configuration |
//! | `<common dir>/repoguard/state.json`, `state.lock` | the shared document, and who writes to it just now |
//! | `<common dir>/repoguard/documents/<hash>.lock` | who writes just now to a shared document elsewhere |
//! | `<common dir>/repoguard/mutation-<worktree>/`, `.lock` | an unfinished mutation, and how everything was before it |
//! | `<common dir>/repoguard/worktrees/` | the worktrees that were made because another was busy |
//! | `<root>/.repoguard.lock` | the lock where there is no git directory |
//! | `<root>/.repoguard/`, `<file>.repoguard/` | who holds and who waits for a lock of the library's at a path: `lock/path.rs` |

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
};

use hmac_sha256::Hash as Sha256;

use super::{Repo, outside::LOCK_NAME};
use crate::{
    error::{Error, Result},
    escape::hex,
    fs, sys,
};

/// One checkout: its key in the queue, and its git directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Worktree {
    pub(crate) git_dir: PathBuf,
    pub(crate) key: String,
}

impl Worktree {
    pub(crate) fn lock_path(&self) -> PathBuf {
        self.git_dir.join("repoguard.lock")
    }

    /// Whether it is the main one, or the bare repository itself.
    pub(crate) fn is_main(&self) -> bool {
        self.key == worktree_key(None)
    }
}

impl Repo {
    /// The lock file of this worktree. It need not exist yet.
    #[must_use]
    pub fn lock_path(&self) -> PathBuf {
        match &self.git {
            Some(dirs) => dirs.own.join("repoguard.lock"),
            None => self.root.join(LOCK_NAME),
        }
    }

    /// The git directory of this worktree, if there is one.
    #[must_use]
    pub fn git_dir(&self) -> Option<&Path> {
        self.git.as_ref().map(|dirs| dirs.own.as_path())
    }

    /// The git directory that all worktrees share, if there is one.
    #[must_use]
    pub fn common_dir(&self) -> Option<&Path> {
        self.git.as_ref().map(|dirs| dirs.common.as_path())
    }

    /// The directory of records; `None` without a git directory.
    pub(crate) fn records(&self) -> Option<PathBuf> {
        self.git.as_ref().map(|dirs| dirs.common.join("repoguard"))
    }

    /// The lock file of a hold that began here before there was a git directory; `None` if there is none.
    pub(crate) fn lock_from_before(&self) -> Option<PathBuf> {
        let path = self.git.as_ref().map(|_| self.root.join(LOCK_NAME))?;
        std::fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_file()).then_some(path)
    }

    pub(crate) fn repo_lock(&self) -> Option<PathBuf> {
        Some(self.records()?.join("repo.lock"))
    }

    /// The directory that is locked beside [`Repo::repo_lock`], so that deleting our files does not free the lock. Every repository
    /// has it, and it is not the anchor of a worktree. `None` if it is a link.
    pub(crate) fn repo_anchor(&self) -> Option<PathBuf> {
        // Not `refs`, which `git refs migrate` replaces.
        let objects = self.git.as_ref()?.common.join("objects");
        std::fs::symlink_metadata(&objects).is_ok_and(|metadata| metadata.is_dir()).then_some(objects)
    }

    pub(crate) fn head_record(&self, worktree: &Worktree) -> Option<PathBuf> {
        Some(self.records()?.join("heads").join(&worktree.key))
    }

    pub(crate) fn index_dir(&self) -> Option<PathBuf> {
        Some(self.records()?.join("index"))
    }

    pub(crate) fn violations_dir(&self) -> Option<PathBuf> {
        Some(self.records()?.join("violations"))
    }

    /// The directory of snapshots.
    pub(crate) fn snapshots_dir(&self) -> Option<PathBuf> {
        Some(self.records()?.join("snapshots"))
    }

    pub(crate) fn log_file(&self) -> Option<PathBuf> {
        Some(self.records()?.join("log.jsonl"))
    }

    /// Which hooks were installed.
    pub(crate) fn hooks_manifest(&self) -> Option<PathBuf> {
        Some(self.records()?.join("hooks.json"))
    }

    /// The lock of those who install and uninstall hooks.
    pub(crate) fn hooks_lock(&self) -> Option<PathBuf> {
        Some(self.records()?.join("hooks.lock"))
    }

    /// The scripts that git's configuration names.
    pub(crate) fn hook_scripts(&self) -> Option<PathBuf> {
        Some(self.records()?.join("hooks"))
    }

    /// Git's own lock files that are there now.
    pub(crate) fn git_lock_files(&self) -> Vec<PathBuf> {
        self.git.as_ref().map_or_else(Vec::new, |dirs| lock_files(&dirs.own, &dirs.common))
    }

    /// The directory in which a mutation of a worktree keeps what its undo needs.
    pub(crate) fn mutation_dir(&self, worktree: &Worktree) -> Option<PathBuf> {
        Some(self.records()?.join(format!("mutation-{}", worktree.key)))
    }

    /// The records of worktrees that repoguard makes.
    pub(crate) fn made_worktrees_dir(&self) -> Option<PathBuf> {
        Some(self.records()?.join("worktrees"))
    }

    /// The short lock of mutations of a worktree: also where an outer hold lets several in.
    pub(crate) fn mutation_lock(&self, worktree: &Worktree) -> Option<PathBuf> {
        Some(self.records()?.join(format!("mutation-{}.lock", worktree.key)))
    }

    /// The numbers of a sequence that were given.
    pub(crate) fn sequence_file(&self, name: &str) -> Option<PathBuf> {
        Some(self.records()?.join("sequences").join(hash(name.as_bytes())))
    }

    /// The document that all share who work in this repository.
    pub(crate) fn state_document(&self) -> Option<PathBuf> {
        Some(self.records()?.join("state.json"))
    }

    /// The short lock of those who write to it.
    pub(crate) fn state_lock(&self) -> Option<PathBuf> {
        Some(self.records()?.join("state.lock"))
    }

    /// The short lock of those who write to a document elsewhere, given by its real path.
    pub(crate) fn document_lock(&self, path: &Path) -> Option<PathBuf> {
        let name = format!("{}.lock", hash(&sys::bytes(path.as_os_str())));
        Some(self.records()?.join("documents").join(name))
    }

    /// The lock of a name: its key in the queue, and its file.
    pub(crate) fn name_lock(&self, name: &str) -> Option<(String, PathBuf)> {
        let key = format!("n-{}", hash(name.as_bytes()));
        let path = self.records()?.join("names").join(format!("{}.lock", &key[2..]));
        Some((key, path))
    }

    /// This worktree, if there is a git directory.
    pub(crate) fn worktree(&self) -> Option<Worktree> {
        let dirs = self.git.as_ref()?;
        let linked = (dirs.own != dirs.common).then(|| dirs.own.file_name()).flatten();
        Some(Worktree { git_dir: dirs.own.clone(), key: worktree_key(linked) })
    }

    /// The linked worktree that git calls so; it need not be there.
    pub(crate) fn linked(&self, id: &OsStr) -> Option<Worktree> {
        let git_dir = self.common_dir()?.join("worktrees").join(id);
        Some(Worktree { git_dir, key: worktree_key(Some(id)) })
    }

    /// All worktrees, the main one (or the bare repository itself) first, the linked ones sorted by name.
    ///
    /// # Errors
    /// [`Error::Io`] when the list of linked worktrees cannot be read: who locks everything must know it.
    pub(crate) fn worktrees(&self) -> Result<Vec<Worktree>> {
        let Some(dirs) = &self.git else { return Ok(Vec::new()) };
        let mut all = vec![Worktree { git_dir: dirs.common.clone(), key: worktree_key(None) }];
        let list = dirs.common.join("worktrees");
        let entries = match std::fs::read_dir(&list) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(all),
            Err(error) => return Err(Error::io("list", list)(error)),
        };
        let mut linked = Vec::new();
        for entry in entries {
            let entry = entry.map_err(Error::io("list", &list))?;
            // One that may not be looked at is taken for a worktree.
            let commondir = std::fs::metadata(entry.path().join("commondir"));
            if !commondir.is_err_and(|error| fs::is_missing(&error)) {
                linked.push(Worktree { key: worktree_key(Some(&entry.file_name())), git_dir: entry.path() });
            }
        }
        linked.sort();
        all.extend(linked);
        Ok(all)
    }
}

/// Git's lock files in a git directory, beside those of references.
pub(crate) const GIT_LOCKS: &[&str] = &[
    "index.lock",
    "HEAD.lock",
    "ORIG_HEAD.lock",
    "MERGE_HEAD.lock",
    "AUTO_MERGE.lock",
    "CHERRY_PICK_HEAD.lock",
    "REVERT_HEAD.lock",
    "REBASE_HEAD.lock",
    "FETCH_HEAD.lock",
    "BISECT_HEAD.lock",
    "config.lock",
    "packed-refs.lock",
    "shallow.lock",
];

/// Git's lock files that are there, of a worktree's own git directory and of the common one.
pub(super) fn lock_files(own: &Path, common: &Path) -> Vec<PathBuf> {
    let mut places = vec![own];
    places.extend((own != common).then_some(common));
    let named = places.iter().flat_map(|place| GIT_LOCKS.iter().map(|name| place.join(name)));
    let mut locks: Vec<PathBuf> = named.filter(|lock| std::fs::symlink_metadata(lock).is_ok()).collect();
    // Of indexes that git makes for a moment: `index.stash.123.lock`, `next-index-123.lock`.
    let passing = |name: &String| {
        let begins = name.starts_with("index.") || name.starts_with("next-index-");
        begins && name != "index.lock" && Path::new(name).extension().is_some_and(|end| end == "lock")
    };
    locks.extend(sys::names(own).into_iter().filter(passing).map(|name| own.join(name)));
    for place in places {
        for kept in ["refs", "logs"] {
            reference_locks(&place.join(kept), &mut locks);
        }
    }
    locks
}

/// The lock files of references or their logs, at any depth.
fn reference_locks(directory: &Path, locks: &mut Vec<PathBuf>) {
    // A link leads to something outside of this repository.
    if std::fs::symlink_metadata(directory).is_ok_and(|metadata| metadata.is_symlink()) {
        return;
    }
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    for entry in entries {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => reference_locks(&entry.path(), locks),
            Ok(_) if entry.path().extension().is_some_and(|end| end == "lock") => locks.push(entry.path()),
            _ => {}
        }
    }
}

fn worktree_key(linked: Option<&OsStr>) -> String {
    linked.map_or_else(|| "w".to_owned(), |id| format!("w-{}", hash(&sys::bytes(id))))
}

/// Tells whether a name is `.git`, or some file system takes it for that.
pub(crate) fn is_git_name(name: &OsStr) -> bool {
    use gix_validate::path::component::{self, Options};
    let options = Options { protect_windows: false, protect_hfs: true, protect_ntfs: true };
    let name = sys::bytes(name);
    matches!(gix_validate::path::component(name.as_ref().into(), None, options), Err(component::Error::DotGitDir))
}

/// Tells whether a name in a path of a worktree's file leads into a repository on the file systems that are usual here: git has
/// its reasons to be stricter, but what a command made must be put back, whatever its name.
pub(crate) fn is_git_directory(name: &OsStr) -> bool {
    if sys::FOLDS_NAMES { is_git_name(name) } else { name.eq_ignore_ascii_case(".git") }
}

/// Sixteen hex digits of a SHA-256: a file name for any text.
fn hash(text: &[u8]) -> String {
    hex(&Sha256::hash(text))[..16].to_owned()
}
