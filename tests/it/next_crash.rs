//! `repoguard next` killed, or hindered, at any system call that writes; full and read-only disks.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use crate::support::{
    Mount, Sandbox, Traced, can_trace, chosen, shell_status, skip, tampered, to_the_end, writing_calls,
};

const NEXT: [&str; 4] = ["next", "id", "--count", "2"];

fn printed(output: &Output) -> Vec<u64> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines().map(|line| line.parse().expect("a number, whole")).collect()
}

/// Tampers with each writing call in turn; what was printed must never be printed again, and the next one must succeed.
fn tamper(tampering: &str, fresh: bool, many: usize) {
    if !can_trace("`next` at every system call") {
        return;
    }
    let sandbox = Sandbox::new();
    if !fresh {
        sandbox.next(&["id"]);
    }
    let calls = writing_calls(&sandbox, &sandbox.repoguard_command(NEXT), Traced::Itself);
    assert!(calls.iter().any(|call| call.name == "fdatasync") && calls.iter().any(|call| call.name == "pwrite64"));
    let mut given: BTreeSet<u64> = BTreeSet::new();
    let mut hindered = 0;
    for call in chosen(&calls, many) {
        if fresh {
            fs::remove_dir_all(sandbox.data()).ok();
            given.clear();
        }
        let output = tampered(&sandbox, &sandbox.repoguard_command(NEXT), Traced::Itself, &call, tampering);
        let (status, told) = (shell_status(output.status), String::from_utf8_lossy(&output.stderr).into_owned());
        let what = format!("{tampering} at {call:?}: {status}: {told}");
        assert!(!told.contains("panicked"), "{what}");
        assert!(status != 0 || printed(&output).len() == 2, "{what}");
        hindered += usize::from(status != 0);
        for number in printed(&output) {
            assert!(given.insert(number), "{number} again: {what}");
        }
        let next = to_the_end(sandbox.repoguard_command(NEXT)).output().unwrap();
        assert!(next.status.success(), "{what}\nthen {}", String::from_utf8_lossy(&next.stderr));
        for number in printed(&next) {
            assert!(given.insert(number), "{number} again: after {what}");
        }
    }
    assert!(hindered > 1, "only {hindered} were hindered by {tampering}");
}

#[test]
fn kill_at_every_call_of_the_first_number_leads_to_no_repeat() {
    tamper("signal=KILL", true, 40);
}

#[test]
fn kill_at_every_call_of_a_later_number_leads_to_no_repeat() {
    tamper("signal=KILL", false, 40);
}

#[test]
fn error_at_every_call_of_the_first_number_leads_to_no_repeat() {
    tamper("error=EIO", true, 40);
    tamper("error=ENOSPC", true, 12);
}

#[test]
fn error_at_every_call_of_a_later_number_leads_to_no_repeat() {
    tamper("error=EIO", false, 40);
    tamper("error=ENOSPC", false, 12);
}

/// The calls that matter, in order: what is written and synced, with the names of the files.
fn trace(sandbox: &Sandbox) -> Vec<String> {
    let log = sandbox.outside("trace");
    let mut strace = sandbox.command("strace");
    strace.args(["-y", "-e", "trace=write,pwrite64,fsync,fdatasync,rename,renameat,renameat2,link,linkat", "-o"]);
    strace.arg(&log).arg(crate::support::binary()).args(["next", "id"]);
    to_the_end(strace).assert().success();
    fs::read_to_string(log).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn number_is_on_disk_before_it_is_printed() {
    if !can_trace("the order of system calls") {
        return;
    }
    let sandbox = Sandbox::new();
    for first in [true, false] {
        let calls = trace(&sandbox);
        let record = sandbox.sequence_file();
        let at = |call: &str, path: &Path| {
            let path = format!("<{}>", path.display());
            calls.iter().position(|line| line.starts_with(call) && line.contains(&path))
        };
        let print = calls.iter().position(|line| line.starts_with("write(1")).expect("it prints");
        let (write, sync) = (at("pwrite64(", &record), at("fdatasync(", &record));
        assert!(write < sync && write.is_some() && sync < Some(print), "{calls:#?}");
        let directories = [sandbox.data().join("sequences"), sandbox.data(), sandbox.path(".git")];
        for directory in directories {
            let synced = at("fsync(", &directory);
            assert_eq!(synced.is_some(), first, "{}: {calls:#?}", directory.display());
            assert!(synced < write, "the way to the record first: {calls:#?}");
        }
        let named = calls.iter().position(|line| line.starts_with("link") || line.starts_with("rename"));
        let whole = calls.iter().position(|line| line.starts_with("fsync(") && line.contains("/.repoguard-new-"));
        assert_eq!(named.is_some(), first, "{calls:#?}");
        assert!(whole <= named, "it is whole before it has its name: {calls:#?}");
    }
}

#[test]
fn where_locks_do_not_work_no_number_is_given() {
    if !can_trace("locks that do not work") {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.next(&["id"]);
    // An error, and a success that excludes nobody.
    for tampering in ["error=ENOLCK", "retval=0"] {
        let mut strace = sandbox.command("strace");
        strace.args(["-o", "/dev/null", "-e", "trace=flock", "-e", &format!("inject=flock:{tampering}")]);
        strace.arg(crate::support::binary()).args(NEXT);
        let output = to_the_end(strace).assert().code(69).stdout("").get_output().clone();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(told.contains("locks do not work"), "{tampering}: {told}");
    }
    assert_eq!(sandbox.next(&["id"]), ["2"]);
}

/// A small file system with a repository on it.
struct Small {
    // Unmounted before its directory is removed.
    mount: Mount,
    sandbox: Sandbox,
}

impl Small {
    fn new() -> Option<Self> {
        let sandbox = Sandbox::empty();
        let mount = Mount::at(sandbox.here().to_owned(), "size=1m")?;
        sandbox.git(["init", "-q", "-b", "main", "--template="]);
        Some(Self { mount, sandbox })
    }
}

#[test]
fn full_disk_gives_no_number_and_loses_none() {
    let Some(small) = Small::new() else { return skip("a full disk", "cannot mount a tmpfs") };
    let sandbox = &small.sandbox;
    let full = || drop(sandbox.sh("cat /dev/zero >full 2>/dev/null").output().unwrap());
    full();
    for _ in 0..2 {
        let told = sandbox.gives_none(&["id"], 125);
        assert!(told.contains("No space left") && told.contains("df -h"), "{told}");
    }
    fs::remove_file(sandbox.path("full")).unwrap();
    assert_eq!(sandbox.next(&["id"]), ["1"]);
    full();
    // The record is there, and does not grow.
    assert_eq!(sandbox.next(&["id"]), ["2"]);
    sandbox.gives_none(&["another"], 125);
    fs::remove_file(sandbox.path("full")).unwrap();
    assert_eq!((sandbox.next(&["id"]), sandbox.next(&["another"])), (vec!["3".into()], vec!["1".into()]));
    let left: Vec<PathBuf> = sandbox.sequence_files();
    assert_eq!(left.len(), 2, "nothing half made is left: {left:?}");
}

#[test]
fn read_only_git_directory_gives_no_number_but_tells_the_last() {
    let Some(small) = Small::new() else { return skip("a read-only file system", "cannot mount a tmpfs") };
    let sandbox = &small.sandbox;
    small.mount.remount("ro");
    let told = sandbox.gives_none(&["id"], 125);
    assert!(told.contains("Read-only") && told.contains(".git/repoguard"), "{told}");
    small.mount.remount("rw");
    assert_eq!(sandbox.next(&["id"]), ["1"]);
    small.mount.remount("ro");
    let told = sandbox.gives_none(&["id"], 125);
    assert!(told.contains("Read-only"), "{told}");
    assert_eq!(sandbox.next(&["id", "--last"]), ["1"]);
    small.mount.remount("rw");
    assert_eq!(sandbox.next(&["id"]), ["2"]);
}
