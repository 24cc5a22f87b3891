//! Whether all replicas have the same state.
//!
//! Every replica remembers the digest of its state at round indexes; each tells the others its
//! newest. Two that differ at one index mean that a replica is broken, whatever the cause.
//!
//! Invariant: only digests of equal indexes are compared.

use borg_proto::ReplicaId;
use std::collections::{BTreeMap, BTreeSet};

/// Entries between two remembered digests. Ours: small enough for a quiet cell to compare at all.
pub(super) const EVERY: u64 = 64;
/// Digests remembered.
const KEPT: usize = 256;

#[derive(Debug)]
pub(super) struct Digests {
    me: ReplicaId,
    own: BTreeMap<u64, u128>,
    /// What others said, by index; only of indexes that can still be compared.
    others: BTreeMap<u64, BTreeMap<ReplicaId, u128>>,
    told: BTreeSet<(ReplicaId, u64)>,
}

impl Digests {
    pub(super) fn new(me: ReplicaId) -> Self {
        let (own, others, told) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        Self { me, own, others, told }
    }

    pub(super) fn own(&self) -> Vec<(u64, u128)> {
        self.own.iter().map(|(index, digest)| (*index, *digest)).collect()
    }

    /// Takes the own digest. Gives the replicas that said another one before.
    pub(super) fn note(&mut self, index: u64, digest: u128) -> Vec<ReplicaId> {
        if !index.is_multiple_of(EVERY) {
            return Vec::new();
        }
        self.own.insert(index, digest);
        trim(&mut self.own);
        let said = self.others.get(&index).into_iter().flatten();
        let differ: Vec<ReplicaId> =
            said.filter(|said| *said.1 != digest).map(|said| *said.0).collect();
        self.told.extend(differ.iter().map(|replica| (*replica, index)));
        differ
    }

    /// Takes another replica's digest. True when it is the first time that it is seen to differ.
    pub(super) fn compare(&mut self, from: ReplicaId, index: u64, digest: u128) -> bool {
        if from == self.me || !index.is_multiple_of(EVERY) {
            return false;
        }
        self.others.entry(index).or_default().insert(from, digest);
        trim(&mut self.others);
        let differs = self.own.get(&index).is_some_and(|own| *own != digest);
        while self.told.len() > KEPT {
            self.told.pop_first();
        }
        differs && self.told.insert((from, index))
    }

    /// The index at which a majority of the members agrees on another digest than ours.
    pub(super) fn outvoted(&self, members: usize) -> Option<u64> {
        self.others
            .iter()
            .find(|(index, said)| {
                let Some(own) = self.own.get(index) else { return false };
                let mut votes = BTreeMap::<u128, usize>::new();
                for digest in said.values().filter(|digest| *digest != own) {
                    *votes.entry(*digest).or_default() += 1;
                }
                votes.values().any(|count| *count > members / 2)
            })
            .map(|(index, _)| *index)
    }
}

fn trim<T>(map: &mut BTreeMap<u64, T>) {
    while map.len() > KEPT {
        map.pop_first();
    }
}
