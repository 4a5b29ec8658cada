//! Checkouts whose hooks are installed: git commands at a known point of their run, and what they must not leave behind.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::process::{alive, all_in};
use super::{Running, Sandbox, eventually, hook, script};

/// A holder that runs each line that it is sent, and prints `done` after it.
pub(crate) const OBEDIENT: &str = "echo up; while read -r line; do eval \"$line\"; echo done; done";

/// A point in a script where it waits until the test lets it go on.
pub(crate) struct Gate {
    here: PathBuf,
    closed: PathBuf,
}

impl Sandbox {
    /// A repository with one commit and the usual hooks.
    pub(crate) fn guarded() -> Self {
        let sandbox = Self::new();
        sandbox.install_hooks();
        sandbox
    }

    /// Installs the usual hooks.
    pub(crate) fn install_hooks(&self) {
        self.install_hooks_in(self.here());
    }

    /// The same for another repository of the sandbox.
    pub(crate) fn install_hooks_in(&self, place: &Path) {
        self.repoguard(["hooks", "install"]).current_dir(place).assert().success();
    }

    /// Puts a hook of the user's own in place; none of ours may be there.
    pub(crate) fn own_hook(&self, name: &str, body: &str) {
        script(&hook(self, name), body);
    }

    /// `git ARGS`, to be started in the background.
    pub(crate) fn git_command<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Command {
        let mut command = self.command("git");
        command.args(args);
        command
    }

    /// Starts `git ARGS` and returns once its hook stands in the queue.
    pub(crate) fn git_queued(&self, args: &[&str]) -> Running {
        let before = self.waiters();
        let mut git = self.start(self.git_command(args));
        eventually("git's hook is queued", || {
            assert!(git.runs(), "did not wait: {}", git.stderr());
            self.waiters() > before
        });
        git
    }

    /// Makes a file and stages it.
    pub(crate) fn stage(&self, name: &str) {
        fs::write(self.path(name), format!("{name}\n")).unwrap();
        self.git(["add", name]);
    }

    /// A gate, closed.
    pub(crate) fn gate(&self, name: &str) -> Gate {
        let (here, closed) = (self.outside(format!("{name}.here")), self.outside(format!("{name}.closed")));
        fs::write(&closed, "").unwrap();
        Gate { here, closed }
    }

    /// Those who hold something here, as `status` shows them.
    pub(crate) fn holders(&self) -> Vec<Value> {
        self.status()["holders"].as_array().expect("an array `holders`").clone()
    }

    /// The only holder.
    #[track_caller]
    pub(crate) fn holder(&self) -> Value {
        let holders = self.holders();
        assert_eq!(holders.len(), 1, "{holders:?}");
        holders.into_iter().next().expect("one holder")
    }

    /// The process that keeps the lock for git.
    #[track_caller]
    pub(crate) fn watcher(&self) -> u32 {
        let holder = self.holder();
        let pid = holder["keeper"].as_u64().unwrap_or_else(|| panic!("a keeper: {holder}"));
        u32::try_from(pid).expect("a pid")
    }

    /// All processes of this sandbox, wherever they stand.
    pub(crate) fn processes(&self) -> Vec<u32> {
        all_in(self.dir.path()).into_iter().filter(|pid| alive(*pid)).collect()
    }

    /// Asserts that the lock is free, that nobody stands in the queue, and that no process and no file of a hook is left.
    #[track_caller]
    pub(crate) fn assert_nothing_left(&self) {
        assert_eq!(self.try_once(&[]), 0, "{:?}", self.holders());
        assert_eq!(self.tickets(), [""; 0]);
        eventually("no process is left", || self.processes().is_empty());
        assert_eq!(kept_indexes(&self.data()), [""; 0]);
    }

    /// Asserts that the next holder is told nothing of changes outside the guard, and of no dead holder.
    #[track_caller]
    pub(crate) fn assert_nothing_to_tell(&self) {
        self.repoguard(["exec", "--", "true"]).assert().success().stderr("");
    }
}

/// The indexes that hooks keep to compare with.
pub(crate) fn kept_indexes(data: &Path) -> Vec<String> {
    let entries = fs::read_dir(data.join("index")).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

impl Gate {
    /// The shell command that waits here; it prints nothing, and ends when the sandbox does.
    pub(crate) fn script(&self) -> String {
        let (here, closed) = (self.here.display(), self.closed.display());
        format!("echo $$ >>'{here}'; while [ -e '{closed}' ]; do sleep 0.02; done")
    }

    /// Whether somebody came to it.
    pub(crate) fn is_reached(&self) -> bool {
        fs::read_to_string(&self.here).is_ok_and(|text| text.ends_with('\n'))
    }

    /// Waits until somebody is there, while this command runs.
    #[track_caller]
    pub(crate) fn reached_by(&self, running: &mut Running) {
        eventually("the gate is reached", || {
            assert!(self.is_reached() || running.runs(), "ended before: {}", running.stderr());
            self.is_reached()
        });
    }

    /// Lets everybody pass, now and later.
    pub(crate) fn open(&self) {
        fs::remove_file(&self.closed).unwrap();
    }
}

/// `repoguard acquire OPTIONS`, which must be granted; returns the token.
#[track_caller]
pub(crate) fn acquire(sandbox: &Sandbox, options: &[&str]) -> String {
    let output = sandbox.repoguard(["acquire"]).args(options).assert().success().get_output().clone();
    let token = String::from_utf8(output.stdout).expect("UTF-8");
    assert_eq!(token.lines().count(), 1, "{token}");
    token.trim().to_owned()
}
