//! Samples the clean files of a checkout, to find out whether they have the bytes of their blobs.

use crate::escape::hex;

/// Blobs of some clean files, with the sizes of these: all, if they are few.
#[derive(Default)]
pub(super) struct Sample {
    pub(super) taken: Vec<(String, u64)>,
    seen: usize,
    /// Each how-manieth is taken, less one.
    skipped: usize,
}

impl Sample {
    pub(super) fn add(&mut self, id: &[u8], size: u64) {
        const MOST: usize = 64;
        if self.seen.is_multiple_of(self.skipped + 1) {
            self.taken.push((hex(id), size));
        }
        self.seen += 1;
        if self.taken.len() > MOST {
            let mut number = 0;
            self.taken.retain(|_| {
                number += 1;
                number % 2 == 1
            });
            self.skipped = self.skipped * 2 + 1;
        }
    }
}
