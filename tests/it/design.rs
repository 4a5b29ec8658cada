//! `docs/design.md`: its table of threats names tests that exist, its walks name files that exist.

use std::fs;
use std::path::{Path, PathBuf};

/// The file that a test is in, by the modules that its name begins with.
fn file_of(root: &Path, modules: &[&str]) -> PathBuf {
    let in_tests = root.join("tests/it").join(modules[0]).with_extension("rs");
    if in_tests.exists() {
        return in_tests;
    }
    let beside = root.join("src").join(modules.iter().collect::<PathBuf>()).with_extension("rs");
    if beside.exists() {
        return beside;
    }
    let inner = root.join("src").join(modules.iter().filter(|module| **module != "tests").collect::<PathBuf>());
    if inner.is_dir() { inner.join("mod.rs") } else { inner.with_extension("rs") }
}

#[test]
fn every_row_of_threats_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("docs/design.md")).unwrap();
    let table = text.split("<!-- threats -->").nth(1).expect("the table");
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| ")).skip(2).collect();
    assert!(rows.len() > 20, "{} rows", rows.len());
    for row in rows {
        let names = row.trim_end_matches(" |").rsplit(" | ").next().expect("a cell");
        let names: Vec<&str> = names.split(", ").map(|name| name.trim_matches('`')).collect();
        assert!(!names.is_empty(), "{row}");
        for name in names {
            let modules: Vec<&str> = name.split("::").collect();
            let (function, modules) = modules.split_last().expect("a name");
            let file = file_of(root, modules);
            let source =
                fs::read_to_string(&file).unwrap_or_else(|error| panic!("{name}: {}: {error}", file.display()));
            assert!(source.contains(&format!("fn {function}")), "{name} is not in {}", file.display());
        }
    }
}

#[test]
fn walks_have_few_steps_and_name_files_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("docs/design.md")).unwrap();
    let walks = text.split("## Three walks").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("the walks");
    let is_rust = |name: &&str| Path::new(name).extension().is_some_and(|end| end == "rs");
    let walks: Vec<&str> = walks.split("\n**When ").skip(1).collect();
    assert_eq!(walks.len(), 3);
    for walk in walks {
        let steps = walk.lines().filter(|line| line.starts_with(|first: char| first.is_ascii_digit())).count();
        assert!((10..=15).contains(&steps), "{steps} steps: {walk}");
        let files: Vec<&str> = walk.split('`').skip(1).step_by(2).filter(is_rust).collect();
        assert!(files.len() > steps, "{files:?}");
        for file in files {
            assert!(root.join("src").join(file).is_file(), "{file} does not exist");
        }
    }
}
