//! Sorts what the command touched: what is added to the index, what is removed from it, and what must not be committed.

use std::{collections::HashSet, io::Write as _};

use super::{
    super::{
        baseline::{Baseline, DIRECTORY, KIND, Kind, LINK, MOST_BYTES, REGULAR, parents},
        changes::{Changes, Touched},
    },
    StageError,
};
use crate::{
    error::Result,
    fs::{self, Place, Root},
    repo::path_of,
};

/// Entries that the command's own git has added to the index.
#[derive(Default)]
pub(super) struct Added {
    /// Files that the command made or changed: part of the change, also if they are ignored.
    pub(super) paths: HashSet<Vec<u8>>,
    /// Files and repositories that were there before, and are as they were.
    pub(super) was_there: HashSet<Vec<u8>>,
    /// Files that are no longer there.
    pub(super) gone: HashSet<Vec<u8>>,
}

impl Added {
    /// Tells whether a new entry is no part of the change.
    pub(super) fn must_go(&self, path: &[u8]) -> bool {
        self.was_there.contains(path) || self.gone.contains(path)
    }
}

/// Paths for an index.
#[derive(Default)]
pub(super) struct Sorted {
    pub(super) add: Vec<Vec<u8>>,
    pub(super) remove: Vec<Vec<u8>>,
    /// New ones that the ignore rules keep out.
    pub(super) ignored: Vec<Vec<u8>>,
    /// Repositories that the command's git has not made.
    pub(super) repositories: Vec<Vec<u8>>,
}

/// Paths by what is to become of them, and what must not be committed.
#[derive(Default)]
struct Sorting<'a> {
    add: Vec<Vec<u8>>,
    remove: Vec<Vec<u8>>,
    /// New files, which the ignore rules may keep out.
    new: Vec<Vec<u8>>,
    /// Files with content of the caller's own: an error if it changed.
    suspects: Vec<&'a Touched>,
    repositories: Vec<Vec<u8>>,
    /// Those that the command's git has not made.
    others_repositories: Vec<Vec<u8>>,
    special: Vec<Vec<u8>>,
    sparse: Vec<Vec<u8>>,
}

impl<'a> Sorting<'a> {
    fn sort(&mut self, before: &Baseline, touched: &'a Touched, by_command: &Added) {
        let path = &touched.path;
        if touched.new {
            return self.sort_new(before, path, by_command);
        }
        let kind = touched.now.map(|now| now.mode() & KIND);
        let item = before.item(path);
        match item.map(|item| item.kind) {
            Some(Kind::Submodule | Kind::Repository) => self.repositories.push(path.clone()),
            // In place of a directory that held no tracked file, or had a mode of its own.
            Some(Kind::Directory) => self.new.extend(matches!(kind, Some(REGULAR | LINK)).then(|| path.clone())),
            // Nothing of git's.
            Some(Kind::Odd) if kind.is_none() => {}
            Some(Kind::Odd) => self.special.push(path.clone()),
            Some(Kind::Absent) if item.is_some_and(|item| !item.own) => self.sparse.push(path.clone()),
            _ if item.is_some_and(|item| item.own) => self.suspects.push(touched),
            _ => match kind {
                Some(REGULAR | LINK) => self.add.push(path.clone()),
                None | Some(DIRECTORY) => self.remove.push(path.clone()),
                Some(_) => self.special.push(path.clone()),
            },
        }
    }

    fn sort_new(&mut self, before: &Baseline, path: &[u8], by_command: &Added) {
        if path.ends_with(b"/") {
            // A directory without files is nothing to git, but another repository is.
            let directory = before.checkout.root.join(path_of(path));
            if fs::identity(&directory.join(".git")).is_some() {
                let is_commands = before.is_made_by_command(&path[..path.len() - 1]);
                let found = if is_commands { &mut self.repositories } else { &mut self.others_repositories };
                found.push(path.to_vec());
            }
        } else if !by_command.paths.contains(path) && !by_command.was_there.contains(path) {
            self.new.push(path.to_vec());
        }
    }

    /// The suspects whose content is not what it was.
    fn changed(&self, before: &Baseline) -> Result<Vec<Vec<u8>>> {
        let mut changed = Vec::new();
        if self.suspects.is_empty() {
            return Ok(changed);
        }
        let mut blobs = before.checkout.blobs()?;
        let paths: Vec<&[u8]> = self.suspects.iter().map(|touched| touched.path.as_slice()).collect();
        let were = before.were(&paths)?;
        for (touched, was) in self.suspects.iter().zip(were) {
            if !was.map_or(Ok(false), |was| before.is_as_it_was(touched, &was, &mut blobs))? {
                changed.push(touched.path.clone());
            }
        }
        Ok(changed)
    }
}

/// Sorts what was touched.
///
/// # Errors
/// [`StageError`].
pub(super) fn sort(before: &Baseline, changes: &Changes, by_command: &Added) -> Result<Sorted, StageError> {
    let mut sorting = Sorting::default();
    for touched in &changes.touched {
        sorting.sort(before, touched, by_command);
    }
    for path in before.new_repositories()? {
        let slashed = [&path, &b"/"[..]].concat();
        if !sorting.repositories.contains(&slashed) {
            sorting.repositories.push(slashed);
        }
    }
    let own = sorting.changed(before)?;
    let allowed = before.rules_allow(sorting.new.clone(), changes)?;
    let Sorting { mut add, remove, new, repositories, others_repositories, special, sparse, .. } = sorting;
    let is_allowed: HashSet<&[u8]> = allowed.iter().map(Vec::as_slice).collect();
    let ignored = new.into_iter().filter(|path| !is_allowed.contains(path.as_slice())).collect();
    add.extend(allowed);
    add.extend(by_command.paths.iter().cloned());
    for (paths, wrong) in [
        (own, StageError::Own as fn(Vec<Vec<u8>>) -> StageError),
        (repositories, StageError::Repositories),
        (special, StageError::Special),
        (sparse, StageError::Sparse),
    ] {
        if !paths.is_empty() {
            return Err(wrong(paths));
        }
    }
    Ok(Sorted { add, remove, ignored, repositories: others_repositories })
}

impl Baseline {
    /// Those new files that the ignore rules as they were before do not name either, nor those of the user as they are now.
    pub(super) fn rules_allow(&self, new: Vec<Vec<u8>>, changes: &Changes) -> Result<Vec<Vec<u8>>> {
        let now: HashSet<Vec<u8>> =
            self.checkout.excluding_as_configured().ignored(&self.checkout.root, &new)?.into_iter().collect();
        let new: Vec<Vec<u8>> = new.into_iter().filter(|path| !now.contains(path)).collect();
        let is_rule = |path: &[u8]| path == b".gitignore" || path.ends_with(b"/.gitignore");
        let exclude = fs::read_whole(&self.checkout.exclude_file(), MOST_BYTES).unwrap_or_default();
        let kept = self.kept_exclude().unwrap_or_default();
        let rules_changed = exclude != kept || changes.touched.iter().any(|touched| is_rule(&touched.path));
        if new.is_empty() || !rules_changed {
            return Ok(new);
        }
        // A worktree with only the rules.
        let rules = self.directory().join("rules");
        fs::remove_entry(&rules)?;
        fs::make_directories(&rules, None)?;
        let mut paths: Vec<Vec<u8>> =
            self.items.iter().map(|item| item.path.clone()).filter(|path| is_rule(path)).collect();
        if let Some(mut entries) = self.entries()? {
            while let Some(entry) = entries.next()? {
                if is_rule(entry.path) {
                    paths.push(entry.path.to_vec());
                }
            }
        }
        paths.sort();
        paths.dedup();
        let views: Vec<&[u8]> = paths.iter().map(Vec::as_slice).collect();
        let mut blobs = self.checkout.blobs()?;
        let copies = Root::ours(&rules)?;
        let place = |path: &[u8]| -> Result<Place> {
            if let Some(above) = parents(path).first() {
                fs::make_directories(&copies.at(above)?, None)?;
            }
            copies.at(path)
        };
        for (path, was) in paths.iter().zip(self.were(&views)?) {
            if let Some(was) = was.filter(|was| was.kind == Kind::File) {
                fs::put_file_of_many(&place(path)?, 0o644, None, |file| self.bytes(&was, &mut blobs, file))?;
            }
        }
        for hidden in self.hidden_rules() {
            fs::put_file_of_many(&place(&hidden.path)?, 0o644, None, |file| file.write_all(&hidden.text))?;
        }
        let ignored = self.were_ignored(&rules, &new)?;
        fs::remove_entry(&rules)?;
        let ignored: HashSet<Vec<u8>> = ignored.into_iter().collect();
        Ok(new.into_iter().filter(|path| !ignored.contains(path)).collect())
    }
}
