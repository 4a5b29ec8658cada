//! Compares two indexes.

use std::{
    cmp::Ordering,
    path::{Path, PathBuf},
};

use super::baseline::Baseline;
use crate::{
    error::Result,
    fs,
    repo::{Entry, Index},
};

/// Calls back with each path whose entry differs between two indexes, and with both. Stat data and flags do not count.
pub(super) fn differences(
    before: &Baseline,
    old: &Path,
    new: &Path,
    mut report: impl FnMut(&[u8], Option<&Entry<'_>>, Option<&Entry<'_>>),
) -> Result<()> {
    let (plain_old, plain_new) = (plain_copy(before, old, "plain-old")?, plain_copy(before, new, "plain-new")?);
    let mut old = Index::open(plain_old.as_deref().unwrap_or(old), before.checkout.id_bytes)?;
    let mut new = Index::open(plain_new.as_deref().unwrap_or(new), before.checkout.id_bytes)?;
    let (mut was, mut now) = (next(&mut old)?, next(&mut new)?);
    loop {
        let order = match (&was, &now) {
            (None, None) => break,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(was), Some(now)) => (was.path, was.stage).cmp(&(now.path, now.stage)),
        };
        match (order, &was, &now) {
            (Ordering::Less, Some(was), _) => report(was.path, Some(was), None),
            (Ordering::Greater, _, Some(now)) => report(now.path, None, Some(now)),
            (_, Some(was), Some(now))
                if (was.mode, was.id, was.intent_to_add) != (now.mode, now.id, now.intent_to_add) =>
            {
                report(now.path, Some(was), Some(now));
            }
            _ => {}
        }
        if order.is_le() {
            was = next(&mut old)?;
        }
        if order.is_ge() {
            now = next(&mut new)?;
        }
    }
    [plain_old, plain_new].iter().flatten().try_for_each(fs::remove_entry)
}

/// A copy of a split or sparse index that holds all entries.
fn plain_copy(before: &Baseline, index: &Path, name: &str) -> Result<Option<PathBuf>> {
    let Some(mut reader) = Index::open(index, before.checkout.id_bytes)? else { return Ok(None) };
    if !reader.is_partial()? {
        return Ok(None);
    }
    let copy = before.directory().join(name);
    fs::remove_entry(&copy)?;
    fs::copy_index(index, &copy, false)?;
    before.checkout.unfold(&copy)?;
    Ok(Some(copy))
}

pub(super) fn next(index: &mut Option<Index>) -> Result<Option<Entry<'_>>> {
    index.as_mut().map_or(Ok(None), Index::next)
}
