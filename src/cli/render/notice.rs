//! Prints what a command learns while it runs.

use std::{
    io::{self, IsTerminal as _},
    time::Duration,
};

use repoguard::{
    Holder, Notice, Repo, Waiting,
    escape::{escaped, quoted_path},
};

use super::{
    super::worktrees,
    PREFIX, REDRAW, Ui, YELLOW, print_now,
    text::{duration, fitting, who},
};

impl Ui {
    /// Prints what a command learns while it runs.
    pub(in crate::cli) fn notice(&self, notice: &Notice<'_>) {
        // Inside a hold that is proven without a token, nothing is reported.
        if let Notice::Waiting(_) | Notice::Acquired(_) = notice {
            self.look_at_token();
        }
        match notice {
            Notice::Waiting(waiting) => self.waiting(waiting),
            Notice::Acquired(waited) => {
                self.waiting_over();
                if self.is_verbose() {
                    self.say(&format!("acquired after {}", duration(*waited)));
                }
            }
            Notice::Died(holder, moved) => {
                let moved = moved.map_or_else(String::new, |(from, to)| format!("; HEAD moved from {from} to {to}"));
                self.warn(&format!("the last holder was killed before it could release: {}{moved}", who(holder)));
                if !self.is_recovered.get() {
                    self.hint("`git status` shows what it left behind");
                }
            }
            Notice::Displaced(holder) => {
                self.warn(&format!(
                    "the place of the lock was replaced; an earlier holder may still be at work here: {}",
                    who(holder)
                ));
            }
            Notice::Violated(from, to) => {
                self.warn(&format!("changed outside the guard since the last release: HEAD was {from}, is {to}"));
            }
            Notice::Switched(from, to, by) => {
                self.warn(&format!("HEAD was switched by the last holder, {by}: it was {from}, is {to}"));
            }
            Notice::Lost(path) => {
                let path = path.display();
                self.warn(&format!("the lock was lost: `{path}` was removed or replaced while the command ran"));
            }
            Notice::LostAround(fence) => {
                self.warn(&format!(
                    "the lock was lost: hold {fence}, inside of which the command ran, ended before it"
                ));
            }
            Notice::Lingers(pids) => self.say(&format!("the lock is kept: {}", still_inside(pids))),
            Notice::Trouble(error) => self.trouble(error),
            _ => self.progress(notice),
        }
    }

    /// Prints actions of others, progress, and changes of place.
    fn progress(&self, notice: &Notice<'_>) {
        match notice {
            Notice::RanUnder(holder) => {
                self.warn(&format!("this git command did not wait for its turn; the lock is held by {}", who(holder)));
                self.hint("`repoguard exec -- git …` waits; `git status` shows how it stands now");
            }
            Notice::Unguarded(error) => {
                self.warn("git goes on without the lock");
                self.more("caused by:", &error.to_string());
            }
            Notice::Intruder(intruder) => {
                self.warn(&format!("this checkout was changed while you held it, by {}", who(intruder)));
                self.hint("`git status` shows how it stands; `repoguard log` keeps it");
            }
            Notice::Recovered(unfinished, recovered) => {
                self.is_recovered.set(true);
                self.warn(&format!("a mutation was killed before its end: {}", unfinished.command));
                self.details_of(recovered);
            }
            Notice::WaitingForGit(lock, gits) => {
                self.say(&format!("waiting for git's own lock `{}`; {gits}", lock.display()));
            }
            Notice::Keeping((files, bytes), (all_files, all_bytes)) => {
                let mib = |bytes: u64| bytes >> 20;
                let (bytes, all) = (mib(*bytes), mib(*all_bytes));
                if files == all_files {
                    self.waiting_over();
                } else {
                    self.live(&format!("keeping untracked files: {files} of {all_files}, {bytes} of {all} MiB"));
                }
            }
            Notice::Isolated(isolated) => {
                let path = quoted_path(&isolated.path);
                self.say(&format!("busy: runs in the worktree {path} instead, on branch {}", isolated.branch));
            }
            Notice::Removed(isolated) => {
                self.say(&format!("removed: nothing of worth is in the worktree {}", quoted_path(&isolated.path)));
            }
            Notice::Kept(isolated, work) => {
                let path = quoted_path(&isolated.path);
                self.say(&format!("kept: the worktree {path}, with {work}"));
                let landing = worktrees::landing(&isolated.path, &isolated.branch, &isolated.base, work);
                let lands = landing.first().map_or_else(String::new, |command| format!("`{command}` lands it; "));
                self.hint(&format!("{lands}`repoguard worktrees` tells more"));
            }
            _ => {}
        }
    }

    fn waiting(&self, waiting: &Waiting<'_>) {
        if self.is_quiet() {
            return;
        }
        let said = self.waiting.borrow().said;
        if io::stderr().is_terminal() {
            self.live(&format!("waiting {}", waiting_text(waiting)));
        } else if said.is_none_or(|said| waiting.waited >= said + self.repeat.get()) {
            self.waiting.borrow_mut().said = Some(waiting.waited);
            self.say(&format!("waiting {}", waiting_text(waiting)));
            self.hint_if_any(waiting.holders_and_ahead().0.iter().find_map(Holder::advice));
        }
    }

    /// Shows in one line of a terminal how far something is; the next message takes it off.
    fn live(&self, text: &str) {
        if !self.is_quiet() && io::stderr().is_terminal() {
            self.waiting.borrow_mut().live = true;
            let width = terminal_size::terminal_size_of(io::stderr()).map_or(80, |(width, _)| usize::from(width.0));
            // `REDRAW` takes off one line, not what is wrapped.
            let text = fitting(&escaped(text), width.saturating_sub(PREFIX.len() + 2));
            print_now(&format!("{REDRAW}{} {text}", self.styled(YELLOW, PREFIX)));
        }
    }

    /// How often to repeat that we wait, away from a terminal.
    pub(in crate::cli) fn repeat_every(&self, time: Duration) {
        self.repeat.set(time);
    }

    /// Takes the live line off the screen.
    pub(in crate::cli) fn waiting_over(&self) {
        if std::mem::take(&mut self.waiting.borrow_mut().live) {
            print_now(REDRAW);
        }
    }

    /// A lock of this repository is asked for: if that is not granted by the token in the environment, the user learns why.
    pub(in crate::cli) fn may_have_token(&self, repo: &Repo) {
        *self.token.borrow_mut() = Some(repo.clone());
    }

    /// Says once that the token in the environment is of no use, if it is not.
    pub(in crate::cli) fn look_at_token(&self) {
        let repo = self.token.borrow_mut().take();
        if repo.is_some_and(|repo| repoguard::program::has_stray_token(&repo)) {
            self.warn("REPOGUARD_TOKEN names no live hold here and is ignored");
            self.hint(
                "`unset REPOGUARD_TOKEN`, or acquire again; a hold ends with its command, its process or its --ttl",
            );
        }
    }
}

fn waiting_text(waiting: &Waiting<'_>) -> String {
    let (holders, ahead) = waiting.holders_and_ahead();
    // The most important part comes first: a narrow terminal shows only that.
    let holder = match holders.split_first() {
        Some((first, [])) => who(first),
        Some((first, rest)) => format!("{} and {} more", who(first), rest.len()),
        None => "whoever lets go just now".to_owned(),
    };
    let place = match ahead.len() {
        0 => "we are next".to_owned(),
        count => format!("{count} before us"),
    };
    let unchecked = waiting.unchecked().first().map_or_else(String::new, |records| {
        format!("; not checked for a deadlock with others, because `{}` cannot be read", records.display())
    });
    format!("{} for {holder}; {place}; for {}{unchecked}", duration(waiting.waited), waiting.what)
}

/// The processes inside of a hold whose command has ended: the first of them, which has started the others.
fn still_inside(pids: &[u32]) -> String {
    match pids.first().and_then(|pid| repoguard::program::command_of(*pid).map(|command| (pid, command))) {
        Some((pid, command)) => format!("pid {pid} `{command}` still runs inside of this hold"),
        None => "somebody still works inside of this hold".to_owned(),
    }
}
