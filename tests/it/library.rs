//! The library's lock and guard, blocking: order, errors, and what others see of a hold.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use repoguard::{Error, Guard, Lock, Notice, Request, Scope};

use crate::support::{At, HOLD, Sandbox, WORK, eventually, kill, lines, shell_status};

fn named(sandbox: &Sandbox, names: &[&str]) -> Lock {
    sandbox.lock_for(names.iter().fold(Request::new(), |request, name| request.name(*name)))
}

fn repo_wide(sandbox: &Sandbox) -> Lock {
    sandbox.lock_for(Request::new().scope(Scope::Repo))
}

/// Runs in a thread of its own to the end.
fn elsewhere<T: Send>(action: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(action).join().expect("no panic"))
}

fn is_send_and_sync<T: Send + Sync>() {}

#[test]
fn guard_and_lock_can_be_sent_and_shared() {
    is_send_and_sync::<Guard>();
    is_send_and_sync::<Lock>();
}

#[test]
fn hold_excludes_exec_and_flock_and_they_exclude_it() {
    let sandbox = Sandbox::new();
    let lock = sandbox.lock();
    let guard = lock.acquire().unwrap();
    assert_eq!(sandbox.outsider_tries(&[]), 75);
    assert_eq!(sandbox.outsider_tries(&["--shared"]), 75);
    assert!(!sandbox.flock_gets(sandbox.lock_file()));
    guard.release().unwrap();
    assert_eq!(sandbox.outsider_tries(&[]), 0);
    assert!(sandbox.flock_gets(sandbox.lock_file()));

    for hold in [Sandbox::hold, Sandbox::hold_by_flock] {
        let mut holder = hold(&sandbox, &[]);
        let Err(Error::Busy { holders, .. }) = lock.try_acquire() else { panic!("two holders") };
        assert_eq!(holders.len(), 1, "{holders:?}");
        assert!(lock.is_locked().unwrap() && lock.holder().unwrap().is_some());
        holder.finish();
        drop(lock.acquire().expect("free again"));
    }
}

#[test]
fn shared_hold_goes_with_shared_ones_only() {
    let sandbox = Sandbox::new();
    let guard = sandbox.lock_for(Request::new().shared()).acquire().unwrap();
    assert_eq!(sandbox.outsider_tries(&["--shared"]), 0);
    assert_eq!(sandbox.outsider_tries(&[]), 75);
    drop(guard);
    assert_eq!(sandbox.outsider_tries(&[]), 0);
}

#[test]
fn hold_is_in_status_and_log_like_that_of_exec() {
    let sandbox = Sandbox::new();
    let lock = sandbox.lock_for(Request::new().reason("import").command("importer"));
    let guard = lock.acquire().unwrap();
    let status = sandbox.status();
    assert_eq!(status["state"], "held");
    let holder = &status["holders"][0];
    assert_eq!((holder["pid"].as_u64(), &holder["reason"]), (Some(u64::from(std::process::id())), &"import".into()));
    assert_eq!(guard.holder().map(|holder| holder.command.as_str()), Some("importer"));
    let first = guard.fence().expect("a number");
    guard.release().unwrap();
    assert_eq!(sandbox.status()["state"], "free");

    let second = lock.acquire().unwrap().fence().expect("a number");
    assert!(second > first);
    let log = sandbox.log();
    assert_eq!(log.len(), 2, "{log:?}");
    assert_eq!((&log[0]["event"], &log[0]["command"]), (&"hold".into(), &"importer".into()));
    assert_eq!(log[0]["head_before"], log[0]["head_after"]);
    assert!(!log[0]["head_before"].is_null());
}

#[test]
fn what_was_changed_outside_is_told_and_what_was_changed_inside_is_not() {
    let sandbox = Sandbox::new();
    let told = Arc::new(Mutex::new(Vec::new()));
    let tell = Arc::clone(&told);
    let lock = sandbox.lock().on_notice(move |notice| {
        if let Notice::Violated(..) = notice {
            tell.lock().unwrap().push(format!("{notice:?}"));
        }
    });
    let guard = lock.acquire().unwrap();
    sandbox.git(["commit", "-q", "--allow-empty", "-m", "inside"]);
    drop(guard);
    drop(lock.acquire().unwrap());
    assert_eq!(told.lock().unwrap().len(), 0);
    sandbox.git(["commit", "-q", "--allow-empty", "-m", "outside"]);
    drop(lock.acquire().unwrap());
    assert_eq!(told.lock().unwrap().len(), 1);
}

#[test]
fn killed_mutation_is_settled_before_anybody_is_let_in() {
    let sandbox = crate::mutate::furnished();
    let before = sandbox.state();
    sandbox.killed_at(At::Command, &[], WORK);
    let recovered = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&recovered);
    let lock = sandbox.lock().on_notice(move |notice| {
        count.fetch_add(usize::from(matches!(notice, Notice::Recovered(..))), Ordering::Relaxed);
    });
    let guard = lock.acquire().unwrap();
    before.assert_same(&sandbox.state(), "put back");
    assert_eq!(recovered.load(Ordering::Relaxed), 1);
    drop(guard);
}

#[test]
fn mutation_that_cannot_be_settled_lets_nobody_in_and_leaves_nothing_locked() {
    let sandbox = crate::mutate::furnished();
    sandbox.killed_at(At::Verify, &[], WORK);
    fs::write(sandbox.path("file"), "somebody's work\n").unwrap();
    let lock = sandbox.lock();
    assert!(matches!(lock.acquire(), Err(Error::Unfinished { .. })));
    assert!(matches!(lock.try_acquire(), Err(Error::Unfinished { .. })));
    assert!(!lock.is_locked().unwrap());
    assert!(sandbox.flock_gets(sandbox.lock_file()));
    assert_eq!(fs::read_to_string(sandbox.path("file")).unwrap(), "somebody's work\n");
}

#[test]
fn asking_again_where_it_is_held_is_an_error_at_once() {
    let sandbox = Sandbox::new();
    let (lock, same) = (sandbox.lock(), sandbox.lock());
    let guard = lock.acquire().unwrap();
    let again = [
        lock.acquire(),
        same.try_acquire(),
        same.shared().acquire(),
        repo_wide(&sandbox).acquire(),
        sandbox.lock_for(Request::new().scope(Scope::Worktree).name("a")).acquire(),
    ];
    for result in again {
        let error = result.expect_err("an error");
        assert!(matches!(error, Error::AlreadyHeld { .. }), "{error}");
        assert!(error.to_string().contains("thread") && error.hint().is_some(), "{error}");
    }
    drop(guard);
    drop(lock.acquire().unwrap());
}

#[test]
fn reason_and_metadata_are_whole_for_others_and_cut_where_shown() {
    let sandbox = Sandbox::new();
    let reason = format!("{}the end", "a long reason, \"quoted\"; ".repeat(2000));
    let metadata = serde_json::json!({"task": "x".repeat(60_000), "ids": [1, 2]});
    let lock = sandbox.lock().reason(&reason).metadata(metadata.clone());
    let guard = lock.acquire().unwrap();
    for holder in [lock.holder().unwrap().unwrap(), guard.holder().unwrap().clone()] {
        assert_eq!(holder.reason.as_ref(), Some(&reason));
        assert_eq!(holder.metadata.as_ref(), Some(&metadata));
    }
    let shown = sandbox.status();
    assert_eq!(shown["holders"][0]["reason"], reason.as_str());
    assert_eq!(shown["holders"][0]["metadata"], metadata);
    let text = sandbox.repoguard(["status"]).assert().success().get_output().stdout.clone();
    assert!(text.len() < 2000, "{} bytes", text.len());
    // A waiter's, too.
    let mut waiter = sandbox.queue(&["--reason", &reason], "true");
    assert_eq!(sandbox.status()["waiters"][0]["reason"], reason.as_str());
    guard.release().unwrap();
    assert!(waiter.ended().success(), "{}", waiter.stderr());
    let log = fs::read_to_string(sandbox.path(".git/repoguard/log.jsonl")).unwrap();
    assert!(log.lines().all(|line| line.len() < 4096));

    // A short hold in the same slot has nothing of it.
    let guard = sandbox.lock().acquire().unwrap();
    let holder = sandbox.lock().holder().unwrap().unwrap();
    assert_eq!((holder.reason, holder.metadata), (None, None));
    guard.release().unwrap();

    let too_long = "x".repeat(65 * 1024);
    for lock in [sandbox.lock().reason(&too_long), sandbox.lock().metadata(too_long.as_str().into())] {
        assert!(matches!(lock.acquire(), Err(Error::BadValue { .. })));
        assert_eq!(sandbox.outsider_tries(&[]), 0);
    }
}

#[test]
fn configured_timeout_and_scope_apply_unless_the_request_has_its_own() {
    let sandbox = Sandbox::new();
    sandbox.git(["config", "repoguard.timeout", "50ms"]);
    let mut holder = sandbox.hold(&[]);
    let Err(Error::Busy { waited, .. }) = sandbox.lock().acquire() else { panic!("two holders") };
    assert!(waited >= Duration::from_millis(50));
    thread::scope(|scope| {
        let patient = scope.spawn(|| sandbox.lock().timeout(Duration::MAX).acquire().map(drop));
        eventually("it waits", || sandbox.waiters() == 1);
        // That takes as long as the configured timeout.
        assert!(matches!(sandbox.lock().acquire(), Err(Error::Busy { .. })));
        assert!(!patient.is_finished());
        holder.finish();
        patient.join().unwrap().unwrap();
    });
    sandbox.git(["config", "repoguard.scope", "repo"]);
    let guard = sandbox.lock().acquire().unwrap();
    assert_eq!(guard.holder().unwrap().scope, "repo");
    guard.release().unwrap();
    let guard = sandbox.lock_for(Request::new().scope(Scope::Worktree)).acquire().unwrap();
    assert_eq!(guard.holder().unwrap().scope, "worktree");
    drop(guard);
    let guard = named(&sandbox, &["a"]).acquire().unwrap();
    assert_eq!(guard.holder().unwrap().scope, "name a");
    drop(guard);
    sandbox.git(["config", "repoguard.timeout", "soon"]);
    let repo = repoguard::Repo::discover(&sandbox.path("")).unwrap();
    let error = repo.lock(Request::default()).expect_err("a bad value");
    assert!(matches!(&error, Error::Config { value, .. } if value == "soon"), "{error}");
}

#[test]
fn owned_guard_makes_its_own_thread_wait_like_any_other() {
    let sandbox = Sandbox::new();
    let lock = sandbox.lock();
    let owned = lock.acquire_owned().unwrap();
    assert!(matches!(lock.try_acquire_owned(), Err(Error::Busy { .. })));
    let impatient = lock.clone().timeout(Duration::from_millis(50));
    assert!(matches!(impatient.acquire_owned(), Err(Error::Busy { .. })));
    assert!(matches!(impatient.acquire(), Err(Error::Busy { .. })), "nor does this thread own it");
    assert_eq!(sandbox.outsider_tries(&[]), 75);
    let (sender, receiver) = mpsc::channel();
    let fences: Vec<u64> = thread::scope(|scope| {
        for _ in 0..4 {
            let (lock, sender) = (&lock, sender.clone());
            scope.spawn(move || {
                sender.send(None).unwrap();
                sender.send(lock.acquire_owned().unwrap().fence()).unwrap();
            });
        }
        drop(sender);
        for _ in 0..4 {
            assert_eq!(receiver.recv().unwrap(), None, "they ask, and get nothing");
        }
        // Released by another thread than the one that acquired it.
        scope.spawn(move || owned.release().unwrap());
        receiver.iter().flatten().collect()
    });
    assert_eq!(fences.len(), 4);
    assert!(fences.is_sorted_by(|one, next| one < next));

    let mut adopted = lock.acquire_owned().unwrap();
    adopted.adopt();
    assert!(matches!(lock.try_acquire(), Err(Error::AlreadyHeld { .. })));
    adopted.release().unwrap();
    assert_eq!(sandbox.outsider_tries(&[]), 0);
}

#[test]
fn shared_and_asked_for_again_is_an_error_too() {
    let sandbox = Sandbox::new();
    let lock = sandbox.lock().shared();
    let _guard = lock.acquire().unwrap();
    assert!(matches!(lock.acquire(), Err(Error::AlreadyHeld { .. })));
    elsewhere(|| drop(lock.acquire().expect("another thread may share it")));
}

#[test]
fn trying_never_waits_and_names_who_holds_it() {
    let sandbox = Sandbox::new();
    let lock = sandbox.lock();
    let guard = lock.acquire().unwrap();
    let start = Instant::now();
    for _ in 0..20 {
        let Err(Error::Busy { holders, .. }) = elsewhere(|| lock.try_acquire()) else { panic!("two holders") };
        assert_eq!(holders.first().map(|holder| holder.pid), Some(std::process::id()));
    }
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    drop(guard);

    let _holder = sandbox.hold(&["--reason", "long work"]);
    let start = Instant::now();
    for try_once in [lock.try_acquire(), lock.clone().timeout(Duration::ZERO).acquire()] {
        let Err(Error::Busy { holders, .. }) = try_once else { panic!("two holders") };
        assert_eq!(holders[0].reason.as_deref(), Some("long work"));
    }
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(sandbox.tickets(), [""; 0], "one who only tries does not queue");
}

#[test]
fn timeout_counts_what_was_waited_in_line_and_in_the_queue() {
    let sandbox = Sandbox::new();
    let limit = Duration::from_millis(400);
    let lock = sandbox.lock().timeout(limit);
    let guard = lock.acquire().unwrap();
    let in_time = |lock: &Lock| {
        let start = Instant::now();
        let Err(Error::Busy { waited, holders, .. }) = elsewhere(|| lock.acquire()) else { panic!("two holders") };
        assert!(waited >= limit && start.elapsed() >= limit && start.elapsed() < limit * 20, "{:?}", start.elapsed());
        assert_eq!(holders.len(), 1);
    };
    in_time(&lock);
    drop(guard);
    let _holder = sandbox.hold(&[]);
    in_time(&lock);
    assert_eq!(sandbox.tickets(), [""; 0]);
}

#[test]
fn threads_are_served_in_the_order_they_asked_behind_another_process() {
    let sandbox = Sandbox::new();
    let lock = sandbox.lock();
    let mut holder = sandbox.hold(&[]);
    let (served, serve) = mpsc::channel::<u32>();
    let inside = AtomicUsize::new(0);
    let order = thread::scope(|scope| {
        for number in 0..8 {
            let (lock, served, inside) = (&lock, served.clone(), &inside);
            let (asks, asked) = mpsc::channel::<()>();
            let told = Mutex::new(Some(asks));
            scope.spawn(move || {
                let waiting = lock.clone().on_notice(move |notice| {
                    if let Notice::Waiting(_) = notice {
                        drop(told.lock().unwrap().take());
                    }
                });
                let guard = waiting.acquire().unwrap();
                assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two holders");
                served.send(number).unwrap();
                inside.fetch_sub(1, Ordering::SeqCst);
                guard.release().unwrap();
            });
            asked.recv().expect_err("it is told that it waits");
        }
        assert_eq!(sandbox.waiters(), 1, "one of them stands in the queue of all processes");
        holder.finish();
        serve.iter().take(8).collect::<Vec<_>>()
    });
    assert_eq!(order, [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(sandbox.outsider_tries(&[]), 0);
}

#[test]
fn threads_and_processes_count_without_losing_any() {
    let sandbox = Sandbox::new();
    let counter = sandbox.path("counter");
    fs::write(&counter, "0").unwrap();
    let script = format!("n=$(cat {0}); echo $((n + 1)) >{0}", counter.display());
    let lock = sandbox.lock();
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                for _ in 0..10 {
                    let guard = lock.acquire().unwrap();
                    let count: u32 = fs::read_to_string(&counter).unwrap().trim().parse().unwrap();
                    fs::write(&counter, (count + 1).to_string()).unwrap();
                    guard.release().unwrap();
                }
            });
        }
        // Nobody's descendants: what runs below this process is inside of its holds.
        for number in 0..10 {
            let done = sandbox.outside(format!("done-{number}"));
            let run = r#"repoguard exec -q -- sh -c "$1" && touch "$2""#;
            let mut command = sandbox.outsider_command(run, &[&script]);
            command.arg(done).status().unwrap();
        }
    });
    eventually("the processes are done", || (0..10).all(|number| sandbox.outside(format!("done-{number}")).exists()));
    assert_eq!(lines(&counter), ["70"]);
}

#[test]
fn crossing_threads_get_an_error_that_names_both() {
    let sandbox = Sandbox::new();
    let (a, b) = (named(&sandbox, &["a"]), named(&sandbox, &["b"]));
    let both_hold = std::sync::Barrier::new(2);
    let crossing = |first: &Lock, second: &Lock| {
        let guard = first.acquire().unwrap();
        both_hold.wait();
        let result = second.acquire();
        drop(guard);
        result.map(drop).map_err(|error| error.to_string())
    };
    let (one, other) = thread::scope(|scope| {
        let one = scope.spawn(|| crossing(&a, &b));
        let other = crossing(&b, &a);
        (one.join().expect("no panic"), other)
    });
    let refused: Vec<String> = [one, other].into_iter().filter_map(Result::err).collect();
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert!(refused[0].contains("name a") && refused[0].contains("name b"), "{}", refused[0]);
    assert!(refused[0].contains("deadlock") && refused[0].matches("thread").count() >= 2, "{}", refused[0]);
    drop((a.acquire().unwrap(), b.acquire().unwrap()));
}

#[test]
fn circle_through_another_process_is_refused_as_well() {
    let sandbox = Sandbox::new();
    let guard = named(&sandbox, &["a"]).acquire().unwrap();
    // It holds b, and waits for a.
    let start = "touch b-is-held; repoguard exec -q --name a -- true; echo $? >status";
    sandbox.start_outsider(&["exec", "-q", "--name", "b", "--", "sh", "-c", start]);
    eventually("the other waits", || sandbox.path("b-is-held").exists() && sandbox.waiters() == 1);
    let error = named(&sandbox, &["b"]).acquire().expect_err("a deadlock");
    assert!(matches!(error, Error::Deadlock { .. }), "{error}");
    drop(guard);
    eventually("the other goes on", || lines(&sandbox.path("status")) == ["0"]);
}

#[test]
fn circle_through_another_process_and_two_threads_is_refused_as_well() {
    let sandbox = Sandbox::new();
    let (a, b, c) = (named(&sandbox, &["a"]), named(&sandbox, &["b"]), named(&sandbox, &["c"]));
    // A process holds c and waits for b; one thread holds b and waits for a; who holds a asks for c.
    let start = "touch c-is-held; repoguard exec -q --name b -- true; echo $? >status";
    let guard = a.acquire().unwrap();
    thread::scope(|scope| {
        let (holds, held) = mpsc::channel::<()>();
        let waits = scope.spawn(|| {
            let guard = b.acquire().unwrap();
            drop(holds);
            let result = a.acquire().map(drop);
            drop(guard);
            result
        });
        held.recv().expect_err("b is held");
        sandbox.start_outsider(&["exec", "-q", "--name", "c", "--", "sh", "-c", start]);
        eventually("both wait", || sandbox.path("c-is-held").exists() && sandbox.waiters() == 2);
        let error = c.acquire().expect_err("a deadlock");
        assert!(matches!(error, Error::Deadlock { .. }), "{error}");
        drop(guard);
        waits.join().expect("no panic").expect("a");
    });
    eventually("the other goes on", || lines(&sandbox.path("status")) == ["0"]);
}

#[test]
fn holds_of_one_thread_are_independent_of_each_other() {
    let sandbox = Sandbox::new();
    let first = named(&sandbox, &["a"]).acquire().unwrap();
    let second = named(&sandbox, &["b"]).acquire().unwrap();
    drop(first);
    assert_eq!(sandbox.outsider_tries(&["--name", "a"]), 0);
    assert_eq!(sandbox.outsider_tries(&["--name", "b"]), 75);
    assert_eq!(sandbox.outsider_tries(&["--scope", "repo"]), 75, "the second still shares the repository");
    drop(second);
    assert_eq!(sandbox.outsider_tries(&["--scope", "repo"]), 0);
}

#[test]
fn holds_of_two_threads_are_independent_also_where_they_had_to_wait() {
    let sandbox = Sandbox::new();
    let (a, b) = (named(&sandbox, &["a"]), named(&sandbox, &["b"]));
    let first = a.acquire().unwrap();
    let mut holder = sandbox.hold(&["--name", "b"]);
    thread::scope(|scope| {
        let (got, gets) = mpsc::channel::<()>();
        let waiter = scope.spawn(|| {
            let guard = b.acquire().unwrap();
            drop(got);
            guard
        });
        eventually("it waits", || sandbox.waiters() == 1);
        // What this process holds already is not taken for a hold around the waiter.
        holder.finish();
        gets.recv().expect_err("b is held");
        let second = waiter.join().expect("no panic");
        drop(first);
        assert_eq!(sandbox.outsider_tries(&["--name", "b"]), 75);
        assert_eq!(sandbox.outsider_tries(&["--scope", "repo"]), 75, "it has a lock of the repository of its own");
        drop(second);
    });
    assert_eq!(sandbox.outsider_tries(&["--scope", "repo"]), 0);
}

#[test]
fn nested_request_passes_who_waits_for_what_is_held() {
    let sandbox = Sandbox::new();
    let guard = named(&sandbox, &["a"]).acquire().unwrap();
    sandbox.start_outsider(&["exec", "-q", "--scope", "repo", "--", "touch", "served"]);
    eventually("everything is waited for", || sandbox.waiters() == 1);
    let second = named(&sandbox, &["b"]).timeout(Duration::from_secs(20)).acquire().expect("no deadlock");
    drop((second, guard));
    eventually("it is served", || sandbox.path("served").exists());
}

#[test]
fn guard_is_let_go_by_a_panic() {
    let sandbox = Sandbox::new();
    let lock = sandbox.lock();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let _guard = lock.acquire().unwrap();
        panic!("on purpose");
    }));
    assert!(panicked.is_err());
    assert_eq!(sandbox.outsider_tries(&[]), 0);
    drop(lock.acquire().unwrap());
}

#[test]
fn guard_can_be_moved_and_adopted() {
    let sandbox = Sandbox::new();
    let lock = sandbox.lock();
    let guard = lock.acquire().unwrap();
    let (goes_on, wait) = mpsc::channel::<()>();
    thread::scope(|scope| {
        let (adopts, adopted) = mpsc::channel::<()>();
        let lock = &lock;
        scope.spawn(move || {
            let mut guard = guard;
            guard.adopt();
            assert!(matches!(lock.acquire(), Err(Error::AlreadyHeld { .. })), "it is this thread's now");
            drop(adopts);
            wait.recv().expect_err("go on");
            drop(guard);
        });
        adopted.recv().expect_err("adopted");
        assert!(matches!(lock.try_acquire(), Err(Error::Busy { .. })), "and no longer ours: we may wait for it");
        drop(goes_on);
        drop(lock.acquire().unwrap());
    });
}

#[test]
fn locks_are_let_go_in_the_order_of_the_drops() {
    let sandbox = Sandbox::new();
    let outer = named(&sandbox, &["outer"]).acquire().unwrap();
    {
        let _inner = named(&sandbox, &["inner"]).acquire().unwrap();
        assert_eq!(sandbox.outsider_tries(&["--name", "inner"]), 75);
    }
    assert_eq!(sandbox.outsider_tries(&["--name", "inner"]), 0);
    assert_eq!(sandbox.outsider_tries(&["--name", "outer"]), 75);
    drop(outer);
}

#[test]
fn looking_is_in_nobodys_way() {
    let sandbox = Sandbox::new();
    let lock = sandbox.lock();
    thread::scope(|scope| {
        let (stop, stopped) = mpsc::channel::<()>();
        let lock = &lock;
        let looker = scope.spawn(move || {
            let mut looks = 0;
            while stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {
                assert!(lock.holder().is_ok());
                assert!(lock.is_locked().is_ok());
                looks += 1;
            }
            looks
        });
        for _ in 0..25 {
            drop(elsewhere(|| lock.try_acquire()).expect("nobody but a reader"));
        }
        drop(stop);
        assert!(looker.join().expect("no panic") > 0);
    });
    assert!(lock.holder().unwrap().is_none() && !lock.is_locked().unwrap());
}

#[test]
fn removed_lock_file_lets_nobody_in_and_is_an_error_at_check_and_release() {
    let sandbox = Sandbox::new();
    let guard = sandbox.lock().acquire().unwrap();
    guard.check().expect("all is in place");
    fs::remove_file(sandbox.lock_file()).unwrap();
    assert_eq!(sandbox.outsider_tries(&[]), 75, "the git directory is locked, too");
    let is_lost = |result| matches!(result, Err(Error::Lost { path }) if path == sandbox.lock_file());
    assert!(is_lost(guard.check()) && is_lost(guard.release()), "flock(1) could have got in");

    let guard = named(&sandbox, &["a"]).acquire().unwrap();
    fs::remove_dir_all(sandbox.data().join("names")).unwrap();
    assert!(matches!(guard.release(), Err(Error::Lost { .. })));
    drop(named(&sandbox, &["a"]).acquire().unwrap());
}

#[test]
fn command_is_inside_a_hold_of_the_library_by_its_token_alone() {
    let sandbox = Sandbox::new();
    let lock = sandbox.lock();
    // An agent that was started before the hold works on, and has nothing to do with it.
    let mut earlier = sandbox.start_up(sandbox.sh_command("echo up; read -r _; repoguard exec -n -- touch early"));
    let guard = lock.acquire().unwrap();
    earlier.send("go on");
    assert_eq!(shell_status(earlier.ended()), 75, "{}", earlier.stderr());
    assert_eq!(sandbox.try_once(&[]), 75, "our child, but it was not admitted");
    for script in [r#"exec repoguard "$@""#, r#"repoguard exec -- repoguard "$@""#] {
        let mut command = sandbox.outsider_command(script, &["exec", "-q", "-n", "--", "touch", "inside"]);
        command.envs(guard.environment()).status().unwrap();
        eventually("it ran inside", || sandbox.path("inside").exists());
        std::fs::remove_file(sandbox.path("inside")).unwrap();
    }
    assert!(!sandbox.path("early").exists());
    assert_eq!(sandbox.outsider_tries(&[]), 75);
}

#[test]
fn helper_that_is_killed_is_replaced() {
    let sandbox = Sandbox::new();
    let mut holder = sandbox.hold_with(&["--reason", "x"], HOLD);
    let lock = sandbox.lock();
    thread::scope(|scope| {
        let waiter = scope.spawn(|| lock.acquire().map(drop));
        let inode = fs::metadata(sandbox.lock_file()).expect("a lock file").ino();
        // The kernel's table of locks has who waits for this file.
        let ours = || -> Option<u32> {
            let locks = fs::read_to_string("/proc/locks").unwrap();
            let mut waits = locks.lines().filter(|line| line.contains("->") && line.contains(&format!(":{inode} ")));
            waits.find_map(|line| line.split_whitespace().nth(5)?.parse().ok())
        };
        eventually("a helper waits", || ours().is_some());
        let first = ours().expect("a helper");
        kill(first, rustix::process::Signal::KILL);
        eventually("another one does", || ours().is_some_and(|pid| pid != first));
        holder.finish();
        waiter.join().expect("no panic").expect("the lock");
    });
}

#[test]
fn place_that_is_given_up_is_free_also_while_another_thread_waits_elsewhere() {
    let sandbox = Sandbox::new();
    let (mut first, mut second) = (sandbox.hold(&["--name", "a"]), sandbox.hold(&["--name", "b"]));
    // Limits of both, so that a failure is none to wait for.
    let limited = |name, seconds| named(&sandbox, &[name]).timeout(Duration::from_secs(seconds));
    let (a, b) = (limited("a", 3), limited("b", 50));
    thread::scope(|scope| {
        let gives_up = scope.spawn(|| a.acquire().map(drop));
        eventually("one waits for a", || sandbox.waiters() == 1);
        // Its helper process is made while the other's place in the queue is open.
        let waits = scope.spawn(|| b.acquire().map(drop));
        eventually("one waits for b", || sandbox.waiters() == 2);
        let mut behind = sandbox.queue(&["--name", "a"], ":");
        assert!(matches!(gives_up.join().expect("no panic"), Err(Error::Busy { .. })));
        first.finish();
        assert!(behind.ended().success(), "whoever was behind goes on, though the other waits still");
        assert!(!waits.is_finished());
        second.finish();
        waits.join().expect("no panic").unwrap();
    });
}

#[test]
fn stale_record_of_a_process_with_another_hold_keeps_nobody_out() {
    let sandbox = Sandbox::new();
    let holders = sandbox.data().join("holders");
    let first = named(&sandbox, &["a"]).acquire().unwrap();
    let second = elsewhere(|| named(&sandbox, &["b"]).acquire().unwrap());
    // As after a full disk: the record does not say that the hold has ended.
    let record = fs::read(holders.join("1")).unwrap();
    assert!(String::from_utf8_lossy(&record).contains("name b"));
    second.release().unwrap();
    fs::write(holders.join("1"), record).unwrap();
    let output = sandbox.repoguard(["exec", "-n", "--name", "b", "--name", "c", "--", "true"]).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{told}");
    assert!(told.contains("may still be at work"), "{told}");
    assert_eq!(sandbox.outsider_tries(&["--name", "a"]), 75);
    drop(first);
}
