//! `repoguard worktrees`: what was made and is still there, how it lands, and what may go.

use std::fs;

use serde_json::Value;

use crate::support::{Sandbox, Went};

/// A checkout that is held for the rest of the test, and a worktree in which the script has run.
fn made(script: &str) -> (Sandbox, Went) {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&[]);
    let went = sandbox.isolated(&["--branch", "agent/fix", "--reason", "a test"], script);
    drop(holder);
    (sandbox, went)
}

const COMMIT: &str = "echo 2 >file && git commit -q -a -m second";

#[test]
fn nothing_made_is_said_so() {
    let sandbox = Sandbox::new();
    let output = sandbox.repoguard(["worktrees"]).assert().success().stdout("").get_output().clone();
    assert!(String::from_utf8_lossy(&output.stderr).contains("no worktree"), "{output:?}");
    assert_eq!(sandbox.listed(), [] as [Value; 0]);
    assert_eq!(sandbox.prune(), "");
    assert!(!sandbox.data().exists(), "a reader writes nothing");
    Sandbox::empty().repoguard(["worktrees"]).assert().code(125);
}

#[test]
fn list_tells_who_made_it_and_what_it_holds() {
    let (sandbox, went) = made(&format!("{COMMIT}; echo 3 >file; echo 1 >new"));
    let listed = sandbox.listed();
    let [one] = &listed[..] else { panic!("{listed:?}") };
    assert_eq!(one["path"], went.path().to_str().unwrap());
    assert_eq!((&one["branch"], &one["reason"]), (&Value::from("agent/fix"), &Value::from("a test")));
    assert_eq!(one["stands"], "ended");
    let holds = serde_json::json!({"commits": 1, "landed": false, "changed": 1, "untracked": 1, "also": []});
    assert_eq!(one["holds"], holds);
    assert!(one["command"].as_str().unwrap().contains("git commit"), "{one}");
    let output = sandbox.repoguard(["worktrees"]).assert().success().get_output().clone();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for word in ["agent/fix", "1 commit, 1 changed file, 1 untracked file", "for: a test", "its command has ended"] {
        assert!(text.contains(word), "{word}: {text}");
    }
}

#[test]
fn each_way_to_land_can_be_pasted() {
    for number in 0..2 {
        let (sandbox, _) = made(COMMIT);
        let land = sandbox.listed()[0]["land"].clone();
        assert_eq!(land.as_array().unwrap().len(), 2, "{land}");
        sandbox.sh(land[number].as_str().unwrap()).assert().success();
        assert_eq!(fs::read_to_string(sandbox.path("file")).unwrap(), "2\n", "{land}");
    }
    let (sandbox, _) = made("echo 2 >file; echo 1 >new");
    let land = sandbox.listed()[0]["land"][0].as_str().unwrap().to_owned();
    sandbox.sh(&format!("export GIT_EDITOR='echo subject >'; {land}")).assert().success();
    assert_eq!(fs::read_to_string(sandbox.path("new")).unwrap(), "1\n");
    let remove = sandbox.listed()[0]["remove"].as_str().unwrap().to_owned();
    sandbox.sh(&remove).assert().success();
    sandbox.assert_no_worktree_left();
}

#[test]
fn prune_removes_what_has_landed_and_nothing_else() {
    let (sandbox, went) = made(COMMIT);
    assert!(sandbox.prune().starts_with("kept"));
    sandbox.git(["switch", "-q", "--detach", "agent/fix"]);
    assert!(sandbox.prune().starts_with("kept"), "HEAD of a worktree is no branch");
    sandbox.git(["switch", "-q", "main"]);
    sandbox.git(["merge", "-q", "agent/fix"]);
    assert_eq!(sandbox.listed()[0]["holds"]["landed"], true);
    fs::write(went.path().join("late"), "1\n").unwrap();
    assert!(sandbox.prune().starts_with("kept"), "it has landed, but something else is in it");
    fs::remove_file(went.path().join("late")).unwrap();
    assert!(sandbox.prune().starts_with("removed"));
    sandbox.assert_no_worktree_left();
    assert_eq!(sandbox.git(["log", "-1", "--format=%s"]), "second\n");
}

#[test]
fn what_was_removed_by_hand_is_no_longer_listed() {
    let (sandbox, went) = made(COMMIT);
    sandbox.git(["worktree", "remove", went.path().to_str().unwrap()]);
    let listed = sandbox.listed();
    assert_eq!(
        (&listed[0]["stands"], &listed[0]["holds"]["commits"]),
        (&Value::from("gone"), &Value::from(1)),
        "{listed:?}"
    );
    assert!(sandbox.prune().starts_with("kept"));
    let remove = listed[0]["remove"].as_str().unwrap().to_owned();
    sandbox.sh(&remove).assert().success();
    assert_eq!(sandbox.listed(), [] as [Value; 0]);
    sandbox.prune();
    sandbox.assert_no_worktree_left();
}

#[test]
fn worktree_that_was_moved_is_found_and_one_that_was_lost_is_kept_on_the_list() {
    let (sandbox, went) = made(COMMIT);
    let moved = sandbox.outside("moved");
    sandbox.git(["worktree", "move", went.path().to_str().unwrap(), moved.to_str().unwrap()]);
    assert_eq!(sandbox.listed()[0]["path"], moved.to_str().unwrap());
    sandbox.git(["merge", "-q", "agent/fix"]);
    let lost = sandbox.outside("lost");
    fs::rename(&moved, &lost).unwrap();
    assert!(sandbox.prune().starts_with("kept"), "git does not know where it is");
    assert!(sandbox.branches().contains(&"agent/fix".to_owned()));
    fs::rename(&lost, &moved).unwrap();
    assert!(sandbox.prune().starts_with("removed"));
    assert!(!moved.exists());
    assert_eq!(sandbox.listed(), [] as [Value; 0]);
}

#[test]
fn damaged_records_stop_nobody() {
    let (sandbox, went) = made(COMMIT);
    let records = sandbox.data().join("worktrees");
    fs::write(records.join("damaged.json"), "{").unwrap();
    fs::write(records.join("other.json"), "{\"schema\":2}").unwrap();
    let sound = fs::read_to_string(records.join("agent-fix.json")).unwrap();
    for (number, (from, to)) in [
        ("\"base\":\"", "\"base\":\"--output=ran-"),
        ("\"id\":\"", "\"id\":\"../"),
        ("refs/heads/", "refs/heads/-"),
        ("\"path\":\"/", "\"path\":\""),
    ]
    .into_iter()
    .enumerate()
    {
        let unsound = sound.replace(from, to).replace("\"agent-fix\"", &format!("\"unsound-{number}\""));
        fs::write(records.join(format!("unsound-{number}.json")), unsound).unwrap();
    }
    fs::create_dir(records.join("directory.json")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", records.join("link.json")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, records.join("fifo.json"), rustix::fs::FileType::Fifo, 0o600.into(), 0)
        .unwrap();
    assert_eq!(sandbox.listed().len(), 1);
    sandbox.git(["merge", "-q", "agent/fix"]);
    assert!(sandbox.prune().contains("removed"));
    assert!(!went.path().exists());
    let _holder = sandbox.hold(&[]);
    sandbox.isolated(&[], "true").was_removed();
}

#[test]
fn record_that_names_what_is_not_ours_removes_nothing() {
    let (sandbox, went) = made("echo 1 >new");
    let record = sandbox.data().join("worktrees/agent-fix.json");
    let text = fs::read_to_string(&record).unwrap();
    let mine = sandbox.worktree("mine");
    // Whoever edits it can name another worktree, which is looked at as closely as ours.
    fs::write(mine.join("precious"), "1\n").unwrap();
    let other =
        text.replace("\"id\":\"agent-fix\"", "\"id\":\"mine\"").replace("refs/heads/agent/fix", "refs/heads/mine");
    assert_ne!(other, text);
    fs::write(&record, other).unwrap();
    assert!(sandbox.prune().starts_with("kept"));
    assert!(mine.join("precious").exists() && went.path().join("new").exists());
}

/// The commits that some branch, tag or remote-tracking reference leads to.
fn reachable(sandbox: &Sandbox) -> Vec<String> {
    let list = sandbox.git(["rev-list", "--branches", "--tags", "--remotes"]);
    let mut commits: Vec<String> = list.lines().map(str::to_owned).collect();
    commits.sort();
    commits
}

#[test]
fn prunes_at_once_leave_a_way_to_every_commit() {
    let sandbox = Sandbox::new();
    let mut holder = sandbox.hold(&[]);
    for round in 0..3 {
        // Each of these branches leads to the commits of those before it; the last two are at one commit.
        let mut names = Vec::new();
        for number in 0..5 {
            let (name, before) = (format!("b{round}-{number}"), format!("b{round}-{}", number.max(1) - 1));
            let merge = if number == 0 { String::new() } else { format!("git merge -q --ff-only {before};") };
            let commit = if number == 4 { "" } else { "git commit -q --allow-empty -m x" };
            sandbox.isolated(&["--branch", &name], &format!("{merge} {commit}")).was_kept();
            names.push(name);
        }
        let before = reachable(&sandbox);
        let prune = || sandbox.start(sandbox.repoguard_command(["worktrees", "prune"]));
        for mut running in [(); 4].map(|()| prune()) {
            assert!(running.ended().success(), "{}", running.stderr());
        }
        assert_eq!(reachable(&sandbox), before, "round {round}");
        sandbox.prune();
        assert_eq!(reachable(&sandbox), before, "round {round}");
        let left = names.iter().filter(|name| sandbox.branches().contains(name)).count();
        assert_eq!(left, 1, "round {round}: the others have landed");
    }
    holder.finish();
}

#[test]
fn witness_that_goes_at_the_last_moment_keeps_the_branch() {
    for witness in ["git tag w kept", "git branch w kept", "git update-ref refs/remotes/o/w kept"] {
        let sandbox = Sandbox::new();
        let _holder = sandbox.hold(&[]);
        sandbox.isolated(&["--branch", "kept"], "git commit -q --allow-empty -m precious").was_kept();
        sandbox.sh(witness).assert().success();
        let commit = sandbox.git(["rev-parse", "kept"]);
        // As another process would, just before the branch is deleted.
        let delete = "for r in refs/tags/w refs/heads/w refs/remotes/o/w; do real update-ref -d $r; done";
        let path = sandbox.git_that(&format!("case \"$*\" in *' update-ref --stdin'*) {delete};; esac"));
        let mut prune = sandbox.repoguard(["worktrees", "prune"]);
        prune.env("PATH", path).assert().success();
        assert!(
            reachable(&sandbox).contains(&commit.trim().to_owned()),
            "{witness}: {}",
            sandbox.git(["log", "--all", "--oneline"])
        );
    }
}

#[test]
fn reference_that_protects_a_mutation_is_no_way_to_a_commit() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold(&[]);
    let made = sandbox.isolated(&["--branch", "kept"], "git commit -q --allow-empty -m precious");
    made.was_kept();
    // A mutation in another worktree of that commit has a reference of its own to it.
    let other = sandbox.outside("other");
    sandbox.git(["worktree", "add", "-q", "--detach", other.to_str().unwrap(), "kept"]);
    let gate = sandbox.gate("gate");
    let mut mutate = sandbox.repoguard_command(["mutate", "-m", "m", "--", "sh", "-c", &gate.script()]);
    mutate.current_dir(&other);
    let mut running = sandbox.start(mutate);
    gate.reached_by(&mut running);
    sandbox.prune();
    gate.open();
    running.ended();
    assert!(sandbox.branches().contains(&"kept".to_owned()));
}

#[test]
fn reference_that_a_program_keeps_for_itself_is_no_other_branch() {
    for kept in ["refs/jj/keep/x", "refs/original/x", "refs/replace-of/x"] {
        let (sandbox, _) = made(COMMIT);
        sandbox.git(["update-ref", kept, "agent/fix"]);
        let listed = sandbox.prune();
        assert!(listed.starts_with("kept"), "{kept}: {listed}");
        assert_eq!(sandbox.git(["branch", "--list", "agent/fix"]).trim(), "+ agent/fix", "{kept}");
    }
}

#[test]
fn later_worktree_of_the_same_name_is_not_ours() {
    let (sandbox, went) = made(COMMIT);
    let place = sandbox.outside("mine");
    let name = went.path().file_name().unwrap().to_owned();
    sandbox.git(["merge", "-q", "agent/fix"]);
    sandbox.command("git").args(["worktree", "remove"]).arg(went.path()).status().unwrap();
    fs::create_dir(&place).unwrap();
    // Git gives it the name that is free again.
    sandbox.command("git").args(["worktree", "add", "-q"]).arg(place.join(&name)).arg("agent/fix").status().unwrap();
    assert!(sandbox.path(".git/worktrees").join(&name).exists());
    fs::write(place.join(&name).join("ignored"), "mine\n").unwrap();
    let listed = sandbox.prune();
    assert!(place.join(&name).join("ignored").exists(), "{listed}");
    assert_eq!(sandbox.git(["branch", "--list", "agent/fix"]).trim(), "+ agent/fix", "{listed}");
}

#[test]
fn later_branch_of_the_same_name_is_not_ours() {
    let (sandbox, went) = made(COMMIT);
    sandbox.git(["merge", "-q", "agent/fix"]);
    sandbox.command("git").args(["worktree", "remove"]).arg(went.path()).status().unwrap();
    sandbox.git(["branch", "-q", "-d", "agent/fix"]);
    sandbox.git(["branch", "agent/fix"]);
    assert_eq!(sandbox.listed(), [] as [Value; 0]);
    assert_eq!(sandbox.prune(), "");
    assert_eq!(sandbox.git(["branch", "--list", "agent/fix"]).trim(), "agent/fix");
}

#[test]
fn files_that_git_has_forgotten_are_named_and_stay() {
    let (sandbox, went) = made("echo work >work");
    let away = sandbox.outside("away");
    for (from, to) in [(went.path(), away.clone()), (away, went.path())] {
        fs::rename(from, to).unwrap();
        sandbox.git(["worktree", "prune"]);
    }
    let listed = sandbox.prune();
    assert!(listed.starts_with("kept") && listed.contains("git has forgotten it"), "{listed}");
    assert_eq!(fs::read_to_string(went.path().join("work")).unwrap(), "work\n");
    assert!(sandbox.listed()[0]["holds"].to_string().contains("git has forgotten it"), "{:?}", sandbox.listed());
    assert_eq!(sandbox.git(["branch", "--list", "agent/fix"]).trim(), "agent/fix", "{listed}");
}

#[test]
fn bare_repository_in_an_ignored_directory_keeps_it() {
    let sandbox = Sandbox::new();
    sandbox.sh("echo ignored >.gitignore && git add . && git commit -q -m ignore").assert().success();
    let _holder = sandbox.hold(&[]);
    let went = sandbox.isolated(&[], "git init -q --bare ignored/x.git && git push -q ignored/x.git HEAD:refs/heads/x");
    assert!(went.was_kept()["also"].to_string().contains("repository of its own"), "{went:?}");
}
