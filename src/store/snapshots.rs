//! Lists snapshots and what is in each. Reads warily: the directory may hold anything.
//!
//! The format stands at the head of `manifest.rs`. Damaged snapshots are reported, and stay until they expire; other names are
//! ignored.

use std::{
    collections::HashSet,
    io::{BufReader, Read as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{
    manifest::{BUNDLE, FILES, First, Line, MANIFEST, SCHEMA, next_line},
    place::{self, time_of},
};
use crate::{
    error::{Error, Result},
    fs::{self, Place, Root},
    holder::Mode,
    lock::LockFile,
    repo::{Head, Repo, path_of},
    sys,
};

/// More than a manifest, or the head of a bundle, of a million files has.
const MOST_BYTES: u64 = 64 << 20;
/// Files that were undone at one time, and are kept.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Snapshot {
    /// Its id: the time that it was made, and a random part.
    pub id: String,
    /// Its time; `None` if that is unknown.
    pub made: Option<SystemTime>,
    /// The undone command, and why.
    pub why: String,
    /// The command that had made what was undone.
    pub command: String,
    /// The top of the worktree that it is from.
    pub root: PathBuf,
    /// HEAD before what was undone.
    pub head_before: Option<Head>,
    /// HEAD after it, before it was undone.
    pub head_after: Option<Head>,
    /// Fencing number of the hold that it was undone in.
    pub fence: Option<u64>,
    /// The files of the worktree that are kept.
    pub files: Vec<Kept>,
    /// Files of the worktree that what was undone had deleted.
    pub deleted: Vec<PathBuf>,
    /// Other kept files: their origin, and their present path.
    pub others: Vec<KeptElsewhere>,
    /// References that had been moved.
    pub references: Vec<MovedReference>,
    /// The commits that were undone.
    pub bundle: Option<Bundle>,
    /// Size of all that is kept.
    pub bytes: u64,
    /// Whether all undone files are in it; `false` while the undo goes on, or if it was killed.
    pub finished: bool,
    /// Why it cannot be read.
    pub damage: Option<String>,
    /// Files whose copies are gone.
    pub missing: Vec<PathBuf>,
    pub(crate) directory: PathBuf,
    pub(crate) lines: usize,
}

/// A file, a link, an empty directory or a FIFO that is kept.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Kept {
    /// Its path, relative to the top of the worktree.
    pub path: PathBuf,
    /// Its kind: `a regular file`, `a symbolic link`, `a directory`, ….
    pub kind: &'static str,
    /// Size of a regular file in bytes.
    pub size: u64,
    /// The path of its copy.
    pub at: PathBuf,
    /// Permission bits of the directories above it, from the top, if they are known.
    pub(crate) above: Vec<Option<u32>>,
    /// How many of those are kept with it.
    pub(crate) inside: usize,
    /// The directory of all files of the snapshot.
    files: PathBuf,
}

impl Kept {
    /// Its directory, for reading: no link in the snapshot is followed.
    ///
    /// # Errors
    /// [`Error::NotAFile`], [`Error::Io`].
    pub(crate) fn place(&self) -> Result<Place> {
        let inside = self.at.strip_prefix(&self.files).unwrap_or(&self.at);
        Root::ours(&self.files)?.at(&sys::bytes(inside.as_os_str()))
    }
}

/// Something that is kept and was no file of the worktree.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct KeptElsewhere {
    /// Its kind.
    pub label: String,
    /// Its origin; empty if that is unknown.
    pub path: PathBuf,
    /// The path of its copy.
    pub at: PathBuf,
}

/// A git bundle.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Bundle {
    /// Its path.
    pub path: PathBuf,
    /// The references in it that lead to its commits, by their full names.
    pub references: Vec<String>,
}

/// A reference that had been moved by what was undone.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct MovedReference {
    /// Its full name.
    pub name: String,
    /// Its former target; `None` if it did not exist.
    pub old: Option<String>,
    /// Its value before the undo; `None` if it had been deleted.
    pub new: Option<String>,
}

/// All that were undone and are kept, the newest last. Does not block.
///
/// # Errors
/// [`Error::Io`] when they cannot be listed; one that cannot be read is listed as damaged.
pub fn snapshots(repo: &Repo) -> Result<Vec<Snapshot>> {
    let Some(place) = repo.snapshots_dir() else { return Ok(Vec::new()) };
    let mut all: Vec<Snapshot> = ids(&place)?.into_iter().map(|id| read(&place, id)).collect();
    all.sort_by(|a, b| (a.made, &a.id).cmp(&(b.made, &b.id)));
    Ok(all)
}

/// The one with this id, or the only one whose id begins so.
///
/// # Errors
/// [`Error::NoSnapshot`], [`Error::AmbiguousSnapshot`], [`Error::DamagedSnapshot`], [`Error::Io`].
pub fn snapshot(repo: &Repo, id: &str) -> Result<Snapshot> {
    let place = place::place(repo)?;
    let mut ids = ids(&place)?;
    ids.retain(|candidate| !id.is_empty() && candidate.starts_with(id));
    if ids.len() > 1 {
        return Err(Error::AmbiguousSnapshot { id: id.to_owned(), candidates: ids });
    }
    let id = ids.pop().ok_or_else(|| Error::NoSnapshot { id: id.to_owned() })?;
    let snapshot = read(&place, id);
    match snapshot.damage {
        Some(reason) => Err(Error::DamagedSnapshot { path: snapshot.directory, reason }),
        None => Ok(snapshot),
    }
}

fn ids(place: &Path) -> Result<Vec<String>> {
    let names = match fs::list(place) {
        Err(Error::Io { source, .. }) if fs::is_missing(&source) => return Ok(Vec::new()),
        names => names?,
    };
    let mut ids: Vec<String> = names.into_iter().filter_map(|name| name.into_string().ok()).collect();
    ids.retain(|id| time_of(id).is_some());
    Ok(ids)
}

/// Holds a snapshot while it is read, so that nobody removes it; `None` if it was just removed.
pub(crate) fn hold(snapshot: &Snapshot) -> Option<LockFile> {
    let path = snapshot.directory.join(MANIFEST);
    let manifest = LockFile::new(fs::open(&path, false).ok()?, &path).ok()?;
    // If locks do not work, nobody else could get one, either.
    let held = manifest.try_lock(Mode::Shared).unwrap_or(true);
    (held && manifest.is_at(&path)).then_some(manifest)
}

fn read(place: &Path, id: String) -> Snapshot {
    let directory = place.join(&id);
    let mut snapshot = Snapshot { made: time_of(&id), id, directory: directory.clone(), ..Snapshot::default() };
    if let Err(damage) = fill(&mut snapshot) {
        snapshot.damage = Some(damage);
    }
    snapshot
}

fn fill(snapshot: &mut Snapshot) -> Result<(), String> {
    let directory = snapshot.directory.clone();
    // A link might lead anywhere.
    let files = Root::ours(&directory).and_then(|_| Root::ours(&directory.join(FILES)));
    let files = files.map_err(|error| in_words(&error))?;
    let manifest = fs::open_record(&directory.join(MANIFEST)).map_err(|error| in_words(&error))?;
    if manifest.metadata().map_or(u64::MAX, |metadata| metadata.len()) > MOST_BYTES {
        return Err("its manifest is larger than any".to_owned());
    }
    let mut lines = BufReader::new(manifest);
    let first = next_line(&mut lines).and_then(|line| serde_json::from_slice::<First>(&line).ok());
    let first = first.filter(|first| first.schema == SCHEMA && first.id == snapshot.id);
    let first = first.ok_or("its manifest does not begin as it should")?;
    snapshot.made = UNIX_EPOCH.checked_add(Duration::from_millis(first.made_at_ms));
    snapshot.root = path_of(&first.root);
    let header = first.header;
    (snapshot.why, snapshot.command, snapshot.fence) = (header.why, header.command, header.fence);
    (snapshot.head_before, snapshot.head_after) = (header.head_before, header.head_after);
    let mut known = HashSet::new();
    while let Some(line) = next_line(&mut lines) {
        // Torn lines and those of a later version are skipped.
        let Ok(line) = serde_json::from_slice::<Line>(&line) else { continue };
        snapshot.add(line, &files, &mut known);
    }
    // What could not be moved is still in its place.
    let root = snapshot.root.clone();
    snapshot.missing.retain(|path| fs::identity(&root.join(path)).is_none());
    snapshot.add_nameless(&known);
    snapshot.bundle = read_bundle(directory.join(BUNDLE));
    snapshot.bytes = fs::size(&directory.join(FILES)) + fs::size(&directory.join(BUNDLE));
    Ok(())
}

/// An error with its cause.
fn in_words(error: &Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

impl Snapshot {
    /// Fails unless this user, root or the owner of the git directory made it. Other snapshots are shown, but never acted upon.
    ///
    /// # Errors
    /// [`Error::Foreign`], [`Error::NotAFile`], [`Error::Io`].
    pub(crate) fn check_owner(&self) -> Result<()> {
        fs::open_trusted(&self.directory.join(MANIFEST), sys::effective_user()).map(drop)
    }

    fn add(&mut self, line: Line, root: &Root, known: &mut HashSet<u64>) {
        match line {
            Line::Moved { file, path, above } | Line::Copied { file, path, above } => {
                known.insert(file);
                let path = path_of(&path);
                let directories = path.components().count().saturating_sub(1);
                let mut above: Vec<_> = above.into_iter().map(|bits| Some(bits & 0o7777)).collect();
                above.resize(directories, None);
                if let Ok(at) = root.at(file.to_string().as_bytes()) {
                    if fs::identity(at.path()).is_none() {
                        self.missing.push(path.clone());
                    }
                    let files = root.path().to_owned();
                    let kept = Kept { path, kind: "", size: 0, at: PathBuf::new(), above, inside: 0, files };
                    expand(&mut self.files, &at, kept);
                }
            }
            Line::Deleted { path } => self.deleted.push(path_of(&path)),
            Line::Other { file, label, path } => {
                known.insert(file);
                let at = self.directory.join(FILES).join(file.to_string());
                if fs::identity(&at).is_some() {
                    self.others.push(KeptElsewhere { label, path: path_of(&path), at });
                }
            }
            Line::Reference { name, old, new } => self.references.push(MovedReference { name, old, new }),
            Line::Finished { .. } => {
                self.finished = true;
                return;
            }
        }
        self.lines += 1;
        self.finished = false;
    }

    /// Files whose line a power loss has taken.
    fn add_nameless(&mut self, known: &HashSet<u64>) {
        let names = fs::list(&self.directory.join(FILES)).unwrap_or_default();
        for name in names {
            let number = name.to_str().and_then(|name| name.parse().ok());
            // Half a copy has a passing name; its original is in its place.
            if number.is_some_and(|file| !known.contains(&file)) {
                let (label, at) = ("its name was lost".to_owned(), self.directory.join(FILES).join(name));
                self.others.push(KeptElsewhere { label, path: PathBuf::new(), at });
            }
        }
    }
}

/// Adds an entry; of a directory its entries, or the directory itself if it is empty.
fn expand(files: &mut Vec<Kept>, at: &Place, kept: Kept) {
    let Ok(found) = fs::metadata(at) else { return };
    let is_open = found.is_dir() && kept.inside < fs::DEEPEST;
    let names = if is_open { fs::list(at).unwrap_or_default() } else { Vec::new() };
    if names.is_empty() {
        let size = if found.is_file() { found.size } else { 0 };
        files.push(Kept { kind: found.name(), size, at: at.path().to_owned(), ..kept });
        return;
    }
    for name in names {
        let above = kept.above.iter().copied().chain([Some(found.permissions())]).collect();
        let inner = Kept { path: kept.path.join(&name), above, inside: kept.inside + 1, ..kept.clone() };
        expand(files, &at.child(&name), inner);
    }
}

/// The head of a bundle: a line that tells the version, lines with `-` or `@`, lines of an id and a name, an empty line.
fn read_bundle(path: PathBuf) -> Option<Bundle> {
    let mut lines = BufReader::new(fs::open_record(&path).ok()?.take(MOST_BYTES));
    let head = std::iter::from_fn(|| next_line(&mut lines)).skip(1).take_while(|line| line != b"\n");
    let names = head.filter_map(|line| {
        let line = String::from_utf8(line).ok()?;
        let (id, name) = line.trim_end_matches('\n').split_once(' ')?;
        let is_one = id.bytes().all(|byte| byte.is_ascii_hexdigit()) && (name == "HEAD" || name.starts_with("refs/"));
        is_one.then(|| name.to_owned())
    });
    Some(Bundle { references: names.collect(), path })
}
