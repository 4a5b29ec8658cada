//! Ignore rules that the command changes: what was ignored before is ignored for the whole mutation, wherever the rule stands, and
//! what is ignored afterwards is not committed.

use std::fs;

use crate::mutate::furnished;
use crate::support::Sandbox;

/// Where a rule may stand, how to write it, and ways in which a command takes it away.
const PLACES: [(&str, &str, &[&str]); 4] = [
    (
        ".gitignore",
        "echo '*.env' >>.gitignore; git add .gitignore; git commit -qm rules",
        &[
            "rm .gitignore",
            ": >.gitignore",
            "echo '!secret.env' >>.gitignore",
            "git rm -q --cached .gitignore; rm .gitignore",
        ],
    ),
    (
        "info/exclude",
        "mkdir -p .git/info; echo '*.env' >.git/info/exclude",
        &["rm .git/info/exclude", ": >.git/info/exclude", "echo '!*.env' >>.git/info/exclude", "rm -r .git/info"],
    ),
    (
        "core.excludesFile",
        "echo '*.env' >\"$SANDBOX/rules\"; git config core.excludesFile \"$SANDBOX/rules\"",
        &[
            "git config --unset core.excludesFile",
            ": >\"$SANDBOX/rules\"",
            "rm \"$SANDBOX/rules\"",
            "git config core.excludesFile /dev/null",
            "echo '!secret.env' >>\"$SANDBOX/rules\"",
        ],
    ),
    (
        "the user's own file",
        "mkdir -p \"$HOME/.config/git\"; echo '*.env' >\"$HOME/.config/git/ignore\"",
        &["rm \"$HOME/.config/git/ignore\"", "git config core.excludesFile /dev/null"],
    ),
];

fn with_rule(write: &str) -> Sandbox {
    let sandbox = furnished();
    sandbox.sh(write).assert().success();
    fs::write(sandbox.path("secret.env"), "SECRET\n").unwrap();
    assert_eq!(sandbox.git(["status", "--porcelain"]), "");
    sandbox
}

#[test]
fn what_was_ignored_before_is_never_committed_nor_taken_away() {
    for (place, write, changes) in PLACES {
        for change in changes {
            for (end, status) in [("", 0), ("; exit 3", 3)] {
                let sandbox = with_rule(write);
                let script = format!("echo 2 >file; echo 1 >made.env; {change}{end}");
                let mut command = sandbox.mutate(&[], &script);
                let output = command.output().unwrap();
                let told = String::from_utf8_lossy(&output.stderr);
                assert_eq!(output.status.code(), Some(status), "{place}, {change}{end}: {told}");
                let kept = fs::read_to_string(sandbox.path("secret.env"));
                assert_eq!(kept.ok().as_deref(), Some("SECRET\n"), "{place}, {change}{end}: {told}");
                let tree = sandbox.git(["ls-tree", "-r", "--name-only", "HEAD"]);
                assert!(!tree.contains(".env"), "{place}, {change}{end}: {tree}{told}");
                let committed = sandbox.git(["show", "HEAD:file"]);
                assert_eq!(committed, if status == 0 { "2\n" } else { "first\n" }, "{place}, {change}{end}: {told}");
            }
        }
    }
}

#[test]
fn what_is_ignored_afterwards_is_not_committed() {
    for rule in [
        "echo '*.tmp' >.gitignore",
        "echo '*.tmp' >>.git/info/exclude",
        "echo '*.tmp' >\"$SANDBOX/rules\"; git config core.excludesFile \"$SANDBOX/rules\"",
        "mkdir -p \"$HOME/.config/git\"; echo '*.tmp' >\"$HOME/.config/git/ignore\"",
    ] {
        let sandbox = furnished();
        sandbox.sh("mkdir -p .git/info").assert().success();
        let script = format!("echo 1 >made.tmp; echo 1 >made.txt; {rule}");
        sandbox.mutate(&[], &script).assert().success();
        let tree = sandbox.git(["ls-tree", "-r", "--name-only", "HEAD"]);
        assert!(tree.contains("made.txt") && !tree.contains("made.tmp"), "{rule}: {tree}");
    }
}

#[test]
fn rules_of_a_repository_that_ignores_case_count_as_before() {
    let sandbox = furnished();
    sandbox.git(["config", "core.ignoreCase", "true"]);
    sandbox
        .sh("echo '*.ENV' >.gitignore; git add .gitignore; git commit -qm rules; echo S >secret.env")
        .assert()
        .success();
    assert_eq!(sandbox.git(["status", "--porcelain"]), "");
    sandbox.mutate(&[], "rm .gitignore; echo 2 >file").assert().success();
    assert!(!sandbox.git(["ls-tree", "-r", "--name-only", "HEAD"]).contains("secret"));
}
