//! The library in programs with threads: commands, mutations and worktrees by the `repoguard` program.

use std::fs;
use std::io::Read as _;
use std::process::Command;
use std::time::{Duration, Instant};

use repoguard::{
    Error, Repo, Request,
    mutation::{FailureReason, Landed, Mutation, Write},
    run::{Ending, Stream, Task},
    worktree::Options,
};
use rustix::process::Signal;
use serde_json::json;

use crate::library_async::runtime;
use crate::support::{Sandbox, alive, alone, binary, eventually, kill};

/// A task that runs a script in the checkout, by the program that is tested.
fn task(sandbox: &Sandbox, script: &str) -> Task {
    let mut task = Task::new(["sh", "-c", script]).directory(sandbox.here()).program(binary());
    for (name, value) in sandbox.command("sh").get_envs() {
        task.environment.push((name.to_owned(), value.map(ToOwned::to_owned)));
    }
    task
}

fn repo(sandbox: &Sandbox) -> Repo {
    // The steps of a mutation have the environment of the tests.
    sandbox.git(["config", "user.name", "A"]);
    sandbox.git(["config", "user.email", "a@example.org"]);
    Repo::discover(sandbox.here()).unwrap()
}

fn once() -> Request {
    Request::new().timeout(Duration::ZERO)
}

fn mutation() -> Mutation {
    Mutation::new("a change").program(binary())
}

#[test]
fn threads_run_commands_one_after_the_other() {
    let sandbox = Sandbox::new();
    let repo = repo(&sandbox);
    let script = "mkdir busy && sleep 0.05 && rmdir busy && echo done >>../log";
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let run = || repo.exec(&Request::default(), &task(&sandbox, script)).unwrap();
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(run)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut fences: Vec<u64> = outcomes.iter().map(|outcome| outcome.fence.expect("a hold of its own")).collect();
    fences.sort_unstable();
    fences.dedup();
    assert_eq!(fences.len(), 4);
    assert!(outcomes.iter().all(|outcome| outcome.ending == Ending::Exited(0)));
    assert_eq!(fs::read_to_string(sandbox.outside("log")).unwrap().lines().count(), 4);
}

#[test]
fn command_gets_its_directory_variables_and_streams() {
    let sandbox = Sandbox::new();
    let repo = repo(&sandbox);
    let (mut reader, writer) = std::io::pipe().unwrap();
    fs::write(sandbox.outside("input"), "words\n").unwrap();
    let input = fs::File::open(sandbox.outside("input")).unwrap();
    let elsewhere = fs::canonicalize(sandbox.outside("home")).unwrap();
    let task = task(&sandbox, "pwd -P; echo \"$ONE ${TWO-none}\"; cat; echo problem >&2")
        .directory(&elsewhere)
        .environment("ONE", "1")
        .environment("TWO", "2")
        .without_environment("TWO")
        .stdin(Stream::file(input))
        .stdout(Stream::file(writer))
        .stderr(Stream::Null);
    let outcome = repo.exec(&Request::default(), &task).unwrap();
    drop(task);
    let mut printed = String::new();
    reader.read_to_string(&mut printed).unwrap();
    assert_eq!(outcome.ending, Ending::Exited(0));
    assert_eq!(printed, format!("{}\n1 none\nwords\n", elsewhere.display()));
}

#[test]
fn command_runs_in_every_kind_of_repository() {
    let sandbox = Sandbox::new();
    let linked = sandbox.worktree("linked");
    let script = "git init -q --bare bare.git; mkdir plain; git init -q --separate-git-dir=away.git apart; ln -s repo link; \
                  mkdir -p repo/sub/deep; git -c protocol.file.allow=always -C repo submodule --quiet add ../linked inner";
    sandbox.sh(&format!("cd .. && {script}")).assert().success();
    let places =
        ["repo", "repo/sub/deep", "link", "link/sub", "bare.git", "bare.git/refs", "plain", "apart", "repo/inner"];
    let places = places.map(|place| sandbox.outside(place)).into_iter().chain([linked]);
    for place in places {
        let repo = Repo::discover(&place).unwrap();
        // What is set for the command alone leads the program nowhere.
        let task = task(&sandbox, "echo \"$GIT_DIR\" >../ran")
            .environment("GIT_DIR", "/nowhere")
            .environment("HOME", "/nowhere");
        let outcome = repo.exec(&once(), &task).unwrap_or_else(|error| panic!("{}: {error}", place.display()));
        assert_eq!(outcome.ending, Ending::Exited(0), "{}", place.display());
        assert_eq!(fs::read_to_string(sandbox.outside("ran")).unwrap(), "/nowhere\n");
        fs::remove_file(sandbox.outside("ran")).unwrap();
    }
}

#[test]
fn ends_of_commands_are_reported() {
    let sandbox = Sandbox::new();
    let repo = repo(&sandbox);
    let end = |task: &Task| repo.exec(&once(), task).unwrap().ending;
    assert_eq!(end(&task(&sandbox, "exit 65")), Ending::Exited(65));
    assert_eq!(end(&task(&sandbox, "kill -9 $$")), Ending::Signaled(9));
    assert_eq!(end(&task(&sandbox, "sleep 60").max_hold(Duration::from_millis(50))), Ending::Overtime);
    let mut missing = task(&sandbox, "");
    missing.command = vec!["no-such-program".into()];
    assert_eq!(end(&missing), Ending::NotFound);
    missing.command = vec![sandbox.outside("home").into()];
    assert_eq!(end(&missing), Ending::NotExecutable);
}

#[test]
fn busy_lock_names_its_holder() {
    let sandbox = Sandbox::new();
    let repo = repo(&sandbox);
    let mut holder = sandbox.hold(&["--reason", "a release"]);
    let busy = repo.exec(&once(), &task(&sandbox, "touch ran")).unwrap_err();
    let Error::Busy { holders, .. } = &busy else { panic!("{busy}") };
    assert_eq!((holders[0].pid, holders[0].reason.as_deref()), (holder.pid(), Some("a release")));
    let busy = repo.mutate(&once(), &mutation(), Write::Command(vec!["true".into()])).unwrap_err();
    assert!(matches!(&busy, Error::Busy { holders, .. } if holders[0].pid == holder.pid()), "{busy}");
    assert!(!sandbox.path("ran").exists());
    holder.finish();
}

#[test]
fn hold_of_the_calling_thread_is_around_the_command() {
    let sandbox = Sandbox::new();
    let repo = repo(&sandbox);
    let lock = repo.lock(Request::default()).unwrap();
    let guard = lock.acquire().unwrap();
    let inside = repo.exec(&once(), &task(&sandbox, "touch inside")).unwrap();
    assert_eq!((inside.ending, inside.fence), (Ending::Exited(0), None));
    let other = std::thread::scope(|scope| {
        scope.spawn(|| repo.exec(&once(), &task(&sandbox, "touch outside"))).join().unwrap()
    });
    assert!(matches!(other, Err(Error::Busy { .. })), "another thread does not hold it");
    guard.release().unwrap();
    assert!(sandbox.path("inside").exists() && !sandbox.path("outside").exists());
}

#[test]
fn request_is_passed_on() {
    let sandbox = Sandbox::new();
    let repo = repo(&sandbox);
    let request =
        Request::new().name("deploy").shared().reason("--why").metadata(json!({"task": 17})).timeout(Duration::MAX);
    let script = format!("{} --json status --name deploy >../status", binary().display());
    repo.exec(&request, &task(&sandbox, &script)).unwrap();
    let text = fs::read_to_string(sandbox.outside("status")).unwrap();
    assert!(text.contains("deploy") && text.contains("--why") && text.contains("\"task\":17"), "{text}");
    assert!(text.contains("\"shared\""), "{text}");
}

#[test]
fn missing_program_is_an_error_that_names_it() {
    let sandbox = Sandbox::new();
    let task = task(&sandbox, "touch ran").program("/no/such/repoguard");
    let error = repo(&sandbox).exec(&once(), &task).unwrap_err();
    assert!(matches!(&error, Error::NoProgram { path, .. } if path.ends_with("repoguard")), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("cargo install")), "{error}");
}

#[test]
fn children_and_signal_handlers_of_the_program_are_left_alone() {
    alone("library_program::children_and_signal_handlers_of_the_program_are_left_alone", || {
        let sandbox = Sandbox::new();
        let mut own = Command::new("true").spawn().unwrap();
        let caught = |name: &str| {
            let status = fs::read_to_string("/proc/self/status").unwrap();
            status.lines().find(|line| line.starts_with(name)).map(ToOwned::to_owned)
        };
        let before = [caught("SigCgt"), caught("SigIgn"), caught("SigBlk")];
        let outcome = repo(&sandbox).exec(&once(), &task(&sandbox, "exit 3")).unwrap();
        assert_eq!(outcome.ending, Ending::Exited(3));
        assert!(own.wait().unwrap().success(), "it was not reaped");
        assert_eq!([caught("SigCgt"), caught("SigIgn"), caught("SigBlk")], before);
    });
}

#[test]
fn killed_program_leaves_the_command_under_the_lock() {
    const NAME: &str = "library_program::killed_program_leaves_the_command_under_the_lock";
    if let Some(place) = std::env::var_os("PLACE") {
        let task = Task::new(["sh", "-c", "echo $$ >../pid; exec sleep 60"]).directory(&place).program(binary());
        drop(Repo::discover(place.as_ref()).unwrap().exec(&once(), &task));
        return;
    }
    let sandbox = Sandbox::new();
    let inner = crate::support::alone_command(NAME);
    let mut command = sandbox.command(inner.get_program());
    command.args(inner.get_args()).env("PLACE", sandbox.here());
    command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut program = command.spawn().unwrap();
    let pid = || fs::read_to_string(sandbox.outside("pid")).ok()?.trim().parse::<u32>().ok();
    eventually("the command runs", || pid().is_some());
    program.kill().unwrap();
    program.wait().unwrap();
    assert_eq!(sandbox.try_once(&[]), 75, "the lock is held while the command runs");
    kill(pid().unwrap(), Signal::KILL);
    eventually("the lock is free", || sandbox.try_once(&[]) == 0);
}

#[test]
fn change_by_a_command_lands_or_leaves_no_trace() {
    let sandbox = Sandbox::new();
    let repo = repo(&sandbox);
    let before = sandbox.head();
    let write = |script: &str| Write::Command(["sh", "-c", script].map(Into::into).to_vec());
    let mutated = repo.mutate(&Request::default(), &mutation(), write("echo new >made; echo left >ignored")).unwrap();
    let Landed::Committed(commit) = &mutated.result else { panic!("{mutated:?}") };
    assert_eq!(*commit, sandbox.head());
    assert!(mutated.changed.contains(&"made".into()), "{mutated:?}");
    let state = sandbox.state();
    let mutated = repo.mutate(&Request::default(), &mutation(), write("echo more >>made; exit 7")).unwrap();
    let Landed::Failed(failure) = &mutated.result else { panic!("{mutated:?}") };
    assert_eq!((failure.step, mutated.status()), ("command", 7));
    assert!(matches!(failure.why, FailureReason::Ended(Ending::Exited(7))));
    assert!(matches!(&failure.rollback, Some(Ok(rollback)) if rollback.kept.is_some()));
    state.assert_same(&sandbox.state(), "after it failed");
    assert_ne!(before, sandbox.head());
}

#[test]
fn change_by_a_closure_lands_or_leaves_no_trace() {
    let sandbox = Sandbox::new();
    let repo = repo(&sandbox);
    let made = sandbox.path("made");
    let mut write = || fs::write(&made, "new\n");
    let mutated = std::thread::scope(|scope| {
        scope.spawn(|| repo.mutate(&Request::default(), &mutation(), Write::Closure(&mut write))).join().unwrap()
    });
    assert!(matches!(mutated.unwrap().result, Landed::Committed(_)));
    assert_eq!(sandbox.committed("made"), "new\n");
    let state = sandbox.state();
    let mut fail = || fs::write(&made, "half\n").and(Err(std::io::Error::other("the disk is tired")));
    let mutated = repo.mutate(&Request::default(), &mutation(), Write::Closure(&mut fail)).unwrap();
    let Landed::Failed(failure) = &mutated.result else { panic!("{mutated:?}") };
    assert!(
        matches!(&failure.why, FailureReason::Trouble(Error::Io { source, .. }) if source.to_string().contains("tired"))
    );
    state.assert_same(&sandbox.state(), "after it failed");
    let mut never = || panic!("it must not run");
    let checked = mutation().check("false");
    let mutated = repo.mutate(&Request::default(), &checked, Write::Closure(&mut never)).unwrap();
    assert!(matches!(&mutated.result, Landed::Failed(failure) if failure.step == "check"), "{mutated:?}");
}

#[test]
fn busy_checkout_sends_the_command_into_a_worktree() {
    let sandbox = Sandbox::new();
    let repo = repo(&sandbox);
    let options = Options::default();
    let run = |script: &str| repo.exec_in_worktree(&once(), &options, &task(&sandbox, script)).unwrap();
    assert!(run("true").1.is_none(), "it was free");
    let mut holder = sandbox.hold(&[]);
    let (outcome, worktree) = run("echo work >made");
    let worktree = worktree.expect("a worktree");
    assert_eq!(outcome.ending, Ending::Exited(0));
    assert_eq!(worktree.kept.expect("something is left").untracked, 1);
    assert_eq!(fs::read_to_string(worktree.path.join("made")).unwrap(), "work\n");
    let (_, worktree) = run("true");
    assert!(worktree.is_some_and(|worktree| worktree.kept.is_none() && !worktree.path.exists()));
    holder.finish();
}

#[test]
fn cancel_ends_the_command_and_all_its_descendants() {
    let sandbox = Sandbox::new();
    let repo = repo(&sandbox);
    let stubborn = "(trap '' TERM; echo $BASHPID >../pid 2>/dev/null || true; sh -c 'trap \"\" TERM; echo $$ >../below; \
                    while :; do sleep 0.1; done') & wait";
    let task = task(&sandbox, stubborn).kill_after(Duration::from_millis(300));
    let below = || fs::read_to_string(sandbox.outside("below")).ok()?.trim().parse::<u32>().ok();
    let result = runtime().block_on(async {
        let started = async {
            while below().is_none() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        repo.exec_cancellable(&Request::default(), &task, started).await
    });
    assert!(matches!(result, Err(Error::Cancelled { .. })), "{result:?}");
    assert!(!alive(below().unwrap()), "it ignores SIGTERM, and was killed");
    assert_eq!(sandbox.try_once(&[]), 0, "the lock is free");
}

#[test]
fn cancel_while_waiting_leaves_no_waiter() {
    let sandbox = Sandbox::new();
    let repo = repo(&sandbox);
    let mut holder = sandbox.hold(&[]);
    let result = runtime().block_on(async {
        let queued = async {
            while sandbox.waiters() == 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        repo.exec_cancellable(&Request::default(), &task(&sandbox, "touch ran"), queued).await
    });
    assert!(matches!(result, Err(Error::Cancelled { .. })), "{result:?}");
    assert_eq!(sandbox.tickets(), [""; 0]);
    holder.finish();
    assert!(!sandbox.path("ran").exists());
}

#[test]
fn dropped_future_ends_the_command() {
    let sandbox = Sandbox::new();
    let repo = repo(&sandbox);
    let pid = || fs::read_to_string(sandbox.outside("pid")).ok()?.trim().parse::<u32>().ok();
    let task = task(&sandbox, "echo $$ >../pid; exec sleep 60");
    let runtime = runtime();
    runtime.block_on(async {
        let request = Request::default();
        let run = repo.exec_async(&request, &task);
        let started = async {
            while pid().is_none() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            outcome = run => panic!("{outcome:?}"),
            () = started => {}
        }
    });
    let begun = Instant::now();
    drop(runtime);
    assert!(!alive(pid().unwrap()), "the runtime waited for its end");
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert_eq!(sandbox.try_once(&[]), 0);
}

#[test]
fn cancelled_mutation_is_undone() {
    let sandbox = Sandbox::new();
    let repo = repo(&sandbox);
    let state = sandbox.state();
    let made = sandbox.path("made");
    let result = runtime().block_on(async {
        let started = async {
            while !made.exists() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let command = ["sh", "-c", "echo half >made; sleep 60"];
        repo.mutate_cancellable(&Request::default(), &mutation(), command, started).await
    });
    assert!(matches!(result, Err(Error::Cancelled { .. })), "{result:?}");
    state.assert_same(&sandbox.state(), "after it failed");
    let mutated = runtime()
        .block_on(repo.mutate_async(&Request::default(), &mutation(), ["sh", "-c", "echo whole >made"]))
        .unwrap();
    assert!(matches!(mutated.result, Landed::Committed(_)), "{mutated:?}");
}
