//! How was everything before? HEAD, references, index and files, kept so that a later process can put them back.
//!
//! What git can give back is not copied: a file that git knows to be clean, that no filter converts, and that has the usual
//! permission bits is told by its entry in the index, whose stat data also tell whether it was touched since. Everything
//! else is an [`Item`]: the caller's own changes, untracked files, odd permission bits, converted line endings.
//!
//! # Format
//! `before.json` is a [`Header`]; `items.jsonl` holds one [`Item`] a line, sorted by the bytes of its path;
//! `references.jsonl` one reference a line.

use std::{
    collections::HashSet,
    io::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{escaped, look::Look};
use crate::{
    error::{Error, Result},
    fs::{self, Sharing},
    repo::{Checkout, Head, Index, Reference, Stat, path_of},
    sys::{Below, Found},
};

pub(super) const SCHEMA: u32 = 1;
/// The bits that tell a file's kind, and the kinds.
pub(super) const KIND: u32 = 0o170_000;
pub(super) const REGULAR: u32 = 0o100_000;
pub(super) const LINK: u32 = 0o120_000;
pub(super) const DIRECTORY: u32 = 0o040_000;
pub(super) const SUBMODULE: u32 = 0o160_000;
/// All permission bits.
pub(super) const PERMISSIONS: u32 = 0o7777;

/// What there is to know beside items and references.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a file that was there or not")]
pub(super) struct Header {
    schema: u32,
    pub(super) head: Head,
    /// Whether there was an index, a file of ignore rules, a stash.
    pub(super) index: bool,
    /// Stat data of the user's index, which change whenever it does.
    index_stamp: Option<Stamp>,
    exclude: bool,
    stash: bool,
    /// Whether the caller had something in the index that HEAD has not: changes, conflicts, intents to add.
    pub(super) own_index: bool,
    /// When this was taken, by the file system's clock, in seconds and nanoseconds: what changed before has older time stamps.
    taken: (u32, u32),
    /// How long the log of HEAD was, in bytes.
    pub(super) head_log: u64,
    /// Which files of git's operations there were, those that are over.
    pub(super) operations: Vec<String>,
    /// Permission bits of the worktree's top.
    pub(super) top: u32,
    /// Permission bits of files that git says are `100644`, `100755`, and of directories.
    pub(super) plain: u32,
    pub(super) executable: u32,
    pub(super) directory: u32,
    /// SHA-256 of the items and the references, without the ends of their lines.
    #[serde(default)]
    digests: [String; 2],
    /// Ignored files of ignore rules: they hide others, but are not ours to put back.
    #[serde(default)]
    hidden_rules: Vec<String>,
}

/// A path that git alone could not give back, or whose stat data the index does not tell.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Item {
    #[serde(with = "escaped")]
    pub(super) path: Vec<u8>,
    pub(super) kind: Kind,
    /// Permission bits.
    pub(super) mode: u32,
    pub(super) stamp: Option<Stamp>,
    pub(super) content: Content,
    /// Content of the caller's own, that no commit may take.
    pub(super) own: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
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
}

/// Where the bytes are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Content {
    None,
    /// In git's object database, under this id.
    Blob(String),
    /// In `files/`, under this number.
    Copy(usize),
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

    pub(super) fn owner(self) -> (u32, u32) {
        self.owner
    }
}

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

    pub(super) fn copy_of(&self, number: usize) -> PathBuf {
        self.directory.join("files").join(number.to_string())
    }

    pub(super) fn kept_exclude(&self) -> Option<PathBuf> {
        self.header.exclude.then(|| self.directory.join("exclude"))
    }

    pub(super) fn kept_stash(&self) -> Option<PathBuf> {
        self.header.stash.then(|| self.directory.join("stash"))
    }

    pub(super) fn hidden_rules(&self) -> HashSet<Vec<u8>> {
        self.header.hidden_rules.iter().map(|path| super::unescape(path)).collect()
    }

    pub(super) fn item(&self, path: &[u8]) -> Option<&Item> {
        self.items.binary_search_by(|item| item.path.as_slice().cmp(path)).ok().map(|at| &self.items[at])
    }

    /// The tree that HEAD had.
    pub(crate) fn tree(&self) -> String {
        self.checkout.tree_of(&self.header.head)
    }

    /// Tells whether an inode was made or changed since.
    pub(super) fn is_from_after(&self, found: &Found) -> bool {
        found.ctime >= self.header.taken
    }

    /// Tells whether the user's index was touched since.
    pub(super) fn index_is_touched(&self) -> bool {
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
    pub(super) fn clear(&self, index: &Path) -> Result<()> {
        fs::remove_entry(index)?;
        fs::remove_entry(&index.with_extension("lock"))
    }

    /// The index as the command left it, where it is another one.
    pub(super) fn ran_index(&self) -> PathBuf {
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
    pub(super) fn restore_objects(&self) -> Result<()> {
        match std::fs::read(self.directory.join("objects.pack")) {
            Ok(pack) => self.checkout.unpack(&pack),
            Err(_) => Ok(()),
        }
    }

    /// Opens the index as it was.
    pub(super) fn entries(&self) -> Result<Option<Index>> {
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
        Ok(Self {
            items: items.map_err(|_| damaged(&path))?,
            references,
            staged: Vec::new(),
            directory,
            checkout,
            header,
        })
    }

    /// Takes it. Not clean is refused unless `allow_dirty`.
    ///
    /// Nothing of the user's is touched, and no ignored directory is walked. Blocks as long as git needs for a status.
    pub(crate) fn take(directory: PathBuf, checkout: Checkout, head: Head, allow_dirty: bool) -> Result<Self, Unfit> {
        let index = checkout.index();
        // Our own may be a copy, and younger.
        let written = Index::open(&index, checkout.id_bytes)?.map(|index| index.modified());
        if written.is_some() {
            // Not a link: somebody may write into it.
            fs::copy_index(&index, &directory.join("index"), true)?;
        }
        let header = Header {
            schema: SCHEMA,
            head,
            index: written.is_some(),
            index_stamp: stamp(&index),
            exclude: false,
            stash: false,
            own_index: false,
            taken: (0, 0),
            head_log: std::fs::metadata(checkout.head_log()).map_or(0, |metadata| metadata.len()),
            operations: checkout.operation_files(),
            top: std::fs::metadata(&checkout.root).map_or(0o755, |metadata| crate::sys::mode(&metadata)),
            plain: 0,
            executable: 0,
            directory: 0,
            digests: Default::default(),
            hidden_rules: Vec::new(),
        };
        let mut before =
            Self { directory, checkout, header, items: Vec::new(), references: Vec::new(), staged: Vec::new() };
        let written = written.unwrap_or_default();
        if !before.look(written, allow_dirty)? {
            // Our copy becomes one that holds all entries.
            before.checkout.unfold(&before.index())?;
            if !before.look(written, allow_dirty)? {
                let reason = "git could not make it one that is neither split nor sparse".to_owned();
                return Err(Unfit::Trouble(Error::BrokenRepository { path: before.index(), reason }));
            }
        }
        before.keep_the_rest()?;
        before.write()?;
        Ok(before)
    }

    /// `false` where the index is split or sparse, and nothing was found out.
    fn look(&mut self, written: (u32, u32), allow_dirty: bool) -> Result<bool, Unfit> {
        let (kept, tree) = (self.index(), self.tree());
        let checkout = &self.checkout;
        // Git walks the worktree for untracked files while we look at the tracked ones.
        let (untracked, references, looked) = std::thread::scope(|scope| {
            let untracked = scope.spawn(|| checkout.untracked(&kept));
            let references = scope.spawn(|| checkout.references());
            let looked = checkout.staged(&kept, &tree).and_then(|staged| {
                let mut look = Look::new(checkout)?;
                let partial = look.tracked(&kept, written)?;
                Ok((staged, look, partial))
            });
            (untracked.join(), references.join(), looked)
        });
        let untracked = untracked.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let references = references.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let (staged, mut look, partial) = looked?;
        if partial {
            return Ok(false);
        }
        look.resolve_suspects(&kept)?;
        let mut dirty: Vec<Vec<u8>> = staged.iter().map(|change| change.path.clone()).collect();
        dirty.extend(
            look.items
                .iter()
                .filter(|item| item.own && !look.hidden.contains(&item.path))
                .map(|item| item.path.clone()),
        );
        dirty.sort();
        dirty.dedup();
        if !dirty.is_empty() && !allow_dirty {
            return Err(Unfit::Dirty(dirty));
        }
        let staged_paths: HashSet<&[u8]> = staged.iter().map(|change| change.path.as_slice()).collect();
        look.convert(&kept, &untracked)?;
        look.untracked(&untracked)?;
        look.own(&staged_paths)?;
        look.items.sort_by(|a, b| a.path.cmp(&b.path));
        let mut copies = 0;
        let (latest, intents) = (look.latest, look.intents);
        (self.header.plain, self.header.executable, self.header.directory) =
            (look.plain.unwrap_or(0o644), look.executable.unwrap_or(0o755), look.directory.unwrap_or(0o755));
        self.header.hidden_rules = look.hidden_rules(&untracked).iter().map(|path| super::escape(path)).collect();
        self.items = look.items;
        self.references = references;
        self.header.own_index = !staged.is_empty() || intents;
        let blobs = staged.iter().filter(|change| change.mode != "160000").map(|change| change.id.clone());
        self.staged = blobs.filter(|id| id.bytes().any(|byte| byte != b'0')).chain(look.conflicting).collect();
        fs::make_directories(&self.directory.join("files"), None)?;
        for item in &mut self.items {
            if let (Kind::File | Kind::Link, Content::Copy(number)) = (item.kind, &mut item.content) {
                *number = copies;
                copies += 1;
                let from = self.checkout.root.join(path_of(&item.path));
                fs::copy_entry(&from, &self.directory.join("files").join(number.to_string()), true)?;
                let now = Below::open(&self.checkout.root).and_then(|mut below| below.look(&item.path));
                if now.ok().flatten().map(|found| Stamp::of(&found)) != item.stamp {
                    return Err(Unfit::Trouble(Error::ChangedMeanwhile {
                        what: format!("`{}` was written while it was read", path_of(&item.path).display()),
                    }));
                }
            }
        }
        self.let_the_clock_tick(latest)?;
        Ok(true)
    }

    /// Waits until a change would show in the time stamps of every file: file systems count in steps of milliseconds.
    fn let_the_clock_tick(&mut self, latest: (u32, u32)) -> Result<()> {
        let probe = self.directory.join("now");
        for _ in 0..100 {
            fs::remove(&probe);
            fs::write_new(&probe, b"", Sharing::default())?;
            let now = std::fs::symlink_metadata(&probe).map(|metadata| Stat::of(&metadata).changed);
            self.header.taken = now.map_err(Error::io("read", &probe))?;
            if self.header.taken > latest {
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        fs::remove(&probe);
        Ok(())
    }

    fn keep_the_rest(&mut self) -> Result<()> {
        // By its bytes: it may be a link to where others keep it.
        let keep = |from: PathBuf, name: &str| match std::fs::read(&from) {
            Ok(bytes) => {
                fs::put_file(&self.directory.join(name), 0o644, None, |file| file.write_all(&bytes)).map(|()| true)
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Error::io("read", from)(error)),
        };
        self.header.exclude = keep(self.checkout.exclude_file(), "exclude")?;
        self.header.stash = keep(self.checkout.stash_log(), "stash")?;
        Ok(())
    }

    fn write(&mut self) -> Result<()> {
        let directory = self.directory.clone();
        let write = |name: &str, lines: Vec<Vec<u8>>| {
            let path = directory.join(name);
            fs::put_file(&path, 0o644, None, |file| {
                let mut file = std::io::BufWriter::new(file);
                for line in lines {
                    file.write_all(&line)?;
                    file.write_all(b"\n")?;
                }
                file.flush()
            })
        };
        let items: Vec<Vec<u8>> = self.items.iter().map(json).collect();
        let references: Vec<Vec<u8>> = self.references.iter().map(json).collect();
        self.header.digests = [&items, &references].map(|lines| digest(&lines.concat()));
        write("items.jsonl", items)?;
        write("references.jsonl", references)?;
        write("before.json", vec![json(&self.header)])?;
        if self.header.index {
            fs::sync(&self.index())?;
        }
        fs::sync(&self.directory.join("files"))?;
        fs::sync(&self.directory)
    }
}

/// Stat data of a file of git's.
pub(super) fn stamp(path: &Path) -> Option<Stamp> {
    let name = path.file_name()?;
    let found = Below::open(path.parent()?).and_then(|mut below| below.look(&crate::sys::bytes(name)));
    found.ok().flatten().map(|found| Stamp::of(&found))
}

fn digest(text: &[u8]) -> String {
    use sha2::Digest as _;
    crate::repo::hex(&sha2::Sha256::digest(text))
}

/// Anything as a line of JSON.
fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

/// A path in a directory, which is empty for the top.
pub(super) fn below(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() { name.to_vec() } else { [directory, b"/", name].concat() }
}

/// The directories above a path, the nearest first.
pub(super) fn parents(path: &[u8]) -> Vec<Vec<u8>> {
    let slashes = path.iter().enumerate().rev().filter(|(_, byte)| **byte == b'/');
    slashes.map(|(at, _)| path[..at].to_vec()).collect()
}

/// Tells whether a file is as it was when git wrote down its stat data.
#[expect(clippy::cast_possible_truncation, reason = "as git cuts it")]
pub(super) fn is_same(found: &Found, stat: &Stat) -> bool {
    found.ctime == stat.changed
        && found.mtime == stat.modified
        && found.inode == stat.inode
        && found.owner == (stat.user, stat.group)
        && found.size as u32 == stat.size
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys;

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
