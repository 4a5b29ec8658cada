//! Tells holds that ended with their container from those that were killed.

use super::Holder;
use crate::sys;

/// Tells whether a hold that was found without a release ended because the process that it was for did.
///
/// The end of a container's first process kills all others in it, the watcher that would have recorded the release as well. If
/// git or the script that the hold was for had ended just then, nobody was killed in the middle; if it had not, this is the
/// end that `docker stop` gives everything. While anything of the container lives, the watcher alone was killed.
pub(crate) fn ended_with_its_container(record: &Holder) -> bool {
    let ends_with_a_process = record.for_git || record.for_pid.is_some();
    ends_with_a_process && sys::pid_namespace_has_ended(record.pid_namespace, record.boot_ms)
}
