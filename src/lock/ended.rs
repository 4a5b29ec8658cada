//! Tells which holds are at their end: those that ended with their container, and those whose reason is gone.

use std::time::SystemTime;

use super::{Holder, live::same_namespaces};
use crate::{
    holder,
    sys::{self, LockId},
};

/// Tells whether a hold that was found without a release ended because the process that it was for did.
///
/// The end of a container's first process kills all others in it, the watcher that would have recorded the release as well. If
/// git or the script that the hold was for had ended just then, nobody was killed in the middle; if it had not, this is the
/// end that `docker stop` gives everything. While anything of the container lives, the watcher alone was killed.
pub(crate) fn ended_with_its_container(record: &Holder) -> bool {
    let ends_with_a_process = record.for_git || record.for_pid.is_some();
    ends_with_a_process && sys::pid_namespace_has_ended(record.pid_namespace, record.boot_ms)
}

/// Tells whether the purpose of a lock has certainly ended, so that it is about to be released.
pub(super) fn is_done(hold: &Holder) -> bool {
    if !same_namespaces(hold) || hold.lingers {
        return false;
    }
    let has_ended = |pid: u32| sys::still_runs(pid, hold.boot_ms) == Some(false);
    let command = hold
        .descent
        .and_then(|descent| descent.command)
        .is_some_and(|(pid, start)| sys::process_state(pid).is_none_or(|state| state.zombie || state.start != start));
    let time = hold.until_ms.is_some_and(|until| until < holder::unix_ms(SystemTime::now()));
    command || time || (hold.for_git && has_ended(hold.pid)) || hold.for_pid.is_some_and(has_ended)
}

/// Continues stopped processes that keep a lock whose purpose has ended: they release it then.
pub(super) fn wake_keepers(slots: &[(LockId, Holder)]) {
    for (slot, hold) in slots.iter().filter(|(_, hold)| is_done(hold)) {
        for pid in [Some(hold.pid), hold.keeper].into_iter().flatten() {
            let is_stopped = || sys::process_state(pid).is_some_and(|state| state.stopped);
            // A record may name any process.
            if is_stopped() && sys::has_open(pid, slot.file) == Some(true) {
                sys::send(pid, sys::CONTINUE);
            }
        }
    }
}
