//! What is printed for programs: never half, never lost without a word, and an object also where a command fails.

use std::fs::{self, File};
use std::process::Stdio;

use serde_json::Value;

use crate::support::{Sandbox, acquire};

/// Runs a line of shell, and returns its status and what it wrote to standard error.
fn run(sandbox: &Sandbox, script: &str) -> (i32, String) {
    let output = sandbox.sh(script).output().unwrap();
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Runs `repoguard ARGS`, which must end with this status, and returns the one object that it prints.
#[track_caller]
fn object(sandbox: &Sandbox, args: &[&str], status: i32) -> Value {
    let output = sandbox.repoguard(args).assert().code(status).get_output().clone();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("one object: {output:?}"))
}

#[test]
fn closed_output_gives_no_number_away() {
    let sandbox = Sandbox::new();
    for closed in [">&-", "<&- >&- 2>&-", "1<file"] {
        for options in ["", "--json", "--count 3", "--format 'A-{}'"] {
            let (status, told) = run(&sandbox, &format!("repoguard next {options} seq {closed}"));
            assert_eq!(status, 125, "{options} {closed}: {told}");
            assert!(closed.contains("2>") || told.contains("not given"), "{told}");
        }
    }
    sandbox.repoguard(["next", "seq"]).assert().success().stdout("1\n");
}

#[test]
fn number_that_cannot_be_printed_is_named_and_never_given_again() {
    let sandbox = Sandbox::new();
    let (status, told) = run(&sandbox, "repoguard next seq >/dev/full");
    assert!(status == 125 && told.contains("number 1 cannot be printed"), "{status} {told}");
    let (status, told) = run(&sandbox, "repoguard next --count 3 seq --json >/dev/full");
    assert!(status == 125 && told.contains("numbers 2 to 4 cannot be printed"), "{status} {told}");
    sandbox.repoguard(["next", "seq"]).assert().success().stdout("5\n");
    // A pipe whose reader is gone before the command starts.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = sandbox.repoguard_command(["next", "seq"]);
    assert_eq!(command.stdout(writer).stderr(Stdio::null()).status().unwrap().code(), Some(125));
    sandbox.repoguard(["next", "seq"]).assert().success().stdout("7\n");
}

#[test]
fn output_that_goes_nowhere_on_purpose_is_no_error() {
    let sandbox = Sandbox::new();
    // As Python's `subprocess.DEVNULL`, which looks like what the standard library puts in place of a closed output.
    for script in ["repoguard next seq >/dev/null", "repoguard next seq <>/dev/null >&0", "repoguard status >/dev/null"]
    {
        assert_eq!(run(&sandbox, script).0, 0, "{script}");
    }
    let both = File::options().read(true).write(true).open("/dev/null").unwrap();
    let mut command = sandbox.repoguard_command(["next", "seq"]);
    assert!(command.stdout(both).status().unwrap().success());
    sandbox.repoguard(["next", "seq"]).assert().success().stdout("4\n");
}

#[test]
fn acquire_that_cannot_print_its_token_holds_nothing() {
    let sandbox = Sandbox::new();
    for output in [">&-", ">/dev/full", "1<file"] {
        for options in ["", "--json", "--background"] {
            let (status, told) = run(&sandbox, &format!("repoguard acquire --ttl 10m {options} {output}"));
            assert_eq!(status, 125, "{output} {options}: {told}");
            assert!(told.contains("token"), "{told}");
            assert_eq!(sandbox.try_once(&[]), 0, "{output} {options}");
        }
    }
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = sandbox.repoguard_command(["acquire", "--ttl", "10m"]);
    assert_eq!(command.stdout(writer).stderr(Stdio::null()).status().unwrap().code(), Some(125));
    sandbox.assert_nothing_left();
}

#[test]
fn failed_write_is_an_error_in_every_command_but_a_closed_pipe_is_not() {
    let sandbox = Sandbox::new();
    sandbox.repoguard(["state", "set", "a", "1"]).assert().success();
    for command in [
        "status",
        "status --json",
        "log",
        "state get a",
        "state list",
        "state digest file",
        "snapshots --json",
        "worktrees --json",
        "hooks status",
        "doctor",
        "man",
        "completions bash",
        "--version",
        "exec --help",
    ] {
        for output in [">&-", ">/dev/full"] {
            let (status, told) = run(&sandbox, &format!("repoguard {command} {output}"));
            if command == "log" && told.is_empty() {
                continue;
            }
            assert!(
                status == 125 && told.contains("cannot write to standard output"),
                "{command} {output}: {status} {told}"
            );
        }
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut closed = sandbox.repoguard_command(command.split(' '));
        let output = closed.stdout(writer).output().unwrap();
        assert_eq!((output.status.code(), output.stderr.is_empty()), (Some(0), true), "{command}: {output:?}");
    }
}

#[test]
fn busy_acquire_prints_one_object() {
    let sandbox = Sandbox::new();
    let token = acquire(&sandbox, &["--ttl", "10m", "--reason", "release"]);
    for (args, status) in [
        (&["--json", "acquire", "-n", "--ttl", "1m"][..], 75),
        (&["acquire", "--json", "-w", "0.1", "--ttl", "1m"], 75),
        (&["acquire", "--json", "-n", "-E", "9", "--for-pid", "1"], 9),
    ] {
        let told = object(&sandbox, args, status);
        assert_eq!((&told["schema"], &told["outcome"]), (&1.into(), &"busy".into()), "{told}");
        assert_eq!(told["exit_status"], status, "{told}");
        assert_eq!(told["holders"][0]["reason"], "release", "{told}");
        assert_eq!(told["waiters"], Value::Array(Vec::new()), "{told}");
        assert!(told["error"].as_str().is_some_and(|text| text.starts_with("busy: ")), "{told}");
        assert!(told["holders"][0].get("token_sha256").is_none(), "{told}");
    }
    let waiting = acquire(&sandbox, &["--ttl", "10m", "--background"]);
    let told = object(&sandbox, &["--json", "wait", "-w", "0", &waiting], 75);
    assert_eq!((&told["outcome"], &told["holders"][0]["reason"]), (&"busy".into(), &"release".into()), "{told}");
    for token in [waiting, token] {
        sandbox.repoguard(["release", &token]).assert().success();
    }
}

#[test]
fn every_failing_command_with_json_prints_one_object() {
    let sandbox = Sandbox::new();
    fs::create_dir_all(sandbox.data()).unwrap();
    fs::write(sandbox.data().join("state.json"), "{").unwrap();
    for (args, status, outcome) in [
        (&["--json", "state", "get", "a"][..], 125, "failed"),
        (&["state", "set", "a", "1", "--json"], 125, "failed"),
        (&["--json", "-C", "no/such", "status"], 125, "failed"),
        (&["--json", "state", "--file", "new.json", "set", "a", "{"], 2, "usage"),
        (&["--json", "state", "--file", "new.json", "set", "a", "1", "--expect", "2"], 65, "invalid"),
        (&["--json", "restore", "none"], 1, "no"),
        (&["--json", "next", ""], 2, "usage"),
        (&["--json", "next"], 2, "usage"),
        (&["acquire", "--json"], 2, "usage"),
        (&["--json", "acquire", "--ttl", "0"], 2, "usage"),
        (&["--json", "acquire", "--for-pid", "4194305"], 125, "failed"),
        (&["--json", "man", "none"], 2, "usage"),
    ] {
        let told = object(&sandbox, args, status);
        assert_eq!((&told["outcome"], &told["exit_status"]), (&outcome.into(), &status.into()), "{args:?}: {told}");
        assert!(told["error"].as_str().is_some_and(|text| !text.is_empty()), "{args:?}: {told}");
        assert!(told["causes"].is_array() && told.get("hint").is_some(), "{args:?}: {told}");
    }
    let told = object(&sandbox, &["--json", "state", "--file", "none.json", "get", "a", "/b"], 1);
    assert_eq!((&told["outcome"], &told["exit_status"]), (&"no".into(), &1.into()), "{told}");
    assert!(object(&sandbox, &["--json", "release", "7-00"], 1)["outcome"] == "unknown");
}

#[test]
fn json_for_a_command_whose_output_is_not_ours_prints_nothing() {
    let sandbox = Sandbox::new();
    for args in
        [&["--json", "exec", "--", "true"][..], &["exec", "--json"], &["mutate", "--json", "-m", "x", "--", "true"]]
    {
        sandbox.repoguard(args).assert().code(2).stdout("");
    }
}
