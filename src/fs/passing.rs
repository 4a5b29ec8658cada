//! Makes an entry under a passing name in the directory that it is for, and then gives it its name in one step.

use std::{
    ffi::{OsStr, OsString},
    io::{self, ErrorKind},
    sync::Arc,
};

use super::place::Place;
use crate::sys::{Directory, FileId};

/// The prefix of passing names; six letters or digits follow.
pub(crate) const PASSING: &str = ".repoguard-new-";

/// A new entry. Dropped, it is removed.
#[derive(Debug)]
pub(super) struct Passing {
    directory: Arc<Directory>,
    /// Empty once it has its name.
    temporary: OsString,
    name: OsString,
}

impl Passing {
    /// Makes one for a place. Its name begins with `prefix`.
    pub(super) fn make<T>(
        place: &Place,
        prefix: &str,
        create: impl Fn(&Directory, &OsStr) -> io::Result<T>,
    ) -> io::Result<(Self, T)> {
        let (directory, name) = place.parent()?;
        let name = name.to_owned();
        loop {
            let temporary = passing_name(prefix)?;
            match create(&directory, &temporary) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                result => return result.map(|made| (Self { directory, temporary, name }, made)),
            }
        }
    }

    /// The open directory that it is in, and its passing name.
    pub(super) fn here(&self) -> (&Directory, &OsStr) {
        (&self.directory, &self.temporary)
    }

    /// The name that it is for.
    pub(super) fn name(&self) -> &OsStr {
        &self.name
    }

    /// Which file it is.
    pub(super) fn id(&self) -> io::Result<FileId> {
        self.directory.identity(&self.temporary)
    }

    /// Gives it its name, in place of what has that.
    pub(super) fn replace(mut self) -> io::Result<()> {
        self.directory.rename(&self.temporary, &self.directory, &self.name)?;
        self.temporary.clear();
        Ok(())
    }

    /// Gives it its name if nothing has that. Not by a hard link: file systems that cache attributes would show a second link
    /// for a while. Other errors than `AlreadyExists` may mean that the file system cannot do that.
    pub(super) fn settle(mut self) -> Result<(), (io::Error, Self)> {
        match self.directory.rename_new(&self.temporary, &self.name) {
            Ok(()) => {
                self.temporary.clear();
                Ok(())
            }
            Err(error) => Err((error, self)),
        }
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        if !self.temporary.is_empty() {
            drop(self.directory.remove(&self.temporary));
        }
    }
}

/// The prefix and six random letters or digits.
fn passing_name(prefix: &str) -> io::Result<OsString> {
    let mut random = [0; 6];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    let letters = random.map(|byte| char::from(b"abcdefghijklmnopqrstuvwxyz234567"[usize::from(byte % 32)]));
    Ok(letters.iter().fold(prefix.to_owned(), |name, letter| name + letter.encode_utf8(&mut [0; 4])).into())
}
