//! `repoguard mutate`, killed or failing, where a repository lies in its own worktree, where somebody else works in a worktree within it,
//! and beside what only root may touch: the next command finds it as before or as after, and the neighbour loses nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Child;
use std::thread;

use rustix::process::Signal;

use crate::mutate_crash::{
    CHANGE, FURNISH, WRECK, killed_at_every_call, killed_at_random_instants, none_is_wrong, started,
};
use crate::mutate_faults::fails_at_every_call;
use crate::support::{
    Dice, Layout, Sandbox, Side, Traced, User, Workload, can_trace, chosen, eventually, has_program, is_root,
    kill_group, long, process_group, skip, tampered, writing_calls,
};

/// The git directory is a directory of the worktree, unknown to git.
fn inside(script: &str, status: i32) -> Workload {
    let prepare = format!("{FURNISH}; mv .git store; echo 'gitdir: store' >.git; echo /store >>store/info/exclude");
    Workload::new(&prepare, &[], script, status)
}

/// Directories of root's with what is tracked, not tracked and not readable in them.
fn beside_roots(script: &str, status: i32) -> Workload {
    let prepare = format!("{FURNISH}; mkdir fixed; echo t >fixed/t; git add fixed; git commit -qm fixed");
    let arrange = |sandbox: &Sandbox| {
        for (directory, mode) in [("fixed", 0o755), ("closed", 0o700), ("fixed/closed", 0o700)] {
            let directory = sandbox.path(directory);
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join("roots"), "root's").unwrap();
            fs::set_permissions(&directory, fs::Permissions::from_mode(mode)).unwrap();
            std::os::unix::fs::chown(&directory, Some(0), Some(0)).unwrap();
        }
    };
    Workload::laid_out(Layout { user: User::Ordinary, arrange, neighbour: None }, &prepare, &[], script, status)
}

fn can_be_somebody_else() -> bool {
    (is_root() && has_program("setpriv")) || {
        skip("a mutation beside root's directories", "only root can be another user, by setpriv");
        false
    }
}

/// A worktree within the worktree, in which somebody else works.
fn beside_a_neighbour(script: &str, status: i32) -> Workload {
    let arrange = |sandbox: &Sandbox| drop(sandbox.git(["worktree", "add", "-q", "inner"]));
    let layout = Layout { user: User::Own, arrange, neighbour: Some("inner") };
    Workload::laid_out(layout, FURNISH, &[], script, status)
}

fn failing() -> String {
    format!("{CHANGE}; {WRECK}")
}

/// A process that commits in the worktree within, again and again, and notes what it has done.
struct Neighbour<'a> {
    sandbox: &'a Sandbox,
    process: Child,
}

impl<'a> Neighbour<'a> {
    fn moves_in(sandbox: &'a Sandbox) -> Self {
        let (log, stop) = (sandbox.outside("log"), sandbox.outside("stop"));
        let script = "cd inner; while [ ! -e \"$STOP\" ]; do i=$((i+1)); echo $i >n$i; git add n$i && git commit -qm $i && \
            echo $i >>\"$LOG\"; done";
        let mut command = sandbox.sh_command(script);
        command.env("LOG", &log).env("STOP", stop);
        let process = started(command);
        eventually("the neighbour works", || fs::exists(&log).unwrap());
        Self { sandbox, process }
    }

    /// Ends its work; what of it is not there, in words.
    fn moves_out(mut self) -> Result<(), String> {
        fs::write(self.sandbox.outside("stop"), "").unwrap();
        self.process.wait().unwrap();
        let done = fs::read_to_string(self.sandbox.outside("log")).unwrap();
        let inner = self.sandbox.path("inner");
        let list = self.sandbox.git_command(["ls-tree", "--name-only", "HEAD"]).current_dir(&inner).output().unwrap();
        let committed = String::from_utf8_lossy(&list.stdout).into_owned();
        let is_lost = |number: &&str| {
            let name = format!("n{number}");
            !committed.lines().any(|line| line == name)
                || fs::read_to_string(inner.join(name)).ok() != Some(format!("{number}\n"))
        };
        let missing: Vec<&str> = done.lines().filter(is_lost).collect();
        if missing.is_empty() {
            Ok(())
        } else {
            Err(format!("the neighbour lost {missing:?} of {}", done.lines().count()))
        }
    }
}

/// Stops a mutation beside a neighbour at work by `stop`, and lets the next one come.
fn stopped_beside(workload: &Workload, turn: usize, stop: impl FnOnce(&Sandbox)) -> Result<Side, String> {
    let sandbox = workload.sandbox();
    let neighbour = Neighbour::moves_in(&sandbox);
    stop(&sandbox);
    let recovered = workload.recovered(&sandbox, turn);
    neighbour.moves_out()?;
    // What it did meanwhile may have been looked at half-way.
    recovered.or_else(|first| workload.side(&sandbox).map_err(|wrong| format!("{first}\n{wrong}")))
}

#[test]
fn killed_where_the_git_directory_is_inside_the_worktree() {
    killed_at_every_call(&inside(CHANGE, 0), Traced::Itself, 8);
    killed_at_every_call(&inside(&failing(), 3), Traced::Itself, 8);
    killed_at_random_instants(&inside(&failing(), 3), 0x5EED_0011, 12);
}

#[test]
fn failing_where_the_git_directory_is_inside_the_worktree() {
    fails_at_every_call(&inside(CHANGE, 0), Traced::Itself, 8);
    fails_at_every_call(&inside(&failing(), 3), Traced::Itself, 8);
}

#[test]
fn killed_beside_what_only_root_may_touch() {
    if can_be_somebody_else() {
        killed_at_every_call(&beside_roots(CHANGE, 0), Traced::Itself, 8);
        killed_at_every_call(&beside_roots(&failing(), 3), Traced::Itself, 8);
        killed_at_random_instants(&beside_roots(&failing(), 3), 0x5EED_0012, 12);
    }
}

#[test]
fn failing_beside_what_only_root_may_touch() {
    if can_be_somebody_else() {
        fails_at_every_call(&beside_roots(CHANGE, 0), Traced::Itself, 8);
        fails_at_every_call(&beside_roots(&failing(), 3), Traced::Itself, 8);
    }
}

#[test]
fn killed_beside_a_neighbour_at_work() {
    for (workload, seed) in
        [(beside_a_neighbour(CHANGE, 0), 0x5EED_0013), (beside_a_neighbour(&failing(), 3), 0x5EED_0014)]
    {
        let (mut dice, times) = (Dice::new(seed), if long() { 100 } else { 10 });
        none_is_wrong((0..times).map(|turn| {
            let after = dice.micros(250_000);
            let stopped = stopped_beside(&workload, turn, |sandbox| {
                let mut child = started(workload.command(sandbox));
                thread::sleep(after);
                kill_group(child.id(), Signal::KILL);
                child.wait().unwrap();
                eventually("all are gone", || process_group(child.id()).is_empty());
            });
            stopped.map_err(|wrong| format!("killed after {after:?}: {wrong}"))
        }));
    }
}

#[test]
fn failing_beside_a_neighbour_at_work() {
    if !can_trace("a mutation that fails beside a neighbour") {
        return;
    }
    for workload in [beside_a_neighbour(CHANGE, 0), beside_a_neighbour(&failing(), 3)] {
        let calls = writing_calls(&workload.sandbox(), &workload.command(&workload.sandbox()), Traced::Itself);
        none_is_wrong(chosen(&calls, 8).into_iter().enumerate().map(|(turn, call)| {
            let how = if turn.is_multiple_of(2) { "error=ENOSPC" } else { "signal=KILL" };
            let stopped = stopped_beside(&workload, turn, |sandbox| {
                drop(tampered(sandbox, &workload.command(sandbox), Traced::Itself, &call, how));
            });
            stopped.map_err(|wrong| format!("{how} at {call:?}: {wrong}"))
        }));
    }
}
