//! What a task used, rolled up: percentiles of each five minutes that are over.
//!
//! Invariant: a window holds a bounded number of samples, whatever comes in; percentiles are exact.

use borg_proto::Millis;
use borg_proto::poll::{Percentiles, USAGE_WINDOW, Usage, UsageWindow};

/// Samples of one window: one a second. More than come are left out. 2.4 KiB a task.
const SAMPLES: usize = 300;
/// Memory is kept in units of 4 KiB, so that it takes four bytes.
const PAGE: u64 = 4_096;

/// The window that is being filled, and the last one that is over.
#[derive(Debug, Default)]
pub(crate) struct Window {
    since: Option<Millis>,
    cpu_milli: Vec<u32>,
    ram_pages: Vec<u32>,
    last: Option<UsageWindow>,
}

impl Window {
    /// Takes a sample, and gives the last window that is over.
    pub(crate) fn add(&mut self, now: Millis, usage: &Usage) -> Option<UsageWindow> {
        let since = *self.since.get_or_insert(now);
        if now.since(since) >= USAGE_WINDOW {
            self.last = Some(UsageWindow {
                since,
                cpu_milli: spread(&mut self.cpu_milli, 1),
                ram_bytes: spread(&mut self.ram_pages, PAGE),
            });
            self.since = Some(now);
        }
        if self.cpu_milli.len() < SAMPLES {
            self.cpu_milli.push(u32::try_from(usage.cpu_milli).unwrap_or(u32::MAX));
            self.ram_pages.push(u32::try_from(usage.ram_bytes.div_ceil(PAGE)).unwrap_or(u32::MAX));
        }
        self.last
    }
}

/// Empties the samples into their percentiles.
fn spread(samples: &mut Vec<u32>, unit: u64) -> Percentiles {
    samples.sort_unstable();
    let at = |percent: usize| {
        // The least sample that so many are not above.
        let place = (samples.len() * percent).div_ceil(100).saturating_sub(1);
        samples.get(place).map_or(0, |sample| u64::from(*sample) * unit)
    };
    let found = Percentiles { p50: at(50), p90: at(90), p99: at(99), max: at(100) };
    samples.clear();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(cpu_milli: u64, ram_bytes: u64) -> Usage {
        Usage { cpu_milli, ram_bytes, ..Usage::default() }
    }

    #[test]
    fn a_window_that_is_over_tells_its_percentiles_and_the_next_begins_empty() {
        let mut window = Window::default();
        for second in 0..300_u64 {
            let sample = usage(second + 1, (300 - second) << 20);
            assert_eq!(window.add(Millis(second * 1_000), &sample), None);
        }
        let told = window.add(Millis(300_000), &usage(7, 7)).unwrap();
        let of = |p50, p90, p99, max| Percentiles { p50, p90, p99, max };
        assert_eq!((told.since, told.cpu_milli), (Millis(0), of(150, 270, 297, 300)));
        assert_eq!(told.ram_bytes, of(150 << 20, 270 << 20, 297 << 20, 300 << 20));
        let next = window.add(Millis(600_000), &usage(9, 9)).unwrap();
        assert_eq!((next.since, next.cpu_milli), (Millis(300_000), of(7, 7, 7, 7)));
        assert_eq!(next.ram_bytes.max, 4_096, "in pages, rounded up");
    }

    #[test]
    fn no_flood_of_samples_makes_it_grow() {
        let mut window = Window::default();
        for n in 0..10_000 {
            window.add(Millis(n), &usage(u64::MAX, u64::MAX));
        }
        assert_eq!(window.cpu_milli.len(), SAMPLES);
    }
}
