//! Describes what a request locks: the files in their order, the resources that stand for them, and the records beside them.

use std::path::{Path, PathBuf};

use super::{Domain, Mode, PathPlace, Request, Resource};
use crate::{
    error::Result,
    fs::{self, Sharing},
    holder::{PATH_KEY, REPO_KEY, ROOT_KEY},
};

/// What a request locks.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(super) domain: Domain,
    /// Keys of all resources with modes: two plans conflict if they share a key and one of the modes is exclusive.
    pub(super) resources: Vec<(String, Mode)>,
    /// The files to lock, in the one order that is the same for everybody.
    pub(super) parts: Vec<PartPlan>,
    /// The scope in words, as records show it.
    pub(super) scope: String,
    /// The requested resources, in words.
    pub(super) what: String,
    /// The directories that are locked with a file in them.
    pub(super) anchored: Vec<Anchored>,
    /// The mode in which files are locked, unless they have one of their own.
    mode: Mode,
    /// Whether a hold around us is enough in any mode.
    pub(super) content: bool,
    pub(super) sharing: Sharing,
}

/// A directory that is a resource: a lock file is for it, and it is locked itself, so that deleting the file lets nobody in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Anchored {
    pub(crate) key: String,
    pub(crate) lock: PathBuf,
    pub(crate) directory: PathBuf,
    /// Whether it may be removed for good while everything is locked.
    pub(crate) may_go: bool,
}

/// One file to lock.
#[derive(Debug, Clone)]
pub(super) struct PartPlan {
    pub(super) resource: String,
    pub(super) path: PathBuf,
    pub(super) mode: Mode,
    /// A directory, locked beside the file so that deleting the file lets nobody in.
    pub(super) anchor: bool,
    /// Locked only if it is there, and anybody may remove it: the lock file of a hold from before `git init`.
    pub(super) optional: bool,
}

impl Plan {
    /// A plan that locks nothing yet, of a scope in words.
    pub(crate) fn new(domain: Domain, scope: String, request: &Request, sharing: Sharing) -> Self {
        let what = format!("the lock of `{}` ({scope})", domain.root.display());
        Self {
            domain,
            resources: Vec::new(),
            parts: Vec::new(),
            scope,
            what,
            anchored: Vec::new(),
            mode: request.mode,
            content: request.content,
            sharing,
        }
    }

    /// The lock at a path of the caller's.
    pub(crate) fn at_path(place: &PathPlace, request: &Request) -> Self {
        let domain = Domain::of_path(place);
        let mut plan = Self::new(domain, PATH_KEY.to_owned(), request, Sharing::default());
        plan.what = format!("the lock of `{}`", place.shown().display());
        plan.content = false;
        plan.lock(place.key(), place.lock());
        if place.is_directory() {
            plan.add(place.key(), place.directory(), request.mode, true);
        }
        plan
    }

    /// Locks everything, or with a shared mode keeps others from that; `anchor` is locked with the file.
    pub(crate) fn lock_repo(&mut self, lock: &Path, anchor: Option<&Path>, mode: Mode) {
        self.add(REPO_KEY, lock, mode, false);
        if let Some(anchor) = anchor {
            self.add(REPO_KEY, anchor, mode, true);
        }
    }

    /// Locks a directory, by its file and by itself.
    pub(crate) fn lock_anchored(&mut self, anchored: Anchored) {
        self.lock(&anchored.key, &anchored.lock);
        self.add(&anchored.key, &anchored.directory, self.mode, true);
        self.anchored.push(anchored);
    }

    /// Locks a file.
    pub(crate) fn lock(&mut self, key: &str, path: &Path) {
        self.add(key, path, self.mode, false);
    }

    /// Locks the file of a directory outside of git if it is still there when it is locked.
    pub(crate) fn lock_if_there(&mut self, path: &Path) {
        self.lock(ROOT_KEY, path);
        self.parts.iter_mut().filter(|part| part.resource == ROOT_KEY).for_each(|part| part.optional = true);
    }

    /// The requested resources, in words.
    pub(crate) fn what(&self) -> &str {
        &self.what
    }

    /// The resources as all of this process know them, whatever repository or path they are of.
    ///
    /// # Errors
    /// [`crate::Error::Io`] when a directory cannot be read that they are in.
    pub(crate) fn resources(&self) -> Result<Vec<(Resource, Mode)>> {
        let resource = |(key, mode): &(String, Mode)| {
            let part = self.parts.iter().find(|part| part.resource == *key && !part.anchor);
            let is_anchored = self.anchored.iter().any(|anchored| anchored.key == *key);
            let file = part
                .filter(|_| is_anchored || [ROOT_KEY, PATH_KEY].contains(&key.as_str()))
                .map(|part| part.path.as_path());
            // Those of a whole repository are in a directory that may have to be made first.
            let (directory, name) = match file.and_then(|file| Some((file.parent()?, file.file_name()?))) {
                Some((directory, name)) => (directory, name.to_owned()),
                None => (self.domain.common.as_path(), key.into()),
            };
            Ok((Resource::new(directory, name, key == REPO_KEY)?, *mode))
        };
        self.resources.iter().map(resource).collect()
    }

    /// Takes directories that have gone out of a request for everything; tells whether there were any.
    pub(super) fn forget_removed(&mut self) -> bool {
        let everything = self.resources.iter().any(|(key, mode)| key == REPO_KEY && *mode == Mode::Exclusive);
        // One that may not be looked at is there.
        let is_missing = |path: &Path| std::fs::metadata(path).is_err_and(|error| fs::is_missing(&error));
        let is_gone = |anchored: &&Anchored| everything && anchored.may_go && is_missing(&anchored.directory);
        let gone: Vec<String> = self.anchored.iter().filter(is_gone).map(|anchored| anchored.key.clone()).collect();
        self.anchored.retain(|anchored| !gone.contains(&anchored.key));
        self.resources.retain(|(key, _)| !gone.contains(key));
        self.parts.retain(|part| !gone.contains(&part.resource));
        !gone.is_empty()
    }

    fn add(&mut self, resource: &str, path: &Path, mode: Mode, anchor: bool) {
        if !anchor {
            self.resources.push((resource.to_owned(), mode));
        }
        let (resource, path) = (resource.to_owned(), path.to_owned());
        self.parts.push(PartPlan { resource, path, mode, anchor, optional: false });
    }
}
