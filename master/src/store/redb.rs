//! The log in redb: one file, one transaction a write.
//!
//! Durability is redb's `Immediate`: a commit returns after its pages and the header that leads to
//! them are synced. One phase is enough, because a commit torn by a power cut fails redb's
//! checksums and is undone, and a commit undone that was acknowledged fails ours.
//!
//! redb is given the file and not its path, so that what it asks of the disk can be refused under
//! test. It takes no lock of its own then: the directory's is enough.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use redb::{
    Builder, Database, Durability, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition,
};

use super::engine::{Change, Engine, EngineError, Held};
use super::fault::{Call, may};

const RECORDS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("records");
const HEAD: TableDefinition<'_, (), &[u8]> = TableDefinition::new("head");

/// Memory for pages. 16 MiB: our choice; the log is read once, on opening, and only its end is
/// written.
const CACHE_BYTES: usize = 16 << 20;

/// An open redb file.
#[derive(Debug)]
pub(super) struct RedbEngine {
    database: Database,
}

impl RedbEngine {
    /// Opens the file at `path`.
    pub(super) fn open(path: &Path) -> Result<Self, EngineError> {
        Self::begin(path, false)
    }

    /// Makes the file at `path` with a first change in it.
    pub(super) fn make(path: &Path, change: &Change<'_>) -> Result<(), EngineError> {
        Self::begin(path, true)?.commit(change)
    }

    fn begin(path: &Path, create: bool) -> Result<Self, EngineError> {
        may(if create { Call::Create } else { Call::Open })?;
        let mut options = File::options();
        options.read(true).write(true).create_new(create);
        let file = OneFile { file: options.open(path)? };
        // redb would make a new log of an empty file.
        if !create && file.len()? == 0 {
            return Err(EngineError::Damaged("its file is empty".into()));
        }
        let mut builder = Builder::new();
        builder.set_cache_size(CACHE_BYTES);
        // Verifies every page and which pages are free: a wrong free list would let the next write
        // overwrite the log, and redb may panic on what it has not verified.
        builder.set_check_integrity_on_open(!create);
        Ok(Self { database: builder.create_with_backend(file).map_err(refused)? })
    }
}

/// The file, as redb wants it.
#[derive(Debug)]
struct OneFile {
    file: File,
}

impl StorageBackend for OneFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        may(Call::Resize)?;
        self.file.set_len(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        may(Call::Sync)?;
        self.file.sync_data()
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        may(Call::Write)?;
        self.file.write_all_at(bytes, offset)
    }
}

impl Engine for RedbEngine {
    fn load(&mut self) -> Result<Held, EngineError> {
        let read = self.database.begin_read().map_err(refused)?;
        let head = read
            .open_table(HEAD)
            .map_err(refused)?
            .get(())
            .map_err(refused)?
            .map(|head| head.value().to_vec());
        let mut records = Vec::new();
        for record in read.open_table(RECORDS).map_err(refused)?.iter().map_err(refused)? {
            let (index, bytes) = record.map_err(refused)?;
            records.push((index.value(), bytes.value().to_vec()));
        }
        Ok(Held { head, records })
    }

    fn commit(&mut self, change: &Change<'_>) -> Result<(), EngineError> {
        let mut write = self.database.begin_write().map_err(refused)?;
        write.set_durability(Durability::Immediate).map_err(refused)?;
        {
            let mut records = write.open_table(RECORDS).map_err(refused)?;
            if let Some(from) = change.truncate_from {
                records.retain_in(from.., |_, _| false).map_err(refused)?;
            }
            for (index, bytes) in change.put {
                records.insert(index, bytes.as_slice()).map_err(refused)?;
            }
            if let Some(through) = change.remove_through {
                records.retain_in(..=through, |_, _| false).map_err(refused)?;
            }
            write.open_table(HEAD).map_err(refused)?.insert((), change.head).map_err(refused)?;
        }
        write.commit().map_err(refused)
    }
}

/// Sorts redb's errors into damage and failure.
fn refused(error: impl Into<redb::Error>) -> EngineError {
    match error.into() {
        redb::Error::Io(error) => error.into(),
        error @ (redb::Error::Corrupted(_)
        | redb::Error::TableDoesNotExist(_)
        | redb::Error::TableTypeMismatch { .. }
        | redb::Error::TypeDefinitionChanged { .. }
        | redb::Error::TableIsMultimap(_)
        | redb::Error::UpgradeRequired(_)
        | redb::Error::RepairAborted) => EngineError::Damaged(error.to_string()),
        // redb may add kinds; what is not known to be damage stops the process just as well.
        error => EngineError::Failed(error.into()),
    }
}
