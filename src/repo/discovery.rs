//! Finds the repository around a directory, as git does, and fails for files on which gix or git would block.

use std::path::{Path, PathBuf};

use gix_discover::{repository::Kind, upwards};

use super::{GitDirs, MOST_LINK, Repo, is_true, named_git_dir, trust::Trust};
use crate::{
    env,
    error::{Error, Result},
    fs, sys,
};

impl Repo {
    /// The records' directory of the repository around a directory, whatever `GIT_DIR` says.
    pub(crate) fn records_around(directory: &Path) -> Option<PathBuf> {
        let (path, _) = search(directory, upwards::Options::default()).ok()??;
        let (own, _) = path.into_repository_and_work_tree_directories();
        let own = directory.join(own);
        let common = gix_discover::path::from_plain_file(&own.join("commondir")).and_then(std::result::Result::ok);
        Some(common.map_or(own.clone(), |common| own.join(common)).join("repoguard"))
    }

    pub(super) fn find(directory: &Path) -> Result<Self> {
        let directory = std::path::absolute(directory).map_err(Error::io("find", directory))?;
        if let Some(git_dir) = env::get("GIT_DIR") {
            // As in git, a caller that names the directory trusts it.
            let git_dir = directory.join(git_dir);
            if is_still_to_be_made(&git_dir) {
                return Ok(Self::outside(&directory));
            }
            // The hook of a receiving git runs in the git directory itself; the worktree is around that.
            let inside = directory.ends_with(".git") && git_dir.canonicalize().is_ok_and(|git| directory == git);
            let around = directory.parent().filter(|_| inside).unwrap_or(&directory);
            return Self::at_git_dir(&git_dir, around);
        }
        Self::find_upwards(&directory)
    }

    /// As git does without `GIT_DIR`.
    pub(super) fn find_upwards(directory: &Path) -> Result<Self> {
        let options = upwards::Options {
            current_dir: Some(directory),
            match_ceiling_dir_or_error: false,
            cross_fs: env::text("GIT_DISCOVERY_ACROSS_FILESYSTEM").is_some_and(|text| is_true(&text)),
            ..upwards::Options::default()
        }
        .apply_environment();
        let (path, owner) = match search(directory, options)? {
            Some((path, _)) if is_ceiling(&path, directory) => return Ok(Self::outside(directory)),
            Some(found) => found,
            None => {
                return match nearer(directory, None)? {
                    Some(level) => Self::with_linked_head(&level, directory),
                    None => Ok(Self::outside(directory)),
                };
            }
        };
        let trust = Trust::of_found(directory, &path, owner);
        let (own, work_dir) = path.into_repository_and_work_tree_directories();
        if let Some(level) = nearer(directory, Some(work_dir.as_deref().unwrap_or(&own)))? {
            return Self::with_linked_head(&level, directory);
        }
        Self::from_dirs(own, work_dir, directory, trust)
    }

    /// No repository, only a directory.
    fn outside(directory: &Path) -> Self {
        Self { root: directory.to_owned(), git: None, trust: Trust::Given }
    }

    /// The repository of the checkout at `level`, for which [`linked_head`] has found a git directory.
    fn with_linked_head(level: &Path, directory: &Path) -> Result<Self> {
        let own = linked_head(&level.join(".git")).unwrap_or_else(|| level.join(".git"));
        let owner = gix_sec::Trust::from_path_ownership(&own).map_err(Error::io("read", &own))?;
        let trust = Trust::of_found(directory, &gix_discover::repository::Path::WorkTree(level.to_owned()), owner);
        Self::from_dirs(own, Some(level.to_owned()), directory, trust)
    }

    fn at_git_dir(git_dir: &Path, directory: &Path) -> Result<Self> {
        if let Some(own) = linked_head(git_dir) {
            return Self::from_dirs(own, Some(directory.to_owned()), directory, Trust::Given);
        }
        let broken = |reason: String| Error::BrokenRepository { path: git_dir.to_owned(), reason };
        refuse_blocking(git_dir)?;
        let kind = gix_discover::is_git(git_dir).map_err(|error| broken(format!("`GIT_DIR` names it, but {error}")))?;
        let own = match kind {
            Kind::Submodule { git_dir } | Kind::WorkTree { linked_git_dir: Some(git_dir) } => git_dir,
            _ => git_dir.to_owned(),
        };
        Self::from_dirs(own, Some(directory.to_owned()), directory, Trust::Given)
    }

    pub(super) fn from_dirs(own: PathBuf, work_dir: Option<PathBuf>, directory: &Path, trust: Trust) -> Result<Self> {
        let common = match env::get("GIT_COMMON_DIR") {
            Some(common) => directory.join(common),
            None => match gix_discover::path::from_plain_file(&own.join("commondir")) {
                Some(common) => {
                    let common = own.join(common.map_err(Error::io("read", own.join("commondir")))?);
                    // Not through the worktree's own directory: that may be removed while we hold its lock.
                    common.canonicalize().unwrap_or(common)
                }
                None => own.clone(),
            },
        };
        let work_dir = env::get("GIT_WORK_TREE").map(|tree| directory.join(tree)).or(work_dir);
        let root = work_dir.unwrap_or_else(|| own.clone());
        Ok(Self { root, git: Some(GitDirs { own, common }), trust })
    }
}

/// Searches upwards for a repository.
///
/// # Errors
/// [`Error::NotAFile`] for a FIFO, socket or device on the way, on which gix would block, [`Error::BrokenRepository`] if something
/// cannot be read.
fn search(
    directory: &Path,
    options: upwards::Options<'_>,
) -> Result<Option<(gix_discover::repository::Path, gix_sec::Trust)>> {
    // Gix goes upwards from where links lead.
    let real = directory.canonicalize().unwrap_or_else(|_| directory.to_owned());
    for level in real.ancestors() {
        if holds_repository(level)? {
            break;
        }
    }
    match gix_discover::upwards_opts(directory, options) {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.downcast_any_ref::<upwards::Error>().is_some() => Ok(None),
        Err(error) => Err(Error::BrokenRepository { path: directory.to_owned(), reason: error.to_string() }),
    }
}

/// Tells whether gix finds a repository in a directory itself.
///
/// # Errors
/// [`Error::NotAFile`] if gix would block there.
fn holds_repository(level: &Path) -> Result<bool> {
    let dot_git = level.join(".git");
    if refuse_blocking(&dot_git)? && gix_discover::is_git(&dot_git).is_ok() {
        return Ok(true);
    }
    // A bare repository; an ordinary directory may hold any `HEAD`.
    Ok(level.join("objects").is_dir() && refuse_blocking(level)? && gix_discover::is_git(level).is_ok())
}

/// Tells whether a repository was found in a directory of `GIT_CEILING_DIRECTORIES`, above the one it was looked for:
/// gix looks there, git does not.
fn is_ceiling(found: &gix_discover::repository::Path, directory: &Path) -> bool {
    let Some(ceilings) = env::get("GIT_CEILING_DIRECTORIES") else { return false };
    let level = match found {
        gix_discover::repository::Path::WorkTree(level) | gix_discover::repository::Path::Repository(level) => level,
        gix_discover::repository::Path::LinkedWorkTree { work_dir, .. } => work_dir,
    };
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let level = real(level);
    level != real(directory)
        && std::env::split_paths(&ceilings).any(|ceiling| ceiling.is_absolute() && real(&ceiling) == level)
}

/// Refuses what discovery, ours and git's, would read for ever: FIFOs, sockets and devices in the place of its files. Tells
/// whether there may be a repository.
fn refuse_blocking(git_dir: &Path) -> Result<bool> {
    let metadata = match std::fs::metadata(git_dir) {
        Ok(metadata) if metadata.is_dir() => {
            let mut may_be = false;
            for name in ["HEAD", "commondir"] {
                may_be |= refuse_endless(&git_dir.join(name), LONGEST)? && name == "HEAD";
            }
            return Ok(may_be);
        }
        Ok(metadata) => metadata,
        Err(_) => return Ok(false),
    };
    refuse_endless(git_dir, LONGEST)?;
    let text = fs::read_whole(git_dir, MOST_LINK as u64).unwrap_or_default();
    let named = named_git_dir(git_dir.parent().unwrap_or(git_dir), &text);
    if let Some(named) = named.filter(|named| metadata.is_file() && named.is_dir()) {
        refuse_blocking(&named)?;
    }
    Ok(true)
}

impl Repo {
    /// Refuses FIFOs, sockets and devices in place of the best known files that git reads, and files without end. Those in place of
    /// others are found when git blocks (`run`).
    pub(super) fn refuse_blocking_files(&self) -> Result<()> {
        const OWN: [&str; 5] = ["index", "config.worktree", "info/sparse-checkout", "logs/HEAD", "COMMIT_EDITMSG"];
        const COMMON: [&str; 9] = [
            "config",
            "packed-refs",
            "shallow",
            "info/exclude",
            "info/attributes",
            "info/grafts",
            "logs/refs/stash",
            "objects/info/alternates",
            "reftable/tables.list",
        ];
        const TOP: [&str; 3] = [".gitattributes", ".gitignore", ".gitmodules"];
        let Some(dirs) = &self.git else { return Ok(()) };
        let own = OWN.iter().map(|name| dirs.own.join(name));
        let common = COMMON.iter().map(|name| dirs.common.join(name));
        let top = TOP.iter().map(|name| self.root.join(name));
        own.chain(common).chain(top).try_for_each(|path| refuse_endless(&path, LARGEST).map(drop))
    }
}

/// Refuses the same in place of the references of a git directory: there is a file for each, so only who reads them all looks.
pub(super) fn refuse_blocking_references(own: &Path, common: &Path) -> Result<()> {
    let mut next = vec![common.join("refs")];
    next.extend((own != common).then(|| own.join("refs")));
    while let Some(directory) = next.pop() {
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => next.push(entry.path()),
                Ok(_) => drop(refuse_endless(&entry.path(), LONGEST)?),
                Err(_) => {}
            }
        }
    }
    Ok(())
}

/// Refuses the same in place of the log of a reference.
pub(super) fn refuse_blocking_log(common: &Path, name: &str) -> Result<()> {
    refuse_endless(&common.join("logs").join(name), LARGEST).map(drop)
}

/// Longest file that holds one line, in bytes: what git writes is far shorter.
const LONGEST: u64 = 1 << 20;

/// Largest index, list of references, log: what git could not read into memory is none.
const LARGEST: u64 = 4 << 30;

/// Tells whether a file exists that cannot block, and has at most so many bytes.
fn refuse_endless(path: &Path, most: u64) -> Result<bool> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_file() && metadata.len() > most => {
            Err(Error::io("read", path)(fs::too_large(most)))
        }
        Ok(metadata) if metadata.is_file() || metadata.is_dir() => Ok(true),
        Ok(metadata) => {
            Err(Error::NotAFile { path: path.to_owned(), kind: sys::kind(&metadata), expected: "a regular file" })
        }
        Err(_) => Ok(false),
    }
}

/// Tells whether nothing is at a path that `GIT_DIR` names, as before `git init`; an empty directory is nothing.
fn is_still_to_be_made(git_dir: &Path) -> bool {
    match std::fs::read_dir(git_dir) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            // Git makes one directory, not those above it.
            std::fs::symlink_metadata(git_dir).is_err() && git_dir.parent().is_some_and(Path::is_dir)
        }
        Err(_) => false,
    }
}

/// The git directory that a `.git`, a directory or a file, leads to, if its HEAD is a symbolic link to a branch without commits.
/// Git accepts such a link, gix does not.
fn linked_head(dot_git: &Path) -> Option<PathBuf> {
    let own = if dot_git.is_file() {
        dot_git.parent()?.join(gix_discover::path::from_gitdir_file(dot_git).ok()?)
    } else {
        dot_git.to_owned()
    };
    let link = std::fs::read_link(own.join("HEAD")).ok()?;
    let common = match gix_discover::path::from_plain_file(&own.join("commondir")) {
        Some(common) => own.join(common.ok()?),
        None => own.clone(),
    };
    let is_unborn = link.starts_with("refs") && !own.join("HEAD").exists();
    (is_unborn && common.join("objects").is_dir() && common.join("refs").is_dir()).then_some(own)
}

/// The checkout between `directory` and the repository that gix found above it, if git would find it: one with a linked HEAD.
///
/// # Errors
/// [`Error::BrokenRepository`] for a `.git` that git would stumble over: locking something else, because the nearest
/// repository is broken, would guard nothing.
fn nearer(directory: &Path, found: Option<&Path>) -> Result<Option<PathBuf>> {
    for level in directory.ancestors() {
        if found.is_some_and(|found| found.starts_with(level) || found == level) {
            return Ok(None);
        }
        let candidate = level.join(".git");
        // Most levels have none: one look, however deep the directory.
        if std::fs::symlink_metadata(&candidate).is_err() {
            continue;
        }
        let Ok(metadata) = std::fs::metadata(&candidate) else {
            let reason = "it is a symbolic link that points nowhere".to_owned();
            return Err(Error::BrokenRepository { path: candidate, reason });
        };
        if linked_head(&candidate).is_some() {
            return Ok(Some(level.to_owned()));
        }
        let empty = metadata.is_dir() && std::fs::read_dir(&candidate).is_ok_and(|mut dir| dir.next().is_none());
        if !empty {
            let reason = match gix_discover::path::from_gitdir_file(&candidate) {
                Ok(target) if metadata.is_file() => {
                    format!("it points to `{}`, which is not a git directory", level.join(target).display())
                }
                Err(error) if metadata.is_file() => error.to_string(),
                _ => match gix_discover::is_git(&candidate) {
                    Err(error) => error.to_string(),
                    // A repository beyond git's own limits (`GIT_CEILING_DIRECTORIES`, another file system).
                    Ok(_) => continue,
                },
            };
            return Err(Error::BrokenRepository { path: candidate, reason });
        }
    }
    Ok(None)
}
