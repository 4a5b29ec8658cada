//! Snapshots of what was undone: made by hand as their format says, and as the program lists them.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::Sandbox;

/// A snapshot that is made by hand.
pub(crate) struct Crafted {
    pub(crate) id: String,
    pub(crate) directory: PathBuf,
    next: u64,
}

impl Sandbox {
    /// Begins a snapshot of this age.
    pub(crate) fn snapshot(&self, age: Duration) -> Crafted {
        let made = SystemTime::now() - age;
        let time = jiff::Timestamp::try_from(made).unwrap().strftime("%Y%m%dT%H%M%SZ").to_string();
        let place = self.data().join("snapshots");
        let free = |number: &u32| !place.join(format!("{time}-{number:06x}")).exists();
        let number = (0..1000).find(free).expect("a free number");
        let id = format!("{time}-{number:06x}");
        let directory = place.join(&id);
        fs::create_dir_all(directory.join("files")).unwrap();
        let made_at_ms = u64::try_from(made.duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap();
        let crafted = Crafted { id, directory, next: 1 };
        crafted.line(&json!({
            "schema": 1, "id": crafted.id, "made_at_ms": made_at_ms, "root": self.here(), "why": "a test",
            "command": "the command", "head_before": null, "head_after": null, "fence": 7,
        }));
        crafted
    }

    /// The snapshots, as `repoguard snapshots --json` lists them, the newest first.
    pub(crate) fn snapshots(&self) -> Vec<Value> {
        let output = self.repoguard(["snapshots", "--json"]).assert().success().get_output().clone();
        let document: Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
        document["snapshots"].as_array().expect("an array").clone()
    }

    /// What one of them keeps, as `repoguard snapshots ID --json` tells it.
    pub(crate) fn kept_in(&self, id: &str) -> Value {
        let output = self.repoguard(["snapshots", id, "--json"]).assert().success().get_output().clone();
        serde_json::from_slice(&output.stdout).expect("one JSON document")
    }
}

impl Crafted {
    /// Appends a line to the manifest.
    pub(crate) fn line(&self, line: &Value) {
        let file = fs::OpenOptions::new().create(true).append(true).open(self.directory.join("manifest.jsonl"));
        writeln!(file.unwrap(), "{line}").unwrap();
    }

    /// Notes a path that was moved, and tells where it is to be kept.
    pub(crate) fn moved(&mut self, path: impl Into<Value>) -> PathBuf {
        let file = self.next;
        self.next += 1;
        self.line(&json!({"what": "moved", "file": file, "path": path.into()}));
        self.directory.join("files").join(file.to_string())
    }

    pub(crate) fn file(mut self, path: &str, bytes: &str, mode: u32) -> Self {
        let at = self.moved(path);
        fs::write(&at, bytes).unwrap();
        fs::set_permissions(&at, fs::Permissions::from_mode(mode)).unwrap();
        self
    }

    pub(crate) fn link(mut self, path: &str, target: impl AsRef<Path>) -> Self {
        symlink(target, self.moved(path)).unwrap();
        self
    }

    pub(crate) fn deleted(self, path: &str) -> Self {
        self.line(&json!({"what": "deleted", "path": path}));
        self
    }

    /// Ends it; gives its id.
    pub(crate) fn finished(self) -> String {
        let files = fs::read_dir(self.directory.join("files")).unwrap();
        let bytes: u64 = files.map(|file| fs::symlink_metadata(file.unwrap().path()).unwrap().len()).sum();
        self.line(&json!({"what": "finished", "at_ms": 0, "bytes": bytes}));
        self.id
    }
}
