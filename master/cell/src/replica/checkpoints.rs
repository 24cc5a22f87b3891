//! When a replica saves a checkpoint of its own, and how the log is compacted behind it.
//!
//! Leaves the file to whoever carries out [`CheckpointWork`], and checkpoints on their way between replicas to
//! `transfer`.

use super::{CATCH_UP_BYTES, CHECKPOINT_BYTES, LATE_BYTES, Out, Replica};
use crate::master::{CheckpointWork, Effect, OwnedBatch};
use crate::store::{CheckpointMeta, Position};
use borg_proto::Millis;
use raft::{ProgressState, SnapshotStatus, Storage};

impl Replica {
    /// Lets a checkpoint be written when it is time; the log goes on meanwhile.
    pub(super) fn begin_checkpoint(&mut self, now: Millis, out: &mut Out) {
        let applied = self.state.applied();
        let log = self.raw.store();
        let due = applied >= log.checkpoint_index() + self.config.checkpoint_every
            || self.uncovered_bytes >= CHECKPOINT_BYTES
            || self.somebody_needs_one();
        let free = self.saving.is_none() && now >= self.next_checkpoint;
        if self.halted.is_some() || !due || !free || applied == log.checkpoint_index() {
            return;
        }
        let term = log.term(applied).expect("an applied entry after the checkpoint is in the log");
        let place = Position { index: applied, term };
        out.after.push(Effect::Checkpoint(CheckpointWork::Save {
            place,
            membership: log.members().clone(),
            state: Box::new(self.state.clone()),
            log: log.copies(log.checkpoint_index(), applied),
        }));
        self.saving = Some(place);
        self.uncovered_bytes = 0;
    }

    /// A newcomer waits for the checkpoint that is being saved, or for the one after it; or the log grows
    /// so fast that it is late.
    pub(super) fn hurry_checkpoint(&mut self, out: &mut Out) {
        if let Some(Position { index, .. }) = self.saving
            && index != self.hurried
            && (self.somebody_needs_one() || self.uncovered_bytes >= LATE_BYTES)
        {
            self.hurried = index;
            out.after.push(Effect::Hurry { index });
        }
    }

    /// A checkpoint of our own is on disk: from here on the log begins there.
    pub(super) fn checkpoint_saved(
        &mut self,
        place: Position,
        meta: CheckpointMeta,
        out: &mut Out,
    ) {
        if self.saving.take_if(|saving| *saving == place).is_none() {
            return;
        }
        let log = self.raw.store();
        // A leader's checkpoint may have overtaken it.
        if place.index <= log.checkpoint_index() || self.halted.is_some() {
            return;
        }
        self.compacting = log.compact_to(place.index, self.config.trailing, CHECKPOINT_BYTES);
        if let Some(wanted) = self.wanted_by_others() {
            let room = log.compact_to(place.index, u64::MAX, CATCH_UP_BYTES);
            self.compacting = self.compacting.min(wanted.max(room));
        }
        self.raw.mut_store().checkpoint(meta.clone());
        self.transfers.keep(meta.clone());
        self.persist_compaction(Some(meta), out);
    }

    /// Forgets some more of what the last checkpoint covers.
    pub(super) fn compact(&mut self, out: &mut Out) {
        if self.compacting > self.raw.store().compacted() && self.halted.is_none() {
            self.persist_compaction(None, out);
        }
    }

    pub(super) fn persist_compaction(&mut self, checkpoint: Option<CheckpointMeta>, out: &mut Out) {
        let log = self.raw.mut_store();
        let step = log.step_towards(self.compacting, self.config.compact_bytes);
        let compact_to = Some(step).filter(|step| *step > log.compacted());
        log.compact(step);
        // The turn may write a newer hard state before this: an older must not come after it.
        let batch = OwnedBatch { checkpoint, entries: Vec::new(), compact_to, hard_state: None };
        // At once: a leader's newer checkpoint may be installed later in this turn.
        out.effects.push(Effect::Persist(batch));
    }

    /// A newcomer takes only a checkpoint whose configuration has it.
    pub(super) fn somebody_needs_one(&self) -> bool {
        let log = self.raw.store();
        self.leads() && log.members().learners.iter().any(|id| !log.checkpoint_includes(*id))
    }

    /// The place of the oldest checkpoint that another replica is taking: it will need the log from
    /// there on.
    pub(super) fn wanted_by_others(&self) -> Option<u64> {
        let prs = self.raw.raft.prs().iter();
        prs.filter(|(_, progress)| progress.state == ProgressState::Snapshot)
            .map(|(_, progress)| progress.pending_snapshot)
            .min()
    }

    /// Raft waits for a word about every checkpoint that it sent. No word for long is a word too.
    pub(super) fn checkpoint_lost(&mut self, to: u64) {
        let waits = self.raw.raft.prs().get(to).is_some_and(|p| p.state == ProgressState::Snapshot);
        if self.leads() && waits {
            self.raw.report_snapshot(to, SnapshotStatus::Failure);
        }
    }
}
