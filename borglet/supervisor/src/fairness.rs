//! Keeps latency-sensitive tasks from starving batch for minutes (Borg paper, section 6.2).
//!
//! Weights alone let a latency-sensitive task that spins take nearly all; so when batch gets next to
//! nothing on a machine without an idle processor for some seconds, the greedy ones are capped, and the
//! caps rise again when processors are idle. Capping and measuring are the shell's. docs/adr/0022.
//!
//! Invariants: nobody is capped anew while processors are idle, and no cap stays when no batch task is there or
//! processors stay idle: after some seconds it rises by a quarter each second until it is none, from 100 to 2,000
//! millicores in 14 s. A cap is never above the one that the task asked for, and never below a tenth of what it used.

use crate::turn::Run;
use borg_proto::AppClass;
use std::collections::BTreeMap;

/// So many samples in a row, one a second, must show the same before anything is done. The paper allows
/// several seconds; 5 is our choice.
const ROW: u32 = 5;
/// What batch tasks get together at least, in thousandths of the machine, unless their limits are less.
/// 50: our choice.
const BATCH_PERMILLE: u64 = 50;
/// Less than this idle is none, in thousandths of the machine: our choice.
const SATURATED_PERMILLE: u64 = 20;
/// More than this idle, caps rise: our choice.
const IDLE_PERMILLE: u64 = 100;
/// A cap that rises grows by this part of itself each second. A quarter: our choice.
const RISE_PART: u64 = 4;
/// Least cap in millicores: what the kernel's accounting can hold.
const LEAST_CAP: u64 = 10;

/// The processors of a machine over the last second, in millicores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Processors {
    pub(crate) all: u64,
    pub(crate) idle: u64,
}

/// A task that wants processor time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Eater {
    pub(crate) run: Run,
    pub(crate) appclass: AppClass,
    pub(crate) limit: u64,
    pub(crate) used: u64,
}

/// Who is capped at how many millicores, and for how long it looked like what.
#[derive(Debug, Default)]
pub(crate) struct Fairness {
    caps: BTreeMap<Run, u64>,
    starved: u32,
    idle: u32,
}

impl Fairness {
    /// Takes what one second looked like; the caps that are others now, `None` for none any more.
    pub(crate) fn second(&mut self, all: Processors, eaters: &[Eater]) -> Vec<(Run, Option<u64>)> {
        let before = self.caps.clone();
        self.caps.retain(|run, _| eaters.iter().any(|eater| eater.run == *run));
        let batch = || eaters.iter().filter(|eater| eater.appclass == AppClass::Batch);
        let asked = total(batch().map(|eater| eater.limit));
        let got = total(batch().map(|eater| eater.used));
        let floor = asked.min(part(all.all, BATCH_PERMILLE));
        if floor == 0 {
            self.caps.clear();
        }
        let starved = got < floor && all.idle <= part(all.all, SATURATED_PERMILLE);
        let idle = all.idle > part(all.all, IDLE_PERMILLE);
        self.starved = if starved { self.starved.saturating_add(1) } else { 0 };
        self.idle = if idle { self.idle.saturating_add(1) } else { 0 };
        if self.starved >= ROW {
            self.starved = 0;
            self.cap(floor - got, eaters);
        } else if self.idle >= ROW {
            self.rise(all.all);
        }
        self.changed_since(&before, eaters)
    }

    /// Takes `needed` from latency-sensitive tasks: from those that are over their limits first, the
    /// greediest first; what that does not give, from all in proportion.
    fn cap(&mut self, needed: u64, eaters: &[Eater]) {
        let mut greedy: Vec<Eater> =
            eaters.iter().filter(|e| e.appclass == AppClass::LatencySensitive).copied().collect();
        greedy.sort_by_key(|e| (std::cmp::Reverse(e.used.saturating_sub(e.limit)), e.run));
        let mut left = needed;
        for eater in &mut greedy {
            let take = eater.used.saturating_sub(eater.limit).min(left);
            left -= take;
            eater.used -= take;
            if take > 0 {
                self.caps.insert(eater.run, eater.used.max(LEAST_CAP));
            }
        }
        let all = total(greedy.iter().map(|eater| eater.used));
        if left == 0 || all == 0 {
            return;
        }
        for eater in greedy.iter().filter(|eater| eater.used > 0) {
            let take = (left.saturating_mul(eater.used) / all).min(eater.used - eater.used / 10);
            self.caps.insert(eater.run, (eater.used - take).max(LEAST_CAP));
        }
    }

    fn rise(&mut self, all: u64) {
        for cap in self.caps.values_mut() {
            *cap = cap.saturating_add((*cap / RISE_PART).max(1));
        }
        self.caps.retain(|_, cap| *cap < all);
    }

    fn changed_since(
        &self,
        before: &BTreeMap<Run, u64>,
        eaters: &[Eater],
    ) -> Vec<(Run, Option<u64>)> {
        let now = eaters.iter().map(|eater| (eater.run, self.caps.get(&eater.run).copied()));
        now.filter(|(run, cap)| before.get(run) != cap.as_ref()).collect()
    }
}

/// The sum, stopping at the largest number instead of wrapping: what machines say may be absurd.
pub(crate) fn total(amounts: impl IntoIterator<Item = u64>) -> u64 {
    amounts.into_iter().fold(0, u64::saturating_add)
}

fn part(of: u64, permille: u64) -> u64 {
    of.saturating_mul(permille) / 1000
}

#[cfg(test)]
mod tests {
    use super::*;
    use borg_proto::{IncarnationId, JobId, TaskId};
    use proptest::prelude::*;

    fn eater(job: u64, appclass: AppClass, limit: u64, used: u64) -> Eater {
        let id = IncarnationId { task: TaskId { job: JobId(job), index: 0 }, number: 1 };
        Eater { run: Run { id, number: 0 }, appclass, limit, used }
    }

    const FULL: Processors = Processors { all: 2_000, idle: 0 };
    use AppClass::{Batch, LatencySensitive as Served};

    #[test]
    fn who_spins_beyond_its_limit_is_capped_within_seconds_when_batch_starves() {
        let mut fairness = Fairness::default();
        let all =
            [eater(1, Served, 500, 1_500), eater(2, Served, 500, 495), eater(3, Batch, 1_000, 5)];
        for _ in 1..ROW {
            assert_eq!(fairness.second(FULL, &all), []);
        }
        assert_eq!(fairness.second(FULL, &all), [(all[0].run, Some(1_405))], "to 100 for batch");
    }

    #[test]
    fn when_limits_alone_fill_the_machine_all_give_their_part() {
        let mut fairness = Fairness::default();
        let all =
            [eater(1, Served, 1_500, 1_500), eater(2, Served, 500, 500), eater(3, Batch, 50, 0)];
        let told = (0..ROW).map(|_| fairness.second(FULL, &all)).last().unwrap();
        assert_eq!(told, [(all[0].run, Some(1_463)), (all[1].run, Some(488))]);
    }

    #[test]
    fn caps_rise_when_processors_are_idle_and_go_with_the_last_batch_task() {
        let mut fairness = Fairness::default();
        let all = [eater(1, Served, 500, 1_990), eater(2, Batch, 1_000, 0)];
        let told = (0..ROW).map(|_| fairness.second(FULL, &all)).last().unwrap();
        assert_eq!(told, [(all[0].run, Some(1_890))]);
        let calm = Processors { all: 2_000, idle: 1_000 };
        let told = (0..ROW).map(|_| fairness.second(calm, &all)).last().unwrap();
        assert_eq!(told, [(all[0].run, None)], "a quarter more than the whole machine");
        let told = (0..ROW).map(|_| fairness.second(FULL, &all)).last().unwrap();
        assert_eq!(told, [(all[0].run, Some(1_890))]);
        assert_eq!(fairness.second(FULL, &all[..1]), [(all[0].run, None)]);
    }

    #[test]
    fn batch_that_gets_its_share_or_idle_processors_cap_nobody() {
        let mut fairness = Fairness::default();
        let fed = [eater(1, Served, 500, 1_900), eater(2, Batch, 1_000, 100)];
        let hungry = [eater(1, Served, 500, 1_900), eater(2, Batch, 1_000, 0)];
        for _ in 0..20 {
            assert_eq!(fairness.second(FULL, &fed), []);
            assert_eq!(fairness.second(Processors { all: 2_000, idle: 100 }, &hungry), []);
        }
    }

    /// The whole loop on a machine whose kernel gives batch nothing as long as others want all.
    #[test]
    fn in_a_closed_loop_batch_makes_progress_each_minute() {
        let mut fairness = Fairness::default();
        let spinner = eater(1, Served, 500, 0).run;
        let (mut cap, mut got) = (2_000, 0);
        for second in 1..=600_u64 {
            let used = cap.min(2_000);
            let batch = 2_000 - used;
            got += batch;
            let all = [eater(1, Served, 500, used), eater(2, Batch, 1_000, batch)];
            for (run, new) in fairness.second(FULL, &all) {
                assert_eq!(run, spinner);
                cap = new.unwrap_or(2_000);
            }
            if second % 60 == 0 {
                assert!(got >= 50 * 50, "{got} millicore seconds in a minute");
                got = 0;
            }
        }
    }

    proptest! {
        #[test]
        fn no_cap_is_absurd_and_batch_is_never_capped(
            seconds in proptest::collection::vec((0..2_000_u64, proptest::collection::vec((any::<bool>(), 1..3_000_u64, 0..2_000_u64), 0..6)), 0..60),
        ) {
            let mut fairness = Fairness::default();
            for (idle, tasks) in seconds {
                let eaters: Vec<_> = tasks.iter().enumerate().map(|(n, (batch, limit, used))| {
                    eater(n as u64, if *batch { Batch } else { Served }, *limit, *used)
                }).collect();
                let all = Processors { all: 2_000, idle };
                for (run, cap) in fairness.second(all, &eaters) {
                    let of = eaters.iter().find(|eater| eater.run == run).unwrap();
                    if let Some(cap) = cap {
                        prop_assert!(cap >= LEAST_CAP);
                        prop_assert!(fairness.idle > 0 || of.appclass == Served);
                    }
                }
            }
        }
    }
}
