//! A document that many write to, each its own sections. Sections are the members of one JSON object; those of others
//! are opaque here, and stay byte for byte as they are written.
//!
//! # Format
//! One JSON object in UTF-8, of at most [`LIMIT`] bytes. Comments, trailing commas and a byte order mark, which people's settings files
//! have (JSONC), stay where they are. No two sections have the same name; what is inside of them is their owners' business. A document
//! that repoguard makes begins with the section `lock_version`, 1,
//! one member a line, indented by two spaces.

mod comments;
mod layout;
mod object;
mod token;

pub(crate) use object::Object;
pub(crate) use token::{Flaw, check, equal};

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// How large a document may be, in bytes.
pub(crate) const LIMIT: u64 = 64 << 20;

/// A new document.
const FRESH: &str = "{\n  \"lock_version\": 1\n}\n";

/// A shared document as it was when it was read; it does not change when the file does.
///
/// Values are JSON text, exactly as it is written: numbers keep all their digits.
///
/// # Example
/// ```
/// use repoguard::{Config, Repo, state::StateFile};
///
/// let directory = tempfile::tempdir()?;
/// let repo = Repo::discover(directory.path())?;
/// let path = directory.path().join("lock.json");
/// std::fs::write(&path, r#"{"lock_version": 1, "deps": {"serde": [1.0, 229]}}"#)?;
/// let document = StateFile::at(&repo, &Config::load(&repo)?, &path)?.read()?.expect("it is there");
/// assert_eq!(document.sections().collect::<Vec<_>>(), ["lock_version", "deps"]);
/// assert_eq!(document.get("deps"), Some(r#"{"serde": [1.0, 229]}"#));
/// assert_eq!(document.find("deps", "/serde/0")?, Some("1.0"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Document {
    path: PathBuf,
    pub(crate) object: Object,
}

impl Document {
    /// A document that is not there yet.
    pub(crate) fn fresh(path: &Path) -> Self {
        let object = Object::parse(FRESH.to_owned()).unwrap_or_else(|_| Object::empty());
        Self { path: path.to_owned(), object }
    }

    /// Reads a document's text.
    pub(crate) fn parse(path: &Path, bytes: Vec<u8>) -> Result<Self> {
        let damaged = |flaw| damaged(path, flaw);
        if bytes.trim_ascii().is_empty() {
            return Err(damaged(Flaw::at(&bytes, 0, "it is empty")));
        }
        let text = String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            damaged(Flaw::at(error.as_bytes(), at, "it is not UTF-8"))
        })?;
        Ok(Self { path: path.to_owned(), object: Object::parse(text).map_err(damaged)? })
    }

    /// The error for a part of the text that is not what it should be.
    pub(crate) fn damage(&self, part: &str, reason: String) -> Error {
        let start = part.as_ptr() as usize - self.object.json().as_ptr() as usize;
        damaged(&self.path, Flaw::at(self.text().as_bytes(), start, reason))
    }

    /// The whole text.
    #[must_use]
    pub fn text(&self) -> &str {
        self.object.text()
    }

    /// The names of the sections, in their order.
    pub fn sections(&self) -> impl Iterator<Item = &str> {
        self.object.names()
    }

    /// A section as it is written, but for comments in it; `None` when it is missing.
    #[must_use]
    pub fn get(&self, section: &str) -> Option<&str> {
        self.object.get(section)
    }

    /// The value of a JSON pointer (RFC 6901) in a section, as it is written; `None` if it leads nowhere. The empty pointer leads
    /// to the section itself. The last duplicate key wins.
    ///
    /// # Errors
    /// [`Error::BadValue`] where `pointer` is none.
    pub fn find(&self, section: &str, pointer: &str) -> Result<Option<&str>> {
        let steps = steps(pointer)?;
        let Some(mut value) = self.get(section) else { return Ok(None) };
        for step in steps {
            let inside = |flaw: Flaw| {
                let start = value.as_ptr() as usize - self.object.json().as_ptr() as usize;
                damaged(&self.path, flaw.within(self.text(), start))
            };
            let found = match value.as_bytes().first() {
                Some(b'{') => {
                    let members = token::members(value).map_err(inside)?;
                    members.into_iter().rev().find(|(name, _)| *name == step).map(|(_, place)| &value[place])
                }
                Some(b'[') => {
                    let elements = token::elements(value).map_err(inside)?;
                    index(&step).and_then(|index| elements.get(index).copied())
                }
                _ => None,
            };
            match found {
                Some(found) => value = found,
                None => return Ok(None),
            }
        }
        Ok(Some(value))
    }
}

/// The error for a document that is not what it should be.
pub(crate) fn damaged(path: &Path, Flaw { line, column, reason }: Flaw) -> Error {
    Error::DamagedDocument { path: path.to_owned(), line, column, reason }
}

/// The names and numbers that a JSON pointer is made of.
fn steps(pointer: &str) -> Result<Vec<String>> {
    let bad = |reason: &str| Error::BadValue { what: format!("the pointer `{pointer}`"), reason: reason.to_owned() };
    if pointer.is_empty() {
        return Ok(Vec::new());
    }
    let steps = pointer.strip_prefix('/').ok_or_else(|| bad("it does not begin with `/`"))?;
    let step = |step: &str| {
        // A tilde that begins no escape is an error.
        let rest = step.replace("~0", "").replace("~1", "");
        if rest.contains('~') {
            return Err(bad("`~` is written `~0` in it, and `/` in a name `~1`"));
        }
        Ok(step.replace("~1", "/").replace("~0", "~"))
    };
    steps.split('/').map(step).collect()
}

/// The place in an array that a step names.
fn index(step: &str) -> Option<usize> {
    let is_number = step == "0" || (!step.starts_with('0') && step.bytes().all(|byte| byte.is_ascii_digit()));
    step.parse().ok().filter(|_| is_number)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use proptest::prelude::*;

    use super::*;

    fn parse(bytes: &[u8]) -> Result<Document> {
        Document::parse(Path::new("doc"), bytes.to_owned())
    }

    #[test]
    fn pointers_lead_where_their_standard_says() {
        // RFC 6901, section 5; there the document itself is what is a section here.
        let text = br#"{"s": {"foo": ["bar", "baz"], "": 0, "a/b": 1, "c%d": 2, "e^f": 3, "g|h": 4, "i\\j": 5, "k\"l": 6, " ": 7, "m~n": 8}}"#;
        let document = parse(text).unwrap();
        for (pointer, value) in [
            ("/foo", r#"["bar", "baz"]"#),
            ("/foo/0", r#""bar""#),
            ("/", "0"),
            ("/a~1b", "1"),
            ("/c%d", "2"),
            ("/i\\j", "5"),
            ("/k\"l", "6"),
            ("/ ", "7"),
            ("/m~0n", "8"),
        ] {
            assert_eq!(document.find("s", pointer).unwrap(), Some(value), "{pointer}");
        }
        assert_eq!(document.find("s", "").unwrap(), document.get("s"));
        for nowhere in ["/foo/2", "/foo/00", "/foo/-", "/foo/+1", "/foo/0/0", "/a", "/foo/99999999999999999999999"] {
            assert_eq!(document.find("s", nowhere).unwrap(), None, "{nowhere}");
        }
        for bad in ["foo", "/m~n", "/m~"] {
            assert!(matches!(document.find("s", bad), Err(Error::BadValue { .. })), "{bad}");
        }
    }

    #[test]
    fn damage_is_told_with_its_place() {
        for (bytes, place) in [
            (&b""[..], (1, 1)),
            (b" \n", (1, 1)),
            (b"{\n\"a\": \"\xff\"}", (2, 7)),
            (b"{\"a\": 1,\n\"b\": }", (2, 6)),
            (b"{\"a\": 1} x", (1, 10)),
            (b"{\"a\": 1,\n \"a\": 2}", (2, 2)),
            (b"{\"a\": 01}", (1, 8)),
            (b"{\"a\": 1", (1, 7)),
        ] {
            let error = parse(bytes).unwrap_err();
            let Error::DamagedDocument { line, column, .. } = error else { panic!("{error}") };
            assert_eq!((line, column), place, "{:?}", String::from_utf8_lossy(bytes));
        }
        let deep = format!("{{\"a\": {}{}}}", "[".repeat(200_000), "]".repeat(200_000));
        assert!(parse(deep.as_bytes()).is_ok(), "what is inside of a section is its owner's business");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn random_damage_is_an_error_or_leaves_a_document(
            flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            end in any::<prop::sample::Index>(),
            cut: bool,
        ) {
            let mut bytes = b"{ \"a\" : [1.50, {\"x\":null}],\r\n\t\"b\\u00e9\": \"\\\"}\",\"\":{\"k\" : -0e+5}\n}\n".to_vec();
            for (place, byte) in flips {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
            if cut {
                bytes.truncate(end.index(bytes.len()) + 1);
            }
            let Ok(mut document) = parse(&bytes) else { return Ok(()) };
            let before: Vec<String> = document.sections().map(str::to_owned).collect();
            let layout = document.object.layout();
            document.object.set("new", "{\"n\": [1]}", &layout, 0);
            document.object.merge("a", "{\"x\": {\"y\": 1}}", &layout, 0).ok();
            let again = parse(document.text().as_bytes()).expect("it is a document still");
            let all = before.iter().map(String::as_str).chain(["new", "a"]);
            prop_assert!(all.clone().all(|section| again.get(section) == document.get(section)));
            prop_assert!(again.find("new", "/n/0").unwrap() == Some("1"));
            all.for_each(|section| document.object.remove(section));
            prop_assert_eq!(parse(document.text().as_bytes()).unwrap().sections().count(), 0);
        }
    }

    #[test]
    fn fresh_document_has_its_version() {
        let fresh = Document::fresh(Path::new("doc"));
        assert_eq!((fresh.get("lock_version"), fresh.text()), (Some("1"), FRESH));
    }
}
