//! `repoguard mutate`: how it is called, and what must hold after it whatever happened.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::{RepoState, Running, Sandbox, eventually, is_root, own, to_the_end, walk};

impl Sandbox {
    /// `repoguard mutate -m change OPTIONS -- sh -c SCRIPT`, to be started in the background.
    pub(crate) fn mutate_command(&self, options: &[&str], script: &str) -> Command {
        let mut command = self.repoguard_command(["mutate", "-m", "change"]);
        command.args(options).args(["--", "sh", "-c", script]);
        command
    }

    /// The same, to be run to its end.
    pub(crate) fn mutate(&self, options: &[&str], script: &str) -> assert_cmd::Command {
        to_the_end(self.mutate_command(options, script))
    }

    /// Runs one that must commit: one commit on top of HEAD, nothing left behind; returns what it says.
    #[track_caller]
    pub(crate) fn commits(&self, options: &[&str], script: &str) -> String {
        self.commits_with(self.mutate(options, script))
    }

    /// The same for a command of the test's own.
    #[track_caller]
    pub(crate) fn commits_with(&self, mut command: assert_cmd::Command) -> String {
        let before = self.head();
        let output = command.assert().success().get_output().clone();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        let mut parent = to_the_end(self.command("git"));
        let parent = parent.args(["rev-parse", "-q", "--verify", "HEAD^"]).output().unwrap().stdout;
        assert_eq!(String::from_utf8_lossy(&parent).trim(), before, "one commit on top of HEAD: {told}");
        assert_ne!(self.head(), before, "a commit was made: {told}");
        self.assert_no_traces();
        told
    }

    /// Runs one that must end with this status and leave everything as it was; returns what it says.
    #[track_caller]
    pub(crate) fn undone(&self, options: &[&str], script: &str, status: i32) -> String {
        self.undone_with(self.mutate(options, script), status)
    }

    /// The same for a command of the test's own.
    #[track_caller]
    pub(crate) fn undone_with(&self, mut command: assert_cmd::Command, status: i32) -> String {
        let before = self.state();
        let output = command.output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        before.assert_same(&self.state(), &told);
        assert_eq!(output.status.code(), Some(status), "{told}");
        assert!(!told.contains("panicked") && !told.trim().is_empty(), "{told}");
        self.assert_no_traces();
        told
    }

    /// Waits for the end of one in the background: it must end with this status and leave everything as it was before.
    #[track_caller]
    pub(crate) fn ends_undone(&self, mut running: Running, before: &RepoState, status: i32) -> String {
        let ended = super::shell_status(running.ended());
        let told = running.stderr();
        before.assert_same(&self.state(), &told);
        assert_eq!(ended, status, "{told}");
        assert!(!told.contains("panicked"), "{told}");
        // Whoever was killed may still be on the way.
        eventually("free", || self.try_once(&[]) == 0);
        self.assert_no_traces();
        told
    }

    /// The commit that HEAD is at; empty where there is none.
    pub(crate) fn head(&self) -> String {
        let mut command = to_the_end(self.command("git"));
        let output = command.args(["rev-parse", "-q", "--verify", "HEAD"]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// What the last commit changed, as `A new`, `M file`, `D gone`, `T kind`, sorted by path.
    pub(crate) fn landed(&self) -> Vec<String> {
        self.changed_by(&["show", "-z", "--format=", "--name-status", "--no-renames", "HEAD"])
    }

    /// What stands in the index otherwise than in HEAD.
    pub(crate) fn staged(&self) -> Vec<String> {
        self.changed_by(&["diff", "-z", "--cached", "--name-status", "--no-renames"])
    }

    fn changed_by(&self, args: &[&str]) -> Vec<String> {
        let output = to_the_end(self.command("git")).args(args).assert().success().get_output().clone();
        let parts: Vec<_> = output.stdout.split(|byte| *byte == 0).collect();
        parts.chunks_exact(2).map(|pair| format!("{} {}", pair[0].escape_ascii(), pair[1].escape_ascii())).collect()
    }

    /// What `git status` shows, line by line.
    pub(crate) fn short_status(&self) -> Vec<String> {
        self.git(["status", "--porcelain", "-uall"]).lines().map(str::to_owned).collect()
    }

    /// The content of a file in HEAD.
    pub(crate) fn committed(&self, path: &str) -> String {
        self.git(["cat-file", "blob", &format!("HEAD:{path}")])
    }

    /// Asserts that git and repoguard see nothing of a mutation any more.
    #[track_caller]
    pub(crate) fn assert_no_traces(&self) {
        assert_eq!(traces(&self.path(".git")), [""; 0], "left behind");
        let status = self.status();
        assert_eq!((&status["state"], &status["unfinished"]), (&Value::from("free"), &Value::Null), "{status}");
    }
}

/// What a mutation may not leave in a git directory: locks of git's, and refs of ours.
pub(crate) fn traces(git_dir: &Path) -> Vec<String> {
    let ours = git_dir.join("repoguard");
    let is_trace = |path: &PathBuf| {
        let is_lock = path.extension().is_some_and(|extension| extension == "lock") && !path.starts_with(&ours);
        // Its journal: there only while a mutation runs, or was not finished.
        let is_journal = path.starts_with(&ours) && has_journal(path);
        let is_ref =
            path.starts_with(git_dir.join("refs")) && path.components().any(|part| part.as_os_str() == "repoguard");
        // Git itself leaves this one where it cannot apply its patterns.
        let is_lock = is_lock && !path.ends_with("info/sparse-checkout.lock");
        (is_lock && !path.ends_with("repoguard.lock")) || is_journal || is_ref
    };
    let packed = git_dir.join("packed-refs");
    let is_packed = fs::read(&packed).is_ok_and(|text| text.windows(15).any(|part| part == b"refs/repoguard/"));
    let found = walk(git_dir).into_iter().filter(is_trace).chain(is_packed.then_some(packed));
    found.map(|path| path.to_string_lossy().into_owned()).collect()
}

/// Whether a path is of a mutation's journal; the lock beside it stays.
fn has_journal(path: &Path) -> bool {
    let ours = |part: &std::ffi::OsStr| part.to_string_lossy().starts_with("mutation-");
    path.iter().any(ours) && path.extension().is_none_or(|extension| extension != "lock")
}

/// Who runs a command: the tests' own user, or an ordinary one, whom permissions stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum User {
    Own,
    Ordinary,
}

impl User {
    const ORDINARY: u32 = 61_003;

    /// All that can be tried here: only root can be another.
    pub(crate) fn all() -> &'static [Self] {
        if is_root() { &[Self::Own, Self::Ordinary] } else { &[Self::Own] }
    }

    /// Gives a sandbox to this user.
    pub(crate) fn owns(self, sandbox: &Sandbox) {
        if self == Self::Ordinary {
            sandbox.open_to_all();
            own(sandbox.here(), Self::ORDINARY, Self::ORDINARY);
        }
    }

    /// What setpriv(1) needs to be told to run a command as this user; nothing if it is the tests' own.
    pub(crate) fn as_options(self) -> Option<Vec<String>> {
        let id = Self::ORDINARY;
        let options = || [format!("--reuid={id}"), format!("--regid={id}"), "--clear-groups".to_owned()].to_vec();
        (self == Self::Ordinary).then(options)
    }

    /// Lets a command run as this user.
    pub(crate) fn runs(self, command: &mut Command) {
        if self == Self::Ordinary {
            command.uid(Self::ORDINARY).gid(Self::ORDINARY);
        }
    }
}
