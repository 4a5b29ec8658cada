//! Tells whether inputs are still what something was made from: digests of files, directories and outputs of commands,
//! kept in the shared document.
//!
//! # Format
//! The section `inputs_digest` has one member for each name: `digest`, of all below it; `inputs`, the digest of each path; and
//! `commands`, the digest of each command's output, if there are any. Paths are as seen from the top of the worktree, or absolute
//! outside of it; digests are SHA-256, `sha256:` and 64 hex digits. No time is recorded: the same inputs are written the same.
//!
//! Of a file count its bytes, and whether its owner may run it. Of a directory count the names, in the order of their bytes, and
//! the entries, ignored ones as well. A link in it counts by its target; a FIFO, a socket or a device by its kind. An input that is
//! a link itself counts by its target's path and contents. `.git`, the shared document itself and temporary files do not count.
//!
//! # Limitations
//! An input is a path of text; files in a directory may have other names.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    io::{self, Read as _},
    path::{Path, PathBuf},
    process::ExitStatus,
};

use hmac_sha256::Hash as Sha256;
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    escape::hex,
    exec, fs,
    repo::{Repo, is_git_name},
    store::state::StateFile,
    sys,
};

/// The section that digests of inputs are kept in.
pub const INPUTS_DIGEST: &str = "inputs_digest";

/// The sources that something is made from: files, directories, and outputs of commands.
///
/// # Example
/// ```
/// use repoguard::{Config, Repo, state::{Inputs, StateFile}};
///
/// let directory = tempfile::tempdir()?;
/// let repo = Repo::discover(directory.path())?;
/// let state = StateFile::at(&repo, &Config::load(&repo)?, &directory.path().join("lock.json"))?;
/// let source = directory.path().join("source");
/// std::fs::write(&source, "one")?;
/// let mut inputs = Inputs::new(&repo);
/// inputs.add_path(&source)?;
/// inputs.digest(&state)?.stage(&state, "build")?;
/// state.flush()?;
///
/// std::fs::write(&source, "two")?;
/// let checked = inputs.check(&state, "build")?;
/// assert_eq!(checked.differences[0].to_string(), "changed: source");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Inputs {
    root: PathBuf,
    paths: BTreeMap<String, PathBuf>,
    commands: Vec<String>,
}

/// Digests of inputs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digests {
    digest: String,
    inputs: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    commands: BTreeMap<String, String>,
}

/// One input that is not what it was.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Difference {
    /// Nothing was recorded under this name.
    Unrecorded(String),
    /// It was no input.
    Added(String),
    /// It was recorded, but was not given.
    Removed(String),
    /// It is not the same.
    Changed(String),
    /// It was recorded, and is gone.
    Gone(String),
    /// It was recorded, and is something else now that cannot be digested: a FIFO or a device, for example.
    Replaced(String, &'static str),
    /// It was recorded, and cannot be read now; with the reason.
    Unreadable(String, String),
}

/// Inputs compared with those that were recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// The digests of now; `None` if a recorded input has none any more.
    pub digests: Option<Digests>,
    /// The differences from the record; empty if there are none.
    pub differences: Vec<Difference>,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unrecorded(name) => write!(f, "nothing recorded: {name}"),
            Self::Added(input) => write!(f, "not recorded: {input}"),
            Self::Removed(input) => write!(f, "recorded, but not given: {input}"),
            Self::Changed(input) => write!(f, "changed: {input}"),
            Self::Gone(input) => write!(f, "changed: gone: {input}"),
            Self::Replaced(input, kind) => write!(f, "changed: {kind} now: {input}"),
            Self::Unreadable(input, reason) => write!(f, "changed: cannot be read: {input}: {reason}"),
        }
    }
}

impl Inputs {
    /// No inputs yet.
    #[must_use]
    pub fn new(repo: &Repo) -> Self {
        let root = repo.root().canonicalize().unwrap_or_else(|_| repo.root().to_owned());
        Self { root, paths: BTreeMap::new(), commands: Vec::new() }
    }

    /// Adds a file or directory, as seen from the current directory. It need not be there: [`Inputs::digest`] fails then, and
    /// [`Inputs::check`] reports it.
    ///
    /// # Errors
    /// [`Error::BadValue`] if it is not text, [`Error::Io`] without a current directory.
    pub fn add_path(&mut self, path: &Path) -> Result<()> {
        let real = resolved(path)?;
        let seen = match real.strip_prefix(&self.root) {
            Ok(seen) if seen.as_os_str().is_empty() => Path::new("."),
            Ok(seen) => seen,
            Err(_) => &real,
        };
        let name = seen.to_str().ok_or_else(|| Error::BadValue {
            what: format!("the path `{}`", path.display()),
            reason: "only a path that is UTF-8 can be an input itself; the directory around it can".to_owned(),
        })?;
        self.paths.insert(name.to_owned(), real);
        Ok(())
    }

    /// Adds what a command prints: a line that is run by `sh -c` at the top of the worktree.
    pub fn add_command(&mut self, line: impl Into<String>) {
        self.commands.push(line.into());
    }

    /// Adds the paths that were recorded under a name; `false` if nothing was. Commands are not added: what stands in a document
    /// is never run.
    ///
    /// # Errors
    /// As [`StateFile::read`]; also [`Error::DamagedDocument`] for a damaged record.
    pub fn add_recorded(&mut self, state: &StateFile, name: &str) -> Result<bool> {
        let Some(recorded) = Digests::recorded(state, name)? else { return Ok(false) };
        self.paths.extend(recorded.inputs.into_keys().map(|path| (path.clone(), self.root.join(path))));
        Ok(true)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty() && self.commands.is_empty()
    }

    /// Reads all inputs, and runs all commands. Blocks until that is done; `state` is the document that does not count.
    ///
    /// # Errors
    /// [`Error::Io`] if one is missing or cannot be read, [`Error::NotAFile`] for other kinds than files and directories,
    /// [`Error::InputCommand`].
    pub fn digest(&self, state: &StateFile) -> Result<Digests> {
        self.read(state, &mut |_, error| Err(error))
    }

    /// As [`Inputs::digest`], and compares with the record under a name. A recorded input that has gone or cannot be read has
    /// changed; that is not an error.
    ///
    /// # Errors
    /// As [`Inputs::digest`] for inputs that were not recorded, and for commands; also as [`Inputs::add_recorded`].
    pub fn check(&self, state: &StateFile, name: &str) -> Result<Checked> {
        let Some(recorded) = Digests::recorded(state, name)? else {
            let differences = vec![Difference::Unrecorded(name.to_owned())];
            return Ok(Checked { digests: Some(self.digest(state)?), differences });
        };
        let mut unread = Vec::new();
        let digests = self.read(state, &mut |input, error| {
            if !recorded.inputs.contains_key(input) {
                return Err(error);
            }
            unread.push(unread_input(input, error));
            Ok(())
        })?;
        let given = |input: &str| self.paths.contains_key(input) || digests.commands.contains_key(input);
        let mut differences = digests.differences(&recorded, given);
        let is_whole = unread.is_empty();
        differences.extend(unread);
        Ok(Checked { digests: is_whole.then_some(digests), differences })
    }

    /// Reads all inputs. `unread` decides what becomes of one that cannot be: an error, or it is left out.
    fn read(&self, state: &StateFile, unread: &mut dyn FnMut(&str, Error) -> Result<()>) -> Result<Digests> {
        let own = state.path().canonicalize().ok();
        let mut inputs = BTreeMap::new();
        for (name, path) in &self.paths {
            match input(path, own.as_deref()) {
                Ok(hash) => drop(inputs.insert(name.clone(), text(hash))),
                Err(error) => unread(name, error)?,
            }
        }
        let mut commands = BTreeMap::new();
        for line in &self.commands {
            commands.insert(line.clone(), text(output(line, &self.root)?));
        }
        let mut all = Sha256::new();
        for (kind, digests) in [("path", &inputs), ("command", &commands)] {
            for (name, digest) in digests {
                part(&mut all, kind.as_bytes());
                part(&mut all, name.as_bytes());
                part(&mut all, digest.as_bytes());
            }
        }
        Ok(Digests { digest: text(all), inputs, commands })
    }
}

impl Digests {
    /// One digest of all inputs together.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Stages them in the section [`INPUTS_DIGEST`], under a name; other names stay.
    ///
    /// # Errors
    /// As [`StateFile::stage`].
    pub fn stage(&self, state: &StateFile, name: &str) -> Result<()> {
        state.stage_member(INPUTS_DIGEST, name, self)
    }

    /// The differences from the record, except inputs that were `given` and could not be read.
    fn differences(&self, recorded: &Self, given: impl Fn(&str) -> bool) -> Vec<Difference> {
        let mut found = Vec::new();
        for (now, then) in [(&self.inputs, &recorded.inputs), (&self.commands, &recorded.commands)] {
            for (input, digest) in now {
                match then.get(input) {
                    None => found.push(Difference::Added(input.clone())),
                    Some(recorded) if recorded != digest => found.push(Difference::Changed(input.clone())),
                    Some(_) => {}
                }
            }
            let removed = then.keys().filter(|input| !now.contains_key(*input) && !given(input));
            found.extend(removed.map(|input| Difference::Removed(input.clone())));
        }
        found
    }

    fn recorded(state: &StateFile, name: &str) -> Result<Option<Self>> {
        let Some(document) = state.read()? else { return Ok(None) };
        let pointer = format!("/{}", name.replace('~', "~0").replace('/', "~1"));
        let Some(record) = document.find(INPUTS_DIGEST, &pointer)? else { return Ok(None) };
        serde_json::from_str(record).map(Some).map_err(|_| {
            document.damage(record, format!("`{name}` in section `{INPUTS_DIGEST}` is no digest of inputs"))
        })
    }
}

/// How a recorded input that has no digest any more has changed.
fn unread_input(input: &str, error: Error) -> Difference {
    let input = input.to_owned();
    match error {
        Error::Io { source, .. } if matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Difference::Gone(input)
        }
        Error::NotAFile { kind, .. } => Difference::Replaced(input, kind),
        Error::Io { source, path, .. } => Difference::Unreadable(input, format!("`{}`: {source}", path.display())),
        error => Difference::Unreadable(input, error.to_string()),
    }
}

/// A path without links above its last component. If it does not exist, the part that exists is resolved.
fn resolved(path: &Path) -> Result<PathBuf> {
    let path = std::path::absolute(path).map_err(Error::io("find", path))?;
    if !std::fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_symlink())
        && let Ok(real) = path.canonicalize()
    {
        return Ok(real);
    }
    let there = path.ancestors().skip(1).find_map(|above| Some((above, above.canonicalize().ok()?)));
    let Some((above, real)) = there else { return Ok(path) };
    Ok(path.strip_prefix(above).map_or_else(|_| path.clone(), |rest| real.join(rest)))
}

fn text(hash: Sha256) -> String {
    format!("sha256:{}", hex(&hash.finalize()))
}

/// Adds a part so that no other parts add up to the same.
fn part(hash: &mut Sha256, bytes: &[u8]) {
    hash.update((bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}

/// The digest of what an input is and leads to.
fn input(path: &Path, own: Option<&Path>) -> Result<Sha256> {
    let metadata = std::fs::symlink_metadata(path).map_err(Error::io("read", path))?;
    let mut hash = Sha256::new();
    let mut real = path.to_owned();
    if metadata.is_symlink() {
        hash.update(b"link");
        part(&mut hash, &sys::bytes(fs::read_link(path)?.as_os_str()));
        real = path.canonicalize().map_err(Error::io("read", path))?;
    }
    let metadata = std::fs::metadata(&real).map_err(Error::io("read", path))?;
    if !metadata.is_file() && !metadata.is_dir() {
        let kind = sys::kind(&metadata);
        return Err(Error::NotAFile { path: path.to_owned(), kind, expected: "a regular file or a directory" });
    }
    entry(&real, own, &mut hash)?;
    Ok(hash)
}

fn entry(path: &Path, own: Option<&Path>, hash: &mut Sha256) -> Result<()> {
    let metadata = std::fs::symlink_metadata(path).map_err(Error::io("read", path))?;
    if metadata.is_dir() {
        return directory(path, own, hash);
    }
    if metadata.is_symlink() {
        hash.update(b"link");
        part(hash, &sys::bytes(fs::read_link(path)?.as_os_str()));
    } else if metadata.is_file() {
        hash.update(if sys::mode(&metadata) & 0o100 == 0 { &b"file"[..] } else { b"tool" });
        part(hash, &contents(path)?);
    } else {
        hash.update(b"node");
        part(hash, sys::kind(&metadata).as_bytes());
    }
    Ok(())
}

fn directory(path: &Path, own: Option<&Path>, hash: &mut Sha256) -> Result<()> {
    let list = || std::fs::read_dir(path)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>();
    let mut names = list().map_err(Error::io("list", path))?;
    let counts = |name: &OsStr| {
        let is_passing = name.to_str().is_some_and(|name| name.starts_with(fs::PASSING));
        !is_git_name(name) && !is_passing && own != Some(path.join(name).as_path())
    };
    names.retain(|name| counts(name));
    names.sort_by(|one, other| sys::bytes(one).cmp(&sys::bytes(other)));
    hash.update(b"tree");
    hash.update((names.len() as u64).to_le_bytes());
    for name in names {
        part(hash, &sys::bytes(&name));
        entry(&path.join(&name), own, hash)?;
    }
    Ok(())
}

fn contents(path: &Path) -> Result<Vec<u8>> {
    let mut file = fs::open(path, false)?;
    let mut hash = Sha256::new();
    let mut piece = vec![0; 64 << 10];
    loop {
        match file.read(&mut piece) {
            Ok(0) => return Ok(hash.finalize().to_vec()),
            Ok(read) => hash.update(&piece[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io("read", path)(error)),
        }
    }
}

/// The digest of what a command prints.
fn output(line: &str, directory: &Path) -> Result<Sha256> {
    let failed = |reason: String| Error::InputCommand { command: line.to_owned(), reason };
    let mut hash = Sha256::new();
    let status = exec::read_output(line, directory, |piece| hash.update(piece));
    match status {
        Ok(status) if status.success() => Ok(hash),
        Ok(status) => Err(failed(ended(status))),
        Err(error) => Err(failed(error.to_string())),
    }
}

fn ended(status: ExitStatus) -> String {
    status.code().map_or_else(|| status.to_string(), |code| format!("it ended with status {code}"))
}
