//! The hold of git's hooks: it begins in the first hook and ends with git, however git ends.

use std::fs;

use rustix::process::Signal;

use crate::support::{
    Sandbox, Terminal, alive, can_trace, eventually, has_program, kill, lines, script, skip, to_the_end,
};

const COMMIT: [&str; 4] = ["commit", "-q", "-m", "two words"];

#[test]
fn lock_is_held_from_the_first_hook_until_git_has_ended() {
    for hook in ["commit-msg", "post-commit"] {
        let sandbox = Sandbox::guarded();
        let gate = sandbox.gate("gate");
        sandbox.own_hook(hook, &gate.script());
        sandbox.stage("new");
        let mut git = sandbox.start(sandbox.git_command(COMMIT));
        gate.reached_by(&mut git);
        let holder = sandbox.holder();
        assert_eq!(holder["pid"], git.pid(), "{holder}");
        assert_eq!(holder["command"], "git commit -q -m two words");
        assert_eq!(holder["scope"], "worktree");
        assert_eq!(holder["mode"], "exclusive");
        assert!(holder.get("editor").is_none(), "{holder}");
        for (asked, status) in [(&[][..], 75), (&["-s"], 75), (&["--scope", "repo"], 75), (&["--name", "x"], 0)] {
            assert_eq!(sandbox.try_once(asked), status, "{hook}: {asked:?}");
        }
        gate.open();
        assert!(git.ended().success(), "{}", git.stderr());
        sandbox.assert_nothing_left();
        sandbox.assert_nothing_to_tell();
        assert_eq!(git.stderr(), "");
    }
}

#[test]
fn lock_is_held_while_an_editor_is_open_and_status_says_so() {
    let sandbox = Sandbox::guarded();
    let gate = sandbox.gate("gate");
    let editor = sandbox.outside("editor");
    script(&editor, &format!("{}; echo message >\"$1\"", gate.script()));
    sandbox.stage("new");
    let mut command = sandbox.git_command(["commit", "-q"]);
    command.env("GIT_EDITOR", &editor);
    let mut git = sandbox.start(command);
    gate.reached_by(&mut git);
    assert_eq!(sandbox.try_once(&[]), 75);
    assert_eq!(sandbox.holder()["editor"], true);
    let text = sandbox.repoguard(["status"]).assert().success().get_output().clone();
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.contains("(an editor is open)"), "{text}");
    gate.open();
    assert!(git.ended().success(), "{}", git.stderr());
    sandbox.assert_nothing_left();
}

#[test]
fn lock_is_free_after_a_commit_that_a_hook_rejected() {
    let sandbox = Sandbox::guarded();
    sandbox.own_hook("commit-msg", "exit 1");
    sandbox.stage("new");
    for _ in 0..5 {
        let mut git = sandbox.start(sandbox.git_command(COMMIT));
        assert_eq!(git.ended().code(), Some(1), "{}", git.stderr());
        assert_eq!(sandbox.try_once(&[]), 0);
    }
    sandbox.assert_nothing_left();
}

#[test]
fn lock_is_free_once_git_was_interrupted_or_killed() {
    for (signal, group) in [(Signal::INT, true), (Signal::TERM, false), (Signal::KILL, false), (Signal::KILL, true)] {
        let sandbox = Sandbox::guarded();
        let gate = sandbox.gate("gate");
        sandbox.own_hook("commit-msg", &gate.script());
        sandbox.stage("new");
        let mut git = sandbox.start(sandbox.git_command(COMMIT));
        gate.reached_by(&mut git);
        let watcher = sandbox.watcher();
        if group {
            git.signal_group(signal);
        } else {
            git.signal(signal);
        }
        git.ended();
        assert_eq!(sandbox.try_once(&[]), 0, "{signal:?}, group: {group}");
        eventually("the watcher is gone", || !alive(watcher));
        gate.open();
        sandbox.assert_nothing_left();
        sandbox.assert_nothing_to_tell();
    }
}

#[test]
fn ctrl_c_on_a_terminal_ends_the_commit_and_frees_the_lock() {
    let sandbox = Sandbox::guarded();
    let Some(terminal) = Terminal::open(&sandbox, 80) else {
        return skip("Ctrl-C in git commit", "no tmux or no bash");
    };
    let gate = sandbox.gate("gate");
    sandbox.own_hook("commit-msg", &format!("echo 'in the ''hook' >&2; {}", gate.script()));
    sandbox.stage("new");
    terminal.line("git commit -m new");
    terminal.expect("in the hook");
    assert_eq!(sandbox.try_once(&[]), 75);
    terminal.key("C-c");
    terminal.prompt();
    assert_eq!(sandbox.try_once(&[]), 0);
    terminal.line("echo \"status $?\"");
    terminal.expect("status 1");
    assert_eq!(sandbox.git(["rev-list", "--count", "HEAD"]), "1\n");
}

#[test]
fn killed_watcher_frees_the_lock_is_told_of_and_does_not_stop_git() {
    let sandbox = Sandbox::guarded();
    let gate = sandbox.gate("gate");
    sandbox.own_hook("commit-msg", &gate.script());
    sandbox.stage("new");
    let mut git = sandbox.start(sandbox.git_command(COMMIT));
    gate.reached_by(&mut git);
    let watcher = sandbox.watcher();
    kill(watcher, Signal::KILL);
    eventually("the watcher is gone", || !alive(watcher));
    let told = sandbox.repoguard(["exec", "-n", "--", "true"]).assert().success().get_output().clone();
    let told = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(told.contains("killed before it could release"), "{told}");
    assert!(told.contains(&format!("pid {}", git.pid())), "{told}");
    gate.open();
    assert!(git.ended().success(), "{}", git.stderr());
    assert_eq!(sandbox.git(["log", "-1", "--format=%s"]), "two words\n");
    let records = sandbox.log();
    assert!(records.iter().any(|record| record["event"] == "died" && record["pid"] == git.pid()), "{records:?}");
    assert_eq!(sandbox.tickets(), [""; 0]);
}

#[test]
fn polite_signals_to_the_watcher_change_nothing() {
    let sandbox = Sandbox::guarded();
    let gate = sandbox.gate("gate");
    sandbox.own_hook("commit-msg", &gate.script());
    sandbox.stage("new");
    let mut git = sandbox.start(sandbox.git_command(COMMIT));
    gate.reached_by(&mut git);
    let watcher = sandbox.watcher();
    for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT, Signal::PIPE] {
        kill(watcher, signal);
        for _ in 0..3 {
            assert_eq!(sandbox.try_once(&[]), 75, "{signal:?}");
        }
        assert!(alive(watcher), "{signal:?}");
    }
    gate.open();
    assert!(git.ended().success(), "{}", git.stderr());
    sandbox.assert_nothing_left();
}

#[test]
fn watcher_that_comes_late_keeps_no_hook_of_its_commit_out() {
    if !can_trace("a watcher that comes late") {
        return;
    }
    let sandbox = Sandbox::guarded();
    sandbox.stage("new");
    // As on a loaded machine: it has the lock, and has not written yet who it is.
    let mut strace = sandbox.command("strace");
    strace.args(["-f", "-o", "/dev/null", "-e", "trace=setsid", "-e", "inject=setsid:delay_enter=500000", "git"]);
    strace.args(COMMIT).env("REPOGUARD_HOOK_TIMEOUT", "0");
    to_the_end(strace).assert().success().stderr("");
    sandbox.repoguard(["exec", "--", "true"]).assert().success();
    assert_eq!(sandbox.log().iter().filter(|record| record["event"] != "hold").count(), 0);
}

#[test]
fn who_waits_behind_a_commit_comes_in_when_git_has_ended() {
    let sandbox = Sandbox::guarded();
    let gate = sandbox.gate("gate");
    let marker = sandbox.outside("marker");
    sandbox.own_hook("post-commit", &format!("{}; echo over >'{}'", gate.script(), marker.display()));
    sandbox.stage("new");
    let mut git = sandbox.start(sandbox.git_command(COMMIT));
    gate.reached_by(&mut git);
    let mut waiter = sandbox.queue(&[], &format!("cat '{}'; git status --porcelain", marker.display()));
    assert!(!marker.exists());
    gate.open();
    assert!(waiter.ended().success(), "{}", waiter.stderr());
    assert_eq!(waiter.stdout(), "over\n", "{}", waiter.stderr());
    assert!(git.ended().success());
}

#[test]
fn daemon_that_a_hook_of_git_leaves_does_not_pin_the_lock() {
    if !has_program("setsid") {
        return skip("daemon of a git hook", "no setsid(1)");
    }
    let sandbox = Sandbox::guarded();
    let daemons = sandbox.outside("daemons");
    let body = format!(
        "sleep 60 >/dev/null 2>&1 & echo $! >>'{0}'; setsid sleep 60 </dev/null >/dev/null 2>&1 & echo $! >>'{0}'",
        daemons.display()
    );
    sandbox.own_hook("post-commit", &body);
    sandbox.stage("new");
    let mut git = sandbox.start(sandbox.git_command(COMMIT));
    assert!(git.ended().success(), "{}", git.stderr());
    assert_eq!(sandbox.try_once(&[]), 0);
    let daemons: Vec<u32> = lines(&daemons).iter().map(|pid| pid.parse().expect("a pid")).collect();
    assert_eq!(daemons.len(), 2);
    let mut left = sandbox.processes();
    left.retain(|pid| !daemons.contains(pid));
    eventually("nobody else is left", || left.iter().all(|pid| !alive(*pid)));
    assert!(daemons.iter().all(|pid| alive(*pid)), "although the daemons live");
}

#[test]
fn hook_that_no_git_runs_only_asks_and_holds_nothing() {
    let sandbox = Sandbox::guarded();
    // Who runs the tests below a git (`git bisect run`) gives every hook a git above it.
    sandbox.sh("exec .git/hooks/pre-commit").assert().success().stderr("");
    assert_eq!(sandbox.try_once(&[]), 0);
    let _holder = sandbox.hold(&[]);
    let output = sandbox.sh("exec .git/hooks/pre-commit").env("REPOGUARD_HOOK_TIMEOUT", "0").output().unwrap();
    assert_eq!(output.status.code(), Some(75));
    assert!(String::from_utf8_lossy(&output.stderr).contains("busy"));
    assert_eq!(fs::read_dir(sandbox.data().join("index")).into_iter().flatten().count(), 0);
}
