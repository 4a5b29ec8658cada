//! Measures what the hooks cost a `git commit`, beside as many hooks that do nothing.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use super::{
    process,
    repo::Repo,
    rounds::{Timings, Variant, ratio_text},
    setup::Setup,
    table::{Table, Target},
};

/// The hooks of the default set that a commit runs.
const RUN_BY_COMMIT: [&str; 2] = ["pre-commit", "prepare-commit-msg"];

const COMMIT: [&str; 10] = [
    "-c",
    "user.name=Bench",
    "-c",
    "user.email=bench@example.org",
    "-c",
    "gc.auto=0",
    "commit",
    "--quiet",
    "--allow-empty",
    "--message=x",
];

/// Measures commits that wait for nobody, each variant in a repository of its own.
pub fn tables(setup: &Setup) -> Vec<Table> {
    let commit = |name: String, repo: &Repo| Variant::new(name, &repo.root, &setup.git, &COMMIT);
    let noop = setup.repository("hooks-noop");
    write_hooks(&noop, "exit 0");
    let program = setup.repository("hooks-program");
    let nothing = process::find("true").expect("coreutils are there");
    write_hooks(&program, &format!("exec {}", nothing.display()));
    let mut variants = vec![
        commit("two hooks `#!/bin/sh` `exit 0`".to_owned(), &noop),
        commit("no hooks".to_owned(), &setup.repository("hooks-none")),
        commit("two hooks `#!/bin/sh` `exec true`".to_owned(), &program),
    ];
    let first_build = variants.len();
    for (number, build) in setup.builds.iter().enumerate() {
        let repo = setup.repository(&format!("hooks-{number}"));
        install(&build.program, &repo.root);
        variants.push(commit(format!("`repoguard hooks install`, {}", build.name), &repo));
    }
    let timings = Timings::measure(&variants, setup.rounds, &mut setup.dice.borrow_mut());
    let mut table = Table::new(
        "`git commit` with hooks",
        &["hooks", "median, µs", "ratio to as many hooks that do nothing (quartiles)"],
    );
    for (index, variant) in variants.iter().enumerate() {
        let ratio = timings.ratio(index, 0);
        let target = if index >= first_build { Target::at_most(1.3, ratio[1]) } else { Target::none() };
        table.row([variant.name.clone(), format!("{:.0}", timings.median(index)), ratio_text(ratio)], target);
    }
    vec![table]
}

fn write_hooks(repo: &Repo, body: &str) {
    let directory = repo.root.join(".git/hooks");
    fs::create_dir_all(&directory).expect("the scratch directory is writable");
    for name in RUN_BY_COMMIT {
        let hook = directory.join(name);
        fs::write(&hook, format!("#!/bin/sh\n{body}\n")).expect("the scratch directory is writable");
        fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).expect("the hook is ours");
    }
}

fn install(program: &Path, root: &Path) {
    let status = process::command(program).args(["hooks", "install"]).current_dir(root).status();
    assert!(status.expect("repoguard starts").success(), "`repoguard hooks install` failed");
}
