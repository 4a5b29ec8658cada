//! On a real terminal: Ctrl-C, Ctrl-Z and `fg`, programs that own the screen, and the live waiting line.

use crate::support::{Sandbox, Terminal, eventually, lines, skip};

/// A terminal in the sandbox; says that the test is skipped where there is none.
macro_rules! terminal {
    ($sandbox:expr, $columns:expr, $what:expr) => {
        match Terminal::open($sandbox, $columns) {
            Some(terminal) => terminal,
            None => return skip($what, "no tmux or no bash"),
        }
    };
}

#[test]
fn ctrl_c_ends_the_command_and_frees_the_lock() {
    let sandbox = Sandbox::new();
    let terminal = terminal!(&sandbox, 80, "Ctrl-C");
    terminal.line("repoguard exec -- sh -c 'echo he\"\"ld; exec sleep 60'; echo \"rest $?\"");
    terminal.expect("held");
    terminal.key("C-c");
    // bash gives up the whole line, as it does without us when a command dies of Ctrl-C.
    terminal.prompt();
    terminal.line("echo \"status $?\"");
    terminal.expect("status 130");
    assert!(!terminal.screen().contains("rest 130"), "{}", terminal.screen());
    assert_eq!(sandbox.try_once(&[]), 0);
}

#[test]
fn ctrl_c_reaches_the_command_once() {
    let sandbox = Sandbox::new();
    let terminal = terminal!(&sandbox, 80, "Ctrl-C, once");
    let script = "trap 'echo hit >>count' INT; echo he\"\"ld; while ! [ -e stop ]; do sleep 0.02; done";
    terminal.line(&format!("repoguard exec -- bash -c \"{}\"", script.replace('"', "\\\"")));
    terminal.expect("held");
    let count = sandbox.path("count");
    for round in 1..=3 {
        terminal.key("C-c");
        eventually("Ctrl-C arrives", || lines(&count).len() >= round);
    }
    std::fs::write(sandbox.path("stop"), "").unwrap();
    terminal.prompt();
    terminal.line("echo \"status $?\"");
    terminal.expect("status 0");
    assert_eq!(lines(&count).len(), 3);
}

#[test]
fn ctrl_z_stops_and_fg_goes_on() {
    let sandbox = Sandbox::new();
    let terminal = terminal!(&sandbox, 80, "Ctrl-Z");
    terminal.line("repoguard exec -- sh -c 'echo he\"\"ld; read word; echo \"got:$word\"'");
    terminal.expect("held");
    for _ in 0..2 {
        terminal.key("C-z");
        terminal.expect("Stopped");
        assert_eq!(sandbox.try_once(&[]), 75, "a stopped holder holds");
        terminal.clear();
        terminal.line("fg");
        terminal.expect("repoguard exec");
    }
    terminal.line("hello");
    terminal.expect("got:hello");
    terminal.prompt();
    terminal.line("echo \"status $?\"");
    terminal.expect("status 0");
}

#[test]
fn command_owns_the_terminal() {
    let sandbox = Sandbox::new();
    let terminal = terminal!(&sandbox, 77, "the command's terminal");
    terminal.line("repoguard exec -- sh -c 'test -t 0 && test -t 1 && test -t 2 && stty size'");
    terminal.expect("24 77");
    // A shell inside has job control of its own.
    terminal.line("PS1=in'n'er repoguard exec -- bash --norc -i");
    terminal.expect("inner");
    terminal.line("sh -c 'echo go\"\"ing; exec sleep 60'");
    terminal.expect("going");
    terminal.key("C-z");
    terminal.expect("Stopped");
    terminal.line("exit 6");
    terminal.expect("There are stopped jobs");
    terminal.line("exit 6");
    terminal.prompt();
    terminal.line("echo \"status $?\"");
    terminal.expect("status 6");
}

#[test]
fn live_waiting_line_disappears_once_held() {
    for columns in [200, 80, 40] {
        let sandbox = Sandbox::new();
        let terminal = terminal!(&sandbox, columns, "the live waiting line");
        let mut holder = sandbox.hold(&["--reason", "nightly"]);
        terminal.line("clear; repoguard exec -- echo do\"\"ne");
        // What matters most comes first: it is what a narrow terminal shows.
        match columns {
            200 => terminal.expect("nightly"),
            80 => terminal.expect(&format!("pid {}", holder.pid())),
            _ => terminal.expect("waiting"),
        }
        holder.finish();
        terminal.expect("done");
        let after = terminal.screen();
        assert!(!after.contains("pid") && !after.contains("waiting"), "{after}");
    }
}

#[test]
fn live_waiting_line_disappears_before_an_error() {
    let sandbox = Sandbox::new();
    let terminal = terminal!(&sandbox, 120, "the live waiting line");
    let _holder = sandbox.hold(&[]);
    for verb in ["exec -w 2 -- true", "mutate -w 2 -m x -- true", "acquire --ttl 60 -w 2", "recover -w 2"] {
        terminal.line(&format!("clear; repoguard {verb}; echo \"status $?\""));
        terminal.expect("waiting");
        terminal.expect("status 75");
        let after = terminal.screen();
        assert!(after.contains("repoguard: ") && !after.contains("waiting"), "{verb}: {after}");
    }
}

#[test]
fn ctrl_c_while_waiting_ends_the_wait() {
    let sandbox = Sandbox::new();
    let terminal = terminal!(&sandbox, 80, "Ctrl-C while waiting");
    let _holder = sandbox.hold(&[]);
    terminal.line("repoguard exec -- echo never");
    terminal.expect("waiting");
    terminal.key("C-c");
    terminal.prompt();
    terminal.line("echo \"status $?\"");
    terminal.expect("status 130");
    assert_eq!(sandbox.tickets(), [""; 0]);
}
