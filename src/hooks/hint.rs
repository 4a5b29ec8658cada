//! Gives the user of a git command that failed a way to go on: a command to paste.

use super::{Event, git::Git};
use crate::{error::Error, escape::quoted, repo::Repo};

/// The way on after a failure; `None` if the error itself has it.
pub(super) fn after(repo: &Repo, event: Event, git: Option<&Git>, error: &Error) -> Option<String> {
    if !matches!(error, Error::Busy { .. } | Error::ChangedMeanwhile { .. }) {
        return None;
    }
    match event {
        Event::ApplypatchMsg => Some("`git am --abort` puts it back; then do it again".to_owned()),
        Event::PrepareCommitMsg => unfinished(repo, git),
        _ => None,
    }
}

/// How to go on with what has changed the files already.
fn unfinished(repo: &Repo, git: Option<&Git>) -> Option<String> {
    let git_dir = repo.git_dir()?;
    let states = [
        ("rebase-merge", "rebase"),
        ("rebase-apply", "rebase"),
        ("MERGE_HEAD", "merge"),
        ("CHERRY_PICK_HEAD", "cherry-pick"),
        ("REVERT_HEAD", "revert"),
    ];
    if let Some((_, verb)) = states.into_iter().find(|(state, _)| git_dir.join(state).exists()) {
        return Some(format!("finish with `git {verb} --continue`, or put it back with `git {verb} --abort`"));
    }
    // Git knows nothing of a revert without conflicts but its message.
    let verb = git.and_then(Git::verb)?;
    let changes = matches!(verb.as_str(), "merge" | "cherry-pick" | "revert");
    changes.then(|| "finish with `git commit`, or put it back with `git reset --merge`".to_owned())
}

/// The same git command, waiting for its turn before git has taken any lock of its own.
pub(super) fn way_out(command: &[String]) -> String {
    format!("`{}` waits for its turn; git holds a lock of its own here, so this hook cannot", under_exec(command))
}

/// A git command line under `repoguard exec`, with the repository that git was called for.
fn under_exec(command: &[String]) -> String {
    let quoted = |word: &String| quoted(word.as_ref());
    let (mut environment, mut directories) = (Vec::new(), Vec::new());
    let mut rest = command.iter();
    let mut git = vec![rest.next().map_or_else(|| "git".to_owned(), quoted)];
    while let Some(word) = rest.next() {
        let (option, mut value) = match word.split_once('=') {
            Some((option, value)) if word.starts_with("--") => (option, Some(value.to_owned())),
            _ => (word.as_str(), None),
        };
        let mut value = || value.take().or_else(|| rest.next().cloned()).unwrap_or_default();
        match option {
            "-C" => directories.extend(["-C".to_owned(), quoted(&value())]),
            "--git-dir" => environment.push(format!("GIT_DIR={}", quoted(&value()))),
            "--work-tree" => environment.push(format!("GIT_WORK_TREE={}", quoted(&value()))),
            "-c" => git.extend([quoted(word), quoted(&value())]),
            option if option.starts_with('-') => git.push(quoted(word)),
            _ => {
                git.push(quoted(word));
                git.extend(rest.by_ref().map(quoted));
            }
        }
    }
    let repoguard = ["repoguard".to_owned()].into_iter().chain(directories);
    let words = environment.into_iter().chain(repoguard).chain(["exec".to_owned(), "--".to_owned()]).chain(git);
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_to_paste_finds_the_repository_that_git_was_told_to_use() {
        for (git, pasted) in [
            ("git commit -a -m x", "repoguard exec -- git commit -a -m x"),
            ("git -C a -c k=v -C b commit -C HEAD", "repoguard -C a -C b exec -- git -c k=v commit -C HEAD"),
            ("git --git-dir=x --work-tree y commit p", "GIT_DIR=x GIT_WORK_TREE=y repoguard exec -- git commit p"),
            ("git -p --no-pager commit", "repoguard exec -- git -p --no-pager commit"),
        ] {
            let words: Vec<String> = git.split(' ').map(str::to_owned).collect();
            assert_eq!(under_exec(&words), pasted);
        }
    }
}
