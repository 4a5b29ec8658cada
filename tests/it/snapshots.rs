//! `repoguard snapshots`: what was undone is listed, for as long as it is kept.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Sandbox, skip};

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn text(sandbox: &Sandbox, args: &[&str]) -> String {
    let output = sandbox.repoguard(["snapshots"]).args(args).assert().success().get_output().clone();
    String::from_utf8(output.stdout).expect("UTF-8, whatever the paths are")
}

fn ids(sandbox: &Sandbox) -> Vec<String> {
    sandbox.snapshots().iter().map(|snapshot| snapshot["id"].as_str().expect("an id").to_owned()).collect()
}

/// Replaces a file by a restore, which keeps what it replaces in a new snapshot; gives that one's id.
fn replace(sandbox: &Sandbox, bytes: &str) -> String {
    fs::write(sandbox.path("replaced"), bytes).unwrap();
    let id = sandbox.snapshot(Duration::ZERO).file("replaced", "kept", 0o644).finished();
    let output = sandbox.repoguard(["restore", &id, "--json"]).assert().success().get_output().clone();
    fs::remove_dir_all(sandbox.data().join("snapshots").join(id)).unwrap();
    let document: Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
    document["kept"].as_str().expect("what was there is kept").to_owned()
}

#[test]
fn without_snapshots_there_is_nothing_to_list() {
    let sandbox = Sandbox::new();
    assert_eq!(text(&sandbox, &[]), "");
    assert_eq!(sandbox.snapshots(), Vec::<Value>::new());
    let told = sandbox.repoguard(["snapshots", "2026"]).assert().code(1).stdout("").get_output().clone();
    let told = String::from_utf8(told.stderr).unwrap();
    assert!(told.contains("no snapshot `2026`") && told.contains("hint:"), "{told}");
    assert!(!sandbox.data().exists(), "a look writes nothing");
}

#[test]
fn newest_snapshot_is_listed_first() {
    let sandbox = Sandbox::new();
    let older = sandbox.snapshot(3 * MINUTE).file("a", "12345", 0o644).file("b", "678", 0o600).finished();
    let newer = sandbox.snapshot(2 * MINUTE).file("c", "", 0o644).finished();
    assert_eq!(ids(&sandbox), [newer.clone(), older.clone()]);
    let lines: Vec<String> = text(&sandbox, &[]).lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines[1].starts_with(&newer) && lines[2].starts_with(&older), "{lines:?}");
    assert!(lines[2].contains("8 B") && lines[2].contains("3 min") && lines[2].ends_with("a test"), "{lines:?}");
    let listed = &sandbox.snapshots()[1];
    assert_eq!((&listed["files"], &listed["bytes"], &listed["finished"]), (&json!(2), &json!(8), &json!(true)));
    assert_eq!((&listed["why"], &listed["fence"]), (&json!("a test"), &json!(7)));
}

#[test]
fn snapshot_tells_what_it_keeps_whatever_the_names() {
    let sandbox = Sandbox::new();
    let mut crafted = sandbox.snapshot(MINUTE).file("plain", "1", 0o644).file("with space", "", 0o644);
    fs::write(crafted.moved(json!(r"n\xFF\n")), "22").unwrap();
    let crafted = crafted.link("link", "to\u{1b}[31m").deleted("gone");
    let mut crafted = crafted.file("ansi\u{1b}[31m\nline", "", 0o644);
    let directory = crafted.moved("dir");
    fs::create_dir_all(directory.join("sub/empty")).unwrap();
    fs::write(directory.join("sub/file"), "333").unwrap();
    crafted.moved("never moved");
    fs::write(sandbox.path("never moved"), "").unwrap();
    crafted.line(&json!({"what": "reference", "name": "refs/heads/x", "old": "1234", "new": null}));
    crafted.line(&json!({"what": "other", "file": 77, "label": "lock", "path": "/x"}));
    let id = crafted.finished();
    let shown = text(&sandbox, &[&id]);
    assert!(!shown.contains('\u{1b}'), "nothing moves the cursor: {shown}");
    for part in ["  plain\n", "'with space'", r"$'n\377\012'", "dir/sub/empty", "dir/sub/file", "gone", "refs/heads/x"]
    {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert!(!shown.contains("never moved"), "{shown}");
    let kept = sandbox.kept_in(&id);
    let files = kept["files"].as_array().unwrap();
    assert_eq!((files.len(), &files[2]["path_hex"], &files[2]["bytes"]), (7, &json!("6eff0a"), &json!(2)));
    assert_eq!((&kept["deleted"][0]["path"], &kept["bytes"]), (&json!("gone"), &json!(6)));
}

#[test]
fn id_is_known_by_its_beginning() {
    let sandbox = Sandbox::new();
    let one = sandbox.snapshot(40 * MINUTE).file("a", "1", 0o644).finished();
    sandbox.snapshot(20 * MINUTE).file("a", "2", 0o644).finished();
    for beginning in [&one[..], &one[..one.len() - 1], &one[..15]] {
        assert_eq!(sandbox.kept_in(beginning)["id"], json!(one), "{beginning}");
    }
}

#[test]
fn beginning_of_several_ids_is_no_name() {
    let sandbox = Sandbox::new();
    let ids: Vec<String> = (0..2).map(|_| sandbox.snapshot(40 * MINUTE).file("a", "1", 0o644).finished()).collect();
    for (verb, beginning) in [("snapshots", &ids[0][..10]), ("restore", ""), ("restore", &ids[0][..4])] {
        let output = sandbox.repoguard([verb, beginning]).assert().code(1).stdout("").get_output().clone();
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(beginning.is_empty() || ids.iter().all(|id| told.contains(id)), "{told}");
    }
    assert!(!sandbox.path("a").exists());
}

#[test]
fn damaged_and_foreign_directories_fail_nothing() {
    let sandbox = Sandbox::new();
    let good = sandbox.snapshot(9 * MINUTE).file("a", "1", 0o644).finished();
    let place = sandbox.data().join("snapshots");
    let damaged = |what: &str| {
        let crafted = sandbox.snapshot(MINUTE).file("a", "1", 0o644);
        match what {
            "manifest" => fs::remove_file(crafted.directory.join("manifest.jsonl")).unwrap(),
            "files" => fs::remove_dir_all(crafted.directory.join("files")).unwrap(),
            "garbage" => fs::write(crafted.directory.join("manifest.jsonl"), b"\xff\xfe{}\n[1,2\n").unwrap(),
            "schema" => fs::write(crafted.directory.join("manifest.jsonl"), "{\"schema\":99}\n").unwrap(),
            "link" => {
                fs::rename(&crafted.directory, place.join("elsewhere")).unwrap();
                symlink(place.join("elsewhere"), &crafted.directory).unwrap();
            }
            "fifo" => {
                fs::remove_file(crafted.directory.join("manifest.jsonl")).unwrap();
                sandbox.command("mkfifo").arg(crafted.directory.join("manifest.jsonl")).status().unwrap();
            }
            "leading elsewhere" => {
                fs::remove_dir_all(crafted.directory.join("files")).unwrap();
                symlink("/etc", crafted.directory.join("files")).unwrap();
            }
            _ => unreachable!(),
        }
        crafted.id
    };
    let bad = ["manifest", "files", "garbage", "schema", "link", "fifo", "leading elsewhere"].map(damaged);
    fs::create_dir(place.join("not-one-of-ours")).unwrap();
    fs::write(place.join("20260101T000000Z-123456"), "a file").unwrap();
    let listed = sandbox.snapshots();
    assert_eq!(listed.len(), 2 + bad.len(), "{listed:?}");
    let shown = text(&sandbox, &[]);
    for id in &bad {
        let one = listed.iter().find(|one| one["id"] == json!(id)).expect("it is listed");
        assert!(one["damage"].is_string(), "{one}");
        assert!(shown.lines().any(|line| line.starts_with(id) && line.contains("cannot be read")), "{shown}");
        for verb in ["snapshots", "restore"] {
            let output = sandbox.repoguard([verb, id]).assert().code(125).stdout("").get_output().clone();
            assert!(String::from_utf8_lossy(&output.stderr).contains("is damaged"), "{output:?}");
        }
    }
    assert!(listed.iter().any(|one| one["id"] == json!(good) && one["damage"].is_null()), "{listed:?}");
    assert!(!sandbox.path("a").exists());
}

#[test]
fn torn_and_unknown_lines_are_passed_over() {
    let sandbox = Sandbox::new();
    let crafted = sandbox.snapshot(MINUTE).file("a", "1", 0o644);
    crafted.line(&json!({"what": "of a later version", "path": "b"}));
    crafted.line(&json!({"what": "moved", "file": 9, "path": {"no": "text"}}));
    fs::write(crafted.directory.join("files/9"), "lost").unwrap();
    fs::write(crafted.directory.join("files/10"), "nameless").unwrap();
    let manifest = crafted.directory.join("manifest.jsonl");
    let mut bytes = fs::read(&manifest).unwrap();
    bytes.extend_from_slice(b"{\"what\":\"moved\",\"file\":10,\"pa");
    fs::write(&manifest, bytes).unwrap();
    let kept = sandbox.kept_in(&crafted.id);
    assert_eq!(kept["files"].as_array().map(Vec::len), Some(1), "{kept}");
    assert_eq!(kept["finished"], json!(false));
    let others = kept["others"].to_string();
    let nameless = ["files/9", "files/10"].map(|file| others.contains(file));
    assert_eq!(nameless, [true; 2], "what has lost its name is still there: {others}");
    sandbox.repoguard(["restore", &crafted.id]).assert().success();
    assert_eq!(fs::read(sandbox.path("a")).unwrap(), b"1");
}

#[test]
fn old_snapshots_go_when_a_new_one_is_made() {
    let sandbox = Sandbox::new();
    let old = sandbox.snapshot(31 * DAY).file("a", "1", 0o644).finished();
    let unfinished = sandbox.snapshot(31 * DAY).file("a", "1", 0o644);
    fs::create_dir(unfinished.directory.join("files/read-only")).unwrap();
    let sealed = fs::Permissions::from_mode(0o500);
    fs::set_permissions(unfinished.directory.join("files/read-only"), sealed).unwrap();
    let young = sandbox.snapshot(29 * DAY).file("a", "1", 0o644).finished();
    let foreign = sandbox.data().join("snapshots/19990101-foreign");
    fs::create_dir(&foreign).unwrap();
    assert_eq!(ids(&sandbox).len(), 3, "a look removes nothing");
    let new = replace(&sandbox, "was there");
    assert_eq!(ids(&sandbox), [new, young], "not {old}");
    assert!(foreign.exists());
}

#[test]
fn age_is_what_the_manifest_says() {
    let sandbox = Sandbox::new();
    let crafted = sandbox.snapshot(MINUTE).file("a", "1", 0o644);
    let manifest = crafted.directory.join("manifest.jsonl");
    let text = fs::read_to_string(&manifest).unwrap();
    let (before, after) = text.split_once("\"made_at_ms\":").unwrap();
    let rest = after.trim_start_matches(|c: char| c.is_ascii_digit());
    fs::write(&manifest, format!("{before}\"made_at_ms\":1000{rest}")).unwrap();
    let id = crafted.finished();
    let new = replace(&sandbox, "was there");
    assert_eq!(ids(&sandbox), [new], "not {id}");
}

#[test]
fn oldest_snapshots_go_where_all_are_too_large() {
    let sandbox = Sandbox::new();
    sandbox.git(["config", "repoguard.snapshotLimit", "3k"]);
    let text = "x".repeat(1000);
    let crafted: Vec<String> =
        (1..=4).rev().map(|age| sandbox.snapshot(age * MINUTE).file("a", &text, 0o644).finished()).collect();
    let unfinished = sandbox.snapshot(9 * MINUTE).file("a", &text.repeat(9), 0o644).id;
    let new = replace(&sandbox, &text);
    assert_eq!(ids(&sandbox), [new, crafted[3].clone(), crafted[2].clone(), unfinished.clone()]);
    let larger = replace(&sandbox, &text.repeat(5));
    assert_eq!(ids(&sandbox), [larger.clone(), unfinished.clone()], "the one just made stays, however large");
    sandbox.git(["config", "--unset", "repoguard.snapshotLimit"]);
    let third = replace(&sandbox, "a");
    assert_eq!(ids(&sandbox), [third, larger, unfinished]);
}

#[test]
fn bad_limit_is_named() {
    let sandbox = Sandbox::new();
    let id = sandbox.snapshot(MINUTE).file("a", "1", 0o644).finished();
    for bad in ["much", "-1", "1t", "k", "99999999999g", "1.5g"] {
        let mut restore = sandbox.repoguard(["restore", &id]);
        let output = restore.env("REPOGUARD_SNAPSHOT_LIMIT", bad).assert().code(125).get_output().clone();
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(told.contains(&format!("`{bad}`")) && told.contains("REPOGUARD_SNAPSHOT_LIMIT"), "{told}");
    }
    assert!(!sandbox.path("a").exists());
    for good in ["0", "12", "1K", "500m", "2G"] {
        sandbox.repoguard(["restore", &id]).env("REPOGUARD_SNAPSHOT_LIMIT", good).assert().success();
    }
}

#[test]
fn commits_come_back_by_the_command_that_is_told() {
    let sandbox = Sandbox::new();
    sandbox.git(["commit", "-q", "--allow-empty", "-m", "undone"]);
    let undone = sandbox.git(["rev-parse", "HEAD"]);
    sandbox.git(["tag", "-a", "-m", "note", "v1"]);
    sandbox.git(["branch", "it's"]);
    let crafted = sandbox.snapshot(MINUTE);
    let bundle = crafted.directory.join("commits.bundle");
    let arguments = ["HEAD", "main", "it's", "v1", "^HEAD~1"];
    sandbox.git(["bundle", "create", "-q", bundle.to_str().unwrap()].into_iter().chain(arguments));
    let id = crafted.finished();
    sandbox.git(["update-ref", "-d", "refs/tags/v1"]);
    sandbox.git(["branch", "-q", "-D", "it's"]);
    sandbox.git(["reset", "-q", "--hard", "HEAD~1"]);
    let shown = text(&sandbox, &[&id]);
    let (_, command) = shown.split_once("come back with: ").expect("a command");
    assert_eq!(sandbox.kept_in(&id)["fetch"], json!(command.trim()));
    sandbox.sh(command).assert().success();
    for name in ["heads/undone/ID/HEAD", "heads/undone/ID/main", "heads/undone/ID/it's", "tags/undone/ID/v1^{commit}"] {
        assert_eq!(sandbox.git(["rev-parse", &format!("refs/{}", name.replace("ID", &id))]), undone, "{name}");
    }
    assert_eq!(sandbox.git(["tag", "--list", "v1"]), "", "nothing else comes");
}

#[test]
fn snapshots_are_seen_by_every_worktree_and_by_no_reference() {
    let sandbox = Sandbox::new();
    let linked = sandbox.worktree("linked");
    let references = sandbox.git(["for-each-ref"]);
    let id = replace(&sandbox, "was there");
    let mut there = sandbox.repoguard(["snapshots"]);
    let output = there.current_dir(&linked).assert().success().get_output().clone();
    assert!(String::from_utf8_lossy(&output.stdout).contains(&id), "{output:?}");
    assert_eq!(sandbox.git(["for-each-ref"]), references);
    assert_eq!(sandbox.git(["status", "--porcelain"]), "?? replaced\n");
    let mode = fs::metadata(sandbox.data().join("snapshots").join(&id)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700, "what only its owner could read stays so");
}

/// Runs a script as a mutation that fails; gives the id of the snapshot of what was undone.
fn undone(sandbox: &Sandbox, here: &Path, script: &str) -> String {
    let script = format!("{script}\nexit 3");
    let mut mutate = sandbox.repoguard(["mutate", "-m", "message", "--", "sh", "-c", &script]);
    let output = mutate.current_dir(here).assert().failure().get_output().clone();
    let told = String::from_utf8(output.stderr).unwrap();
    let newest = ids(sandbox).remove(0);
    assert!(told.contains(&newest), "{told}");
    newest
}

#[test]
fn what_a_mutation_made_comes_back_as_it_made_it() {
    let script = r"
        printf 'new\r\n\0' >file; chmod 4755 file
        mkdir -p d/e; echo 1 >d/e/f; chmod 0 d/e/f; chmod 500 d/e; ln -s /no/where d/link
        echo odd >`printf 'n\377\nx'`; echo staged >staged; git add staged; ln -s file copy";
    let (sandbox, other) = (Sandbox::new(), Sandbox::new());
    let before = sandbox.state();
    let id = undone(&sandbox, sandbox.here(), script);
    before.assert_same(&sandbox.state(), "after the rollback");
    sandbox.repoguard(["restore", &id]).assert().success();
    other.sh(script).assert().success();
    other.git(["reset", "-q"]);
    other.state().assert_same(&sandbox.state(), "after the restore");
}

#[test]
fn commits_of_a_mutation_come_back_too() {
    let sandbox = Sandbox::new();
    let linked = sandbox.worktree("linked");
    let script = "echo 1 >file; git commit -qam undone; git rev-parse HEAD >\"$SANDBOX/undone\"";
    let id = undone(&sandbox, &linked, script);
    let undone = fs::read_to_string(sandbox.outside("undone")).unwrap();
    assert_eq!(sandbox.kept_in(&id)["root"], json!(linked));
    sandbox.git(["gc", "-q", "--prune=now"]);
    let fetch = sandbox.kept_in(&id)["fetch"].as_str().expect("a command").to_owned();
    sandbox.sh(&fetch).assert().success();
    assert_eq!(sandbox.git(["rev-parse", &format!("undone/{id}/linked")]), undone);
}

#[test]
fn what_is_undone_on_another_file_system_is_kept_whole() {
    let sandbox = Sandbox::new();
    let Ok(elsewhere) = tempfile::tempdir_in("/dev/shm") else { return skip("two file systems", "no /dev/shm") };
    if fs::metadata(&elsewhere).unwrap().dev() == fs::metadata(sandbox.here()).unwrap().dev() {
        return skip("two file systems", "/dev/shm is none of its own");
    }
    let linked = elsewhere.path().join("linked");
    sandbox.git(["worktree", "add", "-q", linked.to_str().unwrap()]);
    let script = "printf 'new\\0' >file; chmod 755 file; mkdir d; echo 1 >d/x; chmod 0 d/x; ln -s x d/link";
    let before = sandbox.state_of(&linked);
    let id = undone(&sandbox, &linked, script);
    before.assert_same(&sandbox.state_of(&linked), "after the rollback");
    sandbox.repoguard(["restore", &id]).current_dir(&linked).assert().success();
    assert_eq!(fs::read(linked.join("file")).unwrap(), b"new\0");
    assert_eq!(fs::metadata(linked.join("file")).unwrap().permissions().mode() & 0o7777, 0o755);
    assert_eq!(fs::symlink_metadata(linked.join("d/x")).unwrap().permissions().mode() & 0o7777, 0);
    assert_eq!(fs::read_link(linked.join("d/link")).unwrap(), Path::new("x"));
}
