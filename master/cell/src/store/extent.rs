//! What a batch does to the log, decided before anything is written.
//!
//! Answers for every store alike: is the batch consistent with the log, is the log replaced, from
//! where is it overwritten, up to where is it forgotten. Leaves the doing to the store. Pure.
//!
//! Invariant: a batch that passes leaves a log that is consecutive, starts no later than just after
//! a checkpoint, and keeps every promise of the hard state before it.

use super::{Batch, HardState, LogEntry, Position, StoreError};

/// Which part of the log a store holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Extent {
    /// Place just before the first entry.
    pub compacted: Position,
    /// Place of the last entry; equal to `compacted` in an empty log.
    pub last: Position,
    /// Place of the newest checkpoint.
    pub checkpoint: Option<Position>,
    /// Last hard state.
    pub hard_state: HardState,
}

/// The steps of a batch, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Drop all entries: the log now starts after this place.
    pub replace: Option<Position>,
    /// Drop entries from this index on, then append the batch's.
    pub truncate_from: Option<u64>,
    /// Drop entries up to and with this place.
    pub compact_to: Option<Position>,
    /// What the store holds afterwards.
    pub after: Extent,
}

impl Extent {
    /// Plans `batch`. `term_at` gives the term of any entry of the log as it is now, from
    /// `compacted.index + 1` to `last.index`.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] if the batch contradicts the log.
    pub fn plan(
        &self,
        batch: &Batch<'_>,
        term_at: impl Fn(u64) -> u64,
    ) -> Result<Plan, StoreError> {
        let mut plan = Plan { replace: None, truncate_from: None, compact_to: None, after: *self };
        let after = &mut plan.after;
        if let Some(checkpoint) = batch.checkpoint {
            let place = checkpoint.place;
            let newest = self.checkpoint.map_or(0, |c| c.index).max(self.compacted.index);
            if place.index == 0 || place.index < newest {
                return invalid(format!("checkpoint at {}, newest is at {newest}", place.index));
            }
            after.checkpoint = Some(place);
            if self.term_of(place.index, &term_at) != Some(place.term) {
                plan.replace = Some(place);
                after.compacted = place;
                after.last = place;
            }
        }
        if let (Some(first), Some(last)) = (batch.entries.first(), batch.entries.last()) {
            consecutive(batch.entries)?;
            if first.index <= after.compacted.index || first.index > after.last.index + 1 {
                return invalid(format!(
                    "entries start at {}, log is {}..={}",
                    first.index,
                    after.compacted.index + 1,
                    after.last.index
                ));
            }
            if first.index <= after.last.index {
                let settled = after.checkpoint.map_or(0, |checkpoint| checkpoint.index);
                let settled = settled.max(self.hard_state.commit);
                if first.index <= settled {
                    return invalid(format!(
                        "entries overwrite {}, settled up to {settled}",
                        first.index
                    ));
                }
                plan.truncate_from = Some(first.index);
            }
            after.last = Position { index: last.index, term: last.term };
        }
        if let Some(index) = batch.compact_to.filter(|index| *index > after.compacted.index) {
            let covered = after.checkpoint.map_or(0, |checkpoint| checkpoint.index);
            if index > covered.min(after.last.index) {
                return invalid(format!("compact to {index}, covered up to {covered}"));
            }
            // Never one of the batch's entries: they all come after the checkpoint.
            let place = Position { index, term: term_at(index) };
            plan.compact_to = Some(place);
            after.compacted = place;
        }
        if let Some(next) = batch.hard_state {
            let was = self.hard_state;
            if next.term < was.term {
                return invalid(format!("term {} after {}", next.term, was.term));
            }
            if next.term == was.term && was.vote != 0 && next.vote != was.vote {
                return invalid(format!("vote {} and {} in one term", was.vote, next.vote));
            }
            after.hard_state = next;
        }
        if after.hard_state.commit > after.last.index {
            return invalid(format!(
                "commit {} beyond the last entry {}",
                after.hard_state.commit, after.last.index
            ));
        }
        Ok(plan)
    }

    /// Term at `index` if the log reaches there.
    fn term_of(&self, index: u64, term_at: impl Fn(u64) -> u64) -> Option<u64> {
        if index == self.compacted.index {
            Some(self.compacted.term)
        } else if index > self.compacted.index && index <= self.last.index {
            Some(term_at(index))
        } else {
            None
        }
    }
}

fn consecutive(entries: &[LogEntry]) -> Result<(), StoreError> {
    for pair in entries.windows(2) {
        if pair[1].index != pair[0].index + 1 || pair[1].term < pair[0].term {
            return invalid(format!(
                "entry {} of term {} follows entry {} of term {}",
                pair[1].index, pair[1].term, pair[0].index, pair[0].term
            ));
        }
    }
    Ok(())
}

fn invalid<T>(why: String) -> Result<T, StoreError> {
    Err(StoreError::Invalid(why))
}
