//! `repoguard restore`: what was undone comes back byte for byte, what stands in its place is kept, and nothing leaves the
//! worktree.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{HOLD, Sandbox, User, eventually, is_root, listing, skip, to_the_end};

const MINUTE: Duration = Duration::from_secs(60);

/// What a restore says, which must end with this status.
#[track_caller]
fn restore(sandbox: &Sandbox, args: &[&str], status: i32) -> Value {
    let mut restore = sandbox.repoguard(["restore", "--json"]);
    let output = restore.args(args).assert().code(status).get_output().clone();
    serde_json::from_slice(&output.stdout).expect("one JSON document")
}

/// The paths in a list of a document.
fn paths(list: &Value) -> Vec<&str> {
    list.as_array().expect("a list").iter().map(|entry| entry["path"].as_str().expect("a path")).collect()
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn files_come_back_with_bytes_bits_and_targets() {
    let sandbox = Sandbox::new();
    let mut crafted = sandbox.snapshot(MINUTE).file("file", "un\r\ndone\0", 0o755).file("new", "", 0o4701);
    let odd = OsStr::from_bytes(b"dir/n\xff\nn");
    fs::write(crafted.moved(json!(r"dir/n\xFF\nn")), "odd").unwrap();
    let crafted = crafted.link("link", "no/where").link("other/deep/link", OsStr::from_bytes(b"\xff"));
    let id = crafted.file("secret", "s", 0o000).deleted("was/deleted").finished();
    let shown = restore(&sandbox, &[&id], 0);
    assert_eq!(paths(&shown["restored"]).len(), 6, "{shown}");
    assert_eq!((paths(&shown["deleted"]), paths(&shown["replaced"])), (vec!["was/deleted"], vec!["file"]));
    assert_eq!((fs::read(sandbox.path("file")).unwrap(), mode(&sandbox.path("file"))), (b"un\r\ndone\0".into(), 0o755));
    assert_eq!((mode(&sandbox.path("new")), mode(&sandbox.path("secret"))), (0o4701, 0o000));
    assert_eq!(fs::read(sandbox.path(odd)).unwrap(), b"odd");
    assert_eq!(fs::read_link(sandbox.path("link")).unwrap(), Path::new("no/where"));
    assert_eq!(fs::read_link(sandbox.path("other/deep/link")).unwrap(), OsStr::from_bytes(b"\xff"));
    let again = restore(&sandbox, &[&id], 0);
    assert_eq!((paths(&again["unchanged"]).len(), &again["restored"], &again["kept"]), (6, &json!([]), &Value::Null));
    assert_eq!(sandbox.log().len(), 2, "a restore is a hold");
}

#[test]
fn directories_come_back_whole() {
    let sandbox = Sandbox::new();
    let mut crafted = sandbox.snapshot(MINUTE);
    let at = crafted.moved("sub/dir");
    fs::create_dir_all(at.join("closed/empty")).unwrap();
    fs::create_dir_all(at.join(".git/hooks")).unwrap();
    fs::write(at.join("closed/file"), "1").unwrap();
    fs::write(at.join(".git/hooks/x"), "a whole repository").unwrap();
    fs::write(at.join("there"), "same").unwrap();
    sandbox.command("mkfifo").arg(at.join("fifo")).status().unwrap();
    fs::set_permissions(at.join("closed/empty"), fs::Permissions::from_mode(0o711)).unwrap();
    fs::set_permissions(at.join("closed"), fs::Permissions::from_mode(0o500)).unwrap();
    let id = crafted.finished();
    fs::create_dir_all(sandbox.path("sub/dir")).unwrap();
    fs::write(sandbox.path("sub/dir/there"), "same").unwrap();
    fs::write(sandbox.path("sub/dir/mine"), "stays").unwrap();
    let shown = restore(&sandbox, &[&id], 0);
    assert_eq!((paths(&shown["unchanged"]), &shown["kept"]), (vec!["sub/dir/there"], &Value::Null));
    let dir = sandbox.path("sub/dir");
    assert_eq!((mode(&dir.join("closed")), mode(&dir.join("closed/empty"))), (0o500, 0o711));
    assert_eq!(fs::read(dir.join("closed/file")).unwrap(), b"1");
    assert_eq!(fs::read(dir.join(".git/hooks/x")).unwrap(), b"a whole repository");
    assert!(fs::metadata(dir.join("fifo")).unwrap().file_type().is_fifo());
    assert_eq!(fs::read(dir.join("mine")).unwrap(), b"stays");
    fs::set_permissions(dir.join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
    // Now a repository is there, and nothing in it is touched.
    fs::write(dir.join(".git/hooks/x"), "changed").unwrap();
    let shown = restore(&sandbox, &[&id], 1);
    assert_eq!(paths(&shown["failed"]).len(), 5, "{shown}");
    assert_eq!(fs::read(dir.join(".git/hooks/x")).unwrap(), b"changed");
}

#[test]
fn what_stands_there_is_kept_first_and_comes_back_the_same_way() {
    let sandbox = Sandbox::new();
    let crafted = sandbox.snapshot(MINUTE).file("file", "kept", 0o644).file("dir/in", "kept", 0o644);
    let id = crafted.file("was-link", "kept", 0o644).link("was-dir", "x").file("bits", "same", 0o755).finished();
    fs::write(sandbox.path("file"), "mine").unwrap();
    fs::write(sandbox.path("dir"), "a file in the way").unwrap();
    symlink("/etc/passwd", sandbox.path("was-link")).unwrap();
    fs::create_dir(sandbox.path("was-dir")).unwrap();
    fs::write(sandbox.path("was-dir/mine"), "in it").unwrap();
    fs::write(sandbox.path("bits"), "same").unwrap();
    fs::set_permissions(sandbox.path("bits"), fs::Permissions::from_mode(0o600)).unwrap();
    let before = sandbox.state();
    let shown = restore(&sandbox, &[&id], 0);
    let mut replaced = paths(&shown["replaced"]);
    replaced.sort_unstable();
    assert_eq!(replaced, ["bits", "dir", "file", "was-dir", "was-link"]);
    let text = |name: &str| fs::read_to_string(sandbox.path(name)).unwrap();
    assert_eq!((text("file"), text("dir/in"), text("was-link")), ("kept".into(), "kept".into(), "kept".into()));
    assert_eq!(fs::read_link(sandbox.path("was-dir")).unwrap(), Path::new("x"));
    let kept = shown["kept"].as_str().expect("an id");
    assert!(sandbox.kept_in(kept)["why"].to_string().contains("restore"));
    restore(&sandbox, &[kept], 0);
    before.assert_same(&sandbox.state(), "after both restores");
}

#[test]
fn paths_are_seen_from_the_current_directory() {
    let sandbox = Sandbox::new();
    let crafted = sandbox.snapshot(MINUTE).file("a/b/one", "1", 0o644).file("a/b/two", "2", 0o644);
    let id = crafted.file("a/three", "3", 0o644).file("four", "4", 0o644).deleted("a/gone").finished();
    fs::create_dir_all(sandbox.path("a/b")).unwrap();
    let from = |here: &str, wanted: &[&str]| {
        let mut restore = sandbox.repoguard(["restore", "--dry-run", "--json", &id]);
        let output = restore.args(wanted).current_dir(sandbox.path(here)).assert().success().get_output().clone();
        let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
        paths(&shown["restored"]).join(" ")
    };
    let top = sandbox.path("a/b/one");
    assert_eq!(from("a", &["b"]), "a/b/one a/b/two");
    assert_eq!(from("a", &["./b/", "../four"]), "a/b/one a/b/two four");
    assert_eq!(from("a/b", &["."]), "a/b/one a/b/two");
    assert_eq!(from("a/b", &["two", "../three"]), "a/b/two a/three");
    assert_eq!(from("", &[top.to_str().unwrap()]), "a/b/one");
    assert_eq!(from("a", &["../."]), from("", &[]));
    assert_eq!(from("a", &["gone"]), "");
    let before = listing(sandbox.here());
    for unknown in ["nothing", "a/b/on", "a/b/one/x", "../outside", "/etc/passwd"] {
        let mut restore = sandbox.repoguard(["restore", &id, "four", unknown]);
        let output = restore.assert().code(1).stdout("").get_output().clone();
        assert!(String::from_utf8_lossy(&output.stderr).contains(unknown), "{output:?}");
    }
    assert_eq!(listing(sandbox.here()), before, "neither what is unknown nor what is known came back");
    sandbox
        .repoguard(["restore", &id, "b/two"])
        .current_dir(sandbox.path("a"))
        .assert()
        .success()
        .stdout("restored a/b/two\n");
    assert!(sandbox.path("a/b/two").exists() && !sandbox.path("a/b/one").exists());
}

#[test]
fn dry_run_changes_nothing_and_waits_for_nobody() {
    let sandbox = Sandbox::new();
    let id = sandbox.snapshot(MINUTE).file("file", "kept", 0o644).file("new/x", "1", 0o644).finished();
    let mut holder = sandbox.start_up(sandbox.repoguard_command(["exec", "--", "sh", "-c", HOLD]));
    let before = listing(sandbox.here());
    let output = sandbox.repoguard(["restore", &id, "--dry-run"]).assert().success().get_output().clone();
    let told = String::from_utf8(output.stdout).unwrap();
    assert_eq!(told, "would restore file\nwould restore new/x\nwould replace file\n");
    assert_eq!(listing(sandbox.here()), before);
    holder.finish();
}

#[test]
fn restore_waits_for_its_turn() {
    let sandbox = Sandbox::new();
    let id = sandbox.snapshot(MINUTE).file("new", "1", 0o644).finished();
    let mut holder = sandbox.start_up(sandbox.repoguard_command(["exec", "--", "sh", "-c", HOLD]));
    for options in [&["-n"][..], &["-w", "0.1"]] {
        sandbox.repoguard(["restore", &id]).args(options).assert().code(75).stdout("");
    }
    sandbox.repoguard(["restore", &id, "-n", "-E", "9"]).assert().code(9).stdout("");
    assert!(!sandbox.path("new").exists());
    let mut waiter = sandbox.start(sandbox.repoguard_command(["restore", &id]));
    eventually("it waits", || sandbox.waiters() == 1);
    holder.finish();
    assert!(waiter.ended().success());
    assert!(sandbox.path("new").exists());
    sandbox.repoguard(["exec", "--", "repoguard", "restore", &id]).assert().success().stdout("unchanged new\n");
    sandbox.repoguard(["exec", "--shared", "--", "repoguard", "restore", &id]).assert().code(125);
}

#[test]
fn hostile_paths_are_refused_and_the_rest_comes_back() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.outside("victim"), "untouched").unwrap();
    let victim = sandbox.outside("victim");
    let bad = [
        "../victim",
        "a/../../victim",
        victim.to_str().unwrap(),
        ".git/config",
        ".GIT/config",
        ".git",
        "sub/.git/config",
        ".g\u{200c}it/config",
        "git~1/config",
        ".",
        "",
        "..",
        "/",
    ];
    let mut crafted = sandbox.snapshot(MINUTE);
    for path in bad {
        crafted = crafted.file(path, "hostile", 0o644);
    }
    let id = crafted.file("good", "1", 0o644).file("with\\backslash", "2", 0o644).finished();
    let before = listing(&sandbox.path(".git")).into_keys().filter(|path| !path.starts_with(sandbox.data()));
    let config = fs::read(sandbox.path(".git/config")).unwrap();
    let before: Vec<_> = before.collect();
    for dry in [&["--dry-run"][..], &[]] {
        let shown = restore(&sandbox, &[&[id.as_str()], dry].concat(), 1);
        assert_eq!(paths(&shown["restored"]), ["good", "with\\backslash"], "{shown}");
        assert_eq!(paths(&shown["failed"]).len(), bad.len(), "{shown}");
    }
    assert_eq!(fs::read(&victim).unwrap(), b"untouched");
    assert_eq!(fs::read(sandbox.path(".git/config")).unwrap(), config);
    let after = listing(&sandbox.path(".git")).into_keys();
    let after: Vec<_> =
        after.filter(|path| !path.starts_with(sandbox.data()) && *path != sandbox.lock_file()).collect();
    assert_eq!(after, before);
    assert!(!sandbox.path("sub").exists() && !sandbox.path("git~1").exists());
    let output = sandbox.repoguard(["restore", &id]).assert().code(1).get_output().clone();
    assert!(String::from_utf8_lossy(&output.stderr).contains("`../victim` is not brought back"), "{output:?}");
}

#[test]
fn links_in_the_way_lead_nothing_outside() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.outside("elsewhere")).unwrap();
    symlink(sandbox.outside("elsewhere"), sandbox.path("dir")).unwrap();
    symlink(sandbox.outside("elsewhere/file"), sandbox.path("link")).unwrap();
    symlink(".git", sandbox.path("git")).unwrap();
    let crafted = sandbox.snapshot(MINUTE).file("dir/x/y", "1", 0o644).file("link", "2", 0o644);
    let id = crafted.file("git/config", "3", 0o644).finished();
    let config = fs::read(sandbox.path(".git/config")).unwrap();
    let shown = restore(&sandbox, &[&id], 0);
    assert_eq!(paths(&shown["restored"]).len(), 3, "{shown}");
    assert_eq!(fs::read_dir(sandbox.outside("elsewhere")).unwrap().count(), 0);
    assert_eq!(fs::read(sandbox.path(".git/config")).unwrap(), config);
    assert_eq!(fs::read(sandbox.path("dir/x/y")).unwrap(), b"1");
    assert!(fs::symlink_metadata(sandbox.path("git")).unwrap().is_dir());
    restore(&sandbox, &[shown["kept"].as_str().unwrap()], 0);
    assert_eq!(fs::read_link(sandbox.path("dir")).unwrap(), sandbox.outside("elsewhere"));
}

#[test]
fn repository_in_the_way_stays() {
    let sandbox = Sandbox::new();
    sandbox.git(["init", "-q", "deep/inner"]);
    let id = sandbox.snapshot(MINUTE).file("deep", "a file", 0o644).finished();
    let shown = restore(&sandbox, &[&id], 1);
    assert!(shown["failed"][0]["why"].to_string().contains("a repository is in its place"), "{shown}");
    assert!(sandbox.path("deep/inner/.git/HEAD").exists());
}

#[test]
fn nothing_comes_into_a_repository_or_worktree_that_was_made_meanwhile() {
    let sandbox = Sandbox::new();
    let crafted = sandbox.snapshot(MINUTE).file("tree/file", "1", 0o644).file("inner/d/e", "2", 0o644);
    let id = crafted.file("other/file", "3", 0o644).finished();
    sandbox.git(["worktree", "add", "-q", "tree"]);
    sandbox.git(["init", "-q", "inner"]);
    fs::write(sandbox.path("tree/file"), "theirs").unwrap();
    let shown = restore(&sandbox, &[&id], 1);
    let failed = shown["failed"].as_array().unwrap();
    assert_eq!(failed.len(), 2, "{shown}");
    assert!(failed.iter().all(|one| one["why"].to_string().contains("it leads into another repository")), "{shown}");
    assert_eq!(fs::read(sandbox.path("tree/file")).unwrap(), b"theirs");
    assert_eq!(fs::read(sandbox.path("other/file")).unwrap(), b"3", "the rest comes back");
    assert!(!sandbox.path("inner/d").exists());
}

#[test]
fn what_cannot_be_read_or_is_mounted_stays_in_its_place() {
    if !is_root() {
        return skip("something mounted where a file was", "only root mounts");
    }
    let sandbox = Sandbox::new();
    let id = sandbox.snapshot(MINUTE).file("deep", "a file", 0o644).finished();
    fs::create_dir_all(sandbox.path("deep/below")).unwrap();
    let mounted =
        std::process::Command::new("mount").args(["-t", "tmpfs", "none"]).arg(sandbox.path("deep/below")).status();
    if !mounted.is_ok_and(|status| status.success()) {
        return skip("something mounted where a file was", "nothing can be mounted here");
    }
    fs::write(sandbox.path("deep/below/theirs"), "theirs").unwrap();
    let shown = restore(&sandbox, &[&id], 1);
    let theirs = fs::read(sandbox.path("deep/below/theirs"));
    std::process::Command::new("umount").arg(sandbox.path("deep/below")).status().unwrap();
    assert!(shown["failed"][0]["why"].to_string().contains("something is mounted in its place"), "{shown}");
    assert_eq!(theirs.unwrap(), b"theirs");
    // A container's leftovers: nobody but root may look into them.
    let id = sandbox.snapshot(MINUTE).file("left", "a file", 0o644).finished();
    fs::create_dir_all(sandbox.path("left/below")).unwrap();
    fs::set_permissions(sandbox.path("left/below"), fs::Permissions::from_mode(0o700)).unwrap();
    User::Ordinary.owns(&sandbox);
    std::os::unix::fs::chown(sandbox.path("left/below"), Some(0), Some(0)).unwrap();
    let mut command = sandbox.repoguard_command(["restore", &id]);
    User::Ordinary.runs(&mut command);
    let output = command.output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("a directory that cannot be read is in its place"), "{told}");
    assert!(sandbox.path("left/below").is_dir());
}

#[test]
fn into_a_linked_worktree_it_comes_as_well() {
    let sandbox = Sandbox::new();
    let linked = sandbox.worktree("linked");
    let id = sandbox.snapshot(MINUTE).file("file", "kept", 0o644).finished();
    sandbox.repoguard(["restore", &id]).current_dir(&linked).assert().success();
    assert_eq!(fs::read(linked.join("file")).unwrap(), b"kept");
    assert_eq!(fs::read(sandbox.path("file")).unwrap(), b"first\n");
    assert_eq!(sandbox.snapshots().len(), 2, "what it replaced is kept with the others");
}

#[test]
fn snapshots_behind_a_link_are_not_brought_back() {
    let sandbox = Sandbox::new();
    let id = sandbox.snapshot(MINUTE).file("file", "kept", 0o644).file("new", "1", 0o644).finished();
    let place = sandbox.data().join("snapshots");
    fs::rename(&place, sandbox.data().join("aside")).unwrap();
    symlink("aside", &place).unwrap();
    sandbox.assert_refused(sandbox.repoguard(["restore", &id]), 125);
    assert_eq!(fs::read(sandbox.path("file")).unwrap(), b"first\n");
    assert!(!sandbox.path("new").exists());
}

#[test]
fn where_nothing_can_be_kept_nothing_is_replaced() {
    let User::Ordinary = User::all()[User::all().len() - 1] else { return skip("nothing can be kept", "needs root") };
    let sandbox = Sandbox::new();
    let id = sandbox.snapshot(MINUTE).file("file", "kept", 0o644).file("new", "1", 0o644).finished();
    User::Ordinary.owns(&sandbox);
    fs::set_permissions(sandbox.data().join("snapshots"), fs::Permissions::from_mode(0o500)).unwrap();
    let mut command = sandbox.repoguard_command(["restore", "--json", &id]);
    User::Ordinary.runs(&mut command);
    let output = to_the_end(command).assert().code(125).get_output().clone();
    let shown: Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
    assert_eq!((paths(&shown["restored"]), paths(&shown["failed"])), (vec!["new"], vec!["file"]), "{shown}");
    assert_eq!(fs::read(sandbox.path("file")).unwrap(), b"first\n");
}

#[test]
fn wrecked_worktree_and_unreadable_files_are_no_obstacle() {
    for user in User::all() {
        let sandbox = Sandbox::new();
        let crafted = sandbox.snapshot(MINUTE).file("a/b/file", "kept", 0o000).file("a/link/x", "1", 0o400);
        let id = crafted.file("a/new/y", "2", 0o644).finished();
        fs::create_dir_all(sandbox.path("a/b")).unwrap();
        fs::write(sandbox.path("a/b/file"), "mine").unwrap();
        symlink("/", sandbox.path("a/link")).unwrap();
        let bits =
            |path: &str, bits| fs::set_permissions(sandbox.path(path), fs::Permissions::from_mode(bits)).unwrap();
        bits("a/b/file", 0o000);
        bits("a/b", 0o500);
        bits("a", 0o000);
        user.owns(&sandbox);
        let mut restore = sandbox.repoguard_command(["restore", &id]);
        user.runs(&mut restore);
        to_the_end(restore).assert().success();
        assert_eq!(mode(&sandbox.path("a")), 0o000, "as it was");
        bits("a", 0o700);
        assert_eq!((mode(&sandbox.path("a/b")), mode(&sandbox.path("a/b/file"))), (0o500, 0o000));
        bits("a/b/file", 0o600);
        let text = |name: &str| fs::read_to_string(sandbox.path(name)).unwrap();
        assert_eq!((text("a/b/file"), text("a/link/x"), text("a/new/y")), ("kept".into(), "1".into(), "2".into()));
    }
}

#[test]
fn read_only_git_directory_lets_back_what_replaces_nothing() {
    for user in User::all().iter().filter(|user| **user != User::Own || !is_root()) {
        let sandbox = Sandbox::new();
        let id = sandbox.snapshot(MINUTE).file("file", "kept", 0o644).file("new", "1", 0o644).finished();
        sandbox.try_once(&[]);
        let seal = |bits| {
            for dir in ["snapshots", "queue", "holders", "heads", ""] {
                fs::set_permissions(sandbox.data().join(dir), fs::Permissions::from_mode(bits)).unwrap();
            }
        };
        user.owns(&sandbox);
        seal(0o555);
        let mut restore = sandbox.repoguard_command(["restore", &id]);
        user.runs(&mut restore);
        let output = to_the_end(restore).assert().code(125).get_output().clone();
        seal(0o755);
        assert_eq!(String::from_utf8_lossy(&output.stdout), "restored new\n", "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("snapshots"), "{output:?}");
        assert_eq!(fs::read(sandbox.path("file")).unwrap(), b"first\n");
    }
}

#[test]
fn restore_needs_a_worktree_and_a_snapshot() {
    let sandbox = Sandbox::new();
    let id = sandbox.snapshot(MINUTE).file("file", "kept", 0o644).finished();
    sandbox.repoguard(["restore", "20200101T000000Z-000000"]).assert().code(1).stdout("");
    sandbox.repoguard(["restore"]).assert().code(2).stdout("");
    sandbox.git(["config", "core.bare", "true"]);
    let bare = Sandbox::empty();
    bare.repoguard(["restore", &id]).assert().code(125).stdout("");
    bare.git(["init", "-q", "--bare"]);
    bare.repoguard(["restore", &id]).assert().code(1).stdout("");
}

#[test]
fn what_a_restore_puts_in_place_is_never_half() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("big"), "old").unwrap();
    let id = sandbox.snapshot(MINUTE).file("big", &"x".repeat(1 << 20), 0o644).finished();
    // A file larger than may be written: as on a disk that is full.
    let script = format!("trap '' XFSZ; ulimit -f 64; repoguard restore {id}");
    let output = sandbox.sh(&script).assert().code(125).get_output().clone();
    assert!(String::from_utf8_lossy(&output.stderr).contains("big"), "{output:?}");
    assert_eq!(fs::read(sandbox.path("big")).unwrap(), b"old");
    let inode = fs::metadata(sandbox.path("big")).unwrap().ino();
    assert!(
        !fs::read_dir(sandbox.here())
            .unwrap()
            .any(|entry| { entry.unwrap().file_name().to_string_lossy().starts_with(".repoguard-new-") })
    );
    restore(&sandbox, &[&id], 0);
    assert_ne!(fs::metadata(sandbox.path("big")).unwrap().ino(), inode, "a new file under the old name");
}

#[test]
fn dry_run_refuses_what_restore_refuses() {
    let sandbox = Sandbox::new();
    let id = sandbox.snapshot(MINUTE).file("x", "kept", 0o644).file("y", "kept", 0o644).finished();
    sandbox.git(["init", "-q", "x"]);
    fs::write(sandbox.path("x/work"), "work\n").unwrap();
    let foreseen = restore(&sandbox, &["--dry-run", &id], 1);
    assert!(!sandbox.path("y").exists());
    let done = restore(&sandbox, &[&id], 1);
    assert_eq!(paths(&foreseen["failed"]), ["x"], "{foreseen}");
    assert_eq!((&foreseen["failed"], &foreseen["restored"]), (&done["failed"], &done["restored"]));
    assert_eq!(fs::read_to_string(sandbox.path("x/work")).unwrap(), "work\n");
}

#[test]
fn copy_that_is_gone_is_named_and_the_others_come_back() {
    let sandbox = Sandbox::new();
    let crafted = sandbox.snapshot(MINUTE).file("here", "kept", 0o644).file("gone", "kept", 0o644);
    let id = crafted.finished();
    let copies = sandbox.data().join("snapshots").join(&id).join("files");
    let gone = fs::read_dir(&copies).unwrap().map(|entry| entry.unwrap().path()).max().expect("the last copy");
    fs::remove_file(gone).unwrap();
    let shown = sandbox.repoguard(["snapshots", &id]).assert().success().get_output().clone();
    assert!(String::from_utf8_lossy(&shown.stdout).contains("copy is gone"), "{shown:?}");
    let done = restore(&sandbox, &[&id], 1);
    assert_eq!((paths(&done["restored"]), paths(&done["failed"])), (vec!["here"], vec!["gone"]), "{done}");
    let done = restore(&sandbox, &[&id, "gone"], 1);
    assert_eq!(paths(&done["failed"]), ["gone"], "{done}");
}
