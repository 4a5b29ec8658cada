//! Places at the edge of git: directories that are in no repository (yet), and HEAD as a symbolic link.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::support::{Sandbox, eventually, kill};
use rustix::process::Signal;

const LOCK: &str = ".repoguard.lock";

/// Runs `repoguard ARGS` in a place with these variables; it must end with this status. Returns what it wrote to standard error.
#[track_caller]
fn run_in(sandbox: &Sandbox, place: &Path, variables: &[(&str, &str)], args: &[&str], status: i32) -> String {
    let mut command = sandbox.repoguard(args);
    command.current_dir(place).envs(variables.iter().copied());
    let output = command.assert().code(status).get_output().clone();
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What `git status` shows in a place.
fn dirt(sandbox: &Sandbox, place: &Path, variables: &[(&str, &str)]) -> String {
    let mut git = sandbox.command("git");
    git.args(["status", "--porcelain", "-uall"]).current_dir(place).envs(variables.iter().copied());
    let output = git.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn exec_outside_of_a_repository_names_its_lock_once() {
    let sandbox = Sandbox::empty();
    let told = run_in(&sandbox, sandbox.here(), &[], &["exec", "--", "true"], 0);
    let lock = sandbox.path(LOCK);
    assert_eq!(told, format!("repoguard: not inside a Git repository: locking `{}`\n", lock.display()));
    assert_eq!(run_in(&sandbox, sandbox.here(), &[], &["-q", "exec", "--", "true"], 0), "");
    let output = sandbox.repoguard(["status"]).output().unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.contains("not inside a Git repository") && shown.contains(LOCK), "{shown}");
    assert!(sandbox.status()["git_dir"].is_null());
    let output = sandbox.repoguard(["doctor"]).output().unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.contains("not inside a Git repository") && shown.contains(LOCK), "{shown}");
    // And nothing of it in a repository.
    let inside = Sandbox::new();
    assert_eq!(run_in(&inside, inside.here(), &[], &["exec", "--", "true"], 0), "");
    assert!(inside.status()["git_dir"].is_string());
}

#[test]
fn init_under_exec_leaves_a_clean_repository() {
    for init in [
        "git init -q",
        "git init -q --template=",
        "git init -q --separate-git-dir ../apart.git",
        "mkdir ../template ../template/info; printf '*.o' >../template/info/exclude; git init -q --template ../template",
        "git init -q; git commit -q --allow-empty -m first; git init -q",
        "git init -q ..",
    ] {
        let sandbox = Sandbox::empty();
        run_in(&sandbox, sandbox.here(), &[], &["exec", "--", "sh", "-c", init], 0);
        let shown = dirt(&sandbox, sandbox.here(), &[]);
        assert!(!shown.contains(LOCK), "{init}: {shown}");
        assert!(sandbox.path(LOCK).is_file(), "somebody may wait for it");
        let exclude = sandbox.git(["rev-parse", "--git-path", "info/exclude"]);
        let exclude = fs::read_to_string(sandbox.path(exclude.trim())).unwrap();
        assert_eq!(exclude.lines().filter(|line| *line == LOCK).count(), 1, "{init}: {exclude}");
        assert!(!init.contains("*.o") || exclude.starts_with("*.o\n"), "{exclude}");
    }
}

#[test]
fn repository_made_under_a_holder_by_somebody_else_is_held() {
    let sandbox = Sandbox::empty();
    let mut holder = sandbox.hold(&[]);
    sandbox.sh("git init -q && git commit -q --allow-empty -m first").assert().success();
    for options in [&[][..], &["-s"], &["--scope", "repo"]] {
        assert_eq!(sandbox.try_once(options), 75, "{options:?}");
    }
    assert_eq!(sandbox.try_once(&["--name", "deploy"]), 0, "there were no names");
    assert_eq!(sandbox.status()["state"], "held");
    assert!(holder.finish().success(), "{}", holder.stderr());
    assert_eq!(sandbox.try_once(&[]), 0);
    // It is litter now, and may go at any time.
    sandbox.repoguard(["exec", "--", "git", "clean", "-fdxq"]).assert().success().stderr("");
    assert!(!sandbox.path(LOCK).exists());
    assert_eq!(sandbox.try_once(&[]), 0);
    assert!(!sandbox.path(LOCK).exists());
}

#[test]
fn what_runs_inside_a_hold_from_before_the_repository_is_inside() {
    let sandbox = Sandbox::empty();
    let script = "git init -q && repoguard exec -n -- git commit -q --allow-empty -m x && \
                  env -u REPOGUARD_TOKEN repoguard exec -n --scope repo -- true && \
                  repoguard mutate -q -m m -- sh -c 'echo a >a'";
    let mut command = sandbox.repoguard(["exec", "--", "sh", "-c", script]);
    command.timeout(std::time::Duration::from_secs(20)).assert().success();
}

#[test]
fn init_under_exec_leaves_a_clean_repository_if_the_wrapper_is_killed() {
    let sandbox = Sandbox::empty();
    let script = "git init -q; echo $$; read _ || :";
    let mut running = sandbox.hold_with(&[], script);
    running.keeper();
    kill(running.pid(), Signal::KILL);
    running.release();
    eventually("the keeper has hidden the lock", || !dirt(&sandbox, sandbox.here(), &[]).contains(LOCK));
}

#[test]
fn init_of_a_bare_repository_needs_nothing_hidden() {
    let sandbox = Sandbox::empty();
    run_in(&sandbox, sandbox.here(), &[], &["exec", "--", "git", "init", "-q", "--bare"], 0);
    let exclude = fs::read_to_string(sandbox.path("info/exclude")).unwrap();
    assert!(!exclude.contains(LOCK), "{exclude}");
}

#[test]
fn git_dir_that_is_still_to_be_made_is_no_error() {
    for (made, in_checkout) in [(false, false), (true, false), (false, true)] {
        let sandbox = if in_checkout { Sandbox::new() } else { Sandbox::empty() };
        let new = sandbox.outside("new.git");
        if made {
            fs::create_dir(&new).unwrap();
        }
        let variables = [("GIT_DIR", new.to_str().unwrap()), ("GIT_WORK_TREE", sandbox.here().to_str().unwrap())];
        let told = run_in(&sandbox, sandbox.here(), &variables, &["exec", "--", "git", "init", "-q"], 0);
        assert!(told.contains("not inside a Git repository") && told.contains(LOCK), "{told}");
        assert!(new.join("HEAD").is_file());
        assert!(!dirt(&sandbox, sandbox.here(), &variables).contains(LOCK));
        assert!(!in_checkout || !dirt(&sandbox, sandbox.here(), &[]).contains(LOCK));
        // Now it is there, and its own lock counts.
        assert_eq!(run_in(&sandbox, sandbox.here(), &variables, &["exec", "--", "true"], 0), "");
        assert!(new.join("repoguard.lock").is_file());
    }
}

#[test]
fn git_dir_that_is_something_else_is_broken() {
    let sandbox = Sandbox::empty();
    fs::create_dir(sandbox.outside("full")).unwrap();
    fs::write(sandbox.outside("full/file"), "").unwrap();
    fs::write(sandbox.outside("file"), "").unwrap();
    symlink("nowhere", sandbox.outside("dangling")).unwrap();
    for name in ["full", "file", "dangling"] {
        let git_dir = sandbox.outside(name);
        let told =
            run_in(&sandbox, sandbox.here(), &[("GIT_DIR", git_dir.to_str().unwrap())], &["exec", "--", "true"], 125);
        assert!(told.contains("broken repository"), "{name}: {told}");
    }
    assert!(!sandbox.path(LOCK).exists());
}

/// Makes HEAD of a git directory a symbolic link.
fn link_head(git_dir: &Path, target: &str) {
    fs::remove_file(git_dir.join("HEAD")).unwrap();
    symlink(target, git_dir.join("HEAD")).unwrap();
}

#[test]
fn linked_head_without_commits_is_an_unborn_branch() {
    let sandbox = Sandbox::empty();
    sandbox.git(["init", "-q"]);
    link_head(&sandbox.path(".git"), "refs/heads/deep/new");
    fs::create_dir_all(sandbox.path("a/b")).unwrap();
    for place in ["", "a/b", ".git"] {
        assert_eq!(run_in(&sandbox, &sandbox.path(place), &[], &["status"], 0), "", "{place}");
    }
    let git_dir = sandbox.path(".git");
    run_in(&sandbox, Path::new("/"), &[("GIT_DIR", git_dir.to_str().unwrap())], &["status"], 0);
    sandbox.repoguard(["exec", "--", "git", "commit", "-q", "--allow-empty", "-m", "one"]).assert().success();
    let hold = sandbox.log().pop().unwrap();
    assert_eq!(hold["head_before"]["branch"], "refs/heads/deep/new", "{hold}");
    assert!(hold["head_before"]["commit"].is_null() && hold["head_after"]["commit"].is_string(), "{hold}");
    // A branch that is there now: still no detached HEAD.
    assert_eq!(hold["head_after"]["branch"], "refs/heads/deep/new", "{hold}");
    sandbox.assert_nothing_to_tell();
    link_head(&sandbox.path(".git"), "refs/heads/other");
    sandbox.repoguard(["mutate", "-m", "two", "--", "touch", "made"]).assert().success();
    assert_eq!(sandbox.git(["log", "--format=%s", "refs/heads/other"]), "two\n");
    sandbox.assert_nothing_to_tell();
}

#[test]
fn linked_head_of_a_linked_worktree_is_read_in_the_common_directory() {
    let sandbox = Sandbox::new();
    let tree = sandbox.worktree("tree");
    let git_dir = sandbox.path(".git/worktrees/tree");
    for (target, commits) in [("refs/heads/unborn", false), ("refs/heads/main", true)] {
        link_head(&git_dir, target);
        run_in(&sandbox, &tree, &[], &["exec", "--", "true"], 0);
        let hold = sandbox.log().pop().unwrap();
        assert_eq!(
            (&hold["head_after"]["branch"], hold["head_after"]["commit"].is_string()),
            (&target.into(), commits)
        );
    }
    assert!(!tree.join(LOCK).exists());
}

#[test]
fn head_that_links_to_no_reference_is_broken() {
    for target in ["nowhere", "../refs/heads/main", "/refs/heads/main", "refsx/heads/main"] {
        let sandbox = Sandbox::empty();
        sandbox.git(["init", "-q"]);
        link_head(&sandbox.path(".git"), target);
        let told = sandbox.refused(&[], 125);
        assert!(told.contains("broken repository"), "{target}: {told}");
        assert!(!sandbox.path(LOCK).exists());
    }
}
