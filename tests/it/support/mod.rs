//! What every test needs: a hermetic sandbox with a repository, and commands that run in it.
//!
//! Nothing of the caller's environment but `PATH` reaches a child, git reads no configuration but the repository's, and
//! whatever still runs in a sandbox when it is dropped is killed.

mod alone;
mod crash;
mod dice;
mod frozen;
mod guarded;
mod hooks;
mod image;
mod isolated;
mod kept;
mod killed;
mod mount;
mod mutate;
mod numbers;
mod process;
pub(crate) mod random;
mod running;
mod state;
mod terminal;
mod tree;
mod wait;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

pub(crate) use alone::{Belongings, alone, alone_command};
pub(crate) use crash::{
    Layout, Side, Traced, Workload, can_trace, chosen, failing_removal, removals, tampered, writing_calls,
};
pub(crate) use dice::Dice;
pub(crate) use frozen::Frozen;
pub(crate) use guarded::{Gate, OBEDIENT, acquire, kept_indexes};
pub(crate) use hooks::{
    USUAL_HOOKS, assert_all, contents, hook, hooks, hooks_command, hooks_in, pretend, script, states, states_in,
    survey, without_samples,
};
pub(crate) use image::Image;
pub(crate) use isolated::Went;
pub(crate) use killed::{At, WORK, same_but_for_ours};
pub(crate) use mount::Mount;
pub(crate) use mutate::{User, traces};
pub(crate) use process::{
    alive, all_in, kill, kill_group, parent_of, process_group, runs_our_program, state_of, zombies_below,
};
pub(crate) use running::Running;
pub(crate) use state::RepoState;
pub(crate) use terminal::Terminal;
pub(crate) use tree::{find, listing, own, walk};
pub(crate) use wait::{eventually, has_program, is_root, long, python, shell_status, skip, until};

/// What a holder runs: it tells its pid, and ends when its standard input does.
pub(crate) const HOLD: &str = "echo $$; read _ || :";

/// A temporary directory with a Git repository in it.
pub(crate) struct Sandbox {
    dir: TempDir,
    here: PathBuf,
}

impl Sandbox {
    /// A repository with one commit.
    pub(crate) fn new() -> Self {
        let sandbox = Self::empty();
        sandbox.git(["init", "-q", "-b", "main"]);
        fs::write(sandbox.here.join("file"), "first\n").unwrap();
        sandbox.git(["add", "file"]);
        sandbox.git(["commit", "-q", "-m", "first"]);
        sandbox
    }

    /// A directory that is in no repository.
    pub(crate) fn empty() -> Self {
        Self::named(OsStr::new("repo"))
    }

    /// As `empty`, the directory having this name.
    pub(crate) fn named(name: &OsStr) -> Self {
        static USUAL: std::sync::Once = std::sync::Once::new();
        USUAL.call_once(wait::usual_signals);
        let dir = tempfile::Builder::new().prefix("rg-").tempdir().unwrap();
        let here = dir.path().canonicalize().unwrap().join(name);
        fs::create_dir_all(&here).unwrap();
        fs::create_dir_all(dir.path().join("home")).unwrap();
        Self { dir, here }
    }

    /// A linked worktree of the repository, on a branch of its own.
    pub(crate) fn worktree(&self, name: &str) -> PathBuf {
        let path = self.outside(name);
        self.git([OsStr::new("worktree"), "add".as_ref(), "-q".as_ref(), path.as_ref()]);
        path
    }

    /// The top of the checkout: where commands run.
    pub(crate) fn here(&self) -> &Path {
        &self.here
    }

    /// A path in the checkout.
    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.here.join(name)
    }

    /// A path in the sandbox that is not in the checkout.
    pub(crate) fn outside(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(name)
    }

    pub(crate) fn lock_file(&self) -> PathBuf {
        self.path(".git/repoguard.lock")
    }

    /// The directory of all that repoguard keeps beside the lock.
    pub(crate) fn data(&self) -> PathBuf {
        self.path(".git/repoguard")
    }

    /// Any program, run in the checkout, knowing nothing of who runs the tests.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.here).env_clear().envs(self.environment());
        command
    }

    fn environment(&self) -> Vec<(&'static str, OsString)> {
        let date = "2026-01-02T03:04:05Z";
        vec![
            ("PATH", path_with_repoguard()),
            ("HOME", self.outside("home").into()),
            ("SHELL", "/bin/sh".into()),
            ("SANDBOX", self.dir.path().into()),
            ("LC_ALL", "C".into()),
            ("TZ", "UTC".into()),
            ("GIT_CONFIG_GLOBAL", "/dev/null".into()),
            ("GIT_CONFIG_SYSTEM", "/dev/null".into()),
            ("GIT_AUTHOR_NAME", "Author".into()),
            ("GIT_AUTHOR_EMAIL", "author@example.org".into()),
            ("GIT_AUTHOR_DATE", date.into()),
            ("GIT_COMMITTER_NAME", "Committer".into()),
            ("GIT_COMMITTER_EMAIL", "committer@example.org".into()),
            ("GIT_COMMITTER_DATE", date.into()),
        ]
    }

    /// `repoguard ARGS`, to be started in the background.
    pub(crate) fn repoguard_command<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Command {
        let mut command = self.command(binary());
        command.args(args);
        command
    }

    /// `repoguard ARGS`, to be run to its end: a hang is a failure.
    pub(crate) fn repoguard<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> assert_cmd::Command {
        to_the_end(self.repoguard_command(args))
    }

    /// `sh -c SCRIPT` in the checkout, to be started in the background.
    pub(crate) fn sh_command(&self, script: &str) -> Command {
        let mut command = self.command("sh");
        command.args(["-c", script]);
        command
    }

    /// `sh -c SCRIPT` in the checkout, to be run to its end.
    pub(crate) fn sh(&self, script: &str) -> assert_cmd::Command {
        to_the_end(self.sh_command(script))
    }

    /// Runs git, which must succeed; returns what it printed.
    pub(crate) fn git<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> String {
        let mut command = self.command("git");
        command.args(args);
        let output = to_the_end(command).assert().success().get_output().clone();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The status of `repoguard exec --no-wait OPTIONS -- true`: 0 where the lock is free, 75 where it is not.
    pub(crate) fn try_once(&self, options: &[&str]) -> i32 {
        self.try_once_in(&self.here, options)
    }

    pub(crate) fn try_once_in(&self, place: &Path, options: &[&str]) -> i32 {
        let mut command = self.repoguard(["exec", "--no-wait"]);
        let output = command.args(options).args(["--", "true"]).current_dir(place).output().unwrap();
        output.status.code().expect("an exit status")
    }

    /// Asserts that `repoguard exec OPTIONS` ends with this status, says why, and runs nothing; returns what it says.
    #[track_caller]
    pub(crate) fn refused(&self, options: &[&str], status: i32) -> String {
        let mut command = self.repoguard(["exec"]);
        command.args(options).arg("--").arg("touch").arg(self.outside("ran"));
        self.assert_refused(command, status)
    }

    /// The same for a command that would make the file `ran` outside of the checkout.
    #[track_caller]
    pub(crate) fn assert_refused(&self, mut command: assert_cmd::Command, status: i32) -> String {
        let output = command.assert().code(status).stdout("").get_output().clone();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!self.outside("ran").exists(), "the command ran all the same: {told}");
        assert!(!told.trim().is_empty(), "refused without a word");
        assert!(!told.contains("panicked"), "{told}");
        told
    }

    /// Lets other users come into the sandbox.
    pub(crate) fn open_to_all(&self) {
        for dir in [self.dir.path(), self.here()] {
            fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).unwrap();
        }
    }

    /// The document of `repoguard status --json`.
    pub(crate) fn status(&self) -> Value {
        let output = self.repoguard(["status", "--json"]).assert().success().get_output().clone();
        serde_json::from_slice(&output.stdout).expect("one JSON document")
    }

    /// How many wait for something in this repository.
    pub(crate) fn waiters(&self) -> usize {
        self.status()["waiters"].as_array().expect("an array `waiters`").len()
    }

    /// The records of `repoguard log --json`, oldest first.
    pub(crate) fn log(&self) -> Vec<Value> {
        let output = self.repoguard(["log", "--json"]).assert().success().get_output().clone();
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        text.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect()
    }

    /// What stands in the queue beside its counter: tickets and what belongs to them.
    pub(crate) fn tickets(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.data().join("queue")) else { return Vec::new() };
        let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
        names.filter(|name| name != "alloc").collect()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        process::kill_all_in(self.dir.path());
        tree::make_removable(self.dir.path());
    }
}

/// The lines of a file that commands wrote to; none when it is not there.
pub(crate) fn lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// The program under test.
pub(crate) fn binary() -> &'static Path {
    assert_cmd::cargo::cargo_bin!("repoguard")
}

/// Copies the program under test. Not by this process: a child that another test makes meanwhile would inherit the file open
/// for writing, and the copy could not be run ("text file busy").
pub(crate) fn copy_of_program(to: &Path) {
    let status = Command::new("cp").arg(binary()).arg(to).status().unwrap();
    assert!(status.success());
}

/// `PATH` with the program under test first, so that scripts find it as `repoguard`; without what is not there.
fn path_with_repoguard() -> OsString {
    let old = std::env::var_os("PATH").unwrap_or_default();
    let first = binary().parent().expect("a directory").to_owned();
    let usable = std::env::split_paths(&old).filter(|place| place.is_dir());
    std::env::join_paths(std::iter::once(first).chain(usable)).unwrap()
}

/// Gives a command the limit that turns a hang into a failure.
pub(crate) fn to_the_end(command: Command) -> assert_cmd::Command {
    let mut command = assert_cmd::Command::from_std(command);
    command.timeout(Duration::from_secs(60));
    command
}
