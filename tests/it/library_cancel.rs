//! Giving up an asynchronous acquire: wherever it stands, nothing is left of it that could take the lock.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use repoguard::{Error, Guard, Lock, Request, Result};
use rustix::process::Signal;
use tokio_util::sync::CancellationToken;

use crate::library_async::runtime;
use crate::support::{Belongings, Running, Sandbox, alone, eventually, long};

type Acquiring<'a> = Pin<Box<dyn Future<Output = Result<Guard>> + Send + 'a>>;

/// Polls once more, when it was woken or a moment has passed; tells whether it is done.
async fn polled(acquiring: &mut Acquiring<'_>) -> Option<Result<Guard>> {
    let mut first = true;
    poll_fn(|context| match acquiring.as_mut().poll(context) {
        Poll::Ready(result) => Poll::Ready(Some(result)),
        Poll::Pending if std::mem::take(&mut first) => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    })
    .await
}

/// What stands before the one that is cancelled.
struct Ahead {
    in_line: Option<Guard>,
    holder: Option<Running>,
    queued: Option<Running>,
}

/// Waits until the future has been polled so often, each time after one more of those before it has gone. The drop comes when it
/// stands there.
fn cancelled_after(polls: usize, how: &str) -> bool {
    let sandbox = Sandbox::new();
    let (lock, file) = match how {
        "repository" => (sandbox.lock(), sandbox.lock_file()),
        "name" => {
            let request = Request::new().name("a");
            (sandbox.lock_for(request), sandbox.data().join("repo.lock"))
        }
        _ => (Lock::of_file(sandbox.outside("file")).unwrap(), sandbox.outside("file")),
    };
    let options: &[&str] = if how == "name" { &["--name", "a"] } else { &[] };
    let before = Belongings::settled();
    let runtime = runtime();
    let with_runtime = Belongings::now();
    // Held by this process first, so that the future stands in its line; then by another one; another one is queued.
    let in_line = std::thread::scope(|scope| scope.spawn(|| lock.acquire()).join()).expect("no panic").unwrap();
    let mut ahead = Ahead { in_line: Some(in_line), holder: None, queued: None };
    let task = {
        let lock = lock.clone();
        async move {
            let mut acquiring: Acquiring<'_> = Box::pin(lock.acquire_async());
            let mut done = None;
            for poll in 0..polls {
                done = polled(&mut acquiring).await;
                if done.is_some() {
                    break;
                }
                match poll {
                    0 => {
                        // In line. Others come before it in the queue of all processes, where it does not stand yet.
                        drop(ahead.in_line.take());
                        if how == "file" {
                            let mut command = sandbox.command("flock");
                            command.arg(lock.path()).args(["sh", "-c", "echo; read _ || :"]);
                            ahead.holder = Some(sandbox.start_up(command));
                        } else {
                            ahead.holder = Some(sandbox.hold(options));
                            ahead.queued = Some(sandbox.queue(options, "echo held; read _ || :"));
                        }
                    }
                    2 => {
                        // Queued, behind the one that is queued; that has the lock now.
                        if let Some(holder) = &mut ahead.holder {
                            holder.finish();
                        }
                        if let Some(queued) = &mut ahead.queued {
                            eventually("the next holds", || queued.stdout().contains("held"));
                        }
                    }
                    4 => {
                        // At the front, with a process that waits in the kernel's queue.
                        if let Some(queued) = &mut ahead.queued {
                            queued.finish();
                        }
                    }
                    _ => tokio::time::sleep(Duration::from_millis(1)).await,
                }
            }
            let finished = done.is_some();
            drop(done.map(|result| result.expect("the lock")));
            drop(acquiring);
            (finished, sandbox, ahead)
        }
    };
    let (finished, sandbox, mut ahead) = runtime.block_on(task);
    // At once, and while others still hold: nothing is left.
    let left = Belongings::now();
    let mut others: Vec<String> =
        [&ahead.holder, &ahead.queued].into_iter().flatten().map(|p| p.pid().to_string()).collect();
    others.extend(with_runtime.children.iter().cloned());
    let unknown: Vec<_> = left.children.iter().filter(|child| !others.contains(child)).collect();
    assert!(unknown.is_empty(), "{how}, {polls} polls: {unknown:?} of {left:?}");
    assert!(
        left.descriptors
            .iter()
            .all(|path| !path.starts_with(sandbox.data()) && *path != file || ahead.in_line.is_some())
    );
    drop(ahead.in_line.take());
    for other in [&mut ahead.holder, &mut ahead.queued].into_iter().flatten() {
        other.finish();
    }
    let free = || if how == "file" { sandbox.flock_gets(&file) } else { sandbox.outsider_tries(options) == 0 };
    assert!(free(), "{how}, {polls} polls: somebody holds");
    assert_eq!(sandbox.tickets(), [""; 0]);
    drop(runtime);
    drop(ahead);
    assert_eq!(Belongings::settled(), before, "{how}, {polls} polls");
    drop(lock.try_acquire().expect("nobody of ours is in the way"));
    finished
}

#[test]
fn cancel_at_each_await_leaves_nothing() {
    alone("library_cancel::cancel_at_each_await_leaves_nothing", || {
        for how in ["repository", "name", "file"] {
            let mut polls = 0;
            while !cancelled_after(polls, how) {
                polls += 1;
                assert!(polls < 30, "{how}: it is never done");
            }
            assert!(polls >= if how == "file" { 3 } else { 5 }, "{how}: done after {polls} polls: it never waited");
        }
    });
}

#[test]
fn cancel_while_the_holder_lets_go_never_leaves_the_lock_with_us() {
    alone("library_cancel::cancel_while_the_holder_lets_go_never_leaves_the_lock_with_us", || {
        let sandbox = Sandbox::new();
        let lock = sandbox.lock();
        drop(lock.acquire().unwrap());
        let runtime = runtime();
        // A shell that takes the lock for a moment, again and again.
        let mut command = sandbox.command("sh");
        let script = "echo; while :; do flock .git/repoguard.lock sleep 0.002; done";
        command.args(["-c", script]);
        let looper = sandbox.start_up(command);
        let rounds: u64 = if long() { 2000 } else { 200 };
        let before = Belongings::settled();
        let (mut got, mut late) = (0, 0);
        for round in 0..rounds {
            let limit = Duration::from_micros(round * 7919 % 9000);
            let result = runtime.block_on(async { tokio::time::timeout(limit, lock.acquire_async()).await });
            match result {
                Ok(guard) => {
                    got += 1;
                    guard.unwrap().release().unwrap();
                }
                Err(_) => late += 1,
            }
            let now = Belongings::now();
            assert_eq!((&now.children, &now.descriptors), (&before.children, &before.descriptors), "round {round}");
        }
        assert!(got > 0 && late > 0, "{got} got it, {late} gave up");
        looper.signal_group(Signal::KILL);
        drop(looper);
        eventually("the lock is free", || sandbox.flock_gets(sandbox.lock_file()));
        assert_eq!(sandbox.tickets(), [""; 0]);
    });
}

#[test]
fn token_that_is_cancelled_before_during_or_never() {
    let sandbox = Sandbox::new();
    let lock = sandbox.lock();
    let runtime = runtime();
    let token = CancellationToken::new();
    drop(runtime.block_on(lock.acquire_cancellable(token.cancelled())).unwrap());

    let mut holder = sandbox.hold(&[]);
    let cancel = token.clone();
    let waited = runtime.block_on(async {
        let mut waits = pin!(lock.acquire_cancellable(token.cancelled()));
        assert!(tokio::time::timeout(Duration::from_millis(100), waits.as_mut()).await.is_err());
        cancel.cancel();
        waits.await
    });
    assert!(matches!(waited, Err(Error::Cancelled { .. })), "{waited:?}");
    assert_eq!(sandbox.waiters(), 0);
    holder.finish();
    assert_eq!(sandbox.outsider_tries(&[]), 0);
    let cancelled = runtime.block_on(lock.acquire_cancellable(token.cancelled()));
    assert!(matches!(cancelled, Err(Error::Cancelled { .. })), "also where it is free");
}

#[test]
fn next_in_line_goes_on_when_the_first_gives_up() {
    let sandbox = Sandbox::new();
    let lock = sandbox.lock();
    let runtime = runtime();
    let mut holder = sandbox.hold(&[]);
    let (first, second) = (CancellationToken::new(), CancellationToken::new());
    let spawn = |token: &CancellationToken| {
        let (lock, token) = (lock.clone(), token.clone());
        runtime.spawn(async move { lock.acquire_cancellable(token.cancelled()).await.map(drop) })
    };
    let one = spawn(&first);
    eventually("the first is queued", || sandbox.waiters() == 1);
    let other = spawn(&second);
    first.cancel();
    assert!(runtime.block_on(one).unwrap().is_err());
    eventually("the second is", || sandbox.waiters() == 1);
    holder.finish();
    runtime.block_on(other).unwrap().unwrap();
}
