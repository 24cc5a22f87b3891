//! How many machines may be taken for down, and when none.
//!
//! A cell that seems to lose a third of its machines at once has more likely lost its own network;
//! to place their tasks elsewhere would turn a fault of the masters into an outage of the jobs.

use super::Config;
use borg_proto::Millis;

const MINUTE: u64 = 60_000;

#[derive(Debug)]
pub(super) struct Silence {
    /// Machines that may be taken for down now, times a minute in milliseconds.
    credit: u64,
    most: u64,
    filled_at: Millis,
    silent: usize,
    safe_mode: bool,
}

impl Silence {
    pub(super) fn new(config: &Config, now: Millis) -> Self {
        let most = u64::from(config.downs_per_minute) * MINUTE;
        Self { credit: most, most, filled_at: now, silent: 0, safe_mode: false }
    }

    /// Takes how many of the machines that should answer do not.
    pub(super) fn update(&mut self, config: &Config, now: Millis, silent: usize, all: usize) {
        let earned = now.since(self.filled_at).0.saturating_mul(config.downs_per_minute.into());
        self.credit = self.credit.saturating_add(earned).min(self.most);
        self.filled_at = now;
        self.silent = silent;
        let safe = silent > config.safe_least && silent * 100 > all * config.safe_percent;
        if safe != self.safe_mode {
            tracing::warn!(silent, all, safe_mode = safe, "silent machines");
            self.safe_mode = safe;
        }
    }

    /// Whether one more machine may be taken for down now; if so, it counts.
    pub(super) fn take(&mut self) -> bool {
        let may = !self.safe_mode && self.credit >= MINUTE;
        if may {
            self.credit -= MINUTE;
        }
        may
    }

    pub(super) fn silent(&self) -> usize {
        self.silent
    }

    pub(super) fn safe_mode(&self) -> bool {
        self.safe_mode
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_machines_a_minute_than_allowed() {
        let config = Config { downs_per_minute: 2, ..Config::default() };
        let mut silence = Silence::new(&config, Millis(0));
        silence.update(&config, Millis(0), 10, 100);
        assert_eq!([silence.take(), silence.take(), silence.take()], [true, true, false]);
        silence.update(&config, Millis(30_000), 10, 100);
        assert_eq!([silence.take(), silence.take()], [true, false]);
    }

    #[test]
    fn when_a_third_of_the_cell_is_silent_nothing_moves() {
        let config = Config::default();
        let mut silence = Silence::new(&config, Millis(0));
        silence.update(&config, Millis(0), 4, 12);
        assert!(!silence.take());
        silence.update(&config, Millis(1), 3, 12);
        assert!(silence.take(), "it recovers by itself");
        silence.update(&config, Millis(2), 3, 3);
        assert!(silence.take(), "a tiny cell may lose all of its machines");
    }
}
