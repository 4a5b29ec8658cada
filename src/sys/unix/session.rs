//! Leaves the caller's session, for a background process that nobody waits for.

use std::{
    fs::{self, File, OpenOptions},
    io,
};

use super::FdNumber;

/// The session that this process belongs to: a terminal's, or that of a job; 0 if its leader is outside of the pid namespace.
#[expect(unsafe_code, reason = "rustix takes a session without a number for an error of the kernel's")]
pub(crate) fn session() -> u32 {
    // SAFETY: getsid takes a number and touches no memory.
    u32::try_from(unsafe { libc::getsid(0) }).unwrap_or(0)
}

/// Cuts this process off from its parent: a session of its own, `/` as working directory, no terminal, standard input and outputs
/// at `/dev/null`, and only `keep` of its open files. So it keeps no inherited pipe open.
///
/// For the child of a fork only: files that are still owned by values in its memory are closed, so those must never be
/// dropped.
pub(crate) fn leave_session(keep: &[FdNumber]) {
    super::signal::listen_no_more();
    let _ = rustix::process::setsid();
    let _ = rustix::process::chdir("/");
    // Without `/dev/null` they are just closed.
    let null = leave_streams();
    let first = if null.is_ok() { 3 } else { 0 };
    let open: Vec<i32> = match fs::read_dir("/dev/fd") {
        Ok(entries) => entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect(),
        Err(_) => (0..1024).collect(),
    };
    for number in open.into_iter().filter(|&number| number >= first) {
        if !keep.contains(&number) {
            close(number);
        }
    }
    // Closed above, under its number.
    std::mem::forget(null);
}

/// Points standard input and outputs at `/dev/null`, which is returned: who waits for their end does not wait for this process.
pub(crate) fn leave_streams() -> io::Result<File> {
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(null)
}

#[expect(unsafe_code, reason = "descriptors that came from elsewhere are known only by their numbers")]
fn close(number: i32) {
    // SAFETY: the caller promises that no value that owns this descriptor is ever used or dropped again.
    unsafe { libc::close(number) };
}
