//! `repoguard mutate --allow-dirty`: the caller's own changes stay out of the commit and where they are.

use std::fs;

use crate::mutate::furnished;
use crate::support::Sandbox;

/// Changes of the caller's own, of every kind: staged, unstaged, both, new, deleted, renamed, intended, untracked.
const DIRTY: &str = "echo staged >>file; git add file; echo unstaged >>d/a; \
    echo staged >>d/e/b; git add d/e/b; echo unstaged >>d/e/b; \
    echo new >new; git add new; git rm -q gone; git mv before after; \
    echo intended >intended; git add -N intended; chmod +x mode; rm lost; echo mine >mine";

fn dirty() -> Sandbox {
    let sandbox = furnished();
    let tracked = "for f in gone before mode lost; do echo $f >$f; done; git add -A; git commit -qm tracked";
    sandbox.sh(&format!("{tracked}; {DIRTY}")).assert().success();
    sandbox
}

/// What the commands of the tests change, all of it their own.
const CHANGE: &str = "echo theirs >>other/o; echo theirs >theirs";

#[test]
fn callers_changes_stay_out_of_the_commit_and_in_place() {
    for script in
        [CHANGE.to_owned(), format!("{CHANGE}; git add other/o theirs"), format!("{CHANGE}; git add -N theirs")]
    {
        let sandbox = dirty();
        let (status, diff, staged) = (sandbox.short_status(), sandbox.git(["diff"]), sandbox.git(["diff", "--cached"]));
        let before = sandbox.state();
        sandbox.commits(&["--allow-dirty"], &script);
        assert_eq!(sandbox.landed(), ["M other/o", "A theirs"], "{script}");
        assert_eq!(sandbox.short_status(), status, "{script}");
        assert_eq!(sandbox.git(["diff"]), diff);
        assert_eq!(sandbox.git(["diff", "--cached"]), staged);
        // Beside what was committed, nothing is otherwise than it was.
        sandbox
            .sh("git reset -q --soft HEAD~1; git reset -q -- other/o theirs; echo o >other/o; rm theirs")
            .assert()
            .success();
        before.assert_same(&sandbox.state(), &script);
    }
}

#[test]
fn callers_changes_that_the_command_stages_are_still_the_callers() {
    for stage in [
        "git add -A",
        "git add -u",
        "git add d/a mine intended",
        "git reset -q",
        "git rm -q --cached --ignore-unmatch new",
    ] {
        let sandbox = dirty();
        let (status, diff) = (sandbox.short_status(), sandbox.git(["diff"]));
        let bytes = fs::read(sandbox.path("d/e/b")).unwrap();
        sandbox.commits(&["--allow-dirty"], &format!("{CHANGE}; {stage}"));
        assert_eq!(sandbox.landed(), ["M other/o", "A theirs"], "{stage}");
        assert_eq!(sandbox.short_status(), status, "{stage}");
        assert_eq!(sandbox.git(["diff"]), diff, "{stage}");
        assert_eq!(fs::read(sandbox.path("d/e/b")).unwrap(), bytes);
    }
}

#[test]
fn callers_file_that_the_command_changes_is_named_and_put_back() {
    let cases = [
        ("echo x >>file", "file"),
        ("echo x >file", "file"),
        ("rm d/a", "d/a"),
        ("git checkout -q d/a", "d/a"),
        ("echo x >d/e/b", "d/e/b"),
        ("rm new", "new"),
        ("echo x >gone", "gone"),
        ("echo x >>after", "after"),
        ("echo x >>intended", "intended"),
        ("chmod -x mode", "mode"),
        ("echo x >>mode", "mode"),
        ("git checkout -q lost", "lost"),
        ("echo x >>mine", "mine"),
        ("rm mine", "mine"),
        ("mv mine yours", "mine"),
        ("rm mine; mkdir mine; echo x >mine/x", "mine"),
        ("git clean -qfd", "mine"),
        ("git reset -q --hard", "file"),
    ];
    for (script, named) in cases {
        let sandbox = dirty();
        let told = sandbox.undone(&["--allow-dirty"], &format!("{CHANGE}; {script}"), 65);
        assert!(told.contains(named), "{script}: {told}");
    }
    // Also where nothing was dirty but what git does not track.
    for script in ["echo x >>mine", "rm mine", "rm mine; ln -s d mine"] {
        let sandbox = furnished();
        fs::write(sandbox.path("mine"), "mine\n").unwrap();
        let told = sandbox.undone(&[], &format!("{CHANGE}; {script}"), 65);
        assert!(told.contains("mine"), "{script}: {told}");
    }
}

#[test]
fn callers_changes_survive_a_failure() {
    for script in [
        "exit 3",
        "git reset -q --hard; exit 3",
        "git add -A; exit 3",
        "git stash -q -u; exit 3",
        "rm -rf -- *; exit 3",
        "git commit -qam x; exit 3",
    ] {
        dirty().undone(&["--allow-dirty"], &format!("{CHANGE}; {script}"), 3);
    }
    dirty().undone(&["--allow-dirty", "--verify", "exit 6"], CHANGE, 6);
}

#[test]
fn nothing_changed_beside_the_callers_changes_is_no_commit() {
    let sandbox = dirty();
    let before = sandbox.state();
    sandbox.mutate(&["--allow-dirty"], "true").assert().success();
    before.assert_same(&sandbox.state(), "nothing");
    sandbox.commits(&["--allow-dirty", "--allow-empty"], "true");
    assert_eq!(sandbox.landed(), [""; 0]);
}

#[test]
fn hooks_see_the_change_and_not_the_callers_own() {
    let sandbox = dirty();
    sandbox.own_hook("pre-commit", "git diff --cached --name-only >\"$SANDBOX/seen\"");
    let status = sandbox.short_status();
    sandbox.commits(&["--allow-dirty"], CHANGE);
    assert_eq!(crate::support::lines(&sandbox.outside("seen")), ["other/o", "theirs"]);
    assert_eq!(sandbox.short_status(), status);
}

#[test]
fn dry_run_and_no_commit_keep_the_callers_changes_apart() {
    let sandbox = dirty();
    let before = sandbox.state();
    let output = sandbox.mutate(&["--allow-dirty", "--dry-run"], CHANGE).assert().success().get_output().clone();
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    before.assert_same(&sandbox.state(), "a dry run");
    assert!(shown.contains("+theirs") && !shown.contains("staged") && !shown.contains("intended"), "{shown}");

    let staged = sandbox.staged();
    sandbox.mutate(&["--allow-dirty", "--no-commit"], CHANGE).assert().success();
    let mut both = [staged, vec!["M other/o".to_owned(), "A theirs".to_owned()]].concat();
    both.sort_by_key(|line| line[2..].to_owned());
    assert_eq!(sandbox.staged(), both);
}
