//! Tells whether what this program prints can arrive.

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::{fs::OFlags, io::Errno, stdio::stdout};

/// Standard output was closed when this process started.
static WAS_CLOSED: AtomicBool = AtomicBool::new(false);

/// Runs before `main`, because the standard library puts `/dev/null` in place of a closed standard output first of all. Makes
/// one system call, and uses nothing that would have to be initialised.
extern "C" fn look() {
    let closed = rustix::io::fcntl_getfd(stdout()) == Err(Errno::BADF);
    WAS_CLOSED.store(closed, Ordering::Relaxed);
}

#[used]
#[expect(unsafe_code, reason = "the list of functions that run before `main` is a section of the program")]
#[cfg_attr(target_vendor = "apple", unsafe(link_section = "__DATA,__mod_init_func"))]
#[cfg_attr(not(target_vendor = "apple"), unsafe(link_section = ".init_array"))]
static BEFORE_MAIN: extern "C" fn() = look;

/// Fails if standard output is closed or open for reading only. A full disk or a closed pipe shows only in a write.
pub(crate) fn check_output() -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(stdout())?;
    if WAS_CLOSED.load(Ordering::Relaxed) || flags & OFlags::ACCMODE == OFlags::RDONLY {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is closed, or not open for writing"));
    }
    Ok(())
}
