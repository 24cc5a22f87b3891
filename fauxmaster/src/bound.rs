//! What no packing can do with fewer machines.
//!
//! For any weights of the resources, the weighted sum of what tasks ask for is at most that of the machines
//! that hold them. So as many machines are needed as it takes, the largest by that measure first, to reach the
//! sum. Each choice of weights gives a bound that is true; the best of a search is told. This is the dual of the
//! LP in which tasks may be cut in pieces. Tasks that only some machines may take need as many of those.
//!
//! Whole numbers all the way: the bound is exact, not rounded in somebody's favour.

use borg_proto::spec::Constraint;
use borg_proto::{JobSpec, MachineInfo, Resources};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The weights of a search add up to this.
const WHOLE: u64 = 16;
/// All that the machines have of one resource. 2 to the 80th: sums stay under 2 to the 128th as long as tasks ask for less than ten
/// million million times as much.
const ONE: u128 = 1 << 80;

/// A lower bound on the machines that tasks need, when any of `machines` may be kept. `None` when all of them
/// together do not suffice. Tasks in allocs stand in those and ask for nothing of their own.
#[must_use]
pub fn machines_needed(machines: &[&MachineInfo], jobs: &[&JobSpec]) -> Option<usize> {
    let scale = Scale::of(machines, jobs);
    let mut groups = BTreeMap::<Vec<String>, Vec<&JobSpec>>::new();
    for job in jobs.iter().filter(|job| job.alloc_set.is_none()) {
        let hard = |constraint: &&Constraint| !constraint.soft;
        let mut texts: Vec<String> =
            job.task.constraints.iter().filter(hard).map(ToString::to_string).collect();
        texts.sort();
        groups.entry(texts).or_default().push(job);
    }
    let all: Vec<&JobSpec> = groups.values().flatten().copied().collect();
    let mut needed = best(&scale, machines, &all)?;
    for job in jobs {
        let apart = job.task.spread.iter().find(|spread| spread.attribute == "machine");
        let machines = apart.map_or(0, |spread| job.tasks.div_ceil(spread.max.max(1)));
        needed = needed.max(usize::try_from(machines).unwrap_or(usize::MAX));
    }
    for (_, some) in groups.iter().filter(|(texts, _)| !texts.is_empty()) {
        let will = |machine: &&&MachineInfo| {
            some[0]
                .task
                .constraints
                .iter()
                .filter(|one| !one.soft)
                .all(|one| one.holds(&machine.attributes))
        };
        let able: Vec<&MachineInfo> = machines.iter().filter(will).copied().collect();
        needed = needed.max(best(&scale, &able, some)?);
    }
    Some(needed)
}

/// Resources as columns, each as a part of what all machines together have of it.
struct Scale {
    devices: BTreeSet<Arc<str>>,
    factors: Vec<u128>,
}

impl Scale {
    fn of(machines: &[&MachineInfo], jobs: &[&JobSpec]) -> Self {
        let devices = jobs.iter().flat_map(|job| job.task.limit.devices.keys().cloned());
        let mut scale = Self { devices: devices.collect(), factors: Vec::new() };
        let sums = machines.iter().map(|machine| scale.columns(&machine.capacity)).fold(
            Vec::new(),
            |mut sums: Vec<u128>, columns| {
                sums.resize(columns.len(), 0);
                sums.iter_mut().zip(columns).for_each(|(sum, one)| *sum += u128::from(one));
                sums
            },
        );
        // Rounded down for machines and tasks alike, so the bound stays true.
        scale.factors = sums.into_iter().map(|sum| ONE / sum.max(1)).collect();
        scale
    }

    fn columns(&self, amounts: &Resources) -> Vec<u64> {
        let device = |name: &Arc<str>| amounts.devices.get(name).copied().unwrap_or(0);
        let plain = [amounts.cpu_milli, amounts.ram_bytes, amounts.disk_bytes];
        plain.into_iter().chain(self.devices.iter().map(device)).collect()
    }

    /// The weighted sum, in a unit that is the same for machines and tasks.
    fn weigh(&self, columns: &[u64], weights: &[u64]) -> u128 {
        let parts = columns.iter().zip(weights).zip(&self.factors);
        parts
            .map(|((amount, weight), factor)| {
                u128::from(*amount).saturating_mul(u128::from(*weight)).saturating_mul(*factor)
            })
            .fold(0, u128::saturating_add)
    }
}

/// The best bound that a search over weights finds.
fn best(scale: &Scale, machines: &[&MachineInfo], jobs: &[&JobSpec]) -> Option<usize> {
    let have: Vec<Vec<u64>> = machines.iter().map(|one| scale.columns(&one.capacity)).collect();
    let mut asked = vec![0u64; scale.devices.len() + 3];
    for job in jobs {
        let columns = scale.columns(&job.task.limit);
        for (sum, one) in asked.iter_mut().zip(columns) {
            *sum = sum.saturating_add(one.saturating_mul(u64::from(job.tasks)));
        }
    }
    let bound = |weights: &[u64]| {
        let mut sizes: Vec<u128> = have.iter().map(|one| scale.weigh(one, weights)).collect();
        sizes.sort_unstable_by(|a, b| b.cmp(a));
        let (mut left, mut count) = (scale.weigh(&asked, weights), 0);
        for size in sizes {
            if left == 0 {
                break;
            }
            left = left.saturating_sub(size);
            count += 1;
        }
        (left == 0).then_some(count)
    };
    let columns = asked.len();
    let mut found = (0, vec![0; columns]);
    for only in 0..columns {
        let mut weights = vec![0; columns];
        weights[only] = WHOLE;
        let count = bound(&weights)?;
        if count >= found.0 {
            found = (count, weights);
        }
    }
    // Moves weight from one resource to another as long as that is of use.
    loop {
        let mut better = None;
        for (from, to) in pairs(columns) {
            for part in [1, 2, 4, 8] {
                if found.1[from] < part {
                    continue;
                }
                let mut weights = found.1.clone();
                weights[from] -= part;
                weights[to] += part;
                let count = bound(&weights)?;
                if count > better.as_ref().map_or(found.0, |(most, _)| *most) {
                    better = Some((count, weights));
                }
            }
        }
        match better {
            Some(next) => found = next,
            None => return Some(found.0),
        }
    }
}

fn pairs(columns: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..columns)
        .flat_map(move |from| (0..columns).map(move |to| (from, to)))
        .filter(|(a, b)| a != b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::common::{job_of, machine_of};
    use borg_proto::spec::{ConstraintOp, Spread};

    fn room(cpu_milli: u64, gib: u64) -> Resources {
        Resources { cpu_milli, ram_bytes: gib << 30, ..Resources::default() }
    }

    fn needed(machines: &[MachineInfo], jobs: &[JobSpec]) -> Option<usize> {
        machines_needed(&machines.iter().collect::<Vec<_>>(), &jobs.iter().collect::<Vec<_>>())
    }

    #[test]
    fn the_scarcest_resource_counts_and_the_largest_machines_first() {
        let mut machines = vec![machine_of(room(4_000, 4), BTreeMap::new()); 10];
        machines.push(machine_of(room(8_000, 8), BTreeMap::new()));
        let jobs = [job_of("a", 5, room(1_000, 2)).unwrap()];
        assert_eq!(needed(&machines, &jobs), Some(2));
        assert_eq!(needed(&machines, &[job_of("a", 200, room(1_000, 2)).unwrap()]), None);
    }

    /// Machines with much of one resource each: neither alone says how many are needed.
    #[test]
    fn resources_together_bound_better_than_each_alone() {
        let mut machines = vec![machine_of(room(8_000, 2), BTreeMap::new()); 10];
        machines.extend(vec![machine_of(room(2_000, 8), BTreeMap::new()); 10]);
        let jobs = [job_of("a", 40, room(1_000, 1)).unwrap()];
        // 40 cores are 5 machines and 40 GiB are 5 others; together each gives 10 of 80.
        assert_eq!(needed(&machines, &jobs), Some(8));
    }

    #[test]
    fn constraints_and_limits_for_a_machine_raise_it() {
        let attributes =
            |yes: bool| BTreeMap::from([("ssd".to_owned(), u8::from(yes).to_string())]);
        let mut machines = vec![machine_of(room(64_000, 64), attributes(false)); 3];
        machines.extend(vec![machine_of(room(1_000, 1), attributes(true)); 5]);
        let mut job = job_of("a", 4, room(1_000, 1)).unwrap();
        assert_eq!(needed(&machines, std::slice::from_ref(&job)), Some(1));
        let mut apart = job.clone();
        Arc::make_mut(&mut apart.task).spread =
            vec![Spread { attribute: "machine".into(), max: 2 }];
        assert_eq!(needed(&machines, &[apart]), Some(2));
        Arc::make_mut(&mut job.task).constraints.push(Constraint {
            attribute: "ssd".into(),
            op: ConstraintOp::Equal,
            values: vec!["1".into()],
            soft: false,
        });
        assert_eq!(needed(&machines, &[job]), Some(4));
    }
}
