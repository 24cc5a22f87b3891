//! Tasks: what the cell remembers of each slot, and the one function that changes a slot's state.
//!
//! `jobs`, `placement` and `observe` decide which change happens; [`Turn::change_task`] carries it
//! out and keeps machine, pending index, counts and events in step.
//!
//! Invariant: a slot is on at most one machine, and its incarnation number never falls.

use borg_proto::task::{EvictCause, FailureCause, Placement, TaskState};
use borg_proto::{IncarnationId, MachineId, TaskId};

/// One slot of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// Where it is in its life.
    pub state: TaskState,
    /// How often it was placed so far; the number of its present or last incarnation.
    pub incarnations: u32,
    /// How often it failed by its own fault so far, restarts by a machine included.
    pub failures: u32,
    /// Incarnations in a row that did not last [`super::observe::LASTED`]: sets the back-off.
    pub streak: u32,
    /// Why it failed the last time.
    pub last_failure: Option<FailureCause>,
    /// Why it was pushed out the last time.
    pub last_evict: Option<EvictCause>,
    /// Machine and incarnation of the last placement, so that logs of a dead task can be found.
    /// The machine may have been removed since.
    pub last_place: Option<(MachineId, u32)>,
}

impl Task {
    /// A slot that was never placed.
    pub(crate) fn new(state: TaskState) -> Self {
        Self {
            state,
            incarnations: 0,
            failures: 0,
            streak: 0,
            last_failure: None,
            last_evict: None,
            last_place: None,
        }
    }

    /// Where it runs, if it does.
    #[must_use]
    pub fn placement(&self) -> Option<&Placement> {
        match &self.state {
            TaskState::Running(placement) => Some(placement),
            TaskState::Pending { .. } | TaskState::Dead { .. } => None,
        }
    }

    /// Whether it is over for good.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        matches!(self.state, TaskState::Dead { .. })
    }

    /// The incarnation that runs now, if one does.
    #[must_use]
    pub fn running(&self, id: TaskId) -> Option<IncarnationId> {
        self.placement().map(|placement| IncarnationId { task: id, number: placement.incarnation })
    }
}
