//! Measures whether `exec` gets slower as the repository grows.

use std::path::PathBuf;

use super::{
    rounds::{Timings, Variant, ratio_text},
    setup::Setup,
    table::{Table, Target},
};

/// "Not at all" within what the same command differs from itself in two runs on a noisy machine.
const LIMIT: f64 = 1.05;

/// Measures the same command in repositories that are large in one respect each.
pub fn tables(setup: &Setup) -> Vec<Table> {
    let mut places: Vec<(&str, PathBuf)> = Vec::new();
    let small = setup.repository("small");
    places.push(("small repository", small.root.clone()));
    places.push(("small repository again, for the noise", setup.repository("again").root));
    places.push(("directory 10 levels down", small.deep(10)));
    let loose = setup.repository("loose");
    loose.add_loose_refs(10_000);
    places.push(("10 000 loose refs", loose.root));
    let packed = setup.repository("packed");
    packed.add_loose_refs(10_000);
    packed.pack_refs();
    places.push(("10 000 packed refs", packed.root));
    let index = setup.repository("index");
    index.add_index_entries(100_000);
    places.push(("100 000 index entries", index.root));

    let variants: Vec<Variant> = setup
        .builds
        .iter()
        .flat_map(|build| {
            places.iter().map(|(name, path)| {
                Variant::new(format!("{name}, {}", build.name), path, &build.program, &["exec", "--", "true"])
            })
        })
        .collect();
    let timings = Timings::measure(&variants, setup.rounds, &mut setup.dice.borrow_mut());
    let mut table = Table::new(
        "`exec -- true` as the repository grows",
        &["place and build", "median, µs", "ratio to the small repository (quartiles)"],
    );
    for (number, variant) in variants.iter().enumerate() {
        let base = number - number % places.len();
        let ratio = timings.ratio(number, base);
        let target = if number % places.len() < 2 { Target::none() } else { Target::at_most(LIMIT, ratio[1]) };
        table.row([variant.name.clone(), format!("{:.0}", timings.median(number)), ratio_text(ratio)], target);
    }
    vec![table]
}
