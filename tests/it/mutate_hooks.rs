//! `repoguard mutate` and the commit that git makes: the user's hooks, signing and identity; and repoguard inside of it.

use std::fs;

use crate::mutate::furnished;
use crate::support::{HOLD, Sandbox, lines};

#[test]
fn hook_that_refuses_undoes_everything_with_gits_status() {
    for hook in ["pre-commit", "prepare-commit-msg", "commit-msg"] {
        let sandbox = furnished();
        sandbox.own_hook(hook, "echo edited >>d/a; echo made >made; git add made; rm other/o; echo no-way >&2; exit 1");
        let told = sandbox.undone(&[], "echo x >>file; echo x >new; git add new", 1);
        assert!(told.contains("no-way") && told.contains("commit"), "{hook}: {told}");
    }
}

#[test]
fn hooks_run_once_in_gits_order_and_see_the_change_staged() {
    let sandbox = furnished();
    for hook in ["pre-commit", "prepare-commit-msg", "commit-msg", "post-commit"] {
        let note =
            format!("echo {hook} $(git diff --cached --name-only) >>\"$SANDBOX/hooks\"; repoguard exec -n -- true");
        sandbox.own_hook(hook, &note);
    }
    sandbox.commits(&[], "echo x >>file; echo x >new");
    let expected = ["pre-commit file new", "prepare-commit-msg file new", "commit-msg file new", "post-commit"];
    assert_eq!(lines(&sandbox.outside("hooks")), expected);
}

#[test]
fn what_a_hook_stages_is_committed() {
    let sandbox = furnished();
    sandbox.own_hook(
        "pre-commit",
        "tr a-z A-Z <file >t && cat t >file && rm t && echo x >generated && git add file generated",
    );
    sandbox.commits(&[], "echo more >>file");
    assert_eq!(sandbox.committed("file"), "FIRST\nMORE\n");
    assert_eq!(sandbox.landed(), ["M file", "A generated"]);
    assert_eq!(sandbox.short_status(), [""; 0]);
}

#[test]
fn what_a_hook_writes_into_the_message_is_committed() {
    let sandbox = furnished();
    sandbox.own_hook("commit-msg", "echo 'Change-Id: 7' >>\"$1\"");
    sandbox.own_hook("prepare-commit-msg", "printf 'Ticket 5: %s' \"$(cat \"$1\")\" >\"$1\"");
    sandbox.commits(&[], "echo x >>file");
    let message = sandbox.git(["log", "-1", "--format=%B"]);
    assert!(message.starts_with("Ticket 5: change") && message.contains("Change-Id: 7"), "{message}");
}

#[test]
fn hook_that_fails_after_the_commit_takes_nothing_back() {
    let sandbox = furnished();
    sandbox.own_hook("post-commit", "exit 1");
    sandbox.commits(&[], "echo x >>file");
}

#[test]
fn hook_that_commits_or_moves_refs_is_no_reason_to_say_it_worked() {
    let sandbox = furnished();
    sandbox.own_hook("pre-commit", "git tag from-hook; exit 1");
    let output = sandbox.mutate(&[], "echo x >>file").assert().code(1).get_output().clone();
    assert_eq!(
        fs::read_to_string(sandbox.path("file")).unwrap(),
        "first\n",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(sandbox.short_status(), [""; 0]);
}

#[test]
fn commit_that_cannot_be_signed_is_undone() {
    let sandbox = furnished();
    sandbox.git(["config", "commit.gpgSign", "true"]);
    sandbox.git(["config", "gpg.program", "false"]);
    let told = sandbox.undone(&[], "echo x >>file", 128);
    assert!(told.contains("commit"), "{told}");
}

#[test]
fn commit_without_an_identity_is_undone() {
    let sandbox = furnished();
    sandbox.git(["config", "user.useConfigOnly", "true"]);
    let mut command = sandbox.mutate(&[], "echo x >>file");
    for part in ["AUTHOR", "COMMITTER"] {
        command.env_remove(format!("GIT_{part}_NAME")).env_remove(format!("GIT_{part}_EMAIL"));
    }
    let told = sandbox.undone_with(command, 128);
    assert!(told.contains("commit") && told.contains("user.email"), "git's own words: {told}");
}

#[test]
fn configuration_of_the_users_own_decides_how_it_is_committed() {
    let sandbox = furnished();
    // An editor would be opened by these, if it was asked for; a template would be taken for a message.
    sandbox.git(["config", "core.editor", "false"]);
    sandbox.git(["config", "commit.verbose", "true"]);
    sandbox.git(["config", "commit.template", "file"]);
    sandbox.git(["config", "commit.cleanup", "scissors"]);
    sandbox.git(["config", "commit.status", "true"]);
    sandbox.git(["config", "status.showUntrackedFiles", "no"]);
    sandbox.git(["config", "diff.external", "false"]);
    sandbox.git(["config", "diff.noprefix", "true"]);
    sandbox.git(["config", "color.ui", "always"]);
    sandbox.git(["config", "core.quotePath", "false"]);
    sandbox.git(["config", "diff.renames", "copies"]);
    sandbox.git(["config", "status.relativePaths", "true"]);
    sandbox.git(["config", "alias.commit", "!false"]);
    fs::write(sandbox.path("mine"), "").unwrap();
    sandbox.commits(&[], "echo x >>file; mv d/a d/moved; echo x >new");
    assert_eq!(sandbox.landed(), ["D d/a", "A d/moved", "M file", "A new"]);
    assert_eq!(sandbox.git(["log", "-1", "--format=%s"]), "change\n");
}

#[test]
fn installed_guard_hooks_let_it_through() {
    let sandbox = Sandbox::guarded();
    sandbox.commits(&[], "echo x >>file");
    sandbox.undone(&[], "echo x >>file; git commit -qam theirs", 65);
    sandbox.undone(&[], "echo x >>file; git checkout -q -b theirs", 65);
    sandbox.undone(&[], "echo x >>file; exit 3", 3);
    sandbox.commits(&[], "echo x >>file");
    sandbox.assert_nothing_left();
    sandbox.assert_nothing_to_tell();
}

#[test]
fn what_is_inside_does_not_wait_for_us() {
    let sandbox = furnished();
    sandbox.commits(&[], "repoguard exec -n -- sh -c 'echo x >>file'");
    sandbox.undone(&[], "repoguard exec -n -- sh -c 'echo x >>file; exit 8'", 8);
    let mut outer =
        sandbox.repoguard(["exec", "--", "repoguard", "mutate", "-n", "-m", "x", "--", "sh", "-c", "echo y >>file"]);
    let before = sandbox.head();
    outer.assert().success();
    assert_eq!(
        (sandbox.landed(), sandbox.git(["rev-parse", "HEAD~1"])),
        (vec!["M file".to_owned()], format!("{before}\n"))
    );
    let outer =
        sandbox.repoguard(["exec", "--", "repoguard", "mutate", "-m", "x", "--", "sh", "-c", "rm -r *; exit 3"]);
    sandbox.undone_with(outer, 3);
    sandbox.assert_nothing_to_tell();
}

#[test]
fn mutation_inside_of_a_mutation_is_refused_and_harms_nothing() {
    let sandbox = furnished();
    let inner = "echo outer >>file; repoguard mutate -m inner -- sh -c 'echo inner >>d/a' 2>\"$SANDBOX/told\"; echo $? >\"$SANDBOX/status\"";
    sandbox.commits(&[], inner);
    assert_eq!(sandbox.landed(), ["M file"], "the inner one changed nothing");
    let status = fs::read_to_string(sandbox.outside("status")).unwrap();
    assert!(["65", "125"].contains(&status.trim()), "{status}");
    let told = fs::read_to_string(sandbox.outside("told")).unwrap();
    assert!(told.contains("mutat"), "{told}");
    // Also from a step that validates, and also where the environment was scrubbed on the way.
    for option in ["--check", "--verify"] {
        sandbox.undone(
            &[option, "env -u REPOGUARD_TOKEN repoguard mutate -n -m inner -- true && exit 0; exit 33"],
            "echo x >>file",
            33,
        );
    }
}

#[test]
fn busy_is_75_and_nothing_runs() {
    let sandbox = furnished();
    let before = sandbox.state();
    let mut holder = sandbox.hold_with(&["--reason", "nightly"], HOLD);
    for (options, status) in [(&["-n"][..], 75), (&["-w", "0.2"], 75), (&["-n", "-E", "42"], 42)] {
        let told = sandbox.assert_refused(sandbox.mutate(options, "touch \"$SANDBOX/ran\""), status);
        assert!(told.contains("nightly"), "{told}");
    }
    let shared = sandbox.hold_with(&["--name", "deploy", "-s"], HOLD);
    sandbox.assert_refused(sandbox.mutate(&["-n", "--name", "deploy"], "touch \"$SANDBOX/ran\""), 75);
    drop(shared);
    before.assert_same(&sandbox.state(), "all of these");

    let mut waiter = sandbox.start(sandbox.mutate_command(&["--reason", "release"], "echo x >>file"));
    crate::support::eventually("it is queued", || sandbox.status()["waiters"].to_string().contains("release"));
    holder.finish();
    assert!(waiter.ended().success(), "{}", waiter.stderr());
    assert_eq!(sandbox.landed(), ["M file"]);
}

#[test]
fn hook_of_an_outsider_waits_until_it_is_committed() {
    let sandbox = Sandbox::guarded();
    let gate = sandbox.gate("command");
    let mut ours = sandbox.start(sandbox.mutate_command(&[], &format!("echo x >>file; {}", gate.script())));
    gate.reached_by(&mut ours);
    let mut theirs = sandbox.git_queued(&["commit", "-q", "--allow-empty", "-m", "theirs"]);
    gate.open();
    assert!(ours.ended().success(), "{}", ours.stderr());
    let theirs = theirs.ended();
    let log = sandbox.git(["log", "--format=%s"]);
    assert_eq!(log, if theirs.success() { "theirs\nchange\nfirst\n" } else { "change\nfirst\n" }, "never in between");
    assert_eq!(sandbox.short_status(), [""; 0]);
}

#[test]
fn lfs_like_filters_are_the_users_own() {
    let sandbox = furnished();
    sandbox.git(["config", "filter.rot.clean", "tr a-z n-za-m"]);
    sandbox.git(["config", "filter.rot.smudge", "tr n-za-m a-z"]);
    sandbox.commits(&[], "echo '*.rot filter=rot' >.gitattributes; echo hello >x.rot");
    assert_eq!(sandbox.committed("x.rot"), "uryyb\n");
    assert_eq!(fs::read_to_string(sandbox.path("x.rot")).unwrap(), "hello\n");
    assert_eq!(sandbox.short_status(), [""; 0]);
    sandbox.undone(&[], "rm x.rot .gitattributes; exit 3", 3);
    assert_eq!(sandbox.short_status(), [""; 0]);
    sandbox.git(["config", "filter.rot.required", "true"]);
    sandbox.git(["config", "filter.rot.clean", "false"]);
    sandbox.undone(&[], "echo other >>x.rot; echo x >>file", 125);
}
