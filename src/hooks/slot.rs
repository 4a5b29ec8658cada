//! Knows the files of a hook: what git runs, what was kept beside it, and where others put ours.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use super::{
    CHAINED, Event, LEGACY,
    managers::{self, Manager},
    script,
};
use crate::{
    error::{Error, Result},
    sys::{self, FileId},
};

/// A hook that is larger is compared with nothing.
const MOST_BYTES: u64 = 16 << 20;

/// A hook's files in a directory.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) event: Event,
    /// The file that git runs.
    pub(super) path: PathBuf,
    pub(super) file: Option<File>,
    /// The earlier hook, which runs after the guard.
    pub(super) chained_path: PathBuf,
    pub(super) chained: Option<File>,
    /// The name under which pre-commit and prek keep, and run, an earlier hook.
    pub(super) legacy_path: PathBuf,
    pub(super) legacy: Option<File>,
    /// The name under which lefthook keeps an earlier hook without running it.
    pub(super) old_path: PathBuf,
    pub(super) old: Option<File>,
}

/// One file of them.
#[derive(Debug)]
pub(super) struct File {
    pub(super) id: FileId,
    /// The flaw of a hook: its kind, if it is not a file.
    wrong: Option<&'static str>,
    /// Its target, if it is a symbolic link.
    target: Option<PathBuf>,
    mode: u32,
    /// Whether git would run it: on some file systems nothing can be run, and what is executable for others is not for us.
    executable: bool,
    /// Its contents; empty if it cannot be read.
    pub(super) text: Vec<u8>,
}

impl Slot {
    /// Looks; opens nothing that could block.
    pub(super) fn of(directory: &Path, event: Event) -> Self {
        let path = directory.join(event.name());
        let beside = |suffix| {
            let beside = with_suffix(&path, suffix);
            let file = File::look(&beside);
            (beside, file)
        };
        let (chained_path, chained) = beside(CHAINED);
        let (legacy_path, legacy) = beside(LEGACY);
        let (old_path, old) = beside(".old");
        let file = File::look(&path);
        Self { event, path, file, chained_path, chained, legacy_path, legacy, old_path, old }
    }

    /// Fails for an entry that cannot be a hook.
    pub(super) fn check(&self) -> Result<()> {
        for (path, file) in [(&self.path, &self.file), (&self.chained_path, &self.chained)] {
            if let Some(kind) = file.as_ref().and_then(|file| file.wrong) {
                return Err(Error::NotAFile { path: path.clone(), kind, expected: "a hook" });
            }
        }
        if self.file.as_ref().is_some_and(File::is_edited) {
            return Err(Error::HookEdited { path: self.path.clone() });
        }
        Ok(())
    }

    /// Why the hook of somebody else's that is there cannot be kept beside ours.
    pub(super) fn obstacle(&self) -> Option<Error> {
        let file = self.file.as_ref()?;
        if let Some(manager) = file.manager().filter(|manager| !manager.movable) {
            return Some(Error::HookNotMovable { path: self.path.clone(), manager: manager.name });
        }
        if file.manager().is_none() && knows_its_name(&file.text) {
            return Some(Error::HookNotMovable { path: self.path.clone(), manager: "you" });
        }
        let free = self.chained.is_none() || self.chained_is_superseded() || self.run_by().is_some();
        (!free).then(|| Error::TwoHooks { hook: self.path.clone(), kept: self.chained_path.clone() })
    }

    /// The files of ours that others put away.
    pub(super) fn displaced(&self) -> impl Iterator<Item = &PathBuf> {
        let places = [(&self.legacy_path, &self.legacy), (&self.old_path, &self.old)];
        places.into_iter().filter(|(_, file)| file.as_ref().is_some_and(File::is_ours)).map(|(path, _)| path)
    }

    /// Whether what was kept before need not be kept beside the hook that git runs now.
    pub(super) fn chained_is_superseded(&self) -> bool {
        let (Some(file), Some(chained)) = (&self.file, &self.chained) else { return false };
        chained.id == file.id || chained.equals(file) || managers::is_older(&chained.text, &file.text)
    }

    /// The program whose hook runs ours, which it found there and put away.
    pub(super) fn run_by(&self) -> Option<&'static Manager> {
        let manager = self.file.as_ref().and_then(File::manager).filter(|manager| manager.runs_legacy);
        manager.filter(|_| self.legacy.as_ref().is_some_and(File::is_ours))
    }
}

impl File {
    fn look(path: &Path) -> Option<Self> {
        let entry = std::fs::symlink_metadata(path).ok()?;
        let target = entry.is_symlink().then(|| std::fs::read_link(path).unwrap_or_default());
        // Of a dangling link, only the link exists.
        let metadata = std::fs::metadata(path).unwrap_or_else(|_| entry.clone());
        let dangling = metadata.is_symlink();
        let wrong = (!metadata.is_file() && !dangling).then(|| sys::kind(&metadata));
        let readable = metadata.is_file() && metadata.len() <= MOST_BYTES;
        let text = readable.then(|| std::fs::read(path).ok()).flatten().unwrap_or_default();
        let mode = if dangling { 0 } else { sys::mode(&metadata) };
        let executable = wrong.is_none() && crate::fs::is_executable(path);
        Some(Self { id: sys::identity(&entry), wrong, target, mode, executable, text })
    }

    /// Whether it is a script of ours, also through a link.
    pub(super) fn is_ours(&self) -> bool {
        script::is_ours(&self.text)
    }

    /// Whether it is a script of ours that somebody has changed.
    pub(super) fn is_edited(&self) -> bool {
        self.is_ours() && script::is_edited(&self.text)
    }

    pub(super) fn is_link(&self) -> bool {
        self.target.is_some()
    }

    /// Whether git can run it.
    pub(super) fn is_executable(&self) -> bool {
        self.executable
    }

    pub(super) fn manager(&self) -> Option<&'static Manager> {
        managers::of(&self.text)
    }

    /// Whether both are the same in all that matters to git and to their owner.
    pub(super) fn equals(&self, other: &Self) -> bool {
        let same = (&self.target, self.mode, &self.text) == (&other.target, other.mode, &other.text);
        same && (self.is_link() || !self.text.is_empty())
    }
}

/// The text of a hook; empty for other kinds than files, and for large files. Does not block.
pub(super) fn read(path: &Path) -> Option<Vec<u8>> {
    File::look(path).filter(|file| file.wrong.is_none()).map(|file| file.text)
}

/// Whether a script finds out what it is to do from the name that it is called by: under another one it would do nothing.
fn knows_its_name(text: &[u8]) -> bool {
    const WAYS: [&str; 6] = ["basename \"$0\"", "basename $0", "basename -- \"$0\"", "${0##*/}", "$0.d", "${0}.d"];
    let text = String::from_utf8_lossy(text);
    WAYS.iter().any(|way| text.contains(way))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}
