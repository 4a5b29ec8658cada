//! A test in a process of its own: where threads, children and descriptors are counted, or the process is forked.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use repoguard::{Lock, Repo, Request};

use super::{Sandbox, eventually, to_the_end};

/// Names the test that runs in this process alone.
const ALONE: &str = "REPOGUARD_TEST_ALONE";

/// Runs the body of the test with this name (`room::test`) in a process of its own, which must succeed.
#[track_caller]
pub(crate) fn alone(name: &str, body: impl FnOnce()) {
    if std::env::var_os(ALONE).is_some_and(|test| test == name) {
        return body();
    }
    let mut command = alone_command(name);
    let home = tempfile::tempdir().unwrap();
    command.env("HOME", home.path());
    let mut command = assert_cmd::Command::from_std(command);
    let output = command.timeout(Duration::from_secs(120)).output().unwrap();
    let told = [output.stdout.as_slice(), &output.stderr].concat();
    let told = String::from_utf8_lossy(&told);
    assert!(output.status.success(), "{name} alone: {}\n{told}", output.status);
    assert!(told.contains("1 passed"), "there is no test `{name}`: {told}");
}

/// What runs it: for who starts it below something else.
pub(crate) fn alone_command(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture", "--test-threads=1"]).env_clear();
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env(ALONE, name);
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null");
    if let Some(long) = std::env::var_os("REPOGUARD_LONG") {
        command.env("REPOGUARD_LONG", long);
    }
    command
}

/// What a process has beside its memory.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Belongings {
    pub(crate) threads: usize,
    pub(crate) children: Vec<String>,
    pub(crate) descriptors: Vec<PathBuf>,
}

impl Belongings {
    /// What there is once it does not change any more: a thread that has just been joined may be seen for a moment.
    pub(crate) fn settled() -> Self {
        let mut last = Self::now();
        loop {
            std::thread::sleep(std::time::Duration::from_millis(30));
            let now = Self::now();
            if now == last {
                return now;
            }
            last = now;
        }
    }

    /// Those of this process now.
    pub(crate) fn now() -> Self {
        let tasks: Vec<PathBuf> = fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path()).collect();
        let children = |task: &PathBuf| fs::read_to_string(task.join("children")).unwrap_or_default();
        let children: String = tasks.iter().map(children).collect();
        let own = Path::new("/proc/self/fd");
        let targets = fs::read_dir(own).unwrap().filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
        // The one that lists them is not there any more.
        let mut descriptors: Vec<PathBuf> = targets.filter(|target| !target.ends_with("fd")).collect();
        descriptors.sort();
        let children = children.split_whitespace().map(str::to_owned).collect();
        Self { threads: tasks.len(), children, descriptors }
    }
}

impl Sandbox {
    /// The lock of the checkout's worktree, as the library has it.
    pub(crate) fn lock(&self) -> Lock {
        self.lock_for(Request::default())
    }

    /// The lock that a request describes.
    pub(crate) fn lock_for(&self, request: Request) -> Lock {
        Repo::discover(self.here()).unwrap().lock(request).unwrap()
    }

    /// `repoguard ARGS` in the checkout, in the background, by a process that is nobody's descendant: what a child of a holder asks
    /// for is granted.
    pub(crate) fn outsider_command(&self, script: &str, args: &[&str]) -> Command {
        let mut command = self.command("setsid");
        // Only when the one that made it has gone.
        let orphan = format!("while grep -qsx setsid /proc/$PPID/comm; do sleep 0.01; done; {script}");
        command.args(["-f", "sh", "-c", &orphan, "sh"]).args(args);
        command
    }

    /// Starts it.
    #[track_caller]
    pub(crate) fn start_outsider(&self, args: &[&str]) {
        // Not to the end of its output, which it keeps open.
        assert!(self.outsider_command(r#"exec repoguard "$@""#, args).status().unwrap().success());
    }

    /// Its status.
    #[track_caller]
    pub(crate) fn outsider(&self, args: &[&str]) -> i32 {
        let answer = self.outside("answer");
        let script = r#"repoguard "$@" >/dev/null 2>&1; echo $? >"$ANSWER.new"; mv "$ANSWER.new" "$ANSWER""#;
        let mut command = self.outsider_command(script, args);
        assert!(command.env("ANSWER", &answer).status().unwrap().success());
        eventually("the outsider is done", || answer.exists());
        let status = fs::read_to_string(&answer).unwrap();
        fs::remove_file(&answer).unwrap();
        status.trim().parse().expect("a status")
    }

    /// The status of `exec --no-wait OPTIONS -- true`, run by such a process: 0 where the lock is free, 75 where it is not.
    #[track_caller]
    pub(crate) fn outsider_tries(&self, options: &[&str]) -> i32 {
        self.outsider(&[&["exec", "-q", "--no-wait"], options, &["--", "true"]].concat())
    }

    /// Whether `flock -n` gets a file.
    pub(crate) fn flock_gets(&self, file: impl AsRef<OsStr>) -> bool {
        let mut command = self.command("flock");
        command.arg("-n").arg(file).arg("true");
        to_the_end(command).output().unwrap().status.success()
    }
}
