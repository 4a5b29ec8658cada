//! An allocator of ids: decision records get numbers that nobody else has, in no worktree and on no branch.
//!
//! ```sh
//! cargo run --example allocator -- 'use a queue' 'drop the cache'
//! ```
//!
//! The number is on disk as given before the file is made. Who is killed in between leaves a gap, never a number for two.

#![expect(clippy::disallowed_methods, clippy::print_stdout, reason = "a program of its own")]

use std::{error::Error, fs, num::NonZeroU64, path::Path};

use repoguard::{
    Config, Repo,
    sequence::{Sequence, SequenceOptions},
};

fn main() -> Result<(), Box<dyn Error>> {
    let titles: Vec<String> = std::env::args().skip(1).collect();
    let count = NonZeroU64::new(titles.len() as u64).ok_or("usage: allocator TITLE…")?;
    let repo = Repo::discover(Path::new("."))?;
    let sequence = Sequence::open(&repo, &Config::load(&repo)?, "adr")?;
    // Records that were numbered by hand, or came from another clone, count as well.
    let options = SequenceOptions::default().count(count).scan("docs/adr/{}-*.md".parse()?);
    let given = sequence.next(&options)?;

    let directory = repo.root().join("docs/adr");
    fs::create_dir_all(&directory)?;
    for (number, title) in given.numbers.zip(&titles) {
        let name = format!("{number:04}-{}.md", title.replace(|letter: char| !letter.is_alphanumeric(), "-"));
        // Fails where there is one: that would be somebody's work.
        fs::File::create_new(directory.join(&name))?;
        println!("docs/adr/{name}");
    }
    Ok(())
}
