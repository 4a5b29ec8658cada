//! An agent's loop: works in this checkout where that is free, else in a worktree of its own, and says where its work is.
//!
//! ```sh
//! cargo run --example agent_loop -- sh -c 'echo work >>notes && git commit -qam work'
//! ```
//!
//! Start several at once: one works here, the others each on a branch of their own, which is kept as long as it holds anything.

#![expect(clippy::print_stdout, reason = "a program of its own, not a room of this house")]

use std::{error::Error, path::Path, process::ExitCode, time::Duration};

use repoguard::{Config, Repo, Request, run::Task, worktree::Place};

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let command: Vec<_> = std::env::args_os().skip(1).collect();
    if command.is_empty() {
        return Err("usage: agent_loop CMD [ARG]…".into());
    }
    let repo = Repo::discover(Path::new("."))?;
    let config = Config::load(&repo)?;
    let (task, place) = (Task::new(command), Place::default());
    let once = Request {
        timeout: Some(Duration::ZERO),
        reason: Some("agent loop".to_owned()),
        command: "agent_loop".to_owned(),
        ..Request::default()
    };
    place.check(&repo)?;
    let outcome = match repoguard::run::exec(&repo, &config, &once, &task, &mut |_| {}) {
        Err(repoguard::Error::Busy { .. }) => {
            let (outcome, apart) = repoguard::worktree::exec_apart(&repo, &config, &once, &place, &task, &mut |_| {})?;
            match &apart.kept {
                Some(work) => println!("{work} on branch {} in {}", apart.branch, apart.path.display()),
                None => println!("left nothing"),
            }
            outcome
        }
        outcome => {
            println!("ran here");
            outcome?
        }
    };
    Ok(ExitCode::from(u8::try_from(outcome.ending.status()).unwrap_or(1)))
}
