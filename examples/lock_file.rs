//! A lock file that several tools share, each with a section of its own: what one resolves never loses what another has.
//!
//! ```sh
//! cargo run --example lock_file -- deps.lock npm left-pad=1.3.0 is-odd=3.0.1
//! cargo run --example lock_file -- deps.lock cargo serde=1.0.229
//! ```
//!
//! The sections of others stay byte for byte as they have written them.

#![expect(clippy::print_stdout, reason = "a program of its own")]

use std::{collections::BTreeMap, error::Error, path::Path};

use repoguard::{Config, Repo, state::StateFile};

fn main() -> Result<(), Box<dyn Error>> {
    const USAGE: &str = "usage: lock_file FILE TOOL [NAME=VERSION…]";
    let mut arguments = std::env::args().skip(1);
    let (file, tool) = arguments.next().zip(arguments.next()).ok_or(USAGE)?;
    let resolved: Option<BTreeMap<String, String>> = arguments
        .map(|pair| pair.split_once('=').map(|(name, version)| (name.to_owned(), version.to_owned())))
        .collect();

    let repo = Repo::discover(Path::new("."))?;
    let lock_file = StateFile::at(&repo, &Config::load(&repo)?, Path::new(&file))?;
    // Both in one step: nobody sees the one without the other.
    lock_file.stage(&tool, &resolved.ok_or(USAGE)?)?;
    lock_file.stage_member("resolved_by", &tool, &std::process::id())?;
    println!("{}", if lock_file.flush()? { "written" } else { "nothing changed" });
    Ok(())
}
