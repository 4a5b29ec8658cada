//! Runs the process that waits in the kernel's queue for a flock(2), in a way that can be given up.
//!
//! A blocked thread could not be given up: closing its descriptor does not end the call, and it would take the lock later.
//!
//! The helper shares the program's memory, so that it costs the same whatever the program's size: a fork would stop every thread of
//! a program with a large heap, and double that heap. Consequences of the shared memory:
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
#[cfg(test)]
mod tests;

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
    /// If the system has no process, descriptor or memory for it.
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
        // SAFETY: it was mapped by `new`, and its user has ended.
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
