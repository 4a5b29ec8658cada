//! Holds what is written at the next flush, on which condition, and brings it into the document.

use std::path::Path;

use serde::{Serialize, de::DeserializeOwned};

use super::super::document::{self, Document};
use crate::error::{Error, Result};

/// Changes that wait for the next write.
#[derive(Debug, Default)]
pub(super) struct Staged {
    pub(super) changes: Vec<(String, Change)>,
    /// The expected values of sections.
    pub(super) expected: Vec<(String, Option<String>)>,
}

#[derive(Debug)]
pub(super) enum Change {
    Set(String),
    Member(String, String),
    Merge(String),
    Remove,
}

/// Whether a document that is missing is to be made.
#[derive(PartialEq, Eq)]
pub(super) enum Made {
    Anyway,
    IfChanged,
}

impl Staged {
    pub(super) fn apply(&self, document: &mut Document, path: &Path) -> Result<Made> {
        for (section, expected) in &self.expected {
            let found = document.get(section);
            let is_met = match (found, expected) {
                (Some(found), Some(expected)) => document::equal(expected, found),
                (found, expected) => found.is_none() && expected.is_none(),
            };
            if !is_met {
                let found = found.map(str::to_owned);
                return Err(Error::NotAsExpected { path: path.to_owned(), section: section.clone(), found });
            }
        }
        let layout = document.object.layout();
        let mut made = Made::IfChanged;
        for (section, change) in &self.changes {
            let changed = match change {
                Change::Set(value) => {
                    document.object.set(section, value, &layout, 0);
                    Ok(())
                }
                Change::Member(name, value) => document.object.set_inside(section, name, value, &layout),
                Change::Merge(change) => document.object.merge(section, change, &layout, 0),
                Change::Remove => {
                    document.object.remove(section);
                    continue;
                }
            };
            changed.map_err(|flaw| document::damaged(path, flaw))?;
            made = Made::Anyway;
        }
        Ok(made)
    }
}

pub(super) fn json(section: &str, value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|error| bad(section, error.to_string()))
}

pub(super) fn checked(section: &str, value: &str) -> Result<String> {
    document::check(value).map(str::to_owned).map_err(|flaw| bad(section, flaw.to_string()))
}

pub(super) fn typed<T: DeserializeOwned>(section: &str, value: &str) -> Result<T> {
    serde_json::from_str(value).map_err(|error| bad(section, error.to_string()))
}

pub(super) fn bad(section: &str, reason: String) -> Error {
    Error::BadValue { what: format!("the value for section `{section}`"), reason }
}
