//! Makes a queue: one holder, and waiters started behind it, each seen queued before the next is started.

use std::{
    collections::HashSet,
    ffi::OsString,
    fs,
    io::{Read as _, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::{process, repo::Repo};

/// After this long without an event the bench gives up: somebody hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// The lock that a storm is about, and how to run a command under it.
pub struct Lock {
    /// How the table calls it.
    pub name: String,
    /// The program and its arguments, to be followed by a command.
    pub words: Vec<OsString>,
    directory: PathBuf,
    queue: Queue,
}

/// Where waiters can be counted.
enum Queue {
    /// Repoguard's tickets, by their numbers.
    Tickets(PathBuf),
    /// Waiters of the kernel for the file with this inode.
    Kernel(u64),
}

impl Lock {
    /// The repository's lock, taken by this build of repoguard.
    pub fn repoguard(name: impl Into<String>, program: &Path, repo: &Repo) -> Self {
        Self {
            name: name.into(),
            words: vec![program.into(), "exec".into(), "--".into()],
            directory: repo.root.clone(),
            queue: Queue::Tickets(repo.root.join(".git/repoguard/queue")),
        }
    }

    /// A lock of `flock(1)` on a file in the same repository.
    pub fn flock(program: &Path, repo: &Repo) -> Self {
        let file = repo.flock_file();
        fs::write(&file, "").expect("the scratch directory is writable");
        let inode = fs::metadata(&file).expect("just written").ino();
        Self {
            name: "flock(1)".to_owned(),
            words: vec![program.into(), file.into()],
            directory: repo.root.clone(),
            queue: Queue::Kernel(inode),
        }
    }

    /// The command that runs what is added to it under the lock.
    pub fn command(&self) -> Command {
        let mut command = process::command(self.words[0].as_ref());
        command.args(&self.words[1..]).current_dir(&self.directory);
        command
    }

    /// `program`, to be given what it shall run under the lock again and again.
    pub fn looping(&self, program: &Path) -> Command {
        let mut command = process::command(program);
        command.current_dir(&self.directory);
        command
    }

    /// How many wait now.
    fn waiting(&self) -> usize {
        match &self.queue {
            Queue::Tickets(directory) => {
                // A ticket is `<number>.<what>`, its request `<number>.json`: one waiter, one number.
                let names = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.file_name());
                let numbers: HashSet<String> = names
                    .map(|name| name.to_string_lossy().chars().take_while(char::is_ascii_digit).collect())
                    .filter(|number: &String| !number.is_empty())
                    .collect();
                numbers.len()
            }
            Queue::Kernel(inode) => {
                let locks = fs::read_to_string("/proc/locks").expect("Linux has /proc/locks");
                let inode = format!(":{inode} ");
                locks.lines().filter(|line| line.contains(" -> ") && line.contains(&inode)).count()
            }
        }
    }

    /// Returns once exactly `count` wait.
    pub fn wait_for(&self, count: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.waiting() != count {
            assert!(Instant::now() < deadline, "{}: {} wait, not {count}", self.name, self.waiting());
            thread::sleep(Duration::from_micros(200));
        }
    }
}

/// Has the lock until it is dropped: `cat`, which ends when its input does. Should the bench be killed, the input
/// ends too and everybody behind it is served.
pub struct Holder {
    child: Child,
    input: Option<ChildStdin>,
}

impl Holder {
    /// Takes the lock and returns once it is held.
    pub fn take(lock: &Lock) -> Self {
        let mut command = lock.command();
        let mut child =
            command.arg("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the program is there");
        let mut input = child.stdin.take().expect("stdin is piped");
        input.write_all(b".").expect("a pipe has room for a byte");
        // The byte comes back from `cat`, so `cat` runs, so the lock is held.
        child.stdout.as_mut().expect("stdout is piped").read_exact(&mut [0]).expect("nobody else has the lock");
        Self { child, input: Some(input) }
    }

    /// Lets the lock go.
    pub fn release(mut self) {
        drop(self.input.take());
        let status = self.child.wait().expect("it is our child");
        assert!(status.success(), "the holder failed: {status}");
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.input.take());
        // Both fail only when it has ended already.
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}

/// The waiters; whoever is left when the bench ends is killed.
#[derive(Default)]
pub struct Crew(Vec<Child>);

impl Crew {
    /// Starts one more and returns its pid.
    pub fn start(&mut self, command: &mut Command) -> u32 {
        let child = command.spawn().expect("the program is there");
        let pid = child.id();
        self.0.push(child);
        pid
    }

    /// Waits until all have ended well.
    pub fn finish(mut self) {
        let deadline = Instant::now() + PATIENCE;
        for child in &mut self.0 {
            loop {
                if let Some(status) = child.try_wait().expect("it is our child") {
                    assert!(status.success(), "a waiter failed: {status}");
                    break;
                }
                assert!(Instant::now() < deadline, "a waiter hangs");
                thread::sleep(Duration::from_millis(1));
            }
        }
        self.0.clear();
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ended = child.kill();
            let _status = child.wait();
        }
    }
}
