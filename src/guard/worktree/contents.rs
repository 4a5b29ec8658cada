//! Finds out what would be lost with a worktree. In doubt there is something.
//!
//! A worktree holds nothing of worth if all of this is true. HEAD is on the branch that was made for it, at the commit that it was
//! made from or, if asked for, at a commit that another branch has. No commit is only in its own log. It has no change, staged or
//! not, and no untracked file (ignored files do not count). It has no merge or rebase in progress, no stash, no submodules and no
//! reference of its own. It is not locked with `git worktree lock`, and no other worktree has its branch.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use super::{super::recovery, git_lock};
use crate::{
    error::Result,
    fs,
    repo::{Changes, Checkout, Head, Manner, Repo, Worktree},
    store::worktrees::{Made, Register, Stage},
    sys,
};

/// The contents of a worktree that repoguard made, beside the commit that it was made from.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub struct Contents {
    /// Commits on its branch.
    pub commits: u64,
    /// Whether another branch or tag leads to all of them.
    pub landed: bool,
    /// Tracked files that are changed, staged or not.
    pub changed: u64,
    /// Files that git does not know, ignored ones left out.
    pub untracked: u64,
    /// Other obstacles to its removal, in words.
    pub also: Vec<String>,
}

impl Contents {
    /// Tells whether there is nothing that would be lost: no commit at all, or, with `landed`, none that only its branch has.
    pub(super) fn is_nothing(&self, landed: bool) -> bool {
        let commits = self.commits == 0 || (landed && self.landed);
        commits && self.changed == 0 && self.untracked == 0 && self.also.is_empty()
    }

    /// A doubt, and nothing else that is known.
    pub(super) fn doubt(why: impl Into<String>) -> Self {
        Self { also: vec![why.into()], ..Self::default() }
    }
}

impl fmt::Display for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |count: u64, what: &str| match count {
            0 => None,
            1 => Some(format!("1 {what}")),
            _ => Some(format!("{count} {what}s")),
        };
        let counted = [
            count(self.commits, "commit").map(|text| if self.landed { format!("{text} (landed)") } else { text }),
            count(self.changed, "changed file"),
            count(self.untracked, "untracked file"),
        ];
        let all: Vec<String> = counted.into_iter().flatten().chain(self.also.iter().cloned()).collect();
        if all.is_empty() { f.write_str("nothing") } else { f.write_str(&all.join(", ")) }
    }
}

/// A worktree that is there, as git knows it.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) worktree: Worktree,
    /// Its directory, as git has it.
    pub(super) place: PathBuf,
}

impl Site {
    /// Finds it; `None` if git has forgotten it, or does not have it yet.
    pub(super) fn find(repo: &Repo, made: &Made) -> Option<Self> {
        // Killed before it could be written down, it has the name that git was to give it.
        let worktree = repo.linked(made.id.as_deref().unwrap_or(&made.name).as_ref())?;
        let is_whole = ["HEAD", "commondir", "gitdir"].iter().all(|file| worktree.git_dir.join(file).is_file());
        let place = repo.seen_from(&worktree.git_dir).root().to_owned();
        // Git gives a name again once it is free.
        let ours = match &made.mark {
            Some(mark) => Self::mark(&worktree).as_ref() == Some(mark),
            None => same(&place, &made.path()),
        };
        (is_whole && ours).then_some(Self { worktree, place })
    }

    /// What tells a linked worktree from a later one of the same name: git writes this file when it makes the worktree, and never
    /// again.
    pub(super) fn mark(worktree: &Worktree) -> Option<String> {
        let metadata = std::fs::symlink_metadata(worktree.git_dir.join("commondir")).ok()?;
        let (modified, size, inode) = sys::stamp(&metadata);
        Some(format!("{modified}-{size}-{inode}"))
    }

    /// Its directory while it is being removed.
    pub(super) fn aside(&self, made: &Made) -> PathBuf {
        aside_of(&self.place, &made.name)
    }
}

/// The directory of a worktree while it is being removed.
pub(super) fn aside_of(place: &Path, name: &str) -> PathBuf {
    place.with_file_name(format!(".repoguard-removing-{name}"))
}

/// Tells whether two paths lead to one place, which need not be there.
fn same(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    one == other || real(one) == real(other)
}

/// The contents that were seen, and the branch's commit then.
pub(super) struct Seen {
    pub(super) contents: Contents,
    pub(super) tip: Option<String>,
}

/// Looks what is in a worktree whose files are at `root`, or are gone.
///
/// Before its command has run, and while it is removed, missing files do not count as work.
pub(super) fn look(
    repo: &Repo,
    manner: Manner,
    (register, made): (&Register, &Made),
    site: &Site,
    root: Option<&Path>,
) -> Result<Seen> {
    let id_bytes = made.base.len() / 2;
    let common = Checkout::common(repo, manner, id_bytes)?;
    // Without the files, git needs another directory to run in.
    let state = root.unwrap_or(&site.worktree.git_dir);
    let checkout = Checkout::linked(repo, manner, &site.worktree.git_dir, state, id_bytes)?;
    let head = repo.head(&site.worktree).unwrap_or_default();
    let tip = common.tip(&made.branch)?;
    let mut contents = Contents { also: doubts(repo, &checkout, made, site, &head)?, ..Contents::default() };
    if root.is_some() {
        let Changes { changed, missing, untracked } = match made.stage {
            Stage::Making => half_made(register, made, &checkout)?,
            Stage::Removing => Changes { missing: 0, ..checkout.changes(None)? },
            _ => checkout.changes(None)?,
        };
        (contents.changed, contents.untracked) = (changed.len() as u64 + missing, untracked);
        match checkout.not_looked_at() {
            Ok(0) => {}
            Ok(count) => contents.also.push(format!("{count} files that git was told not to look at")),
            // Without an index git was not told anything.
            Err(_) if made.stage == Stage::Making => {}
            Err(error) => return Err(error),
        }
    }
    of_commits(&common, made, tip.as_deref(), checkout.visited().into_iter().chain(head.commit), &mut contents);
    Ok(Seen { contents, tip })
}

/// Obstacles to the removal of a worktree, beside files and commits.
fn doubts(repo: &Repo, checkout: &Checkout, made: &Made, site: &Site, head: &Head) -> Result<Vec<String>> {
    let mut doubts = Vec::new();
    let mut doubt = |why: String| doubts.push(why);
    match head {
        Head { branch: Some(branch), .. } if *branch == made.branch => {}
        Head { branch: Some(branch), .. } => doubt(format!("HEAD is on {}", short(branch))),
        Head { commit: Some(_), .. } => doubt("HEAD is on no branch".to_owned()),
        Head { .. } => doubt("HEAD cannot be read".to_owned()),
    }
    let elsewhere = repo.worktrees()?.into_iter().filter(|other| *other != site.worktree);
    if elsewhere.filter_map(|other| repo.head(&other)?.branch).any(|branch| branch == made.branch) {
        doubt("its branch is checked out elsewhere, too".to_owned());
    }
    if let Some(operation) = checkout.operation() {
        doubt(format!("a {operation} in progress"));
    }
    if git_lock::is_users(&site.worktree) {
        doubt("locked with `git worktree lock`".to_owned());
    }
    if fs::identity(&site.worktree.git_dir.join("modules")).is_some() {
        doubt("submodules".to_owned());
    }
    if recovery::is_in_the_way(repo, &site.worktree) {
        doubt("a mutation that was killed".to_owned());
    }
    if !checkout.own_references()?.is_empty() {
        doubt("references of its own".to_owned());
    }
    match checkout.stashed_on(made.short_branch(), made.stash.as_deref())? {
        0 => {}
        count => doubt(format!("{count} in the stash")),
    }
    Ok(doubts)
}

/// The same for a worktree that has gone: only its branch may be left.
pub(super) fn look_at_branch(repo: &Repo, manner: Manner, made: &Made) -> Result<Seen> {
    let common = Checkout::common(repo, manner, made.base.len() / 2)?;
    let mut contents = Contents::default();
    // One of the same name may have been made after ours was deleted.
    let tip = match common.tip(&made.branch)? {
        Some(tip) if common.is_made_by_us(&made.branch)? => Some(tip),
        _ => None,
    };
    let checked_out =
        |other: &Worktree| repo.head(other).is_some_and(|head| head.branch.as_ref() == Some(&made.branch));
    if tip.is_some() && repo.worktrees()?.iter().any(checked_out) {
        contents.also.push("its branch is checked out elsewhere".to_owned());
    }
    of_commits(&common, made, tip.as_deref(), [], &mut contents);
    Ok(Seen { contents, tip })
}

fn of_commits(
    common: &Checkout,
    made: &Made,
    tip: Option<&str>,
    visited: impl IntoIterator<Item = String>,
    contents: &mut Contents,
) {
    let all: Vec<String> = visited.into_iter().chain(tip.map(str::to_owned)).collect();
    let lost = common.would_lose(&all, &made.branch, &made.base);
    // A branch that has left `base` without a commit of its own was moved on purpose.
    let moved = u64::from(tip.is_some_and(|tip| tip != made.base));
    let ahead = if moved == 0 { Ok(0) } else { common.ahead(&made.base, &made.branch) };
    let (Ok(lost), Ok(ahead)) = (lost, ahead) else {
        contents.commits = moved;
        contents.also.push("commits that git cannot read".to_owned());
        return;
    };
    (contents.commits, contents.landed) = (ahead.max(moved), moved > 0 && !lost);
    if lost && moved == 0 {
        contents.also.push("commits that are on no branch".to_owned());
    }
}

/// The differences from the commit after git was killed while it wrote the files, or failed. A missing file, or one with only the
/// beginning of its content, does not count: it was never anything else.
fn half_made(register: &Register, made: &Made, checkout: &Checkout) -> Result<Changes> {
    let index = register.passing(&made.name);
    let forget = || register.forget_passing(&made.name);
    forget();
    let found = checkout.index_of(&made.base, &index).and_then(|()| checkout.changes(Some(&index)));
    forget();
    let mut changes = Changes { missing: 0, ..found? };
    changes.changed.retain(|path| !checkout.is_beginning_of(path, &made.base));
    Ok(changes)
}

fn short(branch: &str) -> &str {
    branch.strip_prefix("refs/heads/").unwrap_or(branch)
}
