//! Threads and tasks are served in order.

use super::*;

/// Asks as an owner of its own, and tells whether it is its turn at once.
fn ask(directory: &Path, mode: Mode) -> LocalTicket {
    let asks = || {
        let resource = Resource::new(directory, "a".into(), false)?;
        LocalTicket::ask("a", vec![(resource, mode)], Manner::Wait, Owner::current())
    };
    let ticket = thread::scope(|scope| scope.spawn(asks).join()).expect("no panic");
    ticket.expect("no error").expect("a place")
}

fn turns(line: &[&LocalTicket]) -> Vec<bool> {
    line.iter().map(|ticket| ticket.has_come(Waker::noop())).collect()
}

#[test]
fn turns_come_in_order_and_those_who_share_come_together() {
    let directory = tempfile::tempdir().expect("a directory");
    let [s, x] = [Mode::Shared, Mode::Exclusive];
    let [first, second, third, fourth, fifth] = [s, s, x, s, s].map(|mode| ask(directory.path(), mode));
    assert_eq!(turns(&[&first, &second, &third, &fourth, &fifth]), [true, true, false, false, false]);
    drop(first);
    assert_eq!(turns(&[&third, &fourth]), [false, false], "one who shares is left");
    drop(second);
    assert_eq!(turns(&[&third, &fourth, &fifth]), [true, false, false]);
    drop(third);
    assert_eq!(turns(&[&fourth, &fifth]), [true, true]);
}

#[test]
fn who_gives_up_in_the_middle_is_in_nobodys_way() {
    let directory = tempfile::tempdir().expect("a directory");
    let [s, x] = [Mode::Shared, Mode::Exclusive];
    let [first, second, third, fourth] = [s, x, s, x].map(|mode| ask(directory.path(), mode));
    assert_eq!(turns(&[&first, &second, &third, &fourth]), [true, false, false, false]);
    drop(second);
    assert_eq!(turns(&[&third, &fourth]), [true, false]);
    drop(first);
    assert_eq!(turns(&[&fourth]), [false]);
    drop(third);
    assert_eq!(turns(&[&fourth]), [true]);
}
