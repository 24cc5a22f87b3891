//! The properties of Raft's log (I1): entries of one place and term are one entry with one past,
//! whoever leads has everything that was agreed before its term, and nobody takes back what it
//! promised: term, vote and commit of a disk never go back.
//!
//! Looks at what is written to disks and at who applies what, not into Raft.

use crate::dice::mix;
use borg_cell::store::{Batch, HardState, LogEntry};
use std::collections::BTreeMap;

/// How many entries are remembered: far more than any replica is behind without a checkpoint.
const KEPT: usize = 50_000;

/// What was seen of all logs.
#[derive(Debug)]
pub struct Log {
    /// By place and term: the term of the entry before it, as far as known, and its contents.
    entries: BTreeMap<(u64, u64), (Option<u64>, u64)>,
    /// What each replica's disk has promised.
    promised: Vec<HardState>,
    /// The furthest entry that was applied in each term, and the entry's own term.
    agreed: BTreeMap<u64, (u64, u64)>,
}

impl Log {
    pub(crate) fn new(masters: usize) -> Self {
        let promised = vec![HardState::default(); masters];
        Self { entries: BTreeMap::new(), promised, agreed: BTreeMap::new() }
    }

    /// A disk has taken a batch; `before` is the term of the entry before the batch's first, if
    /// that is known.
    ///
    /// # Errors
    /// When it contradicts what any disk had, or what this one promised.
    pub fn written(
        &mut self,
        replica: usize,
        batch: &Batch<'_>,
        before: Option<u64>,
    ) -> Result<(), String> {
        let mut before = before;
        for entry in batch.entries {
            self.same_entry(replica, entry, before)?;
            before = Some(entry.term);
        }
        batch.hard_state.map_or(Ok(()), |hard| self.promises(replica, hard))
    }

    fn same_entry(
        &mut self,
        replica: usize,
        entry: &LogEntry,
        before: Option<u64>,
    ) -> Result<(), String> {
        let place = (entry.index, entry.term);
        let contents = contents(entry);
        let known = self.entries.entry(place).or_insert((before, contents));
        let (first_before, first) = *known;
        known.0 = first_before.or(before);
        if self.entries.len() > KEPT {
            self.entries.pop_first();
        }
        let master = replica + 1;
        if first != contents {
            return Err(format!("master {master} has another entry {place:?} than was seen first"));
        }
        match (first_before, before) {
            (Some(first), Some(here)) if first != here => Err(format!(
                "before entry {place:?} master {master} has one of term {here}, others of {first}"
            )),
            (Some(_) | None, _) => Ok(()),
        }
    }

    /// What a disk says when it is opened, or was told to keep.
    ///
    /// # Errors
    /// When it promised more before, or voted otherwise in the same term.
    pub fn promises(&mut self, replica: usize, now: HardState) -> Result<(), String> {
        let before = std::mem::replace(&mut self.promised[replica], now);
        let other_vote = now.term == before.term && before.vote != 0 && now.vote != before.vote;
        if now.term < before.term || now.commit < before.commit || other_vote {
            return Err(format!("master {} promises {now:?} after {before:?}", replica + 1));
        }
        Ok(())
    }

    /// A replica that lost its log begins anew: what it promised is not held against it, since
    /// it is not to vote before it has caught up.
    pub fn begins_anew(&mut self, replica: usize) {
        self.promised[replica] = HardState::default();
    }

    /// Somebody in `term` has applied the entry at `index`, which is of `entry_term` (0 when it
    /// was compacted since).
    pub fn applied(&mut self, term: u64, index: u64, entry_term: u64) {
        let furthest = self.agreed.entry(term).or_default();
        if furthest.0 < index && entry_term > 0 {
            *furthest = (index, entry_term);
        }
    }

    /// A replica begins to lead in `term`; `has` is the term of an entry on its disk, 0 for one
    /// that a checkpoint covers.
    ///
    /// # Errors
    /// When an entry that was agreed on in an earlier term is not there.
    pub fn leads(&self, term: u64, has: impl Fn(u64) -> Option<u64>) -> Result<(), String> {
        let agreed = self.agreed.range(..term).map(|(_, furthest)| *furthest).max();
        let Some((index, entry_term)) = agreed else { return Ok(()) };
        match has(index) {
            Some(found) if found == entry_term || found == 0 => Ok(()),
            found => Err(format!(
                "entry {index} of term {entry_term} was agreed on before term {term}, whose leader has {found:?} there"
            )),
        }
    }
}

fn contents(entry: &LogEntry) -> u64 {
    let start = mix(u64::from(entry.kind.code()) ^ 0x5bd1_e995);
    entry.data.chunks(8).fold(start, |hash, chunk| {
        let mut bytes = [0; 8];
        bytes[..chunk.len()].copy_from_slice(chunk);
        mix(hash.rotate_left(9) ^ u64::from_le_bytes(bytes)).wrapping_add(1)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use borg_cell::store::EntryKind;

    fn entry(index: u64, term: u64, data: &str) -> LogEntry {
        LogEntry { index, term, kind: EntryKind::Normal, data: data.to_owned().into() }
    }

    fn write(
        log: &mut Log,
        replica: usize,
        entries: &[LogEntry],
        before: u64,
    ) -> Result<(), String> {
        log.written(replica, &Batch { entries, ..Batch::default() }, Some(before))
    }

    #[test]
    fn one_place_and_term_is_one_entry_with_one_past() {
        let mut log = Log::new(2);
        write(&mut log, 0, &[entry(5, 2, "a"), entry(6, 2, "b")], 1).unwrap();
        write(&mut log, 1, &[entry(6, 2, "b")], 2).unwrap();
        write(&mut log, 1, &[entry(6, 3, "c")], 2).unwrap();
        assert!(write(&mut log, 1, &[entry(5, 2, "x")], 1).is_err());
        assert!(write(&mut log, 1, &[entry(6, 2, "b")], 1).is_err());
    }

    #[test]
    fn nobody_takes_back_term_vote_or_commit() {
        let hard = |term, vote, commit| HardState { term, vote, commit };
        let after = |now| {
            let mut log = Log::new(1);
            log.promises(0, hard(4, 2, 9)).unwrap();
            log.promises(0, now)
        };
        after(hard(4, 2, 9)).unwrap();
        after(hard(5, 0, 9)).unwrap();
        assert!(after(hard(3, 2, 9)).is_err());
        assert!(after(hard(4, 3, 9)).is_err());
        assert!(after(hard(4, 0, 9)).is_err());
        assert!(after(hard(5, 0, 8)).is_err());
    }

    #[test]
    fn a_leader_has_what_was_agreed_before_its_term() {
        let mut log = Log::new(1);
        log.applied(3, 10, 2);
        log.applied(5, 20, 5);
        log.leads(4, |index| (index == 10).then_some(2)).unwrap();
        log.leads(6, |_| Some(0)).unwrap();
        assert!(log.leads(6, |index| (index == 10).then_some(2)).is_err());
        assert!(log.leads(4, |_| Some(1)).is_err());
        log.leads(3, |_| None).unwrap();
    }
}
