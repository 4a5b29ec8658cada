//! Tells FIFOs from other entries, and writes a whole file system to disk.

use std::{
    fs::{File, Metadata},
    io,
    os::unix::fs::FileTypeExt as _,
};

/// Tells whether something is a FIFO.
pub(crate) fn is_fifo(metadata: &Metadata) -> bool {
    metadata.file_type().is_fifo()
}

/// Writes to disk all that was written to the file system of a file: for many files cheaper than one by one.
pub(crate) fn sync_file_system(file: &File) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::fs::syncfs(file)?;
    #[cfg(not(target_os = "linux"))]
    {
        let _: &File = file;
        rustix::fs::sync();
    }
    Ok(())
}
