//! Bad files in our places, and our files deleted under us: one clear answer, never two holders, no hang, no panic.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use proptest::prelude::*;
use rustix::fs::{FileType, Mode};

use crate::support::{Running, Sandbox, walk};

/// Something bad that stands where a file of ours should be.
#[derive(Clone, Copy, Debug)]
enum Bad {
    Garbage,
    Empty,
    Huge,
    Unreadable,
    Directory,
    Fifo,
    Socket,
    DanglingLink,
    LinkToItself,
    LinkToDevice,
}

const ALL_BAD: [Bad; 10] = [
    Bad::Garbage,
    Bad::Empty,
    Bad::Huge,
    Bad::Unreadable,
    Bad::Directory,
    Bad::Fifo,
    Bad::Socket,
    Bad::DanglingLink,
    Bad::LinkToItself,
    Bad::LinkToDevice,
];

fn make_fifo(path: &Path) {
    rustix::fs::mknodat(rustix::fs::CWD, path, FileType::Fifo, Mode::RWXU, 0).unwrap();
}

fn put(bad: Bad, path: &Path) {
    remove(path);
    match bad {
        Bad::Garbage => fs::write(path, b"\xff\x00{\"pid\":\"x\"}\n99999999999999999999\n").unwrap(),
        Bad::Empty => fs::write(path, "").unwrap(),
        Bad::Huge => fs::File::create(path).unwrap().set_len(100 << 20).unwrap(),
        Bad::Unreadable => {
            fs::write(path, "secret").unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o000)).unwrap();
        }
        Bad::Directory => fs::create_dir_all(path.join("deep")).unwrap(),
        Bad::Fifo => make_fifo(path),
        Bad::Socket => {
            // A socket's path is short: bind it in /tmp, where the sandbox is, and move it.
            let short = std::env::temp_dir().join(format!("rg-{}-{:?}", std::process::id(), thread::current().id()));
            drop(UnixListener::bind(&short).unwrap());
            fs::rename(&short, path).unwrap();
        }
        Bad::DanglingLink => symlink("/no/such/place", path).unwrap(),
        Bad::LinkToItself => symlink(path, path).unwrap(),
        Bad::LinkToDevice => symlink("/dev/zero", path).unwrap(),
    }
}

fn remove(path: &Path) {
    let is_directory = fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir());
    if is_directory { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap_or(()) }
}

#[test]
fn lock_path_must_be_a_regular_file() {
    for bad in [Bad::Directory, Bad::Fifo, Bad::Socket, Bad::DanglingLink, Bad::LinkToItself, Bad::LinkToDevice] {
        let sandbox = Sandbox::new();
        put(bad, &sandbox.lock_file());
        let told = sandbox.refused(&["-w", "5"], 125);
        assert!(told.contains("repoguard.lock"), "{bad:?}: {told}");
        assert!(!told.contains("rm "), "{bad:?}: {told}");
        let status = sandbox.repoguard(["status"]).output().unwrap();
        assert!(!String::from_utf8_lossy(&status.stderr).contains("panicked"), "{bad:?}");
    }
}

#[test]
fn lock_path_may_not_be_a_link_to_a_file_either() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.outside("target"), "").unwrap();
    symlink(sandbox.outside("target"), sandbox.lock_file()).unwrap();
    sandbox.refused(&[], 125);
}

/// Runs what people run; every answer must be a documented one, and a granted lock must exclude.
fn documented(sandbox: &Sandbox, what: &str) {
    let mut ran = false;
    for args in [
        &["exec", "-w", "5", "--", "echo", "ran"][..],
        &["status"],
        &["status", "--json"],
        &["log"],
        &["log", "--json"],
    ] {
        let output = sandbox.repoguard(args).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        let status = output.status.code().unwrap_or_else(|| panic!("{what}: {args:?}: {}", output.status));
        assert!([0, 69, 125].contains(&status), "{what}: {args:?}: {status}: {told}");
        assert!(!told.contains("panicked"), "{what}: {args:?}: {told}");
        assert!(status == 0 || !told.is_empty(), "{what}: {args:?}: failed without a word");
        if args[0] == "exec" {
            ran = status == 0;
            assert_eq!(ran, output.stdout == b"ran\n", "{what}: status and run agree");
        }
    }
    if ran {
        let mut holder = sandbox.hold(&[]);
        assert_eq!(sandbox.try_once(&[]), 75, "{what}: exclusive");
        holder.finish();
    }
}

#[test]
fn any_file_of_ours_may_turn_bad() {
    for bad in ALL_BAD {
        let sandbox = Sandbox::new();
        let places = used(&sandbox);
        for place in places {
            let what = format!("{bad:?} at {}", place.display());
            put(bad, &place);
            documented(&sandbox, &what);
            if fs::symlink_metadata(&place).is_ok() {
                remove(&place);
            }
            // It heals once the bad thing is gone.
            assert_eq!(sandbox.try_once(&["--name", "deploy", "--scope", "worktree"]), 0, "after {what}");
        }
    }
}

/// The files that use of everything left in our directory.
fn used(sandbox: &Sandbox) -> Vec<PathBuf> {
    for options in [&[][..], &["--scope", "repo"], &["--name", "deploy"]] {
        let mut holder = sandbox.hold(options);
        let mut waiter = sandbox.queue(options, ":");
        holder.finish();
        waiter.ended();
    }
    let files: Vec<PathBuf> = walk(&sandbox.data()).into_iter().filter(|path| path.is_file()).collect();
    assert!(files.len() >= 3, "{files:?}");
    files
}

#[test]
fn strangers_in_our_directories_disturb_nobody() {
    for bad in ALL_BAD {
        let sandbox = Sandbox::new();
        used(&sandbox);
        for directory in ["queue", "holders", "names", "."] {
            for name in ["stranger", "00000000000000000001", "1", "99999999999999999999999", "-5", "1.json"] {
                fs::create_dir_all(sandbox.data().join(directory)).unwrap();
                put(bad, &sandbox.data().join(directory).join(name));
            }
        }
        assert_eq!(sandbox.try_once(&[]), 0, "{bad:?}");
        documented(&sandbox, &format!("strangers: {bad:?}"));
        let mut holder = sandbox.hold(&[]);
        let mut waiter = sandbox.queue(&[], "echo next");
        holder.finish();
        assert!(waiter.ended().success(), "{bad:?}: {}", waiter.stderr());
    }
}

#[test]
fn our_directory_may_be_something_else() {
    for bad in ALL_BAD {
        let sandbox = Sandbox::new();
        put(bad, &sandbox.data());
        documented(&sandbox, &format!("{bad:?} at repoguard"));
        for directory in ["queue", "holders", "names"] {
            let sandbox = Sandbox::new();
            used(&sandbox);
            put(bad, &sandbox.data().join(directory));
            documented(&sandbox, &format!("{bad:?} at {directory}"));
        }
    }
}

#[test]
fn random_bytes_in_records_are_survived() {
    let sandbox = Sandbox::new();
    let places = used(&sandbox);
    let bytes = prop::collection::vec(any::<u8>(), 0..600);
    let config = ProptestConfig { cases: 24, failure_persistence: None, ..Default::default() };
    proptest!(config, |(bytes in bytes, index in any::<prop::sample::Index>())| {
        let place = index.get(&places);
        fs::write(place, &bytes).unwrap();
        documented(&sandbox, &format!("random bytes at {}", place.display()));
    });
}

/// A hold ends well, or as lost if one of its lock files was deleted.
fn ended_well(status: Option<i32>, delete: &str) -> bool {
    status == Some(0) || (status == Some(76) && !delete.ends_with("queue"))
}

/// All that a person may think of deleting.
const DELETE: [&str; 4] = [
    "rm -rf .git/repoguard",
    "rm -rf .git/repoguard/queue",
    "rm -f .git/*.lock",
    "rm -rf .git/repoguard .git/repoguard.lock",
];

#[test]
fn deleting_our_files_while_held_lets_nobody_in() {
    for delete in DELETE {
        let sandbox = Sandbox::new();
        let mut holder = sandbox.hold(&[]);
        for _ in 0..3 {
            sandbox.sh(delete).assert().success();
            for mode in ["-x", "-s"] {
                assert_eq!(sandbox.try_once(&[mode]), 75, "after `{delete}`");
            }
            sandbox.refused(&["-w", "0.2"], 75);
        }
        let status = holder.finish().code();
        assert!(ended_well(status, delete), "after `{delete}`: {status:?}: {}", holder.stderr());
        assert_eq!(sandbox.try_once(&[]), 0, "after `{delete}`");
    }
}

#[test]
fn deleting_our_files_under_a_holder_of_everything_lets_nobody_in() {
    for delete in DELETE {
        let sandbox = Sandbox::new();
        let mut holder = sandbox.hold(&["--scope", "repo"]);
        sandbox.sh(delete).assert().success();
        // It was not there when everything was locked.
        let linked = sandbox.worktree("linked");
        for options in [&[][..], &["-s"], &["--name", "deploy"], &["--scope", "repo"]] {
            assert_eq!(sandbox.try_once_in(&linked, options), 75, "after `{delete}`: {options:?}");
            assert_eq!(sandbox.try_once(options), 75, "after `{delete}`: {options:?}");
        }
        let status = holder.finish().code();
        assert!(ended_well(status, delete), "after `{delete}`: {status:?}: {}", holder.stderr());
        assert_eq!(sandbox.try_once(&["--scope", "repo"]), 0, "after `{delete}`");
    }
}

#[test]
fn deleting_our_files_under_any_holder_keeps_holders_of_everything_out() {
    for delete in DELETE {
        let sandbox = Sandbox::new();
        let mut holder = sandbox.hold(&["--name", "deploy"]);
        sandbox.sh(delete).assert().success();
        assert_eq!(sandbox.try_once(&["--scope", "repo"]), 75, "after `{delete}`");
        holder.finish();
        assert_eq!(sandbox.try_once(&["--scope", "repo"]), 0, "after `{delete}`");
    }
}

#[test]
fn deleting_our_files_while_waited_for_keeps_the_waiters() {
    for delete in DELETE {
        let sandbox = Sandbox::new();
        let mut holder = sandbox.hold(&[]);
        let mut waiters: Vec<Running> =
            (0..3).map(|_| sandbox.queue(&[], "mkdir busy && sleep 0.1 && rmdir busy")).collect();
        sandbox.sh(delete).assert().success();
        assert_eq!(sandbox.try_once(&[]), 75, "after `{delete}`");
        holder.finish();
        for waiter in &mut waiters {
            let status = waiter.ended().code();
            assert!(ended_well(status, delete), "after `{delete}`: {status:?}: {}", waiter.stderr());
        }
        assert_eq!(sandbox.try_once(&[]), 0);
    }
}

#[test]
fn deleting_our_files_again_and_again_never_lets_two_in() {
    let sandbox = Sandbox::new();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut deletes = DELETE.iter().cycle();
            while !stop.load(Ordering::Relaxed) {
                // One that races with a writer may fail.
                sandbox.sh(deletes.next().expect("a cycle")).output().unwrap();
                thread::sleep(Duration::from_millis(3));
            }
        });
        let body = "mkdir busy || echo violation; sleep 0.005; rmdir busy";
        // Whoever finds that a directory vanishes as it is made may give up, but never go on unguarded.
        let script = format!(
            "for i in $(seq 25); do repoguard -q exec -c '{body}'; \
             case $? in 0|76|125) ;; *) echo \"failed $?\" ;; esac; done"
        );
        let mut loops: Vec<Running> = (0..4).map(|_| sandbox.start(sandbox.sh_command(&script))).collect();
        let outputs: Vec<String> = loops
            .iter_mut()
            .map(|each| {
                each.ended();
                each.stdout()
            })
            .collect();
        stop.store(true, Ordering::Relaxed);
        assert_eq!(outputs, [""; 4], "{}", loops[0].stderr());
    });
    assert_eq!(sandbox.try_once(&[]), 0);
}

#[test]
fn lock_file_that_was_replaced_is_not_a_second_lock() {
    let sandbox = Sandbox::new();
    let mut holder = sandbox.hold(&[]);
    fs::remove_file(sandbox.lock_file()).unwrap();
    fs::write(sandbox.lock_file(), "a new one").unwrap();
    assert_eq!(sandbox.try_once(&[]), 75);
    holder.finish();
    assert_eq!(sandbox.try_once(&[]), 0);
}

#[test]
fn record_of_a_holder_with_any_number_is_read_without_a_panic() {
    let sandbox = Sandbox::new();
    sandbox.repoguard(["exec", "--", "true"]).assert().success();
    let path = sandbox.data().join("holders/0");
    let record: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let mut numbers: Vec<String> = record.as_object().unwrap().keys().cloned().collect();
    numbers.retain(|key| record[key].is_u64());
    numbers.extend(["until_ms", "for_pid", "keeper", "released_ms", "waiter"].map(str::to_owned));
    for key in numbers {
        for number in [u64::MAX, i64::MAX as u64, 0] {
            // A holder that still runs, to all appearance.
            let mut forged = record.clone();
            forged["released_ms"] = serde_json::Value::Null;
            forged["pid"] = std::process::id().into();
            forged[&key] = number.into();
            fs::write(&path, forged.to_string()).unwrap();
            for args in [&["status"][..], &["exec", "-n", "--", "true"], &["log"], &["worktrees"]] {
                let output = sandbox.repoguard(args).output().unwrap();
                let told = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success() && !told.contains("panicked"), "{key}: {number}: {args:?}: {told}");
            }
        }
    }
}
