//! repoguard and flock(1) on the same lock file: each excludes the other, in every combination.

use std::time::{Duration, Instant};

use crate::support::{Running, Sandbox, eventually, has_program, skip, to_the_end};

/// Who takes part: us or util-linux's flock.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Who {
    Repoguard,
    Flock,
}

const BOTH: [Who; 2] = [Who::Repoguard, Who::Flock];

fn hold(sandbox: &Sandbox, who: Who, shared: bool) -> Running {
    let options: &[&str] = if shared { &["-s"] } else { &[] };
    match who {
        Who::Repoguard => sandbox.hold(options),
        Who::Flock => sandbox.hold_by_flock(options),
    }
}

/// Whether one attempt gets the lock.
fn gets(sandbox: &Sandbox, who: Who, shared: bool) -> bool {
    let mode = if shared { "-s" } else { "-x" };
    match who {
        Who::Repoguard => match sandbox.try_once(&[mode]) {
            0 => true,
            75 => false,
            other => panic!("status {other}"),
        },
        Who::Flock => {
            let mut flock = to_the_end(sandbox.command("flock"));
            flock.args(["-n", "-E", "75", mode]).arg(sandbox.lock_file()).arg("true");
            match flock.output().unwrap().status.code() {
                Some(0) => true,
                Some(75) => false,
                other => panic!("status {other:?}"),
            }
        }
    }
}

#[test]
fn repoguard_and_flock_exclude_each_other_in_every_combination() {
    if !has_program("flock") {
        return skip("flock compatibility", "no flock(1)");
    }
    let sandbox = Sandbox::new();
    for holder in BOTH {
        for held_shared in [false, true] {
            let mut running = hold(&sandbox, holder, held_shared);
            for who in BOTH {
                for shared in [false, true] {
                    let expected = held_shared && shared;
                    let what = format!("{holder:?} shared {held_shared}, {who:?} shared {shared}");
                    assert_eq!(gets(&sandbox, who, shared), expected, "{what}");
                }
            }
            running.finish();
            for who in BOTH {
                assert!(gets(&sandbox, who, false), "free after {holder:?}");
            }
        }
    }
}

#[test]
fn flock_may_come_first_and_make_the_file() {
    if !has_program("flock") {
        return skip("flock first", "no flock(1)");
    }
    let sandbox = Sandbox::new();
    assert!(!sandbox.lock_file().exists());
    let mut holder = sandbox.hold_by_flock(&[]);
    assert_eq!(sandbox.try_once(&[]), 75);
    holder.finish();
    assert_eq!(sandbox.try_once(&[]), 0);
}

#[test]
fn each_gets_the_lock_when_the_other_lets_go() {
    if !has_program("flock") {
        return skip("hand-over with flock(1)", "no flock(1)");
    }
    let sandbox = Sandbox::new();
    let mut flock = sandbox.hold_by_flock(&[]);
    let mut ours = sandbox.queue(&[], "echo ours");
    assert_eq!(ours.stdout(), "");
    flock.finish();
    assert!(ours.ended().success());
    assert_eq!(ours.stdout(), "ours\n");

    let mut holder = sandbox.hold(&[]);
    let mut command = sandbox.command("flock");
    command.arg(sandbox.lock_file()).args(["echo", "theirs"]);
    let mut theirs = sandbox.start(command);
    assert!(!gets(&sandbox, Who::Flock, false));
    assert_eq!(theirs.stdout(), "");
    holder.finish();
    assert!(theirs.ended().success());
    assert_eq!(theirs.stdout(), "theirs\n");
}

// The cases of util-linux's tests/ts/flock/flock, with exec in flock's place: a shared holder, and then each option.

#[test]
fn no_block_has_the_chosen_conflict_status() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold(&["-s"]);
    let mut exec = sandbox.repoguard(["exec", "-n", "-E", "123", "--", "echo", "never seen"]);
    exec.assert().code(123).stdout("");
}

#[test]
fn no_block_with_a_free_lock_runs() {
    let sandbox = Sandbox::new();
    sandbox.repoguard(["exec", "-n", "--", "echo", "seen"]).assert().success().stdout("seen\n");
}

#[test]
fn shared_beside_a_shared_holder_runs() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold(&["-s"]);
    let mut exec = sandbox.repoguard(["exec", "-s", "-n", "--", "echo", "shared"]);
    exec.assert().success().stdout("shared\n");
}

#[test]
fn timeout_ends_the_wait_with_the_conflict_status() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold(&["-s"]);
    let start = Instant::now();
    let mut exec = sandbox.repoguard(["exec", "--timeout", "0.6", "-E", "5", "--", "echo", "never"]);
    exec.assert().code(5).stdout("");
    assert!(start.elapsed() >= Duration::from_millis(600));
}

#[test]
fn timeout_that_is_long_enough_runs() {
    let sandbox = Sandbox::new();
    let mut holder = sandbox.hold(&[]);
    let mut waiter = sandbox.queue(&["--timeout", "60"], "echo got it");
    holder.finish();
    assert!(waiter.ended().success());
    assert_eq!(waiter.stdout(), "got it\n");
}

#[test]
fn lock_does_not_outlive_the_command_in_its_children() {
    let sandbox = Sandbox::new();
    // flock(1) needs --close for this.
    let script = "sleep 60 </dev/null >/dev/null 2>&1 & echo $!";
    let mut command = sandbox.repoguard(["exec", "--", "sh", "-c", script]);
    command.assert().success();
    assert_eq!(sandbox.try_once(&[]), 0);
    if has_program("flock") {
        eventually("flock(1) gets it as well", || gets(&sandbox, Who::Flock, false));
    }
}
