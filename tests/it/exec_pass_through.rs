//! What passes through `exec` unchanged: arguments, standard streams, environment, directory, descriptors, signal state.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::process::Command;

use proptest::prelude::*;

use crate::support::{Sandbox, binary, eventually, has_program, skip, to_the_end, zombies_below};

/// Prints its arguments, each ended by a NUL.
const PRINT_ARGUMENTS: &str = r#"for each; do printf '%s\0' "$each"; done"#;

fn arrived(sandbox: &Sandbox, arguments: &[OsString]) -> Vec<OsString> {
    let mut command = sandbox.repoguard(["exec", "--", "sh", "-c", PRINT_ARGUMENTS, "sh"]);
    let output = command.args(arguments).assert().success().get_output().clone();
    let parts = output.stdout.split(|byte| *byte == 0);
    let mut all: Vec<_> = parts.map(|part| OsString::from_vec(part.to_vec())).collect();
    assert_eq!(all.pop().as_deref(), Some("".as_ref()), "ends with a NUL");
    all
}

#[test]
fn arguments_that_look_like_options_belong_to_the_command() {
    let sandbox = Sandbox::new();
    let arguments = ["--", "-n", "--shared", "", " ", "--help", "-C", "/", "*", "$HOME", "a\nb"];
    let arguments = arguments.map(OsString::from);
    assert_eq!(arrived(&sandbox, &arguments), arguments);
}

#[test]
fn any_arguments_arrive_byte_for_byte() {
    let sandbox = Sandbox::new();
    let argument = prop::collection::vec(1_u8.., 0..40).prop_map(OsString::from_vec);
    let arguments = prop::collection::vec(argument, 0..8);
    let config = ProptestConfig { cases: 24, failure_persistence: None, ..Default::default() };
    proptest!(config, |(arguments in arguments)| {
        prop_assert_eq!(arrived(&sandbox, &arguments), arguments);
    });
}

#[test]
fn streams_arrive_byte_for_byte() {
    let sandbox = Sandbox::new();
    let bytes: Vec<u8> = (0..1_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut cat = sandbox.repoguard(["exec", "--", "cat"]);
    cat.write_stdin(bytes.clone()).assert().success().stdout(bytes).stderr("");

    let mut both = sandbox.repoguard(["exec", "--", "sh", "-c", "echo out; echo err >&2"]);
    both.assert().success().stdout("out\n").stderr("err\n");
}

#[test]
fn environment_and_directory_pass_through() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("sub")).unwrap();
    let odd = OsString::from_vec(b"caf\xe9 = \xff".to_vec());
    let mut env = sandbox.repoguard(["exec", "--", "sh", "-c", r#"printf '%s|' "$ODD" "$PWD"; umask"#]);
    let output = env.env("ODD", &odd).current_dir(sandbox.path("sub")).assert().success();
    let mut expected = odd.as_bytes().to_vec();
    expected.extend_from_slice(format!("|{}|", sandbox.path("sub").display()).as_bytes());
    let stdout = &output.get_output().stdout;
    assert!(stdout.starts_with(&expected), "{}", String::from_utf8_lossy(stdout));

    let masked = "umask 037; exec repoguard exec -- sh -c umask";
    sandbox.sh(masked).assert().success().stdout("0037\n");
}

#[test]
fn nothing_but_our_own_variables_is_added() {
    let sandbox = Sandbox::new();
    let names = |command: &mut assert_cmd::Command| -> Vec<String> {
        let output = command.assert().success().get_output().clone();
        let text = String::from_utf8(output.stdout).unwrap();
        let mut names: Vec<_> =
            text.lines().filter(|line| !line.starts_with("REPOGUARD_")).map(str::to_owned).collect();
        names.sort();
        names
    };
    let mut plain = to_the_end(sandbox.command("env"));
    let mut wrapped = sandbox.repoguard(["exec", "--", "env"]);
    assert_eq!(names(&mut plain), names(&mut wrapped));
}

#[test]
fn descriptors_of_the_caller_pass_through() {
    let sandbox = Sandbox::new();
    let script = "exec 7>seven 8<file; repoguard exec -- sh -c 'cat <&8 >&7'";
    sandbox.sh(script).assert().success();
    assert_eq!(fs::read_to_string(sandbox.path("seven")).unwrap(), "first\n");
}

#[test]
fn closed_standard_streams_never_become_a_file_of_ours() {
    let sandbox = Sandbox::new();
    let inner = "echo garbage; echo garbage >&2; cat; :";
    let script = format!("repoguard exec -- sh -c '{inner}' <&- >&- 2>&-");
    for _ in 0..2 {
        sandbox.sh(&script).assert().success();
    }
    let mut grep = to_the_end(sandbox.command("grep"));
    grep.args(["-rl", "garbage$"]).arg(sandbox.lock_file()).assert().code(1).stdout("");
    assert_eq!(fs::metadata(sandbox.lock_file()).unwrap().len(), 0);
    let mut records = to_the_end(sandbox.command("grep"));
    records.args(["-rlx", "garbage"]).arg(sandbox.data()).assert().code(1).stdout("");
}

/// Which of the signals 1 to 31 a process ignores and blocks, after `prelude` in the shell before it.
fn signal_state(sandbox: &Sandbox, prelude: &str, wrapper: &str) -> Vec<u64> {
    let script = format!("{prelude} exec {wrapper} cat /proc/self/status");
    let output = sandbox.sh(&script).assert().success().get_output().clone();
    let text = String::from_utf8(output.stdout).unwrap();
    let fields = text.lines().filter_map(|line| line.split_once(":\t"));
    let masks = fields.filter(|(name, _)| ["SigIgn", "SigBlk"].contains(name));
    // Above them are those that the C library uses itself, and sets as it likes where it starts a program.
    masks.map(|(_, mask)| u64::from_str_radix(mask, 16).expect("a mask") & 0x7fff_ffff).collect()
}

#[test]
fn command_has_the_callers_signal_state() {
    let sandbox = Sandbox::new();
    let ignored = ["HUP", "INT QUIT TERM", "PIPE", "CHLD", "XFSZ", "PIPE XFSZ"];
    let preludes = ignored.map(|signals| format!("trap '' {signals};"));
    for prelude in preludes.iter().map(String::as_str).chain([""]) {
        let plain = signal_state(&sandbox, prelude, "");
        assert_eq!(plain.len(), 2);
        for wrapper in ["repoguard exec --", "repoguard mutate -m message --"] {
            assert_eq!(plain, signal_state(&sandbox, prelude, wrapper), "after `{prelude}`, {wrapper}");
        }
    }
}

#[test]
fn blocked_signals_stay_blocked_in_the_command() {
    if !has_program("perl") {
        return skip("blocked signals", "no perl");
    }
    let sandbox = Sandbox::new();
    let block = "use POSIX; sigprocmask(SIG_BLOCK, POSIX::SigSet->new(SIGUSR1, SIGTERM)); exec @ARGV";
    let state = |wrapper: &[&str]| {
        let mut command: Command = sandbox.command("perl");
        command.args(["-e", block]).args(wrapper).args(["grep", "SigBlk", "/proc/self/status"]);
        let output = to_the_end(command).assert().success().get_output().clone();
        String::from_utf8(output.stdout).unwrap()
    };
    let repoguard = binary().to_str().unwrap();
    assert_eq!(state(&["env"]), state(&[repoguard, "exec", "--"]));
}

#[test]
fn command_stays_in_the_callers_process_group_and_session() {
    let sandbox = Sandbox::new();
    // Fields 5 and 6 of `stat` are the process group and the session.
    let script = "cut -d' ' -f5,6 /proc/$$/stat; exec repoguard exec -- sh -c 'cut -d\" \" -f5,6 /proc/$$/stat'";
    let output = sandbox.sh(script).assert().success().get_output().clone();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0], lines[1]);
}

#[test]
fn orphans_of_the_command_are_reaped() {
    let sandbox = Sandbox::new();
    // Each orphan is adopted by us; as with init, none may stay behind as a zombie.
    let script = "for each in $(seq 20); do (true &); done; echo $$; read _ || :";
    let mut holder = sandbox.hold_with(&[], script);
    eventually("all are reaped", || {
        zombies_below(holder.pid()).is_empty() && zombies_below(holder.keeper()).is_empty()
    });
    assert!(holder.finish().success());
}

#[test]
fn caller_that_ignores_or_blocks_the_end_of_children_is_served_all_the_same() {
    if !crate::support::has_program("python3") {
        return crate::support::skip("SIGCHLD ignored or blocked", "needs python3");
    }
    let sandbox = Sandbox::new();
    let python = "import os, signal, sys\n\
        if 'i' in sys.argv[1]: signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n\
        if 'b' in sys.argv[1]: signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})\n\
        os.execvp(sys.argv[2], sys.argv[2:])";
    for how in ["i", "b", "ib"] {
        for (words, status) in [
            (["exec", "--", "sh", "-c", "exit 7"].as_slice(), 7),
            (&["mutate", "-m", "m", "--", "sh", "-c", "exit 7"], 7),
            (&["hooks", "status"], 1),
            (&["doctor"], 0),
        ] {
            let mut command = sandbox.command("python3");
            command.args(["-c", python, how, "repoguard"]).args(words);
            let output =
                crate::support::to_the_end(command).timeout(std::time::Duration::from_secs(30)).output().unwrap();
            assert_eq!(
                output.status.code(),
                Some(status),
                "{how} {words:?}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        // The command finds it as its caller has it.
        let mut command = sandbox.command("python3");
        command.args(["-c", python, how, "repoguard", "exec", "--", "grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"]);
        let inside = command.output().unwrap().stdout;
        let mut command = sandbox.command("python3");
        command.args(["-c", python, how, "grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"]);
        assert_eq!(
            String::from_utf8_lossy(&inside),
            String::from_utf8_lossy(&command.output().unwrap().stdout),
            "{how}"
        );
    }
}
