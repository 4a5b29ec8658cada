//! Measures `repoguard exec -- true` beside `flock FILE true`.

use super::{
    process,
    rounds::{Timings, Variant, ratio_text},
    setup::Setup,
    table::{Table, Target},
};

/// Targets by build: dynamic or glibc as the project builds itself, and static against musl.
const LIMITS: [f64; 2] = [1.25, 0.85];

/// Measures the uncontended case.
pub fn tables(setup: &Setup) -> Vec<Table> {
    let repo = setup.repository("exec");
    let root = &repo.root;
    let file = repo.flock_file().display().to_string();
    let mut variants = vec![
        Variant::new("`flock FILE true`", root, &setup.flock, &[&file, "true"]),
        Variant::new("`true` alone", root, &process::find("true").expect("coreutils are there"), &[]),
    ];
    let first_build = variants.len();
    for build in &setup.builds {
        let name = format!("`repoguard exec -- true`, {}", build.name);
        variants.push(Variant::new(name, root, &build.program, &["exec", "--", "true"]));
    }
    let timings = Timings::measure(&variants, setup.rounds, &mut setup.dice.borrow_mut());
    let mut table = Table::new(
        "`exec` against `flock(1)`, uncontended",
        &["command", "median, µs", "ratio to `flock FILE true` (quartiles)"],
    );
    for (index, variant) in variants.iter().enumerate() {
        let ratio = timings.ratio(index, 0);
        let target = match index.checked_sub(first_build) {
            Some(build) => Target::at_most(LIMITS[build], ratio[1]),
            None => Target::none(),
        };
        table.row([variant.name.clone(), format!("{:.0}", timings.median(index)), ratio_text(ratio)], target);
    }
    vec![table]
}
