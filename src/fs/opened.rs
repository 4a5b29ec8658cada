//! Opens directories that their owner may not enter, as in a wrecked worktree: adds the permission for a moment.
//!
//! # Limitations
//! A process that is killed in that time leaves the permission given.

use std::{
    fs::File,
    io::{self, ErrorKind},
    sync::Arc,
};

use super::{is_missing, place::Place};
use crate::sys::{self, Found};

/// Permissions of an owner that are needed to use a directory.
pub(super) const USE: u32 = 0o700;

/// Files and directories that their owner was given more permission for, until this is dropped.
#[derive(Default)]
pub(super) struct Opened(Vec<(File, u32)>);

impl Opened {
    /// Does something with the entries at `places`; if permission is missing, once more with the directories above open.
    pub(super) fn insist<T>(&mut self, places: &[&Place], action: impl Fn() -> io::Result<T>) -> io::Result<T> {
        match action() {
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                places.iter().try_for_each(|place| self.open_above(place)).map_err(|_| error)?;
                action()
            }
            result => result,
        }
    }

    /// From the top: what is below a closed directory cannot be looked at.
    fn open_above(&mut self, place: &Place) -> io::Result<()> {
        let (mut directory, names) = place.way()?;
        self.open(directory.pin_itself()?, USE)?;
        for name in names {
            match directory.pin(&name).and_then(|pinned| self.open(pinned, USE)) {
                Err(error) if is_missing(&error) => return Ok(()),
                opened => opened?,
            }
            directory = directory.below(name.as_ref()).map(Arc::new)?;
        }
        Ok(())
    }

    pub(super) fn open(&mut self, file: File, bits: u32) -> io::Result<()> {
        let metadata = file.metadata()?;
        let mode = sys::mode(&metadata);
        if !metadata.is_symlink() && mode & bits != bits {
            sys::set_mode(&file, mode | bits)?;
            self.0.push((file, mode));
        }
        Ok(())
    }

    /// Opens a regular file for reading; also what it is, with the permission bits that it has.
    pub(super) fn read(&mut self, place: &Place) -> io::Result<(File, Found)> {
        let look = || place.parent().and_then(|(directory, name)| directory.look(name));
        let open = || place.parent().and_then(|(directory, name)| directory.read(name));
        let found = self.insist(&[place], look)?;
        let file = match open() {
            Err(error) if error.kind() == ErrorKind::PermissionDenied && found.is_file() => {
                let (directory, name) = place.parent()?;
                self.open(directory.pin(name)?, 0o400).map_err(|_| error)?;
                open()?
            }
            file => file?,
        };
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(ErrorKind::InvalidInput, format!("it is {}", found.name())));
        }
        // Root makes copies that belong to the same user: not of what was put in its place between the two looks.
        if sys::owner(&metadata) != found.owner {
            return Err(io::Error::other("somebody else put another file in its place"));
        }
        Ok((file, found))
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        for (file, mode) in self.0.drain(..).rev() {
            drop(sys::set_mode(&file, mode));
        }
    }
}
