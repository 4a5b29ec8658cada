//! Tells whom the locks exclude, by the type of the git directory's file system.
//!
//! The type is read from `/proc/self/mountinfo`: statfs(2) calls some network file systems by the type of the server's.

use super::{Finding, Verdict};
use crate::{repo::Repo, sys};

/// The finding for the git directory's file system; `None` if it is a local one, or the system does not show it.
pub(super) fn look(repo: &Repo) -> Option<Finding> {
    let place = repo.git_dir().unwrap_or_else(|| repo.root());
    let mount = sys::mounted_at(&place.canonicalize().ok()?)?;
    let has = |name: &str| mount.options.iter().any(|option| option == name);
    let (who, hint) = match mount.kind.as_str() {
        "nfs" | "nfs4" if has("nolock") || has("local_lock=all") || has("local_lock=flock") => {
            ("are local to this machine, by the options of the mount", "mount it without `nolock` and `local_lock`")
        }
        "nfs" | "nfs4" | "ceph" | "lustre" | "gfs2" | "ocfs2" | "cifs" | "smb3" => (
            "count for all clients that lock it; processes of the server itself may not take part",
            "do not work in the same repository on the server",
        ),
        kind if kind == "fuse"
            || kind.starts_with("fuse.")
            || ["virtiofs", "9p", "vboxsf", "prl_fs"].contains(&kind) =>
        {
            (
                "count within this mount on this machine only: not for processes that reach the repository by another way",
                "use the repository through one mount only",
            )
        }
        _ => return None,
    };
    let found = format!("`{}` is on {}; locks there {who}", place.display(), mount.kind);
    Some(Finding::new("place", Verdict::Note, found).hint(hint))
}
