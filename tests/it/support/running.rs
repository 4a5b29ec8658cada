//! Commands in the background: holders, waiters, and what they said so far.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::Signal;

use super::{HOLD, Sandbox, eventually, kill, kill_group, process_group, runs_our_program, state_of};

/// A command that runs beside the test, in a process group of its own, which is killed with this value.
pub(crate) struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: PathBuf,
    stderr: PathBuf,
    left_alone: bool,
}

impl Sandbox {
    /// Starts a command in the background.
    pub(crate) fn start(&self, mut command: Command) -> Running {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let stdout = self.outside(format!("{number}.stdout"));
        let stderr = self.outside(format!("{number}.stderr"));
        command.stdin(Stdio::piped()).stdout(File::create(&stdout).unwrap());
        command.stderr(File::create(&stderr).unwrap()).process_group(0);
        let mut child = command.spawn().expect("a command that starts");
        let stdin = child.stdin.take();
        Running { child, stdin, stdout, stderr, left_alone: false }
    }

    /// Starts a command whose first line says that it got where it is wanted.
    pub(crate) fn start_up(&self, command: Command) -> Running {
        let mut running = self.start(command);
        eventually("the background command is up", || {
            assert!(running.runs() || !running.stdout().is_empty(), "ended: {}", running.stderr());
            running.stdout().contains('\n')
        });
        running
    }

    /// Starts `repoguard exec OPTIONS` and returns once it holds.
    pub(crate) fn hold(&self, options: &[&str]) -> Running {
        self.hold_with(options, HOLD)
    }

    /// The same with a script of the test's own, which must print a line when it runs.
    pub(crate) fn hold_with(&self, options: &[&str], script: &str) -> Running {
        let mut command = self.repoguard_command(["exec"]);
        command.args(options).args(["--", "sh", "-c", script]);
        let running = self.start_up(command);
        // Whoever kills one of ours means one that has settled, not one between two steps of its start.
        eventually("the wrapper waits", || state_of(running.pid()) != Some('R'));
        running
    }

    /// Starts util-linux's `flock OPTIONS` on the lock file and returns once it holds.
    pub(crate) fn hold_by_flock(&self, options: &[&str]) -> Running {
        let mut command = self.command("flock");
        command.args(options).arg(self.lock_file()).args(["sh", "-c", HOLD]);
        self.start_up(command)
    }

    /// Starts `repoguard exec OPTIONS -- sh -c SCRIPT` and returns once it stands in the queue.
    pub(crate) fn queue(&self, options: &[&str], script: &str) -> Running {
        let before = self.waiters();
        let mut command = self.repoguard_command(["exec"]);
        command.args(options).args(["--", "sh", "-c", script]);
        let mut running = self.start(command);
        eventually("the waiter is queued", || {
            assert!(running.runs(), "did not wait: {}", running.stderr());
            self.waiters() > before
        });
        running
    }
}

impl Running {
    /// The process that was started: repoguard's wrapper.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The wrapped command, which told its pid in its first line.
    pub(crate) fn command_pid(&self) -> u32 {
        self.first_line().parse().expect("a pid in the first line")
    }

    /// The keeper: the process of ours that lives beside the wrapper, to hold the lock should the wrapper be killed.
    #[track_caller]
    pub(crate) fn keeper(&self) -> u32 {
        let keepers = || -> Vec<u32> {
            let ours = process_group(self.pid()).into_iter();
            ours.filter(|pid| *pid != self.pid() && runs_our_program(*pid)).collect()
        };
        // It is made when the command has run for a moment.
        eventually("a keeper is there", || !keepers().is_empty());
        let keepers = keepers();
        assert_eq!(keepers.len(), 1, "one keeper: {keepers:?}");
        keepers[0]
    }

    pub(crate) fn first_line(&self) -> String {
        self.stdout().lines().next().expect("a first line").to_owned()
    }

    pub(crate) fn stdout(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.stdout).unwrap()).into_owned()
    }

    pub(crate) fn stderr(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.stderr).unwrap()).into_owned()
    }

    /// Whether the started process has not ended.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Writes a line to the command's standard input.
    pub(crate) fn send(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("an open standard input");
        writeln!(stdin, "{line}").unwrap();
    }

    /// Ends the command's standard input, which is how a holder is told to end.
    pub(crate) fn release(&mut self) {
        self.stdin = None;
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal);
    }

    pub(crate) fn signal_group(&self, signal: Signal) {
        kill_group(self.pid(), signal);
    }

    /// Waits for the end of the started process.
    #[track_caller]
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("the background command ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.expect("a status")
    }

    /// Lets what the started process left behind live on.
    pub(crate) fn leave(mut self) {
        self.left_alone = true;
    }

    /// Tells a holder to end, and waits for it.
    #[track_caller]
    pub(crate) fn finish(&mut self) -> ExitStatus {
        self.release();
        self.ended()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.left_alone {
            self.signal_group(Signal::KILL);
        }
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
