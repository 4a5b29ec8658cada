//! Tells which files differ, which are ignored, and what is in an index.

use std::{
    collections::HashSet,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
};

use super::{
    super::{
        Head, Index, config,
        git::{self, Manner},
        path_of, run,
    },
    Checkout, line, paths,
};
use crate::{
    env,
    error::{Error, Result},
    escape::hex,
    sys,
};

/// An index that is not there, for a git that has no need of one: it would read it all.
const NO_INDEX: &str = "/nonexistent/index";

/// One entry of a listing of changes: modes and ids before and after, as git writes them, and the path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RawChange {
    pub(crate) old_mode: String,
    pub(crate) mode: String,
    pub(crate) old_id: String,
    pub(crate) id: String,
    pub(crate) status: u8,
    pub(crate) path: Vec<u8>,
}

/// Settings of the files of worktrees.
#[derive(Debug, Clone, Default)]
pub(crate) struct FileSettings {
    pub(super) autocrlf: bool,
    /// The user's own file of attributes.
    pub(super) attributes: Option<PathBuf>,
    /// Attributes are those of a tree.
    pub(super) attribute_tree: bool,
    /// The user's own file of ignore rules.
    pub(crate) excludes: Option<PathBuf>,
    pub(crate) ignore_case: bool,
}

impl Checkout {
    /// The differences of an index from a commit or tree. Intent-to-add entries are left out.
    pub(crate) fn staged(&self, index: &Path, tree: &str) -> Result<Vec<RawChange>> {
        let arguments = ["diff-index", "--cached", "--raw", "-z", "--no-renames", "--no-abbrev", tree, "--"];
        self.run(Some(index), &arguments, None).map(|raw| raw_changes(&raw))
    }

    /// Tells whether a commit is known to have this tree.
    pub(crate) fn is_tree_of(&self, commit: &str, tree: &[u8]) -> bool {
        self.objects().and_then(|objects| objects.commit(commit)).is_ok_and(|(_, own)| own == hex(tree))
    }

    /// Tells whether a commit is known to be exactly what an index holds, and to be whole in all that it changes.
    pub(crate) fn holds(&self, commit: &str, index: &Path, changes: &[RawChange]) -> Result<bool> {
        /// To look so many up one by one takes as long as a git.
        const MOST: usize = 64;
        let Ok(objects) = self.objects() else { return Ok(false) };
        let Ok((_, tree)) = objects.commit(commit) else { return Ok(false) };
        let noted = Index::open(index, self.id_bytes)?.map_or(Ok(None), |mut index| index.tree())?;
        if changes.len() > MOST || noted.is_none_or(|noted| hex(&noted) != tree) {
            return Ok(false);
        }
        let is_there = |change: &RawChange| match objects.entry(&tree, &change.path) {
            Ok(Some((mode, id))) => (&mode, &id) == (&change.mode, &change.id),
            Ok(None) => change.status == b'D',
            Err(_) => false,
        };
        Ok(changes.iter().all(is_there))
    }

    /// As [`Checkout::staged`], of the paths that match pathspecs as seen from a directory.
    pub(crate) fn staged_below(
        &self,
        index: &Path,
        tree: &str,
        directory: &Path,
        pathspecs: &[OsString],
    ) -> Result<Vec<RawChange>> {
        let fixed = ["--no-literal-pathspecs", "diff-index", "--cached", "--raw", "-z", "--no-renames", "--no-abbrev"];
        let fixed = fixed.into_iter().chain([tree, "--"]).map(OsStr::new);
        let arguments: Vec<&OsStr> = fixed.chain(pathspecs.iter().map(OsString::as_os_str)).collect();
        let mut git = self.command(Some(index), &arguments)?;
        // These are the user's, to be read as the user says.
        git.envs(env::PATHSPECS.iter().filter_map(|name| Some((name, env::get(name)?))));
        let output = run::output(git.current_dir(directory))?;
        if output.status.success() { Ok(raw_changes(&output.stdout)) } else { Err(git::failed(&arguments, &output)) }
    }

    /// Shows what an index holds that a commit or tree does not, as the user's `git diff` does, on standard output.
    pub(crate) fn show(&self, index: &Path, tree: &str) -> Result<()> {
        let arguments = ["--no-pager", "diff", "--cached", tree, "--"];
        let mut git = self.start(Manner::Writing, Some(index));
        match run::status(git.args(arguments))? {
            // The reader may have stopped early.
            status if status.success() || sys::is_broken_pipe(status) => Ok(()),
            status => Err(Error::Git { arguments: arguments.join(" "), reason: status.to_string() }),
        }
    }

    /// The differences between two commits or trees.
    pub(crate) fn between(&self, old: &str, new: &str) -> Result<Vec<RawChange>> {
        let arguments = ["diff-tree", "-r", "-z", "--raw", "--no-renames", "--no-abbrev", old, new, "--"];
        self.run(Some(Path::new(NO_INDEX)), &arguments, None).map(|raw| raw_changes(&raw))
    }

    /// Which of these files differ from an index, as git sees it (filters, line endings); all with `None`.
    pub(crate) fn modified(&self, index: &Path, paths: Option<&[Vec<u8>]>) -> Result<Vec<RawChange>> {
        // Not `diff-files`: to that, stat data that differ are a change.
        let fixed = ["diff", "--raw", "-z", "--no-renames", "--no-abbrev", "--no-ext-diff", "--"];
        let paths: Vec<PathBuf> = paths.unwrap_or_default().iter().map(|path| path_of(path)).collect();
        let arguments: Vec<&OsStr> =
            fixed.iter().map(OsStr::new).chain(paths.iter().map(|path| path.as_os_str())).collect();
        self.run(Some(index), &arguments, None).map(|raw| raw_changes(&raw))
    }

    /// Which of these paths a worktree's ignore rules name, whether or not they are tracked.
    pub(crate) fn ignored(&self, worktree: &Path, paths_to_check: &[Vec<u8>]) -> Result<Vec<Vec<u8>>> {
        // Git takes pathspecs only here: what begins so has no magic.
        const PLAIN: &[u8] = b"./";
        if paths_to_check.is_empty() {
            return Ok(Vec::new());
        }
        // Rules are compared as configured.
        let other = Self { root: worktree.to_owned(), one_case: None, ..self.clone() };
        let input = paths_to_check.iter().flat_map(|path| PLAIN.iter().chain(path).copied().chain([0]));
        let arguments = ["--no-literal-pathspecs", "check-ignore", "--no-index", "--stdin", "-z"];
        let output = other.output(None, &arguments, Some(&input.collect::<Vec<u8>>()))?;
        let listed = git::matched(&arguments, output)?;
        Ok(paths(&listed).into_iter().filter_map(|path| path.strip_prefix(PLAIN).map(<[u8]>::to_vec)).collect())
    }

    /// Which of these paths, each ended by NUL, have one of these attributes set or given a value.
    pub(crate) fn with_attributes(&self, names: &[&str], input: &[u8]) -> Result<HashSet<Vec<u8>>> {
        let arguments = [&["check-attr", "--stdin", "-z"], names].concat();
        let answer = self.run(None, &arguments, Some(input))?;
        let mut fields = paths(&answer).into_iter();
        let mut found = HashSet::new();
        while let (Some(path), Some(_), Some(value)) = (fields.next(), fields.next(), fields.next()) {
            if value != b"unspecified" && value != b"unset" {
                found.insert(path);
            }
        }
        Ok(found)
    }

    /// Settings of the files of worktrees. Read once.
    pub(crate) fn settings(&self) -> Result<&FileSettings> {
        if let Some(known) = self.settings.get() {
            return Ok(known);
        }
        let keys = r"^(core\.(autocrlf|attributesfile|excludesfile|ignorecase)|attr\.tree)$";
        let words: [&[u8]; 6] =
            [b"autocrlf", b"attributesfile", b"excludesfile", b"ignorecase", b"[attr", b"attr.tree"];
        let as_configured = Self { one_case: None, ..self.clone() };
        let listed = if config::may_say(&self.git_dir, &self.common_dir, git::program().as_deref(), &words) {
            as_configured.output(None, &["config", "--null", "--get-regexp", keys], None)?.stdout
        } else {
            Vec::new()
        };
        let mut found = FileSettings {
            attributes: env::git_config_file("attributes"),
            excludes: env::git_config_file("ignore"),
            ..FileSettings::default()
        };
        for entry in paths(&listed) {
            let mut parts = entry.splitn(2, |byte| *byte == b'\n');
            let (key, value) = (parts.next().unwrap_or_default(), parts.next().unwrap_or(b"true"));
            let is_set = !matches!(value.to_ascii_lowercase().as_slice(), b"false" | b"no" | b"off" | b"0" | b"");
            match key {
                b"core.autocrlf" => found.autocrlf = is_set,
                b"core.attributesfile" => found.attributes = as_configured.user_file("core.attributesFile", value)?,
                b"core.excludesfile" => found.excludes = as_configured.user_file("core.excludesFile", value)?,
                b"attr.tree" => found.attribute_tree = true,
                _ => found.ignore_case = is_set,
            }
        }
        Ok(self.settings.get_or_init(|| found))
    }

    /// The file that a setting names; `None` if it names none. The value is what the setting holds now.
    fn user_file(&self, key: &str, value: &[u8]) -> Result<Option<PathBuf>> {
        let path = match (value, value.strip_prefix(b"~/").zip(env::home())) {
            (_, Some((rest, home))) => home.join(path_of(rest)),
            // Only git knows where it is installed, and what else begins so.
            ([b'~' | b'%' | b':', ..], _) => {
                let arguments = ["config", "--null", "--type=path", "--get", key];
                let answer = git::matched(&arguments, self.output(None, &arguments, None)?)?;
                path_of(answer.strip_suffix(b"\0").unwrap_or(&answer))
            }
            _ => path_of(value),
        };
        // Git takes it from its own directory.
        Ok((!path.as_os_str().is_empty()).then(|| self.root.join(path)))
    }

    /// The same worktree, but its gits take the ignore rules of the user's own file (`core.excludesFile`) from this one.
    pub(crate) fn excluding(self, file: PathBuf) -> Self {
        Self { excludes: Some(file), ..self }
    }

    /// The same, with the user's own file as it is configured now.
    pub(crate) fn excluding_as_configured(&self) -> Self {
        Self { excludes: None, ..self.clone() }
    }

    /// Which of these paths the ignore rules in a worktree name, if the rules of the repository are those in `git_dir`. That needs no
    /// more than a git directory's bare bones.
    pub(crate) fn ignored_by(&self, worktree: &Path, git_dir: &Path, paths: &[Vec<u8>]) -> Result<Vec<Vec<u8>>> {
        let (git_dir, common_dir) = (git_dir.to_owned(), git_dir.to_owned());
        Self { git_dir, common_dir, ..self.clone() }.ignored(worktree, paths)
    }

    /// Mode and id of a path in a tree.
    pub(crate) fn entry_of(&self, tree: &str, path: &[u8]) -> Result<Option<(String, String)>> {
        let path = path_of(path);
        let arguments: [&OsStr; 5] =
            ["ls-tree".as_ref(), "-z".as_ref(), tree.as_ref(), "--".as_ref(), path.as_os_str()];
        let answer = line(&self.run(None, &arguments, None)?);
        let mut words = answer.split(['\t', ' ']).map(str::to_owned);
        Ok(words.next().filter(|mode| !mode.is_empty()).zip(words.nth(1)))
    }

    /// Lets git say what is wrong with pathspecs, as seen from a directory.
    pub(crate) fn check_pathspecs(&self, directory: &Path, pathspecs: &[OsString]) -> Result<()> {
        if pathspecs.is_empty() {
            return Ok(());
        }
        self.staged_below(Path::new(NO_INDEX), &self.tree_of(&Head::default()), directory, pathspecs).map(drop)
    }
}

/// The output of `--raw -z`: `:mode mode id id status NUL path NUL`.
fn raw_changes(list: &[u8]) -> Vec<RawChange> {
    let mut fields = paths(list).into_iter();
    let mut found = Vec::new();
    while let (Some(about), Some(path)) = (fields.next(), fields.next()) {
        let about = String::from_utf8_lossy(&about).into_owned();
        let mut words = about.trim_start_matches(':').split(' ').map(str::to_owned);
        let mut word = || words.next().unwrap_or_default();
        let (old_mode, mode, old_id, id) = (word(), word(), word(), word());
        let status = word().bytes().next().unwrap_or(b'?');
        found.push(RawChange { old_mode, mode, old_id, id, status, path });
    }
    found
}
