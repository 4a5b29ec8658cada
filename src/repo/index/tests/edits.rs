//! Compares what the writer makes of an index with what git makes of it.

#![expect(clippy::disallowed_methods, reason = "the indexes are git's own")]

use std::fs;

use super::{
    super::{Edits, NewEntry, Stat},
    Place, records,
};

/// Changes an index as [`Index::edit`] does; `None` if only git can do it.
fn edited(place: &Place, edits: &Edits) -> Option<()> {
    let changed = place.file().with_extension("changed");
    let mut file = fs::File::create(&changed).expect("a file");
    let is_done = place.open().edit(edits, &mut file, |_| {}).expect("an index");
    is_done.then(|| fs::rename(&changed, place.file()).expect("an index"))
}

/// Entries for these paths: a letter of the alphabet for each blob that there is, `-` for none.
fn edits(blobs: &[String], list: &[(&str, usize)]) -> Edits {
    let stat = Stat { changed: (1, 2), modified: (3, 4), device: 5, inode: 6, user: 7, group: 8, size: u32::MAX };
    let byte = |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).expect("hex"), 16).expect("hex");
    let id = |hex: &String| hex.as_bytes().chunks(2).map(byte).collect();
    let new = |blob: usize| blobs.get(blob).map(|blob| NewEntry { mode: 0o100_644, id: id(blob), stat });
    list.iter().map(|(path, blob)| (path.as_bytes().to_vec(), new(*blob))).collect()
}

const NONE: usize = usize::MAX;

/// Makes an index with trees noted in it, and returns the ids of two blobs.
fn with_trees(place: &Place) -> Vec<String> {
    for path in ["a", "d/b", "d/e/c", "d/e/f/g", "d.x", "d-x/y", "z/1", "z/2", "deep/er/and/deeper/x"] {
        place.write(path, path);
    }
    place.git(&["add", "."]);
    place.git(&["commit", "--quiet", "-m", "x"]);
    let blob = |text: &str| place.git_with(&["hash-object", "-w", "--stdin"], text.as_bytes());
    ["one", "two"].map(|text| String::from_utf8(blob(text)).expect("hex").trim().to_owned()).into()
}

#[test]
fn edited_index_is_what_git_makes_of_the_same_changes() {
    for init in [&[][..], &["--object-format=sha256"]] {
        for list in [
            &[("a", 0)][..],
            &[("d/e/c", 1), ("d/e/f/g", NONE)],
            &[("new", 0), ("d/new", 1), ("d/e/new/er", 0), ("zz", 1)],
            &[("0", 0), ("a", NONE), ("z/1", NONE), ("z/2", NONE)],
            &[("nothing", NONE), ("d/nothing", NONE), ("d-", 1), ("d.", 0), ("e", 1)],
            &[],
        ] {
            let id_bytes = if init.is_empty() { 20 } else { 32 };
            let [ours, theirs] = [0; 2].map(|_| Place { id_bytes, ..Place::new(init) });
            let blobs = with_trees(&theirs);
            with_trees(&ours);
            let none = "0".repeat(id_bytes * 2);
            edited(&ours, &edits(&blobs, list)).expect("no need of git");
            let line = |(path, blob): &(&str, usize)| match blobs.get(*blob) {
                Some(blob) => format!("100644 {blob}\t{path}\n"),
                None => format!("0 {none}\t{path}\n"),
            };
            theirs.git_with(&["update-index", "--index-info"], list.iter().map(line).collect::<String>().as_bytes());
            let stage = ["ls-files", "--stage"];
            assert_eq!(ours.git(&stage), theirs.git(&stage), "{list:?}");
            // Git takes the trees that are still noted, and makes the others.
            assert_eq!(ours.git(&["write-tree"]), theirs.git(&["write-tree"]), "{list:?}");
            assert_eq!(ours.compare(2), theirs.compare(2));
        }
    }
}

#[test]
fn edit_keeps_flags_and_conflicts_of_other_entries() {
    let place = Place::new(&[]);
    place.fill_more();
    let id = String::from_utf8(place.git(&["hash-object", "-w", "a"])).expect("hex");
    let before = records(&place.git(&["ls-files", "--stage", "--debug", "-z"]));
    edited(&place, &edits(&[id.trim().to_owned()], &[("b", 0), ("a", NONE)])).expect("no need of git");
    let mut after = records(&place.git(&["ls-files", "--stage", "--debug", "-z"]));
    assert_eq!(place.compare(3), 18);
    after.retain(|(head, _)| !head.ends_with(b"\tb"));
    assert_eq!(after, before[1..]);
}

#[test]
fn edit_that_only_git_can_make_is_left_to_it() {
    type Prepare = fn(&Place);
    let cases: [(Prepare, &[(&str, usize)]); 10] = [
        // A file in the place of a directory, and the reverse.
        (|_| {}, &[("d", 0)]),
        (|_| {}, &[("d/e", 0)]),
        (|_| {}, &[("a/b", 0)]),
        (|_| {}, &[("d/b/c/d", 0), ("0", 1)]),
        (|place| drop(place.git(&["update-index", "--assume-unchanged", "a"])), &[("a", 0)]),
        (|place| drop(place.git(&["update-index", "--skip-worktree", "a"])), &[("a", NONE)]),
        (|place| place.insert(&[("100644 1", b"a"), ("100644 2", b"a")]), &[("a", 0)]),
        (|place| drop(place.git(&["update-index", "--index-version", "4"])), &[("a", 0)]),
        (|place| drop(place.git(&["update-index", "--split-index"])), &[("a", 0)]),
        (|place| drop(place.git(&["update-index", "--force-untracked-cache"])), &[("a", 0)]),
    ];
    for (number, (prepare, list)) in cases.into_iter().enumerate() {
        let place = Place::new(&[]);
        let blobs = with_trees(&place);
        prepare(&place);
        assert_eq!(edited(&place, &edits(&blobs, list)), None, "case {number}");
    }
}
