//! How samples are summed up: what some part of them does not exceed.

use std::collections::BTreeMap;

/// The sample that `percent` of all samples do not exceed (nearest rank); 0 of no samples.
#[must_use]
pub fn percentile(samples: &[f64], percent: usize) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(0.0)
}

/// Whole samples, each value with how often it came: exact, and small where values repeat.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counted {
    times: BTreeMap<u64, u64>,
    count: u64,
}

impl Counted {
    /// Of these samples.
    pub fn of(samples: impl IntoIterator<Item = u64>) -> Self {
        let mut counted = Self::default();
        samples.into_iter().for_each(|sample| counted.add(sample));
        counted
    }

    /// One more sample.
    pub fn add(&mut self, value: u64) {
        *self.times.entry(value).or_default() += 1;
        self.count += 1;
    }

    /// How many samples there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The sample that `percent` of all samples do not exceed (nearest rank); `None` of no samples.
    #[must_use]
    pub fn percentile(&self, percent: u64) -> Option<u64> {
        let rank = u128::from(self.count) * u128::from(percent);
        let rank = u64::try_from(rank.div_ceil(100)).unwrap_or(u64::MAX).max(1);
        let mut seen = 0;
        let reached = |(value, times): (&u64, &u64)| {
            seen += times;
            (seen >= rank).then_some(*value)
        };
        self.times.iter().find_map(reached)
    }
}

/// The middle one.
#[must_use]
pub fn median(samples: &[f64]) -> f64 {
    percentile(samples, 50)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counted_samples_have_the_percentiles_that_the_same_samples_have_one_by_one() {
        let samples = [3_u32, 0, 0, 7, 7, 7, 250, 1, 0, 12];
        let mut counted = Counted::default();
        for end in 0..samples.len() {
            counted.add(samples[end].into());
            let same: Vec<f64> = samples[..=end].iter().map(|sample| f64::from(*sample)).collect();
            for percent in [0, 1, 50, 90, 99, 100] {
                let found = counted.percentile(percent as u64).map(|value| value as f64);
                assert_eq!(found, Some(percentile(&same, percent)), "{percent} of {same:?}");
            }
        }
        assert_eq!((counted.count(), Counted::default().percentile(50)), (10, None));
    }
}
