//! Tickets have names that are read back, and their order.

use super::*;
use crate::garbage::{cases, near};

fn resources(list: &[(&str, Mode)]) -> Vec<(String, Mode)> {
    list.iter().map(|(key, mode)| ((*key).to_owned(), *mode)).collect()
}

#[test]
fn what_survives_the_file_name() {
    let what = encode(&resources(&[("repo", Mode::Shared), ("w-0123456789abcdef", Mode::Exclusive)]));
    assert_eq!(what, "repos_w01234567x");
    assert_eq!(parse(&format!("17.{what}")), Some(Entry { number: 17, what: what.clone(), passed: false }));
    assert_eq!(parse("17.-"), Some(Entry { number: 17, what: encode(&[]), passed: false }));
    assert_eq!(parse(&format!("17.{what}~")), Some(Entry { number: 17, what, passed: true }));
}

#[test]
fn garbage_is_no_ticket() {
    for name in ["17.json", "alloc", ".ticket-17", "x.repos", "17.", "17._", "99999999999999999999.repos", "17.reposé"]
    {
        assert_eq!(parse(name), None, "{name}");
    }
}

#[test]
fn only_same_resources_conflict_and_only_when_one_is_exclusive() {
    assert!(conflict("repos_wx", "repos_wx"));
    assert!(conflict("repox", "repos_wx"));
    assert!(!conflict("repos_wx", "repos_w01234567x"));
    assert!(!conflict("repos_ws", "repos_ws"));
    assert!(conflict("*", "repos_ws"));
    assert!(!conflict("*", &encode(&[])) && !conflict(&encode(&[]), &encode(&[])));
}

#[test]
fn numbers_grow_also_when_the_file_is_gone() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let queue = Queue::new(directory.path().to_owned(), Sharing::default());
    let next = || {
        let allocation = queue.allocate().expect("an allocation");
        allocation.give().expect("a number");
        allocation.number
    };
    let (first, second) = (next(), next());
    fs::remove(&directory.path().join("alloc"));
    let third = next();
    assert!(first < second && second < third, "{first} {second} {third}");
}

#[test]
fn damaged_name_is_read_as_it_is_written_or_not_at_all() {
    let names = ["17.repos_w01234567x", "17.-", "1152921504606846975.repox~", "3.json", "4.*"];
    let samples = names.map(|name| name.as_bytes().to_vec()).to_vec();
    proptest::proptest!(cases(2000), |(one in near(samples.clone()), other in near(samples))| {
        let read = |name: &[u8]| parse(&String::from_utf8_lossy(name));
        if let (Some(one), Some(other)) = (read(&one), read(&other)) {
            let mark = if one.passed { PASSED.to_string() } else { String::new() };
            let again = parse(&format!("{}.{}{mark}", one.number, one.what));
            proptest::prop_assert_eq!(conflict(&one.what, &other.what), conflict(&other.what, &one.what));
            proptest::prop_assert_eq!(again, Some(one));
        }
    });
}
