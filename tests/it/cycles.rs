//! Cycles of waiters over several repositories: the last one fails with 75 and names the others, and nobody waits for ever.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use repoguard::{Error, Lock, Repo, Request};

use crate::support::{Running, Sandbox, eventually, has_program, is_root, shell_status, skip};

/// A sandbox with further repositories beside its own.
fn several(names: &[&str]) -> (Sandbox, Vec<PathBuf>) {
    let sandbox = Sandbox::new();
    let made = names.iter().map(|name| {
        let path = sandbox.outside(name);
        sandbox.git(["init", "-q", path.to_str().expect("UTF-8")]);
        sandbox.git(["-C", path.to_str().expect("UTF-8"), "commit", "-q", "--allow-empty", "-m", "first"]);
        path
    });
    let all = std::iter::once(sandbox.here().to_owned()).chain(made).collect();
    (sandbox, all)
}

/// A holder of one repository that asks for another one when a file is there.
fn holder(sandbox: &Sandbox, own: &Path, other: &Path, verb: &[&str]) -> Running {
    let go = sandbox.outside("go");
    let script = format!(
        "echo up; while ! test -e '{}'; do sleep 0.02; done; exec repoguard -C '{}' exec -- true",
        go.display(),
        other.display()
    );
    let mut command = sandbox.repoguard_command(["-C", own.to_str().expect("UTF-8")]);
    command.args(verb).args(["--", "sh", "-c", &script]);
    sandbox.start_up(command)
}

/// All of them end; at least one fails with 75, which names a process, and the others go on.
fn one_fails(mut all: Vec<Running>) {
    let mut statuses = Vec::new();
    for running in &mut all {
        let status = shell_status(running.ended());
        let told = running.stderr();
        if status == 75 {
            assert!(told.contains("deadlock") && told.contains("pid "), "it names the others: {told}");
        } else {
            assert_eq!(status, 0, "{told}");
        }
        statuses.push(status);
    }
    assert!(statuses.contains(&75), "{statuses:?}");
}

#[test]
fn ring_of_three_repositories_is_refused() {
    let (sandbox, repos) = several(&["second", "third"]);
    let ring = (0..3).map(|i| holder(&sandbox, &repos[i], &repos[(i + 1) % 3], &["exec"])).collect();
    fs::write(sandbox.outside("go"), "").unwrap();
    one_fails(ring);
}

#[test]
fn many_cycles_at_once_all_end() {
    let (sandbox, repos) = several(&["second"]);
    for _ in 0..6 {
        let pair =
            vec![holder(&sandbox, &repos[0], &repos[1], &["exec"]), holder(&sandbox, &repos[1], &repos[0], &["exec"])];
        fs::write(sandbox.outside("go"), "").unwrap();
        one_fails(pair);
        fs::remove_file(sandbox.outside("go")).unwrap();
    }
}

#[test]
fn mutation_and_command_that_want_each_others_repository_do_not_wait_for_ever() {
    let (sandbox, repos) = several(&["second"]);
    let verb = ["mutate", "-q", "--allow-empty", "-m", "m"];
    let mutation = holder(&sandbox, &repos[0], &repos[1], &verb);
    let command = holder(&sandbox, &repos[1], &repos[0], &["exec"]);
    fs::write(sandbox.outside("go"), "").unwrap();
    one_fails(vec![mutation, command]);
}

#[test]
fn commit_whose_hook_wants_a_repository_that_waits_for_the_commit_is_refused() {
    let (sandbox, repos) = several(&["second"]);
    sandbox.install_hooks();
    // The hook that holds is git's; what the user's own hook starts afterwards has nothing of ours in its environment.
    let (gate, go) = (sandbox.outside("reached"), sandbox.outside("go"));
    let own = format!(
        "touch '{}'; while ! test -e '{}'; do sleep 0.02; done; unset GIT_DIR GIT_INDEX_FILE; exec repoguard -C '{}' exec -- true",
        gate.display(),
        go.display(),
        repos[1].display()
    );
    sandbox.own_hook("commit-msg", &own);
    let commit = sandbox.start(sandbox.git_command(["commit", "--allow-empty", "-qm", "theirs"]));
    eventually("the hook runs", || gate.exists());
    let mut other = holder(&sandbox, &repos[1], &repos[0], &["exec"]);
    fs::write(&go, "").unwrap();
    let mut commit = commit;
    let statuses = [shell_status(commit.ended()), shell_status(other.ended())];
    assert!(statuses.contains(&75) || commit.stderr().contains("deadlock"), "{statuses:?} {}", commit.stderr());
}

#[test]
fn thread_and_process_over_two_repositories_are_a_cycle() {
    let (sandbox, repos) = several(&["second"]);
    let lock_of = |path: &Path| -> Lock { Repo::discover(path).unwrap().lock(Request::new()).unwrap() };
    let guard = lock_of(&repos[0]).acquire().unwrap();
    // It holds the second, and waits for what this thread holds.
    let mut other = holder(&sandbox, &repos[1], &repos[0], &["exec"]);
    fs::write(sandbox.outside("go"), "").unwrap();
    eventually("it waits", || sandbox.waiters() == 1);
    let refused = lock_of(&repos[1]).acquire().map(drop);
    assert!(matches!(refused, Err(Error::Deadlock { .. })), "{refused:?}");
    drop(guard);
    assert_eq!(shell_status(other.ended()), 0, "{}", other.stderr());
}

/// A holder of one repository that asks for another one in the background when a file is there, and waits for that.
fn waits_for_background(sandbox: &Sandbox, own: &Path, other: &Path) -> Running {
    let script = format!(
        "echo up; while ! test -e '{}'; do sleep 0.02; done; cd '{}'; \
         token=$(repoguard acquire --background --ttl 1h) || exit; repoguard wait \"$token\"; status=$?; repoguard release \"$token\"; exit $status",
        sandbox.outside("go").display(),
        other.display(),
    );
    let mut command = sandbox.repoguard_command(["-C", own.to_str().expect("UTF-8"), "exec", "--", "sh", "-c"]);
    command.arg(script);
    sandbox.start_up(command)
}

#[test]
fn wait_for_a_request_that_waits_for_the_waiter_is_refused() {
    let (sandbox, repos) = several(&["second", "third"]);
    for ring in [&repos[..2], &repos[..]] {
        let next = |i: usize| &ring[(i + 1) % ring.len()];
        let mut all: Vec<Running> = (1..ring.len()).map(|i| holder(&sandbox, &ring[i], next(i), &["exec"])).collect();
        all.push(waits_for_background(&sandbox, &ring[0], next(0)));
        fs::write(sandbox.outside("go"), "").unwrap();
        one_fails(all);
        fs::remove_file(sandbox.outside("go")).unwrap();
    }
}

#[test]
fn waits_for_requests_that_wait_for_each_other_are_refused() {
    let (sandbox, repos) = several(&["second", "third"]);
    for ring in [&repos[..2], &repos[..]] {
        for _ in 0..3 {
            let next = |i: usize| &ring[(i + 1) % ring.len()];
            let all = (0..ring.len()).map(|i| waits_for_background(&sandbox, &ring[i], next(i))).collect();
            fs::write(sandbox.outside("go"), "").unwrap();
            one_fails(all);
            fs::remove_file(sandbox.outside("go")).unwrap();
        }
    }
}

#[test]
fn who_waits_for_a_request_is_in_nobodys_way_and_no_waiter_for_the_lock() {
    let (sandbox, repos) = several(&["second"]);
    let mut holder = sandbox.hold(&[]);
    let mut waiting = waits_for_background(&sandbox, &repos[1], &repos[0]);
    fs::write(sandbox.outside("go"), "").unwrap();
    eventually("it tells others what it waits for", || sandbox.tickets().len() == 4);
    assert_eq!(sandbox.waiters(), 1);
    holder.release();
    assert_eq!(shell_status(waiting.ended()), 0, "{}", waiting.stderr());
    sandbox.assert_nothing_left();
}

#[test]
fn wait_for_a_request_lasts_as_long_as_there_is_no_cycle() {
    let (sandbox, repos) = several(&["second"]);
    let mut second = sandbox.repoguard_command(["-C", repos[1].to_str().expect("UTF-8"), "exec", "--"]);
    second.args(["sh", "-c", "echo up; read -r _"]);
    let mut second = sandbox.start_up(second);
    let mut waiter = waits_for_background(&sandbox, &repos[0], &repos[1]);
    fs::write(sandbox.outside("go"), "").unwrap();
    eventually("it waits", || waiter.stderr().contains("waiting"));
    second.send("go on");
    assert_eq!(shell_status(second.ended()), 0);
    assert_eq!(shell_status(waiter.ended()), 0, "{}", waiter.stderr());
}

#[test]
fn holder_of_one_repository_waits_for_another_as_long_as_there_is_no_cycle() {
    let (sandbox, repos) = several(&["second"]);
    let mut outer = holder(&sandbox, &repos[0], &repos[1], &["exec"]);
    let mut second = sandbox.repoguard_command(["-C", repos[1].to_str().expect("UTF-8"), "exec", "--"]);
    second.args(["sh", "-c", "echo up; read -r _"]);
    let mut second = sandbox.start_up(second);
    fs::write(sandbox.outside("go"), "").unwrap();
    eventually("it waits", || fs::read_dir(repos[1].join(".git/repoguard/queue")).is_ok_and(|names| names.count() > 2));
    second.send("go on");
    assert_eq!(shell_status(second.ended()), 0);
    assert_eq!(shell_status(outer.ended()), 0, "{}", outer.stderr());
}

#[test]
fn wait_that_cannot_be_checked_says_so() {
    let (sandbox, repos) = several(&["second"]);
    let mut outer = holder(&sandbox, &repos[0], &repos[1], &["exec"]);
    let mut second = sandbox.repoguard_command(["-C", repos[1].to_str().expect("UTF-8"), "exec", "--"]);
    second.args(["sh", "-c", "echo up; read -r _"]);
    let mut second = sandbox.start_up(second);
    // The records of its hold cannot be followed.
    let data = sandbox.data();
    fs::rename(data.join("queue"), data.join("moved")).unwrap();
    std::os::unix::fs::symlink(data.join("moved"), data.join("queue")).unwrap();
    fs::write(sandbox.outside("go"), "").unwrap();
    eventually("it says so", || outer.stderr().contains("not checked for a deadlock"));
    second.send("go on");
    assert_eq!(shell_status(outer.ended()), 0, "{}", outer.stderr());
}

/// A mutation, started as given, that waits for a git whose hook waits for `wanted`, ends with 75 that names it.
fn fence_is_refused(sandbox: &Sandbox, wanted: &Path, mutation: Command) {
    fs::write(sandbox.path("tracked"), "1\n").unwrap();
    sandbox.git(["add", "tracked"]);
    sandbox.git(["commit", "-qm", "tracked"]);
    let go = sandbox.outside("go");
    let hook = format!(
        "touch '{0}.reached'; while ! test -e '{0}'; do sleep 0.02; done; unset GIT_DIR GIT_INDEX_FILE; \
         exec repoguard -C '{1}' exec -- true",
        go.display(),
        wanted.display()
    );
    sandbox.own_hook("pre-commit", &hook);
    fs::write(sandbox.path("tracked"), "2\n").unwrap();
    let mut commit = sandbox.start(sandbox.git_command(["commit", "-qam", "theirs"]));
    eventually("git has its lock", || sandbox.outside("go.reached").exists());
    let mut mutation = sandbox.start(mutation);
    eventually("it waits for git", || mutation.stderr().contains("index.lock"));
    fs::write(&go, "").unwrap();
    assert_eq!(shell_status(mutation.ended()), 75, "{}", mutation.stderr());
    let told = mutation.stderr();
    assert!(told.contains("deadlock") && told.contains("pid "), "{told}");
    assert_eq!(shell_status(commit.ended()), 0, "{}", commit.stderr());
}

#[test]
fn fence_refuses_to_wait_for_a_git_whose_hook_waits_for_us() {
    let sandbox = Sandbox::new();
    let mutation = sandbox.mutate_command(&["--fence", "--allow-dirty"], "true");
    fence_is_refused(&sandbox, sandbox.here(), mutation);
}

#[test]
fn fence_below_flock_refuses_to_wait_for_a_git_whose_hook_waits_for_us() {
    if !has_program("flock") {
        return skip("a fence below flock(1)", "no flock(1)");
    }
    let sandbox = Sandbox::new();
    let mut mutation = sandbox.command("flock");
    mutation.arg(sandbox.lock_file()).args([
        "repoguard",
        "mutate",
        "--fence",
        "--allow-dirty",
        "-m",
        "m",
        "--",
        "true",
    ]);
    fence_is_refused(&sandbox, sandbox.here(), mutation);
}

#[test]
fn fence_refuses_to_wait_for_a_git_whose_hook_waits_for_another_repository_of_ours() {
    let (sandbox, repos) = several(&["second"]);
    let mut mutation = sandbox.repoguard_command(["-C", repos[1].to_str().expect("UTF-8"), "exec", "--"]);
    mutation.args(["repoguard", "-C", repos[0].to_str().expect("UTF-8"), "mutate", "--fence", "--allow-dirty"]);
    mutation.args(["-m", "m", "--", "true"]);
    fence_is_refused(&sandbox, &repos[1], mutation);
}

#[test]
fn fence_waits_for_a_lock_that_a_dead_git_left_for_a_while_and_says_so() {
    let sandbox = Sandbox::new();
    for lock in [".git/index.lock", ".git/HEAD.lock"] {
        fs::write(sandbox.path(lock), "").unwrap();
        let mut command: Command = sandbox.mutate_command(&["--fence", "--timeout", "1"], "true");
        let output = command.output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(75), "{told}");
        assert!(told.contains("no git is seen to work here") && told.contains("doctor"), "{told}");
        fs::remove_file(sandbox.path(lock)).unwrap();
    }
}

#[test]
fn cycle_through_a_container_is_refused() {
    const WHAT: &str = "a cycle through a pid namespace";
    if !is_root() || !has_program("unshare") {
        return skip(WHAT, "needs root and unshare");
    }
    let (sandbox, repos) = several(&["second", "third"]);
    let go = sandbox.outside("go");
    // It holds the first and, where nothing above it can be seen, the second, and asks for the third.
    let inner = format!(
        "echo up; while ! test -e '{}'; do sleep 0.02; done; exec repoguard -C '{}' exec -- true",
        go.display(),
        repos[2].display()
    );
    let mut outer = sandbox.repoguard_command(["-C", repos[0].to_str().expect("UTF-8"), "exec", "--"]);
    outer.args(["unshare", "--pid", "--fork", "--mount-proc", "repoguard", "-C"]).arg(&repos[1]);
    outer.args(["exec", "--", "sh", "-c", &inner]);
    let outer = sandbox.start_up(outer);
    let other = holder(&sandbox, &repos[2], &repos[0], &["exec"]);
    fs::write(&go, "").unwrap();
    one_fails(vec![outer, other]);
}
