//! Reads, moves, keeps and puts back references and commits.

use std::{
    collections::HashMap,
    ffi::OsStr,
    io::Write as _,
    path::{Path, PathBuf},
};

use super::{
    super::{Head, discovery::refuse_blocking_references, git, run},
    Checkout, HEAD, STASH, line,
};
use crate::{
    error::{Error, Result},
    fs::{self, Root},
};

/// A reference.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub(crate) struct Reference {
    pub(crate) name: String,
    pub(crate) id: String,
    /// The target of a symbolic one.
    pub(crate) target: Option<String>,
    /// Its commit, if it leads to one.
    pub(crate) commit: Option<String>,
    /// Its name is not UTF-8: it is seen, but never moved.
    pub(crate) is_odd: bool,
}

impl Checkout {
    /// The tree of HEAD: a commit's, or the empty one without a commit.
    pub(crate) fn tree_of(&self, head: &Head) -> String {
        const EMPTY: &str = "4b825dc642cb6eb9a060e54bf8d69288fbee4904";
        const EMPTY_SHA256: &str = "6ef19b41225c5369f1c104d45d8d85efa9b057b53b14b4b9b939dd74decc5321";
        let empty = if self.id_bytes == 32 { EMPTY_SHA256 } else { EMPTY };
        head.commit.as_deref().unwrap_or(empty).to_owned()
    }

    /// The file of a loose reference.
    pub(crate) fn file_of_reference(&self, name: &str) -> PathBuf {
        self.common_dir.join(name)
    }

    /// All references but HEAD, sorted by name: name, id, and what a symbolic one points to.
    pub(crate) fn references(&self) -> Result<Vec<Reference>> {
        refuse_blocking_references(&self.git_dir, &self.common_dir)?;
        self.references_in_files().map_or_else(|| self.references_by_git(), Ok)
    }

    pub(super) fn references_by_git(&self) -> Result<Vec<Reference>> {
        let format =
            "--format=%(refname)%00%(objectname)%00%(symref)%00%(objecttype)%00%(*objecttype)%00%(*objectname)";
        let answer = self.ask(&["for-each-ref", format])?;
        let lines = answer.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let mut found: Vec<Reference> = lines
            .map(|line| {
                let mut fields = line.split(|byte| *byte == 0);
                let name = fields.next().unwrap_or_default();
                let mut text = || String::from_utf8_lossy(fields.next().unwrap_or_default()).into_owned();
                let (id, target, kind, peeled_kind, peeled) = (text(), text(), text(), text(), text());
                let commit =
                    if kind == "commit" { Some(id.clone()) } else { (peeled_kind == "commit").then_some(peeled) };
                let readable = String::from_utf8(name.to_vec()).ok();
                Reference {
                    is_odd: readable.is_none(),
                    name: readable.unwrap_or_else(|| String::from_utf8_lossy(name).into_owned()),
                    id,
                    target: Some(target).filter(|target| !target.is_empty()),
                    commit,
                }
            })
            .collect();
        found.sort();
        Ok(found)
    }

    /// As [`Checkout::references`], read in this process; `None` where only git knows.
    pub(super) fn references_in_files(&self) -> Option<Vec<Reference>> {
        let objects = self.objects().ok()?;
        let (own, common) = (self.git_dir.clone(), self.common_dir.clone());
        let store = if own == common {
            gix_ref::file::Store::at(own, gix_hash::Kind::Sha1)
        } else {
            gix_ref::file::Store::for_linked_worktree(own, common, gix_hash::Kind::Sha1)
        };
        let (mut found, mut symbolic) = (Vec::new(), Vec::new());
        for one in store.iter().ok()?.all().ok()? {
            let one = one.ok()?;
            let name = String::from_utf8(one.name.as_bstr().to_vec()).ok()?;
            match one.target {
                gix_ref::Target::Object(id) => {
                    let id = id.to_string();
                    let commit = objects.peeled(&id).ok()?;
                    found.push(Reference { name, id, target: None, commit, is_odd: false });
                }
                gix_ref::Target::Symbolic(target) => {
                    symbolic.push((name, String::from_utf8(target.as_bstr().to_vec()).ok()?));
                }
            }
        }
        let plain: HashMap<&str, &Reference> = found.iter().map(|one| (one.name.as_str(), one)).collect();
        // Git resolves references to other symbolic ones, and broken ones.
        let resolved = symbolic.into_iter().map(|(name, target)| {
            let one = plain.get(target.as_str())?;
            Some(Reference { name, target: Some(target), ..(*one).clone() })
        });
        let resolved: Vec<Reference> = resolved.collect::<Option<_>>()?;
        found.extend(resolved);
        found.sort();
        Some(found)
    }

    /// Moves references in one transaction, each from the id that it is expected to have; `None` is "none".
    pub(crate) fn move_references(&self, moves: &[(String, Option<String>, Option<String>)]) -> Result<()> {
        if moves.is_empty() {
            return Ok(());
        }
        let none = "0".repeat(self.id_bytes * 2);
        let mut input = Vec::new();
        for (name, from, to) in moves {
            let from = from.as_deref().unwrap_or(&none);
            match to {
                Some(to) => {
                    input.extend_from_slice(format!("option no-deref\0update {name}\0{to}\0{from}\0").as_bytes());
                }
                None => input.extend_from_slice(format!("option no-deref\0delete {name}\0{from}\0").as_bytes()),
            }
        }
        let arguments = ["update-ref", "-m", "repoguard: put back", "--stdin", "-z"];
        self.run(None, &arguments, Some(&input)).map(drop)
    }

    /// Points a symbolic reference somewhere, HEAD say.
    pub(crate) fn point(&self, name: &str, target: &str) -> Result<()> {
        self.ask(&["symbolic-ref", "-m", "repoguard: put back", name, target]).map(drop)
    }

    /// A commit from which all of these can be reached: the one, or a new one that has them as parents.
    pub(crate) fn joined(&self, commits: &[String]) -> Result<Option<String>> {
        match commits {
            [] => Ok(None),
            [commit] => Ok(Some(commit.clone())),
            [first, ..] => {
                let tree = format!("{first}^{{tree}}");
                let mut arguments =
                    vec!["commit-tree", "--no-gpg-sign", "-m", "repoguard: keeps these while a mutation runs", &tree];
                arguments.extend(commits.iter().flat_map(|commit| ["-p", commit]));
                let mut git = self.command(None, &arguments)?;
                // The same commit each time, whatever its maker.
                for (name, value) in [("NAME", "repoguard"), ("EMAIL", ""), ("DATE", "@0 +0000")] {
                    git.env(format!("GIT_AUTHOR_{name}"), value).env(format!("GIT_COMMITTER_{name}"), value);
                }
                let output = run::output(&mut git)?;
                if !output.status.success() {
                    return Err(git::failed(&arguments, &output));
                }
                Ok(Some(line(&output.stdout)))
            }
        }
    }

    /// Writes a file that [`Checkout::protect`] makes a reference of; it has to be synced before. Anybody who may work in the git
    /// directory may remove it.
    pub(crate) fn put_passing(&self, passing: &Path, commit: &str) -> Result<()> {
        let mode = fs::metadata(self.git_dir.as_path())?.permissions();
        fs::put_file_of_many(passing, mode & 0o666, None, |file| writeln!(file, "{commit}"))
    }

    /// Keeps the commit that a file of [`Checkout::put_passing`] names from being pruned: the file becomes a reference of ours.
    pub(crate) fn protect(&self, name: &str, passing: &Path) -> Result<()> {
        self.unlock(name)?;
        if self.has_reftable() {
            let text = std::fs::read_to_string(passing).map_err(Error::io("read", passing))?;
            let arguments = ["-c", "core.logAllRefUpdates=false", "update-ref", "--no-deref", name, text.trim()];
            return self.ask(&arguments).map(drop);
        }
        // Nobody else writes it, so git's lock is not needed.
        let mode = fs::metadata(self.git_dir.as_path())?.permissions();
        let own = self.own_directory()?;
        if let Some((directory, _)) = name.rsplit_once('/') {
            let directory = own.at(directory.as_bytes())?;
            fs::make_directories(&directory, None)?;
            if mode & 0o022 != 0 {
                // Without `/proc` a mode cannot be set, and others cannot recover.
                drop(fs::set_mode(&directory, mode));
            }
        }
        fs::move_entry(passing, &own.at(name.as_bytes())?)
    }

    /// Removes such a reference, and the directory that was made for it. A missing one is as good as removed.
    ///
    /// Not by git, which takes the lock of all packed references for it, and leaves that lock when it is killed: a worktree's own
    /// reference is never packed.
    pub(crate) fn forget(&self, name: &str) -> Result<()> {
        if self.has_reftable() {
            return self.ask(&["update-ref", "--no-deref", "-d", name]).map(drop);
        }
        self.unlock(name)?;
        let own = self.own_directory()?;
        fs::remove_entry(&own.at(name.as_bytes())?)?;
        match name.rsplit_once('/') {
            Some((directory, _)) => fs::remove_if_empty(&own.at(directory.as_bytes())?).map(drop),
            None => Ok(()),
        }
    }

    /// Removes git's lock of a reference that is ours alone: one of our own gits was killed, or could not remove it.
    fn unlock(&self, name: &str) -> Result<()> {
        fs::remove_entry(&self.own_directory()?.at(format!("{name}.lock").as_bytes())?)
    }

    /// The git directory, for changing what is in it: no link leads elsewhere.
    fn own_directory(&self) -> Result<Root> {
        Root::open(&self.git_dir, |_| false)
    }

    /// The commits that the stash holds, newest first.
    pub(crate) fn stashed(&self) -> Result<Vec<String>> {
        self.logged(STASH)
    }

    /// The commits that the log of a reference names, newest first.
    pub(super) fn logged(&self, name: &str) -> Result<Vec<String>> {
        let answer = self.ask(&["log", "--walk-reflogs", "--no-show-signature", "--format=%H", name, "--"])?;
        Ok(String::from_utf8_lossy(&answer).lines().map(str::to_owned).collect())
    }

    /// Tells whether something is missing that a commit leads to, and others do not.
    pub(crate) fn misses_objects(&self, commit: &str, without: &[String]) -> Result<bool> {
        let mut arguments = vec!["rev-list", "--objects", "--quiet", "--missing=print", commit, "--not"];
        arguments.extend(without.iter().map(String::as_str));
        self.ask(&arguments).map(|missing| missing.starts_with(b"?"))
    }

    /// Packs objects into a file, each by its id.
    pub(crate) fn pack(&self, ids: &[String]) -> Result<Vec<u8>> {
        let input = ids.iter().flat_map(|id| id.bytes().chain([b'\n'])).collect::<Vec<u8>>();
        self.run(None, &["pack-objects", "--stdout", "--quiet"], Some(&input))
    }

    /// Puts such objects back if they are missing.
    pub(crate) fn unpack(&self, pack: &[u8]) -> Result<()> {
        self.run(None, &["unpack-objects", "-q"], Some(pack)).map(drop)
    }

    /// Tells whether there is a symbolic reference of this name, whether or not it leads anywhere.
    pub(crate) fn is_symbolic(&self, name: &str) -> Result<bool> {
        Ok(self.output(None, &["symbolic-ref", "--quiet", name], None)?.status.success())
    }

    /// Removes a symbolic reference.
    pub(crate) fn remove_symbolic(&self, name: &str) -> Result<()> {
        self.ask(&["symbolic-ref", "--delete", name]).map(drop)
    }

    /// Writes the file HEAD if it is missing: without it git does not know the repository.
    pub(crate) fn put_missing_head(&self, head: &Head) -> Result<()> {
        let place = self.own_directory()?.at(HEAD.as_bytes())?;
        let text = match head {
            Head { branch: Some(branch), .. } => format!("ref: {branch}\n"),
            Head { commit: Some(commit), .. } => format!("{commit}\n"),
            Head { .. } => return Ok(()),
        };
        if fs::find(&place)?.is_some() {
            return Ok(());
        }
        let mode = fs::metadata(self.git_dir.as_path())?.permissions();
        fs::put_file(&place, mode & 0o666, None, |file| file.write_all(text.as_bytes()))
    }

    /// Sets HEAD itself to a commit, on no branch.
    pub(crate) fn detach(&self, commit: &str) -> Result<()> {
        self.ask(&["update-ref", "--no-deref", "-m", "repoguard: put back", "HEAD", commit]).map(drop)
    }

    /// Keeps in a bundle what some references lead to and others do not; `false` if that is nothing.
    pub(crate) fn bundle(&self, file: &Path, references: &[String], without: &[String]) -> Result<bool> {
        let fixed: [&OsStr; 4] = ["bundle".as_ref(), "create".as_ref(), "--quiet".as_ref(), file.as_os_str()];
        let without: Vec<String> = without.iter().map(|id| format!("^{id}")).collect();
        let names = references.iter().chain(&without).map(|name| OsStr::new(name.as_str()));
        let arguments: Vec<&OsStr> = fixed.into_iter().chain(names).collect();
        Ok(self.output(None, &arguments, None)?.status.success())
    }

    /// Tells whether one commit can be reached from another.
    pub(crate) fn is_ancestor(&self, commit: &str, of: &str) -> Result<bool> {
        let arguments = ["merge-base", "--is-ancestor", commit, of];
        Ok(self.output(None, &arguments, None)?.status.success())
    }

    /// Parents and tree of a commit.
    pub(crate) fn parents_and_tree(&self, commit: &str) -> Result<(Vec<String>, String)> {
        if let Ok(found) = self.objects().and_then(|objects| objects.commit(commit)) {
            return Ok(found);
        }
        let answer = self.ask(&["cat-file", "commit", commit])?;
        let text = String::from_utf8_lossy(&answer);
        let header = |name: &'static str| {
            let lines = text.lines().take_while(|line| !line.is_empty());
            lines.filter_map(move |line| line.strip_prefix(name)).map(str::to_owned).collect::<Vec<_>>()
        };
        Ok((header("parent "), header("tree ").pop().unwrap_or_default()))
    }
}
