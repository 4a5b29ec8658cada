//! Mutations that are run again and again from the same state, each time stopped at another point, and what must hold
//! after the next command: all as before or all as after, and never anything between.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::state::git_dirs;
use super::{Image, RepoState, Sandbox, User, has_program, long, shell_status, skip, to_the_end, traces, walk};

/// The system calls that change what is on disk; those with `?` are not there everywhere.
const WRITING: [&str; 35] = [
    "?open",
    "openat",
    "?creat",
    "write",
    "pwrite64",
    "writev",
    "?rename",
    "renameat",
    "?renameat2",
    "?link",
    "linkat",
    "?unlink",
    "unlinkat",
    "?mkdir",
    "mkdirat",
    "?rmdir",
    "?chmod",
    "fchmod",
    "fchmodat",
    "?chown",
    "fchown",
    "?lchown",
    "fchownat",
    "fsync",
    "fdatasync",
    "?symlink",
    "symlinkat",
    "truncate",
    "ftruncate",
    "utimensat",
    "sendfile",
    "copy_file_range",
    "fallocate",
    "?mknod",
    "mknodat",
];

/// A system call of a process: the how manyth of this name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Call {
    pub(crate) name: String,
    pub(crate) number: usize,
}

/// Whose system calls are looked at, and tampered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Traced {
    /// Those of the program that is started.
    Itself,
    /// Those of every process below it as well, each counted for itself.
    All,
}

/// What came of a run that was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    Before,
    After,
}

/// Where a repository lies, and whose it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    pub(crate) user: User,
    /// What is to be done to each copy of it.
    pub(crate) arrange: fn(&Sandbox),
    /// What is in this directory, and on the branch of that name, is a neighbour's, and no part of the state.
    pub(crate) neighbour: Option<&'static str>,
}

impl Layout {
    /// The usual one.
    pub(crate) const PLAIN: Self = Self { user: User::Own, arrange: |_| {}, neighbour: None };
}

/// A mutation that can be run again and again.
pub(crate) struct Workload {
    image: Image,
    layout: Layout,
    arguments: Vec<String>,
    pub(crate) before: Whole,
    pub(crate) after: Whole,
}

/// All of a repository, as git sees it and as it is.
pub(crate) struct Whole {
    state: RepoState,
    status: Vec<String>,
}

impl Whole {
    /// What is not a neighbour's.
    fn without(sandbox: &Sandbox, neighbour: Option<&str>) -> Self {
        // First the state: it is read without changing anything.
        let mut state = sandbox.state();
        if let Some(neighbour) = neighbour {
            state.forget(neighbour);
        }
        // What git says of a broken repository is a part of it as well.
        let output =
            sandbox.git_command(["-c", "safe.directory=*", "status", "--porcelain", "-uall"]).output().unwrap();
        let told = [output.stdout, output.stderr].concat();
        Self { state, status: String::from_utf8_lossy(&told).lines().map(str::to_owned).collect() }
    }

    /// What is not as it was, in words; nothing where all is.
    pub(crate) fn difference(&self, now: &Self) -> Option<String> {
        let status = (self.status != now.status)
            .then(|| format!("git status\n  was {:?}\n  is  {:?}\n", self.status, now.status));
        self.state.difference(&now.state).or(status)
    }
}

impl Workload {
    /// Runs `repoguard mutate -m change OPTIONS -- sh -c SCRIPT` once, undisturbed, in what `prepare` makes of a repository:
    /// it must end with this status.
    #[track_caller]
    pub(crate) fn new(prepare: &str, options: &[&str], script: &str, status: i32) -> Self {
        Self::laid_out(Layout::PLAIN, prepare, options, script, status)
    }

    /// The same in a repository that lies somewhere else.
    #[track_caller]
    pub(crate) fn laid_out(layout: Layout, prepare: &str, options: &[&str], script: &str, status: i32) -> Self {
        let first = Sandbox::new();
        first.sh(prepare).assert().success();
        let image = Image::of(first.here());
        let words = [&["mutate", "-m", "change"], options, &["--", "sh", "-c", script]].concat();
        let arguments = words.into_iter().map(str::to_owned).collect();
        let sandbox = placed(&image, layout);
        let whole = || Whole::without(&sandbox, layout.neighbour);
        let mut workload = Self { image, layout, arguments, before: whole(), after: whole() };
        let output = to_the_end(workload.command(&sandbox)).output().unwrap();
        assert_eq!(shell_status(output.status), status, "{}", String::from_utf8_lossy(&output.stderr));
        workload.after = whole();
        workload
    }

    /// A repository in the state before.
    pub(crate) fn sandbox(&self) -> Sandbox {
        placed(&self.image, self.layout)
    }

    /// The mutation, to be started in such a repository.
    pub(crate) fn command(&self, sandbox: &Sandbox) -> Command {
        self.run(sandbox, &self.arguments)
    }

    fn run<A: AsRef<OsStr>>(&self, sandbox: &Sandbox, arguments: &[A]) -> Command {
        let command = sandbox.repoguard_command(arguments);
        match self.layout.user.as_options() {
            // Not by the command itself: who traces it starts it.
            Some(options) => through(sandbox.command("setpriv"), &command, |setpriv| {
                setpriv.args(options);
            }),
            None => command,
        }
    }

    /// Tells whether the repository is as before or as after, sound for git, with nothing left over of ours; else what is
    /// wrong.
    pub(crate) fn side(&self, sandbox: &Sandbox) -> Result<Side, String> {
        let now = Whole::without(sandbox, self.layout.neighbour);
        let side = match (self.before.difference(&now), self.after.difference(&now)) {
            (None, _) => Side::Before,
            (_, None) => Side::After,
            (Some(before), Some(after)) => return Err(format!("not before:\n{before}not after:\n{after}")),
        };
        // Where git loses an error, it leaves trees behind that are broken; no matter, as long as nothing leads to them.
        let again = |found: String| {
            let of_links = found.lines().all(is_of_links);
            if of_links { fsck(sandbox, &["--connectivity-only"]) } else { Err(found) }
        };
        fsck(sandbox, &[]).or_else(again).map_err(|found| format!("git fsck: {found}"))?;
        let left = left_over(sandbox);
        if left.is_empty() { Ok(side) } else { Err(format!("left over: {left:?}")) }
    }

    /// Lets the next command come, and tells whether it finds everything in order, or puts it there; else what is wrong.
    pub(crate) fn recovered(&self, sandbox: &Sandbox, turn: usize) -> Result<Side, String> {
        let next: &[&str] =
            if turn.is_multiple_of(2) { &["exec", "-w", "30", "--", "true"] } else { &["recover", "-w", "30"] };
        let output = to_the_end(self.run(sandbox, next)).output().unwrap();
        let told = format!("then {next:?}: {}", String::from_utf8_lossy(&output.stderr));
        if !output.status.success() || told.contains("panicked") {
            return Err(told);
        }
        self.side(sandbox).map_err(|wrong| format!("{told}\n{wrong}"))
    }
}

/// Lets git look for damage; what it finds.
fn fsck(sandbox: &Sandbox, options: &[&str]) -> Result<(), String> {
    let mut fsck = to_the_end(sandbox.command("git"));
    let output = fsck
        .args(["-c", "safe.directory=*", "fsck", "--strict", "--no-dangling", "--no-progress"])
        .args(options)
        .output()
        .unwrap();
    let found = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    // A branch without commits is worth a notice to git.
    let clean = output.status.success() && found.lines().all(|line| line.starts_with("notice: "));
    if clean { Ok(()) } else { Err(found) }
}

/// Tells whether a line of git's tells of something that is missing, and of nothing else.
fn is_of_links(line: &str) -> bool {
    ["broken link from", "to ", "missing ", "notice: "].iter().any(|start| line.trim_start().starts_with(start))
}

/// What is left that git or the next mutation would stumble over.
fn left_over(sandbox: &Sandbox) -> Vec<String> {
    let git_dir = git_dirs(sandbox.here()).0;
    let mut left = traces(&git_dir);
    // What was kept is of no use without its journal; the next mutation removes it.
    left.retain(|path| !path.contains("/repoguard/mutation-") || path.ends_with("/journal.jsonl"));
    // Git's housekeeping after a commit was killed with the rest: nobody waits for that lock, and it may be anybody's.
    left.retain(|path| !path.ends_with("/objects/maintenance.lock"));
    // Our own reference has a name like our lock file.
    let is_lock = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "lock");
    left.extend(walk(&git_dir.join("refs")).into_iter().filter(is_lock).map(|path| path.display().to_string()));
    let status = sandbox.status();
    if status["state"] != "free" || !status["unfinished"].is_null() {
        left.push(status.to_string());
    }
    left
}

fn placed(image: &Image, layout: Layout) -> Sandbox {
    let sandbox = Sandbox::empty();
    image.write(sandbox.here());
    // Git's stat data are of other inodes.
    sandbox.git(["update-index", "-q", "--really-refresh", "--unmerged"]);
    layout.user.owns(&sandbox);
    (layout.arrange)(&sandbox);
    sandbox
}

/// Whether system calls can be traced here; says so where they cannot.
pub(crate) fn can_trace(what: &str) -> bool {
    let trace = || Command::new("strace").args(["-f", "-o", "/dev/null", "true"]).output();
    let can = has_program("strace") && trace().is_ok_and(|output| output.status.success());
    if !can {
        skip(what, "strace is not there, or cannot trace");
    }
    can
}

/// The writing system calls of a command, which is run to its end.
pub(crate) fn writing_calls(sandbox: &Sandbox, command: &Command, traced: Traced) -> Vec<Call> {
    let logs = sandbox.outside("calls");
    fs::create_dir(&logs).unwrap();
    let trace = strace(sandbox, command, traced, |strace| {
        strace.args(["-e", &format!("trace={}", WRITING.join(","))]);
        match traced {
            Traced::Itself => strace.arg("-o").arg(logs.join("itself")),
            Traced::All => strace.arg("-ff").arg("-o").arg(logs.join("each")),
        };
    });
    to_the_end(trace).output().unwrap();
    let all = fs::read_dir(&logs).unwrap().map(|entry| entry.unwrap().path());
    let mut calls: Vec<Call> = Vec::new();
    for log in all {
        for call in calls_in(&log) {
            if !calls.contains(&call) {
                calls.push(call);
            }
        }
    }
    fs::remove_dir_all(logs).unwrap();
    calls
}

fn calls_in(log: &Path) -> Vec<Call> {
    let text = fs::read(log).unwrap();
    let text = String::from_utf8_lossy(&text);
    let mut counts: std::collections::BTreeMap<String, usize> = std::collections::BTreeMap::new();
    let mut calls = Vec::new();
    for line in text.lines() {
        let Some((name, rest)) = line
            .split_once('(')
            .filter(|(name, _)| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'))
        else {
            continue;
        };
        let count = counts.entry(name.to_owned()).or_default();
        *count += 1;
        let reads = name.starts_with("open") && !rest.contains("O_CREAT") && !rest.contains("O_TRUNC");
        if !reads {
            calls.push(Call { name: name.to_owned(), number: *count });
        }
    }
    calls
}

fn strace(sandbox: &Sandbox, command: &Command, traced: Traced, options: impl FnOnce(&mut Command)) -> Command {
    through(sandbox.command("strace"), command, |strace| {
        if traced == Traced::All {
            strace.arg("-f");
        }
        options(strace);
    })
}

/// The same command, started by another program.
fn through(mut starter: Command, command: &Command, options: impl FnOnce(&mut Command)) -> Command {
    options(&mut starter);
    starter.arg(command.get_program()).args(command.get_args());
    if let Some(directory) = command.get_current_dir() {
        starter.current_dir(directory);
    }
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => starter.env(name, value),
            None => starter.env_remove(name),
        };
    }
    starter
}

/// The command, with this done to each of its processes, or to itself, at this system call: `signal=KILL`, `error=ENOSPC`.
pub(crate) fn tampered(sandbox: &Sandbox, command: &Command, traced: Traced, call: &Call, tampering: &str) -> Output {
    let Call { name, number } = call;
    let strace = strace(sandbox, command, traced, |strace| {
        strace.args(["-o", "/dev/null", "-e", &format!("trace={name}")]);
        strace.args(["-e", &format!("inject={name}:{tampering}:when={number}")]);
    });
    to_the_end(strace).output().unwrap()
}

/// All of them in the long run; else as many, evenly chosen.
pub(crate) fn chosen<T: Clone>(all: &[T], many: usize) -> Vec<T> {
    if long() || all.len() <= many {
        return all.to_vec();
    }
    (0..many).map(|index| all[index * all.len() / many].clone()).collect()
}

/// The calls by which a command removes directories of the worktree that hold one of these names.
pub(crate) fn removals(sandbox: &Sandbox, command: &Command, names: &[&str]) -> Vec<Call> {
    let (text, _) = logged(sandbox, command, |_| {});
    let lines = text.lines().filter(|line| line.contains("unlinkat(")).enumerate();
    lines
        .filter(|(_, line)| removes(line, names))
        .map(|(at, _)| Call { name: "unlinkat".to_owned(), number: at + 1 })
        .collect()
}

/// The command, with a call of [`removals`] failing; `None` if another call than one of those had its number this time: how many
/// there are before depends on whether files and index were written in one tick of the clock.
pub(crate) fn failing_removal(sandbox: &Sandbox, command: &Command, names: &[&str], call: &Call) -> Option<Output> {
    let (text, output) = logged(sandbox, command, |strace| {
        strace.args(["-e", &format!("inject=unlinkat:error=EIO:when={}", call.number)]);
    });
    text.lines().any(|line| line.contains("INJECTED") && removes(line, names)).then_some(output)
}

fn removes(line: &str, names: &[&str]) -> bool {
    line.contains("AT_REMOVEDIR") && names.iter().any(|name| line.contains(&format!("\"{name}\"")))
}

/// Runs a command, and lists the calls by which it removes something.
fn logged(sandbox: &Sandbox, command: &Command, options: impl FnOnce(&mut Command)) -> (String, Output) {
    let log = sandbox.outside("removals");
    let trace = strace(sandbox, command, Traced::Itself, |strace| {
        strace.args(["-e", "trace=unlinkat", "-o"]).arg(&log);
        options(strace);
    });
    let output = to_the_end(trace).output().unwrap();
    let text = fs::read_to_string(&log).unwrap();
    fs::remove_file(&log).unwrap();
    (text, output)
}
