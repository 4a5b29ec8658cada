//! Tells whether files have the bytes of their blobs. If git converts line endings, or a filter does more, they do not.

use std::{
    io::ErrorKind::{IsADirectory, NotADirectory, NotFound},
    path::{Path, PathBuf},
};

use super::{
    super::{
        config_files::{files_of_git, system_files},
        git, path_of,
    },
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
    /// Anything may be converted.
    pub(crate) fn unknown() -> Self {
        Self { lines: true, filters: true }
    }

    pub(crate) fn any(&self) -> bool {
        self.lines || self.filters
    }
}

impl Checkout {
    /// Finds out what is converted, from these files of attributes in the worktree, from those beside it, and from the configuration.
    pub(crate) fn conversion(&self, in_worktree: &[Vec<u8>]) -> Result<Conversion> {
        const SYSTEM: &str = "gitattributes";
        let settings = self.settings()?;
        // Attributes of a tree instead of the files'.
        let elsewhere = settings.attribute_tree || env::get("GIT_ATTR_SOURCE").is_some();
        let mut found = Conversion { lines: settings.autocrlf || elsewhere, filters: elsewhere };
        let mut files: Vec<PathBuf> = in_worktree.iter().map(|path| self.root.join(path_of(path))).collect();
        files.push(self.common_dir.join("info/attributes"));
        files.extend(settings.attributes.clone());
        files.extend(system_files(SYSTEM));
        files.extend(git::program().into_iter().flat_map(|git| files_of_git(&git, SYSTEM)));
        for file in files {
            found.add(&file);
        }
        Ok(found)
    }
}

impl Conversion {
    fn add(&mut self, file: &Path) {
        let (lines, filters) = match fs::read_whole(file, MOST_BYTES) {
            Ok(text) => {
                let mentions = |word: &[u8]| text.windows(word.len()).any(|window| window == word);
                let any = |words: &[&[u8]]| words.iter().any(|word| mentions(word));
                (
                    any(&[b"text", b"eol", b"crlf", b"binary", b"[attr]"]),
                    any(&[b"filter", b"ident", b"working-tree-encoding", b"[attr]"]),
                )
            }
            // A missing file has no rules. Any other may have some for git.
            Err(error) => {
                let is_unknown = !matches!(error.kind(), NotFound | NotADirectory | IsADirectory);
                (is_unknown, is_unknown)
            }
        };
        self.lines |= lines;
        self.filters |= filters;
    }
}
