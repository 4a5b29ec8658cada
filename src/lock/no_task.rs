//! Knows no tasks, because this library was built without the feature `tokio`.

/// A task's number; there is none.
pub(super) type Task = std::convert::Infallible;

/// The task that runs here, if one does.
pub(super) fn current() -> Option<Task> {
    None
}

/// Tells whether all tasks around us stand still while this thread is blocked.
pub(super) fn shares_one_thread() -> bool {
    false
}
