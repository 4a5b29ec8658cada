//! Validation around `repoguard mutate`: checks before, verifications after, the expected HEAD, the allowed paths, a clean
//! start, and usage.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use crate::mutate::furnished;
use crate::support::{Sandbox, lines};

#[test]
fn check_sees_the_state_before_and_verify_the_one_after() {
    let sandbox = furnished();
    let note = |name: &str| format!("echo {name} $(wc -l <file) >>\"$SANDBOX/order\"");
    let (first, second, third, fourth) = (note("check"), note("check-2"), note("verify"), note("verify-2"));
    let options = ["--verify", &third, "--check", &first, "--verify", &fourth, "--check", &second];
    sandbox.commits(&options, &format!("echo more >>file; {}", note("command")));
    let expected = ["check 1", "check-2 1", "command 2", "verify 2", "verify-2 2"];
    assert_eq!(lines(&sandbox.outside("order")), expected);
}

#[test]
fn failing_check_passes_its_status_on_and_the_command_never_runs() {
    for (checks, status) in [
        (&["exit 4"][..], 4),
        (&["true", "exit 5", "exit 6"], 5),
        (&["kill -TERM $$"], 143),
        (&["no-such-program"], 127),
    ] {
        let sandbox = furnished();
        let options: Vec<&str> = checks.iter().flat_map(|check| ["--check", check]).collect();
        let told = sandbox.undone(&options, "touch \"$SANDBOX/ran\"", status);
        assert!(!sandbox.outside("ran").exists());
        assert!(told.contains("check") && told.contains(checks[usize::from(status == 5)]), "{told}");
    }
}

#[test]
fn failing_command_passes_its_status_on() {
    for (script, status) in
        [("exit 4", 4), ("exit 65", 65), ("kill -TERM $$", 143), ("kill -KILL $$", 137), ("exit 255", 255)]
    {
        let sandbox = furnished();
        let script = format!("echo x >>file; echo x >new; rm -r d; {script}");
        let told = sandbox.undone(&["--verify", "touch \"$SANDBOX/ran\""], &script, status);
        assert!(!sandbox.outside("ran").exists(), "verified what had failed");
        assert!(told.contains("command"), "names the step: {told}");
    }
}

#[test]
fn failing_verify_passes_its_status_on_and_undoes() {
    for (verifications, status) in [
        (&["exit 4"][..], 4),
        (&["true", "! grep more file"], 1),
        (&["kill -TERM $$"], 143),
        (&["exit 3", "touch $SANDBOX/ran"], 3),
    ] {
        let sandbox = furnished();
        let options: Vec<&str> = verifications.iter().flat_map(|each| ["--verify", each]).collect();
        let told = sandbox.undone(&options, "echo more >>file; echo x >new", status);
        assert!(!sandbox.outside("ran").exists());
        assert!(told.contains("verify"), "{told}");
    }
}

#[test]
fn verify_that_changes_what_it_validates_is_refused() {
    for (verify, named) in [
        ("echo x >>other/o", "other/o"),
        ("echo y >>file", "file"),
        ("rm d/a", "d/a"),
        ("git commit -q --allow-empty -m x", "HEAD"),
    ] {
        let told = furnished().undone(&["--verify", verify], "echo x >>file", 65);
        assert!(told.contains(named) && told.contains("verify"), "{verify}: {told}");
    }
    // Files may be made by a test suite, and the index may be refreshed by any look at it.
    let sandbox = furnished();
    sandbox.commits(&["--verify", "echo x >x.log; echo x >made; git status >&2; touch d/a"], "echo x >>file");
    assert_eq!(sandbox.landed(), ["M file"]);
    assert!(sandbox.path("made").exists(), "what it made stays, and is nobody's commit");
}

#[test]
fn check_that_changes_something_is_refused() {
    for check in ["echo x >>file", "rm d/a"] {
        furnished().undone(&["--check", check], "echo x >>other/o", 65);
    }
    let sandbox = furnished();
    sandbox.commits(&["--check", "echo x >x.log; echo x >made; git status >&2"], "echo x >>file");
    assert_eq!(sandbox.landed(), ["M file"]);
    assert!(sandbox.path("made").exists(), "what it made stays, and is nobody's commit");
}

#[test]
fn what_cannot_be_committed_is_refused_and_named() {
    for (script, named) in [
        ("rm file; mkfifo file", "file"),
        (
            "git checkout -qb x; echo 1 >>file; git commit -qam 1; git checkout -q main; echo 2 >>file; git commit -qam 2; git merge -q x; :",
            "HEAD",
        ),
        (
            "id=$(git hash-object -w file); printf \"100644 $id 1\\tfile\\n100644 $id 2\\tfile\\n\" | git update-index --index-info",
            "file",
        ),
    ] {
        let told = furnished().undone(&[], &format!("echo x >>d/a; {script}"), 65);
        assert!(told.contains(named), "{script}: {told}");
    }
}

#[test]
fn checks_run_where_the_caller_stands_and_know_what_the_command_knows() {
    let sandbox = furnished();
    let note =
        "echo \"$(pwd) $REPOGUARD_TOKEN $REPOGUARD_FENCE $MINE $0\" >>\"$SANDBOX/known\"; repoguard exec -n -- true";
    let mut command = sandbox.mutate(&["--check", note, "--verify", note], &format!("echo x >>a; {note}"));
    command.current_dir(sandbox.path("d")).env("MINE", "my own");
    sandbox.commits_with(command);
    let known = lines(&sandbox.outside("known"));
    assert_eq!(known.len(), 3, "{known:?}");
    assert!(known.iter().all(|line| *line == known[0]), "{known:?}");
    let parts: Vec<&str> = known[0].split(' ').collect();
    assert_eq!(parts[0], sandbox.path("d").to_str().unwrap());
    assert!(parts[1].len() > 8 && parts[2].parse::<u64>().is_ok(), "{known:?}");
    assert!(known[0].ends_with("my own sh"), "`sh -c`: {known:?}");
}

#[test]
fn expected_head_is_committed_upon() {
    let sandbox = furnished();
    let id = sandbox.head();
    sandbox.git(["tag", "-a", "-m", "x", "annotated"]);
    sandbox.commits(&["--expect-head", &id], "echo x >>file");
    let short = &sandbox.head()[..9];
    sandbox.commits(&["--expect-head", short], "echo x >>file");
    sandbox.commits(&["--expect-head", "HEAD"], "echo x >>file");
    sandbox.commits(&["--expect-head", "main"], "echo x >>file");
    for old in [id.as_str(), "annotated", "HEAD~1"] {
        let told = sandbox.undone(&["--expect-head", old], "touch \"$SANDBOX/ran\"", 65);
        assert!(told.contains("HEAD"), "{told}");
    }
    sandbox.git(["reset", "-q", "--hard", "annotated"]);
    sandbox.commits(&["--expect-head", "annotated"], "echo x >>file");
    let unknown = sandbox.mutate(&["--expect-head", "no-such-revision"], "touch \"$SANDBOX/ran\"").output().unwrap();
    assert!(!unknown.status.success() && String::from_utf8_lossy(&unknown.stderr).contains("no-such-revision"));
    assert!(!sandbox.outside("ran").exists(), "another HEAD than expected");
}

#[test]
fn head_that_moves_while_we_wait_is_no_longer_the_expected_one() {
    let sandbox = furnished();
    let old = sandbox.head();
    let mut holder = sandbox.hold_with(&[], "echo $$; read _; git commit -q --allow-empty -m theirs");
    let mut late = sandbox.start(sandbox.mutate_command(&["--expect-head", &old], "touch \"$SANDBOX/ran\""));
    crate::support::eventually("it waits", || sandbox.waiters() == 1);
    holder.finish();
    assert_eq!(late.ended().code(), Some(65), "{}", late.stderr());
    let told = late.stderr();
    assert!(told.contains(&old[..7]) && told.contains(&sandbox.head()[..7]), "both are named: {told}");
    assert!(!sandbox.outside("ran").exists());
}

#[test]
fn change_outside_of_the_paths_is_refused_and_named() {
    let cases: &[(&str, &[&str], &str, Option<&str>)] = &[
        ("", &["d"], "echo x >>d/a; echo x >d/e/new", None),
        ("", &["d"], "echo x >>d/a; echo x >>file", Some("file")),
        ("", &["d"], "echo x >new", Some("new")),
        ("", &["d"], "rm other/o", Some("other/o")),
        ("", &["d"], "git mv d/a other/a", Some("other/a")),
        ("", &["d", "other"], "git mv d/a other/a", None),
        ("d", &["."], "echo x >>a", None),
        ("d", &["a"], "echo x >>a", None),
        ("d", &["a"], "echo x >>../file", Some("file")),
        ("d", &["file"], "echo x >>../file", Some("file")),
        ("d", &["../file"], "echo x >>../file", None),
        ("d", &[":/file"], "echo x >>../file", None),
        ("d", &[":(top)other"], "echo x >>a", Some("d/a")),
        ("", &["*.txt"], "echo x >x.txt; echo x >d/y.txt", None),
        ("", &["*.txt"], "echo x >x.md", Some("x.md")),
        ("", &[":(glob)*.txt"], "echo x >d/y.txt", Some("d/y.txt")),
        ("", &[".", ":!d"], "echo x >>file", None),
        ("", &[":!d"], "echo x >>file", None),
        ("", &[".", ":!d"], "echo x >>d/a", Some("d/a")),
        ("", &[":(icase)FILE"], "echo x >>file", None),
        ("", &["not-there-yet"], "echo x >not-there-yet", None),
        ("", &["d"], "echo x >a.log; echo x >>d/a", None),
    ];
    for (place, paths, script, outside) in cases {
        let sandbox = furnished();
        let options: Vec<&str> = paths.iter().flat_map(|path| ["--paths", path]).collect();
        let mut command = sandbox.mutate(&options, script);
        command.current_dir(sandbox.path(place));
        match outside {
            None => drop(sandbox.commits_with(command)),
            Some(outside) => {
                let told = sandbox.undone_with(command, 65);
                assert!(told.contains(outside), "{place} {paths:?} {script}: {told}");
            }
        }
    }
    let sandbox = furnished();
    sandbox.commits(&["--paths", "d", "other"], "echo x >>d/a; echo x >>other/o");
    // As git's own `--pathspec`: one that cannot be understood is refused before anything runs.
    let wrong = sandbox.mutate(&["--paths", ":(nonsense)x"], "touch \"$SANDBOX/ran\"").output().unwrap();
    assert!(!wrong.status.success() && String::from_utf8_lossy(&wrong.stderr).contains("nonsense"));
    assert!(!sandbox.outside("ran").exists());
}

#[test]
fn pathspec_that_looks_like_an_option_is_a_path() {
    let sandbox = furnished();
    sandbox.commits(&["--paths=-x"], "echo x >./-x");
    sandbox.undone(&["--paths=-x"], "echo x >>file", 65);
}

#[test]
fn how_pathspecs_are_read_can_be_set_and_counts_for_the_users_own() {
    for (setting, given, landed) in [
        ("GIT_LITERAL_PATHSPECS", "new", true),
        ("GIT_GLOB_PATHSPECS", "n*", true),
        ("GIT_NOGLOB_PATHSPECS", "n*", false),
        ("GIT_ICASE_PATHSPECS", "NEW", true),
    ] {
        let sandbox = furnished();
        let mut command = sandbox.mutate(&[], "echo x >other/o");
        command.env(setting, "1");
        sandbox.commits_with(command);
        let mut command = sandbox.mutate(&["--paths", given], "echo x >new");
        command.env(setting, "1");
        if landed {
            sandbox.commits_with(command);
        } else {
            sandbox.undone_with(command, 65);
        }
    }
}

#[test]
fn start_that_is_not_clean_is_refused_and_touches_nothing() {
    let cases = [
        ("echo x >>file", "file"),
        ("echo x >>file; git add file", "file"),
        ("echo x >new; git add new", "new"),
        ("echo x >new; git add -N new", "new"),
        ("rm d/a", "d/a"),
        ("git rm -q --cached d/a", "d/a"),
        ("chmod +x file", "file"),
        ("rm file; ln -s d file", "file"),
    ];
    for (dirty, named) in cases {
        let sandbox = furnished();
        sandbox.sh(dirty).assert().success();
        let index = || {
            let meta = fs::metadata(sandbox.path(".git/index")).unwrap();
            (meta.ino(), meta.mtime(), meta.mtime_nsec(), fs::read(sandbox.path(".git/index")).unwrap())
        };
        let before = index();
        let told = sandbox.undone(&[], "touch \"$SANDBOX/ran\"", 65);
        assert!(told.contains(named) && told.contains("--allow-dirty"), "{dirty}: {told}");
        assert_eq!(index(), before, "{dirty}");
        assert!(!sandbox.outside("ran").exists(), "{dirty}");
    }
}

#[test]
fn unfinished_operation_is_refused_in_any_case() {
    let fork = "git branch -q side; echo ours >>file; git commit -qam ours; git checkout -q side; echo theirs >>file; \
        git commit -qam theirs; git checkout -q main;";
    let operations = [
        ("git merge side", "merge"),
        ("git merge --no-commit --no-ff -s ours side", "merge"),
        ("git cherry-pick side", "cherry-pick"),
        ("git revert --no-commit HEAD", "revert"),
        ("git rebase side", "rebase"),
        ("git bisect start; git bisect bad; git bisect good HEAD~1", "bisect"),
        ("git format-patch -q --stdout main..side >$SANDBOX/p; git am $SANDBOX/p", "am"),
    ];
    for (operation, name) in operations {
        let sandbox = furnished();
        sandbox.sh(&format!("{fork} {operation} >/dev/null 2>&1; :")).assert().success();
        for options in [&[][..], &["--allow-dirty"], &["--allow-dirty", "--no-commit"]] {
            let told = sandbox.undone(options, "touch \"$SANDBOX/ran\"", 65);
            assert!(told.to_lowercase().contains(name), "{operation}: {told}");
            assert!(!sandbox.outside("ran").exists(), "{operation}");
        }
    }
}

#[test]
fn clean_start_is_judged_by_content_and_not_by_times() {
    let sandbox = furnished();
    sandbox.sh("sleep 0.01; touch -d '2020-01-01' file d/a").assert().success();
    sandbox.commits(&[], "echo x >other/new");
    assert_eq!(sandbox.landed(), ["A other/new"]);
}

#[test]
fn wrong_usage_is_2_and_runs_nothing() {
    let sandbox = Sandbox::new();
    let run = ["--", "touch", "../ran"];
    let cases: &[&[&str]] = &[
        &[],
        &["-m"],
        &["-m", ""],
        &["-m", " \n\t"],
        &["-m", "x", "-s"],
        &["-m", "x", "--shared"],
        &["-m", "x", "--scope", "galaxy"],
        &["-m", "x", "--no-such-option"],
        &["-m", "x", "-w", "soon"],
        &["-m", "x", "--max-hold", "long"],
    ];
    for options in cases {
        let mut command = sandbox.repoguard(["mutate"]);
        command.args(*options).args(if *options == ["-m"] { &[][..] } else { &run });
        sandbox.assert_refused(command, 2);
    }
    for args in
        [&["mutate", "-m", "x"][..], &["mutate", "-m", "x", "--"], &["--json", "mutate", "-m", "x", "--", "true"]]
    {
        sandbox.repoguard(args).assert().code(2).stdout("");
    }
    assert!(!sandbox.outside("ran").exists());
    assert!(!sandbox.lock_file().exists(), "wrong usage touches nothing");
}
