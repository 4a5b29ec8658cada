//! Decides whether a change of references may fail. Git calls the hook when it has locked them, and some commands have
//! changed the files by then: a checkout that fails there stays half done.
//!
//! # Format
//! Git gives pre-receive and reference-transaction one line for each reference: old value, new value, name.

/// A reference that is about to change.
pub(super) struct Change<'a> {
    old: &'a str,
    new: &'a str,
    pub(super) name: &'a str,
}

/// The decision about a transaction while somebody else holds the lock.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    /// Refusing leaves everything as it was.
    Refuse,
    /// Too late to fail it: the checkout changes under somebody's hold.
    Tell,
    /// It does not concern the holder of this checkout, or a failure would do harm.
    Pass,
}

/// The changes in what git gives a hook.
pub(super) fn references(input: &str) -> impl Iterator<Item = Change<'_>> {
    input.lines().filter_map(|line| {
        let mut words = line.splitn(3, ' ');
        Some(Change { old: words.next()?, new: words.next()?, name: words.next()? })
    })
}

/// Judges a transaction of the git subcommand `verb`, with HEAD on `branch`.
pub(super) fn judge(input: &str, verb: &str, branch: Option<&str>) -> Judgement {
    // These move references from one storage to another, belong to another checkout, or have begun already.
    // (Older gits bisect in a `bisect--helper`.)
    if matches!(verb, "gc" | "pack-refs" | "maintenance" | "worktree" | "remote" | "bisect" | "bisect--helper") {
        return Judgement::Pass;
    }
    // Of a deletion git does not always tell the old value, and it "deletes" what is not there.
    let is_change = |change: &Change<'_>| change.old != change.new || change.name.starts_with("refs/");
    let changes: Vec<Change<'_>> = references(input).filter(is_change).collect();
    let is_head = |change: &Change<'_>| change.name == "HEAD" || Some(change.name) == branch;
    if !changes.is_empty() && changes.iter().all(|change| can_be_refused(change, verb, is_head(change))) {
        return Judgement::Refuse;
    }
    if changes.iter().any(is_head) { Judgement::Tell } else { Judgement::Pass }
}

fn can_be_refused(change: &Change<'_>, verb: &str, is_head: bool) -> bool {
    let deletes = change.new.bytes().all(|byte| byte == b'0');
    match change.name {
        "HEAD" => matches!(verb, "commit" | "update-ref" | "symbolic-ref"),
        _ if is_head => matches!(verb, "commit" | "update-ref"),
        "ORIG_HEAD" => verb == "merge",
        // Its log is changed before, and `stash pop` has written the files.
        "refs/stash" => !deletes,
        // The remote has taken the push already.
        name if name.starts_with("refs/remotes/") => verb != "push",
        name => name.starts_with("refs/"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZERO: &str = "0000000000000000000000000000000000000000";

    fn judged(verb: &str, changes: &[(&str, &str, &str)]) -> Judgement {
        let input: String =
            changes.iter().fold(String::new(), |text, (old, new, name)| text + &format!("{old} {new} {name}\n"));
        judge(&input, verb, Some("refs/heads/main"))
    }

    #[test]
    fn what_has_changed_nothing_yet_is_refused() {
        assert_eq!(judged("tag", &[(ZERO, "1", "refs/tags/x")]), Judgement::Refuse);
        assert_eq!(judged("commit", &[("1", "2", "HEAD"), ("1", "2", "refs/heads/main")]), Judgement::Refuse);
        assert_eq!(judged("merge", &[(ZERO, "1", "ORIG_HEAD")]), Judgement::Refuse);
        assert_eq!(judged("stash", &[(ZERO, "1", "refs/stash")]), Judgement::Refuse);
        assert_eq!(judged("branch", &[(ZERO, ZERO, "refs/heads/other")]), Judgement::Refuse);
        assert_eq!(judged("fetch", &[("1", "2", "refs/remotes/origin/main")]), Judgement::Refuse);
    }

    #[test]
    fn what_has_changed_the_files_passes_and_is_told() {
        assert_eq!(judged("checkout", &[("1", "2", "HEAD")]), Judgement::Tell);
        assert_eq!(judged("reset", &[("1", "2", "HEAD"), ("1", "2", "refs/heads/main")]), Judgement::Tell);
        assert_eq!(judged("reset", &[(ZERO, "1", "ORIG_HEAD")]), Judgement::Pass);
    }

    #[test]
    fn what_would_be_harmed_or_changes_nothing_here_passes() {
        assert_eq!(judged("stash", &[("1", ZERO, "refs/stash")]), Judgement::Pass);
        assert_eq!(judged("push", &[("1", "2", "refs/remotes/origin/main")]), Judgement::Pass);
        assert_eq!(judged("gc", &[("1", ZERO, "refs/heads/main")]), Judgement::Pass);
        assert_eq!(judged("checkout", &[(ZERO, ZERO, "AUTO_MERGE")]), Judgement::Pass);
    }
}
