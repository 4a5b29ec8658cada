//! `repoguard mutate` as a property: whatever a checkout holds, and whatever a failing command does to it, the state before
//! is the state after.

use std::cell::Cell;
use std::fs;
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use crate::support::random::{Case, IGNORED, Known, cases};
use crate::support::{RepoState, Sandbox, long, shell_status, to_the_end, traces};

/// What a command may do to files. `{a}` and `{b}` are files of the repository, `{d}` a directory, `{n}` a new name.
const FILE_WRECKS: [&str; 44] = [
    "echo more >>{a}",
    "echo over >{a}",
    "printf '' >{a}",
    "printf x | dd of={a} conv=notrunc",
    "rm -f {a}",
    "rm -f {a} {b}",
    "mv {a} {n}",
    "mv {a} {b}",
    "cp {a} {n}",
    "cp -p {a} {b}",
    "ln {a} {n}",
    "mv {a} {A}",
    "rm -f {a}; mkdir {a}; echo x >{a}/x",
    "rm -rf {d}; echo x >{d}",
    "rm -rf {d}",
    "mv {d} moved",
    "mv {d} ../moved; ln -s ../moved {d}",
    "rm -f {a}; ln -s {b} {a}",
    "rm -f {a}; ln -s \"$TOP/../home\" {a}",
    "rm -f {a}; mkfifo {a}",
    "mkfifo {n}",
    "chmod 0 {a}",
    "chmod 777 {a}",
    "chmod +x {a}",
    "chmod 444 {a}",
    "chmod 4755 {a}",
    "chmod 555 {d}",
    "chmod 0 {d}",
    "chmod -R a-w {d}",
    "chmod -R 777 .",
    "mkdir -p {n}; echo x >{n}/x",
    "echo x >{n}",
    "mkdir -p n/n/n; echo x >n/n/n/x; chmod 555 n/n/n; chmod 0 n",
    "mkdir {n}",
    "rmdir empty/er",
    "sed -i 's/$/\\r/' {a}",
    "tr -d '\\r' <{a} >../t; cat ../t >{a}",
    "touch -d 2001-01-01 {a} {b}",
    "echo '*' >.gitignore",
    "echo '!*' >>.gitignore",
    "rm -f .gitignore",
    "echo '*' >>.git/info/exclude",
    "echo '* -text -ident -filter' >.gitattributes",
    "rm -rf -- *",
];

/// What a command may do with git.
const GIT_WRECKS: [&str; 64] = [
    "git add -A",
    "git add -f .",
    "git add {a}",
    "git add -N {n}",
    "git rm -qf {a}",
    "git rm -rq --cached .",
    "git mv {a} {n}",
    "git mv -f {a} {b}",
    "git commit -qam x",
    "git commit -q --allow-empty -m x",
    "git commit -qa --amend -m x",
    "git branch new",
    "git branch -f side HEAD",
    "git branch -D side",
    "git branch -m renamed",
    "git tag new",
    "git tag -a -m x new",
    "git tag -d v1",
    "git checkout -q -b new",
    "git checkout -qf side",
    "git checkout -q --detach",
    "git checkout -q --orphan new",
    "git checkout -q -- .",
    "git stash -q",
    "git stash -q -u",
    "git stash pop -q",
    "git stash drop -q",
    "git stash clear",
    "git stash -q -a",
    "git reset -q --hard",
    "git reset -q --hard HEAD~1",
    "git reset -q --soft HEAD~1",
    "git reset -q HEAD~1",
    "git merge -q side",
    "git merge -q -X ours -m x side",
    "git cherry-pick side",
    "git revert --no-edit HEAD",
    "git rebase -q side",
    "git rebase -q -X ours side",
    "git bisect start HEAD v1",
    "git clean -qffd",
    "git clean -qffdx",
    "rm -f .git/index",
    "echo garbage >.git/index",
    "git read-tree --empty",
    "git read-tree -u --reset v1",
    "git update-index --assume-unchanged {a}",
    "git update-index --skip-worktree {a} {b}",
    "git update-index --no-assume-unchanged {a}",
    "git update-index --no-skip-worktree {a}",
    "git update-index --chmod=+x {a}",
    "git update-index --split-index",
    "git update-index --index-version 4",
    "git update-index --untracked-cache",
    "git pack-refs --all",
    "git gc -q --prune=now",
    "git update-ref refs/heads/x/y HEAD",
    "git symbolic-ref HEAD refs/heads/nowhere",
    "git symbolic-ref refs/heads/alias refs/heads/side",
    "git notes add -m x",
    "git update-ref --no-deref HEAD v1",
    "git init -q {n}",
    "git config core.autocrlf true; git reset -q --hard",
    "git sparse-checkout set d",
];

/// Runs it, and says what is not as it was.
fn wrong(case: &Case, options: &[&str]) -> Result<(), String> {
    let sandbox = case.build();
    let (before, excludes) = (sandbox.state(), fs::read(sandbox.path(".git/info/exclude")).unwrap());
    let mut command: Command = sandbox.repoguard_command(["mutate", "-m", "change"]);
    command.args(options).args(["--", "sh", "-c"]).arg(case.script()).env("TOP", sandbox.here());
    if case.below && sandbox.path("d").is_dir() {
        command.current_dir(sandbox.path("d"));
    }
    case.user.runs(&mut command);
    let output = to_the_end(command).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    // What is ignored is so by the rules as they were.
    fs::write(sandbox.path(".git/info/exclude"), excludes).unwrap();
    let now = sandbox.state();
    if let Some(difference) = before.difference(&now) {
        return Err(format!("not as it was:\n{difference}{told}"));
    }
    let status = shell_status(output.status);
    let left = traces(&sandbox.path(".git"));
    if status != case.ending.1 || told.contains("panicked") || !left.is_empty() {
        return Err(format!("status {status}, left {left:?}, told {told}"));
    }
    ignored_as_left(&sandbox, &now)
}

/// Ignored files are as the command left them.
fn ignored_as_left(sandbox: &Sandbox, now: &RepoState) -> Result<(), String> {
    for (number, path) in IGNORED.iter().enumerate() {
        let left = fs::read(sandbox.outside(format!("left-{number}")));
        if let Ok(left) = left.as_ref().map(Vec::as_slice) {
            let is = now.ignored().get(Path::new(path));
            if is.is_none_or(|is| !is.ends_with(left)) {
                return Err(format!("ignored {path} is {is:?}"));
            }
        }
    }
    Ok(())
}

/// The same cases each time, so that a failure is one of the change that is tested; others in the long run.
fn seed() -> RngSeed {
    if long() { RngSeed::Random } else { RngSeed::Fixed(1) }
}

/// Tries this many cases, ten times as many in the long run.
fn holds(options: &[&str], cases: u32, strategy: impl Strategy<Value = Case>) {
    let cases = if long() { 10 * cases } else { cases };
    let config = ProptestConfig {
        cases,
        failure_persistence: None,
        max_shrink_iters: 100,
        rng_seed: seed(),
        ..Default::default()
    };
    proptest!(config, |(case in strategy)| {
        prop_assert_eq!(wrong(&case, options), Ok(()));
    });
}

#[test]
fn any_wreck_of_files_is_put_back() {
    holds(&[], 140, cases(&Known::CLEAN, &[&FILE_WRECKS]));
}

#[test]
fn any_wreck_by_git_is_put_back() {
    holds(&[], 140, cases(&Known::CLEAN, &[&GIT_WRECKS]));
}

#[test]
fn any_wreck_of_both_kinds_is_put_back() {
    holds(&[], 130, cases(&Known::CLEAN, &[&FILE_WRECKS, &GIT_WRECKS]));
}

#[test]
fn any_wreck_of_the_callers_own_changes_is_put_back() {
    holds(&["--allow-dirty"], 130, cases(&Known::DIRTY, &[&FILE_WRECKS, &GIT_WRECKS]));
}

#[test]
fn random_checkouts_are_clean_and_random_wrecks_wreck() {
    let (wrecked, all) = (Cell::new(0), Cell::new(0));
    let config = ProptestConfig { cases: 60, failure_persistence: None, rng_seed: seed(), ..Default::default() };
    proptest!(config, |(case in cases(&Known::CLEAN, &[&FILE_WRECKS, &GIT_WRECKS]))| {
        let sandbox = case.build();
        let mut status = to_the_end(sandbox.command("git"));
        let status = status.args(["-c", "safe.directory=*", "status", "--porcelain", "-uno"]).output().unwrap();
        prop_assert_eq!(String::from_utf8_lossy(&status.stdout), "");
        let before = sandbox.state();
        prop_assert!(before.difference(&sandbox.state()).is_none());
        let mut command = sandbox.command("sh");
        case.user.runs(command.arg("-c").arg(case.script()).env("TOP", sandbox.here()));
        to_the_end(command).output().unwrap();
        wrecked.set(wrecked.get() + u32::from(before.difference(&sandbox.state()).is_some()));
        all.set(all.get() + 1);
    });
    let (wrecked, all) = (wrecked.get(), all.get());
    assert!(wrecked * 10 > all * 7, "{wrecked} of {all} wreck anything");
}
