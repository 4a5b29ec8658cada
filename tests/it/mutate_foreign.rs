//! `repoguard mutate` and those who never asked: what somebody else commits, tags or branches meanwhile is theirs, and is
//! left where it is.

use std::fs;
use std::os::unix::process::CommandExt as _;

use crate::mutate::furnished;
use crate::support::{Sandbox, is_root, own, shell_status, skip, to_the_end};

/// Runs a mutation, and this as an outsider's while its command is in the middle; returns its status and what it says.
fn meanwhile(sandbox: &Sandbox, theirs: &str, ending: &str) -> (i32, String) {
    let gate = sandbox.gate("gate");
    let script = format!("echo ours >>d/a; echo ours >ours; git add ours; {}; {ending}", gate.script());
    let mut running = sandbox.start(sandbox.mutate_command(&[], &script));
    gate.reached_by(&mut running);
    sandbox.sh(theirs).assert().success();
    gate.open();
    let status = shell_status(running.ended());
    (status, running.stderr())
}

/// Nothing of the command's is left, and all that the outsider did.
#[track_caller]
fn only_theirs_is_left(sandbox: &Sandbox, told: &str) {
    assert_eq!(sandbox.short_status(), [""; 0], "{told}");
    assert_eq!(fs::read_to_string(sandbox.path("d/a")).unwrap(), "a\n", "{told}");
    assert!(!sandbox.path("ours").exists(), "{told}");
    sandbox.assert_no_traces();
}

#[test]
fn commit_of_somebody_else_is_left_and_both_are_named() {
    for (ending, status) in [("true", 65), ("exit 7", 7)] {
        let sandbox = furnished();
        let old = sandbox.head();
        let theirs =
            "tree=$(git rev-parse HEAD^{tree}); git update-ref HEAD $(git commit-tree -p HEAD -m theirs $tree)";
        let (ended, told) = meanwhile(&sandbox, theirs, ending);
        assert_eq!(ended, status, "{told}");
        assert_eq!(sandbox.git(["log", "-1", "--format=%s"]), "theirs\n", "{told}");
        assert!(told.contains(&old[..7]) && told.contains(&sandbox.head()[..7]), "both are named: {told}");
        only_theirs_is_left(&sandbox, &told);
    }
}

#[test]
fn branch_that_somebody_else_switches_to_is_left() {
    let sandbox = furnished();
    sandbox.git(["branch", "other"]);
    let (ended, told) = meanwhile(&sandbox, "git symbolic-ref HEAD refs/heads/other", "true");
    assert_eq!(ended, 65, "{told}");
    assert_eq!(sandbox.git(["symbolic-ref", "HEAD"]), "refs/heads/other\n", "{told}");
    only_theirs_is_left(&sandbox, &told);
}

#[test]
fn refs_of_somebody_else_are_left_and_in_nobodys_way() {
    let theirs = "git tag theirs; git branch theirs; git update-ref refs/remotes/origin/main HEAD";
    let refs = |sandbox: &Sandbox| sandbox.git(["for-each-ref", "--format=%(refname)"]);
    let expected = "refs/heads/main\nrefs/heads/theirs\nrefs/remotes/origin/main\nrefs/tags/theirs\n";

    let sandbox = furnished();
    let (ended, told) = meanwhile(&sandbox, theirs, "true");
    assert_eq!(ended, 0, "{told}");
    assert_eq!(sandbox.landed(), ["M d/a", "A ours"]);
    assert_eq!(refs(&sandbox), expected, "{told}");

    let sandbox = furnished();
    let (ended, told) = meanwhile(&sandbox, theirs, "exit 7");
    assert_eq!(ended, 7, "{told}");
    assert_eq!(refs(&sandbox), expected, "{told}");
    only_theirs_is_left(&sandbox, &told);
}

#[test]
fn refs_of_the_command_are_undone_beside_those_of_somebody_else() {
    let sandbox = furnished();
    let gate = sandbox.gate("gate");
    let script = format!("git branch ours; git tag ours; {}; git branch late; exit 7", gate.script());
    let mut running = sandbox.start(sandbox.mutate_command(&[], &script));
    gate.reached_by(&mut running);
    sandbox.git(["tag", "theirs"]);
    gate.open();
    assert_eq!(shell_status(running.ended()), 7, "{}", running.stderr());
    let refs = sandbox.git(["for-each-ref", "--format=%(refname)"]);
    assert_eq!(refs, "refs/heads/main\nrefs/tags/theirs\n");
    assert!(running.stderr().contains("refs/tags/theirs"), "what is left is named: {}", running.stderr());
}

#[test]
fn worktree_of_somebody_else_is_none_of_our_business() {
    let sandbox = furnished();
    let linked = sandbox.worktree("linked");
    let theirs =
        format!("cd '{}' && echo theirs >>file && git commit -qam theirs && git tag in-linked", linked.display());
    for (ending, status) in [("true", 0), ("exit 7", 7)] {
        let (ended, told) = meanwhile(&sandbox, &theirs.replace("in-linked", &format!("in-linked-{status}")), ending);
        assert_eq!(ended, status, "{told}");
    }
    assert_eq!(sandbox.git(["log", "--format=%s", "linked"]), "theirs\ntheirs\nfurnished\nfirst\n");
    assert_eq!(sandbox.git(["log", "--format=%s", "main"]), "change\nfurnished\nfirst\n");
    sandbox.git(["rev-parse", "--verify", "-q", "in-linked-0"]);
    sandbox.git(["rev-parse", "--verify", "-q", "in-linked-7"]);
}

#[test]
fn git_directory_inside_the_worktree_is_left_alone() {
    for (make, variables) in [
        ("mkdir data; git init -q -b main --separate-git-dir=data/git .", &[][..]),
        ("git init -q -b main --bare .cfg", &[("GIT_DIR", ".cfg"), ("GIT_WORK_TREE", "")][..]),
    ] {
        let sandbox = Sandbox::new();
        let top = sandbox.outside("dotfiles");
        fs::create_dir(&top).unwrap();
        sandbox.sh(make).current_dir(&top).assert().success();
        let run = |script: &str| {
            let mut command = sandbox.sh(script);
            command.current_dir(&top);
            for (name, path) in variables {
                command.env(name, top.join(path));
            }
            command
        };
        run("echo one >file; git add file; git commit -q -m one").assert().success();
        let change = "echo two >>file; echo new >made; git add file";
        run(&format!("repoguard mutate -m two -- sh -c '{change}; exit 3'")).assert().code(3);
        assert_eq!(fs::read_to_string(top.join("file")).unwrap(), "one\n");
        assert!(!top.join("made").exists());
        run("git fsck --no-dangling && repoguard exec -- true").assert().success();
        run(&format!("repoguard mutate -m two -- sh -c '{change}'")).assert().success();
        let files = run("git show --name-only --format=").assert().success().get_output().stdout.clone();
        assert_eq!(String::from_utf8(files).unwrap(), "file\nmade\n");
    }
}

/// Runs a mutation as an ordinary user in a checkout of theirs.
fn as_user(sandbox: &Sandbox, script: &str) -> (Option<i32>, String) {
    let mut command = sandbox.repoguard_command(["mutate", "-m", "m", "--", "sh", "-c", script]);
    command.uid(1).gid(1);
    let output = to_the_end(command).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn leftovers_of_root_are_in_nobodys_way() {
    if !is_root() {
        return skip("leftovers of root in a user's checkout", "needs root");
    }
    for (make, opens) in [
        ("mkdir cache; echo x >cache/blob; chmod 700 cache", false),
        ("echo secret >core.1; chmod 600 core.1", false),
        ("mkdir dist; echo x >dist/index.js", true),
        ("mkdir -p dist/deep; echo x >dist/deep/f; chmod 700 dist/deep", true),
        ("mkdir empty; chmod 700 empty", false),
        ("mkfifo pipe; chmod 600 pipe", false),
    ] {
        let sandbox = furnished();
        sandbox.open_to_all();
        own(sandbox.here(), 1, 1);
        // There before.
        sandbox.sh(make).assert().success();
        let (status, told) = as_user(&sandbox, "echo 2 >file; echo n >new");
        assert_eq!(status, Some(0), "{make}: {told}");
        let before = fs::read_to_string(sandbox.path("file")).unwrap();
        let (status, told) = as_user(&sandbox, "echo 3 >file; echo n >newer; rm new; exit 9");
        assert_eq!(status, Some(9), "{make}: {told}");
        let now = fs::read_to_string(sandbox.path("file")).unwrap();
        assert!(now == before && sandbox.path("new").exists() && !sandbox.path("newer").exists(), "{make}: {told}");
        assert!(told.contains("everything was put back"), "{make}: {told}");

        // Made meanwhile, by a container that the command started.
        let sandbox = furnished();
        sandbox.open_to_all();
        own(sandbox.here(), 1, 1);
        let gate = sandbox.gate("gate");
        std::os::unix::fs::chown(sandbox.outside(""), Some(1), Some(1)).unwrap();
        let script = format!("echo 2 >file; rm d/a; {}; exit 9", gate.script());
        let mut command = sandbox.repoguard_command(["mutate", "-m", "m", "--", "sh", "-c", &script]);
        command.uid(1).gid(1);
        let mut running = sandbox.start(command);
        gate.reached_by(&mut running);
        sandbox.sh(make).assert().success();
        gate.open();
        assert_eq!(running.ended().code(), Some(9), "{make}: {}", running.stderr());
        let told = running.stderr();
        assert_eq!(fs::read_to_string(sandbox.path("file")).unwrap(), "first\n", "{make}: {told}");
        assert_eq!(fs::read_to_string(sandbox.path("d/a")).unwrap(), "a\n", "{make}: {told}");
        let (status, after) = as_user(&sandbox, "echo 3 >file");
        assert_eq!(status, Some(0), "{make}: nobody is kept out: {after}");
        assert!(!opens || told.contains("left"), "{make}: what stays is named: {told}");
    }
}
