//! How are files put back? First the ignore rules, since they say which new files are anybody's business; then what is new
//! is taken away, and what was there put in its place.

use std::{
    collections::{BTreeSet, HashSet},
    io::Write as _,
    path::{Path, PathBuf},
};

use super::{
    before::{Before, DIRECTORY, KIND, Kind, PERMISSIONS, REGULAR, Stamp, below, parents},
    changes::{Changes, Touched, Was},
};
use crate::{
    error::{Error, Result},
    fs,
    repo::{Blobs, path_of},
    store::kept::Keeping,
    sys::{self, Below},
};

/// What the owner of a directory must be allowed to do while files are put into it.
const USE: u32 = 0o700;
/// What the owner must be allowed to do to see what is in it.
const READ: u32 = 0o500;

/// So many files are written to disk one by one.
const MOST_SYNCS: usize = 32;

/// Files on their way back.
pub(super) struct PutBack<'a> {
    before: &'a Before,
    keeping: &'a mut Keeping,
    /// Paths that belong to somebody else by now.
    theirs: &'a HashSet<Vec<u8>>,
    blobs: Blobs,
    /// Directories that held tracked files, with their permission bits.
    directories: Vec<(Vec<u8>, u32)>,
    /// Directories that something was taken out of.
    emptied: BTreeSet<Vec<u8>>,
    left: Vec<Vec<u8>>,
    /// They are written to disk together.
    many: bool,
}

impl<'a> PutBack<'a> {
    pub(super) fn new(before: &'a Before, keeping: &'a mut Keeping, theirs: &'a HashSet<Vec<u8>>) -> Result<Self> {
        let blobs = before.checkout.blobs()?;
        let directories = directories(before)?;
        Ok(Self {
            before,
            keeping,
            theirs,
            blobs,
            directories,
            emptied: BTreeSet::new(),
            left: Vec::new(),
            many: false,
        })
    }

    /// Does all of it; returns what was left.
    ///
    /// # Errors
    /// [`Error::NotPutBack`] when something differs afterwards; what the system says.
    pub(super) fn run(mut self) -> Result<Vec<Vec<u8>>> {
        self.open_directories()?;
        self.put_rules_back()?;
        let changes = Changes::look(self.before)?;
        self.take_new(&changes)?;
        self.take_special(&changes)?;
        let touched: Vec<&Touched> = changes.touched.iter().filter(|touched| !touched.new).collect();
        self.many = touched.len() > MOST_SYNCS;
        self.put_all_back(&touched)?;
        if self.many {
            fs::sync_all(&self.before.checkout.root)?;
        }
        self.remove_emptied()?;
        self.close_directories()?;
        self.look_again()?;
        Ok(self.left)
    }

    fn path(&self, path: &[u8]) -> PathBuf {
        self.before.checkout.root.join(path_of(path))
    }

    fn look(&self, path: &[u8]) -> Result<Option<sys::Found>> {
        let root = &self.before.checkout.root;
        Below::open(root).and_then(|mut below| below.look(path)).map_err(Error::io("read", self.path(path)))
    }

    /// Makes every directory one that can be read and written to.
    fn open_directories(&mut self) -> Result<()> {
        self.set_top(|now| now | USE)?;
        for (path, _) in &self.directories {
            let Some(found) = self.look(path)?.filter(|found| found.mode & KIND == DIRECTORY) else { continue };
            let mode = found.mode & PERMISSIONS;
            if mode & USE != USE {
                sys::set_mode(&self.path(path), mode | USE)
                    .map_err(Error::io("change the mode of", self.path(path)))?;
            }
        }
        Ok(())
    }

    fn close_directories(&mut self) -> Result<()> {
        for (path, mode) in self.directories.iter().rev() {
            let Some(found) = self.look(path)?.filter(|found| found.mode & KIND == DIRECTORY) else { continue };
            if found.mode & PERMISSIONS != *mode && !self.theirs.contains(path) {
                sys::set_mode(&self.path(path), *mode).map_err(Error::io("change the mode of", self.path(path)))?;
            }
        }
        self.set_top(|_| self.before.header.top)
    }

    /// Changes the permission bits of the worktree's top.
    fn set_top(&self, change: impl Fn(u32) -> u32) -> Result<()> {
        let top = &self.before.checkout.root;
        let now = std::fs::metadata(top).map(|metadata| sys::mode(&metadata)).map_err(Error::io("read", top))?;
        // Who does not own it could not have changed it either.
        if change(now) == now || self.before.header.top == now {
            return Ok(());
        }
        sys::set_mode(top, change(now)).map_err(Error::io("change the mode of", top))
    }

    /// Puts the ignore rules back, and takes new ones away: they could hide other new files.
    fn put_rules_back(&mut self) -> Result<()> {
        // Where it is a link, what it leads to has changed.
        let exclude = self.before.checkout.exclude_file();
        let exclude = exclude.canonicalize().unwrap_or(exclude);
        let read = |path: &Path| std::fs::read(path).ok();
        let kept = self.before.kept_exclude();
        let was = kept.as_deref().and_then(read);
        if read(&exclude) != was {
            match was {
                Some(was) => fs::put_file(&exclude, 0o644, None, |file| file.write_all(&was))?,
                None => fs::remove_entry(&exclude)?,
            }
        }
        let hidden = self.before.hidden_rules();
        let tops = [Vec::new()].into_iter().chain(self.directories.iter().map(|(path, _)| path.clone()));
        let rules: Vec<Vec<u8>> = tops.map(|top| below(&top, b".gitignore")).collect();
        let views: Vec<&[u8]> = rules.iter().map(Vec::as_slice).collect();
        let were = self.before.were(&views)?;
        for (path, was) in rules.iter().zip(were) {
            let now = self.look(path)?;
            match was {
                None if now.is_some() && !hidden.contains(path) => self.take(path)?,
                Some(was) => {
                    let touched = Touched { path: path.clone(), now: now.as_ref().map(Stamp::of), new: false };
                    self.put_one_back(&touched, &was)?;
                }
                None => {}
            }
        }
        // New directories may hold rules that hide themselves and all else in there.
        let untracked = self.before.checkout.untracked(&self.before.index())?;
        for directory in untracked.directories {
            if self.before.item(&directory).is_none() {
                self.take_rules_below(directory)?;
            }
        }
        Ok(())
    }

    fn take_rules_below(&mut self, top: Vec<u8>) -> Result<()> {
        let mut open = vec![top];
        while let Some(directory) = open.pop() {
            let path = self.path(&directory);
            if path.join(".git").exists() {
                continue;
            }
            let mode = std::fs::symlink_metadata(&path).map(|metadata| sys::mode(&metadata));
            // What it is in stays as the command made it, as far as it can be read.
            if let Ok(mode) = mode
                && mode & READ != READ
            {
                sys::set_mode(&path, mode | READ).map_err(Error::io("change the mode of", &path))?;
            }
            for entry in std::fs::read_dir(&path).map_err(Error::io("list", &path))? {
                let entry = entry.map_err(Error::io("list", &path))?;
                let name = entry.file_name();
                let inner = below(&directory, &sys::bytes(&name));
                if name == ".gitignore" {
                    self.take(&inner)?;
                } else if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    open.push(inner);
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, path: &[u8]) -> Result<()> {
        if self.theirs.contains(path) {
            return Ok(());
        }
        self.keeping.take(path)?;
        self.emptied.extend(parents(path));
        Ok(())
    }

    fn take_new(&mut self, changes: &Changes) -> Result<()> {
        for path in changes.new_paths() {
            match path.strip_suffix(b"/") {
                Some(directory) if !self.path(directory).join(".git").exists() => {
                    self.emptied.insert(directory.to_vec());
                }
                Some(repository) => self.take(repository)?,
                None => self.take(path)?,
            }
        }
        Ok(())
    }

    /// Takes FIFOs and sockets that were made since, which git does not see.
    fn take_special(&mut self, changes: &Changes) -> Result<()> {
        let new = changes.new_paths().filter_map(|path| path.strip_suffix(b"/")).map(<[u8]>::to_vec);
        let known = self.directories.iter().map(|(path, _)| path.clone());
        let directories: BTreeSet<Vec<u8>> = [Vec::new()].into_iter().chain(known).chain(new).collect();
        let mut found = Vec::new();
        for directory in directories {
            // What is no directory any more holds nothing.
            for entry in std::fs::read_dir(self.path(&directory)).into_iter().flatten().flatten() {
                let is_usual = |kind: std::fs::FileType| kind.is_file() || kind.is_dir() || kind.is_symlink();
                let path = below(&directory, &sys::bytes(&entry.file_name()));
                if entry.file_type().is_ok_and(is_usual) || self.before.item(&path).is_some() {
                    continue;
                }
                if self.look(&path)?.is_some_and(|now| self.before.is_from_after(&now)) {
                    found.push(path);
                }
            }
        }
        let ignored = self.before.checkout.ignored(&self.before.checkout.root, &found)?;
        found.retain(|path| !ignored.contains(path));
        found.iter().try_for_each(|path| self.take(path))
    }

    fn put_all_back(&mut self, touched: &[&Touched]) -> Result<()> {
        let paths: Vec<&[u8]> = touched.iter().map(|touched| touched.path.as_slice()).collect();
        let were = self.before.were(&paths)?;
        // What was nothing goes first: it may be in the way of what was something.
        let (gone, there): (Vec<_>, Vec<_>) = touched
            .iter()
            .zip(were)
            .filter_map(|(touched, was)| Some((*touched, was?)))
            .partition(|(_, was)| was.kind == Kind::Absent);
        for (touched, was) in gone.iter().chain(&there) {
            self.put_one_back(touched, was)?;
        }
        Ok(())
    }

    fn put_one_back(&mut self, touched: &Touched, was: &Was) -> Result<()> {
        let path = touched.path.as_slice();
        if self.theirs.contains(path) {
            return Ok(());
        }
        // Looked at again: what was put back before may have made room, or have taken this away.
        let now = self.look(path)?;
        let touched = &Touched { now: now.as_ref().map(Stamp::of), ..touched.clone() };
        let is_submodule = was.kind == Kind::Submodule;
        if !is_submodule && self.before.is_as_it_was(touched, was, &mut self.blobs)? {
            return Ok(());
        }
        let full = self.path(path);
        let kind = now.map(|now| now.mode & KIND);
        match (was.kind, kind) {
            (Kind::Absent, _) => return self.take(path),
            (Kind::Directory, Some(DIRECTORY)) => {
                return sys::set_mode(&full, was.mode).map_err(Error::io("change the mode of", full));
            }
            (Kind::Submodule | Kind::Repository | Kind::Special, _) => {
                // No bytes of it were kept.
                self.left.push(path.to_vec());
                return Ok(());
            }
            (Kind::File, Some(REGULAR)) if self.is_only_the_mode(touched, was)? => {
                return sys::set_mode(&full, was.mode).map_err(Error::io("change the mode of", full));
            }
            (_, Some(_)) => self.take(path)?,
            (_, None) => self.keeping.deleted(path)?,
        }
        self.make_way(path)?;
        let owner = was.owner.filter(|_| sys::effective_user() == 0);
        match was.kind {
            Kind::Directory => {
                fs::make_directories(&full, Some(self.before.header.directory))?;
                sys::set_mode(&full, was.mode).map_err(Error::io("change the mode of", full))
            }
            Kind::Link => {
                let mut target = Vec::new();
                self.before
                    .bytes(was, &mut self.blobs, &mut target)
                    .map_err(Error::io("read what was kept of", &full))?;
                fs::put_link(&full, &path_of(&target), owner)
            }
            _ => {
                let (before, blobs) = (self.before, &mut self.blobs);
                // One by one, the disk would take longer than all of it together.
                if self.many {
                    fs::put_file_of_many(&full, was.mode, owner, |file| before.bytes(was, blobs, file))
                } else {
                    fs::put_file(&full, was.mode, owner, |file| before.bytes(was, blobs, file))
                }
            }
        }
    }

    fn is_only_the_mode(&mut self, touched: &Touched, was: &Was) -> Result<bool> {
        let mode = touched.now.map_or(0, |now| now.mode() & PERMISSIONS);
        self.before.is_as_it_was(touched, &Was { mode, ..was.clone() }, &mut self.blobs)
    }

    /// Sees to it that the directories above a path are there.
    fn make_way(&mut self, path: &[u8]) -> Result<()> {
        for above in parents(path).into_iter().rev() {
            if self.look(&above)?.is_some_and(|found| found.mode & KIND != DIRECTORY) {
                self.keeping.take(&above)?;
            }
        }
        let full = self.path(path);
        fs::make_directories(full.parent().unwrap_or(&full), Some(self.before.header.directory | USE))
    }

    /// Removes directories that were made for what was taken away, the deepest first. What holds anything stays.
    fn remove_emptied(&mut self) -> Result<()> {
        let known = |path: &[u8]| self.directories.iter().any(|(known, _)| known == path);
        for path in self.emptied.iter().filter(|path| !path.is_empty() && !known(path)) {
            // Made by the command, perhaps so that nothing can be removed from it. What has gone needs nothing.
            let full = self.path(path);
            if let Some(metadata) = std::fs::symlink_metadata(&full).ok().filter(std::fs::Metadata::is_dir) {
                drop(sys::set_mode(&full, sys::mode(&metadata) | USE));
            }
        }
        for path in self.emptied.iter().rev() {
            let was_empty = self.before.item(path).is_some_and(|item| item.kind == Kind::Directory);
            if !was_empty && !path.is_empty() && !fs::remove_if_empty(&self.path(path))? {
                self.left.push(path.clone());
            }
        }
        Ok(())
    }

    /// Says of nothing that it was put back before that was seen.
    fn look_again(&mut self) -> Result<()> {
        let changes = Changes::look(self.before)?;
        let paths: Vec<&[u8]> = changes.touched.iter().map(|touched| touched.path.as_slice()).collect();
        let were = self.before.were(&paths)?;
        let mut wrong = Vec::new();
        for (touched, was) in changes.touched.iter().zip(were) {
            let path = touched.path.strip_suffix(b"/").unwrap_or(&touched.path);
            if self.theirs.contains(path) || self.left.iter().any(|left| left == path) {
                continue;
            }
            let same = match was {
                Some(was) => self.before.is_as_it_was(touched, &was, &mut self.blobs)?,
                // Directories that hold nothing but ignored files.
                None => touched.path.ends_with(b"/"),
            };
            if !same {
                wrong.push(path.to_vec());
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(Error::NotPutBack { paths: super::readable(&wrong) }) }
    }
}

/// All directories that held something, from the top down, with the permission bits that they had.
fn directories(before: &Before) -> Result<Vec<(Vec<u8>, u32)>> {
    let mut found: BTreeSet<Vec<u8>> = BTreeSet::new();
    let mut last: Vec<u8> = Vec::new();
    if let Some(mut entries) = before.entries()? {
        while let Some(entry) = entries.next()? {
            let end = entry.path.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
            if last != entry.path[..end] {
                last.clear();
                last.extend_from_slice(&entry.path[..end]);
                found.extend(parents(entry.path));
            }
        }
    }
    for item in before.items.iter().filter(|item| item.kind != Kind::Absent) {
        found.extend(parents(&item.path));
        if item.kind == Kind::Directory {
            found.insert(item.path.clone());
        }
    }
    let mode = |path: &[u8]| {
        let item = before.item(path).filter(|item| item.kind == Kind::Directory);
        item.map_or(before.header.directory, |item| item.mode)
    };
    Ok(found.into_iter().map(|path| (mode(&path), path)).map(|(mode, path)| (path, mode)).collect())
}
