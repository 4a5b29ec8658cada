//! The helper waits in the kernel's queue, and nothing of it is left.

use std::{
    fs,
    os::unix::fs::OpenOptionsExt as _,
    thread,
    time::{Duration, Instant},
};

use super::*;

/// A file that is locked, and another open file of it whose lock a helper can wait for.
fn locked() -> (File, File) {
    let directory = tempfile::tempdir().expect("a directory");
    let open = || File::options().create(true).truncate(false).write(true).open(directory.path().join("lock"));
    let (held, wanted) = (open().expect("a file"), open().expect("the same file"));
    held.lock().expect("a lock");
    (held, wanted)
}

/// Tells whether the helper has news within a time that is long enough for anything but a lock that is held.
fn has_news(helper: &FlockHelper) -> bool {
    let event = crate::sys::Event::Readable(helper.fd());
    crate::sys::poll(&[event], Some(Duration::from_secs(20))).expect("poll")[0]
}

fn status(helper: &FlockHelper, key: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{}/status", helper.pid())).expect("a live process");
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.expect("a line of this key").trim().to_owned()
}

/// Waits until the helper waits in the kernel's queue.
fn settled(helper: &FlockHelper) {
    let end = Instant::now() + Duration::from_secs(20);
    let open = || fs::read_dir(format!("/proc/{}/fd", helper.pid())).map_or(0, Iterator::count);
    while open() != 2 {
        assert!(Instant::now() < end, "{} descriptors", open());
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn helper_gets_the_lock_for_the_open_file_that_it_shares() {
    let (held, wanted) = locked();
    let helper = FlockHelper::start(&wanted, true).expect("a helper");
    held.unlock().expect("an unlock");
    assert!(has_news(&helper) && helper.stop());
    assert!(held.try_lock().is_err(), "it is the waiter's now");
    wanted.unlock().expect("an unlock");
    assert!(held.try_lock().is_ok());
}

#[test]
fn helper_that_is_stopped_before_leaves_the_lock_alone() {
    let (held, wanted) = locked();
    let helper = FlockHelper::start(&wanted, false).expect("a helper");
    let pid = helper.pid();
    assert!(helper.stop(), "it has worked until now");
    assert!(!fs::exists(format!("/proc/{pid}")).expect("an answer"), "not even a zombie is left");
    held.unlock().expect("an unlock");
    assert!(held.try_lock().is_ok());
}

#[test]
fn lock_that_nobody_takes_is_given_back() {
    let (held, wanted) = locked();
    let helper = FlockHelper::start(&wanted, true).expect("a helper");
    held.unlock().expect("an unlock");
    assert!(has_news(&helper));
    held.lock().expect("a lock, a moment later");
    assert!(helper.stop(), "it had got it");
}

#[test]
fn helper_has_the_programs_memory_but_none_of_its_signals_and_files() {
    let (_held, wanted) = locked();
    let helper = FlockHelper::start(&wanted, true).expect("a helper");
    settled(&helper);
    // Mapped after the helper was made: with a copy of the memory it would not be there.
    let later = vec![1_u8; 64 << 20];
    let maps = fs::read_to_string(format!("/proc/{}/maps", helper.pid())).expect("a map");
    let within = |line: &str| {
        let (begin, end) = line.split_whitespace().next()?.split_once('-')?;
        let range = usize::from_str_radix(begin, 16).ok()?..usize::from_str_radix(end, 16).ok()?;
        Some(range.contains(&later.as_ptr().addr()))
    };
    assert!(maps.lines().any(|line| within(line) == Some(true)), "{maps}");
    // All but SIGKILL and SIGSTOP, those of libc included.
    assert_eq!(status(&helper, "SigBlk"), "fffffffffffbfeff");
    assert!(crate::sys::send(helper.pid(), crate::sys::TERMINATE));
    let stat = fs::read_to_string(format!("/proc/{}/stat", helper.pid())).expect("a live process");
    let fields: Vec<&str> = stat.rsplit_once(')').expect("a name").1.split_whitespace().collect();
    let (group, exit_signal) = (fields[2], fields[35]);
    assert_eq!((group, exit_signal), (helper.pid().to_string().as_str(), "0"), "{stat}");
    assert!(helper.stop(), "the signal did not end it");
}

#[test]
fn call_that_fails_in_the_helper_leaves_errno_alone() {
    // Cannot be locked.
    let file = File::options().read(true).custom_flags(libc::O_PATH).open("/").expect("a directory");
    // SAFETY: the address of this thread's own variable.
    let errno = unsafe { &mut *libc::__errno_location() };
    *errno = libc::EXDEV;
    let helper = FlockHelper::start(&file, true).expect("a helper");
    let (news, errno) = (has_news(&helper), *errno);
    assert_eq!((news, errno), (true, libc::EXDEV));
    assert!(!helper.stop(), "it has ended without the lock");
}

#[test]
fn killed_helper_is_seen_and_was_no_success() {
    let (_held, wanted) = locked();
    let helper = FlockHelper::start(&wanted, true).expect("a helper");
    assert!(crate::sys::send(helper.pid(), crate::sys::KILL));
    assert!(has_news(&helper) && !helper.stop());
}

#[test]
fn forbidden_process_is_an_error() {
    // The thread forbids itself to make processes, as a container may.
    let error = thread::spawn(|| {
        forbid(libc::SYS_clone);
        let (_held, wanted) = locked();
        FlockHelper::start(&wanted, true).err().map(|error| error.kind())
    });
    assert_eq!(error.join().expect("no panic"), Some(io::ErrorKind::PermissionDenied));
}

/// Makes a system call fail with EPERM in this thread.
#[expect(clippy::cast_possible_truncation, reason = "the kernel's constants fit")]
fn forbid(number: libc::c_long) {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const SKIP_UNLESS: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, jf, k| libc::sock_filter { code, jt: 0, jf, k };
    let number = u32::try_from(number).expect("a number");
    let mut steps = [
        step(LOAD, 0, 0),
        step(SKIP_UNLESS, 1, number),
        step(RETURN, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        step(RETURN, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: 4, filter: steps.as_mut_ptr() };
    // SAFETY: the kernel copies the program.
    let results = unsafe {
        [
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
            libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program),
        ]
    };
    assert_eq!(results, [0, 0]);
}
