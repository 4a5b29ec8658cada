//! Is what is read in this process what git would say?

#![expect(clippy::disallowed_methods, reason = "the repositories are git's own")]

use std::process::Command;

use tempfile::TempDir;

use super::{super::Index, *};

/// A repository that a script has made, and its worktree.
struct Place {
    directory: TempDir,
    checkout: Checkout,
}

const FIRST: &str = "set -e; git init -q -b main; mkdir -p d/e 'd e'; echo a >a; echo b >d/b; echo c >d/e/c; echo s >'d e/s'; \
    echo '*.log' >.gitignore; ln -s a link; git add .; git commit -qm first";

impl Place {
    fn new(script: &str) -> Self {
        Self::below(&format!("{FIRST}; {script}"), ".")
    }

    /// Its worktree is there.
    fn below(script: &str, inner: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut shell = Command::new("sh");
        shell.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        shell.envs([("GIT_CONFIG_GLOBAL", "/dev/null"), ("GIT_CONFIG_SYSTEM", "/dev/null")]);
        for (name, value) in [("NAME", "A"), ("EMAIL", "a@example.com"), ("DATE", "@1764172800 +0000")] {
            shell.env(format!("GIT_AUTHOR_{name}"), value).env(format!("GIT_COMMITTER_{name}"), value);
        }
        let output = shell.args(["-c", script]).current_dir(directory.path()).output().expect("a shell");
        assert!(output.status.success(), "{script}: {output:?}");
        let repo = Repo::discover(&directory.path().join(inner)).expect("a repository");
        let checkout = Checkout::find(&repo, Manner::Writing, "a test").expect("a worktree");
        Self { directory, checkout }
    }
}

#[test]
fn references_are_those_that_git_lists() {
    let tags = "git tag light; git tag -a -m x annotated; git tag -a -m x blob $(git rev-parse HEAD:a); git tag tree HEAD^{tree}";
    let more = format!(
        "{tags}; git branch other; git commit -q --allow-empty -m second; git update-ref refs/remotes/o/main HEAD; \
         git symbolic-ref refs/remotes/o/HEAD refs/remotes/o/main; git notes add -m n; echo x >>a; git stash -q"
    );
    let linked = format!(
        "{FIRST}; {more}; git worktree add -q -b w ../$(basename $PWD)/wt; git -C wt update-ref refs/worktree/own HEAD; git -C wt bisect start -q"
    );
    for place in [
        Place::new("true"),
        Place::new(&more),
        Place::new(&format!("{more}; git pack-refs --all; git branch new; git branch -f other new; git gc -q")),
        Place::new(&format!("{more}; touch .git/refs/heads/x.lock; mkdir -p .git/refs/heads/empty/dir")),
        Place::below(&linked, "wt"),
        Place::below("git init -q", "."),
    ] {
        let read = place.checkout.references_in_files().expect("no need of git");
        assert_eq!(read, place.checkout.references_by_git().expect("git lists"), "{:?}", place.directory);
    }
}

#[test]
fn git_is_asked_for_references_that_only_it_knows() {
    for script in [
        "git symbolic-ref refs/heads/dangling refs/heads/nowhere",
        "git symbolic-ref refs/heads/one refs/heads/main; git symbolic-ref refs/heads/two refs/heads/one",
        "git replace -f HEAD $(git commit-tree -m x HEAD^{tree})",
        "echo garbage >.git/refs/heads/bad",
        "git clone -qs . c; rm -rf .git; mv c/.git .",
    ] {
        assert_eq!(Place::new(script).checkout.references_in_files(), None, "{script}");
    }
}

#[test]
fn commits_and_trees_are_those_that_git_reads() {
    for script in ["true", "git gc -q", "git commit -q --allow-empty -m x; git merge -q -s ours -m m HEAD~0; git gc -q"]
    {
        let place = Place::new(script);
        let head = place.checkout.ask(&["rev-parse", "HEAD"]).map(|id| line(&id)).expect("a commit");
        let objects = place.checkout.objects().ok().expect("a usual repository");
        let (parents, tree) = objects.commit(&head).ok().expect("a commit");
        let told = place.checkout.ask(&["rev-parse", "HEAD^{tree}", "HEAD^@"]).expect("git tells");
        assert_eq!(
            line(&told).lines().collect::<Vec<_>>(),
            [&[tree.as_str()], &*parents.iter().map(String::as_str).collect::<Vec<_>>()].concat()
        );
        for path in ["a", "d/b", "d/e/c", "d e/s", "link", ".gitignore", "d", "d/x", "x/y", "a/b"] {
            let known = place.checkout.entry_of(&tree, path.as_bytes()).expect("git tells");
            let known = known.filter(|(mode, _)| mode != "040000");
            assert_eq!(objects.entry(&tree, path.as_bytes()).ok().expect("a tree"), known, "{script}: {path}");
        }
        assert!(objects.commit(&tree).is_err() && objects.commit(&"0".repeat(40)).is_err());
    }
}

#[test]
fn index_that_git_notes_to_be_the_commit_is_it_and_no_other_is() {
    for (script, noted) in [
        ("true", true),
        ("git gc -q", true),
        ("echo x >>a", true),
        ("git reset -q --hard; git checkout -q -b other", true),
        ("echo x >>a; git add a", false),
        ("echo x >>a; git add a; git write-tree", false),
        ("git commit -q --allow-empty -m x; git read-tree HEAD~1; echo x >new; git add -N new", false),
        ("git rm -q --cached a", false),
    ] {
        let place = Place::new(script);
        let (index, head) = (place.checkout.index(), place.checkout.ask(&["rev-parse", "HEAD"]).expect("a commit"));
        let tree = Index::open(&index, 20).expect("an index").expect("one").tree().expect("all of it");
        let is_it = tree.is_some_and(|tree| place.checkout.is_tree_of(&line(&head), &tree));
        assert_eq!(is_it, noted, "{script}");
    }
}

#[test]
fn worktree_of_tracked_files_only_needs_no_git_to_list_others() {
    for (script, only_tracked) in [
        ("true", true),
        ("echo x >>a; rm -r d/e", true),
        ("rm -rf d; echo d >d", false),
        ("rm a; mkdir a", false),
        ("rm -r d/e; ln -s .. d/e", false),
        ("echo new >d/new", false),
        ("touch x.log", false),
        ("mkdir empty", false),
        ("mkfifo d/e/fifo", false),
        ("git init -q d/e", false),
        ("git rm -q --cached a", false),
        ("mv d D", false),
        ("echo x >'d-e'; git add d-e; mkdir 'd.e'; echo x >'d.e/x'; git add d.e", true),
        ("git -C d init -q sub; git -C d/sub commit -q --allow-empty -m s; git add d/sub", true),
        ("git update-index --split-index", false),
        ("chmod 0 a", true),
    ] {
        let place = Place::new(script);
        let index = place.checkout.index();
        assert_eq!(place.checkout.holds_tracked_only(&index).expect("an index"), only_tracked, "{script}");
        let listed =
            place.checkout.list_files(&index, &["ls-files", "--others", "-z", "--directory"]).expect("git lists");
        assert!(!only_tracked || listed.is_empty(), "{script}: {listed:?}");
    }
}

#[test]
fn usual_worktree_is_found_without_git_and_every_other_one_by_git() {
    let usual = |place: &Place| {
        let repo = Repo::discover(&place.checkout.root).expect("a repository");
        usual_root(&repo)
    };
    for place in [Place::new("true"), Place::below(&format!("{FIRST}; git worktree add -q wt"), "wt")] {
        let told = place.checkout.ask(&["rev-parse", "--show-toplevel"]).expect("git tells");
        assert_eq!(usual(&place), Some(PathBuf::from(line(&told))));
    }
    for script in [
        "git config core.worktree $PWD",
        "git config core.repositoryFormatVersion 1",
        "git config extensions.worktreeConfig true",
        "git config include.path other",
    ] {
        assert_eq!(usual(&Place::new(script)), None, "{script}");
    }
}
