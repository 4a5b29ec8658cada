//! Pid namespaces: the end of a container's first process kills all others in it, watchers of repoguard's as well.

use std::process::Command;

use rustix::process::Signal;

use crate::support::{Sandbox, acquire, eventually, has_program, kill, skip};

/// `sh -c SCRIPT` as the first process of a pid namespace with its own `/proc`; none if the system allows no such thing.
fn in_container(sandbox: &Sandbox, script: &str) -> Option<Command> {
    const UNSHARE: [&str; 4] = ["--pid", "--fork", "--mount-proc", "--kill-child"];
    let container = |script: &str| {
        let mut command = sandbox.command("unshare");
        command.args(UNSHARE).args(["sh", "-c", script]);
        command
    };
    if !has_program("unshare") || !container(":").output().is_ok_and(|output| output.status.success()) {
        skip("a pid namespace", "the system allows none");
        return None;
    }
    Some(container(script))
}

/// Runs it to its end in a container; `false` if there is none.
fn run_in_container(sandbox: &Sandbox, script: &str) -> bool {
    let Some(mut command) = in_container(sandbox, script) else { return false };
    let output = command.output().unwrap();
    assert!(output.status.success(), "{script}: {output:?}");
    true
}

#[test]
fn holder_in_a_container_is_listed_once() {
    for options in ["", "-s", "--scope repo", "--name x --scope worktree"] {
        let sandbox = Sandbox::new();
        let script = format!("exec repoguard exec {options} -- sh -c 'echo up; read _ || :'");
        let Some(command) = in_container(&sandbox, &script) else { return };
        let mut holder = sandbox.start_up(command);
        assert_eq!(sandbox.holders().len(), 1, "{options}: {:?}", sandbox.holders());
        assert!(holder.finish().success());
    }
}

#[test]
fn git_as_the_first_process_of_a_container_is_not_taken_for_killed() {
    for script in [
        "exec git commit -q --allow-empty -m inside",
        "exec git commit -q -am inside",
        "git commit -q --allow-empty -m inside; :",
        "exec git checkout -q -b inside",
        "git commit -q --allow-empty -m one; git commit -q --amend --allow-empty -m inside; exec true",
    ] {
        let sandbox = Sandbox::guarded();
        sandbox.assert_nothing_to_tell();
        std::fs::write(sandbox.path("file"), "changed\n").unwrap();
        if !run_in_container(&sandbox, script) {
            return;
        }
        let status = sandbox.status();
        assert_eq!(status["died"].as_array().map(Vec::len), Some(0), "{script}: {status}");
        assert!(status["changed_outside"].is_null(), "{script}: {status}");
        sandbox.assert_nothing_to_tell();
        let records = sandbox.log();
        assert!(records.iter().all(|record| record["event"] == "hold"), "{script}: {records:?}");
        let of_git = records.iter().filter(|record| record["command"].as_str().unwrap().starts_with("git"));
        assert!(of_git.count() >= 1, "{script}: {records:?}");
        // And in the next container, which may have the number of the first.
        let again = format!("echo more >>file; {}", script.replace("-b inside", "-b again"));
        assert!(run_in_container(&sandbox, &again));
        let script = "repoguard exec -- true 2>&1 | grep . && exit 1; exit 0";
        assert!(run_in_container(&sandbox, script));
        assert_eq!(sandbox.try_once(&[]), 0);
    }
}

#[test]
fn hold_for_a_process_ends_with_its_container() {
    let sandbox = Sandbox::new();
    assert_eq!(sandbox.try_once(&[]), 0);
    let script = "REPOGUARD_TOKEN=$(repoguard acquire --for-pid $$) && export REPOGUARD_TOKEN && \
                  git commit -q --allow-empty -m inside";
    if run_in_container(&sandbox, script) {
        sandbox.assert_nothing_to_tell();
        let hold = &sandbox.log()[1];
        assert_eq!(
            (&hold["event"], &hold["head_after"]["branch"]),
            (&"hold".into(), &"refs/heads/main".into()),
            "{hold}"
        );
    }
}

#[test]
fn command_of_exec_that_was_killed_with_its_container_is_reported() {
    let sandbox = Sandbox::new();
    let Some(container) = in_container(&sandbox, "repoguard exec -- sh -c 'echo up; sleep 60'; :") else { return };
    let mut running = sandbox.start_up(container);
    running.signal(Signal::KILL);
    running.ended();
    eventually("the container is gone", || sandbox.status()["state"] == "free");
    assert_eq!(sandbox.status()["died"].as_array().map(Vec::len), Some(1));
    let output = sandbox.repoguard(["exec", "--", "true"]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("was killed before it could release"), "{output:?}");
}

#[test]
fn watcher_killed_outside_of_a_container_is_reported() {
    let sandbox = Sandbox::new();
    acquire(&sandbox, &["--for-pid", &std::process::id().to_string()]);
    let pid = sandbox.holder()["pid"].as_u64().unwrap();
    kill(u32::try_from(pid).unwrap(), Signal::KILL);
    eventually("free", || sandbox.status()["state"] == "free");
    let output = sandbox.repoguard(["exec", "--", "true"]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("was killed before it could release"), "{output:?}");
}
