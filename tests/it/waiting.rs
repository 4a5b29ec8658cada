//! Waiting: how long, in which order, what is said meanwhile, and what an interrupted waiter leaves behind.

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::{
    Running, Sandbox, all_in, eventually, has_program, lines, process_group, runs_our_program, shell_status, skip,
    state_of,
};

#[test]
fn second_exec_waits_for_first() {
    let sandbox = Sandbox::new();
    let mut holder = sandbox.hold(&[]);
    let mut waiter = sandbox.queue(&[], "echo second");
    assert_eq!(waiter.stdout(), "");
    holder.finish();
    assert!(waiter.ended().success());
    assert_eq!(waiter.stdout(), "second\n");
}

#[test]
fn trying_once_is_busy_at_once() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold(&[]);
    for options in [["-n", "-q"], ["--no-wait", "-q"], ["-w", "0"], ["--timeout", "0s"]] {
        let start = Instant::now();
        sandbox.repoguard(["exec"]).args(options).args(["--", "echo"]).assert().code(75).stdout("");
        assert!(start.elapsed() < Duration::from_secs(10), "{options:?}");
    }
    assert_eq!(sandbox.tickets(), [""; 0], "one who only tries does not queue");
}

#[test]
fn bounded_wait_ends_busy_when_its_time_is_over() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold(&[]);
    for time in ["0.4", "400ms", "0.4s"] {
        let start = Instant::now();
        let told = sandbox.refused(&["-w", time], 75);
        assert!(start.elapsed() >= Duration::from_millis(400), "{time}: {told}");
    }
    assert_eq!(sandbox.tickets(), [""; 0]);
}

#[test]
fn on_busy_fail_is_75_and_skip_is_0_without_running() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&[]);
    sandbox.refused(&["--on-busy", "fail"], 75);
    let mut skip = sandbox.repoguard(["exec", "--on-busy", "skip", "--", "touch"]);
    skip.arg(sandbox.outside("ran")).assert().code(0).stdout("");
    assert!(!sandbox.outside("ran").exists());
    drop(holder);

    eventually("free again", || sandbox.try_once(&[]) == 0);
    for policy in ["fail", "skip", "wait"] {
        let mut exec = sandbox.repoguard(["exec", "--on-busy", policy, "--", "echo", "ran"]);
        exec.assert().success().stdout("ran\n");
    }
}

#[test]
fn eight_waiters_are_served_in_the_order_they_came() {
    let sandbox = Sandbox::new();
    let order = sandbox.outside("order");
    let mut holder = sandbox.hold(&[]);
    let mut waiters: Vec<Running> =
        (0..8).map(|number| sandbox.queue(&[], &format!("echo {number} >>{}", order.display()))).collect();
    holder.finish();
    for waiter in &mut waiters {
        assert!(waiter.ended().success());
    }
    assert_eq!(lines(&order), ["0", "1", "2", "3", "4", "5", "6", "7"]);
}

#[test]
fn shared_waiters_behind_an_exclusive_one_keep_their_place() {
    let sandbox = Sandbox::new();
    let order = sandbox.outside("order");
    let say = |word: &str| format!("echo {word} >>{}", order.display());
    let mut holder = sandbox.hold(&["-s"]);
    let mut exclusive = sandbox.queue(&[], &say("exclusive"));
    let mut shared = sandbox.queue(&["-s"], &say("shared"));
    holder.finish();
    assert!(exclusive.ended().success() && shared.ended().success());
    assert_eq!(lines(&order), ["exclusive", "shared"]);
}

#[test]
fn nobody_passes_a_queued_waiter_by_trying_once() {
    let sandbox = Sandbox::new();
    let mut holder = sandbox.hold(&["-s"]);
    assert_eq!(sandbox.try_once(&["-s"]), 0, "shared fits beside shared");
    let mut waiter = sandbox.queue(&[], ":");
    assert_eq!(sandbox.try_once(&["-s"]), 75, "but not past an exclusive waiter");
    assert_eq!(sandbox.try_once(&["-x"]), 75);
    holder.finish();
    assert!(waiter.ended().success());
    assert_eq!(sandbox.try_once(&["-s"]), 0);
}

#[test]
fn waiting_line_names_the_holder() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["--reason", "nightly build"]);
    let mut waiter = sandbox.queue(&["--reason", "my own"], ":");
    eventually("a line about the wait", || waiter.stderr().contains('\n'));
    let told = waiter.stderr();
    let pids = [holder.pid(), holder.command_pid()].map(|pid| pid.to_string());
    assert!(pids.iter().any(|pid| told.contains(pid)), "{pids:?}: {told}");
    for part in ["nightly build", "sh -c"] {
        assert!(told.contains(part), "`{part}`: {told}");
    }
    assert!(!told.contains(['\r', '\x1b']), "no terminal, no live line: {told:?}");
    assert_eq!(waiter.stdout(), "", "talk goes to stderr");
    assert!(waiter.runs());
}

#[test]
fn busy_message_names_the_holder() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&["--reason", "nightly build"]);
    let told = sandbox.refused(&["-n"], 75);
    let pids = [holder.pid(), holder.command_pid()].map(|pid| pid.to_string());
    assert!(pids.iter().any(|pid| told.contains(pid)), "{pids:?}: {told}");
    assert!(told.contains("nightly build"), "{told}");
    assert!(!told.contains("rm "), "never advise to delete a lock file: {told}");
}

#[test]
fn without_a_wait_nothing_is_said() {
    let sandbox = Sandbox::new();
    for _ in 0..3 {
        sandbox.repoguard(["exec", "--", "true"]).assert().success().stdout("").stderr("");
    }
}

#[test]
fn interrupted_waiter_ends_with_its_signal_and_leaves_no_ticket() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold(&[]);
    for (signal, status) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        // First at the head of the queue, then behind somebody.
        let mut head = sandbox.queue(&[], "echo never");
        let mut second = sandbox.queue(&[], "echo never");
        for waiter in [&mut second, &mut head] {
            waiter.signal(signal);
            assert_eq!(shell_status(waiter.ended()), status, "{}", waiter.stderr());
            assert_eq!(waiter.stdout(), "");
        }
        assert_eq!(sandbox.tickets(), [""; 0]);
        assert_eq!(sandbox.try_once(&[]), 75, "the holder still holds");
    }
    drop(holder);
}

#[test]
fn interrupted_waiter_lets_those_behind_it_go_on() {
    let sandbox = Sandbox::new();
    let mut holder = sandbox.hold(&[]);
    let mut head = sandbox.queue(&[], "echo never");
    let mut middle = sandbox.queue(&[], "echo never");
    let mut last = sandbox.queue(&[], "echo last");
    middle.signal(Signal::TERM);
    middle.ended();
    head.signal(Signal::KILL);
    head.ended();
    holder.finish();
    assert!(last.ended().success());
    assert_eq!(last.stdout(), "last\n");
    assert_eq!(sandbox.try_once(&[]), 0);
    assert_eq!(sandbox.tickets(), [""; 0], "the dead one's ticket was cleaned up");
}

#[test]
fn forty_at_once_are_all_served_one_by_one() {
    let sandbox = Sandbox::new();
    let body = "mkdir busy || echo two at once; rmdir busy";
    let mut all: Vec<Running> = (0..40)
        .map(|number| {
            // Every fifth for the whole repository.
            let scope = if number % 5 == 0 { "repo" } else { "worktree" };
            sandbox.start(sandbox.repoguard_command(["exec", "--scope", scope, "-c", body]))
        })
        .collect();
    for each in &mut all {
        assert!(each.ended().success(), "{}", each.stderr());
        assert_eq!(each.stdout(), "");
    }
    assert_eq!(sandbox.tickets(), [""; 0]);
}

#[test]
fn waiter_that_is_gone_takes_nothing_later() {
    if !has_program("flock") {
        return skip("waiter that is gone", "no flock(1)");
    }
    for signal in [Signal::TERM, Signal::KILL] {
        let sandbox = Sandbox::new();
        let mut foreign = sandbox.hold_by_flock(&[]);
        let mut head = sandbox.queue(&[], "touch ran");
        head.signal(signal);
        head.ended();
        eventually("nothing of the waiter is left", || {
            all_in(sandbox.here()).iter().all(|pid| !runs_our_program(*pid))
        });
        foreign.finish();
        for _ in 0..5 {
            assert_eq!(sandbox.try_once(&[]), 0);
        }
        assert!(!sandbox.path("ran").exists());
        assert_eq!(sandbox.tickets(), [""; 0]);
    }
}

#[test]
fn stopped_waiter_is_passed_and_queues_anew() {
    let sandbox = Sandbox::new();
    let mut holder = sandbox.hold(&[]);
    let mut stopped = sandbox.queue(&[], "echo late");
    let mut waiter = sandbox.queue(&[], "echo passed");
    stopped.signal_group(Signal::STOP);
    // Until then the kernel may still give it the lock.
    eventually("all of it is stopped", || {
        process_group(stopped.pid()).into_iter().all(|pid| state_of(pid) == Some('T'))
    });
    holder.finish();
    assert!(waiter.ended().success(), "{}", waiter.stderr());
    assert_eq!(waiter.stdout(), "passed\n");
    assert_eq!(stopped.stdout(), "");
    stopped.signal_group(Signal::CONT);
    assert!(stopped.ended().success());
    assert_eq!(stopped.stdout(), "late\n");
    assert_eq!(sandbox.tickets(), [""; 0]);
}

#[test]
fn trying_once_succeeds_right_after_the_holder_is_gone() {
    let sandbox = Sandbox::new();
    for round in 0..20 {
        let mut holder = sandbox.hold(&[]);
        if round % 2 == 0 {
            holder.finish();
        } else {
            holder.signal_group(Signal::KILL);
            holder.ended();
        }
        assert_eq!(sandbox.try_once(&[]), 0, "round {round}");
    }
}

#[test]
fn waiting_costs_no_processor_time() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold(&[]);
    let _head = sandbox.queue(&[], ":");
    let waiter = sandbox.queue(&[], ":");
    eventually("the waiting line is out", || waiter.stderr().contains('\n'));
    let wake_ups = || {
        let status = fs::read_to_string(format!("/proc/{}/status", waiter.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches"));
        let (_, number) = line.expect("the line").split_once(':').expect("a number");
        number.trim().parse::<u32>().unwrap()
    };
    let before = wake_ups();
    std::thread::sleep(Duration::from_secs(2));
    let woken = wake_ups() - before;
    assert!(woken <= 10, "a queued waiter sleeps: woke {woken} times in 2 s");
}

#[test]
fn reason_comes_from_the_ci_job() {
    let sandbox = Sandbox::new();
    let job = [
        ("GITHUB_ACTIONS", "true"),
        ("CI", "true"),
        ("GITHUB_SERVER_URL", "https://github.com"),
        ("GITHUB_REPOSITORY", "owner/project"),
        ("GITHUB_RUN_ID", "12345"),
    ];
    let mut command = sandbox.repoguard_command(["exec", "--", "sh", "-c", "echo up; read _"]);
    command.envs(job);
    let _holder = sandbox.start_up(command);
    let told = sandbox.refused(&["-n"], 75);
    assert!(told.contains("https://github.com/owner/project/actions/runs/12345"), "{told}");
}
