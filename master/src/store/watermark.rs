//! Which write was acknowledged last: the memory that the engine cannot take back.
//!
//! An engine that finds the end of its log damaged takes an older state for the newest, because to
//! it a lost write and a write that never finished look alike. This file tells them apart: it gets
//! the head of each write after the engine synced it and before the write is acknowledged.
//!
//! Invariant: the engine is at the write in the watermark or exactly one ahead (the process died
//! between the two), never behind.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use borg_cell::store::StoreError;

use super::fault::{Call, may};
use super::files::{create_whole, read_whole};
use super::record::{Block, Head, Unsealed};

/// Name of the file.
const NAME: &str = "watermark";
/// Two slots used in turn, so that a write that tears leaves the other. A page each.
const SLOT_BYTES: usize = 4096;

/// The open file.
#[derive(Debug)]
pub(super) struct Watermark {
    file: File,
}

/// What the file says.
#[derive(Debug)]
pub(super) struct Mark {
    /// The newest readable head and its checksum.
    pub(super) head: Head,
    pub(super) sum: u64,
    /// Whether the other slot is unreadable: torn in the write after `head`, or rotten.
    pub(super) torn: bool,
}

impl Watermark {
    /// Makes the file in `dir`, with `head` in both slots.
    pub(super) fn create(dir: &Path, head: &[u8]) -> Result<(), StoreError> {
        let mut slot = head.to_vec();
        slot.resize(SLOT_BYTES, 0);
        create_whole(dir, NAME, &slot.repeat(2))
    }

    /// Opens the file in `dir` and reads it.
    pub(super) fn open(dir: &Path) -> Result<(Self, Mark), StoreError> {
        let path = dir.join(NAME);
        let bytes = read_whole(&path, 0)?;
        // It was made in full, and no write changes its length.
        if bytes.len() != 2 * SLOT_BYTES {
            let why = format!("the watermark has {} bytes, not {}", bytes.len(), 2 * SLOT_BYTES);
            return Err(StoreError::broken(0, why));
        }
        let mut newest: Option<(Head, u64)> = None;
        let mut torn = false;
        for slot in 0..2 {
            match Head::decode(&bytes[slot * SLOT_BYTES..(slot + 1) * SLOT_BYTES]) {
                Ok((head, sum)) => {
                    if newest.as_ref().is_none_or(|(newest, _)| newest.write < head.write) {
                        newest = Some((head, sum));
                    }
                }
                Err(Unsealed::Damaged(_)) => torn = true,
                Err(Unsealed::Newer(found)) => {
                    return Err(StoreError::Version {
                        what: path.display().to_string(),
                        found,
                        supported: Block::Head.format(),
                    });
                }
            }
        }
        let Some((head, sum)) = newest else {
            return Err(StoreError::broken(0, "both slots of the watermark are damaged"));
        };
        let file = may(Call::Open)
            .and_then(|()| OpenOptions::new().write(true).open(&path))
            .map_err(|error| StoreError::failed(format!("open {}", path.display()), error))?;
        Ok((Self { file }, Mark { head, sum, torn }))
    }

    /// Writes `head`, the head of write number `write`, and syncs it. The blocks exist already, so
    /// that only data is synced.
    pub(super) fn advance(&mut self, write: u64, head: &[u8]) -> Result<(), StoreError> {
        assert!(head.len() <= SLOT_BYTES, "a head has at most two checkpoints");
        may(Call::Write)
            .and_then(|()| self.file.write_all_at(head, (write % 2) * SLOT_BYTES as u64))
            .and_then(|()| may(Call::Sync))
            .and_then(|()| self.file.sync_data())
            .map_err(|error| StoreError::failed(format!("write the watermark of {write}"), error))
    }
}
