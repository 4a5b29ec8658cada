//! Tells how paths were before a mutation, and whether a file is as it was.

use std::{
    collections::{HashMap, HashSet},
    io::{Read as _, Write},
};

use super::{
    baseline::{Baseline, Content, DIRECTORY, KIND, Kind, LINK, PERMISSIONS, REGULAR, SUBMODULE, Stamp},
    changes::Touched,
};
use crate::{
    error::{Error, Result},
    escape::hex,
    fs,
    repo::Blobs,
};

/// How a path was before.
#[derive(Debug, Clone)]
pub(super) struct Was {
    pub(super) kind: Kind,
    pub(super) mode: u32,
    pub(super) owner: Option<(u32, u32)>,
    pub(super) content: Content,
    /// Size in bytes, if it is known; of a file of git's, cut to 32 bits.
    pub(super) size: Option<u64>,
    /// Its stat data, if they are known.
    pub(super) stamp: Option<Stamp>,
}

impl Baseline {
    /// How these paths were, in the order of the paths; they must be sorted, and each must have been there or in the index.
    pub(super) fn were(&self, paths: &[&[u8]]) -> Result<Vec<Option<Was>>> {
        let mut wanted: HashSet<&[u8]> = paths.iter().copied().collect();
        let mut found = HashMap::new();
        for path in paths {
            if let Some(item) = self.item(path) {
                let owner = item.stamp.map(Stamp::owner);
                let size = item.stamp.map(Stamp::size);
                let was = Was {
                    kind: item.kind,
                    mode: item.mode,
                    owner,
                    content: item.content.clone(),
                    size,
                    stamp: item.stamp,
                };
                found.insert(*path, was);
                wanted.remove(path);
            }
        }
        if !wanted.is_empty()
            && let Some(mut entries) = self.entries()?
        {
            while let Some(entry) = entries.next()? {
                let Some(path) = wanted.take(entry.path) else { continue };
                let (kind, mode) = match entry.mode {
                    0o100_755 => (Kind::File, self.header.executable),
                    mode if mode & KIND == LINK => (Kind::Link, 0o777),
                    mode if mode & KIND == SUBMODULE => (Kind::Submodule, 0),
                    _ => (Kind::File, self.header.plain),
                };
                let owner = Some((entry.stat.user, entry.stat.group));
                // Git marks those that it does not trust by a size of zero.
                let size = Some(u64::from(entry.stat.size)).filter(|size| *size > 0);
                found.insert(path, Was { kind, mode, owner, content: Content::Blob(hex(entry.id)), size, stamp: None });
            }
        }
        Ok(paths.iter().map(|path| found.remove(path)).collect())
    }

    /// Copies the bytes that a file had, or the target of a link.
    pub(super) fn bytes(&self, was: &Was, blobs: &mut Blobs, into: &mut dyn Write) -> std::io::Result<()> {
        match &was.content {
            Content::Blob(id) => {
                let mut counted = Counted { into, bytes: 0 };
                blobs.copy(id, &mut counted)?;
                #[expect(clippy::cast_possible_truncation, reason = "as git cuts it")]
                let is_it = was.size.is_none_or(|size| size as u32 == counted.bytes as u32);
                if is_it || was.kind == Kind::Link {
                    return Ok(());
                }
                // The configuration has changed since it was checked out.
                Err(std::io::Error::other("git has other bytes of it than there were on disk"))
            }
            Content::Copy(number) if was.kind == Kind::Link => {
                let target = fs::read_link(self.copy(*number)).map_err(std::io::Error::other)?;
                into.write_all(&crate::sys::bytes(target.as_os_str()))
            }
            Content::Copy(number) => {
                let mut kept = self.open_copy(*number, was.size).map_err(std::io::Error::other)?;
                std::io::copy(&mut kept, into).map(drop)
            }
            Content::Leased(number) => {
                let missing = || {
                    std::io::Error::new(
                        std::io::ErrorKind::NotFound,
                        "it was written to after all that kept it was killed",
                    )
                };
                let kept = self.open_leased(*number, was.stamp).map_err(std::io::Error::other)?;
                std::io::copy(&mut kept.ok_or_else(missing)?, into).map(drop)
            }
            Content::Packed { at, size } => {
                let mut kept = self.open_packed(*at, *size).map_err(std::io::Error::other)?;
                std::io::copy(&mut kept, into).map(drop)
            }
            Content::None | Content::State(_) => Ok(()),
        }
    }

    /// Tells whether the bytes that a file had are kept.
    pub(super) fn has_bytes(&self, was: &Was) -> Result<bool> {
        match was.content {
            Content::Leased(number) => self.open_leased(number, was.stamp).map(|kept| kept.is_some()),
            _ => Ok(true),
        }
    }

    /// Tells whether what is there now is what was there, whatever its stat data say.
    pub(super) fn is_as_it_was(&self, touched: &Touched, was: &Was, blobs: &mut Blobs) -> Result<bool> {
        let Some(now) = touched.now else { return Ok(was.kind == Kind::Absent) };
        let mode_now = now.mode();
        let place = self.checkout.tree()?.at(&touched.path)?;
        let path = place.path();
        Ok(match was.kind {
            Kind::Absent | Kind::Special | Kind::Odd => false,
            Kind::Directory => mode_now & KIND == DIRECTORY && mode_now & PERMISSIONS == was.mode,
            // Its contents are not ours to put back.
            Kind::Submodule => mode_now & KIND == DIRECTORY,
            Kind::Repository => mode_now & KIND == DIRECTORY && fs::identity(&path.join(".git")).is_some(),
            Kind::Link => {
                if mode_now & KIND != LINK {
                    return Ok(false);
                }
                let mut target = Vec::new();
                self.bytes(was, blobs, &mut target).map_err(Error::io("read what was kept of", path))?;
                let now = fs::read_link(&place)?;
                *crate::sys::bytes(now.as_os_str()) == target
            }
            Kind::File => {
                let (mode, owner) = self.rights(was.mode, was.owner);
                let is_given_away = owner.is_some() && ![owner, was.owner].contains(&Some(now.owner()));
                if mode_now & KIND != REGULAR || mode_now & PERMISSIONS != mode || is_given_away {
                    return Ok(false);
                }
                if !self.has_bytes(was)? {
                    return Ok(false);
                }
                let file = fs::read_file(&place)?;
                let mut compare = Compare { file: std::io::BufReader::new(file), same: true };
                match self.bytes(was, blobs, &mut compare) {
                    Ok(()) => compare.same && compare.is_at_end().map_err(Error::io("read", path))?,
                    Err(error) => return Err(Error::io("read what was kept of", path)(error)),
                }
            }
        })
    }
}

/// Counts what is written through it.
struct Counted<'a> {
    into: &'a mut dyn Write,
    bytes: u64,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.into.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.into.flush()
    }
}

/// Compares what is written to it with a file.
struct Compare {
    file: std::io::BufReader<std::fs::File>,
    same: bool,
}

impl Compare {
    fn is_at_end(&mut self) -> std::io::Result<bool> {
        Ok(self.file.read(&mut [0])? == 0)
    }
}

impl Write for Compare {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.same {
            let mut other = Vec::with_capacity(bytes.len());
            (&mut self.file).take(bytes.len() as u64).read_to_end(&mut other)?;
            self.same = other == bytes;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
