//! Worktree, repository and names: who conflicts with whom, and where the lock of each place lives.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use crate::support::{Running, Sandbox, has_program, is_root, skip, to_the_end};

/// A request, from the main worktree or from a linked one.
struct Request {
    what: &'static str,
    linked: bool,
    options: &'static [&'static str],
    /// What it takes: the resource and whether shared.
    takes: &'static [(&'static str, bool)],
}

const REQUESTS: &[Request] = &[
    Request { what: "main", linked: false, options: &[], takes: &[("main", false)] },
    Request { what: "main shared", linked: false, options: &["-s"], takes: &[("main", true)] },
    Request { what: "linked", linked: true, options: &["--scope", "worktree"], takes: &[("linked", false)] },
    Request { what: "linked shared", linked: true, options: &["-s"], takes: &[("linked", true)] },
    Request { what: "repo", linked: false, options: &["--scope", "repo"], takes: &[("everything", false)] },
    Request { what: "repo from linked", linked: true, options: &["--scope", "repo"], takes: &[("everything", false)] },
    Request { what: "name a", linked: false, options: &["--name", "a"], takes: &[("name a", false)] },
    Request { what: "name a shared", linked: true, options: &["-s", "--name", "a"], takes: &[("name a", true)] },
    Request {
        what: "names a, b",
        linked: true,
        options: &["--name", "b", "--name", "a"],
        takes: &[("name a", false), ("name b", false)],
    },
    Request {
        what: "main and name b",
        linked: false,
        options: &["--scope", "worktree", "--name", "b"],
        takes: &[("main", false), ("name b", false)],
    },
];

fn conflict(one: &Request, other: &Request) -> bool {
    let clash = |(a, a_shared): &(&str, bool), (b, b_shared): &(&str, bool)| {
        let same = a == b || *a == "everything" || *b == "everything";
        same && !(*a_shared && *b_shared)
    };
    one.takes.iter().any(|a| other.takes.iter().any(|b| clash(a, b)))
}

#[test]
fn every_pair_of_requests_conflicts_as_documented() {
    let sandbox = Sandbox::new();
    let linked = sandbox.worktree("linked");
    let place = |request: &Request| if request.linked { linked.as_path() } else { sandbox.here() };
    for holder in REQUESTS {
        let mut running = hold_in(&sandbox, place(holder), holder.options);
        for other in REQUESTS {
            let expected = if conflict(holder, other) { 75 } else { 0 };
            let status = sandbox.try_once_in(place(other), other.options);
            assert_eq!(status, expected, "`{}` beside `{}`", other.what, holder.what);
        }
        running.finish();
    }
}

fn hold_in(sandbox: &Sandbox, place: &Path, options: &[&str]) -> Running {
    let mut command = sandbox.repoguard_command(["exec"]);
    command.args(options).args(["--", "sh", "-c", crate::support::HOLD]).current_dir(place);
    sandbox.start_up(command)
}

#[test]
fn each_worktree_has_its_lock_in_its_own_git_directory() {
    if !has_program("flock") {
        return skip("lock files of worktrees", "no flock(1)");
    }
    let sandbox = Sandbox::new();
    let linked = sandbox.worktree("linked");
    let main_lock = sandbox.lock_file();
    let linked_lock = sandbox.path(".git/worktrees/linked/repoguard.lock");
    let free = |lock: &Path| {
        let mut flock = to_the_end(sandbox.command("flock"));
        flock.arg("-n").arg(lock).arg("true").output().unwrap().status.success()
    };
    let mut holder = hold_in(&sandbox, &linked, &[]);
    assert!(linked_lock.is_file());
    assert!(!free(&linked_lock) && free(&main_lock));
    holder.finish();
    let mut holder = hold_in(&sandbox, &linked, &["--scope", "repo"]);
    assert!(!free(&linked_lock) && !free(&main_lock), "repo takes every worktree's lock as well");
    holder.finish();
    assert!(free(&linked_lock) && free(&main_lock));
}

#[test]
fn names_are_taken_all_or_none() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold(&["--name", "b"]);
    sandbox.refused(&["--name", "a", "--name", "b", "-w", "0.3"], 75);
    assert_eq!(sandbox.try_once(&["--name", "a"]), 0, "nothing of the failed request is kept");
}

#[test]
fn names_given_in_any_order_never_deadlock() {
    let sandbox = Sandbox::new();
    let orders = ["--name a --name b --name c", "--name c --name a --name b", "--name b --name b --name a"];
    let mut loops: Vec<Running> = orders
        .map(|names| {
            let mut command = sandbox.command("sh");
            let body = format!("for i in 1 2 3 4 5 6 7 8; do repoguard exec {names} -- true || exit 1; done");
            command.args(["-c", &body]);
            sandbox.start(command)
        })
        .into();
    for each in &mut loops {
        assert!(each.ended().success(), "{}", each.stderr());
    }
}

#[test]
fn names_may_be_any_text_and_stay_in_our_directory() {
    let sandbox = Sandbox::new();
    let long = "n".repeat(1000);
    for name in ["../../../escape", "/etc/passwd", "with space", "\u{fc}ml\u{e4}ut", ".", "-n", &long] {
        let option = format!("--name={name}");
        let mut holder = sandbox.hold(&[&option]);
        assert_eq!(sandbox.try_once(&[&option]), 75, "{name}");
        assert_eq!(sandbox.try_once(&["--name", "other"]), 0, "{name}");
        holder.finish();
    }
    assert!(!sandbox.outside("escape").exists());
    assert_eq!(sandbox.git(["status", "--porcelain", "--ignored"]), "");
}

#[test]
fn subdirectory_symlink_and_environment_find_the_same_lock() {
    let sandbox = Sandbox::new();
    fs::create_dir_all(sandbox.path("a/b/c")).unwrap();
    std::os::unix::fs::symlink(sandbox.here(), sandbox.outside("link")).unwrap();
    std::os::unix::fs::symlink(sandbox.path("a/b"), sandbox.outside("deep")).unwrap();
    let _holder = sandbox.hold(&[]);
    for place in [sandbox.path("a/b/c"), sandbox.path(".git"), sandbox.outside("link"), sandbox.outside("deep")] {
        assert_eq!(sandbox.try_once_in(&place, &[]), 75, "{}", place.display());
    }
    let mut by_environment = sandbox.repoguard(["exec", "-n", "--", "true"]);
    by_environment.current_dir("/").env("GIT_DIR", sandbox.path(".git"));
    by_environment.env("GIT_WORK_TREE", sandbox.here()).assert().code(75);
    let mut only_git_dir = sandbox.repoguard(["exec", "-n", "--", "true"]);
    only_git_dir.env("GIT_DIR", ".git").assert().code(75);
}

#[test]
fn git_directory_may_be_a_symlink_or_lie_elsewhere() {
    let sandbox = Sandbox::empty();
    let elsewhere = sandbox.outside("store.git");
    sandbox.git(["init", "-q", "--separate-git-dir", elsewhere.to_str().unwrap()]);
    assert!(sandbox.path(".git").is_file());
    assert_eq!(sandbox.try_once(&[]), 0);
    assert!(elsewhere.join("repoguard.lock").is_file());

    fs::remove_file(sandbox.path(".git")).unwrap();
    std::os::unix::fs::symlink(&elsewhere, sandbox.path(".git")).unwrap();
    let _holder = sandbox.hold(&[]);
    assert_eq!(sandbox.try_once(&[]), 75);
    assert_eq!(sandbox.try_once_in(&elsewhere, &[]), 75);
}

#[test]
fn bare_repository_is_locked_in_itself() {
    let sandbox = Sandbox::new();
    let bare = sandbox.outside("bare.git");
    sandbox.git(["clone", "-q", "--bare", ".", bare.to_str().unwrap()]);
    let mut holder = hold_in(&sandbox, &bare, &[]);
    assert!(bare.join("repoguard.lock").is_file());
    assert_eq!(sandbox.try_once_in(&bare.join("refs"), &[]), 75);
    assert_eq!(sandbox.try_once_in(&bare, &["--scope", "repo"]), 75);
    assert_eq!(sandbox.try_once(&[]), 0, "another repository");
    holder.finish();
}

#[test]
fn submodule_has_a_lock_of_its_own() {
    let sandbox = Sandbox::new();
    let library = sandbox.outside("library");
    sandbox.git(["clone", "-q", ".", library.to_str().unwrap()]);
    let add = ["-c", "protocol.file.allow=always", "submodule", "--quiet", "add"];
    sandbox.git(add.into_iter().chain([library.to_str().unwrap(), "sub"]));
    let sub = sandbox.path("sub");
    let mut holder = hold_in(&sandbox, &sub, &[]);
    assert!(sandbox.path(".git/modules/sub/repoguard.lock").is_file());
    assert_eq!(sandbox.try_once_in(&sub, &[]), 75);
    assert_eq!(sandbox.try_once(&[]), 0);
    holder.finish();
}

#[test]
fn unborn_branch_and_detached_head_are_fine() {
    let sandbox = Sandbox::empty();
    sandbox.git(["init", "-q"]);
    assert_eq!(sandbox.try_once(&[]), 0);
    let other = Sandbox::new();
    other.git(["checkout", "-q", "--detach"]);
    assert_eq!(other.try_once(&[]), 0);
}

#[test]
fn outside_of_any_repository_the_directory_has_the_lock() {
    let sandbox = Sandbox::empty();
    let other = sandbox.outside("other");
    fs::create_dir(&other).unwrap();
    let _holder = sandbox.hold(&[]);
    assert!(sandbox.path(".repoguard.lock").is_file());
    assert_eq!(sandbox.try_once(&[]), 75);
    assert_eq!(sandbox.try_once(&["-s"]), 75);
    assert_eq!(sandbox.try_once_in(&other, &[]), 0);
    let mut from_afar = sandbox.repoguard(["-C"]);
    from_afar.arg(sandbox.here()).args(["exec", "-n", "--", "true"]).current_dir(&other);
    from_afar.assert().code(75);
}

#[test]
fn ceiling_directories_end_the_search() {
    let sandbox = Sandbox::new();
    let sub = sandbox.path("sub");
    fs::create_dir(&sub).unwrap();
    let mut exec = sandbox.repoguard(["exec", "--", "true"]);
    exec.current_dir(&sub).env("GIT_CEILING_DIRECTORIES", sandbox.here()).assert().success();
    assert!(sub.join(".repoguard.lock").is_file());
    assert!(!sandbox.lock_file().exists());
}

#[test]
fn git_file_that_points_nowhere_is_an_error() {
    let sandbox = Sandbox::empty();
    fs::write(sandbox.path(".git"), "gitdir: /no/such/directory\n").unwrap();
    let told = sandbox.refused(&[], 125);
    assert!(told.contains("/no/such/directory") || told.contains(".git"), "{told}");
    fs::write(sandbox.path(".git"), "not a git file at all\n").unwrap();
    sandbox.refused(&[], 125);
    assert!(!sandbox.path(".repoguard.lock").exists());
}

#[test]
fn corrupt_config_is_an_error_that_names_the_file() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path(".git/config"), "[core\n\tbare = ").unwrap();
    let told = sandbox.refused(&[], 125);
    assert!(told.contains("config"), "{told}");
}

#[test]
fn paths_need_not_be_utf_8() {
    let sandbox = Sandbox::named(OsStr::from_bytes(b"caf\xe9 \xff\xfe"));
    sandbox.git(["init", "-q"]);
    sandbox.git(["commit", "-q", "--allow-empty", "-m", "first"]);
    let linked = sandbox.outside(OsStr::from_bytes(b"linked \xf0"));
    sandbox.git([
        OsStr::new("worktree"),
        "add".as_ref(),
        "-q".as_ref(),
        "-b".as_ref(),
        "other".as_ref(),
        linked.as_os_str(),
    ]);
    for place in [sandbox.here(), &linked] {
        let mut holder = hold_in(&sandbox, place, &[]);
        assert_eq!(sandbox.try_once_in(place, &[]), 75);
        assert_eq!(sandbox.try_once(&["--scope", "repo"]), 75);
        holder.finish();
    }
    sandbox.repoguard(["status"]).assert().success();
    sandbox.status();
}

#[test]
fn git_removes_a_worktree_that_was_guarded() {
    let sandbox = Sandbox::new();
    let linked = sandbox.worktree("linked");
    assert_eq!(sandbox.try_once_in(&linked, &[]), 0);
    sandbox.git(["worktree", "remove", linked.to_str().unwrap()]);
    assert_eq!(sandbox.try_once(&["--scope", "repo"]), 0);

    let gone = sandbox.worktree("gone");
    assert_eq!(sandbox.try_once_in(&gone, &[]), 0);
    fs::remove_dir_all(&gone).unwrap();
    assert_eq!(sandbox.try_once(&["--scope", "repo"]), 0, "its git directory is still there");
    sandbox.git(["worktree", "prune", "--expire=now"]);
    assert_eq!(sandbox.try_once(&["--scope", "repo"]), 0);
}

#[test]
fn lock_that_may_not_be_looked_at_is_not_passed_over() {
    if !is_root() || !has_program("setpriv") {
        return skip("locks that a user may not look at", "needs root, whom nothing is hidden from, and setpriv");
    }
    let sandbox = Sandbox::new();
    sandbox.open_to_all();
    sandbox.git(["worktree", "add", "-q", "../linked"]);
    sandbox.sh("repoguard -C ../linked exec -- true; chown -R 61033:61033 .").assert().success();
    let exec = |user: u32, options: &[&str]| {
        let mut command = sandbox.command("setpriv");
        command.args([&format!("--reuid={user}"), "--regid=61033", "--clear-groups", "env", "GIT_CONFIG_COUNT=1"]);
        command.args(["GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*", "repoguard", "exec", "-n"]);
        command.args(options).args(["--", "true"]).output().unwrap().status.code()
    };
    let everything = ["--scope", "repo"];
    for (place, mode) in [(".git/worktrees/linked", "000"), (".git/worktrees", "444")] {
        sandbox.sh(&format!("chmod {mode} {place}")).assert().success();
        assert_eq!((exec(61_033, &everything), exec(61_033, &[])), (Some(125), Some(0)), "{place}");
        sandbox.sh(&format!("chmod 755 {place}")).assert().success();
        assert_eq!(exec(61_033, &everything), Some(0), "{place}");
    }
    // Of a hold that began before there was a repository.
    sandbox
        .sh("git config core.sharedRepository 0666; chmod -R a+rwX .; touch .repoguard.lock; chmod 600 .repoguard.lock")
        .assert()
        .success();
    assert_eq!((exec(61_033, &[]), exec(61_034, &[])), (Some(125), Some(125)));
    sandbox.sh("chmod 666 .repoguard.lock").assert().success();
    assert_eq!(exec(61_034, &[]), Some(0));
}

#[test]
fn lock_that_is_no_file_is_not_free() {
    for make in ["mkdir", "mkfifo", "ln -s file"] {
        let sandbox = Sandbox::new();
        sandbox.sh(&format!("{make} .git/repoguard.lock")).assert().success();
        assert_eq!(sandbox.status()["state"], "cannot-tell", "{make}");
        sandbox.repoguard(["status", "--exit-code"]).assert().code(3);
        sandbox.refused(&[], 125);
    }
}
