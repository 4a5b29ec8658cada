//! A real terminal to type at and to look at: an interactive bash in tmux.

use std::process::Command;

use super::{Sandbox, has_program, to_the_end, until};

const PROMPT: &str = "ready>";

/// An interactive shell on a terminal of its own; it ends with the sandbox.
pub(crate) struct Terminal<'a> {
    sandbox: &'a Sandbox,
}

impl<'a> Terminal<'a> {
    /// Opens one in the checkout, this many columns wide; none where tmux or bash is missing.
    pub(crate) fn open(sandbox: &'a Sandbox, columns: u16) -> Option<Self> {
        if !has_program("tmux") || !has_program("bash") {
            return None;
        }
        let terminal = Self { sandbox };
        let size = columns.to_string();
        let shell = format!("exec env PS1='{PROMPT} ' bash --norc --noprofile -i");
        let open = ["-f", "/dev/null", "new-session", "-d", "-x", &size, "-y", "24", &shell];
        to_the_end(terminal.tmux(&open)).assert().success();
        terminal.prompt();
        Some(terminal)
    }

    fn tmux(&self, args: &[&str]) -> Command {
        let mut command = self.sandbox.command("tmux");
        command.arg("-S").arg(self.sandbox.outside("tmux")).args(args);
        command
    }

    /// Types a line and ends it with Enter.
    pub(crate) fn line(&self, text: &str) {
        to_the_end(self.tmux(&["send-keys", "-l", text])).assert().success();
        self.key("Enter");
    }

    /// Empties the screen but for the prompt.
    #[track_caller]
    pub(crate) fn clear(&self) {
        self.line("clear");
        self.shows("an empty screen", |screen| screen.trim() == PROMPT);
    }

    /// Presses a key, as tmux names it: `C-c`, `C-z`.
    pub(crate) fn key(&self, key: &str) {
        to_the_end(self.tmux(&["send-keys", key])).assert().success();
    }

    /// What the screen shows now.
    pub(crate) fn screen(&self) -> String {
        let shown = to_the_end(self.tmux(&["capture-pane", "-p"])).assert().success();
        String::from_utf8_lossy(&shown.get_output().stdout).into_owned()
    }

    /// Waits until the screen shows a text.
    #[track_caller]
    pub(crate) fn expect(&self, text: &str) {
        self.shows(text, |screen| screen.contains(text));
    }

    /// Waits until the shell is ready for the next command.
    #[track_caller]
    pub(crate) fn prompt(&self) {
        self.shows("the prompt", |screen| screen.trim_end().ends_with(PROMPT));
    }

    #[track_caller]
    fn shows(&self, what: &str, test: impl Fn(&str) -> bool) {
        until(what, || {
            let screen = self.screen();
            if test(&screen) { Ok(()) } else { Err(format!("the screen shows\n{screen}")) }
        });
    }
}
