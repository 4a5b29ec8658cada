//! Keeps holds that outlive the process that took them, those of git's hooks and of `repoguard acquire`, in a watcher.

use std::time::{Duration, Instant, SystemTime};

use super::{
    Caller, Context, Notice, Observer, Terms,
    admission::{self, not_interrupted},
    hold::Hold,
    plan,
};
use crate::{
    error::{Error, Result},
    exec::RunLifecycle as _,
    holder::{self, Holder},
    lock::{self, Asker, Awaiting, Entered, Found, Request, Token, Wait, Waiter, Waiting},
    repo::Repo,
    store::audit,
    sys::{self, Event, Process, Retry, Signals},
    watcher,
};

/// When a hold without a command ends. At least one of the two is needed: else it would last for ever.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct Until {
    /// When this process has ended.
    pub process: Option<u32>,
    /// So long after it was acquired.
    pub ttl: Option<Duration>,
}

impl Until {
    /// Until this process has ended.
    #[must_use]
    pub fn process(mut self, process: u32) -> Self {
        self.process = Some(process);
        self
    }

    /// So long after the lock was acquired.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }
}

/// A hold for less than this is none.
const SHORTEST: Duration = Duration::from_millis(1);

/// The result of [`acquire`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Grant {
    /// A process that shows it in `REPOGUARD_TOKEN` is inside the hold; [`release`] and [`wait`] take it.
    pub token: String,
    /// How it stands.
    pub state: AcquireState,
    /// Fencing number; `None` while it waits, and inside another hold.
    pub fence: Option<u64>,
    /// How long it waited.
    pub waited: Duration,
}

/// How a request for a lock stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AcquireState {
    /// It is held.
    Held,
    /// It was held around the caller already; nothing was acquired, and nothing will be released.
    Inside,
    /// It waits in the background.
    Queued,
    /// The hold or request is over, or never existed.
    Over,
}

/// The result of a [`release`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Released {
    /// The lock was released, or the request left the queue.
    Done,
    /// The token was given out inside another hold, which goes on.
    Inside,
    /// No hold has this token, or it has ended already.
    Unknown,
    /// It is the token of `exec`, whose hold ends with its command.
    Command,
    /// Commands still work inside of the hold: it ends with the last of them.
    Later,
    /// The lock was released, but a path that it had locked was removed or replaced before: it was not exclusive to the end.
    Lost,
}

/// Acquires a lock and leaves it to a watcher in the background, which holds it until [`release`] or `until`.
///
/// With `background` it never blocks: where somebody is before us, the watcher waits in the queue. Else it blocks as the
/// request says. This process forks.
///
/// # Errors
/// [`Error::NoProcess`] when the process to hold it for does not run, or ends while it is waited, [`Error::BadValue`] when its time to live is less than
/// 1 ms; else as [`super::exec()`].
pub fn acquire(caller: Caller<'_>, until: Until, background: bool) -> Result<Grant> {
    if until.ttl.is_some_and(|ttl| ttl < SHORTEST) {
        let (what, reason) = ("the time to live".to_owned(), "the hold would be over before it began".to_owned());
        return Err(Error::BadValue { what, reason });
    }
    let process = until.process.map(Process::open);
    if let Some(pid) = until.process.filter(|_| process.as_ref().is_some_and(Process::has_ended)) {
        return Err(Error::NoProcess { pid });
    }
    let until = Background { process, ttl: until.ttl };
    caller.serve_forking(|context, request| acquire_until(context, request, until, background))
}

fn acquire_until(context: Context<'_>, request: &Request, until: Background, background: bool) -> Result<Grant> {
    let terms = Terms { reports_acquisition: true, ..Terms::default() };
    let signals = Signals::open().map_err(Error::io("catch signals for", context.repo.root()))?;
    admission::before(context, request, terms)?;
    let begun = Instant::now();
    let held = match plan::plan(context.repo, request, context.sharing)?.enter(request, &Asker::Program)? {
        Entered::Inside(inside) => {
            return Ok(Grant {
                token: Token::nested(inside.outer),
                state: AcquireState::Inside,
                fence: None,
                waited: Duration::ZERO,
            });
        }
        Entered::Waiting(waiter) if background => {
            let token = wait_in_background(context, waiter, until)?;
            return Ok(Grant { token, state: AcquireState::Queued, fence: None, waited: Duration::ZERO });
        }
        Entered::Waiting(mut waiter) => {
            if let Some(process) = &until.process {
                waiter.wait_only_for(process);
            }
            let report = &mut |waiting: &Waiting<'_>| context.notify(Notice::Waiting(waiting));
            waiter.wait(&mut Wait { signals: Some(&signals), report })?
        }
        Entered::Held(held) => held,
    };
    not_interrupted(&held, &signals)?;
    let admitted = admission::enter(context, held, begun.elapsed(), terms)?;
    let (token, fence, waited) =
        (admitted.held.token.as_str().to_owned(), Some(admitted.held.record().id), admitted.waited);
    let (until, us) = (until.begin(), std::process::id());
    let shown = shown(&until);
    let describe = |record: &mut Holder| {
        record.takers.push(us);
        record.pid = std::process::id();
        (record.for_pid, record.until_ms) = shown;
    };
    // Nobody can find the hold before its record names the watcher.
    keep(admitted, Watch { until, wait: watcher::Wait::UntilReady, describe, at_end: || {} })?;
    Ok(Grant { token, state: AcquireState::Held, fence, waited })
}

/// Leaves a lock that was acquired for `process`, a git, and named it in its request, to a watcher, until that process has ended.
///
/// The watcher runs `at_end` before it releases the lock. `orphan`: this process is about to be replaced by another program.
///
/// # Errors
/// [`Error::Io`] if no process can be made: then the lock was released.
pub(crate) fn hold_for(mut hold: Hold<'_>, process: Process, orphan: bool, at_end: impl FnOnce()) -> Result<()> {
    let until = watcher::Until { process: Some(process), deadline: None, on_request: false };
    hold.held.record_mut().for_git = true;
    let describe = |record: &mut Holder| record.keeper = Some(std::process::id());
    // Those inside know it by the process that it is for, which the record names already.
    let wait = if orphan { watcher::Wait::UntilReadyAsOrphan } else { watcher::Wait::Not };
    keep(hold, Watch { until, wait, describe, at_end })
}

/// How one watcher differs from another.
struct Watch<D, E> {
    until: watcher::Until,
    wait: watcher::Wait,
    /// Makes the record name the watcher, in which it runs.
    describe: D,
    /// Runs in the watcher before it releases the lock.
    at_end: E,
}

/// Makes the watcher. From then on the record is its own to write: it may have released the lock at once.
fn keep<D: FnOnce(&mut Holder), E: FnOnce()>(mut hold: Hold<'_>, watch: Watch<D, E>) -> Result<()> {
    // A later process inside of the hold could not see that it is inside, and would wait for itself.
    if let Err(error) = hold.held.must_be_recorded().and_then(|()| hold.held.publish()) {
        hold.release();
        return Err(error);
    }
    let files: Vec<_> = hold.held.files().into_iter().map(sys::number).collect();
    let made = watcher::leave(&files, watch.wait, |signals, ready| {
        (watch.describe)(hold.held.record_mut());
        if hold.held.publish().is_err() && watch.wait == watcher::Wait::UntilReady {
            return hold.release();
        }
        ready();
        watcher::watch(&watch.until, signals, &mut || hold.held.keep_recorded());
        (watch.at_end)();
        hold.wait_for_those_inside();
        hold.record_end(None);
        hold.release();
    });
    made.map_err(|error| {
        hold.release();
        Error::io("make a background process for", hold.context.repo.root())(error)
    })
}

/// Makes a watcher that waits in the queue in place of this process, and then keeps the lock; returns the token.
fn wait_in_background(context: Context<'_>, mut waiter: Box<Waiter>, until: Background) -> Result<String> {
    let token = waiter.make_token()?;
    let us = std::process::id();
    let files = waiter.files();
    let mut waiting_here = Some((waiter, until));
    let made = watcher::leave(&files, watcher::Wait::UntilReady, |signals, ready| {
        let Some((mut waiter, until)) = waiting_here.take() else { return };
        waiter.change_hands();
        if let Some(process) = &until.process {
            waiter.wait_only_for(process);
        }
        ready();
        // The time is over, or the process has ended: nobody is left to receive notices.
        let wait = &mut Wait { signals: Some(signals), report: &mut |_| {} };
        let Ok((held, place)) = waiter.wait_keeping_place(wait) else { return };
        let until = until.begin();
        // Nobody is left who could choose: the next request reports it.
        let Ok(mut admitted) = admission::enter(context.silent(), held, Duration::ZERO, Terms::default()) else {
            return;
        };
        let record = admitted.held.record_mut();
        record.takers.push(us);
        (record.for_pid, record.until_ms) = shown(&until);
        admitted.publish();
        drop(place);
        watcher::watch(&until, signals, &mut || admitted.held.keep_recorded());
        admitted.wait_for_those_inside();
        admitted.finish(None);
    });
    let Some((waiter, _)) = waiting_here else { return Ok(token.as_str().to_owned()) };
    match made {
        Ok(()) => {
            waiter.leave_to_child();
            Ok(token.as_str().to_owned())
        }
        Err(error) => Err(Error::io("make a background process for", context.repo.root())(error)),
    }
}

/// The command line of a process, shown to those who wait for a hold on its behalf; `None` if it cannot be read.
#[must_use]
pub fn command_of(pid: u32) -> Option<String> {
    sys::command_line(pid).map(|command| holder::readable_command(&command))
}

/// Tells whether the pids in a record count in another pid namespace, of a container for example: here they mean other processes.
#[must_use]
pub fn is_pid_of_elsewhere(holder: &Holder) -> bool {
    holder.pid_namespace != 0 && holder.pid_namespace != sys::pid_namespace()
}

/// The user that a holder's or waiter's process acts as, whatever its record says; `None` if this system does not show that
/// process, for example on another machine or after its end.
#[must_use]
pub fn user_of(holder: &Holder) -> Option<String> {
    let is_here = holder.host == sys::host() && holder.pid_namespace == sys::pid_namespace();
    if holder.pid == 0 || !is_here || sys::still_runs(holder.pid, holder.boot_ms) != Some(true) {
        return None;
    }
    sys::process_owner(holder.pid).map(|user| sys::user_name(user).unwrap_or_else(|| user.to_string()))
}

/// When to look again for a hold or a request that comes or goes just now.
const LOOKS: Retry = Retry::every(Duration::from_millis(1));

/// Ends the hold of a token, or takes its request from the queue; blocks for some milliseconds until that is done.
///
/// # Errors
/// [`Error::NotReached`] if the process that holds it cannot be signalled: another user's, or in another pid namespace.
pub fn release(repo: &Repo, token: &str) -> Result<Released> {
    /// How long a watcher may take.
    const PATIENCE: Duration = Duration::from_secs(5);
    /// How long one that has just ended may be found.
    const LOOK: Duration = Duration::from_millis(100);
    let domain = plan::domain(repo);
    if let Some(outer) = Token::outer(token) {
        return Ok(if domain.lives(outer) { Released::Inside } else { Released::Unknown });
    }
    let token = Token::shown(token);
    let (keeper, held) = match domain.find_again(&token, |fence| is_logged(repo, fence)) {
        None => return Ok(Released::Unknown),
        Some(Found::Request(request, _)) => (request, false),
        Some(Found::Hold(hold)) if !hold.is_kept() => return Ok(Released::Command),
        Some(Found::Hold(hold)) => (hold, true),
    };
    let ask = |pid: u32| domain.is_keeper(&token, pid) && watcher::ask(pid);
    let reached = keeper.pid_namespace == sys::pid_namespace() && ask(keeper.pid);
    let (begun, mut looks) = (Instant::now(), LOOKS.into_iter());
    while let Some(found) = domain.find(&token) {
        if matches!(&found, Found::Hold(record) if record.lingers) {
            return Ok(Released::Later);
        }
        // A request may have got the lock just before it was ended: then it releases the lock. It may have ended between the two
        // looks.
        if (!reached && begun.elapsed() > LOOK) || begun.elapsed() > PATIENCE {
            return Err(Error::NotReached { keeper });
        }
        if let (Found::Hold(hold), false) = (found, held) {
            ask(hold.pid);
        }
        looks.next();
    }
    Ok(if domain.was_lost(&token) { Released::Lost } else { Released::Done })
}

/// Tells whether the log knows the end of the hold with this fencing number.
fn is_logged(repo: &Repo, fence: u64) -> bool {
    audit::read(repo, None).iter().any(|entry| entry.fence == fence)
}

/// Waits until the request of a token holds the lock.
///
/// # Errors
/// [`Error::Busy`] when it does not before `timeout` is over (never, with `None`), [`Error::Deadlock`] when it waits for a lock
/// that this process is inside of, [`Error::Interrupted`].
pub fn wait(repo: &Repo, token: &str, timeout: Option<Duration>, observer: &mut Observer<'_>) -> Result<AcquireState> {
    let domain = plan::domain(repo);
    if let Some(outer) = Token::outer(token) {
        return Ok(if domain.lives(outer) { AcquireState::Inside } else { AcquireState::Over });
    }
    let token = Token::shown(token);
    let signals = Signals::open().map_err(Error::io("catch signals for", repo.root()))?;
    signals.catch(sys::INTERRUPTS.iter().copied());
    let begun = Instant::now();
    let mut awaiting = Awaiting::new(&domain);
    let (mut last, mut looks): (Option<Process>, _) = (None, LOOKS.into_iter());
    loop {
        let found = if last.is_none() {
            domain.find_again(&token, |fence| is_logged(repo, fence))
        } else {
            domain.find(&token)
        };
        let (request, gone) = match found {
            Some(Found::Hold(_)) => return Ok(AcquireState::Held),
            Some(Found::Request(request, gone)) => (request, gone),
            // Between its place in the queue and its hold it is to be seen nowhere.
            None if last.as_ref().is_some_and(|process| !process.has_ended()) => {
                looks.next();
                continue;
            }
            None => return Ok(AcquireState::Over),
        };
        last = Some(Process::open(request.pid));
        let waited = begun.elapsed();
        if timeout.is_some_and(|timeout| waited >= timeout) {
            return Err(lock::still_waits(&domain, &request, waited));
        }
        let unchecked = awaiting.look(&request)?;
        if waited >= Wait::GRACE {
            lock::report_waiting(&domain, &request, &unchecked, waited, &mut |waiting| {
                observer(Notice::Waiting(waiting));
            });
        }
        let left = timeout.map_or(Wait::TICK, |timeout| timeout.saturating_sub(waited));
        let word = if waited < Wait::GRACE { Wait::GRACE.saturating_sub(waited) } else { Wait::TICK };
        let ticket = gone.as_ref().map(|gone| Event::ReaderGone(sys::fd(gone)));
        let events: Vec<_> = [Event::Readable(signals.fd())].into_iter().chain(ticket).collect();
        sys::poll(&events, Some(left.min(word))).map_err(Error::io("wait for", repo.root()))?;
        if let Some(signal) = signals.interrupt() {
            return Err(Error::Interrupted { what: request.scope.clone(), signal });
        }
    }
}

/// [`Until`], with the process taken hold of.
struct Background {
    process: Option<Process>,
    ttl: Option<Duration>,
}

impl Background {
    /// The lock was acquired now.
    fn begin(self) -> watcher::Until {
        /// A longer time is as good as for ever, and more than clocks can tell.
        const LONGEST: Duration = Duration::from_secs(10 * 365 * 86_400);
        let deadline = self.ttl.map(|ttl| Instant::now() + ttl.min(LONGEST));
        watcher::Until { process: self.process, deadline, on_request: true }
    }
}

/// Until when a watcher holds, as records tell it: a process, and milliseconds since 1970.
fn shown(until: &watcher::Until) -> (Option<u32>, Option<u64>) {
    let end = until.deadline.map(|deadline| SystemTime::now() + deadline.saturating_duration_since(Instant::now()));
    (until.process.as_ref().map(Process::pid), end.map(holder::unix_ms))
}
