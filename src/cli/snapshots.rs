//! `repoguard snapshots`: lists what was undone and can be brought back.

use std::{
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use clap::{ArgMatches, Args, FromArgMatches};
use repoguard::{
    Repo,
    escape::{hex, quoted, quoted_path},
    snapshot::Snapshot,
};
use serde_json::{Value, json};

use super::{
    Context,
    exit::{Exit, Usage},
    render::{self, Lines},
};

/// Show what was undone and is kept
///
/// Nothing is destroyed when repoguard undoes something: what `repoguard mutate` takes back after a failure, what is found after a
/// crash, and what `repoguard restore` replaces is kept as a snapshot in the git directory, under no reference of git's, for 30
/// days. If all together are larger than `repoguard.snapshotLimit` (or `REPOGUARD_SNAPSHOT_LIMIT`: `500m`, `2g`; 1g by default),
/// the oldest go earlier.
///
/// One line a snapshot, the newest first: its id, when it was made, how many files it keeps, their size, and why. With ID,
/// or as much of it as no other begins with: what it keeps. `repoguard restore ID` brings it back.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// List what this snapshot keeps
    id: Option<String>,
}

pub(super) fn run(context: &Context, matches: &ArgMatches) -> anyhow::Result<Exit> {
    let arguments = Arguments::from_arg_matches(matches).map_err(|error| Usage(error.to_string()))?;
    let directory = std::env::current_dir().context("cannot find the current directory")?;
    let repo = Repo::discover_of_any_owner(&directory)?;
    if let Some(id) = &arguments.id {
        let snapshot = repoguard::snapshot::snapshot(&repo, id)?;
        if context.json {
            render::json(&details(&snapshot))?;
        } else {
            render::print(&to_text(&snapshot))?;
        }
        return Ok(Exit::OK);
    }
    let mut all = repoguard::snapshot::snapshots(&repo)?;
    all.reverse();
    if context.json {
        let all: Vec<Value> = all.iter().map(brief).collect();
        render::json(&json!({"schema": 1, "snapshots": all}))?;
    } else if all.is_empty() {
        context.ui.say("nothing that was undone is kept here");
    } else {
        render::print(&table(&all))?;
    }
    Ok(Exit::OK)
}

fn table(all: &[Snapshot]) -> Lines {
    let mut lines = Lines::default();
    lines.add(format_args!("{:<23}  {:<27}  {:>6}  {:>10}  WHY", "ID", "MADE", "FILES", "SIZE"));
    for snapshot in all {
        let why = match &snapshot.damage {
            Some(damage) => format!("cannot be read: {damage}"),
            None if !snapshot.missing.is_empty() => {
                format!("{} ({} copies are gone)", snapshot.why, snapshot.missing.len())
            }
            None if snapshot.finished => snapshot.why.clone(),
            None => format!("{} (not finished)", snapshot.why),
        };
        let (files, size) = (snapshot.files.len(), render::size(snapshot.bytes));
        lines.add(format_args!("{:<23}  {:<27}  {files:>6}  {size:>10}  {why}", snapshot.id, made(snapshot)));
    }
    lines
}

fn made(snapshot: &Snapshot) -> String {
    let Some(made) = snapshot.made else { return "at an unknown time".to_owned() };
    let ago = SystemTime::now().duration_since(made).unwrap_or_default();
    format!("{} ({} ago)", render::clock(unix_ms(made)), render::duration(ago))
}

fn unix_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn to_text(snapshot: &Snapshot) -> Lines {
    let mut lines = Lines::default();
    lines.add(format_args!("{}, made {}", snapshot.id, made(snapshot)));
    let mut fact = |label: &str, fact: &str| {
        if !fact.is_empty() {
            lines.add(format_args!("  {label}: {fact}"));
        }
    };
    let unfinished = if snapshot.finished { "" } else { " (not finished: it goes on, or was killed)" };
    fact("why", &format!("{}{unfinished}", snapshot.why));
    fact("command", &snapshot.command);
    fact("worktree", &quoted_path(&snapshot.root));
    let heads = [("HEAD before it", &snapshot.head_before), ("HEAD after it", &snapshot.head_after)];
    for (label, head) in heads {
        fact(label, &head.as_ref().map(ToString::to_string).unwrap_or_default());
    }
    for kept in &snapshot.files {
        let kind = kept.kind.trim_start_matches("a ");
        lines.add(format_args!("{kind:<14}  {:>10}  {}", render::size(kept.size), quoted_path(&kept.path)));
    }
    for path in &snapshot.deleted {
        lines.add(format_args!("{:<14}  {:>10}  {}", "deleted", "", quoted_path(path)));
    }
    for path in &snapshot.missing {
        lines.add(format_args!("{:<14}  {:>10}  {}", "copy is gone", "", quoted_path(path)));
    }
    for other in &snapshot.others {
        let was =
            if other.path == Path::new("") { String::new() } else { format!(", was {}", quoted_path(&other.path)) };
        lines.add(format_args!("{:<14}  {:>10}  {}{was}", "other", other.label, quoted_path(&other.at)));
    }
    for moved in &snapshot.references {
        let (old, new) = (moved.old.as_deref().unwrap_or("nothing"), moved.new.as_deref().unwrap_or("nothing"));
        lines.add(format_args!("{:<14}  {:>10}  {}: from {old} to {new}", "reference", "", moved.name));
    }
    if let Some(fetch) = fetch(snapshot) {
        lines.add(format_args!("the commits come back with: {fetch}"));
    }
    lines
}

/// The command that brings the commits back, as branches (and tags) below `undone/ID/`.
fn fetch(snapshot: &Snapshot) -> Option<String> {
    let bundle = snapshot.bundle.as_ref().filter(|bundle| !bundle.references.is_empty())?;
    let refspecs = bundle.references.iter().map(|name| {
        let (place, name_there) = match name.strip_prefix("refs/tags/") {
            Some(tag) => ("tags", tag),
            None => ("heads", name.strip_prefix("refs/heads/").or(name.strip_prefix("refs/")).unwrap_or(name)),
        };
        quoted(format!("{name}:refs/{place}/undone/{}/{name_there}", snapshot.id).as_ref())
    });
    let refspecs: Vec<String> = refspecs.collect();
    Some(format!("git fetch --no-tags {} {}", quoted_path(&bundle.path), refspecs.join(" ")))
}

fn brief(snapshot: &Snapshot) -> Value {
    let made = snapshot.made.and_then(|made| jiff::Timestamp::try_from(made).ok());
    json!({
        "id": snapshot.id,
        "made": made.map(|made| format!("{made:.3}")),
        "why": snapshot.why,
        "command": snapshot.command,
        "root": snapshot.root.to_string_lossy(),
        "head_before": snapshot.head_before,
        "head_after": snapshot.head_after,
        "fence": snapshot.fence,
        "files": snapshot.files.len(),
        "bytes": snapshot.bytes,
        "finished": snapshot.finished,
        "damage": snapshot.damage,
    })
}

fn details(snapshot: &Snapshot) -> Value {
    let mut all = brief(snapshot);
    all["schema"] = json!(1);
    let files = snapshot.files.iter().map(|kept| {
        let mut file = path(&kept.path);
        (file["kind"], file["bytes"], file["at"]) =
            (json!(kept.kind), json!(kept.size), json!(kept.at.to_string_lossy()));
        file
    });
    all["files"] = files.collect();
    all["deleted"] = snapshot.deleted.iter().map(|deleted| path(deleted)).collect();
    all["missing"] = snapshot.missing.iter().map(|missing| path(missing)).collect();
    let others = snapshot.others.iter().map(
        |other| json!({"label": other.label, "path": other.path.to_string_lossy(), "at": other.at.to_string_lossy()}),
    );
    all["others"] = others.collect();
    let references = snapshot.references.iter();
    all["references"] =
        references.map(|moved| json!({"name": moved.name, "old": moved.old, "new": moved.new})).collect();
    all["bundle"] = json!(snapshot.bundle.as_ref().map(|bundle| bundle.path.to_string_lossy()));
    all["fetch"] = json!(fetch(snapshot));
    all
}

/// A path in a document; with `path_hex`, its bytes, if it is not text.
pub(super) fn path(path: &Path) -> Value {
    let mut document = json!({"path": path.to_string_lossy()});
    if path.to_str().is_none() {
        document["path_hex"] = json!(hex(path.as_os_str().as_encoded_bytes()));
    }
    document
}
