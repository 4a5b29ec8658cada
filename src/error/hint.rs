//! Tells the way out of each error.

use std::io;

use super::Error;
use crate::{
    escape::{quoted, quoted_path},
    holder::Holder,
};

impl Error {
    /// A command to paste, or a way out in a few words.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hints = [
            Self::lock_hint,
            Self::repository_hint,
            Self::mutation_hint,
            Self::hook_hint,
            Self::record_hint,
            Self::system_hint,
        ];
        hints.into_iter().find_map(|hint| hint(self))
    }

    /// Ways out if a lock was not acquired.
    fn lock_hint(&self) -> Option<String> {
        Some(match self {
            Self::Busy { holders, .. } => holders
                .iter()
                .find_map(Holder::advice)
                .unwrap_or_else(|| "`repoguard status` shows who holds it and who waits".to_owned()),
            Self::GitBusy { .. } => "`repoguard doctor` tells whether a git that died has left it".to_owned(),
            Self::Deadlock { .. } => {
                "take all locks at once, `repoguard exec --name A --name B -- …`, or always in the same order"
                    .to_owned()
            }
            Self::Threads => {
                "`Repo::exec`, `Repo::mutate` and `Repo::exec_in_worktree` are for programs with threads".to_owned()
            }
            Self::NoProgram { .. } => "`cargo install repoguard`, or name the program's path in the options".to_owned(),
            Self::Nested => {
                "leave the inner `repoguard mutate` out: the outer one commits what its command changes".to_owned()
            }
            Self::AlreadyHeld { .. } => "release the first guard, or pass it on to where it is needed".to_owned(),
            Self::Cycle { .. } => "take all locks at once, by their names, or always in the same order".to_owned(),
            Self::NeverGranted { .. } => "ask for the wider lock in the outer `repoguard exec`".to_owned(),
            Self::NoLocks { .. } => "`flock --verbose FILE true` tells more; use a local file system".to_owned(),
            Self::HeldElsewhere { held, .. } => format!(
                "it reaches the repository as `{}`: use one of the two ways only; locks do not count between them",
                held.display()
            ),
            Self::NotAFile { path, .. } => format!("`ls -ld {}` shows what it is; move it away", quoted_path(path)),
            Self::NotReached { .. } => {
                "release it as that user, on the machine and in the container that acquired it".to_owned()
            }
            Self::RecordBusy { pid: Some(pid), .. } => {
                format!("`ps -fp {pid}` shows what writes; one that is stopped can go on: `kill -CONT {pid}`")
            }
            _ => return None,
        })
    }

    /// Ways out if the repository is not as git or repoguard needs it.
    fn repository_hint(&self) -> Option<String> {
        Some(match self {
            Self::GitBlocked { directory } => format!("`find {} -type p` lists FIFOs", quoted_path(directory)),
            Self::BrokenRepository { path, .. } => {
                // Above `.git`, or above what is in it.
                let inside = path.ancestors().find(|above| above.file_name().is_some_and(|name| name == ".git"));
                let directory = inside.unwrap_or(path).parent().unwrap_or(path);
                format!("`git -C {} status` tells what git makes of it", quoted_path(directory))
            }
            Self::Untrusted { path } => {
                format!("`git config --global --add safe.directory {}`", quoted_path(path))
            }
            Self::ImplicitBare { path } => format!("`export GIT_DIR={}` names it", quoted_path(path)),
            Self::NoCommit { path, .. } => format!("`git -C {} commit --allow-empty -m start`", quoted_path(path)),
            Self::BranchName { .. } => "`git help check-ref-format` tells what one may be".to_owned(),
            Self::NoRepository { .. } | Self::NoWorktree { .. } => {
                "run it in a git checkout, or give one with `-C DIR`".to_owned()
            }
            Self::Config { key, .. } if key.starts_with("repoguard.") => {
                format!("`git config --show-origin --get-all {key}`")
            }
            _ => return None,
        })
    }

    /// Ways out of mutations and snapshots.
    fn mutation_hint(&self) -> Option<String> {
        Some(match self {
            Self::UnexpectedHead { .. } => "read the repository again, then do it again".to_owned(),
            Self::SwitchedHead { to, .. } => {
                format!("`--expect-branch {}` if that is meant; then do it again", quoted(to.as_ref()))
            }
            Self::Unfinished { .. } => {
                "`repoguard recover --status` shows what `--undo` and `--finish` would do".to_owned()
            }
            Self::BadRecord { .. } => {
                "`repoguard recover --finish` forgets the mutation, and leaves everything as it is".to_owned()
            }
            Self::Foreign { path, .. } => format!("`ls -l {}` shows whose it is", quoted_path(path)),
            Self::NotPutBack { .. } => "`repoguard recover` tries again".to_owned(),
            Self::ChangedMeanwhile { .. } => "`git status` shows how it stands; then do it again".to_owned(),
            Self::NoSnapshot { .. } | Self::AmbiguousSnapshot { .. } => "`repoguard snapshots` lists them".to_owned(),
            Self::DamagedSnapshot { path, .. } => format!("`ls -lR {}` shows what is left of it", quoted_path(path)),
            Self::NotKept { id, .. } => format!("`repoguard snapshots {id}` lists what it keeps"),
            _ => return None,
        })
    }

    /// Ways out if a hook cannot be installed or removed.
    fn hook_hint(&self) -> Option<String> {
        Some(match self {
            Self::HookEdited { path } => {
                format!("move what was added to a hook of your own, then `rm {}`, and do this again", quoted_path(path))
            }
            Self::HooksElsewhere { .. } => {
                "`repoguard hooks install --force` installs there all the same; `git config core.hooksPath \
                 \"$(git rev-parse --path-format=absolute --git-common-dir)/hooks\"` gives this repository hooks of its own"
                    .to_owned()
            }
            Self::TwoHooks { hook, kept } => format!(
                "make one of the two, as `{}`, remove the other, then `repoguard hooks install`; `diff {} {}` compares them",
                quoted_path(hook),
                quoted_path(hook),
                quoted_path(kept)
            ),
            Self::HookNotMovable { path, .. } => {
                let event = quoted(path.file_name().unwrap_or_default());
                format!("let it run `repoguard hook {event} \"$@\"` itself, first of all that it runs")
            }
            _ => return None,
        })
    }

    /// Ways to mend records and documents.
    fn record_hint(&self) -> Option<String> {
        Some(match self {
            Self::DamagedSequence { name, path, .. } => {
                let (path, name) = (quoted_path(path), quoted(name.as_ref()));
                format!(
                    "`mv {path} {path}.damaged`, then `repoguard next --at-least N -- {name}` with an N above all that were given"
                )
            }
            Self::MissingTree { reference, .. } => {
                let reference = quoted(reference.as_ref());
                format!("`git ls-tree -rt {reference} >/dev/null` fetches it")
            }
            // One of our own may go; the user's own is theirs to mend.
            Self::DamagedDocument { path, .. } if path.ends_with("repoguard/state.json") => {
                format!("mend it, or put it away to begin afresh: `mv {0} {0}.damaged`", quoted_path(path))
            }
            Self::DamagedDocument { path, .. } => {
                format!("mend it; `git log -p -- {}` shows how it was, if it is tracked", quoted_path(path))
            }
            _ => return None,
        })
    }

    /// Ways out if the system refused something.
    fn system_hint(&self) -> Option<String> {
        Some(match self {
            Self::Io { path, source, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied => format!("`ls -ld {}` shows who may", quoted_path(path)),
                io::ErrorKind::ReadOnlyFilesystem => {
                    "`repoguard exec` without `--name` also works where nothing can be written".to_owned()
                }
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    format!("`df -h {}` shows how full it is", quoted_path(path.parent().unwrap_or(path)))
                }
                _ => return None,
            },
            _ => return None,
        })
    }
}
