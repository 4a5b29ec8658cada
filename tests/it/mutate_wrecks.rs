//! `repoguard mutate`: each way to wreck a checkout, and that it is put back. One line a wreck; the command then fails.

use std::fs;
use std::process::Command;
use std::sync::LazyLock;

use crate::support::{Image, RepoState, Sandbox, User, to_the_end, traces};

/// A checkout with one of everything.
const FURNISH: &str = r#"
git init -q --template= -b main . && mkdir -p .git/info && git config gc.auto 0
echo first >file && git add file && git commit -qm first && git tag v0
mkdir -p d/e other deep/1/2/3 empty/er
echo a >d/a; echo b >d/e/b; echo o >other/o; echo deep >deep/1/2/3/f; : >nothing; echo twin >twin
seq 20000 >large; printf 'a\000b' >binary; printf 'a\r\nb\r\n' >crlf.txt; printf 'a\r\nb\n' >mixed; printf 'no newline' >open
printf '*.txt text\n*.id ident\n*.rot filter=rot\n*.lf text eol=lf\n' >.gitattributes
git config filter.rot.clean 'tr a-z n-za-m'; git config filter.rot.smudge 'tr n-za-m a-z'
printf '$Id: by hand $\n' >x.id; echo hello >x.rot; printf 'a\r\n' >x.lf
printf 'x\n' >'new
line'; echo x >' space '; echo x >-dash; echo x >'quo"te\'; echo x >"$(printf 'caf\351')"; echo x >'*'; echo x >':(top)y'
ln -s d/a link; ln -s nowhere dangling; ln -s d dirlink; ln -s ../file d/up
echo '#!/bin/sh' >run; chmod 755 run; echo p >private; echo g >group; echo r >readonly
printf '*.log\nbuild/\n' >.gitignore
echo flagged >assumed; echo flagged >skipped
git add -A 2>/dev/null && git commit -qm furnished && git tag -a -m v1 v1
git checkout -q -b side v1 && echo side >file && git commit -qam side && git checkout -q main && echo main >file && git commit -qam main
echo stashed >>file && git stash -q && git stash apply -q && echo again >>file && git stash -q
git update-index --assume-unchanged assumed; git update-index --skip-worktree skipped; echo hidden >>assumed; echo hidden >>skipped
git update-ref refs/remotes/origin/main HEAD~1; git symbolic-ref refs/remotes/origin/HEAD refs/remotes/origin/main
printf 'a\r\nb\r\n' >crlf.txt; printf '$Id: by hand $\n' >x.id; printf 'a\r\n' >x.lf
chmod 600 private; chmod 640 group; chmod 444 readonly; chmod 711 run; chmod 750 other
mkdir build d/build mine; echo x >build/out; echo x >d/build/out; echo x >d/x.log; echo mine >mine/m; chmod 640 mine/m; ln -s m mine/l; echo u >untracked; echo u >d/untracked
"#;

/// A copy of it for this user.
fn wreckable(user: User) -> Sandbox {
    static IMAGE: LazyLock<Image> = LazyLock::new(|| {
        let sandbox = Sandbox::empty();
        sandbox.sh(&format!("set -e; {FURNISH}")).assert().success();
        Image::of(sandbox.here())
    });
    let sandbox = Sandbox::empty();
    IMAGE.write(sandbox.here());
    user.owns(&sandbox);
    sandbox
}

/// A mutation whose command wrecks and fails puts back everything, and leaves alone what is ignored.
#[track_caller]
fn put_back(script: &str) {
    for user in User::all() {
        let sandbox = wreckable(*user);
        let before = sandbox.state();
        let mut command = sandbox.mutate_command(&[], &format!("exec 2>&1 >/dev/null; {script}\nexit 7"));
        user.runs(&mut command);
        let output = to_the_end(command).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        let now = sandbox.state();
        before.assert_same(&now, &format!("as {user:?}: {told}"));
        assert_eq!(output.status.code(), Some(7), "{user:?}: {told}");
        assert_eq!(traces(&sandbox.path(".git")), [""; 0], "left behind");
        if !TOUCH_IGNORED.iter().any(|touch| script.contains(touch)) {
            assert_eq!(before.ignored(), now.ignored(), "ignored files");
        }
    }
}

/// Scripts with one of these change ignored files themselves.
const TOUCH_IGNORED: [&str; 7] = ["rm -rf d", "mv d", "clean", ".log", "rm -rf --", "chmod -R", "chmod 0 d"];

macro_rules! wrecks {
    ($($name:ident: $script:literal,)*) => {
        const WRECKS: &[(&str, &str)] = &[$((stringify!($name), $script)),*];
        $(#[test]
        fn $name() {
            put_back($script);
        })*
    };
}

wrecks! {
    edited_file: "echo x >>file",
    edited_file_of_the_same_size_and_time: "touch -r file ../t; printf 'miau\\n' >file; touch -r ../t file",
    truncated_file: ": >large",
    replaced_file: "echo x >n; mv n file",
    deleted_file: "rm file",
    deleted_files_of_all_kinds: "rm -f nothing binary crlf.txt mixed open x.* -- -dash 'quo\"te\\' ' space ' 'new\nline' caf* ':(top)y'",
    edited_files_of_all_kinds: "for f in * .gitattributes; do [ -f \"./$f\" ] && echo x >>\"./$f\"; done",
    rewritten_line_endings: "for f in crlf.txt mixed x.lf; do tr -d '\\r' <$f >n; cat n >$f; done; rm n",
    checked_out_again: "rm crlf.txt mixed x.id x.rot x.lf; git checkout -q -- crlf.txt mixed x.id x.rot x.lf",
    attributes_edited: "echo '* -text' >.gitattributes; rm crlf.txt x.lf x.rot",
    attributes_deleted: "rm .gitattributes x.rot crlf.txt",
    filter_broken: "git config filter.rot.smudge false; git config filter.rot.required true; rm x.rot",
    conversion_switched_on: "git config core.autocrlf true; rm mixed crlf.txt file; git checkout -q -- file",
    renamed_file: "mv file moved",
    renamed_by_case_only: "mv file FILE; mv d/e d/E",
    renamed_directory: "mv other another",
    swapped_files: "mv file t; mv d/a file; mv t d/a",
    swapped_directories: "mv other t; mv deep other; mv t deep",
    file_became_directory: "rm file; mkdir file; echo x >file/x",
    deep_file_became_directories: "rm d/a; mkdir -p d/a/b/c; echo x >d/a/b/c/x; git add -A",
    directory_became_file: "rm -rf d; echo x >d",
    deep_directory_became_file: "rm -rf deep/1; echo x >deep/1; git add -A",
    file_became_link: "rm file; ln -s d/a file",
    file_became_link_to_a_directory: "rm file; ln -s ../home file",
    directory_became_link: "mv d ../d; ln -s ../d d",
    directory_became_link_to_another: "rm -rf deep; ln -s other deep; echo x >other/1",
    link_became_file: "rm link; echo x >link",
    link_became_directory: "rm dirlink; mkdir dirlink; echo x >dirlink/a",
    link_points_elsewhere: "rm link dangling; ln -s file link; ln -s ../home/nobody dangling",
    file_became_fifo: "rm file d/e/b; mkfifo file d/e/b",
    new_fifo: "mkfifo d/fifo fifo",
    hard_linked_together: "rm file; ln d/a file; echo x >>file",
    made_executable: "chmod +x file d/a",
    no_longer_executable: "chmod 644 run",
    all_bits_changed: "chmod 777 file private group readonly; chmod 600 run nothing",
    special_bits: "chmod 4755 run; chmod 2755 group",
    no_permission_at_all: "chmod 0 file private large d/a untracked",
    read_only_files: "chmod 444 file large; chmod 555 run",
    read_only_directories: "rm d/a d/e/b; chmod 555 d/e other deep/1",
    locked_directories: "rm d/a; echo x >other/new; chmod 0 d other deep",
    deleted_directory: "rm -rf other deep",
    deleted_everything: "rm -rf -- * .gitignore .gitattributes",
    deleted_empty_directories: "rmdir empty/er empty",
    empty_directory_filled: "echo x >empty/x; echo x >empty/er/x",
    new_empty_directories: "mkdir -p new/er d/new",
    new_files: "echo x >new; mkdir -p n/e/s/t; echo x >n/e/s/t/x; echo x >-; echo x >d/e/new; ln -s x y",
    new_files_with_odd_names: "echo x >'new\nfile'; echo x >-n; echo x >\"$(printf '\\377')\"; mkdir ' '; echo x >' / '",
    new_files_that_nobody_may_touch: "mkdir -p n/n; echo x >n/n/x; chmod 0 n/n/x; chmod 555 n/n; chmod 0 n",
    new_file_in_a_directory_of_the_callers_own: "echo x >mine/theirs; echo x >d/e/theirs",
    untracked_edited: "echo x >>untracked; echo x >>mine/m; rm mine/l",
    untracked_deleted: "rm -r untracked mine",
    untracked_renamed: "mv mine yours; mv untracked tracked",
    untracked_replaced: "rm untracked; mkdir untracked; echo x >untracked/x; rm mine/m; mkfifo mine/m; chmod 700 mine",
    untracked_staged: "git add -A; git add -f build/out",
    untracked_and_ignored_cleaned: "git clean -qffdx",
    ignore_rules_deleted: "rm .gitignore; echo x >new.log.not",
    ignore_rules_cover_all: "echo '*' >>.gitignore; echo x >new; echo x >>untracked; rm mine/m",
    ignore_rules_cover_nothing: "echo '!*' >>.gitignore; git add -A",
    excludes_cover_all: "echo '*' >.git/info/exclude; echo x >new; echo x >>untracked; rm mine/m",
    closed_directory_where_a_file_was: "rm file; mkdir file; echo x >file/x; chmod 444 file",
    closed_directory: "mkdir closed; echo x >closed/x; mkdir closed/d; chmod 444 closed",
    ignored_file_where_a_file_was: "rm file; mkdir -p file/build; echo x >file/x.log; echo x >file/build/x",
    flagged_files_edited: "echo x >>assumed; echo x >>skipped",
    flagged_files_deleted: "rm assumed skipped",
    flags_cleared: "git update-index --no-assume-unchanged assumed; git update-index --no-skip-worktree skipped",
    flags_set: "git update-index --assume-unchanged file d/a; git update-index --skip-worktree large; rm file large",
    staged: "echo x >>file; echo x >n; git add file n; git rm -q d/a; git mv other/o o; echo y >>file",
    staged_as_intent: "echo x >n; git add -N n",
    removed_from_the_index: "git rm -rq --cached .",
    executable_bit_staged: "git update-index --chmod=+x file",
    index_deleted: "rm .git/index",
    index_destroyed: "echo garbage >.git/index",
    index_emptied: "git read-tree --empty",
    index_of_another_kind: "git update-index --index-version 4; git update-index --split-index; echo x >n; git add n",
    index_lock_left_by_a_killed_git: "echo x >>file; git -c core.editor='kill -9 $PPID;:' commit -a; rm file",
    committed: "echo x >>file; git commit -qam x",
    committed_all: "git add -A; git commit -qm x",
    amended: "echo x >>file; git commit -qa --amend -m other",
    branch_made: "git branch new; git branch -f side HEAD~1",
    branch_deleted: "git branch -D side",
    branch_renamed: "git branch -m main renamed",
    branch_switched: "git checkout -q -f side",
    branch_made_and_switched: "git checkout -q -b new/er; echo x >>file; git commit -qam x",
    orphan_branch: "git checkout -q --orphan new; git rm -rqf .; echo x >x; git add x; git commit -qm x",
    head_detached: "git checkout -q --detach; git commit -q --allow-empty -m x",
    head_points_to_no_branch: "git symbolic-ref HEAD refs/heads/nowhere",
    branch_reset: "git update-index --no-assume-unchanged assumed; git update-index --no-skip-worktree skipped; git reset -q --hard HEAD~2",
    rebased: "git rebase -q -X theirs side",
    tags_changed: "git tag new; git tag -d v1; git tag -f v0 HEAD",
    remote_refs_changed: "git update-ref refs/remotes/origin/main HEAD; git update-ref refs/remotes/origin/new HEAD",
    symbolic_ref_changed: "git symbolic-ref refs/remotes/origin/HEAD refs/remotes/origin/other; git symbolic-ref refs/heads/alias refs/heads/side",
    symbolic_ref_left_dangling: "git symbolic-ref refs/heads/alias refs/heads/side; git branch -D side",
    symbolic_ref_and_its_target_changed: "git symbolic-ref refs/heads/alias refs/heads/side; git branch -f side HEAD",
    notes_added: "git notes add -m x; git replace HEAD HEAD~1",
    refs_packed: "git tag new; git pack-refs --all; git gc -q",
    stashed: "echo x >>file; git stash -q -u",
    stash_popped: "git stash pop -q",
    stash_dropped: "git stash drop -q",
    stash_dropped_to_the_last: "git stash drop -q; git stash drop -q",
    stash_dropped_to_the_last_and_begun_anew: "git stash drop -q; git stash drop -q; echo x >>file; git stash -q",
    stash_cleared: "git stash clear",
    merge_conflict: "git merge -q side",
    merge_finished: "git merge -q -X ours -m x side",
    merge_uncommitted: "git merge -q --no-commit --no-ff -X ours side",
    cherry_pick_conflict: "git cherry-pick side",
    revert_begun: "echo x >>file; git commit -qam x; echo y >>file; git commit -qam y; git revert --no-edit HEAD~1",
    rebase_conflict: "git rebase -q side",
    bisect_begun: "git bisect start; git bisect bad; git bisect good v1",
    am_conflict: "git format-patch -q --stdout v1..side >../p; git am -q -3 ../p",
    garbage_collected: "echo x >>file; git add file; git gc -q --prune=now; rm large",
    worktree_of_another_commit: "git read-tree -u --reset v1",
    sparse: "git sparse-checkout set d",
    repository_nested: "git init -q nested; git -C nested commit -q --allow-empty -m x; git init -q d/nested",
    head_detached_by_hand: "git update-ref --no-deref HEAD v0; rm file",
}

#[test]
fn every_wreck_is_seen_by_the_comparison() {
    // What repoguard would find: without this, a wreck that does nothing would prove nothing.
    let wrecks_nothing = |script: &str| {
        let sandbox = wreckable(User::Own);
        let before = sandbox.state();
        assert!(before.difference(&sandbox.state()).is_none(), "looking changes nothing");
        sandbox.sh(&format!("exec 2>&1 >/dev/null; {script}\n:")).assert().success();
        before.difference(&sandbox.state()).is_none()
    };
    let harmless: Vec<&str> = WRECKS.iter().filter(|wreck| wrecks_nothing(wreck.1)).map(|wreck| wreck.0).collect();
    assert_eq!(harmless, [""; 0]);
}

#[test]
fn command_that_succeeds_and_is_not_allowed_to_is_undone_just_so() {
    for script in [
        "rm -rf d; mkfifo d; chmod 0 file",
        "git stash -q -u; git checkout -q -f side",
        "mv d ../d; ln -s ../d d; echo '*' >>.gitignore",
    ] {
        for user in User::all() {
            let sandbox = wreckable(*user);
            let before = sandbox.state();
            let mut command: Command = sandbox.mutate_command(&["--verify", "exit 5"], &format!("{script} >&2"));
            user.runs(&mut command);
            let output = to_the_end(command).output().unwrap();
            let told = String::from_utf8_lossy(&output.stderr);
            before.assert_same(&sandbox.state(), &format!("as {user:?}: {told}"));
            assert!([Some(5), Some(65)].contains(&output.status.code()), "{user:?}: {told}");
        }
    }
}

#[test]
fn commit_that_the_command_had_pruned_is_put_back() {
    let sandbox = crate::mutate::furnished();
    let pruned = "git reset -q --hard HEAD~1; git reflog expire --expire=now --all; git gc -q --prune=now";
    sandbox.undone(&[], &format!("{pruned}; exit 7"), 7);
    sandbox.undone(&[], &format!("{pruned}; git checkout -q --orphan x; git branch -D main >&2; {pruned}; exit 7"), 7);
    sandbox.git(["fsck", "--strict", "--no-dangling"]);
}

#[test]
fn refs_whose_objects_were_pruned_are_named_and_all_else_is_put_back() {
    let sandbox = crate::mutate::furnished();
    let before = sandbox.state();
    sandbox.sh("git checkout -q -b side; git commit -q --allow-empty -m side; git checkout -q main").assert().success();
    let script = "git branch -q -D side; git reflog expire --expire=now --all; git gc -q --prune=now; rm -r d; exit 7";
    let output = sandbox.mutate(&[], script).assert().get_output().clone();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let mut show = to_the_end(sandbox.command("git"));
    if show.args(["rev-parse", "-q", "--verify", "side"]).output().unwrap().status.success() {
        sandbox.git(["branch", "-q", "-D", "side"]);
    } else {
        assert!(told.contains("refs/heads/side"), "{told}");
    }
    before.assert_same(&sandbox.state(), &told);
    sandbox.assert_no_traces();
}

/// Directories one in the other, with a path of more bytes than the system takes.
const DEEP: &str = "i=0; while [ $i -lt 250 ]; do mkdir dddddddddddddddddddd; cd -P dddddddddddddddddddd; i=$((i+1)); done; echo leaf >leaf";

#[test]
fn directories_deeper_than_a_path_can_be() {
    put_back(&format!("echo x >new; {DEEP}"));
    put_back(&format!("cd d; rm a; echo x >e/b; {DEEP}"));
    put_back(&format!("cd mine; echo x >m; {DEEP}"));
    put_back(&format!("mkdir n; cd n; echo 'dd*' >.gitignore; {DEEP}"));
}

#[test]
fn directories_deeper_than_a_path_can_be_are_no_change_to_commit() {
    let sandbox = Sandbox::new();
    let before = sandbox.state();
    let output = sandbox.mutate(&[], &format!("echo x >file; {DEEP}")).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && told.contains("longer than the system takes"), "{told}");
    before.assert_same(&sandbox.state(), &told);
    sandbox.repoguard(["exec", "--", "true"]).assert().success();
    // There before, it is a reason not to begin.
    sandbox.sh(DEEP).assert().success();
    let output = sandbox.mutate(&[], "echo x >file").output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && told.contains("longer than the system takes") && told.len() < 1000, "{told}");
    sandbox.repoguard(["exec", "--", "true"]).assert().success();
}

#[test]
fn looking_at_the_state_changes_nothing() {
    let sandbox = wreckable(User::Own);
    let index = fs::read(sandbox.path(".git/index")).unwrap();
    let (one, other): (RepoState, RepoState) = (sandbox.state(), sandbox.state());
    assert!(one.difference(&other).is_none());
    assert_eq!(fs::read(sandbox.path(".git/index")).unwrap(), index);
}
