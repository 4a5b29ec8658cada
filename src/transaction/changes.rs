//! Finds what differs from the state before: tracked files by their stat data, new ones by git's own listing.

use std::collections::{BTreeSet, HashMap, HashSet};

use serde::{Deserialize, Serialize};

use super::{
    baseline::{Baseline, Content, DIRECTORY, Item, KIND, Kind, PERMISSIONS, Stamp, is_same, parents},
    spelling::{Respelled, Spelling},
    walk,
};
use crate::{
    error::{Error, Result},
    escape::in_json,
    fs,
    repo::{Untracked, path_of},
    sys::{Below, Found, beside},
};

/// A file, or what should be one, that was touched since.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Touched {
    #[serde(with = "in_json")]
    pub(crate) path: Vec<u8>,
    /// Its present state; `None` if it is missing.
    pub(crate) now: Option<Stamp>,
    /// It was not there before, and git does not ignore it; `path/` is a directory.
    pub(crate) new: bool,
}

/// All that was touched.
#[derive(Debug, Clone, Default)]
pub(crate) struct Changes {
    pub(crate) touched: Vec<Touched>,
    /// Files that were touched, too, but that others write to.
    pub(crate) others: Vec<Vec<u8>>,
    /// New files that checks have made.
    pub(crate) by_checks: Vec<Vec<u8>>,
    /// Files that look new, but were there before: git did not see them.
    pub(crate) hidden: Vec<Vec<u8>>,
    /// New directories below which paths are longer than the system takes. Their contents cannot be looked at.
    pub(crate) too_deep: Vec<Vec<u8>>,
}

impl Changes {
    /// Fails if there is something that cannot be looked at, and so cannot be committed.
    pub(crate) fn check_depth(&self) -> Result<()> {
        self.too_deep.first().map_or(Ok(()), |path| Err(too_deep(path)))
    }

    /// Looks at all files that were there before, and lists the new ones by the ignore rules as they are now.
    pub(crate) fn scan(before: &Baseline) -> Result<Self> {
        let kept = before.index();
        let (untracked, touched) = std::thread::scope(|scope| {
            let untracked = beside(scope, || before.checkout.untracked(&kept));
            let touched = Walk::new(before).and_then(Walk::run);
            (untracked.join(), touched)
        });
        let (untracked, mut touched) = (untracked?, touched?);
        let mut below = below(before)?;
        let Untracked { files, directories, repositories, too_deep, .. } = untracked;
        let too_deep = new_tops(before, &too_deep)?;
        let is_too_deep = |path: &[u8]| {
            let is_below = |top: &Vec<u8>| path.strip_prefix(&top[..]).is_some_and(|rest| rest.starts_with(b"/"));
            too_deep.iter().any(|top| path == top || is_below(top))
        };
        let known = |path: &[u8]| before.item(path).map(|item| item.kind);
        let repositories =
            repositories.into_iter().filter(|path| known(path) == Some(Kind::Directory) || known(path).is_none());
        let repositories: HashSet<Vec<u8>> = repositories.collect();
        let slashed = directories.iter().chain(&repositories).map(|path| [path, &b"/"[..]].concat());
        let mut hidden = Vec::new();
        for path in files.into_iter().chain(slashed) {
            let bare = path.strip_suffix(b"/").unwrap_or(&path);
            if (known(bare).is_some() && !repositories.contains(bare)) || is_too_deep(bare) {
                continue;
            }
            let now = match look(&mut below, before, bare) {
                // In a directory that we may list and not enter. It cannot be committed.
                Err(error) if fs::is_forbidden(&error) => None,
                found => found?,
            };
            if let Some(now) = now.as_ref().filter(|_| bare == path)
                && before.was_there_unseen(now)?
            {
                hidden.push(path);
                continue;
            }
            touched.push(Touched { path, now: now.as_ref().map(Stamp::of), new: true });
        }
        if before.checkout.is_one_case() {
            for Respelled { was, is } in Spelling::new(before).respelled()? {
                let now = look(&mut below, before, &is)?.map(|found| Stamp::of(&found));
                touched.retain(|touched| touched.path != was && touched.path != is);
                touched.push(Touched { path: was, now: None, new: false });
                touched.push(Touched { path: is, now, new: true });
            }
        }
        let others = before.written_by_others(&touched)?;
        touched.retain(|touched| !others.contains(&touched.path));
        let mut others: Vec<_> = others.into_iter().collect();
        others.sort();
        Ok(Self { touched, others, by_checks: Vec::new(), hidden, too_deep })
    }

    /// Tells whether this was changed, but not by the command.
    pub(crate) fn is_not_commands(&self, path: &[u8]) -> bool {
        let is_in = |sorted: &[Vec<u8>]| sorted.binary_search_by(|one| one.as_slice().cmp(path)).is_ok();
        is_in(&self.others) || is_in(&self.by_checks)
    }

    /// These without those new files that were there after the checks, and are as they were then.
    pub(crate) fn without_new(mut self, checked: &Self) -> Self {
        let then: HashMap<&[u8], &Touched> =
            checked.touched.iter().filter(|then| then.new).map(|then| (then.path.as_slice(), then)).collect();
        let is_of_checks = |now: &mut Touched| then.get(now.path.as_slice()).is_some_and(|then| *then == now);
        self.by_checks = self.touched.extract_if(.., is_of_checks).map(|touched| touched.path).collect();
        self.by_checks.sort();
        self
    }

    /// Those of before that differ in more than their stat data.
    pub(crate) fn really(&self, before: &Baseline) -> Result<Vec<Vec<u8>>> {
        let touched: Vec<&Touched> = self.touched.iter().filter(|touched| !touched.new).collect();
        let paths: Vec<&[u8]> = touched.iter().map(|touched| touched.path.as_slice()).collect();
        let mut blobs = before.checkout.blobs()?;
        let mut differ = Vec::new();
        for (touched, was) in touched.iter().zip(before.were(&paths)?) {
            let same = was.map_or(Ok(false), |was| before.is_as_it_was(touched, &was, &mut blobs))?;
            if !same {
                differ.push(touched.path.clone());
            }
        }
        Ok(differ)
    }

    /// Those that an earlier look did not find, or found otherwise. Files that are newer than that look do not matter: they are not
    /// committed, and stay.
    pub(crate) fn beyond(&self, earlier: &Self, before: &Baseline) -> Result<Vec<Vec<u8>>> {
        let known: HashMap<&[u8], &Touched> =
            earlier.touched.iter().map(|touched| (touched.path.as_slice(), touched)).collect();
        let is_file = |touched: &Touched| !touched.path.ends_with(b"/");
        let other = self.touched.iter().filter(|touched| {
            let then = known.get(touched.path.as_slice());
            then.map_or(!touched.new, |then| then.now != touched.now)
        });
        let found = Self { touched: other.cloned().collect(), ..Self::default() };
        let mut altered: Vec<Vec<u8>> = Vec::new();
        for touched in found.touched.iter().filter(|touched| is_file(touched)) {
            // A path of the earlier look differs from what that found; another path, from the baseline.
            let one = Self { touched: vec![touched.clone()], ..Self::default() };
            if known.contains_key(touched.path.as_slice()) || !one.really(before)?.is_empty() {
                altered.push(touched.path.clone());
            }
        }
        let now: HashSet<&[u8]> = self.touched.iter().map(|touched| touched.path.as_slice()).collect();
        let gone = earlier.touched.iter().filter(|touched| is_file(touched) && !now.contains(touched.path.as_slice()));
        altered.extend(gone.map(|touched| touched.path.clone()));
        Ok(altered)
    }

    /// Entries that were not files before, if we may look at them: the others go with their directory, or stay in it.
    pub(crate) fn new_paths(&self) -> impl Iterator<Item = &[u8]> {
        let new = self.touched.iter().filter(|touched| touched.new && touched.now.is_some());
        new.map(|touched| touched.path.as_slice())
    }
}

/// The highest directories above these paths that were not there before.
fn new_tops(before: &Baseline, paths: &[Vec<u8>]) -> Result<Vec<Vec<u8>>> {
    if paths.is_empty() {
        return Ok(Vec::new());
    }
    let known: HashSet<Vec<u8>> = before.directories()?.into_iter().collect();
    let is_new = |path: &Vec<u8>| !known.contains(path) && before.item(path).is_none();
    let top = |path: &Vec<u8>| {
        let mut above = parents(path);
        above.sort_by_key(Vec::len);
        above.into_iter().chain([path.clone()]).find(|path| !path.is_empty() && is_new(path))
    };
    let tops: BTreeSet<Vec<u8>> = paths.iter().filter_map(top).collect();
    Ok(tops.into_iter().collect())
}

/// The error for a directory below which paths are longer than the system takes.
pub(super) fn too_deep(path: &[u8]) -> Error {
    let source =
        std::io::Error::other("paths below it are longer than the system takes; if git ignores it, it is left alone");
    Error::Io { action: "list all of", path: path_of(path), source }
}

pub(super) fn below(before: &Baseline) -> Result<Below> {
    Below::open(&before.checkout.root).map_err(Error::io("read", &before.checkout.root))
}

/// What makes a directory a repository.
pub(super) fn below_repository(path: &[u8]) -> Vec<u8> {
    [path, b"/.git"].concat()
}

pub(super) fn look(below: &mut Below, before: &Baseline, path: &[u8]) -> Result<Option<Found>> {
    below.look(path).map_err(Error::io("read", before.checkout.root.join(path_of(path))))
}

/// A walk over all files of before.
struct Walk<'a> {
    before: &'a Baseline,
    below: Below,
    touched: Vec<Touched>,
}

impl<'a> Walk<'a> {
    fn new(before: &'a Baseline) -> Result<Self> {
        Ok(Self { before, below: below(before)?, touched: Vec::new() })
    }

    fn run(mut self) -> Result<Vec<Touched>> {
        let mut items = self.before.items.iter().peekable();
        let before = self.before;
        walk::each(&before.checkout, &before.index(), |entry, now| {
            while let Some(item) = items.next_if(|item| item.path.as_slice() < entry.path) {
                self.item(item)?;
            }
            // The item is already in the list.
            let told = items.peek().is_some_and(|item| item.path == entry.path) || entry.stage > 1;
            // With a coarse clock of the file system, a change may have left the same stamp: files of its last tick are compared.
            let unchanged = |now: Found| now.mode & KIND == entry.mode & KIND && is_same(&now, &entry.stat);
            let same = now.is_some_and(|now| unchanged(now) && !before.is_from_after(&now));
            if !told && !same {
                self.touch(entry.path, now);
            }
            Ok(())
        })?;
        for item in items {
            self.item(item)?;
        }
        Ok(self.touched)
    }

    fn item(&mut self, item: &Item) -> Result<()> {
        let now = look(&mut self.below, self.before, &item.path)?;
        let stamp = now.map(|now| Stamp::of(&now));
        let same = match item.kind {
            Kind::Directory => {
                now.is_some_and(|now| now.mode & KIND == DIRECTORY && now.mode & PERMISSIONS == item.mode)
            }
            Kind::Repository => {
                now.is_some_and(|now| now.mode & KIND == DIRECTORY)
                    && look(&mut self.below, self.before, &below_repository(&item.path))?.is_some()
            }
            Kind::Odd => now.is_some_and(|now| Some(now.mode & KIND) == item.stamp.map(|was| was.mode() & KIND)),
            Kind::Submodule => {
                now.is_some_and(|now| now.mode & KIND == DIRECTORY)
                    && item.content == Content::State(in_json::encode(&self.before.checkout.submodule(&item.path)?))
            }
            Kind::File | Kind::Link => stamp == item.stamp && !now.is_some_and(|now| self.before.is_from_after(&now)),
            Kind::Absent | Kind::Special => stamp == item.stamp,
        };
        if !same {
            self.touch(&item.path, now);
        }
        Ok(())
    }

    fn touch(&mut self, path: &[u8], now: Option<Found>) {
        self.touched.push(Touched { path: path.to_vec(), now: now.map(|now| Stamp::of(&now)), new: false });
    }
}
