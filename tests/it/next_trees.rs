//! `repoguard next --scan`: numbers on branches that are not checked out, and in everything else that a reference leads to.

use std::fs;
use std::path::Path;

use crate::support::{Sandbox, can_trace, to_the_end};

/// The number that a new sequence begins with here.
#[track_caller]
fn begins_in(sandbox: &Sandbox, place: &Path) -> u64 {
    let git_dir = sandbox.command("git").current_dir(place).args(["rev-parse", "--git-common-dir"]).output().unwrap();
    let git_dir = String::from_utf8(git_dir.stdout).unwrap();
    fs::remove_dir_all(place.join(git_dir.trim()).join("repoguard")).ok();
    let mut next = sandbox.repoguard(["next", "x", "--scan", "ids/{}-*", "--scan", "deep/**/{}.id"]);
    let output = next.current_dir(place).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}

#[track_caller]
fn begins(sandbox: &Sandbox) -> u64 {
    begins_in(sandbox, sandbox.here())
}

/// Commits a file with this number on top of HEAD, and goes back to where HEAD was.
fn commit(sandbox: &Sandbox, number: u64, then: &str) {
    let commit = format!(
        "set -e; git checkout -q --detach; mkdir -p ids; >ids/{number:04}-x; git add ids; git commit -qm n; {then}; \
        git checkout -q main"
    );
    sandbox.sh(&commit).assert().success();
}

#[test]
fn everything_that_a_reference_leads_to_counts() {
    let sandbox = Sandbox::new();
    assert_eq!(begins(&sandbox), 1);
    let mut number = 10;
    for then in [
        "git branch local",
        "git branch packed; git pack-refs --all",
        "git update-ref refs/remotes/origin/theirs HEAD",
        "git update-ref refs/pull/1/head HEAD",
        "git tag light",
        "git tag -a -m t annotated",
        "git tag -a -m t inner; git tag -a -m t outer inner; git tag -d inner",
        "git tag tree HEAD^{tree}",
        "git symbolic-ref refs/heads/symbolic refs/heads/local; git branch -f local HEAD",
        "git worktree add -q --detach ../detached; git -C ../detached rm -q --cached -r ids; rm -r ../detached/ids",
        "git tag blob $(git hash-object -w file); git branch 'odd-é'",
    ] {
        commit(&sandbox, number, then);
        assert!(!sandbox.path("ids").exists());
        assert_eq!(begins(&sandbox), number + 1, "{then}");
        number += 10;
    }
    sandbox.sh("mkdir ids; >ids/500-s; git add ids; git stash -q").assert().success();
    assert_eq!(begins(&sandbox), 501, "the newest stash");
    assert_eq!(sandbox.git(["status", "--porcelain"]), "");
    commit(&sandbox, 900, ":");
    assert_eq!(begins(&sandbox), 501, "what no reference leads to is not there");
}

#[test]
fn ids_of_two_sessions_on_two_branches_do_not_collide() {
    let sandbox = Sandbox::new();
    sandbox.sh("git clone -q . ../theirs; mkdir docs; git -C ../theirs checkout -q -b theirs").assert().success();
    let next = |place: &str| {
        let mut next = sandbox.repoguard(["next", "adr", "--scan", "docs/{}-*.md", "--format", "{:04}"]);
        String::from_utf8(next.current_dir(sandbox.outside(place)).output().unwrap().stdout).unwrap().trim().to_owned()
    };
    let write = |place: &str, branch: &str| {
        let id = next(place);
        let script = format!(
            "cd ../{place} && git checkout -q {branch} && mkdir -p docs && >docs/{id}-a.md && git add docs && git commit -qm {id}"
        );
        sandbox.sh(&script).assert().success();
        id
    };
    sandbox.git(["branch", "one"]);
    sandbox.git(["branch", "two"]);
    assert_eq!(write("repo", "one"), "0001");
    assert_eq!(write("repo", "two"), "0002", "branch `one` is not checked out");
    // Another clone learns it when it fetches, and not before: it says what it knows.
    assert_eq!(write("theirs", "theirs"), "0001");
    sandbox.sh("cd ../theirs && git fetch -q").assert().success();
    assert_eq!(write("theirs", "theirs"), "0003", "remote-tracking branches count");
    sandbox.sh("git fetch -q ../theirs theirs:refs/remotes/theirs/theirs; git checkout -q main").assert().success();
    assert_eq!(next("repo"), "0004");
}

#[test]
fn only_trees_on_the_way_count_and_each_is_read_once() {
    let sandbox = Sandbox::new();
    let make = "mkdir -p deep/a/b other/ids ids/sub; >deep/a/b/7.id; >other/ids/90-x; >ids/sub/91-x; >deep/8.id.no; \
        git add -A; git commit -qm deep; git rm -rq deep other ids; git commit -qm gone; git branch old HEAD~";
    sandbox.sh(make).assert().success();
    assert_eq!(begins(&sandbox), 8);
    if !can_trace("the number of processes") {
        return;
    }
    let processes = || {
        let log = sandbox.outside("log");
        let mut strace = sandbox.command("strace");
        strace.args(["-f", "-qq", "-e", "trace=execve", "-o"]).arg(&log).arg(crate::support::binary());
        to_the_end({
            strace.args(["next", "y", "--scan", "deep/**/{}.id"]);
            strace
        })
        .assert()
        .success();
        fs::read_to_string(log).unwrap().lines().filter(|line| line.ends_with("= 0")).count()
    };
    let few = processes();
    sandbox
        .sh("for i in $(seq 300); do echo create refs/heads/b/$i HEAD~; done | git update-ref --stdin")
        .assert()
        .success();
    assert_eq!(processes(), few, "as many for 300 branches more");
    assert!(few <= 5, "{few}");
}

#[test]
fn bare_unborn_shallow_and_sha256_repositories_are_looked_into() {
    let sandbox = Sandbox::new();
    commit(&sandbox, 30, "git branch side");
    sandbox.git(["clone", "-q", "--bare", ".", "../bare.git"]);
    // Beside a bare repository are no files of its own.
    fs::create_dir(sandbox.outside("ids")).unwrap();
    fs::write(sandbox.outside("ids/99-x"), "").unwrap();
    assert_eq!(begins_in(&sandbox, &sandbox.outside("bare.git")), 31);
    sandbox.git(["-C", "../bare.git", "worktree", "add", "-q", "../of-bare", "main"]);
    assert_eq!(begins_in(&sandbox, &sandbox.outside("of-bare")), 31);
    let url = format!("file://{}", sandbox.here().display());
    sandbox.git(["clone", "-q", "--depth", "1", "--no-single-branch", &url, "../shallow"]);
    assert_eq!(begins_in(&sandbox, &sandbox.outside("shallow")), 31);
    sandbox.git(["init", "-q", "../unborn"]);
    assert_eq!(begins_in(&sandbox, &sandbox.outside("unborn")), 1);
    let sha256 = "git init -q --object-format=sha256 ../sha256 && cd ../sha256 && mkdir ids && >ids/8-x && git add . && \
        git commit -qm x && git rm -qr ids && git commit -qm y && git branch old HEAD~";
    if sandbox.sh(sha256).output().unwrap().status.success() {
        assert_eq!(begins_in(&sandbox, &sandbox.outside("sha256")), 9);
    }
    sandbox
        .sh("git init -q --separate-git-dir=../apart ../worktree && mkdir ../worktree/ids && >../worktree/ids/6-x")
        .assert()
        .success();
    assert_eq!(begins_in(&sandbox, &sandbox.outside("worktree")), 7);
}

#[test]
fn what_a_partial_clone_leaves_out_is_no_number_less() {
    let sandbox = Sandbox::new();
    commit(&sandbox, 30, "git branch side");
    sandbox.git(["config", "uploadpack.allowFilter", "true"]);
    let url = format!("file://{}", sandbox.here().display());
    sandbox.git(["clone", "-q", "--filter=tree:0", &url, "../partial"]);
    let next = || {
        sandbox.repoguard(["next", "x", "--scan", "ids/{}-*"]).current_dir(sandbox.outside("partial")).output().unwrap()
    };
    let output = next();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() {
        // An old git fetches what is missing.
        return assert_eq!(output.stdout, b"31\n");
    }
    assert_eq!((output.status.code(), output.stdout.len()), (Some(125), 0), "{told}");
    assert!(told.contains("origin/side"), "{told}");
    let hint = told.lines().find_map(|line| line.trim().strip_prefix("hint: `")).expect("a hint");
    let command = hint.split('`').next().expect("a command");
    sandbox.sh(&format!("cd ../partial && {command}")).assert().success();
    assert_eq!(next().stdout, b"31\n", "{told}");
}

#[test]
fn damaged_repository_is_an_error_not_a_repeat() {
    let sandbox = Sandbox::new();
    commit(&sandbox, 30, "git branch side");
    let tree = sandbox.git(["rev-parse", "side:ids"]);
    let (directory, file) = tree.trim().split_at(2);
    let object = sandbox.path(format!(".git/objects/{directory}/{file}"));
    let bytes = fs::read(&object).unwrap();
    for damage in [None, Some(&b""[..]), Some(b"garbage")] {
        fs::remove_file(&object).unwrap();
        if let Some(damage) = damage {
            fs::write(&object, damage).unwrap();
        }
        sandbox.gives_none(&["x", "--scan", "ids/{}-*"], 125);
        if damage.is_none() {
            fs::write(&object, "").unwrap();
        }
    }
    assert_eq!(sandbox.next(&["x"]), ["1"], "nothing was given meanwhile");
    fs::write(&object, bytes).unwrap();
    assert_eq!(begins(&sandbox), 31);
    // A branch that cannot be read may lead to any number; one that leads to a branch that is gone leads to none.
    for damage in ["", "garbage", "1234567890123456789012345678901234567890"] {
        fs::write(sandbox.path(".git/refs/heads/damaged"), damage).unwrap();
        let told = sandbox.gives_none(&["x", "--scan", "ids/{}-*"], 125);
        assert!(told.contains("refs/heads/damaged"), "{told}");
    }
    sandbox.sh("rm .git/refs/heads/damaged; git symbolic-ref refs/heads/dangling refs/heads/gone").assert().success();
    assert_eq!(begins(&sandbox), 31);
    fs::write(sandbox.path(".git/index"), "garbage").unwrap();
    let told = sandbox.gives_none(&["x", "--scan", "ids/{}-*"], 125);
    assert!(told.contains("ls-files") && told.contains("index"), "{told}");
}
