//! Decisions that come to nothing: what the state refuses is decided again at once, as the cell went on meanwhile,
//! but not for ever.
//!
//! Scheduler and state agree when both know the same, so whoever is refused again and again, with no news of the
//! task in between, shows a mistake of ours; or nobody takes decisions just now, as while a leader hands over. Neither
//! must keep a leader busy, nor fill its log: such a task waits, longer each time.
//!
//! Invariant: between two pieces of news of a task, its decisions that come to nothing are at most [`AT_ONCE`] at
//! any one moment, and at most one in [`MOST`] in the long run.

use borg_proto::{Millis, TaskId};
use std::collections::BTreeMap;

/// So many refusals in a row are followed by another decision at once. 3: our choice; a race with what others
/// commit is lost once or twice.
const AT_ONCE: u32 = 3;
/// The first wait after that; each further one is twice as long. 1 s: our choice.
const FIRST: Millis = Millis::from_secs(1);
/// The longest wait. One minute: our choice; somebody who looks sees it tried again.
const MOST: Millis = Millis::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Refused {
    times: u32,
    until: Millis,
}

/// Tasks of which the last decisions came to nothing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Refusals(BTreeMap<TaskId, Refused>);

impl Refusals {
    /// A decision of `now` about a task came to nothing.
    pub(crate) fn note(&mut self, task: TaskId, now: Millis) {
        let refused = self.0.entry(task).or_default();
        refused.times = refused.times.saturating_add(1);
        if let Some(waits) = refused.times.checked_sub(AT_ONCE) {
            let factor = 1_u64.checked_shl(waits).unwrap_or(u64::MAX);
            refused.until = now + Millis(FIRST.0.saturating_mul(factor)).min(MOST);
        }
    }

    /// There is news of a task.
    pub(crate) fn forget(&mut self, task: TaskId) {
        self.0.remove(&task);
    }

    /// Before when a task is not decided about, and after how many refusals, if it waits for that.
    pub(crate) fn of(&self, task: TaskId) -> Option<(Millis, u32)> {
        let refused = self.0.get(&task).filter(|refused| refused.until > Millis(0))?;
        Some((refused.until, refused.times))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use borg_proto::JobId;

    #[test]
    fn the_first_refusals_cost_no_time_and_each_further_one_twice_as_much() {
        let task = TaskId { job: JobId(1), index: 0 };
        let mut refusals = Refusals::default();
        let mut waits = Vec::new();
        for _ in 0..10 {
            refusals.note(task, Millis(500));
            waits.push(refusals.of(task).map_or(0, |(until, _)| until.since(Millis(500)).0));
        }
        let seconds = [1, 2, 4, 8, 16, 32, 60, 60].map(|s| s * 1_000);
        assert_eq!(waits, [&[0, 0][..], &seconds].concat());
        refusals.forget(task);
        assert_eq!(refusals.of(task), None);
    }
}
