//! Starts processes, and reads what the kernel knows about them.

use std::{
    collections::{HashMap, HashSet},
    env, fs,
    ops::Add,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

/// Finds a program on `PATH`.
pub fn find(name: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|directory| directory.join(name)).find(|path| path.is_file())
}

/// A command with the same small environment for everybody, silent, given by its path so that it is started by
/// `posix_spawn` and no search is measured.
pub fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().envs([
        ("PATH", env::var("PATH").unwrap_or_default().as_str()),
        ("LC_ALL", "C"),
        ("HOME", "/nonexistent"),
        ("GIT_CONFIG_GLOBAL", "/dev/null"),
        ("GIT_CONFIG_NOSYSTEM", "1"),
    ]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// First line of what a program says about itself.
pub fn first_line(program: &Path, argument: &str) -> String {
    let output = command(program).arg(argument).stdout(Stdio::piped()).output().expect("the program was found on PATH");
    String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned()
}

/// What a process and its descendants have used so far.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// User and system time in clock ticks, as `stat` counts them.
    pub ticks: u64,
    /// Time on a processor, as `schedstat` counts it.
    pub cpu: Duration,
    /// How often it went to sleep of its own will, which is how often it was woken.
    pub wakeups: u64,
    /// Greatest resident memory, in KiB.
    pub peak_kib: u64,
}

impl Usage {
    /// Reads the usage of `root` and all processes below it; those that have ended count nothing.
    pub fn of_tree(root: u32) -> Self {
        descendants(root).into_iter().map(Self::of).fold(Self::default(), Self::add)
    }

    /// What was used since `before`; the peak is that of the whole life.
    pub fn since(self, before: Self) -> Self {
        Self {
            ticks: self.ticks.saturating_sub(before.ticks),
            cpu: self.cpu.saturating_sub(before.cpu),
            wakeups: self.wakeups.saturating_sub(before.wakeups),
            peak_kib: self.peak_kib,
        }
    }

    fn of(pid: u32) -> Self {
        let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let stat = stat_fields(&read("stat"));
        let tick = |index: usize| stat.get(index).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
        let mut usage = Self { ticks: tick(11) + tick(12), ..Self::default() };
        usage.peak_kib = labelled(&read("status"), "VmHWM:");
        // These two are counted for each thread.
        for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let read = |name: &str| fs::read_to_string(task.path().join(name)).unwrap_or_default();
            let nanos = read("schedstat").split(' ').next().and_then(|field| field.parse().ok()).unwrap_or(0);
            usage.cpu += Duration::from_nanos(nanos);
            usage.wakeups += labelled(&read("status"), "voluntary_ctxt_switches:");
        }
        usage
    }
}

impl Add for Usage {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            ticks: self.ticks + other.ticks,
            cpu: self.cpu + other.cpu,
            wakeups: self.wakeups + other.wakeups,
            peak_kib: self.peak_kib + other.peak_kib,
        }
    }
}

/// The number after a label in `/proc/PID/status`.
fn labelled(status: &str, label: &str) -> u64 {
    let rest = status.lines().find_map(|line| line.strip_prefix(label)).unwrap_or_default();
    rest.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// The fields of `/proc/PID/stat` after the command's name, which may contain spaces itself.
fn stat_fields(stat: &str) -> Vec<String> {
    stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().map(str::to_owned).collect()
}

fn descendants(root: u32) -> HashSet<u32> {
    let parents: HashMap<u32, u32> = fs::read_dir("/proc")
        .expect("Linux has /proc")
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter_map(|pid| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            Some((pid, stat_fields(&stat).get(1)?.parse().ok()?))
        })
        .collect();
    let mut tree = HashSet::from([root]);
    // Pids are in no order, so repeat until a pass finds nobody new.
    loop {
        let known = tree.len();
        tree.extend(
            parents.iter().filter(|(_, parent)| tree.contains(parent)).map(|(pid, _)| *pid).collect::<Vec<_>>(),
        );
        if tree.len() == known {
            return tree;
        }
    }
}
