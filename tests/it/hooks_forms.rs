//! Every form of git command that runs a hook: none hangs, none is refused by its own hold, each lets go at its end.

use std::path::Path;

use crate::support::{OBEDIENT, Sandbox, eventually};

/// Two branches, `side` and `conflict`, that left `main` one commit ago; the last one cannot be merged.
const BRANCHES: &str = "\
    git checkout -q -b side; echo side >side; git add side; git commit -q -m side; \
    git checkout -q -b conflict main; echo theirs >file; git commit -q -a -m conflict; \
    git checkout -q main; echo ours >file; git commit -q -a -m ours";

/// A guarded repository with these branches.
fn branched() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.sh(BRANCHES).assert().success();
    sandbox.install_hooks();
    sandbox
}

/// Runs a script with git commands to its end, which nothing of ours may hold up; `held` is the command line that the log
/// must then show as a holder.
#[track_caller]
fn runs_guarded(script: &str, held: &str) {
    let sandbox = branched();
    let output = sandbox.sh(&format!("set -e; {script}")).env("REPOGUARD_HOOK_TIMEOUT", "0").output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{script}: {:?}: {told}", output.status);
    assert!(!told.contains("repoguard"), "{script}: {told}");
    sandbox.assert_nothing_left();
    let log = sandbox.log();
    let holds = log.iter().filter(|record| record["event"] == "hold");
    let commands: Vec<_> = holds.map(|record| record["command"].as_str().unwrap_or_default().to_owned()).collect();
    if held.is_empty() {
        // The one is our own look at whether it is free.
        assert_eq!(commands, ["true"], "{script}");
    } else {
        assert!(commands.iter().any(|command| command.starts_with(held)), "{script}: {commands:?}");
    }
    assert_eq!(log.iter().filter(|record| record["event"] != "hold").count(), 0, "{script}: {log:?}");
}

macro_rules! forms {
    ($($name:ident: $script:expr => $held:expr;)*) => {
        $(#[test]
        fn $name() {
            runs_guarded($script, $held);
        })*
    };
}

forms! {
    commit_into_a_pipe: "echo x >x; git add x; git commit -m x | cat; git log -1 --format=%s | grep -qx x" => "git commit -m x";
    commit_in_a_substitution: "echo x >x; git add x; told=$(git commit -m x 2>&1); test -n \"$told\"" => "git commit -m x";
    commit_without_terminal_and_with_a_short_path:
        "echo x >x; git add x; dir=$(dirname \"$(command -v git)\"); \
         env -i PATH=\"$dir:/usr/bin:/bin\" git -c user.name=a -c user.email=b commit -q -m x </dev/null"
        => "git -c user.name=a -c user.email=b commit";
    commit_through_an_alias: "git config alias.ci '!git commit'; echo x >x; git add x; git ci -q -m x" => "git commit -q -m x";
    commit_through_an_alias_with_words: "git config alias.ci 'commit -q'; echo x >x; git add x; git ci -m x" => "git";
    commit_amend: "git commit -q --amend --no-edit; git commit -q --amend --no-edit --reset-author" => "git commit -q --amend";
    commit_of_all: "echo x >file; git commit -q -a -m x; test -z \"$(git status --porcelain)\"" => "git commit -q -a";
    commit_of_a_path: "echo x >file; git commit -q -m x file; echo y >file; git commit -q -i file -m y" => "git commit -q -m x file";
    commit_without_verify: "echo x >x; git add x; git commit -q --no-verify -m x" => "git commit -q --no-verify";
    commit_from_a_subdirectory: "mkdir d; cd d; echo x >x; git add x; git commit -q -m x" => "git commit -q -m x";
    commit_from_elsewhere: "echo x >x; git add x; here=$PWD; cd /; git -C \"$here\" commit -q -m x" => "git -C";
    commit_with_a_git_dir_given:
        "echo x >x; git add x; here=$PWD; cd /; GIT_DIR=$here/.git GIT_WORK_TREE=$here git commit -q -m x" => "git commit";
    commit_with_another_index:
        "echo x >x; cp .git/index ../i; GIT_INDEX_FILE=$PWD/../i git add x; GIT_INDEX_FILE=$PWD/../i git commit -q -m x; \
         git show --name-only --format= | grep -qx x" => "git commit";
    commit_of_a_split_index: "git config core.splitIndex true; echo x >x; git add x; git commit -q -m x" => "git commit";
    commit_on_an_orphan_branch: "git checkout -q --orphan new; git commit -q -m root" => "git commit";
    rebase: "git rebase -q side; git log --format=%s | grep -qx side" => "git rebase -q side";
    rebase_that_commits: "git -c sequence.editor=: rebase -q -i --exec 'git commit -q --amend --no-edit' side" => "git -c sequence.editor=:";
    rebase_by_patches: "git rebase -q --apply side" => "git rebase -q --apply";
    rebase_over_a_conflict:
        "git rebase -q conflict && exit 9; echo both >file; git add file; GIT_EDITOR=: git rebase --continue; test ! -d .git/rebase-merge"
        => "git rebase --continue";
    rebase_that_stops: "git rebase -q conflict && exit 9; test -d .git/rebase-merge" => "git rebase -q conflict";
    am: "git format-patch -q -1 --stdout side >../patch; git am -q ../patch" => "git am -q";
    am_over_a_conflict:
        "git format-patch -q -1 --stdout conflict >../patch; git am -q ../patch && exit 9; git am --abort" => "git am -q";
    merge: "git merge -q --no-edit side" => "git merge -q";
    merge_over_a_conflict:
        "git merge -q conflict && exit 9; echo both >file; git add file; GIT_EDITOR=: git merge --continue" => "git merge --continue";
    cherry_pick: "git cherry-pick side" => "git cherry-pick side";
    cherry_pick_of_several: "git cherry-pick --keep-redundant-commits --allow-empty side main" => "git cherry-pick";
    cherry_pick_over_a_conflict:
        "git cherry-pick conflict && exit 9; echo both >file; git add file; GIT_EDITOR=: git cherry-pick --continue"
        => "git cherry-pick --continue";
    revert: "git revert --no-edit HEAD" => "git revert";
    stash: "echo x >file; git stash -q; git stash pop -q; grep -qx x file" => "";
    pull_with_rebase: "git pull -q --rebase . side; git log --format=%s | grep -qx side" => "git pull -q --rebase";
    pull_with_merge: "git pull -q --no-rebase --no-edit . side; git log --format=%s | grep -qx side" => "git pull -q";
    checkout_of_a_branch: "git checkout -q side; git switch -q -c new; git checkout -q -" => "git checkout -q side";
    checkout_of_a_file: "echo x >file; git checkout -q -- file; grep -qx ours file" => "git checkout -q -- file";
    bisect:
        "git commit -q --allow-empty -m more; git bisect start HEAD HEAD~2 >/dev/null; git bisect run sh -c 'exit 1' >/dev/null; \
         git bisect reset >/dev/null 2>&1" => "git bisect";
}

/// Waits at a gate, without a word.
fn wait_at(gate: &crate::support::Gate) -> String {
    format!("sh -c \"{}\"", gate.script().replace('$', "\\$"))
}

#[test]
fn rebase_is_held_as_a_whole() {
    for (options, hook) in [(&["-q"][..], "post-rewrite"), (&["-q", "--apply"], "post-applypatch")] {
        let sandbox = branched();
        let gate = sandbox.gate("gate");
        sandbox.own_hook(hook, &gate.script());
        let mut command = sandbox.git_command(["rebase"]);
        command.args(options).arg("side");
        let mut git = sandbox.start(command);
        gate.reached_by(&mut git);
        assert_eq!(sandbox.holder()["pid"], git.pid(), "{options:?}");
        assert_eq!(sandbox.try_once(&[]), 75, "{options:?}");
        gate.open();
        assert!(git.ended().success(), "{}", git.stderr());
        sandbox.assert_nothing_left();
        sandbox.assert_nothing_to_tell();
    }
}

#[test]
fn command_of_a_rebase_is_inside_its_hold() {
    let sandbox = branched();
    let gate = sandbox.gate("gate");
    let exec = format!("{} && repoguard exec -n -- true && git commit -q --amend --no-edit", wait_at(&gate));
    let mut git = sandbox.start(sandbox.git_command(["rebase", "-q", "--exec", &exec, "side"]));
    gate.reached_by(&mut git);
    assert_eq!(sandbox.try_once(&[]), 75);
    gate.open();
    assert!(git.ended().success(), "{}", git.stderr());
    sandbox.assert_nothing_left();
    sandbox.assert_nothing_to_tell();
}

#[test]
fn commit_in_a_linked_worktree_locks_only_that_one() {
    let sandbox = branched();
    let linked = sandbox.worktree("linked");
    let gate = sandbox.gate("gate");
    sandbox.own_hook("commit-msg", &gate.script());
    let mut git = sandbox.start({
        let mut command = sandbox.git_command(["commit", "-q", "--allow-empty", "-m", "linked"]);
        command.current_dir(&linked);
        command
    });
    gate.reached_by(&mut git);
    assert_eq!(sandbox.try_once(&[]), 0, "the main one is free");
    assert_eq!(sandbox.try_once_in(&linked, &[]), 75);
    assert_eq!(sandbox.try_once(&["--scope", "repo"]), 75);
    gate.open();
    assert!(git.ended().success(), "{}", git.stderr());
    assert_eq!(sandbox.try_once_in(&linked, &[]), 0);
    sandbox.assert_nothing_left();
}

#[test]
fn new_worktree_is_held_while_it_is_made() {
    let sandbox = branched();
    let gate = sandbox.gate("gate");
    let linked = sandbox.outside("new");
    crate::support::script(&sandbox.path(".git/hooks/post-checkout.repoguard-chained"), &gate.script());
    let mut git = sandbox.start(sandbox.git_command(["worktree", "add", "-q", linked.to_str().unwrap(), "side"]));
    gate.reached_by(&mut git);
    assert_eq!(sandbox.try_once(&[]), 0, "the main one is free");
    assert_eq!(sandbox.try_once_in(&linked, &[]), 75);
    gate.open();
    assert!(git.ended().success(), "{}", git.stderr());
    assert_eq!(sandbox.try_once_in(&linked, &[]), 0);
    sandbox.assert_nothing_left();
}

/// A submodule in the checkout, with hooks of its own.
fn with_submodule(sandbox: &Sandbox) -> std::path::PathBuf {
    let inner = sandbox.outside("inner");
    let make = format!(
        "git init -q -b main {0} && git -C {0} commit -q --allow-empty -m inner && \
         git -c protocol.file.allow=always submodule --quiet add {0} sub && git commit -q -m sub",
        inner.display()
    );
    sandbox.sh(&make).assert().success();
    let place = sandbox.path("sub");
    sandbox.install_hooks_in(&place);
    place
}

#[test]
fn commit_in_a_submodule_locks_the_submodule() {
    let sandbox = branched();
    let place = with_submodule(&sandbox);
    let gate = sandbox.gate("gate");
    crate::support::script(Path::new(&sandbox.path(".git/modules/sub/hooks/commit-msg")), &gate.script());
    let mut command = sandbox.git_command(["commit", "-q", "--allow-empty", "-m", "x"]);
    command.current_dir(&place);
    let mut git = sandbox.start(command);
    gate.reached_by(&mut git);
    assert_eq!(sandbox.try_once_in(&place, &[]), 75);
    assert_eq!(sandbox.try_once(&[]), 0, "the one around it is free");
    gate.open();
    assert!(git.ended().success(), "{}", git.stderr());
    assert_eq!(sandbox.try_once_in(&place, &[]), 0);
    sandbox.assert_nothing_left();
}

#[test]
fn commit_of_who_holds_in_another_checkout_is_guarded_all_the_same() {
    let (one, two) = (branched(), Sandbox::guarded());
    let mut holder = one.hold_with(&[], OBEDIENT);
    let gate = two.gate("gate");
    two.own_hook("commit-msg", &gate.script());
    holder.send(&format!("git -C '{}' commit -q --allow-empty -m x", two.here().display()));
    eventually("the commit runs", || gate.is_reached());
    assert_eq!(two.try_once(&[]), 75);
    gate.open();
    eventually("the commit is over", || holder.stdout().contains("done"));
    assert_eq!(two.try_once(&[]), 0);
    assert_eq!(two.git(["log", "-1", "--format=%s"]), "x\n", "{}", holder.stderr());
}
