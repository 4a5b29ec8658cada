//! `repoguard state`: one document, many writers: what is read, written and left alone.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use serde_json::{Value, json};

use crate::support::Sandbox;

/// Written by others, in many ways: nothing of it is ours to change.
const THEIRS: &str = "{\n\t\"z\" : [1.50, 1e400,12345678901234567890123,\n  -0.0],  \"\\u0061\": {\"k\":1,\"k\":2},\n\n\t\"last\": \"\\/\"\n}";

/// `repoguard state ARGS` must end with this status; returns what it printed.
#[track_caller]
fn state(sandbox: &Sandbox, args: &[&str], status: i32) -> String {
    let output = sandbox.repoguard([&["state"], args].concat()).assert().code(status).get_output().clone();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!told.contains("panicked"), "{told}");
    String::from_utf8(output.stdout).unwrap()
}

/// The same where it is refused: nothing on stdout, and what it said.
#[track_caller]
fn refused(sandbox: &Sandbox, args: &[&str], status: i32) -> String {
    let output = sandbox.repoguard([&["state"], args].concat()).assert().code(status).stdout("").get_output().clone();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.starts_with("repoguard: ") && !told.contains("panicked"), "{told}");
    told
}

fn document(sandbox: &Sandbox) -> String {
    fs::read_to_string(sandbox.data().join("state.json")).unwrap()
}

#[test]
fn what_was_set_is_read_as_it_was_written() {
    let sandbox = Sandbox::new();
    for args in [&["get"][..], &["get", "a"], &["get", "a", "/0"]] {
        assert_eq!(state(&sandbox, args, 1), "", "nothing there: no noise");
    }
    assert_eq!(state(&sandbox, &["list"], 0), "");
    assert_eq!(state(&sandbox, &["set", "a", r#"{"x": [1.0, 12345678901234567890123, 1e400]}"#], 0), "");
    assert_eq!(state(&sandbox, &["set", "b", "-5"], 0), "");
    assert_eq!(state(&sandbox, &["set", "--", "c", "-1.50e-3"], 0), "");
    let whole = "{\n  \"lock_version\": 1,\n  \"a\": {\n    \"x\": [\n      1.0,\n      12345678901234567890123,\n      1e400\n    ]\n  },\n  \"b\": -5,\n  \"c\": -1.50e-3\n}\n";
    assert_eq!(document(&sandbox), whole);
    assert_eq!(state(&sandbox, &["get"], 0), whole);
    assert_eq!(state(&sandbox, &["get", "c"], 0), "-1.50e-3\n");
    assert_eq!(state(&sandbox, &["get", "a", "/x/2"], 0), "1e400\n");
    assert_eq!(state(&sandbox, &["get", "a", "/x/3"], 1), "");
    assert_eq!(state(&sandbox, &["list"], 0), "lock_version\na\nb\nc\n");
    assert_eq!(state(&sandbox, &["rm", "a", "b", "nothing"], 0), "");
    assert_eq!(document(&sandbox), "{\n  \"lock_version\": 1,\n  \"c\": -1.50e-3\n}\n");
    assert_eq!(state(&sandbox, &["get", "a"], 1), "");
}

#[test]
fn values_come_from_the_line_from_stdin_or_from_a_file() {
    let sandbox = Sandbox::new();
    state(&sandbox, &["set", "text", "--string", "-n \"x\"\nü"], 0);
    assert_eq!(state(&sandbox, &["get", "text"], 0), "\"-n \\\"x\\\"\\nü\"\n");
    assert_eq!(state(&sandbox, &["get", "text", "--raw"], 0), "-n \"x\"\nü\n");
    let mut command = sandbox.repoguard(["state", "set", "one", "1", "two", "-"]);
    command.write_stdin(" [2.0]\n").assert().success();
    assert_eq!(state(&sandbox, &["get", "two", "/0"], 0), "2.0\n");
    fs::write(sandbox.outside("value"), "{\"from\": \"file\"}\n").unwrap();
    let file = sandbox.outside("value");
    state(&sandbox, &["set", "three", "--from-file", file.to_str().unwrap()], 0);
    assert_eq!(state(&sandbox, &["get", "three", "/from", "-r"], 0), "file\n");
    let mut command = sandbox.repoguard(["state", "merge", "three", "-"]);
    command.write_stdin(r#"{"from": null, "n": 1.0}"#).assert().success();
    let got: Value = serde_json::from_str(&state(&sandbox, &["get", "three"], 0)).unwrap();
    assert_eq!(got, json!({"n": 1.0}));
}

#[test]
fn what_others_wrote_stays_byte_for_byte() {
    let sandbox = Sandbox::new();
    let file = sandbox.path("doc.json");
    for ending in ["", "\n", "\r\n \n"] {
        let theirs = format!("{THEIRS}{ending}");
        fs::write(&file, &theirs).unwrap();
        let inside = THEIRS.strip_suffix("\n}").unwrap();
        for (args, ours) in [
            (&["set", "own", "{\"n\":1.0}"][..], ",\n\n\t\"own\": {\n\t\t\"n\": 1.0\n\t}"),
            (&["merge", "own", "{\"m\":[]}"], ",\n\n\t\"own\": {\n\t\t\"n\": 1.0,\n\t\t\"m\": []\n\t}"),
            (&["set", "own", "{ \"n\" : 1.0, \"m\": [ ] }"], ",\n\n\t\"own\": {\n\t\t\"n\": 1.0,\n\t\t\"m\": []\n\t}"),
            (&["set", "own", "1.0"], ",\n\n\t\"own\": 1.0"),
            (&["rm", "own"], ""),
        ] {
            state(&sandbox, &[args, &["--file", "doc.json"]].concat(), 0);
            assert_eq!(fs::read_to_string(&file).unwrap(), format!("{inside}{ours}\n}}{ending}"), "{args:?}");
        }
        assert_eq!(fs::read_to_string(&file).unwrap(), theirs);
    }
}

#[test]
fn document_in_which_nothing_changes_is_not_written() {
    let sandbox = Sandbox::new();
    state(&sandbox, &["set", "a", "[1,2.0]"], 0);
    let inode = || fs::metadata(sandbox.data().join("state.json")).unwrap().ino();
    let before = inode();
    for args in [
        &["set", "a", "[ 1, 2.0 ]"][..],
        &["rm", "missing"],
        &["merge", "a", "[1,2.0]"],
        &["set", "a", "[1,2.0]", "--expect", "[1.0, 2]"],
    ] {
        let told: Value = serde_json::from_str(&state(&sandbox, &[args, &["--json"]].concat(), 0)).unwrap();
        assert_eq!(told["changed"], json!(false), "{args:?}");
    }
    assert_eq!(inode(), before);
    state(&sandbox, &["set", "a", "[1,2]"], 0);
    assert_ne!(inode(), before, "2 is not written as 2.0");
    state(&sandbox, &["rm", "x", "--file", "none.json"], 0);
    assert!(!sandbox.path("none.json").exists(), "nothing to remove makes no document");
}

#[test]
fn who_expects_something_else_writes_nothing() {
    let sandbox = Sandbox::new();
    state(&sandbox, &["set", "a", "1", "--expect-missing"], 0);
    assert!(refused(&sandbox, &["set", "a", "2", "--expect-missing"], 65).contains("it is 1"));
    assert!(refused(&sandbox, &["set", "a", "2", "--expect", "3"], 65).contains("section `a`"));
    assert!(refused(&sandbox, &["rm", "b", "--expect", "3"], 65).contains("it is missing"));
    assert!(refused(&sandbox, &["merge", "a", "{}", "--expect", "\"1\""], 65).contains("it is 1"));
    assert_eq!(state(&sandbox, &["get", "a"], 0), "1\n");
    state(&sandbox, &["set", "a", r#"{"x": 1, "y": ["\u0041"]}"#, "--expect", "1.0"], 0);
    state(&sandbox, &["merge", "a", r#"{"x": 2}"#, "--expect", r#"{"y":["A"],"x":10e-1}"#], 0);
    assert_eq!(state(&sandbox, &["get", "a", "/x"], 0), "2\n");
    state(&sandbox, &["rm", "a", "--expect", r#"{"y":["A"],"x":2}"#], 0);
    refused(&sandbox, &["set", "a", "1", "b", "2", "--expect-missing"], 2);
    assert_eq!(state(&sandbox, &["list"], 0), "lock_version\n");
}

#[test]
fn wrong_use_is_told_and_writes_nothing() {
    let sandbox = Sandbox::new();
    for (args, why) in [
        (&["set", "a", "{\"x\": tru}"][..], "column 10"),
        (&["set", "a", "hello"], "section `a`"),
        (&["set", "a", ""], "EOF"),
        (&["set", "a"], "no value"),
        (&["set", "a", "1", "b"], "`b` has no value"),
        (&["set", "a", "-", "b", "-"], "standard input"),
        (&["set", "a", "1", "--string", "x"], "--string"),
        (&["merge", "a", "{\"x\":1,\"x\":2}"], "there twice"),
        (&["set", "a", "\"\\ud800\""], "stands for no character"),
        (&["set", "a", "1", "--expect", "nonsense"], "cannot be used"),
    ] {
        let told = refused(&sandbox, args, 2);
        assert!(told.contains(why), "{args:?}: {told}");
    }
    assert!(!sandbox.data().join("state.json").exists());
    state(&sandbox, &["set", "a", "{}"], 0);
    for pointer in ["x", "/~", "/~2"] {
        refused(&sandbox, &["get", "a", pointer], 2);
    }
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    assert!(refused(&sandbox, &["set", "a", &deep], 2).contains("127 levels"));
}

#[test]
fn answers_are_json_where_that_is_asked_for() {
    let sandbox = Sandbox::new();
    let json = |args: &[&str]| -> Value {
        let text = state(&sandbox, &[args, &["--json"]].concat(), 0);
        serde_json::from_str(&text).expect("one document")
    };
    let path = sandbox.data().join("state.json");
    let absent = json!({"schema": 1, "path": path, "exists": false, "sections": []});
    assert_eq!(json(&["list"]), absent);
    assert_eq!(json(&["set", "a", "[1]"]), json!({"schema": 1, "path": path, "sections": ["a"], "changed": true}));
    assert_eq!(json(&["get", "a", "/0"]), json!({"schema": 1, "section": "a", "pointer": "/0", "value": 1}));
    assert_eq!(json(&["list"])["sections"], json!(["lock_version", "a"]));
    assert_eq!(json(&["rm", "a"])["changed"], json!(true));
    state(&sandbox, &["set", "a", "12345678901234567890.10"], 0);
    assert!(state(&sandbox, &["get", "a", "--json"], 0).contains(":12345678901234567890.10}"));
}

#[test]
fn odd_names_of_sections_are_names_like_others() {
    let sandbox = Sandbox::new();
    for name in ["", " ", "a/b~c", "new\nline", "quo\"te\\", "ü漢", "-dash", "{}"] {
        state(&sandbox, &["set", "--", name, "{\"k\":1}"], 0);
        assert_eq!(state(&sandbox, &["get", "--", name, "/k"], 0), "1\n", "{name:?}");
        state(&sandbox, &["rm", "--", name], 0);
    }
    state(&sandbox, &["set", "new\nline\u{1b}", "1"], 0);
    assert_eq!(state(&sandbox, &["list"], 0), "lock_version\n\"new\\nline\\u001b\"\n");
}

#[test]
fn all_worktrees_share_one_and_a_file_is_each_checkouts_own() {
    let sandbox = Sandbox::new();
    let linked = sandbox.worktree("linked");
    let in_linked = |args: &[&str]| {
        let mut command = sandbox.repoguard([&["state"], args].concat());
        String::from_utf8(command.current_dir(&linked).assert().success().get_output().stdout.clone()).unwrap()
    };
    state(&sandbox, &["set", "a", "1"], 0);
    assert_eq!(in_linked(&["get", "a"]), "1\n");
    in_linked(&["set", "a", "2"]);
    assert_eq!(state(&sandbox, &["get", "a"], 0), "2\n");
    in_linked(&["--file", "own.json", "set", "a", "3"]);
    assert!(linked.join("own.json").exists() && !sandbox.path("own.json").exists());

    sandbox.git(["clone", "-q", "--bare", ".", "../bare"]);
    let mut bare = sandbox.repoguard(["state", "set", "a", "4"]);
    bare.current_dir(sandbox.outside("bare")).assert().success();
    assert!(sandbox.outside("bare/repoguard/state.json").exists());
}

#[test]
fn without_a_repository_there_are_files_only() {
    let sandbox = Sandbox::empty();
    assert!(refused(&sandbox, &["set", "a", "1"], 125).contains("the shared document"));
    state(&sandbox, &["set", "a", "1", "--file", "doc.json"], 0);
    state(&sandbox, &["set", "b", "2", "--file", "doc.json"], 0);
    assert_eq!(state(&sandbox, &["list", "--file", "doc.json"], 0), "lock_version\na\nb\n");
    assert_eq!(names(sandbox.here()), ["doc.json"], "no lock file beside it");
}

#[test]
fn link_stays_a_link_and_the_mode_stays() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("real")).unwrap();
    fs::write(sandbox.path("real/doc.json"), "{}").unwrap();
    fs::set_permissions(sandbox.path("real/doc.json"), fs::Permissions::from_mode(0o604)).unwrap();
    symlink("real/doc.json", sandbox.path("link.json")).unwrap();
    symlink("../link.json", sandbox.path("real/again.json")).unwrap();
    fs::hard_link(sandbox.path("real/doc.json"), sandbox.path("second-name.json")).unwrap();
    for (number, file) in ["link.json", "real/again.json"].iter().enumerate() {
        state(&sandbox, &["set", "a", &number.to_string(), "--file", file], 0);
        assert_eq!(state(&sandbox, &["get", "a", "--file", "real/doc.json"], 0), format!("{number}\n"));
        assert!(fs::symlink_metadata(sandbox.path(file)).unwrap().is_symlink());
        assert_eq!(fs::metadata(sandbox.path(file)).unwrap().permissions().mode() & 0o7777, 0o604);
    }
    assert_eq!(
        fs::read_to_string(sandbox.path("second-name.json")).unwrap(),
        "{}",
        "the other name keeps the old content"
    );
    // A link that leads to nothing: the document is made there.
    symlink("real/new.json", sandbox.path("dangling.json")).unwrap();
    state(&sandbox, &["set", "a", "9", "--file", "dangling.json"], 0);
    assert!(fs::symlink_metadata(sandbox.path("dangling.json")).unwrap().is_symlink());
    assert_eq!(state(&sandbox, &["get", "a", "--file", "real/new.json"], 0), "9\n");
    assert_eq!(names(&sandbox.path("real")), ["again.json", "doc.json", "new.json"]);
}

#[test]
fn nobody_waits_behind_a_long_hold() {
    let sandbox = Sandbox::new();
    let mut holder = sandbox.hold(&["--scope", "repo"]);
    state(&sandbox, &["set", "a", "1", "--timeout", "5"], 0);
    state(&sandbox, &["set", "a", "1", "--file", "doc.json", "-w", "5"], 0);
    assert_eq!(state(&sandbox, &["get", "a"], 0), "1\n");
    assert!(holder.runs());
    holder.finish();
}

#[test]
fn parallel_calls_inside_of_one_hold_lose_nothing() {
    let sandbox = Sandbox::new();
    let many = "for i in $(seq 20); do repoguard state merge all \"{\\\"$i\\\": $i}\" & done; wait";
    sandbox.repoguard(["exec", "--", "sh", "-c", many]).assert().success();
    let all: Value = serde_json::from_str(&state(&sandbox, &["get", "all"], 0)).unwrap();
    assert_eq!(all.as_object().unwrap().len(), 20, "{all}");
}

#[test]
fn tracked_document_is_a_part_of_a_mutation() {
    let sandbox = Sandbox::new();
    sandbox.git(["config", "user.name", "A"]);
    let set = ["--", "repoguard", "state", "--file", "lock.json", "set", "a", "1"];
    sandbox.repoguard(["mutate", "-q", "-m", "state"].iter().chain(&set)).assert().success();
    assert_eq!(sandbox.git(["show", "HEAD:lock.json"]), "{\n  \"lock_version\": 1,\n  \"a\": 1\n}\n");
    let failing = "repoguard state --file lock.json set a 2 && exit 3";
    sandbox.repoguard(["mutate", "-m", "no", "--", "sh", "-c", failing]).assert().code(3);
    assert_eq!(state(&sandbox, &["--file", "lock.json", "get", "a"], 0), "1\n");
    assert_eq!(sandbox.git(["status", "--porcelain"]), "");
}

#[test]
fn who_locks_the_document_itself_is_waited_for() {
    let sandbox = Sandbox::new();
    state(&sandbox, &["set", "a", "1", "--file", "doc.json"], 0);
    let mut other = sandbox.command("flock");
    other.args(["doc.json", "sh", "-c", "echo up; read _; printf '{\"b\": 2}' >doc.json"]);
    let mut other = sandbox.start_up(other);
    let told = refused(&sandbox, &["set", "c", "3", "--file", "doc.json", "-n"], 75);
    assert!(told.contains("doc.json") && told.contains("pid"), "{told}");
    let mut waiting = sandbox.start(sandbox.repoguard_command(["state", "set", "c", "3", "--file", "doc.json"]));
    crate::support::eventually("it is told who is waited for", || waiting.stderr().contains("waiting"));
    assert_eq!(state(&sandbox, &["get", "a", "--file", "doc.json"], 0), "1\n", "readers do not wait");
    other.finish();
    assert!(waiting.ended().success());
    assert_eq!(fs::read_to_string(sandbox.path("doc.json")).unwrap(), "{\"b\": 2, \"c\": 3}");
}

/// What is in a directory, sorted.
fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn comments_trailing_commas_and_byte_order_mark_of_a_settings_file_stay() {
    let sandbox = Sandbox::new();
    let text = "\u{feff}// settings\n{\n  \"a\": 1, // first\n  /* second */ \"b\": [\n    2,\n  ],\n}\n";
    fs::write(sandbox.path("settings.json"), text).unwrap();
    let state = |args: &[&str]| {
        let words = [&["state", "--file", "settings.json"], args].concat();
        let output = sandbox.repoguard(words).assert().success().get_output().clone();
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(state(&["list"]), "a\nb\n");
    assert_eq!(state(&["get", "b", "/0"]), "2\n");
    state(&["set", "a", "10"]);
    state(&["set", "c", "true"]);
    let expected = text.replace("\"a\": 1,", "\"a\": 10,").replace("  ],\n}", "  ],\n  \"c\": true,\n}");
    assert_eq!(fs::read_to_string(sandbox.path("settings.json")).unwrap(), expected);
    state(&["rm", "c"]);
    state(&["rm", "b"]);
    let left = fs::read_to_string(sandbox.path("settings.json")).unwrap();
    assert!(left.starts_with("\u{feff}// settings\n") && left.contains("// first\n  /* second */"), "{left}");
    assert_eq!(state(&["list"]), "a\n");
}
