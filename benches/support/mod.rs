//! The parts of the benchmark: what is measured (one file a section), and what measuring needs.

pub mod cost;
pub mod exec;
pub mod growth;
pub mod handover;
pub mod hooks;
pub mod mutate;
pub mod next;
pub mod process;
pub mod repo;
pub mod rounds;
pub mod setup;
pub mod stamp;
pub mod state;
pub mod status;
pub mod storm;
pub mod table;
