//! What can be seen from outside: the program as users, scripts and other programs meet it.
//!
//! One file a room of behaviour, everything they share in `support`. Each test has a repository of its own, waits for
//! facts and not for time, and leaves no process behind. `REPOGUARD_LONG=1` runs the long variants.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]
#![allow(clippy::disallowed_methods, reason = "tests make and break files, and start whom they test")]

mod acquire;
mod acquire_queue;
mod admission;
mod apart;
mod apart_keep;
mod apart_kill;
mod config;
mod cycles;
mod death;
mod doctor;
mod exec_basics;
mod exec_pass_through;
mod fleet;
mod flock_compat;
mod help;
mod hooks_busy;
mod hooks_fleet;
mod hooks_forms;
mod hooks_hold;
mod hooks_inside;
mod hooks_install;
mod hooks_managers;
mod hooks_server;
mod hooks_status;
mod hooks_unfinished;
mod hooks_wait;
mod hostile;
mod hostile_places;
mod layers;
mod library;
mod library_async;
mod library_cancel;
mod library_examples;
mod library_helper;
mod library_inside;
mod library_paths;
mod log;
mod mutate;
mod mutate_crash;
mod mutate_dirty;
mod mutate_faults;
mod mutate_fence;
mod mutate_fleet;
mod mutate_foreign;
mod mutate_head;
mod mutate_hooks;
mod mutate_interrupt;
mod mutate_meanwhile;
mod mutate_nested;
mod mutate_rollback;
mod mutate_traces;
mod mutate_validate;
mod mutate_wrecks;
mod next;
mod next_crash;
mod next_fleet;
mod next_record;
mod next_scan;
mod next_trees;
mod passing;
mod recover;
mod recover_choices;
mod recover_damage;
mod reentrancy;
mod restore;
mod scopes;
mod signals;
mod snapshots;
mod state;
mod state_bad;
mod state_digest;
mod state_fleet;
mod status;
mod status_mutation;
mod support;
mod terminal;
mod torture;
mod users;
mod waiting;
mod worktrees;
