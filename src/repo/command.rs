//! Starts git: the only door.
//!
//! # Foreign repositories
//! Git's own check of a repository's owner counts (`trust`), and [`Manner`] has the rights of a git of ours: one that only reads runs
//! nothing that the repository names.

#![expect(clippy::disallowed_methods, reason = "this is the file that starts git")]

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use crate::{env, fs};

/// The rights of a git that we run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Tells about itself and its configuration, as the user's git does: such a git runs no other program.
    Asking,
    /// Reads, and runs nothing that the repository names: no hook, file system monitor, filter, pager or signature program. It
    /// fetches nothing.
    Reading,
    /// Writes without hooks and optional locks, and converts files as the user's git does.
    Writing,
}

/// Makes git sync its writes: a finished mutation survives a power failure.
const DURABLE: [&str; 2] = ["-c", "core.fsync=committed,reference"];

/// Makes a git that writes so many files sync its writes: one by one, or together, which takes longer for few.
pub(crate) fn durable(files: usize) -> Vec<&'static str> {
    const FEW: usize = 16;
    let method: &[&str] = if files > FEW { &["-c", "core.fsyncMethod=batch"] } else { &[] };
    [&DURABLE, method].concat()
}

/// How all gits begin that write: [`super::Checkout::git_at_work`] knows them by it.
pub(super) const WRITES: [&str; 4] = ["--no-optional-locks", "--literal-pathspecs", "-c", "core.hooksPath=/dev/null"];

/// A monitor may miss what happened just now, and is a program that the repository names.
const UNMONITORED: [&str; 2] = ["-c", "core.fsmonitor=false"];

/// A git, started nowhere yet. It finds and judges the repository itself, as the user's git does.
pub(super) fn command(manner: Manner) -> Command {
    const UNSIGNED: [&str; 2] = ["-c", "log.showSignature=false"];
    // Found once here, not again and again by each child.
    let mut git = Command::new(program().as_deref().unwrap_or(Path::new("git")));
    for name in env::PATHSPECS {
        git.env_remove(name);
    }
    match manner {
        Manner::Asking => return with(git, &["--no-optional-locks"]),
        Manner::Reading => {
            git.args(["--no-optional-locks", "--no-pager", "--literal-pathspecs", "-c", "core.hooksPath=/dev/null"]);
            git.args(UNMONITORED).args(UNSIGNED);
            // An older git than 2.44 fetches all the same, by a protocol that must be allowed.
            git.env("GIT_NO_LAZY_FETCH", "1").env("GIT_ALLOW_PROTOCOL", "none").env("GIT_TERMINAL_PROMPT", "0");
        }
        Manner::Writing => {
            git.args(WRITES).args(DURABLE).args(UNMONITORED).args(["-c", "core.splitIndex=false"]);
        }
    }
    git.env_remove(env::GIT_TRACE).env_remove(env::GIT_TRACE_REFS).env_remove("GIT_PREFIX");
    git
}

/// The git that runs, found in `PATH`.
pub(super) fn program() -> Option<PathBuf> {
    let directories = env::get("PATH")?;
    let mut programs = std::env::split_paths(&directories).map(|directory| directory.join("git"));
    // A relative path is seen from the directory of each git.
    programs.find(|program| fs::is_executable(program) || program.is_relative()).filter(|program| program.is_absolute())
}

fn with(mut git: Command, options: &[&str]) -> Command {
    git.args(options);
    git
}

/// Git's standard error in one line. If it is empty, for example because git was killed, the way it ended.
pub(super) fn said(output: &Output) -> String {
    /// Its complaints about many single files are left out of the message.
    const MOST: usize = 1000;
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let said = lines.join("; ");
    match said.char_indices().nth(MOST) {
        _ if said.is_empty() => format!("git ended with {}", output.status),
        Some((end, _)) => format!("{}…", &said[..end]),
        None => said,
    }
}
