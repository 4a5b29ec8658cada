//! How was everything before? HEAD, references, index and files, kept so that a later process can put them back.
//!
//! What git can give back is not copied: a file that git knows to be clean, that no filter converts, and that has the usual
//! permission bits is told by its entry in the index, whose stat data also tell whether it was touched since. Everything
//! else is an [`Item`]: the caller's own changes, untracked files, odd permission bits, converted line endings.
//!
//! | file | what |
//! | --- | --- |
//! | this one | what can be asked, by this process or a later one |
//! | `record` | what is kept of each file, and of all |
//! | `take` | how it is taken |
//!
//! # Format
//! `before.json` is a [`Header`]; `items.jsonl` holds one [`Item`] a line, sorted by the bytes of its path;
//! `references.jsonl` one reference a line.

mod record;
mod take;

/// Where our own gits note that they run.
pub(super) const NOTES: &str = "own-trace";

pub(super) use record::{
    Content, DIRECTORY, Header, Item, KIND, Kind, LINK, PERMISSIONS, REGULAR, SCHEMA, SUBMODULE, Stamp, is_same, stamp,
};

use std::{
    collections::HashSet,
    io::Write as _,
    path::{Path, PathBuf},
};

use crate::{
    error::{Error, Result},
    fs,
    repo::{Checkout, Head, Index, Reference},
    sys::Found,
};

/// Why a mutation cannot begin here.
#[derive(Debug)]
pub(crate) enum Unfit {
    /// Not clean: these paths have changes, staged or not.
    Dirty(Vec<Vec<u8>>),
    /// Something that cannot be guaranteed.
    Trouble(Error),
}

impl From<Error> for Unfit {
    fn from(error: Error) -> Self {
        Self::Trouble(error)
    }
}

/// The state before a mutation.
#[derive(Debug)]
pub(crate) struct Before {
    directory: PathBuf,
    pub(crate) checkout: Checkout,
    pub(super) header: Header,
    /// Sorted by path.
    pub(super) items: Vec<Item>,
    pub(super) references: Vec<Reference>,
    /// Blobs that only the index leads to.
    staged: Vec<String>,
}

impl Before {
    /// Where it is kept.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn head(&self) -> &Head {
        &self.header.head
    }

    /// The user's index as it was; it need not exist.
    pub(crate) fn index(&self) -> PathBuf {
        self.directory.join("index")
    }

    pub(in crate::mutation) fn copy_of(&self, number: usize) -> PathBuf {
        self.directory.join("files").join(number.to_string())
    }

    pub(in crate::mutation) fn kept_exclude(&self) -> Option<PathBuf> {
        self.header.exclude.then(|| self.directory.join("exclude"))
    }

    pub(in crate::mutation) fn kept_stash(&self) -> Option<PathBuf> {
        self.header.stash.then(|| self.directory.join("stash"))
    }

    pub(in crate::mutation) fn hidden_rules(&self) -> HashSet<Vec<u8>> {
        self.header.hidden_rules.iter().map(|path| super::unescape(path)).collect()
    }

    pub(in crate::mutation) fn item(&self, path: &[u8]) -> Option<&Item> {
        self.items.binary_search_by(|item| item.path.as_slice().cmp(path)).ok().map(|at| &self.items[at])
    }

    /// The tree that HEAD had.
    pub(crate) fn tree(&self) -> String {
        self.checkout.tree_of(&self.header.head)
    }

    /// Tells whether an inode was made or changed since.
    pub(in crate::mutation) fn is_from_after(&self, found: &Found) -> bool {
        found.ctime >= self.header.taken
    }

    /// Tells whether the user's index was touched since.
    pub(in crate::mutation) fn index_is_touched(&self) -> bool {
        stamp(&self.checkout.index()) != self.header.index_stamp
    }

    /// Keeps the index as the command left it, where it is another one.
    pub(crate) fn keep_index(&self, index: &Path) -> Result<()> {
        let ran = self.ran_index();
        fs::remove_entry(&ran)?;
        if self.index_is_touched() && index.exists() { fs::copy_index(index, &ran, true) } else { Ok(()) }
    }

    /// Removes an index of ours, and what a git that was killed left of it.
    #[expect(clippy::unused_self, reason = "only indexes that belong to a mutation are cleared")]
    pub(in crate::mutation) fn clear(&self, index: &Path) -> Result<()> {
        fs::remove_entry(index)?;
        fs::remove_entry(&index.with_extension("lock"))
    }

    /// The index as the command left it, where it is another one.
    pub(in crate::mutation) fn ran_index(&self) -> PathBuf {
        self.directory.join("ran")
    }

    /// Keeps what references, stash and index lead to from being pruned.
    pub(crate) fn protect(&self) -> Result<()> {
        /// More would take longer than a mutation; those of HEAD and the first references are kept then.
        const MOST: usize = 500;
        let mut commits: Vec<String> = self.header.head.commit.iter().cloned().collect();
        commits.extend(self.references.iter().filter_map(|one| one.commit.clone()));
        if self.header.stash {
            commits.extend(self.checkout.stashed().unwrap_or_default());
        }
        let mut seen = HashSet::new();
        commits.retain(|commit| seen.insert(commit.clone()));
        commits.truncate(MOST);
        self.checkout.protect(super::PROTECTING, &commits)?;
        let tags = self.references.iter().filter(|one| one.commit.as_ref() != Some(&one.id)).map(|one| one.id.clone());
        let objects: Vec<String> = tags.chain(self.staged.iter().cloned()).collect();
        if objects.is_empty() {
            return Ok(());
        }
        let pack = self.checkout.pack(&objects)?;
        fs::put_file(&self.directory.join("objects.pack"), 0o644, None, |file| file.write_all(&pack))
    }

    /// Puts objects back that no commit leads to.
    pub(in crate::mutation) fn restore_objects(&self) -> Result<()> {
        match std::fs::read(self.directory.join("objects.pack")) {
            Ok(pack) => self.checkout.unpack(&pack),
            Err(_) => Ok(()),
        }
    }

    /// Opens the index as it was.
    pub(in crate::mutation) fn entries(&self) -> Result<Option<Index>> {
        Index::open(&self.index(), self.checkout.id_bytes)
    }

    /// Reads what an earlier process has taken.
    pub(crate) fn open(directory: PathBuf, checkout: Checkout) -> Result<Self> {
        let damaged = |path: &Path| Error::BrokenRepository {
            path: path.to_owned(),
            reason: "what repoguard kept of the state before a mutation cannot be read".to_owned(),
        };
        let read = |name: &str| {
            let path = directory.join(name);
            std::fs::read_to_string(&path).map_err(Error::io("read", path))
        };
        let path = directory.join("before.json");
        let header: Header = serde_json::from_str(&read("before.json")?).map_err(|_| damaged(&path))?;
        if header.schema != SCHEMA {
            return Err(damaged(&path));
        }
        // Whoever takes half of it for the whole puts nothing back, and takes away what was there.
        let (items, references) = (read("items.jsonl")?, read("references.jsonl")?);
        if header.digests != [&items, &references].map(|text| digest(text.replace('\n', "").as_bytes())) {
            return Err(damaged(&path));
        }
        match Index::open(&directory.join("index"), checkout.id_bytes)? {
            Some(mut index) => while index.next()?.is_some() {},
            None if header.index => return Err(damaged(&path)),
            None => {}
        }
        let items: Result<Vec<Item>, _> = items.lines().map(serde_json::from_str).collect();
        let references: Result<Vec<Reference>, _> = references.lines().map(serde_json::from_str).collect();
        let references = references.map_err(|_| damaged(&path))?;
        let checkout = checkout.noting(directory.join(NOTES));
        Ok(Self {
            items: items.map_err(|_| damaged(&path))?,
            references,
            staged: Vec::new(),
            directory,
            checkout,
            header,
        })
    }
}

fn digest(text: &[u8]) -> String {
    use sha2::Digest as _;
    crate::repo::hex(&sha2::Sha256::digest(text))
}

/// A path in a directory, which is empty for the top.
pub(in crate::mutation) fn below(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() { name.to_vec() } else { [directory, b"/", name].concat() }
}

/// The directories above a path, the nearest first.
pub(in crate::mutation) fn parents(path: &[u8]) -> Vec<Vec<u8>> {
    let slashes = path.iter().enumerate().rev().filter(|(_, byte)| **byte == b'/');
    slashes.map(|(at, _)| path[..at].to_vec()).collect()
}
