//! Do files have the bytes of their blobs? Not where git converts line endings, or a filter does more.

use std::path::PathBuf;

use crate::{
    error::Result,
    fs,
    repo::{Checkout, path_of},
};

/// Git reads no larger file of attributes.
const MOST_BYTES: u64 = 100 << 20;

/// What stands between the bytes of a file and those of its blob.
pub(super) struct Conversion {
    /// Line endings.
    lines: bool,
    /// Filters, keywords, encodings.
    pub(super) filters: bool,
}

impl Conversion {
    pub(super) fn find(checkout: &Checkout, tracked: &[Vec<u8>], untracked: &[Vec<u8>]) -> Result<Self> {
        let (autocrlf, outside) = checkout.conversion()?;
        let mut found = Self { lines: autocrlf, filters: false };
        let in_worktree = tracked.iter().chain(untracked.iter().filter(|path| path.ends_with(b".gitattributes")));
        let mut files: Vec<PathBuf> = in_worktree.map(|path| checkout.root.join(path_of(path))).collect();
        files.extend(outside);
        for file in files {
            // What is not there says nothing.
            let text = fs::read_whole(&file, MOST_BYTES).unwrap_or_default();
            let mentions = |word: &[u8]| text.windows(word.len()).any(|window| window == word);
            found.lines |= [&b"text"[..], b"eol", b"crlf", b"binary", b"[attr]"].into_iter().any(mentions);
            found.filters |= [&b"filter"[..], b"ident", b"working-tree-encoding", b"[attr]"].into_iter().any(mentions);
        }
        Ok(found)
    }

    pub(super) fn any(&self) -> bool {
        self.lines || self.filters
    }
}
