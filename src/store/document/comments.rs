//! Reads JSON with comments, trailing commas and a byte order mark (JSONC) as plain JSON of the same length: what is not JSON becomes
//! space. So both have all values at the same places, and all else stays in the text.

use super::token::{Flaw, string_length};

const MARK: &[u8] = b"\xef\xbb\xbf";

/// The text as plain JSON.
///
/// # Errors
/// A comment that does not end.
pub(super) fn plain(text: &str) -> Result<String, Flaw> {
    let mut plain = text.as_bytes().to_vec();
    let mut at = if plain.starts_with(MARK) { MARK.len() } else { 0 };
    plain[..at].fill(b' ');
    // A comma that may be the last, and whether a value came before it.
    let (mut comma, mut follows_value) = (None, false);
    while let Some(&byte) = plain.get(at) {
        match byte {
            b'"' => {
                at += string_length(&text.as_bytes()[at..]);
                (comma, follows_value) = (None, true);
                continue;
            }
            b'/' if is_comment(&text.as_bytes()[at..]) => {
                let length = comment_length(&text.as_bytes()[at..]);
                let length = length.ok_or_else(|| Flaw::at(text.as_bytes(), at, "the comment does not end"))?;
                let comment = &mut plain[at..at + length];
                comment.iter_mut().filter(|byte| !matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
                at += length;
                continue;
            }
            b',' => (comma, follows_value) = (Some(at).filter(|_| follows_value), false),
            b'}' | b']' => {
                if let Some(comma) = comma.take() {
                    plain[comma] = b' ';
                }
                follows_value = true;
            }
            byte if byte.is_ascii_whitespace() => {}
            b'{' | b'[' | b':' => (comma, follows_value) = (None, false),
            _ => (comma, follows_value) = (None, true),
        }
        at += 1;
    }
    String::from_utf8(plain).map_err(|_| Flaw::at(text.as_bytes(), 0, "it is not UTF-8"))
}

/// Finds the comma behind a value, and the end of the comments on its line.
pub(super) fn after_value(text: &str, end: usize) -> (Option<usize>, usize) {
    let bytes = text.as_bytes();
    let next = skip(bytes, end, |byte| byte.is_ascii_whitespace());
    let comma = Some(next).filter(|next| bytes.get(*next) == Some(&b','));
    let from = comma.map_or(end, |comma| comma + 1);
    let line_end = skip(bytes, from, |byte| matches!(byte, b' ' | b'\t'));
    (comma, if text[from..line_end].trim().is_empty() { from } else { line_end })
}

/// Skips comments and some kinds of space.
fn skip(bytes: &[u8], from: usize, is_space: impl Fn(u8) -> bool) -> usize {
    let mut at = from;
    while let Some(&byte) = bytes.get(at) {
        if is_comment(&bytes[at..]) {
            at += comment_length(&bytes[at..]).unwrap_or(1);
        } else if is_space(byte) {
            at += 1;
        } else {
            break;
        }
    }
    at
}

fn is_comment(rest: &[u8]) -> bool {
    rest.starts_with(b"//") || rest.starts_with(b"/*")
}

/// Without the end of the line; `None` if it does not end.
fn comment_length(rest: &[u8]) -> Option<usize> {
    if rest.starts_with(b"//") {
        return Some(rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')).unwrap_or(rest.len()));
    }
    rest.get(2..)?.windows(2).position(|end| end == b"*/").map(|end| end + 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_json_becomes_space_and_all_else_stays_in_its_place() {
        for (text, json) in [
            ("{\"a\": 1, // x, }\n}", "{\"a\": 1         \n}"),
            ("/* { */{\"a\":[1,2,/**/],}", "       {\"a\":[1,2     ] }"),
            ("\u{feff}{\"a\":\"// no\"}", "   {\"a\":\"// no\"}"),
            ("{\"a\":\"\\\"/*\",\r\n//\r\n}", "{\"a\":\"\\\"/*\" \r\n  \r\n}"),
        ] {
            assert_eq!(plain(text).as_deref(), Ok(json), "{text}");
        }
        // Only one comma is too many, and only behind a value.
        for text in ["{,}", "[1,,]", "{\"a\":,}", "[,1]"] {
            let plain = plain(text).expect("no comment");
            assert!(serde_json::from_str::<serde_json::Value>(&plain).is_err(), "{text}: {plain}");
        }
        assert_eq!(plain("{\n  /* x").map_err(|flaw| (flaw.line, flaw.column)), Err((2, 3)));
    }

    proptest::proptest! {
        #[test]
        fn plain_text_is_as_long_as_the_text(parts in proptest::collection::vec(
            proptest::sample::select(vec!["{", "}", "[", "]", ",", ":", "\"", "\\", "//", "/*", "*/", "\n", " ", "1", "é", "\u{feff}"]), 0..30,
        )) {
            let text = parts.concat();
            if let Ok(plain) = plain(&text) {
                proptest::prop_assert_eq!(plain.len(), text.len());
                proptest::prop_assert_eq!(super::plain(&plain), Ok(plain.clone()));
            }
        }
    }
}
