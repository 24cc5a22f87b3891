//! How samples are summed up: what some part of them does not exceed.

/// The sample that `percent` of all samples do not exceed (nearest rank); 0 of no samples.
#[must_use]
pub fn percentile(samples: &[f64], percent: usize) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(0.0)
}

/// The middle one.
#[must_use]
pub fn median(samples: &[f64]) -> f64 {
    percentile(samples, 50)
}
