//! The example programs, run as real processes, and what the library asks of who depends on it.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use rustix::process::Signal;

use crate::support::{Running, Sandbox, binary, eventually, to_the_end};

/// An example: cargo builds them all for its tests.
#[track_caller]
fn example(name: &str) -> PathBuf {
    let path = binary().parent().expect("a directory").join("examples").join(name);
    assert!(path.exists(), "`{}` is missing", path.display());
    path
}

fn run(sandbox: &Sandbox, name: &str, arguments: &[&str]) -> Output {
    let mut command = sandbox.command(example(name));
    command.args(arguments);
    to_the_end(command).output().unwrap()
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Builds an example where it is missing or old: `cargo test --test it` leaves them out.
fn built(names: &[&str]) {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--locked", "--features", "tokio"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    let target = binary().ancestors().nth(2).expect("a target directory");
    cargo.arg("--target-dir").arg(target);
    if binary().parent().is_some_and(|profile| profile.ends_with("release")) {
        cargo.arg("--release");
    }
    cargo.args(names.iter().flat_map(|name| ["--example", name]));
    assert!(cargo.status().unwrap().success());
}

#[test]
fn packs_are_installed_once_by_many_at_once() {
    built(&["pack_lock"]);
    let sandbox = Sandbox::empty();
    let packs = ["packs", "fonts", "icons", "sounds"];
    let mut installers: Vec<_> = (0..8)
        .map(|_| {
            let mut command = sandbox.command(example("pack_lock"));
            command.args(packs);
            sandbox.start(command)
        })
        .collect();
    for installer in &mut installers {
        assert!(installer.ended().success(), "{}", installer.stderr());
    }
    let said: String = installers.iter().map(Running::stdout).collect();
    assert_eq!(said.matches(": installed").count(), 3, "{said}");
    assert_eq!(said.matches(": there already").count(), 21, "{said}");

    // Who holds one pack keeps nobody from another, and is named.
    let mut holder = sandbox.command("flock");
    holder.arg("packs/fonts/.repoguard.lock").args(["sh", "-c", "echo; read _ || :"]);
    let mut holder = sandbox.start_up(holder);
    assert_eq!(told(&run(&sandbox, "pack_lock", &["packs", "icons"])), "icons: there already\n");
    let mut command = sandbox.command(example("pack_lock"));
    command.args(["packs", "fonts"]);
    let mut waiter = sandbox.start(command);
    eventually("it tells that it waits", || waiter.stderr().contains("fonts: waiting for pid"));
    holder.finish();
    assert!(waiter.ended().success());
}

#[test]
fn second_daemon_is_told_who_runs_and_a_killed_one_is_in_nobodys_way() {
    built(&["daemon"]);
    let sandbox = Sandbox::empty();
    let daemon = || {
        let mut command = sandbox.command(example("daemon"));
        command.arg("daemon.lock");
        sandbox.start_up(command)
    };
    let mut first = daemon();
    let pid = first.pid().to_string();
    assert_eq!(first.first_line(), format!("running as pid {pid}"));
    let second = run(&sandbox, "daemon", &["daemon.lock"]);
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("pid {pid}")) && said.contains("daemon.lock"), "{said}");
    assert!(!sandbox.flock_gets(sandbox.path("daemon.lock")));
    first.signal(Signal::KILL);
    first.ended();

    let mut third = daemon();
    third.send("a request");
    eventually("it serves", || third.stdout().contains("served a request"));
    assert!(third.finish().success());
    assert!(sandbox.flock_gets(sandbox.path("daemon.lock")));
}

#[test]
fn tools_share_a_lock_file_and_lose_nothing() {
    built(&["lock_file"]);
    let sandbox = Sandbox::new();
    let mut tools: Vec<_> = (0..8)
        .map(|tool| {
            let mut command = sandbox.command(example("lock_file"));
            command.args(["deps.lock".to_owned(), format!("tool{tool}"), format!("left-pad=1.{tool}")]);
            sandbox.start(command)
        })
        .collect();
    for tool in &mut tools {
        assert!(tool.ended().success(), "{}", tool.stderr());
    }
    let document: serde_json::Value = serde_json::from_slice(&fs::read(sandbox.path("deps.lock")).unwrap()).unwrap();
    for (number, tool) in tools.iter().enumerate() {
        let name = format!("tool{number}");
        assert_eq!(document[&name]["left-pad"], format!("1.{number}"), "{document}");
        assert_eq!(document["resolved_by"][&name], tool.pid(), "{document}");
    }
}

#[test]
fn allocators_of_all_worktrees_get_numbers_of_their_own() {
    built(&["allocator"]);
    let sandbox = Sandbox::new();
    sandbox.sh("mkdir -p docs/adr; : >docs/adr/0007-by-hand.md").assert().success();
    let linked = sandbox.worktree("linked");
    let mut allocators: Vec<_> = (0..8)
        .map(|number| {
            let mut command = sandbox.command(example("allocator"));
            command.args(["a b", "c"]).current_dir(if number % 2 == 0 { sandbox.here() } else { &linked });
            sandbox.start(command)
        })
        .collect();
    for allocator in &mut allocators {
        assert!(allocator.ended().success(), "{}", allocator.stderr());
    }
    let said: String = allocators.iter().map(Running::stdout).collect();
    let mut numbers: Vec<u32> = said.lines().map(|line| line["docs/adr/".len()..][..4].parse().unwrap()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (8..24).collect::<Vec<_>>(), "{said}");
    assert_eq!(said.matches("-a-b.md").count(), 8, "{said}");
}

#[test]
fn agents_that_find_the_checkout_busy_work_on_branches_of_their_own() {
    built(&["agent_loop"]);
    let sandbox = Sandbox::new();
    let mut holder = sandbox.hold(&[]);
    let agent = |script: &str| {
        let mut command = sandbox.command(example("agent_loop"));
        command.args(["sh", "-c", script]);
        sandbox.start(command)
    };
    let mut agents: Vec<_> =
        (0..3).map(|number| agent(&format!("echo {number} >>file; git commit -qam {number}"))).collect();
    let mut idle = agent("true");
    for agent in &mut agents {
        assert!(agent.ended().success(), "{}", agent.stderr());
        assert!(agent.stdout().starts_with("1 commit on branch repoguard/"), "{}", agent.stdout());
    }
    assert!(idle.ended().success(), "{}", idle.stderr());
    assert_eq!(idle.stdout(), "left nothing\n");
    assert_eq!(sandbox.git(["rev-list", "--count", "--branches=repoguard/*", "--not", "main"]).trim(), "3");
    holder.finish();
    let output = run(&sandbox, "agent_loop", &["sh", "-c", "echo here >>file; git commit -qam here; exit 3"]);
    assert_eq!((output.status.code(), told(&output).as_str()), (Some(3), "ran here\n"));
    assert_eq!(sandbox.git(["log", "-1", "--format=%s", "main"]), "here\n");
}

#[test]
fn tasks_commit_in_turn_and_the_impatient_one_gives_up() {
    built(&["async_tasks"]);
    let sandbox = Sandbox::new();
    sandbox.repoguard(["hooks", "install", "-q"]).assert().success();
    // Held by somebody else at first, so that all of them wait.
    let mut holder = sandbox.hold(&[]);
    let mut command = sandbox.command(example("async_tasks"));
    command.args([".", "6"]);
    let mut tasks = sandbox.start(command);
    eventually("one is queued for all", || sandbox.waiters() == 1);
    eventually("the impatient one has given up", || tasks.stdout().contains("cancelled"));
    assert_eq!(tasks.stdout().matches("exit status: 0").count(), 0, "nobody got in");
    holder.finish();
    assert!(tasks.ended().success(), "{}", tasks.stderr());
    assert_eq!(tasks.stdout().matches("exit status: 0").count(), 6, "{}", tasks.stdout());
    assert_eq!(sandbox.git(["rev-list", "--count", "HEAD"]).trim(), "7");
    assert_eq!(sandbox.tickets(), [""; 0]);
    assert_eq!(sandbox.try_once(&[]), 0);
}

#[test]
fn library_alone_needs_none_of_the_programs_crates_and_no_runtime() {
    let tree = |features: &[&str]| {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["tree", "--locked", "--offline", "-e", "normal", "--prefix", "none", "--no-default-features"]);
        let output = cargo.args(features).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = told(&output);
        text.lines().filter_map(|line| line.split_whitespace().next().map(str::to_owned)).collect::<Vec<_>>()
    };
    let has = |tree: &[String], name: &str| tree.iter().any(|krate| krate == name);
    let plain = tree(&[]);
    assert!(has(&plain, "fd-lock"));
    for name in ["clap", "anyhow", "tokio", "tokio-util", "dlmalloc"] {
        assert!(!has(&plain, name), "{name}");
    }
    let with_tokio = tree(&["--features", "tokio"]);
    assert!(has(&with_tokio, "tokio") && !has(&with_tokio, "clap"));
    let below: std::collections::BTreeSet<&String> = plain.iter().filter(|krate| *krate != "repoguard").collect();
    assert!(below.len() <= 80, "{} crates without default features", below.len());
}

/// The snippets of the library's front page, each with what rustdoc hides, and whether it is run.
fn snippets() -> Vec<(String, bool)> {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/src/lib.rs")).unwrap();
    let mut snippets = Vec::new();
    let mut open: Option<(String, bool)> = None;
    for line in
        page.lines().map_while(|line| line.strip_prefix("//!")).map(|line| line.strip_prefix(' ').unwrap_or(line))
    {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(kind)) => open = Some((String::new(), kind != "no_run")),
            (Some(_), Some(_)) => snippets.extend(open.take()),
            (Some((code, _)), None) => {
                let hidden = line.strip_prefix("# ").or_else(|| line.strip_prefix('#').filter(|rest| rest.is_empty()));
                code.push_str(hidden.unwrap_or(line));
                code.push('\n');
            }
            (None, None) => {}
        }
    }
    snippets
}

#[test]
fn front_pages_snippets_compile_and_run_in_a_new_crate() {
    let home = env!("CARGO_MANIFEST_DIR");
    let directory = tempfile::tempdir().unwrap();
    let newcomer = directory.path();
    let manifest = format!(
        "[package]\nname = \"newcomer\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n[workspace]\n\n[dependencies]\n\
         repoguard = {{ path = {home:?}, default-features = false, features = [\"tokio\"] }}\n\
         tempfile = \"3\"\ntokio = {{ version = \"1\", features = [\"macros\", \"rt-multi-thread\", \"sync\"] }}\ntokio-util = \"0.7\"\n"
    );
    fs::create_dir_all(newcomer.join("src/bin")).unwrap();
    fs::write(newcomer.join("Cargo.toml"), manifest).unwrap();
    // The versions that are at hand, so that nothing is fetched.
    fs::copy(PathBuf::from(home).join("Cargo.lock"), newcomer.join("Cargo.lock")).unwrap();
    let snippets = snippets();
    assert!(snippets.len() >= 5, "{snippets:?}");
    for (number, (code, _)) in snippets.iter().enumerate() {
        let program = format!(
            "fn main() {{\n    fn snippet() -> Result<(), impl std::fmt::Debug> {{\n{code}\n    }}\n    snippet().unwrap();\n}}\n"
        );
        fs::write(newcomer.join(format!("src/bin/snippet_{number}.rs")), program).unwrap();
    }
    let target = binary().ancestors().nth(2).expect("a target directory");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--offline", "--target-dir"]).arg(target).current_dir(newcomer);
    let built = cargo.output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    for (number, _) in snippets.iter().enumerate().filter(|(_, (_, runs))| *runs) {
        let program = target.join("debug").join(format!("snippet_{number}"));
        let output = to_the_end(Command::new(program)).output().unwrap();
        assert!(output.status.success(), "snippet {number}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
