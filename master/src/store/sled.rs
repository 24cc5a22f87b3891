//! The log in sled, hardened.
//!
//! sled 0.34.7 is not durable by itself on Linux: its `flush` starts writing and does not wait for
//! the disk. So after each flush this module syncs the file itself. Its background flusher would
//! swallow errors: off. Values of 64 KiB and more would go to files that it never syncs: records
//! are split. It takes a rotten record for the end of the log: the chain and the watermark above
//! notice. It panics on some rot: the callers catch. A write that fails in one of its threads may leave
//! the thread that waits for it waiting for ever: whoever writes waits for so long and no longer.

use std::fs::{self, File};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use sled::{Batch, Config, Db};

use super::engine::{Change, Engine, EngineError, Held};
use super::fault::{Call, may};
use super::files::{rename, sync_tree};

/// Longest value, in bytes; well under the 64 KiB at which sled moves it out of its log.
const CHUNK_BYTES: usize = 48 << 10;
/// Memory for pages. 16 MiB: our choice, as for redb.
const CACHE_BYTES: u64 = 16 << 20;
/// How often sled's lock is asked for, and the pause between: 5 s in all, our choice.
const LOCK_TRIES: u32 = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(50);
/// Longest wait for sled to write, our choice: a disk that takes longer is of no use to a cell.
const WRITING: Duration = Duration::from_secs(20);
/// Longest wait for it to open, our choice: it reads its log then, as the check before does (`check`).
const OPENING: Duration = Duration::from_secs(600);
/// Key of the head. Keys of records are 12 bytes: index and number of the chunk, big endian.
const HEAD: &[u8] = b"head";

/// An open sled directory.
#[derive(Debug)]
pub(super) struct SledEngine {
    database: Db,
    /// sled's own file, to be synced.
    file: File,
}

impl SledEngine {
    /// Opens the directory at `path`.
    pub(super) fn open(path: &Path) -> Result<Self, EngineError> {
        // sled would make a new one, and an empty log would pass for the whole.
        File::open(path.join("db"))?;
        match Self::begin(path, false) {
            Err(EngineError::Damaged(why)) => {
                tracing::warn!(why, "sled opens again without its snapshot");
                remove_snapshots(path)?;
                Self::begin(path, false)
            }
            opened => opened,
        }
    }

    /// Makes the directory at `path` with a first change in it.
    ///
    /// sled syncs when it is dropped, and panics when it cannot. One that it takes for temporary it removes
    /// instead, by the name that it was made under; by then ours has another. It may do so late, so no two
    /// are made under the same name.
    pub(super) fn make(path: &Path, change: &Change<'_>) -> Result<(), EngineError> {
        static MADE: AtomicU64 = AtomicU64::new(0);
        let making =
            path.with_extension(format!("making-{}", MADE.fetch_add(1, Ordering::Relaxed)));
        let mut engine = Self::begin(&making, true)?;
        engine.commit(change)?;
        Ok(rename(&making, path)?)
    }

    fn begin(path: &Path, temporary: bool) -> Result<Self, EngineError> {
        let at = path.to_owned();
        // A new one is only written.
        let limit = if temporary { WRITING } else { OPENING };
        let database = timely(limit, move || open_unlocked(&at, temporary))?;
        let file = File::options().write(true).open(path.join("db"))?;
        // Opening made or replaced files.
        sync_tree(path).map_err(|error| EngineError::Failed(error.into()))?;
        Ok(Self { database, file })
    }

    fn remove(&self, batch: &mut Batch, from: u64, through: u64) -> Result<(), EngineError> {
        let range = chunk_key(from, 0)..=chunk_key(through, u32::MAX);
        for key in self.database.range(range).keys() {
            let key = key.map_err(refused)?;
            if key.as_ref() != HEAD {
                batch.remove(key);
            }
        }
        Ok(())
    }
}

/// Opens sled. One that was dropped lets go of its lock a little later, by a thread of its own; the
/// lock of the directory is ours, so whoever has sled's is about to let go.
fn open_unlocked(path: &Path, temporary: bool) -> Result<Db, EngineError> {
    let config = Config::new()
        .path(path)
        .temporary(temporary)
        .flush_every_ms(None)
        .cache_capacity(CACHE_BYTES);
    let mut tries = 0;
    loop {
        match config.open() {
            Err(sled::Error::Io(error))
                if tries < LOCK_TRIES && error.to_string().contains("could not acquire lock") =>
            {
                tries += 1;
                std::thread::sleep(LOCK_PAUSE);
            }
            opened => return opened.map_err(refused),
        }
    }
}

/// Does work of sled's that writes. `exit_reservation` in its `pagecache/logger.rs` keeps the error of a write
/// and wakes nobody, so that `flush` waits for a write that will never be there.
fn timely<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> Result<T, EngineError> + Send + 'static,
) -> Result<T, EngineError> {
    let (done, result) = mpsc::sync_channel(1);
    let working = std::thread::Builder::new().name("sled".to_owned()).spawn(move || {
        // Who has given up needs no result.
        drop(done.send(work()));
    })?;
    match result.recv_timeout(limit) {
        Ok(result) => result,
        Err(RecvTimeoutError::Timeout) => {
            let why =
                format!("sled did not come to an end in {} s: a write failed", limit.as_secs());
            Err(EngineError::Failed(why.into()))
        }
        Err(RecvTimeoutError::Disconnected) => match working.join() {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(()) => Err(EngineError::Failed("sled gave no result".into())),
        },
    }
}

/// Removes sled's snapshots. They only save it from reading all of its log, and it replaces the old one by
/// the new without syncing their directory, so a power cut may leave one that is empty. Whether all is there
/// that has to be, the chain and the watermark tell.
fn remove_snapshots(path: &Path) -> Result<(), EngineError> {
    for file in fs::read_dir(path)? {
        let file = file?;
        if file.file_name().as_encoded_bytes().starts_with(b"snap.") {
            may(Call::Remove)?;
            fs::remove_file(file.path())?;
        }
    }
    Ok(())
}

impl Engine for SledEngine {
    fn load(&mut self) -> Result<Held, EngineError> {
        let mut held = Held { head: None, records: Vec::new() };
        for item in self.database.iter() {
            let (key, value) = item.map_err(refused)?;
            if key.as_ref() == HEAD {
                held.head = Some(value.to_vec());
                continue;
            }
            let (index, chunk) = split_key(&key)
                .ok_or_else(|| EngineError::Damaged(format!("a key of {} bytes", key.len())))?;
            match held.records.last_mut() {
                Some((last, record)) if *last == index && chunk > 0 => {
                    record.extend_from_slice(&value);
                }
                Some(_) | None => held.records.push((index, value.to_vec())),
            }
        }
        Ok(held)
    }

    fn commit(&mut self, change: &Change<'_>) -> Result<(), EngineError> {
        let mut batch = Batch::default();
        if let Some(from) = change.truncate_from {
            self.remove(&mut batch, from, u64::MAX)?;
        }
        for (index, record) in change.put {
            for (chunk, bytes) in (0..).zip(record.chunks(CHUNK_BYTES)) {
                batch.insert(&chunk_key(*index, chunk), bytes);
            }
        }
        if let Some(through) = change.remove_through {
            self.remove(&mut batch, 0, through)?;
        }
        batch.insert(HEAD, change.head);
        let database = self.database.clone();
        timely(WRITING, move || {
            database.apply_batch(batch).map_err(refused)?;
            database.flush().map_err(refused)
        })?;
        may(Call::Sync)?;
        Ok(self.file.sync_data()?)
    }
}

fn chunk_key(index: u64, chunk: u32) -> [u8; 12] {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&index.to_be_bytes());
    key[8..].copy_from_slice(&chunk.to_be_bytes());
    key
}

fn split_key(key: &[u8]) -> Option<(u64, u32)> {
    let (index, chunk) = key.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*index), u32::from_be_bytes(chunk.try_into().ok()?)))
}

/// Sorts sled's errors into damage and failure.
fn refused(error: sled::Error) -> EngineError {
    match error {
        sled::Error::Io(error) => error.into(),
        // What is unsupported is its own configuration file when that is rotten: this version wrote it.
        error @ (sled::Error::Corruption { .. }
        | sled::Error::CollectionNotFound(_)
        | sled::Error::Unsupported(_)) => EngineError::Damaged(error.to_string()),
        error @ sled::Error::ReportableBug(_) => EngineError::Failed(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_does_not_end_is_given_up_and_a_panic_stays_one() {
        assert!(matches!(timely(WRITING, || Ok(7)), Ok(7)));
        let short = Duration::from_millis(10);
        let endless = timely(short, || {
            std::thread::park_timeout(WRITING);
            Ok(())
        });
        assert!(matches!(endless, Err(EngineError::Failed(_))));
        let panicked = std::panic::catch_unwind(|| {
            timely(WRITING, || -> Result<(), EngineError> { panic!("an odd page") })
        });
        assert_eq!(panicked.unwrap_err().downcast_ref(), Some(&"an odd page"));
    }
}
