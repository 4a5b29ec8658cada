//! A repository as one value: all that a rollback has to put back, and the first differences in words.
//!
//! Read without changing anything: the index is not refreshed, and what is ignored is a value of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::Sandbox;

/// What git keeps in the git directory while an operation is unfinished.
const OPERATIONS: [&str; 14] = [
    "MERGE_HEAD",
    "MERGE_MODE",
    "MERGE_MSG",
    "MERGE_RR",
    "SQUASH_MSG",
    "AUTO_MERGE",
    "CHERRY_PICK_HEAD",
    "REVERT_HEAD",
    "REBASE_HEAD",
    "BISECT_START",
    "BISECT_LOG",
    "sequencer",
    "rebase-merge",
    "rebase-apply",
];
/// The index's own flags that a person sets: assume unchanged, skip-worktree, intent to add.
const FLAGS: u32 = 0x6000_8000;
/// As many differences are told.
const TOLD: usize = 6;
/// As many bytes are shown around the first that differs.
const SHOWN: usize = 60;

/// Paths and what is there: kind, permission bits, and bytes or target.
pub(crate) type Files = BTreeMap<PathBuf, Vec<u8>>;

/// HEAD, refs, stash, index, unfinished operations, and every file and directory that is not ignored.
pub(crate) struct RepoState {
    facts: BTreeMap<String, Vec<u8>>,
    /// Directories that hold nothing but what is ignored: they come and go with it.
    loose: BTreeSet<String>,
    ignored: Files,
}

impl Sandbox {
    /// The state of the repository.
    pub(crate) fn state(&self) -> RepoState {
        self.state_of(self.here())
    }

    /// The same for another checkout of the sandbox.
    pub(crate) fn state_of(&self, top: &Path) -> RepoState {
        let mut facts = BTreeMap::new();
        let (own, common) = git_dirs(top);
        facts.insert("HEAD".to_owned(), fs::read(own.join("HEAD")).unwrap_or_default());
        let refs = self.ask(top, &["for-each-ref", "--format=%(refname) %(objectname) %(symref)"]);
        // Our own of an unfinished mutation is no part of the state; that none is left is looked for elsewhere.
        let ours = b"refs/worktree/repoguard";
        for line in refs.split(|byte| *byte == b'\n').filter(|line| !line.is_empty() && !line.starts_with(ours)) {
            let (name, rest) = split_at(line, b' ');
            facts.insert(format!("ref {}", name.escape_ascii()), rest.to_vec());
        }
        if let Ok(log) = fs::read(common.join("logs/refs/stash")) {
            facts.insert("stash's reflog".to_owned(), log);
        }
        for name in OPERATIONS {
            if let Ok(meta) = fs::symlink_metadata(own.join(name)) {
                let text = if meta.is_dir() { b"a directory".to_vec() } else { fs::read(own.join(name)).unwrap() };
                facts.insert(format!("operation {name}"), text);
            }
        }
        let links = self.index(top, &mut facts);
        let (files, loose, ignored) = self.worktree_files(top, &links);
        for (path, what) in files {
            facts.insert(format!("file {}", path.as_os_str().as_bytes().escape_ascii()), what);
        }
        let loose = loose.iter().map(|path| format!("file {}", path.as_os_str().as_bytes().escape_ascii())).collect();
        RepoState { facts, loose, ignored }
    }

    /// What git says, which is part of the state also where git finds it broken.
    fn ask(&self, top: &Path, args: &[&str]) -> Vec<u8> {
        let mut command = self.command("git");
        // Whoever owns it: it is looked at, and nothing else. What is skipped is what the index says.
        command
            .args(["-c", "safe.directory=*", "-c", "sparse.expectFilesOutsideOfPatterns=true"])
            .args(args)
            .current_dir(top)
            .env("GIT_OPTIONAL_LOCKS", "0");
        let output = command.output().unwrap();
        if output.status.success() { output.stdout } else { [output.stdout, output.stderr].concat() }
    }

    /// The entries of the index, without what git remembers of the files; returns where other repositories are linked.
    fn index(&self, top: &Path, facts: &mut BTreeMap<String, Vec<u8>>) -> BTreeSet<PathBuf> {
        let told = self.ask(top, &["ls-files", "-z", "--stage", "-v", "--debug"]);
        let (mut rest, mut repositories) = (&told[..], BTreeSet::new());
        while !rest.is_empty() {
            let (entry, more) = split_at(rest, 0);
            let (what, path) = split_at(entry, b'\t');
            let mut lines = more.splitn(6, |byte| *byte == b'\n');
            let last = lines.by_ref().take(5).last().unwrap_or_default();
            rest = lines.next().unwrap_or_default();
            let last = String::from_utf8_lossy(last);
            let flags = last.rsplit(' ').next().and_then(|flags| u32::from_str_radix(flags, 16).ok());
            let (what, stage) = what.split_at(what.len().saturating_sub(1));
            if what.windows(6).any(|mode| mode == b"160000") {
                repositories.insert(PathBuf::from(std::ffi::OsString::from_vec(path.to_vec())));
            }
            let fact = format!("{}flags {:x}", what.escape_ascii(), flags.unwrap_or_default() & FLAGS);
            facts.insert(format!("index {} {}", path.escape_ascii(), stage.escape_ascii()), fact.into_bytes());
        }
        repositories
    }

    fn worktree_files(&self, top: &Path, links: &BTreeSet<PathBuf>) -> (Files, BTreeSet<PathBuf>, Files) {
        let told = self.ask(top, &["ls-files", "-z", "-o", "-i", "--exclude-standard", "--directory"]);
        let (mut files, mut loose, mut ignored) = (Files::new(), BTreeSet::new(), Files::new());
        let mut excluded = BTreeSet::new();
        for path in told.split(|byte| *byte == 0).filter(|path| !path.is_empty()) {
            let name = PathBuf::from(std::ffi::OsString::from_vec(path.strip_suffix(b"/").unwrap_or(path).to_vec()));
            if path.ends_with(b"/") {
                loose.insert(name.clone());
            }
            excluded.insert(name);
        }
        let mut pending = vec![PathBuf::new()];
        while let Some(path) = pending.pop() {
            let place = top.join(&path);
            let repository = path.file_name().is_some_and(|name| name == ".git");
            let git_dir = git_dirs(top).0;
            if (path == Path::new(".git") && place.is_dir()) || place == git_dir {
                continue;
            }
            let Ok(meta) = fs::symlink_metadata(&place) else { continue };
            if meta.is_dir() && !repository && !links.contains(&path) {
                pending.extend(
                    fs::read_dir(&place).into_iter().flatten().flatten().map(|each| path.join(each.file_name())),
                );
            }
            let is_ignored = path.ancestors().any(|part| excluded.contains(part));
            let target = if is_ignored { &mut ignored } else { &mut files };
            target.insert(path, what_is_there(&place, &meta));
        }
        (files, loose, ignored)
    }
}

impl RepoState {
    /// The ignored files.
    pub(crate) fn ignored(&self) -> &Files {
        &self.ignored
    }

    /// Forgets what is in a directory, and the branch of that name.
    pub(crate) fn forget(&mut self, neighbour: &str) {
        let file = format!("file {neighbour}");
        let is_its =
            |name: &str| name == format!("ref refs/heads/{neighbour}") || Path::new(name).starts_with(Path::new(&file));
        self.facts.retain(|name, _| !is_its(name));
    }

    /// What is not as it was, in words; nothing where all is.
    pub(crate) fn difference(&self, now: &Self) -> Option<String> {
        let names: BTreeSet<&String> = self.facts.keys().chain(now.facts.keys()).collect();
        let is_loose = |name: &String, fact: Option<&Vec<u8>>| {
            fact.is_none_or(|fact| fact.starts_with(b"directory"))
                && (self.loose.contains(name) || now.loose.contains(name))
        };
        let mut told = String::new();
        let mut count = 0;
        for name in names {
            let (was, is) = (self.facts.get(name), now.facts.get(name));
            if was == is || (is_loose(name, was) && is_loose(name, is)) {
                continue;
            }
            count += 1;
            if count <= TOLD {
                let at = match (was, is) {
                    (Some(was), Some(is)) => was.iter().zip(is).take_while(|(was, is)| was == is).count(),
                    _ => 0,
                };
                writeln!(told, "{name}\n  was {}\n  is  {}", excerpt(was, at), excerpt(is, at)).expect("a string");
            }
        }
        if count > TOLD {
            writeln!(told, "and {} more", count - TOLD).expect("a string");
        }
        (count > 0).then_some(told)
    }

    /// Asserts that all is as it was.
    #[track_caller]
    pub(crate) fn assert_same(&self, now: &Self, told: &str) {
        if let Some(difference) = self.difference(now) {
            panic!("not as it was:\n{difference}after: {told}");
        }
    }
}

/// The git directory of a checkout, and the one that all its worktrees share.
pub(super) fn git_dirs(top: &Path) -> (PathBuf, PathBuf) {
    let link = fs::read_to_string(top.join(".git")).unwrap_or_default();
    let own = link.trim_end().strip_prefix("gitdir: ").map_or_else(|| top.join(".git"), |dir| top.join(dir));
    let common = fs::read_to_string(own.join("commondir")).map_or_else(|_| own.clone(), |dir| own.join(dir.trim_end()));
    (own, common)
}

fn what_is_there(place: &Path, meta: &fs::Metadata) -> Vec<u8> {
    let kind = meta.file_type();
    let (kind, bytes) = if kind.is_symlink() {
        ("link", fs::read_link(place).unwrap().into_os_string().into_vec())
    } else if kind.is_dir() {
        ("directory", Vec::new())
    } else if kind.is_file() {
        ("file", fs::read(place).unwrap_or_else(|error| format!("unreadable: {error}").into_bytes()))
    } else if kind.is_fifo() {
        ("FIFO", Vec::new())
    } else {
        ("device or socket", Vec::new())
    };
    [format!("{kind} {:04o} ", meta.permissions().mode() & 0o7777).as_bytes(), &bytes].concat()
}

/// What stands before the first such byte, and what after it.
fn split_at(bytes: &[u8], at: u8) -> (&[u8], &[u8]) {
    let mut parts = bytes.splitn(2, |byte| *byte == at);
    (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
}

/// A value around a place in it.
fn excerpt(bytes: Option<&Vec<u8>>, at: usize) -> String {
    let Some(bytes) = bytes else { return "missing".to_owned() };
    let begin = at.saturating_sub(SHOWN / 2);
    let begin = if begin < SHOWN { 0 } else { begin };
    let end = bytes.len().min(at + SHOWN);
    let text = bytes[begin..end].escape_ascii();
    format!(
        "{}{text}{}",
        if begin > 0 { "…" } else { "" },
        if end < bytes.len() { format!("… ({} bytes)", bytes.len()) } else { String::new() }
    )
}
