//! Hooks: what is there, and how `repoguard hooks status` sees it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use serde_json::Value;

use super::{Sandbox, binary, to_the_end};

/// The hooks that are installed where there is a checkout.
pub(crate) const USUAL_HOOKS: [&str; 5] =
    ["pre-commit", "prepare-commit-msg", "pre-rebase", "applypatch-msg", "post-checkout"];

/// `repoguard hooks ARGS`; what it prints.
#[track_caller]
pub(crate) fn hooks(sandbox: &Sandbox, args: &[&str], status: i32) -> String {
    hooks_in(sandbox, sandbox.here(), args, status)
}

/// The same in another directory.
#[track_caller]
pub(crate) fn hooks_in(sandbox: &Sandbox, directory: &Path, args: &[&str], status: i32) -> String {
    let mut command = hooks_command(sandbox, binary(), args);
    command.current_dir(directory);
    let output = to_the_end(command).assert().code(status).get_output().clone();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!told.contains("panicked"), "{told}");
    if status == 125 { told } else { String::from_utf8_lossy(&output.stdout).into_owned() }
}

/// `repoguard hooks ARGS`, to be run, with a git that takes hooks from files: newer ones are told to say they are older.
pub(crate) fn hooks_command(sandbox: &Sandbox, program: &Path, args: &[&str]) -> Command {
    static NEWER: LazyLock<bool> = LazyLock::new(|| {
        let output = Command::new("git").arg("version").output().expect("git");
        let version = String::from_utf8_lossy(&output.stdout).into_owned();
        let numbers: Vec<u32> = version.split(['.', ' ']).filter_map(|part| part.parse().ok()).take(2).collect();
        numbers >= vec![2, 54]
    });
    let mut command = sandbox.command(program);
    command.arg("hooks").args(args);
    if *NEWER {
        command.env("PATH", pretend(sandbox, "2.53.0"));
    }
    command
}

/// Puts a git on `PATH` that says it is another version, and is not otherwise.
pub(crate) fn pretend(sandbox: &Sandbox, version: &str) -> OsString {
    let directory = sandbox.outside("pretended");
    let line = "case \"$*\" in *version) echo \"git version $V\"; exit;; esac; PATH=${PATH#*:} exec git \"$@\"";
    script(&directory.join("git"), &line.replace("$V", version));
    let path = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect::<Vec<_>>();
    let first = [directory, binary().parent().unwrap().to_owned()];
    std::env::join_paths(first.into_iter().chain(path)).unwrap()
}

/// The document of `repoguard hooks status --json` in a directory.
#[track_caller]
pub(crate) fn survey(sandbox: &Sandbox, directory: &Path) -> Value {
    let mut command = hooks_command(sandbox, binary(), &["status", "--json"]);
    let output = command.current_dir(directory).output().unwrap();
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
