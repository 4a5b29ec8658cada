//! Keeps records on disk beside the lock, which are reported and never trusted for exclusion, and the shared document.

pub(crate) mod audit;
pub(crate) mod document;
mod expiry;
pub(crate) mod kept;
pub(crate) mod last;
mod manifest;
mod place;
pub(crate) mod sequence;
pub(crate) mod snapshots;
pub(crate) mod state;
pub(crate) mod violations;
pub(crate) mod worktrees;
