//! Foreign text on a terminal: whatever its source, it moves no cursor, forges no line, and hides nothing.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{At, Sandbox, copy_of_program, has_program, hooks_command, skip, to_the_end, walk};

/// A clipboard, a title, a screen, C1, DEL, reordered text, every line end, an invisible tag, and a line that could be ours.
const HOSTILE: &str = "x\u{1b}]52;c;eA==\u{7}\u{1b}[2J\u{9b}31m\u{7f}\u{202e}\u{2066}\u{200f}\r\n  FORGED\u{85}\u{2028}\u{200b}\u{e0041}\t";

/// The same as a part of a path, a branch or a name that may hold no line end for other reasons than ours.
const HOSTILE_NAME: &str = "x\u{202e}\u{2066}\u{9b}2J\u{200f}";

fn is_safe(c: char) -> bool {
    let invisible = "\u{61c}\u{200b}\u{200e}\u{200f}\u{2028}\u{2029}\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\u{2066}\u{2067}\u{2068}\u{2069}\u{feff}\u{e0041}";
    c == '\n' || !(c.is_control() || invisible.contains(c))
}

#[track_caller]
fn assert_safe(output: &Output, what: &str) {
    for (stream, bytes) in [("stdout", &output.stdout), ("stderr", &output.stderr)] {
        let text = std::str::from_utf8(bytes).unwrap_or_else(|_| panic!("{what}: {stream} is not UTF-8: {bytes:?}"));
        assert!(text.chars().all(is_safe), "{what}: {stream} is not safe: {text:?}");
        let forged = text.lines().find(|line| line.trim_start().starts_with("FORGED"));
        assert_eq!(forged, None, "{what}: {stream} has a line that is not ours: {text}");
        assert!(!text.contains("panicked"), "{what}: {text}");
    }
}

/// Runs each of these commands, which may fail but must show only safe text; returns all that they printed.
#[track_caller]
fn show_safely(sandbox: &Sandbox, commands: &[&[&str]]) -> String {
    let mut all = String::new();
    for command in commands {
        let output = sandbox.repoguard(*command).output().unwrap();
        assert_safe(&output, &command.join(" "));
        for bytes in [&output.stdout, &output.stderr] {
            all.push_str(&String::from_utf8_lossy(bytes));
        }
    }
    all
}

/// Puts the hostile text into every string of a JSON document that is only for people.
fn poison(value: &mut Value) {
    for name in ["user", "host", "agent", "command", "directory", "scope", "reason", "why", "message"] {
        if let Some(field) = value.get_mut(name) {
            *field = json!(HOSTILE);
        }
    }
    if value.get("command").is_some() {
        value["reason"] = json!(HOSTILE);
    }
}

/// Poisons all JSON objects in a file, one a line, which keeps its size if it was padded.
fn poison_lines(path: &Path) {
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().map(|line| {
        let Ok(mut value) = serde_json::from_str::<Value>(line) else { return line.to_owned() };
        poison(&mut value);
        format!("{:width$}", value.to_string(), width = line.len())
    });
    fs::write(path, lines.collect::<Vec<_>>().join("\n") + "\n").unwrap();
}

#[test]
fn records_of_holders_and_log_lines_are_shown_safely() {
    let sandbox = Sandbox::new();
    sandbox.repoguard(["exec", "--", "true"]).assert().success();
    let mut holder = sandbox.hold(&["--reason", "mine"]);
    let records = || walk(&sandbox.data().join("holders")).into_iter().filter(|path| path.is_file());
    records().for_each(|record| poison_lines(&record));
    poison_lines(&sandbox.data().join("log.jsonl"));
    let commands: [&[&str]; 7] = [
        &["status"],
        &["status", "--json"],
        &["exec", "-n", "--", "true"],
        &["exec", "-w", "0.5", "--", "true"],
        &["exec", "-n", "--on-busy", "skip", "--", "true"],
        &["mutate", "-n", "-m", "x", "--", "true"],
        &["acquire", "-n", "--ttl", "1"],
    ];
    let told = show_safely(&sandbox, &commands);
    assert!(told.contains(r"x\x1b]52;c;eA==\x07"), "it is shown, escaped: {told}");
    holder.signal_group(Signal::KILL);
    holder.ended();
    let told = show_safely(
        &sandbox,
        &[&["log"], &["log", "-n", "1", "-v"], &["log", "--since", "1h"], &["log", "--json"], &["exec", "--", "true"]],
    );
    assert!(told.contains(r"\u{202e}"), "{told}");
}

#[test]
fn json_carries_foreign_text_unchanged() {
    let sandbox = Sandbox::new();
    sandbox.repoguard(["exec", "--", "true"]).assert().success();
    poison_lines(&sandbox.data().join("log.jsonl"));
    assert_eq!(sandbox.log()[0]["command"], HOSTILE);
    fs::write(sandbox.path("d.json"), json!({"a": HOSTILE}).to_string()).unwrap();
    let output = sandbox.repoguard(["state", "--file", "d.json", "get", "a", "--json"]).output().unwrap();
    assert_safe(&output, "state get --json");
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap()["value"], HOSTILE);
}

#[test]
fn head_branches_and_references_are_shown_safely() {
    let sandbox = Sandbox::new();
    sandbox.repoguard(["exec", "--", "true"]).assert().success();
    let commands: [&[&str]; 4] = [&["status"], &["exec", "--", "true"], &["log"], &["doctor"]];
    for name in [HOSTILE.as_bytes(), b"x\xff\x9b\x1b[2J", HOSTILE_NAME.as_bytes()] {
        fs::write(sandbox.path(".git/HEAD"), [b"ref: refs/heads/", name, b"\n"].concat()).unwrap();
        show_safely(&sandbox, &commands);
    }
    sandbox.git(["symbolic-ref", "HEAD", "refs/heads/main"]);
    // Git takes such a name for a branch.
    let branch = HOSTILE_NAME.replace("\u{9b}2J", "");
    sandbox.git(["switch", "-q", "-c", &branch]);
    show_safely(&sandbox, &commands);
    let told = show_safely(&sandbox, &[&["exec", "--expect-branch", "other", "--", "true"]]);
    assert!(!told.is_empty());
}

#[test]
fn unfinished_mutations_are_shown_safely() {
    let sandbox = Sandbox::new();
    sandbox.killed_at(At::Command, &[], "echo x >>file");
    let journals = walk(&sandbox.data()).into_iter().filter(|path| path.ends_with("journal.jsonl"));
    journals.for_each(|journal| poison_lines(&journal));
    let told = show_safely(
        &sandbox,
        &[
            &["status"],
            &["recover", "--status"],
            &["recover", "--status", "--json"],
            &["doctor"],
            &["exec", "--", "true"],
        ],
    );
    assert!(told.contains(r"\x1b[2J"), "{told}");
}

#[test]
fn snapshots_and_worktrees_are_shown_safely() {
    let sandbox = Sandbox::new();
    let id = sandbox.snapshot(Duration::ZERO).file(HOSTILE, "kept", 0o644).deleted(HOSTILE).finished();
    poison_lines(&sandbox.data().join("snapshots").join(&id).join("manifest.jsonl"));
    let mut holder = sandbox.hold(&[]);
    sandbox.isolated(&[], "echo x >>file").was_kept();
    holder.finish();
    for record in walk(&sandbox.data().join("worktrees")).into_iter().filter(|path| path.is_file()) {
        let Ok(mut value) = fs::read_to_string(&record).map(|text| serde_json::from_str(&text).unwrap_or_default())
        else {
            continue;
        };
        poison(&mut value);
        if value.is_object() {
            fs::write(&record, value.to_string()).unwrap();
        }
    }
    let told = show_safely(
        &sandbox,
        &[
            &["snapshots"],
            &["snapshots", &id],
            &["snapshots", &id, "--json"],
            &["restore", &id, "--dry-run"],
            &["restore", &id],
            &["restore", HOSTILE],
            &["worktrees"],
            &["worktrees", "--json"],
            &["worktrees", "prune"],
        ],
    );
    assert!(told.contains(r"\x1b[2J") && told.contains("land:"), "{told}");
}

#[test]
fn names_of_files_are_shown_safely() {
    let names: [&[u8]; 3] = [HOSTILE.as_bytes(), b"\xff\x1b[2J\n  FORGED", HOSTILE_NAME.as_bytes()];
    for name in names {
        let name = OsStr::from_bytes(name);
        let sandbox = Sandbox::new();
        fs::write(sandbox.path(name), "tracked\n").unwrap();
        sandbox.git(["add", "-A"]);
        sandbox.git(["commit", "-q", "-m", "named"]);
        let mutate = |options: &[&str], script: &str| {
            let mut command = sandbox.repoguard(["mutate", "-m", "x"]);
            command.args(options).args(["--", "sh", "-c", script, "sh"]).arg(name);
            assert_safe(&command.output().unwrap(), script);
        };
        mutate(&["--paths", "file"], "echo y >\"$1\"");
        mutate(&["--verify", "false"], "echo y >\"$1\"; mv file \"new$1\"");
        mutate(&["--check", "echo z >>file; false"], "true");
        fs::write(sandbox.path(name), "dirty\n").unwrap();
        mutate(&[], "true");
        mutate(&["--allow-dirty"], "echo y >\"$1\"");
        let mut command = sandbox.repoguard(["exec"]);
        assert_safe(&command.arg("--").arg(sandbox.path(name)).output().unwrap(), "exec of a file that cannot be run");
        for verb in
            [["state", "get", "--file"], ["state", "digest", "--check"], ["restore", "20260101T000000Z-000000", "--"]]
        {
            assert_safe(&sandbox.repoguard(verb).arg(name).output().unwrap(), &verb.join(" "));
        }
    }
}

#[test]
fn names_of_repositories_and_their_hints_are_shown_safely() {
    let names: [&[u8]; 3] =
        [HOSTILE.as_bytes(), b"\xff$(touch ran)`touch ran`\x1b[2J\n  FORGED", b"-it's; touch ran #\x9b"];
    for name in names {
        let sandbox = Sandbox::named(OsStr::from_bytes(name));
        sandbox.git(["init", "-q"]);
        show_safely(
            &sandbox,
            &[&["status"], &["exec", "--", "true"], &["doctor"], &["hooks", "status"], &["hooks", "install"]],
        );
        show_safely(
            &sandbox,
            &[&["hooks", "install"], &["hooks", "uninstall"], &["hooks", "uninstall"], &["exec", "true"]],
        );
        fs::remove_file(sandbox.lock_file()).unwrap();
        fs::create_dir(sandbox.lock_file()).unwrap();
        let output = sandbox.repoguard(["exec", "--", "true"]).output().unwrap();
        assert_safe(&output, "a directory in the lock's place");
        let told = String::from_utf8(output.stderr).unwrap();
        let hint = told.lines().find_map(|line| line.trim().strip_prefix("hint: `")).expect("a hint");
        let command = hint.split("` shows").next().expect("a command");
        if has_program("bash") {
            // It means the path as it is, and runs nothing that the path says.
            let mut bash = sandbox.command("bash");
            bash.args(["-c", command]);
            to_the_end(bash).assert().success();
            assert!(!sandbox.path("ran").exists() && !sandbox.outside("ran").exists(), "{command}");
        }
    }
}

#[test]
fn broken_repositories_and_configuration_are_shown_safely() {
    let sandbox = Sandbox::empty();
    fs::write(sandbox.path(".git"), format!("gitdir: /nowhere/{HOSTILE}\n")).unwrap();
    show_safely(&sandbox, &[&["status"], &["exec", "--", "true"], &["log"]]);
    let sandbox = Sandbox::new();
    for key in ["repoguard.timeout", "repoguard.scope", "repoguard.snapshotLimit", "core.hooksPath"] {
        sandbox.git(["config", key, HOSTILE]);
        show_safely(
            &sandbox,
            &[
                &["exec", "--", "true"],
                &["mutate", "-m", "x", "--", "true"],
                &["hooks", "status"],
                &["hooks", "install"],
                &["doctor"],
            ],
        );
        sandbox.git(["config", "--unset", key]);
    }
    for name in ["REPOGUARD_TIMEOUT", "REPOGUARD_SCOPE", "REPOGUARD_TOKEN", "USER", "CI_JOB_URL", "HOME"] {
        let mut command = sandbox.repoguard(["exec", "--", "true"]);
        assert_safe(&command.env(name, HOSTILE).output().unwrap(), name);
    }
    show_safely(&sandbox, &[&["log"], &["status"]]);
    fs::write(sandbox.path(".git/config"), "[core\u{1b}[2J\n  FORGED\u{202e}").unwrap();
    show_safely(&sandbox, &[&["exec", "--", "true"], &["status"], &["worktrees"], &["hooks", "status"]]);
}

#[test]
fn documents_and_sequences_are_shown_safely() {
    let sandbox = Sandbox::new();
    let section = json!({HOSTILE: 1, HOSTILE_NAME: 2}).to_string();
    fs::write(sandbox.path("d.json"), section).unwrap();
    fs::write(sandbox.path("bad.json"), format!("{{\"a\": 1, \"{HOSTILE_NAME}\": 1, \"{HOSTILE_NAME}\": 2}}")).unwrap();
    show_safely(
        &sandbox,
        &[
            &["state", "--file", "d.json", "list"],
            &["state", "--file", "d.json", "rm", HOSTILE, "--expect", "2"],
            &["state", "--file", "bad.json", "list"],
            &["state", "--file", "bad.json", "set", "a", "2"],
            &["state", "set", "a", HOSTILE],
            &["state", "get", HOSTILE, HOSTILE],
            &["state", "digest", "--check", "--as", HOSTILE],
            &["next", HOSTILE],
            &["next", HOSTILE_NAME, "--format", HOSTILE],
            &["next", "a", "--scan", HOSTILE],
        ],
    );
}

#[test]
fn usage_errors_repeat_arguments_safely() {
    let sandbox = Sandbox::new();
    let option = format!("--{HOSTILE}");
    let commands: [&[&str]; 9] = [
        &[HOSTILE],
        &["log", HOSTILE],
        &["exec", &option],
        &["exec", "--scope", HOSTILE, "--", "true"],
        &["exec", "-w", HOSTILE, "--", "true"],
        &["--color", HOSTILE, "status"],
        &["hook", HOSTILE],
        &["man", HOSTILE],
        &["-C", HOSTILE, "status"],
    ];
    for command in commands {
        let output = sandbox.repoguard(command).output().unwrap();
        assert_safe(&output, &format!("{command:?}"));
        assert!(output.status.code().is_some_and(|status| status == 2 || status == 125), "{output:?}");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(told.contains(r"\x1b]52"), "{told}");
    }
    let invalid = OsStr::from_bytes(b"\xff\x1b[2J\x9b");
    for before in [&["log", "-n"][..], &["state", "get"], &[]] {
        let output = sandbox.repoguard(before).arg(invalid).output().unwrap();
        assert_safe(&output, &format!("{before:?} and bytes that are no text"));
        assert_eq!(output.status.code(), Some(2));
    }
}

#[test]
fn commands_that_cannot_run_are_named_safely() {
    let sandbox = Sandbox::new();
    for name in [HOSTILE.as_bytes(), b"\xff\x1b]0;x\x07"] {
        let output = sandbox.repoguard(["exec", "--"]).arg(OsStr::from_bytes(name)).output().unwrap();
        assert_eq!(output.status.code(), Some(127));
        assert_safe(&output, "exec");
    }
    sandbox.install_hooks();
    let _holder = sandbox.hold(&["--reason", HOSTILE]);
    sandbox.git(["config", "repoguard.hookTimeout", "0"]);
    let mut git = sandbox.git_command(["commit", "--allow-empty", "-m", HOSTILE]);
    let output = git.output().unwrap();
    assert!(!output.status.success());
    assert_safe(&output, "a hook that refuses");
}

#[test]
fn hook_whose_program_is_gone_names_paths_safely() {
    let name = "it's $(touch ran) `touch ran`\u{1b}[2J\n  FORGED\u{9b}\u{202e}";
    let sandbox = Sandbox::named(OsStr::new(name));
    sandbox.git(["init", "-q"]);
    let program = sandbox.outside("repoguard");
    copy_of_program(&program);
    to_the_end(hooks_command(&sandbox, &program, &["install"])).assert().success();
    fs::remove_file(&program).unwrap();
    let mut git = sandbox.git_command(["commit", "--allow-empty", "-m", "x"]);
    git.env("PATH", "/usr/bin:/bin");
    let output = to_the_end(git).output().unwrap();
    if output.status.success() {
        return skip("a hook whose program is gone", "another repoguard is installed");
    }
    assert_safe(&output, "a hook whose program is gone");
    let told = String::from_utf8(output.stderr).unwrap();
    let pasted = told.lines().find_map(|line| line.trim().strip_prefix("hint: or take the guard away: `"));
    let pasted = pasted.and_then(|line| line.strip_suffix('`')).expect("a command");
    drop(sandbox.sh(pasted).output().unwrap());
    assert!(!sandbox.path("ran").exists(), "{pasted}");
}

#[test]
fn data_is_exact_in_a_pipe_and_safe_on_a_terminal() {
    let sandbox = Sandbox::new();
    sandbox.repoguard(["state", "set", "a", "--string", HOSTILE]).assert().success();
    let get = ["state", "get", "--raw", "a"];
    let piped = sandbox.repoguard(get).output().unwrap();
    assert_eq!(piped.stdout, format!("{HOSTILE}\n").into_bytes());
    if !has_program("script") {
        return skip("data on a terminal", "no script(1)");
    }
    let mut command = Command::new("script");
    command.args(["-q", "-e", "-c", "repoguard state get --raw a", "/dev/null"]).current_dir(sandbox.here());
    let template = sandbox.command("true");
    command.env_clear().envs(template.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let shown = to_the_end(command).output().unwrap();
    let text = String::from_utf8(shown.stdout).unwrap().replace("\r\n", "\n").replace('\t', " ");
    assert!(text.chars().all(is_safe), "{text:?}");
    assert!(text.contains(r"x\x1b]52;c;eA==\x07"), "{text:?}");
}

#[test]
fn user_is_that_of_the_system_and_the_environment_only_adds() {
    let sandbox = Sandbox::new();
    let user = printed_by(&sandbox, "id -un 2>/dev/null || id -u");
    let claim = |name: &str| {
        sandbox.repoguard(["exec", "--", "true"]).env("USER", name).assert().success();
        sandbox.log().pop().expect("a line")["user"].as_str().expect("a text").to_owned()
    };
    assert_eq!(claim(&user), user);
    assert_eq!(claim("somebody-else"), format!("{user} (USER=somebody-else)"));
    let mutation =
        sandbox.repoguard(["mutate", "-m", "x", "--allow-empty", "--", "true"]).env("USER", "other").output();
    assert!(mutation.unwrap().status.success());
    assert_eq!(sandbox.log().pop().expect("a line")["user"], format!("{user} (USER=other)"));

    // A record that lies about a live process does not hide whose it is.
    let _holder = sandbox.hold(&[]);
    for record in walk(&sandbox.data().join("holders")).into_iter().filter(|path| path.is_file()) {
        let text = fs::read_to_string(&record).unwrap();
        let Ok(mut value) = serde_json::from_str::<Value>(&text) else { continue };
        value["user"] = json!("liar");
        fs::write(&record, format!("{:width$}\n", value.to_string(), width = text.len() - 1)).unwrap();
    }
    let shown = &sandbox.status()["holders"][0]["user"];
    assert_eq!(shown, &json!(format!("{user}, recorded as liar")));
    let told = sandbox.refused(&["-n"], 75);
    assert!(told.contains(&format!("({user}, recorded as liar@")), "{told}");
}

fn printed_by(sandbox: &Sandbox, script: &str) -> String {
    let output = sandbox.sh(script).assert().success().get_output().clone();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
