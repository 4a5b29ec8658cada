//! Reads and changes JSON without giving up how it is written. Numbers are text here and stay it.
//!
//! All but [`check`] take text that is JSON, and go through it without recursion as deep as the text is nested, but for
//! [`equal`], which goes as deep as both are: one of them was checked.

use std::{collections::HashMap, ops::Range};

use serde::{Deserialize, Deserializer, de};
use serde_json::value::RawValue;

/// How deep a value may be nested that is written: as deep as nearly every reader goes.
pub(crate) const DEEPEST: usize = 127;

/// A flaw of a text, and its place: line, and column in bytes, counted from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Flaw {
    pub(crate) line: usize,
    pub(crate) column: usize,
    pub(crate) reason: String,
}

impl Flaw {
    /// A flaw at an offset of a text.
    pub(crate) fn at(text: &[u8], offset: usize, reason: impl Into<String>) -> Self {
        let before = &text[..offset.min(text.len())];
        let line_start = before.iter().rposition(|&byte| byte == b'\n').map_or(0, |newline| newline + 1);
        let line = before.split(|&byte| byte == b'\n').count();
        Self { line, column: 1 + before.len() - line_start, reason: reason.into() }
    }

    /// The same flaw, its text being a part of another.
    pub(crate) fn within(self, text: &str, offset: usize) -> Self {
        let start = Self::at(text.as_bytes(), offset, "");
        let column = if self.line == 1 { start.column + self.column - 1 } else { self.column };
        Self { line: start.line + self.line - 1, column, ..self }
    }

    fn of(error: &serde_json::Error) -> Self {
        let (line, column) = (error.line().max(1), error.column().max(1));
        let told = error.to_string();
        let place = format!(" at line {} column {}", error.line(), error.column());
        Self { line, column, reason: told.strip_suffix(&place).unwrap_or(&told).to_owned() }
    }
}

impl std::fmt::Display for Flaw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (line {}, column {})", self.reason, self.line, self.column)
    }
}

/// Checks that a text is one JSON value that nearly every reader can read; returns it without space around it.
pub(crate) fn check(text: &str) -> Result<&str, Flaw> {
    let value = serde_json::from_str::<&RawValue>(text).map_err(|error| Flaw::of(&error))?.get();
    let start = offset(text, value);
    let mut depth = 0_usize;
    for token in Tokens::new(value) {
        let flaw = |reason: &str| Flaw::at(text.as_bytes(), start + offset(value, token), reason);
        match token.as_bytes()[0] {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth -= 1,
            // Half of a surrogate pair is JSON, but no text.
            b'"' if token.contains("\\u") && serde_json::from_str::<String>(token).is_err() => {
                return Err(flaw("an escape that stands for no character"));
            }
            _ => {}
        }
        if depth > DEEPEST {
            return Err(flaw("nested too deeply: more than 127 levels"));
        }
    }
    Ok(value)
}

/// Names and values of an object, in their order, with what is there twice.
pub(crate) fn members(text: &str) -> Result<Vec<(String, Range<usize>)>, Flaw> {
    let Members(members) = serde_json::from_str(text).map_err(|error| Flaw::of(&error))?;
    Ok(members.into_iter().map(|(name, value)| (name, range(text, value.get()))).collect())
}

/// The values of an array.
pub(crate) fn elements(text: &str) -> Result<Vec<&str>, Flaw> {
    let elements: Vec<&RawValue> = serde_json::from_str(text).map_err(|error| Flaw::of(&error))?;
    Ok(elements.into_iter().map(RawValue::get).collect())
}

struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

/// The place of a part of a text.
fn range(text: &str, part: &str) -> Range<usize> {
    let start = offset(text, part);
    start..start + part.len()
}

fn offset(text: &str, part: &str) -> usize {
    part.as_ptr() as usize - text.as_ptr() as usize
}

/// The tokens of a JSON text, without the space between them.
#[derive(Clone)]
pub(crate) struct Tokens<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Tokens<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let bytes = self.text.as_bytes();
        self.at += bytes[self.at..].iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        let start = self.at;
        let rest = &bytes[start..];
        let length = match rest.first()? {
            b'{' | b'}' | b'[' | b']' | b',' | b':' => 1,
            b'"' => string_length(rest),
            _ => {
                let is_part = |byte: &&u8| !byte.is_ascii_whitespace() && !b"{}[],:\"".contains(byte);
                rest.iter().take_while(is_part).count()
            }
        };
        self.at += length;
        Some(&self.text[start..self.at])
    }
}

/// The length of the string that a text begins with, in bytes and with its quotes.
pub(super) fn string_length(text: &[u8]) -> usize {
    let mut escaped = false;
    let end = text[1..].iter().position(|&byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    });
    end.map_or(text.len(), |end| end + 2)
}

/// Tells whether two values are written the same, but for the space between their parts.
pub(crate) fn same(one: &str, other: &str) -> bool {
    Tokens::new(one).eq(Tokens::new(other))
}

/// Tells whether two values mean the same: the order of members does not count, numbers are compared by their exact value,
/// texts by their characters. Of a name that is there twice the last counts.
pub(crate) fn equal(one: &str, other: &str) -> bool {
    match (one.as_bytes().first(), other.as_bytes().first()) {
        (Some(b'{'), Some(b'{')) => {
            let map = |text: &str| -> Option<HashMap<String, Range<usize>>> {
                Some(members(text).ok()?.into_iter().collect())
            };
            let (Some(ours), Some(theirs)) = (map(one), map(other)) else { return same(one, other) };
            let is_there = |(name, value): (&String, &Range<usize>)| {
                theirs.get(name).is_some_and(|their| equal(&one[value.clone()], &other[their.clone()]))
            };
            ours.len() == theirs.len() && ours.iter().all(is_there)
        }
        (Some(b'['), Some(b'[')) => match (elements(one), elements(other)) {
            (Ok(one), Ok(other)) => {
                one.len() == other.len() && one.iter().zip(&other).all(|(one, other)| equal(one, other))
            }
            _ => false,
        },
        (Some(b'"'), Some(b'"')) => {
            let text = |text: &str| serde_json::from_str::<String>(text).ok();
            one == other || text(one).is_some_and(|one| text(other) == Some(one))
        }
        (Some(b'-' | b'0'..=b'9'), Some(b'-' | b'0'..=b'9')) => {
            one == other || decimal(one).is_some_and(|one| decimal(other) == Some(one))
        }
        _ => one == other,
    }
}

/// A number as sign, digits without zeros at either end, and power of ten; `None` beyond all that is written.
fn decimal(number: &str) -> Option<(bool, String, i128)> {
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let exponent = i128::from(exponent.strip_prefix('+').unwrap_or(exponent).parse::<i64>().ok()?);
    let (negative, mantissa) = mantissa.strip_prefix('-').map_or((false, mantissa), |rest| (true, rest));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let exponent = exponent - i128::try_from(fraction.len()).ok()?;
    let significant = digits.trim_end_matches('0');
    let exponent = exponent + i128::try_from(digits.len() - significant.len()).ok()?;
    match significant.trim_start_matches('0') {
        "" => Some((false, String::new(), 0)),
        digits => Some((negative, digits.to_owned(), exponent)),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;

    #[test]
    fn values_are_equal_by_meaning_and_numbers_exactly() {
        for (one, other) in [
            ("1", "1.0"),
            ("1e2", "100"),
            ("-0", "0.0"),
            ("1E+400", "10e399"),
            (r#"{"a":1,"b":[true,null]}"#, r#"{ "b": [true, null], "a": 1.00 }"#),
            (r#""\u0041""#, r#""A""#),
        ] {
            assert!(equal(one, other), "{one} {other}");
        }
        for (one, other) in [
            ("12345678901234567890", "12345678901234567891"),
            ("1", "-1"),
            ("0.1", "0.10000000000000000001"),
            ("1e999999999999999999999", "2e999999999999999999999"),
            ("[1]", "[1,1]"),
            ("{}", "[]"),
            (r#"{"a":1}"#, r#"{"a":1,"b":2}"#),
            ("null", "0"),
            (r#""1""#, "1"),
        ] {
            assert!(!equal(one, other), "{one} {other}");
        }
    }

    #[test]
    fn what_is_no_value_is_refused_with_its_place() {
        assert_eq!(check(" [1 , 2]\n").unwrap(), "[1 , 2]");
        let place = |text: &str| check(text).map_err(|flaw| (flaw.line, flaw.column)).unwrap_err();
        assert_eq!(place("{\n \"a\": tru }"), (2, 10));
        assert_eq!(place("[\n  \"\\ud800\"]"), (2, 3));
        assert_eq!(place("1 2"), (1, 3));
        assert_eq!(place(""), (1, 1));
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(check(&nested(DEEPEST)).is_ok());
        assert_eq!(place(&nested(DEEPEST + 1)), (1, 128));
        assert!(check(&"[".repeat(1_000_000)).is_err(), "no stack is that deep");
    }

    #[test]
    fn tokens_are_the_same_however_they_are_spaced() {
        let tokens: Vec<&str> = Tokens::new(r#" {"a\"\\":[ 1e5,"x y"]}"#).collect();
        assert_eq!(tokens, ["{", r#""a\"\\""#, ":", "[", "1e5", ",", r#""x y""#, "]", "}"]);
        assert!(same("[1, 2]", "[ 1,2 ]") && !same("[1]", "[1.0]") && !same(r#"{"a":1,"b":2}"#, r#"{"b":2,"a":1}"#));
    }
}
