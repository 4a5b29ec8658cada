//! Maps each outcome to its exit status: the table of the manual, in one place.

use std::process::ExitCode;

use repoguard::Error;

/// The honest "no" of a command that asks a question.
pub(super) const NO: u8 = 1;
/// A usage error.
pub(super) const USAGE: u8 = 2;
/// `status` cannot tell.
pub(super) const CANNOT_TELL: u8 = 3;
/// Validation failed: the state is not what it was, or not what it should be.
pub(super) const INVALID: u8 = 65;
/// Locks do not work on this file system.
pub(super) const UNAVAILABLE: u8 = 69;
/// Not acquired in time.
pub(super) const BUSY: u8 = 75;
/// The lock was lost: not exclusive to the end.
pub(super) const LOST: u8 = 76;
/// repoguard itself failed.
pub(super) const FAILED: u8 = 125;

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    /// With this status.
    Status(u8),
    /// Of this signal, as the command did.
    Signal(i32),
}

impl Exit {
    pub(super) const OK: Self = Self::Status(0);

    pub(super) fn end(self) -> ExitCode {
        match self {
            Self::Status(status) => ExitCode::from(status),
            Self::Signal(signal) => {
                repoguard::program::die_of(signal);
                ExitCode::from(status(128 + signal))
            }
        }
    }
}

/// A usage error that only shows after parsing.
#[derive(Debug)]
pub(super) struct Usage(pub(super) String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// A status as the system takes it.
pub(super) fn status(status: i32) -> u8 {
    u8::try_from(status & 0xff).unwrap_or(FAILED)
}

/// The status of an error.
pub(super) fn of(error: &anyhow::Error) -> u8 {
    if error.is::<Usage>() {
        return USAGE;
    }
    error.downcast_ref().map_or(FAILED, of_error)
}

/// The word for the outcome of an error, in what is printed for programs.
pub(super) fn outcome(error: &anyhow::Error) -> &'static str {
    match error.downcast_ref() {
        Some(Error::Deadlock { .. }) => "deadlock",
        Some(Error::Interrupted { .. }) => "interrupted",
        _ => match of(error) {
            NO => "no",
            USAGE => "usage",
            INVALID => "invalid",
            UNAVAILABLE => "unavailable",
            BUSY => "busy",
            _ => "failed",
        },
    }
}

/// The status of an error of the library's.
pub(super) fn of_error(error: &Error) -> u8 {
    match error {
        Error::Malformed { .. } | Error::BranchName { .. } | Error::BadValue { .. } => USAGE,
        Error::ChangedMeanwhile { .. }
        | Error::UnexpectedHead { .. }
        | Error::SwitchedHead { .. }
        | Error::Unfinished { .. }
        | Error::BadRecord { .. }
        | Error::Foreign { .. }
        | Error::NotAsExpected { .. } => INVALID,
        Error::NoSnapshot { .. }
        | Error::AmbiguousSnapshot { .. }
        | Error::NotKept { .. }
        | Error::UnsafePath { .. } => NO,
        Error::Busy { .. } | Error::GitBusy { .. } | Error::RecordBusy { .. } | Error::Deadlock { .. } => BUSY,
        Error::NoLocks { .. } | Error::HeldElsewhere { .. } => UNAVAILABLE,
        Error::Interrupted { signal, .. } => status(128 + signal),
        _ => FAILED,
    }
}
