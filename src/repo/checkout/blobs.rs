//! Reads the bytes that git keeps, with one git for many objects.

use std::{
    io::{self, Write},
    process::Stdio,
};

use super::{
    super::run::{Header, Objects},
    Checkout,
};
use crate::error::Result;

/// Reads blobs one by one.
#[derive(Debug)]
pub(crate) struct Blobs(Objects);

impl Checkout {
    /// Sizes of objects, in the order of the ids; `None` for one that is not there.
    pub(crate) fn sizes(&self, ids: &[u8]) -> Result<Vec<Option<u64>>> {
        let answer = self.run(None, &["cat-file", "--batch-check=%(objectsize)"], Some(ids))?;
        let lines = answer.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        Ok(lines.map(|line| std::str::from_utf8(line).ok()?.parse().ok()).collect())
    }

    /// Tells whether an object has a file of its own in this repository; many have none, and are there nevertheless.
    pub(crate) fn is_loose(&self, id: &str) -> bool {
        let (directory, name) = id.split_at_checked(2).unwrap_or_default();
        !name.is_empty() && self.common_dir.join("objects").join(directory).join(name).is_file()
    }

    /// Tells whether something else than a file is in the place of an object's file.
    pub(super) fn is_no_file(&self, id: &str) -> bool {
        let (directory, name) = id.split_at_checked(2).unwrap_or_default();
        let metadata = std::fs::metadata(self.common_dir.join("objects").join(directory).join(name));
        metadata.is_ok_and(|metadata| !metadata.is_file())
    }

    /// Opens the object database to read blobs from.
    pub(crate) fn blobs(&self) -> Result<Blobs> {
        Objects::start(self.command::<&str>(None, &[])?, Stdio::null()).map(Blobs)
    }
}

impl Blobs {
    /// Copies a blob's bytes.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] if the blob is missing; those of writing.
    pub(crate) fn copy(&mut self, id: &str, into: &mut dyn Write) -> io::Result<()> {
        let (Some(questions), Some(answers)) = (&mut self.0.questions, &mut self.0.answers) else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        questions.write_all(format!("{id}\n").as_bytes())?;
        let missing = |said: &str| io::Error::new(io::ErrorKind::NotFound, format!("git has no blob {id}: {said}"));
        match answers.header()? {
            Ok(header) if header.kind == "blob" && header.id == id => answers.body(&header, into),
            Ok(header) => {
                // The next answer follows its body.
                answers.body(&header, &mut io::sink())?;
                let Header { id, kind, .. } = &header;
                Err(missing(&format!("{id} is a {kind}")))
            }
            Err(said) => Err(missing(&said)),
        }
    }
}
