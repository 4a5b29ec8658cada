//! Tells who asks within this process: a task where one runs, else a thread.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use super::task::{self, Task};

/// The owner of a request, which can do nothing else until it has the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Owner {
    Task(Task),
    Thread(thread::ThreadId),
    /// No thread and no task: each such request is an owner of its own.
    Itself(u64),
}

impl Owner {
    /// Differs from every other one.
    pub(crate) fn itself() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Self::Itself(LAST.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn current() -> Self {
        task::current().map_or_else(|| Self::Thread(thread::current().id()), Self::Task)
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Task(task) => write!(f, "task {task}"),
            Self::Itself(number) => write!(f, "owned request {number}"),
            Self::Thread(thread) => {
                let number = format!("{thread:?}");
                write!(f, "thread {}", number.trim_matches(|c: char| !c.is_ascii_digit()))
            }
        }
    }
}
