//! A directory kept in memory, to be written again and again: cheaper than the git commands that made it.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

/// All of a directory: files, links and directories, with their modes.
pub(crate) struct Image(Vec<(PathBuf, Kind)>);

enum Kind {
    Directory(u32),
    File(u32, Vec<u8>),
    Link(PathBuf),
}

impl Image {
    /// Reads what a directory holds.
    pub(crate) fn of(dir: &Path) -> Self {
        let (mut entries, mut pending) = (Vec::new(), vec![PathBuf::new()]);
        while let Some(path) = pending.pop() {
            for entry in fs::read_dir(dir.join(&path)).unwrap().flatten() {
                let (path, place) = (path.join(entry.file_name()), entry.path());
                let meta = fs::symlink_metadata(&place).unwrap();
                let mode = meta.permissions().mode();
                let kind = if meta.is_dir() {
                    pending.push(path.clone());
                    Kind::Directory(mode)
                } else if meta.is_symlink() {
                    Kind::Link(fs::read_link(&place).unwrap())
                } else {
                    Kind::File(mode, fs::read(&place).unwrap())
                };
                entries.push((path, kind));
            }
        }
        // A directory before what is in it.
        entries.sort_by(|(one, _), (other, _)| one.cmp(other));
        Self(entries)
    }

    /// Writes it into another directory.
    pub(crate) fn write(&self, dir: &Path) {
        for (path, kind) in &self.0 {
            let place = dir.join(path);
            match kind {
                Kind::Directory(_) => fs::create_dir_all(&place).unwrap(),
                Kind::File(_, bytes) => fs::write(&place, bytes).unwrap(),
                Kind::Link(target) => symlink(target, &place).unwrap(),
            }
            if let Kind::Directory(mode) | Kind::File(mode, _) = kind {
                fs::set_permissions(&place, fs::Permissions::from_mode(*mode)).unwrap();
            }
        }
    }
}
