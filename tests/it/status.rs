//! `repoguard status`: who holds, who waits, what was changed outside; and that asking disturbs nobody.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use rustix::process::Signal;

use crate::support::{Sandbox, eventually, has_program, listing, parent_of, skip};

fn text(sandbox: &Sandbox) -> String {
    let output = sandbox.repoguard(["status"]).assert().success().get_output().clone();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn document_has_a_schema() {
    let sandbox = Sandbox::new();
    let free = sandbox.status();
    assert!(free.is_object() && free["schema"].is_u64(), "{free}");
    let _holder = sandbox.hold(&[]);
    let held = sandbox.status();
    assert_eq!(held["schema"], free["schema"]);
    for key in free.as_object().expect("an object").keys() {
        assert!(held.get(key).is_some(), "`{key}` is always there: {held}");
    }
}

#[test]
fn exit_code_tells_held_from_free_only_when_asked() {
    let sandbox = Sandbox::new();
    let asked = |status: i32| {
        sandbox.repoguard(["status", "--exit-code"]).assert().code(status);
        sandbox.repoguard(["status"]).assert().code(0);
    };
    asked(0);
    for options in [&[][..], &["-s"], &["--scope", "repo"]] {
        let mut holder = sandbox.hold(options);
        asked(1);
        holder.finish();
        asked(0);
    }
}

#[test]
fn holder_is_shown_with_pid_command_and_reason() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["--reason", "nightly build"]);
    let pids = [holder.pid(), holder.command_pid()].map(|pid| pid.to_string());
    for shown in [text(&sandbox), sandbox.status().to_string()] {
        assert!(pids.iter().any(|pid| shown.contains(pid)), "{pids:?}: {shown}");
        for part in ["nightly build", "read _"] {
            assert!(shown.contains(part), "`{part}`: {shown}");
        }
    }
}

#[test]
fn foreign_holder_is_shown_by_pid() {
    if !has_program("flock") {
        return skip("foreign holder", "no flock(1)");
    }
    let sandbox = Sandbox::new();
    for options in [&[][..], &["-s"]] {
        let mut foreign = sandbox.hold_by_flock(options);
        let pids = [parent_of(foreign.command_pid()), foreign.command_pid()].map(|pid| pid.to_string());
        for shown in [text(&sandbox), sandbox.status().to_string()] {
            assert!(pids.iter().any(|pid| shown.contains(pid)), "{pids:?}: {shown}");
        }
        sandbox.repoguard(["status", "--exit-code"]).assert().code(1);
        foreign.finish();
    }
}

#[test]
fn waiters_are_shown_in_order() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold(&[]);
    let reasons = ["first in line", "second in line", "third in line"];
    let _waiters = reasons.map(|reason| sandbox.queue(&["--reason", reason], ":"));
    let document = sandbox.status();
    let listed: Vec<String> = document["waiters"].as_array().unwrap().iter().map(ToString::to_string).collect();
    for (waiter, reason) in listed.iter().zip(reasons) {
        assert!(waiter.contains(reason), "{reason}: {listed:?}");
    }
    let shown = text(&sandbox);
    let places = reasons.map(|reason| shown.find(reason).expect(reason));
    assert!(places.is_sorted(), "{shown}");
}

#[test]
fn hold_in_another_worktree_is_shown_as_well() {
    let sandbox = Sandbox::new();
    let linked = sandbox.worktree("linked");
    let mut command = sandbox.repoguard_command(["exec", "--reason", "over there"]);
    command.args(["--", "sh", "-c", crate::support::HOLD]).current_dir(&linked);
    let _holder = sandbox.start_up(command);
    let shown = text(&sandbox);
    assert!(shown.contains("over there"), "{shown}");
}

#[test]
fn names_that_are_held_are_shown() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold(&["--name", "deploy"]);
    assert!(text(&sandbox).contains("deploy"));
    assert!(sandbox.status().to_string().contains("deploy"));
}

#[test]
fn asking_all_the_time_never_makes_an_attempt_fail() {
    let sandbox = Sandbox::new();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    sandbox.repoguard(["status", "--json"]).assert().success();
                }
            });
        }
        let attempts = [&[][..], &["-s"], &["--scope", "repo"], &["--name", "a"]];
        let failed = (0..120).filter(|round| sandbox.try_once(attempts[round % 4]) != 0).count();
        stop.store(true, Ordering::Relaxed);
        assert_eq!(failed, 0, "attempts that status made fail");
    });
}

#[test]
fn asking_changes_no_file() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&[]);
    let _waiter = sandbox.queue(&[], ":");
    for held in [true, false] {
        if !held {
            holder.signal_group(Signal::KILL);
            eventually("all is over", || sandbox.waiters() == 0);
            eventually("free", || sandbox.try_once(&["--scope", "repo"]) == 0);
        }
        let before = listing(sandbox.here());
        for _ in 0..10 {
            sandbox.repoguard(["status"]).assert().success();
            sandbox.repoguard(["status", "--json"]).assert().success();
            sandbox.repoguard(["status", "--exit-code"]).assert().code(i32::from(held));
        }
        assert_eq!(listing(sandbox.here()), before, "held: {held}");
    }
}

#[test]
fn asking_where_nobody_ever_locked_makes_nothing() {
    let sandbox = Sandbox::new();
    let before = listing(sandbox.here());
    sandbox.repoguard(["status"]).assert().success();
    sandbox.repoguard(["log"]).assert().success();
    assert_eq!(listing(sandbox.here()), before);

    let outside = Sandbox::empty();
    outside.repoguard(["status"]).assert().success();
    assert_eq!(listing(outside.here()).len(), 1, "nothing in the directory");
    let _holder = outside.hold(&[]);
    outside.repoguard(["status", "--exit-code"]).assert().code(1);
}

/// The kernel shows its table of locks in parts: while others come and go, a part can lack what is held all the time.
#[test]
fn crowded_table_of_locks_hides_nobody() {
    let outside = Sandbox::empty();
    let _holder = outside.hold(&[]);
    let (stop, ready) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for crowd in 0..4 {
            let (outside, stop, ready) = (&outside, &stop, &ready);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let open = |n| std::fs::File::create(outside.outside(format!("{crowd}-{n}"))).unwrap();
                    let files: Vec<_> = (0..60).map(open).collect();
                    for file in &files {
                        file.lock().unwrap();
                    }
                    ready.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        eventually("a crowd", || ready.load(Ordering::Relaxed) > 4);
        let look = || outside.repoguard(["status", "--exit-code"]).output().unwrap();
        let shown_free: Vec<_> = (0..200).map(|_| look()).filter(|output| output.status.code() != Some(1)).collect();
        stop.store(true, Ordering::Relaxed);
        assert!(shown_free.is_empty(), "{} of 200: {:?}", shown_free.len(), shown_free[0]);
    });
}

#[test]
fn watching_prints_a_line_for_each_change() {
    let sandbox = Sandbox::new();
    let watch = sandbox.start(sandbox.repoguard_command(["status", "--watch", "--json"]));
    eventually("a first line", || watch.stdout().contains('\n'));
    let _holder = sandbox.hold(&["--reason", "seen by the watcher"]);
    eventually("the holder is seen", || watch.stdout().contains("seen by the watcher"));
    for line in watch.stdout().lines() {
        let document: serde_json::Value = serde_json::from_str(line).expect("a JSON line");
        assert!(document["schema"].is_u64(), "{line}");
    }
}

#[test]
fn reasons_cannot_play_with_the_terminal() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold(&["--reason", "\x1b[2Jred \x07 line\nforged line"]);
    let shown = text(&sandbox);
    assert!(!shown.contains(['\x1b', '\x07']), "{shown:?}");
    assert!(!shown.contains("\nforged line"), "{shown:?}");
    let told = sandbox.refused(&["-n"], 75);
    assert!(!told.contains(['\x1b', '\x07']) && !told.contains("\nforged line"), "{told:?}");
}
