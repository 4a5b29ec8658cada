//! Configuration: git's own levels, an environment variable that wins over them, a flag that wins over both.

use std::fs;

use crate::support::Sandbox;

#[test]
fn timeout_comes_from_flag_then_environment_then_git() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold(&[]);
    sandbox.git(["config", "repoguard.timeout", "0.2"]);
    sandbox.refused(&[], 75);

    sandbox.git(["config", "repoguard.timeout", "1h"]);
    let mut by_environment = sandbox.repoguard(["exec", "--", "touch"]);
    by_environment.arg(sandbox.outside("ran")).env("REPOGUARD_TIMEOUT", "0.2");
    sandbox.assert_refused(by_environment, 75);

    let mut by_flag = sandbox.repoguard(["exec", "-w", "0.2", "--", "touch"]);
    by_flag.arg(sandbox.outside("ran")).env("REPOGUARD_TIMEOUT", "1h");
    sandbox.assert_refused(by_flag, 75);
}

#[test]
fn scope_comes_from_git_config() {
    let sandbox = Sandbox::new();
    let linked = sandbox.worktree("linked");
    let _holder = sandbox.hold(&[]);
    assert_eq!(sandbox.try_once_in(&linked, &[]), 0);
    sandbox.git(["config", "repoguard.scope", "repo"]);
    assert_eq!(sandbox.try_once_in(&linked, &[]), 75);
    assert_eq!(sandbox.try_once_in(&linked, &["--scope", "worktree"]), 0);
}

#[test]
fn bad_value_is_an_error_that_names_key_value_and_file() {
    let sandbox = Sandbox::new();
    for (key, value) in [("repoguard.timeout", "soonish"), ("repoguard.scope", "galaxy")] {
        sandbox.git(["config", key, value]);
        let told = sandbox.refused(&[], 125);
        for part in [key, value, ".git/config"] {
            assert!(told.to_lowercase().contains(part), "`{part}`: {told}");
        }
        // What is given on the command line is not looked up, and `status` waits for nothing.
        if key == "repoguard.timeout" {
            sandbox.repoguard(["exec", "-w", "1", "--", "true"]).assert().success();
            sandbox.repoguard(["status"]).assert().success();
        }
        sandbox.git(["config", "--unset", key]);
    }
}

#[test]
fn bad_environment_variable_is_named() {
    let sandbox = Sandbox::new();
    let mut exec = sandbox.repoguard(["exec", "--", "touch"]);
    exec.arg(sandbox.outside("ran")).env("REPOGUARD_TIMEOUT", "soonish");
    let told = sandbox.assert_refused(exec, 125);
    for part in ["REPOGUARD_TIMEOUT", "soonish"] {
        assert!(told.contains(part), "`{part}`: {told}");
    }
}

#[test]
fn global_and_included_files_count() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold(&[]);
    let included = sandbox.outside("included");
    fs::write(&included, "[repoguard]\n\ttimeout = 0.2\n").unwrap();
    let global = sandbox.outside("global");
    fs::write(&global, format!("[include]\n\tpath = {}\n", included.display())).unwrap();
    let mut exec = sandbox.repoguard(["exec", "--", "touch"]);
    exec.arg(sandbox.outside("ran")).env("GIT_CONFIG_GLOBAL", &global);
    sandbox.assert_refused(exec, 75);
}

#[test]
fn configuration_given_to_git_on_the_command_line_counts() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold(&[]);
    let mut exec = sandbox.repoguard(["exec", "--", "touch"]);
    exec.arg(sandbox.outside("ran"));
    exec.env("GIT_CONFIG_COUNT", "1").env("GIT_CONFIG_KEY_0", "repoguard.timeout");
    exec.env("GIT_CONFIG_VALUE_0", "0.2");
    sandbox.assert_refused(exec, 75);
}
