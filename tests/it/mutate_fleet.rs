//! Many mutations at once: none is lost, none fails, and with an expected HEAD exactly one wins.

use std::fs;
use std::sync::Barrier;
use std::thread;

use crate::support::{Sandbox, lines, shell_status};

const PROCESSES: usize = 16;
const ROUNDS: usize = 8;
const INCREMENT: &str = "n=$(cat number); echo $((n+1)) >number";

fn counting(sandbox: Sandbox) -> Sandbox {
    sandbox.sh("echo 0 >number; git add number; git commit -qm zero").assert().success();
    sandbox
}

fn number(sandbox: &Sandbox) -> usize {
    assert_eq!(sandbox.short_status(), [""; 0]);
    fs::read_to_string(sandbox.path("number")).unwrap().trim().parse().unwrap()
}

fn commits(sandbox: &Sandbox, subject: &str) -> usize {
    sandbox.git(["log", "--format=%s"]).lines().filter(|line| *line == subject).count()
}

#[test]
fn every_increment_of_a_fleet_is_a_commit() {
    let sandbox = counting(Sandbox::new());
    thread::scope(|scope| {
        for _ in 0..PROCESSES {
            scope.spawn(|| {
                for _ in 0..ROUNDS {
                    let output = sandbox.mutate_command(&[], INCREMENT).output().unwrap();
                    let told = String::from_utf8_lossy(&output.stderr);
                    assert!(output.status.success() && told.contains("committed "), "{told}");
                }
            });
        }
    });
    assert_eq!((number(&sandbox), commits(&sandbox, "change")), (PROCESSES * ROUNDS, PROCESSES * ROUNDS));
    sandbox.git(["fsck", "--strict", "--no-dangling"]);
    sandbox.assert_nothing_left();
    sandbox.assert_no_traces();
    sandbox.assert_nothing_to_tell();
}

#[test]
fn of_those_who_expect_the_same_head_exactly_one_wins() {
    let sandbox = counting(Sandbox::new());
    for round in 1..=4 {
        let head = sandbox.head();
        let barrier = Barrier::new(8);
        let statuses: Vec<i32> = thread::scope(|scope| {
            let start = |process: usize| {
                let (barrier, sandbox, head) = (&barrier, &sandbox, &head);
                scope.spawn(move || {
                    let script = format!("{INCREMENT}; echo {process} >only-{round}-{process}");
                    let mut command = sandbox.mutate_command(&["--expect-head", head], &script);
                    barrier.wait();
                    shell_status(command.output().unwrap().status)
                })
            };
            let all: Vec<_> = (0..8).map(start).collect();
            all.into_iter().map(|each| each.join().unwrap()).collect()
        });
        let mut sorted = statuses.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, [0, 65, 65, 65, 65, 65, 65, 65], "one wins");
        assert_eq!(number(&sandbox), round);
        let winner = statuses.iter().position(|status| *status == 0).unwrap();
        assert_eq!(sandbox.landed(), ["M number".to_owned(), format!("A only-{round}-{winner}")]);
        assert_eq!(sandbox.git(["rev-parse", "HEAD~1"]).trim(), head);
    }
}

#[test]
fn failures_among_successes_leave_nothing() {
    let sandbox = counting(Sandbox::new());
    thread::scope(|scope| {
        for process in 0..8 {
            let sandbox = &sandbox;
            scope.spawn(move || {
                for round in 0..4 {
                    let fails = (process + round) % 2 == 0;
                    let script = format!(
                        "{INCREMENT}; echo x >junk-{process}; rm file; git add -A; git branch b{process}; exit 9"
                    );
                    let script = if fails { &script } else { INCREMENT };
                    let output = sandbox.mutate_command(&[], script).output().unwrap();
                    let told = String::from_utf8_lossy(&output.stderr);
                    assert_eq!(output.status.code(), Some(if fails { 9 } else { 0 }), "{told}");
                }
            });
        }
    });
    assert_eq!((number(&sandbox), commits(&sandbox, "change")), (16, 16));
    assert_eq!(sandbox.git(["for-each-ref", "--format=%(refname)"]), "refs/heads/main\n");
    assert_eq!(sandbox.git(["ls-tree", "--name-only", "HEAD"]), "file\nnumber\n");
    sandbox.assert_nothing_left();
}

#[test]
fn change_of_the_same_size_in_the_same_second_is_seen() {
    // Git compares seconds and sizes: what is written late in the second in which the index was written, and staged in the
    // next one, looks settled to it.
    let sandbox = counting(Sandbox::new());
    let until = |part: &str| format!("until n=$(date +%N); [ \"1$n\" {part} ]; do :; done");
    for round in 1..=3 {
        let begin = format!("{}; echo {round}a >number; git commit -qam begin", until("-lt 1100000000"));
        sandbox.sh(&begin).assert().success();
        let late = format!("{}; echo {round}b >number; {}", until("-gt 1900000000"), until("-lt 1100000000"));
        sandbox.commits(&[], &late);
        assert_eq!(sandbox.committed("number"), format!("{round}b\n"));
        assert_eq!(sandbox.short_status(), [""; 0]);
    }
}

/// Two at once are seen by a file that only one can make.
const ORACLE: &str = "(set -C; : >\"$SANDBOX/oracle\") || echo violated >>\"$SANDBOX/violations\"; \
    sleep 0.0$(($$ % 3)); rm -f \"$SANDBOX/oracle\"";

#[test]
fn mutations_holds_and_hooks_share_one_lock() {
    let sandbox = counting(Sandbox::guarded());
    sandbox.own_hook("commit-msg", "[ -n \"$REPOGUARD_TOKEN\" ] && exit; sh -c \"$ORACLE\"");
    let exec = format!("{ORACLE}; {INCREMENT}; git commit -qam exec");
    let mutate = format!("{ORACLE}; {INCREMENT}");
    let plain = "n=0; until git commit -q --allow-empty -m plain 2>>\"$SANDBOX/told\"; do n=$((n+1)); [ $n -lt 500 ] || exit 9; done";
    let rounds = 5;
    thread::scope(|scope| {
        for process in 0..6 {
            let (sandbox, exec, mutate) = (&sandbox, &exec, &mutate);
            scope.spawn(move || {
                for _ in 0..rounds {
                    let mut command = match process % 3 {
                        0 => sandbox.repoguard_command(["exec", "--", "sh", "-c", exec]),
                        1 => sandbox.mutate_command(&[], mutate),
                        _ => sandbox.sh_command(plain),
                    };
                    let output = command.env("ORACLE", ORACLE).output().unwrap();
                    assert!(output.status.success(), "{process}: {}", String::from_utf8_lossy(&output.stderr));
                }
            });
        }
    });
    assert_eq!(lines(&sandbox.outside("violations")), [""; 0], "two at once");
    assert_eq!(number(&sandbox), 4 * rounds);
    for subject in ["exec", "change", "plain"] {
        assert_eq!(commits(&sandbox, subject), 2 * rounds, "{subject}");
    }
    sandbox.assert_nothing_left();
    sandbox.assert_nothing_to_tell();
}
