//! `repoguard mutate` where writing fails: a full disk in each step, errors at each system call that writes, places that
//! cannot be written or read, and a repository on two file systems.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Output;

use crate::mutate::furnished;
use crate::support::{
    Mount, RepoState, Sandbox, Side, Traced, User, Workload, can_trace, chosen, failing_removal, is_root, removals,
    shell_status, skip, tampered, to_the_end, walk, writing_calls,
};

const FURNISH: &str = "set -e; mkdir -p d/e other; echo a >d/a; echo b >d/e/b; echo o >other/o; ln -s d/a link; \
    echo '*.log' >.gitignore; git add -A; git commit -qm furnished; echo mine >mine; chmod 600 mine";

const CHANGE: &str = "set -e; echo x >>file; rm -r d/e; ln -sfn other link; mkdir -p n/m; echo n >n/m/n; mv other/o moved; \
    chmod 755 file; git add moved";

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What git could not remove, and said so, its user removes.
fn remove_what_git_could_not(told: &str) {
    for line in told.lines() {
        let Some(path) = line.split_once("unable to unlink '").and_then(|(_, rest)| rest.split_once('\'')) else {
            continue;
        };
        fs::remove_file(path.0).ok();
    }
}

/// Lets each writing system call fail, once or from then on: what is left must be whole, or be made whole by the next
/// command, and a success must be one.
pub(crate) fn fails_at_every_call(workload: &Workload, traced: Traced, many: usize) {
    if !can_trace("a mutation that fails at every system call") {
        return;
    }
    let sandbox = workload.sandbox();
    let calls = writing_calls(&sandbox, &workload.command(&sandbox), traced);
    let mut wrong = Vec::new();
    let mut failures = 0;
    for (turn, call) in chosen(&calls, many).into_iter().enumerate() {
        let error = if turn.is_multiple_of(3) { "error=EIO" } else { "error=ENOSPC" };
        let sandbox = workload.sandbox();
        let output = tampered(&sandbox, &workload.command(&sandbox), traced, &call, error);
        let (status, told) = (shell_status(output.status), told(&output));
        failures += usize::from(status != 0);
        let mut complain = |what: String| wrong.push(format!("{error} at {call:?}: status {status}: {told}\n{what}"));
        if told.contains("panicked") {
            complain("a panic".to_owned());
        }
        if traced == Traced::Itself && status != 0 && told.trim().is_empty() && call.name != "write" {
            complain("not a word".to_owned());
        }
        remove_what_git_could_not(&told);
        let at_once = workload.side(&sandbox);
        if let Err(what) = &at_once
            && sandbox.status()["unfinished"].is_null()
        {
            complain(format!("not whole, and forgotten: {what}"));
        }
        match workload.recovered(&sandbox, turn) {
            Ok(Side::Before) if status == 0 => complain("a success that was none".to_owned()),
            Ok(_) => {}
            Err(what) => complain(what),
        }
    }
    assert!(wrong.is_empty(), "{} were wrong:\n{}", wrong.len(), wrong[..wrong.len().min(4)].join("\n---\n"));
    assert!(failures > 2, "only {failures} failed at all");
}

#[test]
fn error_at_every_call_of_a_success() {
    fails_at_every_call(&Workload::new(FURNISH, &["--verify", "true"], CHANGE, 0), Traced::Itself, 20);
}

#[test]
fn error_at_every_call_under_the_fence() {
    fails_at_every_call(&Workload::new(FURNISH, &["--fence"], CHANGE, 0), Traced::Itself, 14);
}

#[test]
fn error_at_every_call_beside_own_changes() {
    let dirty = format!("{FURNISH}; echo s >>.gitignore; git add .gitignore; echo u >>.gitignore");
    fails_at_every_call(&Workload::new(&dirty, &["--allow-dirty"], CHANGE, 0), Traced::Itself, 12);
}

#[test]
fn error_at_every_call_of_a_rollback() {
    fails_at_every_call(&Workload::new(FURNISH, &[], &format!("{CHANGE}; rm -rf mine; exit 3"), 3), Traced::Itself, 20);
}

#[test]
fn directory_that_cannot_be_removed_is_no_success() {
    if !can_trace("a directory that cannot be removed") {
        return;
    }
    let workload = Workload::new(FURNISH, &[], &format!("{CHANGE}; exit 3"), 3);
    let sandbox = workload.sandbox();
    let names = ["n", "m"];
    let calls = removals(&sandbox, &workload.command(&sandbox), &names);
    assert!(!calls.is_empty(), "it removes directories");
    for call in calls {
        let fail = || {
            let sandbox = workload.sandbox();
            let output = failing_removal(&sandbox, &workload.command(&sandbox), &names, &call)?;
            Some((sandbox, told(&output)))
        };
        let hit = (0..20).find_map(|_| fail());
        let (sandbox, told) = hit.expect("a run in which the call is the one that is meant");
        assert!(told.contains("cannot remove") && !sandbox.status()["unfinished"].is_null(), "{told}");
        assert_eq!(workload.recovered(&sandbox, call.number), Ok(Side::Before), "{told}");
    }
}

#[test]
fn error_at_every_call_of_git() {
    fails_at_every_call(&Workload::new(FURNISH, &[], CHANGE, 0), Traced::All, 12);
}

#[test]
fn object_that_git_could_not_write_is_no_success() {
    for options in [&[][..], &["--no-commit"], &["--fence"], &["--dry-run"]] {
        let sandbox = furnished();
        let id = sandbox.sh("echo precious | git hash-object --stdin").output().unwrap().stdout;
        let id = String::from_utf8(id).unwrap();
        let before = sandbox.state();
        // Where its directory would be is a file.
        fs::write(sandbox.path(format!(".git/objects/{}", &id[..2])), "").unwrap();
        let output = sandbox.mutate(options, "echo precious >new; echo x >>file").output().unwrap();
        assert_ne!(output.status.code(), Some(0), "{options:?}: {}", told(&output));
        before.assert_same(&sandbox.state(), &told(&output));
        sandbox.assert_no_traces();
    }
}

/// A small file system with a repository on it, and something that can be removed to make room.
struct Small {
    // Unmounted before its directory is removed.
    mount: Mount,
    sandbox: Sandbox,
}

impl Small {
    /// None where nothing can be mounted.
    fn new(options: &str) -> Option<Self> {
        let sandbox = Sandbox::empty();
        let mount = Mount::at(sandbox.here().to_owned(), options)?;
        sandbox.git(["init", "-q", "-b", "main", "--template="]);
        sandbox.sh(&format!("echo first >file; mkdir .git/info; {FURNISH}")).assert().success();
        Some(Self { mount, sandbox })
    }

    /// Makes room.
    fn room(&self) {
        self.sandbox.sh("rm -f ballast.log full.log; rm -rf inodes.log").assert().success();
    }
}

/// Fills all blocks, or all inodes, with what git ignores.
const FILL: [(&str, &str); 2] = [
    ("size=6m", "cat /dev/zero >full.log 2>/dev/null; :"),
    (
        "size=64m,nr_inodes=400",
        "mkdir -p inodes.log; i=0; while { echo >inodes.log/$i; } 2>/dev/null; do i=$((i+1)); done; :",
    ),
];

/// After a full disk: before or after at once, or as soon as there is room.
#[track_caller]
fn whole_when_there_is_room(small: &Small, before: &RepoState, output: &Output, what: &str) {
    let sandbox = &small.sandbox;
    let told = told(output);
    assert!(!told.contains("panicked"), "{what}: {told}");
    let status = output.status.code().unwrap_or_else(|| panic!("{what}: {told}"));
    let unfinished = !sandbox.status()["unfinished"].is_null();
    if status == 0 {
        assert_eq!(sandbox.git(["log", "-1", "--format=%s"]), "change\n", "{what}: {told}");
    } else {
        assert!(told.contains("No space left") || told.contains("repoguard: c"), "{what}: {status}: {told}");
        assert!(
            unfinished || before.difference(&sandbox.state()).is_none(),
            "{what}: not whole, and forgotten: {told}"
        );
    }
    // Who comes while the disk is full is let in only when all is whole.
    let next = sandbox.repoguard(["exec", "--", "true"]).output().unwrap();
    assert!(!told.contains("panicked"), "{what}: {}", self::told(&next));
    assert!(!next.status.success() || sandbox.status()["unfinished"].is_null(), "{what}: {}", self::told(&next));
    small.room();
    let next = sandbox.repoguard(["exec", "--", "true"]).output().unwrap();
    assert!(next.status.success(), "{what}: {told}\nthen {}", self::told(&next));
    if status == 0 {
        assert_eq!(sandbox.short_status(), ["?? mine"], "{what}: {told}");
    } else {
        before.assert_same(&sandbox.state(), &format!("{what}: {told}\nthen {}", self::told(&next)));
    }
    sandbox.assert_no_traces();
    sandbox.git(["fsck", "--strict", "--no-dangling"]);
}

#[test]
fn disk_that_is_full_in_a_step_leaves_all_or_nothing() {
    for (options, fill) in FILL {
        for step in ["before", "check", "command", "verify", "pre-commit", "post-commit"] {
            for failing in [false, true] {
                let Some(small) = Small::new(options) else { return skip("a full disk", "cannot mount a tmpfs") };
                let sandbox = &small.sandbox;
                let before = sandbox.state();
                let end = if failing { "exit 3" } else { ":" };
                let mut script = format!("{CHANGE}; {end}");
                let mut arguments: Vec<&str> = Vec::new();
                match step {
                    "before" => drop(sandbox.sh(fill).assert().success()),
                    "check" => arguments = vec!["--check", fill],
                    "command" => script = format!("{CHANGE}; {fill} {end}"),
                    "verify" => arguments = vec!["--verify", fill],
                    hook => {
                        fs::create_dir_all(sandbox.path(".git/hooks")).unwrap();
                        sandbox.own_hook(hook, fill);
                    }
                }
                let output = sandbox.mutate(&arguments, &script).output().unwrap();
                let what = format!("{options}, full in {step}, failing {failing}");
                whole_when_there_is_room(&small, &before, &output, &what);
            }
        }
    }
}

#[test]
fn command_that_fills_the_disk_itself_is_undone() {
    let Some(small) = Small::new("size=6m") else { return skip("a full disk", "cannot mount a tmpfs") };
    let sandbox = &small.sandbox;
    sandbox.sh("head -c 1000000 /dev/zero >ballast.log").assert().success();
    let before = sandbox.state();
    let output = sandbox.mutate(&[], &format!("{CHANGE}; cat /dev/zero >big")).output().unwrap();
    assert_ne!(output.status.code(), Some(0));
    whole_when_there_is_room(&small, &before, &output, "a command that fills the disk");
}

#[test]
fn git_directory_that_cannot_be_written_is_refused_before_anything_happens() {
    if !is_root() {
        return skip("a read-only git directory", "needs root");
    }
    let sandbox = furnished();
    User::Ordinary.owns(&sandbox);
    for path in walk(&sandbox.path(".git")) {
        let mode = fs::symlink_metadata(&path).unwrap().permissions().mode();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode & !0o222)).unwrap();
    }
    let before = sandbox.state();
    for options in [&[][..], &["--fence"], &["--no-commit"], &["--allow-dirty"]] {
        let mut command = sandbox.mutate_command(options, "touch \"$SANDBOX/ran\"");
        User::Ordinary.runs(&mut command);
        sandbox.assert_refused(to_the_end(command), 125);
        before.assert_same(&sandbox.state(), "a read-only git directory");
    }
}

#[test]
fn file_system_that_cannot_be_written_is_refused_before_anything_happens() {
    let Some(small) = Small::new("size=6m") else { return skip("a read-only file system", "cannot mount a tmpfs") };
    let sandbox = &small.sandbox;
    let before = sandbox.state();
    small.mount.remount("ro");
    let told = sandbox.assert_refused(sandbox.mutate(&[], "touch \"$SANDBOX/ran\""), 125);
    assert!(told.contains("ead-only"), "{told}");
    before.assert_same(&sandbox.state(), &told);
    small.mount.remount("rw");
    sandbox.commits(&[], CHANGE);
}

#[test]
fn what_cannot_be_read_is_refused_before_anything_happens() {
    if !is_root() {
        return skip("unreadable files", "needs root, to be somebody else");
    }
    for (make, named) in
        [("echo secret >secret; chmod 0 secret", "secret"), ("chmod 0 d/a; git update-index -q --refresh; :", "d/a")]
    {
        let sandbox = furnished();
        sandbox.sh(make).assert().success();
        User::Ordinary.owns(&sandbox);
        let before = sandbox.state();
        let mut command = sandbox.mutate_command(&[], "touch \"$SANDBOX/ran\"; echo x >>file");
        User::Ordinary.runs(&mut command);
        let output = to_the_end(command).output().unwrap();
        let told = told(&output);
        assert!([65, 125].contains(&output.status.code().unwrap()), "{make}: {told}");
        assert!(told.contains(named) && !told.contains("panicked"), "{make}: {told}");
        assert!(!sandbox.outside("ran").exists(), "{make}: {told}");
        before.assert_same(&sandbox.state(), &told);
    }
}

/// What a mutation does on both sides of the border.
const ACROSS: &str = "set -e; echo x >>file; echo x >>d/a; rm d/e/b; mkdir -p d/n; echo n >d/n/n; ln -s nowhere d/n/l; \
    mv other/o d/o; chmod 755 d/a; echo n >new; echo changed >d/own";

/// Success, failure, and death, then recovery: on a repository that lies on two file systems.
#[track_caller]
fn works_on(sandbox: &Sandbox, what: &str) {
    let fails = format!("{ACROSS}; mkfifo d/n/f; chmod 0 d/n/n d/n; rm -rf mine; exit 3");
    let before = sandbox.state();
    for options in [&[][..], &["--fence"]] {
        let output = sandbox.mutate(options, &fails).output().unwrap();
        before.assert_same(&sandbox.state(), &format!("{what}: {}", told(&output)));
        assert_eq!(output.status.code(), Some(3), "{what}: {}", told(&output));
    }
    sandbox.killed_at(crate::support::At::Command, &[], ACROSS);
    let next = sandbox.repoguard(["exec", "--", "true"]).output().unwrap();
    assert!(next.status.success(), "{what}: {}", told(&next));
    before.assert_same(&sandbox.state(), &format!("{what}: {}", told(&next)));
    let kept = sandbox.snapshots();
    let id = kept[0]["id"].as_str().expect("an id").to_owned();
    sandbox.repoguard(["restore", &id, "d/n/n"]).assert().success();
    assert_eq!(fs::read_to_string(sandbox.path("d/n/n")).unwrap(), "n\n");
    fs::remove_dir_all(sandbox.path("d/n")).unwrap();
    sandbox.commits(&[], &ACROSS.replace("; echo changed >d/own", ""));
    assert_eq!(sandbox.short_status(), ["?? d/own", "?? mine"], "{what}");
}

#[test]
fn part_of_the_worktree_may_be_another_file_system() {
    let sandbox = furnished();
    let place = sandbox.path("d");
    let Some(_mount) = Mount::at(place, "size=4m") else {
        return skip("a directory on another file system", "cannot mount a tmpfs");
    };
    sandbox.sh("set -e; git checkout -q -- d; chmod 755 d; echo mine >mine; echo own >d/own").assert().success();
    works_on(&sandbox, "a mounted directory");
}

#[test]
fn git_directory_may_be_on_another_file_system() {
    for separate in [false, true] {
        let sandbox = Sandbox::empty();
        let place = if separate { sandbox.outside("gits") } else { sandbox.path(".git") };
        fs::create_dir_all(&place).unwrap();
        let Some(_mount) = Mount::at(place.clone(), "size=16m") else {
            return skip("a git directory on another file system", "cannot mount a tmpfs");
        };
        if separate {
            let git_dir = place.join("repo.git");
            sandbox.git(["init", "-q", "-b", "main", "--separate-git-dir", git_dir.to_str().unwrap()]);
        } else {
            sandbox.git(["init", "-q", "-b", "main"]);
        }
        sandbox.sh(&format!("echo first >file; {FURNISH}; echo own >d/own")).assert().success();
        if separate {
            works_apart(&sandbox, &place.join("repo.git"));
        } else {
            works_on(&sandbox, "a mounted .git");
        }
    }
}

/// The same where `.git` is a file, and what is left over lies elsewhere.
fn works_apart(sandbox: &Sandbox, git_dir: &Path) {
    let before = sandbox.state();
    let output = sandbox.mutate(&[], &format!("{ACROSS}; git add -A; git commit -qm x; exit 3")).output().unwrap();
    before.assert_same(&sandbox.state(), &told(&output));
    assert_eq!(output.status.code(), Some(3), "{}", told(&output));
    let output = sandbox.mutate(&[], &ACROSS.replace("; echo changed >d/own", "")).output().unwrap();
    assert!(output.status.success(), "{}", told(&output));
    assert_eq!(sandbox.short_status(), ["?? d/own", "?? mine"]);
    assert_eq!(crate::support::traces(git_dir), [""; 0]);
}
