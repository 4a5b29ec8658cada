//! `repoguard next --scan`: numbers in the names of files, on disk and in indexes, of all worktrees.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;

use crate::support::{Sandbox, is_root, skip, to_the_end};

const ADR: [&str; 2] = ["--scan", "docs/adr/{}-*.md"];

/// The number that a new sequence begins with where these patterns are looked for.
#[track_caller]
fn begins(sandbox: &Sandbox, patterns: &[&str]) -> u64 {
    fs::remove_dir_all(sandbox.data()).ok();
    let mut args = vec!["x"];
    for pattern in patterns {
        args.extend(["--scan", pattern]);
    }
    sandbox.next(&args)[0].parse().unwrap()
}

#[test]
fn number_is_greater_than_those_on_disk_and_those_given() {
    let sandbox = Sandbox::new();
    sandbox
        .sh("mkdir -p docs/adr sub; >docs/adr/0007-a.md; >docs/adr/12-no-adr.txt; >docs/adr/x13-a.md")
        .assert()
        .success();
    let next = |args: &[&str]| sandbox.next(&[&["adr"], args].concat())[0].clone();
    assert_eq!(next(&ADR), "8");
    assert_eq!(next(&ADR), "9", "given, though no file has it");
    sandbox.sh("echo '*.md' >.gitignore; >docs/adr/0020-ignored.md").assert().success();
    assert_eq!(next(&ADR), "21");
    assert_eq!(next(&[]), "22", "without a look it goes on as well");
    assert_eq!(next(&[&ADR[..], &["--scan", "other/{}"]].concat()), "23");
    sandbox.sh("mkdir other; >other/30").assert().success();
    assert_eq!(next(&[&ADR[..], &["--scan", "other/{}", "--count", "2"]].concat()), "31");
    // From below, patterns are still seen from the top.
    let mut below = sandbox.repoguard(["next", "new", "--scan", ADR[1]]);
    below.current_dir(sandbox.path("sub")).assert().success().stdout("21\n");
}

#[test]
fn names_are_matched_as_they_are() {
    let sandbox = Sandbox::new();
    let here = |name: &[u8]| sandbox.path(OsStr::from_bytes(name));
    fs::write(here(b"a\xff\xfe-7.md"), "").unwrap();
    fs::write(here(b"new\nline-8.md"), "").unwrap();
    fs::write(here(b"-9.md"), "").unwrap();
    fs::write(here(b" 10 .md"), "").unwrap();
    fs::write(here("é11[*]{}.md".as_bytes()), "").unwrap();
    fs::write(here(b"99999999999999999999.md"), "").unwrap();
    for pattern in ["*-{}.md", " {} .md", r"é{}\[\*]{{}}.md", r"?{}\[*", "{}.md"] {
        let expected = match pattern {
            "*-{}.md" => 10,
            " {} .md" => 11,
            // Nobody can be given what is beyond 64 bits.
            "{}.md" => 1,
            _ => 12,
        };
        assert_eq!(begins(&sandbox, &[pattern]), expected, "on disk: {pattern}");
    }
    // The same in the index, on a branch, and where only a branch has them.
    for commands in ["git add -A; rm -f ./*.md", "git commit -qm names", "git checkout -q -b other HEAD~"] {
        sandbox.sh(commands).assert().success();
        assert_eq!(begins(&sandbox, &["*-{}.md"]), 10, "{commands}");
        assert_eq!(begins(&sandbox, &[r"?{}\[*", " {} .md"]), 12, "{commands}");
    }
}

#[test]
fn directories_count_and_any_depth_can_be_asked_for() {
    let sandbox = Sandbox::new();
    sandbox
        .sh("mkdir -p m/0005_x/deep a/b/c .git/90; >a/b/c/rfc-6; >.git/91; >a/rfc-4; >m/0005_x/deep/8")
        .assert()
        .success();
    symlink("..", sandbox.path("a/b/up")).unwrap();
    assert_eq!(begins(&sandbox, &["m/{}_*"]), 6);
    assert_eq!(begins(&sandbox, &["m/{}_*/deep"]), 6);
    assert_eq!(begins(&sandbox, &["m/{}_*/no"]), 1);
    assert_eq!(begins(&sandbox, &["m/*/*/{}"]), 9);
    assert_eq!(begins(&sandbox, &["**/rfc-{}"]), 7);
    assert_eq!(begins(&sandbox, &["a/**/rfc-{}", "**/{}"]), 9);
    assert_eq!(begins(&sandbox, &["**/c/**/rfc-{}"]), 7);
    assert_eq!(begins(&sandbox, &[".git/{}"]), 1, "the git directory is none of the worktree's");
    assert_eq!(begins(&sandbox, &["*/{}"]), 1);
}

#[test]
fn linked_directories_are_looked_into_where_the_way_is_told() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.outside("shared")).unwrap();
    fs::write(sandbox.outside("shared/41"), "").unwrap();
    symlink(sandbox.outside("shared"), sandbox.path("ids")).unwrap();
    symlink("loop", sandbox.path("loop")).unwrap();
    symlink("nowhere", sandbox.path("77")).unwrap();
    assert_eq!(begins(&sandbox, &["ids/{}"]), 42);
    assert_eq!(begins(&sandbox, &["i*/{}"]), 42);
    assert_eq!(begins(&sandbox, &["loop/{}", "loop/*/{}"]), 1);
    assert_eq!(begins(&sandbox, &["{}"]), 78, "a link is a name, wherever it leads");
    assert_eq!(begins(&sandbox, &["file/{}", "file/*/{}"]), 1, "nothing is below a file");
}

#[test]
fn uncommitted_files_of_other_worktrees_count() {
    let sandbox = Sandbox::new();
    let (one, other) = (sandbox.worktree("one"), sandbox.worktree("other"));
    sandbox.sh("mkdir ids ../one/ids ../other/ids; >ids/5; >../one/ids/6; >../other/ids/7").assert().success();
    for place in [sandbox.here(), &one, &other] {
        let mut next = sandbox.repoguard(["next", "seen", "--scan", "ids/{}"]);
        let number = next.current_dir(place).output().unwrap().stdout;
        assert!(String::from_utf8(number).unwrap().trim().parse::<u64>().unwrap() >= 8, "{}", place.display());
    }
    for (file, expected) in [("ids/15", 16), ("../one/ids/16", 17), ("../other/ids/17", 18)] {
        for place in ["repo", "one", "other"] {
            fs::remove_dir_all(sandbox.data()).unwrap();
            sandbox.sh(&format!(">{file}")).assert().success();
            let mut next = sandbox.repoguard(["next", "x", "--scan", "ids/{}"]);
            next.current_dir(sandbox.outside(place)).assert().success().stdout(format!("{expected}\n"));
        }
    }
    // A worktree that is gone, or whose directory is, is in nobody's way; what it had is gone, too.
    fs::remove_dir_all(&other).unwrap();
    assert_eq!(begins(&sandbox, &["ids/{}"]), 17);
    sandbox.git(["worktree", "prune"]);
    assert_eq!(begins(&sandbox, &["ids/{}"]), 17);
}

#[test]
fn staged_files_count_in_every_worktree_also_without_a_file() {
    let sandbox = Sandbox::new();
    sandbox.worktree("one");
    sandbox.sh("mkdir -p ids ../one/ids; >ids/5; git add ids; rm ids/5").assert().success();
    assert_eq!(begins(&sandbox, &["ids/{}"]), 6);
    sandbox.sh("cd ../one; >ids/9; git add ids; rm ids/9").assert().success();
    assert_eq!(begins(&sandbox, &["ids/{}"]), 10);
    // An index of the caller's own counts for its worktree, too.
    let own = "cp .git/index own; export GIT_INDEX_FILE=own; >ids/12; git add ids; rm ids/12; rm -rf .git/repoguard; \
        repoguard next x --scan 'ids/{}'; cd ids 2>/dev/null && rm -rf ../.git/repoguard; repoguard next x --scan 'ids/{}'";
    sandbox.sh(own).assert().success().stdout("13\n13\n");
    sandbox.sh("rm .git/index; git read-tree HEAD; git sparse-checkout set --no-cone /nothing").assert().success();
    sandbox.sh("git update-index --add --cacheinfo 100644,$(git hash-object -w /dev/null),ids/20").assert().success();
    assert_eq!(begins(&sandbox, &["ids/{}"]), 21);
}

#[test]
fn what_cannot_be_looked_at_is_an_error_not_a_repeat() {
    if !is_root() {
        return skip("a directory that cannot be read", "needs root to be another user");
    }
    let sandbox = Sandbox::new();
    sandbox.open_to_all();
    fs::create_dir_all(sandbox.path("docs/adr")).unwrap();
    crate::support::own(sandbox.here(), 61_001, 61_001);
    fs::set_permissions(sandbox.path("docs/adr"), fs::Permissions::from_mode(0o300)).unwrap();
    let next = |pattern: &str| {
        let mut command = sandbox.repoguard_command(["next", "x", "--scan", pattern]);
        command.uid(61_001).gid(61_001);
        to_the_end(command).output().unwrap()
    };
    if !next("file-{}").status.success() {
        return skip("a directory that cannot be read", "other users cannot run the program");
    }
    let output = next(ADR[1]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(125), 0), "{told}");
    assert!(told.contains("cannot list") && told.contains("docs/adr"), "{told}");
    assert_eq!(next("file-{}").stdout, b"2\n", "who does not have to look there does not");
}

#[test]
fn submodule_has_sequences_and_names_of_its_own() {
    let sandbox = Sandbox::new();
    let library = "mkdir ids; >ids/50; git init -q -b main ../library; mkdir ../library/ids; >../library/ids/3; \
        git -C ../library add .; git -C ../library commit -qm l; \
        git -c protocol.file.allow=always submodule --quiet add ../library sub; >sub/ids/4";
    sandbox.sh(library).assert().success();
    let next = |place: &str| {
        let mut next = sandbox.repoguard(["next", "x", "--scan", "ids/{}"]);
        String::from_utf8(next.current_dir(sandbox.path(place)).output().unwrap().stdout).unwrap()
    };
    assert_eq!(
        (next("."), next("sub"), next("sub/ids"), next(".")),
        ("51\n".into(), "5\n".into(), "6\n".into(), "52\n".into())
    );
    // A linked worktree of it sees the files of the main one, wherever those are.
    sandbox.sh("git -C sub worktree add -q ../../linked; >sub/ids/70").assert().success();
    let mut linked = sandbox.repoguard(["next", "x", "--scan", "ids/{}"]);
    linked.current_dir(sandbox.outside("linked")).assert().success().stdout("71\n");
}

#[test]
fn files_that_are_elsewhere_are_found_where_git_has_them() {
    let sandbox = Sandbox::new();
    sandbox.sh("mkdir -p ids ../elsewhere/ids; >ids/5; >../elsewhere/ids/7; git add ids; rm ids/5").assert().success();
    let mut next = sandbox.repoguard(["next", "a", "--scan", "ids/{}"]);
    next.env("GIT_DIR", sandbox.path(".git")).env("GIT_WORK_TREE", sandbox.outside("elsewhere"));
    next.current_dir(sandbox.outside("home")).assert().success().stdout("8\n");
    sandbox.worktree("linked");
    for (tree, expected) in [("../../elsewhere", "8"), ("..", "6")] {
        sandbox.git(["config", "core.worktree", tree]);
        fs::remove_dir_all(sandbox.data()).unwrap();
        for place in ["repo", "linked"] {
            let mut next = sandbox.repoguard(["next", place, "--scan", "ids/{}"]);
            next.current_dir(sandbox.outside(place)).assert().success().stdout(format!("{expected}\n"));
        }
    }
}
