//! `repoguard log`, and what was changed outside the guard: told once, where it happened.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;

use crate::support::{Sandbox, find};

/// What `exec` says on stderr when all goes well.
fn told_by_exec(sandbox: &Sandbox) -> String {
    let output = sandbox.repoguard(["exec", "--", "true"]).assert().success().get_output().clone();
    String::from_utf8(output.stderr).unwrap()
}

fn text(sandbox: &Sandbox, args: &[&str]) -> String {
    let output = sandbox.repoguard(["log"]).args(args).assert().success().get_output().clone();
    String::from_utf8(output.stdout).unwrap()
}

fn commit(sandbox: &Sandbox, message: &str) {
    sandbox.git(["commit", "-q", "--allow-empty", "-m", message]);
}

#[test]
fn each_hold_is_one_record() {
    let sandbox = Sandbox::new();
    for status in 0..3 {
        let script = format!("exit {status}");
        let mut exec = sandbox.repoguard(["exec", "--reason", "the why"]);
        exec.args(["--", "sh", "-c", &script]).assert().code(status);
    }
    sandbox.refused(&["-E", "9", "--scope", "repo", "--shared"], 2);
    let records = sandbox.log();
    assert_eq!(records.len(), 3, "{records:?}");
    let mut fences: Vec<u64> = Vec::new();
    for (record, status) in records.iter().zip(0..) {
        assert!(record["schema"].is_u64(), "{record}");
        assert_eq!(record["status"], status, "{record}");
        assert_eq!(record["reason"], "the why", "{record}");
        fences.push(record["fence"].as_u64().expect("a fencing number"));
    }
    assert!(fences.is_sorted_by(|a, b| a < b), "{fences:?}");
}

#[test]
fn record_tells_what_the_command_did_to_head() {
    let sandbox = Sandbox::new();
    let before = sandbox.git(["rev-parse", "HEAD"]);
    let script = "git commit -q --allow-empty -m inside";
    sandbox.repoguard(["exec", "--", "sh", "-c", script]).assert().success();
    let after = sandbox.git(["rev-parse", "HEAD"]);
    let record = sandbox.log().remove(0).to_string();
    for head in [before, after] {
        assert!(record.contains(head.trim()), "{record}");
    }
}

#[test]
fn number_and_time_choose_records() {
    let sandbox = Sandbox::new();
    for number in 0..5 {
        let reason = format!("hold-{number}");
        sandbox.repoguard(["exec", "--reason", &reason, "--", "true"]).assert().success();
    }
    let last = text(&sandbox, &["-n", "2"]);
    for (number, expected) in [(2, false), (3, true), (4, true)] {
        assert_eq!(last.contains(&format!("hold-{number}")), expected, "{last}");
    }
    let lines = |args: &[&str]| text(&sandbox, &[&["--json"], args].concat()).lines().count();
    assert_eq!(lines(&[]), 5);
    assert_eq!(lines(&["-n", "3"]), 3);
    assert_eq!(lines(&["--since", "2000-01-01"]), 5);
    assert_eq!(lines(&["--since", "1h"]), 5);
    assert_eq!(lines(&["--since", "2999-01-01"]), 0);
    sandbox.repoguard(["log", "--since", "whenever"]).assert().code(2).stdout("");
    sandbox.repoguard(["log", "-n", "few"]).assert().code(2).stdout("");
}

/// The file of the log: found by its content, wherever it stands.
fn log_file(sandbox: &Sandbox) -> PathBuf {
    sandbox.repoguard(["exec", "--reason", "to be found", "--", "true"]).assert().success();
    sandbox.repoguard(["exec", "--", "true"]).assert().success();
    find(&sandbox.data(), "to be found")
}

#[test]
fn torn_last_line_is_never_fatal() {
    let sandbox = Sandbox::new();
    let file = log_file(&sandbox);
    let whole = fs::read(&file).unwrap();
    for cut in [1, 10, 100] {
        fs::write(&file, &whole[..whole.len() - cut]).unwrap();
        assert!(text(&sandbox, &[]).contains("to be found"));
        sandbox.repoguard(["exec", "--reason", "after the tear", "--", "true"]).assert().success();
        assert!(text(&sandbox, &[]).contains("after the tear"), "a new record has a line of its own");
        assert!(sandbox.log().len() >= 2);
    }
}

#[test]
fn garbage_in_the_log_is_passed_over() {
    let sandbox = Sandbox::new();
    let file = log_file(&sandbox);
    let mut log = fs::OpenOptions::new().append(true).open(&file).unwrap();
    log.write_all(b"\xff\xfe garbage\n{}\n[1,2\nnull\n\0\0\0\0\n{\"schema\":99}\n").unwrap();
    sandbox.repoguard(["exec", "--reason", "after garbage", "--", "true"]).assert().success();
    let shown = text(&sandbox, &[]);
    assert!(shown.contains("to be found") && shown.contains("after garbage"), "{shown}");
    sandbox.log();
}

#[test]
fn log_that_cannot_be_written_stops_nobody() {
    let sandbox = Sandbox::new();
    let file = log_file(&sandbox);
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    sandbox.repoguard(["exec", "--", "sh", "-c", "echo ran; exit 4"]).assert().code(4).stdout("ran\n");
    assert_eq!(sandbox.try_once(&[]), 0);
    fs::remove_dir(&file).unwrap();
    std::os::unix::fs::symlink("/dev/full", &file).unwrap();
    sandbox.repoguard(["exec", "--", "sh", "-c", "exit 4"]).assert().code(4);
    assert_eq!(sandbox.try_once(&[]), 0);
}

#[test]
fn without_records_the_log_is_empty() {
    let sandbox = Sandbox::new();
    assert_eq!(text(&sandbox, &["--json"]), "");
    sandbox.repoguard(["log"]).assert().success();
}

#[test]
fn commit_outside_the_guard_is_told_once() {
    let sandbox = Sandbox::new();
    assert_eq!(told_by_exec(&sandbox), "", "the first hold has nothing to compare with");
    commit(&sandbox, "foreign");
    let status = sandbox.repoguard(["status"]).assert().success().get_output().clone();
    let status = String::from_utf8(status.stdout).unwrap();
    assert!(status.contains("outside the guard"), "{status}");
    let told = told_by_exec(&sandbox);
    assert!(told.contains("outside the guard"), "{told}");
    assert_eq!(told.lines().count(), 1, "{told}");
    assert!(text(&sandbox, &[]).contains("outside"), "{}", text(&sandbox, &[]));
    assert_eq!(told_by_exec(&sandbox), "", "and not again");
    let status = sandbox.repoguard(["status"]).assert().success().get_output().clone();
    assert!(!String::from_utf8(status.stdout).unwrap().contains("outside the guard"));
}

#[test]
fn every_way_to_move_head_outside_is_seen() {
    let sandbox = Sandbox::new();
    commit(&sandbox, "second");
    told_by_exec(&sandbox);
    let ways: [&[&str]; 6] = [
        &["commit", "-q", "--amend", "--allow-empty", "-m", "amended"],
        &["checkout", "-q", "-b", "other"],
        &["checkout", "-q", "--detach"],
        &["checkout", "-q", "main"],
        &["reset", "-q", "--hard", "HEAD~1"],
        &["update-ref", "refs/heads/main", "other"],
    ];
    for way in ways {
        sandbox.git(way);
        let told = told_by_exec(&sandbox);
        assert!(told.contains("outside the guard"), "{way:?}: {told}");
    }
}

#[test]
fn what_happened_inside_is_no_foreign_change() {
    let sandbox = Sandbox::new();
    let linked = sandbox.worktree("linked");
    told_by_exec(&sandbox);
    for script in [
        "git commit -q --allow-empty -m inside",
        "git checkout -q -b inside",
        "git checkout -q --detach",
        "repoguard exec -- git commit -q --allow-empty -m deep",
        "git pack-refs --all && git gc -q",
    ] {
        sandbox.repoguard(["exec", "--", "sh", "-c", script]).assert().success().stderr("");
        assert_eq!(told_by_exec(&sandbox), "", "{script}");
    }
    // Same content under another storage, a rewritten index, another worktree: nothing of this moved our HEAD.
    sandbox.git(["pack-refs", "--all"]);
    sandbox.git(["status"]);
    sandbox.git(["branch", "unrelated"]);
    sandbox.git(["-C", linked.to_str().unwrap(), "commit", "-q", "--allow-empty", "-m", "there"]);
    assert_eq!(told_by_exec(&sandbox), "");
}

#[test]
fn mutation_is_one_record_with_its_steps() {
    let sandbox = Sandbox::new();
    let before = sandbox.head();
    sandbox.commits(&["--check", "true", "--verify", "true"], "echo new >file");
    let (after, record) = (sandbox.head(), sandbox.log().remove(0));
    let steps = |record: &serde_json::Value| -> Vec<String> {
        let steps = record["steps"].as_array().expect("an array");
        steps.iter().map(|step| format!("{} {}", step["step"].as_str().unwrap(), step["status"])).collect()
    };
    let of_commands = |record: &serde_json::Value| {
        steps(record).into_iter().filter(|step| !step.starts_with("look")).collect::<Vec<_>>()
    };
    assert_eq!(of_commands(&record), ["read 0", "check 0", "command 0", "verify 0", "commit 0"], "{record}");
    assert_eq!((&record["status"], &record["event"]), (&0.into(), &"hold".into()), "{record}");
    assert_eq!((&record["head_before"]["commit"], &record["head_after"]["commit"]), (&before.into(), &after.into()));
    let shown = text(&sandbox, &[]);
    assert!(shown.contains("exit 0  held") && shown.contains("HEAD main at") && shown.contains('→'), "{shown}");
    assert_eq!(shown.lines().count(), 1, "{shown}");
    let shown = text(&sandbox, &["-v"]);
    assert_eq!(shown.lines().count(), 2, "{shown}");
    for step in ["read ", "check ", "command ", "verify ", "commit "] {
        assert!(shown.lines().nth(1).unwrap().contains(step), "{shown}");
    }
}

#[test]
fn mutation_that_was_put_back_is_told_so() {
    let sandbox = Sandbox::new();
    sandbox.undone(&["--verify", "exit 3"], "echo new >file", 3);
    let shown = text(&sandbox, &["-v"]);
    assert!(shown.contains("exit 3, put back  held") && !shown.contains('→'), "{shown}");
    assert!(shown.contains("exit 3; rollback "), "{shown}");
    let record = sandbox.log().remove(0);
    assert_eq!(record["status"], 3, "{record}");
    assert_eq!(record["head_before"], record["head_after"], "{record}");
    sandbox.repoguard(["exec", "--", "true"]).assert().success();
    let shown = text(&sandbox, &["-v", "-n", "1"]);
    assert_eq!(shown.lines().count(), 1, "a hold has no steps: {shown}");
    assert!(sandbox.log()[1].get("steps").is_none());
}
