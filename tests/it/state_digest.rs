//! `repoguard state digest`: tells whether the inputs have changed since they were recorded.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use serde_json::{Value, json};

use crate::support::{Sandbox, is_root, skip};

/// `repoguard state digest ARGS` must end with this status; returns what it printed.
#[track_caller]
fn digest(sandbox: &Sandbox, args: &[&str], status: i32) -> String {
    let output = sandbox.repoguard([&["state", "digest"], args].concat()).assert().code(status).get_output().clone();
    assert!(!String::from_utf8_lossy(&output.stderr).contains("panicked"));
    String::from_utf8(output.stdout).unwrap()
}

/// A directory with something of each kind in it.
fn tree() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox
        .sh("mkdir -p src/deep/er src/empty; echo a >src/a; echo b >src/deep/er/b; echo run >src/run; \
                chmod 755 src/run; ln -s a src/link; mkfifo src/fifo; printf x >src/\"$(printf '\\377 n\\nl')\"")
        .assert()
        .success();
    sandbox
}

#[test]
fn every_change_that_counts_is_seen_and_no_other() {
    let sandbox = tree();
    assert_eq!(digest(&sandbox, &["--check"], 1), "nothing recorded: default\n");
    let first = digest(&sandbox, &["src", "file"], 0);
    assert!(first.starts_with("sha256:") && first.len() == 72, "{first}");
    assert_eq!(digest(&sandbox, &["src/", "./file"], 0), first, "the same, however it is written");
    for (change, back, what) in [
        ("echo x >>src/deep/er/b", "echo b >src/deep/er/b", Some("src")),
        ("echo n >src/new", "rm src/new", Some("src")),
        ("mkdir src/empty/more", "rmdir src/empty/more", Some("src")),
        ("mv src/a src/A", "mv src/A src/a", Some("src")),
        ("chmod -x src/run", "chmod 755 src/run", Some("src")),
        ("ln -sfn run src/link", "ln -sfn a src/link", Some("src")),
        ("rm src/link; cp src/a src/link", "ln -sfn a src/link", Some("src")),
        ("rm src/fifo; : >src/fifo", "rm src/fifo; mkfifo src/fifo", Some("src")),
        ("echo x >>file", "echo first >file", Some("file")),
        ("touch -d 2001-01-01 src/a; chmod 664 src/a", ":", None),
        ("mkdir -p src/.git; echo x >src/.git/x", "rm -r src/.git", None),
        (": >src/.repoguard-new-x", "rm src/.repoguard-new-x", None),
    ] {
        sandbox.sh(change).assert().success();
        let told = digest(&sandbox, &["--check"], i32::from(what.is_some()));
        assert_eq!(told, what.map_or_else(String::new, |what| format!("changed: {what}\n")), "{change}");
        assert_eq!(digest(&sandbox, &["--check", "src", "file"], i32::from(what.is_some())), told);
        sandbox.sh(back).assert().success();
        assert_eq!(digest(&sandbox, &["--check"], 0), "", "{back}");
    }
}

#[test]
fn parts_that_only_run_together_the_same_are_different() {
    let sandbox = Sandbox::new();
    let of = |script: &str| {
        sandbox.sh(&format!("rm -rf d; mkdir d; cd d; {script}")).assert().success();
        digest(&sandbox, &["d"], 0)
    };
    let all = [
        of("printf ab >c"),
        of("printf b >ca"),
        of("printf a >a; printf b >b"),
        of("printf aab >b"),
        of("mkdir a; printf b >a/b"),
        of(":"),
        of("mkdir d"),
        of("ln -s ab c"),
    ];
    for (index, one) in all.iter().enumerate() {
        assert!(!all[..index].contains(one), "{index}");
    }
}

#[test]
fn names_keep_apart_and_what_is_written_is_always_the_same() {
    let sandbox = tree();
    digest(&sandbox, &["--as", "a/b~c", "file"], 0);
    digest(&sandbox, &["--as", "other", "src", "file"], 0);
    fs::write(sandbox.path("file"), "changed").unwrap();
    assert_eq!(digest(&sandbox, &["--as", "a/b~c", "--check"], 1), "changed: file\n");
    digest(&sandbox, &["--as", "a/b~c", "file"], 0);
    digest(&sandbox, &["--as", "a/b~c", "--check"], 0);
    assert_eq!(digest(&sandbox, &["--as", "other", "--check"], 1), "changed: file\n");
    let before = fs::read(sandbox.data().join("state.json")).unwrap();
    let told: Value = serde_json::from_str(&digest(&sandbox, &["--as", "a/b~c", "file", "--json"], 0)).unwrap();
    assert_eq!((&told["changed"], &told["schema"]), (&json!(false), &json!(1)));
    assert_eq!(fs::read(sandbox.data().join("state.json")).unwrap(), before);
    // Another list of inputs is another record: nothing of the old one stays.
    digest(&sandbox, &["--as", "other", "file"], 0);
    digest(&sandbox, &["--as", "other", "--check"], 0);
    assert_eq!(
        digest(&sandbox, &["--as", "other", "--check", "src"], 1),
        "not recorded: src\nrecorded, but not given: file\n"
    );
    let told: Value =
        serde_json::from_str(&digest(&sandbox, &["--as", "other", "--check", "--json", "src"], 1)).unwrap();
    assert_eq!(told["differences"][0], json!({"how": "added", "input": "src"}));
    assert_eq!(told["same"], json!(false));
}

#[test]
fn inputs_are_seen_from_the_top_wherever_it_is_asked() {
    let sandbox = tree();
    let mut inside = sandbox.repoguard(["state", "digest", "deep", "../file"]);
    inside.current_dir(sandbox.path("src")).assert().success();
    assert_eq!(digest(&sandbox, &["--check", "src/deep", "file"], 0), "");
    let section = sandbox.repoguard(["state", "get", "inputs_digest", "/default/inputs"]).output().unwrap();
    let inputs: Value = serde_json::from_slice(&section.stdout).unwrap();
    assert_eq!(inputs.as_object().unwrap().keys().collect::<Vec<_>>(), ["file", "src/deep"]);
    fs::remove_file(sandbox.path("file")).unwrap();
    assert_eq!(digest(&sandbox, &["--check"], 1), "changed: gone: file\n");
}

#[test]
fn link_that_is_an_input_counts_with_what_it_leads_to() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.outside("one"), "same").unwrap();
    fs::write(sandbox.outside("two"), "same").unwrap();
    symlink("../one", sandbox.path("link")).unwrap();
    digest(&sandbox, &["link"], 0);
    fs::write(sandbox.outside("one"), "other").unwrap();
    assert_eq!(digest(&sandbox, &["--check"], 1), "changed: link\n");
    fs::remove_file(sandbox.path("link")).unwrap();
    symlink("../two", sandbox.path("link")).unwrap();
    assert_eq!(digest(&sandbox, &["--check"], 1), "changed: link\n");
}

#[test]
fn output_of_a_command_is_an_input_but_what_is_recorded_is_never_run() {
    let sandbox = Sandbox::new();
    let command = "pwd; cat file; touch ../ran";
    digest(&sandbox, &["--command", command, "file"], 0);
    let mut inside = sandbox.repoguard(["state", "digest", "--check", "--command", command, "../file"]);
    fs::create_dir(sandbox.path("d")).unwrap();
    inside.current_dir(sandbox.path("d")).assert().success();
    fs::remove_file(sandbox.outside("ran")).unwrap();
    assert_eq!(digest(&sandbox, &["--check"], 1), format!("recorded, but not given: {command}\n"));
    assert!(!sandbox.outside("ran").exists());
    fs::write(sandbox.path("file"), "second\n").unwrap();
    let told = digest(&sandbox, &["--check", "--command", command, "file"], 1);
    assert_eq!(told, format!("changed: file\nchanged: {command}\n"));
    assert_eq!(
        digest(&sandbox, &["--check", "--command", command], 1),
        told,
        "the recorded files with the command given"
    );
}

#[test]
fn input_that_cannot_be_read_records_nothing() {
    let sandbox = tree();
    digest(&sandbox, &["src"], 0);
    let before = fs::read(sandbox.data().join("state.json")).unwrap();
    let refused = |args: &[&str], why: &str, status: i32| {
        let words = [&["state", "digest"], args].concat();
        let output = sandbox.repoguard(words).assert().code(status).stdout("").get_output().clone();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(told.contains(why), "{told}");
    };
    refused(&["file", "no/such"], "no/such", 125);
    refused(&["--check", "no-such"], "no-such", 125);
    refused(&["src/fifo"], "a FIFO", 125);
    refused(&["/dev/zero"], "a device", 125);
    refused(&["--command", "echo x; exit 3"], "status 3", 125);
    refused(&["--command", "kill -9 $$"], "signal: 9", 125);
    refused(&[], "give the files", 2);
    symlink("nowhere", sandbox.path("dangling")).unwrap();
    refused(&["dangling"], "dangling", 125);
    assert_eq!(fs::read(sandbox.data().join("state.json")).unwrap(), before);
    sandbox.repoguard(["state", "merge", "inputs_digest", r#"{"default": 5}"#]).assert().success();
    refused(&["--check"], "no digest of inputs", 125);
}

/// `digest --check --json ARGS` must end with 1 and name one difference: how, which input, and whether it says why.
#[track_caller]
fn one_difference(sandbox: &Sandbox, args: &[&str], how: &str, input: &str) {
    let told: Value = serde_json::from_str(&digest(sandbox, &[&["--check", "--json"], args].concat(), 1)).unwrap();
    let [difference] = told["differences"].as_array().unwrap().as_slice() else { panic!("{told}") };
    assert_eq!((&difference["how"], &difference["input"]), (&json!(how), &json!(input)), "{told}");
    assert_eq!(difference["why"].is_string(), how != "gone" && how != "changed", "{told}");
    assert_eq!((&told["same"], told["digest"].is_null()), (&json!(false), how != "changed"), "{told}");
}

#[test]
fn recorded_input_that_is_gone_or_replaced_has_changed() {
    let sandbox = tree();
    symlink("src", sandbox.path("way")).unwrap();
    fs::create_dir_all(sandbox.path("a/b")).unwrap();
    fs::write(sandbox.path("a/b/c"), "x").unwrap();
    let recorded = ["file", "src/run", "way", "a/b/c"];
    digest(&sandbox, &recorded, 0);
    for (change, back, how, input) in [
        ("mv file keep", "mv keep file", "gone", "file"),
        ("mv file keep; mkdir file", "rmdir file; mv keep file", "changed", "file"),
        ("mv file keep; mkfifo file", "rm file; mv keep file", "replaced", "file"),
        ("mv file keep; ln -s nowhere file", "rm file; mv keep file", "gone", "file"),
        ("mv file keep; ln -s file file", "rm file; mv keep file", "unreadable", "file"),
        ("mv file keep; ln -s /dev/zero file", "rm file; mv keep file", "replaced", "file"),
        ("mv way keep; : >way", "rm way; mv keep way", "changed", "way"),
        ("mv a keep", "mv keep a", "gone", "a/b/c"),
        ("mv a/b keep; : >a/b", "rm a/b; mv keep a/b", "gone", "a/b/c"),
    ] {
        sandbox.sh(change).assert().success();
        one_difference(&sandbox, &[], how, input);
        one_difference(&sandbox, &recorded, how, input);
        let told = digest(&sandbox, &["--check"], 1);
        assert!(told.starts_with("changed: ") && told.contains(input) && told.lines().count() == 1, "{change}: {told}");
        sandbox.sh(back).assert().success();
        assert_eq!(digest(&sandbox, &["--check"], 0), "", "{back}");
    }
}

#[test]
fn recorded_input_that_cannot_be_read_has_changed_and_recording_it_fails() {
    if is_root() {
        return skip("an input without permission", "root can read everything");
    }
    let sandbox = tree();
    digest(&sandbox, &["file", "src"], 0);
    for (closed, input) in [("file", "file"), ("src/deep/er/b", "src"), ("src/empty", "src")] {
        let path = sandbox.path(closed);
        let mode = fs::metadata(&path).unwrap().permissions();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
        one_difference(&sandbox, &[], "unreadable", input);
        digest(&sandbox, &["file", "src"], 125);
        fs::set_permissions(&path, mode).unwrap();
    }
    assert_eq!(digest(&sandbox, &["--check"], 0), "");
}

#[test]
fn document_itself_does_not_count() {
    let sandbox = tree();
    digest(&sandbox, &["--file", "src/lock.json", "src"], 0);
    digest(&sandbox, &["--file", "src/lock.json", "--check"], 0);
    digest(&sandbox, &["--file", "src/lock.json", "."], 0);
    assert_eq!(digest(&sandbox, &["--file", "src/lock.json", "--check"], 0), "", "nor does what is in .git");
    fs::set_permissions(sandbox.path("file"), fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(digest(&sandbox, &["--file", "src/lock.json", "--check"], 1), "changed: .\n");
}
