//! A data directory: one opener, one owner, made in one step.
//!
//! Answers whether this process may use the directory, and makes a new log in it. Leaves what is
//! in the log to `durable`.
//!
//! Invariant: `log/` is complete whenever it exists, because it is made and synced elsewhere and
//! renamed. So a missing file in it is damage, and never an empty log.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use borg_cell::store::{ReplicaIdentity, StoreError};

use super::StoreKind;
use super::engine::{Change, guarded};
use super::files::{create_whole, read_whole, sync_dir, sync_tree};
use super::record::{Block, FORMAT, Head, Reader, Unsealed, seal, unseal};
use super::watermark::Watermark;

/// A directory that this process holds, with a log in it.
#[derive(Debug)]
pub(super) struct Directory {
    /// Where the log is.
    pub(super) log: PathBuf,
    /// Whose it is.
    pub(super) identity: ReplicaIdentity,
    /// Held until dropped.
    _lock: File,
}

impl Directory {
    /// Locks `dir` and checks its owner; makes both if there is none.
    pub(super) fn open(
        kind: StoreKind,
        dir: &Path,
        identity: &ReplicaIdentity,
    ) -> Result<Self, StoreError> {
        fs::create_dir_all(dir)
            .map_err(|error| StoreError::failed(format!("make {}", dir.display()), error))?;
        let lock = lock(dir)?;
        let log = dir.join("log");
        let exists = log
            .try_exists()
            .map_err(|error| StoreError::failed(format!("look for {}", log.display()), error))?;
        if !exists {
            create(kind, dir, &log, identity)?;
        }
        check_owner(kind, &log, identity)?;
        Ok(Self { log, identity: identity.clone(), _lock: lock })
    }
}

fn lock(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join("lock");
    let failed = |error| StoreError::failed(format!("lock {}", path.display()), error);
    let file =
        File::options().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(StoreError::InUse { path: path.display().to_string() })
        }
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// Makes an empty log under another name, and gives it its name when all of it is on disk.
fn create(
    kind: StoreKind,
    dir: &Path,
    log: &Path,
    identity: &ReplicaIdentity,
) -> Result<(), StoreError> {
    let creating = dir.join("creating");
    let failed = |error| StoreError::failed(format!("make {}", log.display()), error);
    match fs::remove_dir_all(&creating) {
        Ok(()) => tracing::info!(dir = %dir.display(), "removed a log that was never used"),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    fs::create_dir(&creating).map_err(failed)?;
    let (head, _) = Head::first(identity).encode();
    guarded(|| {
        let mut engine = kind.engine(&creating.join(kind.file_name()), true)?;
        engine.commit(&Change { truncate_from: None, put: &[], remove_through: None, head: &head })
    })
    .map_err(|error| error.of("make the engine's files", 0))?;
    Watermark::create(&creating, &head)?;
    let body = encode_owner(kind, identity);
    create_whole(&creating, "identity", |file| {
        seal(file, Block::Identity, &[&body]).map(|_sum| ())
    })?;
    sync_tree(&creating)?;
    fs::rename(&creating, log).map_err(failed)?;
    sync_dir(dir)?;
    // `dir` may be new as well. Its parents are the operator's, and may not be ours to open.
    match dir.canonicalize().ok().as_deref().and_then(Path::parent) {
        Some(parent) => sync_dir(parent),
        None => Ok(()),
    }
}

fn check_owner(kind: StoreKind, log: &Path, expected: &ReplicaIdentity) -> Result<(), StoreError> {
    let path = log.join("identity");
    let bytes = read_whole(&path, 0)?;
    let body = match unseal(Block::Identity, &bytes) {
        Ok((body, _)) => body,
        Err(Unsealed::Damaged(why)) => {
            return Err(StoreError::broken(0, format!("{}: {why}", path.display())));
        }
        Err(Unsealed::Newer(found)) => {
            let what = path.display().to_string();
            return Err(StoreError::Version { what, found, supported: FORMAT });
        }
    };
    let Some((engine, found)) = decode_owner(Reader(body)) else {
        return Err(StoreError::broken(0, format!("{}: odd content", path.display())));
    };
    if found != *expected {
        return Err(StoreError::WrongIdentity { found, expected: expected.clone() });
    }
    if engine != kind.to_string() {
        return Err(StoreError::OtherStore { found: engine, expected: kind.to_string() });
    }
    Ok(())
}

fn encode_owner(kind: StoreKind, identity: &ReplicaIdentity) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend_from_slice(&identity.replica.to_le_bytes());
    body.extend_from_slice(&identity.epoch.to_le_bytes());
    body.extend_from_slice(&(identity.cell.len() as u64).to_le_bytes());
    body.extend_from_slice(identity.cell.as_bytes());
    body.extend_from_slice(kind.to_string().as_bytes());
    body
}

fn decode_owner(mut body: Reader<'_>) -> Option<(String, ReplicaIdentity)> {
    let (replica, epoch) = (body.u64()?, body.u64()?);
    let length = usize::try_from(body.u64()?).ok()?;
    let cell = String::from_utf8(body.take(length)?.to_vec()).ok()?;
    let engine = String::from_utf8(body.0.to_vec()).ok()?;
    Some((engine, ReplicaIdentity { cell, replica, epoch }))
}
