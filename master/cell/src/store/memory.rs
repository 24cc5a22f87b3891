//! A log in memory: the plainest store that keeps the contract.
//!
//! For tests, for Fauxmaster, and as the model that [`super::conformance`] holds other stores
//! against. What is written survives the store but not the process: [`MemoryDisk`] plays the disk,
//! so that a replica may be dropped and opened again. Loses nothing and tears nothing; the faults
//! of a disk are the simulation's.
//!
//! Invariant: at most one [`MemoryStore`] is open on a disk.

use std::sync::{Arc, Mutex, MutexGuard};

use super::extent::Extent;
use super::{Batch, LogStore, Recovered, ReplicaIdentity, StoreError};

/// What a replica's store is opened on. Clones are the same disk.
#[derive(Debug, Clone, Default)]
pub struct MemoryDisk {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    kept: Option<Recovered>,
    open: bool,
}

/// An open store on a [`MemoryDisk`]; dropping it lets go of the disk.
#[derive(Debug)]
pub struct MemoryStore {
    disk: MemoryDisk,
}

impl MemoryDisk {
    /// Opens the disk as `identity`'s, or makes it so if it is new.
    ///
    /// # Errors
    /// [`StoreError::InUse`] and [`StoreError::WrongIdentity`].
    pub fn open(&self, identity: &ReplicaIdentity) -> Result<MemoryStore, StoreError> {
        let mut shared = self.lock();
        if shared.open {
            return Err(StoreError::InUse { path: "memory".into() });
        }
        let kept = shared.kept.get_or_insert_with(|| Recovered::empty(identity.clone()));
        if kept.identity != *identity {
            return Err(StoreError::WrongIdentity {
                found: kept.identity.clone(),
                expected: identity.clone(),
            });
        }
        shared.open = true;
        Ok(MemoryStore { disk: self.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().expect("no code panics while it holds the disk")
    }
}

impl LogStore for MemoryStore {
    fn recover(&mut self) -> Result<Recovered, StoreError> {
        Ok(self.disk.lock().kept.clone().expect("an open disk has an owner"))
    }

    fn write(&mut self, batch: &Batch<'_>) -> Result<(), StoreError> {
        let mut shared = self.disk.lock();
        apply(shared.kept.as_mut().expect("an open disk has an owner"), batch)
    }
}

impl Drop for MemoryStore {
    fn drop(&mut self) {
        self.disk.lock().open = false;
    }
}

/// Does `batch` to `kept`: the meaning of a batch, in full.
///
/// # Errors
/// [`StoreError::Invalid`], with `kept` unchanged.
pub fn apply(kept: &mut Recovered, batch: &Batch<'_>) -> Result<(), StoreError> {
    let extent = Extent {
        compacted: kept.compacted,
        last: kept.last(),
        checkpoint: kept.checkpoint.as_ref().map(|checkpoint| checkpoint.position()),
        hard_state: kept.hard_state,
    };
    let first = kept.compacted.index + 1;
    let term_at = |index: u64| kept.entries[offset(index, first)].term;
    let plan = extent.plan(batch, term_at)?;
    if let Some(checkpoint) = batch.checkpoint {
        kept.checkpoint = Some(checkpoint.clone());
    }
    if plan.replace.is_some() {
        kept.entries.clear();
    }
    if let Some(from) = plan.truncate_from {
        kept.entries.retain(|entry| entry.index < from);
    }
    kept.entries.extend_from_slice(batch.entries);
    kept.entries.retain(|entry| entry.index > plan.after.compacted.index);
    kept.compacted = plan.after.compacted;
    kept.hard_state = plan.after.hard_state;
    Ok(())
}

fn offset(index: u64, first: u64) -> usize {
    usize::try_from(index - first).expect("a log in memory fits in memory")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance::CASES;

    #[test]
    fn memory_conforms() {
        for (_name, case) in CASES {
            let disk = MemoryDisk::default();
            case(&mut |identity| Ok(Box::new(disk.open(identity)?)));
        }
    }
}
