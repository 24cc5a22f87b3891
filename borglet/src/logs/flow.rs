//! How fast a task may write into its log: what is more is dropped and counted.
//!
//! A bucket of bytes that fills with time. Says nothing of files.

/// How many seconds' worth may come at once: ours, for what a program prints as it starts or crashes.
const BURST_S: u64 = 4;

/// What one stream may still write.
#[derive(Debug)]
pub(super) struct Flow {
    per_s: u64,
    /// In thousandths of a byte, so that no time is lost to rounding.
    left: u64,
    at_ms: u64,
    dropped: u64,
}

/// Whether a piece may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Passage {
    /// It may. So many bytes were dropped before it, which is to be said.
    Free {
        /// Bytes.
        dropped: u64,
    },
    /// It is dropped and counted.
    Dropped,
}

impl Flow {
    pub(super) fn new(per_s: u64) -> Self {
        Self { per_s, left: full(per_s), at_ms: 0, dropped: 0 }
    }

    /// Asks for a piece at a time in milliseconds that never goes back.
    pub(super) fn ask(&mut self, now_ms: u64, bytes: u64) -> Passage {
        let passed = now_ms.saturating_sub(self.at_ms);
        self.at_ms = now_ms;
        self.left =
            self.left.saturating_add(passed.saturating_mul(self.per_s)).min(full(self.per_s));
        // After a drop not at the first byte that has room, or drop and notice would take turns.
        let floor = if self.dropped > 0 { full(self.per_s) / BURST_S } else { 0 };
        match self.left.checked_sub(bytes.saturating_mul(1000)) {
            Some(left) if left >= floor => {
                self.left = left;
                Passage::Free { dropped: std::mem::take(&mut self.dropped) }
            }
            Some(_) | None => {
                self.dropped = self.dropped.saturating_add(bytes);
                Passage::Dropped
            }
        }
    }

    /// What was dropped and not said yet.
    pub(super) fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }
}

fn full(per_s: u64) -> u64 {
    per_s.saturating_mul(BURST_S).saturating_mul(1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_to_its_rate_and_all_that_is_lost_is_counted() {
        let mut flow = Flow::new(1_000);
        let (mut written, mut lost) = (0, 0);
        for ms in 0..100_000 {
            match flow.ask(ms, 100) {
                Passage::Free { dropped } => {
                    written += 100;
                    lost += dropped;
                }
                Passage::Dropped => {}
            }
        }
        lost += flow.take_dropped();
        assert_eq!(written + lost, 100 * 100_000);
        assert!((99_000..=104_000).contains(&written), "{written}");
    }

    #[test]
    fn who_keeps_to_the_rate_loses_nothing() {
        let mut flow = Flow::new(1_000);
        assert_eq!(flow.ask(0, 4_000), Passage::Free { dropped: 0 });
        for ms in (1..100).map(|n| n * 100) {
            assert_eq!(flow.ask(ms, 100), Passage::Free { dropped: 0 });
        }
    }
}
