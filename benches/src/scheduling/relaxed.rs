//! Relaxed randomization beside the exact scan: what it saves in time and what it costs in packing.

use super::scratch;
use crate::Error;
use borg_fauxmaster::sources::borg_like::Mix;
use borg_scheduler::Config;

/// A cell of the mix from scratch, timed as `scratch` does.
#[derive(Debug)]
pub struct Found {
    /// Tasks placed in a second.
    pub per_s: f64,
    /// Tasks that found no place: the fewer, the better packed.
    pub pending: usize,
}

/// The same cell by the exact scan, and by one that stops at `enough` machines that will do.
///
/// # Errors
/// When state and scheduler disagree.
pub fn measure(machines: u32, enough: u32, runs: usize) -> Result<[Found; 2], Error> {
    let found = |config| {
        let found = scratch::measure(machines, Mix::BORG, config, runs)?;
        let placed = u32::try_from(found.placed)?;
        Ok::<_, Error>(Found { per_s: f64::from(placed) / found.pass_s, pending: found.pending })
    };
    let exact = found(Config::default())?;
    Ok([exact, found(Config { relaxed: Some(enough), ..Config::default() })?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_cell_is_scheduled_both_ways() {
        let [exact, relaxed] = measure(100, 10, 1).unwrap();
        assert!(exact.per_s > 0.0 && relaxed.per_s > 0.0);
        assert!(exact.pending < 100 && relaxed.pending < 150, "{exact:?} {relaxed:?}");
    }
}
