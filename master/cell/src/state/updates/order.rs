//! Who is next: which task stands at which place of an update's order.
//!
//! Nothing is kept but how many places were gone through, so an order of 100,000 tasks costs no more than
//! one of ten.
//!
//! Invariant: every task of a job stands at one place at least.

use super::Update;
use borg_proto::IndexSet;
use borg_proto::update::Order;

impl Update {
    /// How many places there are for a job of so many tasks.
    pub(super) fn places(&self, tasks: u32) -> u32 {
        if let Some(canary) = self.canary() {
            return canary.count();
        }
        match &self.options.order {
            Order::Ascending | Order::Descending | Order::Random(_) => tasks,
            Order::Listed(first) => tasks.saturating_add(u32::try_from(first.len()).unwrap_or(0)),
        }
    }

    /// Which task stands at a place.
    pub(super) fn at_place(&self, place: u32, tasks: u32) -> Option<u32> {
        if let Some(canary) = self.canary() {
            return nth(canary, place);
        }
        match &self.options.order {
            Order::Ascending => Some(place),
            Order::Descending => tasks.checked_sub(1)?.checked_sub(place),
            Order::Random(seed) => Some(shuffled(place, tasks, *seed)),
            // Those that were listed come again among the others, and have gone by then.
            Order::Listed(first) => {
                let listed = u32::try_from(first.len()).unwrap_or(0);
                match place.checked_sub(listed) {
                    Some(rest) => Some(rest),
                    None => first.get(usize::try_from(place).ok()?).copied(),
                }
            }
        }
    }
}

fn nth(set: &IndexSet, place: u32) -> Option<u32> {
    let mut left = place;
    for (first, last) in set.ranges() {
        let many = last - first + 1;
        if left < many {
            return Some(first + left);
        }
        left -= many;
    }
    None
}

/// Where a number below `many` goes in an order that looks like chance, one to one: a Feistel network
/// over the smallest even number of bits, walked until it ends below `many`.
fn shuffled(place: u32, many: u32, seed: u64) -> u32 {
    if many <= 1 || place >= many {
        return place;
    }
    let bits = (u32::BITS - (many - 1).leading_zeros()).next_multiple_of(2).max(2);
    let half = bits / 2;
    let mask = (1_u64 << half) - 1;
    let mut value = u64::from(place);
    // Each walk stays in its own cycle, which comes back below `many` at the latest where it began.
    loop {
        let (mut left, mut right) = (value >> half, value & mask);
        for round in 0..4_u64 {
            (left, right) = (right, left ^ (mixed(right ^ (round << 32), seed) & mask));
        }
        value = (left << half) | right;
        if let Ok(found) = u32::try_from(value)
            && found < many
        {
            return found;
        }
    }
}

/// The finaliser of `SplitMix64`.
fn mixed(value: u64, seed: u64) -> u64 {
    let mut x = value.wrapping_add(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_random_order_has_every_task_once_and_follows_from_its_seed() {
        for many in [1, 2, 3, 10, 97, 1_000] {
            for seed in [0, 1, u64::MAX] {
                let order: Vec<u32> = (0..many).map(|place| shuffled(place, many, seed)).collect();
                let all: BTreeSet<u32> = order.iter().copied().collect();
                assert_eq!(all, (0..many).collect());
            }
        }
        let order = |seed| (0..50).map(|place| shuffled(place, 50, seed)).collect::<Vec<_>>();
        assert_ne!(order(1), order(2));
        assert_ne!(order(1), (0..50).collect::<Vec<_>>());
    }

    #[test]
    fn a_canary_is_gone_through_by_index() {
        let set: IndexSet = "7,0-2".parse().unwrap();
        let order: Vec<u32> = (0..9).filter_map(|place| nth(&set, place)).collect();
        assert_eq!(order, [0, 1, 2, 7]);
    }
}
