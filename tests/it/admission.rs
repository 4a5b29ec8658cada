//! Who is inside a hold: processes that show its token, have its descriptors, or descend from its command, and nobody else.

use std::fs;
use std::os::unix::process::CommandExt as _;

use rustix::process::Signal;

use crate::support::{Sandbox, eventually, has_program, hook, is_root, kill, script, shell_status, skip};

/// Runs a line without our variables and without inherited descriptors.
const SCRUBBED: &str = "env -i PATH=\"$PATH\" HOME=\"$HOME\" python3 -c 'import subprocess, sys; \
    sys.exit(subprocess.run([\"sh\", \"-c\", sys.argv[1]], close_fds=True).returncode)'";

fn needs_python(what: &str) -> bool {
    let has = has_program("python3");
    if !has {
        skip(what, "needs python3");
    }
    has
}

#[test]
fn descendant_of_the_command_is_inside_without_token_and_descriptors() {
    if !needs_python("a descendant without token and descriptors") {
        return;
    }
    let sandbox = Sandbox::new();
    for script in [
        format!("{SCRUBBED} 'repoguard exec -n -- echo inside'"),
        // An orphan, while the command runs.
        format!(
            "{SCRUBBED} '(setsid sh -c \"sleep 0.2; repoguard exec -n -- echo inside >seen\" &) ; true'; sleep 0.1; while ! test -s seen; do sleep 0.02; done; cat seen; rm seen"
        ),
    ] {
        let output = sandbox
            .repoguard(["exec", "--", "sh", "-c", &script])
            .timeout(std::time::Duration::from_secs(30))
            .output()
            .unwrap();
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            "inside\n",
            "{script}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

#[test]
fn descendant_is_inside_also_when_the_wrapper_was_killed() {
    if !needs_python("a descendant after the wrapper's death") {
        return;
    }
    let sandbox = Sandbox::new();
    let script = format!("echo $$; read -r _; {SCRUBBED} 'repoguard exec -n -- touch inside'; echo done >done");
    let mut holder = sandbox.hold_with(&[], &script);
    holder.keeper();
    holder.signal(Signal::KILL);
    holder.send("go on");
    eventually("the command ended", || sandbox.path("done").exists());
    assert!(sandbox.path("inside").exists());
    eventually("the keeper released", || sandbox.try_once(&[]) == 0);
}

#[test]
fn process_that_was_started_before_the_hold_is_outside() {
    let sandbox = Sandbox::new();
    let agent = "while ! test -e held; do sleep 0.01; done; repoguard exec -n -- touch inside; echo $? >status";
    // The same process becomes the holder: the agent descends from it.
    let script = format!(
        "(sh -c '{agent}') & exec repoguard exec -- sh -c 'touch held; while ! test -e status; do sleep 0.01; done'"
    );
    sandbox.sh(&script).timeout(std::time::Duration::from_secs(30)).assert().success();
    assert_eq!(fs::read_to_string(sandbox.path("status")).unwrap().trim(), "75");
    assert!(!sandbox.path("inside").exists());
}

#[test]
fn orphan_of_an_earlier_neighbour_is_outside() {
    let sandbox = Sandbox::new();
    // The neighbour's own child is orphaned, and becomes a child of the holder, which looks after orphans.
    let orphan =
        "while ! test -e held; do sleep 0.01; done; sleep 0.1; repoguard exec -n -- touch inside; echo $? >status";
    let script = format!(
        "(while ! test -e held; do sleep 0.01; done; (sh -c '{orphan}' &); exit 0) & \
         exec repoguard exec -- sh -c 'touch held; while ! test -e status; do sleep 0.01; done'"
    );
    sandbox.sh(&script).timeout(std::time::Duration::from_secs(30)).assert().success();
    assert_eq!(fs::read_to_string(sandbox.path("status")).unwrap().trim(), "75");
}

#[test]
fn hold_of_acquire_admits_the_token_alone() {
    let sandbox = Sandbox::new();
    let script = "repoguard acquire --for-pid $$ >token; repoguard exec -n -- true; echo $?; \
        REPOGUARD_TOKEN=$(cat token) repoguard exec -n -- true; echo $?";
    let output = sandbox.sh(script).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "75\n0\n", "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn token_counts_where_the_holder_is_hidden_or_the_clock_differs() {
    const WHAT: &str = "tokens across namespaces";
    if !is_root() || !has_program("unshare") {
        return skip(WHAT, "needs root and unshare");
    }
    let sandbox = Sandbox::new();
    sandbox.open_to_all();
    let hidden = "mount -t proc -o hidepid=invisible proc /proc && exec setpriv --reuid 61004 --clear-groups \
        repoguard exec -n -- true";
    let cases = [
        ("another pid namespace", "unshare --pid --fork --mount-proc repoguard exec -n -- true".to_owned()),
        ("an earlier clock", "unshare --time --fork --boottime -20 repoguard exec -n -- true".to_owned()),
        ("a later clock", "unshare --time --fork --boottime 100000 repoguard exec -n -- true".to_owned()),
        ("a hidden holder", format!("unshare --mount sh -c '{hidden}'")),
        ("no /proc", "unshare --mount sh -c 'umount -l /proc && exec repoguard exec -n -- true'".to_owned()),
    ];
    for (what, line) in cases {
        // What it runs in must be possible here.
        let possible = line.replace("repoguard exec -n -- true", "true");
        if !sandbox.sh(&possible).output().unwrap().status.success() {
            skip(WHAT, what);
            continue;
        }
        let trusted = sandbox.outside("trusting");
        fs::write(&trusted, "[safe]\n\tdirectory = *\n").unwrap();
        let chmod = "chmod -R a+rwX .git";
        let script = format!("{chmod}; exec 3>&- ; {line}");
        let mut command = sandbox.repoguard_command(["exec", "--", "sh", "-c", &script]);
        command.env("GIT_CONFIG_GLOBAL", trusted);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{what}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn orphan_of_a_dead_hold_is_outside_beside_its_successor() {
    if !needs_python("an orphan with the token of a dead hold") {
        return;
    }
    let sandbox = Sandbox::new();
    // It keeps the token, and none of the descriptors.
    let orphan = "import os, subprocess, time\n\
        os.closerange(3, 1000)\n\
        os.setsid()\n\
        open('up', 'w').close()\n\
        while not os.path.exists('go'): time.sleep(0.01)\n\
        status = subprocess.run(['repoguard', 'exec', '-n', '--', 'true']).returncode\n\
        open('answer.new', 'w').write(str(status)); os.rename('answer.new', 'answer')\n";
    fs::write(sandbox.outside("orphan.py"), orphan).unwrap();
    let script =
        format!("echo $$; python3 '{}' </dev/null >/dev/null 2>&1 & sleep 60", sandbox.outside("orphan.py").display());
    let holder = sandbox.hold_with(&[], &script);
    eventually("the orphan is up", || sandbox.path("up").exists());
    let (keeper, command) = (holder.keeper(), holder.command_pid());
    for pid in [keeper, holder.pid(), command] {
        kill(pid, Signal::KILL);
    }
    holder.signal_group(Signal::KILL);
    let mut successor = sandbox.hold(&[]);
    fs::write(sandbox.path("go"), "").unwrap();
    eventually("the orphan asked", || sandbox.path("answer").exists());
    assert_eq!(fs::read_to_string(sandbox.path("answer")).unwrap(), "75");
    assert_eq!(shell_status(successor.finish()), 0);
    let told = sandbox.log().iter().filter(|entry| entry["event"] == "died").count();
    assert_eq!(told, 1, "a death is told once");
}

#[test]
fn forged_token_admits_nobody() {
    let sandbox = Sandbox::new();
    let mut holder = sandbox.hold_with(&[], "echo $REPOGUARD_TOKEN; read -r _ || :");
    let token = holder.first_line();
    let fence = token.split('-').next().unwrap().to_owned();
    for forged in [format!("{fence}-{}", "0".repeat(32)), token.to_uppercase(), format!("{token}x"), fence] {
        if forged == token {
            continue;
        }
        let mut command = sandbox.repoguard_command(["exec", "-n", "--", "true"]);
        command.env("REPOGUARD_TOKEN", &forged).process_group(0);
        assert_eq!(command.output().unwrap().status.code(), Some(75), "{forged}");
    }
    assert_eq!(shell_status(holder.finish()), 0);
}

#[test]
fn job_started_before_git_or_flock_became_the_holder_is_outside() {
    let sandbox = Sandbox::guarded();
    script(&hook(&sandbox, "commit-msg"), "touch held; while ! test -s status; do sleep 0.01; done");
    let job = "while ! test -e held; do sleep 0.01; done; repoguard exec -n -- touch inside; echo $? >status";
    for holder in [
        "git commit -q --allow-empty -m theirs",
        "flock .git/repoguard.lock sh -c 'touch held; while ! test -s status; do sleep 0.01; done'",
        "flock -o .git/repoguard.lock sh -c 'touch held; while ! test -s status; do sleep 0.01; done'",
    ] {
        let line = format!("(sh -c '{job}') & exec {holder}");
        sandbox.sh(&line).timeout(std::time::Duration::from_secs(30)).assert().success();
        assert_eq!(fs::read_to_string(sandbox.path("status")).unwrap().trim(), "75", "{holder}");
        for name in ["status", "held"] {
            fs::remove_file(sandbox.path(name)).unwrap();
        }
    }
    // The command itself is inside, also of one that keeps the lock from it.
    for holder in ["flock", "flock -o"] {
        sandbox.sh(&format!("{holder} .git/repoguard.lock repoguard exec -n -- true")).assert().success();
    }
}

#[test]
fn record_that_names_a_process_of_others_admits_nobody() {
    let sandbox = Sandbox::new();
    let mut holder = sandbox.hold_with(&["--name", "d"], "echo $REPOGUARD_TOKEN; read -r _ || :");
    let own = fs::read_to_string(sandbox.data().join("holders/0")).unwrap();
    let mut main = sandbox.hold(&[]);
    // Somebody who may write here keeps a slot, and writes that everybody's ancestor holds the worktree.
    let mut record: serde_json::Value = serde_json::from_str(&own).unwrap();
    record["resources"] = serde_json::json!([["repo", "shared"], ["w", "exclusive"]]);
    let by_token = record.clone();
    record["pid"] = 1.into();
    record["token_sha256"] = "0".into();
    record["descent"] = serde_json::json!({"holder": true});
    for (number, forged) in [(5, &record), (6, &by_token)] {
        let slot = sandbox.data().join("holders").join(number.to_string());
        fs::write(&slot, format!("{:<4095}\n", forged.to_string())).unwrap();
        let file = fs::File::open(&slot).unwrap();
        file.lock().unwrap();
        let mut command = sandbox.repoguard_command(["exec", "-n", "--", "true"]);
        command.env("REPOGUARD_TOKEN", holder.first_line());
        assert_eq!(command.output().unwrap().status.code(), Some(75), "{forged}");
    }
    assert_eq!(shell_status(main.finish()), 0);
    assert_eq!(shell_status(holder.finish()), 0);
}

#[test]
fn token_admits_again_after_the_records_were_removed() {
    let sandbox = Sandbox::new();
    let script = "repoguard acquire --for-pid $$ >../token; rm -rf .git/repoguard; \
        REPOGUARD_TOKEN=$(cat ../token) repoguard exec -w 20 -- echo inside";
    let output = sandbox.sh(script).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), told.as_str()), (Some(0), ""), "nothing is said of a token that counts");
}
