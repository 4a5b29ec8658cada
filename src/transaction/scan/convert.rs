//! Finds files whose bytes on disk are not those of their blobs: line endings, filters.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
};

use super::{
    super::baseline::{Content, KIND, Kind, REGULAR},
    Scan, item,
};
use crate::{
    error::Result,
    escape::hex,
    repo::{Conversion, Index},
};

/// How many files are asked about together, so that memory does not grow with the repository.
const BATCH: usize = 20_000;

impl Scan<'_> {
    /// Sees to it that no file is taken from git's objects that has other bytes on disk: filters, line endings.
    pub(in crate::transaction) fn convert(&mut self, index: &Path) -> Result<()> {
        let attributes: Vec<Vec<u8>> = self.attributes.iter().cloned().collect();
        let mut conversion = self.checkout.conversion(&attributes)?;
        for path in &attributes {
            // Git takes them from the index then.
            if self.find(path)?.is_none() {
                conversion = Conversion::unknown();
            }
        }
        // The configuration may have been another one when the files were written.
        if !conversion.any() && self.checkout.have_sizes(&self.sample.taken)? {
            return Ok(());
        }
        let known: HashMap<Vec<u8>, usize> =
            self.items.iter().enumerate().map(|(at, item)| (item.path.clone(), at)).collect();
        let Some(mut entries) = Index::open(index, self.checkout.id_bytes)? else { return Ok(()) };
        let mut batch: Vec<(Vec<u8>, String)> = Vec::new();
        loop {
            let entry = entries.next()?;
            let ended = entry.is_none();
            if let Some(entry) = entry
                && entry.mode & KIND == REGULAR
                && entry.stage == 0
            {
                batch.push((entry.path.to_vec(), hex(entry.id)));
            }
            if batch.len() >= BATCH || ended {
                self.convert_batch(&conversion, &known, &batch)?;
                batch.clear();
            }
            if ended {
                return Ok(());
            }
        }
    }

    fn convert_batch(
        &mut self,
        conversion: &Conversion,
        known: &HashMap<Vec<u8>, usize>,
        batch: &[(Vec<u8>, String)],
    ) -> Result<()> {
        let converted = if conversion.filters {
            let input: Vec<u8> = batch.iter().flat_map(|(path, _)| path.iter().copied().chain([0])).collect();
            self.checkout.with_attributes(&["filter", "ident", "working-tree-encoding"], &input)?
        } else {
            HashSet::new()
        };
        let input: Vec<u8> = batch.iter().flat_map(|(_, id)| id.bytes().chain([b'\n'])).collect();
        let sizes = self.checkout.sizes(&input)?;
        for ((path, _), size) in batch.iter().zip(sizes) {
            let at = known.get(path);
            if at.is_some_and(|&at| !matches!(self.items[at].content, Content::Blob(_))) {
                continue;
            }
            let Some(found) = self.find(path)? else { continue };
            // Line endings are converted only by adding or removing bytes.
            if size == Some(found.size) && !converted.contains(path) {
                continue;
            }
            match at {
                Some(&at) => self.items[at].content = Content::Copy(0),
                None => self.items.push(item(path, Kind::File, Some(&found), Content::Copy(0), false)),
            }
        }
        Ok(())
    }
}
