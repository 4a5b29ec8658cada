//! What does a mutation ask of git? Plumbing commands in one worktree, on an index of the caller's choice.
//!
//! No hook runs in any of them, none refreshes the user's own index, and a Ctrl-C at the terminal does not reach them: what
//! puts a repository back must not be stopped half-way.

#![expect(clippy::disallowed_methods, reason = "this is a file that starts git")]

use std::{
    collections::HashSet,
    ffi::{OsStr, OsString},
    io::{self, BufRead as _, BufReader, Read as _, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio},
};

use super::{Head, Repo, path_of};
use crate::{
    env,
    error::{Error, Result},
    fs, sys,
};

/// A worktree for git to work in.
#[derive(Debug, Clone)]
pub(crate) struct Checkout {
    /// Where its files are.
    pub(crate) root: PathBuf,
    /// Its git directory.
    pub(crate) git_dir: PathBuf,
    common_dir: PathBuf,
    /// Length of an object's id.
    pub(crate) id_bytes: usize,
    /// Whether `root` is what git says; until then it is where git is asked.
    is_found: bool,
}

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

impl Checkout {
    /// Asks git where the files of this repository's worktree are.
    ///
    /// # Errors
    /// [`Error::NoRepository`] where there is none; [`Error::NoWorktree`] where it is bare; [`Error::Git`].
    pub(crate) fn find(repo: &Repo, needed_by: &'static str) -> Result<Self> {
        let dirs = repo.git.as_ref().ok_or_else(|| Error::NoRepository { path: repo.root.clone(), needed_by })?;
        let mut checkout = Self {
            root: repo.root.clone(),
            git_dir: std::path::absolute(&dirs.own).map_err(Error::io("find", &dirs.own))?,
            common_dir: std::path::absolute(&dirs.common).map_err(Error::io("find", &dirs.common))?,
            id_bytes: 20,
            is_found: env::get("GIT_WORK_TREE").is_some(),
        };
        // It stops at what it cannot tell, and says what it could.
        let facts =
            ["rev-parse", "--is-bare-repository", "--is-inside-work-tree", "--show-object-format", "--show-toplevel"];
        let output = checkout.output(None, &facts, None)?;
        let mut lines = output.stdout.splitn(4, |byte| *byte == b'\n');
        let (bare, inside, format) = (lines.next(), lines.next(), lines.next());
        if !output.status.success() && bare.is_none_or(<[u8]>::is_empty) {
            return Err(super::git::failed(&facts, &output));
        }
        if bare != Some(b"false") || inside != Some(b"true") {
            return Err(Error::NoWorktree { path: checkout.git_dir, needed_by });
        }
        if format == Some(b"sha256") {
            checkout.id_bytes = 32;
        }
        let top = lines.next().unwrap_or_default();
        checkout.root = path_of(top.strip_suffix(b"\n").unwrap_or(top));
        checkout.is_found = true;
        Ok(checkout)
    }

    /// The index that git uses here.
    pub(crate) fn index(&self) -> PathBuf {
        self.git_dir.join("index")
    }

    /// The ignore rules that belong to the repository and are no files of the worktree.
    pub(crate) fn exclude_file(&self) -> PathBuf {
        self.common_dir.join("info/exclude")
    }

    /// The log of `refs/stash`, which is the stash.
    pub(crate) fn stash_log(&self) -> PathBuf {
        self.common_dir.join("logs/refs/stash")
    }

    /// The log of HEAD.
    pub(crate) fn head_log(&self) -> PathBuf {
        self.git_dir.join("logs/HEAD")
    }

    /// The operation that is in progress here, if one is: a merge, a rebase.
    pub(crate) fn operation(&self) -> Option<&'static str> {
        const MARKS: &[(&str, &str)] = &[
            ("MERGE_HEAD", "merge"),
            ("rebase-merge", "rebase"),
            ("rebase-apply/applying", "am"),
            ("rebase-apply", "rebase"),
            ("CHERRY_PICK_HEAD", "cherry-pick"),
            ("REVERT_HEAD", "revert"),
            ("sequencer", "cherry-pick or revert"),
            ("BISECT_LOG", "bisect"),
        ];
        MARKS.iter().find(|(mark, _)| self.git_dir.join(mark).exists()).map(|(_, name)| *name)
    }

    /// What git's operations have left in the git directory.
    pub(crate) fn operation_files(&self) -> Vec<String> {
        let names = OPERATION_FILES.iter().filter(|name| self.git_dir.join(name).exists());
        names.map(|&name| name.to_owned()).collect()
    }

    /// The file of a reference, where it has one of its own.
    pub(crate) fn loose_reference(&self, name: &str) -> PathBuf {
        let own = name == "HEAD" || name.starts_with("refs/worktree/") || name.starts_with("refs/bisect/");
        if own { self.git_dir.join(name) } else { self.common_dir.join(name) }
    }

    fn command<A: AsRef<OsStr>>(&self, index: Option<&Path>, arguments: &[A]) -> Command {
        let mut git = Command::new("git");
        git.args(["--no-optional-locks", "--literal-pathspecs", "-c", "core.hooksPath=/dev/null"]).args(DURABLE);
        // A monitor may miss what happened just now.
        git.args(["-c", "core.fsmonitor=false", "-c", "core.splitIndex=false"]);
        git.args(arguments).current_dir(&self.root).env("GIT_DIR", &self.git_dir).env_remove("GIT_TRACE2_EVENT");
        git.env_remove("GIT_INDEX_FILE").env_remove("GIT_PREFIX");
        if env::get("GIT_COMMON_DIR").is_some() {
            git.env("GIT_COMMON_DIR", &self.common_dir);
        }
        if self.is_found {
            git.env("GIT_WORK_TREE", &self.root);
        }
        if let Some(index) = index {
            git.env("GIT_INDEX_FILE", index);
        }
        sys::own_group(&mut git);
        git
    }

    fn output<A: AsRef<OsStr>>(&self, index: Option<&Path>, arguments: &[A], input: Option<&[u8]>) -> Result<Output> {
        let mut git = self.command(index, arguments);
        let start = Error::io("start", "git");
        let Some(input) = input else { return git.stdin(Stdio::null()).output().map_err(start) };
        let mut child =
            git.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(start)?;
        let stdin = child.stdin.take();
        std::thread::scope(|scope| {
            // Git may answer before it has read everything.
            scope.spawn(move || stdin.map(|mut stdin| stdin.write_all(input)));
            child.wait_with_output().map_err(Error::io("wait for", "git"))
        })
    }

    fn run<A: AsRef<OsStr>>(&self, index: Option<&Path>, arguments: &[A], input: Option<&[u8]>) -> Result<Vec<u8>> {
        let output = self.output(index, arguments, input)?;
        if output.status.success() { Ok(output.stdout) } else { Err(super::git::failed(arguments, &output)) }
    }

    fn ask(&self, arguments: &[&str]) -> Result<Vec<u8>> {
        self.run(None, arguments, None)
    }

    /// A commit by any name that git knows it by; `None` where there is none.
    pub(crate) fn commit(&self, name: &OsStr) -> Result<Option<String>> {
        let mut wanted = name.to_owned();
        wanted.push("^{commit}");
        let arguments: [&OsStr; 5] =
            ["rev-parse".as_ref(), "--quiet".as_ref(), "--verify".as_ref(), "--end-of-options".as_ref(), &wanted];
        let output = self.output(None, &arguments, None)?;
        Ok(output.status.success().then(|| line(&output.stdout)))
    }

    /// The tree that HEAD should have: a commit's, or the empty one where there is none yet.
    pub(crate) fn tree_of(&self, head: &Head) -> String {
        const EMPTY: &str = "4b825dc642cb6eb9a060e54bf8d69288fbee4904";
        const EMPTY_SHA256: &str = "6ef19b41225c5369f1c104d45d8d85efa9b057b53b14b4b9b939dd74decc5321";
        let empty = if self.id_bytes == 32 { EMPTY_SHA256 } else { EMPTY };
        head.commit.as_deref().unwrap_or(empty).to_owned()
    }

    /// What an index holds that a commit or tree does not, and the reverse. Nothing is said of intent-to-add entries.
    pub(crate) fn staged(&self, index: &Path, tree: &str) -> Result<Vec<RawChange>> {
        let arguments = ["diff-index", "--cached", "--raw", "-z", "--no-renames", "--no-abbrev", tree, "--"];
        self.run(Some(index), &arguments, None).map(|raw| raw_changes(&raw))
    }

    /// As [`Checkout::staged`], of the paths that match pathspecs as seen from a directory.
    pub(crate) fn staged_below(
        &self,
        index: &Path,
        tree: &str,
        directory: &Path,
        pathspecs: &[OsString],
    ) -> Result<Vec<RawChange>> {
        let fixed = ["diff-index", "--cached", "--raw", "-z", "--no-renames", "--no-abbrev", tree, "--"];
        let arguments: Vec<&OsStr> =
            fixed.iter().map(OsStr::new).chain(pathspecs.iter().map(OsString::as_os_str)).collect();
        let mut git = Command::new("git");
        git.arg("--no-optional-locks").args(&arguments).current_dir(directory);
        git.env("GIT_DIR", &self.git_dir).env("GIT_WORK_TREE", &self.root).env("GIT_INDEX_FILE", index);
        git.env_remove("GIT_TRACE2_EVENT").env_remove("GIT_PREFIX").stdin(Stdio::null());
        let output = git.output().map_err(Error::io("start", "git"))?;
        if output.status.success() {
            Ok(raw_changes(&output.stdout))
        } else {
            Err(super::git::failed(&arguments, &output))
        }
    }

    /// Shows what an index holds that a commit or tree does not, as the user's `git diff` does, on standard output.
    pub(crate) fn show(&self, index: &Path, tree: &str) -> Result<()> {
        let arguments = ["--no-pager", "diff", "--cached", tree, "--"];
        let mut git = Command::new("git");
        git.arg("--no-optional-locks").args(arguments).current_dir(&self.root).stdin(Stdio::null());
        git.env("GIT_DIR", &self.git_dir).env("GIT_WORK_TREE", &self.root).env("GIT_INDEX_FILE", index);
        let status = git.env_remove("GIT_TRACE2_EVENT").env_remove("GIT_PREFIX").status();
        match status.map_err(Error::io("start", "git"))? {
            // Who reads it may have seen enough.
            status if status.success() || sys::is_broken_pipe(status) => Ok(()),
            status => Err(Error::Git { arguments: arguments.join(" "), reason: status.to_string() }),
        }
    }

    /// What two commits or trees differ in.
    pub(crate) fn between(&self, old: &str, new: &str) -> Result<Vec<RawChange>> {
        let arguments = ["diff-tree", "-r", "-z", "--raw", "--no-renames", "--no-abbrev", old, new, "--"];
        self.run(None, &arguments, None).map(|raw| raw_changes(&raw))
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

    /// Lists what is neither in the index nor ignored.
    pub(crate) fn untracked(&self, index: &Path) -> Result<Untracked> {
        let list = ["ls-files", "--others", "--exclude-standard", "-z"];
        let listed = paths(&self.run(Some(index), &[&list[..], &["--directory"]].concat(), None)?);
        let (directories, mut files): (Vec<_>, Vec<_>) = listed.into_iter().partition(|path| path.ends_with(b"/"));
        if !directories.is_empty() {
            // Git lists a directory, or what is in it.
            files = paths(&self.run(Some(index), &list, None)?);
        }
        let bare = |path: Vec<u8>| path[..path.len() - 1].to_vec();
        let (repositories, files): (Vec<_>, Vec<_>) = files.into_iter().partition(|path| path.ends_with(b"/"));
        let repositories: Vec<_> = repositories.into_iter().map(bare).collect();
        let tops = directories.into_iter().map(bare).filter(|path| !repositories.contains(path)).collect();
        let directories = self.not_ignored_below(tops, &repositories)?;
        Ok(Untracked { files, directories, repositories })
    }

    /// These directories and those below them that are not ignored, and in no other repository.
    fn not_ignored_below(&self, mut level: Vec<Vec<u8>>, repositories: &[Vec<u8>]) -> Result<Vec<Vec<u8>>> {
        let mut found = Vec::new();
        while !level.is_empty() {
            let mut below = Vec::new();
            for directory in &level {
                // What cannot be read is not there for git either.
                for entry in std::fs::read_dir(self.root.join(path_of(directory))).into_iter().flatten().flatten() {
                    let path = [directory, &b"/"[..], &sys::bytes(&entry.file_name())].concat();
                    if entry.file_type().is_ok_and(|kind| kind.is_dir()) && !repositories.contains(&path) {
                        below.push(path);
                    }
                }
            }
            let ignored: HashSet<Vec<u8>> = self.ignored(&self.root, &below)?.into_iter().collect();
            below.retain(|path| !ignored.contains(path));
            found.append(&mut level);
            level = below;
        }
        found.sort();
        Ok(found)
    }

    /// Which of these paths a worktree's ignore rules name, whether or not they are tracked.
    pub(crate) fn ignored(&self, worktree: &Path, paths_to_check: &[Vec<u8>]) -> Result<Vec<Vec<u8>>> {
        // Git takes pathspecs only here: what begins so has no magic.
        const PLAIN: &[u8] = b"./";
        if paths_to_check.is_empty() {
            return Ok(Vec::new());
        }
        let other = Self { root: worktree.to_owned(), ..self.clone() };
        let input = paths_to_check.iter().flat_map(|path| PLAIN.iter().chain(path).copied().chain([0]));
        let arguments = ["--no-literal-pathspecs", "check-ignore", "--no-index", "--stdin", "-z"];
        let output = other.output(None, &arguments, Some(&input.collect::<Vec<u8>>()))?;
        // Status 1 is git's way to say that none is.
        if output.status.success() || output.status.code() == Some(1) {
            let listed = paths(&output.stdout).into_iter();
            return Ok(listed.filter_map(|path| path.strip_prefix(PLAIN).map(<[u8]>::to_vec)).collect());
        }
        Err(super::git::failed(&arguments, &output))
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

    /// Whether git converts line endings without being told so by an attribute, and the files beside those of the worktree
    /// that attributes may stand in.
    pub(crate) fn conversion(&self) -> Result<(bool, Vec<PathBuf>)> {
        let keys = r"^core\.(autocrlf|attributesfile)$";
        let arguments = ["config", "--null", "--get-regexp", keys];
        let output = self.output(None, &arguments, None)?;
        let (mut converts, mut global) = (false, None);
        for entry in paths(&output.stdout) {
            let mut parts = entry.splitn(2, |byte| *byte == b'\n');
            let (key, value) = (parts.next().unwrap_or_default(), parts.next().unwrap_or(b"true"));
            if key == b"core.autocrlf" {
                converts = !matches!(value.to_ascii_lowercase().as_slice(), b"false" | b"no" | b"off" | b"0" | b"");
            } else {
                global = Some(path_of(value));
            }
        }
        let home = env::get("HOME").map(PathBuf::from);
        let usual = || {
            let xdg = env::get("XDG_CONFIG_HOME").map(PathBuf::from).or_else(|| Some(home.as_ref()?.join(".config")));
            xdg.map(|xdg| xdg.join("git/attributes"))
        };
        let in_home = |path: PathBuf| match (path.strip_prefix("~"), &home) {
            (Ok(rest), Some(home)) => home.join(rest),
            _ => path,
        };
        let global = global.map(in_home).or_else(usual);
        let files = [Some(self.common_dir.join("info/attributes")), global, Some("/etc/gitattributes".into())];
        Ok((converts, files.into_iter().flatten().collect()))
    }

    /// Makes an index that is split or sparse one that holds all entries.
    pub(crate) fn unfold(&self, index: &Path) -> Result<()> {
        let arguments = [
            "-c",
            "index.sparse=false",
            "-c",
            "core.splitIndex=false",
            "update-index",
            "--no-split-index",
            "--force-write-index",
        ];
        self.run(Some(index), &arguments, None).map(drop)
    }

    /// Sizes of objects, in the order of the ids; `None` for one that is not there.
    pub(crate) fn sizes(&self, ids: &[u8]) -> Result<Vec<Option<u64>>> {
        let answer = self.run(None, &["cat-file", "--batch-check=%(objectsize)"], Some(ids))?;
        let lines = answer.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        Ok(lines.map(|line| std::str::from_utf8(line).ok()?.parse().ok()).collect())
    }

    /// Puts the state of files into an index, with the user's filters: what is there is added, what is not is removed.
    pub(crate) fn stage(&self, index: &Path, changed: &[Vec<u8>]) -> Result<()> {
        let input: Vec<u8> = changed.iter().flat_map(|path| path.iter().copied().chain([0])).collect();
        let arguments =
            ["update-index", "--add", "--remove", "--replace", "--ignore-skip-worktree-entries", "-z", "--stdin"];
        self.run(Some(index), &arguments, Some(&input)).map(drop)
    }

    /// Lets an index know the stat data of the files that have not changed.
    pub(crate) fn refresh(&self, index: &Path) -> Result<()> {
        // Its status tells that some have changed. In a sparse checkout git would take flags from files that are there.
        let arguments = ["-c", "core.sparseCheckout=false", "update-index", "-q", "--refresh"];
        self.output(Some(index), &arguments, None).map(drop)
    }

    /// Puts entries into an index as they are: mode (`0` removes), id, path.
    pub(crate) fn set_entries(&self, index: &Path, entries: &[(String, String, Vec<u8>)]) -> Result<()> {
        if entries.is_empty() {
            return Ok(());
        }
        let none = "0".repeat(self.id_bytes * 2);
        let mut input = Vec::new();
        for (mode, id, path) in entries {
            let line =
                if mode.trim_start_matches('0').is_empty() { format!("0 {none}\t") } else { format!("{mode} {id}\t") };
            input.extend_from_slice(line.as_bytes());
            input.extend_from_slice(path);
            input.push(0);
        }
        self.run(Some(index), &["update-index", "-z", "--index-info"], Some(&input)).map(drop)
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

    /// All references but HEAD, sorted by name: name, id, and what a symbolic one points to.
    pub(crate) fn references(&self) -> Result<Vec<Reference>> {
        let format =
            "--format=%(refname)%00%(objectname)%00%(symref)%00%(objecttype)%00%(*objecttype)%00%(*objectname)";
        let answer = self.ask(&["for-each-ref", format])?;
        let lines = answer.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let mut found: Vec<Reference> = lines
            .map(|line| {
                let mut fields = line.split(|byte| *byte == 0);
                let name = fields.next().unwrap_or_default();
                let mut text = || String::from_utf8_lossy(fields.next().unwrap_or_default()).into_owned();
                let (id, target, kind, peeled_kind, peeled) = (text(), text(), text(), text(), text());
                let commit =
                    if kind == "commit" { Some(id.clone()) } else { (peeled_kind == "commit").then_some(peeled) };
                let readable = String::from_utf8(name.to_vec()).ok();
                Reference {
                    is_odd: readable.is_none(),
                    name: readable.unwrap_or_else(|| String::from_utf8_lossy(name).into_owned()),
                    id,
                    target: Some(target).filter(|target| !target.is_empty()),
                    commit,
                }
            })
            .collect();
        found.sort();
        Ok(found)
    }

    /// Moves references in one transaction, each from the id that it is expected to have; `None` is "none".
    pub(crate) fn move_references(&self, moves: &[(String, Option<String>, Option<String>)]) -> Result<()> {
        if moves.is_empty() {
            return Ok(());
        }
        let none = "0".repeat(self.id_bytes * 2);
        let mut input = Vec::new();
        for (name, from, to) in moves {
            let from = from.as_deref().unwrap_or(&none);
            match to {
                Some(to) => {
                    input.extend_from_slice(format!("option no-deref\0update {name}\0{to}\0{from}\0").as_bytes());
                }
                None => input.extend_from_slice(format!("option no-deref\0delete {name}\0{from}\0").as_bytes()),
            }
        }
        let arguments = ["update-ref", "-m", "repoguard: put back", "--stdin", "-z"];
        self.run(None, &arguments, Some(&input)).map(drop)
    }

    /// Points a symbolic reference somewhere, HEAD say.
    pub(crate) fn point(&self, name: &str, target: &str) -> Result<()> {
        self.ask(&["symbolic-ref", "-m", "repoguard: put back", name, target]).map(drop)
    }

    /// Keeps commits from being pruned: the one, or all by a commit that has them as parents.
    pub(crate) fn protect(&self, name: &str, commits: &[String]) -> Result<()> {
        let commit = match commits {
            [] => return Ok(()),
            [commit] => commit.clone(),
            [first, ..] => {
                let tree = format!("{first}^{{tree}}");
                let mut arguments =
                    vec!["commit-tree", "--no-gpg-sign", "-m", "repoguard: keeps these while a mutation runs", &tree];
                arguments.extend(commits.iter().flat_map(|commit| ["-p", commit]));
                let mut git = self.command(None, &arguments);
                // The same commit each time, whoever makes it.
                for (name, value) in [("NAME", "repoguard"), ("EMAIL", ""), ("DATE", "@0 +0000")] {
                    git.env(format!("GIT_AUTHOR_{name}"), value).env(format!("GIT_COMMITTER_{name}"), value);
                }
                let output = git.stdin(Stdio::null()).output().map_err(Error::io("start", "git"))?;
                if !output.status.success() {
                    return Err(super::git::failed(&arguments, &output));
                }
                line(&output.stdout)
            }
        };
        self.ask(&["update-ref", "--no-deref", name, &commit]).map(drop)
    }

    /// Removes such a reference, and the directory that was made for it. Where there is none, that is as well.
    pub(crate) fn forget(&self, name: &str) {
        drop(self.ask(&["update-ref", "--no-deref", "-d", name]));
        if let Some(directory) = self.git_dir.join(name).parent() {
            fs::remove_directory(directory);
        }
    }

    /// The commits that the stash holds, newest first.
    pub(crate) fn stashed(&self) -> Result<Vec<String>> {
        let answer = self.ask(&["log", "--walk-reflogs", "--no-show-signature", "--format=%H", "refs/stash", "--"])?;
        Ok(String::from_utf8_lossy(&answer).lines().map(str::to_owned).collect())
    }

    /// Packs objects into a file, each by its id.
    pub(crate) fn pack(&self, ids: &[String]) -> Result<Vec<u8>> {
        let input = ids.iter().flat_map(|id| id.bytes().chain([b'\n'])).collect::<Vec<u8>>();
        self.run(None, &["pack-objects", "--stdout", "--quiet"], Some(&input))
    }

    /// Puts such objects back where they are missing.
    pub(crate) fn unpack(&self, pack: &[u8]) -> Result<()> {
        self.run(None, &["unpack-objects", "-q"], Some(pack)).map(drop)
    }

    /// Removes a symbolic reference.
    pub(crate) fn remove_symbolic(&self, name: &str) -> Result<()> {
        self.ask(&["symbolic-ref", "--delete", name]).map(drop)
    }

    /// Git's lock files that are there now.
    pub(crate) fn lock_files(&self) -> Vec<PathBuf> {
        super::lock_files(&self.git_dir, &self.common_dir)
    }

    /// Sets HEAD itself to a commit, on no branch.
    pub(crate) fn detach(&self, commit: &str) -> Result<()> {
        self.ask(&["update-ref", "--no-deref", "-m", "repoguard: put back", "HEAD", commit]).map(drop)
    }

    /// Keeps what some references lead to and others do not in a bundle; `false` where there is nothing.
    pub(crate) fn bundle(&self, file: &Path, references: &[String], without: &[String]) -> Result<bool> {
        let fixed: [&OsStr; 4] = ["bundle".as_ref(), "create".as_ref(), "--quiet".as_ref(), file.as_os_str()];
        let without: Vec<String> = without.iter().map(|id| format!("^{id}")).collect();
        let names = references.iter().chain(&without).map(|name| OsStr::new(name.as_str()));
        let arguments: Vec<&OsStr> = fixed.into_iter().chain(names).collect();
        Ok(self.output(None, &arguments, None)?.status.success())
    }

    /// Tells whether one commit can be reached from another.
    pub(crate) fn is_ancestor(&self, commit: &str, of: &str) -> Result<bool> {
        let arguments = ["merge-base", "--is-ancestor", commit, of];
        Ok(self.output(None, &arguments, None)?.status.success())
    }

    /// Lets git say what is wrong with pathspecs, as seen from a directory.
    pub(crate) fn check_pathspecs(&self, directory: &Path, pathspecs: &[OsString]) -> Result<()> {
        if pathspecs.is_empty() {
            return Ok(());
        }
        // An index that is not there: nothing is looked up.
        self.staged_below(Path::new("/nonexistent/index"), &self.tree_of(&Head::default()), directory, pathspecs)
            .map(drop)
    }

    /// Parents and tree of a commit.
    pub(crate) fn parents_and_tree(&self, commit: &str) -> Result<(Vec<String>, String)> {
        let answer = self.ask(&["cat-file", "commit", commit])?;
        let text = String::from_utf8_lossy(&answer);
        let header = |name: &'static str| {
            let lines = text.lines().take_while(|line| !line.is_empty());
            lines.filter_map(move |line| line.strip_prefix(name)).map(str::to_owned).collect::<Vec<_>>()
        };
        Ok((header("parent "), header("tree ").pop().unwrap_or_default()))
    }

    /// How a submodule stands: its commit, and what is changed in it.
    pub(crate) fn submodule(&self, path: &[u8]) -> Result<Vec<u8>> {
        let directory = self.root.join(path_of(path));
        let run = |arguments: &[&str]| {
            let mut git = Command::new("git");
            for name in
                ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_PREFIX", "GIT_TRACE2_EVENT"]
            {
                git.env_remove(name);
            }
            // It must not find the repository around it where it is none itself.
            git.env("GIT_CEILING_DIRECTORIES", directory.parent().unwrap_or(&directory));
            git.arg("--no-optional-locks").args(arguments).current_dir(&directory).stdin(Stdio::null());
            git.output().map_err(Error::io("start", "git"))
        };
        if !directory.join(".git").exists() {
            return Ok(b"not checked out".to_vec());
        }
        let head = run(&["rev-parse", "--verify", "--quiet", "HEAD"])?;
        let status = run(&["status", "--porcelain=v2", "-z", "--untracked-files=normal"])?;
        Ok([head.stdout, status.stdout].concat())
    }

    /// Opens the object database to read blobs from.
    pub(crate) fn blobs(&self) -> Result<Blobs> {
        let mut git = self.command(None, &["cat-file", "--batch"]);
        let mut child = git
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(Error::io("start", "git"))?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(stdin), Some(stdout)) => Ok(Blobs { child, stdin: Some(stdin), stdout: BufReader::new(stdout) }),
            _ => Err(Error::io("start", "git")(io::ErrorKind::BrokenPipe.into())),
        }
    }
}

/// Files and directories by which git knows what it is in the middle of.
const OPERATION_FILES: &[&str] = &[
    "MERGE_HEAD",
    "MERGE_MSG",
    "MERGE_MODE",
    "MERGE_RR",
    "MERGE_AUTOSTASH",
    "AUTO_MERGE",
    "SQUASH_MSG",
    "CHERRY_PICK_HEAD",
    "REVERT_HEAD",
    "REBASE_HEAD",
    "rebase-merge",
    "rebase-apply",
    "sequencer",
    "BISECT_LOG",
    "BISECT_START",
    "BISECT_NAMES",
    "BISECT_TERMS",
    "BISECT_EXPECTED_REV",
    "BISECT_ANCESTORS_OK",
];

/// What git writes must be there after a power loss when the mutation is said to be done.
pub(crate) const DURABLE: [&str; 4] = ["-c", "core.fsync=committed,reference", "-c", "core.fsyncMethod=batch"];

/// What is neither in the index nor ignored, each sorted by bytes.
#[derive(Debug, Default)]
pub(crate) struct Untracked {
    /// Files and links.
    pub(crate) files: Vec<Vec<u8>>,
    /// Directories that hold no tracked file; not all of them hold one at all.
    pub(crate) directories: Vec<Vec<u8>>,
    /// Other repositories.
    pub(crate) repositories: Vec<Vec<u8>>,
}

/// A reference.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub(crate) struct Reference {
    pub(crate) name: String,
    pub(crate) id: String,
    /// What a symbolic one points to.
    pub(crate) target: Option<String>,
    /// The commit that it leads to, where it does.
    pub(crate) commit: Option<String>,
    /// Its name is not UTF-8: it is seen, but never moved.
    pub(crate) is_odd: bool,
}

/// Reads blobs one by one.
pub(crate) struct Blobs {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Blobs {
    /// Copies a blob's bytes.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] where there is no such object; what writing says.
    pub(crate) fn copy(&mut self, id: &str, into: &mut dyn Write) -> io::Result<()> {
        let Some(stdin) = &mut self.stdin else { return Err(io::ErrorKind::BrokenPipe.into()) };
        stdin.write_all(format!("{id}\n").as_bytes())?;
        stdin.flush()?;
        let mut header = String::new();
        self.stdout.read_line(&mut header)?;
        let size = header.trim_end().strip_prefix(&format!("{id} blob ")).and_then(|size| size.parse::<u64>().ok());
        let Some(size) = size else {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("git has no blob {id}: {}", header.trim_end()),
            ));
        };
        let mut blob = (&mut self.stdout).take(size);
        let written = io::copy(&mut blob, into);
        // What could not be written must not be taken for the next answer.
        io::copy(&mut blob, &mut io::sink())?;
        self.stdout.read_exact(&mut [0])?;
        if written? == size { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

impl Drop for Blobs {
    fn drop(&mut self) {
        drop(self.stdin.take());
        drop(self.child.wait());
    }
}

fn line(answer: &[u8]) -> String {
    String::from_utf8_lossy(answer).trim_end().to_owned()
}

/// The fields of a listing that end with NUL.
fn paths(list: &[u8]) -> Vec<Vec<u8>> {
    let list = list.strip_suffix(b"\0").unwrap_or(list);
    if list.is_empty() { Vec::new() } else { list.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect() }
}

/// What `--raw -z` lists: `:mode mode id id status NUL path NUL`.
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
