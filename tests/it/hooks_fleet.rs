//! The fleet that never heard of repoguard: many processes, plain `git add` and `git commit`, and nothing but the hooks.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::thread;

use crate::support::{Sandbox, hook, lines, long, script};

/// One round: a file that nobody else touches, until it is committed, by us or by somebody who swept it in.
const ROUND: &str = r#"
name=$1 tries=0
add() {
    until git add "$name" 2>>"$SANDBOX/told"; do sleep 0.01; done
}
printf '%s\n' "$name" >"$name"
add
while :; do
    git commit -q -m "$name" >>"$SANDBOX/told" 2>&1 && ours=yes || ours=no
    if git cat-file -e "HEAD:$name" 2>/dev/null; then
        [ $ours = yes ] || echo "$name" >>"$SANDBOX/swept"
        break
    fi
    tries=$((tries+1))
    [ $tries -lt 500 ] || exit 9
    # Git reads the index before it locks it: an add that came in between is gone, hooks or not.
    git ls-files --error-unmatch "$name" >/dev/null 2>&1 || { echo "$name" >>"$SANDBOX/lost"; add; }
    sleep "0.0$((tries % 9 + 1))"
done
echo "$tries" >>"$SANDBOX/tries"
"#;

struct Outcome {
    commits: usize,
    /// Commits with more than one file: somebody added between another's last look at the index and his commit.
    mixed: usize,
    /// Files that came into somebody else's commit.
    swept: usize,
    /// Adds that another git undid.
    lost: usize,
    /// Times that a commit took away what another had brought, or brought it again.
    undone: usize,
    tries: usize,
    told: String,
}

fn fleet(guarded: bool, processes: usize, rounds: usize) -> Outcome {
    let sandbox = if guarded { Sandbox::guarded() } else { Sandbox::new() };
    thread::scope(|scope| {
        for process in 0..processes {
            let sandbox = &sandbox;
            scope.spawn(move || {
                for round in 0..rounds {
                    let mut step = sandbox.command("sh");
                    step.args(["-c", ROUND, "sh", &format!("file-{process}-{round}")]);
                    let status = step.status().unwrap();
                    assert!(status.success(), "{status}: {:?}", lines(&sandbox.outside("told")).pop());
                }
            });
        }
    });
    let log = sandbox.git(["log", "--format=%x00%s", "--name-only", "HEAD"]);
    let mut commits_of: BTreeMap<String, usize> = BTreeMap::new();
    let (mut commits, mut mixed) = (0, 0);
    for commit in log.split('\0').skip(1) {
        let files: Vec<&str> = commit.lines().skip(1).filter(|line| line.starts_with("file-")).collect();
        commits += 1;
        mixed += usize::from(files.len() > 1);
        for file in files {
            *commits_of.entry(file.to_owned()).or_default() += 1;
        }
    }
    let names = (0..processes).flat_map(|process| (0..rounds).map(move |round| format!("file-{process}-{round}")));
    let undone: usize = commits_of.values().map(|commits| commits - 1).sum();
    if guarded {
        let missing: Vec<String> = names.filter(|name| !commits_of.contains_key(name)).collect();
        assert_eq!(missing, [""; 0], "every file lands");
        // Once; but git reads the index before it locks it, and may write back one from before another's commit. That is
        // over before any hook runs.
        assert!(undone <= processes * rounds / 50, "{undone} files landed more than once, or were taken away");
        let status = sandbox.git(["status", "--porcelain"]);
        assert!(status.lines().count() <= undone, "{status}");
    }
    sandbox.git(["fsck", "--strict", "--no-dangling"]);
    if guarded {
        sandbox.assert_nothing_left();
    }
    let tries = lines(&sandbox.outside("tries")).iter().filter_map(|line| line.parse::<usize>().ok()).sum();
    let swept = lines(&sandbox.outside("swept")).len();
    let lost = lines(&sandbox.outside("lost")).len();
    let told = fs::read_to_string(sandbox.outside("told")).unwrap_or_default();
    Outcome { commits: commits - 1, mixed, swept, lost, undone, tries, told }
}

#[test]
fn fleet_with_nothing_but_hooks_loses_nothing() {
    let (processes, rounds) = if long() { (16, 20) } else { (8, 5) };
    for guarded in [true, false] {
        let outcome = fleet(guarded, processes, rounds);
        let Outcome { commits, mixed, swept, lost, undone, tries, told } = outcome;
        let line = format!(
            "{processes} processes, {rounds} rounds, {}: {commits} commits, {mixed} with the files of several, \
             {swept} files in others' commits, {lost} adds undone by git, \
             {undone} files taken away or brought again by others' commits, {tries} refused tries",
            if guarded { "hooks" } else { "no hooks" },
        );
        writeln!(std::io::stderr(), "{line}").ok();
        assert!(!told.contains("panicked"), "{told}");
        if guarded {
            assert!(!told.contains("outside the guard"), "{told}");
            assert!(!told.contains("killed before"), "{told}");
        }
    }
}

/// Two at once are seen by a file that only one can make: in the commits' own hook, and in commands under `exec`.
const ORACLE: &str = "set -C; : >\"$SANDBOX/oracle\" || echo violated >>\"$SANDBOX/violations\"; \
    echo run >>\"$SANDBOX/runs\"; sleep 0.0$(($$ % 3)); rm -f \"$SANDBOX/oracle\"";

#[test]
fn hooks_and_exec_never_let_two_in() {
    let sandbox = Sandbox::guarded();
    sandbox.own_hook("commit-msg", ORACLE);
    let commit = "n=0; until git commit -q --allow-empty -m x 2>>\"$SANDBOX/told\"; do n=$((n+1)); [ $n -lt 500 ] || exit 9; done";
    let rounds = if long() { 40 } else { 6 };
    thread::scope(|scope| {
        for process in 0..6 {
            let sandbox = &sandbox;
            scope.spawn(move || {
                for _ in 0..rounds {
                    let mut step = if process < 4 {
                        sandbox.sh_command(commit)
                    } else {
                        sandbox.repoguard_command(["exec", "--", "sh", "-c", ORACLE])
                    };
                    let output = step.output().unwrap();
                    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                }
            });
        }
    });
    assert_eq!(lines(&sandbox.outside("violations")), [""; 0], "two holders at once");
    assert!(lines(&sandbox.outside("runs")).len() >= 6 * rounds);
    assert_eq!(sandbox.git(["rev-list", "--count", "HEAD"]).trim(), (4 * rounds + 1).to_string());
    sandbox.assert_nothing_left();
    sandbox.assert_nothing_to_tell();
}

/// As our script, but that it goes on after the guard: notes what is staged, and gives others a moment to add more.
const NOTES: &str = "repoguard hook pre-commit --script \"$0\" -- \"$@\" || exit; \
    git ls-files -s | cut -f2 >\"$SANDBOX/staged-$PPID\"; sleep 0.0$(($$ % 5))";

#[test]
fn what_is_staged_after_the_guard_never_comes_into_the_commit() {
    let sandbox = Sandbox::guarded();
    script(&hook(&sandbox, "pre-commit"), NOTES);
    sandbox.own_hook(
        "post-commit",
        "git ls-tree -r --name-only HEAD | grep -vxFf \"$SANDBOX/staged-$PPID\" >>\"$SANDBOX/unseen\"",
    );
    let adds = "n=0; while ! [ -e ../stop ]; do n=$((n+1)); echo $n >a$n; git add a$n 2>/dev/null; sleep 0.03; done";
    let mut adder = sandbox.start(sandbox.sh_command(adds));
    let (mut landed, mut refused) = (0, 0);
    for _ in 0..200 {
        let mut git = sandbox.start(sandbox.git_command(["commit", "-q", "--allow-empty", "-m", "x"]));
        landed += usize::from(git.ended().success());
        refused += usize::from(git.stderr().contains("other files were staged"));
        if landed >= 5 && refused >= 5 {
            break;
        }
    }
    fs::write(sandbox.outside("stop"), "").unwrap();
    adder.ended();
    assert_eq!(lines(&sandbox.outside("unseen")), [""; 0], "{landed} landed, {refused} refused");
    assert!(landed >= 3 && refused >= 3, "this shows little: {landed} landed, {refused} refused");
    sandbox.assert_nothing_left();
}
