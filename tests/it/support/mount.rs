//! Small file systems of their own, for full disks and read-only places.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::is_root;

/// A small file system in memory, mounted somewhere, and unmounted when dropped.
pub(crate) struct Mount(PathBuf);

impl Mount {
    /// `None` where nothing can be mounted; `options` are those of tmpfs(5).
    pub(crate) fn at(place: PathBuf, options: &str) -> Option<Self> {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "none"]).arg(&place);
        let mounted = is_root() && mount.output().is_ok_and(|output| output.status.success());
        mounted.then(|| Self(place))
    }

    /// One that was mounted already.
    pub(crate) fn of(place: PathBuf) -> Self {
        Self(place)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    #[track_caller]
    pub(crate) fn remount(&self, options: &str) {
        let mut mount = Command::new("mount");
        mount.args(["-o", &format!("remount,{options}")]).arg(&self.0);
        assert!(mount.status().unwrap().success());
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(&self.0).status().ok();
    }
}
