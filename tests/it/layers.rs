//! The shape of the code: who may import whom, which module may use what, and how each file opens.

use std::fs;
use std::path::{Path, PathBuf};

/// The modules, from the top down: each may use itself and those below it. Modules of one row are siblings and may not
/// use each other.
const MODULES: [&[&str]; 13] = [
    &["cli"],
    &["doctor"],
    &["hooks"],
    &["guard"],
    &["exec", "transaction"],
    &["watcher"],
    &["store"],
    &["lock", "repo"],
    &["fs"],
    &["sys"],
    &["error"],
    &["holder", "env", "escape"],
    // For tests of all above.
    &["garbage"],
];

fn level(module: &str) -> usize {
    let place = MODULES.iter().position(|row| row.contains(&module));
    place.unwrap_or_else(|| panic!("`{module}` is in no row of the table"))
}

fn may_use(module: &str, other: &str) -> bool {
    module == other || level(other) > level(module)
}

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// A file of the source: its path below `src`, and its text.
pub(crate) struct Source {
    pub(crate) path: String,
    text: String,
}

impl Source {
    /// The module it is in: the first part of its path.
    fn module(&self) -> &str {
        let first = self.path.split('/').next().expect("a first part");
        first.trim_end_matches(".rs")
    }

    /// The lines that are code, with their numbers; comments and what follows `//` in a line are left out.
    pub(crate) fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let numbered = self.text.lines().enumerate().map(|(index, line)| (index + 1, line));
        numbered.map(|(number, line)| (number, line.split("//").next().unwrap_or_default()))
    }

    /// Where code holds one of these texts, as `path:line: text`.
    fn places(&self, texts: &[&str]) -> Vec<String> {
        let lines = self.code().filter(|(_, line)| texts.iter().any(|text| line.contains(text)));
        lines.map(|(number, line)| format!("{}:{number}: {}", self.path, line.trim())).collect()
    }

    /// The modules that its code names after `crate::`, with the line of each.
    fn imports(&self) -> Vec<(usize, String)> {
        let mut found = Vec::new();
        let code: String = self.code().flat_map(|(_, line)| [line, "\n"]).collect();
        for (start, prefix) in code.match_indices("crate::") {
            let number = code[..start].lines().count();
            let names = first_names(&code[start + prefix.len()..]);
            found.extend(names.into_iter().map(|name| (number, name)));
        }
        found
    }
}

/// The first names of a path or of a group of paths: `a::b` gives `a`, `{a, b::{c, d}}` gives `a` and `b`.
fn first_names(path: &str) -> Vec<String> {
    let name =
        |text: &str| -> String { text.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect() };
    let Some(group) = path.strip_prefix('{') else { return vec![name(path)] };
    let (mut depth, mut names, mut begin) = (0, Vec::new(), 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                names.push(name(&group[begin..at]));
                begin = at + 1;
            }
            _ => {}
        }
        if c == '}' && depth == 0 && begin == at + 1 {
            break;
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

pub(crate) fn sources() -> Vec<Source> {
    let root = source();
    let files = crate::support::walk(&root).into_iter().filter(|path| path.extension().is_some_and(|end| end == "rs"));
    let sources: Vec<Source> = files
        .map(|path| Source {
            text: fs::read_to_string(&path).expect("source"),
            path: path.strip_prefix(&root).expect("below src").to_string_lossy().into_owned(),
        })
        .collect();
    assert!(sources.len() > 10, "the scan found the source");
    sources
}

/// Where any file outside of these places holds one of these texts.
fn outside(doors: &[&str], texts: &[&str]) -> Vec<String> {
    let others = sources().into_iter().filter(|file| !doors.iter().any(|door| file.path.starts_with(door)));
    others.flat_map(|file| file.places(texts)).collect()
}

pub(crate) const NOWHERE: [&str; 0] = [];

#[test]
fn imports_go_down_only() {
    let mut wrong = Vec::new();
    for file in sources().iter().filter(|file| !["lib", "main"].contains(&file.module())) {
        for (number, name) in file.imports() {
            if ["Error", "Result"].contains(&name.as_str()) {
                // The lowest module under its short name.
                continue;
            }
            if name.starts_with(char::is_uppercase) {
                wrong.push(format!("{}:{number}: `crate::{name}` hides its module", file.path));
            } else if !name.is_empty() && !may_use(file.module(), &name) {
                wrong.push(format!("{}:{number}: `{}` may not use `{name}`", file.path, file.module()));
            }
        }
    }
    assert_eq!(wrong, NOWHERE);
}

#[test]
fn table_itself_forbids_and_allows() {
    assert!(may_use("guard", "lock") && may_use("exec", "exec") && may_use("error", "holder"));
    assert!(!may_use("lock", "guard") && !may_use("exec", "hooks") && !may_use("sys", "fs"));
    assert_eq!(first_names("lock::Held;"), ["lock"]);
    assert_eq!(first_names("{\n    lock::{self, Held},\n    repo::Repo,\n};\nuse x::{y, z};"), ["lock", "repo"]);
}

#[test]
fn command_line_uses_the_public_library_only() {
    let lines: Vec<String> = sources()
        .iter()
        .filter(|file| file.module() == "cli" || file.module() == "main")
        .flat_map(|file| file.imports().into_iter().map(|(number, name)| format!("{}:{number}: {name}", file.path)))
        .filter(|line| !line.ends_with(": cli"))
        .collect();
    assert_eq!(lines, NOWHERE);
}

#[test]
fn root_of_the_library_has_few_names() {
    let root = fs::read_to_string(source().join("lib.rs")).unwrap();
    let public = |line: &&str| line.starts_with("pub ") && !line.contains(" mod program ");
    let names = |line: &str| match line.split_once("::{") {
        Some((_, list)) => list.split(',').count(),
        None => 1,
    };
    let count: usize = root.lines().filter(public).map(names).sum();
    assert!((20..=40).contains(&count), "{count} names");
    assert!(
        !root.lines().filter(public).any(|line| line.ends_with('{') && line.contains("use ")),
        "a list of many lines"
    );
}

#[test]
fn each_dependency_is_used_in_its_module_only() {
    let doors: [(&[&str], &[&str]); 15] = [
        // Every hold begins by an admission.
        (&["guard/admission.rs"], &["Hold::enter("]),
        // These hold for a look, a recovery or a worktree of their own.
        (&["guard/admission.rs", "guard/recovery.rs", "guard/worktree/", "doctor/leftovers.rs"], &["lock::acquire("]),
        // A repository becomes a plan in one place.
        (&["guard/plan.rs", "lock/"], &["Domain {"]),
        // Waiting is a schedule. (The command line waits for the next look of `status --watch`; one is a test.)
        (&["sys/retry.rs", "cli/status.rs", "sys/helper/tests.rs"], &["thread::sleep("]),
        // They panic if the system gives no more threads. (Those are tests.)
        (&["lock/local_ticket/", "sys/helper/"], &["scope.spawn(", "thread::spawn("]),
        (&["sys/"], &["cfg(unix", "cfg(windows", "cfg(not(unix", "cfg(not(windows", "target_os", "target_family"]),
        (&["repo/"], &["gix::", "gix_"]),
        (&["lock/file.rs"], &["fd_lock"]),
        (
            &["guard/future.rs", "guard/program/future.rs", "lock/task.rs", "sys/unix/ready.rs"],
            &["tokio::", "tokio_util"],
        ),
        (&["sys/"], &["unsafe {", "unsafe fn", "unsafe impl", "libc::", "rustix::"]),
        (&["cli/", "main.rs"], &["clap::", "anyhow::", "println!", "eprintln!"]),
        (&["repo/command.rs", "repo/index/tests/"], &["Command::new(\"git\")"]),
        (&["repo/git.rs", "env.rs"], &["env(\"GIT_DIR\""]),
        (&["cli/render/", "exec/mod.rs", "sys/unix/output.rs"], &["io::stdout", "io::stderr", "stdout()", "stderr()"]),
        (&["cli/render/"], &["println!", "print!(", "eprintln!", "eprint!("]),
    ];
    for (modules, texts) in doors {
        assert_eq!(outside(modules, texts), NOWHERE, "only {modules:?} has {texts:?}");
    }
}

#[test]
fn every_file_opens_with_a_statement_of_what_it_does() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = ["src", "tests", "benches", "examples"].map(|directory| crate::support::walk(&root.join(directory)));
    let rust = files.into_iter().flatten().filter(|path| path.extension().is_some_and(|end| end == "rs"));
    let wrong: Vec<_> = rust
        .filter(|path| {
            let text = fs::read_to_string(path).expect("source");
            let first: Vec<&str> = text.lines().take_while(|line| line.starts_with("//! ")).collect();
            first.is_empty() || first.concat().contains('?')
        })
        .collect();
    assert_eq!(wrong, Vec::<PathBuf>::new());
}

#[test]
fn no_test_file_is_forgotten() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    let main = fs::read_to_string(here.join("main.rs")).expect("main.rs");
    for entry in fs::read_dir(&here).expect("tests/it") {
        let name = entry.expect("an entry").file_name().to_string_lossy().into_owned();
        let module = name.trim_end_matches(".rs");
        assert!(module == "main" || main.contains(&format!("mod {module};")), "{name} is in no binary");
    }
}

/// A function of formatted source: its name, its lines of code, and its parameters.
struct Function {
    name: String,
    lines: usize,
    parameters: usize,
}

/// The functions of a file, as rustfmt lays them out: each ends with a brace under its first letter.
fn functions(text: &str) -> Vec<Function> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let Some(start) = line.find("fn ").filter(|start| is_qualifiers(line[..*start].trim())) else { continue };
        let indent = line.len() - line.trim_start().len();
        let end = format!("{}}}", " ".repeat(indent));
        let rest = lines[at..].iter().position(|other| {
            *other == end
                || (other.ends_with(';') && other.starts_with(&" ".repeat(indent)) && !other[indent..].starts_with(' '))
        });
        let length = if line.ends_with('}') { 1 } else { rest.map_or(1, |rest| rest + 1) };
        let body = &lines[at..at + length];
        let is_code = |line: &&&str| !line.trim().is_empty() && !line.trim().starts_with("//");
        let name: String = line[start + 3..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let signature = lines[at..lines.len().min(at + 12)].join(" ");
        let parameters = parameters(&signature[signature.find(&format!("fn {name}")).expect("itself")..]);
        found.push(Function { name, lines: body.iter().filter(is_code).count(), parameters });
    }
    found
}

/// What may stand before `fn`.
fn is_qualifiers(text: &str) -> bool {
    const WORDS: [&str; 8] = ["pub", "const", "async", "unsafe", "extern", "\"C\"", "pub(crate)", "pub(super)"];
    text.split_whitespace()
        .all(|word| WORDS.contains(&word) || word.starts_with("pub(in") || word.starts_with("crate::"))
}

/// How many parameters a function has, whose signature begins here.
fn parameters(signature: &str) -> usize {
    let generics_end = match signature.find(['(', '<']) {
        Some(at) if signature[at..].starts_with('<') => at + end_of(&signature[at..]),
        _ => 0,
    };
    let Some(open) = signature[generics_end..].find('(').map(|at| generics_end + at) else { return 0 };
    let inner = &signature[open + 1..open + end_of(&signature[open..]) - 1];
    let (mut depth, mut commas, mut last) = (0, 0, ' ');
    for c in inner.trim().trim_end_matches(',').chars() {
        match c {
            '(' | '[' | '{' | '<' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            '>' if last != '-' => depth -= 1,
            ',' if depth == 0 => commas += 1,
            _ => {}
        }
        last = c;
    }
    if inner.trim().is_empty() { 0 } else { commas + 1 }
}

/// The length of a text in brackets, the brackets included.
fn end_of(text: &str) -> usize {
    let (mut depth, mut last) = (0, ' ');
    for (at, c) in text.char_indices() {
        match c {
            '(' | '[' | '{' | '<' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            '>' if last != '-' => depth -= 1,
            _ => {}
        }
        last = c;
        if depth == 0 {
            return at + c.len_utf8();
        }
    }
    text.len()
}

#[test]
fn functions_and_files_are_small() {
    let mut wrong = Vec::new();
    let mut large = Vec::new();
    for file in sources() {
        let lines = file.text.lines().count();
        if lines > 400 {
            large.push(file.path.clone());
        }
        for function in functions(&file.text) {
            if function.lines > 60 || function.parameters > 5 {
                let Function { name, lines, parameters } = function;
                wrong.push(format!("{}: {name} has {lines} lines and {parameters} parameters", file.path));
            }
        }
    }
    assert_eq!(wrong, NOWHERE);
    assert_eq!(large, ["error/mod.rs"]);
}

#[test]
fn functions_are_measured() {
    let source = "impl X {\n    pub(crate) fn a<F: Fn(u8) -> u8>(&self, (b, c): (u8, u8), d: HashMap<u8, u8>) -> u8 {\n        // why\n\n        1\n    }\n}\n\nfn e() {}\n";
    let found: Vec<_> = functions(source).into_iter().map(|one| (one.name, one.lines, one.parameters)).collect();
    assert_eq!(found, [("a".to_owned(), 3, 3), ("e".to_owned(), 1, 0)]);
}
