//! Which of the machines that will do is the best: a cost in whole numbers, lower is better.
//!
//! The hybrid of the Borg paper (section 3.2): fill machines up, but not so that one resource is
//! left that nobody can use because another one is gone. Ties go to the lowest machine number, so
//! that the same cell gives the same answer everywhere and machines fill up in order.
//!
//! Invariant: no floats, no wrap-around; every term is 0 to [`WHOLE`] times a small count.

use crate::machines::{CPU, DISK, Machines, RAM};
use crate::need::Need;

/// A whole machine, as the unit of every term: terms are shares of a machine in 1/65536.
pub(crate) const WHOLE: i64 = 1 << 16;

/// A job's tasks in one place are counted in 64ths of the job: fine enough to tell 1 of 10 tasks
/// from 2 of 10, coarse enough that one more task of thousands changes no score.
pub(crate) const CROWD_STEPS: u64 = 64;

/// How much each term of the cost counts, in hundredths. The defaults are ours: chosen by
/// reasoning, to be tuned by cell compaction over many instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weights {
    /// Best fit: the share of the machine that stays free, summed over cpu, ram, disk and devices.
    pub fit: u16,
    /// Stranding: how far the free shares of cpu and ram are apart. Disk is left out: most tasks
    /// ask for none, so its free share says nothing about what can still be used.
    pub strand: u16,
    /// Share of the job that would be on this machine already. Large, so that a service of a few
    /// tasks stands on several machines though best fit pulls them together.
    pub machine_crowd: u16,
    /// Share of the job that would be in this rack already.
    pub rack_crowd: u16,
    /// Each soft constraint that the machine does not meet.
    pub soft: u16,
}

impl Default for Weights {
    fn default() -> Self {
        Self { fit: 100, strand: 100, machine_crowd: 600, rack_crowd: 200, soft: 400 }
    }
}

/// What the score needs to know of a job and a place, beside the machine's room.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Surroundings {
    /// Tasks of the job on the machine, in [`CROWD_STEPS`] of the job.
    pub(crate) machine_crowd: u64,
    /// Tasks of the job in the rack, in [`CROWD_STEPS`] of the job.
    pub(crate) rack_crowd: u64,
    /// Soft constraints that are not met.
    pub(crate) soft_missed: u16,
}

impl Weights {
    /// Cost of one task of `need` on machine `m`, which must have the room once `freed` is given
    /// back (what victims hold there, by column; nothing in the ordinary case).
    pub(crate) fn cost(
        &self,
        machines: &Machines,
        need: &Need,
        m: usize,
        freed: impl Fn(usize) -> u64,
        around: Surroundings,
    ) -> i64 {
        let left = |column: usize, asked: u64| machines.share_left(column, m, freed(column), asked);
        let cpu = left(CPU, need.asks[CPU]);
        let ram = left(RAM, need.asks[RAM]);
        let mut fit = cpu + ram + left(DISK, need.asks[DISK]);
        for column in machines.device_columns() {
            let asked =
                need.devices.iter().find(|(c, _)| *c == column).map_or(0, |(_, amount)| *amount);
            fit += left(column, asked);
        }
        let crowd =
            |steps: u64| WHOLE / 64 * i64::try_from(steps).expect("at most 64 steps of a job");
        i64::from(self.fit) * fit
            + i64::from(self.strand) * (cpu - ram).abs()
            + i64::from(self.machine_crowd) * crowd(around.machine_crowd)
            + i64::from(self.rack_crowd) * crowd(around.rack_crowd)
            + i64::from(self.soft) * WHOLE * i64::from(around.soft_missed)
    }
}

/// `count` tasks of a job of `tasks`, in [`CROWD_STEPS`] of the job.
pub(crate) fn crowd_steps(count: u32, tasks: u32) -> u64 {
    (u64::from(count) * CROWD_STEPS / u64::from(tasks.max(1))).min(CROWD_STEPS)
}
