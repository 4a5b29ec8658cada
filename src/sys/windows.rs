//! What Windows fulfils of the contract of [`crate::sys`]: files, and nothing else yet.
//!
//! # What is missing
//! There is no fork, so there is no keeper that would hold the lock when repoguard is killed; there are no FIFOs for the
//! queue's tickets, no signals to pass on, no descriptors that a command inherits by just being started, no table of
//! processes, and no flock(2). Each answers [`io::ErrorKind::Unsupported`] where it can fail, and "unknown" where it tells
//! something.
//!
//! # What follows for the user
//! - `exec` does not work at all: it ends with an error before it takes the lock or writes anything, so no command ever
//!   runs on Windows in the belief that it holds.
//! - `status` shows the records that are there, but never says "free" of a lock whose file exists: whoever holds runs
//!   under another system (in WSL, or at the other end of a network share), and its lock is not seen from here. For the
//!   same reason it takes the record of such a holder for that of one that died.
//! - `log` reads what is there; help, completions and the manual need nothing of this module.
//! - What Windows calls permissions and owners is left as it is; `core.sharedRepository` has no effect.
//!
//! # Limitations
//! All this is compiled, and has never been run.
//!
//! Before `exec` may be let in, [`identity`] must become a file's volume and index. `LockFileEx` keeps others from
//! reading what it locks, so that a held record could not be read; a lock must then stand beside the record.

use std::{
    borrow::Cow,
    convert::Infallible,
    ffi::{OsStr, OsString},
    fs::{File, Metadata, OpenOptions},
    io,
    os::windows::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, ExitStatus, Output},
    time::Duration,
};

use crate::sys::{ChildEvent, Event, FileId, Forked, KernelLocks, LockId, MountedFs, Received};

fn unsupported<T>(what: &str) -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::Unsupported, format!("repoguard cannot run commands on Windows yet: {what}")))
}

// Descriptors and waiting.

/// A descriptor that can be polled. There is none: nothing makes one, and what needs one never runs.
#[derive(Debug)]
pub(crate) struct Fd(Infallible);
/// A borrowed descriptor.
pub(crate) type FdRef<'a> = &'a Fd;
/// A descriptor as a number: there are none.
pub(crate) type FdNumber = i32;
/// One end of a connection between two processes of ours.
pub(crate) type Channel = Fd;

impl Drop for Fd {
    fn drop(&mut self) {
        match self.0 {}
    }
}

impl io::Read for Fd {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        match self.0 {}
    }
}

impl io::Write for Fd {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        match self.0 {}
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.0 {}
    }
}

/// Makes a connection.
pub(crate) fn channel() -> io::Result<(Channel, Channel)> {
    unsupported("there are no connections between processes")
}

/// Borrows a descriptor.
pub(crate) fn fd(file: &Fd) -> FdRef<'_> {
    file
}

/// The number of a descriptor: it has none.
pub(crate) fn number<T>(_: &T) -> FdNumber {
    -1
}

/// The session that this process belongs to: not asked for.
pub(crate) fn session() -> u32 {
    0
}

/// For the child of a fork: there is none.
pub(crate) fn leave_session(_keep: &[FdNumber]) {}

pub(crate) fn leave_streams() -> io::Result<()> {
    Ok(())
}

/// Replaces this process by a command: runs it, and ends as it did.
pub(crate) fn replace_by(mut command: std::process::Command) -> io::Error {
    match command.status() {
        Ok(status) => exit_now(status.code().unwrap_or(1)),
        Err(error) => error,
    }
}

/// Waits until the time is over, which is all that can happen; without events and time nothing would.
pub(crate) fn poll(events: &[Event<'_>], timeout: Option<Duration>) -> io::Result<Vec<bool>> {
    if let Some(Event::Readable(fd) | Event::ReaderGone(fd)) = events.first() {
        match fd.0 {}
    }
    let Some(timeout) = timeout else { return unsupported("nothing can be waited for") };
    std::thread::sleep(timeout);
    Ok(Vec::new())
}

/// Waits until the event may have happened; there is none.
#[cfg(feature = "tokio")]
pub(crate) async fn ready(event: Event<'_>) -> io::Result<()> {
    let (Event::Readable(fd) | Event::ReaderGone(fd)) = event;
    match fd.0 {}
}

// Files.

/// `FILE_FLAG_OPEN_REPARSE_POINT` of `CreateFileW`: opens a link itself.
const NO_FOLLOW: u32 = 0x0020_0000;
/// `FILE_FLAG_BACKUP_SEMANTICS` of `CreateFileW`: opens directories, too.
const DIRECTORY: u32 = 0x0200_0000;
/// 1970 in the units of 100 ns since 1601 that Windows counts.
const EPOCH: i128 = 116_444_736_000_000_000;
/// `ERROR_INVALID_PARAMETER`, which `LockFileEx` says of a directory.
const INVALID_PARAMETER: i32 = 87;

/// Makes an open not follow a link in the last component.
pub(crate) fn open_warily(options: &mut OpenOptions) -> &mut OpenOptions {
    options.custom_flags(NO_FOLLOW)
}

/// Opens a directory.
pub(crate) fn open_directory(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(DIRECTORY).open(path)?;
    if file.metadata()?.is_dir() { Ok(file) } else { Err(io::ErrorKind::NotADirectory.into()) }
}

/// Says that the descriptor is of a kind that cannot be locked: a directory's.
pub(crate) fn cannot_lock_descriptor(error: &io::Error) -> bool {
    error.raw_os_error() == Some(INVALID_PARAMETER)
}

/// Tells whether a path is on a file system in user space: not asked for.
pub(crate) fn is_fuse(_path: &Path) -> bool {
    false
}

/// Tells whether programs on a file system cannot be run: always they can.
pub(crate) fn is_noexec(_path: &Path) -> bool {
    false
}

/// Says that a file cannot belong to the user that it was given to.
pub(crate) fn is_owner_error(_error: &io::Error) -> bool {
    false
}

/// Says that the file may be read but not written here.
pub(crate) fn is_read_only_error(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

/// Says that a file is a script for the shell: there is none.
pub(crate) fn is_format_error(_: &io::Error) -> bool {
    false
}

/// Identity of a file, as far as std tells it: its time of creation.
///
/// std keeps volume and index for itself (`windows_by_handle`). The length is of no use, because it changes as a record is
/// written. Two files made within 100 ns look the same, and so does a file made within 15 seconds of the removal of
/// another of its name: Windows gives it the same time of creation. Good enough to show, too little to lock by.
pub(crate) fn identity(metadata: &Metadata) -> FileId {
    FileId { device: 0, inode: metadata.creation_time() }
}

/// What a file is, in words.
pub(crate) fn kind(metadata: &Metadata) -> &'static str {
    let kind = metadata.file_type();
    match () {
        () if kind.is_file() => "a regular file",
        () if kind.is_dir() => "a directory",
        () if kind.is_symlink() => "a symbolic link",
        () => "something unknown",
    }
}

/// Modification time in nanoseconds since 1970, size and time of creation: what changes when a file is rewritten.
pub(crate) fn stamp(metadata: &Metadata) -> (i128, u64, u64) {
    ((i128::from(metadata.last_write_time()) - EPOCH) * 100, metadata.len(), metadata.creation_time())
}

/// When the file was made (which git takes for the change of an inode) and when its content was changed last: seconds
/// since 1970, and nanoseconds.
pub(crate) fn times(metadata: &Metadata) -> [(i64, i64); 2] {
    [metadata.creation_time(), metadata.last_write_time()].map(|time| {
        // As many bits as a time has there: none is lost.
        let since = i64::try_from(i128::from(time) - EPOCH).unwrap_or_default();
        (since.div_euclid(10_000_000), since.rem_euclid(10_000_000) * 100)
    })
}

/// Permission bits: none that would mean anything.
pub(crate) fn mode(_: &Metadata) -> u32 {
    0
}

/// Owner and group: the same for all files.
pub(crate) fn owner(_: &Metadata) -> (u32, u32) {
    (0, 0)
}

/// The user that files are created as: the same for all.
pub(crate) fn effective_user() -> u32 {
    0
}

/// Name of the user that files are created as; only the environment tells.
pub(crate) fn effective_user_name() -> String {
    String::new()
}

/// Name of a user; users have no numbers.
pub(crate) fn user_name(_uid: u32) -> Option<String> {
    None
}

/// Tells whether this user may run a file: whoever sees it may.
pub(crate) fn may_execute(path: &Path) -> bool {
    path.exists()
}

/// Reads at the start of a file. Moves its position, which nobody uses: appending goes to the end all the same.
pub(crate) fn read_start(file: &File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.seek_read(&mut buffer[filled..], filled as u64)? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}

/// Reads the byte at an offset, if the file reaches so far.
pub(crate) fn byte_at(file: &File, offset: u64) -> io::Result<Option<u8>> {
    let mut byte = [0];
    Ok((file.seek_read(&mut byte, offset)? == 1).then_some(byte[0]))
}

/// Overwrites the start of a file, with one write as a rule.
pub(crate) fn write_start(file: &File, bytes: &[u8]) -> io::Result<()> {
    let mut written = 0;
    while written < bytes.len() {
        match file.seek_write(&bytes[written..], written as u64)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            more => written += more,
        }
    }
    Ok(())
}

/// Tells whether something is a FIFO: there are none.
pub(crate) fn is_fifo(_: &Metadata) -> bool {
    false
}

/// Writes what was written to a file to disk; a whole file system cannot be told to.
pub(crate) fn sync_file_system(file: &File) -> io::Result<()> {
    file.sync_all()
}

/// There is no such descriptor.
pub(crate) fn end_of_child(_child: u32) -> Option<Fd> {
    None
}

/// Opens the reading end of a FIFO.
pub(crate) fn open_fifo_reader(_: &Path) -> io::Result<Fd> {
    unsupported("there are no FIFOs to wait in line with")
}

/// Opens the writing end of a FIFO. Never `None`: whether anybody waits in another system cannot be told from here.
pub(crate) fn open_fifo_writer(_: &Path) -> io::Result<Option<Fd>> {
    unsupported("there are no FIFOs to wait in line with")
}

/// Makes a copy of a descriptor that commands inherit.
pub(crate) fn inheritable_copy(_: &File) -> io::Result<Fd> {
    unsupported("a lock cannot be handed down to a command")
}

/// A path's bytes; what is no Unicode becomes U+FFFD.
pub(crate) fn bytes(text: &OsStr) -> Cow<'_, [u8]> {
    match text.to_string_lossy() {
        Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
        Cow::Owned(text) => Cow::Owned(text.into_bytes()),
    }
}

// Processes.

// What a fork and a child would tell is never told here; this says so to the compiler.
const _: [Forked; 2] = [Forked::Parent(0), Forked::Child];
const _: [ChildEvent; 4] = [ChildEvent::Exited(0), ChildEvent::Signaled(0), ChildEvent::Stopped, ChildEvent::Continued];

/// Splits this process in two.
pub(crate) fn fork() -> io::Result<Forked> {
    unsupported("there is no fork")
}

/// Ends this process at once: the end of a forked child, of which there is none.
#[expect(
    clippy::exit,
    clippy::disallowed_methods,
    reason = "std has no other end without destructors and without a report"
)]
pub(crate) fn exit_now(status: i32) -> ! {
    std::process::exit(status)
}

/// Leaves orphans alone.
pub(crate) fn adopt_orphans() {}

/// Takes one change of any child: only std's own handles tell of those.
pub(crate) fn next_child_event() -> Option<(u32, ChildEvent)> {
    None
}

/// Waits for a child: only std's own handles can.
pub(crate) fn reap(_pid: u32) {}

/// The process that started us: not known.
pub(crate) fn parent() -> u32 {
    0
}

/// Tells whether a file is on a file system of this machine alone: not known.
pub(crate) fn is_local(_: &Path) -> bool {
    false
}

/// Tells whether another file system is mounted in a directory or below it: not known.
pub(crate) fn has_mounts(_directory: &Path) -> bool {
    false
}

/// Runs `action` in a child: there is no fork.
pub(crate) fn status_of_child(_patience: Duration, _action: impl FnOnce() -> i32) -> io::Result<Option<i32>> {
    unsupported("there is no fork")
}

/// Name of this machine: not known, since only the environment tells.
pub(crate) fn host() -> String {
    String::new()
}

/// Number of the pid namespace: there are none.
pub(crate) fn pid_namespace() -> u64 {
    0
}

/// Number of the time namespace: there is none.
pub(crate) fn time_namespace() -> u64 {
    0
}

/// Tells whether pids of other processes mean something here: they are not looked up.
pub(crate) fn can_compare_pids() -> bool {
    false
}

/// Tells whether this process has any child: it starts none that it could tell of.
pub(crate) fn has_children() -> bool {
    true
}

/// Tells whether a process is stopped: not known.
pub(crate) fn is_halted(_pid: u32) -> Option<bool> {
    None
}

/// Tells whether a pid namespace has ended: there are none.
pub(crate) fn pid_namespace_has_ended(_namespace: u64, _boot_ms: u64) -> bool {
    false
}

/// Tells whether this process is shown all locks: it is shown none.
pub(crate) fn sees_all_locks() -> bool {
    false
}

/// Tells whether processes that this one cannot see may use a file: it sees none.
pub(crate) fn outsiders_may_use(_: &Path) -> bool {
    true
}

/// Milliseconds since the machine's boot: not known.
pub(crate) fn boot_ms() -> u64 {
    0
}

/// What is known of a process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ProcessState {
    pub(crate) parent: u32,
    pub(crate) start: u64,
    pub(crate) started_ms: u64,
    pub(crate) stopped: bool,
    pub(crate) zombie: bool,
}

/// Reads the state of a process: only this one is sure to run.
pub(crate) fn process_state(pid: u32) -> Option<ProcessState> {
    let state = ProcessState { parent: 0, start: 0, started_ms: 0, stopped: false, zombie: false };
    (pid == std::process::id()).then_some(state)
}

/// Tells whether a process still runs. `None`: cannot tell.
pub(crate) fn still_runs(pid: u32, _boot_ms: u64) -> Option<bool> {
    process_state(pid).map(|_| true)
}

/// Tells whether a process certainly started before a moment: not known.
pub(crate) fn started_before(_pid: u32, _boot_ms: u64) -> bool {
    false
}

/// All processes: only this one is known.
pub(crate) fn all_processes() -> Vec<u32> {
    vec![std::process::id()]
}

/// The processes above this one: not known.
pub(crate) fn ancestors() -> impl Iterator<Item = u32> {
    std::iter::empty()
}

/// The processes above another one: not known.
pub(crate) fn ancestors_of(_pid: u32) -> impl Iterator<Item = u32> {
    std::iter::empty()
}

/// The children of a process: not known.
pub(crate) fn children(_parent: u32) -> Vec<u32> {
    Vec::new()
}

/// All processes below one: not known.
pub(crate) fn descendants(_root: u32) -> Vec<u32> {
    Vec::new()
}

/// The command line of another process: not known.
pub(crate) fn command_line(_pid: u32) -> Option<Vec<String>> {
    None
}

/// The user that another process runs as: not known.
pub(crate) fn process_owner(_pid: u32) -> Option<u32> {
    None
}

/// The directory of another process: not known.
pub(crate) fn working_directory(_pid: u32) -> Option<PathBuf> {
    None
}

/// The program that another process runs: not known.
pub(crate) fn executable(_pid: u32) -> Option<PathBuf> {
    None
}

/// A process that may not be our child. A keeper has one, and there is no keeper.
pub(crate) struct Process(u32);

impl Process {
    /// Takes hold of a process.
    pub(crate) fn open(pid: u32) -> Self {
        Self(pid)
    }

    /// The same process.
    pub(crate) fn reopened(&self) -> Self {
        Self(self.0)
    }

    /// Happens when it has ended: there is no handle for that.
    #[expect(clippy::unused_self, reason = "it is known on other systems")]
    pub(crate) fn end(&self) -> Option<Event<'_>> {
        None
    }

    /// Its number.
    pub(crate) fn pid(&self) -> u32 {
        self.0
    }

    /// Tells whether it is known to have ended: a lock is not let go on a guess.
    pub(crate) fn has_ended(&self) -> bool {
        still_runs(self.0, boot_ms()) == Some(false)
    }

    /// Tells whether it is known to be stopped.
    pub(crate) fn is_stopped(&self) -> bool {
        process_state(self.0).is_some_and(|state| state.stopped)
    }

    /// Waits until it has ended, a signal has come, or the time is over.
    pub(crate) fn wait(&self, signals: &Signals, _timeout: Option<Duration>) {
        if !self.has_ended() {
            match signals.never {}
        }
    }

    /// It and all processes below it, as far as they are known.
    pub(crate) fn tree(&self) -> Vec<u32> {
        std::iter::once(self.0).chain(descendants(self.0)).collect()
    }
}

// Locks, as the kernel tells who holds them.

/// The holders of a file's lock: not known.
pub(crate) fn kernel_locks(_: &[LockId]) -> KernelLocks {
    KernelLocks { locks: Vec::new(), complete: false, named: true }
}

/// How the system's table of locks names an open file: there is no such table.
pub(crate) fn lock_id(_file: &File, file: FileId) -> LockId {
    LockId { file, kernel: Some(file) }
}

/// The mounted file system that a path is on: not shown.
pub(crate) fn mounted_at(_path: &Path) -> Option<MountedFs> {
    None
}

/// The same for a file that is not open; `None` if it is missing.
pub(crate) fn lock_id_at(path: &Path) -> Option<LockId> {
    let file = identity(&std::fs::symlink_metadata(path).ok()?);
    Some(LockId { file, kernel: Some(file) })
}

/// The locks that this process inherited: it inherits none.
pub(crate) fn own_descriptor_locks(
    _: FileId,
    _except: &dyn Fn(FdNumber) -> bool,
    _is_exclusive: impl FnOnce() -> bool,
) -> Vec<bool> {
    Vec::new()
}

/// The user who owns an open file: not known.
pub(crate) fn owner_of(_file: &Fd) -> Option<u32> {
    None
}

/// How many names a file has: not known.
pub(crate) fn links(_metadata: &Metadata) -> u64 {
    1
}

/// The locks of another process: not known.
pub(crate) fn locks_of_process(_pid: u32, _file: FileId) -> Vec<bool> {
    Vec::new()
}

/// Whether the system shows what processes have open.
pub(crate) const SHOWS_OPEN_FILES: bool = false;

/// Tells whether a process has a file open: not known.
pub(crate) fn has_open(_pid: u32, _file: FileId) -> Option<bool> {
    None
}

/// The files that another process has locked: not known.
pub(crate) fn locked_files(_pid: u32) -> Vec<std::path::PathBuf> {
    Vec::new()
}

/// All processes that hold a lock by an inherited descriptor: not known.
pub(crate) fn descriptor_holders(_: FileId) -> Vec<u32> {
    Vec::new()
}

/// Leases: there are none.
pub(crate) const LEASE_BREAKS: i32 = 29;

pub(crate) fn lease(_: &File) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(crate) fn lease_breaks(_: &File) -> bool {
    true
}

/// Whether anybody has a file open for writing: not known.
pub(crate) fn is_written(_: &File) -> Option<bool> {
    None
}

/// The processes that have one of these files open for writing: not known.
pub(crate) fn writers(_: &std::collections::HashSet<FileId>) -> Vec<super::Writer> {
    Vec::new()
}

// Signals. The numbers are Linux's: they stand in records and statuses only.

pub(crate) const INTERRUPTS: &[i32] = &[];
pub(crate) fn forwarded() -> impl Iterator<Item = i32> {
    std::iter::empty()
}
pub(crate) const DIE_OF: &[i32] = &[];
pub(crate) const STOPS: &[i32] = &[];
pub(crate) const CHILD_CHANGED: i32 = 17;
pub(crate) const TERMINATE: i32 = 15;
pub(crate) const KILL: i32 = 9;
pub(crate) const STOP: i32 = 19;
pub(crate) const CONTINUE: i32 = 18;

/// Signals of this process. Opening them is the first thing that running a command needs, and it fails here.
pub(crate) struct Signals {
    never: Infallible,
    pub(crate) inheritance: Inheritance,
}

impl Signals {
    pub(crate) fn open() -> io::Result<Self> {
        unsupported("there is no fork")
    }

    pub(crate) fn catch(&self, _signals: impl IntoIterator<Item = i32>) {
        match self.never {}
    }

    pub(crate) fn insist(&self, _signals: &[i32]) {
        match self.never {}
    }

    pub(crate) fn interrupt(&self) -> Option<i32> {
        match self.never {}
    }

    pub(crate) fn for_child(&self) -> io::Result<Self> {
        match self.never {}
    }

    pub(crate) fn fd(&self) -> FdRef<'_> {
        match self.never {}
    }

    pub(crate) fn take(&self) -> Vec<Received> {
        match self.never {}
    }
}

/// How a command finds its signals; part of what cannot be opened.
#[derive(Clone, Copy)]
pub(crate) struct Inheritance(Infallible);

impl Inheritance {
    pub(crate) fn is_usual(self) -> bool {
        match self.0 {}
    }

    pub(crate) fn hand_down(self, _: &mut Command) {
        match self.0 {}
    }
}

/// Makes a write beyond a limit fail, as every such write does here.
pub(crate) fn prepare_signals() {}

/// Sends a signal to one process; tells whether it was sent.
pub(crate) fn send(_pid: u32, _signal: i32) -> bool {
    false
}

/// Ends this process by a signal: returns, as where the signal is blocked.
pub(crate) fn die_of(_signal: i32) {}

/// Runs `action`, which no signal can interrupt.
pub(crate) fn with_signals_blocked<T>(action: impl FnOnce() -> T) -> T {
    action()
}

/// Names of all that is in a directory, those that are Unicode; none where it cannot be read.
pub(crate) fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// A directory to look below.
pub(crate) struct Below(std::convert::Infallible);

impl Below {
    pub(crate) fn open(_root: &Path) -> io::Result<Self> {
        unsupported("files have no permission bits that could be put back")
    }

    pub(crate) fn look(&mut self, _path: &[u8]) -> io::Result<Option<super::Found>> {
        match self.0 {}
    }
}

/// Leaves a command that is about to be started where it is.
pub(crate) fn own_group(_command: &mut Command) {}

/// Looks at a quiet child, by its pid.
pub(crate) type Look = fn(u32) -> io::Result<()>;

/// The output of a running child.
pub(crate) type Printed = ChildStdout;

/// Takes the output of a child to read.
pub(crate) fn printed_by(child: &mut Child, _look: Look) -> Option<Printed> {
    child.stdout.take()
}

/// Waits for a child and collects what it prints.
pub(crate) fn output_of(child: Child, _look: Look) -> io::Result<Output> {
    child.wait_with_output()
}

/// Waits for the end of a child.
pub(crate) fn end_of_child(child: &mut Child, _look: Look) -> io::Result<ExitStatus> {
    child.wait()
}

/// Tells whether a process waits for a FIFO: there are none.
pub(crate) fn waits_for_fifo(_pid: u32) -> bool {
    false
}

/// Tells whether a command died because nobody read what it printed.
pub(crate) fn is_broken_pipe(_status: std::process::ExitStatus) -> bool {
    false
}

/// Nothing is known beforehand: a failed write tells.
#[expect(clippy::unnecessary_wraps, reason = "as the contract has it")]
pub(crate) fn check_output() -> io::Result<()> {
    Ok(())
}

/// Whether names that differ in case only may lead to one file.
pub(crate) const FOLDS_NAMES: bool = true;

/// A path from its bytes.
pub(crate) fn name_of(bytes: &[u8]) -> OsString {
    String::from_utf8_lossy(bytes).into_owned().into()
}

/// Opens a file for reading that may be anything; links are followed.
pub(crate) fn open_without_blocking(path: &Path) -> io::Result<File> {
    File::open(path)
}

/// Leaves a file's permissions to what it inherits from its directory.
#[expect(clippy::unnecessary_wraps, reason = "it can fail on other systems")]
pub(crate) fn set_mode<T>(_: &T, _mode: u32) -> io::Result<()> {
    Ok(())
}

/// Does nothing: this system has other owners.
#[expect(clippy::unnecessary_wraps, reason = "it can fail on other systems")]
pub(crate) fn give_to<T>(_: &T, _owner: (u32, u32)) -> io::Result<()> {
    Ok(())
}

/// Tells whether an error says that something is a link: nothing here says so.
pub(crate) fn is_link_error(_: &io::Error) -> bool {
    false
}

/// Opens a file without following any link: not in one call.
pub(crate) fn open_unlinked(_: &Path, _: super::Access) -> Option<io::Result<File>> {
    None
}

/// A directory, by its path: nothing keeps others from putting another one in its place.
#[derive(Debug)]
pub(crate) struct Directory(PathBuf);

impl Directory {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        if std::fs::metadata(path)?.is_dir() {
            Ok(Self(path.to_owned()))
        } else {
            Err(io::ErrorKind::NotADirectory.into())
        }
    }

    /// The directory below, if no link is on the way.
    pub(crate) fn below(&self, path: &Path) -> io::Result<Self> {
        if let Some(why) = super::why_outside(&bytes(path.as_os_str())) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let mut directory = self.0.clone();
        for name in path {
            directory.push(name);
            if !std::fs::symlink_metadata(&directory)?.is_dir() {
                return Err(io::ErrorKind::NotADirectory.into());
            }
        }
        Ok(Self(directory))
    }

    pub(crate) fn pin(&self, name: &OsStr) -> io::Result<File> {
        OpenOptions::new().read(true).custom_flags(DIRECTORY | NO_FOLLOW).open(self.0.join(name))
    }

    pub(crate) fn pin_itself(&self) -> io::Result<File> {
        open_directory(&self.0)
    }

    pub(crate) fn look(&self, name: &OsStr) -> io::Result<super::Found> {
        std::fs::symlink_metadata(self.0.join(name)).map(|metadata| found(&metadata))
    }

    pub(crate) fn found(&self) -> io::Result<super::Found> {
        std::fs::metadata(&self.0).map(|metadata| found(&metadata))
    }

    pub(crate) fn read(&self, name: &OsStr) -> io::Result<File> {
        self.open_file(name, super::Access::Read)
    }

    pub(crate) fn open_file(&self, name: &OsStr, access: super::Access) -> io::Result<File> {
        use super::Access::{Append, Read, Write};
        let mut options = OpenOptions::new();
        options.read(true).write(access == Write).append(access == Append).custom_flags(NO_FOLLOW);
        match access {
            Read | Write | Append => options.open(self.0.join(name)),
        }
    }

    pub(crate) fn create(&self, name: &OsStr, _mode: u32) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).create_new(true).open(self.0.join(name))
    }

    pub(crate) fn read_link(&self, name: &OsStr) -> io::Result<PathBuf> {
        std::fs::read_link(self.0.join(name))
    }

    pub(crate) fn names(&self) -> io::Result<Vec<OsString>> {
        std::fs::read_dir(&self.0)?.map(|entry| Ok(entry?.file_name())).collect()
    }

    pub(crate) fn each_entry(&self, mut tell: impl FnMut(&OsStr, bool)) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.0)? {
            let entry = entry?;
            tell(&entry.file_name(), entry.file_type()?.is_dir());
        }
        Ok(())
    }

    pub(crate) fn directory_names(&self) -> io::Result<Vec<OsString>> {
        let directories = std::fs::read_dir(&self.0)?.flatten().filter(|entry| entry.path().is_dir());
        Ok(directories.map(|entry| entry.file_name()).collect())
    }

    #[expect(clippy::unnecessary_wraps, clippy::unused_self, reason = "it can fail on other systems")]
    pub(crate) fn special_names(&self) -> io::Result<Vec<OsString>> {
        Ok(Vec::new())
    }

    pub(crate) fn rename(&self, name: &OsStr, to: &Self, to_name: &OsStr) -> io::Result<()> {
        std::fs::rename(self.0.join(name), to.0.join(to_name))
    }

    /// Not in one step.
    pub(crate) fn rename_new(&self, name: &OsStr, to: &OsStr) -> io::Result<()> {
        if self.0.join(to).exists() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        std::fs::rename(self.0.join(name), self.0.join(to))
    }

    pub(crate) fn link(&self, name: &OsStr, to: &Self, to_name: &OsStr) -> io::Result<()> {
        std::fs::hard_link(self.0.join(name), to.0.join(to_name))
    }

    pub(crate) fn identity(&self, name: &OsStr) -> io::Result<FileId> {
        Ok(identity(&std::fs::symlink_metadata(self.0.join(name))?))
    }

    pub(crate) fn remove(&self, name: &OsStr) -> io::Result<()> {
        std::fs::remove_file(self.0.join(name))
    }

    pub(crate) fn remove_directory(&self, name: &OsStr) -> io::Result<()> {
        std::fs::remove_dir(self.0.join(name))
    }

    pub(crate) fn make_directory(&self, name: &OsStr, _mode: u32) -> io::Result<()> {
        std::fs::create_dir(self.0.join(name))
    }

    pub(crate) fn make_link(&self, target: &Path, name: &OsStr) -> io::Result<()> {
        std::os::windows::fs::symlink_file(target, self.0.join(name))
    }

    #[expect(clippy::unused_self, reason = "it is used on other systems")]
    pub(crate) fn make_fifo(&self, _: &OsStr, _mode: u32) -> io::Result<()> {
        unsupported("there are no FIFOs")
    }

    #[expect(clippy::unused_self, reason = "it is used on other systems")]
    pub(crate) fn make_socket(&self, _: &OsStr) -> io::Result<()> {
        unsupported("sockets are no files")
    }

    #[expect(clippy::unnecessary_wraps, clippy::unused_self, reason = "it can fail on other systems")]
    pub(crate) fn give(&self, _: &OsStr, _kind: u32, _owner: (u32, u32)) -> io::Result<()> {
        Ok(())
    }

    #[expect(clippy::unnecessary_wraps, clippy::unused_self, reason = "it can fail on other systems")]
    pub(crate) fn set_mode(&self, _: &OsStr, _mode: u32) -> io::Result<()> {
        Ok(())
    }

    #[expect(clippy::unnecessary_wraps, clippy::unused_self, reason = "it can fail on other systems")]
    pub(crate) fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

#[expect(clippy::cast_possible_truncation, reason = "as the index keeps them")]
fn found(metadata: &Metadata) -> super::Found {
    let kind = match () {
        () if metadata.is_dir() => super::DIRECTORY,
        () if metadata.is_symlink() => super::LINK,
        () => super::REGULAR,
    };
    let [ctime, mtime] = times(metadata).map(|(seconds, nanoseconds)| (seconds as u32, nanoseconds as u32));
    super::Found { mode: kind, links: 1, ctime, mtime, inode: 0, owner: (0, 0), size: metadata.len() }
}
