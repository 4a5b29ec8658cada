//! Runs work beside other work. If the system gives no more threads, that is a delay, not a panic.

use std::{
    panic,
    thread::{Builder, Scope, ScopedJoinHandle},
};

/// Work in a thread of its own, or done already.
pub(crate) enum Beside<'scope, T> {
    Thread(ScopedJoinHandle<'scope, T>),
    Done(T),
}

/// Does `work` beside what the caller does next, or at once if there can be no thread. So `work` must not wait for the caller.
pub(crate) fn beside<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    work: impl FnOnce() -> T + Copy + Send + 'scope,
) -> Beside<'scope, T> {
    Builder::new().spawn_scoped(scope, work).map_or_else(|_| Beside::Done(work()), Beside::Thread)
}

impl<T> Beside<'_, T> {
    /// Blocks until the work is done.
    pub(crate) fn join(self) -> T {
        match self {
            Self::Thread(thread) => thread.join().unwrap_or_else(|panic| panic::resume_unwind(panic)),
            Self::Done(done) => done,
        }
    }
}
