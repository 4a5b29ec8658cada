//! Decides owner and permissions of the files that repoguard creates.

use std::{
    ffi::OsStr,
    fs::{File, Metadata},
    io,
    path::Path,
};

use crate::sys::{self, Directory};

/// The permission bits that a repository's configuration wants its files to have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum SharedMode {
    /// Those that the umask leaves.
    #[default]
    Umask,
    /// At least these.
    Add(u32),
    /// These and no others.
    Set(u32),
}

/// Owner and permissions of the files that we create: as `core.sharedRepository` says, at least those of the git directory. Root
/// gives new files to the git directory's owner.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sharing {
    /// Permission bits to add, or, with `exact`, to set.
    bits: u32,
    exact: bool,
    /// Owner of new files: the git directory's, if root creates them.
    owner: Option<(u32, u32)>,
}

impl Sharing {
    /// Reads the owner and the permissions of the git directory.
    pub(crate) fn new(mode: SharedMode, git_dir: Option<&Path>) -> Self {
        let mut sharing = match mode {
            SharedMode::Umask => Self::default(),
            SharedMode::Add(bits) => Self { bits, ..Self::default() },
            SharedMode::Set(bits) => Self { bits, exact: true, owner: None },
        };
        let Some(metadata) = git_dir.and_then(|dir| std::fs::metadata(dir).ok()) else { return sharing };
        // Even without the setting, a group or an access control list may share the directory: a user who cannot see that a waiter
        // has died would wait for it.
        let shared =
            [(0o020, 0o660), (0o002, 0o666)].into_iter().filter(|(write, _)| sys::mode(&metadata) & write != 0);
        if !sharing.exact {
            sharing.bits |= shared.fold(0, |all, (_, bits)| all | bits);
        }
        if sys::effective_user() == 0 {
            sharing.owner = Some(sys::owner(&metadata)).filter(|&(user, _)| user != 0);
        }
        sharing
    }

    /// As the git directory itself is shared.
    pub(crate) fn of(git_dir: Option<&Path>) -> Self {
        Self::new(SharedMode::Umask, git_dir)
    }

    /// The owner only: for files that are the user's own, and not in the git directory.
    pub(crate) fn owner_only(self) -> Self {
        Self { owner: self.owner, ..Self::default() }
    }

    /// Applies to what this process has just created and has open.
    pub(super) fn apply(self, file: &File) -> io::Result<()> {
        if self.bits != 0 {
            let metadata = file.metadata()?;
            let old = sys::mode(&metadata);
            let mut bits = self.bits;
            if metadata.is_dir() || old & 0o100 != 0 {
                // A reader of a directory may search it, and a reader of a script may run it.
                bits |= (bits & 0o444) >> 2;
            }
            if metadata.is_dir() {
                // New entries belong to its group.
                bits |= 0o2000;
            }
            let new = if self.exact { (old & !0o777) | bits } else { old | bits };
            if new != old {
                sys::set_mode(file, new)?;
            }
        }
        match self.owner.map_or(Ok(()), |owner| sys::give_to(file, owner)) {
            // In a user namespace the git directory's owner may have no number, and some file systems have no owners.
            Err(error) if sys::is_owner_error(&error) => Ok(()),
            given => given,
        }
    }

    /// The same to a directory or FIFO that this process has just created.
    pub(super) fn apply_in(
        self,
        directory: &Directory,
        name: &OsStr,
        is_kind: fn(&Metadata) -> bool,
    ) -> io::Result<()> {
        if self.bits == 0 && self.owner.is_none() {
            return Ok(());
        }
        let file = directory.pin(name)?;
        let metadata = file.metadata()?;
        let is_ours = is_kind(&metadata) && sys::owner(&metadata).0 == sys::effective_user();
        if is_ours { self.apply(&file) } else { Err(io::Error::other("somebody else put another file in its place")) }
    }
}
