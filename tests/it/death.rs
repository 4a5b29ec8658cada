//! Deaths: whoever is killed, the command never runs unguarded, and the lock is free once the command has ended.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::process::Signal;

use crate::support::{
    Dice, Running, Sandbox, alive, all_in, can_trace, eventually, has_program, is_root, kill, lines, long, skip,
    to_the_end,
};

/// A command that ends with 7 when its standard input does.
const HOLD_7: &str = "echo $$; read _; exit 7";

#[test]
fn lock_outlives_a_killed_wrapper_until_the_command_ends() {
    let sandbox = Sandbox::new();
    let mut holder = sandbox.hold(&[]);
    holder.signal(Signal::KILL);
    holder.ended();
    assert_eq!(sandbox.try_once(&[]), 75, "the command still runs");
    assert!(alive(holder.command_pid()));
    holder.release();
    eventually("free when the command has ended", || sandbox.try_once(&[]) == 0);
}

#[test]
fn stopped_wrapper_does_not_keep_the_lock_when_the_command_has_ended() {
    let sandbox = Sandbox::new();
    for keeper_too in [false, true] {
        let mut holder = sandbox.hold_with(&[], HOLD_7);
        let keeper = holder.keeper();
        holder.signal(Signal::STOP);
        if keeper_too {
            // Then whoever asks next wakes them.
            kill(keeper, Signal::STOP);
        }
        holder.release();
        eventually("the command has ended", || !alive(holder.command_pid()));
        eventually("it is let go", || sandbox.try_once(&[]) == 0);
        assert_eq!(holder.ended().code(), Some(7));
    }
}

#[test]
fn stopped_keeper_of_a_git_does_not_keep_the_lock_when_the_git_has_ended() {
    let sandbox = Sandbox::guarded();
    let gate = sandbox.gate("editor");
    let mut command = sandbox.git_command(["commit", "-q", "--allow-empty"]);
    command.env("GIT_EDITOR", format!("sh -c '{}; echo x >\"$1\"' editor", gate.script().replace('\'', "\"")));
    let mut git = sandbox.start(command);
    gate.reached_by(&mut git);
    let keeper = sandbox.holder()["keeper"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a keeper");
    kill(keeper, Signal::STOP);
    gate.open();
    git.ended();
    assert_eq!(sandbox.try_once(&[]), 0, "who tries wakes it");
}

#[test]
fn keeper_does_what_a_killed_wrapper_would_have_done() {
    let sandbox = Sandbox::new();
    assert_eq!(sandbox.try_once(&[]), 0);
    let script = "echo $$; read _; git commit -q --allow-empty -m late";
    let mut holder = sandbox.hold_with(&["--reason", "orphaned"], script);
    holder.signal(Signal::KILL);
    holder.finish();
    eventually("free when the command has ended", || sandbox.try_once(&[]) == 0);
    assert_eq!(sandbox.git(["log", "-1", "--format=%s"]), "late\n");
    let records = sandbox.log();
    let of_it: Vec<_> = records.iter().filter(|record| record["reason"] == "orphaned").collect();
    assert_eq!(of_it.len(), 1, "{records:?}");
    let foreign = records.iter().filter(|record| record["event"] == "violated").count();
    assert_eq!(foreign, 0, "what it committed was committed under the lock: {records:?}");
}

#[test]
fn keeper_keeps_to_the_longest_hold_of_a_killed_wrapper() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["--max-hold", "2s"]);
    holder.signal(Signal::KILL);
    eventually("the command is told to end", || !alive(holder.command_pid()));
    eventually("free", || sandbox.try_once(&[]) == 0);
}

#[test]
fn killed_keeper_changes_nothing() {
    let sandbox = Sandbox::new();
    let mut holder = sandbox.hold_with(&[], HOLD_7);
    let keeper = holder.keeper();
    kill(keeper, Signal::KILL);
    eventually("the keeper is gone", || !alive(keeper));
    assert_eq!(sandbox.try_once(&[]), 75);
    assert!(holder.runs());
    holder.release();
    assert_eq!(holder.ended().code(), Some(7), "{}", holder.stderr());
    assert_eq!(sandbox.try_once(&[]), 0);
}

#[test]
fn lock_outlives_wrapper_and_keeper_until_the_command_ends() {
    for wrapper_first in [true, false] {
        let sandbox = Sandbox::new();
        let mut holder = sandbox.hold(&[]);
        let (wrapper, keeper) = (holder.pid(), holder.keeper());
        let order = if wrapper_first { [wrapper, keeper] } else { [keeper, wrapper] };
        for pid in order {
            kill(pid, Signal::KILL);
        }
        holder.ended();
        eventually("both are gone", || !alive(wrapper) && !alive(keeper));
        assert_eq!(sandbox.try_once(&[]), 75, "wrapper first: {wrapper_first}");
        assert_eq!(sandbox.try_once(&["-s"]), 75);
        holder.release();
        eventually("free when the command has ended", || sandbox.try_once(&[]) == 0);
    }
}

#[test]
fn names_and_repo_outlive_killed_wrapper_and_keeper_as_well() {
    let sandbox = Sandbox::new();
    let options = ["--scope", "repo", "--name", "x"];
    let mut holder = sandbox.hold(&options);
    kill(holder.keeper(), Signal::KILL);
    holder.signal(Signal::KILL);
    holder.ended();
    for asked in [&["--name", "x"][..], &["--name", "y"], &[], &["--scope", "repo"]] {
        assert_eq!(sandbox.try_once(asked), 75, "{asked:?}");
    }
    holder.release();
    eventually("free when the command has ended", || sandbox.try_once(&options) == 0);
}

#[test]
fn killing_all_of_them_frees_at_once() {
    let sandbox = Sandbox::new();
    let mut holder = sandbox.hold(&[]);
    let mut waiter = sandbox.queue(&[], "echo next");
    holder.signal_group(Signal::KILL);
    holder.ended();
    assert!(waiter.ended().success());
    assert_eq!(waiter.stdout(), "next\n");
}

#[test]
fn killed_command_passes_its_death_on_and_frees() {
    let sandbox = Sandbox::new();
    let mut holder = sandbox.hold(&[]);
    kill(holder.command_pid(), Signal::KILL);
    assert_eq!(holder.ended().code(), Some(137));
    assert_eq!(sandbox.try_once(&[]), 0);
}

/// A script that leaves a daemon behind, which keeps every descriptor above stderr, and prints its pid.
const LEAVES_DAEMON: &str = "setsid sh -c 'echo $$ >daemon; exec sleep 120' </dev/null >/dev/null 2>&1 & \
     while ! [ -s daemon ]; do sleep 0.02; done; echo $$;";

fn daemon_of(sandbox: &Sandbox) -> u32 {
    let pid = fs::read_to_string(sandbox.path("daemon")).unwrap();
    pid.trim().parse().expect("a pid")
}

#[test]
fn daemon_left_behind_does_not_pin_the_lock() {
    if !has_program("setsid") {
        return skip("daemon left behind", "no setsid(1)");
    }
    let sandbox = Sandbox::new();
    sandbox.repoguard(["exec", "--", "sh", "-c", LEAVES_DAEMON]).assert().success();
    assert_eq!(sandbox.try_once(&["--scope", "repo"]), 0);
    assert_eq!(all_in(sandbox.here()), [daemon_of(&sandbox)], "and nothing of ours stays with it");
}

#[test]
fn keeper_is_made_at_once_if_the_wrapper_goes_on_late() {
    if !can_trace("a late wrapper") {
        return;
    }
    let sandbox = Sandbox::new();
    let calls = sandbox.outside("calls");
    // As on a loaded machine: the command runs already for 30 ms.
    let mut strace = sandbox.command("strace");
    strace.arg("-o").arg(&calls).args(["-e", "inject=clone,clone3,vfork:delay_exit=30000"]);
    strace.args(["repoguard", "exec", "--", "sleep", "0.5"]);
    to_the_end(strace).assert().success();
    let calls = lines(&calls);
    let is_spawn = |call: &&String| call.contains("CLONE_VFORK") || call.starts_with("vfork");
    let after: Vec<&String> = calls.iter().skip_while(|call| !is_spawn(call)).skip(1).collect();
    let keeper = after.iter().position(|call| call.starts_with("clone") || call.starts_with("fork"));
    let before = &after[..keeper.expect("a keeper")];
    assert!(!before.iter().any(|call| call.contains("poll(")), "it sleeps before: {before:?}");
}

#[test]
fn daemon_does_not_pin_the_lock_of_a_killed_wrapper_or_keeper() {
    if !has_program("setsid") {
        return skip("daemon and killed wrapper", "no setsid(1)");
    }
    for kill_wrapper in [true, false] {
        let sandbox = Sandbox::new();
        let mut holder = sandbox.hold_with(&[], &format!("{LEAVES_DAEMON} read _"));
        let victim = if kill_wrapper { holder.pid() } else { holder.keeper() };
        kill(victim, Signal::KILL);
        eventually("the victim is gone", || !alive(victim));
        assert_eq!(sandbox.try_once(&[]), 75);
        holder.finish();
        eventually("free when the command has ended", || sandbox.try_once(&[]) == 0);
        assert!(alive(daemon_of(&sandbox)), "although the daemon lives");
    }
}

/// Asserts that everybody who looks or waits is told which process keeps the lock, and what frees it.
#[track_caller]
fn assert_named(sandbox: &Sandbox, keeper: u32, command: &str) {
    let words = [format!("pid {keeper} `{command}`"), format!("`kill {keeper}` frees the lock")];
    let status = sandbox.repoguard(["status"]).assert().success().get_output().clone();
    let tried = sandbox.refused(&["-n"], 75);
    let mut waiter = sandbox.queue(&["--timeout", "30s"], ":");
    eventually("the waiter says whom it waits for", || waiter.stderr().lines().count() > 1);
    for told in [String::from_utf8_lossy(&status.stdout).into_owned(), tried, waiter.stderr()] {
        assert!(words.iter().all(|words| told.contains(words)), "{words:?} are not in {told}");
    }
    let holder = &sandbox.holders()[0];
    assert_eq!(holder["inherited_by"], serde_json::json!([keeper]), "{holder}");
    sandbox.repoguard(["status", "--exit-code"]).assert().code(1);
    kill(keeper, Signal::KILL);
    assert!(waiter.ended().success(), "{}", waiter.stderr());
}

#[test]
fn daemon_that_keeps_the_lock_of_killed_processes_is_named() {
    if !has_program("setsid") {
        return skip("daemon and nobody else", "no setsid(1)");
    }
    let sandbox = Sandbox::new();
    let mut holder = sandbox.hold_with(&[], &format!("{LEAVES_DAEMON} read _"));
    let daemon = daemon_of(&sandbox);
    kill(holder.keeper(), Signal::KILL);
    holder.signal(Signal::KILL);
    kill(holder.command_pid(), Signal::KILL);
    holder.ended();
    eventually("the command is gone", || !alive(holder.command_pid()));
    assert_named(&sandbox, daemon, "sleep 120");
}

#[test]
fn daemon_that_keeps_the_lock_of_flock_is_named() {
    if !has_program("setsid") || !has_program("flock") {
        return skip("daemon below flock(1)", "no setsid(1) or no flock(1)");
    }
    let sandbox = Sandbox::new();
    assert_eq!(sandbox.try_once(&[]), 0);
    let mut command = sandbox.command("flock");
    command.arg(sandbox.lock_file()).args(["sh", "-c", LEAVES_DAEMON]);
    to_the_end(command).assert().success();
    assert_named(&sandbox, daemon_of(&sandbox), "sleep 120");
}

#[test]
fn process_of_another_user_that_keeps_the_lock_is_said_to_be_invisible() {
    const USER: u32 = 61_004;
    if !is_root() || !has_program("setsid") {
        return skip("another user's daemon", "needs root and setsid(1)");
    }
    let sandbox = Sandbox::new();
    sandbox.open_to_all();
    let mut holder = sandbox.hold_with(&[], &format!("{LEAVES_DAEMON} read _"));
    let keeper = holder.keeper();
    for pid in [keeper, holder.pid(), holder.command_pid()] {
        kill(pid, Signal::KILL);
    }
    holder.ended();
    let mut command = sandbox.command("repoguard");
    command.arg("status").uid(USER).gid(USER);
    let output = to_the_end(command).assert().success().get_output().clone();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(told.contains("cannot see") && told.contains("sudo repoguard status"), "{told}");
    kill(daemon_of(&sandbox), Signal::KILL);
}

#[test]
fn crash_of_the_previous_holder_is_told() {
    let sandbox = Sandbox::new();
    let mut holder = sandbox.hold(&["--reason", "doomed"]);
    let pids = [holder.pid(), holder.command_pid()].map(|pid| pid.to_string());
    holder.signal_group(Signal::KILL);
    holder.ended();
    let output = sandbox.repoguard(["exec", "--", "true"]).assert().success().get_output().clone();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(pids.iter().any(|pid| told.contains(pid)), "{pids:?}: {told}");
    sandbox.repoguard(["exec", "--", "true"]).assert().success().stderr("");
}

/// Under the lock: takes an independent kernel lock, tells when somebody else has it, and dies with it in one process.
const ORACLE: &str = r#"
use Fcntl qw(:flock);
sub note { open(my $file, ">>", "$ARGV[0]/$_[0]") or die; syswrite($file, "$$\n") }
open(my $lock, ">>", "$ARGV[0]/oracle") or die;
flock($lock, ($ARGV[1] eq "shared" ? LOCK_SH : LOCK_EX) | LOCK_NB) or note("violations");
note("runs");
select(undef, undef, undef, rand 0.01);
"#;

#[test]
fn oracle_sees_a_second_holder() {
    if !has_program("perl") || !has_program("flock") {
        return skip("the oracle itself", "no perl or no flock(1)");
    }
    let sandbox = Sandbox::new();
    let records = sandbox.outside("records");
    fs::create_dir(&records).unwrap();
    for (mode, violations) in [("shared", 0), ("exclusive", 1)] {
        let mut command = sandbox.command("flock");
        command.arg("-s").arg(records.join("oracle")).args(["perl", "-e", ORACLE]).arg(&records).arg(mode);
        to_the_end(command).assert().success();
        assert_eq!(lines(&records.join("violations")).len(), violations, "{mode}");
    }
    assert_eq!(lines(&records.join("runs")).len(), 2);
}

const MODES: [(&str, &[&str]); 3] = [("exclusive", &[]), ("shared", &["-s"]), ("exclusive", &["--scope", "repo"])];

/// Asks for the lock again and again, until told to stop.
fn storm_worker(sandbox: &Sandbox, records: &Path, number: usize, stop: &AtomicBool) {
    let (mode, options) = MODES[number % MODES.len()];
    while !stop.load(Ordering::Relaxed) {
        let mut command = sandbox.repoguard_command(["exec"]);
        command.args(options).args(["--", "perl", "-e", ORACLE]).arg(records).arg(mode);
        let mut running = sandbox.start(command);
        running.ended();
        let told = running.stderr();
        assert!(!told.contains("panicked"), "{told}");
        // A command whose wrapper was killed goes on, and nobody may come in meanwhile.
        running.leave();
    }
}

/// Kills random processes of the storm: wrappers, keepers, commands and waiters alike.
fn killer(sandbox: &Sandbox, kills: usize) {
    let mut dice = Dice::new(u64::from(std::process::id()));
    let mut done = 0;
    while done < kills {
        thread::sleep(dice.millis(10, 60));
        let victims = all_in(sandbox.here());
        if !victims.is_empty() {
            let index = dice.index(victims.len());
            kill(victims[index], Signal::KILL);
            done += 1;
        }
    }
}

#[test]
fn random_kills_never_let_two_in_and_leave_nothing_behind() {
    if !has_program("perl") {
        return skip("storm of kills", "no perl");
    }
    let sandbox = Sandbox::new();
    let records = sandbox.outside("records");
    fs::create_dir(&records).unwrap();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..6)
            .map(|number| {
                let (sandbox, records, stop) = (&sandbox, &records, &stop);
                scope.spawn(move || storm_worker(sandbox, records, number, stop))
            })
            .collect();
        killer(&sandbox, if long() { 1000 } else { 150 });
        stop.store(true, Ordering::Relaxed);
        for worker in workers {
            worker.join().expect("a worker that found nothing wrong");
        }
    });
    assert_eq!(lines(&records.join("violations")), [""; 0], "two holders at once");
    let runs = lines(&records.join("runs")).len();
    assert!(runs >= 50, "the storm went on: {runs} runs");
    eventually("nobody is left", || all_in(sandbox.here()).is_empty());
    assert_eq!(sandbox.try_once(&["--scope", "repo"]), 0);
    sandbox.repoguard(["exec", "-w", "10", "--", "true"]).assert().success();
    // A process that is killed while it writes a file leaves the unfinished one, which nobody reads.
    let is_unfinished = |name: &String| name.starts_with(".repoguard-new-");
    assert_eq!(sandbox.tickets().into_iter().filter(|name| !is_unfinished(name)).collect::<Vec<_>>(), [""; 0]);
    sandbox.repoguard(["log", "--json"]).assert().success();
}

/// Kills a holder with its keeper and its command, and waits until the lock is free.
fn kill_all_of(sandbox: &Sandbox, mut holder: Running) {
    holder.keeper();
    holder.signal_group(Signal::KILL);
    holder.ended();
    eventually("free", || sandbox.status()["state"] == "free");
}

#[test]
fn dead_holder_is_not_blamed_for_a_move_that_was_reported_before() {
    for again in [false, true] {
        let sandbox = Sandbox::new();
        assert_eq!(sandbox.try_once(&[]), 0);
        sandbox.git(["commit", "-q", "--allow-empty", "-m", "outside"]);
        let script = if again { "git commit -q --allow-empty -m own; echo up; sleep 60" } else { "echo up; sleep 60" };
        let holder = sandbox.hold_with(&[], script);
        assert!(holder.stderr().contains("changed outside the guard"), "{}", holder.stderr());
        kill_all_of(&sandbox, holder);
        let output = sandbox.repoguard(["exec", "--", "true"]).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(told.contains("was killed before it could release"), "{told}");
        assert_eq!(told.contains("HEAD moved"), again, "{told}");
        assert!(!told.contains("changed outside"), "{told}");
        let of = |event: &str| sandbox.log().iter().filter(|record| record["event"] == event).count();
        assert_eq!((of("violated"), of("died")), (1, 1));
        sandbox.repoguard(["exec", "--", "true"]).assert().success().stderr("");
    }
}

#[test]
fn move_under_one_dead_holder_is_not_told_of_the_next() {
    let sandbox = Sandbox::new();
    assert_eq!(sandbox.try_once(&[]), 0);
    for (round, script) in
        ["git commit -q --allow-empty -m own; echo up; sleep 60", "echo up; sleep 60"].iter().enumerate()
    {
        let holder = sandbox.hold_with(&[], script);
        assert_eq!(holder.stderr().contains("HEAD moved"), round == 1, "{}", holder.stderr());
        kill_all_of(&sandbox, holder);
    }
    let output = sandbox.repoguard(["exec", "--", "true"]).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("was killed") && !told.contains("HEAD moved"), "{told}");
}
