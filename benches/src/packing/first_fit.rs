//! First Fit by the real scheduler on published instances: an exact oracle, since the published number
//! of bins has to come out for every one.

use super::archive::Archive;
use super::vectorpack::{Instance, instance, orders, published_first_fit};
use crate::Error;
use crate::driven::Timed;
use crate::figures::step;
use borg_fauxmaster::Driven;
use borg_fauxmaster::questions::Policy;
use borg_fauxmaster::sources::common::{job_of, machine_of};
use borg_proto::{Resources, UserName};
use borg_scheduler::Config;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

/// What came of the instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compared {
    /// Instances whose number of bins is the published one.
    pub equal: usize,
    /// Instances that were packed.
    pub all: usize,
    /// Instances that were not, since items of negative size are no tasks. (Published First Fit has
    /// them make room.)
    pub negative: usize,
}

/// Packs the first `most` instances of Triplet in `folder` and compares.
///
/// # Errors
/// When a file is not as published, or state and scheduler disagree.
pub fn triplet(folder: &Path, most: usize) -> Result<Compared, Error> {
    let orders = orders(&folder.join("shuf_orders.txt"))?;
    let published = published_first_fit(&folder.join("Triplet_multidim.csv"))?;
    let archive = Archive::unpack(&folder.join("Triplet_instances.tar.gz"))?;
    let mut compared = Compared { equal: 0, all: 0, negative: 0 };
    for (name, bins) in published.iter().take(most) {
        let found = instance(&archive.find(&format!("{name}.vbp"))?)?;
        let count = found.items.len();
        let order = orders.get(&count).ok_or_else(|| format!("no order of {count} items"))?;
        let Some(needed) = bins_needed(&found, order)? else {
            compared.negative += 1;
            continue;
        };
        compared.all += 1;
        if needed == *bins {
            compared.equal += 1;
        } else {
            step(&format!("  {name}: {needed} bins, published {bins}"));
        }
    }
    Ok(compared)
}

/// How many of as many equal machines as there are items get one, in this order of items; `None` when
/// an item's size is negative.
fn bins_needed(instance: &Instance, order: &[usize]) -> Result<Option<usize>, Error> {
    let sizes = |item: &Vec<i64>| item.iter().map(|size| u64::try_from(*size).ok()).collect();
    let items: Option<Vec<Vec<u64>>> = instance.items.iter().map(sizes).collect();
    let Some(items) = items else { return Ok(None) };
    // Every dimension as whole devices of a kind of its own: amounts may be 0, and count exactly.
    let amounts = |sizes: &[u64]| {
        let sizes = (0..).zip(sizes).filter(|(_, size)| **size > 0);
        let named = |(d, size): (u32, &u64)| (format!("d{d}").into(), size * 1_000);
        Resources { devices: sizes.map(named).collect(), ..Resources::default() }
    };
    let room = Resources { cpu_milli: 1_000_000, ram_bytes: 1 << 40, ..amounts(&instance.bin) };
    let machines = vec![machine_of(room, BTreeMap::new()); items.len()];
    let mut cell = Driven::with_machines(&machines)?;
    let owner: UserName = "all".parse()?;
    for item in order {
        let spec = job_of(&format!("i{item}"), 1, amounts(&items[*item]))?;
        cell.submit(&owner, Arc::new(spec))?;
    }
    let config = Config { weights: Policy::FIRST_FIT.weights, ..Config::default() };
    let mut timed = Timed::new(&mut cell, config);
    let decisions = timed.pass(&cell, usize::MAX)?;
    if decisions.len() != items.len() {
        return Err(format!("{} of {} items found a bin", decisions.len(), order.len()).into());
    }
    let used: BTreeSet<_> = decisions.iter().map(|decision| decision.machine).collect();
    cell.place(decisions)?;
    Ok(Some(used.len()))
}

#[cfg(test)]
mod tests {
    use super::super::data;
    use super::*;

    #[test]
    fn items_go_into_the_first_bin_that_has_room() {
        let items = [[6, 0], [5, 1], [4, 9], [1, 9], [5, 0]].map(|item| item.to_vec()).to_vec();
        let instance = Instance { bin: vec![10, 10], items };
        // 6+4 | 5+5 and 1 | nothing more: the fourth has 9 in the second dimension, like the third.
        assert_eq!(bins_needed(&instance, &[0, 1, 2, 3, 4]).unwrap(), Some(3));
    }

    #[test]
    fn published_first_fit_comes_out_exactly() {
        let Some(folder) = data("vectorpack") else {
            println!("skipped: no vectorpack");
            return;
        };
        let compared = triplet(&folder, 20).unwrap();
        assert!(compared.all > 5 && compared.equal == compared.all, "{compared:?}");
    }
}
