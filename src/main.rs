//! The program: everything is in `cli`, and `cli` uses only the public library.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
