//! Real commits, of this repository's own history, made again by mutations: every tree must come out the same.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::support::{Sandbox, long, skip};

/// How many commits, the newest first.
const COMMITS: usize = 100;

/// How many at once.
const MANY: usize = 8;

/// How a change is made; `$1` is the commit, and HEAD is what it stands on.
const WAYS: [&str; 3] = [
    "git diff --binary --full-index HEAD $1 | git apply",
    "git diff --binary --full-index HEAD $1 | git apply --index",
    "git rm -rqf --ignore-unmatch . && git --literal-pathspecs checkout -q $1 -- .",
];

/// A clone of this repository, and its commits with one parent; none without a history.
fn history(what: &str) -> Option<(Sandbox, PathBuf, Vec<String>)> {
    let sandbox = Sandbox::new();
    let clone = sandbox.outside("clone");
    let mut git = sandbox.command("git");
    git.args(["-c", "safe.directory=*", "clone", "-q", "--no-local", env!("CARGO_MANIFEST_DIR")]).arg(&clone);
    let cloned = git.output().is_ok_and(|output| output.status.success());
    let most = if long() { 10 * COMMITS } else { COMMITS };
    let list = format!("git rev-list --min-parents=1 --max-parents=1 -n {most} HEAD");
    let listed = sandbox.sh_command(&list).current_dir(if cloned { &clone } else { Path::new("/") }).output().unwrap();
    let commits: Vec<String> = String::from_utf8_lossy(&listed.stdout).lines().map(str::to_owned).collect();
    if commits.len() < COMMITS {
        skip(what, "this is no checkout with a history");
        return None;
    }
    Some((sandbox, clone, commits))
}

/// Makes a commit again in a worktree, by a mutation; says what is wrong.
fn again(sandbox: &Sandbox, worktree: &Path, commit: &str, way: &str) -> Result<(), String> {
    let run = |mut command: Command| {
        let output = command.current_dir(worktree).output().unwrap();
        let told = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        if output.status.success() { Ok(told) } else { Err(format!("{commit}, {way}: {command:?}: {told}")) }
    };
    let git = |arguments: &[&str]| {
        let mut git = sandbox.command("git");
        git.args(arguments);
        run(git)
    };
    git(&["checkout", "-q", "--detach", &format!("{commit}^")])?;
    let mut mutate =
        sandbox.repoguard_command(["mutate", "-q", "--allow-empty", "-m", "again", "--", "sh", "-c", way, "sh"]);
    mutate.arg(commit);
    run(mutate)?;
    let (made, is) = (git(&["rev-parse", "HEAD^{tree}"])?, git(&["rev-parse", &format!("{commit}^{{tree}}")])?);
    let left = git(&["status", "--porcelain"])?;
    if made == is && left.is_empty() { Ok(()) } else { Err(format!("{commit}, {way}: {made} is not {is}; {left}")) }
}

#[test]
fn commits_made_again_by_mutations_have_the_same_trees() {
    let Some((sandbox, clone, commits)) = history("commits made again") else { return };
    let ways = WAYS.iter().cycle();
    let wrong: Vec<String> =
        commits.iter().zip(ways).filter_map(|(commit, way)| again(&sandbox, &clone, commit, way).err()).collect();
    assert!(wrong.is_empty(), "{} were wrong: {}", wrong.len(), wrong.join("\n---\n"));
}

#[test]
fn commits_made_again_by_many_mutations_at_once_have_the_same_trees() {
    let Some((sandbox, clone, commits)) = history("commits made again at once") else { return };
    let worktrees: Vec<PathBuf> = (0..MANY).map(|number| sandbox.outside(format!("worktree-{number}"))).collect();
    for worktree in &worktrees {
        let mut git = sandbox.command("git");
        git.args(["worktree", "add", "-q", "--detach"]).arg(worktree).current_dir(&clone);
        assert!(git.status().unwrap().success());
    }
    let next = AtomicUsize::new(0);
    let work = |worktree: &Path| {
        let mut wrong = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(commit) = commits.get(number) else { return wrong };
            wrong.extend(again(&sandbox, worktree, commit, WAYS[number % WAYS.len()]).err());
        }
    };
    let wrong: Vec<String> = thread::scope(|scope| {
        let workers: Vec<_> = worktrees.iter().map(|worktree| scope.spawn(|| work(worktree))).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("no panic")).collect()
    });
    assert!(wrong.is_empty(), "{} were wrong: {}", wrong.len(), wrong.join("\n---\n"));
}
