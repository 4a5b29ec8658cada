//! Makes repositories with git, small ones and ones that are large in one respect.

use std::{
    fmt::Write as _,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Stdio,
};

use super::process;

/// A repository in the scratch directory.
pub struct Repo {
    /// Top of the worktree.
    pub root: PathBuf,
    git: PathBuf,
}

impl Repo {
    /// Makes a repository with one empty commit.
    ///
    /// # Panics
    /// When git fails, here as everywhere below: without the repository there is nothing to measure.
    pub fn create(git: &Path, root: PathBuf) -> Self {
        fs::create_dir_all(&root).expect("the scratch directory is writable");
        let repo = Self { root, git: git.to_owned() };
        repo.git(&["init", "--quiet"], "");
        repo.git(&["symbolic-ref", "HEAD", "refs/heads/main"], "");
        repo.git(&["commit", "--quiet", "--allow-empty", "--message", "Start"], "");
        repo
    }

    /// A file in the git directory for `flock(1)` to lock.
    pub fn flock_file(&self) -> PathBuf {
        self.root.join(".git/bench.lock")
    }

    /// A directory that is `depth` levels below the top.
    pub fn deep(&self, depth: usize) -> PathBuf {
        let path = self.root.join(vec!["d"; depth].join("/"));
        fs::create_dir_all(&path).expect("the scratch directory is writable");
        path
    }

    /// Adds branches that point to HEAD, one file each.
    pub fn add_loose_refs(&self, count: usize) {
        let head = self.git(&["rev-parse", "HEAD"], "");
        let mut orders = String::new();
        for number in 0..count {
            writeln!(orders, "create refs/heads/b/{number} {head}").expect("a String takes everything");
        }
        self.git(&["update-ref", "--stdin"], &orders);
    }

    /// Makes branches of one commit each, with one file of their own: `docs/adr/NUMBER-title.md`.
    pub fn add_branches(&self, count: usize) {
        let mut orders = String::new();
        for number in 1..=count {
            let name = format!("docs/adr/{number:04}-title.md");
            writeln!(orders, "commit refs/heads/adr/{number}\ncommitter Bench <bench@example.org> 0 +0000\ndata 0\n")
                .expect("a String takes everything");
            writeln!(orders, "M 100644 inline {name}\ndata 0\n").expect("a String takes everything");
        }
        self.git(&["fast-import", "--quiet"], &orders);
    }

    /// Moves all refs into the file `packed-refs`.
    pub fn pack_refs(&self) {
        self.git(&["pack-refs", "--all"], "");
    }

    /// Adds entries of one empty file to the index, not to the worktree.
    pub fn add_index_entries(&self, count: usize) {
        let blob = self.git(&["hash-object", "-w", "--stdin"], "");
        let mut entries = String::new();
        for number in 0..count {
            writeln!(entries, "100644 {blob}\tsrc/{:03}/{number}", number % 1000).expect("a String takes everything");
        }
        self.git(&["update-index", "--index-info"], &entries);
    }

    /// Lets whoever commits here be somebody, and collects no garbage meanwhile.
    pub fn identify(&self) {
        for (key, value) in [
            ("user.name", "Bench"),
            ("user.email", "bench@example.org"),
            ("gc.auto", "0"),
            ("maintenance.auto", "false"),
        ] {
            self.git(&["config", key, value], "");
        }
    }

    /// Commits `count` small files.
    pub fn add_files(&self, count: usize) {
        for number in 0..count {
            let directory = self.root.join(format!("src/{:02}", number % 50));
            fs::create_dir_all(&directory).expect("the scratch directory is writable");
            fs::write(directory.join(number.to_string()), number.to_string())
                .expect("the scratch directory is writable");
        }
        self.git(&["add", "."], "");
        self.git(&["commit", "--quiet", "--message", "Add files"], "");
    }

    fn git(&self, arguments: &[&str], input: &str) -> String {
        let mut child = process::command(&self.git)
            .current_dir(&self.root)
            .args(["-c", "user.name=Bench", "-c", "user.email=bench@example.org", "-c", "gc.auto=0"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("git was found on PATH");
        // Git writes nothing before it has read all of this, so one cannot block the other.
        child.stdin.take().expect("stdin is piped").write_all(input.as_bytes()).expect("git reads its input");
        let output = child.wait_with_output().expect("git is our child");
        assert!(output.status.success(), "`git {}` failed", arguments.join(" "));
        String::from_utf8(output.stdout).expect("git prints object names").trim().to_owned()
    }
}
