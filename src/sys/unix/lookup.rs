//! Looks at many paths below one directory, given in order. No link is followed, and each directory is opened once.

use std::{
    io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::Path,
};

use rustix::fs::{AtFlags, Mode, OFlags, Stat};

use crate::sys::{Found, why_outside};

/// A directory to look below, with the directories open that the last path went through.
pub(crate) struct Below {
    root: OwnedFd,
    /// Each with the length of the path that leads to it.
    open: Vec<(usize, OwnedFd)>,
    path: Vec<u8>,
}

impl Below {
    pub(crate) fn open(root: &Path) -> io::Result<Self> {
        let root = open_below(rustix::fs::CWD, root.as_os_str().as_bytes())?;
        Ok(Self { root, open: Vec::new(), path: Vec::new() })
    }

    /// The entry at `path`; `None` if it is missing, or something else is in the place of a directory above it.
    ///
    /// # Errors
    /// A path that leads out of the directory, into `..` say, is an error.
    pub(crate) fn look(&mut self, path: &[u8]) -> io::Result<Option<Found>> {
        // An entry that an index leaves to another one has no name.
        if path.is_empty() {
            return Ok(None);
        }
        if let Some(why) = why_outside(path) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let start = path.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
        let (directories, name) = (&path[..start], &path[start..]);
        while self.open.last().is_some_and(|&(end, _)| !directories.starts_with(&self.path[..end])) {
            self.open.pop();
        }
        let mut from = self.open.last().map_or(0, |&(end, _)| end);
        while let Some(length) = directories[from..].iter().position(|&byte| byte == b'/') {
            let above = self.open.last().map_or(&self.root, |(_, directory)| directory);
            match open_below(above, &directories[from..from + length]) {
                Ok(directory) => {
                    from += length + 1;
                    self.open.push((from, directory));
                }
                Err(error) if is_absent(&error) => {
                    self.remember(directories);
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
        self.remember(directories);
        let above = self.open.last().map_or(&self.root, |(_, directory)| directory);
        match rustix::fs::statat(above, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(metadata) => Ok(Some(found(&metadata))),
            Err(error) => {
                let error = io::Error::from(error);
                if is_absent(&error) { Ok(None) } else { Err(error) }
            }
        }
    }

    fn remember(&mut self, directories: &[u8]) {
        self.path.clear();
        self.path.extend_from_slice(directories);
    }
}

fn open_below(above: impl std::os::fd::AsFd, name: &[u8]) -> io::Result<OwnedFd> {
    #[cfg(target_os = "linux")]
    let access = OFlags::PATH;
    #[cfg(not(target_os = "linux"))]
    let access = OFlags::RDONLY;
    let flags = access | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(above, name, flags, Mode::empty())?)
}

fn is_absent(error: &io::Error) -> bool {
    let absent = [rustix::io::Errno::NOENT, rustix::io::Errno::NOTDIR, rustix::io::Errno::LOOP];
    absent.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the index keeps the lower half of each number, and so do we"
)]
#[allow(clippy::unnecessary_cast, reason = "the fields' types differ between systems")]
pub(super) fn found(stat: &Stat) -> Found {
    Found {
        mode: stat.st_mode as u32,
        links: stat.st_nlink as u64,
        ctime: (stat.st_ctime as u32, stat.st_ctime_nsec as u32),
        mtime: (stat.st_mtime as u32, stat.st_mtime_nsec as u32),
        inode: stat.st_ino as u32,
        owner: (stat.st_uid, stat.st_gid),
        size: stat.st_size as u64,
    }
}
