//! Signals: caught into a pipe that can be polled, sent, and died of.

use std::{
    io::{self, Read, pipe},
    mem::MaybeUninit,
    os::fd::{IntoRawFd, OwnedFd},
    sync::atomic::{AtomicBool, AtomicI32, Ordering},
};

use crate::sys::{FdRef, Received};

/// Signals that end a wait.
pub(crate) const INTERRUPTS: &[i32] = &[libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT];

/// Signals that are passed on to a command, and those that tell about it: all that can be caught, but those of a fault of this
/// process and of its children. Those that stop a process are caught as well: whether anything stops is for the command to decide.
pub(crate) fn forwarded() -> impl Iterator<Item = i32> {
    FORWARDED.iter().copied().chain(system::FORWARDED.iter().copied()).chain(system::real_time())
}

const FORWARDED: &[i32] = &[
    libc::SIGINT,
    libc::SIGTERM,
    libc::SIGHUP,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGWINCH,
    libc::SIGTSTP,
    libc::SIGTTIN,
    libc::SIGTTOU,
    libc::SIGCONT,
    libc::SIGABRT,
    libc::SIGIO,
    libc::SIGPIPE,
    libc::SIGPROF,
    libc::SIGSYS,
    libc::SIGTRAP,
    libc::SIGURG,
    libc::SIGVTALRM,
    libc::SIGXCPU,
    libc::SIGXFSZ,
];

#[cfg(target_os = "linux")]
mod system {
    pub(super) const FORWARDED: &[i32] = &[libc::SIGPWR, libc::SIGSTKFLT];

    pub(super) fn real_time() -> std::ops::RangeInclusive<i32> {
        libc::SIGRTMIN()..=libc::SIGRTMAX()
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    pub(super) const FORWARDED: &[i32] = &[];

    pub(super) fn real_time() -> std::ops::Range<i32> {
        0..0
    }
}

/// Signals that a terminal's user sends to end what runs: who started us must see that we died of them.
pub(crate) const DIE_OF: &[i32] = &[libc::SIGINT, libc::SIGQUIT];
/// Signals that stop what does not catch them. The kernel forgets those that wait when a SIGCONT comes, and the reverse.
pub(crate) const STOPS: &[i32] = &[libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];
pub(crate) const CHILD_CHANGED: i32 = libc::SIGCHLD;
pub(crate) const TERMINATE: i32 = libc::SIGTERM;
pub(crate) const KILL: i32 = libc::SIGKILL;
pub(crate) const STOP: i32 = libc::SIGSTOP;
pub(crate) const CONTINUE: i32 = libc::SIGCONT;

/// The handler's note of a signal: its number, whether it came from the terminal, its sender.
const NOTE_BYTES: usize = 6;

/// The handler's descriptor; -1 while nobody listens.
static SINK: AtomicI32 = AtomicI32::new(-1);

/// Signals of this process, to be read from a descriptor. There is one at a time.
///
/// The writing end outlives it: handlers may still run. The next one closes it.
pub(crate) struct Signals {
    reader: io::PipeReader,
    /// How signals were before.
    pub(crate) inheritance: Inheritance,
}

impl Signals {
    /// Opens the pipe; nothing comes through it yet.
    pub(crate) fn open() -> io::Result<Self> {
        prepare_signals();
        let (reader, writer) = pipe()?;
        rustix::io::ioctl_fionbio(&reader, true)?;
        rustix::io::ioctl_fionbio(&writer, true)?;
        let old = SINK.swap(OwnedFd::from(writer).into_raw_fd(), Ordering::SeqCst);
        close_raw(old);
        Ok(Self { reader, inheritance: Inheritance::remember() })
    }

    /// Catches signals from now on, except those that were ignored at the start: these stay ignored for the command as well.
    #[expect(clippy::unused_self, reason = "what is caught goes to the one pipe, which must be open")]
    pub(crate) fn catch(&self, signals: impl IntoIterator<Item = i32>) {
        for signal in signals {
            // Rust's start-up ignores it.
            let was_ignored =
                if signal == libc::SIGPIPE { PIPE_WAS_IGNORED.load(Ordering::SeqCst) } else { is_ignored(signal) };
            if !was_ignored {
                set_handler(signal);
            }
        }
    }

    /// Catches signals from now on, also those that were ignored or blocked at the start.
    #[expect(clippy::unused_self, reason = "what is caught goes to the one pipe, which must be open")]
    #[expect(unsafe_code, reason = "rustix has no signal masks")]
    pub(crate) fn insist(&self, signals: &[i32]) {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: the set lives on this stack for the whole call, and sigemptyset initialises it.
        unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for &signal in signals {
                set_handler(signal);
                libc::sigaddset(set.as_mut_ptr(), signal);
            }
            libc::pthread_sigmask(libc::SIG_UNBLOCK, set.as_ptr(), std::ptr::null_mut());
        }
    }

    /// For the child of a fork: a pipe of its own, so that it does not read its parent's signals.
    pub(crate) fn for_child(&self) -> io::Result<Self> {
        Ok(Self { inheritance: self.inheritance, ..Self::open()? })
    }

    /// The descriptor to poll.
    pub(crate) fn fd(&self) -> FdRef<'_> {
        crate::sys::fd(&self.reader)
    }

    /// Takes all that arrived; the number of the first that ends a wait, if there is one.
    pub(crate) fn interrupt(&self) -> Option<i32> {
        self.take().into_iter().map(|received| received.signal).find(|signal| INTERRUPTS.contains(signal))
    }

    /// Takes all that arrived.
    pub(crate) fn take(&self) -> Vec<Received> {
        let mut buffer = [0; 64 * NOTE_BYTES];
        let read = (&self.reader).read(&mut buffer).unwrap_or(0);
        buffer[..read]
            .chunks_exact(NOTE_BYTES)
            .map(|note| Received {
                signal: i32::from(note[0]),
                from_terminal: note[1] == 1,
                sender: u32::from_le_bytes([note[2], note[3], note[4], note[5]]),
            })
            .collect()
    }
}

/// For a process that is about to close what it inherited: signals that arrive from now on are lost, until
/// [`Signals::open`].
pub(super) fn listen_no_more() {
    SINK.store(-1, Ordering::SeqCst);
}

/// Makes a write beyond the limit of file sizes (`ulimit -f`) fail, instead of ending this process by SIGXFSZ, and makes children
/// that have ended wait to be reaped, also if our caller ignored SIGCHLD.
///
/// SIGXFSZ is caught, not ignored: commands find the default again, as they do without repoguard. If our caller ignored it, it
/// stays ignored.
pub(crate) fn prepare_signals() {
    extern "C" fn nothing(_signal: i32) {}
    if is_ignored(CHILD_CHANGED) {
        CHILDREN_WERE_IGNORED.store(true, Ordering::SeqCst);
        set_disposition(CHILD_CHANGED, libc::SIG_DFL);
    }
    if disposition(libc::SIGXFSZ) == libc::SIG_DFL {
        set_disposition(libc::SIGXFSZ, nothing as *const () as usize);
    }
}

/// Sends a signal to one process; tells whether there is such a process, and it may be sent to.
#[expect(unsafe_code, reason = "rustix does not send real-time signals")]
pub(crate) fn send(pid: u32, signal: i32) -> bool {
    let Some(pid) = i32::try_from(pid).ok().filter(|pid| *pid > 0) else { return false };
    // SAFETY: kill(2) takes two numbers; a bad number is an error.
    unsafe { libc::kill(pid, signal) == 0 }
}

/// Ends this process by a signal, without a core dump of our own.
pub(crate) fn die_of(signal: i32) {
    let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    let _ = rustix::process::setrlimit(rustix::process::Resource::Core, none);
    set_disposition(signal, libc::SIG_DFL);
    send(std::process::id(), signal);
}

/// Blocks all signals, runs `action`, and lets those that came meanwhile in.
#[expect(unsafe_code, reason = "rustix has no signal masks")]
pub(crate) fn with_signals_blocked<T>(action: impl FnOnce() -> T) -> T {
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    let mut old = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: both sets live on this stack for the whole call, and sigfillset initialises the first.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_BLOCK, all.as_ptr(), old.as_mut_ptr());
    }
    let result = action();
    // SAFETY: `old` was written by the call above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, old.as_ptr(), std::ptr::null_mut()) };
    result
}

/// How a command finds its signals that our own start-up has changed: as our caller left them.
#[derive(Clone, Copy)]
pub(crate) struct Inheritance {
    blocked: libc::sigset_t,
    ignored: [Option<i32>; 2],
}

impl Inheritance {
    /// Remembers how it is now, before anything is caught.
    #[expect(unsafe_code, reason = "rustix has no signal masks")]
    pub(crate) fn remember() -> Self {
        let mut blocked = MaybeUninit::<libc::sigset_t>::zeroed();
        // SAFETY: a null new set only asks; the old one is large enough and zeroed in case of failure.
        let blocked = unsafe {
            libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), blocked.as_mut_ptr());
            blocked.assume_init()
        };
        let pipe = PIPE_WAS_IGNORED.load(Ordering::SeqCst).then_some(libc::SIGPIPE);
        let children = CHILDREN_WERE_IGNORED.load(Ordering::SeqCst).then_some(CHILD_CHANGED);
        Self { blocked, ignored: [pipe, children] }
    }

    /// Tells whether it is what a command finds anyway: nothing blocked, nothing ignored.
    #[expect(unsafe_code, reason = "rustix has no signal masks")]
    pub(crate) fn is_usual(&self) -> bool {
        // SAFETY: the set was initialised by `remember`.
        let blocked = (1..32).any(|signal| unsafe { libc::sigismember(&raw const self.blocked, signal) } == 1);
        !blocked && self.ignored == [None, None]
    }

    /// Hands it down to a command, at the price of a slower start.
    #[expect(unsafe_code, reason = "only the child of a fork can set what posix_spawn cannot")]
    pub(crate) fn hand_down(self, command: &mut std::process::Command) {
        let set = move || {
            for signal in self.ignored.into_iter().flatten() {
                set_disposition(signal, libc::SIG_IGN);
            }
            // SAFETY: the set was initialised by `remember`.
            unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.blocked, std::ptr::null_mut()) };
            Ok(())
        };
        // SAFETY: sigaction and pthread_sigmask are async-signal-safe, and nothing else is done.
        unsafe { std::os::unix::process::CommandExt::pre_exec(command, set) };
    }
}

/// Whether SIGCHLD was ignored before [`prepare_signals`].
static CHILDREN_WERE_IGNORED: AtomicBool = AtomicBool::new(false);

/// Whether SIGPIPE was ignored before Rust's own start-up, which always ignores it.
static PIPE_WAS_IGNORED: AtomicBool = AtomicBool::new(false);

#[expect(unsafe_code, reason = "what Rust's start-up changes can be seen only before it")]
#[used]
#[cfg_attr(target_os = "linux", unsafe(link_section = ".init_array"))]
#[cfg_attr(target_os = "macos", unsafe(link_section = "__DATA,__mod_init_func"))]
static BEFORE_START: extern "C" fn() = {
    extern "C" fn look() {
        PIPE_WAS_IGNORED.store(is_ignored(libc::SIGPIPE), Ordering::SeqCst);
    }
    look
};

fn is_ignored(signal: i32) -> bool {
    disposition(signal) == libc::SIG_IGN
}

#[expect(unsafe_code, reason = "sigaction takes raw pointers")]
fn disposition(signal: i32) -> libc::sighandler_t {
    let mut old = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: a null new action only asks; `old` is large enough and zeroed in case of failure.
    unsafe {
        libc::sigaction(signal, std::ptr::null(), old.as_mut_ptr());
        old.assume_init().sa_sigaction
    }
}

#[expect(unsafe_code, reason = "sigaction takes raw pointers")]
fn set_handler(signal: i32) {
    // SAFETY: the action is fully initialised, and `on_signal` only does what is async-signal-safe.
    unsafe {
        let mut action = MaybeUninit::<libc::sigaction>::zeroed().assume_init();
        action.sa_sigaction = on_signal as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
        libc::sigaction(signal, &raw const action, std::ptr::null_mut());
    }
}

#[expect(unsafe_code, reason = "sigaction takes raw pointers")]
fn set_disposition(signal: i32, disposition: libc::sighandler_t) {
    // SAFETY: the action is fully initialised.
    unsafe {
        let mut action = MaybeUninit::<libc::sigaction>::zeroed().assume_init();
        action.sa_sigaction = disposition;
        libc::sigaction(signal, &raw const action, std::ptr::null_mut());
    }
}

#[expect(unsafe_code, reason = "a signal handler gets a raw pointer and writes to a raw descriptor")]
extern "C" fn on_signal(signal: i32, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel gives a valid siginfo to a SA_SIGINFO handler; getpid(2), sigaction(2), raise(3) and write(2) are
    // async-signal-safe, and errno, the only other state touched, is put back for the code that was interrupted.
    unsafe {
        let errno = errno_location();
        let saved = *errno;
        let (code, from_terminal) = ((*info).si_code, (*info).si_code == SI_KERNEL);
        let sender = if from_terminal { 0 } else { (*info).si_pid() };
        if code > 0 && OF_FAULTS.contains(&signal) {
            set_disposition(signal, libc::SIG_DFL);
            libc::raise(signal);
        } else if sender != libc::getpid() {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "signal numbers are below 128")]
            let number = signal as u8;
            let sender = sender.to_le_bytes();
            let note = [number, u8::from(from_terminal), sender[0], sender[1], sender[2], sender[3]];
            libc::write(SINK.load(Ordering::SeqCst), note.as_ptr().cast(), note.len());
        }
        *errno = saved;
    }
}

/// Signals that the kernel also sends for a fault of this process itself, which ends it then. A signal that this process causes
/// itself, for example by a write to a closed pipe, is not passed on.
const OF_FAULTS: &[i32] = &[libc::SIGSYS, libc::SIGTRAP];

#[cfg(target_os = "linux")]
const SI_KERNEL: i32 = 0x80;
/// Elsewhere the origin is not told: the keeper is the only witness.
#[cfg(not(target_os = "linux"))]
const SI_KERNEL: i32 = i32::MIN;

#[cfg(target_os = "linux")]
use libc::__errno_location as errno_location;
#[cfg(not(target_os = "linux"))]
use libc::__error as errno_location;

#[expect(unsafe_code, reason = "the handler's descriptor is kept as a number")]
fn close_raw(descriptor: i32) {
    if descriptor >= 0 {
        // SAFETY: the number was taken out of `SINK`, so nobody else uses it.
        drop(unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(descriptor) });
    }
}
