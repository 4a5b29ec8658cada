//! Installs our scripts where git looks for hooks: all of them or none, beside the hooks that were there, any number of times.
//!
//! # Invariants
//! - Everything is looked at and decided before anything is changed; a failure afterwards undoes what was done.
//! - No hook of somebody else's is lost: it is kept beside ours, or nothing is installed.
//! - Who writes to a directory of hooks holds its lock: several repositories may share it.
//! - Git's own settings are never changed but for sections named `hook.repoguard-…`.

use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    Event, IfMissing,
    change::{self, Change},
    manifest::Manifest,
    place::{self, Place},
    script,
    slot::{self, Slot},
};
use crate::{
    error::{Error, Result},
    fs::{self, Sharing},
    holder::Mode,
    lock::LockFile,
    repo::Repo,
    sys::{self, FileId, Retry},
};

/// How long another install or uninstall may take.
const PATIENCE: Retry = Retry::every(Duration::from_millis(2)).within(Duration::from_secs(10));
/// Permissions of a script, before the umask.
const SCRIPT_MODE: u32 = 0o777;

/// The hooks to install, and how.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Options {
    /// Exactly these hooks; when empty, those that are of use in the repository.
    pub hooks: Vec<Event>,
    /// Also [`Event::ReferenceTransaction`].
    pub strict: bool,
    /// A hook's action without a repoguard program.
    pub if_missing: IfMissing,
    /// Also scripts in the hooks directory, if git's configuration names hooks (git 2.54 and later): for other, older gits that
    /// work in the same repository.
    pub both: bool,
    /// Also where `core.hooksPath` is set outside of the repository.
    pub force: bool,
    /// The repoguard that the hooks start.
    pub program: PathBuf,
}

impl Options {
    /// The defaults.
    #[must_use]
    pub fn new(program: PathBuf) -> Self {
        Self {
            hooks: Vec::new(),
            strict: false,
            if_missing: IfMissing::default(),
            both: false,
            force: false,
            program: script::lasting(program),
        }
    }
}

/// The result of an install.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Report {
    /// Git's directory of hooks.
    pub directory: PathBuf,
    /// The hooks that are in place now.
    pub hooks: Vec<Installed>,
    /// Steps that only the user can take, because another program makes the directory.
    pub by_hand: Vec<ByHand>,
    /// Whether the file system of the hooks is mounted `noexec`: git runs no hook there.
    pub noexec: bool,
}

/// A hook in place.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Installed {
    /// Which.
    pub event: Event,
    /// `installed`, `updated` or `unchanged`.
    pub change: &'static str,
    /// How git reaches it: `script`, `config`, the name of the program whose hook runs it, or `hook` for a hook of the user's own.
    pub via: &'static str,
    /// The script.
    pub path: PathBuf,
    /// The hook that runs after it.
    pub chained: Option<PathBuf>,
    /// Whether that one was found just now.
    pub kept: bool,
}

/// A line to add to a hook that belongs to another program.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ByHand {
    /// Which.
    pub event: Event,
    /// The user's own file that the other program runs.
    pub file: PathBuf,
    /// The line; `None` if the other program has no place for this hook.
    pub line: Option<String>,
    /// Whether it is there already.
    pub done: bool,
}

/// Installs hooks. Waits up to ten seconds for another install, in this repository or in the same directory of hooks.
///
/// # Errors
/// [`Error::NoRepository`], [`Error::HooksElsewhere`] without `force`, [`Error::NotAFile`], [`Error::TwoHooks`],
/// [`Error::HookNotMovable`] and [`Error::HookEdited`] for what is in the way, [`Error::Git`], [`Error::Io`]. After an error
/// all is as before.
pub fn install(repo: &Repo, options: &Options) -> Result<Report> {
    let place = Place::of(repo)?;
    let mut events = if options.hooks.is_empty() { place.default_events(repo) } else { options.hooks.clone() };
    if options.strict {
        events.push(Event::ReferenceTransaction);
    }
    events.sort_unstable();
    events.dedup();
    let configured = place.facts.runs_configured_hooks();
    let scripts = !configured || options.both;
    let mut report =
        Report { directory: place.directory.clone(), hooks: Vec::new(), by_hand: Vec::new(), noexec: false };
    if let Some(own) = place.husky.as_ref().filter(|_| scripts) {
        report.by_hand = events.iter().map(|event| by_hand(&place, own, *event)).collect();
    } else if scripts && !place.is_own() && !options.force {
        let origin = place.hooks_path.map_or_else(String::new, |path| path.origin);
        return Err(Error::HooksElsewhere { path: place.directory, origin });
    }
    let scripts = scripts && place.husky.is_none();
    if !configured && !scripts {
        return Ok(report);
    }
    // Both are held until a failure is undone.
    let (_lock, mut _directory_lock) = (Lock::take(repo, place.sharing)?, None);
    let mut change = Change::new(repo, place.sharing);
    let manifest_path = repo.hooks_manifest().unwrap_or_default();
    let before = Manifest::read_own(&manifest_path);
    let mut manifest = before.clone().unwrap_or_default();
    // Hooks of this git, and those that only other gits run.
    let mut found = Vec::new();
    if scripts {
        let created = prepare(&mut change, &place.directory)?;
        _directory_lock = Some(Lock::of_directory(&place.directory)?);
        change::tidy(&place.directory);
        manifest.add_directory(&place.common, &place.directory, created);
        found = plans(&place, &events, options)?;
    }
    for event in &events {
        manifest.add(*event);
    }
    if before.as_ref() != Some(&manifest) {
        // First: who is killed from here on left nothing that an uninstall does not find.
        change.put(&manifest_path, &manifest.to_bytes(), 0o666, fs::identity(&manifest_path))?;
    }
    if configured {
        for event in &events {
            report.hooks.push(configure(&mut change, &place, *event, options)?);
        }
    }
    for (slot, plan) in &found {
        let text = script::text(slot.event, &options.program, options.if_missing);
        report.hooks.push(carry_out(&mut change, slot, plan, &text)?);
    }
    change.finish();
    report.noexec = report.hooks.iter().any(|hook| sys::is_noexec(&hook.path));
    Ok(report)
}

/// Makes the directory that git looks in; whether it was missing.
fn prepare(change: &mut Change<'_>, directory: &Path) -> Result<bool> {
    match std::fs::metadata(directory) {
        Ok(metadata) if metadata.is_dir() => Ok(false),
        Ok(metadata) => {
            let kind = sys::kind(&metadata);
            Err(Error::NotAFile { path: directory.to_owned(), kind, expected: "a directory" })
        }
        Err(_) => match change.make_directory(directory) {
            // Another repository that shares it was faster.
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists && directory.is_dir() => {
                Ok(false)
            }
            made => made.map(|()| true),
        },
    }
}

/// The step for a hook.
enum Plan {
    /// Nothing: it is reached this way.
    Nothing { path: PathBuf, via: &'static str },
    /// Write ours, in a free place or over an older one of ours.
    Write { path: PathBuf, via: &'static str },
    /// Keep what is there, and write ours.
    Keep,
    /// The same, in the place of what was kept before.
    KeepInstead,
}

fn plans(place: &Place, events: &[Event], options: &Options) -> Result<Vec<(Slot, Plan)>> {
    let slots = events.iter().map(|event| {
        let slot = Slot::of(&place.directory, *event);
        let plan = plan(&slot, &script::text(*event, &options.program, options.if_missing))?;
        Ok((slot, plan))
    });
    slots.collect()
}

fn plan(slot: &Slot, text: &[u8]) -> Result<Plan> {
    slot.check()?;
    let write = |path: &PathBuf, file: &Option<slot::File>, via| match file {
        Some(file) if file.text == text && file.is_executable() => Plan::Nothing { path: path.clone(), via },
        _ => Plan::Write { path: path.clone(), via },
    };
    let Some(file) = slot.file.as_ref().filter(|file| file.is_link() || !file.is_ours()) else {
        return Ok(write(&slot.path, &slot.file, "script"));
    };
    if file.is_executable() && script::calls(&file.text, slot.event) {
        return Ok(Plan::Nothing { path: slot.path.clone(), via: "hook" });
    }
    if let Some(error) = slot.obstacle() {
        return Err(error);
    }
    match (&slot.chained, slot.run_by()) {
        (Some(_), _) if slot.chained_is_superseded() => Ok(Plan::KeepInstead),
        (_, Some(manager)) => Ok(write(&slot.legacy_path, &slot.legacy, manager.name)),
        _ => Ok(Plan::Keep),
    }
}

fn carry_out(change: &mut Change<'_>, slot: &Slot, plan: &Plan, text: &[u8]) -> Result<Installed> {
    let (path, via, done) = match plan {
        Plan::Nothing { path, via } => (path, *via, "unchanged"),
        Plan::Write { path, via } => {
            let seen = seen(slot, path);
            change.put(path, text, SCRIPT_MODE, seen)?;
            (path, *via, if seen.is_none() { "installed" } else { "updated" })
        }
        Plan::Keep | Plan::KeepInstead => {
            if matches!(plan, Plan::KeepInstead) {
                change.remove(&slot.chained_path, seen(slot, &slot.chained_path))?;
            }
            change.keep((&slot.path, seen(slot, &slot.path)), &slot.chained_path, (text, SCRIPT_MODE))?;
            (&slot.path, "script", "installed")
        }
    };
    // A script of ours that another program moved away is useless.
    for displaced in slot.displaced().filter(|_| via == "script") {
        change.remove(displaced, seen(slot, displaced))?;
    }
    let kept = matches!(plan, Plan::Keep | Plan::KeepInstead);
    let chained = (kept || slot.chained.is_some()) && via == "script";
    Ok(Installed {
        event: slot.event,
        change: done,
        via,
        path: path.clone(),
        chained: chained.then(|| slot.chained_path.clone()),
        kept,
    })
}

/// Which file was seen at a path of a hook's.
pub(super) fn seen(slot: &Slot, path: &Path) -> Option<FileId> {
    let files = [
        (&slot.path, &slot.file),
        (&slot.chained_path, &slot.chained),
        (&slot.legacy_path, &slot.legacy),
        (&slot.old_path, &slot.old),
    ];
    files.into_iter().find(|(known, _)| *known == path).and_then(|(_, file)| file.as_ref()).map(|file| file.id)
}

/// Writes a script that git's configuration names, and names it there.
fn configure(change: &mut Change<'_>, place: &Place, event: Event, options: &Options) -> Result<Installed> {
    let path = place.configured_script(event);
    let text = script::text(event, &options.program, options.if_missing);
    let before = place.configured(event);
    let wanted: [(String, OsString); 2] = {
        let [name, command] = place::keys(event);
        [(name, event.name().into()), (command, place.configured_command(event))]
    };
    let current = slot::read(&path);
    if current.as_deref().is_some_and(script::is_edited) {
        return Err(Error::HookEdited { path });
    }
    let mut done = "unchanged";
    if current.as_deref() != Some(&text[..]) || !fs::is_executable(&path) {
        done = "updated";
        change.put(&path, &text, SCRIPT_MODE, fs::identity(&path))?;
    }
    for (key, value) in &wanted {
        let old = before.iter().find(|(name, _)| name == key).map(|(_, value)| value);
        // Git's answer is compared as text: a path that is not text is written again.
        if old != Some(value) {
            done = "updated";
            change.configure(key, value, old.map(OsString::as_os_str))?;
        }
    }
    let change = if before.is_empty() && current.is_none() { "installed" } else { done };
    Ok(Installed { event, change, via: "config", path, chained: None, kept: false })
}

/// The user's steps for a directory that husky generates.
fn by_hand(place: &Place, own: &Path, event: Event) -> ByHand {
    let file = own.join(event.name());
    let runs = fs::is_executable(&place.directory.join(event.name()));
    let done = runs && slot::read(&file).is_some_and(|text| script::calls(&text, event));
    ByHand { event, file, line: runs.then(|| script::line(event)), done }
}

/// The lock of those who install and uninstall.
pub(super) struct Lock(LockFile);

impl Lock {
    pub(super) fn take(repo: &Repo, sharing: Sharing) -> Result<Self> {
        let path = repo.hooks_lock().unwrap_or_default();
        Self::wait(LockFile::new(fs::open_or_create(&path, sharing)?, &path)?, &path)
    }

    /// The same for all repositories that share a directory of hooks.
    pub(super) fn of_directory(path: &Path) -> Result<Self> {
        loop {
            let lock = Self::wait(LockFile::open_anchor(path)?, path)?;
            // The process that had it may have removed the directory.
            if path.canonicalize().is_ok_and(|path| lock.0.is_at(&path)) {
                return Ok(lock);
            }
        }
    }

    fn wait(lock: LockFile, path: &Path) -> Result<Self> {
        for _ in PATIENCE {
            match lock.try_lock(Mode::Exclusive) {
                Ok(true) => return Ok(Self(lock)),
                Ok(false) => {}
                // NFS locks no directories: what is there cannot be shared safely.
                Err(error) if sys::cannot_lock_descriptor(&error) => return Ok(Self(lock)),
                Err(error) => return Err(Error::io("lock", path)(error)),
            }
        }
        Err(Error::io("lock", path)(io::ErrorKind::TimedOut.into()))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.0.unlock();
    }
}
