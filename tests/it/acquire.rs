//! `repoguard acquire`: a hold that several steps share, and every way in which it ends.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::{Sandbox, acquire, alive, eventually, kill, skip, zombies_below};

const LONG: [&str; 2] = ["--ttl", "10m"];

fn status_of(sandbox: &Sandbox, args: &[&str]) -> Option<i32> {
    sandbox.repoguard(args).output().unwrap().status.code()
}

/// A process that lives until it is killed, and is reaped by nobody before this value goes.
struct Victim(std::process::Child);

impl Victim {
    fn new(sandbox: &Sandbox) -> Self {
        let mut command = sandbox.command("sleep");
        Self(command.arg("120").stdin(Stdio::null()).spawn().unwrap())
    }

    fn pid(&self) -> String {
        self.0.id().to_string()
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn hold_lasts_until_it_is_released_and_once_is_enough() {
    let sandbox = Sandbox::new();
    let token = acquire(&sandbox, &LONG);
    assert_eq!(sandbox.try_once(&[]), 75);
    assert_eq!(sandbox.try_once(&["-s"]), 75);
    assert_eq!(sandbox.try_once(&["--name", "x"]), 0);
    assert_eq!(status_of(&sandbox, &["release", &token]), Some(0));
    assert_eq!(sandbox.try_once(&[]), 0);
    for wrong in [&token, "7-00", "garbage", "../../x", &format!("{token}0")] {
        assert_eq!(status_of(&sandbox, &["release", wrong]), Some(1), "{wrong}");
    }
    sandbox.assert_nothing_left();
    sandbox.assert_nothing_to_tell();
    let holds = sandbox.log().into_iter().filter(|record| record["command"] == "repoguard acquire");
    assert_eq!(holds.count(), 1);
}

#[test]
fn wrong_token_harms_nobody() {
    let sandbox = Sandbox::new();
    let token = acquire(&sandbox, &LONG);
    let flipped = if token.ends_with('0') { '1' } else { '0' };
    let forged = format!("{}{flipped}", &token[..token.len() - 1]);
    for wrong in [forged.as_str(), "garbage", "garbage/inside", ""] {
        assert_ne!(status_of(&sandbox, &["release", wrong]), Some(0), "`{wrong}`");
        assert_ne!(status_of(&sandbox, &["wait", "-w", "0", wrong]), Some(0), "`{wrong}`");
        assert_eq!(sandbox.try_once(&[]), 75, "{wrong}");
    }
}

#[test]
fn who_asks_for_ever_or_for_nobody_is_refused() {
    let sandbox = Sandbox::new();
    for (args, status) in [
        (&["acquire"][..], 2),
        (&["acquire", "--for-pid", "0"], 2),
        (&["acquire", "--for-pid", "me"], 2),
        (&["acquire", "--ttl", "soon"], 2),
        (&["acquire", "--ttl", "0"], 2),
        (&["acquire", "--ttl", "0s", "--background"], 2),
        (&["acquire", "--ttl", "-0.0"], 2),
        (&["acquire", "--ttl", "-5"], 2),
        (&["acquire", "--ttl", "1e-9"], 2),
        (&["acquire", "--ttl", "nan"], 2),
        (&["acquire", "--ttl", "inf", "--for-pid", "1"], 2),
        (&["acquire", "--ttl", "1e400"], 2),
        (&["acquire", "--ttl", "99999999999999999999999d"], 2),
        (&["exec", "--max-hold", "0", "--", "true"], 2),
        (&["exec", "--max-hold", "-1", "--", "true"], 2),
        (&["mutate", "-m", "x", "--max-hold", "0ms", "--", "true"], 2),
        (&["exec", "--kill-after", "-1", "--", "true"], 2),
        (&["exec", "-w", "nan", "--", "true"], 2),
        (&["wait", "-w", "-1", "7-00"], 2),
        (&["exec", "-w", "1e15", "--max-hold", "1e15", "--kill-after", "0", "--", "true"], 0),
        (&["acquire", "--ttl", "1m", "--shared", "--scope", "repo"], 2),
        (&["acquire", "--for-pid", "4194305"], 125),
        (&["acquire", "--for-pid", "4294967295"], 125),
    ] {
        assert_eq!(status_of(&sandbox, args), Some(status), "{args:?}");
        assert_eq!(sandbox.try_once(&[]), 0, "{args:?}");
    }
    let mut dead = Victim::new(&sandbox);
    dead.0.kill().unwrap();
    eventually("it is a zombie", || zombies_below(std::process::id()).contains(&dead.0.id()));
    assert_eq!(status_of(&sandbox, &["acquire", "--for-pid", &dead.pid()]), Some(125), "a zombie has ended");
    assert_eq!(sandbox.try_once(&[]), 0);
}

#[test]
fn who_shows_the_token_is_inside_and_nobody_else() {
    let sandbox = Sandbox::guarded();
    sandbox.stage("new");
    let script = "set -e; token=$(repoguard acquire --for-pid $$); ! repoguard exec -n -- true 2>/dev/null; \
        ! REPOGUARD_HOOK_TIMEOUT=0 git commit -q -m outside 2>/dev/null; export REPOGUARD_TOKEN=$token; repoguard exec -n -- true; \
        REPOGUARD_HOOK_TIMEOUT=0 git commit -q -m inside; repoguard exec -n -- git commit -q --allow-empty -m two; \
        repoguard release \"$token\"; ! repoguard release \"$token\" 2>/dev/null; repoguard exec -n -- true";
    let output = sandbox.sh(script).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{told}");
    assert_eq!(sandbox.git(["log", "--format=%s"]), "two\ninside\nfirst\n");
    sandbox.assert_nothing_left();
    sandbox.assert_nothing_to_tell();
}

#[test]
fn end_of_the_script_ends_its_hold() {
    let sandbox = Sandbox::new();
    sandbox.sh("token=$(repoguard acquire --for-pid $$) && test -n \"$token\"").assert().success();
    eventually("it is let go", || sandbox.try_once(&[]) == 0);
    sandbox.assert_nothing_left();
}

#[test]
fn killed_process_ends_the_hold_that_was_for_it() {
    for signal in [Signal::KILL, Signal::TERM] {
        let sandbox = Sandbox::new();
        let victim = Victim::new(&sandbox);
        acquire(&sandbox, &["--for-pid", &victim.pid(), "--ttl", "10m"]);
        let holder = sandbox.holder();
        assert_eq!(holder["for_pid"].to_string(), victim.pid());
        assert!(holder["until_ms"].as_u64().is_some());
        assert!(holder["command"].as_str().unwrap().starts_with("sleep"), "{holder}");
        assert_eq!(sandbox.try_once(&[]), 75);
        kill(victim.0.id(), signal);
        // A zombie until this test reaps it: it has ended all the same.
        eventually("it has ended", || !alive(victim.0.id()));
        eventually("it is let go", || sandbox.try_once(&[]) == 0);
        drop(victim);
        sandbox.assert_nothing_left();
    }
}

#[test]
fn time_to_live_ends_the_hold_and_the_log_has_it() {
    let sandbox = Sandbox::new();
    let begun = Instant::now();
    let token = acquire(&sandbox, &["--ttl", "0.7", "--reason", "short"]);
    assert_eq!(sandbox.try_once(&[]), if begun.elapsed() < Duration::from_millis(500) { 75 } else { 0 });
    sandbox.repoguard(["exec", "--", "true"]).assert().success();
    assert!(begun.elapsed() >= Duration::from_millis(700));
    let log = sandbox.log();
    let record = log.iter().find(|record| record["reason"] == "short").expect("a record");
    let held = record["held_ms"].as_u64().unwrap();
    assert!((690..5000).contains(&held), "{record}");
    assert_eq!(record["event"], "hold");
    assert_eq!(status_of(&sandbox, &["release", &token]), Some(1));
    sandbox.assert_nothing_left();
}

#[test]
fn command_substitution_does_not_wait_for_the_keeper() {
    let sandbox = Sandbox::new();
    let mut acquire = sandbox.repoguard_command(["acquire", "--ttl", "10m"]);
    acquire.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // Reads both pipes to their end: whoever keeps one of them open makes this hang.
    let output = crate::support::to_the_end(acquire).output().unwrap();
    assert!(output.status.success());
    let keeper = sandbox.holder()["pid"].as_u64().unwrap();
    assert!(std::path::Path::new(&format!("/proc/{keeper}")).exists());
    for number in 0..3 {
        let target = std::fs::read_link(format!("/proc/{keeper}/fd/{number}")).unwrap();
        assert_eq!(target.to_str(), Some("/dev/null"));
    }
    assert_eq!(std::fs::read_link(format!("/proc/{keeper}/cwd")).unwrap().to_str(), Some("/"));
}

/// Pids of the processes that keep or wait, as `status` shows them.
fn pid_of(party: &Value) -> u32 {
    u32::try_from(party["pid"].as_u64().expect("a pid")).unwrap()
}

#[test]
fn killed_keeper_frees_the_lock_and_is_told_of() {
    let sandbox = Sandbox::new();
    let token = acquire(&sandbox, &["--ttl", "10m", "--reason", "doomed"]);
    let keeper = pid_of(&sandbox.holder());
    kill(keeper, Signal::KILL);
    eventually("the keeper is gone", || !alive(keeper));
    assert_eq!(status_of(&sandbox, &["release", &token]), Some(1));
    let told = sandbox.repoguard(["exec", "-n", "--", "true"]).assert().success().get_output().clone();
    let told = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(told.contains("killed before it could release") && told.contains("doomed"), "{told}");
    sandbox.assert_nothing_left();
}

#[test]
fn keeper_survives_signals_of_the_terminal_and_lets_go_properly_on_request() {
    let sandbox = Sandbox::new();
    acquire(&sandbox, &["--ttl", "10m", "--reason", "kept"]);
    let keeper = pid_of(&sandbox.holder());
    for signal in [Signal::INT, Signal::HUP, Signal::QUIT, Signal::PIPE] {
        kill(keeper, signal);
        assert_eq!(sandbox.try_once(&[]), 75, "{signal:?}");
        assert!(alive(keeper), "{signal:?}");
    }
    kill(keeper, Signal::TERM);
    eventually("the keeper is gone", || !alive(keeper));
    sandbox.assert_nothing_left();
    sandbox.assert_nothing_to_tell();
    assert_eq!(sandbox.log().iter().filter(|record| record["reason"] == "kept").count(), 1);
}

#[test]
fn keeper_survives_the_session_that_acquired() {
    let sandbox = Sandbox::new();
    let mut shell = sandbox.start_up(sandbox.sh_command("repoguard acquire --ttl 10m; sleep 60"));
    let token = shell.first_line();
    shell.signal_group(Signal::HUP);
    shell.ended();
    assert_eq!(sandbox.try_once(&[]), 75);
    assert_eq!(status_of(&sandbox, &["release", &token]), Some(0));
    sandbox.assert_nothing_left();
}

#[test]
fn token_of_exec_is_not_released() {
    let sandbox = Sandbox::new();
    let mut holder = sandbox.hold_with(&[], "echo $REPOGUARD_TOKEN; read _ || :");
    assert_eq!(status_of(&sandbox, &["release", &holder.first_line()]), Some(1));
    assert_eq!(sandbox.try_once(&[]), 75);
    assert!(holder.finish().success());
}

#[test]
fn acquire_inside_a_hold_acquires_nothing_and_release_frees_nothing() {
    let sandbox = Sandbox::new();
    let script = "set -e; token=$(repoguard acquire -n --ttl 10m); echo \"$token\"; read _; repoguard release \"$token\"; \
        REPOGUARD_TOKEN=$token repoguard exec -n -- true; echo released; read _";
    let mut holder = sandbox.hold_with(&[], script);
    assert!(holder.first_line().ends_with("/inside"), "{}", holder.first_line());
    assert_eq!(sandbox.holders().len(), 1);
    holder.send("go");
    eventually("released", || holder.stdout().contains("released"));
    assert_eq!(sandbox.try_once(&[]), 75, "the outer hold goes on");
    holder.send("go");
    assert!(holder.ended().success(), "{}", holder.stderr());
    sandbox.assert_nothing_left();
}

#[test]
fn acquire_inside_a_hold_takes_what_is_not_held() {
    let sandbox = Sandbox::new();
    let script = "token=$(repoguard acquire -n --ttl 10m --name x) || exit; echo \"$token\"; read _; repoguard release \"$token\"";
    let mut holder = sandbox.hold_with(&[], script);
    assert_eq!(sandbox.try_once(&["--name", "x"]), 75);
    holder.send("go");
    assert!(holder.ended().success(), "{}", holder.stderr());
    assert_eq!(sandbox.try_once(&["--name", "x"]), 0);
    sandbox.assert_nothing_left();
}

#[test]
fn options_of_exec_mean_the_same() {
    let sandbox = Sandbox::new();
    let shared = acquire(&sandbox, &["--ttl", "10m", "-s"]);
    assert_eq!((sandbox.try_once(&["-s"]), sandbox.try_once(&[])), (0, 75));
    for (options, status) in [(&["-n"][..], 75), (&["-w", "0.1"], 75), (&["-n", "-E", "9"], 9), (&["-n", "-s"], 0)] {
        let mut args = vec!["acquire", "--ttl", "10m"];
        args.extend(options);
        assert_eq!(status_of(&sandbox, &args), Some(status), "{options:?}");
    }
    let second = sandbox.holders().len();
    assert_eq!(second, 2, "two that share");
    assert_eq!(status_of(&sandbox, &["release", &shared]), Some(0));
    assert_eq!(sandbox.try_once(&[]), 75);

    let sandbox = Sandbox::new();
    let named = acquire(&sandbox, &["--ttl", "10m", "--name", "deploy", "--reason", "friday"]);
    assert_eq!((sandbox.try_once(&["--name", "deploy"]), sandbox.try_once(&[])), (75, 0));
    assert_eq!(sandbox.try_once(&["--scope", "repo"]), 75);
    let told = sandbox.repoguard(["exec", "-n", "--name", "deploy", "--", "true"]).output().unwrap();
    let told = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(told.contains("friday") && told.contains("at the latest until"), "{told}");
    assert_eq!(status_of(&sandbox, &["release", &named]), Some(0));
    let whole = acquire(&sandbox, &["--ttl", "10m", "--scope", "repo"]);
    assert_eq!(sandbox.try_once(&["--name", "other"]), 75);
    assert_eq!(status_of(&sandbox, &["release", &whole]), Some(0));
    sandbox.assert_nothing_left();
}

#[test]
fn documents_say_how_it_stands() {
    let sandbox = Sandbox::new();
    let json = |args: &[&str], status: i32| -> Value {
        let output = sandbox.repoguard(args).assert().code(status).get_output().clone();
        serde_json::from_slice(&output.stdout).expect("one JSON document")
    };
    let grant = json(&["acquire", "--ttl", "10m", "--json"], 0);
    assert_eq!((&grant["schema"], &grant["state"]), (&Value::from(1), &Value::from("held")));
    assert_eq!(grant["fence"], sandbox.holder()["id"]);
    let token = grant["token"].as_str().unwrap();
    let queued = json(&["acquire", "--background", "--ttl", "10m", "--json"], 0);
    assert_eq!((&queued["state"], &queued["fence"]), (&Value::from("queued"), &Value::Null));
    assert_eq!(json(&["wait", token, "--json"], 0)["state"], "held");
    assert_eq!(json(&["release", token, "--json"], 0)["outcome"], "released");
    assert_eq!(json(&["wait", token, "--json"], 1)["state"], "over");
    let next = queued["token"].as_str().unwrap();
    assert_eq!(json(&["wait", next, "--json"], 0)["state"], "held");
    assert_eq!(json(&["release", next, "--json"], 0)["outcome"], "released");
    assert_eq!(json(&["release", next, "--json"], 1)["outcome"], "unknown");
    sandbox.assert_nothing_left();
}

#[test]
fn interrupted_acquire_leaves_nothing() {
    let sandbox = Sandbox::new();
    let mut holder = sandbox.hold(&[]);
    for signal in [Signal::INT, Signal::TERM, Signal::KILL] {
        let mut command: Command = sandbox.repoguard_command(["acquire", "--ttl", "10m"]);
        command.stdin(Stdio::null());
        let mut waiter = sandbox.start(command);
        eventually("it waits", || sandbox.waiters() == 1);
        waiter.signal(signal);
        let status = crate::support::shell_status(waiter.ended());
        assert_eq!(status, 128 + signal.as_raw());
        assert_eq!(waiter.stdout(), "");
        eventually("nobody waits", || sandbox.waiters() == 0);
    }
    holder.finish();
    sandbox.assert_nothing_left();
}

#[test]
fn token_that_cannot_be_printed_locks_nothing() {
    if !std::path::Path::new("/dev/full").exists() {
        return skip("token that cannot be printed", "no /dev/full");
    }
    let sandbox = Sandbox::new();
    sandbox.sh("exec repoguard acquire --ttl 10m >/dev/full").assert().failure();
    assert_eq!(sandbox.try_once(&[]), 0, "nobody knows the token: {:?}", sandbox.holders());
    let mut holder = sandbox.hold(&[]);
    sandbox.sh("exec repoguard acquire --background --ttl 10m >/dev/full").assert().failure();
    assert_eq!(sandbox.waiters(), 0);
    holder.finish();
    sandbox.assert_nothing_left();
}

#[test]
fn longest_time_to_live_is_refused_or_ends_like_any_other() {
    let sandbox = Sandbox::new();
    for ttl in ["1e12", "1e18", "1.8e19"] {
        let output = sandbox.repoguard(["acquire", "--ttl", ttl]).output().unwrap();
        if output.status.success() {
            assert!(sandbox.holder()["until_ms"].as_u64().is_some(), "{ttl}: {:?}", sandbox.holder());
            let token = String::from_utf8(output.stdout).unwrap();
            assert_eq!(status_of(&sandbox, &["release", token.trim()]), Some(0), "{ttl}");
        }
        assert_eq!(sandbox.try_once(&[]), 0, "{ttl}");
    }
}

#[test]
fn hold_that_ends_as_it_begins_is_not_taken_for_a_crash() {
    let rounds = "for i in $(seq 15); do repoguard acquire --ttl 0.001 >/dev/null; repoguard exec -- true; done";
    let sandboxes: Vec<Sandbox> = (0..6).map(|_| Sandbox::new()).collect();
    let mut all: Vec<_> = sandboxes.iter().map(|sandbox| sandbox.start(sandbox.sh_command(rounds))).collect();
    for running in &mut all {
        assert!(running.ended().success());
        assert_eq!(running.stderr(), "");
    }
}

/// Changes the record of a hold, as whoever may write to the git directory can.
fn forge(sandbox: &Sandbox, slot: &str, change: impl Fn(&mut Value)) {
    let path = sandbox.data().join("holders").join(slot);
    let text = fs::read(&path).unwrap();
    let mut record = serde_json::from_slice(&text).unwrap();
    change(&mut record);
    let mut forged = record.to_string().into_bytes();
    forged.resize(text.len() - 1, b' ');
    forged.push(b'\n');
    fs::write(&path, forged).unwrap();
}

#[test]
fn release_signals_no_process_that_a_forged_record_names() {
    // Any process of the caller's.
    let sandbox = Sandbox::new();
    let token = acquire(&sandbox, &LONG);
    let mut victim = Victim::new(&sandbox);
    let pid = sandbox.status()["holders"][0]["pid"].as_u64().unwrap();
    forge(&sandbox, "0", |record| record["pid"] = victim.0.id().into());
    assert_eq!(status_of(&sandbox, &["release", &token]), Some(125));
    assert!(victim.0.try_wait().unwrap().is_none(), "it was not signalled");
    // The keeper itself is found again by its true number.
    forge(&sandbox, "0", |record| record["pid"] = pid.into());
    assert_eq!(status_of(&sandbox, &["release", &token]), Some(0));

    // A command's wrapper, whose own record was given the digest of the token.
    let mut holder = sandbox.hold(&["--name", "a"]);
    let token = acquire(&sandbox, &["--ttl", "1m", "--name", "b"]);
    let text = fs::read(sandbox.data().join("holders/1")).unwrap();
    let acquired: Value = serde_json::from_slice(&text).unwrap();
    forge(&sandbox, "0", |record| {
        for field in ["token_sha256", "resources", "until_ms"] {
            record[field] = acquired[field].clone();
        }
    });
    sandbox.repoguard(["release", &token]).output().unwrap();
    assert!(holder.runs(), "the command goes on");
    holder.finish();
}

#[test]
fn keeper_that_is_stopped_releases_when_it_is_asked() {
    let sandbox = Sandbox::new();
    let token = acquire(&sandbox, &LONG);
    let pid = sandbox.status()["holders"][0]["pid"].as_u64().unwrap();
    kill(u32::try_from(pid).unwrap(), Signal::STOP);
    assert_eq!(sandbox.try_once(&[]), 75);
    assert_eq!(status_of(&sandbox, &["release", &token]), Some(0));
    assert_eq!(sandbox.try_once(&[]), 0);
}
