//! Inside a hold: who is known to be inside and goes on, who is not, and what can never be granted.

use std::fs;

use crate::support::{Running, Sandbox, acquire, eventually, has_program, lines, skip};

/// Asks for the lock from inside, trying once.
const INSIDE: &str = "repoguard exec -n -- true";

fn runs_inside(sandbox: &Sandbox, options: &[&str], script: &str) -> i32 {
    let mut exec = sandbox.repoguard(["exec"]);
    let output = exec.args(options).args(["--", "sh", "-c", script]).output().unwrap();
    output.status.code().expect("a status")
}

#[test]
fn exec_inside_exec_goes_on() {
    let sandbox = Sandbox::new();
    let deep = "repoguard exec -- repoguard exec -n -- repoguard exec -n -s -- true";
    for (options, script) in [
        (&[][..], INSIDE),
        (&[], deep),
        (&[], "repoguard exec -n -s -- true"),
        (&["-s"], "repoguard exec -n -s -- true"),
        (&["--scope", "repo"], INSIDE),
        (&["--scope", "repo"], "repoguard exec -n --scope repo -- true"),
        (&["--name", "a"], "repoguard exec -n --name a -- true"),
    ] {
        assert_eq!(runs_inside(&sandbox, options, script), 0, "{options:?}: {script}");
    }
    assert_eq!(runs_inside(&sandbox, &[], "repoguard exec -- sh -c 'exit 9'"), 9);
    assert_eq!(sandbox.try_once(&[]), 0);
}

#[test]
fn end_of_the_inner_command_does_not_let_go() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold_with(&[], "repoguard exec -n -- true; echo up; read _");
    assert_eq!(sandbox.try_once(&[]), 75);
}

#[test]
fn scrubbed_environment_is_still_inside() {
    let sandbox = Sandbox::new();
    let script = format!("env -i \"PATH=$PATH\" {INSIDE}");
    assert_eq!(runs_inside(&sandbox, &[], &script), 0);
    assert_eq!(runs_inside(&sandbox, &["-s"], "env -i \"PATH=$PATH\" repoguard exec -n -s -- true"), 0);
}

/// Runs a command with every descriptor above stderr closed and nothing in the environment but `PATH`.
const CLOSE_ALL: &str = r#"bash -c 'for each in /proc/$$/fd/*; do
    number=${each##*/}; if [ "$number" -gt 2 ]; then eval "exec $number>&-"; fi
done; exec env -i "PATH=$PATH" "$@"' bash"#;

#[test]
fn ancestor_that_holds_is_enough() {
    if !has_program("bash") {
        return skip("re-entrancy by ancestry", "no bash");
    }
    let sandbox = Sandbox::new();
    assert_eq!(runs_inside(&sandbox, &[], &format!("{CLOSE_ALL} {INSIDE}")), 0);
}

#[test]
fn forged_and_stale_tokens_are_ignored() {
    let sandbox = Sandbox::new();
    let mut first = sandbox.hold_with(&[], "echo $REPOGUARD_TOKEN; read _");
    let stale = first.first_line();
    first.finish();

    let second = sandbox.hold_with(&[], "echo $REPOGUARD_TOKEN; read _");
    let live = second.first_line();
    assert_ne!(stale, live);
    let flipped = if live.ends_with('0') { '1' } else { '0' };
    let forged = format!("{}{flipped}", &live[..live.len() - 1]);
    for token in [stale.as_str(), &forged, "", "garbage", "../../etc/passwd", &"x".repeat(100_000)] {
        let mut exec = sandbox.repoguard(["exec", "-n", "--", "true"]);
        let output = exec.env("REPOGUARD_TOKEN", token).assert().code(75).get_output().clone();
        assert!(!String::from_utf8_lossy(&output.stderr).contains("panicked"));
    }
}

#[test]
fn stale_token_of_an_ancestor_takes_the_lock_in_earnest() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.repoguard_command(["exec", "--", "sh", "-c", crate::support::HOLD]);
    command.env("REPOGUARD_TOKEN", "stale");
    let _holder = sandbox.start_up(command);
    assert_eq!(sandbox.try_once(&[]), 75);
}

#[test]
fn who_was_given_the_token_is_inside() {
    let sandbox = Sandbox::new();
    let mut holder = sandbox.hold_with(&[], "echo $REPOGUARD_TOKEN; read _");
    let token = holder.first_line();
    let with_token = |status: i32| {
        let mut exec = sandbox.repoguard(["exec", "-n", "--", "true"]);
        exec.env("REPOGUARD_TOKEN", &token).assert().code(status);
    };
    with_token(0);
    holder.finish();
    let _other = sandbox.hold(&[]);
    with_token(75);
}

#[test]
fn token_is_good_in_its_own_repository_only() {
    let (ours, other) = (Sandbox::new(), Sandbox::new());
    let holder = ours.hold_with(&[], "echo $REPOGUARD_TOKEN; read _");
    let _elsewhere = other.hold(&[]);
    let mut exec = other.repoguard(["exec", "-n", "--", "true"]);
    exec.env("REPOGUARD_TOKEN", holder.first_line()).assert().code(75);
}

#[test]
fn token_is_nowhere_on_disk() {
    let sandbox = Sandbox::new();
    let mut holder = sandbox.hold_with(&[], "echo $REPOGUARD_TOKEN; read _");
    let token = holder.first_line();
    let leaked = || {
        let mut grep = crate::support::to_the_end(sandbox.command("grep"));
        let output = grep.args(["-rlF", &token]).arg(sandbox.path(".git")).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert_eq!(leaked(), "");
    holder.finish();
    assert_eq!(leaked(), "");
}

#[test]
fn daemon_of_an_ended_hold_is_an_outsider() {
    if !has_program("setsid") {
        return skip("daemon of an ended hold", "no setsid(1)");
    }
    let sandbox = Sandbox::new();
    let daemon = "while ! [ -e go ]; do sleep 0.05; done; repoguard exec -n -- true; echo $? >result";
    let script = format!("setsid sh -c '{daemon}' </dev/null >/dev/null 2>&1 &");
    sandbox.repoguard(["exec", "--", "sh", "-c", &script]).assert().success();
    let _holder = sandbox.hold(&[]);
    fs::write(sandbox.path("go"), "").unwrap();
    let result = sandbox.path("result");
    eventually("the daemon tried", || !lines(&result).is_empty());
    assert_eq!(lines(&result), ["75"]);
}

#[test]
fn request_that_could_never_be_granted_is_refused_at_once() {
    let sandbox = Sandbox::new();
    for (options, inner) in [
        (&["-s"][..], "repoguard exec -- touch ran"),
        (&[], "repoguard exec --scope repo -- touch ran"),
        (&["-s"], "repoguard exec --scope repo -- touch ran"),
        (&["-s", "--name", "a"], "repoguard exec --name a -- touch ran"),
        (&["--name", "a"], "repoguard exec --scope repo -- touch ran"),
    ] {
        assert_eq!(runs_inside(&sandbox, options, inner), 125, "{options:?}: {inner}");
        assert!(!sandbox.path("ran").exists(), "{options:?}: {inner}");
        let tolerant = format!("{inner}; test $? = 125");
        assert_eq!(runs_inside(&sandbox, options, &tolerant), 0, "{inner}");
    }
    assert_eq!(sandbox.try_once(&[]), 0);
}

#[test]
fn another_resource_is_really_taken_inside() {
    let sandbox = Sandbox::new();
    let linked = sandbox.worktree("linked");
    let script =
        format!("repoguard -C {} exec --scope worktree --name x -- sh -c 'echo up; read _ || :'", linked.display());
    let mut holder = sandbox.hold_with(&[], &script);
    assert_eq!(sandbox.try_once(&["--name", "x"]), 75);
    assert_eq!(sandbox.try_once_in(&linked, &[]), 75);
    assert_eq!(sandbox.try_once(&[]), 75);
    assert_eq!(sandbox.try_once(&["--name", "y"]), 0);
    assert!(holder.finish().success());
    assert_eq!(sandbox.try_once(&["--scope", "repo"]), 0);
}

#[test]
fn below_plain_flock_we_are_inside() {
    if !has_program("flock") {
        return skip("below plain flock(1)", "no flock(1)");
    }
    let sandbox = Sandbox::new();
    assert_eq!(sandbox.try_once(&[]), 0);
    let lock = ".git/repoguard.lock";
    for (script, status) in [
        (format!("flock {lock} {INSIDE}"), 0),
        (format!("flock {lock} env -i PATH=\"$PATH\" {INSIDE}"), 0),
        (format!("flock -s {lock} repoguard exec -n -s -- true"), 0),
        (format!("flock {lock} repoguard exec -n -s -- true"), 0),
        (format!("flock {lock} sh -c '{INSIDE} && {INSIDE}'"), 0),
        (format!("flock -s {lock} repoguard exec -- true"), 125),
    ] {
        let output = sandbox.sh(&script).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(status), "{script}: {told}");
    }
}

#[test]
fn flock_keeps_its_lock_when_we_end_below_it() {
    if !has_program("flock") {
        return skip("flock keeps its lock", "no flock(1)");
    }
    let sandbox = Sandbox::new();
    let mut command = sandbox.command("flock");
    command.arg(sandbox.lock_file());
    command.args(["sh", "-c", "repoguard exec -- true; repoguard exec -- true; echo up; read _"]);
    let _holder = sandbox.start_up(command);
    assert_eq!(sandbox.try_once(&[]), 75);
}

/// Holds one thing and, told to, asks for another; prints the inner status.
fn holds_then_wants(sandbox: &Sandbox, held: &[&str], wanted: &str) -> Running {
    let script = format!("echo $$; read _; repoguard exec {wanted} -- true; echo \"inner $?\"");
    sandbox.hold_with(held, &script)
}

/// Two processes that each want what the other holds: exactly one is refused, and both end.
fn two_cross(first: (&[&str], &str), second: (&[&str], &str), queue_first: bool) {
    let sandbox = Sandbox::new();
    let mut one = holds_then_wants(&sandbox, first.0, first.1);
    let mut two = holds_then_wants(&sandbox, second.0, second.1);
    one.send("go");
    let mut waiter = 0;
    if queue_first {
        eventually("the first is queued", || {
            waiter = sandbox.status()["waiters"][0]["pid"].as_u64().unwrap_or_default();
            waiter != 0
        });
    }
    two.send("go");
    assert!(one.ended().success() && two.ended().success());
    let mut inner = [one.stdout(), two.stdout()].map(|all| all.lines().last().unwrap().to_owned());
    if queue_first {
        assert_eq!(inner[1], "inner 75", "the one that would close the cycle is refused");
        let told = two.stderr();
        assert!(told.contains(&format!("pid {waiter}")), "names the other, {waiter}: {told}");
    }
    inner.sort();
    assert_eq!(inner, ["inner 0", "inner 75"], "{}{}", one.stderr(), two.stderr());
    assert_eq!(sandbox.try_once(&["--scope", "repo"]), 0);
    assert_eq!(sandbox.tickets(), [""; 0]);
}

#[test]
fn cycle_of_waiters_is_refused_to_who_would_close_it() {
    two_cross((&["--name", "a"], "--name b"), (&["--name", "b"], "--name a"), true);
    two_cross((&["--name", "a"], "--scope worktree"), (&[], "--name a"), true);
    two_cross((&["--name", "a", "--name", "b"], "--name c"), (&["--name", "c"], "--name b"), true);
}

#[test]
fn cycle_closed_at_the_same_moment_refuses_exactly_one() {
    for _ in 0..4 {
        two_cross((&["--name", "a"], "--name b"), (&["--name", "b"], "--name a"), false);
    }
}

/// What a command says that is run with this token, and that the lock does not keep from running.
#[track_caller]
fn told_with_token(sandbox: &Sandbox, place: &std::path::Path, token: &str, args: &[&str]) -> String {
    let mut command = sandbox.repoguard(args);
    let output = command.current_dir(place).env("REPOGUARD_TOKEN", token).assert().success().get_output().clone();
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn token_that_names_no_hold_any_more_is_reported_once_and_ignored() {
    let sandbox = Sandbox::new();
    let linked = sandbox.worktree("linked");
    let token = acquire(&sandbox, &["--ttl", "10m"]);
    assert_eq!(told_with_token(&sandbox, sandbox.here(), &token, &["exec", "--", "true"]), "", "it is live");
    assert_eq!(told_with_token(&sandbox, &linked, &token, &["exec", "--", "true"]), "");
    let flipped = if token.ends_with('0') { '1' } else { '0' };
    let forged = format!("{}{flipped}", &token[..token.len() - 1]);
    sandbox.repoguard(["release", &token]).assert().success();
    for stray in [token.as_str(), &forged, "garbage", "7-00", "1/garbage/inside"] {
        for args in [
            &["exec", "--", "true"][..],
            &["exec", "--name", "x", "--", "true"],
            &["mutate", "--allow-empty", "-m", "x", "--", "true"],
            &["acquire", "--ttl", "0.01", "--name", "y"],
        ] {
            for place in [sandbox.here(), linked.as_path()] {
                let told = told_with_token(&sandbox, place, stray, args);
                assert_eq!(
                    told.matches("REPOGUARD_TOKEN names no live hold here").count(),
                    1,
                    "{stray} {args:?}: {told}"
                );
                assert!(told.contains("hint: "), "{told}");
            }
        }
        assert_eq!(told_with_token(&sandbox, sandbox.here(), stray, &["-q", "exec", "--", "true"]), "");
        assert_eq!(told_with_token(&sandbox, sandbox.here(), stray, &["status"]), "");
    }
}

#[test]
fn token_of_another_repository_is_not_reported() {
    let (one, other) = (Sandbox::new(), Sandbox::new());
    let there = other.here().display();
    let script = format!("cd '{there}' && repoguard exec -- true && repoguard mutate --allow-empty -m x -- true");
    let output = one.repoguard(["exec", "--", "sh", "-c", &script]).assert().success().get_output().clone();
    assert!(!String::from_utf8_lossy(&output.stderr).contains("TOKEN"), "{output:?}");
    let token = acquire(&one, &["--ttl", "10m"]);
    assert_eq!(told_with_token(&one, other.here(), &token, &["exec", "--", "true"]), "");
    // Expired there, it is still none of this repository's.
    one.repoguard(["release", &token]).assert().success();
    assert_eq!(told_with_token(&one, other.here(), &token, &["exec", "--", "true"]), "");
    // Nor does anybody tell where there is no repository.
    let outside = Sandbox::empty();
    let script = "repoguard -q exec -- repoguard -v exec -- true 2>&1 | grep TOKEN && exit 1; exit 0";
    outside.sh(script).assert().success();
}

#[test]
fn token_of_a_request_that_still_waits_is_not_reported() {
    let sandbox = Sandbox::new();
    let mut holder = sandbox.hold(&[]);
    let token = acquire(&sandbox, &["--background", "--ttl", "10m"]);
    assert_eq!(told_with_token(&sandbox, sandbox.here(), &token, &["exec", "--name", "x", "--", "true"]), "");
    holder.finish();
    sandbox.repoguard(["release", &token]).assert().success();
}
