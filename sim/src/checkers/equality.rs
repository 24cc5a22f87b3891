//! Equal states after equal entries (I5).

use borg_proto::ReplicaId;
use std::collections::BTreeMap;

/// How many digests are remembered: far more than replicas are ever apart without a checkpoint.
const KEPT: usize = 20_000;

/// The digest of the state after each entry that some turn ended with.
#[derive(Debug, Default)]
pub struct Equality {
    digests: BTreeMap<u64, (ReplicaId, u128)>,
}

impl Equality {
    /// A replica has this state after this entry.
    ///
    /// # Errors
    /// When another one had another state there.
    pub fn seen(&mut self, replica: ReplicaId, index: u64, digest: u128) -> Result<(), String> {
        let (first, expected) = *self.digests.entry(index).or_insert((replica, digest));
        if self.digests.len() > KEPT {
            self.digests.pop_first();
        }
        if expected == digest {
            return Ok(());
        }
        Err(format!(
            "masters {first} and {replica} differ after entry {index}: {expected:032x} and {digest:032x}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_states_after_one_entry_are_noticed() {
        let mut equality = Equality::default();
        equality.seen(ReplicaId(1), 7, 1).unwrap();
        equality.seen(ReplicaId(2), 7, 1).unwrap();
        assert!(equality.seen(ReplicaId(3), 7, 2).is_err());
    }
}
