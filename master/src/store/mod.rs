//! Where a Borgmaster replica's log lives on disk.
//!
//! Opens a data directory as a [`LogStore`] of the chosen engine: redb, the default, or sled. The
//! engines keep bytes; what makes the log provable is above them and the same for both: every
//! record's checksum covers the one before (`record`), a second file remembers the last
//! acknowledged write (`watermark`), checkpoints and the log between them are files that stay for a
//! while (`archive`, `keep`), a directory has one owner and one opener (`directory`). `durable`
//! puts them together. Leaves the decision to write, and what to do about a broken log, to the
//! replica. `docs/formats.md` has every byte.
//!
//! Invariant: what was acknowledged is found again, or opening fails.
//!
//! Layout of a data directory:
//! ```text
//! lock                 held while open
//! log/identity         cell, replica, epoch, engine
//! log/watermark        head of the last acknowledged write, in two slots
//! log/log.redb         the engine's file, or
//! log/log.sled/        the engine's directory
//! log/checkpoint-*     states, by index and checksum
//! log/segment-*        the log between them, by first and last index
//! log/incoming-*       a checkpoint that another master is sending
//! creating/            a log that was never used: the process died while making it
//! quarantine-N/        a log that could not be used, moved out of the way
//! ```

mod archive;
mod backup;
mod blocks;
mod check;
mod checkpoint;
mod directory;
mod durable;
mod engine;
mod fault;
mod files;
mod keep;
mod record;
mod redb;
mod segment;
mod sled;
mod watermark;

#[cfg(test)]
mod tests;

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use borg_cell::store::{
    Checkpoint, CheckpointDraft, CheckpointMeta, LogEntry, LogStore, ReplicaIdentity, StoreError,
};

use self::archive::Archive;
pub use self::backup::Backup;
pub use self::check::Check;
use self::directory::Directory;
pub use self::directory::{found, owner_of as owner, quarantine};
use self::durable::Durable;
pub use self::keep::{Keep, Kept};

/// Whether `dir` holds a log, whole or not.
#[must_use]
pub fn is_there(dir: &Path) -> bool {
    // What cannot be looked at is there: opening it will say why.
    dir.join("log").try_exists().unwrap_or(true)
}

/// A stretch of a cell's past, as files: see `docs/formats.md`, "A stretch of the past".
#[derive(Debug, Clone)]
pub struct Stretch {
    /// The state at its beginning, and who was a master then.
    pub checkpoint: Checkpoint,
    /// The entries after it.
    pub entries: Vec<LogEntry>,
}

impl Stretch {
    /// Name of the file with the state at the beginning.
    pub const CHECKPOINT: &str = "checkpoint";
    /// Name of the file with the entries.
    pub const LOG: &str = "log";

    /// The files of a stretch that begins with `draft`: names and contents.
    ///
    /// # Errors
    /// Never of memory.
    pub fn files(
        draft: &CheckpointDraft<'_>,
        entries: &[LogEntry],
    ) -> std::io::Result<[(&'static str, Vec<u8>); 2]> {
        let (checkpoint, log) =
            (checkpoint::file(draft)?, segment::file(draft.place.index, entries)?);
        Ok([(Self::CHECKPOINT, checkpoint), (Self::LOG, log)])
    }

    /// Reads the files in `dir`, and verifies all of them. The entries follow on the checkpoint.
    ///
    /// # Errors
    /// What the disk says; when a file is damaged, of a newer version, or of another stretch.
    pub fn read(dir: &Path) -> Result<Self, StoreError> {
        let checkpoint = checkpoint::load_any(&dir.join(Self::CHECKPOINT))?;
        let log = dir.join(Self::LOG);
        let entries = segment::read_any(&log)?;
        let after = checkpoint.meta.place.index;
        if entries.first().is_some_and(|entry| entry.index != after + 1) {
            let why = format!("{}: does not follow on {}", log.display(), Self::CHECKPOINT);
            return Err(StoreError::broken(after, why));
        }
        Ok(Self { checkpoint, entries })
    }
}

/// The engine that keeps the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StoreKind {
    /// A copy-on-write B-tree in one file.
    #[default]
    Redb,
    /// A log-structured tree. Its own flush is not durable: see the module `sled`.
    Sled,
}

impl StoreKind {
    /// The engine of this kind on `path`.
    fn open(self, path: &Path) -> Result<Box<dyn engine::Engine>, engine::EngineError> {
        Ok(match self {
            Self::Redb => Box::new(redb::RedbEngine::open(path)?),
            Self::Sled => Box::new(sled::SledEngine::open(path)?),
        })
    }

    /// Makes the files of this kind at `path`, with a first change in them.
    fn make(self, path: &Path, change: &engine::Change<'_>) -> Result<(), engine::EngineError> {
        match self {
            Self::Redb => redb::RedbEngine::make(path, change),
            Self::Sled => sled::SledEngine::make(path, change),
        }
    }

    /// Name of the engine's file or directory.
    fn file_name(self) -> &'static str {
        match self {
            Self::Redb => "log.redb",
            Self::Sled => "log.sled",
        }
    }
}

impl fmt::Display for StoreKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Redb => "redb",
            Self::Sled => "sled",
        })
    }
}

impl FromStr for StoreKind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "redb" => Ok(Self::Redb),
            "sled" => Ok(Self::Sled),
            other => Err(format!("no store named {other}; there are redb and sled")),
        }
    }
}

/// An open log and its past.
pub struct Opened {
    /// The log.
    pub log: Box<dyn LogStore>,
    /// What is kept of the past.
    pub history: History,
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened").field("history", &self.history).finish_non_exhaustive()
    }
}

/// The states that a directory can give back, for threads of their own.
#[derive(Debug, Clone)]
pub struct History(Arc<Archive>);

impl History {
    /// Kept checkpoints, oldest first.
    #[must_use]
    pub fn checkpoints(&self) -> Vec<Kept> {
        self.0.list()
    }

    /// The state in a checkpoint. Reads and verifies all of its file.
    ///
    /// # Errors
    /// [`StoreError::Gone`] when it is not kept any more, [`StoreError::Broken`] when it is damaged.
    pub fn state(&self, meta: &CheckpointMeta) -> Result<Arc<[u8]>, StoreError> {
        let gone = StoreError::Gone { index: meta.place.index };
        if !self.0.has(meta) {
            return Err(gone);
        }
        match self.0.load(&checkpoint::reference(meta)) {
            Ok(loaded) => Ok(loaded.state),
            // Removed between the two looks.
            Err(_) if !self.0.has(meta) => Err(gone),
            Err(error) => Err(error),
        }
    }

    /// Shows `visit` the entries after index `after`, in order, until it says `false`, one is not
    /// kept, or the newest checkpoint is reached.
    ///
    /// # Errors
    /// As of [`History::state`].
    pub fn log(
        &self,
        after: u64,
        visit: &mut dyn FnMut(LogEntry) -> bool,
    ) -> Result<(), StoreError> {
        self.0.log(after, visit)
    }
}

/// Opens the log in `dir` for `identity`, after making `dir` and an empty log if there is none.
/// Reads and verifies all of the log before it returns; blocks meanwhile.
///
/// # Errors
/// Every kind of [`StoreError`] except `Invalid`. None of them changes an existing log.
pub fn open(
    kind: StoreKind,
    dir: &Path,
    identity: &ReplicaIdentity,
) -> Result<Box<dyn LogStore>, StoreError> {
    open_keeping(kind, dir, identity, Keep::default()).map(|opened| opened.log)
}

/// The same, keeping of the past what `keep` says.
///
/// # Errors
/// As of [`open`].
pub fn open_keeping(
    kind: StoreKind,
    dir: &Path,
    identity: &ReplicaIdentity,
    keep: Keep,
) -> Result<Opened, StoreError> {
    let directory = Directory::open(kind, dir, identity)?;
    let log = Durable::open(kind, directory, keep)?;
    Ok(Opened { history: History(log.archive().clone()), log: Box::new(log) })
}
