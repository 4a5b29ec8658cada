//! Asks git what a mutation needs: plumbing commands in one worktree, on an index of the caller's choice.
//!
//! | file | what |
//! | --- | --- |
//! | this one | the worktree, and how git is started in it |
//! | `files` | files and indexes: what differs, what is ignored, what is staged |
//! | `staging` | changes of an index |
//! | `conversion` | whether files have the bytes of their blobs |
//! | `references` | references and commits |
//! | `untracked` | what git does not know |
//! | `blobs` | the bytes of files |
//! | `objects` | commits, trees and tags, without a git |
//! | `linked` | linked worktrees: their branches, and what is in them |
//!
//! No hook runs in any of them, none refreshes the user's own index, and a Ctrl-C at the terminal does not reach them: what
//! puts a repository back must not be stopped half-way.

mod blobs;
mod conversion;
mod files;
mod linked;
mod logs;
mod objects;
mod references;
mod staging;
#[cfg(test)]
mod tests;
mod untracked;

pub(crate) use blobs::Blobs;
pub(crate) use conversion::Conversion;
use files::FileSettings;
pub(crate) use files::RawChange;
pub(crate) use linked::{Changes, Deletion, is_branch_name, is_reference_name};
pub(crate) use references::Reference;
pub(crate) use staging::RawEntry;
pub(crate) use untracked::Untracked;

use std::{
    collections::BTreeSet,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{Arc, OnceLock},
};

use super::{
    Repo, config,
    git::{self, Manner},
    leads_to, path_of, run,
    trust::Trusted,
};
use crate::{
    env,
    error::{Error, Result},
    fs::{Place, Root},
    sys,
};

/// A worktree for git to work in.
#[derive(Debug, Clone)]
pub(crate) struct Checkout {
    /// The top of its files.
    pub(crate) root: PathBuf,
    /// Its git directory.
    pub(crate) git_dir: PathBuf,
    common_dir: PathBuf,
    /// Length of an object's id.
    pub(crate) id_bytes: usize,
    /// Whether `root` comes from git; until then it is the directory in which git is asked.
    is_found: bool,
    /// The file in which our own gits that take git's locks note that they run, so that we know a killed one.
    notes: Option<PathBuf>,
    judged: Trusted,
    manner: Manner,
    /// The filters that are configured here. Read only by a git that must not run one.
    filters: Arc<OnceLock<BTreeSet<OsString>>>,
    settings: Arc<OnceLock<FileSettings>>,
    /// The user's own file of ignore rules, if it is not the configured one.
    excludes: Option<PathBuf>,
    /// Whether names that differ in case only are one name, if that is not as configured.
    one_case: Option<bool>,
}

impl Checkout {
    /// Asks git for the files of this repository's worktree.
    ///
    /// # Errors
    /// [`Error::NoRepository`] without a repository; [`Error::NoWorktree`] if it is bare; [`Error::Git`].
    pub(crate) fn find(repo: &Repo, manner: Manner, needed_by: &'static str) -> Result<Self> {
        let dirs = repo.git.as_ref().ok_or_else(|| Error::NoRepository { path: repo.root.clone(), needed_by })?;
        let mut checkout = Self {
            root: repo.root.clone(),
            git_dir: std::path::absolute(&dirs.own).map_err(Error::io("find", &dirs.own))?,
            common_dir: std::path::absolute(&dirs.common).map_err(Error::io("find", &dirs.common))?,
            id_bytes: 20,
            is_found: env::get("GIT_WORK_TREE").is_some(),
            notes: None,
            judged: repo.trusted()?,
            manner,
            filters: Arc::default(),
            settings: Arc::default(),
            excludes: None,
            one_case: None,
        };
        if let Some(root) = usual_root(repo) {
            (checkout.root, checkout.is_found) = (root, true);
            return Ok(checkout);
        }
        // It stops at what it cannot tell, and says what it could.
        let facts =
            ["rev-parse", "--is-bare-repository", "--is-inside-work-tree", "--show-object-format", "--show-toplevel"];
        let output = checkout.output(None, &facts, None)?;
        let mut lines = output.stdout.splitn(4, |byte| *byte == b'\n');
        let (bare, inside, format) = (lines.next(), lines.next(), lines.next());
        if !output.status.success() && bare.is_none_or(<[u8]>::is_empty) {
            return Err(git::failed(&facts, &output));
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

    /// Whether the caller, and not the repository, says where repository or worktree are.
    pub(crate) fn is_named_by_user() -> bool {
        ["GIT_DIR", "GIT_WORK_TREE"].into_iter().any(|name| env::get(name).is_some())
    }

    /// The top of the worktree, for work on its files: no path leads out of it, or into a repository.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn tree(&self) -> Result<Root> {
        Root::open(&self.root, super::is_git_directory)
    }

    /// The index that git uses here.
    pub(crate) fn index(&self) -> PathBuf {
        self.git_dir.join("index")
    }

    /// A file of git's in the directory that all worktrees share, for changing it: no link leads elsewhere.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn common_place(&self, inner: &str) -> Result<Place> {
        Root::open(&self.common_dir, |_| false)?.at(inner.as_bytes())
    }

    /// The repository's own ignore rules, which are outside of the worktree.
    pub(crate) fn exclude_file(&self) -> PathBuf {
        self.common_dir.join(EXCLUDE)
    }

    /// The log of `refs/stash`, which is the stash.
    pub(crate) fn stash_log(&self) -> PathBuf {
        self.common_dir.join(STASH_LOG)
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

    /// The files of git's operations in the git directory.
    pub(crate) fn operation_files(&self) -> Vec<String> {
        let names = OPERATION_FILES.iter().filter(|name| self.git_dir.join(name).exists());
        names.map(|&name| name.to_owned()).collect()
    }

    /// The same; its gits note in this file that they run (`GIT_TRACE2_EVENT`).
    pub(crate) fn noting(self, notes: PathBuf) -> Self {
        Self { notes: Some(notes), ..self }
    }

    /// The same; to its gits, names are what they are to the file system, whatever is configured.
    pub(crate) fn with_names_of_the_disk(self) -> Self {
        let own = crate::fs::identity(&self.root.join(".git"));
        let is_one = own.is_some() && own == crate::fs::identity(&self.root.join(".GIT"));
        Self { one_case: own.is_some().then_some(is_one), ..self }
    }

    /// Whether names that differ in case only are one name here.
    pub(crate) fn is_one_case(&self) -> bool {
        self.one_case.unwrap_or(false)
    }

    fn command<A: AsRef<OsStr>>(&self, index: Option<&Path>, arguments: &[A]) -> Result<Command> {
        let mut git = self.start(self.manner, index);
        if self.manner == Manner::Reading {
            let filters = if let Some(known) = self.filters.get() {
                known
            } else {
                let found = git::filters(self.start(Manner::Asking, None))?;
                self.filters.get_or_init(|| found)
            };
            git::without_filters(&mut git, filters);
        }
        if let Some(notes) = self.notes.as_ref().filter(|_| takes_locks(arguments)) {
            git.env(env::GIT_TRACE, notes);
        }
        if let Some(one_case) = self.one_case {
            git.arg("-c").arg(format!("core.ignoreCase={one_case}"));
        }
        if let Some(excludes) = &self.excludes {
            let mut setting = OsString::from("core.excludesFile=");
            setting.push(excludes);
            git.arg("-c").arg(setting);
        }
        git.args(arguments);
        sys::own_group(&mut git);
        Ok(git)
    }

    /// A git of any manner in this worktree.
    fn start(&self, manner: Manner, index: Option<&Path>) -> Command {
        let mut git = git::command_at(manner, &self.git_dir, self.judged);
        git.current_dir(&self.root).env_remove("GIT_INDEX_FILE").env_remove("GIT_PREFIX");
        if env::get("GIT_COMMON_DIR").is_some() {
            git.env("GIT_COMMON_DIR", &self.common_dir);
        }
        if self.is_found {
            git.env("GIT_WORK_TREE", &self.root);
        } else if self.root == self.git_dir {
            git.env_remove("GIT_WORK_TREE");
        }
        if let Some(index) = index {
            git.env("GIT_INDEX_FILE", index);
        }
        git
    }

    /// The pid of such a git that works here now. It has a process group of its own, so that it survives the kill of another group.
    /// A process of one of `users` counts as well if the system does not show its directory. `None` also if the system does not
    /// show other processes.
    pub(crate) fn git_at_work(&self, is_one_of_users: impl Fn(u32) -> bool) -> Option<u32> {
        let root = self.root.canonicalize().unwrap_or_else(|_| self.root.clone());
        let is_ours = |words: Vec<String>| words.get(1..=git::WRITES.len()).is_some_and(|words| words == git::WRITES);
        let is_here = |pid: u32| match sys::working_directory(pid) {
            Some(directory) => directory == root,
            None => sys::process_owner(pid).is_some_and(&is_one_of_users),
        };
        sys::all_processes().into_iter().find(|pid| sys::command_line(*pid).is_some_and(is_ours) && is_here(*pid))
    }

    fn output<A: AsRef<OsStr>>(&self, index: Option<&Path>, arguments: &[A], input: Option<&[u8]>) -> Result<Output> {
        let mut git = self.command(index, arguments)?;
        match input {
            Some(input) => run::output_with(&mut git, input),
            None => run::output(&mut git),
        }
    }

    fn run<A: AsRef<OsStr>>(&self, index: Option<&Path>, arguments: &[A], input: Option<&[u8]>) -> Result<Vec<u8>> {
        let output = self.output(index, arguments, input)?;
        if output.status.success() { Ok(output.stdout) } else { Err(git::failed(arguments, &output)) }
    }

    fn ask(&self, arguments: &[&str]) -> Result<Vec<u8>> {
        self.run(None, arguments, None)
    }

    /// Git's lock files that are there now, that of its housekeeping after a commit, too.
    pub(crate) fn lock_files(&self) -> Vec<PathBuf> {
        let housekeeping = self.common_dir.join("objects/maintenance.lock");
        let mut locks = super::lock_files(&self.git_dir, &self.common_dir);
        locks.extend(housekeeping.exists().then_some(housekeeping));
        locks
    }

    /// The files that a `git stash` of this pid writes the index to on the way.
    pub(crate) fn passing_indexes(&self, pid: u32) -> [PathBuf; 2] {
        ["", ".lock"].map(|end| self.git_dir.join(format!("index.stash.{pid}{end}")))
    }

    /// How a submodule stands: its commit, and what is changed in it.
    pub(crate) fn submodule(&self, path: &[u8]) -> Result<Vec<u8>> {
        let directory = self.root.join(path_of(path));
        if !directory.join(".git").exists() {
            return Ok(b"not checked out".to_vec());
        }
        let start = |manner| {
            let mut git = git::command(manner);
            for name in env::OF_ONE_WORKTREE {
                git.env_remove(name);
            }
            // If it is not a repository itself, git must not find the one around it.
            git.env("GIT_CEILING_DIRECTORIES", directory.parent().unwrap_or(&directory));
            git.current_dir(&directory);
            git
        };
        let run = |arguments: &[&str]| {
            let mut git = start(self.manner);
            if self.manner == Manner::Reading {
                git::without_filters(&mut git, &git::filters(start(Manner::Asking))?);
            }
            run::output(git.args(arguments))
        };
        let head = run(&["rev-parse", "--verify", "--quiet", "HEAD"])?;
        let status = ["status", "--porcelain=v2", "-z", "--untracked-files=normal", self.below_submodules()];
        Ok([head.stdout, run(&status)?.stdout].concat())
    }

    /// How far git looks into submodules: it would run the filters of each.
    fn below_submodules(&self) -> &'static str {
        if self.manner == Manner::Reading { "--ignore-submodules=dirty" } else { "--ignore-submodules=none" }
    }
}

/// A repository's ignore rules and its stash, in the directory that all worktrees share.
pub(crate) const EXCLUDE: &str = "info/exclude";
pub(crate) const STASH_LOG: &str = "logs/refs/stash";
pub(crate) const STASH: &str = "refs/stash";
pub(crate) const HEAD: &str = "HEAD";

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

/// The top of the worktree, without asking git: in the usual repository, found from the directory.
fn usual_root(repo: &Repo) -> Option<PathBuf> {
    let dirs = repo.git.as_ref()?;
    let is_named = env::OF_ONE_WORKTREE.iter().any(|name| env::get(name).is_some());
    let root = repo.root.canonicalize().ok()?;
    let is_directory = root.join(".git").canonicalize().ok() == Some(dirs.own.canonicalize().ok()?);
    let is_here = !is_named && (is_directory || leads_to(&root, &dirs.own));
    (is_here && config::is_usual(&dirs.common)).then_some(root)
}

/// Tells whether a git takes locks of references.
fn takes_locks<A: AsRef<OsStr>>(arguments: &[A]) -> bool {
    const LOCKING: [&str; 4] = ["update-ref", "symbolic-ref", "reflog", "worktree"];
    arguments.iter().any(|word| LOCKING.iter().any(|verb| word.as_ref() == *verb))
}

fn line(answer: &[u8]) -> String {
    String::from_utf8_lossy(answer).trim_end().to_owned()
}

/// The fields of a listing that end with NUL.
fn paths(list: &[u8]) -> Vec<Vec<u8>> {
    let list = list.strip_suffix(b"\0").unwrap_or(list);
    if list.is_empty() { Vec::new() } else { list.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect() }
}
