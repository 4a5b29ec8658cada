//! Signals: each reaches the command exactly once, endings look as they would without us, and `--max-hold` ends a hold.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, waitid};

use crate::support::{
    Running, Sandbox, alive, eventually, has_program, kill, lines, parent_of, shell_status, skip, state_of, until,
};

/// A command that counts a signal, line by line, until it is told to stop.
fn counts(signal: &str) -> String {
    format!(
        "trap 'echo {signal} >>count' {signal}; echo $$; \
         while ! [ -e stop ]; do sleep 0.02; done; exit 5"
    )
}

/// Sends a signal five times, each after the one before was seen; exactly five must arrive.
fn arrives_once(signal: Signal, name: &str, send: impl Fn(&Running, Signal)) {
    let sandbox = Sandbox::new();
    let mut holder = sandbox.hold_with(&[], &counts(name));
    // Before that, nobody can tell what was sent to whom.
    holder.keeper();
    let count = sandbox.path("count");
    for round in 1..=5 {
        send(&holder, signal);
        eventually("the signal arrives", || lines(&count).len() >= round);
    }
    fs::write(sandbox.path("stop"), "").unwrap();
    assert_eq!(holder.ended().code(), Some(5), "{}", holder.stderr());
    assert_eq!(lines(&count).len(), 5, "{name} arrived more than once each");
}

#[test]
fn signal_to_us_alone_reaches_the_command_once() {
    for (signal, name) in [(Signal::TERM, "TERM"), (Signal::INT, "INT"), (Signal::HUP, "HUP"), (Signal::USR1, "USR1")] {
        arrives_once(signal, name, Running::signal);
    }
}

#[test]
fn every_signal_that_can_be_caught_reaches_the_command_once() {
    if !has_program("perl") {
        return skip("signals of all numbers", "no perl");
    }
    // Not those that no program sends itself for fun, SIGCHLD, SIGCONT and those that stop.
    let not_passed_on =
        ["ZERO", "KILL", "STOP", "CHLD", "CLD", "CONT", "TSTP", "TTIN", "TTOU", "SEGV", "BUS", "ILL", "FPE"];
    let names = String::from_utf8(
        std::process::Command::new("perl").args(["-MConfig", "-e", "print $Config{sig_name}"]).output().unwrap().stdout,
    )
    .unwrap();
    let numbers =
        (0..=64).zip(names.split(' ')).filter(|(_, name)| !not_passed_on.contains(name) && !name.starts_with("NUM3"));
    let sandbox = Sandbox::new();
    let script = "$| = 1; for (keys %SIG) { $name = $_; eval { $SIG{$name} = sub { print \"$_[0]\\n\" } } unless /KILL|STOP|CHLD|CLD|CONT|TSTP|TTIN|TTOU|SEGV|BUS|ILL|FPE|NUM3|__/ }
                  print \"up\\n\"; select undef, undef, undef, 0.02 until -e 'stop';";
    for group in [false, true] {
        fs::remove_file(sandbox.path("stop")).ok();
        let mut command = sandbox.repoguard_command(["exec", "--", "perl", "-e", script]);
        command.stdin(std::process::Stdio::null());
        let mut holder = sandbox.start_up(command);
        holder.keeper();
        let mut sent = vec!["up".to_owned()];
        for (number, name) in numbers.clone() {
            let place = if group { format!("-{}", holder.pid()) } else { holder.pid().to_string() };
            sandbox.sh(&format!("kill -{number} {place}")).assert().success();
            sent.push(name.to_owned());
            eventually(&format!("SIG{name} arrives"), || holder.stdout().lines().count() >= sent.len());
        }
        std::thread::sleep(Duration::from_millis(100));
        fs::write(sandbox.path("stop"), "").unwrap();
        assert!(holder.ended().success());
        assert_eq!(holder.stdout().lines().collect::<Vec<_>>(), sent, "to the group: {group}");
    }
}

#[test]
fn signal_to_the_group_reaches_the_command_once() {
    for (signal, name) in [(Signal::INT, "INT"), (Signal::TERM, "TERM"), (Signal::QUIT, "QUIT")] {
        arrives_once(signal, name, Running::signal_group);
    }
}

#[test]
fn signal_to_the_group_reaches_the_command_once_however_slow_we_are() {
    for of_ours in [Running::pid, Running::keeper] {
        let sandbox = Sandbox::new();
        let mut holder = sandbox.hold_with(&[], &counts("TERM"));
        let slow = of_ours(&holder);
        let count = sandbox.path("count");
        for round in 1..=3 {
            // A busy machine, made certain: for a while one of our processes does not come to run.
            kill(slow, Signal::STOP);
            holder.signal_group(Signal::TERM);
            eventually("the signal arrives", || lines(&count).len() >= round);
            std::thread::sleep(Duration::from_millis(200));
            kill(slow, Signal::CONT);
            std::thread::sleep(Duration::from_millis(200));
            assert_eq!(lines(&count).len(), round, "slow wrapper: {}", slow == holder.pid());
        }
        fs::write(sandbox.path("stop"), "").unwrap();
        assert_eq!(holder.ended().code(), Some(5), "{}", holder.stderr());
    }
}

#[test]
fn signal_to_the_group_reaches_the_command_of_a_killed_wrapper_once() {
    let sandbox = Sandbox::new();
    let mut holder = sandbox.hold_with(&[], &counts("TERM"));
    holder.signal(Signal::KILL);
    holder.ended();
    let count = sandbox.path("count");
    for round in 1..=3 {
        holder.signal_group(Signal::TERM);
        eventually("the signal arrives", || lines(&count).len() >= round);
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(lines(&count).len(), round);
    }
    fs::write(sandbox.path("stop"), "").unwrap();
    eventually("free", || sandbox.try_once(&[]) == 0);
}

#[test]
fn signal_to_us_alone_does_not_reach_the_callers_group() {
    let sandbox = Sandbox::new();
    let script = "trap 'echo shell >>count' TERM; repoguard exec -- sh -c 'echo $$; read _'; echo \"rest $?\"";
    let mut shell = sandbox.start_up(sandbox.sh_command(script));
    let mut wrapper = shell.command_pid();
    while parent_of(wrapper) != shell.pid() {
        wrapper = parent_of(wrapper);
    }
    kill(wrapper, Signal::TERM);
    eventually("the shell goes on", || shell.stdout().contains("rest"));
    shell.ended();
    assert!(shell.stdout().ends_with("rest 143\n"), "{}", shell.stdout());
    assert!(!sandbox.path("count").exists());
}

#[test]
fn we_die_of_the_interrupt_that_the_command_died_of() {
    for signal in [Signal::INT, Signal::QUIT] {
        for slow in [false, true] {
            let sandbox = Sandbox::new();
            let mut holder = sandbox.hold_with(&[], "ulimit -c 0; echo $$; exec sleep 60");
            if slow {
                holder.signal(Signal::STOP);
            }
            holder.signal_group(signal);
            let command = holder.command_pid();
            eventually("the command dies", || !alive(command));
            holder.signal(Signal::CONT);
            let status = holder.ended();
            assert_eq!(status.signal(), Some(signal.as_raw()), "slow: {slow}: {status}: {}", holder.stderr());
            assert_eq!(sandbox.try_once(&[]), 0);
        }
    }
}

#[test]
fn interrupt_that_the_command_survives_is_no_death_of_ours() {
    let sandbox = Sandbox::new();
    let script = "trap 'exit 4' INT; echo $$; while :; do sleep 0.02; done";
    let mut holder = sandbox.hold_with(&[], script);
    holder.signal_group(Signal::INT);
    assert_eq!(holder.ended().code(), Some(4));
}

#[test]
fn interrupt_sent_to_the_command_alone_is_130() {
    let sandbox = Sandbox::new();
    let mut holder = sandbox.hold_with(&[], "echo $$; exec sleep 60");
    kill(holder.command_pid(), Signal::INT);
    assert_eq!(holder.ended().code(), Some(130));
}

#[test]
fn termination_is_143() {
    let sandbox = Sandbox::new();
    let mut holder = sandbox.hold_with(&[], "echo $$; exec sleep 60");
    holder.signal(Signal::TERM);
    assert_eq!(shell_status(holder.ended()), 143);
}

/// Whether a child of ours has stopped since it was last asked: what a shell sees of a job.
fn has_stopped(child: u32) -> bool {
    let pid = Pid::from_raw(child.cast_signed()).expect("a pid");
    waitid(WaitId::Pid(pid), WaitIdOptions::STOPPED | WaitIdOptions::NOHANG).unwrap().is_some()
}

#[test]
fn stop_and_continue_pass_through_and_a_shell_sees_each_once() {
    let sandbox = Sandbox::new();
    let mut holder = sandbox.hold(&[]);
    let both = [holder.pid(), holder.command_pid()];
    for round in 0..10 {
        holder.signal_group(Signal::TSTP);
        eventually("the shell sees it stop", || has_stopped(holder.pid()));
        eventually("both have stopped", || both.iter().all(|pid| state_of(*pid) == Some('T')));
        if round == 0 {
            assert_eq!(sandbox.try_once(&[]), 75, "a stopped holder holds");
        }
        holder.signal_group(Signal::CONT);
        std::thread::sleep(Duration::from_millis(100));
        assert!(!has_stopped(holder.pid()), "stopped again by nobody's wish, round {round}");
        assert!(both.iter().all(|pid| state_of(*pid) != Some('T')));
    }
    assert!(holder.finish().success());
}

#[test]
fn stop_right_after_a_continue_stays_a_stop() {
    let sandbox = Sandbox::new();
    let mut holder = sandbox.hold(&[]);
    let reach = |stopped: bool, when: &str| {
        until(when, || {
            let states = [holder.pid(), holder.command_pid()].map(state_of);
            let reached = states.iter().all(|state| (*state == Some('T')) == stopped);
            if reached { Ok(()) } else { Err(format!("wrapper and command are {states:?}")) }
        });
    };
    for gap in 0..10 {
        holder.signal_group(Signal::TSTP);
        reach(true, "both stop");
        // `fg`, and Ctrl-Z by somebody quick.
        holder.signal_group(Signal::CONT);
        std::thread::sleep(Duration::from_millis(gap));
        holder.signal_group(Signal::TSTP);
        reach(true, "both stop again");
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(state_of(holder.command_pid()), Some('T'), "continued by nobody's wish, {gap} ms");
        holder.signal_group(Signal::CONT);
        reach(false, "both go on");
    }
    assert!(holder.finish().success());
}

#[test]
fn max_hold_ends_the_command_with_124() {
    let sandbox = Sandbox::new();
    let start = Instant::now();
    sandbox.repoguard(["exec", "--max-hold", "0.3", "--", "sleep", "60"]).assert().code(124);
    assert!(start.elapsed() < Duration::from_secs(50));
    // Also where the command makes it look like success.
    let polite = "trap 'exit 0' TERM; while :; do sleep 0.02; done";
    sandbox.repoguard(["exec", "--max-hold", "0.3", "--", "sh", "-c", polite]).assert().code(124);
    assert_eq!(sandbox.try_once(&[]), 0);
}

#[test]
fn max_hold_ends_a_command_that_is_stopped_with_the_wrapper_or_without() {
    let sandbox = Sandbox::new();
    for script in ["echo up; kill -STOP $$; sleep 60", "echo up; trap '' TERM; kill -STOP $$; sleep 60"] {
        let mut holder = sandbox.hold_with(&["--max-hold", "0.5", "--kill-after", "0.3"], script);
        assert_eq!(shell_status(holder.ended()), 124, "{script}: {}", holder.stderr());
        assert_eq!(sandbox.try_once(&[]), 0, "{script}");
    }
    let mut holder = sandbox.hold_with(&["--max-hold", "0.5"], "echo up; sleep 60");
    holder.keeper();
    holder.signal(Signal::STOP);
    assert_eq!(shell_status(holder.ended()), 124, "{}", holder.stderr());
    assert_eq!(sandbox.try_once(&[]), 0);
}

#[test]
fn max_hold_ends_those_inside_who_outlive_the_command() {
    let sandbox = Sandbox::new();
    let inside = "repoguard exec -- sh -c 'echo in >work; exec sleep 60' </dev/null >/dev/null 2>&1 &";
    let script = format!("{inside} while ! [ -e work ]; do sleep 0.01; done; exit 3");
    let mut holder = sandbox.repoguard(["exec", "-q", "--max-hold", "1", "--", "sh", "-c", &script]);
    holder.assert().code(3);
    assert_eq!(sandbox.try_once(&[]), 75, "the command of the inner one runs");
    eventually("that is ended", || sandbox.try_once(&[]) == 0);
    assert_eq!(sandbox.log()[0]["status"], 3);
}

#[test]
fn max_hold_that_is_not_reached_changes_nothing() {
    let sandbox = Sandbox::new();
    sandbox.repoguard(["exec", "--max-hold", "1h", "--", "sh", "-c", "exit 3"]).assert().code(3);
}

#[test]
fn max_hold_counts_from_the_acquire() {
    let sandbox = Sandbox::new();
    let mut holder = sandbox.hold(&[]);
    let mut waiter = sandbox.queue(&["--max-hold", "3s"], "echo ran");
    std::thread::sleep(Duration::from_millis(3300));
    holder.finish();
    assert!(waiter.ended().success());
    assert_eq!(waiter.stdout(), "ran\n");
}

#[test]
fn command_that_ignores_the_end_of_its_hold_is_killed() {
    let sandbox = Sandbox::new();
    let deaf = "trap '' TERM; while :; do sleep 0.1; done";
    let mut exec = sandbox.repoguard(["exec", "--max-hold", "0.3", "--kill-after", "0.3"]);
    exec.args(["--", "sh", "-c", deaf]).assert().code(124);
    assert_eq!(sandbox.try_once(&[]), 0);
}

#[test]
fn max_hold_ends_descendants_in_other_sessions_but_not_the_caller() {
    if !has_program("setsid") {
        return skip("descendants in other sessions", "no setsid(1)");
    }
    let sandbox = Sandbox::new();
    let deep = "setsid sh -c 'echo $$ >deep; exec sleep 120' & sleep 120 & wait";
    let script = format!("repoguard exec --max-hold 3 -- sh -c \"{}\"; echo \"rest $?\"", deep.replace('$', "\\$"));
    let mut command = sandbox.command("sh");
    command.args(["-c", &script]);
    let mut shell = sandbox.start(command);
    shell.ended();
    assert_eq!(shell.stdout(), "rest 124\n", "{}", shell.stderr());
    let deep: u32 = lines(&sandbox.path("deep"))[0].parse().unwrap();
    eventually("the grandchild is gone", || !alive(deep));
}

#[test]
fn hang_up_that_was_ignored_stays_ignored() {
    if !has_program("nohup") {
        return skip("ignored hang-up", "no nohup(1)");
    }
    let sandbox = Sandbox::new();
    let mut command = sandbox.command("nohup");
    command.args(["repoguard", "exec", "--", "sh", "-c", crate::support::HOLD]);
    let mut holder = sandbox.start_up(command);
    holder.signal_group(Signal::HUP);
    std::thread::sleep(Duration::from_millis(200));
    assert!(alive(holder.command_pid()) && holder.runs());
    assert!(holder.finish().success());
}
