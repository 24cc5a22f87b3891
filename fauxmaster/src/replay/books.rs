//! What is counted while a cell is replayed: how long tasks wait, who is pushed out and why, how full machines are.
//!
//! Invariant: a task is in one of three: it waits, it is placed, or it is not counted any more.

use super::reclaim::Lent;
use crate::spread::Counted;
use borg_cell::event::TaskChange;
use borg_cell::rejection::Rejection;
use borg_cell::state::{CellState, MachineState};
use borg_proto::task::EvictCause;
use borg_proto::{Band, FailureCause, JobId, Millis, TaskId};
use std::collections::BTreeMap;

/// How often what happened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Jobs submitted.
    pub submits: u64,
    /// Tasks placed.
    pub placements: u64,
    /// Tasks seen up.
    pub starts: u64,
    /// Tasks that ended by themselves.
    pub ends: u64,
    /// Tasks pushed out.
    pub evictions: u64,
    /// Tasks that failed.
    pub failures: u64,
    /// Decisions that the state refused.
    pub refused: u64,
    /// Passes of the scheduler.
    pub passes: u64,
}

impl Counts {
    /// All that happened to jobs and tasks; passes are no events.
    #[must_use]
    pub fn events(self) -> u64 {
        self.submits + self.placements + self.starts + self.ends + self.evictions + self.failures
    }
}

/// The cell at one moment: amounts of machines that are up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Look {
    /// When, from the beginning.
    pub at: Millis,
    /// Machines that are up.
    pub machines: u64,
    /// Processor time there is, in thousandths of a core.
    pub cpu_milli: u64,
    /// Processor time given out by limits.
    pub cpu_limits: u64,
    /// Memory there is, in bytes.
    pub ram_bytes: u64,
    /// Memory given out by limits.
    pub ram_limits: u64,
    /// Tasks placed.
    pub placed: u64,
    /// Tasks that wait.
    pub pending: u64,
}

/// What happened to the tasks of one band.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OfBand {
    /// From submitted to placed for the first time, in milliseconds.
    pub waits: Counted,
    /// From pushed out to placed again.
    pub waits_again: Counted,
    /// Evictions by cause.
    pub evictions: BTreeMap<&'static str, u64>,
    /// Ended as their machine had no memory left.
    pub out_of_memory: u64,
    /// Tasks placed now.
    pub placed: u64,
    /// Time that tasks were placed, all together, in milliseconds.
    pub placed_ms: u64,
}

/// Since when a task waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Waits {
    since: Millis,
    again: bool,
}

/// What was counted so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Books {
    /// How often what happened.
    pub counts: Counts,
    /// Jobs that the state refused, by reason.
    pub refused: BTreeMap<String, u64>,
    /// By band.
    pub bands: BTreeMap<Band, OfBand>,
    /// The cell over time.
    pub looks: Vec<Look>,
    /// What is used and lent over time, where that is looked at.
    pub lent: Vec<Lent>,
    /// When tasks ended as their machine had no memory left.
    pub killed: Vec<Millis>,
    /// When tasks had to give lent room back.
    pub reclaimed: Vec<Millis>,
    at: Millis,
    waiting: BTreeMap<TaskId, Waits>,
}

impl Books {
    /// Time went on to this moment.
    pub(super) fn advance(&mut self, at: Millis) {
        let passed = at.since(self.at).0;
        for band in self.bands.values_mut() {
            band.placed_ms += band.placed * passed;
        }
        self.at = at;
    }

    /// What was counted so far is forgotten; who is placed and who waits is known still.
    pub(crate) fn begin_anew(&mut self) {
        self.counts = Counts::default();
        self.looks.clear();
        self.refused.clear();
        self.lent.clear();
        self.killed.clear();
        self.reclaimed.clear();
        for of in self.bands.values_mut() {
            *of = OfBand { placed: of.placed, ..OfBand::default() };
        }
    }

    /// A job with so many tasks arrived.
    pub(super) fn submitted(&mut self, job: JobId, tasks: u32) {
        self.counts.submits += 1;
        for index in 0..tasks {
            let waits = Waits { since: self.at, again: false };
            self.waiting.insert(TaskId { job, index }, waits);
        }
    }

    /// The state refused a job.
    pub(super) fn refused(&mut self, why: &Rejection) {
        *self.refused.entry(reason(why)).or_default() += 1;
    }

    /// Something happened to a task.
    pub(super) fn note(&mut self, task: TaskId, band: Band, change: &TaskChange) {
        let of = self.bands.entry(band).or_default();
        match change {
            TaskChange::Placed { .. } => {
                self.counts.placements += 1;
                of.placed += 1;
                if let Some(waits) = self.waiting.remove(&task) {
                    let list = if waits.again { &mut of.waits_again } else { &mut of.waits };
                    list.add(self.at.since(waits.since).0);
                }
            }
            TaskChange::Up { .. } => self.counts.starts += 1,
            TaskChange::Evicted(cause) => {
                self.counts.evictions += 1;
                if matches!(cause, EvictCause::Reclaimed) {
                    self.reclaimed.push(self.at);
                }
                *of.evictions.entry(name(cause)).or_default() += 1;
                of.placed = of.placed.saturating_sub(1);
                self.waiting.insert(task, Waits { since: self.at, again: true });
            }
            TaskChange::Finished => {
                self.counts.ends += 1;
                of.placed = of.placed.saturating_sub(1);
            }
            TaskChange::Failed { cause, again } => {
                self.counts.failures += 1;
                if matches!(cause, FailureCause::Short { .. }) {
                    of.out_of_memory += 1;
                    self.killed.push(self.at);
                }
                if self.waiting.remove(&task).is_none() {
                    of.placed = of.placed.saturating_sub(1);
                }
                if again.is_some() {
                    self.waiting.insert(task, Waits { since: self.at, again: true });
                }
            }
            TaskChange::Killed { .. }
            | TaskChange::ParentEnded { .. }
            | TaskChange::Withdrawn
            | TaskChange::DependencyFailed { .. } => {
                if self.waiting.remove(&task).is_none() {
                    of.placed = of.placed.saturating_sub(1);
                }
            }
            TaskChange::Replaced { .. }
            | TaskChange::Released
            | TaskChange::Stopped { .. }
            | TaskChange::Updated { .. }
            | TaskChange::Renewed
            | TaskChange::Awaits
            | TaskChange::Prepared { .. }
            | TaskChange::Preparing { .. }
            | TaskChange::Unprepared { .. }
            | TaskChange::BackOff { .. }
            | TaskChange::Health(_)
            | TaskChange::Address(_)
            | TaskChange::Gone { .. } => {}
        }
    }

    /// Looks at how full the cell is.
    pub(super) fn look(&mut self, state: &CellState) {
        let mut look = Look { at: self.at, ..Look::default() };
        for machine in state.machines().filter(|machine| machine.state == MachineState::Up) {
            let Some(info) = &machine.info else { continue };
            look.machines += 1;
            look.cpu_milli += info.capacity.cpu_milli;
            look.ram_bytes += info.capacity.ram_bytes;
            look.cpu_limits += machine.used.cpu_milli;
            look.ram_limits += machine.used.ram_bytes;
        }
        look.placed = self.bands.values().map(|band| band.placed).sum();
        look.pending = u64::try_from(state.pending_len()).unwrap_or(u64::MAX);
        self.looks.push(look);
    }
}

/// Why a job was refused, without what is particular to it.
fn reason(why: &Rejection) -> String {
    match why {
        Rejection::NoQuota(_) => "no quota in its band".to_owned(),
        Rejection::QuotaTooSmall(_) => "more than is left of its user's quota".to_owned(),
        Rejection::JobAlive { .. } => "its user has a job of that name".to_owned(),
        Rejection::CellFull { what, most, .. } => format!("the cell has its {most} {what}"),
        Rejection::Spec(error) => error.to_string(),
        other => format!("{:?}", other.code()),
    }
}

/// A cause without its particulars.
fn name(cause: &EvictCause) -> &'static str {
    match cause {
        EvictCause::Preempted { .. } => "preempted",
        EvictCause::MachineDown => "machine down",
        EvictCause::Drained => "drained",
        EvictCause::Shrunk => "machine shrunk",
        EvictCause::Resized => "alloc resized",
        EvictCause::Reclaimed => "lent room reclaimed",
        EvictCause::Updated { .. } => "updated",
        EvictCause::Stopped { .. } => "stopped",
        EvictCause::Capped { .. } => "capped",
    }
}
