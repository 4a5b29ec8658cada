//! Measures a number that is never given twice, beside a counter as it is usually written in shell.

use super::{
    repo::Repo,
    rounds::{Timings, Variant, ratio_text},
    setup::Setup,
    table::{Table, Target},
};

/// How many branches there are.
const BRANCHES: usize = 1000;
/// Each round starts git once for each branch.
const ROUNDS: usize = 15;
/// A counter under `flock(1)`: forgotten by a power loss, and empty when it is killed at the wrong moment.
const COUNTER: &str = "read -r n <.git/counter; n=$((n+1)); echo $n >.git/counter";
/// The same, on disk before it is printed.
const DURABLE: &str = "read -r n <.git/counter; n=$((n+1)); echo $n >.git/new; sync .git/new; mv .git/new .git/counter; \
                       sync .git/; echo $n";
/// The greatest number on any branch.
const LOOK: &str = "for branch in $(git for-each-ref --format='%(refname)'); do git ls-tree --name-only $branch docs/adr/; \
                    done | sed -n 's,^docs/adr/0*\\([0-9][0-9]*\\)-.*\\.md$,\\1,p' | sort -n | tail -n 1";
const SCAN: [&str; 5] = ["-q", "next", "adr", "--scan", "docs/adr/{}-*.md"];

/// Measures one number, without and with a look at all branches.
pub fn tables(setup: &Setup) -> Vec<Table> {
    vec![alone(setup), among_branches(setup)]
}

fn counter(setup: &Setup, name: &str, repo: &Repo, script: &str) -> Variant {
    std::fs::write(repo.root.join(".git/counter"), "0\n").expect("the scratch directory is writable");
    Variant::new(name, &repo.root, &setup.flock, &[".git/lock", "sh", "-c", script])
}

fn alone(setup: &Setup) -> Table {
    let (naive, durable) = (setup.repository("next-naive"), setup.repository("next-durable"));
    let mut variants = vec![
        counter(setup, "counter in shell under `flock(1)`, durable", &durable, DURABLE),
        counter(setup, "the same, not durable", &naive, &format!("{COUNTER}; echo $n")),
    ];
    let repositories: Vec<Repo> =
        (0..setup.builds.len()).map(|number| setup.repository(&format!("next-{number}"))).collect();
    for (build, repo) in setup.builds.iter().zip(&repositories) {
        let name = format!("`repoguard next`, {}", build.name);
        variants.push(Variant::new(name, &repo.root, &build.program, &["next", "adr"]));
    }
    let timings = Timings::measure(&variants, setup.rounds, &mut setup.dice.borrow_mut());
    let columns = ["command", "median, µs", "ratio to the durable counter (quartiles)"];
    let mut table = Table::new("The next number of a sequence", &columns);
    for (index, variant) in variants.iter().enumerate() {
        let ratio = timings.ratio(index, 0);
        let target = if index < 2 { Target::none() } else { Target::at_most(1.0, ratio[1]) };
        table.row([variant.name.clone(), format!("{:.0}", timings.median(index)), ratio_text(ratio)], target);
    }
    table
}

fn among_branches(setup: &Setup) -> Table {
    let naive = setup.repository("next-look");
    naive.add_branches(BRANCHES);
    let script = format!("{COUNTER}; {LOOK}");
    let mut variants = vec![counter(setup, "counter in shell, `git ls-tree` for each branch", &naive, &script)];
    let (few, same, different) =
        (setup.repository("next-few"), setup.repository("next-same"), setup.repository("next-different"));
    same.add_loose_refs(BRANCHES);
    different.add_branches(BRANCHES);
    for build in &setup.builds {
        for (what, repo) in [("one branch", &few), ("1 000 branches, one tree", &same), ("1 000 branches", &different)]
        {
            let name = format!("`repoguard next --scan`, {what}, {}", build.name);
            variants.push(Variant::new(name, &repo.root, &build.program, &SCAN));
        }
    }
    let timings = Timings::measure(&variants, setup.rounds.min(ROUNDS), &mut setup.dice.borrow_mut());
    let columns = ["command", "median, ms", "ratio to the counter in shell"];
    let mut table = Table::new("The next number, greater than all on 1 000 branches", &columns);
    for (index, variant) in variants.iter().enumerate() {
        let ratio = timings.ratio(index, 0);
        let target = if index == 0 { Target::none() } else { Target::at_most(0.1, ratio[1]) };
        let cells = [variant.name.clone(), format!("{:.1}", timings.median(index) / 1000.0), ratio_text(ratio)];
        table.row(cells, target);
    }
    table
}
