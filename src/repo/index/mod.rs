//! Reads git's index, its entries one by one, as gitformat-index(5) lays them out, in memory that does not grow.
//!
//! Versions 2, 3 and 4, with SHA-1 and SHA-256. All numbers are big-endian.
//!
//! | bytes | what |
//! | --- | --- |
//! | 12 | `DIRC`, version, number of entries |
//! | 40 | of each entry: ctime, mtime (seconds and nanoseconds of both), device, inode, mode, user, group, size |
//! | 20 or 32 | its id |
//! | 2 | assume-unchanged 1 bit, more flags 1, stage 2, length of the path 12 (all set: that long, or longer) |
//! | 2 | where there are more flags: 0 1 bit, skip-worktree 1, intent-to-add 1, 0 |
//! | 2, 3: any | the path, and one to eight NUL, up to a multiple of eight bytes |
//! | 4: any | how many bytes of the path before to drop, what to put in their place, NUL |
//! | 8 and more | of each extension: its name, its length, itself |
//! | 20 or 32 | a checksum |
//!
//! # Invariants
//! - Whatever the file holds, it is read or refused in time that its length bounds, and in the memory of two paths.
//! - Each path stays in the worktree, and outside of git's own directories: it can be joined to the root. (A link in the worktree
//!   may still lead out of it.)
//! - Paths come in the order of their bytes, and the entries of one path in that of their stages.
//!
//! # Limitations
//! The checksum is not verified: git itself need not write one (`index.skipHash`). No path may be longer than 64 KiB. Entries
//! outside of a split or sparse index are not found: [`Index::is_partial`] tells.

mod edit;
mod entry;
mod stat;
#[cfg(test)]
mod tests;

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, ErrorKind, Read as _, Seek as _, SeekFrom, Take},
    path::{Path, PathBuf},
};

pub(crate) use self::edit::{Edits, NewEntry};
pub(crate) use self::entry::{Entry, SPARSE_DIRECTORY, SUBMODULE};
pub(crate) use self::stat::Stat;
use self::stat::short_time;
use crate::{
    error::{Error, Result},
    sys,
};

/// Bytes of one read.
const BUFFER: usize = 128 << 10;
/// No file system takes paths that are longer, and a damaged file must not make us believe in one.
const LONGEST_PATH: usize = 64 << 10;
/// The length of a path as the flags have it; all its bits are set for longer ones, too.
const LENGTH_BITS: usize = 0x0fff;
// The flags, those of the second half above those of the first.
const ASSUME_UNCHANGED: u32 = 0x8000;
const MORE_FLAGS: u32 = 0x4000;
const SKIP_WORKTREE: u32 = 0x4000_0000;
const INTENT_TO_ADD: u32 = 0x2000_0000;
const UNKNOWN_FLAGS: u32 = 0x9fff_0000;
/// More than the first record of the extension `TREE` takes.
const MOST_OF_A_TREE: u64 = 64;
/// The stat data and the mode of an entry.
const STAT_BYTES: usize = 40;
/// Which of its ten numbers is the mode.
const MODE: usize = 6;
/// An entry up to its path: stat data, the longest id, and all flags.
const MOST_FIXED: usize = STAT_BYTES + 32 + 4;
/// An index while it is read.
#[derive(Debug)]
pub(crate) struct Index {
    file: PathBuf,
    /// Ends before the checksum.
    reader: Take<BufReader<File>>,
    modified: (u32, u32),
    /// In bytes, without the checksum.
    length: u64,
    version: u32,
    id_bytes: usize,
    entries: u32,
    /// How many of them were begun.
    begun: u32,
    /// The entry up to its path.
    fixed: [u8; MOST_FIXED],
    path: Vec<u8>,
    /// The end of the path before, which is not part of this one.
    dropped: Vec<u8>,
    stage: u8,
    nameless: bool,
    partial: bool,
    /// The tree of all entries, if git has noted it.
    tree: Option<Vec<u8>>,
    /// Offset and length of the extension `TREE`, in bytes.
    trees: Option<(u64, u32)>,
    /// There is an extension that tells more of the entries than their trees.
    is_extended: bool,
}

impl Index {
    /// Tells whether there is a checksum at its end, or only zeros in its place.
    pub(crate) fn has_checksum(path: &Path, id_bytes: usize) -> Result<bool> {
        let read = || {
            let mut file = File::open(path)?;
            file.seek(SeekFrom::End(-i64::try_from(id_bytes).unwrap_or_default()))?;
            let mut checksum = Vec::new();
            file.read_to_end(&mut checksum).map(|_| checksum.iter().any(|byte| *byte != 0))
        };
        read().map_err(Error::io("read", path))
    }

    /// Tells whether to look through an index takes longer than to ask git, which has several threads, and knows what it need not read.
    pub(crate) fn is_large(path: &Path) -> bool {
        const LARGE: u64 = 2 << 20;
        std::fs::metadata(path).is_ok_and(|metadata| metadata.len() > LARGE)
    }

    /// Opens it, in a repository whose ids have this length; `None` without an index. Does not block.
    ///
    /// # Errors
    /// [`Error::BrokenRepository`] for a damaged or unknown index, [`Error::Io`].
    pub(crate) fn open(path: &Path, id_bytes: usize) -> Result<Option<Self>> {
        let open = || {
            // Not a FIFO, which would block; a link is followed, as git does.
            let file = sys::open_without_blocking(path)?;
            let metadata = file.metadata()?;
            if !metadata.is_file() {
                return Err(wrong("it is not a regular file"));
            }
            let Some(length) = metadata.len().checked_sub(id_bytes as u64) else { return Err(wrong("it is cut off")) };
            let mut reader = BufReader::with_capacity(BUFFER, file).take(length);
            let mut header = [0; 12];
            reader.read_exact(&mut header)?;
            if !header.starts_with(b"DIRC") {
                return Err(wrong("it does not start with `DIRC`"));
            }
            let version = number(&header, 4);
            if !(2..=4).contains(&version) {
                return Err(wrong(format!("repoguard does not know version {version} of it")));
            }
            let [_, modified] = sys::times(&metadata).map(short_time);
            Ok(Self {
                file: path.to_owned(),
                reader,
                modified,
                length,
                version,
                id_bytes,
                entries: number(&header, 8),
                begun: 0,
                fixed: [0; MOST_FIXED],
                path: Vec::new(),
                dropped: Vec::new(),
                stage: 0,
                nameless: false,
                partial: false,
                tree: None,
                trees: None,
                is_extended: false,
            })
        };
        match open() {
            Ok(index) => Ok(Some(index)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(explain(path, "", error)),
        }
    }

    /// How many entries it has, if it is what it says.
    pub(crate) fn count(&self) -> usize {
        self.entries as usize
    }

    /// When the index was written, as [`Stat`] has it: a file that was modified not earlier may have been modified again
    /// without a trace in its metadata, so its content must be compared. A copy of an index tells the time of the copy.
    pub(crate) fn modified(&self) -> (u32, u32) {
        self.modified
    }

    /// The next entry; `None` after the last.
    ///
    /// # Errors
    /// [`Error::BrokenRepository`] when it cannot be read, or when what follows the last entry is not understood,
    /// [`Error::Io`].
    pub(crate) fn next(&mut self) -> Result<Option<Entry<'_>>> {
        if self.begun == self.entries {
            let read = self.read_extensions();
            return read.map(|()| None).map_err(|error| explain(&self.file, "after the entries: ", error));
        }
        self.begun += 1;
        match self.read_entry() {
            Ok(flags) => Ok(Some(self.entry(flags))),
            Err(error) => Err(explain(&self.file, &format!("entry {} of {}: ", self.begun, self.entries), error)),
        }
    }

    /// Whether there are entries that this file does not hold as they are, because the index is split or sparse: git must
    /// be asked for a plain one. Passes over the entries that are left.
    ///
    /// # Errors
    /// As [`Index::next`].
    pub(crate) fn is_partial(&mut self) -> Result<bool> {
        while self.next()?.is_some() {}
        Ok(self.partial)
    }

    /// The id of the entries' tree, if git has noted it since their last change, and the index is not partial. Passes over the
    /// entries that are left.
    ///
    /// # Errors
    /// As [`Index::next`].
    pub(crate) fn tree(&mut self) -> Result<Option<Vec<u8>>> {
        Ok(if self.is_partial()? { None } else { self.tree.take() })
    }

    fn entry(&self, flags: u32) -> Entry<'_> {
        let field = |index| number(&self.fixed, index * 4);
        let (changed, modified) = ((field(0), field(1)), (field(2), field(3)));
        Entry {
            path: &self.path,
            id: &self.fixed[STAT_BYTES..STAT_BYTES + self.id_bytes],
            mode: field(MODE),
            stage: self.stage,
            assume_unchanged: flags & ASSUME_UNCHANGED != 0,
            skip_worktree: flags & SKIP_WORKTREE != 0,
            intent_to_add: flags & INTENT_TO_ADD != 0,
            stat: Stat {
                changed,
                modified,
                device: field(4),
                inode: field(5),
                user: field(7),
                group: field(8),
                size: field(9),
            },
        }
    }

    /// Reads an entry, and returns its flags.
    fn read_entry(&mut self) -> io::Result<u32> {
        let flags_at = STAT_BYTES + self.id_bytes;
        let mut length = flags_at + 2;
        self.reader.read_exact(&mut self.fixed[..length])?;
        let mut flags = u32::from(short_number(&self.fixed, flags_at));
        if flags & MORE_FLAGS != 0 {
            self.reader.read_exact(&mut self.fixed[length..length + 2])?;
            flags |= u32::from(short_number(&self.fixed, length)) << 16;
            length += 2;
        }
        if flags & UNKNOWN_FLAGS != 0 {
            return Err(wrong("it has flags that repoguard does not know"));
        }
        let kept = self.read_path()?;
        if self.version < 4 {
            let end = length + self.path.len() + 1;
            self.reader.read_exact(&mut [0; 8][..end.next_multiple_of(8) - end])?;
        }
        if self.path.len().min(LENGTH_BITS) != flags as usize & LENGTH_BITS {
            return Err(wrong("its path is not as long as it says"));
        }
        let stage = (flags >> 12 & 3) as u8;
        let is_directory = number(&self.fixed, MODE * 4) == SPARSE_DIRECTORY;
        self.partial |= is_directory;
        if self.path.is_empty() {
            // Of a split index: it replaces the id and the rest of an entry of the other file.
            self.nameless = true;
        } else if (&self.path[kept..], stage) <= (&self.dropped[..], self.stage) {
            return Err(wrong("it is not in its place"));
        } else if !stays_inside(self.path.strip_suffix(b"/").filter(|_| is_directory).unwrap_or(&self.path)) {
            return Err(wrong("its path is none that git lets into a worktree"));
        }
        self.stage = stage;
        Ok(flags)
    }

    /// Reads a path and the NUL after it, and returns how much of the path before it begins with.
    fn read_path(&mut self) -> io::Result<usize> {
        let dropped = if self.version < 4 { self.path.len() } else { self.read_dropped()? };
        let Some(kept) = self.path.len().checked_sub(dropped) else {
            return Err(wrong("it drops more of the path before than there is"));
        };
        self.dropped.clear();
        self.dropped.extend_from_slice(&self.path[kept..]);
        self.path.truncate(kept);
        let most = LONGEST_PATH + 1 - kept;
        if self.reader.by_ref().take(most as u64).read_until(0, &mut self.path)? == most && !self.path.ends_with(&[0]) {
            return Err(wrong("its path is too long"));
        }
        if self.path.pop() == Some(0) { Ok(kept) } else { Err(ErrorKind::UnexpectedEof.into()) }
    }

    /// Reads how many bytes of the path before are not part of this one.
    fn read_dropped(&mut self) -> io::Result<usize> {
        let mut dropped = 0;
        loop {
            let mut byte = [0];
            self.reader.read_exact(&mut byte)?;
            dropped = dropped << 7 | usize::from(byte[0] & 0x7f);
            if byte[0] & 0x80 == 0 {
                return Ok(dropped);
            }
            // As for offsets in packs: what fewer bytes could say is not said twice.
            dropped += 1;
            if dropped > LONGEST_PATH {
                return Err(wrong("it drops more of the path before than there is"));
            }
        }
    }

    /// Passes over what follows the entries. Nothing is left when it is done.
    fn read_extensions(&mut self) -> io::Result<()> {
        while self.reader.limit() > 0 {
            let mut header = [0; 8];
            self.reader.read_exact(&mut header)?;
            let length = number(&header, 4);
            let Some(left) = self.reader.limit().checked_sub(length.into()) else {
                return Err(ErrorKind::UnexpectedEof.into());
            };
            match &header[..4] {
                b"link" | b"sdir" => self.partial = true,
                b"TREE" => {
                    self.trees = Some((self.length - self.reader.limit(), length));
                    let most = u64::from(length).min(MOST_OF_A_TREE);
                    let mut start = Vec::new();
                    self.reader.by_ref().take(most).read_to_end(&mut start)?;
                    self.tree = tree_id(&start, self.id_bytes);
                    self.reader.get_mut().seek_relative(i64::from(length) - i64::try_from(start.len()).unwrap_or(0))?;
                    self.reader.set_limit(left);
                    continue;
                }
                // The offsets of the file's parts, for several threads.
                b"EOIE" | b"IEOT" => {}
                // A reader that does not know it may skip it.
                [b'A'..=b'Z', ..] => self.is_extended = true,
                name => return Err(wrong(format!("repoguard does not know the extension `{}`", name.escape_ascii()))),
            }
            self.reader.get_mut().seek_relative(length.into())?;
            self.reader.set_limit(left);
        }
        if self.nameless && !self.partial {
            return Err(wrong("an entry has no path"));
        }
        Ok(())
    }
}

/// The id that the extension `TREE` begins with: no path, how many entries, a space, how many trees, a line feed, the id. Fewer than no
/// entries: it is not known.
fn tree_id(extension: &[u8], id_bytes: usize) -> Option<Vec<u8>> {
    let rest = extension.strip_prefix(&[0])?;
    let end = rest.iter().position(|byte| *byte == b'\n')?;
    if rest.starts_with(b"-") {
        return None;
    }
    rest.get(end + 1..end + 1 + id_bytes).map(<[u8]>::to_vec)
}

/// Tells whether a path is one that git lets into an index: no way out of the worktree, and none into a git directory.
fn stays_inside(path: &[u8]) -> bool {
    path.split(|byte| *byte == b'/').all(|name| match name {
        [] | [b'.'] | [b'.', b'.'] => false,
        [b'.', rest @ ..] => !rest.eq_ignore_ascii_case(b"git"),
        _ => true,
    })
}

fn number(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

fn short_number(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// The flaw of the content, for [`explain`].
fn wrong(reason: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, reason)
}

/// Tells a damaged index from one that cannot be read.
fn explain(path: &Path, place: &str, error: io::Error) -> Error {
    let broken = |reason| Error::BrokenRepository { path: path.to_owned(), reason };
    match error.kind() {
        ErrorKind::UnexpectedEof => broken(format!("{place}the file is cut off")),
        ErrorKind::InvalidData => broken(format!("{place}{error}")),
        _ => Error::io("read", path)(error),
    }
}
