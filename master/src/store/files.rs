//! Files that are there in full or not at all.
//!
//! Invariant: a function here that returns `Ok` has synced the file and the directory that names
//! it (a file whose directory was not synced can vanish with its content intact).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use borg_cell::store::StoreError;

use super::fault::{Call, may};
use crate::clock;

/// Ending of files that are being written.
pub(super) const TEMPORARY: &str = ".tmp";
/// A large file is synced each time that this much was written, in bytes: what waits behind one
/// sync, another file's commit perhaps, waits for no more than this.
const PIECE_BYTES: usize = 1 << 20;
/// Time that a large file stays away from the disk after each piece, as a multiple of the piece's
/// own. 3: our choice; a checkpoint may take its time, and so holds the disk a quarter of it.
/// `master/benches/checkpoint.rs` shows what it does to commits.
const REST: u32 = 3;
/// Longest such rest.
const MAX_REST: Duration = Duration::from_millis(100);

/// Syncs the names in a directory.
pub(super) fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    may(Call::Sync)
        .and_then(|()| File::open(dir)?.sync_all())
        .map_err(|error| StoreError::failed(format!("sync directory {}", dir.display()), error))
}

/// Syncs every file and directory under `path`, and `path`.
pub(super) fn sync_tree(path: &Path) -> Result<(), StoreError> {
    let failed = |error| StoreError::failed(format!("sync {}", path.display()), error);
    if path.is_dir() {
        for child in fs::read_dir(path).map_err(failed)? {
            sync_tree(&child.map_err(failed)?.path())?;
        }
    }
    may(Call::Sync).and_then(|()| File::open(path)?.sync_all()).map_err(failed)
}

/// Gives a file or directory its name.
pub(super) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    may(Call::Rename)?;
    fs::rename(from, to)
}

/// Makes the file `dir/name` with `content`: under a temporary name, synced, renamed.
pub(super) fn create_whole(dir: &Path, name: &str, content: &[u8]) -> Result<(), StoreError> {
    let target = dir.join(name);
    let temporary = dir.join(format!("{name}{TEMPORARY}"));
    let make = || {
        may(Call::Create)?;
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).open(&temporary)?;
        may(Call::Write)?;
        file.write_all(content)?;
        may(Call::Sync)?;
        file.sync_all()?;
        rename(&temporary, &target)
    };
    make().map_err(|error| StoreError::failed(format!("write {}", target.display()), error))?;
    sync_dir(dir)
}

/// Reads a file that must be there: one that is missing is damage, not a failure.
pub(super) fn read_whole(path: &Path, at: u64) -> Result<Vec<u8>, StoreError> {
    may(Call::Open).and_then(|()| fs::read(path)).map_err(|error| {
        if error.kind() == io::ErrorKind::NotFound {
            StoreError::broken(at, format!("{} is missing", path.display()))
        } else {
            StoreError::failed(format!("read {}", path.display()), error)
        }
    })
}

/// Removes a file. One that cannot be removed costs room and nothing else, so that is only logged.
pub(super) fn remove(path: &Path) {
    match may(Call::Remove).and_then(|()| fs::remove_file(path)) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(%error, path = %path.display(), "cannot remove a file"),
    }
}

/// How a large file is written.
#[derive(Debug, Clone)]
pub(super) enum Pace {
    /// As fast as the disk takes it.
    Fast,
    /// With rests, so that others get at the disk in between, unless somebody waits for the file.
    Polite {
        /// By which index the file is known to those who may wait for it.
        index: u64,
        /// The index of the file that somebody waits for.
        wanted: Arc<AtomicU64>,
    },
}

impl Pace {
    fn rests(&self) -> bool {
        match self {
            Self::Fast => false,
            Self::Polite { index, wanted } => wanted.load(Ordering::Relaxed) != *index,
        }
    }
}

/// A large file in the making. It has no name until [`Large::finish`].
#[derive(Debug)]
pub(super) struct Large {
    dir: PathBuf,
    temporary: PathBuf,
    file: File,
    pace: Pace,
    unsynced: usize,
    began: clock::Stopwatch,
}

impl Large {
    /// Begins a file in `dir`.
    pub(super) fn create(dir: &Path, name: &str, pace: Pace) -> Result<Self, StoreError> {
        let temporary = dir.join(format!("{name}{TEMPORARY}"));
        let make = || {
            may(Call::Create)?;
            OpenOptions::new().write(true).create(true).truncate(true).open(&temporary)
        };
        let file = make().map_err(|error| full_or_failed(&temporary, error))?;
        let (dir, began) = (dir.to_owned(), clock::stopwatch());
        Ok(Self { dir, temporary, file, pace, unsynced: 0, began })
    }

    /// Gives up, with the reason.
    pub(super) fn give_up(self, error: io::Error) -> StoreError {
        let error = full_or_failed(&self.temporary, error);
        drop(self.file);
        remove(&self.temporary);
        error
    }

    /// Syncs all of it and gives it its name.
    pub(super) fn finish(self, name: &str) -> Result<(), StoreError> {
        if let Err(error) = may(Call::Sync).and_then(|()| self.file.sync_all()) {
            return Err(self.give_up(sync_failed(error)));
        }
        if let Err(error) = rename(&self.temporary, &self.dir.join(name)) {
            return Err(self.give_up(error));
        }
        sync_dir(&self.dir)
    }

    fn sync_piece(&mut self) -> io::Result<()> {
        may(Call::Sync).and_then(|()| self.file.sync_data()).map_err(sync_failed)?;
        if self.pace.rests() {
            let took = Duration::from_secs_f64(self.began.seconds().clamp(0.0, 1.0));
            std::thread::sleep((took * REST).min(MAX_REST));
        }
        self.unsynced = 0;
        self.began = clock::stopwatch();
        Ok(())
    }
}

impl Write for Large {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        may(Call::Write)?;
        let written = self.file.write(bytes)?;
        self.unsynced += written;
        if self.unsynced >= PIECE_BYTES {
            self.sync_piece()?;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A sync that failed: whatever the system calls it, it is never "full", because what was written
/// before may be lost now.
pub(super) fn sync_failed(error: io::Error) -> io::Error {
    io::Error::other(error)
}

/// No room, or the end.
pub(super) fn full_or_failed(path: &Path, error: io::Error) -> StoreError {
    let what = format!("write {}", path.display());
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full { what },
        _ => StoreError::failed(what, error),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fault::injected;
    use super::*;

    #[test]
    fn a_file_is_written_with_rests_until_somebody_waits_for_it() {
        let wanted = Arc::new(AtomicU64::new(0));
        let pace = Pace::Polite { index: 7, wanted: wanted.clone() };
        assert!(pace.rests() && !Pace::Fast.rests());
        wanted.store(6, Ordering::Relaxed);
        assert!(pace.rests(), "that is another one");
        wanted.store(7, Ordering::Relaxed);
        assert!(!pace.rests());
    }

    fn large(dir: &Path) -> Result<(), StoreError> {
        let mut file = Large::create(dir, "making", Pace::Fast)?;
        match file.write_all(&vec![7; 3 * PIECE_BYTES]) {
            Ok(()) => file.finish("made"),
            Err(error) => Err(file.give_up(error)),
        }
    }

    /// "No room" from a sync is no reason to go on: what was written before may be lost by then.
    #[test]
    fn only_a_write_without_room_may_be_tried_again() {
        const ENOSPC: i32 = 28;
        let dir = tempfile::tempdir().unwrap();
        for n in 1.. {
            injected::refuse(Some((n, ENOSPC)));
            let made = large(dir.path());
            let hit = injected::hit();
            injected::refuse(None);
            match (hit, made) {
                (None, made) => {
                    made.unwrap();
                    assert!(n > 6, "a large file is synced piece by piece: {n} calls");
                    break;
                }
                (Some(Call::Sync), Err(StoreError::Failed { .. })) => {}
                (Some(Call::Sync), made) => panic!("call {n}: {made:?}"),
                (Some(_), Err(StoreError::Full { .. })) => {
                    let left = fs::read_dir(dir.path()).unwrap().count();
                    assert_eq!(left, 0, "call {n}: what there was no room for is still there");
                }
                (Some(call), made) => panic!("call {n}, {call:?}: {made:?}"),
            }
        }
        assert_eq!(fs::read(dir.path().join("made")).unwrap().len(), 3 * PIECE_BYTES);
    }
}
