//! Hooks that may not wait for long, and those that come too late to refuse: checkouts, and changes of references.

use std::fs;

use serde_json::Value;

use crate::support::{OBEDIENT, Running, Sandbox, eventually, hook, script};

const COMMIT: [&str; 4] = ["commit", "-q", "-m", "mine"];

fn ends_with(sandbox: &Sandbox, args: &[&str], timeout: Option<&str>) -> (Option<i32>, String) {
    let mut git = sandbox.git_command(args);
    if let Some(timeout) = timeout {
        git.env("REPOGUARD_HOOK_TIMEOUT", timeout);
    }
    let mut git = sandbox.start(git);
    let code = git.ended().code();
    (code, git.stderr())
}

fn violations(sandbox: &Sandbox) -> Vec<Value> {
    sandbox.log().into_iter().filter(|record| record["event"] == "violated").collect()
}

#[test]
fn hook_waits_as_long_as_configured() {
    let sandbox = Sandbox::guarded();
    sandbox.stage("new");
    sandbox.git(["config", "repoguard.hookTimeout", "0.4"]);
    let _holder = sandbox.hold(&[]);
    let (code, told) = ends_with(&sandbox, &COMMIT, None);
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("busy") && told.contains("waited 0."), "{told}");
    let (code, told) = ends_with(&sandbox, &COMMIT, Some("0"));
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("busy") && !told.contains("waited"), "the environment wins: {told}");
    assert_eq!(sandbox.tickets(), [""; 0]);
    assert_eq!(sandbox.git(["rev-list", "--count", "HEAD"]), "1\n");
}

#[test]
fn bad_time_is_refused_and_named_but_a_checkout_goes_on() {
    let sandbox = Sandbox::guarded();
    sandbox.stage("new");
    let checkout = ["checkout", "-q", "-b", "other"];
    let (code, told) = ends_with(&sandbox, &COMMIT, Some("soon"));
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("REPOGUARD_HOOK_TIMEOUT") && told.contains("`soon`"), "{told}");
    sandbox.git(["config", "repoguard.hookTimeout", "5 parsecs"]);
    let (code, told) = ends_with(&sandbox, &COMMIT, None);
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("repoguard.hookTimeout") && told.contains("5 parsecs") && told.contains("config"), "{told}");
    let (code, told) = ends_with(&sandbox, &checkout, None);
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains("5 parsecs"), "{told}");
    assert_eq!(sandbox.git(["branch", "--show-current"]), "other\n");
}

#[test]
fn checkout_that_nobody_hinders_says_nothing() {
    let sandbox = Sandbox::guarded();
    assert_eq!(sandbox.try_once(&[]), 0);
    for args in [&["checkout", "-q", "-b", "other"][..], &["switch", "-q", "main"], &["checkout", "-q", "--detach"]] {
        assert_eq!(ends_with(&sandbox, args, None), (Some(0), String::new()), "{args:?}");
        sandbox.assert_nothing_left();
        sandbox.assert_nothing_to_tell();
    }
}

#[test]
fn checkout_under_a_foreign_hold_is_told_to_both_and_logged() {
    let sandbox = Sandbox::guarded();
    let mut holder = sandbox.hold(&["--reason", "release"]);
    let fence = sandbox.holder()["id"].clone();
    let (code, told) = ends_with(&sandbox, &["checkout", "-q", "-b", "other"], Some("0.2"));
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains("did not wait for its turn") && told.contains("release"), "{told}");
    assert!(told.contains("goes on without the lock"), "{told}");
    let logged = violations(&sandbox);
    assert_eq!(logged.len(), 1, "{logged:?}");
    assert_eq!(logged[0]["under"], fence);
    assert_eq!(logged[0]["command"], "git checkout -q -b other");
    assert_eq!(holder.stderr(), "");
    holder.finish();
    let told = holder.stderr();
    assert!(told.contains("was changed while you held it") && told.contains("git checkout -q -b other"), "{told}");
    sandbox.assert_nothing_left();
    assert_eq!(fs::read_dir(sandbox.data().join("violations")).into_iter().flatten().count(), 0);
}

#[test]
fn checkout_waits_and_then_holds_for_the_hook_after_it() {
    let sandbox = Sandbox::guarded();
    let gate = sandbox.gate("gate");
    script(&hook(&sandbox, "post-checkout.repoguard-chained"), &gate.script());
    let mut holder = sandbox.hold(&[]);
    let mut git = sandbox.git_queued(&["checkout", "-q", "-b", "other"]);
    assert!(!gate.is_reached());
    holder.finish();
    gate.reached_by(&mut git);
    assert_eq!(sandbox.holder()["pid"], git.pid());
    assert_eq!(sandbox.try_once(&[]), 75);
    gate.open();
    assert!(git.ended().success(), "{}", git.stderr());
    sandbox.assert_nothing_left();
    sandbox.assert_nothing_to_tell();
}

/// A repository with the strict hooks and two commits, and a holder.
fn strict() -> (Sandbox, Running) {
    let sandbox = Sandbox::new();
    sandbox.git(["commit", "-q", "--allow-empty", "-m", "second"]);
    sandbox.git(["branch", "other"]);
    sandbox.repoguard(["hooks", "install", "--strict"]).assert().success();
    let holder = sandbox.hold_with(&[], OBEDIENT);
    (sandbox, holder)
}

fn references(sandbox: &Sandbox) -> String {
    sandbox.git(["for-each-ref"]) + &sandbox.git(["rev-parse", "HEAD"])
}

#[test]
fn strict_hook_refuses_changes_of_references_and_leaves_nothing_half_done() {
    let (sandbox, mut holder) = strict();
    fs::write(sandbox.path("untracked"), "").unwrap();
    let before = (references(&sandbox), sandbox.git(["status", "--porcelain"]));
    for args in [
        &["tag", "v1"][..],
        &["tag", "-a", "-m", "x", "v1"],
        &["branch", "new"],
        &["branch", "-f", "other", "HEAD~1"],
        &["branch", "-D", "other"],
        &["branch", "-m", "other", "new"],
        &["update-ref", "refs/heads/main", "HEAD~1"],
        &["update-ref", "HEAD", "HEAD~1"],
        &["update-ref", "refs/x/y", "HEAD"],
        &["notes", "add", "-m", "x"],
        &["fetch", "-q", ".", "main:copy"],
        &["checkout", "-q", "-b", "new"],
    ] {
        let (code, told) = ends_with(&sandbox, args, None);
        assert_ne!(code, Some(0), "{args:?}: {told}");
        assert!(told.contains("repoguard: busy") && told.contains("repoguard exec --"), "{args:?}: {told}");
        assert_eq!((references(&sandbox), sandbox.git(["status", "--porcelain"])), before, "{args:?}");
    }
    assert!(holder.runs());
    holder.finish();
    assert_eq!(holder.stderr(), "");
    sandbox.git(["tag", "v1"]);
    sandbox.assert_nothing_left();
}

#[test]
fn strict_hook_lets_pass_what_has_changed_files_already_and_tells_of_it() {
    let (sandbox, mut holder) = strict();
    let fence = sandbox.holder()["id"].clone();
    let (code, told) = ends_with(&sandbox, &["reset", "-q", "--hard", "HEAD~1"], None);
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains("did not wait for its turn"), "{told}");
    assert_eq!(sandbox.git(["log", "--format=%s"]), "first\n");
    let logged = violations(&sandbox);
    assert!(!logged.is_empty());
    assert!(logged.iter().all(|record| record["under"] == fence), "{logged:?}");
    holder.finish();
    assert!(holder.stderr().contains("git reset -q --hard"), "{}", holder.stderr());
}

#[test]
fn strict_hook_refuses_nothing_that_has_begun() {
    // By the time references change, each of these has changed something else that a refusal would leave as it is.
    for (prepare, command, look, after) in [
        ("echo x >file; git stash -q", "git stash pop", "git stash list; cat file", "x\n"),
        (
            "git clone -q --bare . ../up; git remote add up ../up; git fetch -q up; git commit -q --allow-empty -m more",
            "git push -q up main",
            "git log -1 --format=%s up/main; git -C ../up log -1 --format=%s main",
            "more\nmore\n",
        ),
        (
            "git clone -q --bare . ../up; git remote add up ../up; git fetch -q up",
            "git remote rename up upstream",
            "git remote; git for-each-ref --format='%(refname)' refs/remotes/upstream/main refs/remotes/up",
            "upstream\nrefs/remotes/upstream/main\n",
        ),
        (
            "git commit -q --allow-empty -m more",
            "git bisect start HEAD HEAD~2",
            "git bisect log | grep -c '^git bisect'",
            "1\n",
        ),
    ] {
        let sandbox = Sandbox::new();
        sandbox.sh(&format!("set -e; git commit -q --allow-empty -m second; {prepare}")).assert().success();
        sandbox.repoguard(["hooks", "install", "--strict"]).assert().success();
        let _holder = sandbox.hold(&[]);
        let output = sandbox.sh(command).env("REPOGUARD_HOOK_TIMEOUT", "0").output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{command}: {told}");
        let seen = sandbox.sh(look).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&seen.stdout), after, "{command}: {told}");
    }
}

#[test]
fn strict_hook_lets_everything_pass_when_nobody_holds() {
    let (sandbox, mut holder) = strict();
    holder.finish();
    let script = "set -e; git tag v1; git branch new; git branch -D new; git reset -q --hard HEAD~1; git checkout -q other; \
        git update-ref refs/x/y HEAD; git commit -q --allow-empty -m x; git merge -q --no-edit main; echo x >file; git stash -q; \
        git stash pop -q; git reset -q --hard; git pack-refs --all; git gc -q";
    let output = sandbox.sh(script).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && !told.contains("repoguard"), "{told}");
    sandbox.assert_nothing_left();
}

#[test]
fn strict_hook_lets_the_holder_do_everything() {
    let (sandbox, mut holder) = strict();
    holder.send(
        "git tag v1 && git branch -f other HEAD~1 && git reset -q --hard HEAD~1 && git commit -q --allow-empty -m x",
    );
    eventually("the holder did it", || holder.stdout().contains("done"));
    assert_eq!(holder.stderr(), "");
    assert_eq!(sandbox.git(["log", "--format=%s"]), "x\nfirst\n");
    assert!(holder.finish().success());
    sandbox.assert_nothing_to_tell();
}

#[test]
fn strict_hook_does_not_hinder_a_fetch_of_many_references() {
    let (sandbox, mut holder) = strict();
    holder.finish();
    let upstream = sandbox.outside("upstream");
    let make = format!(
        "git clone -q --bare . '{0}' && for i in $(seq 20); do git -C '{0}' branch b$i main; done",
        upstream.display()
    );
    sandbox.sh(&make).assert().success();
    let mut git = sandbox.start(sandbox.git_command([
        "fetch",
        "-q",
        upstream.to_str().unwrap(),
        "refs/heads/b*:refs/remotes/u/b*",
    ]));
    assert!(git.ended().success(), "{}", git.stderr());
    assert_eq!(git.stderr(), "");
    assert_eq!(sandbox.git(["for-each-ref", "refs/remotes/u"]).lines().count(), 20);
    sandbox.assert_nothing_left();
}
