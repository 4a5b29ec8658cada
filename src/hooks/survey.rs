//! Reports of each hook whether git runs it, and if not, why. Takes no lock, writes nothing.

use std::path::{Path, PathBuf};

use super::{
    Event, chained,
    manifest::Manifest,
    place::{HooksPath, Place, keys},
    script,
    slot::{self, File, Slot},
};
use crate::{error::Result, escape::quoted_path, fs, repo::Repo, sys};

/// How it is with the hooks of a worktree.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Survey {
    /// Git's version.
    pub git: String,
    /// Git's directory of hooks.
    pub directory: PathBuf,
    /// The place where it is configured.
    pub hooks_path: Option<HooksPath>,
    /// Each hook that was installed here; where none was, each that is of use here.
    pub hooks: Vec<Seen>,
}

impl Survey {
    /// Whether git reaches every hook.
    #[must_use]
    pub fn reached(&self) -> bool {
        self.hooks.iter().all(|seen| seen.state == State::Active)
    }
}

/// How it is with a hook.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Seen {
    /// Which.
    pub event: Event,
    /// Whether git reaches it, or why not.
    pub state: State,
    /// How git reaches it: `script`, `config`, the name of the program whose hook runs it, or `hook` for a hook of the user's own.
    pub via: Option<&'static str>,
    /// The owner of the hook that git runs instead, if known.
    pub by: Option<&'static str>,
    /// The file that git runs, or would run.
    pub path: PathBuf,
    /// The hook that was there before, and runs after the guard.
    pub chained: Option<PathBuf>,
    /// More about it, in a few words.
    pub note: Option<String>,
    /// The way out.
    pub hint: Option<String>,
}

impl Seen {
    /// Whether the file may be run to see whether it answers: it is a script of ours, and only says that it is guarded.
    pub(crate) fn may_be_tried(&self) -> bool {
        slot::read(&self.path).is_some_and(|text| script::is_genuine(&text, self.event))
    }
}

/// Whether git reaches a hook, or why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// Git reaches it.
    Active,
    /// Git runs somebody else's hook instead.
    Displaced,
    /// Git looks elsewhere.
    Bypassed,
    /// It was installed, and is gone.
    Deleted,
    /// It is there, but git does not run a file without permission to.
    NotExecutable,
    /// Git runs it, but it finds no repoguard program to start.
    BinaryMissing,
    /// Somebody has changed our script: what it does now is not known.
    Edited,
    /// It never was installed.
    NotInstalled,
}

impl State {
    /// Its stable name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Displaced => "displaced",
            Self::Bypassed => "bypassed",
            Self::Deleted => "deleted",
            Self::NotExecutable => "not-executable",
            Self::BinaryMissing => "binary-missing",
            Self::Edited => "edited",
            Self::NotInstalled => "not-installed",
        }
    }
}

/// Looks at the hooks of a worktree. Does not block.
///
/// # Errors
/// [`crate::Error::NoRepository`], [`crate::Error::Git`], [`crate::Error::Io`] when the git directory cannot be read.
pub fn survey(repo: &Repo) -> Result<Survey> {
    let place = Place::of(repo)?;
    let manifest = repo.hooks_manifest().and_then(|path| Manifest::read(&path));
    let looker = Looker { place: &place, manifest: manifest.clone().unwrap_or_default() };
    let all: Vec<Seen> = Event::ALL.into_iter().map(|event| looker.look(event)).collect();
    let expected = manifest.map_or_else(|| place.default_events(repo), |manifest| manifest.events());
    let of_interest = |seen: &Seen| expected.contains(&seen.event) || seen.state != State::NotInstalled;
    Ok(Survey {
        hooks: all.into_iter().filter(of_interest).collect(),
        git: place.facts.version.clone(),
        directory: place.directory,
        hooks_path: place.hooks_path,
    })
}

struct Looker<'a> {
    place: &'a Place,
    manifest: Manifest,
}

impl Looker<'_> {
    fn look(&self, event: Event) -> Seen {
        let slot = Slot::of(&self.place.directory, event);
        let script = match &self.place.husky {
            Some(own) => self.at_husky(&slot, own),
            None => self.script(&slot),
        };
        match self.configured(event) {
            Some(configured) if script.state != State::Active => configured,
            _ => script,
        }
    }

    /// The state of the hook in git's configuration; `None` if it is missing there.
    fn configured(&self, event: Event) -> Option<Seen> {
        let [of, command] = keys(event);
        self.place.facts.setting(&command)?;
        let enabled = format!("hook.repoguard-{}.enabled", event.name());
        let disabled = self.place.facts.setting(&enabled).filter(|_| !self.place.facts.is_set(&enabled));
        let mut seen = seen(event, State::Active, self.place.configured_script(event));
        if !self.place.facts.runs_configured_hooks() {
            seen.note = Some(format!("git {} runs no hooks from its configuration", self.place.facts.version));
            return Some(seen.not(State::Bypassed, INSTALL));
        }
        if let Some(entry) = disabled {
            seen.note = Some(format!("`{enabled}` is `{}` in {}", entry.value, entry.origin));
            return Some(seen.not(State::Bypassed, &format!("`git config --unset {enabled}`")));
        }
        seen.via = Some("config");
        let named = self.place.facts.config.iter().any(|entry| entry.key == of && entry.value == event.name());
        if !named {
            seen.note = Some(format!("`{of}` does not name it"));
            return Some(seen.not(State::Bypassed, INSTALL));
        }
        match slot::read(&seen.path) {
            None => Some(seen.not(State::Deleted, INSTALL)),
            Some(_) if !fs::is_executable(&seen.path) => Some(seen.not_executable()),
            Some(text) if script::is_edited(&text) => Some(seen.not(State::Edited, INSTALL)),
            Some(text) if !script::finds_program(&text) => Some(seen.not(State::BinaryMissing, REINSTALL)),
            Some(_) => Some(seen),
        }
    }

    /// How it is where husky generates the directory.
    fn at_husky(&self, slot: &Slot, own: &Path) -> Seen {
        let file = own.join(slot.event.name());
        let runs = slot.file.as_ref().is_some_and(File::is_executable);
        let calls = slot::read(&file).is_some_and(|text| script::calls(&text, slot.event));
        let mut seen = seen(slot.event, State::Active, file);
        if runs && calls {
            seen.via = Some("husky");
            return if script::found().next().is_some() { seen } else { seen.not(State::BinaryMissing, REINSTALL) };
        }
        seen.note = runs.then(|| self.looks_in()).or_else(|| Some("husky runs nothing for this hook".to_owned()));
        let hint = if runs {
            format!("add the line `{}` to `{}`", script::line(slot.event), seen.path.display())
        } else {
            "`npx husky` makes its files again".to_owned()
        };
        let state = if self.is_elsewhere(slot.event) { State::Bypassed } else { State::NotInstalled };
        seen.not(state, &hint)
    }

    /// How it is with the script in the hooks directory.
    fn script(&self, slot: &Slot) -> Seen {
        let mut seen = seen(slot.event, State::Active, slot.path.clone());
        let Some(file) = &slot.file else { return self.missing(slot, seen) };
        if file.is_ours() {
            seen.chained = chained(&slot.path, slot.event).filter(|_| slot.chained.is_some());
            return seen.started("script", file);
        }
        if let (Some(manager), Some(legacy), true) = (slot.run_by(), &slot.legacy, file.is_executable()) {
            seen.chained = chained(&slot.legacy_path, slot.event).filter(|_| slot.chained.is_some());
            seen.path.clone_from(&slot.legacy_path);
            return seen.started(manager.name, legacy);
        }
        if file.is_executable() && script::calls(&file.text, slot.event) {
            seen.via = Some("hook");
            return if script::found().next().is_some() { seen } else { seen.not(State::BinaryMissing, REINSTALL) };
        }
        let manager = file.manager();
        if self.is_elsewhere(slot.event) {
            return self.bypassed(seen);
        }
        seen.by = manager.map(|manager| manager.name);
        let was_here = slot.displaced().next().is_some() || slot.chained.is_some() || self.manifest.has(slot.event);
        let state = if was_here { State::Displaced } else { State::NotInstalled };
        // The way to an install, or its error.
        let hint = slot.obstacle().and_then(|error| error.hint());
        seen.not(state, hint.as_deref().unwrap_or(INSTALL))
    }

    fn missing(&self, slot: &Slot, seen: Seen) -> Seen {
        if self.is_elsewhere(slot.event) {
            return self.bypassed(seen);
        }
        let was_here = slot.chained.is_some() || self.manifest.has(slot.event);
        let mut seen = seen.not(if was_here { State::Deleted } else { State::NotInstalled }, INSTALL);
        if slot.chained.is_some() {
            seen.note = Some(format!("`{}`, which was there before, is not run either", slot.chained_path.display()));
        }
        seen
    }

    fn bypassed(&self, mut seen: Seen) -> Seen {
        seen.note = Some(self.looks_in());
        let hint = if self.place.is_own() { INSTALL } else { "`repoguard hooks install --force`, or unset it" };
        seen.not(State::Bypassed, hint)
    }

    /// Whether the hook was installed in a directory that git does not use now.
    fn is_elsewhere(&self, event: Event) -> bool {
        let recorded = self.manifest.directories(&self.place.common, &self.place.directory);
        let recorded: Vec<PathBuf> = recorded.into_iter().map(|(path, _)| path).collect();
        let others = recorded.iter().filter(|directory| **directory != self.place.directory);
        let default = std::iter::once(&self.place.default).filter(|default| **default != self.place.directory);
        let holds = |directory: &PathBuf| Slot::of(directory, event).file.is_some_and(|file| file.is_ours());
        let never_here = !recorded.is_empty() && !recorded.contains(&self.place.directory) && self.manifest.has(event);
        never_here || others.chain(default).any(holds)
    }

    fn looks_in(&self) -> String {
        let directory = self.place.directory.display();
        match &self.place.hooks_path {
            Some(path) => {
                format!("git looks in `{directory}`: `core.hooksPath` is `{}` in {}", path.value, path.origin)
            }
            None => format!("git looks in `{directory}`"),
        }
    }
}

const INSTALL: &str = "`repoguard hooks install`";
const REINSTALL: &str = "install repoguard again, and run `repoguard hooks install`";

fn seen(event: Event, state: State, path: PathBuf) -> Seen {
    Seen { event, state, via: None, by: None, path, chained: None, note: None, hint: None }
}

impl Seen {
    /// It is not reached, and this is what to do.
    fn not(self, state: State, hint: &str) -> Self {
        Self { state, via: None, hint: Some(hint.to_owned()), ..self }
    }

    /// Git does not run it: its mode or its file system forbids that.
    fn not_executable(mut self) -> Self {
        if sys::is_noexec(&self.path) {
            self.note = Some("its file system is mounted noexec, so git runs no hook there".to_owned());
            return self.not(State::NotExecutable, "mount it without `noexec`");
        }
        let hint = format!("`chmod +x {}`", quoted_path(&self.path));
        self.not(State::NotExecutable, &hint)
    }

    /// Somebody runs a script of ours: can it run, and start repoguard?
    fn started(mut self, via: &'static str, script: &File) -> Self {
        if !script.is_executable() {
            return self.not_executable();
        }
        if script.is_edited() {
            return self
                .not(State::Edited, "move what was added to a hook of your own; remove this one, and install again");
        }
        if !script::finds_program(&script.text) {
            return self.not(State::BinaryMissing, REINSTALL);
        }
        self.via = Some(via);
        self
    }
}
