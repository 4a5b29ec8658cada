//! Captures the state before a mutation. Git walks the worktree for untracked files while this process looks at the tracked ones.

use std::{
    cell::Cell,
    collections::HashSet,
    fs::File,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use serde::Serialize;

use super::{
    super::{changes::too_deep, scan::Scan, spelling::Spelling, standby::Standby},
    BEFORE, Baseline, EXCLUDES, Keep, MOST_BYTES, PACKED, Unfit, digest, owner,
    record::{Content, Header, Item, Kind, SCHEMA, Stamp, stamp},
};
use crate::{
    error::{Error, Result},
    escape::in_json,
    fs::{self, Place, Sharing},
    repo::{Checkout, Head, Index, STASH, Stat, path_of},
    sys::{Below, Found, Retry, beside},
};

/// More files than these are kept for nobody: to look at them all again would take too long.
const MOST_FILES: usize = 200_000;

impl Baseline {
    /// Captures the state of a worktree. [`Baseline::sync`] brings it to disk.
    ///
    /// Nothing of the user's is touched, and no ignored directory is walked. Blocks as long as git needs for a status.
    ///
    /// # Errors
    /// [`Unfit::Dirty`] if the worktree is dirty, unless `allow_dirty`; [`Unfit::TooMuch`], [`Unfit::Trouble`].
    pub(crate) fn take(directory: PathBuf, checkout: Checkout, head: Head, keep: &Keep<'_>) -> Result<Self, Unfit> {
        let checkout = checkout.noting(directory.join(super::NOTES)).with_names_of_the_disk();
        let index = checkout.index();
        // Our own may be a copy, and younger.
        let written = Index::open(&index, checkout.id_bytes)?.map(|index| index.modified());
        if written.is_some() {
            // Not a link: somebody may write into it.
            fs::copy_index(&index, &directory.join("index"), false)?;
        }
        let header = Header {
            schema: SCHEMA,
            head,
            index: written.is_some(),
            index_stamp: stamp(&index),
            operations: checkout.operation_files(),
            top: std::fs::metadata(&checkout.root).map_or(0o755, |metadata| crate::sys::mode(&metadata)),
            ..Header::default()
        };
        let owner = owner(&directory)?;
        let mut before = Self {
            directory,
            checkout,
            header,
            items: Vec::new(),
            references: Vec::new(),
            staged: Vec::new(),
            owner,
            others: std::sync::Mutex::default(),
            inodes: std::sync::OnceLock::new(),
            standby: None,
            is_left: false,
            is_strangers: false,
        };
        let written = written.unwrap_or_default();
        let mut scanned = before.scan(written, keep)?;
        if scanned.is_none() {
            // Our copy becomes one that holds all entries.
            before.checkout.unfold(&before.index())?;
            scanned = before.scan(written, keep)?;
        }
        let latest = scanned.ok_or_else(|| {
            let reason = "git could not make it one that is neither split nor sparse".to_owned();
            Unfit::Trouble(Error::BrokenRepository { path: before.index(), reason })
        })?;
        if before.checkout.is_one_case() {
            let respelled = Spelling::new(&before).respelled()?;
            let both = respelled.iter().map(|one| (in_json::encode(&one.was), in_json::encode(&one.is)));
            before.header.spellings = both.collect();
        }
        before.keep_the_rest()?;
        before.write(latest)?;
        before.use_kept_excludes();
        Ok(before)
    }

    /// The latest time stamp that was seen; `None` if the index is split or sparse, and nothing was found out.
    fn scan(&mut self, written: (u32, u32), keep: &Keep<'_>) -> Result<Option<(u32, u32)>, Unfit> {
        let (kept, tree) = (self.index(), self.tree());
        let checkout = &self.checkout;
        // Git walks the worktree for untracked files while we look at the tracked ones.
        let (untracked, references, scanned) = std::thread::scope(|scope| {
            let untracked = beside(scope, || checkout.untracked(&kept));
            let references = beside(scope, || checkout.references());
            let scanned = Scan::new(checkout).and_then(|mut scan| {
                let walked = scan.tracked(&kept, written)?;
                let is_clean = walked.tree.is_some_and(|noted| checkout.is_tree_of(&tree, &noted));
                let staged = if is_clean { Vec::new() } else { checkout.staged(&kept, &tree)? };
                Ok((staged, scan, walked.is_partial))
            });
            (untracked.join(), references.join(), scanned)
        });
        let (untracked, references) = (untracked?, references?);
        if let Some(path) = untracked.too_deep.first() {
            let top = path.split(|byte| *byte == b'/').next().unwrap_or(path);
            return Err(Unfit::Trouble(too_deep(top)));
        }
        let (staged, mut scan, partial) = scanned?;
        if partial {
            return Ok(None);
        }
        scan.resolve_suspects(&kept)?;
        let mut dirty: Vec<Vec<u8>> = staged.iter().map(|change| change.path.clone()).collect();
        dirty.extend(
            scan.items
                .iter()
                .filter(|item| item.own && !scan.hidden.contains(&item.path))
                .map(|item| item.path.clone()),
        );
        dirty.sort();
        dirty.dedup();
        if !dirty.is_empty() && !keep.allow_dirty {
            return Err(Unfit::Dirty(dirty));
        }
        let staged_paths: HashSet<&[u8]> = staged.iter().map(|change| change.path.as_slice()).collect();
        scan.convert(&kept)?;
        scan.untracked(&untracked, keep.untracked)?;
        scan.odd(untracked.strays.as_deref());
        scan.own(&staged_paths)?;
        scan.items.sort_by(|a, b| a.path.cmp(&b.path));
        let (latest, intents) = (scan.latest, scan.intents);
        (self.header.plain, self.header.executable, self.header.directory) =
            (scan.plain.unwrap_or(0o644), scan.executable.unwrap_or(0o755), scan.directory.unwrap_or(0o755));
        self.header.hidden_rules = scan.hidden_rules(&untracked)?;
        self.items = scan.items;
        self.references = references;
        self.header.own_index = !staged.is_empty() || intents;
        let blobs = staged.iter().filter(|change| change.mode != "160000").map(|change| change.id.clone());
        self.staged = blobs.filter(|id| id.bytes().any(|byte| byte != b'0')).chain(scan.conflicting).collect();
        Ok(Some(latest.max(self.keep_contents(keep)?)))
    }

    /// Copies what git could not give back: large files and links one by one, small files into one.
    fn keep_contents(&mut self, keep: &Keep<'_>) -> Result<(u32, u32), Unfit> {
        let owner = self.owner;
        let (files, tree) = (self.directory.join("files"), self.checkout.tree()?);
        let mut below = Below::open(&self.checkout.root).map_err(Error::io("open", &self.checkout.root))?;
        let mut look = |item: &Item| below.look(&item.path).ok().flatten();
        let mut latest = (0, 0);
        let mut items: Vec<&mut Item> = self.items.iter_mut().filter(|item| item.content == Content::Copy(0)).collect();
        items.retain(|item| matches!(item.kind, Kind::File | Kind::Link));
        let bytes = |item: &Item| item.stamp.map_or(0, Stamp::size);
        let all = (items.len(), items.iter().map(|item| bytes(item)).sum::<u64>());
        if all.0 > MOST_FILES || all.1 > keep.limit {
            return Err(Unfit::TooMuch(all.0, all.1, keep.limit));
        }
        if items.is_empty() {
            return Ok(latest);
        }
        // The copies keep their modes; in the worktree, a directory above may hide them.
        fs::make_private_directory(&files, Sharing::of(self.directory.ancestors().nth(2)))?;
        let (mut kept, mut reported, said) = ((0, 0), Instant::now(), Cell::new(false));
        let mut keeps = |item: &Item| {
            kept = (kept.0 + 1, kept.1 + bytes(item));
            if reported.elapsed() >= Duration::from_secs(1) {
                reported = Instant::now();
                said.set(true);
                (keep.report)(kept, all);
            }
        };
        let (small, large): (Vec<_>, Vec<_>) = items.into_iter().partition(|item| is_small(item, owner));
        let mut beside = self.directory.clone().into_os_string();
        beside.push(".lock");
        let standby = Standby::start(&self.checkout, Path::new(&beside), &files, &large);
        for (number, item) in large.into_iter().enumerate() {
            keeps(item);
            if standby.as_ref().is_some_and(|standby| standby.keeps.contains(&number)) {
                // The second name has changed its inode.
                let now = look(item);
                latest = latest.max(now.map_or(latest, |now| now.ctime));
                item.stamp = now.map(|found| Stamp::of(&found));
                item.content = Content::Leased(number);
                continue;
            }
            let copied = fs::copy_entry(&tree.at(&item.path)?, &files.join(number.to_string()), true);
            if is_kept(item, copied, Content::Copy(number))? {
                unchanged(item, look(item))?;
            }
        }
        let packed = pack_all(small, &files.join(PACKED), owner, |item, packed| {
            keeps(item);
            let size = bytes(item);
            let copied = tree.at(&item.path).and_then(|place| pack(&place, size, packed));
            match copied {
                Ok(written) if written != size => Err(written_meanwhile(item)),
                Ok(_) => unchanged(item, look(item)).map(|()| true),
                Err(error) => is_kept(item, Err(error), Content::None).map_err(Unfit::Trouble),
            }
        });
        if said.get() {
            (keep.report)(all, all);
        }
        self.standby = standby;
        packed.map(|()| latest)
    }

    fn keep_the_rest(&mut self) -> Result<()> {
        let directory = self.directory.clone();
        let put = |name: &str, bytes: &[u8]| {
            fs::put_file_of_many(&directory.join(name), 0o644, None, |file| file.write_all(bytes))
        };
        // By its bytes: it may be a link to where others keep it.
        let read = |from: &Path| match fs::read_whole(from, MOST_BYTES) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("read", from)(error)),
        };
        let keep = |from: PathBuf, name: &str| match read(&from)? {
            Some(bytes) => put(name, &bytes).map(|()| true),
            None => Ok(false),
        };
        self.header.logs = self.keep_logs()?;
        self.header.exclude = read(&self.checkout.exclude_file())?.map(|rules| in_json::encode(&rules));
        let settings = self.checkout.settings()?;
        self.header.ignore_case = settings.ignore_case;
        self.header.excludes = settings.excludes.clone().map_or(Ok(false), |file| keep(file, EXCLUDES))?;
        self.header.stash = if self.checkout.has_reftable() {
            let text = self.checkout.log_text(STASH)?;
            if text.is_empty() { false } else { put("stash", &text).map(|()| true)? }
        } else {
            keep(self.checkout.stash_log(), "stash")?
        };
        Ok(())
    }

    fn write(&mut self, latest: (u32, u32)) -> Result<()> {
        let (items, references) = (self.items.iter().map(json), self.references.iter().map(json));
        let lines: Vec<Vec<u8>> = items.chain(references).collect();
        let rest: Vec<u8> = lines.into_iter().flat_map(|line| line.into_iter().chain([b'\n'])).collect();
        let header = &mut self.header;
        (header.items, header.digest) = (self.items.len(), digest(&rest));
        fs::put_file_of_many(&self.directory.join(BEFORE), 0o644, None, |file| {
            header.taken = tick(file, latest)?;
            file.write_all(&json(header))?;
            file.write_all(b"\n")?;
            file.write_all(&rest)
        })?;
        self.keep_protecting()
    }

    /// Brings all that was taken to disk.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn sync(&self) -> Result<()> {
        let header = &self.header;
        let kept = [
            ("protecting", self.protecting().exists()),
            ("index", header.index),
            (EXCLUDES, header.excludes),
            ("stash", header.stash),
            (BEFORE, true),
            ("files", self.directory.join("files").exists()),
        ];
        let kept = kept.into_iter().filter(|(_, is_there)| *is_there).map(|(name, _)| self.directory.join(name));
        fs::sync_each(&kept.chain([self.directory.clone()]).collect::<Vec<_>>())
    }
}

/// Tells whether a file is kept with others in one. A user who may read one file may read all bytes in the pack.
fn is_small(item: &Item, owner: (u32, u32)) -> bool {
    /// A larger file gets a file of its own: it is copied by the system, or shares its blocks.
    const SMALL: u64 = 1 << 20;
    item.kind == Kind::File && item.stamp.is_some_and(|was| was.size() <= SMALL && was.owner().0 == owner.0)
}

/// The file system's time, which a new file shows. Waits until a change would show in the time stamps of every file: file systems count
/// in steps of milliseconds.
fn tick(new: &File, latest: (u32, u32)) -> std::io::Result<(u32, u32)> {
    const TICK: Retry = Retry::every(Duration::from_millis(2)).within(Duration::from_millis(200));
    let mut now = (0, 0);
    for waited in TICK {
        if !waited.is_zero() {
            new.set_modified(SystemTime::now())?;
        }
        now = Stat::of(&new.metadata()?).changed;
        if now > latest {
            break;
        }
    }
    Ok(now)
}

/// Puts small files into one, each by `pack`, which tells whether its bytes could be kept.
fn pack_all(
    items: Vec<&mut Item>,
    path: &Path,
    owner: (u32, u32),
    mut pack: impl FnMut(&mut Item, &mut dyn std::io::Write) -> Result<bool, Unfit>,
) -> Result<(), Unfit> {
    if items.is_empty() {
        return Ok(());
    }
    let mut failed = None;
    let given = Some(owner).filter(|_| crate::sys::effective_user() == 0);
    let written = fs::put_file(path, 0o600, given, |file| {
        let (mut packed, mut at) = (std::io::BufWriter::with_capacity(1 << 20, file), 0);
        for item in items {
            match pack(item, &mut packed) {
                Ok(true) => {
                    let size = item.stamp.map_or(0, Stamp::size);
                    item.content = Content::Packed { at, size };
                    at += size;
                }
                Ok(false) => {}
                Err(error) => {
                    failed = Some(error);
                    return Err(std::io::ErrorKind::Other.into());
                }
            }
        }
        packed.flush()
    });
    failed.map_or_else(|| written.map_err(Unfit::Trouble), Err)
}

/// Appends the bytes of a file to others; returns how many. It may have fewer than it had a moment ago, or more than these.
fn pack(from: &Place, size: u64, to: &mut dyn std::io::Write) -> Result<u64> {
    let mut file = fs::read_file(from)?.take(size + 1);
    std::io::copy(&mut file, to).map_err(Error::io("copy", from.path()))
}

/// Notes where the bytes of a file or link were copied to. `false` if we may not read it, like a container's leftovers: such a file
/// has no copy, and does not matter as long as it stays as it is.
fn is_kept(item: &mut Item, copied: Result<()>, content: Content) -> Result<bool> {
    match copied {
        Err(error) if fs::is_forbidden(&error) => {
            (item.kind, item.content) = (Kind::Special, Content::None);
            Ok(false)
        }
        copied => {
            copied?;
            item.content = content;
            Ok(true)
        }
    }
}

fn unchanged(item: &Item, now: Option<Found>) -> Result<(), Unfit> {
    if now.map(|found| Stamp::of(&found)) == item.stamp { Ok(()) } else { Err(written_meanwhile(item)) }
}

fn written_meanwhile(item: &Item) -> Unfit {
    let what = format!("`{}` was written while it was read", path_of(&item.path).display());
    Unfit::Trouble(Error::ChangedMeanwhile { what })
}

/// Anything as a line of JSON.
fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}
