//! Reads what the user configured: git's own configuration, without opening the repository.
//!
//! Nearly nobody configures us, so the files are only looked through for our name (or an include) first; git itself is
//! asked when there is anything, because it alone knows all levels, includes and conditions.

use std::{path::Path, time::Duration};

use super::{
    Repo,
    config_files::{MOST_BYTES, files_of_git, global_files, mentions},
    git, is_true,
};
use crate::{
    env,
    error::{Error, Result},
    fs::{self, SharedMode, Sharing},
};

/// Values of git's configuration that matter here, each with the place it stands in.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// `repoguard.*` without the prefix, in lower case, with value and origin; later entries win.
    entries: Vec<(String, String, String)>,
    shared: SharedMode,
}

/// A value that the user configured.
#[derive(Debug, Clone)]
pub struct Setting {
    /// The configuration key or environment variable.
    pub key: String,
    /// The value, not checked yet.
    pub value: String,
    /// The file or place it stands in.
    pub origin: String,
}

impl Setting {
    /// The value as a duration.
    ///
    /// # Errors
    /// [`Error::Config`] if it is none.
    pub fn duration(self) -> Result<Duration> {
        read_duration(&self.value).ok_or_else(|| self.bad(DURATION))
    }

    /// The error to return when the value is not what was `expected`.
    #[must_use]
    pub fn bad(self, expected: &'static str) -> Error {
        Error::Config { key: self.key, value: self.value, origin: self.origin, expected }
    }
}

/// How a duration is written.
pub const DURATION: &str = "a duration like `30s`, `5m` or `1.5` (seconds)";

/// Reads a duration: `30s`, `5m`, `1h 30m`, `250ms`, or seconds with a fraction.
#[must_use]
pub fn read_duration(text: &str) -> Option<Duration> {
    match text.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        Err(_) => humantime::parse_duration(text).ok(),
    }
}

impl Config {
    /// Reads the configuration of a repository at all of git's levels. Does not block.
    ///
    /// # Errors
    /// [`Error::BrokenRepository`] when a configuration file is damaged.
    pub fn load(repo: &Repo) -> Result<Self> {
        Self::read(repo, true)
    }

    /// As [`Config::load`] for a hook: git has read the configuration just now, and found nothing wrong with it.
    ///
    /// # Errors
    /// As [`Config::load`], if there is anything of ours in it.
    pub fn load_in_hook(repo: &Repo) -> Result<Self> {
        Self::read(repo, false)
    }

    fn read(repo: &Repo, check: bool) -> Result<Self> {
        let local = repo.common_dir().map(|common| common.join("config"));
        let mut config = Self::default();
        let mut ask_git = env::git_parameters().iter().any(|text| {
            let text = crate::sys::bytes(text);
            [&b"repoguard."[..], b"core.sharedrepository", b"include"].iter().any(|word| mentions(&text, word))
        });
        for path in global_files() {
            // The user's own choice, `/dev/null` say.
            ask_git |= path.is_relative() || fs::read_whole(&path, MOST_BYTES).is_ok_and(|text| concerns_us(&text));
        }
        if let Some(path) = repo.git_dir().map(|dir| dir.join("config.worktree")) {
            ask_git |= read(&path)?.is_some_and(|text| concerns_us(&text));
        }
        if let Some(path) = local {
            let text = match fs::read_whole(&path, MOST_BYTES) {
                Ok(text) => text,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
                Err(error) => return Err(Error::io("read", path)(error)),
            };
            ask_git |= mentions_us(&text);
            let shares = mentions(&text, b"sharedrepository");
            if check || shares {
                let value = parse(&path, &text)?;
                // Git knows what a key without a value means.
                ask_git |= shares && value.is_none();
                config.shared = value.as_deref().map_or_else(SharedMode::default, shared_mode);
            }
        }
        if ask_git {
            let directory = repo.git_dir().unwrap_or(repo.root());
            for (key, value, origin) in git::configuration(directory)? {
                // Git names files of the repository as seen from its own directory.
                let origin = match origin.strip_prefix("file:") {
                    Some(file) => format!("`{}`", directory.join(file).display()),
                    None => origin,
                };
                match key.strip_prefix("repoguard.") {
                    Some(key) => config.entries.push((key.to_owned(), value, origin)),
                    None => config.shared = shared_mode(&value),
                }
            }
        }
        Ok(config)
    }

    /// The setting `repoguard.KEY`, or the environment variable that wins over it: `hookTimeout` is
    /// `REPOGUARD_HOOK_TIMEOUT` there.
    #[must_use]
    pub fn setting(&self, key: &str) -> Option<Setting> {
        let word = |c: char| if c.is_ascii_uppercase() { format!("_{c}") } else { c.to_ascii_uppercase().to_string() };
        let variable = format!("{}{}", env::SETTING_PREFIX, key.chars().map(word).collect::<String>());
        if let Some(value) = env::get(&variable) {
            let value = value.to_string_lossy().into_owned();
            return Some(Setting { key: variable, value, origin: "the environment".to_owned() });
        }
        let (_, value, origin) = self.entries.iter().rev().find(|(name, ..)| name.eq_ignore_ascii_case(key))?;
        Some(Setting { key: format!("repoguard.{key}"), value: value.clone(), origin: origin.clone() })
    }

    /// How many bytes of what was undone are kept.
    ///
    /// # Errors
    /// [`Error::Config`] if `repoguard.snapshotLimit` is not a size.
    pub(crate) fn snapshot_limit(&self) -> Result<u64> {
        const USUAL: u64 = 1 << 30;
        let Some(setting) = self.setting("snapshotLimit") else { return Ok(USUAL) };
        bytes(&setting.value).ok_or_else(|| setting.bad("a size like `500m` or `2g`, or a number of bytes"))
    }

    /// Most bytes of files that a mutation keeps copies of before it begins, because git could not give them back.
    ///
    /// # Errors
    /// [`Error::Config`] if `repoguard.baselineLimit` is not a size.
    pub(crate) fn baseline_limit(&self) -> Result<u64> {
        const USUAL: u64 = 2 << 30;
        let Some(setting) = self.setting("baselineLimit") else { return Ok(USUAL) };
        bytes(&setting.value).ok_or_else(|| setting.bad("a size like `500m` or `2g`, or a number of bytes"))
    }

    /// Owner and permissions of new files of ours in this repository.
    pub(crate) fn sharing(&self, repo: &Repo) -> Sharing {
        Sharing::new(self.shared, repo.common_dir())
    }
}

/// Reads `core.sharedRepository`, as git does; see git-config(1).
fn shared_mode(text: &str) -> SharedMode {
    const GROUP: SharedMode = SharedMode::Add(0o660);
    match (text, u32::from_str_radix(text, 8)) {
        ("group", _) | (_, Ok(1)) => GROUP,
        ("all" | "world" | "everybody", _) | (_, Ok(2)) => SharedMode::Add(0o664),
        // Git rejects a mode that would lock out the owner.
        (_, Ok(octal)) if octal & 0o600 == 0o600 => SharedMode::Set(octal & 0o666),
        (_, Err(_)) if is_true(text) => GROUP,
        _ => SharedMode::Umask,
    }
}

/// A size as git writes it.
fn bytes(text: &str) -> Option<u64> {
    let (number, unit) = match text.char_indices().last()? {
        (end, unit) if unit.is_ascii_alphabetic() => (&text[..end], unit.to_ascii_lowercase()),
        _ => (text, ' '),
    };
    let unit: u64 = match unit {
        ' ' => 1,
        'k' => 1 << 10,
        'm' => 1 << 20,
        'g' => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

/// Checks that git could read the repository's own file, and takes `core.sharedRepository` from it.
fn parse(path: &Path, text: &[u8]) -> Result<Option<String>> {
    let file = file(text).map_err(|reason| Error::BrokenRepository { path: path.to_owned(), reason })?;
    Ok(file.string("core.sharedRepository").map(|value| value.to_string()))
}

fn file(text: &[u8]) -> std::result::Result<gix_config::File, String> {
    let options = gix_config::file::init::Options::default();
    let source = gix_config::file::Metadata::from(gix_config::Source::Local);
    gix_config::File::from_bytes_no_includes(text, source, options).map_err(|error| error.to_string())
}

/// Tells whether a repository is one of the usual kind: SHA-1, files beside the git directory, no extension. Else git has to say
/// what it is.
pub(super) fn is_usual(common: &Path) -> bool {
    const OTHERS: [&[u8]; 3] = [b"[extensions", b"[include", b"worktree"];
    let Ok(text) = fs::read_whole(&common.join("config"), MOST_BYTES) else { return false };
    let Ok(file) = file(&text) else { return false };
    let is_checked_out = matches!(file.boolean("core.bare"), Ok(None | Some(false)));
    let is_first = matches!(file.integer("core.repositoryFormatVersion"), Ok(None | Some(0)));
    is_checked_out && is_first && !OTHERS.iter().any(|word| mentions(&text, word))
}

/// Tells whether git's configuration may say something with one of these words, at any of its levels. If not, git need not be asked.
pub(super) fn may_say(own: &Path, common: &Path, git: Option<&Path>, words: &[&[u8]]) -> bool {
    any_says(own, common, git, |text| words.iter().any(|word| mentions(text, word)))
}

/// Tells whether git's configuration may have git store files with other bytes or modes than they have, attributes aside.
pub(super) fn may_alter_files(own: &Path, common: &Path, git: Option<&Path>) -> bool {
    const WORDS: [&[u8]; 7] =
        [b"autocrlf", b"attributesfile", b"[attr", b"attr.tree", b"symlinks", b"ignorecase", b"sharedrepository"];
    // Each repository says that the modes of its files count.
    let modes = |text: &[u8], words: &[u8]| text.windows(words.len()).filter(|part| *part == words).count();
    any_says(own, common, git, |text| {
        let text = text.to_ascii_lowercase();
        WORDS.iter().any(|word| mentions(&text, word))
            || modes(&text, b"filemode") != modes(&text, b"filemode = true\n")
    })
}

/// Tells whether a text of git's configuration may say something, at any of its levels, or includes another one.
fn any_says(own: &Path, common: &Path, git: Option<&Path>, says: impl Fn(&[u8]) -> bool) -> bool {
    let says = |text: &[u8]| says(text) || mentions(text, b"include");
    let mut files = global_files();
    files.extend(git.into_iter().flat_map(|git| files_of_git(git, "gitconfig")));
    files.extend([common.join("config"), own.join("config.worktree")]);
    env::git_parameters().iter().any(|text| says(&crate::sys::bytes(text)))
        // Git sees a relative path from another directory than this process.
        || files.iter().any(|path| path.is_relative())
        || files.iter().any(|path| match fs::read_whole(path, MOST_BYTES) {
            Ok(text) => says(&text),
            Err(error) => !matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory),
        })
}

/// A file of settings; `None` where none can be read. A FIFO there is an error: git would wait for it without end.
fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read_whole(path, MOST_BYTES) {
        Err(error) if matches!(error.kind(), std::io::ErrorKind::InvalidData | std::io::ErrorKind::FileTooLarge) => {
            Err(Error::io("read", path)(error))
        }
        read => Ok(read.ok()),
    }
}

/// Tells whether a file may hold a setting that [`Config`] reads.
fn concerns_us(text: &[u8]) -> bool {
    mentions_us(text) || mentions(text, b"sharedrepository")
}

/// Tells whether a file may hold settings of ours. The hooks that we configure there are none.
fn mentions_us(text: &[u8]) -> bool {
    mentions(text, b"[repoguard") || mentions(text, b"[include")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::garbage::{cases, near};

    #[test]
    fn shared_mode_is_read_as_git_reads_it() {
        for (text, mode) in [
            ("group", SharedMode::Add(0o660)),
            ("true", SharedMode::Add(0o660)),
            ("YES", SharedMode::Add(0o660)),
            ("1", SharedMode::Add(0o660)),
            ("9", SharedMode::Add(0o660)),
            ("all", SharedMode::Add(0o664)),
            ("2", SharedMode::Add(0o664)),
            ("0640", SharedMode::Set(0o640)),
            ("660", SharedMode::Set(0o660)),
            ("0777", SharedMode::Set(0o666)),
            ("umask", SharedMode::Umask),
            ("false", SharedMode::Umask),
            ("0", SharedMode::Umask),
            ("0440", SharedMode::Umask),
            ("nonsense", SharedMode::Umask),
        ] {
            assert_eq!(shared_mode(text), mode, "{text}");
        }
    }

    #[test]
    fn damaged_values_and_files_are_survived() {
        let file_text = "[core]\n\tsharedRepository = 0660\n[repoguard]\n\ttimeout = 1h 30m\n";
        let texts = ["1h 30m 250ms", "1.5e3", "4096k", "9223372036854775807g", "0660", "world", file_text];
        let samples = texts.map(|text| text.as_bytes().to_vec()).to_vec();
        proptest::proptest!(cases(2000), |(text in near(samples))| {
            drop(file(&text));
            let text = String::from_utf8_lossy(&text);
            let _ = (read_duration(&text), bytes(&text), shared_mode(&text));
        });
    }
}
