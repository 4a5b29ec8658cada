//! Writes that fail around a command: a limit of file sizes, a full device, a pipe that nobody reads. The command's status, its
//! signals and the repository stay what they are without repoguard.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Output};

use crate::support::{Sandbox, alive, eventually, has_program, is_root, shell_status, skip};

/// A repository whose log is longer than most limits here.
fn with_long_log() -> Sandbox {
    let sandbox = Sandbox::new();
    assert_eq!(sandbox.try_once(&[]), 0);
    let log = sandbox.data().join("log.jsonl");
    fs::write(&log, fs::read_to_string(&log).unwrap() + &"{}\n".repeat(40_000)).unwrap();
    sandbox
}

/// `sh -c SCRIPT` where files may have so many units of 512 bytes.
#[track_caller]
fn limited(sandbox: &Sandbox, limit: u32, script: &str) -> Output {
    let output = sandbox.sh(&format!("ulimit -f {limit}; {script}")).output().unwrap();
    assert!(!told(&output).contains("panicked"), "{}", told(&output));
    output
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Asserts that the lock is free, and that the next holder is told of no dead one.
#[track_caller]
fn assert_released(sandbox: &Sandbox, what: &str) {
    let next = sandbox.repoguard(["exec", "-n", "--", "true"]).output().unwrap();
    assert_eq!((next.status.code(), told(&next).as_str()), (Some(0), ""), "{what}");
}

const LIMITS: [u32; 4] = [0, 1, 3, 64];

#[test]
fn limit_of_file_sizes_changes_no_status() {
    for limit in LIMITS {
        for sandbox in [Sandbox::new(), with_long_log()] {
            for options in ["", "-s", "--name x", "--scope repo", "--max-hold 1m"] {
                let output = limited(&sandbox, limit, &format!("repoguard exec {options} -- sh -c 'exit 3'"));
                assert_eq!(shell_status(output.status), 3, "limit {limit}, {options}: {}", told(&output));
            }
            assert_released(&sandbox, &format!("limit {limit}"));
        }
    }
}

#[test]
fn keeper_outlives_the_limit_of_file_sizes() {
    let sandbox = with_long_log();
    let script = "ulimit -f 1; exec repoguard exec -- sh -c 'echo $$; read _'";
    let mut holder = sandbox.start_up(sandbox.sh_command(script));
    let keeper = holder.keeper();
    holder.signal(rustix::process::Signal::KILL);
    holder.finish();
    eventually("the keeper has ended", || !alive(keeper));
    assert_eq!(sandbox.try_once(&[]), 0);
}

#[test]
fn command_that_writes_beyond_the_limit_dies_of_it_as_alone() {
    let sandbox = Sandbox::new();
    let script = "cat /dev/zero >zeros";
    let alone = limited(&sandbox, 64, script).status;
    let wrapped = limited(&sandbox, 64, &format!("exec repoguard exec -- {script}")).status;
    assert_eq!((shell_status(alone), wrapped.signal()), (shell_status(wrapped), None));
    let ignoring = limited(&sandbox, 64, &format!("trap '' XFSZ; exec repoguard exec -- {script}")).status;
    assert_eq!(ignoring.code(), Some(1), "cat sees an error instead");
    assert_released(&sandbox, "after them");
}

#[test]
fn document_and_sequence_are_whole_whatever_can_be_written() {
    let sandbox = Sandbox::new();
    sandbox.repoguard(["state", "set", "a", "--string", "first"]).assert().success();
    sandbox.repoguard(["next", "seq"]).assert().success().stdout("1\n");
    let document = fs::read(sandbox.data().join("state.json")).unwrap();
    for limit in LIMITS {
        let script = "repoguard state set b --string \"$(head -c 40000 /dev/zero | tr '\\0' x)\"";
        let output = limited(&sandbox, limit, script);
        assert_eq!(shell_status(output.status), 125, "limit {limit}: {}", told(&output));
        assert_eq!(fs::read(sandbox.data().join("state.json")).unwrap(), document);
        // Given or not: never twice.
        let output = limited(&sandbox, limit, "repoguard next seq");
        assert!([0, 125].contains(&shell_status(output.status)), "limit {limit}: {}", told(&output));
        assert_eq!(output.status.success(), !output.stdout.is_empty());
    }
    sandbox.repoguard(["state", "get", "a"]).assert().success().stdout("\"first\"\n");
}

#[test]
fn acquire_under_a_limit_holds_or_leaves_nothing() {
    for limit in LIMITS {
        let sandbox = with_long_log();
        let output = limited(&sandbox, limit, "repoguard acquire --ttl 10m");
        let token = String::from_utf8(output.stdout.clone()).unwrap();
        if output.status.success() {
            assert_eq!(sandbox.try_once(&[]), 75);
            sandbox.repoguard(["release", token.trim()]).assert().success();
        } else {
            assert_eq!((shell_status(output.status), token.as_str()), (125, ""), "{}", told(&output));
        }
        assert_eq!(sandbox.try_once(&[]), 0, "limit {limit}");
        eventually("no keeper is left", || sandbox.processes().is_empty());
    }
}

#[test]
fn hooks_under_a_limit_let_git_work() {
    let sandbox = with_long_log();
    sandbox.install_hooks();
    // Git's own files are small.
    let output = limited(&sandbox, 64, "exec git commit -q --allow-empty -m limited");
    assert!(output.status.success(), "{}", told(&output));
    eventually("free", || sandbox.try_once(&[]) == 0);
    assert_eq!(sandbox.git(["log", "-1", "--format=%s"]), "limited\n");
}

/// A repository with a large committed file and a small one.
fn with_large_file() -> Sandbox {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("large"), "line\n".repeat(40_000)).unwrap();
    sandbox.git(["add", "large"]);
    sandbox.git(["commit", "-q", "-m", "second"]);
    sandbox
}

#[test]
fn mutation_under_a_limit_lands_whole_or_leaves_no_trace() {
    let endings = ["echo x >>file", "echo x >>file; exit 3", ": >large; exit 3", "rm large; echo x >new; exit 3"];
    for limit in LIMITS {
        for script in endings {
            let sandbox = with_large_file();
            let before = sandbox.state();
            let output = limited(&sandbox, limit, &format!("exec repoguard mutate -m change -- sh -c '{script}'"));
            let what = format!("limit {limit}, `{script}`: {}", told(&output));
            let status = shell_status(output.status);
            // What cannot be put back under the limit is put back by the next that may.
            sandbox.repoguard(["exec", "--", "true"]).assert().success();
            if status == 0 {
                assert_eq!(sandbox.git(["log", "-1", "--format=%s"]), "change\n", "{what}");
                assert_eq!(sandbox.short_status(), [""; 0], "{what}");
            } else {
                assert!(script.contains("exit 3") || status != 3, "{what}");
                before.assert_same(&sandbox.state(), &what);
            }
            assert!(sandbox.status()["unfinished"].is_null(), "{what}");
        }
    }
}

/// What standard error can be: closed, a full device, a pipe that nobody reads any more.
fn with_stderr(command: &mut Command, place: &str) {
    match place {
        "full" => drop(command.stderr(fs::File::options().write(true).open("/dev/full").unwrap())),
        "pipe" => drop(command.stderr(std::io::pipe().unwrap().1)),
        _ => {}
    }
}

#[test]
fn place_for_messages_that_fails_changes_no_status() {
    let sandbox = Sandbox::new();
    // Each of them has something to say: that it was acquired, what was committed, that HEAD was moved outside.
    let commands = [
        ("repoguard -v exec -- sh -c 'exit 3'", 3),
        ("repoguard -v exec --result-file /dev/full -- sh -c 'exit 4'", 4),
        ("repoguard mutate -m change -- sh -c 'echo x >>file'", 0),
        ("repoguard mutate -m change -- sh -c 'echo x >>file; exit 5'", 5),
        ("repoguard exec -- no-such-command", 127),
        ("repoguard exec --no-such-option -- true", 2),
    ];
    for (command, status) in commands {
        for place in ["closed", "full", "pipe"] {
            sandbox.git(["commit", "-q", "--allow-empty", "-m", "outside"]);
            let close = if place == "closed" { "2>&-" } else { "" };
            let mut shell = sandbox.sh_command(&format!("{command} {close}"));
            with_stderr(&mut shell, place);
            let ended = shell.status().unwrap();
            assert_eq!(shell_status(ended), status, "{command}, {place}");
        }
    }
    assert_eq!(sandbox.try_once(&[]), 0);
}

#[test]
fn result_file_that_cannot_be_written_is_told_and_changes_no_status() {
    let sandbox = Sandbox::new();
    for (verb, status) in [("exec", 4), ("mutate -m change", 4)] {
        let command = format!("repoguard {verb} --result-file /dev/full -- sh -c 'exit 4'");
        let output = sandbox.sh(&command).output().unwrap();
        assert_eq!(shell_status(output.status), status, "{}", told(&output));
        assert!(told(&output).contains("cannot write the result file `/dev/full`"), "{}", told(&output));
    }
    let nowhere = sandbox.outside("no-such-directory/result");
    sandbox.refused(&["--result-file", nowhere.to_str().unwrap()], 125);
    assert!(Path::new("/dev/full").exists());
}

#[test]
fn mutation_with_fewer_threads_and_processes_than_it_wants_ends_in_order() {
    // Its processes are the only ones of this user.
    const USER: u32 = 61_031;
    if !is_root() || !has_program("setpriv") {
        return skip("a limit of threads and processes", "needs root, whom no such limit stops, and setpriv");
    }
    let sandbox = Sandbox::new();
    sandbox.open_to_all();
    sandbox.sh(&format!("chown -R {USER}:{USER} .")).assert().success();
    let mutate = |limit: &str| {
        let mut command = sandbox.command("setpriv");
        command.args([&format!("--reuid={USER}"), &format!("--regid={USER}"), "--clear-groups"]);
        command.args(["prlimit", &format!("--nproc={limit}"), "repoguard", "mutate", "-q", "-m", "m", "--"]);
        let output = command.args(["sh", "-c", "echo x >>file"]).output().unwrap();
        assert!(!told(&output).contains("panicked"), "limit {limit}: {}", told(&output));
        output.status.success()
    };
    let limits = ["1", "2", "3", "4", "5", "6", "8", "12", "unlimited"];
    let landed = limits.into_iter().filter(|limit| mutate(limit)).count();
    assert!((1..limits.len()).contains(&landed), "{landed} of them landed");
    let git = |args: &[&str]| {
        let mut git = sandbox.command("git");
        let output = git.args(["-c", "safe.directory=*"]).args(args).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert_eq!(git(&["log", "--format=%s"]).matches("m\n").count(), landed);
    assert_eq!(git(&["status", "--porcelain"]), "");
    assert_eq!(fs::read_to_string(sandbox.path("file")).unwrap().matches('x').count(), landed);
}
