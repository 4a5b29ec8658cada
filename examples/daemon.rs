//! A daemon that runs once: the second start is told who runs, and a killed one leaves nothing to clean up.
//!
//! ```sh
//! cargo run --example daemon -- /run/user/1000/example.lock
//! ```
//!
//! There is no pid file to go stale: the lock is the kernel's, and the pid is read from the record beside it, which counts only
//! as long as the lock is held.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program of its own")]

use std::{error::Error, io, process::ExitCode};

use repoguard::Lock;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let path = std::env::args_os().nth(1).ok_or("usage: daemon LOCKFILE")?;
    let lock = Lock::of_file(path)?.reason("example daemon");
    let _running = match lock.try_acquire() {
        Ok(guard) => guard,
        Err(repoguard::Error::Busy { holders, .. }) => {
            match holders.first() {
                Some(holder) => eprintln!("runs already: pid {}, `{}`", holder.pid, holder.command),
                None => eprintln!("runs already"),
            }
            return Ok(ExitCode::FAILURE);
        }
        Err(error) => return Err(error.into()),
    };
    println!("running as pid {}", std::process::id());
    // Stands for the work: it serves until its input ends.
    for line in io::stdin().lines() {
        println!("served {}", line?);
    }
    Ok(ExitCode::SUCCESS)
}
