//! `repoguard state` in bad places: documents that are damaged, huge, read-only or no files, full disks, hostile neighbours.
//! Each is told, and left as it is.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use crate::support::{Mount, Sandbox, is_root, own, skip, to_the_end};

const NOBODY: u32 = 65534;

/// Every verb that reads, and every one that writes, must refuse with this status and say this.
#[track_caller]
fn all_refuse(sandbox: &Sandbox, file: &str, status: i32, why: &[&str]) {
    let readers: [&[&str]; 4] = [&["get"], &["get", "a"], &["list"], &["digest", "--check", "file"]];
    for args in readers {
        refuses(sandbox, file, args, status, why);
    }
    writers_refuse(sandbox, file, status, why);
}

#[track_caller]
fn writers_refuse(sandbox: &Sandbox, file: &str, status: i32, why: &[&str]) {
    let writers: [&[&str]; 5] = [
        &["set", "a", "1"],
        &["rm", "a"],
        &["merge", "a", "{}"],
        &["set", "a", "1", "--expect-missing"],
        &["digest", "file"],
    ];
    for args in writers {
        refuses(sandbox, file, args, status, why);
    }
}

#[track_caller]
fn refuses(sandbox: &Sandbox, file: &str, args: &[&str], status: i32, why: &[&str]) {
    let words = [&["state", "--file", file], args].concat();
    let output = sandbox.repoguard(words).assert().code(status).stdout("").get_output().clone();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!told.contains("panicked"), "{told}");
    for why in why {
        assert!(told.contains(why), "{args:?}: {told}");
    }
}

#[test]
fn damaged_document_is_told_with_its_place_and_left_as_it_is() {
    let sandbox = Sandbox::new();
    let doc = sandbox.path("doc.json");
    for (text, why) in [
        (&b"{\"a\": 1,\n \"b\": }"[..], "line 2, column 7"),
        (b"{\"a\": 1,\n \"a\": 2}", "line 2, column 2: `a` is there twice"),
        (b"[1, 2]", "line 1, column 1"),
        (b"null", "expected an object"),
        (b"{\"a\": 1}\n{}", "line 2, column 1"),
        (b"{\"a\": 1", "line 1"),
        (b"{\"a\": \"\xff\"}", "line 1, column 8: it is not UTF-8"),
        (b"{\"a\": 1 /* x }", "line 1, column 9: the comment does not end"),
        (b"{\"a\": 1,,}", "line 1, column 9"),
        (b"{\"a\": NaN}", "line 1, column 7"),
        (b"{'a': 1}", "line 1, column 2"),
        (b"<<<<<<< HEAD\n{}", "line 1, column 1"),
        (b"", "it is empty"),
        (b" \n", "it is empty"),
    ] {
        fs::write(&doc, text).unwrap();
        let inode = fs::metadata(&doc).unwrap().ino();
        all_refuse(&sandbox, "doc.json", 125, &["doc.json", why, "hint: mend it"]);
        assert_eq!((fs::read(&doc).unwrap().as_slice(), fs::metadata(&doc).unwrap().ino()), (text, inode));
    }
    let default = sandbox.data().join("state.json");
    sandbox.repoguard(["state", "set", "a", "1"]).assert().success();
    fs::write(&default, "{").unwrap();
    sandbox.repoguard(["state", "set", "a", "1"]).assert().code(125);
    assert_eq!(fs::read(&default).unwrap(), b"{");
}

#[test]
fn what_is_inside_of_sections_is_their_owners_business() {
    let sandbox = Sandbox::new();
    let theirs = format!(
        "{{\"deep\": {}{}, \"twice\": {{\"k\": 1, \"k\": 2}}, \"half\": \"\\ud800\"",
        "[".repeat(50_000),
        "]".repeat(50_000)
    );
    fs::write(sandbox.path("doc.json"), format!("{theirs}}}")).unwrap();
    sandbox.repoguard(["state", "--file", "doc.json", "set", "own", "1"]).assert().success();
    assert_eq!(fs::read_to_string(sandbox.path("doc.json")).unwrap(), format!("{theirs}, \"own\": 1}}"));
    // Who merges into such a section is told where it cannot be done.
    refuses(
        &sandbox,
        "doc.json",
        &["merge", "twice", "{\"x\": 1}"],
        125,
        &["line 1, column 100030", "`k` is there twice"],
    );
    refuses(&sandbox, "doc.json", &["get", "half", "--raw"], 125, &["no character"]);
    assert_eq!(fs::read_to_string(sandbox.path("doc.json")).unwrap(), format!("{theirs}, \"own\": 1}}"));
}

#[test]
fn huge_document_is_refused() {
    let sandbox = Sandbox::new();
    let doc = sandbox.path("doc.json");
    let file = fs::File::create(&doc).unwrap();
    file.set_len(3 << 40).unwrap();
    all_refuse(&sandbox, "doc.json", 125, &["doc.json", "more than 64 MiB"]);
    assert_eq!(fs::metadata(&doc).unwrap().len(), 3 << 40);
    // Nor does one grow beyond what could be read again.
    let value = |length: usize| format!("\"{}\"", "x".repeat(length));
    let full = format!("{{\"a\":{}}}", value(40 << 20));
    fs::write(&doc, &full).unwrap();
    fs::write(sandbox.outside("value"), value(25 << 20)).unwrap();
    let mut command = sandbox.repoguard(["state", "--file", "doc.json", "set", "b", "--from-file"]);
    command.arg(sandbox.outside("value")).assert().code(125);
    assert_eq!(fs::metadata(&doc).unwrap().len(), full.len() as u64);
}

#[test]
fn what_is_no_regular_file_is_refused_at_once() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("dir")).unwrap();
    let mut fifo = sandbox.command("mkfifo");
    assert!(fifo.arg("fifo").status().unwrap().success());
    symlink("fifo", sandbox.path("to-fifo")).unwrap();
    symlink("loop", sandbox.path("loop")).unwrap();
    for (file, why) in [
        ("dir", "a directory"),
        ("fifo", "a FIFO"),
        ("to-fifo", "a FIFO"),
        ("/dev/zero", "a device"),
        ("loop", "too many levels"),
        (".", "a directory"),
        ("new/", "a directory"),
        ("/", "a directory"),
    ] {
        all_refuse(&sandbox, file, 125, &[why]);
    }
    assert!(!sandbox.path("new").exists());
    let mut piped = sandbox.repoguard(["state", "--file", "/dev/stdin", "get", "a"]);
    piped.write_stdin("{}").assert().code(125).stdout("");
    // Of the repository's own, nothing leads away.
    sandbox.repoguard(["state", "set", "a", "1"]).assert().success();
    let own = sandbox.data().join("state.json");
    fs::rename(&own, sandbox.outside("elsewhere")).unwrap();
    symlink(sandbox.outside("elsewhere"), &own).unwrap();
    let output = sandbox.repoguard(["state", "set", "a", "2"]).assert().code(125).get_output().clone();
    assert!(String::from_utf8_lossy(&output.stderr).contains("a symbolic link"));
    // And a lock that is none is an error, too.
    fs::remove_file(&own).unwrap();
    fs::remove_file(sandbox.data().join("state.lock")).unwrap();
    let mut fifo = sandbox.command("mkfifo");
    assert!(fifo.arg(sandbox.data().join("state.lock")).status().unwrap().success());
    sandbox.repoguard(["state", "set", "a", "2"]).assert().code(125);
}

#[test]
fn missing_directory_is_told_and_not_made() {
    let sandbox = Sandbox::new();
    writers_refuse(&sandbox, "no/such/doc.json", 125, &["no/such"]);
    sandbox.repoguard(["state", "--file", "no/such/doc.json", "get", "a"]).assert().code(1).stdout("").stderr("");
    assert!(!sandbox.path("no").exists());
}

#[test]
fn read_only_document_is_left_as_it_is() {
    let sandbox = Sandbox::new();
    let doc = sandbox.path("doc.json");
    fs::write(&doc, "{\"a\": 0}").unwrap();
    fs::set_permissions(&doc, fs::Permissions::from_mode(0o444)).unwrap();
    // Root could, and does not.
    writers_refuse(&sandbox, "doc.json", 125, &["doc.json", "hint: `ls -ld"]);
    sandbox.repoguard(["state", "--file", "doc.json", "get", "a"]).assert().success().stdout("0\n");
    assert_eq!(fs::read_to_string(&doc).unwrap(), "{\"a\": 0}");
}

/// `repoguard state ARGS` as somebody who must obey permissions.
fn as_nobody(sandbox: &Sandbox, args: &[&str]) -> assert_cmd::Command {
    let mut command: Command = sandbox.repoguard_command([&["state"], args].concat());
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    let config = sandbox.outside("trusting");
    fs::write(&config, "[safe]\n\tdirectory = *\n").unwrap();
    command.env("GIT_CONFIG_GLOBAL", config);
    to_the_end(command)
}

#[test]
fn who_may_not_write_changes_nothing_and_reads_all_the_same() {
    let sandbox = Sandbox::new();
    sandbox.open_to_all();
    if !as_nobody(&sandbox, &["--help"]).output().is_ok_and(|output| output.status.success()) {
        return skip("a document of somebody else's", "other users cannot run the program");
    }
    let doc = sandbox.path("doc.json");
    fs::write(&doc, "{\"a\": 0}").unwrap();
    sandbox.repoguard(["state", "set", "a", "1"]).assert().success();
    let own = fs::read(sandbox.data().join("state.json")).unwrap();
    let closed = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    closed(sandbox.here(), 0o555);
    closed(&sandbox.data().join("state.json"), if is_root() { 0o644 } else { 0o444 });
    for args in [&["set", "a", "2"][..], &["--file", "doc.json", "set", "a", "2"]] {
        as_nobody(&sandbox, args).assert().code(125).stdout("");
    }
    as_nobody(&sandbox, &["get", "a"]).assert().success().stdout("1\n");
    as_nobody(&sandbox, &["--file", "doc.json", "get", "a"]).assert().success().stdout("0\n");
    // A document that may be written, in a directory that may not.
    closed(&doc, 0o666);
    as_nobody(&sandbox, &["--file", "doc.json", "set", "a", "2"]).assert().code(125).stdout("");
    assert_eq!(fs::read_to_string(&doc).unwrap(), "{\"a\": 0}");
    // Without any right in the git directory, the document's own lock does.
    closed(sandbox.here(), 0o777);
    as_nobody(&sandbox, &["--file", "doc.json", "set", "a", "2"]).assert().success();
    closed(&sandbox.data().join("state.json"), 0o644);
    assert_eq!(fs::read(sandbox.data().join("state.json")).unwrap(), own);
    assert_eq!(fs::read_to_string(&doc).unwrap(), "{\"a\": 2}");
}

#[test]
fn owner_stays_where_root_writes() {
    if !is_root() {
        return skip("the owner of a document", "needs root");
    }
    let sandbox = Sandbox::new();
    let doc = sandbox.path("doc.json");
    fs::write(&doc, "{}").unwrap();
    std::os::unix::fs::chown(&doc, Some(61_001), Some(61_100)).unwrap();
    sandbox.repoguard(["state", "--file", "doc.json", "set", "a", "1"]).assert().success();
    let metadata = fs::metadata(&doc).unwrap();
    assert_eq!((metadata.uid(), metadata.gid()), (61_001, 61_100));
}

#[test]
fn users_of_one_group_write_in_turn() {
    const OWNER: u32 = 61_001;
    const OTHER: u32 = 61_002;
    const GROUP: u32 = 61_100;
    if !is_root() {
        return skip("users of one group", "needs root");
    }
    let sandbox = Sandbox::new();
    sandbox.open_to_all();
    sandbox.git(["config", "core.sharedRepository", "group"]);
    own(sandbox.here(), OWNER, GROUP);
    let shared = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o2775)).unwrap();
    shared(&sandbox.path(".git"));
    fs::write(sandbox.outside("trusting"), "[safe]\n\tdirectory = *\n").unwrap();
    let merge = |user: Option<u32>, key: &str, file: &[&str]| {
        let patch = format!(r#"{{"{key}": 1}}"#);
        let words = [&["state", "merge", "all", &patch], file].concat();
        let mut command: Command = sandbox.repoguard_command(words);
        command.env("GIT_CONFIG_GLOBAL", sandbox.outside("trusting"));
        if let Some(user) = user {
            command.uid(user).gid(GROUP);
        }
        to_the_end(command).output().unwrap()
    };
    if !merge(Some(OWNER), "first", &[]).status.success() {
        return skip("users of one group", "other users cannot run the program");
    }
    fs::write(sandbox.path("doc.json"), "{}").unwrap();
    own(&sandbox.path("doc.json"), OWNER, GROUP);
    fs::set_permissions(sandbox.path("doc.json"), fs::Permissions::from_mode(0o660)).unwrap();
    for (number, user) in [Some(OTHER), None, Some(OWNER), None, Some(OTHER)].into_iter().enumerate() {
        for file in [&[][..], &["--file", "doc.json"]] {
            let output = merge(user, &number.to_string(), file);
            assert!(output.status.success(), "{user:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
    for (path, mode, members) in [(sandbox.data().join("state.json"), 0o664, 6), (sandbox.path("doc.json"), 0o660, 5)] {
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!((metadata.gid(), metadata.permissions().mode() & 0o7777), (GROUP, mode), "{path:?}");
        let document: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(document["all"].as_object().unwrap().len(), members);
    }
}

fn small(sandbox: &Sandbox, options: &str) -> Option<Mount> {
    let place = sandbox.outside("small");
    fs::create_dir_all(&place).unwrap();
    Mount::at(place, options)
}

#[test]
fn document_on_another_file_system_and_a_full_one() {
    let sandbox = Sandbox::new();
    let Some(mount) = small(&sandbox, "size=256k") else {
        return skip("a document on another file system", "cannot mount a tmpfs");
    };
    let doc = mount.path().join("doc.json");
    symlink(&doc, sandbox.path("doc.json")).unwrap();
    let set = |value: &str| sandbox.repoguard(["state", "--file", "doc.json", "set", "a", value]).assert();
    set("1").success();
    assert_eq!(fs::read_to_string(&doc).unwrap(), "{\n  \"lock_version\": 1,\n  \"a\": 1\n}\n");
    set("2").success();
    let before = fs::read(&doc).unwrap();
    sandbox.sh("cat /dev/zero >fill 2>/dev/null; :").current_dir(mount.path()).assert().success();
    let output = set("3").code(125).get_output().clone();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("doc.json") && told.contains("hint: `df -h"), "{told}");
    assert_eq!(fs::read(&doc).unwrap(), before);
    let names: Vec<_> = fs::read_dir(mount.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "nothing is left beside it: {names:?}");
    fs::remove_file(mount.path().join("fill")).unwrap();
    set("3").success();
}

#[test]
fn file_system_that_is_read_only() {
    let sandbox = Sandbox::new();
    let Some(mount) = small(&sandbox, "size=256k") else {
        return skip("a read-only file system", "cannot mount a tmpfs");
    };
    fs::write(mount.path().join("doc.json"), "{\"a\": 1}").unwrap();
    mount.remount("ro");
    let doc = mount.path().join("doc.json");
    writers_refuse(&sandbox, doc.to_str().unwrap(), 125, &["doc.json"]);
    sandbox.repoguard(["state", "--file", doc.to_str().unwrap(), "get", "a"]).assert().success().stdout("1\n");
}
