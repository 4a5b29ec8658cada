//! Checks HEAD against the state that a caller has read.

use std::ffi::{OsStr, OsString};

use super::{Head, Repo, git};
use crate::error::{Error, Result};

/// The HEAD that a caller expects. By default any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExpectedHead {
    /// The commit, by any name that git knows. The full name of a branch, `refs/heads/NAME`, expects the branch as well.
    pub revision: Option<OsString>,
    /// The branch that HEAD points to, by its name or its full name. `HEAD` expects a detached HEAD.
    pub branch: Option<OsString>,
}

impl ExpectedHead {
    /// Sets [`ExpectedHead::revision`].
    #[must_use]
    pub fn revision(mut self, revision: impl Into<OsString>) -> Self {
        self.revision = Some(revision.into());
        self
    }

    /// Sets [`ExpectedHead::branch`].
    #[must_use]
    pub fn branch(mut self, branch: impl Into<OsString>) -> Self {
        self.branch = Some(branch.into());
        self
    }

    /// Tells whether any HEAD will do.
    pub(crate) fn is_any(&self) -> bool {
        self.revision.is_none() && self.branch.is_none()
    }

    /// Tells whether only the commit is expected, on whatever branch.
    pub(crate) fn is_commit_only(&self) -> bool {
        self.revision.is_some() && self.expected_branch().is_none()
    }

    /// The full name of the branch.
    fn expected_branch(&self) -> Option<String> {
        let is_branch = |name: &&OsString| name.to_string_lossy().starts_with("refs/heads/");
        let name = self.branch.as_ref().or_else(|| self.revision.as_ref().filter(is_branch))?;
        let name = name.to_string_lossy();
        Some(if name.starts_with("refs/") || name == "HEAD" { name.into_owned() } else { format!("refs/heads/{name}") })
    }

    /// Checks a HEAD. Runs git if a commit is expected.
    ///
    /// # Errors
    /// [`Error::UnexpectedHead`]; else as git fails.
    pub(crate) fn check(&self, repo: &Repo, head: &Head) -> Result<()> {
        let unexpected =
            |expected: &str| Error::UnexpectedHead { expected: expected.to_owned(), head: head.to_string() };
        if let Some(branch) = self.expected_branch() {
            let is = head.branch.as_deref().unwrap_or("HEAD");
            if is != branch {
                return Err(unexpected(branch.strip_prefix("refs/heads/").unwrap_or(&branch)));
            }
        }
        let Some(revision) = &self.revision else { return Ok(()) };
        let commit = repo.commit(revision)?;
        if commit.is_some() && commit == head.commit { Ok(()) } else { Err(unexpected(&revision.to_string_lossy())) }
    }
}

impl Repo {
    /// A commit by any name that git knows it by; `None` if there is none.
    fn commit(&self, name: &OsStr) -> Result<Option<String>> {
        let mut wanted = name.to_owned();
        wanted.push("^{commit}");
        let arguments: [&OsStr; 5] =
            ["rev-parse".as_ref(), "--quiet".as_ref(), "--verify".as_ref(), "--end-of-options".as_ref(), &wanted];
        let output = git::start(self, git::Manner::Reading, &arguments)?;
        Ok(output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim_end().to_owned()))
    }
}
