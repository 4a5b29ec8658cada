//! Puts the ignore rules back.

use std::{collections::HashSet, io::Write as _};

use super::{
    super::super::{
        baseline::{DIRECTORY, HiddenRules, KIND, MOST_BYTES, PERMISSIONS, Stamp, below, parents},
        changes::Touched,
    },
    PutBack, READ,
};
use crate::{
    error::{Error, Result},
    fs,
    repo::EXCLUDE,
    sys,
};

impl PutBack<'_> {
    /// Puts the ignore rules back, and takes new ones away: they could hide other new files.
    pub(super) fn put_rules_back(&mut self) -> Result<()> {
        let exclude = self.before.checkout.common_place(EXCLUDE)?;
        // What a command put into its place.
        if fs::metadata(&exclude).is_ok_and(|now| !now.is_file() && self.before.is_from_after(&now)) {
            self.keeping.take_other("in place of the ignore rules", exclude.path())?;
        }
        let (now, is_linked) = match fs::find(&exclude) {
            Err(Error::Io { source, .. }) if sys::is_link_error(&source) => (None, true),
            now => now.map(|now| (now, now.is_some_and(|now| !now.is_file())))?,
        };
        // A link, or a file in a linked directory, does not belong to this repository, and stays as it is.
        if !is_linked {
            let was = self.before.kept_exclude();
            let is = now.and_then(|_| fs::read_whole(exclude.path(), MOST_BYTES).ok());
            match was {
                Some(was) if is.as_ref() != Some(&was) => {
                    if let Some(info) = std::path::Path::new(EXCLUDE).parent() {
                        fs::make_directories(&self.before.checkout.common_place(&info.to_string_lossy())?, None)?;
                    }
                    fs::put_file(&exclude, 0o644, None, |file| file.write_all(&was))?;
                }
                None if now.is_some() => fs::remove_entry(&exclude)?,
                _ => {}
            }
        }
        self.put_hidden_rules_back()?;
        let is_hidden = |path: &[u8]| self.before.hidden_rules().iter().any(|rules| rules.path == path);
        let tops = [Vec::new()].into_iter().chain(self.directories.iter().map(|(path, _)| path.clone()));
        let rules: Vec<Vec<u8>> = tops.map(|top| below(&top, b".gitignore")).collect();
        let views: Vec<&[u8]> = rules.iter().map(Vec::as_slice).collect();
        let were = self.before.were(&views)?;
        for (path, was) in rules.iter().zip(were) {
            let now = match self.look(path) {
                // Git does not see into that directory, either.
                Err(error) if was.is_none() && fs::is_forbidden(&error) => continue,
                now => now?,
            };
            match was {
                None if now.is_some() && !is_hidden(path) => drop(self.take(path)?),
                Some(was) => {
                    let touched = Touched { path: path.clone(), now: now.as_ref().map(Stamp::of), new: false };
                    self.put_one_back(&touched, &was)?;
                }
                None => {}
            }
        }
        // New directories may hold rules that hide themselves and all else in there.
        let untracked = self.before.checkout.untracked(&self.before.index())?;
        let new: HashSet<&Vec<u8>> =
            untracked.directories.iter().filter(|directory| self.before.item(directory).is_none()).collect();
        for directory in &untracked.directories {
            let is_below_new = parents(directory).iter().any(|above| new.contains(above));
            if new.contains(directory) && !is_below_new {
                self.take_rules_below(directory.clone())?;
            }
        }
        Ok(())
    }

    /// Puts back ignored files of ignore rules, where their directories still are. The rest of those is not ours.
    fn put_hidden_rules_back(&mut self) -> Result<()> {
        for HiddenRules { path, mode, text } in self.before.hidden_rules() {
            let above = parents(path).into_iter().next().unwrap_or_default();
            let is_there = above.is_empty() || self.look(&above)?.is_some_and(|found| found.mode & KIND == DIRECTORY);
            let place = self.root.at(path)?;
            let is_same = || fs::read_whole(place.path(), MOST_BYTES).is_ok_and(|now| now == *text);
            if !is_there || text.is_empty() || is_same() || !self.is_within_reach(path)? {
                continue;
            }
            if self.look(path)?.is_none() || self.take(path)? {
                fs::put_file(&place, mode & PERMISSIONS, None, |file| file.write_all(text))?;
            }
        }
        Ok(())
    }

    pub(super) fn take_rules_below(&mut self, top: Vec<u8>) -> Result<()> {
        let mut open = vec![top];
        while let Some(directory) = open.pop() {
            if self.is_repository(&directory) {
                continue;
            }
            let place = self.at(&directory)?;
            // Its directory stays as the command made it, if it can be read.
            if let Ok(found) = fs::metadata(&place)
                && found.permissions() & READ != READ
            {
                drop(self.set_mode(&directory, found.permissions() | READ));
            }
            let names = match fs::list(&place) {
                // Git does not see into it, either.
                Err(error) if fs::is_forbidden(&error) => {
                    self.left.push(directory);
                    continue;
                }
                // Nor here. It is taken away with all that is above it, later.
                Err(error) if fs::is_too_long(&error) => continue,
                names => names?,
            };
            for name in names {
                let inner = below(&directory, &sys::bytes(&name));
                if name == ".gitignore" {
                    let found = self.look(&inner)?;
                    // The directory was an ignored one, and was moved.
                    if !found.map_or(Ok(false), |found| self.before.was_there_unseen(&found))? {
                        self.take(&inner)?;
                    }
                } else if fs::metadata(place.child(&name)).is_ok_and(|found| found.is_dir()) {
                    open.push(inner);
                }
            }
        }
        Ok(())
    }
}
