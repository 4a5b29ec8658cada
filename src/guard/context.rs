//! What every verb works with: built once, passed once.

use std::cell::RefCell;

use super::Notice;
use crate::{
    error::{Error, Result},
    fs::Sharing,
    repo::{Config, Repo},
};

/// A repository with its configuration, and the caller that notices go to.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) repo: &'a Repo,
    pub(crate) config: &'a Config,
    /// Permissions of the files that are made.
    pub(crate) sharing: Sharing,
    observer: &'a dyn Fn(Notice<'_>),
}

impl<'a> Context<'a> {
    pub(crate) fn new(repo: &'a Repo, config: &'a Config, observer: &'a dyn Fn(Notice<'_>)) -> Self {
        Self { repo, config, sharing: config.sharing(repo), observer }
    }

    /// Calls `work` with a context whose notices go to `observer`.
    pub(crate) fn with<T>(
        repo: &Repo,
        config: &Config,
        observer: &mut dyn FnMut(Notice<'_>),
        work: impl FnOnce(Context<'_>) -> T,
    ) -> T {
        let observer = RefCell::new(observer);
        work(Context::new(repo, config, &|notice| (observer.borrow_mut())(notice)))
    }

    /// The same in another worktree of the repository.
    pub(crate) fn at(self, repo: &'a Repo) -> Self {
        Self { repo, ..self }
    }

    /// The same without an observer, if nobody is there to be told.
    pub(crate) fn silent(self) -> Self {
        Self { observer: &|_| {}, ..self }
    }

    pub(crate) fn notify(&self, notice: Notice<'_>) {
        (self.observer)(notice);
    }

    /// Reports an error of something that is not needed.
    pub(crate) fn report(&self, result: Result<()>) {
        if let Err(trouble) = result {
            self.trouble(&trouble);
        }
    }

    pub(crate) fn trouble(&self, trouble: &Error) {
        self.notify(Notice::Trouble(trouble));
    }
}
