//! `repoguard mutate`, killed: at every system call that writes, and at random instants with all its processes. Whoever
//! comes next finds the repository as it was before or as it is after, and never between.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::{
    Dice, Sandbox, Side, Traced, Workload, can_trace, chosen, eventually, kill_group, long, process_group, skip,
    tampered, writing_calls,
};

/// A checkout with every kind of file, an untracked one of the user's, an ignored one, and a stash.
pub(crate) const FURNISH: &str = "set -e; mkdir -p d/e other; echo a >d/a; echo b >d/e/b; echo o >other/o; ln -s d/a link; \
    echo run >run; chmod 755 run; printf 'one\\r\\ntwo\\r\\n' >crlf; echo 'crlf text eol=crlf' >.gitattributes; \
    echo '*.log' >.gitignore; git add -A; git commit -qm furnished; git tag v1; echo x >>file; git stash -q; \
    echo mine >mine; chmod 600 mine; echo log >x.log";

/// The user's own changes, staged and not.
const DIRTY: &str = "echo staged >>run; git add run; echo unstaged >>run; echo unstaged >>crlf; echo new >added; \
    git add added; echo intended >intended; git add -N intended; chmod 711 other";

/// Changes of every kind; none of a file that is the user's own.
pub(crate) const CHANGE: &str = "set -e; echo x >>file; rm -r d/e; ln -sfn other link; mkdir -p n/m; echo n >n/m/n; mv other/o moved; \
    chmod 755 file; rm d/a; mkdir d/a; echo deep >d/a/deep; git add moved; echo late >>moved";

/// Whatever a command must not do, which then fails.
pub(crate) const WRECK: &str = "git add -A; git commit -qm theirs; git tag theirs; echo y >>file; git stash -q; rm -rf mine other; \
    echo '*' >.gitignore; ln -s nowhere mine; git checkout -q -b side; exit 3";

/// Kills one at each of its writing system calls, or each of its processes; the next command must find it whole.
pub(crate) fn killed_at_every_call(workload: &Workload, traced: Traced, many: usize) {
    if !can_trace("a mutation killed at every system call") {
        return;
    }
    let sandbox = workload.sandbox();
    let calls = writing_calls(&sandbox, &workload.command(&sandbox), traced);
    workload.side(&sandbox).expect("a run that is only traced");
    assert!(calls.len() > 40, "{calls:?}");
    let stopped = chosen(&calls, many).into_iter().enumerate().map(|(turn, call)| {
        let sandbox = workload.sandbox();
        let output = tampered(&sandbox, &workload.command(&sandbox), traced, &call, "signal=KILL");
        let told = || format!("killed at {call:?}: {}", String::from_utf8_lossy(&output.stderr));
        workload.recovered(&sandbox, turn).map_err(|wrong| format!("{}\n{wrong}", told()))
    });
    none_is_wrong(stopped);
}

/// Asserts that nothing was wrong, however often it was tried; else tells a few of what was. Returns the sides.
#[track_caller]
pub(crate) fn none_is_wrong(tries: impl Iterator<Item = Result<Side, String>>) -> Vec<Side> {
    let (right, wrong): (Vec<_>, Vec<_>) = tries.partition(Result::is_ok);
    let all = right.len() + wrong.len();
    let wrong: Vec<String> = wrong.into_iter().filter_map(Result::err).collect();
    let brief: Vec<&str> = wrong.iter().filter_map(|what| what.lines().next()).collect();
    let some = wrong[..wrong.len().min(4)].join("\n---\n");
    assert!(wrong.is_empty(), "{} of {all} were wrong:\n{}\n---\n{some}", wrong.len(), brief.join("\n"));
    right.into_iter().flatten().collect()
}

fn success() -> Workload {
    Workload::new(FURNISH, &["--check", "true", "--verify", "true"], CHANGE, 0)
}

fn failure() -> Workload {
    Workload::new(FURNISH, &[], &format!("{CHANGE}; {WRECK}"), 3)
}

fn fenced() -> Workload {
    Workload::new(FURNISH, &["--fence"], CHANGE, 0)
}

fn fenced_failure() -> Workload {
    let fails = "echo y >>moved; git add -A; rm -rf mine; exit 3";
    Workload::new(FURNISH, &["--fence"], &format!("{CHANGE}; {fails}"), 3)
}

fn dirty() -> Workload {
    Workload::new(&format!("{FURNISH}; {DIRTY}"), &["--allow-dirty"], CHANGE, 0)
}

fn dirty_failure() -> Workload {
    let script = format!("{CHANGE}; {}", WRECK.replace("exit 3", "git reset -q --hard; git clean -qfd; exit 3"));
    Workload::new(&format!("{FURNISH}; {DIRTY}"), &["--allow-dirty"], &script, 3)
}

fn staged() -> Workload {
    Workload::new(FURNISH, &["--no-commit"], CHANGE, 0)
}

/// References and their logs in tables: no file can be put back. With a longer stash, whose log the command changes.
fn reftable(script: &str, status: i32) -> Workload {
    let begin = "rm -rf .git; git init -q --ref-format=reftable -b main; git add -A; git commit -qm first";
    let more = "for i in 2 3 4; do echo $i >>file; git stash push -q -m s$i; done";
    Workload::new(&format!("{begin}; {FURNISH}; {more}"), &[], script, status)
}

fn has_reftable() -> bool {
    let told = Sandbox::empty().command("git").args(["init", "-h"]).output().unwrap();
    let has = [told.stdout, told.stderr].concat().windows(10).any(|text| text == b"ref-format");
    if !has {
        skip("a mutation with reftable", "this git has none");
    }
    has
}

fn unborn() -> Workload {
    let begin = "rm -rf .git *; git init -q -b trunk; echo mine >mine";
    Workload::new(begin, &[], "echo x >new; mkdir d; echo y >d/y; git add new", 0)
}

#[test]
fn killed_at_every_call_of_a_success() {
    killed_at_every_call(&success(), Traced::Itself, 16);
}

#[test]
fn killed_at_every_call_of_a_rollback() {
    killed_at_every_call(&failure(), Traced::Itself, 18);
}

#[test]
fn killed_at_every_call_with_reftable() {
    if has_reftable() {
        killed_at_every_call(&reftable(CHANGE, 0), Traced::Itself, 12);
        let fails = format!("{CHANGE}; git stash drop -q stash@{{1}}; git stash drop -q; {WRECK}");
        killed_at_every_call(&reftable(&fails, 3), Traced::Itself, 24);
    }
}

#[test]
fn stash_is_put_back_with_its_log_with_reftable() {
    if !has_reftable() {
        return;
    }
    for script in [
        "git stash clear",
        "git stash drop -q",
        "git stash drop -q stash@{2}",
        "git stash pop -q; git checkout -q -f",
        "echo z >>file; git stash -q; git stash drop -q stash@{1}",
        "git stash clear; echo z >>file; git stash -q",
        "git update-ref -d refs/stash",
        "git reflog expire --expire=all --all",
    ] {
        let sandbox = reftable("true", 0).sandbox();
        let list = || sandbox.git(["log", "-g", "--date=raw", "--format=%H %gn %ge %gd %gs", "refs/stash"]);
        let before = list();
        assert_eq!(before.lines().count(), 4);
        sandbox.undone(&[], &format!("{script}; exit 3"), 3);
        assert_eq!(list(), before, "{script}");
    }
}

#[test]
fn killed_at_every_call_under_the_fence() {
    killed_at_every_call(&fenced(), Traced::Itself, 12);
}

#[test]
fn killed_at_every_call_of_a_rollback_under_the_fence() {
    killed_at_every_call(&fenced_failure(), Traced::Itself, 10);
}

#[test]
fn killed_at_every_call_beside_own_changes() {
    killed_at_every_call(&dirty(), Traced::Itself, 12);
}

#[test]
fn killed_at_every_call_of_a_rollback_beside_own_changes() {
    killed_at_every_call(&dirty_failure(), Traced::Itself, 12);
}

#[test]
fn killed_at_every_call_without_a_commit() {
    killed_at_every_call(&staged(), Traced::Itself, 10);
}

#[test]
fn killed_at_every_call_on_a_branch_without_commits() {
    killed_at_every_call(&unborn(), Traced::Itself, 8);
}

#[test]
fn git_and_command_killed_at_every_call() {
    killed_at_every_call(&success(), Traced::All, 10);
}

#[test]
fn git_and_command_killed_at_every_call_of_a_rollback() {
    killed_at_every_call(&failure(), Traced::All, 10);
}

/// Kills a mutation with all its processes while its command waits, having done its work.
fn killed_after_the_command(workload: &Workload) -> Sandbox {
    let sandbox = workload.sandbox();
    let gate = sandbox.gate("gate");
    let mut command = workload.command(&sandbox);
    let arguments: Vec<_> = command.get_args().map(|argument| argument.to_str().unwrap().to_owned()).collect();
    let (script, others) = arguments.split_last().unwrap();
    let script = format!("{}; {}", script.replace("exit 3", ":"), gate.script());
    command = sandbox.repoguard_command(others);
    let mut running = sandbox.start({
        command.arg(script);
        command
    });
    gate.reached_by(&mut running);
    running.signal_group(Signal::KILL);
    running.ended();
    sandbox
}

/// Kills recovery at each of its writing system calls; the next recovery must do what it would have done.
fn recovery_killed_at_every_call(workload: &Workload, many: usize) {
    if !can_trace("recovery killed at every system call") {
        return;
    }
    let sandbox = killed_after_the_command(workload);
    let calls = writing_calls(&sandbox, &sandbox.repoguard_command(["recover"]), Traced::Itself);
    assert_eq!(workload.side(&sandbox), Ok(Side::Before));
    assert!(calls.len() > 30, "{calls:?}");
    let stopped = chosen(&calls, many).into_iter().enumerate().map(|(turn, call)| {
        let sandbox = killed_after_the_command(workload);
        let recover = sandbox.repoguard_command(["recover"]);
        tampered(&sandbox, &recover, Traced::Itself, &call, "signal=KILL");
        workload.recovered(&sandbox, turn).map_err(|wrong| format!("recovery killed at {call:?}\n{wrong}"))
    });
    let sides = none_is_wrong(stopped);
    assert!(sides.iter().all(|side| *side == Side::Before), "{sides:?}");
}

#[test]
fn recovery_killed_at_every_call_recovers_again() {
    recovery_killed_at_every_call(&failure(), 12);
}

#[test]
fn recovery_under_the_fence_killed_at_every_call_recovers_again() {
    recovery_killed_at_every_call(&fenced_failure(), 8);
}

#[test]
fn recovery_beside_own_changes_killed_at_every_call_recovers_again() {
    recovery_killed_at_every_call(&dirty_failure(), 10);
}

/// Pseudo-random numbers below a limit.
/// Starts it in a process group of its own.
pub(crate) fn started(mut command: Command) -> std::process::Child {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    command.spawn().unwrap()
}

/// Kills a mutation with all its processes at instants that are spread over the time it takes.
pub(crate) fn killed_at_random_instants(workload: &Workload, seed: u64, times: usize) {
    let times = if long() { times * 10 } else { times };
    let mut dice = Dice::new(seed);
    let mut usual = Duration::ZERO;
    for _ in 0..3 {
        let (sandbox, begun) = (workload.sandbox(), Instant::now());
        started(workload.command(&sandbox)).wait().unwrap();
        usual = usual.max(begun.elapsed());
    }
    let most = u64::try_from(usual.as_micros()).unwrap() * 11 / 10;
    let stopped = (0..times).map(|turn| {
        let after = dice.micros(most);
        let sandbox = workload.sandbox();
        let mut child = started(workload.command(&sandbox));
        thread::sleep(after);
        kill_group(child.id(), Signal::KILL);
        child.wait().unwrap();
        eventually("all are gone", || process_group(child.id()).is_empty());
        workload.recovered(&sandbox, turn).map_err(|wrong| format!("killed after {after:?} of {usual:?}\n{wrong}"))
    });
    assert!(none_is_wrong(stopped).contains(&Side::Before), "some were killed before their end");
}

#[test]
fn killed_with_all_processes_at_random_instants_of_a_success() {
    killed_at_random_instants(&success(), 0x5EED_0001, 60);
}

#[test]
fn killed_with_all_processes_at_random_instants_of_a_rollback() {
    killed_at_random_instants(&failure(), 0x5EED_0002, 60);
}

#[test]
fn killed_with_all_processes_at_random_instants_under_the_fence() {
    killed_at_random_instants(&fenced(), 0x5EED_0003, 40);
}

#[test]
fn killed_with_all_processes_at_random_instants_beside_own_changes() {
    killed_at_random_instants(&dirty(), 0x5EED_0004, 40);
}

#[test]
fn rescue_of_a_recovery_that_is_killed_again_and_again_ends_well() {
    let workload = failure();
    let mut dice = Dice::new(0x5EED_0005);
    for _ in 0..if long() { 40 } else { 6 } {
        let sandbox = killed_after_the_command(&workload);
        for _ in 0..6 {
            let mut child = started(sandbox.repoguard_command(["recover"]));
            thread::sleep(dice.micros(60_000));
            kill_group(child.id(), Signal::KILL);
            child.wait().unwrap();
            eventually("all are gone", || process_group(child.id()).is_empty());
        }
        assert_eq!(workload.recovered(&sandbox, 1), Ok(Side::Before));
    }
}
