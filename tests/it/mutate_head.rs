//! `repoguard mutate` and what only it may do: a command that commits, switches or makes refs is undone; and the states
//! of HEAD that it works on.

use std::fs;

use crate::mutate::furnished;
use crate::support::{Sandbox, to_the_end};

/// What moves HEAD, a branch, a tag or the stash.
const MOVES: [&str; 22] = [
    "echo x >>file; git commit -qam theirs",
    "git commit -q --allow-empty -m theirs",
    "git commit -q --amend -m other",
    "git reset -q --hard HEAD~1",
    "git reset -q --soft HEAD~1",
    "git checkout -q -b theirs",
    "git checkout -q side",
    "git checkout -q --detach",
    "git checkout -q --orphan theirs",
    "git branch theirs",
    "git branch -f side main~1",
    "git branch -D side",
    "git branch -m main renamed",
    "git tag theirs",
    "git tag -a -m x theirs",
    "git tag -d v1",
    "git update-ref refs/heads/deep/er HEAD",
    "git symbolic-ref HEAD refs/heads/side",
    "echo x >>file; git stash -q",
    "git merge -q side",
    "git notes add -m x",
    "git cherry-pick side",
];

fn forked() -> Sandbox {
    let sandbox = furnished();
    let fork =
        "git tag v1; git checkout -q -b side; echo side >side; git add side; git commit -qm side; git checkout -q main";
    sandbox.sh(fork).assert().success();
    sandbox
}

/// Tells whether what is moved is not HEAD: a command that succeeds may do that.
fn spares_head(moves: &str) -> bool {
    let spares = ["git tag", "git branch", "git update-ref refs/heads/deep", "echo x >>file; git stash", "git notes"];
    spares.iter().any(|start| moves.starts_with(start)) && !moves.starts_with("git branch -m main")
}

#[test]
fn command_that_moves_head_is_undone() {
    for moves in MOVES.iter().filter(|moves| !spares_head(moves)) {
        let told = forked().undone(&[], &format!("set -e; {moves} >/dev/null 2>&1; echo y >>file; git add file"), 65);
        assert!(!told.contains("panicked"), "{moves}: {told}");
    }
}

#[test]
fn refs_that_a_failing_command_moves_are_put_back_with_its_own_status() {
    for moves in MOVES {
        forked().undone(&[], &format!("{moves} >/dev/null 2>&1; exit 7"), 7);
    }
}

#[test]
fn command_that_commits_is_told_what_to_leave_to_us() {
    let sandbox = forked();
    let told = sandbox.undone(&[], "echo x >>file; git commit -qam theirs", 65);
    assert!(told.contains("HEAD") && told.contains(&sandbox.head()[..7]), "{told}");
}

#[test]
fn commit_of_the_command_that_is_not_whole_is_in_no_log_afterwards() {
    let commit = "echo x >>file; git commit -qam theirs";
    for (script, lost) in
        [(commit, "HEAD:file"), (commit, "HEAD:"), (&format!("git checkout -q side; {commit}"), "HEAD:")]
    {
        let sandbox = forked();
        let lose = format!("rm -f .git/objects/$(git rev-parse {lost} | sed 's,..,&/,')");
        sandbox.undone(&[], &format!("{script}; git update-ref refs/heads/theirs HEAD; {lose}; exit 7"), 7);
        sandbox.git(["fsck", "--strict"]);
        let logs = sandbox.git(["reflog", "--all", "--format=%gs"]);
        assert!(logs.contains("commit: furnished") && !logs.contains("theirs"), "{script}: {logs}");
        sandbox.git(["gc", "-q", "--prune=now"]);
    }
}

#[test]
fn tag_that_the_command_makes_stays_with_its_change() {
    let sandbox = forked();
    sandbox.commits(&[], "echo x >>file; git tag mark");
    sandbox.git(["rev-parse", "--verify", "-q", "mark"]);
}

#[test]
fn stash_of_the_callers_own_is_kept_as_it_was() {
    let stashes = "for n in 1 2 3; do echo $n >>file; git stash push -q -m s$n; done";
    for script in [
        "git stash pop -q",
        "git stash drop -q stash@{1}",
        "git stash clear",
        "echo x >>file; git stash -q",
        "git stash apply -q; git reset -q --hard; git stash drop -q",
    ] {
        let sandbox = forked();
        sandbox.sh(stashes).assert().success();
        sandbox.undone(&[], &format!("{script} >&2; exit 7"), 7);
        assert_eq!(
            sandbox.git(["stash", "list", "--format=%gs"]),
            "On main: s3\nOn main: s2\nOn main: s1\n",
            "{script}"
        );
    }
}

#[test]
fn unborn_branch_gets_its_first_commit() {
    let sandbox = Sandbox::empty();
    sandbox.git(["init", "-q", "-b", "trunk"]);
    sandbox.undone(&[], "echo x >new; git add new; exit 5", 5);
    sandbox.undone(&[], "echo x >new; git add new; git commit -qm theirs", 65);
    sandbox.undone(&["--expect-head", "0123456789012345678901234567890123456789"], "echo x >new", 65);
    let mut mutate = sandbox.mutate(&[], "true");
    mutate.assert().success();
    assert_eq!(sandbox.head(), "");

    let output = sandbox.mutate(&["--dry-run"], "echo x >new").assert().success().get_output().clone();
    assert!(String::from_utf8_lossy(&output.stdout).contains("+x"));
    assert!(!sandbox.path("new").exists());

    fs::write(sandbox.path("mine"), "").unwrap();
    sandbox.mutate(&[], "echo x >new").assert().success();
    assert_eq!(sandbox.landed(), ["A new"]);
    assert_eq!(sandbox.git(["log", "--format=%s", "trunk"]), "change\n");
    assert_eq!(sandbox.short_status(), ["?? mine"]);
    sandbox.assert_no_traces();
}

#[test]
fn unborn_branch_with_staged_files_is_not_clean() {
    let sandbox = Sandbox::empty();
    sandbox.git(["init", "-q", "-b", "trunk"]);
    fs::write(sandbox.path("mine"), "mine\n").unwrap();
    sandbox.git(["add", "mine"]);
    let told = sandbox.undone(&[], "echo x >new", 65);
    assert!(told.contains("mine"), "{told}");
    sandbox.undone(&["--allow-dirty"], "echo x >new; rm mine; exit 4", 4);
    sandbox.mutate(&["--allow-dirty"], "echo x >new").assert().success();
    assert_eq!(sandbox.landed(), ["A new"]);
    assert_eq!(sandbox.staged(), ["A mine"]);
}

#[test]
fn detached_head_moves_and_no_branch_does() {
    let sandbox = forked();
    sandbox.git(["checkout", "-q", "--detach", "v1"]);
    let branches = sandbox.git(["for-each-ref"]);
    sandbox.undone(&[], "echo x >>file; exit 3", 3);
    sandbox.undone(&[], "git checkout -q main", 65);
    sandbox.commits(&[], "echo x >>file");
    assert_eq!(sandbox.git(["for-each-ref"]), branches);
    sandbox.git(["rev-parse", "--verify", "-q", "HEAD~1^{commit}"]);
    let mut symbolic = crate::support::to_the_end(sandbox.command("git"));
    symbolic.args(["symbolic-ref", "-q", "HEAD"]).assert().code(1);
}

#[test]
fn bare_repository_and_no_repository_are_refused() {
    let sandbox = Sandbox::new();
    sandbox.git(["clone", "-q", "--bare", ".", "../bare.git"]);
    fs::create_dir(sandbox.outside("nowhere")).unwrap();
    for place in ["bare.git", "nowhere"] {
        let mut command = sandbox.mutate(&[], "touch \"$SANDBOX/ran\"");
        command.current_dir(sandbox.outside(place));
        sandbox.assert_refused(command, 125);
    }
    assert_eq!(fs::read_dir(sandbox.outside("nowhere")).unwrap().count(), 0, "nothing is left where no repository is");
    let mut inside = sandbox.mutate(&[], "touch \"$SANDBOX/ran\"");
    inside.current_dir(sandbox.path(".git"));
    sandbox.assert_refused(inside, 125);
}

#[test]
fn repository_named_by_the_environment_is_the_one() {
    let sandbox = furnished();
    let elsewhere = sandbox.outside("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let mut command = sandbox.mutate(&[], "echo x >>\"$GIT_WORK_TREE/file\"");
    command.current_dir(&elsewhere).env("GIT_DIR", sandbox.path(".git")).env("GIT_WORK_TREE", sandbox.here());
    sandbox.commits_with(command);
    assert_eq!(sandbox.landed(), ["M file"]);
    let mut command = sandbox.mutate(&[], "rm \"$GIT_WORK_TREE/file\"; exit 3");
    command.current_dir(&elsewhere).env("GIT_DIR", sandbox.path(".git")).env("GIT_WORK_TREE", sandbox.here());
    sandbox.undone_with(command, 3);
}

#[test]
fn linked_worktree_is_mutated_for_itself() {
    let sandbox = furnished();
    let linked = sandbox.worktree("linked");
    let main = sandbox.head();
    let _holder = sandbox.hold(&[]);
    let mut command = sandbox.mutate(&["-n"], "echo x >>file; echo x >new");
    command.current_dir(&linked).assert().success();
    assert_eq!(sandbox.git(["log", "--format=%s", "-2", "linked"]), "change\nfurnished\n");
    assert_eq!((sandbox.head(), sandbox.short_status()), (main, vec![]));

    let before = (sandbox.state(), sandbox.state_of(&linked));
    for (script, status) in [
        ("rm -r file d; exit 3", 3),
        ("git commit -q --allow-empty -m x", 65),
        ("git checkout -q -b x; git stash -q", 65),
    ] {
        let mut command = sandbox.mutate(&["-n"], &format!("echo y >>file; git add file; {script}"));
        let output = command.current_dir(&linked).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(status), "{told}");
        before.0.assert_same(&sandbox.state(), &told);
        before.1.assert_same(&sandbox.state_of(&linked), &told);
        assert_eq!(crate::support::traces(&sandbox.path(".git")), [""; 0], "{script}");
    }
}

#[test]
fn wider_scopes_are_held_beside_the_worktree() {
    let sandbox = furnished();
    let linked = sandbox.worktree("linked");
    let held = |options: &[&str]| {
        let gate = sandbox.gate("wide");
        let mut running = sandbox.start(sandbox.mutate_command(options, &format!("{}; echo x >>file", gate.script())));
        gate.reached_by(&mut running);
        let tries = [sandbox.try_once(&[]), sandbox.try_once_in(&linked, &[]), sandbox.try_once(&["--name", "deploy"])];
        gate.open();
        assert!(running.ended().success(), "{}", running.stderr());
        fs::remove_file(sandbox.outside("wide.here")).unwrap();
        tries
    };
    assert_eq!(held(&[]), [75, 0, 0]);
    assert_eq!(held(&["--scope", "worktree"]), [75, 0, 0]);
    assert_eq!(held(&["--name", "deploy"]), [75, 0, 75]);
    assert_eq!(held(&["--scope", "repo"]), [75, 75, 75]);
}

#[test]
fn sparse_checkout_stays_sparse() {
    let sandbox = furnished();
    sandbox.git(["sparse-checkout", "set", "d"]);
    assert!(!sandbox.path("other").exists());
    sandbox.commits(&[], "echo x >>d/a; echo x >d/new");
    assert_eq!(sandbox.landed(), ["M d/a", "A d/new"]);
    assert!(!sandbox.path("other").exists());
    sandbox.undone(&[], "rm -r d; git sparse-checkout disable >/dev/null 2>&1; exit 3", 3);
}

#[test]
fn head_on_a_reference_of_one_worktree_is_committed_to() {
    for name in ["refs/worktree/mine", "refs/bisect/try", "refs/rewritten/onto"] {
        for is_linked in [false, true] {
            let sandbox = furnished();
            let place = if is_linked { sandbox.worktree("linked") } else { sandbox.here().to_owned() };
            let run = |script: &str| {
                to_the_end({
                    let mut shell = sandbox.sh_command(script);
                    shell.current_dir(&place);
                    shell
                })
            };
            run(&format!("git update-ref {name} HEAD && git symbolic-ref HEAD {name}")).assert().success();
            run("repoguard mutate -m m -- sh -c 'echo x >new'").assert().success();
            run(&format!(
                "test $(git symbolic-ref HEAD) = {name}; git show --format= --name-only {name} | grep -qx new"
            ))
            .assert()
            .success();
            run("repoguard mutate -m m -- sh -c 'echo y >new; false'").assert().code(1);
            run("grep -qx x new && test -z \"$(git status --porcelain)\"").assert().success();
        }
    }
}

#[test]
fn head_that_the_command_deletes_comes_back() {
    for moves in [
        "git update-ref --no-deref -d HEAD",
        "git checkout -q --detach; git update-ref -d HEAD",
        "rm .git/HEAD; echo x >x",
    ] {
        let sandbox = forked();
        let was = (sandbox.git(["for-each-ref"]), sandbox.git(["symbolic-ref", "HEAD"]));
        fs::write(sandbox.outside("command"), format!("{moves}; exit 7")).unwrap();
        let output =
            sandbox.repoguard(["mutate", "-m", "m", "--", "sh", "../command"]).assert().code(7).get_output().clone();
        assert!(String::from_utf8_lossy(&output.stderr).contains("everything was put back as it was"), "{output:?}");
        assert_eq!((sandbox.git(["for-each-ref"]), sandbox.git(["symbolic-ref", "HEAD"])), was, "{moves}");
        assert_eq!(sandbox.git(["status", "--porcelain"]), "", "{moves}");
        assert_eq!(sandbox.try_once(&[]), 0, "{moves}");
    }
}
