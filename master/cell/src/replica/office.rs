//! When a leader gives up its office by itself, and to whom.
//!
//! A leader that is stopped, removed, or whose disk is much slower than another master's, hands
//! over: the next leader works within a round trip, where an election would wait for a time-out.
//! Remembers what every master said of itself. Leaves the handing over to Raft.
//!
//! Invariant: not more often than once in [`PAUSE`] because of a disk, so that two slow disks do not
//! play ball.

use super::Replica;
use borg_proto::{Millis, ReplicaId};
use std::collections::{BTreeMap, VecDeque};

/// Writes that are looked at. Ours: a second of a busy cell.
const WRITES: usize = 16;
/// A leader's writes are slow when the median takes so long. Ours: twice a heartbeat.
const SLOW_MICROS: u64 = 80_000;
/// How many times faster another master's writes must be. Ours.
const FASTER: u64 = 4;
/// Time between two offices given up because of a disk. Ours.
const PAUSE: Millis = Millis(30_000);

/// What is known of the masters that Raft does not say.
#[derive(Debug, Default)]
pub(crate) struct Office {
    /// How long the newest writes of this replica took, in microseconds.
    own: VecDeque<u64>,
    /// Median of the writes and newest level of entries, by master.
    others: BTreeMap<ReplicaId, (u64, u32)>,
    next: Millis,
}

impl Office {
    /// A write of this replica took so long.
    pub(crate) fn wrote(&mut self, micros: u64) {
        if self.own.len() == WRITES {
            self.own.pop_front();
        }
        self.own.push_back(micros);
    }

    /// What another master said of itself.
    pub(crate) fn heard(&mut self, from: ReplicaId, micros: u64, level: u32) {
        self.others.insert(from, (micros, level));
    }

    /// The newest level of entries that another master understands.
    pub(super) fn level(&self, of: ReplicaId) -> Option<u32> {
        self.others.get(&of).map(|(_, level)| *level)
    }

    pub(super) fn retain(&mut self, keep: impl Fn(ReplicaId) -> bool) {
        self.others.retain(|id, _| keep(*id));
    }

    /// Median of this replica's newest writes, in microseconds; 0 before there are enough.
    pub(crate) fn write_micros(&self) -> u64 {
        if self.own.len() < WRITES / 2 {
            return 0;
        }
        let mut writes: Vec<u64> = self.own.iter().copied().collect();
        writes.sort_unstable();
        writes[writes.len() / 2]
    }

    /// Masters whose disks are much faster than this one's, when this one's is slow.
    fn faster(&self) -> Vec<ReplicaId> {
        let own = self.write_micros();
        if own < SLOW_MICROS {
            return Vec::new();
        }
        // 0 is: not known.
        let faster = |micros: u64| micros > 0 && micros.saturating_mul(FASTER) < own;
        let fast = self.others.iter().filter(|(_, (micros, _))| faster(*micros));
        fast.map(|(id, _)| *id).collect()
    }
}

impl Replica {
    /// Lets another replica lead: the one with the most of the log among those heard of lately.
    /// False when there is none.
    pub(crate) fn hand_over(&mut self, now: Millis, why: &str) -> bool {
        let all: Vec<ReplicaId> = self.heard().keys().copied().collect();
        self.hand_over_to(now, &all, why)
    }

    /// Hands over because the disk is slow.
    pub(super) fn spare_the_disk(&mut self, now: Millis) {
        if !self.leads() || now < self.office.next {
            return;
        }
        let faster = self.office.faster();
        if !faster.is_empty() && self.hand_over_to(now, &faster, "the disk of this master is slow")
        {
            self.office.next = now + PAUSE;
            self.office.own.clear();
        }
    }

    fn hand_over_to(&mut self, now: Millis, to: &[ReplicaId], why: &str) -> bool {
        if !self.leads() || self.raw.raft.lead_transferee.is_some() {
            return false;
        }
        let members = self.raw.store().members();
        let leaving = |id: ReplicaId| {
            let standing = self.state.master(id).map(|record| record.standing);
            standing == Some(crate::state::Standing::Leaving)
        };
        let able = to.iter().filter(|id| {
            id.0 != self.id
                && members.voters.contains(&id.0)
                && !leaving(**id)
                && self.was_heard(now, id.0)
        });
        let matched =
            |id: &&ReplicaId| self.raw.raft.prs().get(id.0).map_or(0, |progress| progress.matched);
        let Some(to) = able.max_by_key(matched).copied() else { return false };
        tracing::info!(replica = self.id, %to, why, "handing over the office of leader");
        self.raw.transfer_leader(to.0);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_slow_disk_beside_a_faster_one_costs_the_office() {
        let mut office = Office::default();
        office.heard(ReplicaId(2), 10_000, 1);
        for _ in 0..WRITES {
            office.wrote(20_000);
        }
        assert_eq!(office.faster(), []);
        for _ in 0..WRITES {
            office.wrote(200_000);
        }
        assert_eq!(office.faster(), [ReplicaId(2)]);
        office.heard(ReplicaId(2), 100_000, 1);
        assert_eq!(office.faster(), [], "all disks are slow");
        office.heard(ReplicaId(2), 0, 1);
        assert_eq!(office.faster(), [], "nobody knows how fast it is");
    }
}
