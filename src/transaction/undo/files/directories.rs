//! Opens directories while files are put back, and closes and removes them afterwards.

use std::collections::BTreeSet;

use super::{
    super::super::baseline::{Baseline, DIRECTORY, KIND, Kind, PERMISSIONS, parents},
    PutBack, USE,
};
use crate::{error::Result, fs, sys};

impl PutBack<'_> {
    /// Makes every directory one that can be read and written to.
    pub(super) fn open_directories(&mut self) -> Result<()> {
        self.set_top(|now| now | USE)?;
        for (path, _) in &self.directories {
            let Some(found) = self.look(path)?.filter(|found| found.mode & KIND == DIRECTORY) else { continue };
            let mode = found.mode & PERMISSIONS;
            if mode & USE != USE {
                match self.set_mode(path, mode | USE) {
                    // Another user's: what is in it is not ours to change.
                    Err(error) if fs::is_forbidden(&error) => {}
                    set => drop(set?),
                }
            }
        }
        Ok(())
    }

    pub(super) fn close_directories(&mut self) -> Result<()> {
        for (path, mode) in self.directories.iter().rev() {
            let Some(found) = self.look(path)?.filter(|found| found.mode & KIND == DIRECTORY) else { continue };
            if found.mode & PERMISSIONS != *mode && !self.theirs.contains(path) {
                self.set_mode(path, *mode)?;
            }
        }
        self.set_top(|_| self.before.header.top)
    }

    /// Changes the permission bits of the worktree's top.
    pub(super) fn set_top(&self, change: impl Fn(u32) -> u32) -> Result<()> {
        let top = self.root.top();
        let now = fs::metadata(&top)?.permissions();
        // A user who does not own it could not have changed it, either.
        if change(now) == now || self.before.header.top == now {
            return Ok(());
        }
        self.set_mode(b"", change(now)).map(drop)
    }

    /// Sets the permission bits of an entry, or of the top if the path is empty; `false` if its owner is not the stranger whose mutation
    /// this is.
    pub(super) fn set_mode(&self, path: &[u8], mode: u32) -> Result<bool> {
        let place = self.at(path)?;
        match self.before.stranger() {
            Some(user) => fs::set_mode_of(&place, self.before.rights(mode, None).0, user),
            None => fs::set_mode(&place, mode).map(|()| true),
        }
    }

    /// Tells whether the stranger whose mutation this is can have changed an entry. Its owner may forge what was there before.
    pub(super) fn is_within_reach(&self, path: &[u8]) -> Result<bool> {
        const SEARCH: u32 = 0o011;
        const WRITE: u32 = 0o022;
        const STICKY: u32 = 0o1000;
        let Some(user) = self.before.stranger() else { return Ok(true) };
        let entry = self.look(path)?;
        let is_owners = entry.is_some_and(|entry| entry.owner.0 == user);
        let mut writable = entry.is_some_and(|entry| entry.is_file() && (is_owners || entry.mode & WRITE != 0));
        let mut nearest = true;
        for above in parents(path).into_iter().chain([Vec::new()]) {
            let found = if above.is_empty() { Some(fs::metadata(self.root.top())?) } else { self.look(&above)? };
            let Some(found) = found else { continue };
            let own = found.owner.0 == user;
            if nearest {
                let sticky = found.mode & STICKY != 0 && entry.is_some() && !is_owners;
                writable |= own || (found.mode & WRITE != 0 && !sticky);
                nearest = false;
            }
            if !(own || found.mode & SEARCH != 0) {
                return Ok(false);
            }
        }
        Ok(writable)
    }

    /// Sees to it that the directories above a path are there.
    pub(super) fn make_way(&mut self, path: &[u8]) -> Result<()> {
        for above in parents(path).into_iter().rev() {
            if self.look(&above)?.is_some_and(|found| found.mode & KIND != DIRECTORY) {
                self.take(&above)?;
            }
        }
        match parents(path).first() {
            Some(above) => fs::make_directories(&self.root.at(above)?, Some(self.before.header.directory | USE)),
            None => Ok(()),
        }
    }

    /// Removes directories that are empty since new files were taken away, the deepest first. Others stay.
    pub(super) fn remove_emptied(&mut self) -> Result<()> {
        let known = |path: &[u8]| self.directories.iter().any(|(known, _)| known == path);
        for path in self.emptied.iter().filter(|path| !path.is_empty() && !known(path)) {
            // The command may have made it without permission to remove entries. A directory that has gone needs nothing.
            if let Some(found) = self.look(path)?.filter(sys::Found::is_dir) {
                drop(self.set_mode(path, found.permissions() | USE));
            }
        }
        for path in self.emptied.iter().rev() {
            let was_empty = self.before.item(path).is_some_and(|item| item.kind == Kind::Directory);
            if was_empty || path.is_empty() {
                continue;
            }
            match fs::remove_if_empty(&self.root.at(path)?) {
                Ok(true) => {}
                Err(error) if !fs::is_forbidden(&error) => return Err(error),
                _ => self.left.push(path.clone()),
            }
        }
        Ok(())
    }
}

/// All directories that held something, from the top down, with the permission bits that they had.
pub(super) fn directories(before: &Baseline) -> Result<Vec<(Vec<u8>, u32)>> {
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
