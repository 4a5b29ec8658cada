//! How is something done where the owner of a directory took their own permission away, as in a wrecked worktree? It is
//! given for the time that it takes.
//!
//! # Limitations
//! Who is killed in that time leaves it given.

use std::{
    fs::{File, Metadata, OpenOptions},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use super::is_missing;
use crate::sys;

/// What an owner needs to use a directory.
pub(super) const USE: u32 = 0o700;

/// Files and directories that their owner was given more permission for, until this is dropped.
#[derive(Default)]
pub(super) struct Opened(Vec<(PathBuf, u32)>);

impl Opened {
    /// Does something with the entries at `paths`; where permission is missing, once more with the directories above open.
    pub(super) fn insist<T>(&mut self, paths: &[&Path], action: impl Fn() -> io::Result<T>) -> io::Result<T> {
        match action() {
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                paths.iter().try_for_each(|path| self.open_above(path)).map_err(|_| error)?;
                action()
            }
            result => result,
        }
    }

    fn open_above(&mut self, path: &Path) -> io::Result<()> {
        let is_closed = |directory: &&Path| {
            std::fs::symlink_metadata(directory).map_or(true, |metadata| sys::mode(&metadata) & USE != USE)
        };
        let closed: Vec<&Path> = path.ancestors().skip(1).take_while(is_closed).collect();
        // From the top: what is below a closed directory cannot be looked at.
        match closed.into_iter().rev().try_for_each(|directory| self.open(directory, USE)) {
            Err(error) if is_missing(&error) => Ok(()),
            opened => opened,
        }
    }

    pub(super) fn open(&mut self, path: &Path, bits: u32) -> io::Result<()> {
        let metadata = std::fs::symlink_metadata(path)?;
        let mode = sys::mode(&metadata);
        if metadata.is_symlink() || mode & bits == bits {
            return Ok(());
        }
        sys::set_mode(path, mode | bits)?;
        self.0.push((path.to_owned(), mode));
        Ok(())
    }

    /// Opens a regular file for reading; also its metadata, and the permission bits that it has.
    pub(super) fn read(&mut self, path: &Path) -> io::Result<(File, Metadata, u32)> {
        let open = || sys::open_warily(OpenOptions::new().read(true)).open(path);
        let file = match self.insist(&[path], open) {
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                self.open(path, 0o400).map_err(|_| error)?;
                open()?
            }
            file => file?,
        };
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(ErrorKind::InvalidInput, format!("it is {}", sys::kind(&metadata))));
        }
        let before = self.0.iter().find(|(opened, _)| opened == path).map(|(_, mode)| *mode);
        let mode = before.unwrap_or_else(|| sys::mode(&metadata));
        Ok((file, metadata, mode))
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        for (path, mode) in self.0.drain(..).rev() {
            let is_there = std::fs::symlink_metadata(&path).is_ok_and(|metadata| !metadata.is_symlink());
            if is_there {
                drop(sys::set_mode(&path, mode));
            }
        }
    }
}
