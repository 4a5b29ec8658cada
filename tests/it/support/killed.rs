//! Mutations that were killed with all their processes at a known point.

use rustix::process::Signal;

use super::{RepoState, Running, Sandbox, eventually, process_group};

/// What the command did before it was killed: changes of every kind.
pub(crate) const WORK: &str = "echo x >>file; rm -r d; echo n >new; git add new; chmod +x other/o";

/// Where a mutation was when it was killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum At {
    /// Its command had done all its work, and still ran.
    Command,
    /// Its command had ended.
    Verify,
    /// Git had committed, and its post-commit hook ran.
    Committed,
}

impl Sandbox {
    /// Starts a mutation with these options and command, and returns when it waits there.
    #[track_caller]
    pub(crate) fn mutation_at(&self, at: At, options: &[&str], script: &str) -> Running {
        let gate = self.gate("killed");
        let waits = gate.script();
        let in_command = format!("{script}; {waits}");
        let mut options = options.to_vec();
        if at == At::Verify {
            options.extend(["--verify", &waits]);
        }
        if at == At::Committed {
            self.own_hook("post-commit", &waits);
        }
        let mut running =
            self.start(self.mutate_command(&options, if at == At::Command { &in_command } else { script }));
        gate.reached_by(&mut running);
        running
    }

    /// Kills a mutation with all its processes there.
    #[track_caller]
    pub(crate) fn killed_at(&self, at: At, options: &[&str], script: &str) {
        let mut running = self.mutation_at(at, options, script);
        running.signal_group(Signal::KILL);
        running.ended();
        eventually("all are gone", || process_group(running.pid()).is_empty());
        for name in ["killed.here", "killed.closed"] {
            std::fs::remove_file(self.outside(name)).unwrap();
        }
        std::fs::remove_file(self.path(".git/hooks/post-commit")).ok();
    }

    /// How far the unfinished mutation had come, as `recover --status --json` tells.
    #[track_caller]
    pub(crate) fn unfinished(&self) -> serde_json::Value {
        let output = self.repoguard(["recover", "--status", "--json"]).output().unwrap();
        let document: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
        assert_eq!(output.status.code(), Some(i32::from(!document["unfinished"].is_null())), "{document}");
        document["unfinished"].clone()
    }
}

/// Asserts that all is as it was, but for the reference that kept what the mutation needed: that one is gone.
#[track_caller]
pub(crate) fn same_but_for_ours(was: &RepoState, now: &RepoState, told: &str) {
    let difference = was.difference(now).unwrap_or_default();
    let mut others = difference.lines().filter(|line| !line.starts_with("  "));
    assert!(others.all(|line| line == "ref refs/worktree/repoguard"), "not as it was:\n{difference}after: {told}");
}
