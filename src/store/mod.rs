//! What is kept on disk beside the lock? Records that are told of, never trusted for exclusion.

pub(crate) mod audit;
pub(crate) mod last;
pub(crate) mod violations;
