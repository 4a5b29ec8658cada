//! Describes the baseline on disk: one value for all, one for each path.

use std::{io::Read as _, path::Path};

use serde::{Deserialize, Serialize};

use crate::{
    escape::in_json,
    fs::{self, Root},
    repo::{HEAD, Head, Reference, Stat, is_reference_name, path_of},
    sys::{Below, Found},
};
pub(in crate::transaction) use crate::{
    repo::SUBMODULE,
    sys::{DIRECTORY, KIND, LINK, REGULAR},
};

pub(in crate::transaction) const SCHEMA: u32 = 1;
/// All permission bits.
pub(in crate::transaction) const PERMISSIONS: u32 = 0o7777;

/// Facts beside items and references.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a file that was there or not")]
pub(in crate::transaction) struct Header {
    pub(super) schema: u32,
    pub(in crate::transaction) head: Head,
    /// Whether there was an index, and a stash.
    pub(in crate::transaction) index: bool,
    /// Stat data of the user's index, which change whenever it does.
    pub(super) index_stamp: Option<Stamp>,
    /// The repository's own ignore rules (`info/exclude`), escaped; `None` if there were none.
    pub(super) exclude: Option<String>,
    /// Whether the user had ignore rules of their own (`core.excludesFile`).
    pub(super) excludes: bool,
    /// Whether names that differ in case only are one name to git.
    pub(super) ignore_case: bool,
    pub(super) stash: bool,
    /// Whether the caller had something in the index that HEAD has not: changes, conflicts, intents to add.
    pub(in crate::transaction) own_index: bool,
    /// When this was taken, by the file system's clock, in seconds and nanoseconds: what changed before has older time stamps.
    pub(super) taken: (u32, u32),
    /// Which files of git's operations there were, those that are over.
    pub(in crate::transaction) operations: Vec<String>,
    /// Permission bits of the worktree's top.
    pub(in crate::transaction) top: u32,
    /// Permission bits of files that git says are `100644`, `100755`, and of directories.
    pub(in crate::transaction) plain: u32,
    pub(in crate::transaction) executable: u32,
    pub(in crate::transaction) directory: u32,
    /// How many items follow; the rest are references.
    pub(super) items: usize,
    /// SHA-256 of all that follows.
    pub(super) digest: String,
    /// Ignored files of ignore rules: they hide others.
    #[serde(default)]
    pub(super) hidden_rules: Vec<HiddenRules>,
    /// Files whose names were spelled otherwise on disk than git spells them: both.
    #[serde(default)]
    pub(super) spellings: Vec<(String, String)>,
    /// Logs of references that are kept, with their lengths in bytes.
    #[serde(default)]
    pub(in crate::transaction) logs: Vec<(String, u64)>,
}

impl Header {
    /// Refuses what would lead recovery elsewhere.
    pub(super) fn check(&self, tree: &Root) -> Result<(), String> {
        check_head(&self.head)?;
        self.logs.iter().filter(|(name, _)| name != HEAD).try_for_each(|(name, _)| check_name(name))?;
        self.hidden_rules.iter().try_for_each(|rules| check_path(tree, &rules.path))?;
        let mut spellings = self.spellings.iter().flat_map(|(one, other)| [one, other]);
        spellings.try_for_each(|path| check_path(tree, &in_json::decode(path)))
    }
}

/// An ignored file of ignore rules. Without it, what it hides would look new.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::transaction) struct HiddenRules {
    #[serde(with = "in_json")]
    pub(in crate::transaction) path: Vec<u8>,
    /// Permission bits.
    pub(in crate::transaction) mode: u32,
    /// Its bytes; none if it is no file, cannot be read, or is too large to be kept.
    #[serde(with = "in_json")]
    pub(in crate::transaction) text: Vec<u8>,
}

impl HiddenRules {
    /// Reads one as it is now.
    ///
    /// # Errors
    /// [`crate::Error::Io`].
    pub(in crate::transaction) fn read(tree: &Root, path: &[u8]) -> crate::Result<Self> {
        /// Far more than rules take.
        const MOST: u64 = 1 << 20;
        let place = tree.at(path)?;
        let mode = fs::metadata(&place)?.permissions();
        let mut text = Vec::new();
        let read = fs::read_file(&place).map(|file| file.take(MOST + 1).read_to_end(&mut text));
        if !matches!(read, Ok(Ok(_))) || text.len() as u64 > MOST {
            text.clear();
        }
        Ok(Self { path: path.to_vec(), mode, text })
    }
}

/// A path that git alone could not give back, or whose stat data the index does not tell.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Item {
    #[serde(with = "in_json")]
    pub(in crate::transaction) path: Vec<u8>,
    pub(in crate::transaction) kind: Kind,
    /// Permission bits.
    pub(in crate::transaction) mode: u32,
    pub(in crate::transaction) stamp: Option<Stamp>,
    pub(in crate::transaction) content: Content,
    /// Content of the caller's own, that no commit may take.
    pub(in crate::transaction) own: bool,
}

impl Item {
    /// Refuses what would lead recovery elsewhere.
    pub(super) fn check(&self, tree: &Root) -> Result<(), String> {
        check_path(tree, &self.path)?;
        match &self.content {
            Content::Blob(id) if !is_id(id) => Err(format!("`{id}` is no id of an object")),
            _ => Ok(()),
        }
    }
}

/// Fails for a path that does not belong to the worktree.
pub(crate) fn check_path(tree: &Root, path: &[u8]) -> Result<(), String> {
    tree.check(path).map_err(|why| format!("`{}`: {why}", path_of(path).display()))
}

/// Refuses a HEAD that git would take for something else.
pub(crate) fn check_head(head: &Head) -> Result<(), String> {
    head.branch.iter().try_for_each(|branch| check_name(branch))?;
    head.commit.iter().try_for_each(|id| check_id(id))
}

/// The same of a reference.
pub(super) fn check_reference(reference: &Reference) -> Result<(), String> {
    // A reference whose name is not text is never moved.
    if !reference.is_odd {
        check_name(&reference.name)?;
    }
    reference.target.iter().try_for_each(|name| check_name(name))?;
    check_id(&reference.id)?;
    reference.commit.iter().try_for_each(|id| check_id(id))
}

fn check_name(name: &str) -> Result<(), String> {
    if is_reference_name(name) { Ok(()) } else { Err(format!("`{name}` is no name of a reference")) }
}

fn check_id(id: &str) -> Result<(), String> {
    if is_id(id) { Ok(()) } else { Err(format!("`{id}` is no id of an object")) }
}

fn is_id(id: &str) -> bool {
    matches!(id.len(), 40 | 64) && id.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::transaction) enum Kind {
    File,
    Link,
    Directory,
    /// In the index, but not there.
    Absent,
    Submodule,
    /// Another repository in the worktree.
    Repository,
    /// In the index, but a FIFO or such is there.
    Special,
    /// A FIFO, socket or device that git does not see. It can only be missed.
    Odd,
}

/// The place of the bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::transaction) enum Content {
    None,
    /// In git's object database, under this id.
    Blob(String),
    /// In `files/`, under this number.
    Copy(usize),
    /// In `files/` under this number, if somebody has written to the file since; else in the file, which has a second name there.
    Leased(usize),
    /// In `files/packed`, this many bytes from there.
    Packed {
        at: u64,
        size: u64,
    },
    /// How a submodule stood.
    State(String),
}

/// Stat data that change whenever a file does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    ctime: (u32, u32),
    mtime: (u32, u32),
    inode: u32,
    size: u64,
    mode: u32,
    owner: (u32, u32),
}

impl Stamp {
    pub(crate) fn of(found: &Found) -> Self {
        let Found { ctime, mtime, inode, size, mode, owner, .. } = *found;
        Self { ctime, mtime, inode, size, mode, owner }
    }

    /// Kind and permission bits.
    pub(crate) fn mode(self) -> u32 {
        self.mode
    }

    pub(in crate::transaction) fn inode(self) -> u32 {
        self.inode
    }

    pub(in crate::transaction) fn size(self) -> u64 {
        self.size
    }

    /// Tells whether an open file is this one, and was not written to since.
    pub(in crate::transaction) fn has_bytes_of(self, metadata: &std::fs::Metadata) -> bool {
        let now = Stat::of(metadata);
        (now.inode, now.modified, metadata.len()) == (self.inode, self.mtime, self.size)
    }

    pub(in crate::transaction) fn owner(self) -> (u32, u32) {
        self.owner
    }
}

/// Stat data of a file of git's.
pub(in crate::transaction) fn stamp(path: &Path) -> Option<Stamp> {
    let name = path.file_name()?;
    let found = Below::open(path.parent()?).and_then(|mut below| below.look(&crate::sys::bytes(name)));
    found.ok().flatten().map(|found| Stamp::of(&found))
}

/// The kind of copy that a file needs if git cannot give it back.
pub(in crate::transaction) fn copied(found: &Found) -> (Kind, Content) {
    match found.mode & KIND {
        REGULAR => (Kind::File, Content::Copy(0)),
        LINK => (Kind::Link, Content::Copy(0)),
        DIRECTORY => (Kind::Directory, Content::None),
        _ => (Kind::Special, Content::None),
    }
}

/// Tells whether a file is as it was when git wrote down its stat data.
#[expect(clippy::cast_possible_truncation, reason = "as git cuts it")]
pub(in crate::transaction) fn is_same(found: &Found, stat: &Stat) -> bool {
    found.ctime == stat.changed
        && found.mtime == stat.modified
        && found.inode == stat.inode
        && found.owner == (stat.user, stat.group)
        && found.size as u32 == stat.size
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{fs::Sharing, sys};

    #[test]
    fn time_stamps_of_the_index_are_those_of_the_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("file");
        fs::write_new(&path, b"text", Sharing::default()).expect("a file");
        let metadata = std::fs::symlink_metadata(&path).expect("metadata");
        let found = Below::open(directory.path()).and_then(|mut below| below.look(b"file")).expect("a look");
        assert!(is_same(&found.expect("the file"), &Stat::of(&metadata)));
        assert_eq!(sys::mode(&metadata), found.expect("the file").mode & PERMISSIONS);
    }
}
