//! Reads what the command's own gits did. Only what one of them has moved was moved by the command; the rest was moved
//! by somebody else.
//!
//! Git itself writes the trace, for every git below the command. `GIT_TRACE2_EVENT` records the commands that ran and ended (JSON
//! lines, git's `Documentation/technical/api-trace2`), `GIT_TRACE_REFS` each reference that was written and its new value (git's
//! `refs/debug.c`, since git 2.30). A client that brings its own git (libgit2, `JGit`) leaves no trace, and an older git none of
//! references: then their moves count as somebody else's, and are left and named.

#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::{
    fs,
    repo::{Head, STASH},
    sys,
};

/// Far more than the gits of any mutation write.
const MOST_BYTES: u64 = 512 << 20;

/// A git that ran.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Git {
    /// Its verb: `commit`.
    verb: String,
    /// Its command line.
    arguments: Vec<String>,
    pub(crate) pid: u32,
    /// It said that it ends; one that was killed cannot.
    pub(crate) ended: bool,
    /// The top of the worktree that it worked in, if it said so.
    worktree: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Event {
    #[serde(rename = "event")]
    kind: String,
    sid: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    argv: Vec<String>,
    /// The top of the worktree that a git has found, or made.
    #[serde(default)]
    worktree: Option<PathBuf>,
}

/// All gits in a trace, in the order they began.
pub(crate) fn gits(trace: &Path) -> Vec<Git> {
    let text = fs::read_record(trace, MOST_BYTES).unwrap_or_default();
    let mut order: Vec<String> = Vec::new();
    let mut found: HashMap<String, Git> = HashMap::new();
    for line in text.split(|byte| *byte == b'\n') {
        let Ok(event) = serde_json::from_slice::<Event>(line) else { continue };
        let git = found.entry(event.sid.clone()).or_insert_with(|| {
            order.push(event.sid.clone());
            Git { pid: pid(&event.sid), ..Git::default() }
        });
        match event.kind.as_str() {
            "cmd_name" if !event.name.starts_with('_') => git.verb = event.name,
            "start" => git.arguments = event.argv,
            "exit" | "atexit" | "signal" => git.ended = true,
            // Submodules that it looks into follow.
            "def_repo" if git.worktree.is_none() => git.worktree = event.worktree,
            _ => {}
        }
    }
    order.iter().filter_map(|sid| found.remove(sid)).collect()
}

/// The worktrees that gits in a trace have made, with or without a repository: by `init`, `clone`, `worktree add` and `submodule add`.
pub(crate) fn made_worktrees(trace: &Path) -> HashSet<PathBuf> {
    const MAKERS: [&str; 3] = ["init", "init-db", "clone"];
    // These have it checked out by another git.
    const ABOVE: [&str; 4] = ["worktree", "submodule", "submodule--helper", "clone"];
    let text = fs::read_record(trace, MOST_BYTES).unwrap_or_default();
    let (mut verbs, mut found) = (HashMap::new(), Vec::new());
    for line in text.split(|byte| *byte == b'\n') {
        let Ok(event) = serde_json::from_slice::<Event>(line) else { continue };
        match event.kind.as_str() {
            "cmd_name" if !event.name.starts_with('_') => drop(verbs.insert(event.sid, event.name)),
            "def_repo" => found.extend(event.worktree.map(|worktree| (event.sid, worktree))),
            _ => {}
        }
    }
    let is_one = |sid: &str, verbs_of_makers: &[&str]| {
        verbs.get(sid).is_some_and(|verb| verbs_of_makers.contains(&verb.as_str()))
    };
    let made = found.into_iter().filter(|(sid, _)| {
        is_one(sid, &MAKERS) || sid.rsplit_once('/').is_some_and(|(above, _)| is_one(above, &ABOVE))
    });
    made.filter_map(|(_, worktree)| worktree.canonicalize().ok()).collect()
}

/// The process of a session id: its last part ends with `-P` and eight hex digits.
fn pid(sid: &str) -> u32 {
    let last = sid.rsplit('/').next().unwrap_or(sid);
    last.rsplit_once("-P").and_then(|(_, hex)| u32::from_str_radix(hex, 16).ok()).unwrap_or(0)
}

/// The verbs of git that leave index and references alone.
const READERS: &str = "annotate archive blame cat-file check-attr check-ignore check-mailmap check-ref-format cherry clean column \
    commit-tree count-objects describe diff diff-files diff-index diff-tree for-each-ref format-patch fsck gc \
    get-tar-commit-id grep hash-object help index-pack init init-db interpret-trailers log ls-files ls-remote \
    ls-tree mailinfo mailsplit maintenance merge-base merge-file merge-tree mktag mktree name-rev pack-objects \
    pack-redundant pack-refs patch-id prune prune-packed range-diff repack rev-list rev-parse shortlog show \
    show-branch show-index show-ref status stripspace unpack-file unpack-objects var verify-commit verify-pack \
    verify-tag version whatchanged write-tree config credential rerere bundle";

/// The verbs of git that write references, settings or other worktrees, and leave the index alone.
const REFERENCE_WRITERS: &str = "branch commit-graph fast-export fast-import fetch multi-pack-index notes push receive-pack reflog remote \
    replace symbolic-ref tag update-ref update-server-info upload-pack worktree";

impl Git {
    /// It was killed, and so may have left lock files behind.
    pub(crate) fn was_killed(&self) -> bool {
        !self.ended && self.pid != 0 && !self.reads_only() && sys::still_runs(self.pid, sys::boot_ms()) == Some(false)
    }

    /// Its command line names this reference.
    fn names(&self, reference: &str) -> bool {
        let short = ["refs/heads/", "refs/tags/"].iter().find_map(|prefix| reference.strip_prefix(prefix));
        self.arguments.iter().skip(1).any(|word| word == reference || Some(word.as_str()) == short)
    }

    /// It was called to give this reference another value. `by_head`: it is the branch of HEAD.
    pub(crate) fn is_to_move(&self, reference: &str, by_head: bool) -> bool {
        const MOVE_HEAD: &[&str] = &["am", "cherry-pick", "commit", "merge", "pull", "rebase", "reset", "revert"];
        let moves_head = by_head && MOVE_HEAD.contains(&self.verb.as_str());
        moves_head || (reference == STASH && self.verb == "stash") || self.names(reference)
    }

    /// It was called to rename a branch from this name, or to it. `by_head`: it is the branch of HEAD.
    pub(crate) fn is_to_rename(&self, branch: &str, by_head: bool) -> bool {
        let renames = |word: &String| word == "--move" || word.starts_with("-m") || word.starts_with("-M");
        self.verb == "branch" && (by_head || self.names(branch)) && self.arguments.iter().any(renames)
    }

    /// It was called to point HEAD to this branch.
    pub(crate) fn is_to_point_to(&self, branch: &str) -> bool {
        ["checkout", "switch", "symbolic-ref"].contains(&self.verb.as_str()) && self.names(branch)
    }

    /// Tells whether it left index and references alone.
    pub(crate) fn reads_only(&self) -> bool {
        READERS.split(' ').any(|verb| verb == self.verb)
    }

    /// Tells whether it may have changed the index of the worktree with this top.
    pub(crate) fn may_stage_in(&self, root: &Path) -> bool {
        // Index, references and objects of a repository of its own.
        let real = |path: &Path| path.canonicalize().ok();
        let is_elsewhere = |top: &Path| fs::identity(&top.join(".git")).is_some() && real(top) != real(root);
        let writes_no_index = REFERENCE_WRITERS.split(' ').any(|verb| verb == self.verb) || self.applies_to_files();
        !(self.reads_only() || writes_no_index || self.worktree.as_deref().is_some_and(is_elsewhere))
    }

    /// It is a `git apply` that leaves the index alone.
    fn applies_to_files(&self) -> bool {
        // `--index`, `--cached`, `--3way`, `--intent-to-add`, and any way to shorten them.
        let names_index = |word: &String| match word.strip_prefix("--") {
            Some(long) => long.starts_with(['i', 'c', '3']),
            None => word.starts_with('-') && word.contains(['3', 'N']),
        };
        // An alias has another command line.
        let is_called_so = self.arguments.iter().any(|word| word == "apply");
        self.verb == "apply" && is_called_so && !self.arguments.iter().any(names_index)
    }
}

/// The references that the command's gits have written.
#[derive(Debug, Default)]
pub(crate) struct Moves {
    /// Values that references had before.
    before: HashSet<String>,
    /// Values that were given to each; `None` for a deletion.
    written: HashMap<String, HashSet<Option<String>>>,
    /// Values that were found in each before it was written.
    found: HashMap<String, HashSet<String>>,
    /// The targets that symbolic ones got.
    targets: HashSet<(String, String)>,
    renamed: HashSet<(String, String)>,
    /// Those that were copied, and are still there.
    copied: HashSet<String>,
    /// Those whose log lost entries.
    expired: HashSet<String>,
    /// Transactions that had all their locks and did not tell how they ended.
    open: usize,
}

impl Moves {
    /// Reads a trace of references, which had these values before. Lines that are not understood say nothing.
    pub(crate) fn read(trace: &Path, before: HashSet<String>) -> Self {
        let text = fs::read_record(trace, MOST_BYTES).unwrap_or_default();
        let mut moves = Self { before, ..Self::default() };
        let mut deleting = false;
        for line in text.split(|byte| *byte == b'\n') {
            let line = String::from_utf8_lossy(line);
            // The time and the line of git's source stand before it.
            let line = line.split_once("refs/debug.c:").map_or(&*line, |(_, rest)| rest);
            let line = line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ').trim_start_matches(": ");
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["delete_refs", "{"] => deleting = true,
                ["transaction_prepare:", "0", ..] => moves.open += 1,
                ["finish:", ..] => moves.open = moves.open.saturating_sub(1),
                [name] if deleting && name.starts_with("refs/") => moves.write(name, None),
                ["rename_ref:", from, "->", to, ..] => {
                    moves.renamed.insert((from.to_owned(), to.to_owned()));
                }
                // Its value is that of the other one.
                ["copy_ref:", from, "->", to, ..] => {
                    moves.renamed.insert((from.to_owned(), to.to_owned()));
                    moves.copied.insert(from.to_owned());
                }
                // A log that loses entries may give its reference the value of another one.
                ["reflog_expire:", name, ..] => {
                    moves.expired.insert(name.trim_end_matches(':').to_owned());
                }
                ["create_symref:", name, "->", target, ..] => {
                    moves.targets.insert((name.to_owned(), target.to_owned()));
                }
                [name, old, "->", new, flags, ..] if flags.starts_with("(F=") => {
                    if !is_none(old) {
                        moves.found.entry(name.to_owned()).or_default().insert(old.to_owned());
                    }
                    moves.write(name, (!is_none(new)).then(|| new.to_owned()));
                }
                _ => deleting = false,
            }
        }
        moves
    }

    fn write(&mut self, name: &str, value: Option<String>) {
        self.written.entry(name.to_owned()).or_default().insert(value);
    }

    /// Tells whether a reference has this value because of the command alone. `by_head`: it is the branch of HEAD, by whose
    /// name it may have been written as well.
    pub(crate) fn explain(&self, name: &str, is: Option<&str>, by_head: bool) -> bool {
        let names: Vec<&str> = [name].into_iter().chain(by_head.then_some("HEAD")).collect();
        let written = || names.iter().filter_map(|name| self.written.get(*name)).flatten();
        let renamed = |(from, to): &(String, String)| {
            if is.is_some() { to == name } else { from == name && !self.copied.contains(from) }
        };
        let made = written().any(|value| value.as_deref() == is)
            || self.renamed.iter().any(renamed)
            || (is.is_some() && self.expired.contains(name));
        // A value that nothing had before, and that the command did not write, came from somebody else.
        let own = |value: &String| {
            self.before.contains(value) || self.written.values().any(|values| values.contains(&Some(value.clone())))
        };
        // The trace does not tell the value of a reference whose log lost entries.
        let tells_all = !self.expired.contains(name);
        made && (!tells_all || names.iter().filter_map(|name| self.found.get(*name)).flatten().all(own))
    }

    /// Tells whether HEAD is another one because of the command alone.
    pub(crate) fn explain_head(&self, was: &Head, is: &Head) -> bool {
        let to = is.commit.as_deref();
        if was.branch == is.branch {
            return match &is.branch {
                Some(branch) => self.explain(branch, to, true),
                None => self.explain("HEAD", to, false),
            };
        }
        let heads = self.written.get("HEAD");
        let switched = heads.is_some_and(|values| to.is_none() || values.contains(&is.commit));
        let pointed = |(name, target): &(String, String)| name == "HEAD" && Some(target) == is.branch.as_ref();
        let renamed =
            |(from, to): &(String, String)| Some(from) == was.branch.as_ref() && Some(to) == is.branch.as_ref();
        switched || self.targets.iter().any(pointed) || self.renamed.iter().any(renamed)
    }

    /// Tells whether a symbolic reference was pointed somewhere; its commit by now does not matter.
    pub(crate) fn point(&self, name: &str) -> bool {
        self.written.contains_key(name) || self.targets.iter().any(|(pointed, _)| pointed == name)
    }

    /// Tells whether a git was ended while it had locked references, so that what it wrote to them is not told.
    pub(crate) fn is_cut_off(&self) -> bool {
        self.open > 0
    }

    /// All references that were written.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        let pointed = self.targets.iter().map(|(name, _)| name);
        self.written.keys().chain(pointed).map(String::as_str)
    }

    /// Tells whether a reference, or its log, was written at all.
    pub(crate) fn touch(&self, name: &str) -> bool {
        self.written.contains_key(name)
            || self.expired.contains(name)
            || self.renamed.iter().any(|(from, to)| from == name || to == name)
    }

    /// A value that was written to a reference, or to HEAD.
    pub(crate) fn values<'a>(&'a self, names: &'a [&str]) -> impl Iterator<Item = &'a str> {
        names.iter().filter_map(|name| self.written.get(*name)).flatten().filter_map(Option::as_deref)
    }
}

fn is_none(id: &str) -> bool {
    id.bytes().all(|byte| byte == b'0')
}

/// Tells whether some git has worked in a repository since a moment (`boot_ms`), or may have, if the system does not show that.
pub(crate) fn git_works_in(root: &Path, git_dir: &Path, since: u64) -> bool {
    let is_git = |pid: &u32| {
        let name = sys::executable(*pid).and_then(|path| path.file_name().map(std::ffi::OsStr::to_owned));
        name.is_some_and(|name| name == "git" || name.to_string_lossy().starts_with("git-"))
    };
    let here = |pid: &u32| {
        let is_here = |directory: &std::path::PathBuf| directory.starts_with(root) || directory.starts_with(git_dir);
        sys::working_directory(*pid).as_ref().is_none_or(is_here)
    };
    // Last: one that has ended meanwhile has no directory either.
    let lives = |pid: &u32| sys::still_runs(*pid, since) == Some(true);
    sys::all_processes().iter().any(|pid| is_git(pid) && here(pid) && lives(pid))
}
