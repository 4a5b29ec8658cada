//! Everything at once: threads, tasks, processes and users want the same locks, while their processes are killed, stopped and frozen,
//! worktrees come and go and our files are deleted. An independent lock tells whether two hold at once.
//!
//! It runs for some seconds, for 5 minutes with `REPOGUARD_LONG=1`, and for `REPOGUARD_TORTURE_SECONDS` if that is set.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use repoguard::{Error, Guard, Lock, Repo, Request};
use rustix::fs::{FlockOperation, flock};
use rustix::process::Signal;
use tokio_util::sync::CancellationToken;

use crate::support::{
    Dice, Frozen, Sandbox, all_in, eventually, has_program, is_root, kill, kill_group, lines, long, process_group,
    skip, state_of,
};

/// Holds the oracle's locks (`$2` …, in the mode `$1`) for some milliseconds; one process, so that they end with it. As
/// [`Ring::held`], it waits for the lock of a process that has ended.
const BODY: &str = r#"use Fcntl qw(:flock);
my $mode = shift @ARGV eq "s" ? LOCK_SH : LOCK_EX;
my @held = map { open(my $file, ">>", $_) or die "$_: $!"; [$file, $_] } @ARGV;
sub owner {
    my $inode = (stat($_[0]))[1]; open(my $locks, "<", "/proc/locks");
    while (my $line = <$locks>) { return $1 if $line !~ /->/ && $line =~ /FLOCK.* (\d+) \S+:$inode 0 EOF/ }
    return 0;
}
sub runs { open(my $stat, "<", "/proc/$_[0]/stat") or return 0; return <$stat> !~ /\) [ZX] / }
for my $one (@held) {
    my $pid = 0;
    until (flock($one->[0], $mode | LOCK_NB)) {
        $pid = owner($one->[0]); last if $pid && runs($pid);
        select(undef, undef, undef, 0.001); $pid = 0;
    }
    next unless $pid;
    open(my $told, ">>", "$one->[1].violations"); print $told "$$ got in beside $pid\n"; close($told);
}
select(undef, undef, undef, 0.002 + rand(0.01));
"#;

/// How long nobody may get in while somebody wants to: stops are shorter, and a second each for those who are passed.
const STALL: Duration = Duration::from_secs(25);

/// The process that took the lock of a file.
fn owner(file: &File) -> Option<u32> {
    let inode = file.metadata().unwrap().ino();
    let locks = fs::read_to_string("/proc/locks").unwrap();
    let mut own = locks.lines().filter(|line| !line.contains("->") && line.contains(&format!(":{inode} ")));
    own.find_map(|line| line.split_whitespace().nth(4)?.parse().ok())
}

/// Nobody else got in, but flock(1) could have, if the lock file was deleted.
fn released(guard: Guard) {
    let released = guard.release();
    assert!(matches!(released, Ok(()) | Err(Error::Lost { .. })), "{released:?}");
}

/// What all share.
struct Ring {
    sandbox: Sandbox,
    oracle: PathBuf,
    trees: Vec<PathBuf>,
    users: Vec<Option<u32>>,
    /// Process groups of the commands that run.
    groups: Mutex<HashSet<u32>>,
    over: AtomicBool,
    /// Holds so far.
    holds: AtomicU64,
}

impl Ring {
    fn new() -> Self {
        let sandbox = Sandbox::new();
        let oracle = sandbox.outside("oracle");
        fs::create_dir(&oracle).unwrap();
        for (tree, kind) in (0..3).flat_map(|tree| ["", ".violations"].map(|kind| (tree, kind))) {
            fs::write(oracle.join(format!("{tree}{kind}")), "").unwrap();
        }
        fs::write(sandbox.outside("body.pl"), BODY).unwrap();
        let trees = vec![sandbox.here().to_owned(), sandbox.worktree("one"), sandbox.worktree("two")];
        let mut users = vec![None];
        if is_root() {
            // One repository of several users, as git wants it.
            sandbox.open_to_all();
            sandbox.git(["config", "core.sharedRepository", "0666"]);
            let everything = format!("chmod -R a+rwX '{}'", sandbox.outside("").display());
            sandbox.sh(&everything).assert().success();
            users.extend([Some(61_021), Some(61_022)]);
        } else {
            skip("torture by several users", "needs root");
        }
        fs::write(sandbox.outside("trusting"), "[safe]\n\tdirectory = *\n").unwrap();
        Self {
            sandbox,
            oracle,
            trees,
            users,
            groups: Mutex::default(),
            over: AtomicBool::new(false),
            holds: AtomicU64::new(0),
        }
    }

    fn goes_on(&self) -> bool {
        !self.over.load(Ordering::Relaxed)
    }

    fn oracle_of(&self, tree: usize) -> PathBuf {
        self.oracle.join(tree.to_string())
    }

    /// One command after the other.
    fn processes(&self, seed: u64) {
        let mut random = Dice::new(seed);
        while self.goes_on() {
            let tree = usize::try_from(random.below(3)).expect("small");
            let (mut options, mut mode, mut oracles): (Vec<&str>, _, _) = (Vec::new(), "x", vec![self.oracle_of(tree)]);
            match random.below(8) {
                0 => options.push("-n"),
                1 => options.extend(["-w", "0.05"]),
                2 => {
                    options.push("-s");
                    mode = "s";
                }
                3 => {
                    options.extend(["--scope", "repo"]);
                    oracles = (0..3).map(|tree| self.oracle_of(tree)).collect();
                }
                _ => {}
            }
            let mut command = self.sandbox.repoguard_command(["-C"]);
            command.arg(&self.trees[tree]).args(["exec", "-q"]).args(&options).args(["--", "perl"]);
            command.arg(self.sandbox.outside("body.pl")).arg(mode).args(&oracles);
            command.env("GIT_CONFIG_GLOBAL", self.sandbox.outside("trusting"));
            if let Some(user) = random.one(&self.users).copied().flatten() {
                command.uid(user).gid(61_020);
            }
            self.run(command);
        }
    }

    fn run(&self, mut command: Command) {
        let told = self.sandbox.outside(format!("told-{:?}", thread::current().id()));
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&told).unwrap());
        let mut child = command.spawn().unwrap();
        self.groups.lock().unwrap().insert(child.id());
        let status = child.wait().unwrap();
        self.groups.lock().unwrap().remove(&child.id());
        match status.code() {
            Some(0) => {
                self.holds.fetch_add(1, Ordering::Relaxed);
            }
            // Busy, lost because its files were deleted, killed, or CMD was killed.
            Some(75 | 76 | 137) | None => {}
            Some(other) => {
                let told = fs::read_to_string(told).unwrap_or_default();
                assert!(told.contains("SIGKILL"), "{other}, but for a git that was killed: {told}");
            }
        }
    }

    fn lock(&self) -> Lock {
        let repo = Repo::discover(self.sandbox.here()).unwrap();
        repo.lock(Request::new().timeout(Duration::from_secs(60))).unwrap()
    }

    /// A hold of the library's.
    fn held(&self) {
        let file = OpenOptions::new().append(true).create(true).open(self.oracle_of(0)).unwrap();
        // The lock of a process that has ended lives on while another process looks at its descriptors in `/proc`.
        let begun = Instant::now();
        while flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            assert!(begun.elapsed() < STALL, "the oracle is locked by a process that has ended");
            let owner = owner(&file);
            let runs = owner.and_then(state_of).is_some_and(|state| !['Z', 'X'].contains(&state));
            assert!(!runs, "a thread got in beside {owner:?}");
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(Duration::from_millis(2));
        flock(&file, FlockOperation::Unlock).unwrap();
        self.holds.fetch_add(1, Ordering::Relaxed);
    }

    fn threads(&self, seed: u64) {
        let (mut random, lock) = (Dice::new(seed), self.lock());
        while self.goes_on() {
            let guard = if random.below(3) == 0 { lock.try_acquire() } else { lock.acquire() };
            match guard {
                Ok(guard) => {
                    self.held();
                    released(guard);
                }
                Err(Error::Busy { waited, .. }) => assert!(waited < STALL, "waited {waited:?}"),
                Err(error) => panic!("{error}"),
            }
            thread::sleep(random.millis(1, 20));
        }
    }

    async fn tasks(&self, seed: u64) {
        let (mut random, lock) = (Dice::new(seed), self.lock());
        while self.goes_on() {
            let token = CancellationToken::new();
            let (later, pause) = (token.clone(), random.millis(1, 2000));
            let canceller = tokio::spawn(async move {
                tokio::time::sleep(pause).await;
                later.cancel();
            });
            let acquired = lock.acquire_cancellable(token.cancelled()).await;
            canceller.abort();
            match acquired {
                Ok(guard) => {
                    self.held();
                    released(guard);
                }
                Err(Error::Cancelled { .. } | Error::Busy { .. }) => {}
                Err(error) => panic!("{error}"),
            }
            tokio::time::sleep(random.millis(1, 20)).await;
        }
    }

    /// Kills, stops and freezes.
    fn trouble(&self, seed: u64) {
        let mut random = Dice::new(seed);
        while self.goes_on() {
            thread::sleep(random.millis(5, 60));
            let groups: Vec<u32> = self.groups.lock().unwrap().iter().copied().collect();
            let Some(&group) = random.one(&groups) else { continue };
            let members = process_group(group);
            let Some(&one) = random.one(&members) else { continue };
            match random.below(10) {
                0..3 => kill(one, Signal::KILL),
                3 => kill_group(group, Signal::KILL),
                4..7 => {
                    kill(one, Signal::STOP);
                    thread::sleep(random.millis(1, 300));
                    kill(one, Signal::CONT);
                }
                7..9 => {
                    kill_group(group, Signal::STOP);
                    thread::sleep(random.millis(100, 1500));
                    kill_group(group, Signal::CONT);
                }
                _ => {
                    if let Some(frozen) = Frozen::new(&members) {
                        thread::sleep(random.millis(100, 1500));
                        frozen.thaw();
                    }
                }
            }
        }
    }

    /// Deletes what anybody may delete.
    fn deletions(&self, seed: u64) {
        let (mut random, data) = (Dice::new(seed), self.sandbox.data());
        while self.goes_on() {
            thread::sleep(random.millis(100, 900));
            let git_dir = self.sandbox.path(".git");
            match random.below(5) {
                0 => drop(fs::remove_dir_all(data.join("queue"))),
                1 => drop(fs::remove_dir_all(data.join("holders"))),
                2 => drop(fs::remove_file(git_dir.join("repoguard.lock"))),
                3 => drop(fs::remove_file(git_dir.join("worktrees/one/repoguard.lock"))),
                _ => drop(fs::remove_file(data.join("queue/alloc"))),
            }
        }
    }

    /// Adds and removes a worktree, as others do who never heard of us.
    fn worktrees(&self, seed: u64) {
        let (mut random, path) = (Dice::new(seed), self.sandbox.outside("passing"));
        while self.goes_on() {
            let add =
                self.sandbox.git_command(["worktree", "add", "-q", "--detach", "-f"]).arg(&path).output().unwrap();
            assert!(add.status.success(), "{}", String::from_utf8_lossy(&add.stderr));
            let mut command = self.sandbox.repoguard_command(["-C"]);
            command
                .arg(&path)
                .args(["exec", "-q", "-n", "--", "true"])
                .env("GIT_CONFIG_GLOBAL", self.sandbox.outside("trusting"));
            drop(command.output());
            thread::sleep(random.millis(50, 400));
            drop(self.sandbox.git_command(["worktree", "remove", "-f"]).arg(&path).output());
            drop(fs::remove_dir_all(&path));
        }
    }

    /// Watches over all: they get in again and again, and no two at once.
    fn watch(&self, until: Instant) {
        let (mut last, mut since) = (0, Instant::now());
        while Instant::now() < until && self.violations().is_empty() {
            thread::sleep(Duration::from_millis(200));
            let holds = self.holds.load(Ordering::Relaxed);
            if holds != last {
                (last, since) = (holds, Instant::now());
            }
            if since.elapsed() >= STALL {
                self.over.store(true, Ordering::Relaxed);
                let status = self.sandbox.repoguard(["status"]).output().unwrap();
                panic!("nobody got in for {STALL:?}: {}", String::from_utf8_lossy(&status.stdout));
            }
        }
        self.over.store(true, Ordering::Relaxed);
    }

    fn violations(&self) -> Vec<String> {
        (0..3).flat_map(|tree| lines(&self.oracle.join(format!("{tree}.violations")))).collect()
    }
}

/// How long it is to last.
fn duration() -> Duration {
    let asked = std::env::var("REPOGUARD_TORTURE_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(asked.unwrap_or(if long() { 300 } else { 12 }))
}

#[test]
fn everything_at_once_lets_no_two_in_and_leaves_nothing() {
    if !has_program("perl") {
        return skip("torture", "needs perl");
    }
    let ring = Arc::new(Ring::new());
    let until = Instant::now() + duration();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let tasks: Vec<_> = (0..3)
        .map(|seed| {
            let ring = Arc::clone(&ring);
            runtime.spawn(async move { ring.tasks(seed).await })
        })
        .collect();
    thread::scope(|scope| {
        let ring = &*ring;
        for seed in 0..10 {
            scope.spawn(move || ring.processes(100 + seed));
        }
        for seed in 0..3 {
            scope.spawn(move || ring.threads(200 + seed));
        }
        for seed in 0..2 {
            scope.spawn(move || ring.trouble(300 + seed));
        }
        scope.spawn(|| ring.deletions(400));
        scope.spawn(|| ring.worktrees(500));
        ring.watch(until);
    });
    for task in tasks {
        runtime.block_on(task).expect("no panic");
    }
    drop(runtime);
    assert_eq!(ring.violations(), [""; 0]);
    let sandbox = &ring.sandbox;
    let dir: &Path = &sandbox.outside("");
    eventually("no process is left", || all_in(dir).iter().all(|pid| *pid == std::process::id()));
    assert_eq!(sandbox.try_once(&["--scope", "repo"]), 0, "everything is free");
    assert_eq!(sandbox.tickets(), [""; 0]);
    assert!(ring.holds.load(Ordering::Relaxed) > 0, "nobody ever got in");
}
