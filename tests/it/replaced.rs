//! A lock whose place is removed, replaced, copied, or reached in two ways: the holder learns it, and nobody is called killed.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::{HOLD, Mount, Running, Sandbox, has_program, skip, to_the_end};

/// A holder that works in a directory.
fn hold_in(sandbox: &Sandbox, place: &Path) -> Running {
    let mut command = sandbox.repoguard_command(["exec", "--", "sh", "-c", HOLD]);
    command.current_dir(place);
    sandbox.start_up(command)
}

/// What a try in a directory says; it must get the lock.
#[track_caller]
fn gets(sandbox: &Sandbox, place: &Path) -> String {
    let mut command = sandbox.repoguard(["exec", "-n", "--", "true"]);
    let output = command.current_dir(place).assert().success().get_output().clone();
    String::from_utf8(output.stderr).unwrap()
}

#[track_caller]
fn is_lost(sandbox: &Sandbox, holder: &mut Running, path: &Path) {
    assert_eq!(holder.finish().code(), Some(76), "{}", holder.stderr());
    assert!(holder.stderr().contains(&format!("`{}`", path.display())), "{}", holder.stderr());
    let lost = |record: &serde_json::Value| record["event"] == "lost";
    assert!(sandbox.log().iter().any(lost), "{:?}", sandbox.log());
    assert!(!sandbox.log().iter().any(|record| record["event"] == "died"), "{:?}", sandbox.log());
}

#[test]
fn worktree_made_again_under_its_holder_is_lost() {
    for remove in ["git worktree remove --force ../linked", "rm -rf ../linked; git worktree prune"] {
        let sandbox = Sandbox::new();
        let linked = sandbox.worktree("linked");
        let mut holder = hold_in(&sandbox, &linked);
        sandbox.sh(&format!("{remove}; git worktree add -q -f ../linked")).assert().success();
        let told = gets(&sandbox, &linked);
        assert!(told.contains("may still be at work") && !told.contains("killed"), "{told}");
        is_lost(&sandbox, &mut holder, &sandbox.path(".git/worktrees/linked"));
        assert_eq!(gets(&sandbox, &linked), "");
        assert_eq!(sandbox.try_once(&["--scope", "repo"]), 0);
    }
}

#[test]
fn worktree_removed_under_its_holder_is_lost() {
    let sandbox = Sandbox::new();
    let linked = sandbox.worktree("linked");
    let mut holder = hold_in(&sandbox, &linked);
    sandbox.repoguard(["exec", "--", "git", "worktree", "remove", "--force", "../linked"]).assert().success();
    is_lost(&sandbox, &mut holder, &sandbox.path(".git/worktrees/linked"));
}

#[test]
fn git_directory_replaced_by_a_copy_under_its_holder_is_lost() {
    let sandbox = Sandbox::new();
    let mut holder = sandbox.hold(&[]);
    sandbox.sh("cp -a .git ../copy; rm -rf .git; mv ../copy .git").assert().success();
    let shown = sandbox.repoguard(["status"]).assert().success().get_output().stdout.clone();
    let shown = String::from_utf8(shown).unwrap();
    assert!(shown.contains("may be at work") && !shown.contains("died"), "{shown}");
    sandbox.repoguard(["status", "--exit-code"]).assert().code(3);
    let told = gets(&sandbox, sandbox.here());
    assert!(told.contains("may still be at work") && !told.contains("killed"), "{told}");
    is_lost(&sandbox, &mut holder, &sandbox.path(".git"));
    assert_eq!(gets(&sandbox, sandbox.here()), "");
}

#[test]
fn clone_made_again_under_its_holder_is_lost() {
    let sandbox = Sandbox::new();
    let mut holder = sandbox.hold(&[]);
    sandbox.sh("git clone -q . ../again; rm -rf .git; mv ../again/.git .git").assert().success();
    assert_eq!(gets(&sandbox, sandbox.here()), "", "nothing survived that could tell");
    is_lost(&sandbox, &mut holder, &sandbox.path(".git"));
}

#[test]
fn holder_of_everything_may_remove_worktrees_and_waits_for_their_holders() {
    let sandbox = Sandbox::new();
    let linked = sandbox.worktree("linked");
    let mut holder = hold_in(&sandbox, &linked);
    let remove = ["exec", "-n", "--scope", "repo", "--", "git", "worktree", "remove", "../linked"];
    sandbox.repoguard(remove).assert().code(75);
    assert!(holder.finish().success(), "{}", holder.stderr());
    sandbox.repoguard(remove).assert().success().stderr("");
    sandbox.sh("git worktree add -q ../again").assert().success();
    let again = "git worktree remove ../again; git worktree add -q -f ../again";
    sandbox.repoguard(["exec", "--scope", "repo", "-c", again]).assert().success();
    assert!(!sandbox.log().iter().any(|record| record["event"] == "lost"));
}

#[test]
fn command_may_replace_what_git_keeps_its_references_in() {
    let sandbox = Sandbox::new();
    sandbox.git(["config", "core.logAllRefUpdates", "false"]);
    fs::remove_dir_all(sandbox.path(".git/logs")).unwrap();
    let migrate = "git refs migrate --ref-format=reftable || { cp -a .git/refs .git/new && rm -r .git/refs && mv .git/new .git/refs; }";
    sandbox.repoguard(["exec", "--scope", "repo", "-c", migrate]).assert().success();
}

#[test]
fn copy_of_a_held_repository_is_free() {
    let sandbox = Sandbox::new();
    let mut holder = sandbox.hold(&[]);
    let copy = sandbox.outside("copy");
    sandbox.sh(&format!("cp -a . '{}'", copy.display())).assert().success();
    sandbox.repoguard(["status", "--exit-code"]).current_dir(&copy).assert().success();
    assert_eq!(gets(&sandbox, &copy), "");
    assert_eq!(sandbox.try_once(&[]), 75);
    assert!(holder.finish().success(), "{}", holder.stderr());
}

/// The parent of the sandbox's repository, mounted a second time through FUSE.
fn bindfs(sandbox: &Sandbox) -> Option<Mount> {
    let place = sandbox.outside("fuse");
    fs::create_dir(&place).unwrap();
    let mut command = Command::new("bindfs");
    command.arg(sandbox.here()).arg(&place);
    let mounted = has_program("bindfs") && command.output().is_ok_and(|output| output.status.success());
    mounted.then(|| Mount::of(place))
}

#[test]
fn repository_reached_in_two_ways_is_refused() {
    let sandbox = Sandbox::new();
    let Some(mount) = bindfs(&sandbox) else {
        return skip("one repository through two mounts", "no bindfs");
    };
    // Alone, each of the two works.
    for place in [sandbox.here(), mount.path()] {
        assert_eq!(gets(&sandbox, place), "");
    }
    for [first, second] in [[sandbox.here(), mount.path()], [mount.path(), sandbox.here()]] {
        let mut holder = hold_in(&sandbox, first);
        let mut command = sandbox.repoguard_command(["exec", "--", "touch"]);
        command.arg(sandbox.outside("ran")).current_dir(second);
        let told = sandbox.assert_refused(to_the_end(command), 69);
        assert!(told.contains(&holder.pid().to_string()) && told.contains("two ways"), "{told}");
        sandbox.repoguard(["status", "--exit-code"]).current_dir(second).assert().code(3);
        assert!(holder.finish().success(), "{}", holder.stderr());
        assert_eq!(gets(&sandbox, second), "");
    }
}

#[test]
fn checkouts_and_worktrees_called_repoguard_are_not_made_again() {
    let sandbox = Sandbox::named("repoguard".as_ref());
    // Also if its git directory is reached through a link.
    sandbox
        .sh("git init -q && git commit -q --allow-empty -m first && mv .git ../git && ln -s ../git .git")
        .assert()
        .success();
    assert_eq!(gets(&sandbox, sandbox.here()), "");
    let linked = sandbox.worktree("repoguard.linked");
    let named = sandbox.outside("w/repoguard");
    sandbox.git(["worktree", "add", "-q", named.to_str().unwrap()]);
    for (place, own) in [(&linked, "repoguard.linked"), (&named, "repoguard")] {
        let script = format!("git worktree remove --force {}", place.display());
        let mut command = sandbox.repoguard(["exec", "--", "sh", "-c", &script]);
        command.current_dir(place).assert().code(76);
        assert!(!sandbox.outside("git/worktrees").join(own).exists() && !place.exists(), "{own}");
    }
    for script in ["rm -rf .git/HEAD .git/repoguard", "rm -rf ../git .git"] {
        sandbox.git(["init", "-q"]);
        sandbox.repoguard(["exec", "--", "sh", "-c", script]).assert().code(76);
        assert!(!sandbox.outside("git/repoguard").exists() && !sandbox.path("repoguard").exists(), "{script}");
    }
}
