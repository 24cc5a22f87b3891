//! A disk that plays the disk of a Borgmaster: it survives its process, and can fail.
//!
//! Keeps the contract of [`LogStore`]: a write that returned is durable. When it fails, or when
//! the process dies during it, the caller of the simulation decides how much of the batch got there.
//!
//! What the real store proves by its chain of checksums and its watermark holds here too: a batch
//! that is half there is taken back or finished when the disk is opened, and a disk on which
//! something that counts has rotten is not opened at all.

use borg_cell::master::OwnedBatch;
use borg_cell::store::memory::{Files, apply};
use borg_cell::store::{
    Batch, Checkpoint, CheckpointDraft, CheckpointMeta, CheckpointStore, LogStore, Recovered,
    ReplicaIdentity, StoreError,
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

/// How much of a write is on the disk when its process dies during it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reached {
    /// Nothing.
    Nothing,
    /// A part of it. The engine takes it back.
    Half,
    /// All of it, but the watermark says nothing of it yet. It is finished.
    AllButWatermark,
    /// All.
    All,
}

/// How much room a disk has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Room {
    /// Enough.
    #[default]
    Plenty,
    /// Enough for the log, not for checkpoints.
    Little,
    /// None at all.
    None,
}

/// Where a bit has flipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rot {
    /// In an entry, this far between the first and the last, in thousandths.
    Entry(u16),
    /// In the head of the log, or in the watermark.
    Head,
    /// In the newest checkpoint.
    Checkpoint,
}

/// What has rotten, until it is written anew or forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rotten {
    Entry(u64),
    Head,
    Checkpoint(u64),
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
    /// The checkpoint before the newest, which is kept as well.
    previous: Option<Checkpoint>,
    /// What a process was writing when it died.
    torn: Option<(OwnedBatch, Reached)>,
    rotten: Vec<Rotten>,
    open: bool,
    fault: Option<SyncFault>,
    room: Room,
}

/// An open store on a [`SimDisk`]; dropping it lets go of the disk.
#[derive(Debug)]
pub struct SimStore {
    disk: SimDisk,
    failed: bool,
    repaired: Option<Reached>,
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
        shared.prove()?;
        let torn = shared.torn.take();
        let repaired = torn.as_ref().map(|torn| torn.1);
        if let Some((batch, Reached::AllButWatermark | Reached::All)) = torn {
            shared.take(&batch.as_batch())?;
        }
        shared.open = true;
        Ok(SimStore { disk: self.clone(), failed: false, repaired })
    }

    /// Flips a bit of what is kept. False when there is nothing of the kind.
    pub fn rot(&self, what: Rot) -> bool {
        let mut shared = self.lock();
        let Some(kept) = &shared.kept else { return false };
        let found = match what {
            Rot::Entry(part) => {
                let there = u64::try_from(kept.entries.len()).expect("64 bits");
                let past = there * u64::from(part.min(999)) / 1_000;
                (there > 0).then(|| Rotten::Entry(kept.compacted.index + 1 + past))
            }
            Rot::Head => Some(Rotten::Head),
            Rot::Checkpoint => {
                kept.checkpoint.as_ref().map(|made| Rotten::Checkpoint(made.meta.place.index))
            }
        };
        shared.rotten.extend(found);
        found.is_some()
    }

    /// Whether it could not be opened as it is.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        !self.lock().rotten.is_empty()
    }

    /// How much room there is from now on.
    pub fn fill(&self, room: Room) {
        self.lock().room = room;
    }

    /// Whether writes are refused for want of room.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.lock().room == Room::None
    }

    /// The log from its beginning on this disk: what a replica would start from.
    #[must_use]
    pub fn kept(&self) -> Option<Recovered> {
        self.lock().kept.clone()
    }

    /// Loses everything, as when somebody puts in a new disk.
    pub fn wipe(&self) {
        let mut shared = self.lock();
        let (open, room) = (shared.open, shared.room);
        *shared = Shared { open, room, ..Shared::default() };
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

impl Shared {
    fn has_room(&self, what: &str) -> Result<(), StoreError> {
        if self.room == Room::Plenty {
            return Ok(());
        }
        Err(StoreError::Full { what: what.to_owned() })
    }

    /// Does a whole batch. What it writes anew or forgets is no longer rotten.
    fn take(&mut self, batch: &Batch<'_>) -> Result<(), StoreError> {
        let kept = self.kept.as_mut().expect("an open disk has an owner");
        let before = batch.checkpoint.and_then(|_| kept.checkpoint.clone());
        apply(kept, batch, &self.files)?;
        self.previous = before.or_else(|| self.previous.take());
        if !self.rotten.is_empty() {
            let (first, last) = (kept.compacted.index + 1, kept.last().index);
            let written = batch.entries.first().map_or(u64::MAX, |entry| entry.index);
            let (newest, previous) = (kept.checkpoint.as_ref(), self.previous.as_ref());
            let is_there = |made: Option<&Checkpoint>, index| {
                made.is_some_and(|m| m.meta.place.index == index)
            };
            self.rotten.retain(|rotten| match *rotten {
                Rotten::Entry(index) => (first..=last.min(written - 1)).contains(&index),
                Rotten::Head => false,
                Rotten::Checkpoint(index) => is_there(newest, index) || is_there(previous, index),
            });
        }
        Ok(())
    }

    /// Proves that everything is there and sound, or falls back to the checkpoint before.
    fn prove(&mut self) -> Result<(), StoreError> {
        let kept = self.kept.as_mut().expect("an open disk has an owner");
        for rotten in self.rotten.clone() {
            match rotten {
                Rotten::Entry(at) => return Err(StoreError::broken(at, "a bit flipped here")),
                Rotten::Head => {
                    return Err(StoreError::broken(kept.last().index + 1, "the head is rotten"));
                }
                Rotten::Checkpoint(index) => {
                    if kept.checkpoint.as_ref().is_none_or(|made| made.meta.place.index != index) {
                        continue;
                    }
                    let reaches = |made: &Checkpoint| made.meta.place.index >= kept.compacted.index;
                    let Some(previous) = self.previous.take().filter(reaches) else {
                        return Err(StoreError::broken(index, "the checkpoint is rotten"));
                    };
                    kept.checkpoint = Some(previous);
                    self.rotten.retain(|other| *other != rotten);
                }
            }
        }
        Ok(())
    }
}

impl SimStore {
    /// The process dies while it writes `batch`.
    pub fn tear(&mut self, batch: OwnedBatch, reached: Reached) {
        self.failed = true;
        self.disk.lock().torn = Some((batch, reached));
    }

    /// The term of the entry at `index`, as far as it is known here.
    #[must_use]
    pub fn term_of(&self, index: u64) -> Option<u64> {
        let shared = self.disk.lock();
        let compacted = shared.kept.as_ref()?.compacted;
        drop(shared);
        if index == compacted.index {
            return Some(compacted.term);
        }
        self.disk.term_at(index).filter(|term| *term > 0)
    }

    /// What had to be done to a write that the last process left behind.
    #[must_use]
    pub const fn repaired(&self) -> Option<Reached> {
        self.repaired
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
        if shared.room == Room::None {
            self.failed = true;
            return Err(StoreError::failed("write", "simulated: no space left on device"));
        }
        let fault = shared.fault.take();
        if fault != Some(SyncFault::Lost) {
            shared.take(batch)?;
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
        let mut shared = self.lock();
        shared.has_room("save a checkpoint")?;
        Ok(shared.files.save(draft))
    }

    fn read(
        &self,
        meta: &CheckpointMeta,
        offset: u64,
        length: usize,
    ) -> Result<Vec<u8>, StoreError> {
        let shared = self.lock();
        let mut piece = shared.files.read(meta, offset, length)?;
        // Whoever reads does not notice; whoever puts the file together does.
        if shared.rotten.contains(&Rotten::Checkpoint(meta.place.index))
            && let Some(byte) = piece.first_mut()
        {
            *byte ^= 1;
        }
        Ok(piece)
    }

    fn received(&self, meta: &CheckpointMeta) -> Result<u64, StoreError> {
        Ok(self.lock().files.received(meta))
    }

    fn receive(&self, meta: &CheckpointMeta, offset: u64, piece: &[u8]) -> Result<(), StoreError> {
        let mut shared = self.lock();
        shared.has_room("receive a checkpoint")?;
        shared.files.receive(meta, offset, piece)
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

    fn written(store: &mut SimStore, first: u64, count: u64) {
        let some = entries(first, count, 1, 10);
        store.write(&Batch { entries: &some, ..Batch::default() }).unwrap();
    }

    #[test]
    fn a_write_that_its_process_did_not_survive_is_there_in_full_or_not_at_all() {
        for (reached, last) in [
            (Reached::Nothing, 3),
            (Reached::Half, 3),
            (Reached::AllButWatermark, 5),
            (Reached::All, 5),
        ] {
            let disk = SimDisk::default();
            let mut store = disk.open(&identity()).unwrap();
            written(&mut store, 1, 3);
            store.tear(
                OwnedBatch { entries: entries(4, 2, 1, 10), ..OwnedBatch::default() },
                reached,
            );
            drop(store);
            let mut store = disk.open(&identity()).unwrap();
            assert_eq!(store.recover().unwrap().last().index, last);
            assert_eq!(store.repaired(), Some(reached));
        }
    }

    #[test]
    fn a_disk_on_which_something_that_counts_has_rotten_is_not_opened() {
        let broken = |rot| {
            let disk = SimDisk::default();
            written(&mut disk.open(&identity()).unwrap(), 1, 10);
            assert!(disk.rot(rot) && disk.is_broken());
            disk.open(&identity()).unwrap_err().to_string()
        };
        assert!(broken(Rot::Entry(500)).starts_with("log broken at 6:"));
        assert!(broken(Rot::Head).starts_with("log broken at 11:"));
    }

    #[test]
    fn what_is_written_anew_is_not_rotten_any_more() {
        let disk = SimDisk::default();
        let mut store = disk.open(&identity()).unwrap();
        written(&mut store, 1, 10);
        assert!(!disk.rot(Rot::Checkpoint), "there is none");
        assert!(disk.rot(Rot::Entry(999)) && disk.rot(Rot::Head));
        written(&mut store, 8, 4);
        assert!(!disk.is_broken());
    }

    #[test]
    fn a_full_disk_takes_nothing_and_has_lost_nothing() {
        let disk = SimDisk::default();
        let mut store = disk.open(&identity()).unwrap();
        written(&mut store, 1, 3);
        disk.fill(Room::None);
        let more = entries(4, 1, 1, 10);
        assert!(store.write(&Batch { entries: &more, ..Batch::default() }).is_err());
        drop(store);
        disk.fill(Room::Plenty);
        let mut store = disk.open(&identity()).unwrap();
        assert_eq!(store.recover().unwrap().last().index, 3);
        written(&mut store, 4, 1);
    }
}
