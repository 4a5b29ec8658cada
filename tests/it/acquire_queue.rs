//! `acquire --background` and `wait`: a place in the queue that survives its caller.

use rustix::process::Signal;

use crate::support::{Sandbox, acquire, alive, eventually, kill, lines};

const BACKGROUND: [&str; 3] = ["--background", "--ttl", "10m"];

fn status_of(sandbox: &Sandbox, args: &[&str]) -> Option<i32> {
    sandbox.repoguard(args).output().unwrap().status.code()
}

fn waiter_pid(sandbox: &Sandbox) -> u32 {
    let status = sandbox.status();
    let waiters = status["waiters"].as_array().expect("waiters");
    assert_eq!(waiters.len(), 1, "{status}");
    u32::try_from(waiters[0]["pid"].as_u64().expect("a pid")).unwrap()
}

#[test]
fn background_request_of_a_free_lock_holds_it() {
    let sandbox = Sandbox::new();
    let token = acquire(&sandbox, &BACKGROUND);
    assert_eq!(sandbox.try_once(&[]), 75);
    assert_eq!(status_of(&sandbox, &["wait", &token]), Some(0));
    assert_eq!(status_of(&sandbox, &["release", &token]), Some(0));
    sandbox.assert_nothing_left();
}

#[test]
fn background_request_keeps_its_place_in_the_line() {
    let sandbox = Sandbox::new();
    let mut holder = sandbox.hold(&[]);
    let mut before = sandbox.queue(&[], "echo before >>../order");
    let token = acquire(&sandbox, &BACKGROUND);
    assert_eq!(sandbox.waiters(), 2);
    let mut after = sandbox.queue(&[], "echo after >>../order");
    assert_eq!(status_of(&sandbox, &["wait", "-w", "0", &token]), Some(75));
    holder.finish();
    assert!(before.ended().success());
    assert_eq!(status_of(&sandbox, &["wait", &token]), Some(0));
    assert!(after.runs(), "it stands behind");
    assert_eq!(lines(&sandbox.outside("order")), ["before"]);
    assert_eq!(status_of(&sandbox, &["release", &token]), Some(0));
    assert!(after.ended().success());
    assert_eq!(lines(&sandbox.outside("order")), ["before", "after"]);
    sandbox.assert_nothing_left();
    sandbox.assert_nothing_to_tell();
}

#[test]
fn wait_can_be_asked_again_and_again() {
    let sandbox = Sandbox::new();
    let mut holder = sandbox.hold(&["--reason", "slow"]);
    let token = acquire(&sandbox, &BACKGROUND);
    for time in ["0", "0.1", "0.4", "0"] {
        let output = sandbox.repoguard(["wait", "-w", time, &token]).assert().code(75).get_output().clone();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(told.contains("busy") && told.contains("slow"), "{told}");
        assert_eq!(sandbox.waiters(), 1);
    }
    let mut command = sandbox.repoguard_command(["wait", &token]);
    command.stdin(std::process::Stdio::null());
    let mut interrupted = sandbox.start(command);
    eventually("it says that it waits", || interrupted.stderr().contains("waiting"));
    interrupted.signal(Signal::INT);
    assert_eq!(crate::support::shell_status(interrupted.ended()), 130);
    assert_eq!(sandbox.waiters(), 1, "the place is kept");
    let mut waits = sandbox.start(sandbox.repoguard_command(["wait", &token]));
    assert!(waits.runs());
    holder.finish();
    assert!(waits.ended().success(), "{}", waits.stderr());
    assert_eq!(status_of(&sandbox, &["wait", &token]), Some(0), "and it is still held");
    assert_eq!(status_of(&sandbox, &["release", &token]), Some(0));
    assert_eq!(status_of(&sandbox, &["wait", &token]), Some(1));
    sandbox.assert_nothing_left();
}

#[test]
fn token_of_a_place_in_the_queue_is_good_inside_once_it_is_held() {
    let sandbox = Sandbox::new();
    let mut holder = sandbox.hold(&[]);
    let token = acquire(&sandbox, &BACKGROUND);
    let inside = || {
        let mut exec = sandbox.repoguard(["exec", "-n", "--", "true"]);
        exec.env("REPOGUARD_TOKEN", &token).output().unwrap().status.code()
    };
    assert_eq!(inside(), Some(75), "not yet");
    holder.finish();
    assert_eq!(status_of(&sandbox, &["wait", &token]), Some(0));
    assert_eq!((inside(), sandbox.try_once(&[])), (Some(0), 75));
    assert_eq!(status_of(&sandbox, &["release", &token]), Some(0));
}

#[test]
fn released_place_is_given_up() {
    let sandbox = Sandbox::new();
    let mut holder = sandbox.hold(&[]);
    let token = acquire(&sandbox, &BACKGROUND);
    let waiter = waiter_pid(&sandbox);
    let mut waits = sandbox.start(sandbox.repoguard_command(["wait", &token]));
    eventually("it says that it waits", || waits.stderr().contains("waiting"));
    assert_eq!(status_of(&sandbox, &["release", &token]), Some(0));
    assert_eq!(sandbox.waiters(), 0);
    assert_eq!(waits.ended().code(), Some(1), "{}", waits.stderr());
    eventually("the waiter is gone", || !alive(waiter));
    assert_eq!(status_of(&sandbox, &["release", &token]), Some(1));
    assert!(holder.runs());
    holder.finish();
    sandbox.assert_nothing_left();
}

#[test]
fn killed_waiter_gives_up_its_place() {
    let sandbox = Sandbox::new();
    let mut holder = sandbox.hold(&[]);
    let token = acquire(&sandbox, &BACKGROUND);
    let mut behind = sandbox.queue(&[], "echo behind");
    let status = sandbox.status();
    let waiter = u32::try_from(status["waiters"][0]["pid"].as_u64().unwrap()).unwrap();
    kill(waiter, Signal::KILL);
    eventually("the waiter is gone", || !alive(waiter));
    assert_eq!(status_of(&sandbox, &["wait", &token]), Some(1));
    holder.finish();
    assert!(behind.ended().success());
    sandbox.assert_nothing_left();
}

#[test]
fn waiter_survives_its_caller_and_the_signals_of_its_terminal() {
    let sandbox = Sandbox::new();
    let mut holder = sandbox.hold(&[]);
    let mut shell = sandbox.start_up(sandbox.sh_command("repoguard acquire --background --ttl 10m; sleep 60"));
    let token = shell.first_line();
    shell.signal_group(Signal::HUP);
    shell.ended();
    assert_eq!(sandbox.waiters(), 1);
    holder.finish();
    assert_eq!(status_of(&sandbox, &["wait", &token]), Some(0));
    assert_eq!(status_of(&sandbox, &["release", &token]), Some(0));
    sandbox.assert_nothing_left();
}

#[test]
fn time_of_a_background_request_begins_when_it_is_held() {
    let sandbox = Sandbox::new();
    let mut holder = sandbox.hold(&[]);
    let token = acquire(&sandbox, &["--background", "--ttl", "0.5", "--reason", "short"]);
    std::thread::sleep(std::time::Duration::from_millis(700));
    assert_eq!(sandbox.waiters(), 1);
    holder.finish();
    sandbox.repoguard(["exec", "-w", "20", "--", "true"]).assert().success();
    let log = sandbox.log();
    let record = log.iter().find(|record| record["reason"] == "short").expect("it was held");
    assert!(record["held_ms"].as_u64().unwrap() >= 490, "{record}");
    assert_eq!(status_of(&sandbox, &["wait", &token]), Some(1));
}

#[test]
fn background_request_gives_up_after_its_time_to_wait() {
    let sandbox = Sandbox::new();
    let mut holder = sandbox.hold(&[]);
    let token = acquire(&sandbox, &["--background", "--ttl", "10m", "-w", "0.3"]);
    assert_eq!(status_of(&sandbox, &["wait", &token]), Some(1));
    assert_eq!(sandbox.waiters(), 0);
    holder.finish();
    sandbox.assert_nothing_left();
}

#[test]
fn background_request_for_a_process_that_ends_while_it_waits_holds_nothing_up() {
    let sandbox = Sandbox::new();
    let mut holder = sandbox.hold(&[]);
    sandbox.sh("repoguard acquire --background --for-pid $$ >/dev/null").assert().success();
    eventually("it leaves the queue", || sandbox.waiters() == 0);
    let mut behind = sandbox.queue(&[], "true");
    holder.finish();
    assert!(behind.ended().success());
    sandbox.assert_nothing_left();
    sandbox.assert_nothing_to_tell();
}
