//! Reads a baseline that an earlier process has captured. Another user may have changed every byte of it.

use std::{
    path::{Path, PathBuf},
    sync::Mutex,
};

use super::{BEFORE, Baseline, EXCLUDES, Header, Item, MOST_BYTES, NOTES, SCHEMA, record::check_reference};
use crate::{
    error::{Error, Result},
    fs::{self, Root},
    repo::{Checkout, Index},
};

impl Baseline {
    /// Reads what an earlier process has taken, whose paths lead to files of `tree`.
    ///
    /// # Errors
    /// [`Error::BadRecord`] for a forged record, [`Error::BrokenRepository`] for a damaged one,
    /// [`Error::NotAFile`], [`Error::Foreign`], [`Error::Io`].
    pub(crate) fn open(directory: PathBuf, checkout: Checkout, tree: &Root) -> Result<Self> {
        let damaged = |path: &Path| Error::BrokenRepository {
            path: path.to_owned(),
            reason: "what repoguard kept of the state before a mutation cannot be read".to_owned(),
        };
        // Another user with access to our directory may have replaced the files of the mutation's user.
        let journal = super::super::journal::Journal::path(&directory);
        let ownership = fs::Ownership::of(&fs::open(&journal, false)?, &journal)?;
        let (owner, is_strangers) = (ownership.owner, !ownership.is_trusted());
        let path = directory.join(BEFORE);
        let text = fs::read_trusted(&path, MOST_BYTES, owner.0)?;
        let text = String::from_utf8(text).map_err(|_| damaged(&path))?;
        let (first, rest) = text.split_once('\n').ok_or_else(|| damaged(&path))?;
        let header: Header = serde_json::from_str(first).map_err(|_| damaged(&path))?;
        // Half a list, taken for the whole, would restore nothing, and remove what was there before.
        if header.schema != SCHEMA || header.digest != digest(rest.as_bytes()) {
            return Err(damaged(&path));
        }
        header.check(tree).map_err(|reason| Error::BadRecord { path: path.clone(), line: 1, reason })?;
        let mut lines = rest.lines().zip(2..);
        let items = parse(&path, lines.by_ref().take(header.items), |item: &Item| item.check(tree))?;
        let references = parse(&path, lines, check_reference)?;
        // The right owner does not prove that they are complete. A lookup in an unsorted list would miss items.
        if items.len() != header.items || !items.is_sorted_by(|one, next| one.path <= next.path) {
            return Err(damaged(&path));
        }
        let index = directory.join("index");
        if fs::find(&index)?.is_some() {
            fs::open_trusted(&index, owner.0)?;
        }
        match Index::open(&index, checkout.id_bytes)? {
            // It fails for paths that lead out of a worktree, or into a repository.
            Some(mut entries) => while entries.next()?.is_some() {},
            None if header.index => return Err(damaged(&path)),
            None => {}
        }
        let checkout = checkout.noting(directory.join(NOTES)).with_names_of_the_disk();
        let (staged, others, standby) = (Vec::new(), Mutex::default(), None);
        let mut before = Self {
            items,
            references,
            staged,
            directory,
            checkout,
            header,
            owner,
            others,
            inodes: std::sync::OnceLock::new(),
            standby,
            is_left: true,
            is_strangers,
        };
        if before.header.excludes {
            fs::open_trusted(&before.directory.join(EXCLUDES), owner.0)?;
        }
        before.use_kept_excludes();
        Ok(before)
    }
}

/// Numbered lines of a file, each checked to stay inside.
fn parse<'a, T: serde::de::DeserializeOwned>(
    path: &Path,
    lines: impl Iterator<Item = (&'a str, usize)>,
    check: impl Fn(&T) -> Result<(), String>,
) -> Result<Vec<T>> {
    let parse = |(text, line): (&str, usize)| {
        let bad = |reason| Error::BadRecord { path: path.to_owned(), line, reason };
        let value = serde_json::from_str::<T>(text).map_err(|error| bad(error.to_string()))?;
        check(&value).map_err(bad)?;
        Ok(value)
    };
    lines.map(parse).collect()
}

pub(super) fn digest(text: &[u8]) -> String {
    crate::escape::hex(&hmac_sha256::Hash::hash(text))
}
