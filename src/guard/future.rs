//! Waits for a lock in asynchronous code, without a thread: by the runtime's own polling, and in line by its wakers.

use std::{future::poll_fn, pin::pin, task::Poll, time::Duration};

use tokio::{runtime::Handle, time::timeout};

use super::{Acquisition, Guard, lock::Lock};
use crate::{
    error::{Error, Result},
    lock::{Manner, Waiter},
    sys,
};

impl Lock {
    /// Acquires the lock; waits in order of arrival until it is acquired, or the timeout is over, without blocking any thread.
    /// Between its waits, and when the guard is dropped, it reads and writes some small files in place. If an interrupted mutation
    /// is in the way, it recovers that first, in place too, which may take git a while.
    ///
    /// Cancel-safe: dropped at any point, nothing is left of it that could take the lock, however briefly, nobody waits for it,
    /// and no process and no descriptor remains. That takes some short writes, and the end of one process.
    ///
    /// # Errors
    /// As [`Lock::acquire`]; [`Error::Unsupported`] outside of a Tokio runtime.
    ///
    /// # Panics
    /// When it has to wait in a runtime that was built without `enable_io` and `enable_time`.
    ///
    /// # Example
    /// ```
    /// let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    /// let directory = tempfile::tempdir()?;
    /// let lock = repoguard::Lock::of_directory(directory.path())?;
    /// runtime.block_on(async {
    ///     let guard = lock.acquire_async().await?;
    ///     guard.release()
    /// })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn acquire_async(&self) -> Result<Guard> {
        if Handle::try_current().is_err() {
            return Err(Error::Unsupported { what: "an asynchronous acquire outside of a Tokio runtime" });
        }
        if self.request.timeout == Some(Duration::ZERO) {
            return Acquisition::try_once(self, false);
        }
        let mut acquisition = Acquisition::new(self, Manner::Wait)?;
        loop {
            if let Some(guard) = poll_fn(|context| Poll::Ready(acquisition.step(context.waker()))).await? {
                return Ok(guard);
            }
            let pause = acquisition.pause()?;
            // That the pause is over is as good as being woken: everything is looked at again.
            match acquisition.waiter().map(Waiter::event) {
                None => {
                    let ticket = poll_fn(|context| {
                        if acquisition.turn_has_come(context.waker()) { Poll::Ready(()) } else { Poll::Pending }
                    });
                    drop(timeout(pause, ticket).await);
                }
                Some(None) => tokio::time::sleep(pause).await,
                Some(Some(event)) => {
                    if let Ok(ready) = timeout(pause, sys::ready(event)).await {
                        ready.map_err(Error::io("wait for", self.path()))?;
                    }
                }
            }
        }
    }

    /// As [`Lock::acquire_async`], for a guard that no thread or task owns; see [`Lock::acquire_owned`].
    ///
    /// # Errors
    /// As [`Lock::acquire_owned`]; [`Error::Unsupported`] outside of a Tokio runtime.
    ///
    /// # Panics
    /// As [`Lock::acquire_async`].
    pub async fn acquire_owned_async(&self) -> Result<Guard> {
        self.as_owned().acquire_async().await
    }

    /// As [`Lock::acquire_async`], until `cancelled` is ready: any future, for example `CancellationToken::cancelled` of `tokio-util`.
    /// When this returns [`Error::Cancelled`], nothing is left that could take the lock.
    ///
    /// # Errors
    /// [`Error::Cancelled`], also if the lock is free; else as [`Lock::acquire_async`].
    ///
    /// # Panics
    /// As [`Lock::acquire_async`].
    ///
    /// # Example
    /// ```
    /// use repoguard::{Error, Lock};
    ///
    /// let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    /// let directory = tempfile::tempdir()?;
    /// let lock = Lock::of_directory(directory.path())?;
    /// let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    /// drop(stop);
    /// let result = runtime.block_on(lock.acquire_cancellable(async { drop(stopped.await) }));
    /// assert!(matches!(result, Err(Error::Cancelled { .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn acquire_cancellable(&self, cancelled: impl Future<Output = ()>) -> Result<Guard> {
        let mut cancelled = pin!(cancelled);
        let mut acquired = pin!(self.acquire_async());
        // The pending acquire is dropped when this function returns, before anybody sees the result.
        poll_fn(|context| {
            if cancelled.as_mut().poll(context).is_ready() {
                let what = self.plan().map(|plan| plan.what().to_owned()).unwrap_or_default();
                return Poll::Ready(Err(Error::Cancelled { what }));
            }
            acquired.as_mut().poll(context)
        })
        .await
    }
}
