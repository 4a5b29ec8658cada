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

/// Runs a script in a new repository with a file `file` and settings from `prepare`; returns the tree that HEAD has after it.
fn tree_after(prepare: &str, variables: &[(String, String)], script: &str) -> String {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("file"), "1\n").unwrap();
    sandbox.git(["add", "."]);
    sandbox.git(["commit", "-q", "-m", "first"]);
    let prepare = format!("mkdir -p ../other; {prepare}");
    let mut all = sandbox.sh(&format!("set -e; {prepare}; {script}"));
    for (name, value) in variables {
        all.env(name, value.replace("OUTSIDE", &sandbox.outside("").display().to_string()));
    }
    all.assert().success();
    sandbox.git(["rev-parse", "HEAD^{tree}"])
}

#[test]
fn conversion_is_applied_at_whatever_level_it_is_configured() {
    const SETTING: &str = "printf '[core]\\n\\tautocrlf = input\\n'";
    const CHANGE: &str = r"printf 'a\r\nb\r\n' >new";
    let system = |value: &str| {
        let set = [("GIT_CONFIG_NOSYSTEM", value), ("GIT_CONFIG_SYSTEM", "OUTSIDE/system")];
        (format!("{SETTING} >../system"), set.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec())
    };
    let many = (0..=1200).flat_map(|number| {
        let (key, value) = if number == 1200 { ("core.autocrlf", "input") } else { ("x.y", "z") };
        [(format!("GIT_CONFIG_KEY_{number}"), key.to_owned()), (format!("GIT_CONFIG_VALUE_{number}"), value.to_owned())]
    });
    let many = many.chain([("GIT_CONFIG_COUNT".to_owned(), "1201".to_owned())]).collect();
    let global = vec![("GIT_CONFIG_GLOBAL".to_owned(), "OUTSIDE/global".to_owned())];
    let attributes = "echo '* text' >attributes; mv attributes ../;";
    let mut cases = vec![
        (format!("{SETTING} >>.git/config"), vec![]),
        (format!("git config extensions.worktreeConfig true; {SETTING} >.git/config.worktree"), vec![]),
        (format!("{SETTING} >../global"), global.clone()),
        (format!("printf '[include]\\n\\tpath = other/one\\n' >../global; {SETTING} >../other/one"), global.clone()),
        (format!("{attributes} git config core.attributesFile $PWD/../attributes"), vec![]),
        (format!("{attributes} git config core.attributesFile ../attributes"), vec![]),
        (format!("{attributes} git config core.attributesFile '~/../attributes'; mkdir -p ~"), vec![]),
        // Only git knows where that is; so many levels up is the root of the file system.
        (
            format!(
                "{attributes} git config core.attributesFile '%(prefix)/../../../../../../../..'$PWD/../attributes"
            ),
            vec![],
        ),
        (String::from("true"), many),
    ];
    cases.extend(["", "0", "false", "no", "off", "00", "1", "true", "YES", "on", "2k"].map(system));
    for (prepare, variables) in cases {
        let plain = tree_after(&prepare, &variables, &format!("{CHANGE}; git add new; git commit -qm m"));
        let guarded = tree_after(
            &prepare,
            &variables,
            &format!("repoguard mutate -m m -- sh -c '{}'", CHANGE.replace('\'', "\"")),
        );
        assert_eq!(plain, guarded, "{prepare} {:?}", variables.first());
    }
}

#[test]
fn shared_repository_is_read_at_whatever_level_it_is_configured() {
    use std::os::unix::fs::MetadataExt as _;
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().mode() & 0o7777;
    for prepare in [
        "printf '[core]\\n\\tsharedRepository\\n' >>.git/config",
        "git config core.sharedRepository group",
        "git config core.sharedRepository 0660",
        "git config core.sharedRepository 0x1",
        "git config extensions.worktreeConfig true; git config --worktree core.sharedRepository all",
        "git config extensions.worktreeConfig true; printf '[core]\\n\\tsharedRepository\\n' >.git/config.worktree",
        "git config core.sharedRepository false",
    ] {
        let sandbox = Sandbox::new();
        sandbox.sh(prepare).assert().success();
        sandbox.sh("umask 077; repoguard exec -- true && git commit -q --allow-empty -m x").assert().success();
        let reference = sandbox.git(["symbolic-ref", "HEAD"]);
        let (ours, gits) = (mode(&sandbox.lock_file()), mode(&sandbox.path(format!(".git/{}", reference.trim()))));
        assert_eq!(ours & 0o077, gits & 0o077 & !0o111, "{prepare}");
        let commit = sandbox.git(["rev-parse", "HEAD"]);
        let directory = mode(&sandbox.path(format!(".git/objects/{}", &commit[..2])));
        assert_eq!(mode(&sandbox.data()) & 0o077, directory & 0o077, "{prepare}");
    }
}
