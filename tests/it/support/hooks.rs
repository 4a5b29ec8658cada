//! Hooks: what is there, and how `repoguard hooks status` sees it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::Sandbox;

/// The hooks that are installed where there is a checkout.
pub(crate) const USUAL_HOOKS: [&str; 5] =
    ["pre-commit", "prepare-commit-msg", "pre-rebase", "applypatch-msg", "post-checkout"];

/// `repoguard hooks ARGS`; what it prints.
#[track_caller]
pub(crate) fn hooks(sandbox: &Sandbox, args: &[&str], status: i32) -> String {
    let output = sandbox.repoguard(["hooks"]).args(args).assert().code(status).get_output().clone();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!told.contains("panicked"), "{told}");
    if status == 125 { told } else { String::from_utf8_lossy(&output.stdout).into_owned() }
}

/// The document of `repoguard hooks status --json` in a directory.
#[track_caller]
pub(crate) fn survey(sandbox: &Sandbox, directory: &Path) -> Value {
    let output = sandbox.repoguard(["hooks", "status", "--json"]).current_dir(directory).output().unwrap();
    let document: Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
    assert_eq!(output.status.code(), Some(i32::from(document["reached"] != true)), "{document}");
    document
}

/// How it is with each hook: its state, and how git reaches it.
#[track_caller]
pub(crate) fn states(sandbox: &Sandbox) -> BTreeMap<String, String> {
    states_in(sandbox, sandbox.here())
}

/// The same in another directory.
#[track_caller]
pub(crate) fn states_in(sandbox: &Sandbox, directory: &Path) -> BTreeMap<String, String> {
    let document = survey(sandbox, directory);
    let hooks = document["hooks"].as_array().expect("an array `hooks`").iter();
    let text = |value: &Value| value.as_str().map(str::to_owned);
    hooks
        .map(|hook| {
            let how =
                text(&hook["via"]).or_else(|| text(&hook["by"])).map_or_else(String::new, |how| format!(" {how}"));
            (text(&hook["hook"]).unwrap(), format!("{}{how}", text(&hook["state"]).unwrap()))
        })
        .collect()
}

/// Asserts that it is the same with all of these hooks, and that there are no others.
#[track_caller]
pub(crate) fn assert_all(states: &BTreeMap<String, String>, names: &[&str], state: &str) {
    let expected: BTreeMap<String, String> = names.iter().map(|name| ((*name).to_owned(), state.to_owned())).collect();
    assert_eq!(states, &expected);
}

/// What a directory holds as its owner sees it: mode, and bytes or where it points.
pub(crate) fn contents(dir: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let entries = fs::read_dir(dir).into_iter().flatten().map(|entry| entry.unwrap().path());
    entries
        .map(|path| {
            let meta = fs::symlink_metadata(&path).unwrap();
            let bytes = match fs::read_link(&path) {
                Ok(target) => target.as_os_str().as_bytes().to_vec(),
                Err(_) => fs::read(&path).unwrap_or_default(),
            };
            (path, (meta.permissions().mode(), bytes))
        })
        .collect()
}

/// The path of a hook.
pub(crate) fn hook(sandbox: &Sandbox, name: &str) -> PathBuf {
    sandbox.path(".git/hooks").join(name)
}

/// Writes a script.
pub(crate) fn script(path: &Path, body: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, format!("#!/bin/sh\n{body}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A sandbox whose hooks directory is empty.
pub(crate) fn without_samples() -> Sandbox {
    let sandbox = Sandbox::new();
    fs::remove_dir_all(sandbox.path(".git/hooks")).unwrap();
    fs::create_dir(sandbox.path(".git/hooks")).unwrap();
    sandbox
}
