//! Inside a hold, git's hooks know that the lock is theirs already; and what ran before ours runs after it, as it did.

use std::fs;

use crate::support::{OBEDIENT, Sandbox, eventually, has_program, hook, lines, script, skip};

const COMMIT: &str = "git commit -q -m x";

/// A guarded repository with something staged. Git is the one of `PATH`, not a name that `env -i` would forget.
fn staged() -> Sandbox {
    let sandbox = Sandbox::guarded();
    sandbox.stage("new");
    sandbox.sh("git config user.name a; git config user.email b").assert().success();
    sandbox
}

/// Runs a script in which git commits inside a hold; a hook that waits, or asks for more, fails it.
#[track_caller]
fn commits_inside(sandbox: &Sandbox, script: &str) {
    let before = sandbox.git(["rev-parse", "HEAD"]);
    fs::write(sandbox.path("new"), &before).unwrap();
    sandbox.git(["add", "new"]);
    let output = sandbox.sh(script).env("REPOGUARD_HOOK_TIMEOUT", "0").output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{script}: {told}");
    assert_eq!(sandbox.git(["log", "-1", "--format=%s %P"]), format!("x {before}"), "{script}: {told}");
    assert!(!told.contains("repoguard"), "{script}: {told}");
    sandbox.assert_nothing_left();
    sandbox.assert_nothing_to_tell();
}

#[test]
fn commit_below_exec_goes_on() {
    let sandbox = staged();
    for options in ["", "-s", "--scope repo", "--scope worktree --name x", "--max-hold 60s"] {
        commits_inside(&sandbox, &format!("repoguard exec {options} -- {COMMIT}"));
        commits_inside(&sandbox, &format!("repoguard exec {options} -- env -i \"PATH=$PATH\" {COMMIT}"));
        commits_inside(&sandbox, &format!("repoguard exec {options} -- sh -c '{COMMIT} -a; git log -1 >/dev/null'"));
    }
    commits_inside(&sandbox, &format!("repoguard exec -- repoguard exec -s -- {COMMIT}"));
}

#[test]
fn commit_below_flock_goes_on() {
    if !has_program("flock") {
        return skip("commit below flock(1)", "no flock(1)");
    }
    let sandbox = staged();
    for options in ["", "-s", "-o", "-s -o"] {
        for lock in [".git/repoguard.lock", ".git"] {
            commits_inside(&sandbox, &format!("touch {lock}; flock {options} {lock} {COMMIT}"));
            commits_inside(&sandbox, &format!("touch {lock}; flock {options} {lock} env -i \"PATH=$PATH\" {COMMIT}"));
        }
    }
}

#[test]
fn commit_with_the_token_goes_on_although_nothing_else_says_so() {
    if !has_program("setsid") {
        return skip("commit by token", "no setsid(1)");
    }
    let sandbox = staged();
    let holder = sandbox.hold_with(&[], "echo $REPOGUARD_TOKEN; read _");
    let mut git = sandbox.git_command(["commit", "-q", "-m", "x"]);
    git.env("REPOGUARD_TOKEN", holder.first_line()).env("REPOGUARD_HOOK_TIMEOUT", "0");
    let mut git = sandbox.start(git);
    assert!(git.ended().success(), "{}", git.stderr());
    assert_eq!(sandbox.try_once(&[]), 75, "and the end of git does not end the hold");
}

#[test]
fn commit_inside_a_named_hold_takes_the_worktree_in_addition() {
    let sandbox = staged();
    let gate = sandbox.gate("gate");
    sandbox.own_hook("commit-msg", &gate.script());
    let mut exec = sandbox.repoguard_command(["exec", "--name", "x", "--"]);
    exec.args(["git", "commit", "-q", "-m", "x"]);
    let mut exec = sandbox.start(exec);
    gate.reached_by(&mut exec);
    let holders: Vec<_> = sandbox.holders();
    let scopes: Vec<_> = holders.iter().map(|holder| holder["scope"].as_str().unwrap_or_default()).collect();
    assert!(scopes.contains(&"worktree"), "{scopes:?}");
    let inner = holders.iter().find(|holder| holder["scope"] == "worktree").unwrap();
    assert_eq!(inner["inside"].as_array().map(Vec::len), Some(1), "{inner}");
    assert_eq!(sandbox.try_once(&[]), 75);
    assert_eq!(sandbox.try_once(&["--name", "x"]), 75);
    gate.open();
    assert!(exec.ended().success(), "{}", exec.stderr());
    assert_eq!(sandbox.try_once(&["--name", "x"]), 0);
    sandbox.assert_nothing_left();
}

#[test]
fn commit_under_a_shared_hold_of_somebody_else_waits() {
    let sandbox = staged();
    let mut holder = sandbox.hold(&["-s"]);
    let mut git = sandbox.git_queued(&["commit", "-q", "-m", "x"]);
    assert!(git.runs());
    holder.finish();
    assert!(git.ended().success(), "{}", git.stderr());
}

#[test]
fn exec_in_a_chained_hook_is_inside() {
    let sandbox = Sandbox::new();
    sandbox.own_hook("pre-commit", "repoguard exec -n -- repoguard exec -n -- true");
    sandbox.install_hooks();
    sandbox.stage("new");
    let mut git = sandbox.start(sandbox.git_command(["commit", "-q", "-m", "x"]));
    assert!(git.ended().success(), "{}", git.stderr());
    sandbox.assert_nothing_left();
}

/// What a chained hook sees, for the test to read.
const WITNESS: &str = "echo $PPID >\"$SANDBOX/ppid\"; printf '<%s>\\n' \"$@\" >\"$SANDBOX/args\"; \
    [ \"$0\" = \"${0%/*}/prepare-commit-msg.repoguard-chained\" ] || echo \"$0\" >\"$SANDBOX/name\"";

#[test]
fn chained_hook_is_called_as_git_called_ours() {
    let sandbox = Sandbox::new();
    sandbox.own_hook("prepare-commit-msg", WITNESS);
    sandbox.install_hooks();
    sandbox.stage("new");
    let mut git = sandbox.start(sandbox.git_command(["commit", "-q", "-m", "x"]));
    assert!(git.ended().success(), "{}", git.stderr());
    assert_eq!(lines(&sandbox.outside("ppid")), [git.pid().to_string()], "its parent is git");
    assert_eq!(lines(&sandbox.outside("args")), ["<.git/COMMIT_EDITMSG>", "<message>"]);
}

#[test]
fn status_of_a_chained_hook_is_passed_on() {
    // As with the hook alone: gits differ.
    let alone = Sandbox::new();
    alone.git(["commit", "-q", "--allow-empty", "-m", "second"]);
    alone.own_hook("pre-rebase", "exit 7");
    let mut rebase = alone.start(alone.git_command(["rebase", "-q", "-f", "HEAD~1"]));
    let refused_rebase = rebase.ended().code().expect("an exit status");
    for (event, args, status) in [
        ("pre-commit", &["commit", "-q", "-m", "x"][..], 1),
        ("prepare-commit-msg", &["commit", "-q", "-m", "x"], 1),
        ("pre-rebase", &["rebase", "-q", "-f", "HEAD~1"], refused_rebase),
        ("post-checkout", &["checkout", "-q", "-b", "other"], 1),
    ] {
        let sandbox = Sandbox::new();
        sandbox.git(["commit", "-q", "--allow-empty", "-m", "second"]);
        sandbox.own_hook(event, "echo 'no, thanks' >&2; exit 7");
        sandbox.install_hooks();
        if event != "pre-rebase" {
            sandbox.stage("new");
        }
        let mut git = sandbox.start(sandbox.git_command(args));
        assert_eq!(git.ended().code(), Some(status), "{event}: {}", git.stderr());
        assert!(git.stderr().contains("no, thanks"), "{event}: {}", git.stderr());
        sandbox.assert_nothing_left();
    }
}

#[test]
fn zero_in_the_environment_skips_the_guard_and_runs_the_chained_hook() {
    let sandbox = Sandbox::new();
    sandbox.own_hook("pre-commit", "echo ran >>\"$SANDBOX/ran-here\"");
    sandbox.own_hook("post-checkout", "echo ran >>\"$SANDBOX/ran-here\"");
    sandbox.install_hooks();
    sandbox.stage("new");
    let holder = sandbox.hold(&[]);
    for args in [&["commit", "-q", "-m", "x"][..], &["checkout", "-q", "-b", "other"]] {
        let mut git = sandbox.git_command(args);
        git.env("REPOGUARD", "0");
        let mut git = sandbox.start(git);
        assert!(git.ended().success(), "{}", git.stderr());
        assert_eq!(git.stderr(), "");
    }
    assert_eq!(lines(&sandbox.outside("ran-here")), ["ran", "ran"]);
    assert_eq!(sandbox.holder()["pid"], holder.pid());
    assert_eq!(sandbox.tickets(), [""; 0]);
}

#[test]
fn chained_hook_that_waits_for_all_its_children_does_not_wait_for_us() {
    if !has_program("perl") {
        return skip("hook that waits for its children", "no perl");
    }
    let sandbox = Sandbox::new();
    let path = hook(&sandbox, "pre-commit");
    script(&path, "");
    fs::write(&path, "#!/usr/bin/env perl\nif (!fork) { exit 0 }\n1 while wait() != -1;\n").unwrap();
    sandbox.install_hooks();
    sandbox.stage("new");
    let mut git = sandbox.start(sandbox.git_command(["commit", "-q", "-m", "x"]));
    assert!(git.ended().success(), "{}", git.stderr());
    sandbox.assert_nothing_left();
}

#[test]
fn standard_input_of_a_chained_hook_is_whole() {
    for held in [false, true] {
        let sandbox = Sandbox::new();
        sandbox.own_hook("reference-transaction", "[ \"$1\" != prepared ] || cat >>\"$SANDBOX/seen\"");
        sandbox.repoguard(["hooks", "install", "--strict"]).assert().success();
        // More than a pipe holds; and as the branch checked out is among them, the guard cannot refuse it.
        let make = "git config receive.denyCurrentBranch ignore && git clone -q . ../clone && cd ../clone && \
            git commit -q --allow-empty -m next && id=$(git rev-parse HEAD) && \
            for i in $(seq 800); do echo \"create refs/tags/tag-$i $id\"; done | git update-ref --stdin";
        sandbox.sh(make).assert().success();
        let _holder = held.then(|| sandbox.hold(&[]));
        let push = "git -C ../clone push -q --atomic origin main --tags";
        let told = sandbox.sh(push).assert().success().get_output().clone();
        assert_eq!(String::from_utf8_lossy(&told.stderr).contains("did not wait"), held);
        let seen = lines(&sandbox.outside("seen"));
        assert_eq!(seen.iter().filter(|line| line.contains(" refs/tags/tag-")).count(), 800, "held: {held}");
        assert_eq!(seen.iter().filter(|line| line.ends_with(" refs/heads/main")).count(), 1, "held: {held}");
    }
}

#[test]
fn commit_that_would_close_a_cycle_of_waiters_is_refused_at_once() {
    let sandbox = staged();
    let mut named = sandbox.hold_with(&["--name", "x"], OBEDIENT);
    let mut other = sandbox.hold_with(&[], OBEDIENT);
    other.send("repoguard exec --name x -- true");
    eventually("the one waits for the other", || sandbox.waiters() == 1);
    named.send("git commit -q -m x; echo \"status $?\"");
    eventually("the commit has ended", || named.stdout().contains("done"));
    assert!(named.stdout().contains("status 1"), "{}", named.stdout());
    assert!(named.stderr().contains("deadlock"), "{}", named.stderr());
    named.finish();
    assert!(other.finish().success(), "{}", other.stderr());
    sandbox.assert_nothing_left();
    sandbox.git(["commit", "-q", "-m", "x"]);
}
