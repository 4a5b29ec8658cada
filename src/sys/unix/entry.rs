//! Which kinds of entries does a directory have beside regular files, and how are they made?

use std::{
    fs::{File, Metadata, OpenOptions},
    io,
    os::unix::{
        fs::{DirBuilderExt as _, FileTypeExt as _, OpenOptionsExt as _},
        net::UnixListener,
    },
    path::Path,
};

/// Tells whether something is a FIFO.
pub(crate) fn is_fifo(metadata: &Metadata) -> bool {
    metadata.file_type().is_fifo()
}

/// Tells whether something is a socket.
pub(crate) fn is_socket(metadata: &Metadata) -> bool {
    metadata.file_type().is_socket()
}

/// Creates a file for writing, its owner's alone, where nothing is.
pub(crate) fn create_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Creates a symbolic link.
pub(crate) fn make_link(target: &Path, path: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, path)
}

/// Creates a socket that nobody listens at.
pub(crate) fn make_socket(path: &Path) -> io::Result<()> {
    UnixListener::bind(path).map(drop)
}

/// Creates a directory with at most these permission bits from the first moment.
pub(crate) fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    std::fs::DirBuilder::new().mode(mode).create(path)
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
