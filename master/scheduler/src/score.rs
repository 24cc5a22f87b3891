//! Which of the machines that will do is the best: what each term of the cost weighs.
//!
//! The hybrid of the Borg paper (section 3.2): fill machines up, but not so that one resource is
//! left that nobody can use because another one is gone. A cost is a whole number, lower is better;
//! `rooms` adds it up. Equal costs are decided by a fixed order of the machines, so that the same
//! cell gives the same answer everywhere.
//!
//! Invariant: no floats, no wrap-around: every term is at most [`MAX_WEIGHT`](borg_proto::policy::MAX_WEIGHT) times a small count of
//! whole machines, and their sum is under 2^31.

use crate::rooms::WHOLE;
pub(crate) use borg_proto::policy::Weights;

/// Soft constraints beyond so many that are missed count no more.
const MAX_SOFT: usize = 64;

/// A job's tasks in one place are counted in 64ths of the job: fine enough to tell 1 of 10 tasks
/// from 2 of 10, coarse enough that one more task of thousands changes no score.
pub(crate) const CROWD_STEPS: u32 = 64;

/// How crowded by the job the places are in which a machine is, in [`CROWD_STEPS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct There {
    pub(crate) machine: u32,
    pub(crate) rack: u32,
    pub(crate) power: u32,
}

/// What the weights make of a machine, beside its room.
pub(crate) trait Score {
    /// Whether a place is better for having tasks of the job.
    fn attract(&self) -> bool;

    /// What a machine costs beside its room: steps of the job there, and soft constraints that it misses.
    fn penalty(&self, there: There, soft_missed: usize) -> i32;
}

impl Score for Weights {
    fn attract(&self) -> bool {
        self.machine_crowd < 0 || self.rack_crowd < 0 || self.power_crowd < 0
    }

    fn penalty(&self, there: There, soft_missed: usize) -> i32 {
        let crowd = |weight: i16, steps: u32| {
            let steps = i32::try_from(steps.min(CROWD_STEPS)).unwrap_or(i32::MAX);
            i32::from(weight) * (WHOLE / 64 * steps)
        };
        crowd(self.machine_crowd, there.machine)
            + crowd(self.rack_crowd, there.rack)
            + crowd(self.power_crowd, there.power)
            + i32::from(self.soft)
                * WHOLE
                * i32::try_from(soft_missed.min(MAX_SOFT)).unwrap_or(i32::MAX)
    }
}

/// `count` tasks of a job of `tasks`, in [`CROWD_STEPS`] of the job.
pub(crate) fn crowd_steps(count: u32, tasks: u32) -> u32 {
    let steps = u64::from(count) * u64::from(CROWD_STEPS) / u64::from(tasks.max(1));
    u32::try_from(steps).unwrap_or(CROWD_STEPS).min(CROWD_STEPS)
}
