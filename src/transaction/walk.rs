//! Visits each entry of an index with the file at its path. The index is read once from start to end; several threads look at the
//! files, because that takes the most time.

use std::{
    io,
    ops::Range,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread::Scope,
};

use crate::{
    error::{Error, Result},
    repo::{Checkout, Entry, Index, SPARSE_DIRECTORY, Stat, path_of},
    sys::{Below, Found},
};

/// How many entries are looked at together.
const BATCH: usize = 1024;
/// More threads only stand in each other's way: in the kernel, and in that of git beside us.
const MOST_THREADS: usize = 4;

/// Some entries in a row, and what is there.
#[derive(Default)]
struct Batch {
    /// Paths and ids, one after the other.
    bytes: Vec<u8>,
    entries: Vec<Kept>,
    found: Vec<io::Result<Option<Found>>>,
}

/// An entry whose path and id stand in a batch.
struct Kept {
    path: Range<usize>,
    id: Range<usize>,
    mode: u32,
    stage: u8,
    flags: (bool, bool, bool),
    stat: Stat,
}

impl Kept {
    /// The entry, whose path and id stand in `bytes`.
    fn entry<'b>(&self, bytes: &'b [u8]) -> Entry<'b> {
        let (assume_unchanged, skip_worktree, intent_to_add) = self.flags;
        Entry {
            path: &bytes[self.path.clone()],
            id: &bytes[self.id.clone()],
            mode: self.mode,
            stage: self.stage,
            assume_unchanged,
            skip_worktree,
            intent_to_add,
            stat: self.stat,
        }
    }
}

impl Batch {
    fn add(&mut self, entry: &Entry<'_>) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(entry.path);
        let middle = self.bytes.len();
        self.bytes.extend_from_slice(entry.id);
        self.entries.push(Kept {
            path: start..middle,
            id: middle..self.bytes.len(),
            mode: entry.mode,
            stage: entry.stage,
            flags: (entry.assume_unchanged, entry.skip_worktree, entry.intent_to_add),
            stat: entry.stat,
        });
    }

    /// Takes as many entries as fit; tells whether that was all.
    fn fill(&mut self, entries: &mut Index) -> Result<bool> {
        while self.entries.len() < BATCH {
            match entries.next()? {
                Some(entry) => self.add(&entry),
                None => return Ok(true),
            }
        }
        Ok(false)
    }

    fn look(&mut self, below: &mut Below) {
        let bytes = &self.bytes;
        self.found.extend(self.entries.iter().map(|kept| look(below, kept.mode, &bytes[kept.path.clone()])));
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.entries.clear();
        self.found.clear();
    }
}

/// What is at the path of an entry. A directory of a sparse index stands for entries that are not there.
fn look(below: &mut Below, mode: u32, path: &[u8]) -> io::Result<Option<Found>> {
    if mode == SPARSE_DIRECTORY { Ok(None) } else { below.look(path) }
}

/// Facts about an index beside its entries.
#[derive(Debug, Default)]
pub(super) struct Walked {
    /// It leaves something out: what was visited is of no use.
    pub(super) is_partial: bool,
    /// The id of its tree, if git has noted it.
    pub(super) tree: Option<Vec<u8>>,
}

/// Calls `visit` with each entry and what is at its path, in the order of the index. Memory does not grow with it.
pub(super) fn each(
    checkout: &Checkout,
    index: &std::path::Path,
    mut visit: impl FnMut(&Entry<'_>, Option<Found>) -> Result<()>,
) -> Result<Walked> {
    let Some(mut entries) = Index::open(index, checkout.id_bytes)? else { return Ok(Walked::default()) };
    let open = || Below::open(&checkout.root).map_err(Error::io("read", &checkout.root));
    let unreadable = |path: &[u8]| Error::io("read", checkout.root.join(path_of(path)));
    // A thread takes as long to start as some hundred files to look at.
    let wanted = if entries.count() <= BATCH {
        0
    } else {
        std::thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS)
    };
    let workers: Vec<Below> = (0..wanted).map(|_| open()).collect::<Result<_>>()?;
    std::thread::scope(|scope| {
        let workers = Workers::start(scope, workers);
        if workers.work.is_empty() {
            let mut below = open()?;
            while let Some(entry) = entries.next()? {
                let found = look(&mut below, entry.mode, entry.path);
                visit(&entry, found.map_err(unreadable(entry.path))?)?;
            }
        } else if !workers.each(&mut entries, |entry, found| visit(entry, found.map_err(unreadable(entry.path))?))? {
            return Ok(Walked { is_partial: true, tree: None });
        }
        Ok(Walked { is_partial: entries.is_partial()?, tree: entries.tree()? })
    })
}

/// Threads that look at what is there, each with a batch at hand and one to come.
struct Workers {
    work: Vec<SyncSender<Batch>>,
    results: Vec<Receiver<Batch>>,
}

impl Workers {
    /// Starts a thread for each of these. The system may give fewer threads, or none.
    fn start<'scope>(scope: &'scope Scope<'scope, '_>, workers: Vec<Below>) -> Self {
        let start = |mut below: Below| {
            let (give, work) = sync_channel::<Batch>(2);
            let (done, result) = sync_channel(2);
            let looks = move || {
                for mut batch in work {
                    batch.look(&mut below);
                    if done.send(batch).is_err() {
                        break;
                    }
                }
            };
            std::thread::Builder::new().spawn_scoped(scope, looks).ok().map(|_| (give, result))
        };
        let (work, results) = workers.into_iter().filter_map(start).unzip();
        Self { work, results }
    }

    /// Visits each entry in order; `false` if a thread ended too early.
    fn each(
        &self,
        entries: &mut Index,
        mut visit: impl FnMut(&Entry<'_>, io::Result<Option<Found>>) -> Result<()>,
    ) -> Result<bool> {
        let threads = self.work.len();
        let mut spare: Vec<Batch> = Vec::new();
        let (mut given, mut taken, mut ended) = (0, 0, false);
        loop {
            while !ended && given - taken < threads * 2 {
                let mut batch = spare.pop().unwrap_or_default();
                ended = batch.fill(entries)?;
                // A worker ends only when this end of its channel is closed.
                drop(self.work[given % threads].send(batch));
                given += 1;
            }
            if taken == given {
                return Ok(true);
            }
            let Ok(mut batch) = self.results[taken % threads].recv() else { return Ok(false) };
            taken += 1;
            let found = std::mem::take(&mut batch.found);
            for (kept, found) in batch.entries.iter().zip(found) {
                visit(&kept.entry(&batch.bytes), found)?;
            }
            batch.clear();
            spare.push(batch);
        }
    }
}
