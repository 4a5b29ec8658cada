//! What belongs to a change: what CMD's own git staged, whatever the ignore rules say; not what others write to, nor what was there.
//! All that stays out is named.

use std::fs;
use std::io::Write as _;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::{Sandbox, eventually, has_program, skip};

fn ignoring(rules: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path(".gitignore"), rules).unwrap();
    fs::write(sandbox.path("file"), "1\n").unwrap();
    sandbox.git(["add", ".gitignore", "file"]);
    sandbox.git(["commit", "-q", "-m", "first"]);
    sandbox
}

/// Runs a mutation; returns its status, what it told, and its result file.
fn mutate(sandbox: &Sandbox, script: &str) -> (Option<i32>, String, Value) {
    let result = sandbox.outside("result");
    let mut command = sandbox.repoguard(["mutate", "-m", "m", "--result-file"]);
    let output = command.arg(&result).args(["--", "sh", "-c", script]).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), told, serde_json::from_str(&fs::read_to_string(&result).unwrap()).unwrap())
}

/// The paths of the newest commit.
fn committed(sandbox: &Sandbox) -> Vec<String> {
    let listed = sandbox.git(["show", "--format=", "--name-only", "HEAD"]);
    listed.lines().map(str::to_owned).collect()
}

#[test]
fn what_the_commands_git_staged_is_committed_although_it_is_ignored() {
    for (rules, script, paths) in [
        ("*.log\n", "echo 1 >new.log; git add -f new.log", &["new.log"][..]),
        (
            "build/\n",
            "mkdir -p build/deep; echo 1 >build/deep/kept; git add -f build/deep/kept; echo 2 >file",
            &["build/deep/kept", "file"],
        ),
        ("*.log\n", "echo 1 >a.log; ln -s a.log b.log; git add -f a.log b.log", &["a.log", "b.log"]),
        // Ignored before, not any more, and staged.
        (
            "*.log\nkey\n",
            "echo key >.gitignore; echo 1 >new.log; git add .gitignore new.log",
            &[".gitignore", "new.log"],
        ),
    ] {
        let sandbox = ignoring(rules);
        let (status, told, result) = mutate(&sandbox, script);
        assert_eq!(status, Some(0), "{script}: {told}");
        assert_eq!(committed(&sandbox), paths, "{script}: {told}");
        assert_eq!(result["left_out"], json!([]), "{script}");
        assert_eq!(sandbox.git(["status", "--porcelain"]), "", "{script}");
    }
}

#[test]
fn patch_that_unignores_and_adds_is_committed_whole() {
    let sandbox = ignoring("*.gen\n");
    fs::write(sandbox.path(".gitignore"), "other\n").unwrap();
    fs::write(sandbox.path("new.gen"), "made\n").unwrap();
    sandbox.git(["add", "-A"]);
    let patch = sandbox.outside("patch");
    fs::write(&patch, sandbox.git(["diff", "--cached"])).unwrap();
    sandbox.git(["reset", "-q", "--hard"]);
    let (status, told, _) = mutate(&sandbox, &format!("git apply --index {}", patch.display()));
    assert_eq!(status, Some(0), "{told}");
    assert_eq!(committed(&sandbox), [".gitignore", "new.gen"], "{told}");
}

#[test]
fn content_that_was_there_stays_out_although_it_was_staged_and_is_named() {
    for (rules, script) in [
        ("secret\n", "git add -f secret; echo 2 >file"),
        // The rule goes away, and everything is added.
        ("secret\n", "echo >.gitignore; git add -A; echo 2 >file"),
        ("none\n", "git add secret; echo 2 >file"),
    ] {
        let sandbox = ignoring(rules);
        fs::write(sandbox.path("secret"), "mine\n").unwrap();
        let (status, told, result) = mutate(&sandbox, script);
        assert_eq!(status, Some(0), "{script}: {told}");
        assert!(!committed(&sandbox).contains(&"secret".to_owned()), "{script}: {told}");
        assert!(told.contains("left out, is older than the command and was not in git: `secret`"), "{script}: {told}");
        assert_eq!(result["left_out"], json!([{"path": "secret", "why": "was-there"}]), "{script}");
        assert_eq!(fs::read_to_string(sandbox.path("secret")).unwrap(), "mine\n");
        assert_eq!(sandbox.git(["ls-files", "secret"]), "", "{script}");
    }
}

#[test]
fn ignored_files_that_the_command_made_are_named_and_nothing_changed_is_true() {
    let sandbox = ignoring("*.log\nout/\nwas/\n");
    fs::create_dir(sandbox.path("was")).unwrap();
    let (status, told, result) = mutate(&sandbox, "echo 1 >a.log; mkdir out; echo 1 >out/x; echo 1 >was/y");
    assert_eq!(status, Some(0), "{told}");
    assert!(told.contains("nothing that belongs to the change") && told.contains("left out, ignored: "), "{told}");
    assert_eq!(result["left_out"], json!([{"path": "a.log", "why": "ignored"}, {"path": "out", "why": "ignored"}]));
    let (status, told, result) = mutate(&sandbox, "touch file");
    assert_eq!((status, &result["left_out"]), (Some(0), &json!([])), "{told}");
    assert!(told.contains("nothing changed, nothing committed"), "{told}");
    // Ignored by the rules of before alone.
    let (status, told, result) = mutate(&sandbox, "echo >.gitignore; echo 1 >b.log; rm -f a.log");
    assert_eq!(status, Some(0), "{told}");
    assert_eq!(committed(&sandbox), [".gitignore"], "{told}");
    assert!(result["left_out"].as_array().unwrap().contains(&json!({"path": "b.log", "why": "ignored"})), "{result}");
}

#[test]
fn file_that_another_process_has_open_for_writing_is_not_the_commands_and_stays() {
    if !cfg!(target_os = "linux") {
        return skip("files that others have open", "the system does not show them");
    }
    for (name, was) in [("server.log", Some("old\n")), ("late.log", None), ("file", Some("1\n"))] {
        for (end, status) in [("", 0), ("; exit 3", 3)] {
            let sandbox = ignoring("none\n");
            if let Some(was) = was {
                fs::write(sandbox.path(name), was).unwrap();
            }
            let gate = sandbox.gate("server");
            let server = format!(
                "{}; echo one >>{name}; exec 3>>{name}; echo two >&3; touch ../up; read _; echo three >&3",
                gate.script()
            );
            let mut server = sandbox.start(sandbox.sh_command(&server));
            let script =
                format!("rm -f ../server.closed; while ! [ -e ../up ]; do sleep 0.01; done; echo 2 >other{end}");
            let (ended, told, result) = mutate(&sandbox, &script);
            assert_eq!(ended, Some(status), "{name}: {told}");
            server.finish();
            let text = fs::read_to_string(sandbox.path(name)).unwrap();
            assert_eq!(text, format!("{}one\ntwo\nthree\n", was.unwrap_or_default()), "{name}: {told}");
            if status == 0 {
                assert_eq!(committed(&sandbox), ["other"], "{name}: {told}");
                assert_eq!(result["left_out"], json!([{"path": name, "why": "open-for-writing"}]), "{name}");
            } else {
                assert!(!told.contains("everything was put back") && told.contains(name), "{name}: {told}");
                assert!(!sandbox.path("other").exists());
            }
        }
    }
}

#[test]
fn file_that_the_output_goes_to_is_no_change() {
    if !cfg!(target_os = "linux") {
        return skip("files that others have open", "the system does not show them");
    }
    for (end, status) in [("", 0), ("; exit 3", 3)] {
        let sandbox = ignoring("none\n");
        let mut log = fs::File::create(sandbox.path("build.log")).unwrap();
        let mut command = sandbox.repoguard_command(["mutate", "-m", "m", "--", "sh", "-c"]);
        command.arg(format!("echo building; echo 2 >file{end}")).stdout(log.try_clone().unwrap());
        let output = command.stderr(Stdio::piped()).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(status), "{told}");
        writeln!(log, "done").unwrap();
        assert_eq!(fs::read_to_string(sandbox.path("build.log")).unwrap(), "building\ndone\n", "{told}");
        assert_eq!(sandbox.git(["status", "--porcelain"]), "?? build.log\n", "{told}");
    }
}

#[test]
fn what_the_commands_own_daemon_writes_is_the_commands() {
    let sandbox = ignoring("none\n");
    let script = "(exec >made 2>&1 </dev/null; echo 1; while ! [ -e stop ]; do sleep 0.02; done) & while ! [ -s made ]; do sleep 0.01; done";
    let (status, told, result) = mutate(&sandbox, script);
    fs::write(sandbox.path("stop"), "").unwrap();
    assert_eq!(status, Some(0), "{told}");
    assert_eq!(committed(&sandbox), ["made"], "{told}: {result}");
}

#[test]
fn fifos_sockets_and_repositories_that_the_command_removed_are_named() {
    let sandbox = ignoring("none\n");
    assert!(Command::new("mkfifo").arg(sandbox.path("pipe")).status().unwrap().success());
    fs::create_dir(sandbox.path("run")).unwrap();
    fs::write(sandbox.path("run/tracked"), "").unwrap();
    sandbox.git(["add", "run"]);
    sandbox.git(["commit", "-q", "-m", "second"]);
    let socket = UnixListener::bind(sandbox.path("run/socket")).unwrap();
    sandbox.sh("git init -q inner; cd inner; git commit -q --allow-empty -m inner").assert().success();
    let (status, told, result) = mutate(&sandbox, "rm -rf pipe run/socket inner; echo 2 >file; exit 3");
    assert_eq!(status, Some(3), "{told}");
    assert!(!told.contains("everything was put back"), "{told}");
    for name in ["inner", "pipe", "run/socket"] {
        assert!(told.contains(name), "{name}: {told}");
    }
    assert_eq!(result["gone"], json!(["inner", "pipe", "run/socket"]));
    drop(socket);
    // Where they stay, and where they are not ours to miss, nothing is said.
    assert!(Command::new("mkfifo").arg(sandbox.path("pipe")).status().unwrap().success());
    let (status, told, _) = mutate(&sandbox, "echo 3 >file; exit 3");
    assert!(status == Some(3) && told.contains("everything was put back"), "{told}");
    let (status, told, _) = mutate(&sandbox, "rm pipe; echo 3 >file");
    assert_eq!(status, Some(0), "{told}");
    if has_program("mkfifo") {
        eventually("it is clean", || sandbox.git(["status", "--porcelain"]).is_empty());
    }
}

#[test]
fn file_in_place_of_a_directory_is_committed() {
    for (prepare, script, landed) in [
        ("mkdir empty", "rmdir empty; echo 1 >empty", &["A empty"][..]),
        ("mkdir empty", "rmdir empty; ln -s file empty; git add empty", &["A empty"]),
        ("mkdir -p logs; touch logs/a.log", "rm -r logs; echo 1 >logs", &["A logs"]),
        ("mkdir d; echo 1 >d/f; git add d; git commit -q -m d; chmod 700 d", "rm -r d; echo 1 >d", &["A d", "D d/f"]),
    ] {
        let sandbox = ignoring("*.log\n");
        sandbox.sh(prepare).assert().success();
        let before = sandbox.sh("find . -path ./.git -prune -o -print | sort").output().unwrap().stdout;
        let (status, told, _) = mutate(&sandbox, &format!("{script}; false"));
        assert_eq!(status, Some(1), "{script}: {told}");
        let after = sandbox.sh("find . -path ./.git -prune -o -print | sort").output().unwrap().stdout;
        let ignored = prepare.contains("log");
        assert!(ignored || before == after, "{script}: {}", String::from_utf8_lossy(&after));
        sandbox.sh("rm -rf logs").assert().success();
        if ignored {
            sandbox.sh(prepare).assert().success();
        }
        let (status, told, _) = mutate(&sandbox, script);
        assert_eq!(status, Some(0), "{script}: {told}");
        assert_eq!(sandbox.landed(), landed, "{script}");
        assert_eq!(sandbox.git(["status", "--porcelain"]), "", "{script}");
    }
}
