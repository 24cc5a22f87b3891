//! A log that can prove itself, on top of an engine that cannot.
//!
//! Turns batches into one engine change plus one step of the watermark, and on opening checks
//! every record against the chain, the head and the watermark. Leaves what a batch means to
//! `borg_cell::store::extent`, atomicity to the engine, and bytes to `record`.
//!
//! Invariant: checkpoint file (long before, by `archive`), then engine, then watermark, each synced
//! before the next begins, then the answer. So whatever was acknowledged is in the watermark, and
//! whatever is in the watermark was in the engine.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use borg_cell::store::extent::Extent;
use borg_cell::store::{
    Batch, Checkpoint, CheckpointStore, LogEntry, LogStore, Recovered, ReplicaIdentity, StoreError,
};

use super::StoreKind;
use super::archive::Archive;
use super::checkpoint::reference;
use super::directory::Directory;
use super::engine::{Change, Engine, guarded};
use super::keep::Keep;
use super::record::{
    Block, CheckpointRef, Head, Link, Unsealed, decode_entry, encode_entry, link_of_checkpoint,
    owner,
};
use super::watermark::{Mark, Watermark};

/// How many checkpoints the head names. 2: if the newest turns out rotten, the one before it gives the
/// same state, but only with the log from there on. That is there when the two are closer together
/// than what compaction leaves (by default 2,000 entries); else the log is broken, and says so.
const NAMED: usize = 2;

/// An open log.
pub(super) struct Durable {
    engine: Box<dyn Engine>,
    watermark: Watermark,
    /// What the last write left, and its checksum.
    head: Head,
    head_sum: u64,
    /// Links of the entries after `head.compacted`, for their terms and for overwriting: 24 bytes
    /// an entry, bounded by compaction.
    links: VecDeque<Link>,
    /// What was read on opening, until it is asked for or outdated.
    opened: Option<Recovered>,
    identity: ReplicaIdentity,
    /// Knows whether a write failed: then nobody knows what is on disk, so nothing may follow.
    /// Last, so that the lock outlives the engine's own files.
    archive: Arc<Archive>,
}

impl fmt::Debug for Durable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Durable")
            .field("head", &self.head)
            .field("identity", &self.identity)
            .field("archive", &self.archive)
            .finish_non_exhaustive()
    }
}

impl Durable {
    /// Opens the log in `directory` and verifies all of it.
    pub(super) fn open(
        kind: StoreKind,
        directory: Directory,
        keep: Keep,
    ) -> Result<Self, StoreError> {
        let Directory { log, identity, lock } = directory;
        let (watermark, mark) = Watermark::open(&log)?;
        let at = mark.head.last.place.index;
        let path = log.join(kind.file_name());
        if !path.exists() {
            return Err(StoreError::broken(1, format!("{} is missing", path.display())));
        }
        let engine = guarded(|| kind.open(&path)).map_err(|error| error.of("open the log", at))?;
        let mut store = Self {
            engine,
            watermark,
            head_sum: mark.sum,
            head: mark.head.clone(),
            links: VecDeque::new(),
            opened: None,
            identity,
            archive: Arc::new(Archive::open(&log, keep, lock)?),
        };
        let (recovered, head) = store.read(&mark)?;
        if store.head_sum != mark.sum {
            // The process died between engine and watermark: finish that write.
            store.watermark.advance(store.head.write, &head)?;
        }
        store.opened = Some(recovered);
        Ok(store)
    }

    /// The checkpoint files of the same directory.
    pub(super) fn archive(&self) -> &Arc<Archive> {
        &self.archive
    }

    /// Reads everything and holds it against `mark`. Gives the bytes of the head, too; ours leaves
    /// out checkpoints that cannot be used.
    fn read(&mut self, mark: &Mark) -> Result<(Recovered, Vec<u8>), StoreError> {
        let at = mark.head.last.place.index;
        let held = guarded(|| self.engine.load()).map_err(|error| error.of("read the log", at))?;
        let Some(bytes) = held.head else {
            return Err(StoreError::broken(1, "the log has no head"));
        };
        let (head, sum) = Head::decode(&bytes).map_err(|unsealed| match unsealed {
            Unsealed::Damaged(why) => StoreError::broken(at, format!("head of the log: {why}")),
            Unsealed::Newer(found) => {
                let supported = Block::Head.format();
                StoreError::Version { what: "head of the log".into(), found, supported }
            }
        })?;
        check_progress(&head, sum, mark)?;
        if head.owner != owner(&self.identity) {
            return Err(StoreError::broken(1, "the log is another replica's"));
        }
        let (entries, links) = check_chain(&head, &held.records)?;
        let (checkpoint, checkpoints) = self.read_checkpoint(&head)?;
        let recovered = Recovered {
            identity: self.identity.clone(),
            hard_state: head.hard_state,
            checkpoint,
            compacted: head.compacted.place,
            entries,
        };
        // A checkpoint that was passed over stays, for whoever wants to know why.
        self.archive.name(&head.checkpoints);
        self.links = links;
        self.head = Head { checkpoints, ..head };
        self.head_sum = sum;
        Ok((recovered, bytes))
    }

    /// The newest checkpoint that is whole and reaches the log, and the references from it on.
    fn read_checkpoint(
        &self,
        head: &Head,
    ) -> Result<(Option<Checkpoint>, Vec<CheckpointRef>), StoreError> {
        let mut first_error = None;
        for (skipped, reference) in head.checkpoints.iter().enumerate() {
            if reference.place.index < head.compacted.place.index {
                continue;
            }
            match self.archive.load(reference) {
                Ok(found) => return Ok((Some(found), head.checkpoints[skipped..].to_vec())),
                Err(error @ StoreError::Broken { .. }) => {
                    tracing::warn!(%error, "checkpoint unusable, looking for the one before");
                    first_error.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        match first_error {
            Some(error) => Err(error),
            None if head.compacted.place.index > 0 => {
                Err(StoreError::broken(1, "the log is compacted and has no checkpoint"))
            }
            None => Ok((None, Vec::new())),
        }
    }

    fn extent(&self) -> Extent {
        Extent {
            compacted: self.head.compacted.place,
            last: self.head.last.place,
            checkpoint: self.head.checkpoints.first().map(|reference| reference.place),
            hard_state: self.head.hard_state,
        }
    }

    /// The link at `index`, from `compacted` to `last`.
    fn link(&self, index: u64) -> Link {
        let base = self.head.compacted;
        match index.checked_sub(base.place.index + 1).map(usize::try_from) {
            None => base,
            Some(offset) => self.links[offset.expect("a log in memory fits in memory")],
        }
    }

    /// Does the durable part of a write, and keeps the head and the links after it.
    fn persist(&mut self, batch: &Batch<'_>) -> Result<(), StoreError> {
        let plan = self.extent().plan(batch, |index| self.link(index).place.term)?;
        if let Some(meta) = batch.checkpoint.filter(|meta| !self.archive.has(meta)) {
            let why = format!("the checkpoint at {} was not saved", meta.place.index);
            return Err(StoreError::Invalid(why));
        }
        self.opened = None;
        let mut head = self.head.clone();
        head.write += 1;
        head.previous = self.head_sum;
        if let Some(meta) = batch.checkpoint {
            let reference = reference(meta);
            head.checkpoints.retain(|named| *named != reference);
            head.checkpoints.insert(0, reference);
            head.checkpoints.truncate(NAMED);
            if plan.replace.is_some() {
                head.compacted = link_of_checkpoint(head.last, &reference);
                head.last = head.compacted;
            }
        }
        let first_new = batch.entries.first().map(|entry| entry.index);
        if plan.replace.is_none()
            && let Some(first) = first_new
        {
            head.last = self.link(first - 1);
        }
        let mut put = Vec::with_capacity(batch.entries.len());
        let mut new_links = Vec::with_capacity(batch.entries.len());
        for entry in batch.entries {
            let (record, link) = encode_entry(head.last, entry);
            put.push((entry.index, record));
            new_links.push(link);
            head.last = link;
        }
        if let Some(place) = plan.compact_to {
            head.compacted = self.link(place.index);
        }
        head.hard_state = plan.after.hard_state;
        let (bytes, sum) = head.encode();
        let change = Change {
            truncate_from: plan.replace.map(|_| 0).or(plan.truncate_from),
            put: &put,
            remove_through: plan.compact_to.map(|place| place.index),
            head: &bytes,
        };
        let at = first_new.unwrap_or(head.last.place.index);
        guarded(|| self.engine.commit(&change)).map_err(|error| error.of("write the log", at))?;
        self.watermark.advance(head.write, &bytes)?;

        if plan.replace.is_some() {
            self.links.clear();
        } else if let Some(from) = plan.truncate_from {
            while self.links.back().is_some_and(|link| link.place.index >= from) {
                self.links.pop_back();
            }
        }
        self.links.extend(new_links);
        while self.links.front().is_some_and(|link| link.place.index <= head.compacted.place.index)
        {
            self.links.pop_front();
        }
        self.archive.name(&head.checkpoints);
        self.head = head;
        self.head_sum = sum;
        Ok(())
    }
}

impl LogStore for Durable {
    fn recover(&mut self) -> Result<Recovered, StoreError> {
        self.archive.usable()?;
        match self.opened.take() {
            Some(opened) => Ok(opened),
            None => {
                let mark = Mark { head: self.head.clone(), sum: self.head_sum, torn: false };
                self.read(&mark).map(|(recovered, _)| recovered)
            }
        }
    }

    fn write(&mut self, batch: &Batch<'_>) -> Result<(), StoreError> {
        self.archive.usable()?;
        if batch.checkpoint.is_none()
            && batch.entries.is_empty()
            && batch.compact_to.is_none()
            && batch.hard_state.is_none_or(|next| next == self.head.hard_state)
        {
            return Ok(());
        }
        self.persist(batch).inspect_err(|error| {
            // A refusal comes before anything is done; after all else nobody knows what is on disk.
            if !matches!(error, StoreError::Invalid(_)) {
                self.archive.fail();
            }
        })
    }

    fn checkpoints(&self) -> Arc<dyn CheckpointStore> {
        self.archive.clone()
    }
}

/// The engine is where the watermark is, or at the one write after it.
fn check_progress(head: &Head, sum: u64, mark: &Mark) -> Result<(), StoreError> {
    let at = mark.head.last.place.index.min(head.last.place.index) + 1;
    if sum == mark.sum {
        // A slot tears only while the write after this one is acknowledged, and by then the engine
        // has that write. It has not: so it lost it, or the slot is rotten.
        if mark.torn {
            return Err(StoreError::broken(at, "half of the watermark is damaged"));
        }
        return Ok(());
    }
    if head.write == mark.head.write + 1 && head.previous == mark.sum {
        return Ok(());
    }
    let why =
        format!("write {} was acknowledged, the log holds write {}", mark.head.write, head.write);
    Err(StoreError::broken(at, why))
}

/// The records are the entries that `head` speaks of, all of them and no other.
fn check_chain(
    head: &Head,
    records: &[(u64, Vec<u8>)],
) -> Result<(Vec<LogEntry>, VecDeque<Link>), StoreError> {
    let mut entries = Vec::with_capacity(records.len());
    let mut links = VecDeque::with_capacity(records.len());
    let mut before = head.compacted;
    for (index, record) in records {
        let at = before.place.index + 1;
        if *index != at {
            return Err(StoreError::broken(at, format!("the next entry found is {index}")));
        }
        let (entry, link) =
            decode_entry(before, record).map_err(|why| StoreError::broken(at, why))?;
        entries.push(entry);
        links.push_back(link);
        before = link;
    }
    if before != head.last {
        let why = format!("the log ends here and should reach {}", head.last.place.index);
        return Err(StoreError::broken(before.place.index + 1, why));
    }
    Ok((entries, links))
}
