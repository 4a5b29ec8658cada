//! Tells who asks within this process: a task where one runs, else a thread.

use std::{fmt, thread};

use super::task::{self, Task};

/// Who asked for a lock, and can do nothing else until it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Owner {
    Task(Task),
    Thread(thread::ThreadId),
}

impl Owner {
    pub(super) fn current() -> Self {
        task::current().map_or_else(|| Self::Thread(thread::current().id()), Self::Task)
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Task(task) => write!(f, "task {task}"),
            Self::Thread(thread) => {
                let number = format!("{thread:?}");
                write!(f, "thread {}", number.trim_matches(|c: char| !c.is_ascii_digit()))
            }
        }
    }
}
