//! Freezing processes, as container engines do.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;

use super::kill;

/// Moves processes into a frozen control group, as `docker pause` does; thawed and removed when dropped.
pub(crate) struct Frozen {
    group: PathBuf,
    switch: PathBuf,
    words: [&'static str; 2],
}

impl Frozen {
    /// None if control groups cannot be frozen here.
    pub(crate) fn new(pids: &[u32]) -> Option<Self> {
        let name = format!("repoguard-test-{}-{}", std::process::id(), pids[0]);
        let unified = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
        let unified = unified.into_iter().filter(|root| root.join("cgroup.procs").exists());
        let v2 = unified.map(|root| (root.join(&name), "cgroup.freeze", ["1", "0"]));
        let v1 = (Path::new("/sys/fs/cgroup/freezer").join(&name), "freezer.state", ["FROZEN", "THAWED"]);
        for (group, switch, words) in v2.chain([v1]) {
            if fs::create_dir(&group).is_err() {
                continue;
            }
            let frozen = Self { switch: group.join(switch), group, words };
            let moved = pids.iter().all(|pid| fs::write(frozen.group.join("cgroup.procs"), pid.to_string()).is_ok());
            if moved && fs::write(&frozen.switch, words[0]).is_ok() {
                return Some(frozen);
            }
        }
        None
    }

    /// Lets them run again.
    pub(crate) fn thaw(&self) {
        fs::write(&self.switch, self.words[1]).unwrap();
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        drop(fs::write(&self.switch, self.words[1]));
        let procs = fs::read_to_string(self.group.join("cgroup.procs")).unwrap_or_default();
        procs.lines().filter_map(|pid| pid.parse().ok()).for_each(|pid| kill(pid, Signal::KILL));
        // It can be removed when they have ended.
        for _ in 0..200 {
            if fs::remove_dir(&self.group).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
