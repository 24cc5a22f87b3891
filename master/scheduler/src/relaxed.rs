//! Relaxed randomization (Borg paper, section 3.4), to compare the exact scan with: machines are looked at in
//! a random order until enough were found that will do, and the best of these is taken.
//!
//! Never the default: the scan of blocks is exact, and what this saves in time it costs in packing.

use crate::class::Class;
use crate::machines::Machines;
use crate::rooms::{BLOCK, rows};
use crate::score::Weights;

impl Class {
    /// The best row with room of those in the first blocks that have at least `enough` of them together,
    /// in an order that follows from `seed` and the class. All blocks are looked at before there is none.
    pub(crate) fn best_relaxed(
        &mut self,
        machines: &Machines,
        weights: &Weights,
        enough: u32,
        seed: u64,
        avoid: &[usize],
    ) -> Option<usize> {
        let mut best: Option<(i32, u64, usize)> = None;
        let mut found = 0;
        for b in order(machines.rooms.blocks(), seed ^ self.need.job.0) {
            let costs = self.learned_costs(machines, weights, b);
            let rows = costs.into_iter().zip(rows(b));
            let fits = rows.filter_map(|(cost, row)| Some((cost?, machines.rooms.rank(row), row)));
            for fit in fits.filter(|(_, _, row)| !avoid.contains(row)) {
                found += 1;
                best = Some(best.map_or(fit, |best| best.min(fit)));
            }
            if found >= enough {
                break;
            }
        }
        best.map(|(_, _, row)| row)
    }

    fn learned_costs(
        &mut self,
        machines: &Machines,
        weights: &Weights,
        b: usize,
    ) -> [Option<i32>; BLOCK] {
        self.learn_one(machines, weights, b);
        self.costs(machines, b)
    }
}

/// The numbers below `blocks`, each once, from a place and in steps that follow from `seed`.
fn order(blocks: usize, seed: u64) -> impl Iterator<Item = usize> {
    // The step of SplitMix64: a well mixed number of each seed.
    let mut mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^= mixed >> 27;
    let below = |number: u64| usize::try_from(number % blocks.max(1) as u64).unwrap_or(0);
    let (first, least) = (below(mixed), below(mixed >> 32).max(1));
    let step = (least..).find(|step| gcd(*step, blocks.max(1)) == 1).unwrap_or(1);
    (0..blocks).map(move |n| (first + n * step) % blocks)
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_block_has_its_turn_once_in_another_order_for_each_seed() {
        for blocks in [0, 1, 2, 7, 64, 157] {
            for seed in 0..20 {
                let all: BTreeSet<usize> = order(blocks, seed).collect();
                assert_eq!((all.len(), order(blocks, seed).count()), (blocks, blocks));
            }
        }
        let firsts: BTreeSet<usize> = (0..20).filter_map(|seed| order(157, seed).next()).collect();
        assert!(firsts.len() > 10, "{firsts:?}");
    }
}
