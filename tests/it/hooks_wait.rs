//! Hooks that find the lock busy: who waits and lands, who is refused before anything has changed, and what they are told.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::{OBEDIENT, Running, Sandbox, Terminal, eventually, hook, kept_indexes, lines, script, skip};

const COMMIT: [&str; 4] = ["commit", "-q", "-m", "mine"];
/// Moves the branch without touching the index.
const MOVE_HEAD: &str = "git update-ref HEAD $(git commit-tree -p HEAD -m theirs HEAD^{tree})";

/// A guarded repository with something staged, and somebody who holds it and does what he is told.
fn held() -> (Sandbox, Running) {
    let sandbox = Sandbox::guarded();
    sandbox.stage("new");
    let holder = sandbox.hold_with(&[], OBEDIENT);
    (sandbox, holder)
}

/// Lets the holder run a command, to its end.
fn obey(holder: &mut Running, command: &str) {
    let done = |holder: &Running| holder.stdout().matches("done").count();
    let before = done(holder);
    holder.send(command);
    eventually("the holder did it", || done(holder) > before);
}

fn commits(sandbox: &Sandbox) -> usize {
    sandbox.git(["rev-list", "--count", "HEAD"]).trim().parse().expect("a number")
}

fn log_of_subjects(sandbox: &Sandbox) -> String {
    sandbox.git(["log", "--format=%s"])
}

#[test]
fn commit_waits_says_so_and_lands_when_nothing_has_changed() {
    let (sandbox, mut holder) = held();
    let mut git = sandbox.git_queued(&COMMIT);
    eventually("it says that it waits", || git.stderr().contains("repoguard: waiting"));
    assert!(git.stderr().contains(&format!("pid {}", holder.pid())), "{}", git.stderr());
    assert_eq!(commits(&sandbox), 1);
    holder.finish();
    assert!(git.ended().success(), "{}", git.stderr());
    assert_eq!(log_of_subjects(&sandbox), "mine\nfirst\n");
    sandbox.assert_nothing_left();
    sandbox.assert_nothing_to_tell();
}

#[test]
fn commit_is_refused_when_the_holder_moved_head() {
    let (sandbox, mut holder) = held();
    let mut git = sandbox.git_queued(&COMMIT);
    obey(&mut holder, MOVE_HEAD);
    holder.finish();
    assert_eq!(git.ended().code(), Some(1), "{}", git.stderr());
    assert!(git.stderr().contains("HEAD moved from"), "{}", git.stderr());
    assert!(!git.stderr().contains("cannot lock ref"), "in our words, not git's: {}", git.stderr());
    assert_eq!(log_of_subjects(&sandbox), "theirs\nfirst\n");
    sandbox.assert_nothing_left();
    assert_eq!(sandbox.git(["diff", "--cached", "--name-only"]), "new\n");
    sandbox.git(COMMIT);
}

#[test]
fn commit_is_refused_when_the_holder_changed_what_is_staged() {
    for change in [
        "echo x >other; git add other",
        "git rm -q --cached new",
        "echo x >new; git add new",
        "chmod +x file; git add file",
    ] {
        let (sandbox, mut holder) = held();
        let mut git = sandbox.git_queued(&COMMIT);
        obey(&mut holder, change);
        holder.finish();
        assert_eq!(git.ended().code(), Some(1), "{change}: {}", git.stderr());
        assert!(git.stderr().contains("other files were staged"), "{change}: {}", git.stderr());
        assert_eq!(log_of_subjects(&sandbox), "first\n", "{change}");
        sandbox.assert_nothing_left();
    }
}

#[test]
fn commit_lands_when_the_holder_only_refreshed_the_index() {
    for split in [false, true] {
        let (sandbox, mut holder) = held();
        if split {
            obey(&mut holder, "git update-index --split-index; echo x >x; git add x; git rm -q --cached x");
        }
        let index = || fs::metadata(sandbox.path(".git/index")).unwrap().ino();
        let mut git = sandbox.git_queued(&COMMIT);
        let before = index();
        obey(&mut holder, "touch -d 2001-01-01 file; git status >/dev/null");
        assert_ne!(index(), before, "the index was not rewritten: this shows nothing");
        holder.finish();
        assert!(git.ended().success(), "split: {split}: {}", git.stderr());
        assert_eq!(log_of_subjects(&sandbox), "mine\nfirst\n");
        sandbox.assert_nothing_left();
    }
}

#[test]
fn commit_without_pre_commit_waits_in_the_next_hook() {
    let (sandbox, mut holder) = held();
    let mut git = sandbox.git_queued(&["commit", "-q", "--no-verify", "-m", "mine"]);
    holder.finish();
    assert!(git.ended().success(), "{}", git.stderr());
    sandbox.assert_nothing_left();
}

/// Replaces our pre-commit hook: what it runs goes on after the guard, as git does.
fn guard_then(sandbox: &Sandbox, guard: &str, more: &str) {
    script(&hook(sandbox, "pre-commit"), &format!("{guard} || exit\n{more}"));
}

const STAGE_OTHER: &str = "echo other >other; git add other";

#[test]
fn what_others_stage_between_the_guard_and_the_message_is_not_swept_in() {
    let sandbox = Sandbox::guarded();
    guard_then(&sandbox, "repoguard hook pre-commit --script \"$0\" -- \"$@\"", STAGE_OTHER);
    sandbox.stage("new");
    let mut git = sandbox.start(sandbox.git_command(COMMIT));
    assert_eq!(git.ended().code(), Some(1), "{}", git.stderr());
    assert!(git.stderr().contains("other files were staged"), "{}", git.stderr());
    assert_eq!(log_of_subjects(&sandbox), "first\n");
    sandbox.assert_nothing_left();
}

#[test]
fn chained_hook_may_stage() {
    let sandbox = Sandbox::new();
    sandbox.own_hook("pre-commit", STAGE_OTHER);
    sandbox.install_hooks();
    sandbox.stage("new");
    sandbox.git(COMMIT);
    assert_eq!(sandbox.git(["show", "--format=", "--name-only"]), "new\nother\n");
    sandbox.assert_nothing_left();
}

#[test]
fn hook_that_runs_the_guard_by_a_line_of_its_own_may_stage() {
    // As the manual tells users of husky: first the guard, then what stages formatted files.
    let sandbox = Sandbox::guarded();
    guard_then(&sandbox, "repoguard hook pre-commit \"$@\"", STAGE_OTHER);
    sandbox.stage("new");
    let mut git = sandbox.start(sandbox.git_command(COMMIT));
    assert!(git.ended().success(), "{}", git.stderr());
    assert_eq!(sandbox.git(["show", "--format=", "--name-only"]), "new\nother\n");
    sandbox.assert_nothing_left();
}

/// The command in a hint.
fn pasted(told: &str) -> &str {
    let start = told.find("hint: `repoguard ").unwrap_or_else(|| panic!("no command to paste: {told}")) + 7;
    told[start..].split('`').next().unwrap_or_default()
}

#[test]
fn commit_that_holds_the_index_is_refused_at_once_with_a_command_to_paste() {
    for args in [
        &["commit", "-q", "-a", "-m", "two words; 'quoted' $x"][..],
        &["commit", "-m", "x", "file"],
        &["commit", "-m", "x", "-i", "file"],
    ] {
        let (sandbox, mut holder) = held();
        fs::write(sandbox.path("file"), "changed\n").unwrap();
        let begun = Instant::now();
        let mut git = sandbox.start(sandbox.git_command(args));
        assert_eq!(git.ended().code(), Some(1), "{}", git.stderr());
        // It would wait for a minute if it waited.
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        let told = git.stderr();
        assert!(told.contains("busy"), "{told}");
        assert!(!sandbox.path(".git/index.lock").exists());
        assert_eq!(sandbox.tickets(), [""; 0]);
        holder.finish();
        sandbox.sh(pasted(&told)).assert().success();
        let subject = args.iter().skip_while(|arg| **arg != "-m").nth(1).unwrap();
        assert_eq!(log_of_subjects(&sandbox), format!("{subject}\nfirst\n"));
        sandbox.assert_nothing_left();
    }
}

#[test]
fn command_to_paste_locks_the_checkout_that_git_was_told_to_use() {
    let (sandbox, _holder) = held();
    fs::write(sandbox.path("file"), "changed\n").unwrap();
    let elsewhere = sandbox.outside("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let mut command = sandbox.git_command(["-C", "../repo", "commit", "-q", "-a", "-m", "x"]);
    command.current_dir(&elsewhere);
    let mut git = sandbox.start(command);
    assert_eq!(git.ended().code(), Some(1), "{}", git.stderr());
    let mut waiter = sandbox.sh_command(pasted(&git.stderr()));
    waiter.current_dir(&elsewhere);
    let mut waiter = sandbox.start(waiter);
    eventually("the pasted command waits for its turn", || {
        assert!(waiter.runs(), "{}", waiter.stderr());
        sandbox.waiters() == 1
    });
}

#[test]
fn refused_commits_do_not_hinder_the_holder() {
    let (sandbox, mut holder) = held();
    fs::write(sandbox.path("file"), "changed\n").unwrap();
    let rounds = "n=0; failed=0; while [ $n -lt 40 ]; do n=$((n+1)); echo $n >mine; tries=0; \
        until git add mine 2>>../adds; do failed=$((failed+1)); tries=$((tries+1)); [ $tries -lt 100 ] || exit 9; sleep 0.01; done; \
        done; echo \"failed $failed\" >../failed";
    holder.send(rounds);
    let mut refused = 0;
    while !sandbox.outside("failed").exists() || refused < 20 {
        let mut git = sandbox.start(sandbox.git_command(["commit", "-q", "-a", "-m", "x"]));
        assert_ne!(git.ended().code(), Some(0));
        refused += usize::from(git.stderr().contains("repoguard: busy"));
    }
    let failed: usize = lines(&sandbox.outside("failed"))[0].trim_start_matches("failed ").parse().unwrap();
    let told = fs::read_to_string(sandbox.outside("adds")).unwrap_or_default();
    assert!(told.lines().filter(|line| line.contains("fatal")).all(|line| line.contains("index.lock")), "{told}");
    // Each refused commit has git's own lock for milliseconds: a retry gets through, and most need none.
    assert!(failed < 40 + 40, "{failed} failed tries of 40 adds beside {refused} refused commits");
    assert_eq!(commits(&sandbox), 1);
}

#[test]
fn interrupted_while_it_waits_a_commit_leaves_nothing() {
    for signal in [Signal::INT, Signal::TERM, Signal::KILL] {
        let (sandbox, mut holder) = held();
        let mut git = sandbox.git_queued(&COMMIT);
        assert_eq!(kept_indexes(&sandbox.data()).len(), 1);
        git.signal_group(signal);
        git.ended();
        eventually("its place in the queue is given up", || sandbox.waiters() == 0);
        assert!(holder.runs());
        assert_eq!(commits(&sandbox), 1);
        holder.finish();
        // A hook that was killed cannot tidy up; the next one does.
        sandbox.git(COMMIT);
        sandbox.assert_nothing_left();
    }
}

#[test]
fn commit_keeps_its_place_among_those_who_wait() {
    let (sandbox, mut holder) = held();
    sandbox.own_hook("post-commit", "echo commit >>\"$SANDBOX/order\"");
    let mut first = sandbox.queue(&[], "echo first >>\"$SANDBOX/order\"");
    let mut git = sandbox.git_queued(&COMMIT);
    let mut last = sandbox.queue(&[], "echo last >>\"$SANDBOX/order\"");
    holder.finish();
    assert!(first.ended().success() && git.ended().success() && last.ended().success(), "{}", git.stderr());
    assert_eq!(lines(&sandbox.outside("order")), ["first", "commit", "last"]);
}

#[test]
fn commit_that_is_stopped_while_it_waits_holds_nobody_up() {
    let (sandbox, mut holder) = held();
    let mut git = sandbox.git_queued(&COMMIT);
    let mut behind = sandbox.queue(&[], "true");
    git.signal_group(Signal::STOP);
    holder.finish();
    assert!(behind.ended().success(), "{}", behind.stderr());
    git.signal_group(Signal::CONT);
    assert!(git.ended().success(), "{}", git.stderr());
    sandbox.assert_nothing_left();
}

#[test]
fn waiting_line_of_a_commit_leaves_the_terminal_and_ctrl_c_ends_the_wait() {
    let (sandbox, mut holder) = held();
    let Some(terminal) = Terminal::open(&sandbox, 200) else {
        return skip("a commit that waits on a terminal", "no tmux or no bash");
    };
    terminal.line("git commit -m never");
    terminal.expect("waiting");
    terminal.key("C-c");
    // Git does not wait for its hook then, so the shell's prompt may come before our last word.
    eventually("nobody waits", || sandbox.waiters() == 0);
    assert_eq!(commits(&sandbox), 1);
    terminal.clear();
    terminal.line("git commit -m mine");
    terminal.expect("waiting");
    holder.finish();
    terminal.expect("1 file changed");
    terminal.prompt();
    assert!(!terminal.screen().contains("waiting"), "{}", terminal.screen());
}

#[test]
fn hook_whose_git_was_killed_holds_nothing_up() {
    let (sandbox, mut holder) = held();
    let mut git = sandbox.git_queued(&COMMIT);
    git.signal(Signal::KILL);
    git.ended();
    let mut behind = sandbox.queue(&[], "true");
    holder.finish();
    assert!(behind.ended().success(), "{}", behind.stderr());
    assert_eq!(behind.stderr().matches("killed before").count(), 0, "{}", behind.stderr());
    eventually("no process is left", || sandbox.processes().is_empty());
    sandbox.assert_nothing_left();
    assert_eq!(commits(&sandbox), 1);
}
