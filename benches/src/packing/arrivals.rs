//! Pods arrive one by one until more is asked for than there is: the published protocol of FGD (Weng
//! et al., ATC'23) on the cells of `openb`.
//!
//! Nodes with GPUs only. The pods are put into an order of chance, then pods are appended, or dropped
//! at the end, until all together ask for 130 % of the cell's GPUs. Nothing leaves; what fits nowhere is
//! skipped. The order for a seed is not the published one, which came from another generator.

use crate::Error;
use crate::driven::Timed;
use borg_fauxmaster::Driven;
use borg_fauxmaster::questions::Policy;
use borg_fauxmaster::sources::openb::{Pod, gpus_milli, job};
use borg_proto::{MachineInfo, UserName};
use borg_scheduler::Config;
use borg_sim::dice::Dice;

/// Seeds, as published: 42 to 51.
pub const SEEDS: std::ops::RangeInclusive<u64> = 42..=51;
/// GPUs asked for in all, in percent of the cell's.
const TUNED_PCT: u64 = 130;

/// Share of the cell's GPUs that was allocated, in percent.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Allocated {
    /// As pods for 100 % of the cell's GPUs had arrived.
    pub at_100: f64,
    /// As all had arrived.
    pub at_130: f64,
    /// Pods that fitted nowhere.
    pub skipped: u32,
}

/// Lets the pods of one seed arrive at these machines.
///
/// As published, the share at so many percent is the mean over the arrivals with that percentage of
/// demand, rounded, before or with them.
///
/// # Errors
/// When state and scheduler disagree.
pub fn run(
    machines: &[MachineInfo],
    pods: &[Pod],
    policy: Policy,
    seed: u64,
) -> Result<Allocated, Error> {
    let capacity = gpus_milli(machines);
    let mut cell = Driven::with_machines(machines)?;
    let config = Config { weights: policy.weights, ..Config::default() };
    let mut timed = Timed::new(&mut cell, config);
    let owner: UserName = "all".parse()?;
    let (mut arrived, mut allocated) = (0, 0);
    let (mut at_100, mut at_130, mut skipped) = (Mean::default(), Mean::default(), 0);
    for (number, pod) in tuned(pods, capacity, seed)?.iter().enumerate() {
        let id = cell.submit(&owner, job(pod, &format!("p{number}"))?)?;
        timed.follow(&mut cell)?;
        let decisions = timed.pass(&cell, 1)?;
        arrived += pod.gpus_milli();
        if decisions.is_empty() {
            skipped += 1;
            if let Some(key) = cell.state.job(id).map(|job| job.key.clone()) {
                cell.kill(key)?;
            }
        } else {
            cell.place(decisions)?;
            allocated += pod.gpus_milli();
        }
        let percent = (arrived * 100 + capacity / 2) / capacity;
        #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
        let share = allocated as f64 * 100.0 / capacity as f64;
        if percent == 100 {
            at_100.add(share);
        } else if percent == TUNED_PCT {
            at_130.add(share);
        }
    }
    Ok(Allocated { at_100: at_100.get(), at_130: at_130.get(), skipped })
}

#[derive(Default)]
struct Mean {
    sum: f64,
    count: f64,
}

impl Mean {
    fn add(&mut self, value: f64) {
        self.sum += value;
        self.count += 1.0;
    }

    fn get(&self) -> f64 {
        if self.count > 0.0 { self.sum / self.count } else { 0.0 }
    }
}

/// The pods in the order in which they arrive.
fn tuned(pods: &[Pod], capacity: u64, seed: u64) -> Result<Vec<&Pod>, Error> {
    let mut dice = Dice::new(seed);
    let mut order: Vec<&Pod> = pods.iter().collect();
    dice.shuffle(&mut order);
    let wanted = capacity * TUNED_PCT / 100;
    let mut asked: u64 = order.iter().map(|pod| pod.gpus_milli()).sum();
    if asked == 0 {
        return Err("no pod asks for a GPU".into());
    }
    while asked > wanted {
        let Some(last) = order.pop() else { break };
        asked -= last.gpus_milli();
    }
    while asked < wanted {
        let pod = dice.pick(pods);
        if asked + pod.gpus_milli() > wanted {
            break;
        }
        asked += pod.gpus_milli();
        order.push(pod);
    }
    Ok(order)
}

/// Means over seeds of [`run`].
///
/// # Errors
/// When state and scheduler disagree.
pub fn mean(
    machines: &[MachineInfo],
    pods: &[Pod],
    policy: Policy,
    seeds: impl Iterator<Item = u64>,
) -> Result<Allocated, Error> {
    let (mut at_100, mut at_130, mut skipped) = (Mean::default(), Mean::default(), 0);
    for seed in seeds {
        let found = run(machines, pods, policy, seed)?;
        at_100.add(found.at_100);
        at_130.add(found.at_130);
        skipped += found.skipped;
    }
    Ok(Allocated { at_100: at_100.get(), at_130: at_130.get(), skipped })
}

#[cfg(test)]
mod tests {
    use super::super::data;
    use super::*;
    use borg_fauxmaster::questions::Policy;
    use borg_fauxmaster::sources::common::machine_of;
    use borg_fauxmaster::sources::openb;
    use borg_proto::Resources;
    use std::collections::BTreeMap;

    /// Machines of two GPUs, pods of one each: nothing is ever left over before all are taken.
    #[test]
    fn a_cell_that_divides_evenly_fills_up() {
        let capacity = Resources {
            cpu_milli: 64_000,
            ram_bytes: 1 << 40,
            devices: BTreeMap::from([("gpu".into(), 2_000)]),
            ..Resources::default()
        };
        let machines = vec![machine_of(capacity, BTreeMap::new()); 50];
        let pod = |n: u32| Pod {
            name: format!("p{n}"),
            cpu_milli: 100,
            memory_mib: 64,
            num_gpu: 1,
            gpu_milli: 1_000,
            models: Vec::new(),
        };
        for pods in [10, 200] {
            let pods: Vec<_> = (0..pods).map(pod).collect();
            for policy in Policy::ALL {
                let found = mean(&machines, &pods, policy, 1..=2).unwrap();
                assert_eq!(found, Allocated { at_100: 100.0, at_130: 100.0, skipped: 60 });
            }
        }
    }

    #[test]
    fn the_published_cell_is_read() {
        let Some(folder) = data("openb-fgd") else {
            println!("skipped: no openb-fgd");
            return;
        };
        let nodes = openb::nodes(&folder.join("openb_node_list_gpu_node.csv")).unwrap();
        assert_eq!((nodes.len(), gpus_milli(&nodes)), (1_213, 6_212_000));
        let published = openb::published(&folder.join("analysis_allo_discrete.csv")).unwrap();
        let fgd = published[&("default".to_owned(), "06-FGD".to_owned())];
        assert!((fgd[0] - 95.227).abs() < 1e-6 && (fgd[1] - 95.391).abs() < 1e-6, "{fgd:?}");
        for workload in openb::WORKLOADS {
            let pods = openb::pods(&folder.join(format!("openb_pod_list_{workload}.csv"))).unwrap();
            for (n, pod) in pods.iter().enumerate() {
                job(pod, &format!("p{n}")).unwrap();
            }
        }
    }
}
