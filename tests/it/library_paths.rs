//! Locks at paths of the caller's, for which no repository is needed.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use repoguard::{Error, Lock, Repo, Request};

use crate::support::{Sandbox, eventually, lines, to_the_end};

#[test]
fn lock_of_a_directory_is_the_one_of_exec_and_flock_there() {
    let sandbox = Sandbox::empty();
    let lock = Lock::of_directory(sandbox.here()).unwrap();
    assert_eq!(lock.path(), sandbox.path(".repoguard.lock"));
    let guard = lock.acquire().unwrap();
    assert!(!sandbox.flock_gets(lock.path()));
    assert_eq!(sandbox.outsider_tries(&[]), 75);
    guard.release().unwrap();
    assert_eq!(sandbox.outsider_tries(&[]), 0);

    let mut holder = sandbox.hold(&[]);
    assert!(matches!(lock.try_acquire(), Err(Error::Busy { .. })));
    holder.finish();
    drop(Repo::discover(sandbox.here()).unwrap().lock(Request::default()).unwrap().acquire().unwrap());
}

#[test]
fn locks_in_a_checkout_leave_nothing_for_a_commit() {
    let sandbox = Sandbox::new();
    sandbox.sh("mkdir -p packs/a; echo x >packs/a/file; git add packs; git commit -qm packs").assert().success();
    for _ in 0..2 {
        let directory = Lock::of_directory(sandbox.path("packs/a")).unwrap().acquire().unwrap();
        let file = Lock::of_file(sandbox.path("packs/a/file")).unwrap().acquire().unwrap();
        assert_eq!(sandbox.git(["status", "--porcelain", "--untracked-files=all"]), "", "while they are held");
        drop((directory, file));
        sandbox.git(["add", "--all"]);
        assert_eq!(sandbox.git(["status", "--porcelain", "--untracked-files=all"]), "", "afterwards");
    }
}

#[test]
fn all_paths_to_a_place_are_one_lock() {
    let sandbox = Sandbox::empty();
    fs::create_dir(sandbox.path("real")).unwrap();
    symlink("real", sandbox.path("link")).unwrap();
    let real = Lock::of_directory(sandbox.path("real")).unwrap();
    let link = Lock::of_directory(sandbox.path("link/../link")).unwrap();
    let file = Lock::of_file(sandbox.path("link/.repoguard.lock")).unwrap();
    let _guard = real.acquire().unwrap();
    for other in [link, file] {
        assert_eq!(other.path(), real.path());
        assert!(matches!(other.acquire(), Err(Error::AlreadyHeld { .. })), "one thread, one lock");
        thread::scope(|scope| {
            let busy = scope.spawn(|| other.try_acquire().map(drop)).join().expect("no panic");
            assert!(matches!(busy, Err(Error::Busy { .. })));
        });
    }
}

#[test]
fn several_directories_are_locked_at_once_and_each_alone() {
    let sandbox = Sandbox::empty();
    let packs: Vec<Lock> = (0..5)
        .map(|number| {
            let directory = sandbox.path(format!("pack-{number}"));
            fs::create_dir(&directory).unwrap();
            Lock::of_directory(directory).unwrap()
        })
        .collect();
    let guards: Vec<_> = packs.iter().map(|pack| pack.acquire().unwrap()).collect();
    assert!(packs.iter().all(|pack| !sandbox.flock_gets(pack.path())));
    let fences: Vec<_> = guards.iter().map(|guard| guard.fence().expect("a number")).collect();
    drop(guards);
    assert!(packs.iter().all(|pack| sandbox.flock_gets(pack.path())));
    let later = packs[0].acquire().unwrap().fence().expect("a number");
    assert!(later > fences[0]);
}

#[test]
fn crossing_threads_are_told_apart_also_without_a_repository() {
    let sandbox = Sandbox::empty();
    let (a, b) = (Lock::of_file(sandbox.path("a")).unwrap(), Lock::of_file(sandbox.path("b")).unwrap());
    let both = Barrier::new(2);
    let crossing = |first: &Lock, second: &Lock| {
        let _first = first.acquire().unwrap();
        both.wait();
        second.acquire().map(drop)
    };
    let results = thread::scope(|scope| {
        let one = scope.spawn(|| crossing(&a, &b));
        [crossing(&b, &a), one.join().expect("no panic")]
    });
    let refused: Vec<_> = results.into_iter().filter_map(Result::err).collect();
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert!(matches!(&refused[0], Error::Cycle { others, .. } if others.len() >= 2), "{}", refused[0]);
}

#[test]
fn holder_is_named_by_its_own_pid_also_when_it_had_to_wait() {
    let sandbox = Sandbox::empty();
    let lock = Lock::of_file(sandbox.path("daemon.lock")).unwrap().reason("serving");
    let mut command = sandbox.command("flock");
    command.arg(sandbox.path("daemon.lock")).args(["sh", "-c", "echo held; read _ || :"]);
    let mut foreign = sandbox.start_up(command);
    let told = lock.holder().unwrap().expect("somebody");
    assert!(told.foreign && told.pid != std::process::id(), "{told:?}");
    thread::scope(|scope| {
        let waiter = scope.spawn(|| lock.acquire());
        eventually("it waits", || {
            fs::read_dir(sandbox.path("daemon.lock.repoguard/queue")).is_ok_and(|mut d| d.next().is_some())
        });
        foreign.finish();
        let guard = waiter.join().expect("no panic").unwrap();
        let told = lock.holder().unwrap().expect("somebody");
        assert_eq!((told.pid, told.reason.as_deref()), (std::process::id(), Some("serving")));
        assert!(!told.foreign);
        drop(guard);
    });
    assert!(lock.holder().unwrap().is_none());
}

#[test]
fn places_that_cannot_be_locked_are_errors_that_name_them() {
    let sandbox = Sandbox::empty();
    fs::create_dir(sandbox.path("a directory")).unwrap();
    symlink("elsewhere", sandbox.path("link")).unwrap();
    to_the_end({
        let mut command = sandbox.command("mkfifo");
        command.arg(sandbox.path("fifo"));
        command
    })
    .assert()
    .success();
    for name in ["a directory", "link", "fifo"] {
        let error = Lock::of_file(sandbox.path(name)).unwrap().acquire().expect_err(name);
        assert!(matches!(error, Error::NotAFile { .. }) && error.to_string().contains(name), "{error}");
    }
    assert!(!sandbox.path("elsewhere").exists());
    assert!(matches!(Lock::of_directory(sandbox.path("fifo")), Err(Error::NotAFile { .. })));
    assert!(matches!(Lock::of_directory(sandbox.path("nowhere")), Err(Error::Io { .. })));
    assert!(matches!(Lock::of_file(sandbox.path("nowhere/lock")), Err(Error::Io { .. })));
    assert!(matches!(Lock::of_file("/"), Err(Error::NotAFile { .. })));
}

#[test]
fn removed_file_lets_nobody_of_ours_into_a_directory() {
    let sandbox = Sandbox::empty();
    let lock = Lock::of_directory(sandbox.here()).unwrap();
    let guard = lock.acquire().unwrap();
    fs::remove_file(lock.path()).unwrap();
    fs::remove_dir_all(sandbox.path(".repoguard")).unwrap();
    thread::scope(|scope| {
        let busy = scope.spawn(|| lock.clone().timeout(Duration::from_millis(50)).acquire().map(drop));
        assert!(matches!(busy.join().expect("no panic"), Err(Error::Busy { .. })));
    });
    drop(guard);

    let file = Lock::of_file(sandbox.path("file.lock")).unwrap();
    let guard = file.acquire().unwrap();
    fs::remove_file(file.path()).unwrap();
    assert!(matches!(guard.release(), Err(Error::Lost { .. })), "nothing else guards a file");
}

#[test]
fn records_of_a_dead_holder_are_in_nobodys_way() {
    let sandbox = Sandbox::empty();
    let lock = Lock::of_directory(sandbox.here()).unwrap();
    drop(lock.acquire().unwrap());
    for garbage in ["queue/17.rootx", "queue/alloc", "holders/0"] {
        fs::write(sandbox.path(".repoguard").join(garbage), "garbage").unwrap();
    }
    assert!(lock.holder().unwrap().is_none());
    drop(lock.acquire().unwrap());
    fs::remove_dir_all(sandbox.path(".repoguard")).unwrap();
    fs::write(sandbox.path(".repoguard"), "a file").unwrap();
    drop(lock.acquire().expect("without records"));
}

#[test]
fn directory_that_can_only_be_read_is_locked_all_the_same() {
    let sandbox = Sandbox::empty();
    let directory = sandbox.path("only read");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join(".repoguard.lock"), "").unwrap();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o555)).unwrap();
    let lock = Lock::of_directory(&directory).unwrap();
    let guard = lock.acquire().unwrap();
    assert!(!sandbox.flock_gets(lock.path()));
    drop(guard);
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(lines(&lock.path()), [""; 0]);
}

#[test]
fn exec_with_the_token_of_a_directory_is_inside_also_when_that_had_to_wait() {
    let sandbox = Sandbox::empty();
    let lock = Lock::of_directory(sandbox.here()).unwrap();
    let mut holder = sandbox.hold(&[]);
    thread::scope(|scope| {
        let waiter = scope.spawn(|| lock.acquire());
        eventually("it waits", || {
            let queue = fs::read_dir(sandbox.path(".repoguard/queue"));
            queue.is_ok_and(|mut queue| queue.any(|entry| entry.is_ok_and(|entry| entry.file_name() != "alloc")))
        });
        holder.finish();
        let guard = waiter.join().expect("no panic").unwrap();
        let inside =
            sandbox.repoguard_command(["exec", "-n", "--", "true"]).envs(guard.environment()).status().unwrap();
        assert!(inside.success(), "it shows the token");
        assert_eq!(sandbox.try_once(&[]), 75, "our child, but it shows none");
        drop(guard);
    });
    assert_eq!(sandbox.outsider_tries(&[]), 0);
    // With records, exec stands in the same queue.
    let _holder = sandbox.hold(&["--reason", "by exec"]);
    assert_eq!(lock.holder().unwrap().expect("somebody").reason.as_deref(), Some("by exec"));
}
