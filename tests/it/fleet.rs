//! The fleet: many processes commit in one clone. Without repoguard most fail; with it every commit lands.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use crate::support::{Sandbox, long, skip, to_the_end};

const PROCESSES: usize = 16;

/// One round of work: `edit`, `git add`, `git commit`, of a file that nobody else touches.
const ROUND: &str = r#"echo "$1" >"$1" && git add "$1" && git commit -q -m "$1""#;

/// A clone of a repository with some history, in a sandbox of its own.
fn clone() -> Sandbox {
    let sandbox = Sandbox::new();
    let fill =
        "mkdir -p src && cd src && for i in $(seq 300); do echo $i >$i; done && git add . && git commit -q -m fill";
    sandbox.sh(fill).assert().success();
    let upstream = sandbox.outside("upstream");
    std::fs::rename(sandbox.here(), &upstream).unwrap();
    let mut git = sandbox.command("git");
    git.args(["clone", "-q"]).arg(&upstream).arg(sandbox.here()).current_dir("/");
    to_the_end(git).assert().success();
    sandbox
}

/// Lets all processes do their rounds at the same time; returns how many rounds failed and what was said.
fn run(sandbox: &Sandbox, rounds: usize, command: impl Fn() -> Command + Sync) -> (usize, String) {
    let work = |process: usize| {
        let mut failed = 0;
        let mut told = String::new();
        for round in 0..rounds {
            let mut step = command();
            step.args(["sh", "-c", ROUND, "sh", &format!("file-{process}-{round}")]);
            let output = step.output().expect("a command that starts");
            failed += usize::from(!output.status.success());
            told.push_str(&String::from_utf8_lossy(&output.stderr));
        }
        (failed, told)
    };
    let results: Vec<(usize, String)> = thread::scope(|scope| {
        let workers: Vec<_> = (0..PROCESSES).map(|process| scope.spawn(move || work(process))).collect();
        workers.into_iter().map(|worker| worker.join().expect("a worker")).collect()
    });
    assert!(sandbox.here().is_dir());
    let failed = results.iter().map(|(failed, _)| failed).sum();
    (failed, results.into_iter().map(|(_, told)| told).collect())
}

/// Asserts that every round landed as one commit with exactly its own file.
fn every_commit_landed(sandbox: &Sandbox, rounds: usize) {
    let log = sandbox.git(["log", "--format=%x00%s", "--name-only", "origin/main..HEAD"]);
    let mut commits: Vec<Vec<&str>> =
        log.split('\0').skip(1).map(|commit| commit.split_whitespace().collect()).collect();
    commits.sort();
    let mut expected: Vec<String> =
        (0..PROCESSES).flat_map(|process| (0..rounds).map(move |round| format!("file-{process}-{round}"))).collect();
    expected.sort();
    let expected: Vec<Vec<&str>> = expected.iter().map(|file| vec![file.as_str(), file]).collect();
    assert_eq!(commits, expected, "subject and files of each commit");
    assert_eq!(sandbox.git(["status", "--porcelain"]), "");
    sandbox.git(["fsck", "--strict", "--no-dangling"]);
}

/// The gits of this machine, each as the directory to put first on `PATH`.
fn gits() -> Vec<PathBuf> {
    let places = ["/usr/local/bin", "/usr/bin"].map(PathBuf::from);
    places.into_iter().filter(|place| place.join("git").is_file()).collect()
}

fn with_git(mut command: Command, git: &Path) -> Command {
    let path = command.get_envs().find(|(key, _)| *key == "PATH").and_then(|(_, value)| value);
    let path = path.expect("a PATH").to_owned();
    let places = std::iter::once(git.to_owned()).chain(std::env::split_paths(&path));
    command.env("PATH", std::env::join_paths(places).unwrap());
    command
}

#[test]
fn without_the_guard_rounds_fail() {
    let sandbox = clone();
    let (failed, told) = run(&sandbox, 5, || sandbox.command("env"));
    assert!(failed > 0, "sixteen processes that never collide show nothing");
    assert!(told.contains("index.lock") || told.contains("cannot lock ref"), "{told}");
}

#[test]
fn under_the_guard_every_commit_lands() {
    let gits = gits();
    if gits.is_empty() {
        return skip("the fleet", "git is not in /usr/local/bin or /usr/bin");
    }
    for (number, git) in gits.iter().enumerate() {
        // The first git works the whole programme; the others show that they can.
        let rounds = if number == 0 || long() { 20 } else { 4 };
        let sandbox = clone();
        let (failed, told) = run(&sandbox, rounds, || with_git(sandbox.repoguard_command(["exec", "--"]), git));
        assert_eq!(failed, 0, "{}: {told}", git.display());
        assert!(!told.contains("outside the guard"), "{told}");
        every_commit_landed(&sandbox, rounds);
    }
}
