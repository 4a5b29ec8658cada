//! One battery on each kind of file system and container that can be made here: who holds, who waits, what is seen of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;

use crate::support::{HOLD, Mount, Running, Sandbox, eventually, has_program, is_root, kill_group, skip, to_the_end};

/// A repository at some place, and how commands are run there.
struct Place<'a> {
    sandbox: &'a Sandbox,
    root: PathBuf,
    /// What stands before each command: enters namespaces.
    enter: &'a [&'a str],
    /// Records can be written.
    writable: bool,
    /// Git runs hooks.
    executable: bool,
    /// `status` outside of the container sees everything.
    seen: bool,
}

impl<'a> Place<'a> {
    /// A repository with one commit.
    fn new(sandbox: &'a Sandbox, root: PathBuf) -> Self {
        sandbox.sh(&format!("git clone -q . '{}'", root.display())).assert().success();
        Self { sandbox, root, enter: &[], writable: true, executable: true, seen: true }
    }

    fn command(&self, args: &[&str]) -> Command {
        let all: Vec<&str> = self.enter.iter().chain(args).copied().collect();
        let mut command = self.sandbox.command(all[0]);
        command.args(&all[1..]).current_dir(&self.root);
        // Of another owner, where the file system has none.
        command.env("GIT_CONFIG_COUNT", "1").env("GIT_CONFIG_KEY_0", "safe.directory");
        command.env("GIT_CONFIG_VALUE_0", "*").env("GIT_CONFIG_GLOBAL", self.sandbox.outside("trusting"));
        command
    }

    #[track_caller]
    fn ends(&self, args: &[&str], status: i32) -> String {
        let output = to_the_end(self.command(args)).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(status), "{args:?} at {}: {told}", self.root.display());
        told
    }

    fn hold(&self, by: &[&str]) -> Running {
        self.sandbox.start_up(self.command(&[by, &["sh", "-c", HOLD]].concat()))
    }

    /// Everything that must hold wherever git works.
    fn battery(&self) {
        fs::write(self.sandbox.outside("trusting"), "[safe]\n\tdirectory = *\n").unwrap();
        self.contenders();
        self.status_and_nesting();
        self.flock();
        self.killed();
        if self.writable {
            self.acquire();
            self.mutations();
            self.hooks();
        }
    }

    /// Two that want it in turns, each alone.
    fn contenders(&self) {
        let busy = self.sandbox.outside("busy");
        let body = format!("mkdir '{0}' && sleep 0.01 && rmdir '{0}'", busy.display());
        let script = format!("for i in 1 2 3 4 5 6; do repoguard -q exec -- sh -c \"{body}\" || exit 9; done");
        let mut two = [(); 2].map(|()| self.sandbox.start(self.command(&["sh", "-c", &script])));
        for one in &mut two {
            assert!(one.ended().success(), "{}", one.stderr());
        }
    }

    fn status_and_nesting(&self) {
        self.ends(&["repoguard", "status", "--exit-code"], if self.seen { 0 } else { 3 });
        let mut holder = self.hold(&["repoguard", "exec", "--"]);
        self.ends(&["repoguard", "status", "--exit-code"], 1);
        let told = self.ends(&["repoguard", "exec", "-n", "--", "true"], 75);
        assert!(!self.writable || told.contains("`sh -c"), "the holder is named: {told}");
        holder.finish();
        let nested = ["repoguard", "exec", "--", "repoguard", "exec", "-n", "--", "true"];
        self.ends(&nested, 0);
        let scrubbed = ["repoguard", "exec", "--", "sh", "-c", "env -i \"PATH=$PATH\" repoguard exec -n -- true"];
        self.ends(&scrubbed, 0);
    }

    fn flock(&self) {
        if !has_program("flock") {
            return skip("flock(1) at other places", "no flock(1)");
        }
        // Where nothing can be written, the lock file may be missing.
        let lock = if self.writable { ".git/repoguard.lock" } else { ".git" };
        let mut holder = self.hold(&["flock", lock]);
        self.ends(&["repoguard", "exec", "-n", "--", "true"], 75);
        // It leaves no record.
        self.ends(&["repoguard", "status", "--exit-code"], if self.seen { 1 } else { 3 });
        holder.finish();
        self.ends(&["flock", "-n", lock, "repoguard", "exec", "-n", "--", "true"], 0);
        self.ends(&["repoguard", "exec", "--", "flock", "-n", lock, "true"], 1);
    }

    fn killed(&self) {
        let mut holder = self.hold(&["repoguard", "exec", "--"]);
        kill_group(holder.pid(), Signal::KILL);
        holder.ended();
        eventually("it is free", || {
            let tried = self.command(&["repoguard", "-q", "exec", "-n", "--", "true"]).output().unwrap();
            tried.status.success()
        });
    }

    fn acquire(&self) {
        let script = "token=$(repoguard acquire --ttl 1m) && ! repoguard -q exec -n -- true && \
                      REPOGUARD_TOKEN=$token repoguard exec -n -- true && repoguard release \"$token\" && \
                      repoguard exec -n -- true";
        self.ends(&["sh", "-c", script], 0);
    }

    /// Those that fail change nothing and keep nobody out.
    fn mutations(&self) {
        let state = "git status --porcelain -uall; cat file mine; git rev-parse HEAD";
        self.ends(&["sh", "-c", "printf 'mine.' >mine"], 0);
        let now = || to_the_end(self.command(&["sh", "-c", state])).output().unwrap().stdout;
        // Of the same size and, where the clock is coarse, in the same instant.
        let in_place = "printf 'FIRST\n' >file; printf 'MINE!' >mine; exit 3";
        let before = now();
        for script in [
            in_place,
            "exit 3",
            "echo 2 >file; mkdir -p d; echo 3 >d/new; git add d; exit 3",
            "rm file; mkfifo file; exit 3",
        ] {
            self.ends(&["repoguard", "mutate", "-m", "m", "--", "sh", "-c", script], 3);
            assert_eq!(String::from_utf8_lossy(&now()), String::from_utf8_lossy(&before), "{script}");
            self.ends(&["repoguard", "exec", "-n", "--", "true"], 0);
        }
        self.ends(&["repoguard", "mutate", "-m", "m", "--", "sh", "-c", "printf 'FIRST\n' >file"], 0);
        self.ends(&["sh", "-c", "test \"$(git show HEAD:file)\" = FIRST && rm mine"], 0);
        self.ends(&["repoguard", "mutate", "-m", "m", "--", "sh", "-c", "echo 2 >file; echo 3 >new"], 0);
        let landed = "git show --format= --name-status HEAD; git status --porcelain -uall";
        let landed = to_the_end(self.command(&["sh", "-c", landed])).output().unwrap().stdout;
        assert_eq!(String::from_utf8_lossy(&landed), "M\tfile\nA\tnew\n");
    }

    fn hooks(&self) {
        // Without `/proc` no program knows where it is.
        let told = to_the_end(self.command(&["repoguard", "hooks", "install"])).output().unwrap();
        if String::from_utf8_lossy(&told.stderr).contains("Is /proc mounted?") {
            return;
        }
        let said = String::from_utf8_lossy(&told.stdout).into_owned();
        assert_eq!(
            (told.status.code(), said.contains("noexec")),
            (Some(i32::from(!self.executable)), !self.executable)
        );
        let mut holder = self.hold(&["repoguard", "exec", "--"]);
        let commit = "REPOGUARD_HOOK_TIMEOUT=0 git -c user.name=a -c user.email=b commit -q --allow-empty -m hooked";
        let refused = !self.command(&["sh", "-c", commit]).output().unwrap().status.success();
        assert_eq!(refused, self.executable);
        holder.finish();
        self.ends(&["sh", "-c", commit], 0);
        eventually("it is free", || {
            self.command(&["repoguard", "-q", "exec", "-n", "--", "true"]).output().unwrap().status.success()
        });
    }
}

/// Runs a shell script that mounts something at `$1`, with `$2` for other files; `None` where it cannot.
fn mounted(sandbox: &Sandbox, script: &str) -> Option<Mount> {
    let (place, other) = (sandbox.outside("mount"), sandbox.outside("other"));
    fs::create_dir_all(&place).unwrap();
    fs::create_dir_all(&other).unwrap();
    let mut command = Command::new("sh");
    command.args(["-ec", script, "sh"]).arg(&place).arg(&other);
    let made = is_root() && command.output().is_ok_and(|output| output.status.success());
    made.then(|| Mount::of(place))
}

fn on(script: &str, what: &str) {
    let sandbox = Sandbox::new();
    match mounted(&sandbox, script) {
        Some(mount) => Place::new(&sandbox, mount.path().join("repo")).battery(),
        None => skip(what, "it cannot be made here"),
    }
}

macro_rules! file_systems {
    ($($name:ident: $script:expr;)*) => {
        $(#[test]
        fn $name() {
            on($script, stringify!($name));
        })*
    };
}

file_systems! {
    battery_on_tmpfs: "mount -t tmpfs none \"$1\"";
    battery_on_btrfs: "truncate -s 300M \"$2/img\"; mkfs.btrfs -q \"$2/img\"; mount -o loop \"$2/img\" \"$1\"";
    battery_on_a_btrfs_subvolume:
        "truncate -s 300M \"$2/img\"; mkfs.btrfs -q \"$2/img\"; mount -o loop \"$2/img\" \"$1\"; btrfs -q subvolume create \"$1/repo\"";
    battery_on_ext4_with_small_inodes:
        "truncate -s 100M \"$2/img\"; mkfs.ext4 -q -I 128 \"$2/img\"; mount -o loop \"$2/img\" \"$1\"";
    battery_on_vfat: "truncate -s 100M \"$2/img\"; mkfs.vfat \"$2/img\"; mount -o loop \"$2/img\" \"$1\"";
    battery_on_overlay:
        "mkdir \"$2/low\" \"$2/up\" \"$2/work\"; mount -t overlay -o \"lowerdir=$2/low,upperdir=$2/up,workdir=$2/work\" none \"$1\"";
    battery_on_overlay_over_two_file_systems:
        "mkdir \"$2/low\" \"$2/up\"; mount -t tmpfs none \"$2/up\"; mkdir \"$2/up/up\" \"$2/up/work\"; \
         mount -t overlay -o \"lowerdir=$2/low,upperdir=$2/up/up,workdir=$2/up/work\" none \"$1\"; umount -l \"$2/up\"";
    battery_on_bindfs: "bindfs \"$2\" \"$1\"";
    battery_on_gocryptfs:
        "echo secret >\"$2/pass\"; mkdir \"$2/cipher\"; gocryptfs -q -init -scryptn 10 -passfile \"$2/pass\" \"$2/cipher\"; \
         gocryptfs -q -passfile \"$2/pass\" \"$2/cipher\" \"$1\"";
}

/// A repository that was used before, mounted again with options.
fn mounted_again(sandbox: &Sandbox, options: &str) -> Option<Mount> {
    let root = sandbox.outside("mount");
    sandbox.sh(&format!("git clone -q . '{0}'; cd '{0}'; repoguard exec -- true", root.display())).assert().success();
    let script = format!("mount --bind \"$1\" \"$1\"; mount -o remount,{options},bind \"$1\"");
    mounted(sandbox, &script)
}

#[test]
fn battery_on_a_read_only_mount() {
    let sandbox = Sandbox::new();
    let Some(mount) = mounted_again(&sandbox, "ro") else {
        return skip("a read-only mount", "cannot mount");
    };
    let root = mount.path().to_owned();
    let place = Place { sandbox: &sandbox, root, enter: &[], writable: false, executable: true, seen: true };
    place.battery();
    assert!(place.ends(&["repoguard", "exec", "--name", "x", "--", "true"], 125).contains("hint: "));
    assert!(place.ends(&["repoguard", "acquire", "--ttl", "1m"], 125).contains("hint: "));
    place.ends(&["repoguard", "exec", "--scope", "repo", "--", "true"], 0);
    place.ends(&["repoguard", "doctor"], 0);
}

#[test]
fn battery_on_a_noexec_mount() {
    let sandbox = Sandbox::new();
    let Some(mount) = mounted_again(&sandbox, "noexec") else {
        return skip("a noexec mount", "cannot mount");
    };
    let root = mount.path().to_owned();
    let place = Place { sandbox: &sandbox, root, enter: &[], writable: true, executable: false, seen: true };
    place.battery();
    let shown = to_the_end(place.command(&["repoguard", "hooks", "status"])).assert().code(1).get_output().clone();
    assert!(String::from_utf8_lossy(&shown.stdout).contains("noexec"), "{shown:?}");
}

fn in_container(what: &str, enter: &[&str], seen: bool) {
    let sandbox = Sandbox::new();
    let probe = Command::new(enter[0]).args(&enter[1..]).arg("true").output();
    if !probe.is_ok_and(|output| output.status.success()) {
        return skip(what, "it cannot be made here");
    }
    let place = Place::new(&sandbox, sandbox.outside("there"));
    Place { enter, seen, ..place }.battery();
}

#[test]
fn battery_in_pid_namespaces() {
    in_container("pid namespaces", &["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"], false);
}

#[test]
fn battery_without_proc() {
    let script = "mount -t tmpfs none /proc || exit 99; \"$@\"; exit $?";
    let enter = ["unshare", "--pid", "--mount", "--fork", "--kill-child", "sh", "-c", script, "sh"];
    in_container("namespaces without /proc", &enter, false);
}

#[test]
fn battery_in_user_namespaces() {
    in_container("user namespaces", &["unshare", "-U", "--map-root-user"], true);
}

#[test]
fn doctor_says_for_whom_locks_count_on_fuse() {
    let sandbox = Sandbox::new();
    let Some(mount) = mounted(&sandbox, "bindfs \"$2\" \"$1\"") else {
        return skip("doctor on FUSE", "no bindfs");
    };
    let place = Place::new(&sandbox, mount.path().join("repo"));
    let said = to_the_end(place.command(&["repoguard", "doctor"])).output().unwrap();
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("fuse") && said.contains("one mount only"), "{said}");
    assert!(!doctor_of(sandbox.here(), &sandbox).contains("one mount only"));
}

fn doctor_of(root: &Path, sandbox: &Sandbox) -> String {
    let output = sandbox.repoguard(["doctor"]).current_dir(root).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}
