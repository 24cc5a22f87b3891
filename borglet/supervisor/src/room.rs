//! Which tasks go when a machine runs out of what cannot be taken back but by killing: memory, disk
//! (Borg paper, section 6.2; docs/adr/0022).
//!
//! Invariants: a task over its limit goes before any that is within; of those that are within, lower
//! priorities go first and production never; and none goes that need not, or whose end would hardly help.

use crate::turn::Run;
use borg_proto::{Band, Priority};

/// Who holds less than this part of what is short is not worth ending: somebody else fills the machine.
/// A hundredth: our choice.
const WORTH_PART: u64 = 100;

/// A task that takes room on the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    /// Which start of which incarnation.
    pub run: Run,
    /// Lower ones go first.
    pub priority: Priority,
    /// What it may use, in bytes.
    pub limit: u64,
    /// What it uses, in bytes.
    pub used: u64,
}

impl Holder {
    const fn is_over(&self) -> bool {
        self.used > self.limit
    }

    /// Whether it may be given up at all for so much. What production uses within its limit it was
    /// promised.
    fn may_go(&self, short: u64) -> bool {
        let prod = matches!(self.priority.band(), Band::Production | Band::Monitoring);
        self.used >= short.div_ceil(WORTH_PART).max(1) && (self.is_over() || !prod)
    }

    /// Less goes first.
    fn order(&self) -> (bool, Priority, std::cmp::Reverse<u64>, Run) {
        let excess = self.used.saturating_sub(self.limit);
        let size = if self.is_over() { excess } else { self.used };
        (!self.is_over(), self.priority, std::cmp::Reverse(size), self.run)
    }
}

/// Who has to go so that `short` becomes free, in the order in which they go. What they free may be too
/// little, when all others have to stay.
#[must_use]
pub fn victims(holders: &[Holder], short: u64) -> Vec<Holder> {
    let mut order: Vec<Holder> = holders.iter().filter(|one| one.may_go(short)).copied().collect();
    order.sort_by_key(Holder::order);
    let mut freed = 0u64;
    let mut chosen = Vec::new();
    for one in order {
        if freed >= short {
            break;
        }
        freed = freed.saturating_add(one.used);
        chosen.push(one);
    }
    // The last one may have made others needless: those that would go last are spared first, and nobody
    // over its limit while one that is within goes.
    let mut kept = Vec::with_capacity(chosen.len());
    for one in chosen.into_iter().rev() {
        let instead = one.is_over() && kept.iter().any(|other: &Holder| !other.is_over());
        if !instead && freed.saturating_sub(one.used) >= short {
            freed -= one.used;
        } else {
            kept.push(one);
        }
    }
    kept.reverse();
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use borg_proto::{IncarnationId, JobId, TaskId};
    use proptest::prelude::*;

    fn holder(job: u64, priority: u64, limit: u64, used: u64) -> Holder {
        let id = IncarnationId { task: TaskId { job: JobId(job), index: 0 }, number: 1 };
        let priority = Priority::new(priority).unwrap();
        Holder { run: Run { id, number: 0 }, priority, limit, used }
    }

    fn jobs(victims: &[Holder]) -> Vec<u64> {
        victims.iter().map(|one| one.run.id.task.job.0).collect()
    }

    #[test]
    fn who_is_over_a_limit_goes_first_whatever_the_priority_then_the_lowest() {
        let all = [
            holder(1, 200, 10, 50),
            holder(2, 0, 10, 10),
            holder(3, 100, 10, 10),
            holder(4, 200, 10, 10),
        ];
        assert_eq!(jobs(&victims(&all, 0)), []);
        assert_eq!(jobs(&victims(&all, 1)), [1]);
        assert_eq!(jobs(&victims(&all, 55)), [1, 2]);
        assert_eq!(jobs(&victims(&all, 65)), [1, 2, 3]);
        assert_eq!(jobs(&victims(&all, 1_000)), [1, 2, 3], "production within its limit stays");
    }

    #[test]
    fn none_goes_that_the_last_one_made_needless() {
        let all = [holder(1, 0, 10, 2), holder(2, 0, 10, 1), holder(3, 100, 10, 9)];
        assert_eq!(jobs(&victims(&all, 8)), [3]);
        assert_eq!(jobs(&victims(&all, 10)), [1, 3]);
    }

    #[test]
    fn nobody_within_a_limit_goes_instead_of_somebody_over_one() {
        let all = [holder(1, 200, 10, 50), holder(2, 0, 100, 20), holder(3, 100, 100, 90)];
        assert_eq!(jobs(&victims(&all, 80)), [1, 3]);
    }

    fn some() -> impl Strategy<Value = Vec<Holder>> {
        let one = (0..=450_u64, 0..50_u64, 0..100_u64);
        proptest::collection::vec(one, 0..12).prop_map(|all| {
            let numbered = all.into_iter().enumerate();
            numbered
                .map(|(n, (priority, limit, used))| holder(n as u64, priority, limit, used))
                .collect()
        })
    }

    proptest! {
        #[test]
        fn what_goes_is_enough_if_anything_is_and_no_more_than_needed(all in some(), short in 0..600_u64) {
            let gone = victims(&all, short);
            let freed: u64 = gone.iter().map(|one| one.used).sum();
            let most: u64 = all.iter().filter(|one| one.may_go(short)).map(|one| one.used).sum();
            prop_assert_eq!(freed >= short, most >= short);
            for one in &gone {
                prop_assert!(one.is_over() || one.priority.get() < 120);
                // When it is enough, each of them is needed, or to blame.
                let blamed = one.is_over() && gone.iter().any(|other| !other.is_over());
                prop_assert!(blamed || freed < short || freed - one.used < short);
            }
        }

        #[test]
        fn nobody_within_a_limit_goes_while_those_over_theirs_would_do(all in some(), short in 1..600_u64) {
            let over: u64 = all.iter().filter(|one| one.is_over() && one.may_go(short)).map(|one| one.used).sum();
            let gone = victims(&all, short);
            if over >= short {
                prop_assert!(gone.iter().all(Holder::is_over));
            } else {
                let all_over = all.iter().filter(|one| one.is_over() && one.may_go(short)).count();
                prop_assert_eq!(gone.iter().filter(|one| one.is_over()).count(), all_over);
            }
        }
    }
}
