//! After a mutation that was killed: whoever comes next puts the repository in order, tells so, and only then goes on.

use std::fs;
use std::process::Command;
use std::thread;

use rustix::process::Signal;

use crate::mutate::furnished;
use crate::support::{At, HOLD, Sandbox, WORK, acquire, alive, eventually, kill, to_the_end};

fn stderr(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Says that there was a mutation which was killed, and what became of it.
#[track_caller]
fn tells(told: &str) {
    assert!(told.contains("killed") && told.contains("put back"), "{told}");
    assert!(!told.contains("panicked"), "{told}");
}

#[test]
fn whoever_comes_next_recovers_first_and_tells_so() {
    let look = "git status --porcelain -uall; cat file; ls d";
    let clean = "first\na\ne\n";
    let nexts: [&[&str]; 8] = [
        &["exec"],
        &["exec", "-n"],
        &["exec", "--shared"],
        &["exec", "--name", "x"],
        &["exec", "-n", "--shared", "--name", "x"],
        &["exec", "--scope", "repo"],
        &["mutate", "-m", "next", "--allow-empty"],
        &["mutate", "-m", "next", "--allow-empty", "--fence"],
    ];
    for next in nexts {
        let sandbox = furnished();
        let before = sandbox.state();
        sandbox.killed_at(At::Command, &[], WORK);
        assert_eq!(sandbox.status()["state"], "free");
        assert!(!sandbox.status()["unfinished"].is_null(), "{next:?}: {}", sandbox.status());
        let mut command = sandbox.repoguard(next);
        let output = command.args(["--", "sh", "-c", look]).assert().success().stdout(clean).get_output().clone();
        tells(&stderr(&output));
        if next[0] == "exec" {
            before.assert_same(&sandbox.state(), &stderr(&output));
        } else {
            assert_eq!(sandbox.git(["log", "-2", "--format=%s"]), "next\nfurnished\n");
        }
        sandbox.assert_no_traces();
        sandbox.assert_nothing_to_tell();
        let lines = sandbox.log();
        let line = lines.iter().find(|line| line["event"] == "recovered").expect("a line of the recovery");
        assert_eq!((&line["reason"], &line["scope"]), (&"undone".into(), &"worktree".into()), "{line}");
        assert!(line["command"].as_str().is_some_and(|command| command.contains("echo x >>file")), "{line}");
    }
}

#[test]
fn hold_that_is_acquired_begins_with_a_repository_in_order() {
    for options in [&["--ttl", "1m"][..], &["--ttl", "1m", "--background"], &["--ttl", "1m", "--name", "x"]] {
        let sandbox = furnished();
        let before = sandbox.state();
        sandbox.killed_at(At::Command, &[], WORK);
        let token = acquire(&sandbox, options);
        sandbox.repoguard(["wait", &token]).assert().success();
        before.assert_same(&sandbox.state(), "acquired");
        sandbox.repoguard(["release", &token]).assert().success();
        eventually("free", || sandbox.try_once(&[]) == 0);
        sandbox.assert_no_traces();
    }
}

#[test]
fn what_was_undone_comes_back_by_restore() {
    let sandbox = furnished();
    sandbox.killed_at(At::Command, &[], "echo x >>file; rm -r d; printf '\\0\\377' >new; git add new; ln -s file link");
    // Whose this is nobody can tell: it is not lost either.
    fs::write(sandbox.path("late"), "written after the crash\n").unwrap();
    let output = sandbox.repoguard(["recover"]).assert().success().get_output().clone();
    let snapshots = sandbox.snapshots();
    assert_eq!(snapshots.len(), 1, "{snapshots:?}");
    let id = snapshots[0]["id"].as_str().expect("an id");
    assert!(stderr(&output).contains(id), "{}", stderr(&output));
    assert!(!sandbox.path("late").exists() && !sandbox.path("new").exists());
    sandbox.repoguard(["restore", id]).assert().success();
    assert_eq!(fs::read(sandbox.path("file")).unwrap(), b"first\nx\n");
    assert_eq!(fs::read(sandbox.path("new")).unwrap(), b"\0\xff");
    assert_eq!(fs::read(sandbox.path("late")).unwrap(), b"written after the crash\n");
    assert_eq!(fs::read_link(sandbox.path("link")).unwrap().to_str(), Some("file"));
}

#[test]
fn mutation_that_lives_is_not_recovered_by_those_who_need_not_wait_for_it() {
    let sandbox = furnished();
    let mut running = sandbox.mutation_at(At::Command, &[], WORK);
    for args in [
        &["exec", "-n", "--name", "x", "--", "echo", "ran"][..],
        &["exec", "-n", "-s", "--name", "y", "--", "echo", "ran"],
    ] {
        sandbox.repoguard(args).assert().success().stdout("ran\n").stderr("");
    }
    let token = acquire(&sandbox, &["--ttl", "1m", "--name", "z"]);
    sandbox.repoguard(["release", &token]).assert().success();
    assert_eq!(sandbox.try_once(&[]), 75);
    assert_eq!(sandbox.try_once(&["-s"]), 75);
    sandbox.repoguard(["recover", "-w", "0"]).assert().code(75);
    for choice in ["--undo", "--finish"] {
        sandbox.repoguard(["recover", choice, "-w", "0"]).assert().code(75);
    }
    assert!(running.runs(), "{}", running.stderr());
    fs::remove_file(sandbox.outside("killed.closed")).unwrap();
    assert!(running.ended().success(), "{}", running.stderr());
    assert_eq!(sandbox.landed(), ["D d/a", "D d/e/b", "M file", "A new", "M other/o"]);
    sandbox.assert_no_traces();
}

#[test]
fn recovery_waits_for_a_command_that_outlived_us() {
    let sandbox = furnished();
    let before = sandbox.state();
    let mut running = sandbox.mutation_at(At::Command, &[], WORK);
    kill(running.keeper(), Signal::KILL);
    running.signal(Signal::KILL);
    running.ended();
    assert_eq!(sandbox.try_once(&[]), 75, "its command still changes files");
    let mut next = sandbox.queue(&[], "cat file");
    assert!(sandbox.path("new").exists(), "nothing was put back under its hands");
    fs::remove_file(sandbox.outside("killed.closed")).unwrap();
    assert!(next.ended().success(), "{}", next.stderr());
    tells(&next.stderr());
    assert_eq!(next.stdout(), "first\n");
    before.assert_same(&sandbox.state(), &next.stderr());
    sandbox.assert_no_traces();
    running.leave();
}

#[test]
fn keeper_of_a_killed_mutation_leaves_the_rest_to_the_next() {
    let sandbox = furnished();
    let before = sandbox.state();
    let mut running = sandbox.mutation_at(At::Command, &[], WORK);
    running.keeper();
    running.signal(Signal::KILL);
    running.ended();
    assert_eq!(sandbox.try_once(&[]), 75, "its command still changes files");
    fs::remove_file(sandbox.outside("killed.closed")).unwrap();
    eventually("free", || sandbox.try_once(&[]) == 0);
    before.assert_same(&sandbox.state(), "recovered");
    sandbox.assert_no_traces();
    running.leave();
}

#[test]
fn many_who_come_at_once_recover_once() {
    for commands in [["recover"; 4], ["exec"; 4]] {
        let sandbox = furnished();
        let before = sandbox.state();
        sandbox.killed_at(At::Command, &[], WORK);
        let run = |verb: &str| {
            let args: &[&str] = if verb == "exec" { &["exec", "--", "true"] } else { &["recover"] };
            sandbox.repoguard(args).output().unwrap()
        };
        let outputs: Vec<_> = thread::scope(|scope| {
            let all: Vec<_> = commands.map(|verb| scope.spawn(move || run(verb))).into_iter().collect();
            all.into_iter().map(|one| one.join().unwrap()).collect()
        });
        for output in &outputs {
            assert!(output.status.success(), "{}", stderr(output));
        }
        let told = outputs.iter().filter(|output| stderr(output).contains("put back")).count();
        assert_eq!(told, 1, "one of them did it: {:?}", outputs.iter().map(stderr).collect::<Vec<_>>());
        before.assert_same(&sandbox.state(), "recovered at once");
        assert_eq!(sandbox.snapshots().len(), 1);
        sandbox.assert_no_traces();
    }
}

#[test]
fn plain_git_commit_with_hooks_is_refused_until_it_is_recovered() {
    let sandbox = furnished();
    sandbox.install_hooks();
    sandbox.killed_at(At::Command, &[], WORK);
    let before = sandbox.state();
    for commit in ["git commit -qm mine", "git commit -qam mine", "git commit -q --allow-empty -m mine"] {
        let output = sandbox.sh(commit).output().unwrap();
        let told = stderr(&output);
        assert!(!output.status.success(), "{commit}: {told}");
        assert!(told.contains("repoguard recover") && told.contains("hint:"), "{commit}: {told}");
        before.assert_same(&sandbox.state(), &told);
    }
    sandbox.repoguard(["recover"]).assert().success();
    sandbox.git(["commit", "-q", "--allow-empty", "-m", "mine"]);
    sandbox.assert_nothing_left();
}

/// The same command in another checkout.
fn at(sandbox: &Sandbox, place: &std::path::Path, args: &[&str]) -> assert_cmd::Command {
    let mut command: Command = sandbox.repoguard_command(args);
    command.current_dir(place);
    to_the_end(command)
}

#[test]
fn linked_worktree_is_recovered_by_its_own_or_by_who_wants_all() {
    let nexts: [(&str, &[&str]); 4] = [
        ("linked", &["exec", "-n", "--", "true"]),
        ("main", &["exec", "-n", "--scope", "repo", "--", "true"]),
        ("linked", &["recover"]),
        ("main", &["acquire", "--ttl", "1m", "--scope", "repo"]),
    ];
    for (place, next) in nexts {
        let sandbox = furnished();
        let linked = sandbox.worktree("linked");
        let (main_before, before) = (sandbox.state(), sandbox.state_of(&linked));
        let gate = sandbox.gate("linked");
        let script = format!("{WORK}; git tag theirs; {}", gate.script());
        let mut mutation = sandbox.mutate_command(&[], &script);
        mutation.current_dir(&linked);
        let mut running = sandbox.start(mutation);
        gate.reached_by(&mut running);
        running.signal_group(Signal::KILL);
        running.ended();

        at(&sandbox, sandbox.here(), &["exec", "-n", "--", "true"]).assert().success();
        at(&sandbox, sandbox.here(), &["recover"]).assert().success();
        assert!(fs::read_to_string(linked.join("file")).unwrap().contains('x'), "not the main worktree's business");

        let from = if place == "main" { sandbox.here() } else { &linked };
        let output = at(&sandbox, from, next).assert().success().get_output().clone();
        before.assert_same(&sandbox.state_of(&linked), &stderr(&output));
        main_before.assert_same(&sandbox.state(), &stderr(&output));
        assert_eq!(crate::support::traces(&sandbox.path(".git")), [""; 0], "{next:?}");
    }
}

#[test]
fn inside_of_an_outer_hold_the_next_command_recovers() {
    let sandbox = furnished();
    let before = sandbox.state();
    // The mutation is killed with its processes, the hold around it lives.
    let script =
        format!("setsid repoguard mutate -m x -- sh -c '{WORK}; kill -9 0'; cat file; repoguard exec -n -- cat file");
    let output = sandbox.repoguard(["exec", "--", "sh", "-c", &script]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "first\nx\nfirst\n", "{}", stderr(&output));
    before.assert_same(&sandbox.state(), &stderr(&output));
    sandbox.assert_no_traces();
}

#[test]
fn mutation_inside_of_an_outer_hold_recovers_the_one_before() {
    let sandbox = furnished();
    let script = format!(
        "setsid repoguard mutate -m x -- sh -c '{WORK}; kill -9 0'; repoguard mutate -n -m next -- sh -c 'echo y >>file'"
    );
    let output = sandbox.repoguard(["exec", "--", "sh", "-c", &script]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(sandbox.landed(), ["M file"]);
    assert_eq!(sandbox.committed("file"), "first\ny\n");
    sandbox.assert_no_traces();
}

#[test]
fn unfinished_mutation_of_a_removed_worktree_is_in_nobodys_way() {
    let sandbox = furnished();
    let linked = sandbox.worktree("linked");
    let mut mutation = sandbox.mutate_command(&[], &format!("echo x >>file; {HOLD}"));
    mutation.current_dir(&linked);
    let mut running = sandbox.start_up(mutation);
    running.signal_group(Signal::KILL);
    running.ended();
    sandbox.git(["worktree", "remove", "--force", linked.to_str().unwrap()]);
    for options in [&[][..], &["--scope", "repo"], &["--name", "x"]] {
        assert_eq!(sandbox.try_once(options), 0, "{options:?}");
    }
    let again = sandbox.worktree("linked");
    assert_eq!(sandbox.try_once_in(&again, &[]), 0);
    assert_eq!(fs::read_to_string(again.join("file")).unwrap(), "first\n");
    assert!(!alive(running.pid()));
}

#[test]
fn gits_that_outlive_the_one_who_started_them_are_waited_for() {
    let sandbox = furnished();
    let told = sandbox.outside("filter");
    let filter = format!("echo begun >>{0}; sleep 1; cat; echo ended >>{0}", told.display());
    sandbox.git(["config", "filter.slow.clean", &filter]);
    sandbox.sh("echo '*.slow filter=slow' >.gitattributes; git add -A; git commit -qm slow").assert().success();
    let before = sandbox.state();
    let mut mutation = sandbox.start(sandbox.mutate_command(&[], "echo x >new.slow"));
    eventually("git is at work", || told.exists());
    mutation.signal(Signal::KILL);
    mutation.ended();
    sandbox.repoguard(["exec", "--", "true"]).assert().success();
    assert_eq!(fs::read_to_string(&told).unwrap(), "begun\nended\n");
    before.assert_same(&sandbox.state(), "afterwards");
}
