//! Which bytes does git keep? Blobs are read one by one, by one process.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write},
    process::{Child, ChildStdin, ChildStdout, Stdio},
};

use super::Checkout;
use crate::error::{Error, Result};

/// Reads blobs one by one.
pub(crate) struct Blobs {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

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

    /// Opens the object database to read blobs from.
    pub(crate) fn blobs(&self) -> Result<Blobs> {
        let mut git = self.command(None, &["cat-file", "--batch"])?;
        let mut child = git
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(Error::io("start", "git"))?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(stdin), Some(stdout)) => Ok(Blobs { child, stdin: Some(stdin), stdout: BufReader::new(stdout) }),
            _ => Err(Error::io("start", "git")(io::ErrorKind::BrokenPipe.into())),
        }
    }
}

impl Blobs {
    /// Copies a blob's bytes.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] where there is no such object; what writing says.
    pub(crate) fn copy(&mut self, id: &str, into: &mut dyn Write) -> io::Result<()> {
        let Some(stdin) = &mut self.stdin else { return Err(io::ErrorKind::BrokenPipe.into()) };
        stdin.write_all(format!("{id}\n").as_bytes())?;
        stdin.flush()?;
        let mut header = String::new();
        self.stdout.read_line(&mut header)?;
        let size = header.trim_end().strip_prefix(&format!("{id} blob ")).and_then(|size| size.parse::<u64>().ok());
        let Some(size) = size else {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("git has no blob {id}: {}", header.trim_end()),
            ));
        };
        let mut blob = (&mut self.stdout).take(size);
        let written = io::copy(&mut blob, into);
        // What could not be written must not be taken for the next answer.
        io::copy(&mut blob, &mut io::sink())?;
        self.stdout.read_exact(&mut [0])?;
        if written? == size { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

impl Drop for Blobs {
    fn drop(&mut self) {
        drop(self.stdin.take());
        drop(self.child.wait());
    }
}
