//! `repoguard mutate` and other repositories in the worktree: submodules are looked after from outside only, and no
//! command makes a new one.

use std::fs;

use crate::mutate::furnished;
use crate::support::Sandbox;

/// A checkout with a submodule `sub`, committed.
fn with_submodule() -> Sandbox {
    let sandbox = furnished();
    let library = "git init -q -b main ../library; echo l >../library/l; git -C ../library add l; \
        git -C ../library commit -qm l; git -c protocol.file.allow=always submodule --quiet add ../library sub; \
        git commit -qm submodule";
    sandbox.sh(library).assert().success();
    sandbox
}

#[test]
fn submodule_that_is_left_alone_is_in_nobodys_way() {
    let sandbox = with_submodule();
    sandbox.commits(&[], "echo x >>file; cat sub/l >/dev/null; git -C sub status >/dev/null");
    assert_eq!(sandbox.landed(), ["M file"]);
    sandbox.undone(&[], "rm -r d; echo x >>file; exit 3", 3);
}

#[test]
fn submodule_that_the_command_changed_is_named_and_its_link_put_back() {
    for script in [
        "git -C sub commit -q --allow-empty -m x",
        "git -C sub commit -q --allow-empty -m x; git add sub",
        "echo x >>sub/l",
        "echo x >sub/new",
        "git -C sub checkout -q --detach HEAD; git -C sub commit -q --allow-empty -m x",
        "git rm -q --cached sub",
        "git update-index --cacheinfo 160000,$(git rev-parse HEAD),sub",
    ] {
        let sandbox = with_submodule();
        let entry = || sandbox.git(["ls-files", "-s", "sub"]);
        let (head, link) = (sandbox.head(), entry());
        let output = sandbox.mutate(&[], &format!("echo x >>file; {script}")).assert().code(65).get_output().clone();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(told.contains("sub"), "{script}: {told}");
        assert_eq!((sandbox.head(), entry()), (head, link), "{script}: {told}");
        assert_eq!(fs::read_to_string(sandbox.path("file")).unwrap(), "first\n", "{script}: {told}");
        sandbox.assert_no_traces();
    }
}

#[test]
fn submodule_with_changes_of_the_callers_own_is_not_clean() {
    let sandbox = with_submodule();
    sandbox.sh("git -C sub commit -q --allow-empty -m x").assert().success();
    let told = sandbox.undone(&[], "touch \"$SANDBOX/ran\"", 65);
    assert!(told.contains("sub"), "{told}");
    let status = sandbox.short_status();
    sandbox.commits(&["--allow-dirty"], "echo x >>file");
    assert_eq!(sandbox.landed(), ["M file"]);
    assert_eq!(sandbox.short_status(), status);
}

#[test]
fn new_repository_in_the_worktree_is_named_and_taken_away() {
    for (script, named) in [
        ("git init -q nested", "nested"),
        ("git init -q d/nested; git -C d/nested commit -q --allow-empty -m x", "d/nested"),
        ("git clone -q . nested", "nested"),
        ("git init -q nested; git -C nested commit -q --allow-empty -m x; git add nested 2>/dev/null", "nested"),
        ("git -c protocol.file.allow=always submodule --quiet add \"$PWD/.git\" nested", "nested"),
    ] {
        let told = furnished().undone(&[], &format!("echo x >>file; {script}"), 65);
        assert!(told.contains(named), "{script}: {told}");
        furnished().undone(&[], &format!("echo x >>file; {script}; exit 3"), 3);
    }
}

#[test]
fn repository_that_was_there_before_is_left_alone() {
    let sandbox = furnished();
    sandbox.sh("git init -q mine; echo x >mine/x; git -C mine add x; git -C mine commit -qm x").assert().success();
    sandbox.commits(&[], "echo x >>file");
    assert_eq!(sandbox.landed(), ["M file"]);
    sandbox.undone(&[], "rm -r d; exit 3", 3);
    assert_eq!(sandbox.sh("git -C mine log --format=%s").assert().success().get_output().stdout, b"x\n");
}
