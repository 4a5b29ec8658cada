//! Journals of mutations that are damaged, or that somebody put there: a clear message, no panic, and a way out.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::mutate::furnished;
use crate::support::{At, Sandbox, WORK, traces};

fn kept(sandbox: &Sandbox) -> PathBuf {
    sandbox.data().join("mutation-w")
}

fn journal(sandbox: &Sandbox) -> PathBuf {
    kept(sandbox).join("journal.jsonl")
}

/// Puts something else in place of the journal.
fn journal_is(sandbox: &Sandbox, what: &str) {
    let path = journal(sandbox);
    fs::create_dir_all(kept(sandbox)).unwrap();
    fs::remove_file(&path).ok();
    match what {
        "empty" => fs::write(path, "").unwrap(),
        "garbage" => fs::write(path, b"\xff\xfe garbage \0\n{\"step\"").unwrap(),
        "another schema" => fs::write(path, "{\"step\":\"begun\",\"schema\":99,\"fence\":1}\n").unwrap(),
        "JSON of others" => fs::write(path, "[1, 2]\n{\"step\":\"kept\",\"at_ms\":1}\n").unwrap(),
        "a directory" => fs::create_dir_all(path.join("in/it")).unwrap(),
        "a FIFO" => assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success()),
        "a link to a file" => {
            fs::write(sandbox.outside("secret"), "secret\n").unwrap();
            symlink(sandbox.outside("secret"), path).unwrap();
        }
        "a link to nowhere" => symlink(sandbox.outside("nowhere"), path).unwrap(),
        "an endless device" => symlink("/dev/zero", path).unwrap(),
        "huge" => fs::File::create(path).unwrap().set_len(8 << 30).unwrap(),
        "unreadable for all" => {
            fs::write(&path, "").unwrap();
            fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o000)).unwrap();
        }
        other => panic!("{other}"),
    }
}

const WRONG: [&str; 11] = [
    "empty",
    "garbage",
    "another schema",
    "JSON of others",
    "a directory",
    "a FIFO",
    "a link to a file",
    "a link to nowhere",
    "an endless device",
    "huge",
    "unreadable for all",
];

/// `repoguard ARGS` with little memory to waste; returns its status and what it says.
fn run(sandbox: &Sandbox, args: &[&str]) -> (i32, String) {
    let mut command = sandbox.sh("ulimit -v 2000000; exec repoguard \"$@\"");
    let output = command.arg("sh").args(args).timeout(std::time::Duration::from_secs(20)).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!told.contains("panicked") && !told.contains("memory allocation"), "{args:?}: {told}");
    (output.status.code().unwrap_or_else(|| panic!("{args:?} does not end: {:?}: {told}", output.status)), told)
}

#[test]
fn journal_that_cannot_be_read_stops_everybody_and_is_forgotten_on_demand() {
    for wrong in WRONG {
        let sandbox = furnished();
        sandbox.try_once(&[]);
        journal_is(&sandbox, wrong);
        let before = sandbox.state();
        let mut stopped = 0;
        for args in [
            &["exec", "--", "true"][..],
            &["mutate", "-m", "x", "--", "true"],
            &["exec", "-s", "--", "true"],
            &["recover"],
        ] {
            let (status, told) = run(&sandbox, args);
            // What is not there for the one is there for none.
            assert!([0, 65, 125].contains(&status), "{wrong}, {args:?}: {status}: {told}");
            assert!(
                status == 0 || (told.contains("journal") && told.contains("--finish")),
                "{wrong}, {args:?}: {told}"
            );
            stopped += usize::from(status != 0);
            before.assert_same(&sandbox.state(), &format!("{wrong}, {args:?}: {told}"));
        }
        assert!(stopped == 0 || stopped == 4, "{wrong}: {stopped} of 4 were stopped");
        let (status, told) = run(&sandbox, &["recover", "--status"]);
        assert!(status != 0 || stopped == 0, "{wrong}: {told}");
        let (status, _) = run(&sandbox, &["status"]);
        assert_eq!(status, 0, "{wrong}");
        let (status, told) = run(&sandbox, &["recover", "--finish"]);
        assert_eq!(status, 0, "{wrong}: {told}");
        assert_eq!(run(&sandbox, &["exec", "--", "true"]).0, 0, "{wrong}");
        before.assert_same(&sandbox.state(), wrong);
        if wrong == "a link to a file" {
            assert_eq!(fs::read_to_string(sandbox.outside("secret")).unwrap(), "secret\n", "it is not ours");
        }
        assert!(!journal(&sandbox).exists(), "{wrong}");
        sandbox.commits(&[], "echo x >>file");
    }
}

#[test]
fn torn_last_line_was_never_acted_upon() {
    for torn in
        [&b"{\"step\":\"ra"[..], b"\0\0\0\0\0\0\0\0", b"\xff\xfe\xfd", b"{\"step\":\"undoing\",\"why\":\"x\xe2\x82"]
    {
        let sandbox = furnished();
        let before = sandbox.state();
        sandbox.killed_at(At::Command, &[], WORK);
        let mut file = fs::OpenOptions::new().append(true).open(journal(&sandbox)).unwrap();
        file.write_all(torn).unwrap();
        let (status, told) = run(&sandbox, &["exec", "--", "true"]);
        assert_eq!(status, 0, "{}: {told}", torn.escape_ascii());
        before.assert_same(&sandbox.state(), &told);
        sandbox.assert_no_traces();
    }
}

/// Damages one of the files that were kept.
fn damage(path: &Path, how: &str) {
    match how {
        "removed" => fs::remove_file(path).unwrap(),
        "emptied" => fs::write(path, "").unwrap(),
        "garbage" => fs::write(path, b"\xff{garbage\n").unwrap(),
        "truncated" => {
            let bytes = fs::read(path).unwrap();
            fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
        }
        other => panic!("{other}"),
    }
}

#[test]
fn what_was_kept_and_is_damaged_stops_everybody_before_anything_is_put_back() {
    for name in ["before.jsonl", "index"] {
        for how in ["removed", "emptied", "garbage", "truncated"] {
            let sandbox = furnished();
            fs::write(sandbox.path("mine"), "mine\n").unwrap();
            sandbox.killed_at(At::Command, &[], WORK);
            damage(&kept(&sandbox).join(name), how);
            let now = sandbox.state();
            for args in [&["exec", "--", "true"][..], &["recover"], &["recover", "--undo"]] {
                let (status, told) = run(&sandbox, args);
                assert!([65, 125].contains(&status), "{name} {how}, {args:?}: {status}: {told}");
                now.assert_same(&sandbox.state(), &format!("{name} {how}, {args:?}: {told}"));
            }
            let (status, told) = run(&sandbox, &["recover", "--finish"]);
            assert_eq!(status, 0, "{name} {how}: {told}");
            now.assert_same(&sandbox.state(), &told);
            assert_eq!(traces(&sandbox.path(".git")), [""; 0], "{name} {how}");
            assert_eq!(sandbox.try_once(&[]), 0);
        }
    }
}

#[test]
fn kept_bytes_that_are_gone_are_named_and_the_rest_is_put_back_or_kept() {
    let sandbox = furnished();
    fs::write(sandbox.path("mine"), "mine\n").unwrap();
    sandbox.killed_at(At::Command, &[], "echo x >>file; rm mine");
    fs::remove_dir_all(kept(&sandbox).join("files")).unwrap();
    let (status, told) = run(&sandbox, &["exec", "--", "true"]);
    assert!(status == 125 || status == 65, "{status}: {told}");
    assert!(told.contains("mine") || told.contains("files"), "{told}");
    assert_eq!(run(&sandbox, &["exec", "--", "true"]).0, status, "it is not forgotten");
    assert_eq!(run(&sandbox, &["recover", "--finish"]).0, 0);
    assert_eq!(sandbox.try_once(&[]), 0);
}
