//! What the disruption budgets of jobs leave, decisions included whose fate is not known yet.
//!
//! The state refuses what goes beyond a budget; here it is not even proposed. Leaves to `victims` what to do
//! with it, and to `moves` who leaves a machine that is drained.
//!
//! Invariant: what is left of a job's budget is what the committed state says, less the tasks that serve and
//! that assumed decisions disturb.

use crate::machines::Budget;
use crate::need::ClassKey;
use crate::scheduler::Scheduler;
use borg_cell::state::{OVERDUE, Task};
use borg_proto::{JobId, Millis, TaskId};
use std::collections::BTreeSet;

/// The most that one decision takes from a job that has a budget. 8: our choice; that a large job may lose
/// more of its tasks is nothing that a single machine asks about, and what it may lose changes with each of them.
const MOST_AT_ONCE: u32 = 8;

/// Classes that fit nowhere within budgets, and when each is tried whatever those say.
#[derive(Debug, Clone, Default)]
pub(crate) struct Waits {
    times: BTreeSet<(Millis, ClassKey)>,
}

impl Waits {
    /// A task that found nothing is overdue from `at` on; one that is already is tried again after as long.
    pub(crate) fn add(&mut self, at: Millis, now: Millis, class: ClassKey) {
        let at = if at > now { at } else { now + OVERDUE };
        self.times.insert((at, class));
    }

    /// The earliest of these times.
    pub(crate) fn next(&self) -> Option<Millis> {
        self.times.first().map(|(at, _)| *at)
    }
}

impl Scheduler {
    /// Tasks that became overdue are tried again: budgets hold them off no more.
    pub(crate) fn wake_overdue(&mut self, now: Millis) {
        while let Some((at, _)) = self.waits.times.first()
            && *at <= now
            && let Some((_, class)) = self.waits.times.pop_first()
        {
            self.wake(&class);
        }
    }

    /// Makes what is left of a job's budget what it is now.
    pub(crate) fn settle_budget(&mut self, job: JobId) {
        let found = self.state.job(job).filter(|found| found.is_alive());
        let rated = found.and_then(|found| found.spec.effective_disruption()).and_then(|b| b.rate);
        if rated.is_some() {
            self.moves.rated.insert(job);
        } else {
            self.moves.rated.remove(&job);
        }
        let awaits = found.and_then(|found| found.update()?.awaiting().next()).is_some();
        if awaits {
            self.moves.awaited.insert(job);
        } else {
            self.moves.awaited.remove(&job);
        }
        let budget = found.and_then(|found| {
            let gone = self.disturbed(job).count();
            let gone = u32::try_from(gone).unwrap_or(u32::MAX);
            let most = gone.saturating_add(MOST_AT_ONCE);
            let left =
                found.may_still_lose(most, self.at.max(self.state.clock()))?.saturating_sub(gone);
            Some(Budget { left, job: found.key.clone(), priority: found.priority() })
        });
        self.machines.set_budget(job, budget);
    }

    /// Budgets that time gives back.
    pub(crate) fn settle_rates(&mut self) {
        let rated: Vec<JobId> = self.moves.rated.iter().copied().collect();
        rated.into_iter().for_each(|job| self.settle_budget(job));
    }

    /// The tasks of a job that serve, and that assumed decisions push out or move.
    fn disturbed(&self, job: JobId) -> impl Iterator<Item = TaskId> {
        // Nobody is served by successors.
        let pushed = self.leaving_of(job).filter(|id| !self.state.is_successor(*id));
        let pushed = pushed.map(|id| id.task);
        let serves = |task: &TaskId| {
            let placed = self.state.task(*task).and_then(Task::placement);
            placed.is_some_and(|placement| placement.serves_since.is_some())
        };
        pushed.chain(self.moves.of(job)).filter(serves)
    }

    /// Whether a task may leave with all who go with it, as far as budgets go.
    pub(crate) fn may_leave(&self, task: TaskId, now: Millis) -> bool {
        let all: Vec<TaskId> = self.state.goes_with(task).collect();
        let jobs: BTreeSet<JobId> = all.iter().map(|task| task.job).collect();
        let before = jobs.into_iter().flat_map(|job| self.disturbed(job));
        self.state.may_disrupt_all(before.chain(all.iter().copied()), now).is_ok()
    }
}
