//! Measures `repoguard mutate` beside the same change by hand: with many files, with few, and with much that git does
//! not know.

use std::fs;

use super::{
    process,
    repo::Repo,
    rounds::{Timings, Variant, ratio_text},
    setup::Setup,
    table::{Table, Target},
};

/// A situation: what it is called, how it is made, what is done by hand, in how many rounds, and the target.
struct Situation {
    title: &'static str,
    name: &'static str,
    furnish: fn(&Repo),
    by_hand: (&'static str, &'static str),
    rounds: usize,
    target: f64,
}

/// By hand: look, change, add, commit.
const PLAIN: (&str, &str) = (
    "`git status`, change, `git add`, `git commit`",
    "git status >/dev/null && echo x >>changed && git add changed && git commit -qm change",
);

const SITUATIONS: [Situation; 4] = [
    Situation {
        title: "A small change in a clean repository with 100 000 files",
        name: "mutate-large",
        furnish: |repo| repo.add_files(100_000),
        by_hand: PLAIN,
        rounds: 15,
        target: 1.25,
    },
    Situation {
        title: "A small change in a clean repository with 100 files",
        name: "mutate-small",
        furnish: |repo| repo.add_files(100),
        by_hand: PLAIN,
        rounds: 100,
        target: 1.7,
    },
    Situation {
        title: "A small change beside 20 000 small untracked files",
        name: "mutate-untracked",
        furnish: |repo| {
            for directory in 0..200 {
                let directory = repo.root.join(format!("untracked/{directory}"));
                fs::create_dir_all(&directory).expect("the scratch directory is writable");
                for file in 0..100 {
                    fs::write(directory.join(file.to_string()), format!("{file}\n"))
                        .expect("the scratch directory is writable");
                }
            }
        },
        by_hand: (
            "`git add` of these files into an index and an object database of their own",
            "rm -rf .git/o .git/i && mkdir .git/o && GIT_OBJECT_DIRECTORY=.git/o GIT_INDEX_FILE=.git/i git add untracked",
        ),
        rounds: 9,
        target: 3.0,
    },
    Situation {
        title: "A small change beside an untracked file of 600 MiB",
        name: "mutate-big",
        furnish: |repo| {
            let file = fs::File::create(repo.root.join("big")).expect("the scratch directory is writable");
            let zeros = vec![0; 1 << 20];
            for _ in 0..600 {
                std::io::Write::write_all(&mut &file, &zeros).expect("there is room");
            }
        },
        by_hand: ("a copy of it, synced", "cp --reflink=never big .git/copy && sync .git/copy && rm .git/copy"),
        rounds: 5,
        target: 1.0,
    },
];

/// Measures one small change in each situation.
pub fn tables(setup: &Setup) -> Vec<Table> {
    SITUATIONS.iter().map(|situation| table(setup, situation)).collect()
}

fn table(setup: &Setup, situation: &Situation) -> Table {
    let (name, script) = situation.by_hand;
    let repository = |number: usize| {
        let repo = setup.repository(&format!("{}-{number}", situation.name));
        (situation.furnish)(&repo);
        repo.identify();
        repo
    };
    let shell = process::find("sh").expect("a shell is needed to make the change");
    let plain = repository(0);
    let mut variants = vec![Variant::new(name, &plain.root, &shell, &["-c", script])];
    let mut repositories = vec![plain];
    for (number, build) in setup.builds.iter().enumerate() {
        let repo = repository(number + 1);
        let name = format!("`repoguard mutate`, {}", build.name);
        let arguments = ["-q", "mutate", "-m", "change", "--", "sh", "-c", "echo x >>changed"];
        variants.push(Variant::new(name, &repo.root, &build.program, &arguments));
        repositories.push(repo);
    }
    let rounds = setup.rounds.min(situation.rounds);
    let timings = Timings::measure(&variants, rounds, &mut setup.dice.borrow_mut());
    let mut table = Table::new(situation.title, &["command", "median, ms", "ratio to the first (quartiles)"]);
    for (index, variant) in variants.iter().enumerate() {
        let ratio = timings.ratio(index, 0);
        let target = if index == 0 { Target::none() } else { Target::at_most(situation.target, ratio[1]) };
        let cells = [variant.name.clone(), format!("{:.1}", timings.median(index) / 1000.0), ratio_text(ratio)];
        table.row(cells, target);
    }
    table
}
