//! An agent's loop: works in this checkout where that is free, else in a worktree of its own, and says where its work is.
//!
//! ```sh
//! cargo run --example agent_loop -- sh -c 'echo work >>notes && git commit -qam work'
//! ```
//!
//! Start several at once: one works here, the others each on a branch of their own, which is kept as long as it holds anything.

#![expect(clippy::print_stdout, reason = "a program of its own")]

use std::{error::Error, path::Path, process::ExitCode, time::Duration};

use repoguard::{Repo, Request, run::Task, worktree::Options};

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let command: Vec<_> = std::env::args_os().skip(1).collect();
    if command.is_empty() {
        return Err("usage: agent_loop CMD [ARG]…".into());
    }
    let repo = Repo::discover(Path::new("."))?;
    let once = Request::new().timeout(Duration::ZERO).reason("agent loop");
    let (outcome, worktree) = repo.exec_in_worktree(&once, &Options::default(), &Task::new(command))?;
    match &worktree {
        None => println!("ran here"),
        Some(worktree) => match &worktree.kept {
            Some(work) => println!("{work} on branch {} in {}", worktree.branch, worktree.path.display()),
            None => println!("left nothing"),
        },
    }
    Ok(ExitCode::from(u8::try_from(outcome.ending.status()).unwrap_or(1)))
}
