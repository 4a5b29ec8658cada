//! The library in a process of its own: inside of others' holds, and when it is forked.

use std::process::Stdio;

use repoguard::{Error, Lock};

use crate::support::{Sandbox, alone, alone_command, eventually, to_the_end};

/// The checkout that a test below a holder is about.
fn place() -> std::path::PathBuf {
    std::env::var_os("PLACE").expect("a checkout").into()
}

#[test]
fn program_below_exec_is_inside_and_its_threads_exclude_each_other() {
    const NAME: &str = "library_inside::program_below_exec_is_inside_and_its_threads_exclude_each_other";
    if std::env::var_os("PLACE").is_none() {
        for options in [&["exec", "-q"][..], &["exec", "-q", "--scope", "repo"]] {
            let sandbox = Sandbox::new();
            let inner = alone_command(NAME);
            let mut command = sandbox.repoguard_command(options);
            command.args(["--"]).arg(inner.get_program()).args(inner.get_args()).env("PLACE", sandbox.here());
            command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
            let output = to_the_end(command).output().unwrap();
            assert!(output.status.success(), "{options:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        return;
    }
    let lock = repoguard::Repo::discover(&place()).unwrap().lock(repoguard::Request::default()).unwrap();
    let guard = lock.acquire().unwrap();
    assert!(guard.is_inside() && guard.holder().is_none());
    assert_eq!(guard.fence().map(|fence| fence.to_string()), std::env::var("REPOGUARD_FENCE").ok());
    assert!(matches!(lock.acquire(), Err(Error::AlreadyHeld { .. })));
    std::thread::scope(|scope| {
        let busy = scope.spawn(|| lock.try_acquire().map(drop)).join().expect("no panic");
        assert!(matches!(busy, Err(Error::Busy { .. })));
    });
    guard.release().unwrap();
    assert!(lock.is_locked().unwrap(), "the outer hold goes on");
}

#[test]
fn forked_child_that_drops_the_guard_changes_nothing() {
    alone("library_inside::forked_child_that_drops_the_guard_changes_nothing", || {
        let sandbox = Sandbox::new();
        let lock = sandbox.lock();
        let guard = lock.acquire().unwrap();
        let path = Lock::of_directory(sandbox.outside("home")).unwrap();
        let of_path = path.acquire().unwrap();
        let both = (guard, of_path);
        match fork() {
            0 => {
                let inside = path.try_acquire().is_ok_and(|guard| guard.is_inside());
                drop(both);
                let outside = matches!(path.try_acquire(), Err(Error::Busy { .. }));
                exit(i32::from(!(inside && outside)));
            }
            child => assert_eq!(status_of(child), 0, "the child is inside as long as it has the guard's descriptor"),
        }
        assert_eq!(sandbox.outsider_tries(&[]), 75);
        assert!(!sandbox.flock_gets(path.path()));
        assert_eq!(sandbox.status()["holders"][0]["pid"], std::process::id());
        assert!(matches!(lock.acquire(), Err(Error::AlreadyHeld { .. })));
        drop(both);
        assert_eq!(sandbox.outsider_tries(&[]), 0);
        assert!(sandbox.flock_gets(path.path()));
    });
}

#[test]
fn copy_of_the_descriptor_in_a_forked_child_does_not_keep_the_lock() {
    alone("library_inside::copy_of_the_descriptor_in_a_forked_child_does_not_keep_the_lock", || {
        let sandbox = Sandbox::new();
        let guard = sandbox.lock().acquire().unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        let child = match fork() {
            0 => {
                drop(writer);
                drop(std::io::read_to_string(reader));
                exit(0);
            }
            child => child,
        };
        assert_eq!(sandbox.outsider_tries(&[]), 75);
        guard.release().unwrap();
        assert_eq!(sandbox.outsider_tries(&[]), 0, "let go for all copies");
        drop(writer);
        assert_eq!(status_of(child), 0);
    });
}

#[test]
fn waiter_killed_in_any_state_leaves_nothing() {
    const NAME: &str = "library_inside::waiter_killed_in_any_state_leaves_nothing";
    if std::env::var_os("PLACE").is_some() {
        let lock = repoguard::Repo::discover(&place()).unwrap().lock(repoguard::Request::default()).unwrap();
        let waiters: Vec<_> = (0..3)
            .map(|_| {
                let lock = lock.clone();
                std::thread::spawn(move || lock.acquire().map(drop))
            })
            .collect();
        for waiter in waiters {
            drop(waiter.join());
        }
        return;
    }
    for ahead in [false, true] {
        let sandbox = Sandbox::new();
        let mut holder = sandbox.hold(&[]);
        let mut queued = ahead.then(|| sandbox.queue(&[], ":"));
        let before = sandbox.waiters();
        let mut command = alone_command(NAME);
        command.env("PLACE", sandbox.here()).stdin(Stdio::null()).stdout(Stdio::null());
        let mut waiter = command.spawn().unwrap();
        eventually("it waits", || sandbox.waiters() == before + 1);
        waiter.kill().unwrap();
        waiter.wait().unwrap();
        eventually("its place is free", || sandbox.waiters() == before);
        holder.finish();
        if let Some(queued) = &mut queued {
            assert!(queued.ended().success());
        }
        eventually("the lock is free", || sandbox.outsider_tries(&[]) == 0);
        assert_eq!(sandbox.tickets(), [""; 0]);
    }
}

#[allow(unsafe_code, reason = "what a fork does to a guard is what is tested")]
fn fork() -> i32 {
    // SAFETY: the only other thread of this process waits for this one.
    unsafe { libc::fork() }
}

#[allow(unsafe_code, reason = "a forked child must not run the test harness")]
fn exit(status: i32) -> ! {
    // SAFETY: never returns.
    unsafe { libc::_exit(status) }
}

fn status_of(child: i32) -> i32 {
    let pid = rustix::process::Pid::from_raw(child).expect("a pid");
    let (_, status) = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()).unwrap().unwrap();
    status.exit_status().unwrap_or(-1)
}
