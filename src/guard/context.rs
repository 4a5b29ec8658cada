//! Bundles what every verb works with: built once, passed once.

use std::{cell::RefCell, fmt};

use super::{Notice, Observer};
use crate::{
    error::{Error, Result},
    fs::Sharing,
    lock::{Request, Scope},
    repo::{Config, Repo, Setting},
    sys,
};

impl Request {
    /// Fills in the configured timeout and scope (`repoguard.timeout`, `repoguard.scope`) if this has none. A request for names needs no
    /// scope. [`Repo::lock`] and all functions that take a [`Config`] and wait do so themselves.
    ///
    /// # Errors
    /// [`Error::Config`] if a configured value is wrong.
    pub fn or_configured(self, config: &Config) -> Result<Self> {
        let timeout = || config.setting("timeout").map(Setting::duration).transpose();
        let scope = || match config.setting("scope").filter(|_| self.names.is_empty()) {
            None => Ok(None),
            Some(setting) if setting.value.eq_ignore_ascii_case("worktree") => Ok(Some(Scope::Worktree)),
            Some(setting) if setting.value.eq_ignore_ascii_case("repo") => Ok(Some(Scope::Repo)),
            Some(setting) => Err(setting.bad("`worktree` or `repo`")),
        };
        Ok(Self {
            timeout: self.timeout.map_or_else(timeout, |timeout| Ok(Some(timeout)))?,
            scope: self.scope.map_or_else(scope, |scope| Ok(Some(scope)))?,
            ..self
        })
    }
}

/// A caller that asks for a lock.
pub struct Caller<'a> {
    /// Its repository.
    pub repo: &'a Repo,
    /// The configuration of that.
    pub config: &'a Config,
    /// The lock that it asks for.
    pub request: &'a Request,
    /// The observer of its notices.
    pub observer: &'a mut Observer<'a>,
}

impl fmt::Debug for Caller<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller").field("repo", &self.repo).field("request", &self.request).finish_non_exhaustive()
    }
}

impl Caller<'_> {
    /// The request, as configured.
    ///
    /// # Errors
    /// [`Error::Config`] if a configured value is wrong.
    pub(super) fn request(&self) -> Result<Request> {
        self.request.clone().or_configured(self.config)
    }

    /// Calls `work` with the context, and with the request as configured.
    ///
    /// # Errors
    /// [`Error::Config`] if a configured value is wrong.
    pub(super) fn serve<T>(self, work: impl FnOnce(Context<'_>, &Request) -> Result<T>) -> Result<T> {
        let request = self.request()?;
        Context::with(self.repo, self.config, self.observer, |context| work(context, &request))
    }

    /// As [`Caller::serve`], for work that forks.
    ///
    /// # Errors
    /// [`Error::Threads`] if this process has several threads; [`Error::Config`].
    pub(super) fn serve_forking<T>(self, work: impl FnOnce(Context<'_>, &Request) -> Result<T>) -> Result<T> {
        let request = self.request()?;
        Context::forking(self.repo, self.config, self.observer, |context| work(context, &request))
    }
}

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

    /// As [`Context::with`], for work that forks.
    ///
    /// # Errors
    /// [`Error::Threads`] if this process has several threads.
    pub(crate) fn forking<T, E: From<Error>>(
        repo: &Repo,
        config: &Config,
        observer: &mut dyn FnMut(Notice<'_>),
        work: impl FnOnce(Context<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        if sys::has_one_thread() { Self::with(repo, config, observer, work) } else { Err(Error::Threads.into()) }
    }

    /// The same in another worktree of the repository.
    pub(crate) fn at(self, repo: &'a Repo) -> Self {
        Self { repo, ..self }
    }

    /// The same without an observer, if nobody is left to receive notices.
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
