//! `repoguard mutate`: what passes through to the command, and what is told of a mutation: result file, log, status.

use std::fs;

use serde_json::Value;

use crate::mutate::furnished;
use crate::support::Sandbox;

#[test]
fn streams_belong_to_the_command() {
    let sandbox = furnished();
    let bytes: Vec<u8> = (0..300_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut command = sandbox.mutate(&["--check", "true", "--verify", "true"], "tee file");
    command.write_stdin(bytes.clone()).assert().success().stdout(bytes.clone());
    assert_eq!(sandbox.landed(), ["M file"]);
    assert_eq!(fs::read(sandbox.path("file")).unwrap(), bytes);
    let both = sandbox.mutate(&["-q"], "echo out; echo err >&2; echo x >>file").assert().success().get_output().clone();
    assert_eq!((&both.stdout[..], &both.stderr[..]), (&b"out\n"[..], &b"err\n"[..]), "quiet is quiet");
}

#[test]
fn hooks_do_not_write_to_the_commands_output() {
    let sandbox = furnished();
    sandbox.own_hook("pre-commit", "echo from the hook");
    sandbox.mutate(&[], "echo out; echo x >>file").assert().success().stdout("out\n");
}

#[test]
fn arguments_and_environment_pass_through() {
    let sandbox = furnished();
    let mut command = sandbox.mutate(&[], "printf '%s|' \"$MINE\" \"$@\"; pwd; umask; echo x >>a");
    command.args(["sh", "--", "-m", "", "a b"]).env("MINE", "my own").current_dir(sandbox.path("d"));
    let expected = format!("my own|--|-m||a b|{}\n0022\n", sandbox.path("d").display());
    command.assert().success().stdout(expected);
}

/// The result file of a mutation that ends with this status.
#[track_caller]
fn result_of(sandbox: &Sandbox, options: &[&str], script: &str, status: i32) -> Value {
    let path = sandbox.outside("result.json");
    let options = [&["--result-file", path.to_str().unwrap()], options].concat();
    sandbox.mutate(&options, script).assert().code(status);
    let value: Value = serde_json::from_slice(&fs::read(&path).expect("a result file")).expect("JSON");
    fs::remove_file(path).unwrap();
    assert!(value["schema"].is_u64(), "{value}");
    assert_eq!(value["exit_status"], status, "{value}");
    value
}

#[test]
fn result_file_tells_what_was_committed() {
    let sandbox = furnished();
    let result = result_of(&sandbox, &[], "echo x >>file", 0);
    assert_eq!(result["outcome"], "committed", "{result}");
    assert_eq!(result["commit"], sandbox.head(), "{result}");
    assert_ne!(result["rolled_back"], true, "{result}");
    assert_eq!(result["acquired"], true, "{result}");
    assert!(result["fence"].is_u64(), "{result}");

    let outcomes: Vec<Value> =
        [("true", &[][..]), ("echo x >>file", &["--no-commit"][..]), ("echo x >new", &["--dry-run", "--allow-dirty"])]
            .into_iter()
            .map(|(script, options)| result_of(&sandbox, options, script, 0))
            .collect();
    for result in &outcomes {
        assert_eq!(result["commit"], Value::Null, "{result}");
    }
    let names: std::collections::BTreeSet<String> =
        outcomes.iter().map(|result| result["outcome"].to_string()).collect();
    assert_eq!(names.len(), 3, "nothing, staged and shown are told apart: {names:?}");
}

#[test]
fn result_file_tells_which_step_failed() {
    let sandbox = furnished();
    for (step, options, script, status) in [
        ("check", &["--check", "exit 4"][..], "true", 4),
        ("command", &[][..], "echo x >>file; exit 5", 5),
        ("verify", &["--verify", "exit 6"], "echo x >>file", 6),
    ] {
        let result = result_of(&sandbox, options, script, status);
        assert_eq!((&result["step"], &result["status"]), (&Value::from(step), &Value::from(status)), "{result}");
        assert_eq!(result["commit"], Value::Null, "{result}");
        assert!(result["rolled_back"] == true || step == "check", "{result}");
        assert!(!result["error"].is_null() || !result["message"].is_null(), "{result}");
    }
    let moved = result_of(&sandbox, &[], "git commit -q --allow-empty -m x", 65);
    assert_eq!(moved["rolled_back"], true, "{moved}");
    let unfit = result_of(&sandbox, &["--expect-head", "HEAD~1"], "true", 65);
    assert_eq!((&unfit["status"], &unfit["commit"]), (&Value::Null, &Value::Null), "nothing ran: {unfit}");
    let holder = sandbox.hold(&[]);
    let busy = result_of(&sandbox, &["-n"], "true", 75);
    drop(holder);
    assert_eq!((&busy["acquired"], &busy["outcome"]), (&Value::from(false), &Value::from("busy")), "{busy}");
    sandbox.own_hook("pre-commit", "exit 1");
    let refused = result_of(&sandbox, &[], "echo x >>file", 1);
    assert_eq!((&refused["step"], &refused["rolled_back"]), (&Value::from("commit"), &Value::from(true)), "{refused}");
}

#[test]
fn log_has_one_line_with_both_heads_and_the_steps() {
    let sandbox = furnished();
    let old = sandbox.head();
    sandbox.commits(&["--check", "true", "--verify", "true", "--reason", "bump"], "echo x >>file");
    sandbox.undone(&["--verify", "exit 6"], "echo x >>file", 6);
    let log = sandbox.log();
    assert_eq!(log.len(), 2, "{log:?}");
    let (landed, failed) = (log[0].to_string(), log[1].to_string());
    assert_eq!(log[0]["event"], "hold", "{landed}");
    assert!(log[0]["head_before"].to_string().contains(&old), "{landed}");
    assert!(log[0]["head_after"].to_string().contains(&sandbox.head()), "{landed}");
    assert_eq!(log[1]["head_before"], log[1]["head_after"], "{failed}");
    assert_eq!((&log[0]["status"], &log[1]["status"]), (&Value::from(0), &Value::from(6)));
    for step in ["check", "command", "verify", "commit"] {
        assert!(log[0]["steps"].to_string().contains(step), "{landed}");
    }
    assert!(
        log[1]["steps"].to_string().contains("verify") && !log[1]["steps"].to_string().contains("commit"),
        "{failed}"
    );
    assert!(landed.contains("bump"), "{landed}");
    sandbox.assert_nothing_to_tell();
}

#[test]
fn status_shows_who_mutates_and_then_nothing() {
    let sandbox = furnished();
    let gate = sandbox.gate("command");
    let mut running = sandbox.start(sandbox.mutate_command(&["--reason", "bump"], &gate.script()));
    gate.reached_by(&mut running);
    let holder = sandbox.holder();
    assert!(holder.to_string().contains("bump") && holder["pid"] == running.pid(), "{holder}");
    assert_eq!(sandbox.status()["unfinished"], Value::Null, "under way is not unfinished");
    gate.open();
    assert!(running.ended().success());
    sandbox.assert_no_traces();
    sandbox.repoguard(["status", "--exit-code"]).assert().success();
}

#[test]
fn fence_grows_with_every_mutation() {
    let sandbox = furnished();
    let fence = |script: &str| -> u64 {
        let output = sandbox.mutate(&[], &format!("echo $REPOGUARD_FENCE; {script}")).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().parse().unwrap()
    };
    let fences = ["echo x >>file", "exit 3", "true", "echo y >>file"].map(fence);
    assert!(fences.is_sorted_by(|one, other| one < other), "{fences:?}");
}

#[test]
fn plumbing_finds_the_checkout_as_clean_as_it_was() {
    // These trust what the index remembers of the files, and compare no content.
    let plumbing = "git diff-files --quiet && git diff-index --quiet HEAD";
    let sandbox = furnished();
    sandbox.sh(plumbing).assert().success();
    sandbox.undone(&[], "echo x >>file; rm d/a; chmod +x other/o; exit 3", 3);
    sandbox.sh(plumbing).assert().success();
    sandbox.commits(&[], "echo x >>file; git rm -q d/a; echo x >new");
    sandbox.sh(plumbing).assert().success();
    sandbox.mutate(&["--dry-run"], "echo x >>file; rm new").assert().success();
    sandbox.sh(plumbing).assert().success();
}

#[test]
fn committed_change_can_be_taken_back_by_git_alone() {
    let sandbox = furnished();
    let before = sandbox.git(["ls-files", "-s"]);
    sandbox.commits(&[], "rm -r d; echo x >>file; ln -s x y");
    sandbox.git(["revert", "--no-edit", "HEAD"]);
    assert_eq!(sandbox.git(["ls-files", "-s"]), before);
    sandbox.git(["fsck", "--strict"]);
    sandbox.git(["gc", "-q", "--prune=now"]);
}

#[test]
fn nothing_of_ours_is_seen_in_refs_reflogs_or_files() {
    let sandbox = furnished();
    let reflog = || sandbox.git(["reflog", "--format=%gs", "main"]);
    let (files, before) = (sandbox.git(["status", "--porcelain", "--ignored"]), reflog());
    sandbox.undone(&[], "echo x >>file; echo x >new; exit 3", 3);
    assert_eq!(reflog(), before, "nothing happened to the branch");
    sandbox.commits(&[], "echo x >>file");
    assert_eq!(reflog(), format!("commit: change\n{before}"), "as git writes it");
    assert_eq!(sandbox.git(["status", "--porcelain", "--ignored"]), files);
    assert_eq!(sandbox.git(["for-each-ref", "--format=%(refname)"]), "refs/heads/main\n");
    assert_eq!(sandbox.git(["log", "--all", "--format=%s"]), "change\nfurnished\nfirst\n");
    assert!(sandbox.git(["config", "--local", "--list"]).lines().all(|line| !line.contains("repoguard")));
}
