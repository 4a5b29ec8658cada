//! A worktree that repoguard made is kept if anything would be lost with it, and in doubt always.

use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt as _;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::{Sandbox, eventually, has_program, is_root, kill, lines, own, shell_status, skip, to_the_end};

/// Runs each script in a worktree of its own, which must be kept for this reason: a field of what it holds, or a word of
/// `also`. Nobody else removes it afterwards, either.
#[track_caller]
fn keeps(cases: &[(&str, &str)]) {
    let sandbox = Sandbox::new();
    sandbox
        .sh("echo ignored >.gitignore && git add . && git commit -q -m ignore && git branch other")
        .assert()
        .success();
    let _holder = sandbox.hold(&[]);
    let mut kept = Vec::new();
    for (script, holds) in cases {
        let went = sandbox.isolated(&[], script);
        assert_eq!(went.status, Some(0), "{script}: {went:?}");
        let found = went.was_kept();
        let is_told = found[holds].as_u64().is_some_and(|count| count > 0) || found["also"].to_string().contains(holds);
        assert!(is_told, "{script}: {found}");
        kept.push((went.path(), went.branch().to_owned()));
    }
    sandbox.prune();
    sandbox.isolated(&[], "true").was_removed();
    for ((path, branch), (script, _)) in kept.iter().zip(cases) {
        assert!(path.join(".git").is_file() && sandbox.branches().contains(branch), "{script}");
    }
    assert_eq!(sandbox.listed().len(), cases.len(), "{cases:?}");
}

/// Leaves the branch for a commit, and comes back without it.
const DETACHED: &str =
    "b=$(git symbolic-ref --short HEAD); git switch -q --detach; git commit -q --allow-empty -m left; git switch -q $b";
/// The same with a stash.
const STASHED: &str =
    "b=$(git symbolic-ref --short HEAD); git switch -q --detach; echo 2 >file; git stash -q; git switch -q $b";

#[test]
fn commits_keep_it_wherever_they_are() {
    keeps(&[
        ("git commit -q --allow-empty -m x", "commits"),
        ("echo 2 >file; git commit -q -a -m x; echo 3 >file", "commits"),
        ("echo 2 >file; git commit -q -a -m reset; git reset -q --hard HEAD~1", "on no branch"),
        (DETACHED, "on no branch"),
        ("git switch -q --detach; git commit -q --allow-empty -m detached", "HEAD is on no branch"),
        ("git switch -q --detach", "HEAD is on no branch"),
        ("git switch -q other", "HEAD is on other"),
    ]);
}

#[test]
fn changes_keep_it() {
    keeps(&[
        ("echo 2 >file", "changed"),
        ("echo 2 >file; git add file", "changed"),
        ("rm file", "changed"),
        ("chmod +x file", "changed"),
        ("echo 1 >new", "untracked"),
        ("mkdir d; git init -q d/nested", "untracked"),
        ("git config status.showUntrackedFiles no; echo 1 >new", "untracked"),
        ("git update-index --assume-unchanged file; echo 2 >file", "not to look at"),
        ("git update-index --skip-worktree file; echo 2 >file", "not to look at"),
    ]);
}

#[test]
fn repositories_anywhere_in_it_keep_it() {
    keeps(&[
        ("mkdir -p ignored/deep; git init -q ignored/deep/nested", "a repository of its own"),
        ("mkdir ignored; git worktree add -q --detach ignored/inner HEAD", "a repository of its own"),
        ("mkdir -p ignored/half/.git", "a repository of its own"),
    ]);
}

#[test]
fn directory_that_cannot_be_read_keeps_it() {
    let hidden = [
        "mkdir secret; echo precious >secret/file; chmod 300 secret",
        "mkdir ignored; echo x >ignored/f; chmod 0 ignored",
    ];
    if !is_root() {
        return keeps(&hidden.map(|script| (script, "cannot be read")));
    }
    // Root reads everything: as another user.
    let sandbox = Sandbox::new();
    sandbox.sh("echo ignored >.gitignore && git add . && git commit -q -m ignore").assert().success();
    let _holder = sandbox.hold(&[]);
    sandbox.open_to_all();
    own(sandbox.here(), 1, 1);
    for script in hidden {
        let mut command = sandbox.repoguard_command(["exec", "--on-busy", "worktree", "--worktree-dir"]);
        let (place, made) = (sandbox.outside("place"), sandbox.outside("made"));
        fs::create_dir_all(&made).unwrap();
        std::os::unix::fs::chown(&made, Some(1), Some(1)).unwrap();
        command.arg(&made).args(["--", "sh", "-c", &format!("{script}; pwd >'{}'", place.display())]).uid(1).gid(1);
        let output = to_the_end(command).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && told.contains("cannot be read"), "{told}");
        let place = fs::read_to_string(&place).unwrap();
        assert!(fs::metadata(place.trim()).unwrap().is_dir(), "{script}: {told}");
    }
}

#[test]
fn what_only_git_knows_of_keeps_it() {
    keeps(&[
        ("echo 2 >file; git stash -q", "stash"),
        (STASHED, "stash"),
        ("git bisect start", "bisect in progress"),
        ("git update-ref refs/worktree/mine HEAD", "references of its own"),
        ("git worktree unlock .; git worktree lock .", "git worktree lock"),
        ("git worktree add -q --force \"$SANDBOX/second\" $(git symbolic-ref --short HEAD)", "checked out elsewhere"),
        (
            "b=$(git symbolic-ref --short HEAD); git switch -q -c one; echo 1 >file; git commit -q -a -m 1; \
             git switch -q $b; git merge -q --no-ff --no-commit one",
            "merge in progress",
        ),
    ]);
}

#[test]
fn lock_of_its_branch_keeps_it_and_what_is_noted_does_not_grow() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold(&[]);
    sandbox.isolated(&[], "touch \"$(git rev-parse --git-common-dir)/$(git symbolic-ref HEAD).lock\"");
    let branch = sandbox.branches().remove(0);
    let name = branch.rsplit('/').next().unwrap();
    let noted =
        || fs::metadata(sandbox.path(format!(".git/repoguard/worktrees/{name}.trace"))).map_or(0, |file| file.len());
    assert!(sandbox.prune().contains("cannot lock ref"));
    let once = noted();
    for _ in 0..3 {
        assert!(sandbox.prune().contains("cannot lock ref"));
    }
    assert!(noted() <= once, "{} bytes, then {}", once, noted());
    fs::remove_file(sandbox.path(format!(".git/refs/heads/{branch}.lock"))).unwrap();
    assert!(sandbox.prune().starts_with("removed"));
    sandbox.assert_no_worktree_left();
}

#[test]
fn what_is_of_no_worth_does_not_keep_it() {
    let sandbox = Sandbox::new();
    sandbox.sh("printf 'ignored\\nbuild\\n' >.gitignore && git add . && git commit -q -m ignore").assert().success();
    let _holder = sandbox.hold(&[]);
    for script in [
        "echo 1 >ignored; mkdir -p build/d; echo 1 >build/d/f; chmod 0 build/d",
        "ln -s \"$SANDBOX/repo\" build",
        "touch file; git status",
        "echo 2 >file; git checkout -q file",
        "b=$(git symbolic-ref --short HEAD); git switch -q -c other; git commit -q --allow-empty -m x; git switch -q $b; git branch -q -f main-copy other",
        "cd \"$SANDBOX/repo\"; echo 2 >file; git stash -q",
        "echo 2 >file; git commit -q -a -m x; git push -q . HEAD:refs/remotes/o/x; git reset -q --hard HEAD~1",
        "git tag t; git gc -q",
    ] {
        let went = sandbox.isolated(&[], script);
        assert_eq!(went.status, Some(0), "{script}: {went:?}");
        went.was_removed();
        assert!(sandbox.path("file").exists(), "no link is followed");
    }
    let branches = sandbox.branches();
    assert_eq!(branches, ["main-copy", "other"], "what the command made stays, its own branch does not");
}

#[test]
fn process_that_the_command_left_behind_keeps_it() {
    if !has_program("bash") {
        return skip("a process that has nothing open", "no bash");
    }
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold(&[]);
    for daemon in [
        // It has the lock still open.
        "cd /; exec sleep 60",
        // It has no lock open, and writes to a file in the worktree.
        "cd /; for n in $(ls /proc/$$/fd); do eval \"exec $n>&-\"; done; exec sleep 60 3>>$REPOGUARD_WORKTREE/file",
        // It has nothing open, and stands in the worktree.
        "for n in $(ls /proc/$$/fd); do eval \"exec $n>&-\"; done; exec sleep 60",
    ] {
        let script =
            format!("setsid bash -c '{daemon}' >/dev/null 2>&1 </dev/null & echo $! >\"$SANDBOX/daemon\"; sleep 0.1");
        let went = sandbox.isolated(&[], &script);
        let holds = went.was_kept().clone();
        assert!(holds["also"].to_string().contains("still in it"), "{daemon}: {holds}");
        let pid: u32 = lines(&sandbox.outside("daemon"))[0].parse().unwrap();
        assert_eq!(sandbox.try_once_in(&went.path(), &[]), 0, "it does not keep the lock");
        kill(pid, Signal::KILL);
        eventually("it is gone", || sandbox.prune().starts_with("removed"));
        sandbox.assert_no_worktree_left();
    }
}

#[test]
fn what_is_mounted_in_it_keeps_it() {
    let sandbox = Sandbox::new();
    sandbox.sh("echo ignored >.gitignore && git add . && git commit -q -m ignore").assert().success();
    fs::create_dir(sandbox.outside("a b")).unwrap();
    fs::write(sandbox.outside("a b/precious"), "1\n").unwrap();
    let _holder = sandbox.hold(&[]);
    let mount = "mkdir -p 'ignored/a b' && mount --bind \"$SANDBOX/a b\" 'ignored/a b'";
    let went = sandbox.isolated(&[], mount);
    if went.status != Some(0) {
        return skip("what is mounted in a worktree", "nothing can be mounted here");
    }
    let point = went.path().join("ignored/a b");
    let listed = sandbox.prune();
    let unmounted = sandbox.command("umount").arg(&point).status().unwrap();
    assert!(unmounted.success());
    assert!(went.was_kept()["also"].to_string().contains("mounted"), "{went:?}");
    assert!(listed.contains("mounted"), "{listed}");
    assert!(sandbox.outside("a b/precious").exists());
    assert!(sandbox.prune().starts_with("removed"));
}

#[test]
fn who_waits_for_its_lock_keeps_it() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold(&[]);
    let mut inside = sandbox.start_up(sandbox.isolated_command(&[], "echo up; read -r _ || :"));
    let place = sandbox.listed()[0]["path"].as_str().unwrap().to_owned();
    let mut wait = sandbox.repoguard_command(["exec", "--", "sh", "-c", "echo 1 >new"]);
    wait.current_dir(&place);
    let mut waiter = sandbox.start(wait);
    eventually("it waits", || sandbox.waiters() == 1);
    assert_eq!(shell_status(inside.finish()), 0);
    assert!(inside.stderr().contains("waits for it"), "{}", inside.stderr());
    assert_eq!(shell_status(waiter.ended()), 0, "{}", waiter.stderr());
    assert_eq!(fs::read_to_string(std::path::Path::new(&place).join("new")).unwrap(), "1\n");
    assert_eq!(sandbox.listed()[0]["holds"]["untracked"], 1);
}

/// When, as seen from the two looks before a removal, something is done.
#[derive(Debug, Clone, Copy)]
enum When {
    /// The files are in their place, and git is about to look, for the first time.
    BeforeFirst,
    /// They are there still, and git has looked.
    AfterFirst,
    /// They stand aside, and git is about to look again.
    BeforeSecond,
    /// They stand aside, git has looked again, and they are about to be removed.
    AfterSecond,
}

/// A git that does something then.
fn git_that_does(sandbox: &Sandbox, when: When, action: &str) -> OsString {
    let count = sandbox.outside("count");
    fs::remove_file(&count).ok();
    let count = count.display();
    let (number, act) = match when {
        When::BeforeFirst => (1, action.to_owned()),
        When::AfterFirst => (1, format!("real \"$@\"; s=$?; {action}; exit $s")),
        When::BeforeSecond => (2, action.to_owned()),
        When::AfterSecond => (2, format!("real \"$@\"; s=$?; {action}; exit $s")),
    };
    sandbox.git_that(&format!(
        "case \"$*\" in *' status --porcelain=v1 '*) echo x >>'{count}'; [ $(wc -l <'{count}') != {number} ] || {{ {act}; }};; esac"
    ))
}

#[test]
fn what_is_written_between_looking_and_removing_is_not_lost() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold(&[]);
    let cases = [
        (When::BeforeFirst, "b", "late"),
        (When::AfterFirst, "b", "late"),
        (When::AfterFirst, "b", "file"),
        (When::BeforeSecond, ".repoguard-removing-b", "late"),
        (When::BeforeSecond, ".repoguard-removing-b", "file"),
    ];
    for (when, place, file) in cases {
        let action = format!("echo late >>'{}'", sandbox.worktrees_dir().join(place).join(file).display());
        let mut command = sandbox.isolated_command(&["--branch", "b"], "true");
        command.env("PATH", git_that_does(&sandbox, when, &action));
        let went = sandbox.went(&command);
        went.was_kept();
        let text = fs::read_to_string(went.path().join(file)).unwrap();
        assert!(text.ends_with("late\n"), "{when:?}: {text}");
        sandbox.git(["worktree", "remove", "--force", went.path().to_str().unwrap()]);
        sandbox.git(["branch", "-q", "-D", "b"]);
        sandbox.prune();
        sandbox.assert_no_worktree_left();
    }
}

#[test]
fn who_writes_by_name_after_the_files_stand_aside_finds_nothing_there() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold(&[]);
    let action =
        format!("echo late >>'{}' || touch \"$SANDBOX/refused\"", sandbox.worktrees_dir().join("b/late").display());
    let mut command = sandbox.isolated_command(&["--branch", "b"], "true");
    command.env("PATH", git_that_does(&sandbox, When::AfterSecond, &action));
    sandbox.went(&command).was_removed();
    assert!(sandbox.outside("refused").exists(), "its writer was told");
    sandbox.assert_no_worktree_left();
}

#[test]
fn directory_that_somebody_makes_in_its_place_stays() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold(&[]);
    let place = sandbox.worktrees_dir().join("b");
    let action = format!("mkdir '{0}'; echo mine >'{0}/mine'", place.display());
    // When the files stand aside, and nothing was found in them.
    let path = git_that_does(&sandbox, When::AfterSecond, &action);
    let mut command = sandbox.isolated_command(&["--branch", "b"], "true");
    command.env("PATH", path);
    let went = sandbox.went(&command);
    assert_eq!(went.status, Some(0), "{went:?}");
    assert_eq!(fs::read_to_string(place.join("mine")).unwrap(), "mine\n");
}

#[test]
fn branch_that_moves_meanwhile_stays() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold(&[]);
    let commit = "c=$(real commit-tree -p main -m late main^{tree} </dev/null); real -C \"$SANDBOX/repo\" update-ref refs/heads/b $c";
    let path = sandbox.git_that(&format!("case \"$*\" in *' update-ref --stdin'*) {commit};; esac"));
    let mut command = sandbox.isolated_command(&["--branch", "b"], "true");
    command.env("PATH", path).env("GIT_DIR_UNUSED", "");
    let went = sandbox.went(&command);
    assert_eq!(went.status, Some(0), "{went:?}");
    assert_eq!(sandbox.git(["log", "-1", "--format=%s", "b"]), "late\n", "{went:?}");
    let listed = sandbox.listed();
    assert_eq!(
        (&listed[0]["stands"], &listed[0]["holds"]["commits"]),
        (&Value::from("gone"), &Value::from(1)),
        "{listed:?}"
    );
}
