//! Files that are there in full or not at all.
//!
//! Invariant: a function here that returns `Ok` has synced the file and the directory that names
//! it (a file whose directory was not synced can vanish with its content intact).

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;

use borg_cell::store::StoreError;

/// Syncs the names in a directory.
pub(super) fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
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
    File::open(path).and_then(|file| file.sync_all()).map_err(failed)
}

/// Makes the file `dir/name` with what `write` writes: under a temporary name, synced, renamed.
pub(super) fn create_whole(
    dir: &Path,
    name: &str,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> Result<(), StoreError> {
    let target = dir.join(name);
    let temporary = dir.join(format!("{name}{TEMPORARY}"));
    let make = || {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).open(&temporary)?;
        write(&mut file)?;
        file.sync_all()?;
        fs::rename(&temporary, &target)
    };
    make().map_err(|error| StoreError::failed(format!("write {}", target.display()), error))?;
    sync_dir(dir)
}

/// Ending of files that are being written.
pub(super) const TEMPORARY: &str = ".tmp";

/// Reads a file that must be there: one that is missing is damage, not a failure.
pub(super) fn read_whole(path: &Path, at: u64) -> Result<Vec<u8>, StoreError> {
    fs::read(path).map_err(|error| {
        if error.kind() == io::ErrorKind::NotFound {
            StoreError::broken(at, format!("{} is missing", path.display()))
        } else {
            StoreError::failed(format!("read {}", path.display()), error)
        }
    })
}
