//! Writes the scripts that git runs, recognises them, and knows which program they start.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
};

use super::Event;
use crate::{env, escape::hex, fs, repo::path_of, sys};

const TEMPLATE: &str = include_str!("../../hooks/hook.sh");
/// The prefix of the line that marks our scripts of any version.
const MARK: &[u8] = b"# repoguard-hook ";
/// The placeholder for the sum in the mark while the sum is computed.
const NO_SUM: &[u8] = b"@SUM@";
/// The prefix of the line that names the program.
const BINARY: &[u8] = b"\nbinary='";
/// Directories of programs that are not on the `PATH` of a graphical program; also in the script.
const USUAL: [&str; 2] = ["/opt/homebrew/bin", "/usr/local/bin"];
/// The same, below the home directory.
const USUAL_AT_HOME: [&str; 2] = [".cargo/bin", ".local/bin"];

/// A hook's action without a repoguard program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IfMissing {
    /// Fails, unless it is too late, and names the ways out.
    #[default]
    Refuse,
    /// Warns and goes on.
    Warn,
}

/// The script of a hook.
pub(super) fn text(event: Event, binary: &Path, if_missing: IfMissing) -> Vec<u8> {
    let if_missing = match if_missing {
        IfMissing::Refuse => "refuse",
        IfMissing::Warn => "warn",
    };
    let filled = TEMPLATE.replace("@HOOK@", event.name()).replace("@IF_MISSING@", if_missing);
    let (before, after) = filled.split_once("@BINARY@").unwrap_or((&filled, ""));
    let unsigned = [before.as_bytes(), &quoted(binary.as_os_str()), after.as_bytes()].concat();
    let sum = sum(&unsigned);
    replace(&unsigned, NO_SUM, &sum)
}

/// The sum of a script whose mark has no sum yet.
fn sum(unsigned: &[u8]) -> Vec<u8> {
    hex(&hmac_sha256::Hash::hash(unsigned))[..16].into()
}

/// Replaces the first occurrence of a text.
fn replace(text: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    match text.windows(old.len()).position(|window| window == old) {
        Some(at) => [&text[..at], new, &text[at + old.len()..]].concat(),
        None => text.to_vec(),
    }
}

/// Tells whether somebody has changed a script of ours, of whatever version: it has the sum of what it was.
pub(super) fn is_edited(text: &[u8]) -> bool {
    let mark = text.split(|byte| *byte == b'\n').take(3).find(|line| line.starts_with(MARK));
    let signed = mark.and_then(|line| line[MARK.len()..].split(|byte| b" :".contains(byte)).nth(1));
    signed.is_some_and(|signed| sum(&replace(text, signed, NO_SUM)) != signed)
}

/// Tells whether a script is one of ours.
pub(super) fn is_ours(text: &[u8]) -> bool {
    text.split(|byte| *byte == b'\n').take(3).any(|line| line.starts_with(MARK))
}

/// Tells whether a script is, byte for byte, what this repoguard installs, and starts a repoguard of this user's: whatever
/// else the mark says, somebody else may have written it.
pub(super) fn is_genuine(text: &[u8], event: Event) -> bool {
    let Some(program) = named_program(text) else { return false };
    let same =
        [IfMissing::Refuse, IfMissing::Warn].iter().any(|&if_missing| text == self::text(event, &program, if_missing));
    let real = |path: &Path| path.canonicalize().ok();
    let ours = std::env::current_exe().ok().into_iter().chain(found());
    // If the program has gone, the script looks in this user's directories of programs.
    same && (!fs::is_executable(&program) || ours.into_iter().any(|ours| real(&ours) == real(&program)))
}

/// Tells whether a script of somebody else's runs `repoguard hook EVENT`, outside of comments.
pub(super) fn calls(text: &[u8], event: Event) -> bool {
    let text = String::from_utf8_lossy(text);
    let lines = text.lines().map(str::trim_start).filter(|line| !line.starts_with('#'));
    lines.into_iter().any(|line| {
        let words: Vec<&str> = line.split_whitespace().map(|word| word.trim_matches(['"', '\''])).collect();
        words.windows(3).any(|words| words[0].ends_with("repoguard") && words[1] == "hook" && words[2] == event.name())
    })
}

/// The line that makes a script of somebody else's run the guard.
pub(super) fn line(event: Event) -> String {
    format!("repoguard hook {} \"$@\"", event.name())
}

/// Tells whether a script of ours will find a program to start: the one it names, or another one.
pub(super) fn finds_program(text: &[u8]) -> bool {
    named_program(text).is_some_and(|program| fs::is_executable(&program)) || found().next().is_some()
}

/// The program that a script of ours names.
fn named_program(text: &[u8]) -> Option<PathBuf> {
    let start = text.windows(BINARY.len()).position(|window| window == BINARY)? + BINARY.len();
    let (mut rest, mut path) = (&text[start..], Vec::new());
    loop {
        let end = rest.iter().position(|byte| *byte == b'\'')?;
        path.extend_from_slice(&rest[..end]);
        match rest[end..].strip_prefix(br"'\''") {
            Some(more) => {
                path.push(b'\'');
                rest = more;
            }
            None => return Some(path_of(&path)),
        }
    }
}

/// The most durable name of a program: the one on `PATH`, if that is the same program. Package managers keep that name, and change
/// its target.
pub(super) fn lasting(program: PathBuf) -> PathBuf {
    let Ok(real) = program.canonicalize() else { return program };
    found().find(|found| found.canonicalize().is_ok_and(|found| found == real)).unwrap_or(program)
}

/// The path of a repoguard on `PATH`.
pub(super) fn found() -> impl Iterator<Item = PathBuf> {
    let path = env::get("PATH").unwrap_or_default();
    let path: Vec<PathBuf> = std::env::split_paths(&path).filter(|directory| directory.is_absolute()).collect();
    let home = env::get("HOME").map(PathBuf::from);
    let at_home = home.into_iter().flat_map(|home| USUAL_AT_HOME.map(|directory| home.join(directory)));
    let all = path.into_iter().chain(at_home).chain(USUAL.map(PathBuf::from));
    all.map(|directory| directory.join("repoguard")).filter(|program| fs::is_executable(program))
}

/// A text as one word of a shell.
pub(super) fn quoted(text: &OsStr) -> Vec<u8> {
    let mut word = vec![b'\''];
    for byte in sys::bytes(text).iter() {
        match byte {
            b'\'' => word.extend_from_slice(br"'\''"),
            byte => word.push(*byte),
        }
    }
    word.push(b'\'');
    word
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn program_is_read_as_it_was_written() {
        for name in ["/usr/bin/repoguard", "/it's \"my\" $HOME/über/repoguard", "'", "''\n", ""] {
            let text = text(Event::PreCommit, Path::new(name), IfMissing::Warn);
            assert_eq!(named_program(&text), Some(PathBuf::from(name)), "{name}");
            assert!(is_ours(&text) && !is_edited(&text));
            assert!(is_edited(&[&text[..], b"exit 0\n"].concat()));
            let filled = String::from_utf8_lossy(&text);
            assert!(["@HOOK", "@BINARY", "@IF_MISSING", "@SUM"].iter().all(|place| !filled.contains(place)), "{name}");
        }
        assert_eq!(named_program(b"#!/bin/sh\n"), None);
    }

    #[test]
    fn scripts_are_taken_for_nobody_elses() {
        for event in Event::ALL {
            let text = text(event, Path::new("/usr/bin/repoguard"), IfMissing::Refuse);
            assert!(super::super::managers::of(&text).is_none());
        }
    }

    #[test]
    fn call_is_found_but_no_mention() {
        for line in [
            "repoguard hook pre-commit \"$@\"",
            "  '/usr/bin/repoguard' hook pre-commit",
            "x=1 repoguard hook pre-commit",
        ] {
            assert!(calls(line.as_bytes(), Event::PreCommit), "{line}");
        }
        for line in ["# repoguard hook pre-commit", "repoguard hook pre-commit-msg", "repoguard hooks status", ""] {
            assert!(!calls(line.as_bytes(), Event::PreCommit), "{line}");
        }
    }
}
