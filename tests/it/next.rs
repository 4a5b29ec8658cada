//! `repoguard next`: numbers that follow each other, each given once, over all worktrees, under and beside any lock.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use crate::support::{Sandbox, lines};

#[test]
fn numbers_follow_each_other_one_a_line() {
    let sandbox = Sandbox::new();
    assert_eq!(sandbox.next(&["adr"]), ["1"]);
    assert_eq!(sandbox.next(&["adr", "--count", "3", "--format", "ADR-{:04}"]), ["ADR-0002", "ADR-0003", "ADR-0004"]);
    assert_eq!(sandbox.next(&["adr", "--format", "{{{}}}"]), ["{5}"]);
    assert_eq!(sandbox.next(&["adr", "--last", "--format", "#{}"]), ["#5"]);
    let output = sandbox.repoguard(["next", "adr", "--count", "2", "--format", "a{:03}", "--json"]).output().unwrap();
    let document: Value = serde_json::from_slice(&output.stdout).expect("one document");
    let expected = serde_json::json!({"schema": 1, "sequence": "adr", "numbers": [6, 7], "ids": ["a006", "a007"]});
    assert_eq!(document, expected);
    assert_eq!(sandbox.next(&["adr", "--count", "100000"]).last().expect("a line"), "100007");
}

#[test]
fn nothing_is_said_on_the_way_but_that_a_pattern_finds_nothing_yet() {
    let sandbox = Sandbox::new();
    sandbox.repoguard(["next", "x"]).assert().success().stdout("1\n").stderr("");
    let scan = ["next", "y", "--scan", "no/{}"];
    let first = sandbox.repoguard(scan).assert().success().stdout("1\n").get_output().clone();
    assert!(String::from_utf8_lossy(&first.stderr).contains("no/{}"));
    sandbox.repoguard(scan).assert().success().stdout("2\n").stderr("");
}

#[test]
fn wrong_use_uses_no_number() {
    let sandbox = Sandbox::new();
    for wrong in [
        &[][..],
        &[""],
        &["a\nb"],
        &["a\u{7f}"],
        &["a", "b"],
        &["x", "--count", "0"],
        &["x", "--count", "-1"],
        &["x", "--count", "1000001"],
        &["x", "--count", "99999999999999999999"],
        &["x", "--format", "ADR"],
        &["x", "--format", "{}{}"],
        &["x", "--format", "{:4}"],
        &["x", "--format", "{"],
        &["x", "--format", "{}\n"],
        &["x", "--scan", "docs"],
        &["x", "--scan", "/docs/{}"],
        &["x", "--scan", "../{}"],
        &["x", "--scan", "{}/{}"],
        &["x", "--at-least", "0"],
        &["x", "--at-least", "18446744073709551616"],
        &["x", "--last", "--count", "2"],
    ] {
        sandbox.gives_none(wrong, 2);
    }
    sandbox.gives_none(&[&"n".repeat(1001)], 2);
    assert!(!sandbox.data().join("sequences").exists());
    assert_eq!(sandbox.next(&["x"]), ["1"]);
}

#[test]
fn sequences_whose_names_differ_in_anything_are_apart() {
    let sandbox = Sandbox::new();
    let longest = "\"".repeat(1000);
    let names = ["adr", "ADR", "adr ", "../adr", "a/b", ".", "é", "e\u{301}", "☃ \\ \"", "{}", "--count", &longest];
    for number in ["1", "2"] {
        for name in names {
            assert_eq!(sandbox.next(&["--", name]), [number], "{name}");
        }
    }
    let files = sandbox.sequence_files();
    assert_eq!(files.len(), names.len());
    for file in files {
        let name = file.file_name().expect("a name").to_string_lossy().into_owned();
        assert!(name.len() == 16 && name.bytes().all(|byte| byte.is_ascii_hexdigit()), "{name}");
    }
}

#[test]
fn all_worktrees_of_a_repository_share_its_sequences() {
    let sandbox = Sandbox::new();
    let (one, other) = (sandbox.worktree("one"), sandbox.worktree("other"));
    let mut expected = 0;
    for _ in 0..2 {
        for place in [sandbox.here(), &one, &other] {
            expected += 1;
            let mut next = sandbox.repoguard(["next", "x"]);
            next.current_dir(place).assert().success().stdout(format!("{expected}\n"));
        }
    }
    assert_eq!(sandbox.git(["status", "--porcelain"]), "", "nothing is written into the worktree");
    sandbox.git(["clone", "-q", "--bare", ".", "../bare"]);
    let bare = sandbox.outside("bare");
    sandbox.repoguard(["next", "x"]).current_dir(&bare).assert().success().stdout("1\n");
    sandbox.git(["-C", "../bare", "worktree", "add", "-q", "../of-bare"]);
    sandbox.repoguard(["next", "x"]).current_dir(sandbox.outside("of-bare")).assert().success().stdout("2\n");
}

#[test]
fn without_a_repository_there_are_no_sequences() {
    let sandbox = Sandbox::empty();
    let told = sandbox.gives_none(&["x"], 125);
    assert!(told.contains("no git repository") && told.contains("-C DIR"), "{told}");
    assert_eq!(fs::read_dir(sandbox.here()).unwrap().count(), 0);
}

#[test]
fn last_number_is_told_without_being_used() {
    let sandbox = Sandbox::new();
    sandbox.repoguard(["next", "x", "--last"]).assert().code(1).stdout("").stderr("");
    assert!(!sandbox.data().exists(), "who only asks makes nothing");
    sandbox.next(&["x", "--count", "5"]);
    assert_eq!((sandbox.next(&["x", "--last"]), sandbox.next(&["x", "--last"])), (vec!["5".into()], vec!["5".into()]));
    assert_eq!(sandbox.next(&["x"]), ["6"]);
}

#[test]
fn numbers_end_where_64_bits_do() {
    let sandbox = Sandbox::new();
    assert_eq!(sandbox.next(&["x", "--at-least", "40"]), ["40"]);
    assert_eq!(sandbox.next(&["x", "--at-least", "40"]), ["41"]);
    let last = "18446744073709551615";
    assert_eq!(sandbox.next(&["x", "--at-least", "18446744073709551614"]), ["18446744073709551614"]);
    let told = sandbox.gives_none(&["x", "--count", "2"], 125);
    assert!(told.contains("18446744073709551614 is taken"), "{told}");
    assert_eq!(sandbox.next(&["x"]), [last], "as many as there are");
    for _ in 0..2 {
        let told = sandbox.gives_none(&["x"], 125);
        assert!(told.contains(last), "{told}");
    }
    assert_eq!(sandbox.next(&["x", "--last"]), [last]);
    // The same where a name takes the last one: it is told which.
    fs::create_dir(sandbox.path("ids")).unwrap();
    fs::write(sandbox.path("ids").join(last), "").unwrap();
    let told = sandbox.gives_none(&["y", "--scan", "ids/{}"], 125);
    assert!(told.contains(&format!("ids/{last}")), "{told}");
    fs::rename(sandbox.path("ids").join(last), sandbox.path("ids").join(format!("{last}\u{1b}[2J"))).unwrap();
    let told = sandbox.gives_none(&["y", "--scan", "ids/{}*"], 125);
    assert!(told.contains(last) && !told.contains('\u{1b}'), "{told}");
    assert_eq!(sandbox.next(&["y"]), ["1"]);
}

#[test]
fn number_that_cannot_be_printed_is_a_gap_and_no_success() {
    let sandbox = Sandbox::new();
    let output = sandbox.sh("repoguard next x >/dev/full").assert().code(125).get_output().clone();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("number 1 cannot be printed"), "{told}");
    // Who reads has gone before anything is written: it waits for that.
    let script = "mkfifo pipe; { repoguard next x --count 3 3>&-; echo $? >status; } >pipe 2>told & exec 3<pipe; exec 3<&-; wait";
    let script =
        script.replace("{ repoguard", "{ read -r _ <go; repoguard").replace("exec 3<&-;", "exec 3<&-; echo >go;");
    sandbox.sh(&format!("mkfifo go; {script}")).assert().success();
    assert_eq!(lines(&sandbox.path("status")), ["125"], "{:?}", lines(&sandbox.path("told")));
    assert!(lines(&sandbox.path("told"))[0].contains("numbers 2 to 4"));
    assert_eq!(sandbox.next(&["x"]), ["5"]);
}

#[test]
fn next_does_not_wait_for_a_hold_and_is_unique_inside_of_it() {
    let sandbox = Sandbox::new();
    for options in [&[][..], &["--scope", "repo"], &["--name", "x"]] {
        let mut holder = sandbox.hold(options);
        sandbox.next(&["x"]);
        holder.finish();
    }
    let script = "i=0; while [ $i -lt 12 ]; do repoguard next x >>../given & i=$((i+1)); done; wait";
    sandbox.repoguard(["exec", "--", "sh", "-c", script]).assert().success();
    let given: BTreeSet<String> = lines(&sandbox.outside("given")).into_iter().collect();
    let expected: BTreeSet<String> = (4..16).map(|number| number.to_string()).collect();
    assert_eq!(given, expected);
}

#[test]
fn rollback_gives_no_number_back() {
    let sandbox = Sandbox::new();
    for options in [&[][..], &["--fence"], &["--dry-run"], &["--allow-dirty"]] {
        let script =
            "n=$(repoguard next adr --scan 'docs/{}'); echo $n >>../given; mkdir -p docs; echo a >docs/$n; exit 3";
        sandbox.mutate(options, script).assert().code(3);
        assert!(!sandbox.path("docs").exists(), "{options:?}");
    }
    assert_eq!(lines(&sandbox.outside("given")), ["1", "2", "3", "4"]);
    sandbox.commits(&[], "n=$(repoguard next adr --scan 'docs/{}') && mkdir docs && echo a >docs/$n");
    assert!(sandbox.path("docs/5").exists());
}

#[test]
fn hooks_get_numbers_too() {
    let sandbox = Sandbox::new();
    sandbox.own_hook("pre-commit", "repoguard next commit --scan 'n/{}' >>../given");
    sandbox.sh("mkdir n; echo >n/7; git add n; git commit -qm one; echo >n/9; git commit -qam two n/9 || git commit -qm two --allow-empty").assert().success();
    assert_eq!(lines(&sandbox.outside("given"))[0], "8");
}
