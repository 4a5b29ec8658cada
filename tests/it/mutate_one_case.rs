//! Names that differ in case only: one name to some file systems, two to others, whatever is configured.

use std::fs;
use std::process::Command;

use crate::support::{Mount, Sandbox, python, skip};

/// A repository on a file system to which they are one name, mounted as long as the first value lives.
fn on_one_case() -> Option<(Mount, Sandbox)> {
    let sandbox = Sandbox::new();
    let (source, target) = (sandbox.outside("source"), sandbox.path("m"));
    for directory in [&source, &target] {
        fs::create_dir(directory).unwrap();
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/support/one_case.py");
    let mounted = Command::new(python()).arg(script).args([&source, &target]).output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        skip("a file system to which names that differ in case only are one", "fusepy or FUSE is missing");
        return None;
    }
    let mount = Mount::of(target);
    let furnish = "git init -q m/r; cd m/r; git config user.name a; git config user.email a@b; echo 1 >a; mkdir d; echo 2 >d/b; \
        echo 3 >d/c; git add .; git commit -qm first; echo mine >own";
    sandbox.sh(furnish).assert().success();
    Some((mount, sandbox))
}

/// Runs a mutation there; returns its status and what it told.
fn mutate(sandbox: &Sandbox, script: &str) -> (Option<i32>, String) {
    let output = sandbox.repoguard(["-C", "m/r", "mutate", "-m", "m", "--", "sh", "-c", script]).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn names(sandbox: &Sandbox) -> (String, String) {
    let inside = |script: &str| {
        let output = sandbox.sh(&format!("cd m/r; {script}")).output().unwrap();
        String::from_utf8_lossy(&output.stdout).replace('\n', " ").trim().to_owned()
    };
    let committed = inside("git ls-tree -r --name-only HEAD");
    let there = inside("find . -path ./.git -prune -o -type f -print | sort | sed s,./,,");
    assert_eq!(inside("git status --porcelain"), "?? own", "{committed}: {there}");
    (committed, there)
}

#[test]
fn rename_that_changes_the_case_is_committed_and_undone() {
    let Some((_mount, sandbox)) = on_one_case() else { return };
    let (before, files) = names(&sandbox);
    assert_eq!((before.as_str(), files.as_str()), ("a d/b d/c", "a d/b d/c own"));
    for script in [
        "git mv a A",
        "mv a x; mv x A",
        "git mv d x; git mv x D",
        "mv d x; mv x D; echo 4 >D/b; rm D/c; echo 5 >D/new",
        "mv d x; mv x D; mv D/b D/x; mv D/x D/B; mv own x; mv x OWN; echo 4 >A",
    ] {
        let (status, told) = mutate(&sandbox, &format!("{script}; exit 3"));
        assert!(status == Some(3) && told.contains("everything was put back"), "{script}: {told}");
        assert_eq!(names(&sandbox), (before.clone(), files.clone()), "{script}: {told}");
        let (status, told) = mutate(&sandbox, "true");
        assert_eq!(status, Some(0), "nobody is locked out: {script}: {told}");
    }
    let (status, told) = mutate(&sandbox, "git mv a A; git mv d x; git mv x D; echo 4 >D/b");
    assert_eq!(status, Some(0), "{told}");
    assert_eq!(names(&sandbox), ("A D/b D/c".to_owned(), "A D/b D/c own".to_owned()), "{told}");
    // Git spells it otherwise than the disk: that was so before.
    sandbox.sh("cd m/r; mv A x; mv x a").assert().success();
    let (status, told) = mutate(&sandbox, "echo 5 >D/c");
    assert_eq!(status, Some(0), "{told}");
    assert_eq!(names(&sandbox), ("A D/b D/c".to_owned(), "D/b D/c a own".to_owned()), "{told}");
    let (status, told) = mutate(&sandbox, "echo 6 >a; exit 3");
    assert_eq!(status, Some(3), "{told}");
    assert_eq!(names(&sandbox).1, "D/b D/c a own", "{told}");
}

#[test]
fn accents_that_are_composed_otherwise_are_one_name() {
    let Some((_mount, sandbox)) = on_one_case() else { return };
    let (apart, composed) = ("e\u{301}", "\u{e9}");
    sandbox
        .sh(&format!("cd m/r; echo 1 >{apart}; git -c core.precomposeUnicode=false add {apart}; git commit -qm second"))
        .assert()
        .success();
    let (status, told) = mutate(&sandbox, &format!("mv {apart} x; mv x {composed}; exit 3"));
    assert_eq!(status, Some(3), "{told}");
    let there =
        |name: &str| fs::read_dir(sandbox.path("m/r")).unwrap().flatten().any(|entry| entry.file_name() == name);
    assert!(there(apart) && !there(composed), "{told}");
    let (status, told) = mutate(&sandbox, &format!("mv {apart} x; mv x {composed}"));
    assert_eq!(status, Some(0), "{told}");
    assert!(!there(apart) && there(composed), "{told}");
}

#[test]
fn killed_change_of_case_locks_nobody_out() {
    let Some((_mount, sandbox)) = on_one_case() else { return };
    let before = names(&sandbox);
    mutate(&sandbox, "mv d x; mv x D; mv a x; mv x A; kill -9 $PPID; sleep 0.2");
    let mut exec = sandbox.repoguard(["-C", "m/r", "exec", "-w", "20", "--", "true"]);
    exec.assert().success();
    assert_eq!(names(&sandbox), before);
}

#[test]
fn configured_case_counts_for_ignore_rules_alone() {
    let sandbox = Sandbox::new();
    sandbox.git(["config", "core.ignoreCase", "true"]);
    let furnish = "echo 1 >a; mkdir d; echo 2 >d/b; echo '*.log' >.gitignore; git add .; git commit -qm first; echo mine >OWN; echo mine >D";
    sandbox.sh(furnish).assert().success();
    let mutate = |script: &str| {
        let output = sandbox.repoguard(["mutate", "-m", "m", "--", "sh", "-c", script]).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let committed = || sandbox.git(["ls-tree", "-r", "--name-only", "HEAD"]).replace('\n', " ");
    let (status, told) = mutate("echo 2 >A; echo 3 >OWN; exit 3");
    assert!(status == Some(3) && told.contains("everything was put back"), "{told}");
    assert!(!sandbox.path("A").exists(), "{told}");
    assert_eq!(fs::read_to_string(sandbox.path("OWN")).unwrap(), "mine\n", "{told}");
    let (status, told) = mutate("echo 2 >A; echo 3 >new.LOG");
    assert_eq!((status, committed().as_str()), (Some(0), ".gitignore A a d/b file "), "{told}");
    assert!(told.contains("left out, ignored: `new.LOG`"), "{told}");
    let (status, told) = mutate("rm A; mv a A; git mv d E");
    assert_eq!((status, committed().as_str()), (Some(0), ".gitignore A E/b file "), "{told}");
}

#[test]
fn directory_that_the_commands_git_moves_is_committed_whole() {
    let sandbox = Sandbox::new();
    let furnish = "mkdir -p d/e; echo 1 >d/a; echo 2 >d/e/b; echo '*.log' >.gitignore; git add .; git commit -qm first; echo x >d/x.log";
    sandbox.sh(furnish).assert().success();
    let mut mutate = sandbox.repoguard(["mutate", "-m", "m", "--", "git", "mv", "d", "f"]);
    mutate.assert().success();
    assert_eq!(sandbox.git(["ls-tree", "-r", "--name-only", "HEAD"]), ".gitignore\nf/a\nf/e/b\nfile\n");
}
