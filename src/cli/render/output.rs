//! Prints data to standard output, and what the parser of the command line says.

use std::{
    ffi::OsString,
    fmt::Display,
    io::{self, IsTerminal as _, Write as _},
};

use anyhow::Context as _;
use repoguard::escape::{escaped, escaped_data, escaped_json, is_showable};
use serde::Serialize;

/// Prints what the parser says about these arguments: help and version to stdout, a usage error to stderr.
///
/// The parser repeats arguments within text and colours of its own. So it parses again, with arguments that are safe to show.
pub(in crate::cli) fn parsed(
    error: &clap::Error,
    parser: impl FnOnce() -> clap::Command,
    arguments: &[OsString],
) -> anyhow::Result<()> {
    if !error.use_stderr() {
        repoguard::program::check_output().context(NOT_WRITTEN)?;
    }
    let is_safe = |argument: &OsString| argument.to_str().is_some_and(|text| text.chars().all(is_showable));
    let printed = if arguments.iter().all(is_safe) {
        error.print()
    } else {
        let shown = arguments.iter().map(|argument| escaped(&argument.to_string_lossy()).into_owned());
        match parser().try_get_matches_from(shown) {
            Err(error) => error.print(),
            // Only the original arguments are wrong: for example, one is not text.
            Ok(_) => io::stderr().write_all(escaped_data(error.render().to_string().as_bytes()).as_bytes()),
        }
    };
    printed.and_then(|()| io::stdout().flush()).context(NOT_WRITTEN)
}

/// The message for a failed write.
const NOT_WRITTEN: &str = "cannot write to standard output";

/// Text for stdout, made line by line: what is in a line cannot start another one.
#[derive(Debug, Default)]
pub(in crate::cli) struct Lines(String);

impl Lines {
    pub(in crate::cli) fn add(&mut self, line: impl Display) {
        self.0.push_str(&escaped(&line.to_string()));
        self.0.push('\n');
    }
}

impl<L: Display> FromIterator<L> for Lines {
    fn from_iter<I: IntoIterator<Item = L>>(all: I) -> Self {
        let mut lines = Self::default();
        all.into_iter().for_each(|line| lines.add(line));
        lines
    }
}

/// Prints text for people.
pub(in crate::cli) fn print(lines: &Lines) -> anyhow::Result<()> {
    write(&lines.0)
}

/// Clears the terminal before it is printed again.
pub(in crate::cli) fn redraw(lines: &Lines) -> anyhow::Result<()> {
    if io::stdout().is_terminal() { write(&format!("\x1b[H\x1b[2J{}", lines.0)) } else { print(lines) }
}

/// Prints one JSON document.
pub(in crate::cli) fn json(document: &impl Serialize) -> anyhow::Result<()> {
    json_lines([document])
}

/// Prints JSON documents, one a line.
pub(in crate::cli) fn json_lines<D: Serialize>(documents: impl IntoIterator<Item = D>) -> anyhow::Result<()> {
    let mut text = String::new();
    for document in documents {
        text.push_str(&escaped_json(serde_json::to_string(&document)?));
        text.push('\n');
    }
    write(&text)
}

/// Prints data for a program: as it is, but not to a terminal.
pub(in crate::cli) fn raw(data: &str) -> anyhow::Result<()> {
    if io::stdout().is_terminal() { write(&escaped_data(data.as_bytes())) } else { write(data) }
}

fn write(text: &str) -> anyhow::Result<()> {
    // The standard library replaces a closed descriptor by /dev/null, which accepts everything.
    repoguard::program::check_output().context(NOT_WRITTEN)?;
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).context(NOT_WRITTEN)
}

/// Fails if standard output cannot take `what`, which is printed only once and would be lost.
pub(in crate::cli) fn check_output(what: &str) -> anyhow::Result<()> {
    repoguard::program::check_output()
        .map_err(|error| anyhow::anyhow!("{NOT_WRITTEN}, so {what} is not given: {error}"))
}

/// Tells whether an error means that the reader closed our output.
pub(in crate::cli) fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_cannot_start_another() {
        let lines = Lines::from_iter(["a\nb", "\u{1b}[2J"]);
        assert_eq!(lines.0, "a\\nb\n\\x1b[2J\n");
    }
}
