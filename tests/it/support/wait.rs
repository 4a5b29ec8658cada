//! Waiting for facts, and saying what could not be tried here.

use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a fact may take before the test calls it missing: far longer than any loaded machine needs.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until the condition holds.
#[track_caller]
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    until(what, || if holds() { Ok(()) } else { Err(String::new()) });
}

/// Waits until there is success; the last failure tells what was seen instead.
#[track_caller]
pub(crate) fn until(what: &str, mut look: impl FnMut() -> Result<(), String>) {
    let start = Instant::now();
    while let Err(seen) = look() {
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}: {seen}");
        sleep(Duration::from_millis(20));
    }
}

/// Tells in one line, past the test harness's capture, what was not tried and why. With `REPOGUARD_NO_SKIP=1` it fails if a program is
/// missing (`no …`): that can be installed, unlike another kernel.
#[track_caller]
pub(crate) fn skip(what: &str, why: &str) {
    let is_strict = std::env::var_os("REPOGUARD_NO_SKIP").is_some_and(|value| value == "1");
    assert!(!(is_strict && why.starts_with("no ")), "skipped: {what}: {why}");
    writeln!(std::io::stderr(), "skipped: {what}: {why}").ok();
}

/// The Python whose packages the tests may need, `python3` unless `REPOGUARD_TEST_PYTHON` names one.
pub(crate) fn python() -> std::ffi::OsString {
    std::env::var_os("REPOGUARD_TEST_PYTHON").unwrap_or_else(|| "python3".into())
}

/// Whether the long variants are wanted.
pub(crate) fn long() -> bool {
    std::env::var_os("REPOGUARD_LONG").is_some_and(|value| value == "1")
}

/// Whether the tests run as root.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether a program is on `PATH`.
pub(crate) fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(name).is_file())
}

/// A status as a shell's `$?` shows it: death by a signal is 128 and its number.
pub(crate) fn shell_status(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().expect("a code or a signal"))
}

/// Gives signals their usual effect here and in all children, also if whoever started the tests ignores them, as a shell does for a
/// job in the background, and `nohup`.
#[allow(unsafe_code, reason = "no crate offers it safely")]
pub(crate) fn usual_signals() {
    for signal in [libc::SIGINT, libc::SIGQUIT, libc::SIGHUP, libc::SIGTERM] {
        // SAFETY: no handler is set, and the tests have none that this could replace.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}
