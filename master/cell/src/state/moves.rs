//! Tasks that are disturbed for others: they move to another machine, or are pushed out.
//!
//! A task that leaves a machine which is drained is taken off it and placed elsewhere by one entry. All is
//! tried for real, and taken back when the other machine refuses: what is not placed was not disturbed.
//! What budgets allow is with `disruption`; here it is asked for, and what goes is noted.
//!
//! Invariant: but for an exclusive task, which waits until its last incarnation is gone, whoever is taken off
//! a machine here before its deadline is placed in the same entry.

use super::tasks::Task;
use super::turn::Turn;
use super::{CellState, Staying};
use crate::rejection::{DrainRejection, Rejection};
use borg_proto::command::Assignment;
use borg_proto::task::{EvictCause, TaskState};
use borg_proto::{IncarnationId, Millis, TaskId};
use std::sync::Arc;

/// How long a task waits, and could be placed, until it may push out others whatever the disruption budgets of
/// their jobs say. 60 s: our choice; a restart or a move of what is down is over by then, and a more important
/// task waits no longer for a less important job that never gets well.
pub const OVERDUE: Millis = Millis::from_secs(60);

impl Task {
    /// From when on it may push out others whatever budgets say, in cell time; `None` for one that is placed or
    /// dead, or waits for other jobs.
    #[must_use]
    pub fn overdue_at(&self) -> Option<Millis> {
        match self.state {
            TaskState::Pending { since, not_before } => {
                let from = since.max(not_before);
                (not_before.0 < u64::MAX).then(|| Millis(from.0.saturating_add(OVERDUE.0)))
            }
            TaskState::Running(_) | TaskState::Dead { .. } => None,
        }
    }

    /// Whether it may push out others whatever budgets say, at cell time `at`.
    #[must_use]
    pub fn is_overdue(&self, at: Millis) -> bool {
        self.overdue_at().is_some_and(|from| from <= at)
    }
}

impl CellState {
    /// Tasks that were pushed out over a disruption budget because a deadline had come, so far.
    #[must_use]
    pub fn forced(&self) -> u64 {
        self.forced
    }
}

impl Turn<'_> {
    /// Moves a task that leaves its machine.
    pub(super) fn move_one(&mut self, asked: &Assignment) -> Result<IncarnationId, Rejection> {
        let task = asked.task;
        if asked.victims.is_empty() && self.state.is_replaced_first(task, self.at) {
            let version = self.state.task(task).map_or(0, |found| found.version);
            return self.prepare(asked, version);
        }
        if self.state.task(task).is_some_and(|found| found.successor.is_some()) {
            return Err(DrainRejection::HasSuccessor { task }.into());
        }
        match self.state.stays_down_for(task, self.at) {
            Staying::SafeMode => return Err(DrainRejection::SafeMode { task }.into()),
            Staying::Budget(blocked) => return Err(DrainRejection::Budget { task, blocked }.into()),
            Staying::Successor(_) | Staying::Preparing { .. } | Staying::Place => {}
        }
        let from = self.state.task(task).and_then(Task::placement).map(|placed| placed.machine);
        // Each step changes what the next one finds, so they are tried for real. The copy is cheap.
        let (state, events) = (self.state.clone(), self.events.len());
        self.push_out(task, &EvictCause::Drained);
        let placed = match self.state.task(task).and_then(|found| found.lingering(task)) {
            None => self.place_waiting(asked),
            Some((machine, _)) => {
                // It waits for its last incarnation to be gone, and leaves only if it could be placed but
                // for that.
                self.set_lingers(task, false);
                let fits = self.plan(asked).map(|_| ());
                self.set_lingers(task, true);
                fits.and(Err(Rejection::Lingers { task, machine }))
            }
        };
        match &placed {
            Ok(_) | Err(Rejection::Lingers { .. }) => {
                if let Some(from) = from {
                    self.count_leaving(from, |drain| drain.moved = drain.moved.saturating_add(1));
                }
            }
            Err(_) => {
                *self.state = state;
                self.events.truncate(events);
            }
        }
        placed
    }

    fn set_lingers(&mut self, id: TaskId, lingers: bool) {
        let job = self.job_mut(id.job);
        let slot = usize::try_from(id.index).ok().and_then(|index| job.tasks.get_mut(index));
        if let Some(task) = slot {
            Arc::make_mut(task).lingers = lingers;
        }
    }

    /// Pushes a task out for another one or off a machine, with all who go with it, and notes that it is
    /// disturbed.
    pub(super) fn push_out(&mut self, task: TaskId, cause: &EvictCause) {
        let all: Vec<TaskId> = self.state.goes_with(task).collect();
        if self.state.may_disrupt_all(all.iter().copied(), self.at).is_err() {
            self.state.forced = self.state.forced.saturating_add(1);
        }
        all.into_iter().for_each(|id| self.note_disruption(id));
        self.evict(task, cause);
    }
}
