//! Files on which an open blocks: nothing of ours waits for a FIFO in place of a file that git reads, with the lock held or without,
//! and only as long as needed for a file that somebody has a lease on.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::mutate::furnished;
use crate::support::{Sandbox, eventually, has_program, skip};

/// Runs repoguard; it must end. Returns its status and what it printed.
#[track_caller]
fn ends(mut command: assert_cmd::Command, what: &str) -> (i32, String) {
    let output = command.timeout(Duration::from_secs(20)).output().unwrap();
    let told = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    (output.status.code().unwrap_or_else(|| panic!("{what}: it hangs: {told}")), told)
}

fn fifo(path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::remove_file(path).ok();
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[test]
fn git_that_waits_for_a_fifo_is_ended() {
    if !cfg!(target_os = "linux") {
        return skip("a git that waits for a FIFO", "only Linux shows where a process waits");
    }
    let mutate = ["mutate", "-m", "m", "--", "sh", "-c", "echo 2 >file; echo >d/new"];
    for name in ["excludes", ".git/included", "d/.gitignore", "d/.gitattributes"] {
        let sandbox = furnished();
        sandbox.git(["config", "core.excludesFile", "excludes"]);
        sandbox.git(["config", "include.path", "included"]);
        let dirt = sandbox.git(["status", "--porcelain"]);
        fifo(&sandbox.path(name));
        let (status, told) = ends(sandbox.repoguard(mutate), name);
        assert!(
            status == 125 && told.contains("waits for a FIFO") && told.contains("hint: "),
            "{name}: {status}: {told}"
        );
        assert_eq!(ends(sandbox.repoguard(["status"]), name).0, 0, "{name}: it needs none of these");
        let exec = || ends(sandbox.repoguard(["exec", "-n", "--", "true"]), name);
        let (status, told) = exec();
        // The undo of what the command did needs attributes only for what it has to read again: that depends on the clock.
        let is_right = match name {
            ".git/included" => status == 125,
            "d/.gitattributes" => [0, 125].contains(&status),
            _ => status == 0,
        };
        assert!(is_right, "{name}: {status}: {told}");
        fs::remove_file(sandbox.path(name)).unwrap();
        let (status, told) = exec();
        assert_eq!(status, 0, "{name}: {told}");
        assert_eq!(sandbox.git(["status", "--porcelain"]), dirt, "{name}: {told}");
    }
}

#[test]
fn object_that_is_a_fifo_stops_an_undo_until_it_is_mended() {
    if !cfg!(target_os = "linux") {
        return skip("an object that is a FIFO", "only Linux shows where a process waits");
    }
    let sandbox = furnished();
    let before = sandbox.state();
    let id = sandbox.git(["rev-parse", "HEAD:file"]);
    let object = sandbox.path(".git/objects").join(&id[..2]).join(id[2..].trim());
    let (object, kept) = (object.display(), sandbox.outside("kept"));
    let script = format!("mv {object} {kept}; mkfifo {object}; echo changed >file; exit 3", kept = kept.display());
    let (status, told) = ends(sandbox.repoguard(["mutate", "-m", "m", "--", "sh", "-c", &script]), "undo");
    assert!(status == 125 && told.contains("waits for a FIFO") && told.contains("/file`"), "{status}: {told}");
    fs::rename(kept, object.to_string()).unwrap();
    let (status, told) = ends(sandbox.repoguard(["exec", "--", "true"]), "recovery");
    assert_eq!(status, 0, "{told}");
    before.assert_same(&sandbox.state(), &told);
}

#[test]
fn submodule_whose_git_waits_for_a_fifo_fails_the_mutation() {
    if !cfg!(target_os = "linux") {
        return skip("a submodule's git that waits for a FIFO", "only Linux shows where a process waits");
    }
    let sandbox = furnished();
    let script = "git init -q sub && git -C sub commit -q --allow-empty -m s && git add sub && git commit -q -m sub";
    sandbox.sh(script).assert().success();
    fifo(&sandbox.path("sub/.gitignore"));
    let (status, told) = ends(sandbox.repoguard(["mutate", "-m", "m", "--", "touch", "new"]), "submodule");
    assert!(status == 125 && told.contains("waits for a FIFO"), "{status}: {told}");
}

#[test]
fn fifo_made_by_the_command_is_put_back_with_the_rest() {
    // Git reads the rules where there is something that may be ignored.
    for (name, beside, expected) in [
        (".gitignore", "echo n >n", "FIFO"),
        (".gitignore", "true", "neither files nor links"),
        ("d/.gitattributes", "true", "FIFO"),
    ] {
        let sandbox = furnished();
        let before = sandbox.state();
        let script = format!("echo 2 >file; rm -f {name}; mkfifo {name}; {beside}");
        let (status, told) = ends(sandbox.repoguard(["mutate", "-m", "m", "--", "sh", "-c", &script]), name);
        assert!(status != 0 && told.contains(expected), "{name}: {status}: {told}");
        before.assert_same(&sandbox.state(), &told);
    }
}

#[test]
fn fifo_above_a_directory_that_is_no_repository_is_an_error() {
    let sandbox = Sandbox::empty();
    let inner = sandbox.path("a/b");
    fs::create_dir_all(inner.join(".git")).unwrap();
    // Gix takes this for no repository, and goes on above.
    fs::write(inner.join(".git/HEAD"), "garbage").unwrap();
    assert!(Command::new("mkfifo").arg(sandbox.path("a/.git")).status().unwrap().success());
    symlink(&inner, sandbox.outside("link")).unwrap();
    for place in [inner.clone(), sandbox.outside("link")] {
        for args in [&["status"][..], &["exec", "-n", "--", "true"]] {
            let mut command = sandbox.repoguard(args);
            command.current_dir(&place);
            let (status, told) = ends(command, "above");
            assert!(status == 125 && told.contains("is a FIFO"), "{args:?}: {status}: {told}");
        }
    }
    // A repository that is nearer needs none of what is above.
    fs::remove_dir_all(inner.join(".git")).unwrap();
    sandbox.git(["init", "-q", inner.to_str().unwrap()]);
    let mut command = sandbox.repoguard(["exec", "-n", "--", "true"]);
    command.current_dir(&inner);
    assert_eq!(ends(command, "nearer").0, 0);
}

/// Takes a lease on files, and gives each back a while after somebody wants to open one.
const LEASE: &str = "import fcntl, os, signal, sys, time
files = [os.open(path, os.O_RDWR) for path in sys.argv[1:]]
def give_back(*_):
    time.sleep(0.2)
    for file in files:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
signal.signal(signal.SIGIO, give_back)
for file in files:
    fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print('ready', flush=True)
time.sleep(60)";

#[test]
fn file_under_a_lease_is_read_once_its_holder_gives_it_back() {
    if !cfg!(target_os = "linux") || !has_program("python3") {
        return skip("a file under a lease", "needs Linux and python3");
    }
    let sandbox = Sandbox::new();
    sandbox.repoguard(["exec", "--", "true"]).assert().success();
    for name in ["config", "HEAD", "repoguard.lock", "repoguard/log.jsonl"] {
        let path = sandbox.path(".git").join(name);
        let mut holder = Command::new("python3");
        holder.args(["-c", LEASE]).arg(&path).stdout(std::process::Stdio::piped());
        let mut holder = holder.spawn().unwrap();
        let mut line = [0; 6];
        std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut line).unwrap();
        let (status, told) = ends(sandbox.repoguard(["exec", "-n", "--", "true"]), name);
        holder.kill().unwrap();
        holder.wait().unwrap();
        assert_eq!((status, told.as_str()), (0, ""), "{name}");
    }
}

#[test]
fn file_of_a_commit_that_is_a_fifo_or_without_end_is_refused_before_anything_is_done() {
    let mutate = &["mutate", "-m", "m", "--", "sh", "-c", "echo 2 >file"][..];
    let next = &["next", "ids", "--scan", "d/{}"][..];
    let blocks: [(&str, &[&[&str]]); 3] = [
        (".git/COMMIT_EDITMSG", &[mutate]),
        (".git/logs/refs/heads/main", &[mutate]),
        (".git/refs/tags/odd", &[mutate, next]),
    ];
    let endless: [(&str, &[&[&str]]); 5] = [
        (".git/refs/heads/big", &[mutate, next]),
        (".git/packed-refs", &[mutate, next]),
        (".git/index", &[mutate]),
        (".git/objects/info/alternates", &[mutate]),
        (".git/logs/refs/heads/main", &[mutate]),
    ];
    for (is_fifo, cases) in [(true, &blocks[..]), (false, &endless[..])] {
        for (name, commands) in cases {
            let sandbox = furnished();
            sandbox.git(["branch", "-M", "main"]);
            let path = sandbox.path(name);
            if is_fifo {
                fifo(&path);
            } else {
                let file = fs::OpenOptions::new().write(true).create(true).truncate(false).open(&path).unwrap();
                file.set_len(60 << 30).unwrap();
            }
            for command in *commands {
                let (status, told) = ends(sandbox.repoguard(*command), name);
                assert_eq!(status, 125, "{name}: {told}");
                assert!(told.contains("is a FIFO") || told.contains("it has more than"), "{name}: {told}");
            }
            for command in [&["status"][..], &["exec", "-n", "--", "true"]] {
                let (status, told) = ends(sandbox.repoguard(command), name);
                assert_eq!(status, 0, "{name}: {told}");
            }
        }
    }
}

#[test]
fn mutation_waits_for_gits_lock_of_head_and_branch_and_then_is_busy() {
    for name in [".git/HEAD.lock", ".git/refs/heads/main.lock", ".git/index.lock"] {
        for fence in [&[][..], &["--fence"]] {
            let sandbox = furnished();
            sandbox.git(["branch", "-M", "main"]);
            fs::write(sandbox.path(name), "").unwrap();
            let mutate = |limit: &str| {
                let mut command = sandbox.repoguard_command(["mutate", "-m", "m", "-w", limit]);
                command.args(fence).args(["--", "sh", "-c", "echo 2 >file"]);
                command
            };
            let (status, told) = ends(assert_cmd::Command::from_std(mutate("0.5")), name);
            assert_eq!(status, 75, "{name} {fence:?}: {told}");
            assert!(told.contains("git's own lock") && told.contains("hint: "), "{name} {fence:?}: {told}");
            let mut waits = sandbox.start(mutate("60"));
            eventually("it waits", || waits.stderr().contains("waiting for git's own lock"));
            fs::remove_file(sandbox.path(name)).unwrap();
            assert!(waits.ended().success(), "{name} {fence:?}: {}", waits.stderr());
        }
    }
}
