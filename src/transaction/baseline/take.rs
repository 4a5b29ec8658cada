//! Captures the state before a mutation. Git walks the worktree for untracked files while this process looks at the tracked ones.

use std::{
    cell::Cell,
    collections::HashSet,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde::Serialize;

use super::{
    super::{changes::too_deep, scan::Look, spelling::Spelling, standby::Standby},
    Baseline, EXCLUDES, Keep, MOST_BYTES, PACKED, Unfit, digest, owner,
    record::{Content, Header, Item, Kind, SCHEMA, Stamp, stamp},
};
use crate::{
    error::{Error, Result},
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
            exclude: false,
            excludes: false,
            ignore_case: false,
            stash: false,
            own_index: false,
            taken: (0, 0),
            operations: checkout.operation_files(),
            top: std::fs::metadata(&checkout.root).map_or(0o755, |metadata| crate::sys::mode(&metadata)),
            plain: 0,
            executable: 0,
            directory: 0,
            digests: Default::default(),
            hidden_rules: Vec::new(),
            spellings: Vec::new(),
            logs: Vec::new(),
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
            standby: None,
            is_left: false,
            is_strangers: false,
        };
        let written = written.unwrap_or_default();
        if !before.look(written, keep)? {
            // Our copy becomes one that holds all entries.
            before.checkout.unfold(&before.index())?;
            if !before.look(written, keep)? {
                let reason = "git could not make it one that is neither split nor sparse".to_owned();
                return Err(Unfit::Trouble(Error::BrokenRepository { path: before.index(), reason }));
            }
        }
        if before.checkout.is_one_case() {
            let respelled = Spelling::new(&before).respelled()?;
            let both = respelled.iter().map(|one| (super::super::escape(&one.was), super::super::escape(&one.is)));
            before.header.spellings = both.collect();
        }
        before.keep_the_rest()?;
        before.write()?;
        before.use_kept_excludes();
        Ok(before)
    }

    /// `false` if the index is split or sparse, and nothing was found out.
    fn look(&mut self, written: (u32, u32), keep: &Keep<'_>) -> Result<bool, Unfit> {
        let (kept, tree) = (self.index(), self.tree());
        let checkout = &self.checkout;
        // Git walks the worktree for untracked files while we look at the tracked ones.
        let (untracked, references, looked) = std::thread::scope(|scope| {
            let untracked = beside(scope, || checkout.untracked(&kept));
            let references = beside(scope, || checkout.references());
            let looked = Look::new(checkout).and_then(|mut look| {
                let walked = look.tracked(&kept, written)?;
                let is_clean = walked.tree.is_some_and(|noted| checkout.is_tree_of(&tree, &noted));
                let staged = if is_clean { Vec::new() } else { checkout.staged(&kept, &tree)? };
                Ok((staged, look, walked.is_partial))
            });
            (untracked.join(), references.join(), looked)
        });
        let (untracked, references) = (untracked?, references?);
        if let Some(path) = untracked.too_deep.first() {
            let top = path.split(|byte| *byte == b'/').next().unwrap_or(path);
            return Err(Unfit::Trouble(too_deep(top)));
        }
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
        if !dirty.is_empty() && !keep.allow_dirty {
            return Err(Unfit::Dirty(dirty));
        }
        let staged_paths: HashSet<&[u8]> = staged.iter().map(|change| change.path.as_slice()).collect();
        look.convert(&kept, &untracked)?;
        look.untracked(&untracked, keep.untracked)?;
        look.odd(untracked.strays.as_deref());
        look.own(&staged_paths)?;
        look.items.sort_by(|a, b| a.path.cmp(&b.path));
        let (latest, intents) = (look.latest, look.intents);
        (self.header.plain, self.header.executable, self.header.directory) =
            (look.plain.unwrap_or(0o644), look.executable.unwrap_or(0o755), look.directory.unwrap_or(0o755));
        self.header.hidden_rules =
            look.hidden_rules(&untracked).iter().map(|path| super::super::escape(path)).collect();
        self.items = look.items;
        self.references = references;
        self.header.own_index = !staged.is_empty() || intents;
        let blobs = staged.iter().filter(|change| change.mode != "160000").map(|change| change.id.clone());
        self.staged = blobs.filter(|id| id.bytes().any(|byte| byte != b'0')).chain(look.conflicting).collect();
        // The copies keep their modes; in the worktree, a directory above may hide them.
        let sharing = Sharing::of(self.directory.ancestors().nth(2));
        fs::make_private_directory(&self.directory.join("files"), sharing)?;
        let latest = latest.max(self.keep_contents(keep)?);
        self.let_the_clock_tick(latest)?;
        Ok(true)
    }

    /// Copies what git could not give back: large files and links one by one, small files into one.
    fn keep_contents(&mut self, keep: &Keep<'_>) -> Result<(u32, u32), Unfit> {
        /// A larger file gets a file of its own: it is copied by the system, or shares its blocks.
        const SMALL: u64 = 1 << 20;
        let owner = self.owner;
        // A user who may read one file may read all bytes in the pack.
        let is_small = |item: &Item| {
            item.kind == Kind::File && item.stamp.is_some_and(|was| was.size() <= SMALL && was.owner().0 == owner.0)
        };
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
        let (mut kept, mut reported, said) = ((0, 0), Instant::now(), Cell::new(false));
        let mut keeps = |item: &Item| {
            kept = (kept.0 + 1, kept.1 + bytes(item));
            if reported.elapsed() >= Duration::from_secs(1) {
                reported = Instant::now();
                said.set(true);
                (keep.report)(kept, all);
            }
        };
        let (small, large): (Vec<_>, Vec<_>) = items.into_iter().partition(|item| is_small(item));
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

    /// Waits until a change would show in the time stamps of every file: file systems count in steps of milliseconds.
    fn let_the_clock_tick(&mut self, latest: (u32, u32)) -> Result<()> {
        const TICK: Retry = Retry::every(Duration::from_millis(2)).within(Duration::from_millis(200));
        let probe = self.directory.join("now");
        for _ in TICK {
            fs::remove(&probe);
            fs::write_new(&probe, b"", Sharing::default())?;
            let now = std::fs::symlink_metadata(&probe).map(|metadata| Stat::of(&metadata).changed);
            self.header.taken = now.map_err(Error::io("read", &probe))?;
            if self.header.taken > latest {
                break;
            }
        }
        fs::remove(&probe);
        Ok(())
    }

    fn keep_the_rest(&mut self) -> Result<()> {
        let directory = self.directory.clone();
        let put = |name: &str, bytes: &[u8]| {
            fs::put_file_of_many(&directory.join(name), 0o644, None, |file| file.write_all(bytes))
        };
        // By its bytes: it may be a link to where others keep it.
        let keep = |from: PathBuf, name: &str| match fs::read_whole(&from, MOST_BYTES) {
            Ok(bytes) => put(name, &bytes).map(|()| true),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Error::io("read", from)(error)),
        };
        self.header.logs = self.keep_logs()?;
        self.header.exclude = keep(self.checkout.exclude_file(), "exclude")?;
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

    fn write(&mut self) -> Result<()> {
        let directory = self.directory.clone();
        let write = |name: &str, lines: Vec<Vec<u8>>| {
            let path = directory.join(name);
            fs::put_file_of_many(&path, 0o644, None, |file| {
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
            ("exclude", header.exclude),
            (EXCLUDES, header.excludes),
            ("stash", header.stash),
            ("items.jsonl", true),
            ("references.jsonl", true),
            ("before.json", true),
            ("files", true),
        ];
        let kept = kept.into_iter().filter(|(_, is_there)| *is_there).map(|(name, _)| self.directory.join(name));
        fs::sync_each(&kept.chain([self.directory.clone()]).collect::<Vec<_>>())
    }
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
