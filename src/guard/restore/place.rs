//! What stands where a kept file is to go, and is it the same already?

use std::{
    fs::Metadata,
    io::{self, Read},
    path::{Path, PathBuf},
};

use crate::{
    error::{Error, Result},
    fs, repo,
    store::snapshots::Kept,
    sys,
};

/// What is where a kept file is to go.
pub(super) enum Place {
    /// Just this file.
    Same,
    Free,
    /// A file or a link, with its path, that the kept one can replace in one step.
    File(PathBuf),
    /// What must be moved away before, with its path: it has the place, or that of a directory above.
    Other(PathBuf),
}

impl Place {
    pub(super) fn look(root: &Path, kept: &Kept) -> Result<Self> {
        if let Some(above) = fs::in_the_way(root, &kept.path) {
            return Ok(Self::Other(above.strip_prefix(root).unwrap_or(&above).to_owned()));
        }
        let target = root.join(&kept.path);
        let there = match fs::metadata(&target) {
            Err(Error::Io { source, .. }) if fs::is_missing(&source) => return Ok(Self::Free),
            there => there?,
        };
        if is_same(&kept.at, &target, &there)? {
            return Ok(Self::Same);
        }
        let wanted = fs::metadata(&kept.at)?;
        let in_one_step = [&wanted, &there].into_iter().all(|metadata| metadata.is_file() || metadata.is_symlink());
        Ok(if in_one_step { Self::File(kept.path.clone()) } else { Self::Other(kept.path.clone()) })
    }

    pub(super) fn in_it(self) -> Option<PathBuf> {
        match self {
            Self::Same | Self::Free => None,
            Self::File(path) | Self::Other(path) => Some(path),
        }
    }
}

/// Tells whether two entries are the same in kind, permission bits and bytes; directories whatever their bits.
fn is_same(kept: &Path, target: &Path, there: &Metadata) -> Result<bool> {
    let wanted = fs::metadata(kept)?;
    if wanted.is_symlink() && there.is_symlink() {
        return Ok(fs::read_link(kept)? == fs::read_link(target)?);
    }
    if !wanted.is_file() {
        return Ok(wanted.is_dir() && there.is_dir());
    }
    let alike = there.is_file() && wanted.len() == there.len() && sys::mode(&wanted) == sys::mode(there);
    Ok(alike && same_bytes(fs::read_file(kept)?, fs::read_file(target)?).map_err(Error::io("compare", target))?)
}

fn same_bytes(left: impl Read, right: impl Read) -> io::Result<bool> {
    const CHUNK: u64 = 64 << 10;
    let (mut left, mut right) = (left, right);
    loop {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        left.by_ref().take(CHUNK).read_to_end(&mut ours)?;
        right.by_ref().take(CHUNK).read_to_end(&mut theirs)?;
        if ours != theirs || ours.is_empty() {
            return Ok(ours == theirs);
        }
    }
}

/// Tells whether something is a directory with a repository in it or below.
pub(super) fn holds_repository(path: &Path) -> bool {
    if !fs::metadata(path).is_ok_and(|metadata| metadata.is_dir()) {
        return false;
    }
    let names = fs::list(path).unwrap_or_default();
    names.iter().any(|name| repo::is_git_name(name) || holds_repository(&path.join(name)))
}
