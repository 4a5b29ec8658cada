//! `--expect-head` and `--expect-branch`: HEAD is where the caller has read it to be, or nothing runs.

use std::fs;

use crate::support::{HOLD, Sandbox};

/// The head's id.
fn head(sandbox: &Sandbox) -> String {
    sandbox.git(["rev-parse", "HEAD"]).trim().to_owned()
}

/// The status of `exec` and of `mutate` with these options; what ran leaves a file.
#[track_caller]
fn assert_both(sandbox: &Sandbox, options: &[&str], status: i32, told: &str) {
    for verb in [&["exec"][..], &["mutate", "--allow-empty", "-m", "m"]] {
        fs::remove_file(sandbox.outside("ran")).ok();
        let before = sandbox.git(["rev-parse", "HEAD"]);
        let mut args = verb.to_vec();
        args.extend(options);
        args.extend(["--", "sh", "-c", "touch \"$SANDBOX/ran\""]);
        let output = sandbox.repoguard(&args).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(status), "{args:?}: {said}");
        assert_eq!(sandbox.outside("ran").exists(), status == 0, "{args:?}: {said}");
        assert!(said.contains(told), "{args:?}: {said}");
        if status != 0 {
            assert_eq!(sandbox.git(["rev-parse", "HEAD"]), before);
            assert_eq!(sandbox.try_once(&[]), 0, "the lock is free");
        }
        sandbox.git(["reset", "-q", "--hard", before.trim()]);
    }
}

#[test]
fn branch_and_commit_that_are_expected_run_and_others_do_not() {
    let sandbox = Sandbox::new();
    let id = head(&sandbox);
    sandbox.git(["branch", "other"]);
    sandbox.git(["tag", "-a", "-m", "t", "v1"]);
    for options in [
        &["--expect-head", &id][..],
        &["--expect-head", &id[..8]],
        &["--expect-head", "v1"],
        // A short name is one of a commit.
        &["--expect-head", "other"],
        &["--expect-head", "refs/heads/main"],
        &["--expect-branch", "main"],
        &["--expect-branch", "refs/heads/main"],
        &["--expect-head", &id, "--expect-branch", "main"],
    ] {
        assert_both(&sandbox, options, 0, "");
    }
    for (options, expected) in [
        (&["--expect-head", "refs/heads/other"][..], "HEAD is main at"),
        (&["--expect-branch", "other"], "not `other`"),
        (&["--expect-branch", "no/such"], "not `no/such`"),
        (&["--expect-branch", "HEAD"], "not `HEAD`"),
        (&["--expect-head", "0123456789012345678901234567890123456789"], "not `0123"),
        (&["--expect-head", "no-such"], "not `no-such`"),
        (&["--expect-head=--help"], "not `--help`"),
        (&["--expect-head", &id, "--expect-branch", "other"], "not `other`"),
    ] {
        assert_both(&sandbox, options, 65, expected);
    }
    sandbox.git(["checkout", "-q", "--detach"]);
    assert_both(&sandbox, &["--expect-branch", "HEAD", "--expect-head", &id], 0, "");
    assert_both(&sandbox, &["--expect-branch", "main"], 65, "detached");
}

#[test]
fn expected_head_is_checked_under_the_lock_and_inside_a_hold() {
    let sandbox = Sandbox::new();
    sandbox.git(["branch", "other"]);
    let mut holder = sandbox.hold(&[]);
    let waiting = ["exec", "--expect-branch", "main", "--", "sh", "-c", "touch \"$SANDBOX/ran\""];
    let mut waiter = sandbox.start(sandbox.repoguard_command(waiting));
    crate::support::eventually("it waits", || sandbox.waiters() == 1);
    sandbox.git(["checkout", "-q", "other"]);
    holder.finish();
    assert_eq!(waiter.ended().code(), Some(65), "{}", waiter.stderr());
    assert!(!sandbox.outside("ran").exists());
    let nested = "repoguard exec --expect-branch other -- true && repoguard exec --expect-branch main -- true";
    sandbox.repoguard(["exec", "--", "sh", "-c", nested]).assert().code(65);
    // In a repository without commits, and outside of one.
    let empty = Sandbox::empty();
    empty.repoguard(["exec", "--expect-branch", "main", "--", "true"]).assert().code(125);
    empty.git(["init", "-q", "-b", "main"]);
    empty.repoguard(["exec", "--expect-branch", "main", "--", "true"]).assert().success();
    empty.repoguard(["exec", "--expect-head", "HEAD", "--", "true"]).assert().code(65);
    empty.git(["init", "-q", "--bare", "bare"]);
    empty.repoguard(["-C", "bare", "exec", "--expect-branch", "other", "--", "true"]).assert().code(65);
}

#[test]
fn busy_checkout_is_not_replaced_by_a_worktree_of_another_branch() {
    let sandbox = Sandbox::new();
    let mut holder = sandbox.start_up(sandbox.repoguard_command(["exec", "--", "sh", "-c", HOLD]));
    let exec = |branch: &str| {
        let args = ["exec", "--on-busy", "worktree", "--expect-branch", branch, "--", "true"];
        sandbox.repoguard(args).output().unwrap().status.code()
    };
    assert_eq!((exec("other"), exec("main")), (Some(65), Some(0)));
    holder.finish();
}

#[test]
fn commit_alone_is_not_enough_just_after_somebody_switched_to_another_branch_at_it() {
    let sandbox = Sandbox::new();
    let id = head(&sandbox);
    sandbox.git(["branch", "other"]);
    let switch = |options: &[&str], branch: &str| {
        let mut args = vec!["exec"];
        args.extend(options);
        args.extend(["--", "git", "switch", "-q", branch]);
        sandbox.repoguard(args).assert().success();
    };
    for verb in [&["exec", "--expect-head", &id][..], &["mutate", "-m", "m", "--allow-empty", "--expect-head", &id]] {
        let run = |more: &[&str]| {
            let mut args = verb.to_vec();
            args.extend(more);
            args.extend(["--", "true"]);
            let output = sandbox.repoguard(args).output().unwrap();
            (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
        };
        switch(&[], "other");
        let (status, told) = run(&[]);
        assert_eq!(status, Some(65), "{told}");
        assert!(
            told.contains("from main to other by `git switch -q other`") && told.contains("--expect-branch"),
            "{told}"
        );
        // Refused once: the caller has read it by then.
        assert_eq!(run(&[]).0, Some(0));
        sandbox.git(["reset", "-q", "--hard", &id]);
        switch(&[], "main");
        assert_eq!(run(&["--expect-branch", "main"]).0, Some(0), "the branch is named");
        sandbox.git(["reset", "-q", "--hard", &id]);
    }
}

#[test]
fn switch_by_another_caller_is_told_once() {
    let sandbox = Sandbox::new();
    sandbox.git(["branch", "other"]);
    let exec = |reason: &[&str], command: &[&str]| {
        let mut args = vec!["exec"];
        args.extend(reason);
        args.push("--");
        args.extend(command);
        let output = sandbox.repoguard(args).assert().success().get_output().clone();
        String::from_utf8(output.stderr).unwrap()
    };
    assert_eq!(exec(&["--reason", "A"], &["git", "switch", "-q", "other"]), "");
    let told = exec(&["--reason", "B"], &["true"]);
    assert!(told.contains("HEAD was switched by the last holder, `git switch -q other`"), "{told}");
    assert!(told.contains(", A)") && told.contains("it was main at"), "{told}");
    assert_eq!(exec(&["--reason", "C"], &["true"]), "");
    // The same caller knows.
    assert_eq!(exec(&[], &["git", "switch", "-q", "main"]), "");
    assert_eq!(exec(&[], &["true"]), "");
}
