//! Asks the operating system: Linux, and macOS as far as it goes.
//!
//! Only this module has `cfg` for systems, and only it has `unsafe` code.
//!
//! | part | what |
//! | --- | --- |
//! | `file` | identity, owner and mode of files, opening without following links, FIFOs |
//! | `entry` | FIFOs, and syncing a whole file system |
//! | `child` | reading what a child prints, and looking at one that prints nothing |
//! | `process` | fork, reaping, the machine's name and its clock since boot |
//! | `session` | leaving the session of whoever started us |
//! | `signal` | catching signals into a descriptor that can be polled, sending them, dying of them |
//! | `table` | other processes: who is above and below whom, stopped or ended, started when, runs what; waiting for their end |
//! | `retry` | the schedule of looks and tries that are repeated |
//! | `threads` | work beside other work |
//! | `wait` | polling descriptors |
//! | `helper` | a blocking flock(2) that can be given up |
//! | `ready` | the same polling in asynchronous code |
//! | `locks` | who holds a flock(2), as the kernel tells it without trying the lock |
//! | `output` | whether what is printed can arrive |
//! | `lookup` | what is at many paths below one directory |
//! | `directory` | work on the entries of an open directory, and below it, without following links |
//!
//! # Limitations
//! `locks` comes from `/proc`; without it (macOS), it answers "unknown". `table` comes from `/proc` or from macOS, which knows the
//! start of a process by the wall clock only, and not its directory; any other Unix answers "unknown".

#[cfg(not(unix))]
compile_error!("repoguard runs on Linux, and is compiled for macOS; Windows is not supported yet");

mod retry;
pub(crate) use retry::{Retry, Tries};

mod threads;
pub(crate) use threads::{Beside, beside};

mod unix;
pub(crate) use unix::*;

// It makes raw system calls, which differ from one architecture to the next.
#[cfg(all(target_os = "linux", target_pointer_width = "64", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod helper;
#[cfg(not(all(
    target_os = "linux",
    target_pointer_width = "64",
    any(target_arch = "x86_64", target_arch = "aarch64")
)))]
#[path = "no_helper.rs"]
mod helper;
pub(crate) use helper::FlockHelper;

/// The identity of a file, the same by all its paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct FileId {
    pub(crate) device: u64,
    pub(crate) inode: u64,
}

/// The access for which a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    /// Reading and writing.
    Write,
    /// Reading, and writing at the end.
    Append,
}

/// An event on a descriptor.
#[derive(Clone, Copy)]
pub(crate) enum Event<'a> {
    /// There is something to read, or the other end is closed.
    Readable(FdRef<'a>),
    /// The reader of this writing end is gone.
    ReaderGone(FdRef<'a>),
}

/// A signal that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) signal: i32,
    /// The process that sent it, if one did.
    pub(crate) sender: u32,
    /// Sent by the terminal, and so to the whole foreground process group.
    pub(crate) from_terminal: bool,
}

/// A change of a child process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChildEvent {
    Exited(i32),
    Signaled(i32),
    Stopped,
    Continued,
}

/// Which process we are after a fork.
pub(crate) enum Forked {
    Parent(u32),
    Child,
}

/// A file as stat(2) and as the kernel's table of locks name it. On btrfs and overlayfs the devices differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LockId {
    pub(crate) file: FileId,
    /// `None` if the system does not show it.
    pub(crate) kernel: Option<FileId>,
}

/// A mounted file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountedFs {
    /// Its type: `ext4`, `fuse.sshfs`, `9p`.
    pub(crate) kind: String,
    /// The options of the mount and of the file system.
    pub(crate) options: Vec<String>,
    /// The device of its superblock.
    pub(crate) device: u64,
}

/// A flock(2) that the kernel shows: its taker, and whether it is exclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KernelLock {
    pub(crate) file: FileId,
    pub(crate) pid: u32,
    pub(crate) exclusive: bool,
}

/// The kernel's view of the flocks on some files.
pub(crate) struct KernelLocks {
    pub(crate) locks: Vec<KernelLock>,
    /// Whether no lock can be missing.
    pub(crate) complete: bool,
    /// Whether the table can name all the files that were asked for.
    pub(crate) named: bool,
}

/// A process that has a file open for writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Writer {
    pub(crate) file: FileId,
    pub(crate) pid: u32,
    /// Whether a program that it runs gets the open file, too: not what Rust's library has opened.
    pub(crate) is_inheritable: bool,
}

/// An entry; links are not followed. Times and inode as git's index keeps them: the lower 32 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    /// Kind and permission bits, as in `st_mode`.
    pub(crate) mode: u32,
    pub(crate) links: u64,
    /// Seconds and nanoseconds of the last change of the inode.
    pub(crate) ctime: (u32, u32),
    /// Seconds and nanoseconds of the last change of the content.
    pub(crate) mtime: (u32, u32),
    pub(crate) inode: u32,
    /// User and group.
    pub(crate) owner: (u32, u32),
    pub(crate) size: u64,
}

impl Found {
    /// Kind, without permission bits.
    pub(crate) fn kind(&self) -> u32 {
        self.mode & KIND
    }

    /// Permission bits.
    pub(crate) fn permissions(&self) -> u32 {
        self.mode & !KIND
    }

    pub(crate) fn is_dir(&self) -> bool {
        self.kind() == DIRECTORY
    }

    pub(crate) fn is_file(&self) -> bool {
        self.kind() == REGULAR
    }

    pub(crate) fn is_link(&self) -> bool {
        self.kind() == LINK
    }

    pub(crate) fn is_fifo(&self) -> bool {
        self.kind() == FIFO
    }

    pub(crate) fn is_socket(&self) -> bool {
        self.kind() == SOCKET
    }

    /// The kind of the entry, in words.
    pub(crate) fn name(&self) -> &'static str {
        match self.kind() {
            REGULAR => "a regular file",
            DIRECTORY => "a directory",
            LINK => "a symbolic link",
            FIFO => "a FIFO",
            SOCKET => "a socket",
            _ => "a device",
        }
    }
}

/// The bits of a mode that tell a file's kind, and the kinds.
pub(crate) const KIND: u32 = 0o170_000;
pub(crate) const REGULAR: u32 = 0o100_000;
pub(crate) const LINK: u32 = 0o120_000;
pub(crate) const DIRECTORY: u32 = 0o040_000;
pub(crate) const FIFO: u32 = 0o010_000;
pub(crate) const SOCKET: u32 = 0o140_000;

/// Why a path does not stay below its directory; `None` if it does.
pub(crate) fn why_outside(path: &[u8]) -> Option<&'static str> {
    if path.contains(&0) {
        return Some("it holds a NUL");
    }
    let mut names = path.split(|byte| *byte == b'/');
    match () {
        () if path.starts_with(b"/") => Some("it is absolute"),
        () if names.clone().any(|name| name == b"..") => Some("it leads upwards"),
        () if names.any(|name| name.is_empty() || name == b".") => Some("it has an empty component"),
        () => None,
    }
}

/// The user that this process acts as, for a record: the system's name. Another name in the environment is only an addition.
pub(crate) fn acting_user() -> String {
    named(effective_user_name(), crate::env::user())
}

fn named(system: String, environment: Option<String>) -> String {
    match environment {
        Some(claimed) if system.is_empty() => claimed,
        Some(claimed) if claimed != system => crate::holder::readable(&format!("{system} (USER={claimed})")),
        _ => system,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environment_only_adds_to_the_name_of_the_user() {
        for (system, environment, name) in [
            ("root", None, "root"),
            ("root", Some("root"), "root"),
            ("root", Some("alice"), "root (USER=alice)"),
            ("1234", Some("alice"), "1234 (USER=alice)"),
            ("", Some("alice"), "alice"),
        ] {
            assert_eq!(named(system.to_owned(), environment.map(str::to_owned)), name);
        }
    }
}
