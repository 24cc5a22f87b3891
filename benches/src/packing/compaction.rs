//! How few machines hold a cell's work: compaction (Borg paper, section 5.1; Verma et al., CLUSTER'14).
//!
//! Machines are kept in an order of chance, so that the mix of shapes stays; the answer for one order
//! is the shortest prefix that holds all tasks, each time scheduled from scratch. Found by halving: a
//! longer prefix may rarely fail where a shorter one does not, which this does not look for.
//!
//! Not as in the paper: every task has to find a place, picky ones too.

use super::Policy;
use crate::Error;
use crate::driven::Timed;
use crate::figures::{percentile, step};
use borg_fauxmaster::Driven;
use borg_fauxmaster::sources::borg_like::shuffle;
use borg_fauxmaster::sources::common::Written;
use borg_proto::{MachineInfo, UserName};
use borg_scheduler::Config;
use borg_sim::dice::Dice;

/// Orders of machines that are tried (Borg paper, section 5.1).
pub const SEEDS: u64 = 11;
/// Copies of the cell, at most, beside the cell: where the machines do not suffice, copies of them
/// follow in the order.
const COPIES: usize = 2;

/// Machines needed, one answer per order.
#[derive(Debug, Clone)]
pub struct Compacted {
    /// In the order of the seeds.
    pub machines: Vec<usize>,
}

impl Compacted {
    /// What nine tenths of the orders do not exceed: of 11, the second largest.
    #[must_use]
    pub fn p90(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "counts of machines are small")]
        let samples: Vec<f64> = self.machines.iter().map(|count| *count as f64).collect();
        percentile(&samples, 90)
    }
}

/// Compacts a cell under a policy, once for each seed from 1.
///
/// # Errors
/// When state and scheduler disagree, or the work does not fit even into the copies.
pub fn compact(cell: &Written, policy: Policy, seeds: u64) -> Result<Compacted, Error> {
    let mut machines = Vec::new();
    for seed in 1..=seeds {
        let order = order(&cell.machines, seed);
        let needed = needed(cell, &order, policy, machines.last().copied())?;
        step(&format!("  {} seed {seed}: {needed} machines", policy.name));
        machines.push(needed);
    }
    Ok(Compacted { machines })
}

/// The machines in an order of chance, then copies of them, in racks of their own.
fn order(machines: &[MachineInfo], seed: u64) -> Vec<MachineInfo> {
    let mut dice = Dice::new(seed);
    let mut all = Vec::new();
    for copy in 0..=COPIES {
        let mut some = machines.to_vec();
        shuffle(&mut some, &mut dice);
        if copy > 0 {
            for level in ["rack", "pdu"] {
                for machine in &mut some {
                    if let Some(value) = machine.attributes.get_mut(level) {
                        value.push_str(&format!("-{copy}"));
                    }
                }
            }
        }
        all.extend(some);
    }
    all
}

/// The shortest prefix that holds all. The search begins around what another order needed.
fn needed(
    cell: &Written,
    order: &[MachineInfo],
    policy: Policy,
    near: Option<usize>,
) -> Result<usize, Error> {
    let holds = |count: usize| holds(cell, &order[..count], policy);
    let (mut least, mut most) = (1, order.len());
    if let Some(near) = near {
        let margin = (near / 50).max(2);
        let (low, high) = (near.saturating_sub(margin).max(1), (near + margin).min(most));
        if holds(high)? {
            most = high;
            if holds(low)? { most = low } else { least = low + 1 }
        } else {
            least = high + 1;
        }
    } else if !holds(most)? {
        return Err(format!("{} machines do not hold the work", most).into());
    }
    while least < most {
        let middle = least.midpoint(most);
        if holds(middle)? { most = middle } else { least = middle + 1 }
    }
    Ok(most)
}

/// Whether these machines hold all tasks: one pass from scratch, which goes by priority; what it
/// decides is applied, so that the state machine has agreed to it.
fn holds(cell: &Written, machines: &[MachineInfo], policy: Policy) -> Result<bool, Error> {
    let mut driven = Driven::with_machines(machines)?;
    let owner: UserName = "all".parse()?;
    for spec in &cell.jobs {
        driven.submit(&owner, spec.clone())?;
    }
    let config = Config { weights: policy.weights, ..Config::default() };
    let mut timed = Timed::new(&mut driven, config);
    let decisions = timed.pass(&driven, usize::MAX)?;
    let all = decisions.len() as u64 == cell.tasks();
    if all {
        driven.place(decisions)?;
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::super::{best_fit, hybrid};
    use super::*;
    use borg_fauxmaster::sources::common::{job_of, machine_of};
    use borg_proto::Resources;
    use std::collections::BTreeMap;
    use std::sync::Arc;

    fn room(cpu_milli: u64) -> Resources {
        Resources { cpu_milli, ram_bytes: 1 << 40, ..Resources::default() }
    }

    #[test]
    fn equal_machines_are_needed_in_proportion_copies_included() {
        let machines = vec![machine_of(room(4_000), BTreeMap::new()); 10];
        for (tasks, needed) in [(20, 5), (39, 10), (60, 15)] {
            let ask = Resources { cpu_milli: 1_000, ..Resources::default() };
            let jobs = vec![Arc::new(job_of("j", tasks, ask).unwrap())];
            let cell = Written { machines: machines.clone(), jobs };
            for policy in [hybrid(), best_fit()] {
                let found = compact(&cell, policy, 3).unwrap();
                assert_eq!((found.machines.clone(), found.p90()), (vec![needed; 3], needed as f64));
            }
        }
    }
}
