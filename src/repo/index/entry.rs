//! Describes one entry of the index.

use super::Stat;

/// The mode of a submodule, whose id is that of a commit.
pub(crate) const SUBMODULE: u32 = 0o160_000;
/// The mode of a directory that a sparse index has instead of what is in it.
pub(crate) const SPARSE_DIRECTORY: u32 = 0o040_000;

/// One entry of the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry<'a> {
    /// From the top of the worktree, with `/` between the names; empty only where [`super::Index::is_partial`].
    pub(crate) path: &'a [u8],
    /// Of the content: a blob, or a submodule's commit.
    pub(crate) id: &'a [u8],
    /// The type and the permission bits: `0o100644`, `0o100755`, `0o120000`, `0o160000`, or [`SPARSE_DIRECTORY`].
    pub(crate) mode: u32,
    /// 0, or 1 to 3 in a conflict: the base, ours, theirs.
    pub(crate) stage: u8,
    /// The user said that the file in the worktree need not be looked at.
    pub(crate) assume_unchanged: bool,
    /// The file need not be in the worktree.
    pub(crate) skip_worktree: bool,
    /// `git add --intent-to-add`: the path is there, the content is not.
    pub(crate) intent_to_add: bool,
    pub(crate) stat: Stat,
}
