//! `repoguard exec`: statuses, usage, the token and the fencing number, the result file, and the traces it leaves.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::time::Duration;

use serde_json::Value;

use crate::support::{Running, Sandbox, eventually, shell_status};

#[test]
fn status_of_the_command_passes_through() {
    let sandbox = Sandbox::new();
    for status in [0, 1, 2, 3, 65, 75, 125, 255] {
        let script = format!("exit {status}");
        sandbox.repoguard(["exec", "--", "sh", "-c", &script]).assert().code(status).stderr("");
    }
}

#[test]
fn death_by_a_signal_is_128_and_its_number() {
    let sandbox = Sandbox::new();
    for (signal, status) in [("HUP", 129), ("INT", 130), ("KILL", 137), ("SEGV", 139), ("TERM", 143)] {
        let script = format!("kill -{signal} $$");
        sandbox.repoguard(["exec", "--", "sh", "-c", &script]).assert().code(status);
    }
}

#[test]
fn missing_command_is_127_and_unusable_one_is_126() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("plain"), "#!/bin/sh\n").unwrap();
    fs::create_dir(sandbox.path("directory")).unwrap();
    fs::write(sandbox.path("no-interpreter"), "#!/nowhere/at/all\n").unwrap();
    let executable = fs::Permissions::from_mode(0o755);
    fs::set_permissions(sandbox.path("no-interpreter"), executable).unwrap();

    let cases = [("no-such-program", 127), ("./missing", 127), ("./plain", 126), ("./directory", 126)];
    for (program, status) in cases {
        let output = sandbox.repoguard(["exec", "--", program]).assert().code(status).stdout("");
        let told = String::from_utf8_lossy(&output.get_output().stderr).into_owned();
        assert!(told.contains(program.trim_start_matches("./")), "{program}: {told}");
    }
    // The kernel says ENOENT for a script whose interpreter is not there.
    let status = sandbox.repoguard(["exec", "--", "./no-interpreter"]).output().unwrap().status;
    assert!([126, 127].contains(&status.code().unwrap()), "{status}");
    assert_eq!(sandbox.try_once(&[]), 0, "let go after a command that never started");
}

#[test]
fn wrong_usage_is_2_and_runs_nothing() {
    let sandbox = Sandbox::new();
    let cases: &[&[&str]] = &[
        &["--no-such-option"],
        &["--shared", "--scope", "repo"],
        &["--scope", "galaxy"],
        &["-w", "soon"],
        &["-w", "-1"],
        &["-w"],
        &["--max-hold", "long"],
        &["--on-busy", "maybe"],
        &["-E", "256"],
        &["-E", "many"],
        &["--color", "green"],
    ];
    for options in cases {
        sandbox.refused(options, 2);
    }
    for args in [&["exec"][..], &["exec", "--"], &["no-such-verb"], &["--no-such-option"]] {
        sandbox.repoguard(args).assert().code(2).stdout("");
    }
    assert!(!sandbox.lock_file().exists(), "wrong usage touches nothing");
}

#[test]
fn string_runs_through_the_shell() {
    let sandbox = Sandbox::new();
    let through = |shell: &str| {
        let mut command = sandbox.repoguard(["exec", "-c", "echo $((1 + 2)) ${BASH_VERSION:+bash}"]);
        command.env("SHELL", shell);
        String::from_utf8(command.assert().success().get_output().stdout.clone()).unwrap()
    };
    assert_eq!(through("/bin/sh").trim(), "3");
    assert_eq!(through("/bin/bash").trim(), "3 bash");
    sandbox.repoguard(["exec", "-c", "exit 9"]).assert().code(9);
}

#[test]
fn command_runs_in_the_given_directory() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("sub")).unwrap();
    let place = sandbox.path("sub");
    let mut outside = sandbox.repoguard(["-C", place.to_str().unwrap(), "exec", "--", "pwd"]);
    let expected = format!("{}\n", place.display());
    outside.current_dir("/").assert().success().stdout(expected.clone());

    // Given twice, the second is relative to the first, as with git.
    let here = sandbox.here().to_str().unwrap();
    let mut twice = sandbox.repoguard(["-C", here, "-C", "sub", "exec", "--", "pwd"]);
    twice.current_dir("/").assert().success().stdout(expected);

    let mut nowhere = sandbox.repoguard(["-C", "/no/such/place", "exec", "--", "touch"]);
    nowhere.arg(sandbox.outside("ran"));
    sandbox.assert_refused(nowhere, 125);
}

#[test]
fn busy_status_can_be_chosen() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold(&[]);
    assert_eq!(sandbox.try_once(&[]), 75);
    assert_eq!(sandbox.try_once(&["-E", "42"]), 42);
    assert_eq!(sandbox.try_once(&["--busy-exit-code", "0"]), 0);
}

#[test]
fn quiet_waiter_says_nothing() {
    let sandbox = Sandbox::new();
    let mut holder = sandbox.hold(&[]);
    let mut waiter = sandbox.start(sandbox.repoguard_command(["-q", "exec", "--", "true"]));
    eventually("it waits", || sandbox.waiters() == 1);
    // Longer than anybody waits in silence.
    std::thread::sleep(Duration::from_millis(700));
    holder.finish();
    assert!(waiter.ended().success());
    assert_eq!(waiter.stderr(), "");
}

#[test]
fn command_sees_token_and_fencing_number() {
    let sandbox = Sandbox::new();
    let script = r#"test -n "$REPOGUARD_TOKEN" && echo "$REPOGUARD_FENCE""#;
    let holder = sandbox.hold_with(&[], script);
    assert!(holder.first_line().parse::<u64>().unwrap() > 0);
}

#[test]
fn fencing_number_only_ever_grows() {
    let sandbox = Sandbox::new();
    let fence = || {
        let mut command = sandbox.repoguard(["exec", "-c", "echo $REPOGUARD_FENCE"]);
        let output = command.assert().success().get_output().clone();
        String::from_utf8(output.stdout).unwrap().trim().parse::<u64>().unwrap()
    };
    let mut last = 0;
    let mut grows = |what: &str| {
        let next = fence();
        assert!(next > last, "{what}: {next} after {last}");
        last = next;
    };
    for _ in 0..5 {
        grows("one after the other");
    }
    fs::remove_dir_all(sandbox.data()).unwrap();
    grows("after all records were deleted");
    grows("and again");
    fs::remove_file(sandbox.lock_file()).unwrap();
    grows("after the lock file was deleted");
    fs::remove_dir_all(sandbox.data()).unwrap();
    fs::remove_file(sandbox.lock_file()).unwrap();
    grows("after everything was deleted");
}

#[test]
fn shared_holders_have_fencing_numbers_of_their_own() {
    let sandbox = Sandbox::new();
    let script = "echo $REPOGUARD_FENCE; read _";
    let holders: Vec<Running> = (0..4).map(|_| sandbox.hold_with(&["-s"], script)).collect();
    let mut numbers: Vec<String> = holders.iter().map(Running::first_line).collect();
    numbers.sort();
    numbers.dedup();
    assert_eq!(numbers.len(), 4, "{numbers:?}");
}

/// The result file of `exec OPTIONS -- CMD`, read back.
fn result_of(sandbox: &Sandbox, options: &[&str], command: &[&str], status: i32) -> Value {
    let path = sandbox.outside("result.json");
    let mut exec = sandbox.repoguard(["exec", "--result-file"]);
    exec.arg(&path).args(options).arg("--").args(command);
    exec.assert().code(status);
    let value = serde_json::from_slice(&fs::read(&path).expect("a result file")).expect("JSON");
    fs::remove_file(path).unwrap();
    value
}

#[test]
fn result_file_tells_our_outcome_from_the_commands() {
    let sandbox = Sandbox::new();
    let own = result_of(&sandbox, &[], &["sh", "-c", "exit 75"], 75);
    let holder = sandbox.hold(&[]);
    let busy = result_of(&sandbox, &["-n"], &["true"], 75);
    drop(holder);
    let missing = result_of(&sandbox, &["-w", "20"], &["no-such-program"], 127);
    for result in [&own, &busy, &missing] {
        assert_eq!(result["schema"], 1, "{result}");
    }
    assert_eq!(own["acquired"], true, "{own}");
    assert_eq!(own["status"], 75, "{own}");
    assert_eq!(busy["acquired"], false, "{busy}");
    assert_eq!(busy["status"], Value::Null, "a command that never ran has no status: {busy}");
    assert_eq!(missing["status"], Value::Null, "{missing}");
}

#[test]
fn lock_file_is_made_once_and_never_touched_again() {
    let sandbox = Sandbox::new();
    assert_eq!(sandbox.try_once(&[]), 0);
    let first = fs::metadata(sandbox.lock_file()).unwrap();
    assert!(first.is_file() && first.len() == 0);
    fs::write(sandbox.lock_file(), "somebody's own note").unwrap();
    for options in [&[][..], &["-s"], &["--scope", "repo"]] {
        assert_eq!(sandbox.try_once(options), 0);
    }
    assert_eq!(fs::metadata(sandbox.lock_file()).unwrap().ino(), first.ino());
    assert_eq!(fs::read_to_string(sandbox.lock_file()).unwrap(), "somebody's own note");
}

#[test]
fn worktree_and_git_see_nothing_of_us() {
    let sandbox = Sandbox::new();
    for options in [&[][..], &["-s"], &["--scope", "repo"], &["--name", "deploy"]] {
        assert_eq!(sandbox.try_once(options), 0);
    }
    assert_eq!(sandbox.git(["status", "--porcelain", "--ignored"]), "");
    assert_eq!(sandbox.git(["for-each-ref", "--format=%(refname)"]), "refs/heads/main\n");
    sandbox.git(["fsck", "--strict"]);
    sandbox.git(["gc", "-q", "--prune=now"]);
}

#[test]
fn interrupted_command_leaves_the_lock_free() {
    let sandbox = Sandbox::new();
    let mut holder = sandbox.hold_with(&[], "echo $$; exec sleep 60");
    holder.signal_group(rustix::process::Signal::TERM);
    assert_eq!(shell_status(holder.ended()), 143);
    assert_eq!(sandbox.try_once(&[]), 0);
}
