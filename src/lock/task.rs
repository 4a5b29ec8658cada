//! Tells which task of a Tokio runtime runs here.

use tokio::runtime::{Handle, RuntimeFlavor};

/// A task's number.
pub(super) type Task = tokio::task::Id;

/// The task that runs here, if one does.
pub(super) fn current() -> Option<Task> {
    tokio::task::try_id()
}

/// Tells whether all tasks around us stand still while this thread is blocked.
pub(super) fn shares_one_thread() -> bool {
    Handle::try_current().is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::CurrentThread)
}
