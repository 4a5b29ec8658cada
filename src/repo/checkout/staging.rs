//! Puts files and entries into an index.
//!
//! A few files are stored by this process, without starting a git, if git would store them as they are. Git does it if something may
//! convert them, if the repository is an unusual one, and if a path needs git's judgement.

use std::{
    collections::{BTreeMap, HashSet},
    fs::File,
    io::{self, Read as _, Write as _},
    path::Path,
};

use gix_hash::{Kind as Hash, ObjectId};
use gix_object::{Kind, compute_hash, encode::loose_header};
use gix_zlib::{Compression, stream::deflate};

use super::{
    super::{
        Index, config, git,
        index::{Edits, NewEntry, Stat},
        path_of,
    },
    Checkout,
    objects::{Known, Unknown},
};
use crate::{
    error::Result,
    fs::{self, Place, Root, Sharing},
    sys,
};

/// More files than these are for git, which writes them to disk together.
const MOST_FILES: usize = 16;
/// A larger file is for git, in bytes.
const MOST_BYTES: u64 = 16 << 20;

/// What git says of a path that it does not add.
const REFUSED: &[u8] = b"Ignoring path ";

/// An entry for an index: mode (`0` removes it), id, path.
pub(crate) type RawEntry = (String, String, Vec<u8>);

impl Checkout {
    /// Brings an index of ours up to date with files: removes entries, then adds those of `changed`, with the user's filters, or
    /// removes them if the file is not there. The index gets no checksum: that takes as long as all else here, and the commit writes it
    /// again.
    pub(crate) fn stage(&self, index: &Path, remove: &[Vec<u8>], changed: &[Vec<u8>]) -> Result<()> {
        if remove.is_empty() && changed.is_empty() {
            return Ok(());
        }
        if self.stage_here(index, remove, changed).is_ok() {
            return Ok(());
        }
        let removals: Vec<_> = remove.iter().map(|path| ("0".to_owned(), String::new(), path.clone())).collect();
        self.set_entries(index, &removals)?;
        if changed.is_empty() {
            return Ok(());
        }
        let input: Vec<u8> = changed.iter().flat_map(|path| path.iter().copied().chain([0])).collect();
        let fixed = ["-c", "index.skipHash=true", "update-index", "--add", "--remove", "--replace"];
        let fixed = [&fixed[..], &["--ignore-skip-worktree-entries", "-z", "--stdin"]].concat();
        let arguments = [git::durable(changed.len()), fixed].concat();
        let output = self.output(Some(index), &arguments, Some(&input))?;
        // That is all that git has against a name that may lead into a git directory elsewhere.
        let is_ignored = output.stderr.windows(REFUSED.len()).any(|part| part == REFUSED);
        if output.status.success() && !is_ignored { Ok(()) } else { Err(git::failed(&arguments, &output)) }
    }

    /// Puts entries into an index as they are.
    pub(crate) fn set_entries(&self, index: &Path, entries: &[RawEntry]) -> Result<()> {
        if entries.is_empty() {
            return Ok(());
        }
        let none = "0".repeat(self.id_bytes * 2);
        let mut input = Vec::new();
        for (mode, id, path) in entries {
            let line =
                if mode.trim_start_matches('0').is_empty() { format!("0 {none}\t") } else { format!("{mode} {id}\t") };
            input.extend_from_slice(line.as_bytes());
            input.extend_from_slice(path);
            input.push(0);
        }
        self.run(Some(index), &["update-index", "-z", "--index-info"], Some(&input)).map(drop)
    }

    /// Sets a flag of entries of an index, given as the option of `git update-index`.
    pub(crate) fn flag(&self, index: &Path, flag: &str, paths: &[Vec<u8>]) -> Result<()> {
        if paths.is_empty() {
            return Ok(());
        }
        let input: Vec<u8> = paths.iter().flat_map(|path| path.iter().copied().chain([0])).collect();
        self.run(Some(index), &["update-index", flag, "-z", "--stdin"], Some(&input)).map(drop)
    }

    /// Sees to it that an index has a checksum, without which other programs than git do not take it.
    pub(crate) fn seal(&self, index: &Path) -> Result<()> {
        if Index::has_checksum(index, self.id_bytes)? {
            return Ok(());
        }
        self.run(Some(index), &["update-index", "--force-write-index"], None).map(drop)
    }

    /// Makes an index that is split or sparse one that holds all entries.
    pub(crate) fn unfold(&self, index: &Path) -> Result<()> {
        let arguments = [
            "-c",
            "index.sparse=false",
            "-c",
            "core.splitIndex=false",
            "update-index",
            "--no-split-index",
            "--force-write-index",
        ];
        self.run(Some(index), &arguments, None).map(drop)
    }

    /// Lets an index know the stat data of the files that have not changed.
    pub(crate) fn refresh(&self, index: &Path) -> Result<()> {
        // Its status tells that some have changed. In a sparse checkout git would take flags from files that are there.
        let arguments = ["-c", "core.sparseCheckout=false", "update-index", "-q", "--refresh"];
        self.output(Some(index), &arguments, None).map(drop)
    }

    /// [`Checkout::stage`] without a git.
    pub(super) fn stage_here(&self, index: &Path, remove: &[Vec<u8>], changed: &[Vec<u8>]) -> Known<()> {
        if changed.len() > MOST_FILES || !self.stores_files_as_they_are(changed)? {
            return Err(Unknown);
        }
        // Refuses unusual repositories.
        self.objects()?;
        let mut edits: Edits = remove.iter().map(|path| (path.clone(), None)).collect();
        let mut blobs = BTreeMap::new();
        let tree = self.tree().map_err(|_| Unknown)?;
        for path in changed {
            let (mode, stat, bytes) = read(&tree, path)?;
            let id = compute_hash(Hash::Sha1, Kind::Blob, &bytes).map_err(|_| Unknown)?;
            blobs.insert(id, encoded(&bytes).map_err(|_| Unknown)?);
            edits.insert(path.clone(), Some(NewEntry { mode, id: id.as_bytes().to_vec(), stat }));
        }
        // The disk needs longer for them than all else takes.
        std::thread::scope(|scope| {
            let store = |(id, blob): (&ObjectId, &Vec<u8>)| self.write_object(&id.to_string(), blob, index);
            let writers: Vec<_> = blobs.iter().map(|blob| sys::beside(scope, move || store(blob))).collect();
            let are_stored = || writers.into_iter().all(|writer| writer.join().is_ok());
            self.edit(index, &edits, are_stored)
        })
    }

    /// Whether git would store these files byte by byte, and with the modes that they have.
    fn stores_files_as_they_are(&self, changed: &[Vec<u8>]) -> Known<bool> {
        if changed.is_empty() {
            return Ok(true);
        }
        if self.is_one_case() || config::may_alter_files(&self.git_dir, &self.common_dir, git::program().as_deref()) {
            return Ok(false);
        }
        let attributes: HashSet<Vec<u8>> = changed
            .iter()
            .flat_map(|path| (0..path.len()).filter(|at| path[*at] == b'/').map(|at| &path[..=at]).chain([&path[..0]]))
            .map(|directory| [directory, &b".gitattributes"[..]].concat())
            .collect();
        let attributes: Vec<Vec<u8>> = attributes.into_iter().collect();
        Ok(!self.conversion(&attributes).map_err(|_| Unknown)?.any())
    }

    /// Writes an object of this repository, to disk. Until it is whole it is beside an index of ours: git does not remove our leftovers.
    fn write_object(&self, id: &str, encoded: &[u8], index: &Path) -> Result<()> {
        let beside = index.with_extension(id);
        fs::Beside::write(&beside, encoded, 0o444, Sharing::default())?.replace()?;
        let directory = self.common_dir.join("objects").join(&id[..2]);
        if !directory.exists() {
            fs::make_directory(&directory, Sharing::default())?;
        }
        fs::rename(&beside, &directory.join(&id[2..]))
    }

    /// Replaces an index of ours by a changed copy. It keeps its time: the new entries are then as young as the index, so git
    /// compares the files once more before it trusts their stat data. `are_stored` waits for the objects, which must exist before
    /// the index names them.
    fn edit(&self, index: &Path, edits: &Edits, are_stored: impl FnOnce() -> bool) -> Known<()> {
        let source = Index::open(index, self.id_bytes).map_err(|_| Unknown)?.ok_or(Unknown)?;
        let metadata = std::fs::metadata(index).map_err(|_| Unknown)?;
        let modified = metadata.modified().map_err(|_| Unknown)?;
        let mut hidden = false;
        // Git takes the attributes of a file that is not in the worktree from the index.
        let is_hidden = |path: &[u8]| {
            (path == b".gitattributes" || path.ends_with(b"/.gitattributes"))
                && std::fs::symlink_metadata(self.root.join(path_of(path))).is_err()
        };
        let owner = Some(sys::owner(&metadata)).filter(|_| sys::effective_user() == 0);
        let put = fs::put_file_of_many(index, sys::mode(&metadata), owner, |file| {
            let is_done =
                source.edit(edits, file, |entry| hidden |= is_hidden(entry.path)).is_ok_and(|is_done| is_done);
            if is_done && !hidden && are_stored() {
                file.set_modified(modified)
            } else {
                Err(io::ErrorKind::Unsupported.into())
            }
        });
        put.map_err(|_| Unknown)
    }
}

/// A blob as the file of an object has it.
fn encoded(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = deflate::Write::new(Vec::new(), Compression::BEST_SPEED);
    encoder.write_all(&loose_header(Kind::Blob, bytes.len() as u64))?;
    encoder.write_all(bytes)?;
    encoder.flush()?;
    Ok(encoder.into_inner())
}

/// Mode, stat data and content of a file or link as git stores it, unless it is written meanwhile.
fn read(tree: &Root, path: &[u8]) -> Known<(u32, Stat, Vec<u8>)> {
    if !path.split(|byte| *byte == b'/').all(is_plain) {
        return Err(Unknown);
    }
    let place: Place = tree.at(path).map_err(|_| Unknown)?;
    let look = || fs::metadata(&place).map_err(|_| Unknown);
    let found = look()?;
    let stat = || std::fs::symlink_metadata(place.path()).map(|metadata| Stat::of(&metadata)).map_err(|_| Unknown);
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
    if found.is_link() && name.get(..4).is_some_and(|start| start.eq_ignore_ascii_case(b".git")) {
        // Git takes some of them and refuses others.
        return Err(Unknown);
    }
    let (mode, stat, bytes) = if found.is_link() {
        let target = fs::read_link(&place).map_err(|_| Unknown)?;
        (sys::LINK, stat()?, sys::bytes(target.as_os_str()).into_owned())
    } else if found.is_file() && found.permissions() & 0o400 != 0 && found.size <= MOST_BYTES {
        let mut bytes = Vec::new();
        let file: File = fs::read_file(&place).map_err(|_| Unknown)?;
        file.take(MOST_BYTES + 1).read_to_end(&mut bytes).map_err(|_| Unknown)?;
        let executable = found.permissions() & 0o100 != 0;
        (sys::REGULAR | if executable { 0o755 } else { 0o644 }, stat()?, bytes)
    } else {
        return Err(Unknown);
    };
    let is_same = (stat.changed, stat.modified, stat.inode) == (found.ctime, found.mtime, found.inode);
    if is_same && bytes.len() as u64 == found.size && look()? == found { Ok((mode, stat, bytes)) } else { Err(Unknown) }
}

/// Whether git takes a name into an index on any system, whatever is configured.
fn is_plain(name: &[u8]) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-+@=,% #&()[]{}!^'$;".contains(byte);
    !name.is_empty()
        && name.iter().all(is_plain)
        && !name.get(..4).is_some_and(|start| {
            start.eq_ignore_ascii_case(b".git")
                && !matches!(&name[4..], b"ignore" | b"attributes" | b"modules" | b"keep")
        })
        && !matches!(name, b"." | b"..")
}
