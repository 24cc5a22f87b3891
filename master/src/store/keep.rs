//! Which checkpoints stay, so that reads can go back in time.
//!
//! Decides only; `archive` removes. All the log from the oldest checkpoint on stays with it, so a
//! checkpoint in the middle only saves time: when there are too many, the one goes whose absence
//! costs the least, and what is left stands close together near now and far apart long ago.
//!
//! Invariant: the newest two, and those that the head names, stay.

use borg_cell::store::CheckpointMeta;
use borg_proto::Millis;

/// How much of the past is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// Most checkpoints.
    pub count: usize,
    /// How far back reads may go, in the cell's time, as long as there is room.
    pub age: Millis,
    /// Most bytes of checkpoints and log. The newest two checkpoints stay whatever their size.
    pub bytes: u64,
}

/// 24 checkpoints, 7 days, 4 GiB: our choice; a cell of 150,000 tasks has checkpoints of some 10 MiB.
impl Default for Keep {
    fn default() -> Self {
        Self { count: 24, age: Millis::from_secs(7 * 24 * 3600), bytes: 4 << 30 }
    }
}

/// A checkpoint that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// What it is of.
    pub meta: CheckpointMeta,
    /// The log from the checkpoint before up to this one is kept, too.
    pub unbroken: bool,
    /// A replica may start from it.
    pub pinned: bool,
}

impl Keep {
    /// Which of `kept`, oldest first, goes next; `log_bytes` is the size of the log beside them.
    pub(super) fn surplus(&self, kept: &[Kept], log_bytes: u64) -> Option<usize> {
        let removable = kept.len().saturating_sub(2);
        let newest = kept.last()?.meta.at;
        let free = |at: &usize| !kept[*at].pinned;
        let oldest = (0..removable).find(free)?;
        let bytes = log_bytes + kept.iter().map(|kept| kept.meta.file_bytes).sum::<u64>();
        // The oldest is of use as long as the one after it is not old enough to replace it.
        let too_old = newest.since(kept[oldest + 1].meta.at) >= self.age;
        if bytes > self.bytes || too_old {
            return Some(oldest);
        }
        if kept.len() <= self.count {
            return None;
        }
        // Only where the log reaches from the one before to the one after.
        let between = (oldest + 1..removable).filter(free);
        let between = between.filter(|at| kept[*at].unbroken && kept[at + 1].unbroken);
        let cost = |at: &usize| {
            let gap = kept[at + 1].meta.at.since(kept[at - 1].meta.at).0;
            let ago = newest.since(kept[at - 1].meta.at).0;
            // The gap that it leaves, in millionths of its age.
            u128::from(gap) * 1_000_000 / u128::from(ago.max(1))
        };
        Some(between.min_by_key(cost).unwrap_or(oldest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use borg_cell::store::{Membership, Position};

    fn kept(seconds: impl Iterator<Item = u64>) -> Vec<Kept> {
        let one = |second| Kept {
            meta: CheckpointMeta {
                place: Position { index: second + 1, term: 1 },
                membership: Membership::default(),
                at: Millis::from_secs(second),
                file_bytes: 100,
                file_sum: 0,
            },
            unbroken: second > 0,
            pinned: false,
        };
        seconds.map(one).collect()
    }

    /// As an archive does it: a checkpoint comes, surplus ones go.
    fn after(keep: Keep, seconds: u64) -> Vec<u64> {
        let mut held = Vec::new();
        for one in kept(0..seconds) {
            held.push(one);
            while let Some(gone) = keep.surplus(&held, 0) {
                held.remove(gone);
            }
        }
        held.iter().map(|kept| kept.meta.at.0 / 1000).collect()
    }

    #[test]
    fn what_is_kept_thins_out_towards_the_past() {
        let held = after(Keep { count: 8, ..Keep::default() }, 1_000);
        assert_eq!(held.len(), 8);
        assert_eq!((held[0], held[6], held[7]), (0, 998, 999), "{held:?}");
        let gaps: Vec<u64> = held.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(gaps[0] > 100 && gaps[4] < 60, "{gaps:?}");
    }

    #[test]
    fn age_and_bytes_remove_the_oldest() {
        let keep = Keep { count: 100, age: Millis::from_secs(10), bytes: 1_000_000 };
        // Back to 89 s is asked for, and the checkpoint there is enough.
        assert_eq!(after(keep, 100), (89..100).collect::<Vec<_>>());
        let keep = Keep { bytes: 500, ..Keep::default() };
        assert_eq!(after(keep, 100), [95, 96, 97, 98, 99]);
        let keep = Keep { count: 0, age: Millis(0), bytes: 0 };
        assert_eq!(after(keep, 100), [98, 99], "the newest two stay whatever happens");
    }

    #[test]
    fn one_that_bridges_no_gap_stays_longer_than_the_oldest() {
        let mut held = kept(0..6);
        let keep = Keep { count: 5, ..Keep::default() };
        held[2].unbroken = false;
        assert_eq!(keep.surplus(&held, 0), Some(3));
        for one in &mut held {
            one.unbroken = false;
        }
        assert_eq!(keep.surplus(&held, 0), Some(0));
        held[0].pinned = true;
        assert_eq!(keep.surplus(&held, 0), Some(1));
    }
}
