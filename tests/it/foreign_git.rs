//! Git in a repository that somebody else wrote: commands that only read run nothing that the repository names.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{At, Sandbox, has_program, hook, script, skip, to_the_end};

/// The program of all traps: it notes that it ran, and by which trap.
fn trap(sandbox: &Sandbox, name: &str) -> String {
    let program = sandbox.outside("trap");
    if !program.exists() {
        script(&program, "echo \"$1\" >>\"${0%/*}/ran\"; case $1 in clean | smudge) cat ;; esac");
    }
    format!("{} {name}", program.display())
}

fn what_ran(sandbox: &Sandbox) -> String {
    fs::read_to_string(sandbox.outside("ran")).unwrap_or_default()
}

/// Sets a trap wherever git's configuration and hooks can name a program.
fn set_traps(sandbox: &Sandbox) {
    let set = |key: &str, value: &str| drop(sandbox.git(["config", key, value]));
    let named = |name: &str| trap(sandbox, name);
    for driver in ["evil", "with.dots", "with=sign", "with \\\"quote"] {
        for part in ["clean", "smudge", "process"] {
            set(&format!("filter.{driver}.{part}"), &named(part));
        }
        set(&format!("filter.{driver}.required"), "true");
    }
    fs::write(
        sandbox.path(".git/info/attributes"),
        "* filter=evil diff=evil\n*.dots filter=with.dots\n*.sign filter=with=sign\n",
    )
    .unwrap();
    set("diff.evil.textconv", &named("textconv"));
    set("diff.evil.command", &named("diff driver"));
    set("diff.external", &named("external diff"));
    set("core.fsmonitor", &named("monitor"));
    set("core.pager", &named("pager"));
    set("pager.log", &named("pager"));
    set("core.editor", &named("editor"));
    set("core.sshCommand", &named("ssh"));
    set("core.askPass", &named("askpass"));
    set("core.alternateRefsCommand", &named("alternates"));
    set("credential.helper", &format!("!{}", named("helper")));
    set("gpg.program", &named("gpg"));
    set("log.showSignature", "true");
    for verb in ["status", "log", "rev-parse", "config", "diff"] {
        set(&format!("alias.{verb}"), &format!("!{}", named("alias")));
    }
    // A promisor remote is asked for objects that are missing.
    set("core.repositoryFormatVersion", "1");
    set("extensions.partialClone", "evil");
    set("protocol.ext.allow", "always");
    set("protocol.allow", "always");
    set("remote.evil.promisor", "true");
    set("remote.evil.url", &format!("ext::{}", named("fetch")));
    set("remote.evil.uploadpack", &named("upload-pack"));
    for event in ["post-index-change", "reference-transaction", "pre-auto-gc", "fsmonitor-watchman", "post-checkout"] {
        script(&hook(sandbox, event), &named(event));
    }
}

/// Makes git look into a file again: its bytes are the same, its times are not.
fn touch(file: &Path) {
    let bytes = fs::read(file).unwrap();
    fs::remove_file(file).unwrap();
    fs::write(file, bytes).unwrap();
}

const READING: [&[&str]; 18] = [
    &["status"],
    &["status", "--json"],
    &["status", "--exit-code"],
    &["worktrees"],
    &["worktrees", "--json"],
    &["log"],
    &["log", "--json", "-n", "5"],
    &["doctor"],
    &["doctor", "--json"],
    &["hooks", "status"],
    &["hooks", "status", "--json"],
    &["snapshots"],
    &["snapshots", "--json"],
    &["recover", "--status"],
    &["recover", "--status", "--json"],
    &["state", "get"],
    &["state", "digest", "--check"],
    &["next", "n", "--scan", "d/{}.dots"],
];

#[track_caller]
fn assert_reading_runs_nothing(sandbox: &Sandbox) {
    for command in READING {
        let output = sandbox.repoguard(command).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(what_ran(sandbox), "", "`{}` ran it: {told}", command.join(" "));
        assert!(!told.contains("panicked"), "{told}");
    }
}

/// A repository with files for each filter, and a worktree that repoguard made and kept, with changes in it.
fn with_worktree() -> (Sandbox, PathBuf) {
    let sandbox = Sandbox::new();
    for name in ["a.dots", "b.sign"] {
        fs::write(sandbox.path(name), "text\n").unwrap();
    }
    sandbox.git(["add", "-A"]);
    sandbox.git(["commit", "-q", "-m", "files"]);
    let mut holder = sandbox.hold(&[]);
    let went = sandbox.isolated(&[], "echo more >>file; git commit -qam more; echo x >>a.dots; echo y >>file");
    went.was_kept();
    holder.finish();
    (sandbox, went.path())
}

#[test]
fn reading_commands_run_nothing_that_the_repository_names() {
    let (sandbox, worktree) = with_worktree();
    set_traps(&sandbox);
    for file in [worktree.join("b.sign"), worktree.join("a.dots"), sandbox.path("file"), sandbox.path("a.dots")] {
        touch(&file);
    }
    let git = |directory: &Path| {
        let mut git = sandbox.git_command(["--no-optional-locks", "status", "--short"]);
        git.current_dir(directory);
        drop(to_the_end(git).output().unwrap());
    };
    git(&worktree);
    assert!(what_ran(&sandbox).contains("monitor"), "git itself runs into the traps: {}", what_ran(&sandbox));
    fs::remove_file(sandbox.outside("ran")).unwrap();
    assert_reading_runs_nothing(&sandbox);
    let listed = &sandbox.listed()[0];
    assert_eq!(listed["holds"]["commits"], 1, "{listed}");
    assert!(listed["holds"]["changed"].as_u64() >= Some(2), "what differs is seen without the filters: {listed}");
}

#[test]
fn unfinished_mutation_is_looked_at_without_filters() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("a.dots"), "text\n").unwrap();
    sandbox.git(["add", "-A"]);
    sandbox.git(["commit", "-q", "-m", "files"]);
    sandbox.killed_at(At::Verify, &[], "echo x >>file; echo y >>a.dots");
    set_traps(&sandbox);
    touch(&sandbox.path("file"));
    touch(&sandbox.path("a.dots"));
    assert_reading_runs_nothing(&sandbox);
    assert!(!sandbox.unfinished().is_null());
    assert_eq!(what_ran(&sandbox), "");
}

#[test]
fn submodules_are_looked_at_without_their_filters() {
    let sandbox = Sandbox::new();
    let (inner, other) = (sandbox.outside("inner"), sandbox.outside("deeper"));
    for place in [&inner, &other] {
        let init =
            format!("git init -q -b main {0} && cd {0} && echo a >a && git add a && git commit -qm a", place.display());
        sandbox.sh(&init).assert().success();
    }
    sandbox.git(["-c", "protocol.file.allow=always", "submodule", "add", "-q", inner.to_str().unwrap(), "sub"]);
    sandbox.git(["commit", "-qm", "sub"]);
    sandbox.killed_at(At::Verify, &[], "echo x >>file");
    let sub = sandbox.path("sub");
    let configure = |key: &str, value: &str| {
        let mut git = sandbox.git_command(["config", key, value]);
        git.current_dir(&sub);
        to_the_end(git).assert().success();
    };
    configure("filter.inner.clean", &trap(&sandbox, "clean"));
    configure("core.fsmonitor", &trap(&sandbox, "inner monitor"));
    fs::write(sub.join(".gitattributes"), "* filter=inner\n").unwrap();
    touch(&sub.join("a"));
    assert_reading_runs_nothing(&sandbox);
}

#[test]
fn missing_objects_are_not_fetched() {
    let (sandbox, worktree) = with_worktree();
    set_traps(&sandbox);
    let mut git = sandbox.git_command(["rev-parse", "HEAD"]);
    git.current_dir(&worktree);
    let tip = String::from_utf8(to_the_end(git).output().unwrap().stdout).unwrap().trim().to_owned();
    let object = sandbox.path(".git/objects").join(&tip[..2]).join(&tip[2..]);
    fs::remove_file(&object).unwrap();
    drop(to_the_end(sandbox.git_command(["cat-file", "-t", &tip])).output().unwrap());
    assert!(what_ran(&sandbox).contains("fetch"), "git itself fetches it: {}", what_ran(&sandbox));
    fs::remove_file(sandbox.outside("ran")).unwrap();
    assert_reading_runs_nothing(&sandbox);
}

#[test]
fn doctor_tries_no_hook_that_only_looks_like_ours() {
    if !has_program("sha256sum") {
        return skip("a forged hook", "no sha256sum");
    }
    let sandbox = Sandbox::guarded();
    let file = hook(&sandbox, "pre-commit");
    let text = fs::read_to_string(&file).unwrap();
    // Its sum is right, and it names a program of the repository's author.
    let start = text.find("\nbinary='").unwrap() + "\nbinary='".len();
    let end = start + text[start..].find('\'').unwrap();
    let program = sandbox.outside("repoguard");
    script(&program, &format!("echo \"$*\" >>'{}'; exit 93", sandbox.outside("ran").display()));
    let forged = format!("{}{}{}", &text[..start], program.display(), &text[end..]);
    let sum = forged.lines().nth(1).and_then(|mark| mark.split([' ', ':']).nth(3)).unwrap().to_owned();
    fs::write(sandbox.outside("unsigned"), forged.replacen(&sum, "@SUM@", 1)).unwrap();
    let summed = sandbox.sh("sha256sum \"$SANDBOX/unsigned\"").output().unwrap().stdout;
    let signed = forged.replacen(&sum, &String::from_utf8_lossy(&summed)[..16], 1);
    fs::write(&file, signed).unwrap();
    assert_reading_runs_nothing(&sandbox);
    let told = sandbox.repoguard(["doctor"]).output().unwrap().stdout;
    let told = String::from_utf8_lossy(&told).into_owned();
    assert!(told.contains("pre-commit: not tried"), "{told}");
    assert!(told.contains("post-checkout: tried"), "{told}");
    // What is plainly edited is not run, either.
    script(&file, &format!("# repoguard-hook 1 0000000000000000: x\n{}", trap(&sandbox, "edited")));
    assert_reading_runs_nothing(&sandbox);
}

#[test]
fn bare_repository_that_nobody_named_is_used_as_git_does() {
    let sandbox = Sandbox::new();
    let bare = sandbox.path("vendor/evil");
    sandbox.git(["init", "-q", "--bare", bare.to_str().unwrap()]);
    let config = sandbox.outside("explicit");
    fs::write(&config, "[safe]\n\tbareRepository = explicit\n").unwrap();
    let run = |explicit: bool, named: bool, program: &str, args: &[&str]| {
        let mut command = sandbox.command(program);
        command.args(args).current_dir(&bare);
        if explicit {
            command.env("GIT_CONFIG_GLOBAL", &config);
        }
        if named {
            command.env("GIT_DIR", &bare);
        }
        to_the_end(command).output().unwrap()
    };
    for (explicit, named) in [(false, false), (true, false), (true, true)] {
        let git = run(explicit, named, "git", &["rev-parse", "--git-dir"]).status.success();
        let ours = run(explicit, named, "repoguard", &["exec", "--", "true"]);
        let told = String::from_utf8_lossy(&ours.stderr).into_owned();
        assert_eq!(ours.status.success(), git, "explicit {explicit}, named {named}: {told}");
        assert!(git || told.contains("safe.bareRepository"), "{told}");
        assert!(run(explicit, named, "repoguard", &["status"]).status.success(), "status works everywhere");
    }
}

#[test]
fn reading_commands_write_no_index_and_wait_for_no_lock_of_gits() {
    let (sandbox, worktree) = with_worktree();
    touch(&sandbox.path("file"));
    touch(&worktree.join("b.sign"));
    let indexes = || {
        let own = sandbox.path(".git/index");
        let linked = walk_for(&sandbox.path(".git/worktrees"), "index");
        [own]
            .into_iter()
            .chain(linked)
            .map(|path| (fs::metadata(&path).unwrap().modified().unwrap(), path))
            .collect::<Vec<_>>()
    };
    let before = indexes();
    fs::write(sandbox.path(".git/index.lock"), "").unwrap();
    for command in READING {
        drop(sandbox.repoguard(command).output().unwrap());
    }
    assert_eq!(indexes(), before);
}

fn walk_for(directory: &Path, name: &str) -> Vec<PathBuf> {
    crate::support::walk(directory).into_iter().filter(|path| path.ends_with(name)).collect()
}
