//! Compares what is read and staged in this process with what git says and stages.

#![expect(clippy::disallowed_methods, reason = "the repositories are git's own")]

use std::process::Command;

use tempfile::TempDir;

use super::{super::Index, *};
use crate::fs;

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
fn tip_is_that_of_the_reference_with_exactly_this_name() {
    let place = Place::new("git tag refs/heads/q; git branch q/below; git update-ref refs/stash HEAD");
    let tip = |name: &str| place.checkout.tip(name).expect("git answers").is_some();
    assert!(!tip("refs/heads/q"), "there are a tag of that name and a branch below it");
    assert!(["refs/heads/main", "refs/heads/q/below", "refs/tags/refs/heads/q", "refs/stash"].into_iter().all(tip));
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
        let output = place.checkout.ask(&["rev-parse", "HEAD^{tree}", "HEAD^@"]).expect("git tells");
        assert_eq!(
            line(&output).lines().collect::<Vec<_>>(),
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
fn git_need_look_only_at_what_is_neither_tracked_nor_above_it() {
    for (script, strays) in [
        ("true", Some("")),
        ("echo x >>a; rm -r d/e", Some("")),
        ("rm -rf d; echo d >d", None),
        ("rm a; mkdir a", None),
        ("rm -r d/e; ln -s .. d/e", None),
        ("echo new >d/new", Some("d/new")),
        ("touch x.log d/y.log", Some("d/y.log x.log")),
        ("mkdir -p d/empty/e new/f; echo 1 >new/f/g; touch d/empty/x.log", Some("d/empty new")),
        ("mkfifo d/e/fifo", Some("d/e/fifo")),
        ("git init -q d/e", None),
        ("git init -q d/f; git -C d/f commit -q --allow-empty -m 1", Some("d/f")),
        ("git rm -q --cached a", Some("a")),
        ("mv d D", Some("D")),
        ("touch '*' ':!a' '[d]'", Some("* :!a [d]")),
        (
            "echo 'd/' >.gitignore; touch d/new; mkdir d/g; touch d/g/new; echo '!/d/g' >d/.gitignore",
            Some("d/.gitignore d/g d/new"),
        ),
        ("echo x >'d-e'; git add d-e; mkdir 'd.e'; echo x >'d.e/x'; git add d.e", Some("")),
        ("git -C d init -q sub; git -C d/sub commit -q --allow-empty -m s; git add d/sub", Some("")),
        ("git config core.ignoreCase true; touch b", None),
        ("git update-index --split-index", None),
        ("touch $(seq 200)", None),
        ("chmod 0 a", Some("")),
    ] {
        let place = Place::new(script);
        let index = place.checkout.index();
        let found = place.checkout.strays(&index).expect("an index").map(|mut strays| {
            strays.sort();
            strays
        });
        let named = found.as_ref().map(|strays| String::from_utf8_lossy(&strays.join(&b' ')).into_owned());
        assert_eq!(named.as_deref(), strays, "{script}");
        for options in [&["--directory"][..], &[], &["--exclude-standard", "--directory"], &["--exclude-standard"]] {
            let listed = |only: &[Vec<u8>]| place.checkout.list_files(&index, options, only).expect("git lists").paths;
            match &found {
                Some(none) if none.is_empty() => assert_eq!(listed(&[]), [b""; 0], "{script}"),
                Some(strays) => assert_eq!(listed(strays), listed(&[]), "{script} {options:?}"),
                None => {}
            }
        }
    }
}

#[test]
fn usual_worktree_is_found_without_git_and_every_other_one_by_git() {
    let usual = |place: &Place| {
        let repo = Repo::discover(&place.checkout.root).expect("a repository");
        usual_root(&repo)
    };
    for place in [Place::new("true"), Place::below(&format!("{FIRST}; git worktree add -q wt"), "wt")] {
        let output = place.checkout.ask(&["rev-parse", "--show-toplevel"]).expect("git tells");
        assert_eq!(usual(&place), Some(PathBuf::from(line(&output))));
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

/// A script, what is removed then, and what has changed.
type Staging = (&'static str, &'static [&'static str], &'static [&'static str]);

/// Copies of the index of a place that were brought up to date: in this process, which says whether it could, and by git.
fn staged_twice(place: &Place, (_, remove, changed): Staging) -> (bool, [PathBuf; 2]) {
    let paths = |names: &[&str]| names.iter().map(|name| name.as_bytes().to_vec()).collect::<Vec<_>>();
    let [here, by_git] = ["here", "by-git"].map(|name| {
        let copy = place.checkout.git_dir.join("repoguard").join(name);
        std::fs::create_dir_all(copy.parent().expect("a directory")).expect("a directory");
        fs::copy_index(&place.checkout.index(), &copy, false).expect("a copy");
        copy
    });
    let is_done = place.checkout.stage_here(&here, &paths(remove), &paths(changed)).is_ok();
    // Nothing else than git takes part.
    let mut git = place.checkout.command(Some(&by_git), &["update-index", "--add", "--remove", "--replace", "--stdin"]);
    let git = git.as_mut().expect("git").stdin(std::process::Stdio::piped()).spawn();
    let mut git = git.expect("git");
    let input = [remove, changed].concat().join("\n") + "\n";
    std::io::Write::write_all(&mut git.stdin.take().expect("a pipe"), input.as_bytes()).expect("git reads");
    assert!(git.wait().expect("git ends").success());
    (is_done, [here, by_git])
}

#[test]
fn files_are_staged_as_git_stages_them() {
    let cases: [Staging; 8] = [
        ("echo new >a; echo c >d/e/c; printf 'no end' >d/b", &[], &["a", "d/e/c", "d/b"]),
        ("echo x >new; mkdir -p n/e; echo y >n/e/w; printf '' >empty", &[], &["new", "n/e/w", "empty"]),
        ("rm a d/b; echo z >z", &["a", "d/b"], &["z"]),
        ("rm -r d", &["d/b", "d/e/c"], &[]),
        ("chmod +x a; printf '\\r\\n\\0\\377' >bytes", &[], &["a", "bytes"]),
        ("ln -sf d/b link; ln -s nowhere other", &[], &["link", "other"]),
        ("printf 'a\\r\\n' >a; printf '*.x -diff\\n' >.gitattributes", &[], &["a", ".gitattributes"]),
        ("head -c 3000000 /dev/zero >big; git gc -q", &[], &["big"]),
    ];
    for case in cases {
        let place = Place::new(case.0);
        let (is_done, indexes) = staged_twice(&place, case);
        assert!(is_done, "{case:?}");
        let ask = |index: &PathBuf, arguments: &[&str]| place.checkout.run(Some(index), arguments, None).expect("git");
        let [here, by_git] = indexes.each_ref().map(|index| ask(index, &["ls-files", "--stage"]));
        assert_eq!(String::from_utf8_lossy(&here), String::from_utf8_lossy(&by_git), "{case:?}");
        let [here, by_git] = indexes.each_ref().map(|index| ask(index, &["write-tree"]));
        assert_eq!(here, by_git, "{case:?}");
        // Its files are known to be as they are in the index, and every object is whole.
        assert!(ask(&indexes[0], &["diff-files", "--name-only"]).is_empty(), "{case:?}");
        ask(&indexes[0], &["fsck", "--strict"]);
        let blobs = case.2.iter().flat_map(|name| format!(":{name}\n").into_bytes()).collect::<Vec<_>>();
        let sizes = ["cat-file", "--batch-check=%(objectname) %(objecttype) %(objectsize)"];
        let output = place.checkout.run(Some(&indexes[0]), &sizes, Some(&blobs)).expect("git");
        assert!(!String::from_utf8_lossy(&output).contains("missing"), "{case:?}");
    }
}

#[test]
fn git_stages_what_it_would_not_store_as_it_is() {
    let cases: [Staging; 21] = [
        ("git config core.autocrlf input; printf 'a\\r\\n' >a", &[], &["a"]),
        ("echo '* text=auto' >.gitattributes; printf 'a\\r\\n' >a", &[], &["a"]),
        ("echo '* text' >d/.gitattributes; printf 'a\\r\\n' >d/b", &[], &["d/b"]),
        ("echo '*.x filter=f' >d/.gitattributes; echo x >d/e/c", &[], &["d/e/c"]),
        ("echo 'd/** ident' >.git/info/attributes; echo '$Id$' >d/e/c", &[], &["d/e/c"]),
        ("echo '* text' >at; git config core.attributesFile $PWD/at; printf 'a\\r\\n' >a", &[], &["a"]),
        ("echo '* text' >.gitattributes; git add .gitattributes; rm .gitattributes; printf 'a\\r\\n' >a", &[], &["a"]),
        ("git config core.fileMode false; chmod +x a; echo x >a", &[], &["a"]),
        ("git config core.symlinks false; rm link; printf a >link", &[], &["link"]),
        ("git config core.sharedRepository group; echo x >a", &[], &["a"]),
        ("git config core.ignoreCase true; echo x >a", &[], &["a"]),
        ("echo '[core]' >other; git config include.path ../other; echo x >a", &[], &["a"]),
        ("git update-index --skip-worktree a; echo x >a", &[], &["a"]),
        ("git update-index --index-version 4; echo x >a", &[], &["a"]),
        ("git update-index --split-index; echo x >a", &[], &["a"]),
        ("rm -r d; echo d >d", &[], &["d"]),
        ("rm a; mkdir a; echo b >a/b", &[], &["a/b"]),
        ("rm a", &[], &["a"]),
        ("printf x >'od\\d'", &[], &["od\\d"]),
        ("printf x >é", &[], &["é"]),
        ("head -c 17000000 /dev/zero >big", &[], &["big"]),
    ];
    for case in cases {
        let place = Place::new(case.0);
        let (is_done, [here, _]) = staged_twice(&place, case);
        assert!(!is_done, "{case:?}");
        let [before, after] = [&place.checkout.index(), &here].map(|index| std::fs::read(index).expect("an index"));
        assert!(before == after, "{case:?}: an index that git has to change is as it was");
    }
    let place = Place::new("rm a; mkfifo a");
    assert!(place.checkout.stage_here(&place.checkout.index(), &[], &[b"a".to_vec()]).is_err());
}
