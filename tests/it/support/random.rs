//! Random checkouts, and random scripts that run in them.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use proptest::prelude::*;
use proptest::sample::{Index, select, subsequence};

use super::{Image, Sandbox, User, to_the_end};

/// Where files may be. None is the directory of another.
const NAMES: [&[u8]; 26] = [
    b"a",
    b"b.txt",
    b"c.crlf",
    b"d/a",
    b"d/b.txt",
    b"d/e/f.id",
    b"d/e/g.rot",
    b"d/e/h/i",
    b"deep/1/2/3/4",
    b"new\nline",
    b"with space/x y",
    b"-dash",
    b"d/-n",
    b"\xff\xfe",
    b"caf\xe9/\xe9.txt",
    b"quo\"te'\\",
    b"*",
    b"[a]?",
    b":(glob)x",
    b":!x",
    b".hidden/.x",
    b"CASE",
    b"d/Case",
    b"x.rot",
    b"x.id",
    b"caf\xc3\xa9",
];
const DIRECTORIES: [&str; 7] = ["d", "d/e", "deep", "deep/1/2", "with space", ".hidden", "empty/er"];
/// Names that commands give to what they make.
const FRESH: [&str; 9] = ["new", "d/new", "n/e/w", "a/under", "d/a/under", "New", "-new", "new line\nx", "empty/new"];
/// Configurations. Split indexes of version 4 lose entries without us (git 2.47).
const CONFIGS: [&[&str]; 8] = [
    &[],
    &[],
    &["core.autocrlf true"],
    &["core.autocrlf input", "index.version 4"],
    &["core.splitIndex true"],
    &["core.untrackedCache true"],
    &["feature.manyFiles true", "core.autocrlf true"],
    &["index.threads 2", "core.fileMode false"],
];
const MODES: [u32; 8] = [0o644, 0o644, 0o755, 0o600, 0o640, 0o444, 0o711, 0o664];

#[derive(Debug, Clone, Copy)]
enum Content {
    Lines,
    Crlf,
    Mixed,
    Id,
    Binary,
    Empty,
    Large,
    Link,
    DanglingLink,
}

impl Content {
    const ALL: [Self; 9] = [
        Self::Lines,
        Self::Crlf,
        Self::Mixed,
        Self::Id,
        Self::Binary,
        Self::Empty,
        Self::Large,
        Self::Link,
        Self::DanglingLink,
    ];

    fn write(self, place: &Path) {
        let target = match self {
            Self::Link => "d",
            Self::DanglingLink => "no where",
            _ => {
                let bytes = match self {
                    Self::Lines => b"one\ntwo\n".to_vec(),
                    Self::Crlf => b"one\r\ntwo\r\n".to_vec(),
                    Self::Mixed => b"one\r\ntwo\nno end".to_vec(),
                    Self::Id => b"$Id: mine $\nabc\n".to_vec(),
                    Self::Binary => (0..=255).collect(),
                    Self::Large => b"0123456789abcde\n".repeat(20_000),
                    _ => Vec::new(),
                };
                return fs::write(place, bytes).unwrap();
            }
        };
        symlink(target, place).unwrap();
    }
}

/// What git knows of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    Tracked,
    AssumedUnchanged,
    AssumedAndEdited,
    Skipped,
    SkippedAndDeleted,
    Untracked,
    // The rest is the caller's own change.
    Edited,
    Staged,
    StagedAndEdited,
    Added,
    Intended,
    Deleted,
    Removed,
}

impl Known {
    pub(crate) const CLEAN: [Self; 9] = [
        Self::Tracked,
        Self::Tracked,
        Self::Tracked,
        Self::Tracked,
        Self::AssumedUnchanged,
        Self::AssumedAndEdited,
        Self::Skipped,
        Self::SkippedAndDeleted,
        Self::Untracked,
    ];
    pub(crate) const DIRTY: [Self; 9] = [
        Self::Tracked,
        Self::Untracked,
        Self::Edited,
        Self::Staged,
        Self::StagedAndEdited,
        Self::Added,
        Self::Intended,
        Self::Deleted,
        Self::Removed,
    ];

    fn is_committed(self) -> bool {
        !matches!(self, Self::Untracked | Self::Added | Self::Intended)
    }

    /// What makes it so, after the commit.
    fn script(self) -> &'static str {
        match self {
            Self::Tracked | Self::Untracked => "",
            Self::AssumedUnchanged => "git update-index --assume-unchanged -- {a}",
            Self::AssumedAndEdited => "git update-index --assume-unchanged -- {a}; echo hidden >>{a}",
            Self::Skipped => "git update-index --skip-worktree -- {a}",
            Self::SkippedAndDeleted => "git update-index --skip-worktree -- {a}; rm -f -- {a}",
            Self::Edited => "echo edited >>{a}",
            Self::Staged => "echo staged >>{a}; git add -- {a}",
            Self::StagedAndEdited => "echo staged >>{a}; git add -- {a}; echo edited >>{a}",
            Self::Added => "git add -- {a}",
            Self::Intended => "git add -N -- {a}",
            Self::Deleted => "rm -f -- {a}",
            Self::Removed => "git rm -q --cached -- {a}",
        }
    }
}

/// A checkout and a script.
#[derive(Clone)]
pub(crate) struct Case {
    files: Vec<(&'static [u8], Content, u32, Known)>,
    config: &'static [&'static str],
    attributes: bool,
    refreshed: bool,
    pub(crate) below: bool,
    pub(crate) user: User,
    wrecks: Vec<(&'static str, [Index; 3])>,
    pub(crate) ending: (&'static str, i32),
}

/// Scripts that are put before `{a}` and the like become paths.
fn wreck(of: &'static [&'static [&'static str]]) -> impl Strategy<Value = (&'static str, [Index; 3])> {
    (select(of), any::<Index>(), any::<[Index; 3]>()).prop_map(|(some, which, paths)| (*which.get(some), paths))
}

/// Random checkouts whose files are known to git like this, and random scripts of these.
pub(crate) fn cases(known: &'static [Known], of: &'static [&'static [&'static str]]) -> impl Strategy<Value = Case> {
    let files = subsequence(NAMES.to_vec(), 4..20).prop_flat_map(move |names| {
        let count = names.len();
        let facts = (select(&Content::ALL[..]), select(&MODES[..]), select(known));
        (Just(names), prop::collection::vec(facts, count))
    });
    let config = select(&CONFIGS[..]);
    let switches = (any::<bool>(), any::<bool>(), any::<bool>(), select(User::all()));
    let ending = select(&[("exit 7", 7), ("exit 7", 7), ("kill -TERM $$", 143)][..]);
    (files, config, switches, prop::collection::vec(wreck(of), 1..6), ending).prop_map(
        |((names, facts), config, (attributes, refreshed, below, user), wrecks, ending)| {
            let files = names.into_iter().zip(facts).map(|(name, (content, mode, known))| (name, content, mode, known));
            Case { files: files.collect(), config, attributes, refreshed, below, user, wrecks, ending }
        },
    )
}

impl fmt::Debug for Case {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "config {:?}, attributes {}, refreshed {}", self.config, self.attributes, self.refreshed)?;
        for (name, content, mode, known) in &self.files {
            writeln!(out, "  {} {mode:o} {content:?} {known:?}", name.escape_ascii())?;
        }
        let place = if self.below { "below" } else { "at the top" };
        writeln!(
            out,
            "as {:?} {place}:\n{}",
            self.user,
            self.script().as_bytes().escape_ascii().to_string().replace("\\n", "\n")
        )
    }
}

/// A path as a word of a script.
fn quoted(path: &[u8]) -> Vec<u8> {
    let mut word = b"'./".to_vec();
    for byte in path {
        match byte {
            b'\'' => word.extend(b"'\\''"),
            _ => word.push(*byte),
        }
    }
    word.push(b'\'');
    word
}

/// A script with its paths.
fn filled(script: &str, paths: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = script;
    while let Some((place, (mark, path))) =
        paths.iter().filter_map(|path| Some((rest.find(path.0)?, path))).min_by_key(|found| found.0)
    {
        bytes.extend(&rest.as_bytes()[..place]);
        bytes.extend(quoted(path));
        rest = &rest[place + mark.len()..];
    }
    bytes.extend(rest.as_bytes());
    bytes
}

/// Files that are ignored; a script ends with a copy of each, `left-N` outside of the checkout.
pub(crate) const IGNORED: [&str; 3] = ["ignored.d/x", "d/x.log", "x.log"];

impl Case {
    /// What the command does.
    pub(crate) fn script(&self) -> OsString {
        let mut script = b"exec >/dev/null 2>&1; cd \"$TOP\"\n".to_vec();
        // Whoever reads or writes a FIFO waits for ever, so those come last.
        let (last, first): (Vec<_>, Vec<_>) = self.wrecks.iter().partition(|wreck| wreck.0.contains("mkfifo"));
        for (wreck, [a, b, other]) in first.into_iter().chain(last) {
            let (a, b) = (a.get(&self.files).0, b.get(&self.files).0);
            let capital = a.rsplit(|byte| *byte == b'/').next().unwrap().to_ascii_uppercase();
            let capital = [&a[..a.len() - capital.len()], &capital].concat();
            let (directory, fresh) = (other.get(&DIRECTORIES).as_bytes(), other.get(&FRESH).as_bytes());
            let paths = [
                ("{a}", a.to_vec()),
                ("{b}", b.to_vec()),
                ("{A}", capital),
                ("{d}", directory.to_vec()),
                ("{n}", fresh.to_vec()),
            ];
            script.extend(filled(wreck, &paths));
            script.push(b'\n');
        }
        for (number, path) in IGNORED.iter().enumerate() {
            script.extend(format!("[ -L d ] || cp -a {path} ../left-{number}\n").bytes());
        }
        script.extend(self.ending.0.bytes());
        OsString::from_vec(script)
    }

    /// The checkout that it is done to.
    pub(crate) fn build(&self) -> Sandbox {
        static IMAGE: LazyLock<Image> = LazyLock::new(|| {
            let sandbox = Sandbox::empty();
            let history = "set -e; git init -q --template= -b main .; mkdir .git/info; : >.git/info/exclude; git config gc.auto 0; \
                git config filter.rot.clean 'tr a-z n-za-m'; git config filter.rot.smudge 'tr n-za-m a-z'; \
                printf '*.log\\nignored.d\\n' >.gitignore; echo 1 >conflict; git add -A; git commit -qm 1; git tag -a -m 1 v1; \
                git checkout -q -b side; echo s >conflict; git commit -qam s; git checkout -q main; echo 2 >conflict; git commit -qam 2; \
                echo 3 >conflict; git stash -q; echo 4 >conflict; git stash -q";
            sandbox.sh(history).assert().success();
            Image::of(sandbox.here())
        });
        let sandbox = Sandbox::empty();
        IMAGE.write(sandbox.here());
        if self.attributes {
            let attributes = "*.txt text\n*.crlf eol=crlf\n*.id ident\n*.rot filter=rot\n";
            fs::write(sandbox.path(".gitattributes"), attributes).unwrap();
        }
        fs::create_dir_all(sandbox.path("empty/er")).unwrap();
        let write = |file: &(&[u8], Content, u32, Known)| {
            let place = sandbox.path(PathBuf::from(OsStr::from_bytes(file.0)));
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            file.1.write(&place);
            if !place.is_symlink() {
                fs::set_permissions(&place, fs::Permissions::from_mode(file.2)).unwrap();
            }
        };
        let (committed, later): (Vec<_>, Vec<_>) = self.files.iter().partition(|file| file.3.is_committed());
        committed.into_iter().for_each(write);
        let config = self.config.iter().map(|pair| format!("git config {pair}")).collect::<Vec<_>>().join("\n");
        run(&sandbox, format!("{config}\ngit add -A && git commit -q --allow-empty -m files || exit").as_bytes());
        later.into_iter().for_each(write);
        for path in IGNORED.map(|path| sandbox.path(path)) {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "ignored\n").unwrap();
        }
        // A file that is the last of its directory takes that with it, but here the directories stay.
        let script = self
            .files
            .iter()
            .flat_map(|file| [filled(file.3.script(), &[("{a}", file.0.to_vec())]), b"\n".to_vec()].concat());
        run(&sandbox, &script.collect::<Vec<u8>>());
        self.user.owns(&sandbox);
        if self.refreshed {
            let mut refresh = sandbox.command("git");
            self.user.runs(refresh.args(["update-index", "-q", "--refresh"]));
            to_the_end(refresh).output().unwrap();
        }
        sandbox
    }
}

fn run(sandbox: &Sandbox, script: &[u8]) {
    let mut command = sandbox.command("sh");
    command.env("GIT_LITERAL_PATHSPECS", "1");
    command.arg("-c").arg(OsStr::from_bytes(&[b"exec 2>../built; ", script, b"\n:"].concat()));
    let output = to_the_end(command).output().unwrap();
    let told = fs::read(sandbox.outside("built")).unwrap();
    assert!(output.status.success(), "{}: {}", told.escape_ascii(), script.escape_ascii());
}
