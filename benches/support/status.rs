//! Measures `repoguard status` beside git's own questions.

use super::{
    rounds::{Timings, Variant, ratio_text},
    setup::Setup,
    table::{Table, Target},
};

/// Measures in a repository with a thousand files.
pub fn tables(setup: &Setup) -> Vec<Table> {
    let repo = setup.repository("status");
    repo.add_files(1000);
    let root = &repo.root;
    let mut variants = vec![
        Variant::new("`git rev-parse --git-dir`", root, &setup.git, &["rev-parse", "--git-dir"]),
        Variant::new("`git status`", root, &setup.git, &["status"]),
    ];
    for build in &setup.builds {
        let name = format!("`repoguard status`, {}", build.name);
        variants.push(Variant::new(name, root, &build.program, &["status"]));
    }
    let timings = Timings::measure(&variants, setup.rounds, &mut setup.dice.borrow_mut());
    let mut table = Table::new(
        "`status` in a repository with 1 000 files",
        &["command", "median, µs", "ratio to `git rev-parse --git-dir`", "ratio to `git status`"],
    );
    for (index, variant) in variants.iter().enumerate() {
        let ratios = [0, 1].map(|base| ratio_text(timings.ratio(index, base)));
        let cells = [variant.name.clone(), format!("{:.0}", timings.median(index))].into_iter().chain(ratios);
        table.row(cells, Target::none());
    }
    vec![table]
}
