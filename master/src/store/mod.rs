//! Where a Borgmaster replica's log lives on disk.
//!
//! Opens a data directory as a [`LogStore`] of the chosen engine: redb, the default, or sled. The
//! engines keep bytes; what makes the log provable is above them and the same for both: every
//! record's checksum covers the one before (`record`), a second file remembers the last
//! acknowledged write (`watermark`), checkpoints are files (`checkpoint`), a directory has one
//! owner and one opener (`directory`). `durable` puts them together. Leaves the decision to
//! write, and what to do about a broken log, to the replica.
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
//! log/checkpoint-*     the newest two
//! creating/            a log that was never used: the process died while making it
//! ```

mod checkpoint;
mod directory;
mod durable;
mod engine;
mod files;
mod record;
mod redb;
mod sled;
mod watermark;

#[cfg(test)]
mod tests;

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use borg_cell::store::{LogStore, ReplicaIdentity, StoreError};

use self::directory::Directory;
use self::durable::Durable;

/// Whether `dir` holds a log, whole or not.
#[must_use]
pub fn is_there(dir: &Path) -> bool {
    dir.join("log").exists()
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
    /// The engine of this kind on `path`, made there if `create`.
    fn engine(
        self,
        path: &Path,
        create: bool,
    ) -> Result<Box<dyn engine::Engine>, engine::EngineError> {
        Ok(match self {
            Self::Redb => Box::new(redb::RedbEngine::open(path, create)?),
            Self::Sled => Box::new(sled::SledEngine::open(path, create)?),
        })
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
    let directory = Directory::open(kind, dir, identity)?;
    Ok(Box::new(Durable::open(kind, directory)?))
}
