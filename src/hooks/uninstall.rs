//! Removes our scripts, and restores the earlier hooks byte for byte.
//!
//! Copies of our scripts by other programs go as well, and kept hooks get the place that they would have without us.

use std::path::{Path, PathBuf};

use super::{
    Event,
    change::{self, Change},
    install::{Lock, seen},
    managers,
    manifest::Manifest,
    place::Place,
    slot::{File, Slot},
};
use crate::{error::Result, fs, repo::Repo};

/// The result of an uninstall.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Uninstalled {
    /// The changes; empty if nothing was installed.
    pub hooks: Vec<Removed>,
}

/// A hook that was taken away.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Removed {
    /// Which.
    pub event: Event,
    /// `removed`, `restored` (what was there before us is back), or `left` (what we kept could not go back, because git
    /// runs another hook there now).
    pub change: &'static str,
    /// The hook; with `left`, the file that was left.
    pub path: PathBuf,
}

/// Uninstalls the hooks, in every directory of this repository. Waits up to ten seconds for another install.
///
/// A directory outside of the repository is only touched if git looks for this repository's hooks there, and an install from
/// here wrote to it.
///
/// # Errors
/// [`crate::Error::NoRepository`], [`crate::Error::Git`], [`crate::Error::Io`]. After an error all is as before.
pub fn uninstall(repo: &Repo) -> Result<Uninstalled> {
    let place = Place::of(repo)?;
    let _lock = Lock::take(repo, place.sharing)?;
    let manifest_path = repo.hooks_manifest().unwrap_or_default();
    let manifest = Manifest::read_own(&manifest_path).unwrap_or_default();
    let known = manifest.directories(&place.common, &place.directory);
    let mut directories: Vec<PathBuf> = known.iter().map(|(path, _)| path.clone()).collect();
    directories.push(place.default.clone());
    if place.is_own() {
        directories.push(place.directory.clone());
    }
    directories.retain(|directory| directory.is_dir() && managers::husky(directory).is_none());
    // The same directory twice would be locked against ourselves.
    let mut directories: Vec<PathBuf> = directories.iter().filter_map(|path| path.canonicalize().ok()).collect();
    directories.sort();
    directories.dedup();
    // Without a script of ours, nothing is written, whatever the list says.
    let ours: Vec<&PathBuf> = directories.iter().filter(|directory| holds_ours(directory)).collect();
    let _locks = ours.iter().map(|directory| Lock::of_directory(directory)).collect::<Result<Vec<_>>>()?;
    let mut change = Change::new(repo, place.sharing);
    let mut done = Uninstalled::default();
    for event in Event::ALL {
        let values = place.configured(event);
        let script = place.configured_script(event);
        if !values.is_empty() {
            change.remove_section(values)?;
            done.hooks.push(Removed { event, change: "removed", path: script.clone() });
        }
        if script.exists() {
            change.remove(&script, fs::identity(&script))?;
        }
    }
    for directory in ours {
        change::tidy(directory);
        for event in Event::ALL {
            done.hooks.extend(clear(&mut change, &Slot::of(directory, event))?);
        }
    }
    if manifest_path.exists() {
        change.remove(&manifest_path, fs::identity(&manifest_path))?;
    }
    change.finish();
    for (directory, _) in known.iter().filter(|(_, created)| *created) {
        fs::remove_directory(directory);
    }
    if let Some(scripts) = place.configured_script(Event::PreCommit).parent() {
        fs::remove_directory(scripts);
    }
    Ok(done)
}

/// Whether scripts of ours are in a directory, or what was kept beside them.
fn holds_ours(directory: &Path) -> bool {
    Event::ALL.into_iter().map(|event| Slot::of(directory, event)).any(|slot| {
        let files = [&slot.file, &slot.legacy, &slot.old];
        slot.chained.is_some() || files.into_iter().flatten().any(File::is_ours)
    })
}

/// Takes one hook away.
fn clear(change: &mut Change<'_>, slot: &Slot) -> Result<Option<Removed>> {
    let ours = slot.file.as_ref().is_some_and(|file| file.is_ours() && !file.is_link());
    if ours {
        // Additions of somebody else's would be lost, and other kinds than files cannot be restored.
        slot.check()?;
    }
    let is_ours = |file: &Option<File>| file.as_ref().is_some_and(File::is_ours);
    let chained = (&*slot.chained_path, seen(slot, &slot.chained_path));
    let mut taken = None;
    let mut result = match (&slot.file, &slot.chained) {
        (Some(_), None) if ours => {
            change.remove(&slot.path, seen(slot, &slot.path))?;
            Some(("removed", &slot.path))
        }
        (_, None) => None,
        (file, Some(_)) if ours || file.is_none() => {
            change.shift(chained, (&slot.path, seen(slot, &slot.path)))?;
            Some(("restored", &slot.path))
        }
        _ if slot.chained_is_superseded() => {
            change.remove(&slot.chained_path, chained.1)?;
            Some(("restored", &slot.path))
        }
        _ => {
            let places = [(&slot.legacy_path, &slot.legacy), (&slot.old_path, &slot.old)];
            taken = places.into_iter().find(|(_, file)| is_ours(file)).map(|(path, _)| path);
            match taken {
                Some(place) => {
                    change.shift(chained, (place, seen(slot, place)))?;
                    Some(("restored", place))
                }
                None => Some(("left", &slot.chained_path)),
            }
        }
    };
    for displaced in slot.displaced().filter(|displaced| Some(*displaced) != taken) {
        change.remove(displaced, seen(slot, displaced))?;
        result = result.or(Some(("removed", displaced)));
    }
    Ok(result.map(|(change, path)| Removed { event: slot.event, change, path: path.clone() }))
}
