//! Tells where snapshots are, and names them by their time.

use std::{path::PathBuf, time::SystemTime};

use jiff::{civil::DateTime, tz::TimeZone};

use crate::{
    error::{Error, Result},
    escape::hex,
    repo::Repo,
};

/// The time in an id.
const TIME: &str = "%Y%m%dT%H%M%SZ";

/// The directory of all snapshots.
pub(super) fn place(repo: &Repo) -> Result<PathBuf> {
    let needs = || Error::NoRepository { path: repo.root().to_owned(), needed_by: "a snapshot" };
    repo.snapshots_dir().ok_or_else(needs)
}

/// A new id.
pub(super) fn new_id(now: SystemTime) -> Result<String> {
    let mut random = [0; 3];
    getrandom::fill(&mut random).map_err(|_| Error::Unsupported { what: "a source of random numbers" })?;
    let time = jiff::Timestamp::try_from(now).unwrap_or_default();
    Ok(format!("{}-{}", time.strftime(TIME), hex(&random)))
}

/// The time in an id; `None` if it has none.
pub(super) fn time_of(id: &str) -> Option<SystemTime> {
    let (time, random) = id.split_once('-')?;
    let is_random = random.len() == 6 && random.bytes().all(|byte| byte.is_ascii_hexdigit());
    let time = DateTime::strptime(TIME, time).ok().filter(|_| is_random)?;
    Some(time.to_zoned(TimeZone::UTC).ok()?.timestamp().into())
}
