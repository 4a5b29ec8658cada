//! Opens the copies of files that a baseline keeps, and decides with which rights they are put back.

use std::{
    fs::File,
    io::{Read as _, Seek as _},
    path::PathBuf,
};

use super::{super::standby::link_path, Baseline, PACKED, Stamp};
use crate::{
    error::{Error, Result},
    fs::{self, Place},
    sys,
};

impl Baseline {
    /// The copy of a link that was kept.
    pub(in crate::transaction) fn copy(&self, number: usize) -> Place {
        Place::from(&self.copy_path(number))
    }

    fn copy_path(&self, number: usize) -> PathBuf {
        self.directory.join("files").join(number.to_string())
    }

    /// Opens the copy of a file that was kept, which has this size, if that is known.
    pub(in crate::transaction) fn open_copy(&self, number: usize, size: Option<u64>) -> Result<File> {
        let path = self.copy_path(number);
        let file = if self.is_left { fs::open_trusted(&path, self.owner.0)? } else { fs::read_file(&path)? };
        let is = file.metadata().map_err(Error::io("read", &path))?.len();
        if size.is_some_and(|size| size != is) {
            let reason = "it has another size than what was kept".to_owned();
            return Err(Error::BadRecord { path, line: 1, reason });
        }
        Ok(file)
    }

    /// Opens a large file that was kept: `None` if somebody has written to it while nobody stood by.
    pub(in crate::transaction) fn open_leased(&self, number: usize, was: Option<Stamp>) -> Result<Option<File>> {
        if fs::identity(&self.copy_path(number)).is_some() {
            return self.open_copy(number, was.map(Stamp::size)).map(Some);
        }
        let link = link_path(&self.directory.join("files"), number);
        let file = if self.is_left { fs::open_trusted(&link, self.owner.0)? } else { fs::read_file(&link)? };
        let is_same = file.metadata().is_ok_and(|metadata| was.is_some_and(|was| was.has_bytes_of(&metadata)));
        Ok(is_same.then_some(file))
    }

    /// The bytes of a small file that was kept.
    pub(in crate::transaction) fn open_packed(&self, at: u64, size: u64) -> Result<impl std::io::Read + use<>> {
        let path = self.directory.join("files").join(PACKED);
        let mut file = if self.is_left { fs::open_trusted(&path, self.owner.0)? } else { fs::read_file(&path)? };
        let is = file.metadata().map_err(Error::io("read", &path))?.len();
        if at.checked_add(size).is_none_or(|end| end > is) {
            return Err(Error::BadRecord { path, line: 1, reason: "it has fewer bytes than were kept".to_owned() });
        }
        file.seek(std::io::SeekFrom::Start(at)).map_err(Error::io("read", &path))?;
        Ok(file.take(size))
    }

    /// The stranger whose mutation this is, if it is one's.
    pub(in crate::transaction) fn stranger(&self) -> Option<u32> {
        Some(self.owner.0).filter(|_| self.is_strangers)
    }

    /// Permission bits and owner to put a file back with. Root gives a file to another user only as that user could have had
    /// it: the owner of this directory can change what is kept in it.
    pub(in crate::transaction) fn rights(&self, mode: u32, owner: Option<(u32, u32)>) -> (u32, Option<(u32, u32)>) {
        /// They give rights of the owner's, or of the group's.
        const SET_ID: u32 = 0o6000;
        if self.is_strangers {
            let owner = Some(self.owner).filter(|_| sys::effective_user() == 0);
            return (mode & !SET_ID, owner);
        }
        match owner.filter(|_| sys::effective_user() == 0) {
            None => (mode, None),
            Some(owner) if self.owner.0 == 0 || owner == self.owner => (mode, Some(owner)),
            Some(_) if self.is_left => (mode & !SET_ID, Some(self.owner)),
            Some(owner) => (mode & !SET_ID, Some(owner)),
        }
    }
}
