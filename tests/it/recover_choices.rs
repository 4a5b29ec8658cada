//! `repoguard recover`: where somebody has worked since a mutation was killed, nothing happens until it is decided.

use std::fs;

use crate::mutate::furnished;
use crate::support::{At, Sandbox, WORK, find, same_but_for_ours};

fn stderr(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What somebody does after the crash.
const LATER: [&str; 9] = [
    "echo later >>file",
    "echo later >other/new",
    "rm new",
    "rm other/o",
    "chmod -x other/o",
    "git add file",
    "git commit -qam later",
    "git checkout -q -b later",
    "git reset -q --hard",
];

/// All that would let somebody in.
const NEXT: [&[&str]; 5] = [
    &["exec", "--", "touch", "../ran"],
    &["exec", "--scope", "repo", "--", "touch", "../ran"],
    &["exec", "--shared", "--", "touch", "../ran"],
    &["mutate", "-m", "next", "--", "touch", "../ran"],
    &["acquire", "--ttl", "1m"],
];

#[test]
fn later_work_stops_whoever_comes_and_is_not_touched() {
    for later in LATER {
        let sandbox = furnished();
        sandbox.killed_at(At::Verify, &[], WORK);
        sandbox.sh(later).assert().success();
        let before = sandbox.state();
        for next in NEXT {
            let told = sandbox.assert_refused(sandbox.repoguard(next), 65);
            assert!(told.contains("repoguard recover"), "{later}, {next:?}: {told}");
            before.assert_same(&sandbox.state(), &format!("{later}, {next:?}: {told}"));
            assert_eq!(sandbox.status()["state"], "free", "{later}, {next:?}: nothing is held on to");
        }
        let told = sandbox.assert_refused(sandbox.repoguard(["recover"]), 65);
        assert!(told.contains("--undo") && told.contains("--finish"), "{later}: {told}");
        before.assert_same(&sandbox.state(), later);
        let unfinished = sandbox.unfinished();
        assert_eq!(unfinished["state"], "ran", "{unfinished}");
        assert!(!unfinished["doubts"].as_array().expect("an array").is_empty(), "{later}: {unfinished}");
    }
}

#[test]
fn undo_puts_the_state_before_back_and_keeps_later_work() {
    for later in LATER {
        let sandbox = furnished();
        let before = sandbox.state();
        sandbox.killed_at(At::Verify, &[], WORK);
        sandbox.sh(later).assert().success();
        let bytes = fs::read(sandbox.path("file")).unwrap();
        let output = sandbox.repoguard(["recover", "--undo"]).assert().success().get_output().clone();
        let foreign_head = later.contains("commit") || later.contains("checkout");
        if foreign_head {
            // HEAD is theirs by now; of the files only the mutation's are put back.
            assert!(sandbox.git(["log", "--all", "--format=%s"]).contains(if later.contains("commit") {
                "later"
            } else {
                ""
            }));
        } else {
            before.assert_same(&sandbox.state(), &format!("{later}: {}", stderr(&output)));
        }
        if bytes != b"first\n" && !foreign_head {
            let id = sandbox.snapshots()[0]["id"].as_str().expect("an id").to_owned();
            sandbox.repoguard(["restore", &id, "file"]).assert().success();
            assert_eq!(fs::read(sandbox.path("file")).unwrap(), bytes, "{later}");
        }
        assert!(sandbox.unfinished().is_null());
        assert_eq!(sandbox.try_once(&[]), 0);
    }
}

#[test]
fn commit_that_somebody_made_since_is_never_taken_away() {
    for choice in ["--undo", "--finish"] {
        let sandbox = furnished();
        sandbox.killed_at(At::Verify, &[], WORK);
        sandbox.sh("git commit -qam later").assert().success();
        let later = sandbox.head();
        let output = sandbox.repoguard(["recover", choice]).assert().success().get_output().clone();
        assert_eq!(sandbox.head(), later, "{choice}: {}", stderr(&output));
        sandbox.git(["fsck", "--strict"]);
        sandbox.assert_no_traces();
    }
}

#[test]
fn finish_leaves_everything_as_it_is_and_forgets() {
    for (at, later) in LATER.map(|later| (At::Verify, later)).into_iter().chain([(At::Command, "true")]) {
        let sandbox = furnished();
        sandbox.killed_at(at, &[], WORK);
        sandbox.sh(later).assert().success();
        let now = sandbox.state();
        let output = sandbox.repoguard(["recover", "--finish"]).assert().success().get_output().clone();
        same_but_for_ours(&now, &sandbox.state(), &format!("{later}: {}", stderr(&output)));
        assert!(sandbox.unfinished().is_null());
        assert_eq!(crate::support::traces(&sandbox.path(".git")), [""; 0]);
        assert_eq!(sandbox.try_once(&[]), 0);
        same_but_for_ours(&now, &sandbox.state(), "and it stays so");
    }
}

#[test]
fn refs_that_others_make_are_no_reason_to_stop_and_stay() {
    let sandbox = furnished();
    let before = sandbox.head();
    sandbox.killed_at(At::Verify, &[], WORK);
    sandbox.sh("git tag later; git branch later; git update-ref refs/remotes/origin/main HEAD").assert().success();
    assert_eq!(sandbox.try_once(&[]), 0);
    for name in ["refs/tags/later", "refs/heads/later", "refs/remotes/origin/main"] {
        assert_eq!(sandbox.git(["rev-parse", name]).trim(), before, "{name}");
    }
    assert_eq!(sandbox.short_status(), [""; 0]);
}

#[test]
fn looking_is_no_work() {
    // They write the index: what git knows of the files' times, nothing else.
    for look in ["git status", "git diff", "git update-index -q --really-refresh; git status"] {
        let sandbox = furnished();
        let before = sandbox.state();
        sandbox.killed_at(At::Verify, &[], WORK);
        sandbox.sh(&format!("{look}; :")).assert().success();
        let output = sandbox.repoguard(["exec", "--", "true"]).output().unwrap();
        assert!(output.status.success(), "{look}: {}", stderr(&output));
        before.assert_same(&sandbox.state(), look);
    }
}

#[test]
fn verification_that_looks_is_no_later_work() {
    let sandbox = furnished();
    let before = sandbox.state();
    sandbox.killed_at(At::Verify, &["--verify", "git status; git diff --stat"], WORK);
    let output = sandbox.repoguard(["exec", "--", "true"]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    before.assert_same(&sandbox.state(), &stderr(&output));
}

#[test]
fn commit_that_is_there_is_finished() {
    for next in [&["exec", "--", "true"][..], &["recover"], &["recover", "--finish"]] {
        let sandbox = furnished();
        sandbox.killed_at(At::Committed, &[], WORK);
        assert_eq!(sandbox.unfinished()["state"], "landed");
        let output = sandbox.repoguard(next).assert().success().get_output().clone();
        let told = stderr(&output);
        assert_eq!(sandbox.landed(), ["D d/a", "D d/e/b", "M file", "A new", "M other/o"], "{told}");
        assert_eq!(sandbox.short_status(), [""; 0], "{told}");
        assert!(told.contains(&sandbox.head()[..7]), "{told}");
        sandbox.assert_no_traces();
        sandbox.git(["fsck", "--strict"]);
    }
}

#[test]
fn commit_that_is_there_can_be_undone_all_the_same() {
    let sandbox = furnished();
    let before = sandbox.state();
    sandbox.killed_at(At::Committed, &[], WORK);
    let made = sandbox.head();
    let output = sandbox.repoguard(["recover", "--undo"]).assert().success().get_output().clone();
    before.assert_same(&sandbox.state(), &stderr(&output));
    let id = sandbox.snapshots()[0]["id"].as_str().expect("an id").to_owned();
    assert!(sandbox.kept_in(&id).to_string().contains(&made), "the commit is kept");
    sandbox.assert_no_traces();
}

#[test]
fn own_work_after_the_commit_stays_own_work() {
    for (later, status) in [
        ("echo later >>file", &[" M file"][..]),
        ("echo later >late", &["?? late"]),
        ("echo later >late; git add late", &["A  late"]),
        ("git tag later", &[]),
    ] {
        let sandbox = furnished();
        sandbox.killed_at(At::Committed, &[], WORK);
        sandbox.sh(later).assert().success();
        let made = sandbox.head();
        let output = sandbox.repoguard(["recover", "--finish"]).assert().success().get_output().clone();
        assert_eq!(sandbox.short_status(), *status, "{later}: {}", stderr(&output));
        assert_eq!(sandbox.head(), made);
        sandbox.assert_no_traces();
    }
}

#[test]
fn commit_that_somebody_took_back_does_not_come_back() {
    for later in ["git reset -q --hard HEAD~1", "git reset -q --hard && git checkout -q -b old HEAD~1"] {
        let sandbox = furnished();
        sandbox.killed_at(At::Committed, &[], WORK);
        sandbox.sh(later).assert().success();
        let now = sandbox.state();
        // Whether it stops or forgets: nothing may be changed now.
        let output = sandbox.repoguard(["exec", "--", "true"]).output().unwrap();
        same_but_for_ours(&now, &sandbox.state(), &format!("{later}: {}", stderr(&output)));
        sandbox.repoguard(["recover", "--finish"]).assert().success();
        same_but_for_ours(&now, &sandbox.state(), later);
        assert_eq!(sandbox.try_once(&[]), 0);
    }
}

#[test]
fn status_shows_what_each_choice_would_do_and_changes_nothing() {
    let sandbox = furnished();
    sandbox.repoguard(["recover", "--status"]).assert().success().stdout("nothing to recover\n");
    assert!(sandbox.unfinished().is_null());
    sandbox.repoguard(["recover"]).assert().success();
    for (at, state) in [(At::Command, "running"), (At::Verify, "ran"), (At::Committed, "landed")] {
        let sandbox = furnished();
        sandbox.killed_at(at, &[], WORK);
        let (before, files) = (sandbox.state(), crate::support::listing(&sandbox.data()));
        let output = sandbox.repoguard(["recover", "--status"]).assert().code(1).get_output().clone();
        let shown = String::from_utf8_lossy(&output.stdout).into_owned();
        for part in ["--undo", "--finish", "echo x >>file"] {
            assert!(shown.contains(part), "{at:?}: {part}: {shown}");
        }
        let unfinished = sandbox.unfinished();
        assert_eq!(unfinished["state"], state, "{unfinished}");
        assert!(unfinished["pid"].is_u64() && unfinished["fence"].is_u64(), "{unfinished}");
        assert_eq!(crate::support::listing(&sandbox.data()), files, "a look writes nothing");
        before.assert_same(&sandbox.state(), "a look");
        sandbox.repoguard(["recover", "--undo", "--finish"]).assert().code(2);
        sandbox.repoguard(["recover", "--undo"]).assert().success();
        assert!(sandbox.unfinished().is_null());
    }
}

#[test]
fn mutation_that_runs_is_nothing_to_recover() {
    let sandbox = furnished();
    let look = "repoguard recover --status; echo $?; repoguard recover --status --json";
    let output = sandbox.mutate(&[], look).assert().success().get_output().clone();
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut lines = shown.lines();
    assert!(lines.next().is_some_and(|line| line.contains("a mutation is running: repoguard mutate")), "{shown}");
    assert_eq!(lines.next(), Some("0"), "{shown}");
    let document: serde_json::Value = serde_json::from_str(lines.next().unwrap_or_default()).expect("JSON");
    assert!(document["unfinished"].is_null() && document["running"]["step"] == "command", "{document}");
}

#[test]
fn later_work_that_is_undone_is_kept_byte_for_byte() {
    let sandbox: Sandbox = furnished();
    sandbox.killed_at(At::Verify, &[], WORK);
    fs::write(sandbox.path("new"), b"later\0\xff").unwrap();
    fs::create_dir_all(sandbox.path("deep/er")).unwrap();
    fs::write(sandbox.path("deep/er/late"), "deep later\n").unwrap();
    sandbox.repoguard(["recover", "--undo"]).assert().success();
    assert!(!sandbox.path("new").exists() && !sandbox.path("deep").exists());
    find(&sandbox.data().join("snapshots"), "deep later\n");
    let id = sandbox.snapshots()[0]["id"].as_str().expect("an id").to_owned();
    sandbox.repoguard(["restore", &id]).assert().success();
    assert_eq!(fs::read(sandbox.path("new")).unwrap(), b"later\0\xff");
    assert_eq!(fs::read(sandbox.path("deep/er/late")).unwrap(), b"deep later\n");
}
