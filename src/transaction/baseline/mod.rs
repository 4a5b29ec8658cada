//! Captures the state before a mutation: HEAD, references, index and files, kept so that a later process can put them
//! back.
//!
//! Files that git can give back are not copied: those that git knows to be clean, that no filter converts, and that have the usual
//! permission bits. Their entries in the index describe them; the stat data show whether a file was touched since. Everything else
//! is an [`Item`]: the caller's own changes, untracked files, odd permission bits, converted line endings.
//!
//! | file | what |
//! | --- | --- |
//! | this one | what can be asked, by this process or a later one |
//! | `record` | what is kept of each file, and of all |
//! | `take` | how it is taken |
//! | `open` | how a later process reads it |
//! | `copies` | the copies of files, and their rights |
//!
//! # Format
//! `before.jsonl` holds a [`Header`], then one [`Item`] a line, sorted by the bytes of its path, then one reference a line.

mod copies;
mod open;
pub(super) mod record;
mod take;

/// What is known of the state before.
const BEFORE: &str = "before.jsonl";
/// The file in which our own gits note that they run.
pub(super) const NOTES: &str = "own-trace";
/// The bytes of all small files, one after the other, in `files/`.
const PACKED: &str = "packed";
/// The user's own ignore rules as they were.
const EXCLUDES: &str = "excludes";

use super::standby::Standby;
use open::digest;
pub(super) use record::{
    Content, DIRECTORY, Header, HiddenRules, Item, KIND, Kind, LINK, PERMISSIONS, REGULAR, SCHEMA, SUBMODULE, Stamp,
    copied, is_same, stamp,
};
pub(crate) use record::{check_head, check_path};

use std::{
    collections::{HashMap, HashSet},
    io::Write as _,
    path::{Path, PathBuf},
    sync::{Mutex, OnceLock},
};

use crate::{
    error::{Error, Result},
    escape::in_json,
    fs,
    repo::{Checkout, Head, Index, Reference, Stat, path_of},
    sys::Found,
};

/// Far more than what is kept of a large repository takes.
pub(in crate::transaction) const MOST_BYTES: u64 = 512 << 20;

/// Why a mutation cannot begin here.
#[derive(Debug)]
pub(crate) enum Unfit {
    /// Not clean: these paths have changes, staged or not.
    Dirty(Vec<Vec<u8>>),
    /// More would have to be kept than may be: so many files and bytes, and the limit in bytes.
    TooMuch(usize, u64, u64),
    /// Something that cannot be guaranteed.
    Trouble(Error),
}

/// Parts of the caller's state that are kept before a mutation begins.
pub(crate) struct Keep<'a> {
    /// Whether the caller may have changes of its own, which stay as they are.
    pub(crate) allow_dirty: bool,
    /// Whether the bytes of untracked files are kept. If not, the command must not change them.
    pub(crate) untracked: bool,
    /// Most bytes that are kept of files.
    pub(crate) limit: u64,
    /// Told now and then, if it takes long: how many files and bytes are kept, and how many there are in all.
    pub(crate) report: &'a dyn Fn((usize, u64), (usize, u64)),
}

impl From<Error> for Unfit {
    fn from(error: Error) -> Self {
        Self::Trouble(error)
    }
}

/// The state before a mutation.
#[derive(Debug)]
pub(crate) struct Baseline {
    directory: PathBuf,
    pub(crate) checkout: Checkout,
    pub(super) header: Header,
    /// Sorted by path.
    pub(super) items: Vec<Item>,
    pub(super) references: Vec<Reference>,
    /// Blobs that only the index leads to.
    staged: Vec<String>,
    /// The owner of the copies; after an interruption, the owner of the journal.
    owner: (u32, u32),
    /// Files that others were seen to write to.
    pub(super) others: Mutex<HashSet<Vec<u8>>>,
    /// The inodes of all files, once they were asked for.
    inodes: OnceLock<HashSet<u32>>,
    /// Keeps large files.
    standby: Option<Standby>,
    /// Whether an earlier process has taken it.
    is_left: bool,
    /// Whether its owner is a stranger: another user than this one, root and the git directory's owner. Then recovery only does
    /// what this user could do to a file.
    is_strangers: bool,
}

impl Baseline {
    /// Its directory.
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

    /// The ignore rules of the repository as they were; `None` if there were none.
    pub(in crate::transaction) fn kept_exclude(&self) -> Option<Vec<u8>> {
        self.header.exclude.as_deref().map(in_json::decode)
    }

    /// From now on, git takes the user's own ignore rules as they were before.
    fn use_kept_excludes(&mut self) {
        /// Git takes a file that is not there for one without rules.
        const NONE: &str = "/nonexistent/excludes";
        let file = if self.header.excludes { self.directory.join(EXCLUDES) } else { PathBuf::from(NONE) };
        self.checkout = self.checkout.clone().excluding(file);
    }

    /// Which of these paths were ignored before, by the rules in a copy of the worktree's and those of the repository and the user.
    pub(in crate::transaction) fn were_ignored(&self, rules: &Path, paths: &[Vec<u8>]) -> Result<Vec<Vec<u8>>> {
        // A git directory with only the rules.
        let git_dir = self.directory.join("rules.git");
        fs::remove_entry(&git_dir)?;
        for directory in ["objects", "refs", "info"] {
            fs::make_directories(&git_dir.join(directory), None)?;
        }
        let config = format!("[core]\nrepositoryFormatVersion = 0\nignoreCase = {}\n", self.header.ignore_case);
        let exclude = self.kept_exclude().unwrap_or_default();
        for (name, text) in
            [("HEAD", &b"ref: refs/heads/main\n"[..]), ("config", config.as_bytes()), ("info/exclude", &exclude)]
        {
            fs::put_file_of_many(&git_dir.join(name), 0o644, None, |file| file.write_all(text))?;
        }
        let ignored = self.checkout.ignored_by(rules, &git_dir, paths)?;
        fs::remove_entry(&git_dir)?;
        Ok(ignored)
    }

    /// The log of the stash as it was, and its permission bits; `None` if there was none.
    pub(in crate::transaction) fn kept_stash(&self) -> Result<Option<(Vec<u8>, u32)>> {
        let Some(path) = self.header.stash.then(|| self.directory.join("stash")) else { return Ok(None) };
        let mode = fs::metadata(&path).map_or(0o644, |found| found.permissions());
        Ok(Some((fs::read_trusted(&path, MOST_BYTES, self.owner.0)?, self.rights(mode, None).0)))
    }

    /// How files were spelled on disk whose names git spells otherwise.
    pub(in crate::transaction) fn spellings(&self) -> HashMap<Vec<u8>, Vec<u8>> {
        let both = |(git, disk): &(String, String)| (in_json::decode(git), in_json::decode(disk));
        self.header.spellings.iter().map(both).collect()
    }

    /// Ignored files of ignore rules.
    pub(in crate::transaction) fn hidden_rules(&self) -> &[HiddenRules] {
        &self.header.hidden_rules
    }

    /// Tells whether there was a directory here that belonged to this repository.
    pub(in crate::transaction) fn had_directory(&self, path: &[u8]) -> Result<bool> {
        let is_directory = self.item(path).is_some_and(|item| item.kind == Kind::Directory);
        Ok(is_directory || self.directories()?.contains(path))
    }

    /// Directories that were there before, and that the command's gits have made repositories or worktrees of.
    pub(in crate::transaction) fn new_repositories(&self) -> Result<Vec<Vec<u8>>> {
        let root = self.checkout.root.canonicalize().unwrap_or_else(|_| self.checkout.root.clone());
        let mut found = Vec::new();
        for place in super::trace::made_worktrees(&self.trace()) {
            let Ok(inner) = place.strip_prefix(&root) else { continue };
            let path = crate::sys::bytes(inner.as_os_str()).into_owned();
            if !path.is_empty() && fs::identity(&place.join(".git")).is_some() && self.had_directory(&path)? {
                found.push(path);
            }
        }
        found.sort();
        Ok(found)
    }

    pub(in crate::transaction) fn item(&self, path: &[u8]) -> Option<&Item> {
        self.items.binary_search_by(|item| item.path.as_slice().cmp(path)).ok().map(|at| &self.items[at])
    }

    /// The tree that HEAD had.
    pub(crate) fn tree(&self) -> String {
        self.checkout.tree_of(&self.header.head)
    }

    /// Tells whether an inode was made or changed since.
    pub(in crate::transaction) fn is_from_after(&self, found: &Found) -> bool {
        found.ctime >= self.header.taken
    }

    /// Tells whether a file was there before, and git did not see it: ignore rules hid it, or a repository around it did. It may have
    /// come here with a directory that was moved.
    pub(in crate::transaction) fn was_there_unseen(&self, found: &Found) -> Result<bool> {
        Ok(!self.is_from_after(found) && !self.inodes()?.contains(&found.inode))
    }

    /// The inodes of all files that git knew or could have known. Read once.
    pub(in crate::transaction) fn inodes(&self) -> Result<&HashSet<u32>> {
        if let Some(known) = self.inodes.get() {
            return Ok(known);
        }
        let mut inodes: HashSet<u32> = self.items.iter().filter_map(|item| item.stamp.map(Stamp::inode)).collect();
        if let Some(mut entries) = self.entries()? {
            while let Some(entry) = entries.next()? {
                inodes.insert(entry.stat.inode);
            }
        }
        Ok(self.inodes.get_or_init(|| inodes))
    }

    /// The directories that held files, the top included.
    pub(in crate::transaction) fn directories(&self) -> Result<HashSet<Vec<u8>>> {
        let mut found: HashSet<Vec<u8>> = HashSet::from([Vec::new()]);
        let mut last: Vec<u8> = Vec::new();
        if let Some(mut entries) = self.entries()? {
            while let Some(entry) = entries.next()? {
                let end = entry.path.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
                if last != entry.path[..end] {
                    last.clear();
                    last.extend_from_slice(&entry.path[..end]);
                    found.extend(parents(entry.path));
                }
            }
        }
        for item in &self.items {
            found.extend(parents(&item.path));
        }
        Ok(found)
    }

    /// Tells whether something was added to a directory since, or taken out.
    pub(in crate::transaction) fn was_added_to(&self, directory: &std::fs::Metadata) -> bool {
        Stat::of(directory).modified >= self.header.taken
    }

    /// Tells whether an entry was made since; if the file system does not record that, whether it was made or changed.
    pub(in crate::transaction) fn was_made_after(&self, metadata: &std::fs::Metadata) -> bool {
        match metadata.created().ok().and_then(|made| made.duration_since(std::time::UNIX_EPOCH).ok()) {
            Some(made) => {
                (made.as_secs(), made.subsec_nanos()) >= (u64::from(self.header.taken.0), self.header.taken.1)
            }
            None => Stat::of(metadata).changed >= self.header.taken && !metadata.is_dir(),
        }
    }

    /// Tells whether a repository or worktree in this one is the command's own: its gits have made it, by their trace. Others appear while
    /// it runs as well.
    pub(in crate::transaction) fn is_made_by_command(&self, path: &[u8]) -> bool {
        let place = self.checkout.root.join(path_of(path)).canonicalize();
        place.is_ok_and(|place| super::trace::made_worktrees(&self.trace()).contains(&place))
    }

    /// Tells whether the user's index was touched since.
    pub(in crate::transaction) fn index_is_touched(&self) -> bool {
        stamp(&self.checkout.index()) != self.header.index_stamp
    }

    /// Keeps the user's index as the command left it, if it changed. Returns the state that the index that was `worked_on` had before
    /// that.
    pub(crate) fn keep_index(&self, worked_on: &Path) -> Result<Option<Stamp>> {
        let (index, ran, seen) = (self.checkout.index(), self.ran_index(), stamp(worked_on));
        fs::remove_entry(&ran)?;
        if self.index_is_touched() && index.exists() {
            fs::copy_index(&index, &ran, true)?;
        }
        Ok(seen)
    }

    /// Removes an index of ours, and what a git that was killed left of it.
    #[expect(clippy::unused_self, reason = "only indexes that belong to a mutation are cleared")]
    pub(in crate::transaction) fn clear(&self, index: &Path) -> Result<()> {
        fs::remove_entry(index)?;
        fs::remove_entry(&index.with_extension("lock"))
    }

    /// The index as the command left it, if it changed.
    pub(in crate::transaction) fn ran_index(&self) -> PathBuf {
        self.directory.join("ran")
    }

    /// The index that the command's own gits worked on, as it was when the change was staged, if they changed it.
    pub(in crate::transaction) fn judged_index(&self) -> PathBuf {
        self.directory.join("judged")
    }

    /// The reference that keeps commits from being pruned, before it has its name.
    pub(super) fn protecting(&self) -> PathBuf {
        self.directory.join("protecting")
    }

    /// Prepares [`Baseline::protect`]. Not synced.
    pub(super) fn keep_protecting(&self) -> Result<()> {
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
        let joined = self.checkout.joined(&commits)?;
        joined.map_or(Ok(()), |commit| self.checkout.put_passing(&self.protecting(), &commit))
    }

    /// Keeps what references, stash and index lead to from being pruned.
    pub(crate) fn protect(&self) -> Result<()> {
        if self.protecting().exists() {
            self.checkout.protect(super::PROTECTING, &self.protecting())?;
        }
        let tags = self.references.iter().filter(|one| one.commit.as_ref() != Some(&one.id)).map(|one| one.id.clone());
        let objects: Vec<String> = tags.chain(self.staged.iter().cloned()).collect();
        if objects.is_empty() {
            return Ok(());
        }
        let pack = self.checkout.pack(&objects)?;
        fs::put_file(&self.directory.join("objects.pack"), 0o644, None, |file| file.write_all(&pack))
    }

    /// Puts objects back that no commit leads to.
    pub(in crate::transaction) fn restore_objects(&self) -> Result<()> {
        let pack = self.directory.join("objects.pack");
        if fs::find(&pack)?.is_none() {
            return Ok(());
        }
        self.checkout.unpack(&fs::read_trusted(&pack, MOST_BYTES, self.owner.0)?)
    }

    /// Opens the index as it was.
    pub(in crate::transaction) fn entries(&self) -> Result<Option<Index>> {
        Index::open(&self.index(), self.checkout.id_bytes)
    }
}

/// The owner of a mutation's directory.
pub(super) fn owner(directory: &Path) -> Result<(u32, u32)> {
    fs::metadata(directory).map(|found| found.owner)
}

/// A path in a directory, which is empty for the top.
pub(in crate::transaction) fn below(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() { name.to_vec() } else { [directory, b"/", name].concat() }
}

/// The directories above a path, the nearest first.
pub(in crate::transaction) fn parents(path: &[u8]) -> Vec<Vec<u8>> {
    let slashes = path.iter().enumerate().rev().filter(|(_, byte)| **byte == b'/');
    slashes.map(|(at, _)| path[..at].to_vec()).collect()
}
