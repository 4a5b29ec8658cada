//! `repoguard doctor`: tried, not assumed; and nothing is removed without proof.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::status_mutation::killed;
use crate::support::{OBEDIENT, Sandbox, eventually, listing, skip};

/// What `doctor --json` found, and its exit status.
fn examined(sandbox: &Sandbox, args: &[&str]) -> (Vec<Value>, i32) {
    let output = sandbox.repoguard(["doctor", "--json"]).args(args).output().unwrap();
    let document: Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
    assert_eq!(document["schema"], 1);
    let status = output.status.code().expect("an exit status");
    assert_eq!(document["effective"], status == 0, "{document}");
    (document["findings"].as_array().expect("an array").clone(), status)
}

/// The verdicts of a check.
fn verdicts(findings: &[Value], check: &str) -> Vec<String> {
    let of_check = findings.iter().filter(|finding| finding["check"] == check);
    of_check.map(|finding| finding["verdict"].as_str().expect("a verdict").to_owned()).collect()
}

/// Makes a file as it would be if it had been made before this machine started.
fn make_ancient(sandbox: &Sandbox, name: &str) {
    let path = sandbox.path(name);
    let file = File::create(&path).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(20 * 365 * 86400)).unwrap();
}

#[test]
fn where_all_is_well_it_says_so_and_changes_nothing() {
    let sandbox = Sandbox::new();
    sandbox.install_hooks();
    sandbox.repoguard(["exec", "--", "true"]).assert().success();
    let files = || listing(sandbox.here()).into_keys().collect::<Vec<_>>();
    let before = files();
    let (findings, status) = examined(&sandbox, &[]);
    assert_eq!(status, 0, "{findings:?}");
    assert_eq!(verdicts(&findings, "locks"), ["ok"]);
    assert_eq!(verdicts(&findings, "hooks"), ["ok"; 5]);
    assert_eq!(verdicts(&findings, "leftovers"), ["ok"]);
    assert_eq!(files(), before);
    assert_eq!(sandbox.log().len(), 1, "the hooks that were tried held nothing");
}

#[test]
fn without_hooks_that_is_told_and_outside_of_a_repository_locks_are_tried() {
    let sandbox = Sandbox::new();
    let (findings, status) = examined(&sandbox, &[]);
    assert_eq!((status, verdicts(&findings, "hooks")), (0, vec!["note".to_owned()]));
    let outside = Sandbox::empty();
    let (findings, status) = examined(&outside, &[]);
    assert_eq!((status, verdicts(&findings, "locks")), (0, vec!["ok".to_owned()]));
    assert_eq!(listing(outside.here()).len(), 1, "nothing is left in the directory");
}

#[test]
fn hook_that_would_not_run_is_found_by_running_it() {
    let breaks: [(&str, &str); 4] = [
        ("deleted", "rm .git/hooks/pre-rebase"),
        ("not executable", "chmod -x .git/hooks/pre-rebase"),
        ("displaced", "printf '#!/bin/sh\\n' >.git/hooks/pre-rebase"),
        ("its shell is gone", "sed -i 's,^#!/bin/sh,#!/no/such/shell,' .git/hooks/pre-rebase"),
    ];
    for (what, script) in breaks {
        let sandbox = Sandbox::new();
        sandbox.install_hooks();
        sandbox.sh(script).assert().success();
        let (findings, status) = examined(&sandbox, &[]);
        let bad: Vec<_> = findings.iter().filter(|finding| finding["verdict"] == "bad").collect();
        assert_eq!((status, bad.len()), (1, 1), "{what}: {findings:?}");
        assert!(bad[0]["found"].as_str().unwrap().contains("pre-rebase"), "{what}: {bad:?}");
        assert!(bad[0]["hint"].is_string(), "{what}: {bad:?}");
    }
}

#[test]
fn lock_of_git_that_is_older_than_the_machines_boot_is_removed_by_fix_only() {
    let sandbox = Sandbox::new();
    for name in [".git/index.lock", ".git/refs/heads/a.lock"] {
        make_ancient(&sandbox, name);
    }
    let (findings, status) = examined(&sandbox, &[]);
    if findings.iter().any(|finding| finding["found"].as_str().unwrap().contains("nothing proves")) {
        return skip(
            "proof by the machine's boot",
            "the temporary directory is not known to be on a local file system",
        );
    }
    assert_eq!((status, verdicts(&findings, "leftovers")), (1, vec!["bad".to_owned(); 2]));
    assert!(sandbox.path(".git/index.lock").exists() && sandbox.path(".git/refs/heads/a.lock").exists());
    let (findings, status) = examined(&sandbox, &["--fix"]);
    assert_eq!((status, verdicts(&findings, "leftovers")), (0, vec!["ok".to_owned(); 2]));
    assert!(!sandbox.path(".git/index.lock").exists() && !sandbox.path(".git/refs/heads/a.lock").exists());
    assert_eq!(examined(&sandbox, &[]).1, 0);
}

#[test]
fn lock_of_git_without_proof_is_never_removed() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path(".git/index.lock"), "").unwrap();
    // Git's own note names a process that lives: this one.
    fs::write(sandbox.path(".git/HEAD.lock"), "").unwrap();
    fs::write(sandbox.path(".git/HEAD~pid.lock"), format!("pid {}\n", std::process::id())).unwrap();
    for args in [&[][..], &["--fix"]] {
        let (findings, status) = examined(&sandbox, args);
        assert_eq!((status, verdicts(&findings, "leftovers")), (1, vec!["bad".to_owned(); 2]));
        assert!(sandbox.path(".git/index.lock").exists() && sandbox.path(".git/HEAD.lock").exists());
    }
}

#[test]
fn note_of_a_dead_git_proves_nothing_of_a_later_lock() {
    let sandbox = Sandbox::new();
    let mut dead = sandbox.command("true").spawn().unwrap();
    let pid = dead.id();
    dead.wait().unwrap();
    let (note, lock) = (sandbox.path(".git/index~pid.lock"), sandbox.path(".git/index.lock"));
    fs::write(&note, format!("pid {pid}\n")).unwrap();
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(60);
    fs::File::options().write(true).open(&note).unwrap().set_modified(long_ago).unwrap();
    fs::write(&lock, "").unwrap();
    let (findings, status) = examined(&sandbox, &["--fix"]);
    assert_eq!((status, verdicts(&findings, "leftovers")), (1, vec!["bad".to_owned()]), "{findings:?}");
    assert!(lock.exists(), "the note is older");
    // Written with the lock, it is a proof, where processes and file system can be judged.
    fs::write(&note, format!("pid {pid}\n")).unwrap();
    let (findings, status) = examined(&sandbox, &["--fix"]);
    if status == 1 {
        return skip(
            "proof by git's note",
            "processes of other namespaces may be hidden, or the file system is not local",
        );
    }
    assert_eq!(verdicts(&findings, "leftovers"), ["ok"], "{findings:?}");
    assert!(!lock.exists() && !note.exists());
}

#[test]
fn mutation_that_was_killed_is_bad_until_it_is_put_in_order() {
    let sandbox = Sandbox::new();
    assert_eq!(verdicts(&examined(&sandbox, &[]).0, "mutations"), ["ok"]);
    let linked = sandbox.worktree("linked");
    killed(&sandbox, sandbox.here(), &[]);
    killed(&sandbox, &linked, &[]);
    let (findings, status) = examined(&sandbox, &["--fix"]);
    assert_eq!((status, verdicts(&findings, "mutations")), (1, vec!["bad".to_owned(); 2]));
    assert!(
        findings.iter().any(|finding| finding["hint"].as_str().is_some_and(|hint| hint.contains("linked recover`")))
    );
    sandbox.repoguard(["exec", "--scope", "repo", "--", "true"]).assert().success();
    assert_eq!(verdicts(&examined(&sandbox, &[]).0, "mutations"), ["ok"]);
}

#[test]
fn fence_of_a_mutation_that_was_killed_is_removed_by_fix_only() {
    let sandbox = Sandbox::new();
    let linked = sandbox.worktree("linked");
    killed(&sandbox, sandbox.here(), &["--fence"]);
    killed(&sandbox, &linked, &["--fence"]);
    let directories = [".git", ".git/worktrees/linked"].map(|directory| sandbox.path(directory));
    let locks = || {
        let locks =
            directories.iter().flat_map(|directory| ["index.lock", "HEAD.lock"].map(|name| directory.join(name)));
        locks.filter(|lock| lock.exists()).count()
    };
    assert_eq!((locks(), examined(&sandbox, &[]).1), (4, 1));
    assert_eq!(locks(), 4);
    let (findings, _) = examined(&sandbox, &["--fix"]);
    assert_eq!((locks(), verdicts(&findings, "leftovers")), (0, vec!["ok".to_owned(); 4]), "{findings:?}");
    let died = sandbox.log().iter().filter(|record| record["event"] == "died").count();
    assert_eq!(died, 2, "who finds that they were killed tells it");
    // They can be put in order as if nothing had happened.
    sandbox.repoguard(["exec", "--scope", "repo", "--", "true"]).assert().success();
    assert_eq!(sandbox.short_status(), [""; 0]);
    sandbox.assert_no_traces();
}

#[test]
fn lock_of_somebody_else_stays_where_a_fence_was_left() {
    // Somebody removed ours by hand, and another git works now: the file system may have given its lock the same number.
    let theirs: [fn(&Path); 2] = [
        |lock| fs::remove_file(lock).and_then(|()| File::create(lock)).map(drop).unwrap(),
        |lock| fs::write(lock, "DIRC").unwrap(),
    ];
    for make in theirs {
        let sandbox = Sandbox::new();
        killed(&sandbox, sandbox.here(), &["--fence"]);
        make(&sandbox.path(".git/index.lock"));
        let (findings, status) = examined(&sandbox, &["--fix"]);
        let verdicts = verdicts(&findings, "leftovers");
        assert_eq!((status, verdicts), (1, vec!["bad".to_owned(), "ok".to_owned()]), "{findings:?}");
        assert!(sandbox.path(".git/index.lock").exists() && !sandbox.path(".git/HEAD.lock").exists());
    }
}

#[test]
fn fence_of_a_mutation_that_runs_is_no_leftover() {
    let sandbox = Sandbox::new();
    let gate = sandbox.gate("gate");
    let script = format!("repoguard doctor --json >../inside; echo x >file; {}", gate.script());
    let mut running = sandbox.start(sandbox.mutate_command(&["--fence"], &script));
    gate.reached_by(&mut running);
    let inside: Value = serde_json::from_str(&fs::read_to_string(sandbox.outside("inside")).unwrap()).unwrap();
    for findings in [inside["findings"].as_array().unwrap(), &examined(&sandbox, &[]).0] {
        for check in ["mutations", "leftovers"] {
            assert!(verdicts(findings, check).iter().all(|verdict| verdict == "ok"), "{findings:?}");
        }
        assert!(!format!("{findings:?}").contains("`rm "), "{findings:?}");
    }
    assert!(sandbox.path(".git/index.lock").exists() && sandbox.path(".git/HEAD.lock").exists());
    gate.open();
    assert!(running.ended().success(), "{}", running.stderr());
    sandbox.assert_no_traces();
}

#[test]
fn fence_of_a_mutation_inside_the_fixers_own_hold_is_never_touched() {
    let sandbox = Sandbox::new();
    let token = crate::support::acquire(&sandbox, &["--scope", "repo", "--ttl", "1h"]);
    let gate = sandbox.gate("gate");
    let mut command = sandbox.mutate_command(&["--fence"], &format!("echo x >file; {}", gate.script()));
    command.env("REPOGUARD_TOKEN", &token);
    let mut running = sandbox.start(command);
    gate.reached_by(&mut running);
    // Something to fix, so that the fixer does its work.
    make_ancient(&sandbox, ".git/refs/heads/a.lock");
    sandbox.repoguard(["doctor", "--fix"]).env("REPOGUARD_TOKEN", &token).output().unwrap();
    assert!(sandbox.path(".git/index.lock").exists() && sandbox.path(".git/HEAD.lock").exists());
    gate.open();
    assert!(running.ended().success(), "{}", running.stderr());
    sandbox.repoguard(["release", &token]).assert().success();
}

#[test]
fn nothing_is_fixed_under_somebody_elses_hold() {
    let sandbox = Sandbox::new();
    make_ancient(&sandbox, ".git/index.lock");
    if verdicts(&examined(&sandbox, &[]).0, "leftovers") != ["bad"] {
        return;
    }
    let mut holder = sandbox.hold_with(&[], OBEDIENT);
    let mut fix = sandbox.start(sandbox.repoguard_command(["doctor", "--fix"]));
    eventually("the doctor waits for its turn", || sandbox.waiters() == 1);
    assert!(sandbox.path(".git/index.lock").exists());
    holder.finish();
    fix.ended();
    assert_eq!(sandbox.path(".git/index.lock").exists(), fix.stdout().contains("nothing proves"), "{}", fix.stdout());
}

#[test]
fn locks_of_other_programs_are_noted() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path(".git/agent.lock"), "").unwrap();
    fs::write(sandbox.path("Cargo.lock"), "").unwrap();
    let (findings, status) = examined(&sandbox, &[]);
    assert_eq!((status, verdicts(&findings, "schemes")), (0, vec!["note".to_owned()]));
}
