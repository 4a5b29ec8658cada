//! Other programs that install hooks, the real ones, before and after ours: each is still run, the guard is reached,
//! and both are reported.
//!
//! Those that are not on `PATH` are skipped; `.ci/run` puts them there.

use std::fs;

use crate::support::{
    Sandbox, USUAL_HOOKS as USUAL, assert_all, contents, has_program, hook, hooks, lines, script, skip, states,
    to_the_end,
};

/// A repository where a program is set up to note that its hook ran; none where the program is not there.
fn with(program: &str, files: &[(&str, &str)]) -> Option<Sandbox> {
    if !has_program(program) {
        skip(&format!("hooks beside {program}"), "it is not on PATH");
        return None;
    }
    let sandbox = Sandbox::new();
    for (name, text) in files {
        fs::write(sandbox.path(name), text).unwrap();
    }
    Some(sandbox)
}

/// Commits a change; tells whether the lock was held for it, and who noted that it ran.
#[track_caller]
fn commit(sandbox: &Sandbox) -> (bool, Vec<String>) {
    let holds = || sandbox.log().iter().filter(|hold| hold["command"].as_str().unwrap().contains("commit")).count();
    let before = holds();
    fs::write(sandbox.outside("seen"), "").unwrap();
    sandbox.sh("echo more >>file && git add . && git commit -q -m next").assert().success();
    // Who held it for git has written it down before anybody else gets it.
    sandbox.repoguard(["exec", "--", "true"]).assert().success();
    (holds() > before, lines(&sandbox.outside("seen")))
}

#[track_caller]
fn run(sandbox: &Sandbox, line: &str) -> String {
    let output = to_the_end(sandbox.sh_command(line)).assert().success().get_output().clone();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

/// pre-commit and prek treat a hook that they find alike, and read the same file.
fn legacy_runner(program: &str) {
    let config = "repos: [{repo: local, hooks: [{id: m, name: m, language: system, always_run: true, \
                  pass_filenames: false, entry: sh -c 'echo linter >>\"$SANDBOX/seen\"'}]}]\n";
    let install = format!("{program} install");
    let files = [(".pre-commit-config.yaml", config)];

    let Some(sandbox) = with(program, &files) else { return };
    run(&sandbox, &install);
    let before = contents(&sandbox.path(".git/hooks"));
    hooks(&sandbox, &["install"], 0);
    assert_all(&states(&sandbox), &USUAL, "active script");
    assert_eq!(commit(&sandbox), (true, vec!["linter".to_owned()]));
    hooks(&sandbox, &["uninstall"], 0);
    assert_eq!(contents(&sandbox.path(".git/hooks")), before);
    assert_eq!(commit(&sandbox), (false, vec!["linter".to_owned()]));

    // Ours is there first: it is moved away, and run.
    let sandbox = with(program, &files).expect("it was there just now");
    hooks(&sandbox, &["install"], 0);
    run(&sandbox, &install);
    assert!(hook(&sandbox, "pre-commit.legacy").exists());
    let reached = format!("active {program}");
    assert_eq!(states(&sandbox)["pre-commit"], reached);
    assert_eq!(commit(&sandbox), (true, vec!["linter".to_owned()]));
    let listed = contents(&sandbox.path(".git/hooks"));
    hooks(&sandbox, &["install"], 0);
    assert_eq!(contents(&sandbox.path(".git/hooks")), listed, "what is reached is left alone");
    hooks(&sandbox, &["uninstall"], 0);
    assert!(!hook(&sandbox, "pre-commit.legacy").exists());
    assert_eq!(commit(&sandbox), (false, vec!["linter".to_owned()]));

    // Both meet a hook of the user's own.
    let sandbox = with(program, &files).expect("it was there just now");
    script(&hook(&sandbox, "pre-commit"), "echo mine >>\"$SANDBOX/seen\"");
    let mine = fs::read(hook(&sandbox, "pre-commit")).unwrap();
    hooks(&sandbox, &["install"], 0);
    // Again, and again: nothing piles up, nothing is lost, nothing calls itself.
    for _ in 0..2 {
        run(&sandbox, &install);
        assert_eq!(states(&sandbox)["pre-commit"], reached);
        assert_eq!(commit(&sandbox), (true, vec!["mine".to_owned(), "linter".to_owned()]));
        hooks(&sandbox, &["install"], 0);
    }
    hooks(&sandbox, &["uninstall"], 0);
    assert_eq!(commit(&sandbox), (false, vec!["mine".to_owned(), "linter".to_owned()]));
    run(&sandbox, &format!("{program} uninstall"));
    assert_eq!(fs::read(hook(&sandbox, "pre-commit")).unwrap(), mine);

    // It is there first, and comes again: what it made before is not kept, nor run.
    let sandbox = with(program, &files).expect("it was there just now");
    run(&sandbox, &install);
    hooks(&sandbox, &["install"], 0);
    run(&sandbox, &install);
    assert_eq!(states(&sandbox)["pre-commit"], reached);
    assert_eq!(commit(&sandbox), (true, vec!["linter".to_owned()]));
    hooks(&sandbox, &["install"], 0);
    assert_all(&states(&sandbox), &USUAL, "active script");
    assert_eq!(commit(&sandbox), (true, vec!["linter".to_owned()]));
    hooks(&sandbox, &["uninstall"], 0);
    assert_eq!(commit(&sandbox), (false, vec!["linter".to_owned()]));
}

#[test]
fn pre_commit() {
    legacy_runner("pre-commit");
}

#[test]
fn prek() {
    legacy_runner("prek");
}

#[test]
fn lefthook() {
    let config = "pre-commit:\n  commands:\n    m:\n      run: echo linter >>\"$SANDBOX/seen\"\n";
    let files = [("lefthook.yml", config)];
    let Some(sandbox) = with("lefthook", &files) else { return };
    run(&sandbox, "lefthook install");
    let before = contents(&sandbox.path(".git/hooks"));
    hooks(&sandbox, &["install"], 0);
    assert_all(&states(&sandbox), &USUAL, "active script");
    assert_eq!(commit(&sandbox), (true, vec!["linter".to_owned()]));
    hooks(&sandbox, &["uninstall"], 0);
    assert_eq!(contents(&sandbox.path(".git/hooks")), before);

    // Ours is there first: it is moved away, and not run.
    let sandbox = with("lefthook", &files).expect("it was there just now");
    hooks(&sandbox, &["install"], 0);
    run(&sandbox, "lefthook install");
    assert!(hook(&sandbox, "pre-commit.old").exists());
    assert_eq!(states(&sandbox)["pre-commit"], "displaced lefthook");
    assert_eq!(commit(&sandbox).1, ["linter"]);
    hooks(&sandbox, &["install"], 0);
    assert_all(&states(&sandbox), &USUAL, "active script");
    assert!(!hook(&sandbox, "pre-commit.old").exists());
    assert_eq!(commit(&sandbox), (true, vec!["linter".to_owned()]));
    // It installs itself again when its configuration changes; what it made before is not kept twice.
    run(&sandbox, "lefthook install --force");
    assert_eq!(states(&sandbox)["pre-commit"], "displaced lefthook");
    hooks(&sandbox, &["install"], 0);
    assert_eq!(commit(&sandbox), (true, vec!["linter".to_owned()]));
    hooks(&sandbox, &["uninstall"], 0);
    assert_eq!(commit(&sandbox), (false, vec!["linter".to_owned()]));
}

#[test]
fn lefthook_and_a_hook_of_the_users_own_are_one_too_many() {
    let Some(sandbox) = with("lefthook", &[("lefthook.yml", "pre-commit: {commands: {m: {run: 'true'}}}\n")]) else {
        return;
    };
    script(&hook(&sandbox, "pre-commit"), "exit 0 # mine");
    let mine = fs::read(hook(&sandbox, "pre-commit")).unwrap();
    hooks(&sandbox, &["install"], 0);
    run(&sandbox, "lefthook install");
    let before = contents(&sandbox.path(".git/hooks"));
    let told = hooks(&sandbox, &["install"], 125);
    assert!(told.contains("two different hooks"), "{told}");
    assert!(hooks(&sandbox, &["status"], 1).contains("make one of the two"), "the way out is told");
    assert_eq!(contents(&sandbox.path(".git/hooks")), before);
    // It is where lefthook would have put it.
    hooks(&sandbox, &["uninstall"], 0);
    assert_eq!(fs::read(hook(&sandbox, "pre-commit.old")).unwrap(), mine);
}

#[test]
fn husky() {
    let Some(sandbox) = with("husky", &[]) else { return };
    run(&sandbox, "husky");
    fs::write(sandbox.path(".husky/pre-commit"), "echo linter >>\"$SANDBOX/seen\"\n").unwrap();
    let before = crate::support::listing(&sandbox.path(".husky"));
    let told = hooks(&sandbox, &["install"], 1);
    let line = "repoguard hook pre-commit \"$@\"";
    assert!(told.contains(&format!("{}`: {line}", sandbox.path(".husky/pre-commit").display())), "{told}");
    assert_eq!(crate::support::listing(&sandbox.path(".husky")), before, "nothing is written there");
    assert_all(&states(&sandbox), &USUAL, "not-installed");
    assert_eq!(commit(&sandbox), (false, vec!["linter".to_owned()]));
    for name in USUAL {
        let file = sandbox.path(".husky").join(name);
        let old = fs::read_to_string(&file).unwrap_or_default();
        fs::write(&file, format!("repoguard hook {name} \"$@\"\n{old}")).unwrap();
    }
    assert_all(&states(&sandbox), &USUAL, "active husky");
    assert_eq!(commit(&sandbox), (true, vec!["linter".to_owned()]));
    let told = hooks(&sandbox, &["install"], 0);
    assert_eq!(told.matches("unchanged").count(), 5, "{told}");

    // Ours is there first: git does not look there any more.
    let sandbox = with("husky", &[]).expect("it was there just now");
    hooks(&sandbox, &["install"], 0);
    run(&sandbox, "husky");
    assert_all(&states(&sandbox), &USUAL, "bypassed");
    let told = hooks(&sandbox, &["status"], 1);
    assert!(told.contains(".husky/_") && told.contains(line), "{told}");
    hooks(&sandbox, &["uninstall"], 0);
    assert!(!hook(&sandbox, "pre-commit").exists());
}

#[test]
fn simple_git_hooks() {
    let package = "{\"simple-git-hooks\": {\"pre-commit\": \"echo linter >>$SANDBOX/seen\"}}";
    let files = [("package.json", package)];
    let Some(sandbox) = with("simple-git-hooks", &files) else { return };
    run(&sandbox, "simple-git-hooks");
    let before = contents(&sandbox.path(".git/hooks"));
    hooks(&sandbox, &["install"], 0);
    assert_all(&states(&sandbox), &USUAL, "active script");
    assert_eq!(commit(&sandbox), (true, vec!["linter".to_owned()]));
    hooks(&sandbox, &["uninstall"], 0);
    assert_eq!(contents(&sandbox.path(".git/hooks")), before);

    // It overwrites the hooks that it wants, and removes those that it does not.
    hooks(&sandbox, &["install"], 0);
    run(&sandbox, "simple-git-hooks");
    let seen = states(&sandbox);
    assert_eq!(seen["pre-commit"], "displaced simple-git-hooks");
    assert_eq!(seen["pre-rebase"], "deleted");
    hooks(&sandbox, &["install"], 0);
    assert_all(&states(&sandbox), &USUAL, "active script");
    assert_eq!(commit(&sandbox), (true, vec!["linter".to_owned()]));
}

#[test]
fn git_lfs() {
    let Some(sandbox) = with("git-lfs", &[]) else { return };
    run(&sandbox, "git lfs install --local");
    let before = contents(&sandbox.path(".git/hooks"));
    hooks(&sandbox, &["install"], 0);
    assert_all(&states(&sandbox), &USUAL, "active script");
    run(&sandbox, "git checkout -q -b other");
    hooks(&sandbox, &["uninstall"], 0);
    assert_eq!(contents(&sandbox.path(".git/hooks")), before);

    // It touches no hook that it does not know.
    let sandbox = with("git-lfs", &[]).expect("it was there just now");
    hooks(&sandbox, &["install"], 0);
    sandbox.sh("git lfs install --local").assert().failure();
    assert_all(&states(&sandbox), &USUAL, "active script");
}
