//! Where do two indexes differ?

use std::path::{Path, PathBuf};

use super::before::Before;
use crate::{
    error::Result,
    fs,
    repo::{Entry, Index},
};

/// Tells each path whose entry differs between two indexes, with both. Stat data and flags are no difference.
pub(super) fn differences(
    before: &Before,
    old: &Path,
    new: &Path,
    mut tell: impl FnMut(&[u8], Option<&Entry<'_>>, Option<&Entry<'_>>),
) -> Result<()> {
    let (plain_old, plain_new) = (plain_copy(before, old, "plain-old")?, plain_copy(before, new, "plain-new")?);
    let mut old = Index::open(plain_old.as_deref().unwrap_or(old), before.checkout.id_bytes)?;
    let mut new = Index::open(plain_new.as_deref().unwrap_or(new), before.checkout.id_bytes)?;
    let mut old_entry = next(&mut old)?;
    let mut new_entry = next(&mut new)?;
    loop {
        let order = match (&old_entry, &new_entry) {
            (None, None) => break,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some(old), Some(new)) => (&old.path, old.stage).cmp(&(&new.path, new.stage)),
        };
        match order {
            std::cmp::Ordering::Less => {
                if let Some(entry) = &old_entry {
                    tell(&entry.path, Some(&entry.view()), None);
                }
                old_entry = next(&mut old)?;
            }
            std::cmp::Ordering::Greater => {
                if let Some(entry) = &new_entry {
                    tell(&entry.path, None, Some(&entry.view()));
                }
                new_entry = next(&mut new)?;
            }
            std::cmp::Ordering::Equal => {
                if let (Some(old), Some(new)) = (&old_entry, &new_entry)
                    && (old.mode, &old.id, old.intent_to_add) != (new.mode, &new.id, new.intent_to_add)
                {
                    tell(&new.path, Some(&old.view()), Some(&new.view()));
                }
                old_entry = next(&mut old)?;
                new_entry = next(&mut new)?;
            }
        }
    }
    [plain_old, plain_new].iter().flatten().try_for_each(fs::remove_entry)
}

/// A copy of a split or sparse index that holds all entries.
fn plain_copy(before: &Before, index: &Path, name: &str) -> Result<Option<PathBuf>> {
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

/// An entry that outlives the next.
struct Owned {
    path: Vec<u8>,
    id: Vec<u8>,
    mode: u32,
    stage: u8,
    intent_to_add: bool,
    stat: crate::repo::Stat,
}

impl Owned {
    fn view(&self) -> Entry<'_> {
        Entry {
            path: &self.path,
            id: &self.id,
            mode: self.mode,
            stage: self.stage,
            assume_unchanged: false,
            skip_worktree: false,
            intent_to_add: self.intent_to_add,
            stat: self.stat,
        }
    }
}

fn next(index: &mut Option<Index>) -> Result<Option<Owned>> {
    let Some(index) = index else { return Ok(None) };
    Ok(index.next()?.map(|entry| Owned {
        path: entry.path.to_vec(),
        id: entry.id.to_vec(),
        mode: entry.mode,
        stage: entry.stage,
        intent_to_add: entry.intent_to_add,
        stat: entry.stat,
    }))
}
