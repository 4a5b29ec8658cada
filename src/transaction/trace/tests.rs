//! The trace shows which gits changed references.

use super::*;
use crate::garbage::{cases, near, put};

const A: &str = "670150d3ad5a8e1efa635016d353f60b92280bb8";
const B: &str = "a9d5eacdc31f413c4475718999482eaecd313e0a";
const C: &str = "88424f7fa3469df130ae4c224d33f389f86849a2";

fn moves(trace: &str) -> Moves {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("trace");
    crate::fs::write_new(&path, trace.as_bytes(), crate::fs::Sharing::default()).expect("a trace");
    Moves::read(&path, HashSet::from([A.to_owned()]))
}

fn head(branch: &str, commit: &str) -> Head {
    Head { branch: Some(branch.to_owned()), commit: Some(commit.to_owned()) }
}

#[test]
fn only_what_a_git_of_the_command_has_written_is_its_own() {
    let commit = format!(
        "12:00:00.1 refs/debug.c:163   transaction {{\n12:00:00.1 refs/debug.c:134   0: HEAD {A} -> {B} (F=0x5, T=0x1) \
         \"commit: x\"\n12:00:00.1 refs/debug.c:134   1: refs/heads/main {A} -> {B} (F=0xc, T=0x0) \"commit: x\"\n"
    );
    let moves = moves(&commit);
    assert!(moves.explain_head(&head("refs/heads/main", A), &head("refs/heads/main", B)));
    assert!(!moves.explain_head(&head("refs/heads/main", A), &head("refs/heads/main", C)), "somebody came after it");
    assert!(!moves.explain("refs/heads/other", Some(B), false));
    let later = Moves { before: HashSet::new(), ..moves };
    assert!(!later.explain_head(&head("refs/heads/main", C), &head("refs/heads/main", B)), "somebody came before it");
}

#[test]
fn deleted_renamed_and_symbolic_references_are_understood() {
    let moves = moves(
        "refs/debug.c:1 delete_refs {\nrefs/debug.c:1 refs/heads/gone\nrefs/debug.c:1 }: 0\n\
         refs/debug.c:1 rename_ref: refs/heads/old -> refs/heads/new \"x\": 0\n\
         refs/debug.c:1 create_symref: HEAD -> refs/heads/side \"x\": 0\n",
    );
    assert!(moves.explain("refs/heads/gone", None, false));
    assert!(moves.explain("refs/heads/old", None, false));
    assert!(moves.explain("refs/heads/new", Some(A), false));
    assert!(moves.explain_head(&head("refs/heads/main", A), &head("refs/heads/side", B)));
    assert!(!moves.explain("refs/heads/main", None, false));
}

#[test]
fn process_is_the_last_of_its_session() {
    assert_eq!(pid("20260101T000000.000000Z-H1-P0000000a/20260101T000000.000001Z-H1-P000000ff"), 255);
    assert_eq!(pid("nonsense"), 0);
}

#[test]
fn damaged_traces_are_survived_and_prove_nothing_of_their_own() {
    let commit = format!(
        "12:00:00.1 refs/debug.c:134   0: HEAD {A} -> {B} (F=0x5, T=0x1) \"commit: x\"\n12:00:00.1 refs/debug.c:134   1: \
         refs/heads/main {A} -> {B} (F=0xc, T=0x0) \"commit: x\"\n"
    );
    let events = r#"{"event":"start","sid":"2026-P00000001","argv":["git","init"]}
{"event":"def_repo","sid":"2026-P00000001","worktree":"/tmp"}
"#;
    let samples = vec![commit.into_bytes(), events.as_bytes().to_vec()];
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("trace");
    proptest::proptest!(cases(500), |(text in near(samples))| {
        put(&path, &text);
        let moves = Moves::read(&path, HashSet::from([A.to_owned()]));
        proptest::prop_assert!(!moves.explain("refs/heads/main", Some(C), false));
        drop((gits(&path), made_worktrees(&path)));
    });
}
