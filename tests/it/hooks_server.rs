//! The receiving side: pushes come one after the other, wait or are refused as a whole, and the pusher is told.

use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;

use crate::support::{Gate, OBEDIENT, Running, Sandbox, eventually, kill, lines, script};

/// A server beside the checkout, which is a clone of it with something to push.
struct Server {
    sandbox: Sandbox,
    place: PathBuf,
}

/// What becomes of `git push`.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Bare,
    /// With a checkout that a push updates.
    UpdateInstead,
}

const KINDS: [Kind; 2] = [Kind::Bare, Kind::UpdateInstead];

impl Server {
    fn new(kind: Kind) -> Self {
        let sandbox = Sandbox::new();
        let place = sandbox.outside("server");
        let bare = if kind == Kind::Bare { "--bare" } else { "" };
        let make = format!(
            "git clone -q {bare} . '{0}' && git remote add origin '{0}' && \
             git -C '{0}' config receive.denyCurrentBranch updateInstead && \
             git branch other && git commit -q --allow-empty -m next",
            place.display()
        );
        sandbox.sh(&make).assert().success();
        sandbox.install_hooks_in(&place);
        Self { sandbox, place }
    }

    fn git_dir(&self) -> PathBuf {
        let inner = self.place.join(".git");
        if inner.is_dir() { inner } else { self.place.clone() }
    }

    /// Marks the work of the server after a push was taken in; the first one waits at the gate.
    fn mark_begin_and_end(&self, gate: &Gate) {
        let marks = self.sandbox.outside("marks");
        let body = format!("echo begin >>'{0}'; {1}; echo end >>'{0}'", marks.display(), gate.script());
        script(&self.git_dir().join("hooks/post-receive"), &body);
    }

    fn push_command(&self, args: &[&str]) -> Command {
        let mut command = self.sandbox.git_command(["push", "origin"]);
        command.args(args);
        command
    }

    fn exec(&self, script: &str) -> Running {
        let mut command = self.sandbox.repoguard_command(["exec", "--", "sh", "-c", script]);
        command.current_dir(&self.place);
        self.sandbox.start_up(command)
    }

    fn waiters(&self) -> usize {
        self.status()["waiters"].as_array().map_or(0, Vec::len)
    }

    fn status(&self) -> serde_json::Value {
        let mut status = self.sandbox.repoguard(["status", "--json"]);
        let output = status.current_dir(&self.place).output().unwrap();
        serde_json::from_slice(&output.stdout).expect("one JSON document")
    }

    fn references(&self) -> String {
        let mut git = self.sandbox.command("git");
        let output = git.arg("for-each-ref").current_dir(&self.place).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    #[track_caller]
    fn assert_nothing_left(&self) {
        assert_eq!(self.sandbox.try_once_in(&self.place, &[]), 0, "{}", self.status());
        eventually("no process is left", || self.sandbox.processes().is_empty());
    }
}

#[test]
fn pushes_come_one_after_the_other() {
    for kind in KINDS {
        let server = Server::new(kind);
        let gate = server.sandbox.gate("gate");
        server.mark_begin_and_end(&gate);
        let mut first = server.sandbox.start(server.push_command(&["-q", "main"]));
        gate.reached_by(&mut first);
        let holder = server.status()["holders"][0].clone();
        assert!(holder["command"].as_str().is_some_and(|command| command.contains("receive-pack")), "{holder}");
        let mut second = server.sandbox.start(server.push_command(&["-q", "other", "HEAD~1:refs/heads/third"]));
        eventually("the second push waits", || {
            assert!(second.runs(), "{}", second.stderr());
            server.waiters() == 1
        });
        eventually("it says so", || second.stderr().contains("remote: repoguard: waiting"));
        assert_eq!(lines(&server.sandbox.outside("marks")), ["begin"]);
        gate.open();
        assert!(first.ended().success() && second.ended().success(), "{}{}", first.stderr(), second.stderr());
        assert_eq!(lines(&server.sandbox.outside("marks")), ["begin", "end", "begin", "end"], "{kind:?}");
        assert_eq!(server.references().lines().filter(|line| line.contains("refs/heads/")).count(), 3);
        server.assert_nothing_left();
    }
}

#[test]
fn push_is_refused_as_a_whole_when_the_time_is_over() {
    for kind in KINDS {
        for configured in [false, true] {
            let server = Server::new(kind);
            let _holder = server.exec(OBEDIENT);
            let before = server.references();
            let mut push = server.push_command(&["main", "other", "HEAD:refs/heads/new"]);
            if configured {
                let mut git = server.sandbox.command("git");
                git.args(["config", "repoguard.hookTimeout", "0.2"]).current_dir(&server.place);
                assert!(git.status().unwrap().success());
            } else {
                push.env("REPOGUARD_HOOK_TIMEOUT", "0.2");
            }
            let mut push = server.sandbox.start(push);
            assert_eq!(push.ended().code(), Some(1), "{}", push.stderr());
            let told = push.stderr();
            assert!(told.contains("remote: repoguard: busy"), "{told}");
            assert!(told.contains("pre-receive hook declined"), "{told}");
            assert_eq!(server.references(), before, "{kind:?}");
            assert_eq!(server.waiters(), 0);
        }
    }
}

#[test]
fn push_lands_after_the_wait() {
    for kind in KINDS {
        let server = Server::new(kind);
        let mut holder = server.exec(OBEDIENT);
        let mut push = server.sandbox.start(server.push_command(&["main"]));
        eventually("the push waits", || server.waiters() == 1);
        let before = server.references();
        assert!(push.runs());
        holder.finish();
        assert!(push.ended().success(), "{}", push.stderr());
        assert_ne!(server.references(), before);
        server.assert_nothing_left();
        let mut next = server.sandbox.repoguard(["exec", "--", "true"]);
        next.current_dir(&server.place).assert().success().stderr("");
    }
}

#[test]
fn push_into_a_pipe_does_not_hang() {
    for kind in KINDS {
        let server = Server::new(kind);
        server.sandbox.sh("git push origin main 2>&1 | cat; told=$(git push origin other 2>&1)").assert().success();
        server.assert_nothing_left();
        assert_eq!(server.references().lines().filter(|line| line.contains("refs/heads/")).count(), 2);
    }
}

#[test]
fn killed_push_leaves_the_server_free() {
    for kind in KINDS {
        let server = Server::new(kind);
        let gate = server.sandbox.gate("gate");
        server.mark_begin_and_end(&gate);
        let mut push = server.sandbox.start(server.push_command(&["-q", "main"]));
        gate.reached_by(&mut push);
        // The receiving git dies, and not its hook.
        let holder = server.status()["holders"][0]["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
        kill(holder.expect("a pid"), Signal::KILL);
        push.signal(Signal::KILL);
        push.ended();
        assert_eq!(server.sandbox.try_once_in(&server.place, &[]), 0, "{kind:?}");
        gate.open();
        server.assert_nothing_left();
    }
}

#[test]
fn push_that_is_killed_while_it_waits_leaves_the_server_free() {
    let server = Server::new(Kind::Bare);
    let mut holder = server.exec(OBEDIENT);
    let mut push = server.sandbox.start(server.push_command(&["main"]));
    eventually("the push waits", || server.waiters() == 1);
    push.signal_group(Signal::KILL);
    push.ended();
    holder.finish();
    server.assert_nothing_left();
}

/// What a hook of the server's was given on its standard input.
fn input_seen(place: &Path) -> Vec<String> {
    lines(&place.join("input"))
}

#[test]
fn hook_of_the_server_that_was_there_before_gets_what_git_gave() {
    let server = Server::new(Kind::Bare);
    let chained = server.place.join("hooks/pre-receive.repoguard-chained");
    script(&chained, "cat >>input; echo $# >>count");
    let mut push = server.sandbox.start(server.push_command(&["main", "other", "HEAD:refs/heads/new"]));
    assert!(push.ended().success(), "{}", push.stderr());
    let seen = input_seen(&server.place);
    assert_eq!(seen.len(), 3, "{seen:?}");
    assert!(seen.iter().all(|line| line.split(' ').count() == 3 && line.contains(" refs/heads/")), "{seen:?}");
    assert_eq!(lines(&server.place.join("count")), ["0"]);
    // And it refuses as before.
    script(&chained, "exit 3");
    let before = server.references();
    let mut push = server.sandbox.start(server.push_command(&["HEAD:refs/heads/newer"]));
    assert_eq!(push.ended().code(), Some(1));
    assert_eq!(server.references(), before);
    server.assert_nothing_left();
}

#[test]
fn push_that_updates_a_linked_worktree_waits_for_who_holds_it() {
    let server = Server::new(Kind::UpdateInstead);
    let linked = server.sandbox.outside("linked");
    let mut git = server.sandbox.command("git");
    git.args(["worktree", "add", "-q", "-b", "work"]).arg(&linked).current_dir(&server.place);
    assert!(git.status().unwrap().success());
    let mut command = server.sandbox.repoguard_command(["exec", "--", "sh", "-c", OBEDIENT]);
    command.current_dir(&linked);
    let _holder = server.sandbox.start_up(command);
    let mut push = server.push_command(&["main:work"]);
    push.env("REPOGUARD_HOOK_TIMEOUT", "0");
    let mut push = server.sandbox.start(push);
    assert_eq!(push.ended().code(), Some(1), "changed the files of a held worktree: {}", push.stderr());
}
