//! Reports whether git reaches the hooks, and what a hook does when its program is gone; also with a git that reads
//! hooks from its configuration.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use crate::support::{
    Sandbox, USUAL_HOOKS as USUAL, assert_all, binary, contents, copy_of_program, eventually, hook, hooks,
    hooks_command, hooks_in, lines, listing, pretend, script, states, states_in, survey, to_the_end, without_samples,
};

/// What is told of one hook.
#[track_caller]
fn of(sandbox: &Sandbox, name: &str) -> serde_json::Value {
    let document = survey(sandbox, sandbox.here());
    let hooks = document["hooks"].as_array().expect("an array `hooks`");
    hooks.iter().find(|hook| hook["hook"] == name).expect("the hook").clone()
}

/// A copy of the program, installed from, so that it can be taken away.
fn installed_copy(sandbox: &Sandbox, options: &[&str]) -> PathBuf {
    let program = sandbox.outside("bin/repoguard");
    fs::create_dir_all(sandbox.outside("bin")).unwrap();
    copy_of_program(&program);
    to_the_end(hooks_command(sandbox, &program, &[&["install"], options].concat())).assert().success();
    program
}

/// `PATH` without any repoguard.
fn path_without_repoguard() -> OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let others = std::env::split_paths(&path).filter(|directory| !directory.join("repoguard").exists());
    std::env::join_paths(others.filter(|directory| !directory.starts_with(binary().parent().unwrap()))).unwrap()
}

/// A shell line in the checkout, where no repoguard is found.
fn without_repoguard(sandbox: &Sandbox, line: &str) -> assert_cmd::Command {
    let mut command = sandbox.sh(line);
    command.env("PATH", path_without_repoguard());
    command
}

#[test]
fn each_way_not_to_be_reached_is_told() {
    let sandbox = Sandbox::new();
    assert_all(&states(&sandbox), &USUAL, "not-installed");
    script(&hook(&sandbox, "pre-commit"), "exit 0");
    assert_all(&states(&sandbox), &USUAL, "not-installed");
    hooks(&sandbox, &["install"], 0);
    fs::remove_file(hook(&sandbox, "pre-rebase")).unwrap();
    fs::set_permissions(hook(&sandbox, "applypatch-msg"), fs::Permissions::from_mode(0o644)).unwrap();
    fs::remove_file(hook(&sandbox, "post-checkout")).unwrap();
    script(&hook(&sandbox, "post-checkout"), "exit 0");
    let states = states(&sandbox);
    for (name, state) in [
        ("pre-commit", "active script"),
        ("pre-rebase", "deleted"),
        ("applypatch-msg", "not-executable"),
        ("post-checkout", "displaced"),
    ] {
        assert_eq!(states[name], state, "{name}");
    }
    assert!(of(&sandbox, "applypatch-msg")["hint"].as_str().unwrap().contains("chmod +x"));
    assert_eq!(of(&sandbox, "pre-commit")["chained"], hook(&sandbox, "pre-commit.repoguard-chained").to_str().unwrap());
    let text = hooks(&sandbox, &["status"], 1);
    assert!(text.contains("post-checkout: displaced by another hook"), "{text}");
    // All of it is mended by the same command.
    hooks(&sandbox, &["install"], 0);
    assert_all(&crate::support::states(&sandbox), &USUAL, "active script");
}

#[test]
fn hooks_path_set_later_bypasses() {
    let sandbox = Sandbox::new();
    hooks(&sandbox, &["install"], 0);
    sandbox.git(["config", "core.hooksPath", "/dev/null"]);
    assert_all(&states(&sandbox), &USUAL, "bypassed");
    let note = of(&sandbox, "pre-commit")["note"].as_str().unwrap().to_owned();
    assert!(note.contains("`/dev/null`") && note.contains(".git/config`"), "{note}");
    let told = hooks(&sandbox, &["install"], 125);
    assert!(told.contains("not a directory"), "{told}");
    sandbox.git(["config", "--unset", "core.hooksPath"]);
    assert_all(&states(&sandbox), &USUAL, "active script");
}

#[test]
fn hook_of_the_user_that_calls_the_guard_is_left_alone() {
    let sandbox = without_samples();
    script(&hook(&sandbox, "pre-commit"), "# repoguard hook pre-commit");
    assert_eq!(states(&sandbox)["pre-commit"], "not-installed", "a comment calls nobody");
    script(&hook(&sandbox, "pre-commit"), "repoguard hook pre-commit \"$@\" || exit");
    let before = contents(&sandbox.path(".git/hooks"));
    hooks(&sandbox, &["install", "--hook", "pre-commit"], 0);
    assert_eq!(states(&sandbox)["pre-commit"], "active hook");
    assert_eq!(contents(&sandbox.path(".git/hooks")), before);
}

#[test]
fn moved_repository_stays_guarded() {
    let sandbox = Sandbox::new();
    let linked = sandbox.worktree("linked");
    hooks(&sandbox, &["install"], 0);
    let moved = sandbox.outside("moved");
    fs::rename(sandbox.here(), &moved).unwrap();
    fs::create_dir(sandbox.here()).unwrap();
    sandbox.sh("cd ../moved && git worktree repair ../linked").assert().success();
    assert_all(&states_in(&sandbox, &moved), &USUAL, "active script");
    assert_all(&states_in(&sandbox, &linked), &USUAL, "active script");
    sandbox.sh("cd ../moved && git commit -q --allow-empty -m second").assert().success();
    eventually("the hook took the lock", || {
        let log = sandbox.repoguard(["log"]).current_dir(&moved).output().unwrap();
        String::from_utf8_lossy(&log.stdout).contains("git commit")
    });
    hooks_in(&sandbox, &moved, &["uninstall"], 0);
    assert_all(&states_in(&sandbox, &moved), &USUAL, "not-installed");
}

#[test]
fn hook_without_its_program_refuses_and_tells_the_ways_out() {
    let sandbox = Sandbox::new();
    script(&hook(&sandbox, "pre-commit"), "echo chained >>\"$SANDBOX/seen\"");
    let program = installed_copy(&sandbox, &[]);
    assert_all(&states(&sandbox), &USUAL, "active script");
    fs::remove_file(&program).unwrap();
    assert_all(&states(&sandbox), &USUAL, "active script"); // another one is on PATH
    let mut status = hooks_command(&sandbox, binary(), &["status"]);
    status.env("PATH", path_without_repoguard());
    let output = to_the_end(status).assert().code(1).get_output().clone();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("pre-commit: binary-missing"), "{text}");

    let commit = "git commit -q --allow-empty -m second";
    let output = without_repoguard(&sandbox, commit).assert().code(1).get_output().clone();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let chained = hook(&sandbox, "pre-commit");
    let mend = format!("mv '{0}.repoguard-chained' '{0}'", chained.display());
    for part in [&*program.to_string_lossy(), "repoguard hooks install", "REPOGUARD=0", &mend] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(!sandbox.outside("seen").exists(), "refused before anything else ran");
    // The ways out work.
    without_repoguard(&sandbox, &format!("REPOGUARD=0 {commit}")).assert().success().stderr("");
    assert_eq!(fs::read_to_string(sandbox.outside("seen")).unwrap(), "chained\n");
    let output = without_repoguard(&sandbox, "git checkout -q -b other").assert().success().get_output().clone();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("not guarded"), "a checkout never fails: {told}");
    let output = without_repoguard(&sandbox, "git rebase -f -q HEAD").assert().failure().get_output().clone();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let remedy = format!("`rm '{}'`", hook(&sandbox, "pre-rebase").display());
    assert!(told.contains(&remedy), "{remedy}: {told}");
    sandbox.sh(&format!("{mend} && rm .git/hooks/prepare-commit-msg && {commit}")).assert().success();
}

#[test]
fn hook_without_its_program_goes_on_where_it_may() {
    let sandbox = Sandbox::new();
    script(&hook(&sandbox, "pre-commit"), "echo chained >>\"$SANDBOX/seen\"");
    let program = installed_copy(&sandbox, &["--if-missing", "warn"]);
    fs::remove_file(&program).unwrap();
    let commit = "git commit -q --allow-empty -m second";
    let output = without_repoguard(&sandbox, commit).assert().success().get_output().clone();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("not guarded") && told.contains("repoguard hooks install"), "{told}");
    assert_eq!(fs::read_to_string(sandbox.outside("seen")).unwrap(), "chained\n");
    // Found where it is usually installed, though not on PATH.
    fs::create_dir_all(sandbox.outside("home/.cargo/bin")).unwrap();
    copy_of_program(&sandbox.outside("home/.cargo/bin/repoguard"));
    without_repoguard(&sandbox, commit).assert().success().stderr("");
    // To install again writes the program that is there now.
    let told = hooks(&sandbox, &["install"], 0);
    assert_eq!(told.matches("updated `").count(), 5, "{told}");
}

#[test]
fn newer_git_gets_hooks_by_its_configuration() {
    let sandbox = without_samples();
    script(&hook(&sandbox, "pre-commit"), "exit 0");
    let before = (contents(&sandbox.path(".git/hooks")), fs::read(sandbox.path(".git/config")).unwrap());
    let path = pretend(&sandbox, "2.54.0");
    let run = |args: &[&str]| {
        let mut command = sandbox.repoguard(["hooks"]);
        command.args(args).env("PATH", &path);
        command
    };
    let seen = || {
        let output = run(&["status", "--json"]).output().unwrap();
        serde_json::from_slice::<serde_json::Value>(&output.stdout).expect("one JSON document")
    };
    run(&["install"]).assert().success();
    assert_eq!(contents(&sandbox.path(".git/hooks")), before.0, "no hook file is touched");
    assert_eq!(sandbox.git(["config", "hook.repoguard-pre-commit.event"]).trim(), "pre-commit");
    assert!(
        seen()["hooks"].as_array().unwrap().iter().all(|hook| hook["state"] == "active" && hook["via"] == "config")
    );
    let listed = listing(&sandbox.path(".git"));
    let again = run(&["install"]).assert().success().get_output().clone();
    assert_eq!(String::from_utf8_lossy(&again.stdout).matches("unchanged").count(), 5);
    assert_eq!(listing(&sandbox.path(".git")), listed);

    // What a newer git does with it, done by a hook file; also after the repository was moved.
    let mine = fs::read(hook(&sandbox, "pre-commit")).unwrap();
    script(
        &hook(&sandbox, "pre-commit"),
        "exec sh -c \"$(git config hook.repoguard-pre-commit.command) \\\"\\$@\\\"\" pre-commit \"$@\"",
    );
    let commit = "git commit -q --allow-empty -m second";
    sandbox.sh(commit).assert().success();
    eventually("the hook took the lock", || sandbox.log().len() == 1);
    let moved = sandbox.outside("moved");
    fs::rename(sandbox.here(), &moved).unwrap();
    fs::create_dir(sandbox.here()).unwrap();
    sandbox.sh(&format!("cd ../moved && {commit}")).assert().success();
    let log = moved.join(".git/repoguard/log.jsonl");
    eventually("the hook took the lock again", || lines(&log).len() == 2);
    fs::remove_dir(sandbox.here()).unwrap();
    fs::rename(&moved, sandbox.here()).unwrap();
    fs::write(hook(&sandbox, "pre-commit"), mine).unwrap();

    // A git that does not read it is told of.
    assert_all(&states(&sandbox), &USUAL, "bypassed");
    sandbox.git(["config", "hook.repoguard-pre-commit.enabled", "false"]);
    assert_eq!(seen()["hooks"][0]["state"], "bypassed");
    sandbox.git(["config", "--unset", "hook.repoguard-pre-commit.enabled"]);
    fs::remove_file(sandbox.data().join("hooks/pre-rebase")).unwrap();
    assert_eq!(seen()["hooks"][2]["state"], "deleted");

    run(&["install", "--both"]).assert().success();
    assert_all(&states(&sandbox), &USUAL, "active script");
    assert_eq!(seen()["reached"], true);
    run(&["uninstall"]).assert().success();
    let after = (contents(&sandbox.path(".git/hooks")), fs::read(sandbox.path(".git/config")).unwrap());
    assert_eq!(after, before);
    assert!(!sandbox.data().join("hooks").exists());
}

#[test]
fn newer_git_needs_no_hooks_directory() {
    let sandbox = Sandbox::new();
    let path = pretend(&sandbox, "2.100.0.rc1");
    sandbox.git(["config", "core.hooksPath", "/dev/null"]);
    let run = |args: &[&str], status| {
        sandbox.repoguard(["hooks"]).args(args).env("PATH", &path).assert().code(status);
    };
    run(&["install"], 0);
    run(&["status"], 0);
    // What cannot be done is not half done: the configuration is as before.
    let before = fs::read(sandbox.path(".git/config")).unwrap();
    run(&["install", "--strict", "--both"], 125);
    assert_eq!(fs::read(sandbox.path(".git/config")).unwrap(), before);
    run(&["uninstall"], 0);
    run(&["status"], 1);
}

#[test]
fn script_that_somebody_has_edited_is_told_of_and_never_thrown_away() {
    let sandbox = Sandbox::new();
    hooks(&sandbox, &["install"], 0);
    let path = hook(&sandbox, "pre-commit");
    let edited = [fs::read(&path).unwrap(), b"echo mine\n".to_vec()].concat();
    fs::write(&path, &edited).unwrap();
    assert_eq!(of(&sandbox, "pre-commit")["state"], "edited");
    let told = hooks_refused(&sandbox, &["install"]);
    assert!(told.contains("has edited it") && told.contains("hint:"), "{told}");
    let told = hooks_refused(&sandbox, &["uninstall"]);
    assert!(told.contains("has edited it"), "{told}");
    assert_eq!(fs::read(&path).unwrap(), edited);
    fs::remove_file(&path).unwrap();
    hooks(&sandbox, &["install"], 0);
    assert_all(&states(&sandbox), &USUAL, "active script");
}

#[test]
fn hook_that_asks_for_its_own_name_is_not_moved() {
    for line in ["run-parts \"$0.d\"", "exec .git/hooks/all/$(basename \"$0\")", "case ${0##*/} in pre-commit) ;; esac"]
    {
        let sandbox = Sandbox::new();
        script(&hook(&sandbox, "pre-commit"), line);
        let before = contents(&sandbox.path(".git/hooks"));
        let told = hooks_refused(&sandbox, &["install"]);
        assert!(told.contains("repoguard hook pre-commit"), "{told}");
        assert_eq!(contents(&sandbox.path(".git/hooks")), before, "{line}");
    }
}

#[test]
fn edited_script_that_the_configuration_names_is_not_thrown_away_either() {
    let sandbox = without_samples();
    let path = pretend(&sandbox, "2.54.0");
    let install = || {
        let mut command = sandbox.repoguard(["hooks", "install"]);
        command.env("PATH", &path);
        command
    };
    install().assert().success();
    let script = sandbox.data().join("hooks/pre-commit");
    let edited = [fs::read(&script).unwrap(), b"echo mine\n".to_vec()].concat();
    fs::write(&script, &edited).unwrap();
    install().assert().code(125);
    assert_eq!(fs::read(&script).unwrap(), edited);
}

#[test]
fn hook_that_would_block_its_reader_is_not_read() {
    let sandbox = Sandbox::new();
    sandbox.git(["config", "core.hooksPath", ".husky/_"]);
    sandbox
        .sh("mkdir -p .husky/_ && : >.husky/_/pre-commit && chmod +x .husky/_/pre-commit && mkfifo .husky/pre-commit")
        .assert()
        .success();
    hooks(&sandbox, &["status"], 1);
    hooks(&sandbox, &["install"], 1);
}

#[test]
fn what_an_older_husky_left_behind_is_in_nobodys_way() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path(".git/hooks/husky.sh"), "").unwrap();
    hooks(&sandbox, &["install"], 0);
    assert_all(&states(&sandbox), &USUAL, "active script");
}

/// `repoguard hooks ARGS`, which must be refused; what it says.
#[track_caller]
fn hooks_refused(sandbox: &Sandbox, args: &[&str]) -> String {
    let output = to_the_end(hooks_command(sandbox, binary(), args)).assert().code(125).get_output().clone();
    String::from_utf8_lossy(&output.stderr).into_owned()
}
