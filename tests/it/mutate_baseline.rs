//! What is kept of untracked files before CMD runs: all of them, up to a limit, or none.

use std::fs;
use std::process::Stdio;

use crate::support::{Sandbox, eventually, skip};

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox
        .sh("git add file; git commit -qm first; echo small >small; head -c 3000000 /dev/zero >big; ln -s small link")
        .assert()
        .success();
    sandbox
}

fn mutate(sandbox: &Sandbox, limit: Option<&str>, options: &[&str], script: &str) -> (i32, String) {
    let mut command = sandbox.repoguard(["mutate", "-m", "m"]);
    command.args(options).args(["--", "sh", "-c", script]);
    if let Some(limit) = limit {
        command.env("REPOGUARD_BASELINE_LIMIT", limit);
    }
    let output = command.output().unwrap();
    (output.status.code().expect("a status"), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn more_than_the_limit_is_refused_before_anything_is_done_and_the_ways_out_are_named() {
    let sandbox = sandbox();
    for (limit, status) in [("1m", 65), ("2999999", 65), ("4m", 0), ("0", 65), ("much", 125)] {
        let (got, told) = mutate(&sandbox, Some(limit), &[], &format!("echo {limit} >file; echo ran >>../ran"));
        assert_eq!(got, status, "{limit}: {told}");
        if status == 65 {
            let says = ["--untracked=no", "repoguard.baselineLimit", "ignore", "nothing was changed", "3 files"];
            assert!(says.iter().all(|said| told.contains(said)), "{limit}: {told}");
        }
        assert_eq!(sandbox.outside("ran").exists(), status == 0, "{limit}: {told}");
        fs::remove_file(sandbox.outside("ran")).ok();
    }
    // The way out: git ignores them.
    fs::write(sandbox.path(".git/info/exclude"), "big\n").unwrap();
    assert_eq!(mutate(&sandbox, Some("1m"), &[], "echo 3 >file").0, 0);
    sandbox.git(["config", "repoguard.baselineLimit", "3"]);
    assert_eq!(mutate(&sandbox, None, &[], "echo 4 >file").0, 65);
}

#[test]
fn unprotected_files_must_not_be_changed_and_are_named_if_they_are() {
    let unprotected = &["--untracked=no"][..];
    for (script, name) in [
        ("echo more >>small", "small"),
        ("rm big", "big"),
        ("ln -sfn other link", "link"),
        ("chmod 600 small", "small"),
        ("mv small elsewhere", "small"),
    ] {
        let sandbox = sandbox();
        assert_eq!(mutate(&sandbox, Some("1m"), unprotected, "echo 2 >file").0, 0);
        let (status, told) = mutate(&sandbox, Some("1m"), unprotected, &format!("echo 3 >file; echo 4 >new; {script}"));
        assert_eq!(status, 65, "{script}: {told}");
        assert!(told.contains(&format!("`{name}`")) && !told.contains("everything was put back"), "{script}: {told}");
        assert_eq!(fs::read_to_string(sandbox.path("file")).unwrap(), "2\n", "{script}: all else is put back: {told}");
        assert!(!sandbox.path("new").exists(), "{script}: {told}");
        assert_eq!(sandbox.try_once(&[]), 0, "{script}");
    }
}

#[test]
fn many_small_files_come_back_byte_by_byte() {
    let sandbox = sandbox();
    let make = "mkdir -p many; for n in $(seq 300); do head -c $n /dev/urandom >many/$n; done; : >many/empty; chmod 640 many/7; chmod 755 many/8";
    sandbox.sh(make).assert().success();
    let sums = "cd many; find . -type f -printf '%m %p\\n' | sort; sha256sum * | sort; cat ../small";
    let before = sandbox.sh(sums).output().unwrap().stdout;
    for script in [
        "rm -rf many small",
        "for f in many/*; do echo x >>$f; done; chmod -R u+x many",
        "mv many elsewhere; mkdir many; echo 1 >many/1",
    ] {
        let (status, told) = mutate(&sandbox, None, &[], &format!("{script}; exit 3"));
        assert!(status == 3 && told.contains("everything was put back"), "{script}: {told}");
        assert_eq!(sandbox.sh(sums).output().unwrap().stdout, before, "{script}");
    }
}

/// What a command may do to a large file of the caller's.
const WAYS: [&str; 10] = [
    "echo more >>large",
    ": >large",
    "rm large",
    "cp file x; mv x large",
    "mv large elsewhere",
    "mv large elsewhere; echo more >>elsewhere",
    "ln large second; echo more >>second",
    "chmod 600 large",
    "dd if=/dev/zero of=large bs=1 count=10 seek=100 conv=notrunc 2>/dev/null",
    "mkdir x; mv large x; echo more >>x/large; ln -s file large",
];

/// A repository with a large untracked file, and how that is.
fn large() -> (Sandbox, String) {
    let sandbox = Sandbox::new();
    let make = "git add file; git commit -qm first; head -c 5000000 /dev/urandom >large; chmod 640 large";
    sandbox.sh(make).assert().success();
    let state = state_of_large(&sandbox);
    (sandbox, state)
}

fn state_of_large(sandbox: &Sandbox) -> String {
    let output = sandbox.sh("sha256sum <large; stat -c '%a %h %s' large; ls").output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn large_file_comes_back_whatever_is_done_to_it() {
    for way in WAYS {
        let (sandbox, state) = large();
        let (status, told) = mutate(&sandbox, None, &[], &format!("{way}; exit 3"));
        assert!(status == 3 && told.contains("everything was put back"), "{way}: {told}");
        assert_eq!(state_of_large(&sandbox), state, "{way}: {told}");
        let (status, told) = mutate(&sandbox, None, &[], &format!("{way}; echo 2 >file"));
        assert_eq!(status, 65, "{way}: {told}");
        assert_eq!(state_of_large(&sandbox), state, "{way}: {told}");
    }
}

#[test]
fn large_file_comes_back_after_a_kill_whoever_is_left() {
    for way in WAYS {
        let (sandbox, state) = large();
        // At once, before there is a keeper, and later.
        for delay in ["", "sleep 0.1; "] {
            let script = format!("{delay}kill -9 $PPID; sleep 0.1; {way}; sleep 0.1");
            let mut command = sandbox.repoguard_command(["mutate", "-m", "m", "--", "sh", "-c"]);
            command.arg(script).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            assert!(!command.status().unwrap().success());
            let output = sandbox.repoguard(["exec", "-w", "20", "--", "true"]).output().unwrap();
            let told = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(0), "{way}: {told}");
            assert_eq!(state_of_large(&sandbox), state, "{way}: {told}");
        }
    }
}

#[test]
fn large_file_that_nobody_writes_to_is_not_copied() {
    if !cfg!(target_os = "linux") {
        return skip("a large file that is not copied", "there are no leases");
    }
    let (sandbox, state) = large();
    let script = "ls .git/repoguard/mutation-w/files >../kept; cat large >/dev/null; echo 2 >file";
    let (status, told) = mutate(&sandbox, None, &[], script);
    assert_eq!(status, 0, "{told}");
    assert_eq!(state_of_large(&sandbox), state, "{told}");
    assert_eq!(fs::read_to_string(sandbox.outside("kept")).unwrap(), "0.link\nleased\n", "{told}");
}

#[test]
fn large_file_that_somebody_writes_to_is_copied_and_left_to_them() {
    let (sandbox, _) = large();
    let mut writer =
        sandbox.start(sandbox.sh_command("exec 3>>large; echo one >&3; touch ../up; read _; echo two >&3"));
    eventually("it writes", || sandbox.outside("up").exists());
    let (status, told) = mutate(&sandbox, None, &[], "echo 2 >file");
    assert_eq!(status, 0, "{told}");
    writer.finish();
    let tail = sandbox.sh("tail -c 8 large").output().unwrap().stdout;
    assert_eq!(String::from_utf8_lossy(&tail), "one\ntwo\n");
}
