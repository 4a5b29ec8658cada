//! Looks into git's configuration files without reading them as git does: whether they mention a setting.

use std::path::{Path, PathBuf};

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
    if env::get("GIT_CONFIG_NOSYSTEM").is_none() {
        match env::get("GIT_CONFIG_SYSTEM") {
            Some(path) => files.push(path.into()),
            None => files
                .extend(["/etc", "/usr/local/etc", "/opt/homebrew/etc"].map(|dir| Path::new(dir).join("gitconfig"))),
        }
    }
    if let Some(path) = env::get("GIT_CONFIG_GLOBAL") {
        files.push(path.into());
        return files;
    }
    files.extend(env::git_config_file("config"));
    files.extend(env::home().map(|home| home.join(".gitconfig")));
    files
}
