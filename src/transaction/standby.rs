//! Keeps large files without a copy: a process stands by, and copies one when somebody is about to write to it.
//!
//! It gives each file a second name in `files/` (`<n>.link`), so that the file can be removed and renamed, and takes a lease: a
//! process that opens the file for writing waits until the bytes are copied to `files/<n>`, on disk. If a file cannot be kept so
//! (another file system, FUSE, a present writer), it is copied at once, as smaller ones are.
//!
//! # Limitations
//! A process that opens such a file for writing with `O_NONBLOCK` fails for as long as the copy takes. If all processes of the
//! mutation are killed, and the command goes on and writes to such a file in place, its bytes are lost; the time stamp shows that,
//! and the file is named.

use std::{
    collections::BTreeSet,
    fs::File,
    path::{Path, PathBuf},
    time::Duration,
};

use super::baseline::record::{Item, Stamp};
use crate::{
    fs::{self, Place, Root, Sharing},
    lock,
    repo::Checkout,
    sys::{self, Channel, Event},
    watcher::{self, Wait},
};

/// Most files that are kept so: each is open.
const MOST: usize = 256;

/// How often to look whether the command still runs, if all else was killed.
const LOOK: Duration = Duration::from_millis(100);

/// The files that are kept so, by their numbers.
const LIST: &str = "leased";

/// The process that stands by, until this is dropped by all who share it.
#[derive(Debug)]
pub(super) struct Standby {
    _channel: Channel,
    /// The numbers of the files that it keeps.
    pub(super) keeps: BTreeSet<usize>,
}

/// The second name of a file.
pub(super) fn link_path(files: &Path, number: usize) -> PathBuf {
    files.join(format!("{number}.link"))
}

impl Standby {
    /// Makes the process, for files of a checkout that are as these items say, numbered from 0. It ends with the mutation, which holds
    /// `lock`. `None` if it cannot keep any.
    pub(super) fn start(checkout: &Checkout, lock: &Path, files: &Path, items: &[&mut Item]) -> Option<Self> {
        if items.is_empty() || sys::is_fuse(&checkout.root) || sys::is_fuse(files) {
            return None;
        }
        let (ours, theirs) = sys::channel().ok()?;
        let list = files.join(LIST);
        watcher::leave(&[sys::number(&theirs)], Wait::UntilReadyAsOrphan, |signals, ready| {
            signals.insist(&[sys::LEASE_BREAKS]);
            // The open file was closed.
            let (Ok(tree), Ok(copies)) = (checkout.tree(), Root::ours(files)) else { return };
            let id = fs::identity(files);
            let keep = |(number, item): (usize, &&mut Item)| {
                let place = tree.at(&item.path).ok()?;
                keep(&place, item.stamp?, &link_path(files, number)).map(|file| (number, file))
            };
            let mut leased: Vec<(usize, File)> = items.iter().enumerate().take(MOST).filter_map(keep).collect();
            let numbers: Vec<String> = leased.iter().map(|(number, _)| number.to_string()).collect();
            if fs::write_new(&list, numbers.join(" ").as_bytes(), Sharing::default()).is_err() {
                return;
            }
            ready();
            let mut alone = false;
            loop {
                let events = [Event::Readable(signals.fd()), Event::Readable(sys::fd(&theirs))];
                let (events, pause) = if alone { (&events[..1], Some(LOOK)) } else { (&events[..], None) };
                let Ok(happened) = sys::poll(events, pause) else { continue };
                drop(signals.take());
                let is_copied =
                    |(number, file): &(usize, File)| sys::lease_breaks(file) && copy(file, &copies, *number);
                leased.retain(|one| !is_copied(one));
                // All others may have been killed, but not the command, which has inherited the mutation's lock.
                alone |= happened.get(1) == Some(&true);
                // Another mutation has this place now.
                if alone && (lock::is_locked(lock) != Some(true) || fs::identity(files) != id) {
                    return;
                }
            }
        })
        .ok()?;
        let text = fs::read_small(&list, 1 << 20).unwrap_or_default();
        let keeps = String::from_utf8_lossy(&text).split(' ').filter_map(|number| number.parse().ok()).collect();
        Some(Self { _channel: ours, keeps })
    }
}

/// Takes a second name and a lease for a file, if it is what it was.
fn keep(place: &Place, was: Stamp, link: &Path) -> Option<File> {
    let file = fs::read_file(place).ok()?;
    sys::lease(&file).ok()?;
    fs::second_name(place, link).ok()?;
    let is_same = |file: &File| file.metadata().is_ok_and(|metadata| was.has_bytes_of(&metadata));
    if is_same(&file) && fs::read_file(link).is_ok_and(|link| is_same(&link)) {
        return Some(file);
    }
    fs::remove(link);
    None
}

/// Copies a file that somebody is about to write to. If that fails they wait, until the system lets them go on.
fn copy(mut file: &File, copies: &Root, number: usize) -> bool {
    use std::io::Seek as _;
    let Ok(to) = copies.at(number.to_string().as_bytes()) else { return false };
    file.rewind().is_ok() && fs::put_file(to, 0o600, None, |copy| std::io::copy(&mut file, copy).map(drop)).is_ok()
}
