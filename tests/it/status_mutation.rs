//! `repoguard status` and mutations: one that runs is a holder, one that was killed is told until it is put in order.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{Gate, Running, Sandbox, can_trace, eventually, listing};

/// A mutation that waits in its command, in this worktree.
fn mutating(sandbox: &Sandbox, top: &Path, options: &[&str]) -> (Running, Gate) {
    let gate = sandbox.gate(if top == sandbox.here() { "here" } else { "there" });
    let mut command = sandbox.mutate_command(options, &format!("echo theirs >file; {}", gate.script()));
    command.current_dir(top);
    let mut running = sandbox.start(command);
    gate.reached_by(&mut running);
    (running, gate)
}

/// A mutation of this worktree that was killed in its command, with everything that it started.
#[track_caller]
pub(crate) fn killed(sandbox: &Sandbox, top: &Path, options: &[&str]) {
    let others = sandbox.holders().len();
    let (running, _gate) = mutating(sandbox, top, options);
    kill_all_of(sandbox, running, others);
}

#[track_caller]
fn kill_all_of(sandbox: &Sandbox, mut running: Running, others: usize) {
    running.signal_group(Signal::KILL);
    running.ended();
    eventually("all of it is dead", || sandbox.holders().len() == others);
}

fn text(sandbox: &Sandbox) -> String {
    let output = sandbox.repoguard(["status"]).assert().success().get_output().clone();
    String::from_utf8(output.stdout).unwrap()
}

fn journal(sandbox: &Sandbox) -> PathBuf {
    sandbox.data().join("mutation-w/journal.jsonl")
}

#[test]
fn running_one_is_a_holder_with_its_step() {
    let sandbox = Sandbox::new();
    let (mut running, gate) = mutating(&sandbox, sandbox.here(), &["--fence"]);
    let shown = text(&sandbox);
    assert!(shown.contains("`repoguard mutate -- sh -c") && shown.contains("command step"), "{shown}");
    assert!(!shown.contains("unfinished"), "{shown}");
    assert_eq!((&sandbox.holder()["step"], &sandbox.status()["unfinished"]), (&json!("command"), &Value::Null));
    sandbox.repoguard(["status", "--exit-code"]).assert().code(1);
    gate.open();
    assert!(running.ended().success(), "{}", running.stderr());
    sandbox.assert_no_traces();
}

#[test]
fn one_that_outlives_its_wrapper_runs_still() {
    let sandbox = Sandbox::new();
    let (mut running, gate) = mutating(&sandbox, sandbox.here(), &[]);
    running.keeper();
    running.signal(Signal::KILL);
    running.ended();
    assert_eq!(sandbox.holders().len(), 1, "{:?}", sandbox.holders());
    assert_eq!(sandbox.status()["unfinished"], Value::Null);
    gate.open();
    eventually("the command has ended", || sandbox.holders().is_empty());
    assert_eq!(sandbox.status()["unfinished"].as_array().map(Vec::len), Some(1));
}

#[test]
fn keeper_that_has_not_written_that_it_holds_is_one_holder() {
    if !can_trace("a keeper that comes late") {
        return;
    }
    let sandbox = Sandbox::new();
    let (mut running, gate) = mutating(&sandbox, sandbox.here(), &[]);
    let keeper = running.keeper();
    let mut strace = sandbox.command("strace");
    strace.args(["-o", "/dev/null", "-e", "trace=pwrite64", "-e", "inject=pwrite64:delay_enter=1000000"]);
    strace.args(["-p", &keeper.to_string()]);
    let mut tracer = sandbox.start(strace);
    let status = format!("/proc/{keeper}/status");
    eventually("it is traced", || !fs::read_to_string(&status).unwrap().contains("TracerPid:\t0\n"));
    running.signal(Signal::KILL);
    running.ended();
    for written in [false, true] {
        let record = || fs::read_to_string(sandbox.data().join("holders/0")).unwrap();
        eventually("the keeper writes", || written == record().contains(&format!("\"keeper\":{keeper}")));
        assert_eq!(sandbox.holders().len(), 1, "{:?}", sandbox.holders());
        assert_eq!((&sandbox.holder()["pid"], &sandbox.holder()["keeper"]), (&json!(running.pid()), &json!(keeper)));
        assert_eq!(sandbox.status()["unfinished"], Value::Null);
    }
    gate.open();
    eventually("the command has ended", || sandbox.holders().is_empty());
    tracer.ended();
}

#[test]
fn killed_one_is_told_until_it_is_put_in_order() {
    let sandbox = Sandbox::new();
    killed(&sandbox, sandbox.here(), &[]);
    let before = listing(sandbox.here());
    let shown = text(&sandbox);
    for part in
        ["unfinished mutation: pid", "`repoguard mutate -- sh -c echo theirs", "command step", "recover --status"]
    {
        assert!(shown.contains(part), "`{part}`: {shown}");
    }
    let status = sandbox.status();
    let told = &status["unfinished"][0];
    assert_eq!(told["worktree"], json!(sandbox.here()), "{status}");
    assert_eq!((&told["message"], &told["step"]), (&json!("change"), &json!("command")), "{status}");
    assert!(told["pid"].is_u64() && told["begun_ms"].is_u64(), "{status}");
    assert_eq!(told["fence"], status["died"][0]["id"], "{status}");
    sandbox.repoguard(["status", "--exit-code"]).assert().code(0);
    assert_eq!(listing(sandbox.here()), before, "asking changes nothing");
    sandbox.repoguard(["exec", "--", "true"]).assert().success();
    sandbox.assert_no_traces();
    assert!(!text(&sandbox).contains("unfinished"));
}

#[test]
fn killed_one_is_told_under_a_hold_of_something_else() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["--name", "deploy"]);
    killed(&sandbox, sandbox.here(), &[]);
    assert_eq!(sandbox.status()["unfinished"].as_array().map(Vec::len), Some(1));
    drop(holder);
}

#[test]
fn killed_one_inside_a_hold_that_lives_is_told() {
    let sandbox = Sandbox::new();
    let token = crate::support::acquire(&sandbox, &["--ttl", "1h"]);
    let gate = sandbox.gate("inside");
    let mut command = sandbox.mutate_command(&[], &gate.script());
    command.env("REPOGUARD_TOKEN", &token);
    let mut running = sandbox.start(command);
    gate.reached_by(&mut running);
    assert_eq!(sandbox.status()["unfinished"], Value::Null);
    running.signal_group(Signal::KILL);
    running.ended();
    eventually("it is told", || sandbox.status()["unfinished"].is_array());
    assert_eq!(sandbox.status()["state"], "held");
    sandbox.repoguard(["release", &token]).assert().success();
}

#[test]
fn killed_one_of_another_worktree_is_told_with_its_place() {
    let sandbox = Sandbox::new();
    let linked = sandbox.worktree("it's");
    killed(&sandbox, &linked, &[]);
    let command = "`repoguard -C '";
    let shown = text(&sandbox);
    assert!(shown.contains(command) && shown.contains(r"/it'\''s'"), "{shown}");
    assert_eq!(sandbox.status()["unfinished"][0]["worktree"], json!(linked));
    // Seen from there it is the own one.
    let output = sandbox.repoguard(["status"]).current_dir(&linked).assert().success().get_output().clone();
    let there = String::from_utf8(output.stdout).unwrap();
    assert!(there.contains("unfinished mutation: pid") && !there.contains(command), "{there}");
    // What is told can be pasted.
    let pasted = shown.split('`').find(|part| part.contains("recover --status")).expect("a command");
    sandbox.sh(pasted).assert().code(1);
    // The main worktree is free all the same.
    sandbox.repoguard(["exec", "--", "true"]).assert().success();
    assert_eq!(sandbox.status()["unfinished"].as_array().map(Vec::len), Some(1));
    sandbox.repoguard(["recover"]).current_dir(&linked).assert().success();
    sandbox.assert_no_traces();
}

#[test]
fn damaged_journal_is_told_and_never_fails_or_blocks() {
    let sandbox = Sandbox::new();
    killed(&sandbox, sandbox.here(), &[]);
    let damages = [
        ": >$journal",
        "echo garbage >$journal",
        "printf '{\"step\":\"begun\"' >$journal",
        "truncate -s 1T $journal",
        "rm $journal; mkdir $journal",
        "rm -r $journal; mkfifo $journal",
        "rm -r $journal; ln -s /dev/zero $journal",
    ];
    for damage in damages {
        sandbox.sh(damage).env("journal", journal(&sandbox)).assert().success();
        let shown = text(&sandbox);
        assert!(shown.contains("unfinished mutation") && shown.contains("cannot be read"), "{damage}: {shown}");
        let status = sandbox.status();
        assert_eq!(status["unfinished"][0]["command"], Value::Null, "{damage}: {status}");
        assert_eq!(status["state"], "free", "{damage}");
    }
}

#[test]
fn journal_of_somebody_else_cannot_play_with_the_terminal() {
    let sandbox = Sandbox::new();
    killed(&sandbox, sandbox.here(), &[]);
    let text_of = fs::read_to_string(journal(&sandbox)).unwrap();
    fs::write(journal(&sandbox), text_of.replace("echo theirs", "\\u001b[2J\\nforged")).unwrap();
    let shown = text(&sandbox);
    assert!(shown.contains("forged") && !shown.contains('\x1b') && !shown.contains("\nforged"), "{shown:?}");
}

#[test]
fn head_that_a_killed_one_moved_was_not_changed_outside() {
    let sandbox = Sandbox::new();
    sandbox.repoguard(["exec", "--", "true"]).assert().success();
    let gate = sandbox.gate("gate");
    let script = format!("git commit -q --allow-empty -m theirs; {}", gate.script());
    let mut running = sandbox.start(sandbox.mutate_command(&[], &script));
    gate.reached_by(&mut running);
    kill_all_of(&sandbox, running, 0);
    // Somebody finds that it died, but cannot put it in order.
    fs::write(journal(&sandbox), "").unwrap();
    sandbox.repoguard(["exec", "-n", "--", "true"]).output().unwrap();
    let status = sandbox.status();
    assert_eq!((&status["died"], &status["changed_outside"]), (&json!([]), &Value::Null), "{status}");
}

#[test]
fn watcher_sees_it_come_and_go() {
    let sandbox = Sandbox::new();
    let watch = sandbox.start(sandbox.repoguard_command(["status", "--watch", "--json"]));
    eventually("a first line", || watch.stdout().contains('\n'));
    killed(&sandbox, sandbox.here(), &[]);
    let last = || -> Value { serde_json::from_str(watch.stdout().lines().last().expect("a line")).expect("JSON") };
    eventually("it is seen", || last()["unfinished"].is_array());
    sandbox.repoguard(["recover"]).assert().success();
    eventually("it is gone", || last()["unfinished"].is_null());
}

#[test]
fn asking_all_the_time_never_makes_a_mutation_fail() {
    let sandbox = Sandbox::new();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let unfinished = sandbox.status()["unfinished"].clone();
                assert_eq!(unfinished, Value::Null, "none was killed");
            }
        });
        for round in 0..12 {
            let script = format!("echo {round} >file");
            sandbox.mutate(&["-n", "--fence"], &script).assert().success();
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}
