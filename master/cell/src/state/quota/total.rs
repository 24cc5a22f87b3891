//! Sums of amounts over many tasks, grants or machines.
//!
//! Invariant: no sum overflows. An amount has 64 bits, and there are fewer than 2^32 of whatever is
//! added up: 128 bits are more than that can come to.

use borg_proto::Resources;
use borg_proto::resources::Dimension;
use std::collections::BTreeMap;

/// A sum of amounts, by dimension; what there is none of is left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Total(BTreeMap<Dimension, u128>);

impl Total {
    /// So many of an amount.
    #[must_use]
    pub fn of(amount: &Resources, times: u32) -> Self {
        let mut total = Self::default();
        total.add(amount, times);
        total
    }

    /// Adds so many of an amount.
    pub fn add(&mut self, amount: &Resources, times: u32) {
        for (dimension, one) in amount.dimensions().filter(|_| times > 0) {
            let sum = self.0.entry(dimension).or_insert(0);
            *sum = sum.saturating_add(u128::from(one) * u128::from(times));
        }
    }

    /// Takes an amount that was added before away.
    pub fn subtract(&mut self, amount: &Resources) {
        self.take(&Self::of(amount, 1));
    }

    /// Takes another sum that is part of this one away.
    pub(in crate::state) fn take(&mut self, part: &Self) {
        for (dimension, amount) in part.iter() {
            if let Some(sum) = self.0.get_mut(dimension) {
                // Never less than what was added; the audit tells when it is.
                *sum = sum.saturating_sub(amount);
            }
        }
        self.0.retain(|_, sum| *sum > 0);
    }

    /// How much of a dimension.
    #[must_use]
    pub fn get(&self, dimension: &Dimension) -> u128 {
        self.0.get(dimension).copied().unwrap_or(0)
    }

    /// Each dimension of which there is any.
    pub fn iter(&self) -> impl Iterator<Item = (&Dimension, u128)> {
        self.0.iter().map(|(dimension, sum)| (dimension, *sum))
    }

    /// Whether there is nothing.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.0.is_empty()
    }

    /// A sum as it is told to people and programs: the largest number for what is larger.
    #[must_use]
    pub fn number(sum: u128) -> u64 {
        u64::try_from(sum).unwrap_or(u64::MAX)
    }

    /// The sum as one amount, with the largest numbers for what is larger.
    #[must_use]
    pub fn amount(&self) -> Resources {
        let mut amount = Resources::default();
        for (dimension, sum) in self.iter() {
            let sum = Self::number(sum);
            match dimension {
                Dimension::Cpu => amount.cpu_milli = sum,
                Dimension::Ram => amount.ram_bytes = sum,
                Dimension::Disk => amount.disk_bytes = sum,
                Dimension::Ports => amount.ports = u32::try_from(sum).unwrap_or(u32::MAX),
                Dimension::Device(name) => drop(amount.devices.insert(name.clone(), sum)),
            }
        }
        amount
    }
}
