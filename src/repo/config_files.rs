//! Looks into git's configuration files without reading them as git does: whether they mention a setting.

use std::path::{Path, PathBuf};

use super::is_true;
use crate::{env, fs};

/// No file of settings is larger.
pub(super) const MOST_BYTES: u64 = 16 << 20;

/// Tells whether the user's or the system's configuration may set `safe.bareRepository`; git heeds it there only.
pub(super) fn may_forbid_bare() -> bool {
    let says = |text: &[u8]| mentions(text, b"barerepository") || mentions(text, b"[include");
    let parameters = env::git_parameters();
    parameters.iter().any(|text| mentions(&crate::sys::bytes(text), b"barerepository"))
        || global_files().into_iter().any(|path| fs::read_whole(&path, MOST_BYTES).is_ok_and(|text| says(&text)))
}

pub(super) fn mentions(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|window| window.eq_ignore_ascii_case(word))
}

/// The system's and the user's configuration files, wherever a git may look for them.
pub(super) fn global_files() -> Vec<PathBuf> {
    let mut files = Vec::new();
    if !env::text("GIT_CONFIG_NOSYSTEM").is_some_and(|text| is_true(&text)) {
        match env::get("GIT_CONFIG_SYSTEM") {
            Some(path) => files.push(path.into()),
            None => files.extend(system_files("gitconfig")),
        }
    }
    if let Some(path) = env::get("GIT_CONFIG_GLOBAL") {
        files.push(path.into());
    } else {
        files.extend(env::git_config_file("config"));
        files.extend(env::home().map(|home| home.join(".gitconfig")));
    }
    // That is how a user says "no file".
    files.retain(|file| file != Path::new("/dev/null"));
    files
}

/// A file of the system's, wherever a git may have been built to look for it.
pub(super) fn system_files(name: &str) -> impl Iterator<Item = PathBuf> {
    ["/etc", "/usr/local/etc", "/opt/homebrew/etc"].into_iter().map(move |directory| Path::new(directory).join(name))
}

/// A file of the system's below the place in which this git is installed: beside `bin`, or further up if `PATH` leads to git's
/// own directory of programs, as it does in hooks and aliases.
pub(super) fn files_of_git(git: &Path, name: &str) -> Vec<PathBuf> {
    const LEVELS: usize = 3;
    let real = git.canonicalize().ok();
    let prefixes =
        [Some(git), real.as_deref()].into_iter().flatten().flat_map(|git| git.ancestors().skip(2).take(LEVELS));
    prefixes.map(|prefix| prefix.join("etc").join(name)).collect()
}
