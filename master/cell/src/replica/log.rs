//! The part of the log that a replica holds in memory, as Raft wants to read it.
//!
//! Everything since the last compaction, and the newest checkpoint for replicas that need older
//! entries than these. Says nothing of durability: what is here has been handed out to be
//! persisted in the same turn.
//!
//! Invariant: entries are consecutive and start just after `compacted`; the checkpoint covers
//! `compacted`.

use super::{members, message};
use crate::store::{CheckpointMeta, EntryKind, LogEntry, Membership, Position, Recovered};
use raft::eraftpb::{Entry, EntryType, HardState, Snapshot};
use raft::{Error, GetEntriesContext, RaftState, Storage, StorageError};
use std::collections::VecDeque;

/// What an entry takes beside its data, about, in bytes.
const ENTRY_BYTES: usize = 64;

#[derive(Debug)]
pub(super) struct MemoryLog {
    compacted: Position,
    entries: VecDeque<Entry>,
    checkpoint: Option<CheckpointMeta>,
    members: Membership,
    /// Only what Raft starts from.
    start: HardState,
}

impl MemoryLog {
    /// The log that a store gave back. `commit` is where it is known to be agreed.
    pub(super) fn new(recovered: &Recovered, members: Membership, commit: u64) -> Self {
        let start = HardState {
            term: recovered.hard_state.term,
            vote: recovered.hard_state.vote,
            commit,
            ..HardState::default()
        };
        Self {
            compacted: recovered.compacted,
            entries: recovered.entries.iter().map(to_raft).collect(),
            checkpoint: recovered.checkpoint.as_ref().map(|made| made.meta.clone()),
            members,
            start,
        }
    }

    pub(super) fn members(&self) -> &Membership {
        &self.members
    }

    pub(super) fn set_members(&mut self, members: Membership) {
        self.members = members;
    }

    /// Whether a replica is in the configuration of the newest checkpoint.
    pub(super) fn checkpoint_includes(&self, id: u64) -> bool {
        self.checkpoint.as_ref().is_some_and(|made| members::includes(&made.membership, id))
    }

    pub(super) fn checkpoint_index(&self) -> u64 {
        self.checkpoint.as_ref().map_or(0, |made| made.place.index)
    }

    pub(super) fn compacted(&self) -> u64 {
        self.compacted.index
    }

    /// Takes entries that are being persisted; they replace everything from the first of them on.
    pub(super) fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        let keep = first.index.saturating_sub(self.compacted.index + 1);
        self.entries.truncate(to_usize(keep));
        self.entries.extend(entries.iter().cloned());
    }

    /// Takes a leader's checkpoint in place of the whole log.
    pub(super) fn install(&mut self, checkpoint: CheckpointMeta) {
        self.entries.clear();
        self.compacted = checkpoint.place;
        self.members = checkpoint.membership.clone();
        self.checkpoint = Some(checkpoint);
    }

    /// Takes a checkpoint of our own, at an entry of this log.
    pub(super) fn checkpoint(&mut self, checkpoint: CheckpointMeta) {
        self.checkpoint = Some(checkpoint);
    }

    /// Forgets entries up to `to`, which the checkpoint covers.
    pub(super) fn compact(&mut self, to: u64) {
        let gone = to.min(self.checkpoint_index()).saturating_sub(self.compacted.index);
        if let Some(last) = self.entries.drain(..to_usize(gone)).next_back() {
            self.compacted = Position { index: last.index, term: last.term };
        }
    }

    /// How far towards `to` the log is compacted by forgetting about so many bytes of entries; at least one.
    pub(super) fn step_towards(&self, to: u64, bytes: usize) -> u64 {
        let mut taken = 0;
        let step = self.entries.iter().take_while(|entry| {
            taken += entry.data.len() + ENTRY_BYTES;
            taken <= bytes
        });
        (self.compacted.index + (step.count() as u64).max(1)).min(to)
    }

    /// Copies of the entries after `after`, up to and with `to`; fewer when older ones are gone.
    pub(super) fn copies(&self, after: u64, to: u64) -> Vec<LogEntry> {
        let wanted = self.entries.iter().skip_while(|entry| entry.index <= after);
        wanted.take_while(|entry| entry.index <= to).map(from_raft).collect()
    }

    /// Up to where entries may be forgotten at a checkpoint at `applied`, if as many as `most` and
    /// as large as `bytes` in all are kept for replicas that are a little behind.
    pub(super) fn compact_to(&self, applied: u64, most: u64, bytes: usize) -> u64 {
        let old = self.entries.iter().rev().skip_while(|entry| entry.index > applied);
        let mut room = bytes;
        let kept = old.take(to_usize(most)).take_while(|entry| {
            let fits = entry.data.len() <= room;
            room = room.saturating_sub(entry.data.len());
            fits
        });
        applied - kept.count() as u64
    }

    fn last(&self) -> u64 {
        self.entries.back().map_or(self.compacted.index, |entry| entry.index)
    }
}

impl Storage for MemoryLog {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState {
            hard_state: self.start.clone(),
            conf_state: message::conf_state(&self.members),
        })
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.compacted.index {
            return Err(Error::Store(StorageError::Compacted));
        }
        if high > self.last() + 1 {
            return Err(Error::Store(StorageError::Unavailable));
        }
        let first = self.compacted.index + 1;
        let range = to_usize(low - first)..to_usize(high - first);
        let max_size = max_size.into().unwrap_or(u64::MAX);
        let mut size = 0;
        let fits = |entry: &&Entry| {
            let empty = size == 0;
            size += entry.data.len() as u64 + 32;
            empty || size <= max_size
        };
        Ok(self.entries.range(range).take_while(fits).cloned().collect())
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.compacted.index {
            return Ok(self.compacted.term);
        }
        if index < self.compacted.index {
            return Err(Error::Store(StorageError::Compacted));
        }
        let entry = self.entries.get(to_usize(index - self.compacted.index - 1));
        entry.map(|entry| entry.term).ok_or(Error::Store(StorageError::Unavailable))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.compacted.index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        match &self.checkpoint {
            Some(made)
                if made.place.index >= request_index && members::includes(&made.membership, to) =>
            {
                Ok(message::snapshot(made))
            }
            Some(_) | None => Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable)),
        }
    }
}

fn to_raft(entry: &LogEntry) -> Entry {
    let mut to = Entry::default();
    to.set_entry_type(match entry.kind {
        EntryKind::Normal => EntryType::EntryNormal,
        EntryKind::ConfChange => EntryType::EntryConfChange,
        EntryKind::ConfChangeV2 => EntryType::EntryConfChangeV2,
    });
    to.index = entry.index;
    to.term = entry.term;
    to.data = entry.data.clone();
    to
}

/// An entry of Raft's as the store keeps it.
pub(super) fn from_raft(entry: &Entry) -> LogEntry {
    LogEntry {
        index: entry.index,
        term: entry.term,
        kind: match entry.get_entry_type() {
            EntryType::EntryNormal => EntryKind::Normal,
            EntryType::EntryConfChange => EntryKind::ConfChange,
            EntryType::EntryConfChangeV2 => EntryKind::ConfChangeV2,
        },
        data: entry.data.clone(),
    }
}

fn to_usize(count: u64) -> usize {
    usize::try_from(count).expect("a log in memory fits in memory")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::ReplicaIdentity;

    #[test]
    fn large_entries_are_forgotten_a_few_at_a_time() {
        let identity = ReplicaIdentity { cell: "test".into(), replica: 1, epoch: 1 };
        let entry = |index| LogEntry {
            index,
            term: 1,
            kind: EntryKind::Normal,
            data: vec![0; if index == 3 { 5_000 } else { 400 }].into(),
        };
        let recovered =
            Recovered { entries: (1..=9).map(entry).collect(), ..Recovered::empty(identity) };
        let mut log = MemoryLog::new(&recovered, Membership::default(), 9);
        let place = Position { index: 7, term: 1 };
        let (membership, at) = (Membership::default(), borg_proto::Millis(0));
        log.checkpoint(CheckpointMeta { place, membership, at, file_bytes: 1, file_sum: 1 });
        let mut steps = Vec::new();
        while log.compacted() < 7 {
            let step = log.step_towards(7, 1_000);
            log.compact(step);
            steps.push(step);
        }
        assert_eq!(steps, [2, 3, 5, 7], "and one that is larger goes alone");
        assert_eq!(log.step_towards(7, 1_000), 7, "nothing is left to do");
        log.compact(9);
        assert_eq!(log.compacted(), 7, "no further than the checkpoint");
    }
}
