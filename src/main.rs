//! The program: everything is in `cli`, and `cli` uses only the public library.

mod cli;

/// musl's own allocator asks the system for every few objects, which costs a third of the start-up.
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> std::process::ExitCode {
    cli::main()
}
