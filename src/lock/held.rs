//! A lock that is held: locked files, a record of the holder, and a number greater than all before.

use std::{
    fs::File,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use super::{
    file::LockFile,
    plan::{Anchored, PartPlan},
    queue::{Queue, clock},
    record::{Seen, Slot, Table},
    token::Token,
    visit::Visits,
};
use crate::{
    error::{Error, Result},
    fs::{self, Sharing},
    holder::{self, Descent, Holder, Mode, REPO_KEY},
    sys::{self, Retry},
};

/// How long a hold waits at its end for those who are about to leave it: a hook's watcher ends when it has seen its git end.
const LEAVING: Retry = Retry::every(Duration::from_millis(1)).within(Duration::from_millis(100));

/// A lock that is held, until [`Held::release`] or the end of all processes that share it.
#[must_use = "the lock is let go when this is dropped"]
pub(crate) struct Held {
    parts: Vec<Part>,
    slot: Option<Slot>,
    record: Holder,
    pub(crate) token: Token,
    /// The directories that it covers: their state is this hold's to change.
    pub(crate) anchored: Vec<Anchored>,
    /// Other live holds, and holders that died without a word.
    pub(crate) others: Vec<Holder>,
    pub(crate) died: Vec<Holder>,
    /// Holders that still run, and may believe that they have what we hold: its place was replaced under them.
    pub(crate) displaced: Vec<Holder>,
    /// Things that went wrong beside the lock, and did not stop it.
    pub(crate) troubles: Vec<Error>,
    /// Why records can never be kept here.
    unrecorded: Option<Error>,
    /// The result of [`Held::check_before_removal`].
    checked: Option<Vec<PathBuf>>,
    /// The holds around this one.
    visits: Visits,
}

/// One file of a lock.
pub(super) struct Part {
    pub(super) plan: PartPlan,
    pub(super) file: LockFile,
}

impl Part {
    /// Opens it, creating the file if it is missing; `None` if it is missing and everything is read-only.
    pub(super) fn open(plan: &PartPlan, sharing: Sharing) -> Result<Option<Self>> {
        let file = match plan {
            PartPlan { anchor: true, path, .. } => Some(LockFile::open_anchor(path)?),
            PartPlan { optional: true, path, .. } => open_optional(path)?,
            PartPlan { path, .. } => LockFile::open(path, sharing)?,
        };
        Ok(file.map(|file| Self { plan: plan.clone(), file }))
    }

    /// Tells whether its path still leads to what was opened.
    pub(super) fn is_in_place(&self) -> bool {
        // Links may lead to a git directory, but not to a lock file.
        let look = if self.plan.anchor { std::fs::metadata } else { std::fs::symlink_metadata };
        look(&self.plan.path).is_ok_and(|metadata| sys::identity(&metadata) == self.file.id())
    }
}

/// Opens a lock file that need not be there. What is no file is nobody's lock; what may not be opened may be.
fn open_optional(path: &Path) -> Result<Option<LockFile>> {
    match fs::open(path, false).and_then(|file| LockFile::new(file, path)) {
        Ok(file) => Ok(Some(file)),
        Err(Error::NotAFile { .. }) => Ok(None),
        Err(Error::Io { source, .. }) if fs::is_missing(&source) => Ok(None),
        Err(error) => Err(error),
    }
}

impl Held {
    /// The files of `parts` are locked: takes a number and a slot.
    ///
    /// # Errors
    /// [`Error::HeldElsewhere`], [`Error::Unsupported`]: then the files were unlocked.
    pub(super) fn new(
        parts: Vec<Part>,
        anchored: Vec<Anchored>,
        mut record: Holder,
        token: Option<Token>,
        (queue, table): (Option<&Queue>, Option<&Table>),
    ) -> Result<Self> {
        let mut troubles = Vec::new();
        let now = holder::unix_ms(SystemTime::now());
        // Kept until a slot was claimed: of two newcomers only one finds a holder that died.
        let allocation = queue.and_then(|queue| queue.allocate().ok());
        record.id = allocation.as_ref().map_or_else(clock, |allocation| allocation.number);
        record.acquired_ms = Some(now);
        record.waiter = None;
        let token = token.map_or_else(|| Token::new(record.id, table.map_or(0, Table::place)), Ok)?;
        record.token_sha256 = Some(token.digest(&record.resources));
        let (mut slot, mut seen, mut unrecorded) = (None, Seen::default(), None);
        match table.map(Table::claim) {
            Some(Ok((claimed, found))) => (slot, seen) = (Some(claimed), found),
            Some(Err(error)) => unrecorded = Some(error),
            None => {}
        }
        // Without it numbers grow by the clock alone.
        drop(allocation.map(|allocation| allocation.give()));
        // A sandbox that may only read has no records, which is fine.
        if !matches!(&unrecorded, Some(Error::Io { source, .. }) if sys::is_read_only_error(source)) {
            troubles.extend(unrecorded.take());
        }
        let conflicts = |other: &Holder| super::cycle::conflict(other, &record);
        if let Some((holder, held)) = seen.elsewhere.into_iter().find(|(holder, _)| conflicts(holder)) {
            if let Some(slot) = &slot {
                slot.release(false);
            }
            parts.iter().rev().for_each(|part| part.file.unlock());
            let own = parts.iter().find(|part| part.plan.resource != REPO_KEY).or(parts.first());
            let path = own.map(|part| part.plan.path.clone()).unwrap_or_default();
            let held = held.ancestors().nth(3).unwrap_or(&held).to_owned();
            return Err(Error::HeldElsewhere { path, holder: Box::new(holder), held });
        }
        let (others, died) = (seen.live, seen.died);
        let mut displaced = seen.displaced;
        // Nobody else can hold what is ours: they hold what was in its place.
        displaced.extend(others.iter().filter(|other| conflicts(other) && !record.inside.contains(&other.id)).cloned());
        displaced.retain(conflicts);
        let (checked, visits) = (None, Visits::default());
        Ok(Self {
            parts,
            slot,
            record,
            token,
            anchored,
            others,
            died,
            displaced,
            troubles,
            unrecorded,
            checked,
            visits,
        })
    }

    /// The same hold, inside of others that cover what it has not locked itself.
    pub(super) fn inside(self, visits: Visits) -> Self {
        Self { visits, ..self }
    }

    /// Tells whether records are kept of this hold: not in a sandbox that may only read.
    pub(crate) fn is_recorded(&self) -> bool {
        self.slot.is_some()
    }

    /// Makes sure that others can find this hold, and those inside of it that they are.
    ///
    /// # Errors
    /// Why no record could be kept of it.
    pub(crate) fn must_be_recorded(&mut self) -> Result<()> {
        if self.is_recorded() {
            return Ok(());
        }
        Err(self
            .unrecorded
            .take()
            .or_else(|| self.troubles.pop())
            .unwrap_or(Error::Unsupported { what: "a hold that outlives its process, outside of a git repository," }))
    }

    /// Locks a directory that was not there when the rest was acquired, alone; `false` if somebody else was faster.
    ///
    /// # Errors
    /// As [`super::acquire()`].
    pub(crate) fn take_in(&mut self, anchored: Anchored, sharing: Sharing) -> Result<bool> {
        let plan = |path: PathBuf, anchor| PartPlan {
            resource: anchored.key.clone(),
            path,
            mode: Mode::Exclusive,
            anchor,
            optional: false,
        };
        let (path, anchor) = (anchored.lock.clone(), anchored.directory.clone());
        let read_only = || Error::io("create", &path)(std::io::ErrorKind::ReadOnlyFilesystem.into());
        let file = LockFile::open(&path, sharing)?.ok_or_else(read_only)?;
        let parts = [
            Part { file, plan: plan(path, false) },
            Part { file: LockFile::open_anchor(&anchor)?, plan: plan(anchor, true) },
        ];
        for part in &parts {
            match part.file.try_lock(Mode::Exclusive) {
                Ok(true) => {}
                Ok(false) => {
                    parts.iter().rev().for_each(|part| part.file.unlock());
                    return Ok(false);
                }
                // If a read-only descriptor cannot be locked, the file alone counts.
                Err(error) if part.plan.anchor && sys::cannot_lock_descriptor(&error) => {}
                Err(source) => return Err(Error::NoLocks { path: part.plan.path.clone(), source: Some(source) }),
            }
        }
        self.parts.extend(parts);
        self.record.resources.push((anchored.key.clone(), Mode::Exclusive));
        self.record.token_sha256 = Some(self.token.digest(&self.record.resources));
        self.anchored.push(anchored);
        Ok(true)
    }

    /// The record of this hold.
    pub(crate) fn record(&self) -> &Holder {
        &self.record
    }

    /// The files that a command must inherit so that the lock lives as long as it does.
    pub(crate) fn files(&self) -> Vec<&File> {
        let slot = self.slot.as_ref().map(|slot| slot.lock.file());
        self.parts.iter().map(|part| part.file.file()).chain(slot).chain(self.visits.files()).collect()
    }

    /// Blocks for a moment as long as somebody is inside, who may be about to leave. Lets nobody in any more if all leave.
    pub(crate) fn let_leave(&mut self) {
        if let Some(slot) = &mut self.slot {
            LEAVING.until(|| slot.close());
        }
    }

    /// Lets nobody in any more who would work inside of this hold; `false` if somebody does: then it must not end yet. The first
    /// time that is recorded.
    pub(crate) fn close(&mut self) -> bool {
        let is_closed = self.slot.as_mut().is_none_or(Slot::close);
        if !is_closed && !self.record.lingers {
            self.record.lingers = true;
            // It is only for those who look.
            drop(self.publish());
        }
        is_closed
    }

    /// The processes inside of this hold that the system shows.
    pub(crate) fn those_inside(&self) -> Vec<u32> {
        self.slot.as_ref().map(Slot::those_inside).unwrap_or_default()
    }

    /// To change the record before it is announced (again).
    pub(crate) fn record_mut(&mut self) -> &mut Holder {
        &mut self.record
    }

    /// Records that commands which this process runs are inside, with all that they start.
    pub(crate) fn admit_commands(&mut self) {
        // With other children, only the command itself can be told apart.
        self.record.descent = Some(Descent { holder: !sys::has_children(), ..Descent::default() });
    }

    /// Records which command runs, if the lock is held for commands of this process.
    ///
    /// # Errors
    /// As [`Held::publish`].
    pub(crate) fn admit_command(&mut self, pid: u32) -> Result<()> {
        let Some(descent) = &mut self.record.descent else { return Ok(()) };
        descent.command = sys::process_state(pid).map(|state| (pid, state.start));
        self.publish()
    }

    /// Tells whether a command must be recorded at once: its descendants are not known by this process above them.
    pub(crate) fn admits_by_command_alone(&self) -> bool {
        self.record.descent.is_some_and(|descent| !descent.holder)
    }

    /// Writes who holds.
    ///
    /// # Errors
    /// [`Error::Io`]: the lock is held all the same.
    pub(crate) fn publish(&mut self) -> Result<()> {
        // Written later than those processes started that it names, so that none is taken for a later one.
        self.record.boot_ms = sys::boot_ms();
        self.slot.as_ref().map_or(Ok(()), |slot| slot.write(&self.record))
    }

    /// Rewrites the record if somebody removed it: other processes find and release the hold by its record. For a process that
    /// keeps the hold alone.
    pub(crate) fn keep_recorded(&mut self) {
        if let Some(slot) = self.slot.as_ref().and_then(Slot::replacement) {
            self.slot = Some(slot);
            // If it cannot be written now, others see a hold without a record, and we keep it all the same.
            drop(self.publish());
        }
    }

    /// Paths, anchors included, that no longer lead to what this hold has locked: somebody else may have got in. Not those of
    /// linked worktrees that were removed under a hold of everything: it excludes others from the new ones as well.
    pub(crate) fn lost(&self) -> Vec<PathBuf> {
        if let Some(checked) = &self.checked {
            return checked.clone();
        }
        let required = self.parts.iter().filter(|part| !part.plan.optional);
        let missing: Vec<&Part> = required.filter(|part| !part.is_in_place()).collect();
        let of_repo = |part: &&Part| part.plan.resource == REPO_KEY;
        let everything = self.parts.iter().any(|part| of_repo(&part) && part.plan.mode == Mode::Exclusive)
            && !missing.iter().any(of_repo);
        let removed = |part: &Part| {
            everything && missing.iter().any(|other| other.plan.anchor && other.plan.resource == part.plan.resource)
        };
        missing.iter().filter(|part| !removed(part)).map(|part| part.plan.path.clone()).collect()
    }

    /// Checks the locked paths for the last time, because the caller is about to remove them; `true` if all are in place.
    pub(crate) fn check_before_removal(&mut self) -> bool {
        self.checked.insert(self.lost()).is_empty()
    }

    /// The record as it will stand after a release now.
    pub(crate) fn ended(&self) -> Holder {
        Holder { released_ms: Some(holder::unix_ms(SystemTime::now())), ..self.record.clone() }
    }

    /// Records the release that is about to come.
    ///
    /// # Errors
    /// [`Error::Io`]: the lock can be released all the same.
    pub(crate) fn record_release(&self) -> Result<()> {
        self.slot.as_ref().map_or(Ok(()), |slot| slot.write(&self.ended()))
    }

    /// Lets the lock go, for all processes that share it.
    pub(crate) fn release(&self) {
        if let Some(slot) = &self.slot {
            slot.release(self.record.lost);
        }
        for part in self.parts.iter().rev() {
            part.file.unlock();
        }
        self.visits.leave();
    }
}
