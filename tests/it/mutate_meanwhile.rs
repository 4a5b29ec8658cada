//! `repoguard mutate` without a fence, and what others do meanwhile between its steps: theirs is neither taken into the
//! commit nor taken away.

use std::fs;

use crate::mutate::furnished;
use crate::support::{Gate, Running, Sandbox, same_but_for_ours, shell_status};

/// A mutation that waits in a step: `command`, `verify`, `pre-commit`, `post-commit`.
fn waits_in(sandbox: &Sandbox, step: &str, script: &str) -> (Gate, Running) {
    let gate = sandbox.gate("step");
    let waits = gate.script();
    let mut script = script.to_owned();
    let mut options = Vec::new();
    match step {
        "command" => script = format!("{script}; {waits}"),
        "verify" => options = vec!["--verify", &waits],
        hook => sandbox.own_hook(hook, &waits),
    }
    let mut running = sandbox.start(sandbox.mutate_command(&options, &script));
    gate.reached_by(&mut running);
    (gate, running)
}

const CHANGE: &str = "echo ours >>d/a; echo ours >ours";
const LANDED: [&str; 2] = ["M d/a", "A ours"];

/// A file of somebody else's, not tracked, that was there before.
fn with_a_file_of_theirs() -> Sandbox {
    let sandbox = furnished();
    fs::write(sandbox.path("theirs"), "theirs\n").unwrap();
    sandbox
}

#[test]
fn what_somebody_else_stages_is_not_committed_and_stays_staged() {
    for step in ["command", "verify", "pre-commit", "post-commit"] {
        for script in [CHANGE.to_owned(), format!("{CHANGE}; git status >/dev/null"), format!("{CHANGE}; git add ours")]
        {
            let sandbox = with_a_file_of_theirs();
            let (gate, mut running) = waits_in(&sandbox, step, &script);
            sandbox.git(["add", "theirs"]);
            gate.open();
            assert!(running.ended().success(), "{step}: {}", running.stderr());
            assert_eq!(sandbox.landed(), LANDED, "{step}, {script}");
            // Where the command stages as well, nobody can tell who staged what: then it may be unstaged, not more.
            let expected: &[&str] =
                if script.contains("git add") { &["A  theirs", "?? theirs"] } else { &["A  theirs"] };
            let status = sandbox.short_status();
            assert!(status.len() == 1 && expected.contains(&status[0].as_str()), "{step}, {script}: {status:?}");
            assert_eq!(fs::read_to_string(sandbox.path("theirs")).unwrap(), "theirs\n");
            sandbox.assert_no_traces();
        }
    }
}

#[test]
fn commit_of_somebody_else_between_the_steps_is_left_and_both_are_named() {
    let empty = "git commit -q --no-verify --allow-empty -m theirs";
    let added = "git add theirs; git commit -q --no-verify -m theirs -- theirs";
    for step in ["command", "verify", "pre-commit"] {
        for theirs in [empty, added] {
            let sandbox = with_a_file_of_theirs();
            let old = sandbox.head();
            let (gate, mut running) = waits_in(&sandbox, step, CHANGE);
            sandbox.sh(theirs).assert().success();
            let new = sandbox.head();
            gate.open();
            let status = shell_status(running.ended());
            let told = running.stderr();
            // In the hook it is git that finds HEAD moved, with a status of its own.
            assert!(status == 65 || (step == "pre-commit" && status == 128), "{step}, {theirs}: {status}: {told}");
            assert!(told.contains(&old[..7]) && told.contains(&new[..7]), "both are named: {step}: {told}");
            assert_eq!(sandbox.head(), new, "{step}, {theirs}: {told}");
            assert_eq!(fs::read_to_string(sandbox.path("d/a")).unwrap(), "a\n", "{step}, {theirs}: {told}");
            assert!(!sandbox.path("ours").exists(), "{step}, {theirs}: {told}");
            let left: &[&str] = if theirs == empty { &["?? theirs"] } else { &[] };
            assert_eq!(sandbox.short_status(), left, "{step}, {theirs}: {told}");
            sandbox.git(["fsck", "--strict"]);
            sandbox.assert_no_traces();
        }
    }
}

#[test]
fn change_that_somebody_else_has_committed_is_theirs() {
    let sandbox = furnished();
    let (gate, mut running) = waits_in(&sandbox, "verify", CHANGE);
    // All that is there, the command's own files among it.
    sandbox.sh("git add -A; git commit -qm theirs").assert().success();
    let (new, state) = (sandbox.head(), sandbox.state());
    gate.open();
    assert_eq!(shell_status(running.ended()), 65, "{}", running.stderr());
    assert_eq!(sandbox.head(), new);
    same_but_for_ours(&state, &sandbox.state(), &running.stderr());
    assert_eq!(sandbox.short_status(), [""; 0], "{}", running.stderr());
    sandbox.assert_no_traces();
}

#[test]
fn what_somebody_else_fetches_stays_also_when_all_is_undone() {
    for (ending, status) in [("true", 0), ("exit 7", 7)] {
        let sandbox = furnished();
        let clone = "git clone -q . ../remote; cd ../remote; git commit -q --allow-empty -m remote; git tag -a -m x v9; \
            git checkout -q -b feature; cd -; git remote add origin ../remote";
        sandbox.sh(clone).assert().success();
        let gate = sandbox.gate("step");
        let mut running = sandbox.start(sandbox.mutate_command(&[], &format!("{CHANGE}; {}; {ending}", gate.script())));
        gate.reached_by(&mut running);
        sandbox
            .sh("git fetch -q --tags origin; git stash list; git tag later; git notes add -m theirs HEAD")
            .assert()
            .success();
        let refs = || {
            sandbox.git([
                "for-each-ref",
                "--format=%(refname) %(objectname)",
                "refs/tags",
                "refs/remotes",
                "refs/notes",
            ])
        };
        let theirs = refs();
        assert!(theirs.contains("refs/tags/v9") && theirs.contains("refs/remotes/origin/feature"), "{theirs}");
        gate.open();
        assert_eq!(shell_status(running.ended()), status, "{}", running.stderr());
        assert_eq!(refs(), theirs, "{}", running.stderr());
        assert_eq!(sandbox.short_status(), [""; 0]);
        sandbox.assert_no_traces();
    }
}

#[test]
fn commit_of_somebody_else_on_top_of_ours_is_theirs() {
    let sandbox = with_a_file_of_theirs();
    let (gate, mut running) = waits_in(&sandbox, "post-commit", CHANGE);
    let ours = sandbox.head();
    let theirs = "git commit-tree -p HEAD -m theirs HEAD^{tree}";
    sandbox.sh(&format!("git update-ref HEAD $({theirs})")).assert().success();
    gate.open();
    let status = shell_status(running.ended());
    assert_eq!(sandbox.git(["log", "-2", "--format=%s"]), "theirs\nchange\n", "{status}: {}", running.stderr());
    assert_eq!(sandbox.git(["rev-parse", "HEAD^"]).trim(), ours);
    assert_eq!(sandbox.short_status(), ["?? theirs"], "{status}: {}", running.stderr());
    sandbox.git(["fsck", "--strict"]);
    sandbox.assert_no_traces();
}
