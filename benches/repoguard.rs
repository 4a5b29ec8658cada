//! Measures what repoguard costs, and how fair it is. Prints the tables of `benches/README.md`, as ratios within one
//! run.
//!
//! `cargo bench` prints every section, `cargo bench -- exec growth` the named ones. Linux only: locks and processes
//! are looked at through `/proc`. `REPOGUARD_BENCH_ROUNDS` (300) scales everything, `REPOGUARD_BENCH_SEED` repeats an
//! order of starts.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the tables are this program's output")]
#![expect(unreachable_pub, reason = "`pub` marks what one file offers to the others; a program has no other public")]
#![expect(clippy::disallowed_methods, reason = "a benchmark starts processes and lays out files by itself")]

mod support;

use std::{env, ffi::OsString, process::ExitCode};

use support::{cost, exec, growth, handover, hooks, mutate, next, setup::Setup, stamp, state, status, table::Table};

/// A section's name on the command line, and what measures it.
type Section = (&'static str, fn(&Setup) -> Vec<Table>);

const SECTIONS: &[Section] = &[
    ("exec", exec::tables),
    ("growth", growth::tables),
    ("handover", handover::tables),
    ("cost", cost::tables),
    ("status", status::tables),
    ("hooks", hooks::tables),
    ("mutate", mutate::tables),
    ("next", next::tables),
    ("state", state::tables),
];

fn main() -> ExitCode {
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    // First of all, because this is the command that the measured lock holders run: it must start at once.
    if stamp::run(&arguments) || state::run(&arguments) {
        return ExitCode::SUCCESS;
    }
    // Cargo adds `--bench`.
    let wanted: Vec<&str> =
        arguments.iter().filter_map(|word| word.to_str()).filter(|word| *word != "--bench").collect();
    if let Some(unknown) = wanted.iter().find(|word| SECTIONS.iter().all(|(name, _)| name != *word)) {
        let known: Vec<&str> = SECTIONS.iter().map(|(name, _)| *name).collect();
        eprintln!("unknown section `{unknown}`, known are {}", known.join(", "));
        return ExitCode::from(2);
    }
    let setup = Setup::prepare();
    println!("{}", setup.describe());
    for (name, measure) in SECTIONS {
        if wanted.is_empty() || wanted.contains(name) {
            for table in measure(&setup) {
                println!("{table}");
            }
        }
    }
    ExitCode::SUCCESS
}
