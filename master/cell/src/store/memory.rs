//! A log in memory: the plainest store that keeps the contract.
//!
//! For tests, for Fauxmaster, and as the model that [`super::conformance`] holds other stores
//! against. What is written survives the store but not the process: [`MemoryDisk`] plays the disk,
//! so that a replica may be dropped and opened again. Loses nothing and tears nothing; the faults
//! of a disk are the simulation's.
//!
//! Invariant: at most one [`MemoryStore`] is open on a disk.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use super::extent::Extent;
use super::{
    Batch, Checkpoint, CheckpointDraft, CheckpointMeta, CheckpointStore, HardState, LogStore,
    Recovered, ReplicaIdentity, StoreError,
};
use xxhash_rust::xxh3::xxh3_64;

/// Checkpoint files kept in memory: enough for one to be sent while the next two are made.
const KEPT: usize = 4;

/// What a replica's store is opened on. Clones are the same disk.
#[derive(Debug, Clone, Default)]
pub struct MemoryDisk {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    kept: Option<Recovered>,
    files: Files,
    open: bool,
}

/// Checkpoint files in memory. The bytes of a file are those of its state.
#[derive(Debug, Default)]
pub struct Files {
    kept: BTreeMap<u64, (CheckpointMeta, Arc<[u8]>)>,
    /// Of another master, as far as it is here.
    part: Option<(CheckpointMeta, Vec<u8>)>,
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

    /// Makes the disk `identity`'s, with a log that begins with a checkpoint: of a new cell, or of a
    /// backup. Whatever was on it is gone.
    ///
    /// # Panics
    /// When the disk is open.
    pub fn found(&self, identity: &ReplicaIdentity, draft: &CheckpointDraft<'_>) {
        let mut shared = self.lock();
        assert!(!shared.open, "nobody may have the disk open");
        let mut files = Files::default();
        shared.kept = Some(files.found(identity, draft));
        shared.files = files;
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().expect("no code panics while it holds the disk")
    }
}

impl Files {
    /// See [`CheckpointStore::save`].
    pub fn save(&mut self, draft: &CheckpointDraft<'_>) -> CheckpointMeta {
        let meta = CheckpointMeta {
            place: draft.place,
            membership: draft.membership.clone(),
            at: draft.at,
            file_bytes: draft.state.len() as u64,
            file_sum: xxh3_64(draft.state),
        };
        self.keep(meta.clone(), draft.state.into());
        meta
    }

    /// A log that begins with this checkpoint.
    #[must_use]
    pub fn found(&mut self, identity: &ReplicaIdentity, draft: &CheckpointDraft<'_>) -> Recovered {
        let meta = self.save(draft);
        Recovered {
            hard_state: HardState { term: draft.place.term, vote: 0, commit: draft.place.index },
            compacted: draft.place,
            checkpoint: Some(Checkpoint { meta, state: draft.state.into() }),
            ..Recovered::empty(identity.clone())
        }
    }

    fn keep(&mut self, meta: CheckpointMeta, file: Arc<[u8]>) {
        self.kept.insert(meta.place.index, (meta, file));
        while self.kept.len() > KEPT {
            self.kept.pop_first();
        }
    }

    /// The state in a file, if it is kept.
    #[must_use]
    pub fn state(&self, meta: &CheckpointMeta) -> Option<Arc<[u8]>> {
        self.kept.get(&meta.place.index).filter(|kept| kept.0 == *meta).map(|kept| kept.1.clone())
    }

    /// See [`CheckpointStore::read`].
    ///
    /// # Errors
    /// [`StoreError::Gone`].
    pub fn read(
        &self,
        meta: &CheckpointMeta,
        offset: u64,
        length: usize,
    ) -> Result<Vec<u8>, StoreError> {
        let file = self.state(meta).ok_or(StoreError::Gone { index: meta.place.index })?;
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(file.len());
        let to = from.saturating_add(length).min(file.len());
        Ok(file[from..to].to_vec())
    }

    /// See [`CheckpointStore::received`].
    pub fn received(&mut self, meta: &CheckpointMeta) -> u64 {
        if self.part.as_ref().is_none_or(|part| part.0 != *meta) {
            self.part = Some((meta.clone(), Vec::new()));
        }
        self.part.as_ref().map_or(0, |part| part.1.len() as u64)
    }

    /// See [`CheckpointStore::receive`].
    ///
    /// # Errors
    /// [`StoreError::Invalid`].
    pub fn receive(
        &mut self,
        meta: &CheckpointMeta,
        offset: u64,
        piece: &[u8],
    ) -> Result<(), StoreError> {
        let here = self.received(meta);
        if offset != here {
            return Err(StoreError::Invalid(format!("piece at {offset}, received up to {here}")));
        }
        self.part.as_mut().expect("it has just been made").1.extend_from_slice(piece);
        Ok(())
    }

    /// See [`CheckpointStore::finish`].
    ///
    /// # Errors
    /// [`StoreError::Broken`].
    pub fn finish(&mut self, meta: &CheckpointMeta) -> Result<Vec<u8>, StoreError> {
        self.received(meta);
        let (meta, file) = self.part.take().expect("it has just been made");
        if file.len() as u64 != meta.file_bytes || xxh3_64(&file) != meta.file_sum {
            return Err(StoreError::broken(meta.place.index, "not the file that was offered"));
        }
        self.keep(meta, file.clone().into());
        Ok(file)
    }
}

impl CheckpointStore for MemoryDisk {
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

impl LogStore for MemoryStore {
    fn recover(&mut self) -> Result<Recovered, StoreError> {
        Ok(self.disk.lock().kept.clone().expect("an open disk has an owner"))
    }

    fn write(&mut self, batch: &Batch<'_>) -> Result<(), StoreError> {
        let mut shared = self.disk.lock();
        let Shared { kept, files, .. } = &mut *shared;
        apply(kept.as_mut().expect("an open disk has an owner"), batch, files)
    }

    fn checkpoints(&self) -> Arc<dyn CheckpointStore> {
        Arc::new(self.disk.clone())
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
pub fn apply(kept: &mut Recovered, batch: &Batch<'_>, files: &Files) -> Result<(), StoreError> {
    let extent = Extent {
        compacted: kept.compacted,
        last: kept.last(),
        checkpoint: kept.checkpoint.as_ref().map(|checkpoint| checkpoint.meta.place),
        hard_state: kept.hard_state,
    };
    let first = kept.compacted.index + 1;
    let term_at = |index: u64| kept.entries[offset(index, first)].term;
    let plan = extent.plan(batch, term_at)?;
    if let Some(meta) = batch.checkpoint {
        let Some(state) = files.state(meta) else {
            let index = meta.place.index;
            return Err(StoreError::Invalid(format!("the checkpoint at {index} was not saved")));
        };
        kept.checkpoint = Some(Checkpoint { meta: meta.clone(), state });
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
