//! Many allocators at once, a part of them killed: never the same number twice.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;

use crate::support::{Running, Sandbox, lines, long};

fn finished(fleet: &mut [Running]) {
    for allocator in fleet {
        allocator.ended();
    }
}

/// Starts allocators in three worktrees, waits for them, and asserts that nobody was given what somebody else was.
fn allocate(sandbox: &Sandbox, script: &dyn Fn(usize) -> String, survivors: usize) -> usize {
    let places = [sandbox.here().to_owned(), sandbox.worktree("one"), sandbox.worktree("other")];
    let mut fleet: Vec<Running> = (0..32)
        .map(|number| {
            let mut command = sandbox.sh_command(&script(number));
            command.current_dir(&places[number % places.len()]);
            sandbox.start(command)
        })
        .collect();
    finished(&mut fleet);
    let mut all = BTreeSet::new();
    let mut count = 0;
    for number in 0..32 {
        let mut before = 0;
        for line in lines(&sandbox.outside(format!("given.{number}"))) {
            let given: u64 = line.parse().expect("a number, whole");
            assert!(given > before, "each sees its own grow");
            before = given;
            assert!(all.insert(given), "{given} was given twice");
            count += 1;
        }
    }
    assert!(count >= survivors, "only {count} were given");
    let last: u64 = sandbox.next(&["id", "--last"])[0].parse().unwrap();
    assert!(all.last().is_some_and(|greatest| *greatest <= last));
    assert_eq!(sandbox.next(&["id"]), [(last + 1).to_string()]);
    count
}

#[test]
fn allocators_that_are_killed_at_random_give_no_number_twice() {
    let sandbox = Sandbox::new();
    let rounds = if long() { 200 } else { 8 };
    // Every second one is killed after 0 to 40 ms, wherever it is then.
    let script = |number: usize| {
        let mut script = String::new();
        for round in 0..rounds {
            let delay = (number * 7 + round * 13) % 41;
            let kill = if round % 2 == 0 { format!("timeout -s KILL 0.{delay:03} ") } else { String::new() };
            let count = 1 + round % 3;
            writeln!(script, "{kill}repoguard next id --count {count} >>../given.{number} 2>>../told").unwrap();
        }
        script
    };
    let survivors = 32 * rounds / 2;
    let given = allocate(&sandbox, &script, survivors);
    let last: usize = sandbox.next(&["id", "--last"])[0].parse().unwrap();
    assert!(given <= last);
    let told = fs::read_to_string(sandbox.outside("told")).unwrap();
    assert!(!told.contains("repoguard:"), "{told}");
}

#[test]
fn allocators_that_also_look_at_names_give_no_number_twice() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("ids")).unwrap();
    fs::write(sandbox.path("ids/100-x"), "").unwrap();
    let script = |number: usize| {
        // In their own worktrees, uncommitted: the others see them all the same.
        let scan = if number.is_multiple_of(2) { "--scan 'ids/{}-*'" } else { "" };
        let one = format!(
            "n=$(repoguard next id {scan} 2>>../told) && echo $n >>../given.{number} && mkdir -p ids && >ids/$n-x\n"
        );
        one.repeat(2)
    };
    allocate(&sandbox, &script, 64);
}

#[test]
fn allocators_who_look_at_names_give_no_number_twice_also_after_the_record_was_deleted() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("ids")).unwrap();
    // Names are made in one step by who got the number: a second one of the same number fails.
    let one = "n=$(repoguard next id --scan 'ids/{}' 2>>../told) && mkdir ids/$n || echo twice $n >>../twice\n";
    let script = format!("i=0; while [ $i -lt 6 ]; do {one} i=$((i+1)); done");
    let mut fleet: Vec<Running> = (0..4).map(|_| sandbox.start(sandbox.sh_command(&script))).collect();
    finished(&mut fleet);
    assert_eq!(lines(&sandbox.outside("twice")), [""; 0]);
    fs::remove_dir_all(sandbox.data()).unwrap();
    let mut fleet: Vec<Running> = (0..4).map(|_| sandbox.start(sandbox.sh_command(&script))).collect();
    finished(&mut fleet);
    assert_eq!(lines(&sandbox.outside("twice")), [""; 0], "{:?}", lines(&sandbox.outside("told")));
    assert_eq!(fs::read_dir(sandbox.path("ids")).unwrap().count(), 48);
}
