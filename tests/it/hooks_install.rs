//! Installing hooks: what is there afterwards, what was there before, who is in the way, and that uninstall puts it
//! back.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use serde_json::Value;

use crate::support::{
    Sandbox, USUAL_HOOKS as USUAL, assert_all, binary, contents, copy_of_program, eventually, hook, hooks,
    hooks_command, hooks_in, is_root, listing, script, skip, states, states_in, to_the_end, without_samples,
};

#[test]
fn second_install_changes_nothing_and_says_so() {
    let sandbox = Sandbox::new();
    script(&hook(&sandbox, "pre-commit"), "exit 0");
    let first = hooks(&sandbox, &["install"], 0);
    assert_eq!(first.matches("installed `").count(), 5, "{first}");
    assert!(first.contains("pre-commit.repoguard-chained` and runs after the guard"), "{first}");
    let before = listing(&sandbox.path(".git"));
    let second = hooks(&sandbox, &["install"], 0);
    assert_eq!(second.matches("unchanged `").count(), 5, "{second}");
    assert_eq!(listing(&sandbox.path(".git")), before);
    assert_all(&states(&sandbox), &USUAL, "active script");
    assert_eq!(listing(&sandbox.path(".git")), before, "status writes nothing");
}

#[test]
fn uninstall_restores_what_was_there_byte_for_byte() {
    let sandbox = without_samples();
    let directory = sandbox.path(".git/hooks");
    fs::write(directory.join("pre-commit"), b"#!/bin/sh\nexit 0 # \xff\n").unwrap();
    fs::set_permissions(directory.join("pre-commit"), fs::Permissions::from_mode(0o711)).unwrap();
    script(&sandbox.path("tools/rebase"), "exit 0");
    symlink("../../tools/rebase", directory.join("pre-rebase")).unwrap();
    symlink("nowhere", directory.join("applypatch-msg")).unwrap();
    fs::write(directory.join("post-checkout"), "not executable").unwrap();
    fs::write(directory.join("commit-msg"), "not ours to touch").unwrap();
    let before = contents(&directory);
    hooks(&sandbox, &["install"], 0);
    assert_all(&states(&sandbox), &USUAL, "active script");
    let chained = directory.join("pre-rebase.repoguard-chained");
    assert_eq!(fs::read_link(chained).unwrap(), Path::new("../../tools/rebase"), "a link stays one");
    let told = hooks(&sandbox, &["uninstall"], 0);
    assert_eq!(told.matches("restored `").count(), 4, "{told}");
    assert_eq!(contents(&directory), before);
    assert!(!sandbox.data().join("hooks.json").exists());
    let again = hooks(&sandbox, &["uninstall"], 0);
    assert!(again.contains("nothing to remove"), "{again}");
    assert_eq!(contents(&directory), before);
}

#[test]
fn hook_that_was_there_runs_with_its_arguments_input_and_status() {
    let sandbox = Sandbox::new();
    script(&hook(&sandbox, "prepare-commit-msg"), "echo \"chained $2\" >>\"$1\"");
    script(&hook(&sandbox, "reference-transaction"), "cat >>\"$SANDBOX/seen\"");
    hooks(&sandbox, &["install", "--strict"], 0);
    sandbox.git(["commit", "-q", "--allow-empty", "-m", "second"]);
    assert!(sandbox.git(["log", "-1", "--format=%B"]).contains("chained message"));
    assert!(fs::read_to_string(sandbox.outside("seen")).unwrap().contains("refs/heads/main"));
    script(&hook(&sandbox, "pre-commit.repoguard-chained"), "exit 7");
    sandbox.sh("git commit -q --allow-empty -m third").assert().failure();
    assert_eq!(sandbox.git(["rev-list", "--count", "HEAD"]).trim(), "2");
}

#[test]
fn hooks_can_be_chosen() {
    let sandbox = Sandbox::new();
    hooks(&sandbox, &["install", "--hook", "pre-commit", "--hook", "pre-rebase"], 0);
    assert_all(&states(&sandbox), &["pre-commit", "pre-rebase"], "active script");
    hooks(&sandbox, &["install", "--hook", "pre-receive", "--strict"], 0);
    let all = ["pre-commit", "pre-rebase", "pre-receive", "reference-transaction"];
    assert_all(&states(&sandbox), &all, "active script");
    let output = sandbox.repoguard(["hooks", "install", "--hook", "pre-push"]).assert().code(2).get_output().clone();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("pre-commit, prepare-commit-msg"), "{told}");
}

#[test]
fn repository_that_receives_pushes_gets_pre_receive() {
    let sandbox = Sandbox::new();
    sandbox.git(["config", "receive.denyCurrentBranch", "updateInstead"]);
    hooks(&sandbox, &["install"], 0);
    let with_pre_receive: Vec<&str> = USUAL.into_iter().chain(["pre-receive"]).collect();
    assert_all(&states(&sandbox), &with_pre_receive, "active script");
    let bare = sandbox.outside("bare.git");
    sandbox.git([OsStr::new("clone"), "-q".as_ref(), "--bare".as_ref(), ".".as_ref(), bare.as_ref()]);
    hooks_in(&sandbox, &bare, &["install"], 0);
    assert_all(&states_in(&sandbox, &bare), &["pre-receive"], "active script");
    sandbox.git([OsStr::new("push"), "-q".as_ref(), bare.as_ref(), "HEAD:refs/heads/pushed".as_ref()]);
}

#[test]
fn linked_worktrees_share_the_hooks() {
    let sandbox = Sandbox::new();
    let linked = sandbox.worktree("linked");
    hooks_in(&sandbox, &linked, &["install"], 0);
    assert_all(&states(&sandbox), &USUAL, "active script");
    assert_all(&states_in(&sandbox, &linked), &USUAL, "active script");
    hooks(&sandbox, &["uninstall"], 0);
    assert_all(&states_in(&sandbox, &linked), &USUAL, "not-installed");
}

#[test]
fn hooks_path_of_the_repository_is_used() {
    for value in ["tools/hooks", "$HERE/absolute"] {
        let sandbox = Sandbox::new();
        fs::create_dir(sandbox.path("tools")).unwrap();
        let value = value.replace("$HERE", &sandbox.here().to_string_lossy());
        let directory = sandbox.path(&value);
        sandbox.git(["config", "core.hooksPath", &value]);
        let before = contents(&sandbox.path(".git/hooks"));
        hooks(&sandbox, &["install"], 0);
        assert_all(&states(&sandbox), &USUAL, "active script");
        assert!(directory.join("pre-commit").exists(), "{value}");
        assert_eq!(contents(&sandbox.path(".git/hooks")), before);
        // Found again also when git does not look there any more.
        sandbox.git(["config", "--unset", "core.hooksPath"]);
        assert_all(&states(&sandbox), &USUAL, "bypassed");
        hooks(&sandbox, &["uninstall"], 0);
        assert!(!directory.exists(), "who made it removes it: {value}");
    }
}

#[test]
fn hooks_path_of_the_user_is_refused_without_force() {
    let sandbox = Sandbox::new();
    let shared = sandbox.outside("shared-hooks");
    fs::create_dir(&shared).unwrap();
    let config = sandbox.outside("gitconfig");
    fs::write(&config, format!("[core]\n\thooksPath = {}\n", shared.display())).unwrap();
    let run = |args: &[&str]| {
        let mut command = hooks_command(&sandbox, binary(), args);
        command.env("GIT_CONFIG_GLOBAL", &config);
        to_the_end(command)
    };
    let output = run(&["install"]).assert().code(125).stdout("").get_output().clone();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("core.hooksPath") && told.contains("--force"), "{told}");
    assert!(told.contains(&*config.to_string_lossy()), "it says where that is set: {told}");
    assert!(contents(&shared).is_empty());
    run(&["install", "--force"]).assert().success();
    assert!(shared.join("pre-commit").exists());
    run(&["status"]).assert().success();
    run(&["uninstall"]).assert().success();
    assert!(contents(&shared).is_empty());
    // One given for a single command is not the repository's either.
    let mut once = hooks_command(&sandbox, binary(), &["install"]);
    once.env("GIT_CONFIG_COUNT", "1");
    once.env("GIT_CONFIG_KEY_0", "core.hooksPath").env("GIT_CONFIG_VALUE_0", &shared);
    to_the_end(once).assert().code(125);
}

#[test]
fn missing_directory_is_made_and_removed_again() {
    let sandbox = Sandbox::new();
    let directory = sandbox.path(".git/hooks");
    fs::remove_dir_all(&directory).unwrap();
    hooks(&sandbox, &["install"], 0);
    assert_all(&states(&sandbox), &USUAL, "active script");
    hooks(&sandbox, &["uninstall"], 0);
    assert!(!directory.exists());
    hooks(&sandbox, &["install"], 0);
    fs::write(directory.join("commit-msg"), "mine").unwrap();
    hooks(&sandbox, &["uninstall"], 0);
    assert_eq!(contents(&directory).len(), 1, "what others put there stays");
}

#[test]
fn whatever_is_in_the_way_nothing_is_half_installed() {
    let cases = [
        ("rm -r ../hooks; touch ../hooks", "is a regular file, not a directory"),
        ("mkdir post-checkout", "post-checkout` is a directory"),
        ("ln -s / post-checkout", "post-checkout` is a directory"),
        ("mkdir post-checkout.repoguard-chained", "post-checkout.repoguard-chained` is a directory"),
        ("echo one >post-checkout; echo two >post-checkout.repoguard-chained", "two different hooks"),
        ("echo : OVERCOMMIT_DISABLE >post-checkout", "overcommit"),
    ];
    for (prepare, expected) in cases {
        let sandbox = without_samples();
        script(&hook(&sandbox, "pre-commit"), "exit 0");
        sandbox.sh(&format!("cd .git/hooks; {prepare}")).assert().success();
        let before = contents(&sandbox.path(".git/hooks"));
        let told = hooks(&sandbox, &["install"], 125);
        assert!(told.contains(expected) && told.contains("hint:"), "{expected}: {told}");
        assert_eq!(contents(&sandbox.path(".git/hooks")), before, "{expected}");
        assert!(!sandbox.data().join("hooks.json").exists(), "{expected}");
    }
}

#[test]
fn what_fails_midway_is_undone() {
    if is_root() {
        skip("hooks in a directory that cannot be written", "root may write everywhere");
    } else {
        let sandbox = without_samples();
        let directory = sandbox.path(".git/hooks");
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o555)).unwrap();
        let told = hooks(&sandbox, &["install"], 125);
        assert!(told.contains("pre-commit") && told.contains("hint:"), "{told}");
    }
    // The list of what was installed cannot be written, or else the last of the scripts.
    let sandbox = without_samples();
    let directory = sandbox.path(".git/hooks");
    script(&directory.join("pre-commit"), "exit 0");
    hooks(&sandbox, &["install"], 0);
    fs::remove_file(directory.join("pre-rebase")).unwrap();
    fs::remove_file(sandbox.data().join("hooks.json")).unwrap();
    fs::create_dir_all(sandbox.data().join("hooks.json/in-the-way")).unwrap();
    let before = contents(&directory);
    for args in [&["install"][..], &["install", "--if-missing", "warn"], &["install", "--strict"]] {
        hooks(&sandbox, args, 125);
        assert_eq!(contents(&directory), before, "{args:?}");
    }
    fs::remove_dir_all(sandbox.data().join("hooks.json")).unwrap();
    fs::create_dir_all(directory.join(".repoguard-old-post-checkout/in-the-way")).unwrap();
    let before = contents(&directory);
    hooks(&sandbox, &["install", "--if-missing", "warn"], 125);
    assert_eq!(contents(&directory), before);
    assert!(!sandbox.data().join("hooks.json").exists());
}

#[test]
fn who_was_killed_between_two_steps_left_nothing_that_harms() {
    let sandbox = without_samples();
    let (first, kept) = (hook(&sandbox, "pre-commit"), hook(&sandbox, "pre-commit.repoguard-chained"));
    script(&first, "exit 0 # mine");
    let before = contents(&sandbox.path(".git/hooks"));
    // Kept, but not replaced yet; and, without hard links, renamed and nothing more.
    let halves: [&dyn Fn(); 2] = [&|| fs::hard_link(&first, &kept).unwrap(), &|| fs::rename(&first, &kept).unwrap()];
    for half in halves {
        half();
        fs::write(hook(&sandbox, ".repoguard-new-nEw123"), "torn").unwrap();
        hooks(&sandbox, &["install"], 0);
        assert_all(&states(&sandbox), &USUAL, "active script");
        hooks(&sandbox, &["uninstall"], 0);
        assert_eq!(contents(&sandbox.path(".git/hooks")), before);
        half();
        hooks(&sandbox, &["uninstall"], 0);
        assert_eq!(contents(&sandbox.path(".git/hooks")), before);
    }
}

#[test]
fn installs_that_race_come_to_the_same() {
    let sandbox = without_samples();
    script(&hook(&sandbox, "pre-commit"), "exit 0 # mine");
    let start = |_| sandbox.start(hooks_command(&sandbox, binary(), &["install"]));
    let racers: Vec<_> = (0..8).map(start).collect();
    for mut racer in racers {
        assert_eq!(racer.ended().code(), Some(0), "{}", racer.stderr());
    }
    assert_all(&states(&sandbox), &USUAL, "active script");
    let kept = fs::read_to_string(hook(&sandbox, "pre-commit.repoguard-chained")).unwrap();
    assert!(kept.contains("# mine"), "{kept}");
    assert_eq!(contents(&sandbox.path(".git/hooks")).len(), 6, "and nothing else is left");
}

#[test]
fn repositories_that_share_a_directory_lose_no_hook() {
    for round in 0..5 {
        let sandbox = Sandbox::new();
        let shared = sandbox.outside("shared-hooks");
        fs::create_dir(&shared).unwrap();
        for name in USUAL {
            script(&shared.join(name), &format!("exit 0 # mine: {name}"));
        }
        let before = contents(&shared);
        let repositories: Vec<_> = (0..4).map(|number| sandbox.outside(format!("repository-{number}"))).collect();
        for repository in &repositories {
            sandbox.git([OsStr::new("init"), "-q".as_ref(), repository.as_ref()]);
            let key = ["config", "core.hooksPath"].map(OsStr::new);
            sandbox.git([OsStr::new("-C"), repository.as_ref(), key[0], key[1], shared.as_ref()]);
        }
        // Each with another text, so that each writes.
        let start = |(number, repository): (usize, &std::path::PathBuf)| {
            let choice = ["warn", "refuse"][number % 2];
            let mut command = hooks_command(&sandbox, binary(), &["install", "--if-missing", choice]);
            command.current_dir(repository);
            sandbox.start(command)
        };
        let racers: Vec<_> = repositories.iter().enumerate().map(start).collect();
        for mut racer in racers {
            assert_eq!(racer.ended().code(), Some(0), "{}", racer.stderr());
        }
        for name in USUAL {
            let kept = fs::read_to_string(shared.join(format!("{name}.repoguard-chained"))).unwrap_or_default();
            assert!(kept.contains(&format!("# mine: {name}")), "round {round}, {name}: {kept}");
        }
        assert_eq!(contents(&shared).len(), 2 * USUAL.len(), "and nothing else is left");
        hooks_in(&sandbox, &repositories[0], &["uninstall"], 0);
        assert_eq!(contents(&shared), before, "round {round}");
    }
}

#[test]
fn install_waits_for_who_has_the_directory() {
    let sandbox = without_samples();
    let directory = fs::File::open(sandbox.path(".git/hooks")).unwrap();
    directory.lock().unwrap();
    let mut install = sandbox.start(hooks_command(&sandbox, binary(), &["install"]));
    // Another repository's install kept a hook just now.
    eventually("it got as far as its own lock", || sandbox.data().join("hooks.lock").exists());
    script(&hook(&sandbox, "pre-commit"), "exit 0 # late");
    directory.unlock().unwrap();
    assert_eq!(install.ended().code(), Some(0), "{}", install.stderr());
    let kept = fs::read_to_string(hook(&sandbox, "pre-commit.repoguard-chained")).unwrap();
    assert!(kept.contains("# late"), "{kept}");
}

#[test]
fn list_is_written_before_the_first_script() {
    let sandbox = Sandbox::new();
    let shared = sandbox.outside("shared-hooks");
    fs::create_dir(&shared).unwrap();
    let config = sandbox.outside("gitconfig");
    fs::write(&config, format!("[core]\n\thooksPath = {}\n", shared.display())).unwrap();
    let run = |args: &[&str]| {
        let mut command = hooks_command(&sandbox, binary(), args);
        command.env("GIT_CONFIG_GLOBAL", &config);
        to_the_end(command)
    };
    run(&["install", "--force"]).assert().success();
    let list = fs::metadata(sandbox.data().join("hooks.json")).unwrap().modified().unwrap();
    for name in USUAL {
        let written = fs::metadata(shared.join(name)).unwrap().modified().unwrap();
        assert!(list <= written, "{name}");
        // As if killed after the first one.
        if name != "pre-commit" {
            fs::remove_file(shared.join(name)).unwrap();
        }
    }
    run(&["uninstall"]).assert().success();
    assert!(contents(&shared).is_empty());
}

#[test]
fn files_of_others_are_not_tidied_away() {
    let sandbox = without_samples();
    let others = [".repoguard-notes.txt", ".repoguard-old-me", ".repoguard-old-pre-commit.bak", ".repoguard-"];
    let ours = [".repoguard-new-aB3xY9", ".repoguard-old-pre-commit", ".repoguard-old-pre-rebase.repoguard-chained"];
    let write = |directory: &Path| {
        for name in others.iter().chain(&ours) {
            fs::write(directory.join(name), "text").unwrap();
        }
    };
    let left = |directory: &Path| {
        let count = |names: &[&str]| names.iter().filter(|name| directory.join(name).exists()).count();
        (count(&others), count(&ours))
    };
    let directory = sandbox.path(".git/hooks");
    write(&directory);
    fs::create_dir(directory.join(".repoguard-direct")).unwrap();
    hooks(&sandbox, &["install"], 0);
    assert_eq!(left(&directory), (others.len(), 0));
    // A list that names a directory in which nothing of ours is.
    let elsewhere = sandbox.outside("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    write(&elsewhere);
    write(&directory);
    let list = sandbox.data().join("hooks.json");
    let mut document: Value = serde_json::from_slice(&fs::read(&list).unwrap()).unwrap();
    document["directories"] = serde_json::json!([{ "path": elsewhere, "created": false }]);
    fs::write(&list, document.to_string()).unwrap();
    hooks(&sandbox, &["uninstall"], 0);
    assert_eq!(left(&elsewhere), (others.len(), ours.len()));
    assert_eq!(left(&directory), (others.len(), 0));
    assert!(directory.join(".repoguard-direct").exists());
}

#[test]
fn odd_names_are_no_trouble() {
    let names: [&[u8]; 3] = [b"it's \"my\" $repo", "über".as_bytes(), b"not \xff text"];
    for name in names {
        let sandbox = Sandbox::named(OsStr::from_bytes(name));
        sandbox.git(["init", "-q", "-b", "main"]);
        let program = sandbox.path("bin/repoguard");
        fs::create_dir(sandbox.path("bin")).unwrap();
        copy_of_program(&program);
        to_the_end(hooks_command(&sandbox, &program, &["install"])).assert().success();
        assert_all(&states(&sandbox), &USUAL, "active script");
        let text = fs::read(hook(&sandbox, "pre-commit")).unwrap();
        let part = name.split(|byte| *byte == b'\'').next_back().unwrap();
        assert!(text.windows(part.len()).any(|window| window == part), "the hook names the program");
        sandbox.git(["commit", "-q", "--allow-empty", "-m", "one"]);
        eventually("the hook took the lock", || !sandbox.log().is_empty());
        hooks(&sandbox, &["uninstall"], 0);
        assert_all(&states(&sandbox), &USUAL, "not-installed");
    }
}

#[test]
fn submodules_have_hooks_of_their_own() {
    let sandbox = Sandbox::new();
    let add = "git -c protocol.file.allow=always submodule --quiet add ./. sub && git commit -qm sub";
    sandbox.sh(add).assert().success();
    hooks(&sandbox, &["install"], 0);
    assert_all(&states_in(&sandbox, &sandbox.path("sub")), &USUAL, "not-installed");
    let document = hooks(&sandbox, &["install", "--recurse-submodules", "--json"], 0);
    let document: Value = serde_json::from_str(&document).expect("one JSON document");
    assert_eq!(document["submodules"][0]["hooks"][0]["change"], "installed", "{document}");
    assert_all(&states_in(&sandbox, &sandbox.path("sub")), &USUAL, "active script");
    hooks(&sandbox, &["uninstall", "--recurse-submodules"], 0);
    assert_all(&states_in(&sandbox, &sandbox.path("sub")), &USUAL, "not-installed");
}

#[test]
fn without_a_repository_there_is_nothing_to_install() {
    let sandbox = Sandbox::empty();
    for verb in ["install", "uninstall", "status"] {
        let told = hooks(&sandbox, &[verb], 125);
        assert!(told.contains("no git repository"), "{told}");
    }
}
