//! Which git runs this hook, and what was it called for?

use std::path::Path;

use crate::sys::{self, Process};

/// The git process that a hook runs in.
pub(super) struct Git {
    /// The one that holds until the end: the outermost of those that are each other's parents.
    pub(super) process: Process,
    /// The one that called the hook.
    caller: u32,
}

impl Git {
    /// Finds it among the ancestors of this process; `None` where the hook was not called by git: by hand, or by a client
    /// that brings a git of its own kind.
    ///
    /// Shells and other programs may stand between it and us (hook managers), but none between it and the gits above it: who
    /// runs git from a script, an alias or a `rebase --exec` may live for hours. With `nearest` not even those.
    pub(super) fn find(nearest: bool) -> Option<Self> {
        let mut above = sys::ancestors().skip_while(|&pid| !is_git(pid));
        let caller = above.next()?;
        let outermost = above.take_while(|&pid| !nearest && is_git(pid)).last().unwrap_or(caller);
        // Taken hold of before looking whether it is still above us: then it is the one that we mean.
        let process = Process::open(outermost);
        let still_ours = sys::ancestors().any(|pid| pid == outermost);
        still_ours.then_some(Self { process, caller })
    }

    /// The command line of the process that holds.
    pub(super) fn command(&self) -> Vec<String> {
        sys::command_line(self.process.pid()).unwrap_or_else(|| vec!["git".to_owned()])
    }

    /// The subcommand of the one that called the hook: `commit`, `merge`.
    pub(super) fn verb(&self) -> Option<String> {
        verb(&sys::command_line(self.caller).unwrap_or_default())
    }
}

/// Tells whether a process runs git itself, by its program: `git`, `git-receive-pack`. Not so for programs in another
/// language whose name begins with `git-` (those of GUIs may live for days), and not for servers.
fn is_git(pid: u32) -> bool {
    // Where the program of another user's process cannot be seen, what it calls itself must do.
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
fn verb(command: &[String]) -> Option<String> {
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
