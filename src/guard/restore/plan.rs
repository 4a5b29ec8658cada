//! Decides which kept files are wanted, and which must never be brought back.

use std::{
    collections::HashMap,
    path::{Component, Path, PathBuf},
};

use super::Restored;
use crate::{
    error::{Error, Result},
    fs,
    repo::{self, Repo},
    store::snapshots::{self, Kept, Snapshot},
};

/// The files to restore.
pub(super) struct Plan {
    pub(super) snapshot: Snapshot,
    pub(super) files: Vec<Kept>,
    deleted: Vec<PathBuf>,
    refused: Vec<(PathBuf, &'static str)>,
}

impl Plan {
    pub(super) fn new(repo: &Repo, id: &str, paths: &[PathBuf]) -> Result<Self> {
        let snapshot = snapshots::snapshot(repo, id)?;
        snapshot.check_owner()?;
        if repo.git_dir() == Some(repo.root()) {
            return Err(Error::NoWorktree { path: repo.root().to_owned(), needed_by: "`repoguard restore`" });
        }
        let mut wanted = Vec::new();
        for path in paths {
            let has = |inside: &PathBuf| {
                let files = snapshot.files.iter().map(|kept| &kept.path);
                let mut all = files.chain(&snapshot.deleted).chain(&snapshot.missing);
                all.any(|path| path.starts_with(inside))
            };
            let not_kept = || Error::NotKept { id: snapshot.id.clone(), path: path.clone() };
            wanted.push(below(repo.root(), path).filter(has).ok_or_else(not_kept)?);
        }
        let is_wanted = |path: &Path| wanted.is_empty() || wanted.iter().any(|wanted| path.starts_with(wanted));
        let deleted = snapshot.deleted.iter().filter(|path| is_wanted(path)).cloned().collect();
        // The copy that was kept last under a path is the latest.
        let last: HashMap<&Path, &Path> = snapshot.files.iter().map(|kept| (&*kept.path, &*kept.at)).collect();
        let is_last = |kept: &&Kept| last.get(&*kept.path) == Some(&&*kept.at);
        let (mut files, mut refused) = (Vec::new(), Vec::new());
        for kept in snapshot.files.iter().filter(|kept| is_wanted(&kept.path)).filter(is_last) {
            match refusal(repo, kept) {
                Some(why) => refused.push((kept.path.clone(), why)),
                None => files.push(kept.clone()),
            }
        }
        let missing = snapshot.missing.iter().filter(|path| is_wanted(path));
        refused.extend(missing.map(|path| (path.clone(), "its copy is gone")));
        Ok(Self { snapshot, files, deleted, refused })
    }

    /// The parts that are known in advance.
    pub(super) fn begin(&self) -> Restored {
        let refused = self.refused.iter();
        let failed = refused.map(|(path, why)| (path.clone(), Error::UnsafePath { path: path.clone(), why })).collect();
        let (id, deleted) = (self.snapshot.id.clone(), self.deleted.clone());
        Restored { id, failed, deleted, ..Restored::default() }
    }
}

/// A path as seen from the current directory, relative to `root`; `None` if it is not below.
fn below(root: &Path, path: &Path) -> Option<PathBuf> {
    let mut clean = PathBuf::new();
    for component in std::env::current_dir().ok()?.join(path).components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => drop(clean.pop()),
            component => clean.push(component),
        }
    }
    // The name of the last may be a link's, which is kept as one.
    let real = clean.parent().and_then(|parent| parent.canonicalize().ok());
    let real = real.map(|parent| parent.join(clean.file_name().unwrap_or_default()));
    let roots = [Some(root.to_owned()), root.canonicalize().ok()];
    let mut pairs = roots.iter().flatten().flat_map(|root| [Some(&clean), real.as_ref()].map(|path| (root, path)));
    pairs.find_map(|(root, path)| path?.strip_prefix(root).ok().map(Path::to_owned))
}

/// Why a kept file must not be brought back, whatever is there.
fn refusal(repo: &Repo, kept: &Kept) -> Option<&'static str> {
    let parts: Vec<Component<'_>> = kept.path.components().collect();
    if parts.is_empty() || parts.iter().any(|part| !matches!(part, Component::Normal(_))) {
        return Some("it leads out of the worktree");
    }
    let top = parts.len().saturating_sub(kept.inside);
    let mut path = repo.root().to_owned();
    for (index, part) in parts.iter().enumerate() {
        path.push(part);
        // A whole repository may come back, if none is in its place.
        if repo::is_git_name(part.as_os_str()) && (index < top || fs::identity(&path).is_some()) {
            return Some("it leads into a git directory");
        }
        // A link's target is not in the way; a whole repository needs a free place.
        let is_directory = || std::fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir());
        if index + 1 < parts.len() && is_directory() && fs::identity(&path.join(".git")).is_some() {
            return Some("it leads into another repository");
        }
    }
    let own = [repo.git_dir(), repo.common_dir()].into_iter().flatten();
    own.into_iter().any(|own| path.starts_with(own)).then_some("it leads into the git directory")
}
