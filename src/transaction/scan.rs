//! Decides which files git can give back, and which must be kept, by a look at all of them before anything changes.

mod convert;
mod sample;

use std::{
    collections::{HashMap, HashSet},
    path::Path,
};

use self::sample::Sample;
use super::{
    baseline::{
        Content, DIRECTORY, HiddenRules, Item, KIND, Kind, LINK, PERMISSIONS, REGULAR, SUBMODULE, Stamp, below, copied,
        is_same, parents,
    },
    walk::{self, Walked},
};
use crate::{
    error::{Error, Result},
    escape::{hex, in_json},
    fs,
    repo::{Checkout, Entry, Untracked, path_of},
    sys::{Below, Found},
};

/// Most paths that are given to git on its command line.
const MOST_ARGUMENTS: usize = 500;
/// The id of the blob without bytes, by either hash.
const EMPTY_BLOBS: [&str; 2] =
    ["e69de29bb2d1d6434b8b29ae775ad8c2e48c5391", "473a0f4c3be8a93681a267e3b1e9a7dcda1185436fe141f7749120a303721813"];

/// A look at all files.
pub(super) struct Scan<'a> {
    checkout: &'a Checkout,
    below: Below,
    pub(super) items: Vec<Item>,
    /// Indices of items whose stat data do not tell whether they are clean.
    suspects: Vec<usize>,
    /// Paths of items that git is told to skip: content of the caller's own, which does not make the worktree dirty.
    pub(super) hidden: HashSet<Vec<u8>>,
    pub(super) plain: Option<u32>,
    pub(super) executable: Option<u32>,
    pub(super) directory: Option<u32>,
    /// Directories that hold files.
    entered: Vec<Vec<u8>>,
    /// Directories that have an ignore file.
    rules: Vec<Vec<u8>>,
    tracked_rules: HashSet<Vec<u8>>,
    /// Files that hold attributes: tracked ones, and those that are there, ignored or not.
    attributes: HashSet<Vec<u8>>,
    /// Some of the clean files.
    sample: Sample,
    /// Whether there are intents to add, of which git's comparison with HEAD tells nothing.
    pub(super) intents: bool,
    /// Blobs of conflicts.
    pub(super) conflicting: Vec<String>,
    /// The latest change of any file.
    pub(super) latest: (u32, u32),
}

impl<'a> Scan<'a> {
    pub(super) fn new(checkout: &'a Checkout) -> Result<Self> {
        Ok(Self {
            below: Below::open(&checkout.root).map_err(Error::io("read", &checkout.root))?,
            checkout,
            items: Vec::new(),
            suspects: Vec::new(),
            hidden: HashSet::new(),
            plain: None,
            executable: None,
            directory: None,
            entered: Vec::new(),
            rules: Vec::new(),
            tracked_rules: HashSet::new(),
            attributes: HashSet::new(),
            sample: Sample::default(),
            intents: false,
            conflicting: Vec::new(),
            latest: (0, 0),
        })
    }

    fn find(&mut self, path: &[u8]) -> Result<Option<Found>> {
        let found = self.below.look(path).map_err(Error::io("read", self.checkout.root.join(path_of(path))))?;
        if let Some(found) = &found {
            self.latest = self.latest.max(found.ctime);
        }
        Ok(found)
    }

    /// `written` is when the index was.
    pub(super) fn tracked(&mut self, index: &Path, written: (u32, u32)) -> Result<Walked> {
        let mut last_directory: Vec<u8> = Vec::new();
        self.enter(b"")?;
        let checkout = self.checkout;
        walk::each(checkout, index, |entry, found| {
            let end = entry.path.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
            let directory = &entry.path[..end];
            if directory != last_directory {
                // Those that were not there for the path before.
                let shared = directory.iter().zip(&last_directory).take_while(|(a, b)| a == b).count();
                for at in (shared..directory.len()).filter(|&at| directory[at] == b'/') {
                    self.enter(&directory[..at])?;
                }
                last_directory.clear();
                last_directory.extend_from_slice(directory);
            }
            match &entry.path[end..] {
                b".gitignore" => drop(self.tracked_rules.insert(entry.path.to_vec())),
                b".gitattributes" => drop(self.attributes.insert(entry.path.to_vec())),
                _ => {}
            }
            self.entry(entry, found, written)
        })
    }

    /// A directory that holds files.
    fn enter(&mut self, path: &[u8]) -> Result<()> {
        self.entered.push(path.to_vec());
        if !path.is_empty() {
            let Some(found) = self.find(path)?.filter(|found| found.mode & KIND == DIRECTORY) else { return Ok(()) };
            let mode = found.mode & PERMISSIONS;
            if *self.directory.get_or_insert(mode) != mode {
                self.items.push(item(path, Kind::Directory, Some(&found), Content::None, false));
            }
        }
        self.look_for_rules(path)
    }

    fn look_for_rules(&mut self, directory: &[u8]) -> Result<()> {
        for name in [&b".gitignore"[..], b".gitattributes"] {
            let rules = below(directory, name);
            match self.find(&rules) {
                // Git does not see into it, either.
                Err(error) if fs::is_forbidden(&error) => {}
                Ok(Some(_)) if name == b".gitignore" => self.rules.push(rules),
                Ok(Some(_)) => drop(self.attributes.insert(rules)),
                found => drop(found?),
            }
        }
        Ok(())
    }

    fn entry(&mut self, entry: &Entry<'_>, found: Option<Found>, written: (u32, u32)) -> Result<()> {
        if entry.stage > 0 {
            self.conflicting.push(hex(entry.id));
        }
        if entry.stage > 1 && self.items.last().is_some_and(|item| item.path == entry.path) {
            return Ok(());
        }
        if let Some(found) = &found {
            self.latest = self.latest.max(found.ctime);
        }
        self.intents |= entry.intent_to_add;
        if entry.mode & KIND == SUBMODULE {
            let state = self.checkout.submodule(entry.path)?;
            let kind = if found.is_some() { Kind::Submodule } else { Kind::Absent };
            let content = Content::State(in_json::encode(&state));
            self.suspects.push(self.items.len());
            self.items.push(item(entry.path, kind, found.as_ref(), content, false));
            return Ok(());
        }
        let flagged = entry.skip_worktree || entry.assume_unchanged;
        let Some(found) = found else {
            let own = !entry.skip_worktree;
            self.note_directories_of(entry.path)?;
            self.items.push(item(entry.path, Kind::Absent, None, Content::None, own));
            if entry.assume_unchanged {
                self.hidden.insert(entry.path.to_vec());
            }
            return Ok(());
        };
        if flagged || entry.stage > 0 || entry.intent_to_add {
            let (kind, content) = copied(&found);
            self.items.push(item(entry.path, kind, Some(&found), content, true));
            if flagged {
                self.hidden.insert(entry.path.to_vec());
            }
            return Ok(());
        }
        self.clean_or_suspect(entry, &found, written);
        Ok(())
    }

    /// Keeps nothing of a file that the index shows to be clean; else it is kept, should git find it changed.
    fn clean_or_suspect(&mut self, entry: &Entry<'_>, found: &Found, written: (u32, u32)) {
        let mode = found.mode & PERMISSIONS;
        let same_kind = found.mode & KIND == entry.mode & KIND;
        // Git marks those that it does not trust by a size of zero.
        let distrusted = entry.stat.size == 0 && !EMPTY_BLOBS.contains(&hex(entry.id).as_str());
        let racy = entry.stat.modified >= written || distrusted;
        if !same_kind || racy || !is_same(found, &entry.stat) {
            let (kind, mut content) = copied(found);
            if same_kind {
                // Should git find it clean.
                content = Content::Blob(hex(entry.id));
            }
            self.suspects.push(self.items.len());
            self.items.push(item(entry.path, kind, Some(found), content, false));
            return;
        }
        if entry.mode & KIND == REGULAR {
            self.sample.add(entry.id, found.size);
        }
        let usual = match entry.mode {
            0o100_644 => *self.plain.get_or_insert(mode) == mode,
            0o100_755 => *self.executable.get_or_insert(mode) == mode,
            _ => true,
        };
        if !usual {
            let content = Content::Blob(hex(entry.id));
            self.items.push(item(entry.path, Kind::File, Some(found), content, false));
        }
    }

    /// A directory may be there for the sake of a file that is not.
    fn note_directories_of(&mut self, path: &[u8]) -> Result<()> {
        for above in parents(path) {
            if let Some(found) = self.find(&above)?.filter(|found| found.mode & KIND == DIRECTORY) {
                self.items.push(item(&above, Kind::Directory, Some(&found), Content::None, false));
            }
        }
        Ok(())
    }

    /// Lets git say which of those that look touched have really changed.
    pub(super) fn resolve_suspects(&mut self, index: &Path) -> Result<()> {
        if self.suspects.is_empty() {
            return Ok(());
        }
        let paths: Vec<Vec<u8>> = self.suspects.iter().map(|&at| self.items[at].path.clone()).collect();
        let limited = (paths.len() <= MOST_ARGUMENTS).then_some(&paths[..]);
        // Git writes down what it learns: not into the one that is kept.
        let compared = index.with_file_name("compared");
        fs::copy_index(index, &compared, false)?;
        let modified = self.checkout.modified(&compared, limited)?;
        fs::remove_entry(&compared)?;
        let modified: HashSet<&[u8]> = modified.iter().map(|change| change.path.as_slice()).collect();
        for &at in &self.suspects {
            let item = &mut self.items[at];
            if modified.contains(item.path.as_slice()) {
                item.own = true;
                if let Content::Blob(_) = item.content {
                    item.content = Content::Copy(0);
                }
            }
        }
        Ok(())
    }

    /// Copies what was staged by the caller, too: its bytes are nobody else's.
    pub(super) fn own(&mut self, staged: &HashSet<&[u8]>) -> Result<()> {
        let known: HashMap<Vec<u8>, usize> =
            self.items.iter().enumerate().map(|(at, item)| (item.path.clone(), at)).collect();
        for path in staged {
            if let Some(&at) = known.get(*path) {
                self.items[at].own = true;
                if let Content::Blob(_) = self.items[at].content {
                    self.items[at].content = Content::Copy(0);
                }
                continue;
            }
            let new = match self.find(path)? {
                None => item(path, Kind::Absent, None, Content::None, true),
                Some(found) => match found.mode & KIND {
                    REGULAR => item(path, Kind::File, Some(&found), Content::Copy(0), true),
                    LINK => item(path, Kind::Link, Some(&found), Content::Copy(0), true),
                    _ => continue,
                },
            };
            self.items.push(new);
        }
        Ok(())
    }

    /// `keep`: their bytes will be kept; else they can only be recognised as long as they are unchanged.
    pub(super) fn untracked(&mut self, untracked: &Untracked, keep: bool) -> Result<()> {
        let known: HashSet<Vec<u8>> = self.items.iter().map(|item| item.path.clone()).collect();
        let mut entered = HashSet::new();
        let directories = untracked.directories.iter().map(|path| (path, Kind::Directory));
        let repositories = untracked.repositories.iter().map(|path| (path, Kind::Repository));
        let files = untracked.files.iter().map(|path| (path, Kind::File));
        for (path, listed_as) in directories.chain(repositories).chain(files).filter(|(path, _)| !known.contains(*path))
        {
            for above in parents(path).into_iter().rev() {
                if entered.insert(above.clone()) && !known.contains(&above) {
                    self.enter(&above)?;
                }
            }
            let Some(found) = self.find(path)? else { continue };
            let new = match found.mode & KIND {
                REGULAR | LINK if !keep => item(path, Kind::Special, Some(&found), Content::None, true),
                REGULAR => item(path, Kind::File, Some(&found), Content::Copy(0), true),
                LINK => item(path, Kind::Link, Some(&found), Content::Copy(0), true),
                DIRECTORY if listed_as == Kind::Repository => {
                    item(path, Kind::Repository, Some(&found), Content::None, true)
                }
                DIRECTORY => {
                    self.look_for_rules(path)?;
                    item(path, Kind::Directory, Some(&found), Content::None, false)
                }
                _ => continue,
            };
            self.items.push(new);
        }
        let mut seen = HashSet::new();
        self.items.retain(|item| seen.insert(item.path.clone()));
        Ok(())
    }

    /// FIFOs, sockets and devices beside the files, which are among `strays`. If those are unknown and there are so many
    /// directories that listing takes a while, they are left out.
    pub(super) fn odd(&mut self, strays: Option<&[Vec<u8>]>) {
        const MOST: usize = 2000;
        let known: HashSet<Vec<u8>> = self.items.iter().map(|item| item.path.clone()).collect();
        let listed = || {
            let directories = if self.entered.len() > MOST { &[][..] } else { &self.entered };
            let special = |directory: &Vec<u8>| {
                // Also what the file system does not give a kind.
                let names = fs::list_special(&self.checkout.root.join(path_of(directory)));
                names.into_iter().map(|name| below(directory, &crate::sys::bytes(&name))).collect::<Vec<_>>()
            };
            directories.iter().flat_map(special).collect()
        };
        let paths = strays.map_or_else(listed, <[_]>::to_vec);
        for path in paths.iter().filter(|path| !known.contains(*path)) {
            if let Ok(Some(found)) = self.below.look(path)
                && !matches!(found.mode & KIND, REGULAR | DIRECTORY | LINK)
            {
                self.items.push(item(path, Kind::Odd, Some(&found), Content::None, false));
            }
        }
    }

    /// Ignored files of ignore rules, with their bytes.
    pub(super) fn hidden_rules(&self, untracked: &Untracked) -> Result<Vec<HiddenRules>> {
        let untracked: HashSet<&[u8]> = untracked.files.iter().map(Vec::as_slice).collect();
        let hidden = |path: &&Vec<u8>| !self.tracked_rules.contains(*path) && !untracked.contains(path.as_slice());
        let tree = self.checkout.tree()?;
        self.rules.iter().filter(hidden).map(|path| HiddenRules::read(&tree, path)).collect()
    }
}

fn item(path: &[u8], kind: Kind, found: Option<&Found>, content: Content, own: bool) -> Item {
    let mode = found.map_or(0, |found| found.mode & PERMISSIONS);
    Item { path: path.to_vec(), kind, mode, stamp: found.map(Stamp::of), content, own }
}
