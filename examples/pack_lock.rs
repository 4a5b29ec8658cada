//! A package manager's lock: several of them install packs at once, and each pack is unpacked by one of them.
//!
//! ```sh
//! cargo run --example pack_lock -- packs fonts icons
//! ```
//!
//! Each pack is a directory of its own with a lock of its own (`packs/fonts/.repoguard.lock`): who installs `fonts` does not wait
//! for who installs `icons`. Who comes second finds it done.

#![expect(clippy::disallowed_methods, clippy::print_stdout, clippy::print_stderr, reason = "a program of its own")]

use std::{error::Error, fs, path::Path};

use repoguard::{Lock, Notice};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let root = arguments.next().ok_or("usage: pack_lock DIRECTORY PACK…")?;
    arguments.try_for_each(|pack| install(Path::new(&root), &pack))
}

fn install(root: &Path, pack: &str) -> Result<(), Box<dyn Error>> {
    let directory = root.join(pack);
    fs::create_dir_all(&directory)?;
    let told = pack.to_owned();
    let lock = Lock::of_directory(&directory)?.reason(format!("installing {pack}")).on_notice(move |notice| {
        if let Notice::Waiting(waiting) = notice {
            let (holders, _) = waiting.holders_and_ahead();
            let who = holders.first().map_or("somebody".to_owned(), |holder| format!("pid {}", holder.pid));
            eprintln!("{told}: waiting for {who}");
        }
    });
    let guard = lock.acquire()?;
    let done = directory.join("installed");
    if done.exists() {
        println!("{pack}: there already");
    } else {
        unpack(&directory)?;
        fs::write(&done, "")?;
        println!("{pack}: installed");
    }
    // Says so, should somebody have removed the lock's file meanwhile; a drop would do otherwise.
    guard.release()?;
    Ok(())
}

/// Stands for the work: it would not survive two at once.
fn unpack(directory: &Path) -> Result<(), Box<dyn Error>> {
    let parts = directory.join("parts");
    fs::create_dir(&parts).map_err(|error| format!("somebody else unpacks here: {error}"))?;
    for number in 0..20 {
        fs::write(parts.join(number.to_string()), "content")?;
    }
    fs::rename(&parts, directory.join("content"))?;
    Ok(())
}
