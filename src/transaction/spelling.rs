//! Finds how paths are spelled on disk. On macOS, `/mnt/c` and vfat, names that differ in case only, or in how accents
//! are composed, are one name: a look at `a` finds `A`. There, a file that was renamed so is found under both names,
//! and only its directory tells which is the right one.

use std::{
    collections::{HashMap, HashSet},
    rc::Rc,
};

use super::baseline::{Baseline, Kind, below};
use crate::{
    error::{Error, Result},
    fs,
    repo::path_of,
    sys,
};

/// The names in the directories of a worktree, each listed once.
pub(super) struct Spelling<'a> {
    before: &'a Baseline,
    listed: HashMap<Vec<u8>, Rc<HashSet<Vec<u8>>>>,
}

/// A file that is spelled otherwise than before.
pub(super) struct Respelled {
    pub(super) was: Vec<u8>,
    pub(super) is: Vec<u8>,
}

impl<'a> Spelling<'a> {
    pub(super) fn new(before: &'a Baseline) -> Self {
        Self { before, listed: HashMap::new() }
    }

    fn names(&mut self, directory: &[u8]) -> Rc<HashSet<Vec<u8>>> {
        let path = self.before.checkout.root.join(path_of(directory));
        let list = || {
            let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
            Rc::new(entries.map(|entry| sys::bytes(&entry.file_name()).into_owned()).collect())
        };
        Rc::clone(self.listed.entry(directory.to_vec()).or_insert_with(list))
    }

    /// The path as the directories on the way spell it; `None` if nothing is there.
    pub(super) fn on_disk(&mut self, path: &[u8]) -> Option<Vec<u8>> {
        let mut spelled = Vec::new();
        for name in path.split(|byte| *byte == b'/') {
            let names = self.names(&spelled);
            let wanted = below(&spelled, name);
            if names.contains(name) {
                spelled = wanted;
                continue;
            }
            let place = |path: &[u8]| fs::identity(&self.before.checkout.root.join(path_of(path)));
            let id = place(&wanted)?;
            spelled = names.iter().map(|other| below(&spelled, other)).find(|other| place(other) == Some(id))?;
        }
        Some(spelled)
    }

    /// All files of before that are spelled otherwise now.
    pub(super) fn respelled(&mut self) -> Result<Vec<Respelled>> {
        let mut paths: Vec<Vec<u8>> = Vec::new();
        if let Some(mut entries) = self.before.entries()? {
            while let Some(entry) = entries.next()? {
                paths.push(entry.path.to_vec());
            }
        }
        let files = self.before.items.iter().filter(|item| matches!(item.kind, Kind::File | Kind::Link));
        paths.extend(files.map(|item| item.path.clone()));
        paths.sort();
        paths.dedup();
        let known = self.before.spellings();
        let mut found = Vec::new();
        for was in paths {
            let wanted = known.get(&was).unwrap_or(&was).clone();
            if let Some(is) = self.on_disk(&was).filter(|is| *is != wanted) {
                found.push(Respelled { was, is });
            }
        }
        Ok(found)
    }

    /// Gives all files, and the directories above them, the names that they had.
    pub(super) fn put_back(&mut self) -> Result<()> {
        /// Each round renames at least one level.
        const MOST: usize = 10_000;
        for _ in 0..MOST {
            let Some(Respelled { was, is }) = self.respelled()?.into_iter().next() else { return Ok(()) };
            let wanted = self.before.spellings().get(&was).unwrap_or(&was).clone();
            let ends = |path: &[u8]| -> Vec<usize> {
                (0..path.len()).filter(|at| path[*at] == b'/').chain([path.len()]).collect()
            };
            let levels = ends(&wanted).into_iter().zip(ends(&is));
            let Some((to, from)) = levels.map(|(to, from)| (&wanted[..to], &is[..from])).find(|(to, from)| to != from)
            else {
                return Ok(());
            };
            let root = &self.before.checkout.root;
            let (from, to) = (root.join(path_of(from)), root.join(path_of(to)));
            fs::rename(&from, &to)?;
            self.listed.clear();
            if self.on_disk(&was).is_some_and(|now| now == is) {
                return Err(Error::NotPutBack { paths: vec![path_of(&was)] });
            }
        }
        Ok(())
    }
}
