//! Measures what waiting costs: processor time, wake-ups and memory of processes that wait for five seconds.

use std::{fs, thread, time::Duration};

use super::{
    process::Usage,
    setup::Setup,
    storm::{Crew, Holder, Lock},
    table::{Table, Target},
};

/// How long the waiters are watched.
const WATCHED: Duration = Duration::from_secs(5);

/// How long they get to say that they wait, which they do once.
const SETTLED: Duration = Duration::from_secs(1);

/// Greatest memory of a waiter, in KiB.
const PEAK_KIB: u64 = 6 * 1024;

/// Measures the head of the queue and one behind it, for every build and for `flock(1)`, all at the same time.
pub fn tables(setup: &Setup) -> Vec<Table> {
    let mut locks = Vec::new();
    for (number, build) in setup.builds.iter().enumerate() {
        let repo = setup.repository(&format!("cost-{number}"));
        locks.push(Lock::repoguard(format!("repoguard, {}", build.name), &build.program, &repo));
    }
    let first_other = locks.len();
    locks.push(Lock::flock(&setup.flock, &setup.repository("cost-flock")));

    let holders: Vec<Holder> = locks.iter().map(Holder::take).collect();
    let mut crew = Crew::default();
    let mut waiters = Vec::new();
    for (number, lock) in locks.iter().enumerate() {
        for (place, role) in ["head", "behind it"].into_iter().enumerate() {
            let pid = crew.start(lock.command().arg("true"));
            lock.wait_for(place + 1);
            waiters.push((number, role, pid));
        }
    }
    thread::sleep(SETTLED);
    let before: Vec<Usage> = waiters.iter().map(|(_, _, pid)| Usage::of_tree(*pid)).collect();
    thread::sleep(WATCHED);
    let used: Vec<Usage> =
        waiters.iter().zip(before).map(|((_, _, pid), before)| Usage::of_tree(*pid).since(before)).collect();
    holders.into_iter().for_each(Holder::release);
    crew.finish();

    let counted = fs::metadata("/proc/self/schedstat").is_ok();
    let mut table = Table::new(
        format!("waiting for {} s", WATCHED.as_secs()),
        &["waiter", "CPU, clock ticks", "CPU, µs", "wake-ups", "peak RSS, KiB"],
    );
    for ((number, role, _), usage) in waiters.iter().zip(used) {
        // Whoever is queued is woken by nothing but its turn; only the head may look after a stopped or dead one.
        let asleep = *role == "head" || usage.wakeups == 0;
        let target = if *number < first_other {
            let rule = if *role == "head" { "no CPU" } else { "no CPU, no wake-up" };
            Target::that(format!("{rule}, ≤ {PEAK_KIB} KiB"), usage.ticks == 0 && asleep && usage.peak_kib <= PEAK_KIB)
        } else {
            Target::none()
        };
        // Where the kernel does not count it, a 0 must not look like a good result.
        let cpu = if counted { usage.cpu.as_micros().to_string() } else { "not counted".to_owned() };
        let name = format!("{}, {role}", locks[*number].name);
        let cells = [name, usage.ticks.to_string(), cpu, usage.wakeups.to_string(), usage.peak_kib.to_string()];
        table.row(cells, target);
    }
    vec![table]
}
