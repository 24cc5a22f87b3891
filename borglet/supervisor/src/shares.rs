//! How much each task weighs when all want processors: its limit, as far as the machine has it.
//!
//! The limits of prod always fit the machine; those of others may stand on what prod holds and does not use
//! (docs/adr/0029). When all want theirs at once, what is beside prod's limits is what the others have together, each
//! in proportion to its limit. Appclass and band weigh on top of that ([`weight`]), which is for who acts on it.
//!
//! Invariant: while the limits of all tasks fit the machine, each weighs its limit.

use crate::supervisor::Supervisor;
use crate::task::{Phase, Task};
use crate::turn::Effect;
use borg_proto::{AppClass, Band, Priority};

/// A whole limit, in thousandths.
const WHOLE: u64 = 1_000;

/// What a task weighs by its class and band, in thousandths. Any that is latency-sensitive weighs more
/// than any batch. Our choice; the paper gives none.
#[must_use]
pub fn rank(appclass: AppClass, priority: Priority) -> u64 {
    match (appclass, priority.band()) {
        (AppClass::LatencySensitive, Band::Production | Band::Monitoring) => 1_000,
        (AppClass::LatencySensitive, Band::Mid) => 600,
        (AppClass::LatencySensitive, Band::Batch | Band::Free) => 400,
        (AppClass::Batch, Band::Production | Band::Monitoring) => 200,
        (AppClass::Batch, Band::Mid) => 100,
        (AppClass::Batch, Band::Batch) => 50,
        (AppClass::Batch, Band::Free) => 20,
    }
}

/// What a task is promised of the processors, in millicores, weighed: under contention that is its share, what is idle
/// is for whoever wants it.
#[must_use]
pub fn weight(cpu_milli: u64, appclass: AppClass, priority: Priority) -> u64 {
    (cpu_milli.saturating_mul(rank(appclass, priority)) / 1_000).max(1)
}

/// Which share of their limits tasks that are not prod weigh, in thousandths, never nothing: by what the machine has, and
/// the limits of prod and of all others, in millicores.
#[must_use]
pub fn share(capacity: u64, prod: u64, others: u64) -> u64 {
    let room = capacity.saturating_sub(prod);
    // Among themselves proportions are all that counts.
    if prod == 0 || others <= room {
        return WHOLE;
    }
    let share = u128::from(room) * u128::from(WHOLE) / u128::from(others.max(1));
    u64::try_from(share).unwrap_or(WHOLE).max(1)
}

impl Supervisor {
    /// Says of each task that is up and not prod what it weighs, if that is news.
    pub(crate) fn weigh(&mut self, effects: &mut Vec<Effect>) {
        let limit = |task: &Task| {
            let want = task.want.as_ref().filter(|_| task.is_live())?;
            Some((want.priority.is_prod(), want.spec.limit.cpu_milli))
        };
        let limits: Vec<(bool, u64)> = self.tasks.values().filter_map(limit).collect();
        let sum = |of_prod: bool| {
            let those = limits.iter().filter(|(prod, _)| *prod == of_prod);
            those.fold(0u64, |sum, (_, limit)| sum.saturating_add(*limit))
        };
        let share = share(self.info.capacity.cpu_milli, sum(true), sum(false));
        for task in self.tasks.values_mut() {
            let Some(want) = task.want.as_ref().filter(|want| !want.priority.is_prod()) else {
                continue;
            };
            if !matches!(task.phase, Phase::Up { .. }) {
                continue;
            }
            let told = task.share.filter(|(run, _)| *run == task.run.number);
            // A new process weighs its limit; what an earlier borglet told is not known.
            let known =
                told.map_or((!task.share_unknown).then_some(WHOLE), |(_, share)| Some(share));
            if known != Some(share) {
                effects.push(Effect::ShareCpu {
                    run: task.run,
                    cpu_milli: (want.spec.limit.cpu_milli.saturating_mul(share) / WHOLE).max(1),
                    appclass: want.appclass,
                    priority: want.priority,
                });
            }
            task.share = Some((task.run.number, share));
            task.share_unknown = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_have_together_what_is_beside_the_limits_of_prod() {
        assert_eq!(share(4_000, 1_000, 3_000), WHOLE);
        assert_eq!(share(4_000, 3_000, 2_000), 500);
        assert_eq!(share(4_000, 4_000, 2_000), 1, "never nothing");
        assert_eq!(share(4_000, 9_000, 0), WHOLE);
        assert_eq!(share(4_000, 0, 9_000), WHOLE, "nobody is there to be spared");
        assert_eq!(share(u64::MAX, 1, u64::MAX), 999);
    }
}
