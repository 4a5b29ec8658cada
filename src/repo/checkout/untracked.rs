//! Lists what is in a worktree and unknown to git.

use std::{
    collections::{BTreeSet, HashSet, VecDeque},
    ops::Range,
    path::Path,
};

use super::{
    super::{Index, git, index::SUBMODULE, path_of, run},
    Checkout, paths,
};
use crate::{error::Result, fs, sys};

/// Files that are outside of the index and not ignored, each list sorted by bytes.
#[derive(Debug, Default)]
pub(crate) struct Untracked {
    /// Files and links.
    pub(crate) files: Vec<Vec<u8>>,
    /// Directories that hold no tracked file; not all of them hold one at all.
    pub(crate) directories: Vec<Vec<u8>>,
    /// Other repositories.
    pub(crate) repositories: Vec<Vec<u8>>,
    /// Directories whose paths are longer than the system takes. Their contents are not listed.
    pub(crate) too_deep: Vec<Vec<u8>>,
    /// All entries except tracked files and their directories, ignored ones and FIFOs included, without their contents; `None` if
    /// unknown.
    pub(crate) strays: Option<Vec<Vec<u8>>>,
}

/// Git's list.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) paths: Vec<Vec<u8>>,
    /// As in [`Untracked`]; the end of a path may be missing.
    pub(super) too_deep: Vec<Vec<u8>>,
}

impl Checkout {
    /// Lists files that are outside of the index and not ignored. The repository's own git directories do not belong to the
    /// worktree, even if they are in it under another name than `.git`: `--separate-git-dir`, and dotfiles in a home directory.
    pub(crate) fn untracked(&self, index: &Path) -> Result<Untracked> {
        let strays = self.strays(index)?;
        if strays.as_ref().is_some_and(Vec::is_empty) {
            return Ok(Untracked { strays, ..Untracked::default() });
        }
        let only = strays.as_deref().unwrap_or_default();
        let Listed { paths, mut too_deep } = self.list_files(index, &["--exclude-standard", "--directory"], only)?;
        let (directories, mut files): (Vec<_>, Vec<_>) = paths.into_iter().partition(|path| path.ends_with(b"/"));
        if !directories.is_empty() {
            // Git lists a directory, or what is in it.
            let all = self.list_files(index, &["--exclude-standard"], only)?;
            (files, too_deep) = (all.paths, [too_deep, all.too_deep].concat());
        }
        let bare = |path: Vec<u8>| path[..path.len() - 1].to_vec();
        let own = self.git_directories_inside();
        let is_own = |path: &[u8]| {
            own.iter()
                .any(|own| path.strip_prefix(own.as_slice()).is_some_and(|rest| rest.is_empty() || rest[0] == b'/'))
        };
        files.retain(|path| !is_own(path));
        if self.one_case == Some(false) && self.settings()?.ignore_case {
            let ignored: HashSet<Vec<u8>> = self.ignored(&self.root, &files)?.into_iter().collect();
            files.retain(|path| !ignored.contains(path));
        }
        let (repositories, mut files): (Vec<_>, Vec<_>) = files.into_iter().partition(|path| path.ends_with(b"/"));
        let mut repositories: Vec<_> = repositories.into_iter().map(bare).collect();
        // Git looks into another repository that was made where files of this one are.
        for inner in self.repositories_above(&files) {
            files.retain(|path| !path.starts_with(&[&inner, &b"/"[..]].concat()));
            repositories.push(inner);
        }
        repositories.sort();
        repositories.dedup();
        let others = [repositories.as_slice(), &own].concat();
        let tops =
            directories.into_iter().map(bare).filter(|path| !repositories.contains(path) && !is_own(path)).collect();
        let directories = self.not_ignored_below(tops, &others)?;
        Ok(Untracked { files, directories, repositories, too_deep, strays })
    }

    /// The directories above these paths, below the top, that have a `.git`.
    fn repositories_above(&self, paths: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let slashes = |path: &'_ Vec<u8>| -> Vec<usize> { (0..path.len()).filter(|at| path[*at] == b'/').collect() };
        let above: BTreeSet<&[u8]> =
            paths.iter().flat_map(|path| slashes(path).into_iter().map(|at| &path[..at])).collect();
        let is_one =
            |directory: &&[u8]| std::fs::symlink_metadata(self.root.join(path_of(directory)).join(".git")).is_ok();
        above.into_iter().filter(is_one).map(<[u8]>::to_vec).collect()
    }

    /// The output of `git ls-files --others`, everywhere or only at and below these paths. If git cannot read a directory, it only
    /// warns and leaves the contents out: an error here, unless nobody may read that directory, or it has gone, or its path is too
    /// long.
    pub(super) fn list_files(&self, index: &Path, options: &[&str], only: &[Vec<u8>]) -> Result<Listed> {
        const AS_IF_EMPTY: [&[u8]; 3] = [b"Permission denied", b"No such file or directory", b"Not a directory"];
        const UNOPENED: &[u8] = b"warning: could not open directory '";
        const TOO_LONG: &[u8] = b"': File name too long";
        /// Git cuts its messages at 4096 bytes, so that the reason is missing after such a path.
        const CUT: usize = 4000;
        let arguments = [&["ls-files", "--others", "-z"], options].concat();
        let mut git = self.command(Some(index), &arguments)?;
        git.arg("--").args(only.iter().map(|path| path_of(path)));
        // Its messages are read.
        let output = run::output(git.env("LC_ALL", "C"))?;
        let unopened = output.stderr.split(|byte| *byte == b'\n').filter_map(|line| line.strip_prefix(UNOPENED));
        let (too_long, others): (Vec<_>, Vec<_>) =
            unopened.partition(|line| line.ends_with(TOO_LONG) || line.len() > CUT);
        let is_as_if_empty = |line: &&[u8]| AS_IF_EMPTY.iter().any(|reason| line.ends_with(reason));
        if !output.status.success() || !others.iter().all(is_as_if_empty) {
            return Err(git::failed(&arguments, &output));
        }
        let too_deep = too_long.iter().map(|line| line.strip_suffix(TOO_LONG).unwrap_or(line).to_vec());
        Ok(Listed { paths: paths(&output.stdout), too_deep: too_deep.collect() })
    }

    /// The repository's own git directories that lie in the worktree, by their paths in it.
    fn git_directories_inside(&self) -> Vec<Vec<u8>> {
        let Ok(root) = self.root.canonicalize() else { return Vec::new() };
        let inside = |directory: &Path| {
            let directory = directory.canonicalize().ok()?;
            let path = directory.strip_prefix(&root).ok().filter(|path| !path.as_os_str().is_empty())?;
            Some(sys::bytes(path.as_os_str()).into_owned())
        };
        let mut found: Vec<Vec<u8>> =
            [&self.git_dir, &self.common_dir].into_iter().filter_map(|path| inside(path)).collect();
        found.dedup();
        found
    }

    /// These directories and those below them that are not ignored, and in no other repository.
    fn not_ignored_below(&self, mut level: Vec<Vec<u8>>, repositories: &[Vec<u8>]) -> Result<Vec<Vec<u8>>> {
        let mut found = Vec::new();
        while !level.is_empty() {
            let mut below = Vec::new();
            for directory in &level {
                // Git does not see unreadable entries, either.
                for entry in std::fs::read_dir(self.root.join(path_of(directory))).into_iter().flatten().flatten() {
                    let path = [directory, &b"/"[..], &sys::bytes(&entry.file_name())].concat();
                    if entry.file_type().is_ok_and(|kind| kind.is_dir()) && !repositories.contains(&path) {
                        below.push(path);
                    }
                }
            }
            let ignored: HashSet<Vec<u8>> = self.ignored(&self.root, &below)?.into_iter().collect();
            below.retain(|path| !ignored.contains(path));
            found.append(&mut level);
            level = below;
        }
        found.sort();
        Ok(found)
    }

    /// Finds all entries of the worktree except tracked files and their directories, ignored or not: git need look only at these.
    /// `None` if that is unknown, or there are many.
    pub(super) fn strays(&self, index: &Path) -> Result<Option<Vec<Vec<u8>>>> {
        /// Each is an argument of git's, which compares it with whatever else it sees.
        const MOST: usize = 100;
        let Some(tracked) = Tracked::read(index, self.id_bytes)? else { return Ok(None) };
        // One name may have several spellings.
        let most = if self.is_one_case() || self.settings()?.ignore_case { 0 } else { MOST };
        // Each directory: how long its path is with the slash, and which paths begin with it.
        let mut next = VecDeque::from([(0, 0..tracked.ends.len())]);
        let root = self.tree()?;
        let mut strays = Vec::new();
        let (mut names, mut found): (Vec<u8>, Vec<(Range<usize>, bool)>) = Default::default();
        while let Some((above, range)) = next.pop_front() {
            let Some(known) = tracked.names(above, range.clone()) else { return Ok(None) };
            let directory = &tracked.path(range.start)[..above];
            let place = directory.strip_suffix(b"/").map_or_else(|| Ok(root.top()), |directory| root.at(directory));
            let Ok(place) = place else { return Ok(None) };
            names.clear();
            found.clear();
            let listed = fs::each_entry(&place, |name, is_directory| {
                let start = names.len();
                if above > 0 || name != ".git" {
                    names.extend_from_slice(&sys::bytes(name));
                    found.push((start..names.len(), is_directory));
                }
            });
            if listed.is_err() {
                return Ok(None);
            }
            found.sort_unstable_by_key(|(name, _)| &names[name.clone()]);
            let mut known = known.into_iter().peekable();
            for (name, is_directory) in &found {
                let name = &names[name.clone()];
                while known.next_if(|(known, _)| *known < name).is_some() {}
                match known.next_if(|(known, _)| *known == name) {
                    Some((_, Known::File)) if !is_directory => {}
                    Some((_, Known::Submodule)) if *is_directory => {}
                    Some((_, Known::Directory(range))) if *is_directory => {
                        next.push_back((above + name.len() + 1, range));
                    }
                    // Its `.git` shows a repository in place of a tracked directory.
                    None if strays.len() < most && !name.eq_ignore_ascii_case(b".git") => {
                        strays.push([directory, name].concat());
                    }
                    _ => return Ok(None),
                }
            }
        }
        Ok(Some(strays))
    }
}

/// The paths of an index, in its order.
#[derive(Default)]
struct Tracked {
    paths: Vec<u8>,
    /// The ends of the names.
    ends: Vec<usize>,
    submodules: HashSet<usize>,
}

/// The index's entry for a name in a directory.
enum Known {
    File,
    Submodule,
    /// These of its paths are below it.
    Directory(Range<usize>),
}

impl Tracked {
    /// `None` without an index, or with one that does not hold all paths.
    fn read(index: &Path, id_bytes: usize) -> Result<Option<Self>> {
        let Some(mut index) = Index::open(index, id_bytes)? else { return Ok(None) };
        let mut tracked = Self::default();
        while let Some(entry) = index.next()? {
            if entry.mode == SUBMODULE {
                tracked.submodules.insert(tracked.ends.len());
            }
            tracked.paths.extend_from_slice(entry.path);
            tracked.ends.push(tracked.paths.len());
        }
        Ok(if index.is_partial()? { None } else { Some(tracked) })
    }

    fn path(&self, at: usize) -> &[u8] {
        let start = at.checked_sub(1).map_or(0, |before| self.ends[before]);
        self.ends.get(at).map_or(&[], |end| &self.paths[start..*end])
    }

    /// The names in a directory, sorted; `None` where one of them stands for both a file and a directory.
    fn names(&self, above: usize, range: Range<usize>) -> Option<Vec<(&[u8], Known)>> {
        let mut names: Vec<(&[u8], Known)> = Vec::new();
        for at in range {
            let rest = &self.path(at)[above..];
            let Some(end) = rest.iter().position(|byte| *byte == b'/') else {
                let known = if self.submodules.contains(&at) { Known::Submodule } else { Known::File };
                names.push((rest, known));
                continue;
            };
            match names.last_mut() {
                Some((name, Known::Directory(range))) if *name == &rest[..end] => range.end = at + 1,
                _ => names.push((&rest[..end], Known::Directory(at..at + 1))),
            }
        }
        // Almost: `a-b` stands before `a/`.
        names.sort_by_key(|(name, _)| *name);
        // A conflict has an entry for each side.
        names.dedup_by(|one, other| one.0 == other.0 && matches!((&one.1, &other.1), (Known::File, Known::File)));
        names.windows(2).all(|both| both[0].0 != both[1].0).then_some(names)
    }
}
