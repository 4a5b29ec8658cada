//! The only place that starts git: for what only git itself can decide.

#![expect(clippy::disallowed_methods, reason = "this is the file that starts git")]

use std::{
    path::Path,
    process::{Command, Output},
};

use super::Head;
use crate::error::{Error, Result};

/// Runs git in `directory` without optional locks; `None` when it cannot be started.
fn run(directory: &Path, arguments: &[&str]) -> Option<Output> {
    Command::new("git").arg("--no-optional-locks").current_dir(directory).args(arguments).output().ok()
}

/// Asks git whether it would work in a repository that somebody else owns.
pub(super) fn check_trust(directory: &Path, root: &Path) -> Result<()> {
    let untrusted = || Error::Untrusted { path: root.to_owned() };
    let output = run(directory, &["rev-parse", "--git-dir"]).ok_or_else(untrusted)?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if message.contains("safe.directory") {
        return Err(untrusted());
    }
    Err(Error::BrokenRepository { path: root.to_owned(), reason: message })
}

/// Asks git for HEAD, for ref storages that are not files.
pub(super) fn head(git_dir: &Path) -> Option<Head> {
    let text = |arguments: &[&str]| {
        let output = run(git_dir, &[&["--git-dir", "."], arguments].concat())?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        (output.status.success() && !text.is_empty()).then_some(text)
    };
    let branch = text(&["symbolic-ref", "--quiet", "HEAD"]);
    let commit = text(&["rev-parse", "--quiet", "--verify", "HEAD"]);
    (branch.is_some() || commit.is_some()).then_some(Head { branch, commit })
}

/// Asks git for all configuration of ours: (key, value, origin), later ones win.
pub(super) fn configuration(directory: &Path) -> Result<Vec<(String, String, String)>> {
    let failed = |reason| Error::BrokenRepository { path: directory.to_owned(), reason };
    let arguments = ["config", "--null", "--show-origin", "--get-regexp", r"^(repoguard\.|core\.sharedrepository$)"];
    let output = run(directory, &arguments)
        .ok_or_else(|| failed("git is needed to read its configuration, but cannot be started".to_owned()))?;
    // Status 1 is git's way to say that nothing matched.
    if !output.status.success() && output.status.code() != Some(1) {
        return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    // `origin NUL key LF value NUL`, and no LF where a key has no value, which means true.
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut fields = text.split('\0');
    let mut found = Vec::new();
    while let (Some(origin), Some(entry)) = (fields.next(), fields.next()) {
        let (key, value) = entry.split_once('\n').unwrap_or((entry, "true"));
        found.push((key.to_owned(), value.to_owned(), origin.to_owned()));
    }
    Ok(found)
}
