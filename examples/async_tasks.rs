//! Many tasks, one checkout: each commits under the lock, none blocks a thread, and a Ctrl-C style cancel leaves nothing behind.
//!
//! ```sh
//! cargo run --example async_tasks --features tokio -- . 8
//! ```
//!
//! Tasks of this program are served in the order in which they asked; between programs the queue of the repository decides.

#![expect(clippy::disallowed_methods, clippy::print_stdout, reason = "a program of its own")]

use std::{error::Error, path::Path, process::Command, time::Duration};

use repoguard::{Lock, Repo, Request};
use tokio::{task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().ok_or("usage: async_tasks CHECKOUT TASKS")?;
    let tasks: usize = arguments.next().as_deref().unwrap_or("4").parse()?;
    let repo = Repo::discover(Path::new(&directory))?;
    let lock = repo.lock(Request::new().reason("a task's commit"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let cancel = CancellationToken::new();
        let mut running = JoinSet::new();
        for number in 0..tasks {
            running.spawn(commit(lock.clone(), repo.root().to_owned(), number, cancel.clone()));
        }
        // One more that does not wait for its turn.
        let impatient = CancellationToken::new();
        let gives_up = lock.clone();
        let token = impatient.clone();
        running.spawn(async move {
            gives_up.acquire_cancellable(token.cancelled()).await.map(drop).map_err(|e| e.to_string())
        });
        sleep(Duration::from_millis(1)).await;
        impatient.cancel();
        while let Some(done) = running.join_next().await {
            if let Err(error) = done? {
                println!("{error}");
            }
        }
        Ok(())
    })
}

async fn commit(lock: Lock, root: std::path::PathBuf, number: usize, cancel: CancellationToken) -> Result<(), String> {
    let guard = lock.acquire_cancellable(cancel.cancelled()).await.map_err(|error| error.to_string())?;
    let environment = guard.environment();
    // Git takes some milliseconds, and does not belong on the runtime's threads.
    let committed = tokio::task::spawn_blocking(move || {
        let message = format!("task {number}");
        let mut git = Command::new("git");
        git.current_dir(root).envs(environment).args(["commit", "-q", "--allow-empty", "-m", &message]).status()
    });
    let status = committed.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    guard.release().map_err(|error| error.to_string())?;
    println!("task {number}: {status}");
    Ok(())
}
