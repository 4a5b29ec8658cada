//! The process that waits in the kernel's queue: whatever happens to it, the waiter gets the lock, and the program that waits
//! does not notice it.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::pin::Pin;
use std::process::Command;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use rustix::process::{Signal, WaitOptions};

use crate::library_async::runtime;
use crate::support::{
    Running, Sandbox, alive, alone, eventually, has_program, is_root, kill, own, parent_of, skip, state_of,
};

/// The process that waits in the kernel's queue for a file, if one does.
fn waits_for(file: &Path) -> Option<u32> {
    let inode = fs::metadata(file).expect("a lock file").ino();
    let locks = fs::read_to_string("/proc/locks").expect("the table of locks");
    let mut waits = locks.lines().filter(|line| line.contains("->") && line.contains(&format!(":{inode} ")));
    waits.find_map(|line| line.split_whitespace().nth(5)?.parse().ok())
}

#[track_caller]
fn helper(sandbox: &Sandbox) -> u32 {
    let file = sandbox.lock_file();
    let mut found = None;
    // The kernel gives a long table in parts, so that one reading may miss it.
    eventually("a helper waits", || {
        found = waits_for(&file);
        found.is_some()
    });
    found.expect("a helper")
}

/// A waiter that is first in the queue, with its helper.
fn first_waiter(sandbox: &Sandbox) -> (Running, u32) {
    let waiter = sandbox.queue(&[], "echo done");
    let helper = helper(sandbox);
    assert_eq!(parent_of(helper), waiter.pid());
    (waiter, helper)
}

#[test]
fn stopped_helper_does_not_keep_its_waiter_from_a_free_lock() {
    let sandbox = Sandbox::new();
    for hold in [Sandbox::hold, Sandbox::hold_by_flock] {
        let mut holder = hold(&sandbox, &[]);
        let (mut waiter, helper) = first_waiter(&sandbox);
        kill(helper, Signal::STOP);
        eventually("the helper is stopped", || state_of(helper) == Some('T'));
        holder.finish();
        assert!(waiter.ended().success(), "{}", waiter.stderr());
        assert_eq!(waiter.stdout(), "done\n");
        assert!(!alive(helper));
        assert_eq!(sandbox.try_once(&[]), 0);
    }
}

#[test]
fn killed_waiter_leaves_no_helper() {
    let sandbox = Sandbox::new();
    let mut holder = sandbox.hold(&[]);
    let (mut waiter, helper) = first_waiter(&sandbox);
    waiter.signal(Signal::KILL);
    waiter.ended();
    eventually("the helper is gone", || !alive(helper));
    holder.finish();
    assert_eq!(sandbox.try_once(&[]), 0);
}

#[test]
fn signals_to_the_helper_run_nothing_of_the_program() {
    let sandbox = Sandbox::new();
    let mut holder = sandbox.hold(&[]);
    let (mut waiter, helper) = first_waiter(&sandbox);
    for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT, Signal::USR1, Signal::TSTP, Signal::CONT] {
        kill(helper, signal);
    }
    thread::sleep(Duration::from_millis(200));
    assert_eq!((waiter.runs(), state_of(helper)), (true, Some('S')), "{}", waiter.stderr());
    assert_eq!(waits_for(&sandbox.lock_file()), Some(helper));
    holder.finish();
    assert!(waiter.ended().success());
}

#[test]
fn waiter_that_may_make_no_process_gets_the_lock() {
    const USER: u32 = 61_003;
    if !is_root() || !has_program("prlimit") {
        return skip("a limit of processes", "needs root and prlimit(1)");
    }
    let sandbox = Sandbox::new();
    sandbox.open_to_all();
    own(sandbox.here(), USER, USER);
    let mut holder = sandbox.hold_by_flock(&[]);
    let mut command = sandbox.command("prlimit");
    command.args(["--nproc=1:64", "repoguard", "exec", "--", "sh", "-c", "echo done"]).uid(USER).gid(USER);
    let mut waiter = sandbox.start(command);
    eventually("the waiter is queued", || {
        assert!(waiter.runs(), "{}", waiter.stderr());
        sandbox.tickets().iter().any(|ticket| !ticket.is_empty())
    });
    thread::sleep(Duration::from_millis(300));
    assert!(waiter.runs(), "it waits: {}", waiter.stderr());
    assert_eq!(waits_for(&sandbox.lock_file()), None, "without a helper");
    // So that it can start its command.
    let mut raise = Command::new("prlimit");
    raise.args(["--nproc=64:64", "--pid", &waiter.pid().to_string()]).uid(USER).gid(USER);
    assert!(raise.status().expect("prlimit").success());
    holder.finish();
    assert!(waiter.ended().success(), "{}", waiter.stderr());
    assert_eq!(waiter.stdout(), "done\n");
}

#[test]
fn helper_of_a_thread_that_has_ended_is_replaced() {
    let sandbox = Sandbox::new();
    let mut holder = sandbox.hold(&[]);
    let lock = sandbox.lock();
    let runtime = runtime();
    let mut waits: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(async move { lock.acquire_async().await });
    let first = thread::scope(|scope| {
        let poll_once = || {
            let _inside = runtime.enter();
            let mut context = Context::from_waker(Waker::noop());
            assert!(matches!(waits.as_mut().poll(&mut context), Poll::Pending));
            helper(&sandbox)
        };
        scope.spawn(poll_once).join().expect("no panic")
    });
    // The kernel kills the helper with the thread that made it.
    eventually("it is gone", || !alive(first));
    let task = runtime.spawn(waits);
    assert_ne!(helper(&sandbox), first);
    holder.finish();
    runtime.block_on(task).expect("no panic").expect("the lock").release().expect("a release");
}

#[test]
fn program_that_reaps_all_its_children_does_not_see_the_helper() {
    alone("library_helper::program_that_reaps_all_its_children_does_not_see_the_helper", || {
        let sandbox = Sandbox::new();
        let mut holder = sandbox.hold(&[]);
        let lock = sandbox.lock();
        thread::scope(|scope| {
            let waiter = scope.spawn(|| lock.acquire().map(drop));
            let first = helper(&sandbox);
            let reaped = || rustix::process::wait(WaitOptions::NOHANG).expect("the holder is a child");
            kill(first, Signal::KILL);
            eventually("another one waits", || waits_for(&lock.path()).is_some_and(|pid| pid != first));
            assert!(reaped().is_none(), "no child has ended");
            holder.finish();
            waiter.join().expect("no panic").expect("the lock");
        });
    });
}
