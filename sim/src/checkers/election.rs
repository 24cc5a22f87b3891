//! At most one leader in a term (I1).

use borg_proto::ReplicaId;
use std::collections::BTreeMap;

/// Who led in which term.
#[derive(Debug, Default)]
pub struct Election {
    leaders: BTreeMap<u64, ReplicaId>,
}

impl Election {
    /// A replica believes that it leads.
    ///
    /// # Errors
    /// When another one did in the same term.
    pub fn leads(&mut self, replica: ReplicaId, term: u64) -> Result<(), String> {
        let first = *self.leaders.entry(term).or_insert(replica);
        if first == replica {
            return Ok(());
        }
        Err(format!("masters {first} and {replica} both lead in term {term}"))
    }

    /// Whether somebody led before this term.
    #[must_use]
    pub fn is_successor(&self, term: u64) -> bool {
        self.leaders.range(..term).next().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_leaders_in_one_term_are_noticed() {
        let mut election = Election::default();
        election.leads(ReplicaId(1), 5).unwrap();
        election.leads(ReplicaId(1), 5).unwrap();
        election.leads(ReplicaId(2), 6).unwrap();
        assert!(election.leads(ReplicaId(2), 5).is_err());
    }
}
