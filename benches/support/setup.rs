//! Prepares a run: the builds of repoguard, the other programs, and a place to work in.

use std::{
    cell::RefCell,
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use tempfile::TempDir;

use super::{process, repo::Repo, rounds::Dice};

/// One way in which repoguard was built.
pub struct Build {
    /// How the tables call it.
    pub name: String,
    /// The executable.
    pub program: PathBuf,
}

/// Everything that the sections share.
pub struct Setup {
    /// The project's own release build first, then the musl build where there is one.
    pub builds: Vec<Build>,
    /// `flock(1)`, the yardstick.
    pub flock: PathBuf,
    /// Git, as found on `PATH`.
    pub git: PathBuf,
    /// How often each variant is started.
    pub rounds: usize,
    /// The order of starts.
    pub dice: RefCell<Dice>,
    scratch: TempDir,
    notes: Vec<String>,
}

impl Setup {
    /// Builds what is missing and makes the scratch directory, on the same disk as the build.
    ///
    /// # Panics
    /// When `flock` or `git` is not installed: there is nothing to compare with then.
    pub fn prepare() -> Self {
        let plain = PathBuf::from(env!("CARGO_BIN_EXE_repoguard"));
        let linked = if is_dynamic(&plain) { "dynamic" } else { "static" };
        let mut notes = Vec::new();
        let mut builds = vec![Build { name: format!("cargo build --release ({linked})"), program: plain.clone() }];
        match musl_build(&plain) {
            Ok(program) => builds.push(Build { name: "musl (static)".to_owned(), program }),
            Err(why) => notes.push(format!("musl build skipped: {why}")),
        }
        let number = |name: &str| env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        let seed = number("REPOGUARD_BENCH_SEED").unwrap_or_else(|| u64::from(std::process::id()));
        Self {
            builds,
            flock: process::find("flock").expect("flock(1) of util-linux is needed to compare with"),
            git: process::find("git").expect("git is needed to make the repositories"),
            rounds: number("REPOGUARD_BENCH_ROUNDS").and_then(|n| usize::try_from(n).ok()).unwrap_or(300).max(1),
            dice: RefCell::new(Dice::new(seed)),
            scratch: tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the target directory must be writable"),
            notes,
        }
    }

    /// A fresh repository with one commit.
    pub fn repository(&self, name: &str) -> Repo {
        Repo::create(&self.git, self.scratch.path().join(name))
    }

    /// A number that stands for 300 rounds, scaled to the rounds asked for; at least one.
    pub fn scaled(&self, at_300: usize) -> usize {
        (at_300 * self.rounds / 300).max(1)
    }

    /// What the numbers depend on, in one paragraph.
    pub fn describe(&self) -> String {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let mut text = format!(
            "{} rounds, {cores} cores, Linux {}, load {}, {}, {}.\n",
            self.rounds,
            kernel.trim(),
            load.split(' ').next().unwrap_or("unknown"),
            process::first_line(&self.git, "--version"),
            process::first_line(&self.flock, "--version"),
        );
        for note in &self.notes {
            text.push('\n');
            text.push_str(note);
            text.push('\n');
        }
        text
    }
}

/// Tells whether the executable asks for glibc's loader.
fn is_dynamic(program: &Path) -> bool {
    let bytes = fs::read(program).expect("cargo has built the program");
    bytes.windows(8).any(|window| window == b"ld-linux")
}

/// Builds repoguard statically against musl, or tells why it cannot.
fn musl_build(plain: &Path) -> Result<PathBuf, String> {
    let target = format!("{}-unknown-linux-musl", env::consts::ARCH);
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let library = Command::new(rustc)
        .args(["--print", "target-libdir", "--target", &target])
        .stderr(Stdio::null())
        .output()
        .map_err(|error| format!("rustc does not run: {error}"))?;
    if !Path::new(String::from_utf8_lossy(&library.stdout).trim()).is_dir() {
        return Err(format!("target {target} is not installed, `rustup target add {target}` does it"));
    }
    // The plain build lies in `<target directory>/release`.
    let directory = plain.ancestors().nth(2).expect("cargo puts the program two levels below its target directory");
    let built = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--quiet", "--release", "--bin", "repoguard", "--target", &target, "--target-dir"])
        .arg(directory)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::null())
        .status()
        .map_err(|error| format!("cargo does not run: {error}"))?;
    if !built.success() {
        return Err(format!("`cargo build --release --target {target}` failed"));
    }
    Ok(directory.join(target).join("release/repoguard"))
}
