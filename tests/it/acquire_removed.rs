//! `repoguard acquire` after somebody removed our files, and for a process that ends while it is waited.

use std::fs;
use std::process::Stdio;

use rustix::process::Signal;

use crate::support::{Sandbox, acquire, eventually, kill};

fn status_of(sandbox: &Sandbox, args: &[&str]) -> Option<i32> {
    sandbox.repoguard(args).output().unwrap().status.code()
}

/// Ways to remove what a hold is found by, and the status of its release: 76 if the file that is locked for the repository goes, too.
const REMOVALS: [(&str, i32); 6] = [
    ("rm -rf .git/repoguard", 76),
    ("rm -rf .git/repoguard/holders", 0),
    ("rm -f .git/repoguard/holders/*", 0),
    ("rm -f .git/repoguard.lock; rm -rf .git/repoguard", 76),
    ("mv .git/repoguard ../away", 76),
    ("rm -rf .git/repoguard; repoguard next seq >/dev/null; repoguard exec --name other -- true", 76),
];

#[test]
fn hold_is_released_by_its_token_although_its_record_was_removed() {
    for (removal, released) in REMOVALS {
        for options in [&["--ttl", "10m"][..], &["--for-pid", &std::process::id().to_string()]] {
            let sandbox = Sandbox::new();
            let token = acquire(&sandbox, options);
            sandbox.sh(removal).assert().success();
            assert_eq!(sandbox.try_once(&[]), 75, "{removal}");
            assert_eq!(status_of(&sandbox, &["wait", &token]), Some(0), "{removal}");
            assert_eq!(status_of(&sandbox, &["release", &token]), Some(released), "{removal}");
            assert_eq!(sandbox.try_once(&[]), 0, "{removal}");
            assert_eq!(status_of(&sandbox, &["release", &token]), Some(1), "{removal}");
            sandbox.assert_nothing_left();
        }
    }
}

#[test]
fn hold_is_shown_and_its_token_is_inside_although_its_record_was_removed() {
    for (removal, _) in REMOVALS {
        let sandbox = Sandbox::new();
        let token = acquire(&sandbox, &["--ttl", "10m", "--reason", "several steps"]);
        sandbox.sh(removal).assert().success();
        eventually("the record is there again", || {
            sandbox.holders().iter().any(|holder| holder["reason"] == "several steps")
        });
        let mut inside = sandbox.repoguard(["exec", "-n", "--", "true"]);
        inside.env("REPOGUARD_TOKEN", &token).assert().success().stderr("");
        // Once more, as often as it happens.
        sandbox.sh("rm -rf .git/repoguard").assert().success();
        assert_eq!(status_of(&sandbox, &["release", &token]), Some(76), "{removal}");
    }
}

#[test]
fn git_that_is_held_for_is_shown_although_its_record_was_removed() {
    let sandbox = Sandbox::guarded();
    let gate = sandbox.gate("editor");
    let mut command = sandbox.git_command(["commit", "-q", "--allow-empty"]);
    command.env("GIT_EDITOR", format!("sh -c '{}; echo x >\"$1\"' editor", gate.script().replace('\'', "\"")));
    let mut git = sandbox.start(command);
    gate.reached_by(&mut git);
    fs::remove_dir_all(sandbox.data()).unwrap();
    eventually("the record is there again", || sandbox.holders().iter().any(|holder| holder["for_git"] == true));
    gate.open();
    git.ended();
    eventually("free", || sandbox.try_once(&[]) == 0);
}

#[test]
fn background_request_is_found_and_served_although_its_place_was_removed() {
    for removal in ["rm -rf .git/repoguard", "rm -rf .git/repoguard/queue", "rm -f .git/repoguard/queue/*.json"] {
        let sandbox = Sandbox::new();
        let mut holder = sandbox.hold(&[]);
        let token = acquire(&sandbox, &["--background", "--ttl", "10m"]);
        let other = acquire(&sandbox, &["--background", "--ttl", "10m"]);
        sandbox.sh(removal).assert().success();
        assert_eq!(status_of(&sandbox, &["wait", "-w", "0", &token]), Some(75), "{removal}");
        eventually("both stand in the queue again", || sandbox.waiters() == 2);
        assert_eq!(status_of(&sandbox, &["release", &other]), Some(0), "{removal}");
        holder.finish();
        assert_eq!(status_of(&sandbox, &["wait", &token]), Some(0), "{removal}");
        assert_eq!(status_of(&sandbox, &["release", &token]), Some(0), "{removal}");
        assert_eq!(status_of(&sandbox, &["release", &other]), Some(1), "{removal}");
        assert_eq!(sandbox.try_once(&[]), 0);
        sandbox.assert_nothing_left();
    }
}

#[test]
fn dead_holder_is_still_reported_after_a_record_was_written_again() {
    let sandbox = Sandbox::new();
    let token = acquire(&sandbox, &["--ttl", "10m", "--name", "one"]);
    let mut dead = sandbox.hold_with(&["--name", "two"], "echo up; sleep 60");
    dead.keeper();
    dead.signal_group(Signal::KILL);
    dead.ended();
    eventually("it died", || sandbox.status()["died"].as_array().is_some_and(|died| died.len() == 1));
    fs::remove_file(sandbox.data().join("holders/0")).unwrap();
    eventually("the record is there again", || sandbox.holders().len() == 1);
    assert_eq!(sandbox.status()["died"].as_array().map(Vec::len), Some(1));
    assert_eq!(status_of(&sandbox, &["release", &token]), Some(0));
}

#[test]
fn waiting_for_a_process_ends_with_it() {
    for options in [&[][..], &["-w", "50"], &["--ttl", "10m"], &["--json"]] {
        let sandbox = Sandbox::new();
        let mut holder = sandbox.hold(&[]);
        let mut process = sandbox.command("sleep").arg("100").stdin(Stdio::null()).spawn().unwrap();
        let pid = process.id().to_string();
        let mut command = sandbox.repoguard_command(["acquire", "--for-pid", &pid]);
        let mut waiting = sandbox.start({
            command.args(options);
            command
        });
        eventually("it waits", || sandbox.waiters() == 1);
        // Nobody reaps it: it has ended all the same.
        kill(process.id(), Signal::KILL);
        assert_eq!(waiting.ended().code(), Some(125), "{options:?}");
        assert!(waiting.stderr().contains(&format!("process {pid}")), "{}", waiting.stderr());
        assert_eq!(waiting.stdout().contains(r#""outcome":"failed""#), options == ["--json"], "{}", waiting.stdout());
        assert_eq!(sandbox.waiters(), 0);
        process.wait().unwrap();
        holder.finish();
        sandbox.assert_nothing_left();
        sandbox.assert_nothing_to_tell();
    }
}

#[test]
fn background_request_for_a_process_leaves_the_queue_with_it() {
    for others_before in [0, 1] {
        let sandbox = Sandbox::new();
        let mut holder = sandbox.hold(&[]);
        let mut others: Vec<_> = (0..others_before).map(|_| sandbox.queue(&[], "true")).collect();
        let mut process = sandbox.command("sleep").arg("100").stdin(Stdio::null()).spawn().unwrap();
        let token = acquire(&sandbox, &["--background", "--for-pid", &process.id().to_string()]);
        assert_eq!(sandbox.waiters(), others_before + 1);
        kill(process.id(), Signal::KILL);
        eventually("it is gone from the queue", || sandbox.waiters() == others_before);
        assert_eq!(status_of(&sandbox, &["wait", &token]), Some(1));
        process.wait().unwrap();
        holder.finish();
        for other in &mut others {
            assert!(other.ended().success());
        }
        sandbox.assert_nothing_left();
        sandbox.assert_nothing_to_tell();
    }
}
