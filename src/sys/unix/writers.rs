//! Finds the processes that have a file open for writing.

use std::{collections::HashSet, fs::File};

use crate::sys::{FileId, Writer};

/// Tells whether anybody has a regular file open for writing, processes that cannot be seen included; `None` if the system does not
/// tell, for example because the file is another user's.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "rustix has no leases")]
pub(crate) fn is_written(file: &File) -> Option<bool> {
    use std::os::fd::AsRawFd as _;
    // A lease of a file that a process may write to fails. It is released at once. SAFETY: fcntl takes a descriptor and a number
    // here.
    let lease = |kind: libc::c_int| unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind) };
    if lease(libc::F_RDLCK) == 0 {
        lease(libc::F_UNLCK);
        return Some(false);
    }
    (std::io::Error::last_os_error().raw_os_error() == Some(libc::EAGAIN)).then_some(true)
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn is_written(_file: &File) -> Option<bool> {
    None
}

/// Finds the processes that have one of these files open for writing, as the system shows: some microseconds for each open file of
/// each process.
#[cfg(target_os = "linux")]
pub(crate) fn writers(files: &HashSet<FileId>) -> Vec<Writer> {
    let mut found = Vec::new();
    for pid in super::all_processes() {
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        for entry in descriptors {
            let Ok(metadata) = std::fs::metadata(entry.path()) else { continue };
            let file = super::identity(&metadata);
            if !metadata.is_file() || !files.contains(&file) {
                continue;
            }
            let info = format!("/proc/{pid}/fdinfo/{}", entry.file_name().to_string_lossy());
            let info = std::fs::read_to_string(info).unwrap_or_default();
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
            let flags = flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok()).unwrap_or(0);
            if flags & libc::O_ACCMODE != libc::O_RDONLY {
                found.push(Writer { file, pid, is_inheritable: flags & libc::O_CLOEXEC == 0 });
            }
        }
    }
    found
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn writers(_files: &HashSet<FileId>) -> Vec<Writer> {
    Vec::new()
}
