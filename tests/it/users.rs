//! Several users: whose repository it is, and whose the files are that each leaves behind. Only root can try this.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::support::{HOLD, Sandbox, is_root, own, skip, to_the_end, walk};

const OWNER: u32 = 61_001;
const OTHER: u32 = 61_002;
const GROUP: u32 = 61_100;

/// The numeric pair of a user: `None` is root, who runs the tests.
type User = Option<u32>;

/// `repoguard ARGS`, or any program, as a user of the group, who trusts this repository when told to.
fn as_user(sandbox: &Sandbox, user: User, trusting: bool, program: &str, args: &[&str]) -> Command {
    let mut command = sandbox.command(program);
    command.args(args);
    if let Some(user) = user {
        command.uid(user).gid(GROUP);
    }
    if trusting {
        let config = sandbox.outside("trusting");
        // Once: who was started before may be reading it.
        if !config.exists() {
            fs::write(&config, format!("[safe]\n\tdirectory = {}\n", sandbox.here().display())).unwrap();
        }
        command.env("GIT_CONFIG_GLOBAL", config);
    }
    command
}

/// A sandbox whose repository belongs to `OWNER`; none without root, or where others cannot run the program.
fn owned_repository(what: &str) -> Option<Sandbox> {
    if !is_root() {
        skip(what, "needs root");
        return None;
    }
    let sandbox = Sandbox::new();
    sandbox.open_to_all();
    let runs = as_user(&sandbox, Some(OWNER), false, "repoguard", &["--version"]).output();
    if !runs.is_ok_and(|output| output.status.success()) {
        skip(what, "other users cannot run the program");
        return None;
    }
    own(sandbox.here(), OWNER, GROUP);
    Some(sandbox)
}

fn tries(sandbox: &Sandbox, user: User) -> i32 {
    let args = ["exec", "-n", "--", "true"];
    let output = to_the_end(as_user(sandbox, user, true, "repoguard", &args)).output().unwrap();
    output.status.code().expect("a status")
}

#[test]
fn repository_of_another_user_is_refused_but_can_be_looked_at() {
    let Some(sandbox) = owned_repository("another user's repository") else { return };
    let told = sandbox.refused(&[], 125);
    assert!(told.contains("git config --global --add safe.directory"), "{told}");
    sandbox.repoguard(["status"]).assert().success();
    sandbox.status();

    let mut holder = sandbox.start_up(as_user(
        &sandbox,
        Some(OWNER),
        false,
        "repoguard",
        &["exec", "--reason", "mine", "--", "sh", "-c", HOLD],
    ));
    assert!(sandbox.status().to_string().contains("mine"));
    sandbox.repoguard(["status", "--exit-code"]).assert().code(1);
    holder.finish();
    assert_eq!(tries(&sandbox, None), 0, "with safe.directory set it works");
}

#[test]
fn who_may_use_a_repository_is_what_git_says() {
    let Some(sandbox) = owned_repository("git's word on owners") else { return };
    // Below sudo, root may use what belongs to the user who called it.
    for (user, sudo) in
        [(None, None), (None, Some(OWNER)), (None, Some(OTHER)), (Some(OWNER), None), (Some(OTHER), None)]
    {
        for trusting in [false, true] {
            let run = |program: &str, args: &[&str]| {
                let mut command = as_user(&sandbox, user, trusting, program, args);
                command.envs(sudo.map(|user| ("SUDO_UID", user.to_string())));
                to_the_end(command).output().unwrap().status.success()
            };
            let git = run("git", &["rev-parse", "--git-dir"]);
            let ours = run("repoguard", &["exec", "--", "true"]);
            assert_eq!(ours, git, "user {user:?}, trusting {trusting}, sudo {sudo:?}");
        }
    }
}

#[test]
fn files_that_root_makes_belong_to_the_owner_of_the_git_directory() {
    let Some(sandbox) = owned_repository("files made by root") else { return };
    for options in [&[][..], &["--scope", "repo"], &["--name", "x"]] {
        let args = [&["exec"], options, &["--", "true"]].concat();
        to_the_end(as_user(&sandbox, None, true, "repoguard", &args)).assert().success();
    }
    let wrong: Vec<PathBuf> = walk(&sandbox.path(".git"))
        .into_iter()
        .filter(|path| fs::symlink_metadata(path).unwrap().uid() != OWNER)
        .collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    assert_eq!(tries(&sandbox, Some(OWNER)), 0, "the owner goes on as before");
    to_the_end(as_user(&sandbox, Some(OWNER), false, "repoguard", &["log", "--json"])).assert().success();
}

#[test]
fn two_users_share_lock_queue_and_log() {
    let Some(sandbox) = owned_repository("two users of one repository") else { return };
    sandbox.git(["-c", "safe.directory=*", "config", "-f", ".git/config", "core.sharedRepository", "group"]);
    for path in walk(&sandbox.path(".git")) {
        let mode = fs::metadata(&path).unwrap().mode();
        let group = if path.is_dir() { 0o2070 } else { 0o060 };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode | group)).unwrap();
    }
    let holds = |user: u32, umask: &str| {
        let script = format!("umask {umask}; exec repoguard exec --reason 'user {user}' -- sh -c '{HOLD}'");
        as_user(&sandbox, Some(user), true, "sh", &["-c", &script])
    };
    for (first, second) in [(OWNER, OTHER), (OTHER, OWNER)] {
        let mut holder = sandbox.start_up(holds(first, "077"));
        assert_eq!(tries(&sandbox, Some(second)), 75);
        let mut waiter = sandbox.start(holds(second, "022"));
        waiter.release();
        crate::support::eventually("the second queues", || {
            let status = to_the_end(as_user(&sandbox, Some(first), true, "repoguard", &["status", "--json"]));
            let mut status = status;
            let shown = status.output().unwrap().stdout;
            String::from_utf8_lossy(&shown).contains(&format!("user {second}"))
        });
        holder.finish();
        assert!(waiter.ended().success(), "{}", waiter.stderr());
    }
    let log = to_the_end(as_user(&sandbox, Some(OTHER), true, "repoguard", &["log", "--json"])).output().unwrap();
    let log = String::from_utf8(log.stdout).unwrap();
    for user in [OWNER, OTHER] {
        assert_eq!(log.matches(&format!("user {user}")).count(), 2, "{log}");
    }
    let unshared: Vec<PathBuf> = walk(&sandbox.data())
        .into_iter()
        .filter(|path| {
            let meta = fs::symlink_metadata(path).unwrap();
            meta.mode() & 0o060 != 0o060 || meta.gid() != GROUP
        })
        .collect();
    assert!(unshared.is_empty(), "all of it is the group\'s, whatever the umask: {unshared:?}");
    let lock = fs::metadata(sandbox.lock_file()).unwrap();
    assert_eq!((lock.mode() & 0o060, lock.gid()), (0o060, GROUP));
}

#[test]
fn member_restores_snapshots_of_the_owner_and_their_own_and_the_owner_none_of_members() {
    let Some(sandbox) = owned_repository("two users and their snapshots") else { return };
    sandbox.git(["-c", "safe.directory=*", "config", "-f", ".git/config", "core.sharedRepository", "group"]);
    let mut id = sandbox.snapshot(Duration::ZERO).file("file", "0", 0o644).finished();
    own(sandbox.here(), OWNER, GROUP);
    for path in walk(&sandbox.path(".git")).into_iter().chain(walk(&sandbox.path("file"))) {
        let mode = fs::metadata(&path).unwrap().mode();
        let group = if path.is_dir() { 0o2070 } else { 0o060 };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode | group)).unwrap();
    }
    for (user, before, after) in [(OTHER, "first\n", "0"), (OTHER, "0", "first\n"), (OTHER, "first\n", "0")] {
        assert_eq!(fs::read_to_string(sandbox.path("file")).unwrap(), before);
        let script = format!("umask 077; exec repoguard restore {id} --json");
        let output = to_the_end(as_user(&sandbox, Some(user), true, "sh", &["-c", &script])).assert().success();
        assert_eq!(fs::read_to_string(sandbox.path("file")).unwrap(), after);
        let shown: serde_json::Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
        id = shown["kept"].as_str().expect("what was replaced is kept").to_owned();
        let kept = fs::metadata(sandbox.data().join("snapshots").join(&id)).unwrap();
        assert_eq!((kept.mode() & 0o7777, kept.gid(), kept.uid()), (0o2770, GROUP, user));
    }
    // Whoever may write to the repository could have written anything there.
    let told = to_the_end(as_user(&sandbox, Some(OWNER), true, "repoguard", &["restore", &id])).assert().code(65);
    assert!(String::from_utf8_lossy(&told.get_output().stderr).contains(&OTHER.to_string()));
    assert_eq!(fs::read_to_string(sandbox.path("file")).unwrap(), "0");
}

#[test]
fn what_root_restores_belongs_to_whom_it_did() {
    let Some(sandbox) = owned_repository("files restored by root") else { return };
    let id = sandbox.snapshot(Duration::ZERO).file("file", "kept", 0o644).file("new/dir/file", "1", 0o644).finished();
    own(sandbox.here(), OWNER, GROUP);
    to_the_end(as_user(&sandbox, None, true, "repoguard", &["restore", &id])).assert().success();
    let wrong: Vec<PathBuf> =
        walk(sandbox.here()).into_iter().filter(|path| fs::symlink_metadata(path).unwrap().uid() != OWNER).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    to_the_end(as_user(&sandbox, Some(OWNER), false, "repoguard", &["snapshots", "--json"])).assert().success();
}

#[test]
fn trust_is_what_git_says_whoever_owns_which_part() {
    // Owners of the worktree, of its `.git`, and of the git directory that a `.git` file names.
    let all = [OWNER, OTHER];
    for (root, link, git_dir) in all.iter().flat_map(|a| all.iter().flat_map(|b| all.map(|c| (*a, *b, c)))) {
        let Some(sandbox) = owned_repository("owners of parts of a repository") else { return };
        let elsewhere = sandbox.outside("git");
        fs::rename(sandbox.path(".git"), &elsewhere).unwrap();
        fs::write(sandbox.path(".git"), format!("gitdir: {}\n", elsewhere.display())).unwrap();
        own(&elsewhere, git_dir, GROUP);
        let chown = |path: PathBuf, user| std::os::unix::fs::lchown(path, Some(user), None).unwrap();
        chown(sandbox.here().to_owned(), root);
        chown(sandbox.path(".git"), link);
        for trusting in [false, true] {
            let run = |program: &str, args: &[&str]| {
                to_the_end(as_user(&sandbox, Some(OWNER), trusting, program, args)).output().unwrap()
            };
            let git = run("git", &["rev-parse", "--git-dir"]).status.success();
            let who = format!("root {root}, link {link}, git directory {git_dir}, trusting {trusting}");
            // Where git works but another user's directory cannot be written, it is another error.
            let ours = run("repoguard", &["recover", "--timeout", "1"]);
            let told = String::from_utf8_lossy(&ours.stderr).into_owned();
            assert_eq!(told.contains("belongs to another user"), !git, "{who}: {told}");
            assert!(run("repoguard", &["status"]).status.success(), "{who}");
        }
    }
}

#[test]
fn nothing_of_the_owner_runs_as_another_user_who_only_looks() {
    let Some(sandbox) = owned_repository("the programs of a repository's owner") else { return };
    own(sandbox.here(), 0, 0);
    let mut holder = sandbox.hold(&[]);
    sandbox.isolated(&[], "echo x >>file").was_kept();
    holder.finish();
    let trap = format!("echo \"$(id -u) $0\" >>'{}'; cat", sandbox.outside("ran").display());
    for key in ["filter.evil.clean", "filter.evil.smudge", "core.fsmonitor", "core.pager", "core.sshCommand"] {
        sandbox.git(["config", key, &trap]);
    }
    fs::write(sandbox.path(".git/info/attributes"), "* filter=evil\n").unwrap();
    own(sandbox.here(), OWNER, GROUP);
    own(&sandbox.worktrees_dir(), OWNER, GROUP);
    for user in [Some(OTHER), None] {
        for trusting in [false, true] {
            for args in [
                &["status"][..],
                &["worktrees"],
                &["worktrees", "--json"],
                &["log"],
                &["doctor"],
                &["hooks", "status"],
                &["snapshots"],
                &["recover", "--status"],
                &["state", "get"],
            ] {
                let output = to_the_end(as_user(&sandbox, user, trusting, "repoguard", args)).output().unwrap();
                let told = String::from_utf8_lossy(&output.stderr).into_owned();
                let ran = fs::read_to_string(sandbox.outside("ran")).unwrap_or_default();
                assert_eq!(ran, "", "{args:?} as {user:?}, trusting {trusting}: {told}");
                let looks = ["status", "worktrees", "log", "snapshots", "recover", "state"].contains(&args[0]);
                assert!(!looks || output.status.code() <= Some(1), "{args:?}: {told}");
                let says = trusting || args != ["worktrees"] || told.contains("safe.directory");
                assert!(says, "{args:?} does not say that git does not trust it: {told}");
            }
        }
    }
    drop(to_the_end(as_user(&sandbox, Some(OTHER), true, "git", &["status"])).output().unwrap());
    assert!(sandbox.outside("ran").exists(), "git itself runs them");
}

#[test]
fn record_cannot_hide_whose_process_holds() {
    let Some(sandbox) = owned_repository("a record that lies") else { return };
    let mut holds = as_user(&sandbox, Some(OWNER), false, "repoguard", &["exec", "--", "sh", "-c", HOLD]);
    holds.env("USER", "root");
    let _holder = sandbox.start_up(holds);
    let shown = || sandbox.status()["holders"][0]["user"].as_str().expect("a user").to_owned();
    assert_eq!(shown(), format!("{OWNER} (USER=root)"));
    for record in walk(&sandbox.data().join("holders")).into_iter().filter(|path| path.is_file()) {
        let text = fs::read_to_string(&record).unwrap();
        let lie = text.replace(&format!("{OWNER} (USER=root)"), "root");
        fs::write(&record, format!("{:width$}\n", lie.trim_end(), width = text.len() - 1)).unwrap();
    }
    assert_eq!(shown(), format!("{OWNER}, recorded as root"));
}
