//! A data directory: one opener, one owner, made in one step.
//!
//! Answers whether this process may use the directory, makes a new log in it, empty or from a
//! checkpoint, and moves one out of the way that cannot be used. Leaves what is in the log to
//! `durable`.
//!
//! Invariant: `log/` is complete whenever it exists, because it is made and synced elsewhere and
//! renamed. So a missing file in it is damage, and never an empty log.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use borg_cell::store::{CheckpointDraft, HardState, ReplicaIdentity, StoreError};

use super::StoreKind;
use super::checkpoint;
use super::engine::{Change, guarded};
use super::fault::{Call, may};
use super::files::{Pace, create_whole, read_whole, rename, sync_dir, sync_tree};
use super::record::{Block, Head, Reader, Unsealed, link_of_checkpoint, seal, unseal};
use super::watermark::Watermark;
use crate::clock;
use crate::last_breath::{LAST_BREATH, LOOK};

/// Start of the names of logs that could not be used.
const QUARANTINE: &str = "quarantine-";
/// How many of them are kept. 3: our choice; enough to find out what happened, and bounded.
const QUARANTINED: usize = 3;

/// A directory that this process holds, with a log in it.
#[derive(Debug)]
pub(super) struct Directory {
    /// Where the log is.
    pub(super) log: PathBuf,
    /// Whose it is.
    pub(super) identity: ReplicaIdentity,
    /// Held until dropped.
    pub(super) lock: Arc<File>,
}

impl Directory {
    /// Locks `dir` and checks its owner; makes both if there is none.
    pub(super) fn open(
        kind: StoreKind,
        dir: &Path,
        identity: &ReplicaIdentity,
    ) -> Result<Self, StoreError> {
        let lock = Arc::new(lock(dir)?);
        let log = dir.join("log");
        if !exists(&log)? {
            create(kind, dir, identity, None)?;
        }
        check_owner(kind, &log, identity)?;
        Ok(Self { log, identity: identity.clone(), lock })
    }
}

/// Whose log is in `dir`.
///
/// # Errors
/// [`StoreError::Broken`] when that cannot be read.
pub fn owner_of(dir: &Path) -> Result<ReplicaIdentity, StoreError> {
    read_owner(&dir.join("log")).map(|(_, found)| found)
}

/// Makes a log in `dir` that begins with the checkpoint `founding`: of a new cell whose first state
/// is not empty, or of one that is restored. Its term and commit are the checkpoint's. Blocks.
///
/// # Errors
/// [`StoreError::Invalid`] if there is a log already. After any error there is none.
pub fn found(
    kind: StoreKind,
    dir: &Path,
    identity: &ReplicaIdentity,
    founding: &CheckpointDraft<'_>,
) -> Result<(), StoreError> {
    let _lock = lock(dir)?;
    let log = dir.join("log");
    if exists(&log)? {
        return Err(StoreError::Invalid(format!("there is a log in {}", dir.display())));
    }
    if founding.place.index == 0 || founding.place.term == 0 {
        return Err(StoreError::Invalid("a checkpoint begins at index 1 and term 1".into()));
    }
    create(kind, dir, identity, Some(founding))
}

/// Moves the log in `dir` out of the way, whole as it is, and gives its new place. The oldest of those
/// that were moved before are removed, so that three are left.
///
/// # Errors
/// [`StoreError::Broken`] if there is no log; [`StoreError::InUse`] if it is open.
pub fn quarantine(dir: &Path) -> Result<PathBuf, StoreError> {
    let _lock = lock(dir)?;
    let log = dir.join("log");
    if !exists(&log)? {
        return Err(StoreError::broken(0, format!("there is no log in {}", dir.display())));
    }
    let failed =
        |error| StoreError::failed(format!("move {} out of the way", log.display()), error);
    let mut before = Vec::new();
    for child in fs::read_dir(dir).map_err(failed)? {
        let name = child.map_err(failed)?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(QUARANTINE)?.parse().ok());
        before.extend(number.filter(|number: &u64| *number < u64::MAX));
    }
    before.sort_unstable();
    let place = |number| dir.join(format!("{QUARANTINE}{number}"));
    let moved = place(before.last().map_or(1, |last| last + 1));
    rename(&log, &moved).map_err(failed)?;
    sync_dir(dir)?;
    let surplus = (before.len() + 1).saturating_sub(QUARANTINED);
    for number in &before[..surplus] {
        let old = place(*number);
        if let Err(error) = may(Call::Remove).and_then(|()| fs::remove_dir_all(&old)) {
            tracing::warn!(%error, path = %old.display(), "cannot remove an old log");
        }
    }
    Ok(moved)
}

fn exists(path: &Path) -> Result<bool, StoreError> {
    path.try_exists()
        .map_err(|error| StoreError::failed(format!("look for {}", path.display()), error))
}

/// Locks `dir`, after making it if there is none. Waits for [`LAST_BREATH`] when a process has it.
fn lock(dir: &Path) -> Result<File, StoreError> {
    may(Call::Create)
        .and_then(|()| fs::create_dir_all(dir))
        .map_err(|error| StoreError::failed(format!("make {}", dir.display()), error))?;
    let path = dir.join("lock");
    let failed = |error| StoreError::failed(format!("lock {}", path.display()), error);
    let file =
        File::options().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
    let waited = clock::stopwatch();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if waited.elapsed() < LAST_BREATH => {
                std::thread::sleep(LOOK);
            }
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::InUse { path: path.display().to_string() });
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
    }
}

/// Makes a log under another name, empty or from a checkpoint, and gives it its name when all of it
/// is on disk.
fn create(
    kind: StoreKind,
    dir: &Path,
    identity: &ReplicaIdentity,
    founding: Option<&CheckpointDraft<'_>>,
) -> Result<(), StoreError> {
    let (log, creating) = (dir.join("log"), dir.join("creating"));
    let failed = |error| StoreError::failed(format!("make {}", log.display()), error);
    match may(Call::Remove).and_then(|()| fs::remove_dir_all(&creating)) {
        Ok(()) => tracing::info!(dir = %dir.display(), "removed a log that was never used"),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    may(Call::Create).and_then(|()| fs::create_dir(&creating)).map_err(failed)?;
    let mut head = Head::first(identity);
    if let Some(draft) = founding {
        let meta = checkpoint::write(&creating, draft, Pace::Fast)?;
        let reference = checkpoint::reference(&meta);
        head.compacted = link_of_checkpoint(head.last, &reference);
        head.last = head.compacted;
        head.checkpoints = vec![reference];
        head.hard_state = HardState { term: draft.place.term, vote: 0, commit: draft.place.index };
    }
    let (head, _) = head.encode();
    let first = Change { truncate_from: None, put: &[], remove_through: None, head: &head };
    guarded(|| kind.make(&creating.join(kind.file_name()), &first))
        .map_err(|error| error.of("make the engine's files", 0))?;
    Watermark::create(&creating, &head)?;
    let mut owner = Vec::new();
    seal(&mut owner, Block::Identity, &[&encode_owner(kind, identity)])
        .expect("a vector takes all bytes");
    create_whole(&creating, "identity", &owner)?;
    sync_tree(&creating)?;
    rename(&creating, &log).map_err(failed)?;
    sync_dir(dir)?;
    // `dir` may be new as well. Its parents are the operator's, and may not be ours to open.
    match dir.canonicalize().ok().as_deref().and_then(Path::parent) {
        Some(parent) => sync_dir(parent),
        None => Ok(()),
    }
}

fn check_owner(kind: StoreKind, log: &Path, expected: &ReplicaIdentity) -> Result<(), StoreError> {
    let (engine, found) = read_owner(log)?;
    if found != *expected {
        return Err(StoreError::WrongIdentity { found, expected: expected.clone() });
    }
    if engine != kind.to_string() {
        return Err(StoreError::OtherStore { found: engine, expected: kind.to_string() });
    }
    Ok(())
}

/// The engine that made a log, and whose it is.
fn read_owner(log: &Path) -> Result<(String, ReplicaIdentity), StoreError> {
    let path = log.join("identity");
    let bytes = read_whole(&path, 0)?;
    let body = match unseal(Block::Identity, &bytes) {
        Ok(unsealed) => unsealed.body,
        Err(Unsealed::Damaged(why)) => {
            return Err(StoreError::broken(0, format!("{}: {why}", path.display())));
        }
        Err(Unsealed::Newer(found)) => {
            let (what, supported) = (path.display().to_string(), Block::Identity.format());
            return Err(StoreError::Version { what, found, supported });
        }
    };
    decode_owner(Reader(body))
        .ok_or_else(|| StoreError::broken(0, format!("{}: odd content", path.display())))
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
