//! Commands that had begun when a hook found the lock busy: nothing is lost, and what the hint says finishes them.

use crate::support::{OBEDIENT, Running, Sandbox, eventually, zombies_below};

const BRANCHES: &str = "\
    git checkout -q -b side; echo side >side; git add side; git commit -q -m side; \
    git checkout -q -b conflict main; echo theirs >file; git commit -q -a -m conflict; \
    git checkout -q main; echo ours >file; git commit -q -a -m ours; git format-patch -q -1 --stdout side >../patch";

/// A guarded repository with branches, in the state that this script makes; then somebody holds it.
fn held_after(prepare: &str) -> (Sandbox, Running) {
    let sandbox = Sandbox::new();
    sandbox.sh(BRANCHES).assert().success();
    sandbox.sh(prepare).output().unwrap();
    sandbox.install_hooks();
    let holder = sandbox.hold_with(&[], OBEDIENT);
    (sandbox, holder)
}

/// The command in a hint that begins like this.
fn pasted<'a>(told: &'a str, command: &str) -> &'a str {
    let start = told.find(&format!("`{command}")).unwrap_or_else(|| panic!("no `{command}` in {told}")) + 1;
    told[start..].split('`').next().unwrap_or_default()
}

/// Lets a command be refused, then does what the hint says, or the same again, once nobody is in the way.
#[track_caller]
fn finished_by_hint(prepare: &str, command: &str, way_out: &str, subject: &str) {
    let (sandbox, mut holder) = held_after(prepare);
    let before = sandbox.git(["rev-parse", "HEAD"]);
    let mut git = sandbox.sh_command(command);
    git.env("REPOGUARD_HOOK_TIMEOUT", "0.2").env("GIT_EDITOR", ":");
    let mut git = sandbox.start(git);
    assert_ne!(git.ended().code(), Some(0), "{command}: {}", git.stderr());
    let told = git.stderr();
    assert!(told.contains("repoguard: busy"), "{command}: {told}");
    assert_eq!(sandbox.git(["rev-parse", "HEAD"]), before, "{command}: {told}");
    holder.finish();
    let way_out = if way_out == command { command } else { pasted(&told, way_out) };
    let output = sandbox.sh(way_out).env("GIT_EDITOR", ":").output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command}, then {way_out}: {told}");
    assert_eq!(sandbox.git(["log", "-1", "--format=%s"]).trim(), subject, "{command}, then {way_out}");
    assert_eq!(sandbox.git(["status", "--porcelain"]), "", "{command}, then {way_out}");
    sandbox.assert_nothing_left();
}

#[test]
fn refused_command_is_finished_by_what_its_hint_says() {
    let conflict = |command: &str| format!("git {command} conflict; echo both >file; git add file");
    for (prepare, command, way_out, subject) in [
        ("", "git merge --no-edit side", "git merge --continue", "Merge branch 'side'"),
        ("", "git cherry-pick side", "git cherry-pick --continue", "side"),
        (&conflict("merge"), "git commit -q --no-edit", "git commit -q --no-edit", "Merge branch 'conflict'"),
        (&conflict("cherry-pick"), "git cherry-pick --continue", "git cherry-pick --continue", "conflict"),
        (&conflict("rebase"), "git rebase --continue", "git rebase --continue", "ours"),
    ] {
        finished_by_hint(prepare, command, way_out, subject);
    }
}

#[test]
fn refused_revert_is_finished_by_what_its_hint_says() {
    // Of a revert without conflicts nothing but the message is left: `git revert --continue` knows of none.
    finished_by_hint("", "git revert --no-edit HEAD", "git commit", "Revert \"ours\"");
}

#[test]
fn refused_am_is_put_back_as_its_hint_says_and_done_again() {
    let (sandbox, mut holder) = held_after("");
    let mut git = sandbox.sh_command("git am -q ../patch");
    git.env("REPOGUARD_HOOK_TIMEOUT", "0.2");
    let mut git = sandbox.start(git);
    assert_ne!(git.ended().code(), Some(0), "{}", git.stderr());
    holder.finish();
    let told = git.stderr();
    // It applies nothing, and finds that nothing was changed.
    assert!(!told.contains("git am --continue"), "{told}");
    let way_out = pasted(&told, "git am --abort").to_owned();
    sandbox.sh(&way_out).assert().success();
    assert_eq!(sandbox.git(["status", "--porcelain"]), "");
    sandbox.git(["am", "-q", "../patch"]);
    assert_eq!(sandbox.git(["log", "-1", "--format=%s"]), "side\n");
    sandbox.assert_nothing_left();
}

#[test]
fn rebase_that_waits_is_refused_when_head_moved_and_has_changed_nothing() {
    let (sandbox, mut holder) = held_after("echo x >untracked");
    let mut git = sandbox.git_queued(&["rebase", "-q", "side"]);
    holder.send("git update-ref HEAD $(git commit-tree -p HEAD -m theirs HEAD^{tree})");
    eventually("HEAD has moved", || holder.stdout().contains("done"));
    holder.finish();
    assert_ne!(git.ended().code(), Some(0), "{}", git.stderr());
    assert!(git.stderr().contains("HEAD moved"), "{}", git.stderr());
    assert_eq!(sandbox.git(["log", "-1", "--format=%s"]), "theirs\n");
    assert_eq!(sandbox.git(["status", "--porcelain"]), "?? untracked\n");
    assert!(!sandbox.path(".git/rebase-merge").exists());
    sandbox.assert_nothing_left();
}

#[test]
fn rebase_waits_and_lands() {
    let (sandbox, mut holder) = held_after("");
    let mut git = sandbox.git_queued(&["rebase", "-q", "side"]);
    holder.finish();
    assert!(git.ended().success(), "{}", git.stderr());
    assert_eq!(sandbox.git(["log", "--format=%s"]), "ours\nside\nfirst\n");
    sandbox.assert_nothing_left();
    sandbox.assert_nothing_to_tell();
}

#[test]
fn first_commit_of_a_repository_waits_and_lands() {
    for theirs in ["", "echo x >other; git add other", "git add new; git commit -q -m theirs"] {
        let sandbox = Sandbox::empty();
        sandbox.git(["init", "-q", "-b", "main"]);
        sandbox.install_hooks();
        let mut holder = sandbox.hold_with(&[], OBEDIENT);
        std::fs::write(sandbox.path("new"), "").unwrap();
        let mut git = sandbox.git_queued(&["commit", "-q", "--allow-empty", "-m", "mine"]);
        holder.send(theirs);
        eventually("the holder did it", || holder.stdout().contains("done"));
        holder.finish();
        assert_eq!(git.ended().success(), theirs.is_empty(), "{theirs}: {}", git.stderr());
        sandbox.assert_nothing_left();
    }
}

#[test]
fn git_that_nobody_reaps_has_ended() {
    let sandbox = Sandbox::guarded();
    let gate = sandbox.gate("gate");
    sandbox.own_hook("post-commit", &gate.script());
    let mut git = sandbox.sh_command("git commit -q --allow-empty -m x & exec sleep 60");
    git.stdin(std::process::Stdio::null());
    let mut parent = sandbox.start(git);
    gate.reached_by(&mut parent);
    assert_eq!(sandbox.try_once(&[]), 75);
    gate.open();
    eventually("git is a zombie", || zombies_below(parent.pid()).len() == 1);
    assert_eq!(sandbox.try_once(&[]), 0);
    drop(parent);
    sandbox.assert_nothing_left();
}
