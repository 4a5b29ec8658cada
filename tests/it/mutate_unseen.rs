//! `repoguard mutate` and what git does not list: ignored files and their rules, repositories inside of the checkout, references that
//! are copies, and names that git refuses.

use std::fs;

use crate::support::{Sandbox, walk};

/// A repository with an ignored directory that hides itself, a tracked and an untracked one, and a repository inside.
fn furnished() -> Sandbox {
    let sandbox = Sandbox::new();
    let script = "set -e; mkdir -p hidden/deep tracked untracked empty; echo '*' >hidden/.gitignore; echo mine >hidden/mine; \
        echo mine >hidden/deep/mine; echo '*.o' >.gitignore; echo t >tracked/t; echo u >untracked/u; echo o >tracked/i.o; \
        git add .; git rm -q --cached untracked/u; git commit -qm second; \
        git init -q nest; echo n >nest/n; git -C nest add n; git -C nest commit -qm n; echo work >nest/work; sleep 0.02";
    sandbox.sh(script).assert().success();
    sandbox
}

/// All files but those of the repository itself, with their bytes.
fn files(sandbox: &Sandbox) -> Vec<(String, Vec<u8>)> {
    let own = sandbox.path(".git");
    let mut files: Vec<_> = walk(sandbox.here())
        .into_iter()
        .filter(|path| !path.starts_with(&own))
        .map(|path| (path.display().to_string(), fs::read(&path).unwrap_or_default()))
        .collect();
    files.sort();
    files
}

/// Runs a mutation; returns its status, and what it said.
fn mutate(sandbox: &Sandbox, command: &str) -> (i32, String) {
    fs::write(sandbox.outside("command"), command).unwrap();
    let output = sandbox.repoguard(["mutate", "-m", "m", "--", "sh", "../command"]).output().unwrap();
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn failing_command_that_touches_what_git_does_not_list_leaves_all_as_it_was() {
    for command in [
        // The rules that hide files of the user's.
        "rm hidden/.gitignore",
        "echo '*.tmp' >hidden/.gitignore",
        "rm hidden/.gitignore; mkdir hidden/.gitignore",
        "find . -name .gitignore -delete; echo x >x",
        // Directories of the user's become repositories.
        "git init -q tracked",
        "git init -q tracked; echo x >tracked/x",
        "git init -q untracked; echo x >untracked/x; echo 2 >untracked/u",
        "git init -q empty; echo x >empty/x",
        "git clone -q . empty",
        "git init -q tracked; cd tracked; echo x >x; git add .; git commit -qm x",
        // Something else in place of rules.
        "rm .git/info/exclude; mkdir .git/info/exclude; echo x >x",
        "rm .git/info/exclude; mkfifo .git/info/exclude; echo x >x",
        "ln -sf /dev/null .git/info/exclude; echo x >x",
    ] {
        let sandbox = furnished();
        let was = files(&sandbox);
        let (status, told) = mutate(&sandbox, &format!("{command}; exit 7"));
        assert_eq!(status, 7, "{command}: {told}");
        assert!(told.contains("everything was put back as it was"), "{command}: {told}");
        assert_eq!(files(&sandbox), was, "{command}: {told}");
        assert!(fs::symlink_metadata(sandbox.path(".git/info/exclude")).unwrap().is_file(), "{command}");
        assert_eq!(sandbox.try_once(&[]), 0, "{command}");
    }
}

#[test]
fn files_that_rules_hid_are_not_committed_by_a_command_that_removes_the_rules() {
    for command in [
        "find . -name .gitignore -delete",
        "rm -r nest/.git hidden/.gitignore .gitignore; git init -q nest; rm -r nest/.git",
    ] {
        let sandbox = furnished();
        fs::remove_dir_all(sandbox.path("nest")).unwrap();
        let command = command.replace("rm -r nest/.git hidden", "rm -r hidden");
        let (status, told) = mutate(&sandbox, &format!("{command}; echo x >x"));
        assert_eq!(status, 0, "{command}: {told}");
        let committed = sandbox.git(["show", "--format=", "--name-only", "HEAD"]);
        assert_eq!(committed, ".gitignore\nx\n", "{command}: {told}");
        assert!(told.contains("hidden/mine") && told.contains("hidden/deep/mine"), "{command}: {told}");
    }
}

#[test]
fn rules_that_go_with_their_directory_are_in_nobodys_way() {
    for command in
        ["rm -r hidden; echo x >x", "rm -r hidden; echo y >>.gitignore; echo x >x", "mv hidden moved; echo x >x"]
    {
        let sandbox = furnished();
        let (status, told) = mutate(&sandbox, command);
        assert_eq!(status, 0, "{command}: {told}");
        assert!(sandbox.git(["show", "--format=", "--name-only", "HEAD"]).contains("x\n"), "{command}: {told}");
        assert!(!sandbox.git(["ls-files"]).contains("mine"), "{command}: {told}");
    }
}

#[test]
fn repository_inside_that_loses_its_git_directory_is_named_and_its_files_stay() {
    for (command, status) in
        [("rm -rf nest/.git; exit 7", 7), ("rm -rf nest/.git", 65), ("mv nest/.git nest/.gone", 65)]
    {
        let sandbox = furnished();
        let (is, told) = mutate(&sandbox, command);
        assert_eq!(is, status, "{command}: {told}");
        assert!(told.contains("`nest/.git`") && !told.contains("everything was put back"), "{command}: {told}");
        assert_eq!(fs::read_to_string(sandbox.path("nest/work")).unwrap(), "work\n", "{command}: {told}");
        assert_eq!(sandbox.try_once(&[]), 0, "{command}");
    }
}

#[test]
fn what_looks_like_a_repository_and_stays_out_is_named() {
    for (command, name) in [
        ("cp -r nest copy", "copy"),
        ("echo garbage >tracked/.git; echo x >tracked/x", "tracked"),
        (
            "mkdir -p made/.git; echo x >made/x; echo 'ref: refs/heads/x' >made/.git/HEAD; mkdir made/.git/objects made/.git/refs",
            "made",
        ),
    ] {
        let sandbox = furnished();
        let (status, told) = mutate(&sandbox, &format!("{command}; echo y >y"));
        assert_eq!(status, 0, "{command}: {told}");
        assert!(told.contains("there is a `.git` in it") && told.contains(name), "{command}: {told}");
    }
}

#[test]
fn repository_made_in_a_directory_that_was_there_is_a_failure() {
    for directory in ["tracked", "untracked", "empty"] {
        let sandbox = furnished();
        let was = files(&sandbox);
        let (status, told) = mutate(&sandbox, &format!("git init -q {directory}; echo x >{directory}/x"));
        assert_eq!(status, 65, "{directory}: {told}");
        assert!(told.contains(directory), "{told}");
        assert_eq!(files(&sandbox), was, "{directory}: {told}");
    }
}

#[test]
fn copied_branches_are_undone() {
    for format in ["files", "reftable"] {
        for command in
            ["git branch -c side copy", "git branch -C main side", "git branch -c copy; git checkout -q copy"]
        {
            let sandbox = Sandbox::new();
            fs::remove_dir_all(sandbox.path(".git")).unwrap();
            let script = format!(
                "git init -q -b main --ref-format={format} 2>/dev/null || exit 9; git add .; git commit -qm 1; git checkout -qb side; \
                 git commit -q --allow-empty -m side; git checkout -q main"
            );
            if sandbox.sh(&script).output().unwrap().status.code() == Some(9) {
                // Older than reftables.
                continue;
            }
            let was = sandbox.git(["for-each-ref"]);
            let (status, told) = mutate(&sandbox, &format!("{command}; exit 7"));
            assert_eq!(status, 7, "{command} {format}: {told}");
            assert_eq!(sandbox.git(["for-each-ref"]), was, "{command} {format}: {told}");
            assert_eq!(sandbox.git(["symbolic-ref", "HEAD"]), "refs/heads/main\n", "{command} {format}: {told}");
            assert!(told.contains("everything was put back as it was"), "{command} {format}: {told}");
        }
    }
}

#[test]
fn symbolic_references_stay_symbolic_when_logs_are_put_back() {
    for format in ["files", "reftable"] {
        let sandbox = Sandbox::new();
        fs::remove_dir_all(sandbox.path(".git")).unwrap();
        let script = format!(
            "git init -q -b main --ref-format={format} 2>/dev/null || exit 9; git add .; git commit -qm 1; git branch side; \
             git symbolic-ref refs/heads/symbolic refs/heads/side; git update-ref refs/remotes/o/main HEAD; \
             git symbolic-ref refs/remotes/o/HEAD refs/remotes/o/main"
        );
        if sandbox.sh(&script).output().unwrap().status.code() == Some(9) {
            continue;
        }
        let listed = || sandbox.git(["for-each-ref", "--format=%(refname) %(symref) %(objectname)"]);
        let was = listed();
        let (status, told) = mutate(&sandbox, "git reflog expire --expire=now --all; exit 7");
        assert_eq!(status, 7, "{told}");
        assert_eq!(listed(), was, "{format}: {told}");
    }
}

#[test]
fn names_that_git_refuses_fail_the_mutation() {
    for command in ["echo x >'git~1'", "mkdir s; echo x >s/.GIT::x", "ln -s file .gitmodules"] {
        let sandbox = Sandbox::new();
        let plain = sandbox.sh(&format!("{command}; git add -A")).output().unwrap();
        assert!(!plain.status.success(), "git takes it: {command}");
        sandbox.sh("git reset -q; git clean -fdq").assert().success();
        let was = files(&sandbox);
        let (status, told) = mutate(&sandbox, command);
        assert_ne!(status, 0, "{command}: {told}");
        assert_eq!(files(&sandbox), was, "{command}: {told}");
        assert_eq!(sandbox.git(["log", "--format=%s"]), "first\n", "{command}: {told}");
    }
}

#[test]
fn older_files_that_come_with_a_directory_are_named_whatever_becomes_of_the_mutation() {
    for moved in ["mv hidden/deep shown", "mv ../outside shown", "mv nest/inner shown"] {
        for (ending, expected) in [("true", 0), ("exit 7", 7)] {
            let sandbox = furnished();
            sandbox
                .sh("mkdir ../outside nest/inner; for i in ../outside nest/inner; do echo m >$i/mine; done; sleep 0.05")
                .assert()
                .success();
            let (status, told) = mutate(&sandbox, &format!("{moved}; {ending}"));
            assert_eq!(status, expected, "{moved}: {told}");
            assert!(told.contains("shown/mine"), "{moved}: {told}");
            assert!(sandbox.path("shown/mine").exists(), "{moved}");
        }
    }
}
