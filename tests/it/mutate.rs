//! `repoguard mutate`: what comes into the commit, what stays out, and what is shown instead of one.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;

use crate::support::{Sandbox, to_the_end};

/// A checkout with files in directories, and rules for what is ignored.
pub(crate) fn furnished() -> Sandbox {
    let sandbox = Sandbox::new();
    let furnish = "mkdir -p d/e other; echo a >d/a; echo b >d/e/b; echo o >other/o; echo '*.log' >.gitignore; \
        git add -A; git commit -qm furnished";
    sandbox.sh(furnish).assert().success();
    sandbox
}

#[test]
fn all_that_the_command_changed_is_committed() {
    let cases: &[(&str, &[&str])] = &[
        ("echo more >>file", &["M file"]),
        ("echo x >new", &["A new"]),
        ("mkdir -p x/y && echo x >x/y/z", &["A x/y/z"]),
        ("rm file", &["D file"]),
        ("rm -r d", &["D d/a", "D d/e/b"]),
        ("mv file moved", &["D file", "A moved"]),
        ("chmod +x file", &["M file"]),
        ("ln -s file link", &["A link"]),
        ("rm file; ln -s d file", &["T file"]),
        ("rm file; mkdir file; echo x >file/x", &["D file", "A file/x"]),
        ("rm -r d; echo x >d", &["A d", "D d/a", "D d/e/b"]),
        ("echo more >>file; git add file", &["M file"]),
        ("echo more >>file; git add file; echo still >>file", &["M file"]),
        ("echo x >new; git add new", &["A new"]),
        ("echo x >new; git add -N new", &["A new"]),
        ("git mv file moved", &["D file", "A moved"]),
        ("git rm -q d/a", &["D d/a"]),
        ("echo 1 >>file; echo 2 >>d/a; git add d/a; rm d/e/b; echo 3 >new", &["M d/a", "D d/e/b", "M file", "A new"]),
        ("echo 'd/a' >>.gitignore; git rm -q --cached d/a", &["M .gitignore", "D d/a"]),
        (": >empty", &["A empty"]),
        ("cp -p file twin; rm file", &["D file", "A twin"]),
    ];
    for (script, expected) in cases {
        let sandbox = furnished();
        sandbox.commits(&[], script);
        assert_eq!(sandbox.landed(), *expected, "{script}");
        if !script.contains("--cached") {
            assert_eq!(sandbox.short_status(), [""; 0], "{script}");
        }
    }
    let sandbox = furnished();
    sandbox.commits(&[], "chmod +x file; ln -s file link");
    let modes = sandbox.git(["ls-tree", "--format=%(objectmode) %(path)", "HEAD", "file", "link"]);
    assert_eq!(modes, "100755 file\n120000 link\n");
}

#[test]
fn what_is_no_longer_tracked_stays_in_the_checkout() {
    let sandbox = furnished();
    sandbox.commits(&[], "echo file >>.gitignore; git rm -q --cached file");
    assert_eq!(sandbox.landed(), ["M .gitignore", "D file"]);
    assert_eq!(fs::read_to_string(sandbox.path("file")).unwrap(), "first\n");
}

#[test]
fn odd_names_are_committed_as_they_are() {
    let sandbox = Sandbox::new();
    let names: [&[u8]; 8] = [b"new\nline", b"-dash", b"--", b"caf\xe9\xff", b":(top)x", b"*", b" space ", b"quo\"te\\"];
    let mut command = sandbox.mutate(&[], "for name; do echo x >\"./$name\"; done");
    command.arg("sh").args(names.map(OsStr::from_bytes));
    sandbox.commits_with(command);
    let mut expected = names.map(|name| format!("A {}", name.escape_ascii()));
    expected.sort();
    let mut landed = sandbox.landed();
    landed.sort();
    assert_eq!(landed, expected);
}

#[test]
fn line_endings_are_converted_as_git_does_it() {
    let sandbox = Sandbox::new();
    sandbox.commits(
        &[],
        "printf '*.txt text\\n' >.gitattributes; printf 'a\\r\\nb\\r\\n' >a.txt; printf 'a\\r\\n' >a.bin",
    );
    assert_eq!(sandbox.committed("a.txt"), "a\nb\n");
    assert_eq!(sandbox.committed("a.bin"), "a\r\n");
    assert_eq!(fs::read_to_string(sandbox.path("a.txt")).unwrap(), "a\r\nb\r\n", "on disk as the command left it");
}

#[test]
fn caller_may_stand_anywhere_in_the_worktree() {
    for place in ["d", "d/e", "other"] {
        let sandbox = furnished();
        let mut command = sandbox.mutate(&[], "pwd >$SANDBOX/pwd; top=$(git rev-parse --show-cdup); echo x >>${top}file; echo x >>${top}d/e/b; echo x >here");
        command.current_dir(sandbox.path(place));
        sandbox.commits_with(command);
        let mut expected = vec!["M d/e/b".to_owned(), format!("A {place}/here"), "M file".to_owned()];
        expected.sort_by_key(|line| line[2..].to_owned());
        assert_eq!(sandbox.landed(), expected);
        let stood = fs::read_to_string(sandbox.outside("pwd")).unwrap();
        assert_eq!(stood.trim(), sandbox.path(place).to_str().unwrap());
    }
    let sandbox = furnished();
    let mut elsewhere = sandbox.repoguard(["-C", sandbox.path("d").to_str().unwrap(), "mutate", "-m", "x"]);
    elsewhere.args(["--", "sh", "-c", "echo x >>a"]).current_dir("/");
    sandbox.commits_with(elsewhere);
    assert_eq!(sandbox.landed(), ["M d/a"]);
}

#[test]
fn command_may_remove_the_directory_that_the_caller_stands_in() {
    let sandbox = furnished();
    let mut command = sandbox.mutate(&[], "cd ..; rm -r d");
    command.current_dir(sandbox.path("d"));
    sandbox.commits_with(command);
    assert_eq!(sandbox.landed(), ["D d/a", "D d/e/b"]);

    let sandbox = furnished();
    let mut command = sandbox.mutate(&[], "cd ..; rm -r d; exit 3");
    command.current_dir(sandbox.path("d"));
    sandbox.undone_with(command, 3);
}

#[test]
fn message_is_as_given_in_paragraphs() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.repoguard(["mutate", "-m", "#12: head", "--message", "second\nline", "-m", "- third"]);
    command.args(["--", "sh", "-c", "echo x >>file"]);
    sandbox.commits_with(command);
    assert_eq!(sandbox.git(["log", "-1", "--format=%B"]), "#12: head\n\nsecond\nline\n\n- third\n\n");
    assert_eq!(sandbox.git(["log", "-1", "--format=%an %cn"]), "Author Committer\n");
}

#[test]
fn ignored_files_stay_out_by_the_old_rules_and_by_the_new() {
    let sandbox = furnished();
    sandbox.commits(&[], "echo x >a.log; echo gen >>.gitignore; mkdir gen; echo x >gen/x; echo x >>file");
    assert_eq!(sandbox.landed(), ["M .gitignore", "M file"]);

    sandbox.commits(&[], "rm .gitignore; echo x >b.log");
    assert_eq!(sandbox.landed(), ["D .gitignore"]);
    for path in ["a.log", "b.log", "gen/x"] {
        assert!(sandbox.path(path).exists(), "{path}");
    }

    let sandbox = furnished();
    fs::write(sandbox.path(".git/info/exclude"), "private\n").unwrap();
    sandbox.commits(&[], "echo x >private; echo x >new");
    assert_eq!(sandbox.landed(), ["A new"]);
}

#[test]
fn what_was_untracked_before_stays_out_and_untracked() {
    for script in [
        "echo x >>file",
        "echo x >>file; git add -A",
        "echo x >>file; git add mine dir",
        "echo x >>file; git add -N mine",
    ] {
        let sandbox = furnished();
        fs::create_dir(sandbox.path("dir")).unwrap();
        for path in ["mine", "dir/mine", "d/mine"] {
            fs::write(sandbox.path(path), "mine\n").unwrap();
        }
        sandbox.commits(&[], script);
        assert_eq!(sandbox.landed(), ["M file"], "{script}");
        assert_eq!(sandbox.short_status(), ["?? d/mine", "?? dir/mine", "?? mine"], "{script}");
    }
    let sandbox = furnished();
    fs::create_dir(sandbox.path("dir")).unwrap();
    fs::write(sandbox.path("dir/mine"), "mine\n").unwrap();
    sandbox.commits(&[], "echo x >dir/theirs");
    assert_eq!(sandbox.landed(), ["A dir/theirs"]);
    assert_eq!(sandbox.short_status(), ["?? dir/mine"]);
}

#[test]
fn nothing_changed_is_no_commit_and_said() {
    let scripts = [
        "true",
        "touch file",
        "echo x >x.log",
        "echo x >>file; git checkout -q file",
        "mkdir empty",
        "git status >&2",
        "rm file; git checkout -q file",
        "echo x >new; git add new; git rm -qf new",
    ];
    for script in scripts {
        let sandbox = furnished();
        let head = sandbox.head();
        let output = sandbox.mutate(&[], script).assert().success().stdout("").get_output().clone();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(told.contains("nothing"), "{script}: {told}");
        assert_eq!(sandbox.head(), head, "{script}");
        assert_eq!(sandbox.short_status(), [""; 0], "{script}");
        sandbox.assert_no_traces();
    }
}

#[test]
fn empty_commit_is_made_where_it_is_allowed() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("mine"), "").unwrap();
    sandbox.commits(&["--allow-empty"], "true");
    assert_eq!(sandbox.landed(), [""; 0]);
    sandbox.commits(&["--allow-empty"], "echo x >>file");
    assert_eq!(sandbox.landed(), ["M file"]);
}

#[test]
fn change_is_left_staged_where_no_commit_is_wanted() {
    let sandbox = furnished();
    fs::write(sandbox.path("mine"), "").unwrap();
    let head = sandbox.head();
    sandbox.mutate(&["--no-commit"], "echo x >>file; echo n >new; rm d/a").assert().success().stdout("");
    assert_eq!(sandbox.head(), head);
    assert_eq!(sandbox.staged(), ["D d/a", "M file", "A new"]);
    assert_eq!(sandbox.short_status(), ["D  d/a", "M  file", "A  new", "?? mine"]);
    sandbox.assert_no_traces();

    // It is now the caller's own: the next one finds it in the way.
    let told = sandbox.undone(&[], "true", 65);
    assert!(told.contains("new"), "{told}");
    let sandbox = furnished();
    sandbox.undone(&["--no-commit", "--verify", "exit 9"], "echo x >>file", 9);
}

#[test]
fn dry_run_shows_the_change_and_puts_everything_back() {
    let sandbox = furnished();
    let before = sandbox.state();
    let script = "echo from the command; echo more >>file; echo fresh >new; git rm -q d/a; mkdir build; echo x >x.log";
    let output = sandbox.mutate(&["--dry-run"], script).assert().success().get_output().clone();
    let (shown, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    before.assert_same(&sandbox.state(), &told);
    for part in ["from the command\n", "\n+more\n", "b/new", "\n+fresh\n", "a/d/a", "\n-a\n"] {
        assert!(shown.contains(part), "{part:?} in {shown}");
    }
    assert!(!shown.contains("x.log"), "{shown}");
    assert!(sandbox.path("x.log").exists(), "what is ignored is left alone");
    sandbox.assert_no_traces();

    // What is shown can be applied.
    sandbox.git(["update-index", "-q", "--refresh"]);
    let patch = &shown[shown.find("diff --git").expect("a diff")..];
    let mut apply = to_the_end(sandbox.command("git"));
    apply.args(["apply", "--index", "-"]).write_stdin(patch).assert().success();
    assert_eq!(sandbox.staged(), ["D d/a", "M file", "A new"]);
}

#[test]
fn dry_run_fails_where_the_mutation_would() {
    let sandbox = furnished();
    let before = sandbox.state();
    for (options, script, status) in [
        (&["--dry-run"][..], "echo x >>file; exit 4", 4),
        (&["--dry-run", "--verify", "grep -q y file"], "echo x >>file", 1),
        (&["--dry-run", "--paths", "d"], "echo x >>file", 65),
    ] {
        sandbox.undone(options, script, status);
    }
    sandbox.mutate(&["--dry-run"], "true").assert().success();
    before.assert_same(&sandbox.state(), "all of these");
}

#[test]
fn dry_run_runs_no_hook() {
    let sandbox = furnished();
    for hook in ["pre-commit", "commit-msg", "post-commit"] {
        sandbox.own_hook(hook, &format!("echo {hook} >>\"$SANDBOX/hooks\"; exit 1"));
    }
    sandbox.mutate(&["--dry-run"], "echo x >>file").assert().success();
    assert!(!sandbox.outside("hooks").exists());
}
