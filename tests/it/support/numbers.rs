//! `repoguard next`, and the records that it keeps.

use std::fs;
use std::path::PathBuf;

use super::Sandbox;

impl Sandbox {
    /// Runs `repoguard next ARGS`, which must succeed; the lines that it prints.
    #[track_caller]
    pub(crate) fn next(&self, args: &[&str]) -> Vec<String> {
        let output = self.repoguard(["next"]).args(args).assert().success().get_output().clone();
        String::from_utf8(output.stdout).expect("UTF-8").lines().map(str::to_owned).collect()
    }

    /// Runs `repoguard next ARGS`, which must end with this status and print nothing; what it says.
    #[track_caller]
    pub(crate) fn gives_none(&self, args: &[&str], status: i32) -> String {
        let output = self.repoguard(["next"]).args(args).assert().code(status).stdout("").get_output().clone();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!told.trim().is_empty() && !told.contains("panicked"), "{args:?}: {told}");
        told
    }

    /// The records of all sequences of the repository.
    pub(crate) fn sequence_files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.data().join("sequences")).into_iter().flatten();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// The record of the only sequence.
    #[track_caller]
    pub(crate) fn sequence_file(&self) -> PathBuf {
        let mut all = self.sequence_files();
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }
}
