//! Describes a failed command for programs: the object that every verb with `--json` prints then.
//!
//! # Format
//! One JSON object: `schema` 1, `outcome` (`busy`, `deadlock`, `interrupted`, `invalid`, `unavailable`, `no`, `usage` or
//! `failed`), `exit_status`, `error` (the message), `causes` and `hint` (or `null`). If it is known who is in the way, also
//! `holders` and `waiters`, as in `status --json`.

use repoguard::{Error, Holder};
use serde_json::{Value, json};

use super::{exit, status::party};

/// The object for an honest "no", which is not an error.
pub(super) fn no(text: &str) -> Value {
    json!({"schema": 1, "outcome": "no", "exit_status": exit::NO, "error": text, "causes": [], "hint": null})
}

/// The object for an error that ends with this status.
pub(super) fn to_json(error: &anyhow::Error, status: u8) -> Value {
    let causes: Vec<String> = error.chain().skip(1).map(ToString::to_string).collect();
    let known = error.downcast_ref::<Error>();
    let mut object = json!({
        "schema": 1, "outcome": exit::outcome(error), "exit_status": status, "error": error.to_string(),
        "causes": causes, "hint": known.and_then(Error::hint),
    });
    let parties = |holders: &[Holder]| Value::from(holders.iter().map(party).collect::<Vec<_>>());
    let (holders, waiters): (&[Holder], &[Holder]) = match known {
        Some(Error::Busy { holders, ahead, .. }) => (holders, ahead),
        Some(Error::Deadlock { cycle, .. }) => (&[], cycle),
        _ => return object,
    };
    object["holders"] = parties(holders);
    object["waiters"] = parties(waiters);
    object
}
