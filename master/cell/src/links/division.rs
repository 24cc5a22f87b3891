//! Which replica's shard a machine belongs to.
//!
//! Rendezvous hashing: each machine goes to the live replica with the highest hash of the pair, so
//! that the loss of a replica moves its machines alone.

use super::Config;
use borg_proto::{MachineId, Millis, ReplicaId};
use std::collections::{BTreeMap, BTreeSet};
use xxhash_rust::xxh3::xxh3_64;

/// The live replica that a machine belongs to. `live` is not empty.
pub(super) fn owner(machine: MachineId, live: &BTreeSet<ReplicaId>) -> ReplicaId {
    let hash = |replica: &ReplicaId| {
        let mut bytes = [0; 12];
        bytes[..4].copy_from_slice(&machine.0.to_le_bytes());
        bytes[4..].copy_from_slice(&replica.0.to_le_bytes());
        xxh3_64(&bytes)
    };
    *live.iter().max_by_key(|replica| hash(replica)).expect("the leader itself is live")
}

/// Which replicas are there. Quick to believe in a loss, slower in a return, so that a replica on
/// a bad line does not move machines back and forth.
#[derive(Debug)]
pub(super) struct Liveness {
    me: ReplicaId,
    live: BTreeSet<ReplicaId>,
    /// Since when each replica is heard of without a break.
    since: BTreeMap<ReplicaId, Millis>,
    /// Replicas that were lost in this term.
    lost: BTreeSet<ReplicaId>,
    /// Replicas that are heard of and whose shards do not take what they are told: a line that is
    /// cut in one direction. They are lost until they take something.
    deaf: BTreeSet<ReplicaId>,
}

impl Liveness {
    pub(super) fn new(me: ReplicaId) -> Self {
        Self {
            me,
            live: BTreeSet::from([me]),
            since: BTreeMap::new(),
            lost: BTreeSet::new(),
            deaf: BTreeSet::new(),
        }
    }

    pub(super) fn live(&self) -> &BTreeSet<ReplicaId> {
        &self.live
    }

    /// Replicas that are heard of and do not hear.
    pub(super) fn deaf(&self) -> &BTreeSet<ReplicaId> {
        &self.deaf
    }

    /// The shard of a live replica does not take its division.
    pub(super) fn goes_deaf(&mut self, replica: ReplicaId) {
        self.live.remove(&replica);
        self.lost.insert(replica);
        self.deaf.insert(replica);
    }

    /// A shard took what it was told; it gets machines when it is steady.
    pub(super) fn hears(&mut self, replica: ReplicaId, now: Millis) {
        if self.deaf.remove(&replica) {
            self.since.insert(replica, now);
        }
    }

    /// Takes the time at which each other replica was last heard of; true if others are live now.
    /// A replica that is not listed any more is a master no more.
    pub(super) fn update(
        &mut self,
        config: &Config,
        heard: &BTreeMap<ReplicaId, Millis>,
        now: Millis,
    ) -> bool {
        let there = |replica: &ReplicaId| *replica == self.me || heard.contains_key(replica);
        let before = self.live.len();
        self.live.retain(there);
        self.since.retain(|replica, _| there(replica));
        self.lost.retain(there);
        self.deaf.retain(there);
        let mut changed = self.live.len() < before;
        for (replica, at) in heard {
            if now.since(*at) >= config.shard_dead_after {
                self.since.remove(replica);
                self.deaf.remove(replica);
                if self.live.remove(replica) {
                    self.lost.insert(*replica);
                    changed = true;
                }
                continue;
            }
            let since = *self.since.entry(*replica).or_insert(now);
            let steady = now.since(since) >= config.shard_back_after;
            let may = !self.deaf.contains(replica) && (steady || !self.lost.contains(replica));
            if may && self.live.insert(*replica) {
                changed = true;
            }
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replicas(ids: std::ops::RangeInclusive<u64>) -> BTreeSet<ReplicaId> {
        ids.map(ReplicaId).collect()
    }

    #[test]
    fn the_loss_of_a_replica_moves_its_machines_alone() {
        let (five, four) = (replicas(1..=5), replicas(1..=4));
        for id in (0..1_000).map(MachineId) {
            let before = owner(id, &five);
            assert!(before == ReplicaId(5) || owner(id, &four) == before);
        }
    }

    #[test]
    fn machines_are_spread_evenly_enough() {
        let five = replicas(1..=5);
        for replica in &five {
            let count = (0..10_000).filter(|id| owner(MachineId(*id), &five) == *replica).count();
            assert!((1_800..2_200).contains(&count), "{replica} has {count}");
        }
    }

    /// It is heard of all the time, so only what it takes can tell that it hears again.
    #[test]
    fn a_replica_that_does_not_hear_has_no_machines_until_it_does() {
        let config = Config::default();
        let mut liveness = Liveness::new(ReplicaId(1));
        let heard = |at| BTreeMap::from([(ReplicaId(2), Millis(at))]);
        assert!(liveness.update(&config, &heard(10), Millis(10)));
        liveness.goes_deaf(ReplicaId(2));
        assert!(!liveness.update(&config, &heard(9_000), Millis(9_000)));
        liveness.hears(ReplicaId(2), Millis(9_000));
        assert!(!liveness.update(&config, &heard(9_999), Millis(9_999)));
        assert!(liveness.update(&config, &heard(10_000), Millis(10_000)));
    }

    #[test]
    fn a_replica_that_comes_back_waits_until_it_is_steady() {
        let config = Config::default();
        let mut liveness = Liveness::new(ReplicaId(1));
        let heard = |at| BTreeMap::from([(ReplicaId(2), Millis(at))]);
        assert!(liveness.update(&config, &heard(0), Millis(10)));
        assert!(liveness.update(&config, &heard(0), Millis(1_000)));
        assert_eq!(liveness.live().len(), 1);
        assert!(!liveness.update(&config, &heard(2_000), Millis(2_000)));
        assert!(!liveness.update(&config, &heard(2_900), Millis(2_999)));
        assert!(liveness.update(&config, &heard(2_900), Millis(3_000)));
    }

    /// Found by `cellsim`: the machines of a master that was taken out were polled by nobody.
    #[test]
    fn a_replica_that_is_a_master_no_more_is_not_live() {
        let config = Config::default();
        let mut liveness = Liveness::new(ReplicaId(1));
        let heard = BTreeMap::from([(ReplicaId(2), Millis(0)), (ReplicaId(3), Millis(0))]);
        assert!(liveness.update(&config, &heard, Millis(10)));
        let heard = BTreeMap::from([(ReplicaId(3), Millis(20))]);
        assert!(liveness.update(&config, &heard, Millis(20)));
        assert_eq!(liveness.live(), &BTreeSet::from([ReplicaId(1), ReplicaId(3)]));
        assert!(!liveness.update(&config, &heard, Millis(30)));
    }
}
