//! `repoguard mutate` and the logs of references: what the command's gits took from them is put back, in files and in tables.

use crate::support::{Sandbox, skip};

/// A repository in one of git's formats for references, with a branch whose commits only its log leads to; `None` where this git does
/// not know the format.
fn amended(format: &str) -> Option<Sandbox> {
    let sandbox = Sandbox::empty();
    let told = sandbox.command("git").args(["init", "-h"]).output().unwrap();
    let knows = [told.stdout, told.stderr].concat().windows(10).any(|text| text == b"ref-format");
    if !knows && format != "files" {
        skip("logs of references in tables", "this git has none");
        return None;
    }
    let init =
        if knows { format!("git init -q -b main --ref-format={format} .") } else { "git init -q -b main .".to_owned() };
    let commits = "echo a >a; git add a; git commit -qm one; git checkout -q -b side/deep; echo b >a; git commit -qam two; \
        echo c >a; git commit -qa --amend -m three; git update-ref refs/heads/side/deep HEAD~0; git checkout -q main; \
        echo d >a; git commit -qam four; git tag v1";
    sandbox.sh(&format!("{init}; {commits}")).assert().success();
    Some(sandbox)
}

fn log(sandbox: &Sandbox, name: &str) -> String {
    let output =
        sandbox.command("git").args(["reflog", "show", "--date=raw", "--format=%H %gd %gs", name, "--"]).output();
    String::from_utf8_lossy(&output.unwrap().stdout).into_owned()
}

#[test]
fn log_of_a_reference_that_the_command_removed_is_put_back_with_it() {
    for format in ["files", "reftable"] {
        for (script, status) in [
            ("git branch -D side/deep", 7),
            ("git branch -m side/deep other", 7),
            ("git branch -m side/deep side", 7),
            ("git branch -M side/deep main", 7),
            ("git reflog expire --expire=all --all", 7),
            ("git reflog delete side/deep@{1}", 7),
            ("git reflog delete HEAD@{2}; git reflog delete --rewrite HEAD@{0}", 7),
            ("git reflog expire --expire=all HEAD", 7),
            ("git update-ref -d refs/heads/side/deep; git branch side", 7),
        ] {
            let Some(sandbox) = amended(format) else { continue };
            let (side, head) = (log(&sandbox, "side/deep"), log(&sandbox, "HEAD"));
            let output = sandbox.mutate(&[], &format!("{script} >/dev/null; exit {status}")).output().unwrap();
            let told = format!("{format}: {script}: {}", String::from_utf8_lossy(&output.stderr));
            assert_eq!(output.status.code(), Some(status), "{told}");
            assert_eq!(log(&sandbox, "side/deep"), side, "{told}");
            // HEAD's own log in tables is not put back.
            if format == "files" || !["--all", "HEAD"].iter().any(|name| script.contains(name)) {
                assert_eq!(log(&sandbox, "HEAD"), head, "{told}");
            }
            sandbox.assert_no_traces();
        }
    }
}

#[test]
fn log_goes_on_where_the_reference_moved_and_came_back() {
    for format in ["files", "reftable"] {
        let Some(sandbox) = amended(format) else { continue };
        let was = log(&sandbox, "side/deep");
        let script = "git update-ref -d refs/heads/side/deep; git update-ref refs/heads/side/deep main; exit 7";
        sandbox.mutate(&[], script).assert().code(7);
        let is = log(&sandbox, "side/deep");
        let ids = |log: &str| -> Vec<String> { log.lines().map(|line| line[..40].to_owned()).collect() };
        let (was, is) = (ids(&was), ids(&is));
        assert!(is.ends_with(&was) && is.len() == was.len() + 2 && is[0] == was[0], "{format}: {is:?}");
        sandbox.git(["fsck", "--strict"]);
    }
}

#[test]
fn log_of_a_reference_stays_with_a_command_that_succeeds() {
    for format in ["files", "reftable"] {
        let Some(sandbox) = amended(format) else { continue };
        sandbox.mutate(&[], "echo e >a; git branch -D side/deep").assert().success();
        assert_eq!(log(&sandbox, "side/deep"), "", "{format}");
        assert_eq!(log(&sandbox, "main").lines().count(), 4 - 1, "{format}: {}", log(&sandbox, "main"));
    }
}
