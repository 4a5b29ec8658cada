//! Records that somebody else has written: what stands in our directory leads nowhere but below its own root, and nothing is
//! done before all of it was looked at.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hmac_sha256::Hash as Sha256;
use serde_json::{Value, json};

use crate::mutate::furnished;
use crate::support::{At, Sandbox, WORK, is_root, own, skip, to_the_end};

/// A repository with an unfinished mutation, and a file outside of it that no recovery may touch.
fn killed() -> Sandbox {
    let sandbox = furnished();
    fs::write(sandbox.path("mine"), "mine\n").unwrap();
    sandbox.killed_at(At::Command, &[], WORK);
    fs::create_dir(sandbox.outside("victims")).unwrap();
    fs::write(sandbox.outside("victims/victim"), "victim\n").unwrap();
    sandbox
}

fn kept(sandbox: &Sandbox, name: &str) -> PathBuf {
    sandbox.data().join("mutation-w").join(name)
}

#[track_caller]
fn assert_victim(sandbox: &Sandbox, what: &str) {
    assert_eq!(fs::read_to_string(sandbox.outside("victims/victim")).unwrap(), "victim\n", "{what}");
    let names: Vec<_> =
        fs::read_dir(sandbox.outside("victims")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["victim"], "{what}");
}

/// A part of what is kept of the state before: the header, the items, or the references.
#[derive(Clone, Copy)]
enum Part {
    Header,
    Items,
    References,
}

/// Rewrites a part of what is kept, and the digest that is to tell that it is whole.
fn rewrite(sandbox: &Sandbox, part: Part, change: impl Fn(&mut Vec<Value>)) {
    let path = kept(sandbox, "before.jsonl");
    let text = fs::read_to_string(&path).unwrap();
    let mut header: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut items = header.split_off(1);
    let count = usize::try_from(header[0]["items"].as_u64().unwrap()).unwrap();
    let mut references = items.split_off(count);
    change(match part {
        Part::Header => &mut header,
        Part::Items => &mut items,
        Part::References => &mut references,
    });
    let rest = items.iter().chain(&references).fold(String::new(), |text, line| text + &line.to_string() + "\n");
    let digest = Sha256::hash(rest.as_bytes()).iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
    (header[0]["items"], header[0]["digest"]) = (json!(items.len()), json!(digest));
    fs::write(path, format!("{}\n{rest}", header[0])).unwrap();
}

/// Asserts that a record is refused by everybody, named with file and line, and forgotten on demand.
#[track_caller]
fn assert_refused(sandbox: &Sandbox, file: &str, what: &str) {
    let before = sandbox.state();
    for args in [&["exec", "--", "true"][..], &["recover", "--status"], &["recover"], &["recover", "--undo"]] {
        let told = sandbox.assert_refused(sandbox.repoguard(args), 65);
        assert!(told.contains(file) && told.contains("line ") && told.contains("--finish"), "{what}: {told}");
        before.assert_same(&sandbox.state(), &format!("{what}, {args:?}: {told}"));
        assert_victim(sandbox, what);
    }
    sandbox.repoguard(["recover", "--finish"]).assert().success();
    assert_victim(sandbox, what);
    assert_eq!(sandbox.try_once(&[]), 0, "{what}");
}

#[test]
fn path_that_leads_out_of_the_worktree_stops_recovery() {
    let absolute = |sandbox: &Sandbox| sandbox.outside("victims/victim").to_str().unwrap().to_owned();
    for bad in [
        "../victims/victim",
        "absolute",
        ".git/hooks/post-checkout",
        "d/../../victims/victim",
        "sub/.git/config",
        "a//b",
        "a\0b",
    ] {
        let sandbox = killed();
        let path = if bad == "absolute" { absolute(&sandbox) } else { bad.to_owned() };
        rewrite(&sandbox, Part::Items, |items| {
            let mut evil = items.iter().find(|item| item["path"] == "mine").expect("the caller's file").clone();
            evil["path"] = json!(path);
            items.push(evil);
            items.sort_by_key(|item| item["path"].as_str().unwrap().as_bytes().to_vec());
        });
        assert_refused(&sandbox, "before.jsonl", bad);
    }
    for bad in ["../victims/victim", "/etc/passwd", ".git/config", "x/"] {
        let sandbox = killed();
        let line = json!({ "step": "ran", "head": { "branch": "refs/heads/main", "commit": null }, "at_ms": 1,
            "touched": [{ "path": format!("{bad}/"), "now": null, "new": true }] });
        let line = if bad == "x/" { line.to_string().replace("x//", "./x/") } else { line.to_string() };
        let mut journal = fs::read_to_string(kept(&sandbox, "journal.jsonl")).unwrap();
        journal.extend([line.as_str(), "\n"]);
        fs::write(kept(&sandbox, "journal.jsonl"), journal).unwrap();
        assert_refused(&sandbox, "journal.jsonl", bad);
    }
    let sandbox = killed();
    rewrite(&sandbox, Part::Header, |header| {
        header[0]["hidden_rules"] = json!([{ "path": "../victims/.gitignore", "mode": 0o644, "text": "*" }]);
    });
    assert_refused(&sandbox, "before.jsonl", "a hidden rule");
}

#[test]
fn index_entry_that_leads_into_a_git_directory_stops_recovery() {
    for name in [".gAt/hooks/x", ".-/victim"] {
        let sandbox = killed();
        // Git makes no such index; its checksum is none of ours.
        sandbox.sh(&format!("export GIT_INDEX_FILE='{}'; git update-index --add --cacheinfo 100644,$(git hash-object -w file),{name}", kept(&sandbox, "index").display())).assert().success();
        let bytes = fs::read(kept(&sandbox, "index")).unwrap();
        let at = bytes.windows(name.len()).position(|window| window == name.as_bytes()).expect("the entry");
        let mut evil = bytes;
        let bad = if name.starts_with(".g") { ".git" } else { ".." };
        evil[at..at + bad.len()].copy_from_slice(bad.as_bytes());
        fs::write(kept(&sandbox, "index"), evil).unwrap();
        let before = sandbox.state();
        let told = sandbox.assert_refused(sandbox.repoguard(["exec", "--", "true"]), 125);
        assert!(told.contains("mutation-w/index") && told.contains("entry "), "{told}");
        before.assert_same(&sandbox.state(), &told);
    }
}

#[test]
fn names_that_git_would_take_for_options_or_commands_stop_recovery() {
    for (field, bad) in
        [("name", "--stdin"), ("name", "refs/heads/x\0delete refs/heads/main"), ("id", "HEAD"), ("target", "-d")]
    {
        let sandbox = killed();
        rewrite(&sandbox, Part::References, |references| references[0][field] = json!(bad));
        assert_refused(&sandbox, "before.jsonl", bad);
    }
    for bad in [json!({ "branch": "--delete", "commit": null }), json!({ "branch": null, "commit": "--all" })] {
        let sandbox = killed();
        rewrite(&sandbox, Part::Header, |header| header[0]["head"] = bad.clone());
        assert_refused(&sandbox, "before.jsonl", &bad.to_string());
    }
}

#[test]
fn journal_can_name_no_lock_but_index_and_head_of_its_own_git_directory() {
    let sandbox = killed();
    let metadata = fs::metadata(sandbox.outside("victims/victim")).unwrap();
    let path = sandbox.outside("victims/victim");
    let old = json!({ "path": path, "device": metadata.dev(), "inode": metadata.ino() });
    for file in [old, json!({ "lock": "../../victims/victim", "mark": "victim\n" })] {
        let sandbox = killed();
        let line = json!({ "step": "locking", "files": [file], "at_ms": 1 });
        let mut journal = fs::read_to_string(kept(&sandbox, "journal.jsonl")).unwrap();
        journal.extend([line.to_string().as_str(), "\n"]);
        fs::write(kept(&sandbox, "journal.jsonl"), journal).unwrap();
        assert_refused(&sandbox, "journal.jsonl", "a lock elsewhere");
    }
    assert_victim(&sandbox, "a lock elsewhere");
}

#[test]
fn kept_file_that_is_a_link_or_a_fifo_is_not_put_back() {
    for what in ["link", "FIFO", "directory of links"] {
        let sandbox = killed();
        fs::remove_file(sandbox.path("mine")).unwrap();
        let files = kept(&sandbox, "files");
        for entry in fs::read_dir(&files).unwrap() {
            let path = entry.unwrap().path();
            fs::remove_file(&path).unwrap();
            match what {
                "FIFO" => assert!(Command::new("mkfifo").arg(path).status().unwrap().success()),
                _ => symlink("/etc/passwd", path).unwrap(),
            }
        }
        if what == "directory of links" {
            fs::rename(&files, sandbox.outside("files")).unwrap();
            symlink(sandbox.outside("files"), &files).unwrap();
        }
        let mut recover = sandbox.repoguard(["recover", "--undo"]);
        let output = recover.timeout(Duration::from_secs(30)).output().unwrap();
        assert_eq!(output.status.code(), Some(125), "{what}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(!sandbox.path("mine").exists(), "{what}");
        sandbox.repoguard(["recover", "--finish"]).assert().success();
    }
}

#[test]
fn links_in_the_git_directory_lead_recovery_nowhere() {
    let sandbox = killed();
    fs::create_dir_all(sandbox.outside("elsewhere/repoguard")).unwrap();
    fs::write(sandbox.outside("elsewhere/repoguard/work"), "work\n").unwrap();
    fs::write(sandbox.outside("elsewhere/exclude"), "rules\n").unwrap();
    fs::remove_dir_all(sandbox.path(".git/refs/worktree")).ok();
    symlink(sandbox.outside("elsewhere"), sandbox.path(".git/refs/worktree")).unwrap();
    fs::remove_file(sandbox.path(".git/info/exclude")).ok();
    fs::create_dir_all(sandbox.path(".git/info")).unwrap();
    symlink(sandbox.outside("elsewhere/exclude"), sandbox.path(".git/info/exclude")).unwrap();
    drop(sandbox.repoguard(["exec", "--", "true"]).output().unwrap());
    drop(sandbox.repoguard(["recover", "--finish"]).output().unwrap());
    assert_eq!(fs::read_to_string(sandbox.outside("elsewhere/repoguard/work")).unwrap(), "work\n");
    assert_eq!(fs::read_to_string(sandbox.outside("elsewhere/exclude")).unwrap(), "rules\n");
}

#[test]
fn our_directory_as_a_link_is_refused() {
    for name in ["repoguard", "repoguard/snapshots", "repoguard/mutation-w"] {
        let sandbox = killed();
        let (place, aside) = (sandbox.path(".git").join(name), sandbox.outside("aside"));
        fs::create_dir_all(&place).unwrap();
        fs::rename(&place, &aside).unwrap();
        symlink(&aside, &place).unwrap();
        let now = sandbox.state();
        let output = sandbox.repoguard(["recover", "--undo"]).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert_ne!(output.status.code(), Some(0), "{name}: {told}");
        now.assert_same(&sandbox.state(), &told);
    }
}

#[test]
fn mutation_whose_undo_could_keep_nothing_does_not_begin() {
    for bad in ["ln -s ../../../aside", "mkfifo", "touch"] {
        let sandbox = furnished();
        fs::create_dir_all(sandbox.data()).unwrap();
        fs::create_dir(sandbox.outside("aside")).unwrap();
        sandbox.sh(&format!("{bad} .git/repoguard/snapshots")).assert().success();
        let before = sandbox.state();
        let output = sandbox.repoguard(["mutate", "-m", "m", "--", "touch", "ran"]).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(125), "{bad}: {told}");
        assert!(told.contains("read step") && told.contains("repoguard/snapshots` is a"), "{bad}: {told}");
        before.assert_same(&sandbox.state(), &told);
        sandbox.repoguard(["exec", "--", "true"]).assert().success();
    }
}

#[test]
fn directory_swapped_for_a_link_during_recovery_leads_nowhere() {
    let sandbox = furnished();
    sandbox
        .sh("mkdir -p swap; for i in $(seq 60); do echo $i >swap/f$i; done; git add swap; git commit -qm swap")
        .assert()
        .success();
    fs::create_dir(sandbox.outside("victims")).unwrap();
    for number in 1..=60 {
        fs::write(sandbox.outside("victims").join(format!("f{number}")), "victim\n").unwrap();
    }
    let (place, aside, link) = (sandbox.path("swap"), sandbox.outside("aside"), sandbox.outside("link"));
    symlink(sandbox.outside("victims"), &link).unwrap();
    for _ in 0..4 {
        sandbox.killed_at(At::Command, &[], "for f in swap/*; do echo x >>$f; done");
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !ended.load(Ordering::Relaxed) {
                    // Whoever may write to the worktree can do this at any instant.
                    if fs::rename(&place, &aside).is_ok() {
                        drop(fs::rename(&link, &place));
                        drop(fs::rename(&place, &link));
                        drop(fs::remove_dir_all(&place));
                        drop(fs::rename(&aside, &place));
                    }
                }
            });
            drop(sandbox.repoguard(["recover", "--undo"]).output().unwrap());
            ended.store(true, Ordering::Relaxed);
        });
        for number in 1..=60 {
            let victim = sandbox.outside("victims").join(format!("f{number}"));
            assert_eq!(fs::read_to_string(&victim).unwrap(), "victim\n", "{}", victim.display());
        }
        assert_eq!(fs::read_dir(sandbox.outside("victims")).unwrap().count(), 60);
        sandbox.repoguard(["recover", "--finish"]).assert().success();
        sandbox.git(["reset", "--hard", "-q"]);
    }
}

#[test]
fn directory_swapped_for_a_link_while_records_are_made_leads_nowhere() {
    let sandbox = Sandbox::new();
    let (place, link, victims) = (sandbox.data(), sandbox.outside("link"), sandbox.outside("victims"));
    fs::create_dir(&victims).unwrap();
    symlink(&victims, &link).unwrap();
    fs::create_dir(&place).unwrap();
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let exchange = rustix::fs::RenameFlags::EXCHANGE;
            while !ended.load(Ordering::Relaxed) {
                // In one step: there is always either of the two.
                rustix::fs::renameat_with(rustix::fs::CWD, &place, rustix::fs::CWD, &link, exchange).ok();
            }
        });
        for number in 0..60 {
            for file in ["log.jsonl", "state.json", "repo.lock", "fence"] {
                drop(fs::remove_file(place.join(file)));
            }
            let (name, section) = (format!("name{number}"), format!("section{number}"));
            for args in [
                &["exec", "-n", "--name", &name, "--scope", "repo", "--", "true"][..],
                &["state", "set", &section, "1"],
                &["next", &name],
                &["hooks", "install"],
            ] {
                drop(sandbox.repoguard(args).timeout(Duration::from_secs(20)).output().unwrap());
            }
        }
        ended.store(true, Ordering::Relaxed);
    });
    let made: Vec<_> = fs::read_dir(&victims).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert!(made.is_empty(), "{made:?}");
}

#[test]
fn uninstall_touches_no_directory_that_only_the_list_names() {
    let sandbox = Sandbox::new();
    let other = sandbox.outside("other");
    sandbox.sh("git init -q ../other && cd ../other && repoguard hooks install --both >/dev/null").assert().success();
    fs::create_dir(sandbox.outside("empty")).unwrap();
    fs::create_dir(sandbox.path("inside")).unwrap();
    symlink(other.join(".git/hooks"), sandbox.path("inside/link")).unwrap();
    sandbox.repoguard(["hooks", "install", "--both"]).assert().success();
    let list = sandbox.data().join("hooks.json");
    let mut manifest: Value = serde_json::from_str(&fs::read_to_string(&list).unwrap()).unwrap();
    for path in
        [other.join(".git/hooks"), sandbox.outside("empty"), "../inside/link".into(), "../../other/.git/hooks".into()]
    {
        manifest["directories"].as_array_mut().unwrap().push(json!({ "path": path, "created": true }));
    }
    fs::write(&list, manifest.to_string()).unwrap();
    sandbox.repoguard(["hooks", "uninstall"]).assert().success();
    assert!(!sandbox.path(".git/hooks/pre-commit").exists(), "its own is gone");
    assert!(other.join(".git/hooks/pre-commit").exists(), "another repository's hooks stay");
    assert!(sandbox.outside("empty").exists(), "a directory that it did not make stays");
}

#[test]
fn files_of_gits_that_block_or_are_endless_are_errors() {
    let fifo = |path: &Path| {
        fs::remove_dir_all(path).or_else(|_| fs::remove_file(path)).ok();
        assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
    };
    let endless = |path: &Path| {
        fs::remove_file(path).ok();
        fs::File::create(path).unwrap().set_len(1 << 40).unwrap();
    };
    for name in ["HEAD", "config", "commondir", "packed-refs", "refs/heads/main", "index", "config.worktree", "."] {
        for endlessly in [false, true] {
            let sandbox = furnished();
            let path = if name == "." { sandbox.path(".git") } else { sandbox.path(".git").join(name) };
            if name == "packed-refs" {
                sandbox.git(["pack-refs", "--all"]);
            }
            if name == "." {
                fs::remove_dir_all(&path).unwrap();
            }
            if endlessly {
                endless(&path);
            } else {
                fifo(&path);
            }
            for args in [&["status"][..], &["exec", "-n", "--", "true"], &["recover", "--status"]] {
                let mut command = sandbox.sh("ulimit -v 4000000; exec repoguard \"$@\"");
                let output = command.arg("sh").args(args).timeout(Duration::from_secs(20)).output().unwrap();
                let told = String::from_utf8_lossy(&output.stderr);
                assert!(
                    output.status.code().is_some(),
                    "{name}, endless {endlessly}, {args:?}: {:?} {told}",
                    output.status
                );
                assert!(!told.contains("panicked") && !told.contains("memory allocation"), "{name}: {told}");
            }
        }
    }
}

#[test]
fn fifo_in_the_place_of_a_file_of_gits_is_an_error_before_git_runs() {
    for name in ["config", "packed-refs", "info/exclude", "info/attributes", "info/grafts", "shallow", "index"] {
        let sandbox = furnished();
        let path = sandbox.path(".git").join(name);
        fs::create_dir_all(sandbox.path(".git/info")).unwrap();
        fs::remove_file(&path).ok();
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        for args in [&["mutate", "-m", "m", "--", "true"][..], &["hooks", "status"], &["worktrees"], &["doctor"]] {
            let mut command = sandbox.repoguard(args);
            let output = command.timeout(Duration::from_secs(20)).output().unwrap();
            let told = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            assert!(output.status.code().is_some(), "{name}, {args:?}: it hangs: {told}");
            assert!(args[0] == "worktrees" || told.contains("is a FIFO"), "{name}, {args:?}: {told}");
        }
        assert!(name == "config" || sandbox.try_once(&[]) == 0, "{name}: the lock needs no git");
    }
}

#[test]
fn copy_made_during_a_mutation_recovers_itself_alone() {
    for options in [&[][..], &["--fence"]] {
        let sandbox = furnished();
        let linked = sandbox.worktree("linked");
        let mut running = sandbox.mutation_at(At::Command, options, WORK);
        let before = sandbox.state();
        let original =
            |name: &str| fs::symlink_metadata(sandbox.path(".git").join(name)).map(|metadata| metadata.ino()).ok();
        let locks = || [original("index.lock"), original("HEAD.lock")];
        let held = locks();
        assert_eq!(held.iter().flatten().count(), if options.is_empty() { 0 } else { 2 });
        for (from, to) in [(sandbox.here().to_owned(), "copy"), (linked.clone(), "copy-of-linked")] {
            assert!(Command::new("cp").arg("-a").arg(from).arg(sandbox.outside(to)).status().unwrap().success());
        }
        let exec = |directory: &Path, scope: &str| {
            let mut exec = sandbox.repoguard_command(["exec", "--scope", scope, "-w", "20", "--", "true"]);
            exec.current_dir(directory);
            to_the_end(exec)
        };
        let copy = sandbox.outside("copy");
        let output = exec(&copy, "worktree").output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{options:?}: {told}");
        let status = sandbox.git(["-C", copy.to_str().unwrap(), "status", "--porcelain"]);
        assert!(!copy.join("new").exists() && status.is_empty(), "the copy is as it was before: {status}{told}");
        assert!(!copy.join(".git/index.lock").exists(), "{options:?}: {told}");
        assert_eq!(exec(&copy, "repo").output().unwrap().status.code(), Some(0), "{options:?}");
        before.assert_same(&sandbox.state(), &told);
        assert_eq!(locks(), held, "{options:?}: the original's locks stay");
        fs::remove_file(sandbox.outside("killed.closed")).unwrap();
        assert!(running.ended().success(), "{}", running.stderr());
        assert!(
            sandbox.landed().iter().any(|line| line.contains("new")),
            "{options:?}: the original's mutation goes on"
        );
    }
}

#[test]
fn copy_of_a_linked_worktree_does_not_recover_the_original() {
    let sandbox = furnished();
    let linked = sandbox.worktree("linked");
    let script = "cd ../linked && repoguard mutate -m x -- sh -c 'echo x >>file; echo >../here; exec sleep 60' & wait";
    let mut running = sandbox.start(sandbox.sh_command(script));
    crate::support::eventually("it runs", || sandbox.outside("here").exists());
    running.signal_group(rustix::process::Signal::KILL);
    running.ended();
    assert!(Command::new("cp").arg("-a").arg(&linked).arg(sandbox.outside("copy")).status().unwrap().success());
    let run = |directory: &Path, args: &[&str]| {
        let mut command = sandbox.repoguard_command(args);
        command.current_dir(directory);
        to_the_end(command).output().unwrap()
    };
    let left = fs::read(linked.join("file")).unwrap();
    for args in [&["exec", "--", "true"][..], &["recover", "--undo"], &["recover", "--finish"]] {
        let output = run(&sandbox.outside("copy"), args);
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(65), "{args:?}: {told}");
        assert!(told.contains(linked.to_str().unwrap()), "{told}");
        assert_eq!(fs::read(linked.join("file")).unwrap(), left);
    }
    assert_eq!(run(&linked, &["exec", "--", "true"]).status.code(), Some(0));
    assert_ne!(fs::read(linked.join("file")).unwrap(), left, "the original is recovered where it is");
}

#[test]
fn configured_worktree_is_no_place_to_recover_on_its_own() {
    let sandbox = killed();
    sandbox.git(["config", "core.worktree", "../.."]);
    let names = || {
        let mut names: Vec<_> =
            fs::read_dir(sandbox.outside("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = names();
    let told = sandbox.assert_refused(sandbox.repoguard(["exec", "--", "true"]), 65);
    assert!(told.contains("its files are at"), "{told}");
    assert_eq!(names(), before);
    assert_victim(&sandbox, "a configured worktree");
}

const OWNER: u32 = 61_011;
const MEMBER: u32 = 61_012;
const OTHER: u32 = 61_013;
const GROUP: u32 = 61_110;

/// A command as a user of the group who trusts the repository.
fn as_user(sandbox: &Sandbox, user: u32, args: &[&str]) -> Command {
    let mut command = sandbox.command("repoguard");
    if user != 0 {
        command.uid(user).gid(GROUP);
    }
    command
        .args(args)
        .env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", "safe.directory")
        .env("GIT_CONFIG_VALUE_0", "*");
    command.env("GIT_CONFIG_GLOBAL", sandbox.outside("trusting"));
    command
}

/// A mutation that a member of the group left in a repository of somebody else's, which is shared then, and perhaps later;
/// none without root.
fn left_by_member(shared: bool) -> Option<Sandbox> {
    if !is_root() {
        skip("a mutation of another user", "needs root");
        return None;
    }
    let sandbox = furnished();
    sandbox.open_to_all();
    fs::write(sandbox.outside("trusting"), "[safe]\n\tdirectory = *\n").unwrap();
    fs::write(sandbox.outside("marker"), "").unwrap();
    fs::set_permissions(sandbox.outside("marker"), fs::Permissions::from_mode(0o666)).unwrap();
    sandbox.git(["config", "core.sharedRepository", "group"]);
    own(sandbox.here(), OWNER, GROUP);
    for path in crate::support::walk(sandbox.here()).into_iter().chain([sandbox.here().to_owned()]) {
        let metadata = fs::symlink_metadata(&path).unwrap();
        if !metadata.is_symlink() {
            let bits = if metadata.is_dir() { 0o2070 } else { 0o060 };
            fs::set_permissions(&path, fs::Permissions::from_mode(metadata.mode() | bits)).unwrap();
        }
    }
    let script = "echo x >>file; echo n >new; echo here >\"$SANDBOX/marker\"; exec sleep 60";
    let mut running = sandbox.start(as_user(&sandbox, MEMBER, &["mutate", "-m", "x", "--", "sh", "-c", script]));
    crate::support::eventually("it runs", || fs::metadata(sandbox.outside("marker")).unwrap().len() > 0);
    running.signal_group(rustix::process::Signal::KILL);
    running.ended();
    if !shared {
        sandbox
            .sh("git -c safe.directory='*' config -f .git/config --unset core.sharedRepository; chmod 755 .git")
            .assert()
            .success();
    }
    Some(sandbox)
}

#[test]
fn mutation_of_another_user_is_recovered_by_its_owner_the_repositorys_or_root() {
    for (user, status) in [(OTHER, 65), (OWNER, 0), (MEMBER, 0), (0, 0)] {
        let Some(sandbox) = left_by_member(true) else { return };
        let output = to_the_end(as_user(&sandbox, user, &["exec", "--", "true"])).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{user}: {told}");
        assert_eq!(sandbox.path("new").exists(), status != 0, "{user}: {told}");
        if status != 0 {
            assert!(told.contains(&MEMBER.to_string()) && told.contains("root"), "{told}");
        }
        if user == 0 {
            assert_eq!(fs::metadata(sandbox.path("file")).unwrap().uid(), MEMBER, "whose mutation it was");
        }
    }
}

#[test]
fn mutation_of_a_stranger_is_not_followed_even_by_root() {
    for user in [OWNER, 0] {
        let Some(sandbox) = left_by_member(false) else { return };
        let output = to_the_end(as_user(&sandbox, user, &["exec", "--", "true"])).output().unwrap();
        assert_eq!(output.status.code(), Some(65), "{user}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(sandbox.path("new").exists(), "{user}");
    }
}

#[test]
fn recovery_by_root_makes_nothing_that_has_rights_of_others() {
    let Some(sandbox) = left_by_member(true) else { return };
    rewrite(&sandbox, Part::Items, |items| {
        let mut evil = items.iter().find(|item| item["path"] == "mine").cloned().unwrap_or_else(|| {
            json!({ "path": "mine", "kind": "file", "mode": 0, "stamp": null, "content": { "copy": 77 }, "own": true })
        });
        evil["path"] = json!("evil");
        evil["content"] = json!({ "copy": 77 });
        evil["mode"] = json!(0o6755);
        evil["stamp"] =
            json!({ "ctime": [0, 0], "mtime": [0, 0], "inode": 1, "size": 1, "mode": 0o106_755, "owner": [0, 0] });
        items.push(evil);
        items.sort_by_key(|item| item["path"].as_str().unwrap().as_bytes().to_vec());
    });
    fs::create_dir_all(kept(&sandbox, "files")).unwrap();
    fs::write(kept(&sandbox, "files/77"), "#!/bin/sh\nid\n").unwrap();
    for name in ["before.jsonl", "files/77"] {
        std::os::unix::fs::chown(kept(&sandbox, name), Some(MEMBER), Some(GROUP)).unwrap();
    }
    let output = to_the_end(as_user(&sandbox, 0, &["exec", "--", "true"])).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    if let Ok(metadata) = fs::metadata(sandbox.path("evil")) {
        assert_eq!((metadata.uid(), metadata.mode() & 0o6000), (MEMBER, 0), "{told}");
    }
}

/// What a member adds to the state that their mutation kept: items as `before.jsonl` has them.
fn forge(sandbox: &Sandbox, entries: &[Value]) {
    rewrite(sandbox, Part::Items, |items| {
        items.retain(|item| entries.iter().all(|entry| entry["path"] != item["path"]));
        items.extend(entries.iter().cloned());
        items.sort_by_key(|item| item["path"].as_str().unwrap().as_bytes().to_vec());
    });
    std::os::unix::fs::chown(kept(sandbox, "before.jsonl"), Some(MEMBER), Some(GROUP)).unwrap();
}

#[test]
fn forged_modes_of_a_member_change_no_file_or_directory_of_others() {
    for recoverer in [0, OWNER] {
        let Some(sandbox) = left_by_member(true) else { return };
        let (tool, private) = (sandbox.path("file"), sandbox.path("private"));
        fs::create_dir(&private).unwrap();
        fs::write(private.join("key"), "secret").unwrap();
        own(&private, OWNER, GROUP);
        own(&tool, OWNER, GROUP);
        fs::set_permissions(&private, fs::Permissions::from_mode(0o700)).unwrap();
        fs::set_permissions(&tool, fs::Permissions::from_mode(0o644)).unwrap();
        let top = fs::metadata(sandbox.here()).unwrap().mode();
        let blob = sandbox.git(["-c", "safe.directory=*", "rev-parse", "HEAD:file"]);
        sandbox.sh("git -c safe.directory='*' cat-file -p HEAD:file >file").assert().success();
        let size = fs::metadata(&tool).unwrap().len();
        let stamp = json!({ "ctime": [1, 1], "mtime": [1, 1], "inode": 1, "size": size, "mode": 0o104_755, "owner": [OWNER, GROUP] });
        let entry = |path: &str, kind: &str, mode: u32, content: Value| json!({ "path": path, "kind": kind, "mode": mode, "stamp": stamp, "content": content, "own": false });
        forge(
            &sandbox,
            &[
                entry("file", "file", 0o4755, json!({ "blob": blob.trim() })),
                entry("private", "directory", 0o777, json!("none")),
                entry("private/key", "absent", 0, json!("none")),
            ],
        );
        rewrite(&sandbox, Part::Header, |header| header[0]["top"] = json!(0o1777));
        let told = to_the_end(as_user(&sandbox, recoverer, &["recover", "--undo"])).output().unwrap();
        assert_eq!(fs::metadata(&tool).unwrap().mode() & 0o7777 & !0o060, 0o604, "{told:?}");
        assert_eq!(fs::metadata(&private).unwrap().mode() & 0o777, 0o700, "{told:?}");
        assert_eq!(fs::metadata(sandbox.here()).unwrap().mode(), top, "{told:?}");
        assert_eq!(fs::read_to_string(private.join("key")).unwrap(), "secret", "{told:?}");
    }
}

#[test]
fn file_of_others_that_a_member_moved_among_the_copies_is_not_read() {
    for (recoverer, secret_of) in [(0, 0), (0, OWNER), (OWNER, OWNER)] {
        let Some(sandbox) = left_by_member(true) else { return };
        let stamp = json!({ "ctime": [0, 0], "mtime": [0, 0], "inode": 1, "size": 6, "mode": 0o100_644, "owner": [MEMBER, GROUP] });
        forge(
            &sandbox,
            &[json!({
                "path": "leak", "kind": "file", "mode": 0o644, "stamp": stamp, "content": { "copy": 77 }, "own": true,
            })],
        );
        fs::create_dir_all(kept(&sandbox, "files")).unwrap();
        fs::write(kept(&sandbox, "files/77"), "secret").unwrap();
        fs::set_permissions(kept(&sandbox, "files/77"), fs::Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::chown(kept(&sandbox, "files/77"), Some(secret_of), Some(GROUP)).unwrap();
        let told = to_the_end(as_user(&sandbox, recoverer, &["recover", "--undo"])).output().unwrap();
        assert!(!sandbox.path("leak").exists(), "{told:?}");
        assert!(!told.status.success() && String::from_utf8_lossy(&told.stderr).contains("files/77"), "{told:?}");
    }
}

#[test]
fn program_of_a_stranger_that_is_called_git_holds_no_recovery_up() {
    let Some(sandbox) = left_by_member(true) else { return };
    // Its directory cannot be seen by others, and its words are those of a git of ours.
    let script = "$| = 1; open(my $stat, '<', '/proc/self/stat'); my $start = (split(' ', <$stat>))[47]; \
                  open(my $memory, '+<', '/proc/self/mem'); sysseek($memory, $start, 0); \
                  syswrite($memory, join(qq(\\0), qw(git --no-optional-locks --literal-pathspecs -c core.hooksPath=/dev/null), '')); \
                  print qq(up\\n); sleep 60";
    let mut perl = sandbox.command("perl");
    perl.args(["-e", script]).arg("x".repeat(100)).uid(OTHER).gid(OTHER);
    let mut stranger = sandbox.start_up(perl);
    let begun = std::time::Instant::now();
    let told = to_the_end(as_user(&sandbox, OWNER, &["recover", "--undo"])).output().unwrap();
    let words = fs::read(format!("/proc/{}/cmdline", stranger.pid())).unwrap();
    assert!(words.starts_with(b"git\0--no-optional-locks\0"), "{}", String::from_utf8_lossy(&words));
    stranger.signal(rustix::process::Signal::KILL);
    stranger.ended();
    assert!(told.status.success() && begun.elapsed().as_secs() < 5, "{told:?}");
}

#[test]
fn records_of_strangers_are_shown_only_in_shared_repositories() {
    if !is_root() {
        skip("records of a stranger", "needs root");
        return;
    }
    for shared in [false, true] {
        let sandbox = Sandbox::new();
        assert_eq!(sandbox.try_once(&["--reason", "by a stranger"]), 0);
        sandbox.repoguard(["hooks", "install", "--both"]).assert().success();
        let mode = if shared { 0o2775 } else { 0o755 };
        fs::set_permissions(sandbox.path(".git"), fs::Permissions::from_mode(mode)).unwrap();
        std::os::unix::fs::chown(sandbox.path(".git"), Some(0), Some(GROUP)).unwrap();
        std::os::unix::fs::chown(sandbox.data().join("log.jsonl"), Some(MEMBER), Some(GROUP)).unwrap();
        let log = String::from_utf8(sandbox.repoguard(["log"]).output().unwrap().stdout).unwrap();
        assert_eq!(log.contains("by a stranger"), shared, "{log}");
    }
}

#[test]
fn kept_state_that_another_member_put_in_place_is_not_put_back() {
    for name in ["before.jsonl", "index"] {
        let Some(sandbox) = left_by_member(true) else { return };
        std::os::unix::fs::chown(kept(&sandbox, name), Some(OTHER), Some(GROUP)).unwrap();
        let output = to_the_end(as_user(&sandbox, MEMBER, &["recover", "--undo"])).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && told.contains(&OTHER.to_string()), "{name}: {told}");
        assert!(sandbox.path("new").exists(), "nothing was undone: {name}: {told}");
    }
}

#[test]
fn kept_copy_that_is_endless_or_cut_off_is_an_error() {
    // A small file is kept among others, a large one by itself.
    for (bytes, length, works) in [(1, 1 << 40, true), (1, 0, false), (2 << 20, 1 << 40, false), (2 << 20, 0, false)] {
        let sandbox = furnished();
        let mine = "m".repeat(bytes);
        fs::write(sandbox.path("mine"), &mine).unwrap();
        sandbox.killed_at(At::Command, &[], "echo x >>file; echo n >new");
        fs::remove_file(sandbox.path("mine")).unwrap();
        for entry in fs::read_dir(kept(&sandbox, "files")).unwrap() {
            fs::File::options().write(true).open(entry.unwrap().path()).unwrap().set_len(length).unwrap();
        }
        // Who stood by may have copied a large file before it was written to.
        let works = works || fs::metadata(kept(&sandbox, "files/0")).is_ok_and(|copy| copy.len() == bytes as u64);
        let output = sandbox.repoguard(["exec", "-n", "--", "true"]).timeout(Duration::from_secs(30)).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code().is_some(), "it ends by itself: {told}");
        assert_eq!(told.contains("everything was put back"), works, "{bytes} {length}: {told}");
        assert_eq!(
            fs::read_to_string(sandbox.path("mine")).unwrap_or_default(),
            if works { mine } else { String::new() }
        );
    }
}

#[test]
fn journal_of_endless_steps_is_an_error() {
    let sandbox = killed();
    let journal = kept(&sandbox, "journal.jsonl");
    let steps = "{\"step\":\"kept\",\"at_ms\":1}\n".repeat(100_000);
    fs::write(&journal, fs::read_to_string(&journal).unwrap() + &steps).unwrap();
    let told = sandbox.refused(&[], 65);
    assert!(told.contains("journal.jsonl") && told.contains("--finish"), "{told}");
}

#[test]
fn snapshot_of_another_member_is_shown_and_not_brought_back() {
    let Some(sandbox) = left_by_member(true) else { return };
    to_the_end(as_user(&sandbox, MEMBER, &["recover", "--undo"])).assert().success();
    let list = to_the_end(as_user(&sandbox, OTHER, &["snapshots", "--json"])).output().unwrap();
    let list: Value = serde_json::from_slice(&list.stdout).expect("a list");
    let id = list["snapshots"][0]["id"].as_str().expect("an id").to_owned();
    fs::remove_file(sandbox.path("new")).ok();
    let output = to_the_end(as_user(&sandbox, OTHER, &["restore", &id])).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && told.contains(&MEMBER.to_string()), "{told}");
    assert!(!sandbox.path("new").exists());
    to_the_end(as_user(&sandbox, MEMBER, &["restore", &id])).assert().success();
    assert!(sandbox.path("new").exists());
}

#[test]
fn record_of_a_worktree_removes_no_directory_elsewhere() {
    for stage in ["reserved", "making"] {
        let sandbox = Sandbox::new();
        let victim = sandbox.outside("victims/empty");
        fs::create_dir_all(&victim).unwrap();
        fs::create_dir_all(sandbox.data().join("worktrees")).unwrap();
        let base = sandbox.git(["rev-parse", "HEAD"]);
        let record = json!({
            "schema": 1, "name": "empty", "stage": stage, "path": victim, "branch": "refs/heads/zz", "own_name": true,
            "base": base.trim(), "created_ms": 1, "stash": null, "id": null, "pid": 1, "host": "h", "user": "u", "agent": null,
            "command": "c", "reason": null,
        });
        fs::write(sandbox.data().join("worktrees/empty.json"), format!("{record}\n")).unwrap();
        let _holder = sandbox.hold(&[]);
        sandbox.repoguard(["exec", "--on-busy", "worktree", "--", "true"]).assert().success();
        drop(sandbox.repoguard(["worktrees", "prune"]).output());
        assert!(victim.is_dir(), "{stage}");
    }
}

#[test]
fn records_are_not_written_through_other_names_of_a_file() {
    let sandbox = Sandbox::new();
    assert_eq!(sandbox.try_once(&[]), 0);
    for name in ["log.jsonl", "holders/0", "heads/w", "queue/alloc"] {
        let (record, victim) = (sandbox.data().join(name), sandbox.outside("victim"));
        fs::write(&victim, "victim\n").unwrap();
        fs::remove_file(&record).unwrap();
        fs::hard_link(&victim, &record).unwrap();
        sandbox.git(["commit", "-q", "--allow-empty", "-m", name]);
        assert_eq!(sandbox.try_once(&[]), 0, "{name}");
        assert_eq!(fs::read_to_string(&victim).unwrap(), "victim\n", "{name}");
        fs::remove_file(&record).ok();
        fs::remove_file(&victim).unwrap();
    }
}
