//! `repoguard mutate` commits what git itself would commit after the same command, whatever the checkout is like, and puts back the
//! bytes that were on disk.

use std::fs;

use crate::support::Sandbox;

/// A new repository, prepared by a script that ends with a clean worktree.
fn prepared(script: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    fs::write(sandbox.outside("patch"), PATCH).unwrap();
    sandbox.sh(&format!("set -e; {script}")).assert().success();
    sandbox
}

/// Changes `file`, and adds `new`.
const PATCH: &str = "\
diff --git a/file b/file
--- a/file
+++ b/file
@@ -1 +1 @@
-first
+second
diff --git a/new b/new
new file mode 100644
--- /dev/null
+++ b/new
@@ -0,0 +1 @@
+made
";

/// A checkout of `d` and of the files at the top, without `e`.
const SPARSE: &str = "mkdir d e; echo d >d/f; echo e >e/f; echo gone >e/gone; git add .; git commit -qm second; \
    git checkout -qb other; echo more >>e/f; echo new >e/new; echo new >d/new; git rm -q e/gone; git add .; git commit -qm other; \
    git checkout -q main; git sparse-checkout set --cone --no-sparse-index d";

#[test]
fn commit_is_that_of_git_after_the_same_command() {
    let crlf = r"printf 'a\r\nb\r\n' >w; git add w; git commit -qm w; git config core.autocrlf true; git status";
    for (prepare, command) in [
        // The file is newer than what was staged: its mode, kind and bytes count.
        ("", "echo x >f; git add f; chmod +x f"),
        ("", "ln -s file l; git add l; rm l; echo text >l"),
        ("", "echo text >l; git add l; rm l; ln -s file l"),
        ("", "rm file; ln -s x file; git add file; rm file; echo text >file"),
        ("", "chmod +x file; git add file; chmod -x file; echo more >>file"),
        ("", "chmod +x file; git mv file g"),
        ("", "git apply --index ../patch; chmod +x new"),
        ("git config core.fileMode false", "git update-index --chmod=+x file; echo more >>file"),
        // What git made of the bytes stays.
        (crlf, "git mv w moved"),
        (crlf, "git mv w moved; echo x >>file"),
        (
            r"printf 'a\r\n' >w; git add w; git commit -qm w",
            r#"echo "* text=auto" >.gitattributes; printf "b\r\n" >>w; git add --renormalize .; git add .gitattributes"#,
        ),
        // A directory becomes a link.
        ("mkdir d; echo x >d/x; git add d; git commit -qm d", "git rm -qr d; ln -s file d"),
        (
            "mkdir d; echo x >d/x; git add d; git commit -qm d",
            "git rm -qr --cached d; rm -r d; ln -s file d; echo y >y",
        ),
        // Outside of the sparse checkout.
        (SPARSE, "git merge -q --squash other"),
        (SPARSE, "git cherry-pick -n other"),
        (SPARSE, "git checkout -q other -- d; echo y >y"),
    ] {
        let plain = prepared(prepare);
        plain.sh(&format!("{command}; git add -A; git commit -qm m")).assert().success();
        for options in ["", "--fence"] {
            let guarded = prepared(prepare);
            fs::write(guarded.outside("command"), command).unwrap();
            guarded.sh(&format!("repoguard mutate {options} -m m -- sh ../command")).assert().success();
            let tree = |sandbox: &Sandbox| sandbox.git(["ls-tree", "-r", "HEAD"]);
            assert_eq!(tree(&plain), tree(&guarded), "{prepare}; {command} {options}");
            assert_eq!(guarded.git(["status", "--porcelain"]), "", "{prepare}; {command} {options}");
            assert_eq!(
                plain.git(["ls-files", "-t"]),
                guarded.git(["ls-files", "-t"]),
                "{prepare}; {command} {options}"
            );
        }
    }
}

#[test]
fn what_git_was_told_to_skip_is_no_deletion() {
    for (command, flagged) in [
        ("git sparse-checkout set --no-sparse-index d", "S e/f"),
        ("git update-index --skip-worktree e/f; rm e/f", "S e/f"),
        ("git update-index --assume-unchanged e/f; rm e/f; echo y >y", "h e/f"),
    ] {
        for options in ["", "--fence"] {
            let sandbox = prepared("mkdir d e; echo d >d/f; echo e >e/f; git add .; git commit -qm second");
            fs::write(sandbox.outside("command"), command).unwrap();
            sandbox.sh(&format!("repoguard mutate {options} -m m -- sh ../command")).assert().success();
            let listed = sandbox.git(["ls-tree", "-r", "--name-only", "HEAD"]);
            assert!(listed.contains("e/f"), "{command} {options}: {listed}");
            let flags = sandbox.git(["ls-files", "-v"]);
            assert!(flags.contains(flagged), "{command} {options}: {flags}");
            assert_eq!(sandbox.git(["status", "--porcelain"]), "", "{command} {options}");
        }
    }
}

#[test]
fn path_that_is_only_in_the_index_is_committed() {
    for command in
        ["git apply --cached ../patch", "git update-index --add --cacheinfo 100644,$(git hash-object -w file),new"]
    {
        let sandbox = prepared("");
        fs::write(sandbox.outside("command"), command).unwrap();
        sandbox.sh("repoguard mutate -m m -- sh ../command").assert().success();
        let listed = sandbox.git(["ls-tree", "-r", "--name-only", "HEAD"]);
        assert_eq!(listed, "file\nnew\n", "{command}");
    }
}

#[test]
fn sparse_index_is_no_obstacle() {
    for prepare in ["mkdir d e", "mkdir a d"] {
        let sandbox = prepared(&format!(
            "{prepare}; for i in */; do echo $i >$i/f; done; git add .; git commit -qm second; \
             git sparse-checkout set --cone --sparse-index d"
        ));
        sandbox.sh("repoguard mutate -m m -- sh -c 'echo x >>file; echo y >d/new'").assert().success();
        assert_eq!(sandbox.git(["status", "--porcelain"]), "", "{prepare}");
        assert_eq!(sandbox.git(["show", "--format=", "--name-only", "HEAD"]), "d/new\nfile\n", "{prepare}");
        sandbox.sh("repoguard mutate -m m -- sh -c 'echo x >>file; exit 7'").assert().code(7);
        assert_eq!(sandbox.git(["status", "--porcelain"]), "", "{prepare}");
    }
}

#[test]
fn bytes_on_disk_come_back_whatever_git_would_make_of_them_now() {
    const TEXT: &str = r"printf '1\n2\n' >a.txt; git add .; git commit -qm a; rm a.txt";
    for prepare in [
        // The configuration was another one when they were written.
        format!(
            "{TEXT}; git config core.autocrlf true; git checkout -q a.txt; sleep 0.05; echo x >>file; git commit -qam x; \
             git config --unset core.autocrlf"
        ),
        // Attributes that git does not list.
        format!("echo .gitattributes >.gitignore; {TEXT}; echo '*.txt text eol=crlf' >.gitattributes; git checkout -q a.txt"),
        format!("echo .gitattributes >.git/info/exclude; mkdir d; {TEXT}; echo '*.txt eol=crlf' >.gitattributes; git checkout -q a.txt"),
        format!("{TEXT}; echo '*.txt text eol=crlf' >.git/info/attributes; git checkout -q a.txt"),
        // Attributes that are only in the index.
        format!(
            "mkdir d; echo '*.txt eol=crlf' >.gitattributes; {TEXT}; git checkout -q a.txt; \
             git sparse-checkout set --no-cone --no-sparse-index '/*' '!/.gitattributes'"
        ),
        // A filter takes something out.
        "echo .gitattributes >.gitignore; echo '*.txt filter=hide' >.gitattributes; git config filter.hide.clean 'sed s/secret/public/'; \
         echo secret >a.txt; git add .; git commit -qm a"
            .to_owned(),
    ] {
        for change in ["echo x >a.txt", "rm a.txt", "git rm -qf a.txt", "mv a.txt b.txt"] {
            let sandbox = prepared(&prepare);
            let was = fs::read(sandbox.path("a.txt")).unwrap();
            sandbox.sh(&format!("repoguard mutate -m m -- sh -c '{change}; exit 7'")).assert().code(7);
            assert_eq!(fs::read(sandbox.path("a.txt")).unwrap(), was, "{prepare}; {change}");
        }
    }
}

/// What the caller has, and what the command's `git add -A` stages with its own.
const FURNISHED: &str =
    "echo a >a; echo b >b; git add .; git commit -qm second; echo u >u; echo A1 >a; git add a; echo A2 >a; echo B >b";

#[test]
fn what_is_the_callers_stays_so_when_another_git_writes_the_index_meanwhile() {
    for verify in ["git status", "git update-index --force-write-index", "touch -d @1 .git/index; git status"] {
        for options in ["--allow-dirty", "--allow-dirty --fence", "--allow-dirty --no-commit"] {
            let sandbox = prepared(FURNISHED);
            let was = sandbox.git(["status", "--porcelain"]);
            let script =
                format!("repoguard mutate {options} --verify '{verify}' -m m -- sh -c 'echo n >n; git add -A'");
            sandbox.sh(&script).assert().success();
            let staged = if options.contains("no-commit") { "A  n\n" } else { "" };
            let now = sandbox.git(["status", "--porcelain"]).replace(staged, "");
            assert_eq!((now, sandbox.git(["show", ":a"])), (was, "A1\n".to_owned()), "{verify}; {options}");
        }
    }
}

#[test]
fn what_others_stage_meanwhile_stays_theirs() {
    for command in ["true", "git -C ../other add .", "git branch y", "git apply ../patch", "git add n"] {
        let sandbox =
            prepared("git init -q ../other; echo o >../other/o; echo t >t; git add t; git commit -qm t; echo u >u");
        let others = "git add u; git rm -q --cached t";
        let script = format!("repoguard mutate -m m --verify '{others}' -- sh -c 'echo n >n; {command}'");
        sandbox.sh(&script).assert().success();
        let files = sandbox.git(["ls-tree", "-r", "--name-only", "HEAD"]);
        assert!(files.contains("n\n") && files.contains("t\n") && !files.contains("u\n"), "{command}: {files}");
        assert_eq!(sandbox.git(["status", "--porcelain"]), "D  t\nA  u\n?? t\n", "{command}");
    }
}

#[test]
fn what_another_stages_while_the_command_runs_is_not_the_commands() {
    for command in ["true", "git -C ../other add .", "git branch y", "git apply ../patch"] {
        let sandbox = prepared("git init -q ../other; echo o >../other/o; echo u >u");
        let others = "env -u GIT_TRACE2_EVENT -u GIT_TRACE_REFS git add u";
        let script = format!("repoguard mutate -m m -- sh -c 'echo n >n; {command}; {others}'");
        sandbox.sh(&script).assert().success();
        let files = sandbox.git(["ls-tree", "-r", "--name-only", "HEAD"]);
        assert!(files.contains("n\n") && !files.contains("u\n"), "{command}: {files}");
        assert_eq!(sandbox.git(["status", "--porcelain"]), "A  u\n", "{command}");
    }
}

#[test]
fn what_was_staged_and_is_gone_again_is_not_committed() {
    for (command, files) in [
        ("echo n >n; git add -A; rm n; echo m >m", "file\nm\n"),
        ("echo n >n; git add -A; mv n m", "file\nm\n"),
        ("echo n >n; git add n; rm n; mkdir n; echo m >n/m", "file\nn/m\n"),
        ("mkdir d; echo n >d/n; git add -A; mv d e", "e/n\nfile\n"),
    ] {
        for options in ["", "--fence"] {
            let sandbox = prepared("");
            sandbox.sh(&format!("repoguard mutate {options} -m m -- sh -c '{command}'")).assert().success();
            assert_eq!(sandbox.git(["ls-tree", "-r", "--name-only", "HEAD"]), files, "{command}");
            assert_eq!(sandbox.git(["status", "--porcelain"]), "", "{command}");
        }
    }
}

#[test]
fn what_a_check_stages_is_not_committed() {
    let sandbox = prepared("");
    sandbox
        .sh("repoguard mutate --check 'echo k >k; git add k' -m m -- sh -c 'echo n >n; git add -A'")
        .assert()
        .success();
    assert_eq!(sandbox.git(["ls-tree", "-r", "--name-only", "HEAD"]), "file\nn\n");
    assert_eq!(fs::read_to_string(sandbox.path("k")).unwrap(), "k\n");
}

#[test]
fn flag_of_the_commands_hides_no_change() {
    for flag in ["--assume-unchanged", "--skip-worktree"] {
        let change = format!("echo x >>file; git update-index {flag} file");
        let sandbox = prepared("mkdir d; echo d >d/f; git add d; git commit -qm d");
        sandbox.sh(&format!("repoguard mutate --paths d -m m -- sh -c '{change}'")).assert().code(65);
        assert_eq!(fs::read_to_string(sandbox.path("file")).unwrap(), "first\n", "{flag}");
        sandbox.sh(&format!("repoguard mutate -m m -- sh -c '{change}'")).assert().success();
        assert_eq!(sandbox.git(["show", "HEAD:file"]), "first\nx\n", "{flag}");
    }
}

#[test]
fn repositories_that_were_there_are_no_part_of_what_is_staged() {
    let sandbox = prepared("git clone -q . nest");
    sandbox.sh("repoguard mutate -m m -- sh -c 'echo n >n; git add -A'").assert().success();
    assert_eq!(sandbox.git(["status", "--porcelain"]), "?? nest/\n");
    let sandbox = prepared(
        "git clone -q . ../of; git -c protocol.file.allow=always submodule add -q ../of sub; git commit -qm sub; \
         echo 2 >sub/file; git -C sub commit -qam 2",
    );
    sandbox.sh("repoguard mutate --allow-dirty -m m -- sh -c 'echo n >n; git add -A'").assert().success();
    assert_eq!(sandbox.git(["status", "--porcelain"]), " M sub\n");
}

#[test]
fn ignored_files_that_are_moved_onto_a_tracked_one_are_left_out() {
    for stage in ["true", "git add -A"] {
        let sandbox = prepared(
            "echo build >.gitignore; echo v >v; git add .; git commit -qm v; mkdir build; echo o >build/o; sleep 0.05",
        );
        let output =
            sandbox.sh(&format!("repoguard mutate -m m -- sh -c 'rm v; mv build v; {stage}'")).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && told.contains("v/o"), "{stage}: {told}");
        assert_eq!(sandbox.git(["ls-tree", "-r", "--name-only", "HEAD"]), ".gitignore\nfile\n", "{stage}");
    }
}

#[test]
fn sparse_checkout_that_the_command_sets_stays_beside_what_the_caller_has_staged() {
    for staged in ["echo x >>file; git add file", "git rm -q --cached gone", "echo n >n; git add n"] {
        let sandbox = prepared(&format!(
            "mkdir d e; echo d >d/f; echo e >e/f; echo g >gone; git add .; git commit -qm second; {staged}"
        ));
        let was = sandbox.git(["status", "--porcelain"]);
        sandbox
            .sh("repoguard mutate --allow-dirty -m m -- sh -c 'git sparse-checkout set d; echo y >d/new'")
            .assert()
            .success();
        assert_eq!(sandbox.git(["status", "--porcelain"]), was, "{staged}");
        assert_eq!(sandbox.git(["show", "--format=", "--name-only", "HEAD"]), "d/new\n", "{staged}");
    }
}

#[test]
fn flags_of_the_callers_stay_whatever_the_commands_git_does_to_the_index() {
    let flag = "echo a >a; echo b >b; git add .; git commit -qm second; git update-index --assume-unchanged a; \
        git update-index --skip-worktree b; echo A >a; echo B >b";
    for staged in ["true", "echo x >>file; git add file"] {
        for command in ["git read-tree HEAD", "rm .git/index; git reset -q", "git rm -qr --cached .; git add ."] {
            let sandbox = prepared(&format!("{flag}; {staged}"));
            let was = sandbox.git(["ls-files", "-v"]);
            sandbox
                .sh(&format!("repoguard mutate --allow-dirty -m m -- sh -c '{command}; echo n >n'"))
                .assert()
                .success();
            assert_eq!(sandbox.git(["ls-files", "-v"]).replace("H n\n", ""), was, "{staged}; {command}");
        }
    }
    // What is outside of the sparse checkout is no deletion.
    let sandbox = prepared(SPARSE);
    sandbox.sh("repoguard mutate -m m -- sh -c 'git read-tree HEAD; echo n >n'").assert().success();
    assert_eq!(sandbox.git(["status", "--porcelain"]), "");
}
