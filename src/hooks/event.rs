//! Lists those of git's hooks that take part.

/// A hook that can take the lock. See githooks(5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Event {
    /// Before a commit is made; not with `--no-verify`.
    PreCommit,
    /// Before a message is edited: also with `--no-verify`, and for merge, cherry-pick, revert and rebase steps.
    PrepareCommitMsg,
    /// Before a rebase.
    PreRebase,
    /// Before `git am` applies a patch.
    ApplypatchMsg,
    /// After a checkout: too late to fail it.
    PostCheckout,
    /// Before a push is taken in; on the receiving side.
    PreReceive,
    /// Before references change: everything that moves one. Slow; only with `--strict`.
    ReferenceTransaction,
}

impl Event {
    /// All of them, in the order they are shown.
    pub const ALL: [Self; 7] = [
        Self::PreCommit,
        Self::PrepareCommitMsg,
        Self::PreRebase,
        Self::ApplypatchMsg,
        Self::PostCheckout,
        Self::PreReceive,
        Self::ReferenceTransaction,
    ];

    /// Git's name of the hook, which is the name of its file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::PreCommit => "pre-commit",
            Self::PrepareCommitMsg => "prepare-commit-msg",
            Self::PreRebase => "pre-rebase",
            Self::ApplypatchMsg => "applypatch-msg",
            Self::PostCheckout => "post-checkout",
            Self::PreReceive => "pre-receive",
            Self::ReferenceTransaction => "reference-transaction",
        }
    }

    /// The hook of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|event| event.name() == name)
    }
}
