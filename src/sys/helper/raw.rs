//! Makes system calls without libc, for a process that shares its parent's memory.
//!
//! A libc call that fails writes to `errno`, which stands in memory that belongs to one of the parent's threads.

#![expect(unsafe_code, reason = "a system call without libc is inline assembly")]

use std::{arch::asm, ffi::c_int, io};

/// A process's first function. Its argument lies on its own stack.
pub(super) type Entry<T> = unsafe extern "C" fn(*const T) -> !;

/// Makes one system call; returns its result, or minus the number of the error.
///
/// # Safety
/// As the system call.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(super) unsafe fn call(number: libc::c_long, arguments: [usize; 4]) -> isize {
    let result: isize;
    let [first, second, third, fourth] = arguments;
    // SAFETY: the kernel changes these three registers and what the arguments point to; the caller vouches for the rest.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") first,
            in("rsi") second,
            in("rdx") third,
            in("r10") fourth,
            // The fifth, which no call of ours has.
            in("r8") 0,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result
}

#[cfg(target_arch = "aarch64")]
#[inline]
pub(super) unsafe fn call(number: libc::c_long, arguments: [usize; 4]) -> isize {
    let result: isize;
    let [first, second, third, fourth] = arguments;
    // SAFETY: the kernel changes this register and what the arguments point to; the caller vouches for the rest.
    unsafe {
        asm!(
            "svc #0",
            in("x8") number,
            inlateout("x0") first => result,
            in("x1") second,
            in("x2") third,
            in("x3") fourth,
            // The fifth, which no call of ours has.
            in("x4") 0,
            options(nostack),
        );
    }
    result
}

/// Makes a process that shares this one's memory and runs `entry` on a stack of its own; returns its pid, or minus the number
/// of the error. A kernel that knows pidfds (Linux 5.2) stores one.
///
/// # Safety
/// `stack` is the upper end of a stack that nobody else uses while the process lives, and a multiple of 16. `argument` stays
/// valid as long.
#[cfg(target_arch = "x86_64")]
unsafe fn clone<T>(flags: c_int, stack: *mut u8, pidfd: *mut c_int, entry: Entry<T>, argument: *const T) -> isize {
    let result: isize;
    // SAFETY: the parent leaves the block as it came, but for the registers named here. The child has another stack, and stays
    // within the block: `entry` never returns.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            // No frame is above the child's first.
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r9",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone => result,
            in("rdi") i64::from(flags),
            in("rsi") stack,
            in("rdx") pidfd,
            in("r10") 0,
            in("r8") 0,
            in("r9") entry,
            in("r12") argument,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    result
}

#[cfg(target_arch = "aarch64")]
unsafe fn clone<T>(flags: c_int, stack: *mut u8, pidfd: *mut c_int, entry: Entry<T>, argument: *const T) -> isize {
    let result: isize;
    // SAFETY: as on the other architecture.
    unsafe {
        asm!(
            "svc #0",
            "cbnz x0, 2f",
            // No frame is above the child's first.
            "mov x29, xzr",
            "mov x30, xzr",
            "mov x0, x10",
            "blr x9",
            "brk #1",
            "2:",
            in("x8") libc::SYS_clone,
            inlateout("x0") i64::from(flags) => result,
            in("x1") stack,
            in("x2") pidfd,
            in("x3") 0,
            in("x4") 0,
            in("x9") entry,
            in("x10") argument,
        );
    }
    result
}

/// A process that was made, and its pidfd if the kernel knows them.
pub(super) struct Made {
    pub(super) pid: i32,
    pub(super) pidfd: Option<c_int>,
}

/// Makes a process that shares only this one's memory and runs `entry`. All signals are blocked in it, also those that libc
/// reserves. Its end sends no signal.
///
/// # Errors
/// The kernel's: `EAGAIN` beyond the limit of processes, and the one of a filter that forbids to make any.
///
/// # Safety
/// As [`clone`]. `entry` keeps to system calls of [`call`].
pub(super) unsafe fn spawn<T>(stack: *mut u8, entry: Entry<T>, argument: *const T) -> io::Result<Made> {
    const FLAGS: c_int = libc::CLONE_VM | libc::CLONE_PIDFD;
    let mut pidfd: c_int = -1;
    // SAFETY: the caller vouches for the stack; the other pointer is to a local of this function.
    let result = unsafe { with_all_blocked(|| clone(FLAGS, stack, &raw mut pidfd, entry, argument)) };
    match i32::try_from(result) {
        Ok(pid) if pid > 0 => Ok(Made { pid, pidfd: (pidfd >= 0).then_some(pidfd) }),
        Ok(error) => Err(io::Error::from_raw_os_error(-error)),
        Err(_) => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Blocks all signals of this thread while `action` runs.
fn with_all_blocked<R>(action: impl FnOnce() -> R) -> R {
    /// The kernel's set: a bit for each signal.
    type Set = u64;
    let all = Set::MAX;
    let mut old: Set = 0;
    let set = |how: c_int, new: &Set, old: *mut Set| {
        let arguments = [how.unsigned_abs() as usize, (&raw const *new).addr(), old.addr(), size_of::<Set>()];
        // SAFETY: both sets live on this stack for the whole call.
        unsafe { call(libc::SYS_rt_sigprocmask, arguments) }
    };
    set(libc::SIG_SETMASK, &all, &raw mut old);
    let result = action();
    set(libc::SIG_SETMASK, &old, std::ptr::null_mut());
    result
}
