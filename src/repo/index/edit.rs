//! Writes a changed copy of an index.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, BufWriter, Read as _, Seek as _, SeekFrom, Write},
    path::Path,
};

use super::{Entry, INTENT_TO_ADD, Index, LENGTH_BITS, MORE_FLAGS, SKIP_WORKTREE, Stat, explain};
use crate::error::{Error, Result};

/// More of noted trees than these bytes is left to git.
const MOST_TREES: u32 = 16 << 20;

/// An entry to be written: no conflict, and without flags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NewEntry {
    pub(crate) mode: u32,
    pub(crate) id: Vec<u8>,
    pub(crate) stat: Stat,
}

/// Changes of an index: for each path its new entry, or `None` to remove it.
pub(crate) type Edits = BTreeMap<Vec<u8>, Option<NewEntry>>;

impl Index {
    /// Writes a copy of an index with these changes, without a checksum. `visit` sees each entry of the original.
    ///
    /// Returns `false`, and what was written is of no use, if only git can do it: the index is split, sparse or of version 4, an
    /// extension tells more of the entries than their trees, a changed entry has flags or is in conflict, or a new path collides with a
    /// file or a directory.
    ///
    /// # Errors
    /// Those of [`Index::next`], and [`Error::Io`] of writing.
    pub(crate) fn edit(mut self, edits: &Edits, file: &mut File, mut visit: impl FnMut(&Entry<'_>)) -> Result<bool> {
        if self.version > 3 || edits.values().flatten().any(|new| new.id.len() != self.id_bytes) {
            return Ok(false);
        }
        let source = self.file.clone();
        let failed = |error| Error::io("copy", &source)(error);
        let mut out = Writer { file: BufWriter::new(file), version: self.version, entries: 0 };
        let mut collisions = Collisions::new(edits);
        let mut new = edits.iter().peekable();
        out.header().map_err(failed)?;
        while let Some(entry) = self.next()? {
            visit(&entry);
            let before = std::iter::from_fn(|| new.next_if(|(path, _)| path.as_slice() < entry.path));
            out.new_entries(before).map_err(failed)?;
            let has_flags = entry.skip_worktree || entry.assume_unchanged || entry.intent_to_add;
            match edits.contains_key(entry.path) {
                true if has_flags || entry.stage > 0 => return Ok(false),
                true => {}
                false if collisions.include(entry.path) => return Ok(false),
                false => out.entry(&entry).map_err(failed)?,
            }
        }
        out.new_entries(new).map_err(failed)?;
        let Some(trees) = self.trees_without(edits)?.filter(|_| !self.partial && !self.is_extended) else {
            return Ok(false);
        };
        out.end(&trees, self.id_bytes).map(|()| true).map_err(failed)
    }

    /// The extension `TREE` if these paths change; empty if there is none, and `None` if it is not understood.
    fn trees_without(&mut self, edits: &Edits) -> Result<Option<Vec<u8>>> {
        let Some((at, length)) = self.trees else { return Ok(Some(Vec::new())) };
        if length > MOST_TREES {
            return Ok(None);
        }
        let mut read = || {
            let file = self.reader.get_mut();
            let mut trees = vec![0; length as usize];
            file.seek(SeekFrom::Start(at)).and_then(|_| file.read_exact(&mut trees)).map(|()| trees)
        };
        let trees = read().map_err(|error| explain(Path::new(&self.file), "after the entries: ", error))?;
        Ok(invalidate(&trees, edits, self.id_bytes))
    }
}

/// New paths would collide with a file that is to be a directory, or the reverse.
struct Collisions {
    /// Paths that no entry may have, and, with a slash at their end, such that none may begin with. In descending order.
    left: Vec<Vec<u8>>,
}

impl Collisions {
    fn new(edits: &Edits) -> Self {
        let mut found = BTreeSet::new();
        for path in edits.iter().filter_map(|(path, new)| new.as_ref().map(|_| path)) {
            found.insert([path, &b"/"[..]].concat());
            found.extend(directories(path).filter(|directory| !directory.is_empty()).map(<[u8]>::to_vec));
        }
        Self { left: found.into_iter().rev().collect() }
    }

    /// Tells whether an entry collides. Called in the order of the paths.
    fn include(&mut self, path: &[u8]) -> bool {
        while let Some(last) = self.left.pop_if(|last| last.as_slice() <= path) {
            if path.starts_with(&last) && (path == last || last.ends_with(b"/")) {
                return true;
            }
        }
        false
    }
}

/// The directories that a path is in, without the slashes at their ends; the first has no name.
fn directories(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| &path[..at]);
    std::iter::once(&path[..0]).chain(slashes)
}

/// Marks the trees as unknown that these paths are in. `None` if the extension is not understood.
///
/// A record for each tree, those in it following: its name, NUL, how many entries it has (`-1`: unknown), a space, how many trees are in
/// it, a line feed, and its id unless it is unknown.
fn invalidate(trees: &[u8], edits: &Edits, id_bytes: usize) -> Option<Vec<u8>> {
    let changed: BTreeSet<&[u8]> = edits.keys().flat_map(|path| directories(path)).collect();
    let mut to = Vec::with_capacity(trees.len());
    let mut rest = trees;
    let mut path: Vec<u8> = Vec::new();
    // Of each tree that the current one is in: how many trees are still to come in it, and how long its path is.
    let mut open: Vec<(usize, usize)> = Vec::new();
    while !rest.is_empty() {
        let name = until(&mut rest, 0)?;
        while open.pop_if(|(left, _)| *left == 0).is_some() {}
        if let Some((left, length)) = open.last_mut() {
            *left -= 1;
            path.truncate(*length);
            if *length > 0 {
                path.push(b'/');
            }
        }
        path.extend_from_slice(name);
        let entries = until(&mut rest, b' ')?;
        let below = until(&mut rest, b'\n')?;
        open.push((std::str::from_utf8(below).ok()?.parse().ok()?, path.len()));
        let is_known = !entries.starts_with(b"-");
        let id = if is_known { rest.split_off(..id_bytes)? } else { &[] };
        let (entries, id) = if changed.contains(path.as_slice()) { (&b"-1"[..], &[][..]) } else { (entries, id) };
        for part in [name, b"\0", entries, b" ", below, b"\n", id] {
            to.extend_from_slice(part);
        }
    }
    Some(to)
}

/// The entries before a byte, which are skipped.
fn until<'a>(rest: &mut &'a [u8], end: u8) -> Option<&'a [u8]> {
    let at = rest.iter().position(|byte| *byte == end)?;
    let found = &rest[..at];
    *rest = &rest[at + 1..];
    Some(found)
}

/// An index while it is written.
struct Writer<'a> {
    file: BufWriter<&'a mut File>,
    version: u32,
    entries: u32,
}

impl Writer<'_> {
    fn header(&mut self) -> io::Result<()> {
        self.file.write_all(b"DIRC")?;
        self.numbers(&[self.version, self.entries])
    }

    fn numbers(&mut self, numbers: &[u32]) -> io::Result<()> {
        numbers.iter().try_for_each(|number| self.file.write_all(&number.to_be_bytes()))
    }

    fn new_entries<'e>(
        &mut self,
        mut edits: impl Iterator<Item = (&'e Vec<u8>, &'e Option<NewEntry>)>,
    ) -> io::Result<()> {
        edits.try_for_each(|(path, new)| {
            let Some(NewEntry { mode, id, stat }) = new else { return Ok(()) };
            self.entry(&Entry {
                path,
                id,
                mode: *mode,
                stage: 0,
                assume_unchanged: false,
                skip_worktree: false,
                intent_to_add: false,
                stat: *stat,
            })
        })
    }

    fn entry(&mut self, entry: &Entry<'_>) -> io::Result<()> {
        let Stat { changed, modified, device, inode, user, group, size } = entry.stat;
        self.entries += 1;
        self.numbers(&[changed.0, changed.1, modified.0, modified.1, device, inode, entry.mode, user, group, size])?;
        self.file.write_all(entry.id)?;
        let bit = |is_set, bit: u32| if is_set { bit } else { 0 };
        let more = bit(entry.skip_worktree, SKIP_WORKTREE) | bit(entry.intent_to_add, INTENT_TO_ADD);
        let flags = bit(entry.assume_unchanged, super::ASSUME_UNCHANGED)
            | bit(more != 0, MORE_FLAGS)
            | u32::from(entry.stage) << 12
            | u32::try_from(entry.path.len().min(LENGTH_BITS)).unwrap_or_default();
        let (flags, more) = (flags.to_be_bytes(), more.to_be_bytes());
        self.file.write_all(&flags[2..])?;
        let mut length = super::STAT_BYTES + entry.id.len() + 2;
        if more != [0; 4] {
            self.file.write_all(&more[..2])?;
            length += 2;
        }
        self.file.write_all(entry.path)?;
        let end = length + entry.path.len() + 1;
        self.file.write_all(&[0; 8][..=end.next_multiple_of(8) - end])
    }

    /// Writes what follows the entries, and how many they are. Git takes zeros for a checksum that was left out.
    fn end(mut self, trees: &[u8], id_bytes: usize) -> io::Result<()> {
        if !trees.is_empty() {
            self.file.write_all(b"TREE")?;
            self.numbers(&[u32::try_from(trees.len()).map_err(io::Error::other)?])?;
            self.file.write_all(trees)?;
        }
        self.file.write_all(&vec![0; id_bytes])?;
        self.file.seek(SeekFrom::Start(0))?;
        self.header()?;
        self.file.flush()
    }
}
