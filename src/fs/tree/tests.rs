//! Entries of every kind are moved, copied, listed and removed.

#![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test makes files, and fails where it cannot")]

use std::os::unix::fs::PermissionsExt as _;

use super::{super::put_fifo, *};

fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

/// A directory with an entry of every kind, among them closed ones.
fn of_all_kinds(top: &Path) -> PathBuf {
    let all = top.join("all");
    std::fs::create_dir_all(all.join("closed/empty")).unwrap();
    std::fs::write(all.join("closed/file"), "bytes\r\n\0").unwrap();
    std::fs::write(all.join("file"), "unreadable").unwrap();
    std::os::unix::fs::symlink("no/where", all.join("link")).unwrap();
    put_fifo(&all.join("fifo"), 0o640, None).unwrap();
    drop(std::os::unix::net::UnixListener::bind(all.join("socket")).unwrap());
    set_mode(&all.join("closed/file"), 0o4751).unwrap();
    set_mode(&all.join("file"), 0o000).unwrap();
    set_mode(&all.join("closed"), 0o000).unwrap();
    set_mode(&all, 0o500).unwrap();
    all
}

#[track_caller]
fn assert_all_kinds(all: &Path) {
    assert_eq!((mode(all), mode(&all.join("closed")), mode(&all.join("file"))), (0o500, 0o000, 0o000));
    assert_eq!(read_link(&all.join("link")).unwrap(), Path::new("no/where"));
    assert!(metadata(&all.join("fifo")).unwrap().is_fifo() && mode(&all.join("fifo")) == 0o640);
    assert!(metadata(&all.join("socket")).unwrap().is_socket());
    let file = all.join("closed/file");
    assert_eq!(io::read_to_string(read_file(&file).unwrap()).unwrap(), "bytes\r\n\0");
    assert_eq!(metadata(&file).unwrap().permissions(), 0o4751);
    assert_eq!(io::read_to_string(read_file(&all.join("file")).unwrap()).unwrap(), "unreadable");
    assert_eq!(list(&all.join("closed")).unwrap(), ["empty", "file"]);
    assert_eq!((mode(&all.join("closed")), mode(&all.join("file"))), (0o000, 0o000), "closed again");
    assert_eq!(size(all), 18);
}

#[test]
fn entries_of_every_kind_are_moved_and_removed_also_closed_ones() {
    let top = tempfile::tempdir().unwrap();
    let all = of_all_kinds(top.path());
    assert_all_kinds(&all);
    let inode = metadata(&all).unwrap().inode;
    set_mode(top.path(), 0o500).unwrap();
    let moved = top.path().join("moved");
    move_entry(&all, &moved).unwrap();
    assert_eq!((mode(top.path()), metadata(&moved).unwrap().inode), (0o500, inode));
    assert_all_kinds(&moved);
    remove_entry(&moved).unwrap();
    remove_entry(&moved).unwrap();
    remove_entry(&moved.join("below what is not there")).unwrap();
    assert_eq!((list(top.path()).unwrap().len(), mode(top.path())), (0, 0o500));
}

#[test]
fn whole_copy_is_as_good_where_a_rename_cannot_be() {
    let top = tempfile::tempdir().unwrap();
    let all = of_all_kinds(top.path());
    move_across(&Place::from(&all), &Place::from(&top.path().join("moved"))).unwrap();
    assert_all_kinds(&top.path().join("moved"));
    assert_eq!(list(top.path()).unwrap(), ["moved"]);
    remove_entry(&top.path().join("moved")).unwrap();
}

#[test]
fn copy_follows_no_link_and_blocks_on_no_fifo() {
    let top = tempfile::tempdir().unwrap();
    let (from, to) = (top.path().join("from"), top.path().join("to"));
    put_fifo(&from, 0o600, None).unwrap();
    assert!(copy_entry(&from, &to, false).is_err() && metadata(&to).is_err());
    remove_entry(&from).unwrap();
    std::os::unix::fs::symlink(Path::new("/etc/passwd"), &from).unwrap();
    copy_entry(&from, &to, true).unwrap();
    assert_eq!(read_link(&to).unwrap(), Path::new("/etc/passwd"));
    assert!(read_file(&from).is_err(), "a link is not read through");
    remove_entry(&from).unwrap();
    std::fs::write(&from, "text").unwrap();
    assert!(copy_entry(&from, &to, false).is_err(), "nothing is written over");
    assert_eq!(read_link(&to).unwrap(), Path::new("/etc/passwd"));
}

#[test]
fn what_is_no_directory_is_in_the_way() {
    let top = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(top.path().join("a/b")).unwrap();
    std::os::unix::fs::symlink(Path::new("b"), top.path().join("a/link")).unwrap();
    let root = Root::open(top.path(), |_| false).unwrap();
    let way = |path: &str| in_the_way(&root, Path::new(path)).unwrap();
    assert_eq!(way("a/b/c/d"), None);
    assert_eq!(way("a/link"), None);
    assert_eq!(way("a/link/c"), Some("a/link".into()));
}

#[test]
fn directories_deep_in_each_other_are_removed_and_not_copied() {
    let top = tempfile::tempdir().unwrap();
    let mut deep = sys::Directory::open(top.path()).unwrap();
    for _ in 0..3 * DEEPEST {
        deep.make_directory("d".as_ref(), 0o700).unwrap();
        deep = deep.below("d".as_ref()).unwrap();
    }
    let (from, to) = (Place::from(&*top.path().join("d")), Place::from(&*top.path().join("to")));
    assert!(copy_tree(&from, &to, DEEPEST).is_err());
    remove_entry(&to).unwrap();
    // Each level takes a descriptor, and there may be fewer.
    match remove_entry(&from) {
        Ok(()) => assert!(!top.path().join("d").exists()),
        Err(error) => assert!(error.to_string().contains("cannot remove"), "{error}"),
    }
    assert!(std::process::Command::new("rm").arg("-rf").arg(top.path().join("d")).status().unwrap().success());
}
