//! Killed while a worktree is made, used or removed: what is left is listed, goes when nothing is in it, and never with work.

use std::fs;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::{Running, Sandbox, eventually, long, process_group, shell_status};

/// Waits until nothing of a command that was killed runs any more.
fn all_gone(running: &mut Running) {
    running.ended();
    eventually("all are gone", || process_group(running.pid()).is_empty());
}

#[test]
fn command_goes_on_without_its_wrapper_and_the_keeper_tidies_up() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold(&[]);
    for (script, left) in [("", 0), ("echo 1 >new;", 1)] {
        let gate = sandbox.gate(&format!("run-{left}"));
        let script = format!("{script} {}", gate.script());
        let mut inside = sandbox.start(sandbox.isolated_command(&[], &script));
        gate.reached_by(&mut inside);
        inside.keeper();
        inside.signal(Signal::KILL);
        inside.ended();
        assert_eq!(sandbox.listed()[0]["stands"], "running");
        assert!(sandbox.prune().starts_with("kept"));
        gate.open();
        all_gone(&mut inside);
        assert_eq!(sandbox.listed().len(), left, "{:?}", sandbox.listed());
    }
    assert_eq!(sandbox.listed()[0]["holds"]["untracked"], 1);
}

#[test]
fn what_a_killed_group_leaves_is_listed_and_tidied_up_by_the_next() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold(&[]);
    let killed = |script: &str| {
        let mut inside = sandbox.start_up(sandbox.isolated_command(&[], &format!("{script}; echo up; exec sleep 60")));
        inside.signal_group(Signal::KILL);
        all_gone(&mut inside);
    };
    killed(":");
    assert_eq!(sandbox.listed()[0]["stands"], "ended");
    sandbox.isolated(&[], "true").was_removed();
    sandbox.assert_no_worktree_left();

    killed("echo 2 >file");
    sandbox.isolated(&[], "true").was_removed();
    let listed = sandbox.listed();
    assert_eq!((listed.len(), &listed[0]["holds"]["changed"]), (1, &Value::from(1)), "{listed:?}");
}

#[test]
fn command_that_outlives_all_of_ours_keeps_its_worktree() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold(&[]);
    let gate = sandbox.gate("run");
    let script = format!("trap '' TERM; {}; echo 1 >new", gate.script());
    let mut inside = sandbox.start(sandbox.isolated_command(&[], &script));
    gate.reached_by(&mut inside);
    let keeper = inside.keeper();
    inside.signal(Signal::STOP);
    crate::support::kill(keeper, Signal::KILL);
    inside.signal(Signal::KILL);
    inside.ended();
    assert_eq!(sandbox.listed()[0]["stands"], "running", "its lock lives in the command");
    assert!(sandbox.prune().starts_with("kept"));
    sandbox.isolated(&[], "true").was_removed();
    gate.open();
    all_gone(&mut inside);
    assert_eq!(sandbox.listed()[0]["holds"]["untracked"], 1);
}

/// A git that kills its own parent, repoguard, when it is asked for this: before it has done it, or after; or itself half-way.
#[derive(Debug, Clone, Copy)]
enum When {
    Before,
    After,
    Itself,
}

fn deadly_git(sandbox: &Sandbox, verb: &str, when: When) -> std::ffi::OsString {
    let action = match when {
        When::Before => "kill -9 $PPID; exit 1",
        When::After => "real \"$@\"; kill -9 $PPID; exit 1",
        When::Itself => "kill -9 $PPID; kill -9 $$",
    };
    sandbox.git_that(&format!("case \" $* \" in *' {verb} '*) {action};; esac"))
}

#[test]
fn killed_at_any_call_of_git_leaves_nothing_that_is_not_tidied_up() {
    let calls = [
        "update-ref --no-deref -m",
        "worktree add",
        "reset --quiet",
        "hook run",
        "status --porcelain=v1",
        "ls-files -v",
        "worktree remove",
        "update-ref --stdin",
    ];
    let all = [When::Before, When::After, When::Itself];
    for (number, verb) in calls.into_iter().enumerate() {
        // One of them a call, all of them in the long run.
        for when in all.into_iter().cycle().skip(number).take(if long() { all.len() } else { 1 }) {
            let sandbox = Sandbox::new();
            let _holder = sandbox.hold(&[]);
            let mut command = sandbox.isolated_command(&[], "true");
            command.env("PATH", deadly_git(&sandbox, verb, when));
            let mut killed = sandbox.start(command);
            assert_eq!(shell_status(killed.ended()), 137, "{verb} {when:?}: {}", killed.stderr());
            eventually("all are gone", || process_group(killed.pid()).is_empty());
            sandbox.isolated(&[], "true").was_removed();
            let told = sandbox.prune();
            assert!(!told.contains("kept"), "{verb} {when:?}: {told}");
            sandbox.assert_no_worktree_left();
            sandbox.git(["fsck", "--strict"]);
            assert_eq!(sandbox.try_once(&["--scope", "repo"]), 75);
        }
    }
}

#[test]
fn git_that_fails_while_it_makes_one_is_an_error_and_leaves_nothing() {
    for verb in ["worktree add", "reset --quiet"] {
        let sandbox = Sandbox::new();
        let _holder = sandbox.hold(&[]);
        let path = sandbox.git_that(&format!("case \" $* \" in *' {verb} '*) echo 'disk full' >&2; exit 128;; esac"));
        let mut command = sandbox.isolated_command(&[], "touch \"$SANDBOX/ran\"");
        command.env("PATH", path);
        let went = sandbox.went(&command);
        assert_eq!((went.status, sandbox.outside("ran").exists()), (Some(125), false), "{went:?}");
        assert!(went.stderr.contains("disk full") && went.stderr.contains("failed"), "{went:?}");
        sandbox.assert_no_worktree_left();
    }
}

#[test]
fn half_of_a_checkout_goes_and_what_was_written_into_it_stays() {
    // Git is killed when it has written one file, made another, begun a third, and not written the index.
    let half = "case \" $* \" in *' reset --quiet '*) real show HEAD:file >file; : >second; head -c 3 \"$SANDBOX/repo/third\" >third; kill -9 $PPID; kill -9 $$;; esac";
    for (more, left) in
        [("", 0), ("; echo mine >new", 1), ("; echo mine >second", 1), ("; chmod +x second; ln -s . link", 1)]
    {
        let sandbox = Sandbox::new();
        sandbox.sh("echo 2 >second && echo 3333 >third && git add . && git commit -q -m more").assert().success();
        let _holder = sandbox.hold(&[]);
        let mut command = sandbox.isolated_command(&[], "true");
        command.env("PATH", sandbox.git_that(&half.replace(": >second", &format!(": >second{more}"))));
        let mut killed = sandbox.start(command);
        assert_eq!(shell_status(killed.ended()), 137);
        eventually("all are gone", || process_group(killed.pid()).is_empty());
        assert_eq!(sandbox.listed()[0]["stands"], "half-made");
        sandbox.prune();
        assert_eq!(sandbox.listed().len(), left, "{more}");
    }
}

#[test]
fn interrupted_while_it_is_made_it_is_removed_and_the_command_does_not_run() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold(&[]);
    let gate = sandbox.gate("reset");
    let path = sandbox.git_that(&format!("case \" $* \" in *' reset --quiet '*) {};; esac", gate.script()));
    for signal in [Signal::TERM, Signal::INT] {
        let mut command = sandbox.isolated_command(&[], "touch \"$SANDBOX/ran\"");
        command.env("PATH", &path);
        let mut running = sandbox.start(command);
        gate.reached_by(&mut running);
        running.signal_group(signal);
        let status = shell_status(running.ended());
        assert_eq!(status, 128 + signal.as_raw(), "{}", running.stderr());
        assert!(!sandbox.outside("ran").exists());
        sandbox.assert_no_worktree_left();
        fs::remove_file(sandbox.outside("reset.here")).unwrap();
    }
}

#[test]
fn killed_at_random_nothing_is_lost() {
    let rounds = if long() { 200 } else { 12 };
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold(&[]);
    let mut works = 0;
    for round in 0..rounds {
        // Every other one leaves work: it says so when that is there.
        let done = sandbox.outside(format!("done-{round}"));
        let work = format!(
            "echo {round} >work-{round} && git add . && git commit -q -m {round} && touch '{}'",
            done.display()
        );
        let script = if round % 2 == 0 { "true".to_owned() } else { work };
        let mut running = sandbox.start(sandbox.isolated_command(&[], &script));
        std::thread::sleep(Duration::from_millis(17 * (round % 16)));
        running.signal_group(Signal::KILL);
        all_gone(&mut running);
        works += usize::from(done.exists());
        // What a git of the command's leaves that was killed is not ours to remove.
        sandbox.sh("rm -f .git/packed-refs.lock; find .git/refs -name '*.lock' -delete").assert().success();
    }
    sandbox.isolated(&[], "true").was_removed();
    sandbox.prune();
    // Whatever said that it was done is on a branch; whatever did not may be there as well.
    let mut found = 0;
    for round in 0..rounds {
        let done = sandbox.outside(format!("done-{round}")).exists();
        let all = sandbox.git(["log", "--branches", "--format=%s"]);
        let landed = all.lines().any(|subject| subject == round.to_string());
        assert!(landed || !done, "round {round} said that it was done");
        found += usize::from(landed);
    }
    assert!(found >= works);
    for left in sandbox.listed() {
        let holds = &left["holds"];
        let is_nothing = ["commits", "changed", "untracked"].iter().all(|what| holds[what] == 0);
        assert!(!is_nothing || holds["also"].as_array().is_some_and(|also| !also.is_empty()), "{left}");
    }
    sandbox.git(["fsck", "--strict"]);
}
