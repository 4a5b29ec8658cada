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

/// What another process makes and does in the checkout while a mutation runs, and the files of its that must stay as they are.
const OTHERS: [(&str, &[&str]); 5] = [
    (
        "git worktree add -q -b o .agents/o && cd .agents/o && echo w >work && echo c >>file",
        &[".agents/o/work", ".agents/o/file"],
    ),
    (
        "git init -q other && cd other && echo w >work && git add work && git commit -qm o",
        &["other/work", "other/.git/HEAD"],
    ),
    ("git clone -q . d/clone && echo w >d/clone/work", &["d/clone/work", "d/clone/.git/HEAD"]),
    ("mkdir -p new/deep && git init -q new/deep/o && echo w >new/deep/o/.gitignore", &["new/deep/o/.gitignore"]),
    ("git init -q other && echo w >other/x.log", &["other/x.log"]),
];

#[test]
fn repository_that_somebody_else_makes_meanwhile_stays() {
    for (script, files) in OTHERS {
        for (options, end, status) in
            [(&[][..], "", 0), (&[], "; exit 3", 3), (&["--dry-run"], "", 0), (&["--verify", "exit 4"], "", 4)]
        {
            let sandbox = furnished();
            let gate = sandbox.gate("gate");
            let command = format!("echo 2 >file; echo mine >made; {}{end}", gate.script());
            let mut running = sandbox.start(sandbox.mutate_command(options, &command));
            gate.reached_by(&mut running);
            sandbox.sh(script).assert().success();
            let read = || files.iter().map(|file| fs::read(sandbox.path(file)).ok()).collect::<Vec<_>>();
            let before = read();
            assert!(before.iter().all(Option::is_some), "{script}");
            gate.open();
            let ended = running.ended();
            let told = running.stderr();
            assert_eq!(ended.code(), Some(status), "{script}, {options:?}{end}: {told}");
            assert_eq!(read(), before, "{script}, {options:?}{end}: {told}");
            let committed = status == 0 && options.is_empty();
            assert_eq!(sandbox.git(["show", "HEAD:file"]), if committed { "2\n" } else { "first\n" }, "{told}");
            assert_eq!(sandbox.path("made").exists(), committed, "{script}, {options:?}{end}: {told}");
            assert!(!sandbox.git(["ls-tree", "-r", "HEAD"]).contains("160000"), "{script}: {told}");
            assert_eq!(sandbox.try_once(&[]), 0, "{script}: {told}");
        }
    }
}

#[test]
fn repository_of_somebody_else_stays_where_a_file_was() {
    // The command makes room, and another process moves in.
    let sandbox = furnished();
    let gate = sandbox.gate("gate");
    let command = format!("rm file; mkdir file; echo 2 >d/a; {}; exit 3", gate.script());
    let mut running = sandbox.start(sandbox.mutate_command(&[], &command));
    gate.reached_by(&mut running);
    sandbox.sh("git init -q file/o && echo w >file/o/work").assert().success();
    gate.open();
    assert_eq!(running.ended().code(), Some(3), "{}", running.stderr());
    let told = running.stderr();
    assert_eq!(fs::read_to_string(sandbox.path("file/o/work")).unwrap(), "w\n", "{told}");
    assert_eq!(fs::read_to_string(sandbox.path("d/a")).unwrap(), "a\n", "the rest is put back: {told}");
    assert!(told.contains("`file`"), "{told}");
    assert_eq!(sandbox.try_once(&[]), 0, "{told}");
}

#[test]
fn worktree_of_a_busy_checkout_inside_it_outlives_a_killed_mutation() {
    let sandbox = furnished();
    let mut running = sandbox.mutation_at(crate::support::At::Command, &[], "echo 2 >file; echo mine >made");
    let inside = sandbox.path("inside");
    let args = ["exec", "--on-busy", "worktree", "--worktree-dir", inside.to_str().unwrap(), "--", "sh", "-c"];
    let mut other = sandbox.repoguard_command(args);
    other.arg("echo w >work; touch \"$SANDBOX/up\"; read line");
    let mut other = sandbox.start(other);
    crate::support::eventually("it works there", || sandbox.outside("up").exists());
    running.signal_group(rustix::process::Signal::KILL);
    running.ended();
    let place = fs::read_dir(&inside).unwrap().next().unwrap().unwrap().path();
    let told = sandbox.repoguard(["recover", "--undo"]).output().unwrap();
    let told = String::from_utf8_lossy(&told.stderr);
    assert_eq!(fs::read_to_string(place.join("work")).unwrap(), "w\n", "{told}");
    assert!(!sandbox.path("made").exists(), "{told}");
    other.send("done");
    other.ended();
    assert!(place.join("work").exists(), "it is kept with its work: {}", other.stderr());
}
