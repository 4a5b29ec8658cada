//! Bad places: a read-only git directory, a full disk, a file system whose locks fail, another pid namespace.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::support::{HOLD, Mount, Running, Sandbox, can_trace, has_program, is_root, skip, to_the_end, walk};

/// The user `nobody`, who owns nothing.
const NOBODY: u32 = 65534;

/// Takes every write permission below a directory away.
fn make_read_only(dir: &Path) {
    for path in walk(dir) {
        let mode = fs::symlink_metadata(&path).unwrap().permissions().mode();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode & !0o222)).unwrap();
    }
}

/// `repoguard ARGS` as somebody who must obey permissions, in a repository that is not his.
fn as_reader(sandbox: &Sandbox, args: &[&str]) -> Command {
    let mut command = sandbox.repoguard_command(args);
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    let config = sandbox.outside("trusting");
    fs::write(&config, "[safe]\n\tdirectory = *\n").unwrap();
    command.env("GIT_CONFIG_GLOBAL", config);
    command
}

/// Whether the reader can run the program at all: it may lie where only its builder may look.
fn reader_can_run() -> bool {
    let sandbox = Sandbox::new();
    sandbox.open_to_all();
    let can = as_reader(&sandbox, &["--version"]).output().is_ok_and(|output| output.status.success());
    if !can {
        skip("a read-only git directory", "other users cannot run the program");
    }
    can
}

/// Whether one attempt of the reader's gets the lock.
fn reader_gets(sandbox: &Sandbox, mode: &str) -> bool {
    let mut command = to_the_end(as_reader(sandbox, &["exec", "-n", mode, "--", "true"]));
    let output = command.output().unwrap();
    match output.status.code() {
        Some(0) => true,
        Some(75) => false,
        other => panic!("{other:?}: {}", String::from_utf8_lossy(&output.stderr)),
    }
}

#[test]
fn who_can_only_read_the_git_directory_locks_the_same_thing() {
    if !reader_can_run() {
        return;
    }
    for lock_file_exists in [true, false] {
        let sandbox = Sandbox::new();
        sandbox.open_to_all();
        if lock_file_exists {
            assert_eq!(sandbox.try_once(&[]), 0);
        }
        make_read_only(&sandbox.path(".git"));
        assert!(reader_gets(&sandbox, "-x"), "lock file there: {lock_file_exists}");

        let mut reader = sandbox.start_up(as_reader(&sandbox, &["exec", "--", "sh", "-c", HOLD]));
        assert!(!reader_gets(&sandbox, "-x"));
        assert!(!reader_gets(&sandbox, "-s"));
        if is_root() {
            assert_eq!(sandbox.try_once(&[]), 75, "root can write, and is excluded all the same");
        }
        reader.finish();
        assert!(reader_gets(&sandbox, "-x"));
        if is_root() {
            let mut writer = sandbox.hold(&[]);
            assert!(!reader_gets(&sandbox, "-x"), "lock file there: {lock_file_exists}");
            let mut waiter = sandbox.start(as_reader(&sandbox, &["exec", "--", "echo", "got it"]));
            writer.finish();
            assert!(waiter.ended().success(), "{}", waiter.stderr());
            assert_eq!(waiter.stdout(), "got it\n");
        }
    }
}

#[test]
fn unreadable_git_directory_is_an_error() {
    if !reader_can_run() {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.open_to_all();
    fs::set_permissions(sandbox.path(".git"), fs::Permissions::from_mode(0o000)).unwrap();
    let mut command = as_reader(&sandbox, &["exec", "--", "touch"]);
    command.arg(sandbox.outside("ran"));
    sandbox.assert_refused(to_the_end(command), 125);
    fs::set_permissions(sandbox.path(".git"), fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn holder_that_can_only_read_the_git_directory_is_shown_once() {
    if !is_root() || !reader_can_run() {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.open_to_all();
    assert_eq!(sandbox.try_once(&[]), 0);
    let mut holder = sandbox.start_up(as_reader(&sandbox, &["exec", "--", "sh", "-c", HOLD]));
    sandbox.repoguard(["status", "--exit-code"]).assert().code(1);
    let holders = sandbox.holders();
    assert_eq!(holders.len(), 1, "{holders:?}");
    assert_eq!((&holders[0]["pid"], &holders[0]["scope"]), (&holder.pid().into(), &"worktree".into()));
    assert_eq!((&holders[0]["mode"], &holders[0]["foreign"]), (&"exclusive".into(), &serde_json::Value::Null));
    assert!(holder.finish().success(), "{}", holder.stderr());
    sandbox.repoguard(["status", "--exit-code"]).assert().success();
}

#[test]
fn file_system_without_links_and_conditional_renames_is_good_enough() {
    if !can_trace("a file system without hard links") {
        return;
    }
    for error in ["EPERM", "EOPNOTSUPP", "EINVAL"] {
        let sandbox = Sandbox::new();
        let without = |args: &[&str]| {
            let mut command = sandbox.command("strace");
            let calls = "link,linkat,renameat2";
            command.args(["-f", "-o", "/dev/null", "-e", &format!("trace={calls}")]);
            command.args(["-e", &format!("inject={calls}:error={error}"), "repoguard"]).args(args);
            to_the_end(command)
        };
        for args in [
            &["exec", "-n", "--", "flock", "-n", ".git/repoguard.lock", "true"][..],
            &["exec", "--name", "deploy", "--", "true"],
            &["mutate", "-m", "m", "--", "sh", "-c", "echo new >made"],
            &["hooks", "install"],
            &["state", "set", "key", "1"],
            &["next", "sequence"],
        ] {
            let expected = i32::from(args.contains(&"flock"));
            let output = without(args).output().unwrap();
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(expected), "{error}: {args:?}: {told}");
            if args.contains(&"flock") {
                fs::remove_dir_all(sandbox.data()).unwrap();
                fs::remove_file(sandbox.lock_file()).unwrap();
            }
        }
    }
}

#[test]
fn owner_without_a_number_in_our_user_namespace_is_left() {
    const OTHER: u32 = 100_000;
    if !is_root() || !reader_can_run() || !has_program("unshare") {
        return skip("a user namespace", "needs root and unshare");
    }
    let sandbox = Sandbox::new();
    sandbox.git(["config", "core.sharedRepository", "0666"]);
    sandbox.open_to_all();
    for path in walk(sandbox.here()) {
        std::os::unix::fs::lchown(&path, Some(1000), Some(1000)).unwrap();
        let mode = fs::symlink_metadata(&path).unwrap().permissions().mode();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode | 0o666)).unwrap();
    }
    let inside = |args: &[&str]| {
        let mut command = sandbox.command("unshare");
        command.args(["-U", "--map-root-user"]).args(args).uid(OTHER).gid(OTHER);
        to_the_end(command).output().unwrap()
    };
    if !inside(&["true"]).status.success() {
        return skip("a user namespace", "cannot make one");
    }
    let config = sandbox.outside("trusting");
    fs::write(&config, "[safe]\n\tdirectory = *\n").unwrap();
    for args in [&["exec", "--", "true"][..], &["next", "sequence"], &["state", "set", "key", "1"]] {
        let trusting = format!("GIT_CONFIG_GLOBAL={}", config.display());
        let output = inside(&[&["env", &trusting, "repoguard"], args].concat());
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

fn small(sandbox: &Sandbox, options: &str) -> Option<Mount> {
    let place = sandbox.outside("small");
    fs::create_dir_all(&place).unwrap();
    Mount::at(place, options)
}

#[test]
fn full_disk_never_lets_two_in() {
    for (options, used_before) in [("size=1m", false), ("size=1m", true), ("size=8m,nr_inodes=200", true)] {
        let sandbox = Sandbox::new();
        let Some(mount) = small(&sandbox, options) else {
            return skip("full disk", "cannot mount a tmpfs");
        };
        let place = mount.path().join("clone");
        sandbox.git(["clone", "-q", "--template=", ".", place.to_str().unwrap()]);
        if used_before {
            assert_eq!(sandbox.try_once_in(&place, &[]), 0);
        }
        // Fill the blocks, then the inodes.
        let fill = "cat /dev/zero >fill 2>/dev/null; i=0; while mkdir full-$i 2>/dev/null; do i=$((i+1)); [ $i -lt 500 ] || break; done; :";
        sandbox.sh(fill).current_dir(mount.path()).assert().success();

        let mut exec = sandbox.repoguard(["exec", "-w", "5", "--", "echo", "ran"]);
        let output = exec.current_dir(&place).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        let status = output.status.code().unwrap_or_else(|| panic!("{told}"));
        assert!([0, 69, 125].contains(&status), "{options}: {status}: {told}");
        assert!(!told.contains("panicked"), "{told}");
        assert_eq!(status == 0, output.stdout == b"ran\n");
        assert!(status == 0 || !told.is_empty());
        if status == 0 {
            let mut command = sandbox.repoguard_command(["exec", "--", "sh", "-c", HOLD]);
            command.current_dir(&place);
            let mut holder: Running = sandbox.start_up(command);
            assert_eq!(sandbox.try_once_in(&place, &[]), 75);
            holder.finish();
        }
        sandbox.repoguard(["status"]).current_dir(&place).assert().success();
        sandbox.repoguard(["log"]).current_dir(&place).assert().success();
        fs::remove_file(mount.path().join("fill")).unwrap();
    }
}

/// `strace` that lets flock fail, on one path only; none where it cannot trace.
fn failing_flock(sandbox: &Sandbox, error: &str, path: &Path) -> Option<Command> {
    let mut probe = sandbox.command("strace");
    let can = probe.args(["-o", "/dev/null", "true"]).output().is_ok_and(|output| output.status.success());
    let mut command = sandbox.command("strace");
    command.args(["-f", "-o", "/dev/null", "-e", "trace=flock", "-e"]);
    command.arg(format!("inject=flock:error={error}")).arg("-P").arg(path);
    can.then_some(command)
}

#[test]
fn file_system_without_locks_is_refused() {
    for error in ["ENOLCK", "EOPNOTSUPP", "ENOSYS"] {
        let sandbox = Sandbox::new();
        assert_eq!(sandbox.try_once(&[]), 0);
        let Some(mut command) = failing_flock(&sandbox, error, &sandbox.lock_file()) else {
            return skip("file system without locks", "strace cannot trace");
        };
        command.args(["repoguard", "exec", "--", "touch"]).arg(sandbox.outside("ran"));
        let told = sandbox.assert_refused(to_the_end(command), 69);
        assert!(told.contains("repoguard.lock"), "{error}: {told}");
        let mut command = failing_flock(&sandbox, error, &sandbox.data()).expect("it traces");
        command.args(["repoguard", "status", "--exit-code"]);
        to_the_end(command).assert().code(3);
    }
}

#[test]
fn directory_that_cannot_be_locked_leaves_the_file_alone_to_count() {
    let sandbox = Sandbox::new();
    assert_eq!(sandbox.try_once(&[]), 0);
    // What NFS says to an exclusive lock on a read-only descriptor.
    let Some(mut command) = failing_flock(&sandbox, "EBADF", &sandbox.path(".git")) else {
        return skip("anchor that cannot be locked", "strace cannot trace");
    };
    command.args(["repoguard", "exec", "--", "sh", "-c", HOLD]);
    let mut holder = sandbox.start_up(command);
    assert_eq!(sandbox.try_once(&[]), 75);
    assert!(holder.finish().success(), "{}", holder.stderr());
    assert_eq!(sandbox.try_once(&[]), 0);
}

/// `repoguard ARGS` in a pid namespace of its own; none where there are none.
fn in_namespace(sandbox: &Sandbox, args: &[&str]) -> Option<Command> {
    let enter = ["--pid", "--fork", "--mount-proc"];
    let mut probe = sandbox.command("unshare");
    let can = is_root()
        && has_program("unshare")
        && probe.args(enter).arg("true").output().is_ok_and(|output| output.status.success());
    let mut command = sandbox.command("unshare");
    command.args(enter).arg("repoguard").args(args);
    can.then_some(command)
}

#[test]
fn held_lock_is_never_called_free_across_pid_namespaces() {
    let sandbox = Sandbox::new();
    let Some(asks) = in_namespace(&sandbox, &["status", "--exit-code"]) else {
        return skip("another pid namespace", "cannot make one");
    };
    let holder = sandbox.hold(&[]);
    let status = to_the_end(asks).output().unwrap().status.code().unwrap();
    assert!([1, 3].contains(&status), "held, seen from inside: {status}");
    let tries = in_namespace(&sandbox, &["exec", "-n", "--", "true"]).expect("a namespace");
    to_the_end(tries).assert().code(75);
    drop(holder);

    let holds = in_namespace(&sandbox, &["exec", "--", "sh", "-c", HOLD]).expect("a namespace");
    let mut holder = sandbox.start_up(holds);
    let status = sandbox.repoguard(["status", "--exit-code"]).output().unwrap().status.code().unwrap();
    assert!([1, 3].contains(&status), "held inside, seen from outside: {status}");
    assert_eq!(sandbox.try_once(&[]), 75);
    holder.finish();
    assert_eq!(sandbox.try_once(&[]), 0);
}

#[test]
fn on_a_full_disk_what_outlives_its_process_is_refused_at_once() {
    let sandbox = Sandbox::new();
    let Some(mount) = small(&sandbox, "size=1m") else {
        return skip("hooks on a full disk", "cannot mount a tmpfs");
    };
    let place = mount.path().join("clone");
    sandbox.git(["clone", "-q", "--template=", ".", place.to_str().unwrap()]);
    sandbox.install_hooks_in(&place);
    sandbox.sh("cat /dev/zero >../fill 2>/dev/null; :").current_dir(&place).assert().success();
    // A hook that could not tell the next one that it is inside would make it wait for a minute.
    for command in ["git commit -q --allow-empty -m x", "repoguard acquire --ttl 1m"] {
        let output = sandbox.sh(command).current_dir(&place).timeout(Duration::from_secs(20)).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code().is_some_and(|status| status != 0), "{command}: {told}");
        assert!(told.contains("No space left") && told.contains("hint:"), "{command}: {told}");
    }
    fs::remove_file(mount.path().join("fill")).unwrap();
    assert_eq!(sandbox.try_once_in(&place, &[]), 0);
}
