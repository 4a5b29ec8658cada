//! `repoguard mutate`, interrupted: by a signal, to it alone or to the whole group, or by the end of its time, in each
//! of its steps. Nothing is committed, all is put back, and the status says what happened.

use std::fs;

use rustix::process::Signal;

use crate::mutate::furnished;
use crate::support::{Gate, RepoState, Running, Sandbox, Terminal, kill, skip};

/// What the command did when it is interrupted.
const WRECK: &str = "echo x >>file; rm -r d; echo x >new; git add new; chmod +x other/o";

/// A step that waits at the gate, and what was before.
struct Waiting {
    sandbox: Sandbox,
    before: RepoState,
    gate: Gate,
    running: Running,
}

const STEPS: [&str; 4] = ["check", "command", "verify", "hook"];

/// Starts a mutation and returns when this step waits; `prelude` is what the step's shell does before.
fn waiting_in(step: &str, prelude: &str, options: &[&str]) -> Waiting {
    let sandbox = furnished();
    let gate = sandbox.gate("gate");
    let waits = format!("{prelude} {}", gate.script());
    let script = if step == "command" { format!("{WRECK}; {waits}") } else { WRECK.to_owned() };
    let own = match step {
        "check" => vec!["--check", &waits],
        "verify" => vec!["--verify", &waits],
        _ => vec![],
    };
    if step == "hook" {
        sandbox.own_hook("pre-commit", &waits);
    }
    let before = sandbox.state();
    let mut running = sandbox.start(sandbox.mutate_command(&[options, &own].concat(), &script));
    gate.reached_by(&mut running);
    Waiting { sandbox, before, gate, running }
}

fn signalled(send: impl Fn(&Running, Signal)) {
    for step in STEPS {
        for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
            let Waiting { sandbox, before, gate, running } = waiting_in(step, "", &[]);
            send(&running, signal);
            let told = sandbox.ends_undone(running, &before, 128 + signal.as_raw());
            let step = if step == "hook" { "commit" } else { step };
            assert!(told.contains(step), "{step}, {signal:?}: {told}");
            gate.open();
        }
    }
}

#[test]
fn signal_to_us_alone_undoes_in_every_step() {
    signalled(Running::signal);
}

#[test]
fn signal_to_the_group_undoes_in_every_step() {
    signalled(Running::signal_group);
}

#[test]
fn interrupt_that_a_step_survives_is_one_all_the_same() {
    for step in STEPS {
        for signal in [Signal::INT, Signal::TERM] {
            let Waiting { sandbox, before, gate, running } = waiting_in(step, "trap '' INT TERM HUP;", &[]);
            running.signal(signal);
            // It was sent before the step is let go on: whatever the step's own end, it is an interruption. Git itself dies
            // of it at once, and does not wait for its hook.
            if step != "hook" {
                gate.open();
            }
            let told = sandbox.ends_undone(running, &before, 128 + signal.as_raw());
            if step == "hook" {
                gate.open();
            }
            let step = if step == "hook" { "commit" } else { step };
            assert!(told.contains(step), "{step}: {told}");
        }
    }
}

#[test]
fn many_signals_are_one_interruption() {
    for step in STEPS {
        let Waiting { sandbox, before, gate, running } = waiting_in(step, "", &[]);
        for _ in 0..20 {
            running.signal_group(Signal::TERM);
        }
        sandbox.ends_undone(running, &before, 143);
        gate.open();
    }
}

#[test]
fn status_of_a_command_that_cleans_up_after_a_signal_does_not_hide_it() {
    let clean = "trap 'echo cleaned >>\"$SANDBOX/cleaned\"; exit 0' TERM;";
    let Waiting { sandbox, before, gate, running } = waiting_in("command", clean, &[]);
    running.signal(Signal::TERM);
    sandbox.ends_undone(running, &before, 143);
    assert_eq!(crate::support::lines(&sandbox.outside("cleaned")), ["cleaned"], "once");
    gate.open();
}

#[test]
fn command_that_is_killed_undoes() {
    for signal in [Signal::KILL, Signal::INT, Signal::SEGV] {
        let Waiting { sandbox, before, gate, running } = waiting_in("command", "ulimit -c 0;", &[]);
        let here = fs::read_to_string(sandbox.outside("gate.here")).unwrap();
        kill(here.trim().parse().unwrap(), signal);
        sandbox.ends_undone(running, &before, 128 + signal.as_raw());
        gate.open();
    }
}

#[test]
fn end_of_the_time_undoes_in_every_step() {
    for step in STEPS {
        let Waiting { sandbox, before, gate, running } = waiting_in(step, "", &["--max-hold", "1"]);
        let told = sandbox.ends_undone(running, &before, 124);
        assert!(told.contains("max-hold"), "{step}: {told}");
        gate.open();
    }
}

#[test]
fn end_of_the_time_is_one_also_where_the_step_makes_it_look_well() {
    for (prelude, options) in [
        ("trap 'exit 0' TERM;", &["--max-hold", "1"][..]),
        ("trap '' TERM;", &["--max-hold", "1", "--kill-after", "0.3"]),
    ] {
        for step in ["command", "verify"] {
            let Waiting { sandbox, before, gate, running } = waiting_in(step, prelude, options);
            sandbox.ends_undone(running, &before, 124);
            gate.open();
        }
    }
}

#[test]
fn interrupt_while_waiting_for_the_lock_touches_nothing() {
    let sandbox = furnished();
    let before = sandbox.state();
    let holder = sandbox.hold(&[]);
    let waiter = sandbox.start(sandbox.mutate_command(&[], "touch \"$SANDBOX/ran\""));
    crate::support::eventually("it waits", || sandbox.waiters() == 1);
    waiter.signal(Signal::TERM);
    let mut waiter = waiter;
    assert_eq!(crate::support::shell_status(waiter.ended()), 143);
    drop(holder);
    before.assert_same(&sandbox.state(), &waiter.stderr());
    assert!(!sandbox.outside("ran").exists());
}

#[test]
fn interrupt_after_the_commit_is_never_half() {
    for signal in [Signal::INT, Signal::TERM] {
        let sandbox = furnished();
        let gate = sandbox.gate("gate");
        sandbox.own_hook("post-commit", &gate.script());
        let before = sandbox.state();
        let mut running = sandbox.start(sandbox.mutate_command(&[], WRECK));
        gate.reached_by(&mut running);
        running.signal(signal);
        gate.open();
        let status = running.ended();
        let told = running.stderr();
        if status.success() {
            assert_eq!(sandbox.git(["log", "-1", "--format=%s"]), "change\n", "{told}");
            assert_eq!(sandbox.short_status(), [""; 0], "{told}");
        } else {
            before.assert_same(&sandbox.state(), &told);
            assert_eq!(crate::support::shell_status(status), 128 + signal.as_raw(), "{told}");
        }
        sandbox.assert_no_traces();
    }
}

#[test]
fn missing_command_is_127_and_unusable_one_is_126() {
    let sandbox = furnished();
    sandbox.sh("echo '#!/bin/sh' >plain; git add plain; git commit -qm plain").assert().success();
    for (program, status) in [("no-such-program", 127), ("./missing", 127), ("./plain", 126), ("./d", 126)] {
        let command = sandbox.repoguard(["mutate", "-m", "x", "--", program]);
        let told = sandbox.undone_with(command, status);
        assert!(told.contains(program.trim_start_matches("./")), "{told}");
    }
}

#[test]
fn processes_that_the_command_left_behind_do_not_disturb() {
    let sandbox = furnished();
    // Its descriptors are closed, as a daemon's are.
    let daemon = "(while ! [ -e ../stop ]; do sleep 0.05; done; echo late >>../late) >/dev/null 2>&1 </dev/null &";
    sandbox.commits(&[], &format!("{daemon} echo x >>file"));
    sandbox.undone(&[], &format!("{daemon} echo x >>file; exit 3"), 3);
    assert!(!sandbox.outside("late").exists(), "they still ran when it was over");
    assert_eq!(sandbox.try_once(&[]), 0, "they do not pin the lock");
    fs::write(sandbox.outside("stop"), "").unwrap();
    crate::support::eventually("they end", || sandbox.processes().is_empty());
}

#[test]
fn ctrl_c_on_a_terminal_undoes_and_a_shell_sees_130() {
    let sandbox = furnished();
    let Some(terminal) = Terminal::open(&sandbox, 100) else { return skip("Ctrl-C", "no tmux or no bash") };
    let before = sandbox.state();
    for (number, step) in STEPS.into_iter().enumerate() {
        let waits = format!("echo he\"\"ld-{number}; exec sleep 60");
        let script = sandbox.outside(format!("script-{number}"));
        crate::support::script(&script, &waits);
        let script = script.display();
        terminal.line(&match step {
            "check" => format!("repoguard mutate -m x --check {script} -- true; echo \"rest $?\""),
            "command" => format!("repoguard mutate -m x -- sh -c 'rm -r d; {script}'; echo \"rest $?\""),
            "verify" => format!("repoguard mutate -m x --verify {script} -- rm -r d; echo \"rest $?\""),
            _ => {
                sandbox.own_hook("pre-commit", &format!("exec {script}"));
                "repoguard mutate -m x -- rm -r d; echo \"rest $?\"".to_owned()
            }
        });
        terminal.expect(&format!("held-{number}"));
        terminal.key("C-c");
        terminal.prompt();
        crate::support::eventually("all is put back", || before.difference(&sandbox.state()).is_none());
        terminal.clear();
    }
    terminal.line("repoguard mutate -m x -- sh -c 'rm -r d; echo he\"\"ld-9; exec sleep 60'");
    terminal.expect("held-9");
    terminal.key("C-c");
    terminal.prompt();
    terminal.line("echo \"status $?\"");
    terminal.expect("status 130");
    before.assert_same(&sandbox.state(), &terminal.screen());
    assert_eq!(sandbox.try_once(&[]), 0);
}

#[test]
fn ctrl_z_stops_and_fg_finishes() {
    let sandbox = furnished();
    let Some(terminal) = Terminal::open(&sandbox, 100) else { return skip("Ctrl-Z", "no tmux or no bash") };
    terminal.line("repoguard mutate -m x -- sh -c 'rm -r d; echo he\"\"ld; read word; echo $word >>file'");
    terminal.expect("held");
    terminal.key("C-z");
    terminal.expect("Stopped");
    assert_eq!(sandbox.try_once(&[]), 75, "a stopped mutation holds");
    terminal.line("fg");
    crate::support::eventually("it is committed", || {
        // The shell itself reads what is typed before the job goes on.
        terminal.line("hello");
        sandbox.git(["log", "-1", "--format=%s"]) == "x\n"
    });
    terminal.prompt();
    assert_eq!(sandbox.committed("file"), "first\nhello\n");
    sandbox.assert_no_traces();
}

#[test]
fn step_that_is_told_to_end_ends_with_all_its_descendants() {
    // Each writes, and would commit, after the step's own process has ended.
    let late = "sleep 1; echo late >late; git commit -qam late; touch \"$SANDBOX/late\"";
    for (name, script) in [
        ("child", format!("sh -c '{late}' & echo x >>file; wait")),
        ("grandchild", format!("(sh -c '{late}' &) ; echo x >>file; sleep 30")),
        ("session of its own", format!("setsid sh -c '{late}' & echo x >>file; sleep 30")),
        ("one that ignores it", format!("sh -c 'trap \"\" TERM; {late}' & echo x >>file; sleep 30")),
        ("stopped", format!("sh -c '{late}' & kill -STOP $!; echo x >>file; sleep 30")),
    ] {
        for to_command in [false, true] {
            let sandbox = furnished();
            let before = sandbox.state();
            let options = ["--kill-after", "0.3"];
            let script = format!("{script} & echo $$ >\"$SANDBOX/pid\"; touch \"$SANDBOX/up\"; wait");
            let running = sandbox.start(sandbox.mutate_command(&options, &script));
            crate::support::eventually("it is up", || sandbox.outside("up").exists());
            if to_command {
                let pid = fs::read_to_string(sandbox.outside("pid")).unwrap().trim().parse().unwrap();
                kill(pid, Signal::TERM);
            } else {
                running.signal(Signal::TERM);
            }
            let told = sandbox.ends_undone(running, &before, 128 + Signal::TERM.as_raw());
            std::thread::sleep(std::time::Duration::from_millis(1200));
            assert!(!sandbox.outside("late").exists(), "{name}: it went on: {told}");
            before.assert_same(&sandbox.state(), name);
        }
    }
}

#[test]
fn processes_that_were_there_before_the_step_are_no_part_of_it() {
    let sandbox = furnished();
    // The shell's job becomes a child of repoguard, which takes the shell's place.
    let script = "(sleep 1; touch \"$SANDBOX/earlier\") & sleep 0.1; \
                  exec repoguard mutate -m m --max-hold 0.3 --kill-after 0.1 -- sleep 30";
    let mut running = sandbox.start(sandbox.sh_command(script));
    assert_eq!(running.ended().code(), Some(124), "{}", running.stderr());
    crate::support::eventually("it goes on", || sandbox.outside("earlier").exists());
}
