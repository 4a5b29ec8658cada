//! `repoguard mutate` and a git of its command's that was killed: what it wrote is undone although it could not tell, and what
//! somebody else wrote meanwhile stays.

use crate::mutate::furnished;
use crate::support::{Sandbox, Traced, can_trace, chosen, shell_status, writing_calls};

fn forked() -> Sandbox {
    let sandbox = furnished();
    let fork = "git branch side; echo x >>file; git commit -qam second; echo y >>file; git add file";
    sandbox.sh(fork).assert().success();
    sandbox
}

#[test]
fn git_killed_at_any_of_its_calls_is_undone() {
    if !can_trace("a git of the command's killed at every system call") {
        return;
    }
    for git in [
        "git commit -q -m theirs",
        "git stash -q",
        "git checkout -q -b new",
        "git branch -m main renamed",
        "git branch -f side HEAD",
        "git tag mark",
        "git reset -q --hard HEAD~1",
        "git merge -q --no-ff -m x side",
    ] {
        let traced = forked();
        let mut command = traced.command("sh");
        command.args(["-c", &format!("exec {git}")]);
        let calls = writing_calls(&traced, &command, Traced::Itself);
        assert!(calls.len() > 3, "{git}: {calls:?}");
        // References are moved towards the end.
        let last = &calls[calls.len() / 2..];
        for call in chosen(last, 6) {
            let (name, number) = (&call.name, call.number);
            let sandbox = forked();
            let before = sandbox.state();
            let kill = format!("strace -o /dev/null -e trace={name} -e inject={name}:signal=KILL:when={number} {git}");
            let output = sandbox.mutate(&["--allow-dirty"], &format!("{kill}; exit 7")).output().unwrap();
            let told = format!("{git}, {call:?}: {}", String::from_utf8_lossy(&output.stderr));
            assert_eq!(output.status.code(), Some(7), "{told}");
            before.assert_same(&sandbox.state(), &told);
        }
    }
}

#[test]
fn what_somebody_else_moves_after_a_git_was_killed_before_it_wrote_stays() {
    let killed_in_editor = "git -c core.editor='kill -9 $PPID;:'";
    let mut wrong = Vec::new();
    for (killed, theirs, reference) in [
        (format!("{killed_in_editor} commit"), "git commit -q -m theirs", "HEAD"),
        (format!("{killed_in_editor} commit"), "git branch -f side HEAD", "refs/heads/side"),
        (format!("{killed_in_editor} tag -a mark"), "git tag mark", "refs/tags/mark"),
        (format!("{killed_in_editor} merge --no-ff --edit side"), "git branch -f side HEAD", "refs/heads/side"),
        (format!("{killed_in_editor} commit"), "git stash -q", "refs/stash"),
        (
            "git -c remote.x.url='ext::kill -9 $PPID' -c protocol.ext.allow=always fetch x side".into(),
            "git branch -f side HEAD",
            "refs/heads/side",
        ),
    ] {
        let sandbox = forked();
        let diverge = "git stash -q; git checkout -q side; echo s >s; git add s; git commit -q -m side; git checkout -q main; \
            git stash pop -q --index";
        sandbox.sh(diverge).assert().success();
        let gate = sandbox.gate("killed");
        let script = format!("{killed} >/dev/null 2>&1; rm -f .git/index.lock; {}; exit 7", gate.script());
        let mut running = sandbox.start(sandbox.mutate_command(&["--allow-dirty"], &script));
        gate.reached_by(&mut running);
        sandbox.sh(theirs).assert().success();
        let value = || sandbox.git(["rev-parse", reference]);
        let moved = value();
        gate.open();
        let status = shell_status(running.ended());
        if (status, value()) != (7, moved) {
            wrong.push(format!("{killed}, {theirs}: {status}: {}", running.stderr()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n---\n"));
}
