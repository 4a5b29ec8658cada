//! Help, version, completions and the manual page.

use crate::support::Sandbox;

const VERBS: [&str; 11] =
    ["exec", "worktrees", "status", "log", "hooks", "snapshots", "restore", "state", "next", "completions", "man"];

#[test]
fn help_and_version_go_to_stdout() {
    let sandbox = Sandbox::empty();
    for args in [&["--help"][..], &["-h"], &["exec", "--help"], &["status", "--help"], &["log", "-h"]] {
        let output = sandbox.repoguard(args).assert().success().stderr("").get_output().clone();
        assert!(!output.stdout.is_empty(), "{args:?}");
    }
    let version = sandbox.repoguard(["--version"]).assert().success().get_output().clone();
    let version = String::from_utf8(version.stdout).unwrap();
    assert_eq!(version, format!("repoguard {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn help_names_every_verb_and_option() {
    let sandbox = Sandbox::empty();
    let text = |args: &[&str]| {
        let output = sandbox.repoguard(args).assert().success().get_output().clone();
        String::from_utf8(output.stdout).unwrap()
    };
    let all = text(&["--help"]);
    for verb in VERBS {
        assert!(all.contains(verb), "{verb}");
    }
    let exec = text(&["exec", "--help"]);
    for option in [
        "--timeout",
        "--no-wait",
        "--shared",
        "--exclusive",
        "--scope",
        "--name",
        "--on-busy",
        "--worktree-dir",
        "--branch",
        "--reason",
        "--max-hold",
        "--kill-after",
        "--busy-exit-code",
        "--command",
        "--result-file",
    ] {
        assert!(exec.contains(option), "{option}");
    }
}

#[test]
fn completions_are_made_for_every_shell() {
    let sandbox = Sandbox::empty();
    for shell in ["bash", "zsh", "fish"] {
        let output = sandbox.repoguard(["completions", shell]).assert().success();
        let script = String::from_utf8(output.get_output().stdout.clone()).unwrap();
        for word in ["exec", "max-hold"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    sandbox.repoguard(["completions", "no-such-shell"]).assert().code(2).stdout("");
}

#[test]
fn manual_page_is_roff() {
    let sandbox = Sandbox::empty();
    let output = sandbox.repoguard(["man"]).assert().success().get_output().clone();
    let page = String::from_utf8(output.stdout).unwrap();
    assert!(page.contains(".TH"), "{page}");
    for verb in VERBS {
        assert!(page.contains(verb), "{verb}");
    }
}

#[test]
fn reader_that_goes_away_is_no_error() {
    let sandbox = Sandbox::new();
    for args in ["man", "completions bash", "--help", "log", "status"] {
        let script = format!("{{ repoguard {args}; echo \"status $?\" >&2; }} | true");
        let output = sandbox.sh(&script).assert().success().get_output().clone();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!told.contains("panicked"), "{args}: {told}");
        assert!(told.contains("status 0") || told.contains("status 141"), "{args}: {told}");
    }
}
