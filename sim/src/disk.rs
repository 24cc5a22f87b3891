//! A disk that plays the disk of a Borgmaster: it survives its process, and can fail.
//!
//! Keeps the contract of [`LogStore`]: a write that returned is durable. When it fails, or when
//! the process dies during it, the caller of the simulation decides whether the batch got there.

use borg_cell::store::memory::{Files, apply};
use borg_cell::store::{
    Batch, CheckpointDraft, CheckpointMeta, CheckpointStore, LogStore, Recovered, ReplicaIdentity,
    StoreError,
};
use std::sync::{Arc, Mutex, MutexGuard};

/// What the next write meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncFault {
    /// It reports an error, and the batch is lost.
    Lost,
    /// It reports an error although the batch is durable.
    Kept,
}

/// Clones are the same disk.
#[derive(Debug, Clone, Default)]
pub struct SimDisk {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    kept: Option<Recovered>,
    files: Files,
    open: bool,
    fault: Option<SyncFault>,
}

/// An open store on a [`SimDisk`]; dropping it lets go of the disk.
#[derive(Debug)]
pub struct SimStore {
    disk: SimDisk,
    failed: bool,
}

impl SimDisk {
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().expect("no code panics while it holds the disk")
    }

    /// Opens the disk as `identity`'s, or makes it so if it is new.
    ///
    /// # Errors
    /// [`StoreError::InUse`] and [`StoreError::WrongIdentity`].
    pub fn open(&self, identity: &ReplicaIdentity) -> Result<SimStore, StoreError> {
        let mut shared = self.lock();
        if shared.open {
            return Err(StoreError::InUse { path: "simulated disk".into() });
        }
        let kept = shared.kept.get_or_insert_with(|| Recovered::empty(identity.clone()));
        if kept.identity != *identity {
            let (found, expected) = (kept.identity.clone(), identity.clone());
            return Err(StoreError::WrongIdentity { found, expected });
        }
        shared.open = true;
        Ok(SimStore { disk: self.clone(), failed: false })
    }

    /// Whether nothing was ever kept here.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        self.lock().kept.is_none()
    }

    /// Makes the disk `identity`'s, with a log that begins with a checkpoint. Whatever was on it is
    /// gone.
    pub fn found(&self, identity: &ReplicaIdentity, draft: &CheckpointDraft<'_>) {
        let mut shared = self.lock();
        let mut files = Files::default();
        shared.kept = Some(files.found(identity, draft));
        shared.files = files;
    }

    /// Makes the next write fail.
    pub fn fail_next(&self, fault: SyncFault) {
        self.lock().fault = Some(fault);
    }

    /// The term of the entry at `index` that is durable here, if one is; 0 when a checkpoint
    /// covers it.
    #[must_use]
    pub fn term_at(&self, index: u64) -> Option<u64> {
        let shared = self.lock();
        let kept = shared.kept.as_ref()?;
        if index <= kept.compacted.index {
            return Some(0);
        }
        let place = usize::try_from(index - kept.compacted.index - 1).ok()?;
        kept.entries.get(place).map(|entry| entry.term)
    }
}

impl LogStore for SimStore {
    fn recover(&mut self) -> Result<Recovered, StoreError> {
        Ok(self.disk.lock().kept.clone().expect("an open disk has an owner"))
    }

    fn write(&mut self, batch: &Batch<'_>) -> Result<(), StoreError> {
        if self.failed {
            return Err(StoreError::failed("write after a failure", "the disk failed before"));
        }
        let mut shared = self.disk.lock();
        let fault = shared.fault.take();
        if fault != Some(SyncFault::Lost) {
            let Shared { kept, files, .. } = &mut *shared;
            apply(kept.as_mut().expect("an open disk has an owner"), batch, files)?;
        }
        if fault.is_some() {
            self.failed = true;
            return Err(StoreError::failed("sync", "simulated input/output error"));
        }
        Ok(())
    }

    fn checkpoints(&self) -> Arc<dyn CheckpointStore> {
        Arc::new(self.disk.clone())
    }
}

impl CheckpointStore for SimDisk {
    fn save(&self, draft: &CheckpointDraft<'_>) -> Result<CheckpointMeta, StoreError> {
        Ok(self.lock().files.save(draft))
    }

    fn read(
        &self,
        meta: &CheckpointMeta,
        offset: u64,
        length: usize,
    ) -> Result<Vec<u8>, StoreError> {
        self.lock().files.read(meta, offset, length)
    }

    fn received(&self, meta: &CheckpointMeta) -> Result<u64, StoreError> {
        Ok(self.lock().files.received(meta))
    }

    fn receive(&self, meta: &CheckpointMeta, offset: u64, piece: &[u8]) -> Result<(), StoreError> {
        self.lock().files.receive(meta, offset, piece)
    }

    fn finish(&self, meta: &CheckpointMeta) -> Result<Vec<u8>, StoreError> {
        self.lock().files.finish(meta)
    }
}

impl Drop for SimStore {
    fn drop(&mut self) {
        self.disk.lock().open = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use borg_cell::store::conformance::{CASES, entries, identity};

    #[test]
    fn the_simulated_disk_conforms() {
        for (_name, case) in CASES {
            let disk = SimDisk::default();
            case(&mut |identity| Ok(Box::new(disk.open(identity)?)));
        }
    }

    #[test]
    fn after_a_failed_sync_the_batch_is_there_in_full_or_not_at_all_and_nothing_more_is_taken() {
        for (fault, there) in [(SyncFault::Lost, 0), (SyncFault::Kept, 3)] {
            let disk = SimDisk::default();
            let mut store = disk.open(&identity()).unwrap();
            disk.fail_next(fault);
            let three = entries(1, 3, 1, 10);
            let batch = Batch { entries: &three, ..Batch::default() };
            assert!(store.write(&batch).is_err());
            assert!(store.write(&batch).is_err());
            drop(store);
            assert_eq!(disk.open(&identity()).unwrap().recover().unwrap().last().index, there);
        }
    }
}
