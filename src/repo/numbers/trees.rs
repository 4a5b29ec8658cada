//! Finds the numbers in the trees of commits. Each tree is read once, however many branches share it, by one process.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    io::{self, Write as _},
    process::{Command, Stdio},
    sync::mpsc,
    thread,
};

use super::{
    super::{
        Head, Repo,
        discovery::refuse_blocking_references,
        git,
        layout::Worktree,
        path_of,
        run::{self, Answers, Header, Objects},
    },
    Reached, ScanPattern, Seen, git_in, note,
};
use crate::{
    error::{Error, Result},
    escape::hex,
};

/// A start: a tree as git is asked for it, and the reference that leads to it.
type Tips = BTreeMap<String, String>;

/// Something to be read, and what it is for.
struct Wanted {
    reached: Vec<Reached>,
    path: Vec<u8>,
    tip: usize,
}

/// The place where the way through the trees ended too early.
struct Stopped {
    /// The question.
    object: String,
    reference: String,
    /// The end of git's answers; `None` if git does not have the object.
    ended: Option<io::Error>,
}

/// Looks into all that references and HEADs lead to.
pub(super) fn look(repo: &Repo, patterns: &[ScanPattern], heads: &[Head], greatest: &mut Option<Seen>) -> Result<()> {
    let Some(worktree) = repo.worktree() else { return Ok(()) };
    let tips: Vec<(String, String)> = tips(repo, &worktree, heads)?.into_iter().collect();
    if tips.is_empty() {
        return Ok(());
    }
    let mut objects = Objects::start(repo_git(repo, &worktree)?, Stdio::piped())?;
    let (questions, answers, errors) = (objects.questions.take(), objects.answers.take(), objects.errors.take());
    let (send, asked) = mpsc::channel::<String>();
    let (walked, output) = thread::scope(|scope| {
        let thread = thread::Builder::new;
        let no_thread = Error::io("start a thread for", "git");
        let output = thread().spawn_scoped(scope, move || errors.map(io::read_to_string));
        let asks = move || {
            let Some(mut questions) = questions else { return };
            // Git answers each question at once; more questions follow from the answers.
            while let Ok(object) = asked.recv() {
                if questions.write_all(object.as_bytes()).is_err() {
                    return;
                }
            }
        };
        let (output, _) = match (output, thread().spawn_scoped(scope, asks)) {
            (Ok(output), Ok(asks)) => (output, asks),
            (Err(error), _) | (_, Err(error)) => return Err(no_thread(error)),
        };
        let mut walk = Walk { patterns, tips: &tips, send, pending: VecDeque::new(), seen: HashSet::new(), greatest };
        let walked = answers.map_or(Ok(()), |mut answers| walk.run(&mut answers));
        drop(walk);
        Ok((walked, output.join()))
    })?;
    let Err(Stopped { object, reference, ended }) = walked else { return Ok(()) };
    let output = output.ok().flatten().and_then(io::Result::ok).unwrap_or_default();
    match ended {
        // An older git ends, while a newer one reports a missing object.
        Some(ended) if !output.contains("promisor") => {
            let reason = if output.trim().is_empty() { ended.to_string() } else { output.trim().to_owned() };
            Err(Error::Git { arguments: "cat-file --batch".to_owned(), reason })
        }
        _ => Err(Error::MissingTree { id: object, reference }),
    }
}

fn repo_git(repo: &Repo, worktree: &Worktree) -> Result<Command> {
    Ok(git_in(worktree, repo.root(), repo.trusted()?))
}

/// The trees of all references, and of HEADs that no branch names.
fn tips(repo: &Repo, worktree: &Worktree, heads: &[Head]) -> Result<Tips> {
    // A tag can be of a tag: then only git knows its end.
    const FORMAT: &str =
        "--format=%(refname)%00%(objecttype)%00%(objectname)%00%(tree)%00%(*objecttype)%00%(*objectname)%00%(*tree)";
    let arguments = ["for-each-ref", FORMAT];
    refuse_blocking_references(&worktree.git_dir, repo.common_dir().unwrap_or(&worktree.git_dir))?;
    let output = run::output(repo_git(repo, worktree)?.args(arguments))?;
    // Git goes on without a damaged one, whose contents are unknown then.
    let is_damaged = String::from_utf8_lossy(&output.stderr).contains("ignoring broken ref");
    if !output.status.success() || is_damaged {
        return Err(git::failed(&["for-each-ref"], &output));
    }
    let mut tips = Tips::new();
    let mut add = |object: String, name: &str| {
        tips.entry(object).or_insert_with(|| name.to_owned());
    };
    for line in output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let line = String::from_utf8_lossy(line);
        let mut fields = line.split('\0');
        let mut field = || fields.next().unwrap_or_default();
        let name = field();
        let direct = (field(), field(), field());
        let peeled = (field(), field(), field());
        let (kind, object, tree) = if direct.0 == "tag" { peeled } else { direct };
        match kind {
            "commit" => add(tree.to_owned(), name),
            "tree" => add(object.to_owned(), name),
            "tag" => add(format!("{object}^{{}}"), name),
            _ => {}
        }
    }
    for head in heads.iter().filter(|head| head.branch.is_none()) {
        if let Some(commit) = &head.commit {
            add(format!("{commit}^{{tree}}"), commit);
        }
    }
    Ok(tips)
}

/// The way through the trees: what was asked for and not answered yet, in order.
struct Walk<'a> {
    patterns: &'a [ScanPattern],
    tips: &'a [(String, String)],
    send: mpsc::Sender<String>,
    pending: VecDeque<(String, Wanted)>,
    seen: HashSet<(Vec<u8>, Vec<Reached>)>,
    greatest: &'a mut Option<Seen>,
}

impl Walk<'_> {
    fn run(&mut self, answers: &mut Answers) -> Result<(), Stopped> {
        let start: Vec<Reached> = self.patterns.iter().map(ScanPattern::start).collect();
        for (tip, (object, _)) in self.tips.iter().enumerate() {
            self.ask(object.clone(), Wanted { reached: start.clone(), path: Vec::new(), tip });
        }
        while let Some((object, wanted)) = self.pending.pop_front() {
            let (answer, ended) = match answer(answers) {
                Ok(answer) => (answer, None),
                Err(error) => (None, Some(error)),
            };
            let Some((header, bytes)) = answer else {
                return Err(Stopped { object, reference: self.tips[wanted.tip].1.clone(), ended });
            };
            let id_bytes = header.id.len() / 2;
            match header.kind.as_str() {
                "tree" => self.look(&bytes, id_bytes, &wanted),
                // The tag of a tag may lead to a commit.
                "commit" => {
                    let tree = bytes.strip_prefix(b"tree ").and_then(|rest| rest.get(..id_bytes * 2));
                    self.ask(String::from_utf8_lossy(tree.unwrap_or_default()).into_owned(), wanted);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn ask(&mut self, object: String, wanted: Wanted) {
        // A git that has ended does not answer.
        drop(self.send.send(format!("{object}\n")));
        self.pending.push_back((object, wanted));
    }

    /// Reads the entries of a tree: mode, space, name, NUL, id.
    fn look(&mut self, mut tree: &[u8], id_bytes: usize, above: &Wanted) {
        while let Some(space) = tree.iter().position(|byte| *byte == b' ') {
            let Some(end) = tree.iter().position(|byte| *byte == 0) else { return };
            let Some(id) = tree.get(end + 1..end + 1 + id_bytes) else { return };
            let (is_tree, name) = (&tree[..space] == b"40000", &tree[space + 1..end]);
            self.entry(name, is_tree.then_some(id), above);
            tree = &tree[end + 1 + id_bytes..];
        }
    }

    fn entry(&mut self, name: &[u8], tree: Option<&[u8]>, above: &Wanted) {
        let patterns = self.patterns;
        let steps = patterns.iter().zip(&above.reached).map(|(pattern, reached)| pattern.step(reached, name));
        let reached: Vec<Reached> = steps.collect();
        let path = || [above.path.as_slice(), name].join(if above.path.is_empty() { &b""[..] } else { b"/" });
        for (pattern, reached) in patterns.iter().zip(&reached) {
            if let Some(number) = pattern.number(reached) {
                let tip = &self.tips[above.tip].1;
                note(self.greatest, number, || (path_of(&path()), format!("`{tip}`")));
            }
        }
        let Some(id) = tree else { return };
        let goes_on = patterns.iter().zip(&reached).any(|(pattern, reached)| pattern.goes_on(reached));
        if goes_on && self.seen.insert((id.to_vec(), reached.clone())) {
            self.ask(hex(id), Wanted { reached, path: path(), tip: above.tip });
        }
    }
}

/// Reads one answer: the header and the body; `None` if the object is missing here.
fn answer(answers: &mut Answers) -> io::Result<Option<(Header, Vec<u8>)>> {
    let Ok(header) = answers.header()? else { return Ok(None) };
    let mut bytes = Vec::new();
    answers.body(&header, &mut bytes)?;
    Ok(Some((header, bytes)))
}
