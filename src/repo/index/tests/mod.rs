//! Compares what the reader and the writer make of an index with what git makes of it.

#![expect(clippy::disallowed_methods, reason = "the indexes are git's own, and then damaged")]

mod edits;

use std::{
    fs,
    io::Write as _,
    process::{Command, Stdio},
};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::garbage::{cases, near};

/// Flags that both sides know, as git has them in memory.
const FLAGS: u32 = ASSUME_UNCHANGED | 0x3000 | SKIP_WORKTREE | INTENT_TO_ADD;

/// A repository to make indexes in.
struct Place {
    directory: TempDir,
    id_bytes: usize,
}

impl Place {
    fn new(init: &[&str]) -> Self {
        let place = Self { directory: tempfile::tempdir().expect("a temporary directory"), id_bytes: 20 };
        place.git(&[&["init", "--quiet"], init].concat());
        place
    }

    fn git(&self, arguments: &[&str]) -> Vec<u8> {
        self.git_with(arguments, b"")
    }

    fn git_with(&self, arguments: &[&str], input: &[u8]) -> Vec<u8> {
        let mut git = Command::new("git");
        git.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        git.envs([("GIT_CONFIG_GLOBAL", "/dev/null"), ("GIT_CONFIG_SYSTEM", "/dev/null")]);
        git.args(["-c", "user.name=A", "-c", "user.email=a@example.com"]).args(arguments);
        git.current_dir(self.directory.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = git.spawn().expect("git");
        child.stdin.take().expect("a pipe").write_all(input).expect("git reads");
        let output = child.wait_with_output().expect("git ends");
        assert!(output.status.success(), "git {arguments:?}");
        output.stdout
    }

    fn write(&self, path: &str, content: &str) {
        let path = self.directory.path().join(path);
        fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        fs::write(path, content).expect("a file");
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join(".git/index")
    }

    fn open(&self) -> Index {
        Index::open(&self.file(), self.id_bytes).expect("an index that can be read").expect("an index")
    }

    /// Puts entries into the index whose files are not there.
    fn insert(&self, entries: &[(&str, &[u8])]) {
        let id = "1234567890abcdef".repeat(4);
        let mut list = Vec::new();
        for (mode_and_stage, path) in entries {
            let (mode, stage) = mode_and_stage.split_once(' ').unwrap_or((mode_and_stage, "0"));
            list.extend_from_slice(format!("{mode} {} {stage}\t", &id[..self.id_bytes * 2]).as_bytes());
            list.extend_from_slice(&[path, &b"\0"[..]].concat());
        }
        self.git_with(&["update-index", "-z", "--index-info"], &list);
    }

    /// A bit of everything.
    fn fill(&self) {
        for path in ["a", "dir/b", "dir/c", "dir-d", "unseen", "ü"] {
            self.write(path, path);
        }
        self.git(&["add", "."]);
        let long: Vec<Vec<u8>> = [4094, 4095, 4096, 9000].map(|length| vec![b'l'; length]).into();
        let conflict = ["100644 1", "100755 2", "120000 3"].map(|mode| (mode, &b"conflict"[..]));
        self.insert(&[
            ("100644", b"line\nbreak"),
            ("100755", b"not \xff UTF-8 \x80"),
            ("120000", b"a link"),
            ("160000", b"dir/submodule"),
        ]);
        self.insert(&conflict);
        self.insert(&long.iter().map(|path| ("100644", &path[..])).collect::<Vec<_>>());
        self.git(&["update-index", "--assume-unchanged", "dir/b", "ü"]);
    }

    /// Features of version 3 and later.
    fn fill_more(&self) {
        self.fill();
        self.write("intended", "not added");
        self.git(&["add", "--intent-to-add", "intended"]);
        self.git(&["update-index", "--skip-worktree", "unseen", "dir/c"]);
    }

    /// Holds the reader against git, and returns how many entries there are.
    fn compare(&self, version: u32) -> usize {
        let mut index = self.open();
        assert_eq!(index.version, version);
        let mut ours = Vec::new();
        while let Some(entry) = index.next().expect("an entry") {
            ours.push(listed(&entry));
        }
        assert!(!index.is_partial().expect("extensions that are known"));
        let theirs = records(&self.git(&["ls-files", "--stage", "--debug", "-z"]));
        assert_eq!(ours, theirs);
        theirs.len()
    }

    /// How the reading ends.
    fn read(&self) -> Result<bool> {
        match Index::open(&self.file(), self.id_bytes)? {
            Some(mut index) => index.is_partial(),
            None => Ok(false),
        }
    }

    /// Why it cannot be read when it holds this.
    fn reason(&self, bytes: &[u8]) -> String {
        fs::write(self.file(), bytes).expect("an index");
        match self.read() {
            Err(Error::BrokenRepository { path, reason }) if path == self.file() => reason,
            other => panic!("not broken: {other:?}"),
        }
    }
}

/// An entry as `git ls-files --stage --debug -z` shows it: what is before the NUL, and the lines after it.
fn listed(entry: &Entry<'_>) -> (Vec<u8>, String) {
    let head = format!("{:06o} {} {}\t", entry.mode, crate::escape::hex(entry.id), entry.stage);
    let Stat { changed, modified, device, inode, user, group, size } = entry.stat;
    let mut flags = u32::from(entry.stage) << 12;
    let named = [
        (entry.assume_unchanged, ASSUME_UNCHANGED),
        (entry.skip_worktree, SKIP_WORKTREE),
        (entry.intent_to_add, INTENT_TO_ADD),
    ];
    flags |= named.iter().filter(|(set, _)| *set).fold(0, |flags, (_, flag)| flags | flag);
    let times = format!("  ctime: {}:{}\n  mtime: {}:{}\n", changed.0, changed.1, modified.0, modified.1);
    let ids = format!("  dev: {device}\tino: {inode}\n  uid: {user}\tgid: {group}\n");
    let lines = format!("{times}{ids}  size: {size}\tflags: {flags:x}\n");
    ([head.as_bytes(), entry.path].concat(), lines)
}

/// The entries that git shows.
fn records(mut shown: &[u8]) -> Vec<(Vec<u8>, String)> {
    let mut found = Vec::new();
    while let Some(end) = shown.iter().position(|byte| *byte == 0) {
        let lines: Vec<_> = shown[end + 1..].split_inclusive(|byte| *byte == b'\n').take(5).collect();
        let text = String::from_utf8(lines.concat()).expect("ASCII");
        let (rest, flags) = text.trim_end().rsplit_once(' ').expect("flags");
        let flags = u32::from_str_radix(flags, 16).expect("flags") & FLAGS;
        found.push((shown[..end].to_owned(), format!("{rest} {flags:x}\n")));
        shown = &shown[end + 1 + text.len()..];
    }
    found
}

#[test]
fn version_2_reads_as_git_reads_it() {
    let place = Place::new(&[]);
    place.fill();
    assert_eq!(place.compare(2), 17);
}

#[test]
fn version_3_reads_as_git_reads_it() {
    let place = Place::new(&[]);
    place.fill_more();
    assert_eq!(place.compare(3), 18);
}

#[test]
fn version_4_reads_as_git_reads_it() {
    let place = Place::new(&[]);
    place.fill_more();
    place.git(&["update-index", "--index-version", "4"]);
    assert_eq!(place.compare(4), 18);
    // Written in blocks, for several threads to read.
    place.git(&["-c", "index.threads=5", "update-index", "--force-remove", "a"]);
    assert!(fs::read(place.file()).expect("an index").windows(4).any(|name| name == b"IEOT"));
    assert_eq!(place.compare(4), 17);
}

#[test]
fn ids_may_be_sha256() {
    let mut place = Place::new(&["--object-format=sha256"]);
    place.id_bytes = 32;
    place.fill_more();
    assert_eq!(place.compare(3), 18);
    place.git(&["update-index", "--index-version", "4"]);
    assert_eq!(place.compare(4), 18);
}

#[test]
fn stat_data_are_those_of_the_file() {
    let place = Place::new(&[]);
    place.write("file", "content");
    place.git(&["add", "file"]);
    let metadata = fs::symlink_metadata(place.directory.path().join("file")).expect("a file");
    let mut index = place.open();
    let written = index.modified();
    let stat = index.next().expect("an entry").expect("an entry").stat;
    assert_eq!(stat, Stat::of(&metadata));
    assert!(stat.modified <= written);
}

#[test]
fn index_may_be_absent_empty_or_without_a_checksum() {
    let place = Place::new(&[]);
    assert!(Index::open(&place.file(), 20).expect("nothing wrong").is_none());
    place.git(&["read-tree", "--empty"]);
    assert_eq!(place.compare(2), 0);
    place.fill();
    place.git(&["-c", "index.skipHash=true", "update-index", "--force-remove", "a"]);
    assert!(fs::read(place.file()).expect("an index").ends_with(&[0; 20]));
    assert_eq!(place.compare(2), 16);
}

#[test]
fn extensions_of_git_are_passed_over() {
    let place = Place::new(&[]);
    place.write("a", "a");
    place.git(&["add", "."]);
    place.git(&["commit", "--quiet", "-m", "a"]);
    place.git(&["update-index", "--force-untracked-cache"]);
    place.git(&["-c", "index.recordEndOfIndexEntries=true", "status"]);
    let bytes = fs::read(place.file()).expect("an index");
    assert!(["TREE", "UNTR"].iter().all(|name| bytes.windows(4).any(|window| window == name.as_bytes())));
    assert_eq!(place.compare(2), 1);
}

#[test]
fn split_index_is_partial() {
    for version in ["2", "4"] {
        let place = Place::new(&[]);
        place.git(&["config", "splitIndex.maxPercentChange", "100"]);
        place.fill();
        place.git(&["update-index", "--index-version", version]);
        place.git(&["update-index", "--split-index"]);
        assert!(place.read().expect("a split index"));
        place.write("a", "something else");
        place.write("new", "new");
        place.git(&["add", "a", "new"]);
        assert!(place.read().expect("a split index"));
        let mut index = place.open();
        assert_eq!(index.next().expect("an entry").map(|entry| entry.path.to_owned()), Some(Vec::new()));
    }
}

#[test]
fn sparse_index_is_partial() {
    let place = Place::new(&[]);
    for path in ["a", "in/b", "out/c", "out/deep/d"] {
        place.write(path, path);
    }
    place.git(&["add", "."]);
    place.git(&["commit", "--quiet", "-m", "files"]);
    place.git(&["sparse-checkout", "set", "--cone", "--sparse-index", "in"]);
    let mut index = place.open();
    let mut found = Vec::new();
    while let Some(entry) = index.next().expect("an entry") {
        found.push((entry.path.to_owned(), entry.mode));
    }
    let expected = [("a", 0o100_644), ("in/b", 0o100_644), ("out/", SPARSE_DIRECTORY)];
    assert_eq!(found, expected.map(|(path, mode)| (path.as_bytes().to_owned(), mode)));
    assert!(index.is_partial().expect("a sparse index"));
}

/// An index of version 2 with these entries, without stat data and checksum.
fn made(entries: &[&[u8]]) -> Vec<u8> {
    let mut bytes = b"DIRC\0\0\0\x02\0\0\0".to_vec();
    bytes.push(u8::try_from(entries.len()).expect("a few"));
    for path in entries {
        let begin = bytes.len();
        bytes.extend_from_slice(&[0; 60]);
        bytes[begin + 24..begin + 28].copy_from_slice(&0o100_644_u32.to_be_bytes());
        bytes.extend_from_slice(&u16::try_from(path.len()).expect("a short path").to_be_bytes());
        bytes.extend_from_slice(path);
        let end = bytes.len() - begin;
        bytes.resize(begin + (end + 8) / 8 * 8, 0);
    }
    bytes
}

#[test]
fn damage_is_told() {
    let place = Place::new(&[]);
    let sum = [0; 20];
    let good = [&made(&[b"a", b"b"])[..], &sum].concat();
    let changed = |at: usize, with: &[u8]| [&good[..at], with, &good[at + with.len()..]].concat();
    assert_eq!(place.reason(b""), "it is cut off");
    assert_eq!(place.reason(&changed(0, b"X")), "it does not start with `DIRC`");
    assert_eq!(place.reason(&changed(7, &[5])), "repoguard does not know version 5 of it");
    assert_eq!(place.reason(&changed(8, &[255; 4])), "entry 3 of 4294967295: the file is cut off");
    assert_eq!(
        place.reason(&changed(12 + 60, &[0x40, 1, 0, 1])),
        "entry 1 of 2: it has flags that repoguard does not know"
    );
    assert_eq!(place.reason(&changed(12 + 61, &[2])), "entry 1 of 2: its path is not as long as it says");
    assert_eq!(place.reason(&changed(12 + 62, b"c")), "entry 2 of 2: it is not in its place");
    assert_eq!(place.reason(&made(&[b""])), "entry 1 of 1: the file is cut off");
    assert_eq!(place.reason(&[&made(&[b""])[..], &sum].concat()), "after the entries: an entry has no path");
    let extended = |extension: &[u8]| [&made(&[b"a"])[..], extension, &sum].concat();
    let unknown = "after the entries: repoguard does not know the extension `ab\\xffd`";
    assert_eq!(place.reason(&extended(b"ab\xffd\0\0\0\0")), unknown);
    assert_eq!(place.reason(&extended(b"ABCD\0\0\0\x01")), "after the entries: the file is cut off");
    for path in [&b"/etc/passwd"[..], b"../a", b"a/..", b"a//b", b"a/./b", b"a/", b".git/config", b"a/.GIT/hooks"] {
        let reason = place.reason(&[&made(&[path])[..], &sum].concat());
        assert_eq!(reason, "entry 1 of 1: its path is none that git lets into a worktree", "{}", path.escape_ascii());
    }
    fs::write(place.file(), extended(b"ABCD\0\0\0\x01x")).expect("an index");
    assert!(!place.read().expect("an extension that need not be known"));
}

#[test]
fn longest_path_bounds_the_memory() {
    let place = Place::new(&[]);
    place.insert(&[("100644", &vec![b'l'; LONGEST_PATH])]);
    assert_eq!(place.compare(2), 1);
    place.insert(&[("100644", &vec![b'm'; LONGEST_PATH + 1])]);
    let bytes = fs::read(place.file()).expect("an index");
    assert_eq!(place.reason(&bytes), "entry 2 of 2: its path is too long");
}

#[test]
fn what_is_no_file_is_told() {
    let place = Place::new(&[]);
    fs::create_dir(place.file()).expect("a directory");
    let error = place.read().expect_err("no index");
    assert!(error.to_string().ends_with("it is not a regular file"), "{error}");
}

#[test]
fn random_damage_is_survived() {
    let place = Place::new(&[]);
    place.fill_more();
    let sample = || fs::read(place.file()).expect("an index");
    let mut samples = vec![sample()];
    place.git(&["update-index", "--index-version", "4"]);
    samples.push(sample());
    place.git(&["update-index", "--split-index"]);
    place.write("new", "new");
    place.git(&["add", "new"]);
    samples.push(sample());
    proptest!(cases(2000), |(bytes in near(samples))| {
        fs::write(place.file(), &bytes).expect("an index");
        match place.read() {
            Ok(_) | Err(Error::BrokenRepository { .. }) => {}
            Err(other) => panic!("{other:?}"),
        }
    });
}
