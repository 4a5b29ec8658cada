//! Directories are opened and changed through descriptors.

#![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test makes files, and fails where it cannot")]

use super::*;

#[test]
fn path_is_opened_only_below_its_root_with_or_without_the_kernels_help() {
    let top = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(top.path().join("root/a/b")).unwrap();
    std::fs::write(top.path().join("root/a/b/file"), "inside").unwrap();
    std::fs::write(top.path().join("outside"), "outside").unwrap();
    for (target, name) in [("b", "root/a/inner"), ("../..", "root/a/out"), ("../outside", "root/file")] {
        std::os::unix::fs::symlink(target, top.path().join(name)).unwrap();
    }
    let root = Directory::open(&top.path().join("root")).unwrap();
    for open in [open_below, walk] {
        let open = |path: &str| open(root.0.as_fd(), Path::new(path), OFlags::RDONLY | NO_LINK);
        assert_eq!(io::read_to_string(File::from(open("a/b/file").unwrap())).unwrap(), "inside");
        for bad in ["a/inner/file", "a/out/outside", "file"] {
            assert!(open(bad).is_err_and(|error| is_link_error(&error)), "{bad}");
        }
        assert_eq!(open("a/b/none").unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(open("a/b/file/none").unwrap_err().kind(), io::ErrorKind::NotADirectory);
    }
    for bad in ["../outside", "a/../../outside", "", "/etc/passwd", "a//b", "a/./b", "a/"] {
        assert!(root.below(Path::new(bad)).is_err(), "{bad}");
    }
}

#[test]
fn mode_is_set_without_permission_to_read_and_never_through_a_link() {
    let top = tempfile::tempdir().unwrap();
    let directory = Directory::open(top.path()).unwrap();
    std::fs::write(top.path().join("file"), "").unwrap();
    std::os::unix::fs::symlink("file", top.path().join("link")).unwrap();
    directory.set_mode("file".as_ref(), 0o000).unwrap();
    directory.set_mode("file".as_ref(), 0o640).unwrap();
    assert!(directory.set_mode("link".as_ref(), 0o777).is_err());
    assert_eq!(directory.look("file".as_ref()).unwrap().permissions(), 0o640);
    directory.make_fifo("fifo".as_ref(), 0o600).unwrap();
    directory.set_mode("fifo".as_ref(), 0o622).unwrap();
    assert_eq!(directory.look("fifo".as_ref()).unwrap().permissions(), 0o622);
}
