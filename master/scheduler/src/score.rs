//! Which of the machines that will do is the best: what each term of the cost weighs.
//!
//! The hybrid of the Borg paper (section 3.2): fill machines up, but not so that one resource is
//! left that nobody can use because another one is gone. A cost is a whole number, lower is better;
//! `rooms` adds it up. Equal costs are decided by a fixed order of the machines, so that the same
//! cell gives the same answer everywhere.
//!
//! Invariant: no floats, no wrap-around: every term is at most [`MAX_WEIGHT`] times a small count of
//! whole machines, and their sum is under 2^31.

use crate::rooms::WHOLE;

/// Largest weight, either way: ten times the usual 100.
pub const MAX_WEIGHT: i16 = 1000;
/// Soft constraints beyond so many that are missed count no more.
const MAX_SOFT: usize = 64;

/// A job's tasks in one place are counted in 64ths of the job: fine enough to tell 1 of 10 tasks
/// from 2 of 10, coarse enough that one more task of thousands changes no score.
pub(crate) const CROWD_STEPS: u32 = 64;

/// How much each term of the cost counts, in hundredths, at most [`MAX_WEIGHT`] either way. Terms
/// are shares of a machine. The defaults are ours: chosen by reasoning, to be tuned by cell
/// compaction over many instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weights {
    /// Best fit: the share of the machine that stays free, summed over cpu, ram, disk and devices.
    /// Below 0 it is worst fit.
    pub fit: i16,
    /// Stranding: how far the free shares of cpu and ram are apart. Disk is left out: most tasks
    /// ask for none, so its free share says nothing about what can still be used.
    pub strand: i16,
    /// Share of the job that would be on this machine already. Large, so that a service of a few
    /// tasks stands on several machines though best fit pulls them together.
    pub machine_crowd: i16,
    /// Share of the job that would be in this rack already.
    pub rack_crowd: i16,
    /// Each soft constraint that the machine does not meet.
    pub soft: i16,
}

impl Default for Weights {
    fn default() -> Self {
        Self::hybrid()
    }
}

impl Weights {
    /// The default: best fit against stranding.
    #[must_use]
    pub const fn hybrid() -> Self {
        Self { fit: 100, strand: 100, machine_crowd: 600, rack_crowd: 200, soft: 400 }
    }

    /// Fill machines up, whatever is stranded.
    #[must_use]
    pub const fn best_fit() -> Self {
        Self { strand: 0, ..Self::hybrid() }
    }

    /// Spread load over all machines, as early Borg did (E-PVM: Borg paper, section 3.2).
    #[must_use]
    pub const fn worst_fit() -> Self {
        Self { fit: -100, ..Self::best_fit() }
    }

    /// The first machine that has room, in the order of ties. Only for comparison.
    #[must_use]
    pub const fn first_fit() -> Self {
        Self { fit: 0, strand: 0, machine_crowd: 0, rack_crowd: 0, soft: 0 }
    }

    /// The same with each weight within its bounds.
    #[must_use]
    pub(crate) fn bounded(self) -> Self {
        let bound = |weight: i16| weight.clamp(-MAX_WEIGHT, MAX_WEIGHT);
        Self {
            fit: bound(self.fit),
            strand: self.strand.clamp(0, MAX_WEIGHT),
            machine_crowd: bound(self.machine_crowd),
            rack_crowd: bound(self.rack_crowd),
            soft: bound(self.soft),
        }
    }

    /// Whether a place is better for having tasks of the job.
    pub(crate) const fn attract(&self) -> bool {
        self.machine_crowd < 0 || self.rack_crowd < 0
    }

    /// What a machine costs beside its room: steps of the job on it and in its rack, and soft
    /// constraints that it misses.
    pub(crate) fn penalty(&self, on_machine: u32, in_rack: u32, soft_missed: usize) -> i32 {
        let crowd = |weight: i16, steps: u32| {
            let steps = i32::try_from(steps.min(CROWD_STEPS)).unwrap_or(i32::MAX);
            i32::from(weight) * (WHOLE / 64 * steps)
        };
        crowd(self.machine_crowd, on_machine)
            + crowd(self.rack_crowd, in_rack)
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
