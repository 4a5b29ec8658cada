//! `repoguard state` and `StateFile` under fire: many processes and threads, kills at random and at every system call. No
//! update that was acknowledged is lost, and what is read is whole.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use repoguard::{Config, Error, Repo, state::StateFile};
use serde_json::Value;

use crate::support::{Dice, Sandbox, Traced, can_trace, chosen, eventually, long, tampered, writing_calls};

/// Written by others, and nobody's business here.
const THEIRS: &str = "{\n \"z\": [1.50, 1e400 ,12345678901234567890123],\n \"y\": {\"k\":1,\"k\":2}";

/// Polls a document as long as it lives: each time it must be there, whole, and with what others wrote in it.
struct Reader {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<usize>,
}

impl Reader {
    fn start(path: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut reads = 0;
            while !stopped.load(Ordering::Relaxed) {
                let text = fs::read_to_string(&path).expect("the document is there at every instant");
                assert!(text.starts_with(THEIRS), "others' sections: {text}");
                let rest = format!("{{{}", &text[THEIRS.len()..].trim_start_matches(','));
                serde_json::from_str::<Value>(&rest).unwrap_or_else(|error| panic!("{error}: {text}"));
                reads += 1;
                thread::sleep(Duration::from_micros(500));
            }
            reads
        });
        Self { stop, thread }
    }

    /// How often it has read.
    fn finish(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("a reader that always found a whole document")
    }
}

/// A random number below a limit; the same ones each time.
/// What is left in a directory of who was killed.
fn left_beside(path: &Path) -> usize {
    let names = fs::read_dir(path.parent().unwrap()).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_string_lossy().starts_with(".repoguard-new-")).count()
}

#[test]
fn no_acknowledged_update_is_lost_while_a_third_is_killed() {
    const WRITERS: u64 = 32;
    let rounds = if long() { 250 } else { 25 };
    let sandbox = Sandbox::new();
    // Where there is memory to hold it: a disk that others use as well would be all that is measured.
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() { memory.to_owned() } else { sandbox.outside("") };
    let place = tempfile::Builder::new().prefix("rg-state-").tempdir_in(place).unwrap();
    let doc = place.path().join("doc.json");
    fs::write(&doc, format!("{THEIRS}\n}}\n")).unwrap();
    let reader = Reader::start(doc.clone());
    let killed = AtomicUsize::new(0);
    // Each writes to a section of its own and to a common one, in one step.
    let work = |writer: u64| {
        let mut dice = Dice::new(writer);
        let mut acknowledged = Vec::new();
        for round in 0..rounds {
            let (own, common) = (format!(r#"{{"{round}": 1.0}}"#), format!(r#"{{"{writer}-{round}": 1.0}}"#));
            let mut command = sandbox.repoguard_command(["-q", "state", "merge", "--file"]);
            command.arg(&doc).args([&format!("own-{writer}"), &own, "common", &common]).stderr(Stdio::inherit());
            let mut child = command.spawn().unwrap();
            if dice.below(3) == 0 {
                thread::sleep(dice.micros(20_000));
                child.kill().ok();
            }
            let status = child.wait().unwrap();
            if status.success() {
                acknowledged.push(round);
            } else {
                assert_eq!(status.code(), None, "nobody fails but who is killed");
                killed.fetch_add(1, Ordering::Relaxed);
            }
        }
        acknowledged
    };
    let acknowledged: Vec<Vec<u64>> = thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS).map(|writer| scope.spawn(move || work(writer))).collect();
        writers.into_iter().map(|writer| writer.join().expect("a writer")).collect()
    });
    assert!(reader.finish() > 100);
    let all: usize = acknowledged.iter().map(Vec::len).sum();
    let killed = killed.into_inner();
    assert!(killed > 50 && all > 200, "{killed} killed, {all} acknowledged");

    let repo = Repo::discover(sandbox.here()).unwrap();
    let state = StateFile::at(&repo, &Config::default(), &doc).unwrap();
    let keys = |section: &str| -> BTreeSet<String> {
        let section: Option<serde_json::Map<String, Value>> = state.get(section).unwrap();
        section.unwrap_or_default().keys().cloned().collect()
    };
    let common = keys("common");
    for (writer, acknowledged) in acknowledged.iter().enumerate() {
        let own = keys(&format!("own-{writer}"));
        for round in acknowledged {
            assert!(own.contains(&round.to_string()), "writer {writer} lost {round}");
        }
        let here = common.iter().filter_map(|key| key.strip_prefix(&format!("{writer}-")).map(str::to_owned));
        assert_eq!(here.collect::<BTreeSet<_>>(), own, "both sections of each step, or none: writer {writer}");
    }
    state.stage("last", &true).unwrap();
    state.with_timeout(Duration::from_secs(20)).flush().unwrap();
    assert_eq!(left_beside(&doc), 0, "the next writer removes what the killed ones left");
}

#[test]
fn sixty_four_writers_at_once_lose_nothing() {
    const WRITERS: usize = 64;
    let sandbox = Sandbox::new();
    let barrier = Barrier::new(WRITERS);
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (sandbox, barrier) = (&sandbox, &barrier);
            scope.spawn(move || {
                let patch = format!(r#"{{"{writer}": {writer}.50}}"#);
                barrier.wait();
                // Nobody has made the document yet: one of them does.
                sandbox.repoguard(["state", "merge", "all", &patch]).assert().success();
            });
        }
    });
    let output = sandbox.repoguard(["state", "get", "all"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let all: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(all.as_object().unwrap().len(), WRITERS, "{text}");
    assert!(text.contains("\"63\": 63.50"), "{text}");
}

#[test]
fn comparing_and_setting_counts_right() {
    const COUNTERS: usize = 8;
    const ROUNDS: usize = 6;
    let sandbox = Sandbox::new();
    let count = "i=0; while [ $i -lt 6 ]; do n=$(repoguard state get n); \
                 if repoguard -q state set n $((n+1)) --expect $n 2>/dev/null; then i=$((i+1)); else [ $? = 65 ] || exit 9; fi; done";
    sandbox.repoguard(["state", "set", "n", "0"]).assert().success();
    thread::scope(|scope| {
        for _ in 0..COUNTERS {
            scope.spawn(|| sandbox.sh(count).assert().success());
        }
    });
    sandbox.repoguard(["state", "get", "n"]).assert().success().stdout(format!("{}\n", COUNTERS * ROUNDS));
}

#[test]
fn writers_of_several_repositories_and_of_none_lose_nothing() {
    let sandbox = Sandbox::new();
    sandbox.git(["init", "-q", "../second"]);
    let none = sandbox.outside("none");
    fs::create_dir(&none).unwrap();
    let doc = sandbox.outside("shared.json");
    let places = [sandbox.here().to_owned(), sandbox.outside("second"), none];
    let patches = 10;
    thread::scope(|scope| {
        for (number, place) in places.iter().cycle().take(9).enumerate() {
            let (sandbox, doc) = (&sandbox, doc.to_str().unwrap());
            scope.spawn(move || {
                for round in 0..patches {
                    let patch = format!(r#"{{"{number}-{round}": 1}}"#);
                    let mut command = sandbox.repoguard(["state", "--file", doc, "merge", "all", &patch]);
                    command.current_dir(place).assert().success();
                }
            });
        }
    });
    let document: Value = serde_json::from_slice(&fs::read(&doc).unwrap()).unwrap();
    assert_eq!(document["all"].as_object().unwrap().len(), 9 * patches);
}

#[test]
fn threads_of_one_process_lose_nothing() {
    const THREADS: usize = 16;
    const ROUNDS: usize = 12;
    let sandbox = Sandbox::new();
    let repo = Repo::discover(sandbox.here()).unwrap();
    let config = Config::load(&repo).unwrap();
    let shared = StateFile::open(&repo, &config).unwrap();
    thread::scope(|scope| {
        for number in 0..THREADS {
            let (shared, repo, config) = (&shared, &repo, &config);
            scope.spawn(move || {
                // Half of them use one value together, the others one each.
                let own = StateFile::open(repo, config).unwrap();
                let state = if number % 2 == 0 { shared } else { &own };
                for round in 0..ROUNDS {
                    state.update("count", |count: Option<u64>| count.unwrap_or(0) + 1).unwrap();
                    state.stage(&format!("thread {number}"), &round).unwrap();
                    state.stage_member("all", &format!("{number}-{round}"), &round).unwrap();
                    state.flush().unwrap();
                }
            });
        }
    });
    let all: serde_json::Map<String, Value> = shared.get("all").unwrap().unwrap();
    assert_eq!(shared.get::<usize>("count").unwrap(), Some(THREADS * ROUNDS));
    assert_eq!(all.len(), THREADS * ROUNDS);
    for number in 0..THREADS {
        assert_eq!(shared.get::<usize>(&format!("thread {number}")).unwrap(), Some(ROUNDS - 1));
    }
}

#[test]
fn what_is_staged_stays_until_it_is_written() {
    let sandbox = Sandbox::new();
    let repo = Repo::discover(sandbox.here()).unwrap();
    let doc = sandbox.path("doc.json");
    let state = StateFile::at(&repo, &Config::default(), &doc).unwrap();
    assert!(!state.flush().unwrap() && !doc.exists(), "nothing staged, nothing done");
    state.stage_json("a", "1.50").unwrap();
    state.stage_merge("b", r#"{"x": {"y": null}}"#).unwrap();
    state.stage_removed("lock_version");
    fs::write(&doc, "{").unwrap();
    for _ in 0..2 {
        assert!(matches!(state.flush(), Err(Error::DamagedDocument { line: 1, column: 1, .. })));
    }
    fs::remove_file(&doc).unwrap();
    assert!(state.flush().unwrap());
    let first = "{\n  \"a\": 1.50,\n  \"b\": {\n    \"x\": {}\n  }\n}\n";
    assert_eq!(fs::read_to_string(&doc).unwrap(), first);
    assert!(!state.flush().unwrap(), "again: nothing is left to do");
    // Somebody else comes between two flushes of ours.
    fs::write(&doc, first.replace("1.50", "7")).unwrap();
    state.stage("c", &[1, 2]).unwrap();
    assert!(state.flush().unwrap());
    assert_eq!(state.get::<u32>("a").unwrap(), Some(7));
    state.expect("a", Some("8")).unwrap();
    state.stage("a", &9).unwrap();
    for _ in 0..2 {
        assert!(matches!(state.flush(), Err(Error::NotAsExpected { found: Some(found), .. }) if found == "7"));
    }
    state.discard();
    assert!(!state.flush().unwrap());
    assert_eq!(state.get::<u32>("a").unwrap(), Some(7));
    assert!(matches!(state.get::<String>("a"), Err(Error::BadValue { .. })));
}

#[test]
fn writing_within_an_update_is_an_error_and_no_deadlock() {
    let sandbox = Sandbox::new();
    let repo = Repo::discover(sandbox.here()).unwrap();
    std::os::unix::fs::symlink("doc.json", sandbox.path("link.json")).unwrap();
    let state = StateFile::at(&repo, &Config::default(), &sandbox.path("doc.json")).unwrap();
    let again = StateFile::at(&repo, &Config::default(), &sandbox.path("link.json")).unwrap();
    state.stage("a", &1).unwrap();
    let changed = state.update("n", |n: Option<u32>| {
        assert!(matches!(again.update("n", |n: Option<u32>| n), Err(Error::NeverGranted { .. })));
        assert!(matches!(state.flush(), Err(Error::NeverGranted { .. })));
        assert_eq!(state.get::<u32>("n").unwrap(), n, "reading is no writing");
        n.unwrap_or(0) + 1
    });
    assert!(changed.unwrap());
    assert!(state.flush().unwrap(), "what was staged is still staged");
    let panics = std::panic::catch_unwind(|| again.update("n", |_: Option<u32>| -> u32 { panic!("of the caller's") }));
    assert!(panics.is_err());
    assert!(again.with_timeout(Duration::ZERO).update("n", |n: Option<u32>| n.unwrap() + 1).unwrap());
    assert_eq!(state.get::<u32>("n").unwrap(), Some(2));
}

/// What the document is before and after; the one who writes is stopped in between.
fn stopped_at_every_call(tampering: &str, file: &[&str]) {
    if !can_trace("a writer of a document stopped at every system call") {
        return;
    }
    let prepare = || {
        let sandbox = Sandbox::new();
        let path = if file.is_empty() { sandbox.data().join("state.json") } else { sandbox.path("doc.json") };
        sandbox.repoguard([&["state"], file, &["set", "a", "1"]].concat()).assert().success();
        (sandbox, path)
    };
    let command =
        |sandbox: &Sandbox| -> Command { sandbox.repoguard_command([&["state"], file, &["set", "b", "[2]"]].concat()) };
    let (sandbox, path) = prepare();
    let before = fs::read_to_string(&path).unwrap();
    let calls = writing_calls(&sandbox, &command(&sandbox), Traced::Itself);
    let after = fs::read_to_string(&path).unwrap();
    assert!(before != after && calls.len() >= 5, "{calls:?}");
    for call in chosen(&calls, 12) {
        let (sandbox, path) = prepare();
        let output = tampered(&sandbox, &command(&sandbox), Traced::Itself, &call, tampering);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        let now = fs::read_to_string(&path).unwrap();
        assert!(now == before || now == after, "{call:?}: {now}");
        assert!(now == after || !output.status.success(), "{call:?}: said it was done: {told}");
        assert!(!told.contains("panicked"), "{call:?}: {told}");
        if !tampering.starts_with("signal") {
            assert_eq!(left_beside(&path), 0, "{call:?}: an error leaves nothing");
        }
        sandbox.repoguard([&["state", "-w", "10"], file, &["set", "c", "3"]].concat()).assert().success();
        assert_eq!(left_beside(&path), 0, "{call:?}: the next one tidies up");
    }
}

#[test]
fn killed_at_every_call_it_is_as_before_or_as_after() {
    stopped_at_every_call("signal=KILL", &[]);
    stopped_at_every_call("signal=KILL", &["--file", "doc.json"]);
}

#[test]
fn failing_at_every_call_it_is_as_before_or_as_after() {
    stopped_at_every_call("error=ENOSPC", &["--file", "doc.json"]);
    stopped_at_every_call("error=EIO", &[]);
}

#[test]
fn document_where_locks_do_not_work_is_written_under_the_other_lock() {
    if !can_trace("a document where locks do not work") {
        return;
    }
    let sandbox = Sandbox::new();
    let set = |value: &str| sandbox.repoguard_command(["state", "--file", "doc.json", "set", "a", value]);
    assert!(set("1").status().unwrap().success());
    let mut call = writing_calls(&sandbox, &set("2"), Traced::Itself).remove(0);
    // Two are of the lock file: one takes it, one sees whether that excludes others.
    (call.name, call.number) = ("flock".to_owned(), 3);
    let output = tampered(&sandbox, &set("3"), Traced::Itself, &call, "error=ENOLCK");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(fs::read_to_string(sandbox.path("doc.json")).unwrap().contains("\"a\": 3"));
    // Without the other one, nothing is written without a lock.
    call.number = 1;
    let output = tampered(&sandbox, &set("4"), Traced::Itself, &call, "error=ENOLCK");
    assert_eq!(output.status.code(), Some(69), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(fs::read_to_string(sandbox.path("doc.json")).unwrap().contains("\"a\": 3"));
}

#[test]
fn holder_that_is_killed_leaves_the_lock_free() {
    let sandbox = Sandbox::new();
    sandbox.repoguard(["state", "set", "a", "1"]).assert().success();
    let mut other = sandbox.command("flock");
    other.arg(sandbox.data().join("state.lock")).args(["sh", "-c", "echo up; exec sleep 600"]);
    let other = sandbox.start_up(other);
    let mut waiting = sandbox.start(sandbox.repoguard_command(["state", "set", "a", "2"]));
    eventually("it is told who is waited for", || waiting.stderr().contains("waiting"));
    sandbox.repoguard(["state", "get", "a"]).assert().success().stdout("1\n");
    sandbox.repoguard(["state", "set", "a", "3", "-w", "0.1"]).assert().code(75);
    other.signal_group(rustix::process::Signal::KILL);
    assert!(waiting.ended().success(), "{}", waiting.stderr());
    sandbox.repoguard(["state", "get", "a"]).assert().success().stdout("2\n");
}
