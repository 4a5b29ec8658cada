//! Holds that outlive what they were for: who works inside keeps everybody else out, and is told where that was impossible.

use std::fs;
use std::process::Stdio;

use repoguard::{Guard, Lock};
use rustix::process::Signal;

use crate::support::{Running, Sandbox, acquire, alone, eventually, has_program, kill, lines, skip};

/// Works inside of a hold until the file `stop` is there, in the background of whoever runs it.
const INSIDE: &str = "repoguard exec -- sh -c 'echo in >>work; while ! [ -e stop ]; do sleep 0.02; done; echo out >>work' \
                      </dev/null >/dev/null 2>&1 &";

/// Waits until that has begun.
const BEGUN: &str = "while ! [ -e work ]; do sleep 0.01; done";

fn works(sandbox: &Sandbox) -> Vec<String> {
    lines(&sandbox.path("work"))
}

/// Somebody works inside of a hold that was to be over: it is not, for anybody, and it is when that somebody has ended.
#[track_caller]
fn holds_until_it_stops(sandbox: &Sandbox, what: &str) {
    assert_eq!(works(sandbox), ["in"], "{what}");
    let told = sandbox.refused(&["-n"], 75);
    assert!(told.contains("has ended; kept for those who work inside of it"), "{what}: {told}");
    assert_eq!(sandbox.status()["state"], "held", "{what}");
    let mut waiter = sandbox.queue(&[], "echo next >>work");
    fs::write(sandbox.path("stop"), "").unwrap();
    assert!(waiter.ended().success(), "{what}");
    assert_eq!(works(sandbox), ["in", "out", "next"], "{what}");
    assert_eq!(sandbox.try_once(&[]), 0, "{what}");
}

#[test]
fn inner_exec_that_outlives_its_hold_keeps_it() {
    let scrubbed = format!("env -i \"PATH=$PATH\" {INSIDE}");
    let deep = INSIDE.replacen("repoguard exec -- ", "repoguard exec -- repoguard exec -- ", 1);
    let late = format!("{INSIDE} sleep 0.1;");
    for (outer, inner) in [
        (&[][..], INSIDE),
        (&[], &scrubbed),
        (&[], &deep),
        (&[], &late),
        (&["--scope", "repo"], INSIDE),
        (&["--name", "other", "--scope", "worktree"], INSIDE),
    ] {
        let sandbox = Sandbox::new();
        let mut exec = sandbox.repoguard(["exec"]);
        let output = exec.args(outer).args(["--", "sh", "-c", &format!("{inner} {BEGUN}; exit 7")]).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(7), "{inner}: {told}");
        assert!(told.contains("still runs inside of this hold"), "{inner}: {told}");
        assert_eq!(told.matches("the lock is kept").count(), 1, "told once: {told}");
        let told = sandbox.refused(&["-n"], 75);
        assert!(told.contains("has ended; kept for those who work inside of it"), "{inner}: {told}");
        fs::write(sandbox.path("stop"), "").unwrap();
        eventually("it is free", || sandbox.try_once(&[]) == 0);
        assert_eq!(works(&sandbox), ["in", "out"], "{inner}");
        let log = sandbox.log();
        assert_eq!(log[0]["status"], 7, "{inner}: the status of the command is logged by who is left: {log:?}");
        assert!(log.iter().all(|entry| entry["event"] == "hold"), "{inner}: {log:?}");
    }
}

#[test]
fn inner_exec_that_is_killed_keeps_nothing() {
    let sandbox = Sandbox::new();
    sandbox.repoguard(["exec", "--", "sh", "-c", &format!("{INSIDE} echo $! >pid; {BEGUN}")]).assert().success();
    let wrapper: u32 = fs::read_to_string(sandbox.path("pid")).unwrap().trim().parse().unwrap();
    kill(wrapper, Signal::KILL);
    // The command of a killed wrapper is still inside.
    assert_eq!(sandbox.try_once(&[]), 75);
    fs::write(sandbox.path("stop"), "").unwrap();
    eventually("it is free", || sandbox.try_once(&[]) == 0);
    assert_eq!(works(&sandbox), ["in", "out"]);
}

#[test]
fn hold_that_was_acquired_ends_with_those_inside() {
    let us = std::process::id().to_string();
    for (options, release) in [(&["--ttl", "300ms"][..], false), (&["--for-pid", &us], true), (&["--ttl", "10m"], true)]
    {
        let sandbox = Sandbox::new();
        let token = acquire(&sandbox, options);
        let mut inner = sandbox.sh_command(&format!("{INSIDE} {BEGUN}"));
        inner.env("REPOGUARD_TOKEN", &token);
        assert!(inner.status().unwrap().success());
        if release {
            let output = sandbox.repoguard(["release", &token]).output().unwrap();
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(75), "{options:?}: {told}");
            assert!(told.contains("not released yet"), "{options:?}: {told}");
        }
        eventually("it is only kept for who is inside", || {
            sandbox.holders().first().is_some_and(|holder| holder["lingers"] == true)
        });
        holds_until_it_stops(&sandbox, &options.join(" "));
        assert_eq!(sandbox.repoguard(["release", &token]).output().unwrap().status.code(), Some(1), "{options:?}");
    }
}

#[test]
fn hold_of_a_git_ends_with_those_inside() {
    let sandbox = Sandbox::guarded();
    let mut git = sandbox.git_command(["commit", "-q", "--allow-empty"]);
    let editor = sandbox.outside("editor");
    fs::write(&editor, format!("#!/bin/sh\n{INSIDE}\n{BEGUN}\necho x >\"$1\"\n")).unwrap();
    sandbox.sh(&format!("chmod 755 {}", editor.display())).assert().success();
    git.env("GIT_EDITOR", &editor).stdout(Stdio::null()).stderr(Stdio::null());
    assert!(git.status().unwrap().success());
    eventually("it is only kept for who is inside", || {
        sandbox.holders().first().is_some_and(|holder| holder["lingers"] == true)
    });
    holds_until_it_stops(&sandbox, "a commit");
}

#[test]
fn mutation_ends_with_those_inside() {
    let sandbox = Sandbox::new();
    sandbox.git(["commit", "-q", "--allow-empty", "-m", "first"]);
    fs::write(sandbox.path(".git/info/exclude"), "work\nstop\n").unwrap();
    let mut mutate = sandbox.repoguard_command(["mutate", "-m", "m", "--", "sh", "-c"]);
    mutate.arg(format!("{INSIDE} {BEGUN}; echo 1 >new"));
    let mut running = sandbox.start(mutate);
    eventually("it is only kept for who is inside", || {
        sandbox.holders().first().is_some_and(|holder| holder["lingers"] == true)
    });
    assert!(running.runs());
    holds_until_it_stops(&sandbox, "a mutation");
    assert!(running.ended().success(), "{}", running.stderr());
}

#[test]
fn mutation_inside_keeps_the_hold_around_it() {
    let sandbox = Sandbox::new();
    sandbox.git(["commit", "-q", "--allow-empty", "-m", "first"]);
    fs::write(sandbox.path(".git/info/exclude"), "work\nstop\n").unwrap();
    let inner = INSIDE.replacen("exec --", "mutate -q -m m --", 1);
    sandbox.repoguard(["exec", "-q", "--", "sh", "-c", &format!("{inner} {BEGUN}")]).assert().success();
    holds_until_it_stops(&sandbox, "a mutation inside");
}

fn guard_with_somebody_inside(sandbox: &Sandbox, guard: &Guard) -> Running {
    let mut inner = sandbox.sh_command(&format!("{INSIDE} echo up; wait"));
    inner.envs(guard.environment());
    let inner = sandbox.start_up(inner);
    eventually("it works inside", || works(sandbox) == ["in"]);
    inner
}

#[test]
fn guard_that_is_dropped_ends_with_those_inside() {
    alone("lingering::guard_that_is_dropped_ends_with_those_inside", || {
        let sandbox = Sandbox::new();
        let guard = sandbox.lock().acquire().unwrap();
        let mut inner = guard_with_somebody_inside(&sandbox, &guard);
        guard.release().unwrap();
        // Others in this program stand in line like everybody.
        let busy = sandbox.lock().try_acquire();
        assert!(matches!(busy, Err(repoguard::Error::Busy { .. })), "{busy:?}");
        holds_until_it_stops(&sandbox, "a guard");
        inner.ended();
        drop(sandbox.lock().acquire().unwrap());
        let path = Lock::of_directory(sandbox.outside("home")).unwrap();
        let guard = path.acquire().unwrap();
        assert!(guard.release().is_ok(), "nobody is inside of this one");
        drop(path.try_acquire().unwrap());
    });
}

#[test]
fn who_is_inside_when_everybody_who_holds_was_killed_is_told() {
    if !has_program("bash") || !has_program("setsid") {
        return skip("a hold that ends under who is inside", "no bash or setsid");
    }
    let sandbox = Sandbox::new();
    // Without the inherited descriptors the lock does not live on with the command.
    let script = sandbox.outside("script");
    let text = "for each in /proc/$$/fd/*; do number=${each##*/}; if [ \"$number\" -gt 2 ]; then eval \"exec $number>&-\"; fi; done
(setsid repoguard exec -- sh -c 'echo in >>work; while ! [ -e stop ]; do sleep 0.02; done'; echo $? >status) &
echo up; read _";
    fs::write(&script, text).unwrap();
    let holder = sandbox.hold_with(&[], &format!("exec bash {}", script.display()));
    eventually("it works inside", || works(&sandbox) == ["in"]);
    kill(holder.keeper(), Signal::KILL);
    holder.signal(Signal::KILL);
    eventually("the lock is free", || sandbox.try_once(&[]) == 0);
    fs::write(sandbox.path("stop"), "").unwrap();
    eventually("it has ended", || lines(&sandbox.path("status")) == ["76"]);
    assert!(sandbox.log().iter().any(|entry| entry["event"] == "lost"), "{:?}", sandbox.log());
}

#[test]
fn door_that_is_no_file_of_ours_hangs_nobody_and_who_outlives_the_hold_is_told() {
    for make in ["mkfifo $0", "mkdir $0", "ln -s /etc/passwd $0", "ln -s missing $0"] {
        let sandbox = Sandbox::new();
        assert_eq!(sandbox.try_once(&[]), 0);
        let door = ".git/repoguard/holders/0.inside";
        let swap = format!("rm -rf {door}; {}", make.replace("$0", door));
        sandbox.sh(&swap).assert().success();
        sandbox.repoguard(["exec", "--", "repoguard", "exec", "-n", "--", "true"]).assert().success().stderr("");
        let inner = "(repoguard exec -- sh -c 'echo in >work; while ! [ -e stop ]; do sleep 0.02; done'; echo $? >status) \
                     </dev/null >/dev/null 2>&1 &";
        sandbox.repoguard(["exec", "-q", "--", "sh", "-c", &format!("{inner} {BEGUN}")]).assert().success();
        assert_eq!(sandbox.try_once(&[]), 0, "{make}: nobody could be seen inside");
        fs::write(sandbox.path("stop"), "").unwrap();
        eventually("it has ended", || lines(&sandbox.path("status")) == ["76"]);
    }
}

#[test]
fn hook_whose_git_has_ended_keeps_no_hold() {
    let sandbox = Sandbox::new();
    sandbox.repoguard(["hooks", "install", "-q"]).assert().success();
    for round in 0..8 {
        let (worktree, commit) = (format!("../w{round}"), ["git", "commit", "-q", "--allow-empty", "-m", "m"]);
        for command in [
            &["--", "git", "worktree", "add", "-q", &worktree][..],
            &[&["--"][..], &commit].concat(),
            &[&["--name", "n", "--"][..], &commit].concat(),
        ] {
            let output = sandbox.repoguard(["exec"].iter().chain(command)).output().unwrap();
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success() && !told.contains("is kept"), "{command:?}: {told}");
            assert_eq!(sandbox.try_once(&[]), 0, "{command:?}");
        }
    }
}
