//! Directory trees as plain data, to compare what was with what is.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Everything below a directory that a writer would change: inode, mode, size and times of each entry.
pub(crate) fn listing(dir: &Path) -> BTreeMap<PathBuf, (u64, u32, u64, i64, i64)> {
    let entries = walk(dir).into_iter().filter_map(|path| {
        let meta = fs::symlink_metadata(&path).ok()?;
        let fact = (meta.ino(), meta.mode(), meta.size(), meta.mtime(), meta.mtime_nsec());
        Some((path, fact))
    });
    entries.collect()
}

/// The one file below a directory whose content holds this text.
#[track_caller]
pub(crate) fn find(dir: &Path, text: &str) -> PathBuf {
    let holds = |path: &PathBuf| {
        path.is_file() && fs::read(path).is_ok_and(|content| String::from_utf8_lossy(&content).contains(text))
    };
    let found: Vec<_> = walk(dir).into_iter().filter(holds).collect();
    assert_eq!(found.len(), 1, "`{text}` stands in {found:?}");
    found.into_iter().next().expect("one file")
}

/// Gives everything below a directory, and itself, to somebody.
pub(crate) fn own(dir: &Path, user: u32, group: u32) {
    for path in walk(dir) {
        std::os::unix::fs::lchown(path, Some(user), Some(group)).unwrap();
    }
}

pub(crate) fn walk(dir: &Path) -> Vec<PathBuf> {
    let mut all = vec![dir.to_owned()];
    if let Ok(entries) = fs::read_dir(dir) {
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                all.extend(walk(&entry.path()));
            } else {
                all.push(entry.path());
            }
        }
    }
    all
}

/// Lets a directory be removed, whatever a test did to its permissions.
pub(crate) fn make_removable(dir: &Path) {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).ok();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            make_removable(&entry.path());
        }
    }
}
