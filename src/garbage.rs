//! Makes input for tests that is nearly what a reader expects: valid texts with a few bytes changed, missing, doubled or cut off.

#![expect(clippy::disallowed_methods, reason = "tests write files of their own, and have a variable of their own")]

use std::path::Path;

use proptest::{prelude::*, sample::Index};

/// One change of a text.
#[derive(Debug, Clone)]
enum Change {
    Set(u8),
    Insert(u8),
    Remove,
    Cut,
    /// Everything from here to the other place comes twice.
    Double(Index),
}

/// Any text that is at most a few changes away from one of the samples.
pub(crate) fn near(samples: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    // Bytes that mean something in one format or another come more often than others.
    let byte = || prop_oneof![any::<u8>(), prop::sample::select(b"\0\n\r \"\\{}[]:,./-_0129aefF\xff".to_vec())];
    let change = prop_oneof![
        4 => byte().prop_map(Change::Set),
        2 => byte().prop_map(Change::Insert),
        2 => Just(Change::Remove),
        1 => Just(Change::Cut),
        1 => any::<Index>().prop_map(Change::Double),
    ];
    let changes = prop::collection::vec((any::<Index>(), change), 0..6);
    (prop::sample::select(samples), changes).prop_map(|(mut text, changes)| {
        for (at, change) in changes {
            apply(&mut text, at, &change);
        }
        text
    })
}

fn apply(text: &mut Vec<u8>, at: Index, change: &Change) {
    let here = at.index(text.len() + 1);
    match change {
        Change::Insert(byte) => text.insert(here, *byte),
        Change::Cut => text.truncate(here),
        _ if here == text.len() => {}
        Change::Set(byte) => text[here] = *byte,
        Change::Remove => drop(text.remove(here)),
        Change::Double(to) => {
            let part = text[here..here + to.index(text.len() - here + 1)].to_vec();
            text.splice(here..here, part);
        }
    }
}

/// So many cases, or a hundred times as many if `REPOGUARD_LONG` is set.
pub(crate) fn cases(cases: u32) -> ProptestConfig {
    let factor = if std::env::var_os("REPOGUARD_LONG").is_some() { 100 } else { 1 };
    ProptestConfig { cases: cases * factor, failure_persistence: None, ..ProptestConfig::default() }
}

/// Puts such a text where a reader looks for it.
pub(crate) fn put(path: &Path, text: &[u8]) {
    std::fs::write(path, text).expect("a file");
}
