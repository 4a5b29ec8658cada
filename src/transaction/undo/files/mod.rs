//! Puts files back. First the ignore rules, since they say which new files are anybody's business; then new files are
//! taken away, and what was there is put in its place.

mod directories;
mod rules;

use std::collections::{BTreeSet, HashSet};

use self::directories::directories;
use super::super::{
    baseline::{Baseline, DIRECTORY, KIND, Kind, PERMISSIONS, REGULAR, Stamp, below, parents},
    changes::{Changes, Touched, below_repository},
    earlier::Was,
    spelling::Spelling,
};
use crate::{
    error::{Error, Result},
    fs::{self, Place, Root},
    repo::{Blobs, path_of},
    store::kept::Keeping,
    sys::{self, Below},
};

/// Permissions of a directory's owner that are needed to put files into it.
const USE: u32 = 0o700;
/// Permissions of a directory's owner that are needed to list it.
const READ: u32 = 0o500;

/// So many files are written to disk one by one.
const MOST_SYNCS: usize = 32;

/// Files on their way back.
pub(super) struct PutBack<'a> {
    before: &'a Baseline,
    root: Root,
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
    pub(super) fn new(before: &'a Baseline, keeping: &'a mut Keeping, theirs: &'a HashSet<Vec<u8>>) -> Result<Self> {
        let blobs = before.checkout.blobs()?;
        let directories = directories(before)?;
        Ok(Self {
            before,
            root: before.checkout.tree()?,
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
        self.put_spelling_back()?;
        self.take_repositories()?;
        self.put_rules_back()?;
        let changes = Changes::scan(self.before)?;
        self.left.extend(changes.others.iter().cloned());
        self.take_new(&changes)?;
        self.take_special(&changes)?;
        let touched: Vec<&Touched> = changes.touched.iter().filter(|touched| !touched.new).collect();
        self.many = touched.len() > MOST_SYNCS;
        self.put_all_back(&touched)?;
        // Restored files have git's spelling.
        self.put_spelling_back()?;
        if self.many {
            fs::sync_all(&self.before.checkout.root)?;
        }
        self.remove_emptied()?;
        self.close_directories()?;
        self.look_again()?;
        Ok(self.left)
    }

    fn put_spelling_back(&self) -> Result<()> {
        if self.before.checkout.is_one_case() { Spelling::new(self.before).put_back() } else { Ok(()) }
    }

    /// The place of a path, or of the top if it is empty.
    fn at(&self, path: &[u8]) -> Result<Place> {
        if path.is_empty() { Ok(self.root.top()) } else { self.root.at(path) }
    }

    fn look(&self, path: &[u8]) -> Result<Option<sys::Found>> {
        let root = &self.before.checkout.root;
        let look = Below::open(root).and_then(|mut below| below.look(path));
        look.map_err(|error| Error::io("read", root.join(path_of(path)))(error))
    }

    fn is_repository(&self, directory: &[u8]) -> bool {
        self.at(directory).is_ok_and(|place| fs::metadata(place.child(".git")).is_ok())
    }

    /// Takes an entry away; `false` if it stays, because it does not belong to the command.
    fn take(&mut self, path: &[u8]) -> Result<bool> {
        if self.theirs.contains(path) {
            return Ok(false);
        }
        if !self.is_within_reach(path)? || self.holds_anothers(path)? {
            self.left.push(path.to_vec());
            return Ok(false);
        }
        match self.keeping.take(path) {
            // Root's, made in a container for example: it must not keep everything else from coming back.
            Err(error) if fs::is_forbidden(&error) => {
                self.left.push(path.to_vec());
                return Ok(false);
            }
            taken => taken?,
        }
        self.emptied.extend(parents(path));
        Ok(true)
    }

    fn take_new(&mut self, changes: &Changes) -> Result<()> {
        for directory in &changes.too_deep {
            // On another file system it cannot be copied, either. It stays, is named, and locks nobody out.
            if self.take(directory).is_err() {
                self.left.push(directory.clone());
            }
        }
        for path in changes.new_paths() {
            match path.strip_suffix(b"/") {
                Some(directory) if !self.is_repository(directory) => {
                    self.emptied.insert(directory.to_vec());
                }
                Some(repository)
                    if self.before.is_made_by_command(repository) && !self.before.had_directory(repository)? =>
                {
                    self.take(repository)?;
                }
                // Somebody else has made it meanwhile, and may be at work there.
                Some(repository) => self.left.push(repository.to_vec()),
                None => drop(self.take(path)?),
            }
        }
        Ok(())
    }

    /// Takes the `.git` out of directories that were there before, and that the command's gits made repositories of.
    fn take_repositories(&mut self) -> Result<()> {
        for path in self.before.new_repositories()? {
            let place = self.at(&path)?.child(".git");
            self.keeping.take_other("a repository", place.path())?;
        }
        Ok(())
    }

    /// Tells whether there is a repository in a directory, or it is one, that the command has not made.
    fn holds_anothers(&self, path: &[u8]) -> Result<bool> {
        if self.look(path)?.is_none_or(|found| found.mode & KIND != DIRECTORY) {
            return Ok(false);
        }
        let is_anothers = |path: &[u8]| self.is_repository(path) && !self.before.is_made_by_command(path);
        let inside = fs::hidden(&self.before.checkout.root.join(path_of(path)))?.repositories;
        let mut inside = inside.iter().map(|inner| below(path, &sys::bytes(inner.as_os_str())));
        Ok(is_anothers(path) || inside.any(|inner| is_anothers(&inner)))
    }

    /// Takes FIFOs and sockets that were made since, which git does not see.
    fn take_special(&mut self, changes: &Changes) -> Result<()> {
        let new = changes.new_paths().filter_map(|path| path.strip_suffix(b"/")).map(<[u8]>::to_vec);
        let known = self.directories.iter().map(|(path, _)| path.clone());
        let directories: BTreeSet<Vec<u8>> = [Vec::new()].into_iter().chain(known).chain(new).collect();
        let mut found = Vec::new();
        for directory in directories {
            // An entry of another kind holds no names.
            for name in fs::list_special(&self.at(&directory)?) {
                let path = below(&directory, &sys::bytes(&name));
                let is_usual = |now: &sys::Found| now.is_file() || now.is_dir() || now.is_link();
                let now = self.look(&path)?.filter(|now| !is_usual(now) && self.before.is_from_after(now));
                if now.is_some() && self.before.item(&path).is_none() {
                    found.push(path);
                }
            }
        }
        let ignored = self.before.checkout.ignored(&self.before.checkout.root, &found)?;
        found.retain(|path| !ignored.contains(path));
        found.iter().try_for_each(|path| self.take(path).map(drop))
    }

    fn put_all_back(&mut self, touched: &[&Touched]) -> Result<()> {
        let paths: Vec<&[u8]> = touched.iter().map(|touched| touched.path.as_slice()).collect();
        let were = self.before.were(&paths)?;
        // Paths that were free go first: their entries may be in the way of others.
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
        if !self.is_within_reach(path)? {
            self.left.push(path.to_vec());
            return Ok(());
        }
        if !self.before.has_bytes(was)? {
            self.left.push(path.to_vec());
            return Ok(());
        }
        let place = self.root.at(path)?;
        let (mode, owner) = self.before.rights(was.mode, was.owner);
        let kind = now.map(|now| now.mode & KIND);
        match (was.kind, kind) {
            (Kind::Absent, _) => return self.take(path).map(drop),
            (Kind::Directory, Some(DIRECTORY)) => return self.set_mode_or_leave(path, mode),
            // No bytes of these were kept.
            (Kind::Repository, Some(DIRECTORY)) => {
                self.left.push(below_repository(path));
                return Ok(());
            }
            (Kind::Submodule | Kind::Repository | Kind::Special | Kind::Odd, _) => {
                self.left.push(path.to_vec());
                return Ok(());
            }
            (Kind::File, Some(REGULAR)) if self.is_only_the_mode(touched, was)? => {
                return self.set_mode_or_leave(path, mode);
            }
            (_, Some(_)) if !self.take(path)? => return Ok(()),
            (_, Some(_)) => {}
            (_, None) => self.keeping.deleted(path)?,
        }
        self.make_way(path)?;
        self.make(was, &place, mode, owner)
    }

    /// Makes what was there in a free place.
    fn make(&mut self, was: &Was, place: &Place, mode: u32, owner: Option<(u32, u32)>) -> Result<()> {
        match was.kind {
            Kind::Directory => {
                fs::make_directories(place, Some(self.before.header.directory))?;
                fs::set_mode(place, mode)
            }
            Kind::Link => {
                let mut target = Vec::new();
                self.before
                    .bytes(was, &mut self.blobs, &mut target)
                    .map_err(Error::io("read what was kept of", place.path()))?;
                fs::put_link(place, &path_of(&target), owner)
            }
            _ => {
                let (before, blobs) = (self.before, &mut self.blobs);
                // One by one, the disk would take longer than all of it together.
                if self.many {
                    fs::put_file_of_many(place, mode, owner, |file| before.bytes(was, blobs, file))
                } else {
                    fs::put_file(place, mode, owner, |file| before.bytes(was, blobs, file))
                }
            }
        }
    }

    fn set_mode_or_leave(&mut self, path: &[u8], mode: u32) -> Result<()> {
        if !self.set_mode(path, mode)? {
            self.left.push(path.to_vec());
        }
        Ok(())
    }

    fn is_only_the_mode(&mut self, touched: &Touched, was: &Was) -> Result<bool> {
        let mode = touched.now.map_or(0, |now| now.mode() & PERMISSIONS);
        self.before.is_as_it_was(touched, &Was { mode, ..was.clone() }, &mut self.blobs)
    }

    /// Says of nothing that it was put back before that was seen.
    fn look_again(&mut self) -> Result<()> {
        let changes = Changes::scan(self.before)?;
        // They came from where git did not look, and nobody knows their place.
        self.left.extend(changes.hidden.iter().cloned());
        let paths: Vec<&[u8]> = changes.touched.iter().map(|touched| touched.path.as_slice()).collect();
        let were = self.before.were(&paths)?;
        let mut wrong = Vec::new();
        for (touched, was) in changes.touched.iter().zip(were) {
            let path = touched.path.strip_suffix(b"/").unwrap_or(&touched.path);
            let is_left = |left: &Vec<u8>| left == path || *left == below_repository(path);
            if self.theirs.contains(path) || self.left.iter().any(is_left) {
                continue;
            }
            let same = match was {
                Some(was) => self.before.is_as_it_was(touched, &was, &mut self.blobs)?,
                // Directories with only ignored files.
                None => touched.path.ends_with(b"/"),
            };
            if !same {
                wrong.push(path.to_vec());
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(Error::NotPutBack { paths: super::super::readable(&wrong) }) }
    }
}
