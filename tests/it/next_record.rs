//! The record of a sequence that is damaged, hostile, deleted or somebody else's: an error with a way out, never a number
//! that was given before.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use rustix::fs::{FileType, Mode};

use crate::support::{Sandbox, is_root, own, skip, to_the_end, walk};

/// Bytes of each of the two copies in a record.
const COPY: usize = 4096;

/// A repository whose sequence `x` has given 7.
fn used() -> Sandbox {
    let sandbox = Sandbox::new();
    assert_eq!(sandbox.next(&["x", "--count", "7"]).len(), 7);
    sandbox
}

#[test]
fn one_whole_copy_is_enough_and_mends_the_other() {
    let whole = fs::read(used().sequence_file()).unwrap();
    assert_eq!(whole.len(), 2 * COPY);
    for (from, to) in [(0, 1), (0, 512), (0, COPY), (COPY, 2 * COPY), (30, 40), (COPY + 30, COPY + 40)] {
        let sandbox = used();
        let mut bytes = whole.clone();
        bytes[from..to].fill(0);
        fs::write(sandbox.sequence_file(), &bytes).unwrap();
        assert_eq!(sandbox.next(&["x", "--last"]), ["7"], "{from}..{to}");
        assert_eq!(sandbox.next(&["x"]), ["8"], "{from}..{to}");
        let mended = fs::read(sandbox.sequence_file()).unwrap();
        assert_eq!(mended[..COPY], mended[COPY..]);
    }
    let sandbox = used();
    File::options().write(true).open(sandbox.sequence_file()).unwrap().set_len(COPY as u64).unwrap();
    assert_eq!(sandbox.next(&["x"]), ["8"]);
}

#[test]
fn greater_copy_counts_whichever_it_is() {
    let (seven, nine) = (fs::read(used().sequence_file()).unwrap(), {
        let sandbox = used();
        sandbox.next(&["x", "--count", "2"]);
        fs::read(sandbox.sequence_file()).unwrap()
    });
    for (first, second) in [(&seven, &nine), (&nine, &seven)] {
        let sandbox = used();
        fs::write(sandbox.sequence_file(), [&first[..COPY], &second[COPY..]].concat()).unwrap();
        assert_eq!(sandbox.next(&["x", "--last"]), ["9"]);
        assert_eq!(sandbox.next(&["x"]), ["10"]);
    }
}

/// Asserts that no number is given, and that nothing is written; what is said.
#[track_caller]
fn refused(sandbox: &Sandbox, what: &str) -> String {
    let record = sandbox.sequence_file();
    let before = fs::symlink_metadata(&record).unwrap();
    let small = before.is_file() && before.len() < 1 << 20;
    let bytes = small.then(|| fs::read(&record).unwrap());
    for args in [&["x"][..], &["x", "--last"], &["x", "--at-least", "100"]] {
        let told = sandbox.gives_none(args, 125);
        assert!(told.contains(record.to_str().unwrap()), "{what}: {told}");
        assert!(!told.contains("rm "), "{what}: {told}");
    }
    let after = fs::symlink_metadata(&record).unwrap();
    assert_eq!((before.ino(), before.mode(), before.len()), (after.ino(), after.mode(), after.len()), "{what}");
    assert_eq!(bytes, small.then(|| fs::read(&record).unwrap()), "{what}: it is left as it is");
    sandbox.gives_none(&["x"], 125)
}

#[test]
fn damaged_record_is_an_error_that_tells_the_way_out() {
    let whole = fs::read_to_string(used().sequence_file()).unwrap();
    let raised = whole.replace("\"last\":7", "\"last\":3");
    let newer = whole.replace("\"schema\":1", "\"schema\":2");
    for (what, bytes) in [
        ("empty", Vec::new()),
        ("zeros", vec![0; 2 * COPY]),
        ("garbage", b"\xff\x00{\"schema\":1".repeat(1000)),
        ("a bare number", b"7\n".to_vec()),
        ("changed by hand", raised.into_bytes()),
        ("newer", newer.into_bytes()),
        ("deep", b"[".repeat(2 * COPY)),
    ] {
        let sandbox = used();
        fs::write(sandbox.sequence_file(), bytes).unwrap();
        let told = refused(&sandbox, what);
        assert!(told.contains("sequence `x`") && told.contains("is damaged"), "{what}: {told}");
        assert_eq!(told.contains("newer repoguard"), what == "newer", "{told}");
        // The hint can be pasted.
        let hint = told.lines().find_map(|line| line.trim().strip_prefix("hint: ")).expect("a hint");
        let commands: Vec<&str> = hint.split('`').skip(1).step_by(2).collect();
        assert_eq!(commands.len(), 2, "{hint}");
        let (aside, again) = (commands[0], commands[1].replace(" N ", " 8 "));
        sandbox.sh(aside).assert().success();
        sandbox.sh(&again).assert().success().stdout("8\n");
        assert_eq!(sandbox.next(&["x"]), ["9"]);
    }
    let sandbox = used();
    File::options().write(true).open(sandbox.sequence_file()).unwrap().set_len(0).unwrap();
    File::options().write(true).open(sandbox.sequence_file()).unwrap().set_len(1 << 40).unwrap();
    refused(&sandbox, "huge");
}

#[test]
fn record_of_another_sequence_is_not_taken_for_ours() {
    let sandbox = used();
    let record = sandbox.sequence_file();
    let other = Sandbox::new();
    other.next(&["y"]);
    fs::copy(other.sequence_file(), &record).unwrap();
    let told = refused(&sandbox, "another");
    assert!(told.contains("another sequence"), "{told}");
}

/// Puts something at a path.
type Put = fn(&Path);

#[test]
fn what_is_no_regular_file_is_neither_followed_nor_waited_for() {
    let kinds: [(&str, Put); 5] = [
        ("a directory", |path| fs::create_dir_all(path.join("deep")).unwrap()),
        ("a FIFO", |path| rustix::fs::mknodat(rustix::fs::CWD, path, FileType::Fifo, Mode::RWXU, 0).unwrap()),
        ("a dangling link", |path| symlink("/no/such/place", path).unwrap()),
        ("a link to a file", |path| symlink(path.with_file_name("../../config"), path).unwrap()),
        ("a device", |path| symlink("/dev/zero", path).unwrap()),
    ];
    for (what, put) in kinds {
        let sandbox = used();
        let config = fs::read(sandbox.path(".git/config")).unwrap();
        let record = sandbox.sequence_file();
        fs::remove_file(&record).unwrap();
        put(&record);
        refused(&sandbox, what);
        assert_eq!(fs::read(sandbox.path(".git/config")).unwrap(), config, "{what}");
        assert_eq!(sandbox.next(&["another"]), ["1"], "{what}: others go on");
    }
    for place in ["sequences", "."] {
        let sandbox = used();
        let directory = sandbox.data().join(place).canonicalize().unwrap();
        fs::remove_dir_all(&directory).unwrap();
        fs::write(&directory, "").unwrap();
        sandbox.gives_none(&["x"], 125);
    }
}

#[test]
fn deleted_record_begins_again_after_what_patterns_find() {
    let sandbox = used();
    fs::create_dir(sandbox.path("ids")).unwrap();
    fs::write(sandbox.path("ids/5"), "").unwrap();
    fs::remove_dir_all(sandbox.data()).unwrap();
    assert_eq!(sandbox.next(&["x", "--scan", "ids/{}"]), ["6"]);
    fs::remove_dir_all(sandbox.data()).unwrap();
    assert_eq!(sandbox.next(&["x"]), ["1"]);
}

#[test]
fn deleting_lock_files_lets_nobody_in() {
    let sandbox = used();
    let mut command = sandbox.command("flock");
    command.arg(sandbox.sequence_file()).args(["sh", "-c", crate::support::HOLD]);
    let mut holder = sandbox.start_up(command);
    sandbox.sh("find .git -name '*.lock' -delete").assert().success();
    let mut waiter = sandbox.start(sandbox.repoguard_command(["next", "x"]));
    // It has opened the record, and asks for the lock again and again.
    crate::support::eventually("it tries", || {
        let fds = fs::read_dir(format!("/proc/{}/fd", waiter.pid())).into_iter().flatten().flatten();
        fds.filter_map(|fd| fs::read_link(fd.path()).ok()).any(|path| path == sandbox.sequence_file())
    });
    assert!(waiter.runs() && waiter.stdout().is_empty(), "it waits");
    // Reading is always possible.
    assert_eq!(sandbox.next(&["x", "--last"]), ["7"]);
    holder.finish();
    assert!(waiter.ended().success());
    assert_eq!(waiter.stdout(), "8\n");
}

#[test]
fn record_that_is_removed_while_it_is_waited_for_is_looked_up_again() {
    let sandbox = used();
    let record = sandbox.sequence_file();
    let mut command = sandbox.command("flock");
    command.arg(&record).args(["sh", "-c", crate::support::HOLD]);
    let mut holder = sandbox.start_up(command);
    let mut waiter = sandbox.start(sandbox.repoguard_command(["next", "x"]));
    crate::support::eventually("it tries", || {
        let fds = fs::read_dir(format!("/proc/{}/fd", waiter.pid())).into_iter().flatten().flatten();
        fds.filter_map(|fd| fs::read_link(fd.path()).ok()).any(|path| path == record)
    });
    fs::remove_file(&record).unwrap();
    assert_eq!(sandbox.next(&["x", "--at-least", "20"]), ["20"]);
    holder.finish();
    assert!(waiter.ended().success());
    // On a busy machine it may not have been waiting yet, and then made the new record itself.
    let number = waiter.stdout();
    assert!(["1\n", "21\n"].contains(&number.as_str()), "of the new record, not after the old one's 7: {number}");
}

#[test]
fn allocator_that_was_stopped_keeps_nobody_for_ever() {
    if !crate::support::long() {
        return;
    }
    let sandbox = used();
    let mut command = sandbox.command("flock");
    command.arg(sandbox.sequence_file()).args(["sh", "-c", crate::support::HOLD]);
    let mut holder = sandbox.start_up(command);
    let told = sandbox.gives_none(&["x"], 75);
    assert!(told.contains("is being written") && told.contains("waited 30") && told.contains("kill -CONT"), "{told}");
    holder.finish();
    assert_eq!(sandbox.next(&["x"]), ["8"]);
}

const OWNER: u32 = 61_001;
const OTHER: u32 = 61_002;
const GROUP: u32 = 61_100;

fn next_as(sandbox: &Sandbox, user: Option<u32>) -> Command {
    let mut command = sandbox.repoguard_command(["next", "x"]);
    if let Some(user) = user {
        command.uid(user).gid(GROUP);
    }
    let config = sandbox.outside("trusting");
    fs::write(&config, "[safe]\n\tdirectory = *\n").unwrap();
    command.env("GIT_CONFIG_GLOBAL", config);
    command
}

#[test]
fn users_who_share_a_repository_share_its_sequences_others_get_none() {
    if !is_root() {
        return skip("several users", "needs root");
    }
    let sandbox = Sandbox::new();
    sandbox.open_to_all();
    sandbox.git(["config", "core.sharedRepository", "group"]);
    own(sandbox.here(), OWNER, GROUP);
    for path in walk(&sandbox.path(".git")) {
        let mode = fs::symlink_metadata(&path).unwrap().permissions().mode();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode | (mode & 0o700) >> 3)).unwrap();
    }
    if !to_the_end(next_as(&sandbox, Some(OWNER))).output().unwrap().status.success() {
        return skip("several users", "other users cannot run the program");
    }
    for (number, user) in [(2, None), (3, Some(OTHER)), (4, Some(OWNER)), (5, None)] {
        to_the_end(next_as(&sandbox, user)).assert().success().stdout(format!("{number}\n"));
    }
    let record = fs::metadata(sandbox.sequence_file()).unwrap();
    assert_eq!((record.mode() & 0o660, record.gid()), (0o660, GROUP));
    // Made by root, it is the owner's.
    fs::remove_file(sandbox.sequence_file()).unwrap();
    to_the_end(next_as(&sandbox, None)).assert().success();
    assert_eq!(fs::metadata(sandbox.sequence_file()).unwrap().uid(), OWNER);
    // Whoever cannot write it is told so, and gets no number.
    fs::set_permissions(sandbox.sequence_file(), fs::Permissions::from_mode(0o644)).unwrap();
    let output = to_the_end(next_as(&sandbox, Some(OTHER))).assert().code(125).stdout("").get_output().clone();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("Permission denied") && told.contains("ls -ld"), "{told}");
}
