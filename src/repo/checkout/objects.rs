//! Reads commits, trees and tags in this process, because asking git takes a program for each question.
//!
//! Git has to be asked for replaced and missing objects, and in unusual repositories (SHA-256, reftable, objects borrowed from
//! another one).

use std::{ffi::OsStr, io, path::Path};

use gix_hash::Kind as Hash;
use gix_object::{CommitRef, Find as _, Kind, TagRef, TreeRefIter};
use gix_odb::Header as _;

use super::{
    super::{config, git, state},
    Checkout,
};
use crate::env;

/// Larger commits and trees are for git, in bytes.
const MOST_BYTES: u64 = 16 << 20;

/// Git has to be asked.
pub(super) struct Unknown;

pub(super) type Known<T> = Result<T, Unknown>;

/// The objects of a repository.
pub(super) struct Objects<'a> {
    checkout: &'a Checkout,
    database: gix_odb::Handle,
}

/// An entry of a tree: its mode as git prints it, and its id.
pub(super) type Entry = (String, String);

impl Checkout {
    /// Opens the objects. Objects that are written later are found as well.
    pub(super) fn objects(&self) -> Known<Objects<'_>> {
        let directory = self.common_dir.join("objects");
        let is_elsewhere = ["GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_REPLACE_REF_BASE"]
            .into_iter()
            .any(|name| env::get(name).is_some());
        if is_elsewhere || self.id_bytes != 20 || self.has_reftable() || directory.join("info/alternates").exists() {
            return Err(Unknown);
        }
        // Anything else than a file could block.
        let mut packs = std::fs::read_dir(directory.join("pack")).into_iter().flatten();
        if !packs.all(|pack| pack.is_ok_and(|pack| pack.file_type().is_ok_and(|kind| kind.is_file()))) {
            return Err(Unknown);
        }
        Ok(Objects { checkout: self, database: gix_odb::at(directory, Hash::Sha1).map_err(|_| Unknown)? })
    }
}

impl Checkout {
    /// Whether the housekeeping that git starts after a commit is known to have nothing to do.
    ///
    /// Source: git-gc(1), `gc.auto` and `gc.autoPackLimit` as they are if they are not configured.
    pub(crate) fn is_tidy(&self) -> bool {
        const WORDS: [&[u8]; 4] = [b"[gc", b"gc.", b"[maintenance", b"maintenance."];
        /// Git estimates the number of loose objects from one of 256 directories: 6700 of them are 27 there.
        const MOST: [(&str, usize); 2] = [("17", 27), ("pack", 50)];
        let objects = self.common_dir.join("objects");
        let is_few = |(directory, most): (&str, usize)| match std::fs::read_dir(objects.join(directory)) {
            Ok(entries) => entries.flatten().filter(|entry| !is_beside_pack(&entry.file_name())).count() <= most,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        MOST.into_iter().all(is_few)
            && !config::may_say(&self.git_dir, &self.common_dir, git::program().as_deref(), &WORDS)
    }
}

impl Checkout {
    /// Tells whether these few blobs have these sizes; a missing one has none.
    ///
    /// # Errors
    /// [`crate::Error::Git`].
    pub(crate) fn have_sizes(&self, blobs: &[(String, u64)]) -> crate::Result<bool> {
        let known = self.objects().and_then(|objects| {
            let sizes = blobs.iter().map(|(id, size)| Ok(objects.size(id)? == *size));
            sizes.collect::<Known<Vec<bool>>>()
        });
        if let Ok(same) = known {
            return Ok(same.into_iter().all(|same| same));
        }
        let ids: Vec<u8> = blobs.iter().flat_map(|(id, _)| id.bytes().chain([b'\n'])).collect();
        let sizes = self.sizes(&ids)?;
        Ok(sizes.len() == blobs.len() && sizes.iter().zip(blobs).all(|(found, (_, size))| *found == Some(*size)))
    }
}

/// Whether a file belongs to a pack: its index, for example.
fn is_beside_pack(name: &OsStr) -> bool {
    Path::new(name).extension().is_some_and(|end| end != "pack")
}

impl Objects<'_> {
    /// Parents and tree of a commit.
    pub(super) fn commit(&self, id: &str) -> Known<(Vec<String>, String)> {
        let data = self.read(id, Kind::Commit)?;
        let commit = CommitRef::from_bytes(&data, Hash::Sha1).map_err(|_| Unknown)?;
        Ok((commit.parents().map(|id| id.to_string()).collect(), commit.tree().to_string()))
    }

    /// The entry of a path in a tree.
    pub(super) fn entry(&self, tree: &str, path: &[u8]) -> Known<Option<Entry>> {
        let mut tree = tree.to_owned();
        let mut names = path.split(|byte| *byte == b'/').peekable();
        while let Some(name) = names.next() {
            let data = self.read(&tree, Kind::Tree)?;
            let mut found = None;
            for entry in TreeRefIter::from_bytes(&data, Hash::Sha1) {
                let entry = entry.map_err(|_| Unknown)?;
                if entry.filename == name {
                    found = Some((entry.mode, entry.oid.to_string()));
                }
            }
            match (found, names.peek()) {
                (Some((mode, id)), Some(_)) if mode.is_tree() => tree = id,
                (Some((mode, id)), None) if !mode.is_tree() => return Ok(Some((format!("{:06o}", mode.value()), id))),
                _ => return Ok(None),
            }
        }
        Ok(None)
    }

    /// The commit that an object is, or a tag leads to, if that is one.
    pub(super) fn peeled(&self, id: &str) -> Known<Option<String>> {
        /// More tags than anybody puts one upon the other.
        const MOST: usize = 100;
        let mut id = id.to_owned();
        for _ in 0..MOST {
            match self.kind(&id)?.0 {
                Kind::Commit => return Ok(Some(id)),
                Kind::Tag => {
                    let data = self.read(&id, Kind::Tag)?;
                    id = TagRef::from_bytes(&data, Hash::Sha1).map_err(|_| Unknown)?.target().to_string();
                }
                Kind::Blob | Kind::Tree => return Ok(None),
            }
        }
        Err(Unknown)
    }

    /// The kind of an object, and its size in bytes.
    fn kind(&self, id: &str) -> Known<(Kind, u64)> {
        let is_replaced = || state::is_reference(&self.checkout.common_dir, &format!("refs/replace/{id}"));
        if self.checkout.is_no_file(id) || is_replaced() {
            return Err(Unknown);
        }
        let id = gix_hash::ObjectId::from_hex(id.as_bytes()).map_err(|_| Unknown)?;
        let header = self.database.try_header(&id).ok().flatten().ok_or(Unknown)?;
        Ok((header.kind(), header.size()))
    }

    /// The size of an object in bytes, whether or not it is replaced.
    fn size(&self, id: &str) -> Known<u64> {
        if self.checkout.is_no_file(id) {
            return Err(Unknown);
        }
        let id = gix_hash::ObjectId::from_hex(id.as_bytes()).map_err(|_| Unknown)?;
        self.database.try_header(&id).ok().flatten().map(|header| header.size()).ok_or(Unknown)
    }

    fn read(&self, id: &str, kind: Kind) -> Known<Vec<u8>> {
        let (found, size) = self.kind(id)?;
        if found != kind || size > MOST_BYTES {
            return Err(Unknown);
        }
        let id = gix_hash::ObjectId::from_hex(id.as_bytes()).map_err(|_| Unknown)?;
        let mut data = Vec::new();
        self.database.try_find(&id, &mut data).ok().flatten().ok_or(Unknown)?;
        Ok(data)
    }
}
