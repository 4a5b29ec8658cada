//! Waiters that cannot go on: everybody passes them within a second, and nobody passes one that can.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::{
    Frozen, Running, Sandbox, copy_of_program, eventually, has_program, is_root, kill, process_group, shell_status,
    skip, state_of, to_the_end,
};

/// How long passing may take: a second, and what a loaded machine adds.
const SOON: Duration = Duration::from_secs(8);

/// Runs a command to its end; fails if it was told that the lock is busy, or waited for somebody who cannot go on.
#[track_caller]
fn gets_in(mut command: Command, what: &str) {
    let begun = Instant::now();
    let output = to_the_end(std::mem::replace(&mut command, Command::new("true"))).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{what}: {}", String::from_utf8_lossy(&output.stderr));
    assert!(begun.elapsed() < SOON, "{what}: after {:?}", begun.elapsed());
}

/// Every way to ask for the lock gets it.
fn everybody_gets_in(sandbox: &Sandbox) {
    for options in [&["-n"][..], &["-w", "20"], &["--on-busy", "fail"], &["--on-busy", "skip"]] {
        let mut command = sandbox.repoguard_command(["exec"]);
        command.args(options).args(["--", "touch", "ran"]);
        gets_in(command, &options.join(" "));
        fs::remove_file(sandbox.path("ran")).expect("the command ran");
    }
}

/// A waiter that is stopped while somebody holds, who then ends.
fn stopped_waiter(sandbox: &Sandbox) -> Running {
    let mut holder = sandbox.hold(&[]);
    let waiter = sandbox.queue(&[], "echo got it");
    waiter.signal(Signal::STOP);
    eventually("it is stopped", || state_of(waiter.pid()) == Some('T'));
    holder.finish();
    // A process of its own that waits in the kernel's queue may get the lock, and gives it back.
    eventually("the lock is free", || sandbox.status()["state"] == "free");
    waiter
}

#[test]
fn stopped_waiter_is_passed_by_everybody_and_gets_the_lock_when_continued() {
    let sandbox = Sandbox::new();
    let mut waiter = stopped_waiter(&sandbox);
    everybody_gets_in(&sandbox);
    waiter.signal(Signal::CONT);
    assert_eq!(shell_status(waiter.ended()), 0, "{}", waiter.stderr());
    assert_eq!(waiter.stdout(), "got it\n");
    assert_eq!(sandbox.tickets(), [""; 0]);
}

#[test]
fn try_waits_for_the_helper_of_a_stopped_waiter_whoever_tries() {
    let sandbox = Sandbox::new();
    sandbox.open_to_all();
    let copy = sandbox.outside("copy");
    copy_of_program(&copy);
    let copied = copy.to_str().expect("UTF-8");
    let mut ways = vec![vec!["repoguard"], vec![copied]];
    if is_root() && has_program("setpriv") && has_program("unshare") {
        ways.push(vec!["setpriv", "--reuid=61003", "--regid=61003", "--clear-groups", "repoguard"]);
        ways.push(vec!["unshare", "--pid", "--fork", "--mount-proc", "repoguard"]);
    } else {
        skip("tries by another user and in another pid namespace", "not root, or no setpriv or unshare");
    }
    for way in ways {
        let mut holder = sandbox.hold(&[]);
        let waiter = sandbox.queue(&[], "echo got it");
        waiter.signal(Signal::STOP);
        eventually("it is stopped", || state_of(waiter.pid()) == Some('T'));
        holder.finish();
        // The helper has the lock for a quarter of a second now.
        let mut command = sandbox.command(way[0]);
        command.args(&way[1..]).args(["exec", "-n", "--", "true"]);
        command.env("GIT_CONFIG_COUNT", "1").env("GIT_CONFIG_KEY_0", "safe.directory").env("GIT_CONFIG_VALUE_0", "*");
        gets_in(command, &way.join(" "));
        waiter.signal_group(Signal::KILL);
    }
}

#[test]
fn commit_under_gits_own_lock_passes_a_stopped_waiter() {
    let sandbox = Sandbox::guarded();
    fs::write(sandbox.path("tracked"), "1\n").unwrap();
    sandbox.git(["add", "tracked"]);
    sandbox.git(["commit", "-qm", "tracked"]);
    let waiter = stopped_waiter(&sandbox);
    fs::write(sandbox.path("tracked"), "2\n").unwrap();
    gets_in(sandbox.git_command(["commit", "-qam", "changed"]), "git commit -a");
    waiter.signal(Signal::KILL);
}

#[test]
fn frozen_waiter_is_passed_by_everybody_and_gets_the_lock_when_thawed() {
    const WHAT: &str = "a frozen waiter";
    let sandbox = Sandbox::new();
    let mut holder = sandbox.hold(&[]);
    let mut waiter = sandbox.queue(&[], "echo got it");
    let Some(frozen) = Frozen::new(&process_group(waiter.pid())) else {
        skip(WHAT, "control groups cannot be frozen here");
        return;
    };
    holder.finish();
    everybody_gets_in(&sandbox);
    frozen.thaw();
    assert_eq!(shell_status(waiter.ended()), 0, "{}", waiter.stderr());
    assert_eq!(sandbox.tickets(), [""; 0]);
}

fn signal_all(running: &Running, signal: Signal) {
    for pid in process_group(running.pid()) {
        kill(pid, signal);
    }
}

/// A waiter in a pid namespace of its own, all of whose processes are stopped: from outside nobody can tell.
fn unseen_waiter(sandbox: &Sandbox, what: &str) -> Option<Running> {
    if !is_root() || !has_program("unshare") {
        skip(what, "needs root and unshare");
        return None;
    }
    let mut command = sandbox.command("unshare");
    command.args([
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "repoguard",
        "exec",
        "--",
        "sh",
        "-c",
        "echo got it",
    ]);
    let before = sandbox.waiters();
    let waiter = sandbox.start(command);
    eventually("it waits", || sandbox.waiters() > before);
    signal_all(&waiter, Signal::STOP);
    Some(waiter)
}

#[test]
fn waiters_of_other_pid_namespaces_are_passed_within_a_second_however_many() {
    let sandbox = Sandbox::new();
    let mut holder = sandbox.hold(&[]);
    let Some(mut first) = unseen_waiter(&sandbox, "waiters of other pid namespaces") else { return };
    let second = unseen_waiter(&sandbox, "a second one").expect("as the first");
    holder.finish();
    everybody_gets_in(&sandbox);
    signal_all(&first, Signal::CONT);
    assert_eq!(shell_status(first.ended()), 0, "{}", first.stderr());
    signal_all(&second, Signal::KILL);
    assert_eq!(sandbox.try_once(&[]), 0);
}

#[test]
fn waiter_of_another_pid_namespace_that_runs_keeps_its_place() {
    let sandbox = Sandbox::new();
    let mut holder = sandbox.hold(&[]);
    let Some(mut first) = unseen_waiter(&sandbox, "a waiter of another pid namespace") else { return };
    signal_all(&first, Signal::CONT);
    let mut second = sandbox.queue(&[], "echo \"after $(cat order)\"");
    fs::write(sandbox.path("order"), "the first").unwrap();
    assert_eq!(sandbox.try_once(&[]), 75, "somebody holds");
    holder.finish();
    assert_eq!(shell_status(first.ended()), 0);
    assert_eq!(shell_status(second.ended()), 0);
    let fences: Vec<_> = sandbox.log().iter().map(|entry| entry["pid"].as_u64()).collect();
    assert_eq!(fences.last().copied().flatten(), Some(u64::from(second.pid())), "in order of arrival: {fences:?}");
}

/// Puts a ticket into the queue whose reading end is open in this process.
fn forged_ticket(sandbox: &Sandbox, number: u64, record: &str, mode: u32) -> fs::File {
    let queue = sandbox.data().join("queue");
    let ticket = queue.join(format!("{number}.repos_wx"));
    assert!(Command::new("mkfifo").arg(&ticket).status().unwrap().success());
    let reader = fs::OpenOptions::new().read(true).write(true).open(&ticket).unwrap();
    let json = queue.join(format!("{number}.json"));
    fs::write(&json, format!("{record:<4095}\n")).unwrap();
    fs::set_permissions(&ticket, fs::Permissions::from_mode(mode)).unwrap();
    fs::set_permissions(&json, fs::Permissions::from_mode(mode)).unwrap();
    reader
}

fn ticket_record(number: u64, pid: u32, namespaces: (u64, u64)) -> String {
    let resources = r#"[["repo","shared"],["w","exclusive"]]"#;
    format!(
        r#"{{"schema":1,"id":{number},"pid":{pid},"pid_namespace":{},"time_namespace":{},"boot_ms":{},"host":"h","user":"u","command":"c","directory":"d","scope":"worktree","mode":"exclusive","requested_ms":1,"resources":{resources}}}"#,
        namespaces.0,
        namespaces.1,
        u64::MAX / 4,
    )
}

/// The numbers of this process' pid and time namespaces.
fn own_namespaces() -> (u64, u64) {
    use std::os::unix::fs::MetadataExt as _;
    let number = |name: &str| fs::metadata(format!("/proc/self/ns/{name}")).map_or(0, |link| link.ino());
    (number("pid"), number("time"))
}

#[test]
fn ticket_of_a_process_that_is_gone_is_removed_whoever_has_its_descriptors() {
    let sandbox = Sandbox::new();
    assert_eq!(sandbox.try_once(&[]), 0);
    let mut ended = Command::new("true").spawn().unwrap();
    ended.wait().unwrap();
    let _reader = forged_ticket(&sandbox, 5, &ticket_record(5, ended.id(), own_namespaces()), 0o666);
    assert_eq!(sandbox.waiters(), 0, "`status` does not show it");
    assert_eq!(sandbox.try_once(&[]), 0);
    assert_eq!(sandbox.tickets(), [""; 0]);
}

#[test]
fn ticket_that_nobody_else_may_read_is_passed() {
    const WHAT: &str = "a ticket of another user that cannot be read";
    if !is_root() {
        return skip(WHAT, "needs root");
    }
    let sandbox = Sandbox::new();
    sandbox.open_to_all();
    assert_eq!(sandbox.try_once(&[]), 0);
    // Without a record, and with one that names a process which always runs.
    let _first = forged_ticket(&sandbox, 5, "", 0o000);
    let _second = forged_ticket(&sandbox, 6, &ticket_record(6, 1, own_namespaces()), 0o000);
    assert!(Command::new("chmod").args(["-R", "o+rwX"]).arg(sandbox.data()).status().unwrap().success());
    for name in ["5.repos_wx", "6.repos_wx", "5.json"] {
        fs::set_permissions(sandbox.data().join("queue").join(name), fs::Permissions::from_mode(0o000)).unwrap();
    }
    fs::set_permissions(sandbox.data().join("queue"), fs::Permissions::from_mode(0o1777)).unwrap();
    for options in [["-n"].as_slice(), &["-w", "20"]] {
        let mut command = sandbox.repoguard_command(["-C", &sandbox.here().display().to_string(), "exec"]);
        command.args(options).args(["--", "true"]).uid(61_003).gid(61_003);
        let trusted = sandbox.outside("trusting");
        fs::write(&trusted, "[safe]\n\tdirectory = *\n").unwrap();
        command.env("GIT_CONFIG_GLOBAL", trusted);
        assert!(Command::new("chmod").args(["-R", "o+rwX"]).arg(sandbox.lock_file()).status().unwrap().success());
        gets_in(command, &options.join(" "));
    }
}

#[test]
fn queue_that_is_removed_under_waiters_is_made_again() {
    let sandbox = Sandbox::new();
    let mut holder = sandbox.hold(&[]);
    let mut waiter = sandbox.queue(&[], "echo got it");
    fs::remove_dir_all(sandbox.data().join("queue")).unwrap();
    eventually("it queues anew", || sandbox.waiters() == 1);
    holder.finish();
    assert_eq!(shell_status(waiter.ended()), 0);
    assert_eq!(sandbox.tickets(), [""; 0]);
}

#[test]
fn shared_repository_without_a_setting_has_records_for_its_group() {
    let sandbox = Sandbox::new();
    let git_dir = sandbox.path(".git");
    fs::set_permissions(&git_dir, fs::Permissions::from_mode(0o2770)).unwrap();
    let _holder = sandbox.hold(&[]);
    let _waiter = sandbox.queue(&[], "true");
    for name in sandbox.tickets() {
        let mode = fs::symlink_metadata(sandbox.data().join("queue").join(&name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o060, 0o060, "{name}: {mode:o}");
    }
    for name in ["", "queue", "holders"] {
        let mode = fs::metadata(sandbox.data().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o2070, 0o2070, "{name}: {mode:o}");
    }
}

#[test]
fn several_tickets_that_name_a_process_of_others_are_passed() {
    let sandbox = Sandbox::new();
    assert_eq!(sandbox.try_once(&[]), 0);
    if !is_root() {
        return skip("tickets that name a process of others", "needs root");
    }
    // They are another user's, and say that the first process of the system waits.
    let tickets: Vec<_> = (5..8)
        .map(|number| forged_ticket(&sandbox, number, &ticket_record(number, 1, own_namespaces()), 0o666))
        .collect();
    for number in 5..8 {
        std::os::unix::fs::chown(sandbox.data().join(format!("queue/{number}.repos_wx")), Some(61_003), None).unwrap();
    }
    everybody_gets_in(&sandbox);
    drop(tickets);
}
