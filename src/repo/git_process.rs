//! Tells which processes are git, and what they do.

use std::path::Path;

use super::Repo;
use crate::sys;

/// A git that works here.
pub(crate) struct GitProcess {
    pub(crate) pid: u32,
    pub(crate) command: Vec<String>,
}

impl Repo {
    /// The gits that work in this repository's worktree or git directory now, as the system shows; those of other users may be
    /// hidden.
    pub(crate) fn gits_at_work(&self) -> Vec<GitProcess> {
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let places: Vec<_> = [Some(self.root()), self.git_dir()].into_iter().flatten().map(real).collect();
        let is_here = |pid: u32| {
            sys::working_directory(pid).is_some_and(|place| places.iter().any(|root| place.starts_with(root)))
        };
        let gits = sys::all_processes().into_iter().filter(|pid| is_here(*pid) && is_git(*pid));
        gits.map(|pid| GitProcess { pid, command: sys::command_line(pid).unwrap_or_default() }).collect()
    }
}

/// Tells whether a process runs git itself, by its program: `git`, `git-receive-pack`. Not so for programs in another
/// language whose name begins with `git-` (those of GUIs may live for days), and not for servers.
pub(crate) fn is_git(pid: u32) -> bool {
    // If the program of another user's process cannot be read, its own name must do.
    let program = sys::executable(pid).or_else(|| Some(sys::command_line(pid)?.first()?.into()));
    let name = program.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    // Wrapped by a package manager it is called `.git-wrapped`.
    let is_git = name.is_some_and(|name| name == "git" || name.trim_start_matches('.').starts_with("git-"));
    // A program that is not git is not asked for more.
    is_git && !sys::command_line(pid).is_some_and(|command| is_server(&command))
}

fn is_server(command: &[String]) -> bool {
    let program = command.first().map_or("", |program| program.rsplit('/').next().unwrap_or(program));
    program == "git-daemon" || verb(command).as_deref() == Some("daemon")
}

/// The subcommand on a command line of git's.
pub(crate) fn verb(command: &[String]) -> Option<String> {
    let mut words = command.iter();
    let program = words.next()?.rsplit('/').next()?;
    if let Some(verb) = program.strip_prefix("git-") {
        return Some(verb.to_owned());
    }
    while let Some(word) = words.next() {
        match word.as_str() {
            "-C" | "-c" | "--git-dir" | "--work-tree" | "--namespace" | "--exec-path" | "--config-env" => {
                words.next()?;
            }
            option if option.starts_with('-') => {}
            verb => return Some(verb.to_owned()),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn subcommand_is_found_behind_the_options() {
        assert_eq!(verb(&words("git -C x -c a=b --no-pager commit -a")).as_deref(), Some("commit"));
        assert_eq!(verb(&words("/usr/lib/git-core/git-receive-pack .")).as_deref(), Some("receive-pack"));
        assert_eq!(verb(&words("git --version")), None);
    }

    #[test]
    fn server_that_lives_for_ever_is_not_held_for() {
        assert!(is_server(&words("git daemon --export-all")));
        assert!(is_server(&words("/usr/libexec/git-core/git-daemon --export-all")));
        assert!(!is_server(&words("git commit -m daemon")));
    }
}
