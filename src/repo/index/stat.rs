//! Compares a file's metadata with what the index remembers: while they are the same, so is the content.

use std::fs::Metadata;

use crate::sys;

/// The metadata of a file that git remembers, cut to 32 bits each: while they are the same, so is the content, except for racy
/// entries (see [`super::Index::modified`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    /// Seconds and nanoseconds of the last change of the inode.
    pub(crate) changed: (u32, u32),
    /// Seconds and nanoseconds of the last change of the content.
    pub(crate) modified: (u32, u32),
    pub(crate) device: u32,
    pub(crate) inode: u32,
    pub(crate) user: u32,
    pub(crate) group: u32,
    /// Zero means that the rest must not be trusted, unless the blob is the empty one.
    pub(crate) size: u32,
}

impl Stat {
    /// Git's stat data of a file.
    #[expect(clippy::cast_possible_truncation, reason = "as git cuts it")]
    pub(crate) fn of(metadata: &Metadata) -> Self {
        let [changed, modified] = sys::times(metadata).map(short_time);
        let id = sys::identity(metadata);
        let (user, group) = sys::owner(metadata);
        let size = short_size(metadata.len());
        Self { changed, modified, device: id.device as u32, inode: id.inode as u32, user, group, size }
    }
}

/// A time as git cuts it.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "as git cuts it")]
pub(super) fn short_time((seconds, nanoseconds): (i64, i64)) -> (u32, u32) {
    (seconds as u32, nanoseconds as u32)
}

/// A size as git cuts it: what is not empty never becomes zero, which means something else.
#[expect(clippy::cast_possible_truncation, reason = "as git cuts it")]
fn short_size(size: u64) -> u32 {
    if size > 0 && size as u32 == 0 { 1 << 31 } else { size as u32 }
}
