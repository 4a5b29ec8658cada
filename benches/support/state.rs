//! Measures a change of the shared document, beside a program that only locks, reads, parses, writes and renames.
//!
//! That program is this one, started again: `--naive LOCK DOCUMENT SECTION VALUE`, with `--naive-synced` as durable as ours. It
//! keeps neither numbers nor order as they were, and knows nothing of damage, links and modes.

use std::{
    env,
    ffi::OsString,
    fs::{self, File},
    io::Write as _,
    path::Path,
};

use serde_json::{Map, Value};

use super::{
    process,
    rounds::{Timings, Variant, ratio_text},
    setup::Setup,
    table::{Table, Target},
};

/// How many sections the document has that a change is made in.
const SECTIONS: [usize; 3] = [10, 1_000, 10_000];
/// How many change it at once.
const WRITERS: usize = 16;
/// A round with many writers takes as long as many rounds.
const STORMS: usize = 50;

/// Does what the hidden mode asks for; false when it was not asked for.
pub fn run(arguments: &[OsString]) -> bool {
    let [mode, lock, document, section, value] = arguments else { return false };
    let synced = mode == "--naive-synced";
    if !synced && mode != "--naive" {
        return false;
    }
    let text = |word: &OsString| word.to_str().expect("the bench gives text").to_owned();
    change(lock.as_ref(), document.as_ref(), &text(section), &text(value), synced);
    true
}

fn change(lock: &Path, document: &Path, section: &str, value: &str, synced: bool) {
    let lock = File::create(lock).expect("the scratch directory is writable");
    lock.lock().expect("flock works here");
    let old = fs::read(document).expect("the bench has made it");
    let mut sections: Map<String, Value> = serde_json::from_slice(&old).expect("and it is an object");
    sections.insert(section.to_owned(), serde_json::from_str(value).expect("the bench gives JSON"));
    let new = document.with_extension("new");
    let mut file = File::create(&new).expect("the scratch directory is writable");
    file.write_all(&serde_json::to_vec_pretty(&sections).expect("it can be written")).expect("there is room");
    if synced {
        file.sync_all().expect("it can be synced");
    }
    fs::rename(&new, document).expect("it is the same directory");
    if synced {
        // The bench gives a bare name.
        let directory = File::open(".").expect("it can be read");
        directory.sync_all().expect("it can be synced");
    }
}

/// A document with so many small sections.
fn make(document: &Path, count: usize) {
    let section =
        |number: usize| format!("  \"section-{number}\": {{\n    \"a\": {number},\n    \"b\": \"some text\"\n  }}");
    let sections: Vec<String> = (0..count).map(section).collect();
    fs::write(document, format!("{{\n{}\n}}\n", sections.join(",\n"))).expect("the scratch directory is writable");
}

/// Measures one change, as the document grows, and many at once.
pub fn tables(setup: &Setup) -> Vec<Table> {
    let this = env::current_exe().expect("a program knows its path");
    let shell = process::find("sh").expect("a shell is needed to start them");
    let repo = setup.repository("state");
    // Each time another value, or there would be nothing to write.
    let naive = |mode: &str, document: &str| format!("{} {mode} lock {document} own $$", this.display());
    let ours = |program: &Path, document: &str| format!("{} state --file {document} set own $$", program.display());

    let mut one = Table::new(
        "one change of the shared document",
        &["command", "sections", "median, µs", "ratio to the naive program, as durable"],
    );
    for count in SECTIONS {
        let mut variants = Vec::new();
        let mut add = |name: String, line: &dyn Fn(&str) -> String| {
            let document = format!("{count}-{}.json", variants.len());
            make(&repo.root.join(&document), count);
            let line = format!("exec {}", line(&document));
            variants.push(Variant::new(name, &repo.root, &shell, &["-c", &line]));
        };
        add("naive: lock, parse, write, sync, rename, sync".to_owned(), &|document| naive("--naive-synced", document));
        add("the same without sync".to_owned(), &|document| naive("--naive", document));
        for build in &setup.builds {
            add(format!("`repoguard state set`, {}", build.name), &|document| ours(&build.program, document));
        }
        let timings = Timings::measure(&variants, setup.rounds, &mut setup.dice.borrow_mut());
        for (index, variant) in variants.iter().enumerate() {
            let ratio = timings.ratio(index, 0);
            let target = if index < 2 { Target::none() } else { Target::at_most(1.3, ratio[1]) };
            let cells =
                [variant.name.clone(), count.to_string(), format!("{:.0}", timings.median(index)), ratio_text(ratio)];
            one.row(cells, target);
        }
    }

    let mut many = Table::new(
        format!("{WRITERS} changes at once, until the last is done"),
        &["command", "median, ms", "ratio to the naive program, as durable"],
    );
    make(&repo.root.join("many.json"), SECTIONS[0]);
    let storm = |name: String, line: String| {
        let line = format!("i=0; while [ $i -lt {WRITERS} ]; do {line}$i & i=$((i+1)); done; wait");
        Variant::new(name, &repo.root, &shell, &["-c", &line])
    };
    let mut variants = vec![storm("naive, as durable".to_owned(), naive("--naive-synced", "many.json"))];
    for build in &setup.builds {
        variants.push(storm(format!("`repoguard state set`, {}", build.name), ours(&build.program, "many.json")));
    }
    let timings = Timings::measure(&variants, setup.rounds.min(STORMS), &mut setup.dice.borrow_mut());
    for (index, variant) in variants.iter().enumerate() {
        let ratio = timings.ratio(index, 0);
        let target = if index == 0 { Target::none() } else { Target::at_most(1.3, ratio[1]) };
        many.row([variant.name.clone(), format!("{:.1}", timings.median(index) / 1000.0), ratio_text(ratio)], target);
    }
    vec![one, many]
}
