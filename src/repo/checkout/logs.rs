//! Finds, reads and rewrites the logs of references.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

use super::{
    super::{discovery::refuse_blocking_log, git, run},
    Checkout, HEAD, paths,
};
use crate::{
    error::Result,
    fs::{self, Place, Root},
};

/// How the log of a branch begins that was made for a worktree.
pub(super) const MADE: &str = "repoguard: made from ";

impl Checkout {
    /// The log of a reference or of HEAD, if it is a file.
    pub(crate) fn log_of(&self, name: &str) -> PathBuf {
        self.log_directory(name).join("logs").join(name)
    }

    /// The place of such a log, for changing it: no link below the git directory leads elsewhere.
    ///
    /// # Errors
    /// [`crate::Error::Io`].
    pub(crate) fn place_of_log(&self, name: &str) -> Result<Place> {
        Root::open(self.log_directory(name), |_| false)?.at(format!("logs/{name}").as_bytes())
    }

    /// The directory of `logs`: each worktree has a log of its HEAD, and all share the others.
    fn log_directory(&self, name: &str) -> &Path {
        if name == HEAD { &self.git_dir } else { &self.common_dir }
    }

    /// The files of the tables that references stand in.
    pub(crate) fn tables(&self) -> Vec<PathBuf> {
        let files = std::fs::read_dir(self.common_dir.join("reftable")).into_iter().flatten().flatten();
        files.filter(|file| file.file_type().is_ok_and(|kind| kind.is_file())).map(|file| file.path()).collect()
    }

    /// The same worktree, seen with other tables of references: those in this git directory of ours, which needs no more.
    pub(crate) fn with_tables_in(&self, git_dir: &Path) -> Result<Self> {
        let format = if self.id_bytes == 32 { "\tobjectFormat = sha256\n" } else { "" };
        let config = format!("[core]\n\trepositoryFormatVersion = 1\n[extensions]\n\trefStorage = reftable\n{format}");
        let objects = format!("{}\n", self.common_dir.join("objects").display());
        for directory in ["objects/info", "refs"] {
            fs::make_directories(&git_dir.join(directory), None)?;
        }
        for (name, text) in [
            ("HEAD", "ref: refs/heads/.invalid\n"),
            ("config", &config),
            ("objects/info/alternates", &objects),
            ("refs/heads", "this repository uses the reftable format\n"),
        ] {
            fs::put_file_of_many(&git_dir.join(name), 0o644, None, |file| file.write_all(text.as_bytes()))?;
        }
        Ok(Self { git_dir: git_dir.to_owned(), common_dir: git_dir.to_owned(), ..self.clone() })
    }

    /// Makes sure that git will not block on the log of a branch.
    ///
    /// # Errors
    /// [`crate::Error::NotAFile`] for a FIFO and the like, [`crate::Error::Io`] for a file without end.
    pub(crate) fn check_log(&self, branch: &str) -> Result<()> {
        refuse_blocking_log(&self.common_dir, branch)
    }

    /// Tells whether the log of a branch begins with our making it. Without a log that is not known.
    pub(crate) fn is_made_by_us(&self, branch: &str) -> Result<bool> {
        let log = ["log", "--walk-reflogs", "--no-show-signature", "--format=%gs", branch, "--"];
        let answer = self.ask(&log)?;
        let first = String::from_utf8_lossy(&answer).lines().last().map(str::to_owned);
        Ok(first.is_none_or(|first| first.starts_with(MADE)))
    }

    /// Whether references and their logs stand in tables.
    pub(crate) fn has_reftable(&self) -> bool {
        self.common_dir.join("reftable").exists()
    }

    /// The log of a reference as text, for [`Checkout::rewrite_log`]; empty if there is none. Newest first, each entry ends with NUL: id,
    /// name, mail address, time and message, a line each.
    pub(crate) fn log_text(&self, name: &str) -> Result<Vec<u8>> {
        if self.tip(name)?.is_none() {
            return Ok(Vec::new());
        }
        let format = "--format=%H%n%gn%n%ge%n%gd%n%gs";
        let log = ["log", "--walk-reflogs", "--no-show-signature", "--date=raw", "-z", format, name, "--"];
        let mut text = self.ask(&log)?;
        // Git ends all entries but the last.
        if text.last().is_some_and(|byte| *byte != 0) {
            text.push(0);
        }
        Ok(text)
    }

    /// Gives a reference another log, through git. The reference ends at the newest entry.
    ///
    /// # Errors
    /// [`crate::Error::Git`]. If it is stopped on the way, the reference is missing, or is at an older entry.
    pub(crate) fn rewrite_log(&self, name: &str, text: &[u8]) -> Result<()> {
        self.ask(&["update-ref", "--no-deref", "-d", name])?;
        for entry in paths(text).iter().rev() {
            let entry = String::from_utf8_lossy(entry);
            let mut lines = entry.splitn(5, '\n');
            let mut line = || lines.next().unwrap_or_default();
            let (id, user, mail, time, message) = (line(), line(), line(), line(), line());
            // `stash@{1764172800 +0100}`
            let time = time.split_once('{').map_or("", |(_, time)| time.trim_end_matches('}'));
            // Git takes no empty one.
            let message: &[&str] = if message.is_empty() { &[] } else { &["-m", message] };
            let arguments = [&["update-ref", "--no-deref", "--create-reflog"], message, &[name, id]].concat();
            let mut git = self.command(None, &arguments)?;
            git.env("GIT_COMMITTER_NAME", user)
                .env("GIT_COMMITTER_EMAIL", mail)
                .env("GIT_COMMITTER_DATE", format!("@{time}"));
            let output = run::output(&mut git)?;
            if !output.status.success() {
                return Err(git::failed(&arguments, &output));
            }
        }
        Ok(())
    }

    /// Removes a commit from the log of a reference.
    pub(crate) fn forget_logged(&self, name: &str, commit: &str) -> Result<()> {
        let logged = self.logged(name)?;
        // From the oldest on: the numbers of the newer ones stay what they are.
        let found = logged.iter().enumerate().rev().filter(|(_, logged)| *logged == commit);
        let entries: Vec<String> = found.map(|(index, _)| format!("{name}@{{{index}}}")).collect();
        if entries.is_empty() {
            return Ok(());
        }
        let mut arguments = vec!["reflog", "delete", "--rewrite"];
        arguments.extend(entries.iter().map(String::as_str));
        self.ask(&arguments).map(drop)
    }
}
