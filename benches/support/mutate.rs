//! What does `repoguard mutate` cost beside the same change by hand, where looking at files is what takes the time?

use super::{
    process,
    rounds::{Timings, Variant, ratio_text},
    setup::Setup,
    table::{Table, Target},
};

/// How many files there are.
const FILES: usize = 100_000;
/// Each round makes two commits in a large repository.
const ROUNDS: usize = 15;
/// By hand: look, change, add, commit.
const PLAIN: &str = "git status >/dev/null && echo x >>changed && git add changed && git commit -qm change";

/// Measures one small change in a clean repository with many files.
pub fn tables(setup: &Setup) -> Vec<Table> {
    let mut variants = Vec::new();
    let plain = setup.repository("mutate-plain");
    plain.add_files(FILES);
    plain.identify();
    let shell = process::find("sh").expect("a shell is needed to make the change");
    variants.push(Variant::new("`git status`, change, `git add`, `git commit`", &plain.root, &shell, &["-c", PLAIN]));
    let mut repositories = Vec::new();
    for (number, build) in setup.builds.iter().enumerate() {
        let repo = setup.repository(&format!("mutate-{number}"));
        repo.add_files(FILES);
        repo.identify();
        let name = format!("`repoguard mutate`, {}", build.name);
        let arguments = ["-q", "mutate", "-m", "change", "--", "sh", "-c", "echo x >>changed"];
        variants.push(Variant::new(name, &repo.root, &build.program, &arguments));
        repositories.push(repo);
    }
    let timings = Timings::measure(&variants, setup.rounds.min(ROUNDS), &mut setup.dice.borrow_mut());
    let mut table = Table::new(
        "A small change in a clean repository with 100 000 files",
        &["command", "median, ms", "ratio to the change by hand"],
    );
    for (index, variant) in variants.iter().enumerate() {
        let ratio = timings.ratio(index, 0);
        let target = if index == 0 { Target::none() } else { Target::at_most(1.3, ratio[1]) };
        let cells = [variant.name.clone(), format!("{:.0}", timings.median(index) / 1000.0), ratio_text(ratio)];
        table.row(cells, target);
    }
    vec![table]
}
