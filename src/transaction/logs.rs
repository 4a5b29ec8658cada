//! Keeps the logs of references, and restores entries that they lose. Git removes a log with its reference, and entries on request:
//! nothing else leads to their commits.
//!
//! Each log is kept under a second name, with its length, since git only appends to it. If references stand in tables, the tables are kept,
//! because git never changes one. There, HEAD's own log is not put back: it cannot be written as those of branches are.
//!
//! The stash is a log as well, and kept as a whole: `references`.

use std::{collections::HashSet, io::Write as _, path::PathBuf};

use super::{
    baseline::{Baseline, MOST_BYTES},
    trace::Moves,
};
use crate::{
    error::{Error, Result},
    fs::{self, Sharing},
    repo::{Checkout, HEAD, Head, STASH},
};

/// With more references than these, no log is kept: to keep them takes longer than most mutations.
const MOST: usize = 5_000;

/// How our own gits say what they do.
const OURS: &[u8] = b"repoguard: put back";

/// Prefixes of kept logs and tables. They have no directory of their own: a user who recovers another user's mutation could not
/// remove it.
const LOG: &str = "log-";
const TABLE: &str = "table-";

/// A git directory for the tables, there only while they are read.
const TABLES: &str = "tables.git";

impl Baseline {
    /// Keeps the logs of all references; returns those that are files, with their lengths in bytes.
    pub(super) fn keep_logs(&self) -> Result<Vec<(String, u64)>> {
        let mut kept = Vec::new();
        if self.references.len() > MOST {
            return Ok(kept);
        }
        if self.checkout.has_reftable() {
            for table in self.checkout.tables() {
                let mut name = std::ffi::OsString::from(TABLE);
                name.push(table.file_name().unwrap_or_default());
                fs::link(&table, &self.directory().join(name), Sharing::default())?;
            }
            return Ok(kept);
        }
        let references = self.references.iter().filter(|one| one.name != STASH && !one.is_odd);
        for name in references.map(|one| one.name.as_str()).chain([HEAD]) {
            let log = self.checkout.log_of(name);
            let Ok(metadata) = std::fs::symlink_metadata(&log) else { continue };
            if metadata.is_file() && metadata.len() > 0 {
                fs::link(&log, &self.kept_log(kept.len()), Sharing::default())?;
                kept.push((name.to_owned(), metadata.len()));
            }
        }
        Ok(kept)
    }

    fn kept_log(&self, number: usize) -> PathBuf {
        self.directory().join(format!("{LOG}{number}"))
    }

    /// A repository with the references as they were, if they stand in tables.
    fn with_kept_tables(&self) -> Result<Option<Checkout>> {
        let kept = fs::list(self.directory()).unwrap_or_default();
        let tables: Vec<_> = kept.iter().filter_map(|name| Some((name, name.to_str()?.strip_prefix(TABLE)?))).collect();
        if tables.is_empty() {
            return Ok(None);
        }
        let git_dir = self.directory().join(TABLES);
        fs::make_directories(&git_dir.join("reftable"), None)?;
        for (name, own) in tables {
            fs::link(&self.directory().join(name), &git_dir.join("reftable").join(own), Sharing::default())?;
        }
        self.checkout.with_tables_in(&git_dir).map(Some)
    }

    /// The log of a reference as it was, in the format of [`Checkout::log_text`], if references stand in tables.
    pub(super) fn kept_log_text(&self, name: &str) -> Result<Vec<u8>> {
        if name == STASH {
            return Ok(self.kept_stash()?.map(|(text, _)| text).unwrap_or_default());
        }
        let text = self.with_kept_tables()?.map_or(Ok(Vec::new()), |kept| kept.log_text(name));
        fs::remove_entry(&self.directory().join(TABLES))?;
        text
    }
}

/// Puts entries back that the command's gits took from logs, of references that are there. `head` is where HEAD is now.
pub(super) fn put_back(before: &Baseline, head: &Head, traced: &Moves) -> Result<()> {
    let was_any_killed = before.was_any_killed();
    let may_have_lost = |name: &str| was_any_killed || traced.touch(name);
    let mut names = before.references.iter().map(|one| one.name.as_str()).chain([HEAD]);
    if !names.any(may_have_lost) {
        return Ok(());
    }
    let was: HashSet<(&str, &str)> = before.references.iter().map(|one| (&*one.name, &*one.id)).collect();
    let now = before.checkout.references()?;
    let unmoved: HashSet<&str> =
        now.iter().filter(|one| was.contains(&(&*one.name, &*one.id))).map(|one| &*one.name).collect();
    let is_as_it_was = |name: &str| unmoved.contains(name) || (name == HEAD && head == before.head());
    if before.checkout.has_reftable() {
        let Some(kept) = before.with_kept_tables()? else { return Ok(()) };
        // A symbolic one would become a plain one.
        let plain = before.references.iter().filter(|one| one.target.is_none());
        let names = plain.map(|one| one.name.as_str()).filter(|name| *name != STASH);
        for name in names.filter(|name| may_have_lost(name) && is_as_it_was(name)) {
            let (was, is) = (kept.log_text(name)?, before.checkout.log_text(name)?);
            // Newest first.
            let entries = |text: &'_ [u8]| -> Vec<Vec<u8>> {
                let entries = text.split_inclusive(|byte| *byte == 0);
                entries.rev().map(<[u8]>::to_vec).collect()
            };
            if let Some(mut whole) = merged(entries(&was), entries(&is)) {
                whole.reverse();
                before.checkout.rewrite_log(name, &whole.concat())?;
            }
        }
        return fs::remove_entry(&before.directory().join(TABLES));
    }
    for (number, (name, length)) in before.header.logs.iter().enumerate() {
        if !may_have_lost(name) || !is_as_it_was(name) {
            continue;
        }
        let path = before.kept_log(number);
        let mut was = fs::read_whole(&path, MOST_BYTES).map_err(Error::io("read", &path))?;
        was.truncate(usize::try_from(*length).unwrap_or(usize::MAX));
        let log = before.checkout.log_of(name);
        let is = fs::read_whole(&log, MOST_BYTES).unwrap_or_default();
        let lines = |text: &[u8]| text.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
        if let Some(whole) = merged(lines(&was), lines(&is)) {
            let place = before.checkout.place_of_log(name)?;
            if let Some((above, _)) = name.rsplit_once('/') {
                fs::make_directories(&before.checkout.place_of_log(above)?, None)?;
            }
            let mode = fs::metadata(path.as_path())?.permissions();
            fs::put_file(&place, mode, None, |file| file.write_all(&whole.concat()))?;
        }
    }
    Ok(())
}

/// A log with all entries that it had, and with newer ones, oldest first; `None` if it lost none. Our own entries, which only gave
/// the reference its old value, are left out then.
fn merged(was: Vec<Vec<u8>>, is: Vec<Vec<u8>>) -> Option<Vec<Vec<u8>>> {
    if is.starts_with(&was) {
        return None;
    }
    let known: HashSet<&[u8]> = was.iter().map(Vec::as_slice).collect();
    let is_ours = |entry: &Vec<u8>| entry.windows(OURS.len()).any(|part| part == OURS);
    let mut new: Vec<Vec<u8>> = is.into_iter().filter(|entry| !known.contains(entry.as_slice())).collect();
    if new.iter().all(is_ours) {
        new.clear();
    }
    Some([was, new].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::garbage::{cases, near};

    fn lines(text: &str) -> Vec<Vec<u8>> {
        text.split_inclusive('\n').map(|line| line.as_bytes().to_vec()).collect()
    }

    #[test]
    fn log_that_lost_entries_gets_them_back_and_keeps_what_came_since() {
        let whole =
            |was, is| merged(lines(was), lines(is)).map(|whole| String::from_utf8(whole.concat()).expect("text"));
        assert_eq!(whole("a\nb\n", "a\nb\nc\n"), None);
        assert_eq!(whole("a\nb\n", "a\nb\n"), None);
        assert_eq!(whole("a\nb\n", "x\trepoguard: put back\n").as_deref(), Some("a\nb\n"));
        assert_eq!(whole("a\nb\n", "").as_deref(), Some("a\nb\n"));
        assert_eq!(whole("a\nb\n", "b\nc\n").as_deref(), Some("a\nb\nc\n"));
        assert_eq!(
            whole("a\nb\n", "x\ty\nx\trepoguard: put back\n").as_deref(),
            Some("a\nb\nx\ty\nx\trepoguard: put back\n")
        );
    }

    #[test]
    fn whatever_becomes_of_a_log_no_entry_that_it_had_is_lost() {
        let sample = b"a\nb\nx\trepoguard: put back\n".to_vec();
        let texts = || near(vec![sample.clone()]);
        proptest::proptest!(cases(2000), |(was in texts(), is in texts())| {
            let lines = |text: &[u8]| text.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect::<Vec<_>>();
            if let Some(whole) = merged(lines(&was), lines(&is)) {
                proptest::prop_assert!(lines(&was).iter().all(|line| whole.contains(line)));
            }
        });
    }
}
