//! `exec --on-busy worktree`: a command that finds the checkout busy gets a worktree of its own.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::{Sandbox, Went, all_in, hooks, lines, script, shell_status};

/// Prints where it is.
const WHERE: &str = "pwd -P; git rev-parse --show-toplevel; git symbolic-ref --short HEAD";

#[test]
fn free_checkout_is_used_as_it_is() {
    let sandbox = Sandbox::new();
    let went = sandbox.isolated(&[], "pwd -P; echo \"${REPOGUARD_WORKTREE-none}\"");
    assert_eq!(went.stdout, format!("{}\nnone\n", sandbox.here().display()));
    assert_eq!((went.status, went.worktree()), (Some(0), &Value::Null), "{went:?}");
    assert!(!sandbox.worktrees_dir().exists());
}

#[test]
fn busy_checkout_is_replaced_by_a_worktree_on_a_branch_of_its_own() {
    let sandbox = Sandbox::new();
    let base = sandbox.git(["rev-parse", "HEAD"]);
    let _holder = sandbox.hold(&[]);
    let script =
        format!("{WHERE}; echo $REPOGUARD_WORKTREE; echo $PWD; git rev-parse HEAD; cat file; git status --porcelain");
    let went = sandbox.isolated(&[], &script);
    let (path, branch) = (went.path(), went.branch());
    let place = path.display();
    assert_eq!(went.stdout, format!("{place}\n{place}\n{branch}\n{place}\n{place}\n{base}first\n"));
    assert!(path.starts_with(sandbox.worktrees_dir()) && branch.starts_with("repoguard/"), "{went:?}");
    assert!(went.stderr.contains(&path.display().to_string()) && went.stderr.contains(branch), "{went:?}");
    assert_eq!(went.worktree()["base"], base.trim());
    went.was_removed();
    sandbox.assert_no_worktree_left();
    assert_eq!(sandbox.git(["status", "--porcelain", "--ignored"]), "");
}

#[test]
fn worktree_is_locked_as_long_as_its_command_runs() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold(&[]);
    let script =
        "echo up; read -r _; repoguard exec -n -- echo inside; cd \"$SANDBOX/repo\" && repoguard exec -n -- true";
    let mut inside = sandbox.start_up(sandbox.isolated_command(&[], script));
    let listed = sandbox.listed();
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!(listed[0]["stands"], "running", "{listed:?}");
    let place = std::path::PathBuf::from(listed[0]["path"].as_str().unwrap());
    assert_eq!(sandbox.try_once_in(&place, &[]), 75, "an outsider");
    assert_eq!(sandbox.try_once(&["--scope", "repo"]), 75, "everything");
    assert!(sandbox.prune().contains("kept"));
    inside.send("go on");
    assert_eq!(shell_status(inside.ended()), 75, "the busy checkout is not ours from inside: {}", inside.stderr());
    assert!(inside.stdout().ends_with("inside\n"), "{}", inside.stdout());
    sandbox.assert_no_worktree_left();
}

#[test]
fn worktree_is_locked_for_git_while_its_command_runs() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold(&[]);
    let script = "git worktree list --porcelain | grep '^locked' >\"$SANDBOX/seen\"; \
                  git worktree remove --force \"$PWD\" && exit 9; git worktree move \"$PWD\" \"$SANDBOX/moved\" && exit 8; exit 0";
    sandbox.isolated(&[], script).was_removed();
    let seen = fs::read_to_string(sandbox.outside("seen")).unwrap();
    assert_eq!(seen, "locked repoguard: its command runs\n");
    // To our own list that is no lock of the user's.
    sandbox.isolated(&[], "repoguard worktrees >\"$SANDBOX/listed\"").was_removed();
    let listed = fs::read_to_string(sandbox.outside("listed")).unwrap();
    assert!(listed.contains("somebody is in it") && !listed.contains("git worktree lock"), "{listed}");
    // What keeps it is unlocked; a lock of the user's stays.
    let kept = sandbox.isolated(&[], "echo 1 >new");
    kept.was_kept();
    let list = || sandbox.git(["worktree", "list", "--porcelain"]);
    assert!(!list().contains("locked"), "{}", list());
    let locked = sandbox.isolated(&[], "git worktree unlock . && git worktree lock --reason mine .");
    assert!(locked.was_kept()["also"].to_string().contains("git worktree lock"));
    assert!(list().contains("locked mine"), "{}", list());
}

#[test]
fn status_input_and_signals_pass_through() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold(&[]);
    for status in [0, 1, 75, 125] {
        let went = sandbox.isolated(&[], &format!("exit {status}"));
        assert_eq!((went.status, &went.result["status"]), (Some(status), &Value::from(status)), "{went:?}");
        went.was_removed();
    }
    assert_eq!(sandbox.isolated(&[], "kill -TERM $$").status, Some(143));
    let missing = sandbox.repoguard(["exec", "--on-busy", "worktree", "--", "no-such-program"]).output().unwrap();
    assert_eq!(missing.status.code(), Some(127));

    let mut input = sandbox.start(sandbox.isolated_command(&[], "cat"));
    input.send("a line");
    assert_eq!(shell_status(input.finish()), 0);
    assert_eq!(input.stdout(), "a line\n");

    let trap = "trap 'echo got; exit 7' TERM; echo up; while :; do sleep 0.02; done";
    let mut told = sandbox.start_up(sandbox.isolated_command(&[], trap));
    told.signal(Signal::TERM);
    assert_eq!(shell_status(told.ended()), 7);
    assert_eq!(told.stdout(), "up\ngot\n");
    sandbox.assert_no_worktree_left();
}

#[test]
fn command_starts_in_the_same_directory() {
    let sandbox = Sandbox::new();
    let setup = "mkdir -p 'a b/c' build x && echo 1 >'a b/c/f' && echo build >.gitignore && git add . && git commit -q -m more && mkdir -p build/deep x/y";
    sandbox.sh(setup).assert().success();
    let _holder = sandbox.hold(&[]);
    for (below, there) in [("a b/c", "f\n"), ("build/deep", ""), ("x/y", "")] {
        let mut command = sandbox.isolated_command(&[], "pwd -P; ls");
        command.current_dir(sandbox.path(below));
        let went = sandbox.went(&command);
        assert_eq!(went.stdout, format!("{}/{below}\n{there}", went.path().display()), "{went:?}");
        went.was_removed();
    }
    sandbox.assert_no_worktree_left();
}

#[test]
fn directory_that_is_something_else_in_the_commit_is_refused() {
    let sandbox = Sandbox::new();
    sandbox.sh("ln -s .. d && git add d && git commit -q -m link && rm d && mkdir d").assert().success();
    let _holder = sandbox.hold(&[]);
    let mut command = sandbox.isolated_command(&[], "touch \"$SANDBOX/ran\"");
    command.current_dir(sandbox.path("d"));
    let went = sandbox.went(&command);
    assert_eq!(went.status, Some(125), "{went:?}");
    assert!(went.stderr.contains("symbolic link"), "{went:?}");
    assert!(!sandbox.outside("ran").exists());
    sandbox.assert_no_worktree_left();
}

#[test]
fn with_a_time_it_waits_first() {
    let sandbox = Sandbox::new();
    let mut holder = sandbox.hold(&[]);
    let mut waiter = sandbox.start(sandbox.isolated_command(&["-w", "60"], "pwd -P"));
    crate::support::eventually("it waits", || sandbox.waiters() == 1);
    holder.finish();
    assert_eq!(shell_status(waiter.ended()), 0);
    assert_eq!(waiter.stdout(), format!("{}\n", sandbox.here().display()));

    let _holder = sandbox.hold(&[]);
    let went = sandbox.isolated(&["-w", "0.2"], "true");
    went.was_removed();
    assert!(went.result["waited_ms"].as_u64().unwrap() >= 200, "{went:?}");
}

#[test]
fn inside_a_hold_it_runs_where_it_is() {
    let sandbox = Sandbox::new();
    let script = "repoguard exec --on-busy worktree -- sh -c 'pwd -P'";
    let output = sandbox.repoguard(["exec", "--", "sh", "-c", script]).assert().success();
    assert_eq!(String::from_utf8_lossy(&output.get_output().stdout), format!("{}\n", sandbox.here().display()));
    let nested = "git commit -q --allow-empty -m x; repoguard exec --on-busy worktree -- sh -c 'pwd -P; git symbolic-ref --short HEAD'";
    let _holder = sandbox.hold(&[]);
    let went = sandbox.isolated(&[], nested);
    assert_eq!(went.stdout, format!("{}\n{}\n", went.path().display(), went.branch()), "in the worktree that it has");
}

#[test]
fn inside_the_hold_of_a_name_it_gets_a_worktree_all_the_same() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold(&[]);
    let script = "repoguard exec --on-busy worktree -- sh -c 'pwd -P; repoguard exec -n -- echo inside'";
    let output = sandbox.repoguard(["exec", "--name", "n", "--", "sh", "-c", script]).assert().success();
    let stdout = String::from_utf8_lossy(&output.get_output().stdout).into_owned();
    assert!(
        stdout.starts_with(&sandbox.worktrees_dir().display().to_string()) && stdout.ends_with("inside\n"),
        "{stdout}"
    );
    sandbox.assert_no_worktree_left();
}

#[test]
fn what_no_worktree_can_stand_in_for_is_wrong_usage() {
    let sandbox = Sandbox::new();
    for options in [&["--scope", "repo"][..], &["--name", "n"], &["--branch", "-x"], &["--branch", "a..b"]] {
        let options = [&["--on-busy", "worktree"], options].concat();
        sandbox.refused(&options, 2);
    }
    sandbox.refused(&["--branch", "b"], 2);
    sandbox.refused(&["--on-busy", "skip", "--worktree-dir", "d"], 2);
    sandbox.git(["config", "repoguard.scope", "repo"]);
    sandbox.refused(&["--on-busy", "worktree"], 2);
}

#[test]
fn without_a_worktree_or_a_commit_to_begin_from_it_is_refused() {
    let nothing = Sandbox::empty();
    nothing.refused(&["--on-busy", "worktree"], 125);
    nothing.git(["init", "-q", "-b", "main"]);
    let told = nothing.refused(&["--on-busy", "worktree"], 125);
    assert!(told.contains("no commit") && told.contains("hint:"), "{told}");
    let bare = Sandbox::empty();
    bare.git(["init", "-q", "--bare", "."]);
    bare.refused(&["--on-busy", "worktree"], 125);
}

#[test]
fn while_everything_is_locked_it_is_busy() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold(&["--scope", "repo"]);
    let told = sandbox.refused(&["--on-busy", "worktree"], 75);
    assert!(told.contains("held by"), "{told}");
    assert_eq!(sandbox.branches(), [""; 0]);
    assert!(!sandbox.worktrees_dir().exists());
}

#[test]
fn who_waits_for_everything_is_not_passed() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold(&[]);
    let _waiter = sandbox.queue(&["--scope", "repo"], "true");
    let told = sandbox.refused(&["--on-busy", "worktree"], 75);
    assert!(told.contains("waits before us"), "{told}");
    assert!(!sandbox.worktrees_dir().exists());
}

#[test]
fn where_waiting_would_be_a_deadlock_it_gets_a_worktree() {
    let sandbox = Sandbox::new();
    let script = "echo up; read -r _; repoguard exec --on-busy worktree -- sh -c 'echo $REPOGUARD_WORKTREE'";
    let mut named = sandbox.hold_with(&["--name", "n"], script);
    // Who holds the checkout waits for the name.
    let waits = "echo up; repoguard exec --name n -- true";
    let mut holder = sandbox.hold_with(&[], waits);
    crate::support::eventually("it waits for the name", || sandbox.waiters() == 1);
    named.send("go on");
    assert_eq!(shell_status(named.ended()), 0, "{}", named.stderr());
    assert!(named.stdout().contains("repo.worktrees"), "{}", named.stdout());
    assert_eq!(shell_status(holder.ended()), 0, "{}", holder.stderr());
    sandbox.assert_no_worktree_left();
}

#[test]
fn branch_and_directory_can_be_chosen_and_a_taken_name_gets_a_number() {
    let sandbox = Sandbox::new();
    sandbox.git(["branch", "fix/a"]);
    let holder = sandbox.hold(&[]);
    let elsewhere = sandbox.outside("else where");
    let options = ["--branch", "fix/a", "--worktree-dir", "../else where"];
    let first = sandbox.isolated(&options, "echo 1 >new");
    assert_eq!((first.branch(), first.path()), ("fix/a-2", elsewhere.join("fix-a-2")), "{first:?}");
    first.was_kept();
    let second = sandbox.isolated(&options, "echo 1 >new");
    assert_eq!(second.branch(), "fix/a-3", "{second:?}");
    assert_eq!(sandbox.listed().len(), 2);
    drop(holder);

    sandbox.git(["config", "repoguard.worktreeDir", "../configured"]);
    let _holder = sandbox.hold(&[]);
    let third = sandbox.isolated(&[], "true");
    assert!(third.path().starts_with(sandbox.outside("configured")), "{third:?}");
    third.was_removed();
    let mut by_variable = sandbox.isolated_command(&[], "true");
    by_variable.env("REPOGUARD_WORKTREE_DIR", "~/w").current_dir(sandbox.here());
    let fourth = sandbox.went(&by_variable);
    assert!(fourth.path().starts_with(sandbox.outside("home/w")), "{fourth:?}");
}

#[test]
fn branch_that_git_cannot_make_is_an_error_and_leaves_nothing() {
    let sandbox = Sandbox::new();
    sandbox.git(["branch", "repoguard"]);
    let _holder = sandbox.hold(&[]);
    let told = sandbox.refused(&["--on-busy", "worktree"], 125);
    assert!(told.contains("refs/heads/repoguard"), "{told}");
    assert_eq!(sandbox.branches(), ["repoguard"]);
    assert!(!sandbox.worktrees_dir().exists());
    assert_eq!(sandbox.listed(), [] as [Value; 0]);
}

#[test]
fn odd_names_are_names() {
    for name in ["it's a \"repo\"", "two\nlines", "-dash", "\u{fc}\u{1f600}"] {
        let sandbox = Sandbox::named(OsStr::from_bytes(name.as_bytes()));
        sandbox.sh("git init -q -b main . && echo 1 >file && git add . && git commit -q -m first").assert().success();
        let holder = sandbox.hold(&[]);
        let empty = sandbox.isolated(&[], "pwd -P");
        assert_eq!(empty.stdout, format!("{}\n", empty.path().display()), "{empty:?}");
        empty.was_removed();
        sandbox.assert_no_worktree_left();
        sandbox.isolated(&[], "echo 2 >file && git commit -q -a -m second").was_kept();
        drop(holder);
        let land = sandbox.listed()[0]["land"][0].as_str().unwrap().to_owned();
        sandbox.sh(&land).assert().success();
        assert_eq!(fs::read_to_string(sandbox.path("file")).unwrap(), "2\n", "{land}");
        assert!(sandbox.prune().starts_with("removed"));
        sandbox.assert_no_worktree_left();
    }
}

#[test]
fn linked_worktree_is_replaced_by_one_from_its_own_commit() {
    let sandbox = Sandbox::new();
    let linked = sandbox.worktree("linked");
    let start = |script: &str| {
        let mut command = sandbox.isolated_command(&[], script);
        command.current_dir(&linked);
        command
    };
    sandbox.sh("cd ../linked && echo 2 >more && git add more && git commit -q -m more").assert().success();
    let mut hold = sandbox.repoguard_command(["exec", "--", "sh", "-c", crate::support::HOLD]);
    hold.current_dir(&linked);
    let _holder = sandbox.start_up(hold);
    let went = sandbox.went(&start("cat more"));
    assert_eq!(went.stdout, "2\n");
    assert!(went.path().starts_with(sandbox.worktrees_dir()), "beside the main worktree: {went:?}");
    went.was_removed();
}

#[test]
fn submodule_gets_its_worktree_beside_the_whole_project() {
    let sandbox = Sandbox::new();
    let library = sandbox.outside("library");
    let setup = format!(
        "git init -q -b main {0} && cd {0} && echo 1 >l && git add l && git commit -q -m l && cd - && \
         git -c protocol.file.allow=always submodule --quiet add {0} sub && git commit -q -m sub",
        library.display()
    );
    sandbox.sh(&setup).assert().success();
    let mut hold = sandbox.repoguard_command(["exec", "--", "sh", "-c", crate::support::HOLD]);
    hold.current_dir(sandbox.path("sub"));
    let holder = sandbox.start_up(hold);
    let mut command = sandbox.isolated_command(&[], "cat l; git rev-parse --show-toplevel");
    command.current_dir(sandbox.path("sub"));
    let went = sandbox.went(&command);
    assert_eq!(went.stdout, format!("1\n{}\n", went.path().display()));
    assert!(went.path().starts_with(sandbox.worktrees_dir()), "{went:?}");
    went.was_removed();
    drop(holder);

    let _holder = sandbox.hold(&[]);
    sandbox.isolated(&[], "ls sub").was_removed();
    let checked_out = "git -c protocol.file.allow=always submodule --quiet update --init";
    let holds = sandbox.isolated(&[], checked_out).was_kept().clone();
    assert!(holds["also"].to_string().contains("submodules"), "{holds}");
}

#[test]
fn hooks_neither_stop_it_nor_wait_for_it() {
    let sandbox = Sandbox::new();
    hooks(&sandbox, &["install", "--strict"], 0);
    let seen = sandbox.outside("seen");
    // Chained behind ours.
    let own = sandbox.path(".git/hooks/post-checkout.repoguard-chained");
    script(&own, &format!("echo \"$1 $3 $(pwd -P) ${{REPOGUARD_TOKEN:+inside}}\" >>'{}'", seen.display()));
    let _holder = sandbox.hold(&[]);
    let went = sandbox.isolated(&[], "echo 2 >file && git commit -q -a -m second");
    assert_eq!(went.status, Some(0), "{went:?}");
    assert_eq!(went.was_kept()["commits"], 1, "{went:?}");
    assert_eq!(lines(&seen), [format!("{} 1 {} inside", "0".repeat(40), went.path().display())], "as git calls it");
    let empty = sandbox.isolated(&[], "true");
    empty.was_removed();
    assert_eq!(sandbox.branches(), [went.branch()]);
}

#[test]
fn what_git_says_of_the_busy_worktree_is_not_handed_down() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold(&[]);
    let alias = format!(
        "alias.go=!repoguard exec --on-busy worktree -- sh -c '{WHERE}; git add file; env | grep ^GIT_[DWI] || :'"
    );
    let mut command = sandbox.git_command(["-c", &alias, "go"]);
    command.env("GIT_DIR", sandbox.path(".git")).env("GIT_WORK_TREE", sandbox.here());
    command.env("GIT_INDEX_FILE", sandbox.path(".git/index")).stderr(Stdio::piped());
    let output = command.output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!(lines.len(), 3, "{stdout}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(lines[0], lines[1]);
    assert!(lines[0].starts_with(&sandbox.worktrees_dir().display().to_string()), "{stdout}");
    sandbox.assert_no_worktree_left();
}

#[test]
fn sparse_checkout_stays_sparse() {
    let sandbox = Sandbox::new();
    let setup = "mkdir in out && echo 1 >in/f && echo 1 >out/f && git add . && git commit -q -m more && git sparse-checkout set in";
    sandbox.sh(setup).assert().success();
    let _holder = sandbox.hold(&[]);
    let went = sandbox.isolated(&[], "ls");
    assert_eq!(went.stdout, "file\nin\n");
    went.was_removed();
    sandbox.assert_no_worktree_left();
}

/// One loop of an agent: it makes a commit of a file of its own, wherever it is run.
fn agent(sandbox: &Sandbox, number: usize) -> std::process::Command {
    let gate = sandbox.outside("all-up");
    let script = format!(
        "echo up; while [ ! -e '{}' ]; do sleep 0.02; done; echo {number} >file-{number} && git add . && git commit -q -m {number}",
        gate.display()
    );
    sandbox.isolated_command(&[], &script)
}

#[test]
fn eight_loops_started_at_once_are_one_in_the_checkout_and_seven_in_worktrees() {
    let sandbox = Sandbox::new();
    let mut loops: Vec<_> = (0..8).map(|number| sandbox.start(agent(&sandbox, number))).collect();
    for running in &mut loops {
        crate::support::eventually("all run at the same time", || {
            assert!(running.runs(), "{}", running.stderr());
            running.stdout() == "up\n"
        });
    }
    assert_eq!(sandbox.listed().len(), 7);
    fs::write(sandbox.outside("all-up"), "").unwrap();
    for running in &mut loops {
        assert_eq!(shell_status(running.ended()), 0, "{}", running.stderr());
    }
    let branches = sandbox.branches();
    assert_eq!(branches.len(), 7, "{branches:?}");
    assert_eq!(sandbox.git(["rev-list", "--count", "main"]), "2\n", "one in the checkout");
    for branch in &branches {
        assert_eq!(sandbox.git(["rev-list", "--count", &format!("main~1..{branch}")]), "1\n");
        sandbox.git(["merge", "-q", "--no-edit", branch]);
    }
    for number in 0..8 {
        assert_eq!(fs::read_to_string(sandbox.path(format!("file-{number}"))).unwrap(), format!("{number}\n"));
    }
    assert_eq!(sandbox.prune().lines().count(), 7);
    sandbox.assert_no_worktree_left();
    sandbox.git(["fsck", "--strict"]);
    assert!(all_in(&sandbox.outside("repo.worktrees")).is_empty());
}

#[test]
fn shared_readers_get_one_too() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold(&[]);
    let went: Went = sandbox.isolated(&["-s"], "cat file");
    assert_eq!(went.stdout, "first\n");
    went.was_removed();
}
