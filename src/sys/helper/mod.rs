//! Runs the process that waits in the kernel's queue for a flock(2), in a way that can be given up.
//!
//! A blocked thread could not be given up: closing its descriptor does not end the call, and it would take the lock later.
//!
//! The helper shares the program's memory, so that it costs the same whatever the program has in it: a fork would stop every
//! thread of a program with a large heap, and double that heap. What follows from the shared memory:
//! - It makes raw system calls only (`raw`), and uses only its own stack.
//! - All signals are blocked, so that no handler of the program runs in it. SIGKILL ends it, SIGSTOP stops it.
//! - Its table of descriptors is its own, and it closes all but two: our place in the queue must die with us, and so must all
//!   that other threads hold and wait for.
//! - Its end sends no signal, and a program that reaps all of its children does not see it.
//! - Its stack is freed when it is certain that it has ended.
//!
//! # Limitations
//! The kernel kills it also when the thread that made it ends, as threads of a runtime may; then the waiter makes another one.
//! A stopped or frozen helper leaves the kernel's queue. If it is stopped in the quarter of a second in which it holds the lock for
//! a waiter that is stopped as well, the lock stays held until one of them goes on.

#![expect(
    unsafe_code,
    reason = "no safe call makes a process that shares our memory, and in it only raw calls may be made"
)]
#![expect(clippy::cast_sign_loss, reason = "descriptors and the kernel's constants are not negative")]

mod raw;

use std::{
    ffi::{c_int, c_void},
    fs::File,
    io::{self, PipeReader, pipe},
    os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd},
    ptr::{self, NonNull},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec},
    io::Errno,
    mm::{MapFlags, MprotectFlags, ProtFlags},
    process::{Pid, Signal, WaitId, WaitIdOptions, WaitOptions},
};

use self::raw::call;
use super::FdRef;

/// How long a granted lock waits to be taken. After that its owner is not running (Ctrl-Z), and others go first.
static TAKE_WITHIN: libc::timespec = libc::timespec { tv_sec: 0, tv_nsec: 250_000_000 };

/// The helper writes this byte when it has the lock.
static GRANTED: u8 = 1;

/// A process that waits in the kernel's queue for a flock(2) on an open file that it shares with us.
///
/// The lock belongs to the shared open file, so it is ours as soon as the helper got it. It cannot be got any more once
/// [`FlockHelper::stop`] has returned.
pub(crate) struct FlockHelper {
    pid: Pid,
    /// `None` on an old kernel.
    handle: Option<OwnedFd>,
    reader: PipeReader,
    /// `None` when it was left to a helper that may still use it.
    stack: Option<Stack>,
}

impl FlockHelper {
    /// Starts waiting for the lock of `file`.
    ///
    /// # Errors
    /// If no process can be made, or there is no descriptor or memory for it.
    pub(crate) fn start(file: &File, exclusive: bool) -> io::Result<Self> {
        let (reader, writer) = pipe()?;
        let mut stack = Stack::new()?;
        let task = stack.place(Task {
            file: file.as_raw_fd(),
            writer: writer.as_raw_fd(),
            operation: if exclusive { libc::LOCK_EX } else { libc::LOCK_SH },
            parent: rustix::process::getpid().as_raw_nonzero().get(),
        });
        // SAFETY: the stack lives until the process has ended, and `task` lies at its upper end, aligned.
        let made = unsafe { raw::spawn(task.cast_mut().cast(), wait_in_queue, task)? };
        // SAFETY: the kernel has just made this descriptor for us.
        let handle = made.pidfd.map(|pidfd| unsafe { OwnedFd::from_raw_fd(pidfd) });
        let pid = Pid::from_raw(made.pid).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { pid, handle, reader, stack: Some(stack) })
    }

    /// The process that the kernel names as the taker of the lock, also when it has ended.
    pub(crate) fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Readable once the lock was got, or the helper has ended for another reason.
    pub(crate) fn fd(&self) -> FdRef<'_> {
        self.reader.as_fd()
    }

    /// Ends the helper and waits until it is gone. The caller tries the lock afterwards to learn whether it is ours. Returns `false`
    /// if the helper had already ended without the lock: another one may do the same.
    pub(crate) fn stop(mut self) -> bool {
        let event = PollFd::from_borrowed_fd(self.reader.as_fd(), PollFlags::IN);
        let has_news = rustix::event::poll(&mut [event], Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) == Ok(1);
        let is_granted = has_news && rustix::io::ioctl_fionread(&self.reader).is_ok_and(|bytes| bytes > 0);
        self.end();
        is_granted || !has_news
    }

    /// Kills the helper, and frees its stack when it is gone.
    fn end(&mut self) {
        let Some(stack) = self.stack.take() else { return };
        if !(self.kill() && self.reap()) {
            // It may run on: it needs its stack.
            std::mem::forget(stack);
        }
    }

    /// Tells whether it has ended or is about to.
    fn kill(&self) -> bool {
        let by_handle = self.handle.as_ref().map(|handle| rustix::process::pidfd_send_signal(handle, Signal::KILL));
        let sent = match by_handle {
            None | Some(Err(Errno::NOSYS)) => rustix::process::kill_process(self.pid, Signal::KILL),
            Some(sent) => sent,
        };
        // A program that has changed its user may not be allowed to.
        matches!(sent, Ok(()) | Err(Errno::SRCH))
    }

    /// Waits until it has ended; tells whether that is certain.
    fn reap(&self) -> bool {
        let by_handle = self.handle.as_ref().map(|handle| {
            let options = WaitIdOptions::EXITED | any_child();
            rustix::io::retry_on_intr(|| rustix::process::waitid(WaitId::PidFd(handle.as_fd()), options)).map(drop)
        });
        let reaped = match by_handle {
            // Linux before 5.4 waits by number only.
            None | Some(Err(Errno::INVAL | Errno::NOSYS)) => {
                let options = WaitOptions::from_bits_retain(any_child().bits());
                rustix::io::retry_on_intr(|| rustix::process::waitpid(Some(self.pid), options)).map(drop)
            }
            Some(reaped) => reaped,
        };
        // Somebody else in this program may have reaped it.
        matches!(reaped, Ok(()) | Err(Errno::CHILD))
    }
}

impl Drop for FlockHelper {
    fn drop(&mut self) {
        self.end();
    }
}

/// Waits for children of any kind, those included whose end sends no signal.
fn any_child() -> WaitIdOptions {
    WaitIdOptions::from_bits_retain(libc::__WALL.cast_unsigned())
}

/// The helper's arguments.
#[repr(C, align(16))]
struct Task {
    file: c_int,
    writer: c_int,
    operation: c_int,
    parent: c_int,
}

/// Memory for a helper's stack, with a guard below it.
struct Stack {
    base: NonNull<c_void>,
}

// SAFETY: a `Stack` owns its memory, and only its `Drop` uses it after the helper was started.
unsafe impl Send for Stack {}
// SAFETY: as above; there is nothing that a shared reference allows.
unsafe impl Sync for Stack {}

impl Stack {
    /// Size of guard and stack: one page where pages are large; only what is used of it takes memory.
    const HALF: usize = 64 << 10;

    fn new() -> io::Result<Self> {
        let flags = MapFlags::PRIVATE | MapFlags::STACK;
        // SAFETY: the kernel chooses addresses that nobody uses.
        let base = unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), 2 * Self::HALF, ProtFlags::empty(), flags)? };
        let stack = Self { base: NonNull::new(base).ok_or(io::ErrorKind::OutOfMemory)? };
        // SAFETY: these pages were mapped above.
        unsafe {
            rustix::mm::mprotect(base.byte_add(Self::HALF), Self::HALF, MprotectFlags::READ | MprotectFlags::WRITE)?;
        }
        Ok(stack)
    }

    /// Puts what the helper must know at the upper end.
    fn place(&mut self, task: Task) -> *const Task {
        // SAFETY: the address is within the mapping and, as its upper end is that of a page, aligned.
        unsafe {
            let place = self.base.as_ptr().byte_add(2 * Self::HALF).cast::<Task>().sub(1);
            place.write(task);
            place
        }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: it was mapped by `new`, and whoever used it has ended.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr(), 2 * Self::HALF) };
    }
}

/// The helper's main function.
///
/// # Safety
/// For [`raw::spawn`] only: raw system calls, nothing that allocates, panics or touches memory of the program's threads.
unsafe extern "C" fn wait_in_queue(task: *const Task) -> ! {
    // SAFETY: the parent has placed it on our stack, and does not touch it any more. The calls change only this process and
    // the lock; the pointers are to constants.
    unsafe {
        let Task { file, writer, operation, parent } = ptr::read(task);
        call(libc::SYS_prctl, [libc::PR_SET_PDEATHSIG as usize, libc::SIGKILL as usize, 0, 0]);
        // The parent may have died before the call.
        if call(libc::SYS_getppid, [0; 4]) == parent as isize {
            // A signal to the program's whole process group, from a terminal for example, is not for us.
            call(libc::SYS_setpgid, [0; 4]);
            close_all_but(file as usize, writer as usize);
            let mut locked = call(libc::SYS_flock, [file as usize, operation as usize, 0, 0]);
            while locked == -(libc::EINTR as isize) {
                locked = call(libc::SYS_flock, [file as usize, operation as usize, 0, 0]);
            }
            if locked == 0 {
                call(libc::SYS_write, [writer as usize, (&raw const GRANTED).addr(), 1, 0]);
                // The parent kills us as soon as it sees the byte. If it does not, it is stopped and must not hold.
                call(libc::SYS_ppoll, [0, 0, (&raw const TAKE_WITHIN).addr(), 0]);
                call(libc::SYS_flock, [file as usize, libc::LOCK_UN as usize, 0, 0]);
            }
        }
        loop {
            call(libc::SYS_exit_group, [0; 4]);
        }
    }
}

/// Closes all descriptors but two.
///
/// # Safety
/// In the helper only, whose table of descriptors is its own.
unsafe fn close_all_but(one: usize, other: usize) {
    let (low, high) = if one < other { (one, other) } else { (other, one) };
    // SAFETY: the caller vouches for it.
    unsafe {
        close_range(0, low);
        close_range(low + 1, high);
        close_range(high + 1, c_int::MAX as usize);
    }
}

/// Closes the descriptors from `first` on that are below `end`.
///
/// # Safety
/// As [`close_all_but`].
unsafe fn close_range(first: usize, end: usize) {
    /// An old kernel closes them one by one; no program of ours has more.
    const MOST: usize = 65_536;
    // SAFETY: the caller vouches for it.
    unsafe {
        if first < end && call(libc::SYS_close_range, [first, end - 1, 0, 0]) != 0 {
            let mut number = first;
            while number < end && number < MOST {
                call(libc::SYS_close, [number, 0, 0, 0]);
                number += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::OpenOptionsExt as _,
        thread,
        time::{Duration, Instant},
    };

    use super::*;

    /// A file that is locked, and another open file of it whose lock a helper can wait for.
    fn locked() -> (File, File) {
        let directory = tempfile::tempdir().expect("a directory");
        let open = || File::options().create(true).truncate(false).write(true).open(directory.path().join("lock"));
        let (held, wanted) = (open().expect("a file"), open().expect("the same file"));
        held.lock().expect("a lock");
        (held, wanted)
    }

    /// Tells whether the helper has news within a time that is long enough for anything but a lock that is held.
    fn has_news(helper: &FlockHelper) -> bool {
        let event = crate::sys::Event::Readable(helper.fd());
        crate::sys::poll(&[event], Some(Duration::from_secs(20))).expect("poll")[0]
    }

    fn status(helper: &FlockHelper, key: &str) -> String {
        let status = fs::read_to_string(format!("/proc/{}/status", helper.pid())).expect("a live process");
        let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        line.expect("a line of this key").trim().to_owned()
    }

    /// Waits until the helper is where it stays: in the kernel's queue.
    fn settled(helper: &FlockHelper) {
        let end = Instant::now() + Duration::from_secs(20);
        let open = || fs::read_dir(format!("/proc/{}/fd", helper.pid())).map_or(0, Iterator::count);
        while open() != 2 {
            assert!(Instant::now() < end, "{} descriptors", open());
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn helper_gets_the_lock_for_the_open_file_that_it_shares() {
        let (held, wanted) = locked();
        let helper = FlockHelper::start(&wanted, true).expect("a helper");
        held.unlock().expect("an unlock");
        assert!(has_news(&helper) && helper.stop());
        assert!(held.try_lock().is_err(), "it is the waiter's now");
        wanted.unlock().expect("an unlock");
        assert!(held.try_lock().is_ok());
    }

    #[test]
    fn helper_that_is_stopped_before_leaves_the_lock_alone() {
        let (held, wanted) = locked();
        let helper = FlockHelper::start(&wanted, false).expect("a helper");
        let pid = helper.pid();
        assert!(helper.stop(), "it has worked until now");
        assert!(!fs::exists(format!("/proc/{pid}")).expect("an answer"), "not even a zombie is left");
        held.unlock().expect("an unlock");
        assert!(held.try_lock().is_ok());
    }

    #[test]
    fn lock_that_nobody_takes_is_given_back() {
        let (held, wanted) = locked();
        let helper = FlockHelper::start(&wanted, true).expect("a helper");
        held.unlock().expect("an unlock");
        assert!(has_news(&helper));
        held.lock().expect("a lock, a moment later");
        assert!(helper.stop(), "it had got it");
    }

    #[test]
    fn helper_has_the_programs_memory_but_none_of_its_signals_and_files() {
        let (_held, wanted) = locked();
        let helper = FlockHelper::start(&wanted, true).expect("a helper");
        settled(&helper);
        // Mapped after the helper was made: with a copy of the memory it would not be there.
        let later = vec![1_u8; 64 << 20];
        let maps = fs::read_to_string(format!("/proc/{}/maps", helper.pid())).expect("a map");
        let within = |line: &str| {
            let (begin, end) = line.split_whitespace().next()?.split_once('-')?;
            let range = usize::from_str_radix(begin, 16).ok()?..usize::from_str_radix(end, 16).ok()?;
            Some(range.contains(&later.as_ptr().addr()))
        };
        assert!(maps.lines().any(|line| within(line) == Some(true)), "{maps}");
        // All but SIGKILL and SIGSTOP, those of libc included.
        assert_eq!(status(&helper, "SigBlk"), "fffffffffffbfeff");
        assert!(crate::sys::send(helper.pid(), crate::sys::TERMINATE));
        let stat = fs::read_to_string(format!("/proc/{}/stat", helper.pid())).expect("a live process");
        let fields: Vec<&str> = stat.rsplit_once(')').expect("a name").1.split_whitespace().collect();
        let (group, exit_signal) = (fields[2], fields[35]);
        assert_eq!((group, exit_signal), (helper.pid().to_string().as_str(), "0"), "{stat}");
        assert!(helper.stop(), "the signal did not end it");
    }

    #[test]
    fn call_that_fails_in_the_helper_leaves_errno_alone() {
        // Cannot be locked.
        let file = File::options().read(true).custom_flags(libc::O_PATH).open("/").expect("a directory");
        // SAFETY: the address of this thread's own variable.
        let errno = unsafe { &mut *libc::__errno_location() };
        *errno = libc::EXDEV;
        let helper = FlockHelper::start(&file, true).expect("a helper");
        let (news, errno) = (has_news(&helper), *errno);
        assert_eq!((news, errno), (true, libc::EXDEV));
        assert!(!helper.stop(), "it has ended without the lock");
    }

    #[test]
    fn killed_helper_is_seen_and_was_no_success() {
        let (_held, wanted) = locked();
        let helper = FlockHelper::start(&wanted, true).expect("a helper");
        assert!(crate::sys::send(helper.pid(), crate::sys::KILL));
        assert!(has_news(&helper) && !helper.stop());
    }

    #[test]
    fn forbidden_process_is_an_error() {
        // The thread forbids itself to make processes, as a container may.
        let error = thread::spawn(|| {
            forbid(libc::SYS_clone);
            let (_held, wanted) = locked();
            FlockHelper::start(&wanted, true).err().map(|error| error.kind())
        });
        assert_eq!(error.join().expect("no panic"), Some(io::ErrorKind::PermissionDenied));
    }

    /// Makes a system call fail with EPERM in this thread.
    #[expect(clippy::cast_possible_truncation, reason = "the kernel's constants fit")]
    fn forbid(number: libc::c_long) {
        const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
        const SKIP_UNLESS: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
        const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
        let step = |code, jf, k| libc::sock_filter { code, jt: 0, jf, k };
        let number = u32::try_from(number).expect("a number");
        let mut steps = [
            step(LOAD, 0, 0),
            step(SKIP_UNLESS, 1, number),
            step(RETURN, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
            step(RETURN, 0, libc::SECCOMP_RET_ALLOW),
        ];
        let program = libc::sock_fprog { len: 4, filter: steps.as_mut_ptr() };
        // SAFETY: the kernel copies the program.
        let results = unsafe {
            [
                libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
                libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program),
            ]
        };
        assert_eq!(results, [0, 0]);
    }
}
