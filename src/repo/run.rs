//! Runs the gits that `git` describes: the only place that waits for one. A git that waits for a FIFO would never end, so it is
//! ended.

#![expect(clippy::disallowed_methods, reason = "this is the file that runs git")]

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStderr, ChildStdin, Command, ExitStatus, Output, Stdio},
    thread,
};

use super::git_process::is_git;
use crate::{
    error::{Error, Result},
    sys,
};

/// Runs a git to its end, without input.
///
/// # Errors
/// [`Error::GitBlocked`], [`Error::Io`] if it cannot be started.
pub(super) fn output(git: &mut Command) -> Result<Output> {
    git.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = git.spawn().map_err(Error::io("start", "git"))?;
    sys::output_of(child, refuse_blocked).map_err(|error| failed(git, error))
}

/// Runs a git to its end, with this input.
///
/// # Errors
/// As [`output`].
pub(super) fn output_with(git: &mut Command, input: &[u8]) -> Result<Output> {
    git.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = git.spawn().map_err(Error::io("start", "git"))?;
    let stdin = child.stdin.take();
    std::thread::scope(|scope| {
        // Git may answer before it has read everything. Without a thread its input ends at once.
        let write = move || stdin.map(|mut stdin| stdin.write_all(input));
        let writer = thread::Builder::new().spawn_scoped(scope, write);
        let output = sys::output_of(child, refuse_blocked).map_err(|error| failed(git, error));
        writer.map_err(Error::io("start a thread for", "git"))?;
        output
    })
}

/// Runs a git that prints for the user.
///
/// # Errors
/// As [`output`].
pub(super) fn status(git: &mut Command) -> Result<ExitStatus> {
    let mut child = git.stdin(Stdio::null()).spawn().map_err(Error::io("start", "git"))?;
    sys::end_of(&mut child, refuse_blocked).map_err(|error| failed(git, error))
}

/// A running `git cat-file --batch`. It answers each question, an object's id in a line, in their order.
#[derive(Debug)]
pub(super) struct Objects {
    child: Child,
    /// The pipe for questions. Git ends when this is closed.
    pub(super) questions: Option<ChildStdin>,
    pub(super) answers: Option<Answers>,
    pub(super) errors: Option<ChildStderr>,
}

/// The answers of [`Objects`]: for each a header and a body. See git-cat-file(1), "BATCH OUTPUT".
#[derive(Debug)]
pub(super) struct Answers(BufReader<sys::Printed>);

/// The first line of an answer.
pub(super) struct Header {
    pub(super) id: String,
    /// `blob`, `tree`, `commit` or `tag`.
    pub(super) kind: String,
    /// The length of the body, in bytes.
    pub(super) size: u64,
}

impl Objects {
    /// Starts such a git. Its errors must be read if they are piped.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn start(mut git: Command, errors: Stdio) -> Result<Self> {
        git.args(["cat-file", "--batch"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors);
        let mut child = git.spawn().map_err(Error::io("start", "git"))?;
        let answers = sys::printed_by(&mut child, refuse_blocked).map(|printed| Answers(BufReader::new(printed)));
        Ok(Self { questions: child.stdin.take(), answers, errors: child.stderr.take(), child })
    }
}

impl Drop for Objects {
    fn drop(&mut self) {
        // Git may be about to print what nobody reads any more.
        drop((self.questions.take(), self.answers.take(), self.errors.take()));
        if sys::end_of(&mut self.child, refuse_blocked).is_err() {
            drop(self.child.wait());
        }
    }
}

impl Answers {
    /// Reads the next header; an error within it is what git says of an object that it does not have.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] if git has ended.
    pub(super) fn header(&mut self) -> io::Result<std::result::Result<Header, String>> {
        /// Longer than each header, which may repeat the question.
        const MOST: u64 = 64 << 10;
        let mut line = Vec::new();
        self.0.by_ref().take(MOST).read_until(b'\n', &mut line)?;
        let line = String::from_utf8_lossy(&line).into_owned();
        let Some(line) = line.strip_suffix('\n') else { return Err(io::ErrorKind::UnexpectedEof.into()) };
        let mut words = line.split(' ');
        let header = (words.next(), words.next(), words.next().and_then(|size| size.parse().ok()), words.next());
        Ok(match header {
            (Some(id), Some(kind), Some(size), None) => Ok(Header { id: id.to_owned(), kind: kind.to_owned(), size }),
            _ => Err(line.to_owned()),
        })
    }

    /// Copies the body that follows a header. It is read to its end, also if it cannot be written.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] if git has ended; those of writing.
    pub(super) fn body(&mut self, header: &Header, into: &mut dyn Write) -> io::Result<()> {
        let mut body = self.0.by_ref().take(header.size);
        let copied = io::copy(&mut body, into);
        io::copy(&mut body, &mut io::sink())?;
        self.0.read_exact(&mut [0])?;
        copied.map(drop)
    }
}

/// Ends a git that waits for a FIFO, and all that it has started.
fn refuse_blocked(git: u32) -> io::Result<()> {
    let tree = sys::Process::open(git).tree();
    if !tree.iter().any(|pid| sys::waits_for_fifo(*pid) && is_git(*pid)) {
        return Ok(());
    }
    for pid in tree {
        sys::send(pid, sys::KILL);
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, "git waits for a FIFO in place of a file"))
}

/// Tells whether this process is a git that opens a FIFO in place of a file, and waits for who never comes. Its input may be a FIFO.
pub(crate) fn is_git_stuck(pid: u32) -> bool {
    sys::opens_fifo(pid) && is_git(pid)
}

fn failed(git: &Command, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::TimedOut => {
            let directory = git.get_current_dir().map(Path::to_owned);
            Error::GitBlocked { directory: directory.unwrap_or_else(|| PathBuf::from(".")) }
        }
        _ => Error::io("wait for", "git")(error),
    }
}
