//! The library's lock in asynchronous code: order, errors, many tasks, and the end of a runtime.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::{Duration, Instant};

use repoguard::{Error, Guard, Lock, Notice, Request};
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;

use crate::support::{Belongings, Dice, Sandbox, alone, eventually, long};

pub(crate) fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn one_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn is_send<T: Send + 'static>(value: T) -> T {
    value
}

#[test]
fn future_can_be_spawned_and_its_guard_excludes_other_processes() {
    let sandbox = Sandbox::new();
    let lock = sandbox.lock();
    let runtime = runtime();
    let waiting = lock.clone();
    let task = runtime.spawn(is_send(async move { waiting.acquire_async().await }));
    let guard: Guard = runtime.block_on(task).unwrap().unwrap();
    assert_eq!(sandbox.outsider_tries(&[]), 75);
    assert!(!sandbox.flock_gets(lock.path()));
    guard.release().unwrap();
    assert_eq!(sandbox.outsider_tries(&[]), 0);
}

#[test]
fn task_waits_for_another_process_and_goes_on_when_it_lets_go() {
    for runtime in [runtime(), one_thread()] {
        for hold in [Sandbox::hold, Sandbox::hold_by_flock] {
            let sandbox = Sandbox::new();
            let lock = sandbox.lock();
            let mut holder = hold(&sandbox, &[]);
            let told = Arc::new(AtomicUsize::new(0));
            let count = Arc::clone(&told);
            let waiting = lock.clone().on_notice(move |notice| {
                if let Notice::Waiting(waiting) = notice {
                    assert_eq!(waiting.holders_and_ahead().0.len(), 1);
                    count.fetch_add(1, Ordering::SeqCst);
                }
            });
            runtime.block_on(async {
                let mut waits = pin!(waiting.acquire_async());
                let early = tokio::time::timeout(Duration::from_millis(500), waits.as_mut()).await;
                assert!(early.is_err(), "two holders");
                assert!(told.load(Ordering::SeqCst) > 0, "it is told");
                holder.release();
                let guard = tokio::time::timeout(Duration::from_secs(20), waits).await.expect("woken").unwrap();
                guard.release().unwrap();
            });
            holder.ended();
            assert_eq!(sandbox.tickets(), [""; 0]);
        }
    }
}

#[test]
fn hand_over_between_processes_is_not_polled_for() {
    let sandbox = Sandbox::new();
    let lock = sandbox.lock();
    let runtime = one_thread();
    for somebody_ahead in [false, true] {
        let mut quickest = Duration::MAX;
        for _ in 0..3 {
            let mut holder = sandbox.hold(&[]);
            let mut ahead = somebody_ahead.then(|| sandbox.queue(&[], ":"));
            quickest = quickest.min(runtime.block_on(async {
                let mut waits = pin!(lock.acquire_async());
                // It has just looked by itself, and does so again only in most of a second.
                assert!(tokio::time::timeout(Duration::from_millis(400), waits.as_mut()).await.is_err());
                holder.release();
                let released = Instant::now();
                drop(waits.await.unwrap());
                released.elapsed()
            }));
            holder.ended();
            if let Some(ahead) = &mut ahead {
                assert!(ahead.ended().success());
            }
        }
        assert!(quickest < Duration::from_millis(300), "{quickest:?}, somebody ahead: {somebody_ahead}");
    }
}

#[test]
fn asking_again_in_a_task_is_an_error_and_other_tasks_wait() {
    let sandbox = Sandbox::new();
    let lock = sandbox.lock();
    for runtime in [runtime(), one_thread()] {
        let task = lock.clone();
        let nested = async move {
            let guard = task.acquire_async().await.unwrap();
            assert!(matches!(task.acquire_async().await, Err(Error::AlreadyHeld { .. })));
            assert!(matches!(task.try_acquire(), Err(Error::AlreadyHeld { .. })));
            assert!(matches!(task.acquire(), Err(Error::AlreadyHeld { .. })), "blocking, too");
            let other = task.clone();
            let other = tokio::spawn(async move { other.acquire_async().await.map(drop) });
            tokio::task::yield_now().await;
            guard.release().unwrap();
            other.await.unwrap().unwrap();
        };
        runtime.block_on(async { tokio::spawn(nested).await }).unwrap();
        // What is no task is its thread.
        runtime.block_on(async {
            let _guard = lock.acquire_async().await.unwrap();
            let error = lock.acquire_async().await.expect_err("an error");
            assert!(error.to_string().contains("thread"), "{error}");
        });
    }
}

#[test]
fn owned_guards_of_one_task_wait_for_each_other() {
    let sandbox = Sandbox::new();
    let lock = sandbox.lock();
    one_thread().block_on(async {
        let first = lock.acquire_owned_async().await.unwrap();
        let next = async { lock.acquire_owned_async().await.unwrap().fence() };
        let release = async {
            // The other one is polled first, and waits.
            tokio::task::yield_now().await;
            let fence = first.fence();
            first.release().unwrap();
            fence
        };
        let (next, first) = tokio::join!(next, release);
        assert!(next > first);
    });
}

#[test]
fn futures_joined_in_one_task_never_wait_for_each_other() {
    let sandbox = Sandbox::new();
    let lock = sandbox.lock();
    let mut holder = sandbox.hold(&[]);
    one_thread().block_on(async {
        let mut first = pin!(lock.acquire_async());
        assert!(poll_fn(|context| Poll::Ready(first.as_mut().poll(context).is_pending())).await);
        // Joined, both would be waited for, and the first one's guard kept meanwhile.
        assert!(matches!(lock.acquire_async().await, Err(Error::AlreadyHeld { .. })));
        holder.release();
        drop(first.await.unwrap());
    });
}

#[test]
fn blocking_the_one_thread_that_the_holder_needs_is_an_error() {
    let sandbox = Sandbox::new();
    let lock = sandbox.lock();
    one_thread().block_on(async {
        let holder = lock.clone();
        let (held, holds) = (Arc::new(tokio::sync::Notify::new()), Arc::new(tokio::sync::Notify::new()));
        let (tell, wait) = (Arc::clone(&held), Arc::clone(&holds));
        let task = tokio::spawn(async move {
            let _guard = holder.acquire_async().await.unwrap();
            tell.notify_one();
            wait.notified().await;
        });
        held.notified().await;
        let error = lock.acquire().expect_err("a deadlock");
        assert!(matches!(error, Error::AlreadyHeld { .. }), "{error}");
        holds.notify_one();
        task.await.unwrap();
        drop(lock.acquire().unwrap());
    });
}

#[test]
fn crossing_tasks_get_an_error_that_names_both() {
    let sandbox = Sandbox::new();
    let named = |name: &str| sandbox.lock_for(Request::new().name(name));
    let (a, b) = (named("a"), named("b"));
    let runtime = runtime();
    let both = Arc::new(tokio::sync::Barrier::new(2));
    let crossing = |first: &Lock, second: &Lock| {
        let (first, second, both) = (first.clone(), second.clone(), Arc::clone(&both));
        runtime.spawn(async move {
            let _first = first.acquire_async().await.unwrap();
            both.wait().await;
            second.acquire_async().await.map(drop)
        })
    };
    let tasks = [crossing(&a, &b), crossing(&b, &a)];
    let results = tasks.map(|task| runtime.block_on(task).unwrap());
    let refused: Vec<String> = results.into_iter().filter_map(Result::err).map(|error| error.to_string()).collect();
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert!(refused[0].contains("name a") && refused[0].contains("name b"), "{}", refused[0]);
    assert!(refused[0].matches("task").count() >= 2, "{}", refused[0]);
}

#[test]
fn timeouts_and_places_without_a_runtime_are_errors() {
    let sandbox = Sandbox::new();
    let lock = sandbox.lock();
    let _holder = sandbox.hold(&[]);
    let start = Instant::now();
    let late = one_thread().block_on(lock.clone().timeout(Duration::from_millis(200)).acquire_async());
    assert!(matches!(late, Err(Error::Busy { .. })) && start.elapsed() >= Duration::from_millis(200));
    let never = one_thread().block_on(lock.clone().timeout(Duration::ZERO).acquire_async());
    assert!(matches!(never, Err(Error::Busy { .. })));
    let mut outside = pin!(lock.acquire_async());
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let Poll::Ready(Err(error)) = outside.as_mut().poll(&mut context) else { panic!("no runtime") };
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    assert_eq!(sandbox.tickets(), [""; 0]);
}

#[test]
fn guard_of_a_task_that_panics_or_is_aborted_is_let_go() {
    let sandbox = Sandbox::new();
    let lock = sandbox.lock();
    let runtime = runtime();
    let panics = lock.clone();
    let panicked = runtime.block_on(runtime.spawn(async move {
        let _guard = panics.acquire_async().await.unwrap();
        panic!("on purpose");
    }));
    assert!(panicked.is_err_and(|error| error.is_panic()));
    let aborted = lock.clone();
    let task = runtime.spawn(async move {
        let _guard = aborted.acquire_async().await.unwrap();
        std::future::pending::<()>().await;
    });
    eventually("it holds", || lock.is_locked().unwrap());
    task.abort();
    drop(runtime.block_on(lock.acquire_async()).unwrap());
}

#[test]
fn end_of_a_runtime_ends_holds_and_waits_at_once() {
    alone("library_async::end_of_a_runtime_ends_holds_and_waits_at_once", || {
        let sandbox = Sandbox::new();
        let path = Lock::of_directory(sandbox.outside("home")).unwrap();
        let lock = sandbox.lock();
        let _holder = sandbox.hold(&[]);
        let before = Belongings::settled();
        for runtime in [runtime, one_thread] {
            let runtime = runtime();
            let asked = Arc::new(AtomicUsize::new(0));
            for number in 0..60 {
                let (lock, asked) = (if number % 2 == 0 { lock.clone() } else { path.clone() }, Arc::clone(&asked));
                runtime.spawn(async move {
                    asked.fetch_add(1, Ordering::SeqCst);
                    let _guard = lock.acquire_async().await;
                    std::future::pending::<()>().await;
                });
            }
            // A runtime of one thread runs only while somebody is in it.
            runtime.block_on(async {
                while asked.load(Ordering::SeqCst) < 60 || sandbox.waiters() == 0 || !path.is_locked().unwrap() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            });
            let start = Instant::now();
            drop(runtime);
            assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
            assert_eq!(Belongings::settled(), before);
            assert_eq!(sandbox.waiters(), 0);
            assert!(sandbox.flock_gets(path.path()));
        }
    });
}

/// What is seen of the tasks of the test below.
#[derive(Default)]
struct Seen {
    asked: Mutex<Vec<usize>>,
    served: Mutex<Vec<usize>>,
    cancelled: AtomicUsize,
    inside: AtomicBool,
}

async fn ask_in_order(lock: Lock, token: CancellationToken, number: usize, seen: Arc<Seen>) {
    let mut acquired = pin!(lock.acquire_cancellable(token.cancelled()));
    let mut first = true;
    let result = poll_fn(|context| {
        // Nobody asks between the note and the question.
        let mut asked = std::mem::take(&mut first).then(|| seen.asked.lock().unwrap());
        let polled = acquired.as_mut().poll(context);
        if let Some(asked) = &mut asked {
            asked.push(number);
        }
        polled
    })
    .await;
    match result {
        Ok(guard) => {
            assert!(!seen.inside.swap(true, Ordering::SeqCst), "two holders");
            seen.served.lock().unwrap().push(number);
            tokio::task::yield_now().await;
            assert!(seen.inside.swap(false, Ordering::SeqCst));
            guard.release().unwrap();
        }
        Err(Error::Cancelled { .. }) => {
            seen.cancelled.fetch_add(1, Ordering::SeqCst);
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn thousand_tasks_with_random_cancels_are_served_in_order_and_leave_nothing() {
    alone("library_async::thousand_tasks_with_random_cancels_are_served_in_order_and_leave_nothing", || {
        let rounds = if long() { 10 } else { 1 };
        for round in 0..rounds {
            thousand_tasks(0x9E37_79B9_7F4A_7C15 + round);
        }
    });
}

fn thousand_tasks(start: u64) {
    const TASKS: usize = 1000;
    let sandbox = Sandbox::new();
    let lock = sandbox.lock();
    let mut dice = Dice::new(start);
    let before = Belongings::settled();
    let runtime = runtime();
    // Both workers have begun.
    runtime.block_on(async { tokio::spawn(async {}).await }).unwrap();
    eventually("all threads are there", || Belongings::now().threads == before.threads + 2);
    let seen = Arc::new(Seen::default());
    let mut holder = sandbox.hold(&[]);
    let tokens: Vec<CancellationToken> = (0..TASKS).map(|_| CancellationToken::new()).collect();
    let tasks: Vec<_> = tokens
        .iter()
        .enumerate()
        .map(|(number, token)| runtime.spawn(ask_in_order(lock.clone(), token.clone(), number, Arc::clone(&seen))))
        .collect();
    eventually("all have asked", || seen.asked.lock().unwrap().len() == TASKS);
    assert!(sandbox.waiters() <= 1, "one stands in the queue for all");
    assert_eq!(Belongings::now().threads, before.threads + 2, "no thread waits");
    // Whoever is the first among them, too.
    let first = seen.asked.lock().unwrap()[0];
    tokens[first].cancel();
    for _ in 0..200 {
        tokens[dice.index(TASKS)].cancel();
    }
    holder.finish();
    for _ in 0..200 {
        tokens[dice.index(TASKS)].cancel();
        std::thread::sleep(dice.micros(2000));
        assert_eq!(Belongings::now().threads, before.threads + 2, "no thread waits");
    }
    for task in tasks {
        runtime.block_on(task).unwrap();
    }
    let served = seen.served.lock().unwrap();
    let cancelled = seen.cancelled.load(Ordering::SeqCst);
    assert_eq!(served.len() + cancelled, TASKS);
    assert!(cancelled >= 100 && served.len() >= 500, "{cancelled} cancelled, {} served", served.len());
    let place: std::collections::HashMap<usize, usize> =
        seen.asked.lock().unwrap().iter().enumerate().map(|(place, number)| (*number, place)).collect();
    assert!(served.is_sorted_by_key(|number| place[number]), "served in another order than they asked");
    assert_eq!(sandbox.outsider_tries(&[]), 0);
    assert!(sandbox.flock_gets(sandbox.lock_file()));
    assert_eq!(sandbox.tickets(), [""; 0]);
    drop(runtime);
    drop(holder);
    assert_eq!(Belongings::settled(), before);
}
