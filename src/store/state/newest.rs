//! Reads, changes and replaces the newest document, so that no change is lost.

use std::{
    cell::RefCell,
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    super::document::{Document, LIMIT},
    StateFile,
    staged::Made,
};
use crate::{
    error::{Error, Result},
    fs,
    lock::{LockFile, Patience, Short},
    sys,
};

impl StateFile {
    /// Changes the newest document under its lock.
    pub(super) fn write(
        &self,
        report: &mut dyn FnMut(Duration, Option<u32>),
        mut change: impl FnMut(&mut Document) -> Result<Made>,
    ) -> Result<bool> {
        let mut patience = Patience::new(self.timeout, report);
        loop {
            let target = self.target()?;
            let lock = if self.own { self.repo.state_lock() } else { self.repo.document_lock(&target) };
            let open = |path: &Path| LockFile::open(path, self.sharing);
            let ours = lock.map(|lock| Short::take(&lock, &self.path, open, &mut patience)).transpose()?.flatten();
            let open = |path: &Path| fs::open_document(path)?.map(|file| LockFile::new(file, path)).transpose();
            let locked = match Short::take(&target, &self.path, open, &mut patience) {
                // Locks do not work beside the document, but they work beside ours.
                Err(Error::NoLocks { .. }) if ours.is_some() => open(&target)?.map(Short::without_lock),
                locked => locked?,
            };
            let Some(locked) = locked else {
                let mut document = Document::fresh(&self.path);
                if change(&mut document)? == Made::IfChanged {
                    return Ok(false);
                }
                let sharing = if self.own { self.sharing } else { self.sharing.owner_only() };
                if fs::create_document(&target, self.bytes(&document)?, sharing)? {
                    return Ok(true);
                }
                // Somebody else made it meanwhile.
                continue;
            };
            let mut document = self.parse(locked.file())?;
            let before = document.text().to_owned();
            change(&mut document)?;
            if document.text() == before {
                // Its writer may have been killed before it was durable.
                fs::sync_name(&target)?;
                return Ok(false);
            }
            let metadata = locked.file().metadata().map_err(Error::io("read", &target))?;
            fs::replace_document(&target, self.bytes(&document)?, &metadata)?;
            return Ok(true);
        }
    }

    fn bytes<'d>(&self, document: &'d Document) -> Result<&'d [u8]> {
        let bytes = document.text().as_bytes();
        if bytes.len() as u64 > LIMIT { Err(self.too_large()) } else { Ok(bytes) }
    }

    pub(super) fn parse(&self, file: &File) -> Result<Document> {
        let read = || {
            let mut bytes = Vec::with_capacity(usize::try_from(file.metadata()?.len().min(LIMIT)).unwrap_or(0));
            file.take(LIMIT + 1).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        let bytes = read().map_err(Error::io("read", &self.path))?;
        if bytes.len() as u64 > LIMIT { Err(self.too_large()) } else { Document::parse(&self.path, bytes) }
    }

    fn too_large(&self) -> Error {
        Error::DocumentTooLarge { path: self.path.clone(), limit: LIMIT }
    }

    /// The document itself, if links are on the way to it. Links in repoguard's own directory are not followed.
    pub(super) fn target(&self) -> Result<PathBuf> {
        /// As many as systems follow.
        const MOST_LINKS: usize = 40;
        if self.own {
            return Ok(self.path.clone());
        }
        let not_a_file = |kind| Error::NotAFile { path: self.path.clone(), kind, expected: "a regular file" };
        if self.path.as_os_str().as_encoded_bytes().ends_with(b"/") {
            return Err(not_a_file("a directory"));
        }
        let mut path = self.path.clone();
        for _ in 0..MOST_LINKS {
            let directory = path.parent().unwrap_or(&path);
            let real = directory.canonicalize().map_err(Error::io("find", directory))?;
            let name = path.file_name().ok_or_else(|| not_a_file("a directory"))?;
            let found = real.join(name);
            match std::fs::read_link(&found) {
                Ok(link) => path = real.join(link),
                // No link, or nothing at all; or a pipe, which only the system can follow a link to.
                Err(_) => match std::fs::metadata(&self.path) {
                    Ok(metadata) if !metadata.is_file() => return Err(not_a_file(sys::kind(&metadata))),
                    _ => return Ok(found),
                },
            }
        }
        let many = std::io::Error::other("too many levels of symbolic links");
        Err(Error::io("find", &self.path)(many))
    }
}

thread_local! {
    /// The documents that this thread writes to just now.
    static BUSY: RefCell<Vec<PathBuf>> = const { RefCell::new(Vec::new()) };
}

/// A document that this thread writes to, until this is dropped.
pub(super) struct Busy;

impl Busy {
    /// Waiting for oneself would never end.
    pub(super) fn with(state: &StateFile) -> Result<Self> {
        let path = state.target().unwrap_or_else(|_| state.path.clone());
        BUSY.with_borrow_mut(|busy| {
            if busy.contains(&path) {
                return Err(Error::NeverGranted {
                    what: format!("the document `{}`", path.display()),
                    held: "the same".to_owned(),
                    why: "this thread is changing it just now",
                });
            }
            busy.push(path);
            Ok(Self)
        })
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        BUSY.with_borrow_mut(Vec::pop);
    }
}
