//! Gits that repoguard starts itself, killed together with it while they hold git's locks.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::Duration;

use crate::support::{Sandbox, acquire, can_trace, walk};

/// A `git` that is killed at a system call (`fsync:1`) when it is first called with this word, and all of repoguard with it.
fn deadly(sandbox: &Sandbox, command: Command, word: &str, call: &str) -> Command {
    with_deadly_git(sandbox, command, word, call, "kill -9 -$(cut -d' ' -f5 /proc/$PPID/stat)")
}

/// The same, with what is killed besides that git.
fn with_deadly_git(sandbox: &Sandbox, mut command: Command, word: &str, call: &str, more: &str) -> Command {
    let (calls, when) = call.split_once(':').unwrap();
    let bin = sandbox.outside("bin");
    fs::create_dir_all(&bin).unwrap();
    let real = std::env::split_paths(&std::env::var_os("PATH").unwrap())
        .map(|place| place.join("git"))
        .find(|git| git.is_file());
    let (real, died) = (real.expect("a git"), sandbox.outside("died"));
    let (real, died) = (real.display(), died.display());
    let script = format!(
        "#!/bin/sh\ncase \" $* \" in *' {word} '*) if [ ! -e '{died}' ]; then : >'{died}'\n\
         strace -f -o /dev/null -e trace={calls} -e inject={calls}:signal=KILL:when={when} '{real}' \"$@\"\n\
         {more}; exit 1; fi;; esac\nexec '{real}' \"$@\"\n"
    );
    fs::write(bin.join("git"), script).unwrap();
    fs::set_permissions(bin.join("git"), fs::Permissions::from_mode(0o755)).unwrap();
    let path = sandbox.command("true").get_envs().find(|(name, _)| *name == "PATH").unwrap().1.unwrap().to_owned();
    let path = std::env::join_paths(std::iter::once(bin).chain(std::env::split_paths(&path))).unwrap();
    command.env("PATH", path);
    command
}

/// Git's lock files.
fn locks(sandbox: &Sandbox) -> Vec<String> {
    let ours = sandbox.data();
    let is_lock =
        |path: &std::path::PathBuf| path.extension().is_some_and(|end| end == "lock") && !path.starts_with(&ours);
    let names = walk(&sandbox.path(".git")).into_iter().filter(is_lock);
    names
        .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
        .filter(|name| name != "repoguard.lock")
        .collect()
}

/// Runs the command until it is killed in its git.
fn run_to_its_death(sandbox: &Sandbox, command: Command) {
    let mut running = sandbox.start(command);
    let status = running.ended();
    assert!(status.code().is_none(), "killed: {status}: {}", running.stderr());
    assert!(sandbox.outside("died").exists());
}

#[test]
fn locks_of_a_git_killed_in_a_rollback_are_removed_by_the_next_command() {
    if !can_trace("a git of our own killed in a rollback") {
        return;
    }
    for (call, left) in
        [("unlink,unlinkat:1", true), ("fsync,fdatasync:1", false), ("rename:1", false), ("openat:30", false)]
    {
        let sandbox = Sandbox::new();
        sandbox.git(["pack-refs", "--all"]);
        let before = sandbox.git(["for-each-ref"]);
        let script = "git commit -q --allow-empty -m theirs; git branch side; exit 3";
        let command = sandbox.repoguard_command(["mutate", "-m", "x", "--", "sh", "-c", script]);
        run_to_its_death(&sandbox, deadly(&sandbox, command, "--stdin", call));
        assert!(!left || !locks(&sandbox).is_empty(), "{call}: this is what is tested");
        sandbox.repoguard(["exec", "--", "true"]).assert().success();
        assert_eq!(locks(&sandbox), [""; 0], "{call}");
        assert_eq!(sandbox.git(["for-each-ref"]), before, "{call}");
        sandbox.git(["gc", "-q"]);
    }
}

#[test]
fn locks_of_a_git_killed_while_a_worktree_was_made_or_removed_are_removed_with_it() {
    if !can_trace("a git of our own killed while a worktree is made") {
        return;
    }
    for (word, call) in [
        ("update-ref", "fsync,fdatasync:1"),
        ("update-ref --stdin", "unlink,unlinkat:1"),
        ("update-ref --stdin", "openat:30"),
        ("worktree", "rename:1"),
    ] {
        let sandbox = Sandbox::new();
        sandbox.git(["pack-refs", "--all"]);
        let before = sandbox.git(["for-each-ref"]);
        // Somebody else's, from before: nothing proves that nobody needs it.
        fs::create_dir_all(sandbox.path(".git/refs/tags")).unwrap();
        fs::write(sandbox.path(".git/refs/tags/theirs.lock"), "").unwrap();
        std::thread::sleep(Duration::from_millis(1100));
        let token = acquire(&sandbox, &["--ttl", "10m"]);
        let command = sandbox.repoguard_command(["exec", "--on-busy", "worktree", "--", "true"]);
        run_to_its_death(&sandbox, deadly(&sandbox, command, word, call));
        sandbox.repoguard(["worktrees", "prune"]).assert().success();
        assert_eq!(locks(&sandbox), ["theirs.lock"], "{word} {call}");
        assert_eq!(sandbox.git(["for-each-ref"]), before, "{word} {call}");
        let records = walk(&sandbox.data().join("worktrees"));
        assert!(records.iter().all(|path| path.ends_with("making") || path.is_dir()), "{records:?}");
        fs::remove_file(sandbox.path(".git/refs/tags/theirs.lock")).unwrap();
        sandbox.git(["gc", "-q"]);
        sandbox.repoguard(["release", &token]).assert().success();
    }
}

#[test]
fn git_that_was_killed_alone_leaves_no_lock() {
    if !can_trace("a git of our own killed alone") {
        return;
    }
    let sandbox = Sandbox::new();
    let token = acquire(&sandbox, &["--ttl", "10m"]);
    let command = sandbox.repoguard_command(["exec", "--on-busy", "worktree", "--", "true"]);
    let mut command = with_deadly_git(&sandbox, command, "update-ref", "fsync,fdatasync:1", ":");
    assert_eq!(command.output().unwrap().status.code(), Some(125));
    assert_eq!(locks(&sandbox), [""; 0]);
    sandbox.git(["gc", "-q"]);
    sandbox.repoguard(["release", &token]).assert().success();
}
