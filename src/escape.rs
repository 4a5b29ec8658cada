//! Makes foreign text safe for a terminal, and foreign names safe for a shell.
//!
//! Records, logs, references, paths and the messages of other programs can hold anything. Text is made safe when it is shown,
//! whatever was done when it was written.
//!
//! Characters that move the cursor, hide or reorder text are shown as escapes: `\n`, `\x1b`, `\u{202e}`. A backslash stays a
//! backslash, so a word that [`quoted`] made passes through [`escaped`] unchanged.

use std::{borrow::Cow, ffi::OsStr, fmt::Write as _, path::Path};

/// Tells whether a terminal shows a character as itself: it is visible, does not control the terminal, and does not reorder text.
///
/// The zero-width joiners U+200C and U+200D are shown: scripts and emoji need them, and they do not move or reorder text.
#[must_use]
pub fn is_showable(c: char) -> bool {
    let is_hidden = matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180e}' | '\u{200b}' | '\u{200e}'
        | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}' | '\u{ffa0}'
        | '\u{fff9}'..='\u{fffb}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}');
    !c.is_control() && !is_hidden
}

/// One line of a text: nothing in it starts another line or reaches the terminal's controls.
///
/// # Example
/// ```
/// assert_eq!(repoguard::escape::escaped("a\nb \u{1b}[2J \u{202e}"), r"a\nb \x1b[2J \u{202e}");
/// ```
#[must_use]
pub fn escaped(text: &str) -> Cow<'_, str> {
    if text.chars().all(is_showable) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    text.chars().for_each(|c| push(&mut safe, c));
    Cow::Owned(safe)
}

/// Makes bytes safe for a terminal: line ends and tabs stay, bytes that are not UTF-8 are shown as `\xff`.
#[must_use]
pub fn escaped_data(data: &[u8]) -> String {
    let mut safe = String::with_capacity(data.len());
    for chunk in data.utf8_chunks() {
        for c in chunk.valid().chars() {
            if matches!(c, '\n' | '\t') { safe.push(c) } else { push(&mut safe, c) }
        }
        for byte in chunk.invalid() {
            // Writing to a string cannot fail.
            let _ = write!(safe, "\\x{byte:02x}");
        }
    }
    safe
}

fn push(safe: &mut String, c: char) {
    // Writing to a string cannot fail.
    let _ = match c {
        _ if is_showable(c) => return safe.push(c),
        '\n' => write!(safe, "\\n"),
        '\r' => write!(safe, "\\r"),
        '\t' => write!(safe, "\\t"),
        '\0'..='\x7f' => write!(safe, "\\x{:02x}", u32::from(c)),
        _ => write!(safe, "\\u{{{:x}}}", u32::from(c)),
    };
}

/// A JSON text that means the same and holds no character that a terminal would interpret: serialisers leave DEL, C1 and
/// bidirectional controls as they are. Such characters stand in strings only, so JSON's own escapes can replace them.
#[must_use]
pub fn escaped_json(json: String) -> String {
    let is_safe = |c: char| is_showable(c) || c.is_ascii_whitespace();
    if json.chars().all(is_safe) {
        return json;
    }
    let mut safe = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        if is_safe(c) {
            safe.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a string cannot fail.
                let _ = write!(safe, "\\u{unit:04x}");
            }
        }
    }
    safe
}

/// A word for a command line that can be pasted into a shell, whatever the word holds.
///
/// # Example
/// ```
/// assert_eq!(repoguard::escape::quoted("a b".as_ref()), "'a b'");
/// assert_eq!(repoguard::escape::quoted("a\n$(b)".as_ref()), r"$'a\012$(b)'");
/// ```
#[must_use]
pub fn quoted(word: &OsStr) -> String {
    let is_plain = |c: char| (c.is_alphanumeric() && is_showable(c)) || "/._-+=:@%,".contains(c);
    match word.to_str() {
        Some(text) if !text.is_empty() && text.chars().all(is_plain) => text.to_owned(),
        Some(text) if text.chars().all(is_showable) => format!("'{}'", text.replace('\'', r"'\''")),
        _ => {
            let bytes = word.as_encoded_bytes().iter();
            let escaped = bytes.map(|&byte| match byte {
                b'\'' | b'\\' => format!("\\{}", char::from(byte)),
                b' '..=b'~' => char::from(byte).to_string(),
                _ => format!("\\{byte:03o}"),
            });
            format!("$'{}'", escaped.collect::<String>())
        }
    }
}

/// As [`quoted`], for a path: no program takes it for an option.
#[must_use]
pub fn quoted_path(path: &Path) -> String {
    let is_option = path.as_os_str().as_encoded_bytes().starts_with(b"-");
    quoted(if is_option { Path::new(".").join(path) } else { path.to_owned() }.as_os_str())
}

/// Bytes in JSON, names of files above all: a text, with escapes for what is no UTF-8.
///
/// # Format
/// That of [`bstr::ByteSlice::escape_bytes`]: `\n`, `\\`, `\xFF`; other text stands for itself.
pub(crate) mod in_json {
    use bstr::{ByteSlice as _, ByteVec as _};
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(crate) fn encode(bytes: &[u8]) -> String {
        bytes.escape_bytes().to_string()
    }

    /// Any text stands for some bytes.
    pub(crate) fn decode(text: &str) -> Vec<u8> {
        Vec::unescape_bytes(text)
    }

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&encode(bytes))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        String::deserialize(deserializer).map(|text| decode(&text))
    }
}

/// Bytes as lower-case hex digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_loses_what_a_terminal_interprets_and_keeps_the_rest() {
        for (text, safe) in [
            ("naïve 漢字 👩\u{200d}💻 e\u{301}", "naïve 漢字 👩\u{200d}💻 e\u{301}"),
            ("\u{1b}]52;c;eA==\u{7}", r"\x1b]52;c;eA==\x07"),
            ("\u{9b}2J\u{7f}\r\n\t\0", r"\u{9b}2J\x7f\r\n\t\x00"),
            ("\u{2066}a\u{2069}\u{200f}\u{61c}", r"\u{2066}a\u{2069}\u{200f}\u{61c}"),
            (
                "a\u{2028}b\u{2029}c\u{85}d\u{200b}\u{feff}\u{e0041}",
                r"a\u{2028}b\u{2029}c\u{85}d\u{200b}\u{feff}\u{e0041}",
            ),
            (r"C:\new", r"C:\new"),
        ] {
            assert_eq!(escaped(text), safe);
        }
    }

    #[test]
    fn data_keeps_its_lines_and_shows_bytes_that_are_no_text() {
        assert_eq!(escaped_data(b"a\tb\n\xffc\xc2\x9b\r\n"), "a\tb\n\\xffc\\u{9b}\\r\n");
    }

    #[test]
    fn json_means_the_same_and_is_safe() {
        let value = serde_json::json!({"k\u{9b}": "\u{7f}\u{202e}\u{e0041}\u{1b}é", "n": [1, null]});
        let safe = escaped_json(value.to_string());
        assert!(safe.chars().all(is_showable), "{safe}");
        assert!(safe.contains('é'), "{safe}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&safe).expect("JSON"), value);
        assert_eq!(escaped_json("{\n\t\"a\": 1\r\n}".to_owned()), "{\n\t\"a\": 1\r\n}", "layout stays");
    }

    #[test]
    fn bytes_survive_json() {
        for bytes in
            [&b"a/b c"[..], b"", b"\"\\\n\t\0", b"100%", b"\\xff", b"n\xff\xfe\n", "\u{fc}\\".as_bytes(), b"\\\xc3"]
        {
            let json = serde_json::to_string(&in_json::encode(bytes)).expect("JSON");
            assert_eq!(in_json::decode(&serde_json::from_str::<String>(&json).expect("JSON")), bytes, "{json}");
        }
    }

    #[test]
    fn words_are_what_a_shell_takes_and_show_as_they_are() {
        for (word, expected) in [
            ("a/b.c", "a/b.c"),
            ("", "''"),
            ("a b", "'a b'"),
            ("it's", r"'it'\''s'"),
            ("`x`; $(y)", "'`x`; $(y)'"),
            ("a\nb", r"$'a\012b'"),
            ("\u{1b}[2J'", r"$'\033[2J\''"),
            ("\u{202e}", r"$'\342\200\256'"),
        ] {
            let quoted = quoted(word.as_ref());
            assert_eq!(quoted, expected);
            assert_eq!(escaped(&quoted), expected, "what can be pasted is not changed again");
        }
        assert_eq!(quoted_path(Path::new("-rf")), "./-rf");
        assert_eq!(quoted_path(Path::new("/-rf")), "/-rf");
    }
}
