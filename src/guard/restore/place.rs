//! Compares a kept file with what is in its place.

use std::{
    io::{self, Read},
    path::PathBuf,
};

use crate::{
    error::{Error, Result},
    fs::{self, Root},
    store::snapshots::Kept,
    sys,
};

/// The entry in a kept file's place.
pub(super) enum Place {
    /// Just this file.
    Same,
    Free,
    /// A file or a link, with its path, that the kept one can replace in one step.
    File(PathBuf),
    /// An entry that must be moved away first, with its path: it is in the file's place, or in that of a directory above.
    Other(PathBuf),
}

impl Place {
    pub(super) fn look(root: &Root, kept: &Kept) -> Result<Self> {
        let target = root.at(&sys::bytes(kept.path.as_os_str()))?;
        if let Some(above) = fs::in_the_way(root, &kept.path)? {
            return Ok(Self::Other(above));
        }
        let Some(there) = fs::find(&target)? else { return Ok(Self::Free) };
        let (kept_at, wanted) = (kept.place()?, fs::metadata(&kept.place()?)?);
        if is_same((&kept_at, &wanted), (&target, &there))? {
            return Ok(Self::Same);
        }
        let in_one_step = [&wanted, &there].into_iter().all(|found| found.is_file() || found.is_link());
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
fn is_same((kept, wanted): (&fs::Place, &sys::Found), (target, there): (&fs::Place, &sys::Found)) -> Result<bool> {
    if wanted.is_link() && there.is_link() {
        return Ok(fs::read_link(kept)? == fs::read_link(target)?);
    }
    if !wanted.is_file() {
        return Ok(wanted.is_dir() && there.is_dir());
    }
    let alike = there.is_file() && wanted.size == there.size && wanted.permissions() == there.permissions();
    let same = || same_bytes(fs::read_file(kept)?, fs::read_file(target)?).map_err(Error::io("compare", target.path()));
    Ok(alike && same()?)
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

/// Why what has the place of a kept file is nobody's to move, if it is a directory.
pub(super) fn why_it_stays(place: &fs::Place) -> Result<Option<&'static str>> {
    if !fs::metadata(place)?.is_dir() {
        return Ok(None);
    }
    let below = fs::hidden(place.path())?;
    let is_repository = fs::find(place.child(".git"))?.is_some() || !below.repositories.is_empty();
    let real = place.path().canonicalize().unwrap_or_else(|_| place.path().to_owned());
    Ok(match () {
        () if is_repository => Some("a repository is in its place"),
        () if !below.unreadable.is_empty() => Some("a directory that cannot be read is in its place"),
        () if sys::has_mounts(&real) => Some("something is mounted in its place"),
        () => None,
    })
}
