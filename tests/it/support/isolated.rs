//! Commands that find the checkout busy and get a worktree of their own: starting them, and what they leave behind.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::{Sandbox, binary, to_the_end};

/// How such a command went.
#[derive(Debug)]
pub(crate) struct Went {
    pub(crate) status: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    /// The result file.
    pub(crate) result: Value,
}

impl Went {
    /// What is told of the worktree; null where it ran in the checkout.
    pub(crate) fn worktree(&self) -> &Value {
        &self.result["worktree"]
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.worktree()["path"].as_str().unwrap_or_else(|| panic!("no worktree: {self:?}")).into()
    }

    pub(crate) fn branch(&self) -> &str {
        self.worktree()["branch"].as_str().unwrap_or_else(|| panic!("no worktree: {self:?}"))
    }

    /// Asserts that it ran in a worktree which is there no more.
    #[track_caller]
    pub(crate) fn was_removed(&self) {
        assert_eq!(self.worktree()["removed"], true, "{self:?}");
        assert!(!self.path().exists(), "{self:?}");
    }

    /// Asserts that it ran in a worktree which is kept; what is in it.
    #[track_caller]
    pub(crate) fn was_kept(&self) -> &Value {
        assert_eq!(self.worktree()["removed"], false, "{self:?}");
        assert!(self.path().join(".git").is_file(), "{self:?}");
        assert!(self.stderr.contains("kept:"), "{self:?}");
        &self.worktree()["holds"]
    }
}

impl Sandbox {
    /// `repoguard exec --on-busy worktree OPTIONS -- sh -c SCRIPT`.
    pub(crate) fn isolated_command(&self, options: &[&str], script: &str) -> Command {
        let mut command = self.repoguard_command(["exec", "--on-busy", "worktree"]);
        command.args(options).args(["--", "sh", "-c", script]);
        command
    }

    /// Runs it to its end.
    #[track_caller]
    pub(crate) fn isolated(&self, options: &[&str], script: &str) -> Went {
        self.went(&self.isolated_command(options, script))
    }

    /// Runs such a command to its end; the result file goes before the other options.
    #[track_caller]
    pub(crate) fn went(&self, command: &Command) -> Went {
        let file = self.outside("result.json");
        fs::remove_file(&file).ok();
        let mut words = command.get_args();
        let mut with_file = Command::new(command.get_program());
        with_file.args(words.by_ref().take(1)).arg("--result-file").arg(&file).args(words).env_clear();
        for (name, value) in command.get_envs() {
            if let Some(value) = value {
                with_file.env(name, value);
            }
        }
        with_file.current_dir(command.get_current_dir().unwrap_or(self.here()));
        let output = to_the_end(with_file).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        assert!(!stderr.contains("panicked"), "{stderr}");
        let result = fs::read(&file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        Went { status: output.status.code(), stdout, stderr, result }
    }

    /// Where worktrees are made.
    pub(crate) fn worktrees_dir(&self) -> PathBuf {
        let mut name = self.here().file_name().expect("a name").to_owned();
        name.push(".worktrees");
        self.here().with_file_name(name)
    }

    /// All branches but `main`.
    pub(crate) fn branches(&self) -> Vec<String> {
        let list = self.git(["for-each-ref", "--format=%(refname:short)", "refs/heads"]);
        list.lines().filter(|branch| *branch != "main").map(str::to_owned).collect()
    }

    /// What `repoguard worktrees --json` lists.
    #[track_caller]
    pub(crate) fn listed(&self) -> Vec<Value> {
        let output = self.repoguard(["worktrees", "--json"]).assert().success().get_output().clone();
        let document: Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
        document["worktrees"].as_array().expect("an array `worktrees`").clone()
    }

    /// Runs `repoguard worktrees prune`, and returns what it says.
    #[track_caller]
    pub(crate) fn prune(&self) -> String {
        let output = self.repoguard(["worktrees", "prune"]).assert().success().get_output().clone();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Asserts that no worktree, no branch and no record of one is left.
    #[track_caller]
    pub(crate) fn assert_no_worktree_left(&self) {
        let files = |place: &Path| -> Vec<OsString> {
            let entries = fs::read_dir(place).into_iter().flatten();
            entries.map(|entry| entry.unwrap().file_name()).filter(|name| name != "making").collect()
        };
        assert_eq!(self.branches(), [""; 0]);
        assert_eq!(self.listed(), [] as [Value; 0]);
        assert_eq!(files(&self.worktrees_dir()), [""; 0]);
        assert!(!self.worktrees_dir().exists(), "the directory of worktrees is left");
        assert_eq!(files(&self.data().join("worktrees")), [""; 0]);
        let list = self.git(["worktree", "list", "--porcelain"]);
        assert_eq!(list.lines().filter(|line| line.starts_with("worktree ")).count(), 1, "{list}");
    }

    /// A `PATH` whose git runs these lines of a shell first; `real` in them is the git that it stands for.
    pub(crate) fn git_that(&self, lines: &str) -> OsString {
        let directory = self.outside("git-that");
        fs::create_dir_all(&directory).unwrap();
        let file = directory.join("git");
        let text = format!(
            "#!/bin/sh\nreal() {{ PATH=${{PATH#*:}} command git \"$@\"; }}\n{lines}\nPATH=${{PATH#*:}} exec git \"$@\"\n"
        );
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let first = [directory, binary().parent().expect("a directory").to_owned()];
        std::env::join_paths(first.into_iter().chain(std::env::split_paths(&path).filter(|place| place.is_dir())))
            .unwrap()
    }
}
