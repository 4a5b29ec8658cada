//! Examines linked worktrees, and what would be lost with them. Their branches are made and deleted here, each in one
//! step that fails if somebody else was there.

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    super::{
        Repo,
        discovery::refuse_blocking_references,
        git::{self, Manner},
        run,
        state::OWN_REFERENCES,
    },
    Checkout, STASH, line,
    logs::MADE,
    paths,
};
use crate::{
    env,
    error::{Error, Result},
};

/// The differences of a worktree from its commit, without ignored files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    /// Tracked files that are changed, staged or not.
    pub(crate) changed: Vec<PathBuf>,
    /// Tracked files that are not there, and nothing else about them is changed.
    pub(crate) missing: u64,
    /// Files that git does not know.
    pub(crate) untracked: u64,
}

/// How the names of references begin that are there to stay. Others come and go: the stash, and what programs keep for themselves.
const LASTING: [&str; 3] = ["refs/heads/", "refs/tags/", "refs/remotes/"];

/// A reference that leads to a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Witness {
    name: String,
    value: String,
}

/// The result of deleting a branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deletion {
    Done,
    /// It is elsewhere, or gone.
    Moved,
    /// The witness is elsewhere, or gone.
    WitnessMoved,
}

/// Tells whether git would take this for the name of a branch.
pub(crate) fn is_branch_name(name: &str) -> bool {
    let full = format!("refs/heads/{name}");
    name != "HEAD" && !name.starts_with('-') && gix_validate::reference::name(full.as_str().into()).is_ok()
}

/// Tells whether git would take this for the full name of a reference below `refs/`.
pub(crate) fn is_reference_name(name: &str) -> bool {
    name.starts_with("refs/") && gix_validate::reference::name(name.into()).is_ok()
}

impl Checkout {
    /// A linked worktree, whose files are in the given directory.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::NoRepository`], those of [`Repo::check_trust`].
    pub(crate) fn linked(repo: &Repo, manner: Manner, git_dir: &Path, root: &Path, id_bytes: usize) -> Result<Self> {
        let absolute = |path: &Path| std::path::absolute(path).map_err(Error::io("find", path));
        let needs = || Error::NoRepository { path: repo.root().to_owned(), needed_by: "a linked worktree" };
        Ok(Self {
            root: root.to_owned(),
            git_dir: absolute(git_dir)?,
            common_dir: absolute(repo.common_dir().ok_or_else(needs)?)?,
            id_bytes,
            is_found: true,
            notes: None,
            judged: repo.trusted()?,
            manner,
            filters: Arc::default(),
            settings: Arc::default(),
            excludes: None,
            one_case: None,
        })
    }

    /// The repository itself, without any worktree.
    ///
    /// # Errors
    /// As [`Checkout::linked`].
    pub(crate) fn common(repo: &Repo, manner: Manner, id_bytes: usize) -> Result<Self> {
        let common = repo.common_dir().unwrap_or(repo.root()).to_owned();
        Ok(Self { is_found: false, ..Self::linked(repo, manner, &common, &common, id_bytes)? })
    }

    /// Makes a branch; `false` if one of that name exists.
    ///
    /// # Errors
    /// [`Error::Git`].
    pub(crate) fn create_branch(&self, name: &str, commit: &str) -> Result<bool> {
        let none = "0".repeat(self.id_bytes * 2);
        let message = format!("{MADE}{commit}");
        let made = self.ask(&["update-ref", "--no-deref", "-m", &message, name, commit, &none]);
        match made {
            Ok(_) => Ok(true),
            Err(_) if self.tip(name)?.is_some() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Finds another branch, tag or remote-tracking reference that leads to a commit.
    ///
    /// # Errors
    /// [`Error::Git`].
    pub(crate) fn witness(&self, commit: &str, branch: &str) -> Result<Option<Witness>> {
        refuse_blocking_references(&self.git_dir, &self.common_dir)?;
        // The first is quick.
        for how in ["--points-at", "--contains"] {
            let how = format!("{how}={commit}");
            let format = "--format=%(objectname) %(refname) %(symref)";
            let answer = self.ask(&[&["for-each-ref", format, &how], &LASTING[..]].concat())?;
            for line in String::from_utf8_lossy(&answer).lines() {
                let mut words = line.split(' ');
                // A symbolic reference has no value of its own.
                if let (Some(value), Some(name), Some("")) = (words.next(), words.next(), words.next())
                    && name != branch
                {
                    return Ok(Some(Witness { name: name.to_owned(), value: value.to_owned() }));
                }
            }
        }
        Ok(None)
    }

    /// Deletes a branch in one step, if it and the witness have their expected values.
    ///
    /// # Errors
    /// [`Error::Git`] if both are, and git cannot delete it all the same.
    pub(crate) fn delete_branch(&self, name: &str, expected: &str, witness: Option<&Witness>) -> Result<Deletion> {
        let verify = witness.map(|Witness { name, value }| format!("option no-deref\nverify {name} {value}\n"));
        let steps = format!("{}option no-deref\ndelete {name} {expected}\n", verify.unwrap_or_default());
        let Err(error) = self.run(None, &["update-ref", "--stdin"], Some(steps.as_bytes())) else {
            return Ok(Deletion::Done);
        };
        if self.tip(name)?.as_deref() != Some(expected) {
            return Ok(Deletion::Moved);
        }
        match witness {
            Some(Witness { name, value }) if self.tip(name)?.as_ref() != Some(value) => Ok(Deletion::WitnessMoved),
            _ => Err(error),
        }
    }

    /// Tells whether one of these commits leads to another one.
    ///
    /// # Errors
    /// [`Error::Git`].
    pub(crate) fn is_below(&self, commit: &str, heads: &[String]) -> Result<bool> {
        let fixed = ["rev-list", "--max-count=1", commit, "--not"];
        let arguments: Vec<&str> = fixed.into_iter().chain(heads.iter().map(String::as_str)).chain(["--"]).collect();
        Ok(!heads.is_empty() && self.ask(&arguments)?.is_empty())
    }

    /// The commit of a reference with this full name; `None` if it does not exist.
    ///
    /// # Errors
    /// [`Error::Git`].
    pub(crate) fn tip(&self, name: &str) -> Result<Option<String>> {
        // Not `rev-parse`, which takes a tag of this name if the branch does not exist.
        let listed = self.ask(&["for-each-ref", "--format=%(refname) %(objectname)", name])?;
        let listed = String::from_utf8_lossy(&listed);
        let found = listed.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(found.map(str::to_owned))
    }

    /// How many commits a reference has that a commit has not.
    ///
    /// # Errors
    /// [`Error::Git`].
    pub(crate) fn ahead(&self, base: &str, name: &str) -> Result<u64> {
        let answer = self.ask(&["rev-list", "--count", &format!("{base}..{name}"), "--"])?;
        Ok(line(&answer).parse().unwrap_or(u64::MAX))
    }

    /// All commits in the log of this worktree's HEAD.
    pub(crate) fn visited(&self) -> Vec<String> {
        let log = ["log", "--walk-reflogs", "--no-show-signature", "--format=%H", "HEAD", "--"];
        // Without a log there is nothing to tell, and git fails.
        let answer = self.ask(&log).unwrap_or_default();
        String::from_utf8_lossy(&answer).lines().map(str::to_owned).collect()
    }

    /// Tells whether commits would be lost, if one branch were no more: nothing else leads to them, and not `base`.
    ///
    /// # Errors
    /// [`Error::Git`], also if a commit has already gone.
    pub(crate) fn would_lose(&self, commits: &[String], branch: &str, base: &str) -> Result<bool> {
        if commits.iter().all(|commit| commit == base) {
            return Ok(false);
        }
        let mut input = commits.join("\n");
        input.push_str("\n^");
        input.push_str(base);
        input.push('\n');
        let exclude = format!("--exclude={branch}");
        // The references that are left. HEAD of any worktree does not count, which may be the one that goes. `--not` holds for what
        // follows it, and `--exclude` for the next pattern.
        let lasting = LASTING.map(|start| format!("--glob={start}*"));
        let lasting = lasting.each_ref().map(String::as_str);
        let fixed = ["rev-list", "--max-count=1", "--stdin", "--not", &exclude];
        let arguments = [&fixed[..], &lasting].concat();
        Ok(!self.run(None, &arguments, Some(input.as_bytes()))?.is_empty())
    }

    /// The differences from the index, or another one that is given, and from HEAD.
    ///
    /// # Errors
    /// [`Error::Git`].
    pub(crate) fn changes(&self, index: Option<&Path>) -> Result<Changes> {
        const STATUS: [&str; 9] = [
            // Git must not take a file for unchanged because of less than all it knows about it.
            "-c",
            "core.checkStat=default",
            "-c",
            "core.trustctime=true",
            "status",
            "--porcelain=v1",
            "-z",
            "--untracked-files=all",
            "--no-renames",
        ];
        let arguments: Vec<&str> = STATUS.into_iter().chain([self.below_submodules()]).collect();
        let mut found = Changes::default();
        for entry in paths(&self.run(index, &arguments, None)?) {
            match entry.get(..3) {
                Some(b"?? ") => found.untracked += 1,
                Some(b" D ") => found.missing += 1,
                _ => found.changed.push(super::path_of(entry.get(3..).unwrap_or_default())),
            }
        }
        Ok(found)
    }

    /// Existing files that git was told to skip.
    ///
    /// # Errors
    /// [`Error::Git`].
    pub(crate) fn not_looked_at(&self) -> Result<u64> {
        let listed = paths(&self.ask(&["ls-files", "-v", "-z"])?);
        let hidden = listed.iter().filter_map(|entry| {
            let (tag, path) = (entry.first()?, entry.get(2..)?);
            (tag.is_ascii_lowercase() || *tag == b'S').then(|| self.root.join(super::path_of(path)))
        });
        Ok(hidden.filter(|path| std::fs::symlink_metadata(path).is_ok()).count() as u64)
    }

    /// Tells whether a file has no more than the beginning of what a commit has there, as it is in a worktree.
    pub(crate) fn is_beginning_of(&self, path: &Path, commit: &str) -> bool {
        /// Nobody waits for more to be compared.
        const MOST: u64 = 64 << 20;
        let file = self.root.join(path);
        let Ok(metadata) = std::fs::symlink_metadata(&file) else { return false };
        if !metadata.is_file() || metadata.len() > MOST {
            return false;
        }
        let mut name = OsString::from(format!("{commit}:"));
        name.push(path);
        let arguments: [&OsStr; 3] = ["cat-file".as_ref(), "--filters".as_ref(), &name];
        let (whole, part) = (self.run(None, &arguments, None), std::fs::read(&file));
        matches!((whole, part), (Ok(whole), Ok(part)) if whole.starts_with(&part))
    }

    /// Makes an index of a commit, in a free place.
    ///
    /// # Errors
    /// [`Error::Git`].
    pub(crate) fn index_of(&self, commit: &str, index: &Path) -> Result<()> {
        self.run(Some(index), &["-c", "core.sparseCheckout=false", "read-tree", commit], None).map(drop)
    }

    /// References that only this worktree has.
    ///
    /// # Errors
    /// [`Error::Git`].
    pub(crate) fn own_references(&self) -> Result<Vec<String>> {
        let answer = self.ask(&[&["for-each-ref", "--format=%(refname)"], &OWN_REFERENCES[..]].concat())?;
        Ok(String::from_utf8_lossy(&answer).lines().map(str::to_owned).collect())
    }

    /// The newest entry of the stash.
    ///
    /// # Errors
    /// As [`Checkout::tip`].
    pub(crate) fn newest_stash(&self) -> Result<Option<String>> {
        self.tip(STASH)
    }

    /// Entries of the stash that were made on a branch, or, since one that is the newest no more, on no branch.
    ///
    /// # Errors
    /// [`Error::Git`].
    pub(crate) fn stashed_on(&self, branch: &str, since: Option<&str>) -> Result<u64> {
        if self.newest_stash()?.is_none() {
            return Ok(0);
        }
        let log = ["log", "--walk-reflogs", "--no-show-signature", "-z", "--format=%H %gs", STASH, "--"];
        let entries = paths(&self.ask(&log)?);
        let mut is_new = true;
        let ours = entries.iter().filter(|entry| {
            let entry = String::from_utf8_lossy(entry);
            let (id, message) = entry.split_once(' ').unwrap_or((&entry, ""));
            is_new &= since != Some(id);
            let place = message.strip_prefix("WIP on ").or(message.strip_prefix("On ")).unwrap_or_default();
            let on = |branch| place.strip_prefix(branch).is_some_and(|rest: &str| rest.starts_with(':'));
            on(branch) || (is_new && on("(no branch)"))
        });
        Ok(ours.count() as u64)
    }

    /// Makes a worktree on a branch that is there, in a directory that is empty, without its files. None of our hooks is asked:
    /// the list of worktrees is shared, and this one is locked before anything is done in it.
    ///
    /// # Errors
    /// [`Error::Git`].
    pub(crate) fn add_worktree(&self, path: &Path, branch: &str) -> Result<()> {
        let fixed = ["worktree", "add", "--quiet", "--no-checkout", "--"].map(OsStr::new);
        let arguments: Vec<&OsStr> = fixed.into_iter().chain([path.as_os_str(), OsStr::new(branch)]).collect();
        let mut git = self.command(None, &arguments)?;
        let output = run::output(git.env(env::SWITCH, "0"))?;
        if output.status.success() { Ok(()) } else { Err(git::failed(&arguments, &output)) }
    }

    /// Takes a worktree off git's list; git fails if its directory exists and is not empty.
    ///
    /// # Errors
    /// [`Error::Git`].
    pub(crate) fn remove_worktree(&self, path: &Path) -> Result<()> {
        let arguments: [&OsStr; 4] = ["worktree".as_ref(), "remove".as_ref(), "--".as_ref(), path.as_os_str()];
        self.run(None, &arguments, None).map(drop)
    }
}
