//! Tells whether files have the bytes of their blobs. If git converts line endings, or a filter does more, they do not.

use std::path::{Path, PathBuf};

use super::{
    super::{git, path_of},
    Checkout,
};
use crate::{env, error::Result, fs};

/// Git reads no larger file of attributes.
const MOST_BYTES: u64 = 100 << 20;

/// Conversions between the bytes of a file and those of its blob.
pub(crate) struct Conversion {
    /// Line endings.
    lines: bool,
    /// Filters, keywords, encodings.
    pub(crate) filters: bool,
}

impl Conversion {
    pub(crate) fn any(&self) -> bool {
        self.lines || self.filters
    }
}

impl Checkout {
    /// Finds out what is converted, from these files of attributes in the worktree, from those beside it, and from the configuration.
    pub(crate) fn conversion(&self, in_worktree: &[Vec<u8>]) -> Result<Conversion> {
        let settings = self.settings()?;
        // Attributes of a tree instead of the files'.
        let elsewhere = settings.attribute_tree || env::get("GIT_ATTR_SOURCE").is_some();
        let mut found = Conversion { lines: settings.autocrlf || elsewhere, filters: elsewhere };
        let of_system = git::program().and_then(|git| Some(git.parent()?.parent()?.join("etc/gitattributes")));
        let own = self.common_dir.join("info/attributes");
        let outside = [Some(own), settings.attributes.clone(), Some("/etc/gitattributes".into()), of_system];
        let files = in_worktree.iter().map(|path| self.root.join(path_of(path))).chain(outside.into_iter().flatten());
        for file in files.collect::<Vec<PathBuf>>() {
            found.add(&file);
        }
        Ok(found)
    }
}

impl Conversion {
    fn add(&mut self, file: &Path) {
        // A missing file has no rules.
        let text = fs::read_whole(file, MOST_BYTES).unwrap_or_default();
        let mentions = |word: &[u8]| text.windows(word.len()).any(|window| window == word);
        self.lines |= [&b"text"[..], b"eol", b"crlf", b"binary", b"[attr]"].into_iter().any(mentions);
        self.filters |= [&b"filter"[..], b"ident", b"working-tree-encoding", b"[attr]"].into_iter().any(mentions);
    }
}
