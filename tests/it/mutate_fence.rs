//! `repoguard mutate --fence`: no other git can touch index or HEAD meanwhile, and nothing of the fence outlives it.

use std::fs;
use std::path::Path;

use rustix::process::Signal;

use crate::mutate::furnished;
use crate::support::{At, Running, Sandbox, WORK, eventually, process_group, python, shell_status, skip};

/// A checkout with a branch beside `main`, and a file of the user's own.
fn forked() -> Sandbox {
    let sandbox = furnished();
    let fork = "git checkout -q -b side; echo side >side; git add side; git commit -qm side; git checkout -q main; \
        git format-patch -q -1 --stdout side >../patch; echo mine >mine";
    sandbox.sh(fork).assert().success();
    sandbox
}

/// What outsiders do to index or HEAD.
const OUTSIDE: [&str; 26] = [
    "git add mine",
    "git add -A",
    "git rm -q other/o",
    "git mv other/o other/p",
    "git update-index --add mine",
    "git read-tree HEAD~1",
    "git commit -q --allow-empty -m theirs",
    "git commit -qam theirs",
    "git commit -q --amend -m theirs",
    "git commit -qm theirs -- other/o",
    "git checkout -q side",
    "git checkout -q --detach",
    "git checkout -q -- file",
    "git restore file",
    "git restore --staged --source HEAD~1 file",
    "git switch -q side",
    "git reset -q --hard",
    "git reset -q --soft HEAD~1",
    "git reset -q -- file",
    "git merge -q side",
    "git rebase -q side",
    "git cherry-pick side",
    "git stash -q",
    "git symbolic-ref HEAD refs/heads/side",
    "git update-ref HEAD HEAD~1",
    "git sparse-checkout set d",
];

/// What the command does under the fence.
const CHANGE: &str = "echo x >>file; echo n >new; git add new; rm d/a";
const LANDED: [&str; 3] = ["D d/a", "M file", "A new"];

#[test]
fn outsiders_change_neither_index_nor_head() {
    let sandbox = forked();
    let mut running = sandbox.mutation_at(At::Command, &["--fence"], CHANGE);
    let meanwhile = sandbox.state();
    for outside in OUTSIDE {
        let output = sandbox.sh(outside).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{outside}: {told}");
        meanwhile.assert_same(&sandbox.state(), &format!("{outside}: {told}"));
    }
    let_go_on(&sandbox);
    assert!(running.ended().success(), "{}", running.stderr());
    assert_eq!(sandbox.landed(), LANDED);
    assert_eq!(sandbox.short_status(), ["?? mine"]);
    sandbox.assert_no_traces();
}

#[test]
fn outsiders_change_neither_index_nor_head_while_it_is_verified_or_committed() {
    for at in ["verify", "pre-commit"] {
        let sandbox = forked();
        let gate = sandbox.gate("step");
        let verify = gate.script();
        let options = if at == "verify" { vec!["--fence", "--verify", &verify] } else { vec!["--fence"] };
        if at == "pre-commit" {
            sandbox.own_hook("pre-commit", &gate.script());
        }
        let mut running = sandbox.start(sandbox.mutate_command(&options, CHANGE));
        gate.reached_by(&mut running);
        let meanwhile = sandbox.state();
        // Git must be able to move HEAD in the commit step; until it does, so can others who need no index.
        let of_head =
            ["git reset -q --soft HEAD~1", "git symbolic-ref HEAD refs/heads/side", "git update-ref HEAD HEAD~1"];
        for outside in OUTSIDE.iter().filter(|outside| at == "verify" || !of_head.contains(outside)) {
            let output = sandbox.sh(outside).output().unwrap();
            assert!(!output.status.success(), "{at}: {outside}");
            meanwhile.assert_same(&sandbox.state(), outside);
        }
        gate.open();
        assert!(running.ended().success(), "{at}: {}", running.stderr());
        assert_eq!(sandbox.landed(), LANDED);
        assert_eq!(sandbox.short_status(), ["?? mine"]);
        sandbox.assert_no_traces();
    }
}

#[test]
fn head_that_others_move_while_git_commits_is_left_to_them() {
    let sandbox = forked();
    let gate = sandbox.gate("step");
    sandbox.own_hook("pre-commit", &gate.script());
    let mut running = sandbox.start(sandbox.mutate_command(&["--fence"], CHANGE));
    gate.reached_by(&mut running);
    let theirs = sandbox.git(["commit-tree", "-p", "HEAD", "-m", "theirs", "HEAD^{tree}"]);
    sandbox.git(["update-ref", "HEAD", theirs.trim()]);
    gate.open();
    let status = shell_status(running.ended());
    assert!(status == 65 || status == 128, "{status}: {}", running.stderr());
    assert_eq!(sandbox.head(), theirs.trim(), "{}", running.stderr());
    assert_eq!(sandbox.short_status(), ["?? mine"], "{}", running.stderr());
    sandbox.assert_no_traces();
}

#[test]
fn who_takes_the_index_lock_as_git_does_cannot() {
    let sandbox = forked();
    let mut running = sandbox.mutation_at(At::Command, &["--fence"], CHANGE);
    for lock in [".git/index.lock", ".git/HEAD.lock"] {
        sandbox.sh(&format!("set -C; : >{lock}")).assert().failure();
    }
    let_go_on(&sandbox);
    assert!(running.ended().success(), "{}", running.stderr());
}

#[test]
fn libgit2_changes_neither_index_nor_head_nor_references() {
    let sandbox = forked();
    let mut import = sandbox.command(python());
    if !import.args(["-c", "import pygit2"]).output().is_ok_and(|output| output.status.success()) {
        return skip("libgit2 under the fence", "no pygit2");
    }
    let fails = |sandbox: &Sandbox, act: &str| {
        let mut command = sandbox.command(python());
        command.args(["-c", &format!("import pygit2; repo = pygit2.Repository('.'); {act}")]);
        crate::support::to_the_end(command).assert().failure();
    };
    let mut running = sandbox.mutation_at(At::Command, &["--fence"], CHANGE);
    let meanwhile = sandbox.state();
    for act in ["repo.index.add('mine'); repo.index.write()", "repo.set_head('refs/heads/side')"] {
        fails(&sandbox, act);
        meanwhile.assert_same(&sandbox.state(), act);
    }
    let_go_on(&sandbox);
    assert!(running.ended().success(), "{}", running.stderr());
    assert_eq!(sandbox.landed(), LANDED);

    // These write files before they look for the lock of the index.
    for act in ["repo.checkout('refs/heads/side')", "repo.reset(repo.head.target, pygit2.GIT_RESET_HARD)"] {
        let sandbox = forked();
        let mut running = sandbox.mutation_at(At::Command, &["--fence"], CHANGE);
        let recorded = || {
            let index = fs::read(sandbox.path(".git/index")).unwrap();
            (index, sandbox.git(["symbolic-ref", "HEAD"]), sandbox.git(["for-each-ref"]))
        };
        let meanwhile = recorded();
        fails(&sandbox, act);
        assert!(recorded() == meanwhile, "{act}");
        let_go_on(&sandbox);
        running.ended();
    }
}

/// Opens the gate of a mutation.
fn let_go_on(sandbox: &Sandbox) {
    fs::remove_file(sandbox.outside("killed.closed")).unwrap();
}

#[test]
fn commands_own_git_works_on_the_change() {
    let sandbox = forked();
    let script = "set -e; echo x >>file; git add file; git diff --cached --name-only >&2; git mv d/a moved; \
        git rm -q other/o; echo n >new; git add -N new; git add -A d; test -z \"$(git stash list)\"; git status >&2";
    let told = sandbox.commits(&["--fence"], script);
    assert_eq!(sandbox.landed(), ["D d/a", "M file", "A moved", "A new", "D other/o"], "{told}");
    assert_eq!(sandbox.short_status(), ["?? mine"], "{told}");
    // What it must not do is put back, under the fence as well.
    for script in
        ["echo x >>file; git add -A; git commit -qm theirs", "git checkout -q side", "git branch theirs; exit 3"]
    {
        let sandbox = forked();
        let before = sandbox.state();
        let output = sandbox.mutate(&["--fence"], script).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{script}: {told}");
        before.assert_same(&sandbox.state(), &format!("{script}: {told}"));
        sandbox.assert_no_traces();
    }
}

#[test]
fn hooks_and_checks_work_under_the_fence() {
    let sandbox = forked();
    sandbox
        .own_hook("pre-commit", "echo generated >generated; git add generated; git diff --cached --quiet && exit 1; :");
    let options =
        ["--fence", "--check", "git status >/dev/null", "--verify", "git diff --cached --name-only | grep -q new"];
    sandbox.commits(&options, CHANGE);
    assert_eq!(sandbox.landed(), ["D d/a", "M file", "A generated", "A new"]);
    assert_eq!(sandbox.short_status(), ["?? mine"]);
}

#[test]
fn lock_of_another_git_is_waited_for_and_left_alone() {
    for lock in ["index.lock", "HEAD.lock"] {
        let sandbox = forked();
        let path = sandbox.path(".git").join(lock);
        fs::write(&path, "theirs").unwrap();
        let before = sandbox.state();
        for (options, status) in [(&["-n"][..], 75), (&["-w", "0"], 75), (&["-w", "0.5"], 75), (&["-n", "-E", "9"], 9)]
        {
            let mut command = sandbox.mutate(&[&["--fence"], options].concat(), "touch \"$SANDBOX/ran\"");
            command.timeout(std::time::Duration::from_secs(20));
            let told = sandbox.assert_refused(command, status);
            assert!(told.contains(lock), "{options:?}: {told}");
            before.assert_same(&sandbox.state(), &told);
            assert_eq!(fs::read(&path).unwrap(), b"theirs", "{options:?}: {told}");
        }
        let mut running = sandbox.start(sandbox.mutate_command(&["--fence"], CHANGE));
        eventually("it tells for whom it waits", || {
            assert!(running.runs(), "{}", running.stderr());
            running.stderr().contains(lock)
        });
        fs::remove_file(&path).unwrap();
        assert!(running.ended().success(), "{}", running.stderr());
        assert_eq!(sandbox.landed(), LANDED);
        sandbox.assert_no_traces();
    }
}

#[test]
fn interrupt_while_waiting_for_another_git_ends_it() {
    let sandbox = forked();
    for signal in [Signal::INT, Signal::TERM] {
        fs::write(sandbox.path(".git/index.lock"), "").unwrap();
        let before = sandbox.state();
        let mut running = sandbox.start(sandbox.mutate_command(&["--fence"], CHANGE));
        eventually("it holds", || {
            assert!(running.runs(), "{}", running.stderr());
            sandbox.status()["state"] != "free"
        });
        running.signal(signal);
        let status = shell_status(running.ended());
        assert_eq!(status, 128 + signal.as_raw(), "{}", running.stderr());
        fs::remove_file(sandbox.path(".git/index.lock")).unwrap();
        before.assert_same(&sandbox.state(), &running.stderr());
        sandbox.assert_no_traces();
    }
}

/// Kills a mutation with all its processes.
fn kill_all(mut running: Running) {
    running.signal_group(Signal::KILL);
    running.ended();
    eventually("all are gone", || process_group(running.pid()).is_empty());
}

fn locks(sandbox: &Sandbox) -> Vec<bool> {
    ["index.lock", "HEAD.lock"].map(|lock| sandbox.path(".git").join(lock).exists()).to_vec()
}

#[test]
fn fence_of_the_dead_is_taken_away_by_the_next() {
    for at in [At::Command, At::Verify, At::Committed] {
        let sandbox = forked();
        let before = sandbox.state();
        kill_all(sandbox.mutation_at(at, &["--fence"], CHANGE));
        assert!(locks(&sandbox)[0], "{at:?}: the fence stands");
        sandbox.repoguard(["exec", "--", "true"]).assert().success();
        assert_eq!(locks(&sandbox), [false, false], "{at:?}");
        if at == At::Committed {
            assert_eq!(sandbox.landed(), LANDED);
            assert_eq!(sandbox.short_status(), ["?? mine"]);
        } else {
            before.assert_same(&sandbox.state(), "recovered");
        }
        sandbox.assert_no_traces();
        sandbox.git(["add", "mine"]);
    }
}

#[test]
fn lock_that_is_not_ours_is_never_taken_away() {
    // With `git add` the command of the second has changed the user's index, which must be put back under git's lock.
    for (options, script) in [(&["--fence"][..], CHANGE), (&[], "echo x >>file; git add file"), (&[], WORK)] {
        for lock in ["index.lock", "HEAD.lock"] {
            let sandbox = forked();
            let before = sandbox.state();
            kill_all(sandbox.mutation_at(At::Command, options, script));
            let path = sandbox.path(".git").join(lock);
            replace(&path, "theirs");
            for _ in 0..2 {
                let output = sandbox.repoguard(["exec", "--", "true"]).output().unwrap();
                let told = String::from_utf8_lossy(&output.stderr).into_owned();
                assert_eq!(fs::read(&path).expect("theirs"), b"theirs", "{options:?}: {told}");
                if !output.status.success() {
                    assert!(told.contains(lock), "what is in the way is named: {told}");
                    assert!(!sandbox.unfinished().is_null(), "it is not forgotten");
                }
            }
            fs::remove_file(&path).unwrap();
            assert_eq!(sandbox.try_once(&[]), 0);
            before.assert_same(&sandbox.state(), "recovered");
            sandbox.assert_no_traces();
        }
    }
}

/// Puts another file in place of one, or of nothing.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("other");
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}

#[test]
fn fence_is_gone_whatever_the_end() {
    for (options, script) in [
        (&["--fence"][..], CHANGE),
        (&["--fence"], "exit 3"),
        (&["--fence", "--no-commit"], CHANGE),
        (&["--fence", "--dry-run"], CHANGE),
        (&["--fence", "--check", "exit 4"], CHANGE),
        (&["--fence", "--verify", "exit 4"], CHANGE),
        (&["--fence", "--allow-empty"], "true"),
        (&["--fence"], "true"),
        (&["--fence", "--max-hold", "0.3"], "echo x >>file; sleep 60"),
        (&["--fence", "--expect-head", "HEAD~1"], CHANGE),
    ] {
        let sandbox = forked();
        sandbox.mutate(options, script).output().unwrap();
        assert_eq!(locks(&sandbox), [false, false], "{options:?}");
        sandbox.assert_no_traces();
        sandbox.git(["add", "mine"]);
        sandbox.git(["commit", "-q", "-m", "mine"]);
        sandbox.git(["fsck", "--strict"]);
    }
}

#[test]
fn fence_keeps_the_callers_own_changes() {
    let sandbox = forked();
    sandbox.sh("echo staged >>other/o; git add other/o mine; echo unstaged >>other/o").assert().success();
    let (status, diff) = (sandbox.short_status(), sandbox.git(["diff"]));
    sandbox.commits(&["--fence", "--allow-dirty"], "echo x >>file; echo n >new; git add new; rm d/a");
    assert_eq!(sandbox.landed(), LANDED);
    assert_eq!((sandbox.short_status(), sandbox.git(["diff"])), (status, diff));
    sandbox.undone(&["--fence", "--allow-dirty"], "rm -rf other; git add -A; exit 3", 3);
}
